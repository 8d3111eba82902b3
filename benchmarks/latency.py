"""Measures the way of an alarm: last byte of the alarming frame to message at a subscriber.

The agent runs as its own process, fed over TCP by a portal; the durable commit lies in between;
the broker is a real Mosquitto, the subscriber another process. The floor, measured in turns with
it in the same run, is what no agent can do without: one full-sync SQLite commit of the same bytes
on the same disk, and one QoS 1 publish of them. The second arm repeats the measurement while
10,000 stored records drain to the broker.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import rig
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from portal import BACKGROUND, LOUD, QUIET, Portal, line
from report import Goal, finish, progress, quantile, spread, table

MEDIAN_LIMIT_MS, P99_LIMIT_MS, FLOOR_RATIO_LIMIT = 20.0, 100.0, 5.0
LANE = "inbound-1"
LANE_FILE = """\
[lane]
join_gap_s = 0.0

[devices.rpm]
driver = "rpm.rapiscan"
port = "{port}"
"""
FLOOR_TOPIC = f"{rig.PREFIX}/fl/alarm/lane/{LANE}/gamma"  # as long as the alarm's
WAIT_S = (0.02, 0.05)
"""Between the lines of an occupancy and after its alarm, at random [s]."""
SEED = 2026


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How much is measured."""

    blocks: int
    alarms_a_block: int
    backlog: int
    alarms_in_backlog: int


