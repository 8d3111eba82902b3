"""The lanes that ``loop.py`` is measured with, as a process of their own, and what they know.

    loop_site.py SPECTRAL_LANES PANELS COUNTING_LANES FIRST_S LAST_S

Says the lane files, then answers each line on its standard input with one of JSON. ``begin`` lets
the traffic begin and says how long it lasts and how many vehicles it is; ``tell`` says the truth of
each vehicle and when the last byte of its alarming frame was written. Until the traffic begins the
lanes are empty and count.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from simulators import spectra
from simulators.clock import SceneClock
from simulators.exercise import Exercise, GammaSource, NormCargo, SpectrometerSetup, Vehicle
from simulators.kromek import CHANNELS, MODELS, KromekDevice, KromekOptions
from simulators.ports import Send, Talk, TcpPort
from simulators.rpm import Portal
from simulators.scene import Scene, vehicle_nuclides

SEED = 2026
MODEL: Final = "kromek-d5"
PEAK_CPS = 1000.0
"""Surely above the portal's limit, and too little for the panels to see it in the next vehicle."""
SHIELDING = 0.15


def _source(nuclide: str, share: float = 1.0, shield_g_per_cm2: float = 0.0) -> GammaSource:
    return GammaSource(
        peak_cps=share * PEAK_CPS,
        offset_m=3.5,
        nuclide=nuclide,
        shield_g_per_cm2=shield_g_per_cm2,
    )


LORRY = Vehicle(id="lorry", at_s=0.0, speed_m_per_s=2.6, length_m=7.0, shielding=SHIELDING)
LOADS = (
    replace(LORRY, gamma=_source("Cs-137")),
    replace(LORRY, gamma=_source("I-131", 0.6), hidden=_source("Co-57", 0.6)),
    replace(LORRY, gamma=_source("Ba-133"), norm=NormCargo(peak_cps=0.6 * PEAK_CPS)),
    replace(LORRY, gamma=_source("Co-60", shield_g_per_cm2=10.0)),
    replace(LORRY, gamma=_source("Se-75", 0.6), hidden=_source("Cs-137", 0.6)),
)
"""What every third vehicle of a spectral lane is, in turns."""
SPECTRAL_GAP_S = (11.5, 13.5)
CONVOY, CONVOY_GAP_S, BETWEEN_CONVOYS_S = 3, 3.6, (8.5, 9.5)
"""Vehicles close up, then a pause in which the portal tells its background."""
TIME_SCALE = 6.0
"""Counting lanes play so many times faster, to give enough alarms for a 99th percentile."""
LEAST_WAIT_S = 0.002

PORTAL_FILE = """\
[lane]
join_gap_s = {join_gap_s}

[devices.rpm]
driver = "rpm.rapiscan"
port = "{port}"
"""
PANEL_FILE = """
[devices.panel-{number}]
driver = "rpm.kromek"
model = "D5"
energy_kev = [0.0, 0.75]
port = "{port}"
silence_s = 30.0
"""
SPECTRAL_FILE = """
[spectral]
detector = "csi"
crystal_cm = [2.54, 2.54, 5.0]
background_memory_s = 120.0
guard_s = 2.0
"""


class OpenScene(Scene):
    """A scene that is empty until its traffic begins."""

    def begin(self, vehicles: Sequence[Vehicle], at_s: float) -> None:
        """Let the vehicles come, their times counted from a scene time."""
        come = tuple(replace(each, at_s=each.at_s + at_s) for each in vehicles)
        Scene.__init__(self, replace(self.exercise, vehicle=come), name=self.name)


