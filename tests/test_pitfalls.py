"""Every pitfall of docs/pitfalls.md is shown by tests that exist, and those no other file shows."""

from __future__ import annotations

import ast
import asyncio
import re
from functools import cache
from pathlib import Path

import pytest
from capture_files import captures, good, play
from lane_bench import Bench

from agent.config import ConfigError, load_lane
from agent.lane.options.scales import ScaleOptions
from drivers import modbus
from drivers.base import Block, CoilWrite, LineParameters
from drivers.modbus import ModbusLine, NoReplyError
from drivers.readings import Weight
from drivers.scale import toledo
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "pitfalls.md").read_text(encoding="utf-8")
COUNT = 35
SHOWN, UNTESTED = PAGE.split("## Untested")
ROW = re.compile(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
NAMED = re.compile(r"`(test_\w+\.py)::(test_\w+)`")
STREAMS = [c for c in captures() if c.is_stream]


# --- the page -----------------------------------------------------------------------------------


@cache
def known_in(file):
    """Return the tests of a file as Python reads it, without running it."""
    path = ROOT / "tests" / file
    if not path.exists():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.FunctionDef))
    return frozenset(node.name for node in found if node.name.startswith("test_"))


def test_the_page_has_every_pitfall_once_and_in_order():
    assert [int(number) for number, _, _ in ROW.findall(SHOWN)] == list(range(1, COUNT + 1))


@pytest.mark.parametrize("number", range(1, COUNT + 1))
def test_a_pitfall_names_tests_and_all_of_them_exist(number):
    named = NAMED.findall(next(tests for n, _, tests in ROW.findall(SHOWN) if int(n) == number))
    assert named, "a pitfall without a test stands in the second table, not here"
    missing = [f"{file}::{name}" for file, name in named if name not in known_in(file)]
    assert missing == []


def test_no_test_is_named_in_a_form_that_goes_unchecked():
    mentioned = set(re.findall(r"\w+\.py::\w+", PAGE))
    assert mentioned == {f"{file}::{name}" for file, name in NAMED.findall(SHOWN)}


def test_what_is_untested_gives_its_reason():
    rows = [line.split("|")[1:-1] for line in UNTESTED.splitlines() if re.match(r"\| \d", line)]
    assert rows
    assert all(len(row) == 3 and all(cell.strip() for cell in row) for row in rows)
    numbers = [int(n) for row in rows for n in row[0].split(",")]
    assert set(numbers) <= set(range(1, COUNT + 1))


# --- what no other file shows -------------------------------------------------------------------

ODD_TEXTS = {
    "C1 controls": b"\x81\x82",
    "no-break space, CP1252": b"\xa0",
    "no-break space, UTF-8": b"\xc2\xa0",
    "NUL padding": b"\x00" * 12,
    "printer escapes": b"\x1b@\x1bE\x1b[2J",
    "degree sign, CP1252": b"21.5 \xb0C",
    "byte order mark": b"\xef\xbb\xbf",
}


@pytest.mark.parametrize("capture", STREAMS, ids=lambda c: c.name)
@pytest.mark.parametrize("junk", ODD_TEXTS.values(), ids=list(ODD_TEXTS))
def test_odd_text_between_frames_never_crashes_nor_makes_a_weight(capture, junk):
    steps = capture.steps()
    twice = play(capture.make(), steps * 2, check_polls=False)
    known = {r.value for r in twice if isinstance(r, Weight)}
    noisy = [(kind, junk + data + junk) if kind == "data" else (kind, data) for kind, data in steps]
    said = good(play(capture.make(), noisy, check_polls=False))
    assert {r.value for r in said if isinstance(r, Weight)} <= known


HARMFUL = {
    *("Z", "ZI", "ZC", "ZERO", "KZERO", "T", "TI", "TA", "TAC", "TARE", "KTARE", "C", "CLEAR"),
    *("C1", "C2", "C3", "CAL", "REZERO", "AUTOTAR", "SZ", "ST", "SC", "UT"),
}
"""What sets zero or tare, or calibrates, in one protocol or another of those read here."""


@pytest.mark.parametrize(
    "capture", [c for c in STREAMS if c.driver.startswith("scale.")], ids=lambda c: c.name
)
def test_no_scale_driver_ever_sends_a_command_that_sets_zero_or_tare(capture):
    driver = capture.make()
    sent = []
    for _ in range(3):
        for kind, data in capture.steps():
            if kind == "data":
                driver.feed(data)
            elif kind == "poll":
                sent.append(driver.poll())
            else:
                getattr(driver, kind)()
        sent += [driver.poll() for _ in range(60)]
        driver.no_reply()
    # Without control characters and the address before the command.
    commands = {re.sub(rb"[^A-Z0-9]", b"", one.upper()).lstrip(b"0123456789") for one in sent}
    assert not {command.decode() for command in commands} & HARMFUL


