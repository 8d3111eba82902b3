"""Sartorius SBI (also Minebea): balances that print a line when asked, or by themselves.

Wire: ESC P CR LF asks; a line ended CR LF answers::

    s b w w w w w w w w _ u u u              16 characters with CR LF (``form = "16"``)
    n n n n n n  s b w w ... u u u           22 characters with CR LF (``form = "22"``)

    s  sign: + - or blank
    b  blank, or a bracket
    w  weight, right-aligned, with point [u]; a last digit in brackets is not verified, 123.5[6]
    _  blank, or a bracket
    u  unit, left-aligned: blank while the weight is unstable, the only sign of motion
    n  name: N net, G gross, T1 tare, Stat a state, others are no weight

In place of sign to unit stand H or HH (overload), L or LL (underload), C (adjusting), OFF, or
``Err`` or ``ERR`` and a number. In motion the unit is not known, so such a weight has no mass.
A bracketed digit makes a weight ``high_resolution``: not of its legal resolution. Nothing is sent
but ESC P; it neither tares, sets zero nor adjusts.

Source: Sartorius GC803S manual p. 57, LE2202S p. 51, Master p. 79, WZA224 p. 24, Cubis MSE p. 71;
numat/sartorius (9600 8O1, TCP port 49155 of its Ethernet gateways, blank unit). Unconfirmed:
1200 7O1 on older balances.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.lines import Lines
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="O", stop_bits=1)

MAX_LINE_BYTES = 80
REQUEST = b"\x1bP\r\n"

_WEIGHT = re.compile(rb"([-+ ]) *([0-9.]*)(?:\[([0-9])\])? *")
_FIGURE = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_CODES: dict[bytes, tuple[Range, str]] = {
    b"H": ("over", "overload"),
    b"HH": ("over", "overload"),
    b"L": ("under", "underload"),
    b"LL": ("under", "underload"),
    b"C": ("error", "adjusting"),
    b"OFF": ("error", "switched off"),
}
_ERROR = re.compile(rb"(?:Err|ERR) +([0-9]{1,3})")
_NAMES: dict[bytes, Mode] = {b"N": "net", b"G": "gross", b"T1": "tare"}
_STATE = b"Stat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the balance is set to print."""

    form: Annotated[
        Literal["16", "22"],
        Meta(
            description="characters of a line; not guessed: a 22 that lost its name passes for 16"
        ),
    ] = "16"
    request: Annotated[
        Literal["print", "none"],
        Meta(description="print: asked with ESC P; none: the balance prints by itself"),
    ] = "print"
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
        self._length = int(options.form)
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
        return None if self._options.request == "none" else self._options.poll_interval_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def poll(self) -> bytes:
        """Return the print command, or nothing."""
        self._has_answer = False
        return b"" if self._options.request == "none" else REQUEST

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer or self._options.request == "none":
            return []
        self._vote.forget()
        detail = "no answer to ESC P in time; check cable, baud, parity and power"
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
        line = line.removeprefix(REQUEST)  # sent back by a two-wire adapter
        if not line:
            return
        self._has_answer = True
        said = _read(line, self._length)
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
        if not (self._is_joining and bad.reason in (Reason.SYNTAX, Reason.LENGTH)):
            readings.append(bad)


def _read(line: bytes, length: int) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Sartorius GC803S p. 57, LE2202S p. 51.
    """
    if not line.endswith(b"\r\n") or not line.isascii():
        detail = "the line ends LF without CR, or has bytes above 0x7F; check the parity"
        return BadFrame.of(Reason.SYNTAX, line, detail)
    if len(line) != length:
        detail = f"{len(line)} characters where form says {length}; see form"
        return BadFrame.of(Reason.LENGTH, line, detail)
    name, body = line[: length - 16].strip(), line[length - 16 : -2]
    if name != _STATE and name and name not in _NAMES:
        return BadFrame.of(Reason.UNKNOWN, line, f"{name!r} is no weight")
    if state := _state(body.strip()):
        return state
    if name == _STATE:
        return BadFrame.of(Reason.UNKNOWN, line, f"{body.strip()!r} is no published state")
    return _weight(line, body, _NAMES.get(name, "unknown"))


def _state(code: bytes) -> Weight | None:
    """Return the range that a code in place of the weight says; None: it is no such code."""
    if error := _ERROR.fullmatch(code):
        range_: Range = "error"
        note = f"error {error[1].decode('ascii')}"
    elif code in _CODES:
        range_, note = _CODES[code]
    else:
        return None
    return Weight(
        value=None,
        unit=None,
        mass_kg=None,
        mode="unknown",
        stable=None,
        range=range_,
        stable_by=None,
        notes=(note,),
    )


def _weight(line: bytes, body: bytes, mode: Mode) -> Weight | BadFrame:
    found = _WEIGHT.fullmatch(body[:11])
    text = "" if found is None else (found[2] + (found[3] or b"")).decode("ascii")
    if found is None or not _FIGURE.fullmatch(text):
        return BadFrame.of(Reason.SYNTAX, line, f"{body[:11]!r} is neither a weight nor a state")
    unit = body[11:].rstrip().decode("ascii")
    if unit and unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the balance's unit"
        return BadFrame.of(Reason.UNIT, line, detail)
    number = Decimal(text)
    if found[1] == b"-" and number:
        number = -number
    return Weight(
        value=format(number, "f"),
        unit=unit or None,
        mass_kg=mass_kg(number, unit) if unit else None,
        mode=mode,
        stable=bool(unit),
        range="ok",
        high_resolution=found[3] is not None,
        notes=("last digit not verified",) if found[3] is not None else (),
    )
