"""The benchmarks run and say what they found; how fast it was is theirs to judge, not ours."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mosquitto import require_mosquitto

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
NAMES = ("latency", "footprint", "polling", "loop", "wheels")
DEADLINE_S = 90

pytestmark = pytest.mark.broker


@pytest.fixture(scope="module")
def runs():
    """All of them at once: most of their time is waiting."""
    require_mosquitto()
    started = {
        name: subprocess.Popen(
            [sys.executable, str(BENCHMARKS / f"{name}.py"), "--quick"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in NAMES
    }
    yield started
    for process in started.values():
        if process.poll() is None:
            process.terminate()
            process.communicate(timeout=10)
        for pipe in (process.stdout, process.stderr):
            pipe.close()  # of one that nobody asked, too


def said_by(runs, name):
    """Return the JSON line of one run, its last."""
    out, err = runs[name].communicate(timeout=DEADLINE_S)
    assert runs[name].returncode == 0, err[-2000:]
    line = out.splitlines()[-1]
    said = json.loads(line)
    assert (said["benchmark"], said["quick"], said["goals"]) == (name, True, {})
    assert sum(text.startswith("{") for text in out.splitlines()) == 1
    return said


def test_every_alarm_of_the_latency_benchmark_arrives(runs):
    said = said_by(runs, "latency")
    assert said["alarms_arrived"] == said["alarms_sent"] == 13
    assert said["floor_ms"]["n"] == said["agent_ms"]["n"] == 8


def test_every_change_of_the_polling_benchmark_arrives_once_in_both_arms(runs):
    devices = said_by(runs, "polling")["devices_2"]
    for arm in ("agent", "bare"):
        assert devices[arm]["arrived"] == devices[arm]["changes"] > 0
    assert devices["agent"]["changes"] == devices["bare"]["changes"]


def test_the_loop_benchmark_hears_of_every_vehicle_and_times_every_part(runs):
    said = said_by(runs, "loop")
    whole = said["whole"]
    halves = [whole, said["quarter"]] if "quarter" in said else [whole]
    assert len(halves) == 2 or "control group" in said["quarter_left_out"]
    for half in halves:
        assert half["vehicles"] > half["alarms"] > 0
        assert (half["vehicles_wrong"], half["missing"]) == (0, 0)
        # A step is part of a turn; what each adds to the other's clock is far below 1 ms.
        assert half["longest_turn_ms"] + 1.0 > half["longest_step_ms"] > 0
        assert half["steps"] > 100
        assert half["memory_mb"] > 0
        assert half["throttled_percent"] is None or half is not whole


def test_the_daemon_carries_no_library_of_the_tools(runs):
    said = said_by(runs, "footprint")
    assert said["panels"]["memory_mb"] > said["counting"]["memory_mb"] > 0
    assert "msgspec" in said["loaded"]
    assert not {"rich", "cryptography"} & set(said["loaded"])


def test_every_dependency_has_a_wheel_for_aarch64_where_the_index_can_be_reached(runs):
    said = said_by(runs, "wheels")
    if not said["reached"]:
        pytest.skip("the package index does not answer")
    assert said["missing"] == []
    assert "numpy" in said["packages"]
