"""Yaohua XK3190 (A9, A12, A23, A26, DS3, D10) and look-alikes: the commonest truck indicator.

Wire, by ``form``::

    stx       02 s d d d d d d p h h 03          12 bytes, sent unasked ("format 0")
    command   02 a c s d d d d d d p h h 03      14 bytes, answer to 02 a c h h 03
    reversed  = f f f f f f f s                   9 bytes, last character first ("format 1")
    forward   = s f f f f f f f                   9 bytes, first character first ("format 2")
    a12       W m f f f f f f f k g h h CR LF     15 bytes, the A12's own
    wn        w n f f f f f f k g CR LF           12 bytes, a dialect

    s  sign: + or -; in reversed and forward 0 or -
    d  six digits, first digit first [unit, without point]
    p  decimals, 0-4, counted from the right
    f  digits and point, in a12 padded with blanks, its minus in the first place [unit]
    m  G gross, N net; nine blanks and OL (overload) or LO (below -20 d) stand for W m f
    h  XOR, high nibble first, as 0-9 A-F: stx s to p; command a to p; a12 the 11 bytes before
    a  address A-Z      c  B gross, D net

``reversed`` and ``forward`` have no end: the next ``=`` ends a frame, so the last one waits for
it. The two look alike: put a known load on before choosing. Only a12 and wn say their unit, none
says that the load is at rest; whether it is the host derives from equal figures
(``host_stable_frames``) and says so in ``stable_by``. No form but a12 says overload: six blanks
or dashes are no weight. The formats with price fields are not read.

Source: Yaohua XK3190-A26 manual p. 10-11, A12E p. 13, A23p p. 21-24, DS3 p. 6; form wn as read by
ilwk/weighbridge-reader. Unconfirmed: no parity on the line, and a minus in wn (refused).
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import EqualFrames, LineParameters, mass_kg
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_SKIPPED_BYTES = 64
FEED_SLICE_BYTES = 512

_STX, _ETX = 0x02, 0x03
_FIGURE = re.compile(rb"[0-9]+(?:\.[0-9]*)?|\.[0-9]+")
_PADDED = re.compile(rb"(-?) *([0-9]+(?:\.[0-9]*)?|\.[0-9]+)")
_BLANK = re.compile(rb" +|-+|_+")
_A12_RANGES: dict[bytes, Range] = {b" " * 9 + b"OL": "over", b" " * 9 + b"LO": "under"}
_COMMANDS: dict[str, tuple[bytes, Mode]] = {"gross": (b"B", "gross"), "net": (b"D", "net")}


@dataclass(frozen=True, slots=True)
class _Shape:
    """How a form is cut: ``start`` None is a line that LF ends."""

    start: int | None
    length: int
    is_verified: bool


_SHAPES = {
    "stx": _Shape(_STX, 12, is_verified=True),
    "command": _Shape(_STX, 14, is_verified=True),
    "reversed": _Shape(ord("="), 9, is_verified=False),
    "forward": _Shape(ord("="), 9, is_verified=False),
    "a12": _Shape(None, 15, is_verified=True),
    "wn": _Shape(None, 12, is_verified=False),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the indicator is set to talk."""

    form: Annotated[
        Literal["stx", "command", "reversed", "forward", "a12", "wn"],
        Meta(description="the indicator's output format; see the driver's own text"),
    ] = "stx"
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb"],
        Meta(description="unit on the display, as only a12 and wn (both kg) send it"),
    ] = "kg"
    address: Annotated[
        str, Meta(description="command: the indicator's address, A-Z", pattern="^[A-Z]$")
    ] = "A"
    ask: Annotated[Literal["gross", "net"], Meta(description="command: which weight")] = "gross"
    poll_interval_s: Annotated[
        float, Meta(description="command: how often to ask [s]", ge=0.05, le=60)
    ] = 0.5
    host_stable_frames: Annotated[
        int,
        Meta(
            description="so many figures in a row that stay together are stable by the host "
            "[frames], before that they are moving; 0: stability stays unknown",
            ge=0,
            le=600,
        ),
    ] = 10
    host_stable_within: Annotated[
        float,
        Meta(description="figures so close together are at rest, e.g. one interval [unit]", ge=0),
    ] = 0.0
    equal_frames: Annotated[
        int,
        Meta(
            description="forms without XOR, where the host finds no motion: equal frames in a row "
            "that make a reading [frames]; 1: no vote",
            ge=1,
            le=10,
        ),
    ] = 2


