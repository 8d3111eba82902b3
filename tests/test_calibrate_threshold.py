"""``checkpointd calibrate threshold``: what it learns from, what it shows, and what it refuses."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from agent import config as configuration
from agent.analysis.detection import model as detection
from agent.analysis.detection.model import Shapes
from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.response.detector import Detector
from agent.analysis.response.library import Library
from agent.analysis.response.templates import background_components
from agent.cli import main
from agent.config.model_file import load_model
from agent.tools.calibrate import threshold as calibrate_threshold
from agent.tools.calibrate.threshold import passes_for
from agent.tools.evaluate.passes import Passes, write_passes

SEED = 20261123
SLICES, BACKGROUND_S = 10, 120.0
GRID = sqrt_grid()
LANE = """
[devices.panel]
driver = "rpm.n42_stream"
port = "tcp://127.0.0.1:1600"

[spectral]
slice_s = 1.0
"""


@pytest.fixture(scope="module")
def empty_cps():
    detector = Detector(material="nai", sides_cm=(5.0, 10.0, 40.0))
    return 800.0 * np.array([0.3, 0.2, 0.4, 0.1]) @ background_components(detector, GRID)


def peaks(*energies_kev):
    middles = 0.5 * (GRID[1:] + GRID[:-1])
    energies = np.array(energies_kev)[:, None]
    shapes = np.exp(-0.5 * ((middles - energies) / (0.03 * np.sqrt(662.0 * energies))) ** 2)
    return Library(
        names=tuple(f"{energy:g}" for energy in energies_kev),
        shapes=shapes / shapes.sum(axis=1, keepdims=True),
        edges_kev=GRID,
    )


SOUGHT = Shapes(
    library=peaks(80.0, 186.0, 364.0, 662.0, 1250.0),
    dictionary=peaks(100.0, 250.0, 500.0, 1000.0, 2000.0),
    norm=peaks(1461.0, 609.0, 2614.0),
    loads=peaks(1461.0, 609.0, 2614.0),
)
"""Few shapes, quick to look for; what a lane computes of its own is another test's."""


@pytest.fixture
def lane(tmp_path, monkeypatch):
    file = tmp_path / "in-1.toml"
    file.write_text(LANE)

    def rules(config):
        return SimpleNamespace(shapes=SOUGHT, options=config.spectral)

    monkeypatch.setattr(calibrate_threshold, "spectral_rules", rules)
    return file


