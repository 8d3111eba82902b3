"""The file of learned thresholds: the same verdicts, and nothing else is taken for one."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.analysis.detection import learning
from agent.analysis.detection import model as detection
from agent.analysis.detection.model import Shapes
from agent.analysis.response.library import Library
from agent.config.model_file import load_model, model_bytes
from agent.config.problems import ConfigError
from agent.lane.options.spectral import SpectralOptions

SEED = 20261123
BINS, SLICES, PASSES = 12, 10, 420
EDGES_KEV = np.linspace(40.0, 2800.0, BINS + 1)
MIDDLES_KEV = 0.5 * (EDGES_KEV[1:] + EDGES_KEV[:-1])
OPTIONS = SpectralOptions(slice_s=1.0)


def peaks(*energies_kev):
    apart = (MIDDLES_KEV[None, :] - np.array(energies_kev)[:, None]) / 150.0
    shapes = np.exp(-0.5 * apart**2)
    shapes /= shapes.sum(axis=1, keepdims=True)
    names = tuple(f"{e:g}" for e in energies_kev)
    return Library(names=names, shapes=shapes, edges_kev=EDGES_KEV)


def shapes(*energies_kev):
    return Shapes(
        library=peaks(*energies_kev),
        dictionary=peaks(100.0, 900.0, 1800.0),
        norm=peaks(1460.0, 700.0, 2600.0),
        loads=peaks(1460.0, 700.0, 2600.0),
    )


SOUGHT = shapes(662.0, 1250.0, 80.0)


def traffic(passes, seed):
    """Counts, expected and background of benign passages that shield by up to a third."""
    dice = np.random.default_rng(seed)
    rate = 500.0 * np.exp(-MIDDLES_KEV / 700.0)
    shield = 1.0 - dice.uniform(0.0, 0.3, (passes, 1, 1)) * np.hanning(SLICES)[None, :, None]
    counts = dice.poisson(rate * shield).astype(float)
    background = dice.poisson(rate * 60.0, (passes, BINS)).astype(float)
    return counts, background[:, None] / 60.0, background


@pytest.fixture(scope="module")
def learned():
    print(f"seed {SEED}")
    return learning.learn(*traffic(PASSES, SEED), SOUGHT, 1.0, 1e-3)


@pytest.fixture(scope="module")
def content(learned):
    return model_bytes(learned)


@pytest.fixture
def written(tmp_path, content):
    file = tmp_path / "in-1.npz"
    file.write_bytes(content)
    return file


def refusal(file, sought=SOUGHT, options=OPTIONS):
    with pytest.raises(ConfigError) as caught:
        load_model(file, sought, options)
    said = str(caught.value)
    assert str(file) in said
    assert "\n" not in said
    assert "make it anew with checkpointd calibrate threshold" in said
    return said


def test_a_model_that_was_kept_gives_the_same_verdicts(learned, written):
    loaded, name = load_model(written, SOUGHT, OPTIONS)
    assert not loaded.is_provisional
    assert len(name) == 64
    passages = traffic(60, SEED + 1)
    passages[0][:5, 4:7] += 400.0 * SOUGHT.library.shapes[0]
    before = detection.judge(learned, *passages)
    after = detection.judge(loaded, *passages)
    assert after.p == pytest.approx(before.p, rel=1e-9)
    assert after.statistic.tolist() == before.statistic.tolist()
    assert (after.p[:5] < 1e-3).all()
    assert (after.p[5:] > 1e-3).all()


def test_the_rate_is_the_lanes_and_not_the_files(written):
    loaded, _ = load_model(written, SOUGHT, replace(OPTIONS, false_alarm_rate=0.01))
    assert loaded.false_alarm_rate == 0.01


def test_the_name_is_that_of_the_bytes(tmp_path, content, written):
    other = tmp_path / "other.npz"
    other.write_bytes(content)
    assert load_model(other, SOUGHT, OPTIONS)[1] == load_model(written, SOUGHT, OPTIONS)[1]


def test_a_model_without_learning_is_not_kept():
    rate = 500.0 * np.exp(-MIDDLES_KEV / 700.0)
    with pytest.raises(ValueError, match="nothing was learned"):
        model_bytes(learning.assume(SOUGHT, rate, 1.0, 1e-3))


def test_what_was_learned_for_another_lane_is_refused_in_one_sentence(written):
    detector = replace(SOUGHT, library=peaks(660.0, 1250.0, 80.0))
    assert "another detector" in refusal(written, detector)
    assert "list of exclusions" in refusal(written, shapes(662.0, 1250.0))
    said = refusal(written, options=replace(OPTIONS, slice_s=0.5))
    assert "learned with slices of 1.0 s" in said


def test_a_file_that_is_not_there_is_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.npz")


def changed(content, **arrays):
    """Return the file with other arrays; None takes one away."""
    with np.load(io.BytesIO(content)) as held:
        kept = {name: held[name] for name in held.files} | arrays
    buffer = io.BytesIO()
    np.savez(buffer, **{name: array for name, array in kept.items() if array is not None})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("head", None),
        ("head", np.array("[1]")),
        ("head", np.array("{")),
        ("head", np.array(json.dumps({"format": "checkpointd-thresholds/2"}))),
        ("modes", np.zeros((3, 3))),
        ("modes", np.array("x")),
        ("gain", None),
        ("empty_mean", np.full(BINS, np.nan)),
        ("empty_variance", np.zeros(99)),
        ("root_expected", np.zeros(BINS)),
        ("template_0_body", np.zeros((1, 5))),
        ("statistics_scale", -np.ones(4)),
        ("together_shape", np.array([np.inf])),
        ("together_passes", np.zeros(3)),
    ],
    ids=str,
)
def test_a_damaged_array_is_refused(tmp_path, content, name, array):
    file = tmp_path / "x.npz"
    file.write_bytes(changed(content, **{name: array}))
    refusal(file)


QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@QUICK
@given(st.one_of(st.binary(max_size=300), st.binary(max_size=300).map(lambda b: b"PK\x03\x04" + b)))
def test_random_bytes_are_refused(tmp_path, junk):
    file = tmp_path / "x.npz"
    file.write_bytes(junk)
    refusal(file)


@QUICK
@given(st.data())
def test_no_damage_raises_anything_else(tmp_path, content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    damaged = bytearray(content)
    damaged[at] ^= data.draw(st.integers(1, 255))
    file = tmp_path / "x.npz"
    file.write_bytes(damaged if data.draw(st.booleans()) else content[:at])
    # A flipped bit in the date of an archive's member harms nothing.
    with contextlib.suppress(ConfigError):
        load_model(file, SOUGHT, OPTIONS)


def test_an_archive_of_other_things_is_refused(tmp_path):
    file = tmp_path / "x.npz"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refusal(file)
