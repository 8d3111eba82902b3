from __future__ import annotations

import math
import platform
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.evidence.n42 import document_id, n42_event
from agent.evidence.n42_read import Problem, read_n42
from agent.evidence.n42_words import (
    Analysis,
    Detector,
    Fault,
    GrossCounts,
    Instrument,
    Item,
    Measurement,
    N42Event,
    RadAlarm,
    Setting,
    Spectrum,
)
from drivers.readings import EnergyCalibration, NuclideFound

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "n42"
T0_US = 1_795_766_400_000_000  # 2026-11-27T08:00:00Z
LINEAR = EnergyCalibration(coefficients_kev=(0.0, 3.0, 0.0))
WINDOWS = EnergyCalibration(edges_kev=(0.0, 120.0, 400.0, 1000.0, 3000.0))
SLICES = 5
OCCUPIED = range(1, 4)


def nai_counts(panel: str, slice_number: int) -> tuple[int, ...]:
    """Return 1024 channels with long runs of zeroes; the sums differ by panel and slice."""
    counts = [0] * 1024
    counts[20:60] = [3 + slice_number] * 40
    counts[220] = 100 if panel == "Aa1" else 70
    counts[1023] = 1
    return tuple(counts)


def slice_of(number: int) -> Measurement:
    occupied = number in OCCUPIED
    return Measurement(
        kind="Foreground",
        start_us=T0_US + 200_000 * number,
        real_time_s=0.2,
        spectra=(
            *(
                Spectrum(
                    detector=panel,
                    counts=nai_counts(panel, number),
                    live_time_s=0.19,
                    energy=LINEAR,
                )
                for panel in ("Aa1", "Ba1")
            ),
            Spectrum(detector="Aa2", counts=(195, 303, 144, 143), live_time_s=None, energy=WINDOWS),
        ),
        gross_counts=tuple(
            GrossCounts(detector=name, counts=(number,), live_time_s=0.2)
            for name in ("He-A", "He-B")
        ),
        occupied=occupied,
        speed_m_per_s=2.25 if occupied else None,
    )


def portal_event() -> N42Event:
    background = Measurement(
        kind="Background",
        start_us=T0_US - 60_000_000,
        real_time_s=60.0,
        spectra=(
            Spectrum(detector="Aa1", counts=nai_counts("Aa1", 90), live_time_s=59.4, energy=LINEAR),
        ),
        gross_counts=tuple(
            GrossCounts(detector=name, counts=(154,), live_time_s=60.0) for name in ("He-A", "He-B")
        ),
        occupied=False,
    )
    return N42Event(
        document_id=document_id("bridge-north/gw-1/a-17"),
        created_us=T0_US + 5_000_000,
        creator="checkpointd 0.1.0",
        instrument=Instrument(
            manufacturer="Panels & Portals (North) Ltd.",
            model="SP-2",
            class_code="Spectroscopic Portal Monitor",
            versions=(("Software", "4.2"),),
            identifier="SN-0001",
        ),
        detectors=(
            Detector(name="Aa1", category="Gamma", kind="NaI"),
            Detector(name="Ba1", category="Gamma", kind="NaI", description="passenger's side"),
            Detector(name="Aa2", category="Gamma", kind="PVT"),
            Detector(name="He-A", category="Neutron", kind="He3"),
            Detector(name="He-B", category="Neutron", kind="He3"),
        ),
        item=Item(
            description="lorry",
            passage_id="p-17",
            lane="inbound-1",
            characteristics=(("ContainerID", "ABCU1234567"),),
        ),
        measurements=(background, *(slice_of(number) for number in range(SLICES))),
        analyses=(
            Analysis(
                algorithm="score filter",
                version="0.1.0",
                settings=(
                    Setting(name="false alarms per occupancy", value="1e-3"),
                    Setting(name="model revision", value="9d41c0"),
                    Setting(name="windowed time", value="1.4", unit="s"),
                ),
                started_us=T0_US + 4_000_000,
                duration_s=0.021,
                p=1e-6,
                statistic=12.5,
                description="industrial source; Cs-137",
                alarms=(
                    RadAlarm(
                        category="Gamma",
                        detectors=("Aa1", "Ba1"),
                        description="spectral",
                        at_us=T0_US + 400_000,
                    ),
                    RadAlarm(category="Neutron"),
                ),
                nuclides=(
                    NuclideFound(name="Cs-137", confidence=0.97, category="industrial"),
                    NuclideFound(name="Co-60"),
                ),
                faults=(
                    Fault(code="suspect", description="background suspect", severity="Warning"),
                ),
            ),
        ),
    )


