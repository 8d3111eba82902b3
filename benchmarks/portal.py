"""A portal on a TCP port of the loopback, whose every line goes out when a benchmark says so."""

from __future__ import annotations

import socket
import time

from rig import now_ns

BACKGROUND = (100, 100, 100, 100)  # counts/s per detector
QUIET = (20, 20, 20, 20)  # counts in 0.2 s
LOUD = (120, 120, 120, 120)
_INTERVALS_BEFORE = 6  # five from before the beam broke, one live


def line(tag: str, counts: tuple[int, ...]) -> bytes:
    """Return one line of the Rapiscan lane protocol."""
    return ",".join((tag, *(f"{count:06d}" for count in counts))).encode("ascii") + b"\r\n"


class Portal:
    """Listens at once; the agent may come at any time."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(15.0)
        self._line: socket.socket | None = None
        self._occupancy = 0
        self.port = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"

    def accept(self) -> None:
        """Wait for the agent."""
        try:
            self._line, _ = self._listener.accept()
        except TimeoutError as exc:
            raise SystemExit("the agent did not connect to the portal within 15 s") from exc
        self._line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, data: bytes) -> None:
        """Send bytes to the agent."""
        assert self._line is not None
        self._line.sendall(data)

    def say_background(self) -> None:
        """Send the neutron and gamma background lines."""
        self.send(line("NB", (0, 0, 0, 0)) + line("GB", BACKGROUND))

    def alarming_occupancy(self, alarm_after_s: float) -> int:
        """Play one occupancy; return when the last byte of its alarming frame was sent [ns].

        The frame without its last byte goes a little earlier, so that its way is no part of what
        is measured.
        """
        self._occupancy += 1
        self.say_background()
        self.send(line("NS", (0, 0, 0, 0)) + line("GS", QUIET) * _INTERVALS_BEFORE)
        time.sleep(alarm_after_s)
        frame = line("GA", LOUD)
        self.send(frame[:-1])
        time.sleep(0.003)
        sent_ns = now_ns()
        self.send(frame[-1:])
        return sent_ns

    def end_occupancy(self) -> None:
        """Send the line that ends it."""
        self.send(line("GX", (self._occupancy, 0, 0, 0)))

    def close(self) -> None:
        """Hang up."""
        if self._line is not None:
            self._line.close()
        self._listener.close()
