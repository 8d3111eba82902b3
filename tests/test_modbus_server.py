"""The Modbus server against request and reply bytes from the specification, and its faults."""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty

import pytest

from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit, Request, crc16

LIMIT_S = 5.0


def words_unit(**options):
    """Holds what the examples of the Modbus Application Protocol V1.1b3, chapter 6, read."""
    unit = ModbusUnit(**options)
    unit.set_words(unit.holding, 0x6B, [0x022B, 0x0000, 0x0064])
    unit.set_words(unit.holding, 1, [0, 0])
    unit.input[8] = 0x000A
    coils, discrete = bytes.fromhex("CD6B05"), bytes.fromhex("ACDB35")
    for number in range(19):
        unit.coils[0x13 + number] = bool(coils[number // 8] >> number % 8 & 1)
    for number in range(22):
        unit.discrete[0xC4 + number] = bool(discrete[number // 8] >> number % 8 & 1)
    unit.coils[0xAC] = False
    return unit


@pytest.mark.parametrize(
    ("request_hex", "reply_hex"),
    [
        ("01 0013 0013", "01 03 CD6B05"),
        ("02 00C4 0016", "02 03 ACDB35"),
        ("03 006B 0003", "03 06 022B 0000 0064"),
        ("04 0008 0001", "04 02 000A"),
        ("05 00AC FF00", "05 00AC FF00"),
        ("06 0001 0003", "06 0001 0003"),
        ("0F 0013 000A 02 CD01", "0F 0013 000A"),
        ("10 0001 0002 04 000A 0102", "10 0001 0002"),
    ],
)
def test_examples_of_the_specification_are_answered_to_the_byte(request_hex, reply_hex):
    assert words_unit().answer(bytes.fromhex(request_hex)) == bytes.fromhex(reply_hex)


@pytest.mark.parametrize(
    ("request_hex", "reply_hex"),
    [
        ("07", "87 01"),
        ("2B 0E 01 00", "AB 01"),
        ("03 006B 0004", "83 02"),
        ("04 0009 0001", "84 02"),
        ("01 0012 0001", "81 02"),
        ("05 0001 FF00", "85 02"),
        ("06 0000 0001", "86 02"),
        ("10 0002 0002 04 0001 0002", "90 02"),
        ("03 006B 0000", "83 03"),
        ("03 0000 007E", "83 03"),
        ("01 0000 07D1", "81 03"),
        ("05 00AC 0001", "85 03"),
        ("0F 0013 000A 01 CD", "8F 03"),
        ("10 0001 0002 04 000A", "90 03"),
        ("03 006B", "83 03"),
    ],
)
def test_impossible_requests_get_their_exception(request_hex, reply_hex):
    assert words_unit().answer(bytes.fromhex(request_hex)) == bytes.fromhex(reply_hex)


def test_writes_reach_the_banks_and_only_them():
    unit = words_unit()
    unit.answer(bytes.fromhex("10 0001 0002 04 000A 0102"))
    unit.answer(bytes.fromhex("05 00AC FF00"))
    unit.answer(bytes.fromhex("0F 0013 000A 02 0000"))
    unit.answer(bytes.fromhex("10 0002 0002 04 7777 7777"))  # refused whole: 3 does not exist
    assert (unit.holding[1], unit.holding[2], 3 in unit.holding) == (0x000A, 0x0102, False)
    assert unit.coils[0xAC] is True
    assert [unit.coils[0x13 + n] for n in range(10)] == [False] * 10
    assert unit.coils[0x1D] is False
    assert unit.coils[0x1E] is True  # beyond the ten, as 6Bh had it


def test_negative_words_go_out_as_two_s_complement():
    unit = ModbusUnit()
    unit.set_words(unit.input, 0, [-1, -32768])
    assert unit.answer(bytes.fromhex("04 0000 0002")) == bytes.fromhex("04 04 FFFF 8000")


def test_crc_of_known_frames():
    # 02 07 is the example of MODBUS over Serial Line V1.02, 6.2.2 (CRC 1241h, sent 41 12).
    assert crc16(bytes.fromhex("0207")) == bytes.fromhex("4112")
    # The catalogue's check value of CRC-16/MODBUS is 4B37h.
    assert crc16(b"123456789") == bytes.fromhex("374B")


def test_requests_are_remembered():
    unit = words_unit()
    unit.answer(bytes.fromhex("03 006B 0003"))
    unit.answer(bytes.fromhex("06 0001 0003"))
    assert list(unit.requests) == [Request(3, 0x6B, 3), Request(6, 1, 1)]


def test_units_of_one_id_are_refused():
    with pytest.raises(ValueError, match="unit id 7 is used twice"):
        ModbusTcpServer([ModbusUnit(unit_id=7), ModbusUnit(unit_id=7)])


class Client:
    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    async def ask(self, request, size):
        self.writer.write(bytes.fromhex(request))
        return await self.read(size)

    async def read(self, size):
        return await asyncio.wait_for(self.reader.readexactly(size), LIMIT_S)


def with_tcp(units, play, **options):
    async def run():
        server = ModbusTcpServer(units, **options)
        port = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            await play(Client(reader, writer))
        finally:
            writer.close()
            await server.close()

    asyncio.run(run())


ASK = "0001 0000 0006 01 03 006B 0003"
REPLY = bytes.fromhex("0001 0000 0009 01 03 06 022B 0000 0064")


def test_tcp_echoes_transaction_and_unit_for_split_and_joined_requests():
    async def play(client):
        assert await client.ask(ASK, 15) == REPLY
        for byte in bytes.fromhex(ASK):
            client.writer.write(bytes((byte,)))
            await client.writer.drain()
        assert await client.read(15) == REPLY
        both = await client.ask(ASK + "BEEF 0000 0006 02 04 0008 0001", 26)
        assert both == REPLY + bytes.fromhex("BEEF 0000 0005 02 04 02 000A")

    with_tcp([words_unit(), words_unit(unit_id=2)], play)


def test_tcp_faults_are_switched_while_it_runs():
    unit, other = words_unit(), words_unit(unit_id=2)
    ask_other = "0002 0000 0006 02 04 0008 0001"
    reply_other = bytes.fromhex("0002 0000 0005 02 04 02 000A")

    async def play(client):
        unit.wrong_unit = 9
        assert (await client.ask(ASK, 15))[6] == 9
        unit.wrong_unit = None
        unit.exception_code = 6
        assert await client.ask(ASK, 9) == bytes.fromhex("0001 0000 0003 01 83 06")
        unit.exception_code = None
        unit.truncate_to = 10
        assert await client.ask(ASK, 10) == REPLY[:10]
        unit.truncate_to = None
        unit.drop = 1
        assert await client.ask(ASK + ASK.replace("0001", "0003", 1), 15) == b"\x00\x03" + REPLY[2:]
        unit.silent = True
        # Units answer in the order asked, so the other's answer shows that silence was kept.
        assert await client.ask(ASK + ask_other, 11) == reply_other
        unit.silent = False
        unit.merge_next = True
        assert await client.ask(ASK + ask_other, 11) == reply_other
        assert await client.ask(ASK, 30) == REPLY + REPLY

    with_tcp([unit, other], play)


def test_a_late_reply_keeps_the_unit_s_order_and_delays_no_other_unit():
    unit, other = words_unit(), words_unit(unit_id=2)

    async def play(client):
        unit.delay_s = 0.2
        first = await client.ask(ASK + "0002 0000 0006 02 04 0008 0001", 11)
        assert first[:2] == b"\x00\x02"  # the other unit's came first
        unit.delay_s = 0.0
        late = await client.ask("0003 0000 0006 01 03 006B 0001", 15 + 11)
        assert late[:2] == b"\x00\x01"
        assert late[15:17] == b"\x00\x03"

    with_tcp([unit, other], play)


def test_an_absent_unit_is_silent_or_refused_as_a_gateway_does():
    async def refused(client):
        reply = await client.ask("0001 0000 0006 05 03 0000 0001", 9)
        assert reply == bytes.fromhex("0001 0000 0003 05 83 0B")

    async def silent(client):
        assert await client.ask("0009 0000 0006 05 03 0000 0001" + ASK, 15) == REPLY

    with_tcp([words_unit()], refused, absent_code=0x0B)
    with_tcp([words_unit()], silent)


def test_close_cuts_clients_off_and_the_port_can_be_taken_again():
    async def run():
        server = ModbusTcpServer([words_unit()])
        port = await server.start()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await server.close()
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asyncio.wait_for(reader.readexactly(1), LIMIT_S)
        writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        assert await server.start(port) == port
        await server.close()

    asyncio.run(run())


async def read_serial(fd, size):
    loop = asyncio.get_running_loop()
    data = b""
    arrived = asyncio.Event()
    loop.add_reader(fd, arrived.set)
    try:
        while len(data) < size:
            await asyncio.wait_for(arrived.wait(), LIMIT_S)
            with contextlib.suppress(BlockingIOError):
                data += os.read(fd, size - len(data))
            arrived.clear()
    finally:
        loop.remove_reader(fd)
    return data


def rtu(frame):
    return bytes.fromhex(frame) + crc16(bytes.fromhex(frame))


def with_pty(units, play):
    async def run():
        server = ModbusRtuServer(units)
        fd = os.open(await server.start_pty(), os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(fd)
        try:
            await play(fd)
        finally:
            os.close(fd)
            await server.close()

    asyncio.run(run())


def test_rtu_answers_on_a_pseudo_terminal_and_ignores_a_broken_frame():
    unit = ModbusUnit(unit_id=0x11)
    unit.set_words(unit.holding, 0x6B, [0xAE41, 0x5652, 0x4340])
    reply = bytes.fromhex("11 03 06 AE41 5652 4340 49AD")

    async def play(fd):
        request = bytes.fromhex("11 03 006B 0003 7687")
        os.write(fd, request)
        assert await read_serial(fd, len(reply)) == reply
        os.write(fd, request[:-1] + b"\x00")
        await asyncio.sleep(0.1)  # the silence that ends the broken frame
        os.write(fd, request[:3])
        os.write(fd, request[3:])
        assert await read_serial(fd, len(reply)) == reply
        assert len(unit.requests) == 2

    with_pty([unit], play)


def test_rtu_refuses_an_unknown_function_and_writes_on_broadcast_without_reply():
    units = [words_unit(unit_id=1), words_unit(unit_id=2)]

    async def play(fd):
        os.write(fd, rtu("01 2B 0E 01 00"))
        assert await read_serial(fd, 5) == rtu("01 AB 01")
        os.write(fd, rtu("00 06 0001 0BAD") + rtu("02 03 0001 0001"))
        assert await read_serial(fd, 7) == rtu("02 03 02 0BAD")
        assert [unit.holding[1] for unit in units] == [0x0BAD, 0x0BAD]
        units[1].wrong_unit = 1
        os.write(fd, rtu("02 03 0001 0001"))
        assert await read_serial(fd, 7) == rtu("01 03 02 0BAD")

    with_pty(units, play)


def test_rtu_over_tcp_carries_the_same_frames():
    async def run():
        server = ModbusRtuServer([words_unit()])
        reader, writer = await asyncio.open_connection("127.0.0.1", await server.start_tcp())
        client = Client(reader, writer)
        reply = await client.ask(rtu("01 03 006B 0003").hex(), 11)
        assert reply == rtu("01 03 06 022B 0000 0064")
        writer.close()
        await server.close()

    asyncio.run(run())


def test_the_banks_are_brought_up_to_date_before_each_request():
    unit = ModbusUnit()
    reads = iter((1, 2))
    unit.before_request = lambda: unit.input.update({0: next(reads)})
    assert unit.answer(bytes.fromhex("04 0000 0001")) == bytes.fromhex("04 02 0001")
    assert unit.answer(bytes.fromhex("04 0000 0001")) == bytes.fromhex("04 02 0002")
