"""A recording is decided again: the same code, the same records, the same bytes."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path

import pytest
from agent_process import (
    LANE,
    full_lane,
    newest_passages,
    rpm_lane,
    running_agent,
    until,
    write_config,
)
from delivery_bench import check_message
from mosquitto import running_mosquitto

import agent.daemon.supervisor
from agent import config as configuration
from agent.cli import main
from agent.clock import Clock
from agent.daemon.link import make_link
from agent.tools.capture import capture, format_line
from simulators.centre import Centre
from simulators.lane import LaneSimulator
from simulators.scene import Scene

LOGS = Path(__file__).resolve().parents[2] / "shared" / "data" / "lane-logs"
# A gamma line's four counts at 400 counts/s; five of LOUD are a z of 5.0 to the printed background,
# which the portal rounds down.
CLEAN, LOUD, HOT = 80, 90, 200


@pytest.fixture
def lane_file(tmp_path):
    path = tmp_path / f"{LANE}.toml"
    path.write_text(rpm_lane("tcp://127.0.0.1:1600"))
    return path


def four(tag: str, count: int) -> str:
    return ",".join([tag, *[f"{count:06d}"] * 4])


class Tape:
    """Makes a daily file: wire lines with the recorder's time as the last column."""

    def __init__(self, begin_s: float) -> None:
        self.at_s = begin_s
        self.lines: list[tuple[float, str]] = []

    def say(self, line: str, after_s: float = 0.0) -> None:
        self.at_s += after_s
        self.lines.append((self.at_s, line))

    def background(self, times: int = 1) -> None:
        for _ in range(times):
            self.say("NB,000002,000000,000000,000000", 4.92)
            self.say(four("GB", 400), 0.08)

    def vehicle(self, *counts: tuple[str, int], number: int = 1) -> None:
        self.say("NS,000002,000000,000000,000000", 0.1)
        for _ in range(5):
            self.say(four("GS", CLEAN))
        for tag, count in counts:
            self.say(four(tag, count), 0.2)
        self.say(f"GX,{number:06d},002566,000000,000000", 0.03)

    def daily(self, path: Path, *, day: str | None = None) -> Path:
        """Write it with the time of day only, or with a full date."""
        with path.open("w", newline="") as file:
            for at_s, line in self.lines:
                ms = round(at_s * 1000) % 86_400_000
                h, m, s, ms = ms // 3_600_000, ms // 60_000 % 60, ms // 1000 % 60, ms % 1000
                if day is None:
                    file.write(f"{line},{h:02}-{m:02}-{s:02}.{ms:03}\r\n")
                else:
                    file.write(f"{line},{day} {h:02}:{m:02}:{s:02}.{ms:03} +00\r\n")
        return path

    def capture(self, path: Path, midnight_s: int) -> Path:
        """Write it as our own capture."""
        with path.open("w") as file:
            for at_s, line in self.lines:
                ms = midnight_s * 1000 + round(at_s * 1000)
                wire = f"{line}\r\n".encode().hex()
                file.write(
                    f'{{"t": {ms // 1000}.{ms % 1000:03}000, "dev": "rpm", "hex": "{wire}"}}\n'
                )
        return path


def replayed(capsys, recording: Path, lane_file: Path, *options: str) -> tuple[list[dict], dict]:
    """Return the records and the summary of a replay that succeeds."""
    code = main(["replay", str(recording), "--lane", str(lane_file), "--json", *options])
    out = capsys.readouterr()
    assert (code, out.err) == (0, "")
    *records, summary = [json.loads(line) for line in out.out.splitlines()]
    assert summary.pop("type") == "summary"
    return records, summary


def data_of(records: list[dict], stream: str) -> list[dict]:
    return [r["data"] for r in records if r["stream"] == stream]


# ---------------------------------------------------------------- recordings of real portals


