"""A crystal's gain held by the empty lane's background, the crystal as the simulators have it."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from delivery_bench import check_message
from spectral_bench import BACKGROUND_CPS, CHANNELS, ENERGY, LEFT, RIGHT, computed_rules
from spectral_bench import SpectralLane as Lane

from agent.delivery.wire import Encoder, Identity
from agent.lane.options.portals import RpmOptions
from agent.lane.spectra import gain_tracking
from agent.lane.spectra.memory import Crystals, Scale
from agent.lane.state import LaneState
from agent.records import Audit
from drivers.readings import EnergyCalibration, GammaSpectrum, VehiclePresence
from simulators import spectra

INTERVAL_S = 2.0
FACTOR = 4.0
"""A larger crystal's counts, so that the tests are short."""
HOLDS = 0.005
"""What identification asks for."""
L, R = f"rpm/{LEFT}", f"rpm/{RIGHT}"


@pytest.fixture(scope="module")
def rules():
    found = computed_rules()
    return replace(found, options=replace(found.options, gain_every_s=60.0, slice_s=2.0))


def background(gain: float, radon: float = 1.0) -> np.ndarray:
    shares = {**spectra.BACKGROUND_SHARES}
    shares["Ra-226"] *= radon
    names = [(name if name == "cosmic" else f"soil {name}", w) for name, w in shares.items()]
    # The shape is kept at steps of a two-thousandth, as the simulated panel keeps it.
    stepped = round(gain * 2000) / 2000
    parts = [w * spectra.shape(n, "CsI", CHANNELS, gain=stepped) for n, w in names]
    return FACTOR * BACKGROUND_CPS * sum(parts)


class Drifting(Lane):
    """A lane whose crystals' pulse heights are ``gain(detector, time)`` times the nominal."""

    def __init__(self, rules, gain=lambda _name, _at_s: 1.0, **changes) -> None:
        super().__init__(rules, **changes)
        self.gain = gain
        self.radon = 1.0

    def interval(self, source: str | None = None, cps: float = 0.0) -> None:
        self.at_s += INTERVAL_S
        for detector in self.detectors:
            rate = background(self.gain(detector, self.at_s), self.radon)
            if source is not None:
                rate = rate + cps * spectra.shape(source, "CsI", CHANNELS)
            counts = tuple(int(n) for n in self.rng.poisson(rate * INTERVAL_S))
            reading = GammaSpectrum(
                detector=detector,
                counts=counts,
                real_time_s=INTERVAL_S,
                live_time_s=INTERVAL_S,
                energy=self.energy[detector],
            )
            self.read(self.at_s, reading)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / INTERVAL_S)):
            self.interval()

    def vehicle(self, seconds: float, source: str | None = None, cps: float = 0.0) -> None:
        self.read(self.at_s, VehiclePresence(occupied=True))
        for _ in range(round(seconds / INTERVAL_S)):
            self.interval(source, cps)
        self.read(self.at_s, VehiclePresence(occupied=False))

    def scale(self, name: str = L) -> Scale:
        return self.state.of(Crystals).spectra.gains[name].scale

    def error(self, detector: str = LEFT) -> float:
        """Return by how much a line of 1461 keV is read wrong [fraction]."""
        nominal = 1460.8 * self.gain(detector, self.at_s)
        scale = self.scale(f"rpm/{detector}")
        return float(scale.true_kev(np.array([nominal]))[0]) / 1460.8 - 1.0


# ------------------------------------------------------------------ followed


@pytest.mark.parametrize("gain", [0.94, 0.98, 1.0, 1.03, 1.07])
def test_a_gain_that_is_off_from_the_start_is_found_within_two_minutes(rules, gain):
    lane = Drifting(rules, lambda *_: gain, detectors=(LEFT,))
    lane.wait(120)
    assert lane.scale().measured is not None
    assert abs(lane.error()) < HOLDS
    assert 0 < lane.scale().sigma_gain < 0.005
    assert lane.alarms("fault") == []