# ------------------------------------------------------------ our own round trip


def test_what_was_written_is_read_back_equal():
    assert read_n42(n42_event(portal_event())) == portal_event()


def test_the_same_event_gives_the_same_bytes_and_another_alarm_another_document():
    assert n42_event(portal_event()) == n42_event(portal_event())
    assert document_id("a/b/1") == document_id("a/b/1") != document_id("a/b/2")


def test_counted_zeroes_are_a_zero_and_how_many():
    spectrum = Spectrum(detector="D", counts=(0, 0, 5, 0, 7, 0, 0, 0), live_time_s=1.0, energy=None)
    text = n42_event(minimal(spectra=(spectrum,))).decode()
    assert '<ChannelData compressionCode="CountedZeroes">0 2 5 0 1 7 0 3</ChannelData>' in text


def test_a_polynomial_of_four_terms_is_written_as_the_edges_it_gives():
    energy = EnergyCalibration(coefficients_kev=(1.0, 2.0, 0.0, 0.5))
    spectrum = Spectrum(detector="D", counts=(4, 5, 6), live_time_s=1.0, energy=energy)
    event = read_n42(n42_event(minimal(spectra=(spectrum,))))
    assert isinstance(event, N42Event)
    # 1 + 2 i + i³/2 at i = 0, 1, 2, 3
    assert event.measurements[0].spectra[0].energy == EnergyCalibration(
        edges_kev=(1.0, 3.5, 9.0, 20.5)
    )


def test_signs_that_xml_cannot_hold_do_not_break_the_file():
    event = replace(minimal(), item=Item(description="a\x00b\x1bc\ud800<&>"))
    read = read_n42(n42_event(event))
    assert isinstance(read, N42Event)
    assert read.item is not None
    assert read.item.description == "a\ufffdb\ufffdc\ufffd<&>"


def test_a_detector_that_is_named_and_not_described_is_the_callers_mistake():
    spectrum = Spectrum(detector="other", counts=(1,), live_time_s=1.0, energy=None)
    with pytest.raises(ValueError, match="'other'"):
        n42_event(minimal(spectra=(spectrum,)))


def minimal(**measurement: Any) -> N42Event:
    return N42Event(
        document_id=document_id("x"),
        created_us=None,
        creator=None,
        instrument=Instrument(
            manufacturer="M", model="X", class_code="Portal Monitor", versions=(("Software", "1"),)
        ),
        detectors=(Detector(name="D", category="Gamma", kind="NaI"),),
        measurements=(
            Measurement(kind="Foreground", start_us=T0_US, real_time_s=1.0, **measurement),
        ),
    )


texts = st.text(
    st.characters(
        codec="utf-8", exclude_categories=("Cc", "Cs", "Z"), exclude_characters="\ufffe\uffff"
    ),
    min_size=1,
    max_size=12,
)
sentences = st.lists(texts, min_size=1, max_size=3).map(" ".join)
plain_sentences = sentences.filter(lambda text: not text.startswith(("p = ", "statistic = ")))
moments = st.integers(0, 4_000_000_000_000_000)
times_s = st.floats(1e-6, 1e6).map(lambda seconds: round(seconds, 9))
energies = st.none() | st.tuples(
    st.floats(-50, 50), st.floats(0.01, 100), st.floats(-1e-3, 1e-3)
).map(lambda terms: EnergyCalibration(coefficients_kev=terms))


@st.composite
def spectra(draw: st.DrawFn, detector: str) -> Spectrum:
    counts = tuple(draw(st.lists(st.integers(0, 3) | st.integers(0, 2**40), max_size=40)))
    energy = draw(energies)
    if counts and draw(st.booleans()):
        steps = draw(st.lists(st.floats(0.1, 50), min_size=len(counts), max_size=len(counts)))
        edges = [0.0]
        for step in steps:
            edges.append(edges[-1] + step)
        energy = EnergyCalibration(edges_kev=tuple(edges))
    live_time_s = draw(st.none() | times_s)
    counts = counts or (0,)
    if energy is not None and energy.edges_kev and len(energy.edges_kev) != len(counts) + 1:
        energy = None
    return Spectrum(detector=detector, counts=counts, live_time_s=live_time_s, energy=energy)


