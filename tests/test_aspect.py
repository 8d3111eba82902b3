"""ASPECT portals: their registers, the agreement with a simulated unit, and the lane over them."""

from __future__ import annotations

import asyncio
import struct

import pytest
from lane_bench import Bench

from agent.clock import Clock
from agent.config import load_lane
from agent.daemon.link import Lines, make_link
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.records import LinkChange, Timed
from drivers.base import Block, find
from drivers.readings import (
    BadFrame,
    DeviceState,
    GammaBackground,
    GammaCounts,
    NeutronBackground,
    NeutronCounts,
    Reason,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
)
from drivers.rpm import aspect
from simulators.clock import SceneClock
from simulators.portals_modbus import YantarOptions, YantarPortal, YantarServer
from simulators.scene import Scene

THREE = """
title = "a clean one, one with a source, one with neutrons"
seed = 3

[[vehicle]]
id = "clean"
at_s = 8.0
speed_m_per_s = 2.0
length_m = 9.0

[[vehicle]]
id = "hot"
at_s = 24.0
speed_m_per_s = 2.5
length_m = 9.0
gamma = { peak_cps = 3000.0, offset_m = 4.0 }

[[vehicle]]
id = "neutrons"
at_s = 40.0
speed_m_per_s = 3.0
length_m = 8.0
neutron = { peak_cps = 90.0, offset_m = 4.0 }
"""
ALONE = PortalTraits(presence="told", rule="own")


def low_first(value):
    return [value & 0xFFFF, value >> 16]


def single(value):
    return low_first(struct.unpack(">I", struct.pack(">f", value))[0])


def monitor(*, time=1, inputs=0, status=0x80, gamma=400, objects=0, mark=0, speed=0, n_status=0x80):
    return (
        *low_first(time),
        inputs,
        status,
        *low_first(gamma),
        *single(400.0),
        *single(800.0),
        n_status,
        *low_first(2),
        *single(2.5),
        *single(2.5),
        objects,
        mark,
        speed,
        0,
    )


class Unit:
    """A driver that has read where its monitor block is."""

    def __init__(self, **options):
        self.driver = aspect.Driver(aspect.Options(**options))
        block = self.driver.blocks()[0]
        assert self.driver.decode(block, (1, 29, 1, 100, 21, 0, 0, 0)) == []
        self.block = self.driver.blocks()[1]

    def read(self, **changes):
        return self.driver.decode(self.block, monitor(**changes))


def presences(readings):
    return [(r.occupied, r.direction, r.number) for r in readings if isinstance(r, VehiclePresence)]


def states(readings):
    return {r.condition: r.active for r in readings if isinstance(r, DeviceState)}


# --- registers --------------------------------------------------------------------------------


def test_the_monitor_block_is_read_where_the_unit_describes_it_and_not_before():
    driver = aspect.Driver(aspect.Options())
    (description,) = driver.blocks()
    assert (description.table, description.address, description.count) == ("holding", 0, 8)
    driver.decode(description, (1, 40, 1, 300, 32, 0, 0, 0))
    assert driver.blocks()[1] == Block(table="holding", address=300, count=32, period_s=0.2)


@pytest.mark.parametrize(
    ("base", "length"), [(0, 21), (100, 20), (100, 121), (65530, 21), (7, 21), (0, 0)]
)
def test_a_description_that_cannot_be_is_refused_with_the_way_out(base, length):
    driver = aspect.Driver(aspect.Options())
    (refused,) = driver.decode(driver.blocks()[0], (1, 29, 1, base, length, 0, 0, 0))
    assert refused.reason is Reason.RANGE
    assert "set monitor_address" in refused.detail
    assert len(driver.blocks()) == 1


def test_a_lane_file_may_say_where_the_block_is_and_then_no_description_is_asked():
    driver = aspect.Driver(aspect.Options(monitor_address=100))
    assert driver.blocks() == (Block(table="holding", address=100, count=21, period_s=0.2),)


