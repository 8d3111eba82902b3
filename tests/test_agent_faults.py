"""The whole agent among devices that misbehave, lines that are pulled, clocks that jump, kills."""

from __future__ import annotations

import asyncio
import random
import signal
import tempfile
import time
from pathlib import Path

import pytest
from agent_process import (
    LANE,
    PREFIX,
    AgentProcess,
    LinePortal,
    alarms,
    audits,
    full_lane,
    newest_passages,
    rpm_lane,
    running_agent,
    store_of,
    stored_records,
    until,
    write_config,
)
from mosquitto import running_mosquitto

from agent.clock import Clock
from simulators.centre import Centre
from simulators.clock import SceneClock
from simulators.lane import LaneSimulator
from simulators.mischief import SerialProxy, TcpProxy
from simulators.ports import PtyPort
from simulators.rpm import Portal
from simulators.rpm_server import PortalServer
from simulators.scene import Scene

pytestmark = pytest.mark.broker

SCALE = 8.0
SILENCE_S = (20.0, 8.0, 8.0)
DEVICES = ("rpm", "scale", "metal")
# Vehicles of the same kind every so often; the wire is soiled at the moments a test chooses.
TRAFFIC = """
title = "clean vehicles, each weighed, each driver through the metal detector"
seed = 3
"""
TRAFFIC += "".join(
    f'[[vehicle]]\nid = "v-{n}"\nat_s = {12.0 + 12.0 * n}\nlength_m = 8.0\n'
    f"mass_kg = {12_000 + 2_000 * n}\nperson.walks_at_s = 1.5\n"
    for n in range(30)
)


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as running:
        yield running


@pytest.fixture
def centre(broker):
    with Centre("127.0.0.1", broker.port) as running:
        assert running.wait_for(lambda: running.is_connected)
        yield running


# Only the scale has a checksum, so only there may a digit's bit flip: nobody can tell a flipped
# digit of the portal's lines (TCP checks for them).
DIRT = (
    {"both": {"garbage_rate": 0.5, "split_to": 9}},
    {"both": {"drop_rate": 0.02}},
    {"both": {"double_rate": 0.02, "merge_to": 200}, "scale": {"flip_rate": 0.02}},
)


class SoiledLane:
    """A played lane with proxies before portal and scale, and what the centre sees of it."""

    def __init__(self, folder, broker, centre, *, seed: int) -> None:
        self.lane = LaneSimulator(Scene.from_text(TRAFFIC), time_scale=SCALE)
        self.unit = self.lane._metal.unit
        self.centre = centre
        self._folder = folder
        self._broker = broker
        self._seed = seed

    async def start(self):
        """Plug everything together and return the configuration's directory."""
        ports = await self.lane.start()
        portal_port = int(ports.portal.rpartition(":")[2])
        self.portal = TcpProxy("127.0.0.1", portal_port, seed=self._seed)
        # A port is a name under /dev, as /dev/serial/by-id/… is.
        self._by_id = tempfile.TemporaryDirectory(dir="/dev/shm")
        link = Path(self._by_id.name) / "usb-scale-port0"
        self.scale = SerialProxy(ports.scale, link, seed=self._seed)
        text = full_lane(
            f"tcp://127.0.0.1:{await self.portal.start()}",
            await self.scale.start(),
            ports.metal,
            silence_s=SILENCE_S,
        )
        return write_config(self._folder, self._broker.port, {LANE: text})

    async def close(self):
        await self.portal.close()
        await self.scale.close()
        await self.lane.close()
        self._by_id.cleanup()

    def state(self, device: str) -> dict:
        topic = f"{PREFIX}lane/{LANE}/dev/{device}/state"
        return self.centre.snapshots.get(topic, {"link": None, "refused": {}})

    def refused(self, device: str) -> int:
        return sum(self.state(device)["refused"].values())

    async def all_up(self):
        await until(lambda: [self.state(d)["link"] for d in DEVICES] == ["up"] * 3, what="all up")

    def lost(self, device: str, phase: str = "raised") -> list[dict]:
        return alarms(self.centre, code="device_lost", device=device, phase=phase)

    def passages(self, part: str) -> int:
        """Return how many passages have that part."""
        return sum(p[part] is not None for p in newest_passages(self.centre))


def test_garbage_flips_half_frames_and_a_flood_make_no_record_and_hurt_no_other(
    tmp_path, broker, centre
):
    seed = 20261122
    print("seed", seed)
    asyncio.run(_garbage(SoiledLane(tmp_path, broker, centre, seed=seed)))


