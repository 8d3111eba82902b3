"""Polls 10 and 50 Modbus devices at 10 Hz, beside a bare loop of pymodbus and paho.

Each device is a dry-contact module with one alarm counter, in a lane of its own; a process with
hand-written Modbus TCP servers changes each counter about twice a second, at seeded moments that
are the same for both arms. The arms take turns: agent, bare, bare, agent. Both make the same one
request for the same two registers each 0.1 s.

What differs: the agent makes of each change an alarm, committed to disk before it is published,
and then its end and a passage, three records in all, and shows the state of every lane and device;
the bare loop publishes one small message and keeps nothing.

Before the changes begin, both poll for a while and nothing moves: what that costs is "still".

The time of a change is when the counter moved; the wait for the next poll (0.05 s on the mean) is
part of the latency. "After the poll" begins when the request that saw the change came in.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rig
from report import Goal, finish, progress, quantile, spread, table

MEDIAN_LIMIT, P99_LIMIT, CPU_LIMIT = 1.1, 1.2, 4.0
"""The agent's over the bare loop's."""
LEFT_OUT_LIMIT_PERCENT = 0.5
"""So many of the polls that were due may be left out."""
JUDGED_TO_PERCENT = 15.0
"""Where the bare loop itself needs more of a core, the machine is too small for so many devices."""
PERIOD_S = 0.1
GAP_S = (0.25, 0.65)
"""Between two changes of one device, at random [s]; wider than a poll, so each is its own alarm."""
SEED = 2026
WARM_S, STILL_S, SETTLE_S = 2.0, 5.0, 2.0
COUNTER_AT = 16
LANE_FILE = """\
[devices.metal]
driver = "metal.dry_contact"
port = "tcp://127.0.0.1:{port}"
preset = "custom"
alarm = {{ counter = 16 }}
counters_period_s = 0.1
max_gap_s = 0.5
alarm_joins_s = 0.05
"""


@dataclass(slots=True, kw_only=True)
class Arm:
    """What one arm gave over its turns."""

    latency_s: list[float] = field(default_factory=list)
    after_poll_s: list[float] = field(default_factory=list)
    changes: int = 0
    joined: int = 0
    """Changes that shared a poll with the one before: one message told both."""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    still_cpu_s: float = 0.0
    """Processor time while polls changed nothing, and how long that was."""
    still_wall_s: float = 0.0
    polls: int = 0
    memory_mb: float = 0.0


@dataclass(slots=True, kw_only=True)
class Device:
    """One device's counter: when it moves, and when a request first saw that it had."""

    moves_ns: list[int] = field(default_factory=list)
    seen_ns: list[int] = field(default_factory=list)
    polls: int = 0


# ------------------------------------------------------------------ the servers' own process


async def serve(count: int) -> None:
    """Serve so many devices; standard input says when the changes begin and when all is over."""
    from simulators.modbus_server import ModbusTcpServer, ModbusUnit  # noqa: PLC0415 - here only

    devices = [Device() for _ in range(count)]
    servers = []
    ports = []
    for device in devices:
        unit = ModbusUnit(input={COUNTER_AT: 0, COUNTER_AT + 1: 0})

        def look(device: Device = device, unit: ModbusUnit = unit) -> None:
            now_ns = time.monotonic_ns()
            device.polls += 1
            seen = len(device.seen_ns)
            while seen < len(device.moves_ns) and device.moves_ns[seen] <= now_ns:
                device.seen_ns.append(now_ns)
                seen += 1
            unit.input[COUNTER_AT + 1] = seen

        unit.before_request = look
        servers.append(ModbusTcpServer([unit]))
        ports.append(await servers[-1].start())
    print(json.dumps({"ports": ports}), flush=True)
    loop = asyncio.get_running_loop()
    while text := await loop.run_in_executor(None, sys.stdin.readline):
        order: dict[str, Any] = json.loads(text)
        if "seed" in order:
            _plan(devices, order["seed"], order["begin_ns"], order["for_s"])
        said = [[d.polls, d.moves_ns, d.seen_ns] for d in devices] if "tell" in order else None
        print(json.dumps({"polls": sum(d.polls for d in devices), "devices": said}), flush=True)


