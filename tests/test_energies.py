"""Energies of a spectrum's channels: whose scale counts, and until when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lane_bench import Bench, stamp

from agent.config import load_lane
from agent.config.spectral import energy_option
from agent.daemon.display import _calibration
from agent.daemon.running_lane import have_same_spectra
from agent.lane.moment import Moment
from agent.lane.options.portals import EnergyCalibrationOptions, RpmOptions
from agent.lane.spectra import energies
from agent.lane.state import LaneState
from agent.settings import LaneConfig
from agent.tools.calibrate.background import EmptyLaneWatch
from agent.tools.calibrate.spectrum_files import NEAR_EDGES_KEV, coefficients_of
from drivers.readings import EnergyCalibration, GammaSpectrum

DAY_US = 86_400_000_000
NOVEMBER_2 = 1_793_577_600_000_000
"""2026-11-02 00:00:00 UTC [µs]."""
OWN = EnergyCalibration(coefficients_kev=(0.0, 3.0))


def spectrum(detector: str = "", energy: EnergyCalibration | None = OWN) -> GammaSpectrum:
    return GammaSpectrum(
        detector=detector, counts=(1,) * 8, real_time_s=1.0, live_time_s=1.0, energy=energy
    )


class Watched:
    """A device whose energy scale stands in the lane's file."""

    def __init__(self, **energy) -> None:
        given = {"coefficients_kev": (1.0, 2.0), "measured": "2026-01-02", **energy}
        self.options = RpmOptions(energy=EnergyCalibrationOptions(**given))
        self.rules = replace(Bench().rules, portals={"rpm": self.options})
        self.moment = Moment(LaneState(), self.rules, stamp(1.0))

    def at(self, utc_us: int, *, detector: str = "", sync: str = "ntp") -> list[tuple[str, str]]:
        self.moment.stamp = replace(stamp(1.0), utc_us=utc_us, sync=sync)
        energies.watch_due(self.moment, "rpm", spectrum(detector))
        return [(record.code, record.phase) for record in self.moment.records]


# ------------------------------------------------------------------ until when


def test_a_scale_holds_on_its_last_day_and_is_a_fault_from_the_next():
    watched = Watched(valid_until="2026-11-02")
    assert watched.at(NOVEMBER_2 + DAY_US - 1) == []
    assert watched.at(NOVEMBER_2 + DAY_US) == [("energy_calibration_due", "raised")]
    (alarm,) = watched.moment.records
    assert (alarm.kind, alarm.severity) == ("fault", "elevated")
    assert "2026-11-02" in alarm.text
    assert "calibrate energy" in alarm.text
    assert len(watched.at(NOVEMBER_2 + 2 * DAY_US)) == 1


def test_a_new_scale_clears_the_fault():
    watched = Watched(valid_until="2026-11-02")
    watched.at(NOVEMBER_2 + DAY_US)
    watched.moment.rules = Watched(valid_until="2027-11-02").rules
    assert watched.at(NOVEMBER_2 + DAY_US)[-1] == ("energy_calibration_due", "cleared")


def test_a_clock_that_nobody_set_says_no_day():
    assert Watched(valid_until="2026-11-02").at(NOVEMBER_2 + 9 * DAY_US, sync="none") == []


def test_a_scale_without_a_last_day_or_of_another_detector_is_not_watched():
    assert Watched().at(NOVEMBER_2 + 900 * DAY_US) == []
    other = Watched(valid_until="2026-11-02", detector="Ba1")
    assert other.at(NOVEMBER_2 + DAY_US, detector="Aa1") == []
    assert other.at(NOVEMBER_2 + DAY_US, detector="Ba1") != []


def test_the_fault_needs_no_lane_that_judges_nothing():
    # A device without a scale of its own in the lane's file.
    moment = Moment(LaneState(), Bench().rules, stamp(1.0))
    energies.watch_due(moment, "rpm", spectrum())
    assert moment.records == []


# ------------------------------------------------------------------ whose


def test_a_scale_that_names_a_detector_is_that_ones_alone():
    options = EnergyCalibrationOptions(
        coefficients_kev=(1.0, 2.0), measured="2026-01-02", detector="Ba1"
    )
    device = SimpleNamespace(name="rpm", kind_options=RpmOptions(energy=options))
    name, scale = energy_option(device)
    assert name == "rpm/Ba1"
    known = {name: scale}
    assert energies.energy_of(known, "rpm", spectrum("Ba1")) == scale
    assert energies.energy_of(known, "rpm", spectrum("Aa1")) == OWN
    for_all = {"rpm": scale}
    assert energies.energy_of(for_all, "rpm", spectrum("Aa1")) == scale
    assert energies.energy_of({}, "rpm", spectrum("Aa1", None)) is None


