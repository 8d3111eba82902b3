"""Probing a port: what is recognised, what is not, and that nothing is written unasked."""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import tty
from bisect import bisect_right
from contextlib import asynccontextmanager
from dataclasses import replace
from decimal import Decimal

import pytest
import serial
from capture_files import captures

from agent import config as configuration
from agent.cli import main
from agent.tools.probe import ear
from agent.tools.probe import modbus as probe_modbus
from agent.tools.probe import recognise as recognising
from agent.tools.probe.ear import Heard, line_errors
from agent.tools.probe.probe import HARMLESS, Plan, listening_lines, probe_stream, requests
from agent.tools.probe.recognise import LOOK_ALIKES, recognise, recognise_registers
from agent.tools.probe.report import plain_words, proposed_line, section, stable_name, text
from agent.tools.probe.sample import described, marking, shown, unmarked
from agent.tools.probe.variants import variants
from drivers.base import LineParameters, find
from drivers.readings import GammaBackground, Weight
from simulators.clock import SceneClock
from simulators.metal import MetalWalk, WalkThrough
from simulators.modbus_server import ModbusTcpServer, ModbusUnit
from simulators.n42_stream import N42Instrument
from simulators.rpm import Portal
from simulators.rpm_server import PortalServer
from simulators.scales import Reading, SicsScale, ToledoForm, ToledoScale, Weighbridge, toledo_frame
from simulators.scene import Scene

# Nobody can guess these: what they need stands in the device's manual alone.
NEEDS_THE_MANUAL = {
    "scale.toledo/clone-table": "a clone's own status word",
    "metal.dry_contact/custom-16-bit": "a module's own addresses",
    "scale.dini_argeo/address": "the address of one terminal among several",
    "scale.flintec_bsi/without-checksum": "the letters that mean rest",
    "scale.ohaus/labelled": "which label is the present weight",
}

TOLEDO = toledo_frame(
    Reading(value=Decimal(12340), tare=Decimal(0), is_net=False, in_motion=False, range="ok"),
    increment=Decimal(20),
    unit="kg",
    form=ToledoForm(),
)
PORTAL = (
    b"GB,000402,000390,000430,000415\r\nNB,000000,000001,000001,000000\r\n"
    b"GS,000078,000081,000090,000079\r\n"
)
SICS = b"S S     100.02 kg\r\nS D     100.04 kg\r\n"


def with_parity(data, parity):
    """Return 7-bit characters as an 8N1 port receives them: the parity stands in bit 7."""
    wanted = {"even": 0, "odd": 1}.get(parity)
    if wanted is None:
        return bytes(b | 0x80 for b in data)
    return bytes(b | (0x80 if b.bit_count() % 2 != wanted else 0) for b in data)


def heard_bytes(capture):
    return b"".join(data for kind, data in capture.steps() if kind == "data")


# ---------------------------------------------------------------- recognising


def guessable():
    """Return the captures of drivers that can be made without a description from a person."""
    return [c for c in captures() if c.name not in NEEDS_THE_MANUAL and variants(find(c.driver))]


@pytest.mark.parametrize("capture", guessable(), ids=lambda c: c.name)
def test_each_capture_is_recognised_as_its_own_driver_or_as_a_named_look_alike(capture):
    if capture.is_stream:
        candidates = recognise(heard_bytes(capture)).candidates
    else:
        reads = [read for read in capture.reads() if not read.get("silence")]
        candidates = recognise_registers(
            {(r["table"], r["address"], len(r["regs"])): tuple(r["regs"]) for r in reads}
        )
    ranked = [candidate.driver for candidate in candidates]
    assert capture.driver in ranked
    if ranked[0] != capture.driver:
        pair = frozenset({ranked[0], capture.driver})
        assert ranked[0] in candidates[ranked.index(capture.driver)].look_alikes
        assert pair in LOOK_ALIKES, f"say in LOOK_ALIKES what tells {' and '.join(pair)} apart"
    assert candidates[0].why


