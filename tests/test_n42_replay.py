from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from agent_process import LANE, rpm_lane
from delivery_bench import check_message

from agent.cli import main
from agent.evidence.n42 import document_id, n42_event
from agent.evidence.n42_words import (
    Analysis,
    Detector,
    Fault,
    GrossCounts,
    Instrument,
    Measurement,
    N42Event,
    RadAlarm,
    Spectrum,
)
from agent.tools.replay.n42 import event_readings, is_n42, read_n42_file
from agent.tools.replay.recording import CapturedReadings, RecordingError
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    EnergyCalibration,
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    Reading,
    Reason,
    VehiclePresence,
    VehicleSpeed,
    WindowBackground,
    WindowCounts,
)

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "n42"
T0_US = 1_795_766_400_000_000  # 2026-11-27T08:00:00Z
LINEAR = EnergyCalibration(coefficients_kev=(0.0, 3.0, 0.0))
EDGES = EnergyCalibration(edges_kev=(0.0, 120.0, 400.0, 1000.0, 3000.0))
SPECTRUM = tuple(range(64))


def measured(at_s: float, **words) -> Measurement:
    given = {"kind": "Foreground", "real_time_s": 0.2, **words}
    return Measurement(start_us=T0_US + round(at_s * 1e6), **given)


def event(*measurements: Measurement, creator: str = "other", **words) -> N42Event:
    return N42Event(
        document_id=document_id("x"),
        created_us=T0_US,
        creator=creator,
        instrument=Instrument(
            manufacturer="M", model="X", class_code="Portal Monitor", versions=(("Software", "1"),)
        ),
        detectors=(
            Detector(name="A", category="Gamma", kind="NaI"),
            Detector(name="P", category="Gamma", kind="PVT"),
            Detector(name="Q", category="Gamma", kind="PVT"),
            Detector(name="R", category="Gamma", kind="PVT"),
            Detector(name="S", category="Gamma", kind="PVT"),
            Detector(name="N", category="Neutron", kind="He3"),
        ),
        measurements=measurements,
        **words,
    )


def said(told: N42Event) -> list[tuple[float, Reading]]:
    """Return (seconds after T0, reading) of each, in the order given."""
    readings = list(event_readings(told, "rpm"))
    assert all(each.device == "rpm" for each in readings)
    return [((each.utc_us - T0_US) / 1e6, each.readings[0]) for each in readings]


def spectrum(detector: str, counts=SPECTRUM, live_time_s=0.19, energy=LINEAR) -> Spectrum:
    return Spectrum(detector=detector, counts=counts, live_time_s=live_time_s, energy=energy)


def gross(detector: str, *counts: int, live_time_s: float | None = 0.2) -> GrossCounts:
    return GrossCounts(detector=detector, counts=counts, live_time_s=live_time_s)


def test_slices_are_given_at_their_end_and_presence_at_its_beginning():
    passage = event(
        measured(0.0, occupied=False, spectra=(spectrum("A"),)),
        measured(0.2, occupied=True, spectra=(spectrum("A"),), speed_m_per_s=2.25),
        measured(0.4, occupied=True, spectra=(spectrum("A"),), speed_m_per_s=2.25),
        measured(0.6, occupied=False, spectra=(spectrum("A"),)),
    )

    def heard(occupied: bool) -> GammaSpectrum:
        return GammaSpectrum(
            detector="A",
            counts=SPECTRUM,
            real_time_s=0.2,
            live_time_s=0.19,
            energy=LINEAR,
            occupied=occupied,
        )

    assert said(passage) == [
        (0.0, VehiclePresence(occupied=False)),
        (0.2, heard(False)),
        (0.2, VehiclePresence(occupied=True)),
        (0.4, VehicleSpeed(m_per_s=2.25)),
        (0.4, heard(True)),
        (0.6, heard(True)),
        (0.6, VehiclePresence(occupied=False)),
        (0.8, heard(False)),
    ]


