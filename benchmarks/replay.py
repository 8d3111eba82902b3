"""A day's portal log decided again: how long it takes, and how much memory.

Two logs are made by the portal simulator in the recorder's form, some 77,000 lines each: a day of
some 700 vehicles at a controller that counts, and of 200 at an SC-880, whose energy windows the
lane judges. Each is replayed by `checkpointd replay` in a process of its own, twice; both runs must
give the same bytes. Goals for each: under 10 s and under 120 MB.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from report import Goal, finish, progress, table

from simulators.rpm import Portal
from simulators.scene import Scene

SCENE = """\
title = "A day"
seed = 5

[portal]
controller = "{controller}"

[traffic]
vehicles = {vehicles}
first_at_s = 60.0
mean_gap_s = {gap_s}
"""
LANE = """\
[devices.rpm]
driver = "rpm.rapiscan"
port = "tcp://127.0.0.1:1600"
"""
WINDOWS = """\

[spectral]
detector = "pvt"
crystal_cm = [35.0, 7.0, 100.0]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """One log: what it is called, whose controller wrote it, how many passed, what judges it."""

    name: str
    controller: str
    vehicles: int
    lane: str


DAYS = (
    Day(name="counting", controller="sc-770", vehicles=770, lane=LANE),
    Day(name="windows", controller="sc-880", vehicles=200, lane=LANE + WINDOWS),
)


def write_day(path: Path, controller: str, vehicles: int) -> int:
    """Write the daily file and return its number of lines."""
    text = SCENE.format(controller=controller, vehicles=vehicles, gap_s=110.0)
    scene = Scene.from_text(text, name="day")
    portal = Portal(scene)
    lines = 0
    with path.open("wb") as file:
        for at_s, wire in portal.advance(scene.duration_s):
            minutes, seconds = divmod(at_s, 60.0)
            hours, minutes = divmod(int(minutes), 60)
            stamp = f"{hours % 24:02d}-{minutes:02d}-{seconds:06.3f}".encode()
            for line in wire.splitlines():
                file.write(line + b"," + stamp + b"\r\n")
                lines += 1
    return lines


def replay_once(recording: Path, lane: Path) -> tuple[float, float, str, dict[str, object]]:
    """Return seconds, peak resident memory [MB], a hash of the output, and its summary."""
    command = [sys.executable, "-m", "agent.cli", "replay", str(recording), "--lane", str(lane)]
    command += ["--date", "2026-11-22", "--json"]
    began_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    spent_s = time.perf_counter() - began_s
    if process.returncode != 0:
        raise SystemExit(f"replay ended with {process.returncode}")
    summary: dict[str, object] = json.loads(output.splitlines()[-1])
    return spent_s, usage.ru_maxrss / 1024, hashlib.sha256(output).hexdigest(), summary


def main() -> int:
    """Run the benchmark; 1 where a goal is missed or two runs differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a short log, to see that it runs")
    arguments = parser.parse_args()
    figures: dict[str, object] = {}
    goals = []
    for day in DAYS:
        found, wanted = measured(day, is_quick=arguments.quick)
        figures |= {f"{day.name}_{name}": value for name, value in found.items()}
        goals += wanted
    text = table(("figure", "value"), list(figures.items()))
    return finish("replay", text, figures, goals, is_quick=arguments.quick)


def measured(day: Day, *, is_quick: bool) -> tuple[dict[str, object], list[Goal]]:
    """Return the figures of one day, and its goals."""
    with tempfile.TemporaryDirectory(prefix="checkpointd-replay-") as directory:
        recording, lane = Path(directory, "day.csv"), Path(directory, "lane.toml")
        lane.write_text(day.lane, encoding="utf-8")
        progress(f"making the log of {day.name}")
        lines = write_day(recording, day.controller, 10 if is_quick else day.vehicles)
        progress(f"replaying {lines} lines, twice")
        first, second = replay_once(recording, lane), replay_once(recording, lane)
    same = first[2] == second[2]
    spent_s, peak_mb = min(first[0], second[0]), max(first[1], second[1])
    figures: dict[str, object] = {
        "lines": lines,
        "passages": first[3]["passages"],
        "seconds": round(spent_s, 2),
        "lines_per_s": round(lines / spent_s),
        "peak_mb": round(peak_mb, 1),
        "same_bytes_twice": same,
    }
    goals = [
        Goal(name=f"{day.name}: seconds", measured=spent_s, limit=10.0, unit="s"),
        Goal(name=f"{day.name}: peak memory", measured=peak_mb, limit=120.0, unit="MB"),
        Goal(
            name=f"{day.name}: runs that differ", measured=0.0 if same else 1.0, limit=0.0, unit=""
        ),
    ]
    return figures, goals


if __name__ == "__main__":
    sys.exit(main())
