"""The Ludlum 375: its messages, its call, and the alarms that stand while it says so."""

from __future__ import annotations

import asyncio
import random
import re
import socket
from ipaddress import ip_network

import pytest
from lane_bench import Bench

from agent.clock import Clock
from agent.config import load_lane
from agent.daemon.link import Lines, make_link
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.records import LinkChange, Timed
from drivers.listener import Listener
from drivers.readings import BadFrame, DeviceAlarm, DeviceState, DoseRate, Reason
from drivers.rpm import ludlum_375
from drivers.transport import LinkError, listen_address
from simulators.area_monitors import LudlumMonitor

HERE = (ip_network("127.0.0.1"),)
QUIET = LudlumMonitor(lambda _: 0.12).message(0.0)


def monitor(**options):
    return ludlum_375.Driver(ludlum_375.Options(**options))


def alarms(readings):
    return {r.code: r.active for r in readings if isinstance(r, DeviceAlarm)}


def rates(readings):
    return [r.usv_per_h for r in readings if isinstance(r, DoseRate)]


# --- messages ---------------------------------------------------------------------------------


def test_every_message_says_rate_alarms_and_error():
    readings = monitor().feed(QUIET)
    assert rates(readings) == [0.12]
    assert alarms(readings) == {
        "dose_rate_alarm_1": False,
        "dose_rate_alarm_2": False,
        "over_range": False,
    }
    assert DeviceState(condition="device_error", active=False) in readings


def test_attributes_and_elements_mean_the_same():
    one = LudlumMonitor(lambda _: 2.5)
    assert monitor().feed(one.message(0, as_attributes=True)) == monitor().feed(one.message(0))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\x00"])
def test_a_message_ends_with_its_element_whatever_follows(end):
    driver = monitor()
    message = QUIET.strip() + end
    assert rates(driver.feed(message * 3)) == [0.12] * 3


def test_over_range_is_an_alarm_and_its_rate_no_figure():
    readings = monitor().feed(LudlumMonitor(lambda _: 5000.0).message(0))
    assert alarms(readings)["over_range"]
    assert rates(readings) == []


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b">03<", b">01<", Reason.UNIT),
        (b"<alarm1>0<", b"<alarm1>2<", Reason.UNKNOWN),
        (b"<alarm2>0<", b"<alarm2>ON<", Reason.UNKNOWN),
        (b"<over_range>0<", b"<over_range><", Reason.UNKNOWN),
        (b">0.120<", b">-0.12<", Reason.SYNTAX),
        (b">0.120<", b">+0.12<", Reason.SYNTAX),
        (b">0.120<", b"><", Reason.SYNTAX),
        (b">0.120<", b">nan<", Reason.SYNTAX),
        (b">0.120<", b">1_000<", Reason.SYNTAX),
        (b"<rate>0.120</rate>", b"", Reason.LENGTH),
        (b"<status>", b"<statu>", Reason.SYNTAX),
        (b"status>", b"state>", Reason.SYNTAX),
        (b'rev="1.0"', b'rev="\xb5"', Reason.SYNTAX),
    ],
    ids=str,
)
def test_what_is_not_as_documented_is_refused_and_never_guessed(old, new, reason):
    assert old in QUIET
    (refused,) = monitor().feed(QUIET.replace(old, new))
    assert refused.reason is reason


def test_entities_are_refused_before_anything_reads_them():
    bomb = b'<!DOCTYPE a [<!ENTITY b "bb">]>' + QUIET.replace(b">0.120<", b">&b;<")
    readings = monitor().feed(bomb)
    assert [r.reason for r in readings] == [Reason.SYNTAX]


def test_another_units_code_can_be_set_and_the_unit_it_stands_for():
    driver = monitor(units_code="07", dose_unit="mSv/h")
    assert rates(driver.feed(QUIET.replace(b">03<", b">07<"))) == [120.0]


def test_a_message_longer_than_documented_is_a_flood_and_the_next_is_read():
    driver = monitor()
    long = QUIET.replace(b'rev="1.0"', b'rev="' + b"1" * 300 + b'"')
    readings = driver.feed(long + QUIET + QUIET)
    assert any(isinstance(r, BadFrame) and r.reason is Reason.FLOOD for r in readings)
    assert rates(readings)[-1] == 0.12
    assert driver.buffered <= 384


