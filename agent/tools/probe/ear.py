"""Listening at a port for a while, and asking at it, for a probe."""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from drivers.base import LineParameters
from drivers.transport import LinkError, Pipe, open_pipe, tcp_address

OPEN_TIMEOUT_S = 5.0
REPLY_S = 0.6
QUIET_S = 0.15
"""No byte for so long ends a reply: USB adapters deliver every 16 ms, 1200 Bd a byte in 9 ms."""
REPLIES = 3
REPLY_BYTES = 600

Kind = Literal["serial", "pty", "tcp"]
Enough = Callable[[bytes], bool]

# Linux, struct serial_icounter_struct: cts dsr rng dcd rx tx frame overrun parity brk
# buf_overrun and nine reserved, 32 bits each.
_COUNTERS = struct.Struct("20i")
_FRAME, _PARITY, _BREAK = 6, 8, 9


@dataclass(frozen=True, slots=True)
class Heard:
    """Bytes of one spell of listening.

    ``errors`` counts framing and parity errors of the line, None where the kernel does not.
    ``lost`` says why it ended early.
    """

    data: bytes
    errors: int | None = None
    lost: str = ""


class Ear(Protocol):
    """One port, opened anew for each spell; raises LinkError where it does not open."""

    kind: Kind

    async def hear(self, line: LineParameters, limit_s: float, enough: Enough) -> Heard:
        """Listen until ``enough`` says so, ``limit_s`` is over or the port is lost."""

    async def ask(self, line: LineParameters, request: bytes) -> Heard:
        """Send a request a few times while it is answered, and return the answers."""


class PortEar:
    """An ear at a real port."""

    def __init__(self, port: str) -> None:
        self._port = port
        self.kind = kind_of(port)

    async def hear(self, line: LineParameters, limit_s: float, enough: Enough) -> Heard:
        """See ``Ear``."""
        pipe = await open_pipe(self._port, line, timeout_s=OPEN_TIMEOUT_S)
        data, lost = b"", ""
        before = line_errors(self._port)
        try:
            async with asyncio.timeout(limit_s):
                while not enough(data):
                    data += await pipe.read()
        except TimeoutError:
            pass
        except LinkError as exc:
            lost = str(exc)
        finally:
            after = line_errors(self._port)
            pipe.close()
        errors = None if before is None or after is None else max(0, after - before)
        return Heard(data, errors, lost)

    async def ask(self, line: LineParameters, request: bytes) -> Heard:
        """See ``Ear``."""
        pipe = await open_pipe(self._port, line, timeout_s=OPEN_TIMEOUT_S)
        answers = b""
        try:
            for _ in range(REPLIES):
                pipe.drain()
                async with asyncio.timeout(REPLY_S):
                    await pipe.write(request)
                answer = await _reply(pipe)
                answers += answer.removeprefix(request)  # what a two-wire adapter echoes
                if not answer:
                    break
        except TimeoutError:
            pass
        except LinkError as exc:
            return Heard(answers, lost=str(exc))
        finally:
            pipe.close()
        return Heard(answers)


async def _reply(pipe: Pipe) -> bytes:
    answer = b""
    try:
        while True:
            async with asyncio.timeout(QUIET_S if answer else REPLY_S):
                answer += await pipe.read()
            if len(answer) > REPLY_BYTES:
                return answer
    except TimeoutError:
        return answer


def kind_of(port: str) -> Kind:
    """Return what kind of port this is; ValueError where the name is no port's."""
    if tcp_address(port) is not None:
        return "tcp"
    return "pty" if os.path.realpath(port).startswith("/dev/pts/") else "serial"


def line_errors(port: str) -> int | None:
    """Return how many framing and parity errors a serial port has counted since it was made.

    None where the kernel does not count them, as on a pseudo-terminal and a network port.

    Source: Linux, tty_ioctl(4) and linux/serial.h, TIOCGICOUNT.
    """
    if not port.startswith("/"):
        return None
    try:
        # Beside the pipe's own descriptor: the counters are the port's, and nothing is read here.
        descriptor = os.open(port, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        told = fcntl.ioctl(descriptor, termios.TIOCGICOUNT, bytes(_COUNTERS.size))
    except OSError:
        return None
    finally:
        os.close(descriptor)
    counters = _COUNTERS.unpack(told)
    return int(counters[_FRAME] + counters[_PARITY] + counters[_BREAK])
