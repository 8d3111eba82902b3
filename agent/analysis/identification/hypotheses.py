"""Sets of nuclides that may explain a spectrum, grown from the best single ones.

Every set is one small Poisson model (``unmix``): background × smooth suppression, changes of the
natural components, and one template a nuclide, all at one error of the energy scale. Sets are
compared by evidence, so that an additional nuclide must pay for itself.

Source: greedy sparse unmixing against full templates, which arXiv 2508.08306 found better than
learned identification; evidence by Laplace's approximation, Kass and Raftery, J. Am. Stat. Assoc.
90 (1995) 773.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.identification.knowledge import Knowledge
from agent.analysis.identification.unmix import Fits, Prior, Spectrum, fit, screen
from agent.analysis.response.library import Library

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How identification decides.

    ``min_z``: a nuclide below so many σ over everything else is not named. ``max_nuclides``: in
    one set. ``gain_sd``: relative error of the energy scale (1 σ). ``shape_error``: relative
    error of a template in a bin (1 σ); ``wide_shape_error``: the same over wide ranges.
    ``another``: prior odds of one more nuclide. ``temperature``: by how much log evidence is
    divided; 1 trusts the model in full. ``named``: least probability of a category that is named;
    ``named_snm``: the same for SNM; ``open_snm``: probability of SNM from which nothing harmless
    is named: computed templates are too often wrong about what looks like SNM;
    ``snm_share``: of all source counts, below which SNM beside others is not certain, as the
    others' templates may be that wrong. ``named_member``:
    least share of a group that names a nuclide of it. ``signature_z``: how high a line above
    110 keV must stand for SNM to be named [σ]. ``unexplained_z``: a peak left over so high makes
    the passage unknown. ``resolution_662``: full width at half maximum over energy at 661.7 keV.
    ``masked_z``: how high a source must stand over natural cargo to be one [σ].
    """

    min_z: float = 4.0
    max_nuclides: int = 4
    gain_sd: float = 0.015
    gain_steps: int = 11
    shape_error: float = 0.02
    wide_shape_error: float = 0.02
    another: float = 0.02
    temperature: float = 1.0
    named: float = 0.5
    named_member: float = 0.7
    named_snm: float = 0.9
    open_snm: float = 0.5
    snm_share: float = 0.1
    signature_z: float = 2.0
    unexplained_z: float = 5.0
    resolution_662: float = 0.075
    masked_z: float = 4.75


MATCHED = Limits()
"""For templates measured with the same kind of detector."""

