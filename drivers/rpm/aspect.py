"""ASPECT "Yantar" portals: the holding registers of the control unit, over Modbus TCP port 502.

Two blocks, read with function 03. Addresses from 0, as on the wire; 32-bit figures hold the low
word first, so 400.0 = 43C8 0000h stands as 0000h, 43C8h and 70,000 = 0001 1170h as 1170h, 0001h::

    description      0  signature           1  number of registers     2  identifier of the block
                     3  B: its base         4  its length              5-7  not known

    monitor block    B+0   internal time    u32      +10  neutron status      bits
                     +2    inputs           bits     +11  neutron count       u32   [counts]
                     +3    gamma status     bits     +13  neutron background  f32   [counts]
                     +4    gamma count      u32      +15  neutron variance    f32   [counts²]
                     +6    gamma background f32      +17  objects, counted    u16
                     +8    gamma variance   f32      +18  object's mark       u16
                                                     +19  object's speed      u16   [mm/s]
                                                     +20  outputs             bits

    status   0001h alarm level 1   0002h alarm level 2   0010h low count   0020h high count
             0040h overload        0080h ready           0100h-8000h detectors 0-7
    inputs   000Fh occupancy sensors 0-3   0010h button   0020h sensor   0040h direction 0 to 1
             0080h direction 1 to 0 (both: unknown)   0100h mains failed   0200h battery low
             0400h cabinet open   0800h error   8000h reset

The unit computes background, variance and both alarms itself. It counts all detectors together,
so there is one gamma and one neutron figure. Nothing is written; the outputs (lamps, camera,
learning of the background) are what its own display shows and are not passed on.

An object is there while an occupancy sensor is active, also in the very first read. A count of
objects that grew without a sensor seen active is one that passed between two reads; what was
counted while the unit was lost is said as ``objects_missed``.

Source: ASPECT driver of the open OSCAR lane software (MPL-2.0), its registers, enums and README,
which takes base 100 and length 21 for granted; here both are read. Unconfirmed: that count,
background and variance are of one interval, and its length (``interval_s``); what signature and
identifier are, so that they are not compared; the meaning of the object's mark and of the
detector bits, which are kept as they came; which way "in" is (``inward``).
Quirk: the speed may still be the last object's when one arrives; it is taken when
it changes under the object, else when the object leaves.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Block
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceState,
    GammaBackground,
    GammaCounts,
    NeutronBackground,
    NeutronCounts,
    Reading,
    Reason,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
)
from drivers.registers import refusal

PRESENCE = "told"
GAMMA_RULE = "own"
SILENCE_S = 5.0

DESCRIPTION_WORDS = 8
MONITOR_WORDS = 21
LONGEST_MONITOR = 120
DESCRIPTION_FIRST_S, DESCRIPTION_AGAIN_S = 1.0, 60.0
"""How often the description is read before it was understood, and after."""
BACKGROUND_EVERY_S = 5.0
"""The background changes slowly; passing it on with every read would only fill memory."""
MOST_UNSEEN = 100
"""A count of objects that gained more than this between two reads began anew."""

_MONITOR = struct.Struct(">I H H I f f H I f f H H H H")

_ALARMS = 0x0003
_CONDITIONS = (("low_count", 0x0010), ("high_count", 0x0020))
_OVERLOAD, _READY = 0x0040, 0x0080
_OCCUPIED = 0x000F
_FORWARD, _BACKWARD = 0x0040, 0x0080
_INPUT_CONDITIONS = (
    ("mains_failed", 0x0100),
    ("battery_low", 0x0200),
    ("tamper", 0x0400),
    ("device_error", 0x0800),
    ("reset", 0x8000),
)
_INPUT_NAMES = (("button", 0x0010), ("sensor", 0x0020))

Direction = Literal["in", "out"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between sites."""

    poll_period_s: Annotated[
        float, Meta(description="how often the monitor block is read [s]", ge=0.05, le=10)
    ] = 0.2
    interval_s: Annotated[
        float, Meta(description="over how long the unit counts [s]", ge=0.05, le=60)
    ] = 1.0
    monitor_address: Annotated[
        int,
        Meta(
            description="base of the monitor block, as on the wire; -1: as the unit describes",
            ge=-1,
            le=65500,
        ),
    ] = -1
    inward: Annotated[
        Literal["0-1", "1-0"], Meta(description="which of its two directions is inward")
    ] = "0-1"
    has_neutron: Annotated[
        bool, Meta(description="whether neutron detectors are fitted; false: none are reported")
    ] = True
    stalled_after_s: Annotated[
        float,
        Meta(description="its internal time may stand still for so long [s]; 0: for ever", ge=0),
    ] = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Monitor:
    """One read of the monitor block."""

    time: int
    inputs: int
    gamma_status: int
    gamma: int
    gamma_background: float
    gamma_variance: float
    neutron_status: int
    neutron: int
    neutron_background: float
    neutron_variance: float
    objects: int
    mark: int
    speed_mm_per_s: int