@st.composite
def measurements(draw: st.DrawFn, names: list[str]) -> Measurement:
    detectors = draw(st.lists(st.sampled_from(names), max_size=3))
    windows = draw(st.lists(st.tuples(st.floats(0, 100), st.floats(100, 200)), max_size=3))
    gross = GrossCounts(
        detector=names[0],
        counts=tuple(range(max(1, len(windows)))),
        live_time_s=draw(st.none() | times_s),
        windows_kev=tuple(windows),
    )
    return Measurement(
        kind=draw(st.sampled_from(["Foreground", "Background", "NotSpecified"])),
        start_us=draw(moments),
        real_time_s=draw(times_s),
        spectra=tuple(draw(spectra(name)) for name in detectors),
        gross_counts=(gross,) if draw(st.booleans()) else (),
        dose_usv_per_h=((names[-1], draw(st.floats(0, 1e4))),) if draw(st.booleans()) else (),
        occupied=draw(st.sampled_from([None, True, False])),
        speed_m_per_s=draw(st.none() | st.floats(0, 60)),
    )


@st.composite
def analyses(draw: st.DrawFn, names: list[str]) -> Analysis:
    return Analysis(
        algorithm=draw(st.none() | sentences),
        version=draw(st.none() | sentences),
        settings=tuple(
            Setting(name=name, value=value, unit=unit)
            for name, value, unit in draw(
                st.lists(st.tuples(sentences, sentences, sentences), max_size=2)
            )
        ),
        started_us=draw(st.none() | moments),
        duration_s=draw(st.none() | times_s),
        succeeded=draw(st.booleans()),
        p=draw(st.none() | st.floats(0, 1)),
        statistic=draw(st.none() | st.floats(-1e6, 1e6)),
        description=draw(st.none() | plain_sentences),
        alarms=tuple(
            RadAlarm(
                category=draw(st.sampled_from(["Gamma", "Neutron", "Isotope", "Other"])),
                detectors=tuple(draw(st.lists(st.sampled_from(names), max_size=3, unique=True))),
                description=draw(st.none() | sentences),
                at_us=draw(st.none() | moments),
            )
            for _ in range(draw(st.integers(0, 2)))
        ),
        nuclides=tuple(
            NuclideFound(
                name=draw(sentences),
                confidence=draw(st.none() | st.floats(0, 1)),
                category=draw(st.none() | sentences),
            )
            for _ in range(draw(st.integers(0, 2)))
        ),
        faults=tuple(
            Fault(code=code, description=text, severity="Error")
            for code, text in draw(st.lists(st.tuples(sentences, sentences), max_size=1))
        ),
    )


@st.composite
def events(draw: st.DrawFn) -> N42Event:
    names = draw(st.lists(sentences, min_size=1, max_size=4, unique=True))
    return N42Event(
        document_id=document_id(draw(texts)),
        created_us=draw(st.none() | moments),
        creator="checkpointd 0.1.0",
        instrument=Instrument(
            manufacturer=draw(sentences),
            model=draw(sentences),
            class_code="Portal Monitor",
            versions=tuple(draw(st.lists(st.tuples(sentences, sentences), min_size=1, max_size=2))),
            identifier=draw(st.none() | sentences),
        ),
        detectors=tuple(
            Detector(
                name=name,
                category=draw(st.sampled_from(["Gamma", "Neutron"])),
                kind=draw(st.sampled_from(["NaI", "PVT", "He3", "LiZnS"])),
                description=draw(st.none() | sentences),
            )
            for name in names
        ),
        item=draw(
            st.none()
            | st.builds(
                Item,
                description=sentences,
                passage_id=st.none() | texts,
                lane=st.none() | texts,
                characteristics=st.lists(st.tuples(sentences, sentences), max_size=2).map(tuple),
            )
        ),
        measurements=tuple(draw(st.lists(measurements(names), max_size=3))),
        analyses=tuple(draw(st.lists(analyses(names), max_size=2))),
    )


@given(events())
@settings(max_examples=60, deadline=None)
def test_any_event_is_read_back_equal_and_again_the_same_bytes(event: N42Event):
    written = n42_event(event)
    assert read_n42(written) == event
    assert n42_event(event) == written


