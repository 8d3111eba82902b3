"""Toledo 8217 and 8213: bench and parcel scales that answer one letter with their weight.

Wire: W asks, without an end; the scale answers with a weight only at rest, in range and not below
zero, else with its status::

    STX w w w . w w [N] CR        w  digits with point [option ``weight_unit``], N net
    STX ? s CR                    s  bit 0 motion, 1 over capacity, 2 under zero,
                                     3 outside the zero range, 4 centre of zero,
                                     5 net (8217) or constant (8213), 6 always 1, 7 parity

The unit is not sent: it must be said. A status without any of bits 0 to 3 gives no weight either
and says nothing of its range. The number of digits is fixed, so that a lost one is refused. No
answer has an integrity field. Nothing but W or H is sent: neither Z, T nor C.

Source: Odoo hw_scale and SerialScaleDriver (9600 7E1, commands); Transcell PC-150 manual p. 19
(8213); Brecknell 3700LP p. 11, 67xxU p. 71; Rice Lake BenchPro p. 30 (status). Unconfirmed: that
an 8217 without N weighs gross.
"""

from __future__ import annotations

import re
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
    no_weight,
    refused_figure,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=7, parity="E", stop_bits=1)

_FIGURE = re.compile(rb"([0-9]{1,8}\.[0-9]{1,6})(N?)")
_MOTION, _OVER, _UNDER, _ZERO_RANGE, _NET, _ALWAYS = 1, 2, 4, 8, 0x20, 0x40


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the scale does not say of itself."""

    weight_unit: Annotated[
        Literal["g", "kg", "lb", "oz"], Meta(description="unit of the figures, as none is sent")
    ]
    model: Annotated[
        Literal["8217", "8213"],
        Meta(
            description="8217: N and status bit 5 say net, and their absence gross "
            "(unconfirmed); 8213: gross or net is unknown"
        ),
    ] = "8217"
    digits: Annotated[
        int,
        Meta(description="digits of a weight, without its point; H has one more", ge=4, le=7),
    ] = 5
    request: Annotated[
        Literal["W", "H"], Meta(description="W: weight; H: in ten times the resolution")
    ] = "W"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Answers in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Wire(
                start=b"\x02",
                end=b"\r",
                request=options.request.encode("ascii"),
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, options=options),
        )


def _read(frame: bytes, *, options: Options) -> Weight | BadFrame:
    """Return what one whole answer says.

    Source: Transcell PC-150 manual p. 19, Rice Lake BenchPro p. 30.
    """
    body = frame[1:-1]
    if body[:1] == b"?":
        return _status(frame, body[1:], options)
    found = _FIGURE.fullmatch(body)
    number = None if found is None else figure(found[1])
    if found is None or number is None:
        return refused_figure(frame, body)
    digits = options.digits + int(options.request == "H")
    if len(found[1]) != digits + 1:
        detail = f"{len(found[1]) - 1} digits where {digits} are expected; see digits"
        return BadFrame.of(Reason.LENGTH, frame, detail)
    legend = Legend(
        unit=options.weight_unit,
        mode=_mode(options, is_net=bool(found[2])),
        stable=True,
        high_resolution=options.request == "H",
    )
    return weight(number, legend)


def _mode(options: Options, *, is_net: bool) -> Mode:
    if is_net:
        return "net"
    return "gross" if options.model == "8217" else "unknown"


def _status(frame: bytes, status: bytes, options: Options) -> Weight | BadFrame:
    if len(status) != 1 or not status[0] & _ALWAYS:
        return BadFrame.of(Reason.UNKNOWN, frame, f"{status!r} is no status byte")
    bits = status[0]
    range_: Range = "unknown"
    note = ""
    if bits & _OVER and bits & _UNDER:
        range_, note = "error", "over and under at once"
    elif bits & (_OVER | _UNDER):
        range_ = "over" if bits & _OVER else "under"
    elif bits & _ZERO_RANGE:
        range_, note = "error", "outside the zero range"
    legend = Legend(
        unit=options.weight_unit,
        mode=_mode(options, is_net=options.model == "8217" and bool(bits & _NET)),
        stable=False if bits & _MOTION else None,
        notes=(note,) if note else (),
    )
    return no_weight(range_, legend)
