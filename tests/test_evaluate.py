"""``checkpointd evaluate`` on a small file of passages whose truth the test knows."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.tools.evaluate import judging as pass_judging
from agent.tools.evaluate import spectra as pass_spectra
from agent.tools.evaluate.evaluate import detector_of
from agent.tools.evaluate.passes import PassesError, read_library, read_passes
from agent.tools.evaluate.sought import nuclide_of_source

SEED = 20261123
SLICES, SLICE_S, CHANNELS = 16, 0.5, 128
EDGES_KEV = np.stack(
    [np.linspace(20.0, 2900.0, CHANNELS + 1), np.linspace(25.0, 3050.0, CHANNELS + 1)]
)
COMMISSION, BENIGN, EACH = 420, 60, 4
LINES_KEV = {"Cs137_Shielded": ((662.0, 1.0),), "Co60": ((1173.0, 0.5), (1332.0, 0.5))}
CPS = 700.0


def spectrum(edges, lines, continuum):
    """Peaks of 7 % at 662 keV and a falling continuum below the highest: what a crystal makes."""
    middles, widths = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    shape = np.zeros(len(middles))
    for energy, part in lines:
        sd = 0.03 * np.sqrt(energy * 662.0)
        shape += part * np.exp(-0.5 * ((middles - energy) / sd) ** 2) / sd * widths
        shape += part * continuum * widths / energy * (middles < 0.75 * energy)
    return shape / shape.sum()


def background(edges):
    middles, widths = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)
    shape = np.exp(-middles / 400.0) * widths
    return shape / shape.sum() + 0.02 * spectrum(edges, ((1461.0, 1.0),), 1.0)


def arrays(*, commission=COMMISSION, seed=SEED):
    """A file's content: benign traffic, and two sources that pass in the middle."""
    rng = np.random.default_rng(seed)
    truth = [""] * (commission + BENIGN) + [name for name in LINES_KEV for _ in range(EACH)]
    strength = np.array([0.0 if name == "" else CPS for name in truth])
    total = len(truth)
    at_s = (np.arange(SLICES) - rng.uniform(5, 10, (total, 1))) * SLICE_S
    course = (1.0 + at_s**2) ** -1.25
    depth = rng.uniform(0.0, 0.3, (total, 1)) * np.exp(-0.5 * (at_s / 2.0) ** 2)
    counts = np.zeros((total, SLICES, 2, CHANNELS))
    before = np.zeros((total, 2, CHANNELS))
    for detector, edges in enumerate(EDGES_KEV):
        empty = 1500.0 * background(edges)
        counts[:, :, detector] = SLICE_S * empty * (1.0 - depth)[:, :, None]
        before[:, detector] = 60.0 * empty
        for name, lines in LINES_KEV.items():
            which = np.array([each == name for each in truth])
            shape = 0.5 * CPS * SLICE_S * spectrum(edges, lines, 1.0)
            counts[which, :, detector] += course[which, :, None] * shape
    return {
        "format": np.array("checkpointd-passes/1"),
        "counts": rng.poisson(counts).astype(np.uint16),
        "slice_s": np.array(SLICE_S),
        "energy_edges_kev": EDGES_KEV,
        "background_counts": rng.poisson(before).astype(np.uint32),
        "background_s": np.full(total, 60.0),
        "speed_m_per_s": np.full(total, np.nan),
        "role": np.array(["commission"] * commission + ["test"] * (total - commission)),
        "truth": np.array(truth),
        "strength_cps": strength,
    }


def windows(**options):
    """The same traffic as four windows see it, which take no templates to compute."""
    content = arrays(**options)
    del content["energy_edges_kev"]
    for name in ("counts", "background_counts"):
        each = content[name]
        content[name] = each.reshape(*each.shape[:-1], 4, -1).sum(axis=-1)
    return content


@pytest.fixture(scope="module")
def whole():
    print(f"seed {SEED}")
    return arrays()


def written(path, content):
    np.savez(path, **content)
    return path


