"""Measures what a one-lane agent costs: time to its first frame, memory, processor time.

The agent runs as the service does, with a portal over TCP, a weighbridge on a pseudo-terminal and
a metal detector on Modbus TCP, all simulated in other processes, and a real Mosquitto. Once as it
is, a counting lane; once with four spectroscopic panels beside the portal, whose templates the
agent computes before it begins. Memory is that of all its processes, what they share counted once
(PSS); with panels that is the worker too, which has named a source by then. A second table gives
each library's own import time and memory, in a fresh Python.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import processes
import rig
from report import Goal, finish, progress, table

START_LIMIT_S, MEMORY_LIMIT_MB, PANELS_MEMORY_LIMIT_MB = 1.2, 90.0, 180.0
PANELS = 4
PANEL = "[devices.panel]"
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
    "agent.daemon.supervisor",
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
import agent.tools.run
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


def simulated_lane(folder: Path, name: str) -> tuple[rig.Child, str]:
    """Start the instruments; return their process and the lane's file."""
    command = [sys.executable, "-u", "-m", "agent.cli", "simulate", SCENE]
    child = rig.Child(name, command, folder / f"{name}.out")
    rig.wait_for(lambda: child.says("guard_s ="), "the simulated instruments")
    return child, f"[lane]\nmax_gross_kg = 40000.0\n\n{child.said()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class How:
    """How long the agent runs [s], and how often it is started for the time that takes."""

    run_s: float
    repeats: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one agent cost: starts [s], memory [MB], processor time [% of a core], passages."""

    starts_s: list[float]
    memory_mb: float
    peak_mb: float
    cpu_percent: float
    passages: int
    workers: int


def counting_lane(folder: Path, stack: contextlib.ExitStack) -> str:
    """Start a lane, and return the file of one that does not ask its panel."""
    simulator, file = simulated_lane(folder, "counting")
    stack.enter_context(simulator)
    return file[: file.index(PANEL)]


def panels_lane(folder: Path, stack: contextlib.ExitStack) -> str:
    """Start a lane with four panels, and return its file."""
    lane = ""
    for number in range(PANELS):
        simulator, file = simulated_lane(folder, f"panel-{number}")
        stack.enter_context(simulator)
        counting, _, panel = file.partition(PANEL)
        device, _, rules = panel.partition("[spectral]")
        lane = lane or f"{counting}[spectral]{rules}\n"
        lane += f"[devices.panel-{number + 1}]{device}"
    return lane


def measured(
    folder: Path, lane_of: Callable[[Path, contextlib.ExitStack], str], how: How, devices: int
) -> Measured:
    """Run the agent on a lane for some time, and return what it cost."""
    folder.mkdir()
    port = rig.free_port()
    with contextlib.ExitStack() as stack:
        stack.enter_context(rig.broker(folder, port))
        lane = lane_of(folder, stack)
        centre = stack.enter_context(rig.Subscriber(folder, port))
        config = rig.write_config(folder, port, {LANE: lane})
        progress("starting the agent")
        starts = start_times(folder, config, how.repeats)
        with rig.agent(folder, config) as agent:
            rig.wait_for(
                lambda: agent.says("uplink up") and agent.said().count("link=up") >= devices,
                "the devices and the broker",
            )
            began_s = time.monotonic()
            cpu_began_s = processes.cpu_s(processes.tree(agent.pid))
            progress(f"running for {how.run_s:g} s")
            memory_mb = peak_mb = 0.0
            while time.monotonic() - began_s < how.run_s:
                time.sleep(min(1.0, how.run_s))
                memory_mb = processes.pss_mb(processes.tree(agent.pid))
                peak_mb = max(peak_mb, memory_mb)
            cpu_s = processes.cpu_s(processes.tree(agent.pid))
            cpu_percent = 100 * (cpu_s - cpu_began_s) / (time.monotonic() - began_s)
            workers = len(processes.tree(agent.pid)) - 1
        passages = sum(record["stream"] == "pass" for _, record in centre.records())
    return Measured(
        starts_s=starts,
        memory_mb=memory_mb,
        peak_mb=peak_mb,
        cpu_percent=cpu_percent,
        passages=passages,
        workers=workers,
    )


def rows_of(found: Measured) -> list[object]:
    return [
        round(statistics.median(found.starts_s), 3),
        round(max(found.starts_s), 3),
        found.memory_mb,
        found.peak_mb,
        found.cpu_percent,
        found.passages,
        found.workers,
    ]


def figures_of(found: Measured) -> dict[str, object]:
    return {
        "first_frame_s": [round(each, 3) for each in found.starts_s],
        "memory_mb": round(found.memory_mb, 1),
        "peak_mb": round(found.peak_mb, 1),
        "cpu_percent_of_core": round(found.cpu_percent, 2),
        "passages": found.passages,
        "workers": found.workers,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="1 s instead of 75, nothing judged")
    is_quick: bool = parser.parse_args().quick
    how = How(run_s=1.0, repeats=1) if is_quick else How(run_s=75.0, repeats=5)
    devices = 2 if is_quick else 3  # the portal says nothing in its first 5 s
    libraries = ("msgspec",) if is_quick else LIBRARIES
    imports = {}
    for name in libraries:
        progress(f"importing {name}")
        imports[name] = probe(name, how.repeats)
    daemon = loaded()
    with rig.folder() as folder:
        counting = measured(folder / "counting", counting_lane, how, devices)
        panels = measured(folder / "panels", panels_lane, how, devices + PANELS)
    names = (
        "process start to first frame, median [s]",
        "process start to first frame, longest [s]",
        f"memory of all its processes after {how.run_s:g} s, PSS [MB]",
        "  most of it [MB]",
        "processor time of one lane [% of a core]",
        "passages meanwhile",
        "processes beside the agent",
    )
    rows: list[list[object]] = [
        list(row) for row in zip(names, rows_of(counting), rows_of(panels), strict=True)
    ]
    rows.append(["libraries in the daemon", ", ".join(daemon), ""])
    import_rows = [[name, 1e3 * t, mb, modules] for name, (t, mb, modules) in imports.items()]
    text = table(("one lane", "three devices", f"and {PANELS} panels"), rows) + "\n\n"
    text += table(("import, fresh Python", "time [ms]", "memory [MB]", "modules"), import_rows)
    goals = [
        Goal(
            name="start to first frame",
            measured=round(max(counting.starts_s), 3),
            limit=START_LIMIT_S,
            unit="s",
        ),
        Goal(
            name="memory",
            measured=round(counting.peak_mb, 1),
            limit=MEMORY_LIMIT_MB,
            unit="MB",
        ),
        Goal(
            name=f"memory with {PANELS} panels",
            measured=round(panels.peak_mb, 1),
            limit=PANELS_MEMORY_LIMIT_MB,
            unit="MB",
        ),
    ]
    figures: dict[str, object] = {
        "counting": figures_of(counting),
        "panels": figures_of(panels),
        "run_s": how.run_s,
        "loaded": daemon,
        "imports": {
            name: {"ms": round(1e3 * t, 1), "mb": round(mb, 1), "modules": modules}
            for name, (t, mb, modules) in imports.items()
        },
    }
    return finish("footprint", text, figures, goals, is_quick=is_quick)


if __name__ == "__main__":
    sys.exit(main())