def test_documents_longer_than_what_is_judged_of_others_are_recognised():
    scene = Scene.from_text('title = "empty"\nseed = 3')
    documents = [data for _, data in N42Instrument(scene).advance(6.0)]
    stream = b"".join(documents)
    assert len(documents[0]) > 2000
    assert recognise(stream).best.driver == "rpm.n42_stream"
    assert recognise(stream[700:]).best.driver == "rpm.n42_stream"


def test_what_stands_in_a_manual_alone_is_not_guessed():
    found = {c.name: c for c in captures()}
    for name in NEEDS_THE_MANUAL:
        if found[name].is_stream:
            assert recognise(heard_bytes(found[name])).best is None


def test_random_bytes_are_nobody_s():
    for seed in range(60):
        rng = random.Random(seed)
        data = rng.randbytes(rng.choice([1, 8, 30, 100, 400, 1500]))
        found = recognise(data)
        assert found.candidates == (), f"seed {seed}, {len(data)} bytes"


def test_random_text_is_nobody_s():
    for seed in range(15):
        rng = random.Random(seed)
        lines = [bytes(rng.choices(range(0x20, 0x7F), k=20)) for _ in range(20)]
        assert recognise(b"\r\n".join(lines)).candidates == (), f"seed {seed}"


@pytest.mark.parametrize("parity", ["even", "odd", "mark"])
@pytest.mark.parametrize(
    ("stream", "driver"),
    [(TOLEDO * 5, "scale.toledo"), (PORTAL * 3, "rpm.rapiscan"), (SICS * 4, "scale.mt_sics")],
    ids=["toledo", "portal", "sics"],
)
def test_a_parity_bit_in_every_byte_is_told_and_taken_off(stream, driver, parity):
    received = with_parity(stream, parity)
    assert unmarked(received) == stream
    found = recognise(received)
    assert found.marking == parity
    assert found.best.driver == driver
    assert found.best.certainty == "sure"


def test_bit_7_as_data_or_unused_is_no_parity():
    assert marking(PORTAL) == "none"
    assert marking(random.Random(1).randbytes(400)) == "none"
    assert marking(with_parity(TOLEDO, "even")[:4]) == "none"


@pytest.mark.parametrize(
    ("frame", "driver"),
    [(TOLEDO, "scale.toledo"), (PORTAL, "rpm.rapiscan"), (SICS, "scale.mt_sics")],
)
def test_a_stream_joined_and_left_in_mid_frame_is_recognised_all_the_same(frame, driver):
    stream = frame * 6
    for cut in range(1, len(frame), 3):
        best = recognise(stream[cut:-cut]).best
        assert best is not None
        assert best.driver == driver


def test_half_a_frame_is_not_recognised():
    for cut in range(1, len(TOLEDO) - 1):
        assert recognise(TOLEDO[:cut]).best is None
    # Less its checksum it is a whole frame of the form without one: a single frame proves little.
    assert recognise(TOLEDO[:-1]).best.certainty == "possible"
    for cut in range(1, 30):
        assert recognise(PORTAL[:cut]).best is None


def test_two_drivers_of_the_same_frames_are_both_named_with_what_tells_them_apart(monkeypatch):
    toledo = find("scale.toledo")
    twins = (toledo, replace(toledo, name="scale.twin"))
    monkeypatch.setattr(recognising, "known_drivers", lambda: twins)
    monkeypatch.setattr(recognising, "variants", lambda _: ({},))
    pair = frozenset({"scale.toledo", "scale.twin"})
    monkeypatch.setitem(LOOK_ALIKES, pair, "the label")
    first, second = recognise(TOLEDO * 8).candidates
    assert {first.driver, second.driver} == pair
    assert first.certainty == second.certainty == "possible"
    assert first.look_alikes == (second.driver,)
    assert f"{second.driver} reads the same bytes as well: the label" in first.why