class Driver:
    """Registers in, readings out; reads where the monitor block is before it reads that."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._place: tuple[int, int] | None = None
        if options.monitor_address >= 0:
            self._place = (options.monitor_address, MONITOR_WORDS)
        self._objects: int | None = None
        self._after_gap = False
        # Kept over a gap: what stood before it is taken back by the first read that finds it gone.
        self._active: dict[str, bool] = {}
        self._overloads: dict[str, bool] = {}
        self._forget()

    def _forget(self) -> None:
        self._occupied: bool | None = None
        self._direction: Direction | None = None
        self._speed: int | None = None
        self._speed_told = False
        self._notes: dict[str, str] = {}
        self._time: int | None = None
        self._still_reads = 0
        self._reads_to_background = 0

    def blocks(self) -> tuple[Block, ...]:
        """Return the description, and the monitor block once its place is known."""
        monitor: tuple[Block, ...] = ()
        if self._place is not None:
            base, length = self._place
            period_s = self._options.poll_period_s
            monitor = (Block(table="holding", address=base, count=length, period_s=period_s),)
        if self._options.monitor_address >= 0:
            return monitor
        again_s = DESCRIPTION_FIRST_S if self._place is None else DESCRIPTION_AGAIN_S
        return (
            Block(table="holding", address=0, count=DESCRIPTION_WORDS, period_s=again_s),
            *monitor,
        )

    def silence(self) -> list[Reading]:
        """Say what is not known any more; the count of objects will show what passed meanwhile."""
        readings: list[Reading] = []
        if self._occupied is not None:
            readings.append(VehiclePresence(occupied=None))
        readings += [
            DeviceState(condition=name, active=None) for name, on in self._active.items() if on
        ]
        self._forget()
        self._after_gap = self._objects is not None
        return readings

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say; never raises."""
        refused = refusal(block, self.blocks(), registers)
        if refused is not None:
            return [refused]
        raw = b"".join(word.to_bytes(2, "big") for word in registers)
        if block.count == DESCRIPTION_WORDS:
            return self._describe(registers, raw)
        monitor = _monitor(registers, raw)
        return [monitor] if isinstance(monitor, BadFrame) else self._monitored(monitor)

    def _describe(self, words: tuple[int, ...], raw: bytes) -> list[Reading]:
        base, length = words[3], words[4]
        is_right = MONITOR_WORDS <= length <= LONGEST_MONITOR and base >= DESCRIPTION_WORDS
        if not is_right or base + length > 0x10000:
            detail = (
                f"the description gives {length} registers from {base} on as the monitor block, "
                f"expected {MONITOR_WORDS} or more behind itself; set monitor_address"
            )
            return [BadFrame.of(Reason.RANGE, raw, detail)]
        self._place = (base, length)
        return []

    def _monitored(self, now: _Monitor) -> list[Reading]:
        readings: list[Reading] = []
        unseen = self._unseen(now)
        missed = max(0, unseen - bool(now.inputs & _OCCUPIED)) if self._after_gap else 0
        self._conditions(now, missed, readings)
        self._background(now, readings)
        self._kept(now, readings)
        self._arrived(now, unseen - missed, readings)
        interval_s = self._options.interval_s
        is_alarm = bool(now.gamma_status & _ALARMS)
        readings.append(
            GammaCounts(counts=(now.gamma,), real_time_s=interval_s, device_alarm=is_alarm)
        )
        if self._options.has_neutron:
            is_alarm = bool(now.neutron_status & _ALARMS)
            readings.append(
                NeutronCounts(counts=(now.neutron,), real_time_s=interval_s, device_alarm=is_alarm)
            )
        # The last counts of an object are its own: it leaves behind them.
        self._left(now, readings)
        self._objects = now.objects
        self._after_gap = False
        return readings

    # ------------------------------------------------------------ the unit itself

    def _conditions(self, now: _Monitor, missed: int, readings: list[Reading]) -> None:
        found = {name: bool(now.inputs & bit) for name, bit in _INPUT_CONDITIONS}
        channels = [("gamma", now.gamma_status)]
        if self._options.has_neutron:
            channels.append(("neutron", now.neutron_status))
        for channel, status in channels:
            found |= {f"{channel}_{name}": bool(status & bit) for name, bit in _CONDITIONS}
            found[f"{channel}_not_ready"] = not status & _READY
            self._overload(channel, status, readings)
        found["stalled"] = self._is_stalled(now.time)
        found["objects_missed"] = missed > 0
        for name, active in found.items():
            if self._active.get(name, False) != active:
                detail = f"{missed} while the unit was lost" if name == "objects_missed" else ""
                readings.append(
                    DeviceState(condition=name, active=active, detail=detail if active else "")
                )
        self._active = found

    def _overload(self, channel: str, status: int, readings: list[Reading]) -> None:
        """Say an overload as the alarm that a saturated detector is."""
        is_over = bool(status & _OVERLOAD)
        if self._overloads.get(channel, False) != is_over:
            self._overloads[channel] = is_over
            detail = f"status {status:04X}h"
            kind: Literal["gamma", "neutron"] = "gamma" if channel == "gamma" else "neutron"
            alarm = DeviceAlarm(
                kind=kind, code=f"{channel}_overload", detail=detail, active=is_over
            )
            readings.append(alarm)

    def _is_stalled(self, time: int) -> bool:
        self._still_reads = self._still_reads + 1 if time == self._time else 0
        self._time = time
        still_s = self._still_reads * self._options.poll_period_s
        return 0 < self._options.stalled_after_s <= still_s

    def _background(self, now: _Monitor, readings: list[Reading]) -> None:
        self._reads_to_background -= 1
        if self._reads_to_background > 0:
            return
        self._reads_to_background = round(BACKGROUND_EVERY_S / self._options.poll_period_s)
        interval_s = self._options.interval_s
        readings.append(
            GammaBackground(
                cps=(now.gamma_background / interval_s,), variance=(now.gamma_variance,)
            )
        )
        if self._options.has_neutron:
            readings.append(
                NeutronBackground(
                    total_cps=now.neutron_background / interval_s,
                    rounded_down=False,
                    variance=now.neutron_variance,
                )
            )

    def _kept(self, now: _Monitor, readings: list[Reading]) -> None:
        """Pass on, where it changed, what is named but not explained."""
        inputs = _names(_INPUT_NAMES, now.inputs)
        notes = {"inputs": ", ".join(inputs), "object_mark": str(now.mark or "")}
        notes["gamma_detectors"] = _detectors(now.gamma_status)
        if self._options.has_neutron:
            notes["neutron_detectors"] = _detectors(now.neutron_status)
        for tag, text in notes.items():
            if self._notes.get(tag, "") != text:
                readings.append(Undocumented(tag=tag, text=text))
        self._notes = notes

    # ------------------------------------------------------------ objects

    def _unseen(self, now: _Monitor) -> int:
        """Return how many objects were counted since the last read."""
        gained = 0 if self._objects is None else (now.objects - self._objects) % 0x10000
        return gained if gained <= MOST_UNSEEN else 0

    def _arrived(self, now: _Monitor, unseen: int, readings: list[Reading]) -> None:
        is_there = bool(now.inputs & _OCCUPIED)
        direction = self._direction_of(now.inputs)
        was_there = bool(self._occupied)
        is_turned = was_there and direction not in (None, self._direction)
        # The end of an object may be counted late; that is no other one.
        if (is_there and not was_there) or (unseen and (is_there or not was_there)) or is_turned:
            self._direction = direction or (self._direction if was_there else None)
            self._occupied = True
            readings.append(VehiclePresence(occupied=True, direction=direction, number=now.objects))
        if self._occupied and not was_there:
            self._speed_told = False
        elif self._occupied and now.speed_mm_per_s != self._speed:
            self._say_speed(now.speed_mm_per_s, readings)
        self._speed = now.speed_mm_per_s

    def _left(self, now: _Monitor, readings: list[Reading]) -> None:
        if now.inputs & _OCCUPIED or self._occupied is False:
            return
        if self._occupied and not self._speed_told:
            self._say_speed(now.speed_mm_per_s, readings)
        direction = self._direction_of(now.inputs) or self._direction
        self._occupied, self._direction = False, None
        readings.append(VehiclePresence(occupied=False, direction=direction, number=now.objects))

    def _say_speed(self, mm_per_s: int, readings: list[Reading]) -> None:
        if mm_per_s:
            readings.append(VehicleSpeed(m_per_s=mm_per_s / 1000))
            self._speed_told = True

    def _direction_of(self, inputs: int) -> Direction | None:
        ways = inputs & (_FORWARD | _BACKWARD)
        if ways not in (_FORWARD, _BACKWARD):
            return None
        return "in" if (ways == _FORWARD) == (self._options.inward == "0-1") else "out"


