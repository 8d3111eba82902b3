"""Kromek D3S, D3M, D4 and D5 spectrometers: the scene's truth to replies, over a pty or TCP.

Every message, both ways: length u16 (of all of it), mode u8, component u8, report u8, payload,
CRC u16; little endian. Mode 1: the payload is heatshrink-compressed, as it is after power-up until
report 4F switches it off. CRC-16/CCITT-FALSE, 0000 where it is not checked. The D5 puts each
message in a SLIP frame (RFC 1055), before which any number of C0 may stand.

Counts are since the last request for them. A request that is no message is not answered; an
unknown report gets error 4, one that the model does not have error 3, and during the warm-up every
request for counts error 0B.

Source: Kromek's SDK in westpoint-robotics/kromek_sensor; lbl-anp/radmon_d3s; the D5 driver of the
OSCAR lane software (MPL-2.0). Unconfirmed: that a write is answered with FE, live times in ms, and
that a device compresses unless told otherwise.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from simulators.clock import SceneClock
from simulators.ports import PtyPort, Send, TcpPort
from simulators.scene import Scene
from simulators.spectra import Channels
from simulators.spectrometer import Spectrometer

CHANNELS = Channels(count=4096, kev_per_channel=0.75)
_LONGEST = 8500
# What a UART of 115200 baud moves at a time on a pseudo-terminal; its reader must keep up.
_PIECE_BYTES = 512
_PIECE_S = 0.004


@dataclass(frozen=True, slots=True, kw_only=True)
class KromekModel:
    """What tells the models apart; ``crystal`` names one of `spectra.CRYSTALS`."""

    has_slip: bool
    has_radiometrics: bool
    crystal: str = "CsI"


MODELS = {
    "kromek-d3s": KromekModel(has_slip=False, has_radiometrics=False),
    "kromek-d3m": KromekModel(has_slip=False, has_radiometrics=True),
    "kromek-d4": KromekModel(has_slip=False, has_radiometrics=True),
    "kromek-d5": KromekModel(has_slip=True, has_radiometrics=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceError:
    """From when to when the device answers requests for counts with an error code."""

    from_s: float
    until_s: float
    code: int
    text: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class KromekOptions:
    """How the device is, apart from the scene."""

    model: str = "kromek-d4"
    warm_up_s: float = 0.0  # scene time until which it answers 0B
    ran_before_s: float = 60.0  # since anybody last asked
    errors: tuple[DeviceError, ...] = ()
    answers_with_crc: bool = True
    battery_percent: int = 87


class KromekDevice:
    """The instrument; `answer` is pure apart from what was counted since the last request."""

    def __init__(self, scene: Scene, options: KromekOptions | None = None) -> None:
        self.options = options or KromekOptions()
        self.model = MODELS[self.options.model]
        self.scene = scene
        self.spectrometer = Spectrometer(
            scene,
            crystal=self.model.crystal,
            channels=CHANNELS,
            ran_before_s=self.options.ran_before_s,
        )
        self.is_compressing = True
        self.requests: list[int] = []  # the reports asked for, for a test to look at
        self._replies = 0

    def answer(self, request: bytes, scene_s: float) -> bytes:
        """Return the framed reply to one whole message; empty: it is none, or not for us."""
        if len(request) < 7 or int.from_bytes(request[:2], "little") != len(request):
            return b""
        given = int.from_bytes(request[-2:], "little")
        if given not in (0, crc16(request[:-2])) or request[3] != 0x07:
            return b""
        report, payload = request[4], request[5:-2]
        self.requests.append(report)
        self.spectrometer.advance(scene_s)
        return self._framed(*self._reply(report, payload, scene_s))

    def _reply(self, report: int, payload: bytes, scene_s: float) -> tuple[int, bytes]:
        if report == 0x4F and len(payload) == 6:
            self.is_compressing = payload[0] != 0
            return 0xFE, b""
        if report == 0xC5:
            third = b"\x01" if self.model.has_slip else b""
            temperature = round(self.scene.exercise.spectrometer.temperature_c)
            battery = self.options.battery_percent
            return 0xC5, struct.pack(
                "<BBbBBBbbBB", 1, 1, temperature, 1, 1, battery, 0, temperature, 1, 0
            ) + third
        if report == 0xC2 and not self.model.has_radiometrics:
            return _error(3, "not implemented")
        if report in (0xC1, 0xC2):
            wrong = self._trouble(scene_s)
            return wrong or self._counts(report)
        return _error(4, "unknown message")

    def _trouble(self, scene_s: float) -> tuple[int, bytes] | None:
        if scene_s < self.options.warm_up_s:
            return _error(0x0B, "warming up")
        for error in self.options.errors:
            if error.from_s <= scene_s < error.until_s:
                return _error(error.code, error.text)
        return None

    def _counts(self, report: int) -> tuple[int, bytes]:
        counted = self.spectrometer.take()
        self._replies += 1
        channels = struct.pack("<4096H", *(min(n, 65535) for n in counted.channels.tolist()))
        real_ms = round(counted.real_time_s * 1000)
        if report == 0xC1:
            return 0xC1, struct.pack("<IH", real_ms, min(counted.neutrons, 65535)) + channels
        live_ms = round(counted.live_time_s * 1000)
        gammas = int(counted.channels.sum())
        rate = 0.0002 * gammas / max(counted.live_time_s, 1e-3)  # a made-up dose response
        hundredths = round(100 * self.scene.exercise.spectrometer.temperature_c)
        head = struct.pack("<IIIfff", 0, real_ms, self._replies, 0.0, rate, 0.0)
        neutron = struct.pack("<IIhf", real_ms, counted.neutrons, hundredths, 48.0)
        gamma = struct.pack("<IIhf", live_ms, gammas, hundredths, 29.0)
        return 0xC2, head + neutron + gamma + struct.pack("<BB", 12, 0) + channels

    def _framed(self, report: int, payload: bytes) -> bytes:
        mode = 0
        if self.is_compressing and len(payload) > 64:
            mode, payload = 1, _literals(payload)
        head = struct.pack("<HBBB", len(payload) + 7, mode, 0x07, report)
        check = crc16(head + payload) if self.options.answers_with_crc else 0
        message = head + payload + struct.pack("<H", check)
        return _slip(message) if self.model.has_slip else message

    async def serve_pty(self, clock: SceneClock) -> str:
        """Answer on a pseudo-terminal and return its path."""
        self._port: PtyPort | TcpPort = PtyPort(lambda send: _Talk(self, clock, _Paced(send)))
        return self._port.path

    async def serve_tcp(self, clock: SceneClock, port: int = 0) -> str:
        """Answer on a port of this machine and return ``tcp://127.0.0.1:N``."""
        self._port = TcpPort(lambda send: _Talk(self, clock, _Paced(send)))
        return f"tcp://127.0.0.1:{await self._port.open(port)}"

    async def close(self) -> None:
        """Switch it off."""
        if isinstance(self._port, PtyPort):
            self._port.close()
        else:
            await self._port.close()


