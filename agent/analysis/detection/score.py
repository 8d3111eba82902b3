"""Sources in the spectra of one passage: matched filters in time and energy, and what is left.

With x the counts and m the expected counts of a slice and bin, w = (x - m)/sqrt(m) is cleaned of
what harmless traffic explains (``nuisance``), and each template T and time profile p gives

    Z(T, p) = sum p_t c_tb T_b/sqrt(m_b) / sqrt(variance under the same prior)

which is standard normal without a source: the generalised least squares estimate of the source's
strength over its standard error. It is the score filter with the nuisances' prior in place of a
free fit (Neyman's C(α); Kay, Statistical Signal Processing II, 4.4 for the matched filter in
coloured noise). A passing point source seen at distance d with speed v has
p_t = (1 + (t - t0)²/h²)^-1.25, with h = d/v the half-width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection.nuisance import Nuisance

Floats = NDArray[np.float64]

WINDOW_S = 8.0
"""A source is told apart from the vehicle within so long; longer passages are seen in parts."""
HALF_WIDTHS_S = (0.65, 1.0, 1.5)
PEAK_STEP_S = 0.4
FALL = 1.25
EQUALISED_S = 2.0
SPANS_S = (1.0, 2.0, 4.0)
"""The residual is summed over such spans, and over the whole window."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Profiles:
    """The time profiles that are looked for: (profile, slice), peak (rising) and half-width [s]."""

    values: Floats
    peak_s: Floats
    half_width_s: Floats

    def upto(self, peak_s: float) -> slice:
        """Return which profiles have their peak no later than that."""
        return slice(0, int(np.searchsorted(self.peak_s, peak_s, side="right")))


def point_profiles(slices: int, slice_s: float) -> Profiles:
    """Return the profiles of passing point sources over a window."""
    at_s = (np.arange(slices) + 0.5) * slice_s
    step = max(1, round(PEAK_STEP_S / slice_s))
    peaks = at_s[::step]
    peak, half = (grid.ravel() for grid in np.meshgrid(peaks, HALF_WIDTHS_S, indexing="ij"))
    values = (1.0 + ((at_s[None, :] - peak[:, None]) / half[:, None]) ** 2) ** -FALL
    return Profiles(values=values, peak_s=peak, half_width_s=half)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bank:
    """Matched filters for some templates.

    ``shapes``: (template, bin) whitened; ``over``: (case, profile, template) 1/sqrt(variance), by
    the case of the prior; ``skew``: (template,) the largest third moment of Z, which few counts
    give.
    """

    shapes: Floats
    over: Floats
    skew: Floats

    def best(
        self, cleaned: Floats, case: NDArray[np.intp], profiles: Profiles, used: slice
    ) -> tuple[Floats, NDArray[np.intp]]:
        """Return (…, template) the largest Z of each template, and the profile that has it.

        ``cleaned``: (…, slice, bin) and ``case``: (…,) as the prior gives them; ``used``: the
        profiles that are looked for, at least one.
        """
        z = (profiles.values[used] @ (cleaned @ self.shapes.T)) * self.over[:, used][case]
        which = z.argmax(axis=-2)
        return np.take_along_axis(z, which[..., None, :], axis=-2)[..., 0, :], which


def bank(shapes: Floats, expected: Floats, nuisance: Nuisance, profiles: Profiles) -> Bank:
    """Return the filters for unit-sum shapes (template, bin) over an expected background (bin,)."""
    white = shapes / np.sqrt(expected)
    variance = nuisance.power(profiles.values, white)
    # A shape that the prior explains altogether cannot be told from traffic: it scores nothing.
    free = variance > 1e-6 * (profiles.values**2).sum(axis=1)[:, None] * (white**2).sum(axis=1)
    over = np.where(free, 1.0 / np.sqrt(np.where(free, variance, 1.0)), 0.0)
    # Of a sum of Poisson variables with weights a: sum a³m / (sum a²m)^1.5, without the prior.
    of_time = (profiles.values**3).sum(axis=1) / (profiles.values**2).sum(axis=1) ** 1.5
    of_energy = (white**3 / np.sqrt(expected)).sum(axis=1) / (white**2).sum(axis=1) ** 1.5
    return Bank(shapes=white, over=over, skew=of_time.max() * of_energy)


def whiten(counts: Floats, expected: Floats) -> Floats:
    """Return (counts - expected)/sqrt(expected), 0 where nothing is expected (no live time)."""
    has = expected > 0
    root = np.sqrt(np.where(has, expected, 1.0))
    white: Floats = np.where(has, (counts - expected) / root, 0.0)
    return white


def equalised(white: Floats, root_expected: Floats, slice_s: float) -> Floats:
    """Return whitened residuals (…, slice, bin) with the noise of each slice brought to 1.

    Behind a vehicle fewer counts come and they scatter less; under a load of fertiliser more. How
    many come is the gross count over EQUALISED_S against the expected; ``root_expected`` (bin,) is
    the square root of what is expected in a slice.
    """
    share = (white @ root_expected) / (root_expected**2).sum()
    span = max(1, round(EQUALISED_S / slice_s))
    kernel = np.ones(span) / span
    half = span // 2
    padded = np.concatenate(
        [
            np.repeat(share[..., :1], half, -1),
            share,
            np.repeat(share[..., -1:], span - 1 - half, -1),
        ],
        -1,
    )
    smooth = np.lib.stride_tricks.sliding_window_view(padded, span, axis=-1) @ kernel
    level = np.clip(1.0 + smooth, 0.3, 10.0)
    even: Floats = white / np.sqrt(level)[..., None]
    return even


def residual(cleaned: Floats, slice_s: float) -> Floats:
    """Return (…,) the largest excess of the residual's power over spans of the window.

    Over a span of n slices the sums over time, divided by sqrt(n), have unit variance in each of
    B bins without a source, so their squares sum to chi-square with B degrees of freedom;
    the figure is (chi-square - B)/sqrt(2B), whatever the shape of the source.
    """
    slices, bins = cleaned.shape[-2:]
    below = np.concatenate([np.zeros((*cleaned.shape[:-2], 1, bins)), cleaned], axis=-2)
    below = np.cumsum(below, axis=-2)
    largest = np.full(cleaned.shape[:-2], -np.inf)
    for span_s in (*SPANS_S, slices * slice_s):
        span = min(slices, max(1, round(span_s / slice_s)))
        sums = (below[..., span:, :] - below[..., :-span, :]) / np.sqrt(span)
        power = ((sums**2).sum(axis=-1) - bins) / np.sqrt(2.0 * bins)
        largest = np.maximum(largest, power.max(axis=-1))
    return largest
