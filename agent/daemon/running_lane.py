"""One running lane: its state, its links, their tasks, and what displays are shown of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from agent.config.spectral import energy_option
from agent.daemon.link import Captured, DeviceLink
from agent.daemon.outputs import OutputLink
from agent.daemon.relay import Relay
from agent.lane.options.rules import LaneRules
from agent.lane.state import LaneState
from agent.settings import LaneConfig


@dataclass(slots=True)
class RunningLane:
    """What the supervisor keeps of a lane while it runs."""

    config: LaneConfig
    rules: LaneRules
    state: LaneState = field(default_factory=LaneState)
    links: dict[str, DeviceLink] = field(default_factory=dict)
    outputs: dict[str, OutputLink] = field(default_factory=dict)
    """Those of its links that show what the lane knows."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    relays: dict[str, tuple[Relay, asyncio.Task[None]]] = field(default_factory=dict)
    """By device; one that is exchanged leaves the links alone."""
    pending: tuple[LaneConfig, LaneRules] | None = None
    """Options that take effect when the lane is vacant."""
    ticks: int = 0
    was_occupied: bool | None = None
    is_over: bool = False
    """It has been stopped, and takes nothing more."""
    publishing: asyncio.TimerHandle | None = None
    """Set while the lane's snapshot waits to be renewed."""

    def forget(self) -> None:
        """Begin its memory anew after a bug: what it held may be what the bug fed on."""
        self.state = LaneState(serial=self.state.serial)

    def relayed(self, device: str, captured: Captured) -> None:
        """Pass on the bytes of a device that others may read too."""
        if isinstance(captured, bytes) and device in self.relays:
            self.relays[device][0].feed(captured)


def have_same_spectra(old: LaneConfig, new: LaneConfig) -> bool:
    """Return whether spectra are read and judged by the same: options, and scales of the file."""

    def judged(config: LaneConfig) -> list[object]:
        return [config.spectral, *map(energy_option, config.devices)]

    return judged(old) == judged(new)


def have_same_devices(old: LaneConfig, new: LaneConfig) -> bool:
    """Return whether only what the lane does with its devices differs, not how they are read."""

    def wires(config: LaneConfig) -> list[object]:
        return [
            (
                d.name,
                d.kind,
                d.driver_options,
                replace(d.common, relay_listen=None, relay_clients=()),
            )
            for d in config.devices
        ]

    return wires(old) == wires(new)
