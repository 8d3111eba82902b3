"""``checkpointd demo``: simulated instruments, an embedded broker, the agent, and a centre.

Everything is real but the instruments: the agent reads a TCP socket, a pseudo-terminal and Modbus
registers, stores in SQLite, publishes over MQTT, and the centre answers with receipts. At the end
what the centre received is compared with the truth of the vehicles that finished.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from agent import config as configuration
from agent.clock import Clock
from agent.daemon.supervisor import Supervisor
from agent.health import Notifier
from agent.records import Stamp
from agent.settings import Config
from agent.tools.show import line_of
from agent.tools.simulate import panel_tables, scene_of
from agent.tools.terminal import WrongInputError, wrong_input
from simulators.centre import Centre, Stored
from simulators.exercise import SceneError
from simulators.lane import LanePorts, LaneSimulator
from simulators.scene import PassageTruth, Scene

LANE = "inbound-1"
DEFAULT_SCALE = 4.0
SETTLE_S = 16.0
"""After the last vehicle its weight and its passage may still come for so long [scene s]."""
START_AND_STOP_S = 6.0
BROKER_START_S = 10.0

GATEWAY = """\
[gateway]
site = "demo"
gw = "gw-1"
mode = "training"

[mqtt]
host = "127.0.0.1"
port = {port}
protocol = "3.1.1"
tls = false

[journal]
path = "{state}/journal.db"
reserve_bytes = 1048576
"""

LANE_FILE = """\
[lane]
name = "Inbound 1"
max_gross_kg = {max_gross_kg}

[devices.rpm]
driver = "rpm.rapiscan"
port = "{rpm}"
silence_s = 60.0

[devices.scale]
driver = "scale.toledo"
port = "{scale}"
silence_s = 30.0
relation = "after"
max_gap_s = 12.0
e_kg = 20.0
max_kg = 60000.0

