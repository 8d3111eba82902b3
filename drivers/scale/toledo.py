"""Toledo continuous output: a weighing indicator that sends one frame after another.

Wire, one frame (long form 17 bytes, short form 11; one more with checksum)::

    S A B C WWWWWW TTTTTT R [K]

    S  STX 0x02
    A  status word A: bits 2-0 decimal code (000 ×100, 001 ×10, 010 ×1, 011 ×0.1 … 111 ×0.00001),
       bits 4-3 build (01 ×1, 10 ×2, 11 ×5), bit 5 always 1, bit 6 always 0
    B  status word B: bit 0 net, 1 negative, 2 out of range (over, or under where bit 1 is set),
       3 motion, 4 kg (else lb), 5 differs by maker and is not looked at,
       6 power-up: zero not captured
    C  status word C: bits 2-0 unit (000 as B says, 001 g, 010 t), 3 print key, 4 expanded ×10,
       5 always 1, 6 tare keyed in by hand
    W  weight as displayed [units of A], no sign, no point; padded with zeros or spaces
    T  tare in the same form, zeros or spaces where there is none; absent in the short form
    R  CR 0x0D
    K  checksum: the 7-bit sum of all bytes, S and K included, is 0

K may equal STX or CR, so a frame is cut by its length from STX. Bit 7 is no part of a character:
it is the parity of a 7E1 or 7O1 device on an 8N1 port, and refused where it fits neither.

Source: Rice Lake 680 manual p. 64, 880 p. 102, 920i p. 111; Mettler-Toledo ICS425/IND445 p. 50;
Fairbanks FB3000 p. 55 (bits 6 of B and C); Triner TS-700 p. 15 (C bits 4 and 2-0); Cardinal 225
p. 126 (short form); Liden LUW2001 p. 16 (a clone with other constants in A and another decimal
table). Unconfirmed: that expanded ×10 puts one more decimal in W; the line's 9600 8N1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import EqualFrames, LineParameters, mass_kg
from drivers.readings import (
    PARITY_SEEN,
    RAW_LIMIT_BYTES,
    BadFrame,
    DeviceState,
    Range,
    Reading,
    Reason,
    Weight,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

STX = 0x02
CR = 0x0D
FEED_SLICE_BYTES = 512
SETTLING_FRAMES = 3
"""So many frames in a row must tell the same before ``checksum = "auto"`` believes them."""

STANDARD_EXPONENTS = (2, 1, 0, -1, -2, -3, -4, -5)
STANDARD_MASK = 0x60
STANDARD_BITS = 0x20

_FIELD = re.compile(rb" *[0-9]+| {6}|-{6}|_{6}|\^{6}")
_UNITS = {1: "g", 2: "t"}
_Fault = tuple[Reason, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between indicators of this protocol."""

    form: Annotated[
        Literal["long", "short"],
        Meta(
            description="long: 17 bytes with tare; short: 11 without. Not guessed: a long frame "
            "that lost its tare would pass for a short one"
        ),
    ] = "long"
    checksum: Annotated[
        Literal["yes", "no", "auto"],
        Meta(
            description="whether a checksum byte follows CR; auto gives no reading until three "
            "frames in a row show by their spacing which it is"
        ),
    ] = "auto"
    equal_frames: Annotated[
        int,
        Meta(
            description="without checksum: equal frames in a row that make a reading [frames]; "
            "1: no vote. Frames that say motion are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2
    swa_table: Annotated[
        Literal["standard", "custom"],
        Meta(description="custom: a clone's status word A, from its manual, by the three below"),
    ] = "standard"
    swa_exponents: Annotated[
        tuple[Annotated[int, Meta(ge=-9, le=9)], ...],
        Meta(
            description="custom: power of ten for each decimal code 0-7", min_length=8, max_length=8
        ),
    ] = STANDARD_EXPONENTS
    swa_mask: Annotated[
        int, Meta(description="custom: which bits of status word A are constant", ge=0, le=0x7F)
    ] = STANDARD_MASK
    swa_bits: Annotated[
        int, Meta(description="custom: what the constant bits must be", ge=0, le=0x7F)
    ] = STANDARD_BITS

    def __post_init__(self) -> None:
        given = (self.swa_exponents, self.swa_mask, self.swa_bits)
        standard = (STANDARD_EXPONENTS, STANDARD_MASK, STANDARD_BITS)
        if self.swa_table == "standard" and given != standard:
            raise ValueError(
                'swa_exponents, swa_mask and swa_bits need swa_table = "custom"; '
                "say so, or leave them out"
            )
        if self.swa_bits & ~self.swa_mask:
            raise ValueError(
                f"swa_bits {self.swa_bits:#04x} has bits outside swa_mask {self.swa_mask:#04x}; "
                "give only constant bits"
            )


class Driver:
    """Frames in, weights out. Keeps a frame and a report of what was skipped, no more."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._body = 17 if options.form == "long" else 11
        self._buffer = bytearray()
        self._skipped = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._skipped.clear()
        self._skip_fault: _Fault | None = None
        self._is_joining = True
        self._has_checksum = {"yes": True, "no": False, "auto": None}[self._options.checksum]
        self._evidence = 0  # frames in a row: above 0 with checksum, below 0 without
        self._vote = EqualFrames(self._options.equal_frames)
        self._power_up = False

    @property
    def poll_period_s(self) -> None:
        """The device just talks."""
        return None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer) + len(self._skipped)

    def poll(self) -> bytes:
        """Return nothing: the indicator is never written to."""
        return b""

    def no_reply(self) -> list[Reading]:
        """Nothing was asked."""
        return []

    def silence(self) -> list[Reading]:
        """Drop a half frame and say so; what was learned of the stream is learned anew."""
        half = bytes(self._skipped + self._buffer)
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a frame")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for start in range(0, len(data), FEED_SLICE_BYTES):
            self._buffer += data[start : start + FEED_SLICE_BYTES]
            while self._take(readings):
                pass
        return readings

    def _take(self, readings: list[Reading]) -> bool:
        """Consume one frame or what is none; false: more bytes are needed."""
        start = _stx(self._buffer)
        if start:
            self._skip(start, None, readings)
        has_checksum = self._has_checksum
        # Undecided: the byte after CR and the one after it show where the next frame starts.
        needed = self._body + (2 if has_checksum is None else int(has_checksum))
        if len(self._buffer) < needed:
            return False
        raw = bytes(self._buffer[:needed])
        if has_checksum is None:
            self._settle(raw, readings)
            return True
        fault = self._fault(raw)
        if fault is not None:
            self._skip(1, fault, readings)
            return True
        del self._buffer[:needed]
        self._report(readings)
        readings += self._say(raw, verified=has_checksum)
        return True

    def _settle(self, raw: bytes, readings: list[Reading]) -> None:
        """Learn from where the next frame starts whether there is a checksum."""
        body = self._body
        fault = self._fault(raw[:body])
        if fault is not None:
            self._skip(1, fault, readings)
            return
        with_checksum = raw[body + 1] & 0x7F == STX and _sum7(raw[: body + 1]) == 0
        if not with_checksum and raw[body] & 0x7F != STX:
            detail = "neither a right checksum nor the next frame follows CR"
            self._skip(1, (Reason.CHECKSUM, detail), readings)
            return
        self._evidence = max(self._evidence, 0) + 1 if with_checksum else min(self._evidence, 0) - 1
        if abs(self._evidence) >= SETTLING_FRAMES:
            self._has_checksum = with_checksum
        del self._buffer[: body + int(with_checksum)]
        self._report(readings)

    def _fault(self, raw: bytes) -> _Fault | None:
        """Return why these bytes are no frame, or None."""
        parity = _parity_fault(raw)
        if parity is not None:
            return parity
        frame = bytes(b & 0x7F for b in raw)
        if frame[self._body - 1] != CR:
            return Reason.LENGTH, f"byte {self._body} is {frame[self._body - 1]:#04x}, not CR"
        if len(frame) > self._body and _sum7(frame) != 0:
            right = -_sum7(frame[:-1]) & 0x7F
            return Reason.CHECKSUM, f"checksum is {frame[-1]:#04x}, should be {right:#04x}"
        return _status_fault(frame, self._options) or _field_fault(frame[4 : self._body - 1])

    def _skip(self, count: int, fault: _Fault | None, readings: list[Reading]) -> None:
        """Drop bytes; what is dropped in one run is one refusal of bounded length."""
        if fault is not None and self._skip_fault is None:
            self._report(readings)
            self._skip_fault = fault
        self._evidence = 0
        self._vote.forget()
        self._skipped += self._buffer[:count]
        del self._buffer[:count]
        while len(self._skipped) >= self._run_limit():
            self._report(readings)

    def _run_limit(self) -> int:
        return RAW_LIMIT_BYTES if self._skip_fault is None else self._body + 1

    def _report(self, readings: list[Reading]) -> None:
        """Say what was skipped; the rest of a frame that was running when we came is no fault."""
        limit = self._run_limit()
        run, fault = bytes(self._skipped[:limit]), self._skip_fault
        del self._skipped[:limit]
        self._skip_fault = None
        is_rest = self._is_joining and fault is None and len(run) <= self._body
        self._is_joining = False
        if run and not is_rest:
            reason, detail = fault or (Reason.SYNTAX, "bytes outside any frame")
            readings.append(BadFrame.of(reason, run, detail))

    def _say(self, raw: bytes, *, verified: bool) -> list[Reading]:
        frame = bytes(b & 0x7F for b in raw)
        weight = _decode(frame, self._options, verified=verified, parity_seen=frame != raw)
        if isinstance(weight, BadFrame):
            return [weight]
        if not verified and not self._is_voted(frame, weight):
            return []
        is_power_up = bool(frame[2] & 0x40)
        if is_power_up == self._power_up:
            return [weight]
        self._power_up = is_power_up
        detail = "zero not captured since power-up" if is_power_up else ""
        return [DeviceState(condition="power_up", active=is_power_up, detail=detail), weight]

    def _is_voted(self, frame: bytes, weight: Weight) -> bool:
        # A load in motion never shows the same figure twice, and is never a weighing result.
        if weight.stable is False and weight.range == "ok":
            self._vote.forget()
            return True
        return self._vote.agrees(frame)


def _stx(data: bytearray) -> int:
    """Return where the first STX stands, whatever its parity bit; the length where there is none.

    Source: Rice Lake 680 manual p. 64.
    """
    found = [i for i in (data.find(STX), data.find(STX | 0x80)) if i >= 0]
    return min(found, default=len(data))


def _sum7(data: bytes) -> int:
    return sum(b & 0x7F for b in data) & 0x7F


def _parity_fault(raw: bytes) -> _Fault | None:
    """Refuse bits 7 that are neither all clear nor one parity throughout."""
    if not any(b & 0x80 for b in raw) or len({b.bit_count() & 1 for b in raw}) == 1:
        return None
    return Reason.CHECKSUM, "bit 7 is set as neither even nor odd parity; check the line's parity"


def _status_fault(frame: bytes, options: Options) -> _Fault | None:
    swa, swc = frame[1], frame[3]
    if swa & options.swa_mask != options.swa_bits:
        return Reason.UNKNOWN, f"status word A {swa:#04x} has other constant bits; see swa_table"
    if options.swa_table == "standard" and not swa & 0x18:
        return Reason.UNKNOWN, f"status word A {swa:#04x} has an unknown build; see swa_table"
    if not swc & 0x20:
        return Reason.UNKNOWN, f"status word C {swc:#04x} lacks its constant bit 5"
    return None


def _field_fault(fields: bytes) -> _Fault | None:
    for start in range(0, len(fields), 6):
        field = fields[start : start + 6]
        if not _FIELD.fullmatch(field):
            return Reason.SYNTAX, f"{field!r} is neither a figure nor blank"
    return None


def _decode(
    frame: bytes, options: Options, *, verified: bool, parity_seen: bool
) -> Weight | BadFrame:
    """Return the weight of a well-formed frame, bits 7 cleared.

    Source: Rice Lake 680 manual p. 64; Fairbanks FB3000 p. 55; Triner TS-700 p. 15.
    """
    swb, swc = frame[2], frame[3]
    unit = _unit(swb, swc)
    if unit is None:
        detail = f"unit code {swc & 7} is not lb, kg, g or t; change the indicator's unit"
        return BadFrame.of(Reason.UNIT, frame, detail)
    is_expanded = bool(swc & 0x10)
    exponent = options.swa_exponents[frame[1] & 7]
    digits = frame[4:10].strip()
    range_ = _range(swb, is_blank=not digits.isdigit())
    value = None
    if range_ == "ok":
        value = _figure(digits, exponent - int(is_expanded), is_negative=bool(swb & 2))
    return Weight(
        value=None if value is None else format(value, "f"),
        unit=unit,
        mass_kg=None if value is None else mass_kg(value, unit),
        mode="net" if swb & 1 else "gross",
        stable=not swb & 8,
        range=range_,
        tare=None if is_expanded else _tare(frame[10:16].strip(), exponent),
        high_resolution=is_expanded,
        verified=verified,
        notes=_notes(swb, swc, parity_seen=parity_seen),
    )


def _unit(swb: int, swc: int) -> str | None:
    if swc & 7 == 0:
        return "kg" if swb & 0x10 else "lb"
    return _UNITS.get(swc & 7)


def _range(swb: int, *, is_blank: bool) -> Range:
    if swb & 0x40:
        return "error"  # before zero is captured the figure is no weight
    if swb & 4:
        return "under" if swb & 2 else "over"
    return "unknown" if is_blank else "ok"


def _figure(digits: bytes, exponent: int, *, is_negative: bool) -> Decimal:
    number = int(digits)
    return Decimal(-number if is_negative else number).scaleb(exponent)


def _tare(digits: bytes, exponent: int) -> str | None:
    """Return the tare's exact text, None where there is none (all zeros or blank)."""
    if not digits.isdigit() or int(digits) == 0:
        return None
    return format(_figure(digits, exponent, is_negative=False), "f")


def _notes(swb: int, swc: int, *, parity_seen: bool) -> tuple[str, ...]:
    known = (
        (swb & 0x40, "zero not captured"),
        (swc & 0x08, "print key"),
        (swc & 0x10, "expanded x10"),
        (swc & 0x40, "tare keyed in"),
        (parity_seen, PARITY_SEEN),
    )
    return tuple(text for is_so, text in known if is_so)
