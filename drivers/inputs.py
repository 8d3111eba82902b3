"""Inputs of a Modbus module: where a contact and its latched counter stand, and what they read.

Moxa ioLogik E1210 and E1212, channel c, addresses from 0 as on the wire::

    discrete input  0x0000 + c        the contact now: 1 closed, 0 open        (FC02)
    input register  0x0010 + 2c, +1   its counter, 32 bit, high word first     (FC04)

Source: Moxa ioLogik E1212 manual p. A-7 to A-10. Unconfirmed: that the E1210 counters start at the
same address.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol

from msgspec import Meta

from drivers.base import Block, Table
from drivers.counters import Counters, Gain
from drivers.readings import BadFrame, Reading, Reason
from drivers.registers import Part, plan, refusal

UNWIRED = -1
MOXA_CONTACTS_START = 0x0000
MOXA_COUNTERS_START = 0x0010

Preset = Literal["moxa-e1210", "moxa-e1212", "custom"]
WordOrder = Literal["high_first", "low_first"]
Address = Annotated[
    int, Meta(description="address from 0, as on the wire; -1: none", ge=-1, le=65535)
]
Channel = Annotated[int, Meta(description="the module's channel; -1: not wired", ge=-1, le=15)]

ContactsStart = Annotated[
    int, Meta(description="moxa: address of channel 0's contact", ge=0, le=65535)
]
CountersStart = Annotated[
    int,
    Meta(
        description="moxa: address of channel 0's counter; unconfirmed for the E1210: read it "
        "while closing the contact by hand",
        ge=0,
        le=65500,
    ),
]
CounterBits = Annotated[
    Literal[16, 32], Meta(description="width of a counter [bit]; 32: two registers")
]
CounterModulus = Annotated[
    int,
    Meta(
        description="where a counter returns to 0, e.g. 10000 after 9999; 0: at its width",
        ge=0,
        le=1 << 32,
    ),
]
ContactsPeriod = Annotated[
    float, Meta(description="how often the contacts are read [s]", ge=0.02, le=10)
]
CountersPeriod = Annotated[
    float, Meta(description="how often the counters are read [s]", ge=0.02, le=60)
]
MaxIncrements = Annotated[
    int, Meta(description="a counter cannot gain more between two reads [increments]", ge=1)
]
MaxIncrementsAfterGap = Annotated[
    int, Meta(description="nor more than this while the module was lost [increments]", ge=1)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where one signal stands in a module of ``preset = "custom"``."""

    contact: Address = UNWIRED
    contact_table: Annotated[
        Table, Meta(description="table of the contact; in a register it is one bit")
    ] = "discrete"
    contact_bit: Annotated[
        int, Meta(description="which bit of the register, 0 the lowest", ge=0, le=15)
    ] = 0
    counter: Address = UNWIRED
    counter_table: Annotated[
        Literal["input", "holding"], Meta(description="table of the counter")
    ] = "input"


def moxa_point(
    channel: int, *, contacts_start: int, counters_start: int, is_counted: bool
) -> Point:
    """Return where a channel of a Moxa ioLogik E1210 or E1212 stands."""
    return Point(
        contact=contacts_start + channel,
        counter=counters_start + 2 * channel if is_counted else UNWIRED,
    )


def input_blocks(
    points: Iterable[Point], *, words: int, contacts_period_s: float, counters_period_s: float
) -> tuple[Block, ...]:
    """Return what to read: contacts often, counters less; a counter is never cut in two."""
    points = tuple(points)
    contacts = {(p.contact_table, p.contact, 1) for p in points if p.contact >= 0}
    counters: set[Part] = {(p.counter_table, p.counter, words) for p in points if p.counter >= 0}
    return (*plan(contacts, contacts_period_s), *plan(counters, counters_period_s))


def check_modulus(modulus: int, bits: int) -> None:
    """Raise ValueError where a counter of so many bits never reaches its ``counter_modulus``."""
    if modulus > 1 << bits:
        raise ValueError(
            f"counter_modulus {modulus} does not fit {bits} bits; give the width that it needs"
        )