def test_another_monitor_that_calls_is_said_for_as_long_as_it_does():
    driver = monitor()
    other = LudlumMonitor(lambda _: 0.1, serial="OTHER").message(0)
    driver.feed(QUIET)
    changed = [s for s in driver.feed(other) if getattr(s, "condition", "") == "device_changed"]
    assert [s.active for s in changed] == [True]
    back = [s for s in driver.feed(QUIET) if getattr(s, "condition", "") == "device_changed"]
    assert [s.active for s in back] == [False]


@pytest.mark.parametrize("seed", range(5))
def test_the_driver_agrees_with_the_simulated_monitor(seed):
    print(f"seed={seed}")
    rng = random.Random(seed)
    peak, width = rng.uniform(1, 2000), rng.uniform(5, 30)

    def rate(at_s):
        return 0.1 + peak / (1 + ((at_s - 60) / width) ** 4)

    unit = LudlumMonitor(rate, alarm_1=2.0, alarm_2=10.0, most=1000.0)
    driver = monitor()
    for n in range(60):
        true = rate(2.0 * n)
        message = unit.message(2.0 * n, as_attributes=bool(n % 2))
        assert len(message) <= 384
        readings = driver.feed(message)
        assert alarms(readings) == {
            "dose_rate_alarm_1": true >= 2.0,
            "dose_rate_alarm_2": true >= 10.0,
            "over_range": true >= 1000.0,
        }
        assert rates(readings) == ([] if true >= 1000 else [pytest.approx(true, abs=6e-4)])


# --- the lane ----------------------------------------------------------------------------------


def area_lane(**lane):
    traits = {"area": PortalTraits(presence="none", rule="own")}
    return Bench(portals={"area": RpmOptions()}, traits=traits, **lane)