def _plan(devices: Sequence[Device], seed: int, begin_ns: int, for_s: float) -> None:
    for number, device in enumerate(devices):
        rng = random.Random(seed * 1000 + number)  # noqa: S311 - moments, no secrets
        at_s = rng.uniform(*GAP_S)
        while at_s < for_s:
            device.moves_ns.append(begin_ns + round(at_s * 1e9))
            at_s += rng.uniform(*GAP_S)


class Servers(rig.Child):
    """The process that serves the devices."""

    def __init__(self, directory: Path, count: int) -> None:
        script = str(Path(__file__).resolve())
        output = directory / "servers.out"
        super().__init__("servers", [sys.executable, script, "--serve", str(count)], output)
        self._answers = 0
        self.ports: list[int] = self._answer()["ports"]

    def ask(self, **order: object) -> dict[str, Any]:
        """Send an order and return what is answered."""
        self.send(json.dumps(order))
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        self._answers += 1
        rig.wait_for(
            lambda: self.said().count("\n") >= self._answers or self.has_died(), "the servers"
        )
        answer: dict[str, Any] = json.loads(self.said().splitlines()[self._answers - 1])
        return answer


# ------------------------------------------------------------------ one turn of one arm


def turn(arm: Arm, *, is_agent: bool, count: int, seed: int, for_s: float) -> None:
    """Let one arm poll for so long and add what it gave."""
    port = rig.free_port()
    with (
        rig.folder() as folder,
        rig.broker(folder, port),
        rig.Subscriber(folder, port, "bare/#") as centre,
    ):
        servers = Servers(folder, count)
        with servers, _start(folder, port, servers.ports, is_agent=is_agent) as poller:
            rig.wait_for(lambda: servers.ask()["polls"] >= 10 * count, "the devices to be polled")
            if is_agent:
                rig.wait_for(lambda: poller.says("uplink up"), "the agent to reach the broker")
            time.sleep(min(WARM_S, for_s / 4))
            _poll_still(arm, poller, min(STILL_S, for_s / 4))
            begin_ns, cpu_s = rig.now_ns(), poller.cpu_s()
            polls = servers.ask(seed=seed, begin_ns=begin_ns, for_s=for_s)["polls"]
            time.sleep(for_s)
            arm.cpu_s += poller.cpu_s() - cpu_s
            arm.wall_s += (rig.now_ns() - begin_ns) / 1e9
            arm.polls += servers.ask()["polls"] - polls
            arm.memory_mb = max(arm.memory_mb, poller.memory_mb())
            time.sleep(min(SETTLE_S, for_s / 2))  # what was seen last is still on its way
            told = servers.ask(tell=True)
        devices = [
            Device(polls=polls, moves_ns=moves, seen_ns=seen)
            for polls, moves, seen in told["devices"]
        ]
        arrivals = _alarms(centre, devices) if is_agent else _changes(centre, count)
        for device, came in zip(devices, arrivals, strict=True):
            _add(arm, device, came)


def _poll_still(arm: Arm, poller: rig.Child, for_s: float) -> None:
    begin_ns, cpu_s = rig.now_ns(), poller.cpu_s()
    time.sleep(for_s)
    arm.still_cpu_s += poller.cpu_s() - cpu_s
    arm.still_wall_s += (rig.now_ns() - begin_ns) / 1e9


def _start(folder: Path, port: int, ports: list[int], *, is_agent: bool) -> rig.Child:
    if is_agent:
        lanes = {f"lane-{i}": LANE_FILE.format(port=each) for i, each in enumerate(ports)}
        return rig.agent(folder, rig.write_config(folder, port, lanes))
    script = str(rig.HERE / "bare_polling.py")
    command = [sys.executable, script, str(port), str(PERIOD_S), *map(str, ports)]
    return rig.Child("bare loop", command, folder / "bare.out")


