"""Which nuclides a passage's spectrum shows, how sure that is, and when it cannot be said.

The sets of nuclides that explain the spectrum (``hypotheses``) are weighed against each other;
what the evidence leaves open is said as a group, as contenders, or as *unknown*. Called only for
a passage that something has already detected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from agent.analysis.identification.courses import COMPONENT_SD, Passage, locate, nuisances, weighted
from agent.analysis.identification.hypotheses import Candidates, Model, grow
from agent.analysis.identification.knowledge import UNKNOWN
from agent.analysis.identification.unmix import Prior, Spectrum, fit, score

Floats = NDArray[np.float64]

SNM = "SNM"
INDUSTRIAL = "industrial"
MEDICAL = "medical"
NORM = "NORM"
WORST_FIRST = (SNM, UNKNOWN, INDUSTRIAL, MEDICAL, NORM)

_SIGNATURE_KEV = 110.0  # above the K x-rays of lead, uranium and plutonium but a few
_CONTENDER = 3.0  # log evidence
_SNM_NOTED = 0.1  # probability of SNM that is told beside another category
_LEAST_COUNTS = 0.5  # a bin; a peak covers some


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One nuclide (or group) in the spectrum.

    ``name``: the nuclide, or its group where the nuclide cannot be told. ``nuclide``: the most
    probable member. ``confidence``: probability that it is present. ``share``: of all counts
    that the sources give. ``z``: σ over the rest.
    """

    name: str
    nuclide: str
    category: str
    confidence: float
    share: float
    z: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Identification:
    """What a spectrum shows.

    ``category``: the worst found, or unknown. ``confidence``: probability that the category is
    the worst present; of an unknown, None. ``nuclides``: worst category first, then by
    confidence; of an unknown, what was found all the same. ``contenders``: the sets of nuclides
    whose log evidence is within 3 of the best, best first. ``categories``: probability of each
    being present. ``deviance_per_dof``: of the best set. ``unexplained_z``: the highest peak it
    leaves [σ].
    """

    category: str
    confidence: float | None
    nuclides: tuple[Found, ...]
    contenders: tuple[tuple[str, ...], ...]
    categories: Mapping[str, float]
    deviance_per_dof: float
    unexplained_z: float
    reasons: tuple[str, ...]

    @property
    def is_unknown(self) -> bool:
        """Tell whether no category was named."""
        return self.category == UNKNOWN


def identify(
    counts: Floats,
    background: Floats,
    components: Floats,
    known: Candidates,
    *,
    background_share: float = 0.0,
    component_sd: float = COMPONENT_SD,
) -> Identification:
    """Return what a passage's spectrum shows.

    Parameters
    ----------
    counts : (bin,) the weighted spectrum [counts]
    background : (bin,) expected without vehicle and source [counts]
    components : (component, bin) shapes of K, U, Th
    known : the library made ready by ``hypotheses.candidates``
    background_share : counts expected here over counts the background was measured with; 0: the
        background is known exactly
    component_sd : how much K, U or Th may change on their own, as a share of all background
        counts; wider where NORM is already known to be aboard

    Raises ValueError where the shapes do not fit each other.
    """
    bins = known.shapes.shape[2]
    if counts.shape != (bins,) or background.shape != (bins,) or components.shape[1] != bins:
        message = f"counts {counts.shape}, background {background.shape} and components"
        raise ValueError(f"{message} {components.shape} do not fit a library of {bins} bins")
    base = np.maximum(background, 0.5 * max(background_share, 1e-3))
    spectrum = Spectrum(counts=counts, base=base, dispersion=np.full(bins, 1.0 + background_share))
    prior = nuisances(base, components, known.edges_kev, component_sd)
    spectrum, prior, models = grow(spectrum, prior, known)
    return _Judgement(spectrum, prior, known, models).verdict()


def identify_passage(
    passage: Passage,
    components: Floats,
    known: Candidates,
    *,
    profile: Floats | None = None,
    component_sd: float = COMPONENT_SD,
) -> Identification:
    """Return what a passage shows along a source's course.

    ``profile``: (slice,) the course that detection found; None: where the library stands highest.
    The rest as for ``identify``.
    """
    course = locate(passage, components, known).profile if profile is None else profile
    counts, background, held = weighted(passage.slices, passage.background, course)
    return identify(
        counts,
        background,
        components,
        known,
        background_share=held / passage.background_slices,
        component_sd=component_sd,
    )