@pytest.mark.parametrize("table", ["coils", "discrete", "input", "holding"])
def test_a_modbus_line_reads_sets_coils_and_asks_mailboxes(table):
    what = Block(table=table, address=100, count=2, period_s=1.0)
    assert modbus._asked(1, what).payload[0] in {1, 2, 3, 4}
    offered = {name for name in vars(ModbusLine) if not name.startswith("_")}
    assert offered == {"join", "leave", "close", "read_block", "write_coils"}


@pytest.mark.parametrize("function", [5, 15])
def test_what_a_modbus_line_sets_are_coils_never_registers(function):
    write = CoilWrite(address=3, values=(True,), function=function)
    assert modbus._writing(1, write).payload[0] == function
    register = CoilWrite(address=3, values=(True,), function=6)  # no such function of ours
    assert modbus._writing(1, register).payload[0] in {5, 15}


class NoDelays:
    def next_s(self):
        return 0.0

    def reset(self):
        pass


@pytest.mark.parametrize("unit_id", [0, 1, 255])
def test_a_tcp_device_is_reached_by_whichever_unit_id_it_wants(unit_id):
    async def scene():
        server = ModbusTcpServer([ModbusUnit(unit_id=unit_id, holding={7: 4711})])
        port = f"tcp://127.0.0.1:{await server.start()}"
        line = ModbusLine(port, LineParameters(), framing="tcp", delays=NoDelays())
        line.join()
        try:
            what = Block(table="holding", address=7, count=1, period_s=1.0)
            return await line.read_block(unit_id, what, timeout_s=2.0, max_lateness_s=0.0)
        finally:
            line.leave()
            await server.close()

    assert asyncio.run(scene()) == (4711,)


@pytest.mark.parametrize(("port", "unit", "is_good"), [
    ("tcp://10.0.0.5:502", 255, True),
    ("tcp://10.0.0.5:502", 0, True),
    ("/dev/rs485", 247, True),
    ("/dev/rs485", 248, False),
    ("/dev/rs485", 0, False),
])  # fmt: skip
def test_unit_ids_are_taken_as_their_wire_allows(tmp_path, port, unit, is_good):
    lane = tmp_path / "inbound-1.toml"
    driver = 'driver = "scale.modbus_map"\npreset = "dini-dgt"\ndecimals = 0\nweight_unit = "kg"\n'
    lane.write_text(f'[devices.scale]\n{driver}port = "{port}"\nunit = {unit}\n', encoding="utf-8")
    if is_good:
        assert load_lane(lane, []).devices[0].common.unit == unit
        return
    with pytest.raises(ConfigError, match="1 to 247"):
        load_lane(lane, [])


def test_a_line_is_not_opened_anew_while_one_of_its_units_answers():
    async def scene():
        units = [ModbusUnit(unit_id=n, holding={0: n}, silent=n == 2) for n in (1, 2)]
        server = ModbusRtuServer(units)
        line = ModbusLine(
            await server.start_pty(), LineParameters(), framing="rtu", delays=NoDelays()
        )
        for _ in units:
            line.join()
        what = Block(table="holding", address=0, count=1, period_s=1.0)
        answers = []
        for _ in range(modbus.MUTE_LIMIT * len(units)):
            with pytest.raises(NoReplyError):
                await line.read_block(2, what, timeout_s=0.03, max_lateness_s=0.0)
            answers.append(await line.read_block(1, what, timeout_s=1.0, max_lateness_s=0.0))
        opened = line.opened
        for _ in units:
            line.leave()
        await server.close()
        return answers, opened

    answers, opened = asyncio.run(scene())
    assert set(answers) == {(1,)}
    assert opened == 1


def test_a_weight_is_kept_as_shown_where_a_multi_interval_scale_changes_its_step():
    """e = 10 kg up to 30 t and 20 kg above: the smaller one is declared, and both fit it."""
    lane = Bench(scale=ScaleOptions(e_kg=10, max_kg=60_000, max_gap_s=5))
    for at_s, kg in ((10, 29_990), (40, 30_020)):
        lane.weigh(at_s, kg)
    lane.tick(100)
    assert [p.scale.value for p in lane.passages()] == ["29990", "30020"]
    assert lane.alarms("fault") == []
    lane.weigh(110, 30_015)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["interval_mismatch"]


def toledo_frame(word_a, digits):
    body = bytes([0x02, word_a, 0x30, 0x20]) + digits + b"000000\r"
    return body + bytes([-sum(body) & 0x7F])


def test_an_indicator_that_changes_its_step_between_frames_is_followed_without_smoothing():
    driver = toledo.Driver(toledo.Options(checksum="yes"))
    said = driver.feed(toledo_frame(0x2A, b" 29990"))  # ×1, steps of 1
    said += driver.feed(toledo_frame(0x31, b"  3002"))  # ×10, steps of 20
    assert [r.value for r in said if isinstance(r, Weight)] == ["29990", "30020"]