def test_an_option_is_proposed_only_where_the_default_reads_less():
    short = next(c for c in captures() if c.name == "scale.toledo/short-checksum")
    assert recognise(heard_bytes(short) * 4).best.options["form"] == "short"
    assert recognise(TOLEDO * 10).best.options == {}


def test_one_good_frame_in_garbage_is_not_taken_for_a_device():
    rng = random.Random(5)
    data = rng.randbytes(150) + TOLEDO + rng.randbytes(150)
    assert recognise(data).best is None


# ---------------------------------------------------------------- a serial line, bit by bit


class Uart:
    """A device on a wire, sampled by a receiver that may be set to something else.

    The receiver passes on what it has sampled, errors or not, as Linux does for a port without
    INPCK. ``is_strict``: after a framing error it takes the low bit for the next start, as a
    16550 does; else it waits for the line to rest. ``is_counting``: it counts its errors.
    """

    kind = "serial"

    def __init__(self, stream, line, *, seed=1, is_strict=False, is_counting=True):
        self._is_strict, self._is_counting, self._errors = is_strict, is_counting, 0
        self._changes, self._levels = [0.0], [1]
        rng, at_s, bit_s = random.Random(seed), 0.01, 1 / line.baud
        for byte in stream:
            bits = [byte >> i & 1 for i in range(line.data_bits)]
            if line.parity != "N":
                bits.append((sum(bits) + (line.parity == "O")) % 2)
            for bit in (0, *bits, *[1] * line.stop_bits):
                self._changes.append(at_s)
                self._levels.append(bit)
                at_s += bit_s
            if byte in b"\r\n" and rng.random() < 0.5:
                at_s += 20 * bit_s  # the line rests between frames
        self._end_s = at_s
        self.settings = []
        self.sent = b""

    def _level(self, at_s):
        return self._levels[bisect_right(self._changes, at_s) - 1]

    def _next_change(self, at_s):
        i = bisect_right(self._changes, at_s)
        return self._changes[i] if i < len(self._changes) else self._end_s

    def _received(self, line, limit_s):
        at_s = 0.0
        width = line.data_bits + (line.parity != "N")
        while at_s < min(limit_s, self._end_s):
            if self._level(at_s) == 1:
                at_s = self._next_change(at_s)
                continue
            bits = [self._level(at_s + (1.5 + i) / line.baud) for i in range(width)]
            at_s += (1.5 + width) / line.baud  # the middle of the stop bit
            is_framed = self._level(at_s) == 1
            is_even = sum(bits) % 2 == 0
            self._errors += not is_framed or (
                line.parity != "N" and is_even != (line.parity == "E")
            )
            yield sum(bit << i for i, bit in enumerate(bits[: line.data_bits]))
            if self._is_strict:
                continue
            while self._level(at_s) == 0 and at_s < self._end_s:
                at_s = self._next_change(at_s)

    async def hear(self, line, limit_s, enough):
        self.settings.append(str(line))
        data = bytearray()
        self._errors = 0
        for byte in self._received(line, limit_s):
            data.append(byte)
            if len(data) % 16 == 0 and enough(bytes(data)):
                break
        return Heard(bytes(data), self._errors if self._is_counting else None)

    async def ask(self, line, request):
        self.sent += request
        return Heard(b"")


