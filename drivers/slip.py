"""SLIP: frames of any bytes on a serial line.

::

    C0 frame C0     C0 ends a frame; empty frames between two ends mean nothing
    DB DC           stands for C0 inside a frame
    DB DD           stands for DB inside a frame

Source: RFC 1055.
"""

from __future__ import annotations

from drivers.readings import BadFrame, Reason

END, ESCAPE = 0xC0, 0xDB
_MEANINGS = {0xDC: END, 0xDD: ESCAPE}


def slipped(frame: bytes) -> bytes:
    """Return a frame as it goes over the line, with an end on both sides."""
    inside = frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + inside + b"\xc0"


class Unslip:
    """Bytes in, frames out; holds at most ``limit`` bytes of an unfinished frame."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._frame = bytearray()
        self._is_escaped = False
        self._spoilt: BadFrame | None = None

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished frame are held."""
        return len(self._frame)

    def clear(self) -> bytes:
        """Drop the unfinished frame and return it."""
        half = bytes(self._frame)
        self._frame.clear()
        self._is_escaped = False
        self._spoilt = None
        return half

    def feed(self, data: bytes) -> list[bytes | BadFrame]:
        """Return the frames that the bytes end, un-escaped; one that cannot be, as a refusal."""
        found: list[bytes | BadFrame] = []
        *ended, rest = data.split(b"\xc0")
        for piece in ended:
            self._extend(piece)
            self._end(found)
        self._extend(rest)
        return found

    def _extend(self, piece: bytes) -> None:
        if self._spoilt is not None or not piece:
            return
        if self._is_escaped:
            piece = b"\xdb" + piece
            self._is_escaped = False
        first, *escaped = piece.split(b"\xdb")
        self._add(first)
        for number, part in enumerate(escaped, 1):
            if self._spoilt is not None:
                return
            if not part and number == len(escaped):
                self._is_escaped = True
            elif not part or part[0] not in _MEANINGS:
                self._spoil(Reason.SYNTAX, "an escape that SLIP does not know")
            else:
                self._add(bytes((_MEANINGS[part[0]],)) + part[1:])

    def _add(self, part: bytes) -> None:
        self._frame += part
        if len(self._frame) > self._limit:
            self._spoil(Reason.FLOOD, f"no end of a frame in {self._limit} bytes")

    def _spoil(self, reason: Reason, detail: str) -> None:
        self._spoilt = BadFrame.of(reason, bytes(self._frame[:256]), detail)
        self._frame.clear()

    def _end(self, found: list[bytes | BadFrame]) -> None:
        spoilt, was_escaped = self._spoilt, self._is_escaped
        frame = self.clear()
        if spoilt is not None:
            found.append(spoilt)
        elif was_escaped:
            found.append(BadFrame.of(Reason.SYNTAX, frame, "an escape at the end of a frame"))
        elif frame:
            found.append(frame)
