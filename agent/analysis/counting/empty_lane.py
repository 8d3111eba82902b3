"""What an empty lane counts: its rate, how steadily, and which radiation it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtr, chdtrc

Floats = NDArray[np.float64]

ROUNDS = 3000
LOWEST_KEV = 150.0
"""Below, covers and surroundings shape the spectrum more than the chains do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Steadiness:
    """A rate [counts/s] and how steady it was.

    ``spread``: standard deviation over that of a Poisson process of the same rate, and ``spread_p``
    the chance of so far from 1, to either side. ``drift_per_h``: slope of a straight line through
    the rates, as a part of the rate an hour, ± ``sigma_drift_per_h``; None under three intervals.
    """

    rate_cps: float
    sigma_cps: float
    spread: float | None
    spread_p: float | None
    drift_per_h: float | None
    sigma_drift_per_h: float | None


def steadiness(counts: Floats, live_s: Floats, at_s: Floats) -> Steadiness:
    """Return the steadiness of counts (interval,) over live times (interval,) at times [s].

    The spread is that of a straight line's residuals, so that a drift is not counted twice: the
    index of dispersion, chi-square over its degrees of freedom. Raises ValueError without a live
    interval.
    """
    seen = live_s > 0
    counts, live_s, at_s = counts[seen], live_s[seen], at_s[seen]
    if not len(counts):
        raise ValueError("no interval was live")
    rate = float(counts.sum() / live_s.sum())
    sigma = math.sqrt(max(float(counts.sum()), 1.0)) / float(live_s.sum())
    freedom = len(counts) - 2
    hours = (at_s - np.average(at_s, weights=live_s)) / 3600.0
    across = float((live_s * hours**2).sum())
    if freedom < 1 or rate <= 0 or across <= 0:
        return Steadiness(
            rate_cps=rate,
            sigma_cps=sigma,
            spread=None,
            spread_p=None,
            drift_per_h=None,
            sigma_drift_per_h=None,
        )
    slope = float((hours * counts).sum()) / across
    expected = np.maximum(live_s * (rate + slope * hours), 1e-9)
    chi_square = float(((counts - expected) ** 2 / np.maximum(rate * live_s, 1e-9)).sum())
    low, high = float(chdtr(freedom, chi_square)), float(chdtrc(freedom, chi_square))
    spread = math.sqrt(chi_square / freedom)
    return Steadiness(
        rate_cps=rate,
        sigma_cps=sigma * max(1.0, spread),
        spread=spread,
        spread_p=min(1.0, 2.0 * min(low, high)),
        drift_per_h=slope / rate,
        sigma_drift_per_h=math.sqrt(rate / across) / rate * max(1.0, spread),
    )


def in_blocks(
    counts: Floats, live_s: Floats, at_s: Floats, block_s: float
) -> tuple[Floats, Floats, Floats]:
    """Return counts, live times and middle times of blocks of so long, those at least half live."""
    number = np.floor((at_s - at_s.min()) / block_s).astype(int)
    blocks = int(number.max()) + 1
    live: Floats = np.bincount(number, live_s, blocks).astype(np.float64)
    total: Floats = np.bincount(number, counts, blocks).astype(np.float64)
    middle: Floats = at_s.min() + (np.arange(blocks) + 0.5) * block_s
    kept = live >= 0.5 * block_s
    return total[kept], live[kept], middle[kept]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shares:
    """Each component's part of the counts above LOWEST_KEV; ``misfit``: chi-square per degree."""

    shares: Floats
    sigmas: Floats
    misfit: float


def shares_of(counts: Floats, components: Floats, edges_kev: Floats) -> Shares | None:
    """Return the parts of components (component, bin) in counts (bin,), none of them negative.

    The Poisson likelihood is maximised by expectation and maximisation (L.A. Shepp and Y. Vardi,
    IEEE Trans. Med. Imaging 1 (1982) 113). None: there is nothing above LOWEST_KEV.
    """
    used = edges_kev[:-1] >= LOWEST_KEV
    seen, shapes = counts[used], components[:, used]
    size = shapes.sum(axis=1)
    if seen.sum() <= 0 or (size <= 0).any():
        return None
    shapes = shapes / size[:, None]
    amounts = np.full(len(shapes), float(seen.sum()) / len(shapes))
    for _ in range(ROUNDS):
        expected = np.maximum(amounts @ shapes, 1e-12)
        amounts = amounts * (shapes @ (seen / expected))
    expected = np.maximum(amounts @ shapes, 1e-12)
    information = (shapes / expected) @ shapes.T
    misfit = float(((seen - expected) ** 2 / np.maximum(expected, 1.0)).sum())
    misfit /= max(len(seen) - len(shapes), 1)
    sigmas = np.sqrt(np.diag(np.linalg.pinv(information)) * max(1.0, misfit))
    total = float(amounts.sum())
    return Shares(shares=amounts / total, sigmas=sigmas / total, misfit=misfit)
