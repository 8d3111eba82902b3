"""Captures: what is written is what came, and what is read back is what was written."""

from __future__ import annotations

import asyncio
import json
import os
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import Clock
from agent.lane.options.scales import ScaleOptions
from agent.records import Stamp
from agent.settings import DeviceConfig, DeviceOptions
from agent.tools.capture import capture, format_line
from agent.tools.replay.recording import (
    CapturedBytes,
    CapturedLink,
    CapturedRegisters,
    RecordingError,
    read_capture,
)
from drivers.base import Block, find


def stamp(utc_us):
    return Stamp(utc_us=utc_us, mono_us=0, boot="b")


def test_the_lines_are_those_of_the_format(tmp_path):
    at = stamp(1_795_766_400_000_120)
    block = Block(table="input", address=7, count=2, period_s=1)
    text = [
        format_line(at, "rpm", b"GA0\r"),
        format_line(at, "metal", (block, (1, 9))),
        format_line(at, "rpm", "down"),
    ]
    assert text == [
        '{"t": 1795766400.000120, "dev": "rpm", "hex": "4741300d"}',
        '{"t": 1795766400.000120, "dev": "metal", "table": "input", "address": 7, "regs": [1, 9]}',
        '{"t": 1795766400.000120, "dev": "rpm", "link": "down"}',
    ]
    path = tmp_path / "c.jsonl"
    path.write_text("\n".join(text) + "\n\n")
    assert list(read_capture(path)) == [
        CapturedBytes(utc_us=at.utc_us, device="rpm", data=b"GA0\r"),
        CapturedRegisters(
            utc_us=at.utc_us, device="metal", table="input", address=7, registers=(1, 9)
        ),
        CapturedLink(utc_us=at.utc_us, device="rpm", is_up=False),
    ]


@given(
    utc_us=st.integers(0, 4_000_000_000_000_000),
    device=st.text(st.characters(codec="utf-8"), min_size=1, max_size=20),
    data=st.binary(max_size=300),
)
def test_bytes_and_microseconds_come_back_exactly(tmp_path_factory, utc_us, device, data):
    path = tmp_path_factory.mktemp("capture") / "c.jsonl"
    line = format_line(stamp(utc_us), device, data)
    json.loads(line)
    path.write_text(line + "\n", encoding="utf-8")
    assert list(read_capture(path)) == [CapturedBytes(utc_us=utc_us, device=device, data=data)]


@pytest.mark.parametrize(
    "line",
    [
        "not JSON",
        "[]",
        '{"t": 1.0, "dev": "rpm"}',
        '{"t": "1.0", "dev": "rpm", "hexx": "00"}',
        '{"t": -1, "dev": "rpm", "hex": "00"}',
        '{"t": 1e40, "dev": "rpm", "hex": "00"}',
        '{"t": 1, "dev": "", "hex": "00"}',
        '{"t": 1, "dev": "rpm", "hex": "0"}',
        '{"t": 1, "dev": "rpm", "hex": "00 11"}',
        '{"t": 1, "dev": "rpm", "hex": "00", "link": "up"}',
        '{"t": 1, "dev": "rpm", "link": "sideways"}',
        '{"t": 1, "dev": "m", "table": "input", "address": 1}',
        '{"t": 1, "dev": "m", "table": "input", "address": 1, "regs": [65536]}',
        '{"t": 1, "dev": "m", "table": "inputs", "address": 1, "regs": [1]}',
        "x" * 2_000_000,
    ],
)
def test_a_line_that_is_not_ours_is_named_by_file_and_number(tmp_path, line):
    path = tmp_path / "c.jsonl"
    path.write_text('{"t": 1, "dev": "rpm", "hex": "00"}\n' + line + "\n")
    reading = read_capture(path)
    next(reading)
    with pytest.raises(RecordingError) as caught:
        next(reading)
    assert str(caught.value).startswith(f"{path}:2: ")
    assert len(str(caught.value)) < 1000


def scale_at(port):
    driver = find("scale.toledo")
    return DeviceConfig(
        name="scale",
        kind="scale",
        common=DeviceOptions(driver=driver.name, port=port),
        driver=driver,
        driver_options=driver.options(),
        kind_options=ScaleOptions(),
    )


def test_a_capture_holds_every_byte_that_came_and_stops_in_time(tmp_path, capsys):
    path = tmp_path / "c.jsonl"
    sent = bytes(range(256)) * 4

    async def scene():
        master, slave = os.openpty()
        tty.setraw(slave)
        capturing = asyncio.create_task(
            capture([scale_at(os.ttyname(slave))], path, Clock(), for_s=0.6)
        )
        await asyncio.sleep(0.2)  # the line is open by then
        os.write(master, sent)
        lines = await capturing
        os.close(master)
        os.close(slave)
        return lines

    lines = asyncio.run(scene())
    read = list(read_capture(path))
    assert b"".join(line.data for line in read if isinstance(line, CapturedBytes)) == sent
    assert lines["scale"] == len(read)
    assert "scale" in capsys.readouterr().err


def test_a_capture_that_is_cancelled_keeps_what_it_has_and_none_is_written_over(tmp_path):
    path = tmp_path / "c.jsonl"

    async def scene():
        capturing = asyncio.create_task(
            capture([scale_at("/dev/no-such-line")], path, Clock(), for_s=None)
        )
        await asyncio.sleep(0.1)
        capturing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await capturing
        with pytest.raises(FileExistsError):
            await capture([], path, Clock(), for_s=0.0)

    asyncio.run(scene())
    assert list(read_capture(path)) == []
