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
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Range, Reading, Reason, Weight
from drivers.weighing import Legend, PollIntervalS, no_weight, signed, weight
from drivers.weighing_lines import Asking, LineDriver

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

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
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: Annotated[
        int,
        Meta(
            description="without checksum: equal lines in a row that make a reading [lines]; "
            "1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2


class Driver(LineDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        request = _request(options)
        super().__init__(
            Asking(
                request=request,
                passed_over=(request,),
                unanswered=f"no answer from address {options.address}; check it, cable and baud",
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, options=options),
        )

    def poll(self) -> bytes:
        """Return the request."""
        self._lines.clear()  # the rest of an answer never joins the next one
        return super().poll()

    def _weighed(self, said: Weight, frame: bytes, readings: list[Reading]) -> None:
        if said.verified:  # its checksum makes a vote needless
            readings.append(said)
        else:
            super()._weighed(said, frame, readings)


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
    legend = Legend(unit=options.weight_unit, stable=stable)
    number = signed(Decimal(found[3].decode("ascii")), is_negative=found[2] == b"-")
    said = weight(number, legend) if range_ == "ok" else no_weight(range_, legend)
    return replace(said, verified=options.checksum == "yes")
