"""Byte pipes over real pseudo-terminals and real sockets."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import time
import tty
from pathlib import Path

import pytest

from drivers import transport
from drivers.base import LineParameters
from drivers.transport import BUFFER_BYTES, LinkError, open_pipe, tcp_address

LINE = LineParameters()


class Pty:
    """A pseudo-terminal whose master is the instrument."""

    def __init__(self):
        self.master, slave = os.openpty()
        tty.setraw(slave)
        self.port = os.ttyname(slave)
        self.slave = slave
        os.set_blocking(self.master, False)

    def unplug(self):
        os.close(self.master)
        os.close(self.slave)


class Peer:
    """A TCP listener that accepts by hand."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(5)
        self.port = f"tcp://127.0.0.1:{self.listener.getsockname()[1]}"

    def accept(self):
        accepted, _ = self.listener.accept()
        return accepted


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("port", "address"),
    [
        ("/dev/serial/by-id/usb-FTDI-if00", None),
        ("tcp://portal.lane:4001", ("portal.lane", 4001)),
        ("tcp://[::1]:502", ("::1", 502)),
    ],
)
def test_a_port_names_a_line_or_an_address(port, address):
    assert tcp_address(port) == address


@pytest.mark.parametrize(
    "port", ["ttyS0", "", "tcp://host", "tcp://:1", "tcp://h:x", "tcp://h:99999", "udp://h:1",
             "tcp://h:1/path"]
)  # fmt: skip
def test_anything_else_is_no_port(port):
    with pytest.raises(ValueError, match="tcp://host:port"):
        tcp_address(port)


def test_bytes_go_both_ways_over_a_pty_unchanged():
    every_byte = bytes(range(256))

    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        await pipe.write(every_byte)
        sent = os.read(pty.master, 1000)
        os.write(pty.master, every_byte)
        got = b""
        while len(got) < 256:
            got += await pipe.read()
        pipe.close()
        pty.unplug()
        return sent, got

    assert asyncio.run(scene()) == (every_byte, every_byte)


@pytest.mark.parametrize("data_bits", [7, 8])
@pytest.mark.parametrize("parity", ["N", "E", "O"])
def test_every_line_parameter_opens_a_pty(data_bits, parity):
    async def scene():
        pty = Pty()
        line = LineParameters(baud=19200, data_bits=data_bits, parity=parity, stop_bits=2)
        (await open_pipe(pty.port, line, timeout_s=2)).close()
        pty.unplug()

    asyncio.run(scene())


def test_an_unplugged_line_gives_what_came_then_the_error_then_the_descriptor_back():
    async def scene():
        before = descriptors()
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        os.write(pty.master, b"half a fra")
        first = await pipe.read()
        waiting = asyncio.create_task(pipe.read())
        await asyncio.sleep(0)
        pty.unplug()
        with pytest.raises(LinkError) as caught:
            await asyncio.wait_for(waiting, 2)
        with pytest.raises(LinkError):
            await pipe.write(b"?")
        assert descriptors() == before
        return pty.port, first, str(caught.value)

    port, first, text = asyncio.run(scene())
    assert first == b"half a fra"
    assert port in text
    assert "check cable" in text


def test_a_tcp_peer_that_closes_gives_its_last_bytes_first():
    async def scene():
        peer = Peer()
        pipe = await open_pipe(peer.port, LINE, timeout_s=2)
        accepted = peer.accept()
        accepted.sendall(b"last words")
        accepted.close()
        await asyncio.sleep(0.05)
        got = await pipe.read()
        with pytest.raises(LinkError, match="closed by the other side"):
            await pipe.read()
        peer.listener.close()
        return got

    assert asyncio.run(scene()) == b"last words"


def test_a_line_is_opened_by_one_only():
    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        with pytest.raises(LinkError, match="another process has it open"):
            await open_pipe(pty.port, LINE, timeout_s=2)
        pipe.close()
        (await open_pipe(pty.port, LINE, timeout_s=2)).close()
        pty.unplug()

    asyncio.run(scene())


def refused_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("port", "seen"),
    [
        ("/dev/no-such-line", "there is no such device"),
        ("/dev/null", "is no serial line"),
        ("/etc/hostname", "is no serial line"),
        (refused_port(), "connection refused"),
        ("tcp://no-such-host.invalid:4001", "looking up no-such-host.invalid"),
    ],
    ids=["no line", "null", "a file", "refused", "no host"],
)
def test_what_cannot_be_opened_says_what_was_seen_and_leaves_nothing_open(port, seen):
    async def scene():
        before = descriptors()
        with pytest.raises(LinkError) as caught:
            await open_pipe(port, LINE, timeout_s=10)
        assert descriptors() == before
        return str(caught.value)

    text = asyncio.run(scene())
    assert port in text
    assert seen in text
    assert "check" in text
    assert "\n" not in text


