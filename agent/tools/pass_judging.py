"""A passages file taken through the lane's own detection: summed, learned from, judged."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.analysis import model as detection
from agent.analysis.detector import Detector
from agent.analysis.energy import GRID_BINS, GRID_HIGH_KEV, GRID_LOW_KEV, rebin_matrix, sqrt_grid
from agent.analysis.gross import neutron_tail_p
from agent.analysis.library import Library
from agent.analysis.model import LEAST_TO_LEARN, STATISTICS, Model, Shapes, Verdict
from agent.analysis.nuclides import NuclideTable
from agent.analysis.selection import pruned, spread
from agent.analysis.shapes import TEMPLATES, computed_shapes, window_shapes
from agent.config.options import did_you_mean
from agent.tools.passes import LibraryFile, Passes, PassesError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

NEUTRON_SHARE = 0.05
"""Of the false-alarm budget, where neutrons are counted."""
NEUTRON_SPANS_S = (1, 2, 3, 4, 5)
CHUNK = 64
DEAD_COUNTS = 10.0
"""A detector that should have counted so many and counted none is dead: p = e^-10."""
STUCK_SLICES, STUCK_COUNTS = 10, 5.0
"""So many slices of the same count of so many or more are no Poisson process."""
FAMILY = (0.5, 2.0)
FAMILY_SIGMAS = 5.0
"""A background outside this many times the detector's own median, by so many standard errors."""

_NUCLIDE = re.compile(r"([A-Z][a-z]?)-?(\d{1,3}m?)")


def nuclide_of_source(name: str) -> str:
    """Return "Cs-137" for "Cs137_Shielded" or "Cs-137"; a name of another kind up to its "_"."""
    found = _NUCLIDE.match(name)
    return f"{found[1]}-{found[2]}" if found else name.partition("_")[0]


# ------------------------------------------------------------------ one spectrum a slice


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LeftOut:
    """Which detectors are not used in which passage: (pass, detector) of each reason."""

    dead: Bools
    stuck: Bools
    out_of_family: Bools

    @property
    def any(self) -> Bools:
        """Return (pass, detector): left out for any reason."""
        return self.dead | self.stuck | self.out_of_family

    def of(self, number: int) -> list[dict[str, object]]:
        """Return what is left out of one passage, as it stands in JSON."""
        reasons = (("dead", self.dead), ("stuck", self.stuck), ("noisy", self.out_of_family))
        found = []
        for detector in np.flatnonzero(self.any[number]):
            why = next(name for name, mask in reasons if mask[number, detector])
            found.append({"detector": int(detector), "why": why})
        return found


def left_out(passes: Passes) -> LeftOut:
    """Return which detectors do not work, by their own background and their slices alone.

    A high count in a passage is never a reason: it may be the source.
    """
    before = passes.background_counts.sum(axis=2, dtype=float)
    rate = before / passes.background_s[:, None]
    teach = passes.is_commission if passes.is_commission.any() else passes.is_test
    usual = np.median(rate[teach], axis=0)
    expected = usual * passes.background_s[:, None]
    apart = np.abs(before - expected) > FAMILY_SIGMAS * np.sqrt(np.maximum(expected, 1.0))
    ratio = rate / np.where(usual > 0, usual, 1.0)
    outside = (usual > 0) & apart & ((ratio < FAMILY[0]) | (ratio > FAMILY[1]))
    dead, stuck = np.zeros(rate.shape, dtype=bool), np.zeros(rate.shape, dtype=bool)
    real = passes.is_real
    for number in range(len(rate)):
        totals = passes.counts[number, real[number]].sum(axis=2, dtype=float)
        live_s = passes.live_s[number, real[number]].sum(axis=0)
        dead[number] = (totals.sum(axis=0) == 0) & (usual * live_s > DEAD_COUNTS)
        same = (totals == totals[0]).all(axis=0) & (totals[0] >= STUCK_COUNTS)
        stuck[number] = same & (len(totals) >= STUCK_SLICES)
    dead |= (before == 0) & (
        np.maximum(expected, usual.max() * passes.background_s[:, None]) > DEAD_COUNTS
    )
    return LeftOut(dead=dead, stuck=stuck & ~dead, out_of_family=outside & ~dead)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Summed:
    """Passages as the model takes them: counts (pass, slice, bin), expected, background.

    ``expected`` (pass, slice, bin), or (pass, 1, bin) where no slice differs. ``is_judged``
    (pass,): at least one detector works.
    """

    counts: Floats
    expected: Floats
    background: Floats
    background_s: Floats
    is_judged: Bools

    def some(self, which: NDArray[np.intp]) -> Summed:
        """Return those passages."""
        return Summed(
            counts=self.counts[which],
            expected=self.expected[which],
            background=self.background[which],
            background_s=self.background_s[which],
            is_judged=self.is_judged[which],
        )


