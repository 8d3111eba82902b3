"""Fifty simulated instruments of one gateway, their lane files, and the truth of their traffic.

Sixteen lanes have a portal, a scale and a metal detector; a seventeenth has two scales. The scales
speak eight protocols; three of them share one serial line, as do two of the input modules.
"""

from __future__ import annotations

import asyncio
import bisect
import random
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

from simulators.clock import SceneClock
from simulators.exercise import Exercise, GammaSource, Person, Vehicle
from simulators.metal import MetalWalk, WalkThrough
from simulators.modbus_server import ModbusRtuServer, ModbusUnit
from simulators.ports import Send, Talk, TcpPort
from simulators.rpm import Portal
from simulators.scale_indicators import AskedScale, TalkingScale
from simulators.scale_streams import AndForm, and_line, cas_line, rice_lake_frame, sma_answer
from simulators.scales import SicsScale, ToledoScale
from simulators.scales_modbus import Layout, ModbusScale
from simulators.scene import DWELL_S, RAMP_S, Scene, Transit
from simulators.weighbridge import Reading, Terminal, Weighbridge

LANES = 16
SCALE_LANE = LANES
SILENT = ("lane-16", "scale-b")
"""The device that falls silent."""
E_KG = 20.0
TAIL_S = 45.0
"""No vehicle arrives in the last seconds, so that each is through before the end."""

SHARED_SCALES = {4: ("laumas", 1), 5: ("wtx", 2)}
SHARED_METALS = {6: 1, 7: 2}
TCP_MAPS: dict[int, Layout] = {8: "laumas", 9: "flintec", 11: "dini", 15: "wtx"}
MAPS = {
    "laumas": 'preset = "laumas"\ndecimals = 0\nweight_unit = "kg"\n',
    "dini": 'preset = "dini-dgt"\ndecimals = 0\nweight_unit = "kg"\n',
    "wtx": 'preset = "hbm-wtx"\n',
    "flintec": 'preset = "flintec-ft112"\nweight_unit = "kg"\n',
}
SCALE_FILE = """
[devices.{name}]
driver = "scale.{driver}"
port = "{port}"
relation = "after"
max_gap_s = 25.0
{more}"""
METAL_FILE = """
[devices.metal]
driver = "metal.dry_contact"
port = "{port}"
preset = "moxa-e1212"
relation = "during"
max_gap_s = 5.0
{more}"""
PORTAL_FILE = """
[devices.rpm]
driver = "rpm.rapiscan"
port = "{port}"
"""


class Closing(Protocol):
    """Anything that is switched off at the end."""

    async def close(self) -> None:
        """Switch it off."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What one vehicle was; None: nobody was weighed, or walked through.

    ``at_s`` is when it broke the beam, or stood on the scale [scene s]. ``must`` are the kinds of
    alarm that have to be raised for it.
    """

    at_s: float
    mass_kg: float | None
    metal: bool | None
    must: frozenset[str]


@dataclass(slots=True, kw_only=True)
class Site:
    """Everything that stands beside the gateway."""

    lanes: dict[str, str] = field(default_factory=dict)
    """The lane files by their ids."""
    truths: dict[str, list[Truth]] = field(default_factory=dict)
    silent: ModbusUnit = field(default_factory=ModbusUnit)
    parts: list[Closing] = field(default_factory=list)

    async def close(self) -> None:
        """Switch everything off."""
        for part in self.parts:
            await part.close()


class TalkingPortal:
    """A portal that pushes its lines to each client."""

    def __init__(self, portal: Portal, clock: SceneClock) -> None:
        self._portal = portal
        self._clock = clock
        self._sends: list[Send] = []
        self._port = TcpPort(self._start)
        self._task = asyncio.create_task(self._play())

    async def open(self) -> str:
        """Listen and return the port."""
        return f"tcp://127.0.0.1:{await self._port.open()}"

    async def close(self) -> None:
        """Stop talking."""
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._port.close()

    def _start(self, send: Send) -> Talk:
        self._sends.append(send)
        return _Listener(self._sends, send)

    async def _play(self) -> None:
        while True:
            text = b"".join(line for _, line in self._portal.advance(self._clock.now_s()))
            for send in self._sends if text else ():
                send(text)
            await self._clock.sleep_until(max(self._portal.wake_s, self._clock.now_s() + 0.02))