class ModuleOptions(Protocol):
    """The options that every driver of an input module has."""

    @property
    def counter_bits(self) -> Literal[16, 32]:
        """Width of a counter [bit]."""

    @property
    def word_order(self) -> WordOrder:
        """Which word of 32 bits comes first."""

    @property
    def counter_modulus(self) -> int:
        """Where a counter returns to 0; 0: at its width."""

    @property
    def contacts_period_s(self) -> float:
        """How often the contacts are read [s]."""

    @property
    def counters_period_s(self) -> float:
        """How often the counters are read [s]."""

    @property
    def max_increments(self) -> int:
        """How much a counter gains at most between two reads."""

    @property
    def max_increments_after_gap(self) -> int:
        """How much it gains at most while the module was lost."""


class InputModule(ABC):
    """Reads a module's contacts and counters; what they mean is the driver's own.

    Parameters
    ----------
    points : where each signal stands, by its name
    uncounted : signals whose counters say nothing, whatever stands beside their contacts
    """

    def __init__(
        self, options: ModuleOptions, points: Mapping[str, Point], uncounted: Container[str] = ()
    ) -> None:
        self._points = points
        self._counted = {name: point for name, point in points.items() if name not in uncounted}
        self._words = options.counter_bits // 16
        self._order = options.word_order
        self._modulus = options.counter_modulus or 1 << options.counter_bits
        self._contacts_period_s = options.contacts_period_s
        self._counters_period_s = options.counters_period_s
        self._counters = Counters(
            max_increments=options.max_increments,
            max_increments_after_gap=options.max_increments_after_gap,
        )
        self._blocks = input_blocks(
            points.values(),
            words=self._words,
            contacts_period_s=options.contacts_period_s,
            counters_period_s=options.counters_period_s,
        )

    @abstractmethod
    def _contact(self, name: str, readings: list[Reading], *, closed: bool) -> None:
        """Take what one contact reads."""

    @abstractmethod
    def _gained(self, gains: list[Gain], readings: list[Reading]) -> None:
        """Take what the counters of one block gained."""

    def blocks(self) -> tuple[Block, ...]:
        """Return what to read: contacts often, counters less; a counter is never cut in two."""
        return self._blocks

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say; never raises.

        Source: Moxa ioLogik E1212 manual p. A-7 to A-10.
        """
        fault = refusal(block, self._blocks, registers)
        if fault is not None:
            return [fault]
        values = {block.address + i: value for i, value in enumerate(registers)}
        readings: list[Reading] = []
        # Contacts and counters may share a table; the block's period tells what it was read for.
        if block.period_s == self._contacts_period_s:
            for name, point in self._points.items():
                if point.contact_table == block.table and point.contact in values:
                    closed = is_closed(point, values[point.contact])
                    self._contact(name, readings, closed=closed)
        if block.period_s == self._counters_period_s:
            self._gained(self._gains(block.table, values, readings), readings)
        return readings

    def _gains(
        self, table: Table, values: Mapping[int, int], readings: list[Reading]
    ) -> list[Gain]:
        """Return what the counters among ``values`` gained; one beyond belief is refused."""
        gains: list[Gain] = []
        for name, point in self._counted.items():
            if point.counter_table != table or point.counter not in values:
                continue
            now = figure(point.counter, values, words=self._words, order=self._order)
            if now >= self._modulus:
                detail = f"counter of {name} reads {now}, above its modulus {self._modulus}"
                readings.append(BadFrame.of(Reason.RANGE, now.to_bytes(4, "big"), detail))
                continue
            gain = self._counters.take(name, now, self._modulus)
            if gain is not None:
                gains.append(gain)
        return gains


def is_closed(point: Point, value: int) -> bool:
    """Return whether the contact is closed, from its bit or from the register it stands in."""
    if point.contact_table in ("input", "holding"):
        value = value >> point.contact_bit & 1
    return bool(value)


def figure(address: int, values: Mapping[int, int], *, words: int, order: WordOrder) -> int:
    """Return a counter of one or two registers that stand from ``address`` on."""
    found = [values[address + i] for i in range(words)]
    if order == "low_first":
        found.reverse()
    return sum(word << 16 * i for i, word in enumerate(reversed(found)))
