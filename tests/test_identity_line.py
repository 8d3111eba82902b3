"""Plates, tags, codes and travel documents: the driver, the check digits, the lane, privacy."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import hmac
import json
import random

import pytest
from agent_process import (
    LinePortal,
    alarms,
    newest_passages,
    rpm_lane,
    running_agent,
    store_of,
    stored_records,
    until,
    write_config,
)
from delivery_bench import check_message
from hypothesis import given, settings
from hypothesis import strategies as st
from lane_bench import Bench
from mosquitto import running_mosquitto

from agent.clock import Clock
from agent.config import examine, load, load_lane
from agent.config.identity_key import read_key
from agent.config.problems import ConfigError
from agent.delivery.wire import Encoder
from agent.delivery.wire import Identity as Speaker
from agent.lane.instruments.identities import Readers, token
from agent.lane.options.instruments import IdentityOptions
from agent.lane.vehicles import Vehicles
from drivers import mrz
from drivers.lane.identity_line import Driver, Options
from drivers.readings import BadFrame, Identity, Reason
from simulators import readers
from simulators.centre import Centre

TENTHS = st.integers(0, 600).map(lambda n: n / 10)
KEY = b"0123456789abcdef0123456789abcdef"
PLATE = {
    "reads": "plate",
    "separator": ";",
    "fields": ("value", "confidence"),
    "samples": ({"frame": "AB 12;50<CR><LF>", "value": "AB 12", "confidence": 0.5},),
}


def driver(**options):
    return Driver(Options(**{**PLATE, **options}))


# ---------------------------------------------------------------- check digits


@pytest.mark.parametrize(
    ("text", "digit"),
    [("D23145890", "7"), ("740812", "2"), ("120415", "9"), ("ZE184226B<<<<<", "1"), ("<<<", "0")],
)
def test_a_check_digit_is_the_one_of_the_published_specimens(text, digit):
    assert mrz.check_digit(text) == digit


LONG_TD1 = ("I<UTOD23145890<7349<<<<<<<<<<<", "3407127M9507122UTO<<<<<<<<<<<2", "X" + "<" * 29)


def test_a_long_number_goes_on_in_the_optional_data():
    """Specimen of ICAO Doc 9303-5, 4.2.4: D23145890734, check digit 9."""
    zone = mrz.read(LONG_TD1)
    assert (zone.issuer, zone.number) == ("UTO", "D23145890734")
    assert mrz.check_digit("D23145890734") == "9"
    assert zone.is_right


@settings(max_examples=60, deadline=None)
@given(data=st.data(), form=st.sampled_from(["TD1", "TD2", "TD3", "MRVA", "MRVB"]))
def test_any_one_wrong_digit_under_a_check_digit_is_seen(data, form):
    lines = readers.zone(random.Random(data.draw(st.integers(0, 10_000))), form)
    assert mrz.read(lines).is_right
    spots = [
        (n, at)
        for n, line in enumerate(lines)
        for at, c in enumerate(line)
        if c.isdigit() and readers.is_checked(form, n, at)
    ]
    n, at = data.draw(st.sampled_from(spots))
    other = data.draw(st.sampled_from([d for d in "0123456789" if d != lines[n][at]]))
    damaged = (*lines[:n], lines[n][:at] + other + lines[n][at + 1 :], *lines[n + 1 :])
    assert not mrz.read(damaged).is_right


# ---------------------------------------------------------------- the driver


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("form", ["TD1", "TD2", "TD3", "MRVA", "MRVB"])
def test_the_driver_reads_the_document_that_the_simulated_reader_sends(seed, form):
    rng = random.Random(seed)
    lines = readers.zone(rng, form)
    sample = {"frame": "hello<CR>", "refused": "syntax"}
    reader = Driver(Options(reads="mrz", end="<CR>", samples=(sample,)))
    (identity,) = reader.feed("".join(f"{line}\r" for line in lines).encode())
    assert identity.kind == "document"
    assert identity.value == f"UTO-{readers.number_of(lines, form)}"
    assert identity.checked is True
    assert identity.confidence is None


def test_names_and_dates_never_leave_the_driver():
    lines = readers.zone(random.Random(1), "TD3")
    sample = {"frame": "hello<CR>", "refused": "syntax"}
    reader = Driver(Options(reads="mrz", end="<CR>", samples=(sample,)))
    readings = reader.feed("".join(f"{line}\r" for line in lines).encode())
    assert "ERIKSSON" not in repr(readings)
    assert lines[1][13:19] not in repr(readings)


@pytest.mark.parametrize("seed", range(5))
def test_the_driver_reads_the_tags_that_the_simulated_reader_repeats(seed):
    reader = readers.TagReader(seed=seed)
    options = {
        "reads": "tag",
        "start": "<STX>",
        "end": "<0x03>",
        "separator": "",
        "fields": (),
        "pattern": "(?P<value>[0-9A-F]{10})(?P<checksum>[0-9A-F]{2})",
        "checksum": "xor-hex",
        "samples": ({"frame": "<STX>02003B935AF0<0x03>", "value": "02003B935A", "checked": True},),
    }
    tag = driver(**options)
    sent = reader.near(seconds=1.0)
    readings = tag.feed(sent)
    assert len(readings) == 20
    assert set(readings) == {Identity(kind="tag", value=reader.tag, checked=True)}


def test_a_plate_keeps_what_was_read_and_a_confidence_from_0_to_1():
    (identity,) = driver(encoding="utf-8").feed("ab-12 Ü;73\r\n".encode())
    assert identity == Identity(kind="plate", value="ab-12 Ü", confidence=0.73)


def test_a_byte_that_is_no_character_is_refused():
    (refused,) = driver().feed(b"AB \xff;73\r\n")
    assert (type(refused), refused.reason) == (BadFrame, Reason.SYNTAX)


def test_the_first_frame_after_opening_is_dropped_where_it_may_be_half_of_one():
    reader = driver(skips_first=True)
    assert reader.feed(b"B 12;50\r\n") == []
    assert [r.value for r in reader.feed(b"AB 12;50\r\n")] == ["AB 12"]
    reader.silence()
    assert reader.feed(b"AB 12;50\r\n") == []


def test_a_declared_mass_is_exact_in_kilograms():
    reader = driver(
        reads="code",
        fields=("value", "declared"),
        declared_unit="t",
        samples=({"frame": "77;17.46<CR><LF>", "declared_kg": 17460.0},),
    )
    (identity,) = reader.feed(b"77;\r\n")
    assert identity.declared_kg is None


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"pattern": "(?P<value>.{1,9})"}, "describe the line by one of them"),
        ({"separator": "", "fields": (), "pattern": "(.*)*x"}, "ways"),
        ({"fields": ("plate", "confidence")}, 'no part "plate"'),
        ({"fields": ("-", "confidence")}, "no part is called value"),
        ({"checksum": "xor"}, "need each other"),
        ({"samples": ({"frame": "AB 12;50<CR><LF>", "value": "AB12"},)}, "not AB12"),
        ({"samples": ({"frame": "AB 12;50<CR><LF>", "wert": "AB12"},)}, "says wert"),
        ({"samples": ({"frame": "AB 12;50", "value": "AB 12"},)}, "gives 0 readings"),
        ({"samples": ({"frame": "AB 12;50<CR><LF>", "refused": "range"},)}, "is taken"),
        ({"samples": ({"frame": "AB 12;150<CR><LF>", "value": "AB 12"},)}, "is refused"),
        ({"reads": "mrz"}, "knows its parts"),
    ],
)
def test_a_wrong_description_or_sample_is_told_when_the_driver_is_made(options, text):
    with pytest.raises(ValueError, match=text):
        driver(**options)


# ---------------------------------------------------------------- the lane


def bench(key=KEY, **options):
    lane = Bench(join_gap_s=0.0)
    lane.rules = dataclasses.replace(
        lane.rules,
        scales={},
        metals={},
        readers={"anpr": IdentityOptions(**options)},
        identity_key=key,
    )
    lane.link(0, "anpr", up=True)
    return lane


def plate(lane, at_s, value="AB 123", device="anpr", **changes):
    return lane.read(at_s, Identity(kind="plate", value=value, **changes), device)


def sent(record):
    """Return the record's bytes as they would be stored and published."""
    encoder = Encoder(
        identity=Speaker(root="checkpoint", site="s", gw="g"),
        mode="test",
        configrev="0",
        software="t",
    )
    return encoder(record, "3f9c", 1, 1_000_000)[1].decode()


