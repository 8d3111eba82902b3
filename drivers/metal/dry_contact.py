"""Walk-through metal detector by its relay contacts, wired to a Modbus input module.

Registers, addresses from 0 as on the wire; Moxa ioLogik E1210 and E1212, channel c::

    discrete input  0x0000 + c        the contact now: 1 closed, 0 open        (FC02)
    input register  0x0010 + 2c, +1   its counter, 32 bit, high word first     (FC04)

    channel 0  alarm relay, closed in alarm, held for 0.5-5 s
    channel 1  ready relay, fail-safe: closed while the detector is well and powered
    channel 2  passage relay: a person entered    channel 3  passage relay: a person left
    any other  tamper relay, and saturated: the signal is beyond what the detector can tell

A passage relay closes once a person, as the detector's own direction logic gives it. Of two bare
photocells wire one only: each person breaks both, and their order is not read here.

The counters latch: a pulse shorter than the poll is not lost, and several between two polls are
several. They count closings, must be started in the module, and survive a gap in our polling:
what they counted meanwhile is reported when the module answers again, together with a
``DeviceState("counted_in_gap", active=False)`` that gives the figures. A counter that went back is
a wrap where the wrap makes few increments, else a reset (``counter_reset``): what it counted since
is added where it is little, otherwise the figure is None. Contacts know no reason: an alarm at
random, from a detector that signals it on the same relay, cannot be told from metal.

Source: Moxa ioLogik E1212 manual p. A-7 to A-10. Unconfirmed: that the E1210 counters start at the
same address (hence ``counters_start``), and the meaning of any other module's map.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Block, Conditions
from drivers.counters import Gain, counted_in_gap, resets
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
from drivers.readings import MetalAlarm, MetalPassages, Reading

Signal = Literal["alarm", "ready", "passage_in", "passage_out", "tamper", "saturated"]
SIGNALS: tuple[Signal, ...] = (
    "alarm",
    "ready",
    "passage_in",
    "passage_out",
    "tamper",
    "saturated",
)
STATES: tuple[Signal, ...] = ("tamper", "saturated")
"""Signals that are a condition of the detector while active; no counter of theirs is read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the detector's contacts are wired and the module is read."""

    preset: Annotated[
        Preset,
        Meta(description="the input module; custom: by the points below"),
    ]
    alarm_channel: Channel = 0
    ready_channel: Channel = 1
    passage_in_channel: Channel = 2
    passage_out_channel: Channel = 3
    tamper_channel: Channel = UNWIRED
    saturated_channel: Channel = UNWIRED
    contacts_start: ContactsStart = MOXA_CONTACTS_START
    counters_start: CountersStart = MOXA_COUNTERS_START
    alarm: Annotated[Point | None, Meta(description="custom: the alarm relay")] = None
    ready: Annotated[Point | None, Meta(description="custom: the ready relay")] = None
    passage_in: Annotated[Point | None, Meta(description="custom: persons entering")] = None
    passage_out: Annotated[Point | None, Meta(description="custom: persons leaving")] = None
    tamper: Annotated[Point | None, Meta(description="custom: the tamper contact")] = None
    saturated: Annotated[
        Point | None, Meta(description="custom: the signal is too strong to be judged")
    ] = None
    normally_closed: Annotated[
        tuple[Signal, ...],
        Meta(description="signals that are active while the contact is open, broken wire included"),
    ] = ()
    counter_bits: CounterBits = 32
    word_order: Annotated[WordOrder, Meta(description="which word of 32 bits comes first")] = (
        "high_first"
    )
    counter_modulus: CounterModulus = 0
    contacts_period_s: ContactsPeriod = 0.1
    counters_period_s: CountersPeriod = 0.5
    stuck_after_s: Annotated[
        float,
        Meta(description="alarm or photocell active for so long without end is stuck [s]", ge=1),
    ] = 30.0
    max_increments: MaxIncrements = 200
    max_increments_after_gap: MaxIncrementsAfterGap = 10000

    def __post_init__(self) -> None:
        custom = {name: getattr(self, name) for name in SIGNALS}
        is_custom = self.preset == "custom"
        if is_custom and self.alarm is None:
            raise ValueError('preset "custom" needs the point alarm; give its contact or counter')
        if not is_custom and any(custom.values()):
            named = ", ".join(name for name, point in custom.items() if point)
            raise ValueError(
                f'{named} given with preset "{self.preset}"; use preset = "custom" or the channels'
            )
        check_modulus(self.counter_modulus, self.counter_bits)
        for name, point in custom.items():
            if point and point.contact == UNWIRED and point.counter == UNWIRED:
                raise ValueError(f"point {name} has neither contact nor counter; give one")
            if point and name in STATES and point.counter != UNWIRED:
                raise ValueError(f"point {name} is read at its contact; leave its counter out")


