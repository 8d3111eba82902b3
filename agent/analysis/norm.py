"""Whether a passage's excess is natural cargo, and whether something hides in it.

Natural cargo (fertiliser, tiles, zircon) differs from a source in two ways: its spectrum is K, U
and Th, and it fills the vehicle. Both are tested. Then the natural components join the
nuisances, free to be as large as they like, and the whole library is tried again as point
sources: what a load of NORM masks must stand out there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.hypotheses import Candidates
from agent.analysis.identify import NORM, nuisances, weighted
from agent.analysis.unmix import Floats, Prior, Spectrum, fit

_SPEEDS_M_PER_S = (1.2, 1.7, 2.2, 2.8)
_FREE_SD = 0.3  # K, U or Th may double the background
_LENGTHS_S = (2.5, 3.5, 4.5, 6.0, 8.0)
_GAIN_STEP = 2  # every second gain is fine enough for a score


@dataclass(frozen=True, slots=True, kw_only=True)
class NormLimits:
    """When an excess is natural cargo.

    ``min_z``: least significance of K, U and Th together [σ]. ``point_margin``: by how much χ² a
    point must fit better than a load before the excess is called a point. ``masked_z``: least
    score of a hidden source [σ].
    """

    min_z: float = 4.0
    point_margin: float = 3.0
    masked_z: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormDecision:
    """What K, U and Th explain.

    ``excess_cps``, ``sigma_cps``: K, U, Th above the background at the greatest [counts/s].
    ``excess_z``: of the three together. ``extent_s``: full width at half maximum of the course
    that fits best; ``is_extended``: False: a point fits better. ``deviance_per_dof``: of the
    weighted spectrum with K, U, Th and nothing else. ``masked_z``: highest score of any other
    nuclide as a point once K, U, Th are free; ``masked_template``: its name;
    ``masked_profile``: (slice,) its course, for ``identify.weighted``.
    """

    is_norm: bool
    excess_cps: tuple[float, ...]
    sigma_cps: tuple[float, ...]
    excess_z: float
    extent_s: float
    is_extended: bool
    deviance_per_dof: float
    is_masking: bool
    masked_z: float
    masked_template: str
    masked_profile: Floats
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passage:
    """One passage's spectra.

    ``slices``: (slice, bin) counts, detectors summed. ``background``: (bin,) expected counts of
    one slice of the empty lane. ``background_slices``: how many slices that was measured over.
    ``slice_s``: length of a slice [s]. ``speed_m_per_s``: None: not known.
    ``distance_m``: from the track to the detectors [m].
    """

    slices: Floats
    background: Floats
    background_slices: float
    slice_s: float
    speed_m_per_s: float | None = None
    distance_m: float = 2.5


def point_profiles(passage: Passage) -> Floats:
    """Return (profile, slice) courses of a point source: every centre, and several speeds.

    Source: 1 / (1 + (v t / d)²), the inverse square law along a straight track.
    """
    times = (np.arange(len(passage.slices)) + 0.5) * passage.slice_s
    known = passage.speed_m_per_s
    speeds = _SPEEDS_M_PER_S if known is None else (known,)
    apart = times[None, :] - times[:, None]
    return np.vstack([1 / (1 + (apart * v / passage.distance_m) ** 2) for v in speeds])


def load_profiles(passage: Passage) -> Floats:
    """Return (profile, slice) courses of a load: every centre, and several lengths."""
    times = (np.arange(len(passage.slices)) + 0.5) * passage.slice_s
    speed = passage.speed_m_per_s or float(np.median(_SPEEDS_M_PER_S))
    edge_s = 0.6 * passage.distance_m / speed
    apart = times[None, :] - times[:, None]
    courses = [
        np.tanh((apart + length / 2) / edge_s) - np.tanh((apart - length / 2) / edge_s)
        for length in _LENGTHS_S
    ]
    stacked = np.vstack(courses)
    return np.asarray(stacked / stacked.max(axis=1, keepdims=True))


def norm_decision(
    passage: Passage,
    components: Floats,
    known: Candidates,
    limits: NormLimits | None = None,
) -> NormDecision:
    """Return whether K, U and Th explain a passage, and what they may hide.

    ``components``: (K U Th, bin) shapes. ``known``: the library made ready. Called for a
    passage that something has detected. Raises ValueError where shapes do not fit.
    """
    limits = limits or NormLimits()
    bins = known.shapes.shape[2]
    if passage.slices.shape[1] != bins or components.shape != (3, bins):
        message = f"slices {passage.slices.shape}, components {components.shape}"
        raise ValueError(f"{message} do not fit a library of {bins} bins")
    shapes = components / components.sum(axis=1, keepdims=True)
    points, loads = point_profiles(passage), load_profiles(passage)
    profile = _best_course(passage, shapes, known.edges_kev, np.vstack([points, loads]))
    natural = _excess(passage, shapes, known.edges_kev, profile)
    heights, sigma = _course_of(passage, natural.shape, known.edges_kev)
    of_point, of_load = (_misfit(heights, sigma, courses) for courses in (points, loads))
    is_extended = of_load[0] < of_point[0] + limits.point_margin
    extent = loads[of_load[1]] if of_load[0] <= of_point[0] else points[of_point[1]]
    masked_z, template, masked_profile = _masked(passage, shapes, known, points)
    is_there = natural.z >= limits.min_z
    is_masking = masked_z >= limits.masked_z
    reasons = _reasons(is_there=is_there, is_extended=is_extended, is_masking=is_masking)
    return NormDecision(
        is_norm=is_there and is_extended and not is_masking,
        excess_cps=tuple(float(a) for a in natural.amplitudes / passage.slice_s),
        sigma_cps=tuple(float(s) for s in natural.sigma / passage.slice_s),
        excess_z=natural.z,
        extent_s=float((extent >= 0.5 * extent.max()).sum() * passage.slice_s),
        is_extended=is_extended,
        deviance_per_dof=natural.deviance_per_dof,
        is_masking=is_masking,
        masked_z=masked_z,
        masked_template=known.names[template],
        masked_profile=masked_profile,
        reasons=reasons,
    )


def _reasons(*, is_there: bool, is_extended: bool, is_masking: bool) -> tuple[str, ...]:
    said = (
        (not is_there, "no excess of K, U or Th"),
        (is_there and not is_extended, "K, U or Th at one point, not a load"),
        (is_masking, "something stands out once K, U and Th are taken away"),
    )
    return tuple(text for holds, text in said if holds)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Natural:
    """K, U and Th in one weighted spectrum: amplitudes at the greatest [counts a slice]."""

    amplitudes: Floats
    sigma: Floats
    z: float
    shape: Floats
    deviance_per_dof: float


def _smooth(background: Floats, components: Floats, edges_kev: Floats) -> Prior:
    """Return the suppression alone."""
    prior = nuisances(background, components, edges_kev)
    kept = len(prior.mean) - len(components)
    return Prior(columns=prior.columns[:kept], mean=prior.mean[:kept], sd=prior.sd[:kept])


def _free(background: Floats, components: Floats, edges_kev: Floats) -> Prior:
    """Return suppression, and K, U and Th as large as they like."""
    return nuisances(background, components, edges_kev, _FREE_SD)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Scores:
    """Efficient scores of shapes in many weighted spectra: (profile, shape)."""

    z: Floats
    gain: Floats
    information: Floats


def _scores(passage: Passage, profiles: Floats, shapes: Floats, prior: Prior) -> _Scores:
    """Return the scores of shapes in the spectra that profiles weight.

    ``prior``: the nuisances of one slice. With weights p the spectrum, scaled, holds n = (Σp)² /
    Σp² slices of background; nuisances, information and the background's own error scale with it.
    """
    squares = (profiles**2).sum(axis=1)
    sums = profiles.sum(axis=1)
    held = sums**2 / squares
    base = np.maximum(passage.background, 1e-3)
    excess = (sums / squares)[:, None] * (profiles @ passage.slices) - held[:, None] * base
    weight = 1.0 / (base + prior.mean @ prior.columns)
    shifted = excess - held[:, None] * (prior.mean @ prior.columns)
    dispersion = 1.0 + held / passage.background_slices
    weighted_nuisances = prior.columns * weight
    inner = weighted_nuisances @ prior.columns.T
    cross = (shapes * weight) @ prior.columns.T
    own = (shapes**2) @ weight
    right = shifted @ (shapes * weight).T
    right_nuisances = shifted @ weighted_nuisances.T
    ridge = np.diag(prior.sd**-2.0)
    inverse = np.linalg.inv((held / dispersion)[:, None, None] * inner + ridge)
    scale = 1.0 / dispersion
    projected = np.einsum("kp,kpq->kq", right_nuisances * scale[:, None], inverse)
    gain = right * scale[:, None] - (held * scale)[:, None] * (projected @ cross.T)
    taken = np.einsum("tp,kpq,tq->kt", cross, inverse, cross, optimize=True)
    # a source of rate 1 at the greatest adds Σp²·Σp/Σp² = Σp counts over n slices of background
    information = (held * scale)[:, None] * own - ((held * scale) ** 2)[:, None] * taken
    return _Scores(
        z=gain / np.sqrt(np.maximum(information, 1e-12)), gain=gain, information=information
    )


def _best_course(
    passage: Passage, components: Floats, edges_kev: Floats, profiles: Floats
) -> Floats:
    """Return the course along which K, U, Th or their sum stand highest."""
    shapes = np.vstack([components, components.sum(axis=0)])
    prior = _smooth(passage.background, components, edges_kev)
    best = _scores(passage, profiles, shapes, prior).z.max(axis=1)
    course: Floats = profiles[best.argmax()]
    return course


def _excess(passage: Passage, components: Floats, edges_kev: Floats, profile: Floats) -> _Natural:
    """Return K, U and Th in the spectrum that the course weights."""
    counts, expected, held = weighted(passage.slices, passage.background, profile)
    base = np.maximum(expected, 1e-3)
    dispersion = np.full(len(base), 1.0 + held / passage.background_slices)
    spectrum = Spectrum(counts=counts, base=base, dispersion=dispersion)
    prior = _smooth(base, components, edges_kev)
    without = fit(spectrum, prior, np.zeros((1, 0, len(base))))
    fitted = fit(spectrum, prior, components[None])
    amplitudes = fitted.coefficients[0, -len(components) :]
    sigma = np.sqrt(np.diagonal(fitted.covariance[0])[-len(components) :])
    gain = float(fitted.log_likelihood[0] - without.log_likelihood[0])
    positive = np.maximum(amplitudes, 0.0) @ components
    logs = np.where(counts > 0, counts * np.log(np.maximum(counts, 1e-12) / fitted.expected[0]), 0)
    deviance = (2 * (logs - counts + fitted.expected[0]) / dispersion).sum()
    return _Natural(
        amplitudes=amplitudes / profile.sum(),
        sigma=sigma / profile.sum(),
        z=float(np.sqrt(max(2 * gain, 0.0)) * np.sign(amplitudes.sum())),
        shape=positive / max(positive.sum(), 1e-12),
        deviance_per_dof=float(deviance / (len(base) - len(sigma) - len(prior.mean))),
    )


def _course_of(passage: Passage, shape: Floats, edges_kev: Floats) -> tuple[Floats, Floats]:
    """Return the (slice,) amplitudes of a shape and their σ [counts]."""
    prior = _smooth(passage.background, shape[None], edges_kev)
    scores = _scores(passage, np.eye(len(passage.slices)), shape[None], prior)
    information = np.maximum(scores.information[:, 0], 1e-12)
    return scores.gain[:, 0] / information, 1 / np.sqrt(information)


def _misfit(heights: Floats, sigma: Floats, courses: Floats) -> tuple[float, int]:
    """Return the least χ² of a course and a constant, and which course has it."""
    weight = sigma**-2.0
    middle = (heights @ weight) / weight.sum()
    centred = courses - ((courses @ weight) / weight.sum())[:, None]
    together = centred @ (weight * heights)
    squares = np.maximum((centred**2) @ weight, 1e-12)
    explained = np.where(together > 0, together**2 / squares, 0.0)
    total = float(((heights - middle) ** 2) @ weight)
    best = int(explained.argmax())
    return total - float(explained[best]), best


def _masked(
    passage: Passage, components: Floats, known: Candidates, points: Floats
) -> tuple[float, int, Floats]:
    """Return the highest score of another nuclide as a point, its template and its course."""
    natural = _with_category(known, NORM)
    groups = {known.groups[t] for t in natural}
    others = [t for t in range(len(known.nuclides)) if known.groups[t] not in groups]
    middle = known.shapes[known.middle]
    free = np.vstack([components, middle[natural]])
    prior = _free(passage.background, free, known.edges_kev)
    gains = range(known.middle % _GAIN_STEP, len(known.gains), _GAIN_STEP)
    shapes = np.vstack([known.shapes[g][others] for g in gains])
    z = _scores(passage, points, shapes, prior).z
    course, shape = np.unravel_index(int(z.argmax()), z.shape)
    return float(z.max()), others[int(shape) % len(others)], points[course]


def _with_category(known: Candidates, category: str) -> list[int]:
    """Return the templates of a category."""
    of = known.knowledge.category_of
    return [t for t, name in enumerate(known.nuclides) if of(name) == category]
