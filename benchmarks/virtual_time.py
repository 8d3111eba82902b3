"""An event loop whose time jumps to the next timer, and ports of simulators that live in memory.

With nothing between agent and instrument but memory, nothing waits for the world: an hour passes
in the time that it takes to compute. ``patched`` puts these ports in the place of sockets and
pseudo-terminals on both sides; drivers, links, Modbus lines and simulators stay what they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import selectors
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from unittest import mock

from drivers.base import LineParameters
from drivers.transport import LinkError
from simulators.ports import Send, Talk

UNREAD_MAX = 1 << 16

Start = Callable[[Send], Talk]


class _JumpingSelector(selectors.DefaultSelector):
    """Never waits: where nothing is ready, time moves on."""

    jump: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            if timeout is None:
                raise RuntimeError("every task waits, and no timer is left")
            self.jump(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its ``time`` begins at 0 and goes from timer to timer."""

    def __init__(self) -> None:
        self._now_s = 0.0
        selector = _JumpingSelector()
        selector.jump = self._jump
        super().__init__(selector)

    def time(self) -> float:
        """Return the virtual time [s]."""
        return self._now_s

    def _jump(self, delay_s: float) -> None:
        self._now_s += max(delay_s, 0.0)


class MemoryPipe:
    """A client's end, with the words of ``drivers.transport.Pipe``."""

    def __init__(self, port: str, start: Start | Talk) -> None:
        self.port = port
        self._received = b""
        self._is_open = True
        self._news = asyncio.Event()
        self._owns_talk = not hasattr(start, "received")
        self._talk: Talk = start(self.deliver) if callable(start) else start

    def deliver(self, data: bytes) -> None:
        """Take bytes from the instrument; what overruns the buffer is lost, oldest first."""
        self._received = (self._received + data)[-UNREAD_MAX:]
        self._news.set()

    async def read(self) -> bytes:
        """Return what has come; wait where nothing has."""
        while not self._received:
            if not self._is_open:
                raise LinkError(f"{self.port} was closed by this agent")
            self._news.clear()
            await self._news.wait()
        return self.drain()

    def drain(self) -> bytes:
        """Return what has come, perhaps nothing."""
        received, self._received = self._received, b""
        return received

    async def write(self, data: bytes) -> None:
        """Give bytes to the instrument."""
        asyncio.get_running_loop().call_soon(self._talk.received, data)

    def close(self) -> None:
        """End the conversation; may be called twice."""
        if self._is_open and self._owns_talk:
            self._talk.closed()
        self._is_open = False
        self._news.set()


class Memory:
    """All ports there are, by the name that a client opens."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)
        self._ports: dict[str, Callable[[], MemoryPipe]] = {}

    async def open_pipe(self, port: str, _: LineParameters, *, timeout_s: float) -> MemoryPipe:
        """Open a port as ``drivers.transport.open_pipe`` does."""
        del timeout_s
        if port not in self._ports:
            raise LinkError(f"opening {port} failed: there is no such port")
        return self._ports[port]()

    def add(self, form: str, connect: Callable[[str], MemoryPipe]) -> str:
        """Give a port its name."""
        name = form.format(next(self._numbers))
        self._ports[name] = lambda: connect(name)
        return name


class MemoryTcp:
    """A listener: a conversation for each client."""

    memory: Memory

    def __init__(self, start: Start) -> None:
        self._start = start

    async def open(self, port: int = 0) -> int:
        """Listen and return the port number."""
        assert port == 0
        name = self.memory.add("tcp://127.0.0.1:{}", lambda name: MemoryPipe(name, self._start))
        return int(name.rpartition(":")[2])

    async def close(self) -> None:
        """Nothing is to be closed."""


class MemoryPty:
    """A serial line: one conversation, whoever has it open."""

    memory: Memory

    def __init__(self, start: Start) -> None:
        self._client: MemoryPipe | None = None
        self._talk = start(self.send)
        self.path = self.memory.add("/dev/memory-{}", self._connect)

    def _connect(self, name: str) -> MemoryPipe:
        self._client = MemoryPipe(name, self._talk)
        return self._client

    def send(self, data: bytes) -> None:
        """Give bytes to whoever has it open."""
        if self._client is not None:
            self._client.deliver(data)

    def close(self) -> None:
        """End the conversation."""
        self._talk.closed()


@contextlib.contextmanager
def patched() -> Iterator[None]:
    """Let both sides open ports in memory while this lasts."""
    memory = Memory()
    tcp = type("Tcp", (MemoryTcp,), {"memory": memory})
    pty = type("Pty", (MemoryPty,), {"memory": memory})
    places: Mapping[str, Any] = {
        "simulators.modbus_server.TcpPort": tcp,
        "simulators.modbus_server.PtyPort": pty,
        "simulators.weighbridge.TcpPort": tcp,
        "simulators.weighbridge.PtyPort": pty,
        "agent.daemon.link.open_pipe": memory.open_pipe,
        "drivers.modbus.open_pipe": memory.open_pipe,
        "soak_site.TcpPort": tcp,
    }
    with contextlib.ExitStack() as stack:
        for place, stand_in in places.items():
            stack.enter_context(mock.patch(place, stand_in))
        yield