def _monitor(words: tuple[int, ...], raw: bytes) -> _Monitor | BadFrame:
    """Return the figures of a monitor block of 21 registers or more."""
    if not any(words[:MONITOR_WORDS]):
        return BadFrame.of(Reason.RANGE, raw, "the monitor block is all zeros")
    # Low word first: each pair changes places, and then all of it is big-endian.
    turned = list(words[:MONITOR_WORDS])
    for at in (0, 4, 6, 8, 11, 13, 15):
        turned[at], turned[at + 1] = turned[at + 1], turned[at]
    (
        time,
        inputs,
        gamma_status,
        gamma,
        gamma_background,
        gamma_variance,
        neutron_status,
        neutron,
        neutron_background,
        neutron_variance,
        objects,
        mark,
        speed,
        _,
    ) = _MONITOR.unpack(struct.pack(f">{MONITOR_WORDS}H", *turned))
    figures = (gamma_background, gamma_variance, neutron_background, neutron_variance)
    if not all(math.isfinite(figure) and 0 <= figure < 1e9 for figure in figures):
        detail = "a background or variance is no number from 0 up; check monitor_address"
        return BadFrame.of(Reason.RANGE, raw, detail)
    return _Monitor(
        time=time,
        inputs=inputs,
        gamma_status=gamma_status,
        gamma=gamma,
        gamma_background=gamma_background,
        gamma_variance=gamma_variance,
        neutron_status=neutron_status,
        neutron=neutron,
        neutron_background=neutron_background,
        neutron_variance=neutron_variance,
        objects=objects,
        mark=mark,
        speed_mm_per_s=speed,
    )


def _names(bits: Iterable[tuple[str, int]], word: int) -> list[str]:
    return [name for name, bit in bits if word & bit]


def _detectors(status: int) -> str:
    return " ".join(str(n) for n in range(8) if status & 0x100 << n)
