"""Modbus lines: blocks of coils and registers over RTU and TCP, and the only use of pymodbus.

pymodbus builds the messages (its ``framer`` and ``pdu``, pinned in pyproject.toml); the pipe, the
waiting, the suspicion and the few lines that take the values out of a checked reply are ours. Its
own client (3.16.1) opens a serial port on the event loop, waits with ``asyncio.wait_for``, which on
Python 3.11 can lose a cancellation, takes a reply with transaction id 0 for any request, and takes
a late RTU reply for the next one.

    RTU   [unit 1][function 1][data][CRC-16 2, low byte first]
    TCP   [transaction 2][protocol 2 = 0][length 2][unit 1][function 1][data]
    data  asked: [address 2][count 2]   reply: [bytes 1][values]   exception: [code 1],
          with 0x80 added to the function
          written: 5  [address 2][FF00 or 0000 2]                   reply: the same
                   15 [address 2][count 2][bytes 1][bits]           reply: [address 2][count 2]
                   16 [address 2][count 2][bytes 1][words]          reply: [address 2][count 2]

Of registers only a ``Question`` is ever written, which can ask for a figure and nothing else. A
reply to function 5 is the request again, so that an adapter that echoes looks like an answer: what
was written is always read back.

Sources: MODBUS Application Protocol Specification V1.1b3, sections 6.1-6.5, 6.11, 6.12 and 7;
MODBUS over Serial Line V1.02, section 2.5.1; MODBUS Messaging on TCP/IP V1.0b, section 3.1.3.

RTU carries no transaction number, so a late reply looks like the next request's. The promise: a
reply up to ``max_lateness_s`` after its time-out never becomes another block's value. It is kept
by leaving *that unit* alone for so long after each request that was not properly answered, timed
out and cancelled ones alike; other units go on, for a reply names its unit and a reply of another
unit is thrown away. After opening, the whole line is left alone, for whoever used it before us.
"""

from __future__ import annotations

import asyncio
import logging
import struct
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Literal, Protocol

from pymodbus.constants import ExcCodes
from pymodbus.framer import FramerRTU, FramerSocket
from pymodbus.pdu import DecodePDU, ModbusPDU
from pymodbus.pdu.bit_message import (
    ReadCoilsRequest,
    ReadDiscreteInputsRequest,
    WriteMultipleCoilsRequest,
    WriteSingleCoilRequest,
)
from pymodbus.pdu.register_message import (
    ReadHoldingRegistersRequest,
    ReadInputRegistersRequest,
    WriteMultipleRegistersRequest,
)

from drivers.base import Block, CoilWrite, LineParameters, Question
from drivers.readings import Reason
from drivers.transport import LinkError, Pipe, open_pipe

logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # we raise what it would log

Framing = Literal["rtu", "tcp"]

QUIET_S = 0.02
"""No byte for so long ends a message. The specification's 3.5 characters (4 ms at 9600 baud) are
invisible behind USB adapters, which deliver every 16 ms."""
QUIET_AT_MOST_S = 1.0
OPEN_TIMEOUT_S = 5.0
HELD_S = 10.0
"""A line that worked for so long begins again with the shortest delay when it is lost."""
MUTE_LIMIT = 3
"""So many requests in a row without a single byte back, and the line is opened anew."""

_BIT_TABLES = ("coils", "discrete")
_REQUESTS = {
    "coils": ReadCoilsRequest,
    "discrete": ReadDiscreteInputsRequest,
    "holding": ReadHoldingRegistersRequest,
    "input": ReadInputRegistersRequest,
}
_WRITE_ONE, _WRITE_SEVERAL = 5, 15
_EXCEPTION = 0x80
_NOISE = b"\x00\xff"  # what a driver's turn-around leaves on RS-485; no unit has these ids
_GATEWAY_CODES = (ExcCodes.GATEWAY_PATH_UNAVIABLE, ExcCodes.GATEWAY_NO_RESPONSE)
_MBAP = struct.Struct(">HHHB")
_MBAP_LENGTHS = range(3, 255)  # unit, function and at least one byte; at most a PDU of 253


class GoneError(LinkError):
    """The line itself is not there: not opened, unplugged, closed by the other side."""


