"""Passages of several detectors summed into one spectrum a slice, without those that fail."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.scale import (
    GRID_BINS,
    GRID_HIGH_KEV,
    GRID_LOW_KEV,
    rebin_matrix,
    sqrt_grid,
)
from agent.tools.evaluate.passes import Passes, PassesError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CHUNK = 64
DEAD_COUNTS = 10.0
"""A detector that should have counted so many and counted none is dead: p = e^-10."""
STUCK_SLICES, STUCK_COUNTS = 10, 5.0
"""So many slices of the same count of so many or more are no Poisson process."""
FAMILY = (0.5, 2.0)
FAMILY_SIGMAS = 5.0
"""A background outside this many times the detector's own median, by so many standard errors."""


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