FULL = Size(blocks=5, alarms_a_block=50, backlog=10_000, alarms_in_backlog=250)
QUICK = Size(blocks=1, alarms_a_block=8, backlog=300, alarms_in_backlog=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One alarm's way [s]: all of it, and its parts."""

    total_s: float
    read_s: float
    """Last byte sent to stamp given: the agent has read and is about to decide."""
    decided_s: float
    """Stamp given to record being written within the transaction."""
    delivered_s: float
    """From there through commit, publish and broker to the subscriber."""


class Floor:
    """The same bytes, committed and published by nothing but sqlite3 and paho."""

    def __init__(self, directory: Path, port: int) -> None:
        self._db = sqlite3.connect(directory / "state" / "floor.db", isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.execute("CREATE TABLE record (seq INTEGER PRIMARY KEY, topic TEXT, payload BLOB)")
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho's
        self._properties.ContentType = "application/cloudevents+json"
        is_up = threading.Event()
        self._client.on_connect = lambda *_: is_up.set()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not is_up.wait(rig.START_TIMEOUT_S):
            raise SystemExit("the broker did not accept the floor's publisher")

    def send(self, payload: bytes) -> int:
        """Commit and publish once; return when that began [ns]."""
        began_ns = rig.now_ns()
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute("INSERT INTO record VALUES (NULL, ?, ?)", (FLOOR_TOPIC, payload))
        self._db.execute("COMMIT")
        self._client.publish(FLOOR_TOPIC, payload, qos=1, properties=self._properties)
        return began_ns

    def close(self) -> None:
        """Disconnect and close."""
        self._client.disconnect()
        self._client.loop_stop()
        self._db.close()


def play(portal: Portal, count: int, rng: random.Random) -> Iterator[int]:
    """Play occupancies with an alarm each; yield when the alarming frame was sent [ns]."""
    for _ in range(count):
        yield portal.alarming_occupancy(rng.uniform(*WAIT_S))
        time.sleep(rng.uniform(*WAIT_S))
        portal.end_occupancy()


def live_alarms(centre: rig.Subscriber, run: str) -> list[tuple[rig.Arrival, dict[str, Any]]]:
    """Return the portal's own alarms as first said by this run of the agent."""
    found: list[tuple[rig.Arrival, dict[str, Any]]] = []
    for arrival, record in centre.records():
        data: Any = record["data"]
        is_ours = record["stream"] == "alarm" and run not in str(data["alarm_id"])
        if is_ours and (data["phase"], data["kind"]) == ("raised", "gamma"):
            found.append((arrival, data | {"time": record["time"], "rec": record["recorded"]}))
    return found


def match(sent_ns: list[int], alarms: list[tuple[rig.Arrival, dict[str, Any]]]) -> list[Way]:
    """Return the way of each frame: its alarm is the one stamped before the next frame went."""
    ways = []
    stamped = sorted(
        ((a["clock"]["mono_us"] * 1000, at, a) for at, a in alarms), key=lambda s: s[0]
    )
    for began_ns, until_ns in zip(sent_ns, [*sent_ns[1:], 1 << 63], strict=True):
        hits = [s for s in stamped if began_ns - 1000 <= s[0] < until_ns]
        if len(hits) != 1:
            continue
        stamp_ns, arrival, alarm = hits[0]
        decided = datetime.fromisoformat(alarm["rec"]) - datetime.fromisoformat(alarm["time"])
        decided_s = decided.total_seconds()
        total_s, read_s = (arrival.at_ns - began_ns) / 1e9, (stamp_ns - began_ns) / 1e9
        ways.append(
            Way(
                total_s=total_s,
                read_s=read_s,
                decided_s=decided_s,
                delivered_s=total_s - read_s - decided_s,
            )
        )
    return ways


def floor_arrivals(centre: rig.Subscriber) -> list[int]:
    """Return when each message of the floor has arrived [ns]."""
    return [arrival.at_ns for arrival in centre.refresh() if arrival.topic == FLOOR_TOPIC]


def without_backlog(size: Size, rng: random.Random) -> tuple[list[Way], list[float], int]:
    """Return the agent's ways, the floor's times [s] and how many frames were sent."""
    port = rig.free_port()
    with rig.folder() as folder, rig.broker(folder, port):
        portal = Portal()
        config = rig.write_config(folder, port, {LANE: LANE_FILE.format(port=portal.port)})
        with (
            rig.Subscriber(folder, port, FLOOR_TOPIC) as centre,
            rig.agent(folder, config) as agent,
        ):
            rig.wait_for(lambda: agent.says("uplink up"), "the agent to reach the broker")
            portal.accept()
            floor = Floor(folder, port)
            list(play(portal, 3, rng))  # warm
            rig.wait_for(lambda: len(events(centre)) >= 3, "the first alarms at the subscriber")
            payload = events(centre)[0][0].payload
            sent: list[int] = []
            floor_sent: list[int] = []
            for block in range(size.blocks):
                progress(f"no backlog, block {block + 1} of {size.blocks}")
                sent += play(portal, size.alarms_a_block, rng)
                for _ in range(size.alarms_a_block):
                    time.sleep(rng.uniform(*WAIT_S) + rng.uniform(*WAIT_S))
                    floor_sent.append(floor.send(payload))
            expected = len(sent) + 3
            rig.wait_for(lambda: len(events(centre)) >= expected, "the last alarm")
            rig.wait_for(
                lambda: len(floor_arrivals(centre)) >= len(floor_sent), "the floor's last message"
            )
            floor.close()
            portal.close()
            arrived = floor_arrivals(centre)
            if len(arrived) != len(floor_sent):
                raise SystemExit(f"{len(floor_sent)} floor messages sent, {len(arrived)} came")
            floors = [(b - a) / 1e9 for a, b in zip(floor_sent, arrived, strict=True)]
            return match(sent, events(centre)), floors, len(sent)


def events(centre: rig.Subscriber) -> list[tuple[rig.Arrival, dict[str, Any]]]:
    """Return the alarms of the portal that have arrived, the stored ones apart."""
    return live_alarms(centre, STORED_RUN)


STORED_RUN = "storedrun"


def fill(directory: Path, count: int) -> None:
    """Put so many records into the journal, as occupancies with an alarm leave them."""
    from agent.clock import Clock  # noqa: PLC0415 - the floor's process shall not carry the agent
    from agent.delivery.store.journal import Store  # noqa: PLC0415
    from agent.delivery.wire import Encoder, Identity  # noqa: PLC0415
    from agent.settings import JournalOptions  # noqa: PLC0415

    identity = Identity(root="checkpoint", site=rig.SITE, gw=rig.GATEWAY)
    encoder = Encoder(identity=identity, mode="test", configrev="0" * 64, software="benchmark")
    store = Store(
        JournalOptions(path=str(directory / "state" / "journal.db")), Clock(boot="stored"), encoder
    )
    store.open()
    records = stored_records(count)
    for first in range(0, count, 256):
        batch = records[first : first + 256]
        store.run([partial(store.append, record) for record in batch])
    store.close()


def stored_records(count: int) -> list[Any]:
    """Return what the lane says of simulated occupancies: alarm, its end, passage, and so on."""
    from agent.lane.inline import step_answered as step  # noqa: PLC0415
    from agent.lane.options.lane import LaneOptions  # noqa: PLC0415
    from agent.lane.options.portals import RpmOptions  # noqa: PLC0415
    from agent.lane.options.rules import LaneRules  # noqa: PLC0415
    from agent.lane.state import LaneState  # noqa: PLC0415
    from agent.records import Stamp, Timed  # noqa: PLC0415
    from drivers.rpm.rapiscan import Driver, Options  # noqa: PLC0415

    rules = LaneRules(
        lane_id=LANE,
        run=STORED_RUN,
        lane=LaneOptions(join_gap_s=0.0),
        portals={"rpm": RpmOptions()},
        scales={},
        metals={},
    )
    state, driver, records, second = LaneState(), Driver(Options()), list[Any](), 0
    while len(records) < count:
        second += 60
        said = line("GB", BACKGROUND) + line("GS", QUIET) * 6 + line("GA", LOUD)
        for bytes_, later_s in ((said, 0), (line("GX", (1, 0, 0, 0)), 2), (line("GB", QUIET), 5)):
            at_us = (second + later_s) * 1_000_000
            stamp = Stamp(utc_us=1_790_000_000_000_000 + at_us, mono_us=at_us, boot="stored")
            for reading in driver.feed(bytes_):
                state, new = step(state, Timed(stamp=stamp, device="rpm", reading=reading), rules)
                records += new
    return records[:count]


def while_draining(size: Size, rng: random.Random) -> tuple[list[Way], int, int, float]:
    """Return the ways of alarms sent while the backlog drained, how many were sent and matched."""
    port = rig.free_port()
    with rig.folder() as folder, rig.broker(folder, port):
        portal = Portal()
        config = rig.write_config(folder, port, {LANE: LANE_FILE.format(port=portal.port)})
        progress(f"storing {size.backlog} records")
        fill(folder, size.backlog)
        with rig.Subscriber(folder, port) as centre, rig.agent(folder, config):
            portal.accept()
            rig.wait_for(lambda: bool(centre.refresh()), "the first stored record")
            progress("alarms while the backlog drains")
            sent = list(play(portal, size.alarms_in_backlog, rng))
            rig.wait_for(lambda: len(stored(centre)) >= size.backlog, "the last stored record", 120)
            rig.wait_for(lambda: len(events(centre)) >= len(sent), "the last alarm", 30)
            portal.close()
            drained = stored(centre)
            over_ns = max(a.at_ns for a in drained)
            drain_s = (over_ns - min(a.at_ns for a in drained)) / 1e9
            within = [ns for ns in sent if ns < over_ns]
            ways = match(sent, events(centre))
            return ways[: len(within)], len(sent), len(ways), drain_s


def stored(centre: rig.Subscriber) -> list[rig.Arrival]:
    """Return the records of the backlog that have arrived."""
    mark = STORED_RUN.encode()
    return [arrival for arrival in centre.refresh() if mark in arrival.payload]


def rows_of(name: str, ways: list[Way]) -> list[list[object]]:
    """Return the table's rows of one arm."""
    parts = {
        name: [w.total_s for w in ways],
        "  read and stamped": [w.read_s for w in ways],
        "  decided": [w.decided_s for w in ways],
        "  committed, published, arrived": [w.delivered_s for w in ways],
    }
    return [[part, *spread(times).values()] for part, times in parts.items()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a few alarms only, nothing judged")
    is_quick: bool = parser.parse_args().quick
    size = QUICK if is_quick else FULL
    rng = random.Random(SEED)  # noqa: S311 - pauses, no secrets
    plain, floor, plain_sent = without_backlog(size, rng)
    busy, busy_sent, busy_matched, drain_s = while_draining(size, rng)
    if len(plain) != plain_sent or busy_matched != busy_sent:
        lost = plain_sent - len(plain) + busy_sent - busy_matched
        raise SystemExit(f"{lost} alarms did not arrive, or not once each")
    rows: list[list[object]] = [["floor: commit and publish", *spread(floor).values()]]
    rows += rows_of("agent", plain) + rows_of("agent, backlog draining", busy)
    arms = {"agent": [w.total_s for w in plain], "backlog": [w.total_s for w in busy]}
    ratio = quantile(arms["agent"], 0.5) / quantile(floor, 0.5)
    goals = [
        goal
        for name, times in arms.items()
        for goal in (
            Goal(
                name=f"{name} median",
                measured=spread(times)["p50"],
                limit=MEDIAN_LIMIT_MS,
                unit="ms",
            ),
            Goal(name=f"{name} p99", measured=spread(times)["p99"], limit=P99_LIMIT_MS, unit="ms"),
        )
    ]
    goals.append(
        Goal(
            name="agent median / floor median",
            measured=round(ratio, 3),
            limit=FLOOR_RATIO_LIMIT,
            unit="",
        )
    )
    figures: dict[str, object] = {
        "alarms_sent": plain_sent + busy_sent,
        "alarms_arrived": len(plain) + busy_matched,
        "floor_ms": spread(floor),
        **{f"{name}_ms": spread(times) for name, times in arms.items()},
        "ratio_to_floor": round(ratio, 3),
        "backlog_records": size.backlog,
        "backlog_drained_s": round(drain_s, 2),
        "seed": SEED,
    }
    text = table(("times in ms", "n", "p50", "p95", "p99", "max"), rows)
    return finish("latency", text, figures, goals, is_quick=is_quick)


if __name__ == "__main__":
    sys.exit(main())