[devices.metal]
driver = "metal.dry_contact"
port = "{metal}"
silence_s = 30.0
preset = "moxa-e1212"
relation = "during"
max_gap_s = 5.0
"""


def demo_command(arguments: argparse.Namespace) -> int:
    """Play the scene; 0: the centre received the truth, 1: it did not."""
    try:
        import amqtt.broker  # noqa: F401, PLC0415 - only to say early that it is missing
    except ImportError as exc:
        text = "the demo needs its embedded broker: pip install 'checkpointd[demo]'"
        raise WrongInputError(text) from exc
    with wrong_input(SceneError):
        scene = scene_of(arguments.scene)
    for_s: float | None = arguments.for_s
    scale = arguments.time_scale or _fitting_scale(scene, for_s)
    logging.basicConfig(level=logging.CRITICAL)
    console = Console(highlight=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="checkpointd-demo-") as directory, _broker() as port:
        demo = _Demo(scene, scale, for_s, Path(directory), port, console)
        return asyncio.run(demo.run())


def _fitting_scale(scene: Scene, for_s: float | None) -> float:
    if for_s is None:
        return DEFAULT_SCALE
    fitting = (scene.duration_s + SETTLE_S) / max(1.0, for_s - START_AND_STOP_S)
    return min(8.0, max(1.0, fitting))


@contextlib.contextmanager
def _broker() -> Iterator[int]:
    """Run an MQTT 3.1.1 broker on a free loopback port, on a thread and loop of its own."""
    from amqtt.broker import Broker  # noqa: PLC0415 - the extra may be missing

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listener = {"type": "tcp", "bind": f"127.0.0.1:{port}"}
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="broker", daemon=True)
    thread.start()

    async def make() -> Any:
        broker = Broker({"listeners": {"default": listener}, "plugins": anonymous}, loop=loop)
        await broker.start()
        return broker

    broker = asyncio.run_coroutine_threadsafe(make(), loop).result(BROKER_START_S)
    try:
        yield port
    finally:
        with contextlib.suppress(TimeoutError):
            asyncio.run_coroutine_threadsafe(broker.shutdown(), loop).result(BROKER_START_S)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(BROKER_START_S)


@dataclass(slots=True)
class _Demo:
    scene: Scene
    scale: float
    for_s: float | None
    directory: Path
    broker_port: int
    console: Console

    async def run(self) -> int:
        began_s = time.monotonic()
        lane = LaneSimulator(self.scene, time_scale=self.scale)
        centre = Centre("127.0.0.1", self.broker_port, protocol="3.1.1")
        centre.start()
        clock = Clock(time_scale=self.scale)
        printer = asyncio.create_task(self._print_forever(centre))
        try:
            ports = await lane.start()
            scene_began = clock.stamp()
            self._introduce(ports)
            supervisor = Supervisor(
                self._configuration(ports), directory=None, clock=clock, notifier=Notifier(None)
            )
            running = asyncio.create_task(supervisor.run())
            await self._play(lane, began_s, running)
            finished_s = lane.now_s() - SETTLE_S
            supervisor.stop()
            await running
            await asyncio.to_thread(centre.wait_for, lambda: _has_all(centre), 10.0)
        finally:
            printer.cancel()
            await asyncio.gather(printer, return_exceptions=True)
            await lane.close()
            await asyncio.to_thread(centre.stop)
        return self._compare(centre, scene_began, finished_s)

    def _configuration(self, ports: LanePorts) -> Config:
        state = self.directory / "state"
        state.mkdir()
        lanes = self.directory / "lanes"
        lanes.mkdir()
        gateway = GATEWAY.format(port=self.broker_port, state=state)
        (self.directory / "gateway.toml").write_text(gateway, encoding="utf-8")
        lane_file = LANE_FILE.format(
            max_gross_kg=float(self.scene.exercise.lane.max_gross_kg),
            rpm=ports.portal,
            scale=ports.scale,
            metal=ports.metal,
        )
        panel = panel_tables(ports, self.scene.exercise.spectrometer.instrument)
        lane_file += f"\n{panel}"
        (lanes / f"{LANE}.toml").write_text(lane_file, encoding="utf-8")
        return configuration.load(self.directory)

    async def _play(self, lane: LaneSimulator, began_s: float, running: asyncio.Task[None]) -> None:
        """Wait until the scene is over or the time is up, or the agent ended by itself."""
        while not running.done():
            if lane.now_s() >= self.scene.duration_s + SETTLE_S:
                return
            spent_s = time.monotonic() - began_s
            if self.for_s is not None and spent_s >= self.for_s - START_AND_STOP_S / 2:
                return
            await asyncio.sleep(0.1)
        await running

    def _introduce(self, ports: LanePorts) -> None:
        self.console.print(
            f"[bold]{self.scene.exercise.title}[/]  ({len(self.scene.truth)} vehicles in "
            f"{self.scene.duration_s:.0f} s, played {self.scale:.3g} times as fast)"
        )
        self.console.print(
            f"portal {ports.portal}   scale {ports.scale}   metal detector {ports.metal}   "
            f"{'' if ports.spectrometer is None else f'spectrometer {ports.spectrometer}   '}"
            f"broker 127.0.0.1:{self.broker_port}"
        )
        self.console.print("What a subscriber receives:\n", style="dim")

    async def _print_forever(self, centre: Centre) -> None:
        shown = 0
        while True:
            records = centre.records()
            for record in records[shown:]:
                line, style = line_of(record.body)
                self.console.print(escape(line), style=style or None)
            shown = len(records)
            sys.stdout.flush()
            await asyncio.sleep(0.1)

    def _compare(self, centre: Centre, scene_began: Stamp, finished_s: float) -> int:
        """Print truth beside what was received; 1 where they differ."""
        passages = _passages(centre, scene_began)
        alarms = {r.data["alarm_id"]: r.data["kind"] for r in centre.records("alarm")}
        table = Table(title="\nThe truth, and what the centre received", title_justify="left")
        for column in ("vehicle", "truth", "received", ""):
            table.add_column(column)
        differing = 0
        finished = self.scene.finished(finished_s)
        for truth in finished:
            own = [p for p in passages if _is_of(p, truth)]
            difference = _difference(truth, own, alarms)
            differing += bool(difference)
            verdict = f"[red]{escape(difference)}[/]" if difference else "[green]as it was[/]"
            table.add_row(
                escape(truth.label or truth.vehicle_id),
                _truth_text(truth),
                _received_text(own, alarms),
                verdict,
            )
        extra = [p for p in passages if not any(_is_of(p, t) for t in self.scene.truth)]
        for passage in extra:
            table.add_row("[red]nobody[/]", "", _received_text([passage], alarms), "[red]extra[/]")
        self.console.print(table)
        gaps = centre.gaps()
        differing += len(extra) + len(gaps)
        held = len(centre.records())
        self.console.print(
            f"{len(finished)} of {len(self.scene.truth)} vehicles finished, {differing} differ; "
            f"the centre holds {held} records, {len(gaps)} streams with gaps, "
            f"{centre.duplicates} sent twice"
        )
        if not finished:
            self.console.print("no vehicle finished in that time; give it more", style="red")
            return 1
        return 1 if differing else 0


def _has_all(centre: Centre) -> bool:
    """Return whether the last record, the stop, has come and nothing before it is missing."""
    return not centre.gaps() and any(r.data.get("kind") == "stop" for r in centre.records("audit"))


@dataclass(frozen=True, slots=True)
class _Received:
    started_s: float
    data: dict[str, Any]


def _passages(centre: Centre, scene_began: Stamp) -> list[_Received]:
    """Return the newest revision of each passage with its start in scene seconds."""
    newest: dict[str, Stored] = {}
    for record in centre.records("pass"):
        passage_id = record.data["passage_id"]
        if passage_id not in newest or newest[passage_id].data["rev"] < record.data["rev"]:
            newest[passage_id] = record
    return [
        _Received(_scene_s(record.data["started"], scene_began), record.data)
        for record in newest.values()
    ]


def _scene_s(text: str, scene_began: Stamp) -> float:
    from datetime import datetime  # noqa: PLC0415 - for this one conversion

    return datetime.fromisoformat(text).timestamp() - scene_began.utc_us / 1e6


def _is_of(received: _Received, truth: PassageTruth) -> bool:
    """Tell whose it is; the next vehicle may be inside before this one is off the scale."""
    first, last = truth.occupancies[0][0], truth.occupancies[-1][1]
    if received.data["rpm"] is None:
        last = truth.finished_s
    return first - 2.0 <= received.started_s <= last


def _kinds(received: list[_Received], alarms: dict[str, str]) -> set[str]:
    return {alarms[a] for p in received for a in p.data["alarm_ids"] if a in alarms}


def _difference(truth: PassageTruth, own: list[_Received], alarms: dict[str, str]) -> str:
    """Return in words where what was received is not the truth; empty: nowhere."""
    if len(own) != 1:
        return f"{len(own)} passages"
    found = []
    data = own[0].data
    kinds = _kinds(own, alarms)
    if missing := truth.expected - kinds:
        found.append(f"no {', '.join(sorted(missing))} alarm")
    # Behind enough iron a source is there for the portal and has no spectrum left: it may alarm.
    seen = {"spectral"} if truth.nuclides else set()
    if false := kinds - truth.expected - truth.possible - seen:
        found.append(f"false {', '.join(sorted(false))} alarm")
    mass_kg = data["scale"]["mass_kg"] if data["scale"] else None
    if truth.mass_kg is not None and (mass_kg is None or abs(mass_kg - truth.mass_kg) > 20.0):
        found.append(f"mass {mass_kg}")
    result = data["metal"]["result"] if data["metal"] else None
    wanted = {None: None, True: "alarm", False: "clear"}[truth.metal]
    if result != wanted:
        found.append(f"metal {result}")
    if truth.portal_unplugged != (data["end_reason"] == "device_lost"):
        found.append(f"ended {data['end_reason']}")
    occupancies = len(data["rpm"]["occupancy_numbers"]) if data["rpm"] else 0
    if not truth.portal_unplugged and occupancies != len(truth.occupancies):
        found.append(f"{occupancies} occupancies")
    return "; ".join(found)


def _truth_text(truth: PassageTruth) -> str:
    parts = [", ".join(sorted(truth.expected)) or "nothing"]
    if truth.nuclides:
        parts.append("+".join(truth.nuclides))
    if truth.mass_kg is not None:
        parts.append(f"{truth.mass_kg:.0f} kg")
    if len(truth.occupancies) > 1:
        parts.append("split")
    if truth.portal_unplugged:
        parts.append("portal unplugged")
    return "; ".join(parts)


def _identified(spectral: dict[str, Any]) -> str:
    if spectral["category"] is None:
        return "spectrum clean" if spectral["p"] is not None else "spectrum not judged"
    names = "+".join(each["name"] for each in spectral["nuclides"])
    return f"{spectral['category']} {names}".strip()


def _received_text(own: list[_Received], alarms: dict[str, str]) -> str:
    parts = [", ".join(sorted(_kinds(own, alarms))) or "no alarm"]
    for received in own:
        scale = received.data["scale"]
        if scale and scale["mass_kg"] is not None:
            parts.append(f"{scale['mass_kg']:.0f} kg")
        if received.data["spectral"]:
            parts.append(_identified(received.data["spectral"]))
        if received.data["end_reason"] != "left":
            parts.append(received.data["end_reason"])
        parts.append(received.data["priority"])
    return "; ".join(parts)