def test_occupied_counts_are_counts_and_unoccupied_ones_a_background():
    counted = (gross("P", 80), gross("Q", 100, live_time_s=None), gross("N", 3, live_time_s=0.1))
    told = event(
        measured(0.0, occupied=False, gross_counts=counted),
        measured(0.2, occupied=True, gross_counts=counted),
    )
    assert said(told)[1:3] + said(told)[4:] == [
        (0.2, GammaBackground(cps=(400.0, 500.0), averaging_s=0.2)),
        (0.2, NeutronBackground(total_cps=30.0, rounded_down=False, per_detector_cps=(30.0,))),
        (0.4, GammaCounts(counts=(80, 100), real_time_s=0.2, device_alarm=False)),
        (0.4, NeutronCounts(counts=(3,), real_time_s=0.2, device_alarm=False)),
    ]


def test_plastic_windows_are_summed_over_the_detectors_either_way_written():
    as_spectra = (
        spectrum("P", (1, 2, 3, 4), 0.2, EDGES),
        spectrum("Q", (10, 20, 30, 40), None, EDGES),
    )
    as_counts = (gross("P", 1, 2, 3, 4), gross("Q", 10, 20, 30, 40))
    for words in ({"spectra": as_spectra}, {"gross_counts": as_counts}):
        occupied = event(measured(0.0, occupied=True, **words))
        assert said(occupied)[1:] == [(0.2, WindowCounts(counts=(11, 22, 33, 44), real_time_s=0.2))]
        vacant = event(measured(0.0, kind="Background", real_time_s=0.2, **words))
        ((_, background),) = said(vacant)[1:]
        assert isinstance(background, WindowBackground)
        assert background.cps == pytest.approx((55.0, 110.0, 165.0, 220.0))


def test_windows_of_different_numbers_are_refused():
    told = event(measured(0.0, occupied=True, gross_counts=(gross("P", 1, 2), gross("Q", 1, 2, 3))))
    ((_, refused),) = said(told)[1:]
    assert isinstance(refused, BadFrame)
    assert refused.reason == Reason.RANGE


def test_of_one_detectors_spectra_the_first_is_taken_and_no_total_beside_it():
    told = event(
        measured(
            0.0,
            spectra=(spectrum("A"), spectrum("A", (9, 9))),
            gross_counts=(gross("A", 2016),),
            dose_usv_per_h=(("A", 0.05),),
        )
    )
    readings = [reading for _, reading in said(told)]
    assert [type(each) for each in readings] == [GammaSpectrum, DoseRate]
    assert readings[0].counts == SPECTRUM
    assert readings[0].occupied is None, "Foreground says nothing of the phase"
    assert readings[1] == DoseRate(usv_per_h=0.05)


def test_a_spectrum_without_live_time_is_refused():
    told = event(measured(0.0, spectra=(spectrum("A", live_time_s=0.0),)))
    ((_, refused),) = said(told)
    assert isinstance(refused, BadFrame)


CONCLUDED = Analysis(
    algorithm="x",
    alarms=(
        RadAlarm(category="Gamma", at_us=T0_US + 300_000, description="sum"),
        RadAlarm(category="Other", detectors=("N",)),
        RadAlarm(category="Isotope"),
    ),
    nuclides=(NuclideFound(name="Cs-137", confidence=0.9),),
    faults=(Fault(code="HV", description="high voltage", severity="Error"),),
)


def test_a_devices_conclusions_come_when_it_says_and_else_while_it_is_occupied():
    told = event(
        measured(0.0, occupied=True), measured(0.2, occupied=True), measured(0.4, occupied=False),
        analyses=(CONCLUDED,),
    )  # fmt: skip
    assert said(told) == [
        (0.0, VehiclePresence(occupied=True)),
        (0.3, DeviceAlarm(kind="gamma", code="gamma", detail="sum")),
        (0.4, VehiclePresence(occupied=False)),
        (0.4, DeviceState(condition="fault HV", active=True, detail="Error: high voltage")),
        (0.4, DeviceAlarm(kind="neutron", code="other")),
        (0.4, DeviceAlarm(kind="spectral", code="isotope")),
        (0.4, DeviceNuclides(nuclides=(NuclideFound(name="Cs-137", confidence=0.9),))),
    ]


def test_the_agents_own_analysis_is_decided_again_and_not_given_back():
    told = event(measured(0.0, occupied=True), analyses=(CONCLUDED,), creator="checkpointd 0.1.0")
    assert said(told) == [(0.0, VehiclePresence(occupied=True))]


