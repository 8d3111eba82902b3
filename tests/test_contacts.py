"""The lane's contacts: debounce, counters, stuck inputs, presence and direction, doors."""

from __future__ import annotations

import dataclasses
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench

from agent.config import load_lane
from agent.config.problems import ConfigError
from agent.lane import occupancy
from agent.lane.options.instruments import ContactOptions
from drivers.base import Block
from drivers.lane.contacts import Driver, Input, Options
from drivers.readings import Contact, DeviceState, VehiclePresence
from simulators.lane_io import LaneModule, LoopCrossing, loops

LOOPS = {"loop-out": Input(channel=0), "loop-in": Input(channel=1)}
PERIOD_S = 0.05


def moxa(inputs=None, **options):
    return Driver(Options(preset="moxa-e1212", inputs=inputs or LOOPS, **options))


def read(driver, *levels):
    return driver.decode(driver.blocks()[0], levels)


def count(driver, figure):
    return driver.decode(driver.blocks()[1], (figure >> 16, figure & 0xFFFF))


def cabinet(**options):
    return moxa({"cabinet": Input(channel=0, counted=True)}, **options)


# ---------------------------------------------------------------- the driver


def test_the_moxa_map_is_that_of_the_manual():
    driver = moxa({"a": Input(channel=2, counted=True), "b": Input(channel=5)})
    assert driver.blocks() == (
        Block(table="discrete", address=2, count=4, period_s=0.05),
        Block(table="input", address=0x14, count=2, period_s=0.5),
    )


@pytest.mark.parametrize(("debounce_s", "reads"), [(0.0, 1), (0.05, 2), (0.06, 3), (0.2, 5)])
def test_a_level_counts_once_its_reads_span_the_debounce_time(debounce_s, reads):
    driver = moxa(debounce_s=debounce_s)
    for _ in range(reads):
        before = read(driver, 0, 0)
    assert [c.active for c in before] == [False, False]
    for _ in range(reads - 1):
        assert read(driver, 1, 0) == []
    assert read(driver, 1, 0) == [Contact(name="loop-out", active=True)]


@settings(max_examples=50, deadline=None)
@given(levels=st.lists(st.booleans(), max_size=60))
def test_debounced_levels_alternate_and_never_come_from_a_single_read(levels):
    driver = moxa({"loop": Input(channel=0)})
    told = [c.active for level in levels for c in read(driver, int(level))]
    assert all(a is not b for a, b in itertools.pairwise(told))
    runs = sum(1 for a, b in itertools.pairwise(levels) if a == b)
    assert len(told) <= runs


def test_a_normally_closed_contact_with_a_cut_wire_is_active():
    driver = moxa({"cabinet": Input(channel=0, normally_closed=True)}, debounce_s=0)
    assert read(driver, 0) == [Contact(name="cabinet", active=True)]


def test_a_pulse_between_two_reads_is_told_by_the_counter_alone():
    driver = cabinet(debounce_s=0)
    read(driver, 0)
    assert count(driver, 100) == []
    assert count(driver, 103) == [Contact(name="cabinet", active=False, pulses=3)]


def test_a_closing_that_the_contact_showed_is_not_told_again_by_its_counter():
    driver = cabinet(debounce_s=0)
    read(driver, 0)
    count(driver, 100)
    assert read(driver, 1) == [Contact(name="cabinet", active=True, pulses=0)]
    assert count(driver, 101) == []
    read(driver, 0)
    assert count(driver, 102) == [Contact(name="cabinet", active=False, pulses=1)]


def test_a_counter_that_is_read_before_its_contact_tells_the_closing_once():
    driver = cabinet(debounce_s=0.05)
    read(driver, 0)
    read(driver, 0)
    count(driver, 100)
    assert read(driver, 1) == []
    assert count(driver, 101) == []  # the level is still being debounced: the same one
    assert read(driver, 1) == [Contact(name="cabinet", active=True, pulses=0)]
    assert read(driver, 1) == []


def test_a_bounce_that_only_the_counter_kept_is_told_once_the_level_rests():
    driver = cabinet(debounce_s=0.05)
    read(driver, 0)
    read(driver, 0)
    count(driver, 100)
    read(driver, 1)
    assert count(driver, 101) == []
    read(driver, 0)
    assert read(driver, 0) == [Contact(name="cabinet", active=False, pulses=1)]


def test_what_was_counted_while_the_module_was_lost_is_told():
    driver = cabinet(debounce_s=0)
    read(driver, 0)
    count(driver, 100)
    assert driver.silence() == [Contact(name="cabinet", active=None)]
    assert count(driver, 102) == []
    first, second = read(driver, 0)
    assert (first.active, first.pulses, second.active, second.pulses) == (False, 0, False, 2)


