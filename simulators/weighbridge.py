"""A weighbridge: how the platform moves, and what a terminal on it shows.

Ranges, rounding, stability and the limit of zero setting follow OIML R 76-1 (unconfirmed: taken
from summaries of it).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

import numpy as np

from simulators.clock import SceneClock
from simulators.ports import PtyPort, Send, Talk, TcpPort

Unit = Literal["kg", "lb"]
Range = Literal["ok", "over", "under"]

KG_PER_LB = 0.45359237
_STEP_S = 0.02
# Nothing of a swing is left after so long, so a longer stretch need not be followed.
_MEMORY_S = 30.0
# A laden platform swings slowly on its truck's springs, an empty one fast.
_LADEN_HZ, _EMPTY_HZ = 2.2, 7.0
_LADEN_KG = 1000.0
_DAMPING = 0.2
# The weight must have stayed within one interval this long to be called stable.
_STABLE_FOR_S = 0.6
_NOISES = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What the platform's cells say at one moment of the scene."""

    scene_s: float
    sensed_kg: float  # not rounded, before any zero setting
    displayed_kg: float  # rounded to the scale interval
    in_motion: bool
    range: Range


class Weighbridge:
    """A platform on springs: it swings, settles, trembles with the engine, and drifts when empty.

    The same seed and load give the same weights, however often and whenever it is observed.

    Parameters
    ----------
    load_kg : the true load at a scene time [kg]
    e_kg : verification scale interval [kg]; a 60 t weighbridge has typically 20 kg
    max_kg : capacity [kg]; beyond it by 9 e, or 20 e below zero, nothing may be shown (OIML R 76)
    """

    def __init__(
        self,
        load_kg: Callable[[float], float],
        *,
        e_kg: float = 20.0,
        max_kg: float = 60_000.0,
        seed: int,
    ) -> None:
        self._load_kg = load_kg
        self.e_kg = e_kg
        self.max_kg = max_kg
        rng = np.random.default_rng([seed, 4])
        self._noise: list[float] = rng.normal(size=_NOISES).clip(-3.0, 3.0).tolist()
        self._drift_phase = float(rng.uniform(0.0, 2.0 * math.pi))
        self._step: int | None = None  # the last one followed
        self._position_kg = 0.0
        self._velocity_kg_per_s = 0.0
        self._recent: deque[float] = deque(maxlen=round(_STABLE_FOR_S / _STEP_S))

    def observe(self, scene_s: float) -> Observation:
        """Return the weight at a scene time; time must not run backwards.

        Raises
        ------
        ValueError
            If ``scene_s`` lies before the last observation.
        """
        step = math.floor(scene_s / _STEP_S)
        if self._step is not None and step < self._step:
            raise ValueError(f"observed at {scene_s:.3f} s after {self._step * _STEP_S:.3f} s")
        self._follow(step)
        sensed = self._recent[-1]
        return Observation(
            scene_s=scene_s,
            sensed_kg=sensed,
            displayed_kg=round(sensed / self.e_kg) * self.e_kg,
            in_motion=max(self._recent) - min(self._recent) > self.e_kg,
            range=self.range_of(sensed),
        )

    def range_of(self, weight_kg: float) -> Range:
        """Return whether a weight may be shown."""
        if weight_kg > self.max_kg + 9.0 * self.e_kg:
            return "over"
        return "under" if weight_kg < -20.0 * self.e_kg else "ok"

    def _follow(self, step: int) -> None:
        oldest = step - round(_MEMORY_S / _STEP_S)
        if self._step is None or self._step < oldest:
            self._step = oldest
            self._position_kg = self._load_kg(oldest * _STEP_S)
            self._velocity_kg_per_s = 0.0
        for number in range(self._step + 1, step + 1):
            load = self._load_kg(number * _STEP_S)
            pace = 2.0 * math.pi * _swing_hz(load)
            force = pace * pace * (load - self._position_kg)
            force -= 2.0 * _DAMPING * pace * self._velocity_kg_per_s
            self._velocity_kg_per_s += force * _STEP_S
            self._position_kg += self._velocity_kg_per_s * _STEP_S
            self._recent.append(self._position_kg + self._disturbance(number, load))
        self._step = step
        if not self._recent:
            self._recent.append(self._position_kg + self._disturbance(step, 0.0))

    def _disturbance(self, number: int, load_kg: float) -> float:
        """Return zero drift and tremble; on an empty platform never beyond e/4."""
        drift = 0.15 * math.sin(2.0 * math.pi * number * _STEP_S / 900.0 + self._drift_phase)
        tremble = (0.1 if load_kg > 0 else 0.03) * self._noise[number % _NOISES]
        return (drift + tremble) * self.e_kg


