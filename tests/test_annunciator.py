"""What beacon, siren, light and barrier should show, from what the lane knows."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench, stamp

from agent.lane import annunciator
from agent.lane.annunciator import Announcements
from agent.lane.instruments.contacts import Contacts
from agent.lane.options.instruments import ContactOptions, OutputOptions
from agent.lane.step import is_occupied
from agent.lane.vehicles import Vehicles
from drivers.readings import Contact, DeviceState, MetalAlarm

LOUD = (400,) * 4


def bench(contacts=None, **options):
    lane = Bench(join_gap_s=2.0, **options.pop("lane", {}))
    given = contacts or {"under_barrier": ("loop",), "barrier_closed": "down", "barrier_open": "up"}
    lane.rules = dataclasses.replace(
        lane.rules,
        outputs={"io": OutputOptions(**options)},
        contacts={"gate": ContactOptions(**given)},
    )
    for device in ("rpm", "gate"):
        lane.link(0, device, up=True)
    lane.background(0)
    return lane


def shown(lane, at_s):
    now = stamp(at_s)
    occupied = is_occupied(lane.state, lane.rules)
    return annunciator.wanted(lane.state, now, lane.rules, "io", occupied=occupied)


def on(lane, at_s):
    return {name for name, is_on in shown(lane, at_s).levels.items() if is_on}


def contact(lane, at_s, name, active):
    lane.read(at_s, Contact(name=name, active=active), "gate")


def vehicle(lane, at_s, *, alarm=False, number=1):
    """A vehicle for 4 s; it is sealed 2 s later."""
    counts = LOUD if alarm else (80,) * 4
    lane.vehicle(at_s, 4.0, counts, number=number, alarm=alarm)
    lane.tick(at_s + 6.5)


# ---------------------------------------------------------------- light, beacon, siren


def test_all_is_green_only_where_the_portal_is_heard_and_nothing_is_wrong():
    lane = bench()
    assert (shown(lane, 1).shown, on(lane, 1)) == ("routine", {"green"})
    lane.link(2, "rpm", up=False)
    assert (shown(lane, 2).shown, on(lane, 2)) == ("fault", {"red", "yellow"})


def test_a_lane_that_has_heard_nothing_yet_is_not_green():
    lane = bench()
    lane.state = type(lane.state)()
    assert on(lane, 1) == {"red", "yellow"}


def test_an_occupied_portal_is_red_for_the_next_vehicle():
    lane = bench()
    lane.gamma(5)
    assert (shown(lane, 5).shown, on(lane, 5)) == ("occupied", {"red"})
    lane.leave(8)
    assert on(lane, 8) == {"green"}


def test_a_gamma_alarm_lights_beacon_and_siren_and_the_light_outlasts_the_siren():
    lane = bench(siren_s=30.0, hold_s=5.0)
    for n in range(15):
        lane.gamma(10 + 0.2 * n, LOUD, alarm=n >= 5)
    now = shown(lane, 13)
    assert (now.shown, now.kinds) == ("alarm", {"gamma"})
    assert on(lane, 13) == {"beacon", "siren", "red"}
    assert on(lane, 40.9) == {"beacon", "siren", "red"}
    assert on(lane, 41.1) == {"beacon", "red"}


def test_a_short_alarm_is_shown_for_the_hold_time_and_no_longer():
    lane = bench(hold_s=5.0)
    lane.read(10, MetalAlarm(active=True, pulses=None), "metal")
    lane.read(11, MetalAlarm(active=False, pulses=None), "metal")
    lane.tick(13)
    (cleared,) = lane.alarms("metal", "cleared")
    at_s = cleared.stamp.mono_us / 1e6
    assert "beacon" in on(lane, at_s + 4.9)
    assert "beacon" not in on(lane, at_s + 5.1)
    assert "siren" not in on(lane, 10)


def test_a_new_alarm_sounds_the_silent_siren_again():
    lane = bench(siren_s=2.0)
    for n in range(30):
        lane.gamma(10 + 0.2 * n, LOUD, alarm=n >= 5)
    assert "siren" not in on(lane, 15)
    lane.neutron(16, 5, alarm=True)
    assert "siren" in on(lane, 16.5)


def test_an_over_range_that_an_alarm_becomes_sounds_the_siren_again():
    lane = bench(siren_s=2.0)
    for n in range(30):
        lane.gamma(10 + 0.2 * n, (4100, 0, 0, 0), alarm=False)
    raised = [a for a in lane.alarms("gamma") if a.code == "over_range"]
    assert raised
    assert "siren" in on(lane, raised[0].stamp.mono_us / 1e6)


def test_out_of_service_is_red_but_an_alarm_is_still_an_alarm():
    lane = bench(lane={"in_service": False})
    assert (shown(lane, 1).shown, on(lane, 1)) == ("out_of_service", {"red"})
    for n in range(15):
        lane.gamma(10 + 0.2 * n, LOUD, alarm=n >= 5)
    assert on(lane, 12.9) == {"beacon", "siren", "red"}


def test_a_fault_of_severity_notice_is_not_shown():
    lane = bench()
    lane.read(1, DeviceState(condition="output_mismatch", active=True), "io")
    assert on(lane, 1) == {"red", "yellow"}
    lane.read(2, DeviceState(condition="output_mismatch", active=False), "io")
    assert on(lane, 2) == {"green"}


def test_kinds_that_the_site_left_out_light_no_beacon():
    lane = bench(beacon_kinds=("neutron",), siren_kinds=())
    for n in range(15):
        lane.gamma(10 + 0.2 * n, LOUD, alarm=n >= 5)
    assert on(lane, 12.9) == {"red"}


def test_nothing_is_remembered_where_the_lane_has_no_outputs():
    lane = Bench()
    lane.background(0)
    for n in range(15):
        lane.gamma(10 + 0.2 * n, LOUD, alarm=n >= 5)
    assert lane.state.of(Announcements).announced == {}


def test_outputs_change_no_record():
    with_outputs, without = bench(), bench()
    without.rules = dataclasses.replace(without.rules, outputs={})
    for lane in (with_outputs, without):
        vehicle(lane, 10, alarm=True)
        lane.stop(100)
    assert with_outputs.records == without.records


# ---------------------------------------------------------------- the barrier


def routine(**options):
    lane = bench(barrier="routine", close_after_s=2.0, **options)
    contact(lane, 1, "loop", False)
    contact(lane, 1, "down", True)
    contact(lane, 1, "up", False)
    return lane


def signal(lane, at_s):
    command = shown(lane, at_s).command
    return None if command is None else command.signal


def test_the_barrier_opens_for_a_vehicle_without_any_finding_and_closes_behind_it():
    lane = routine()
    vehicle(lane, 10)
    opened = shown(lane, 16.5).command
    assert opened.signal == "barrier_open"
    assert opened.passage_id == lane.state.of(Vehicles).transits[-1].passage_id
    contact(lane, 17, "down", False)
    contact(lane, 18, "up", True)
    assert signal(lane, 18) is None, "it is up"
    contact(lane, 19, "loop", True)
    assert signal(lane, 25) is None
    contact(lane, 26, "loop", False)
    assert signal(lane, 27.9) is None
    closed = shown(lane, 28.1).command
    assert (closed.signal, closed.passage_id) == ("barrier_close", opened.passage_id)


def test_a_vehicle_with_an_alarm_is_not_let_through():
    lane = routine()
    vehicle(lane, 10, alarm=True)
    assert [a.phase for a in lane.alarms("gamma")][-1] == "cleared", "it stands no more"
    assert signal(lane, 16.5) is None


def test_a_vehicle_that_was_not_measured_is_not_let_through():
    lane = routine()
    lane.gamma(10)
    lane.link(11, "rpm", up=False)
    lane.tick(20)
    assert signal(lane, 20) is None


@pytest.mark.parametrize("name", ["metal", "scale", "gate"])
def test_while_an_instrument_of_the_lane_is_lost_nobody_is_let_through_by_itself(name):
    lane = routine()
    lane.link(5, name, up=False)
    vehicle(lane, 10)
    assert signal(lane, 16.5) is None


def test_a_manual_barrier_is_never_moved():
    lane = bench(barrier="manual")
    vehicle(lane, 10)
    assert signal(lane, 16.5) is None


def test_a_decision_that_could_not_be_carried_out_is_not_carried_out_later():
    lane = routine()
    vehicle(lane, 10)
    decided_s = lane.state.of(Announcements).barrier.decided.mono_us / 1e6
    assert signal(lane, decided_s + 9.9) == "barrier_open"
    assert signal(lane, decided_s + 10.1) is None


def test_an_open_barrier_closes_when_the_next_vehicle_raises_a_radiation_alarm():
    lane = routine()
    vehicle(lane, 10)
    contact(lane, 17, "down", False)
    contact(lane, 18, "up", True)
    for n in range(15):
        lane.gamma(20 + 0.2 * n, LOUD, alarm=n >= 5)
    command = shown(lane, 23).command
    assert (command.signal, command.why) == ("barrier_close", "a gamma alarm stands")


def test_a_barrier_that_is_still_up_does_not_let_the_next_vehicle_with_an_alarm_follow():
    lane = routine()
    vehicle(lane, 10)
    contact(lane, 17, "down", False)
    contact(lane, 18, "up", True)
    contact(lane, 19, "loop", True)  # the first one stands under it for long
    vehicle(lane, 20, alarm=True, number=2)
    assert signal(lane, 27) is None
    contact(lane, 40, "loop", False)
    assert signal(lane, 40) == "barrier_close"


@pytest.mark.parametrize("level", [True, None])
@pytest.mark.parametrize("name", ["loop", "photocell"])
def test_the_interlock_never_lets_it_close_over_what_is_there_or_unknown(name, level):
    lane = routine(contacts={"under_barrier": ("loop",), "presence": ("photocell",)})
    for each in ("loop", "photocell"):
        contact(lane, 1, each, False)
    assert annunciator.interlock(lane.state, lane.rules, "io", "barrier_close") is None
    contact(lane, 2, name, level)
    why = annunciator.interlock(lane.state, lane.rules, "io", "barrier_close")
    assert why == f"gate {name} is {'active' if level else 'unknown'}"


def test_the_interlock_never_lets_it_close_without_any_contact_or_with_a_lost_module():
    lane = routine()
    lane.link(3, "gate", up=False)
    why = annunciator.interlock(lane.state, lane.rules, "io", "barrier_close")
    assert why == "gate loop is unknown"
    lane.rules = dataclasses.replace(lane.rules, contacts={})
    why = annunciator.interlock(lane.state, lane.rules, "io", "barrier_close")
    assert "no contact" in why


@pytest.mark.parametrize(
    ("kind", "despite"), [("gamma", False), ("neutron", False), ("gamma", True)]
)
def test_the_interlock_never_lets_it_open_against_radiation_unless_the_site_says_so(kind, despite):
    lane = routine(opens_despite_radiation=despite)
    for n in range(15):
        lane.gamma(20 + 0.2 * n, LOUD, alarm=kind == "gamma" and n >= 5)
    if kind == "neutron":
        lane.neutron(23, 9, alarm=True)
    why = annunciator.interlock(lane.state, lane.rules, "io", "barrier_open")
    assert why == (None if despite else f"a {kind} alarm stands")


def test_no_other_output_is_a_movement_of_the_barrier():
    lane = routine()
    assert annunciator.interlock(lane.state, lane.rules, "io", "siren") is not None


moves = st.lists(
    st.tuples(
        st.integers(1, 40),
        st.sampled_from(
            ["loop on", "loop off", "loop lost", "clean", "alarm", "portal lost", "portal back"]
        ),
    ),
    max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(moves=moves)
def test_whatever_happens_no_command_closes_over_a_vehicle_and_none_opens_in_an_alarm(moves):
    lane = routine()
    now_s = 100.0
    number = 0
    for tenths, what in moves:
        now_s += tenths / 10
        match what:
            case "loop on" | "loop off":
                contact(lane, now_s, "loop", what == "loop on")
            case "loop lost":
                contact(lane, now_s, "loop", None)
            case "portal lost" | "portal back":
                lane.link(now_s, "rpm", up=what == "portal back")
            case _:
                number += 1
                lane.background(now_s)
                vehicle(lane, now_s + 1, alarm=what == "alarm", number=number)
                now_s += 8
        lane.tick(now_s)
        command = shown(lane, now_s).command
        loop = lane.state.of(Contacts).levels[("gate", "loop")]
        last = lane.state.of(Vehicles).transits[-1] if lane.state.of(Vehicles).transits else None
        if command is not None and command.signal == "barrier_close":
            assert loop is False
        if command is not None and command.signal == "barrier_open":
            assert last is None or not last.alarms
            assert not lane.rules.outputs["io"].opens_despite_radiation
