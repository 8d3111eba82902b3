"""Lines of a serial stream: whole lines out, however the bytes arrive.

A line ends in LF. One that grows too long is refused once, and shed up to its end.
"""

from __future__ import annotations

from drivers.readings import BadFrame, Reason


class Lines:
    """Bytes in, lines out, each with its LF; holds at most ``limit`` bytes of a running line."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._running = bytearray()
        self._is_shedding = False

    @property
    def buffered(self) -> int:
        """How many bytes of a running line are held."""
        return len(self._running)

    def clear(self) -> bytes:
        """Drop the running line and return it."""
        half = bytes(self._running)
        self._running.clear()
        self._is_shedding = False
        return half

    def feed(self, data: bytes) -> list[bytes | BadFrame]:
        """Return the lines that the bytes end, and a refusal of one that grew too long."""
        found: list[bytes | BadFrame] = []
        *ended, rest = data.split(b"\n")
        for piece in ended:
            self._extend(piece, found)
            is_whole = not self._is_shedding
            line = self.clear() + b"\n"
            if is_whole:
                found.append(line)
        self._extend(rest, found)
        return found

    def _extend(self, piece: bytes, found: list[bytes | BadFrame]) -> None:
        if self._is_shedding:
            return
        self._running += piece
        if len(self._running) > self._limit:
            raw = bytes(self._running[: self._limit])
            self._running.clear()
            self._is_shedding = True
            detail = f"no line end in {self._limit} bytes; check the baud rate"
            found.append(BadFrame.of(Reason.FLOOD, raw, detail))
