"""The lane's own check that its spectral thresholds hold: uniform draws and closed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from lane_bench import Bench, stamp

from agent.analysis.detection.threshold import uniformity_p
from agent.analysis.detection.uniformity import holds_p, too_many_p
from agent.lane.alarms import Finding, Standing, raised
from agent.lane.moment import Moment
from agent.lane.spectra import uniformity
from agent.lane.spectra.uniformity import Uniformity
from agent.lane.state import LaneState
from agent.lane.vehicles import Transit
from agent.records import BackgroundUsed, NuclideNamed, SpectralPart

FAR = 1e-3
PART = SpectralPart(
    devices=("rpm",),
    detectors=("rpm",),
    left_out=(),
    alarm=False,
    statistic="score",
    p=0.5,
    false_alarm_rate=FAR,
    provisional=False,
    category=None,
    nuclides=(),
    norm=None,
    extent_s=None,
    slices=10,
    background_s=100.0,
    background_quality="good",
    calibration="a",
)


EXACT = 10**9
"""Thresholds that were learned from so many passages are no less certain than known ones."""


def thresholds_from(passages: int) -> SimpleNamespace:
    return SimpleNamespace(model=SimpleNamespace(together=SimpleNamespace(passes=passages)))


class Lane:
    """A lane that is told the p-values of one passage after the other."""

    def __init__(self, learned_from: int = EXACT) -> None:
        self.rules = replace(Bench().rules, spectral=thresholds_from(learned_from))
        self.moment = Moment(LaneState(), self.rules, stamp(1.0))

    def passes(self, p, **changes) -> None:
        unknown = BackgroundUsed(
            gamma_cps=None,
            reference_gamma_cps=None,
            neutron_cps=None,
            quality="good",
            age_s=None,
        )
        kind = changes.pop("alarmed_by", None)
        transit = Transit(
            passage_id="p",
            device="rpm",
            started=stamp(1.0),
            last_count=stamp(1.0),
            background=unknown,
            spectral=replace(PART, p=p, **changes),
        )
        if kind is not None:
            finding = Finding(
                kind=kind[0], source=kind[1], code="x", severity="high", device="rpm", text="x"
            )
            alarm = raised(Moment(LaneState(), self.rules, stamp(1.0)), finding, "a", "p")
            transit = replace(transit, alarms=(alarm,))
        uniformity.note(self.moment, transit)

    @property
    def stands(self) -> bool:
        return ("rpm", uniformity.CODE) in self.moment.state.of(Standing).standing


# ------------------------------------------------------------------ the figures


@pytest.mark.parametrize(
    ("alarms", "passages", "rate", "want"),
    [
        (0, 100, 0.01, 1.0),
        (1, 100, 0.01, 1 - 0.99**100),
        (100, 100, 0.9, 0.9**100),
        (2, 3, 0.5, 0.5),
    ],
)
def test_so_many_alarms_are_as_likely_as_the_binomial_says(alarms, passages, rate, want):
    assert too_many_p(alarms, passages, rate) == pytest.approx(want)


def test_learned_thresholds_are_held_to_both_tests_and_formulae_to_one():
    n = 200
    even = (np.arange(n) + 0.5) / n
    assert holds_p(even, FAR, learned_from=EXACT) == 1.0
    half = 0.5 * even
    # No p above a half: the largest distance is a half, and Kolmogorov's series has one term left.
    want = 2 * 2 * math.exp(-2 * ((math.sqrt(n) + 0.12 + 0.11 / math.sqrt(n)) * 0.5) ** 2)
    assert holds_p(half, FAR, learned_from=EXACT) == pytest.approx(want, rel=1e-6)
    assert uniformity_p(half) == pytest.approx(want / 2, rel=1e-6)
    assert holds_p(half, FAR, learned_from=None) == 1.0
    with pytest.raises(ValueError, match="no p-values"):
        holds_p(np.zeros(0), FAR, learned_from=EXACT)


# ------------------------------------------------------------------ the lane


def test_uniform_p_values_raise_nothing_in_ten_thousand_passages():
    lane = Lane()
    for p in np.random.default_rng(1).uniform(size=10_000):
        lane.passes(float(p))
        assert not lane.stands
    assert lane.moment.records == []
    assert len(lane.moment.state.of(Uniformity).benign.p) == uniformity.WINDOW


def test_thresholds_that_hold_no_more_stand_as_a_fault_until_they_hold_again():
    lane = Lane()
    rng = np.random.default_rng(2)
    for p in rng.uniform(size=500):
        lane.passes(float(p))
    passed = 0
    while not lane.stands:
        lane.passes(float(rng.uniform() ** 2))  # everything looks more like a source than it is
        passed += 1
        assert passed < uniformity.WINDOW
    (alarm,) = lane.moment.records
    assert (alarm.kind, alarm.code, alarm.phase) == ("fault", "thresholds_not_holding", "raised")
    assert "calibrate threshold" in alarm.text
    for p in rng.uniform(size=uniformity.WINDOW):
        lane.passes(float(p))
    assert [a.phase for a in lane.moment.records] == ["raised", "cleared"]


def test_too_many_alarms_are_seen_though_all_else_is_uniform():
    lane = Lane()
    rng = np.random.default_rng(3)
    for number, p in enumerate(rng.uniform(FAR, 1.0, size=400)):
        lane.passes(1e-4 if number % 25 == 0 else float(p))
    assert lane.stands


def test_nothing_is_said_of_fewer_than_a_hundred_passages():
    lane = Lane()
    for _ in range(uniformity.LEAST - 1):
        lane.passes(1e-5)
    assert not lane.stands
    lane.passes(1e-5)
    assert lane.stands


def test_thresholds_by_formula_may_err_to_the_side_of_few_alarms():
    lane = Lane()
    for _ in range(400):
        lane.passes(1.0, provisional=True, calibration=None)
    assert not lane.stands
    for _ in range(20):
        lane.passes(1e-5, provisional=True, calibration=None)
    assert lane.stands


def test_new_thresholds_begin_anew():
    lane = Lane()
    for _ in range(100):
        lane.passes(1e-5)
    assert lane.stands
    lane.passes(0.5, calibration="b")
    assert not lane.stands
    assert lane.moment.state.of(Uniformity).benign.p == (0.5,)


@pytest.mark.parametrize(
    "changes",
    [
        {"alarmed_by": ("gamma", "device")},
        {"alarmed_by": ("neutron", "agent")},
        {"category": "NORM", "norm": True},
        {"category": "medical", "nuclides": (NuclideNamed(name="I-131", confidence=0.9),)},
        {"background_quality": "learning"},
    ],
    ids=["device's alarm", "neutrons", "natural", "named", "no background yet"],
)
def test_a_source_that_is_found_rightly_says_nothing_against_the_thresholds(changes):
    lane = Lane()
    for _ in range(150):
        lane.passes(1e-9, **changes)
    assert lane.moment.state.of(Uniformity).benign is None


def test_an_alarm_of_ours_that_nobody_can_name_counts():
    lane = Lane()
    lane.passes(1e-9, category="unknown", alarmed_by=("spectral", "agent"))
    assert lane.moment.state.of(Uniformity).benign.p == (1e-9,)


def test_what_was_not_judged_counts_for_nothing():
    lane = Lane()
    lane.passes(None)
    assert lane.moment.state.of(Uniformity).benign is None


def test_thresholds_from_few_passages_may_stray_further():
    """A distance of 0.2 is 4.5 of √500, and 2.4 of √(500 · 200 / 700)."""
    strayed = 0.8 * (np.random.default_rng(1).permutation(500) + 0.5) / 500
    exact, learned = Lane(), Lane(learned_from=200)
    for p in strayed.tolist():
        exact.passes(p)
        learned.passes(p)
    assert exact.stands
    assert not learned.stands
