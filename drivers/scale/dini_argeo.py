"""Dini Argeo indicators (3590, DGT, DFW): ask, or listen, and store weighings in the alibi memory.

Wire: ASCII lines ended CR LF; a two-digit RS-485 address may stand before each::

    READ                   -> SS,KK,PPPPPPPP,UM               the standard string, also unasked
                              SS,B,LLLLLLLLLLUM,YYTTTTTTTTTTUM   another form of the stream
    PID                    -> PIDSS,B,LLLLLLLLLLUM,YYTTTTTTTTTTUM,RRRRR-IIIIII   stored
                              PIDSS,B,LLLLLLLLLLUM,YYTTTTTTTTTTUM,NO             not stored
    any                    -> OK, ERR01 ... ERR04             received (not: done), or refused

    SS  ST stable, US unstable, OL over, UL under
    KK  GS gross, NT net, GX ten times the resolution; VL (microvolt) and RZ (counts)
        are no weights and refused
    P   weight with sign and point, 8 characters [UM]     B  number of the scale
    L   gross weight, 10 characters [UM]                  T  tare, 10 characters [UM]
    YY  PT: tare keyed in                                 UM  kg, lb, " g" or " t"
    R   how often the memory was rewritten, 0-255         I  number of the record

With ``alibi`` each load is stored once: PID follows when ``alibi_after`` equal stable answers in a
row show a weight of at least ``alibi_from``, and again only after the load moved and changed. Its
answer is the weight of a legal weighing and carries R-I as ``alibi_id``. A number that does not
follow the one before is refused. No line has an integrity field.

Source: Dini Argeo 3590EXP manual p. 65, 81-82; DGT4X p. 52; DGT1P p. 41. Unconfirmed: 9600 8N1.
Not read: the extended string (REXT), whose fields two manuals print in different order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import EqualFrames, LineParameters
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight
from drivers.weighing import (
    Legend,
    PollIntervalS,
    figure,
    known_unit,
    no_weight,
    refused_figure,
    refused_unit,
    weight,
)
from drivers.weighing_lines import Asking, LineDriver, NeededLines

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

POLLS_FOR_RECORD = 2
"""A record that has not come when so many more requests went out will not come."""

_STANDARD = re.compile(rb"(ST|US|OL|UL),(GS|NT|GX|VL|RZ),(.{8}),(.{2})")
_FULL = re.compile(
    rb"(?P<pid>PID)?(?P<state>ST|US|OL|UL),[0-9],(?P<gross>.{10})(?P<unit>.{2}),"
    rb"(?P<kind>PT|  )(?P<tare>.{10})(?P<tare_unit>.{2})"
    rb"(?:,(?P<record>NO|[0-9]{5}-[0-9]{6}))?"
)
_RANGES: dict[bytes, Range] = {b"OL": "over", b"UL": "under"}
_MODES: dict[bytes, Mode] = {b"GS": "gross", b"NT": "net", b"GX": "unknown"}
_REFUSALS = {
    b"ERR01": "ERR01: letters behind the command",
    b"ERR02": "ERR02: wrong data in the command",
    b"ERR03": "ERR03: not allowed now",
    b"ERR04": "ERR04: unknown command",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the indicator is asked, and whether it stores."""

    request: Annotated[
        Literal["READ", "none"],
        Meta(description="READ: asked for each weight; none: the indicator sends unasked"),
    ] = "READ"
    request_form: Annotated[
        Literal["line", "escape"],
        Meta(description="line: ended CR LF; escape: between ESC and STX, as some models want it"),
    ] = "line"
    address: Annotated[
        str,
        Meta(
            description="RS-485 address, two digits, in requests and replies; empty: none",
            pattern="^([0-9]{2})?$",
        ),
    ] = ""
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededLines = 2
    alibi: Annotated[
        bool, Meta(description="store each load in the alibi memory with PID; needs READ")
    ] = False
    alibi_from: Annotated[
        float, Meta(description="store nothing below this weight [unit of the display]", gt=0)
    ] = 400.0
    alibi_after: Annotated[
        int, Meta(description="equal stable answers before a load is stored [lines]", ge=2, le=60)
    ] = 4

    def __post_init__(self) -> None:
        if self.alibi and self.request == "none":
            raise ValueError('alibi needs request = "READ"; a listener stores nothing')


