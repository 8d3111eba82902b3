"""Mailbox indicators: asked, answered, and never changed; what is no answer is no weight."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import struct
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Clock
from agent.config import ConfigError
from agent.config.load import load_lane
from agent.daemon.link import Lines, make_link
from agent.lane.options.scales import ScaleOptions
from agent.records import Timed
from agent.settings import DeviceConfig, DeviceOptions
from agent.tools.capture import capture
from agent.tools.probe import recognise
from agent.tools.replay.recording import CapturedRegisters, read_capture
from agent.tools.replay.replay import ReplayOptions, replay
from drivers import base, modbus
from drivers.base import Block, LineParameters, Question, find
from drivers.modbus import ExceptionReplyError, GoneError, ModbusLine, NoReplyError
from drivers.readings import BadFrame, Reason, Weight
from drivers.scale.ricelake_mailbox import Driver, Options
from simulators.clock import SceneClock
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit, crc16
from simulators.scales_mailbox import READ, WRITE, MailboxScale
from simulators.weighbridge import Weighbridge

KINDS = pytest.mark.parametrize("kind", ["rtu", "tcp"])
COMMANDS_THAT_CHANGE = {10, 12, 13, 14, 112, 113, 116, 254}
"""Zero, the tares, the panel's lock, outputs, reset (880 network interface manual p. 13-21)."""
LIMIT_S = 5.0


def options(**given_options) -> Options:
    known = {
        "write_address": WRITE,
        "read_address": READ,
        "weight_unit": "kg",
        "decimals": 0,
        "capacity": 80_000,
        "stable": "!4",
        "error": ["5"],
        "answer_after_s": 0.0,
    }
    return msgspec.convert({**known, **given_options}, Options)


class NoDelays:
    def next_s(self):
        return 0.0

    def reset(self):
        pass


def bridge(load_kg=70_000.0):
    return Weighbridge(lambda _: load_kg, max_kg=80_000.0, seed=1)


async def opened(scale, kind):
    """Serve the scale and return a line to it."""
    clock = SceneClock()
    port = await (scale.serve_pty(clock) if kind == "rtu" else scale.serve_tcp(clock))
    line = ModbusLine(port, LineParameters(), framing=kind, delays=NoDelays())
    line.join()
    return line


async def ask(line, driver, *, unit=1, timeout_s=0.3, max_lateness_s=0.02):
    (block,) = driver.blocks()
    words = await line.read_block(unit, block, timeout_s=timeout_s, max_lateness_s=max_lateness_s)
    return driver.decode(block, words)


def asked(scale, driver, kind="tcp", times=1):
    """Return what the driver makes of so many polls of a simulated indicator."""

    async def scene():
        line = await opened(scale, kind)
        try:
            return [reading for _ in range(times) for reading in await ask(line, driver)]
        finally:
            line.leave()
            await scale.close()

    return asyncio.run(scene())


# --- by construction ------------------------------------------------------------------------------


@pytest.mark.parametrize("number", sorted(COMMANDS_THAT_CHANGE))
def test_no_question_can_say_a_command_that_changes_the_indicator(number):
    for name in base.QUESTION_NUMBERS:
        for is_low in (False, True):
            words = Question(
                address=0, asked=name, scale=1, wait_s=0.0, is_low_byte_first=is_low
            ).words
            assert number not in words
            assert words[2:] == (0, 0)
    with pytest.raises(ValueError, match="is no question"):
        Question(address=0, asked=number, scale=1, wait_s=0.0)


def test_a_question_whose_bytes_arrive_swapped_is_no_command_of_the_maker():
    for number in base.QUESTION_NUMBERS.values():
        assert int.from_bytes(number.to_bytes(2, "big"), "little") > 290


@pytest.mark.parametrize("scale", [0, 10, 12, 13, 14, 254, -1])
def test_a_scales_number_is_never_one_that_would_set_zero_or_tare_as_a_command(scale):
    with pytest.raises(ValueError, match="expected 1 to 9"):
        Question(address=0, asked="gross", scale=scale, wait_s=0.0)
    with pytest.raises(msgspec.ValidationError):
        options(scale=scale)


def test_nobody_can_add_a_question_while_the_program_runs():
    with pytest.raises(TypeError):
        base.QUESTION_NUMBERS["zero"] = 10


