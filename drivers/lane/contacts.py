"""The lane's dry contacts on a Modbus input module: loops, photocells, doors, limit switches.

Registers, addresses from 0 as on the wire; Moxa ioLogik E1210 and E1212, channel c::

    discrete input  0x0000 + c        the contact now: 1 closed, 0 open        (FC02)
    input register  0x0010 + 2c, +1   its counter, 32 bit, high word first     (FC04)

Each input has a name of the site's choice; what it is for (presence, tamper, door, barrier closed
...) stands in the lane's part of the table. A level counts once it was read the same for
``debounce_s``. An input that is ``normally_closed`` is active while open, so that a cut wire shows
as active; wire tamper contacts and presence sensors so.

A latched counter tells of activations that no read has seen: those shorter than the poll, and those
while the module was lost. ``pulses`` of a reading are only those: what the contact itself has shown
is taken off. The counters count closings, must be started in the module, and see every bounce that
its own input filter lets through.

``NAME_stuck`` stands while an input was active for ``stuck_after_s`` without end. A module that is
lost leaves every contact unknown: silence is not "nothing there".

Source: Moxa ioLogik E1212 manual p. A-7 to A-10. Unconfirmed: that the E1210 counters start at the
same address (hence ``counters_start``), and the meaning of any other module's map.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from drivers.base import Conditions
from drivers.counters import Gain, resets
from drivers.inputs import (
    MOXA_CONTACTS_START,
    MOXA_COUNTERS_START,
    UNWIRED,
    Channel,
    ContactsPeriod,
    ContactsStart,
    CounterBits,
    CounterModulus,
    CountersPeriod,
    CountersStart,
    InputModule,
    MaxIncrements,
    MaxIncrementsAfterGap,
    Point,
    Preset,
    WordOrder,
    check_modulus,
    moxa_point,
)
from drivers.readings import Contact, Reading

_NAME = re.compile("[a-z][a-z0-9_-]{0,23}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """One contact: where it is wired and how it is read."""

    channel: Channel = UNWIRED
    point: Annotated[Point | None, Meta(description="custom: where contact and counter stand")] = (
        None
    )
    counted: Annotated[
        bool, Meta(description="moxa: the channel's latched counter runs and is read too")
    ] = False
    normally_closed: Annotated[
        bool, Meta(description="active while the contact is open, broken wire included")
    ] = False
    stuck_after_s: Annotated[
        float, Meta(description="active for so long without end is stuck [s]; 0: never", ge=0)
    ] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the contacts are wired and the module is read."""

    preset: Annotated[Preset, Meta(description="the input module; custom: each input by its point")]
    inputs: Annotated[
        dict[str, Input],
        Meta(description="the contacts by name: each a table with its channel or point"),
    ]
    contacts_start: ContactsStart = MOXA_CONTACTS_START
    counters_start: CountersStart = MOXA_COUNTERS_START
    counter_bits: CounterBits = 32
    word_order: Annotated[WordOrder, Meta(description="which word of 32 bits comes first")] = (
        "high_first"
    )
    counter_modulus: CounterModulus = 0
    contacts_period_s: ContactsPeriod = 0.05
    counters_period_s: CountersPeriod = 0.5
    debounce_s: Annotated[
        float,
        Meta(description="a level counts once it was read the same for so long [s]", ge=0, le=10),
    ] = 0.05
    max_increments: MaxIncrements = 200
    max_increments_after_gap: MaxIncrementsAfterGap = 10000

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("there is no input; give at least one in inputs")
        check_modulus(self.counter_modulus, self.counter_bits)
        for name, wired in self.inputs.items():
            self._check(name, wired)
        if self.preset != "custom":
            channels = [wired.channel for wired in self.inputs.values()]
            twice = sorted({c for c in channels if channels.count(c) > 1})
            if twice:
                raise ValueError(f"channel {twice[0]} is wired to two inputs; give each its own")

    def _check(self, name: str, wired: Input) -> None:
        if _NAME.fullmatch(name) is None:
            raise ValueError(
                f'input "{name}": expected a name of at most 24 of a-z, 0-9, _ and -, a letter '
                "first"
            )
        point = wired.point
        if self.preset == "custom":
            if point is None or point.contact == UNWIRED:
                raise ValueError(f'input {name}: preset "custom" needs its point with a contact')
            if wired.channel != UNWIRED or wired.counted:
                raise ValueError(
                    f'input {name}: channel and counted belong to a moxa preset; "custom" goes by '
                    "point, with its counter"
                )
        elif point is not None:
            raise ValueError(
                f'input {name}: point given with preset "{self.preset}"; use preset = "custom" or '
                "the channel"
            )
        elif wired.channel == UNWIRED:
            raise ValueError(f"input {name} has no channel; give one")