class Driver(InputModule):
    """Keeps each contact's level and each counter's last figure."""

    def __init__(self, options: Options) -> None:
        # A ready relay has no pulses worth counting, whatever counter stands beside it.
        super().__init__(options, _points(options), uncounted=("ready",))
        self._options = options
        self._levels: dict[str, bool] = {}
        self._conditions = Conditions("not_ready", *STATES)
        self._settled: dict[Block, tuple[int, ...]] = {}
        """Registers that said nothing and changed nothing here: the same again say no more."""

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say; never raises."""
        if self._settled.get(block) == registers:
            return []
        readings = super().decode(block, registers)
        if readings:
            self._settled.clear()
        elif not self._conditions.is_counting:
            self._settled[block] = registers
        return readings

    def silence(self) -> list[Reading]:
        """Forget every level: unknown is not "no alarm". The counters' figures are kept."""
        readings: list[Reading] = []
        if self._levels.get("alarm") is not None or self._counters.is_followed("alarm"):
            readings.append(MetalAlarm(active=None, pulses=None))
        self._settled.clear()
        self._levels.clear()
        self._counters.gap()
        return readings + self._conditions.lost("not_ready")

    def _contact(self, name: str, readings: list[Reading], *, closed: bool) -> None:
        level, before = closed != (name in self._options.normally_closed), self._levels.get(name)
        self._levels[name] = level
        if name == "ready":
            readings += self._conditions.turned("not_ready", active=not level)
            return
        if name in STATES:
            readings += self._conditions.turned(name, active=level)
            return
        readings += self._conditions.stuck(
            name,
            active=level,
            period_s=self._options.contacts_period_s,
            limit_s=self._options.stuck_after_s,
        )
        is_counted = self._points[name].counter >= 0
        if name == "alarm" and level != before:
            readings.append(MetalAlarm(active=level, pulses=0 if is_counted else None))
        elif name != "alarm" and before is False and level and not is_counted:
            readings.append(self._passages({name: 1}))

    def _gained(self, gains: list[Gain], readings: list[Reading]) -> None:
        readings += counted_in_gap(gains)
        detail = resets(gains)
        readings += self._conditions.turned("counter_reset", active=bool(detail), detail=detail)
        self._tell({gain.name: gain.increments for gain in gains}, readings)

    def _tell(self, gained: dict[str, int | None], readings: list[Reading]) -> None:
        if gained.get("alarm", 0) != 0:
            active = self._levels.get("alarm")
            readings.append(MetalAlarm(active=active, pulses=gained["alarm"]))
        passages = {s: n for s, n in gained.items() if s != "alarm"}
        if any(n != 0 for n in passages.values()):
            readings.append(self._passages(passages))

    def _passages(self, gained: dict[str, int | None]) -> MetalPassages:
        """Return the passages; a direction that is wired but silent is 0, an unwired one None."""
        entered, left = (
            gained.get(signal, 0 if signal in self._points else None)
            for signal in ("passage_in", "passage_out")
        )
        return MetalPassages(entered=entered, left=left)


def _points(options: Options) -> dict[str, Point]:
    if options.preset == "custom":
        custom: dict[str, Point | None] = {
            "alarm": options.alarm,
            "ready": options.ready,
            "passage_in": options.passage_in,
            "passage_out": options.passage_out,
            "tamper": options.tamper,
            "saturated": options.saturated,
        }
        return {signal: point for signal, point in custom.items() if point is not None}
    channels: dict[str, int] = {
        "alarm": options.alarm_channel,
        "ready": options.ready_channel,
        "passage_in": options.passage_in_channel,
        "passage_out": options.passage_out_channel,
        "tamper": options.tamper_channel,
        "saturated": options.saturated_channel,
    }
    return {
        signal: moxa_point(
            channel,
            contacts_start=options.contacts_start,
            counters_start=options.counters_start,
            is_counted=signal not in ("ready", *STATES),
        )
        for signal, channel in channels.items()
        if channel != UNWIRED
    }