class NoReplyError(LinkError):
    """The unit did not answer in time, or the gateway before it says so."""

    reason = Reason.NO_REPLY


class ExceptionReplyError(LinkError):
    """The unit answered that it will not; ``code`` is the Modbus exception code."""

    reason = Reason.DEVICE_ERROR

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class RefusedReplyError(LinkError):
    """Something came that is not the answer to what was asked."""

    def __init__(self, text: str, reason: Reason) -> None:
        super().__init__(text)
        self.reason = reason


class Delays(Protocol):
    """Growing delays between attempts to open [s]."""

    def next_s(self) -> float:
        """Return how long to wait before the next attempt [s]."""

    def reset(self) -> None:
        """Begin again with the shortest."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """One request: what it says without its frame, and what the reply must be like."""

    payload: bytes
    function: int
    data_bytes: int
    text: str
    is_bits: bool = False
    answer: bytes | None = None
    """The only right reply, where it is known beforehand: that to a write."""


@lru_cache(maxsize=1024)
def _asked(unit: int, block: Block) -> _Asked:
    request = _REQUESTS[block.table](address=block.address, count=block.count, dev_id=unit)
    is_bits = block.table in _BIT_TABLES
    return _Asked(
        payload=bytes([request.function_code]) + request.encode(),
        function=request.function_code,
        data_bytes=(block.count + 7) // 8 if is_bits else 2 * block.count,
        text=f"unit {unit}, {block.table} {block.address}+{block.count}",
        is_bits=is_bits,
    )


def _writing(unit: int, write: CoilWrite) -> _Asked:
    request: WriteSingleCoilRequest | WriteMultipleCoilsRequest
    if write.function == _WRITE_ONE:
        request = WriteSingleCoilRequest(
            address=write.address, bits=list(write.values), dev_id=unit
        )
    else:
        request = WriteMultipleCoilsRequest(
            address=write.address, bits=list(write.values), dev_id=unit
        )
    where = f"unit {unit}, writing coils {write.address}+{len(write.values)}"
    return _written(request, where)


def _asking(unit: int, question: Question) -> _Asked:
    request = WriteMultipleRegistersRequest(
        address=question.address, registers=list(question.words), dev_id=unit
    )
    return _written(request, f"unit {unit}, asking for {question.asked} at {question.address}")


def _written(request: ModbusPDU, text: str) -> _Asked:
    payload = bytes([request.function_code]) + request.encode()
    return _Asked(
        payload=payload,
        function=request.function_code,
        data_bytes=4,
        text=text,
        answer=payload[:5],
    )


class ModbusLine:
    """One serial line or one TCP connection, shared by the units behind it.

    It opens itself when it is first read and after a loss, not more often than ``delays`` allow.
    One request is under way at a time.
    """

    def __init__(
        self, port: str, line: LineParameters, *, framing: Framing, delays: Delays
    ) -> None:
        self.port = port
        self.line = line
        self.framing = framing
        self.opened = 0
        """How often it was opened."""
        self.users = 0
        self._delays = delays
        self._lock = asyncio.Lock()
        self._pipe: Pipe | None = None
        self._opened_at = 0.0
        self._retry_at = 0.0
        self._trouble = ""
        self._mute = 0
        self._transaction = 0
        self._rest = b""  # TCP only: the head of a message whose tail is still to come
        self._alone_until: dict[int, float] = {}
        self._mailboxes: dict[int, asyncio.Lock] = {}
        decoder = DecodePDU(is_server=False)
        self._rtu = FramerRTU(decoder)
        self._socket = FramerSocket(decoder)

    def join(self) -> None:
        """Count one more user."""
        self.users += 1

    def leave(self) -> None:
        """Count one user less; the last one closes the line."""
        self.users -= 1
        if self.users == 0:
            self.close()

    def close(self) -> None:
        """Give the port back; the next read opens it again."""
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None

    async def read_block(
        self, unit: int, block: Block, *, timeout_s: float, max_lateness_s: float
    ) -> tuple[int, ...]:
        """Return the block's registers, or its coils as 0 and 1.

        With questions: each is written and read behind, all replies in one row; a unit is asked one
        block's questions at a time. ``max_lateness_s`` matters to RTU framing only (TCP numbers its
        replies).

        Raises
        ------
        GoneError, NoReplyError, ExceptionReplyError, RefusedReplyError
            All of them LinkError.
        """
        asked = _asked(unit, block)
        if not block.questions:
            values = await self._request(
                unit, asked, timeout_s=timeout_s, max_lateness_s=max_lateness_s
            )
            return values[: block.count]
        within = partial(self._request, unit, timeout_s=timeout_s, max_lateness_s=max_lateness_s)
        answers: tuple[int, ...] = ()
        async with self._mailboxes.setdefault(unit, asyncio.Lock()):
            for question in block.questions:
                await within(_asking(unit, question))
                await asyncio.sleep(question.wait_s)
                answers += (await within(asked))[: block.count]
        return answers

    async def write_coils(
        self, unit: int, write: CoilWrite, *, timeout_s: float, max_lateness_s: float
    ) -> None:
        """Set coils; that the unit has answered is no proof that they are set: read them back.

        Raises
        ------
        GoneError, NoReplyError, ExceptionReplyError, RefusedReplyError
            All of them LinkError.
        """
        await self._request(
            unit, _writing(unit, write), timeout_s=timeout_s, max_lateness_s=max_lateness_s
        )

    async def _request(
        self, unit: int, asked: _Asked, *, timeout_s: float, max_lateness_s: float
    ) -> tuple[int, ...]:
        loop = asyncio.get_running_loop()
        while True:
            if (wait_s := self._alone_until.get(unit, 0.0) - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            async with self._lock:
                pipe = await self._ready(timeout_s + max_lateness_s)
                if self._alone_until.get(unit, 0.0) > loop.time():
                    continue  # another user of this unit had no luck meanwhile
                try:
                    if self.framing == "rtu":
                        await self._drain(pipe, asked.text)
                        self._alone_until[unit] = loop.time() + timeout_s + max_lateness_s
                    values = await self._exchange(pipe, unit, asked, timeout_s)
                except (NoReplyError, RefusedReplyError):
                    self._check_mute()
                    raise
                except (ExceptionReplyError, GoneError):
                    raise
                except LinkError as exc:
                    self._lose(str(exc))
                    raise GoneError(str(exc)) from exc
            if loop.time() - self._opened_at > HELD_S:
                self._delays.reset()
            return values

    # ------------------------------------------------------------ opening and losing

    async def _ready(self, settle_s: float) -> Pipe:
        if self._pipe is not None:
            return self._pipe
        loop = asyncio.get_running_loop()
        if loop.time() < self._retry_at:
            raise GoneError(self._trouble)
        try:
            self._pipe = await open_pipe(self.port, self.line, timeout_s=OPEN_TIMEOUT_S)
        except LinkError as exc:
            self._lose(str(exc))
            raise GoneError(str(exc)) from exc
        self.opened += 1
        self._mute = 0
        self._rest = b""
        self._opened_at = loop.time()
        if self.framing == "rtu":
            await self._settle(self._pipe, settle_s)
        return self._pipe

    async def _settle(self, pipe: Pipe, settle_s: float) -> None:
        """Leave a line alone that was just opened: its last user may still be answered."""
        try:
            await asyncio.sleep(settle_s)
            await self._drain(pipe, self.port)
        except asyncio.CancelledError:
            self.close()  # not settled: the next user opens it and waits again
            raise
        except LinkError as exc:
            self._lose(str(exc))
            raise GoneError(str(exc)) from exc

    def _lose(self, trouble: str) -> None:
        self.close()
        self._trouble = trouble
        self._retry_at = asyncio.get_running_loop().time() + self._delays.next_s()

    def _check_mute(self) -> None:
        # A half-open connection, or an adapter that hangs; a dead unit alone does not come here,
        # for the others on its line answer in between.
        if self._mute >= max(MUTE_LIMIT, MUTE_LIMIT * self.users):
            self.close()

    # ------------------------------------------------------------ one request

    async def _exchange(
        self, pipe: Pipe, unit: int, asked: _Asked, timeout_s: float
    ) -> tuple[int, ...]:
        reply: _Reply
        if self.framing == "rtu":
            message = self._rtu.encode(asked.payload, unit, 0)
            reply = _RtuReply(self.port, unit, asked, message)
        else:
            self._transaction = self._transaction % 0xFFFF + 1
            message = self._socket.encode(asked.payload, unit, self._transaction)
            reply = _TcpReply(self.port, unit, asked, self._transaction, self._rest)
        self._mute += 1
        data: bytes | None = None
        is_sent = False
        try:
            async with asyncio.timeout(timeout_s):
                await pipe.write(message)
                is_sent = True
                while data is None:
                    received = await pipe.read()
                    self._mute = 0
                    data = reply.feed(received)
        except TimeoutError as exc:
            raise reply.missing(timeout_s) from exc
        except _BrokenError as exc:
            self.close()
            raise RefusedReplyError(str(exc), Reason.SYNTAX) from exc
        finally:
            self._rest = reply.rest
            if not is_sent:
                self.close()  # half a request would spoil the next one
        self._alone_until.pop(unit, None)
        return self._values(data, asked)

    async def _drain(self, pipe: Pipe, text: str) -> None:
        """Throw away what came unasked, and what still comes behind it."""
        if not pipe.drain():
            return
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + QUIET_AT_MOST_S
        while loop.time() < give_up_at:
            try:
                async with asyncio.timeout(QUIET_S):
                    await pipe.read()
            except TimeoutError:
                return
        raise RefusedReplyError(
            f"{text} was not asked: {self.port} talks without end; check baud, parity and wiring",
            Reason.FLOOD,
        )

    def _values(self, data: bytes, asked: _Asked) -> tuple[int, ...]:
        """Return what a checked reply holds: registers, or every bit of its bytes, lowest first."""
        if data[0] & _EXCEPTION:
            raise _exception(self.port, asked, data[1])
        if asked.answer is not None:
            return ()
        if asked.is_bits:
            return tuple(byte >> place & 1 for byte in data[2:] for place in range(8))
        return struct.unpack_from(f">{asked.data_bytes // 2}H", data, 2)


class _BrokenError(Exception):
    """A TCP stream that no longer says where a message begins."""


class _Reply:
    """Collects one reply; ``feed`` returns its function and data once it is there and right."""

    def __init__(self, port: str, unit: int, asked: _Asked) -> None:
        self._port = port
        self._unit = unit
        self._asked = asked
        self._buffer = b""
        self._foreign = ""

    @property
    def rest(self) -> bytes:
        """Return what is left of the stream."""
        return self._buffer

    def feed(self, data: bytes) -> bytes | None:
        """Return function and data of the reply, or None while it is not whole."""
        raise NotImplementedError

    def missing(self, timeout_s: float) -> LinkError:
        """Return what to raise when time is up."""
        where = f"{self._asked.text} on {self._port}"
        if self._foreign:
            return RefusedReplyError(
                f"{where}: {self._foreign} answered instead within {timeout_s:g} s; check unit ids",
                Reason.UNIT,
            )
        if self._buffer:
            return RefusedReplyError(
                f"{where}: only {len(self._buffer)} bytes of a reply within {timeout_s:g} s "
                f"({self._buffer[:16].hex()}); check wiring, baud and timeout_s",
                Reason.TRUNCATED,
            )
        return NoReplyError(
            f"{where}: no reply within {timeout_s:g} s; check power, wiring, unit id and baud"
        )

    def _refused(self, reason: Reason, seen: str) -> RefusedReplyError:
        return RefusedReplyError(f"{self._asked.text} on {self._port}: {seen}", reason)

    def _checked(self, message: bytes) -> bytes:
        """Return function and data where they answer the request."""
        function, asked = message[0], self._asked
        if function == asked.function | _EXCEPTION and len(message) == 2:
            return message
        if function != asked.function:
            raise self._refused(Reason.UNKNOWN, f"function {function} came, not {asked.function}")
        if asked.answer is not None:
            if message != asked.answer:
                raise self._refused(Reason.SYNTAX, f"{message.hex()} came, not what was written")
            return message
        if message[1] != asked.data_bytes or len(message) != 2 + asked.data_bytes:
            raise self._refused(
                Reason.LENGTH, f"{len(message) - 2} data bytes came, not {asked.data_bytes}"
            )
        return message


class _RtuReply(_Reply):
    def __init__(self, port: str, unit: int, asked: _Asked, request: bytes) -> None:
        super().__init__(port, unit, asked)
        # The reply to function 5 is the request again: the first one counts as the answer.
        self._echo = b"" if asked.function == _WRITE_ONE else request

    def feed(self, data: bytes) -> bytes | None:
        self._buffer = (self._buffer + data).lstrip(_NOISE)
        while (length := self._length()) is not None and len(self._buffer) >= length:
            message, rest = self._buffer[:length], self._buffer[length:]
            if self._echo and self._buffer.startswith(self._echo):
                self._buffer, self._echo = self._buffer[len(self._echo) :], b""
                continue
            if FramerRTU.compute_CRC(message[:-2]) != int.from_bytes(message[-2:], "big"):
                raise self._refused(Reason.CHECKSUM, f"the CRC of {message[:16].hex()} is wrong")
            if message[0] == self._unit:
                if rest:
                    raise self._refused(
                        Reason.LENGTH, f"{len(rest)} bytes came behind the reply; two merged"
                    )
                return self._checked(message[1:-2])
            self._foreign = f"unit {message[0]}"
            self._buffer = rest.lstrip(_NOISE)
        return None

    def _length(self) -> int | None:
        """Return how long the message at the front must be; None: not yet known."""
        if self._echo and len(self._buffer) < len(self._echo):
            if self._echo.startswith(self._buffer):
                return None  # so far as good as our own request, sent back by the adapter
        elif self._echo and self._buffer.startswith(self._echo):
            return len(self._echo)
        if len(self._buffer) < 3:
            return None
        function = self._buffer[1]
        if function & _EXCEPTION:
            return 5
        if function == self._asked.function and self._asked.answer is not None:
            return 3 + len(self._asked.answer)
        if not 1 <= function <= 4:
            seen = f"{self._buffer[:16].hex()} is no reply to this request"
            raise self._refused(Reason.UNKNOWN, seen)
        return 5 + self._buffer[2]


class _TcpReply(_Reply):
    def __init__(self, port: str, unit: int, asked: _Asked, transaction: int, rest: bytes) -> None:
        super().__init__(port, unit, asked)
        self._transaction = transaction
        self._buffer = rest

    def feed(self, data: bytes) -> bytes | None:
        self._buffer += data
        while len(self._buffer) >= _MBAP.size:
            transaction, protocol, length, unit = _MBAP.unpack_from(self._buffer)
            if protocol != 0 or length not in _MBAP_LENGTHS:
                raise _BrokenError(
                    f"{self._asked.text} on {self._port}: {self._buffer[:16].hex()} is no "
                    "Modbus TCP; check the port and framing"
                )
            if len(self._buffer) < 6 + length:
                return None
            message, self._buffer = self._buffer[7 : 6 + length], self._buffer[6 + length :]
            if transaction != self._transaction:
                continue  # the late reply to an earlier request
            if unit != self._unit:
                raise self._refused(
                    Reason.UNIT, f"unit {unit} answered; set unit to what the device answers with"
                )
            return self._checked(message)
        return None


def _exception(port: str, asked: _Asked, code: int) -> LinkError:
    try:
        name = ExcCodes(code).name.replace("UNAVIABLE", "UNAVAILABLE").replace("_", " ").lower()
    except ValueError:
        name = "not in the specification"
    text = f"{asked.text} on {port}: Modbus exception {code} ({name})"
    if code in _GATEWAY_CODES:
        return NoReplyError(f"{text}; check the unit's power and wiring behind the gateway")
    return ExceptionReplyError(
        f"{text}; check the driver's addresses and the device's manual", code
    )


def framing_of(port: str, option: Literal["auto", "rtu", "tcp"]) -> Framing:
    """Return the framing: as set, or RTU on a serial line and TCP on ``tcp://``."""
    if option == "auto":
        return "tcp" if port.startswith("tcp://") else "rtu"
    return option