@pytest.mark.parametrize(
    ("swing_s", "usual", "most"),
    [(43_200.0, 0.003, HOLDS), (10_800.0, 0.004, 0.01)],
    ids=["0.026 % a minute", "0.1 % a minute"],
)
def test_a_drift_with_temperature_is_followed(rules, swing_s, usual, most):
    # As the simulated panel drifts: 0.3 % a degree, ten degrees up and down in that time.
    def warming(_name, at_s):
        return 1.0 - 0.003 * 10.0 * math.sin(2 * math.pi * at_s / swing_s)

    lane = Drifting(rules, warming, detectors=(LEFT,))
    lane.wait(120)
    errors = []
    for _ in range(150):
        lane.wait(30)
        errors.append(lane.error())
    assert np.sqrt(np.mean(np.square(errors))) < usual
    assert np.abs(errors).max() < most
    assert lane.alarms("fault") == []
    moves = [audit.data for audit in lane.audits("gain")]
    assert len(moves) > 3
    assert all(after["previous_gain"] == before["gain"] for before, after in pairwise(moves))


def test_each_detector_has_its_own_gain(rules):
    gains = {LEFT: 0.97, RIGHT: 1.02}
    lane = Drifting(rules, lambda name, _at_s: gains[name])
    lane.wait(120)
    assert abs(lane.error(LEFT)) < HOLDS
    assert abs(lane.error(RIGHT)) < HOLDS


def test_a_steady_gain_hardly_ever_moves_the_scale(rules):
    lane = Drifting(rules, detectors=(LEFT,))
    lane.wait(1800)
    assert len(lane.audits("gain")) <= 3


def test_rain_moves_no_gain(rules):
    # The daughters of radon that rain brings down, up to three times the uranium series.
    lane = Drifting(rules, detectors=(LEFT,))
    lane.wait(120)
    for radon in (1.5, 2.0, 3.0, 3.0, 2.5, 2.0, 1.5):
        lane.radon = radon
        lane.wait(90)
        assert abs(lane.error()) < HOLDS
    assert lane.alarms("fault") == []


def test_a_device_that_sends_edges_is_followed_too(rules):
    lane = Drifting(rules, lambda *_: 0.97, detectors=(LEFT,))
    lane.energy[LEFT] = EnergyCalibration(edges_kev=tuple(6.0 * i for i in range(513)))
    lane.wait(120)
    assert abs(lane.error()) < HOLDS


# ------------------------------------------------------------------ frozen


def test_a_source_in_a_vehicle_moves_nothing(rules):
    lane = Drifting(rules, detectors=(LEFT,))
    lane.wait(120)
    for _ in range(3):
        before = lane.scale()
        lane.vehicle(60, "Cs-137", 500.0)
        assert lane.scale() == before
        lane.wait(30)
    lane.wait(120)
    assert abs(lane.error()) < HOLDS
    assert lane.alarms("fault") == []


def test_what_comes_before_and_behind_a_vehicle_is_not_summed(rules):
    long = replace(rules, options=replace(rules.options, guard_s=20.0))
    lane = Drifting(long, detectors=(LEFT,))
    lane.wait(200)
    kept = lane.state.of(Crystals).spectra.gains[L]
    for _ in range(8):  # its approach, 16 s of the guard's 20
        lane.interval("Cs-137", 20_000.0)
    lane.vehicle(30, "Cs-137", 20_000.0)
    for _ in range(8):
        lane.interval("Cs-137", 20_000.0)
    now = lane.state.of(Crystals).spectra.gains[L]
    at = int(np.searchsorted(gain_tracking.TRACKED_KEV, 662.0))
    usual = kept.sample.counts[at - 5 : at + 5].sum() / max(kept.sample.live_s, 1e-9)
    summed = now.sample.counts[at - 5 : at + 5].sum() / max(now.sample.live_s, 1e-9)
    assert summed <= 1.3 * max(usual, 20.0 * FACTOR)
    assert now.young.live_s == 0.0
    assert now.waiting.live_s == 0.0