class TimedPortal:
    """A simulated portal on TCP that notes when each occupancy's first alarm was written."""

    def __init__(self, scene: Scene, clock: SceneClock) -> None:
        self._portal, self._clock = Portal(scene), clock
        self._sends: list[Send] = []
        self._port = TcpPort(self._start)
        self._alarming_ns: int | None = None
        self.alarming_ns: dict[int, int] = {}
        """By the portal's number of the occupancy."""

    async def open(self) -> str:
        """Listen and return the port."""
        number = await self._port.open()
        self._task = asyncio.create_task(self._play())
        return f"tcp://127.0.0.1:{number}"

    def _start(self, send: Send) -> Talk:
        self._sends.append(send)
        return _Listener(self._sends, send)

    async def _play(self) -> None:
        while True:
            now_s = self._clock.now_s()
            for _, line in self._portal.advance(now_s):
                self._say(line)
            wait_s = LEAST_WAIT_S * self._clock.time_scale
            await self._clock.sleep_until(max(self._portal.wake_s, now_s + wait_s))

    def _say(self, line: bytes) -> None:
        if line.startswith(b"GA,") and self._alarming_ns is None:
            self._alarming_ns = time.monotonic_ns()  # the next thing is the write
        for send in self._sends:
            send(line)
        if line.startswith(b"GX,") and self._alarming_ns is not None:
            self.alarming_ns[int(line.split(b",")[1])] = self._alarming_ns
            self._alarming_ns = None


class _Listener:
    def __init__(self, sends: list[Send], send: Send) -> None:
        self._sends, self._send = sends, send

    def received(self, data: bytes) -> None:
        """Whatever a client writes is ignored."""

    def closed(self) -> None:
        self._sends.remove(self._send)


@dataclass(slots=True, kw_only=True)
class Lane:
    """One lane: its scene, what stands in it, and what will pass."""

    scene: OpenScene
    clock: SceneClock
    vehicles: list[Vehicle]
    portal: TimedPortal
    panels: list[KromekDevice] = field(default_factory=list)
    panel_scenes: list[OpenScene] = field(default_factory=list)

    async def file(self) -> str:
        """Open all ports and return the lane's file."""
        gap_s = 3.0 if self.panels else 0.0
        text = PORTAL_FILE.format(join_gap_s=gap_s, port=await self.portal.open())
        for number, panel in enumerate(self.panels, start=1):
            text += PANEL_FILE.format(number=number, port=await panel.serve_tcp(self.clock))
        return text + SPECTRAL_FILE if self.panels else text

    def begin(self) -> None:
        """Let the traffic begin."""
        for scene in (self.scene, *self.panel_scenes):
            scene.begin(self.vehicles, self.clock.now_s())

    @property
    def lasts_s(self) -> float:
        """How long it takes from now until the last vehicle has left [s]."""
        left_s = max((t.busy_s[1] for t in self.scene.transits), default=0.0)
        return (left_s - self.clock.now_s()) / self.clock.time_scale

    def size(self) -> int:
        """Return how many vehicles pass."""
        return len(self.vehicles)

    def told(self) -> dict[str, Any]:
        """Return the truth of its vehicles, in order, and when their alarms were written [ns]."""
        return {
            "is_spectral": bool(self.panels),
            "vehicles": [
                {
                    "nuclides": sources_of(vehicle),
                    "must": sorted(truth.expected),
                    "may": sorted(truth.possible),
                }
                for vehicle, truth in zip(self.vehicles, self.scene.truth, strict=True)
            ],
            "alarming_ns": self.portal.alarming_ns,
        }


def sources_of(vehicle: Vehicle) -> list[str]:
    """Return the nuclides that have to be named; what is natural in the load need not be."""
    return [each.nuclide for each in (vehicle.gamma, vehicle.hidden) if each is not None]