def _swing_hz(load_kg: float) -> float:
    return _LADEN_HZ + (_EMPTY_HZ - _LADEN_HZ) / (1.0 + max(0.0, load_kg) / _LADEN_KG)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a terminal shows: exact decimal figures in its unit."""

    value: Decimal  # gross, or net where a tare is set
    tare: Decimal  # 0: none
    is_net: bool
    in_motion: bool
    range: Range


class Terminal:
    """One terminal, whatever it speaks: ports, zero and tare, in its unit, by its increment."""

    def __init__(self, weighbridge: Weighbridge, *, unit: Unit, increment: Decimal | None) -> None:
        default = Decimal(str(weighbridge.e_kg)).normalize() if unit == "kg" else Decimal(50)
        self.weighbridge = weighbridge
        self.unit = unit
        self.increment = increment or default
        self.factor, self.build = factor_and_build(self.increment)
        self.zero_kg = 0.0
        self.tare = Decimal(0)
        self._clock: SceneClock | None = None
        self._ports: list[PtyPort | TcpPort] = []

    def show(self, observation: Observation) -> Reading:
        """Return what is shown for an observation."""
        weight_kg = observation.sensed_kg - self.zero_kg
        gross = self.rounded(weight_kg)
        return Reading(
            value=gross - self.tare,
            tare=self.tare,
            is_net=self.tare != 0,
            in_motion=observation.in_motion,
            range=self.weighbridge.range_of(weight_kg),
        )

    def observe(self) -> Observation:
        """Return what the platform says now."""
        assert self._clock is not None, "serve_pty or serve_tcp comes first"
        return self.weighbridge.observe(self._clock.now_s())

    def set_zero(self, observation: Observation) -> Range:
        """Take the present weight as zero, within 2 % of capacity either way (OIML R 76)."""
        limit_kg = 0.02 * self.weighbridge.max_kg
        if abs(observation.sensed_kg) > limit_kg:
            return "over" if observation.sensed_kg > 0 else "under"
        self.zero_kg = observation.sensed_kg
        return "ok"

    def set_tare(self, observation: Observation) -> Range:
        """Take the present gross weight as tare, if it is above zero and may be shown."""
        weight_kg = observation.sensed_kg - self.zero_kg
        gross = self.rounded(weight_kg)
        if gross <= 0:
            return "under"
        if self.weighbridge.range_of(weight_kg) == "over":
            return "over"
        self.tare = gross
        return "ok"

    def rounded(self, weight_kg: float) -> Decimal:
        """Return a weight in the terminal's unit, rounded to its increment."""
        weight = weight_kg / (KG_PER_LB if self.unit == "lb" else 1.0)
        return round(weight / float(self.increment)) * self.increment

    def _start(self, send: Send) -> Talk:
        raise NotImplementedError

    async def serve_pty(self, clock: SceneClock) -> str:
        """Open a pseudo-terminal and return the path that a client opens."""
        self._clock = clock
        port = PtyPort(self._start)
        self._ports.append(port)
        return port.path

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on the loopback and return the address, ``tcp://127.0.0.1:N``."""
        self._clock = clock
        port = TcpPort(self._start)
        self._ports.append(port)
        return f"tcp://127.0.0.1:{await port.open()}"

    async def close(self) -> None:
        """Close the ports and end what was running."""
        for port in self._ports:
            if isinstance(port, PtyPort):
                port.close()
            else:
                await port.close()
        self._ports.clear()


def factor_and_build(increment: Decimal) -> tuple[Decimal, int]:
    """Split an increment such as 20 into its decimal factor 10 and its build 2."""
    digits = increment.normalize().as_tuple()
    build = digits.digits[0] if len(digits.digits) == 1 else 0
    exponent = digits.exponent
    if digits.sign or build not in (1, 2, 5) or not isinstance(exponent, int):
        raise ValueError(f"increment is {increment}; expected 1, 2 or 5 times a power of ten")
    return Decimal(1).scaleb(exponent), build
