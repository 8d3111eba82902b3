"""The N42 file of an alarming passage: what stands in it, and with which records it is stored."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from delivery_bench import ENCODER
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import LOUD, Bench, stamp
from spectral_bench import BACKGROUND_CPS, LEFT, RIGHT, SpectralLane, computed_rules

from agent.clock import Clock
from agent.daemon import recorder as recorders
from agent.delivery.store.thread import Journal
from agent.delivery.wire import WireError
from agent.evidence.event import EventFiles, FileAsked, event_of
from agent.evidence.n42_read import read_n42
from agent.evidence.n42_words import N42Event
from agent.lane.event import Measurements
from agent.lane.options.portals import RpmOptions, TypePlateOptions
from agent.records import Alarm, Audit, Blob, EventSource, Passage, Record
from agent.settings import JournalOptions
from drivers.readings import DeviceNuclides, NuclideFound, VehicleSpeed, WindowCounts

SCHEMA = Path(__file__).resolve().parents[2] / "shared" / "data" / "n42" / "n42.xsd"


def files() -> EventFiles:
    return EventFiles(gateway="bridge-north/gw-1", creator="checkpointd 0.1.0")


def read(data: bytes) -> N42Event:
    event = read_n42(data)
    assert isinstance(event, N42Event), event
    return event


def spectral_lane() -> SpectralLane:
    """Return a lane that a caesium source and then an empty vehicle have passed."""
    lane = SpectralLane(computed_rules())
    lane.empty(90)
    lane.passes("Cs-137", 60.0)
    lane.passes()
    return lane


def counting_lane(**changes: Any) -> Bench:
    """Return a lane of one TSA portal: a loud vehicle with windows and neutrons, a quiet one."""
    plate = TypePlateOptions(manufacturer="Rapiscan", model="TM-850", serial_number="4711")
    detectors = ("low", "high", "left", "right")
    lane = Bench(rpm=RpmOptions(detectors=detectors, type_plate=plate), **changes)
    lane.background(0)
    lane.neutron_background(0, 2.5)
    for i in range(20):
        at_s = 20 + 0.2 * i
        lane.gamma(at_s, LOUD, alarm=i >= 4)
        lane.read(at_s, WindowCounts(counts=(5, 6, 7, 8), real_time_s=0.2))
    lane.read(23, VehicleSpeed(m_per_s=2.5))
    lane.neutron(23.9, 3)
    lane.leave(24)
    lane.vehicle(120, number=2)
    lane.tick(400)
    return lane


def event_records(records: list[Record]) -> list[Alarm | Passage]:
    return [r for r in records if isinstance(r, Alarm | Passage) and r.event is not None]


# ------------------------------------------------------------------ who has a file


def test_a_spectral_alarm_goes_out_without_its_file_and_is_cleared_with_it() -> None:
    lane = spectral_lane()
    first, _ = lane.passages()
    assert [(a.phase, a.event is not None) for a in lane.alarms("spectral")] == [
        ("raised", False),
        ("updated", False),
        ("cleared", True),
    ]
    assert [type(r) for r in event_records(lane.records)] == [Alarm, Passage]
    sources = {id(r.event) for r in event_records(lane.records)}
    assert len(sources) == 1, "one event, one file"
    assert first.event is not None


def test_a_counting_portals_alarm_has_a_file_and_a_quiet_vehicle_has_none() -> None:
    lane = counting_lane()
    loud, quiet = lane.passages()
    assert loud.event is not None
    assert quiet.event is None
    cleared = lane.alarms("gamma", "cleared")
    assert [a.event for a in cleared] == [loud.event]
    assert lane.state.of(Measurements).measured == ()


def test_a_weight_alone_makes_no_event() -> None:
    lane = Bench()
    lane.background(0)
    lane.vehicle(20)
    lane.weigh(26, 90_000)
    lane.tick(400)
    assert event_records(lane.records) == []


# ------------------------------------------------------------------ what stands in it


def test_the_file_of_a_source_holds_its_background_its_slices_and_what_was_found() -> None:
    lane = spectral_lane()
    passage = lane.passages()[0]
    stored = files().attach(passage)
    (blob,) = stored.blobs
    assert (blob.role, blob.media_type, stored.event) == ("n42", "application/xml", None)
    event = read(blob.data)
    part = passage.spectral
    assert (event.item.passage_id, event.item.lane) == (passage.passage_id, "in-1")
    assert event.instrument.class_code == "Spectroscopic Portal Monitor"
    assert (event.instrument.manufacturer, event.instrument.model) == ("not given", "not given")
    assert {(d.name, d.kind) for d in event.detectors} == {
        (f"rpm/{LEFT}", "CsI"),
        (f"rpm/{RIGHT}", "CsI"),
    }
    (analysis,) = event.analyses
    assert analysis.p == part.p
    assert analysis.statistic == lane.alarms("spectral")[-1].evidence[0].statistic
    assert [(n.name, n.category) for n in analysis.nuclides] == [("Cs-137", "industrial")]
    said = {s.name: s.value for s in analysis.settings}
    assert said["false alarms per passage"] == "0.001"
    assert said["thresholds"] == "provisional"
    assert said["calibration revision"] == "none"
    (alarm,) = analysis.alarms
    assert alarm.category == "Isotope"
    assert set(alarm.detectors) == {f"rpm/{LEFT}", f"rpm/{RIGHT}"}
    assert alarm.at_us == lane.alarms("spectral", "raised")[0].stamp.utc_us


def test_every_spectrum_of_the_vehicles_time_stands_in_the_file_as_it_came() -> None:
    lane = spectral_lane()
    passage = lane.passages()[0]
    event = read(files().attach(passage).blobs[0].data)
    background, *slices = event.measurements
    assert background.kind == "Background"
    for spectrum in background.spectra:
        rate_cps = sum(spectrum.counts) / spectrum.live_time_s
        # Nothing of the simulated response below the grid's first edge is counted.
        assert rate_cps == pytest.approx(BACKGROUND_CPS, rel=0.1)
    assert {m.kind for m in slices} == {"Foreground"}
    came = {
        (e.stamp.utc_us - 1_000_000, e.reading.detector): e.reading.counts
        for e in lane.events
        if hasattr(e, "reading") and hasattr(e.reading, "detector")
    }
    held = {
        (m.start_us, s.detector.removeprefix("rpm/")): s.counts for m in slices for s in m.spectra
    }
    assert held.items() <= came.items()
    inside = {
        key for key in came if passage.started.utc_us <= key[0] + 500_000 <= passage.ended.utc_us
    }
    assert len(inside) == 16, "eight seconds of two crystals"
    assert inside <= held.keys()
    assert {key for key in held if key[0] < passage.started.utc_us - 2_000_000}, "its approach"
    occupied = [m for m in slices if m.occupied]
    assert sum(len(m.spectra) for m in occupied) == 16
    assert [m.start_us for m in slices] == sorted(m.start_us for m in slices)


def test_the_file_of_a_counting_portal_holds_counts_windows_neutrons_and_backgrounds() -> None:
    lane = counting_lane()
    event = read(files().attach(lane.passages()[0]).blobs[0].data)
    instrument = event.instrument
    assert instrument.class_code == "Portal Monitor"
    assert (instrument.manufacturer, instrument.model) == ("Rapiscan", "TM-850")
    assert instrument.versions == (
        ("Software", "checkpointd 0.1.0"),
        ("rpm, serial number", "4711"),
    )
    gross = [(g.detector, g.counts) for m in event.measurements for g in m.gross_counts]
    assert gross.count(("rpm gamma low", (400,))) == 20
    assert ("rpm neutron low", (3,)) in gross
    windows = [s.counts for m in event.measurements for s in m.spectra]
    assert windows == [(5, 6, 7, 8)] * 20
    assert {m.speed_m_per_s for m in event.measurements if m.occupied} == {2.5}
    (analysis,) = event.analyses
    said = {s.name: s.value for s in analysis.settings}
    assert said["background rpm gamma high"] == "400.0"
    assert said["background rpm neutron"] == "2.5"
    assert said["rpm n_sigma threshold"] == "5.0"
    gamma = next(a for a in analysis.alarms if a.category == "Gamma")
    assert "rpm gamma low" in gamma.detectors
    assert "n_sigma" in gamma.description
    assert analysis.p is None


def test_what_a_device_named_by_itself_stands_apart_from_what_we_found() -> None:
    lane = Bench()
    lane.background(0)
    for i in range(20):
        lane.gamma(20 + 0.2 * i, LOUD, alarm=i >= 4)
    lane.read(23.9, DeviceNuclides(nuclides=(NuclideFound(name="Tc-99m", confidence=0.8),)))
    lane.leave(24)
    lane.tick(400)
    event = read(files().attach(lane.passages()[0]).blobs[0].data)
    own, devices = event.analyses
    assert own.nuclides == ()
    assert [n.name for n in devices.nuclides] == ["Tc-99m"]
    assert devices.algorithm.startswith("rpm")


@pytest.mark.shared_data
@pytest.mark.skipif(not SCHEMA.exists(), reason="the N42 schema is not beside the checkout")
@pytest.mark.parametrize("lane", [spectral_lane, counting_lane], ids=["spectra", "counts"])
def test_the_file_is_valid_against_the_schema(lane) -> None:
    etree = pytest.importorskip("lxml.etree")
    judge = etree.XMLSchema(etree.parse(SCHEMA))
    blob = files().attach(lane().passages()[0]).blobs[0]
    assert judge.validate(etree.fromstring(blob.data)), judge.error_log


@given(st.permutations(range(6)), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_an_event_of_which_little_is_known_is_written_all_the_same(order, kept) -> None:
    full = counting_lane_source()
    empty: list[dict[str, Any]] = [
        {"readings": ()},
        {"panels": ()},
        {"backgrounds": ()},
        {"speed_m_per_s": None},
        {"alarms": full.alarms[:1], "raised": full.raised[:1]},
        {"readings": full.readings[:1]},
    ]
    for index in order[:kept]:
        full = replace(full, **empty[index])
    event = event_of(full, name="a/b/c", creator="checkpointd 0.1.0")
    assert event.detectors
    assert event.measurements or full.readings == ()


def counting_lane_source() -> EventSource:
    source = counting_lane().passages()[0].event
    assert source is not None
    return source


# ------------------------------------------------------------------ stored with its records


def test_the_recorder_stores_the_file_once_and_keeps_the_order_of_records(
    tmp_path, monkeypatch
) -> None:
    lane = spectral_lane()
    records = lane.records
    after = Audit(stamp=stamp(500), kind="clock", lane="in-1", data={})

    write = FileAsked.answer

    def slow(asked: FileAsked) -> Blob:
        time.sleep(0.05)  # in a thread; whoever does not wait overtakes it
        return write(asked)

    monkeypatch.setattr(FileAsked, "answer", slow)

    async def scenario() -> tuple[list[Any], N42Event]:
        order = []
        journal = Journal(
            JournalOptions(path=str(tmp_path / "journal.db"), reserve_bytes=0),
            Clock(),
            ENCODER,
            group_s=0.01,
        )
        await journal.open()
        append = journal.append

        async def noted(record: Record) -> Any:
            order.append(record)
            return await append(record)

        journal.append = noted
        recorder = recorders.Recorder(journal, Clock(), files())
        for record in (*records, after):
            recorder.put(record)
        await recorder.drain(20.0)
        stored = await journal.unsent("alarm", 0, 100)
        told = [json.loads(each.payload)["data"].get("blobs") for each in stored]
        passages = await journal.unsent("pass", 0, 100)
        told += [json.loads(each.payload)["data"].get("blobs") for each in passages]
        named = [blobs[0] for blobs in told if blobs]
        assert len(named) == 2, "the alarm's last phase and the passage"
        assert named[0] == named[1]
        sha256, chunks = named[0]["sha256"], named[0]["chunks"]
        parts = [await journal.blob_chunk(sha256, number) for number in range(chunks)]
        await journal.close()
        return order, read(b"".join(parts))

    order, event = asyncio.run(scenario())
    assert [
        replace(r, blobs=(), event=None) if event_records([r]) or getattr(r, "blobs", ()) else r
        for r in order
    ] == [replace(r, event=None) if event_records([r]) else r for r in (*records, after)]
    (analysis,) = event.analyses
    part = lane.passages()[0].spectral
    assert [n.name for n in analysis.nuclides] == ["Cs-137"]
    assert analysis.p == part.p
    assert len([m for m in event.measurements if m.kind == "Foreground"]) >= part.slices


def test_a_file_that_cannot_be_written_costs_the_file_and_not_the_record(
    caplog, monkeypatch
) -> None:
    kept = []

    def broken(_: FileAsked) -> Blob:
        raise ValueError("a bug")

    monkeypatch.setattr(FileAsked, "answer", broken)

    class Disk:
        async def append(self, record: Record) -> Any:
            kept.append(record)
            raise WireError("not stored here")

    async def scenario() -> None:
        recorder = recorders.Recorder(Disk(), Clock(), files())
        for record in event_records(counting_lane().records):
            recorder.put(record)
        await recorder.drain(5.0)

    asyncio.run(scenario())
    assert [type(r) for r in kept] == [Alarm, Passage]
    assert "event_file" in caplog.text


def test_the_same_event_gives_the_same_bytes() -> None:
    blobs = [files().attach(counting_lane().passages()[0]).blobs for _ in range(2)]
    assert blobs[0] == blobs[1]
