"""A walk-through metal detector whose relay contacts a Modbus input module reads.

The module is a Moxa ioLogik E1210 or E1212 with sixteen inputs::

    FC 02  0000h + channel        the contact now
    FC 04  0010h + 2 x channel    32-bit counter of its rising edges, high word first
    FC 04  0030h                  all sixteen contacts, channel 0 the lowest bit

    channel 0  alarm relay, held for a while     3  passage relay, a person leaving
            1  ready, normally energised         4  selected at random (no metal)
            2  passage relay, a person entering

The detector itself tells the direction from its two photocells and closes one passage relay a
person. Counters catch pulses that fall between two polls.

Source: Moxa ioLogik E1212 manual A-7 to A-10; the channel of the random relay is ours, as every
installer wires his own.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from simulators.clock import SceneClock
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit

ALARM, READY, ENTERED, LEFT, RANDOM = range(5)
CHANNELS = 16
COUNTERS_AT = 0x0010
WORD_AT = 0x0030

Interval = tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalWalk:
    """One person's walk; ``at_s`` is when the first photocell goes dark [scene s]."""

    at_s: float
    direction: Literal["in", "out"]
    has_metal: bool
    is_random: bool = False
    transit_s: float = 0.8


class Contact:
    """One contact: when it is closed, and how often it has closed."""

    def __init__(self, closed: Iterable[Interval]) -> None:
        merged: list[Interval] = []
        for start, end in sorted(closed):
            if merged and start <= merged[-1][1]:  # a relay that is still held only holds longer
                merged[-1] = (merged[-1][0], max(merged[-1][1], end))
            else:
                merged.append((start, end))
        self._starts = [start for start, _ in merged]
        self._ends = [end for _, end in merged]

    def count(self, scene_s: float) -> int:
        """Return how often it has closed up to a scene time."""
        return bisect.bisect_right(self._starts, scene_s)

    def is_closed(self, scene_s: float) -> bool:
        """Tell whether it is closed at a scene time."""
        number = self.count(scene_s)
        return number > 0 and scene_s < self._ends[number - 1]


class WalkThrough:
    """The detector and its input module.

    Parameters
    ----------
    walks : who walks through, and when
    hold_s : how long the alarm relay stays closed [scene s]
    not_ready : intervals in which the ready relay has dropped and nothing is detected [scene s]
    unit_id : of the module
    counters_begin_at : what every counter showed before the scene; they wrap after FFFFFFFFh
    """

    def __init__(
        self,
        walks: Sequence[MetalWalk],
        *,
        hold_s: float = 1.0,
        not_ready: Sequence[Interval] = (),
        unit_id: int = 1,
        counters_begin_at: int = 0,
    ) -> None:
        self.walks = tuple(walks)
        self.unit = ModbusUnit(unit_id=unit_id, before_request=self._refresh)
        self._counters_begin_at = counters_begin_at
        self._not_ready = Contact(not_ready)
        seen = [walk for walk in walks if not self._not_ready.is_closed(_middle(walk))]
        self._contacts = {
            ALARM: Contact(_held(walk, hold_s) for walk in seen if walk.has_metal),
            READY: Contact(_between(not_ready)),
            ENTERED: Contact(_walked(walk) for walk in walks if walk.direction == "in"),
            LEFT: Contact(_walked(walk) for walk in walks if walk.direction == "out"),
            RANDOM: Contact(
                _held(walk, hold_s) for walk in seen if walk.is_random and not walk.has_metal
            ),
        }
        self._clock: SceneClock | None = None
        self._servers: list[ModbusTcpServer | ModbusRtuServer] = []
        self.update(0.0)

    def update(self, scene_s: float) -> None:
        """Bring the module's registers to a scene time."""
        word = 0
        for channel in range(CHANNELS):
            contact = self._contacts.get(channel)
            is_closed = contact is not None and contact.is_closed(scene_s)
            self.unit.discrete[channel] = is_closed
            word |= is_closed << channel
            count = self._counters_begin_at + (0 if contact is None else contact.count(scene_s))
            high, low = divmod(count & 0xFFFFFFFF, 0x10000)
            self.unit.set_words(self.unit.input, COUNTERS_AT + 2 * channel, (high, low))
        self.unit.input[WORD_AT] = word

    def _refresh(self) -> None:
        if self._clock is not None:
            self.update(self._clock.now_s())

    def follow(self, clock: SceneClock) -> None:
        """Bring the registers up to date by this clock; for a module on a line with others."""
        self._clock = clock

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on the loopback and return the address, ``tcp://127.0.0.1:N``."""
        self._clock = clock
        server = ModbusTcpServer([self.unit])
        self._servers.append(server)
        return f"tcp://127.0.0.1:{await server.start()}"

    async def serve_pty(self, clock: SceneClock) -> str:
        """Answer RTU on a pseudo-terminal and return the path that a client opens."""
        self._clock = clock
        server = ModbusRtuServer([self.unit])
        self._servers.append(server)
        return await server.start_pty()

    async def close(self) -> None:
        """Close the ports."""
        for server in self._servers:
            await server.close()
        self._servers.clear()


def _middle(walk: MetalWalk) -> float:
    return walk.at_s + walk.transit_s / 2.0


def _held(walk: MetalWalk, hold_s: float) -> Interval:
    return _middle(walk), _middle(walk) + hold_s


def _walked(walk: MetalWalk) -> Interval:
    """Return when a passage relay is closed: from the second photocell to the end of the walk."""
    return _middle(walk), walk.at_s + walk.transit_s


def _between(gaps: Sequence[Interval]) -> list[Interval]:
    """Return the time outside the gaps, for ever both ways."""
    found: list[Interval] = []
    since = float("-inf")
    for start, end in sorted(gaps):
        if start > since:
            found.append((since, start))
        since = max(since, end)
    return [*found, (since, float("inf"))]
