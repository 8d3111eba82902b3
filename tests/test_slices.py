"""Spectra of several panels become slices; the empty lane's background follows them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.energy.scale import on_grid, rebin_matrix, sqrt_grid
from agent.lane.spectra.slices import EmptyLane, Gathering, Slice

SECOND_US = 1_000_000


def gathering() -> Gathering:
    return Gathering(slice_us=SECOND_US, bins=2)


def counts(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def a_slice(number: int, *rows: tuple[float, float], live_s: float = 1.0) -> Slice:
    return Slice(
        began_us=number * SECOND_US,
        ended_us=(number + 1) * SECOND_US,
        counts=np.array(rows, dtype=float),
        live_s=np.full(len(rows), live_s),
    )


def test_a_slice_is_whole_when_every_detector_that_is_heard_has_covered_it() -> None:
    g = gathering().with_interval("left", counts(3, 4), 1.0, 10_500_000)
    assert g.whole()
    g, first = g.close()
    assert first.began_us == 10 * SECOND_US
    assert first.counts.tolist() == [[3, 4]]
    g = g.with_interval("right", counts(1, 0), 0.98, 11_400_000)
    assert not g.whole(), "left is heard and has not spoken"
    g = g.with_interval("left", counts(5, 5), 0.99, 11_600_000)
    assert g.whole()
    _, second = g.close()
    assert second.counts.tolist() == [[5, 5], [1, 0]]
    assert second.live_s.tolist() == [0.99, 0.98]


def test_a_detector_that_fell_silent_is_waited_for_no_longer_and_counts_as_not_live() -> None:
    g = gathering().with_interval("left", counts(1, 1), 1.0, 500_000)
    g = g.with_interval("right", counts(1, 1), 1.0, 500_000)
    g, _ = g.close()
    for number in range(1, 8):
        g = g.with_interval("left", counts(1, 1), 1.0, number * SECOND_US + 500_000)
        due_us = g.due_us()
        assert due_us == (number + 2) * SECOND_US + 500_000
        assert g.whole() == (number >= 5)
        g, closed = g.close()
        assert closed.live_s.tolist() == [1.0, 0.0]


def test_an_interval_for_a_closed_slice_is_counted_as_late_and_changes_nothing() -> None:
    g = gathering().with_interval("left", counts(3, 4), 1.0, 10_500_000)
    g, _ = g.close()
    late = g.with_interval("left", counts(9, 9), 0.2, 10_900_000)
    assert late.late == 1
    assert late.due_us() is None


def test_a_detector_that_always_speaks_last_is_waited_for_after_its_first_word() -> None:
    g = gathering()
    closed = []
    for number in range(3):
        for detector in ("left", "right"):
            g = g.with_interval(detector, counts(1, 2), 1.0, number * SECOND_US + 500_000)
            while g.whole():
                g, one = g.close()
                closed.append(one)
    assert g.late == 1
    assert [each.live_s.tolist() for each in closed] == [[1.0], [1.0, 1.0], [1.0, 1.0]]


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", "c"]), st.integers(0, 30_000_000), st.integers(0, 99)),
        max_size=60,
    )
)
def test_no_count_is_lost_or_counted_twice_whatever_the_order(
    intervals: list[tuple[str, int, int]],
) -> None:
    g = gathering()
    given_in, taken, slices = 0, 0.0, []
    for detector, middle_us, n in intervals:
        before = g.late
        g = g.with_interval(detector, counts(n, 0), 0.1, middle_us)
        given_in += n if g.late == before else 0
        if g.whole():
            g, closed = g.close()
            slices.append(closed)
    while g.due_us() is not None:
        g, closed = g.close()
        slices.append(closed)
    taken = sum(float(s.counts.sum()) for s in slices)
    assert taken == given_in
    begins = [s.began_us for s in slices]
    assert begins == sorted(set(begins))


def test_the_background_forgets_exponentially_and_keeps_the_rate() -> None:
    empty = EmptyLane(memory_s=10.0)
    for number in range(400):
        empty = empty.with_slice(a_slice(number, (6.0, 2.0)), slow_memory_s=100.0)
    known = empty.for_detectors(1)
    assert known is not None
    held, live_s = known
    assert held[0] / live_s[0] == pytest.approx([6.0, 2.0])
    assert live_s[0] == pytest.approx(1.0 / (1.0 - math.exp(-0.1)))
    assert empty.parts_by() == pytest.approx(0.0)
    for number in range(400, 430):
        empty = empty.with_slice(a_slice(number, (12.0, 4.0)), slow_memory_s=100.0)
    fast, slow = 2.0 - math.exp(-3.0), 2.0 - math.exp(-0.3)
    assert empty.parts_by() == pytest.approx(fast / slow - 1.0, rel=0.02)


def test_a_detector_heard_later_has_no_exposure_before() -> None:
    empty = EmptyLane(memory_s=10.0).with_slice(a_slice(0, (6.0, 2.0)), slow_memory_s=100.0)
    known = empty.for_detectors(2)
    assert known is not None
    assert known[1].tolist() == [1.0, 0.0]
    assert EmptyLane(memory_s=10.0).for_detectors(2) is None


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=40), st.floats(0.5, 60.0))
def test_rebinning_by_interpolation_is_the_overlap_of_channels_and_bins(
    channels: list[int], width_kev: float
) -> None:
    edges = 5.0 + width_kev * np.arange(len(channels) + 1)
    grid = sqrt_grid(30.0, 900.0, 12)
    expected = np.array(channels) @ rebin_matrix(edges, grid)
    assert on_grid(tuple(channels), edges, grid) == pytest.approx(expected, abs=1e-6)


def test_a_detector_that_always_speaks_second_is_waited_for_from_its_second_interval_on() -> None:
    g = gathering()
    closed = []
    for number in range(3):
        for detector in ("left", "right"):
            g = g.with_interval(detector, counts(1, 1), 1.0, number * SECOND_US + 500_000)
            if g.whole():
                g, done = g.close()
                closed.append(done.live_s.tolist())
    assert closed == [[1.0], [1.0, 1.0], [1.0, 1.0]]
    assert g.late == 1