def test_without_anyone_who_tells_of_vehicles_nothing_is_measured(rules):
    lane = Drifting(rules, detectors=(LEFT,))
    lane.read(lane.at_s, VehiclePresence(occupied=None))
    lane.wait(300)
    assert lane.scale().measured is None


# ------------------------------------------------------------------ faults


def test_a_gain_out_of_bounds_is_a_fault_and_the_other_detector_goes_on(rules):
    gains = {LEFT: 1.12, RIGHT: 1.0}
    lane = Drifting(rules, lambda name, _at_s: gains[name])
    lane.wait(240)
    (alarm,) = lane.alarms("fault")
    assert (alarm.code, alarm.severity, alarm.phase) == ("gain_out_of_bounds", "high", "raised")
    assert L in alarm.text
    assert R not in alarm.text
    lane.vehicle(30)
    lane.wait(20)
    part = lane.passages()[-1].spectral
    assert part.left_out == (f"{L}: gain out of bounds",)
    assert part.p is not None
    gains[LEFT] = 1.02
    lane.wait(240)
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]


def test_a_background_that_tells_no_gain_is_a_fault_until_it_does_again(rules):
    lane = Drifting(rules, detectors=(LEFT,))
    lane.wait(120)
    before = lane.scale()
    for _ in range(150):  # a source that somebody left beside the lane
        lane.interval("Co-60", 4000.0)
    (alarm,) = lane.alarms("fault")
    assert (alarm.code, alarm.phase) == ("gain_unknown", "raised")
    assert lane.scale() == before
    lane.wait(180)
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]


