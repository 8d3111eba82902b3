"""The soak in a few minutes of virtual time: nothing lost, nothing doubled, nobody slowed."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
DEADLINE_S = 120


@pytest.fixture(scope="module")
def said():
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--quick"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_vehicle_of_fifty_instruments_is_one_passage_with_its_own_parts(said):
    assert said["devices"] == 50
    assert said["vehicles"] > 20
    assert (said["lost"], said["extra"], said["wrong"]) == (0, 0, 0), said["first"]


def test_the_silent_device_is_said_and_slows_no_other(said):
    assert said["faults"] == {"lane-16/scale-b device_lost": 1}
    assert said["slowest_share"] > 0.85


def test_memory_does_not_grow(said):
    assert said["blocks_growth"] < 0.05


@pytest.fixture
def parts(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import soak  # noqa: PLC0415 - stands beside the project's packages
    import virtual_time  # noqa: PLC0415

    return soak, virtual_time


def test_the_comparison_finds_what_is_lost_doubled_and_wrong(parts):
    soak, _ = parts
    truths = [
        soak.Truth(at_s=10.0 * n, mass_kg=20_000.0, metal=False, must=frozenset())
        for n in range(1, 5)
    ]

    def seen(at_s, mass_kg=20_000.0, metal="clear", kinds=()):
        return soak.Seen(at_s=at_s, mass_kg=mass_kg, metal=metal, kinds=frozenset(kinds))

    compared = soak.Compared()
    passages = [seen(10.4), seen(20, mass_kg=20_040.0), seen(30, metal=None), seen(31)]
    soak.compare("lane", truths, passages, compared)
    assert compared.vehicles == 4
    assert compared.lost == ["lane 40.0 s"]
    assert compared.extra == ["lane 31.0 s"]
    assert compared.wrong == [
        "lane 20.0 s: weighs 20000 kg, said 20040 kg",
        "lane 30.0 s: metal clear, said None",
    ]
    must = soak.Truth(at_s=5.0, mass_kg=None, metal=None, must=frozenset({"gamma"}))
    compared = soak.Compared()
    soak.compare("lane", [must], [seen(5, mass_kg=None, metal=None)], compared)
    assert compared.wrong == ["lane 5.0 s: must alarm ['gamma'], said []"]


def test_virtual_time_goes_from_timer_to_timer_and_waits_for_nothing(parts):
    _, virtual_time = parts

    async def scene():
        loop = asyncio.get_running_loop()
        order = []

        async def beat(name, period_s, times):
            for _ in range(times):
                await asyncio.sleep(period_s)
                order.append((name, round(loop.time(), 3)))

        await asyncio.gather(beat("a", 3600.0, 2), beat("b", 5000.0, 1))
        return order

    with asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner:
        order = runner.run(scene())
    assert order == [("a", 3600.0), ("b", 5000.0), ("a", 7200.0)]


def test_a_virtual_hour_in_which_everybody_waits_for_nothing_ends_with_a_reason(parts):
    _, virtual_time = parts

    async def scene():
        await asyncio.Event().wait()

    with (
        asyncio.Runner(loop_factory=virtual_time.VirtualLoop) as runner,
        pytest.raises(RuntimeError, match="no timer is left"),
    ):
        runner.run(scene())
