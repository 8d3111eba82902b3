"""CAS NT, CI and BI indicators: the 22-byte line with its lamps, and the 10-byte line.

Wire, sent unasked or when asked, ended CR LF::

    H H , G G , i l , w w w w w w w w _ u u          22 bytes with CR LF (``form = "22"``)
    H H , G G , i l , w w w w w w w w b u u          the same with relays (``form = "22-relay"``)
    w w w w w w w w                                  10 bytes with CR LF (``form = "10"``)

    H  ST at rest, US in motion, OL out of range
    G  GS gross, NT net
    i  30 and the device's number, 31 to 3D for 1 to 13; 30 where none is set
    l  lamps: bit 7 always 1, 6 at rest, 5 differs by model and is not looked at, 4 hold,
       3 printer, 2 gross, 1 tare, 0 zero
    w  weight, padded with zeros, with point [u]
    b  relays; not looked at
    u  unit, kg or a blank and t

The lamps make this no ASCII: a line of 7 data bits strips bit 7, which is refused with a hint.
Lamp 6 must say what H says. A held figure (lamp 4) is no present weight, so its rest is unknown.
The 10-byte line says neither unit nor rest. No line has an integrity field. The CAS setting "AND"
is read by ``scale.a_and_d``; CI-100A set to SINGLE by ``scale.nci``.

Source: CAS NT-200 manual p. 49, CI-600D p. 74-75, CI-400 p. 104, CI-150A p. 55; Caston III (WT).
Unconfirmed: 9600 8N1, that WT ends CR LF and is answered with one of these lines, where the minus
stands, what OL means with a minus (its range is unknown then).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Mode, Range, Reason, Weight
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

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

LAMP_ALWAYS, LAMP_STABLE, LAMP_HOLD = 0x80, 0x40, 0x10

_STATES = (b"ST", b"US", b"OL")
_MODES: dict[bytes, Mode] = {b"GS": "gross", b"NT": "net"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the indicator is set to send."""

    form: Annotated[
        Literal["22", "22-relay", "10"],
        Meta(description="bytes of a line; 22-relay: with relays; 10: the figure alone"),
    ] = "22"
    device_id: Annotated[
        int,
        Meta(
            description="device number a 22-byte line must carry, another is refused; 0: any",
            ge=0,
            le=13,
        ),
    ] = 0
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"] | None,
        Meta(description="form 10: the unit, as it sends none; absent: such weights have no mass"),
    ] = None
    request: Annotated[
        Literal["none", "WT"],
        Meta(description="none: it sends by itself; WT: unconfirmed, asked for its weight"),
    ] = "none"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2

    def __post_init__(self) -> None:
        if self.weight_unit is not None and self.form != "10":
            raise ValueError('weight_unit is only for form = "10"; the other lines carry theirs')
        if self.device_id and self.form == "10":
            raise ValueError('device_id is not sent in form = "10"; leave it out')


class Driver(FramedDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Wire(
                end=b"\r\n",
                between=b"\r\n",
                request=b"" if options.request == "none" else b"WT\r\n",
                is_text=options.form == "10",
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, options=options),
        )


def _read(line: bytes, *, options: Options) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: CAS NT-200 manual p. 49, CI-600D p. 74-75.
    """
    length = int(options.form[:2])
    if len(line) != length:
        return refused_length(line, length, "form")
    if options.form == "10":
        number = figure(line[:8])
        if number is None:
            return refused_figure(line, line[:8])
        return weight(number, Legend(unit=options.weight_unit))
    state, mode = line[:2], line[3:5]
    if state not in _STATES or mode not in _MODES:
        return BadFrame.of(Reason.UNKNOWN, line, f"{line[:6]!r} is no state and mode")
    fault = _frame_fault(line, options)
    if fault is not None:
        return fault
    unit = known_unit(line[18:20])
    if unit is None:
        return refused_unit(line, line[18:20])
    if state == b"OL":
        range_: Range = "unknown" if b"-" in line[9:17] else "over"
        return no_weight(range_, Legend(unit=unit, mode=_MODES[mode]))
    number = figure(line[9:17])
    if number is None:
        return refused_figure(line, line[9:17])
    is_held = bool(line[7] & LAMP_HOLD)
    legend = Legend(
        unit=unit,
        mode=_MODES[mode],
        stable=None if is_held else state == b"ST",
        notes=("held figure",) if is_held else (),
    )
    return weight(number, legend)


def _frame_fault(line: bytes, options: Options) -> BadFrame | None:
    """Return why separators, device number or lamps are wrong, or None."""
    is_split = line[2:3] == line[5:6] == line[8:9] == b","
    if not is_split or (options.form == "22" and line[17:18] != b" "):
        return BadFrame.of(Reason.SYNTAX, line, "separators do not stand where form puts them")
    number, lamps = line[6] - 0x30, line[7]
    if not 0 <= number <= 13 or (options.device_id and number != options.device_id):
        return BadFrame.of(Reason.UNKNOWN, line, f"device number is {number}; see device_id")
    if not lamps & LAMP_ALWAYS:
        detail = f"lamp byte {lamps:#04x} lacks its constant bit 7; set the line to 8 data bits"
        return BadFrame.of(Reason.UNKNOWN, line, detail)
    if line[:2] != b"OL" and (line[:2] == b"ST") != bool(lamps & LAMP_STABLE):
        detail = f"{line[:2]!r} and lamp byte {lamps:#04x} disagree on rest"
        return BadFrame.of(Reason.UNKNOWN, line, detail)
    return None
