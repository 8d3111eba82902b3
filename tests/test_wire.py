from __future__ import annotations

import json
import math
from dataclasses import replace
from enum import Enum

import jsonschema
import numpy as np
import pytest
import rfc8785
from delivery_bench import (
    ABOUT,
    ENCODER,
    IDENTITY,
    MESSAGES,
    alarm,
    audit,
    channels,
    check_message,
    passage,
    stamp,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.delivery import snapshots, wire
from agent.delivery.wire import WireError, encode, parse_receipt
from agent.records import BackgroundUsed, LaneSnapshot, Timed
from drivers.readings import (
    DeviceState,
    GammaBackground,
    GammaCounts,
    NeutronBackground,
    NeutronCounts,
    Weight,
)

RECEIPT = "checkpoint/v1/bridge-north/gw-1/receipt/alarm"
TOMBSTONE = replace(
    audit(),
    kind="drop",
    data={"stream": "pass", "epoch": "3f9c", "from": 1, "to": 9, "count": 3, "reason": "full",
          "ranges": [[1, 2], [9, 9]]},
)  # fmt: skip


def encoded(record: object) -> bytes:
    return encode(record, encoder=ENCODER, epoch="3f9c", seq=412, recorded_utc_us=0)  # type: ignore[arg-type]


def test_an_alarm_stands_on_the_wire_as_the_contract_says() -> None:
    body = json.loads(encoded(alarm(0)))
    data = body.pop("data")
    assert body == {
        "specversion": "1.0",
        "id": "bridge-north/gw-1/alarm/3f9c/412",
        "source": "checkpoint/v1/bridge-north/gw-1",
        "type": "checkpointd.alarm.v1",
        "subject": "inbound-1",
        "time": "2025-11-22T08:14:07.412301Z",
        "datacontenttype": "application/json",
        "stream": "alarm",
        "epoch": "3f9c",
        "seq": 412,
        "recorded": "1970-01-01T00:00:00.000000Z",
        "mode": "test",
        "configrev": "9d41c0",
    }
    assert data["clock"] == {
        "boot": "0b6e", "mono_us": 90_122_331_204, "sync": "ntp", "err_ms": 3.1, "stepped": False,
    }  # fmt: skip
    assert data["software"] == "checkpointd 0.1.0"
    assert data["category"] is None
    assert data["nuclides"] is None
    assert data["evidence"][0]["p"] is None
    assert data["background"]["gamma_cps"] == [100.5, 99.25]
    assert "stamp" not in data


def test_moments_within_a_record_are_utc_text() -> None:
    data = json.loads(encoded(passage(8)))["data"]
    assert data["started"] == "2025-11-22T08:14:07.412301Z"
    assert data["ended"] == "2025-11-22T08:14:15.412301Z"
    assert json.loads(encoded(audit()))["data"]["since"] == "2025-11-22T08:14:07.412301Z"


def test_a_record_of_the_gateway_itself_has_no_subject() -> None:
    body = json.loads(encoded(replace(alarm(), lane=None, kind="fault")))
    assert "subject" not in body
    assert body["data"]["lane"] is None


@pytest.mark.parametrize(
    ("record", "topic"),
    [
        (alarm(), "ev/alarm/lane/inbound-1/gamma"),
        (replace(alarm(), lane=None, kind="fault"), "ev/alarm/gw/fault"),
        (passage(), "ev/pass/lane/inbound-1/passage"),
        (audit(), "ev/audit/boot"),
    ],
)
def test_topics_are_the_contracts(record, topic) -> None:
    assert wire.topic_of(record, IDENTITY) == f"checkpoint/v1/bridge-north/gw-1/{topic}"


@pytest.mark.parametrize(
    "record",
    [alarm(), replace(alarm(), background=None, lane=None, kind="tamper"), passage(),
     passage(parts=True), audit(), TOMBSTONE],
)  # fmt: skip
def test_every_record_is_canonical_and_meets_its_schema(record) -> None:
    payload = encoded(record)
    assert rfc8785.dumps(json.loads(payload)) == payload
    check_message(wire.topic_of(record, IDENTITY), payload)


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf, 2**53, -(2**53), object()])
def test_what_json_cannot_say_is_refused_by_name(figure) -> None:
    with pytest.raises(WireError, match="gross"):
        encoded(replace(audit(), data={"deep": [{"gross": figure}]}))


def test_an_audit_member_never_takes_anothers_place() -> None:
    with pytest.raises(WireError, match="'clock' is taken"):
        encoded(replace(audit(), data={"clock": 1}))


def test_bytes_from_a_device_that_are_no_text_do_not_cost_the_record() -> None:
    data = json.loads(encoded(replace(audit(), data={"line": "a\udcff"})))["data"]
    assert data["line"] == "a?"


