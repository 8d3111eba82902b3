"""What a metal detector says of zones, signal and program, in the lane."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench

from agent.lane.options.instruments import MetalOptions
from drivers.readings import DeviceState, MetalAlarm, MetalPassages, MetalProgram


def said(bench: Bench):
    """Each walk that no vehicle fitted is a passage of its own."""
    bench.stop(200)
    return [p.metal for p in bench.passages()]


def walk(bench: Bench, at_s: float, *readings) -> None:
    for reading in (MetalPassages(entered=1, left=0), *readings):
        bench.read(at_s, reading, "metal")
    bench.tick(at_s + 50)


def alarm(**changes) -> MetalAlarm:
    given = {"active": None, "pulses": 1, "amplitude_scale": "percent"}
    return MetalAlarm(**{**given, **changes})


def test_a_walk_keeps_all_zones_and_the_largest_amplitude_of_its_alarms():
    lane = Bench()
    lane.metal_ready(0)
    walk(
        lane,
        10,
        alarm(zones=("2", "3"), amplitude=40.0),
        alarm(zones=("3", "5"), amplitude=61.5),
        alarm(amplitude=12.0),
    )
    (part,) = said(lane)
    assert (part.result, part.alarms) == ("alarm", 3)
    assert part.zones == ("2", "3", "5")
    assert (part.amplitude, part.amplitude_scale) == (61.5, "percent")


def test_zones_that_come_while_the_alarm_lasts_belong_to_it_and_are_no_other_alarm():
    lane = Bench()
    lane.metal_ready(0)
    walk(
        lane,
        10,
        MetalAlarm(active=True, pulses=None),
        MetalAlarm(active=True, pulses=None, zones=("4",), amplitude=9.0, amplitude_scale="bars"),
    )
    (part,) = said(lane)
    assert (part.alarms, part.zones, part.amplitude) == (1, ("4",), 9.0)


def test_a_detector_that_says_no_more_leaves_the_rest_unknown_and_not_zero():
    lane = Bench()
    lane.metal_ready(0)
    walk(lane, 10, alarm(amplitude_scale=None))
    (part,) = said(lane)
    assert (part.zones, part.amplitude, part.amplitude_scale) == (None, None, None)
    assert (part.program, part.sensitivity) == (None, None)


def test_the_signal_of_a_random_selection_is_no_metal():
    lane = Bench()
    lane.metal_ready(0)
    walk(lane, 10, alarm(is_random=True, zones=("1",), amplitude=3.0))
    (part,) = said(lane)
    assert (part.result, part.zones, part.amplitude) == ("random", None, None)


def test_a_random_selection_never_stands_for_a_metal_alarm_that_follows_it():
    lane = Bench(metal=MetalOptions(max_gap_s=5))
    lane.metal_ready(0)
    lane.read(10, MetalAlarm(active=None, pulses=1, is_random=True), "metal")
    lane.read(10.2, MetalAlarm(active=True, pulses=0), "metal")
    assert len(lane.alarms("metal", "raised")) == 1


def test_a_lasting_random_selection_leaves_the_metal_level_as_it_is():
    lane = Bench(metal=MetalOptions(max_gap_s=5))
    lane.metal_ready(0)
    lane.read(10, MetalAlarm(active=True, pulses=None, is_random=True), "metal")
    lane.read(10.2, MetalAlarm(active=True, pulses=None), "metal")
    assert len(lane.alarms("metal", "raised")) == 1
    (part,) = said(lane)
    assert (part.result, part.alarms) == ("alarm", 1)


def test_a_counted_detector_without_a_contact_can_say_clear():
    lane = Bench()
    lane.read(0, MetalAlarm(active=None, pulses=0), "metal")
    walk(lane, 10)
    (part,) = said(lane)
    assert part.result == "clear"


def test_a_counted_detector_that_was_lost_is_unknown_until_it_counts_again():
    lane = Bench()
    lane.read(0, MetalAlarm(active=None, pulses=0), "metal")
    lane.link(1, "metal", up=False)
    lane.link(2, "metal", up=True)
    walk(lane, 10)
    lane.read(70, MetalAlarm(active=None, pulses=0), "metal")
    walk(lane, 80)
    lane.read(140, MetalAlarm(active=None, pulses=None), "metal")
    walk(lane, 150)
    assert [part.result for part in said(lane)] == ["unknown", "clear", "unknown"]


def test_the_first_program_heard_is_what_later_ones_are_held_against():
    lane = Bench()
    lane.metal_ready(0)
    assert lane.read(1, MetalProgram(program="IS3", sensitivity="65"), "metal") == []
    assert lane.read(2, MetalProgram(program="IS3", sensitivity="65"), "metal") == []
    walk(lane, 10)
    (part,) = said(lane)
    assert (part.program, part.sensitivity) == ("IS3", "65")


def test_a_changed_program_stands_as_a_fault_until_it_is_set_back_and_is_noted_in_the_walk():
    lane = Bench()
    lane.metal_ready(0)
    lane.read(1, MetalProgram(program="IS3", sensitivity="65"), "metal")
    (raised,) = lane.read(5, MetalProgram(program="IS3", sensitivity="40"), "metal")
    assert (raised.kind, raised.code, raised.phase) == ("fault", "program_changed", "raised")
    assert "IS3 at sensitivity 65 to IS3 at sensitivity 40" in raised.text
    assert "voids the test certificate" in raised.text
    assert lane.read(6, MetalProgram(program="IS3", sensitivity="40"), "metal") == []
    walk(lane, 10)
    (cleared,) = lane.read(80, MetalProgram(program="IS3", sensitivity="65"), "metal")
    assert (cleared.code, cleared.phase) == ("program_changed", "cleared")
    (part,) = said(lane)
    assert part.sensitivity == "40"


def test_a_program_that_changed_while_the_detector_was_lost_is_a_fault_too():
    lane = Bench()
    lane.read(1, MetalProgram(program="7", sensitivity=None), "metal")
    lane.link(2, "metal", up=False)
    lane.link(30, "metal", up=True)
    said_now = lane.read(31, MetalProgram(program="8", sensitivity=None), "metal")
    assert [a.code for a in said_now] == ["program_changed"]


def test_program_and_sensitivity_that_come_one_after_the_other_are_no_change():
    lane = Bench()
    lane.read(1, MetalProgram(program="7", sensitivity=None), "metal")
    assert lane.read(2, MetalProgram(program=None, sensitivity="65"), "metal") == []
    assert lane.read(3, MetalProgram(program="7", sensitivity=None), "metal") == []
    (raised,) = lane.read(4, MetalProgram(program=None, sensitivity="64"), "metal")
    assert raised.code == "program_changed"


def test_an_operational_test_at_the_panel_stands_as_long_as_it_lasts():
    lane = Bench()
    state = DeviceState(condition="operational_test", active=True, detail="QA inspector")
    (raised,) = lane.read(1, state, "metal")
    assert raised.code == "operational_test"
    (cleared,) = lane.read(9, DeviceState(condition="operational_test", active=False), "metal")
    assert cleared.phase == "cleared"


SAID = st.one_of(
    st.builds(
        MetalAlarm,
        active=st.sampled_from([True, False, None]),
        pulses=st.one_of(st.none(), st.integers(0, 3)),
        is_random=st.booleans(),
        zones=st.sampled_from([None, (), ("1",), ("1", "2")]),
        amplitude=st.sampled_from([None, 0.0, 50.0]),
    ),
    st.builds(
        MetalProgram,
        program=st.sampled_from([None, "1", "2"]),
        sensitivity=st.sampled_from([None, "65"]),
    ),
    st.builds(MetalPassages, entered=st.integers(0, 2), left=st.integers(0, 2)),
    st.booleans(),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 0.2, 3.0, 60.0]), SAID), max_size=30))
def test_whatever_a_detector_says_persons_and_alarms_are_counted_once_and_faults_end(events):
    lane = Bench()
    at_s, persons = 0.0, 0
    for delay_s, what in events:
        at_s += delay_s
        if isinstance(what, bool):
            lane.link(at_s, "metal", up=what)
            continue
        lane.read(at_s, what, "metal")
        if isinstance(what, MetalPassages):
            persons += what.entered + what.left
    lane.tick(at_s + 100)
    lane.stop(at_s + 101)
    last = {p.passage_id: p.metal for p in lane.passages()}
    assert sum(part.persons for part in last.values()) == persons
    for part in last.values():
        assert (part.result == "alarm") == (part.alarms > 0)
        assert part.alarms or part.zones is None
    raised, cleared = ({a.alarm_id for a in lane.alarms(None, p)} for p in ("raised", "cleared"))
    assert raised == cleared


def test_a_vehicles_passage_keeps_what_its_persons_walks_said():
    lane = Bench(metal=MetalOptions(max_gap_s=30.0, alarm_joins_s=1.0))
    lane.metal_ready(0)
    lane.read(1, MetalProgram(program="IS3", sensitivity="65"), "metal")
    lane.gamma(10)
    for at_s, zone, amplitude in ((10.5, "2", 40.0), (14.0, "5", 12.0)):
        lane.read(at_s, MetalPassages(entered=1, left=0), "metal")
        lane.read(at_s, alarm(zones=(zone,), amplitude=amplitude), "metal")
    lane.leave(20)
    lane.tick(200)
    (part,) = [p.metal for p in lane.passages() if p.rpm is not None]
    assert (part.persons, part.zones) == (2, ("2", "5"))
    assert (part.amplitude, part.amplitude_scale) == (40.0, "percent")
    assert (part.program, part.sensitivity) == ("IS3", "65")