@pytest.mark.parametrize(
    ("head", "verdict"),
    [
        (b'<?xml version="1.0"?>', True),
        (b"\xef\xbb\xbf<RadInstrumentData>", True),
        (b"\x02<?xml", True),
        (b"\r\n <a/>", True),
        (b'{"t": 1.0}', False),
        (b"GB,000402,000398", False),
    ],
)
def test_a_file_is_known_by_its_head(head, verdict):
    assert is_n42(head) is verdict


# ---------------------------------------------------------------- files and the command


@pytest.fixture
def lane_file(tmp_path):
    path = tmp_path / f"{LANE}.toml"
    path.write_text(rpm_lane("tcp://127.0.0.1:1600"))
    return path


def passage_file(path: Path, *, count: int = 200, creator: str = "other") -> Path:
    """Write a passage of plain counts: a minute of background, then 3 s of 0.2 s intervals."""
    quiet = tuple(gross(name, 24_000, live_time_s=60.0) for name in "PQRS")
    loud = (*(gross(name, count) for name in "PQRS"), gross("N", 2))
    after = (*(gross(name, 80) for name in "PQRS"), gross("N", 2))
    told = event(
        measured(-60.0, kind="Background", real_time_s=60.0, gross_counts=quiet, occupied=False),
        *(measured(0.2 * n, occupied=True, gross_counts=loud) for n in range(15)),
        measured(3.0, occupied=False, gross_counts=after),
        creator=creator,
        analyses=(
            Analysis(algorithm="x", alarms=(RadAlarm(category="Gamma", at_us=T0_US + 1_000_000),)),
        ),
    )
    path.write_bytes(n42_event(told))
    return path


def replayed(capsys, recording: Path, lane_file: Path) -> tuple[list[dict], dict, str]:
    code = main(["replay", str(recording), "--lane", str(lane_file), "--json"])
    out = capsys.readouterr()
    assert (code, out.err) == (0, "")
    *records, summary = [json.loads(line) for line in out.out.splitlines()]
    for line in out.out.splitlines()[:-1]:
        stream = json.loads(line)
        kind = stream["data"].get("kind", "passage")
        where = {"alarm": f"alarm/lane/{LANE}/{kind}", "pass": f"pass/lane/{LANE}/passage"}
        topic = where.get(stream["stream"], f"audit/{kind}")
        check_message(f"checkpoint/v1/replay/replay/ev/{topic}", line.encode())
    return records, summary, out.out


def test_a_passage_that_was_written_as_n42_is_replayed(capsys, tmp_path, lane_file):
    file = passage_file(tmp_path / "event.n42")
    records, summary, text = replayed(capsys, file, lane_file)
    assert summary["passages"] == 1
    assert summary["alarms"]["gamma"] == 1
    assert summary["refused"] == {}
    (gamma,) = [r for r in records if r["data"].get("phase") == "raised"]
    assert gamma["time"] == "2026-11-27T08:00:01.000000Z"
    assert gamma["data"]["source"] == "device"
    (passage,) = [r["data"] for r in records if r["stream"] == "pass"]
    # Four detectors of 200 counts in 0.2 s, over 24,000 in 60 s.
    assert passage["rpm"]["gamma_max_cps"] == pytest.approx(4000.0)
    assert passage["rpm"]["background_cps"] == pytest.approx([400.0] * 4)
    assert replayed(capsys, file, lane_file)[2] == text


def test_of_our_own_file_the_alarm_is_not_taken_for_the_devices(capsys, tmp_path, lane_file):
    file = passage_file(tmp_path / "event.n42", creator="checkpointd 0.1.0")
    _, summary, _ = replayed(capsys, file, lane_file)
    assert (summary["passages"], summary["alarms"]) == (1, {})


