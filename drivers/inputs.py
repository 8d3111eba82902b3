"""Inputs of a Modbus module: where a contact and its latched counter stand, and what they read.

Moxa ioLogik E1210 and E1212, channel c, addresses from 0 as on the wire::

    discrete input  0x0000 + c        the contact now: 1 closed, 0 open        (FC02)
    input register  0x0010 + 2c, +1   its counter, 32 bit, high word first     (FC04)

Source: Moxa ioLogik E1212 manual p. A-7 to A-10. Unconfirmed: that the E1210 counters start at the
same address.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Block, Table
from drivers.counters import Counters, Gain
from drivers.readings import BadFrame, Reason
from drivers.registers import Part, plan

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


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterForm:
    """How a module's counters stand in its registers, and where they return to 0."""

    bits: Literal[16, 32]
    order: WordOrder
    modulus: int

    @property
    def words(self) -> int:
        """Return how many registers a counter takes."""
        return self.bits // 16


def counted(
    points: Mapping[str, Point],
    table: Table,
    values: Mapping[int, int],
    *,
    form: CounterForm,
    counters: Counters,
) -> tuple[list[Gain], list[BadFrame]]:
    """Return what the counters among ``values`` gained, and which of them are beyond belief."""
    gains: list[Gain] = []
    refused: list[BadFrame] = []
    for name, point in points.items():
        if point.counter_table != table or point.counter not in values:
            continue
        now = figure(point.counter, values, words=form.words, order=form.order)
        if now >= form.modulus:
            detail = f"counter of {name} reads {now}, above its modulus {form.modulus}"
            refused.append(BadFrame.of(Reason.RANGE, now.to_bytes(4, "big"), detail))
            continue
        gain = counters.take(name, now, form.modulus)
        if gain is not None:
            gains.append(gain)
    return gains, refused


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
