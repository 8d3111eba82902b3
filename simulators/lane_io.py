"""A Modbus module in the lane's cabinet: contacts in, relays out, and the barrier they move.

A Moxa ioLogik E1212 with eight inputs and eight outputs::

    FC 02  0000h + channel        the contact now
    FC 04  0010h + 2 x channel    32-bit counter of its closings, high word first
    FC 01  0000h + channel        the relay now        FC 05, 15  set it

A relay may be welded (it takes the command and does not move). With ``watchdog_s`` the module puts
its relays into the safe state when it was not asked for so long.

Source: Moxa ioLogik E1212 manual A-7 to A-10 (registers) and its safe status; a barrier is moved by
a short pulse and says by two limit switches where it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from simulators.clock import SceneClock
from simulators.metal import Contact, Interval
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit

CHANNELS = 8
COUNTERS_AT = 0x0010


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCrossing:
    """A vehicle over two loops: when its front meets the first, and how it moves."""

    at_s: float
    speed_m_per_s: float = 2.5
    length_m: float = 8.0
    goes_in: bool = True


def loops(
    crossings: Sequence[LoopCrossing], *, apart_m: float = 3.0, loop_m: float = 1.0
) -> tuple[list[Interval], list[Interval]]:
    """Return when the outer and the inner loop see a vehicle [scene s]."""
    outer, inner = [], []
    for crossing in crossings:
        v = crossing.speed_m_per_s
        over_s = (crossing.length_m + loop_m) / v
        first = (crossing.at_s, crossing.at_s + over_s)
        later = crossing.at_s + apart_m / v
        second = (later, later + over_s)
        outer.append(first if crossing.goes_in else second)
        inner.append(second if crossing.goes_in else first)
    return outer, inner


@dataclass(frozen=True, slots=True, kw_only=True)
class BarrierWiring:
    """Which relays move the barrier, and which inputs its limit switches are on."""

    open_relay: int
    close_relay: int
    open_input: int
    closed_input: int
    travel_s: float = 1.5


@dataclass(frozen=True, slots=True)
class RelayChange:
    """A relay that moved, and when [scene s]."""

    at_s: float
    channel: int
    is_on: bool


class _Relays(dict[int, bool]):
    """The coils; each change of one that is not welded is remembered."""

    def __init__(self, module: LaneModule) -> None:
        super().__init__(dict.fromkeys(range(CHANNELS), False))
        self._module = module

    def __setitem__(self, channel: int, is_on: bool) -> None:
        if channel in self._module.welded or self[channel] is is_on:
            return
        super().__setitem__(channel, is_on)
        self._module.moved(channel, is_on=is_on)


class LaneModule:
    """The module and what is wired to it.

    Parameters
    ----------
    closed : when each input is closed, by channel [scene s]; others stay open
    barrier : its relays and limit switches; None: there is none
    safe_on : relays that are on in the safe state
    watchdog_s : unasked for so long it goes into the safe state [scene s]; None: it has no watchdog
    welded : relays that never move; may be changed at any time
    hand : inputs that somebody holds open or closed; may be changed at any time
    """

    def __init__(
        self,
        closed: Mapping[int, Sequence[Interval]] | None = None,
        *,
        barrier: BarrierWiring | None = None,
        safe_on: frozenset[int] = frozenset(),
        watchdog_s: float | None = None,
        unit_id: int = 1,
    ) -> None:
        self.welded: set[int] = set()
        self.hand: dict[int, bool] = {}
        self.changes: list[RelayChange] = []
        self.unit = ModbusUnit(unit_id=unit_id, before_request=self._refresh)
        self.unit.coils = _Relays(self)
        self._inputs = {channel: Contact(times) for channel, times in (closed or {}).items()}
        self._barrier = barrier
        self._safe_on = safe_on
        self._watchdog_s = watchdog_s
        self._asked_s = 0.0
        self._now_s = 0.0
        self._clock: SceneClock | None = None
        self._server: ModbusTcpServer | ModbusRtuServer | None = None
        self.update(0.0)

    def update(self, scene_s: float) -> None:
        """Bring inputs, counters and a watchdog that has run out to a scene time."""
        self._now_s = scene_s
        is_late = self._watchdog_s is not None and scene_s - self._asked_s > self._watchdog_s
        if is_late:
            for channel in range(CHANNELS):
                self.unit.coils[channel] = channel in self._safe_on
        for channel in range(CHANNELS):
            contact = self._inputs.get(channel)
            is_closed = contact is not None and contact.is_closed(scene_s)
            is_closed = self.hand.get(channel, is_closed)
            self.unit.discrete[channel] = is_closed
            count = 0 if contact is None else contact.count(scene_s)
            self.unit.set_words(
                self.unit.input, COUNTERS_AT + 2 * channel, divmod(count & 0xFFFFFFFF, 0x10000)
            )
        if self._barrier is not None:
            position = self.barrier_position(scene_s)
            self.unit.discrete[self._barrier.open_input] = position >= 1.0
            self.unit.discrete[self._barrier.closed_input] = position <= 0.0

    def moved(self, channel: int, *, is_on: bool) -> None:
        """Remember that a relay moved."""
        self.changes.append(RelayChange(self._now_s, channel, is_on))

    def barrier_position(self, scene_s: float) -> float:
        """Return where the barrier is: 0 closed, 1 open; each pulse begins a travel."""
        wiring = self._barrier
        if wiring is None:
            return 0.0
        position, toward, since_s = 0.0, 0.0, 0.0
        pulses = [c for c in self.changes if c.is_on and c.at_s <= scene_s]
        for change in pulses:
            if change.channel not in (wiring.open_relay, wiring.close_relay):
                continue
            position = _travelled(position, toward, (change.at_s - since_s) / wiring.travel_s)
            toward, since_s = float(change.channel == wiring.open_relay), change.at_s
        return _travelled(position, toward, (scene_s - since_s) / wiring.travel_s)

    def relays(self) -> tuple[bool, ...]:
        """Return which relays are on now."""
        self.update(self._scene_s())
        return tuple(self.unit.coils[channel] for channel in range(CHANNELS))

    def _scene_s(self) -> float:
        return self._now_s if self._clock is None else self._clock.now_s()

    def _refresh(self) -> None:
        now_s = self._scene_s()
        self.update(now_s)
        self._asked_s = now_s

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on the loopback and return the address, ``tcp://127.0.0.1:N``."""
        self._clock = clock
        self._server = server = ModbusTcpServer([self.unit])
        return f"tcp://127.0.0.1:{await server.start()}"

    async def serve_pty(self, clock: SceneClock) -> str:
        """Answer RTU on a pseudo-terminal and return the path that a client opens."""
        self._clock = clock
        self._server = server = ModbusRtuServer([self.unit])
        return await server.start_pty()

    async def close(self) -> None:
        """Close the port."""
        if self._server is not None:
            await self._server.close()
            self._server = None


def _travelled(position: float, toward: float, travels: float) -> float:
    step = max(0.0, travels)
    return min(position + step, 1.0) if toward else max(position - step, 0.0)