def test_a_lane_with_nothing_but_an_area_monitor_has_standing_alarms_and_no_passages():
    lane, driver = area_lane(), monitor()
    unit = LudlumMonitor(lambda s: 0.1 if s < 20 or s >= 60 else 5.0 if s < 40 else 50.0)
    for n in range(40):
        for reading in driver.feed(unit.message(2.0 * n)):
            lane.read(2.0 * n, reading, "area")
    lane.tick(200)
    said = [(a.code, a.phase, a.severity, a.stamp.mono_us // 1_000_000) for a in lane.alarms()]
    assert said == [
        ("dose_rate_alarm_1", "raised", "high", 20),
        ("dose_rate_alarm_2", "raised", "critical", 40),
        ("dose_rate_alarm_1", "cleared", "high", 60),
        ("dose_rate_alarm_2", "cleared", "critical", 60),
    ]
    assert all(a.passage_id is None and a.source == "device" for a in lane.alarms())
    assert lane.passages() == []
    assert lane.snapshot(200).occupied is None


def test_the_lanes_own_limit_is_said_once_and_cleared_well_below_it():
    lane = area_lane(dose_rate_alarm_usv_per_h=10.0)
    for second, rate in enumerate([9.99, 10.0, 9.0, 12.0, 8.0, 7.9, 7.0]):
        lane.read(second, DoseRate(usv_per_h=rate), "area")
    assert [(a.code, a.phase, a.stamp.mono_us // 1_000_000) for a in lane.alarms()] == [
        ("dose_rate", "raised", 1),
        ("dose_rate", "cleared", 5),
    ]
    assert lane.alarms()[0].evidence[0].threshold == 10.0
    assert lane.alarms()[0].source == "agent"


def test_without_a_limit_a_dose_rate_alone_raises_nothing():
    lane = area_lane()
    lane.read(0, DoseRate(usv_per_h=1e6), "area")
    assert lane.alarms() == []


# --- the call ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("port", "address"),
    [
        ("listen://192.168.10.1:50000", ("192.168.10.1", 50000)),
        ("listen://[fd00::1]:50000", ("fd00::1", 50000)),
        ("listen://127.0.0.1:0", ("127.0.0.1", 0)),
        ("tcp://127.0.0.1:5", None),
        ("/dev/ttyS0", None),
    ],
)
def test_a_listening_port_names_an_address_and_a_number(port, address):
    assert listen_address(port) == address


@pytest.mark.parametrize(
    "port",
    ["listen://host:5", "listen://127.0.0.1", "listen://:5", "listen://127.0.0.1:5/x", "listen://"],
)
def test_a_listening_port_of_another_form_is_refused(port):
    with pytest.raises(ValueError, match="an address of this machine in figures"):
        listen_address(port)


def called(listener):
    return socket.create_connection(("127.0.0.1", listener.number), timeout=5)


async def within(awaitable):
    async with asyncio.timeout(5):
        return await awaitable


def test_a_call_between_two_others_is_never_refused_for_being_early():
    async def calls():
        listener = Listener("listen://127.0.0.1:0", HERE)
        listener.open()
        try:
            with called(listener) as device:
                device.sendall(b"early")
                pipe = await within(listener.pipe(5))
                assert await within(pipe.read()) == b"early"
            with pytest.raises(LinkError, match="closed by the other side"):
                await within(pipe.read())
            with called(listener) as device:  # before anybody asks for the next
                device.sendall(b"again")
                assert await within((await within(listener.pipe(5))).read()) == b"again"
        finally:
            listener.close()

    asyncio.run(calls())


def test_the_newest_call_wins_because_the_old_one_may_be_dead():
    async def calls():
        listener = Listener("listen://127.0.0.1:0", HERE)
        listener.open()
        try:
            with called(listener) as dead, called(listener) as newer:
                pipe = await within(listener.pipe(5))
                newer.sendall(b"newer")
                assert await within(pipe.read()) == b"newer"
                with called(listener) as newest:
                    with pytest.raises(LinkError, match=r"called anew from 127\.0\.0\.1"):
                        await within(pipe.read())
                    newest.sendall(b"newest")
                    pipe = await within(listener.pipe(5))
                    assert await within(pipe.read()) == b"newest"
                    assert newer.recv(1) == b""
                assert dead.recv(1) == b""
        finally:
            listener.close()

    asyncio.run(calls())


def test_a_caller_that_is_not_listed_is_closed_at_once_and_the_call_goes_on(caplog):
    async def calls():
        listener = Listener("listen://127.0.0.1:0", (ip_network("127.0.0.2"),))
        listener.open()
        try:
            wanted = socket.socket()
            wanted.bind(("127.0.0.2", 0))
            wanted.connect(("127.0.0.1", listener.number))
            pipe = await within(listener.pipe(5))
            with called(listener) as stranger:
                stranger.settimeout(5)
                got = await asyncio.to_thread(stranger.recv, 1)
                assert got == b""
            wanted.sendall(b"still here")
            assert await within(pipe.read()) == b"still here"
            assert listener.refused == 1
            wanted.close()
        finally:
            listener.close()

    with caplog.at_level("WARNING"):
        asyncio.run(calls())
    assert "refused=not in listen_callers" in caplog.text


def test_nobody_calling_and_a_port_in_use_are_said_with_what_to_look_at():
    async def calls():
        listener = Listener("listen://127.0.0.1:0", HERE)
        with pytest.raises(LinkError, match="nobody has called"):
            await listener.pipe(0.01)
        other = Listener(f"listen://127.0.0.1:{listener.number}", HERE)
        with pytest.raises(LinkError, match="already in use"):
            await other.pipe(0.01)
        listener.close()
        listener.close()
        with pytest.raises(LinkError, match="nobody has called"):
            await other.pipe(0.01)
        other.close()

    asyncio.run(calls())


def test_the_link_takes_the_call_says_when_it_ends_and_takes_the_next(tmp_path):
    asyncio.run(_calls(tmp_path))


async def _calls(tmp_path):
    file = tmp_path / "one.toml"
    file.write_text(
        '[devices.area]\ndriver = "rpm.ludlum_375"\nport = "listen://127.0.0.1:50000"\n'
        'listen_callers = ["127.0.0.0/30"]\n'
    )
    (device,) = load_lane(file).devices
    assert device.silence_s == 7.0
    object.__setattr__(device.common, "port", "listen://127.0.0.1:0")
    clock = Clock(time_scale=10.0)
    heard: asyncio.Queue[object] = asyncio.Queue()
    link = make_link(device, clock=clock, sink=heard.put_nowait, lines=Lines(clock))
    task = asyncio.create_task(link.run())

    async def until(wanted):
        while not wanted(event := await within(heard.get())):
            pass
        return event

    try:
        for _ in range(2):
            while link.listener is None or not link.listener.number:  # noqa: ASYNC110 - no event tells of it
                await asyncio.sleep(0)
            with called(link.listener) as unit:
                unit.sendall(QUIET)
                await until(lambda e: isinstance(e, LinkChange) and e.is_up)
                await until(lambda e: isinstance(e, Timed) and isinstance(e.reading, DoseRate))
            lost = await until(lambda e: isinstance(e, LinkChange) and not e.is_up)
            assert re.search("closed by the other side", lost.detail)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert link.listener.number == 0
    assert link.status().reconnects == 1
