"""Cardinal SB-400: the scoreboard line of Cardinal indicators (190, 200, 205, 225).

Wire, sent unasked, ended CR::

    s w w w w w w u u m c c CR          13 bytes without decimals (``decimals = false``)
    s w w w w w w w u u m c c CR        14 bytes with a point in w (``decimals = true``)

    s  sign: blank, or -
    w  weight, right-aligned [u]
    u  unit: lb, oz, kg, g with a blank, t with a blank; tn (short ton) is refused
    m  G gross, N net
    c  blanks at rest, MO in motion, OC over capacity, BZ below zero, ee weight not displayed

Whether there is a point is not guessed: a line that lost it would be ten or a hundred times the
weight. Below zero gives no weight but "under". No line has an integrity field. The toledo form of
these indicators is ``scale.toledo``, their stream in the Rice Lake form ``scale.rice_lake``.

Source: Cardinal 225 manual p. 126-127, 200 p. 27. Unconfirmed: 9600 8N1, on which side of g and t
the blank stands (either is taken).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Mode, Range, Reason, Weight
from drivers.weighing import (
    FramedDriver,
    Legend,
    NeededFrames,
    Wire,
    figure,
    known_unit,
    no_weight,
    refused_figure,
    refused_length,
    refused_unit,
    signed,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

_MODES: dict[bytes, Mode] = {b"G": "gross", b"N": "net"}
_RANGES: dict[bytes, Range] = {b"OC": "over", b"BZ": "under", b"ee": "unknown"}
_AT_REST, _IN_MOTION = b"  ", b"MO"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the indicator shows its weight."""

    decimals: Annotated[
        bool, Meta(description="the weight has a point, so that a line is one byte longer")
    ] = False
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Wire(end=b"\r", equal_frames=options.equal_frames),
            partial(_read, has_point=options.decimals),
        )


def _read(line: bytes, *, has_point: bool) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Cardinal 225 manual p. 126-127.
    """
    length = 13 + int(has_point)
    if len(line) != length:
        return refused_length(line, length, "decimals")
    sign, field = line[:1], line[1 : length - 6]
    unit_field, mode, code = line[-6:-4], line[-4:-3], line[-3:-1]
    if sign not in b" -" or mode not in _MODES:
        return BadFrame.of(Reason.UNKNOWN, line, f"sign {sign!r} or mode {mode!r} is not known")
    if code not in (_AT_REST, _IN_MOTION) and code not in _RANGES:
        return BadFrame.of(Reason.UNKNOWN, line, f"{code!r} is none of MO OC BZ ee or blanks")
    unit = known_unit(unit_field)
    if unit is None:
        return refused_unit(line, unit_field)
    if code in _RANGES:
        return no_weight(_RANGES[code], Legend(unit=unit, mode=_MODES[mode]))
    number = figure(field)
    is_misformed = field.count(b".") != int(has_point) or b"-" in field or b"+" in field
    if number is None or is_misformed:
        return refused_figure(line, field)
    legend = Legend(unit=unit, mode=_MODES[mode], stable=code == _AT_REST)
    return weight(signed(number, is_negative=sign == b"-"), legend)