class _Listener:
    def __init__(self, sends: list[Send], send: Send) -> None:
        self._sends, self._send = sends, send

    def received(self, data: bytes) -> None:
        """Whatever a client writes is ignored."""

    def closed(self) -> None:
        self._sends.remove(self._send)


class Load:
    """The true load on a scale over time: ramp on, stand, ramp off."""

    def __init__(self, transits: Sequence[Transit]) -> None:
        stays = [(t.on_scale_s, t.vehicle.mass_kg) for t in transits]
        self._stays = [(*stay, mass) for stay, mass in stays if stay is not None and mass]
        self._begins = [stay[0] for stay in self._stays]

    def __call__(self, scene_s: float) -> float:
        """Return the load at a scene time [kg]."""
        number = bisect.bisect_right(self._begins, scene_s) - 1
        if number < 0:
            return 0.0
        on_s, off_s, mass_kg = self._stays[number]
        edge = min(scene_s - on_s, off_s - scene_s) / RAMP_S
        return mass_kg * max(0.0, min(1.0, edge))


def scene_of(lane: int, for_s: float) -> Scene:
    """Return the traffic of one lane: a vehicle a minute or so, some with a source or metal."""
    rng = random.Random(1000 + lane)  # noqa: S311 - traffic, no secret
    vehicles: list[Vehicle] = []
    at_s = rng.uniform(12.0, 30.0)
    while at_s < for_s - TAIL_S:
        metal = rng.random() < 0.2
        source = GammaSource(peak_cps=3000.0, offset_m=3.0) if rng.random() < 0.1 else None
        vehicles.append(
            Vehicle(
                id=f"v-{len(vehicles)}",
                at_s=round(at_s, 1),
                speed_m_per_s=2.6,
                length_m=8.0,
                mass_kg=20.0 * rng.randint(150, 2300),
                gamma=source,
                person=Person(walks_at_s=1.5, metal=metal) if rng.random() < 0.7 else None,
            )
        )
        at_s += rng.uniform(40.0, 70.0)
    return Scene(Exercise(title="soak", seed=lane, vehicle=tuple(vehicles)), name="soak")


def truths_of(scene: Scene, *, has_portal: bool) -> list[Truth]:
    """Return what the lane must say of each vehicle."""
    found = []
    for transit, truth in zip(scene.transits, scene.truth, strict=True):
        stay = transit.on_scale_s
        assert stay is not None
        found.append(
            Truth(
                at_s=transit.vehicle.at_s if has_portal else stay[0] + RAMP_S + DWELL_S / 2,
                mass_kg=truth.mass_kg,
                metal=truth.metal if has_portal else None,
                must=frozenset(truth.expected if has_portal else truth.expected & {"weight"}),
            )
        )
    return found


async def build(clock: SceneClock, for_s: float, *, contacts_period_s: float) -> Site:
    """Switch all fifty on and return them with their lane files."""
    site = Site()
    scenes = [scene_of(lane, for_s) for lane in range(LANES + 1)]
    scales = await _shared_scales(site, scenes, clock)
    metals = await _shared_metals(site, scenes, clock)
    more = f"contacts_period_s = {contacts_period_s}\n"
    for lane in range(LANES):
        scene = scenes[lane]
        portal = TalkingPortal(Portal(scene), clock)
        site.parts.append(portal)
        text = "[lane]\nmax_gross_kg = 40000.0\nreference_background_s = 600\n"
        text += PORTAL_FILE.format(port=await portal.open())
        text += scales.get(lane) or await _scale(site, lane, scene, clock)
        if lane in metals:
            text += METAL_FILE.format(port=metals[lane][0], more=metals[lane][1] + more)
        else:
            module = _walk_through(scene)
            site.parts.append(module)
            text += METAL_FILE.format(port=await module.serve_tcp(clock), more=more)
        site.lanes[f"lane-{lane}"] = text
        site.truths[f"lane-{lane}"] = truths_of(scene, has_portal=True)
    first = ToledoScale(Weighbridge(Load(scenes[SCALE_LANE].transits), seed=99))
    site.parts.append(first)
    text = SCALE_FILE.format(
        name="scale-a", driver="toledo", port=await first.serve_tcp(clock), more=""
    )
    site.lanes[SILENT[0]] = "[lane]\nmax_gross_kg = 40000.0\n" + text + scales[SCALE_LANE]
    site.truths[SILENT[0]] = truths_of(scenes[SCALE_LANE], has_portal=False)
    return site