def test_a_token_is_the_hmac_of_rfc_2104_and_the_same_for_every_way_of_writing():
    right = hmac.new(KEY, b"plate:AB123", hashlib.sha256).hexdigest()
    assert {token(KEY, "plate", t) for t in ("AB 123", "ab-123", "AB.1 23")} == {right}
    assert token(KEY, "tag", "AB123") != right
    assert token(b"another key of 24 bytes.", "plate", "AB123") != right


def test_a_plate_read_inside_the_occupancy_joins_its_passage_as_a_token():
    lane = bench()
    lane.gamma(10)
    plate(lane, 11, confidence=0.9)
    lane.leave(14)
    lane.tick(60)
    (passage,) = lane.passages()
    (item,) = passage.identity
    assert (item.kind, item.value, item.confidence, item.device) == ("plate", None, 0.9, "anpr")
    assert item.token == token(KEY, "plate", "AB 123")
    assert "AB 123" not in sent(passage)


def test_without_a_key_neither_text_nor_token_is_written():
    lane = bench(key=None)
    lane.gamma(10)
    plate(lane, 11)
    lane.leave(14)
    lane.tick(60)
    (item,) = lane.passages()[0].identity
    assert (item.value, item.token) == (None, None)


def test_clear_text_is_written_where_the_site_says_so():
    lane = bench(identity_privacy="clear")
    lane.gamma(10)
    plate(lane, 11)
    lane.leave(14)
    lane.tick(60)
    (item,) = lane.passages()[0].identity
    assert (item.value, item.token) == ("AB 123", None)


