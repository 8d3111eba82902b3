"""A scale's calibration: permissible errors, declared values, zero, work in progress, the tool."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import re
import signal
import sys
import tomllib
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import paho.mqtt.client as mqtt
import pytest
from agent_process import (
    LANE,
    PREFIX,
    AgentProcess,
    alarms,
    audits,
    newest_passages,
    until,
    write_config,
)
from delivery_bench import check_message
from hypothesis import given
from hypothesis import strategies as st
from lane_bench import Bench, stamp, weight
from mosquitto import running_mosquitto
from paho.mqtt.enums import CallbackAPIVersion

from agent import cli
from agent.clock import Clock
from agent.config import ConfigError, examine, load_lane
from agent.delivery import wire
from agent.lane.inline import step_answered as step
from agent.lane.instruments.calibration import Calibrations, permissible_error_kg, slope_kg_per_h
from agent.lane.instruments.weighing import SETTLE_S, Weighings
from agent.lane.options.scales import ScaleCalibration, ScaleOptions
from agent.records import LinkChange, Timed
from agent.tools.calibrate.scale import Live, MeasureError, Pace, _storing_nothing, measure
from agent.tools.calibrate.table import Plan, Point, due_after, judge, parse_load, section
from drivers.base import Block
from drivers.readings import BadFrame, Housekeeping, Reason
from drivers.scale import dini_argeo
from drivers.scale.modbus_map import Driver, Options
from simulators.centre import Centre
from simulators.clock import SceneClock
from simulators.scales import ToledoScale, Weighbridge

# ------------------------------------------------------------------ permissible errors


@pytest.mark.parametrize(
    ("load_kg", "in_service", "expected"),
    [
        # A 60 t weighbridge of e = 20 kg: 500 e = 10 t, 2000 e = 40 t.
        (400, False, 10),
        (10_000, False, 10),
        (10_020, False, 20),
        (40_000, False, 20),
        (40_020, False, 30),
        (60_000, False, 30),
        (40_000, True, 40),
        (60_000, True, 60),
        (-10_000, True, 20),
        (200_020, False, None),
    ],
)
def test_the_permissible_error_of_class_iii_follows_its_table(load_kg, in_service, expected):
    found = permissible_error_kg(load_kg, e_kg=20, accuracy_class="III", in_service=in_service)
    assert found == expected


def test_class_iiii_has_its_own_steps_and_fewer_intervals():
    errors = [
        permissible_error_kg(n * 50, e_kg=50, accuracy_class="IIII", in_service=False)
        for n in (50, 51, 200, 201, 1000, 1001)
    ]
    assert errors == [25, 50, 50, 75, 75, None]


# ------------------------------------------------------------------ what is declared

SECTION = """
[devices.scale]
driver = "scale.toledo"
port = "/dev/scale"
e_kg = 20.0
max_kg = 60000.0
"""


def lane_with(tmp_path, text):
    path = tmp_path / "lane-1.toml"
    path.write_text(SECTION + text, encoding="utf-8")
    return load_lane(path)


def test_a_declared_calibration_is_a_table_of_its_own(tmp_path):
    lane = lane_with(
        tmp_path,
        '[devices.scale.calibration]\ncalibrated = "2026-11-02"\ndue = "2027-11-02"\n'
        'seal = "A 104"\nerrors_kg = [[5000, 0], [40000.0, -20.0]]\n',
    )
    declared = lane.devices[0].kind_options.calibration
    assert declared.errors_kg == ((5000.0, 0.0), (40000.0, -20.0))
    assert (declared.seal, declared.certificate, declared.accuracy_class) == ("A 104", None, "III")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('due = "2027-02-30"', "no such day"),
        ('due = "30.2.2027"', "calibration.due"),
        ("due = 2027-11-02", "calibration.due"),
        ('calibrated = "2026-11-02"\ndue = "2026-11-02"', "expected a day after 2026-11-02"),
        ("errors_kg = [[5000.0]]", "errors_kg"),
        ("calibration_counter = -1", "from 0"),
        ('accuracy_class = "II"', '"III", "IIII"'),
    ],
)
def test_what_cannot_be_a_calibration_is_named(tmp_path, text, said):
    with pytest.raises(ConfigError, match=r"lane-1\.toml") as found:
        lane_with(tmp_path, f"[devices.scale.calibration]\n{text}\n")
    assert said in str(found.value)


def test_the_calibration_of_the_example_is_accepted(tmp_path):
    example = Path(__file__).parent.parent / "config/lanes/inbound-1.toml"
    path = tmp_path / "inbound-1.toml"
    text = example.read_text(encoding="utf-8")
    path.write_text(text.replace("\n#calibration = {", "\ncalibration = {"), encoding="utf-8")
    assert load_lane(path).device("scale").kind_options.calibration.certificate == "C 17"


def test_declared_errors_beyond_the_permissible_ones_are_warned_of(tmp_path):
    directory = tmp_path / "etc"
    (directory / "lanes").mkdir(parents=True)
    section = "[devices.scale.calibration]\nerrors_kg = [[5000, 20], [20000, -60], [300000, 0]]\n"
    (directory / "lanes/lane-1.toml").write_text(SECTION + section, encoding="utf-8")
    warned = [p.text for p in examine(directory).problems if p.is_warning and "class III" in p.text]
    assert len(warned) == 2
    assert "20000 kg was left -60 kg off" in warned[0]
    assert "permits nothing" in warned[1]


def bench(**options):
    return Bench(scale=ScaleOptions(max_gap_s=5, **options))


def at(lane, utc, sync="ntp"):
    """Let the scale show nothing on it at a moment of the wall clock."""
    moment = datetime.fromisoformat(utc).replace(tzinfo=UTC)
    when = replace(stamp(1), utc_us=round(moment.timestamp() * 1e6), sync=sync)
    lane._do(Timed(stamp=when, device="scale", reading=weight(0)))


def test_the_calibration_is_a_fault_from_the_day_after_it_was_due():
    lane = bench(calibration=ScaleCalibration(due="2026-11-23"))
    at(lane, "2026-11-23T23:59:59.999999")
    assert lane.alarms() == []
    at(lane, "2026-11-24T00:00:00")
    assert [(a.code, a.severity) for a in lane.alarms()] == [("calibration_due", "elevated")]


def test_a_clock_that_nobody_set_says_nothing_of_the_due_day():
    lane = bench(calibration=ScaleCalibration(due="2026-11-23"))
    at(lane, "2031-01-01T00:00:00", sync="none")
    assert lane.alarms() == []


def count(lane, at_s, name, value):
    lane.read(at_s, Housekeeping(quantity=name, value=value, unit="1"), "scale")


def test_a_counter_other_than_the_declared_one_is_a_fault_until_it_is_right():
    lane = bench(calibration=ScaleCalibration(calibration_counter=12))
    count(lane, 1, "calibration_counter", 12)
    assert lane.alarms() == []
    count(lane, 2, "calibration_counter", 13)
    assert "13 where 12 is known" in lane.alarms("fault", "raised")[0].text
    count(lane, 3, "calibration_counter", 12)
    assert [a.phase for a in lane.alarms()] == ["raised", "cleared"]


def test_without_a_declared_counter_the_first_one_heard_is_held_against_later_ones():
    lane = bench()
    count(lane, 1, "configuration_counter", 7)
    count(lane, 2, "calibration_counter", 3)
    assert lane.alarms() == []
    count(lane, 3, "configuration_counter", 8)
    assert [a.code for a in lane.alarms()] == ["configuration_counter"]


def test_other_housekeeping_of_a_scale_is_no_counter():
    lane = bench()
    count(lane, 1, "temperature", 20)
    count(lane, 2, "temperature", 21)
    assert lane.alarms() == []
    assert lane.state.of(Calibrations).counters == {}


def test_a_register_map_reads_the_counters_and_says_each_change_once():
    driver = Driver(
        Options(
            preset="custom",
            table="holding",
            gross="0 u32",
            decimals=0,
            weight_unit="kg",
            counters={"calibration_counter": "2 u16", "configuration_counter": "3 u32"},
        )
    )
    (block,) = driver.blocks()
    assert block == Block(table="holding", address=0, count=5, period_s=0.2)

    def told(*registers):
        readings = driver.decode(block, registers)
        return [(r.quantity, r.value) for r in readings if isinstance(r, Housekeeping)]

    first = [("calibration_counter", 12), ("configuration_counter", 65539)]
    assert told(0, 0, 12, 1, 3) == first
    assert told(0, 0, 12, 1, 3) == []
    assert told(0, 0, 13, 1, 3) == [("calibration_counter", 13)]
    driver.silence()
    assert told(0, 0, 13, 1, 3) == [("calibration_counter", 13), ("configuration_counter", 65539)]


@pytest.mark.parametrize("figure", ["2 i16", "2 f32", "2 u16 sign 3.0", "2"])
def test_a_counter_that_is_none_is_refused_at_load(figure):
    options = {"preset": "dini-dgt", "decimals": 0, "weight_unit": "kg"}
    with pytest.raises(ValueError, match=r"counters\.calibration_counter"):
        Driver(Options(**options, counters={"calibration_counter": figure}))


# ------------------------------------------------------------------ zero between vehicles


def empties(lane, begin_s, kg, n=5):
    for i in range(n):
        lane.read(begin_s + 30 * i, weight(kg), "scale")
    return begin_s + 30 * n


def test_a_zero_that_stays_beyond_its_limit_is_a_notice_and_clears_when_it_is_back():
    lane = bench(zero_limit_kg=40)
    end_s = empties(lane, 0, 40)
    assert lane.alarms() == []
    end_s = empties(lane, end_s, -60, n=2)
    assert lane.alarms() == [], "two of five are no median"
    end_s = empties(lane, end_s, -60, n=1)
    (drift,) = lane.alarms()
    assert (drift.code, drift.severity) == ("zero_drift", "notice")
    assert "reads -60 kg" in drift.text
    empties(lane, end_s, 20, n=3)
    assert lane.alarms()[1].phase == "cleared"


def test_one_person_on_the_platform_is_no_drift_and_motion_is_not_looked_at():
    lane = bench(zero_limit_kg=40)
    end_s = empties(lane, 0, 0)
    for i in range(50):
        lane.read(end_s + i, weight(80), "scale")
    for i in range(600):
        lane.read(end_s + 50 + i, weight(300, stable=False), "scale")
    assert lane.alarms() == []


def test_the_first_stable_zero_after_each_vehicle_is_looked_at_without_waiting():
    lane = bench(zero_limit_kg=40)
    for i in range(5):
        lane.weigh(10 * (i + 1), 20_000, long_s=2)
        lane.read(10 * (i + 1) + 4, weight(60), "scale")
    codes = [a.code for a in lane.alarms("fault", "raised")]
    assert codes == [], "the bench shows a true 0 first when a vehicle leaves"
    for i in range(5):
        lane.read(100 + 5 * i, weight(20_000), "scale")
        lane.read(101 + 5 * i, weight(10_000, stable=False), "scale")
        lane.read(102 + 5 * i, weight(60), "scale")
    assert [a.code for a in lane.alarms("fault", "raised")] == ["zero_drift"]


@given(st.floats(-500, 500), st.floats(-50, 50))
def test_the_slope_of_a_straight_line_is_its_slope(slope, zero):
    line = [(i * 120_000_000, zero + slope * i * 120 / 3600) for i in range(40)]
    assert slope_kg_per_h(tuple(line)) == pytest.approx(slope, abs=1e-6)


def test_a_few_wild_samples_hardly_move_the_slope():
    line = [(i * 120_000_000, 36 * i * 120 / 3600) for i in range(40)]
    for i in random.Random(4).sample(range(40), 4):
        line[i] = (line[i][0], line[i][1] + 1e4)
    assert slope_kg_per_h(tuple(line)) == pytest.approx(36, rel=0.01)


def test_too_few_samples_have_no_slope():
    assert slope_kg_per_h(tuple((i * 120_000_000, 1.0 * i) for i in range(9))) is None


def test_snow_that_gathers_is_a_notice_before_the_limit_is_reached():
    lane = bench(zero_limit_kg=200, zero_slope_limit_kg_per_h=20, e_kg=None)
    for i in range(120):  # an hour, 36 kg/h
        lane.read(30 * i, weight(round(0.3 * i, 1)), "scale")
    (creep,) = lane.alarms()
    assert creep.code == "zero_slope"
    assert "+36.0 kg/h" in creep.text


def test_a_figure_that_stands_still_while_vehicles_pass_is_frozen():
    lane = bench(frozen_after_vehicles=3)
    lane.read(0, weight(0), "scale")
    for n in range(3):
        lane.vehicle(10 + 20 * n, number=n + 1)
        lane.read(18 + 20 * n, weight(0), "scale")
    lane.tick(80)
    lane.read(81, weight(0), "scale")
    (frozen,) = lane.alarms("fault")
    assert frozen.code == "scale_frozen"
    assert "3 vehicles passed" in frozen.text
    lane.read(82, weight(20), "scale")
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]


# ------------------------------------------------------------------ calibration in progress


def set_calibrating(lane, *, is_on):
    options = replace(lane.rules.scales["scale"], calibrating=is_on)
    lane.rules = replace(lane.rules, scales={"scale": options})


def test_weights_of_a_scale_being_calibrated_make_no_passage_and_no_alarm():
    lane = Bench(
        scale=ScaleOptions(max_gap_s=5, e_kg=20, max_kg=60_000, zero_limit_kg=40, calibrating=True),
        max_gross_kg=40_000,
    )
    lane.weigh(10, 50_010)
    lane.read(20, weight(0, value=None, mass_kg=None, range="over"), "scale")
    empties(lane, 30, 100)
    lane.tick(600)
    assert lane.passages() == []
    assert [(a.code, a.severity) for a in lane.alarms()] == [("calibration_in_progress", "notice")]


def test_a_vehicle_meanwhile_has_no_weight_says_why_and_is_not_held_up():
    lane = Bench(scale=ScaleOptions(max_gap_s=60, calibrating=True), join_gap_s=0)
    lane.link(0, "scale", up=True)
    lane.background(0)
    lane.vehicle(10)
    lane.weigh(20, 20_000)
    lane.tick(22)
    (passage,) = lane.passages()
    assert passage.scale is None
    assert "calibrating_scale" in passage.reasons
    assert passage.priority == "routine"


def test_begin_and_end_are_audit_records_with_what_is_declared():
    declared = ScaleCalibration(certificate="C 17", seal="A 104", calibration_counter=12)
    lane = bench(calibration=declared)
    lane.read(1, weight(0), "scale")
    set_calibrating(lane, is_on=True)
    lane.read(2, weight(0), "scale")
    lane.read(3, weight(0), "scale")
    set_calibrating(lane, is_on=False)
    lane.read(4, weight(0), "scale")
    lane.read(5, weight(0), "scale")
    audits = lane.audits("calibration")
    assert [(a.data["state"], a.stamp.mono_us) for a in audits] == [
        ("begun", 2_000_000),
        ("ended", 4_000_000),
    ]
    assert {a.data["seal"] for a in audits} == {"A 104"}
    assert [a.phase for a in lane.alarms()] == ["raised", "cleared"]


def test_an_alarm_that_stands_when_work_begins_is_cleared_and_its_load_forgotten():
    lane = Bench(scale=ScaleOptions(max_gap_s=5, min_load_kg=400), max_gross_kg=40_000)
    for i in range(4):
        lane.read(10 + i, weight(50_000), "scale")
    set_calibrating(lane, is_on=True)
    lane.read(15, weight(50_000), "scale")
    assert [a.phase for a in lane.alarms("weight")] == ["raised", "cleared"]
    assert lane.state.of(Weighings).weighings == {}


def test_work_moves_the_counter_and_what_follows_is_held_against_the_new_one():
    lane = bench()
    count(lane, 1, "calibration_counter", 3)
    set_calibrating(lane, is_on=True)
    lane.read(2, weight(0), "scale")
    count(lane, 3, "calibration_counter", 4)
    set_calibrating(lane, is_on=False)
    lane.read(4, weight(0), "scale")
    count(lane, 5, "calibration_counter", 4)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["calibration_in_progress"]
    count(lane, 6, "calibration_counter", 5)
    assert lane.alarms("fault", "raised")[-1].code == "calibration_counter"


def test_a_stop_ends_a_calibration_in_progress_for_the_record():
    lane = bench(calibrating=True)
    lane.read(1, weight(0), "scale")
    lane.stop(2)
    assert [(a.data["state"], a.data["reason"]) for a in lane.audits("calibration")] == [
        ("begun", None),
        ("ended", "agent_stop"),
    ]
    assert [a.phase for a in lane.alarms()] == ["raised", "cleared"]


def test_an_axle_scale_being_calibrated_makes_no_passage_either():
    lane = bench(weighs="axles", calibrating=True, axle_gap_s=2)
    for n in range(3):
        for i in range(4):
            lane.read(10 * n + i, weight(6000), "scale")
        lane.read(10 * n + 5, weight(0), "scale")
    lane.tick(100)
    assert lane.passages() == []


def test_live_weights_of_a_scale_being_calibrated_are_marked():
    event = Timed(stamp=stamp(1), device="scale", reading=weight(20_000))
    assert "test" not in json.loads(wire.live(event)[1])
    assert json.loads(wire.live(event, is_test=True)[1])["test"] is True


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["on", "off", "weigh", "empty", "over", "count", "tick", "lost"]),
            st.integers(0, 3),
        ),
        max_size=30,
    )
)
def test_whatever_happens_begins_and_ends_alternate_and_no_alarm_stays_open(events):
    lane = Bench(
        scale=ScaleOptions(max_gap_s=5, zero_limit_kg=40, frozen_after_vehicles=2, e_kg=20),
        max_gross_kg=40_000,
    )
    at_s = 0.0
    for kind, n in events:
        at_s += 40
        match kind:
            case "on" | "off":
                set_calibrating(lane, is_on=kind == "on")
            case "weigh":
                lane.weigh(at_s, 20_000 + 15_000 * n, long_s=2)
            case "empty":
                lane.read(at_s, weight(30.0 * n), "scale")
            case "over":
                lane.read(at_s, weight(0, value=None, mass_kg=None, range="over"), "scale")
            case "count":
                count(lane, at_s, "calibration_counter", n)
            case "tick":
                lane.vehicle(at_s, number=n + 1)
            case "lost":
                lane.link(at_s, "scale", up=n % 2 == 0)
    lane.stop(at_s + 100)
    states = [a.data["state"] for a in lane.audits("calibration")]
    assert states == ["begun", "ended"] * (len(states) // 2)
    last = {a.alarm_id: a.phase for a in lane.alarms()}
    assert set(last.values()) <= {"cleared"}


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as running:
        yield running


@pytest.mark.broker
def test_a_reload_begins_and_ends_a_calibration_in_the_running_agent(tmp_path, broker):
    asyncio.run(_reloaded(tmp_path, broker))


async def _reloaded(tmp_path, broker):
    on_it = [0.0]
    scale = ToledoScale(Weighbridge(lambda _: on_it[0], seed=3))
    port = await scale.serve_tcp(SceneClock(time_scale=5.0))
    text = SECTION.replace("/dev/scale", port) + "max_gap_s = 1.0\n"
    declared = '[devices.scale.calibration]\ncertificate = "C 17"\ndue = "2099-01-01"\n'
    directory = write_config(tmp_path, broker.port, {LANE: text + declared})
    live = f"{PREFIX}meas/lane/{LANE}/weight"
    state = f"{PREFIX}lane/{LANE}/dev/scale/state"
    heard = []
    agent = AgentProcess(directory, tmp_path)
    try:
        with Centre("127.0.0.1", broker.port) as centre, listening(broker.port, live, heard):
            agent.start()
            await until(lambda: heard)
            assert "test" not in heard[-1]
            write_config(tmp_path, broker.port, {LANE: text + "calibrating = true\n" + declared})
            agent.signal(signal.SIGHUP)
            await until(lambda: audits(centre, "calibration"))
            await until(lambda: heard[-1].get("test") is True)
            on_it[0] = 30_000.0
            await until(lambda: heard[-1]["mass_kg"] == 30_000.0 and heard[-1]["stable"])
            rested = datetime.fromisoformat(heard[-1]["at"])
            enough = timedelta(seconds=1.5 * SETTLE_S)
            await until(lambda: datetime.fromisoformat(heard[-1]["at"]) - rested > enough)
            on_it[0] = 0.0
            await until(lambda: heard[-1]["mass_kg"] == 0.0 and heard[-1]["stable"])
            write_config(tmp_path, broker.port, {LANE: text + declared})
            agent.signal(signal.SIGHUP)
            await until(lambda: len(audits(centre, "calibration")) == 2)
            await until(lambda: alarms(centre, code="calibration_in_progress", phase="cleared"))
            await until(lambda: "test" not in heard[-1])
            await until(lambda: centre.snapshots.get(state, {}).get("calibration"))
            assert centre.snapshots[state]["calibration"] == {"rev": "C 17", "due": "2099-01-01"}
            agent.signal(signal.SIGTERM)
            assert await asyncio.to_thread(agent.wait) == 0
            assert newest_passages(centre) == []
            for record in centre.records():
                check_message(record.topic, record.payload)
    finally:
        agent.kill()
        await scale.close()


@contextlib.contextmanager
def listening(port, topic, heard):
    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.on_connect = lambda client, *_: client.subscribe(topic)
    client.on_message = lambda _client, _data, message: heard.append(json.loads(message.payload))
    client.connect("127.0.0.1", port)
    client.loop_start()
    try:
        yield
    finally:
        client.disconnect()
        client.loop_stop()


# ------------------------------------------------------------------ judging test loads

PLAN = Plan(
    loads_kg=(5_000, 10_000, 20_000, 40_000, 50_000, 50_000, 50_000),
    e_kg=20,
    d_kg=20,
    max_kg=60_000,
    up_to_kg=60_000,
    accuracy_class="III",
    in_service=True,
)


def point(load_kg, error_kg=0.0):
    shown = load_kg + error_kg
    return Point(load_kg=load_kg, indication_kg=shown, shown=f"{shown:g} kg", stable_by="device")


def judged(errors=(0,) * 7, *, plan=PLAN, before=0.0, after=0.0):
    points = [point(kg, e) for kg, e in zip(plan.loads_kg, errors, strict=True)]
    return judge(plan, before, points, after)


def test_a_good_scale_has_no_refusal():
    result = judged((0, 0, 20, 20, -40, -40, -20))
    assert result.refusals == ()
    assert [row.permissible_kg for row in result.rows] == [20, 20, 40, 40, 60, 60, 60]
    assert {row.judgement for row in result.rows} == {"within"}
    (spread,) = result.spreads
    assert (spread.load_kg, spread.weighings, spread.spread_kg) == (50_000, 3, 20)


@pytest.mark.parametrize(
    ("error_kg", "d_kg", "judgement"),
    [
        (0, 20, "within"),  # at 5 t in service ± 20 kg; the true error lies within ± 10
        (20, 20, "undecided"),  # 10 to 30
        (40, 20, "beyond"),  # 30 to 50
        (20, 2, "undecided"),  # 19 to 21
        (18, 2, "within"),
        (-18, 2, "within"),
        (22, 2, "beyond"),  # "beyond" only from where the lower end is: 21 to 23
    ],
)
def test_the_step_of_the_display_decides_what_can_be_judged(error_kg, d_kg, judgement):
    plan = replace(PLAN, d_kg=d_kg)
    row = judged((error_kg, 0, 0, 0, 0, 0, 0), plan=plan).rows[0]
    assert row.judgement == judgement


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"errors": (40, 0, 0, 0, 0, 0, 0)}, "5000 kg reads +40 kg off, more than 20 kg"),
        ({"errors": (20, 0, 0, 0, 0, 0, 0)}, "hide whether that is within 20 kg"),
        ({"errors": (0, 0, 0, 0, -40, 40, 0)}, "lie 80 kg apart, more than 60 kg"),
        ({"before": 20.0}, "over e/4"),
        ({"after": 20.0}, "did not return to zero: +20 kg"),
    ],
)
def test_what_the_scale_did_wrong_is_said(changes, said):
    assert any(said in refusal for refusal in judged(**changes).refusals)


@pytest.mark.parametrize(
    ("loads", "said"),
    [
        ((50_000,) * 3 + (5_000, 10_000), "3 different test loads"),
        ((1_000, 2_000, 5_000, 10_000, 20_000, 20_000, 20_000), "at least 48000 kg"),
        ((5_000, 10_000, 20_000, 40_000, 50_000), "nothing shows repeatability"),
    ],
)
def test_too_little_data_is_no_calibration(loads, said):
    plan = replace(PLAN, loads_kg=loads)
    (refusal,) = judged((0,) * len(loads), plan=plan).refusals
    assert said in refusal


@pytest.mark.parametrize(
    ("d_kg", "errors", "said"),
    [
        (20, (0, 0, 10, 0, 0, 0, 0), "20010 kg was shown, which is no multiple of the step 20"),
        (2, (0, 0, 0, 20, -20, 0, 0), "nothing shows that the display has steps of 2 kg"),
    ],
)
def test_a_step_of_the_display_that_its_figures_contradict_is_refused(d_kg, errors, said):
    assert any(said in text for text in judged(errors, plan=replace(PLAN, d_kg=d_kg)).refusals)


def test_a_scale_read_in_high_resolution_is_judged_by_its_fine_steps():
    plan = replace(PLAN, d_kg=2, in_service=False)
    result = judged((8, 6, 18, -18, 22, 24, 26), plan=plan, before=-4.0, after=4.0)
    assert result.refusals == ()


def test_a_lower_greatest_load_in_use_needs_lower_test_loads():
    plan = replace(PLAN, loads_kg=(1_000, 5_000, 10_000, 20_000, 36_000, 36_000, 36_000))
    assert judged(plan=plan).refusals != ()
    assert judged(plan=replace(plan, up_to_kg=44_000)).refusals == ()


@pytest.mark.parametrize(
    ("text", "kg"), [("5000kg", 5000), ("5.5 t", 5500), ("500 g", 0.5), ("100lb", 45.359237)]
)
def test_a_load_is_read_with_its_unit(text, kg):
    assert parse_load(text) == kg


@pytest.mark.parametrize("text", ["5000", "0kg", "-5kg", "5e3kg", "five t", "5 kg kg", "1_000kg"])
def test_a_load_without_a_plain_mass_is_refused(text):
    with pytest.raises(ValueError, match="with its unit"):
        parse_load(text)


@pytest.mark.parametrize(
    ("day", "months", "due"),
    [
        (date(2026, 11, 23), 12, date(2027, 11, 23)),
        (date(2027, 10, 31), 1, date(2027, 11, 30)),
        (date(2028, 2, 29), 12, date(2029, 2, 28)),
        (date(2026, 12, 31), 2, date(2027, 2, 28)),
    ],
)
def test_the_due_day_is_so_many_months_later(day, months, due):
    assert due_after(day, months) == due


def test_the_section_is_toml_that_the_lane_takes_and_keeps_the_old_values_as_comments(tmp_path):
    old = ScaleCalibration(certificate="C 16", due="2026-11-02", errors_kg=((5000.0, 20.0),))
    new = ScaleCalibration(
        certificate='C "17"',
        calibrated="2026-11-23",
        due="2027-11-23",
        errors_kg=((5000.0, 0.0), (50000.0, -20.0)),
    )
    text = section("scale", new, old, "Weighed.")
    assert lane_with(tmp_path, text).devices[0].kind_options.calibration == new
    assert '#   certificate = "C 16"' in text
    assert "#   errors_kg = [[5000.0, 20.0]]" in text
    assert "#seal =" in text
    assert "#certificate =" not in text


# ------------------------------------------------------------------ weighing them


class Script:
    """A scale that shows what the prompts ask for, with a true error, after a moment's motion."""

    def __init__(self, live, *, error_kg=lambda load_kg: 0.0, changes=None):
        self.live = live
        self.prompts = []
        self.error_kg = error_kg
        self.changes = changes or {}

    async def prompt(self, text):
        self.prompts.append(text)
        words = text.split()
        load_kg = float(words[1]) if words[0] == "Put" else 0.0
        shown = load_kg + (self.error_kg(load_kg) if load_kg else 0.0)
        self.show(weight(shown / 2, stable=False))
        self.show(weight(shown, **self.changes.get(load_kg, {})))

    def show(self, reading):
        self.live.take(Timed(stamp=stamp(0), device="scale", reading=reading))


