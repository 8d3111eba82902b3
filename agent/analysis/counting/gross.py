"""Gross counting: the portal's own N-sigma decision recomputed, and exact neutron tails.

Source of the N-sigma rule: measured on TSA/Rapiscan lane recordings. With B_d the last printed
background of detector d [counts/s] and S_d the sum of its last second of counts::

    z_G = (sum of S_d over G - sum of B_d over G) / sqrt(sum of B_d over G)
    alarm in this interval  <=>  max over the enabled combinations G of z_G >= NSIGMA
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy.special import betainc

COMBINATIONS: dict[str, tuple[tuple[int, ...], ...]] = {
    "sum": ((0, 1, 2, 3),),
    "horizontal": ((0, 2), (1, 3)),  # one height, opposite pillars
    "vertical": ((0, 1), (2, 3)),  # both detectors of one pillar
    "single": ((0,), (1,), (2,), (3,)),
}
"""Detector combinations in the order of the portal's algorithm bits (line SG2)."""


def groups_of(
    algorithms: Sequence[str], detectors_on: Sequence[bool] | None = None
) -> tuple[tuple[int, ...], ...]:
    """Return the detector groups that the enabled combinations test, without switched-off ones.

    ``detectors_on`` None: all are on. Raises KeyError for an algorithm that does not exist.
    """
    groups = []
    for name in algorithms:
        for group in COMBINATIONS[name]:
            kept = tuple(d for d in group if detectors_on is None or detectors_on[d])
            if kept and kept not in groups:
                groups.append(kept)
    return tuple(groups)


def nsigma(
    sums: Sequence[float],
    background_cps: Sequence[float],
    groups: Sequence[tuple[int, ...]],
    window_s: float = 1.0,
) -> tuple[float, tuple[int, ...]] | None:
    """Return the largest z over the groups and the group that has it.

    Parameters
    ----------
    sums : counts of each detector over the window [counts]
    background_cps : background of each detector [counts/s]
    groups : detector groups to test
    window_s : length of the window [s]

    None: no group has a background above 0, so nothing can be decided.
    """
    best: tuple[float, tuple[int, ...]] | None = None
    for group in groups:
        expected = sum([background_cps[d] for d in group]) * window_s
        if expected <= 0:
            continue
        z = (sum([sums[d] for d in group]) - expected) / math.sqrt(expected)
        if best is None or z > best[0]:
            best = (z, group)
    return best


def rounding_explains(
    sums: Sequence[float],
    printed_cps: Sequence[float],
    groups: Sequence[tuple[int, ...]],
    *,
    nsigma_limit: float,
    device_alarm: bool,
    window_s: float = 1.0,
) -> bool:
    """Return whether a background that prints as this one could have given the device's decision.

    The portal prints whole counts per second without the fraction, so each true background lies
    in [printed, printed + 1). z falls as the background rises, so its two ends are enough.
    """
    lowest = nsigma(sums, [b + 1.0 for b in printed_cps], groups, window_s)
    highest = nsigma(sums, printed_cps, groups, window_s)
    if lowest is None or highest is None:
        return False
    return highest[0] >= nsigma_limit if device_alarm else lowest[0] < nsigma_limit


def neutron_tail_p(
    counts: int, window_s: float, background_cps: float, background_s: float
) -> float:
    """Return the probability of so many neutrons or more in the window without a source.

    Exact for two Poisson counts: given n in the window of t seconds and k in the background's T
    seconds, n is binomial over n + k with share t / (t + T), so
    P = I_x(n, k + 1) with x = t / (t + T). With T → ∞ it is the Poisson tail itself; a finite T
    carries the background's own uncertainty.

    Parameters
    ----------
    counts : neutrons in the window [counts]
    window_s, background_s : lengths of the window and of the background measurement [s]
    background_cps : background rate [counts/s]

    Source: Przyborowski and Wilenski, Biometrika 31 (1940) 313, the conditional test.
    """
    if counts <= 0:
        return 1.0
    background_counts = background_cps * background_s
    share = window_s / (window_s + background_s)
    return float(betainc(counts, background_counts + 1.0, share))