@pytest.mark.parametrize("at_s", [8.0, 11.0, 13.0])
def test_an_alarms_record_holds_the_plate_in_clear_whenever_it_was_read(at_s):
    lane = bench(max_gap_s=10.0)
    lane.background(0)
    if at_s < 10:
        plate(lane, at_s)
    for n in range(20):
        moment = 10 + 0.2 * n
        if at_s >= 10 and moment >= at_s > moment - 0.2:
            plate(lane, at_s)
        lane.gamma(moment, (400,) * 4, alarm=n >= 6)
    lane.leave(14.5)
    lane.tick(60)
    last = lane.alarms("gamma")[-1]
    assert last.phase == "cleared"
    assert [i.value for i in last.identity] == ["AB 123"]
    (passage,) = lane.passages()
    assert passage.alarm_ids == (last.alarm_id,)
    assert "AB 123" not in sent(passage)
    assert "AB 123" in sent(last)
    revs = [a.rev for a in lane.alarms("gamma")]
    assert revs == sorted(set(revs))


def test_a_plate_that_is_read_after_the_alarm_was_cleared_is_told_in_its_last_phase():
    lane = bench(max_gap_s=10.0)
    lane.background(0)
    for n in range(20):
        lane.gamma(10 + 0.2 * n, (400,) * 4, alarm=n >= 6)
    lane.leave(14)
    lane.tick(15)
    plate(lane, 20)
    phases = [(a.phase, len(a.identity)) for a in lane.alarms("gamma")]
    assert phases[0] == ("raised", 0)
    assert phases[-2:] == [("cleared", 0), ("cleared", 1)]


def test_the_same_plate_again_is_one_reading_until_it_was_away_for_the_debounce_time():
    lane = bench(debounce_s=5.0, max_gap_s=1.0)
    for at_s in (1.0, 1.05, 4.0, 8.0):
        plate(lane, at_s)
    plate(lane, 14)
    lane.tick(60)
    assert [p.started.mono_us / 1e6 for p in lane.passages()] == [1.0, 14.0]


def test_a_repeat_that_the_reader_is_surer_of_counts():
    lane = bench()
    lane.gamma(10)
    plate(lane, 11, confidence=0.6)
    plate(lane, 11.2, confidence=0.9)
    plate(lane, 11.4, confidence=0.3)
    lane.leave(14)
    lane.tick(60)
    assert [i.confidence for i in lane.passages()[0].identity] == [0.9]


def test_two_readings_of_one_vehicle_stand_side_by_side_as_they_were_read():
    lane = bench(identity_privacy="clear")
    lane.gamma(10)
    plate(lane, 11, "AB 123")
    plate(lane, 11.5, "A8 123")
    lane.leave(14)
    lane.tick(60)
    assert [i.value for i in lane.passages()[0].identity] == ["AB 123", "A8 123"]