def measured(plan=PLAN, **script):
    async def run():
        clock = Clock()
        live = Live(clock)
        prompts = Script(live, **script)
        pace = Pace(settle_s=0.01, wait_s=0.3)
        return await measure(live, plan, pace, prompts.prompt, clock), prompts.prompts

    return asyncio.run(run())


def test_every_load_is_asked_for_and_equal_ones_are_taken_off_between():
    result, prompts = measured(error_kg=lambda kg: 20.0 if kg == 40_000 else 0.0)
    assert [row.error_kg for row in result.rows] == [0, 0, 0, 20, 0, 0, 0]
    assert result.refusals == ()
    assert prompts[0] == prompts[-1] == "Clear the platform"
    assert prompts.count("Put 50000 kg on the platform") == 3
    assert prompts.count("Take the 50000 kg off the platform") == 2


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stable": False}, "did not come to rest"),
        ({"range": "over", "value": None, "mass_kg": None}, "over range"),
        ({"value": "7000", "mass_kg": 7000.0}, "not near 10000 kg"),
        ({"mass_kg": None}, "set the unit"),
        ({"mode": "net"}, "clear the tare"),
    ],
)
def test_a_reading_that_cannot_be_used_ends_it_with_what_was_seen(changes, said):
    with pytest.raises(MeasureError, match=said):
        measured(changes={10_000.0: changes})


