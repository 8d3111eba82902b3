"""A lane's spectra on the bench: what passes, what it is called, and what is never judged."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lane_bench import stamp
from spectral_bench import ENERGY, LEFT, RIGHT, computed_rules
from spectral_bench import SpectralLane as Lane

from agent.lane.alarms import worded_p
from agent.lane.options.spectral import SpectralRules
from agent.lane.spectra.memory import Crystals
from drivers.readings import GammaSpectrum, VehiclePresence


@pytest.fixture(scope="module")
def rules() -> SpectralRules:
    return computed_rules()


# ------------------------------------------------------------------ what passes


@pytest.mark.parametrize(
    ("nuclide", "category", "severity"),
    [
        ("Cs-137", "industrial", "high"),
        ("Co-60", "industrial", "high"),
        ("I-131", "medical", "elevated"),
    ],
)
def test_a_source_raises_one_alarm_before_its_vehicle_leaves_and_is_named_after(
    rules, nuclide, category, severity
):
    lane = Lane(rules)
    lane.empty(90)
    passage = lane.passes(nuclide, 60.0)
    phases = lane.alarms("spectral")
    assert [a.phase for a in phases] == ["raised", "updated", "cleared"]
    assert [a.rev for a in phases] == [1, 2, 3]
    assert len({a.alarm_id for a in phases}) == 1
    first, named, last = phases
    assert first.stamp.mono_us < passage.ended.mono_us
    assert (first.severity, first.nuclides, first.category) == ("high", None, None)
    assert first.provisional
    assert (named.category, named.nuclides, named.severity) == (category, (nuclide,), severity)
    assert (last.category, last.nuclides) == (category, (nuclide,))
    part = passage.spectral
    assert part.alarm
    assert part.category == category
    assert [n.name for n in part.nuclides] == [nuclide]
    assert part.p < rules.options.false_alarm_rate
    assert part.provisional
    assert part.norm is False
    assert (part.devices, part.detectors, part.left_out) == (("rpm",), ("rpm/Aa1", "rpm/Ba1"), ())
    assert part.background_quality == "good"
    assert 8 + 3 <= part.slices <= 8 + 3 + 2, "the vehicle, its approach, and slices cut by both"
    assert passage.alarm_ids == (first.alarm_id,)
    assert (passage.priority, passage.reasons) == ("high", ("spectral_agent",))


def test_an_empty_vehicle_is_judged_and_is_no_alarm(rules):
    lane = Lane(rules, seed=2)
    lane.empty(90)
    for _ in range(5):
        part = lane.passes().spectral
        assert part.p >= rules.options.false_alarm_rate
        assert not part.alarm
        assert part.category is None
    assert lane.alarms() == []
    assert {p.priority for p in lane.passages()} == {"routine"}


def test_potassium_spread_over_the_load_is_natural_and_never_of_high_severity(rules):
    lane = Lane(rules, seed=3)
    lane.empty(90)
    part = lane.passes("K-40", 60.0, half_s=30.0, long_s=14).spectral
    assert part.norm is True
    assert part.category == "NORM"
    assert [n.name for n in part.nuclides] == ["K-40"]
    for alarm in lane.alarms("spectral")[1:]:
        assert alarm.severity == "elevated"


@pytest.mark.parametrize(("alarm", "category"), [(False, None), (True, "NORM")])
def test_what_alarmed_the_portal_is_looked_at_though_its_spectrum_is_no_alarm(
    rules, alarm, category
):
    lane = Lane(rules, seed=4)
    lane.empty(90)
    part = lane.passes("K-40", 18.0, half_s=30.0, long_s=14, alarm=alarm).spectral
    assert not part.alarm
    assert part.p > 0.1
    assert part.category == category


@pytest.mark.parametrize(
    ("nuclide", "cps", "seed"), [("Co-60", 25.0, 1), ("Ba-133", 40.0, 3), ("I-131", 40.0, 5)]
)
def test_a_weak_source_is_not_taken_for_natural_cargo(rules, nuclide, cps, seed):
    """K, U and Th together explain almost anything weak; one other nuclide explains it better."""
    lane = Lane(rules, seed=seed)
    lane.empty(60)
    part = lane.passes(nuclide, cps, alarm=True).spectral
    assert part.category not in (None, "NORM")
    assert part.norm is False


# ------------------------------------------------------------------ what is not judged


def test_without_background_nothing_is_judged_and_the_passage_says_so(rules):
    lane = Lane(rules)
    lane.empty(2)
    part = lane.passes("Cs-137", 2000.0).spectral
    assert (part.p, part.statistic, part.norm, part.category) == (None, None, None, None)
    assert part.background_quality == "learning"
    assert part.slices > 0
    assert lane.alarms("spectral") == []


def test_a_detector_that_falls_silent_is_left_out_and_named(rules):
    lane = Lane(rules)
    lane.empty(90)
    lane.detectors = (LEFT,)
    lane.empty(8)
    passage = lane.passes("Cs-137", 400.0)
    assert passage.spectral.left_out == ("rpm/Ba1: silent",)
    assert [n.name for n in passage.spectral.nuclides] == ["Cs-137"]


def test_a_detector_heard_first_just_before_the_vehicle_is_left_out_and_named(rules):
    lane = Lane(rules)
    lane.energy["Ca1"] = lane.energy["Da1"] = ENERGY
    lane.empty(90)
    lane.detectors = (LEFT, RIGHT, "Ca1")
    lane.empty(2)
    lane.detectors = (LEFT, RIGHT, "Ca1", "Da1")
    passage = lane.passes("Cs-137", 300.0)
    assert passage.spectral.left_out == (
        "rpm/Ca1: no background yet",
        "rpm/Da1: no background yet",
    )
    assert [n.name for n in passage.spectral.nuclides] == ["Cs-137"]


def test_a_spectrum_without_energies_stands_as_one_fault_until_they_come(rules):
    lane = Lane(rules)
    lane.energy[RIGHT] = None
    lane.empty(30)
    (alarm,) = lane.alarms("fault")
    assert (alarm.phase, alarm.code, alarm.severity) == ("raised", "energy_unknown", "high")
    assert RIGHT in alarm.text
    lane.energy[RIGHT] = ENERGY
    lane.empty(2)
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]


def test_crystals_that_count_nothing_at_all_harm_nothing(rules):
    lane = Lane(rules)
    for number in range(2):
        for i in range(30):
            lane.at_s += 1.0
            if i == 20:
                lane.read(lane.at_s - 0.1, VehiclePresence(occupied=True))
            if i == 26:
                lane.read(lane.at_s - 0.1, VehiclePresence(occupied=False))
            nothing = GammaSpectrum(
                detector=LEFT, counts=(0,) * 512, real_time_s=1.0, live_time_s=1.0, energy=ENERGY
            )
            lane.read(lane.at_s, nothing)
        lane.at_s += 10.0
        lane.tick(lane.at_s)
        assert len(lane.passages()) == number + 1
    assert lane.alarms("spectral") == []
    part = lane.passages()[-1].spectral
    assert (part.p, part.left_out) == (None, ("rpm/Aa1: counts nothing",))


def test_a_spectrum_the_device_has_summed_for_long_is_no_slice(rules):
    lane = Lane(rules)
    lane.empty(20)
    before = lane.state.of(Crystals).spectra
    long = GammaSpectrum(
        detector=LEFT, counts=(500,) * 512, real_time_s=2400.0, live_time_s=2390.0, energy=ENERGY
    )
    lane.read(lane.at_s - 0.3, long)
    assert lane.state.of(Crystals).spectra is before


# ------------------------------------------------------------------ background


def test_other_slices_begin_with_another_background_and_the_same_gains(rules):
    lane = Lane(rules)
    lane.empty(90)
    before = lane.state.of(Crystals).spectra
    options = replace(rules.options, slice_s=0.5)
    lane.rules = replace(lane.rules, spectral=replace(rules, options=options))
    lane.empty(20)
    now = lane.state.of(Crystals).spectra
    assert now.gathering.slice_us == 500_000
    assert now.empty.live_s.max() < 20
    assert set(now.gains) == set(before.gains)
    assert now.gains["rpm/Aa1"].sample.live_s > before.gains["rpm/Aa1"].sample.live_s
    lane.rules = replace(lane.rules, spectral=replace(rules, options=options, shapes=rules.shapes))
    lane.empty(5)
    assert lane.state.of(Crystals).spectra.empty.live_s.max() > now.empty.live_s.max()


def test_no_vehicle_feeds_the_background_nor_what_lingers_behind_it(rules):
    lane = Lane(rules)
    lane.empty(120)
    before_cps = lane.rate_cps()
    lane.read(lane.at_s - 0.1, VehiclePresence(occupied=True))
    for _ in range(10):
        lane.second("Cs-137", 5000.0)
    lane.read(lane.at_s - 0.1, VehiclePresence(occupied=False))
    for _ in range(2):  # the receding source, within the guard
        lane.second("Cs-137", 2000.0)
    lane.empty(20)
    assert lane.rate_cps() == pytest.approx(before_cps, rel=0.02)


def test_the_gap_between_two_halves_of_one_vehicle_is_its_own_and_no_background(rules):
    lane = Lane(rules)
    lane.rules = replace(lane.rules, lane=replace(lane.rules.lane, join_gap_s=4.0))
    lane.empty(120)
    before_cps = lane.rate_cps()
    for _ in range(2):
        lane.read(lane.at_s - 0.1, VehiclePresence(occupied=True))
        for _ in range(5):
            lane.second("Cs-137", 3000.0)
        lane.read(lane.at_s - 0.1, VehiclePresence(occupied=False))
        for _ in range(3):
            lane.second("Cs-137", 3000.0)
    lane.empty(20)
    (passage,) = lane.passages()
    assert passage.spectral.slices >= 3 + 5 + 3 + 5
    assert lane.rate_cps() == pytest.approx(before_cps, rel=0.02)


# ------------------------------------------------------------------ the same again


def test_ticks_between_events_change_no_record_and_a_replay_gives_the_same(rules):
    lane = Lane(rules, seed=4)
    lane.empty(60)
    lane.passes("Cs-137", 300.0)
    lane.tick(lane.at_s)
    lane.passes()
    lane.tick(lane.at_s + 60.0)
    again, ticked = Lane(rules), Lane(rules)
    last_us = 0
    for event in lane.events[1:]:
        again._do(event)
        for at_us in range(last_us, event.stamp.mono_us, 333_000):
            ticked.tick(at_us / 1e6)
        ticked._do(event)
        last_us = event.stamp.mono_us
    assert len(lane.records) > 4
    assert again.records == lane.records
    assert ticked.records == lane.records
    assert lane.records[-1].stamp.mono_us <= stamp(lane.at_s + 60.0).mono_us


# ------------------------------------------------------------------ in words


@pytest.mark.parametrize(
    ("p", "words"),
    [(1.0, "p = 1"), (0.0412, "p = 0.041"), (4.21e-7, "p = 4.2e-07"), (1e-300, "p < 1e-12")],
    ids=["one", "likely", "small", "too small to be told"],
)
def test_a_p_value_is_worded_as_far_as_anybody_can_know_it(p, words):
    assert worded_p(p) == words
