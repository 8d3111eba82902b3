"""Fifty mixed instruments on one gateway for an hour: memory, lost passages, a silent device.

In process, with real links, drivers, Modbus lines and lanes, ports in memory and a clock that jumps
(``virtual_time``). Lane by lane the records are held against the truth of the traffic. One unit of
a shared serial line falls silent after a third of the time; how much of their bytes all others
still bring is told by the worst of them.

``--real-minutes N`` runs the agent as a process instead, with its store, a broker and a centre, for
so long on the wall clock.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

import rig
import soak_site
from report import Goal, finish, progress, table
from soak_site import SILENT, Site, Truth
from virtual_time import VirtualLoop, patched

from agent.clock import Clock
from agent.config import load_lane
from agent.daemon.link import Captured, Lines, make_link
from agent.lane.inline import step_answered as step
from agent.lane.options.rules import LaneRules
from agent.lane.state import LaneState
from agent.records import Alarm, LaneEvent, Passage, Record, Stamp, Stop, Tick
from simulators.clock import SceneClock

EPOCH_S = 1_900_000_000.0
MATCH_S = 3.0
"""A passage and a vehicle belong together when they begin no further apart."""
SETTLED_S, FULL_S = 600.0, 3600.0
SAMPLE_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What one passage said, from memory or from the wire alike."""

    at_s: float
    mass_kg: float | None
    metal: str | None
    kinds: frozenset[str]


@dataclass(slots=True, kw_only=True)
class Compared:
    """The truth of all lanes against what was said."""

    vehicles: int = 0
    lost: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def compare(lane: str, truths: Iterable[Truth], seen: list[Seen], compared: Compared) -> None:
    """Match vehicles and passages in order of time, and say what does not fit."""
    left = sorted(seen, key=lambda s: s.at_s)
    for truth in truths:
        compared.vehicles += 1
        found = next((s for s in left if abs(s.at_s - truth.at_s) <= MATCH_S), None)
        if found is None:
            compared.lost.append(f"{lane} {truth.at_s:.1f} s")
            continue
        left.remove(found)
        compared.wrong += [f"{lane} {truth.at_s:.1f} s: {text}" for text in _wrong(truth, found)]
    compared.extra += [f"{lane} {s.at_s:.1f} s" for s in left]


def _wrong(truth: Truth, seen: Seen) -> Iterable[str]:
    if truth.mass_kg is None or seen.mass_kg is None:
        if truth.mass_kg is not None or seen.mass_kg is not None:
            yield f"weighs {truth.mass_kg}, said {seen.mass_kg}"
    elif abs(truth.mass_kg - seen.mass_kg) > soak_site.E_KG:
        yield f"weighs {truth.mass_kg:g} kg, said {seen.mass_kg:g} kg"
    expected = {None: None, True: "alarm", False: "clear"}[truth.metal]
    if seen.metal != expected:
        yield f"metal {expected}, said {seen.metal}"
    if not truth.must <= seen.kinds:
        yield f"must alarm {sorted(truth.must)}, said {sorted(seen.kinds)}"


# ------------------------------------------------------------------ records of either way


class Records:
    """Passages and alarms of all lanes, kept on disk while the memory is measured."""

    def __init__(self, file: IO[str], began_s: float) -> None:
        self._file = file
        self._began_s = began_s

    def put(self, record: Record) -> None:
        """Keep what the comparison needs of one record."""
        if isinstance(record, Passage):
            data: dict[str, Any] = {
                "lane": record.lane,
                "passage_id": record.passage_id,
                "rev": record.rev,
                "started": record.started.utc_us / 1e6 - self._began_s,
                "scale": None if record.scale is None else {"mass_kg": record.scale.mass_kg},
                "metal": None if record.metal is None else {"result": record.metal.result},
                "alarm_ids": record.alarm_ids,
            }
        elif isinstance(record, Alarm):
            data = {
                "alarm_id": record.alarm_id,
                "kind": record.kind,
                "code": record.code,
                "device": record.device,
                "lane": record.lane,
                "phase": record.phase,
            }
        else:
            return
        self._file.write(json.dumps(data) + "\n")


def seen_in(lines: Iterable[dict[str, Any]]) -> tuple[dict[str, list[Seen]], Counter[str]]:
    """Return the newest form of each passage by lane, and the faults raised, by device and code."""
    passages: dict[str, dict[str, Any]] = {}
    kinds: dict[str, str] = {}
    faults: Counter[str] = Counter()
    for data in lines:
        if "passage_id" in data and "rev" in data and "started" in data:
            old = passages.get(data["passage_id"])
            if old is None or old["rev"] < data["rev"]:
                passages[data["passage_id"]] = data
        elif "alarm_id" in data:
            kinds[data["alarm_id"]] = data["kind"]
            if data["kind"] == "fault" and data["phase"] == "raised":
                faults[f"{data['lane']}/{data['device']} {data['code']}"] += 1
    seen = defaultdict(list)
    for data in passages.values():
        scale, metal = data["scale"], data["metal"]
        seen[data["lane"]].append(
            Seen(
                at_s=data["started"],
                mass_kg=None if scale is None else scale["mass_kg"],
                metal=None if metal is None else metal["result"],
                kinds=frozenset(kinds[a] for a in data["alarm_ids"] if a in kinds),
            )
        )
    return seen, faults


