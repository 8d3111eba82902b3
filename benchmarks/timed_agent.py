"""Runs the agent as the service does, and times each step of a lane and each turn of the loop.

    timed_agent.py FIGURES CONFIG [PROCS]

The agent itself knows nothing of it: ``agent.lane.step.step`` is replaced before anything imports
it, and so is the selector that asyncio waits with. A turn is the time between two waits. FIGURES is
written at the end. PROCS is the ``cgroup.procs`` of a control group that it joins first, and its
children with it.
"""

from __future__ import annotations

import json
import os
import selectors
import sys
import time
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

# A child that the agent may start imports this module anew: nothing happens but below.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

LONG_TURN_NS = 200_000
"""Turns below this are not kept: there are hundreds a second."""


class Times:
    """When each began [ns, monotonic], how long it took [µs], and the thread's own part [µs]."""

    def __init__(self) -> None:
        self._began_ns, self._took_us, self._cpu_us = array("q"), array("q"), array("q")
        self._what = array("H")
        self._names: dict[str, int] = {}

    def add(self, began_ns: int, took_ns: int, cpu_ns: int, name: str = "") -> None:
        """Keep one."""
        self._began_ns.append(began_ns)
        self._took_us.append(took_ns // 1000)
        self._cpu_us.append(cpu_ns // 1000)
        self._what.append(self._names.setdefault(name, len(self._names)))

    def told(self) -> dict[str, list[Any]]:
        """Return all of it as JSON has it; ``what`` points into ``names``."""
        return {
            "began_ns": self._began_ns.tolist(),
            "took_us": self._took_us.tolist(),
            "cpu_us": self._cpu_us.tolist(),
            "what": self._what.tolist(),
            "names": list(self._names),
        }


def time_steps(times: Times) -> None:
    """Put the timed step in the place of the lane's."""
    from agent.lane import step as module  # noqa: PLC0415 - after it has joined its control group

    step: Callable[..., Any] = module.step

    def timed_step(state: Any, event: Any, rules: Any) -> Any:
        cpu_ns, began_ns = time.thread_time_ns(), time.monotonic_ns()
        try:
            return step(state, event, rules)
        finally:
            took_ns = time.monotonic_ns() - began_ns
            cpu_ns = time.thread_time_ns() - cpu_ns
            told = getattr(event, "reading", event)
            times.add(began_ns, took_ns, cpu_ns, f"{rules.lane_id} {type(told).__name__}")

    module.step = timed_step


def time_turns(times: Times) -> None:
    """Put a selector that notes when it is asked in the place of the usual one."""

    class TimedSelector(selectors.DefaultSelector):
        _woke_ns = _woke_cpu_ns = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            now_ns = time.monotonic_ns()
            if self._woke_ns and now_ns - self._woke_ns >= LONG_TURN_NS:
                cpu_ns = time.thread_time_ns() - self._woke_cpu_ns
                times.add(self._woke_ns, now_ns - self._woke_ns, cpu_ns)
            ready = super().select(timeout)
            self._woke_cpu_ns, self._woke_ns = time.thread_time_ns(), time.monotonic_ns()
            return ready

    selectors.DefaultSelector = TimedSelector  # type: ignore[misc]  # what asyncio asks for


def main() -> int:
    figures, config, *procs = map(Path, sys.argv[1:])
    if procs:
        procs[0].write_text(str(os.getpid()), encoding="ascii")
    steps, turns = Times(), Times()
    time_steps(steps)
    time_turns(turns)
    from agent.cli import main as agent  # noqa: PLC0415 - after the step is replaced

    try:
        return agent(["run", "--config", str(config)])
    finally:
        told = {"steps": steps.told(), "turns": turns.told()}
        figures.write_text(json.dumps(told), encoding="ascii")


if __name__ == "__main__":
    sys.exit(main())
