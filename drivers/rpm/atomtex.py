"""ATOMTEX BDKG-05 and its family: one smart gamma detector on RS-485, 19200 8N1, address 1.

Modbus RTU but for its CRC, which is sent **high byte first**; an ordinary Modbus library refuses
every reply. All figures high byte first::

    asked   aa 07 KK KK                    answered   aa 07 SS KK KK
    asked   aa 04 00 01 00 0D KK KK        answered   aa 04 1A <26 bytes> KK KK
                                           refused    aa 8f EE KK KK
        1   temperature, two's complement    u16 / 256   [°C]
        2   count rate                       u32         [counts/s]
        4   mean count rate                  f32         [counts/s]
        6   its error                        f32         [%]
        8   ambient dose rate                f32         [Sv/h]
       10   its error                        f32         [%]
       12   dose since it was cleared        f32         [Sv]
    aa  address   SS  status   8f  function + 80h   EE  error code
    KK  CRC-16, polynomial A001h from FFFFh, of all before it, high byte first

After switching on, function 07 is asked until it is answered (about 3.65 s cold), then function
04 once a second. **Nothing is written** unless ``clear_dose`` says so; then, at every opening of
the line and after 3 s of reads, function 06 writes FFFFh to register 0, and function 05 sets coils
23h and 22h, which clears means and dose.

Source: atomtex-esp32 (MIT), which reads such a detector: requests, CRC, registers, start.
Unconfirmed: that all registers come in one reply; the errors being f32; the sign of the
temperature; what the status of function 07 says, which is kept as it came; that the detector
counts without the writes of the start.
Quirk: a USB adapter of FTDI waits 16 ms before it delivers, which breaks the timing; set its
latency timer to 1 ms (``/sys/bus/usb-serial/devices/ttyUSB*/latency_timer``).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import (
    BadFrame,
    DoseRate,
    GammaCounts,
    Housekeeping,
    Reading,
    Reason,
    Undocumented,
)

LINE = LineParameters(baud=19200, data_bits=8, parity="N", stop_bits=1)
PRESENCE = "none"
GAMMA_RULE = "own"
SILENCE_S = 5.0

SETTLE_S = 3.0
COUNTED_S = 1.0
"""Over how long the count rate of register 2 was counted."""
MOST_GARBAGE = 64
"""So many bytes that are no reply are reported at once."""
USV_PER_SV = 1e6

_STATUS, _FIGURES = 0x07, 0x04
_READ = (1, 13)
_FORM = struct.Struct(">h I f f f f f")
_EXCEPTION = 0x80
_WRITES = (0x05, 0x06)
"""Answered by the request itself, so that an adapter's echo cannot be told from the answer."""
_CLEARING = (b"\x06\x00\x00\xff\xff", b"\x05\x00\x23\xff\x00", b"\x05\x00\x22\xff\x00")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the detector is asked."""

    address: Annotated[int, Meta(description="its address on the line", ge=1, le=247)] = 1
    poll_period_s: Annotated[
        float, Meta(description="how often it is asked; it counts for 1 s [s]", ge=1, le=10)
    ] = 1.0
    ready_check: Annotated[
        bool, Meta(description="ask function 07 first; false: the figures at once")
    ] = True
    clear_dose: Annotated[
        bool, Meta(description="clear mean and dose at the start; the only thing ever written")
    ] = False


class Driver:
    """Asks one thing at a time, and takes nothing but its answer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = bytearray()
        self._garbage = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._garbage.clear()
        self._asked = b""  # the whole request that waits for its answer
        self._is_ready = not self._options.ready_check
        self._clearing = list(_CLEARING) if self._options.clear_dose else []
        self._reads_before_clearing = math.ceil(SETTLE_S / self._options.poll_period_s)
        self._may_be_echo = False

    @property
    def poll_period_s(self) -> float:
        """How often to poll [s]."""
        return self._options.poll_period_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer) + len(self._garbage)

    def poll(self) -> bytes:
        """Return the next request; half an earlier answer is shed when the next does not fit it."""
        self._may_be_echo = True
        self._asked = framed(bytes((self._options.address,)) + self._next_question())
        return self._asked

    def _next_question(self) -> bytes:
        if not self._is_ready:
            return bytes((_STATUS,))
        if self._clearing and self._reads_before_clearing <= 0:
            return self._clearing[0]
        return struct.pack(">BHH", _FIGURES, *_READ)

    def silence(self) -> list[Reading]:
        """Drop a half answer and begin again: the detector may have been switched off."""
        half = bytes(self._buffer)
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside an answer")]

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered; it is asked again."""
        if not self._asked:
            return []
        half, self._asked = bytes(self._buffer), b""
        self._buffer.clear()
        if half:
            detail = f"only {len(half)} bytes of an answer came; check wiring and the latency timer"
            return [BadFrame.of(Reason.TRUNCATED, half, detail)]
        detail = "no answer in time; check power, address and wiring"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for byte in data:
            self._buffer.append(byte)
            while self._buffer and self._step(readings):
                pass
        return readings

    def _step(self, readings: list[Reading]) -> bool:
        """Take what the buffer begins with; false while that is not whole."""
        length = self._expected()
        if length is None:
            self._shed(readings)
            return True
        if len(self._buffer) < length:
            return False
        frame = bytes(self._buffer[:length])
        if self._may_be_echo and frame == self._asked and frame[1] not in _WRITES:
            self._may_be_echo = False  # a two-wire adapter sends our own request back
            del self._buffer[:length]
            return True
        if frame[-2:] != crc16(frame[:-2]).to_bytes(2, "big"):
            said = f"the CRC is {frame[-2:].hex()}, not {crc16(frame[:-2]):04x}"
            readings.append(BadFrame.of(Reason.CHECKSUM, frame, said))
            self._shed(readings)
            return True
        del self._buffer[:length]
        self._take(frame, readings)
        return True

    def _expected(self) -> int | None:
        """Return how long the answer at the front must be; None: it is none, not even its head."""
        buffer, asked = self._buffer, self._asked
        if not asked or buffer[0] != asked[0]:
            return None
        if len(buffer) == 1:
            return 2
        if buffer[1] == asked[1] | _EXCEPTION or (buffer[1] == asked[1] == _STATUS):
            is_echo = self._may_be_echo and asked.startswith(buffer[:4]) and buffer[1] == _STATUS
            return 4 if is_echo else 5  # the request is one byte shorter than its answer
        if buffer[1] != asked[1]:
            return None
        if asked[1] != _FIGURES or (self._may_be_echo and asked.startswith(buffer[:8])):
            return 8
        if len(buffer) > 2 and buffer[2] != 2 * _READ[1]:
            return None
        return 5 + 2 * _READ[1]

    def _shed(self, readings: list[Reading]) -> None:
        """Drop one byte that begins no answer."""
        self._garbage.append(self._buffer.pop(0))
        if len(self._garbage) >= MOST_GARBAGE:
            raw = bytes(self._garbage)
            self._garbage.clear()
            detail = "bytes that answer nothing; check baud, address and who else talks here"
            readings.append(BadFrame.of(Reason.FLOOD, raw, detail))

    def _take(self, frame: bytes, readings: list[Reading]) -> None:
        self._asked = b""
        self._garbage.clear()
        function = frame[1]
        if function & _EXCEPTION:
            detail = f"function {function & 0x7F:02X}h refused with code {frame[2]}"
            readings.append(BadFrame.of(Reason.DEVICE_ERROR, frame, detail))
        elif function == _STATUS:
            self._is_ready = True
            readings.append(Undocumented(tag="status", text=f"{frame[2]:02X}h"))
        elif function == _FIGURES:
            self._reads_before_clearing -= 1
            readings += _figures(frame)
        else:
            self._clearing.pop(0)
            readings.append(Undocumented(tag="written", text=frame[1:6].hex(" ")))


def _figures(frame: bytes) -> list[Reading]:
    """Return what a checked reply with the registers 1 to 13 says."""
    temperature, rate, mean, mean_error, dose_rate, dose_error, dose = _FORM.unpack(frame[3:-2])
    figures = (mean, mean_error, dose_rate, dose_error, dose)
    if not all(math.isfinite(figure) and figure >= 0 for figure in figures):
        detail = "a mean, an error or a dose is no number from 0 up"
        return [BadFrame.of(Reason.RANGE, frame, detail)]
    return [
        GammaCounts(counts=(rate,), real_time_s=COUNTED_S, device_alarm=False),
        DoseRate(usv_per_h=dose_rate * USV_PER_SV),
        Housekeeping(quantity="mean_count_rate", value=mean, unit="counts/s"),
        Housekeeping(quantity="mean_count_rate_error", value=mean_error, unit="%"),
        Housekeeping(quantity="dose_rate_error", value=dose_error, unit="%"),
        Housekeeping(quantity="dose", value=dose * USV_PER_SV, unit="µSv"),
        Housekeeping(quantity="temperature", value=temperature / 256, unit="°C"),
    ]


def framed(message: bytes) -> bytes:
    """Return the message with its CRC, high byte first."""
    return message + crc16(message).to_bytes(2, "big")


def crc16(data: bytes) -> int:
    """Return the Modbus CRC-16 as a number; its byte order on the wire is the caller's.

    Source: MODBUS over Serial Line V1.02, 6.2.2.
    """
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc
