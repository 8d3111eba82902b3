"""Weighing indicators on Modbus: one terminal, whose registers are laid out as a maker's.

Addresses from 0, as on the wire; 32-bit values with the high word first::

    laumas    holding 6 status, 7-8 gross, 9-10 net, as magnitudes without a point
              status: bit 2 above Max + 9 d, 7 gross negative, 8 net negative, 10 net shown,
              11 stable;  Laumas TLB4 list, LCB p. 3 (over RTU unconfirmed)
    dini      input 0-1 gross, 2-3 net, as magnitudes; 4 status: bit 0 net negative, 1 gross
              negative, 2 stable, 3 under, 4 over, 5 tare;  Dini Argeo DGT4X p. 57
    wtx       holding 0-1 net, 2-3 gross, signed; 4: bits 2-3 1 under 2 over, bit 4 moving, bit 7
              net; 5: bits 4-6 decimals, 7-8 unit (0 kg, 3 lb);  HBM Automation-API 790515b
    flintec   holding 0-1 displayed, 2-3 tare, 4-5 gross, signed; 6-7 bit 2 moving, 3 net, 31 to
              27 no to four decimals; 8-9 bit 3 under, 4 over; 10-11 heartbeat, +1 each 100 ms;
              Flintec FT-112 p. 120 (word order unconfirmed)
    pr5220    holding 2: bit 2 over, 3 negative, 6 stable; 16-17 gross, signed;
              PR 5220 p. 124 (place of the bits unconfirmed)
    float     input 0-1 IEEE 754 gross, 2: bit 9 under, 10 over, 12 moving, 15 good;
              bits as at Tuna ID551

What stands in the weight out of range is unconfirmed everywhere; here the last digits stay.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from simulators.clock import SceneClock
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit
from simulators.ports import Send, Talk
from simulators.weighbridge import Observation, Reading, Terminal, Unit, Weighbridge

Layout = Literal["laumas", "dini", "wtx", "flintec", "pr5220", "float"]
_BEATS_PER_S = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a layout puts into registers: counts are the figures without their point."""

    gross: int
    net: int
    tare: int
    decimals: int
    unit: Unit
    is_net: bool
    in_motion: bool
    is_over: bool
    is_under: bool
    beats: int


def shown(reading: Reading, *, decimals: int, unit: Unit, beats: int) -> Shown:
    """Return a reading as counts."""

    def counts(value: Decimal) -> int:
        return int(value.scaleb(decimals))

    return Shown(
        gross=counts(reading.value + reading.tare),
        net=counts(reading.value),
        tare=counts(reading.tare),
        decimals=decimals,
        unit=unit,
        is_net=reading.is_net,
        in_motion=reading.in_motion,
        is_over=reading.range == "over",
        is_under=reading.range == "under",
        beats=beats,
    )


def _pair(number: int) -> tuple[int, int]:
    high, low = divmod(number & 0xFFFFFFFF, 1 << 16)
    return high, low


def _bits(**places: bool) -> int:
    return sum(is_set << int(name[1:]) for name, is_set in places.items())


def _laumas(s: Shown) -> dict[int, tuple[int, ...]]:
    status = _bits(b2=s.is_over, b7=s.gross < 0, b8=s.net < 0, b10=s.is_net, b11=not s.in_motion)
    return {6: (status, *_pair(abs(s.gross)), *_pair(abs(s.net)))}


def _dini(s: Shown) -> dict[int, tuple[int, ...]]:
    status = _bits(
        b0=s.net < 0,
        b1=s.gross < 0,
        b2=not s.in_motion,
        b3=s.is_under,
        b4=s.is_over,
        b5=s.tare != 0,
    )
    return {0: (*_pair(abs(s.gross)), *_pair(abs(s.net)), status)}


def _wtx(s: Shown) -> dict[int, tuple[int, ...]]:
    limit = 1 if s.is_under else 2 if s.is_over else 0
    status = limit << 2 | _bits(b4=s.in_motion, b7=s.is_net)
    form = s.decimals << 4 | (3 if s.unit == "lb" else 0) << 7
    return {0: (*_pair(s.net), *_pair(s.gross), status, form)}


def _flintec(s: Shown) -> dict[int, tuple[int, ...]]:
    status = _bits(b2=s.in_motion, b3=s.is_net) | 1 << 31 - s.decimals
    displayed = s.net if s.is_net else s.gross
    figures = (*_pair(displayed), *_pair(s.tare), *_pair(s.gross))
    errors = _bits(b3=s.is_under, b4=s.is_over)
    return {0: (*figures, *_pair(status), *_pair(errors), *_pair(s.beats))}


def _pr5220(s: Shown) -> dict[int, tuple[int, ...]]:
    bits = _bits(b2=s.is_over, b3=s.gross < 0, b6=not s.in_motion)
    return {0: (0, 0, bits, *(0,) * 13, *_pair(s.gross))}


def _float(s: Shown) -> dict[int, tuple[int, ...]]:
    packed = struct.pack(">f", s.gross / 10**s.decimals)
    bits = _bits(b9=s.is_under, b10=s.is_over, b12=s.in_motion, b15=True)
    return {0: (*struct.unpack(">HH", packed), bits)}


_LAYOUTS: dict[Layout, Callable[[Shown], dict[int, tuple[int, ...]]]] = {
    "laumas": _laumas,
    "dini": _dini,
    "wtx": _wtx,
    "flintec": _flintec,
    "pr5220": _pr5220,
    "float": _float,
}


class ModbusTerminal(Terminal):
    """A terminal that speaks by a unit's registers only; ``modbus`` is that unit."""

    def __init__(
        self,
        weighbridge: Weighbridge,
        modbus: ModbusUnit,
        *,
        unit: Unit,
        increment: Decimal | None,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self.modbus = modbus
        self._servers: list[ModbusTcpServer | ModbusRtuServer] = []

    def _start(self, send: Send) -> Talk:
        raise NotImplementedError  # it speaks through the Modbus servers only

    def follow(self, clock: SceneClock) -> None:
        """Bring the registers up to date by this clock; for a unit on a line with others."""
        self._clock = clock

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on the loopback and return the address, ``tcp://127.0.0.1:N``."""
        self._clock = clock
        server = ModbusTcpServer([self.modbus])
        self._servers.append(server)
        return f"tcp://127.0.0.1:{await server.start()}"

    async def serve_pty(self, clock: SceneClock) -> str:
        """Answer RTU on a pseudo-terminal and return the path that a client opens."""
        self._clock = clock
        server = ModbusRtuServer([self.modbus])
        self._servers.append(server)
        return await server.start_pty()

    async def close(self) -> None:
        """Close the ports."""
        for server in self._servers:
            await server.close()
        self._servers.clear()


class ModbusScale(ModbusTerminal):
    """A terminal that is read by Modbus.

    Parameters
    ----------
    layout : whose registers it has
    decimals : digits behind the point of its figures
    is_frozen : its gateway repeats the last registers; may be set at any time
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        layout: Layout,
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        decimals: int = 0,
        unit_id: int = 1,
    ) -> None:
        modbus = ModbusUnit(unit_id=unit_id, before_request=self._refresh)
        super().__init__(weighbridge, modbus, unit=unit, increment=increment)
        self.layout = layout
        self.decimals = decimals
        self.is_frozen = False

    def update(self, observation: Observation) -> None:
        """Bring the registers to an observation."""
        if self.is_frozen:
            return
        beats = int(observation.scene_s * _BEATS_PER_S)
        reading = self.show(observation)
        said = shown(reading, decimals=self.decimals, unit=self.unit, beats=beats)
        is_input = self.layout in ("dini", "float")
        bank = self.modbus.input if is_input else self.modbus.holding
        for address, words in _LAYOUTS[self.layout](said).items():
            self.modbus.set_words(bank, address, words)

    def _refresh(self) -> None:
        if self._clock is not None:
            self.update(self.observe())
