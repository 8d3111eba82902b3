"""Radwag and KERN balances: commands that look like MT-SICS, and other frames.

Wire: a command ended CR LF; SI or SUI (in the displayed unit) is answered at once, S or SU first
with ``S A`` (accepted) and, at rest, with the frame; 22 characters with CR LF::

    c c c _ m _ s w w w w w w w w w _ u u u

    c  the command, left-aligned
    m  blank stable, ? unstable, ^ over, v under
    s  sign: - or blank
    w  mass, right-aligned, with point [u]
    u  unit; only g, kg, t, lb and oz are taken

    S E  the time for standstill ran out      S I  not now      ES  unknown command

No line has an integrity field. Nothing is sent but the command.

Source: Radwag HRP manual p. 131-133, KERN ILJ p. 86. Unconfirmed: 9600 8N1, the side on which a
short unit is padded (either is taken).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.lines import Lines
from drivers.readings import BadFrame, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_LINE_BYTES = 80

_FRAME = re.compile(rb"([A-Z]{1,3}) {1,3}([ ?^v]) ([- ])(.{9}) (.{3})")
_MASS = re.compile(rb" *([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_RANGES: dict[bytes, Range] = {b"^": "over", b"v": "under"}
_HEARD = (b"S", b"SI", b"SU", b"SUI")
_REFUSALS = {
    b"E": "the balance found no standstill in its time",
    b"I": "the balance cannot weigh now",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the balance is asked."""

    command: Annotated[
        Literal["SI", "SUI", "S", "SU", "none"],
        Meta(
            description="SI: mass now; S: at rest, answered only after the balance's own time, so "
            "the reply time-out must exceed that; with U: in the displayed unit; none: the "
            "balance sends by itself"
        ),
    ] = "SI"
    poll_interval_s: Annotated[float, Meta(description="how often to ask [s]", ge=0.05, le=60)] = (
        0.5
    )
    equal_frames: Annotated[
        int,
        Meta(
            description="equal lines in a row that make a reading, as no line has a checksum "
            "[lines]; 1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2


class Driver:
    """Lines in, weights out; keeps the running line."""

    def __init__(self, options: Options) -> None:
        self._options = options
        is_asked = options.command != "none"
        self._command = options.command.encode("ascii") if is_asked else b""
        self._vote = EqualFrames(options.equal_frames)
        self._lines = Lines(MAX_LINE_BYTES)
        self._reset()

    def _reset(self) -> None:
        self._lines.clear()
        self._is_joining = True
        self._has_answer = False
        self._vote.forget()

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return self._options.poll_interval_s if self._command else None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def poll(self) -> bytes:
        """Return the command; nothing where the balance sends by itself."""
        self._has_answer = False
        return self._command + b"\r\n" if self._command else b""

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer or not self._command:
            return []
        self._vote.forget()
        detail = f"no answer to {self._options.command} in time; check cable, baud and power"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop a half line and say so."""
        half = self._lines.clear()
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a reply")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for line in self._lines.feed(data):
            if isinstance(line, BadFrame):
                self._refuse(line, readings)
                self._is_joining = False
            else:
                self._take(line, readings)
        return readings

    def _take(self, line: bytes, readings: list[Reading]) -> None:
        text = line.removesuffix(b"\r\n")
        if self._command and text in (self._command, self._command + b" A"):
            return  # sent back by a two-wire adapter, or accepted: the frame follows
        self._has_answer = True
        said = _read(line, self._command)
        if isinstance(said, BadFrame):
            self._refuse(said, readings)
        elif said.stable is False:
            # A load in motion never shows the same figure twice, and is never a weighing result.
            self._vote.forget()
            readings.append(said)
        elif self._vote.agrees(line):
            readings.append(said)
        self._is_joining = False

    def _refuse(self, bad: BadFrame, readings: list[Reading]) -> None:
        self._vote.forget()
        # The first line heard may be the rest of one that was running.
        if not (self._is_joining and bad.reason is Reason.SYNTAX):
            readings.append(bad)


def _read(line: bytes, command: bytes) -> Weight | BadFrame:
    """Return what one whole line says; ``command`` empty: any may have asked.

    Source: Radwag HRP manual p. 131-133.
    """
    if not line.endswith(b"\r\n") or not line.isascii():
        detail = "the line ends LF without CR, or has bytes above 0x7F; check the parity"
        return BadFrame.of(Reason.SYNTAX, line, detail)
    text = line[:-2]
    if text == b"ES":
        return BadFrame.of(Reason.DEVICE_ERROR, line, "ES: unknown command")
    asked = (command,) if command else _HEARD
    name, _, rest = text.partition(b" ")
    if name in asked and rest in _REFUSALS:
        return BadFrame.of(Reason.DEVICE_ERROR, line, _REFUSALS[rest])
    found = _FRAME.fullmatch(text)
    if found is None or len(text) != 20:
        return BadFrame.of(Reason.SYNTAX, line, "no mass frame of 22 characters")
    if found[1] not in asked:
        detail = f"answers {found[1]!r}, which was not asked"
        return BadFrame.of(Reason.UNKNOWN, line, detail)
    return _weight(line, found)


def _weight(line: bytes, found: re.Match[bytes]) -> Weight | BadFrame:
    mark = found[2]
    unit = found[5].strip().decode("ascii")
    if unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the balance's unit"
        return BadFrame.of(Reason.UNIT, line, detail)
    range_ = _RANGES.get(mark, "ok")
    mass = _MASS.fullmatch(found[4]) if range_ == "ok" else None
    if range_ == "ok" and mass is None:
        return BadFrame.of(Reason.SYNTAX, line, f"{found[4]!r} is no figure")
    number = None if mass is None else Decimal(mass[1].decode("ascii"))
    if number and found[3] == b"-":
        number = -number
    return Weight(
        value=None if number is None else format(number, "f"),
        unit=unit,
        mass_kg=None if number is None else mass_kg(number, unit),
        mode="unknown",
        stable=mark == b" " if range_ == "ok" else None,
        range=range_,
        stable_by="device" if range_ == "ok" else None,
    )