@dataclass(slots=True)
class _Line:
    """What is remembered of one contact."""

    level: bool | None = None
    """Whether it is active, debounced; None: not known yet."""
    candidate: bool | None = None
    reads: int = 0
    """How often in a row ``candidate`` was read."""
    shown: int = 0
    """Closings that the contact has shown and its counter has not told yet."""
    untold: int = 0
    """Closings that only the counter has told."""


class Driver(InputModule):
    """Keeps each contact's debounced level and each counter's last figure."""

    def __init__(self, options: Options) -> None:
        super().__init__(
            options, {name: _point(options, wired) for name, wired in options.inputs.items()}
        )
        self._options = options
        self._lines = {name: _Line() for name in self._points}
        # The first and the last of so many reads lie debounce_s apart.
        self._needed = 1 + math.ceil(options.debounce_s / options.contacts_period_s - 1e-9)
        self._conditions = Conditions()

    def silence(self) -> list[Reading]:
        """Forget every level: unknown is not "nothing there". The counters' figures are kept."""
        readings: list[Reading] = [
            Contact(name=name, active=None)
            for name, line in self._lines.items()
            if line.level is not None
        ]
        self._lines = {name: _Line() for name in self._points}
        self._counters.gap()
        return readings + self._conditions.lost()

    def _contact(self, name: str, readings: list[Reading], *, closed: bool) -> None:
        line, wired = self._lines[name], self._options.inputs[name]
        read = closed != wired.normally_closed
        line.reads = line.reads + 1 if read == line.candidate else 1
        line.candidate = read
        if wired.stuck_after_s:
            readings += self._conditions.stuck(
                name,
                active=read,
                period_s=self._options.contacts_period_s,
                limit_s=wired.stuck_after_s,
            )
        if line.reads < self._needed:
            return
        if read != line.level:
            closed_now = read != wired.normally_closed
            if line.level is not None and closed_now:
                self._show(line)
            line.level = read
            readings.append(Contact(name=name, active=read, pulses=self._none_more(name)))
        if line.untold:
            readings.append(Contact(name=name, active=line.level, pulses=line.untold))
            line.untold = 0

    @staticmethod
    def _show(line: _Line) -> None:
        """Pair a closing that the contact shows with the counter's word for the same one."""
        if line.untold:
            line.untold -= 1
        else:
            line.shown += 1

    def _none_more(self, name: str) -> int | None:
        return 0 if self._points[name].counter >= 0 else None

    def _gained(self, gains: list[Gain], readings: list[Reading]) -> None:
        detail = resets(gains)
        readings += self._conditions.turned("counter_reset", active=bool(detail), detail=detail)
        for gain in gains:
            self._closings(gain, readings)

    def _closings(self, gain: Gain, readings: list[Reading]) -> None:
        line = self._lines[gain.name]
        if gain.increments is None:  # nobody can say how many: the reset is said as a condition
            line.shown = line.untold = 0
            return
        known = min(gain.increments, line.shown)
        line.shown -= known
        line.untold += gain.increments - known
        # A level that is still being debounced may be the very one that was counted.
        if line.untold and line.level is not None and line.candidate == line.level:
            readings.append(Contact(name=gain.name, active=line.level, pulses=line.untold))
            line.untold = 0


def _point(options: Options, wired: Input) -> Point:
    if wired.point is not None:
        return wired.point
    return moxa_point(
        wired.channel,
        contacts_start=options.contacts_start,
        counters_start=options.counters_start,
        is_counted=wired.counted,
    )
