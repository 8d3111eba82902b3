"""The portal on TCP: it is the server, it only talks, and it serves one client at a time."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Sequence

from simulators.clock import SceneClock
from simulators.rpm import Portal

# A client that does not read is let go here: the portal never waits for anyone.
_MOST_UNREAD_BYTES = 1 << 20
# Shorter waits only burn the processor when a scene plays many times faster than life.
_SHORTEST_WAIT_S = 0.002


class PortalServer:
    """Pushes the portal's lines to whoever is connected; what nobody hears is lost.

    A second client is closed at once. While unplugged the connection is cut and new ones are
    refused on the same port; the portal itself goes on counting.
    """

    def __init__(self, portal: Portal, *, unplugs: Sequence[tuple[float, float]] = ()) -> None:
        self._portal = portal
        self._unplugs = tuple(unplugs)
        self._server: asyncio.Server | None = None
        self._reserved: socket.socket | None = None  # keeps the port while unplugged
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None
        self._clients: set[asyncio.Task[None]] = set()
        self._port = 0

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on a free port of this machine and return ``tcp://127.0.0.1:N``."""
        self._reserve(0)
        await self._plug_in()
        self._task = asyncio.create_task(self._play(clock), name="simulated portal")
        return f"tcp://127.0.0.1:{self._port}"

    async def close(self) -> None:
        """Stop talking and listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            self._task = None
        await self._unplug(keep_port=False)

    @property
    def is_plugged(self) -> bool:
        """Whether the portal takes connections now."""
        return self._server is not None

    def _reserve(self, port: int) -> None:
        """Bind without listening: nobody else gets the port, and clients are refused."""
        self._reserved = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._reserved.bind(("127.0.0.1", port))
        self._reserved.settimeout(0)
        self._port = self._reserved.getsockname()[1]

    async def _plug_in(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._reserved)
        self._reserved = None  # the server owns it now

    async def _unplug(self, *, keep_port: bool) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None
        if self._reserved is not None:
            self._reserved.close()
            self._reserved = None
        await asyncio.gather(*self._clients)
        if keep_port:
            self._reserve(self._port)

    async def _play(self, clock: SceneClock) -> None:
        while True:
            now_s = clock.now_s()
            should_be_out = any(out <= now_s < back for out, back in self._unplugs)
            if should_be_out and self.is_plugged:
                await self._unplug(keep_port=True)
            elif not should_be_out and not self.is_plugged:
                await self._plug_in()
            self._push([text for _, text in self._portal.advance(now_s)])
            wait_s = _SHORTEST_WAIT_S * clock.time_scale
            await clock.sleep_until(max(self._portal.wake_s, now_s + wait_s))

    def _push(self, texts: list[bytes]) -> None:
        writer = self._writer
        if writer is None or not texts:
            return
        if writer.transport.get_write_buffer_size() > _MOST_UNREAD_BYTES:
            writer.transport.abort()
            return
        writer.write(b"".join(texts))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._writer is not None or not self.is_plugged:
            writer.transport.abort()
            return
        self._writer = writer
        task = asyncio.current_task()
        assert task is not None
        self._clients.add(task)
        try:
            with contextlib.suppress(OSError):  # the client is gone
                while await reader.read(1024):
                    pass  # whatever a client writes is ignored
        finally:
            writer.close()
            self._clients.discard(task)
            if self._writer is writer:
                self._writer = None
