"""Sartorius SBI (also Minebea): balances that print a line when asked, or by themselves.

Wire: ESC P CR LF asks; a line ended CR LF answers::

    s b w w w w w w w w _ u u u              16 characters with CR LF (``form = "16"``)
    n n n n n n  s b w w ... u u u           22 characters with CR LF (``form = "22"``)

    s  sign: + - or blank
    b  blank, or a bracket
    w  weight, right-aligned, with point [u]; a last digit in brackets is not verified, 123.5[6]
    _  blank, or a bracket
    u  unit, left-aligned: blank while the weight is unstable, the only sign of motion
    n  name: N net, G gross, T1 tare, Stat a state, others are no weight

In place of sign to unit stand H or HH (overload), L or LL (underload), C (adjusting), OFF, or
``Err`` or ``ERR`` and a number. In motion the unit is not known, so such a weight has no mass.
A bracketed digit makes a weight ``high_resolution``: not of its legal resolution. Nothing is sent
but ESC P; it neither tares, sets zero nor adjusts.

Source: Sartorius GC803S manual p. 57, LE2202S p. 51, Master p. 79, WZA224 p. 24, Cubis MSE p. 71;
numat/sartorius (9600 8O1, TCP port 49155 of its Ethernet gateways, blank unit). Unconfirmed:
1200 7O1 on older balances.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, LineParameters
from drivers.readings import BadFrame, Mode, Range, Reason, Weight
from drivers.weighing import Legend, PollIntervalS, no_weight, refused_unit, signed, weight
from drivers.weighing_lines import Asking, LineDriver, NeededLines

LINE = LineParameters(baud=9600, data_bits=8, parity="O", stop_bits=1)

REQUEST = b"\x1bP\r\n"

_WEIGHT = re.compile(rb"([-+ ]) *([0-9.]*)(?:\[([0-9])\])? *")
_FIGURE = re.compile(r"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_CODES: dict[bytes, tuple[Range, str]] = {
    b"H": ("over", "overload"),
    b"HH": ("over", "overload"),
    b"L": ("under", "underload"),
    b"LL": ("under", "underload"),
    b"C": ("error", "adjusting"),
    b"OFF": ("error", "switched off"),
}
_ERROR = re.compile(rb"(?:Err|ERR) +([0-9]{1,3})")
_NAMES: dict[bytes, Mode] = {b"N": "net", b"G": "gross", b"T1": "tare"}
_STATE = b"Stat"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the balance is set to print."""

    form: Annotated[
        Literal["16", "22"],
        Meta(
            description="characters of a line; not guessed: a 22 that lost its name passes for 16"
        ),
    ] = "16"
    request: Annotated[
        Literal["print", "none"],
        Meta(description="print: asked with ESC P; none: the balance prints by itself"),
    ] = "print"
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededLines = 2


class Driver(LineDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            Asking(
                request=b"" if options.request == "none" else REQUEST,
                passed_over=(REQUEST,),
                unanswered="no answer to ESC P in time; check cable, baud, parity and power",
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, length=int(options.form)),
        )


def _read(line: bytes, length: int) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Sartorius GC803S p. 57, LE2202S p. 51.
    """
    if len(line) != length:
        detail = f"{len(line)} characters where form says {length}; see form"
        return BadFrame.of(Reason.LENGTH, line, detail)
    name, body = line[: length - 16].strip(), line[length - 16 : -2]
    if name != _STATE and name and name not in _NAMES:
        return BadFrame.of(Reason.UNKNOWN, line, f"{name!r} is no weight")
    if state := _state(body.strip()):
        return state
    if name == _STATE:
        return BadFrame.of(Reason.UNKNOWN, line, f"{body.strip()!r} is no published state")
    return _weight(line, body, _NAMES.get(name, "unknown"))


def _state(code: bytes) -> Weight | None:
    """Return the range that a code in place of the weight says; None: it is no such code."""
    if error := _ERROR.fullmatch(code):
        range_: Range = "error"
        note = f"error {error[1].decode('ascii')}"
    elif code in _CODES:
        range_, note = _CODES[code]
    else:
        return None
    return no_weight(range_, Legend(unit=None, notes=(note,)))


def _weight(line: bytes, body: bytes, mode: Mode) -> Weight | BadFrame:
    found = _WEIGHT.fullmatch(body[:11])
    text = "" if found is None else (found[2] + (found[3] or b"")).decode("ascii")
    if found is None or not _FIGURE.fullmatch(text):
        return BadFrame.of(Reason.SYNTAX, line, f"{body[:11]!r} is neither a weight nor a state")
    unit = body[11:].rstrip().decode("ascii")
    if unit and unit not in KG_PER_UNIT:
        return refused_unit(line, unit, "balance")
    is_verified = found[3] is None
    legend = Legend(
        unit=unit or None,
        mode=mode,
        stable=bool(unit),
        high_resolution=not is_verified,
        notes=() if is_verified else ("last digit not verified",),
    )
    return weight(signed(Decimal(text), is_negative=found[1] == b"-"), legend)