def test_a_load_that_is_never_taken_off_is_said():
    async def run():
        clock = Clock()
        live = Live(clock)
        script = Script(live)

        async def prompt(text):
            if not text.startswith("Take"):
                await script.prompt(text)

        await measure(live, PLAN, Pace(settle_s=0.01, wait_s=0.2), prompt, clock)

    with pytest.raises(MeasureError, match="50000 kg were not taken off"):
        asyncio.run(run())


def test_a_lost_scale_is_told_in_the_links_words():
    live = Live(Clock())
    lost = LinkChange(stamp=stamp(1), device="scale", is_up=False, detail="scale: no bytes for 3 s")
    live.take(Timed(stamp=stamp(0), device="scale", reading=weight(5000)))
    live.take(Timed(stamp=stamp(0), device="s", reading=BadFrame.of(Reason.SYNTAX, b"?", "?")))
    live.take(lost)
    assert live.seen(5000) == "scale: no bytes for 3 s"
    assert live.resting(0.0) is None


def test_where_the_scale_does_not_tell_rest_the_figure_must_stand_longer():
    now = [0.0]
    live = Live(Clock(wall_s=lambda: 0.0, monotonic_s=lambda: now[0], boot="b"))
    live.take(Timed(stamp=stamp(0), device="scale", reading=weight(5000, stable=None)))
    now[0] = 3.5
    assert live.resting(3.0) is None
    now[0] = 6.0
    assert live.resting(3.0) is not None


