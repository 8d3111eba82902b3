"""What is wrong with a spectrometer's detectors is said, and the others go on."""

from __future__ import annotations

from lane_bench import Bench

from agent.lane.options.portals import PortalTraits
from drivers.readings import GammaSpectrum, VehiclePresence

OLD, NEW = "Aa1", "Ba1"


def lane() -> Bench:
    bench = Bench(traits={"rpm": PortalTraits(presence="told", rule="own")}, scale=None)
    bench.read(0.0, VehiclePresence(occupied=False))
    return bench


def second(bench: Bench, at_s: float, counts: int, *, live_s: float | None = 1.0, detector=OLD):
    reading = GammaSpectrum(
        detector=detector,
        counts=(0, counts, 0),
        real_time_s=1.0,
        live_time_s=live_s,
        energy=None,
    )
    return bench.read(at_s, reading)


def phases(bench: Bench, code: str) -> list[str]:
    return [a.phase for a in bench.alarms() if a.code == code]


def test_a_detector_that_counts_nothing_for_half_a_minute_is_a_fault_until_it_counts():
    bench = lane()
    for i in range(29):
        second(bench, i, 0)
    assert phases(bench, "detector_Aa1_silent") == []
    second(bench, 29, 0)
    assert phases(bench, "detector_Aa1_silent") == ["raised"]
    second(bench, 30, 1)
    assert phases(bench, "detector_Aa1_silent") == ["raised", "cleared"]


def test_a_detector_dead_most_of_the_time_is_saturated_after_two_intervals_and_the_other_is_not():
    bench = lane()
    second(bench, 1, 9000, live_s=0.3)
    assert phases(bench, "detector_Aa1_saturated") == []
    second(bench, 1.1, 200, detector=NEW)
    second(bench, 2, 9000, live_s=0.3)
    second(bench, 2.1, 200, detector=NEW)
    (fault,) = bench.alarms()
    assert (fault.code, fault.severity) == ("detector_Aa1_saturated", "high")
    assert "30%" in fault.text
    second(bench, 3, 300)
    assert phases(bench, "detector_Aa1_saturated") == ["raised", "cleared"]


def test_a_detector_without_live_time_is_not_called_saturated():
    bench = lane()
    second(bench, 1, 9000, live_s=None)
    second(bench, 2, 9000, live_s=None)
    assert bench.alarms() == []


def test_a_detector_missing_from_its_device_is_a_fault_and_a_lost_link_is_another():
    bench = lane()
    second(bench, 1, 100)
    second(bench, 1, 100, detector=NEW)
    for i in range(2, 33):
        second(bench, i, 100)
    assert phases(bench, "detector_Ba1_missing") == ["raised"]
    second(bench, 33, 100, detector=NEW)
    assert phases(bench, "detector_Ba1_missing") == ["raised", "cleared"]
    bench.link(40, "rpm", up=False)
    bench.link(100, "rpm", up=True)
    second(bench, 101, 100)
    assert phases(bench, "detector_Ba1_missing") == ["raised", "cleared"]
    assert phases(bench, "detector_Aa1_missing") == []


def test_a_spectrometer_keeps_people_away_after_two_intervals_over_the_limit():
    bench = lane()
    second(bench, 1, 50_000)
    assert phases(bench, "over_range") == []
    second(bench, 2, 30_000)
    (alarm,) = bench.alarms("gamma")
    assert (alarm.code, alarm.severity, alarm.detectors) == ("over_range", "critical", (OLD,))
    assert alarm.evidence[0].observed == 30_000
    second(bench, 3, 100)
    assert phases(bench, "over_range") == ["raised", "cleared"]


def test_over_range_inside_a_vehicle_belongs_to_its_passage():
    bench = lane()
    bench.read(0.5, VehiclePresence(occupied=True))
    second(bench, 1, 50_000)
    second(bench, 2, 50_000)
    bench.read(3, VehiclePresence(occupied=False))
    bench.tick(30)
    (passage,) = bench.passages()
    assert "over_range" in passage.reasons
    assert bench.alarms("gamma")[0].passage_id == passage.passage_id