def evaluated(capsys, path, *options):
    """Return the lines and the summary; the command has to end well."""
    assert main(["evaluate", str(path), "--far", "0.002", "--json", *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["type"] == "summary"
    return lines[:-1], lines[-1]


def test_sources_are_found_and_benign_passages_are_not(tmp_path, whole, capsys):
    lines, summary = evaluated(capsys, written(tmp_path / "p.npz", whole))
    assert [line["pass"] for line in lines] == list(range(COMMISSION, len(whole["role"])))
    assert not any(line["provisional"] for line in lines)
    # A shielded source counts as its nuclide.
    assert summary["detection"] == {
        "Co-60": [{"strength_cps": CPS, "passes": EACH, "alarms": EACH}],
        "Cs-137": [{"strength_cps": CPS, "passes": EACH, "alarms": EACH}],
    }
    first = lines[BENIGN]
    assert (first["category"], first["nuclides"][0]["name"]) == ("industrial", "Cs-137")
    assert all(line["nuclides"] == [] for line in lines if not line["alarm"])
    benign = summary["benign"]
    assert benign["passes"] == BENIGN
    assert benign["alarms"] <= 2
    assert benign["bound_95"] >= (1 - 0.05 ** (1 / BENIGN)) * (1 - 1e-5)
    assert summary["slice_us"] > 0
    assert summary["far"] == 0.002


def test_an_excluded_nuclide_is_still_found_by_its_energies(tmp_path, capsys):
    path = written(tmp_path / "p.npz", arrays(commission=3))
    lines, summary = evaluated(capsys, path, "--exclude", "Cs137", "--exclude", "Co-60")
    assert all(row[0]["alarms"] == EACH for row in summary["detection"].values())
    assert not {"Cs-137", "Co-60"} & {each["name"] for line in lines for each in line["nuclides"]}


def test_the_truth_changes_no_line(tmp_path, capsys):
    content = windows()
    path = written(tmp_path / "p.npz", content)
    without = {n: v for n, v in content.items() if n not in ("truth", "strength_cps")}
    told, _ = evaluated(capsys, path)
    untold, summary = evaluated(capsys, written(tmp_path / "q.npz", without))
    assert told == untold
    assert summary["benign"] is None
    assert summary["detection"] == {}


def test_a_test_passage_is_judged_on_its_own(tmp_path, capsys):
    content = windows()
    keep = np.r_[0:COMMISSION, len(content["role"]) - 1]
    fewer = {name: array[keep] if array.ndim else array for name, array in content.items()}
    all_lines, _ = evaluated(capsys, written(tmp_path / "p.npz", content))
    one, _ = evaluated(capsys, written(tmp_path / "q.npz", fewer))
    assert one[0]["p"] == pytest.approx(all_lines[-1]["p"], rel=1e-3)


def test_too_few_commission_passages_are_said_to_be_provisional(tmp_path, capsys):
    content = windows(commission=5)
    assert main(["evaluate", str(written(tmp_path / "p.npz", content)), "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert all(line["provisional"] for line in lines)
    assert lines[-1]["benign"]["alarms"] == 0
    assert "provisional: 5 commission passages, 400 are needed" in err


def test_padding_and_live_time_change_no_verdict(tmp_path, capsys):
    content = windows(commission=3)
    plain, _ = evaluated(capsys, written(tmp_path / "p.npz", content))
    total = len(content["role"])
    padded = dict(content)
    junk = np.full((total, 4, 2, 4), 900, dtype=np.uint16)
    padded["counts"] = np.concatenate([content["counts"], junk], axis=1)
    padded["slices"] = np.full(total, SLICES)
    padded["live_s"] = np.full((total, SLICES + 4, 2), SLICE_S)
    padded["live_s"][:, SLICES:] = np.nan
    again, _ = evaluated(capsys, written(tmp_path / "q.npz", padded))
    assert again == plain


def test_half_the_live_time_is_no_suppression(tmp_path):
    content = arrays(commission=3)
    content["live_s"] = np.full((len(content["role"]), SLICES, 2), SLICE_S / 2)
    passes = read_passes(written(tmp_path / "p.npz", content))
    grid = pass_spectra.grid_of(passes)
    summed = pass_spectra.summed(passes, grid, pass_spectra.left_out(passes))
    rate = content["background_counts"][0].sum() / 60.0
    inside = summed.background[0].sum() / content["background_counts"][0].sum()
    assert summed.expected[0, 0].sum() == pytest.approx(rate * SLICE_S / 2 * inside)


def test_each_detector_is_read_on_its_own_scale(tmp_path, whole):
    passes = read_passes(written(tmp_path / "p.npz", whole))
    grid = pass_spectra.grid_of(passes)
    summed = pass_spectra.summed(passes, grid, pass_spectra.left_out(passes))
    cs = np.array([name.startswith("Cs137") for name in whole["truth"]])
    excess = (summed.counts - summed.expected)[cs].sum(axis=(0, 1))
    inside = (grid[:-1] > 450) & (grid[1:] < 900)
    at = int(np.where(inside, excess, -np.inf).argmax())
    # Were the second detector read by the first one's edges, its peak would stand 33 keV lower.
    assert grid[at] - 12 <= 662 <= grid[at + 1] + 12


def test_natural_cargo_is_counted_by_itself(tmp_path, capsys):
    content = windows(commission=3)
    content["truth"] = np.where(
        np.arange(len(content["truth"])) < 20, "NORM:K-40", content["truth"]
    )
    _, summary = evaluated(capsys, written(tmp_path / "p.npz", content))
    assert summary["norm"]["passes"] == 17
    assert summary["benign"]["passes"] == BENIGN - 17


def test_strengths_of_all_kinds_are_put_together(tmp_path, capsys):
    content = windows(commission=3)
    strengths = np.geomspace(10.0, 1000.0, 2 * EACH)
    content["strength_cps"][-2 * EACH :] = strengths
    content["truth"][-2 * EACH :] = "Co60"
    content["strength_cps"][-1] = np.nan
    _, summary = evaluated(capsys, written(tmp_path / "p.npz", content))
    rows = summary["detection"]["Co-60"]
    assert sum(row["passes"] for row in rows) == 2 * EACH
    assert rows[-1]["strength_cps"] is None
    known = [row["strength_cps"] for row in rows[:-1]]
    assert known == pytest.approx(list(strengths[:-1]), rel=1e-3)


def test_a_dead_and_a_stuck_detector_are_left_out_and_said_so(tmp_path, capsys):
    content = windows(commission=40)
    first = 40
    content["counts"][first, :, 0] = 0
    content["background_counts"][first, 0] = 0
    content["counts"][first + 1, :, 1] = 7
    content["background_counts"][first + 2, 1] *= 4
    content["counts"][first + 3] = 0
    content["background_counts"][first + 3] = 0
    assert main(["evaluate", str(written(tmp_path / "p.npz", content)), "--json"]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["left_out"] for line in lines[:3]] == [
        [{"detector": 0, "why": "dead"}],
        [{"detector": 1, "why": "stuck"}],
        [{"detector": 1, "why": "noisy"}],
    ]
    assert all(line["alarm"] is False for line in lines[:3])
    # Nothing works: unknown, never clean.
    assert (lines[3]["alarm"], lines[3]["p"], lines[3]["statistic"]) == (None, None, None)
    assert lines[-1]["not_judged"] == 1
    assert all(line["left_out"] == [] for line in lines[4:-1])
    assert "detector 0 is left out of 2 of" in err


def test_a_strong_source_leaves_no_detector_out(tmp_path):
    content = arrays(commission=40)
    content["counts"][45, 6:9, 0] += 20_000
    passes = read_passes(written(tmp_path / "p.npz", content))
    assert not pass_spectra.left_out(passes).any.any()


def test_neutrons_alone_raise_an_alarm(tmp_path, capsys):
    content = windows(commission=30)
    rng = np.random.default_rng(SEED)
    total = len(content["role"])
    content["neutron_counts"] = rng.poisson(0.5, (total, SLICES, 2)).astype(np.int16)
    content["neutron_counts"][33, 6:10] += 6
    lines, _ = evaluated(capsys, written(tmp_path / "p.npz", content))
    assert (lines[3]["alarm"], lines[3]["statistic"]) == (True, "neutron")
    benign = [line for line in lines[:BENIGN] if line["pass"] != 33]
    assert not any(line["alarm"] for line in benign)


def test_neutrons_of_a_quiet_detector_keep_their_rate():
    rng = np.random.default_rng(SEED)
    quiet = 0
    for _ in range(2000):
        slices = rng.poisson(0.02, 40)
        live_s = np.full(40, 0.2)
        quiet += pass_judging._least_neutron_p(slices, live_s, 0.2, 0.1, 4000.0) < 0.01
    assert quiet <= 0.01 * 2000


def test_neutrons_booked_once_a_second_are_judged_by_their_live_time():
    # A second of neutrons in every fifth slice, none before the vehicle broke the beam.
    live_s = np.zeros(60)
    live_s[22::5] = 1.0
    rng = np.random.default_rng(SEED)
    low = 0
    for _ in range(2000):
        slices = np.where(live_s > 0, rng.poisson(2.5, 60), 0)
        low += pass_judging._least_neutron_p(slices, live_s, 0.2, 2.5, 4000.0) < 0.01
    assert low <= 0.01 * 2000
    slices[32] = 30
    assert pass_judging._least_neutron_p(slices, live_s, 0.2, 2.5, 4000.0) < 1e-9
    assert pass_judging._least_neutron_p(slices * 0, live_s * 0, 0.2, 2.5, 4000.0) == 1.0


def test_the_rate_of_neutrons_is_that_of_their_live_time(tmp_path):
    content = windows(commission=30)
    rng = np.random.default_rng(SEED)
    shape = (len(content["role"]), SLICES, 2)
    live_s = np.zeros(shape)
    live_s[:, SLICES // 2 :] = content["slice_s"]
    content["neutron_counts"] = rng.poisson(3.0 * live_s).astype(np.int16)
    content["neutron_live_s"] = live_s
    passes = read_passes(written(tmp_path / "p.npz", content))
    rate_cps, known_s = pass_judging.neutron_rate(passes)
    assert known_s == pytest.approx(30 * (SLICES - SLICES // 2) * float(content["slice_s"]))
    assert rate_cps == pytest.approx(2 * 3.0, rel=0.1)
    del content["neutron_live_s"]
    passes = read_passes(written(tmp_path / "q.npz", content))
    assert pass_judging.neutron_rate(passes)[0] < 0.6 * rate_cps


def test_windows_without_edges_are_judged(tmp_path, capsys):
    rng = np.random.default_rng(SEED)
    total, empty = 60, np.array([408.0, 582.0, 290.0, 288.0])
    mean = np.tile(empty * 0.2, (total, 40, 1, 1))
    mean[-5:, 15:25, 0, :2] *= 2.5
    content = {
        "format": np.array("checkpointd-passes/1"),
        "counts": rng.poisson(mean).astype(np.int32),
        "slice_s": np.array(0.2),
        "background_counts": rng.poisson(np.tile(empty * 20.0, (total, 1, 1))).astype(np.int32),
        "background_s": np.full(total, 20.0),
        "speed_m_per_s": np.full(total, 2.0),
        "role": np.array(["commission"] * 10 + ["test"] * 50),
    }
    lines, _ = evaluated(capsys, written(tmp_path / "p.npz", content))
    assert [line["alarm"] for line in lines] == [False] * 45 + [True] * 5


def test_a_library_file_is_looked_for(tmp_path, capsys):
    edges = EDGES_KEV[0]
    empty = 2000.0 * background(edges)
    names = ["background", "Cs137_Shielded", "Co60_Unshielded"]
    lines_kev = [None, LINES_KEV["Cs137_Shielded"], LINES_KEV["Co60"]]
    counts = [
        empty * 600 if n is None else (empty + 500 * spectrum(edges, n, 1.0)) * 600
        for n in lines_kev
    ]
    library = {"names": np.array(names), "counts": np.array(counts), "live": np.full(3, 600.0)}
    path = written(tmp_path / "lib.npz", {**library, "edges_kev": edges})
    held = read_library(path)
    assert held.names == ("Cs137_Shielded", "Co60_Unshielded")
    assert held.net_cps.sum(axis=1) == pytest.approx([500.0, 500.0], rel=1e-6)
    step = edges[1] - edges[0]
    linear = written(tmp_path / "cal.npz", {**library, "cal": np.array([edges[0], step])})
    assert read_library(linear).edges_kev == pytest.approx(edges)
    passes = written(tmp_path / "p.npz", arrays(commission=3))
    _, summary = evaluated(capsys, passes, "--library", str(path))
    assert all(row[0]["alarms"] == EACH for row in summary["detection"].values())


def test_a_table_is_printed_without_json(tmp_path, capsys):
    path = written(tmp_path / "p.npz", windows(commission=3))
    assert main(["evaluate", str(path), "--detector", "csi", "--crystal", "5x10x40cm"]) == 0
    out, err = capsys.readouterr()
    assert "Cs-137" in out
    assert "alarms in 60 benign passages" in out
    assert "learning" not in out + err  # no progress bar but on a terminal


@pytest.mark.parametrize(
    ("name", "nuclide"),
    [
        ("Cs137_Shielded", "Cs-137"),
        ("Cs-137", "Cs-137"),
        ("Tc99m_Phantom", "Tc-99m"),
        ("U235_Unshielded_9330", "U-235"),
        ("AmBe_x", "AmBe"),
    ],
)
def test_a_source_counts_as_its_nuclide(name, nuclide):
    assert nuclide_of_source(name) == nuclide


def test_a_crystal_is_given_in_cm_mm_or_inch():
    for text in ("5.08x10.16x40.64cm", "50.8x101.6x406.4mm", "2x4x16in", "2 × 4 × 16in"):
        assert detector_of("nai", text).sides_cm == pytest.approx((5.08, 10.16, 40.64))


# ------------------------------------------------------------------ broken files


def tiny():
    """Two passages of 3 slices and 2 detectors with 20 channels."""
    return {
        "format": np.array("checkpointd-passes/1"),
        "counts": np.ones((2, 3, 2, 20), dtype=np.int32),
        "slices": np.array([3, 2]),
        "live_s": np.full((2, 3, 2), 0.2),
        "slice_s": np.array(0.2),
        "energy_edges_kev": np.tile(np.linspace(0.0, 3000.0, 21), (2, 1)),
        "background_counts": np.ones((2, 2, 20), dtype=np.int32),
        "background_s": np.full(2, 30.0),
        "speed_m_per_s": np.full(2, np.nan),
        "neutron_counts": np.zeros((2, 3, 1), dtype=np.int32),
        "role": np.array(["commission", "test"]),
        "truth": np.array(["", "Cs137"]),
        "strength_cps": np.array([0.0, 100.0]),
    }


def negative(array):
    array = array.copy()
    array.flat[0] = -1
    return array


BROKEN = {
    "format-missing": ({"format": None}, "format is missing"),
    "format-other": ({"format": np.array("passes/9")}, "format is 'passes/9'"),
    "counts-missing": ({"counts": None}, "counts is missing"),
    "counts-flat": ({"counts": np.ones((2, 3, 20), dtype=int)}, "counts has the shape"),
    "counts-float": ({"counts": np.ones((2, 3, 2, 20))}, "counts is float64; store whole numbers"),
    "counts-none": ({"counts": np.ones((0, 3, 2, 20), dtype=int)}, "there is nothing to judge"),
    "counts-negative": (
        {"counts": negative(np.ones((2, 3, 2, 20), dtype=int))},
        "counts holds -1 in pass 0; counts are 0 or more",
    ),
    "slices-many": ({"slices": np.array([3, 4])}, "slices is 4 for pass 1"),
    "slices-zero": ({"slices": np.array([0, 3])}, "slices is 0 for pass 0"),
    "live-long": ({"live_s": np.full((2, 3, 2), 0.3)}, "live_s holds 0.3 s"),
    "live-negative": ({"live_s": np.full((2, 3, 2), -0.1)}, "live_s holds -0.1 s"),
    "live-nan": ({"live_s": np.full((2, 3, 2), np.nan)}, "live_s is NaN"),
    "slice-missing": ({"slice_s": None}, "slice_s is missing"),
    "slice-zero": ({"slice_s": np.array(0.0)}, "slice_s is 0; it lies between"),
    "slice-nan": ({"slice_s": np.array(np.nan)}, "slice_s holds NaN"),
    "edges-missing": ({"energy_edges_kev": None}, "20 channels are a spectrum"),
    "edges-falling": (
        {"energy_edges_kev": np.tile(np.linspace(3000.0, 0.0, 21), (2, 1))},
        "energy_edges_kev does not rise",
    ),
    "edges-one": ({"energy_edges_kev": np.linspace(0, 3000, 21)}, "energy_edges_kev has the shape"),
    "edges-mev": (
        {"energy_edges_kev": np.tile(np.linspace(0.0, 3.0, 21), (2, 1))},
        "edges are energies in keV",
    ),
    "background-missing": ({"background_counts": None}, "background_counts is missing"),
    "background-negative": (
        {"background_counts": negative(np.ones((2, 2, 20), dtype=int))},
        "background_counts holds -1 in pass 0",
    ),
    "background-zero": ({"background_s": np.array([30.0, 0.0])}, "background_s has a pass"),
    "speed-missing": ({"speed_m_per_s": None}, "speed_m_per_s is missing"),
    "speed-infinite": ({"speed_m_per_s": np.array([1.0, np.inf])}, "NaN says unknown"),
    "neutrons-short": ({"neutron_counts": np.zeros((2, 2, 1), dtype=int)}, "neutron_counts has"),
    "neutrons-none": ({"neutron_counts": np.zeros((2, 3, 0), dtype=int)}, "has no detector"),
    "neutrons-live-short": (
        {"neutron_live_s": np.ones((2, 2, 1))},
        "neutron_live_s has the shape",
    ),
    "neutrons-live-negative": (
        {"neutron_live_s": negative(np.ones((2, 3, 1)))},
        "neutron_live_s holds -1",
    ),
    "neutrons-live-none": (
        {"neutron_live_s": np.zeros((2, 3, 1)), "neutron_counts": np.ones((2, 3, 1), dtype=int)},
        "neutron_live_s is 0 where neutrons were counted",
    ),
    "neutrons-live-alone": (
        {"neutron_live_s": np.ones((2, 3, 1)), "neutron_counts": None},
        "neutron_live_s stands without neutron_counts",
    ),
    "role-missing": ({"role": None}, "role is missing"),
    "role-other": ({"role": np.array(["test", "train"])}, "role is train for pass 1"),
    "role-no-test": ({"role": np.array(["commission"] * 2)}, "nothing to judge"),
    "truth-number": ({"truth": np.array([0, 1])}, "truth is int64; store text"),
    "strength-negative": ({"strength_cps": np.array([0.0, -5.0])}, "strength_cps is negative"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_one_sentence_and_exit_code_2(tmp_path, capsys, case):
    change, said = BROKEN[case]
    content = {n: v for n, v in (tiny() | change).items() if v is not None}
    assert main(["evaluate", str(written(tmp_path / "p.npz", content)), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("checkpointd: p.npz: ")
    assert said in err
    assert len(err.splitlines()) == 1


def test_a_tiny_file_is_read_as_it_is(tmp_path):
    passes = read_passes(written(tmp_path / "p.npz", {**tiny(), "live": np.zeros(2)}))
    assert passes.is_real.tolist() == [[True, True, True], [True, True, False]]
    assert passes.live_s[1, 2].tolist() == [0.0, 0.0]
    assert passes.truth == ("", "Cs137")
    assert passes.ignored == ("live",)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--exclude", "Zz-9"], "--exclude Zz-9: there is no such nuclide"),
        (["--crystal", "big"], "--crystal big: expected three sides and a unit"),
        (["--crystal", "0x1x1cm"], "expected sides from 1 mm to 4 m"),
        (["--library", "nowhere.npz"], "nowhere.npz: No such file"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path, capsys, options, said):
    path = written(tmp_path / "p.npz", tiny())
    assert main(["evaluate", str(path), *options]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1


def test_what_is_no_archive_is_refused(tmp_path, capsys):
    text = tmp_path / "p.npz"
    text.write_text("pass,counts\n1,2\n")
    assert main(["evaluate", str(text)]) == 2
    assert "no npz archive" in capsys.readouterr().err
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert main(["evaluate", str(tmp_path / "one.npy")]) == 2
    assert main(["evaluate", str(tmp_path)]) == 2
    objects = written(tmp_path / "o.npz", {**tiny(), "role": np.array([None, {}], dtype=object)})
    assert main(["evaluate", str(objects)]) == 2
    assert "no npz archive of plain arrays" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": np.array(["a", "b"])}, "has no 'background'"),
        ({"counts": np.ones((2, 4)), "live": np.array([1.0, 0.0])}, "no live time"),
        ({"counts": np.ones((2, 4))}, "nowhere above the background"),
        ({"edges_kev": np.ones(3)}, "edges_kev has the shape"),
        ({"edges_kev": None}, "edges_kev is missing"),
    ],
)
def test_a_broken_library_is_one_sentence(tmp_path, change, said):
    content = {
        "names": np.array(["background", "Cs137"]),
        "counts": np.array([[1.0, 1, 1, 1], [2.0, 2, 2, 2]]),
        "live": np.ones(2),
        "edges_kev": np.linspace(0, 3000, 5),
    } | change
    path = written(tmp_path / "l.npz", {n: v for n, v in content.items() if v is not None})
    with pytest.raises(PassesError, match=said):
        read_library(path)


DTYPES = st.sampled_from(["i1", "u2", "i4", "u8", "f4", "f8", "?", "U5", "S3", "c8", "M8[s]"])
SHAPES = st.lists(st.integers(0, 3), max_size=5).map(tuple)


@st.composite
def any_array(draw):
    shape, dtype = draw(SHAPES), np.dtype(draw(DTYPES))
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(draw(st.binary(min_size=size, max_size=size)), dtype=dtype).reshape(shape)


def archive(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as held:
        for name, array in content.items():
            part = io.BytesIO()
            np.lib.format.write_array(part, np.asarray(array), allow_pickle=True)
            held.writestr(f"{name}.npy", part.getvalue())
    return stream.getvalue()


def reads_or_refuses(path, content):
    path.write_bytes(content)
    for read in (read_passes, read_library):
        refusals = []
        try:
            read(path)
        except PassesError as exc:
            refusals = str(exc).splitlines()
        assert len(refusals) <= 1


FIXTURE_REUSED = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@FIXTURE_REUSED
@given(st.dictionaries(st.sampled_from([*tiny(), "names", "live", "cal"]), any_array(), max_size=4))
def test_no_array_raises_anything_else(tmp_path, change):
    reads_or_refuses(tmp_path / "p.npz", archive({**tiny(), **change}))


@FIXTURE_REUSED
@given(st.integers(0, 2**31), st.binary(min_size=1, max_size=8))
def test_no_damage_to_a_file_raises_anything_else(tmp_path, at, patch):
    whole = archive(tiny())
    at %= len(whole)
    reads_or_refuses(tmp_path / "p.npz", whole[:at] + patch + whole[at + len(patch) :])
    reads_or_refuses(tmp_path / "p.npz", whole[:at])


@FIXTURE_REUSED
@given(st.binary(max_size=120))
def test_no_header_raises_anything_else(tmp_path, header):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as held:
        held.writestr("counts.npy", b"\x93NUMPY\x01\x00" + header)
        held.writestr("names.npy", header)
    reads_or_refuses(tmp_path / "p.npz", stream.getvalue())