class _Judgement:
    """Weighs the sets against each other."""

    def __init__(
        self, spectrum: Spectrum, prior: Prior, known: Candidates, models: Sequence[Model]
    ) -> None:
        self._spectrum = spectrum
        self._prior = prior
        self._known = known
        self._models = models
        self._limits = known.limits
        evidence = np.array([model.evidence for model in models])
        weights = np.exp((evidence - evidence.max()) / known.limits.temperature)
        self._weights = weights / weights.sum()

    def verdict(self) -> Identification:
        """Return the identification."""
        present = self._present()
        best = self._best_of(present)
        found = self._found(best)
        left_z, left_kev = self._left_over(best)
        categories = self._categories()
        signatures = {item.name: self._signature(best, item) for item in found}
        category, doubts = self._category(found, categories, signatures, (left_z, left_kev))
        return Identification(
            category=category,
            confidence=None if category == UNKNOWN else self._worst(category),
            nuclides=found,
            contenders=self._contenders(),
            categories=categories,
            deviance_per_dof=self._deviance(best),
            unexplained_z=left_z,
            reasons=(*self._lines(best, found), *doubts),
        )

    def _nuclides(self, model: Model) -> tuple[str, ...]:
        return tuple(self._known.nuclides[t] for t in model.templates)

    def _groups(self, model: Model) -> frozenset[str]:
        return frozenset(self._known.groups[t] for t in model.templates)

    def _present(self) -> frozenset[str]:
        """Return the most probable set of groups that is not empty; empty where none was fitted."""
        summed: dict[frozenset[str], float] = {}
        for model, weight in zip(self._models, self._weights, strict=True):
            key = self._groups(model)
            summed[key] = summed.get(key, 0.0) + float(weight)
        summed.pop(frozenset(), None)
        return max(summed, key=lambda key: summed[key], default=frozenset())

    def _best_of(self, groups: frozenset[str]) -> Model:
        return next(model for model in self._models if self._groups(model) == groups)

    def _found(self, best: Model) -> tuple[Found, ...]:
        """Return the members of the best set that stand high enough."""
        nuisances_ = len(self._prior.mean)
        amplitudes = best.fits.coefficients[0, nuisances_:]
        sigma = np.sqrt(np.diagonal(best.fits.covariance[0])[nuisances_:])
        found = []
        for i, template in enumerate(best.templates):
            z = float(amplitudes[i] / sigma[i])
            if z < self._limits.min_z:
                continue
            group = self._known.groups[template]
            nuclide, name, confidence = self._member(group)
            found.append(
                Found(
                    name=name,
                    nuclide=nuclide,
                    category=self._known.knowledge.category_of(nuclide),
                    confidence=confidence,
                    share=float(amplitudes[i] / amplitudes.sum()),
                    z=z,
                )
            )
        return tuple(sorted(found, key=lambda f: (WORST_FIRST.index(f.category), -f.confidence)))

    def _member(self, group: str) -> tuple[str, str, float]:
        """Return a group's most probable nuclide, the name to give, and the probability of it."""
        of_nuclide: dict[str, float] = {}
        for model, weight in zip(self._models, self._weights, strict=True):
            for template in model.templates:
                if self._known.groups[template] == group:
                    nuclide = self._known.nuclides[template]
                    of_nuclide[nuclide] = of_nuclide.get(nuclide, 0.0) + float(weight)
        nuclide = max(of_nuclide, key=lambda name: of_nuclide[name])
        whole = sum(of_nuclide.values())
        if of_nuclide[nuclide] < self._limits.named_member * whole:
            return nuclide, group, min(whole, 1.0)
        return nuclide, nuclide, min(of_nuclide[nuclide], 1.0)

    def _categories(self) -> dict[str, float]:
        """Return the probability of each category's presence."""
        present = dict.fromkeys(WORST_FIRST, 0.0)
        for model, weight in zip(self._models, self._weights, strict=True):
            for category in {
                self._known.knowledge.category_of(name) for name in self._nuclides(model)
            }:
                present[category] += float(weight)
        return {name: min(p, 1.0) for name, p in present.items() if p > 0}

    def _worst(self, category: str) -> float:
        """Return the probability that the worst category present is this one."""
        total = 0.0
        for model, weight in zip(self._models, self._weights, strict=True):
            names = [self._known.knowledge.category_of(n) for n in self._nuclides(model)]
            if names and min(names, key=WORST_FIRST.index) == category:
                total += float(weight)
        return min(total, 1.0)

    def _category(
        self,
        found: tuple[Found, ...],
        categories: Mapping[str, float],
        signatures: Mapping[str, float],
        left: tuple[float, float],
    ) -> tuple[str, tuple[str, ...]]:
        """Return the category and why it is not another."""
        if not found:
            return UNKNOWN, ("no nuclide of the library stands out",)
        limits, worst = self._limits, found[0].category
        doubts: list[str] = []
        notes: list[str] = []
        if left[0] >= limits.unexplained_z:
            doubts.append(f"a peak at {left[1]:.0f} keV is not explained ({left[0]:.1f} σ)")
        snm = categories.get(SNM, 0.0)
        if worst == SNM:
            doubts += self._snm_doubts(found, snm, signatures)
            if not doubts:
                return SNM, ()
        elif snm >= _SNM_NOTED:
            is_open = snm >= limits.open_snm
            (doubts if is_open else notes).append(f"SNM is not excluded (probability {snm:.2f})")
        if not doubts and self._worst(worst) < limits.named:
            doubts.append(f"several categories explain it ({worst}: {self._worst(worst):.2f})")
        return (UNKNOWN if doubts else worst), (*doubts, *notes)

    def _snm_doubts(
        self, found: tuple[Found, ...], snm: float, signatures: Mapping[str, float]
    ) -> list[str]:
        """Return why SNM, the worst found, is not certain."""
        limits = self._limits
        doubts = []
        for item in found:
            if item.category == SNM and signatures[item.name] < limits.signature_z:
                doubts.append(f"{item.nuclide} shows nothing of its own above 110 keV")
            if item.category == SNM and item.share < limits.snm_share:
                part = f"{100 * item.share:.0f} %"
                doubts.append(f"{item.nuclide} is {part} beside others, whose shape may be wrong")
        if snm < limits.named_snm:
            doubts.append(f"SNM is likely, not certain (probability {snm:.2f})")
        return doubts

    def _contenders(self) -> tuple[tuple[str, ...], ...]:
        near = [m for m in self._models if m.evidence > self._models[0].evidence - _CONTENDER]
        return tuple(dict.fromkeys(tuple(sorted(self._nuclides(m))) for m in near))

    def _deviance(self, best: Model) -> float:
        counts, expected = self._spectrum.counts, best.fits.expected[0]
        logs = np.where(counts > 0, counts * np.log(np.maximum(counts, 1e-12) / expected), 0.0)
        terms = 2 * (logs - counts + expected) / self._spectrum.dispersion
        free = len(counts) - len(best.templates) - len(self._prior.mean)
        return float(terms.sum() / max(free, 1))

    def _left_over(self, best: Model) -> tuple[float, float]:
        """Return the highest peak that the best set leaves [σ] and its energy [keV].

        Where next to nothing is expected the variance is that of a count a peak: two counts there
        are chance.
        """
        middles = 0.5 * (self._known.edges_kev[1:] + self._known.edges_kev[:-1])
        peaks = peak_shapes(self._known.edges_kev, middles, self._limits.resolution_662)
        held = self._known.shapes[best.gain][list(best.templates)]
        least = _LEAST_COUNTS / best.fits.expected[0]
        spectrum = replace(self._spectrum, dispersion=self._spectrum.dispersion + least)
        z = score(spectrum, self._prior, held, best.fits, peaks)
        return float(z.max()), float(middles[z.argmax()])

    def _rest(self, best: Model, item: Found) -> Floats:
        """Return the shapes of the best set without an item's group."""
        group = self._known.knowledge.group_of(item.nuclide)
        others = [t for t in best.templates if self._known.groups[t] != group]
        shapes: Floats = self._known.shapes[best.gain][others]
        return shapes

    def _signature(self, best: Model, item: Found) -> float:
        """Return how high an item stands above the x-rays of heavy metals [σ].

        A low-energy excess alone can be anything behind the right shielding; it is never SNM.
        """
        rest = self._rest(best, item)
        group = self._known.knowledge.group_of(item.nuclide)
        own = [t for t in best.templates if self._known.groups[t] == group]
        high = np.where(self._known.edges_kev[:-1] >= _SIGNATURE_KEV, 1.0, 0.0)
        fitted = fit(self._spectrum, self._prior, rest[None])
        shape = high * self._known.shapes[best.gain][own]
        return float(score(self._spectrum, self._prior, rest, fitted, shape)[0])

    def _lines(self, best: Model, found: Iterable[Found]) -> tuple[str, ...]:
        """Return in words how high each nuclide's most visible line stands over all else.

        The nuclide is taken out of the set, the rest fitted again, and a peak tried at each of
        its lines: once on the counts, once on what the full set expects.
        """
        texts = []
        for item in found:
            lines = self._known.knowledge.lines.get(item.nuclide, ())
            if not lines:
                continue
            held = self._rest(best, item)
            energies = np.array(lines) * (1 + self._known.gains[best.gain])
            peaks = peak_shapes(self._known.edges_kev, energies, self._limits.resolution_662)
            seen, expected = (
                self._heights(counts, held, peaks)
                for counts in (self._spectrum.counts, best.fits.expected[0])
            )
            k = int(expected.argmax())
            text = f"{lines[k]:.0f} keV stands at {seen[k]:.1f} σ, expected {expected[k]:.1f}"
            texts.append(f"{item.nuclide}: {text}")
        return tuple(texts)

    def _heights(self, counts: Floats, held: Floats, peaks: Floats) -> Floats:
        spectrum = Spectrum(
            counts=counts, base=self._spectrum.base, dispersion=self._spectrum.dispersion
        )
        rest = fit(spectrum, self._prior, held[None])
        return score(spectrum, self._prior, held, rest, peaks)


def peak_shapes(edges_kev: Floats, energies_kev: Floats, resolution_662: float) -> Floats:
    """Return (energy, bin) Gaussian peaks of a scintillator, each summing to at most 1.

    ``resolution_662``: full width at half maximum over energy at 661.7 keV; the width grows with
    the square root of the energy.
    """
    sd = resolution_662 * np.sqrt(661.7 * np.asarray(energies_kev)) / 2.3548
    cut = ndtr((edges_kev - np.asarray(energies_kev)[:, None]) / sd[:, None])
    shapes: Floats = np.diff(cut, axis=1)
    return shapes