def log(name: str) -> Path:
    path = LOGS / name
    if not path.exists():
        pytest.skip(f"no recording {name} beside the project")
    return path


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("name", "nsigma", "passages", "intervals"),
    [
        ("S2-C0-NONE.csv", 5.0, 25, 1410),
        # Its settings are not in the recording; its GS reach a z of 3.96, its GA begin at 4.03.
        ("S2-C3-NORM2-first13.csv", 4.0, 13, 727),
    ],
)
def test_every_decision_of_a_recorded_portal_is_recomputed(
    capsys, lane_file, name, nsigma, passages, intervals
):
    setting = f"devices.rpm.nsigma={nsigma}"
    records, summary = replayed(capsys, log(name), lane_file, "--set", setting)
    assert summary["passages"] == passages
    assert summary["refused"] == {}
    assert summary["device_agreement"] == {
        "intervals": intervals,
        "agree": intervals,
        "rounding": 0,
    }
    # What the recorder's file says itself, counted without our code.
    lines = log(name).read_bytes().splitlines()
    tags = Counter(line.split(b",")[0].decode() for line in lines)
    alarming = name != "S2-C0-NONE.csv"
    assert (tags["GA"] > 0) == alarming
    said = [p for p in data_of(records, "pass") if p["rev"] == 1]
    assert [p["rpm"]["device_gamma_alarm"] for p in said] == [alarming] * passages
    assert summary["alarms"].get("gamma", 0) == (passages if alarming else 0)
    assert summary["alarms"].get("neutron", 0) == 0
    assert summary["lines"] == len([line for line in lines if line])
    assert tags["GX"] == sum(len(p["rpm"]["occupancy_numbers"]) for p in said)


@pytest.mark.shared_data
def test_tags_without_a_published_meaning_are_kept_as_they_came(capsys, lane_file):
    path = log("S2-C0-NONE.csv")
    records, _ = replayed(capsys, path, lane_file)
    kept = [p["rpm"]["undocumented"] or {} for p in data_of(records, "pass")]
    wire = {line.rpartition(b",")[0].decode() for line in path.read_bytes().splitlines()}
    seen = [f"{tag},{text}" for each in kept for tag, text in each.items()]
    assert len(seen) > 25
    assert set(seen) <= wire


@pytest.mark.shared_data
def test_two_runs_give_the_same_bytes(capsys, lane_file):
    path = log("S2-C3-NORM2-first13.csv")
    out = []
    for _ in range(2):
        assert main(["replay", str(path), "--lane", str(lane_file), "--json"]) == 0
        out.append(capsys.readouterr().out)
    assert out[0] == out[1]
    for line in out[0].splitlines()[:-1]:
        record = json.loads(line)
        kind = record["data"]["kind"] if record["stream"] != "pass" else "passage"
        middle = "" if record["stream"] == "audit" else f"lane/{record['subject']}/"
        topic = f"{record['source']}/ev/{record['stream']}/{middle}{kind}"
        check_message(topic, line.encode())


# ---------------------------------------------------------------- made-up daily files


@pytest.fixture
def tape():
    """Background, then a vehicle with a z of 4.75 that the portal (NSIGMA 5.0) lets pass."""
    made = Tape(begin_s=9 * 3600)
    made.say("SG1,002000,000068,05,10,05.0,P")
    made.background(3)
    made.vehicle(*[("GS", 89)] * 4, ("GS", 91), *[("GS", CLEAN)] * 8)
    made.background(3)
    return made


def test_two_replays_of_an_alarm_name_the_same_event_file(capsys, tmp_path, lane_file):
    made = Tape(begin_s=9 * 3600)
    made.background(3)
    made.vehicle(*[("GA", 400)] * 8)
    made.background(3)
    made.vehicle(*[("GS", CLEAN)] * 8)
    path = made.daily(tmp_path / "day.csv")
    named = []
    for _ in range(2):
        records, _ = replayed(capsys, path, lane_file, "--date", "2026-11-27")
        (cleared,) = [a for a in data_of(records, "alarm") if a["phase"] == "cleared"]
        loud, quiet = data_of(records, "pass")
        assert "blobs" not in quiet
        assert cleared["blobs"] == loud["blobs"]
        assert loud["blobs"][0]["role"] == "n42"
        named += loud["blobs"]
    assert named[0] == named[1]


