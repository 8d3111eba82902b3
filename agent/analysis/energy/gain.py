"""Gain and offset of a scintillator from its background: the whole spectrum, not one peak.

The background's shapes (K, U, Th, cosmic) stand at energies that do not drift, so the scale at
which they fit best is the true one. What no four shapes can know (walls, weather, what the
response model gets wrong) varies slowly with energy and is left free as a smooth part; only what
is as narrow as peaks and edges decides.

Source: the full-spectrum fit of A. Salathe et al., arXiv:2603.03461 (2026), in its simplest form;
variable projection after G.H. Golub and V. Pereyra, SIAM J. Numer. Anal. 10:413 (1973).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.peaks import fitted, significance
from agent.analysis.energy.scale import sqrt_grid

Floats = NDArray[np.float64]

TRACKED_KEV: Floats = sqrt_grid(30.0, 3600.0, 512)
"""Edges that a lane tracks gains on: a bin of them is a fifth of a peak of 3 % at 662 keV, and they
reach beyond what any scale up to a fifth too low hides."""
LEAST_COUNTS = 20_000
"""Fewer counts carry the scale no better than the prior does."""
MODEL_ERROR = 0.02
"""What the shapes may be wrong by where they are narrow, as a part of the counts."""
WORST_SIGMA_GAIN = 0.005
"""A gain less certain than this is not worth setting."""
LEAST_EXPLAINED = 60.0
"""The shapes must improve chi-square by so much over a smooth spectrum."""
WORST_MISFIT = 3.0
"""Chi-square per degree of freedom above which the shapes are not those of this spectrum."""
FARTHEST_OFFSET = 5.0
"""An offset further than so many σ from the prior was bent to fit."""
SEARCH = 0.15
"""Gains from 1 - SEARCH to 1 + SEARCH are looked at, around the prior."""
LOWEST_KEV = 150.0
"""Below, covers and surroundings shape the spectrum more than the chains do."""

POTASSIUM_KEV = 1460.82
"""K-40 (ENSDF): the line of the ground that stands alone."""
LEAST_PEAK_SIGMA = 8.0
NARROWEST, WIDEST = 0.6, 1.6
"""Of the width expected; another is no single peak."""
LINE_MISPLACED = 0.02
"""What a straight background under the line may move it by, in its width."""

_SMOOTH_KNOTS = 9
_STEPS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class GainPrior:
    """What is known before: true energy = offset + gain × nominal energy, and how surely."""

    gain: float = 1.0
    offset_kev: float = 0.0
    sigma_gain: float = 0.05
    sigma_offset_kev: float = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class GainFit:
    """A scale found, or why none was.

    True energy = ``offset_kev`` + ``gain`` × nominal energy. All figures are None where
    ``reasons`` holds any; ``quality`` is chi-square per degree of freedom, about 1 where the
    shapes are right, None where a line alone was looked at.
    """

    gain: float | None = None
    offset_kev: float | None = None
    sigma_gain: float | None = None
    quality: float | None = None
    reasons: tuple[str, ...] = ()

    def corrected(self, edges_kev: Floats) -> Floats:
        """Return true edges for nominal ones; ValueError where no scale was found."""
        if self.gain is None or self.offset_kev is None:
            raise ValueError("; ".join(self.reasons))
        edges: Floats = self.offset_kev + self.gain * edges_kev
        return edges


def track(
    spectrum_counts: Floats,
    live_s: float,
    edges_kev: Floats,
    components: Floats,
    prior: GainPrior | None = None,
    highest_kev: float = np.inf,
) -> GainFit:
    """Return the scale of an unoccupied spectrum.

    Parameters
    ----------
    spectrum_counts : (bin,) counts of the empty lane
    live_s : live time [s]
    edges_kev : (bin + 1,) nominal edges, narrower than a quarter of a peak where peaks are
        looked for [keV]
    components : (component, bin) shapes of the background at the true energies of those edges,
        as ``response.background_components`` gives them
    prior : the scale as last known; None: the nominal one
    highest_kev : nominal energy up to which the detector counts; bins above are not looked at

    Whether the lane was empty is the caller's to know: nothing here can tell a vehicle's thorium
    from the ground's.
    """
    prior = prior or GainPrior()
    counts = np.asarray(spectrum_counts, dtype=float)
    if not (np.isfinite(live_s) and live_s > 0):
        return GainFit(reasons=(f"a live time of {live_s:g} s is no measurement",))
    if not np.all(np.isfinite(counts)) or counts.min(initial=0.0) < 0:
        return GainFit(reasons=("a count is negative or not a number",))
    used = (edges_kev[:-1] > LOWEST_KEV) & (edges_kev[1:] <= highest_kev)
    total = float(counts[used].sum())
    if total < LEAST_COUNTS:
        text = (
            f"{total:.0f} counts above {LOWEST_KEV:.0f} keV in {live_s:.0f} s; at least "
            f"{LEAST_COUNTS} are needed, wait longer"
        )
        return GainFit(reasons=(text,))
    problem = _Problem(counts, edges_kev, components, used)
    return _judged(_best(problem, prior), problem, prior)


def of_line(
    spectrum_counts: Floats, edges_kev: Floats, peak_kev: float, prior: GainPrior
) -> GainFit | None:
    """Return the gain that puts the K-40 line where it belongs; None: no clear line is near.

    For crystals whose background is not the four shapes, behind a wall or in a housing of its own:
    the line owes nothing to them. It moves the gain and leaves the prior's offset, and is weighed
    against the prior (R.E. Kalman, J. Basic Eng. 82 (1960) 35, in one dimension).

    ``peak_kev``: full width at half maximum of the line [keV]; the rest as for ``track``.
    """
    counts = np.asarray(spectrum_counts, dtype=float)
    at = np.arange(len(edges_kev), dtype=float)
    gains = prior.gain * (1.0 + np.linspace(-3, 3, 25) * prior.sigma_gain)
    places = np.interp((POTASSIUM_KEV - prior.offset_kev) / gains, edges_kev, at)
    width_kev = np.interp(places, at[:-1] + 0.5, np.diff(edges_kev))
    rises = significance(counts, places, peak_kev / gains / width_kev)
    best = int(rises.argmax())
    expected = peak_kev / gains[best] / width_kev[best]
    peak = fitted(counts, float(places[best]), float(expected))
    if peak is None or peak.significance < LEAST_PEAK_SIGMA:
        return None
    if not NARROWEST < peak.fwhm_channels / expected < WIDEST:
        return None
    stands_kev = float(np.interp(peak.channel, at, edges_kev))
    gain = (POTASSIUM_KEV - prior.offset_kev) / stands_kev
    if abs(gain / prior.gain - 1.0) > 3 * prior.sigma_gain:
        return None
    placed = np.hypot(peak.sigma_channel, LINE_MISPLACED * peak.fwhm_channels)
    sigma = float(placed * width_kev[best] / stands_kev)
    share = prior.sigma_gain**2 / (prior.sigma_gain**2 + sigma**2)
    return GainFit(
        gain=prior.gain + share * (gain - prior.gain),
        offset_kev=prior.offset_kev,
        sigma_gain=float(np.sqrt(share)) * sigma,
    )


class _Problem:
    """Chi-square of a scale, all amplitudes fitted."""

    def __init__(
        self, counts: Floats, edges_kev: Floats, components: Floats, used: NDArray[np.bool_]
    ) -> None:
        self._edges = edges_kev
        self._used = used
        self._below = np.concatenate(
            (np.zeros((len(components), 1)), np.cumsum(components, axis=1)), axis=1
        )
        self._slopes = _slopes(self._below, edges_kev)
        self._smooth = _smooth_part(edges_kev)
        # The weights come from the data, smoothed: a bin that is low by chance must not weigh more.
        level = np.convolve(np.pad(counts, 2, mode="edge"), np.ones(5) / 5, mode="valid")
        variance = np.maximum(level[used], 1.0) + (MODEL_ERROR * level[used]) ** 2
        self._root_weight = 1 / np.sqrt(variance)
        self._target = counts[used] * self._root_weight

    @property
    def freedom(self) -> int:
        """Return the degrees of freedom left."""
        return len(self._target) - len(self._below) - int(self._smooth.shape[1]) - 2

    def residuals(self, gain: float, offset_kev: float) -> Floats:
        """Return weighted residuals at a scale."""
        true = offset_kev + gain * self._edges
        shapes = np.diff(_interpolated(true, self._edges, self._below, self._slopes), axis=1)
        return self._left(np.concatenate((shapes.T, self._smooth), axis=1))

    def smooth_residuals(self) -> Floats:
        """Return weighted residuals without any of the shapes."""
        return self._left(self._smooth)

    def _left(self, design: Floats) -> Floats:
        design = design[self._used] * self._root_weight[:, None]
        size = np.linalg.norm(design, axis=0)
        design = design / np.where(size > 0, size, 1.0)
        square = design.T @ design + 1e-9 * np.eye(design.shape[1])
        left: Floats = self._target - design @ np.linalg.solve(square, design.T @ self._target)
        return left


def _best(problem: _Problem, prior: GainPrior) -> tuple[float, float]:
    """Return gain and offset [keV]: a coarse search over gains, then Gauss and Newton."""
    reach = min(SEARCH, 3 * prior.sigma_gain)
    gains = prior.gain * (1 + np.linspace(-reach, reach, 2 * round(reach / 0.005) + 1))
    costs = [
        float(np.sum(problem.residuals(float(gain), prior.offset_kev) ** 2))
        + ((gain - prior.gain) / prior.sigma_gain) ** 2
        for gain in gains
    ]
    at = np.array([float(gains[int(np.argmin(costs))]), prior.offset_kev])
    for _ in range(_STEPS):
        residuals, slopes = _linearised(problem, at, prior)
        step = np.linalg.lstsq(slopes, -residuals, rcond=None)[0]
        at = at + np.clip(step, (-0.01, -3.0), (0.01, 3.0))
        if abs(step[0]) < 1e-6:
            break
    return float(at[0]), float(at[1])


def _linearised(problem: _Problem, at: Floats, prior: GainPrior) -> tuple[Floats, Floats]:
    """Return residuals, prior included, and their slopes in gain and offset."""
    steps = (0.001, 1.0)
    columns = []
    for k, step in enumerate(steps):
        up, down = at.copy(), at.copy()
        up[k] += step
        down[k] -= step
        change = problem.residuals(*map(float, up)) - problem.residuals(*map(float, down))
        columns.append(change / (2 * step))
    slopes = np.stack(columns, axis=1)
    residuals = problem.residuals(float(at[0]), float(at[1]))
    known = np.diag([1 / prior.sigma_gain, 1 / prior.sigma_offset_kev])
    off = (at - np.array([prior.gain, prior.offset_kev])) @ known
    return np.concatenate((residuals, off)), np.concatenate((slopes, known))


def _judged(best: tuple[float, float], problem: _Problem, prior: GainPrior) -> GainFit:
    gain, offset_kev = best
    residuals, slopes = _linearised(problem, np.array(best), prior)
    covariance = np.linalg.pinv(slopes.T @ slopes)
    cost = float(np.sum(residuals[:-2] ** 2))
    misfit = cost / max(problem.freedom, 1)
    sigma = float(np.sqrt(covariance[0, 0] * max(1.0, misfit)))
    reasons = []
    explained = float(np.sum(problem.smooth_residuals() ** 2)) - cost
    if explained < LEAST_EXPLAINED:
        reasons.append(
            "nothing in it is as narrow as a peak of the background; wait longer, or look at the "
            "detector"
        )
    if misfit > WORST_MISFIT:
        reasons.append(
            f"chi-square is {misfit:.1f} per degree of freedom, over {WORST_MISFIT:g}: this is no "
            "plain background, or another detector"
        )
    if sigma > WORST_SIGMA_GAIN:
        reasons.append(
            f"the gain is uncertain by {100 * sigma:.2f} %, over {100 * WORST_SIGMA_GAIN:g} %; "
            "wait longer"
        )
    if abs(gain / prior.gain - 1) > min(SEARCH, 3 * prior.sigma_gain) * 0.98:
        reasons.append(f"a gain of {gain:.3f} lies at the end of the search; calibrate anew")
    if abs(offset_kev - prior.offset_kev) > FARTHEST_OFFSET * prior.sigma_offset_kev:
        reasons.append(f"an offset of {offset_kev:.0f} keV is none that drifts; calibrate anew")
    if reasons:
        return GainFit(reasons=tuple(reasons))
    return GainFit(gain=gain, offset_kev=offset_kev, sigma_gain=sigma, quality=misfit)


def _smooth_part(edges_kev: Floats) -> Floats:
    """Return (bin, knot) broad humps, evenly spread over the root of the energy."""
    root = np.sqrt(np.maximum(edges_kev, 0.0))
    centres = (root[1:] + root[:-1]) / 2
    knots = np.linspace(np.sqrt(LOWEST_KEV), root[-1], _SMOOTH_KNOTS)
    away = np.abs(centres[:, None] - knots[None, :]) / (knots[1] - knots[0])
    # The cubic B-spline on even knots; times the width, as counts grow with it.
    near = 2 / 3 - away**2 + away**3 / 2
    far = np.clip(2 - away, 0.0, None) ** 3 / 6
    humps = np.where(away < 1, near, far)
    # Background falls by three orders of magnitude; humps that fall along keep the fit well posed.
    falling = np.exp(-centres / 12.0) * np.diff(edges_kev)
    smooth: Floats = humps * falling[:, None]
    return smooth


def _slopes(below: Floats, edges_kev: Floats) -> Floats:
    """Return the density at each edge, from the bins beside it."""
    density = np.diff(below, axis=1) / np.diff(edges_kev)
    middle = (density[:, 1:] + density[:, :-1]) / 2
    return np.concatenate((density[:, :1], middle, density[:, -1:]), axis=1)


def _interpolated(at_kev: Floats, edges_kev: Floats, below: Floats, slopes: Floats) -> Floats:
    """Return cumulative shapes at other energies: a cubic in each bin, flat beyond the ends."""
    at = np.clip(at_kev, edges_kev[0], edges_kev[-1])
    low = np.clip(np.searchsorted(edges_kev, at, side="right") - 1, 0, len(edges_kev) - 2)
    width = edges_kev[low + 1] - edges_kev[low]
    t = (at - edges_kev[low]) / width
    found: Floats = (
        (1 + 2 * t) * (1 - t) ** 2 * below[:, low]
        + t * (1 - t) ** 2 * width * slopes[:, low]
        + t**2 * (3 - 2 * t) * below[:, low + 1]
        + t**2 * (t - 1) * width * slopes[:, low + 1]
    )
    return found
