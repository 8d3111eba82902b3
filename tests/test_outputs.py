"""Outputs: the driver, what is written and read back, the safe state, the interlock, the audit."""

from __future__ import annotations

import asyncio

import pytest
from agent_process import (
    LANE as NAME,
)
from agent_process import (
    LinePortal,
    alarms,
    audits,
    rpm_lane,
    running_agent,
    until,
    write_config,
)
from delivery_bench import check_message
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto import running_mosquitto

from agent.clock import Clock
from agent.config import examine
from agent.daemon import outputs
from agent.daemon.link import Lines
from agent.daemon.outputs import OutputLink
from agent.lane.annunciator import Command
from agent.lane.options.instruments import OutputOptions
from agent.records import Timed
from agent.settings import DeviceConfig, DeviceOptions
from drivers.base import CoilWrite, LineParameters, OutputDriver, find
from drivers.lane.outputs import SIGNALS, Driver, Options
from drivers.modbus import ExceptionReplyError, ModbusLine
from drivers.readings import Contact, DeviceState
from simulators.centre import Centre
from simulators.clock import SceneClock
from simulators.lane_io import BarrierWiring, LaneModule
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit

WIRED = {"beacon": 0, "siren": 1, "red": 2, "green": 3, "barrier_open": 4, "barrier_close": 5}


def driver(**options):
    return Driver(Options(**{**WIRED, **options}))


# ---------------------------------------------------------------- the driver


def test_it_is_an_output_driver_and_found_as_one():
    assert isinstance(driver(), OutputDriver)
    found = find("lane.outputs")
    assert found.is_output
    assert found.is_polled
    assert not find("lane.contacts").is_output


def test_neighbours_are_written_in_one_request_and_strangers_never():
    io = driver(beacon=0, siren=1, red=3, green=4, barrier_open=6, barrier_close=7)
    wanted = {"beacon": True, "siren": False, "red": True, "green": False, "yellow": True}
    assert io.levels(wanted) == (
        CoilWrite(address=0, values=(True, False)),
        CoilWrite(address=3, values=(True, False)),
    )


def test_function_5_sets_one_coil_at_a_time():
    assert driver(function=5).levels({"beacon": True, "siren": False}) == (
        CoilWrite(address=0, values=(True,), function=5),
        CoilWrite(address=1, values=(False,), function=5),
    )


def test_a_barrier_has_no_level():
    assert driver().levels({"barrier_open": True, "barrier_close": True}) == ()
    assert driver().pulse("siren", is_on=True) == ()


def test_the_safe_state_covers_every_output_and_ends_every_pulse():
    io = driver(safe_on=("red",), inverted=("red",))
    assert io.safe() == (CoilWrite(address=0, values=(False,) * 6),)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_no_wish_at_all_writes_a_coil_that_is_not_wired(data):
    addresses = data.draw(st.lists(st.integers(0, 30), min_size=7, max_size=7, unique=True))
    wired = data.draw(st.dictionaries(st.sampled_from(SIGNALS), st.just(0), min_size=1))
    coils = dict(zip(wired, addresses, strict=False))
    io = Driver(Options(**coils, function=data.draw(st.sampled_from([5, 15]))))
    wish = st.dictionaries(st.sampled_from([*SIGNALS, "calibrate"]), st.booleans())
    writes = list(io.safe())
    for _ in range(4):
        writes += io.levels(data.draw(wish))
        writes += io.pulse(data.draw(st.sampled_from([*SIGNALS, "x"])), is_on=True)
    written = {w.address + i for w in writes for i in range(len(w.values))}
    assert written <= set(coils.values())
    assert all(len(w.values) == 1 for w in writes if w.function == 5)


def test_a_read_back_that_differs_is_said_once_and_taken_back_once():
    io = driver()
    io.levels({"beacon": True, "siren": True})
    (block,) = io.blocks()
    first = io.decode(block, (0, 1, 0, 0, 0, 0))
    assert DeviceState(condition="output_mismatch", active=True, detail="beacon reads off") in first
    assert io.differing == ("beacon",)
    assert io.decode(block, (0, 1, 0, 0, 0, 0)) == []
    assert io.decode(block, (1, 1, 0, 0, 0, 0)) == [
        Contact(name="beacon", active=True),
        DeviceState(condition="output_mismatch", active=False),
    ]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (dict.fromkeys(WIRED, -1), "no output is wired"),
        ({"green": 2}, "coil 2 is given to two outputs"),
        ({"watchdog_s": 1.0}, "would act between two reads"),
    ],
)
def test_a_wrong_wiring_is_told(options, text):
    with pytest.raises(ValueError, match=text):
        driver(**options)


