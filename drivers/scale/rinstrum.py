"""Rinstrum R300, R320, R420, C500: the automatic output, also read by remote displays.

Wire, sent unasked about ten times a second, without line ends::

    02 s w w w w w w w S 03                  11 bytes (``form = "a"``)
    02 s w w w w w w w S m z r u u u 03      17 bytes (``form = "b"``)

    s  sign: - or blank; with ``lights`` instead a traffic light: 20 none, 30 red, 60 green
    w  weight, right-aligned, with point [u]; with ``lights`` with its own minus
    S  G gross, N net, U underload, O overload, E error
    m  M in motion, blank at rest       z  Z in the centre of zero       r  range
    u  unit: blank while the weight is not stable

In motion form b does not say its unit, so such a weight has no mass. Form a says no unit at all,
and no motion. No frame has an integrity field.

Source: Rinstrum PMC3230975, C500 series manual (C530) p. 53; R320 and M4222 manuals (traffic
light). Unconfirmed: the letter M in place of S as motion in form a (``motion_letter``), 9600 8N1.
Not read: the request protocol (20110021;), whose weight registers carry no decimal point.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_SKIPPED_BYTES = 64
FEED_SLICE_BYTES = 512

_STX, _ETX = 0x02, 0x03
_LENGTHS = {"a": 11, "b": 17}
_FIGURE = re.compile(rb" *(-?) *([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_MODES: dict[bytes, Mode] = {b"G": "gross", b"N": "net", b"M": "unknown"}
_RANGES: dict[bytes, Range] = {b"O": "over", b"U": "under", b"E": "error"}
_LIGHTS = (b"\x20", b"\x30", b"\x60")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the automatic output is set."""

    form: Annotated[
        Literal["a", "b"], Meta(description="a: 11 bytes, weight and status; b: 17, with unit")
    ] = "b"
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb"], Meta(description="form a: the unit, as it sends none")
    ] = "kg"
    lights: Annotated[bool, Meta(description="the sign is replaced by a traffic light's state")] = (
        False
    )
    motion_letter: Annotated[
        bool,
        Meta(
            description="unconfirmed: form a sends M in motion, so that G and N are at rest; "
            "false: M is refused and rest stays unknown"
        ),
    ] = False
    equal_frames: Annotated[
        int,
        Meta(
            description="equal frames in a row that make a reading, as none has a checksum "
            "[frames]; 1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2


class Driver:
    """Frames in, weights out; keeps a frame and a report of what was skipped."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._length = _LENGTHS[options.form]
        self._vote = EqualFrames(options.equal_frames)
        self._buffer = bytearray()
        self._skipped = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._skipped.clear()
        self._is_joining = True
        self._vote.forget()

    @property
    def poll_period_s(self) -> None:
        """The device just talks."""
        return None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer) + len(self._skipped)

    def poll(self) -> bytes:
        """Return nothing: the indicator is never written to."""
        return b""

    def no_reply(self) -> list[Reading]:
        """Nothing was asked."""
        return []

    def silence(self) -> list[Reading]:
        """Drop a half frame and say so."""
        half = bytes(self._skipped + self._buffer)
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a frame")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for at in range(0, len(data), FEED_SLICE_BYTES):
            self._buffer += data[at : at + FEED_SLICE_BYTES]
            while self._take(readings):
                pass
        return readings

    def _take(self, readings: list[Reading]) -> bool:
        """Consume one frame or what is none; false: more bytes are needed."""
        buffer = self._buffer
        begin = buffer.find(_STX)
        self._skip(begin if begin >= 0 else len(buffer), readings)
        if buffer:
            self._report("bytes outside any frame", readings)
        if len(buffer) < self._length:
            return False
        frame = bytes(buffer[: self._length])
        following = frame.find(_STX, 1)
        if frame[-1] != _ETX or following > 0:
            self._skip(following if following > 0 else self._length, readings)
            self._report(f"no ETX at byte {self._length}; see form", readings)
            return True
        del buffer[: self._length]
        self._is_joining = False
        self._say(frame, readings)
        return True

    def _skip(self, count: int, readings: list[Reading]) -> None:
        self._skipped += self._buffer[:count]
        del self._buffer[:count]
        while len(self._skipped) >= MAX_SKIPPED_BYTES:
            self._report("bytes outside any frame; check form, baud and parity", readings)

    def _report(self, detail: str, readings: list[Reading]) -> None:
        """Say what was skipped; the rest of a frame that was running when we came is no fault."""
        run = bytes(self._skipped[:MAX_SKIPPED_BYTES])
        del self._skipped[:MAX_SKIPPED_BYTES]
        is_rest = self._is_joining and len(run) < self._length
        self._is_joining = False
        if run and not is_rest:
            self._vote.forget()
            readings.append(BadFrame.of(Reason.SYNTAX, run, detail))

    def _say(self, frame: bytes, readings: list[Reading]) -> None:
        said = _read(frame, self._options)
        if isinstance(said, BadFrame):
            self._vote.forget()
        elif said.stable is False:
            # A load in motion never shows the same figure twice, and is never a weighing result.
            self._vote.forget()
        elif not self._vote.agrees(frame):
            return
        readings.append(said)


def _read(frame: bytes, options: Options) -> Weight | BadFrame:
    """Return what a whole frame says.

    Source: Rinstrum C500 series manual p. 53.
    """
    status = frame[9:10]
    is_letter_known = status != b"M" or (options.form == "a" and options.motion_letter)
    if not is_letter_known or (status not in _MODES and status not in _RANGES):
        return BadFrame.of(Reason.UNKNOWN, frame, f"status {status!r} is none of G N U O E")
    if frame[1:2] not in (_LIGHTS if options.lights else (b" ", b"-")):
        return BadFrame.of(Reason.SYNTAX, frame, f"{frame[1:2]!r} is no sign; see lights")
    stable, unit = _rest_and_unit(frame, status, options)
    if isinstance(stable, BadFrame):
        return stable
    if unit and unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the indicator's unit"
        return BadFrame.of(Reason.UNIT, frame, detail)
    if status in _RANGES:
        return _weight(None, unit, "unknown", _RANGES[status], stable)
    found = _FIGURE.fullmatch(frame[2:9])
    if found is None or (found[1] and not options.lights):
        return BadFrame.of(Reason.SYNTAX, frame, f"{frame[2:9]!r} is no figure; see lights")
    number = Decimal(found[2].decode("ascii"))
    if number and (found[1] or frame[1:2] == b"-"):
        number = -number
    return _weight(number, unit, _MODES[status], "ok", stable)


def _rest_and_unit(
    frame: bytes, status: bytes, options: Options
) -> tuple[bool | BadFrame | None, str]:
    """Return whether the load is at rest, and the unit (empty: not sent)."""
    if options.form == "a":
        return (status != b"M" if options.motion_letter else None), options.weight_unit
    motion, unit = frame[10:11], frame[13:16].strip()
    if motion not in b" M" or frame[11:12] not in b" Z" or not unit.isascii():
        detail = f"{frame[10:12]!r} is no motion and zero"
        return BadFrame.of(Reason.UNKNOWN, frame, detail), ""
    return motion == b" " and bool(unit), unit.decode("ascii")


def _weight(
    number: Decimal | None,
    unit: str,
    mode: Mode,
    range_: Range,
    stable: bool | None,  # noqa: FBT001 - the answer itself, not a switch
) -> Weight:
    return Weight(
        value=None if number is None else format(number, "f"),
        unit=unit or None,
        mass_kg=None if number is None or not unit else mass_kg(number, unit),
        mode=mode,
        stable=stable,
        range=range_,
        stable_by=None if stable is None else "device",
    )