def test_a_detector_that_counts_too_little_for_an_hour_tells_no_gain(rules):
    lane = Drifting(rules, detectors=(LEFT,))
    nothing = GammaSpectrum(
        detector=LEFT, counts=(*(0,) * 511, 1), real_time_s=4.0, live_time_s=4.0, energy=ENERGY
    )
    for _ in range(3 * 3620 // 4 + 10):
        lane.at_s += 4.0
        lane.read(lane.at_s, nothing)
    assert [a.code for a in lane.alarms("fault")] == ["gain_unknown"]


# ------------------------------------------------------------------ what stands in the record


def test_the_passage_and_its_file_hold_the_scale_they_were_judged_with(rules):
    lane = Drifting(rules, lambda *_: 0.97, detectors=(LEFT,))
    lane.wait(300)
    lane.vehicle(20, "Cs-137", 400.0)
    lane.wait(20)
    passage = lane.passages()[-1]
    (gain,) = passage.spectral.gains
    assert gain.detector == L
    assert gain.gain == pytest.approx(lane.scale().gain, abs=1e-5)
    assert 0 <= gain.age_s < 200
    (first, *_) = passage.event.readings
    want = (lane.scale().offset_kev, 6.0 * lane.scale().gain)
    assert first[2].energy.coefficients_kev == pytest.approx(want)


def test_a_passage_before_the_first_fit_says_that_none_was_made(rules):
    lane = Drifting(rules, lambda *_: 0.97, detectors=(LEFT,))
    lane.wait(20)
    lane.vehicle(10)
    lane.wait(20)
    passage = lane.passages()[-1]
    (gain,) = passage.spectral.gains
    assert (gain.gain, gain.offset_kev, gain.sigma_gain, gain.age_s) == (1.0, 0.0, None, None)


def test_what_the_centre_gets_is_as_the_schemas_say(rules):
    lane = Drifting(rules, lambda *_: 0.97, detectors=(LEFT,))
    lane.wait(200)
    lane.vehicle(10)
    lane.wait(20)
    encoder = Encoder(
        identity=Identity(root="checkpoint", site="s", gw="g"),
        mode="test",
        configrev="0" * 64,
        software="t",
    )
    assert {"gain"} <= {record.kind for record in lane.records if isinstance(record, Audit)}
    for number, record in enumerate(lane.records, start=1):
        topic, payload = encoder(record, "3f9c", number, 1_000_000)
        check_message(topic, payload)


def test_after_a_restart_the_gain_is_found_anew(rules):
    lane = Drifting(rules, lambda *_: 0.96, detectors=(LEFT,))
    lane.wait(200)
    found = lane.scale().gain
    lane.stop(lane.at_s)
    lane.state = LaneState(serial=lane.state.serial)
    lane.read(lane.at_s, VehiclePresence(occupied=False))
    lane.wait(20)
    assert lane.scale().measured is None
    lane.wait(100)
    assert lane.scale().gain == pytest.approx(found, abs=0.005)


def test_a_device_that_holds_its_gain_itself_is_left_alone(rules):
    lane = Drifting(rules, lambda *_: 0.97, detectors=(LEFT,))
    lane.rules = replace(lane.rules, portals={"rpm": RpmOptions(gain_tracking=False)})
    lane.wait(200)
    lane.vehicle(20)
    lane.wait(20)
    assert lane.state.of(Crystals).spectra.gains == {}
    assert lane.passages()[-1].spectral.gains == ()


def test_a_device_that_moves_its_own_scale_is_followed_from_anew(rules):
    lane = Drifting(rules, lambda *_: 0.95, detectors=(LEFT,))
    lane.wait(120)
    assert lane.scale().gain == pytest.approx(1 / 0.95, abs=0.006)
    lane.energy[LEFT] = EnergyCalibration(coefficients_kev=(0.0, 6.0 / 0.95))
    lane.interval()
    assert lane.scale() == Scale()
    assert (
        lane.state.of(Crystals).spectra.empty.live_s[0] <= 2 * INTERVAL_S
    )  # what it counted is not kept
    lane.wait(120)
    assert lane.scale().gain == pytest.approx(1.0, abs=0.005)


# ------------------------------------------------------------------ the background meanwhile


def test_a_small_step_carries_the_background_over_and_a_large_one_learns_it_anew(rules):
    gains = {LEFT: 1.0}
    lane = Drifting(rules, lambda name, _at_s: gains[name], detectors=(LEFT,))
    lane.wait(300)
    full = lane.state.of(Crystals).spectra.empty
    gains[LEFT] = 0.994
    while len(lane.audits("gain")) < 2:
        lane.interval()
    carried = lane.state.of(Crystals).spectra.empty
    assert carried.live_s[0] >= 0.9 * full.live_s[0]
    rate = full.counts[0] / full.live_s[0]
    assert carried.counts[0].sum() / carried.live_s[0] == pytest.approx(rate.sum(), rel=0.02)
    gains[LEFT] = 0.95
    least_s = full.live_s[0]
    while abs(lane.error()) > HOLDS:
        lane.interval()
        least_s = min(least_s, lane.state.of(Crystals).spectra.empty.live_s[0])
    assert least_s < 10.0


def test_what_was_replayed_gives_the_same_records(rules):
    lane = Drifting(rules, lambda _name, at_s: 1.0 + 1e-5 * at_s, detectors=(LEFT,))
    lane.wait(300)
    lane.vehicle(20, "Cs-137", 400.0)
    lane.wait(120)
    again = Lane(rules, detectors=(LEFT,))
    again.state, again.records = LaneState(), []
    for event in lane.events:
        again._do(event)
    assert again.records == lane.records


def test_the_scale_of_channels_is_corrected_as_that_of_edges():
    scale = Scale(gain=1.02, offset_kev=-1.5)
    by_line = gain_tracking.corrected(EnergyCalibration(coefficients_kev=(3.0, 6.0)), scale)
    edges = tuple(3.0 + 6.0 * i for i in range(9))
    by_edges = gain_tracking.corrected(EnergyCalibration(edges_kev=edges), scale)
    first, slope = by_line.coefficients_kev
    assert by_edges.edges_kev == pytest.approx([first + slope * i for i in range(9)])
    assert (first, slope) == pytest.approx((1.02 * 3.0 - 1.5, 6.12))