def _alarms(centre: rig.Subscriber, devices: list[Device]) -> list[dict[int, int]]:
    """Return for each device: number of the newest change an alarm tells → its arrival [ns]."""
    came: list[dict[int, int]] = [{} for _ in devices]
    for arrival, record in centre.records():
        data: Any = record["data"]
        if record["stream"] != "alarm" or (data["kind"], data["phase"]) != ("metal", "raised"):
            continue
        number = int(data["lane"].removeprefix("lane-"))
        read_ns = data["clock"]["mono_us"] * 1000 + 1000
        told = sum(seen_ns <= read_ns for seen_ns in devices[number].seen_ns)
        if told in came[number]:
            raise SystemExit(f"lane-{number}: two alarms for change {told}")
        came[number][told] = arrival.at_ns
    return came


def _changes(centre: rig.Subscriber, count: int) -> list[dict[int, int]]:
    came: list[dict[int, int]] = [{} for _ in range(count)]
    for arrival in centre.refresh():
        if arrival.topic.startswith("bare/"):
            number = int(arrival.topic.rsplit("-", 1)[1])
            came[number][json.loads(arrival.payload)["counter"]] = arrival.at_ns
    return came


def _add(arm: Arm, device: Device, came: dict[int, int]) -> None:
    """Give each change the arrival of the message that tells it or a later one of its poll."""
    arm.changes += len(device.moves_ns)
    for index, moved_ns in enumerate(device.moves_ns):
        if index >= len(device.seen_ns):
            continue
        seen_ns = device.seen_ns[index]
        told = sum(other <= seen_ns for other in device.seen_ns)
        arm.joined += told != index + 1
        if told in came:
            arm.latency_s.append((came[told] - moved_ns) / 1e9)
            arm.after_poll_s.append((came[told] - seen_ns) / 1e9)


# ------------------------------------------------------------------ the whole


def compare(count: int, for_s: float, order: str) -> dict[str, Arm]:
    """Return both arms after their turns, each pair of turns with its own seed."""
    arms = {"agent": Arm(), "bare": Arm()}
    turns = {"agent": 0, "bare": 0}
    for name in order.split():
        progress(f"{count} devices: {name} for {for_s:.0f} s")
        turns[name] += 1
        is_agent = name == "agent"
        turn(arms[name], is_agent=is_agent, count=count, seed=SEED + turns[name], for_s=for_s)
    for name, arm in arms.items():
        if len(arm.latency_s) != arm.changes:
            lost = arm.changes - len(arm.latency_s)
            raise SystemExit(
                f"{count} devices: {lost} of {arm.changes} changes never came ({name})"
            )
    return arms


def rows_of(count: int, name: str, arm: Arm) -> list[object]:
    """Return one row of the table."""
    whole, after = spread(arm.latency_s), spread(arm.after_poll_s)
    times = [whole["n"], whole["p50"], whole["p95"], whole["p99"], after["p50"], after["p99"]]
    cpu, still = 100 * arm.cpu_s / arm.wall_s, 100 * arm.still_cpu_s / arm.still_wall_s
    rest = [arm.memory_mb, arm.polls / arm.wall_s, arm.joined]
    return [f"{count} {name}", *times, cpu, still, *rest]


def ratios(agent: Arm, bare: Arm) -> dict[str, float]:
    """Return the agent's figures over the bare loop's."""
    found = {
        f"latency_{name}": quantile(agent.latency_s, part) / quantile(bare.latency_s, part)
        for name, part in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    }
    found["cpu"] = (agent.cpu_s / agent.wall_s) / (bare.cpu_s / bare.wall_s)
    found["cpu_still"] = (agent.still_cpu_s / agent.still_wall_s) / (
        bare.still_cpu_s / bare.still_wall_s
    )
    found["memory"] = agent.memory_mb / bare.memory_mb
    return {name: round(value, 3) for name, value in found.items()}


