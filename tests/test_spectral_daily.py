"""Daily files of spectroscopic portals: told from counting ones, and read with their times."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta, timezone

import pytest
from agent_process import LANE, rpm_lane
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli import main
from agent.tools.replay.recording import RecordingError
from agent.tools.replay.spectral_daily import is_spectral_daily, read_spectral_daily
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceNuclides,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    OccupancyEnd,
    Reading,
    Reason,
    Undocumented,
    VehiclePresence,
)

CHANNELS = 512
S1 = f"S1,NaI,SPM,{CHANNELS},1.0.2,BackgroundTime,300"
HEAD = [S1, "S2,Aa1,0,0,60,1.5", "S2,Aa2,0,0"]


def spectrum(fill, peak=0):
    counts = [fill] * CHANNELS
    counts[100] += peak
    return ",".join(map(str, counts))


def passing():
    """One occupancy of three seconds before two detectors, a nuclide, and its background."""
    lines = [
        f"GB,Aa1,{spectrum(90)}",
        "NB,120,300,240",
        "BX,2026-03-02T10:00:00.000",
    ]
    for chunk in (1, 2, 3):
        lines += [f"GS,{name},{chunk},{spectrum(1, 10 * chunk)}" for name in ("Aa1", "Aa2")]
        lines.append(f"NS,010,{chunk},{chunk},0")
    return [
        *lines,
        "ID,Cs-137,Aa1 Aa2,2 3",
        f"AB,Gamma,300.0,{spectrum(250)}",
        "AB,Neutron,300,780,600",
        "GX,Red,000017,2026-03-02T10:00:04.500,lane1_17.n42,5.1,5.3",
    ]


def written(tmp_path, lines):
    path = tmp_path / "20260302_SPM-T.csv"
    path.write_bytes(b"".join(line.encode() + b"\r\n" for line in lines))
    return path


def read(tmp_path, lines, *, day=None, zone=UTC):
    return list(read_spectral_daily(written(tmp_path, lines), "rpm", day=day, zone=zone))


def second(line):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=line.utc_us)
    return (moment - datetime(2026, 3, 2, 10, tzinfo=UTC)).total_seconds()


def readings_of(kind, lines):
    return [r for line in lines if line is not None for r in line.readings if isinstance(r, kind)]


# --- the dialect ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "is_ours"),
    [
        ([*HEAD, "NB,120,3,4"], True),
        (["BX,2026-03-02T10:00:00"], True),
        (["ID,NONE,,"], True),
        (["NB,120,3,4", f"GB,Aa1,{spectrum(1)}"], True),
        (["GB,000387,000383,000414,000361,09-30-00.918"], False),
        (["GS,000387,000383,000414,000361,2016-05-31 09:30:00.918 -07"], False),
        (["SG1,002000,000068,05,10,05.0,P,09-30-00.918"], False),
        (["S1,PVT,SPM,512"], False),
        (['{"t": 1.0, "dev": "rpm", "hex": "00"}'], False),
        ([""], False),
    ],
)
def test_the_dialect_is_told_by_its_own_tags_or_by_hundreds_of_fields(lines, is_ours):
    assert is_spectral_daily("\r\n".join(lines).encode()[:4096]) is is_ours


def test_an_occupancy_gives_its_readings_with_their_times(tmp_path):
    lines = read(tmp_path, [*HEAD, *passing()])
    spectra = [
        (second(line), r.detector, sum(r.counts), r.occupied)
        for line in lines
        for r in line.readings
        if isinstance(r, GammaSpectrum) and r.real_time_s == 1.0
    ]
    assert spectra == [
        (float(chunk), name, CHANNELS + 10 * chunk, True)
        for chunk in (1, 2, 3)
        for name in ("Aa1", "Aa2")
    ]
    neutrons = readings_of(NeutronCounts, lines)
    assert [(r.counts, r.real_time_s) for r in neutrons] == [((c, 0), 1.0) for c in (1, 2, 3)]
    presence = [
        (second(line), r.occupied)
        for line in lines
        for r in line.readings
        if isinstance(r, VehiclePresence)
    ]
    assert presence == [(0.0, True), (4.5, False)]
    assert readings_of(OccupancyEnd, lines) == [
        OccupancyEnd(number=17, neutron_background_cps=None)
    ]
    assert readings_of(DeviceNuclides, lines) == [
        DeviceNuclides(nuclides=(NuclideFound(name="Cs-137"),))
    ]
    assert [(r.kind, r.code) for r in readings_of(DeviceAlarm, lines)] == [("spectral", "red")]
    assert readings_of(BadFrame, lines) == []


def test_backgrounds_are_given_where_it_is_said_how_long_they_counted(tmp_path):
    lines = read(tmp_path, [*HEAD, *passing()])
    (background,) = [r for r in readings_of(GammaSpectrum, lines) if r.real_time_s == 300.0]
    assert (background.occupied, sum(background.counts)) == (False, 250 * CHANNELS)
    neutron = readings_of(NeutronBackground, lines)
    assert [r.per_detector_cps for r in neutron] == [(2.5, 2.0), (2.6, 2.0)]
    assert [r.tag for r in readings_of(Undocumented, lines)] == ["GB"]


def test_what_comes_before_the_first_time_gets_that_time_and_is_not_lost(tmp_path):
    lines = read(tmp_path, [*HEAD, *passing()])
    assert [second(line) for line in lines[:6]] == [0.0] * 6
    assert read(tmp_path, [*HEAD, "NB,120,3,4"]) == [None] * 4  # no time in the whole file


def test_a_portal_that_found_nothing_says_so(tmp_path):
    lines = read(
        tmp_path,
        [*HEAD, "BX,2026-03-02T10:00:00", "ID,NONE,,", "GX,Green,18,2026-03-02T10:00:03,f,4"],
    )
    assert readings_of(DeviceNuclides, lines) == [DeviceNuclides(nuclides=())]
    assert readings_of(DeviceAlarm, lines) == []


def test_times_without_a_zone_take_the_one_given(tmp_path):
    zone = timezone(timedelta(hours=2))
    (line,) = read(tmp_path, ["BX,2026-03-02T12:00:00"], zone=zone)
    assert second(line) == 0.0
    (line,) = read(tmp_path, ["BX,2026-03-02T10:00:00Z"], zone=zone)
    assert second(line) == 0.0


def test_times_of_day_need_the_day_and_roll_over_at_midnight(tmp_path):
    lines = ["BX,23-59-59.500", "GX,Green,1,00-00-02.000,f,4", "BX,00-01-00.000"]
    found = read(tmp_path, lines, day=date(2026, 3, 1))
    ten = 10 * 3600
    assert [second(line) + ten for line in found] == [-0.5, 2.0, 60.0]
    with pytest.raises(RecordingError, match="say it with --date"):
        read(tmp_path, lines)


def test_a_time_that_cannot_be_read_names_the_line(tmp_path):
    with pytest.raises(RecordingError, match=r":4: 'soon' is no time"):
        read(tmp_path, [*HEAD, "BX,soon"])


@pytest.mark.parametrize(
    "line",
    [
        "GS,Aa1,4,1,2,3",
        f"GS,Aa1,x,{spectrum(1)}",
        f"GS,Aa1,1,-{spectrum(1)}",
        "NS,000,1,2,3",
        "NS,010",
        "NB,000,3",
        "NB,120",
        f"AB,Gamma,0,{spectrum(1)}",
        "AB,Alpha,300,1,2",
        "ID,",
        "GX,Red,x,2026-03-02T10:00:00",
        "GX,Red",
        "QQ,1,2",
        "S1,NaI,SPM,many",
    ],
)
def test_a_line_with_wrong_fields_is_refused_and_the_rest_read(tmp_path, line):
    found = read(tmp_path, [*HEAD, "BX,2026-03-02T10:00:00", line, f"GS,Aa1,1,{spectrum(1)}"])
    (refused,) = readings_of(BadFrame, found)
    assert refused.reason in (Reason.SYNTAX, Reason.UNKNOWN)
    assert len(readings_of(GammaSpectrum, found)) == 1


def test_a_second_outside_an_occupancy_is_refused(tmp_path):
    found = read(tmp_path, [*HEAD, *passing(), f"GS,Aa1,9,{spectrum(1)}"])
    assert len(readings_of(BadFrame, found)) == 1


@given(st.lists(st.text(alphabet="GSNBXIDA12,.-T:0ed \x00é", max_size=40), max_size=8))
@settings(max_examples=150, deadline=None)
def test_any_lines_are_read_or_refused_and_time_never_runs_back(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("any") / "day.csv"
    path.write_bytes("\n".join(["BX,2026-03-02T10:00:00", *lines]).encode("utf-8"))
    try:
        found = list(read_spectral_daily(path, "rpm", day=date(2026, 3, 2), zone=UTC))
    except RecordingError:
        return
    assert all(isinstance(r, Reading) for line in found if line for r in line.readings)


# --- replay ---------------------------------------------------------------------------------


def test_replay_reads_the_dialect_by_itself_and_gives_the_same_twice(tmp_path, capsys):
    lane = tmp_path / f"{LANE}.toml"
    lane.write_text(rpm_lane("tcp://127.0.0.1:1600"))
    path = written(tmp_path, [*HEAD, *passing(), "GS,Aa1,9,1,2"])
    outputs = []
    for _ in range(2):
        assert main(["replay", str(path), "--lane", str(lane), "--json"]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    records = [json.loads(line) for line in outputs[0].splitlines()]
    summary = records[-1]
    assert summary["type"] == "summary"
    assert summary["lines"] == len(HEAD) + len(passing()) + 1
    assert summary["refused"] == {"syntax": 1}
    assert summary["seconds"] == 4.5
    assert summary["alarms"] == {"spectral": 1}