def test_a_question_on_the_wire_is_function_16_with_its_four_words():
    question = Question(address=1024, asked="gross", scale=2, wait_s=0.0)
    assert modbus._asking(1, question).payload.hex() == "10040000040800200002" + "00000000"


@KINDS
def test_nothing_but_questions_reaches_the_indicator_and_its_zero_and_tare_stay(kind):
    commands = set()
    for figure, number in (("gross", "float"), ("net", "integer"), ("displayed", "integer")):
        scale = MailboxScale(bridge())
        scale.tare = Decimal(160)
        asked(scale, Driver(options(figure=figure, number=number)), kind, times=2)
        commands |= set(scale.commands)
        assert {request.function for request in scale.modbus.requests} == {3, 16}
        assert (scale.zero_kg, scale.tare) == (0.0, Decimal(160))
    assert commands == {(number, 1, 0, 0) for number in (34, 290, 288, 33, 37)}


# --- weights --------------------------------------------------------------------------------------


@KINDS
@pytest.mark.parametrize("is_swapped", [False, True], ids=["plain", "swapped"])
@pytest.mark.parametrize(
    ("figure", "number", "value"),
    [
        ("gross", "integer", "70000"),
        ("gross", "float", "70000"),
        ("net", "integer", "69840"),
        ("net", "float", "69840"),
        ("displayed", "integer", "69840"),
    ],
)
def test_a_truck_is_weighed_with_its_tare_through_a_real_line(
    kind, is_swapped, figure, number, value
):
    scale = MailboxScale(bridge(), is_swapped=is_swapped)
    scale.tare = Decimal(160)
    order = "low_first" if is_swapped else "high_first"
    shown = {"net_shown": "7"} if figure == "displayed" else {}
    driver = Driver(options(figure=figure, number=number, byte_order=order, **shown))
    (weight,) = asked(scale, driver, kind)
    assert isinstance(weight, Weight)
    assert (weight.value, weight.tare, weight.unit) == (value, "160", "kg")
    assert weight.mode == ("gross" if figure == "gross" else "net")
    assert (weight.stable, weight.range, weight.verified) == (True, "ok", True)


@pytest.mark.parametrize("negative", [None, "15"])
def test_a_weight_below_zero_keeps_its_sign(negative):
    (weight,) = asked(MailboxScale(bridge(-100.0)), Driver(options(negative=negative)))
    assert weight.value == "-100"


def test_a_magnitude_with_a_sign_bit_is_negative():
    driver = Driver(options(negative="15"))
    (block,) = driver.blocks()
    (weight,) = driver.decode(block, (34, 0, 0, 0, 32, 0x8000, 0, 120))
    assert weight.value == "-120"
    (refused,) = driver.decode(block, (34, 0, 0, 0, 32, 0, 0xFFFF, 0xFF88))
    assert refused.reason is Reason.RANGE


def test_an_overloaded_scale_that_says_so_has_no_weight():
    (weight,) = asked(MailboxScale(bridge(90_000.0)), Driver(options()))
    assert (weight.range, weight.value, weight.mass_kg) == ("error", None, None)


@given(
    number=st.integers(-(1 << 31), (1 << 31) - 1),
    decimals=st.integers(-3, 6),
    low_first=st.booleans(),
    swap=st.booleans(),
)
def test_every_32_bit_figure_comes_back_or_is_beyond_the_capacity(
    number, decimals, low_first, swap
):
    words = struct.unpack(">HH", struct.pack(">i", number))
    if low_first:
        words = words[::-1]
    answer = (34, 0, 0, 0, 32, 0, *words)
    if swap:
        answer = tuple(int.from_bytes(w.to_bytes(2, "big"), "little") for w in answer)
    driver = Driver(
        options(
            decimals=decimals,
            capacity=1e6,
            word_order="low_first" if low_first else "high_first",
            byte_order="low_first" if swap else "high_first",
        )
    )
    (block,) = driver.blocks()
    (reading,) = driver.decode(block, answer)
    exact = number * Decimal(10) ** -decimals
    if -1_000_000 <= exact <= 1_500_000:
        assert Decimal(reading.value) == exact
    else:
        assert (type(reading), reading.reason) == (BadFrame, Reason.RANGE)