# ------------------------------------------------------------ what the field sends

HEAD = '<RadInstrumentData xmlns="http://physics.nist.gov/N42/2011/N42">'
DETECTOR = (
    '<RadDetectorInformation id="D"><RadDetectorCategoryCode>Gamma</RadDetectorCategoryCode>'
    "<RadDetectorKindCode>NaI</RadDetectorKindCode></RadDetectorInformation>"
)


def document(body: str) -> bytes:
    return f"{HEAD}{DETECTOR}{body}</RadInstrumentData>".encode()


def measured(body: str, start: str = "2026-11-27T08:00:00Z", real_time: str = "PT1S") -> bytes:
    return document(
        f'<RadMeasurement id="M"><StartDateTime>{start}</StartDateTime>'
        f"<RealTimeDuration>{real_time}</RealTimeDuration>{body}</RadMeasurement>"
    )


def channels(text: str, code: str = "CountedZeroes") -> bytes:
    return measured(
        f'<Spectrum id="S"><ChannelData compressionCode="{code}">{text}</ChannelData></Spectrum>'
    )


def one(data: bytes) -> Measurement:
    event = read_n42(data)
    assert isinstance(event, N42Event), event
    (measurement,) = event.measurements
    return measurement


def test_an_undeclared_prefix_is_passed_over():
    body = '<DHS:Peaks version="2"><DHS:Peak/></DHS:Peaks>'
    event = read_n42(document(body))
    assert isinstance(event, N42Event)
    assert [each.name for each in event.detectors] == ["D"]


def test_latin_1_is_read_though_utf_8_was_said():
    text = '<?xml version="1.0" encoding="UTF-8"?>' + document("").decode()
    text = text.replace("<RadDetectorCategoryCode>", "<RadDetectorName>Süd</RadDetectorName>"
                        "<RadDetectorCategoryCode>", 1)  # fmt: skip
    event = read_n42(text.encode("latin-1"))
    assert isinstance(event, N42Event)
    assert event.detectors[0].name == "Süd"


@pytest.mark.parametrize("around", [b"\x02%s\x03", b"\r\n %s\n", b"\xef\xbb\xbf%s"])
def test_what_a_stream_puts_around_a_document_is_let_be(around):
    assert isinstance(read_n42(around % document("")), N42Event)


def test_missing_live_time_class_and_occupancy_are_none_and_no_guess():
    measurement = one(channels("5 0 3"))
    assert measurement.kind == "NotSpecified"
    assert measurement.occupied is None
    assert measurement.spectra == (
        Spectrum(detector="D", counts=(5, 0, 0, 0), live_time_s=None, energy=None),
    )


