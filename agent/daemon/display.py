"""What displays are shown: retained snapshots of the gateway, its lanes and their devices.

A snapshot is no record: it is renewed, never stored, and the newest is all that counts. A lane's or
device's that says nothing but a later time is not sent again: the broker keeps the one before.
"""

from __future__ import annotations

import asyncio
import platform
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from agent.clock import Clock
from agent.config.certificates import validity
from agent.daemon.running_lane import RunningLane
from agent.delivery import wire
from agent.delivery.forward import Uplink
from agent.delivery.snapshots import (
    About,
    AboutDevice,
    AboutLane,
    Calibration,
    ClockState,
    ConfigReport,
    DeviceSnapshot,
    Figure,
    Health,
)
from agent.delivery.store.journal import JournalStats
from agent.delivery.wire import Identity
from agent.health import temperature_c
from agent.lane.alarms import Standing
from agent.lane.options.portals import RpmOptions
from agent.lane.options.rules import KindOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.step import snapshot
from agent.records import LaneSnapshot, Stamp
from agent.settings import Config, LaneConfig
from agent.version import SOFTWARE

LANE_STATE_AFTER_S = 0.1
"""A lane's snapshot follows its news by so long [wall seconds], once for all news meanwhile."""
LANE_STATE_EVERY_S = 1.0
"""Not more often than this, where one piece of news follows the other."""


class Display:
    """Renews the snapshots.

    ``uplink`` returns who publishes them now: it is exchanged at a reload.
    """

    def __init__(self, identity: Identity, clock: Clock, uplink: Callable[[], Uplink]) -> None:
        self._identity = identity
        self._clock = clock
        self._uplink = uplink
        self._shown: dict[str, LaneSnapshot | DeviceSnapshot] = {}
        """What each topic shows now."""
        self._shown_by: Uplink | None = None
        self._sent_at: dict[str, float] = {}
        """When a lane's was last sent, by its topic [s of the loop]."""

    def about(self, lanes: Mapping[str, RunningLane]) -> tuple[str, bytes]:
        """Return topic and payload of what this gateway is."""
        shown = {
            lane_id: AboutLane(
                name=lane.config.lane.name,
                devices={
                    d.name: AboutDevice(driver=d.common.driver, port=d.common.port)
                    for d in lane.config.devices
                },
            )
            for lane_id, lane in lanes.items()
        }
        return wire.about(self._identity, About(lanes=shown, machine=platform.machine()), SOFTWARE)

    def renew_about(self, lanes: Mapping[str, RunningLane]) -> None:
        """Show what this gateway is now."""
        self._uplink().set_retained(*self.about(lanes))

    def renew_lane_soon(self, lane: RunningLane) -> None:
        """Renew the lane's snapshot after its news: an alarm does not wait for a display."""
        if lane.publishing is None:
            loop = asyncio.get_running_loop()
            now_s = loop.time()
            every_s = self._clock.wall_delay_s(LANE_STATE_EVERY_S)
            sent_at = self._sent_at.get(self._lane_topic(lane), now_s - every_s)
            at = max(now_s + LANE_STATE_AFTER_S, sent_at + every_s)
            lane.publishing = loop.call_at(at, self.renew_lane, lane)

    def _lane_topic(self, lane: RunningLane) -> str:
        return wire.lane_topic(self._identity, lane.config.lane_id)

    def renew_lane(self, lane: RunningLane) -> None:
        """Show the lane as it is now."""
        if lane.publishing is not None:
            lane.publishing.cancel()
            lane.publishing = None
        shot = snapshot(lane.state, self._clock.stamp(), lane.rules)
        topic = self._lane_topic(lane)
        before = self._before(topic)
        if not isinstance(before, LaneSnapshot) or replace(before, stamp=shot.stamp) != shot:
            self._shown[topic] = shot
            self._sent_at[topic] = asyncio.get_running_loop().time()
            self._uplink().set_retained(*wire.lane_state(self._identity, shot))

    def renew_devices(self, lane: RunningLane) -> None:
        """Show each of the lane's devices as it is now."""
        now = self._clock.stamp()
        for name in lane.links:
            shot = _device(lane, name, now)
            topic = wire.device_topic(self._identity, lane.config.lane_id, name)
            before = self._before(topic)
            if not isinstance(before, DeviceSnapshot) or replace(before, at=now) != shot:
                self._shown[topic] = shot
                self._uplink().set_retained(*wire.device_state(self._identity, shot))

    def _before(self, topic: str) -> LaneSnapshot | DeviceSnapshot | None:
        """Return what the topic shows; None: nothing, or its publisher does not know it."""
        if self._shown_by is not self._uplink():
            self._shown.clear()
            self._shown_by = self._uplink()
        return self._shown.get(topic)

    def take_back(self, old: LaneConfig, new: LaneConfig | None) -> None:
        """Leave no snapshot of a lane or device that is no more; an empty message removes it."""
        kept = set() if new is None else {device.name for device in new.devices}
        topics = [
            wire.device_topic(self._identity, old.lane_id, device.name)
            for device in old.devices
            if device.name not in kept
        ]
        if new is None:
            topics.append(wire.lane_topic(self._identity, old.lane_id))
        for topic in topics:
            self._shown.pop(topic, None)
            self._sent_at.pop(topic, None)
            self._uplink().set_retained(topic, b"")

    def renew_health(self, config: Config, stats: JournalStats) -> None:
        """Show how the gateway itself is."""
        now = self._clock.stamp()
        shot = Health(
            at=now,
            streams=stats.streams,
            disk_free_bytes=stats.disk_free_bytes,
            journal_bytes=stats.used_bytes,
            clock=ClockState(sync=now.sync, err_ms=now.err_ms),
            temperature_c=temperature_c(),
            certificate_days=_certificate_days(config.mqtt.cert_file, now),
            delivery=config.mqtt.delivery,
        )
        self._uplink().set_retained(*wire.health(self._identity, shot))

    def renew_config(self, config: Config, result: str, changed: tuple[str, ...] = ()) -> None:
        """Show which configuration runs, and what came of the last one that was read."""
        shot = ConfigReport(
            at=self._clock.stamp(),
            active=config.revision,
            last_good=config.revision,
            last_result=result,
            changed=changed,
        )
        self._uplink().set_retained(*wire.config(self._identity, shot))