figures = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    # Where ECMAScript's form changes, and where binary fractions end.
    st.builds(
        lambda mantissa, power, sign: sign * mantissa * 10.0**power,
        st.floats(1.0, 10.0),
        st.integers(-9, 23),
        st.sampled_from([1, -1]),
    ),
    st.integers(-(2**53), 2**53).map(float),
    st.integers(-(2**54), 2**54).map(lambda n: n / 4),
    st.sampled_from([1e21, 1e-7, 1e-6, 1e-4, -0.0, 5.0, 2.0**53, 4503599627370495.5, 5e-324]),
)
# Names whose order in UTF-16 is not that of their code points are among these.
names = st.text("ab\x7fé\uffff\ue000\U00010000\U0001f600", max_size=3) | st.text(
    st.characters(codec="utf-8"), max_size=3
)
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | figures
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)  # fmt: skip
TAKEN = ("clock", "kind", "lane", "software")


@given(st.dictionaries(names, values, max_size=5))
@settings(max_examples=500, deadline=None)
def test_the_bytes_are_those_of_rfc_8785_whatever_is_said(data) -> None:
    """Held against Trail of Bits' implementation, which encodes every value by itself."""
    assert not set(data) & set(TAKEN)
    payload = encoded(replace(audit(), data=data))
    head = json.loads(payload)["data"]
    expected = data | {name: head[name] for name in TAKEN}
    _, _, said = payload.partition(b'"data":')
    assert said.startswith(rfc8785.dumps(expected) + b",")


@given(figures)
@settings(max_examples=2000, deadline=None)
def test_every_figure_is_written_as_ecmascript_writes_it(figure) -> None:
    payload = encoded(replace(audit(), data={"figure": figure}))
    assert b'"figure":' + rfc8785.dumps(figure) + b"," in payload


class Shade(str, Enum):  # noqa: UP042 - the older kind, whose str() is its name
    DARK = "dark"


def test_a_members_value_stands_for_an_enumeration() -> None:
    data = json.loads(encoded(replace(audit(), data={"shade": Shade.DARK, "one": np.float64(1)})))
    assert (data["data"]["shade"], data["data"]["one"]) == ("dark", 1)


@pytest.mark.parametrize("names", [{"\udcff": 1}, {"deep": {"\udcff": 1}}])
def test_a_name_that_is_no_text_is_refused(names) -> None:
    with pytest.raises(WireError, match="no text"):
        encoded(replace(audit(), data=names))


@given(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53) + 1, 2**53 - 1))
def test_figures_survive_the_wire(number, integer) -> None:
    data = json.loads(encoded(replace(audit(), data={"number": number, "integer": integer})))[
        "data"
    ]
    assert float(data["number"]) == number
    assert data["integer"] == integer


def test_every_snapshot_meets_its_schema() -> None:
    used = BackgroundUsed(
        gamma_cps=(402.0,), reference_gamma_cps=None, neutron_cps=2.5, quality="good", age_s=4.0
    )
    stream = snapshots.StreamState(
        epoch="3f9c", first_kept=None, last=0, sent=0, receipted=0, oldest_unsent_s=None
    )
    device = snapshots.AboutDevice(driver="rpm.rapiscan", port="tcp://10.0.0.1:1600")
    sent = [
        wire.status(
            IDENTITY, snapshots.Status(state="offline", session="5f", conn=1, at=None), "x 1"
        ),
        wire.status(
            IDENTITY, snapshots.Status(state="online", session="5f", conn=1, at=stamp()), "x 1"
        ),
        wire.about(
            IDENTITY,
            snapshots.About(
                lanes={"inbound-1": snapshots.AboutLane(name="Inbound 1", devices={"rpm": device})},
                machine="aarch64",
            ),
            "x 1",
        ),
        wire.health(
            IDENTITY,
            snapshots.Health(
                at=stamp(),
                streams=dict.fromkeys(wire.STREAMS, stream),
                disk_free_bytes=None,
                journal_bytes=4096,
                clock=snapshots.ClockState(sync="none", err_ms=None),
                temperature_c=None,
                certificate_days=None,
                delivery="receipt",
            ),
        ),
        wire.config(
            IDENTITY,
            snapshots.ConfigReport(at=stamp(), active="9d", last_good=None, last_result="ok"),
        ),
        wire.lane_state(
            IDENTITY,
            LaneSnapshot(
                stamp=stamp(),
                lane="inbound-1",
                in_service=True,
                occupied=None,
                alarms=(),
                background={"rpm": used},
            ),
        ),
        wire.device_state(
            IDENTITY,
            snapshots.DeviceSnapshot(
                at=stamp(),
                lane="inbound-1",
                device="rpm",
                link="up",
                last_good_s=0.2,
                frames=7,
                refused={"syntax": 3},
                calibration=snapshots.Calibration(rev=None, due=None),
            ),
        ),
        (IDENTITY.about_topic, ABOUT),
    ]
    found = [check_message(topic, payload) for topic, payload in sent]
    assert set(found) == {
        "status", "about", "health", "config", "laneState", "deviceState",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("reading", "quantity"),
    [
        (GammaCounts(counts=(10, 11), real_time_s=0.2, device_alarm=False), "gamma"),
        (NeutronCounts(counts=(0,), real_time_s=1.0, device_alarm=True), "neutron"),
        (GammaBackground(cps=(402.0,)), "gamma-background"),
        (NeutronBackground(total_cps=2.566, rounded_down=False), "neutron-background"),
        (
            Weight(value=None, unit=None, mass_kg=None, mode="gross", stable=None, range="over"),
            "weight",
        ),
    ],
)
def test_live_figures_meet_their_schema(reading, quantity) -> None:
    found = wire.live(Timed(stamp=stamp(), device="rpm", reading=reading))
    assert found is not None
    assert found[0] == quantity
    check_message(wire.live_topic(IDENTITY, "inbound-1", quantity), found[1])


