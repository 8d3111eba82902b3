"""Radiation monitors that stand beside a lane: what each shows is a function of time.

ATOMTEX BDKG, RS-485 19200 8N1, address 1; CRC-16 high byte first::

    01 07 cc cc                -> 01 07 SS cc cc            01 0F cc cc: function unknown, 01 8F 01
    01 04 00 01 00 0D cc cc    -> 01 04 1A  temperature x 256, cps u32, then f32: mean cps, its
                                  error %, Sv/h, its error %, Sv
    01 06 00 00 FF FF, 01 05 00 23|22 FF 00 -> the same: clears mean and dose

Ludlum 375, which calls: one line of XML every 2 s, at most 384 bytes.

Environment board of Rapiscan portals, TCP port 7: ``FF 00 AA 55 0E`` -> 12 words, low byte first.

Sources: atomtex-esp32; ludlum_m375; Environmental-Board-Readout-Code (the conversions, turned
round here from figure to word).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Rate = Callable[[float], float]
"""A figure over scene time [s]."""

COLD_START_S = 3.65
USV_H_PER_CPS = 0.011
ENVIRONMENT_REQUEST = bytes((0xFF, 0x00, 0xAA, 0x55, 0x0E))
THERMOCOUPLE_BROKEN = int.from_bytes(b"ERRR", "little")


def swapped_crc(data: bytes) -> bytes:
    """Return the CRC-16 as the remainder of a division, bits mirrored, high byte first."""
    register = 0xFFFF
    for byte in data:
        for place in range(8):
            out = (register >> 15) ^ (byte >> place & 1)
            register = (register << 1 & 0xFFFF) ^ (0x8005 if out else 0)
    return int(f"{register:016b}"[::-1], 2).to_bytes(2, "big")


@dataclass(frozen=True, slots=True, kw_only=True)
class BdkgShown:
    """What one answer of the detector says."""

    counts: int
    mean_cps: float
    usv_per_h: float
    temperature_c: float


class BdkgDetector:
    """The detector: it answers what it is asked once it is warm."""

    def __init__(self, rate_cps: Rate, *, seed: int = 0, switched_on_s: float = 0.0) -> None:
        self._rate_cps = rate_cps
        self._rng = np.random.default_rng([seed, 23])
        self._on_s = switched_on_s
        self._counted: list[int] = []
        self.dose_usv = 0.0
        self.written: list[bytes] = []
        self.shown: BdkgShown | None = None

    def answer(self, request: bytes, scene_s: float) -> bytes:
        """Return the answer to a whole request; nothing to what is none, or while cold."""
        body, crc = request[:-2], request[-2:]
        if scene_s - self._on_s < COLD_START_S or crc != swapped_crc(body) or body[:1] != b"\x01":
            return b""
        match body[1]:
            case 0x07:
                reply = b"\x01\x07\x00"
            case 0x04 if body[2:] == b"\x00\x01\x00\x0d":
                reply = b"\x01\x04\x1a" + self._figures(scene_s)
            case 0x05 | 0x06:
                self.written.append(body[1:])
                if body[1:] == b"\x05\x00\x22\xff\x00":
                    self._counted.clear()
                    self.dose_usv = 0.0
                reply = body
            case function:
                reply = bytes((1, function | 0x80, 1))
        return reply + swapped_crc(reply)

    def _figures(self, scene_s: float) -> bytes:
        counts = int(self._rng.poisson(self._rate_cps(scene_s)))
        self._counted = [*self._counted, counts][-30:]
        mean = float(np.float32(np.mean(self._counted)))
        rate = mean * USV_H_PER_CPS
        self.dose_usv += rate / 3600.0
        total = sum(self._counted)
        error = 100.0 if total == 0 else 200.0 / total**0.5
        temperature = round(256 * (20.0 - 30.0 * (scene_s % 7 > 5))) / 256
        self.shown = BdkgShown(
            counts=counts, mean_cps=mean, usv_per_h=rate, temperature_c=temperature
        )
        return struct.pack(
            ">hI5f",
            round(256 * temperature),
            counts,
            mean,
            error,
            rate * 1e-6,
            error,
            self.dose_usv * 1e-6,
        )


class LudlumMonitor:
    """An area monitor with two alarm points; it says what it sees, as elements or attributes."""

    def __init__(
        self,
        rate_usv_per_h: Rate,
        *,
        alarm_1: float = 2.0,
        alarm_2: float = 10.0,
        most: float = 1000.0,
        serial: str = "PR123456",
    ) -> None:
        self._rate = rate_usv_per_h
        self._alarms = (alarm_1, alarm_2, most)
        self._serial = serial

    def message(self, scene_s: float, *, as_attributes: bool = False) -> bytes:
        """Return the line of a moment."""
        rate = self._rate(scene_s)
        flags = tuple(int(rate >= limit) for limit in self._alarms)
        fields = {
            "rate": f"{min(rate, self._alarms[2]):.3f}",
            "units_code": "03",
            "audio": str(flags[0]),
            "alarm1": str(flags[0]),
            "alarm2": str(flags[1]),
            "over_range": str(flags[2]),
            "monitor": "0",
            "error_code": "00",
        }
        if as_attributes:
            status = "<status " + " ".join(f'{k}="{v}"' for k, v in fields.items()) + "/>"
        else:
            status = "".join(f"<{k}>{v}</{k}>" for k, v in fields.items())
            status = f"<status>{status}</status>"
        head = f'<area_monitor rev="1.0" serial="{self._serial}">'
        return f"{head}{status}</area_monitor>\r\n".encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Climate:
    """What is true in a cabinet; ``thermocouple_c`` None: it is broken."""

    temperature_c: float
    humidity: float
    pressure_hpa: float
    battery_v: float
    dc_a: float
    ac_a: float
    thermocouple_c: float | None
    outside_humidity: float


def environment_reply(climate: Climate, *, second_c: float | None = None) -> bytes:
    """Return the board's 48 bytes, each figure rounded to the word that is nearest."""
    second = climate.temperature_c if second_c is None else second_c
    words = (
        0x0E55AA00,
        round(10 * climate.temperature_c) & 0xFFFF,
        round(10 * climate.humidity),
        round(100 * climate.pressure_hpa),
        round(10 * second) & 0xFFFF,
        round((climate.battery_v + 2.65918493) / 0.00669129),
        round((14.48507166 - climate.dc_a) / 0.00686993),
        round(100 * climate.ac_a),
        0,
        THERMOCOUPLE_BROKEN
        if climate.thermocouple_c is None
        else round(4 * climate.thermocouple_c) & 0x3FFF,
        round(10 * climate.outside_humidity),
        0,
    )
    return struct.pack("<12I", *words)


class EnvironmentTalk:
    """One client of the board: an answer to each request, whatever stands before it is dropped."""

    def __init__(self, climate: Callable[[], Climate], send: Callable[[bytes], None]) -> None:
        self._climate = climate
        self._send = send
        self._buffer = b""

    def received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._buffer = (self._buffer + data)[-256:]
        while (at := self._buffer.find(ENVIRONMENT_REQUEST)) >= 0:
            self._buffer = self._buffer[at + len(ENVIRONMENT_REQUEST) :]
            self._send(environment_reply(self._climate()))

    def closed(self) -> None:
        """Take note that the client is gone."""
