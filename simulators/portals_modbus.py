"""A "Yantar" portal of ASPECT: a control unit whose holding registers show a scene.

::

    0 signature   1 registers   2 identifier   3 base B   4 length   5-7 nothing
    B+0 time  +2 inputs  +3 gamma status  +4 count  +6 background  +8 variance  +10 neutron status
    +11 count  +13 background  +15 variance  +17 objects  +18 mark  +19 speed mm/s  +20 outputs

Two registers a figure, the low half first, as a little-endian word is cut in two. The unit's own
rule is a stand-in, since the maker's is not public: the last second against the mean of the last
twenty vacant ones, level 1 from ``nsigma`` on and level 2 from twice that.

Source: register list of the open OSCAR driver for these portals.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from dataclasses import dataclass
from typing import Literal

import numpy as np

from simulators import physics
from simulators.clock import SceneClock
from simulators.modbus_server import ModbusTcpServer, ModbusUnit
from simulators.scene import Scene

TICK_S = 0.2
TICKS_A_SECOND = 5
BACKGROUND_TICKS = 100
HOLD_TICKS = 5
_SENSOR_0 = 1
_DIRECTIONS = {"0-1": 0x40, "1-0": 0x80, "unknown": 0xC0, "none": 0}
_READY = 0x80

Way = Literal["0-1", "1-0", "unknown", "none"]


@dataclass(frozen=True, slots=True, kw_only=True)
class YantarOptions:
    """How the unit is made and set."""

    base: int = 100
    length: int = 21
    nsigma: float = 5.0
    way: Way = "0-1"
    first_object: int = 0  # what its counter showed before the scene began
    signature: int = 0x4159


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What the registers say of one moment, for a test to compare."""

    scene_s: float
    gamma: int
    neutron: int
    gamma_background: float
    neutron_background: float
    gamma_level: int  # 0, 1 or 2
    neutron_level: int
    occupied: bool
    objects: int
    speed_mm_per_s: int