# ---------------------------------------------------------------- writing over Modbus


class NoDelay:
    def next_s(self):
        return 0.0

    def reset(self):
        pass


async def line_to(kind, unit):
    """Return a line to a served unit, and what closes it."""
    if kind == "tcp":
        server = ModbusTcpServer([unit])
        port = f"tcp://127.0.0.1:{await server.start()}"
    else:
        server = ModbusRtuServer([unit])
        port = await server.start_pty()
    line = ModbusLine(port, LineParameters(), framing=kind, delays=NoDelay())
    line.join()
    return line, server


@pytest.mark.parametrize("function", [5, 15])
@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_coils_are_written_over_both_framings(kind, function):
    async def scene():
        unit = ModbusUnit(coils=dict.fromkeys(range(12), False))
        line, server = await line_to(kind, unit)
        values = (
            (True,) if function == 5 else (True, False, True, True, False, False, True, True, True)
        )
        write = CoilWrite(address=2, values=values, function=function)
        await line.write_coils(1, write, timeout_s=1.0, max_lateness_s=0.05)
        line.leave()
        await server.close()
        return unit

    unit = asyncio.run(scene())
    wanted = {2} if function == 5 else {2, 4, 5, 8, 9, 10}
    assert {a for a, on in unit.coils.items() if on} == wanted
    assert [r.function for r in unit.requests] == [function]


@pytest.mark.parametrize("kind", ["rtu", "tcp"])
def test_a_coil_that_the_module_does_not_have_is_its_exception(kind):
    async def scene():
        line, server = await line_to(kind, ModbusUnit(coils={0: False}))
        write = CoilWrite(address=7, values=(True,))
        try:
            await line.write_coils(1, write, timeout_s=1.0, max_lateness_s=0.05)
        finally:
            line.leave()
            await server.close()

    with pytest.raises(ExceptionReplyError, match="writing coils 7"):
        asyncio.run(scene())


# ---------------------------------------------------------------- the link


def device(port, **options):
    return DeviceConfig(
        name="io",
        kind="lane",
        common=DeviceOptions(driver="lane.outputs", port=port, timeout_s=0.2, silence_s=0.5),
        driver=find("lane.outputs"),
        driver_options=Options(
            **{**WIRED, "readback_period_s": 0.1, "safe_on": ("red",), **options}
        ),
        kind_options=OutputOptions(),
    )


