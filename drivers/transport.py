"""A port's name turned into an asynchronous byte pipe; it knows no device.

``/dev/…`` is a serial line (or a pseudo-terminal), ``tcp://host:port`` a device server,
``listen://address:port`` a device that calls us (``drivers.listener``). All end in one descriptor
that the event loop watches. What can block in the kernel or in a resolver, opening a line and
looking up a name, runs in a thread of its own that nobody has to wait for.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import termios
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from ipaddress import ip_address
from typing import Any, TypeVar
from urllib.parse import urlsplit

import serial

from drivers.base import LineParameters

BUFFER_BYTES = 16384
"""Beyond this the descriptor is left alone: TCP then holds the peer back, a line drops."""

KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES = 10, 5, 3
"""A peer that vanished without a word is noticed after 10 + 3 × 5 s."""

_CHUNK_BYTES = 4096
_T = TypeVar("_T")


class LinkError(OSError):
    """The world failed: one sentence that names port, action and what was seen."""


def tcp_address(port: str) -> tuple[str, int] | None:
    """Return host and port number of ``tcp://host:port``, or None for a serial line.

    Raises
    ------
    ValueError
        If it is neither ``/dev/…`` (any absolute path) nor a whole ``tcp://host:port``.
    """
    if port.startswith("/"):
        return None
    try:
        parts = urlsplit(port)
        number = parts.port
    except ValueError as exc:
        raise ValueError(f"{port}: expected tcp://host:port, but {exc}") from exc
    if parts.scheme != "tcp" or not parts.hostname or not number or parts.path:
        raise ValueError(f"{port}: expected /dev/… or tcp://host:port")
    return parts.hostname, number


def listen_address(port: str) -> tuple[str, int] | None:
    """Return address and port number of ``listen://address:port``, or None for another port.

    Raises
    ------
    ValueError
        If it begins so and is not whole, or its address is a name.
    """
    if not port.startswith("listen://"):
        return None
    form = f"{port}: expected listen://address:port, an address of this machine in figures"
    try:
        parts = urlsplit(port)
        number = parts.port
        host = str(ip_address(parts.hostname or ""))
    except ValueError as exc:
        raise ValueError(form) from exc
    if number is None or parts.path or parts.username is not None or parts.query:
        raise ValueError(form)
    return host, number


class Pipe:
    """Bytes in and out of one descriptor; one reader and one writer at a time.

    Everything it received is handed out before an error is raised. Not thread-safe.
    """

    def __init__(self, port: str, descriptor: int, release: Callable[[], None]) -> None:
        self.port = port
        self._descriptor = descriptor
        self._release = release
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._is_reading = False
        self._is_open = True
        self._error: LinkError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._watch()

    async def read(self) -> bytes:
        """Return what has come, at least one byte; wait where nothing has.

        Raises
        ------
        LinkError
            If the peer closed, the line was unplugged or the pipe was closed.
        """
        while not self._received:
            if self._error is not None:
                raise LinkError(*self._error.args)
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self.take()

    def take(self) -> bytes:
        """Return what has come, perhaps nothing, without waiting."""
        received, self._received = self._received, b""
        if received and not self._is_reading and self._error is None:
            self._watch()
        return received

    def drain(self) -> bytes:
        """Return what has come, asking the kernel too, so that nothing older than now is left."""
        if self._is_reading and self._error is None:
            self._on_readable()
        return self.take()

    async def write(self, data: bytes) -> None:
        """Send all of it; wait while the peer takes no more.

        Raises
        ------
        LinkError
            As ``read``. A wait that is cancelled leaves the message half sent.
        """
        while True:
            if self._error is not None:
                raise LinkError(*self._error.args)
            try:
                data = data[os.write(self._descriptor, data) :]
            except (BlockingIOError, InterruptedError):
                pass
            except OSError as exc:
                self._fail(f"writing to {self.port} failed: {_seen(exc)}")
                continue
            if not data:
                return
            await self._writable()

    def close(self, reason: str = "was closed by this agent") -> None:
        """Give the descriptor back at once; a read that waits is told. May be called twice."""
        self._fail(f"{self.port} {reason}")

    async def _writable(self) -> None:
        self._writer = self._loop.create_future()
        self._loop.add_writer(self._descriptor, _wake, self._writer)
        try:
            await self._writer
        finally:
            self._writer = None
            if self._is_open:
                self._loop.remove_writer(self._descriptor)

    def _watch(self) -> None:
        self._is_reading = True
        self._loop.add_reader(self._descriptor, self._on_readable)

    def _on_readable(self) -> None:
        try:
            data = os.read(self._descriptor, _CHUNK_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as exc:
            self._fail(f"{self.port} was lost while reading: {_seen(exc)}; check cable and power")
            return
        if not data:
            self._fail(f"{self.port} was closed by the other side; check cable, power and network")
            return
        self._received += data
        if len(self._received) >= BUFFER_BYTES:
            self._is_reading = False
            self._loop.remove_reader(self._descriptor)
        if self._reader is not None:
            _wake(self._reader)

    def _fail(self, text: str) -> None:
        # The descriptor goes back in the same breath: a serial name that is still held makes the
        # kernel give the adapter another one when it is plugged in again.
        if not self._is_open:
            return
        self._is_open = False
        self._error = LinkError(text)
        self._loop.remove_reader(self._descriptor)
        self._loop.remove_writer(self._descriptor)
        self._release()
        for waiting in (self._reader, self._writer):
            if waiting is not None:
                _wake(waiting)


async def open_pipe(port: str, line: LineParameters, *, timeout_s: float) -> Pipe:
    """Open a port; ``line`` matters to serial lines only, ``timeout_s`` covers all of it.

    Raises
    ------
    LinkError
        If it cannot be opened in time; the text says what to look at.
    ValueError
        If ``port`` is no port's name.
    """
    address = tcp_address(port)
    try:
        async with asyncio.timeout(timeout_s):
            if address is not None:
                return await _open_tcp(port, *address)
            return await _open_serial(port, line)
    except TimeoutError as exc:
        raise LinkError(
            f"opening {port} took longer than {timeout_s:g} s; check address, cable and power"
        ) from exc


# ---------------------------------------------------------------- serial


async def _open_serial(port: str, line: LineParameters) -> Pipe:
    try:
        opened = await _in_thread(lambda: _serial_line(port, line), late=_release_serial)
    except (OSError, ValueError, termios.error) as exc:
        raise LinkError(f"opening {port} ({line}) failed: {_serial_trouble(port, exc)}") from exc
    return Pipe(port, opened.fileno(), lambda: _release_serial(opened))


def _serial_line(port: str, line: LineParameters) -> Any:  # pyserial has no types
    if os.path.realpath(port).startswith("/dev/pts/"):
        # A pseudo-terminal carries whole bytes and refuses anything but 8N1 (tcsetattr: EINVAL).
        line = LineParameters(baud=line.baud)
    opened = serial.Serial(
        port,
        baudrate=line.baud,
        bytesize=line.data_bits,
        parity=line.parity,
        stopbits=line.stop_bits,
        timeout=0,
        write_timeout=0,
        exclusive=True,
    )
    # pyserial sets VMIN 0, under which "nothing yet" and "unplugged" both read as no bytes. With
    # VMIN 1 the first is EAGAIN, and no bytes means that the line is gone (termios(3)).
    attributes = termios.tcgetattr(opened.fileno())
    attributes[6][termios.VMIN] = 1
    termios.tcsetattr(opened.fileno(), termios.TCSANOW, attributes)
    return opened


def _release_serial(opened: Any) -> None:
    # Closing waits up to 30 s for unsent bytes unless they are thrown away first (tty closing_wait)
    with suppress(OSError, termios.error):
        termios.tcflush(opened.fileno(), termios.TCIOFLUSH)
    with suppress(OSError):
        opened.close()


def _serial_trouble(port: str, exc: Exception) -> str:
    number = getattr(exc, "errno", None)
    if number == errno.ENOENT:
        return "there is no such device; check the cable and the name under /dev/serial/by-id"
    if number in (errno.EACCES, errno.EPERM):
        return "access is denied; let this user into the group that owns it (dialout)"
    if "lock" in str(exc):
        return "another process has it open; stop that one"
    if "could not configure" in str(exc).lower() or isinstance(exc, termios.error):
        return f"{os.path.realpath(port)} is no serial line ({exc}); check the name"
    return f"{exc}; check cable and line parameters"


# ---------------------------------------------------------------- TCP


async def _open_tcp(port: str, host: str, number: int) -> Pipe:
    try:
        found = await _in_thread(
            lambda: socket.getaddrinfo(host, number, type=socket.SOCK_STREAM),
            late=lambda _: None,
        )
    except OSError as exc:
        raise LinkError(
            f"looking up {host} for {port} failed: {_seen(exc)}; check the name and the DNS"
        ) from exc
    trouble = ""
    for family, kind, protocol, _, address in found:
        try:
            opened = await _connected(family, kind, protocol, address)
        except OSError as exc:
            trouble = _seen(exc)
        else:
            return Pipe(port, opened.fileno(), opened.close)
    raise LinkError(
        f"connecting to {port} failed: {trouble or 'no address'}; check address, cable and power"
    )


def keep_alive(opened: socket.socket) -> None:
    """Let the kernel notice a peer that vanished, and send at once what is written."""
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S)
    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES)


async def _connected(
    family: int, kind: int, protocol: int, address: tuple[object, ...]
) -> socket.socket:
    opened = socket.socket(family, kind, protocol)
    try:
        opened.settimeout(0)
        keep_alive(opened)
        await asyncio.get_running_loop().sock_connect(opened, address)
    except BaseException:
        opened.close()
        raise
    return opened


# ---------------------------------------------------------------- both


async def _in_thread(work: Callable[[], _T], *, late: Callable[[_T], None]) -> _T:
    """Return what ``work`` returns; a result that comes after it was given up goes to ``late``.

    A thread of its own rather than the loop's executor: a call stuck in the kernel then takes no
    worker from others and does not hold up the end of the process.
    """
    result: Future[_T] = Future()
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(work())
        except (OSError, ValueError, termios.error) as exc:
            result.set_exception(exc)

    def give_late(done: Future[_T]) -> None:
        if done.exception() is None:
            late(done.result())

    threading.Thread(target=run, name="open", daemon=True).start()
    try:
        return await asyncio.wrap_future(result)
    except asyncio.CancelledError:
        result.add_done_callback(give_late)
        raise


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _seen(exc: OSError) -> str:
    if exc.errno is not None and exc.errno > 0 and not isinstance(exc, socket.gaierror):
        return os.strerror(exc.errno).lower()  # asyncio puts its own words into strerror
    return (exc.strerror or str(exc) or type(exc).__name__).lower()
