"""A whole agent for tests, in this process or as a child, and what it needs around it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copyfile
from typing import Any

from agent import config as configuration
from agent.clock import Clock
from agent.daemon.supervisor import Supervisor
from agent.health import Notifier
from simulators.centre import Centre

GATEWAY = """\
[gateway]
site = "bridge-north"
gw = "gw-1"
mode = "{mode}"

[mqtt]
host = "127.0.0.1"
port = {port}
tls = false
{mqtt}

[journal]
path = "{store}"
reserve_bytes = 1048576
"""
PREFIX = "checkpoint/v1/bridge-north/gw-1/"
LANE = "inbound-1"

RPM = '[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "{port}"\n'
SCALE = (
    '[devices.scale]\ndriver = "scale.toledo"\nport = "{port}"\nrelation = "after"\n'
    "max_gap_s = 12.0\ne_kg = 20.0\nmax_kg = 60000.0\n"
)
METAL = (
    '[devices.metal]\ndriver = "metal.dry_contact"\nport = "{port}"\npreset = "moxa-e1212"\n'
    'relation = "during"\nmax_gap_s = 5.0\n'
)


def rpm_lane(port: str, *, lane: str = "", rpm: str = "") -> str:
    """Return the file of a lane that has a portal only."""
    return f"[lane]\n{lane}\n" + RPM.format(port=port) + rpm


def full_lane(
    rpm: str, scale: str, metal: str, *, silence_s: tuple[float, float, float] = (60, 30, 30)
) -> str:
    """Return the file of a lane with all three instruments.

    A busy machine's hiccup of a second is ten seconds of a scene that plays ten times as fast, so
    the default ``silence_s`` is long.
    """
    devices = RPM.format(port=rpm), SCALE.format(port=scale), METAL.format(port=metal)
    told = (f"{d}silence_s = {s}\n" for d, s in zip(devices, silence_s, strict=True))
    return "[lane]\nmax_gross_kg = 40000.0\n" + "\n".join(told)


def write_config(
    folder: Path, broker_port: int, lanes: dict[str, str], *, mode: str = "training", mqtt: str = ""
) -> Path:
    """Write a configuration directory into the folder and return it; the store lies beside it."""
    directory = folder / "etc"
    (directory / "lanes").mkdir(parents=True, exist_ok=True)
    text = GATEWAY.format(port=broker_port, store=store_of(folder), mode=mode, mqtt=mqtt)
    (directory / "gateway.toml").write_text(text)
    for name, lane in lanes.items():
        (directory / "lanes" / f"{name}.toml").write_text(lane)
    store_of(folder).parent.mkdir(exist_ok=True)
    return directory


def store_of(folder: Path) -> Path:
    return folder / "state" / "journal.db"


@asynccontextmanager
async def running_agent(
    directory: Path, clock: Clock, notifier: Notifier | None = None
) -> AsyncIterator[Supervisor]:
    """Run the agent in this process until the block ends; then it stops in order."""
    supervisor = Supervisor(
        configuration.load(directory),
        directory=directory,
        clock=clock,
        notifier=notifier or Notifier(None),
    )
    task = asyncio.create_task(supervisor.run())
    try:
        yield supervisor
        assert not task.done(), task
    finally:
        supervisor.stop()
        await asyncio.wait_for(task, 20)


class AgentProcess:
    """``checkpointd run`` as a child; ``said`` is its log, also when it is gone."""

    def __init__(self, directory: Path, folder: Path, *, notify: str | None = None) -> None:
        self._directory = directory
        self._log = folder / "agent.log"
        environment = {**os.environ, "STATE_DIRECTORY": str(store_of(folder).parent)}
        environment.pop("NOTIFY_SOCKET", None)
        if notify is not None:
            environment["NOTIFY_SOCKET"] = notify
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command("run", "--config", str(self._directory)),
                env=self._environment,
                stdout=log,
                stderr=log,
            )

    @property
    def said(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def wait(self, limit_s: float = 20.0) -> int:
        """Return its exit code."""
        assert self._process is not None
        return self._process.wait(limit_s)

    def kill(self) -> None:
        """End it at once, wherever it is."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)


def command(*arguments: str) -> list[str]:
    """Return the command line of this environment's ``checkpointd``."""
    return [sys.executable, "-m", "agent.cli", *arguments]


def stored_records(store: Path, aside: Path) -> dict[str, bytes]:
    """Return what stands in a store by id, read from a copy so that nothing of it is changed."""
    for suffix in ("", "-wal"):
        if (source := store.with_name(store.name + suffix)).exists():
            copyfile(source, aside.with_name(aside.name + suffix))
    db = sqlite3.connect(aside)
    try:
        rows = db.execute("SELECT payload FROM record").fetchall()
    finally:
        db.close()
    for suffix in ("", "-wal", "-shm"):
        aside.with_name(aside.name + suffix).unlink(missing_ok=True)
    return {json.loads(payload)["id"]: bytes(payload) for (payload,) in rows}


class LinePortal:
    """A portal in a test's hand: whoever is connected gets the lines that the test says."""

    def __init__(self) -> None:
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None
        self.port = ""
        self.heard = 0
        """Connections so far."""

    async def start(self) -> str:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self.port

    async def _accept(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        self.heard += 1

    def say(self, *lines: str) -> None:
        for writer in self._writers:
            writer.write("".join(f"{line}\r\n" for line in lines).encode("latin-1"))

    def background(self, times: int = 1) -> None:
        self.say(*(("NB,000003,000000,000002,000000", gb(400)) * times))

    def enter(self, *, alarm: bool = False, intervals: int = 8) -> None:
        """Bring a vehicle in: five intervals from before it and some of its own."""
        tag, counts = ("GA", 400) if alarm else ("GS", 70)
        self.say("NS,000002,000000,000000,000000", *(gs(80) for _ in range(5)))
        self.say(*(f"{tag},{','.join([f'{counts:06d}'] * 4)}" for _ in range(intervals)))

    def leave(self, number: int) -> None:
        self.say(f"GX,{number:06d},002566,000000,000000")
        self.background()

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()


def gb(cps: int) -> str:
    return "GB," + ",".join([f"{cps:06d}"] * 4)


def gs(counts: int) -> str:
    return "GS," + ",".join([f"{counts:06d}"] * 4)


class NotifySocket:
    """The service manager's end of sd_notify: a datagram socket."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self._said: list[str] = []

    @property
    def said(self) -> list[str]:
        """Every state line so far, in order."""
        while True:
            try:
                self._said += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return list(self._said)

    def close(self) -> None:
        self._socket.close()


async def until(condition: Callable[[], object], limit_s: float = 15.0, *, what: str = "") -> None:
    """Wait until the condition holds; fails after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"never came true: {what or condition}"
        await asyncio.sleep(0.02)


def newest_passages(centre: Centre) -> list[dict[str, Any]]:
    """Return the last revision of each passage that the centre holds, in order of arrival."""
    newest: dict[str, dict[str, Any]] = {}
    for record in centre.records("pass"):
        data = record.data
        if data["rev"] >= newest.get(data["passage_id"], data)["rev"]:
            newest[data["passage_id"]] = data
    return list(newest.values())


def alarms(centre: Centre, **wanted: str) -> list[dict[str, Any]]:
    """Return the alarm phases the centre holds of which each named member is as wanted."""
    return [
        r.data
        for r in centre.records("alarm")
        if all(r.data[name] == value for name, value in wanted.items())
    ]


def audits(centre: Centre, kind: str) -> list[dict[str, Any]]:
    return [r.data for r in centre.records("audit") if r.data["kind"] == kind]
