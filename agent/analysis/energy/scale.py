"""Energy grids, and spectra carried from one grid to another.

Every spectroscopic statistic works on one common grid whose bins widen as the square root of the
energy, as a scintillator's resolution does, so that a peak covers about as many bins anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GRID_BINS = 64
GRID_LOW_KEV = 30.0
GRID_HIGH_KEV = 3000.0


def sqrt_grid(
    low_kev: float = GRID_LOW_KEV, high_kev: float = GRID_HIGH_KEV, bins: int = GRID_BINS
) -> Floats:
    """Return ``bins + 1`` edges [keV] that are equally spaced in the square root of the energy."""
    if not 0 <= low_kev < high_kev or bins < 1:
        message = f"a grid needs 0 <= low < high and a bin, not {low_kev}, {high_kev}, {bins}"
        raise ValueError(message)
    edges: Floats = np.linspace(np.sqrt(low_kev), np.sqrt(high_kev), bins + 1) ** 2
    return edges


def polynomial_edges(coefficients_kev: tuple[float, ...], channels: int) -> Floats:
    """Return ``channels + 1`` edges [keV]: the polynomial in the channel number at each edge.

    A falling or flat scale has no energy grid and raises ValueError.
    """
    numbers = np.arange(channels + 1, dtype=float)
    edges: Floats = np.polynomial.polynomial.polyval(numbers, np.asarray(coefficients_kev))
    if channels < 1 or not np.all(np.diff(edges) > 0):
        message = f"energy calibration {coefficients_kev} does not rise over {channels} channels"
        raise ValueError(message)
    return edges


def rebin_matrix(edges_kev: Floats, grid_kev: Floats) -> Floats:
    """Return (channel, bin) fractions: ``counts @ matrix`` is the spectrum on the grid.

    A channel's counts are spread evenly over its width; what lies outside the grid is lost, so
    a row sums to at most 1.
    """
    low = np.maximum(edges_kev[:-1, None], grid_kev[None, :-1])
    high = np.minimum(edges_kev[1:, None], grid_kev[None, 1:])
    widths = np.diff(edges_kev)[:, None]
    matrix: Floats = np.clip(high - low, 0.0, None) / widths
    return matrix


def on_grid(counts: Sequence[float] | Floats, edges_kev: Floats, grid_kev: Floats) -> Floats:
    """Return the spectrum on the grid: each channel's counts are spread evenly over its width.

    What lies outside the grid is lost.
    """
    below = np.concatenate([[0.0], np.cumsum(counts, dtype=float)])
    spread: Floats = np.diff(np.interp(grid_kev, edges_kev, below))
    return spread
