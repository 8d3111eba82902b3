"""Links over real pipes: stamps, up and down once, reconnecting, polling, and stopping."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import os
import re
import socket
import tty
from collections import Counter

import pytest

from agent import settings
from agent.clock import Clock
from agent.daemon import link
from agent.daemon.link import Lines, Link, ModbusLink, make_link
from agent.lane.options.scales import ScaleOptions
from agent.records import LinkChange, Timed
from agent.settings import DeviceConfig, DeviceOptions
from drivers.base import Block, DriverType, LineParameters
from drivers.readings import BadFrame, Reason, Undocumented
from drivers.transport import BUFFER_BYTES
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit


class Lines1:
    """A driver for lines of text: ``V <n>`` is good, anything else is not."""

    poll_period_s = None

    def __init__(self, options):
        self.options = options
        self.buffer = b""
        self.largest = 0

    def feed(self, data):
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        self.largest = max(self.largest, len(data))
        self.buffer = self.buffer[-256:]
        return [
            Undocumented(tag="V", text=line[2:].decode())
            if re.fullmatch(rb"V \d+", line)
            else BadFrame.of(Reason.SYNTAX, line, "no V")
            for line in lines
        ]

    def poll(self):
        return b""

    def silence(self):
        half, self.buffer = self.buffer, b""
        return [BadFrame.of(Reason.TRUNCATED, half, "half a line")] if half else []

    def no_reply(self):
        return [BadFrame.of(Reason.NO_REPLY, b"", "no answer")]


class Asking(Lines1):
    """The same, asked for each value."""

    poll_period_s = 0.05

    def poll(self):
        return b"?\n"


class Registers:
    """A driver that reads two blocks."""

    fast = Block(table="holding", address=10, count=2, period_s=0.02)
    slow = Block(table="input", address=5, count=1, period_s=0.1)

    def __init__(self, options):
        self.silences = 0

    def blocks(self):
        return (self.fast, self.slow)

    def decode(self, block, registers):
        return [Undocumented(tag=block.table, text=",".join(map(str, registers)))]

    def silence(self):
        self.silences += 1
        return []


def device(port, make=Lines1, name="scale", silence_s=0.3, **common):
    return DeviceConfig(
        name=name,
        kind="scale",
        common=DeviceOptions(
            driver="scale.fake",
            port=port,
            silence_s=silence_s,
            timeout_s=common.pop("timeout_s", 0.1),
            max_lateness_s=common.pop("max_lateness_s", 0.1),
            **common,
        ),
        driver=DriverType(
            name="scale.fake",
            options=object,
            make=make,
            line=LineParameters(baud=4800, parity="E", data_bits=7),
            is_polled=hasattr(make, "decode"),
        ),
        driver_options=None,
        kind_options=ScaleOptions(),
    )


class Pty:
    def __init__(self):
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.port = os.ttyname(self.slave)

    def say(self, data):
        os.write(self.master, data)

    def unplug(self):
        os.close(self.master)
        os.close(self.slave)


class Server:
    """A TCP device: says what it is told to whoever is connected."""

    async def __aenter__(self):
        self.connected = 0
        self.talks = []
        self.heard = b""
        self.answer = None
        self.server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
        self.port = f"tcp://127.0.0.1:{self.server.sockets[0].getsockname()[1]}"
        return self

    async def talk(self, reader, writer):
        self.connected += 1
        self.talks.append((writer, asyncio.current_task()))
        try:
            while data := await reader.read(4096):
                self.heard += data
                if self.answer is not None:
                    writer.write(self.answer(data))
            writer.close()
            await writer.wait_closed()
        except ConnectionError:
            writer.transport.abort()

    def say(self, data):
        self.talks[-1][0].write(data)

    def hang_up(self):
        self.talks[-1][0].close()

    async def __aexit__(self, *_):
        self.server.close()
        for writer, task in self.talks:
            writer.transport.abort()
            await asyncio.wait([task], timeout=2)
        await asyncio.sleep(0)


class Running:
    """A link at work, and all it said."""

    def __init__(self, config, *, clock=None, lines=None, label="scale inbound-1", tap=None):
        self.events = []
        self.clock = clock or Clock()
        self.link = make_link(
            config,
            clock=self.clock,
            sink=self.events.append,
            lines=lines or Lines(self.clock),
            label=label,
            tap=tap,
        )

    async def __aenter__(self):
        self.task = asyncio.create_task(self.link.run())
        return self

    async def __aexit__(self, *_):
        self.task.cancel()
        _, pending = await asyncio.wait([self.task], timeout=1)
        assert not pending, "the link did not stop"
        assert self.task.cancelled() or self.task.exception() is not None

    async def until(self, condition, limit_s=8.0):
        async with asyncio.timeout(limit_s):
            while not condition(self):
                assert not self.task.done() or self.task.exception() is None, self.task.exception()
                await asyncio.sleep(0.002)

    @property
    def values(self):
        return [e.reading.text for e in self.events
                if isinstance(e, Timed) and isinstance(e.reading, Undocumented)]  # fmt: skip

    @property
    def bad(self):
        return [e.reading.reason for e in self.events
                if isinstance(e, Timed) and isinstance(e.reading, BadFrame)]  # fmt: skip

    @property
    def changes(self):
        return [e for e in self.events if isinstance(e, LinkChange)]

    @property
    def ups_and_downs(self):
        return [change.is_up for change in self.changes]


def test_a_link_is_up_at_the_first_good_reading_and_not_at_the_connection():
    async def scene():
        async with Server() as server, Running(device(server.port, silence_s=9)) as run:
            await run.until(lambda _: server.connected)
            server.say(b"garbage\n")
            await run.until(lambda r: r.bad)
            before = run.link.status()
            server.say(b"V 1\nV 2\n")
            await run.until(lambda r: len(r.values) == 2)
            return before, run.link.status(), run.events

    before, after, events = asyncio.run(scene())
    assert (before.link, before.last_good, before.refused) == ("unknown", None, {"syntax": 1})
    assert (after.link, after.frames, after.detail) == ("up", 2, "")
    assert [type(event) for event in events] == [Timed, LinkChange, Timed, Timed]
    assert events[2].stamp is events[3].stamp is events[1].stamp, "one stamp a chunk"
    assert after.last_good == events[1].stamp


def test_any_split_of_the_same_bytes_gives_the_same_events():
    stream = b"V 1\nxx\nV 22\nV 333\n\nV 4\n"

    async def scene(size):
        pty = Pty()
        async with Running(device(pty.port, silence_s=9)) as run:
            await run.until(lambda r: r.link._opened)
            for start in range(0, len(stream), size):
                pty.say(stream[start : start + size])
                await asyncio.sleep(0.002)
            await run.until(lambda r: "4" in r.values)
            said = [e.reading if isinstance(e, Timed) else e.is_up for e in run.events]
        pty.unplug()
        return said

    whole = asyncio.run(scene(len(stream)))
    assert len(whole) == 7
    assert asyncio.run(scene(1)) == whole
    assert asyncio.run(scene(5)) == whole


def test_a_peer_that_stops_speaking_is_down_once_with_a_sentence_and_connected_anew(monkeypatch):
    monkeypatch.setattr(link, "REOPEN_S", 0.2)

    async def scene():
        async with Server() as server, Running(device(server.port)) as run:
            await run.until(lambda _: server.connected)
            server.say(b"V 1\nV ")
            await run.until(lambda r: r.link.status().link == "down")
            await run.until(lambda _: server.connected >= 3)
            down = run.changes
            server.say(b"V 2\n")
            await run.until(lambda r: r.ups_and_downs == [True, False, True])
            return server.port, down, run.bad, run.link.status()

    port, changes, bad, status = asyncio.run(scene())
    assert [change.is_up for change in changes] == [True, False]
    assert re.fullmatch(
        rf"scale inbound-1: no bytes for 0\.[34] s on {port}; check cable, power and whether the "
        r"device is set to send \(last good frame \d\d:\d\d:\d\dZ\)",
        changes[1].detail,
    )
    assert bad == [Reason.TRUNCATED], "the half frame was said"
    assert status.reconnects >= 2


def test_a_device_that_never_spoke_is_down_after_its_silence_and_says_so():
    async def scene():
        pty = Pty()
        async with Running(device(pty.port)) as run:
            await run.until(lambda r: r.changes)
            pty.say(b"V 1\n")
            await run.until(lambda r: len(r.changes) == 2)
        pty.unplug()
        return run.changes

    down, up = asyncio.run(scene())
    assert not down.is_up
    assert down.detail.endswith("(no good frame yet)")
    assert up.is_up


def test_garbage_without_a_good_frame_is_silence_and_hints_at_baud_and_parity():
    async def scene():
        pty = Pty()
        async with Running(device(pty.port)) as run:
            await run.until(lambda r: r.link._opened)
            while not run.changes:
                pty.say(b"\xa5\x0b\n" * 20)
                await asyncio.sleep(0.01)
        pty.unplug()
        return run

    run = asyncio.run(scene())
    assert run.ups_and_downs == [False]
    assert re.search(r"no good frame for 0\.\d s among \d+ bytes", run.changes[0].detail)
    assert "baud and parity (here 4800 7E1)" in run.changes[0].detail
    assert run.link.status().refused["syntax"] == len(run.bad) >= 20


def test_an_unplugged_line_is_down_at_once_and_found_again_under_its_name(tmp_path):
    """The by-id name leads to another terminal after the adapter was plugged in again."""
    by_id = tmp_path / "usb-scale"

    async def scene():
        first = Pty()
        by_id.symlink_to(first.port)
        async with Running(device(str(by_id), silence_s=60)) as run:
            await run.until(lambda r: r.link._opened)
            first.say(b"V 1\nV 2")
            await run.until(lambda r: r.values)
            second = Pty()
            first.unplug()
            await run.until(lambda r: r.ups_and_downs == [True, False])
            by_id.unlink()
            by_id.symlink_to(second.port)
            await run.until(lambda r: r.link._opened == 2)
            second.say(b"V 3\n")
            await run.until(lambda r: r.ups_and_downs == [True, False, True])
        second.unplug()
        return run

    run = asyncio.run(scene())
    assert run.values == ["1", "3"], "the half frame is never completed by the next connection"
    assert run.bad == [Reason.TRUNCATED]
    assert str(by_id) in run.changes[1].detail
    assert "check cable" in run.changes[1].detail


def test_a_hang_up_in_mid_frame_is_reported_and_never_completed():
    async def scene():
        async with Server() as server, Running(device(server.port, silence_s=60)) as run:
            await run.until(lambda _: server.connected)
            server.say(b"V 1\nV 12")
            await run.until(lambda r: r.values)
            server.hang_up()
            await run.until(lambda _: server.connected == 2)
            server.say(b"34\nV 5\n")
            await run.until(lambda r: "5" in r.values)
            return run

    run = asyncio.run(scene())
    assert run.values == ["1", "5"]
    assert run.bad == [Reason.TRUNCATED, Reason.SYNTAX]
    assert run.ups_and_downs == [True, False, True]
    assert "closed by the other side" in run.changes[1].detail


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("port", "seen"),
    [
        (free_port(), "connection refused"),
        ("tcp://no-such-host.invalid:4001", "looking up no-such-host.invalid"),
        ("/dev/no-such-line", "there is no such device"),
    ],
    ids=["refused", "no host", "no line"],
)
def test_what_cannot_be_opened_is_down_after_the_silence_with_what_was_seen(port, seen, caplog):
    caplog.set_level(logging.INFO, logger="agent.daemon.link")

    async def scene():
        async with Running(device(port)) as run:
            await run.until(lambda r: r.changes)
            await asyncio.sleep(0.3)
            return run

    run = asyncio.run(scene())
    assert run.ups_and_downs == [False]
    assert port in run.changes[0].detail
    assert seen in run.changes[0].detail
    assert len(caplog.records) == 1, "one line for one transition"


def test_a_scaled_clock_shortens_the_silence_and_the_sentence_tells_scene_seconds():
    async def scene():
        pty = Pty()
        async with Running(device(pty.port, silence_s=16), clock=Clock(time_scale=64)) as run:
            await run.until(lambda r: r.changes, limit_s=3)
        pty.unplug()
        return run.changes[0].detail

    seconds = re.search(r"for (\d+\.\d) s", asyncio.run(scene()))
    assert 16 <= float(seconds[1]) < 48


def test_a_flood_leaves_others_their_turn_and_the_buffer_bounded():
    async def scene():
        drivers = []

        def make(options):
            drivers.append(Lines1(options))
            return drivers[-1]

        async with Server() as server, Running(device(server.port, make)) as run:
            await run.until(lambda _: server.connected)
            for _ in range(200):
                server.say(b"\x55" * 65536)
            turns = 0
            before = run.link.progress
            async with asyncio.timeout(8):
                while run.link.progress < before + 8:
                    turns += 1
                    await asyncio.sleep(0.001)
            return drivers[0].largest, turns

    largest, turns = asyncio.run(scene())
    assert largest < 2 * BUFFER_BYTES
    assert turns > 20


def test_a_device_that_is_asked_is_asked_on_a_grid_and_its_answers_pass():
    async def scene():
        async with Server() as server:
            server.answer = lambda asked: b"V 7\n" * asked.count(b"?")
            async with Running(device(server.port, Asking, silence_s=5)) as run:
                await run.until(lambda r: len(r.values) >= 10)
                return run.link.status(), server.heard, run.bad

    status, heard, bad = asyncio.run(scene())
    assert status.link == "up"
    assert set(heard) == {ord("?"), ord("\n")}
    assert Reason.NO_REPLY not in bad


def test_an_unanswered_request_is_said_and_no_second_is_sent_meanwhile():
    async def scene():
        async with Server() as server:
            config = device(server.port, Asking, silence_s=0.6, timeout_s=0.17)
            async with Running(config) as run:
                await run.until(lambda r: r.bad.count(Reason.NO_REPLY) == 2)
                asked = server.heard.count(b"?")
                return asked, run.link.status()

    asked, status = asyncio.run(scene())
    assert asked in (2, 3)
    assert status.skipped_polls >= 4
    assert status.link == "unknown"


def test_a_peer_that_takes_no_request_is_reconnected():
    class Shouting(Asking):
        def poll(self):
            return b"?" * (16 << 20)

    async def scene():
        listener = socket.create_server(("127.0.0.1", 0))
        port = f"tcp://127.0.0.1:{listener.getsockname()[1]}"
        async with Running(device(port, Shouting, silence_s=9)) as run:
            await run.until(lambda r: r.link._opened == 2)
            detail = run.link.status().detail
        listener.close()
        return detail

    assert "writing to tcp://" in asyncio.run(scene())


def test_a_driver_that_raises_is_a_bug_and_ends_the_link():
    class Broken(Lines1):
        def feed(self, data):
            raise ZeroDivisionError

    async def scene():
        pty = Pty()
        async with Running(device(pty.port, Broken)) as run:
            await run.until(lambda r: r.link._opened)
            pty.say(b"V 1\n")
            await asyncio.wait([run.task], timeout=3)
            exception = run.task.exception()
        pty.unplug()
        return exception

    assert isinstance(asyncio.run(scene()), ZeroDivisionError)


@pytest.mark.parametrize("wait_s", [0.0, 0.001, 0.05, 0.3])
def test_a_link_stops_promptly_wherever_it_waits(wait_s):
    """Opening, reading, writing, pausing between attempts; Running asserts that it stopped."""

    async def scene():
        async with Server() as server:
            for port in (server.port, free_port(), "/dev/no-such-line"):
                async with Running(device(port, Asking)):
                    await asyncio.sleep(wait_s)

    asyncio.run(scene())


# ---------------------------------------------------------------- Modbus


def modbus_unit(unit_id=1, **faults):
    unit = ModbusUnit(unit_id=unit_id, **faults)
    unit.set_words(unit.holding, 10, [21, 22])
    unit.set_words(unit.input, 5, [55])
    return unit


def test_registers_are_read_by_their_periods_and_tapped():
    tapped = []

    async def scene():
        server = ModbusTcpServer([modbus_unit()])
        port = f"tcp://127.0.0.1:{await server.start()}"
        config = device(port, Registers, silence_s=2)
        async with Running(config, tap=lambda stamp, seen: tapped.append(seen)) as run:
            await run.until(lambda r: len(r.values) >= 30)
            counts = Counter(run.values)
            status = run.link.status()
        await server.close()
        return counts, status, run

    counts, status, run = asyncio.run(scene())
    assert set(counts) == {"21,22", "55"}
    assert 2 < counts["21,22"] / counts["55"] < 9
    assert (status.link, status.reconnects) == ("up", 0)
    assert run.ups_and_downs == [True]
    assert "up" in tapped
    assert (Registers.fast, (21, 22)) in tapped


def test_a_unit_that_falls_silent_is_down_once_and_comes_back():
    async def scene():
        unit = modbus_unit()
        server = ModbusRtuServer([unit])
        port = await server.start_pty()
        async with Running(device(port, Registers, silence_s=0.6, max_lateness_s=0.05)) as run:
            await run.until(lambda r: r.values)
            unit.silent = True
            await run.until(lambda r: r.ups_and_downs == [True, False])
            driver_told = run.link._driver.silences
            unit.silent = False
            await run.until(lambda r: r.ups_and_downs == [True, False, True])
        await server.close()
        return run, driver_told

    run, driver_told = asyncio.run(scene())
    assert driver_told == 1
    assert re.search(
        r"no good reply for 0\.\d s on /dev/pts/\d+: unit 1, .*: no reply within 0\.1 s; check .* "
        r"\(last good frame",
        run.changes[1].detail,
    )
    assert Reason.NO_REPLY in run.bad


def test_a_unit_that_only_refuses_is_down_with_the_exception():
    async def scene():
        server = ModbusTcpServer([modbus_unit(exception_code=6)])
        port = f"tcp://127.0.0.1:{await server.start()}"
        async with Running(device(port, Registers)) as run:
            await run.until(lambda r: r.changes)
        await server.close()
        return run

    run = asyncio.run(scene())
    assert run.ups_and_downs == [False]
    assert "exception 6 (device busy)" in run.changes[0].detail
    assert set(run.bad) == {Reason.DEVICE_ERROR}


def test_a_modbus_server_that_goes_and_returns_is_down_and_up():
    async def scene():
        server = ModbusTcpServer([modbus_unit()])
        number = await server.start()
        port = f"tcp://127.0.0.1:{number}"
        async with Running(device(port, Registers, silence_s=60)) as run:
            await run.until(lambda r: r.values)
            await server.close()
            await run.until(lambda r: r.ups_and_downs == [True, False])
            await server.start(number)
            await run.until(lambda r: r.ups_and_downs == [True, False, True])
            reconnects = run.link.status().reconnects
        await server.close()
        return run, port, reconnects

    run, port, reconnects = asyncio.run(scene())
    assert port in run.changes[1].detail
    assert reconnects >= 1
    assert Reason.NO_REPLY not in run.bad, "a lost line is no missed reply of the unit"


async def reads_beside(silent):
    """Return how many reads two good units got in 2 s beside a third, and the third's state."""

    class Steady(Registers):
        def blocks(self):
            return (Block(table="holding", address=10, count=2, period_s=0.05),)

    units = [modbus_unit(1), modbus_unit(2), modbus_unit(3, silent=silent)]
    server = ModbusRtuServer(units)
    port = await server.start_pty()
    clock = Clock()
    lines = Lines(clock)
    links = [
        Running(
            device(port, Steady, name=f"scale-{n}", unit=n, timeout_s=0.05),
            clock=clock, lines=lines, label=f"scale-{n}",
        )
        for n in (1, 2, 3)
    ]  # fmt: skip
    async with links[0] as one, links[1] as two, links[2] as three:
        await one.until(lambda r: r.values)
        if silent:
            await three.until(lambda r: r.link.status().link == "parked")
        await asyncio.sleep(0.05)
        before = len(one.values) + len(two.values)
        await asyncio.sleep(2)
        count = len(one.values) + len(two.values) - before
        states = [each.link.status().link for each in links]
    await server.close()
    return count, states


