"""A&D standard format: the line of A&D indicators and balances, copied by many makers.

Wire, sent unasked or when asked, ended CR LF::

    H H , G G , s w w w w w w w u u              18 bytes (``form = "indicator"``), u also three
    H H , s w w w w w w w w u u u                17 bytes (``form = "balance"``)
    H H , s w w w w w w w w , u u u              18 bytes (``comma_before_unit``, balance too)

    H  ST at rest, US in motion, OL or LO out of range, QT counting at rest (no weight)
    G  GS gross, NT net, TR tare, PT preset tare; or G, N, T and a blank
    s  sign, always sent; zero is +
    w  weight, padded with zeros, with its decimal mark [u]
    u  unit, right-aligned; blank where it is not set

    EC,Exx  error

Out of range w is blank but for its mark, or all 9, or 9999999E+19; the sign then tells over from
under, and "output off" looks like over. No line has an integrity field. Lines that look alike and
differ by width: CAS (``scale.cas``), Dini Argeo (``scale.dini_argeo``).

Source: A&D AD-4329A manual p. 43, AD-4404 p. 80 (LO), OP-05 p. 58, EK-L p. 28, FX-CT p. 31.
Unconfirmed: 2400 7E1, every request, and EC.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Mode, Reason, Weight
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
    refused_length,
    refused_unit,
    weight,
)

LINE = LineParameters(baud=2400, data_bits=7, parity="E", stop_bits=1)

_OUT_OF_RANGE = (b"OL", b"LO")
_STATES = (b"ST", b"US", *_OUT_OF_RANGE)
_MODES: dict[bytes, Mode] = {
    b"GS": "gross",
    b"G ": "gross",
    b"NT": "net",
    b"N ": "net",
    b"TR": "tare",
    b"T ": "tare",
    b"PT": "tare",
}
_NO_FIGURE = re.compile(rb"[-+](?: *[.,]? *|9+[.,]?9*|9+E\+[0-9]{2} *)")
_ERROR = re.compile(rb"EC,E[0-9A-F]{2}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the indicator or balance is set to send."""

    form: Annotated[
        Literal["indicator", "balance"],
        Meta(description="indicator: with GS, NT, TR or PT; balance: without"),
    ] = "indicator"
    unit_width: Annotated[
        Literal[2, 3], Meta(description="indicator: width of the unit [characters]")
    ] = 2
    comma_before_unit: Annotated[
        bool, Meta(description="balance: a comma stands before the unit (CSV form)")
    ] = False
    decimal_mark: Annotated[
        Literal["point", "comma"],
        Meta(description="what stands before the decimals; the other is refused"),
    ] = "point"
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"] | None,
        Meta(description="unit where the line has a blank; absent: such weights have no mass"),
    ] = None
    request: Annotated[
        Literal["none", "Q", "SI", "S", "RW"],
        Meta(
            description="none: it sends by itself; unconfirmed: Q, SI and RW (AD-43xx) weight "
            "now, S weight at rest, so the reply may take long"
        ),
    ] = "none"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2

    def __post_init__(self) -> None:
        if self.form == "balance" and self.unit_width != 2:
            raise ValueError('unit_width is only for form = "indicator"; leave it out')
        if self.form == "indicator" and self.comma_before_unit:
            raise ValueError('comma_before_unit is only for form = "balance"; leave it out')

    @property
    def line_bytes(self) -> int:
        """Bytes of a line with CR LF."""
        if self.form == "balance":
            return 17 + int(self.comma_before_unit)
        return 16 + self.unit_width


class Driver(FramedDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        asked = "" if options.request == "none" else f"{options.request}\r\n"
        super().__init__(
            Wire(
                end=b"\r\n",
                between=b"\r\n",
                request=asked.encode("ascii"),
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, options=options),
        )


def _read(line: bytes, *, options: Options) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: A&D AD-4329A manual p. 43, FX-CT p. 31.
    """
    text = line[:-2]
    if _ERROR.fullmatch(text):
        return BadFrame.of(Reason.DEVICE_ERROR, line, f"error {text.decode('ascii')}")
    if len(line) != options.line_bytes:
        return refused_length(line, options.line_bytes, "form")
    state = text[:2]
    if state not in _STATES or text[2:3] != b",":
        return BadFrame.of(Reason.UNKNOWN, line, f"{text[:3]!r} is none of ST US OL LO")
    mode: Mode = "unknown"
    is_preset = False
    if options.form == "indicator":
        if text[3:5] not in _MODES or text[5:6] != b",":
            return BadFrame.of(Reason.UNKNOWN, line, f"{text[3:6]!r} is none of GS NT TR PT")
        mode, is_preset = _MODES[text[3:5]], text[3:5] == b"PT"
        field, unit_field = text[6:14], text[14:]
    else:
        field, unit_field = text[3:12], text[12:]
    legend = Legend(
        unit=options.weight_unit,
        mode=mode,
        stable=None if state in _OUT_OF_RANGE else state == b"ST",
        notes=("preset tare",) if is_preset else (),
    )
    return _weight(line, field, unit_field, legend, options)


def _weight(
    line: bytes, field: bytes, unit_field: bytes, legend: Legend, options: Options
) -> Weight | BadFrame:
    """Return the weight of a line whose state and mode are known."""
    is_over = legend.stable is None
    if is_over and _NO_FIGURE.fullmatch(field + unit_field):
        return no_weight("under" if field[:1] == b"-" else "over", replace(legend, unit=None))
    if options.comma_before_unit:
        if unit_field[:1] != b",":
            return BadFrame.of(Reason.SYNTAX, line, "no comma before the unit")
        unit_field = unit_field[1:]
    if unit_field.strip():
        unit = known_unit(unit_field)
        if unit is None:
            return refused_unit(line, unit_field)
        legend = replace(legend, unit=unit)
    if is_over and _NO_FIGURE.fullmatch(field):
        return no_weight("under" if field[:1] == b"-" else "over", legend)
    number = figure(field, "," if options.decimal_mark == "comma" else ".")
    if is_over or number is None or field[:1] not in (b"+", b"-"):
        return refused_figure(line, field)
    return weight(number, legend)
