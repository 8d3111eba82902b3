"""``checkpointd calibrate background``: the empty lane's rate, spread, drift and radiation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from agent import config as configuration
from agent.analysis.counting.empty_lane import in_blocks, shares_of, steadiness
from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.response.detector import Detector
from agent.analysis.response.templates import background_components
from agent.cli import main
from agent.delivery.wire import Encoder, Identity
from agent.tools.calibrate.background import EmptyLaneWatch
from agent.tools.replay.recording import CapturedReadings
from agent.tools.replay.replay import Replay
from drivers.readings import EnergyCalibration, GammaSpectrum, VehiclePresence

SEED = 20261123
LOGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "lane-logs"
GRID = sqrt_grid()
NAI = Detector(material="nai", sides_cm=(5.0, 10.0, 40.0))


@pytest.fixture
def lane_file(tmp_path):
    file = tmp_path / "in-1.toml"
    file.write_text('[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "tcp://127.0.0.1:1600"\n')
    return file


@pytest.fixture
def dice():
    print(f"seed {SEED}")
    return np.random.default_rng(SEED)


# ------------------------------------------------------------------ the figures


def test_a_poisson_process_has_a_spread_of_one_and_no_drift(dice):
    live_s, at_s = np.full(600, 1.0), np.arange(600.0)
    found = steadiness(dice.poisson(400.0, 600).astype(float), live_s, at_s)
    assert found.rate_cps == pytest.approx(400, abs=4 * math.sqrt(400 / 600))
    assert found.sigma_cps == pytest.approx(math.sqrt(400 / 600), rel=0.1)
    assert found.spread == pytest.approx(1, abs=0.1)
    assert found.spread_p > 0.001
    assert abs(found.drift_per_h) < 4 * found.sigma_drift_per_h
    # Least squares of a line: sigma of the slope is 1 / sqrt(sum of live time × hours² / rate).
    hours = (at_s - at_s.mean()) / 3600
    expected = math.sqrt(400 / (hours**2).sum()) / 400
    assert found.sigma_drift_per_h == pytest.approx(expected, rel=0.1)


def test_a_drift_is_found_and_is_no_spread(dice):
    at_s = np.arange(3600.0)
    counts = dice.poisson(400.0 * (1 + 0.2 * at_s / 3600)).astype(float)
    found = steadiness(counts, np.ones(3600), at_s)
    assert found.drift_per_h == pytest.approx(0.2 / 1.1, abs=4 * found.sigma_drift_per_h)
    assert found.drift_per_h > 10 * found.sigma_drift_per_h
    assert found.spread == pytest.approx(1, abs=0.05)


def test_noise_beside_counting_is_a_spread(dice):
    rate = 400.0 * dice.gamma(100.0, 0.01, 600)  # 10 % of its own: variance 400 + 40²
    found = steadiness(dice.poisson(rate).astype(float), np.ones(600), np.arange(600.0))
    assert found.spread == pytest.approx(math.sqrt(1 + 40**2 / 400), rel=0.1)
    assert found.spread_p < 1e-6


def test_figures_too_regular_for_counting_are_seen():
    found = steadiness(np.full(100, 400.0), np.ones(100), np.arange(100.0))
    assert found.spread == 0
    assert found.spread_p < 1e-6


def test_two_intervals_give_a_rate_and_nothing_else():
    found = steadiness(np.array([3.0, 5.0]), np.array([1.0, 1.0]), np.array([0.0, 1.0]))
    assert (found.rate_cps, found.spread, found.drift_per_h) == (4.0, None, None)
    with pytest.raises(ValueError, match="no interval was live"):
        steadiness(np.zeros(3), np.zeros(3), np.arange(3.0))


def test_blocks_that_are_less_than_half_live_are_left_out():
    at_s = np.array([0.0, 20.0, 40.0, 60.0, 130.0, 150.0])
    counts, live_s, middles = in_blocks(np.ones(6), np.full(6, 20.0), at_s, 60.0)
    assert counts.tolist() == [3, 2]
    assert live_s.tolist() == [60, 40]
    assert middles.tolist() == [30, 150]


def test_the_shares_are_those_that_were_mixed(dice):
    components = background_components(NAI, GRID)
    above = components[:, GRID[:-1] >= 150].sum(axis=1)
    mixed = np.array([0.4, 0.0, 0.5, 0.1])
    found = shares_of(dice.poisson(1e6 * mixed @ components), components, GRID)
    truth = mixed * above / (mixed * above).sum()
    assert found.misfit == pytest.approx(1, abs=0.6)
    assert found.shares == pytest.approx(truth, abs=4 * found.sigmas.max())
    assert (found.shares >= 0).all()
    assert found.shares.sum() == pytest.approx(1)
    assert shares_of(np.zeros(64), components, GRID) is None


# ------------------------------------------------------------------ recordings

CHANNELS, SCALE = 128, EnergyCalibration(coefficients_kev=(30.0, 23.0))


def spectrum(counts):
    return GammaSpectrum(
        detector="left", counts=counts, real_time_s=1.0, live_time_s=1.0, energy=SCALE
    )


def test_what_came_near_a_vehicle_is_no_background(tmp_path):
    file = tmp_path / "in-1.toml"
    file.write_text('[devices.panel]\ndriver = "rpm.n42_stream"\nport = "tcp://127.0.0.1:1600"\n')
    lane = configuration.load_lane(file)
    lines, at_s = [], 0
    # A vehicle shines from 4 s before it is seen until 4 s after it was.
    for second in range(200):
        at_s = second
        near = 96 <= second < 115
        readings = [spectrum((7 if near else 2,) * CHANNELS)]
        if second == 100:
            readings.append(VehiclePresence(occupied=True))
        if second == 110:
            readings.append(VehiclePresence(occupied=False))
        lines.append(
            CapturedReadings(
                utc_us=round((1e9 + at_s) * 1e6), device="panel", readings=tuple(readings)
            )
        )
    watch = EmptyLaneWatch("panel", 5.0, {})
    encoder = Encoder(
        identity=Identity(root="r", site="s", gw="g"), mode="test", configrev="0", software="t"
    )
    for _ in Replay(file, lane, lane.rules(run="t"), encoder, lines, watch):
        pass
    samples = watch.gamma["left"]
    assert set(samples.counts) == {2.0 * CHANNELS}
    assert len(samples.counts) > 150
    assert samples.spectrum.sum() == pytest.approx(len(samples.counts) * 2 * CHANNELS, rel=0.02)


def log_of(path, minutes, dice, rate=400):
    """A daily file: the empty lane's means of 20 s each 5 s, as a portal prints them."""
    lines = []
    counts = dice.poisson(rate * 5, (4, minutes * 12 + 4))
    for i in range(minutes * 12):
        means = counts[:, i : i + 4].sum(axis=1) // 20
        hour, second = divmod(i * 5, 3600)
        clock = f"{10 + hour:02}:{second // 60:02}:{second % 60:02}"
        figures = ",".join(f"{mean:06d}" for mean in means)
        lines.append(f"GB,{figures},2026-11-23 {clock}.000 +00")
    path.write_text("\n".join(lines) + "\n")
    return path


