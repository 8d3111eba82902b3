"""Owns every task: starts it, restarts it, reloads the configuration, stops in order.

Here stands the only broad ``except``: a bug is logged with its traceback, becomes a fault, and
restarts that lane slowly. Lanes are independent; nothing that happens in one cancels another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent import config as configuration
from agent.clock import Backoff, Clock
from agent.config.certificates import validity
from agent.config.identity_key import read_key
from agent.config.relays import relay_of
from agent.config.spectral import energy_option, spectral_rules, window_rules
from agent.delivery import wire
from agent.delivery.blobs import blobs_of, without_blobs
from agent.delivery.forward import Uplink
from agent.delivery.journal import JournalError, JournalStats, Stored
from agent.delivery.journal_thread import Journal
from agent.delivery.retention import JournalEvent
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
from agent.delivery.wire import Encoder, Identity, WireError
from agent.evidence.event import EventFiles
from agent.health import Notifier, Watchdog, temperature_c
from agent.lane import annunciator
from agent.lane.options import KindOptions, LaneRules, RpmOptions, ScaleOptions
from agent.lane.state import LaneState
from agent.lane.step import is_occupied, is_vacant, snapshot, step
from agent.link import Captured, DeviceLink, Lines, make_link
from agent.outputs import Moved, OutputLink
from agent.records import Alarm, Audit, LaneEvent, Passage, Record, Stop, Tick, Timed
from agent.relay import Relay
from agent.settings import Config, DeviceConfig, LaneConfig
from agent.version import SOFTWARE
from drivers.readings import BadFrame

log = logging.getLogger(__name__)

TICK_S = 1.0
LANE_STATE_AFTER_S = 0.1
"""A lane's snapshot follows its news by so long [wall seconds], once for all news meanwhile."""
TICK_SLOTS = 5
STATE_EVERY_TICKS = 5
"""A lane's and its devices' snapshots are renewed so often, the lane's at each record too."""
HEALTH_EVERY_S = 60.0
FIRST_HEALTH_S = 2.0
WATCH_EVERY_S = 10.0
RETRY_STORE_S = 1.0
RESTART_FIRST_S, RESTART_CAP_S = 1.0, 60.0
MOMENTARY = frozenset({"moved_aside", "dropped", "receipt_refused"})
"""What the journal tells of that is over as soon as it is said."""
KEPT_UNSTORED = 10_000
"""So many records wait for a disk that takes none; the next one is counted as lost, and said."""
KEPT_UNSTORED_BLOB_BYTES = 32 << 20
"""So much of their blobs; a record beyond it is kept without."""
DRAIN_S = 3.0
SAFE_S = 2.0
"""Outputs have so long to be made safe at an orderly stop [wall seconds]."""


@dataclass(slots=True)
class Lane:
    """One running lane: its state, its links and their tasks."""

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
    publishing: asyncio.TimerHandle | None = None
    """Set while the lane's snapshot waits to be renewed."""


