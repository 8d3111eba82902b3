"""Systec IT1, IT3, IT6000, IT8000 weighbridge terminals: RM asks, RN weighs for the record.

Wire, telegrams in angle brackets on a serial line or TCP port 1234::

    <RM1>   momentary weight of scale 1; nothing is stored
    <RN1>   waits for standstill, stores in the alibi memory, counts the ident number on
    <ee>    the answer to either where it failed, or
    <eesmDDDDDDDDTTTTTIIIInGGGGGGGGttttttttNNNNNNNNuuccrrr...>

    e  error code, 00 none                 s  1 in motion          m  1 negative
    D  date, 8 characters                  T  time, 5 characters   n  number of the scale
    I  ident number, from 1 each day; 0 without memory module
    G  gross   t  tare   N  net, 8 characters each [u]
    u  unit, 2 characters                  c  tare: blank none, " T" weighed, PT keyed in
    r  range, terminal number and a CRC-16 as a decimal number, whose polynomial is not known here

The weight given is the gross weight. With ``alibi`` each load is stored once: RN follows when
``alibi_after`` equal answers at rest show at least ``alibi_from``, and again only after the load
moved and changed. Date, time and ident number together are its ``alibi_id``; an answer to RN that
repeats one is refused. No field is checked for integrity but gross = net + tare.

Source: Systec, note "store approved weight with alibi memory" for the IT series (RN and its
fields). Unconfirmed: RM and that it answers in the form of RN, the error codes, the widths behind
the tare code (any length is taken), the answer <ee>.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.readings import BadFrame, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_TELEGRAM_BYTES = 96
POLLS_FOR_RECORD = 40
"""RN waits for standstill; so many polls pass before it is given up."""

_TELEGRAM = re.compile(
    rb"(?P<error>[0-9]{2})(?P<motion>[01])(?P<negative>[01])(?P<date>[0-9./-]{8})"
    rb"(?P<time>[0-9:]{5})(?P<ident>[ 0-9]{4})(?P<scale>[0-9])(?P<gross>.{8})(?P<tare>.{8})"
    rb"(?P<net>.{8})(?P<unit>.{2})(?P<code>PT| T|  )(?P<rest>[ 0-9]{0,24})"
)
_NUMBER = re.compile(rb" *(-?) *([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_COMPARED = ("motion", "negative", "scale", "gross", "tare", "net", "unit", "code")

Code = Annotated[int, Meta(description="unconfirmed: error code for this; -1: none", ge=-1, le=99)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which scale is asked, and whether weighings are stored."""

    scale: Annotated[int, Meta(description="number of the scale", ge=1, le=9)] = 1
    poll_interval_s: Annotated[
        float,
        Meta(description="how often to ask with RM, itself unconfirmed [s]", ge=0.05, le=60),
    ] = 0.5
    equal_frames: Annotated[
        int,
        Meta(
            description="equal answers in a row that make a reading, as the CRC cannot be checked "
            "[answers]; 1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2
    check_net: Annotated[
        bool,
        Meta(description="refuse gross other than net + tare; false where intervals change"),
    ] = True
    over_code: Code = 12
    under_code: Code = 14
    alibi: Annotated[
        bool,
        Meta(
            description="store each load in the alibi memory with RN, answered only at standstill, "
            "so the reply time-out must exceed the terminal's own"
        ),
    ] = False
    alibi_from: Annotated[
        float, Meta(description="store nothing below this gross weight [unit of display]", gt=0)
    ] = 400.0
    alibi_after: Annotated[
        int, Meta(description="equal answers at rest before a load is stored", ge=2, le=60)
    ] = 4


class Driver:
    """Telegrams in, weights out; asks one thing at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._vote = EqualFrames(options.equal_frames)
        self._rest = EqualFrames(options.alibi_after)
        self._buffer = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._has_answer = False
        self._record_polls = 0  # above 0: RN was sent and is waited for
        self._is_due = False
        self._has_moved = True
        self._kept: str | None = None
        self._last_key = self._last_record = ""  # of an answer to RM; to RN
        self._vote.forget()
        self._rest.forget()

    @property
    def poll_period_s(self) -> float:
        """How often to poll [s]."""
        return self._options.poll_interval_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer)

    def poll(self) -> bytes:
        """Return RM, or RN where a load is due; nothing while RN waits for standstill."""
        self._record_polls = max(0, self._record_polls - 1)
        if self._record_polls:
            return b""
        self._has_answer = False
        if self._is_due:
            self._is_due = False
            self._record_polls = POLLS_FOR_RECORD
            return self._command(b"RN")
        return self._command(b"RM")

    def _command(self, name: bytes) -> bytes:
        return b"<%s%d>" % (name, self._options.scale)

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer:
            return []
        self._vote.forget()
        self._rest.forget()
        detail = "no answer to RM in time; check cable, baud, port and the number of the scale"
        if self._record_polls:
            self._record_polls = 0
            detail = "no answer to RN in time; whether the weight was stored is not known"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop a half telegram and say so; what stands on the scale counts as a new load."""
        half = bytes(self._buffer)
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a telegram")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for byte in data:
            if byte == ord("<"):
                self._shed("a telegram began inside another", readings)
                self._buffer.append(byte)
            elif self._buffer:
                self._buffer.append(byte)
                if byte == ord(">"):
                    telegram = bytes(self._buffer)
                    self._buffer.clear()
                    self._take(telegram, readings)
                elif len(self._buffer) > MAX_TELEGRAM_BYTES:
                    self._shed(f"no > in {MAX_TELEGRAM_BYTES} bytes; check the baud", readings)
        return readings

    def _shed(self, detail: str, readings: list[Reading]) -> None:
        if self._buffer:
            readings.append(BadFrame.of(Reason.SYNTAX, bytes(self._buffer), detail))
            self._buffer.clear()
            self._vote.forget()
            self._rest.forget()

    def _take(self, telegram: bytes, readings: list[Reading]) -> None:
        if telegram in (self._command(b"RM"), self._command(b"RN")):
            return  # sent back by a two-wire adapter
        self._has_answer = True
        text = telegram[1:-1]
        found = _TELEGRAM.fullmatch(text) if text.isascii() else None
        if len(text) == 2 and text.isdigit() and text != b"00":
            self._failed(telegram, int(text), readings)
        elif found is None:
            self._refuse(BadFrame.of(Reason.SYNTAX, telegram, "no answer to RM or RN"), readings)
        elif found["error"] != b"00":
            self._failed(telegram, int(found["error"]), readings)
        else:
            self._weighed(telegram, found, readings)

    def _refuse(self, bad: BadFrame, readings: list[Reading]) -> None:
        self._vote.forget()
        self._rest.forget()
        readings.append(bad)

    def _failed(self, telegram: bytes, code: int, readings: list[Reading]) -> None:
        self._record_polls = 0
        self._rest.forget()
        ranges: dict[int, Range] = {
            self._options.over_code: "over",
            self._options.under_code: "under",
        }
        if code not in ranges:
            detail = f"the terminal answers error {code:02d}; see its manual"
            self._refuse(BadFrame.of(Reason.DEVICE_ERROR, telegram, detail), readings)
            return
        self._has_moved, self._is_due = True, False
        if self._vote.agrees(telegram):
            readings.append(_no_weight(ranges[code]))

    def _weighed(self, telegram: bytes, found: re.Match[bytes], readings: list[Reading]) -> None:
        weight = _read(telegram, found, self._options)
        if isinstance(weight, BadFrame):
            self._refuse(weight, readings)
            return
        key = _key(found)
        if self._record_polls:
            self._recorded(weight, telegram, key, readings)
            return
        self._last_key = key
        compared = b"|".join(found[name] for name in _COMPARED)
        self._watch_load(weight, compared)
        if not weight.stable:
            # A load in motion never shows the same figure twice, and is never a weighing result.
            self._vote.forget()
        elif not self._vote.agrees(compared):
            return
        readings.append(weight)

    def _watch_load(self, weight: Weight, compared: bytes) -> None:
        """Find the moment when a load is to be stored."""
        if not self._options.alibi:
            return
        assert weight.value is not None
        if not weight.stable:
            self._has_moved, self._is_due = True, False
            self._rest.forget()
        elif Decimal(weight.value) < Decimal(str(self._options.alibi_from)):
            self._has_moved, self._is_due, self._kept = True, False, None
            self._rest.forget()
        elif self._rest.agrees(compared) and self._has_moved and weight.value != self._kept:
            self._is_due = True

    def _recorded(self, weight: Weight, telegram: bytes, key: str, readings: list[Reading]) -> None:
        """Take the answer to RN; a late answer to RM repeats an ident number or moves."""
        self._record_polls = 0
        is_numbered = int(key[-4:]) > 0
        if not weight.stable or (is_numbered and key in (self._last_key, self._last_record)):
            detail = f"no new record in answer to RN: {key}, stable {weight.stable}"
            self._refuse(BadFrame.of(Reason.RANGE, telegram, detail), readings)
            return
        self._last_record = key
        self._has_moved, self._kept = False, weight.value
        if is_numbered:
            readings.append(replace(weight, alibi_id=key))
        else:
            readings.append(replace(weight, notes=(*weight.notes, "no alibi memory")))


def _key(found: re.Match[bytes]) -> str:
    """Return date, time and ident number, the record's key."""
    ident = found["ident"].replace(b" ", b"0")
    return b" ".join((found["date"], found["time"], ident)).decode("ascii")


def _read(telegram: bytes, found: re.Match[bytes], options: Options) -> Weight | BadFrame:
    """Return the weight of a telegram.

    Source: Systec, "store approved weight with alibi memory".
    """
    if int(found["scale"]) != options.scale:
        detail = f"answers for scale {found['scale']!r}, asked was {options.scale}"
        return BadFrame.of(Reason.UNKNOWN, telegram, detail)
    gross, tare, net = (_number(found[name]) for name in ("gross", "tare", "net"))
    if gross is None or tare is None or net is None:
        return BadFrame.of(Reason.SYNTAX, telegram, "gross, tare or net is no figure")
    if (found["negative"] == b"1") != (gross < 0 or net < 0):
        detail = "the status says another sign than gross and net show"
        return BadFrame.of(Reason.RANGE, telegram, detail)
    if options.check_net and gross != net + tare:
        detail = f"gross {gross} is not net {net} + tare {tare}; see check_net"
        return BadFrame.of(Reason.RANGE, telegram, detail)
    unit = found["unit"].strip().decode("ascii")
    if unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the scale's unit"
        return BadFrame.of(Reason.UNIT, telegram, detail)
    return Weight(
        value=format(gross, "f"),
        unit=unit,
        mass_kg=mass_kg(gross, unit),
        mode="gross",
        stable=found["motion"] == b"0",
        range="ok",
        tare=format(tare, "f") if tare else None,
        notes=("tare keyed in",) if found["code"] == b"PT" else (),
    )


def _number(field: bytes) -> Decimal | None:
    found = _NUMBER.fullmatch(field)
    if found is None:
        return None
    number = Decimal(found[2].decode("ascii"))
    return -number if found[1] and number else number


def _no_weight(range_: Range) -> Weight:
    return Weight(
        value=None,
        unit=None,
        mass_kg=None,
        mode="unknown",
        stable=None,
        range=range_,
        stable_by=None,
    )