def test_a_counter_that_jumps_is_a_condition_and_no_thousand_openings():
    driver = cabinet(debounce_s=0)
    read(driver, 0)
    count(driver, 100)
    (state,) = count(driver, 70_000)
    assert (state.condition, state.active) == ("counter_reset", True)
    assert count(driver, 70_000) == [DeviceState(condition="counter_reset", active=False)]


def test_a_stuck_input_is_said_once_and_taken_back_once():
    driver = moxa({"loop": Input(channel=0, stuck_after_s=1.0)})
    said = [r for _ in range(40) for r in read(driver, 1) if isinstance(r, DeviceState)]
    assert said == [
        DeviceState(condition="loop_stuck", active=True, detail="active for 1 s"),
    ]
    said = [r for _ in range(5) for r in read(driver, 0) if isinstance(r, DeviceState)]
    assert said == [DeviceState(condition="loop_stuck", active=False)]


@pytest.mark.parametrize(
    ("inputs", "more", "text"),
    [
        ({}, {}, "at least one"),
        ({"loop": {}}, {}, "no channel"),
        ({"loop": {"channel": 1}, "door": {"channel": 1}}, {}, "two inputs"),
        ({"Loop": {"channel": 1}}, {}, "expected a name"),
        ({"loop": {"channel": 1}}, {"preset": "custom"}, "needs its point"),
        ({"loop": {"channel": 1, "point": {"contact": 4}}}, {}, "point given"),
        ({"loop": {"channel": 1, "chanel": 2}}, {}, "did you mean channel?"),
        ({"loop": {"channel": 99}}, {}, "from -1 to 15"),
        ({"loop": {"channel": 1}}, {"presence": ["lop"]}, "did you mean loop?"),
        ({"a": {"channel": 1}}, {"tamper": ["a"], "door": ["a"]}, "two roles"),
    ],
)
def test_a_wrong_input_is_named_when_the_file_is_read(tmp_path, inputs, more, text):
    options = {"preset": "moxa-e1212", **more}
    lines = ["[lane]", "[devices.gate]", 'driver = "lane.contacts"', 'port = "tcp://127.0.0.1:1"']
    lines += [f"{k} = {v!r}".replace("'", '"') for k, v in options.items()]
    lines.append("[devices.gate.inputs]")
    for name, wired in inputs.items():
        lines.append(f"[devices.gate.inputs.{name}]")
        for key, value in wired.items():
            written = "{ contact = 4 }" if isinstance(value, dict) else value
            lines.append(f"{key} = {written}")
    path = tmp_path / "one.toml"
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ConfigError, match=text.replace("?", r"\?")):
        load_lane(path)


# ---------------------------------------------------------------- the simulated module


@pytest.mark.parametrize("seed", range(6))
def test_the_driver_tells_the_loops_of_the_simulated_module(seed):
    print(f"seed={seed}")
    rng = random.Random(seed)
    crossings = [
        LoopCrossing(
            at_s=5.0 + 20 * n,
            speed_m_per_s=rng.uniform(1.0, 5.0),
            length_m=rng.uniform(4.0, 18.0),
            goes_in=rng.random() < 0.5,
        )
        for n in range(4)
    ]
    outer, inner = loops(crossings)
    module = LaneModule({0: outer, 1: inner})
    driver = moxa()
    rises = {"loop-out": [], "loop-in": []}
    for tick in range(int(90 / PERIOD_S)):
        at_s = tick * PERIOD_S
        module.update(at_s)
        for contact in read(driver, *(int(module.unit.discrete[c]) for c in (0, 1))):
            if contact.active:
                rises[contact.name].append(at_s)
    for name, truth in (("loop-out", outer), ("loop-in", inner)):
        assert len(rises[name]) == len(truth)
        for told, (start, _) in zip(rises[name], truth, strict=True):
            assert 0 <= told - start <= 2 * PERIOD_S + 1e-6


# ---------------------------------------------------------------- the lane


@pytest.fixture
def heard(monkeypatch):
    """What the occupancy is told of presence."""
    said = []
    original = occupancy.on_presence

    def note(turn, device, reading):
        said.append((turn.stamp.mono_us / 1e6, reading))
        original(turn, device, reading)

    monkeypatch.setattr(occupancy, "on_presence", note)
    return said


def bench(**options):
    bench = Bench(join_gap_s=5.0)
    given = {"presence": ("loop-out", "loop-in"), **options}
    bench.rules = dataclasses.replace(bench.rules, contacts={"gate": ContactOptions(**given)})
    return bench


def contact(bench, at_s, name, active, pulses=None):
    return bench.read(at_s, Contact(name=name, active=active, pulses=pulses), "gate")


def vacant(bench, at_s=0.0):
    for name in ("loop-out", "loop-in"):
        contact(bench, at_s, name, False)


