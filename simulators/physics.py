"""What detectors see as a vehicle passes: source profile, shielding, and counting statistics.

All functions are exact or tabulated and take no clock and no randomness of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

# From the lane's middle to the face of a pillar [m]; a truck lane is about 4.5 m wide.
PILLAR_DISTANCE_M = 2.25

# Count over background in the ten 200 ms intervals around the breaking of the beam (five before,
# five after), mean over 700 occupancies of a public 24 h log of a TSA/Rapiscan truck lane.
ENTRY_RATIOS = (0.954, 0.938, 0.918, 0.887, 0.853, 0.806, 0.753, 0.714, 0.695, 0.689)
# The speed at which those vehicles are taken to have driven in (5 mph); unconfirmed.
ENTRY_SPEED_M_PER_S = 2.2
# The shadow begins some way before the first measured interval; unconfirmed.
_SHADOW_BEGINS_S = -1.6

_SHADOW_M = np.array([_SHADOW_BEGINS_S, *(0.2 * i - 0.9 for i in range(10))]) * ENTRY_SPEED_M_PER_S
_SHADOW = np.array([0.0, *((1.0 - r) / (1.0 - ENTRY_RATIOS[-1]) for r in ENTRY_RATIOS)])

# Which detectors are summed (numbered from 0), in the order of the controller's algorithm bits.
GROUPS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((0, 1, 2, 3),),  # SUM
    ((0, 2), (1, 3)),  # HORIZONTAL: same height, opposite pillars
    ((0, 1), (2, 3)),  # VERTICAL: one pillar
    ((0,), (1,), (2,), (3,)),  # SINGLE
)


def point_profile(start_m: float, end_m: float, *, distance_m: float = PILLAR_DISTANCE_M) -> float:
    """Return the mean of d²/(d²+x²) while a point source moves from ``start_m`` to ``end_m``.

    Positions are along the lane, 0 between the pillars; 1.0 is closest approach. Exact: the
    integral of d²/(d²+x²) is d·atan(x/d).
    """
    if start_m == end_m:
        return distance_m**2 / (distance_m**2 + start_m**2)
    swept = math.atan(end_m / distance_m) - math.atan(start_m / distance_m)
    return distance_m * swept / (end_m - start_m)


def line_profile(
    start_m: float, end_m: float, length_m: float, *, distance_m: float = PILLAR_DISTANCE_M
) -> float:
    """Return the same for a source spread evenly over ``length_m``, 1.0 when it is centred.

    ``start_m`` and ``end_m`` are the positions of its middle at the ends of the interval.
    """

    def area(x_m: float) -> float:  # the integral of atan(x/d)
        ratio = x_m / distance_m
        return x_m * math.atan(ratio) - distance_m / 2.0 * math.log1p(ratio * ratio)

    half = length_m / 2.0
    peak = 2.0 * math.atan(half / distance_m)
    if start_m == end_m:
        seen = math.atan((end_m + half) / distance_m) - math.atan((end_m - half) / distance_m)
        return seen / peak
    swept = area(end_m + half) - area(start_m + half) - area(end_m - half) + area(start_m - half)
    return swept / (peak * (end_m - start_m))


def shadow(front_m: float, rear_m: float) -> float:
    """Return how much of its full shielding a vehicle reaches, 0 to 1.

    ``front_m`` and ``rear_m`` are how far its ends are past the beam [m], negative before it. The
    way in is measured (`ENTRY_RATIOS`); that the way out mirrors it is unconfirmed.
    """
    if front_m <= _SHADOW_M[0] or -rear_m <= _SHADOW_M[0]:
        return 0.0
    return float(np.interp(min(front_m, -rear_m), _SHADOW_M, _SHADOW))


def excess_sigma(counts: Sequence[float], background: Sequence[float], algorithm: str) -> float:
    """Return the largest excess over background of the enabled detector groups [sigma].

    Parameters
    ----------
    counts, background : one figure per detector, both for one second
    algorithm : four bits, order SUM, HORIZONTAL, VERTICAL, SINGLE

    Source: the rule of TSA/Rapiscan SC-770 and SC-880 controllers, (S - B) / sqrt(B), measured on
    a public 24 h lane log: 34,720 of 34,720 intervals agree.
    """
    groups: Iterable[tuple[int, ...]] = (
        group
        for bit, choice in zip(algorithm, GROUPS, strict=True)
        if bit == "1"
        for group in choice
    )
    best = -math.inf
    for group in groups:
        expected = sum(background[i] for i in group)
        if expected > 0:
            seen = sum(counts[i] for i in group)
            best = max(best, (seen - expected) / math.sqrt(expected))
    return best


def poisson_tail(count: int, mean: float) -> float:
    """Return the chance of ``count`` or more where ``mean`` are expected."""
    if count <= 0:
        return 1.0
    if mean <= 0:
        return 0.0

    def chance(k: int) -> float:
        return math.exp(k * math.log(mean) - mean - math.lgamma(k + 1))

    if count <= mean:
        return max(0.0, 1.0 - sum(chance(k) for k in range(count)))
    # Summed upwards from `count`, so that tiny tails keep their digits.
    total, term, k = 0.0, chance(count), count
    while term > total * 1e-16:
        total += term
        k += 1
        term *= mean / k
    return total


def neutron_alarm_count(background_cps: float) -> int:
    """Return the fewest neutrons in one second that the simulated portal alarms on.

    A stand-in: the smallest count whose chance under the background is below one in a million.
    The vendor's own neutron rule is not public.
    """
    background_cps = max(background_cps, 0.5)  # a unit that has counted next to nothing knows less
    count = max(1, math.floor(background_cps))
    while poisson_tail(count, background_cps) >= 1e-6:
        count += 1
    return count