COMPUTED = Limits(
    shape_error=0.08,
    wide_shape_error=0.05,
    temperature=1.5,
    named_snm=0.95,
    open_snm=0.1,
    snm_share=0.35,
    unexplained_z=6.0,
    masked_z=5.0,
)
"""For templates computed from physics; fitted to reference spectra, not to the judging passes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidates:
    """A library made ready: every template at every gain.

    ``shapes``: (gain, template, bin). ``names``, ``nuclides``, ``groups``: of each template.
    ``log_prior``: of each template: its nuclide's share of all, divided by its shieldings.
    ``gains``: (gain,) relative. ``log_gain``: (gain,) log prior.
    """

    shapes: Floats
    names: tuple[str, ...]
    nuclides: tuple[str, ...]
    groups: tuple[str, ...]
    log_prior: Floats
    gains: Floats
    log_gain: Floats
    edges_kev: Floats
    knowledge: Knowledge
    limits: Limits

    @property
    def middle(self) -> int:
        """Return the index of the gain that needs no correction."""
        return len(self.gains) // 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """One set of templates at one gain, fitted."""

    templates: tuple[int, ...]
    gain: int
    evidence: float
    fits: Fits


def candidates(library: Library, knowledge: Knowledge, limits: Limits) -> Candidates:
    """Return a library made ready for identification; made once, used for every passage."""
    gains = np.linspace(-2.5, 2.5, limits.gain_steps) * limits.gain_sd
    nuclides = library.nuclides
    weights = np.array([knowledge.prior.get(name, 1.0) for name in nuclides])
    shieldings = np.array([nuclides.count(name) for name in nuclides])
    share = weights / shieldings
    return Candidates(
        shapes=np.array([stretched(library.shapes, library.edges_kev, g) for g in gains]),
        names=library.names,
        nuclides=nuclides,
        groups=tuple(knowledge.group_of(name) for name in nuclides),
        log_prior=np.log(share / share.sum()),
        gains=gains,
        log_gain=-0.5 * (gains / limits.gain_sd) ** 2,
        edges_kev=library.edges_kev,
        knowledge=knowledge,
        limits=limits,
    )


def stretched(shapes: Floats, edges_kev: Floats, gain: float) -> Floats:
    """Return (shape, bin) shapes as a scale that reads ``1 + gain`` times too high shows them.

    The counts below an energy, a monotone cubic through the edges, are read at the edges divided
    by ``1 + gain``. Source of the slopes: Fritsch and Butland, SIAM J. Sci. Stat. Comput. 5
    (1984) 300: the weighted harmonic mean keeps the curve from overshooting.
    """
    if gain == 0.0:
        return shapes
    below = np.concatenate([np.zeros((len(shapes), 1)), np.cumsum(shapes, axis=1)], axis=1)
    widths = np.diff(edges_kev)
    density = shapes / widths
    left, right = density[:, :-1], density[:, 1:]
    before = (2 * widths[1:] + widths[:-1]) / (3 * (widths[1:] + widths[:-1]))
    slopes = np.zeros_like(below)
    bottom = before * right + (1 - before) * left
    slopes[:, 1:-1] = np.where(
        left * right > 0, left * right / np.where(bottom > 0, bottom, 1.0), 0.0
    )
    asked = np.clip(edges_kev / (1 + gain), edges_kev[0], edges_kev[-1])
    k = np.clip(np.searchsorted(edges_kev, asked, side="right") - 1, 0, len(widths) - 1)
    t = (asked - edges_kev[k]) / widths[k]
    curve = (
        below[:, k] * (1 + 2 * t) * (1 - t) ** 2
        + below[:, k + 1] * t**2 * (3 - 2 * t)
        + widths[k] * (slopes[:, k] * t * (1 - t) ** 2 - slopes[:, k + 1] * t**2 * (1 - t))
    )
    return np.maximum(np.diff(curve, axis=1), 0.0)


_NEAR = 14.0  # log evidence by which a set may trail the best and still be worth a full fit
_SINGLES = 60
_BEAM = 6
_PARTNERS = 8
_LOG_RANGE = np.log(np.log(1e4))  # amplitudes are as likely in any decade of four
_LEAST_TRIAL_Z = 2.0


def grow(
    spectrum: Spectrum, prior: Prior, known: Candidates
) -> tuple[Spectrum, Prior, list[Model]]:
    """Return every set that was fitted, best evidence first, the empty set among them.

    Spectrum and prior come back too: they now carry the templates' own error.
    """
    singles = _singles(spectrum, prior, known)
    best = max(singles, key=lambda m: m.evidence, default=None)
    if best is not None:
        spectrum, prior = _with_shape_error(spectrum, prior, best, known.limits)
        singles = _singles(spectrum, prior, known)
    empty = _evaluated(spectrum, prior, known, [((), known.middle)])
    models = [*empty, *singles]
    beam = _distinct(singles, known)
    for _ in range(1, known.limits.max_nuclides):
        so_far = max(m.evidence for m in models)
        larger = _larger(spectrum, prior, known, beam)
        models += larger
        beam = _distinct(larger, known)
        if not beam or beam[0].evidence < so_far - 1.0:
            break
    return spectrum, prior, sorted(models, key=lambda m: -m.evidence)


def _singles(spectrum: Spectrum, prior: Prior, known: Candidates) -> list[Model]:
    """Return the models of one nuclide that stand near the best."""
    gains, templates, bins = known.shapes.shape
    flat = known.shapes.reshape(-1, bins)
    z = screen(spectrum, prior, np.zeros((0, bins)), flat).reshape(gains, templates)
    worth = 0.5 * z**2 + known.log_gain[:, None] + known.log_prior
    worth[z < _LEAST_TRIAL_Z] = -np.inf
    at = worth.argmax(axis=0)
    height = worth.max(axis=0)
    order = [t for t in np.argsort(-height)[:_SINGLES] if np.isfinite(height[t])]
    asked: list[tuple[tuple[int, ...], int]] = [
        ((int(t),), g)
        for t in order
        if height[t] > height[order[0]] - max(_NEAR, 0.15 * height[order[0]])
        for g in range(max(at[t] - 1, 0), min(at[t] + 2, gains))
    ]
    return _evaluated(spectrum, prior, known, asked)


def _larger(spectrum: Spectrum, prior: Prior, known: Candidates, beam: list[Model]) -> list[Model]:
    """Return the models with one nuclide more than those of the beam."""
    asked: dict[tuple[tuple[int, ...], int], None] = {}
    for model in beam:
        shapes = known.shapes[model.gain]
        z = screen(spectrum, prior, shapes[list(model.templates)], shapes)
        worth = 0.5 * z**2 + known.log_prior
        held = {known.groups[t] for t in model.templates}
        worth[[name in held for name in known.groups]] = -np.inf
        worth[z < _LEAST_TRIAL_Z] = -np.inf
        for t in np.argsort(-worth)[:_PARTNERS]:
            if np.isfinite(worth[t]):
                asked[tuple(sorted((*model.templates, int(t)))), model.gain] = None
    return _evaluated(spectrum, prior, known, list(asked))


def _evaluated(
    spectrum: Spectrum,
    prior: Prior,
    known: Candidates,
    asked: list[tuple[tuple[int, ...], int]],
) -> list[Model]:
    """Return the fitted sets; a set with a member that does not stand is left out."""
    if not asked:
        return []
    size = len(asked[0][0])
    sources = np.array([known.shapes[gain][list(templates)] for templates, gain in asked])
    fits = fit(spectrum, prior, sources.reshape(len(asked), size, len(spectrum.counts)))
    amplitudes = fits.coefficients[:, len(prior.mean) :]
    volume = 0.5 * np.linalg.slogdet(fits.covariance)[1] + 0.5 * size * np.log(2 * np.pi)
    stands = _stands(fits, amplitudes, known.limits)
    models = []
    for i, (templates, gain) in enumerate(asked):
        if not stands[i]:
            continue
        prior_log = known.log_prior[list(templates)].sum() + known.log_gain[gain]
        prior_log -= (np.log(amplitudes[i]) + _LOG_RANGE).sum()
        prior_log += max(size - 1, 0) * np.log(known.limits.another)
        evidence = fits.log_likelihood[i] + volume[i] + prior_log
        models.append(
            Model(
                templates=templates,
                gain=gain,
                evidence=float(evidence),
                fits=fits.only(i),
            )
        )
    return models


def _stands(fits: Fits, amplitudes: Floats, limits: Limits) -> NDArray[np.bool_]:
    """Return whether each set's amplitudes are above 0 and, beside others, above their error.

    What is wrong with the shapes of the others could pass for a small member.
    """
    size = amplitudes.shape[1]
    if size < 2:
        return np.asarray(np.all(amplitudes > 0, axis=1))
    variances = np.diagonal(fits.covariance, axis1=1, axis2=2)[:, -size:]
    others = np.clip(amplitudes.sum(axis=1, keepdims=True) - amplitudes, 0.0, None)
    error = np.sqrt(variances + (limits.wide_shape_error * others) ** 2)
    stands: NDArray[np.bool_] = np.all(amplitudes > limits.min_z * error, axis=1)
    return stands


def _distinct(models: list[Model], known: Candidates) -> list[Model]:
    """Return the best model of each set of nuclides, the best sets of the batch only."""
    kept: dict[tuple[str, ...], Model] = {}
    for model in sorted(models, key=lambda m: -m.evidence):
        kept.setdefault(tuple(sorted(known.nuclides[t] for t in model.templates)), model)
    return list(kept.values())[:_BEAM]


def _with_shape_error(
    spectrum: Spectrum, prior: Prior, model: Model, limits: Limits
) -> tuple[Spectrum, Prior]:
    """Return spectrum and prior with what an imperfect template of this size may be wrong by.

    In single bins as variance, of the highest within a bin on either side, since what is wrong
    next to a peak (width, place, escape) is a part of the peak; over wide ranges (other shielding,
    scatter and ageing than any template's) as freedom of the excess to be higher or lower there.
    """
    nuisance = model.fits.coefficients[0, : len(prior.mean)] @ prior.columns
    source = model.fits.expected[0] - spectrum.base - nuisance
    padded = np.pad(source, 1, mode="edge")
    near = np.maximum(np.maximum(padded[:-2], padded[2:]), source)
    added = (limits.shape_error * near) ** 2 / model.fits.expected[0]
    wide = source * hats(len(source))
    freedom = Prior(
        columns=np.vstack([prior.columns, wide]),
        mean=np.concatenate([prior.mean, np.zeros(len(wide))]),
        sd=np.concatenate([prior.sd, np.full(len(wide), limits.wide_shape_error)]),
    )
    widened = Spectrum(
        counts=spectrum.counts, base=spectrum.base, dispersion=spectrum.dispersion + added
    )
    return widened, freedom


def hats(bins: int, count: int = 5) -> Floats:
    """Return (hat, bin) triangles that overlap and sum to 1."""
    at = np.linspace(0.0, count - 1.0, bins)
    hats: Floats = np.clip(1.0 - np.abs(at - np.arange(count)[:, None]), 0.0, None)
    return hats
