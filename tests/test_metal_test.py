"""The operational test of a metal detector: announced by a switch, recorded, and due again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench, stamp

from agent.config.load import examine
from agent.delivery.wire import Encoder, Identity, encode
from agent.lane.alarms import Standing
from agent.lane.options.instruments import ContactOptions, MetalOptions
from drivers.readings import Contact, MetalAlarm, MetalPassages

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "messages" / "schemas"


def bench(**metal) -> Bench:
    lane = Bench(metal=MetalOptions(max_gap_s=10.0, **metal))
    lane.rules = replace(lane.rules, contacts={"io": ContactOptions(metal_test="key")})
    return lane


def switch(lane: Bench, at_s: float, active: bool | None) -> None:
    lane.read(at_s, Contact(name="key", active=active), "io")


def exercise(lane: Bench, at_s: float, alarms: int) -> None:
    """Let a test of 60 s with so many alarms take place."""
    switch(lane, at_s, True)
    for i in range(alarms):
        lane.walk(at_s + 1 + 3 * i, alarm=True)
    switch(lane, at_s + 60, False)


def due(lane: Bench, phase: str) -> list[float]:
    return [r.stamp.mono_us / 1e6 for r in lane.alarms("fault", phase) if r.code == "test_due"]


def standing(lane: Bench) -> set[str]:
    return {code for _, code in lane.state.of(Standing).standing}


def test_a_test_makes_a_record_and_neither_passage_nor_metal_alarm():
    lane = bench(test_alarms=2)
    lane.metal_ready(0)
    exercise(lane, 10, alarms=2)
    lane.stop(400)
    (record,) = lane.audits("test")
    assert record.data == {
        "device": "metal",
        "started": stamp(10),
        "ended": stamp(70),
        "ended_by": "released",
        "alarms": 2,
        "alarms_needed": 2,
        "passages": 2,
        "result": "passed",
    }
    assert lane.passages() == []
    assert lane.alarms("metal") == []


def test_too_few_alarms_are_a_failed_test_that_stands_until_one_passes():
    lane = bench(test_alarms=3)
    lane.metal_ready(0)
    exercise(lane, 10, alarms=2)
    assert lane.audits("test")[0].data["result"] == "failed"
    assert standing(lane) == {"test_failed"}
    exercise(lane, 100, alarms=3)
    assert lane.audits("test")[1].data["result"] == "passed"
    assert standing(lane) == set()


def test_a_random_selection_is_no_alarm_of_a_test():
    lane = bench()
    lane.metal_ready(0)
    switch(lane, 10, True)
    lane.read(11, MetalAlarm(active=True, pulses=1, is_random=True), "metal")
    switch(lane, 20, False)
    assert lane.audits("test")[0].data["alarms"] == 0
    assert lane.audits("test")[0].data["result"] == "failed"


def test_walks_before_and_after_a_test_are_passages():
    lane = bench()
    lane.metal_ready(0)
    lane.walk(1, alarm=True)
    exercise(lane, 20, alarms=1)
    lane.walk(100, alarm=True)
    lane.stop(300)
    assert [p.metal.alarms for p in lane.passages()] == [1, 1]
    assert len(lane.alarms("metal", "raised")) == 2


def test_an_alarm_that_lasts_beyond_the_release_is_not_another_one():
    lane = bench()
    lane.metal_ready(0)
    switch(lane, 10, True)
    lane.read(11, MetalAlarm(active=True, pulses=1), "metal")
    switch(lane, 12, False)
    lane.read(13, MetalAlarm(active=True, pulses=0), "metal")
    lane.read(14, MetalAlarm(active=False, pulses=0), "metal")
    lane.stop(100)
    assert lane.alarms("metal") == []
    assert lane.audits("test")[0].data["result"] == "passed"


def test_after_a_start_a_test_is_due_at_once_and_again_so_long_after_one_that_passed():
    lane = bench(test_every_h=24)
    lane.tick(5)
    assert due(lane, "raised") == [5]
    assert lane.alarms("fault", "raised")[0].severity == "notice"
    exercise(lane, 10, alarms=1)
    assert due(lane, "cleared") == [70]
    lane.tick(70 + 24 * 3600 - 1)
    assert due(lane, "raised") == [5]
    lane.tick(70 + 24 * 3600 + 500)
    assert due(lane, "raised") == [5, 70 + 24 * 3600]
    assert lane.alarms("fault", "raised")[-1].severity == "elevated"


def test_a_test_that_failed_leaves_the_next_one_due():
    lane = bench(test_every_h=24)
    lane.metal_ready(0)
    exercise(lane, 10, alarms=0)
    assert standing(lane) == {"test_due", "test_failed"}


def test_without_test_every_h_no_test_is_ever_due():
    lane = bench()
    lane.tick(0)
    exercise(lane, 10, alarms=1)
    lane.tick(1e7)
    assert due(lane, "raised") == []


def test_a_stop_leaves_nothing_standing():
    lane = bench(test_every_h=24)
    lane.tick(0)
    lane.stop(10)
    assert standing(lane) == set()


@pytest.mark.parametrize("how", ["lost", "agent_stop"])
def test_a_test_that_is_broken_off_is_neither_passed_nor_failed(how):
    lane = bench(test_alarms=2)
    lane.metal_ready(0)
    switch(lane, 10, True)
    lane.walk(12, alarm=True)
    if how == "lost":
        lane.link(20, "io", up=False)
        assert "test_failed" not in standing(lane)
    else:
        lane.stop(20)
    (record,) = lane.audits("test")
    assert (record.data["result"], record.data["ended_by"]) == ("broken_off", how)


def test_a_switch_that_is_left_on_hides_nobody_for_ever():
    lane = bench()
    lane.metal_ready(0)
    switch(lane, 10, True)
    lane.walk(2000, alarm=True)
    assert lane.audits("test")[0].data["ended_by"] == "left_on"
    assert lane.audits("test")[0].data["ended"] == stamp(10 + 1800)
    assert len(lane.alarms("metal", "raised")) == 1
    assert "test_switch_left_on" in standing(lane)
    lane.link(2100, "io", up=False)
    lane.link(2110, "io", up=True)
    switch(lane, 2111, True)
    lane.walk(2112, alarm=True)
    assert len(lane.alarms("metal", "raised")) == 2
    switch(lane, 2200, False)
    assert "test_switch_left_on" not in standing(lane)
    assert len(lane.audits("test")) == 1


# --- several detectors, several switches ----------------------------------------------------------


def two(**contacts) -> Bench:
    """Return a lane with the detectors metal and metal-2."""
    lane = bench()
    metals = {**lane.rules.metals, "metal-2": MetalOptions(max_gap_s=10.0)}
    options = ContactOptions(**contacts)
    lane.rules = replace(lane.rules, metals=metals, contacts={"io": options})
    for name in metals:
        lane.read(0, MetalAlarm(active=False, pulses=0), name)
    return lane


def turn_key(lane: Bench, at_s: float, name: str, active: bool | None) -> None:
    lane.read(at_s, Contact(name=name, active=active), "io")


def alarm(lane: Bench, at_s: float, device: str) -> None:
    lane.read(at_s, MetalPassages(entered=1, left=0), device)
    lane.read(at_s + 0.3, MetalAlarm(active=True, pulses=1), device)
    lane.read(at_s + 0.6, MetalAlarm(active=False, pulses=0), device)


def results(lane: Bench) -> list[tuple[str, str, int]]:
    return [(r.data["device"], r.data["result"], r.data["alarms"]) for r in lane.audits("test")]


def test_a_switch_without_names_is_for_all_detectors():
    lane = two(metal_test="key")
    turn_key(lane, 10, "key", True)
    for device in ("metal", "metal-2"):
        alarm(lane, 11, device)
    turn_key(lane, 20, "key", False)
    assert sorted(results(lane)) == [("metal", "passed", 1), ("metal-2", "passed", 1)]


def test_a_detectors_own_switch_tests_it_and_the_other_one_goes_on_guarding():
    lane = two(metal_test="key", metal_test_of={"metal-2": "key-2"})
    turn_key(lane, 10, "key-2", True)
    alarm(lane, 11, "metal-2")
    alarm(lane, 13, "metal")
    turn_key(lane, 20, "key-2", False)
    lane.stop(100)
    assert results(lane) == [("metal-2", "passed", 1)]
    assert [a.device for a in lane.alarms("metal", "raised")] == ["metal"]


def test_the_common_switch_leaves_out_who_has_its_own():
    lane = two(metal_test="key", metal_test_of={"metal-2": "key-2"})
    turn_key(lane, 10, "key", True)
    alarm(lane, 11, "metal")
    turn_key(lane, 20, "key", False)
    assert results(lane) == [("metal", "passed", 1)]


def test_one_switch_that_falls_ends_no_test_of_the_other():
    lane = two(metal_test_of={"metal": "key", "metal-2": "key-2"})
    turn_key(lane, 10, "key", True)
    turn_key(lane, 11, "key-2", True)
    alarm(lane, 12, "metal")
    turn_key(lane, 20, "key", False)
    assert results(lane) == [("metal", "passed", 1)]
    alarm(lane, 22, "metal-2")
    turn_key(lane, 30, "key-2", False)
    assert results(lane)[1:] == [("metal-2", "passed", 1)]


def test_a_switch_left_on_is_a_fault_until_it_falls_and_leaves_the_other_one_its_tests():
    lane = two(metal_test_of={"metal": "key", "metal-2": "key-2"})
    turn_key(lane, 10, "key", True)
    lane.tick(2000)
    assert "test_switch_left_on" in standing(lane)
    turn_key(lane, 2010, "key-2", True)
    alarm(lane, 2011, "metal-2")
    turn_key(lane, 2020, "key-2", False)
    assert results(lane)[1:] == [("metal-2", "passed", 1)]
    assert "test_switch_left_on" in standing(lane)
    turn_key(lane, 2030, "key", False)
    assert "test_switch_left_on" not in standing(lane)


def test_a_lost_module_breaks_the_tests_of_all_its_switches_off():
    lane = two(metal_test_of={"metal": "key", "metal-2": "key-2"})
    turn_key(lane, 10, "key", True)
    turn_key(lane, 11, "key-2", True)
    lane.link(20, "io", up=False)
    assert sorted(results(lane)) == [("metal", "broken_off", 0), ("metal-2", "broken_off", 0)]


# --- what the configuration says of it ------------------------------------------------------------

GATEWAY = """
[gateway]
site = "north"
gw = "gw-1"

