"""The whole agent between simulated instruments, a real broker and a command centre."""

from __future__ import annotations

import asyncio
import json
import signal
from datetime import datetime

import pytest
from agent_process import (
    LANE,
    PREFIX,
    AgentProcess,
    LinePortal,
    NotifySocket,
    alarms,
    audits,
    full_lane,
    newest_passages,
    rpm_lane,
    running_agent,
    store_of,
    until,
    write_config,
)
from delivery_bench import check_message
from mosquitto import running_mosquitto

from agent.clock import Backoff, Clock
from agent.delivery.store.journal import look
from simulators.centre import Centre
from simulators.lane import LaneSimulator
from simulators.mischief import TcpProxy
from simulators.scene import Scene

pytestmark = pytest.mark.broker

SCALE = 10.0
THREE = """
title = "a clean one, one with a source and too heavy, one with neutrons and a driver with metal"
seed = 11

[[vehicle]]
id = "clean"
at_s = 8.0
speed_m_per_s = 2.6
length_m = 9.0
mass_kg = 17460
person.walks_at_s = 1.5

[[vehicle]]
id = "hot-heavy"
at_s = 22.0
speed_m_per_s = 2.6
length_m = 9.0
mass_kg = 46500
gamma = { peak_cps = 2500.0, offset_m = 4.0 }

[[vehicle]]
id = "neutron-metal"
at_s = 36.0
speed_m_per_s = 2.6
length_m = 8.0
mass_kg = 12140
neutron = { peak_cps = 80.0, offset_m = 4.0 }
person = { walks_at_s = 1.5, metal = true }
"""
GAMMA_VEHICLES = 4
GAMMAS = 'title = "a source every eleven seconds"\nseed = 5\n' + "".join(
    f'[[vehicle]]\nid = "v-{n}"\nat_s = {8.0 + 11.0 * n}\nlength_m = 6.0\n'
    "gamma = { peak_cps = 2500.0, offset_m = 3.0 }\n"
    for n in range(GAMMA_VEHICLES)
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


def kinds_of(centre, passage) -> set[str]:
    named = {a["alarm_id"]: a["kind"] for a in alarms(centre)}
    return {named[alarm_id] for alarm_id in passage["alarm_ids"]}


def utc_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# ---------------------------------------------------------------- from instruments to centre


def test_the_centre_gets_the_truth_and_its_receipts_empty_the_store(tmp_path, broker, centre):
    asyncio.run(_scene(tmp_path, broker, centre))


async def _scene(tmp_path, broker, centre):
    scene = Scene.from_text(THREE)
    lane = LaneSimulator(scene, time_scale=SCALE)
    ports = await lane.start()
    clock = Clock(time_scale=SCALE)
    began_s = clock.stamp().utc_us / 1e6
    text = full_lane(ports.portal, ports.scale, ports.metal)
    directory = write_config(tmp_path, broker.port, {LANE: text})
    try:
        async with running_agent(directory, clock):
            await until(lambda: len(newest_passages(centre)) == 3, 20, what="three passages")
            await until(lambda: lane.now_s() > scene.truth[-1].finished_s + 6)
            await until(
                lambda: sum(s.kept for s in look(store_of(tmp_path))) == 0, what="an empty store"
            )
            live = dict(centre.snapshots)
    finally:
        await lane.close()
    assert await asyncio.to_thread(centre.wait_for, lambda: bool(audits(centre, "stop")))
    _check_truth(scene, centre, began_s)
    _check_records(centre, directory)
    _check_snapshots(broker, live)


def _check_truth(scene, centre, began_s):
    passages = newest_passages(centre)
    for truth, passage in zip(scene.truth, passages, strict=True):
        first, last = truth.occupancies[0]
        # Burst and hold-in belong to it; half a second of the wall clock is five of the scene.
        assert abs(utc_s(passage["started"]) - began_s - first) < 5.0
        assert abs(utc_s(passage["ended"]) - began_s - last) < 5.0
        kinds = kinds_of(centre, passage)
        assert truth.expected <= kinds <= truth.expected | truth.possible, truth.vehicle_id
        assert abs(passage["scale"]["mass_kg"] - truth.mass_kg) <= 20
        assert passage["scale"]["stable"] is True
        metal = {None: None, True: "alarm", False: "clear"}[truth.metal]
        assert (passage["metal"] and passage["metal"]["result"]) == metal
        assert passage["end_reason"] == "left"
        assert len(passage["rpm"]["occupancy_numbers"]) == 1
        agreement = passage["rpm"]["device_agreement"]
        assert agreement["intervals"] - agreement["agree"] == agreement["rounding"]
    # No fault was raised in a sound lane, and each latched alarm is over when its passage is.
    assert [(a["code"], a["text"]) for a in alarms(centre, kind="fault")] == []
    raised = {a["alarm_id"] for a in alarms(centre, phase="raised")}
    assert raised == {a["alarm_id"] for a in alarms(centre, phase="cleared")}
    assert raised == {alarm_id for p in passages for alarm_id in p["alarm_ids"]}


def _check_records(centre, directory):
    assert not centre.problems
    assert centre.gaps() == {}
    revision = json.loads(json.dumps(audits(centre, "boot")[0]))["revision"]
    for record in centre.records():
        check_message(record.topic, record.payload)
        assert record.body["mode"] == "training"
        assert record.body["configrev"] == revision
    assert {record.key.stream for record in centre.records()} == {"alarm", "audit", "pass"}
    (boot,), (stop,) = audits(centre, "boot"), audits(centre, "stop")
    assert boot["revision"] == revision
    assert stop["kind"] == "stop"


def _check_snapshots(broker, live):
    lane = f"{PREFIX}lane/{LANE}"
    expected = {f"{PREFIX}{name}" for name in ("status", "about", "health", "config")}
    expected |= {f"{lane}/state", *(f"{lane}/dev/{d}/state" for d in ("rpm", "scale", "metal"))}
    assert expected <= set(live)
    for topic in expected:
        check_message(topic, json.dumps(live[topic]).encode())
    assert live[f"{PREFIX}status"]["state"] == "online"
    devices = live[f"{PREFIX}about"]["lanes"][LANE]["devices"]
    assert {name: d["driver"] for name, d in devices.items()} == {
        "rpm": "rpm.rapiscan",
        "scale": "scale.toledo",
        "metal": "metal.dry_contact",
    }
    assert live[f"{PREFIX}config"]["last_result"] == "ok"
    state = live[f"{lane}/state"]
    assert (state["in_service"], state["occupied"]) == (True, False)
    for cps, true_cps in zip(
        state["background"]["rpm"]["gamma_cps"], (402.0, 390.0, 430.0, 415.0), strict=True
    ):
        assert abs(cps - true_cps) < 60
    for device in ("rpm", "scale", "metal"):
        about = live[f"{lane}/dev/{device}/state"]
        assert (about["link"], about["faults"]) == ("up", [])
        assert about["frames"] > 0
    # Whoever comes when the gateway is gone finds them standing, and why it is gone.
    with Centre("127.0.0.1", broker.port, client_id="late", receipts=False) as late:
        assert late.wait_for(lambda: expected <= set(late.snapshots))
        assert late.snapshots[f"{PREFIX}status"]["state"] == "stopping"


def test_a_broker_killed_in_mid_stream_costs_nothing_and_alarms_come_first(
    tmp_path, broker, centre
):
    asyncio.run(_broker_killed(tmp_path, broker, centre))


async def _broker_killed(tmp_path, broker, centre):
    lane = LaneSimulator(Scene.from_text(GAMMAS), time_scale=SCALE)
    ports = await lane.start()
    # The agent comes by way of a proxy, so that the centre is back before it.
    way = TcpProxy("127.0.0.1", broker.port, seed=1)
    text = full_lane(ports.portal, ports.scale, ports.metal)
    directory = write_config(tmp_path, await way.start(), {LANE: text})
    try:
        async with running_agent(directory, Clock(time_scale=SCALE)) as agent:
            agent._uplink._backoff = Backoff(first_s=0.2, cap_s=0.5)
            await until(lambda: alarms(centre, kind="gamma"), what="a first alarm")
            broker.kill()
            await way.unplug()
            at_kill_s = lane.now_s()
            await until(lambda: lane.now_s() > at_kill_s + 21)
            known = {r.id for r in centre.records()}
            broker.start()
            await until(lambda: centre.is_connected, what="the centre is back")
            await way.replug()
            await until(lambda: len(newest_passages(centre)) == GAMMA_VEHICLES, 20)
            await until(lambda: sum(s.kept for s in look(store_of(tmp_path))) == 0)
    finally:
        await way.close()
        await lane.close()
    assert centre.gaps() == {}
    assert not centre.problems
    assert len(alarms(centre, kind="gamma", phase="raised")) == GAMMA_VEHICLES
    assert {p["end_reason"] for p in newest_passages(centre)} == {"left"}
    # A vehicle passed meanwhile: its alarm and the end of the one before are the first that come.
    backlog = [r.key.stream for r in centre.records() if r.id not in known]
    assert backlog[:3] == ["alarm"] * 3
    assert "pass" in backlog[3:]


# ---------------------------------------------------------------- stop and service manager


def test_a_stop_closes_what_is_open_and_says_goodbye(tmp_path, broker, centre):
    asyncio.run(_orderly_stop(tmp_path, broker, centre))


async def _orderly_stop(tmp_path, broker, centre):
    portal, manager = LinePortal(), NotifySocket(tmp_path / "notify")
    directory = write_config(tmp_path, broker.port, {LANE: rpm_lane(await portal.start())})
    agent = AgentProcess(directory, tmp_path, notify=manager.path)
    agent.start()
    try:
        await until(lambda: "READY=1" in manager.said, what="READY=1")
        await until(lambda: portal.heard)
        portal.background(3)
        portal.enter(alarm=True)
        await until(lambda: alarms(centre, kind="gamma"))
        agent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait) == 0
    finally:
        agent.kill()
        await portal.close()
    (passage,) = newest_passages(centre)
    assert passage["end_reason"] == "agent_stop"
    assert passage["rpm"]["device_gamma_alarm"] is True
    # The vehicle is not seen leaving: what was raised for it is closed and the stop is last said.
    assert [a["phase"] for a in alarms(centre, kind="gamma")][-1] == "cleared"
    assert await asyncio.to_thread(centre.wait_for, lambda: bool(audits(centre, "stop")))
    assert manager.said == ["READY=1", "STOPPING=1"]
    manager.close()
    status = f"{PREFIX}status"
    assert await asyncio.to_thread(
        centre.wait_for, lambda: centre.snapshots[status]["state"] == "stopping"
    )
    assert centre.gaps() == {}


