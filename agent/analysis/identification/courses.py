"""A passage's spectra in time: courses of sources and loads, and what stands out along them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.identification.hypotheses import Candidates
from agent.analysis.identification.unmix import Prior

Floats = NDArray[np.float64]

_SPEEDS_M_PER_S = (1.2, 1.7, 2.2, 2.8)
_LENGTHS_S = (2.5, 3.5, 4.5, 6.0, 8.0)
_GAIN_STEP = 3  # every third gain is fine enough for a score
_SUPPRESSION = (-0.15, 0.10)  # share of the background at 120 keV: mean, sd
_SUPPRESSION_FALL = 0.35  # exponent of its fall above 120 keV
_DEPARTURE_SD = (0.03, 0.02, 0.012)  # constant, slope, curve over the grid
COMPONENT_SD = 0.01  # of all counts of the background, each of K, U, Th


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


def weighted(slices: Floats, background: Floats, profile: Floats) -> tuple[Floats, Floats, float]:
    """Return a passage's spectrum, weighted by a source's course, and its expected background.

    ``slices``: (slice, bin) counts. ``background``: (bin,) expected counts of one slice, or
    (slice, bin). ``profile``: (slice,) the source's share of its greatest rate. The third value
    is how many slices of background the spectrum holds. Scaled so that a bin of background alone
    has a variance equal to its mean: with weights p the sum has Σp times the mean of a slice and
    Σp² times its variance.
    """
    scale = profile.sum() / (profile**2).sum()
    counts: Floats = scale * profile @ slices
    flat = np.broadcast_to(background, slices.shape)
    expected: Floats = scale * profile @ flat
    return counts, expected, float(scale * profile.sum())


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
    """Return (profile, slice) courses of a load: every centre, and several lengths.

    A line of point sources along the track: the difference of two arcus tangents.
    """
    times = (np.arange(len(passage.slices)) + 0.5) * passage.slice_s
    speed = passage.speed_m_per_s or float(np.median(_SPEEDS_M_PER_S))
    rate = speed / passage.distance_m
    apart = times[None, :] - times[:, None]
    courses = [
        np.arctan((apart + length / 2) * rate) - np.arctan((apart - length / 2) * rate)
        for length in _LENGTHS_S
    ]
    stacked = np.vstack(courses)
    return np.asarray(stacked / stacked.max(axis=1, keepdims=True))


def nuisances(
    background: Floats, components: Floats, edges_kev: Floats, component_sd: float = COMPONENT_SD
) -> Prior:
    """Return what a vehicle does to the background: suppresses it, smoothly; carries K, U, Th.

    ``background``: (bin,) expected counts. ``components``: (component, bin) shapes of the
    natural components, any scale; ``component_sd``: of each, as a share of all counts. Source of
    the suppression's mean and fall: 25 passes of a four-window portal, 27, 21, 14 and 9 % from
    low to high energy; of the other widths: a judgement, wide enough for half or twice of that.
    """
    middles = 0.5 * (edges_kev[1:] + edges_kev[:-1])
    x = np.linspace(-1.0, 1.0, len(background))
    fall = (np.maximum(middles, 120.0) / 120.0) ** -_SUPPRESSION_FALL
    smooth = np.array([fall, np.ones_like(x), x, x**2 - 1 / 3]) * background
    carried = background.sum() * (components / components.sum(axis=1, keepdims=True))
    mean, sd = _SUPPRESSION
    sds = np.array([sd, *_DEPARTURE_SD, *([component_sd] * len(components))])
    means = np.zeros(len(sds))
    means[0] = mean
    return Prior(columns=np.vstack([smooth, carried]), mean=means, sd=sds)


def smooth(background: Floats, edges_kev: Floats) -> Prior:
    """Return the suppression alone."""
    return nuisances(background, np.zeros((0, len(background))), edges_kev)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Scores:
    """Efficient scores of shapes in many weighted spectra: (profile, shape)."""

    z: Floats
    gain: Floats
    information: Floats


def scores(
    passage: Passage,
    profiles: Floats,
    shapes: Floats,
    prior: Prior,
    carried: Floats | float = 0.0,
) -> Scores:
    """Return the scores of shapes in the spectra that profiles weight.

    ``prior``: the nuisances of one slice. ``carried``: (bin,) counts that free nuisances are
    known to give, so that the variance counts them.

    With weights p a spectrum, scaled as ``weighted`` scales it, holds n = (Σp)² / Σp² slices of
    background. Information and nuisances grow with n, the nuisances' prior does not; in the basis
    where both are diagonal every profile is a product of matrices. Source: Neyman's C(α) score.
    """
    sums, squares = profiles.sum(axis=1), (profiles**2).sum(axis=1)
    held = sums**2 / squares
    base = np.maximum(passage.background, 1e-3)
    mean = base + prior.mean @ prior.columns
    excess = (sums / squares)[:, None] * (profiles @ passage.slices) - held[:, None] * mean
    expected = mean + carried
    scale = 1.0 / (1.0 + held / passage.background_slices)
    scaled = prior.columns * prior.sd[:, None]
    width, turn = np.linalg.eigh((scaled / expected) @ scaled.T)
    basis = turn.T @ scaled
    shared = (shapes / expected) @ basis.T
    left = (scale * held)[:, None] / (1.0 + (scale * held)[:, None] * np.maximum(width, 0.0))
    own = (shapes**2) @ (1.0 / expected)
    weighted_excess = scale[:, None] * excess / expected
    gain = weighted_excess @ shapes.T - (left * (weighted_excess @ basis.T)) @ shared.T
    information = (scale * held)[:, None] * (own - left @ (shared**2).T)
    z = gain / np.sqrt(np.maximum(information, 1e-12))
    return Scores(z=z, gain=gain, information=information)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Located:
    """Where a source of the library stands highest: its course, its score [σ], its template."""

    profile: Floats
    z: float
    template: int


def locate(passage: Passage, components: Floats, known: Candidates) -> Located:
    """Return the course along which any template stands highest.

    ``components``: (component, bin) shapes of K, U, Th. For a passage whose detection did not
    say where the source was.
    """
    points = point_profiles(passage)
    prior = nuisances(passage.background, components, known.edges_kev)
    z, course, template = highest(passage, points, known, range(len(known.names)), prior)
    return Located(profile=points[course], z=z, template=template)


def highest(  # noqa: PLR0913 - a test's parts, and two that are seldom given
    passage: Passage,
    profiles: Floats,
    known: Candidates,
    templates: Sequence[int],
    prior: Prior,
    *,
    carried: Floats | float = 0.0,
    bonus: Floats | None = None,
) -> tuple[float, int, int]:
    """Return the highest score of the templates at any gain, its profile and its template.

    ``bonus``: (template,) added to each one's χ² for how likely it is beforehand; the score comes
    back with it.
    """
    gains = range(known.middle % _GAIN_STEP, len(known.gains), _GAIN_STEP)
    shapes = np.vstack([known.shapes[g][list(templates)] for g in gains])
    z = scores(passage, profiles, shapes, prior, carried).z
    if bonus is not None:
        z = np.sqrt(np.maximum(np.maximum(z, 0.0) ** 2 + np.tile(bonus, len(gains)), 0.0))
    course, shape = np.unravel_index(int(z.argmax()), z.shape)
    return float(z.max()), int(course), templates[int(shape) % len(templates)]