def test_what_is_set_on_the_command_line_outranks_file_and_recording(
    capsys, tmp_path, lane_file, tape
):
    # Five intervals sum to 4 x 447: z = (1788 - 1600) / 40 = 4.7.
    path = tape.daily(tmp_path / "day.csv", day="2026-03-01")
    lane_file.write_text(rpm_lane("tcp://127.0.0.1:1600", rpm="nsigma = 4.5"))
    # Without it the recording's own 5.0 outranks the file's 4.5, which is said to be wrong.
    _, plain = replayed(capsys, path, lane_file)
    assert plain["device_agreement"]["agree"] == plain["device_agreement"]["intervals"] > 5
    records, what_if = replayed(capsys, path, lane_file, "--set", "devices.rpm.nsigma=4.5")
    agreement = what_if["device_agreement"]
    assert agreement["intervals"] - agreement["agree"] == 1
    (passage,) = [p for p in data_of(records, "pass") if p["rev"] == 1]
    assert passage["rpm"]["gamma_max_sigma"] == pytest.approx(4.7)
    # Nothing was re-decided: only the device raises an alarm by its rule.
    assert what_if["alarms"].keys() | plain["alarms"].keys() == {"fault"}


def test_a_disagreement_of_the_printed_backgrounds_rounding_is_counted_as_such(
    capsys, tmp_path, lane_file
):
    tape = Tape(begin_s=0.0)
    tape.background(2)
    # z = (1800 - 1600) / 40 = 5.0 with the printed 400, 4.9 with a true 401: rounding explains it.
    tape.vehicle(*[("GS", LOUD)] * 5, *[("GS", CLEAN)] * 6)
    tape.background(3)
    # z = 75: no background that prints as 400 gives a portal silence here.
    tape.vehicle(("GS", HOT * 4), *[("GS", CLEAN)] * 9, number=2)
    tape.background(3)
    path = tape.daily(tmp_path / "day.csv", day="2026-03-01")
    _, summary = replayed(capsys, path, lane_file)
    agreement = summary["device_agreement"]
    assert agreement["rounding"] == 1
    assert agreement["intervals"] - agreement["agree"] == 1 + 5
    assert main(["replay", str(path), "--lane", str(lane_file)]) == 0
    assert "(1 of 6 disagreements explained by the rounding" in capsys.readouterr().out


def test_a_time_of_day_needs_its_day_and_rolls_over_at_midnight(capsys, tmp_path, lane_file):
    tape = Tape(begin_s=86_400 - 21.0)
    tape.background(4)
    tape.vehicle(*[("GA", HOT)] * 10)
    tape.background(2)
    path = tape.daily(tmp_path / "day.csv")
    assert main(["replay", str(path), "--lane", str(lane_file)]) == 2
    assert "--date" in capsys.readouterr().err
    records, summary = replayed(capsys, path, lane_file, "--date", "2026-02-28", "--tz", "-07:00")
    assert summary["seconds"] == pytest.approx(tape.at_s - tape.lines[0][0], abs=0.001)
    (passage,) = [p for p in data_of(records, "pass") if p["rev"] == 1]
    assert passage["started"].startswith("2026-03-01T06:59:5")
    assert passage["ended"].startswith("2026-03-01T07:00:0")
    times = [r["time"] for r in records]
    assert times == sorted(times)
    assert summary["alarms"] == {"gamma": 1}


def test_a_capture_of_the_same_lines_gives_the_same_bytes(capsys, tmp_path, lane_file, tape):
    daily = tape.daily(tmp_path / "day.csv", day="2026-03-01")
    captured = tape.capture(tmp_path / "day.jsonl", midnight_s=1_772_323_200)
    for options in ((), ("--set", "devices.rpm.nsigma=4.5")):
        by_day = replayed(capsys, daily, lane_file, *options)
        assert by_day == replayed(capsys, captured, lane_file, *options)
        assert by_day[1]["passages"] == 1


def test_lines_that_are_none_are_counted_and_stop_nothing(capsys, tmp_path, lane_file, tape):
    tape.lines[3:3] = [(tape.lines[3][0], "GB,00040,000400,000400,000400")]
    path = tape.daily(tmp_path / "day.csv", day="2026-03-01")
    text = path.read_bytes().splitlines(keepends=True)
    text.insert(5, b"GB,000400,000400,000400,000400,no time at all\r\n")
    path.write_bytes(b"".join(text))
    _, summary = replayed(capsys, path, lane_file)
    assert summary["refused"] == {"no_time": 1, "syntax": 1}
    assert summary["passages"] == 1


# ---------------------------------------------------------------- a live lane decided again