class Driver:
    """Frames in, weights out; keeps a frame, what was skipped, and the latest figures."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._shape = _SHAPES[options.form]
        self._request = _request(options) if options.form == "command" else b""
        self._buffer = bytearray()
        self._skipped = bytearray()
        self._vote = EqualFrames(options.equal_frames)
        self._figures: deque[Decimal] = deque(maxlen=options.host_stable_frames)
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._skipped.clear()
        self._is_joining = True
        self._has_answer = False
        self._forget()

    def _forget(self) -> None:
        self._vote.forget()
        self._figures.clear()

    def _refused(self) -> None:
        # With XOR, what was refused says nothing of the figures around it.
        if not self._shape.is_verified:
            self._forget()

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return self._options.poll_interval_s if self._request else None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer) + len(self._skipped)

    def poll(self) -> bytes:
        """Return the request of the command form, else nothing."""
        self._has_answer = False
        return self._request

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        if self._has_answer or not self._request:
            return []
        self._forget()
        detail = f"no answer from address {self._options.address}; check it, cable and baud"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop a half frame and say so."""
        half = bytes(self._skipped + self._buffer)
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a frame")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        take = self._take_line if self._shape.start is None else self._take_frame
        for at in range(0, len(data), FEED_SLICE_BYTES):
            self._buffer += data[at : at + FEED_SLICE_BYTES]
            while take(readings):
                pass
        return readings

    def _take_line(self, readings: list[Reading]) -> bool:
        """Consume one line; of a longer one, which lost its LF before, the last part counts."""
        end = self._buffer.find(b"\n") + 1
        if not end:
            spare = len(self._buffer) - self._shape.length
            if spare > 0:
                self._skip(spare, readings)
            return False
        self._skip(max(0, end - self._shape.length), readings)
        end = min(end, self._shape.length)
        line = bytes(self._buffer[:end])
        if len(line) < self._shape.length or not line.endswith(b"\r\n"):
            self._skip(end, readings)
            self._report("no line of this form; see form, baud and parity", readings)
            return True
        self._report("bytes before the line", readings)
        del self._buffer[:end]
        self._say(line, readings)
        return True

    def _take_frame(self, readings: list[Reading]) -> bool:
        """Consume one frame from its start, or what is none; false: more bytes are needed."""
        shape, buffer = self._shape, self._buffer
        assert shape.start is not None
        begin = buffer.find(shape.start)
        self._skip(begin if begin >= 0 else len(buffer), readings)
        if buffer:
            self._report("bytes outside any frame", readings)
        if self._request and buffer.startswith(self._request):
            del buffer[: len(self._request)]  # our own request, sent back by the adapter
            return True
        is_ended_by_next = shape.start != _STX
        if len(buffer) < shape.length + is_ended_by_next:
            return False
        frame = bytes(buffer[: shape.length])
        last = buffer[shape.length] if is_ended_by_next else frame[-1]
        if last != (shape.start if is_ended_by_next else _ETX) or frame.count(shape.start) > 1:
            following = frame.find(shape.start, 1)
            self._skip(following if following > 0 else shape.length, readings)
            self._report(f"no end after {shape.length} bytes; see form", readings)
            return True
        del buffer[: shape.length]
        self._say(frame, readings)
        return True

    def _skip(self, count: int, readings: list[Reading]) -> None:
        self._skipped += self._buffer[:count]
        del self._buffer[:count]
        while len(self._skipped) >= MAX_SKIPPED_BYTES:
            self._report("bytes outside any frame; check form, baud and parity", readings)

    def _report(self, detail: str, readings: list[Reading]) -> None:
        """Say what was skipped; the rest of a frame that was running when we came is no fault."""
        run = bytes(self._skipped[:MAX_SKIPPED_BYTES])
        del self._skipped[:MAX_SKIPPED_BYTES]
        is_rest = self._is_joining and len(run) < self._shape.length
        self._is_joining = False
        if run and not is_rest:
            self._refused()
            readings.append(BadFrame.of(Reason.SYNTAX, run, detail))

    def _say(self, frame: bytes, readings: list[Reading]) -> None:
        self._has_answer = True
        self._is_joining = False
        said = _read(frame, self._options)
        if isinstance(said, BadFrame):
            self._refused()
            readings.append(said)
            return
        is_agreed = self._vote.agrees(frame)
        stable = self._is_at_rest(said.value)
        # A load in motion never shows the same figure twice, and is never a weighing result.
        if not self._shape.is_verified and not is_agreed and stable is not False:
            return
        readings.append(_weight(said, stable, self._options, verified=self._shape.is_verified))

    def _is_at_rest(self, value: Decimal | None) -> bool | None:
        if value is None or not self._options.host_stable_frames:
            self._figures.clear()
            return None
        self._figures.append(value)
        spread = max(self._figures) - min(self._figures)
        is_full = len(self._figures) == self._options.host_stable_frames
        return is_full and spread <= Decimal(str(self._options.host_stable_within))


@dataclass(frozen=True, slots=True)
class _Said:
    value: Decimal | None
    mode: Mode
    range: Range