def test_a_plate_that_fits_two_vehicles_is_neither_ones_and_both_say_so():
    lane = bench(relation="after", max_gap_s=30.0)
    lane.vehicle(10, 2, number=1)
    lane.vehicle(20, 2, number=2)
    plate(lane, 25)
    lane.tick(120)
    first, second = lane.passages()[-2:]
    assert first.identity == second.identity == ()
    assert first.ambiguous == second.ambiguous == ("anpr",)


def test_a_plate_that_fits_no_vehicle_has_a_passage_of_its_own():
    lane = bench(max_gap_s=5.0)
    plate(lane, 10)
    lane.tick(60)
    (passage,) = lane.passages()
    assert (passage.rpm, passage.scale, len(passage.identity)) == (None, None, 1)


def test_a_wrong_check_digit_is_said_with_what_was_read():
    lane = bench(identity_privacy="clear")
    lane.gamma(10)
    lane.read(11, Identity(kind="document", value="UTO-L898902C4", checked=False), "anpr")
    lane.leave(14)
    lane.tick(60)
    (item,) = lane.passages()[0].identity
    assert (item.value, item.checked) == ("UTO-L898902C4", False)


@settings(max_examples=30, deadline=None)
@given(
    reads=st.lists(st.tuples(TENTHS, st.sampled_from(["A 1", "B 2"])), min_size=1, max_size=12),
    ticks=st.lists(TENTHS, max_size=12),
)
def test_ticks_change_no_record_of_readings(reads, ticks):
    def run(with_ticks):
        lane = bench(max_gap_s=4.0, debounce_s=3.0)
        events = [(at, ("read", value)) for at, value in reads]
        events += [(at, ("tick", "")) for at in ticks if with_ticks]
        events += [(20.0, ("in", "")), (24.0, ("out", ""))]
        for at, (what, value) in sorted(events, key=lambda e: e[0]):
            match what:
                case "read":
                    plate(lane, at, value)
                case "tick":
                    lane.tick(at)
                case "in":
                    lane.gamma(at)
                case "out":
                    lane.leave(at)
        lane.stop(200)
        return lane.records

    assert run(True) == run(False)


def test_a_reader_that_reads_without_end_is_held_to_a_bound_and_said():
    lane = bench(debounce_s=3600.0, max_gap_s=5.0)
    for n in range(300):
        plate(lane, n * 0.01, f"X {n}")
    assert len(lane.state.of(Vehicles).parts) == len(lane.state.of(Readers).last_reads) == 64
    (fault,) = [a for a in lane.alarms("fault") if a.code == "too_many_readings"]
    assert fault.phase == "raised"
    lane.tick(4000)
    assert lane.state.of(Vehicles).parts == ()
    plate(lane, 4001, "Y 1")
    assert [a.phase for a in lane.alarms("fault")] == ["raised", "cleared"]
    assert len(lane.passages()) == 64


def test_a_clear_text_plate_is_in_no_log_form_of_the_rules():
    lane = bench()
    assert KEY.decode() not in repr(lane.rules)


# ---------------------------------------------------------------- configuration

GATEWAY = """\
[gateway]
site = "north"
gw = "gw-1"
{key}
[mqtt]
host = "localhost"
tls = false
"""
LANE = """\
[lane]
[devices.anpr]
driver = "lane.identity_line"
port = "tcp://127.0.0.1:4001"
reads = "plate"
samples = [ { frame = "AB 12<CR><LF>", value = "AB 12" } ]
"""


def directory(tmp_path, *, key="", lane=LANE):
    (tmp_path / "lanes").mkdir()
    (tmp_path / "gateway.toml").write_text(GATEWAY.replace("{key}", key))
    (tmp_path / "lanes" / "one.toml").write_text(lane)
    return tmp_path


def problems(folder):
    return [str(p) for p in examine(folder).problems]


def test_tokens_without_a_key_are_refused_with_the_way_out(tmp_path):
    (problem,) = problems(directory(tmp_path))
    assert "lanes/one.toml" in problem
    assert "identity_key_file" in problem
    assert "openssl rand -hex 32" in problem