def run(capsys, *arguments):
    capsys.readouterr()
    code = main(["calibrate", "background", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_an_hour_of_a_portals_own_background(tmp_path, capsys, lane_file, dice):
    log = log_of(tmp_path / "day.csv", 60, dice)
    arguments = (log, "--lane", lane_file, "--device", "rpm")
    code, out, _ = run(capsys, *arguments, "--averaging", "20", "--json")
    said = json.loads(out)
    assert (code, said["ok"]) == (0, True)
    assert [each["name"] for each in said["detectors"]] == ["1", "2", "3", "4"]
    for each in said["detectors"]:
        # The portal rounds down: half a count less.
        assert each["rate_cps"] == pytest.approx(399.5, abs=1.5)
        assert each["watched_s"] == pytest.approx(3600, abs=15)
        # Means of 20 s overlap; every fourth is a Poisson figure of its own.
        assert each["spread"] == pytest.approx(1, abs=0.25)
        assert each["low_cps"] < 390
        assert each["high_cps"] > 410
        assert each["shares"] is None
    lines = said["proposed"].splitlines()
    assert all(line.startswith("# ") for line in lines)
    assert len(lines) == 2 + 4
    # Without knowing what is averaged nothing is said of the spread.
    code, out, _ = run(capsys, *arguments, "--json")
    assert {each["spread"] for each in json.loads(out)["detectors"]} == {None}
    assert code == 0


def test_less_than_ten_minutes_are_refused(tmp_path, capsys, lane_file, dice):
    log = log_of(tmp_path / "day.csv", 9, dice)
    code, out, _ = run(capsys, log, "--lane", lane_file, "--device", "rpm")
    assert code == 1
    # 107 steps of 5 s, less the last, before which a vehicle may have been coming.
    assert "no background: 8.8 minutes of the empty lane by rpm; at least 10 are needed" in out
    assert "For the lane's file" not in out


def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, lane_file):
    code, _, err = run(capsys, "x.csv", "--lane", lane_file, "--device", "rmp")
    assert (code, "did you mean rpm?" in err) == (2, True)
    code, _, err = run(capsys, tmp_path / "none", "--lane", lane_file, "--device", "rpm")
    assert (code, "No such file" in err) == (2, True)


@pytest.mark.shared_data
def test_a_recorded_hour_of_a_real_portal(capsys, lane_file):
    log = LOGS / "S2-C0-NONE.csv"
    if not log.exists():
        pytest.skip(f"{log.name} is not here")
    code, out, _ = run(
        capsys, log, "--lane", lane_file, "--device", "rpm", "--averaging", "20", "--json"
    )
    assert code == 0
    detectors = json.loads(out)["detectors"]
    gamma = [each for each in detectors if each["kind"] == "gamma"]
    assert [each["rate_cps"] for each in gamma] == pytest.approx([381, 377, 412, 365], abs=2)
    # Counting statistics, and no more.
    assert [each["spread"] for each in gamma] == pytest.approx([1] * 4, abs=0.15)
    neutron = [each["rate_cps"] for each in detectors if each["kind"] == "neutron"]
    # The lines NB1 are exact, those of NB rounded down; vehicles change little of their mean.
    exact = [line.split(",")[1:5] for line in log.read_text().splitlines() if line[:4] == "NB1,"]
    assert neutron == pytest.approx(np.array(exact, dtype=float).mean(axis=0), rel=0.03)
