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
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Range, Reason, Weight
from drivers.weighing import (
    Legend,
    PollIntervalS,
    known_unit,
    no_weight,
    refused_figure,
    refused_unit,
    signed,
    weight,
)
from drivers.weighing_lines import Asking, LineDriver, NeededLines

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

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
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededLines = 2


class Driver(LineDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        command = b"" if options.command == "none" else options.command.encode("ascii")
        request = command + b"\r\n" if command else b""
        super().__init__(
            Asking(
                request=request,
                # Where it was accepted, the frame follows.
                passed_over=(request, command + b" A\r\n") if command else (),
                unanswered=f"no answer to {options.command} in time; check cable, baud and power",
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, command=command),
        )


def _read(line: bytes, command: bytes) -> Weight | BadFrame:
    """Return what one whole line says; ``command`` empty: any may have asked.

    Source: Radwag HRP manual p. 131-133.
    """
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
    unit = known_unit(found[5])
    if unit is None:
        return refused_unit(line, found[5].strip().decode("ascii"), "balance")
    if mark in _RANGES:
        return no_weight(_RANGES[mark], Legend(unit=unit))
    mass = _MASS.fullmatch(found[4])
    if mass is None:
        return refused_figure(line, found[4])
    number = signed(Decimal(mass[1].decode("ascii")), is_negative=found[3] == b"-")
    return weight(number, Legend(unit=unit, stable=mark == b" "))