class Running:
    """An output link at work on a simulated module."""

    def __init__(self, module=None, **options):
        self.module = module or LaneModule()
        self.options = options
        self.events = []
        self.moved = []
        self.why_not = None

    async def __aenter__(self):
        clock = Clock()
        port = await self.module.serve_tcp(SceneClock())
        config = device(port, **self.options)
        self.link = OutputLink(
            config,
            line=Lines(clock).line_of(config),
            clock=clock,
            sink=self.events.append,
            permit=lambda _: self.why_not,
            on_moved=self.moved.append,
        )
        self.task = asyncio.create_task(self.link.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        await asyncio.wait([self.task], timeout=2)
        await self.module.close()

    async def until(self, condition, limit_s=8.0):
        async with asyncio.timeout(limit_s):
            while not condition(self):
                assert not self.task.done(), self.task
                await asyncio.sleep(0.002)

    def conditions(self):
        return [
            (e.reading.condition, e.reading.active)
            for e in self.events
            if isinstance(e, Timed) and isinstance(e.reading, DeviceState)
        ]

    def on(self):
        return {name for name, coil in WIRED.items() if self.module.unit.coils[coil]}

    def writes(self):
        return [r for r in self.module.unit.requests if r.function in (5, 6, 15, 16)]


OPEN = Command(command_id="o-1", signal="barrier_open", passage_id="p-1", why="routine")
CLOSE = Command(command_id="c-1", signal="barrier_close", passage_id="p-1", why="passed")


def test_the_safe_state_is_written_first_and_then_what_is_wanted():
    async def scene():
        async with Running() as run:
            run.link.want({"beacon": True, "red": False, "green": True}, None)
            await run.until(lambda r: r.on() == {"beacon", "green"})
            return [(c.channel, c.is_on) for c in run.module.changes], run.writes()

    changes, writes = asyncio.run(scene())
    assert changes[0] == (WIRED["red"], True), "red before anything else"
    assert {w.function for w in writes} == {15}


def test_an_orderly_stop_leaves_the_safe_state_and_takes_no_wish_after_it():
    async def scene():
        async with Running() as run:
            run.link.want({"beacon": True, "siren": True, "red": False, "green": True}, None)
            await run.until(lambda r: r.on() == {"beacon", "siren", "green"})
            is_safe = await run.link.make_safe(2.0)
            run.link.want({"siren": True}, None)
            await asyncio.sleep(0.25)
            return is_safe, run.on()

    assert asyncio.run(scene()) == (True, {"red"})


def test_a_welded_relay_is_a_condition_and_is_tried_until_it_moves(monkeypatch):
    monkeypatch.setattr(outputs, "RETRY_S", 0.05)

    async def scene():
        async with Running() as run:
            await run.until(lambda r: r.on() == {"red"})
            run.module.welded.add(WIRED["beacon"])
            run.link.want({"beacon": True}, None)
            await run.until(lambda r: ("output_mismatch", True) in r.conditions())
            run.module.welded.clear()
            await run.until(lambda r: ("output_mismatch", False) in r.conditions())
            return run.on()

    assert "beacon" in asyncio.run(scene())


def test_a_module_whose_outputs_were_changed_by_another_is_set_right(monkeypatch):
    monkeypatch.setattr(outputs, "RETRY_S", 0.05)

    async def scene():
        async with Running() as run:
            run.link.want({"green": True, "red": False}, None)
            await run.until(lambda r: r.on() == {"green"})
            run.module.unit.coils[WIRED["green"]] = False
            run.module.unit.coils[WIRED["red"]] = True
            await run.until(lambda r: r.on() == {"green"})
            return run.conditions()

    assert ("output_mismatch", True) in asyncio.run(scene())


def test_a_module_that_was_lost_is_written_anew_when_it_is_back():
    async def scene():
        async with Running() as run:
            run.link.want({"green": True, "red": False}, None)
            await run.until(lambda r: r.on() == {"green"})
            run.module.unit.silent = True
            await run.until(lambda r: r.link.status().link == "down")
            for coil in WIRED.values():  # it was without power
                run.module.unit.coils[coil] = False
            run.module.unit.silent = False
            await run.until(lambda r: r.on() == {"green"})
            return run.link.status().link

    assert asyncio.run(scene()) in {"up", "down"}


def test_a_barrier_is_moved_by_one_pulse_and_its_relay_falls_again():
    async def scene():
        module = LaneModule(
            barrier=BarrierWiring(open_relay=4, close_relay=5, open_input=0, closed_input=1)
        )
        async with Running(module) as run:
            await run.until(lambda r: r.link.status().link == "up" and r.on() == {"red"})
            for _ in range(3):  # the same wish again is no second movement
                run.link.want({"red": True}, OPEN)
                await asyncio.sleep(0.01)
            await run.until(lambda r: r.moved)
            run.link.want({"red": True}, OPEN)
            await asyncio.sleep(0.3)
            return run.moved, [c for c in run.module.changes if c.channel == 4], run.on()

    (moved,), changes, on = asyncio.run(scene())
    assert (moved.result, moved.detail, moved.command) == ("done", "", OPEN)
    assert [c.is_on for c in changes] == [True, False]
    assert 0.19 < changes[1].at_s - changes[0].at_s < 1.0
    assert on == {"red"}


def test_the_interlock_is_asked_in_the_moment_of_writing_and_nothing_is_written():
    async def scene():
        async with Running() as run:
            await run.until(lambda r: r.link.status().link == "up" and r.on() == {"red"})
            run.why_not = "gate loop is active"
            run.link.want({"red": True}, CLOSE)
            await run.until(lambda r: r.moved)
            return run.moved[0], run.module.changes

    moved, changes = asyncio.run(scene())
    assert (moved.result, moved.detail) == ("refused", "gate loop is active")
    assert all(c.channel != WIRED["barrier_close"] for c in changes)


def test_a_movement_waits_for_no_lost_module_and_is_not_made_up_for():
    async def scene():
        async with Running() as run:
            await run.until(lambda r: r.link.status().link == "up" and r.on() == {"red"})
            run.module.unit.silent = True
            await run.until(lambda r: r.link.status().link == "down")
            run.link.want({"red": True}, OPEN)
            await run.until(lambda r: r.moved)
            run.module.unit.silent = False
            await run.until(lambda r: r.link.status().link == "up")
            await asyncio.sleep(0.3)
            return run.moved, run.module.changes

    (moved,), changes = asyncio.run(scene())
    assert moved.result == "failed"
    assert "not heard" in moved.detail
    assert all(c.channel != WIRED["barrier_open"] for c in changes)


def test_a_barrier_relay_that_is_welded_is_a_failed_movement():
    async def scene():
        async with Running() as run:
            await run.until(lambda r: r.link.status().link == "up" and r.on() == {"red"})
            run.module.welded.add(WIRED["barrier_open"])
            run.link.want({"red": True}, OPEN)
            await run.until(lambda r: r.moved)
            return run.moved[0], run.conditions()

    moved, conditions = asyncio.run(scene())
    assert moved.result == "failed"
    assert "the beginning of the pulse was not read back" in moved.detail
    assert ("output_mismatch", True) in conditions


def test_a_pulse_whose_end_was_lost_is_ended_as_soon_as_the_module_answers(monkeypatch):
    monkeypatch.setattr(outputs, "RETRY_S", 0.05)

    async def scene():
        async with Running(barrier_pulse_s=0.3) as run:
            await run.until(lambda r: r.link.status().link == "up" and r.on() == {"red"})
            run.link.want({"red": True}, OPEN)
            await run.until(lambda r: "barrier_open" in r.on())
            run.module.unit.silent = True
            await run.until(lambda r: r.moved)
            still = run.on()
            run.module.unit.silent = False
            await run.until(lambda r: "barrier_open" not in r.on())
            return run.moved[0].result, still

    result, still = asyncio.run(scene())
    assert result == "failed"
    assert "barrier_open" in still


def test_the_modules_own_watchdog_makes_it_safe_when_the_agent_is_gone():
    async def scene():
        module = LaneModule(safe_on=frozenset({WIRED["red"]}), watchdog_s=0.5)
        async with Running(module, watchdog_s=0.5) as run:
            run.link.want({"green": True, "red": False}, None)
            await run.until(lambda r: r.on() == {"green"})
            run.task.cancel()  # killed: nothing is written any more
            await asyncio.wait([run.task], timeout=2)
            before = {n for n, c in WIRED.items() if run.module.relays()[c]}
            await asyncio.sleep(0.7)
            after = {n for n, c in WIRED.items() if run.module.relays()[c]}
            return before, after

    assert asyncio.run(scene()) == ({"green"}, {"red"})


def test_a_lost_module_does_not_hold_the_stop_for_longer_than_it_may():
    async def scene():
        async with Running() as run:
            await run.until(lambda r: r.on() == {"red"})
            run.module.unit.silent = True
            began = asyncio.get_running_loop().time()
            is_safe = await run.link.make_safe(0.3)
            return is_safe, asyncio.get_running_loop().time() - began

    is_safe, took_s = asyncio.run(scene())
    assert is_safe is False
    assert took_s < 3


# ---------------------------------------------------------------- configuration

LANE = """\
[lane]
[devices.rpm]
driver = "rpm.rapiscan"
port = "tcp://127.0.0.1:1600"
[devices.gate]
driver = "lane.contacts"
port = "tcp://127.0.0.1:502"
preset = "moxa-e1212"
under_barrier = ["loop"]
[devices.gate.inputs.loop]
channel = 0
[devices.io]
driver = "lane.outputs"
port = "tcp://127.0.0.1:502"
red = 0
barrier_open = 6
barrier_close = 7
watchdog_s = 5.0
barrier = "routine"
"""
GATEWAY = '[gateway]\nsite = "n"\ngw = "g"\n[mqtt]\nhost = "localhost"\ntls = false\n'


def problems(tmp_path, text):
    (tmp_path / "lanes").mkdir()
    (tmp_path / "gateway.toml").write_text(GATEWAY)
    (tmp_path / "lanes" / "one.toml").write_text(text)
    return [str(p) for p in examine(tmp_path).problems]


def test_inputs_and_outputs_of_one_module_are_two_devices(tmp_path):
    assert problems(tmp_path, LANE) == []


def test_on_a_serial_line_too_as_long_as_no_reply_fits_both(tmp_path):
    text = LANE.replace("tcp://127.0.0.1:502", "/dev/serial/by-id/io")
    assert problems(tmp_path, text) == []


def test_a_barrier_that_could_never_close_is_refused(tmp_path):
    (problem,) = problems(tmp_path, LANE.replace('under_barrier = ["loop"]\n', ""))
    assert "devices.io.barrier" in problem
    assert "under_barrier" in problem


def test_outputs_without_a_watchdog_are_warned_of(tmp_path):
    (problem,) = problems(tmp_path, LANE.replace("watchdog_s = 5.0\n", ""))
    assert "warning" in problem
    assert "when the agent dies" in problem


# ---------------------------------------------------------------- the whole agent

IO_LANE = """
[devices.gate]
driver = "lane.contacts"
port = "{port}"
silence_s = 10
preset = "moxa-e1212"
under_barrier = ["loop"]
barrier_closed = "down"
barrier_open = "up"
[devices.gate.inputs]
loop = {{ channel = 0 }}
up = {{ channel = 6 }}
down = {{ channel = 7 }}

[devices.io]
driver = "lane.outputs"
port = "{port}"
silence_s = 10
beacon = 0
siren = 1
red = 2
green = 3
barrier_open = 4
barrier_close = 5
safe_on = ["red"]
readback_period_s = 0.2
watchdog_s = 5.0
barrier = "routine"
close_after_s = 0.2
"""


@pytest.mark.broker
def test_the_agent_opens_for_a_clean_vehicle_holds_an_alarming_one_and_stops_in_red(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        assert centre.wait_for(lambda: centre.is_connected)
        asyncio.run(_whole(tmp_path, broker.port, centre))
        for record in centre.records("audit") + centre.records("alarm") + centre.records("pass"):
            check_message(record.topic, record.payload)


async def _whole(tmp_path, broker_port, centre):
    wiring = BarrierWiring(open_relay=4, close_relay=5, open_input=6, closed_input=7, travel_s=0.2)
    module = LaneModule(barrier=wiring)
    portal = LinePortal()
    lane = rpm_lane(await portal.start(), lane="join_gap_s = 0.2", rpm="silence_s = 60\n")
    lane += IO_LANE.format(port=await module.serve_tcp(SceneClock()))
    directory = write_config(tmp_path, broker_port, {NAME: lane})

    def is_on(name):
        return module.unit.coils[WIRED[name]]

    def moved(number):
        return len(audits(centre, "output")) == number

    try:
        async with running_agent(directory, Clock()):
            await until(lambda: portal.heard)
            portal.background()
            await until(lambda: is_on("green") and not is_on("red"), what="green")
            portal.enter()
            await until(lambda: is_on("red"), what="red while occupied")
            portal.leave(1)
            await until(lambda: moved(1), what="the barrier opened")
            await until(lambda: module.unit.discrete[6], what="it is up")
            module.hand[0] = True
            await asyncio.sleep(0.4)  # it stands under the barrier for longer than close_after_s
            assert moved(1)
            module.hand[0] = False
            await until(lambda: moved(2), what="the barrier closed behind it")
            module.welded.add(WIRED["beacon"])
            portal.enter(alarm=True, intervals=12)
            await until(lambda: is_on("siren"), what="the siren")
            await until(lambda: alarms(centre, code="output_mismatch", phase="raised"))
            assert not is_on("beacon")
            module.welded.clear()
            await until(lambda: is_on("beacon"), what="the beacon")
            await until(lambda: alarms(centre, code="output_mismatch", phase="cleared"))
            portal.leave(2)
            await until(lambda: alarms(centre, kind="gamma", phase="cleared"))
        red_only = {name for name in WIRED if is_on(name)}
        await until(lambda: audits(centre, "stop"), what="the stop record")
    finally:
        await portal.close()
        await module.close()
    first, second = audits(centre, "output")
    assert (first["output"], first["result"], first["lane"]) == ("barrier_open", "done", NAME)
    assert (second["output"], second["result"]) == ("barrier_close", "done")
    assert first["passage_id"] == second["passage_id"]
    assert red_only == {"red"}
    pulses = [(c.channel, c.is_on) for c in module.changes if c.channel in (4, 5)]
    assert pulses == [(4, True), (4, False), (5, True), (5, False)]


@pytest.mark.broker
def test_a_module_that_hangs_holds_up_neither_an_alarm_nor_the_stop(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        assert centre.wait_for(lambda: centre.is_connected)
        asyncio.run(_hanging(tmp_path, broker.port, centre))


async def _hanging(tmp_path, broker_port, centre):
    module, portal = LaneModule(), LinePortal()
    module.unit.silent = True
    lane = rpm_lane(await portal.start(), rpm="silence_s = 60\n")
    lane += IO_LANE.format(port=await module.serve_tcp(SceneClock()))
    directory = write_config(tmp_path, broker_port, {NAME: lane})
    try:
        async with running_agent(directory, Clock()):
            await until(lambda: portal.heard)
            portal.background()
            portal.enter(alarm=True, intervals=12)
            await until(lambda: alarms(centre, kind="gamma"), what="the alarm")
    finally:
        await portal.close()
        await module.close()
    assert module.changes == [], "the module never answered, and nothing waited for it"
    assert audits(centre, "stop")