@pytest.mark.parametrize(
    ("line", "stream", "driver", "is_strict"),
    [
        ("9600 8N1", TOLEDO * 20, "scale.toledo", True),
        ("1200 7E1", TOLEDO * 20, "scale.toledo", True),
        ("4800 7O1", PORTAL * 6, "rpm.rapiscan", False),
        ("19200 8O1", PORTAL * 6, "rpm.rapiscan", True),
        ("19200 8O1", PORTAL * 6, "rpm.rapiscan", False),
        ("2400 8E1", PORTAL * 6, "rpm.rapiscan", True),
        ("2400 8E1", PORTAL * 6, "rpm.rapiscan", False),
        ("57600 7E1", SICS * 15, "scale.mt_sics", False),
        ("115200 8N1", TOLEDO * 20, "scale.toledo", True),
        ("9600 7N2", SICS * 15, "scale.mt_sics", True),
    ],
)
def test_speed_and_parity_are_found_from_what_decodes(line, stream, driver, is_strict):
    baud, form = line.split()
    device = LineParameters(
        baud=int(baud), data_bits=int(form[0]), parity=form[1], stop_bits=int(form[2])
    )
    uart, said = Uart(stream, device, is_strict=is_strict), []
    found = asyncio.run(probe_stream(uart, Plan(seconds=2), said.append))
    assert found.best is not None, uart.settings
    assert found.best.driver == driver
    assert str(proposed_line(found)) == line, uart.settings
    assert uart.sent == b""
    for setting in uart.settings:
        assert any(setting in progress for progress in said)
    proposed = section("/dev/ttyS9", found)
    default = find(driver).line
    assert ("baud = " in proposed) == (default.baud != device.baud)
    assert ("parity = " in proposed) == (default.parity != device.parity)


def test_where_no_line_errors_are_counted_the_parity_is_left_in_doubt():
    device = LineParameters(baud=2400, parity="E")
    uart = Uart(PORTAL * 6, device, is_counting=False)
    found = asyncio.run(probe_stream(uart, Plan(seconds=2), lambda _: None))
    assert str(proposed_line(found)) == "2400 8N1"  # it decodes, and nothing tells
    assert "8E1 and 8O1 can pass for it" in text("/dev/ttyS9", found)


def test_line_errors_are_unknown_where_the_kernel_counts_none():
    master, slave = os.openpty()
    try:
        assert line_errors(os.ttyname(slave)) is None
    finally:
        os.close(master)
        os.close(slave)
    assert line_errors("tcp://127.0.0.1:1") is None
    assert line_errors("/dev/no-such-port") is None


def test_a_silent_serial_line_is_not_searched_at_every_speed():
    uart = Uart(b"", LineParameters())
    found = asyncio.run(probe_stream(uart, Plan(seconds=1), lambda _: None))
    assert uart.settings == ["9600 8N1"]
    assert "Not one byte came" in text("/dev/ttyS9", found)
    assert uart.sent == b""


def test_garbage_at_every_speed_says_so_and_names_the_bytes():
    class Noise(Uart):
        async def hear(self, line, limit_s, enough):
            self.settings.append(str(line))
            return Heard(random.Random(line.baud).randbytes(500))

    uart = Noise(b"", LineParameters())
    found = asyncio.run(probe_stream(uart, Plan(seconds=1), lambda _: None))
    assert len(uart.settings) == len(listening_lines("serial"))
    report = text("/dev/ttyS9", found)
    assert "nothing recognised" in report
    assert "wrong speed or parity" in report
    assert shown(found.data)[0] in report


def test_of_unknown_lines_the_speed_that_makes_text_is_reported():
    lines = b"".join(b"LOT 0042  +%07.1f kg   OK\r\n" % n for n in range(100, 112))
    uart = Uart(lines, LineParameters(baud=4800))
    found = asyncio.run(probe_stream(uart, Plan(seconds=2), lambda _: None))
    assert found.best is None
    report = text("/dev/ttyS9", found)
    assert "lines of text of 26 characters" in report
    assert "At 4800 8N1" in report
    assert "The lines are alike and hold a number" in report


# ---------------------------------------------------------------- asking


def test_only_requests_for_a_weight_are_ever_sent():
    assert requests() == tuple(r for r in HARMLESS if r in requests())
    assert b"SI\r\n" in requests()
    for request in HARMLESS:  # zero, tare, clear, cancel, and their control codes
        assert not set(request) & set(b"ZTC@\x1b")


