"""A weight against the declared mass: limits, what is not judged, when it is said."""

from __future__ import annotations

import dataclasses
import random

import pytest
from delivery_bench import ENCODER, check_message
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench, weight

from agent.lane.instruments.declared import check, permissible_error_kg
from agent.lane.options.instruments import IdentityOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.vehicles import Vehicles
from agent.records import ScalePart
from drivers.readings import Identity

OPTIONS = ScaleOptions(
    e_kg=20.0, declared_percent=0.0, declared_within_kg=0.0, declared_mpe_factor=0.0
)


def part(kg=20000.0, **changes):
    given = {
        "device": "scale",
        "mass_kg": kg,
        "value": f"{kg}",
        "unit": "kg",
        "mode": "gross",
        "stable": True,
        "stable_by": "device",
        "range": "ok",
        "alibi_id": None,
        "verified": True,
        "max_gross_kg": None,
        "legal": False,
    }
    return ScalePart(**{**given, **changes})


# ---------------------------------------------------------------- the limits


@pytest.mark.parametrize(
    ("mass_kg", "error_kg"),
    [(0, 20), (10_000, 20), (10_020, 40), (40_000, 40), (40_020, 60), (60_000, 60)],
)
def test_the_error_in_service_of_a_class_iii_weighbridge_with_e_of_20_kg(mass_kg, error_kg):
    """At 40 t, 2000 e, an in-service reading may be off by 40 kg."""
    assert permissible_error_kg(mass_kg, "III", 20.0) == error_kg


@pytest.mark.parametrize(
    ("accuracy_class", "mass_kg", "e_kg", "error_kg"),
    [
        ("IIII", 5_000, 100.0, 100.0),
        ("IIII", 20_000, 100.0, 200.0),
        ("IIII", 20_100, 100.0, 300.0),
        ("0.5", 40_000, None, 200.0),
        ("10", 12_000, None, 1_200.0),
        ("III", 12_000, None, None),
    ],
)
def test_the_error_of_other_classes(accuracy_class, mass_kg, e_kg, error_kg):
    assert permissible_error_kg(mass_kg, accuracy_class, e_kg) == error_kg


@pytest.mark.parametrize(
    ("percent", "within_kg", "factor", "limit_kg"),
    [
        (3.0, 0.0, 0.0, 600.0),
        (1.0, 500.0, 0.0, 500.0),
        (0.0, 0.0, 2.0, 80.0),
        (1.0, 100.0, 8.0, 320.0),
    ],
)
def test_the_limit_is_the_largest_of_percent_mass_and_the_scales_own_error(
    percent, within_kg, factor, limit_kg
):
    options = dataclasses.replace(
        OPTIONS,
        declared_percent=percent,
        declared_within_kg=within_kg,
        declared_mpe_factor=factor,
    )
    at = check(part(20_000.0 + limit_kg), 20_000.0, options)
    over = check(part(20_000.0 + limit_kg + 0.5), 20_000.0, options)
    assert (at.result, over.result) == ("agrees", "differs")
    assert at.limit_kg == limit_kg
    assert over.difference_kg == limit_kg + 0.5


@settings(max_examples=100, deadline=None)
@given(
    declared=st.floats(100, 60_000),
    difference=st.floats(-5_000, 5_000),
    percent=st.floats(0, 10),
    within=st.floats(0, 1_000),
    factor=st.floats(0, 5),
)
def test_no_difference_within_the_legal_error_is_ever_a_finding(
    declared, difference, percent, within, factor
):
    options = dataclasses.replace(
        OPTIONS, declared_percent=percent, declared_within_kg=within, declared_mpe_factor=factor
    )
    mass_kg = max(0.0, declared + difference)
    found = check(part(mass_kg), declared, options)
    steps = mass_kg / 20
    own_kg = 20 * (1 if steps <= 500 else 2 if steps <= 2000 else 3)
    if abs(mass_kg - declared) < factor * own_kg - 1e-6:
        assert found.result == "agrees"
    if abs(mass_kg - declared) > max(declared * percent / 100, within, factor * own_kg) + 1e-5:
        assert found.result == "differs"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"stable": False}, "the weight was in motion"),
        ({"stable": None}, "nobody says that the weight was stable"),
        ({"invalid": "the scale was lost"}, "the weighing is invalid: the scale was lost"),
        ({"mass_kg": None}, "the scale gave no weight"),
        ({"range": "over"}, "the scale gave no weight"),
        ({"mode": "net"}, "the weight is net, the declared mass gross"),
    ],
)
def test_what_cannot_be_judged_is_not_judged_and_says_why(changes, why):
    found = check(dataclasses.replace(part(), **changes), 1.0, OPTIONS)
    assert (found.result, found.difference_kg, found.why) == ("not_judged", None, why)