def grid_of(passes: Passes) -> Floats | None:
    """Return the common energy grid: √E bins, as many as the detectors can fill. None: windows."""
    edges = passes.edges_kev
    if edges is None:
        return None
    channels = passes.counts.shape[3]
    if channels <= GRID_BINS and (edges == edges[0]).all():
        grid: Floats = edges[0]
        return grid
    low = max(GRID_LOW_KEV, float(edges[:, 0].max()))
    high = min(GRID_HIGH_KEV, float(edges[:, -1].min()))
    if low >= 0.5 * high:
        text = f"counts: the detectors share no energy range ({low:g} to {high:g} keV)"
        raise PassesError(text)
    return sqrt_grid(low, high, min(GRID_BINS, channels))


def summed(passes: Passes, grid_kev: Floats | None, out: LeftOut) -> Summed:
    """Return the passages with all working detectors in one spectrum, each by its own edges."""
    used = ~out.any
    total, length = passes.counts.shape[:2]
    matrices = _matrices(passes, grid_kev)
    bins = matrices[0].shape[1]
    alike = bool((passes.live_s == passes.slice_s).all())
    counts, background = np.zeros((total, length, bins)), np.zeros((total, bins))
    expected = np.zeros((total, 1 if alike else length, bins))
    for at in range(0, total, CHUNK):
        some = slice(at, min(at + CHUNK, total))
        for detector, matrix in enumerate(matrices):
            share = used[some, detector, None]
            live_s = passes.live_s[some, :, detector] * share
            seen = passes.counts[some, :, detector] * (live_s > 0)[:, :, None]
            counts[some] += seen @ matrix
            before = (passes.background_counts[some, detector] * share) @ matrix
            background[some] += before
            rate = before / passes.background_s[some, None]
            expected[some] += live_s[:, : expected.shape[1], None] * rate[:, None]
    return Summed(
        counts=counts,
        expected=expected,
        background=background,
        background_s=passes.background_s,
        is_judged=used.any(axis=1) & (background.sum(axis=1) > 0),
    )


def _matrices(passes: Passes, grid_kev: Floats | None) -> list[Floats]:
    """Return each detector's (channel, bin): how its channels fill the common bins."""
    if grid_kev is None or passes.edges_kev is None:
        return [np.eye(passes.counts.shape[3])] * passes.counts.shape[2]
    return [rebin_matrix(edges, grid_kev) for edges in passes.edges_kev]


# ------------------------------------------------------------------ what is looked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What is looked for, and with what: ``library`` None: templates are computed."""

    detector: Detector
    nuclides: NuclideTable
    library: LibraryFile | None = None
    exclude: Sequence[str] = ()


def shapes_for(grid_kev: Floats | None, background: Floats, sought: Sought) -> Shapes:
    """Return what is looked for: computed, or with the templates of a library file.

    Raises PassesError for a library that holds nothing to look for, or an excluded nuclide that
    nothing knows.
    """
    library = sought.library
    if grid_kev is None:
        if library is not None:
            raise PassesError("a library has energies, the windows of this file have none")
        return window_shapes(len(background))
    known = set(sought.nuclides.names)
    if library is not None:
        known |= {nuclide_of_source(name) for name in library.names}
    wanted = [nuclide_of_source(name) for name in sought.exclude]
    for name in wanted:
        if name not in known:
            text = f"--exclude {name}: there is no such nuclide"
            raise PassesError(f"{text}; {did_you_mean(name, sorted(known))}")
    computed = computed_shapes(sought.detector, sought.nuclides, grid_kev, background, wanted)
    if library is None:
        return computed
    natural = {n.name for n in sought.nuclides.nuclides if n.category == "NORM"}
    given = library_on(library, grid_kev, {*natural, *wanted})
    return replace(computed, library=spread(pruned(given, background), background, TEMPLATES))


