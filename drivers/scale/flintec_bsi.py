"""Flintec BSI: a digitiser or indicator that answers P with its weight.

Wire, ASCII lines ended CR LF::

    a a P k k                              asks
    a a P x s w w w w w w w w k k          answers

    a  address, two digits
    x  a letter of the state; S in the published example, its meaning is not published
    s  sign, + or -
    w  eight characters, digits with a point [unit of the display]
    k  checksum, two hex digits 0-9 A-F: it and the sum of all characters before it are 0 modulo 256

``01PS+000123.4`` has the checksum 49. The unit is not sent.

Source: Flintec FT-112 manual (form and checksum rule). Unconfirmed: what the letters mean, hence
the options ``stable_letters`` to ``under_letters``; 9600 8N1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import EqualFrames, LineParameters, mass_kg
from drivers.lines import Lines
from drivers.readings import BadFrame, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_LINE_BYTES = 80

_ANSWER = re.compile(rb"P([A-Z])([-+])([0-9.]{8})")
_FIGURE = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the instrument is asked and what its letters mean."""

    address: Annotated[
        str, Meta(description="the instrument's address, two digits", pattern="^[0-9]{2}$")
    ] = "01"
    checksum: Annotated[
        Literal["yes", "no"], Meta(description="whether requests and answers carry a checksum")
    ] = "yes"
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb"], Meta(description="unit of the weight, as none is sent")
    ] = "kg"
    unknown_letters: Annotated[
        str, Meta(description="states of a weight whose rest stays unknown", max_length=26)
    ] = "S"
    stable_letters: Annotated[
        str,
        Meta(description="unconfirmed: states of a weight at rest, perhaps S", max_length=26),
    ] = ""
    motion_letters: Annotated[
        str, Meta(description="unconfirmed: states of a moving weight", max_length=26)
    ] = ""
    over_letters: Annotated[str, Meta(description="unconfirmed: overload", max_length=26)] = ""
    under_letters: Annotated[str, Meta(description="unconfirmed: underload", max_length=26)] = ""
    poll_interval_s: Annotated[float, Meta(description="how often to ask [s]", ge=0.05, le=60)] = (
        0.5
    )
    equal_frames: Annotated[
        int,
        Meta(
            description="without checksum: equal lines in a row that make a reading [lines]; "
            "1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2


class Driver:
    """Lines in, weights out; keeps the running line."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._request = _request(options)
        self._vote = EqualFrames(options.equal_frames)
        self._lines = Lines(MAX_LINE_BYTES)
        self._reset()

    def _reset(self) -> None:
        self._lines.clear()
        self._is_joining = True
        self._has_answer = False
        self._vote.forget()

    @property
    def poll_period_s(self) -> float:
        """How often to poll [s]."""
        return self._options.poll_interval_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def poll(self) -> bytes:
        """Return the request."""
        self._has_answer = False
        self._lines.clear()  # the rest of an answer never joins the next one
        return self._request

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer:
            return []
        self._vote.forget()
        detail = f"no answer from address {self._options.address}; check it, cable and baud"
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
        if line == self._request:
            return  # sent back by a two-wire adapter
        self._has_answer = True
        said = _read(line, self._options)
        if isinstance(said, BadFrame):
            self._refuse(said, readings)
        elif said.verified:
            readings.append(said)
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


def _checksum(text: bytes) -> bytes:
    """Return the two hex digits that make the sum 0 modulo 256 (Flintec FT-112)."""
    return f"{-sum(text) & 0xFF:02X}".encode("ascii")


def _request(options: Options) -> bytes:
    text = options.address.encode("ascii") + b"P"
    return text + (_checksum(text) if options.checksum == "yes" else b"") + b"\r\n"


def _read(line: bytes, options: Options) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Flintec FT-112 manual.
    """
    if not line.endswith(b"\r\n") or not line.isascii():
        detail = "the line ends LF without CR, or has bytes above 0x7F; check the parity"
        return BadFrame.of(Reason.SYNTAX, line, detail)
    text = line[:-2]
    if options.checksum == "yes":
        text, given = text[:-2], text[-2:]
        if given != _checksum(text):
            detail = f"checksum is {given!r}, should be {_checksum(text)!r}"
            return BadFrame.of(Reason.CHECKSUM, line, detail)
    if not text.startswith(options.address.encode("ascii")):
        return BadFrame.of(Reason.UNKNOWN, line, f"not from address {options.address}")
    found = _ANSWER.fullmatch(text[2:])
    if found is None or not _FIGURE.fullmatch(found[3].decode("ascii")):
        return BadFrame.of(Reason.SYNTAX, line, "no answer to P; see checksum")
    return _weight(line, found, options)


def _weight(line: bytes, found: re.Match[bytes], options: Options) -> Weight | BadFrame:
    letter = found[1].decode("ascii")
    range_: Range = "ok"
    stable: bool | None = None
    if letter in options.over_letters:
        range_ = "over"
    elif letter in options.under_letters:
        range_ = "under"
    elif letter in options.stable_letters:
        stable = True
    elif letter in options.motion_letters:
        stable = False
    elif letter not in options.unknown_letters:
        detail = f"state {letter!r} is in none of the options that end in _letters"
        return BadFrame.of(Reason.UNKNOWN, line, detail)
    number = Decimal(found[3].decode("ascii"))
    if found[2] == b"-" and number:
        number = -number
    is_shown = range_ == "ok"
    return Weight(
        value=format(number, "f") if is_shown else None,
        unit=options.weight_unit,
        mass_kg=mass_kg(number, options.weight_unit) if is_shown else None,
        mode="unknown",
        stable=stable,
        range=range_,
        stable_by=None if stable is None else "device",
        verified=options.checksum == "yes",
    )
