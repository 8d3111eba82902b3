"""Measures what a one-lane agent costs: time to its first frame, memory, processor time.

The agent runs as the service does, with a portal over TCP, a weighbridge on a pseudo-terminal and
a metal detector on Modbus TCP, all simulated in another process, and a real Mosquitto. A second
table gives each library's own import time and memory, in a fresh Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import rig
from report import Goal, finish, progress, table

START_LIMIT_S, MEMORY_LIMIT_MB = 2.0, 90.0
LANE = "inbound-1"
SCENE = "demo"
LIBRARIES = (
    "asyncio",
    "sqlite3",
    "ssl",
    "numpy",
    "scipy.special",
    "pymodbus.client",
    "pymodbus.framer",
    "paho.mqtt.client",
    "msgspec",
    "rfc8785",
    "serial",
    "rich.console",
    "agent.supervisor",
)
HEAVY = (
    "numpy",
    "scipy",
    "pymodbus",
    "paho",
    "msgspec",
    "rfc8785",
    "serial",
    "rich",
    "cryptography",
)

# Time and memory of one import, and how many modules came with it; in a Python of its own.
_PROBE = """
import sys, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before, known, began = resident(), set(sys.modules), time.perf_counter()
import {name}
took = time.perf_counter() - began
print(took, resident() - before, len(set(sys.modules) - known))
"""
_LOADED = """
import sys
import agent.tools.daemon
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def probe(name: str, repeats: int) -> tuple[float, float, int]:
    """Return time [s] and memory [MB] of importing a library, medians, and its module count."""
    found = []
    for _ in range(repeats):
        script = _PROBE.format(name=name)
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=rig.ROOT
        )
        found.append([float(field) for field in done.stdout.split()])
    time_s, bytes_, modules = (statistics.median(column) for column in zip(*found, strict=True))
    return time_s, bytes_ / 1e6, int(modules)


def loaded() -> list[str]:
    """Return which of the heavy libraries the daemon imports before it reads its configuration."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, cwd=rig.ROOT
    )
    return [name for name in HEAVY if name in done.stdout.split()]


def start_times(folder: Path, config: Path, repeats: int) -> list[float]:
    """Return the times from starting the process to its first good frame [s]."""
    times = []
    for number in range(repeats):
        directory = folder / f"start-{number}"
        directory.mkdir()
        with rig.agent(directory, config) as agent:
            rig.wait_for(lambda agent=agent: agent.says("link=up"), "the first frame")  # type: ignore[misc]  # bound now
            times.append((rig.now_ns() - agent.started_ns) / 1e9)
    return times


def simulated_lane(folder: Path) -> tuple[rig.Child, str]:
    """Start the instruments; return their process and the lane's file."""
    command = [sys.executable, "-u", "-m", "agent.cli", "simulate", SCENE]
    child = rig.Child("simulate", command, folder / "simulate.out")
    rig.wait_for(lambda: child.says("preset ="), "the simulated instruments")
    return child, f"[lane]\nmax_gross_kg = 40000.0\n\n{child.said()}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="1 s instead of 75, nothing judged")
    is_quick: bool = parser.parse_args().quick
    run_s, repeats = (1.0, 1) if is_quick else (75.0, 5)
    devices = 2 if is_quick else 3  # the portal says nothing in its first 5 s
    libraries = ("msgspec",) if is_quick else LIBRARIES
    imports = {}
    for name in libraries:
        progress(f"importing {name}")
        imports[name] = probe(name, repeats)
    daemon = loaded()
    port = rig.free_port()
    with rig.folder() as folder, rig.broker(folder, port):
        simulator, lane = simulated_lane(folder)
        with simulator, rig.Subscriber(folder, port) as centre:
            config = rig.write_config(folder, port, {LANE: lane})
            progress("starting the agent")
            starts = start_times(folder, config, repeats)
            with rig.agent(folder, config) as agent:
                rig.wait_for(
                    lambda: agent.says("uplink up") and agent.said().count("link=up") >= devices,
                    "the devices and the broker",
                )
                began_s, cpu_began_s = time.monotonic(), agent.cpu_s()
                progress(f"running for {run_s:g} s")
                time.sleep(run_s)
                cpu_percent = 100 * (agent.cpu_s() - cpu_began_s) / (time.monotonic() - began_s)
                memory_mb, peak_mb = agent.memory_mb(), agent.peak_mb()
            passages = sum(record["stream"] == "pass" for _, record in centre.records())
    start_s = statistics.median(starts)
    rows: list[list[object]] = [
        ["process start to first frame, median [s]", round(start_s, 3)],
        ["process start to first frame, longest [s]", round(max(starts), 3)],
        [f"resident memory after {run_s:g} s [MB]", memory_mb],
        ["most resident memory [MB]", peak_mb],
        ["processor time of one lane [% of a core]", cpu_percent],
        ["passages meanwhile", passages],
        ["libraries in the daemon", ", ".join(daemon)],
    ]
    import_rows = [[name, 1e3 * t, mb, modules] for name, (t, mb, modules) in imports.items()]
    text = table(("one lane, three devices", "measured"), rows) + "\n\n"
    text += table(("import, fresh Python", "time [ms]", "memory [MB]", "modules"), import_rows)
    goals = [
        Goal(
            name="start to first frame",
            measured=round(max(starts), 3),
            limit=START_LIMIT_S,
            unit="s",
        ),
        Goal(
            name="resident memory", measured=round(memory_mb, 1), limit=MEMORY_LIMIT_MB, unit="MB"
        ),
    ]
    figures: dict[str, object] = {
        "first_frame_s": [round(each, 3) for each in starts],
        "memory_mb": round(memory_mb, 1),
        "peak_mb": round(peak_mb, 1),
        "cpu_percent_of_core": round(cpu_percent, 2),
        "run_s": run_s,
        "passages": passages,
        "loaded": daemon,
        "imports": {
            name: {"ms": round(1e3 * t, 1), "mb": round(mb, 1), "modules": modules}
            for name, (t, mb, modules) in imports.items()
        },
    }
    return finish("footprint", text, figures, goals, is_quick=is_quick)


if __name__ == "__main__":
    sys.exit(main())