async def _garbage(soiled):
    centre = soiled.centre
    directory = await soiled.start()
    try:
        async with running_agent(directory, Clock(time_scale=SCALE)):
            await soiled.all_up()
            for dirt in DIRT:
                before = {device: soiled.refused(device) for device in ("rpm", "scale")}
                for proxy, device in ((soiled.portal, "rpm"), (soiled.scale, "scale")):
                    proxy.to_client.__init__(**dirt.get(device, dirt["both"]))
                for device, count in before.items():
                    await until(lambda d=device, c=count: soiled.refused(d) > c + 3, what=device)
                soiled.portal.to_client.__init__()
                soiled.scale.to_client.__init__()
            before = soiled.refused("metal")
            for fault, value in (("wrong_unit", 9), ("truncate_to", 5), ("exception_code", 4)):
                good = getattr(soiled.unit, fault)
                setattr(soiled.unit, fault, value)
                await until(lambda b=before: soiled.refused("metal") > b, what=fault)
                setattr(soiled.unit, fault, good)
                before = soiled.refused("metal")
            soiled.portal.to_client.flood_bytes_per_s = 400_000.0
            await until(lambda: soiled.state("rpm")["refused"].get("flood", 0) > 50, what="flood")
            soiled.portal.to_client.flood_bytes_per_s = 0.0
            await soiled.all_up()
            done = soiled.passages("scale")
            await until(lambda: soiled.passages("scale") > done, what="measuring goes on")
    finally:
        await soiled.close()
    weights = {p["scale"]["mass_kg"] for p in newest_passages(centre) if p["scale"]}
    assert weights <= {12_000.0 + 2_000 * n for n in range(30)} | {None}
    assert {(a["kind"], a["code"]) for a in alarms(centre)} <= {("fault", "device_lost")}
    assert not any(p["metal"] and p["metal"]["result"] == "alarm" for p in newest_passages(centre))
    assert centre.gaps() == {}
    assert not centre.problems


def test_silence_is_a_fault_in_time_that_clears_and_the_others_go_on(tmp_path, broker, centre):
    asyncio.run(_silence(SoiledLane(tmp_path, broker, centre, seed=1)))


async def _silence(soiled):
    directory = await soiled.start()
    hush = {
        "rpm": lambda on: setattr(soiled.portal.to_client, "hang", on),
        "scale": lambda on: setattr(soiled.scale.to_client, "hang", on),
        "metal": lambda on: setattr(soiled.unit, "silent", on),
    }
    limits_s = dict(zip(DEVICES, SILENCE_S, strict=True))
    try:
        async with running_agent(directory, Clock(time_scale=SCALE)):
            await soiled.all_up()
            for silent, other in ((("rpm",), "scale"), (("scale", "metal"), "rpm")):
                done = soiled.passages(other)
                hushed_s = soiled.lane.now_s()
                for device in silent:
                    hush[device](True)
                for device in silent:
                    await until(lambda d=device: soiled.lost(d), what=f"{device} is lost")
                    # Half a second on the wall for a busy machine.
                    lasted_s = soiled.lane.now_s() - hushed_s
                    assert lasted_s < limits_s[device] + 0.5 * SCALE + 2.0
                    await until(lambda d=device: soiled.state(d)["faults"] == ["device_lost"])
                await until(lambda n=done, o=other: soiled.passages(o) > n, what=other)
                for device in silent:
                    hush[device](False)
                for device in silent:
                    await until(lambda d=device: soiled.lost(d, "cleared"), what=device)
            await soiled.all_up()
    finally:
        await soiled.close()
    for device in DEVICES:
        (fault,) = soiled.lost(device)
        assert device in fault["text"]
        (gap,) = (a for a in audits(soiled.centre, "gap") if a["device"] == device)
        assert gap["gap_s"] > 0
    silent = {p["metal"]["result"] for p in newest_passages(soiled.centre) if p["metal"]}
    assert silent <= {"clear", "unknown"}


def test_what_is_unplugged_is_said_at_once_and_found_again(tmp_path, broker, centre):
    asyncio.run(_unplugged(SoiledLane(tmp_path, broker, centre, seed=2)))


async def _unplugged(soiled):
    directory = await soiled.start()
    try:
        async with running_agent(directory, Clock(time_scale=SCALE)):
            await soiled.all_up()
            state = f"{PREFIX}lane/{LANE}/state"
            await until(lambda: soiled.centre.snapshots[state]["occupied"])
            before = str(soiled.scale.link.readlink())
            for proxy, device in ((soiled.portal, "rpm"), (soiled.scale, "scale")):
                pulled_s = soiled.lane.now_s()
                await proxy.unplug()
                await until(lambda d=device: soiled.lost(d))
                assert soiled.lane.now_s() - pulled_s < SILENCE_S[0] / 2, "a pulled line is known"
                if device == "rpm":
                    await until(lambda: soiled.centre.snapshots[state]["occupied"] is None)
                    # Back sooner, and still inside, it would be the same vehicle as before.
                    await until(lambda: newest_passages(soiled.centre))
                if device == "scale":
                    assert not soiled.scale.link.is_symlink()
                    taken = PtyPort(lambda _: soiled.scale)  # another adapter takes the number
                await proxy.replug()
                await until(lambda d=device: soiled.lost(d, "cleared"))
            assert str(soiled.scale.link.readlink()) not in (before, taken.path)
            taken.close()
            await soiled.all_up()
            done = soiled.passages("scale")
            await until(lambda: soiled.passages("scale") > done, what="weighed again")
    finally:
        await soiled.close()
    reasons = [p["end_reason"] for p in newest_passages(soiled.centre)]
    assert reasons.count("device_lost") == 1
    assert not alarms(soiled.centre, kind="gamma")


