"""``checkpointd calibrate energy``: what it reads, finds, refuses and proposes."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from agent import config as configuration
from agent.analysis.response.detector import Detector
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import background_components, templates
from agent.cli import main
from agent.config.nuclides import load_nuclides
from agent.config.options import fill
from agent.config.source import parse
from agent.lane.options.portals import EnergyCalibrationOptions
from agent.tools.calibrate.energy import section
from agent.tools.calibrate.spectrum_files import SpectrumFileError, read_spectrum
from drivers.readings import EnergyCalibration, GammaSpectrum

LANE = Path(__file__).resolve().parents[1] / "config" / "lanes" / "inbound-1.toml"
NAI = Detector(material="nai", sides_cm=(5, 10, 40), threshold_kev=20.0)
TRUE_KEV = (4.0, 2.95)
CHANNELS = 1024


@pytest.fixture(scope="module")
def spectra():
    """Counts of one detector: the empty lane, and Cs-137 before it."""
    edges = np.maximum(np.polynomial.polynomial.polyval(np.arange(CHANNELS + 1.0), TRUE_KEV), 0.01)
    dice = np.random.default_rng(6)
    ground = np.array([0.33, 0.22, 0.40, 0.05]) @ background_components(NAI, edges)
    table = load_nuclides()
    one = NuclideTable(nuclides=(table["Cs-137"],))
    caesium = templates(NAI, one, edges, shieldings=()).shapes[0]
    return {
        "background": dice.poisson(ground * 1700 * 600),
        "caesium": dice.poisson(ground * 1700 * 60 + caesium * 1000 * 60),
    }


@pytest.fixture
def lane(tmp_path):
    """Return a lane file in a configuration directory of its own, and what to write into it."""
    file = tmp_path / "config" / "lanes" / "inbound-1.toml"
    file.parent.mkdir(parents=True)
    file.write_text(LANE.read_text())
    return file


def saved(path, counts, **more):
    np.savez(path, counts=counts, live_s=600.0, **more)
    return path


def run(capsys, *arguments):
    code = main(["calibrate", "energy", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def proposed(text, device="rpm"):
    """Return the proposed section as the configuration reads it."""
    source = parse("lane.toml", text.encode())
    table = source.table["devices"][device]["energy"]
    options, problems = fill(EnergyCalibrationOptions, table, source, ("devices", device, "energy"))
    assert problems == []
    return options


# ------------------------------------------------------------------ what it finds


def test_a_check_source_gives_a_section_that_the_configuration_takes(
    capsys, tmp_path, lane, spectra
):
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    code, out, _ = run(capsys, file, "--lane", lane, "--device", "rpm", "--source", "Cs-137")
    assert code == 0
    options = proposed(out[out.index("[devices.rpm.energy]") :])
    channel = (661.66 - TRUE_KEV[0]) / TRUE_KEV[1]
    assert np.polynomial.polynomial.polyval(channel, options.coefficients_kev) == pytest.approx(
        661.66, abs=2
    )
    assert options.source == "Cs-137"
    assert options.valid_until[:4] == str(int(options.measured[:4]) + 1)
    assert "661.7" in out
    assert "%" in out  # the FWHM


def test_the_background_alone_gives_offset_and_slope(capsys, tmp_path, lane, spectra):
    file = saved(tmp_path / "bg.npz", spectra["background"])
    code, out, _ = run(
        capsys, file, "--lane", lane, "--device", "rpm", "--crystal", "5x10x40cm", "--json"
    )
    said = json.loads(out)
    assert (code, said["ok"], said["refusals"]) == (0, True, [])
    assert said["coefficients_kev"] == pytest.approx(TRUE_KEV, abs=3)
    assert said["coefficients_kev"][1] == pytest.approx(TRUE_KEV[1], rel=0.003)
    assert said["whole_background"]["gain"] == pytest.approx(1, abs=0.005)
    potassium = next(line for line in said["lines"] if line["name"] == "K-40")
    assert potassium["measured_kev"] == pytest.approx(1460.8, abs=8)


def test_the_section_goes_to_a_new_file_and_never_over_one(capsys, tmp_path, lane, spectra):
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    output = tmp_path / "energy.toml"
    arguments = (file, "--lane", lane, "--device", "rpm", "--source", "Cs-137", "-o", output)
    assert run(capsys, *arguments)[0] == 0
    written = output.read_text()
    assert proposed(written).measured_by == "checkpointd calibrate energy cs.npz"
    code, _, err = run(capsys, *arguments)
    assert code == 2
    assert "is there already" in err
    assert output.read_text() == written


def test_what_stood_in_the_lane_file_is_kept(capsys, tmp_path, lane, spectra):
    old = EnergyCalibrationOptions(coefficients_kev=(4.0, 3.05), measured="2025-10-01")
    lane.write_text(lane.read_text() + "\n" + section("rpm", old))
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    code, out, _ = run(
        capsys, file, "--lane", lane, "--device", "rpm", "--source", "Cs-137", "--by", "A. Person"
    )
    assert code == 0
    new = proposed(out[out.index("[devices.rpm.energy]") :])
    assert new.previous_coefficients_kev == (4.0, 3.05)
    assert new.previous_measured == "2025-10-01"
    assert new.measured_by == "A. Person"
    assert new.coefficients_kev == pytest.approx(TRUE_KEV, rel=0.003)


# ------------------------------------------------------------------ what it refuses


@pytest.mark.parametrize(
    ("counts", "source"),
    [("background", "Am-241"), ("caesium", "Co-60"), (None, "Cs-137")],
    ids=["source not there", "another source", "no counts"],
)
def test_data_that_support_no_scale_say_why_and_exit_with_1(
    capsys, tmp_path, lane, spectra, counts, source
):
    given = np.zeros(CHANNELS) if counts is None else spectra[counts]
    file = saved(tmp_path / "x.npz", given)
    code, out, _ = run(capsys, file, "--lane", lane, "--device", "rpm", "--source", source)
    assert code == 1
    assert "no calibration: " in out
    assert "[devices" not in out


def test_plastic_has_no_peaks_to_calibrate_by(capsys, tmp_path, lane, spectra):
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    code, out, _ = run(
        capsys, file, "--lane", lane, "--device", "rpm", "--source", "Cs-137", "--material", "pvt"
    )
    assert code == 1
    assert "plastic has no peaks" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("--device", "rmp"), "there is no device rmp; did you mean rpm?"),
        (("--source", "Cs137"), "did you mean Cs-137?"),
        (("--lane", "/nowhere/lane.toml"), "cannot be read"),
    ],
    ids=["device", "source", "lane"],
)
def test_wrong_input_is_one_sentence_and_exit_code_2(capsys, tmp_path, lane, spectra, change, said):
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    arguments = {"--lane": lane, "--device": "rpm", "--source": "Cs-137", change[0]: change[1]}
    flat = [word for pair in arguments.items() for word in pair]
    code, _, err = run(capsys, file, *flat)
    assert code == 2
    assert said in err


def test_a_broken_energy_table_in_the_lane_file_is_said_with_its_line(
    capsys, tmp_path, lane, spectra
):
    text = lane.read_text() + "\n[devices.rpm.energy]\ncoefficients_kev = [1.0]\n"
    lane.write_text(text)
    file = saved(tmp_path / "cs.npz", spectra["caesium"])
    code, _, err = run(capsys, file, "--lane", lane, "--device", "rpm")
    assert code == 2
    line = text.splitlines().index("coefficients_kev = [1.0]") + 1
    assert f"inbound-1.toml:{line}: devices.rpm.energy.coefficients_kev" in err
    assert "devices.rpm.energy.measured: missing" in err


@pytest.mark.parametrize("crystal", ["5x10", "axbxc", "0x1x2cm", "5x10x9999"])
def test_a_crystal_needs_three_sides(capsys, crystal):
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", "energy", "x", "--lane", "y", "--device", "z", "--crystal", crystal])
    assert "expected three sides" in capsys.readouterr().err


# ------------------------------------------------------------------ files


def test_an_spe_file_is_read_with_its_live_time_and_scale(tmp_path):
    file = tmp_path / "a.Spe"
    file.write_text(
        "$SPEC_ID:\nx\n$MEAS_TIM:\n 590 600\n$DATA:\n0 9\n"
        + "\n".join(str(n) for n in range(10))
        + "\n$MCA_CAL:\n3\n1.5E0 3.0E0 1.0E-4 keV\n$ENER_FIT:\n0 1\n"
    )
    spectrum = read_spectrum(file, None, detector=None, only_vacant=False)
    assert spectrum.counts.tolist() == list(range(10))
    assert spectrum.live_s == 590
    assert spectrum.coefficients_kev == (1.5, 3.0, 1e-4)


def test_npz_spectra_are_summed_to_one(tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, counts=np.ones((5, 2, 16), dtype=int), live_s=np.full((5, 2), 0.2))
    spectrum = read_spectrum(file, None, detector=None, only_vacant=False)
    assert spectrum.counts.tolist() == [10.0] * 16
    assert spectrum.live_s == pytest.approx(2.0)
    assert spectrum.spectra == 10


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.spe", "nothing", "no \\$DATA:"),
        ("a.spe", "$DATA:\n0 9\n1 2 3\n", "says channels 0 to 9 and holds 3"),
        ("a.spe", "$DATA:\n0 8\n" + "1 " * 8 + "x\n", "could not convert"),
        ("a.spe", "$DATA:\n0 8\n" + "1 " * 8 + "-1\n", "negative"),
        ("a.npz", "PK not really", "not a readable npz"),
        ("a.jsonl", "{}", "needs the lane's file"),
        ("a.txt", "1 2 3", "expected a capture"),
    ],
)
def test_a_broken_spectrum_file_is_refused_by_name(tmp_path, name, content, said):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(SpectrumFileError, match=said) as caught:
        read_spectrum(file, None, detector=None, only_vacant=False)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize(
    "arrays",
    [
        {"other": np.ones(16)},
        {"counts": np.array(["a"] * 16)},
        {"counts": np.ones(3)},
        {"counts": -np.ones(16)},
        {"counts": np.full(16, np.nan)},
        {"counts": np.ones(16), "live_s": -1.0},
    ],
    ids=["absent", "text", "short", "negative", "nan", "live time"],
)
def test_broken_arrays_are_refused(tmp_path, arrays):
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(SpectrumFileError):
        read_spectrum(tmp_path / "a.npz", None, detector=None, only_vacant=False)


def test_an_npz_file_whose_packed_numbers_are_damaged_is_refused_by_name(tmp_path):
    file = tmp_path / "damaged.npz"
    np.savez_compressed(file, counts=np.arange(1000))
    content = bytearray(file.read_bytes())
    content[60:90] = b"\xff" * 30  # inside the packed numbers: zlib finds it, not zipfile
    file.write_bytes(content)
    with pytest.raises(SpectrumFileError, match="not a readable npz"):
        read_spectrum(file, None, detector=None, only_vacant=False)


# ------------------------------------------------------------------ captures

SCALE = EnergyCalibration(coefficients_kev=(0.0, 3.0))


class SpectraOnALine:
    """A stand-in driver: each line is ``detector,occupied,count,count …``."""

    poll_period_s = None

    def feed(self, data):
        readings = []
        for line in data.decode().split():
            detector, occupied, *counts = line.split(",")
            readings.append(
                GammaSpectrum(
                    detector=detector,
                    counts=tuple(map(int, counts)),
                    real_time_s=1.0,
                    live_time_s=0.9,
                    energy=SCALE,
                    occupied=occupied == "1",
                )
            )
        return readings


@pytest.fixture
def device():
    lane = configuration.load_lane(LANE)
    portal = next(device for device in lane.devices if device.name == "rpm")
    kind = replace(portal.driver, make=lambda _: SpectraOnALine(), is_polled=False)
    return replace(portal, driver=kind)


def captured(path, *texts, device="rpm"):
    lines = [
        json.dumps({"t": 1795766400 + i, "dev": device, "hex": text.encode().hex()})
        for i, text in enumerate(texts)
    ]
    path.write_text("\n".join(lines))
    return path


def test_a_captures_spectra_are_read_by_the_driver_and_summed(tmp_path, device):
    file = captured(tmp_path / "c.jsonl", "A,0,1,2,3", "A,1,9,9,9", "A,0,1,1,1")
    vacant = read_spectrum(file, device, detector=None, only_vacant=True)
    assert vacant.counts.tolist() == [2, 3, 4]
    assert vacant.live_s == pytest.approx(1.8)
    assert vacant.coefficients_kev == (0.0, 3.0)
    assert read_spectrum(file, device, detector=None, only_vacant=False).counts[0] == 11


@pytest.mark.parametrize(
    ("texts", "detector", "said"),
    [
        (("A,0,1,2", "B,0,1,2"), None, "several detectors; name one: A, B"),
        (("A,0,1,2",), "C", "no detector C; it holds A"),
        (("A,1,1,2",), None, "no spectrum of rpm, 1 of an occupied lane left out"),
        (("A,0,1,2", "A,0,1,2,3"), None, "channels or scale change"),
    ],
    ids=["two detectors", "unknown detector", "occupied", "changed"],
)
def test_a_capture_that_does_not_settle_it_is_refused(tmp_path, device, texts, detector, said):
    file = captured(tmp_path / "c.jsonl", *texts)
    with pytest.raises(SpectrumFileError, match=said):
        read_spectrum(file, device, detector=detector, only_vacant=True)


# ------------------------------------------------------------------ the options


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"measured": "2026-02-30"}, "there is no such day"),
        ({"valid_until": "2026-01-01"}, "expected a day after measured"),
        ({"previous_measured": "2026-13-01"}, "there is no such day"),
    ],
)
def test_impossible_days_are_refused(change, said):
    good = {"coefficients_kev": (0.0, 3.0), "measured": "2026-11-02"}
    with pytest.raises(ValueError, match=said):
        EnergyCalibrationOptions(**{**good, **change})


def test_a_section_says_the_same_when_it_is_read_back():
    options = EnergyCalibrationOptions(
        coefficients_kev=(-1.5, 2.98, 1.2e-5),
        measured="2026-11-02",
        valid_until="2027-11-02",
        source="background",
        measured_by='night shift, "B" crew',
        detector="upper",
        previous_coefficients_kev=(0.0, 3.0),
        previous_measured="2025-11-02",
    )
    assert proposed(section("rpm", options)) == options
    assert tomllib.loads(section("rpm", options))
