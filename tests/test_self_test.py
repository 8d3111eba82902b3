"""A lane's thresholds are held against the traffic for ever."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
from lane_bench import Bench, stamp

from agent.lane import self_test
from agent.lane.state import LaneState, Turn
from agent.records import SpectralPart

PART = SpectralPart(
    devices=("panel",),
    detectors=("panel",),
    left_out=(),
    alarm=False,
    statistic="score",
    p=0.5,
    false_alarm_rate=1e-3,
    provisional=False,
    category=None,
    nuclides=(),
    norm=None,
    extent_s=None,
    slices=10,
    background_s=60.0,
    background_quality="good",
    calibration="first",
)


class Lane:
    """Passages of nothing but their p-values, judged by thresholds learned from so many."""

    def __init__(self, learned_from: int = 100_000) -> None:
        self.state = LaneState()
        self.rules = Bench().rules
        self.phases: list[str] = []
        self.use("first", learned_from)

    def use(self, calibration: str, learned_from: int = 100_000) -> None:
        model = SimpleNamespace(together=SimpleNamespace(passes=learned_from))
        spectral = SimpleNamespace(calibration=calibration, model=model)
        self.rules = replace(self.rules, spectral=spectral)

    def passes(self, p_values, **changes) -> None:
        for p in p_values:
            turn = Turn(self.state.copied(), self.rules, stamp(1.0))
            self_test.note(turn, replace(PART, p=p, **changes))
            self.state = turn.state
            self.phases += [alarm.phase for alarm in turn.records]


def uniform(count: int) -> np.ndarray:
    """Return p-values at equal steps in no order: as uniform as any can be."""
    return np.random.default_rng(1).permutation((np.arange(count) + 0.5) / count)


def test_uniform_p_values_raise_nothing():
    lane = Lane()
    lane.passes(uniform(2000))
    assert lane.phases == []


def test_smaller_p_values_than_chance_gives_raise_a_fault_and_new_thresholds_clear_it():
    lane = Lane()
    lane.passes(uniform(500))
    lane.passes(uniform(500) ** 2)
    assert lane.phases == ["raised"]
    (fault,) = lane.state.standing.values()
    assert (fault.code, fault.kind, fault.device) == ("thresholds_stale", "fault", "panel")
    # P(u² < 0.1) = √0.1 of the new ones.
    assert "of them below 0.1 instead of 10%" in fault.text
    lane.use("second")
    lane.passes([0.4])
    assert lane.phases == ["raised", "cleared"]


def test_it_is_cleared_when_the_traffic_is_as_it_was():
    lane = Lane()
    lane.passes(uniform(500) ** 2)
    lane.passes(uniform(500))
    assert lane.phases == ["raised", "cleared"]


def test_a_few_sources_are_no_change_of_the_traffic():
    lane = Lane()
    lane.passes(np.concatenate([uniform(480), np.full(20, 1e-12)]))
    assert lane.phases == []


def test_thresholds_from_few_passages_may_stray_further():
    """A distance of 0.2 is 4.5 of √500, and 2.4 of √(500 · 200 / 700)."""
    strayed = 0.8 * uniform(500)
    exact, learned = Lane(), Lane(learned_from=200)
    exact.passes(strayed)
    learned.passes(strayed)
    assert exact.phases == ["raised"]
    assert learned.phases == []


def test_passages_that_were_not_judged_and_provisional_ones_say_nothing():
    lane = Lane()
    lane.passes([None] * 600)
    lane.passes([1e-9] * 600, provisional=True)
    assert lane.phases == []
    assert lane.state.self_test.p_values == ()
