"""SMA SCP-0499: the command set agreed by the scale makers, asked with one letter.

Wire: LF W CR asks; 20 bytes answer (``request = "none"``: the scale repeats them by itself)::

    LF s r n m f w w w w w w w w w w u u u CR

    s  blank none, Z centre of zero, O over, U under, E zero error, I initial zero error,
       T tare error, e weight not displayed (Cardinal)
    r  weighing range, 1 to 9; not looked at
    n  G gross, N net, T tare, g n the same in high resolution
    m  M in motion, blank at rest
    f  blank
    w  weight, right-aligned, with its minus and point [u]; ten dashes where there is an error
    u  unit, left-aligned; only g, kg, t, lb and oz are taken

    LF ? CR  unknown command

The length of a frame is fixed, so a lost character never moves the point. No frame has an
integrity field. Only W, H or P is sent: none of them tares or sets zero, and each ends a repeat
(R) that another program left running.

Source: SMA standard SCP-0499; Minebea PR 5220 manual p. 130 (worked examples), PR 5310 p. 145;
BTEK T419S p. 61; Cardinal 190 p. 124 (e). Unconfirmed: P waits for rest; 9600 Bd; which figure
stands beside O and U (none is taken).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
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
    refused_unit,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

FRAME_BYTES = 20
NO_FIGURE = b"-" * 10

_RANGES: dict[bytes, tuple[Range, str]] = {
    b"O": ("over", ""),
    b"U": ("under", ""),
    b"E": ("error", "zero error"),
    b"I": ("error", "initial zero error"),
    b"T": ("error", "tare error"),
    b"e": ("unknown", "weight not displayed"),
}
_MODES: dict[bytes, Mode] = {
    b"G": "gross",
    b"N": "net",
    b"T": "tare",
    b"g": "gross",
    b"n": "net",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the scale is asked."""

    request: Annotated[
        Literal["W", "H", "P", "none"],
        Meta(
            description="W: weight now; H: weight now in high resolution; P: unconfirmed, weight "
            "at rest, so the reply may take long; none: the scale repeats by itself"
        ),
    ] = "W"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Frames in, weights out."""

    def __init__(self, options: Options) -> None:
        letter = options.request
        super().__init__(
            Wire(
                start=b"\n",
                end=b"\r",
                request=b"" if letter == "none" else f"\n{letter}\r".encode("ascii"),
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            _read,
        )


def _read(frame: bytes) -> Weight | BadFrame:
    """Return what one whole frame says.

    Source: Minebea PR 5220 manual p. 130.
    """
    if frame == b"\n?\r":
        return BadFrame.of(Reason.DEVICE_ERROR, frame, "?: unknown command")
    if len(frame) != FRAME_BYTES:
        detail = f"{len(frame)} bytes, a weight has {FRAME_BYTES}"
        return BadFrame.of(Reason.LENGTH, frame, detail)
    status, mode, motion, field, unit_field = (
        frame[1:2],
        frame[3:4],
        frame[4:5],
        frame[6:16],
        frame[16:19],
    )
    is_known = status in b" Z" or status in _RANGES
    if not is_known or frame[2:3] not in b"123456789" or mode not in _MODES:
        detail = f"{frame[1:4]!r} is no status, range and mode of this protocol"
        return BadFrame.of(Reason.UNKNOWN, frame, detail)
    if motion not in b" M" or frame[5:6] != b" ":
        return BadFrame.of(Reason.UNKNOWN, frame, f"{frame[4:6]!r} is no motion and blank")
    unit = known_unit(unit_field)
    if unit is None:
        return refused_unit(frame, unit_field)
    range_, note = _RANGES.get(status, ("ok", ""))
    legend = Legend(
        unit=unit,
        mode=_MODES[mode],
        stable=motion == b" " if range_ == "ok" else None,
        high_resolution=mode in b"gn",
        notes=(note,) if note else (),
    )
    if range_ != "ok":
        return no_weight(range_, legend)
    number = figure(field)
    if number is None:
        # A blank display, or dashes without the status that explains them, is no weight.
        is_blank = field in (NO_FIGURE, b" " * 10)
        if not is_blank:
            return refused_figure(frame, field)
        return no_weight("unknown", replace(legend, stable=None))
    return weight(number, legend)