def test_presence_is_occupied_with_one_and_vacant_only_with_none(heard):
    lane = bench()
    vacant(lane)
    contact(lane, 1, "loop-out", True)
    contact(lane, 2, "loop-in", True)
    contact(lane, 3, "loop-out", False)
    contact(lane, 4, "loop-in", False)
    assert [(at, r.occupied) for at, r in heard] == [(0, False), (1, True), (2, True), (4, False)]


@pytest.mark.parametrize(
    ("first", "second", "direction"),
    [("loop-out", "loop-in", "in"), ("loop-in", "loop-out", "out")],
)
def test_the_order_of_two_loops_is_the_direction(heard, first, second, direction):
    lane = bench()
    vacant(lane)
    contact(lane, 1, first, True)
    contact(lane, 2, second, True)
    contact(lane, 3, first, False)
    contact(lane, 4, second, False)
    assert [r.direction for _, r in heard] == [None, None, direction, direction]


def test_a_short_vehicle_that_leaves_the_first_loop_before_the_second_has_a_direction(heard):
    lane = bench()
    vacant(lane)
    contact(lane, 1, "loop-out", True)
    contact(lane, 1.5, "loop-out", False)
    contact(lane, 2.5, "loop-in", True)
    assert heard[-1][1] == VehiclePresence(occupied=True, direction="in")


def test_the_next_vehicle_begins_without_the_direction_of_the_last(heard):
    lane = bench()
    vacant(lane)
    for name in ("loop-out", "loop-in"):
        contact(lane, 1, name, True)
    for name in ("loop-out", "loop-in"):
        contact(lane, 2, name, False)
    contact(lane, 9, "loop-in", True)
    assert heard[-1][1] == VehiclePresence(occupied=True)
    contact(lane, 10, "loop-out", True)
    assert heard[-1][1] == VehiclePresence(occupied=True, direction="out")


def test_a_lost_module_leaves_presence_unknown_and_not_vacant(heard):
    lane = bench()
    vacant(lane)
    lane.link(1, "gate", up=False)
    assert heard[-1][1] == VehiclePresence(occupied=None)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["device_lost"]


def test_one_loop_alone_that_is_unknown_is_not_vacant(heard):
    lane = bench()
    contact(lane, 1, "loop-out", False)
    assert heard == []
    contact(lane, 2, "loop-in", None)
    assert heard == []
    contact(lane, 3, "loop-in", False)
    assert [r.occupied for _, r in heard] == [False]


def test_the_direction_stands_in_the_portals_passage():
    lane = bench()
    vacant(lane)
    lane.background(1)
    contact(lane, 5, "loop-out", True)
    lane.gamma(5.5)
    contact(lane, 6, "loop-in", True)
    lane.gamma(6.5)
    lane.leave(7)
    lane.tick(60)
    assert [p.direction for p in lane.passages()] == ["in"]


def test_an_opened_cabinet_is_a_standing_tamper_alarm():
    lane = bench(tamper=("cabinet",))
    contact(lane, 1, "cabinet", False, 0)
    contact(lane, 2, "cabinet", True, 0)
    contact(lane, 2.5, "cabinet", True, 1)
    contact(lane, 9, "cabinet", False, 0)
    said = [(a.code, a.phase, a.source) for a in lane.alarms("tamper")]
    assert said == [
        ("tamper_cabinet", "raised", "device"),
        ("tamper_cabinet", "cleared", "device"),
    ]


def test_a_door_that_opened_while_the_module_was_lost_is_an_alarm_of_its_own():
    lane = bench(door=("north",))
    contact(lane, 1, "north", False, 0)
    contact(lane, 5, "north", False, 2)
    raised, cleared = lane.alarms("tamper")
    assert (raised.phase, cleared.phase) == ("raised", "cleared")
    assert raised.code == "door_open_north"
    assert "2 times" in raised.text
    assert raised.evidence[0].observed == 2.0


def test_a_door_that_cannot_be_read_any_more_stays_open():
    lane = bench(door=("north",))
    contact(lane, 1, "north", True, 0)
    contact(lane, 2, "north", None)
    lane.link(3, "gate", up=False)
    assert [a.phase for a in lane.alarms("tamper")] == ["raised"]


def test_two_limit_switches_that_contradict_each_other_are_a_fault():
    lane = bench(barrier_open="up", barrier_closed="down")
    contact(lane, 1, "down", True)
    contact(lane, 2, "up", True)
    contact(lane, 3, "down", False)
    assert [a.phase for a in lane.alarms("fault") if a.code == "barrier_limits"] == [
        "raised",
        "cleared",
    ]


def test_a_contact_without_a_role_changes_nothing():
    lane = bench()
    assert contact(lane, 1, "light", True) == []
    assert lane.alarms() == []
