"""A Modbus server written by hand, on TCP or as RTU on a serial line, that can also misbehave.

::

    TCP   tt tt 00 00 ll ll uu ff ...    t  transaction, echoed   l  bytes that follow, with unit
    RTU   uu ff ... cc cc                u  unit   f  function, +80h in an exception
                                         c  CRC-16 of all before it, low byte first
    01 02 read bits      aa aa nn nn -> bb v...     first bit is the lowest of the first byte
    03 04 read words     aa aa nn nn -> bb v...     high byte first
    05    write a coil   aa aa FF00|0000 -> the same
    06    write a word   aa aa vv vv     -> the same
    15    write coils    aa aa nn nn bb v... -> aa aa nn nn
    16    write words    aa aa nn nn bb v... -> aa aa nn nn

Exceptions: 1 unknown function, 2 an address the unit does not have, 3 an impossible count or value.
Source: MODBUS Application Protocol Specification V1.1b3, chapter 6; MODBUS over Serial Line
V1.02, 2.5.1 and 6.2.2 (CRC-16: polynomial A001h, start FFFFh).
"""

from __future__ import annotations

import asyncio
import math
import struct
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from simulators.ports import PtyPort, Send, TcpPort

ILLEGAL_FUNCTION = 1
ILLEGAL_ADDRESS = 2
ILLEGAL_VALUE = 3
_BROADCAST = 0
# The line's rule is 3.5 characters of silence (4 ms at 9600 baud); a busy machine needs more.
_FRAME_GAP_S = 0.02


@dataclass(frozen=True, slots=True)
class Request:
    """What a client asked: function, first address, and how many bits or words."""

    function: int
    address: int
    count: int


@dataclass(slots=True, kw_only=True, eq=False)
class ModbusUnit:
    """One unit: four banks that may be changed at any time, and how it misbehaves.

    An address that is not in its bank does not exist (exception 2). Each fault stays until it is
    taken back, save ``drop`` and ``merge_next``, which are used up.
    """

    unit_id: int = 1
    coils: dict[int, bool] = field(default_factory=dict)
    discrete: dict[int, bool] = field(default_factory=dict)
    input: dict[int, int] = field(default_factory=dict)
    holding: dict[int, int] = field(default_factory=dict)
    before_request: Callable[[], None] | None = None  # brings the banks up to date
    after_write: Callable[[], None] | None = None  # sees the banks as a client has left them

    silent: bool = False  # hears nothing, does nothing
    delay_s: float = 0.0  # replies come that late, in order; later requests are still heard
    drop: int = 0  # so many replies are lost after the request was carried out
    merge_next: bool = False  # the next reply waits and goes out in one piece with the one after
    exception_code: int | None = None  # every request is answered by this exception
    wrong_unit: int | None = None  # replies carry this unit id
    truncate_to: int | None = None  # replies lose everything after so many bytes

    requests: deque[Request] = field(default_factory=lambda: deque(maxlen=10_000))

    def set_words(self, bank: dict[int, int], address: int, words: Iterable[int]) -> None:
        """Write consecutive 16-bit words; a negative one becomes its two's complement."""
        for offset, word in enumerate(words):
            bank[address + offset] = word & 0xFFFF

    def answer(self, pdu: bytes) -> bytes:
        """Carry out one request without its address and checksum and return the reply likewise."""
        if self.before_request is not None:
            self.before_request()
        function = pdu[0]
        if len(pdu) >= 5:
            address, count = struct.unpack(">HH", pdu[1:5])
            is_single = function in (5, 6)
            self.requests.append(Request(function, address, 1 if is_single else count))
        code = self.exception_code
        if code is None:
            reply = self._carry_out(function, pdu)
            if isinstance(reply, bytes):
                if function in (5, 6, 15, 16) and self.after_write is not None:
                    self.after_write()
                return reply
            code = reply
        return bytes((function | 0x80, code))

    def _carry_out(self, function: int, pdu: bytes) -> bytes | int:
        """Return the reply, or the exception code."""
        match function:
            case 1:
                return _read_bits(self.coils, pdu)
            case 2:
                return _read_bits(self.discrete, pdu)
            case 3:
                return _read_words(self.holding, pdu)
            case 4:
                return _read_words(self.input, pdu)
            case 5:
                return _write_coil(self.coils, pdu)
            case 6:
                return _write_word(self.holding, pdu)
            case 15:
                return _write_coils(self.coils, pdu)
            case 16:
                return _write_words(self.holding, pdu)
            case _:
                return ILLEGAL_FUNCTION


