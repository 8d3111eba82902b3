"""Metal detectors and their controllers on Modbus, by a map of points from the site's sheet.

Each point is one thing at one place, addresses from 0 as on the wire::

    passages_in  passages_out    persons: a counter, or a bit whose edge is one person
    alarms  random_alarms        a counter, or a bit whose edge is one alarm
    alarm  random_alarm          the level now: a bit, or a number with ``map``
    zones                        a mask of the zones, lowest bit first
    amplitude                    the signal: a number times ``scale``, in ``amplitude_scale``
    program  sensitivity         what it is set to: a number times ``scale``, or by ``map``
    ready  fault                 a bit, or a number with ``map``; fault may stand several times

    bit       a coil, a discrete input, or one bit of a register
    u16 i16   one register        u32 i32 f32   two, in ``word_order``

What ``map`` may say: alarm: clear, alarm, random; random_alarm: clear, random; ready: ready,
not_ready; fault: ok or the condition's name; zones: the zone's name by its bit, 0 the lowest;
program and sensitivity: anything. A number that a map does not hold is refused, not guessed; a
fault that it does not hold is ``unknown_fault``.

Counters latch, so that a pulse between two reads is not lost; wraps, resets and gaps are taken as
in ``drivers.counters``. A bit that is read misses pulses shorter than the poll. Nothing is written.

Source: the device's own sheet, which the lane file describes; the kinds of points are those of the
aggsoft description of the Odenberg HALO map and of Moxa ioLogik E1212 manual p. A-7 to A-10.
Unconfirmed: every map, until an alarm and a person were seen to move its points.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Block, Conditions, Table
from drivers.counters import Counters, Gain, counted_in_gap, resets
from drivers.readings import (
    BadFrame,
    MetalAlarm,
    MetalPassages,
    MetalProgram,
    Reading,
    Reason,
)
from drivers.registers import BIT_TABLES, Part, plan, refusal

Name = Literal[
    "passages_in",
    "passages_out",
    "alarms",
    "random_alarms",
    "alarm",
    "random_alarm",
    "zones",
    "amplitude",
    "program",
    "sensitivity",
    "ready",
    "fault",
]
Type = Literal["bit", "u16", "i16", "u32", "i32", "f32"]
Edge = Literal["rising", "falling", "change"]
COUNTED = ("passages_in", "passages_out", "alarms", "random_alarms")
ALLOWED = {
    "alarm": {"clear", "alarm", "random"},
    "random_alarm": {"clear", "random"},
    "ready": {"ready", "not_ready"},
}
OF_A_BIT = {
    "alarm": {"0": "clear", "1": "alarm"},
    "random_alarm": {"0": "clear", "1": "random"},
    "ready": {"0": "not_ready", "1": "ready"},
    "fault": {"0": "ok", "1": "fault"},
}
_CONDITION = re.compile("[a-z][a-z0-9_]{0,31}", re.ASCII)
_KEY = re.compile("-?[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing at one place."""

    name: Annotated[Name, Meta(description="what it is")]
    table: Annotated[Table, Meta(description="which table it stands in")]
    address: Annotated[int, Meta(description="address from 0, as on the wire", ge=0, le=65535)]
    type: Annotated[Type, Meta(description="how it is written")] = "u16"
    bit: Annotated[int, Meta(description="bit of a register: which, 0 the lowest", ge=0, le=15)] = 0
    word_order: Annotated[
        Literal["high_first", "low_first"], Meta(description="which of two registers comes first")
    ] = "high_first"
    scale: Annotated[
        float, Meta(description="what an amplitude, program or sensitivity is multiplied with")
    ] = 1.0
    map: Annotated[dict[str, str], Meta(description="meaning by number; zones: name by bit")] = (
        field(default_factory=dict)
    )
    edge: Annotated[
        Edge, Meta(description="counted bits: which edge is one; change: each of them")
    ] = "rising"
    modulus: Annotated[
        int,
        Meta(
            description="where a counter returns to 0, e.g. 10000 after 9999; 0: at its width",
            ge=0,
            le=1 << 32,
        ),
    ] = 0

    @property
    def words(self) -> int:
        """Return how many registers or bits it takes."""
        return 2 if self.type.endswith("32") else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The map, and what is plausible."""

    points: Annotated[
        tuple[Point, ...],
        Meta(description="what stands where, from the site's sheet", min_length=1, max_length=64),
    ]
    amplitude_scale: Annotated[
        str, Meta(description='what amplitude is counted in, e.g. "percent"', max_length=40)
    ] = ""
    poll_period_s: Annotated[
        float, Meta(description="how often the points are read [s]", ge=0.02, le=60)
    ] = 0.2
    stuck_after_s: Annotated[
        float, Meta(description="an alarm that lasts so long is stuck [s]", ge=1)
    ] = 30.0
    max_increments: Annotated[
        int, Meta(description="a counter cannot gain more between two reads [increments]", ge=1)
    ] = 200
    max_increments_after_gap: Annotated[
        int, Meta(description="nor more than this while the device was lost [increments]", ge=1)
    ] = 10000

    def __post_init__(self) -> None:
        names = [point.name for point in self.points]
        for name in names:
            if name != "fault" and names.count(name) > 1:
                raise ValueError(f"the point {name} stands twice; give it once")
        if not {"alarm", "alarms"} & set(names):
            raise ValueError("no point tells alarms; give alarm, alarms or both")
        if ("amplitude" in names) != bool(self.amplitude_scale):
            raise ValueError("the point amplitude and amplitude_scale need each other; give both")
        for point in self.points:
            trouble = _trouble(point)
            if trouble:
                raise ValueError(f"point {point.name} {trouble}")


def _trouble(point: Point) -> str:
    """Return what is wrong with a point and what to do; empty where nothing is."""
    is_bit = point.type == "bit"
    if point.table in BIT_TABLES and not is_bit:
        return f'has type {point.type} in a table of bits; give type = "bit"'
    if is_bit and point.name in ("zones", "amplitude", "program", "sensitivity"):
        return "is a number; give it the type of a register"
    if point.name in (*COUNTED, "zones") and point.type not in ("bit", "u16", "u32"):
        return "is never negative; give it the type u16 or u32"
    width = 16 * point.words
    if point.modulus > 1 << width:
        return f"has modulus {point.modulus}, which does not fit {width} bits; give its width"
    if point.name in (*ALLOWED, "fault") and not is_bit and not point.map:
        return "is a number without map; say what each number means"
    if not math.isfinite(point.scale) or point.scale == 0.0:
        return "has no scale; give what one count is worth"
    return _trouble_of_map(point, width)


def _trouble_of_map(point: Point, width: int) -> str:
    if point.map and point.name in (*COUNTED, "amplitude"):
        return "has a map, but is a figure; leave it out"
    for key, meaning in point.map.items():
        if not _KEY.fullmatch(key):
            return f'has "{key}" in its map; numbers stand there'
        if point.name == "zones" and not 0 <= int(key) < width:
            return f'has bit "{key}" in its map; its bits are 0 to {width - 1}'
        allowed = ALLOWED.get(point.name)
        if allowed and meaning not in allowed:
            return f'has "{meaning}" in its map; expected {", ".join(sorted(allowed))}'
        if point.name == "fault" and not _CONDITION.fullmatch(meaning):
            return f'has "{meaning}" in its map; name it as coil_fault, a-z and _'
    return ""


class _RefusedError(Exception):
    """A point says nothing that is known; stays inside this module."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


