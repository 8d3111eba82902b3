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
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.lines import Lines
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_LINE_BYTES = 80
POLLS_FOR_RECORD = 2
"""A record that has not come when so many more requests went out will not come."""

_NUMBER = re.compile(rb" *([-+]?) *([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_STANDARD = re.compile(rb"(ST|US|OL|UL),(GS|NT|GX|VL|RZ),(.{8}),(.{2})")
_FULL = re.compile(
    rb"(?P<pid>PID)?(?P<state>ST|US|OL|UL),[0-9],(?P<gross>.{10})(?P<unit>.{2}),"
    rb"(?P<kind>PT|  )(?P<tare>.{10})(?P<tare_unit>.{2})"
    rb"(?:,(?P<record>NO|[0-9]{5}-[0-9]{6}))?"
)
_RANGES: dict[bytes, Range] = {b"OL": "over", b"UL": "under", b"ST": "ok", b"US": "ok"}
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
    poll_interval_s: Annotated[float, Meta(description="how often to ask [s]", ge=0.05, le=60)] = (
        0.5
    )
    equal_frames: Annotated[
        int,
        Meta(
            description="equal lines in a row that make a reading, as no line has a checksum "
            "[lines]; 1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2
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


class Driver:
    """Lines in, weights out; asks one thing at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._address = options.address.encode("ascii")
        self._vote = EqualFrames(options.equal_frames)
        self._rest = EqualFrames(options.alibi_after)
        self._lines = Lines(MAX_LINE_BYTES)
        self._reset()

    def _reset(self) -> None:
        self._lines.clear()
        self._is_joining = True
        self._has_answer = False
        self._polls_for_record = 0  # above 0: PID was sent, so many requests may still pass
        self._is_due = False
        self._has_moved = True
        self._kept: str | None = None
        self._candidate: str | None = None
        self._last_record = b""
        self._vote.forget()
        self._rest.forget()

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return None if self._options.request == "none" else self._options.poll_interval_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def poll(self) -> bytes:
        """Return READ, or PID where a load is due to be stored."""
        if self._options.request == "none":
            return b""
        self._has_answer = False
        self._polls_for_record = max(0, self._polls_for_record - 1)
        if self._is_due:
            self._is_due = False
            self._polls_for_record = POLLS_FOR_RECORD
            return self._framed(b"PID")
        return self._framed(b"READ")

    def _framed(self, command: bytes) -> bytes:
        text = self._address + command
        return text + b"\r\n" if self._options.request_form == "line" else b"\x1b" + text + b"\x02"

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer or self._options.request == "none":
            return []
        self._vote.forget()
        self._rest.forget()
        detail = "no answer in time; check cable, baud, address and request_form"
        if self._polls_for_record:
            self._polls_for_record = 0
            detail = "no answer to PID in time; whether the weight was stored is not known"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop a half line and say so; what stands on the platform counts as a new load."""
        half = self._lines.clear()
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a reply")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for line in self._lines.feed(data):
            if isinstance(line, BadFrame):
                self._refuse(line, readings)
                self._is_joining = False
            else:
                self._take(line, readings)
        return readings

    def _take(self, line: bytes, readings: list[Reading]) -> None:
        for command in (b"READ", b"PID"):
            line = line.removeprefix(self._framed(command))  # sent back by a two-wire adapter
        if not line:
            return
        self._has_answer = True
        said = self._read(line)
        if isinstance(said, BadFrame):
            self._refuse(said, readings)
        elif said.alibi_id is None:
            self._weighed(said, line, readings)
        else:
            self._recorded(said, line, readings)
        self._is_joining = False

    def _refuse(self, bad: BadFrame, readings: list[Reading]) -> None:
        self._vote.forget()
        self._rest.forget()
        # The first line heard may be the rest of one that was running.
        if not (self._is_joining and bad.reason is Reason.SYNTAX):
            readings.append(bad)

    def _weighed(self, weight: Weight, line: bytes, readings: list[Reading]) -> None:
        self._watch_load(weight, line)
        if weight.range == "ok" and not weight.stable:
            # A load in motion never shows the same figure twice, and is never a weighing result.
            self._vote.forget()
        elif not self._vote.agrees(line):
            return
        readings.append(weight)

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

    def _read(self, line: bytes) -> Weight | BadFrame:
        """Return what one whole line says.

        Source: Dini Argeo 3590EXP manual p. 65, 81-82.
        """
        if not line.endswith(b"\r\n") or not line.isascii():
            detail = "the line ends LF without CR, or has bytes above 0x7F; check the parity"
            return BadFrame.of(Reason.SYNTAX, line, detail)
        text = line[:-2]
        if not text.startswith(self._address):
            return BadFrame.of(Reason.UNKNOWN, line, f"not from address {self._options.address}")
        text = text[len(self._address) :]
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
    return _weight(line, state, field, unit, _MODES[kind], high_resolution=kind == b"GX")


def _full(line: bytes, found: re.Match[bytes]) -> Weight | BadFrame:
    if found["record"] == b"NO":
        detail = "PID stored nothing: the weight is unstable or negative"
        return BadFrame.of(Reason.DEVICE_ERROR, line, detail)
    tare = _number(found["tare"])
    if tare is None or tare < 0 or found["tare_unit"] != found["unit"]:
        return BadFrame.of(Reason.SYNTAX, line, "the tare is no figure in the weight's unit")
    record = found["record"]
    if record and found["state"] != b"ST":
        return BadFrame.of(Reason.UNKNOWN, line, "stored, but not marked stable")
    return _weight(
        line,
        found["state"],
        found["gross"],
        found["unit"],
        "gross",
        tare=format(tare, "f") if tare else None,
        alibi_id=record.decode("ascii") if record else None,
        notes=("tare keyed in",) if found["kind"] == b"PT" else (),
    )


def _number(field: bytes) -> Decimal | None:
    found = _NUMBER.fullmatch(field)
    if found is None:
        return None
    number = Decimal(found[2].decode("ascii"))
    return -number if found[1] == b"-" and number else number


def _weight(  # noqa: PLR0913 - the fields of one line
    line: bytes,
    state: bytes,
    field: bytes,
    unit_field: bytes,
    mode: Mode,
    *,
    high_resolution: bool = False,
    tare: str | None = None,
    alibi_id: str | None = None,
    notes: tuple[str, ...] = (),
) -> Weight | BadFrame:
    unit = unit_field.strip().decode("ascii")
    if unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the indicator's unit"
        return BadFrame.of(Reason.UNIT, line, detail)
    range_ = _RANGES[state]
    number = _number(field) if range_ == "ok" else None
    if range_ == "ok" and number is None:
        return BadFrame.of(Reason.SYNTAX, line, f"{field!r} is no figure")
    return Weight(
        value=None if number is None else format(number, "f"),
        unit=unit,
        mass_kg=None if number is None else mass_kg(number, unit),
        mode=mode,
        stable=None if range_ != "ok" else state == b"ST",
        range=range_,
        stable_by=None if range_ != "ok" else "device",
        tare=tare,
        alibi_id=alibi_id,
        high_resolution=high_resolution,
        notes=notes,
    )