def test_figures_of_two_registers_hold_their_low_word_first():
    readings = Unit().driver.decode(Unit().block, (*monitor(gamma=70_000),))
    (counts,) = [r for r in readings if isinstance(r, GammaCounts)]
    (background,) = [r for r in readings if isinstance(r, GammaBackground)]
    assert counts.counts == (70_000,)
    assert background.cps == (400.0,)
    assert monitor(gamma=70_000)[4:8] == (0x1170, 0x0001, 0x0000, 0x43C8)


def test_counts_are_of_the_interval_the_lane_file_says_and_the_background_per_second():
    unit = Unit(interval_s=2.0)
    readings = unit.read()
    (counts,) = [r for r in readings if isinstance(r, GammaCounts)]
    (background,) = [r for r in readings if isinstance(r, GammaBackground)]
    assert counts.real_time_s == 2.0
    assert background.cps == (200.0,)
    assert background.variance == (800.0,)


@pytest.mark.parametrize("status", [0x81, 0x82, 0x83, 0x181])
def test_both_alarm_levels_are_the_devices_alarm(status):
    unit = Unit()
    gamma, neutron = unit.read(status=status)[-3:-1]
    assert isinstance(gamma, GammaCounts)
    assert (gamma.device_alarm, neutron.device_alarm) == (True, False)
    gamma, neutron = (
        r for r in unit.read(n_status=status) if isinstance(r, GammaCounts | NeutronCounts)
    )
    assert (gamma.device_alarm, neutron.device_alarm) == (False, True)


@pytest.mark.parametrize(
    ("bit", "condition"),
    [
        (0x100, "mains_failed"),
        (0x200, "battery_low"),
        (0x400, "tamper"),
        (0x800, "device_error"),
        (0x8000, "reset"),
    ],
)
def test_every_condition_of_the_inputs_is_said_once_and_taken_back(bit, condition):
    unit = Unit()
    unit.read()
    assert states(unit.read(inputs=bit)) == {condition: True}
    assert states(unit.read(inputs=bit)) == {}
    assert states(unit.read()) == {condition: False}


def test_a_condition_that_went_while_the_unit_was_lost_is_taken_back_after_it():
    unit = Unit()
    unit.read(inputs=0x400, status=0xC0)
    assert states(unit.driver.silence()) == {"tamper": None}
    readings = unit.read()
    assert states(readings) == {"tamper": False}
    (overload,) = [r for r in readings if getattr(r, "code", "") == "gamma_overload"]
    assert not overload.active


def test_a_channel_that_is_not_ready_counts_low_or_high_says_so():
    unit = Unit()
    unit.read()
    assert states(unit.read(status=0x00)) == {"gamma_not_ready": True}
    assert states(unit.read(status=0x90)) == {"gamma_not_ready": False, "gamma_low_count": True}
    assert states(unit.read(n_status=0xA0)) == {
        "gamma_low_count": False,
        "neutron_high_count": True,
    }


def test_a_portal_without_neutron_detectors_reports_none():
    readings = Unit(has_neutron=False).read(n_status=0)
    assert not any(isinstance(r, NeutronCounts | NeutronBackground) for r in readings)
    assert states(readings) == {}


def test_an_internal_time_that_stands_still_is_a_fault_and_the_lane_file_can_forbid_that():
    unit = Unit(poll_period_s=1.0, stalled_after_s=3.0)
    told = [states(unit.read(time=7)).get("stalled") for _ in range(5)]
    assert told == [None, None, None, True, None]
    assert states(unit.read(time=8)) == {"stalled": False}
    unit = Unit(poll_period_s=1.0, stalled_after_s=0.0)
    assert not any(states(unit.read(time=7)) for _ in range(100))


def test_the_background_is_passed_on_every_five_seconds_only():
    unit = Unit()
    told = [any(isinstance(r, GammaBackground) for r in unit.read()) for _ in range(51)]
    assert [i for i, one in enumerate(told) if one] == [0, 25, 50]


# --- objects ----------------------------------------------------------------------------------


def test_a_vehicle_that_stood_there_before_the_connection_is_there_at_the_first_read():
    unit = Unit()
    assert presences(unit.read(inputs=0x08, objects=41)) == [(True, None, 41)]
    assert presences(unit.read(inputs=0x08, objects=41)) == []
    assert presences(unit.read(objects=41)) == [(False, None, 41)]


