"""A device that calls us: one listening socket, and whoever called last.

``listen://address:port``, an address of this machine in figures. The socket listens while its
owner lives, also between two calls, so that a device that calls again is never refused for being
early. One call at a time, and **the newest wins**: a device that lost its power calls again while
the kernel still holds its old call for alive, and would else have to wait until that is noticed.
Only callers from the listed networks are taken; others are closed at once and counted. Linux only:
a call inherits the listening socket's options (tcp(7)).
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address

from drivers.transport import LinkError, Pipe, keep_alive, listen_address

BACKLOG = 8
MOST_CALLS_AT_ONCE = 16
"""So many calls are taken in one turn of the loop; a flood of them does not hold up the others."""
MOST_TOLD = 32
"""So many refused addresses are named in the log; all are counted."""
RECEIVE_BUFFER_BYTES = 16384

log = logging.getLogger(__name__)

Network = IPv4Network | IPv6Network


class Listener:
    """Listens on one port and hands out the newest call as a pipe.

    Parameters
    ----------
    port : ``listen://address:port``; port 0 takes a free one, see ``number``.
    callers : the networks that may call.
    """

    def __init__(self, port: str, callers: Sequence[Network]) -> None:
        address = listen_address(port)
        if address is None:
            raise ValueError(f"{port}: expected listen://address:port")
        self.port = port
        self.refused = 0
        """Callers that were closed at once, being from elsewhere."""
        self._address = address
        self._callers = tuple(callers)
        self._listening: socket.socket | None = None
        self._waiting: socket.socket | None = None
        self._pipe: Pipe | None = None
        self._called = asyncio.Event()
        self._told: set[str] = set()

    @property
    def number(self) -> int:
        """Return the number of the port it listens on; 0: it does not."""
        return 0 if self._listening is None else int(self._listening.getsockname()[1])

    def open(self) -> None:
        """Begin to listen, where it does not; raises LinkError where it cannot."""
        if self._listening is not None:
            return
        host, number = self._address
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            opened.bind((host, number))
            opened.listen(BACKLOG)
        except OSError as exc:
            opened.close()
            seen = os.strerror(exc.errno or 0).lower()
            raise LinkError(
                f"listening on {self.port} failed: {seen}; expected an address of this machine and "
                "a port that nothing else uses"
            ) from exc
        self._listening = opened
        asyncio.get_running_loop().add_reader(opened.fileno(), self._accept)

    async def pipe(self, timeout_s: float) -> Pipe:
        """Return the newest call; wait where none came.

        Raises
        ------
        LinkError
            If it cannot listen, or nobody called in time.
        """
        self.open()
        try:
            async with asyncio.timeout(timeout_s):
                await self._called.wait()
        except TimeoutError as exc:
            raise LinkError(
                f"nobody has called on {self.port}; check the device's power and network and the "
                "address it is set to call"
            ) from exc
        self._called.clear()
        taken, self._waiting = self._waiting, None
        assert taken is not None
        self._pipe = Pipe(self.port, taken.fileno(), taken.close)
        return self._pipe

    def close(self) -> None:
        """Stop listening and let go of whoever waits; may be called twice."""
        if self._listening is not None:
            asyncio.get_running_loop().remove_reader(self._listening.fileno())
            self._listening.close()
            self._listening = None
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None
        self._called.clear()

    def _accept(self) -> None:
        assert self._listening is not None
        for _ in range(MOST_CALLS_AT_ONCE):
            try:
                opened, peer = self._listening.accept()
            except OSError:  # none left, or gone before it was taken
                return
            self._admit(opened, str(peer[0]).partition("%")[0])

    def _admit(self, opened: socket.socket, peer: str) -> None:
        if not any(ip_address(peer) in network for network in self._callers):
            opened.close()
            self.refused += 1
            if peer not in self._told and len(self._told) < MOST_TOLD:
                self._told.add(peer)
                log.warning("port=%s caller=%s refused=not in listen_callers", self.port, peer)
            return
        try:
            opened.settimeout(0)
            keep_alive(opened)
        except OSError:  # gone already
            opened.close()
            return
        if self._waiting is not None:
            self._waiting.close()
        self._waiting = opened
        self._called.set()
        if self._pipe is not None:
            self._pipe.close(f"was called anew from {peer}, which ended the call before")
            self._pipe = None
