"""What the scale drivers of text lines share: a line ended CR LF answers, or comes by itself.

Wire: ``line CR LF``. A two-wire adapter may send our own request back before the answer. What a
line means is the driver's own: it gives a function from one whole line to a weight or a refusal.

Source: none of its own; each driver names its maker's document.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from drivers.lines import Lines
from drivers.readings import BadFrame, Reading, Reason, Weight
from drivers.weighing import Weighing

MAX_LINE_BYTES = 80

NeededLines = Annotated[
    int,
    Meta(
        description="equal lines in a row that make a reading, as no line has a checksum "
        "[lines]; 1: no vote. Moving values are passed on at once",
        ge=1,
        le=10,
    ),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking:
    """How a device is asked for a line.

    ``request`` empty: it sends by itself. ``unanswered`` is what is said where no answer comes.
    ``passed_over``: what says nothing where it begins a line, as our own request sent back.
    """

    request: bytes
    unanswered: str
    passed_over: tuple[bytes, ...] = ()
    poll_interval_s: float = 0.5
    equal_frames: int = 2


class LineDriver(Weighing):
    """Lines in, weights out; keeps the running line and asks one thing at a time.

    Parameters
    ----------
    read : what one whole line says; it ends CR LF and is ASCII
    """

    def __init__(self, asking: Asking, read: Callable[[bytes], Weight | BadFrame]) -> None:
        super().__init__(
            request=asking.request,
            poll_interval_s=asking.poll_interval_s,
            equal_frames=asking.equal_frames,
        )
        self._asking = asking
        self._read = read
        self._lines = Lines(MAX_LINE_BYTES)

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered."""
        return self._unanswered(self._asking.unanswered)

    def silence(self) -> list[Reading]:
        """Drop a half line and say so."""
        half = self._lines.clear()
        self._begin_anew()
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
        for words in self._asking.passed_over:
            line = line.removeprefix(words)
        if not line:
            return
        self._has_answer = True
        said = self._understood(line)
        if isinstance(said, BadFrame):
            self._refuse(said, readings)
        else:
            self._weighed(said, line, readings)
        self._is_joining = False

    def _understood(self, line: bytes) -> Weight | BadFrame:
        if not line.endswith(b"\r\n") or not line.isascii():
            detail = "the line ends LF without CR, or has bytes above 0x7F; check the parity"
            return BadFrame.of(Reason.SYNTAX, line, detail)
        return self._read(line)