def test_what_is_no_figure_is_not_sent_live() -> None:
    state = DeviceState(condition="tamper", active=True)
    assert wire.live(Timed(stamp=stamp(), device="rpm", reading=state)) is None


def test_a_receipt_is_read() -> None:
    payload = b'{"epoch":"3f9c","upto":412,"hash":null,"by":"centre","at":"x","later":[1]}'
    receipt = parse_receipt(RECEIPT, payload, IDENTITY)
    assert receipt is not None
    assert (receipt.stream, receipt.epoch, receipt.upto, receipt.by) == (
        "alarm", "3f9c", 412, "centre",
    )  # fmt: skip
    assert check_message(RECEIPT, payload) == "receipt"


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff",
        b'{"epoch":"3f9c"}',
        b'{"upto":4}',
        b'{"epoch":"3f9c","upto":-1}',
        b'{"epoch":"3f9c","upto":4.0}',
        b'{"epoch":"3f9c","upto":"4"}',
        b'{"epoch":"3f9c","upto":true}',
        b'{"epoch":"3f9c","upto":9007199254740992}',
        b'{"epoch":"3f9c","upto":NaN}',
        b'{"epoch":"3f9c","upto":4,"upto":5}',
        b'{"epoch":3,"upto":4}',
        b'{"epoch":"3f9c","upto":4,"hash":5}',
        b'{"epoch":"3f9c","upto":4,"by":"' + b"x" * 5000 + b'"}',
        b"[" * 4000,
        b'{"epoch":"3f9c","upto":' + b"9" * 4050 + b"}",
    ],
)
def test_what_is_no_receipt_releases_nothing(payload) -> None:
    assert parse_receipt(RECEIPT, payload, IDENTITY) is None


@pytest.mark.parametrize(
    "topic",
    [
        "checkpoint/v1/bridge-north/gw-2/receipt/alarm",
        "checkpoint/v1/bridge-north/gw-1/receipt/blob",
        "checkpoint/v1/bridge-north/gw-1/receipt/alarm/x",
        "x/checkpoint/v1/bridge-north/gw-1/receipt/alarm",
    ],
)
def test_a_receipt_on_another_topic_is_none_of_ours(topic) -> None:
    assert parse_receipt(topic, b'{"epoch":"3f9c","upto":4}', IDENTITY) is None


@given(st.binary(max_size=200))
def test_no_payload_makes_the_receipt_reader_raise(payload) -> None:
    assert parse_receipt(RECEIPT, payload, IDENTITY) is None


def test_each_schema_is_sound_and_used_by_one_message() -> None:
    schemas = sorted(path.name for path in (MESSAGES / "schemas").glob("*.json"))
    used = {schema.rsplit("/", 1)[1] for _, schema in channels().values() if schema}
    assert schemas == sorted(used)
    for name in schemas:
        jsonschema.Draft202012Validator.check_schema(
            json.loads((MESSAGES / "schemas" / name).read_text())
        )


@pytest.mark.parametrize("member", ["id", "data", "epoch", "seq", "mode", "recorded"])
def test_a_record_without_a_required_member_fails_its_schema(member) -> None:
    body = json.loads(encoded(alarm()))
    del body[member]
    with pytest.raises(jsonschema.ValidationError):
        check_message(wire.topic_of(alarm(), IDENTITY), json.dumps(body).encode())


def test_the_schemas_know_every_member_of_a_record() -> None:
    def members(name: str, *path: str) -> set[str]:
        schema = json.loads((MESSAGES / "schemas" / f"{name}.json").read_text())
        for step in path:
            schema = schema["properties"][step]
            schema = schema["oneOf"][1] if "oneOf" in schema else schema
        return set(schema["required"])

    sent = json.loads(encoded(passage(parts=True)))["data"]
    assert members("passage", "data") == set(sent)
    for part in ("rpm", "scale", "metal", "spectral"):
        assert members("passage", "data", part) == set(sent[part])
    assert members("alarm", "data") == set(json.loads(encoded(alarm()))["data"])
