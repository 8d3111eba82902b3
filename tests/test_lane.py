"""The lane as event tables: what goes in when, and what must be said."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import CLEAN, LOUD, Bench, stamp, weight

from agent.lane.inline import step_answered as step
from agent.lane.options.instruments import MetalOptions
from agent.lane.options.portals import RpmOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.portals import Portals
from agent.lane.state import LaneState
from agent.lane.step import is_vacant
from agent.lane.vehicles import Vehicles
from agent.records import Alarm, Passage, Tick, Timed
from drivers.readings import (
    PARITY_SEEN,
    BadFrame,
    DeviceAlarm,
    DeviceState,
    GammaBackground,
    GammaCounts,
    MetalAlarm,
    MetalPassages,
    NeutronBackground,
    NeutronCounts,
    OccupancyEnd,
    PortalSettings,
    Reason,
    Undocumented,
    VehicleSpeed,
    Weight,
)

# ------------------------------------------------------------------ occupancy


def test_a_clean_vehicle_is_one_routine_passage_without_alarm():
    lane = Bench()
    lane.background(0, n=3)
    lane.vehicle(20, 6.0, number=17)
    lane.tick(60)
    (passage,) = lane.passages()
    assert passage.priority == "routine"
    assert passage.reasons == ()
    assert passage.started == stamp(20)
    assert passage.ended == stamp(26)
    assert passage.end_reason == "left"
    assert passage.rpm.occupancy_number == 17
    assert passage.rpm.gamma_max_cps == 1600
    assert passage.rpm.gamma_max_sigma == 0
    assert passage.scale is None
    assert passage.metal is None
    assert lane.alarms() == []


def test_the_device_gamma_alarm_is_forwarded_at_its_first_interval_and_cleared_at_the_end():
    lane = Bench()
    lane.background(0)
    for i in range(4):
        assert lane.gamma(10 + 0.2 * i, CLEAN) == []
    (raised,) = lane.gamma(10.8, LOUD, alarm=True)
    assert (raised.kind, raised.source, raised.phase, raised.rev) == (
        "gamma",
        "device",
        "raised",
        1,
    )
    assert raised.stamp == stamp(10.8)
    assert raised.evidence[0].observed == 4 * 4 * 80 + 4 * 400
    assert raised.evidence[0].expected == 1600
    assert raised.evidence[0].statistic == pytest.approx((2880 - 1600) / 40)
    lane.leave(14)
    lane.tick(30)
    cleared = lane.alarms("gamma", "cleared")
    assert [a.alarm_id for a in cleared] == [raised.alarm_id]
    assert lane.passages()[0].alarm_ids == (raised.alarm_id,)
    assert lane.passages()[0].priority == "high"


def test_the_device_alarm_is_forwarded_where_no_background_is_known():
    lane = Bench()
    (raised,) = lane.gamma(10, CLEAN, alarm=True)
    assert raised.kind == "gamma"
    assert raised.evidence == ()
    lane.leave(12)
    lane.tick(40)
    assert lane.passages()[0].rpm.background_cps is None
    assert lane.passages()[0].rpm.device_agreement is None


def test_the_recomputed_decision_never_raises_by_itself():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0, LOUD, alarm=False)
    lane.tick(40)
    assert lane.alarms() == []
    agreement = lane.passages()[0].rpm.device_agreement
    assert agreement.intervals == 16
    assert agreement.agree == 0


def test_an_alarm_is_raised_once_however_long_it_lasts_and_updated_as_it_grows():
    lane = Bench()
    lane.background(0)
    for i in range(10):
        lane.gamma(10 + 0.2 * i, (110, 110, 110, 110), alarm=i >= 4)
    assert len(lane.alarms("gamma", "raised")) == 1
    lane.gamma(12.2, (2000, 2000, 2000, 2000), alarm=True)
    (updated,) = lane.alarms("gamma", "updated")
    assert updated.rev == 2
    assert updated.evidence[0].statistic > 100


def test_a_growing_alarm_is_not_said_again_more_than_once_a_second():
    lane = Bench()
    lane.background(0)
    for i in range(15):
        n = 100 * 2**i if i < 7 else 6400
        lane.gamma(10 + 0.2 * i, (n, n, n, n), alarm=i >= 4)
    said = [a.stamp.mono_us for a in lane.alarms("gamma") if a.code == "n_sigma"]
    assert len(said) >= 2
    assert all(b - a >= 1_000_000 for a, b in itertools.pairwise(said))


def test_two_occupancies_within_the_join_gap_are_one_transit():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0, number=5)
    lane.vehicle(17, 4.0, number=6)
    lane.tick(60)
    (passage,) = lane.passages()
    assert passage.started == stamp(10)
    assert passage.ended == stamp(21)
    assert passage.rpm.occupancy_numbers == (5, 6)
    assert passage.rpm.occupancy_number == 6


def test_occupancies_further_apart_than_the_join_gap_are_two_passages():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0, number=5)
    lane.vehicle(19.2, 4.0, number=6)
    lane.tick(60)
    assert [p.rpm.occupancy_numbers for p in lane.passages()] == [(5,), (6,)]


def test_a_source_in_both_halves_of_a_split_vehicle_is_one_alarm():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0, LOUD, alarm=True)
    lane.vehicle(17, 4.0, LOUD, alarm=True)
    lane.tick(60)
    assert len(lane.alarms("gamma", "raised")) == 1
    assert len(lane.alarms("gamma", "cleared")) == 1


def test_background_lines_without_counts_close_an_occupancy_whose_end_was_lost():
    lane = Bench()
    lane.background(0)
    for i in range(10):
        lane.gamma(10 + 0.2 * i)
    lane.background(14.7)
    assert lane.snapshot(14.7).occupied is True
    lane.background(14.9)
    assert lane.snapshot(14.9).occupied is False
    lane.tick(60)
    assert lane.passages()[0].end_reason == "timeout"


def test_an_occupancy_in_which_nothing_is_heard_is_closed_at_its_own_time():
    lane = Bench(occupancy_timeout_s=15.0)
    lane.gamma(10)
    lane.tick(1000)
    (passage,) = lane.passages()
    assert passage.end_reason == "timeout"
    assert passage.ended == stamp(25)


def test_a_portal_lost_in_mid_passage_is_a_fault_and_never_clean():
    lane = Bench()
    lane.link(0, "rpm", up=True)
    lane.background(0)
    lane.gamma(10)
    lane.link(11, "rpm", up=False)
    assert lane.snapshot(11).occupied is None
    (fault,) = lane.alarms("fault", "raised")
    assert fault.code == "device_lost"
    lane.tick(60)
    (passage,) = lane.passages()
    assert passage.end_reason == "device_lost"
    assert passage.priority == "elevated"
    assert "portal_lost" in passage.reasons
    assert "not_measured" in passage.reasons
    lane.link(70, "rpm", up=True)
    assert [a.alarm_id for a in lane.alarms("fault", "cleared")] == [fault.alarm_id]
    (gap,) = lane.audits("gap")
    assert gap.data["from"] == stamp(11)
    assert gap.data["to"] == stamp(70)


def test_an_end_without_an_occupancy_makes_no_passage_but_gives_the_neutron_background():
    lane = Bench()
    lane.leave(5, neutron_cps=2.566)
    lane.tick(60)
    assert lane.passages() == []
    assert lane.state.of(Portals).portals["rpm"].background.neutron_cps == 2.566


def test_stop_closes_what_is_open_and_says_so():
    lane = Bench()
    lane.background(0)
    lane.gamma(10, LOUD, alarm=True)
    lane.stop(11)
    assert lane.passages()[0].end_reason == "agent_stop"
    assert len(lane.alarms("gamma", "cleared")) == 1


def test_stop_takes_standing_faults_back_as_nobody_watches_any_more():
    lane = Bench()
    lane.background(0, level="high")
    lane.stop(5)
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]


def test_is_vacant_only_between_vehicles():
    lane = Bench()
    assert is_vacant(lane.state)
    lane.gamma(10)
    assert not is_vacant(lane.state)
    lane.leave(12)
    assert not is_vacant(lane.state)
    lane.tick(20)
    assert is_vacant(lane.state)


# ------------------------------------------------------------------ speed


def test_a_speed_that_comes_before_the_first_count_belongs_to_that_vehicle():
    lane = Bench()
    lane.background(0)
    lane.read(9.5, VehicleSpeed(m_per_s=2.0))
    lane.vehicle(10, 6.0)
    lane.vehicle(40, 6.0)
    lane.tick(80)
    assert [p.speed_m_per_s for p in lane.passages()] == [2.0, None]


def test_a_false_beam_timing_is_not_a_speed():
    lane = Bench()
    lane.background(0)
    lane.read(9.5, VehicleSpeed(m_per_s=None))
    lane.read(9.6, VehicleSpeed(m_per_s=30.0))
    lane.read(9.7, VehicleSpeed(m_per_s=2.5))
    lane.vehicle(10, 8.0)
    lane.tick(80)
    assert lane.passages()[0].speed_m_per_s == 2.5


# ------------------------------------------------------------------ gamma rule, background


def test_a_printed_background_that_hides_the_fraction_explains_a_disagreement():
    # B = 400 per detector: the sum rule needs 1600 + 4 x 40 = 1760; 1762 is over it by the printed
    # background and under it by one that is 0.9 higher in each detector.
    lane = Bench(rpm=RpmOptions(nsigma=4.0))
    lane.background(0)
    for i in range(5):
        lane.gamma(10 + 0.2 * i, (88, 88, 88, 88) if i < 4 else (89, 89, 88, 88))
    lane.leave(12)
    lane.tick(40)
    agreement = lane.passages()[0].rpm.device_agreement
    assert (agreement.intervals, agreement.agree, agreement.rounding) == (1, 0, 1)


def test_the_rule_holds_at_exactly_nsigma():
    # B = 400 per detector: 1760 counts are 4.0 sigma of the sum, neither more nor less.
    lane = Bench(rpm=RpmOptions(nsigma=4.0))
    lane.background(0)
    for i in range(5):
        lane.gamma(10 + 0.2 * i, (88, 88, 88, 88), alarm=i == 4)
    lane.leave(12)
    lane.tick(40)
    agreement = lane.passages()[0].rpm.device_agreement
    assert (agreement.intervals, agreement.agree) == (1, 1)


def test_every_occupancy_begins_with_an_empty_window():
    lane = Bench()
    lane.background(0)
    lane.neutron_background(0, 2.5)
    for at_s in (10, 40):
        for i in range(3):
            lane.neutron(at_s + i, 4)
        lane.vehicle(at_s + 3, 4.0)
    lane.tick(100)
    assert [p.rpm.device_agreement.intervals for p in lane.passages()] == [16, 16]
    first, second = (p.rpm.neutron_p for p in lane.passages())
    assert first == second


def test_the_pillars_decide_where_the_sum_does_not():
    # Worked example of a real first alarm: background 385 392 417 404, sums 440 396 540 427.
    lane = Bench(rpm=RpmOptions(nsigma=5.0))
    lane.read(0, GammaBackground(cps=(385.0, 392.0, 417.0, 404.0)))
    for counts in ((88, 79, 108, 85),) * 4:
        lane.gamma(10, counts)
    (raised,) = lane.gamma(10.8, (88, 80, 108, 87), alarm=True)
    assert raised.evidence[0].statistic == pytest.approx(5.128, abs=0.001)
    assert raised.detectors == ("1", "2", "3", "4")


def test_a_suspect_background_is_said_and_significance_is_given_against_both():
    lane = Bench()
    lane.background(0, cps=400, n=40)
    lane.background(200, cps=300)
    lane.vehicle(202, 4.0)
    lane.tick(260)
    (passage,) = lane.passages()
    assert passage.rpm.background_quality == "suspect"
    assert passage.rpm.background_cps == (300,) * 4
    assert passage.rpm.reference_background_cps == (400,) * 4
    assert passage.rpm.gamma_max_sigma == pytest.approx(400 / 1200**0.5)
    assert passage.rpm.gamma_max_sigma_reference == 0
    assert passage.priority == "elevated"
    assert "background_suspect" in passage.reasons


def test_the_background_is_learning_until_its_median_covers_a_minute():
    lane = Bench()
    lane.background(0, n=3)
    assert lane.snapshot(11).background["rpm"].quality == "learning"
    lane.background(15, n=12)
    assert lane.snapshot(71).background["rpm"].quality == "good"


def test_background_inside_an_occupancy_never_enters_the_median():
    lane = Bench()
    lane.background(0, n=20)
    lane.gamma(100)
    before = lane.state.of(Portals).portals["rpm"].background.history
    lane.background(100.5, cps=900)
    assert lane.state.of(Portals).portals["rpm"].background.history == before
    assert lane.state.of(Portals).portals["rpm"].background.gamma_cps == (900,) * 4


@pytest.mark.parametrize("level", ["high", "low"])
def test_a_background_level_fault_stands_until_the_portal_takes_it_back(level):
    lane = Bench()
    lane.background(0, level=level)
    lane.background(5, level=level)
    (fault,) = lane.alarms("fault", "raised")
    assert fault.code == f"gamma_background_{level}"
    assert fault.source == "device"
    assert lane.snapshot(6).alarms == (fault.alarm_id,)
    lane.background(10)
    assert lane.alarms("fault", "cleared")[0].alarm_id == fault.alarm_id
    assert lane.snapshot(11).alarms == ()


def test_a_detector_that_counts_nothing_is_a_fault_not_clean():
    lane = Bench()
    lane.read(0, GammaBackground(cps=(400.0, 0.0, 400.0, 400.0)))
    (fault,) = lane.alarms("fault")
    assert fault.code == "detector_2_silent"


def test_a_detector_that_is_switched_off_is_no_fault_and_not_in_any_group():
    lane = Bench()
    lane.read(0, PortalSettings(detectors_on=(True, False, True, True), line="SG2"))
    lane.read(1, GammaBackground(cps=(400.0, 0.0, 400.0, 400.0)))
    assert lane.alarms("fault") == []
    for i in range(5):
        lane.gamma(10 + 0.2 * i, (80, 900, 80, 80))
    assert lane.state.of(Vehicles).transits[-1].tally.sigma == 0


def test_over_range_needs_no_background_and_keeps_people_away():
    lane = Bench(over_range_cps=20000)
    assert lane.gamma(10, (4000, 80, 80, 80)) == []
    (raised,) = lane.gamma(10.2, (4100, 80, 80, 80))
    assert (raised.code, raised.severity, raised.source) == ("over_range", "critical", "agent")
    assert "keep people away" in raised.text
    assert raised.detectors == ("1",)
    lane2 = Bench(over_range_cps=20000)
    for at_s in (10, 10.2, 10.4):
        assert lane2.gamma(at_s, (3999, 80, 80, 80)) == []


def test_one_wild_interval_on_a_line_without_checksum_is_not_over_range():
    lane = Bench(over_range_cps=20000)
    for counts in (CLEAN, (800080, 80, 80, 80), CLEAN, (80, 80, 80, 900080), CLEAN):
        assert lane.gamma(10, counts) == []


def test_over_range_is_raised_in_an_empty_lane_too():
    lane = Bench()
    lane.background(0, cps=25000, level="high")
    assert [a.code for a in lane.alarms("gamma", "raised")] == ["over_range"]
    lane.background(5)
    assert len(lane.alarms("gamma", "cleared")) == 1


def test_a_background_line_over_range_inside_an_occupancy_is_not_a_second_alarm():
    lane = Bench(over_range_cps=20000)
    lane.gamma(10, (4000, 80, 80, 80))
    lane.gamma(10.2, (4000, 80, 80, 80))
    lane.background(10.3, cps=25000)
    assert [a.code for a in lane.alarms("gamma", "raised")] == ["over_range"]


def test_a_lane_out_of_service_records_and_says_so():
    lane = Bench(in_service=False)
    lane.background(0)
    lane.vehicle(10, 4.0, LOUD, alarm=True)
    lane.tick(60)
    assert lane.passages()[0].reasons == ("gamma_device", "out_of_service")
    assert lane.snapshot(60).in_service is False


# ------------------------------------------------------------------ settings


def test_the_portals_own_settings_take_over_and_a_mismatch_is_said():
    lane = Bench(rpm=RpmOptions(nsigma=4.0))
    line = "SG1,002000,000068,05,10,05.0,P"
    lane.read(0, PortalSettings(nsigma=5.0, intervals=5, line=line))
    (fault,) = lane.alarms("fault", "raised")
    assert fault.code == "settings_mismatch"
    assert lane.audits("settings")[0].data["line"] == line
    lane.background(1)
    lane.vehicle(10, 4.0)
    lane.tick(40)
    assert lane.passages()[0].rpm.settings["nsigma"] == 5.0
    assert lane.passages()[0].rpm.settings["from"] == "lane file and portal"
    lane.read(50, PortalSettings(nsigma=4.0, line="SG1"))
    assert len(lane.alarms("fault", "cleared")) == 1


def test_a_pinned_setting_outranks_what_the_recording_carries():
    lane = Bench(rpm=RpmOptions(nsigma=4.5), pinned={"nsigma"})
    lane.read(0, PortalSettings(nsigma=5.0, line="SG1"))
    lane.background(1)
    lane.vehicle(10, 4.0)
    lane.tick(40)
    assert lane.passages()[0].rpm.settings["nsigma"] == 4.5


# ------------------------------------------------------------------ neutron


def test_neutrons_are_tested_by_their_exact_tail():
    lane = Bench()
    lane.neutron_background(0, 2.5)
    for i in range(3):
        assert lane.neutron(10 + i, 3) == []
    (raised,) = lane.neutron(13, 22)
    assert (raised.kind, raised.source, raised.code) == ("neutron", "agent", "poisson_tail")
    assert raised.evidence[0].p < 1e-5
    lane.leave(15)
    lane.tick(50)
    assert lane.passages()[0].rpm.neutron_max_cps == 22
    assert lane.passages()[0].rpm.neutron_p == raised.evidence[0].p


def test_a_rounded_neutron_background_is_no_basis_for_a_decision():
    lane = Bench()
    lane.read(0, NeutronBackground(total_cps=0.0, rounded_down=True))
    assert lane.neutron(10, 50) == []
    lane.leave(12)
    lane.tick(50)
    assert lane.passages()[0].rpm.neutron_p is None
    assert lane.passages()[0].rpm.neutron_background_cps is None


def test_the_devices_neutron_alarm_and_ours_are_two_alarms_by_source():
    lane = Bench()
    lane.neutron_background(0, 2.5)
    lane.neutron(10, 40, alarm=True)
    assert {a.source for a in lane.alarms("neutron", "raised")} == {"device", "agent"}


def test_a_slow_rise_is_found_in_the_longer_windows():
    lane = Bench(neutron_window_s=5)
    lane.neutron_background(0, 2.5)
    for i in range(5):
        lane.neutron(10 + i, 8)
    (raised,) = lane.alarms("neutron", "raised")
    assert raised.evidence[0].window_s >= 3


def test_a_high_neutron_background_is_a_fault():
    lane = Bench()
    lane.read(0, NeutronBackground(total_cps=60.0, rounded_down=True, level="high"))
    assert lane.alarms("fault")[0].code == "neutron_background_high"


# ------------------------------------------------------------------ other words of the portal


def test_a_window_alarm_is_spectral_and_the_devices():
    lane = Bench()
    lane.gamma(10)
    alarm = DeviceAlarm(kind="spectral", code="window_ratio", detail="000001")
    (raised,) = lane.read(10.1, alarm)
    assert (raised.kind, raised.source, raised.code) == ("spectral", "device", "window_ratio")
    assert lane.read(10.3, alarm) == []


def test_a_window_alarm_outside_an_occupancy_is_forwarded_too():
    lane = Bench()
    lane.read(0, DeviceAlarm(kind="spectral", code="window_ratio"))
    lane.background(5)
    assert [a.phase for a in lane.alarms("spectral")] == ["raised", "cleared"]


def test_tamper_is_an_alarm_of_its_own_kind():
    lane = Bench()
    lane.read(0, DeviceState(condition="tamper", active=True, detail="cabinet (TT)"))
    lane.read(5, DeviceState(condition="tamper", active=False))
    assert [(a.kind, a.phase) for a in lane.alarms()] == [
        ("tamper", "raised"),
        ("tamper", "cleared"),
    ]


def test_undocumented_lines_are_kept_raw():
    lane = Bench()
    lane.read(0, Undocumented(tag="NX", text="9.50437640,-0.99599343"))
    lane.vehicle(10, 4.0)
    lane.tick(60)
    assert lane.passages()[0].rpm.undocumented == {"NX": "9.50437640,-0.99599343"}


def test_a_refused_frame_changes_nothing():
    lane = Bench()
    before = lane.snapshot(0)
    lane.read(0, BadFrame.of(Reason.SYNTAX, b"??", "x"))
    assert lane.records == []
    assert lane.snapshot(0) == before


# ------------------------------------------------------------------ scale


def test_a_weight_after_the_occupancy_joins_its_passage():
    lane = Bench()
    lane.link(0, "scale", up=True)
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.weigh(22, 38000)
    (passage,) = lane.passages()
    assert passage.scale.mass_kg == 38000
    assert passage.scale.stable is True
    assert passage.scale.legal is False
    assert passage.rev == 1


def test_a_weight_that_comes_after_its_passage_was_said_is_a_higher_rev():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.tick(20)
    lane.weigh(22, 38000)
    first, second = lane.passages()
    assert first.passage_id == second.passage_id
    assert (first.rev, first.scale) == (1, None)
    assert (second.rev, second.scale.mass_kg) == (2, 38000)


def test_a_passage_waits_for_a_scale_that_is_there_and_no_longer_than_its_gap():
    lane = Bench()
    lane.link(0, "scale", up=True)
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.tick(43.9)
    assert lane.passages() == []
    lane.tick(44.1)
    assert lane.passages()[0].scale is None
    assert lane.passages()[0].stamp == stamp(44)


def test_a_weight_that_fits_two_vehicles_stays_null_in_both_and_both_say_so():
    lane = Bench(scale=ScaleOptions(max_gap_s=60.0))
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.vehicle(30, 4.0)
    lane.weigh(50, 30000)
    lane.tick(300)
    last = {p.passage_id: p for p in lane.passages()}
    assert [p.scale for p in last.values()] == [None, None]
    assert [p.ambiguous for p in last.values()] == [("scale",), ("scale",)]


def test_a_passage_is_revised_when_a_later_vehicle_makes_its_weight_ambiguous():
    lane = Bench(scale=ScaleOptions(relation="before", max_gap_s=60.0))
    lane.background(0)
    lane.weigh(10, 30000)
    lane.vehicle(20, 4.0)
    lane.tick(30)
    assert lane.passages()[-1].scale.mass_kg == 30000
    lane.vehicle(40, 4.0)
    lane.tick(500)
    last = {p.passage_id: p for p in lane.passages()}
    assert [(p.scale, p.ambiguous) for p in last.values()] == [(None, ("scale",))] * 2


def test_a_passage_is_said_at_the_moment_its_last_part_arrives():
    lane = Bench()
    lane.link(0, "scale", up=True)
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.tick(25)
    for i in range(3):
        assert lane.passages() == []
        lane.read(25 + 0.5 * i, weight(38000), "scale")
    assert [p.stamp for p in lane.passages()] == [stamp(26)]


def test_a_weight_that_comes_after_the_vehicle_is_not_the_one_before_it():
    lane = Bench(scale=ScaleOptions(relation="before", max_gap_s=60.0))
    lane.background(0)
    lane.vehicle(10, 10.0)
    lane.weigh(12, 30000)
    lane.tick(500)
    portal, scale = sorted(lane.passages(), key=lambda p: p.rpm is None)
    assert (portal.scale, portal.ambiguous) == (None, ())
    assert scale.rpm is None


def test_a_weight_that_fits_no_vehicle_is_a_passage_of_its_own():
    lane = Bench()
    lane.weigh(10, 12000)
    lane.tick(60)
    (passage,) = lane.passages()
    assert passage.rpm is None
    assert passage.scale.mass_kg == 12000
    assert passage.started == passage.ended


def test_over_the_limit_is_an_alarm_at_once_and_cleared_when_the_platform_is_empty():
    lane = Bench(max_gross_kg=40000)
    lane.weigh(10, 46500)
    assert [(a.kind, a.phase) for a in lane.alarms()] == [
        ("weight", "raised"),
        ("weight", "cleared"),
    ]
    assert lane.alarms()[0].stamp == stamp(11)
    lane.tick(60)
    assert lane.passages()[0].alarm_ids == (lane.alarms()[0].alarm_id,)
    assert "over_max_gross" in lane.passages()[0].reasons


def test_at_the_limit_is_no_alarm():
    lane = Bench(max_gross_kg=40000)
    lane.weigh(10, 40000)
    assert lane.alarms() == []


def test_a_rest_with_half_the_axles_on_is_replaced_by_the_whole_weight():
    lane = Bench()
    lane.background(0)
    lane.vehicle(10, 4.0)
    for i in range(6):
        lane.read(20 + 0.5 * i, weight(9000), "scale")
    for i in range(6):
        lane.read(24 + 0.5 * i, weight(31000), "scale")
    for i in range(6):
        lane.read(28 + 0.5 * i, weight(15000), "scale")
    lane.read(32, weight(0), "scale")
    lane.tick(200)
    assert lane.passages()[-1].scale.mass_kg == 31000


def test_a_load_that_never_rests_is_stored_as_moving_and_never_legal():
    lane = Bench()
    for i in range(6):
        lane.read(10 + 0.5 * i, weight(20000 + i, stable=False, alibi_id="7"), "scale")
    lane.read(14, weight(0), "scale")
    lane.tick(100)
    scale = lane.passages()[0].scale
    assert scale.stable is False
    assert scale.legal is False
    assert lane.passages()[0].priority == "elevated"


def test_a_weight_is_legal_only_with_the_devices_word_and_its_alibi_number():
    def legal(**changes):
        lane = Bench()
        for i in range(4):
            lane.read(10 + 0.5 * i, weight(20000, **changes), "scale")
        lane.read(14, weight(0), "scale")
        lane.tick(100)
        return lane.passages()[0].scale.legal

    assert legal(alibi_id="4711") is True
    assert legal() is False
    assert legal(alibi_id="4711", stable_by="host") is False
    assert legal(alibi_id="4711", high_resolution=True) is False
    assert legal(alibi_id="4711", stable=None) is False


def test_an_alibi_number_that_follows_the_stable_weight_is_kept_with_it():
    lane = Bench()
    for i in range(6):
        lane.read(10 + 0.5 * i, weight(20000), "scale")
    lane.read(13.2, weight(20000, alibi_id="4711"), "scale")
    lane.read(13.4, weight(20000), "scale")
    lane.read(14, weight(0), "scale")
    lane.tick(100)
    first, second = lane.passages()
    assert (first.passage_id, first.rev) == (second.passage_id, 1)
    assert (second.rev, second.started) == (2, stamp(10))
    assert (second.scale.alibi_id, second.scale.legal) == ("4711", True)


@pytest.mark.parametrize("range_", ["over", "under"])
def test_a_platform_that_swings_out_of_its_range_is_no_fault(range_):
    bench = Bench()
    bench.read(1.0, weight(0, mass_kg=None, range=range_, stable=False), "scale")
    bench.read(1.2, weight(0), "scale")
    assert bench.alarms("fault") == []


@pytest.mark.parametrize("range_", ["over", "under", "error"])
def test_a_blank_display_is_a_fault_and_no_weight(range_):
    lane = Bench(max_gross_kg=40000)
    blank = Weight(value=None, unit=None, mass_kg=None, mode="unknown", stable=None, range=range_)
    lane.read(10, blank, "scale")
    (fault,) = lane.alarms("fault")
    assert fault.code == f"scale_{range_}_range"
    lane.tick(100)
    assert lane.passages() == []
    lane.read(101, weight(0), "scale")
    assert len(lane.alarms("fault", "cleared")) == 1


def test_a_masked_parity_bit_is_said_once_and_taken_back():
    lane = Bench()
    for at_s in (0, 1, 2):
        lane.read(at_s, weight(0, notes=("print key", PARITY_SEEN)), "scale")
    lane.read(3, weight(0, notes=("print key",)), "scale")
    said = [(a.code, a.phase, a.severity) for a in lane.alarms("fault")]
    assert said == [
        (c, p, "notice") for c, p in [("parity_bit_seen", "raised"), ("parity_bit_seen", "cleared")]
    ]


def test_a_weight_off_the_declared_interval_or_beyond_max_is_a_fault():
    options = ScaleOptions(e_kg=20, max_kg=60000, max_gap_s=5)
    lane = Bench(scale=options)
    lane.weigh(10, 30010)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["interval_mismatch"]
    lane = Bench(scale=options)
    lane.weigh(10, 60180)
    assert lane.alarms("fault") == []
    lane.weigh(30, 60200)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["beyond_max"]


def test_the_reference_load_is_checked_in_test_mode_only():
    options = ScaleOptions(span_load_kg=20000, span_limit_kg=40, max_gap_s=5)
    lane = Bench(scale=options, is_test=True)
    lane.weigh(10, 20060)
    assert [a.code for a in lane.alarms("fault", "raised")] == ["span_error"]
    live = Bench(scale=options)
    live.weigh(10, 20060)
    assert live.alarms("fault") == []


def test_what_stood_on_a_scale_that_was_lost_is_not_lost():
    lane = Bench(max_gross_kg=40000)
    for i in range(5):
        lane.read(10 + 0.5 * i, weight(46500), "scale")
    lane.link(13, "scale", up=False)
    lane.tick(100)
    assert lane.passages()[0].scale.mass_kg == 46500
    assert [a.phase for a in lane.alarms("weight")] == ["raised", "cleared"]


# ------------------------------------------------------------------ metal


def test_a_person_in_the_occupancy_joins_the_passage_as_clear():
    lane = Bench()
    lane.metal_ready(0)
    lane.background(0)
    for i in range(20):
        lane.gamma(10 + 0.2 * i)
    lane.walk(12)
    lane.leave(14)
    lane.tick(100)
    (passage,) = lane.passages()
    assert passage.metal.result == "clear"
    assert passage.metal.persons == 1


def test_a_metal_alarm_is_raised_at_once_for_the_passage_it_fits():
    lane = Bench()
    lane.metal_ready(0)
    lane.background(0)
    lane.gamma(10)
    lane.walk(12, alarm=True)
    (raised,) = lane.alarms("metal", "raised")
    assert raised.stamp == stamp(12.3)
    assert raised.passage_id == lane.state.of(Vehicles).transits[-1].passage_id
    lane.leave(16)
    lane.tick(100)
    assert lane.passages()[0].metal.result == "alarm"
    assert lane.passages()[0].alarm_ids == (raised.alarm_id,)
    assert len(lane.alarms("metal", "cleared")) == 1


def test_an_alarm_told_by_contact_and_counter_is_one_whichever_comes_first():
    for order in ("contact", "counter"):
        lane = Bench(metal=MetalOptions(max_gap_s=5))
        lane.metal_ready(0)
        contact = MetalAlarm(active=True, pulses=0)
        counter = MetalAlarm(active=None, pulses=1)
        first, second = (contact, counter) if order == "contact" else (counter, contact)
        said = lane.read(10, first, "metal")
        assert [a.phase for a in said] == ["raised"], order
        lane.read(10.4, second, "metal")
        lane.read(11, MetalAlarm(active=False, pulses=0), "metal")
        lane.tick(60)
        assert lane.passages()[0].metal.alarms == 1, order


def test_the_counter_of_an_alarm_that_is_over_is_not_another_alarm():
    lane = Bench(metal=MetalOptions(max_gap_s=5, alarm_joins_s=0.1))
    lane.metal_ready(0)
    lane.read(10, MetalAlarm(active=True, pulses=0), "metal")
    lane.read(10.3, MetalAlarm(active=False, pulses=0), "metal")
    assert lane.read(10.5, MetalAlarm(active=None, pulses=1), "metal") == []
    assert len(lane.alarms("metal", "raised")) == 1


def test_pulses_too_short_for_the_contact_are_counted_and_swallow_no_later_alarm():
    lane = Bench(metal=MetalOptions(max_gap_s=5))
    lane.metal_ready(0)
    lane.read(10, MetalAlarm(active=None, pulses=3), "metal")
    lane.tick(60)
    assert lane.passages()[0].metal.alarms == 3
    (raised,) = lane.read(70, MetalAlarm(active=True, pulses=0), "metal")
    assert raised.phase == "raised"


def test_a_random_selection_is_never_a_metal_alarm():
    lane = Bench()
    lane.metal_ready(0)
    lane.walk(12, alarm=True, is_random=True)
    lane.tick(100)
    assert lane.alarms() == []
    assert lane.passages()[0].metal.result == "random"


def test_a_person_is_unknown_where_the_detector_is_silent_or_not_ready():
    lane = Bench()
    lane.walk(12)
    lane.tick(100)
    assert lane.passages()[0].metal.result == "unknown"
    lane = Bench()
    lane.metal_ready(0)
    lane.read(1, DeviceState(condition="not_ready", active=True), "metal")
    lane.walk(12)
    lane.tick(100)
    assert lane.passages()[0].metal.result == "unknown"
    lane = Bench()
    lane.metal_ready(0)
    lane.link(5, "metal", up=False)
    lane.link(6, "metal", up=True)
    lane.walk(12)
    lane.tick(100)
    assert lane.passages()[0].metal.result == "unknown"


def test_a_lone_pedestrian_has_a_direction():
    lane = Bench()
    lane.metal_ready(0)
    lane.read(10, MetalPassages(entered=0, left=1), "metal")
    lane.tick(100)
    (passage,) = lane.passages()
    assert passage.rpm is None
    assert passage.direction == "out"


def test_two_persons_of_one_vehicle_are_one_part_with_the_worse_result():
    lane = Bench()
    lane.metal_ready(0)
    lane.background(0)
    lane.gamma(10)
    lane.walk(12)
    for i in range(20):
        lane.gamma(12 + 0.5 * i)
    lane.walk(20, alarm=True)
    lane.leave(22)
    lane.tick(100)
    (passage,) = [p for p in lane.passages() if p.rpm]
    assert (passage.metal.persons, passage.metal.result) == (2, "alarm")


def test_a_person_inside_one_occupancy_is_that_vehicles_though_others_are_near():
    lane = Bench(metal=MetalOptions(max_gap_s=30.0))
    lane.metal_ready(0)
    lane.background(0)
    lane.vehicle(10, 4.0)
    for i in range(20):
        lane.gamma(24 + 0.2 * i)
    lane.walk(26, alarm=True)
    lane.leave(28)
    lane.vehicle(38, 4.0)
    lane.tick(300)
    newest = {p.passage_id: p for p in lane.passages()}.values()
    in_order = sorted(newest, key=lambda p: p.started.mono_us)
    assert [p.metal and p.metal.result for p in in_order] == [None, "alarm", None]
    assert [p.ambiguous for p in in_order] == [()] * 3


def test_where_one_person_is_in_doubt_the_others_are_too():
    lane = Bench(metal=MetalOptions(max_gap_s=15.0))
    lane.metal_ready(0)
    lane.background(0)
    for i in range(20):
        lane.gamma(20 + 0.2 * i)
    lane.walk(21, alarm=True)
    lane.leave(24)
    lane.walk(31)
    lane.vehicle(41, 4.0)
    lane.tick(300)
    last = {p.passage_id: p for p in lane.passages() if p.rpm}
    assert [(p.metal, p.ambiguous) for p in last.values()] == [(None, ("metal",))] * 2


def test_an_alarm_level_without_a_counter_is_one_alarm_until_it_falls():
    lane = Bench(metal=MetalOptions(max_gap_s=5))
    lane.read(0, MetalAlarm(active=False, pulses=None), "metal")
    for at_s in (1, 1.1, 1.2):
        lane.read(at_s, MetalAlarm(active=True, pulses=None), "metal")
    assert len(lane.alarms("metal", "raised")) == 1


# ------------------------------------------------------------------ promises of the reducer


READINGS = st.one_of(
    st.builds(
        GammaCounts,
        counts=st.tuples(*[st.integers(0, 999999)] * 4),
        real_time_s=st.just(0.2),
        device_alarm=st.booleans(),
        age_s=st.sampled_from([0.0, 0.4, 1.0]),
    ),
    st.builds(
        NeutronCounts,
        counts=st.tuples(*[st.integers(0, 500)] * 4),
        real_time_s=st.just(1.0),
        device_alarm=st.booleans(),
    ),
    st.builds(
        GammaBackground,
        cps=st.tuples(*[st.floats(0, 30000)] * 4),
        level=st.sampled_from(["ok", "high", "low"]),
    ),
    st.builds(NeutronBackground, total_cps=st.floats(0, 100), rounded_down=st.booleans()),
    st.builds(
        OccupancyEnd,
        number=st.integers(0, 999),
        neutron_background_cps=st.one_of(st.none(), st.floats(0, 100)),
    ),
    st.builds(VehicleSpeed, m_per_s=st.one_of(st.none(), st.floats(0.01, 50))),
    st.builds(DeviceAlarm, kind=st.just("spectral"), code=st.just("window_ratio")),
)
SCALE = st.builds(
    weight,
    st.sampled_from([0.0, 100.0, 9000.0, 30000.0, 46500.0]),
    stable=st.sampled_from([True, False, None]),
)
METAL = st.one_of(
    st.builds(
        MetalAlarm,
        active=st.sampled_from([True, False, None]),
        pulses=st.one_of(st.none(), st.integers(0, 3)),
        is_random=st.booleans(),
    ),
    st.builds(MetalPassages, entered=st.integers(0, 2), left=st.integers(0, 2)),
)
EVENT = st.tuples(
    st.sampled_from([0.0, 0.05, 0.2, 1.0, 6.0, 40.0, 300.0]),
    st.one_of(
        st.tuples(st.just("rpm"), READINGS),
        st.tuples(st.just("scale"), SCALE),
        st.tuples(st.just("metal"), METAL),
        st.tuples(st.sampled_from(["rpm", "scale", "metal"]), st.booleans()),
    ),
)


def _run(lane: Bench, events) -> None:
    at_s = 0.0
    for delay_s, (device, what) in events:
        at_s += delay_s
        if isinstance(what, bool):
            lane.link(at_s, device, up=what)
        else:
            lane.read(at_s, what, device)
    lane.tick(at_s + 1000)
    lane.stop(at_s + 1001)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENT, max_size=60))
def test_any_events_leave_no_alarm_open_no_passage_unsaid_and_revs_in_order(events):
    lane = Bench(max_gross_kg=40000)
    _run(lane, events)
    phases: dict[str, list[Alarm]] = {}
    for alarm in lane.alarms():
        phases.setdefault(alarm.alarm_id, []).append(alarm)
    standing = set(lane.snapshot(0).alarms)
    for alarm_id, said in phases.items():
        assert [a.rev for a in said] == list(range(1, len(said) + 1))
        assert said[0].phase == "raised"
        assert (said[-1].phase == "cleared") == (alarm_id not in standing)
    revs: dict[str, list[Passage]] = {}
    for passage in lane.passages():
        revs.setdefault(passage.passage_id, []).append(passage)
    for said in revs.values():
        assert [p.rev for p in said] == list(range(1, len(said) + 1))
        assert len({(p.started, p.transit_id) for p in said}) == 1


@settings(max_examples=100, deadline=None)
@given(st.lists(EVENT, max_size=40))
def test_ticks_change_no_record_only_when_it_is_said(events):
    plain, ticked = Bench(max_gross_kg=40000), Bench(max_gross_kg=40000)
    _run(plain, events)
    spaced = []
    at_s = 0.0
    for delay_s, (device, what) in events:
        for i in range(1, 8):
            ticked.tick(at_s + delay_s * i / 8)
        at_s += delay_s
        spaced.append(at_s)
        if isinstance(what, bool):
            ticked.link(at_s, device, up=what)
        else:
            ticked.read(at_s, what, device)
    ticked.tick(at_s + 1000)
    ticked.stop(at_s + 1001)
    assert ticked.records == plain.records


@settings(max_examples=60, deadline=None)
@given(st.lists(EVENT, min_size=1, max_size=30))
def test_a_state_is_never_changed_by_stepping_from_it(events):
    lane = Bench()
    _run(lane, events[:-1])
    before = lane.state
    picture = repr(before)
    device, what = events[-1][1]
    if not isinstance(what, bool):
        event = Timed(stamp=stamp(5000), device=device, reading=what)
        first = step(before, event, lane.rules)
        assert repr(before) == picture
        assert step(before, event, lane.rules)[1] == first[1]


def test_memory_stays_bounded_over_three_thousand_vehicles_in_a_hurry():
    lane = Bench(scale=ScaleOptions(max_gap_s=10), metal=MetalOptions(max_gap_s=5))
    state = LaneState()
    at_s = 0.0
    for number in range(3_000):
        for delay_s, device, reading in (
            (5.0, "rpm", GammaBackground(cps=(400.0,) * 4)),
            (1.0, "rpm", GammaCounts(counts=CLEAN, real_time_s=0.2, device_alarm=False)),
            (1.0, "metal", MetalPassages(entered=1, left=0)),
            (1.0, "rpm", OccupancyEnd(number=number, neutron_background_cps=2.5)),
            (1.0, "scale", weight(30000)),
            (1.5, "scale", weight(30000)),
            (1.0, "scale", weight(0)),
        ):
            at_s += delay_s
            event = Timed(stamp=stamp(at_s), device=device, reading=reading)
            state, _ = step(state, event, lane.rules)
    assert len(state.of(Vehicles).transits) < 10
    assert len(state.of(Vehicles).parts) < 20
    state, _ = step(state, Tick(stamp=stamp(at_s + 1000)), lane.rules)
    assert state.of(Vehicles).transits == ()
    assert state.of(Vehicles).parts == ()
