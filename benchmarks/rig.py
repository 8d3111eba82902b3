"""Real parts for the benchmarks: a broker, the agent and a subscriber, each a process of its own.

All of it listens on the loopback only, and is ended by its process id. Times of different
processes are compared: all of them read the machine's one monotonic clock.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

SITE, GATEWAY = "bench", "gw-1"
PREFIX = f"checkpoint/v1/{SITE}/{GATEWAY}"
START_TIMEOUT_S = 15.0
_END_TIMEOUT_S = 10.0
# Linux's clock id of another process' processor time: clock_getcpuclockid(3), posix-timers.h.
_CPUCLOCK_SCHED = 2

GATEWAY_FILE = """\
[gateway]
site = "{site}"
gw = "{gateway}"
mode = "test"

[mqtt]
host = "127.0.0.1"
port = {port}
tls = false

[journal]
path = "{folder}/state/journal.db"
"""


def wait_for(is_true: Callable[[], bool], what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Wait until it is so; raises SystemExit with one sentence where it is not in time."""
    until_s = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > until_s:
            raise SystemExit(f"waited {timeout_s:g} s in vain for {what}")
        time.sleep(0.01)


def now_ns() -> int:
    """Return the machine's monotonic time, the same in every process [ns]."""
    return time.monotonic_ns()


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """Make a folder that is gone afterwards; TMPDIR says on which disk."""
    with tempfile.TemporaryDirectory(prefix="checkpointd-bench-") as name:
        yield Path(name)


class Child:
    """A process that is ended with us, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], output: Path) -> None:
        self.name = name
        self.output = output
        self.started_ns = now_ns()
        with output.open("ab") as out:
            # It reads from a pipe of ours, whose end tells it that we are gone.
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=out, stderr=subprocess.STDOUT, cwd=ROOT
            )
        self.pid = self._process.pid

    @property
    def is_running(self) -> bool:
        """Tell whether it lives."""
        return self._process.poll() is None

    def says(self, text: str) -> bool:
        """Tell whether the text stands in its output; raises SystemExit where it has died."""
        return text in self.said() or self.has_died()

    def said(self) -> str:
        """Return its output so far."""
        return self.output.read_text(encoding="utf-8", errors="replace")

    def has_died(self) -> bool:
        """Return False; raises SystemExit with its last words where it no longer runs."""
        if not self.is_running:
            raise SystemExit(f"{self.name} ended by itself: {self.said()[-1500:]}")
        return False

    def send(self, text: str) -> None:
        """Write one line to its standard input."""
        assert self._process.stdin is not None
        self._process.stdin.write(text.encode() + b"\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """End it in order, by force after a while."""
        if self.is_running:
            self._process.terminate()
        try:
            self._process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(_END_TIMEOUT_S)
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # ------------------------------------------------------------ what it uses

    def cpu_s(self) -> float:
        """Return the processor time it has used so far, user and system [s]."""
        # The process' own clock counts nanoseconds; /proc/PID/stat counts ticks of 10 ms, and a
        # short run can be over within one.
        return time.clock_gettime((~self.pid << 3) | _CPUCLOCK_SCHED)

    def memory_mb(self) -> float:
        """Return its resident memory [MB of 10⁶ bytes]."""
        return _status_kb(self.pid, "VmRSS") * 1024 / 1e6


def _status_kb(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    raise SystemExit(f"process {pid} has no {name}")


def free_port() -> int:
    """Return a loopback port that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def broker(directory: Path, port: int) -> Child:
    """Start Mosquitto on the loopback; raises SystemExit where there is none.

    It sends without Nagle's delay: else a message waits up to 40 ms for the subscriber's TCP to
    acknowledge the one before.
    """
    program = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        raise SystemExit("no mosquitto program found; install the package mosquitto")
    lines = [f"listener {port} 127.0.0.1", "allow_anonymous true", "set_tcp_nodelay true"]
    if os.geteuid() == 0:
        lines.append("user root")  # else it gives root up and may not read its folder
    config = directory / "mosquitto.conf"
    config.write_text("\n".join(lines) + "\n", encoding="ascii")
    child = Child("mosquitto", [program, "-c", str(config)], directory / "mosquitto.out")
    wait_for(lambda: _accepts(port) or child.has_died(), "mosquitto to listen")
    return child


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True


def write_config(directory: Path, port: int, lanes: dict[str, str]) -> Path:
    """Write a configuration directory: broker's port, and each lane's file by its id."""
    config = directory / "config"
    (config / "lanes").mkdir(parents=True)
    (directory / "state").mkdir()
    text = GATEWAY_FILE.format(site=SITE, gateway=GATEWAY, port=port, folder=directory)
    (config / "gateway.toml").write_text(text, encoding="utf-8")
    for lane_id, lane in lanes.items():
        (config / "lanes" / f"{lane_id}.toml").write_text(lane, encoding="utf-8")
    return config


def agent(directory: Path, config: Path) -> Child:
    """Start the agent as the service does."""
    command = [sys.executable, "-m", "agent.cli", "run", "--config", str(config)]
    return Child("checkpointd", command, directory / "agent.out")


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One message as the subscriber got it; ``at_ns`` is the monotonic time."""

    at_ns: int
    topic: str
    payload: bytes


class Subscriber:
    """A centre in a process of its own: notes each record and sends receipts.

    ``others`` are filters of further messages that it is to note.
    """

    def __init__(self, directory: Path, port: int, *others: str) -> None:
        self._arrivals = directory / "arrivals.txt"
        self._read_to = 0
        self._half = b""
        self._decoded = 0
        self._first: dict[object, tuple[Arrival, dict[str, object]]] = {}
        self.all: list[Arrival] = []
        script = str(HERE / "subscriber.py")
        self.child = Child(
            "subscriber",
            [sys.executable, script, str(port), str(self._arrivals), f"{PREFIX}/ev/#", *others],
            directory / "subscriber.out",
        )
        wait_for(lambda: self.child.says("subscribed"), "the subscriber")

    def refresh(self) -> list[Arrival]:
        """Return everything that has arrived so far."""
        if self._arrivals.exists():
            with self._arrivals.open("rb") as file:
                file.seek(self._read_to)
                data = file.read()
            self._read_to += len(data)
            *lines, self._half = (self._half + data).split(b"\n")
            for line in lines:
                at_ns, topic, payload = line.split(b" ", 2)
                self.all.append(Arrival(at_ns=int(at_ns), topic=topic.decode(), payload=payload))
        return self.all

    def records(self) -> list[tuple[Arrival, dict[str, object]]]:
        """Return each record once, as it first arrived, with its decoded envelope."""
        for arrival in self.refresh()[self._decoded :]:
            if "/ev/" in arrival.topic:
                envelope = json.loads(arrival.payload)
                self._first.setdefault(envelope["id"], (arrival, envelope))
        self._decoded = len(self.all)
        return list(self._first.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.child.end()