class _Paced:
    """Sends in pieces, as a serial line does: a pseudo-terminal takes only so much at once."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: deque[bytes] = deque()
        self._task: asyncio.Task[None] | None = None

    def send(self, data: bytes) -> None:
        self._waiting += (data[at : at + _PIECE_BYTES] for at in range(0, len(data), _PIECE_BYTES))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._drain())

    def close(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _drain(self) -> None:
        while self._waiting:
            self._send(self._waiting.popleft())
            await asyncio.sleep(_PIECE_S)


class _Talk:
    """One client: cuts its bytes into messages and answers each."""

    def __init__(self, device: KromekDevice, clock: SceneClock, paced: _Paced) -> None:
        self._device = device
        self._clock = clock
        self._paced = paced
        self._buffer = b""

    def received(self, data: bytes) -> None:
        self._buffer = (self._buffer + data)[-2 * _LONGEST :]
        for request in self._slipped() if self._device.model.has_slip else self._plain():
            reply = self._device.answer(request, self._clock.now_s())
            if reply:
                self._paced.send(reply)

    def closed(self) -> None:
        self._paced.close()

    def _slipped(self) -> Sequence[bytes]:
        *frames, self._buffer = self._buffer.split(b"\xc0")
        return [f.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb") for f in frames if f]

    def _plain(self) -> Sequence[bytes]:
        found = []
        while len(self._buffer) >= 2:
            length = int.from_bytes(self._buffer[:2], "little")
            if not 7 <= length <= _LONGEST:
                self._buffer = b""  # lost: what comes next is taken for a beginning
                break
            if len(self._buffer) < length:
                break
            found.append(self._buffer[:length])
            self._buffer = self._buffer[length:]
        return found


def _error(code: int, text: str) -> tuple[int, bytes]:
    return 0xC0, bytes([code]) + text.encode("ascii")[:50].ljust(50, b"\0")


def _slip(message: bytes) -> bytes:
    inside = message.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
    return b"\xc0" + inside + b"\xc0"


def _literals(payload: bytes) -> bytes:
    """Return a heatshrink stream of literals only: a bit 1 before each byte, filled up with 0."""
    bits = 0
    for value in payload:
        bits = bits << 9 | 0x100 | value
    size = 9 * len(payload)
    filled = -size % 8
    return (bits << filled).to_bytes((size + filled) // 8, "big")


def crc16(data: bytes) -> int:
    """Return the CRC-16/CCITT-FALSE: polynomial 0x1021, start 0xFFFF, no reflection."""
    register = 0xFFFF
    for value in data:
        register = (register << 8 & 0xFFFF) ^ _TABLE[register >> 8 ^ value]
    return register


def _table_entry(value: int) -> int:
    register = value << 8
    for _ in range(8):
        register = (register << 1) ^ 0x1021 if register & 0x8000 else register << 1
    return register & 0xFFFF


_TABLE = tuple(_table_entry(value) for value in range(256))