# ------------------------------------------------------------------ the command

LOADS = ("4t", "10t", "20t", "40t", "50t", "50t", "50t")


async def operated(tmp_path, *arguments, error=0.0):
    """Run the command at a terminal beside a simulated weighbridge, and do as it asks."""
    terminal, stdin = os.openpty()
    on_it = [0.0]
    scale = ToledoScale(Weighbridge(lambda _: on_it[0], seed=3))
    lane = tmp_path / "lane-1.toml"
    lane.write_text(SECTION, encoding="utf-8")
    port = await scale.serve_pty(SceneClock(time_scale=20.0))
    loads = [word for load in LOADS for word in ("--load", load)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "agent.cli", "calibrate", "scale", "--lane", lane, "--port", port),
        *(*loads, "--settle", "0.05", "--wait", "20", *map(str, arguments)),
        stdin=stdin,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said = ""
    try:
        async with asyncio.timeout(40):
            while line := (await process.stderr.readline()).decode():
                said += line
                asked = re.match(r"Put (\d+) kg", line)
                on_it[0] = float(asked[1]) * (1 + error) if asked else 0.0
                if "press Enter" in line:
                    os.write(terminal, b"\n")
            output = await process.stdout.read()
            return await process.wait(), output.decode(), said
    finally:
        if process.returncode is None:
            process.kill()
        await scale.close()
        os.close(terminal)
        os.close(stdin)


