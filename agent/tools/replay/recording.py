"""Our own capture read back: JSON Lines, one line for each thing that came from a device.

    {"t": 1795766400.123456, "dev": "rpm", "hex": "47412c30…"}                 bytes, as they came
    {"t": …, "dev": "metal", "table": "input", "address": 0, "regs": [1, 7]}   a block of registers
    {"t": …, "dev": "rpm", "link": "up"}                                       or "down"

What was written so that the registers answer stands before them, and behind each of it they were
read once; ``regs`` has all that was read, in this order:

    {"t": …, "dev": "scale", "written": [{"address": 64, "regs": [34, 1, 0, 0]}, …], "table": …}

``t`` is Unix time in UTC [s], with microseconds.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from drivers.base import Table, Written
from drivers.readings import Reading

LINE_LIMIT_BYTES = 1 << 20
"""A longer line is no line of ours."""


class RecordingError(ValueError):
    """A line that is not ours: file, line number, what was seen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedBytes:
    """Bytes of a stream, as they came in one piece."""

    utc_us: int
    device: str
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedRegisters:
    """One block that was read; coils and discrete inputs as 0 or 1."""

    utc_us: int
    device: str
    table: Table
    address: int
    registers: tuple[int, ...]
    written: tuple[Written, ...] = ()
    """What was written so that they answer; they were read once behind each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedLink:
    """The device's link came up or was lost."""

    utc_us: int
    device: str
    is_up: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedReadings:
    """What a line of another program's file says, read without a driver."""

    utc_us: int
    device: str
    readings: tuple[Reading, ...]


CaptureLine = CapturedBytes | CapturedRegisters | CapturedLink | CapturedReadings

_Register = Annotated[int, msgspec.Meta(ge=0, le=0xFFFF)]
_Device = Annotated[str, msgspec.Meta(min_length=1)]


class _Written(msgspec.Struct, forbid_unknown_fields=True):
    address: _Register
    regs: tuple[_Register, ...]


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    t: Decimal
    dev: _Device
    hex: str | None = None
    table: Table | None = None
    address: _Register | None = None
    regs: tuple[_Register, ...] | None = None
    written: tuple[_Written, ...] = ()
    link: Literal["up", "down"] | None = None


_decoder = msgspec.json.Decoder(_Line)


def read_capture(path: Path) -> Iterator[CaptureLine]:
    """Yield the lines of a capture in their order; empty lines are passed over.

    Raises
    ------
    RecordingError
        At a line that is not ours; the text begins with ``file:line``.
    OSError
        If the file cannot be read.
    """
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_LIMIT_BYTES + 1):
            number += 1
            if len(line) > LINE_LIMIT_BYTES:
                raise RecordingError(
                    f"{path}:{number}: longer than {LINE_LIMIT_BYTES} bytes; this is no capture"
                )
            if not line.strip():
                continue
            try:
                yield _line_of(_decoder.decode(line))
            except (msgspec.DecodeError, ValueError) as exc:
                raise RecordingError(f"{path}:{number}: {exc}") from exc


def _line_of(line: _Line) -> CaptureLine:
    if not line.t.is_finite() or not 0 <= line.t < 1 << 33:
        raise ValueError(f"t = {line.t}: expected Unix seconds")
    utc_us = int(line.t * 1_000_000)
    registers = (line.table, line.address, line.regs)
    if line.written and line.regs is None:
        raise ValueError('"written" belongs to the registers that were read behind it')
    match line.hex, line.link, registers:
        case str(text), None, (None, None, None):
            return CapturedBytes(utc_us=utc_us, device=line.dev, data=_bytes_of(text))
        case None, str(link), (None, None, None):
            return CapturedLink(utc_us=utc_us, device=line.dev, is_up=link == "up")
        case None, None, (str(table), int(address), tuple(values)):
            return CapturedRegisters(
                utc_us=utc_us,
                device=line.dev,
                table=table,
                address=address,
                registers=values,
                written=tuple((one.address, one.regs) for one in line.written),
            )
    raise ValueError(
        'expected one of "hex", "link" and the three "table", "address" and "regs", all else absent'
    )


def _bytes_of(text: str) -> bytes:
    try:
        if text.isascii() and not any(c.isspace() for c in text):
            return bytes.fromhex(text)
    except ValueError:
        pass
    raise ValueError(f'"hex" is not pairs of hexadecimal digits: {text[:32]!r}')