def traffic(empty_cps, passes, *, seed=SEED, hot=(), test=0, drift=0.0):
    """Benign passages of one detector; ``hot`` ones carry Cs-137 in the middle."""
    print(f"seed {seed}")
    dice = np.random.default_rng(seed)
    shield = 1.0 - dice.uniform(0.0, 0.3, (passes, 1)) * np.hanning(SLICES)[None]
    rate = empty_cps * shield[:, :, None]
    peak = np.exp(-0.5 * ((0.5 * (GRID[1:] + GRID[:-1]) - 662.0) / 25.0) ** 2)
    for number in hot:
        rate[number, 3:7] += 400.0 * peak / peak.sum()
    if drift:
        rate[passes * 4 // 5 :, 3:7] += drift * peak / peak.sum()
    role = np.ones(passes, dtype=bool)
    role[passes - test :] = False
    return Passes(
        counts=dice.poisson(rate)[:, :, None].astype(np.int32),
        slices=np.full(passes, SLICES),
        live_s=np.ones((passes, SLICES, 1)),
        slice_s=1.0,
        edges_kev=GRID[None],
        background_counts=dice.poisson(empty_cps * BACKGROUND_S, (passes, 1, len(empty_cps))),
        background_s=np.full(passes, BACKGROUND_S),
        speed_m_per_s=np.full(passes, np.nan),
        neutron_counts=None,
        is_commission=role,
        truth=None,
        strength_cps=None,
    )


def run(capsys, *arguments):
    capsys.readouterr()
    code = main(["calibrate", "threshold", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_benign_traffic_gives_a_file_that_the_lane_takes(tmp_path, capsys, lane, empty_cps):
    write_passes(tmp_path / "p.npz", traffic(empty_cps, 570, test=10))
    output = tmp_path / "learned.npz"
    code, out, _ = run(capsys, tmp_path / "p.npz", "--lane", lane, "-o", output, "--json")
    said = json.loads(out)
    assert (code, said["ok"], said["refusals"]) == (0, True, [])
    assert (said["passes"], said["left_out"], said["far"]) == (560, 10, 1e-3)
    held = said["held_out"]
    assert held["passes"] == 560
    assert held["alarms"] <= 3
    if held["alarms"] == 0:
        assert held["bound_95"] == pytest.approx(1 - 0.05 ** (1 / 560), rel=1e-3)
    assert said["uniformity_p"] > 0.01
    assert said["modes"] >= 1  # the vehicles' shadow
    # 560 passages show no rate of 1e-3.
    assert (said["rate_shown"], said["passes_for_rate"]) == (False, 2995)
    proposed = tomllib.loads(said["proposed"])["spectral"]
    assert proposed == {"thresholds_file": str(output)}
    # The lane takes it, finds caesium with it and lets other benign traffic pass.
    lane.write_text(LANE + said["proposed"].split("\n", 2)[2])
    options = configuration.load_lane(lane).spectral
    assert options.thresholds_file == str(output)
    loaded, _ = load_model(output, SOUGHT, options)
    fresh = traffic(empty_cps, 40, seed=SEED + 1, hot=range(5))
    background = fresh.background_counts[:, 0].astype(float)
    found = detection.judge(
        loaded, fresh.counts[:, :, 0].astype(float), background[:, None] / 120.0, background
    )
    assert (found.p[:5] < 1e-3).all()
    assert (found.p[5:] > 1e-3).all()


def test_a_person_reads_what_is_provisional_and_what_to_paste(tmp_path, capsys, lane, empty_cps):
    lane.write_text(LANE + 'thresholds_file = "/old/one.npz"\n')
    write_passes(tmp_path / "a.npz", traffic(empty_cps, 280))
    write_passes(tmp_path / "b.npz", traffic(empty_cps, 280, seed=SEED + 2))
    output = tmp_path / "t.npz"
    files = (tmp_path / "a.npz", tmp_path / "b.npz")
    code, out, _ = run(capsys, *files, "--lane", lane, "--far", "0.005", "-o", output)
    assert code == 0
    assert "560" in out
    assert "the rate of 0.005 is provisional" in out
    assert "598 without an alarm would show it" in out
    section = out[out.index("[spectral]") :]
    assert 'before: "/old/one.npz"' in section
    assert tomllib.loads(section)["spectral"] == {
        "thresholds_file": str(output),
        "false_alarm_rate": 0.005,
    }


def test_too_few_passages_are_refused_with_how_many_are_needed(tmp_path, capsys, lane, empty_cps):
    write_passes(tmp_path / "p.npz", traffic(empty_cps, 300))
    output = tmp_path / "t.npz"
    code, out, _ = run(capsys, tmp_path / "p.npz", "--lane", lane, "-o", output)
    assert code == 1
    assert "no thresholds: 300 benign passages; at least 500 are needed" in out
    assert "2995 without an alarm show a rate of 0.001" in out
    assert "[spectral]" not in out
    assert not output.exists()


def test_a_rate_far_beyond_the_data_is_refused(tmp_path, capsys, lane, empty_cps):
    write_passes(tmp_path / "p.npz", traffic(empty_cps, 500))
    code, out, _ = run(
        capsys, tmp_path / "p.npz", "--lane", lane, "--far", "1e-6", "-o", tmp_path / "t.npz"
    )
    assert code == 1
    assert "carry no threshold for one false alarm in 1000000" in out


def test_traffic_that_changed_is_refused(tmp_path, capsys, lane, empty_cps):
    # Somebody left a weak source beside the lane, which the last fifth of the vehicles uncovers.
    write_passes(tmp_path / "p.npz", traffic(empty_cps, 500, drift=40.0))
    output = tmp_path / "t.npz"
    code, out, _ = run(capsys, tmp_path / "p.npz", "--lane", lane, "-o", output)
    assert code == 1
    assert "held-out p" in out
    assert not output.exists()


def test_sources_among_benign_passages_are_named(tmp_path, capsys, lane, empty_cps):
    hot = (40, 150, 270, 400)
    write_passes(tmp_path / "p.npz", traffic(empty_cps, 560, hot=hot))
    code, out, _ = run(
        capsys, tmp_path / "p.npz", "--lane", lane, "-o", tmp_path / "t.npz", "--json"
    )
    said = json.loads(out)
    named = {each["pass"] for each in said["would_alarm"] if each["file"] == "p.npz"}
    assert code == 1
    assert named >= set(hot)
    assert "held-out passages would alarm" in said["refusals"][0]


def changed(passes, change):
    return replace(passes, **change)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"slice_s": 2.0, "live_s": np.full((20, SLICES, 1), 2.0)}, "slices are 2 s long"),
        (
            {
                "edges_kev": None,
                "counts": np.ones((20, SLICES, 1, 4), dtype=int),
                "background_counts": np.ones((20, 1, 4), dtype=int),
            },
            "holds energy windows",
        ),
    ],
    ids=["slices", "windows"],
)
def test_passages_of_another_kind_are_wrong_input(tmp_path, capsys, lane, empty_cps, change, said):
    write_passes(tmp_path / "p.npz", changed(traffic(empty_cps, 20), change))
    code, _, err = run(capsys, tmp_path / "p.npz", "--lane", lane, "-o", tmp_path / "t.npz")
    assert code == 2
    assert said in err
    assert err.count("\n") == 1


def test_wrong_input_is_one_sentence_and_exit_code_2(tmp_path, capsys, lane):
    taken = tmp_path / "t.npz"
    taken.write_text("mine")
    code, _, err = run(capsys, "p.npz", "--lane", lane, "-o", taken)
    assert (code, "is there already" in err) == (2, True)
    code, _, err = run(capsys, tmp_path / "none.npz", "--lane", lane)
    assert (code, "No such file" in err) == (2, True)
    bare = tmp_path / "bare.toml"
    bare.write_text('[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "tcp://127.0.0.1:1600"\n')
    code, _, err = run(capsys, "p.npz", "--lane", bare)
    assert (code, "has no table [spectral]" in err) == (2, True)
    assert taken.read_text() == "mine"


@pytest.mark.parametrize(("rate", "passes"), [(1e-3, 2995), (1e-2, 299), (0.05, 59)])
def test_a_rate_needs_so_many_passages_without_an_alarm(rate, passes):
    assert passes_for(rate) == passes
    assert (1 - rate) ** passes <= 0.05 < (1 - rate) ** (passes - 1)
