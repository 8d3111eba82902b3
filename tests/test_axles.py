"""Weighing axle by axle: what is valid is summed, what is not is said and never summed."""

from __future__ import annotations

import pytest
from lane_bench import Bench, stamp, weight

from agent.lane.instruments.axles import AxleRuns
from agent.lane.options.scales import ScaleOptions

AXLES = ScaleOptions(
    weighs="axles", e_kg=20, min_load_kg=400, axle_gap_s=10, max_gap_s=60, relation="after"
)


class AxleBench(Bench):
    def __init__(self, options=AXLES, **lane):
        super().__init__(scale=options, **lane)

    def zero(self, at_s, kg=0.0):
        self.read(at_s, weight(kg), "scale")

    def axle(self, at_s, kg, *, rests=True):
        """Roll on, rest for a second, roll off: 2 s in all."""
        self.read(at_s, weight(kg / 2, stable=False), "scale")
        for i in range(3):
            self.read(at_s + 0.4 + 0.4 * i, weight(kg, stable=rests), "scale")
        self.read(at_s + 1.6, weight(kg / 2, stable=False), "scale")
        self.read(at_s + 1.8, weight(100, stable=False), "scale")

    def vehicle_of(self, at_s, *axles):
        self.zero(at_s - 1)
        for i, kg in enumerate(axles):
            self.axle(at_s + 3 * i, kg)
            self.zero(at_s + 3 * i + 2)

    def scale(self):
        (passage,) = self.passages()
        return passage.scale


def test_the_sum_of_resting_axles_is_the_mass():
    lane = AxleBench()
    lane.vehicle_of(10, 6000, 11000, 10500)
    lane.tick(200)
    scale = lane.scale()
    assert scale.axles_kg == (6000, 11000, 10500)
    assert scale.mass_kg == 27500
    assert scale.invalid is None
    assert scale.legal is False
    assert lane.passages()[0].started == stamp(10)


def test_one_vehicle_after_another_needs_no_new_start():
    lane = AxleBench()
    lane.vehicle_of(10, 6000, 11000)
    lane.vehicle_of(100, 5000, 8000)
    lane.tick(300)
    assert [p.scale.mass_kg for p in lane.passages()] == [17000, 13000]


def test_the_plateau_counts_not_the_peak_of_the_swing():
    lane = AxleBench()
    lane.zero(9)
    lane.read(10.0, weight(9000, stable=False), "scale")
    for i in range(3):
        lane.read(10.4 + 0.4 * i, weight(6000), "scale")
    lane.read(11.6, weight(9000), "scale")
    lane.zero(12)
    lane.tick(100)
    assert lane.scale().axles_kg == (6000,)


@pytest.mark.parametrize("kg", [21, -21])
def test_without_zero_before_the_first_axle_it_is_invalid_and_never_summed(kg):
    lane = AxleBench()
    lane.zero(9, kg)
    lane.axle(10, 6000)
    lane.zero(12)
    lane.axle(13, 11000)
    lane.zero(15)
    lane.tick(100)
    scale = lane.scale()
    assert scale.mass_kg is None
    assert scale.axles_kg == (6000, 11000)
    assert scale.invalid == "zero was not seen before the first axle"
    assert lane.passages()[0].reasons == ("weighing_invalid",)


def test_without_zero_after_the_last_axle_it_is_invalid():
    lane = AxleBench()
    lane.zero(9)
    lane.axle(10, 6000)
    lane.zero(12, 60)
    lane.tick(100)
    assert lane.scale().invalid == "zero was not seen after the last axle"


def test_an_axle_that_does_not_rest_makes_the_weighing_invalid():
    lane = AxleBench()
    lane.zero(9)
    lane.axle(10, 6000)
    lane.zero(12)
    lane.axle(13, 11000, rests=False)
    lane.zero(15)
    lane.tick(100)
    assert lane.scale().invalid == "axle 2 did not come to rest"
    assert lane.scale().mass_kg is None


def test_a_count_that_is_not_the_declared_one_is_invalid():
    options = ScaleOptions(weighs="axles", e_kg=20, axle_gap_s=10, max_gap_s=60, axles=3)
    lane = AxleBench(options)
    lane.vehicle_of(10, 6000, 11000)
    lane.tick(100)
    assert lane.scale().invalid == "2 axles where 3 are declared"


def test_a_display_that_goes_over_makes_the_weighing_invalid():
    lane = AxleBench()
    lane.zero(9)
    lane.read(10, weight(8000), "scale")
    blank = weight(0, value=None, unit=None, mass_kg=None, range="over", stable=None)
    lane.read(10.2, blank, "scale")
    lane.zero(12)
    lane.tick(100)
    assert "display over" in lane.scale().invalid


def test_a_scale_lost_in_the_middle_makes_the_weighing_invalid():
    lane = AxleBench()
    lane.zero(9)
    lane.axle(10, 6000)
    lane.zero(12)
    lane.link(13, "scale", up=False)
    lane.tick(200)
    assert "the scale was lost" in lane.scale().invalid
    assert lane.scale().axles_kg == (6000,)


def test_an_overloaded_axle_alarms_while_it_stands_there():
    options = ScaleOptions(weighs="axles", e_kg=20, axle_gap_s=10, max_gap_s=60, max_axle_kg=11500)
    lane = AxleBench(options)
    lane.vehicle_of(10, 6000, 12000)
    (raised,) = lane.alarms("weight", "raised")
    assert raised.code == "max_axle"
    assert raised.stamp == stamp(14.2)
    lane.tick(100)
    assert len(lane.alarms("weight", "cleared")) == 1
    assert lane.passages()[0].alarm_ids == (raised.alarm_id,)


def test_an_overloaded_vehicle_alarms_on_its_valid_sum_only():
    lane = AxleBench(max_gross_kg=40000)
    lane.vehicle_of(10, 15000, 15000, 15000)
    lane.tick(100)
    assert [a.code for a in lane.alarms("weight", "raised")] == ["max_gross"]
    invalid = AxleBench(max_gross_kg=40000)
    invalid.zero(9, 100)
    for i in range(3):
        invalid.axle(10 + 3 * i, 15000)
        invalid.zero(12 + 3 * i)
    invalid.tick(100)
    assert invalid.alarms("weight") == []


def test_an_axle_weighing_joins_its_vehicle():
    lane = AxleBench()
    lane.link(0, "scale", up=True)
    lane.background(0)
    lane.vehicle(10, 4.0)
    lane.vehicle_of(25, 6000, 11000)
    lane.tick(200)
    (passage,) = [p for p in lane.passages() if p.rpm and p.scale]
    assert passage.scale.mass_kg == 17000


def test_nothing_stays_remembered_between_vehicles():
    lane = AxleBench()
    lane.vehicle_of(10, 6000, 11000)
    lane.tick(500)
    run = lane.state.of(AxleRuns).axle_runs["scale"]
    assert (run.axles_kg, run.troubles, run.began_at) == ((), (), None)