class YantarPortal:
    """The control unit; `advance` brings its registers to a moment of the scene."""

    def __init__(
        self, scene: Scene, options: YantarOptions | None = None, *, seed: int = 0
    ) -> None:
        self.options = options or YantarOptions()
        self.unit = ModbusUnit()
        self.inputs = 0  # further bits that a test sets, such as 0400h, the cabinet
        self._scene = scene
        self._rng = np.random.default_rng([seed, 17])
        self._tick = 0
        self._recent: deque[tuple[int, int]] = deque(maxlen=TICKS_A_SECOND)
        self._vacant: deque[tuple[int, int]] = deque(maxlen=BACKGROUND_TICKS)
        self._hold = 0
        self._objects = self.options.first_object
        self._mark = self._speed = 0
        gamma, neutron = scene.open_background(0.0)
        for _ in range(BACKGROUND_TICKS):  # it ran before the scene began
            counts = self._counts(sum(gamma), neutron)
            self._vacant.append(counts)
            self._recent.append(counts)
        self._background = self._means()
        self.shown = self._show(broken=False)
        description = (self.options.signature, self.options.length + 8, 1)
        place = (self.options.base, self.options.length, 0, 0, 0)
        self.unit.set_words(self.unit.holding, 0, (*description, *place))

    def advance(self, scene_s: float) -> Shown:
        """Count up to that moment and write the registers."""
        while (self._tick + 1) * TICK_S <= scene_s + 1e-9:
            self._tick += 1
            self._count(round(self._tick * TICK_S, 6))
        return self.shown

    def _counts(self, gamma_cps: float, neutron_cps: float) -> tuple[int, int]:
        drawn = self._rng.poisson((gamma_cps * TICK_S, neutron_cps * TICK_S))
        return int(drawn[0]), int(drawn[1])

    def _count(self, now_s: float) -> None:
        start_s = now_s - TICK_S
        rates = self._scene.rates(start_s, now_s)
        gamma = sum(rates.gamma_background) + sum(rates.gamma_source)
        self._recent.append(self._counts(gamma, rates.neutron))
        broken = self._scene.beam_broken(start_s, now_s)
        if broken:
            if self._hold == 0:
                self._objects = (self._objects + 1) % 0x10000
                self._mark = 0
            self._hold = HOLD_TICKS
            self._mark = min(self._mark + (self._tick % TICKS_A_SECOND == 0), 12)
            speed = self._scene.speed_m_per_s(now_s)
            if speed is not None:
                self._speed = round(1000 * speed)
        else:
            self._hold = max(0, self._hold - 1)
        if self._hold == 0:
            self._vacant.append(self._recent[-1])
            self._background = self._means()
        self.shown = self._show(broken=broken)

    def _means(self) -> tuple[float, float]:
        """Return the vacant counts of one second."""
        sums = np.sum(np.array(self._vacant), axis=0) * TICKS_A_SECOND / len(self._vacant)
        return float(sums[0]), float(sums[1])

    def _variance(self, column: int) -> float:
        seconds = np.array(self._vacant)[:, column].reshape(-1, TICKS_A_SECOND).sum(axis=1)
        return float(np.var(seconds))

    def _show(self, *, broken: bool) -> Shown:
        gamma, neutron = (sum(tick[i] for tick in self._recent) for i in (0, 1))
        gamma_background, neutron_background = (_f32(cps) for cps in self._background)
        excess = (gamma - gamma_background) / math.sqrt(max(gamma_background, 1.0))
        limit = self.options.nsigma
        least = physics.neutron_alarm_count(neutron_background)
        shown = Shown(
            scene_s=self._tick * TICK_S,
            gamma=gamma,
            neutron=neutron,
            gamma_background=gamma_background,
            neutron_background=neutron_background,
            gamma_level=2 if excess >= 2 * limit else 1 if excess >= limit else 0,
            neutron_level=2 if neutron >= 2 * least else 1 if neutron >= least else 0,
            occupied=self._hold > 0,
            objects=self._objects,
            speed_mm_per_s=self._speed,
        )
        self._write(shown, broken=broken)
        return shown

    def _write(self, shown: Shown, *, broken: bool) -> None:
        inputs = self.inputs
        if shown.occupied:
            inputs |= _SENSOR_0 | _DIRECTIONS[self.options.way] | (2 if broken else 0)
        words = [
            *_halves(struct.pack("<I", round(1000 * shown.scene_s))),
            inputs,
            _READY | shown.gamma_level | (0x100 if shown.gamma_level else 0),
            *_halves(struct.pack("<I", shown.gamma)),
            *_halves(struct.pack("<f", shown.gamma_background)),
            *_halves(struct.pack("<f", self._variance(0))),
            _READY | shown.neutron_level,
            *_halves(struct.pack("<I", shown.neutron)),
            *_halves(struct.pack("<f", shown.neutron_background)),
            *_halves(struct.pack("<f", self._variance(1))),
            shown.objects,
            self._mark,
            shown.speed_mm_per_s,
            int(shown.gamma_level > 0 or shown.neutron_level > 0),
        ]
        words += [0] * (self.options.length - len(words))
        self.unit.set_words(self.unit.holding, self.options.base, words)


class YantarServer:
    """The unit on Modbus TCP, in step with a scene's clock."""

    def __init__(self, portal: YantarPortal) -> None:
        self.portal = portal
        self._server = ModbusTcpServer([portal.unit])

    async def serve_tcp(self, clock: SceneClock) -> str:
        """Listen on a free port of this machine and return ``tcp://127.0.0.1:N``."""

        def follow() -> None:
            self.portal.advance(clock.now_s())

        self.portal.unit.before_request = follow
        return f"tcp://127.0.0.1:{await self._server.start()}"

    async def close(self) -> None:
        """Stop listening."""
        await self._server.close()


def _halves(word: bytes) -> tuple[int, int]:
    low, high = struct.unpack("<HH", word)
    return low, high


def _f32(value: float) -> float:
    return float(np.float32(value))
