"""NCI SCP-01 and SCP-02: Weigh-Tronix, NCI, Fairbanks, Brecknell and CAS bench scales, asked by W.

Wire: W CR asks; the scale answers::

    LF w ... w u u CR LF n n [n [n]] CR ETX

    w  what the display shows, with sign and point [u]; all ^ over capacity, all _ under, all -
       zero error
    u  unit, lb kg oz or g in either case; "lb 3.4oz" is refused
    n  status, 30 and four bits, bit 6 set where another follows:
       first   bit 0 motion, 1 at zero, 2 RAM error, 3 EEPROM error
       second  bit 0 under capacity, 1 over capacity, 2 ROM error, 3 calibration error
       third   bits 0-1 weighing range, 2 net, 3 initial zero error (on some models only)
       fourth  differs by maker and is not looked at

    LF ? CR ETX  unknown command

Some models send bit 6 always, so a frame ends with CR ETX and not where bit 6 says. No frame has
an integrity field. Nothing but W or H is sent: neither Z, T nor X, which switches the scale off.

Source: Avery Weigh-Tronix 7821 manual p. 25, NCI 7800 p. 32, NCI 6702 p. 14; Ohaus Aviator 7000
service manual p. 49; CAS CI-100A p. 38-40; Brecknell p. 24; Fairbanks PC2250 p. 61. Unconfirmed:
9600 7E1 (8N1 on some models), units in capitals.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Range, Reason, Weight
from drivers.weighing import (
    FramedDriver,
    Legend,
    NeededFrames,
    PollIntervalS,
    Wire,
    figure,
    known_unit,
    no_weight,
    refused_figure,
    refused_unit,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=7, parity="E", stop_bits=1)

_ANSWER = re.compile(rb"\n([^\n\r]+)\r\n([0-?p-\x7f]{2,4})\r\x03")
_FIELD = re.compile(rb"([-+ 0-9.]*[0-9.]|\^+|_+|-+) *([A-Za-z]{1,2}|)")
_RANGES: dict[bytes, tuple[Range, str]] = {
    b"^": ("over", ""),
    b"_": ("under", ""),
    b"-": ("error", "zero error"),
}
_FAULTS = (
    (0, 4, "RAM error"),
    (0, 8, "EEPROM error"),
    (1, 4, "ROM error"),
    (1, 8, "calibration error"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the scale is asked, and what its third status byte means."""

    request: Annotated[
        Literal["W", "H", "none"],
        Meta(
            description="W: weight now; H: in ten times the resolution; none: the scale sends by "
            "itself"
        ),
    ] = "W"
    display_width: Annotated[
        int,
        Meta(
            description="characters of the weight with its point, another number is refused; 0: "
            "any, so that only equal_frames tells a lost digit",
            ge=0,
            le=12,
        ),
    ] = 0
    third_status: Annotated[
        Literal["not-read", "net-and-zero"],
        Meta(
            description="net-and-zero: bit 2 is net and bit 3 an initial zero error; makers "
            "differ, so see the manual. not-read: gross or net is unknown"
        ),
    ] = "not-read"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Answers in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Wire(
                end=b"\r\x03",
                between=b"\x03",
                request=b""
                if options.request == "none"
                else f"{options.request}\r".encode("ascii"),
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, options=options),
        )


def _read(frame: bytes, *, options: Options) -> Weight | BadFrame:
    """Return what one whole answer says.

    Source: NCI 7800 manual p. 32, Avery Weigh-Tronix 7821 p. 25.
    """
    if frame == b"\n?\r\x03":
        return BadFrame.of(Reason.DEVICE_ERROR, frame, "?: unknown command")
    found = _ANSWER.fullmatch(frame)
    if found is None:
        return BadFrame.of(Reason.SYNTAX, frame, "no weight followed by two to four status bytes")
    field = _FIELD.fullmatch(found[1])
    if field is None:
        return refused_figure(frame, found[1])
    if options.display_width and len(field[1]) != options.display_width:
        detail = f"the weight has {len(field[1])} characters; see display_width"
        return BadFrame.of(Reason.LENGTH, frame, detail)
    status = tuple(value & 0x0F for value in found[2])
    is_third_read = options.third_status == "net-and-zero"
    if is_third_read and len(status) < 3:
        detail = "no third status byte; see third_status"
        return BadFrame.of(Reason.LENGTH, frame, detail)
    legend = Legend(
        unit=known_unit(field[2].lower()),
        mode="unknown" if not is_third_read else "net" if status[2] & 4 else "gross",
        high_resolution=options.request == "H",
    )
    if field[2] and legend.unit is None:
        return refused_unit(frame, field[2])
    range_, note = _range(field[1], status, is_third_read=is_third_read)
    if range_ != "ok":
        return no_weight(range_, replace(legend, notes=(note,) if note else ()))
    number = figure(field[1])
    if number is None:
        return refused_figure(frame, found[1])
    if legend.unit is None:
        return refused_unit(frame, b"")
    return weight(number, replace(legend, stable=not status[0] & 1))


def _range(field: bytes, status: tuple[int, ...], *, is_third_read: bool) -> tuple[Range, str]:
    """Return the range that the status or what stands in place of the weight says, and why."""
    for byte, bit, note in _FAULTS:
        if status[byte] & bit:
            return "error", note
    if is_third_read and status[2] & 8:
        return "error", "initial zero error"
    if status[1] & 3 == 3:
        return "error", "over and under capacity at once"
    if status[1] & 3:
        return "over" if status[1] & 2 else "under", ""
    if field.strip(field[:1]) == b"" and field[:1] in _RANGES:
        return _RANGES[field[:1]]
    return "ok", ""