def test_clear_text_needs_no_key(tmp_path):
    lane = LANE + 'identity_privacy = "clear"\n'
    assert problems(directory(tmp_path, lane=lane)) == []


@pytest.mark.parametrize(
    ("content", "mode", "text"),
    [
        (b"0123456789abcdef", 0o644, "chmod 600"),
        (b"short", 0o600, "16 bytes or more"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_key_that_is_open_short_or_missing_is_told(tmp_path, content, mode, text):
    folder = directory(tmp_path, key='identity_key_file = "id.key"')
    if content is not None:
        (folder / "id.key").write_bytes(content)
        (folder / "id.key").chmod(mode)
    (problem,) = problems(folder)
    assert text in problem
    assert "gateway.identity_key_file" in problem


def test_the_key_is_the_files_content_without_its_line_end(tmp_path):
    folder = directory(tmp_path, key='identity_key_file = "id.key"')
    (folder / "id.key").write_bytes(KEY + b"\n")
    (folder / "id.key").chmod(0o600)
    assert read_key(load(folder).gateway) == KEY


def test_a_sample_that_does_not_fit_is_told_at_the_devices_line(tmp_path):
    path = tmp_path / "one.toml"
    path.write_text(LANE.replace('value = "AB 12"', 'value = "AB 13"'))
    with pytest.raises(ConfigError, match=r"one\.toml:2: devices\.anpr: sample 1"):
        load_lane(path)


def test_the_records_that_carry_an_identity_are_json():
    lane = bench()
    lane.gamma(10)
    plate(lane, 11)
    lane.leave(14)
    lane.stop(15)
    (passage,) = lane.passages()
    assert json.loads(sent(passage))["data"]["identity"][0]["kind"] == "plate"


# ---------------------------------------------------------------- the whole agent


@pytest.mark.broker
def test_a_plate_is_on_disk_and_on_the_wire_only_in_the_record_of_its_alarm(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        assert centre.wait_for(lambda: centre.is_connected)
        asyncio.run(_whole(tmp_path, broker.port, centre))
        for record in centre.records("alarm") + centre.records("pass"):
            check_message(record.topic, record.payload)
            is_alarm = record.topic.endswith("/gamma")
            assert b"CLEAN 1" not in record.payload
            assert (b"HOT 2" in record.payload) <= is_alarm
        assert any(b"HOT 2" in record.payload for record in centre.records("alarm"))
    stored = stored_records(store_of(tmp_path), tmp_path / "copy.db").values()
    assert not any(b"CLEAN 1" in payload for payload in stored)


async def _whole(tmp_path, broker_port, centre):
    portal, reader = LinePortal(), readers.ReaderPort()
    lane = rpm_lane(await portal.start(), lane="join_gap_s = 0.2", rpm="silence_s = 60\n")
    address = await reader.serve_tcp()
    lane += LANE.split("\n", 1)[1].replace("tcp://127.0.0.1:4001", address)
    directory = write_config(tmp_path, broker_port, {"inbound-1": lane})
    (directory / "identity.key").write_bytes(KEY)
    (directory / "identity.key").chmod(0o600)
    gateway = directory / "gateway.toml"
    text = gateway.read_text().replace(
        "[gateway]\n", '[gateway]\nidentity_key_file = "identity.key"\n'
    )
    gateway.write_text(text)
    try:
        async with running_agent(directory, Clock()):
            await until(lambda: portal.heard and reader.heard_by)
            portal.background()
            for number, plate_text in ((1, b"CLEAN 1"), (2, b"HOT 2")):
                portal.enter(alarm=number == 2, intervals=12)
                reader.say(plate_text + b"\r\n")
                await asyncio.sleep(0.1)
                portal.leave(number)
                await until(lambda n=number: len(newest_passages(centre)) == n)
            await until(lambda: alarms(centre, kind="gamma", phase="cleared"))
    finally:
        await portal.close()
        await reader.close()
    clean, hot = newest_passages(centre)
    assert [i["token"] for i in clean["identity"]] == [token(KEY, "plate", "CLEAN 1")]
    assert [i["token"] for i in hot["identity"]] == [token(KEY, "plate", "HOT 2")]
    last = alarms(centre, kind="gamma", phase="cleared")[-1]
    assert [i["value"] for i in last["identity"]] == ["HOT 2"]
