"""Every instrument of one scene on one event loop, each on a port like a real one's."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

from simulators.clock import SceneClock
from simulators.metal import MetalWalk, WalkThrough
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


class LaneSimulator:
    """Plays a scene: portal over TCP, Toledo weighbridge on a pty, metal relays on Modbus TCP.

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

    async def start(self) -> LanePorts:
        """Begin the scene and return the ports of its instruments."""
        self._clock = SceneClock(time_scale=self.time_scale)
        self.ports = LanePorts(
            portal=await self._portal.serve_tcp(self._clock),
            scale=await self._scale.serve_pty(self._clock),
            metal=await self._metal.serve_tcp(self._clock),
        )
        return self.ports

    async def close(self) -> None:
        """Switch every instrument off."""
        await asyncio.gather(self._portal.close(), self._scale.close(), self._metal.close())

    def now_s(self) -> float:
        """Return the scene time [s]; 0 before the start."""
        return 0.0 if self._clock is None else self._clock.now_s()

    @property
    def truth(self) -> tuple[PassageTruth, ...]:
        """What every vehicle is, in order of arrival."""
        return self.scene.truth


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
