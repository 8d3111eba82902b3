"""The fault injector keeps and loses exactly what each fault says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.mischief import Faults, Mangler, SerialProxy, TcpProxy, mangle
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit, crc16

LIMIT_S = 5.0
CHUNKS = st.lists(st.binary(max_size=200), max_size=10)
SEEDS = st.integers(0, 2**32 - 1)


@given(chunks=CHUNKS, seed=SEEDS)
def test_a_perfect_wire_changes_nothing(chunks, seed):
    assert mangle(chunks, Faults(), seed=seed) == [chunk for chunk in chunks if chunk]


@given(chunks=CHUNKS, seed=SEEDS, most=st.integers(1, 9))
def test_splitting_keeps_every_byte_in_order_in_small_pieces(chunks, seed, most):
    pieces = mangle(chunks, Faults(split_to=most), seed=seed)
    assert b"".join(pieces) == b"".join(chunks)
    assert all(1 <= len(piece) <= most for piece in pieces)


@given(chunks=CHUNKS, seed=SEEDS, least=st.integers(1, 400))
def test_merging_keeps_every_byte_in_large_pieces(chunks, seed, least):
    pieces = mangle(chunks, Faults(merge_to=least), seed=seed)
    assert b"".join(pieces) == b"".join(chunks)
    assert all(len(piece) >= least for piece in pieces[:-1])


def is_subsequence(some, whole):
    remaining = iter(whole)
    return all(value in remaining for value in some)


@given(chunks=CHUNKS, seed=SEEDS)
def test_dropping_loses_bytes_and_invents_none(chunks, seed):
    sent = b"".join(chunks)
    assert is_subsequence(b"".join(mangle(chunks, Faults(drop_rate=0.3), seed=seed)), sent)
    assert mangle(chunks, Faults(drop_rate=1.0), seed=seed) == []


@given(chunks=CHUNKS, seed=SEEDS)
def test_doubling_and_garbage_keep_what_was_sent_within(chunks, seed):
    sent = b"".join(chunks)
    for faults in (Faults(double_rate=0.3), Faults(garbage_rate=0.5, split_to=7)):
        assert is_subsequence(sent, b"".join(mangle(chunks, faults, seed=seed)))
    doubled = b"".join(mangle(chunks, Faults(double_rate=1.0), seed=seed))
    assert doubled == bytes(value for value in sent for _ in range(2))


@given(chunks=CHUNKS, seed=SEEDS)
def test_flipping_inverts_one_bit_of_a_byte(chunks, seed):
    sent = b"".join(chunks)
    flipped = b"".join(mangle(chunks, Faults(flip_rate=1.0), seed=seed))
    assert len(flipped) == len(sent)
    assert all((a ^ b).bit_count() == 1 for a, b in zip(sent, flipped, strict=True))


def test_rates_are_met():
    sent = bytes(100_000)
    assert sum(map(len, mangle([sent], Faults(drop_rate=0.1), seed=1))) == pytest.approx(
        90_000, abs=500
    )
    flipped = b"".join(mangle([sent], Faults(flip_rate=0.02), seed=1))
    assert sum(value != 0 for value in flipped) == pytest.approx(2_000, abs=250)


def test_one_seed_gives_one_output():
    faults = Faults(split_to=5, drop_rate=0.1, flip_rate=0.1, double_rate=0.1, garbage_rate=0.2)
    chunks = [bytes(range(200))] * 5
    assert mangle(chunks, faults, seed=4) == mangle(chunks, faults, seed=4)
    assert mangle(chunks, faults, seed=4) != mangle(chunks, faults, seed=5)


def test_faults_are_switched_while_bytes_flow():
    faults = Faults()
    mangler = Mangler(faults, seed=1)
    assert mangler.feed(b"ab") == [b"ab"]
    faults.hang = True
    assert mangler.feed(b"cd") == []
    faults.hang = False
    faults.merge_to = 4
    assert mangler.feed(b"ef") == []
    faults.merge_to = None
    assert mangler.feed(b"gh") == [b"efgh"]


# --- on the wire --------------------------------------------------------------------------------

ASK = bytes.fromhex("0001 0000 0006 01 03 0000 0001")
REPLY = bytes.fromhex("0001 0000 0005 01 03 02 1234")


async def read(reader, size):
    return await asyncio.wait_for(reader.readexactly(size), LIMIT_S)


def with_proxy(play):
    async def run():
        server = ModbusTcpServer([ModbusUnit(holding={0: 0x1234})])
        proxy = TcpProxy("127.0.0.1", await server.start(), seed=1)
        reader, writer = await asyncio.open_connection("127.0.0.1", await proxy.start())
        try:
            await play(proxy, server, reader, writer)
        finally:
            writer.close()
            await proxy.close()
            await server.close()

    asyncio.run(run())


def test_tcp_proxy_passes_both_ways_whatever_the_pieces():
    async def play(proxy, server, reader, writer):
        writer.write(ASK)
        assert await read(reader, len(REPLY)) == REPLY
        proxy.to_client.split_to = proxy.to_device.split_to = 1
        writer.write(ASK * 20)
        assert await read(reader, 20 * len(REPLY)) == REPLY * 20
        proxy.to_device.echo = True
        writer.write(ASK)
        assert await read(reader, len(ASK) + len(REPLY)) == ASK + REPLY

    with_proxy(play)


def test_a_hung_proxy_keeps_the_connection_and_passes_nothing():
    async def play(proxy, server, reader, writer):
        proxy.to_client.hang = True
        writer.write(ASK)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        await server.close()  # the instrument's going is not heard either
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)
        assert not reader.at_eof()

    with_proxy(play)


def test_an_unplugged_proxy_cuts_and_refuses_until_it_is_replugged():
    async def play(proxy, server, reader, writer):
        await proxy.unplug()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await read(reader, 1)
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", proxy.port)
        await proxy.replug()
        reader, again = await asyncio.open_connection("127.0.0.1", proxy.port)
        again.write(ASK)
        assert await read(reader, len(REPLY)) == REPLY
        assert proxy.connections == 2
        again.close()

    with_proxy(play)


def test_a_client_is_cut_off_when_the_instrument_is():
    async def play(proxy, server, reader, writer):
        writer.write(ASK)
        assert await read(reader, len(REPLY)) == REPLY
        await server.close()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await read(reader, 1)

    with_proxy(play)


def test_a_flood_comes_unasked_and_stops_when_told():
    async def play(proxy, server, reader, writer):
        proxy.to_client.flood_bytes_per_s = 100_000.0
        assert len(set(await read(reader, 10_000))) > 200  # random bytes, not one again and again
        proxy.to_client.flood_bytes_per_s = 0.0
        writer.write(ASK)
        flood = await asyncio.wait_for(reader.readuntil(REPLY), LIMIT_S)
        assert flood.endswith(REPLY)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.2)

    with_proxy(play)


def rtu(frame):
    return bytes.fromhex(frame) + crc16(bytes.fromhex(frame))


class Terminal:
    """A reader's end of a serial line."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self.fd)
        self.arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(self.fd, self.arrived.set)

    async def read(self, size):
        data = b""
        async with asyncio.timeout(LIMIT_S):
            while len(data) < size:
                await self.arrived.wait()
                self.arrived.clear()
                with contextlib.suppress(BlockingIOError):
                    got = os.read(self.fd, size - len(data))
                    if not got:
                        raise OSError("hung up")
                    data += got
        return data

    def close(self):
        asyncio.get_running_loop().remove_reader(self.fd)
        os.close(self.fd)