def spectral_vehicles(lane: int, from_s: float, until_s: float) -> Iterator[Vehicle]:
    """Yield lorries at walking pace; every third has a source."""
    rng = _rng(lane)
    at_s = from_s + rng.uniform(0.0, min(SPECTRAL_GAP_S[0], (until_s - from_s) / 2))
    # Neither sources nor their kinds come at one moment in all lanes.
    number = lane
    while at_s < until_s:
        is_hot = number % 3 == 2
        vehicle = LOADS[(number // 3 + 2 * lane) % len(LOADS)] if is_hot else LORRY
        yield replace(vehicle, id=f"v-{number}", at_s=at_s)
        number += 1
        at_s += rng.uniform(*SPECTRAL_GAP_S)


def counting_vehicles(lane: int, from_s: float, until_s: float) -> Iterator[Vehicle]:
    """Yield vehicles in convoys; the first of each has a source, far from the one ahead."""
    rng, number = _rng(lane), 0
    at_s = from_s * TIME_SCALE + rng.uniform(0.0, CONVOY * CONVOY_GAP_S)
    while at_s < until_s * TIME_SCALE:
        source = GammaSource(peak_cps=2000.0, offset_m=3.0)
        yield Vehicle(
            id=f"v-{number}",
            at_s=at_s,
            speed_m_per_s=8.0,
            length_m=6.0,
            gamma=source if number % CONVOY == 0 else None,
        )
        number += 1
        at_s += CONVOY_GAP_S if number % CONVOY else rng.uniform(*BETWEEN_CONVOYS_S)


def spectral_lane(number: int, panels: int, first_s: float, last_s: float) -> Lane:
    """Return a lane with a portal and panels, each of which counts with a seed of its own."""
    clock = SceneClock()
    scene = open_scene(100 * number)
    lane = Lane(
        scene=scene,
        clock=clock,
        vehicles=list(spectral_vehicles(number, first_s, last_s)),
        portal=TimedPortal(scene, clock),
    )
    for each in range(panels):
        lane.panel_scenes.append(open_scene(100 * number + each + 1))
        lane.panels.append(KromekDevice(lane.panel_scenes[-1], KromekOptions(model=MODEL)))
    return lane


def counting_lane(number: int, first_s: float, last_s: float) -> Lane:
    """Return a lane with a portal alone."""
    clock = SceneClock(time_scale=TIME_SCALE)
    scene = open_scene(100 * number)
    return Lane(
        scene=scene,
        clock=clock,
        vehicles=list(counting_vehicles(number, first_s, last_s)),
        portal=TimedPortal(scene, clock),
    )


def open_scene(number: int) -> OpenScene:
    """Return an empty lane with its own seed."""
    setup = SpectrometerSetup(instrument=MODEL)
    exercise = Exercise(title="loop", seed=SEED + number, spectrometer=setup)
    return OpenScene(exercise, name=f"lane {number}")


def _rng(number: int) -> random.Random:
    return random.Random(SEED * 100 + number)  # noqa: S311 - traffic, no secret


async def serve(spectral: int, panels: int, counting: int, *between_s: float) -> None:
    """Open the lanes and answer what is asked until standard input ends."""
    for nuclide in {name for load in LOADS for name in vehicle_nuclides(load)}:
        # The first shape takes a second to compute: not while it is measured.
        spectra.shape(nuclide, MODELS[MODEL].crystal, CHANNELS, matter_g_per_cm2=0.0, gain=1.0)
    lanes = {f"spectral-{i}": spectral_lane(i, panels, *between_s) for i in range(spectral)}
    lanes |= {f"counting-{i}": counting_lane(50 + i, *between_s) for i in range(counting)}
    _answer({"files": {name: await lane.file() for name, lane in lanes.items()}})
    loop = asyncio.get_running_loop()
    while order := await loop.run_in_executor(None, sys.stdin.readline):
        if order.strip() == "begin":
            for lane in lanes.values():
                lane.begin()
            lasts_s = max(lane.lasts_s for lane in lanes.values())
            _answer({"lasts_s": lasts_s, "vehicles": sum(map(Lane.size, lanes.values()))})
        else:
            _answer({"lanes": {name: lane.told() for name, lane in lanes.items()}})


def _answer(told: dict[str, Any]) -> None:
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    numbers = [int(each) for each in sys.argv[1:4]]
    asyncio.run(serve(numbers[0], numbers[1], numbers[2], *map(float, sys.argv[4:6])))
