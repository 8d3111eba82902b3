"""A real Mosquitto for tests: on a free loopback port, killed and restarted as a test wishes.

with running_mosquitto(tmp_path) as broker:
    ... broker.port ...
    broker.kill()      # SIGKILL, as in a power cut
    broker.start()     # same port, same persistence folder
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

# {port} and {folder} are replaced; TLS options may follow because they belong to the listener.
# The broker's stock saving (every 30 min) stands: kill() loses what it held, stop() keeps it.
PLAIN = """\
listener {port} 127.0.0.1
allow_anonymous true
persistence true
persistence_location {folder}/
log_dest file {folder}/mosquitto.log
"""


def require_mosquitto() -> str:
    """Return the program's path; skip the test where there is none, fail it under CI."""
    found = shutil.which(
        "mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    )
    if found is not None:
        return found
    reason = "no mosquitto program found; install the package mosquitto"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    def __init__(self, folder: Path, config: str = PLAIN, *, extra: str = "") -> None:
        self.program = require_mosquitto()
        self.folder = folder
        self.port = free_port()
        self.host = "127.0.0.1"
        self._config = config + extra
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        path = self.folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self, timeout_s: float = 10.0) -> None:
        """Start and wait until it accepts; a second start uses the same port and persistence."""
        assert not self.is_running
        text = self._config.replace("{port}", str(self.port)).replace("{folder}", str(self.folder))
        if os.geteuid() == 0:
            text = "user root\n" + text  # else it gives root up and cannot write its folder
        path = self.folder / "mosquitto.conf"
        path.write_text(text)
        output = (self.folder / "mosquitto.out").open("ab")
        with output:
            self._process = subprocess.Popen(
                [self.program, "-c", str(path)], stdout=output, stderr=output
            )
        deadline = time.monotonic() + timeout_s
        while not self._accepts():
            if not self.is_running or time.monotonic() > deadline:
                said = (self.folder / "mosquitto.out").read_text(errors="replace") + self.log
                self.stop()
                raise RuntimeError(f"mosquitto on port {self.port} did not start: {said[-2000:]}")
            time.sleep(0.01)

    def _accepts(self) -> bool:
        try:
            socket.create_connection((self.host, self.port), timeout=1.0).close()
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """Kill it at once (SIGKILL); what it had not written to disk is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)

    def stop(self) -> None:
        """End it in order (SIGTERM), by force after 5 s."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(5)


@contextmanager
def running_mosquitto(folder: Path, config: str = PLAIN, *, extra: str = "") -> Iterator[Mosquitto]:
    broker = Mosquitto(folder, config, extra=extra)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