# ---------------------------------------------------------------- clock


class SteppedWall:
    """The wall clock, plus what somebody set it forward by."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead_s


@pytest.mark.parametrize("days", [3, -400])
def test_a_stepped_clock_is_said_and_disorders_nothing(tmp_path, broker, centre, days):
    asyncio.run(_stepped(tmp_path, broker, centre, days))


async def _stepped(tmp_path, broker, centre, days):
    wall, portal = SteppedWall(), LinePortal()
    lane = rpm_lane(await portal.start(), lane="join_gap_s = 0.2")
    directory = write_config(tmp_path, broker.port, {LANE: lane})
    async with running_agent(directory, Clock(wall_s=wall)):
        await until(lambda: portal.heard)
        portal.background(3)
        portal.enter(alarm=True)
        await until(lambda: alarms(centre, kind="gamma"))
        wall.ahead_s = days * 86400.0
        portal.leave(1)
        await until(lambda: newest_passages(centre))
        await until(lambda: audits(centre, "clock"))
    await portal.close()
    (clock,) = audits(centre, "clock")
    assert abs(clock["stepped_s"] - days * 86400) < 1
    raised, *_, cleared = alarms(centre, kind="gamma")
    assert (raised["clock"]["stepped"], cleared["clock"]["stepped"]) == (False, True)
    lasted_s = (cleared["clock"]["mono_us"] - raised["clock"]["mono_us"]) / 1e6
    assert 0 < lasted_s < 10
    (passage,) = newest_passages(centre)
    assert passage["clock"]["stepped"] is True
    assert passage["end_reason"] == "left"
    assert centre.gaps() == {}
    for stream in ("alarm", "audit"):
        records = sorted(centre.records(stream), key=lambda r: r.seq)
        monos = [r.data["clock"]["mono_us"] for r in records]
        assert monos == sorted(monos)


# ---------------------------------------------------------------- kills

KILLS = 8
RUSH = 'title = "a source every eight seconds"\nseed = 8\n' + "".join(
    f'[[vehicle]]\nid = "v-{n}"\nat_s = {6.0 + 8.0 * n}\nlength_m = 6.0\n'
    "gamma = { peak_cps = 2500.0, offset_m = 3.0 }\n"
    for n in range(400)
)


def test_no_kill_loses_what_was_acknowledged_or_leaves_a_hole(tmp_path, broker, centre):
    seed = 41
    print("seed", seed)
    asyncio.run(_kills(tmp_path, broker, centre, random.Random(seed)))


async def _kills(tmp_path, broker, centre, rng):
    # The agent lives in real time: a portal that plays thirty times as fast keeps it busy.
    server = PortalServer(Portal(Scene.from_text(RUSH)))
    port = await server.serve_tcp(SceneClock(time_scale=30.0))
    directory = write_config(
        tmp_path, broker.port, {LANE: rpm_lane(port, lane="join_gap_s = 0.05")}
    )
    agent = AgentProcess(directory, tmp_path)
    acknowledged: dict[str, bytes] = {}
    try:
        for _ in range(KILLS):
            agent.start()
            seen = len(centre.records())
            more = rng.randrange(8)
            await until(lambda s=seen, m=more: len(centre.records()) >= s + m)
            await asyncio.sleep(rng.uniform(0.0, 0.2))
            agent.kill()
            held = stored_records(store_of(tmp_path), tmp_path / "copy.db")
            held |= {r.id: r.payload for r in centre.records()}
            for record_id, payload in held.items():
                assert acknowledged.setdefault(record_id, payload) == payload, record_id
        runs = len(audits(centre, "boot"))
        agent.start()
        await until(lambda: len(audits(centre, "boot")) > runs)
        await until(lambda: acknowledged.keys() <= {r.id for r in centre.records()}, 20)
        agent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait) == 0
        await until(lambda: audits(centre, "stop"))
    finally:
        agent.kill()
        await server.close()
    assert centre.gaps() == {}
    assert not centre.problems, "a record came again with other bytes"
    for record_id, payload in acknowledged.items():
        assert centre.record(record_id).payload == payload
    boots = {b["run"] for b in audits(centre, "boot")}
    print("kills", KILLS, "runs that got as far as a record", len(boots))
    assert len(alarms(centre, kind="gamma", phase="raised")) > KILLS / 2
    ids = [a["alarm_id"] for a in alarms(centre, phase="raised")]
    assert len(ids) == len(set(ids))
