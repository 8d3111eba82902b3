"""Every instrument of one scene on one event loop, each on a port like a real one's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from simulators.clock import SceneClock
from simulators.kromek import KromekDevice, KromekOptions
from simulators.metal import MetalWalk, WalkThrough
from simulators.n42_stream import N42Instrument, N42Server
from simulators.rpm import Portal, PortalOptions
from simulators.rpm_server import PortalServer
from simulators.scales import ToledoScale, Weighbridge
from simulators.scene import PassageTruth, Scene


@dataclass(frozen=True, slots=True, kw_only=True)
class LanePorts:
    """Where the instruments are: ``tcp://127.0.0.1:N``, or a serial device's path."""

    portal: str
    scale: str
    metal: str
    spectrometer: str | None = None  # None: the lane has none


class LaneSimulator:
    """Plays a scene: portal over TCP, Toledo weighbridge on a pty, metal relays on Modbus TCP.

    Where the scene sets one, also a spectroscopic panel over TCP.

    A scene second lasts ``1 / time_scale`` seconds of the wall clock.
    """

    def __init__(
        self, scene: Scene, *, time_scale: float = 1.0, portal: PortalOptions | None = None
    ) -> None:
        self.scene = scene
        self.time_scale = time_scale
        self.ports: LanePorts | None = None  # None: not started
        self._clock: SceneClock | None = None
        self._portal = PortalServer(Portal(scene, portal), unplugs=scene.unplugs)
        self._scale = ToledoScale(Weighbridge(scene.load_kg, seed=scene.exercise.seed))
        self._metal = WalkThrough([MetalWalk(**dataclasses.asdict(walk)) for walk in scene.walks()])
        self._spectrometer = _spectrometer(scene)

    async def start(self) -> LanePorts:
        """Begin the scene and return the ports of its instruments."""
        self._clock = SceneClock(time_scale=self.time_scale)
        self.ports = LanePorts(
            portal=await self._portal.serve_tcp(self._clock),
            scale=await self._scale.serve_pty(self._clock),
            metal=await self._metal.serve_tcp(self._clock),
            spectrometer=None
            if self._spectrometer is None
            else await self._spectrometer.serve_tcp(self._clock),
        )
        return self.ports

    async def close(self) -> None:
        """Switch every instrument off."""
        parts = (self._portal, self._scale, self._metal, self._spectrometer)
        await asyncio.gather(*(part.close() for part in parts if part is not None))

    def now_s(self) -> float:
        """Return the scene time [s]; 0 before the start."""
        return 0.0 if self._clock is None else self._clock.now_s()

    @property
    def truth(self) -> tuple[PassageTruth, ...]:
        """What every vehicle is, in order of arrival."""
        return self.scene.truth


def _spectrometer(scene: Scene) -> KromekDevice | N42Server | None:
    name = scene.exercise.spectrometer.instrument
    if name == "none":
        return None
    if name == "rs-350":
        return N42Server(N42Instrument(scene))
    return KromekDevice(scene, KromekOptions(model=name))


async def run_lane(
    scene: Scene,
    *,
    time_scale: float,
    for_s: float | None,
    announce: Callable[[LanePorts], None],
) -> None:
    """Play a scene, telling ``announce`` the ports once all instruments listen.

    ``for_s`` is in seconds of the wall clock; None: until the scene is over.
    """
    lane = LaneSimulator(scene, time_scale=time_scale)
    try:
        announce(await lane.start())
        await asyncio.sleep(scene.duration_s / time_scale if for_s is None else for_s)
    finally:
        await lane.close()