def test_a_flood_is_held_back_and_nothing_is_lost():
    flood = os.urandom(1 << 20)

    async def scene():
        peer = Peer()
        pipe = await open_pipe(peer.port, LINE, timeout_s=2)
        accepted = peer.accept()
        sending = asyncio.create_task(asyncio.to_thread(accepted.sendall, flood))
        await asyncio.wait([sending], timeout=0.2)
        got = bytearray()
        largest = 0
        while len(got) < len(flood):
            piece = await pipe.read()
            largest = max(largest, len(piece))
            got += piece
        await sending
        accepted.close()
        pipe.close()
        peer.listener.close()
        return bytes(got), largest

    got, largest = asyncio.run(scene())
    assert got == flood
    # How much gathers before it is read is the machine's affair; that it is bounded is ours.
    assert largest < 2 * BUFFER_BYTES < len(flood)


async def write_for_ever(pipe):
    while True:
        await pipe.write(b"x" * 65536)


def test_a_write_waits_for_a_slow_peer_and_a_cancelled_one_leaves_the_loop_clean():
    message = b"x" * (8 << 20)

    async def scene():
        peer = Peer()
        pipe = await open_pipe(peer.port, LINE, timeout_s=2)
        accepted = peer.accept()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pipe.write(message)
        accepted.close()
        with pytest.raises(LinkError):
            await write_for_ever(pipe)
        peer.listener.close()

    asyncio.run(scene())


def test_closing_ends_a_waiting_read_and_may_be_repeated():
    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        waiting = asyncio.create_task(pipe.read())
        await asyncio.sleep(0)
        pipe.close()
        pipe.close()
        with pytest.raises(LinkError, match="closed by this agent"):
            await waiting
        pty.unplug()

    asyncio.run(scene())


def test_closing_a_line_with_unsent_bytes_does_not_wait_for_them():
    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await pipe.write(b"x" * (1 << 20))
        begun = time.monotonic()
        pipe.close()
        assert time.monotonic() - begun < 5
        pty.unplug()

    asyncio.run(scene())


def test_a_cancelled_read_loses_no_byte():
    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        for _ in range(3):
            waiting = asyncio.create_task(pipe.read())
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait([waiting])
            assert waiting.cancelled()
        os.write(pty.master, b"kept")
        got = await pipe.read()
        pipe.close()
        pty.unplug()
        return got

    assert asyncio.run(scene()) == b"kept"


def test_an_open_that_is_given_up_holds_nobody_and_closes_what_it_opens_late(monkeypatch):
    """The kernel keeps some opens for long; the thread that waits there is left to itself."""
    pty = Pty()
    real = transport._serial_line

    def slow(port, line):
        time.sleep(0.4)
        return real(port, line)

    monkeypatch.setattr(transport, "_serial_line", slow)

    async def scene():
        begun = time.monotonic()
        with pytest.raises(LinkError, match=r"took longer than 0\.1 s"):
            await open_pipe(pty.port, LINE, timeout_s=0.1)
        opening = asyncio.create_task(open_pipe(pty.port, LINE, timeout_s=9))
        await asyncio.sleep(0)
        opening.cancel()
        await asyncio.wait([opening])
        assert opening.cancelled()
        assert time.monotonic() - begun < 0.3
        monkeypatch.setattr(transport, "_serial_line", real)
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:  # until the late ones have let go of their locks
            await asyncio.sleep(0.5)
            try:
                (await open_pipe(pty.port, LINE, timeout_s=2)).close()
            except LinkError:
                continue
            return
        pytest.fail("the late opens still hold the line")

    asyncio.run(scene())
    pty.unplug()


def test_a_tcp_peer_is_probed_while_it_is_silent():
    async def scene():
        peer = Peer()
        pipe = await open_pipe(peer.port, LINE, timeout_s=2)
        accepted = peer.accept()
        ours = socket.socket(fileno=os.dup(pipe._descriptor))
        options = [
            ours.getsockopt(level, name)
            for level, name in (
                (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
                (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
                (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
                (socket.IPPROTO_TCP, socket.TCP_NODELAY),
            )
        ]
        for each in (ours, accepted, peer.listener):
            each.close()
        pipe.close()
        return options

    assert asyncio.run(scene()) == [1, 10, 5, 3, 1]


def test_the_lock_is_the_one_other_programs_see():
    async def scene():
        pty = Pty()
        pipe = await open_pipe(pty.port, LINE, timeout_s=2)
        other = os.open(pty.port, os.O_RDWR | os.O_NOCTTY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(other)
        pipe.close()
        pty.unplug()

    asyncio.run(scene())