def _xor(data: bytes) -> bytes:
    """Return the XOR of all bytes as two hex digits (Yaohua XK3190-A26 p. 10)."""
    total = 0
    for byte in data:
        total ^= byte
    return f"{total:02X}".encode("ascii")


def _request(options: Options) -> bytes:
    """Return ``02 a c h h 03`` (Yaohua XK3190-A23p p. 22)."""
    called = options.address.encode("ascii") + _COMMANDS[options.ask][0]
    return bytes((_STX,)) + called + _xor(called) + bytes((_ETX,))


def _read(frame: bytes, options: Options) -> _Said | BadFrame:
    """Return what a whole frame says.

    Source: Yaohua XK3190-A26 p. 10-11, A12E p. 13, A23p p. 21-24.
    """
    match options.form:
        case "stx":
            return _checked(frame, frame[1:-3], frame[-3:-1]) or _fixed(frame, 1, "unknown")
        case "command":
            return _answer(frame, options)
        case "a12":
            return _checked(frame, frame[:11], frame[11:13]) or _a12(frame)
        case "wn":
            if not frame.startswith(b"wn") or frame[8:10] != b"kg":
                return BadFrame.of(Reason.SYNTAX, frame, "no wn and kg around the figure")
            return _signed(frame, b"0", frame[2:8])
        case "forward":
            return _signed(frame, frame[1:2], frame[2:])
        case "reversed":
            return _signed(frame, frame[8:], frame[7:0:-1])


def _checked(frame: bytes, covered: bytes, given: bytes) -> BadFrame | None:
    right = _xor(covered)
    if given == right:
        return None
    detail = f"XOR is {given!r}, should be {right!r}"
    return BadFrame.of(Reason.CHECKSUM, frame, detail)


def _answer(frame: bytes, options: Options) -> _Said | BadFrame:
    command, mode = _COMMANDS[options.ask]
    fault = _checked(frame, frame[1:-3], frame[-3:-1])
    if fault is None and frame[1:3] != options.address.encode("ascii") + command:
        detail = f"answers {frame[1:3]!r}, which was not asked"
        fault = BadFrame.of(Reason.UNKNOWN, frame, detail)
    return fault or _fixed(frame, 3, mode)


def _fixed(frame: bytes, at: int, mode: Mode) -> _Said | BadFrame:
    """Read sign, six digits and the number of decimals."""
    sign, digits, decimals = frame[at : at + 1], frame[at + 1 : at + 7], frame[at + 7 : at + 8]
    if _BLANK.fullmatch(digits):
        return _Said(None, mode, "unknown")
    if sign not in b"+-" or not digits.isdigit() or decimals not in (b"0", b"1", b"2", b"3", b"4"):
        return BadFrame.of(Reason.SYNTAX, frame, "no sign, six digits and decimals 0-4")
    number = Decimal(digits.decode("ascii")).scaleb(-int(decimals))
    return _Said(-number if sign == b"-" and number else number, mode, "ok")


def _signed(frame: bytes, sign: bytes, figure: bytes) -> _Said | BadFrame:
    """Read a figure with its own point, behind the sign 0 or -."""
    if _BLANK.fullmatch(figure):
        return _Said(None, "unknown", "unknown")
    if sign not in b"0-" or not _FIGURE.fullmatch(figure):
        return BadFrame.of(Reason.SYNTAX, frame, "no sign 0 or - with a figure; see form")
    number = Decimal(figure.decode("ascii"))
    return _Said(-number if sign == b"-" and number else number, "unknown", "ok")


def _a12(frame: bytes) -> _Said | BadFrame:
    if range_ := _A12_RANGES.get(frame[:11]):
        return _Said(None, "unknown", range_)
    if frame[:2] not in (b"WG", b"WN"):
        return BadFrame.of(Reason.UNKNOWN, frame, f"{frame[:2]!r} is neither WG nor WN")
    if frame[9:11] != b"kg":
        return BadFrame.of(Reason.UNIT, frame, f"unit {frame[9:11]!r} is not kg; change it there")
    figure = _PADDED.fullmatch(frame[2:9])
    if figure is None:
        return BadFrame.of(Reason.SYNTAX, frame, f"{frame[2:9]!r} is no figure")
    number = Decimal(figure[2].decode("ascii"))
    mode: Mode = "gross" if frame[1:2] == b"G" else "net"
    return _Said(-number if figure[1] and number else number, mode, "ok")


def _weight(said: _Said, stable: bool | None, options: Options, *, verified: bool) -> Weight:  # noqa: FBT001 - the answer itself, not a switch
    unit = "kg" if options.form in ("a12", "wn") else options.weight_unit
    return Weight(
        value=None if said.value is None else format(said.value, "f"),
        unit=unit,
        mass_kg=None if said.value is None else mass_kg(said.value, unit),
        mode=said.mode,
        stable=stable,
        range=said.range,
        stable_by=None if stable is None else "host",
        verified=verified,
    )
