"""What the scale drivers share: frames cut at their end, a request that is paired, a vote.

Wire: ``[bytes between] [start] body end``. A frame is cut at ``end``; where the protocol has a
start it begins at the last one before it, and what stood earlier is refused. What a body means is
the driver's own: it gives a function from one whole frame to a weight or a refusal.

Source: none of its own; each driver names its maker's document.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, mass_kg
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight

MAX_FRAME_BYTES = 80
FEED_SLICE_BYTES = 512

NeededFrames = Annotated[
    int,
    Meta(
        description="equal frames in a row that make a reading, as none has a checksum [frames]; "
        "1: no vote. Moving values are passed on at once",
        ge=1,
        le=10,
    ),
]
PollIntervalS = Annotated[float, Meta(description="how often to ask [s]", ge=0.05, le=60)]

_FIGURES = {
    mark: re.compile(rb" *([-+]?) *([0-9]+(?:%b[0-9]*)?|%b[0-9]+)" % (escaped, escaped))
    for mark, escaped in ((".", rb"\."), (",", b","))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How frames look from outside.

    ``request`` empty: the device just talks. ``between`` are bytes that may stand before a frame
    and mean nothing, as the rest of an end does where the line was opened inside it. ``is_text``
    false: a frame may hold bytes above 0x7F. ``skips_first``: the rest of a frame could pass for
    a whole one, so the first that is heard is not looked at.
    """

    end: bytes
    start: bytes = b""
    between: bytes = b""
    request: bytes = b""
    is_text: bool = True
    skips_first: bool = False
    poll_interval_s: float = 0.5
    equal_frames: int = 2


class Weighing:
    """What drivers of frames and of lines share: the request, the vote, and what is refused.

    Parameters
    ----------
    request : what asks for a weight; empty: the device just talks
    """

    def __init__(self, *, request: bytes, poll_interval_s: float, equal_frames: int) -> None:
        self._request = request
        self._poll_interval_s = poll_interval_s
        self._vote = EqualFrames(equal_frames)
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._is_joining = True
        self._has_answer = False
        self._vote.forget()

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return self._poll_interval_s if self._request else None

    def poll(self) -> bytes:
        """Return the request; nothing where the device sends by itself."""
        self._has_answer = False
        return self._request

    def _unanswered(self, detail: str) -> list[Reading]:
        """Return that the request went unanswered; empty: it was answered, or nothing was asked."""
        if self._has_answer or not self._request:
            return []
        self._vote.forget()
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def _weighed(self, said: Weight, frame: bytes, readings: list[Reading]) -> None:
        if said.stable is False and said.range == "ok":
            # A load in motion never shows the same figure twice, and is never a weighing result.
            self._vote.forget()
            readings.append(said)
        elif self._vote.agrees(frame):
            readings.append(said)

    def _refuse(self, bad: BadFrame, readings: list[Reading]) -> None:
        self._vote.forget()
        # The first bytes heard may be the rest of a frame that was running.
        if not (self._is_joining and bad.reason in (Reason.SYNTAX, Reason.LENGTH)):
            readings.append(bad)