def test_a_wholly_dumb_line_gets_harmless_requests_and_nothing_else():
    uart = Uart(b"", LineParameters())
    found = asyncio.run(probe_stream(uart, Plan(seconds=1, is_asking=True), lambda _: None))
    assert found.best is None
    assert set(re.findall(rb"[^\r\n]+", uart.sent)) <= {r.strip() for r in HARMLESS}
    assert "Nor was a request answered" in text("/dev/ttyS9", found)


# ---------------------------------------------------------------- at real ports


@asynccontextmanager
async def closing(instrument):
    try:
        yield instrument
    finally:
        await instrument.close()


async def cli(*arguments):
    return await asyncio.to_thread(main, ["probe", *arguments])


def loads(tmp_path, output):
    """Return the device that the printed section makes in a lane's file."""
    lane = tmp_path / "lane-1.toml"
    lane.write_text('[lane]\nname = "L"\n\n' + output[output.index("[devices.") :])
    (device,) = configuration.load_lane(lane, []).devices
    return device


def test_a_weighbridge_on_a_pseudo_terminal(tmp_path, capsys):
    async def run():
        scale = ToledoScale(Weighbridge(lambda _: 12_340.0, seed=1))
        async with closing(scale):
            port = await scale.serve_pty(SceneClock(time_scale=5.0))
            assert await cli(port, "--seconds", "1") == 0
            return port

    port = asyncio.run(run())
    output = capsys.readouterr().out
    assert f"{port}: scale.toledo (sure)" in output
    assert "no speed and no parity" in output
    assert re.search(r"weight: value 12\d\d\d, unit kg", output)
    device = loads(tmp_path, output)
    assert (device.driver.name, device.common.port) == ("scale.toledo", port)


def test_a_parity_bit_on_a_pseudo_terminal_is_told_too(capsys):
    async def run():
        scale = ToledoScale(Weighbridge(lambda _: 500.0, seed=1), form=ToledoForm(parity="even"))
        async with closing(scale):
            port = await scale.serve_pty(SceneClock(time_scale=5.0))
            assert await cli(port, "--seconds", "1", "--json") == 0

    asyncio.run(run())
    found = json.loads(capsys.readouterr().out)
    assert found["candidates"][0]["driver"] == "scale.toledo"
    assert found["recognised"] is True
    assert found["line"] is None
    assert found["candidates"][0]["readings"][0]["unit"] == "kg"


def test_a_portal_over_tcp(tmp_path, capsys):
    async def run():
        server = PortalServer(Portal(Scene.named("demo")))
        async with closing(server):
            port = await server.serve_tcp(SceneClock(time_scale=20.0))
            assert await cli(port, "--seconds", "2") == 0

    asyncio.run(run())
    output = capsys.readouterr().out
    assert "rpm.rapiscan (sure)" in output
    assert "counts/s" in output
    assert loads(tmp_path, output).driver.name == "rpm.rapiscan"


def test_a_balance_that_only_answers_needs_to_be_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(ear, "REPLY_S", 0.3)

    async def run():
        scale = SicsScale(Weighbridge(lambda _: 250.0, seed=2))
        async with closing(scale):
            port = await scale.serve_tcp(SceneClock(time_scale=5.0))
            assert await cli(port, "--seconds", "0.1") == 1
            silent = capsys.readouterr().out
            assert await cli(port, "--seconds", "0.1", "--ask") == 0
            return silent

    silent = asyncio.run(run())
    assert "Not one byte came" in silent
    assert "--ask" in silent
    output = capsys.readouterr().out
    assert "scale.mt_sics" in output
    assert r"asked 'SI\r\n'" in output
    assert loads(tmp_path, output).driver.name == "scale.mt_sics"


def test_listening_writes_nothing(capsys):
    async def run():
        master, slave = os.openpty()
        tty.setraw(slave)
        os.set_blocking(master, False)
        try:
            code = await cli(os.ttyname(slave), "--seconds", "0.1")
            with pytest.raises(BlockingIOError):
                os.read(master, 100)
        finally:
            os.close(master)
            os.close(slave)
        return code

    assert asyncio.run(run()) == 1
    assert "nothing is written" in capsys.readouterr().err