@pytest.mark.parametrize(
    ("start", "utc_us"),
    [
        ("2003-11-22T23:45:00.5-07:00", 1_069_569_900_500_000),
        ("2003-11-23T06:45:00.5Z", 1_069_569_900_500_000),
        ("2003-11-23T06:45:00.5", 1_069_569_900_500_000),
        ("1970-01-01T00:00:00.0000014Z", 1),
    ],
)
def test_a_start_is_read_with_its_zone(start, utc_us):
    assert one(measured("", start=start)).start_us == utc_us


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("PT0.99989S", 0.99989), ("PT1M30S", 90.0), ("P1DT2H", 93_600.0), ("PT60.000S", 60.0)],
)
def test_a_duration_is_iso_8601(text, seconds):
    assert one(measured("", real_time=text)).real_time_s == seconds


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not well-formed XML"),
        (b"not XML", "not well-formed XML"),
        (document("")[:-5], "not well-formed XML"),
        (b"<N42InstrumentData/>", "N42InstrumentData"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "document type"),
        (b"<a>" * 70 + b"</a>" * 70, "more elements, or deeper ones"),
        (b"<a>" + b"<b/>" * 200_001 + b"</a>", "more elements, or deeper ones"),
        (b"<a>" + b" " * (16 << 20) + b"</a>", "limit"),
        (channels("1 2 -3"), "'-3' is no count"),
        (channels("1 2.5"), "'2.5' is no count"),
        (channels("1 two"), "'two' is no number"),
        (channels("1" * 5000), "is no number"),
        (channels("1e300"), "is no count"),
        (channels("nan"), "'nan' is no number"),
        (channels("0 4000000000"), "a run of 4000000000 zeroes"),
        (channels("5 0"), "a run of 0 zeroes"),
        (channels("1 " * 140_000, "None"), "more than 65536 channels"),
        (measured('<Spectrum id="S"/>'), "ChannelData is missing"),
        (measured("", start="yesterday"), "'yesterday' is no moment"),
        (measured("", start="2026-13-01T00:00:00Z"), "is no moment"),
        (measured("", real_time="PT0S"), "RealTimeDuration is missing or zero"),
        (measured("", real_time="P"), "'P' is no duration"),
        (measured("", real_time="1 s"), "'1 s' is no duration"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_event_is_refused_in_a_sentence(data, said):
    problem = read_n42(data)
    assert isinstance(problem, Problem)
    assert said in problem.text
    assert len(problem.text) < 300


@given(st.binary(max_size=300), st.integers(0, 2000))
@settings(max_examples=100, deadline=None)
def test_damaged_bytes_never_raise(noise, at):
    whole = channels("5 0 3 1")
    for data in (noise, whole[: at % len(whole)] + noise + whole[at % len(whole) :]):
        assert isinstance(read_n42(data), N42Event | Problem)


# ------------------------------------------------------------ against others

needs_data = pytest.mark.skipif(not DATA.exists(), reason=f"no {DATA}")


def example(name: str) -> N42Event:
    event = read_n42((DATA / name).read_bytes())
    assert isinstance(event, N42Event), event
    return event


@pytest.mark.shared_data
@needs_data
def test_the_standards_portal_example_is_read():
    event = example("annex-d-portal-alarmed.n42")
    assert [(d.name, d.category, d.kind) for d in event.detectors] == [
        ("Aa1", "Gamma", "PVT"), ("Aa2", "Gamma", "PVT"), ("Ba1", "Gamma", "PVT"),
        ("Ba2", "Gamma", "PVT"), ("Aa1N", "Neutron", "He3"), ("Ba1N", "Neutron", "He3"),
    ]  # fmt: skip
    assert len(event.measurements) == 7
    first = event.measurements[0]
    assert (first.real_time_s, first.occupied) == (0.1, False)
    assert first.gross_counts[0] == GrossCounts(
        detector="Aa1",
        counts=(5, 22, 200),
        live_time_s=0.1,
        windows_kev=((0.0, 100.0), (0.0, 3000.0), (100.0, 400.0)),
    )
    (analysis,) = event.analyses
    assert [(a.category, a.detectors) for a in analysis.alarms] == [
        ("Gamma", ("Aa1", "Aa2", "Ba1", "Ba2")),
        ("Neutron", ("Aa1N",)),
    ]


@pytest.mark.shared_data
@needs_data
def test_the_standards_spectroscopic_example_is_read():
    event = example("annex-e-spectroscopic-portal.n42")
    assert [m.kind for m in event.measurements] == ["Background", *["Foreground"] * 6]
    background = event.measurements[0].spectra[0]
    assert background.live_time_s == 298.212262
    assert background.energy == EnergyCalibration(coefficients_kev=(0.0, 0.3662, 0.0))
    assert len(background.counts) == len(event.measurements[1].spectra[1].counts)
    assert [m.speed_m_per_s for m in event.measurements] == [None, None, None, 3.2, 3.2, None, None]
    (analysis,) = event.analyses
    assert analysis.nuclides[:2] == (
        NuclideFound(name="Co-57", confidence=0.91, category="Industrial"),
        NuclideFound(name="Cs-137", confidence=0.99, category="Industrial"),
    )
    assert event.item is not None
    assert event.item.characteristics[0] == ("ContainerID", "YMLU3030933")


@pytest.mark.shared_data
@needs_data
def test_energy_boundaries_and_an_undeclared_prefix_are_read():
    edges = example("annex-b-alternate-calibration.n42").measurements[0].spectra[0].energy
    assert edges is not None
    assert edges.edges_kev[:2] == (0.8, 1.693)
    assert edges.edges_kev[-1] == 3505.061
    germanium = example("i131-hpge.n42").measurements
    assert [m.kind for m in germanium] == ["Foreground", "Background"]
    assert germanium[0].spectra[0].live_time_s == 5.24


@cache
def schema() -> Any:
    etree = pytest.importorskip("lxml.etree")
    return etree.XMLSchema(etree.parse(DATA / "n42.xsd"))


def assert_valid(written: bytes) -> None:
    etree = pytest.importorskip("lxml.etree")
    judge = schema()
    assert judge.validate(etree.fromstring(written)), judge.error_log


@pytest.mark.shared_data
@needs_data
def test_a_portal_event_is_valid_against_the_schema():
    assert_valid(n42_event(portal_event()))


@pytest.mark.shared_data
@needs_data
@given(events())
@settings(max_examples=25, deadline=None)
def test_any_event_is_valid_against_the_schema(event: N42Event):
    assert_valid(n42_event(event))


@pytest.mark.shared_data
@needs_data
@pytest.mark.parametrize(
    "name", ["annex-d-portal-alarmed.n42", "annex-e-spectroscopic-portal.n42", "i131-hpge.n42"]
)
def test_another_programs_event_written_again_is_valid_and_says_the_same(name):
    event = replace(example(name), document_id=document_id(name), creator="checkpointd 0.1.0")
    written = n42_event(event)
    assert_valid(written)
    assert read_n42(written) == event


# ------------------------------------------------------------ read back by an independent program


@pytest.fixture(scope="module")
def read_by_specutils(tmp_path_factory) -> Any:
    if platform.machine() != "x86_64":
        pytest.skip("SandiaSpecUtils is published for x86-64 only")
    library = pytest.importorskip("SpecUtils")
    path = tmp_path_factory.mktemp("n42") / "event.n42"
    path.write_bytes(n42_event(portal_event()))
    file = library.SpecFile()
    file.loadFile(str(path), library.ParserType.N42_2012)
    return file


def test_specutils_reads_instrument_samples_and_panels(read_by_specutils):
    file = read_by_specutils
    assert file.instrumentModel() == "SP-2"
    assert file.manufacturer().replace("\u00a0", " ") == "Panels & Portals (North) Ltd."
    assert str(file.instrumentType()) == "Spectroscopic Portal Monitor"
    assert file.instrumentId() == "SN-0001"
    assert file.uuid() == document_id("bridge-north/gw-1/a-17")
    assert file.passthrough()
    assert set(file.detectorNames()) == {"Aa1", "Ba1", "Aa2", "He-A", "He-B"}
    assert set(file.neutronDetectorNames()) == {"He-A", "He-B"}
    assert not file.containsDerivedData()
    samples = [m.sampleNumber() for m in file.measurements()]
    assert len(set(samples)) == 1 + SLICES
    assert list(file.parseWarnings()) == []


def test_specutils_reads_counts_times_occupancy_and_speed(read_by_specutils):
    import SpecUtils  # noqa: PLC0415 - published for x86-64 only

    found = {(m.sampleNumber(), m.detectorName()): m for m in read_by_specutils.measurements()}
    background = found[1, "Aa1"]
    assert background.sourceType() == SpecUtils.SourceType.Background
    assert math.isclose(background.liveTime(), 59.4, rel_tol=1e-6)
    for number in range(SLICES):
        for panel in ("Aa1", "Ba1"):
            measured_ = found[number + 2, panel]
            assert list(measured_.gammaCounts()) == list(nai_counts(panel, number))
            assert math.isclose(measured_.realTime(), 0.2, rel_tol=1e-6)
            assert math.isclose(measured_.liveTime(), 0.19, rel_tol=1e-6)
            assert list(measured_.calibrationCoeffs())[:2] == [0.0, 3.0]
            is_occupied = measured_.occupied() == SpecUtils.OccupancyStatus.Occupied
            assert is_occupied == (number in OCCUPIED)
            assert measured_.speed() == (2.25 if number in OCCUPIED else 0.0)
        windows = found[number + 2, "Aa2"]
        assert list(windows.gammaCounts()) == [195, 303, 144, 143]
        assert list(windows.calibrationCoeffs()) == list(WINDOWS.edges_kev)
        for tube in ("He-A", "He-B"):
            assert found[number + 2, tube].containedNeutron()
            assert found[number + 2, tube].neutronCountsSum() == number


def test_specutils_reads_the_nuclides(read_by_specutils):
    results = read_by_specutils.detectorAnalysisResults()
    assert [r.nuclide() for r in results] == ["Cs-137", "Co-60"]
    assert float(results[0].idConfidence()) == 97.0