class Driver(LineDriver):
    """Lines in, weights out; asks one thing at a time."""

    def __init__(self, options: Options) -> None:
        read, self._store = _framed(b"READ", options), _framed(b"PID", options)
        super().__init__(
            Asking(
                request=b"" if options.request == "none" else read,
                passed_over=(read, self._store),
                unanswered="no answer in time; check cable, baud, address and request_form",
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, address=options.address),
        )
        self._options = options
        self._rest = EqualFrames(options.alibi_after)
        self._forget_load()

    def _forget_load(self) -> None:
        self._polls_for_record = 0  # above 0: PID was sent, so many requests may still pass
        self._is_due = False
        self._has_moved = True
        self._kept: str | None = None
        self._candidate: str | None = None
        self._last_record = b""
        self._rest.forget()

    def poll(self) -> bytes:
        """Return READ, or PID where a load is due to be stored."""
        request = super().poll()
        self._polls_for_record = max(0, self._polls_for_record - 1)
        if not self._is_due:
            return request
        self._is_due = False
        self._polls_for_record = POLLS_FOR_RECORD
        return self._store

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        unanswered = super().no_reply()
        if not unanswered:
            return []
        self._rest.forget()
        if not self._polls_for_record:
            return unanswered
        self._polls_for_record = 0
        detail = "no answer to PID in time; whether the weight was stored is not known"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop a half line and say so; what stands on the platform counts as a new load."""
        self._forget_load()
        return super().silence()

    def _refuse(self, bad: BadFrame, readings: list[Reading]) -> None:
        self._rest.forget()
        super()._refuse(bad, readings)

    def _weighed(self, said: Weight, frame: bytes, readings: list[Reading]) -> None:
        if said.alibi_id is not None:
            self._recorded(said, frame, readings)
            return
        self._watch_load(said, frame)
        super()._weighed(said, frame, readings)

    def _watch_load(self, weight: Weight, line: bytes) -> None:
        """Find the moment when a load is to be stored."""
        if not self._options.alibi:
            return
        if weight.value is None or not weight.stable:
            self._has_moved, self._is_due = True, False
            self._rest.forget()
        elif Decimal(weight.value) < Decimal(str(self._options.alibi_from)):
            self._has_moved, self._is_due, self._kept = True, False, None
            self._rest.forget()
        elif self._rest.agrees(line) and self._has_moved and weight.value != self._kept:
            self._is_due = not self._polls_for_record
            self._candidate = weight.value

    def _recorded(self, weight: Weight, line: bytes, readings: list[Reading]) -> None:
        """Take a stored weighing, but only one that was asked for and follows the last."""
        if not self._polls_for_record:
            detail = "an alibi record nobody waits for: a late answer, or another client's"
            readings.append(BadFrame.of(Reason.UNKNOWN, line, detail))
            return
        self._polls_for_record = 0
        assert weight.alibi_id is not None
        record, before = weight.alibi_id.encode("ascii"), self._last_record
        self._last_record = record
        if record <= before:
            detail = f"alibi number {record!r} after {before!r}: repeated or out of order"
            readings.append(BadFrame.of(Reason.RANGE, line, detail))
            return
        self._has_moved, self._kept = False, self._candidate
        readings.append(weight)


def _framed(command: bytes, options: Options) -> bytes:
    text = options.address.encode("ascii") + command
    return text + b"\r\n" if options.request_form == "line" else b"\x1b" + text + b"\x02"


def _read(line: bytes, address: str) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Dini Argeo 3590EXP manual p. 65, 81-82.
    """
    text = line[:-2]
    if not text.startswith(address.encode("ascii")):
        return BadFrame.of(Reason.UNKNOWN, line, f"not from address {address}")
    text = text[len(address) :]
    if text in _REFUSALS:
        return BadFrame.of(Reason.DEVICE_ERROR, line, _REFUSALS[text])
    if found := _STANDARD.fullmatch(text):
        return _standard(line, found)
    found = _FULL.fullmatch(text)
    if found is None or (found["pid"] and not found["record"]):
        return BadFrame.of(Reason.SYNTAX, line, "no string that this driver reads")
    return _full(line, found)


def _standard(line: bytes, found: re.Match[bytes]) -> Weight | BadFrame:
    state, kind, field, unit = found.groups()
    if kind not in _MODES:
        detail = f"{kind!r} is no weight; set the indicator to show one"
        return BadFrame.of(Reason.UNIT, line, detail)
    legend = Legend(unit=None, mode=_MODES[kind], high_resolution=kind == b"GX")
    return _weight(line, state, field, unit, legend)


def _full(line: bytes, found: re.Match[bytes]) -> Weight | BadFrame:
    if found["record"] == b"NO":
        detail = "PID stored nothing: the weight is unstable or negative"
        return BadFrame.of(Reason.DEVICE_ERROR, line, detail)
    tare = figure(found["tare"])
    if tare is None or tare < 0 or found["tare_unit"] != found["unit"]:
        return BadFrame.of(Reason.SYNTAX, line, "the tare is no figure in the weight's unit")
    record = found["record"]
    if record and found["state"] != b"ST":
        return BadFrame.of(Reason.UNKNOWN, line, "stored, but not marked stable")
    notes = ("tare keyed in",) if found["kind"] == b"PT" else ()
    legend = Legend(unit=None, mode="gross", notes=notes)
    said = _weight(line, found["state"], found["gross"], found["unit"], legend)
    if isinstance(said, BadFrame):
        return said
    return replace(
        said,
        tare=format(tare, "f") if tare else None,
        alibi_id=record.decode("ascii") if record else None,
    )


def _weight(
    line: bytes, state: bytes, field: bytes, unit_field: bytes, legend: Legend
) -> Weight | BadFrame:
    unit = known_unit(unit_field)
    if unit is None:
        return refused_unit(line, unit_field.strip().decode("ascii"), "indicator")
    if state in _RANGES:
        return no_weight(_RANGES[state], replace(legend, unit=unit))
    number = figure(field)
    if number is None:
        return refused_figure(line, field)
    return weight(number, replace(legend, unit=unit, stable=state == b"ST"))