# ------------------------------------------------------------------ in memory, in virtual time


@dataclass(slots=True, kw_only=True)
class LaneRun:
    """One lane as the gateway has it."""

    rules: LaneRules
    state: LaneState = field(default_factory=LaneState)


@dataclass(slots=True, kw_only=True)
class Measured:
    """Memory at one moment of the hour."""

    blocks: int
    resident_mb: float


def measured() -> Measured:
    """Return how many blocks Python holds, and the resident memory [MB of 10⁶ bytes]."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Measured(blocks=sys.getallocatedblocks(), resident_mb=pages * 4096 / 1e6)


class Hour:
    """The gateway's inside for so long, without store and uplink."""

    def __init__(self, for_s: float, records: Records, *, contacts_period_s: float) -> None:
        self._for_s = for_s
        self._records = records
        self._contacts_period_s = contacts_period_s
        self._pieces: Counter[tuple[str, str]] = Counter()
        self.site = Site()
        self.settled: Measured | None = None
        self.ended: Measured | None = None
        self.least_share = 0.0
        self.slowest = ""

    async def run(self) -> None:
        """Let the time pass."""
        loop = asyncio.get_running_loop()
        clock = Clock(wall_s=lambda: EPOCH_S + loop.time(), monotonic_s=loop.time, boot="soak")
        scene = SceneClock()
        self.site = await soak_site.build(
            scene, self._for_s, contacts_period_s=self._contacts_period_s
        )
        lanes: dict[str, LaneRun] = {}
        tasks: list[asyncio.Task[Any]] = []
        lines = Lines(clock)
        with TemporaryDirectory() as folder:
            for lane_id, text in self.site.lanes.items():
                path = Path(folder) / f"{lane_id}.toml"
                path.write_text(text, encoding="utf-8")
                config = load_lane(path)
                lane = LaneRun(rules=config.rules(run="soak"))
                lanes[lane_id] = lane
                for device in config.devices:
                    link = make_link(
                        device,
                        clock=clock,
                        sink=partial(self._step, lane),
                        lines=lines,
                        tap=partial(self._count, (lane_id, device.name)),
                    )
                    tasks.append(asyncio.create_task(link.run()))
        tasks += [asyncio.create_task(self._tick(lane, clock)) for lane in lanes.values()]
        await self._watch()
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(outcome, asyncio.CancelledError):
                raise SystemExit(f"a task ended by itself: {outcome!r}")
        for lane in lanes.values():
            self._step(lane, Stop(stamp=clock.stamp()))
        await self.site.close()

    def _step(self, lane: LaneRun, event: LaneEvent) -> None:
        lane.state, records = step(lane.state, event, lane.rules)
        for record in records:
            self._records.put(record)

    def _count(self, key: tuple[str, str], _: Stamp, what: Captured) -> None:
        # A portal talks by its traffic, and tells nothing of how its neighbours fare.
        if not isinstance(what, str) and key[1] != "rpm":
            self._pieces[key] += 1

    async def _tick(self, lane: LaneRun, clock: Clock) -> None:
        while True:
            await clock.sleep(1.0)
            self._step(lane, Tick(stamp=clock.stamp()))

    async def _watch(self) -> None:
        """Measure, and silence one device after a third of the time."""
        third_s = self._for_s / 3
        settled_s = min(SETTLED_S, third_s)
        await asyncio.sleep(settled_s)
        self.settled = measured()
        before = await self._rates(third_s - settled_s + third_s / 4)
        self.site.silent.silent = True
        await asyncio.sleep(third_s / 4)  # until it is told as lost, and parked
        after = await self._rates(self._for_s - asyncio.get_running_loop().time())
        self.ended = measured()
        shares = {key: after[key] / rate for key, rate in before.items() if key != SILENT}
        worst = min(shares, key=lambda key: shares[key])
        self.slowest, self.least_share = "/".join(worst), shares[worst]

    async def _rates(self, for_s: float) -> dict[tuple[str, str], float]:
        """Return what each device brings meanwhile [pieces a second]."""
        begun = self._pieces.copy()
        step_s = max(for_s / 6, 1.0)
        left_s = for_s
        while left_s > 0:
            await asyncio.sleep(min(step_s, left_s))
            left_s -= step_s
            progress(f"minute {asyncio.get_running_loop().time() / 60:.0f}")
        return {key: (self._pieces[key] - begun[key]) / for_s for key in self._pieces}


