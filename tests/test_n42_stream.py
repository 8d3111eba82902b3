"""N42.42-2012 documents in words, and instruments that stream them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import LineParameters
from drivers.n42_xml import MAX_CHANNELS, duration_s, parse_document
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceNuclides,
    DeviceState,
    EnergyCalibration,
    GammaCounts,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    Reason,
    VehiclePresence,
    VehicleSpeed,
    WindowCounts,
)
from drivers.rpm.n42_stream import BUFFER_LIMIT_BYTES, Driver, Options
from drivers.transport import open_pipe
from drivers.xml_tree import MAX_DEPTH, XmlError
from simulators.clock import SceneClock
from simulators.mischief import Faults, mangle
from simulators.n42_stream import (
    CHANNELS,
    N42Instrument,
    N42Server,
    StreamOptions,
    counted_zeroes,
)
from simulators.scene import Scene
from simulators.spectrometer import Spectrometer

SHARED = Path(__file__).parent.parent.parent / "shared" / "data" / "n42"
shared = pytest.mark.skipif(not SHARED.exists(), reason=f"{SHARED} is missing")
N42 = 'xmlns="http://physics.nist.gov/N42/2011/N42"'
DETECTORS = (
    '<RadDetectorInformation id="G"><RadDetectorCategoryCode>Gamma</RadDetectorCategoryCode>'
    '</RadDetectorInformation><RadDetectorInformation id="N"><RadDetectorCategoryCode>Neutron'
    "</RadDetectorCategoryCode></RadDetectorInformation>"
)


def document(inside, attributes=N42):
    return f"<RadInstrumentData {attributes}>{inside}</RadInstrumentData>"


def measurement(inside="", *, cls="Foreground", start="2026-03-02T10:00:00Z", real="PT1S"):
    return (
        f'<RadMeasurement id="M"><MeasurementClassCode>{cls}</MeasurementClassCode>'
        f"<StartDateTime>{start}</StartDateTime><RealTimeDuration>{real}</RealTimeDuration>"
        f"{inside}</RadMeasurement>"
    )


def spectrum(data, *, code="None", detector="G", live="PT0.9S", more=""):
    return (
        f'<Spectrum id="S" radDetectorInformationReference="{detector}" {more}>'
        f"<LiveTimeDuration>{live}</LiveTimeDuration>"
        f'<ChannelData compressionCode="{code}">{data}</ChannelData></Spectrum>'
    )


def gross(counts, *, detector="N", live="PT1S"):
    return (
        f'<GrossCounts id="g{detector}" radDetectorInformationReference="{detector}">'
        f"<LiveTimeDuration>{live}</LiveTimeDuration><CountData>{counts}</CountData></GrossCounts>"
    )


def alarm(category, detectors):
    return (
        f'<AnalysisResults><RadAlarm radDetectorInformationReferences="{detectors}">'
        f"<RadAlarmCategoryCode>{category}</RadAlarmCategoryCode></RadAlarm></AnalysisResults>"
    )


def framed(text):
    return b"\x02" + text.encode() + b"\x03"


def said(*documents, options=None):
    return Driver(options or Options()).feed(b"".join(framed(document(d)) for d in documents))


def of(kind, readings):
    return [r for r in readings if isinstance(r, kind)]


# --- documents ------------------------------------------------------------------------------


def one_spectrum(data, code="None"):
    (found,) = parse_document(document(measurement(spectrum(data, code=code)))).measurements
    return [s.counts for s in found.spectra]


def test_counted_zeroes_are_as_many_as_the_number_behind_the_zero_says():
    assert one_spectrum("0 3 5 7 0 1 2", "CountedZeroes") == [(0, 0, 0, 5, 7, 0, 2)]
    assert one_spectrum("0 3 5 7 0 1 2") == [(0, 3, 5, 7, 0, 1, 2)]
    assert one_spectrum("12.0 0 3e1") == [(12, 0, 30)]


@given(st.lists(st.integers(0, 3), max_size=60))
@settings(max_examples=60, deadline=None)
def test_counted_zeroes_written_by_the_rule_are_read_back(counts):
    written, zeroes = [], 0
    for count in [*counts, None]:
        if count == 0:
            zeroes += 1
            continue
        if zeroes:
            written += [0, zeroes]
            zeroes = 0
        if count is not None:
            written.append(count)
    assert one_spectrum(" ".join(map(str, written)), "CountedZeroes") == [tuple(counts)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        ("1 -2 3", "None"),
        ("1 2.5", "None"),
        ("1 nan", "None"),
        ("1 ٣", "None"),
        ("1 1_000", "None"),
        ("5 0", "CountedZeroes"),
        ("5 0 0 1", "CountedZeroes"),
        (f"0 {MAX_CHANNELS + 1}", "CountedZeroes"),
        ("0 99999999999999", "CountedZeroes"),
        ("1 2", "Gzip"),
    ],
    ids=lambda value: value[:12].encode("ascii", "replace").decode(),
)
def test_a_spectrum_that_cannot_be_read_is_left_out_and_named(data, code):
    text = document(measurement(spectrum(data, code=code) + gross(3)))
    found = parse_document(text)
    assert found.measurements[0].spectra == ()
    assert [g.counts for g in found.measurements[0].gross_counts] == [(3,)]
    assert len(found.unread) == 1
    assert found.unread[0].startswith("Spectrum S: ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("PT0.99989S", 0.99989),
        ("PT1M40S", 100.0),
        ("P1DT1H", 90_000.0),
        ("PT300.00193S", 300.00193),
    ],
)
def test_durations_are_iso_8601(text, seconds):
    assert duration_s(text) == pytest.approx(seconds, abs=1e-9)


@pytest.mark.parametrize("text", ["", "P", "PT", "1S", "PT-1S", "P1Y", "PT1S "])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="no duration"):
        duration_s(text)


def test_boundaries_are_one_more_than_the_channels_and_rise():
    def energy(values, data="1 2"):
        calibration = (
            f'<EnergyCalibration id="E"><EnergyBoundaryValues>{values}</EnergyBoundaryValues>'
            "</EnergyCalibration>"
        )
        body = spectrum(data, more='energyCalibrationReference="E"')
        return parse_document(document(calibration + measurement(body)))

    good = energy("0 100 300").measurements[0].spectra[0]
    assert good.energy == EnergyCalibration(edges_kev=(0.0, 100.0, 300.0))
    assert energy("0 300 100").measurements[0].spectra[0].energy is None
    assert energy("0 300 100").unread
    assert energy("0 1 2 3 4").measurements[0].spectra == ()


def test_a_start_without_a_zone_is_read_as_utc_and_said_to_have_none():
    body = measurement(start="2026-03-02T10:00:00.5") + measurement(
        start="2026-03-02T10:00:00+01:00"
    )
    first, second = parse_document(document(body)).measurements
    assert first.start == datetime(2026, 3, 2, 10, 0, 0, 500_000, tzinfo=UTC)
    assert (first.start_has_zone, second.start_has_zone) == (False, True)
    assert second.start == datetime(2026, 3, 2, 9, 0, tzinfo=UTC)


def test_elements_of_undeclared_prefixes_and_other_namespaces_are_left_out_with_what_they_hold():
    inside = (
        f"<InterSpec:Peaks a:b='1'>{measurement(spectrum('9'))}</InterSpec:Peaks>"
        f'<x:RadMeasurement xmlns:x="urn:other"/><y xmlns="urn:z">{measurement()}</y>'
        + measurement(spectrum("1"))
    )
    found = parse_document(document(inside))
    assert [m.spectra[0].counts for m in found.measurements] == [(1,)]


def test_the_n42_namespace_may_have_a_prefix_or_be_missing():
    prefixed = (
        '<n:RadInstrumentData xmlns:n="http://physics.nist.gov/N42/2011/N42">'
        "<n:RadMeasurement/></n:RadInstrumentData>"
    )
    assert len(parse_document(prefixed).measurements) == 1
    assert len(parse_document(document(measurement(), attributes="")).measurements) == 1


BOMB = '<!DOCTYPE r [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (BOMB + document("<Remark>&b;</Remark>"), Reason.SYNTAX),
        ('<!DOCTYPE r SYSTEM "file:///etc/passwd">' + document(""), Reason.SYNTAX),
        (document("")[:-3], Reason.TRUNCATED),
        ("", Reason.TRUNCATED),
        (document("<a></b>"), Reason.SYNTAX),
        (document("\x00"), Reason.SYNTAX),
        (document("\ud800"), Reason.SYNTAX),
        (document("&undefined;"), Reason.SYNTAX),
        ("<N42InstrumentData/>", Reason.UNKNOWN),
        (document("", attributes='xmlns="urn:other"'), Reason.UNKNOWN),
        ("<a>" * (MAX_DEPTH + 2) + "</a>" * (MAX_DEPTH + 2), Reason.FLOOD),
    ],
    ids=lambda value: value if isinstance(value, Reason) else None,
)
def test_a_document_that_cannot_be_read_says_why(text, reason):
    with pytest.raises(XmlError) as caught:
        parse_document(text)
    assert caught.value.reason is reason


def test_bytes_are_read_as_declared_or_utf_8_or_latin_1():
    body = document(
        "<RadInstrumentInformation><RadInstrumentModelName>né</RadInstrumentModelName>"
        "</RadInstrumentInformation>"
    )
    for data in (
        body.encode(),
        body.encode("utf-8-sig"),
        body.encode("latin-1"),
        b'<?xml version="1.0" encoding="ISO-8859-1"?>' + body.encode("latin-1"),
        b'<?xml version="1.0" encoding="UTF-8"?>' + body.encode("latin-1"),
        body.encode("utf-16"),
    ):
        assert parse_document(data).instrument.model == "né"


@given(st.text(alphabet="<>/&;\"' ax:=0RadInstrumentData!?-[]", max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(XmlError):
        parse_document(document(text))


# --- the stream -----------------------------------------------------------------------------


def test_foreground_alone_says_nothing_of_the_phase_unless_set():
    body = DETECTORS + measurement(spectrum("1 2"))
    assert [r.occupied for r in of(GammaSpectrum, said(body))] == [None]
    trusted = said(body, options=Options(foreground_is_occupied=True))
    assert [r.occupied for r in of(GammaSpectrum, trusted)] == [True]
    background = DETECTORS + measurement(spectrum("1 2"), cls="Background")
    assert [r.occupied for r in of(GammaSpectrum, said(background))] == [False]


def test_occupancy_is_said_when_it_changes_and_anew_after_silence():
    def at(second, occupied):
        return DETECTORS + measurement(
            f"<OccupancyIndicator>{occupied}</OccupancyIndicator>",
            start=f"2026-03-02T10:00:0{second}Z",
        )

    driver = Driver(Options())
    stream = b"".join(
        framed(document(at(i, o))) for i, o in enumerate(["false", "false", "true", "1", "0"])
    )
    assert [r.occupied for r in of(VehiclePresence, driver.feed(stream))] == [False, True, False]
    driver.silence()
    again = driver.feed(framed(document(at(5, "false"))))
    assert [r.occupied for r in of(VehiclePresence, again)] == [False]


@pytest.mark.parametrize(
    ("category", "detectors", "kind"),
    [
        ("Gamma", "G N", "gamma"),
        ("Neutron", "G", "neutron"),
        ("Isotope", "G", "spectral"),
        ("Other", "G", "gamma"),
        ("Other", "N", "neutron"),
        ("Other", "G N", "spectral"),
        ("Weird", "nobody", "spectral"),
        ("", "", "spectral"),
    ],
)
def test_an_alarm_is_one_alarm_whatever_its_category(category, detectors, kind):
    readings = said(DETECTORS + alarm(category, detectors))
    assert [r.kind for r in of(DeviceAlarm, readings)] == [kind]


def test_an_analysis_that_found_no_nuclide_says_so_and_one_that_did_not_look_says_nothing():
    looked = "<AnalysisResults><NuclideAnalysisResults/></AnalysisResults>"
    assert of(DeviceNuclides, said(looked)) == [DeviceNuclides(nuclides=())]
    assert of(DeviceNuclides, said("<AnalysisResults/>")) == []


def test_confidence_is_a_share_whether_written_in_percent_or_as_one():
    def nuclide(confidence):
        return (
            "<AnalysisResults><NuclideAnalysisResults><Nuclide><NuclideIdentifiedIndicator>true"
            "</NuclideIdentifiedIndicator><NuclideName>Co-57</NuclideName>"
            f"<NuclideIDConfidenceValue>{confidence}</NuclideIDConfidenceValue></Nuclide>"
            "</NuclideAnalysisResults></AnalysisResults>"
        )

    for written, share in (("91", 0.91), ("0.91", 0.91), ("101", None), ("high", None)):
        (found,) = of(DeviceNuclides, said(nuclide(written)))
        assert found.nuclides == (NuclideFound(name="Co-57", confidence=share, category=None),)


def test_gross_counts_of_a_gamma_detector_count_only_where_it_has_no_spectrum():
    both = DETECTORS + measurement(spectrum("1 2") + gross(3, detector="G"))
    assert of(GammaCounts, said(both)) == []
    alone = DETECTORS + measurement(gross(3, detector="G") + gross(4, detector="G2"))
    assert [r.counts for r in of(GammaCounts, said(alone))] == [(3, 4)]
    windows = DETECTORS + measurement(gross("1 2 3", detector="G") + gross("4 5 6", detector="H"))
    assert [r.counts for r in of(WindowCounts, said(windows))] == [(5, 7, 9)]


def test_a_long_background_gives_the_neutron_background_and_a_slice_does_not():
    long = DETECTORS + measurement(gross(35, live="PT100S"), cls="Background", real="PT100S")
    (background,) = of(NeutronBackground, said(long))
    assert background.total_cps == pytest.approx(0.35)
    assert background.rounded_down is False
    brief = DETECTORS + measurement(gross(1, live="PT0.1S"), cls="Background", real="PT0.1S")
    assert of(NeutronBackground, said(brief)) == []
    assert [r.counts for r in of(NeutronCounts, said(brief))] == [(1,)]


def test_a_measurement_without_a_duration_or_a_spectrum_without_live_time_is_refused():
    for body in (
        measurement(spectrum("1 2"), real=""),
        measurement(spectrum("1 2"), real="PT0S"),
        measurement(spectrum("1 2", live="PT0S")),
        measurement(spectrum("1 2", live="soon")),
    ):
        readings = said(DETECTORS + body)
        assert of(GammaSpectrum, readings) == []
        assert {r.reason for r in of(BadFrame, readings)} == {Reason.RANGE}


def test_a_unit_that_the_schema_does_not_allow_is_refused():
    speed = (
        '<RadItemState><StateVector><SpeedValue units="mph">7</SpeedValue></StateVector>'
        "</RadItemState>"
    )
    readings = said(DETECTORS + measurement(speed))
    assert of(VehicleSpeed, readings) == []
    assert "mph" in of(BadFrame, readings)[0].detail


def test_a_fault_is_cleared_by_the_next_analysis_without_it():
    fault = (
        "<AnalysisResults><Fault><FaultCodeValue>7</FaultCodeValue><FaultDescription>HV"
        "</FaultDescription><FaultSeverityCode>Error</FaultSeverityCode></Fault></AnalysisResults>"
    )
    readings = said(fault, measurement(), "<AnalysisResults/>")
    assert of(DeviceState, readings) == [
        DeviceState(condition="fault 7", active=True, detail="Error: HV"),
        DeviceState(condition="fault 7", active=False),
    ]


def test_a_document_longer_than_the_limit_is_refused_once_and_the_next_one_read():
    driver = Driver(Options())
    readings = []
    for _ in range(BUFFER_LIMIT_BYTES // 65536 + 2):
        readings += driver.feed(b" <" * 32768)
        assert driver.buffered <= BUFFER_LIMIT_BYTES
    readings += driver.feed(b"\x03" + framed(document(DETECTORS + measurement(spectrum("1")))))
    assert [getattr(r, "reason", None) for r in readings] == [Reason.FLOOD, None]


def test_a_summary_is_not_taken_for_one_when_the_clock_was_set_back_by_hours():
    later = DETECTORS + measurement(spectrum("1"), start="2026-03-02T12:00:00Z")
    earlier = (
        DETECTORS + measurement(spectrum("2"), start="2026-03-02T09:00:00Z") + alarm("Gamma", "G")
    )
    assert [r.counts for r in of(GammaSpectrum, said(later, earlier))] == [(1,), (2,)]


# --- real documents -------------------------------------------------------------------------


@shared
@pytest.mark.shared_data
def test_a_recorded_stream_is_read_whole():
    data = (SHARED / "rs350-stream.xml").read_bytes()
    driver = Driver(Options())
    readings = driver.feed(data)
    # 41 begin; the first lacks its STX and is whole, the last is cut.
    assert len(of(GammaSpectrum, readings)) == 40
    assert all(len(r.counts) == 1024 for r in of(GammaSpectrum, readings))
    assert all(0.99 < r.real_time_s < 1.01 for r in of(GammaSpectrum, readings))
    assert all(200 < sum(r.counts) < 1500 for r in of(GammaSpectrum, readings))
    assert of(BadFrame, readings) == []
    (cut,) = driver.silence()
    assert cut.reason is Reason.TRUNCATED


@shared
@pytest.mark.shared_data
def test_the_spectrum_of_a_recorded_second_sums_to_its_gross_count():
    data = (SHARED / "rs350-stream.xml").read_bytes()
    for piece in data.replace(b"\x02", b"\x03").split(b"\x03")[:40]:
        if piece.strip():
            (second,) = parse_document(piece).measurements
            gamma = next(g for g in second.gross_counts if g.detector == "VD1")
            # Its layouts leave out what lies above their last channel.
            assert abs(sum(second.spectra[0].counts) - gamma.counts[0]) <= 10


@shared
@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "kinds", "nuclides"),
    [
        ("annex-d-portal.n42", [], []),
        ("annex-d-portal-alarmed.n42", ["gamma", "neutron"], ["Unknown"]),
        ("annex-e-spectroscopic-portal.n42", ["spectral"], ["Co-57", "Cs-137"]),
    ],
)
def test_the_standards_examples_say_what_they_show(name, kinds, nuclides):
    readings = Driver(Options()).feed(b"\x02" + (SHARED / name).read_bytes() + b"\x03")
    assert of(BadFrame, readings) == []
    assert [r.kind for r in of(DeviceAlarm, readings)] == kinds
    found = [n.name for r in of(DeviceNuclides, readings) for n in r.nuclides]
    assert found == nuclides
    assert [r.occupied for r in of(VehiclePresence, readings)] == [False, True, False]


@shared
@pytest.mark.shared_data
def test_other_real_documents_are_read_without_loss():
    for path in sorted(SHARED.glob("*.n42")):
        found = parse_document(path.read_bytes())
        assert found.measurements, path.name
        assert found.unread == (), path.name
    iodine = parse_document((SHARED / "i131-hpge.n42").read_bytes())
    assert Counter(m.class_code for m in iodine.measurements) == {"Foreground": 1, "Background": 1}
    assert dataclasses.asdict(iodine.measurements[0].spectra[0])["live_time_s"] == 5.24


# --- against the simulator ------------------------------------------------------------------


def panel_scene(seed=1):
    return Scene.from_text(
        f'title = "panel"\nseed = {seed}\n[spectrometer]\ninstrument = "rs-350"\n'
        'background_cps = 600.0\n[[vehicle]]\nid = "v"\nat_s = 40.0\nspeed_m_per_s = 2.0\n'
        "[vehicle.gamma]\npeak_cps = 6000.0\noffset_m = 4.0\n"
        'nuclide = "Co-60"\n[vehicle.neutron]\npeak_cps = 400.0\noffset_m = 4.0\n',
        name="panel.toml",
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("says_occupancy", [False, True])
def test_driver_and_instrument_agree_on_every_count(seed, says_occupancy):
    print(f"seed={seed}")
    scene = panel_scene(seed)
    instrument = N42Instrument(scene, StreamOptions(says_occupancy=says_occupancy))
    wire = b"".join(data for _, data in instrument.advance(60.0))
    truth = Spectrometer(scene, crystal="NaI", channels=CHANNELS)
    truth.advance(60.0)
    counted = truth.take()
    readings = Driver(Options()).feed(wire)
    assert of(BadFrame, readings) == []
    seconds = [r for r in of(GammaSpectrum, readings) if r.real_time_s < 2]
    assert len(seconds) == 60
    assert tuple(map(sum, zip(*(r.counts for r in seconds), strict=True))) == tuple(
        counted.channels.tolist()
    )
    assert sum(r.live_time_s for r in seconds) == pytest.approx(counted.live_time_s, abs=1e-3)
    assert sum(r.counts[0] for r in of(NeutronCounts, readings)) == counted.neutrons
    # The alarm's document brought a background and its verdict, and its counts only once.
    assert len(instrument.alarmed_s) >= 1
    assert {r.kind for r in of(DeviceAlarm, readings)} == {"spectral", "neutron"}
    names = {n.name for r in of(DeviceNuclides, readings) for n in r.nuclides}
    assert names == {"Co-60"}
    assert all(r.occupied is False for r in of(GammaSpectrum, readings) if r.real_time_s > 20)
    presence = [r.occupied for r in of(VehiclePresence, readings)]
    assert presence == ([False, True, False] if says_occupancy else [])
    speeds = {r.m_per_s for r in of(VehicleSpeed, readings)}
    assert speeds == ({2.0} if says_occupancy else set())


@pytest.mark.parametrize("seed", range(6))
def test_a_bad_line_loses_documents_and_the_next_good_one_is_read(seed):
    print(f"seed={seed}")
    instrument = N42Instrument(panel_scene(seed))
    chunks = [data for _, data in instrument.advance(60.0)]
    right = {r.counts for r in of(GammaSpectrum, Driver(Options()).feed(b"".join(chunks)))}
    faults = Faults(drop_rate=2e-5, double_rate=2e-5, garbage_rate=0.02, split_to=900)
    driver, readings = Driver(Options()), []
    for piece in mangle(chunks, faults, seed=seed):
        readings += driver.feed(piece)
    assert of(BadFrame, readings)
    found = [r.counts for r in of(GammaSpectrum, readings)]
    # A digit lost among the counts cannot be told: the stream has no checksum.
    assert sum(counts in right for counts in found) >= 0.8 * len(found) >= 24


def test_the_simulated_stream_is_read_over_tcp():
    async def heard():
        server = N42Server(N42Instrument(panel_scene()))
        port = await server.serve_tcp(SceneClock(time_scale=20.0))
        pipe = await open_pipe(port, LineParameters(), timeout_s=10.0)
        driver, readings = Driver(Options()), []
        try:
            async with asyncio.timeout(10.0):
                while len(of(GammaSpectrum, readings)) < 5:
                    readings += driver.feed(await pipe.read())
        finally:
            pipe.close()
            await server.close()
        return readings

    assert of(BadFrame, asyncio.run(heard())) == []


@given(st.lists(st.integers(0, 2), min_size=1, max_size=50))
@settings(max_examples=50, deadline=None)
def test_the_simulators_zero_coding_and_the_readers_are_each_others_inverse(counts):
    assert one_spectrum(counted_zeroes(counts), "CountedZeroes") == [tuple(counts)]