def test_serial_proxy_passes_echoes_unplugs_and_replugs(tmp_path):
    async def run():
        server = ModbusRtuServer([ModbusUnit(holding={0: 0x1234})])
        proxy = SerialProxy(await server.start_pty(), tmp_path / "scale", seed=1)
        path = await proxy.start()
        terminal = Terminal(path)
        ask, reply = rtu("01 03 0000 0001"), rtu("01 03 02 1234")
        os.write(terminal.fd, ask)
        assert await terminal.read(len(reply)) == reply
        proxy.to_device.echo = True
        proxy.to_client.split_to = 2
        os.write(terminal.fd, ask)
        assert await terminal.read(len(ask + reply)) == ask + reply
        await proxy.unplug()
        with pytest.raises(OSError, match=r"hung up|Input/output error"):
            await terminal.read(1)
        with pytest.raises(FileNotFoundError):
            Terminal(path)
        terminal.close()
        await proxy.replug()
        terminal = Terminal(path)
        os.write(terminal.fd, ask)
        assert await terminal.read(len(ask + reply)) == ask + reply
        proxy.to_client.hang = True
        proxy.to_device.echo = False
        os.write(terminal.fd, ask)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(terminal.read(1), 0.2)
        proxy.to_client.hang = False
        proxy.to_client.flood_bytes_per_s = 50_000.0
        assert len(set(await terminal.read(4_000))) > 200
        terminal.close()
        await proxy.close()
        await server.close()

    asyncio.run(run())


def test_serial_proxy_outlives_its_instrument(tmp_path):
    async def run():
        server = ModbusRtuServer([ModbusUnit(holding={0: 0x1234})])
        proxy = SerialProxy(await server.start_pty(), tmp_path / "scale", seed=1)
        terminal = Terminal(await proxy.start())
        await server.close()
        os.write(terminal.fd, b"anyone?")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(terminal.read(1), 0.2)
        terminal.close()
        await proxy.close()

    asyncio.run(run())