def test_an_indicator_that_names_no_mode_is_taken_as_gross():
    assert check(part(mode="unknown"), 20_000.0, OPTIONS).result == "agrees"
    net = dataclasses.replace(OPTIONS, declared_as="net")
    assert check(part(mode="unknown"), 20_000.0, net).result == "not_judged"
    assert check(part(mode="net"), 20_000.0, net).result == "agrees"


# ---------------------------------------------------------------- the lane


def bench(**scale):
    given = {"max_gap_s": 30.0, "e_kg": 20.0, "declared_percent": 3.0, **scale}
    lane = Bench(scale=ScaleOptions(**given), join_gap_s=0.0)
    lane.rules = dataclasses.replace(
        lane.rules,
        metals={},
        readers={
            "desk": IdentityOptions(relation="before", max_gap_s=60.0, identity_privacy="clear")
        },
    )
    for device in ("rpm", "scale", "desk"):
        lane.link(0, device, up=True)
    lane.background(0)
    return lane


def declare(lane, at_s, kg, value="0000012345"):
    lane.read(at_s, Identity(kind="code", value=value, declared_kg=kg), "desk")


def mismatches(lane):
    return [a for a in lane.alarms("weight") if a.code == "declared_mismatch"]


def test_a_weight_that_agrees_stands_in_the_passage_and_is_no_alarm():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.weigh(20, 20_400)
    lane.tick(100)
    scale = lane.passages()[-1].scale
    assert (scale.declared_kg, scale.declared_check.result) == (20_000.0, "agrees")
    assert (scale.declared_check.difference_kg, scale.declared_check.limit_kg) == (400.0, 600.0)
    assert mismatches(lane) == []
    assert lane.passages()[-1].priority == "routine"


def test_without_a_declaration_nothing_is_said():
    lane = bench()
    lane.vehicle(10, 4)
    lane.weigh(20, 20_400)
    lane.tick(100)
    scale = lane.passages()[-1].scale
    assert (scale.declared_kg, scale.declared_check) == (None, None)


def test_a_vehicle_that_is_too_heavy_is_said_while_it_stands_on_the_scale():
    lane = bench(declared_alarm="elevated")
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.read(20, weight(21_000), "scale")
    lane.read(21, weight(21_000), "scale")
    (alarm,) = mismatches(lane)
    assert (alarm.phase, alarm.severity, alarm.kind, alarm.source) == (
        "raised",
        "elevated",
        "weight",
        "agent",
    )
    (evidence,) = alarm.evidence
    assert (evidence.observed, evidence.expected, evidence.statistic, evidence.threshold) == (
        21_000.0,
        20_000.0,
        1_000.0,
        600.0,
    )
    assert alarm.passage_id == lane.state.of(Vehicles).transits[-1].passage_id
    assert [i.value for i in alarm.identity] == ["0000012345"]
    assert alarm.alarm_id in lane.snapshot(21).alarms


def test_a_vehicle_that_is_too_light_is_said_when_it_has_left_and_not_while_it_rolls_on():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    for at_s, kg in ((20, 7_000), (21.5, 7_000), (23, 15_000), (25, 15_000)):
        lane.read(at_s, weight(kg), "scale")
    assert mismatches(lane) == []
    lane.read(26, weight(0), "scale")
    (alarm,) = mismatches(lane)
    assert alarm.evidence[0].statistic == -5_000.0
    assert "5000 kg less" in alarm.text


def test_the_first_axles_at_rest_on_the_scale_are_no_mismatch_where_the_whole_agrees():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    for at_s, kg in ((20, 7_000), (21.5, 7_000), (23, 20_000), (25, 20_000), (26, 0)):
        lane.read(at_s, weight(kg), "scale")
    lane.tick(100)
    assert mismatches(lane) == []
    assert lane.passages()[-1].scale.declared_check.result == "agrees"


