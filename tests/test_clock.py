"""Stamps, steps and delays from clocks that a test turns by hand."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Backoff, Clock


class Hands:
    def __init__(self):
        self.wall_s, self.mono_s = 1_000_000.0, 50.0

    def clock(self, **options):
        return Clock(
            wall_s=lambda: self.wall_s, monotonic_s=lambda: self.mono_s, boot="b", **options
        )

    def pass_time(self, seconds):
        self.wall_s += seconds
        self.mono_s += seconds


def test_a_stamp_carries_both_clocks():
    hands = Hands()
    clock = hands.clock()
    hands.pass_time(2.5)
    stamp = clock.stamp()
    assert (stamp.utc_us, stamp.mono_us, stamp.boot) == (1_000_002_500_000, 52_500_000, "b")
    assert stamp.stepped is False


@pytest.mark.parametrize("jump_s", [3 * 86400.0, -3 * 86400.0, 0.6])
def test_a_step_of_the_wall_clock_is_told_once_and_marks_every_later_stamp(jump_s):
    hands = Hands()
    clock = hands.clock()
    assert clock.step_s() is None
    hands.pass_time(10)
    hands.wall_s += jump_s
    assert clock.stamp().stepped is True
    assert clock.step_s() == pytest.approx(jump_s)
    assert clock.step_s() is None
    hands.pass_time(10)
    assert clock.stamp().stepped is True


def test_slewing_by_a_timekeeper_is_no_step():
    hands = Hands()
    clock = hands.clock()
    for _ in range(20):
        hands.pass_time(1)
        hands.wall_s += 0.01
        assert clock.step_s() is None
    assert clock.stamp().stepped is False


def test_durations_are_monotonic_whatever_the_wall_clock_does():
    hands = Hands()
    clock = hands.clock()
    first = clock.stamp()
    hands.pass_time(5)
    hands.wall_s -= 86400
    assert clock.stamp().since_s(first) == pytest.approx(5)


def test_a_scaled_clock_runs_that_much_faster_and_waits_that_much_shorter():
    hands = Hands()
    clock = hands.clock(time_scale=4.0)
    first = clock.stamp()
    hands.pass_time(2)
    later = clock.stamp()
    assert later.since_s(first) == pytest.approx(8)
    assert later.utc_us - first.utc_us == 8_000_000
    assert clock.wall_delay_s(8.0) == 2.0


def test_a_wait_in_the_past_returns_at_once():
    asyncio.run(asyncio.wait_for(Hands().clock().sleep(-5.0), 1.0))


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=30))
def test_delays_span_from_the_first_to_a_doubling_ceiling_and_never_pass_the_cap(draws):
    rest = iter(draws)
    backoff = Backoff(first_s=1.0, cap_s=60.0, jitter=lambda: next(rest))
    for n, draw in enumerate(draws, 1):
        ceiling_s = min(60.0, 2.0**n)
        assert backoff.next_s() == pytest.approx(1.0 + (ceiling_s - 1.0) * draw)


def test_a_reset_begins_again_with_short_delays():
    backoff = Backoff(first_s=1.0, cap_s=60.0, jitter=lambda: 1.0)
    assert [backoff.next_s() for _ in range(7)] == [2, 4, 8, 16, 32, 60, 60]
    backoff.reset()
    assert backoff.next_s() == 2
