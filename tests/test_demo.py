"""The demonstration: everything real but the instruments, and an honest comparison at its end."""

from __future__ import annotations

import subprocess
from dataclasses import replace

import pytest
from agent_process import command

from agent.tools.demo import _difference, _is_of, _Received
from simulators.scene import PassageTruth

pytest.importorskip("amqtt", reason="the demo's broker is an extra")

TWO = """
title = "two vehicles"
seed = 21
duration_s = 33.0

[[vehicle]]
id = "clean"
at_s = 8.0
length_m = 8.0
mass_kg = 14200
person.walks_at_s = 1.0

[[vehicle]]
id = "hot"
at_s = 20.0
length_m = 8.0
gamma = { peak_cps = 2500.0, offset_m = 4.0 }
"""


def demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("demo", *arguments), check=False, capture_output=True, text=True, timeout=60
    )


def test_the_demo_plays_a_scene_and_compares_it_with_what_the_centre_got(tmp_path):
    scene = tmp_path / "two.toml"
    scene.write_text(TWO)
    done = demo("--scene", str(scene), "--for", "15", "--time-scale", "10")
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert "The truth, and what the centre received" in done.stdout
    assert done.stdout.count("as it was") == 2
    assert "2 of 2 vehicles finished, 0 differ" in done.stdout
    assert "0 streams with gaps" in done.stdout
    assert "GAMMA" in done.stdout
    assert done.stderr == ""


def test_an_unknown_scene_is_one_sentence():
    done = demo("--scene", "no-such-scene")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert "no-such-scene" in done.stderr


# ---------------------------------------------------------------- the comparison itself


def truth(**changes) -> PassageTruth:
    given = {
        "vehicle_id": "v",
        "label": "van",
        "occupancies": ((10.0, 15.0),),
        "finished_s": 30.0,
        "expected": frozenset({"gamma"}),
        "possible": frozenset(),
        "mass_kg": 9_000.0,
        "metal": False,
        "portal_unplugged": False,
    }
    return PassageTruth(**{**given, **changes})


ALARMS = {"a-1": "gamma", "a-2": "weight"}


def received(**changes) -> list[_Received]:
    given = {
        "alarm_ids": ["a-1"],
        "scale": {"mass_kg": 9_010.0},
        "metal": {"result": "clear"},
        "end_reason": "left",
        "rpm": {"occupancy_numbers": [1]},
    }
    return [_Received(10.0, {**given, **changes})]


def test_what_is_as_it_was_gives_no_difference():
    assert _difference(truth(), received(), ALARMS) == ""


@pytest.mark.parametrize(
    ("true", "got", "words"),
    [
        (truth(), [], "0 passages"),
        (truth(), received() * 2, "2 passages"),
        (truth(), received(alarm_ids=[]), "no gamma alarm"),
        (truth(), received(alarm_ids=["a-1", "a-2"]), "false weight alarm"),
        (truth(), received(scale=None), "mass None"),
        (truth(), received(scale={"mass_kg": None}), "mass None"),
        (truth(), received(scale={"mass_kg": 9_040.0}), "mass 9040"),
        (truth(), received(metal={"result": "unknown"}), "metal unknown"),
        (truth(), received(metal=None), "metal None"),
        (truth(metal=None), received(), "metal clear"),
        (truth(), received(end_reason="device_lost"), "ended device_lost"),
        (truth(), received(rpm={"occupancy_numbers": [1, 2]}), "2 occupancies"),
        (truth(portal_unplugged=True), received(), "ended left"),
    ],
)
def test_each_departure_from_the_truth_is_named(true, got, words):
    assert words in _difference(true, got, ALARMS)


def test_the_next_vehicle_is_not_taken_for_the_one_still_on_the_scale():
    # In the portal from 10 to 15 s, off the scale at 30 s; another enters at 22 s.
    assert _is_of(received()[0], truth())
    assert not _is_of(replace(received()[0], started_s=22.0), truth())
    weighed_alone = replace(received(rpm=None)[0], started_s=22.0)
    assert _is_of(weighed_alone, truth())


def test_what_may_be_alarmed_is_no_difference():
    near_the_limit = truth(expected=frozenset(), possible=frozenset({"gamma"}))
    assert _difference(near_the_limit, received(), ALARMS) == ""
    assert _difference(near_the_limit, received(alarm_ids=[]), ALARMS) == ""


def test_a_passage_without_the_portals_part_is_a_difference_not_a_crash():
    assert "0 occupancies" in _difference(truth(), received(rpm=None), ALARMS)