def test_a_device_without_a_scale_in_the_file_has_no_entry():
    assert energy_option(SimpleNamespace(name="rpm", kind_options=RpmOptions())) is None
    assert energy_option(SimpleNamespace(name="scale", kind_options=object())) is None


# ------------------------------------------------------------------ edges


@pytest.mark.parametrize(
    ("energy", "channels"),
    [
        (None, 3),
        (EnergyCalibration(edges_kev=(1.0, 2.0, 3.0)), 3),
        (EnergyCalibration(edges_kev=(1.0, 3.0, 2.0, 4.0)), 3),
        (EnergyCalibration(coefficients_kev=(4.0, -1.0)), 3),
        (EnergyCalibration(coefficients_kev=(0.0, 1.0)), 0),
    ],
    ids=["unknown", "too few", "falling", "falling line", "no channel"],
)
def test_channels_without_rising_edges_have_no_energies(energy, channels):
    assert energies.edges_of(energy, channels) is None


def test_edges_and_coefficients_of_one_scale_are_the_same():
    by_line = energies.edges_of(EnergyCalibration(coefficients_kev=(3.0, 6.0)), 4)
    by_edges = energies.edges_of(EnergyCalibration(edges_kev=(3.0, 9.0, 15.0, 21.0, 27.0)), 4)
    assert by_line == pytest.approx(by_edges)


def test_the_empty_lanes_spectrum_is_kept_of_a_device_that_sends_edges():
    edges = tuple(30.0 + 23.0 * i for i in range(129))
    found = []
    for energy in (
        EnergyCalibration(edges_kev=edges),
        EnergyCalibration(coefficients_kev=(30.0, 23.0)),
    ):
        watch = EmptyLaneWatch("rpm", 5.0, {})
        reading = replace(spectrum("left", energy), counts=tuple(range(128)))
        watch._take_spectrum(0.0, reading)
        found.append(watch.gamma["left"].spectrum)
    assert found[0].sum() > 0
    assert found[0] == pytest.approx(found[1])


@given(
    st.floats(-20, 20),
    st.floats(0.5, 10),
    st.floats(0, 2e-4),
    st.integers(16, 1024),
)
def test_a_polynomial_meets_the_edges_that_it_made(offset, slope, bend, channels):
    numbers = np.arange(channels + 1.0)
    edges = offset + slope * numbers + bend * numbers**2
    found = coefficients_of(EnergyCalibration(edges_kev=tuple(edges.tolist())))
    again = np.polynomial.polynomial.polyval(numbers, found)
    assert np.abs(again - edges).max() <= NEAR_EDGES_KEV + 1e-6


@pytest.mark.parametrize(
    ("changed", "is_same"),
    [
        ("", True),
        ("gain_tracking = false\n", True),
        ("[devices.rpm.energy]\ncoefficients_kev = [0.0, 3.0]\nmeasured = '2026-01-02'\n", False),
        ("[spectral]\nslice_s = 0.5\n", False),
    ],
    ids=["nothing", "how it is held", "scale", "slices"],
)
def test_a_reload_computes_anew_what_spectra_are_judged_by_where_that_changed(
    tmp_path, changed, is_same
):
    text = '[devices.rpm]\ndriver = "rpm.kromek"\nport = "tcp://127.0.0.1:1600"\n'
    file = tmp_path / "in-1.toml"
    file.write_text(text)
    before = load_lane(file)
    file.write_text(text + changed)
    assert have_same_spectra(before, load_lane(file)) is is_same


def test_edges_that_no_polynomial_meets_have_no_coefficients():
    edges = tuple(np.concatenate([np.linspace(0, 300, 100), np.linspace(310, 3000, 100)]).tolist())
    assert coefficients_of(EnergyCalibration(edges_kev=edges)) == ()
    assert coefficients_of(OWN) == (0.0, 3.0)


def test_the_devices_snapshot_names_the_scale_and_its_last_day(tmp_path: Path):
    file = tmp_path / "in-1.toml"
    file.write_text(
        '[devices.rpm]\ndriver = "rpm.kromek"\nport = "tcp://127.0.0.1:1600"\n'
        "[devices.rpm.energy]\ncoefficients_kev = [0.0, 3.0]\n"
        'measured = "2026-01-02"\nvalid_until = "2027-01-02"\n'
    )
    lane: LaneConfig = load_lane(file)
    found = _calibration(lane.device("rpm").kind_options)
    assert (found.rev, found.due) == ("2026-01-02", "2027-01-02")
    assert _calibration(RpmOptions()) is None