[mqtt]
host = "localhost"
tls = false
"""
DETECTOR = """
[devices.{name}]
driver = "metal.dry_contact"
port = "tcp://127.0.0.1:{port}"
preset = "moxa-e1210"
{more}
"""
SWITCHES = """
[devices.io]
driver = "lane.contacts"
port = "tcp://127.0.0.1:1700"
preset = "moxa-e1212"
inputs = {{ key = {{ channel = 0 }}, key-2 = {{ channel = 1 }} }}
{roles}
"""


def problems(tmp_path: Path, roles: str | None, more: str = "test_every_h = 24.0") -> list[str]:
    """Return what check says of a lane with two detectors, the first of which has ``more``."""
    text = DETECTOR.format(name="metal", port=1601, more=more)
    text += DETECTOR.format(name="metal-2", port=1602, more="")
    text += "" if roles is None else SWITCHES.format(roles=roles)
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "one.toml").write_text(text, encoding="utf-8")
    (tmp_path / "gateway.toml").write_text(GATEWAY, encoding="utf-8")
    found = examine(tmp_path).problems
    return [f"{'warning: ' if p.is_warning else ''}{p.text}" for p in found]


@pytest.mark.parametrize("roles", [None, "", 'metal_test_of = { metal-2 = "key" }'])
def test_a_test_that_falls_due_and_has_no_switch_is_warned_of(tmp_path, roles):
    (said,) = problems(tmp_path, roles)
    assert said.startswith("warning: a test falls due and no switch announces one")


@pytest.mark.parametrize("roles", ['metal_test = "key"', 'metal_test_of = { metal = "key-2" }'])
def test_a_test_with_its_switch_is_not_warned_of(tmp_path, roles):
    assert problems(tmp_path, roles) == []


def test_where_no_test_falls_due_no_switch_is_needed(tmp_path):
    assert problems(tmp_path, None, more="") == []


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ('metal_test_of = { metal-3 = "key" }', 'no metal detector "metal-3"'),
        ('metal_test_of = { metal = "kay" }', 'there is no input "kay"'),
        ('metal_test = "key"\nmetal_test_of = { metal = "key" }', 'input "key" has two roles'),
        ('tamper = ["key"]\nmetal_test_of = { metal = "key" }', 'input "key" has two roles'),
    ],
)
def test_a_switch_of_nothing_or_with_two_roles_is_a_problem(tmp_path, roles, said):
    assert any(said in line for line in problems(tmp_path, roles))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["on", "off", "lost", "alarm", "person"]), max_size=25))
def test_every_person_is_in_a_passage_or_in_a_test_and_in_one_only(events):
    lane = bench()
    lane.metal_ready(0)
    for at, event in enumerate(events, start=1):
        if event == "alarm":
            lane.read(at, MetalAlarm(active=True, pulses=1), "metal")
            lane.read(at + 0.5, MetalAlarm(active=False, pulses=0), "metal")
        elif event == "person":
            lane.read(at, MetalPassages(entered=1, left=0), "metal")
        else:
            switch(lane, at, {"on": True, "off": False, "lost": None}[event])
    lane.stop(100)
    tests = [r.data for r in lane.audits("test")]
    walks = [p.metal for p in lane.passages()]
    persons = sum(t["passages"] for t in tests) + sum(w.persons for w in walks)
    alarms = sum(t["alarms"] for t in tests) + sum(w.alarms for w in walks)
    assert persons == events.count("person")
    assert alarms == events.count("alarm")


def test_the_record_fits_the_published_schema():
    lane = bench()
    lane.metal_ready(0)
    exercise(lane, 10, alarms=1)
    (record,) = lane.audits("test")
    encoder = Encoder(
        identity=Identity(root="checkpoint", site="s", gw="g"),
        mode="live",
        configrev="r",
        software="1",
    )
    payload = encode(record, encoder=encoder, epoch="00aa", seq=1, recorded_utc_us=0)
    message = json.loads(payload)
    schema = json.loads((SCHEMAS / "audit.json").read_text(encoding="utf-8"))
    jsonschema.validate(message, schema)
    message["data"]["result"] = "good"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(message, schema)