class Driver:
    """Keeps each point's last word and each counter's last figure."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._names = {point.name for point in options.points}
        self._counters = Counters(
            max_increments=options.max_increments,
            max_increments_after_gap=options.max_increments_after_gap,
        )
        parts: set[Part] = {(p.table, p.address, p.words) for p in options.points}
        self._blocks = tuple(plan(parts, options.poll_period_s))
        self._counts_alarms = any(p.name == "alarms" for p in options.points)
        self._conditions = Conditions("not_ready")
        self._forget()

    def _forget(self) -> None:
        self._alarm: bool | None = None
        self._random: dict[str, bool] = {}
        self._zones: tuple[str, ...] | None = None
        self._amplitude: float | None = None
        self._bits: dict[str, bool] = {}
        self._said: dict[str, str] = {}
        self._told: MetalProgram | None = None
        self._faults: dict[int, str] = {}
        self._is_watched = False

    def blocks(self) -> tuple[Block, ...]:
        """Return what to read; two registers of one figure are never cut apart."""
        return self._blocks

    def silence(self) -> list[Reading]:
        """Forget every level: unknown is not "no alarm". The counters' figures are kept."""
        readings: list[Reading] = []
        if self._alarm is not None or self._is_watched:
            readings.append(MetalAlarm(active=None, pulses=None))
        self._forget()
        self._counters.gap()
        return readings + self._conditions.lost("not_ready")

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say; never raises."""
        refused = refusal(block, self._blocks, registers)
        if refused is not None:
            return [refused]
        words = dict(enumerate(registers, block.address))
        readings: list[Reading] = []
        gains: list[Gain] = []
        measured = (self._zones, self._amplitude)
        # What measures an alarm goes before what tells it, wherever they stand in the block.
        for point in sorted(self._options.points, key=lambda p: p.name not in _MEASURES):
            places = range(point.address, point.address + point.words)
            if point.table != block.table or not all(place in words for place in places):
                continue
            try:
                self._take(point, words, gains, readings)
            except _RefusedError as exc:
                raw = b"".join(words[place].to_bytes(2, "big") for place in places)
                readings.append(BadFrame.of(exc.reason, raw, f"{point.name}: {exc}"))
                if point.name == "alarm" and self._alarm is not None:
                    self._alarm = None
                    pulses = 0 if self._counts_alarms else None
                    readings.append(MetalAlarm(active=None, pulses=pulses))
        self._gained(gains, readings)
        is_news = measured != (self._zones, self._amplitude)
        if is_news and self._alarm and not any(isinstance(r, MetalAlarm) for r in readings):
            readings.append(self._metal(active=True, pulses=0 if self._counts_alarms else None))
        return readings

    def _take(
        self, point: Point, words: Mapping[int, int], gains: list[Gain], readings: list[Reading]
    ) -> None:
        number = _number(point, words)
        match point.name:
            case "passages_in" | "passages_out" | "alarms" | "random_alarms":
                self._count(point, int(number), gains)
            case "alarm" | "random_alarm":
                self._level(point, _meaning(point, number), readings)
            case "zones":
                self._zones = _zones(point, int(number))
            case "amplitude":
                self._amplitude = float(abs(number * Decimal(str(point.scale))))
            case "program" | "sensitivity":
                self._set(point, number, readings)
            case "ready":
                is_ready = _meaning(point, number) == "ready"
                readings += self._conditions.turned("not_ready", active=not is_ready)
            case "fault":
                self._fault(point, number, readings)

    def _count(self, point: Point, figure: int, gains: list[Gain]) -> None:
        if point.type == "bit":
            level, before = bool(figure), self._bits.get(point.name)
            self._bits[point.name] = level
            if before is None:  # the first read is only a baseline
                return
            is_edge = level != before and (
                point.edge == "change" or level == (point.edge == "rising")
            )
            gains.append(Gain(name=point.name, increments=int(is_edge)))
            return
        modulus = point.modulus or 1 << 16 * point.words
        if figure >= modulus:
            raise _RefusedError(Reason.RANGE, f"{figure} is above its modulus {modulus}")
        gain = self._counters.take(point.name, figure, modulus)
        if gain is not None:
            gains.append(gain)

    def _gained(self, gains: list[Gain], readings: list[Reading]) -> None:
        readings += counted_in_gap(gains)
        detail = resets(gains)
        readings += self._conditions.turned("counter_reset", active=bool(detail), detail=detail)
        gained = {gain.name: gain.increments for gain in gains}
        if gained.get("alarms", 0) != 0:
            readings.append(self._metal(active=self._alarm, pulses=gained["alarms"]))
        is_followed = "alarms" in self._bits or self._counters.is_followed("alarms")
        if is_followed and not self._is_watched:
            self._is_watched = True
            if "alarm" not in self._names:
                readings.append(MetalAlarm(active=None, pulses=0))
        if gained.get("random_alarms", 0) != 0:
            pulses = gained["random_alarms"]
            readings.append(MetalAlarm(active=None, pulses=pulses, is_random=True))
        if gained.get("passages_in", 0) != 0 or gained.get("passages_out", 0) != 0:
            entered, left = (
                gained.get(name, 0 if name in self._names else None)
                for name in ("passages_in", "passages_out")
            )
            readings.append(MetalPassages(entered=entered, left=left))

    def _level(self, point: Point, meaning: str, readings: list[Reading]) -> None:
        if point.name == "alarm":
            is_alarm = meaning == "alarm"
            readings += self._conditions.stuck(
                "alarm",
                active=is_alarm,
                period_s=self._options.poll_period_s,
                limit_s=self._options.stuck_after_s,
            )
            if is_alarm != self._alarm:
                self._alarm = is_alarm
                pulses = 0 if self._counts_alarms else None
                readings.append(self._metal(active=is_alarm, pulses=pulses))
            if "random" not in (point.map or OF_A_BIT["alarm"]).values():
                return
        is_random = meaning == "random"
        if is_random != self._random.get(point.name, False):
            self._random[point.name] = is_random
            pulses = 0 if "random_alarms" in self._names else None
            readings.append(MetalAlarm(active=is_random, pulses=pulses, is_random=True))

    def _metal(self, *, active: bool | None, pulses: int | None) -> MetalAlarm:
        if not active and not pulses:
            return MetalAlarm(active=active, pulses=pulses)
        scale = None if self._amplitude is None else self._options.amplitude_scale
        return MetalAlarm(
            active=active,
            pulses=pulses,
            zones=self._zones,
            amplitude=self._amplitude,
            amplitude_scale=scale,
        )

    def _set(self, point: Point, number: Decimal, readings: list[Reading]) -> None:
        """Say program and sensitivity together, once both were read."""
        if point.map:
            text = _meaning(point, number)
        else:
            text = format((number * Decimal(str(point.scale))).normalize(), "f")
        self._said[point.name] = text
        if self._said.keys() != self._names & {"program", "sensitivity"}:
            return
        program = MetalProgram(
            program=self._said.get("program"), sensitivity=self._said.get("sensitivity")
        )
        if program != self._told:
            self._told = program
            readings.append(program)

    def _fault(self, point: Point, number: Decimal, readings: list[Reading]) -> None:
        names = point.map or OF_A_BIT["fault"]
        key = format(number, "f")
        name = names.get(key, "ok" if point.type == "bit" else "unknown_fault")
        place = self._options.points.index(point)
        before = self._faults.get(place)
        self._faults[place] = name
        if before not in (None, "ok", name) and before not in self._faults.values():
            readings += self._conditions.turned(str(before), active=False)
        if name != "ok":
            detail = f"code {key}" if name == "unknown_fault" else ""
            readings += self._conditions.turned(name, active=True, detail=detail)


_MEASURES = ("zones", "amplitude")


def _number(point: Point, words: Mapping[int, int]) -> Decimal:
    """Return the raw number that stands at a point.

    Source: MODBUS V1.1b3, 6.3 (high byte first); f32 is IEEE 754.
    """
    if point.type == "bit":
        word = words[point.address]
        return Decimal(word if point.table in BIT_TABLES else word >> point.bit & 1)
    parts = [words[point.address + i] for i in range(point.words)]
    if point.word_order == "low_first":
        parts.reverse()
    raw = b"".join(part.to_bytes(2, "big") for part in parts)
    if point.type == "f32":
        (figure,) = struct.unpack(">f", raw)
        if not math.isfinite(figure):
            raise _RefusedError(Reason.RANGE, "this is no number")
        return Decimal(f"{figure:.7g}")
    return Decimal(int.from_bytes(raw, "big", signed=point.type[0] == "i"))


def _meaning(point: Point, number: Decimal) -> str:
    meanings = point.map or OF_A_BIT[point.name]
    key = format(number, "f")
    if key not in meanings:
        raise _RefusedError(Reason.UNKNOWN, f"{key} is not in its map")
    return meanings[key]


def _zones(point: Point, mask: int) -> tuple[str, ...]:
    bits = [bit for bit in range(16 * point.words) if mask >> bit & 1]
    if not point.map:
        return tuple(str(bit + 1) for bit in bits)
    unknown = [bit for bit in bits if str(bit) not in point.map]
    if unknown:
        raise _RefusedError(Reason.UNKNOWN, f"bit {unknown[0]} is not in its map")
    return tuple(point.map[str(bit)] for bit in bits)