def test_a_stream_is_read_by_its_driver_and_a_cut_document_is_refused(tmp_path):
    def document(at_s: float) -> bytes:
        return n42_event(event(measured(at_s, real_time_s=1.0, spectra=(spectrum("A"),))))

    path = tmp_path / "stream.xml"
    path.write_bytes(
        document(0.0)[200:] + b"\x03"
        + b"".join(b"\x02" + document(n) + b"\x03\r\n" for n in range(1, 4))
        + b"\x02" + document(4.0)[:500]
    )  # fmt: skip
    readings = list(read_n42_file(path, "rpm"))
    kinds = [(each.utc_us - T0_US, type(each.readings[0]).__name__) for each in readings]
    assert kinds == [
        (2_000_000, "BadFrame"),
        (2_000_000, "GammaSpectrum"),
        (3_000_000, "GammaSpectrum"),
        (4_000_000, "GammaSpectrum"),
        (4_000_000, "BadFrame"),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"<?xml version='1.0'?><RadInstr", "no N42 document: not well-formed XML"),
        (b"<html/>", "no N42 document"),
        (b"\x02<html/>\x03\x02<html/>\x03", "a stream of 2 pieces, none an N42 document"),
    ],
)
def test_what_is_no_n42_file_is_refused_in_a_sentence(
    capsys, tmp_path, lane_file, content, problem
):
    file = tmp_path / "event.n42"
    file.write_bytes(content)
    assert main(["replay", str(file), "--lane", str(lane_file)]) == 2
    err = capsys.readouterr().err
    assert f"{file}: " in err
    assert problem in err
    with pytest.raises(RecordingError):
        list(read_n42_file(file, "rpm"))


# ---------------------------------------------------------------- real and standard files


def data_file(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {name} beside the project")
    return path


def counted(readings: list[CapturedReadings]) -> Counter[str]:
    return Counter(type(each.readings[0]).__name__ for each in readings)


@pytest.mark.shared_data
def test_the_stream_of_a_real_rs_350_is_read():
    readings = list(read_n42_file(data_file("rs350-stream.xml"), "rpm"))
    found = counted(readings)
    # 41 documents begin and the last is cut.
    assert found["BadFrame"] == 1
    assert found["GammaSpectrum"] == found["NeutronCounts"] == 40
    first = next(each for each in readings if isinstance(each.readings[0], GammaSpectrum))
    assert first.utc_us == 1_692_043_000_000_000 - 110  # 19:56:39 and 0.99989 s
    assert sum(first.readings[0].counts) == 655, "as many as its gross counts say"
    times = [each.utc_us for each in readings]
    assert times == sorted(times)


@pytest.mark.shared_data
def test_the_standards_portal_example_is_read_as_windows_neutrons_and_presence():
    found = list(read_n42_file(data_file("annex-d-portal-alarmed.n42"), "rpm"))
    assert counted(found) == {
        "VehiclePresence": 3,
        "WindowBackground": 4,
        "WindowCounts": 3,
        "NeutronBackground": 4,
        "NeutronCounts": 3,
        "VehicleSpeed": 1,
        "DeviceAlarm": 2,
        "DeviceNuclides": 1,
    }
    windows = next(each for each in found if isinstance(each.readings[0], WindowCounts))
    # Its four plastic slabs count 5 22 200, 6 11 300, 22 7 555 and 3 7 345.
    assert windows.readings[0].counts == (36, 47, 1400)


@pytest.mark.shared_data
def test_the_standards_spectroscopic_example_is_read_as_spectra():
    found = list(read_n42_file(data_file("annex-e-spectroscopic-portal.n42"), "rpm"))
    assert counted(found)["GammaSpectrum"] == 14
    spectra = [each.readings[0] for each in found if isinstance(each.readings[0], GammaSpectrum)]
    assert [each.occupied for each in spectra[::2]] == [
        False, False, False, True, True, False, False
    ]  # fmt: skip
    nuclides = next(
        each.readings[0] for each in found if isinstance(each.readings[0], DeviceNuclides)
    )
    assert [each.name for each in nuclides.nuclides] == ["Co-57", "Cs-137"]


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    [
        "annex-b-alternate-calibration.n42",
        "annex-d-portal.n42",
        "annex-d-portal-alarmed.n42",
        "annex-e-spectroscopic-portal.n42",
        "i131-hpge.n42",
        "rpm_alarm_min.n42",
        "rpm_alarm_pvt_as_4ch_spectrum.n42",
        "rs350-stream.xml",
    ],
)
def test_a_replay_of_it_runs_and_gives_the_same_bytes_again(capsys, lane_file, name):
    first = replayed(capsys, data_file(name), lane_file)[2]
    assert replayed(capsys, data_file(name), lane_file)[2] == first


def test_the_readings_of_a_written_file_are_those_of_the_event(tmp_path):
    told = event(measured(0.0, occupied=True, spectra=(spectrum("A"),)))
    path = tmp_path / "event.n42"
    path.write_bytes(n42_event(told))
    assert list(read_n42_file(path, "rpm")) == list(event_readings(replace(told), "rpm"))