def _device(lane: RunningLane, name: str, now: Stamp) -> DeviceSnapshot:
    status = lane.links[name].status()
    return DeviceSnapshot(
        at=now,
        lane=lane.config.lane_id,
        device=name,
        link=status.link,
        last_good_s=None if status.last_good is None else now.since_s(status.last_good),
        frames=status.frames,
        refused=status.refused,
        faults=tuple(code for device, code in lane.state.of(Standing).standing if device == name),
        calibration=_calibration(lane.config.device(name).kind_options),
        relay=lane.relays[name][0].status() if name in lane.relays else None,
        housekeeping={h.quantity: Figure(value=h.value, unit=h.unit) for h in status.housekeeping},
    )


def _calibration(options: KindOptions) -> Calibration | None:
    """Return what a scale's calibration or a crystal's energy scale is known by, and its last day.

    An energy scale has no number; the day it was measured stands for it.
    """
    if isinstance(options, ScaleOptions) and options.calibration is not None:
        declared = options.calibration
        return Calibration(rev=declared.certificate, due=declared.due)
    if isinstance(options, RpmOptions) and options.energy is not None:
        return Calibration(rev=options.energy.measured, due=options.energy.valid_until)
    return None


def _certificate_days(path: str | None, now: Stamp) -> int | None:
    holds = None if path is None else validity(Path(path))
    if holds is None:
        return None
    return int((holds.ends.timestamp() - now.utc_us / 1e6) // 86400)