def _read_bits(bank: Mapping[int, bool], pdu: bytes) -> bytes | int:
    if len(pdu) != 5:
        return ILLEGAL_VALUE
    address, count = struct.unpack(">HH", pdu[1:])
    if not 1 <= count <= 2000:
        return ILLEGAL_VALUE
    packed = bytearray((count + 7) // 8)
    for number in range(count):
        bit = bank.get(address + number)
        if bit is None:
            return ILLEGAL_ADDRESS
        if bit:
            packed[number // 8] |= 1 << number % 8
    return bytes((pdu[0], len(packed))) + packed


def _read_words(bank: Mapping[int, int], pdu: bytes) -> bytes | int:
    if len(pdu) != 5:
        return ILLEGAL_VALUE
    address, count = struct.unpack(">HH", pdu[1:])
    if not 1 <= count <= 125:
        return ILLEGAL_VALUE
    try:
        words = [bank[place] & 0xFFFF for place in range(address, address + count)]
    except KeyError:
        return ILLEGAL_ADDRESS
    return struct.pack(f">BB{count}H", pdu[0], 2 * count, *words)


def _write_coil(bank: dict[int, bool], pdu: bytes) -> bytes | int:
    if len(pdu) != 5 or pdu[3:] not in (b"\xff\x00", b"\x00\x00"):
        return ILLEGAL_VALUE
    (address,) = struct.unpack(">H", pdu[1:3])
    if address not in bank:
        return ILLEGAL_ADDRESS
    bank[address] = pdu[3] == 0xFF
    return pdu


def _write_word(bank: dict[int, int], pdu: bytes) -> bytes | int:
    if len(pdu) != 5:
        return ILLEGAL_VALUE
    address, word = struct.unpack(">HH", pdu[1:])
    if address not in bank:
        return ILLEGAL_ADDRESS
    bank[address] = word
    return pdu


def _write_coils(bank: dict[int, bool], pdu: bytes) -> bytes | int:
    if len(pdu) < 6:
        return ILLEGAL_VALUE
    address, count, size = struct.unpack(">HHB", pdu[1:6])
    if not 1 <= count <= 1968 or size != (count + 7) // 8 or len(pdu) != 6 + size:
        return ILLEGAL_VALUE
    places = range(address, address + count)
    if any(place not in bank for place in places):
        return ILLEGAL_ADDRESS
    for number, place in enumerate(places):
        bank[place] = bool(pdu[6 + number // 8] >> number % 8 & 1)
    return pdu[:5]


def _write_words(bank: dict[int, int], pdu: bytes) -> bytes | int:
    if len(pdu) < 6:
        return ILLEGAL_VALUE
    address, count, size = struct.unpack(">HHB", pdu[1:6])
    if not 1 <= count <= 123 or size != 2 * count or len(pdu) != 6 + size:
        return ILLEGAL_VALUE
    places = range(address, address + count)
    if any(place not in bank for place in places):
        return ILLEGAL_ADDRESS
    bank.update(zip(places, struct.unpack(f">{count}H", pdu[6:]), strict=True))
    return pdu[:5]


def _crc_of_byte(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0xA001 if value & 1 else 0)
    return value


_CRC_TABLE = tuple(_crc_of_byte(value) for value in range(256))


def crc16(data: bytes) -> bytes:
    """Return the CRC-16 of an RTU frame as it goes on the line, low byte first."""
    crc = 0xFFFF
    for value in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ value) & 0xFF]
    return crc.to_bytes(2, "little")


class _Outbox:
    """Sends a client its replies with the faults of the unit that gives them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, float] = {}  # when a unit's latest reply goes out
        self._held: dict[int, bytes] = {}
        self._timers: set[asyncio.TimerHandle] = set()

    def put(self, unit: ModbusUnit, frame: bytes) -> None:
        if unit.drop > 0:
            unit.drop -= 1
            return
        if unit.truncate_to is not None:
            frame = frame[: unit.truncate_to]
        frame = self._held.pop(unit.unit_id, b"") + frame
        if unit.merge_next:
            unit.merge_next = False
            self._held[unit.unit_id] = frame
            return
        now = self._loop.time()
        before = self._due.get(unit.unit_id, 0.0)
        if unit.delay_s <= 0 and before <= now:
            self._send(frame)
            return
        # Strictly later than the one before, because the loop keeps no order among equals.
        due = max(now + unit.delay_s, math.nextafter(before, math.inf))
        self._due[unit.unit_id] = due
        timer = self._loop.call_at(due, self._send, frame)
        self._timers = {old for old in self._timers if old.when() > now} | {timer}

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()


class _TcpTalk:
    def __init__(
        self, units: Mapping[int, ModbusUnit], absent_code: int | None, send: Send
    ) -> None:
        self._units = units
        self._absent_code = absent_code
        self._send = send
        self._outbox = _Outbox(send)
        self._buffer = bytearray()
        self._is_lost = False

    def received(self, data: bytes) -> None:
        if self._is_lost:
            return
        self._buffer += data
        while len(self._buffer) >= 8:
            transaction, protocol, length, unit_id = struct.unpack(">HHHB", self._buffer[:7])
            if protocol != 0 or not 2 <= length <= 254:
                # Without a length there is no next frame; a real server hangs up or goes deaf.
                self._is_lost = True
                return
            if len(self._buffer) < 6 + length:
                return
            pdu = bytes(self._buffer[7 : 6 + length])
            del self._buffer[: 6 + length]
            self._answer(transaction, unit_id, pdu)

    def _answer(self, transaction: int, unit_id: int, pdu: bytes) -> None:
        unit = self._units.get(unit_id)
        if unit is None:
            if self._absent_code is not None:
                refusal = (transaction, 0, 3, unit_id, pdu[0] | 0x80, self._absent_code)
                self._send(struct.pack(">HHHBBB", *refusal))
            return
        if unit.silent:
            return
        reply = unit.answer(pdu)
        shown = unit_id if unit.wrong_unit is None else unit.wrong_unit
        header = struct.pack(">HHHB", transaction, 0, len(reply) + 1, shown)
        self._outbox.put(unit, header + reply)

    def closed(self) -> None:
        self._outbox.close()


class _RtuTalk:
    def __init__(self, units: Mapping[int, ModbusUnit], gap_s: float, send: Send) -> None:
        self._units = units
        self._gap_s = gap_s
        self._outbox = _Outbox(send)
        self._buffer = bytearray()
        self._loop = asyncio.get_running_loop()
        self._silence: asyncio.TimerHandle | None = None

    def received(self, data: bytes) -> None:
        self._buffer += data
        while (size := self._frame_size()) is not None and self._take(size):
            pass
        if self._silence is not None:
            self._silence.cancel()
        self._silence = self._loop.call_later(self._gap_s, self._end_frame)

    def _frame_size(self) -> int | None:
        """Return the length that the function code tells; None: too little, or not known."""
        if len(self._buffer) < 8:
            return None
        function = self._buffer[1]
        if 1 <= function <= 6:
            return 8
        return 9 + self._buffer[6] if function in (15, 16) else None

    def _take(self, size: int) -> bool:
        """Answer the first frame; False where it is not whole or its CRC is wrong."""
        frame = bytes(self._buffer[:size])
        if size < 4 or len(frame) < size or crc16(frame[:-2]) != frame[-2:]:
            return False
        del self._buffer[:size]
        self._answer(frame[0], frame[1:-2])
        return True

    def _end_frame(self) -> None:
        """Silence ends a frame: one of unknown function is refused, a broken one forgotten."""
        self._take(len(self._buffer))
        self._buffer.clear()

    def _answer(self, unit_id: int, pdu: bytes) -> None:
        if unit_id == _BROADCAST:
            for unit in self._units.values():
                if not unit.silent:
                    unit.answer(pdu)
            return
        heard = self._units.get(unit_id)
        if heard is None or heard.silent:
            return
        shown = unit_id if heard.wrong_unit is None else heard.wrong_unit
        frame = bytes((shown,)) + heard.answer(pdu)
        self._outbox.put(heard, frame + crc16(frame))

    def closed(self) -> None:
        if self._silence is not None:
            self._silence.cancel()
        self._outbox.close()


class ModbusTcpServer:
    """Modbus TCP on the loopback.

    Parameters
    ----------
    units : the units; ids must differ
    absent_code : what a request to any other unit gets, such as 0Bh from a gateway; None: silence
    """

    def __init__(self, units: Iterable[ModbusUnit], *, absent_code: int | None = None) -> None:
        self.units = _by_id(units)
        self._port = TcpPort(lambda send: _TcpTalk(self.units, absent_code, send))

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1 and return the port number; 0 lets the system choose."""
        return await self._port.open(port)

    async def close(self) -> None:
        """Stop listening and cut every client off; may be started again."""
        await self._port.close()


class ModbusRtuServer:
    """Modbus RTU units on one line: a pseudo-terminal, or the same bytes over TCP.

    Parameters
    ----------
    units : the units on the line; ids must differ, and 0 is the broadcast
    gap_s : the silence that ends a frame [s]
    """

    def __init__(self, units: Iterable[ModbusUnit], *, gap_s: float = _FRAME_GAP_S) -> None:
        self.units = _by_id(units)
        self._gap_s = gap_s
        self._pty: PtyPort | None = None
        self._tcp: TcpPort | None = None

    def _talk(self, send: Send) -> _RtuTalk:
        return _RtuTalk(self.units, self._gap_s, send)

    async def start_pty(self) -> str:
        """Open a pseudo-terminal and return the path that a client opens."""
        self._pty = PtyPort(self._talk)
        return self._pty.path

    async def start_tcp(self, port: int = 0) -> int:
        """Listen as a serial device server does (RTU frames over TCP) and return the port."""
        self._tcp = TcpPort(self._talk)
        return await self._tcp.open(port)

    async def close(self) -> None:
        """Close the line."""
        if self._pty is not None:
            self._pty.close()
        if self._tcp is not None:
            await self._tcp.close()


def _by_id(units: Iterable[ModbusUnit]) -> dict[int, ModbusUnit]:
    known: dict[int, ModbusUnit] = {}
    for unit in units:
        if unit.unit_id in known:
            raise ValueError(f"unit id {unit.unit_id} is used twice; give each unit its own")
        known[unit.unit_id] = unit
    return known