def test_one_dead_unit_is_parked_and_leaves_the_others_nine_tenths_of_their_reads(monkeypatch):
    monkeypatch.setattr(link, "PARK_FIRST_S", 0.5)  # so that several probes fall into the 2 s
    monkeypatch.setattr(link, "PARK_CAP_S", 0.5)
    count, states = asyncio.run(reads_beside(silent=True))
    assert states == ["up", "up", "parked"]
    assert count >= 0.9 * 2 * 2 / 0.05 * 0.85, "a busy machine is allowed for"


def test_a_line_is_shared_by_its_devices_and_closed_by_the_last():
    async def scene():
        server = ModbusRtuServer([modbus_unit(1), modbus_unit(2)])
        port = await server.start_pty()
        clock = Clock()
        lines = Lines(clock)
        first = Running(device(port, Registers, unit=1), clock=clock, lines=lines, label="a")
        second = Running(device(port, Registers, unit=2), clock=clock, lines=lines, label="b")
        async with first:
            async with second:
                await first.until(lambda r: r.values)
                await second.until(lambda r: r.values)
                line = lines.line_of(first.link.device)
                assert line is lines.line_of(second.link.device)
                assert (line.users, line.opened) == (2, 1)
            seen = len(first.values)
            await first.until(lambda r: len(r.values) > seen + 2)
            still_open = line._pipe is not None
        await server.close()
        return still_open, line._pipe

    assert asyncio.run(scene()) == (True, None)