# ---------------------------------------------------------------- reload


def test_a_reload_exchanges_options_when_the_lane_is_vacant(tmp_path, broker, centre):
    asyncio.run(_reload(tmp_path, broker, centre))


async def _reload(tmp_path, broker, centre):
    portal, manager = LinePortal(), NotifySocket(tmp_path / "notify")
    port = await portal.start()
    quick = "join_gap_s = 0.2"
    directory = write_config(tmp_path, broker.port, {LANE: rpm_lane(port, lane=quick)})
    agent = AgentProcess(directory, tmp_path, notify=manager.path)
    agent.start()
    try:
        await until(lambda: "READY=1" in manager.said)
        await until(lambda: portal.heard)
        portal.background(3)
        portal.enter(alarm=True)
        await until(lambda: alarms(centre, kind="gamma"))
        # A vehicle is inside: its alarm keeps the limit it was raised under.
        new = rpm_lane(port, lane=f"{quick}\nneutron_window_s = 3", rpm="nsigma = 7.0")
        write_config(tmp_path, broker.port, {LANE: new})
        agent.signal(signal.SIGHUP)
        await until(lambda: audits(centre, "config"))
        portal.enter(alarm=True, intervals=2)
        portal.leave(1)
        await until(lambda: len(newest_passages(centre)) == 1)
        await until(lambda: "options=exchanged" in agent.said)
        portal.enter(alarm=True)
        portal.leave(2)
        await until(lambda: len(newest_passages(centre)) == 2)
        assert manager.said == ["READY=1", "RELOADING=1", "READY=1"]
        await _lane_comes_and_goes(tmp_path, centre, agent)
        await _bad_file(centre, agent, directory)
        agent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait) == 0
    finally:
        agent.kill()
        manager.close()
        await portal.close()
    limits = [
        a["evidence"][0]["threshold"]
        for a in alarms(centre, kind="gamma")
        if a["phase"] == "raised"
    ]
    assert limits == [5.0, 7.0]
    (config, *_) = audits(centre, "config")
    (boot,) = audits(centre, "boot")
    assert config["result"] == "ok"
    assert config["revision"] != boot["revision"]
    assert any("nsigma" in line for line in config["changed"])
    revisions = [r.body["configrev"] for r in centre.records("pass")]
    assert revisions[-1] != boot["revision"]
    assert centre.gaps() == {}
    for record in centre.records():
        check_message(record.topic, record.payload)


