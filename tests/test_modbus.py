"""Modbus lines against the hand-written server, on pseudo-terminals and on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty

import pytest

from drivers.base import Block, LineParameters
from drivers.modbus import (
    ExceptionReplyError,
    GoneError,
    ModbusLine,
    NoReplyError,
    RefusedReplyError,
    framing_of,
)
from drivers.readings import Reason
from drivers.transport import LinkError
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit

LINE = LineParameters(baud=115200)
TIMEOUT_S, LATENESS_S = 0.1, 0.15


class NoDelays:
    """Opens again at once; counts how often it was asked."""

    def __init__(self):
        self.asked = 0

    def next_s(self):
        self.asked += 1
        return 0.0

    def reset(self):
        self.asked = 0


def unit_with(unit_id=1, **faults):
    unit = ModbusUnit(unit_id=unit_id, **faults)
    for address in range(400):  # every register holds its own address, so a shift shows
        unit.holding[address] = address
        unit.input[address] = 1000 + address
    return unit


def block(address, count=1, table="holding"):
    return Block(table=table, address=address, count=count, period_s=1.0)


class Served:
    """A server with units, and a line of ours to it."""

    def __init__(self, kind, *units):
        self.kind = kind
        self.units = units

    async def __aenter__(self):
        if self.kind == "tcp":
            self.server = ModbusTcpServer(self.units)
            port = f"tcp://127.0.0.1:{await self.server.start()}"
        else:
            self.server = ModbusRtuServer(self.units)
            port = (
                await self.server.start_pty()
                if self.kind == "pty"
                else f"tcp://127.0.0.1:{await self.server.start_tcp()}"
            )
        self.delays = NoDelays()
        framing = "tcp" if self.kind == "tcp" else "rtu"
        self.line = ModbusLine(port, LINE, framing=framing, delays=self.delays)
        self.line.join()
        if framing == "rtu":  # a line that was just opened is left alone first: wait little here
            with contextlib.suppress(LinkError):
                await self.read(block(0), self.units[0].unit_id, 0.03, 0.0)
        return self

    async def __aexit__(self, *_):
        self.line.leave()
        await self.server.close()

    async def read(self, what, unit=1, timeout_s=TIMEOUT_S, max_lateness_s=LATENESS_S):
        return await self.line.read_block(
            unit, what, timeout_s=timeout_s, max_lateness_s=max_lateness_s
        )

    async def tried(self, what, unit=1, **times):
        try:
            return await self.read(what, unit, **times)
        except LinkError as exc:
            return exc


KINDS = pytest.mark.parametrize("kind", ["pty", "rtu over tcp", "tcp"])
RTU = pytest.mark.parametrize("kind", ["pty", "rtu over tcp"])


@KINDS
def test_every_table_is_read_as_the_device_holds_it(kind):
    async def scene():
        unit = unit_with()
        unit.coils = {n: n % 3 == 0 for n in range(20)}
        unit.discrete = {n: n % 2 == 0 for n in range(20)}
        async with Served(kind, unit) as served:
            assert await served.read(block(100, 3)) == (100, 101, 102)
            assert await served.read(block(7, 2, "input")) == (1007, 1008)
            assert await served.read(block(0, 11, "coils")) == tuple(
                int(n % 3 == 0) for n in range(11)
            )
            assert await served.read(block(1, 3, "discrete")) == (0, 1, 0)
            assert await served.read(block(0, 125)) == tuple(range(125))

    asyncio.run(scene())


@KINDS
@pytest.mark.parametrize("late_by_s", [0.05, LATENESS_S - 0.03])
def test_a_late_reply_never_becomes_another_blocks_value(kind, late_by_s):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.delay_s = TIMEOUT_S + late_by_s
            first = await served.tried(block(100))
            unit.delay_s = 0.0
            answers = [await served.tried(block(address)) for address in (200, 300, 100, 200)]
        assert isinstance(first, NoReplyError)
        assert "unit 1, holding 100+1" in str(first)
        for value, address in zip(answers, (200, 300, 100, 200), strict=True):
            # On TCP nothing is waited out: a reply that queues behind the late one is late too.
            assert value == (address,) or (kind == "tcp" and isinstance(value, NoReplyError))
        assert answers[-1] == (200,)

    asyncio.run(scene())


@RTU
def test_a_unit_that_is_always_late_gives_errors_and_no_value(kind):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.delay_s = TIMEOUT_S + LATENESS_S - 0.03
            answers = [await served.tried(block(address)) for address in (100, 200, 300)]
        assert all(isinstance(answer, NoReplyError) for answer in answers), answers

    asyncio.run(scene())


@RTU
def test_without_the_silence_the_same_unit_would_have_shifted_every_value(kind):
    """The cure is the silence: the fault is really there in this set-up."""

    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.delay_s = TIMEOUT_S + 0.05
            return [
                await served.tried(block(address), max_lateness_s=0.0)
                for address in (100, 200, 300)
            ]

    assert asyncio.run(scene())[1] == (100,), "asked for 200"


@RTU
def test_a_request_that_was_cancelled_is_left_to_run_out_too(kind):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.delay_s = 0.1
            asking = asyncio.create_task(served.read(block(100)))
            async with asyncio.timeout(2):
                while len(unit.requests) < 2:  # noqa: ASYNC110 - the server has no event for it
                    await asyncio.sleep(0.001)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
            unit.delay_s = 0.0
            return await served.tried(block(200))

    assert asyncio.run(scene()) == (200,)


@RTU
def test_two_replies_in_one_piece_are_refused(kind):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.merge_next = True
            answers = [await served.tried(block(address)) for address in (100, 200, 300)]
        assert isinstance(answers[0], NoReplyError)
        assert isinstance(answers[1], RefusedReplyError)
        assert answers[1].reason is Reason.LENGTH
        assert answers[2] == (300,)

    asyncio.run(scene())


def test_on_tcp_the_transaction_number_sorts_merged_replies():
    async def scene():
        unit = unit_with()
        async with Served("tcp", unit) as served:
            unit.merge_next = True
            return [await served.tried(block(address)) for address in (100, 200, 300)]

    first, *others = asyncio.run(scene())
    assert isinstance(first, NoReplyError)
    assert others == [(200,), (300,)]


@KINDS
@pytest.mark.parametrize("kept", [1, 4, 6])
def test_a_truncated_reply_is_refused_and_the_next_one_read(kind, kept):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            unit.truncate_to = kept
            refused = await served.tried(block(100))
            unit.truncate_to = None
            answers = [await served.tried(block(200)) for _ in range(3)]
        assert isinstance(refused, RefusedReplyError)
        assert refused.reason is Reason.TRUNCATED
        assert answers[-1] == (200,)
        assert all(a == (200,) or isinstance(a, LinkError) for a in answers)

    asyncio.run(scene())


@KINDS
def test_a_reply_of_another_unit_is_refused(kind):
    async def scene():
        unit = unit_with(wrong_unit=9)
        async with Served(kind, unit) as served:
            return await served.tried(block(100))

    refused = asyncio.run(scene())
    assert isinstance(refused, RefusedReplyError)
    assert refused.reason is Reason.UNIT
    assert "unit 9" in str(refused)


@KINDS
def test_an_exception_reply_names_its_code(kind):
    async def scene():
        async with Served(kind, unit_with()) as served:
            return await served.tried(block(4000)), await served.tried(block(1))

    refused, value = asyncio.run(scene())
    assert isinstance(refused, ExceptionReplyError)
    assert refused.code == 2
    assert "exception 2 (illegal address)" in str(refused)
    assert value == (1,)


def test_a_gateway_that_reaches_no_unit_counts_as_no_reply():
    async def scene():
        async with Served("tcp", unit_with(exception_code=0x0B)) as served:
            return await served.tried(block(1))

    missing = asyncio.run(scene())
    assert isinstance(missing, NoReplyError)
    assert "exception 11 (gateway no response)" in str(missing)


@pytest.mark.parametrize("kind", ["pty", "tcp"])
def test_one_silent_unit_slows_no_other_by_its_late_reply_wait(kind):
    """The line waits out the time-out only; the rest of the wait concerns the silent unit alone."""

    async def scene():
        silent, alive = unit_with(7, silent=True), unit_with(3)
        async with Served(kind, silent, alive) as served:
            served.line.join()
            await served.read(block(0), 3)
            asking = asyncio.create_task(served.tried(block(100), 7, max_lateness_s=9.0))
            assert isinstance(await asking, NoReplyError)
            waiting = asyncio.create_task(served.tried(block(100), 7, max_lateness_s=9.0))
            values = [await served.read(block(n), 3) for n in range(20)]
            is_waiting = not waiting.done()
            waiting.cancel()
            await asyncio.wait([waiting])
            served.line.leave()
            return values, is_waiting

    values, is_waiting = asyncio.run(scene())
    assert values == [(n,) for n in range(20)]
    assert is_waiting or kind == "tcp"


@RTU
def test_the_late_reply_of_one_unit_is_never_anothers(kind):
    async def scene():
        late, alive = unit_with(7), unit_with(3)
        late.set_words(late.holding, 0, [7777] * 400)
        async with Served(kind, late, alive) as served:
            await served.read(block(0), 3)
            late.delay_s = TIMEOUT_S + 0.02
            await served.tried(block(100), 7)
            alive.delay_s = 0.05  # so that the late reply comes while this one is awaited
            return [await served.tried(block(n), 3) for n in (10, 20, 30)]

    assert asyncio.run(scene()) == [(10,), (20,), (30,)]


def test_a_mute_tcp_peer_is_connected_anew():
    async def scene():
        unit = unit_with()
        async with Served("tcp", unit) as served:
            unit.silent = True
            for _ in range(3):
                assert isinstance(await served.tried(block(1), timeout_s=0.03), NoReplyError)
            unit.silent = False
            assert await served.read(block(1)) == (1,)
            return served.line.opened

    assert asyncio.run(scene()) == 2


@KINDS
def test_a_server_that_went_away_is_gone_and_found_again(kind):
    async def scene():
        unit = unit_with()
        async with Served(kind, unit) as served:
            await served.read(block(1))
            await served.server.close()
            gone = await served.tried(block(1))
            again = await served.tried(block(1))
            return gone, again, served.line.port

    gone, again, port = asyncio.run(scene())
    assert isinstance(gone, GoneError)
    # The number of a closed pseudo-terminal may be another process' by now, where nobody answers.
    assert isinstance(again, (GoneError, NoReplyError) if kind == "pty" else GoneError)
    assert port in str(again)


def test_a_lost_line_is_not_opened_more_often_than_its_delays_allow():
    class Hourly(NoDelays):
        def next_s(self):
            super().next_s()
            return 3600.0

    async def scene():
        line = ModbusLine("/dev/no-such-line", LINE, framing="rtu", delays=(delays := Hourly()))
        texts = []
        for _ in range(3):
            with pytest.raises(GoneError) as caught:
                await line.read_block(1, block(1), timeout_s=1, max_lateness_s=1)
            texts.append(str(caught.value))
        return delays.asked, texts

    asked, texts = asyncio.run(scene())
    assert asked == 1
    assert len(set(texts)) == 1
    assert "/dev/no-such-line" in texts[0]
    assert "there is no such device" in texts[0]


class Peer:
    """The far end of a pseudo-terminal, scripted: answers the n-th request with the n-th reply."""

    def __init__(self, *replies):
        self.master, self.slave = os.openpty()
        tty.setraw(self.slave)
        os.set_blocking(self.master, False)
        self.port = os.ttyname(self.slave)
        self.replies = list(replies)
        asyncio.get_running_loop().add_reader(self.master, self.answer)

    def answer(self):
        request = os.read(self.master, 256)
        if self.replies:
            reply = self.replies.pop(0)
            os.write(self.master, reply(request) if callable(reply) else reply)

    def close(self):
        asyncio.get_running_loop().remove_reader(self.master)
        os.close(self.master)
        os.close(self.slave)


def crc(frame):
    """CRC-16 by its definition (Modbus over Serial Line V1.02, 6.2.2), bit by bit."""
    value = 0xFFFF
    for byte in frame:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value.to_bytes(2, "little")


def framed(*values):
    return bytes(values) + crc(bytes(values))


GOOD = framed(1, 3, 2, 0x12, 0x34)


async def ask_scripted(*replies, count=1):
    peer = Peer(*replies)
    line = ModbusLine(peer.port, LINE, framing="rtu", delays=NoDelays())
    try:
        return await line.read_block(1, block(0, count), timeout_s=0.1, max_lateness_s=0.05)
    finally:
        line.close()
        peer.close()


def test_the_adapters_echo_of_our_own_request_is_passed_over():
    assert asyncio.run(ask_scripted(lambda request: request + GOOD)) == (0x1234,)


def test_line_noise_before_a_reply_is_passed_over():
    assert asyncio.run(ask_scripted(b"\x00\xff\x00" + GOOD)) == (0x1234,)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (framed(1, 3, 4, 0, 1, 0, 2), Reason.LENGTH),  # two registers where one was asked
        (framed(1, 4, 2, 0, 1), Reason.UNKNOWN),  # of another table
        (framed(1, 0x84, 2), Reason.UNKNOWN),
        (framed(1, 6, 0, 0, 0, 1), Reason.UNKNOWN),  # the echo of a write
        (GOOD + b"\x01", Reason.LENGTH),
    ],
)
def test_a_reply_that_does_not_fit_the_request_is_refused(reply, reason):
    with pytest.raises(RefusedReplyError) as caught:
        asyncio.run(ask_scripted(reply))
    assert caught.value.reason is reason


def test_every_single_bit_flip_of_a_reply_is_refused():
    flips = [bytearray(GOOD) for _ in range(8 * len(GOOD))]
    for bit, flip in enumerate(flips):
        flip[bit // 8] ^= 1 << bit % 8

    async def scene():
        peer = Peer(*map(bytes, flips), GOOD)
        line = ModbusLine(peer.port, LINE, framing="rtu", delays=NoDelays())
        for _ in flips:
            with pytest.raises((RefusedReplyError, NoReplyError)):
                await line.read_block(1, block(0), timeout_s=0.02, max_lateness_s=0.0)
        value = await line.read_block(1, block(0), timeout_s=1, max_lateness_s=0.0)
        line.close()
        peer.close()
        return value

    assert asyncio.run(scene()) == (0x1234,)


def test_a_line_that_talks_without_end_is_refused_in_bounded_time():
    async def scene():
        peer = Peer()
        line = ModbusLine(peer.port, LINE, framing="rtu", delays=NoDelays())

        async def talk():
            while True:
                with contextlib.suppress(BlockingIOError):
                    os.write(peer.master, b"\x55" * 64)
                await asyncio.sleep(0.002)

        talking = asyncio.create_task(talk())
        try:
            async with asyncio.timeout(4):
                await line.read_block(1, block(0), timeout_s=0.1, max_lateness_s=0.0)
        finally:
            talking.cancel()
            line.close()
            peer.close()

    # Where this process itself is starved, the talk has gaps, and a piece of it is the reply.
    with pytest.raises(LinkError, match=r"talks without end|is no reply to this request"):
        asyncio.run(scene())


def adu(transaction, value, protocol=0):
    return transaction.to_bytes(2, "big") + bytes([0, protocol, 0, 5, 1, 3, 2, 0, value])


async def ask_tcp(script, times):
    """Ask a TCP peer that answers its n-th request with ``script(n, transaction)``."""
    talks = []

    async def talk(reader, writer):
        talks.append(asyncio.current_task())
        n = 0
        while request := await reader.read(256):
            writer.write(script(n, int.from_bytes(request[:2], "big")))
            n += 1
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    port = f"tcp://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    line = ModbusLine(port, LINE, framing="tcp", delays=NoDelays())
    answers = []
    for address in range(times):
        try:
            answers.append(
                await line.read_block(1, block(address), timeout_s=0.08, max_lateness_s=0.0)
            )
        except LinkError as exc:
            answers.append(exc)
    line.close()
    server.close()
    await asyncio.gather(*talks)
    return answers


@pytest.mark.parametrize("stale", [0, 1, 0xFFFF])
def test_on_tcp_only_the_right_transaction_number_answers(stale):
    """Number 0 too: some libraries take it for an answer to anything."""
    answers = asyncio.run(ask_tcp(lambda n, t: adu(stale if n == 1 else t, n), 3))
    assert answers[0] == (0,)
    assert isinstance(answers[1], NoReplyError)
    assert answers[2] == (2,)


def test_on_tcp_a_reply_that_ends_after_the_time_out_does_not_shift_the_stream():
    held = {}

    def script(n, transaction):
        if n == 0:
            held["tail"] = adu(transaction, 0)[5:]
            return adu(transaction, 0)[:5]
        return held.pop("tail", b"") + adu(transaction, n)

    answers = asyncio.run(ask_tcp(script, 3))
    assert isinstance(answers[0], RefusedReplyError)
    assert answers[1:] == [(1,), (2,)]


def test_on_tcp_what_is_no_modbus_is_refused_and_connected_anew():
    answers = asyncio.run(ask_tcp(lambda n, t: b"HTTP/1.1 400\r\n" if n == 0 else adu(t, n), 2))
    assert isinstance(answers[0], RefusedReplyError)
    assert answers[0].reason is Reason.SYNTAX
    assert "framing" in str(answers[0])
    assert isinstance(answers[1], RefusedReplyError)  # the new connection's first is HTTP again


def test_the_framing_follows_the_port_unless_it_is_set():
    assert framing_of("/dev/ttyS0", "auto") == "rtu"
    assert framing_of("tcp://host:502", "auto") == "tcp"
    assert framing_of("tcp://host:4001", "rtu") == "rtu"


def test_cancelling_returns_promptly_at_every_wait():
    """Opening, settling, waiting one's turn, waiting for the reply, waiting out a late one."""

    async def scene():
        unit = unit_with(silent=True)
        async with Served("pty", unit) as served:
            for started_s in (0.0, 0.01, 0.3, 0.5):
                times = {"timeout_s": 0.2, "max_lateness_s": 0.05}
                readers = [asyncio.create_task(served.read(block(n), **times)) for n in (1, 2)]
                await asyncio.sleep(started_s)
                for reader in readers:
                    reader.cancel()
                done, pending = await asyncio.wait(readers, timeout=0.1)
                assert not pending
                assert all(r.cancelled() or isinstance(r.exception(), LinkError) for r in done)

    asyncio.run(scene())