def test_a_simulated_weighbridge_is_calibrated_through_its_driver(tmp_path):
    output = tmp_path / "section.toml"
    code, out, _ = asyncio.run(
        operated(tmp_path, "--no-prompt", "--json", "--seal", "A 104", "-o", output)
    )
    said = json.loads(out)
    assert code == 0, said
    assert said["ok"] is True
    assert [row["load_kg"] for row in said["rows"]] == [4e3, 10e3, 20e3, 40e3, 50e3, 50e3, 50e3]
    table = tomllib.loads(output.read_text())["devices"]["scale"]["calibration"]
    assert table["seal"] == "A 104"
    assert table["errors_kg"] == [[row["load_kg"], row["error_kg"]] for row in said["rows"]]
    assert said["section"] == output.read_text()


def test_a_scale_that_is_off_gets_a_table_and_no_section(tmp_path):
    code, out, err = asyncio.run(operated(tmp_path, error=0.004))
    assert code == 1
    assert "beyond" in out
    assert "[devices." not in out
    assert re.search(r"no calibration: 50000 kg reads \+(200|180|220) kg off, more than 60 kg", err)


def test_a_scale_that_does_not_speak_ends_it_in_time_with_a_reason(tmp_path, capsys):
    lane = tmp_path / "lane-1.toml"
    lane.write_text(SECTION, encoding="utf-8")
    common = ["--lane", str(lane), "--port", str(tmp_path / "nothing"), "--load", "5t"]
    assert cli.main(["calibrate", "scale", *common, "--no-prompt", "--wait", "0.2"]) == 1
    assert "0 kg: nothing came from the scale" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--load", "5000"], "with its unit"),
        (["--load", "70t"], "more than Max = 60000 kg"),
        (["--load", "5t", "--device", "rpm"], "the lane's scales are scale"),
        (["--load", "5t", "--d", "50kg"], "at most e = 20 kg"),
        (["--load", "5t", "-o", "/nowhere/x.toml"], "no such directory"),
        (["--load", "5t", "--port", "com3"], "com3: expected /dev/"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, arguments, said):
    lane = tmp_path / "lane-1.toml"
    lane.write_text(SECTION, encoding="utf-8")
    assert cli.main(["calibrate", "scale", "--lane", str(lane), *arguments]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_no_test_load_is_stored_in_an_alibi_memory(tmp_path):
    lane = lane_with(tmp_path, "").devices[0]
    storing = dini_argeo.Options(alibi=True)
    kept = _storing_nothing(storing)
    assert (kept.alibi, replace(kept, alibi=True)) == (False, storing)
    assert _storing_nothing(lane.driver_options) == lane.driver_options


def test_without_a_type_plate_there_is_nothing_to_judge_against(tmp_path, capsys):
    lane = tmp_path / "lane-1.toml"
    lane.write_text(SECTION.replace("e_kg = 20.0\n", ""), encoding="utf-8")
    assert cli.main(["calibrate", "scale", "--lane", str(lane), "--load", "5t"]) == 2
    assert "declare e_kg and max_kg" in capsys.readouterr().err


def test_a_section_is_never_written_over(tmp_path, capsys):
    lane = tmp_path / "lane-1.toml"
    lane.write_text(SECTION, encoding="utf-8")
    arguments = ["--lane", str(lane), "--load", "5t", "-o", str(lane)]
    assert cli.main(["calibrate", "scale", *arguments]) == 2
    assert "it is there already" in capsys.readouterr().err
    assert lane.read_text(encoding="utf-8") == SECTION


def test_the_state_before_a_step_stays_what_it_was():
    lane = bench(calibrating=True, zero_limit_kg=40)
    before = lane.state
    step(before, Timed(stamp=stamp(1), device="scale", reading=weight(0)), lane.rules)
    assert before.memories == {}
