"""Owns every task: starts it, restarts it, reloads the configuration, stops in order.

Here stands the broad ``except``: a bug is logged with its traceback, becomes a fault, and restarts
that lane slowly. (The recorder has one more: a bug in an event's file costs only that file.) Lanes
are independent; nothing that happens in one cancels another.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import platform
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from agent import config as configuration
from agent.clock import Backoff, Clock
from agent.config.identity_key import read_key
from agent.config.relays import relay_of
from agent.config.spectral import Computed, RulesAsked
from agent.daemon.display import Display
from agent.daemon.gateway_faults import GatewayFaults
from agent.daemon.link import DeviceLink, Lines, make_link
from agent.daemon.long_work import LongWork, NoAnswer, answer_alone
from agent.daemon.outputs import Moved, OutputLink
from agent.daemon.recorder import Recorder
from agent.daemon.relay import Relay
from agent.daemon.running_lane import RunningLane, have_same_devices, have_same_spectra
from agent.delivery import wire
from agent.delivery.forward import Uplink
from agent.delivery.store.journal import JournalError, Stored
from agent.delivery.store.retention import JournalEvent
from agent.delivery.store.thread import Journal
from agent.delivery.wire import Encoder, Identity
from agent.evidence.event import EventFiles
from agent.health import Notifier, Watchdog
from agent.lane import annunciator
from agent.lane.instruments.calibration import Calibrations
from agent.lane.options.rules import LaneRules
from agent.lane.question import Answer, Answered
from agent.lane.state import LaneState
from agent.lane.step import is_occupied, is_vacant, step
from agent.records import Audit, LaneEvent, Stop, Tick, Timed
from agent.settings import Config, DeviceConfig, LaneConfig
from agent.version import SOFTWARE
from drivers.readings import BadFrame

log = logging.getLogger(__name__)

TICK_S = 1.0
TICK_SLOTS = 5
STATE_EVERY_TICKS = 5
"""A lane's and its devices' snapshots are renewed so often, the lane's at each record too."""
HEALTH_EVERY_S = 60.0
FIRST_HEALTH_S = 2.0
WATCH_EVERY_S = 10.0
RESTART_FIRST_S, RESTART_CAP_S = 1.0, 60.0
MOMENTARY = frozenset({"moved_aside", "dropped", "receipt_refused"})
"""What the journal tells of that is over as soon as it is said."""
DRAIN_S = 3.0
COMPUTE_AGAIN_S = 60.0
"""Where the process that computes was ended, another is started after so long."""
NAMES_S = 3.0
"""What a lane that ends has asked is waited for so long [wall seconds]."""
SAFE_S = 2.0
"""Outputs have so long to be made safe at an orderly stop [wall seconds]."""


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
        self._long_work = LongWork(self._on_long_work)
        self._computing = asyncio.Lock()
        """One lane's library at a time: each takes as much memory as an agent."""
        self._recorder = Recorder(self._journal, clock, files, self._long_work)
        self._faults = GatewayFaults(self._recorder, clock)
        self._display = Display(self._identity, clock, lambda: self._uplink)
        self._uplink = self._make_uplink(config)
        self._uplink_task: asyncio.Task[None] | None = None
        self._journal.on_stored = self._on_stored
        self._lines = Lines(clock)
        self._lanes: dict[str, RunningLane] = {}
        self._serials: dict[str, int] = {}
        """Where the names of a lane that was ended go on, should it begin again in this run."""
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
        long_work = self._guard("long_work", self._long_work.run)
        self._notifier.send("READY=1")
        log.info("agent=started lanes=%d revision=%s", len(self._lanes), self._config.revision[:12])
        try:
            await self._stopping.wait()
        finally:
            await self._shut_down(own)
            await _cancel([long_work])

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
        # Together: each may wait for names, and the service manager does not wait for ever.
        await asyncio.gather(*(self._stop_lane(lane) for lane in lanes))
        await _cancel(own)
        self._faults.clear_all()
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
                    self._faults.say(f"bug_{name}", f"{name}: {type(exc).__name__}; see the log")
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
        lane = RunningLane(config=config, rules=self._rules(config), state=state)
        self._lanes[config.lane_id] = lane
        for device in config.devices:
            self._start_device(lane, device)

        async def tick() -> None:
            await self._tick_lane(lane)

        lane.tasks.append(self._guard(f"{config.lane_id}_tick", tick, lane.forget))
        self._compute_spectral(lane)

    def _compute_spectral(self, lane: RunningLane) -> None:
        """Compute what the lane looks for in spectra beside its running; it takes seconds."""
        if lane.config.spectral is None:
            return
        code = f"spectral_{lane.config.lane_id}"

        async def compute() -> None:
            config = lane.config
            while (found := await self._computed(config)).refused is not None:
                text = f"{config.lane_id}: spectra are not judged: {found.refused}"
                self._faults.say(code, text)
                if not found.is_passing:
                    return
                await self._clock.sleep(COMPUTE_AGAIN_S)
            self._faults.clear(code)
            if have_same_spectra(lane.config, config):
                lane.rules = replace(lane.rules, spectral=found.spectral, windows=found.windows)
                log.info("lane=%s spectral=ready", config.lane_id)

        lane.tasks.append(self._guard(code, compute))

    async def _computed(self, config: LaneConfig) -> Computed:
        """Return what a lane's spectra are judged by, or why there is nothing."""
        try:
            async with self._computing:
                return await answer_alone(RulesAsked(lane=config))
        except NoAnswer as exc:
            return Computed(refused=str(exc), is_passing=True)

    def _start_device(self, lane: RunningLane, device: DeviceConfig) -> None:
        link = self._make_link(lane, device)
        lane.links[device.name] = link
        self._start_relay(lane, device)

        async def run() -> None:
            await link.run()

        name = f"{lane.config.lane_id}_{device.name}"
        lane.tasks.append(self._guard(name, run, lane.forget))

    def _make_link(self, lane: RunningLane, device: DeviceConfig) -> DeviceLink:
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
            tap=lambda _, captured: lane.relayed(device.name, captured),
        )

    def _say_moved(self, lane: RunningLane, device: str, moved: Moved) -> None:
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

    def _start_relay(self, lane: RunningLane, device: DeviceConfig) -> None:
        config = relay_of(device.common)
        if config is None:
            return
        name = f"{lane.config.lane_id}_{device.name}"

        def on_trouble(text: str | None) -> None:
            if text is None:
                self._faults.clear(f"relay_{name}")
            else:
                self._faults.say(f"relay_{name}", text)

        label = f"{device.name} {lane.config.lane_id}"
        relay = Relay(config, clock=self._clock, label=label, on_trouble=on_trouble)

        async def run() -> None:
            await relay.run()

        lane.relays[device.name] = relay, self._guard(f"{name}_relay", run)

    async def _stop_relay(self, lane: RunningLane, device: str) -> None:
        if device in lane.relays:
            _, task = lane.relays.pop(device)
            await _cancel([task])
            self._faults.clear(f"relay_{lane.config.lane_id}_{device}")

    async def _exchange_relays(self, lane: RunningLane, new: LaneConfig) -> None:
        """Let the relays be as configured now: nothing in the lane hangs on them."""
        running = {device: relay.config for device, (relay, _) in lane.relays.items()}
        changed = [d for d in new.devices if running.get(d.name) != relay_of(d.common)]
        for device in changed:  # all of them first: one may get the address of another
            await self._stop_relay(lane, device.name)
        for device in changed:
            self._start_relay(lane, device)

    async def _stop_lane(self, lane: RunningLane) -> None:
        """Make its outputs safe, end its links, then close and say what is open in it."""
        await self._make_safe(lane)
        await _cancel(lane.tasks)
        lane.tasks.clear()
        for device in tuple(lane.relays):
            await self._stop_relay(lane, device)
        if self._lanes.get(lane.config.lane_id) is lane:
            del self._lanes[lane.config.lane_id]
        if lane.rules.spectral is not None:
            self._step(lane, Stop(stamp=self._clock.stamp(), waits=True))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._long_work.join(), NAMES_S)
        self._step(lane, Stop(stamp=self._clock.stamp()))
        lane.is_over = True
        self._serials[lane.config.lane_id] = lane.state.serial
        self._display.renew_lane(lane)

    async def _make_safe(self, lane: RunningLane) -> None:
        """Write the safe state to the lane's outputs, which then take no more wishes."""
        links = tuple(lane.outputs.values())
        lane.outputs.clear()
        await asyncio.gather(*(link.make_safe(SAFE_S) for link in links))

    def _take(self, lane: RunningLane, event: LaneEvent) -> None:
        """Step the lane; a link calls this for each event, in order."""
        self._step(lane, event)
        if isinstance(event, Timed):
            if not isinstance(event.reading, BadFrame):
                self.first_frame.set()
            is_test = event.device in lane.state.of(Calibrations).calibrating
            live = wire.live(event, is_test=is_test) if self._uplink.is_connected else None
            if live is not None:
                topic = wire.live_topic(self._identity, lane.config.lane_id, live[0])
                self._uplink.live(topic, live[1])

    def _step(self, lane: RunningLane, event: LaneEvent | Answered) -> None:
        lane.state, records, questions = step(lane.state, event, lane.rules)
        for record in records:
            self._recorder.put(record)
        for question in questions:
            self._long_work.ask(question, partial(self._answer, lane, question.question_id))
        occupied = is_occupied(lane.state, lane.rules)
        for name, link in lane.outputs.items():
            shown = annunciator.wanted(lane.state, event.stamp, lane.rules, name, occupied=occupied)
            link.want(shown.levels, shown.command)
        if records or occupied != lane.was_occupied:
            lane.was_occupied = occupied
            self._display.renew_lane_soon(lane)
        if lane.pending is not None and is_vacant(lane.state):
            before = lane.config
            spectral, windows = lane.rules.spectral, lane.rules.windows
            lane.config, lane.rules = lane.pending
            lane.pending = None
            if have_same_spectra(lane.config, before):
                lane.rules = replace(lane.rules, spectral=spectral, windows=windows)
            else:
                self._compute_spectral(lane)
            log.info("lane=%s options=exchanged", lane.config.lane_id)

    def _answer(self, lane: RunningLane, question_id: str, answer: Answer | None) -> None:
        if not lane.is_over:
            stamp = self._clock.stamp()
            self._step(lane, Answered(stamp=stamp, question_id=question_id, answer=answer))

    async def _tick_lane(self, lane: RunningLane) -> None:
        """Let time pass in the lane, and renew its snapshots, not in one moment with the others."""
        await self._clock.sleep(TICK_S * (len(self._lanes) % TICK_SLOTS) / TICK_SLOTS)
        lane.ticks = len(self._lanes)
        while True:
            await self._clock.sleep(TICK_S)
            lane.ticks += 1
            self._step(lane, Tick(stamp=self._clock.stamp()))
            if lane.ticks % STATE_EVERY_TICKS == 0:
                self._display.renew_lane(lane)
                self._display.renew_devices(lane)

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
            about=lambda: self._display.about(self._lanes)[1],
        )

    def _on_stored(self, stored: Stored) -> None:
        self._uplink.notify_appended(stored)

    def _on_journal_event(self, event: JournalEvent) -> None:
        if event.kind == "new_store":
            log.info("journal=new detail=%s", event.text)
            return
        log.warning("journal=%s detail=%s", event.kind, event.text)
        if event.kind == "reserve_back":
            self._faults.clear("journal_disk_full")
            return
        code = f"journal_{event.kind}"
        self._faults.say(code, event.text)
        if event.kind in MOMENTARY:
            self._faults.clear(code)

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
            self._faults.say("config_refused", self._refused)
        key_file = self._config.gateway.identity_key_file
        if key_file is not None and self._identity_key is None:
            self._faults.say("identity_key", f"{key_file}: holds no key; plates are left out")

    def _on_long_work(self, trouble: str | None) -> None:
        if trouble is None:
            self._faults.clear("long_work")
        else:
            self._faults.say("long_work", trouble)

    def _audit(self, kind: str, data: dict[str, object]) -> None:
        assert kind in {"boot", "stop", "clock", "config"}
        record = Audit(stamp=self._clock.stamp(), kind=kind, data=data)  # type: ignore[arg-type]  # asserted above
        self._recorder.put(record)

    async def _health_forever(self) -> None:
        await self._clock.sleep(FIRST_HEALTH_S)
        while True:
            await self._renew_health()
            await self._clock.sleep(HEALTH_EVERY_S)

    async def _renew_health(self) -> None:
        try:
            stats = await self._journal.stats()
        except JournalError as exc:
            self._faults.say("journal_failed", str(exc))
            return
        self._faults.clear("journal_failed")
        self._faults.clear("journal_write_failed")
        if stats.level_percent == 0:
            self._faults.clear("journal_fill_level")
        if stats.parked == 0:
            self._faults.clear("journal_parked")
        self._display.renew_health(self._config, stats)

    async def _watch_forever(self) -> None:
        """Feed the watchdog, by wall time, only when every part has moved."""
        self._display.renew_config(self._config, self._refused or "ok")
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
        self._faults.clear("config_refused")
        self._audit("config", {"result": "ok", "revision": new.revision, "changed": change.lines})
        self._display.renew_config(self._config, "ok", change.lines)
        self._display.renew_about(self._lanes)
        await self._keep_last_good()
        log.info("config=reloaded revision=%s changes=%d", new.revision[:12], len(change.lines))

    def _refuse(self, text: str) -> None:
        log.error("config=refused detail=%s", text)
        self._faults.say("config_refused", text)
        self._audit("config", {"result": "refused", "detail": text})
        self._display.renew_config(self._config, text)

    async def _change_lane(self, lane_id: str, new: Config) -> None:
        """Exchange a lane's options when it is vacant, or its devices by beginning it again."""
        lane = self._lanes.get(lane_id)
        if lane is None:
            return
        wanted = {config.lane_id: config for config in new.lanes}.get(lane_id)
        if wanted is not None and have_same_devices(lane.config, wanted):
            await self._exchange_relays(lane, wanted)
            lane.pending = (wanted, self._rules(wanted))
            self._step(lane, Tick(stamp=self._clock.stamp()))
            return
        await self._stop_lane(lane)
        self._display.take_back(lane.config, wanted)

    async def _exchange_uplink(self, new: Config) -> None:
        await self._uplink.stop(DRAIN_S)
        if self._uplink_task is not None:
            await _cancel([self._uplink_task])
        self._uplink = self._make_uplink(new)
        self._uplink_task = self._guard("uplink", self._uplink.run)
        # The new one knows no snapshot yet.
        for lane in self._lanes.values():
            self._display.renew_lane(lane)
            self._display.renew_devices(lane)
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


async def _cancel(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
