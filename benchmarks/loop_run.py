"""One run of ``loop.py``: the agent between simulated lanes, a broker and a centre."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

import processes
import rig
from loop_truth import Judged, judge
from processes import Limit
from report import progress

READY_TIMEOUT_S = 180.0
LATE_S = 60.0
"""What was said last has so long to arrive."""
QUIET_S = 3.0
"""Nothing more is on its way, be it a passage's later form, when nothing has come for so long."""
SAMPLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much stands there; vehicles arrive from ``first_s`` to ``last_s`` of the traffic [s]."""

    spectral: int
    panels: int
    counting: int
    first_s: float
    last_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One step or turn [s]: when it began, how long it took, the loop's own processor time."""

    began_ns: int
    took_s: float
    cpu_s: float
    what: str


@dataclass(slots=True, kw_only=True)
class Used:
    """What was used between two moments, of processors [s] and memory [MB]."""

    wall_s: float
    agent_cpu_s: float
    site_cpu_s: float
    others_cpu_s: float
    """By whatever else the machine did meanwhile."""
    stolen_s: float
    pss_mb: list[float] = field(default_factory=list)
    processes: int = 0

    def percent(self, cpu_s: float) -> float:
        """Return processor time as a share of one core."""
        return round(100 * cpu_s / self.wall_s, 1)


@dataclass(slots=True, kw_only=True)
class Half:
    """One run."""

    ready_s: float
    """From the start of the agent until every lane knows what to look for."""
    steps: list[Timing]
    turns: list[Timing]
    judged: Judged
    used: Used
    bare: dict[str, dict[str, float]]
    """How late the bare process woke, and how long its commits took, as `report.spread` says it."""
    throttled: tuple[int, float] | None
    """In how many periods it was stopped, and for how long in all [s]; None: no limit."""


# ------------------------------------------------------------------ processes


class Asked(rig.Child):
    """A process that answers each line with one of JSON, after a first one of its own accord."""

    def __init__(self, name: str, command: Sequence[str], output: Path) -> None:
        super().__init__(name, [sys.executable, *command], output)
        self._answers = 0

    def answer(self) -> dict[str, Any]:
        """Return the next line that it says."""
        self._answers += 1
        rig.wait_for(
            lambda: self.said().count("\n") >= self._answers or self.has_died(), self.name, LATE_S
        )
        answer: dict[str, Any] = json.loads(self.said().splitlines()[self._answers - 1])
        return answer

    def ask(self, order: str) -> dict[str, Any]:
        """Return the answer to an order."""
        self.send(order)
        return self.answer()


def started(folder: Path, config: Path, limit: Limit | None) -> rig.Child:
    """Start the agent with the timing around it; one thread of arithmetic, as in the service."""
    command = [
        "env",
        "OPENBLAS_NUM_THREADS=1",
        sys.executable,
        str(rig.HERE / "timed_agent.py"),
        str(folder / "times.json"),
        str(config),
    ]
    if limit is not None:
        command.append(str(limit.procs))
    return rig.Child("checkpointd", command, folder / "agent.out")


# ------------------------------------------------------------------ one run


def measured(size: Size, limit: Limit | None) -> Half:
    """Run everything once and return what was found."""
    port = rig.free_port()
    arguments = astuple(size)
    script = str(rig.HERE / "loop_site.py")
    with (
        rig.folder() as folder,
        rig.broker(folder, port) as broker,
        rig.Subscriber(folder, port) as centre,
        Asked("lanes", [script, *map(str, arguments)], folder / "site.out") as site,
    ):
        config = rig.write_config(folder, port, site.answer()["files"])
        bare = [str(rig.HERE / "pace.py"), str(folder / "bare.db")]
        with started(folder, config, limit) as agent:
            devices = size.spectral * (1 + size.panels) + size.counting
            wait_until_ready(agent, size, devices)
            ready_s = (rig.now_ns() - agent.started_ns) / 1e9
            progress(f"all lanes ready after {ready_s:.1f} s")
            before = (0, 0.0) if limit is None else limit.throttled()
            with Asked("bare process", bare, folder / "pace.out") as pacer:
                began_ns, begun = rig.now_ns(), site.ask("begin")
                ours = [broker, centre.child, pacer]
                used = use_while(begun["lasts_s"], agent, site, ours)
                paced = pacer.ask("tell")
            throttled = None if limit is None else limit.throttled()
            wait_for_passages(centre, begun["vehicles"])
            over_ns, told = rig.now_ns(), site.ask("tell")["lanes"]
        with contextlib.suppress(SystemExit):  # then it is missing below
            rig.wait_for(lambda: has_stopped(centre), "the agent's last record")
        steps, turns = times(folder / "times.json", began_ns, over_ns)
        return Half(
            ready_s=ready_s,
            steps=steps,
            turns=turns,
            judged=judge(told, centre.records()),
            used=used,
            bare=paced,
            throttled=throttled and (throttled[0] - before[0], throttled[1] - before[1]),
        )


