"""Frames cut out of a stream at their end: half ones, floods, echoes and what stands between.

For lines that the lane's file describes, see ``drivers.text_lines``. What a frame says is no matter
here: whoever cuts hands it on.
"""

from __future__ import annotations

from collections.abc import Iterator

from drivers.readings import BadFrame, Reason

SLICE_BYTES = 256
"""More than this of one read is not kept beside the running frame."""


class LineCutter:
    """Keeps at most one frame.

    Parameters
    ----------
    start : opens a frame; empty: nothing does
    end : closes a frame
    max_length : a frame without end is refused after so much [bytes]
    seven_bits : bit 7 of each byte is parity and taken off
    is_joining : what comes first may be the rest of a frame, and is passed over to its end
    request : what is sent to ask for a frame; empty: nothing is
    """

    def __init__(
        self,
        *,
        start: bytes,
        end: bytes,
        max_length: int,
        seven_bits: bool,
        is_joining: bool,
        request: bytes = b"",
    ) -> None:
        self._start = start
        self._end = end
        self._longest = max_length
        self._seven_bits = seven_bits
        self._joins = is_joining
        self._request = request
        self._has_control = any(value < 0x20 for value in request)
        self.buffer = bytearray()
        """What is not cut yet; a driver that cuts by length takes from here itself."""
        self.has_answer = False
        """Something came since the last request."""
        self.reset()

    def reset(self, *, is_joining: bool | None = None) -> bytes:
        """Begin anew and return the half frame that is dropped."""
        half = bytes(self.buffer)
        self.buffer.clear()
        self._is_shedding = False
        self._is_joining = self._joins if is_joining is None else is_joining
        self._has_asked = self.has_answer = False
        return half

    def ask(self) -> bytes:
        """Return the request; what came before the second one since opening is passed over."""
        if self._request:
            self._is_joining = self._is_joining and not self._has_asked
            self._has_asked = True
            self.has_answer = False
        return self._request

    def put(self, data: bytes) -> Iterator[None]:
        """Take bytes into the buffer, a bounded piece at a time; cut after each."""
        for at in range(0, len(data), SLICE_BYTES):
            piece = data[at : at + SLICE_BYTES]
            self.buffer += bytes(b & 0x7F for b in piece) if self._seven_bits else piece
            yield

    def cut(self, data: bytes) -> Iterator[bytes | BadFrame]:
        """Yield each frame from its start to its end, and what is refused, as they came."""
        for _ in self.put(data):
            while (line := self._next()) is not None:
                yield from self._frames(line)

    def _next(self) -> bytes | BadFrame | None:
        """Return what the end closes, empty where it is passed over; None: not whole yet."""
        end, buffer = self._end, self.buffer
        if self._is_shedding:
            at = buffer.find(end)
            self._is_shedding = at < 0
            del buffer[: max(0, len(buffer) - len(end) + 1) if at < 0 else at + len(end)]
            return None if at < 0 else b""
        at = buffer.find(end, 0, self._longest)
        if at < 0 and len(buffer) < self._longest:
            return None
        stop = self._longest if at < 0 else at + len(end)
        line = bytes(buffer[:stop])
        del buffer[:stop]
        if at >= 0:
            return line
        self._is_shedding = True
        detail = f"no end in {stop} bytes; check the baud rate and end"
        return BadFrame.of(Reason.FLOOD, line, detail)

    def _frames(self, line: bytes | BadFrame) -> Iterator[bytes | BadFrame]:
        if isinstance(line, BadFrame):
            self.has_answer = True
            yield line
            return
        if self._has_control and line.startswith(self._request):
            line = line[len(self._request) :]  # our own request, sent back by the adapter
        if not line.removesuffix(self._end):
            if line:  # it ends what was to be passed over all the same
                self._is_joining = self._is_joining and bool(self._request)
            return
        self.has_answer = True
        if self._is_joining:
            self._is_joining = bool(self._request)  # asked: until the second request
            return
        begin = line.rfind(self._start) if self._start else 0
        if begin:
            lost = line if begin < 0 else line[:begin]
            yield BadFrame.of(Reason.SYNTAX, lost, "bytes outside any frame")
        if begin >= 0:
            yield line[begin:]


def truncated(half: bytes) -> list[BadFrame]:
    """Return what to say of a half frame when the line fell silent; empty where there is none."""
    if not half:
        return []
    return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a frame")]


def unanswered(request: str) -> BadFrame:
    """Return what to say where a request, as the lane's file writes it, had no answer."""
    detail = f"no answer to {request} in time; check cable, baud and power"
    return BadFrame.of(Reason.NO_REPLY, b"", detail)