def _walk_through(scene: Scene, unit_id: int = 1) -> WalkThrough:
    walks = [MetalWalk(**asdict(walk)) for walk in scene.walks()]
    module = WalkThrough(walks, unit_id=unit_id)
    module.unit.requests = deque(maxlen=1)  # or its memory of requests grows for a quarter hour
    return module


def _modbus_scale(layout: Layout, transits: Sequence[Transit], unit_id: int = 1) -> ModbusScale:
    scale = ModbusScale(Weighbridge(Load(transits), seed=unit_id), layout, unit_id=unit_id)
    scale.modbus.requests = deque(maxlen=1)
    return scale


async def _shared_scales(site: Site, scenes: Sequence[Scene], clock: SceneClock) -> dict[int, str]:
    """Put three scales on one serial line; the third, always empty, is the one to fall silent."""
    found: dict[int, ModbusScale] = {}
    layouts: dict[int, tuple[Layout, int]] = {4: ("laumas", 1), 5: ("wtx", 2)}
    for lane, (layout, unit_id) in layouts.items():
        found[lane] = _modbus_scale(layout, scenes[lane].transits, unit_id)
    found[SCALE_LANE] = _modbus_scale("dini", (), 3)
    site.silent = found[SCALE_LANE].modbus
    for scale in found.values():
        scale.follow(clock)
    server = ModbusRtuServer([scale.modbus for scale in found.values()])
    site.parts.append(server)
    port = await server.start_pty()
    return {
        lane: SCALE_FILE.format(
            name="scale-b" if lane == SCALE_LANE else "scale",
            driver="modbus_map",
            port=port,
            more=f"unit = {scale.modbus.unit_id}\n{MAPS[scale.layout]}",
        )
        for lane, scale in found.items()
    }


async def _shared_metals(
    site: Site, scenes: Sequence[Scene], clock: SceneClock
) -> dict[int, tuple[str, str]]:
    modules = {lane: _walk_through(scenes[lane], unit) for lane, unit in SHARED_METALS.items()}
    for module in modules.values():
        module.follow(clock)
    server = ModbusRtuServer([module.unit for module in modules.values()])
    site.parts.append(server)
    port = await server.start_pty()
    return {lane: (port, f"unit = {unit}\n") for lane, unit in SHARED_METALS.items()}


async def _scale(site: Site, lane: int, scene: Scene, clock: SceneClock) -> str:
    """Switch one lane's own scale on and return its part of the lane file."""
    bridge = Weighbridge(Load(scene.transits), seed=lane)
    more = ""
    scale: Terminal
    if lane in TCP_MAPS:
        layout = TCP_MAPS[lane]
        scale = _modbus_scale(layout, scene.transits)
        driver, more = "modbus_map", MAPS[layout]
    else:
        driver, scale = _stream_scale(lane, bridge)
    site.parts.append(scale)
    port = await (scale.serve_pty(clock) if driver == "toledo" else scale.serve_tcp(clock))
    return SCALE_FILE.format(name="scale", driver=driver, port=port, more=more)


def _stream_scale(lane: int, bridge: Weighbridge) -> tuple[str, Terminal]:
    match lane:
        case 1 | 13:
            return "mt_sics", SicsScale(bridge)
        case 2 | 14:

            def answer(request: bytes, shown: Reading) -> bytes:
                return sma_answer(request, shown, unit="kg")

            return "sma", AskedScale(bridge, answer, request=rb"\nW\r")
        case 3:
            return "rice_lake", TalkingScale(bridge, lambda r: rice_lake_frame(r, unit="kg"))
        case 6 | 12:
            return "a_and_d", TalkingScale(bridge, lambda r: and_line(r, unit="kg", form=AndForm()))
        case 7:
            return "cas", TalkingScale(bridge, lambda r: cas_line(r, unit="kg"))
        case _:
            return "toledo", ToledoScale(bridge)