SCALE = 10.0
LIVE = """
title = "two vehicles through every instrument"
seed = 77
duration_s = 46.0

[[vehicle]]
id = "hot-metal"
at_s = 8.0
length_m = 8.0
mass_kg = 44_000
gamma = { peak_cps = 2500.0, offset_m = 4.0 }
person = { walks_at_s = 1.0, metal = true }

[[vehicle]]
id = "clean"
at_s = 24.0
length_m = 8.0
mass_kg = 9_400
person.walks_at_s = 1.0
"""


@pytest.mark.broker
def test_a_capture_of_a_whole_lane_replays_to_what_the_live_agent_said(
    capsys, tmp_path, monkeypatch
):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        asyncio.run(_live(tmp_path, broker, centre, monkeypatch))
        live = newest_passages(centre)
    assert "rpm up" in capsys.readouterr().err, "a capture tells how it goes"
    lane_file = tmp_path / "etc" / "lanes" / f"{LANE}.toml"
    # What the agent itself heard: the same passages to the last figure, names and all.
    records, summary = replayed(capsys, tmp_path / "heard.jsonl", lane_file)
    run = live[0]["passage_id"].split("-")[2]
    again = json.loads(json.dumps(newest(records)).replace("-replay-", f"-{run}-"))
    assert len(live) == len(again) == 2
    for said, replayed_so in zip(live, again, strict=True):
        assert_same(said, replayed_so)
    assert summary["alarms"] == {"gamma": 1, "metal": 1, "weight": 1}
    # A second set of the same instruments, written down by `capture`: the same vehicles.
    records, _ = replayed(capsys, tmp_path / "capture.jsonl", lane_file)
    for said, captured in zip(live, newest(records), strict=True):
        assert abs(captured["scale"]["mass_kg"] - said["scale"]["mass_kg"]) <= 20
        assert captured["metal"]["result"] == said["metal"]["result"]
        assert captured["reasons"] == said["reasons"]
        for name in ("device_gamma_alarm", "device_neutron_alarm", "occupancy_numbers"):
            assert captured["rpm"][name] == said["rpm"][name]


async def _live(tmp_path, broker, centre, monkeypatch):
    scene = Scene.from_text(LIVE)
    first, second = (LaneSimulator(scene, time_scale=SCALE) for _ in range(2))
    ports, others = await first.start(), await second.start()
    text = full_lane(ports.portal, ports.scale, ports.metal)
    directory = write_config(tmp_path, broker.port, {LANE: text})
    other = tmp_path / "other.toml"
    other.write_text(full_lane(others.portal, others.scale, others.metal))
    with (tmp_path / "heard.jsonl").open("w") as heard:

        def tapped(device, **given):
            relayed = given.pop("tap")

            def tap(stamp, captured):
                heard.write(format_line(stamp, device.name, captured) + "\n")
                relayed(stamp, captured)

            return make_link(device, tap=tap, **given)

        monkeypatch.setattr(agent.daemon.supervisor, "make_link", tapped)
        devices = configuration.load_lane(other, []).devices
        try:
            work = capture(
                devices, tmp_path / "capture.jsonl", Clock(time_scale=SCALE), scene.duration_s
            )
            writing = asyncio.create_task(work)
            async with running_agent(directory, Clock(time_scale=SCALE)):
                await writing
                await until(lambda: len(newest_passages(centre)) == 2)
        finally:
            await first.close()
            await second.close()


def newest(records: list[dict]) -> list[dict]:
    found: dict[str, dict] = {}
    for data in data_of(records, "pass"):
        found[data["passage_id"]] = data
    return list(found.values())


def assert_same(live, again, path="") -> None:
    """Compare but for the clock and software of the run; a microsecond may be rounded away.

    Of an event's file too: it names the run's passage and the gateway's site, so its digest is
    another one.
    """
    if isinstance(live, dict):
        assert live.keys() == again.keys(), path
        others = {"sha256", "size"} if path.startswith(".blobs") else {"clock", "software"}
        for name in live.keys() - others:
            assert_same(live[name], again[name], f"{path}.{name}")
    elif isinstance(live, list):
        assert len(live) == len(again), path
        for number, (one, other) in enumerate(zip(live, again, strict=True)):
            assert_same(one, other, f"{path}[{number}]")
    elif isinstance(live, float):
        assert live == pytest.approx(again, abs=1e-4), path
    elif path in (".started", ".ended"):
        assert live[:22] == again[:22], path
    else:
        assert live == again, path