def test_a_mismatch_is_raised_once_and_cleared_once_and_named_in_its_passage():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.weigh(20, 21_000)
    lane.tick(100)
    lane.tick(1000)
    assert [a.phase for a in mismatches(lane)] == ["raised", "cleared"]
    passage = lane.passages()[-1]
    assert passage.alarm_ids == (mismatches(lane)[0].alarm_id,)
    assert "declared_mismatch" in passage.reasons
    assert passage.priority == "elevated"


def test_a_declaration_that_comes_after_the_weight_is_judged_too():
    lane = bench()
    lane.rules = dataclasses.replace(
        lane.rules, readers={"desk": IdentityOptions(relation="after", max_gap_s=60.0)}
    )
    lane.vehicle(10, 4)
    lane.weigh(20, 25_000)
    declare(lane, 40, 20_000.0)
    assert [a.phase for a in mismatches(lane)] == ["raised"]
    lane.tick(100)
    assert lane.passages()[-1].scale.declared_check.result == "differs"


def test_an_orderly_stop_clears_it():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.weigh(20, 25_000)
    lane.stop(30)
    assert [a.phase for a in mismatches(lane)] == ["raised", "cleared"]
    assert lane.snapshot(30).alarms == ()


def test_off_means_that_only_the_passage_says_it():
    lane = bench(declared_alarm="off")
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.weigh(20, 25_000)
    lane.tick(100)
    assert mismatches(lane) == []
    assert "declared_mismatch" in lane.passages()[-1].reasons


def test_two_declarations_that_differ_are_not_judged_and_equal_ones_are():
    for second, result in ((20_000.0, "agrees"), (19_000.0, "not_judged")):
        lane = bench()
        declare(lane, 4, 20_000.0, "1")
        declare(lane, 5, second, "2")
        lane.vehicle(10, 4)
        lane.weigh(20, 20_000)
        lane.tick(100)
        passage = lane.passages()[-1]
        assert passage.scale.declared_check.result == result
        assert ("declared_not_judged" in passage.reasons) is (result == "not_judged")


def test_a_weight_in_motion_is_not_judged_and_the_passage_says_so():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.read(20, weight(25_000, stable=False), "scale")
    lane.read(21, weight(0), "scale")
    lane.tick(100)
    passage = lane.passages()[-1]
    assert passage.scale.declared_check.why == "the weight was in motion"
    assert "declared_not_judged" in passage.reasons
    assert mismatches(lane) == []


def test_a_weight_that_fits_two_vehicles_is_judged_for_neither():
    lane = bench(max_gap_s=60.0)
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 2, number=1)
    lane.vehicle(15, 2, number=2)
    lane.weigh(25, 30_000)
    lane.tick(200)
    assert mismatches(lane) == []
    assert all(p.scale is None for p in lane.passages()[-2:])


@pytest.mark.parametrize("seed", range(8))
def test_ticks_change_no_record_of_a_declaration(seed):
    print(f"seed={seed}")
    rng = random.Random(seed)
    declared, mass = rng.choice([15_000.0, 20_000.0, 26_000.0]), rng.choice([15_000, 20_000])
    ticks = sorted(rng.randrange(0, 2000) / 10 for _ in range(40))

    def run(with_ticks):
        lane = bench()
        steps = [(5.0, lambda: declare(lane, 5, declared)), (10.0, lambda: lane.vehicle(10, 4))]
        steps += [(19.0, lambda: lane.weigh(20, mass))]
        if with_ticks:
            busy = ((5.0, 5.0), (10.0, 14.0), (19.0, 25.0))
            steps += [
                (t, lambda t=t: lane.tick(t))
                for t in ticks
                if not any(first <= t <= last for first, last in busy)
            ]
        for _, do in sorted(steps, key=lambda s: s[0]):
            do()
        lane.stop(300)
        return lane.records

    assert run(True) == run(False)


def test_what_the_centre_gets_is_as_the_schemas_say():
    lane = bench()
    declare(lane, 5, 20_000.0)
    lane.vehicle(10, 4)
    lane.weigh(20, 25_000)
    lane.stop(60)
    for number, record in enumerate(lane.records, start=1):
        if record.lane is not None:
            topic, payload = ENCODER(record, "3f9c", number, 1_000_000)
            check_message(topic, payload)