@pytest.mark.parametrize("wait_s", [0.0, 0.02, 0.2])
def test_a_modbus_link_stops_promptly_wherever_it_waits(wait_s):
    async def scene():
        server = ModbusRtuServer([modbus_unit(silent=True)])
        port = await server.start_pty()
        config = device(port, Registers, timeout_s=5, max_lateness_s=5)
        for each in (config, device(free_port(), Registers), device(port, Registers)):
            async with Running(each):
                await asyncio.sleep(wait_s)
        await server.close()

    asyncio.run(scene())


def test_the_link_fits_the_driver():
    async def scene():
        clock = Clock()
        common = {"clock": clock, "sink": [].append, "lines": Lines(clock)}
        return [type(make_link(device("/dev/x", make), **common)) for make in (Lines1, Registers)]

    assert asyncio.run(scene()) == [Link, ModbusLink]


# ---------------------------------------------------------------- silent by nature


def reader(port, **common):
    config = device(port, name="plates", **common)
    if "silence_s" not in common:
        config = dataclasses.replace(
            config, common=dataclasses.replace(config.common, silence_s=None)
        )
    return dataclasses.replace(
        config, driver=dataclasses.replace(config.driver, is_silent_by_nature=True)
    )


def test_a_reader_that_is_silent_by_nature_is_up_once_its_port_stays_open(monkeypatch):
    monkeypatch.setattr(link, "SETTLED_S", 0.1)
    monkeypatch.setattr(link, "REOPEN_S", 0.1)
    monkeypatch.setattr(settings, "DEFAULT_SILENCE_S", {"scale": 0.1})

    async def scene():
        async with Server() as server, Running(reader(server.port)) as run:
            await run.until(lambda r: r.changes)
            up = run.link.status()
            server.say(b"V 1\nV ")
            await run.until(lambda r: r.bad)
            await asyncio.sleep(0.4)
            server.say(b"V 2\n")
            await run.until(lambda r: r.values == ["1", "2"])
            return up, run.ups_and_downs, run.bad, server.connected

    up, changes, bad, connected = asyncio.run(scene())
    assert (up.link, up.last_good, up.frames) == ("up", None, 0)
    assert changes == [True]
    assert bad == [Reason.TRUNCATED], "half a frame is dropped, and the line is left open"
    assert connected == 1