async def _lane_comes_and_goes(tmp_path, centre, agent):
    other = LinePortal()
    try:
        await _outbound_lane(tmp_path, centre, agent, other)
    finally:
        await other.close()


async def _outbound_lane(tmp_path, centre, agent, other):
    added = tmp_path / "etc" / "lanes" / "outbound-1.toml"
    added.write_text(rpm_lane(await other.start(), lane="join_gap_s = 0.2"))
    agent.signal(signal.SIGHUP)
    await until(lambda: other.heard)
    other.background(3)
    about = f"{PREFIX}about"
    await until(lambda: "outbound-1" in centre.snapshots[about]["lanes"])
    other.enter()
    state = f"{PREFIX}lane/outbound-1/state"
    await until(lambda: centre.snapshots.get(state, {"occupied": None})["occupied"])
    added.unlink()
    agent.signal(signal.SIGHUP)
    await until(lambda: "outbound-1" not in centre.snapshots[about]["lanes"])

    def theirs():
        return [p for p in newest_passages(centre) if p["lane"] == "outbound-1"]

    await until(theirs, what="the passage that the removed lane closed")
    last = theirs()[-1]
    assert last["end_reason"] == "agent_stop"
    gone = f"{PREFIX}lane/outbound-1/"
    await until(
        lambda: not any(topic.startswith(gone) for topic in centre.snapshots),
        what="a removed lane leaves no snapshot standing",
    )