@given(number=st.floats(width=32))
def test_every_float_comes_back_rounded_or_is_refused(number):
    words = struct.unpack(">HH", struct.pack(">f", number))
    driver = Driver(options(number="float", decimals=1))
    (block,) = driver.blocks()
    (reading,) = driver.decode(block, (290, 0x4000, 0, 0, 288, 0x4000, *words))
    if math.isfinite(number) and -80_000 <= round(number, 1) <= 120_000:
        assert abs(Decimal(reading.value) - Decimal(number)) <= Decimal("0.05")
        assert len(reading.value.partition(".")[2]) == 1
    else:
        assert (type(reading), reading.reason) == (BadFrame, Reason.RANGE)


# --- what is no answer ----------------------------------------------------------------------------


@given(first=st.integers(0, 0xFFFF), second=st.integers(0, 0xFFFF), status=st.integers(0, 0x3FFF))
def test_only_both_echoes_of_the_questions_in_their_order_are_an_answer(first, second, status):
    driver = Driver(options(error=[]))
    (block,) = driver.blocks()
    (reading,) = driver.decode(block, (first, status, 0, 0, second, status, 0, 500))
    assert isinstance(reading, Weight) is ((first, second) == (34, 32))


@KINDS
def test_an_interface_that_repeats_its_last_answer_gives_no_weight(kind):
    scale = MailboxScale(bridge())
    driver = Driver(options())

    async def scene():
        line = await opened(scale, kind)
        said = await ask(line, driver)
        scale.is_frozen = True
        said += await ask(line, driver)
        said += await ask(line, driver)
        scale.is_frozen = False
        said += await ask(line, driver)
        line.leave()
        await scale.close()
        return said

    said = asyncio.run(scene())
    assert [getattr(r, "reason", None) for r in said] == [None, *[Reason.NO_REPLY] * 2, None]


def test_an_indicator_slower_than_answer_after_s_is_refused_and_read_once_it_fits():
    slow = MailboxScale(bridge(), answer_s=0.08)
    hasty = asked(slow, Driver(options(answer_after_s=0.0)), times=3)
    assert {type(r) for r in hasty} == {BadFrame}
    slow = MailboxScale(bridge(), answer_s=0.08)
    (weight,) = asked(slow, Driver(options(answer_after_s=0.12)))
    assert weight.value == "70000"


def test_our_own_words_read_back_are_no_weight():
    async def scene():
        server = ModbusTcpServer([ModbusUnit(holding=dict.fromkeys(range(4), 0))])
        port = f"tcp://127.0.0.1:{await server.start()}"
        line = ModbusLine(port, LineParameters(), framing="tcp", delays=NoDelays())
        line.join()
        try:
            return await ask(line, Driver(options(write_address=0, read_address=0)))
        finally:
            line.leave()
            await server.close()

    (refused,) = asyncio.run(scene())
    assert "that is no answer" in refused.detail


def test_bytes_that_are_not_turned_are_no_weight():
    (refused,) = asked(MailboxScale(bridge(), is_swapped=True), Driver(options()))
    assert "byte_order" in refused.detail


def test_two_scales_of_one_mailbox_never_take_each_others_weight():
    """Both answers stand in the same registers, and their echoes are the same."""
    first, second = MailboxScale(bridge(10_000.0)), MailboxScale(bridge(20_000.0), scale=2)
    drivers = [Driver(options(scale=n, answer_after_s=0.002)) for n in (1, 2)]

    async def scene():
        line = await opened(first, "tcp")
        second.follow(SceneClock())
        unit, bank = first.modbus, first.modbus.holding
        second.modbus.holding = bank
        hooks = ((unit.before_request, second.modbus.before_request),
                 (unit.after_write, second.modbus.after_write))  # fmt: skip

        def refresh():
            # Only the one that was asked last keeps the answer up to date.
            asked_last = first if bank[WRITE + 1] == 1 else second
            hooks[0][asked_last is second]()

        unit.before_request = refresh

        def take():
            hooks[1][bank[WRITE + 1] == 2]()

        unit.after_write = take

        async def poll(driver):
            return [reading for _ in range(10) for reading in await ask(line, driver)]

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(poll(driver)) for driver in drivers]
        line.leave()
        await first.close()
        return [{reading.value for reading in task.result()} for task in tasks]

    assert asyncio.run(scene()) == [{"10000"}, {"20000"}]


# --- the line -------------------------------------------------------------------------------------