def test_a_silent_reader_that_is_cut_off_is_down_and_up_again_when_it_is_back(monkeypatch):
    monkeypatch.setattr(link, "SETTLED_S", 0.05)

    async def scene():
        async with Server() as server, Running(reader(server.port)) as run:
            await run.until(lambda r: r.ups_and_downs == [True])
            server.hang_up()
            await run.until(lambda r: r.ups_and_downs == [True, False, True])
            return run.changes

    _, down, up = asyncio.run(scene())
    assert "closed" in down.detail
    assert "open on" in up.detail


def test_a_server_that_accepts_and_hangs_up_at_once_is_never_up(monkeypatch):
    monkeypatch.setattr(link, "RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(settings, "DEFAULT_SILENCE_S", {"scale": 0.3})

    async def scene():
        async with Server() as server:
            config = reader(server.port)
            async with Running(config) as run:

                async def hang_up():
                    while True:
                        if server.talks:
                            server.hang_up()
                        await asyncio.sleep(0.002)

                busy = asyncio.create_task(hang_up())
                await run.until(lambda r: r.changes)
                busy.cancel()
                return run.ups_and_downs, server.connected

    changes, connected = asyncio.run(scene())
    assert changes == [False]
    assert connected > 1


def test_a_reader_with_a_silence_of_its_own_is_watched_like_any_other():
    async def scene():
        async with Server() as server, Running(reader(server.port, silence_s=0.2)) as run:
            await run.until(lambda r: r.changes)
            return run.ups_and_downs

    assert asyncio.run(scene()) == [False]
