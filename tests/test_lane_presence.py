"""Lanes whose portal is no TSA one: who tells of a vehicle, who joins in, and what stands alone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import CLEAN, LOUD, Bench, stamp, weight

from agent.lane.alarms import Standing
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.lane.vehicles import Vehicles
from agent.records import Alarm
from drivers.readings import (
    DeviceAlarm,
    DeviceNuclides,
    DoseRate,
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    Housekeeping,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    OccupancyEnd,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
)

TELLS = PortalTraits(presence="told", rule="own")
COUNTS = PortalTraits(presence="none", rule="own")
BOARD = PortalTraits(presence="none", rule="none")


def told(occupied, direction=None, number=None):
    return VehiclePresence(occupied=occupied, direction=direction, number=number)


def gamma(*counts, alarm=False, real_time_s=1.0):
    return GammaCounts(counts=counts, real_time_s=real_time_s, device_alarm=alarm)


def telling_lane(**lane):
    """A lane whose portal says when a vehicle is there; background 400 counts/s."""
    bench = Bench(traits={"rpm": TELLS}, **lane)
    bench.read(0, GammaBackground(cps=(400.0,), variance=(1600.0,)))
    bench.read(0, NeutronBackground(total_cps=2.5, rounded_down=False))
    bench.read(0, told(False, number=6))
    return bench


def lane_of(*traits, **lane):
    """A lane of several radiation devices, named a, b … in this order."""
    names = [chr(ord("a") + i) for i in range(len(traits))]
    return Bench(
        portals=dict.fromkeys(names, RpmOptions()),
        traits=dict(zip(names, traits, strict=True)),
        **lane,
    )


# ------------------------------------------------------------------ a portal that tells


def test_a_vehicle_is_what_the_portal_says_from_its_coming_to_its_leaving():
    lane = telling_lane()
    lane.read(20, told(True, "in", 7))
    for i in range(8):
        lane.read(20 + i, gamma(400 + i))
    lane.read(24, VehicleSpeed(m_per_s=2.5))
    lane.read(24, Undocumented(tag="object_mark", text="3"))
    lane.read(28, told(False, "in", 7))
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.started, passage.ended) == (stamp(20), stamp(28))
    assert (passage.direction, passage.speed_m_per_s) == ("in", 2.5)
    assert (passage.priority, passage.reasons) == ("routine", ())
    assert passage.rpm.occupancy_numbers == (7,)
    assert passage.rpm.gamma_max_cps == 407
    assert passage.rpm.gamma_max_cps_by_detector == (407,)
    assert passage.rpm.gamma_max_sigma == pytest.approx(7 / 20)
    assert passage.rpm.background_cps == (400.0,)
    assert passage.rpm.settings == {}
    assert passage.rpm.device_agreement is None
    assert passage.rpm.undocumented == {"object_mark": "3"}
    assert passage.also == ()


def test_counts_of_an_empty_lane_are_no_vehicle():
    lane = telling_lane()
    for second in range(60):
        lane.read(second, gamma(400))
        lane.read(second, NeutronCounts(counts=(2,), real_time_s=1.0, device_alarm=False))
    lane.tick(200)
    assert lane.passages() == []
    assert lane.alarms() == []
    assert lane.snapshot(60).occupied is False


def test_the_lane_is_occupied_as_the_portal_says_and_unknown_where_it_cannot_say():
    lane = Bench(traits={"rpm": TELLS})
    assert lane.snapshot(0).occupied is None
    for second, occupied in enumerate([False, True, None, True, False]):
        lane.read(second, told(occupied))
        assert lane.snapshot(second).occupied is occupied
    lane.link(9, "rpm", up=False)
    assert lane.snapshot(9).occupied is None


def test_a_vehicle_without_one_count_was_not_measured():
    lane = telling_lane()
    lane.read(20, told(True))
    lane.read(24, told(False))
    lane.tick(100)
    assert lane.passages()[0].reasons == ("not_measured",)
    assert lane.passages()[0].rpm.gamma_max_cps is None


def test_the_devices_gamma_alarm_is_forwarded_with_our_figures_beside_it():
    lane = telling_lane()
    lane.read(20, told(True, number=7))
    (raised,) = lane.read(21, gamma(600, alarm=True))
    assert (raised.source, raised.code, raised.phase) == ("device", "device_gamma", "raised")
    assert raised.passage_id is not None
    poisson, variance = raised.evidence
    assert (poisson.test, poisson.statistic) == ("poisson_sigma", pytest.approx(200 / 20))
    assert (variance.test, variance.statistic) == ("device_variance", pytest.approx(200 / 40))
    lane.read(24, told(False))
    lane.tick(100)
    (passage,) = lane.passages()
    assert passage.rpm.device_gamma_alarm
    assert passage.reasons == ("gamma_device",)
    assert lane.alarms("gamma", "cleared")[0].alarm_id == raised.alarm_id


def test_the_devices_alarm_is_forwarded_where_no_background_is_known():
    lane = Bench(traits={"rpm": TELLS})
    lane.read(0, told(True))
    (raised,) = lane.read(1, gamma(600, alarm=True))
    assert raised.evidence == ()
    assert "background unknown" in raised.text


def test_an_excess_alone_never_alarms_where_the_lane_file_asks_for_none():
    lane = telling_lane()
    lane.read(20, told(True))
    lane.read(21, gamma(4000))
    assert lane.alarms() == []


def test_an_alarm_while_nothing_is_there_stands_until_it_falls_and_is_no_passage():
    lane = telling_lane()
    lane.read(10, gamma(700, alarm=True))
    lane.read(10, NeutronCounts(counts=(40,), real_time_s=1.0, device_alarm=True))
    lane.read(11, gamma(700, alarm=True))
    lane.read(12, gamma(400))
    lane.read(13, NeutronCounts(counts=(2,), real_time_s=1.0, device_alarm=False))
    lane.tick(100)
    said = [(a.kind, a.phase, a.stamp.mono_us // 1_000_000) for a in lane.alarms()]
    assert said == [
        ("gamma", "raised", 10),
        ("neutron", "raised", 10),
        ("gamma", "cleared", 12),
        ("neutron", "cleared", 13),
    ]
    assert lane.passages() == []


def test_an_alarm_just_behind_the_vehicle_is_still_the_vehicles():
    lane = telling_lane()
    lane.read(20, told(True))
    lane.read(21, gamma(400))
    lane.read(22, told(False))
    (raised,) = lane.read(23, gamma(800, alarm=True))
    lane.tick(100)
    assert lane.passages()[0].alarm_ids == (raised.alarm_id,)


def test_own_neutron_tail_is_tested_on_one_interval_because_others_may_overlap_it():
    lane = telling_lane()
    lane.read(20, told(True))
    for i in range(10):
        lane.read(20 + 0.2 * i, NeutronCounts(counts=(8,), real_time_s=1.0, device_alarm=False))
    assert lane.alarms("neutron") == []  # 8 in 1 s: p = 0.004; 40 in 5 s would be an alarm
    lane.read(23, NeutronCounts(counts=(18,), real_time_s=1.0, device_alarm=False))
    (raised,) = lane.alarms("neutron")
    assert (raised.source, raised.evidence[0].window_s) == ("agent", 1.0)


@pytest.mark.parametrize("inside", [True, False])
def test_over_range_wants_two_intervals_and_holds_with_and_without_a_vehicle(inside):
    lane = telling_lane()
    if inside:
        lane.read(20, told(True))
    lane.read(21, gamma(25000))
    lane.read(22, gamma(400))
    assert lane.alarms() == []
    lane.read(23, gamma(25000))
    (raised,) = lane.read(24, gamma(26000))
    assert (raised.code, raised.severity) == ("over_range", "critical")
    lane.read(25, GammaBackground(cps=(400.0,)))
    assert len(lane.alarms()) == 1
    lane.read(26, gamma(400))
    assert len(lane.alarms("gamma", "cleared")) == (0 if inside else 1)


def test_a_second_number_inside_one_occupancy_is_kept_beside_the_first():
    lane = telling_lane()
    for at_s, number in ((20, 7), (22, 7), (23, 8)):
        lane.read(at_s, told(True, number=number))
    lane.read(24, told(False, number=8))
    lane.tick(100)
    assert [p.rpm.occupancy_numbers for p in lane.passages()] == [(7, 8)]


def test_two_occupancies_a_short_gap_apart_are_one_vehicle():
    lane = telling_lane()
    for at_s, occupied in ((20, True), (23, False), (27, True), (30, False)):
        lane.read(at_s, told(occupied))
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.started, passage.ended) == (stamp(20), stamp(30))


# ------------------------------------------------------------------ how an occupancy ends


def test_a_vehicle_that_stands_is_not_timed_out_while_the_sensor_sees_it():
    lane = telling_lane()
    lane.read(20, told(True))
    lane.tick(600)
    assert lane.snapshot(600).occupied
    lane.read(700, told(False))
    lane.tick(800)
    assert lane.passages()[0].ended == stamp(700)
    assert lane.passages()[0].end_reason == "left"


def test_a_sensor_that_cannot_say_any_more_lets_the_vehicle_time_out():
    lane = telling_lane(occupancy_timeout_s=15.0)
    lane.read(20, told(True))
    lane.read(30, told(None))
    lane.tick(100)
    assert lane.passages()[0].ended == stamp(45)
    assert lane.passages()[0].end_reason == "timeout"


def test_a_sensor_that_sees_something_for_ever_is_at_fault_and_holds_no_passage_open():
    lane = telling_lane(longest_occupancy_s=60.0)
    lane.read(20, told(True))
    lane.tick(100)
    (raised,) = lane.alarms("fault")
    assert (raised.code, raised.stamp) == ("occupancy_stuck", stamp(80))
    assert lane.passages()[0].end_reason == "timeout"
    lane.read(200, told(False))
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]
    lane.read(300, told(True))
    lane.read(310, told(False))
    lane.tick(400)
    assert len({p.passage_id for p in lane.passages()}) == 2


def test_a_lost_portal_ends_its_vehicle_and_says_so():
    lane = telling_lane()
    lane.read(20, told(True))
    lane.read(21, gamma(400))
    lane.link(24, "rpm", up=False)
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.end_reason, passage.ended) == ("device_lost", stamp(24))
    assert "portal_lost" in passage.reasons


# ------------------------------------------------------------------ loops and photocells


def test_where_no_portal_tells_a_loop_does_and_the_counts_join():
    lane = lane_of(COUNTS)
    for second in range(0, 100, 5):
        lane.read(second, gamma(50, real_time_s=5.0), "a")
    lane.read(100, told(True, "out"), "loop")
    lane.read(101, gamma(30), "a")
    lane.read(104, told(False), "loop")
    lane.tick(200)
    (passage,) = lane.passages()
    assert (passage.started, passage.ended, passage.direction) == (stamp(100), stamp(104), "out")
    assert passage.rpm.device == "a"
    assert passage.rpm.background_cps is None
    assert passage.rpm.reference_background_cps == (10.0,)
    assert passage.rpm.gamma_max_sigma is None
    assert passage.rpm.gamma_max_sigma_reference == pytest.approx(20 / 10**0.5)


def test_a_lane_without_any_radiation_device_has_passages_of_its_loop_and_scale():
    lane = Bench(portals={})
    lane.link(0, "scale", up=True)
    lane.read(10, told(True), "loop")
    lane.read(14, told(False), "loop")
    lane.weigh(20, 17460)
    lane.tick(200)
    (passage,) = lane.passages()
    assert passage.rpm is None
    assert passage.scale.mass_kg == 17460
    assert passage.reasons == ()


def test_a_vehicle_has_left_when_none_of_several_sees_it():
    lane = Bench(portals={})
    for at_s, device, sees in (
        (10, "one", True),
        (12, "two", True),
        (14, "one", False),
        (18, "two", False),
    ):
        lane.read(at_s, told(sees), device)
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.started, passage.ended) == (stamp(10), stamp(18))


def test_a_lost_loop_leaves_the_vehicle_to_the_others_or_to_the_time_out():
    lane = lane_of(COUNTS, occupancy_timeout_s=15.0)
    lane.read(10, told(True), "loop")
    lane.link(12, "loop", up=False)
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.end_reason, passage.ended) == ("timeout", stamp(27))


def test_a_lost_panel_leaves_the_vehicle_to_the_loop_and_says_that_it_was_lost():
    lane = lane_of(COUNTS)
    lane.read(10, told(True), "loop")
    lane.read(11, gamma(10), "a")
    lane.link(12, "a", up=False)
    lane.read(20, told(False), "loop")
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.end_reason, passage.ended) == ("left", stamp(20))
    assert "portal_lost" in passage.reasons


def test_beside_a_portal_that_tells_a_loop_only_adds_the_direction():
    lane = Bench()
    lane.background(0, n=3)
    lane.read(15, told(True, "out"), "loop")
    assert lane.state.of(Vehicles).transits == ()
    for i in range(20):
        lane.gamma(20 + 0.2 * i)
    lane.read(22, told(True, "in"), "loop")
    lane.read(23, told(False), "loop")
    assert lane.state.of(Vehicles).transits[-1].ended is None
    lane.leave(24)
    lane.tick(100)
    (passage,) = lane.passages()
    assert (passage.started, passage.ended) == (stamp(20), stamp(24))
    assert passage.direction == "in"


# ------------------------------------------------------------------ a detector that decides nothing


def test_a_detector_that_tells_no_background_gets_the_median_of_its_vacant_counts():
    lane = lane_of(COUNTS)
    for second in range(90):
        lane.read(second, gamma(1000 if second % 20 == 0 else 10), "a")
    background = lane.snapshot(90).background["a"]
    assert background.reference_gamma_cps == (10.0,)
    assert background.quality == "good"
    assert background.gamma_cps is None


def test_until_a_minute_is_gathered_the_background_is_being_learned():
    lane = lane_of(COUNTS)
    for second in range(50):
        lane.read(second, gamma(10), "a")
    assert lane.snapshot(50).background["a"].quality == "learning"


def test_our_own_alarm_stands_at_the_sigma_of_the_lane_file_and_falls_well_below_it():
    lane = Bench(portals={"a": RpmOptions(gamma_alarm_sigma=6.0)}, traits={"a": COUNTS})
    for second in range(80):
        lane.read(second, gamma(100), "a")
    # Background 100 counts/s: 6 sigma is 160, 4.8 sigma is 148.
    for second, counts in ((80, 159), (81, 160), (82, 150), (83, 170), (84, 147)):
        lane.read(second, gamma(counts), "a")
    said = [(a.code, a.source, a.phase, a.stamp.mono_us // 1_000_000) for a in lane.alarms()]
    assert said == [("k_sigma", "agent", "raised", 81), ("k_sigma", "agent", "cleared", 84)]
    evidence = lane.alarms()[0].evidence[0]
    assert (evidence.observed, evidence.expected, evidence.threshold) == (160, 100, 6.0)
    assert evidence.statistic == pytest.approx(6.0)


def test_another_number_of_detectors_begins_the_median_anew_and_stops_nothing():
    lane = lane_of(COUNTS)
    for second in range(80):
        lane.read(second, gamma(100), "a")
    for second in range(80, 170):
        lane.read(second, gamma(100, 200), "a")
    assert lane.snapshot(170).background["a"].reference_gamma_cps == (100.0, 200.0)
    lane.read(180, GammaBackground(cps=(1.0,)), "a")
    lane.read(181, gamma(100, 200), "a")
    assert lane.alarms() == []


def test_detectors_without_a_name_in_the_lane_file_go_by_their_number():
    lane = Bench(portals={"a": RpmOptions(detectors=("left",))}, traits={"a": TELLS})
    lane.read(0, GammaBackground(cps=(10.0, 0.0)), "a")
    (raised,) = lane.alarms("fault")
    assert "detector 2 counts nothing" in raised.text


# ------------------------------------------------------------------ several radiation devices


def test_the_first_portal_that_tells_owns_the_passages_wherever_it_stands_in_the_file():
    lane = lane_of(BOARD, COUNTS, TELLS, PortalTraits())
    assert (lane.rules.teller, lane.rules.owner) == ("c", "c")
    assert lane_of(BOARD, COUNTS).rules.owner == "b"
    assert lane_of(BOARD).rules.owner is None


def two_tsa():
    lane = Bench(portals={"rpm": RpmOptions(), "far": RpmOptions()})
    for device in ("rpm", "far"):
        lane.read(0, GammaBackground(cps=(400.0,) * 4), device)
    return lane


def test_a_second_portals_counts_and_alarm_join_the_passage_of_the_first():
    lane = two_tsa()
    for i in range(20):
        lane.gamma(10 + 0.2 * i)
        lane.read(10.1 + 0.2 * i, gamma(*LOUD, alarm=i >= 4, real_time_s=0.2), "far")
    lane.read(13.9, OccupancyEnd(number=55, neutron_background_cps=1.5), "far")
    lane.leave(14, number=17)
    lane.tick(100)
    (passage,) = lane.passages()
    assert passage.rpm.device == "rpm"
    assert passage.rpm.occupancy_numbers == (17,)
    assert not passage.rpm.device_gamma_alarm
    (far,) = passage.also
    assert (far.device, far.occupancy_numbers) == ("far", (55,))
    assert far.device_gamma_alarm
    assert far.gamma_max_cps == 8000
    assert far.device_agreement.intervals == far.device_agreement.agree == 16
    assert far.settings["from"] == "lane file"
    assert passage.alarm_ids == (f"{passage.passage_id}-gamma-device-far",)
    assert passage.reasons == ("gamma_device",)


def test_two_portals_that_alarm_on_one_vehicle_are_two_alarms_and_one_reason():
    lane = two_tsa()
    for i in range(10):
        lane.gamma(10 + 0.2 * i, LOUD, alarm=i >= 4)
        lane.read(10.1 + 0.2 * i, gamma(*LOUD, alarm=i >= 4, real_time_s=0.2), "far")
    lane.leave(12)
    lane.tick(100)
    (passage,) = lane.passages()
    head = f"{passage.passage_id}-gamma-device"
    assert passage.alarm_ids == (head, f"{head}-far")
    assert passage.reasons == ("gamma_device",)
    assert len(lane.alarms("gamma", "raised")) == len(lane.alarms("gamma", "cleared")) == 2


def test_a_second_portal_that_the_vehicle_reaches_later_alarms_for_it_still():
    lane = two_tsa()
    lane.vehicle(10, 3.0)
    lane.read(15, gamma(*LOUD, alarm=True, real_time_s=0.2), "far")
    lane.tick(100)
    (passage,) = lane.passages()
    assert passage.alarm_ids == (f"{passage.passage_id}-gamma-device-far",)


def test_a_second_portal_that_alarms_alone_stands_until_its_background_is_back():
    lane = two_tsa()
    lane.read(30, gamma(*LOUD, alarm=True, real_time_s=0.2), "far")
    assert [a.phase for a in lane.alarms()] == ["raised"]
    lane.read(35, GammaBackground(cps=(400.0,) * 4), "far")
    assert [a.phase for a in lane.alarms()] == ["raised", "cleared"]
    assert lane.passages() == []


def test_losing_a_second_portal_ends_nothing():
    lane = two_tsa()
    lane.gamma(10)
    lane.link(11, "far", up=False)
    assert lane.state.of(Vehicles).transits[-1].ended is None


def test_an_area_monitor_beside_a_portal_adds_its_dose_rate_and_its_alarm():
    lane = Bench(portals={"rpm": RpmOptions(), "area": RpmOptions()}, traits={"area": COUNTS})
    lane.background(0, n=3)
    lane.read(15, DoseRate(usv_per_h=50.0), "area")
    lane.gamma(20)
    for at_s, rate, active in ((20.5, 0.2, False), (21, 3.5, True), (22, 1.0, False)):
        lane.read(at_s, DoseRate(usv_per_h=rate), "area")
        alarm = DeviceAlarm(kind="gamma", code="dose_rate_alarm_1", active=active)
        lane.read(at_s, alarm, "area")
    lane.vehicle(20.6, 4.0)
    lane.tick(100)
    (passage,) = lane.passages()
    (area,) = passage.also
    assert (area.device, area.dose_rate_max_usv_per_h) == ("area", 3.5)
    assert area.gamma_max_cps is None
    assert passage.rpm.dose_rate_max_usv_per_h is None
    assert passage.alarm_ids == (f"{passage.passage_id}-gamma-device-area",)


def test_the_graver_alarm_of_one_device_updates_the_one_that_is_latched():
    lane = telling_lane()
    lane.read(20, told(True))
    for _ in range(3):
        for code in ("dose_rate_alarm_1", "dose_rate_alarm_2", "over_range"):
            lane.read(21, DeviceAlarm(kind="gamma", code=code))
    said = [(a.code, a.phase, a.severity) for a in lane.alarms()]
    assert said == [
        ("dose_rate_alarm_1", "raised", "high"),
        ("dose_rate_alarm_2", "updated", "critical"),
    ]


def test_what_a_device_identified_is_kept_as_its_word_each_nuclide_at_its_surest():
    lane = telling_lane()
    lane.read(10, DeviceNuclides(nuclides=(NuclideFound(name="Ra-226"),)))
    lane.read(20, told(True))
    for found in (
        (NuclideFound(name="K-40", confidence=0.4, category="norm"),),
        (),
        (NuclideFound(name="Cs-137"), NuclideFound(name="K-40", confidence=0.9, category="norm")),
        (NuclideFound(name="K-40", confidence=0.2, category="norm"),),
    ):
        lane.read(21, DeviceNuclides(nuclides=found))
    lane.read(22, told(False))
    lane.tick(100)
    assert lane.passages()[0].rpm.device_nuclides == (
        NuclideFound(name="K-40", confidence=0.9, category="norm"),
        NuclideFound(name="Cs-137"),
    )
    assert lane.alarms() == []


def test_found_nothing_is_not_did_not_look():
    for nuclides, expected in (((), ()), (None, None)):
        lane = telling_lane()
        lane.read(20, told(True))
        if nuclides is not None:
            lane.read(21, DeviceNuclides(nuclides=nuclides))
        lane.read(22, told(False))
        lane.tick(100)
        assert lane.passages()[0].rpm.device_nuclides == expected


def test_housekeeping_and_spectra_are_no_records():
    lane = telling_lane()
    lane.read(10, Housekeeping(quantity="temperature", value=20.0, unit="°C"))
    spectrum = GammaSpectrum(
        detector="1", counts=(1, 2), real_time_s=1.0, live_time_s=None, energy=None
    )
    lane.read(11, spectrum)
    assert lane.records == []


# ------------------------------------------------------------------ anything at all

READING = st.sampled_from(
    [
        ("a", told(True, "in", 1)),
        ("a", told(False)),
        ("a", told(None)),
        ("a", gamma(400)),
        ("a", gamma(30000, alarm=True)),
        ("a", GammaBackground(cps=(400.0,))),
        ("a", NeutronCounts(counts=(30,), real_time_s=1.0, device_alarm=True)),
        ("a", VehicleSpeed(m_per_s=2.0)),
        ("b", gamma(*CLEAN, real_time_s=0.2)),
        ("b", gamma(*LOUD, alarm=True, real_time_s=0.2)),
        ("b", GammaBackground(cps=(400.0,) * 4)),
        ("b", OccupancyEnd(number=3, neutron_background_cps=2.0)),
        ("c", gamma(5)),
        ("c", gamma(5, 6)),
        ("c", DoseRate(usv_per_h=30.0)),
        ("c", DoseRate(usv_per_h=0.1)),
        ("c", DeviceAlarm(kind="gamma", code="over_range")),
        ("c", DeviceAlarm(kind="gamma", code="over_range", active=False)),
        ("c", DeviceNuclides(nuclides=(NuclideFound(name="K-40"),))),
        ("loop", told(True)),
        ("loop", told(False)),
        ("scale", weight(30000)),
        ("scale", weight(0)),
        ("a", True),
        ("a", False),
        ("loop", False),
        ("c", False),
    ]
)
EVENT = st.tuples(st.sampled_from([0.05, 0.2, 1.0, 6.0, 40.0]), READING)
LANES = {
    "a portal that tells": (TELLS, PortalTraits(), COUNTS),
    "loops alone": (COUNTS, PortalTraits(presence="none"), COUNTS),
}


def run(traits, events, *, ticks):
    lane = lane_of(*traits, dose_rate_alarm_usv_per_h=20.0, longest_occupancy_s=60.0)
    at_s = 0.0
    for delay_s, (device, what) in events:
        for i in range(1, ticks):
            lane.tick(at_s + delay_s * i / ticks)
        at_s += delay_s
        if isinstance(what, bool):
            lane.link(at_s, device, up=what)
        else:
            lane.read(at_s, what, device)
    lane.tick(at_s + 1000)
    lane.stop(at_s + 1001)
    return lane


@pytest.mark.parametrize("traits", LANES.values(), ids=LANES.keys())
@settings(max_examples=60, deadline=None)
@given(events=st.lists(EVENT, max_size=50))
def test_any_events_leave_no_alarm_open_and_ticks_change_no_record(traits, events):
    lane = run(traits, events, ticks=1)
    assert run(traits, events, ticks=6).records == lane.records
    assert lane.state.of(Standing).standing == {}
    assert all(t.ended is not None for t in lane.state.of(Vehicles).transits)
    phases: dict[str, list[Alarm]] = {}
    for alarm in lane.alarms():
        phases.setdefault(alarm.alarm_id, []).append(alarm)
    for said in phases.values():
        assert [a.rev for a in said] == list(range(1, len(said) + 1))
        assert (said[0].phase, said[-1].phase) == ("raised", "cleared")