@pytest.mark.parametrize(
    ("inputs", "inward", "direction"),
    [
        (0x41, "0-1", "in"),
        (0x81, "0-1", "out"),
        (0x41, "1-0", "out"),
        (0x81, "1-0", "in"),
        (0xC1, "0-1", None),
        (0x01, "0-1", None),
    ],
)
def test_a_direction_is_what_the_lane_file_calls_it_and_both_at_once_are_none(
    inputs, inward, direction
):
    unit = Unit(inward=inward)
    unit.read()
    assert presences(unit.read(inputs=inputs, objects=1)) == [(True, direction, 1)]


def test_a_direction_that_is_known_later_is_said_later():
    unit = Unit()
    unit.read(inputs=0x01)
    assert presences(unit.read(inputs=0x43)) == [(True, "in", 0)]
    assert presences(unit.read(inputs=0x02)) == []
    assert presences(unit.read()) == [(False, "in", 0)]


def test_a_vehicle_between_two_reads_is_one_that_came_and_left():
    unit = Unit()
    unit.read(objects=65535)
    assert presences(unit.read(objects=0, speed=1500)) == [(True, None, 0), (False, None, 0)]


def test_what_was_counted_while_the_unit_was_lost_is_said_and_is_no_passage():
    unit = Unit()
    unit.read(objects=5)
    unit.driver.silence()
    readings = unit.read(objects=8)
    assert states(readings) == {"objects_missed": True}
    assert presences(readings) == [(False, None, 8)]
    assert states(unit.read(objects=8)) == {"objects_missed": False}


def test_the_vehicle_that_is_there_when_the_unit_is_back_is_not_one_that_was_missed():
    unit = Unit()
    unit.read(objects=5)
    unit.driver.silence()
    readings = unit.read(objects=6, inputs=0x01)
    assert states(readings) == {}
    assert presences(readings) == [(True, None, 6)]


def test_a_counter_that_began_anew_is_no_vehicle():
    unit = Unit()
    unit.read(objects=5000)
    assert presences(unit.read(objects=0)) == []


def test_the_speed_of_the_last_vehicle_is_not_taken_for_the_next_ones():
    unit = Unit()
    unit.read(speed=2500)
    assert not [r for r in unit.read(inputs=1, objects=1, speed=2500) if speed_of(r)]
    assert [speed_of(r) for r in unit.read(inputs=1, objects=1, speed=1750) if speed_of(r)] == [
        1.75
    ]
    assert not [r for r in unit.read(objects=1, speed=1750) if speed_of(r)]
    unit.read(inputs=1, objects=2, speed=1750)
    assert [speed_of(r) for r in unit.read(objects=2, speed=1750) if speed_of(r)] == [1.75]


def speed_of(reading):
    return reading.m_per_s if isinstance(reading, VehicleSpeed) else None


def test_what_is_named_but_not_explained_is_kept():
    unit = Unit()
    readings = unit.read(inputs=0x30, mark=3, status=0x8280)
    kept = {r.tag: r.text for r in readings if isinstance(r, Undocumented)}
    assert kept == {"inputs": "button, sensor", "object_mark": "3", "gamma_detectors": "1 7"}


# --- against the simulated unit ----------------------------------------------------------------


def bank(portal, block):
    return tuple(portal.unit.holding[block.address + i] for i in range(block.count))


