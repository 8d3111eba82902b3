"""Whether thresholds still hold, by the p-values of passages that nothing speaks against."""

from __future__ import annotations

import numpy as np
from scipy.special import bdtrc

from agent.analysis.detection.threshold import Floats, uniformity_p


def too_many_p(alarms: int, passages: int, rate: float) -> float:
    """Return the probability of so many alarms or more at a rate (the exact binomial tail)."""
    if alarms <= 0:
        return 1.0
    return float(bdtrc(alarms - 1, passages, rate))


def holds_p(p_values: Floats, rate: float, *, learned_from: int | None) -> float:
    """Return how likely the thresholds hold, with these benign p-values (passage,).

    Learned ones give uniform p-values, and no more of them below ``rate`` than it says: twice the
    lesser probability of the two (Bonferroni). Thresholds by formula are held to the second alone,
    because they are meant to err to the side of few alarms. ``learned_from``: of how many passages
    the thresholds were learned, which are as uncertain; None: they are by formula. Raises
    ValueError where there are no p-values.
    """
    if not len(p_values):
        raise ValueError("no p-values to test")
    too_many = too_many_p(int(np.count_nonzero(p_values < rate)), len(p_values), rate)
    if learned_from is None:
        return too_many
    return min(1.0, 2.0 * min(too_many, uniformity_p(p_values, learned_from)))
