"""The detection benchmarks run, where the public data they judge by stands beside the project."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data"
SPECTRA = DATA / "spectra" / "nai_2x4x16_simulated.npz"
LOGS = DATA / "lane-logs"

pytestmark = pytest.mark.shared_data


def said_by(name, *options):
    """Return the JSON line of a quick run, its last."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / f"{name}.py"), "--quick", *options],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert (said["benchmark"], said["quick"], said["goals"]) == (name, True, {})
    return said


@pytest.mark.skipif(not SPECTRA.is_file(), reason="no shared spectra beside the project")
def test_the_detection_benchmark_says_what_each_method_needs():
    said = said_by("detection", "--spectra", str(SPECTRA))
    needed, floor = said["needed_cps"], said["floor_cps"]
    assert needed["principal components"] > needed["pipeline, matched templates"] > floor > 0
    assert needed["NMF + template likelihood ratio"] > floor
    assert set(said["false_alarms"]) == set(needed)


@pytest.mark.skipif(not LOGS.is_dir(), reason="no shared lane logs beside the project")
def test_the_plastic_benchmark_finds_more_with_the_pipeline_than_with_gross_counts():
    said = said_by("plastic", "--logs", str(LOGS))
    found = said["found"]
    assert found["pipeline"]["0.05"] > 0.8 > found["gross k-sigma"]["0.05"]
    assert all(each["0.08"] > 0.9 for each in found.values())
    assert all(count <= 3 for count in said["false_alarms"].values())


@pytest.mark.skipif(not SPECTRA.is_file(), reason="no shared spectra beside the project")
def test_a_measured_caesium_spectrum_thinned_to_a_passage_is_named():
    rows = said_by("measured_spectra", "--data", str(DATA))["rows"]
    empty, caesium = rows[0], rows[-1]
    assert (empty["source"], empty["snm"]) == ("none", 0)
    assert caesium["source"] == "Cs-137"
    assert caesium["first"] == caesium["alarms"] == caesium["passes"]