def played(scene, portal, driver, *, step_s=0.2, start_s=0.0):
    """Yield (scene time, what the unit shows, readings) from the start of the reading on."""
    for n in range(1, round(scene.duration_s / step_s)):
        shown = portal.advance(n * step_s)
        if n * step_s < start_s:
            continue
        for block in driver.blocks():
            readings = driver.decode(block, bank(portal, block))
            if block.count != aspect.DESCRIPTION_WORDS:
                yield n * step_s, shown, readings


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("base", "length"), [(100, 21), (412, 30)])
def test_the_driver_agrees_with_the_simulated_unit(seed, base, length):
    print(f"seed={seed}")
    scene = Scene.from_text(THREE)
    portal = YantarPortal(scene, YantarOptions(base=base, length=length), seed=seed)
    driver = aspect.Driver(aspect.Options())
    inside = False
    alarms = set()
    for _, shown, readings in played(scene, portal, driver):
        assert not any(isinstance(r, BadFrame) for r in readings)
        for r in readings:
            match r:
                case GammaCounts():
                    assert r.counts == (shown.gamma,)
                    assert r.device_alarm == (shown.gamma_level > 0)
                    alarms |= {"gamma"} if r.device_alarm else set()
                case NeutronCounts():
                    assert r.counts == (shown.neutron,)
                    assert r.device_alarm == (shown.neutron_level > 0)
                    alarms |= {"neutron"} if r.device_alarm else set()
                case GammaBackground():
                    assert r.cps == (shown.gamma_background,)
                case VehiclePresence():
                    inside = r.occupied
                    assert r.number == shown.objects
                case VehicleSpeed():
                    assert r.m_per_s == shown.speed_mm_per_s / 1000
        assert inside == shown.occupied
    assert alarms == {"gamma", "neutron"}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("start_s", [0.0, 10.0])
def test_the_lane_gives_each_vehicle_its_passage_alarms_speed_and_direction(seed, start_s):
    """Also where the agent is started while the first vehicle is inside."""
    print(f"seed={seed}")
    scene = Scene.from_text(THREE)
    portal = YantarPortal(scene, YantarOptions(first_object=99), seed=seed)
    lane = Bench(traits={"rpm": ALONE})
    driver = aspect.Driver(aspect.Options())
    for at_s, _, readings in played(scene, portal, driver, start_s=start_s):
        for reading in readings:
            lane.read(at_s, reading)
    lane.stop(scene.duration_s)
    truth = scene.truth
    assert [p.rpm.occupancy_number for p in lane.passages()] == [100, 101, 102]
    kinds = {a.alarm_id: a.kind for a in lane.alarms()}
    for passage, vehicle, speed in zip(lane.passages(), truth, (2.0, 2.5, 3.0), strict=True):
        alarmed = {kinds[i] for i in passage.alarm_ids}
        assert vehicle.expected & {"gamma", "neutron"} <= alarmed
        assert alarmed <= vehicle.expected | vehicle.possible
        assert passage.speed_m_per_s == pytest.approx(speed)
        assert passage.direction == "in"
        assert passage.end_reason == "left"
    hot = lane.passages()[1].rpm
    assert hot.device_gamma_alarm
    assert hot.gamma_max_sigma > 5
    assert hot.settings == {}
    assert hot.device_agreement is None


def test_the_link_reads_the_unit_over_modbus_tcp_and_says_when_it_is_lost(tmp_path):
    asyncio.run(_over_tcp(tmp_path))


async def _over_tcp(tmp_path):
    server = YantarServer(YantarPortal(Scene.from_text(THREE)))
    port = await server.serve_tcp(SceneClock(time_scale=20.0))
    file = tmp_path / "one.toml"
    file.write_text(f'[devices.rpm]\ndriver = "rpm.aspect"\nport = "{port}"\npoll_period_s = 0.5\n')
    (device,) = load_lane(file).devices
    clock = Clock(time_scale=20.0)
    heard = []
    lost, inside = asyncio.Event(), asyncio.Event()

    def sink(event):
        heard.append(event)
        if isinstance(event, LinkChange) and not event.is_up:
            lost.set()
        if isinstance(event, Timed) and getattr(event.reading, "occupied", None):
            inside.set()

    link = make_link(device, clock=clock, sink=sink, lines=Lines(clock))
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await inside.wait()
            await server.close()
            await lost.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()
    kinds = {type(e.reading) for e in heard if isinstance(e, Timed)}
    assert {GammaCounts, NeutronCounts, GammaBackground, VehiclePresence} <= kinds
    assert device.silence_s == find("rpm.aspect").silence_s == 5.0
    assert isinstance(device.kind_options, RpmOptions)
