"""``checkpointd replay --passes``: what a lane's recording holds, as a file of passages."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import config as configuration
from agent.analysis.energy.scale import sqrt_grid
from agent.cli import main
from agent.config.spectral import spectral_rules
from agent.delivery.wire import Encoder, Identity
from agent.tools.evaluate.lane_neutrons import LaneNeutrons
from agent.tools.evaluate.lane_passes import LanePasses, whole
from agent.tools.evaluate.passes import read_passes, write_passes
from agent.tools.replay.recording import CapturedReadings
from agent.tools.replay.replay import Replay
from drivers.readings import (
    DeviceAlarm,
    EnergyCalibration,
    GammaSpectrum,
    NeutronCounts,
    VehiclePresence,
)

SEED = 20261123
LOGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "lane-logs"
CHANNELS, SCALE = 256, EnergyCalibration(coefficients_kev=(30.0, 11.6))
"""Channels that lie within the grid, so that no count is lost."""
RATE = 800.0 * np.exp(-np.arange(CHANNELS) / 40.0) / np.exp(-np.arange(CHANNELS) / 40.0).sum()
LANE = """
[devices.panel]
driver = "rpm.n42_stream"
port = "tcp://127.0.0.1:1600"

[spectral]
slice_s = 1.0
"""


@pytest.fixture(scope="module")
def lane(tmp_path_factory):
    file = tmp_path_factory.mktemp("lane") / "in-1.toml"
    file.write_text(LANE)
    return configuration.load_lane(file)


@pytest.fixture(scope="module")
def rules(lane):
    return lane.rules(run="t", spectral=spectral_rules(lane))


class Recording:
    """Seconds of two detectors' spectra, and vehicles that come and go."""

    def __init__(self):
        print(f"seed {SEED}")
        self.dice = np.random.default_rng(SEED)
        self.at_s = 0
        self.lines = []
        self.totals = {}

    def say(self, *readings):
        us = round((1e9 + self.at_s) * 1e6)
        self.lines.append(CapturedReadings(utc_us=us, device="panel", readings=readings))

    def seconds(self, count, detectors=("left", "right")):
        for _ in range(count):
            self.at_s += 1
            spectra = {name: self.dice.poisson(RATE) for name in detectors}
            self.totals[self.at_s] = {name: int(each.sum()) for name, each in spectra.items()}
            self.say(
                *(
                    GammaSpectrum(
                        detector=name,
                        counts=tuple(map(int, each)),
                        real_time_s=1.0,
                        live_time_s=0.98,
                        energy=SCALE,
                    )
                    for name, each in spectra.items()
                )
            )

    def vehicle(self, count, *more, detectors=("left", "right")):
        self.say(VehiclePresence(occupied=True))
        self.seconds(count // 2, detectors)
        self.say(*more)
        self.seconds(count - count // 2, detectors)
        self.say(VehiclePresence(occupied=False))


def recorded(recording, lane, rules):
    watch = LanePasses(1.0)
    encoder = Encoder(
        identity=Identity(root="r", site="s", gw="g"), mode="test", configrev="0", software="t"
    )
    for _ in Replay(Path("x"), lane, rules, encoder, recording.lines, watch):
        pass
    return watch


def test_a_recordings_passages_are_written_and_read_back(tmp_path, lane, rules):
    recording = Recording()
    recording.seconds(60)
    recording.vehicle(8)
    recording.seconds(40)
    alarm = DeviceAlarm(kind="spectral", code="it", detail="")
    recording.vehicle(12, alarm)
    recording.seconds(40)
    found = recorded(recording, lane, rules).passes()
    write_passes(tmp_path / "p.npz", found)
    passes = read_passes(tmp_path / "p.npz")
    assert passes.is_commission.tolist() == [True, False]  # the device alarmed at the second
    assert passes.edges_kev.tolist() == [sqrt_grid().tolist()] * 2
    assert passes.slice_s == 1.0
    # The approach of 5 s counts with the vehicle, whole slices only.
    assert passes.slices[0] == pytest.approx(8 + 5, abs=1)
    assert passes.slices[1] == pytest.approx(12 + 5, abs=1)
    real = passes.is_real
    assert passes.live_s[real] == pytest.approx(0.98)
    assert not passes.live_s[~real].any()
    assert not passes.counts[~real].any()
    # The seconds about the vehicle, as they were sent: the k-th slice is one second of them.
    sent = [recording.totals[second]["left"] for second in sorted(recording.totals)]
    got = passes.counts[0, : passes.slices[0], 0].sum(axis=1).tolist()
    at = next(i for i in range(53, 58) if abs(sent[i] - got[0]) <= 1)
    assert got == pytest.approx(sent[at : at + len(got)], abs=1)
    # 60 s of 800 counts/s are known before, less the approach.
    rate = passes.background_counts[0].sum(axis=1) / passes.background_s[0]
    assert 40 < passes.background_s[0] < 60
    assert rate == pytest.approx([800 / 0.98] * 2, rel=0.03)
    assert np.isnan(passes.speed_m_per_s).all()


def neutrons(count):
    return NeutronCounts(counts=(count, 1), real_time_s=1.0, device_alarm=False)


def test_neutrons_counted_all_the_time_stand_in_their_slices(lane, rules):
    recording = Recording()
    for second in range(1, 90):
        if second == 60:
            recording.say(VehiclePresence(occupied=True))
        if second == 68:
            recording.say(VehiclePresence(occupied=False))
        recording.seconds(1)
        recording.say(neutrons(second % 7))
    recording.seconds(20)
    passes = recorded(recording, lane, rules).passes()
    assert passes.neutron_live_s is None  # the length of a slice, in every slice
    length = int(passes.slices[0])
    got = passes.neutron_counts[0, :length].tolist()
    sent = [[second % 7, 1] for second in range(1, 90)]
    assert any(sent[at : at + length] == got for at in range(len(sent))), got
    assert not passes.neutron_counts[0, length:].any()


def test_neutrons_stand_in_the_slice_that_holds_their_middle(tmp_path, lane, rules):
    recording = Recording()
    recording.seconds(60)
    two = NeutronCounts(counts=(3, 4), real_time_s=1.0, device_alarm=False)
    recording.vehicle(8, two)
    recording.seconds(40)
    recording.vehicle(8)
    recording.seconds(40)
    # Nobody is there, and no passage has these.
    recording.say(replace(two, counts=(100, 100)))
    recording.seconds(40)
    write_passes(tmp_path / "p.npz", recorded(recording, lane, rules).passes())
    passes = read_passes(tmp_path / "p.npz", needs_test=False)
    assert passes.neutron_counts.sum(axis=(0, 1)).tolist() == [3, 4]
    at = np.argwhere(passes.neutron_live_s[:, :, 0]).tolist()
    assert [number for number, _ in at] == [0]
    # It came with the fourth second of the vehicle, behind an approach of some five.
    assert at[0][1] == pytest.approx(passes.slices[0] - 4 - 1, abs=1)
    assert passes.neutron_live_s.sum(axis=(0, 1)).tolist() == [1.0, 1.0]


def test_a_recording_without_neutrons_has_no_array_of_them(lane, rules):
    recording = Recording()
    recording.seconds(60)
    recording.vehicle(8)
    recording.seconds(40)
    passes = recorded(recording, lane, rules).passes()
    assert passes.neutron_counts is None
    assert passes.neutron_live_s is None


@given(
    st.lists(st.tuples(st.integers(0, 40_000_000), st.integers(0, 50)), max_size=30),
    st.integers(1, 30),
)
def test_no_neutron_is_booked_twice_and_none_outside(heard, slices):
    booked = LaneNeutrons()
    for ended_us, count in heard:
        reading = NeutronCounts(counts=(count,), real_time_s=1.0, device_alarm=False)
        booked.take(ended_us, "rpm", reading)
    spans = [(5_000_000 + 1_000_000 * i, 6_000_000 + 1_000_000 * i) for i in range(slices)]
    counts, live_s = booked.booked([spans], 0.9)
    inside = [n for us, n in heard if 5_500_000 <= us < 5_500_000 + 1_000_000 * slices]
    if not inside:
        assert (counts, live_s) == (None, None)
        return
    assert counts.sum() == sum(inside)
    assert live_s.sum() == len(inside)


def test_a_detector_that_is_silent_or_was_heard_late_has_no_live_time(lane, rules):
    recording = Recording()
    recording.seconds(40, ("left",))
    recording.vehicle(8, detectors=("left",))
    recording.seconds(60)
    recording.vehicle(8, detectors=("right",))
    recording.seconds(20)
    passes = recorded(recording, lane, rules).passes()
    assert passes.counts.shape[:3:2] == (2, 2)
    assert not passes.live_s[0, :, 1].any()
    assert not passes.background_counts[0, 1].any()
    middle = slice(7, 12)
    assert not passes.live_s[1, middle, 0].any()
    assert passes.live_s[1, middle, 1] == pytest.approx(0.98)


def test_a_slice_that_got_two_intervals_gives_one_to_its_neighbour(lane, rules):
    recording = Recording()
    recording.seconds(60)
    recording.say(VehiclePresence(occupied=True))
    recording.seconds(10)
    recording.say(VehiclePresence(occupied=False))
    recording.seconds(20)
    # A recorder that is late once: 0.6 s, so that one second is counted to the next slice.
    late = [
        CapturedReadings(utc_us=each.utc_us + 600_000 * (index == 66), device="panel", readings=r)
        for index, each in enumerate(recording.lines)
        for r in [each.readings]
    ]
    recording.lines = late
    passes = recorded(recording, lane, rules).passes()
    assert passes.live_s.max() <= 1.0
    assert passes.live_s[0, :, 0].sum() == pytest.approx(0.98 * passes.slices[0], abs=0.05)


def test_a_passage_before_any_background_is_left_out_and_counted(lane, rules):
    recording = Recording()
    recording.vehicle(8)
    recording.seconds(5)
    watch = recorded(recording, lane, rules)
    assert watch.passes() is None
    assert watch.without_background == 1


@given(
    st.lists(st.lists(st.floats(0, 50), min_size=6, max_size=6), min_size=1, max_size=20),
)
def test_whole_counts_keep_the_sum_and_move_no_bin_by_more_than_one(rows):
    counts = np.array(rows)
    found = whole(counts)
    assert (found >= 0).all()
    assert np.abs(found - counts).max() <= 1 + 1e-6
    assert np.abs(found.sum(axis=1) - counts.sum(axis=1)).max() <= 1 + 1e-6


def test_counts_that_are_whole_already_stay_and_fractions_favour_no_bin():
    already = np.arange(60).reshape(3, 5, 4)
    assert whole(already.astype(float)).tolist() == already.tolist()
    many = np.tile([0.3, 0.7, 0.05, 2.95], (4000, 1))
    assert whole(many).mean(axis=0) == pytest.approx([0.3, 0.7, 0.05, 2.95], abs=0.005)


# ------------------------------------------------------------------ the command


@pytest.fixture
def windows_lane(tmp_path):
    file = tmp_path / "in-1.toml"
    file.write_text('[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "tcp://127.0.0.1:1600"\n')
    return file


@pytest.mark.shared_data
def test_a_recorded_day_of_a_portal_with_windows(tmp_path, capsys, windows_lane):
    log = LOGS / "S2-C0-NONE.csv"
    if not log.exists():
        pytest.skip(f"{log.name} is not here")
    output = tmp_path / "p.npz"
    assert main(["replay", str(log), "--lane", str(windows_lane), "--passes", str(output)]) == 0
    assert "25 passages to" in capsys.readouterr().err
    passes = read_passes(output, needs_test=False)
    text = log.read_text()
    sent = sum(
        sum(map(int, line.split(",")[1:5])) for line in text.splitlines() if line[:3] == "AS,"
    )
    assert passes.counts.sum() == sent  # every window line of the day is in one passage
    assert passes.slice_s == 0.2
    assert passes.edges_kev is None
    seconds = [line.split(",")[1:5] for line in text.splitlines() if line[:3] in {"NS,", "NA,"}]
    assert passes.neutron_counts.sum() == sum(int(n) for four in seconds for n in four)
    assert passes.neutron_live_s.sum() == 4 * len(seconds)
    assert set(np.unique(passes.neutron_live_s)) <= {0.0, 1.0, 2.0}
    # Windows see some 42 counts/s more than the gamma lines; each vehicle shields the lane.
    rate = passes.background_counts.sum(axis=(1, 2)) / passes.background_s
    inside = passes.counts.sum(axis=(1, 2, 3)) / (passes.slices * 0.2)
    assert rate == pytest.approx(1570, abs=40)
    assert (inside < rate).all()
    assert 2.0 < np.median(passes.speed_m_per_s) < 2.5


def test_a_recording_without_spectra_or_windows_writes_nothing(tmp_path, capsys, windows_lane):
    log = tmp_path / "day.csv"
    log.write_text(
        "GB,000400,000400,000400,000400,2026-11-23 10:00:00.000 +00\n"
        + "GS,000080,000080,000080,000080,2026-11-23 10:00:05.000 +00\n" * 6
        + "GX,000001,002566,000000,000000,2026-11-23 10:00:07.000 +00\n"
    )
    output = tmp_path / "p.npz"
    assert main(["replay", str(log), "--lane", str(windows_lane), "--passes", str(output)]) == 1
    assert "not written: no passage has spectra or energy windows" in capsys.readouterr().err
    assert not output.exists()


def test_no_file_is_written_over_another(tmp_path, capsys, windows_lane):
    output = tmp_path / "p.npz"
    output.write_text("mine")
    assert main(["replay", "x.csv", "--lane", str(windows_lane), "--passes", str(output)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert output.read_text() == "mine"