async def _bad_file(centre, agent, directory):
    config = f"{PREFIX}config"
    active = centre.snapshots[config]["active"]
    lane_file = directory / "lanes" / f"{LANE}.toml"
    good = lane_file.read_text()
    lane_file.write_text(good.replace("nsigma", "nsigmo"))
    agent.signal(signal.SIGHUP)
    await until(lambda: alarms(centre, code="config_refused", phase="raised"))
    await until(lambda: audits(centre, "config")[-1]["result"] == "refused")
    assert "nsigmo" in audits(centre, "config")[-1]["detail"]
    await until(lambda: centre.snapshots[config]["last_result"] != "ok")
    assert centre.snapshots[config]["active"] == active
    assert agent.is_running
    lane_file.write_text(good)
    agent.signal(signal.SIGHUP)
    await until(lambda: alarms(centre, code="config_refused", phase="cleared"))


def test_a_lane_begun_again_by_a_reload_gives_no_name_twice(tmp_path, broker, centre):
    async def play():
        portal = LinePortal()
        port = await portal.start()
        quick = "join_gap_s = 0.2"
        directory = write_config(tmp_path, broker.port, {LANE: rpm_lane(port, lane=quick)})
        async with running_agent(directory, Clock()) as agent:
            for number, silence in enumerate((None, 20.0), 1):
                if silence is not None:  # how a device is read: its lane begins again
                    text = rpm_lane(port, lane=quick, rpm=f"silence_s = {silence}")
                    write_config(tmp_path, broker.port, {LANE: text})
                    agent.reload()
                await until(lambda n=number: portal.heard == n)
                portal.background(3)
                portal.enter(alarm=True)
                portal.leave(number)
                await until(lambda n=number: len(centre.records("pass")) == n)
        await portal.close()

    asyncio.run(play())
    names = [r.data["passage_id"] for r in centre.records("pass") if r.data["rev"] == 1]
    assert len(names) == len(set(names)) == 2
    raised = [a["alarm_id"] for a in alarms(centre, phase="raised")]
    assert len(raised) == len(set(raised)) == 2


def test_at_boot_a_bad_file_leaves_the_last_good_one_running(tmp_path, broker, centre):
    asyncio.run(_last_good(tmp_path, broker, centre))


async def _last_good(tmp_path, broker, centre):
    portal = LinePortal()
    directory = write_config(tmp_path, broker.port, {LANE: rpm_lane(await portal.start())})
    lane_file = directory / "lanes" / f"{LANE}.toml"
    good = lane_file.read_text()
    agent = AgentProcess(directory, tmp_path)
    agent.start()
    try:
        await until(lambda: audits(centre, "boot"))
        agent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait) == 0
        lane_file.write_text(good.replace("rpm.rapiscan", "rpm.rapidscan"))
        agent.start()
        await until(lambda: alarms(centre, code="config_refused", phase="raised"))
        boots = audits(centre, "boot")
        assert [b["revision"] for b in boots] == [boots[0]["revision"]] * 2
        (fault,) = alarms(centre, code="config_refused")
        assert "rapidscan" in fault["text"]
        assert "last good" in fault["text"]
        config = f"{PREFIX}config"
        await until(lambda: centre.snapshots[config]["last_result"] != "ok")
        assert centre.snapshots[config]["active"] == boots[0]["revision"]
        await until(lambda: portal.heard == 2, what="measuring goes on")
        agent.signal(signal.SIGTERM)
        assert await asyncio.to_thread(agent.wait) == 0
    finally:
        agent.kill()
        await portal.close()


def test_with_neither_configuration_nor_last_good_one_there_is_one_sentence(tmp_path):
    directory = write_config(tmp_path, 1883, {LANE: "[lane]\n"})
    (directory / "gateway.toml").write_text("[gateway\n")
    agent = AgentProcess(directory, tmp_path)
    agent.start()
    assert agent.wait() == 2
    assert "gateway.toml:1" in agent.said
    assert "Traceback" not in agent.said
