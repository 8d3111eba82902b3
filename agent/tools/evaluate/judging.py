"""Passages judged as a lane judges them: a model learned or assumed, verdicts, neutrons."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.counting.gross import neutron_tail_p
from agent.analysis.detection import learning
from agent.analysis.detection import model as detection
from agent.analysis.detection.learning import LEAST_TO_LEARN
from agent.analysis.detection.model import STATISTICS, Model, Shapes, Verdict
from agent.tools.evaluate.passes import Passes, PassesError
from agent.tools.evaluate.spectra import CHUNK, Summed

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEUTRON_SHARE = 0.05
"""Of the false-alarm budget, where neutrons are counted."""
NEUTRON_SPANS_S = (1, 2, 3, 4, 5)


def model_of(commission: Summed, test: Summed, shapes: Shapes, slice_s: float, far: float) -> Model:
    """Return the model learned from the commission passages, or a provisional one for too few."""
    taught = commission.some(np.flatnonzero(commission.is_judged))
    if len(taught.counts) >= LEAST_TO_LEARN:
        return learning.learn(
            taught.counts, taught.expected, taught.background, shapes, slice_s, far
        )
    source = taught if len(taught.counts) else test.some(np.flatnonzero(test.is_judged))
    if not len(source.counts):
        raise PassesError("no pass has a working detector with a background")
    rate = source.background.sum(axis=0) / source.background_s.sum()
    return learning.assume(shapes, rate, slice_s, far)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Judged:
    """The test passages' verdicts, and neutrons beside them; p is NaN where nothing worked.

    ``statistic``: what decided. ``slice_us``: processor time of one slice.
    """

    p: Floats
    statistic: tuple[str | None, ...]
    verdict: Verdict
    neutron_p: Floats | None
    slice_us: float


def judged(
    model: Model, test: Summed, neutron_p: Floats | None, tick: Callable[[int], None]
) -> Judged:
    """Return the verdict on each passage; ``tick`` is told how many more are done."""
    parts = []
    for at in range(0, len(test.counts), CHUNK):
        some = test.some(np.arange(at, min(at + CHUNK, len(test.counts))))
        parts.append(detection.judge(model, some.counts, some.expected, some.background))
        tick(len(some.counts))
    fields = {
        name: np.concatenate([getattr(part, name) for part in parts]) for name in Verdict.__slots__
    }
    verdict = Verdict(**fields)
    p = np.where(test.is_judged, verdict.p, np.nan)
    names = [STATISTICS[i] for i in verdict.statistic]
    statistic: list[str | None] = [
        name if known else None for name, known in zip(names, test.is_judged, strict=True)
    ]
    if neutron_p is not None:
        p, by_neutrons = with_neutrons(p, neutron_p)
        statistic = ["neutron" if by_neutrons[i] else name for i, name in enumerate(statistic)]
    return Judged(
        p=p,
        statistic=tuple(statistic),
        verdict=verdict,
        neutron_p=neutron_p,
        slice_us=slice_us(model, test),
    )


def with_neutrons(p: Floats, neutron_p: Floats) -> tuple[Floats, Bools]:
    """Return the p-values with the neutrons' share of the budget, and which they decide.

    The weighted Bonferroni bound of two; where there is no spectrum the neutrons stand alone.
    """
    ours = np.where(np.isnan(p), np.inf, p / (1.0 - NEUTRON_SHARE))
    theirs = neutron_p / NEUTRON_SHARE
    by_neutrons: Bools = theirs < ours
    fused: Floats = np.minimum(np.minimum(ours, theirs), 1.0)
    return fused, by_neutrons


def _neutrons(passes: Passes) -> tuple[NDArray[np.int_], Floats]:
    """Return neutrons and live time (pass, slice) of all detectors together, 0 in the padding."""
    assert passes.neutron_counts is not None
    real = passes.is_real
    counts: NDArray[np.int_] = passes.neutron_counts.sum(axis=2, dtype=int) * real
    if passes.neutron_live_s is None:
        return counts, np.where(real, passes.slice_s, 0.0)
    live_s: Floats = passes.neutron_live_s.mean(axis=2) * real
    return counts, live_s


def neutron_rate(passes: Passes) -> tuple[float, float] | None:
    """Return the neutron background of the commission passages [counts/s] and its seconds.

    None: no neutrons are counted, or there is no commission passage to know it from. The median
    of the passages' rates: a passage with a source among them changes nothing. Where few counts
    come, so that the median is coarse, the mean of the lower 95 % bounds it from below.
    """
    if passes.neutron_counts is None:
        return None
    all_counts, all_live_s = _neutrons(passes)
    seconds = all_live_s.sum(axis=1)
    known = passes.is_commission & (seconds > 0)
    if not known.any():
        return None
    counts, seconds = all_counts.sum(axis=1)[known].astype(float), seconds[known]
    rates = counts / seconds
    usual = rates <= np.quantile(rates, 0.95)
    mean = float(counts[usual].sum() / seconds[usual].sum())
    return max(float(np.median(rates)), mean), float(seconds.sum())


def neutron_p_values(passes: Passes) -> Floats | None:
    """Return p of each test passage's neutrons: the least over 1 to 5 s, times the looks taken.

    Exact Poisson tails, the background's own uncertainty among them; Bonferroni over all places
    and lengths. A passage in which no neutron detector was live has p = 1. None: see
    ``neutron_rate``.
    """
    background = neutron_rate(passes)
    if background is None:
        return None
    rate_cps, known_s = background
    counts, live_s = _neutrons(passes)
    found = []
    for number in np.flatnonzero(passes.is_test):
        last = passes.slices[number]
        one, lives = counts[number, :last], live_s[number, :last]
        found.append(_least_neutron_p(one, lives, passes.slice_s, rate_cps, known_s))
    return np.array(found)


def _least_neutron_p(
    counts: NDArray[np.int_], live_s: Floats, slice_s: float, rate_cps: float, known_s: float
) -> float:
    counted = np.concatenate([[0], np.cumsum(counts)])
    lived = np.concatenate([[0.0], np.cumsum(live_s)])
    least, looks = 1.0, 0
    for span_s in NEUTRON_SPANS_S:
        span = min(len(counts), max(1, round(span_s / slice_s)))
        sums = counted[span:] - counted[:-span]
        over_s = np.round(lived[span:] - lived[:-span], 6)
        looks += int((over_s > 0).sum())
        for length_s in np.unique(over_s[over_s > 0]):
            most = int(sums[over_s == length_s].max())
            least = min(least, neutron_tail_p(most, float(length_s), rate_cps, known_s))
        if span == len(counts):
            break
    return min(1.0, least * looks) if looks else 1.0


def slice_us(model: Model, test: Summed) -> float:
    """Return the processor time of one slice of a passage as it streams, looks included [µs]."""
    which = np.flatnonzero(test.is_judged)
    if not len(which):
        return math.nan
    one = test.some(which[:1])
    expected = model.empty.steadied(one.expected, one.background[:, None])[0]
    expected = np.broadcast_to(expected, one.counts.shape[1:])
    least = max(2 * model.look, 50)
    done, stream = 0, detection.begin(model)
    began_ns = time.process_time_ns()
    while done < least:
        for counts, wanted in zip(one.counts[0], expected, strict=True):
            stream = detection.add(model, stream, counts, wanted)
            done += 1
    return (time.process_time_ns() - began_ns) / 1e3 / done