class FramedDriver(Weighing):
    """Frames in, weights out; keeps the running frame and asks one thing at a time.

    Parameters
    ----------
    read : what one whole frame says, from its start to its end
    """

    def __init__(self, wire: Wire, read: Callable[[bytes], Weight | BadFrame]) -> None:
        super().__init__(
            request=wire.request,
            poll_interval_s=wire.poll_interval_s,
            equal_frames=wire.equal_frames,
        )
        self._wire = wire
        self._read = read
        self._buffer = bytearray()
        self._is_shedding = False
        self._is_asked = False

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer)

    def poll(self) -> bytes:
        """Return the request; nothing where the device sends by itself."""
        self._is_asked = True
        return super().poll()

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered; an answer that comes now is late, and refused."""
        self._is_asked = False
        return self._unanswered(
            f"no answer to {self._request!r} in time; check cable, baud and power"
        )

    def silence(self) -> list[Reading]:
        """Drop a half frame and say so."""
        half = bytes(self._buffer).lstrip(self._wire.between)
        self._buffer.clear()
        self._is_shedding = self._is_asked = False
        self._begin_anew()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a frame")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for at in range(0, len(data), FEED_SLICE_BYTES):
            self._buffer += data[at : at + FEED_SLICE_BYTES]
            while self._cut(readings):
                pass
        return readings

    def _cut(self, readings: list[Reading]) -> bool:
        """Consume one frame or what is none; false: more bytes are needed."""
        buffer, end = self._buffer, self._wire.end
        if self._is_shedding:
            at = buffer.find(end)
            self._is_shedding = at < 0
            # The last bytes may be half an end.
            del buffer[: max(0, len(buffer) - len(end) + 1) if at < 0 else at + len(end)]
            return at >= 0
        at = buffer.find(end, 0, MAX_FRAME_BYTES)
        if at < 0 and len(buffer) < MAX_FRAME_BYTES:
            return False
        stop = MAX_FRAME_BYTES if at < 0 else at + len(end)
        frame = bytes(buffer[:stop])
        del buffer[:stop]
        if at >= 0:
            self._end(frame, readings)
            return True
        self._is_shedding = True
        self._is_joining = False
        detail = f"no end in {stop} bytes; check baud rate and parity"
        self._refuse(BadFrame.of(Reason.FLOOD, frame, detail), readings)
        return True

    def _end(self, frame: bytes, readings: list[Reading]) -> None:
        wire = self._wire
        frame = frame.lstrip(wire.between)
        # A two-wire adapter sends our own requests back, also those that went unanswered.
        while wire.request and frame.startswith(wire.request):
            frame = frame[len(wire.request) :]
        if not frame.removesuffix(wire.end):
            return
        if wire.skips_first and self._is_joining:
            self._is_joining = False
            return
        begin = frame.rfind(wire.start) if wire.start else 0
        if begin:
            lost = frame if begin < 0 else frame[:begin]
            self._refuse(BadFrame.of(Reason.SYNTAX, lost, "bytes outside any frame"), readings)
        if begin >= 0:
            self._say(frame[begin:], readings)
        self._is_joining = False

    def _say(self, frame: bytes, readings: list[Reading]) -> None:
        self._has_answer = True
        said = self._understood(frame)
        if isinstance(said, BadFrame):
            self._refuse(said, readings)
        else:
            self._weighed(said, frame, readings)

    def _understood(self, frame: bytes) -> Weight | BadFrame:
        if self._wire.is_text and not frame.isascii():
            detail = "bytes above 0x7F; check data bits and parity"
            return BadFrame.of(Reason.SYNTAX, frame, detail)
        said = self._read(frame)
        if isinstance(said, BadFrame) or not self._wire.request:
            return said
        if not self._is_asked:
            detail = "a weight nobody asked for: a late reply, or the scale sends by itself"
            return BadFrame.of(Reason.UNKNOWN, frame, detail)
        self._is_asked = False
        return said


def figure(field: bytes, mark: str = ".") -> Decimal | None:
    """Return a right-aligned figure with its sign and decimal mark; None: it is none."""
    found = _FIGURES[mark].fullmatch(field)
    if found is None:
        return None
    return signed(
        Decimal(found[2].decode("ascii").replace(mark, ".")), is_negative=found[1] == b"-"
    )


def signed(number: Decimal, *, is_negative: bool) -> Decimal:
    """Return a magnitude with its sign; zero has none."""
    return -number if is_negative and number else number


def known_unit(field: bytes) -> str | None:
    """Return the unit of a padded field; None: it has no mass that we know."""
    text = field.strip().decode("ascii", "replace")
    return text if text in KG_PER_UNIT else None


def refused_unit(frame: bytes, unit: bytes | str, owner: str = "scale") -> BadFrame:
    """Return the refusal of a unit that is none of ours; ``owner`` is what shows it."""
    seen = unit.strip() if isinstance(unit, bytes) else unit
    detail = f"unit {seen!r} is none of {', '.join(KG_PER_UNIT)}; change the {owner}'s unit"
    return BadFrame.of(Reason.UNIT, frame, detail)


def refused_length(frame: bytes, expected: int, option: str) -> BadFrame:
    """Return the refusal of a frame of another length, which ``option`` sets."""
    detail = f"{len(frame)} bytes where {option} says {expected}; see {option}"
    return BadFrame.of(Reason.LENGTH, frame, detail)


def refused_figure(frame: bytes, field: bytes) -> BadFrame:
    """Return the refusal of a field that should hold a figure."""
    return BadFrame.of(Reason.SYNTAX, frame, f"{field!r} is no figure")


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """What stands beside a figure; ``unit`` None where the frame has none."""

    unit: str | None
    mode: Mode = "unknown"
    stable: bool | None = None
    high_resolution: bool = False
    notes: tuple[str, ...] = ()


def weight(number: Decimal, legend: Legend) -> Weight:
    """Return a weight that may be shown."""
    unit = legend.unit
    return Weight(
        value=format(number, "f"),
        unit=unit,
        mass_kg=None if unit is None else mass_kg(number, unit),
        mode=legend.mode,
        stable=legend.stable,
        range="ok",
        stable_by=None if legend.stable is None else "device",
        high_resolution=legend.high_resolution,
        notes=legend.notes,
    )


def no_weight(range_: Range, legend: Legend) -> Weight:
    """Return that there is no weight, and why; a blank display is not zero."""
    return Weight(
        value=None,
        unit=legend.unit,
        mass_kg=None,
        mode=legend.mode,
        stable=legend.stable,
        range=range_,
        stable_by=None if legend.stable is None else "device",
        high_resolution=legend.high_resolution,
        notes=legend.notes,
    )