def library_on(file: LibraryFile, grid_kev: Floats, without: set[str]) -> Library:
    """Return the shapes of a library file on a grid, named as ours: "Cs-137_Shielded"."""
    shapes = file.net_cps @ rebin_matrix(file.edges_kev, grid_kev)
    names, rows = [], []
    for name, shape in zip(file.names, shapes, strict=True):
        nuclide = nuclide_of_source(name)
        if nuclide in without or not shape.sum() > 0:
            continue
        rest = name.partition("_")[2]
        names.append(f"{nuclide}_{rest}" if rest else nuclide)
        rows.append(shape / shape.sum())
    if not names:
        raise PassesError("the library holds no source that is looked for in this energy range")
    return Library(names=tuple(names), shapes=np.array(rows), edges_kev=grid_kev)


def model_of(commission: Summed, test: Summed, shapes: Shapes, slice_s: float, far: float) -> Model:
    """Return the model learned from the commission passages, or a provisional one for too few."""
    taught = commission.some(np.flatnonzero(commission.is_judged))
    if len(taught.counts) >= LEAST_TO_LEARN:
        return detection.learn(
            taught.counts, taught.expected, taught.background, shapes, slice_s, far
        )
    source = taught if len(taught.counts) else test.some(np.flatnonzero(test.is_judged))
    if not len(source.counts):
        raise PassesError("no pass has a working detector with a background")
    rate = source.background.sum(axis=0) / source.background_s.sum()
    return detection.assume(shapes, rate, slice_s, far)


# ------------------------------------------------------------------ judging


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


def neutron_rate(passes: Passes) -> tuple[float, float] | None:
    """Return the neutron background of the commission passages [counts/s] and its seconds.

    None: no neutrons are counted, or there is no commission passage to know it from. The median
    of the passages' rates: a passage with a source among them changes nothing. Where few counts
    come, so that the median is coarse, the mean of the lower 95 % bounds it from below.
    """
    if passes.neutron_counts is None or not passes.is_commission.any():
        return None
    real = passes.is_real[passes.is_commission]
    counts = passes.neutron_counts[passes.is_commission].sum(axis=2, dtype=float) * real
    seconds = real.sum(axis=1) * passes.slice_s
    rates = counts.sum(axis=1) / seconds
    usual = rates <= np.quantile(rates, 0.95)
    mean = float((rates * seconds)[usual].sum() / seconds[usual].sum())
    return max(float(np.median(rates)), mean), float(seconds.sum())


def neutron_p_values(passes: Passes) -> Floats | None:
    """Return p of each test passage's neutrons: the least over 1 to 5 s, times the looks taken.

    Exact Poisson tails, the background's own uncertainty among them; Bonferroni over all places
    and lengths. None: see ``neutron_rate``.
    """
    background = neutron_rate(passes)
    if background is None:
        return None
    assert passes.neutron_counts is not None
    rate_cps, known_s = background
    found = []
    for number in np.flatnonzero(passes.is_test):
        slices = passes.neutron_counts[number, : passes.slices[number]].sum(axis=1, dtype=int)
        found.append(_least_neutron_p(slices, passes.slice_s, rate_cps, known_s))
    return np.array(found)


def _least_neutron_p(
    slices: NDArray[np.int_], slice_s: float, rate_cps: float, known_s: float
) -> float:
    below = np.concatenate([[0], np.cumsum(slices)])
    least, looks = 1.0, 0
    for span_s in NEUTRON_SPANS_S:
        span = min(len(slices), max(1, round(span_s / slice_s)))
        sums = below[span:] - below[:-span]
        looks += len(sums)
        least = min(least, neutron_tail_p(int(sums.max()), span * slice_s, rate_cps, known_s))
        if span == len(slices):
            break
    return min(1.0, least * looks)


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