def left_out_percent(count: int, arm: Arm) -> float:
    """Return how many of the polls that were due were not made [%]."""
    return max(0.0, 100 * (1 - arm.polls / (arm.wall_s * count / PERIOD_S)))


def goals_of(count: int, arms: dict[str, Arm], over: dict[str, float]) -> list[Goal]:
    """Return what is judged of so many devices; nothing where the bare loop is short of a core."""
    bare = arms["bare"]
    if 100 * bare.cpu_s / bare.wall_s > JUDGED_TO_PERCENT:
        progress(f"{count} devices: the bare loop needs over {JUDGED_TO_PERCENT:g} %, not judged")
        return []
    wanted = (
        ("median latency, agent / bare", over["latency_p50"], MEDIAN_LIMIT, ""),
        ("p99 latency, agent / bare", over["latency_p99"], P99_LIMIT, ""),
        ("processor time, agent / bare", over["cpu"], CPU_LIMIT, ""),
        ("polls left out", left_out_percent(count, arms["agent"]), LEFT_OUT_LIMIT_PERCENT, "%"),
    )
    return [
        Goal(name=f"{count} devices: {name}", measured=round(value, 3), limit=limit, unit=unit)
        for name, value, limit, unit in wanted
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="2 devices for 1 s, nothing judged")
    parser.add_argument(
        "--devices", type=int, choices=(10, 50), help="only this number (default: both)"
    )
    parser.add_argument("--serve", type=int, metavar="N", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        asyncio.run(serve(arguments.serve))
        return 0
    is_quick: bool = arguments.quick
    # 2.2 changes a second and device: more than 4,000 an arm.
    plan: tuple[tuple[int, float, str], ...]
    plan = ((2, 1.0, "agent bare"),) if is_quick else ((10, 95.0, FOUR), (50, 22.0, FOUR))
    if arguments.devices is not None:
        plan = tuple(part for part in plan if part[0] == arguments.devices)
    rows: list[list[object]] = []
    goals: list[Goal] = []
    figures: dict[str, object] = {"seed": SEED, "period_s": PERIOD_S}
    for count, for_s, order in plan:
        arms = compare(count, for_s, order)
        over = ratios(arms["agent"], arms["bare"])
        rows += [rows_of(count, name, arm) for name, arm in arms.items()]
        figures[f"devices_{count}"] = {
            "ratio": over,
            **{
                name: {
                    "changes": arm.changes,
                    "arrived": len(arm.latency_s),
                    "latency_ms": spread(arm.latency_s),
                    "after_poll_ms": spread(arm.after_poll_s),
                    "cpu_percent_of_core": round(100 * arm.cpu_s / arm.wall_s, 2),
                    "cpu_still_percent_of_core": round(100 * arm.still_cpu_s / arm.still_wall_s, 2),
                    "polls_left_out_percent": round(left_out_percent(count, arm), 3),
                    "memory_mb": round(arm.memory_mb, 1),
                }
                for name, arm in arms.items()
            },
        }
        goals += goals_of(count, arms, over)
        rows.append([f"{count} agent / bare", None, *(over[f"latency_{p}"] for p in QUANTILES)])
        rows[-1] += [None, None, over["cpu"], over["cpu_still"], over["memory"], None, None]
    text = table(HEAD, rows)
    return finish("polling", text, figures, goals, is_quick=is_quick)


FOUR = "agent bare bare agent"
QUANTILES = ("p50", "p95", "p99")
HEAD = (
    "devices",
    "changes",
    "p50 [ms]",
    "p95",
    "p99",
    "after poll p50",
    "p99",
    "CPU [%]",
    "still",
    "memory [MB]",
    "polls/s",
    "joined",
)


if __name__ == "__main__":
    sys.exit(main())
