"""Rice Lake stream of the IQ plus 355, 480, 680, 882 and 920i, also sent by Cardinal.

Wire, sent unasked, 14 bytes or, where the indicator ends its lines with CR alone, 13::

    STX p w w w w w w w u m s CR LF

    p  polarity: blank, or - below zero
    w  weight, right-aligned, leading zeros blank, with point [u]
    u  L lb, K kg, G g, O oz, T ton, blank none
    m  G gross, N net
    s  blank at rest, M in motion, Z in the centre of zero, I invalid, O over or under range

T does not say which ton: it is refused unless ``letter_t`` says so. Under range is O with a minus.
No frame has an integrity field. The 920i, 880 and 1280 can be set to other forms: those are read
by ``scale.ascii_columns``.

Source: Rice Lake 482-AG manual p. 33, 480 Legend p. 64, 680/682 Synergy p. 110 (Z); Cardinal 225
p. 119; IQ 700 (7O1). Unconfirmed: 9600 8N1. Not sent: EDP commands, as their answers are not
described there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Mode, Reason, Weight
from drivers.weighing import (
    FramedDriver,
    Legend,
    NeededFrames,
    Wire,
    figure,
    no_weight,
    refused_figure,
    signed,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

FRAME_BYTES = 13
"""From STX to CR; the LF after it belongs to no frame."""

_MODES: dict[bytes, Mode] = {b"G": "gross", b"N": "net"}
_UNITS = {b"L": "lb", b"K": "kg", b"G": "g", b"O": "oz"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the stream does not say of itself."""

    letter_t: Annotated[
        Literal["refused", "tonne"],
        Meta(description="unconfirmed: T is the metric ton of 1000 kg and not the short ton"),
    ] = "refused"
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"] | None,
        Meta(description="unit where the frame has a blank; absent: such weights have no mass"),
    ] = None
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Frames in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Wire(start=b"\x02", end=b"\r", between=b"\n", equal_frames=options.equal_frames),
            partial(_read, options=options),
        )


def _read(frame: bytes, *, options: Options) -> Weight | BadFrame:
    """Return what one whole frame says.

    Source: Rice Lake 482-AG manual p. 33, 680/682 p. 110.
    """
    if len(frame) != FRAME_BYTES:
        detail = f"{len(frame)} bytes, a frame has {FRAME_BYTES}"
        return BadFrame.of(Reason.LENGTH, frame, detail)
    polarity, field, letter = frame[1:2], frame[2:9], frame[9:10]
    mode, status = frame[10:11], frame[11:12]
    if polarity not in b" -" or mode not in _MODES or status not in b" MZIO":
        detail = f"polarity {polarity!r}, mode {mode!r} or status {status!r} is not known"
        return BadFrame.of(Reason.UNKNOWN, frame, detail)
    unit = _unit(letter, options)
    if unit is None and letter != b" ":
        hint = "; see letter_t" if letter == b"T" else ""
        return BadFrame.of(Reason.UNIT, frame, f"unit {letter!r} is none of L K G O{hint}")
    is_negative = polarity == b"-"
    if status == b"I":
        return no_weight("error", Legend(unit=unit, mode=_MODES[mode], notes=("invalid",)))
    if status == b"O":
        return no_weight("under" if is_negative else "over", Legend(unit=unit, mode=_MODES[mode]))
    number = figure(field)
    if number is None or b"-" in field or b"+" in field:
        return refused_figure(frame, field)
    legend = Legend(unit=unit, mode=_MODES[mode], stable=status != b"M")
    return weight(signed(number, is_negative=is_negative), legend)


def _unit(letter: bytes, options: Options) -> str | None:
    if letter == b" ":
        return options.weight_unit
    if letter == b"T":
        return "t" if options.letter_t == "tonne" else None
    return _UNITS.get(letter)
