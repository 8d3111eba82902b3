"""Whether a passage's excess is natural cargo, and whether something hides in it.

Natural cargo (fertiliser, tiles, zircon) differs from a source in two ways: its spectrum is K, U
and Th, and it fills the vehicle. Both are tested. Then the natural components join the
nuisances, free to be as large as they like, and the whole library is tried again as point
sources: what a load of NORM masks must stand out there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.analysis.identification.courses import (
    Passage,
    highest,
    load_profiles,
    point_profiles,
    scores,
    smooth,
    weighted,
)
from agent.analysis.identification.hypotheses import Candidates, hats, stretched
from agent.analysis.identification.identify import NORM
from agent.analysis.identification.unmix import Fits, Floats, Prior, Spectrum, fit

_FREE_SD = 0.3  # K, U or Th may be as large as this share of the background, and more
_FAMILIES = ("K-40", "Ra-226", "Th-232")


@dataclass(frozen=True, slots=True, kw_only=True)
class NormLimits:
    """When an excess is natural cargo.

    ``min_z``: least significance of K, U and Th together [σ]. ``rival_margin``: by how much χ²
    the best of all other nuclides, alone and at a point, may explain more than K, U and Th: it
    was picked from hundreds, they were not. ``point_margin``: by how much χ² a point must fit
    better than a load before the excess is called a point: a short load looks like one. Source:
    natural loads, lone and hidden sources drawn as ``benchmarks/identification.py`` draws them,
    development seeds.
    """

    min_z: float = 2.0
    rival_margin: float = 20.0
    point_margin: float = 4.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NormDecision:
    """What K, U and Th explain.

    ``excess_cps``, ``sigma_cps``: K, U, Th above the background at the greatest [counts/s].
    ``excess_z``: of the three together; ``rival_z``: highest score of any other nuclide alone,
    with what its being likely is worth; so is ``masked_z``.
    ``extent_s``: full width at half maximum of the course
    that fits best; ``is_extended``: False: a point fits better, by ``point_advantage`` in χ².
    ``deviance_per_dof``: of the
    weighted spectrum with K, U, Th and nothing else. ``masked_z``: highest score of any other
    nuclide as a point once K, U, Th are free; ``masked_template``: its name;
    ``masked_profile``: (slice,) its course, for ``identify.weighted``.
    """

    is_norm: bool
    excess_cps: tuple[float, ...]
    sigma_cps: tuple[float, ...]
    excess_z: float
    rival_z: float
    extent_s: float
    is_extended: bool
    point_advantage: float
    deviance_per_dof: float
    is_masking: bool
    masked_z: float
    masked_template: str
    masked_profile: Floats
    reasons: tuple[str, ...]


def norm_decision(
    passage: Passage,
    components: Floats,
    known: Candidates,
    limits: NormLimits | None = None,
) -> NormDecision:
    """Return whether K, U and Th explain a passage, and what they may hide.

    ``components``: (K U Th, bin) shapes. ``known``: the library made ready; it should have K-40,
    Ra-226 and Th-232 behind the shieldings it has. Called for a
    passage that something has detected. Raises ValueError where shapes do not fit.
    """
    limits = limits or NormLimits()
    bins = known.shapes.shape[2]
    if passage.slices.shape[1] != bins or components.shape != (3, bins):
        message = f"slices {passage.slices.shape}, components {components.shape}"
        raise ValueError(f"{message} do not fit a library of {bins} bins")
    variants = _variants(components, known)
    points, loads = point_profiles(passage), load_profiles(passage)
    courses = np.vstack([points, loads])
    prior = smooth(passage.background, known.edges_kev)
    found = scores(passage, courses, variants.sum(axis=1), prior)
    profile = courses[found.z.max(axis=1).argmax()]
    natural = _excess(passage, variants, known.edges_kev, profile)
    heights, sigma = _course_of(passage, natural.shape, prior)
    of_point, of_load = (_misfit(heights, sigma, family) for family in (points, loads))
    is_extended = of_load[0] <= of_point[0] + limits.point_margin
    extent = loads[of_load[1]] if is_extended else points[of_point[1]]
    natural = _excess(passage, variants, known.edges_kev, extent)
    carried = natural.amplitudes.sum() * natural.shape / natural.shape.sum()
    masked_z, template, masked_profile = _masked(passage, variants, known, points, carried)
    others = _others(known)
    rival_z, _, _ = highest(passage, points, known, others, prior, bonus=_likely(known, others))
    is_there = natural.z >= limits.min_z and natural.z**2 >= rival_z**2 - limits.rival_margin
    is_masking = masked_z >= known.limits.masked_z
    return NormDecision(
        is_norm=is_there and is_extended and not is_masking,
        excess_cps=tuple(float(a) for a in natural.amplitudes / passage.slice_s),
        sigma_cps=tuple(float(s) for s in natural.sigma / passage.slice_s),
        excess_z=natural.z,
        rival_z=rival_z,
        extent_s=float((extent >= 0.5 * extent.max()).sum() * passage.slice_s),
        is_extended=is_extended,
        point_advantage=of_load[0] - of_point[0],
        deviance_per_dof=natural.deviance_per_dof,
        is_masking=is_masking,
        masked_z=masked_z,
        masked_template=known.names[template],
        masked_profile=masked_profile,
        reasons=_reasons(is_there=is_there, is_extended=is_extended, is_masking=is_masking),
    )


def _reasons(*, is_there: bool, is_extended: bool, is_masking: bool) -> tuple[str, ...]:
    said = (
        (not is_there, "K, U and Th do not explain the excess"),
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


def _variants(components: Floats, known: Candidates) -> Floats:
    """Return K, U and Th together behind each thing that the library knows: (variant, 3, bin).

    The first is the ground's own; the others are the library's K-40, Ra-226 and Th-232 behind the
    same shielding, as cargo is.
    """
    middle = known.shapes[known.middle]
    rows = {name: t for t, name in enumerate(known.names)}
    behind = [name.removeprefix("K-40") for name in known.names if name.startswith("K-40")]
    found = [
        middle[[rows[family + suffix] for family in _FAMILIES]]
        for suffix in behind
        if all(family + suffix in rows for family in _FAMILIES)
    ]
    every = np.array([components, *found])
    return np.asarray(every / every.sum(axis=2, keepdims=True))


def _excess(passage: Passage, variants: Floats, edges_kev: Floats, profile: Floats) -> _Natural:
    """Return K, U and Th in the spectrum that the course weights, in the variant that fits best."""
    counts, expected, held = weighted(passage.slices, passage.background, profile)
    base = np.maximum(expected, 1e-3)
    dispersion = np.full(len(base), 1.0 + held / passage.background_slices)
    spectrum = Spectrum(counts=counts, base=base, dispersion=dispersion)
    prior = smooth(base, edges_kev)
    without = fit(spectrum, prior, np.zeros((1, 0, len(base))))
    best, best_amplitudes, best_sigma = without, np.zeros(3), np.full(3, np.inf)
    for natural in variants:
        fitted, amplitudes, sigma = _not_negative(spectrum, prior, natural)
        if best is without or fitted.log_likelihood[0] > best.log_likelihood[0]:
            best, best_amplitudes, best_sigma = fitted, amplitudes, sigma
            shape = amplitudes @ natural
    gain = float(best.log_likelihood[0] - without.log_likelihood[0])
    logs = np.where(counts > 0, counts * np.log(np.maximum(counts, 1e-12) / best.expected[0]), 0)
    deviance = (2 * (logs - counts + best.expected[0]) / dispersion).sum()
    return _Natural(
        amplitudes=best_amplitudes / profile.sum(),
        sigma=best_sigma / profile.sum(),
        z=float(np.sqrt(max(2 * gain, 0.0))),
        shape=shape if shape.any() else variants[0].sum(axis=0),
        deviance_per_dof=float(deviance / (len(base) - 3 - len(prior.mean))),
    )


def _not_negative(spectrum: Spectrum, prior: Prior, natural: Floats) -> tuple[Fits, Floats, Floats]:
    """Return the fit of K, U and Th without those that would be negative, amplitudes and σ.

    The σ of one that was left out is that of the fit with all three.
    """
    kept = np.ones(len(natural), dtype=bool)
    sigma = np.full(len(natural), np.inf)
    amplitudes = np.zeros(len(natural))
    while True:
        fitted = fit(spectrum, prior, natural[kept][None])
        first = len(prior.mean)
        sigma[kept] = np.sqrt(np.diagonal(fitted.covariance[0])[first:])
        amplitudes[:] = 0.0
        amplitudes[kept] = fitted.coefficients[0, first:]
        if np.all(amplitudes >= 0):
            return fitted, amplitudes, sigma
        kept &= amplitudes > 0


def _course_of(passage: Passage, shape: Floats, prior: Prior) -> tuple[Floats, Floats]:
    """Return the (slice,) amplitudes of a shape and their σ [counts]."""
    found = scores(passage, np.eye(len(passage.slices)), shape[None], prior)
    information = np.maximum(found.information[:, 0], 1e-12)
    return found.gain[:, 0] / information, 1 / np.sqrt(information)


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
    passage: Passage, variants: Floats, known: Candidates, points: Floats, carried: Floats
) -> tuple[float, int, Floats]:
    """Return the highest score of another nuclide as a point, its template and its course.

    Every variant of K, U and Th is free, at the scale's error too: what could be natural is not
    raised.
    """
    prior = _with_natural(passage.background, variants, known, carried)
    others = _others(known)
    likely = _likely(known, others)
    z, course, template = highest(
        passage, points, known, others, prior, carried=carried, bonus=likely
    )
    return z, template, points[course]


def _others(known: Candidates) -> list[int]:
    """Return the templates that nothing natural could be taken for."""
    of = known.knowledge.category_of
    natural = {known.groups[t] for t, name in enumerate(known.nuclides) if of(name) == NORM}
    return [t for t, group in enumerate(known.groups) if group not in natural]


def _likely(known: Candidates, templates: list[int]) -> Floats:
    """Return what each template's nuclide has over one of the standards' list [χ²].

    One that is seldom met takes stronger evidence, since there are more of them to fit chance.
    """
    prior = known.knowledge.prior
    return np.array([2 * np.log(prior.get(known.nuclides[t], 1.0)) for t in templates])


def _with_natural(
    background: Floats, variants: Floats, known: Candidates, carried: Floats
) -> Prior:
    """Return suppression, natural shapes as large as they like, and what a load's may be wrong by.

    ``carried``: the load's counts. Wrong: the energy scale to second order, and the shape over
    wide ranges.
    """
    suppression = smooth(background, known.edges_kev)
    free = background.sum() * variants.reshape(-1, len(background))
    step = known.limits.gain_sd
    up, down = (stretched(carried[None], known.edges_kev, way * step)[0] for way in (1, -1))
    moved = np.array([0.5 * (up - down), 0.5 * (up + down) - carried])
    wide = carried * hats(len(carried))
    sds = (
        suppression.sd,
        np.full(len(free), _FREE_SD),
        np.ones(len(moved)),
        np.full(len(wide), known.limits.wide_shape_error),
    )
    columns = np.vstack([suppression.columns, free, moved, wide])
    mean = np.zeros(len(columns))
    mean[: len(suppression.mean)] = suppression.mean
    return Prior(columns=columns, mean=mean, sd=np.concatenate(sds))