@KINDS
def test_an_interface_that_refuses_the_write_is_an_exception_and_is_not_read(kind):
    async def scene():
        unit = ModbusUnit(holding=dict.fromkeys(range(READ, READ + 4), 0))
        server = ModbusRtuServer([unit]) if kind == "rtu" else ModbusTcpServer([unit])
        if kind == "rtu":
            port = await server.start_pty()
        else:
            port = f"tcp://127.0.0.1:{await server.start()}"
        line = ModbusLine(port, LineParameters(), framing=kind, delays=NoDelays())
        line.join()
        try:
            with pytest.raises(ExceptionReplyError, match=r"asking for tare at 1024.*address"):
                await ask(line, Driver(options()))
        finally:
            line.leave()
            await server.close()
        return [request.function for request in unit.requests]

    assert asyncio.run(scene()) == [16]


@given(unit=st.integers(1, 247), address=st.integers(0, 0xFFFC), cut_at=st.integers(0, 24))
def test_the_adapters_echo_of_a_question_is_no_acknowledgement(unit, address, cut_at):
    asked = modbus._asking(unit, Question(address=address, asked="gross", scale=1, wait_s=0.0))
    sent = bytes([unit]) + asked.payload
    sent += crc16(sent)
    reply = bytes([unit, 16]) + address.to_bytes(2, "big") + b"\x00\x04"
    whole = sent + reply + crc16(reply)
    taken = modbus._RtuReply("line", unit, asked, sent)
    first = taken.feed(whole[:cut_at])
    assert first is None
    assert taken.feed(whole[cut_at:]) == reply[1:]


@KINDS
def test_a_lost_acknowledgement_is_no_reply_and_the_next_poll_weighs(kind):
    scale = MailboxScale(bridge())
    scale.modbus.drop = 1

    async def scene():
        line = await opened(scale, kind)
        try:
            with pytest.raises(NoReplyError):
                await ask(line, Driver(options()), timeout_s=0.05)
            return await ask(line, Driver(options()))
        finally:
            line.leave()
            await scale.close()

    (weight,) = asyncio.run(scene())
    assert weight.value == "70000"


def test_a_line_that_is_gone_says_so_before_anything_is_written():
    async def scene():
        line = ModbusLine("/dev/null/none", LineParameters(), framing="rtu", delays=NoDelays())
        with pytest.raises(GoneError):
            await ask(line, Driver(options()))

    asyncio.run(scene())


def test_a_poll_that_is_cancelled_leaves_the_mailbox_to_the_next():
    scale = MailboxScale(bridge())
    patient = Driver(options(answer_after_s=1.0))

    async def scene():
        line = await opened(scale, "tcp")
        poll = asyncio.create_task(ask(line, patient))
        async with asyncio.timeout(LIMIT_S):
            while not scale.commands:  # noqa: ASYNC110 - the simulator has no event for it
                await asyncio.sleep(0)
        poll.cancel()
        with pytest.raises(asyncio.CancelledError):
            await poll
        said = await ask(line, Driver(options()))
        line.leave()
        await scale.close()
        return said

    (weight,) = asyncio.run(scene())
    assert weight.value == "70000"


# --- the agent's link, capture and replay, probe, check -------------------------------------------

LANE = """
[devices.scale]
driver = "scale.ricelake_mailbox"
port = "{port}"
write_address = 1024
read_address = 0
weight_unit = "kg"
decimals = 0
capacity = 80000
stable = "!4"
poll_period_s = 0.05
answer_after_s = 0.0
timeout_s = 0.2
max_lateness_s = 0.02
"""


def lane_file(tmp_path: Path, port: str) -> Path:
    path = tmp_path / "inbound-1.toml"
    path.write_text(LANE.format(port=port), encoding="utf-8")
    return path