class Recorder:
    """Brings records to the journal, and keeps them while the disk takes none.

    The file of an event is written in a thread; what comes after it waits, so order is kept.
    """

    def __init__(self, journal: Journal, clock: Clock, files: EventFiles | None = None) -> None:
        self._journal = journal
        self._clock = clock
        self._files = files
        self._waiting: set[asyncio.Task[None]] = set()
        self._behind_file: deque[Record] = deque()
        """A record whose file is being written, and those that came after it."""
        self._writing: asyncio.Task[None] | None = None
        self._blob_bytes = 0
        self.lost = 0
        """Records for which there was no room in memory either."""

    def put(self, record: Record) -> None:
        """Store the record; returns at once, order is kept."""
        waiting = len(self._waiting) + len(self._behind_file)
        if waiting >= KEPT_UNSTORED:
            self.lost += 1
            log.error("record=lost type=%s waiting=%d", type(record).__name__, waiting)
            return
        if not self._behind_file and not _has_event(record):
            self._begin(record)
            return
        self._behind_file.append(record)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_files())

    async def _write_files(self) -> None:
        while self._behind_file:
            first = self._behind_file[0]
            if _has_event(first):
                first = await self._with_file(first)
            self._behind_file.popleft()
            self._begin(first)

    async def _with_file(self, record: Record) -> Record:
        """Return the record with its file; a bug in the file costs the file, not the record."""
        if self._files is None:
            return record
        try:
            return await asyncio.to_thread(self._files.attach, record)
        except Exception:
            log.exception("bug task=event_file type=%s", type(record).__name__)
            return record

    def _begin(self, record: Record) -> None:
        size_bytes = sum(len(blob.data) for blob in blobs_of(record))
        if self._blob_bytes + size_bytes > KEPT_UNSTORED_BLOB_BYTES:
            log.error("blobs=lost type=%s bytes=%d", type(record).__name__, size_bytes)
            record, size_bytes = without_blobs(record), 0
        self._blob_bytes += size_bytes
        task = asyncio.get_running_loop().create_task(self._store(record))
        self._waiting.add(task)
        task.add_done_callback(lambda done: self._stored(done, size_bytes))

    def _stored(self, task: asyncio.Task[None], size_bytes: int) -> None:
        self._waiting.discard(task)
        self._blob_bytes -= size_bytes

    async def _store(self, record: Record) -> None:
        is_first = True
        while True:
            try:
                stored = await self._journal.append(record)
            except JournalError as exc:
                if is_first:
                    log.error("journal=failed error=%s", exc)  # noqa: TRY400 - expected, no traceback
                is_first = False
                await self._clock.sleep(RETRY_STORE_S)
            except WireError:
                log.exception("record=unsayable type=%s", type(record).__name__)
                return
            else:
                if isinstance(record, Alarm):
                    _log_alarm(record, stored)
                return

    async def drain(self, within_s: float) -> None:
        """Wait until all is stored, at most so long [s]."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                if self._writing is not None:
                    await asyncio.wait({self._writing})
                if self._waiting:
                    await asyncio.wait(set(self._waiting))


def _has_event(record: Record) -> bool:
    return isinstance(record, Alarm | Passage) and record.event is not None


def _log_alarm(alarm: Alarm, stored: Stored) -> None:
    log.info(
        "alarm=%s kind=%s code=%s lane=%s seq=%d",
        alarm.phase,
        alarm.kind,
        alarm.code,
        alarm.lane or "-",
        stored.seq,
    )


class Supervisor:
    """The whole agent in one event loop.

    Parameters
    ----------
    config : the checked configuration to begin with
    directory : where it came from, read again at a reload; None: it cannot be reloaded
    clock : the agent's only source of time
    notifier : the service manager, or nobody
    state_dir : where the last good configuration is kept; None: beside the journal
    refused : why the configuration on disk could not be used, where the last good one runs
    """

    def __init__(
        self,
        config: Config,
        *,
        directory: Path | None,
        clock: Clock,
        notifier: Notifier,
        state_dir: Path | None = None,
        refused: str | None = None,
    ) -> None:
        self._config = config
        self._directory = directory
        self._clock = clock
        self._notifier = notifier
        self._watchdog = Watchdog(notifier)
        self._refused = refused
        self._state_dir = state_dir or Path(config.journal.path).parent
        self._credentials = _credentials(config)
        self._identity_key = read_key(config.gateway)
        self._identity = Identity(
            root=config.mqtt.root, site=config.gateway.site, gw=config.gateway.gw
        )
        self._journal = Journal(
            config.journal, clock, self._encoder(config), on_event=self._on_journal_event
        )
        gateway = f"{config.gateway.site}/{config.gateway.gw}"
        files = EventFiles(gateway=gateway, creator=SOFTWARE)
        self._recorder = Recorder(self._journal, clock, files)
        self._uplink = self._make_uplink(config)
        self._uplink_task: asyncio.Task[None] | None = None
        self._journal.on_stored = self._on_stored
        self._lines = Lines(clock)
        self._lanes: dict[str, Lane] = {}
        self._serials: dict[str, int] = {}
        """Where the names of a lane that was ended go on, should it begin again in this run."""
        self._standing: dict[str, Alarm] = {}
        self._serial = 0
        self._ticks = 0
        self._stopping = asyncio.Event()
        self._reload = asyncio.Event()
        self.first_frame = asyncio.Event()
        """Set when the first good reading of any device has arrived."""

    # -------------------------------------------------------------- life

    async def run(self) -> None:
        """Run until ``stop``; raises JournalError where the store cannot be opened at all."""
        await self._journal.open()
        self._say_boot()
        if self._directory is not None and self._refused is None:
            await self._keep_last_good()
        for lane in self._config.lanes:
            self._start_lane(lane)
        own = [
            self._guard("clock", self._clock_forever),
            self._guard("health", self._health_forever),
            self._guard("watch", self._watch_forever),
            self._guard("reload", self._reload_forever),
        ]
        self._uplink_task = self._guard("uplink", self._uplink.run)
        self._notifier.send("READY=1")
        log.info("agent=started lanes=%d revision=%s", len(self._lanes), self._config.revision[:12])
        try:
            await self._stopping.wait()
        finally:
            await self._shut_down(own)

    def stop(self) -> None:
        """Stop in order: close what is open, store it, send what can be sent."""
        self._stopping.set()

    def reload(self) -> None:
        """Read the configuration again; what it cannot use changes nothing and is said."""
        self._reload.set()

    async def _shut_down(self, own: list[asyncio.Task[None]]) -> None:
        self._notifier.send("STOPPING=1")
        log.info("agent=stopping")
        lanes = tuple(self._lanes.values())
        await asyncio.gather(*(self._make_safe(lane) for lane in lanes))
        for lane in lanes:
            await self._stop_lane(lane)
        await _cancel(own)
        for code in tuple(self._standing):
            self._clear(code)
        self._audit("stop", {})
        await self._recorder.drain(DRAIN_S)
        await self._uplink.stop(DRAIN_S)
        if self._uplink_task is not None:
            await _cancel([self._uplink_task])
        await self._journal.close()
        log.info("agent=stopped")

    def _guard(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        after_bug: Callable[[], None] = lambda: None,
    ) -> asyncio.Task[None]:
        """Start a task that survives a bug in it: logged, said as a fault, begun again slowly."""

        async def forever() -> None:
            backoff = Backoff(first_s=RESTART_FIRST_S, cap_s=RESTART_CAP_S)
            while True:
                try:
                    await work()
                except Exception as exc:
                    log.exception("bug task=%s", name)
                    self._fault(f"bug_{name}", f"{name}: {type(exc).__name__}; see the log")
                    after_bug()
                else:
                    return
                await self._clock.sleep(backoff.next_s())

        return asyncio.get_running_loop().create_task(forever(), name=name)

    # -------------------------------------------------------------- lanes

    def _rules(self, config: LaneConfig) -> LaneRules:
        is_test = self._config.gateway.mode == "test"
        return config.rules(run=self._clock.run, is_test=is_test, identity_key=self._identity_key)

    def _start_lane(self, config: LaneConfig) -> None:
        state = LaneState(serial=self._serials.get(config.lane_id, 0))
        lane = Lane(config=config, rules=self._rules(config), state=state)
        self._lanes[config.lane_id] = lane
        for device in config.devices:
            self._start_device(lane, device)

        async def tick() -> None:
            await self._tick_lane(lane)

        lane.tasks.append(self._guard(f"{config.lane_id}_tick", tick, lambda: _forget_all(lane)))
        self._compute_spectral(lane)

    def _compute_spectral(self, lane: Lane) -> None:
        """Compute what the lane looks for in spectra beside its running; it takes seconds."""
        if lane.config.spectral is None:
            return
        code = f"spectral_{lane.config.lane_id}"

        async def compute() -> None:
            config = lane.config
            try:
                found = await asyncio.to_thread(spectral_rules, config)
                windows = await asyncio.to_thread(window_rules, config)
            except configuration.ConfigError as exc:
                self._fault(code, f"{config.lane_id}: spectra are not judged: {exc}")
                return
            self._clear(code)
            if _same_spectra(lane.config, config):
                lane.rules = replace(lane.rules, spectral=found, windows=windows)
                log.info("lane=%s spectral=ready", config.lane_id)

        lane.tasks.append(self._guard(code, compute))

    def _start_device(self, lane: Lane, device: DeviceConfig) -> None:
        link = self._make_link(lane, device)
        lane.links[device.name] = link
        self._start_relay(lane, device)

        async def run() -> None:
            await link.run()

        name = f"{lane.config.lane_id}_{device.name}"
        lane.tasks.append(self._guard(name, run, lambda: _forget_all(lane)))

    def _make_link(self, lane: Lane, device: DeviceConfig) -> DeviceLink:
        label = f"{device.name} {lane.config.lane_id}"
        if device.driver.is_output:
            lane.outputs[device.name] = link = OutputLink(
                device,
                line=self._lines.line_of(device),
                clock=self._clock,
                sink=lambda event: self._take(lane, event),
                label=label,
                permit=lambda signal: annunciator.interlock(
                    lane.state, lane.rules, device.name, signal
                ),
                on_moved=lambda moved: self._say_moved(lane, device.name, moved),
            )
            return link
        return make_link(
            device,
            clock=self._clock,
            sink=lambda event: self._take(lane, event),
            lines=self._lines,
            label=label,
            tap=lambda _, captured: _relayed(lane, device.name, captured),
        )

    def _say_moved(self, lane: Lane, device: str, moved: Moved) -> None:
        """Record a movement of the barrier, done or not."""
        data: dict[str, object] = {
            "device": device,
            "output": moved.command.signal,
            "passage_id": moved.command.passage_id,
            "why": moved.command.why,
            "result": moved.result,
            "detail": moved.detail or None,
        }
        self._recorder.put(
            Audit(stamp=moved.stamp, kind="output", lane=lane.config.lane_id, data=data)
        )

    def _start_relay(self, lane: Lane, device: DeviceConfig) -> None:
        config = relay_of(device.common)
        if config is None:
            return
        name = f"{lane.config.lane_id}_{device.name}"

        def on_trouble(text: str | None) -> None:
            if text is None:
                self._clear(f"relay_{name}")
            else:
                self._fault(f"relay_{name}", text)

        label = f"{device.name} {lane.config.lane_id}"
        relay = Relay(config, clock=self._clock, label=label, on_trouble=on_trouble)

        async def run() -> None:
            await relay.run()

        lane.relays[device.name] = relay, self._guard(f"{name}_relay", run)

    async def _stop_relay(self, lane: Lane, device: str) -> None:
        if device in lane.relays:
            _, task = lane.relays.pop(device)
            await _cancel([task])
            self._clear(f"relay_{lane.config.lane_id}_{device}")

    async def _exchange_relays(self, lane: Lane, new: LaneConfig) -> None:
        """Let the relays be as configured now: nothing in the lane hangs on them."""
        running = {device: relay.config for device, (relay, _) in lane.relays.items()}
        changed = [d for d in new.devices if running.get(d.name) != relay_of(d.common)]
        for device in changed:  # all of them first: one may get the address of another
            await self._stop_relay(lane, device.name)
        for device in changed:
            self._start_relay(lane, device)

    async def _stop_lane(self, lane: Lane) -> None:
        """Make its outputs safe, end its links, then close and say what is open in it."""
        await self._make_safe(lane)
        await _cancel(lane.tasks)
        lane.tasks.clear()
        for device in tuple(lane.relays):
            await self._stop_relay(lane, device)
        if self._lanes.get(lane.config.lane_id) is lane:
            del self._lanes[lane.config.lane_id]
        self._step(lane, Stop(stamp=self._clock.stamp()))
        self._serials[lane.config.lane_id] = lane.state.serial
        self._publish_lane(lane)

    async def _make_safe(self, lane: Lane) -> None:
        """Write the safe state to the lane's outputs, which then take no more wishes."""
        links = tuple(lane.outputs.values())
        lane.outputs.clear()
        await asyncio.gather(*(link.make_safe(SAFE_S) for link in links))

    def _take(self, lane: Lane, event: LaneEvent) -> None:
        """Step the lane; a link calls this for each event, in order."""
        self._step(lane, event)
        if isinstance(event, Timed):
            if not isinstance(event.reading, BadFrame):
                self.first_frame.set()
            is_test = event.device in lane.state.calibrating
            live = wire.live(event, is_test=is_test) if self._uplink.is_connected else None
            if live is not None:
                topic = wire.live_topic(self._identity, lane.config.lane_id, live[0])
                self._uplink.live(topic, live[1])

    def _step(self, lane: Lane, event: LaneEvent) -> None:
        lane.state, records = step(lane.state, event, lane.rules)
        for record in records:
            self._recorder.put(record)
        occupied = is_occupied(lane.state, lane.rules)
        for name, link in lane.outputs.items():
            shown = annunciator.wanted(lane.state, event.stamp, lane.rules, name, occupied=occupied)
            link.want(shown.levels, shown.command)
        if records or occupied != lane.was_occupied:
            lane.was_occupied = occupied
            self._publish_lane_soon(lane)
        if lane.pending is not None and is_vacant(lane.state):
            before = lane.config
            spectral, windows = lane.rules.spectral, lane.rules.windows
            lane.config, lane.rules = lane.pending
            lane.pending = None
            if _same_spectra(lane.config, before):
                lane.rules = replace(lane.rules, spectral=spectral, windows=windows)
            else:
                self._compute_spectral(lane)
            log.info("lane=%s options=exchanged", lane.config.lane_id)

    async def _tick_lane(self, lane: Lane) -> None:
        """Let time pass in the lane, and renew its snapshots, not in one moment with the others."""
        await self._clock.sleep(TICK_S * (len(self._lanes) % TICK_SLOTS) / TICK_SLOTS)
        lane.ticks = len(self._lanes)
        while True:
            await self._clock.sleep(TICK_S)
            lane.ticks += 1
            self._step(lane, Tick(stamp=self._clock.stamp()))
            if lane.ticks % STATE_EVERY_TICKS == 0:
                self._publish_lane(lane)
                self._publish_devices(lane)

    async def _clock_forever(self) -> None:
        while True:
            await self._clock.sleep(TICK_S)
            self._ticks += 1
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        jump_s = self._clock.step_s()
        if jump_s is not None:
            log.warning("clock=stepped by_s=%.3f", jump_s)
            self._audit("clock", {"stepped_s": round(jump_s, 3)})

    # -------------------------------------------------------------- journal and uplink

    def _encoder(self, config: Config) -> Encoder:
        return Encoder(
            identity=self._identity,
            mode=config.gateway.mode,
            configrev=config.revision,
            software=SOFTWARE,
        )

    def _make_uplink(self, config: Config) -> Uplink:
        return Uplink(
            config.mqtt,
            identity=self._identity,
            journal=self._journal,
            clock=self._clock,
            software=SOFTWARE,
            about=lambda: self._about()[1],
        )

    def _on_stored(self, stored: Stored) -> None:
        self._uplink.notify_appended(stored)

    def _on_journal_event(self, event: JournalEvent) -> None:
        if event.kind == "new_store":
            log.info("journal=new detail=%s", event.text)
            return
        log.warning("journal=%s detail=%s", event.kind, event.text)
        if event.kind == "reserve_back":
            self._clear("journal_disk_full")
            return
        code = f"journal_{event.kind}"
        self._fault(code, event.text)
        if event.kind in MOMENTARY:
            self._clear(code)

    # -------------------------------------------------------------- what the gateway itself says

    def _say_boot(self) -> None:
        data: dict[str, object] = {
            "revision": self._config.revision,
            "epoch": self._journal.epoch,
            "machine": platform.machine(),
            "python": platform.python_version(),
            "run": self._clock.run,
        }
        self._audit("boot", data)
        if self._refused is not None:
            self._fault("config_refused", self._refused)
        key_file = self._config.gateway.identity_key_file
        if key_file is not None and self._identity_key is None:
            self._fault("identity_key", f"{key_file}: holds no key; plates are left out")

    def _audit(self, kind: str, data: dict[str, object]) -> None:
        assert kind in {"boot", "stop", "clock", "config"}
        record = Audit(stamp=self._clock.stamp(), kind=kind, data=data)  # type: ignore[arg-type]  # asserted above
        self._recorder.put(record)

    def _fault(self, code: str, text: str) -> None:
        """Raise a fault of the gateway, or say it again where its text has changed."""
        before = self._standing.get(code)
        if before is not None and before.text == text:
            return
        if before is None:
            self._serial += 1
            alarm = Alarm(
                stamp=self._clock.stamp(),
                lane=None,
                alarm_id=f"gw-{self._clock.run}-f{self._serial}",
                code=code,
                phase="raised",
                rev=1,
                passage_id=None,
                kind="fault",
                source="agent",
                severity="elevated",
                device=None,
                text=text,
            )
        else:
            alarm = replace(
                before, stamp=self._clock.stamp(), phase="updated", rev=before.rev + 1, text=text
            )
        self._standing[code] = alarm
        self._recorder.put(alarm)

    def _clear(self, code: str) -> None:
        before = self._standing.pop(code, None)
        if before is not None:
            self._recorder.put(
                replace(before, stamp=self._clock.stamp(), phase="cleared", rev=before.rev + 1)
            )

    def _about(self) -> tuple[str, bytes]:
        lanes = {
            lane_id: AboutLane(
                name=lane.config.lane.name,
                devices={
                    d.name: AboutDevice(driver=d.common.driver, port=d.common.port)
                    for d in lane.config.devices
                },
            )
            for lane_id, lane in self._lanes.items()
        }
        about = About(lanes=lanes, machine=platform.machine())
        return wire.about(self._identity, about, SOFTWARE)

    def _publish_lane_soon(self, lane: Lane) -> None:
        """Renew the lane's snapshot after its news: an alarm does not wait for a display."""
        if lane.publishing is None:
            loop = asyncio.get_running_loop()
            lane.publishing = loop.call_later(LANE_STATE_AFTER_S, self._publish_lane, lane)

    def _publish_lane(self, lane: Lane) -> None:
        if lane.publishing is not None:
            lane.publishing.cancel()
            lane.publishing = None
        shot = snapshot(lane.state, self._clock.stamp(), lane.rules)
        self._uplink.set_retained(*wire.lane_state(self._identity, shot))

    def _publish_devices(self, lane: Lane) -> None:
        now = self._clock.stamp()
        for name, link in lane.links.items():
            status = link.status()
            age_s = None if status.last_good is None else now.since_s(status.last_good)
            faults = tuple(code for device, code in lane.state.standing if device == name)
            shot = DeviceSnapshot(
                at=now,
                lane=lane.config.lane_id,
                device=name,
                link=status.link,
                last_good_s=age_s,
                frames=status.frames,
                refused=status.refused,
                faults=faults,
                calibration=_calibration(lane.config.device(name).kind_options),
                relay=lane.relays[name][0].status() if name in lane.relays else None,
                housekeeping={
                    h.quantity: Figure(value=h.value, unit=h.unit) for h in status.housekeeping
                },
            )
            self._uplink.set_retained(*wire.device_state(self._identity, shot))

    async def _health_forever(self) -> None:
        await self._clock.sleep(FIRST_HEALTH_S)
        while True:
            await self._renew_health()
            await self._clock.sleep(HEALTH_EVERY_S)

    async def _renew_health(self) -> None:
        try:
            stats = await self._journal.stats()
        except JournalError as exc:
            self._fault("journal_failed", str(exc))
            return
        self._clear("journal_failed")
        self._clear("journal_write_failed")
        if stats.level_percent == 0:
            self._clear("journal_fill_level")
        if stats.parked == 0:
            self._clear("journal_parked")
        self._publish_health(stats)

    def _publish_health(self, stats: JournalStats) -> None:
        now = self._clock.stamp()
        shot = Health(
            at=now,
            streams=stats.streams,
            disk_free_bytes=stats.disk_free_bytes,
            journal_bytes=stats.used_bytes,
            clock=ClockState(sync=now.sync, err_ms=now.err_ms),
            temperature_c=temperature_c(),
            certificate_days=self._certificate_days(),
            delivery=self._config.mqtt.delivery,
        )
        self._uplink.set_retained(*wire.health(self._identity, shot))

    def _certificate_days(self) -> int | None:
        path = self._config.mqtt.cert_file
        holds = None if path is None else validity(Path(path))
        if holds is None:
            return None
        left_s = holds.ends.timestamp() - self._clock.stamp().utc_us / 1e6
        return int(left_s // 86400)

    def _publish_config(self, result: str, changed: tuple[str, ...] = ()) -> None:
        shot = ConfigReport(
            at=self._clock.stamp(),
            active=self._config.revision,
            last_good=self._config.revision,
            last_result=result,
            changed=changed,
        )
        self._uplink.set_retained(*wire.config(self._identity, shot))

    async def _watch_forever(self) -> None:
        """Feed the watchdog, by wall time, only when every part has moved."""
        self._publish_config(self._refused or "ok")
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            try:
                await self._journal.flush()
            except JournalError:
                log.warning("watchdog=journal_not_writing")
            parts = {"clock": self._ticks, "journal": self._journal.progress}
            parts["uplink"] = self._uplink.progress
            for lane_id, lane in self._lanes.items():
                parts[lane_id] = lane.ticks
                for name, link in lane.links.items():
                    parts[f"{lane_id}/{name}"] = link.progress
            self._watchdog.feed(parts)

    # -------------------------------------------------------------- reload

    async def _keep_last_good(self) -> None:
        assert self._directory is not None
        try:
            await asyncio.to_thread(
                configuration.save_last_good, self._config, self._directory, self._state_dir
            )
        except OSError as exc:
            log.warning("config=not_kept directory=%s error=%s", self._state_dir, exc)

    async def _reload_forever(self) -> None:
        while True:
            await self._reload.wait()
            self._reload.clear()
            if self._directory is not None:
                self._notifier.send("RELOADING=1")
                await self._reload_once(self._directory)
                self._notifier.send("READY=1")

    async def _reload_once(self, directory: Path) -> None:
        try:
            new = await asyncio.to_thread(configuration.load, directory)
        except configuration.ConfigError as exc:
            self._refuse(f"{directory}: refused, nothing is changed: {exc}")
            return
        change = configuration.difference(self._config, new)
        if new.gateway != self._config.gateway or new.journal != self._config.journal:
            self._refuse(
                f"{directory}: [gateway] and [journal] take effect at a start only; restart the "
                "service, or put them back"
            )
            return
        # A renewed certificate stands under the same name.
        credentials = _credentials(new)
        is_new_uplink = new.mqtt != self._config.mqtt or credentials != self._credentials
        self._credentials = credentials
        self._config = new
        self._journal.set_encoder(self._encoder(new))
        for lane_id in (*change.lanes_removed, *change.lanes_changed):
            await self._change_lane(lane_id, new)
        for config in new.lanes:
            if config.lane_id not in self._lanes:
                self._start_lane(config)
        if is_new_uplink:
            await self._exchange_uplink(new)
        self._clear("config_refused")
        self._audit("config", {"result": "ok", "revision": new.revision, "changed": change.lines})
        self._publish_config("ok", change.lines)
        self._uplink.set_retained(*self._about())
        await self._keep_last_good()
        log.info("config=reloaded revision=%s changes=%d", new.revision[:12], len(change.lines))

    def _refuse(self, text: str) -> None:
        log.error("config=refused detail=%s", text)
        self._fault("config_refused", text)
        self._audit("config", {"result": "refused", "detail": text})
        self._publish_config(text)

    async def _change_lane(self, lane_id: str, new: Config) -> None:
        """Exchange a lane's options when it is vacant, or its devices by beginning it again."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            return
        wanted = {config.lane_id: config for config in new.lanes}.get(lane_id)
        if wanted is not None and _same_devices(lane.config, wanted):
            await self._exchange_relays(lane, wanted)
            lane.pending = (wanted, self._rules(wanted))
            self._step(lane, Tick(stamp=self._clock.stamp()))
            return
        await self._stop_lane(lane)
        self._take_back(lane.config, wanted)

    def _take_back(self, old: LaneConfig, new: LaneConfig | None) -> None:
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
            self._uplink.set_retained(topic, b"")

    async def _exchange_uplink(self, new: Config) -> None:
        await self._uplink.stop(DRAIN_S)
        if self._uplink_task is not None:
            await _cancel([self._uplink_task])
        self._uplink = self._make_uplink(new)
        self._uplink_task = self._guard("uplink", self._uplink.run)
        # The new one knows no snapshot yet.
        for lane in self._lanes.values():
            self._publish_lane(lane)
            self._publish_devices(lane)
        await self._renew_health()


def _credentials(config: Config) -> list[int | None]:
    """Return when each file that the broker connection rests on was last written [ns]."""
    mqtt = config.mqtt
    names = (mqtt.ca_file, mqtt.cert_file, mqtt.key_file, mqtt.password_file)
    written: list[int | None] = []
    for name in names:
        try:
            written.append(None if name is None else Path(name).stat().st_mtime_ns)
        except OSError:
            written.append(None)
    return written


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


def _forget_all(lane: Lane) -> None:
    """Begin the lane's memory anew after a bug: what it held may be what the bug fed on."""
    lane.state = LaneState(serial=lane.state.serial)


def _relayed(lane: Lane, device: str, captured: Captured) -> None:
    if isinstance(captured, bytes) and device in lane.relays:
        lane.relays[device][0].feed(captured)


def _same_spectra(old: LaneConfig, new: LaneConfig) -> bool:
    """Return whether spectra are read and judged by the same: options, and scales of the file."""

    def judged(config: LaneConfig) -> list[object]:
        return [config.spectral, *map(energy_option, config.devices)]

    return judged(old) == judged(new)


def _same_devices(old: LaneConfig, new: LaneConfig) -> bool:
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


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
