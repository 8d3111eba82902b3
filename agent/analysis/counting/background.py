"""The long median of the portal's running background, and whether the two still agree.

A portal averages 20 s. A vehicle that stands between the panels but clear of the beam drags that
average down, and the next return to normal looks like a source (measured on a 24 h lane recording:
one alarm of five). The median of 10 to 30 minutes does not follow such a dip.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

REFERENCE_MIN_S = 60.0
"""The median is not known before it covers so long."""


def median_cps(history: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Return each detector's median over the history (rows: time; columns: detectors) [counts/s].

    Raises ValueError for an empty history.
    """
    if not history:
        raise ValueError("no background to take a median of")
    return tuple(float(m) for m in np.median(np.asarray(history, dtype=float), axis=0))


def parts_from_reference(
    running_cps: Sequence[float], reference_cps: Sequence[float], fraction: float
) -> bool:
    """Return whether the summed running background is further than ``fraction`` from the median."""
    reference = sum(reference_cps)
    return reference > 0 and abs(sum(running_cps) - reference) > fraction * reference
