"""Where a simulated instrument is reached: a pseudo-terminal or a TCP port on the loopback.

An instrument says what it does with one client as a `Talk`; a port makes one per client. A
pseudo-terminal has a single client, which may come and go unseen.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import termios
import tty
from collections.abc import Callable
from typing import Protocol, cast

Send = Callable[[bytes], None]

# A UART keeps no more than its driver's buffer: what nobody reads is lost, not stored for later.
_UNREAD_MAX = 2048
_TCP_UNSENT_MAX = 1 << 16


class Talk(Protocol):
    """One conversation with one client."""

    def received(self, data: bytes) -> None:
        """Take bytes from the client."""

    def closed(self) -> None:
        """Take note that the client is gone, or the port shuts."""


class PtyPort:
    """The instrument's end of a pseudo-terminal; a client opens `path` like a serial port."""

    def __init__(self, start: Callable[[Send], Talk]) -> None:
        self._master, self._slave = os.openpty()
        # Held open here too: else the kernel reports an error until the first client comes.
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self.is_open = True
        self._talk = start(self.send)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._master, self._read)

    def send(self, data: bytes) -> None:
        """Write to the client; what overruns an unread line is lost, oldest first."""
        if not self.is_open:
            return
        unread = struct.unpack("i", fcntl.ioctl(self._slave, termios.FIONREAD, b"\0" * 4))[0]
        if unread > _UNREAD_MAX:
            termios.tcflush(self._slave, termios.TCIFLUSH)
        with contextlib.suppress(BlockingIOError):
            os.write(self._master, data)

    def close(self) -> None:
        """Close both ends: a client sees its serial port hang up."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._master)
            os.close(self._master)
            os.close(self._slave)
            self._talk.closed()

    def _read(self) -> None:
        try:
            data = os.read(self._master, 4096)
        except (BlockingIOError, InterruptedError):
            return
        self._talk.received(data)


class TcpPort:
    """A listener on 127.0.0.1 with any number of clients."""

    def __init__(self, start: Callable[[Send], Talk]) -> None:
        self._start = start
        self._server: asyncio.Server | None = None
        self.clients: set[asyncio.Transport] = set()
        self.port = 0

    async def open(self, port: int = 0) -> int:
        """Listen and return the port number; 0 lets the system choose."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _TcpTalk(self._start, self.clients), "127.0.0.1", port
        )
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def close(self) -> None:
        """Stop listening and cut every client off."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for transport in list(self.clients):
            transport.abort()
        await server.wait_closed()
        await asyncio.sleep(0)  # connection_lost comes on the loop's next turn


class _TcpTalk(asyncio.Protocol):
    def __init__(self, start: Callable[[Send], Talk], clients: set[asyncio.Transport]) -> None:
        self._start = start
        self._clients = clients

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._clients.add(self._transport)
        self._talk = self._start(self._send)

    def data_received(self, data: bytes) -> None:
        self._talk.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._clients.discard(self._transport)
        self._talk.closed()

    def _send(self, data: bytes) -> None:
        is_slow = self._transport.get_write_buffer_size() > _TCP_UNSENT_MAX
        if not is_slow and not self._transport.is_closing():
            self._transport.write(data)