@pytest.mark.parametrize("serve", ["serve_tcp", "serve_pty"])
def test_a_modbus_input_module(serve, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(probe_modbus, "LATENESS_S", 0.05)

    async def run():
        module = WalkThrough([MetalWalk(at_s=1.0, direction="in", has_metal=True)])
        async with closing(module):
            port = await getattr(module, serve)(SceneClock())
            assert await cli(port, "--ask", "--modbus-unit", "1") == 0

    asyncio.run(run())
    output = capsys.readouterr().out
    assert "metal.dry_contact (possible)" in output
    assert 'take it from the device: preset = "moxa-e1210" or "moxa-e1212"' in output
    with pytest.raises(configuration.ConfigError, match="preset"):  # chosen by a person
        loads(tmp_path, output)


def test_a_modbus_unit_with_other_registers_is_told_as_such(capsys, monkeypatch):
    monkeypatch.setattr(probe_modbus, "TIMEOUT_S", 0.1)
    monkeypatch.setattr(probe_modbus, "LATENESS_S", 0.05)

    async def run():
        server = ModbusTcpServer([ModbusUnit(unit_id=7)])
        async with closing(server):
            port = f"tcp://127.0.0.1:{await server.start()}"
            assert await cli(port, "--ask", "--modbus-unit", "7") == 1
            assert await cli(port, "--ask", "--modbus-unit", "8") == 1

    asyncio.run(run())
    output = capsys.readouterr().out
    assert "Unit 7 answers Modbus TCP" in output
    assert "Unit 8 did not answer" in output


def test_a_peer_that_hangs_up_is_named(capsys):
    async def run():
        async def hang_up(_, writer):
            writer.close()
            await writer.wait_closed()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            number = server.sockets[0].getsockname()[1]
            assert await cli(f"tcp://127.0.0.1:{number}", "--seconds", "1") == 1

    asyncio.run(run())
    assert "closed by the other side" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/dev/no-such-port"], "there is no such device"),
        (["COM3"], "expected /dev/… or tcp://host:port"),
        (["tcp://127.0.0.1:1"], "refused"),
        (["/dev/null", "--modbus-unit", "3"], "--ask"),
        (["/dev/null"], "is no serial line"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(arguments, said, capsys):
    assert main(["probe", *arguments]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert errors[-1].startswith("checkpointd: ")
    assert said in errors[-1]


def test_a_port_in_use_is_named():
    master, slave = os.openpty()
    try:
        with serial.Serial(os.ttyname(slave), exclusive=True):
            assert main(["probe", os.ttyname(slave), "--seconds", "0.1"]) == 2
    finally:
        os.close(master)
        os.close(slave)


# ---------------------------------------------------------------- words


def test_the_name_that_stays_is_proposed(tmp_path):
    (tmp_path / "usb-adapter").symlink_to("/dev/null")
    assert stable_name("/dev/null", tmp_path) == str(tmp_path / "usb-adapter")
    assert stable_name("/dev/zero", tmp_path) == "/dev/zero"
    assert stable_name("tcp://host:1", tmp_path) == "tcp://host:1"


def test_a_reading_is_told_in_words_and_what_is_unknown_is_left_out():
    said = plain_words(GammaBackground(cps=(402.0, 390.0)))
    assert said == "gamma background: 402 390 counts/s, level ok"
    weight = Weight(value="20", unit="kg", mass_kg=20.0, mode="gross", stable=None, range="ok")
    assert plain_words(weight).startswith(
        "weight: value 20, unit kg, mass 20 kg, mode gross, range"
    )


def test_frames_of_one_length_are_told_from_noise():
    assert described(TOLEDO * 8).endswith("frames of 18 bytes with one 0x02 each.")
    assert "no order" in described(random.Random(3).randbytes(300))
    assert described(b"") == "Not one byte came."