def wait_until_ready(agent: rig.Child, size: Size, devices: int) -> None:
    """Wait until every device is up, and every lane knows what to look for."""

    def is_ready() -> bool:
        agent.has_died()
        said = agent.said()
        is_up = "uplink up" in said and said.count("link=up") >= devices
        return is_up and said.count("spectral=ready") >= size.spectral

    progress("waiting for the lanes to be ready")
    rig.wait_for(is_ready, "devices, broker and libraries", READY_TIMEOUT_S)


def wait_for_passages(centre: rig.Subscriber, vehicles: int) -> None:
    """Wait until so many passages and their later forms are there, but not for ever."""

    def have_come() -> bool:
        records = centre.records()
        passages = {
            record["data"]["passage_id"]  # type: ignore[index]  # JSON
            for _, record in records
            if record["stream"] == "pass"
        }
        last_ns = max((arrival.at_ns for arrival, _ in records), default=0)
        return len(passages) >= vehicles and rig.now_ns() - last_ns > QUIET_S * 1e9

    with contextlib.suppress(SystemExit):  # what is missing is told
        rig.wait_for(have_come, "the last passage", LATE_S)


def has_stopped(centre: rig.Subscriber) -> bool:
    """Tell whether the agent's last word has come."""
    records = (record for _, record in centre.records() if record["stream"] == "audit")
    return any(record["data"]["kind"] == "stop" for record in records)  # type: ignore[index]  # JSON


def use_while(for_s: float, agent: rig.Child, site: rig.Child, others: list[rig.Child]) -> Used:
    """Wait so long and return what was used meanwhile."""

    def now() -> tuple[float, float, float, float, float]:
        ours_s = sum(map(rig.Child.cpu_s, others)) + time.process_time()
        return (
            processes.cpu_s(processes.tree(agent.pid)),
            site.cpu_s(),
            ours_s,
            *processes.machine_cpu_s(),
        )

    began_s, before = time.monotonic(), now()
    pss_mb: list[float] = []
    most = 0
    while (left_s := began_s + for_s - time.monotonic()) > 0:
        time.sleep(min(left_s, SAMPLE_S))
        agent.has_died()
        pids = processes.tree(agent.pid)
        most = max(most, len(pids))
        pss_mb.append(processes.pss_mb(pids))
        progress(f"{time.monotonic() - began_s:.0f} of {for_s:.0f} s, {pss_mb[-1]:.1f} MB")
    agent_s, site_s, ours_s, busy_s, stolen_s = (b - a for a, b in zip(before, now(), strict=True))
    return Used(
        wall_s=time.monotonic() - began_s,
        agent_cpu_s=agent_s,
        site_cpu_s=site_s,
        others_cpu_s=max(busy_s - agent_s - site_s - ours_s, 0.0),
        stolen_s=stolen_s,
        pss_mb=pss_mb,
        processes=most,
    )


def times(path: Path, began_ns: int, over_ns: int) -> tuple[list[Timing], list[Timing]]:
    """Return the steps and the longer turns that began between two moments."""
    told = json.loads(path.read_text(encoding="ascii"))

    def within(of: dict[str, Any]) -> Iterator[Timing]:
        rows = zip(of["began_ns"], of["took_us"], of["cpu_us"], of["what"], strict=True)
        for at_ns, took_us, cpu_us, what in rows:
            if began_ns <= at_ns < over_ns:
                yield Timing(
                    began_ns=at_ns,
                    took_s=took_us / 1e6,
                    cpu_s=cpu_us / 1e6,
                    what=of["names"][what],
                )

    return list(within(told["steps"])), list(within(told["turns"]))