def in_memory(for_s: float, *, contacts_period_s: float) -> dict[str, Any]:
    """Run the hour and return its figures."""
    cpu_s = time.process_time()
    with TemporaryDirectory() as folder, patched():
        path = Path(folder) / "records.jsonl"
        with path.open("w", encoding="ascii") as file:
            hour = Hour(for_s, Records(file, EPOCH_S), contacts_period_s=contacts_period_s)
            with asyncio.Runner(loop_factory=VirtualLoop) as runner:
                runner.run(hour.run())
        with path.open(encoding="ascii") as file:
            seen, faults = seen_in(map(json.loads, file))
    compared = Compared()
    for lane, truths in hour.site.truths.items():
        compare(lane, truths, seen[lane], compared)
    assert hour.settled is not None
    assert hour.ended is not None
    return {
        "minutes": for_s / 60,
        "devices": 50,
        **told(compared),
        "faults": dict(faults),
        "silent_said_lost": faults["/".join(SILENT) + " device_lost"],
        "blocks": [hour.settled.blocks, hour.ended.blocks],
        "blocks_growth": hour.ended.blocks / hour.settled.blocks - 1,
        "resident_mb": [round(hour.settled.resident_mb, 1), round(hour.ended.resident_mb, 1)],
        "slowest": hour.slowest,
        "slowest_share": round(hour.least_share, 3),
        "cpu_s": round(time.process_time() - cpu_s, 1),
    }


def told(compared: Compared) -> dict[str, Any]:
    """Return the comparison as figures, with the first few of what does not fit."""
    return {
        "vehicles": compared.vehicles,
        **{name: len(getattr(compared, name)) for name in ("lost", "extra", "wrong")},
        "first": (compared.lost + compared.extra + compared.wrong)[:8],
    }


# ------------------------------------------------------------------ the agent itself, in real time


def in_reality(minutes: float) -> dict[str, Any]:
    """Run the agent as a process between simulated instruments, a broker and a centre."""
    port = rig.free_port()
    with (
        rig.folder() as folder,
        rig.broker(folder, port),
        rig.Subscriber(folder, port) as centre,
    ):
        return asyncio.run(_reality(folder, port, centre, minutes * 60))


async def _reality(folder: Path, port: int, centre: rig.Subscriber, for_s: float) -> dict[str, Any]:
    scene = SceneClock()
    began_s = time.time()
    site = await soak_site.build(scene, for_s, contacts_period_s=0.1)
    resident: list[float] = []
    with rig.agent(folder, rig.write_config(folder, port, site.lanes)) as agent:
        cpu_s = 0.0
        while scene.now_s() < for_s:
            await asyncio.sleep(min(SAMPLE_S, for_s - scene.now_s() + 0.1))
            agent.has_died()
            resident.append(agent.memory_mb())
            cpu_s = agent.cpu_s()
            progress(f"{scene.now_s():.0f} s: {resident[-1]:.1f} MB, {cpu_s:.1f} s of processor")
        await asyncio.to_thread(agent.end)
        await asyncio.sleep(2.0)  # what was sent last is still on its way to the centre
    await site.close()
    records = [_from_wire(record, began_s) for _, record in centre.records()]
    seen, faults = seen_in(records)
    compared = Compared()
    for lane, truths in site.truths.items():
        compare(lane, truths, seen[lane], compared)
    third = len(resident) // 3
    return {
        "minutes": for_s / 60,
        "devices": 50,
        "records": len(records),
        **told(compared),
        "faults": dict(faults),
        "resident_mb": resident,
        "resident_after_a_third_mb": resident[third],
        "resident_growth_mb": round(resident[-1] - resident[third], 2),
        "cpu_percent_of_core": round(100 * cpu_s / for_s, 1),
    }


def _from_wire(record: dict[str, Any], began_s: float) -> dict[str, Any]:
    data: dict[str, Any] = record["data"]
    if "started" in data:
        data = {**data, "started": _utc_s(data["started"]) - began_s}
    return data


def _utc_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# ------------------------------------------------------------------ the whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="two minutes of it, nothing judged")
    parser.add_argument(
        "--minutes", type=float, default=FULL_S / 60, metavar="N", help="virtual (default: 60)"
    )
    parser.add_argument("--real-minutes", type=float, metavar="N", help="see above")
    arguments = parser.parse_args()
    is_quick: bool = arguments.quick
    if arguments.real_minutes is not None:
        figures = in_reality(arguments.real_minutes)
    elif is_quick:
        figures = in_memory(120.0, contacts_period_s=0.5)
    else:
        figures = in_memory(60.0 * arguments.minutes, contacts_period_s=0.1)
    wrong = figures["lost"] + figures["extra"] + figures["wrong"]
    goals = [Goal(name="vehicles lost, doubled or wrong", measured=wrong, limit=0, unit="")]
    if "blocks_growth" in figures:
        growth = 100 * figures["blocks_growth"]
        share = 100 * (1 - figures["slowest_share"])
        goals.append(Goal(name="blocks, end over minute 10", measured=growth, limit=2, unit="%"))
        goals.append(Goal(name="slowest beside the silent one", measured=share, limit=10, unit="%"))
    text = table(("figure", "value"), [[k, str(v)] for k, v in figures.items()])
    return finish("soak", text, figures, goals, is_quick=is_quick)


if __name__ == "__main__":
    sys.exit(main())