@KINDS
def test_a_capture_keeps_what_was_asked_and_a_replay_reads_the_same_weights(tmp_path, kind):
    scale = MailboxScale(bridge())
    path = tmp_path / "capture.jsonl"

    async def scene():
        clock = SceneClock()
        port = await (scale.serve_pty(clock) if kind == "rtu" else scale.serve_tcp(clock))
        lane = load_lane(lane_file(tmp_path, port), [])
        try:
            await capture(lane.devices, path, Clock(), 1.0)
        finally:
            await scale.close()
        return lane

    lane = asyncio.run(scene())
    blocks = [line for line in read_capture(path) if isinstance(line, CapturedRegisters)]
    assert blocks
    assert {line.written for line in blocks} == {((1024, (34, 1, 0, 0)), (1024, (32, 1, 0, 0)))}
    assert {line.registers[6:] for line in blocks} == {(1, 4464)}
    heard = []
    again = replay(
        path, lane, tmp_path / "inbound-1.toml", ReplayOptions(),
        watch=lambda event, _state, _records: heard.append(event),
    )  # fmt: skip
    list(again)
    weights = [e.reading.value for e in heard if isinstance(e, Timed)]
    assert weights == ["70000"] * len(blocks)
    assert again.summary.refused == {}


def test_a_recording_of_other_questions_is_not_taken_for_this_scales_weight(tmp_path):
    path = tmp_path / "capture.jsonl"
    line = (
        '{"t": 1, "dev": "scale", "written": [{"address": 1024, "regs": [34, 2, 0, 0]}, '
        '{"address": 1024, "regs": [32, 2, 0, 0]}], "table": "holding", "address": 0, '
        '"regs": [34, 0, 0, 0, 32, 0, 1, 4464]}\n'
    )
    path.write_text(line)
    file = lane_file(tmp_path, "/dev/scale")
    again = replay(path, load_lane(file, []), file, ReplayOptions())
    list(again)
    assert again.summary.refused == {"unknown": 1}


def test_a_silent_mailbox_is_parked_on_a_shared_line_like_any_unit():
    scale = MailboxScale(bridge(), unit_id=1)
    scale.modbus.silent = True
    other = ModbusUnit(unit_id=2, holding={0: 7})

    async def scene():
        server = ModbusTcpServer([scale.modbus, other])
        port = f"tcp://127.0.0.1:{await server.start()}"
        scale.follow(SceneClock())
        clock, events = Clock(), []
        driver = find("scale.ricelake_mailbox")
        device = DeviceConfig(
            name="scale",
            kind="scale",
            common=DeviceOptions(driver=driver.name, port=port, timeout_s=0.05, silence_s=0.2),
            driver=driver,
            driver_options=options(poll_period_s=0.05),
            kind_options=ScaleOptions(),
        )
        lines = Lines(clock)
        lines.line_of(device).join()  # somebody else is on the line
        link = make_link(device, clock=clock, sink=events.append, lines=lines)
        task = asyncio.create_task(link.run())
        try:
            async with asyncio.timeout(LIMIT_S):
                while link.status().link != "parked":  # noqa: ASYNC110 - a state, no event
                    await asyncio.sleep(0.01)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await server.close()
        return link.status().refused

    assert set(asyncio.run(scene())) == {"no_reply"}


def test_a_probe_never_writes_and_so_never_asks_a_mailbox(monkeypatch):
    assert all(not block.questions for block in recognise.needed_blocks())
    ready = dataclasses.replace(find("scale.ricelake_mailbox"), make=lambda _: Driver(options()))
    monkeypatch.setattr(recognise, "known_drivers", lambda: (ready,))
    monkeypatch.setattr(recognise, "variants", lambda *_, **__: ({},))
    monkeypatch.setattr(recognise, "make", lambda *_: Driver(options()))
    assert recognise.needed_blocks() == ()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"figure": "displayed", "number": "float"}, "integer only"),
        ({"net_shown": "7"}, "belongs to the displayed figure"),
        ({"stable": "16"}, "no status bit"),
        ({"error": ["!"]}, "no status bit"),
        ({"read_address": 65533}, "read_address 65533 has no four registers"),
        ({"write_address": 40000, "address_base": 40001}, "write_address 40000 has no four"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_what_to_do(wrong, said):
    with pytest.raises(msgspec.ValidationError, match=said):
        options(**wrong)


def test_two_users_of_one_mailbox_over_rtu_are_refused_when_the_configuration_loads(tmp_path):
    file = lane_file(tmp_path, "/dev/scale")
    text = file.read_text()
    second = text.replace("devices.scale]", "devices.scale2]") + "scale = 2\n"
    file.write_text(text + second)
    with pytest.raises(ConfigError, match="is already the unit of"):
        load_lane(file, [])


def test_a_block_without_questions_is_read_as_ever():
    plain = Block(table="holding", address=0, count=4, period_s=1.0)
    assert (plain.values, plain.written) == (4, ())
