"""Records and snapshots to topic and bytes, and receipts back; the only file with topic strings.

Records are CloudEvents 1.0 in structured JSON, serialised by RFC 8785 (one byte string for one
meaning), so that the stored bytes are the published bytes. Sources: CloudEvents 1.0.2 JSON event
format (a null attribute is left out); RFC 8785; OASIS MQTT 5.0. Payloads: docs/messages/.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import msgspec
import rfc8785

from agent.delivery.blobs import blobs_of, chunk_count
from agent.delivery.snapshots import (
    About,
    ConfigReport,
    DeviceSnapshot,
    Health,
    Status,
    Stream,
)
from agent.records import Alarm, Audit, Blob, LaneSnapshot, Passage, Record, Stamp, Timed
from drivers.readings import (
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    Weight,
)

STREAMS: Final[tuple[Stream, ...]] = ("alarm", "audit", "pass")
"""In the order in which they are sent."""
SCHEMAS: Final = {"alarm": "1.0", "audit": "1.0", "pass": "1.0"}
MAX_INTEGER: Final = 2**53 - 1
"""Above it a JSON reader that keeps numbers as doubles loses digits."""
RECEIPT_LIMIT_BYTES: Final = 4096

_TYPES: Final = {
    "alarm": "checkpointd.alarm.v1",
    "audit": "checkpointd.audit.v1",
    "pass": "checkpointd.passage.v1",
}
_NAMES: dict[type, tuple[str, ...]] = {}
_ENCODER: Final = msgspec.json.Encoder(order="sorted")
_PLAIN_DECIMALS_FROM: Final = 1e-4
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


class WireError(ValueError):
    """A record that cannot stand on the wire; names the member and what is wrong with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who speaks: the head of every topic. Identifiers match ``[a-z0-9][a-z0-9-]{0,31}``."""

    root: str
    site: str
    gw: str

    @property
    def prefix(self) -> str:
        """Return the topic that all topics of this gateway begin with; also CloudEvents' source."""
        return f"{self.root}/v1/{self.site}/{self.gw}"

    @property
    def client_id(self) -> str:
        """Return the fixed MQTT client id, so that a reconnection takes the old one's place."""
        return f"gw-{self.site}-{self.gw}"

    @property
    def status_topic(self) -> str:
        """Return the topic of status and will."""
        return f"{self.prefix}/status"

    @property
    def about_topic(self) -> str:
        """Return the topic of the description of this gateway."""
        return f"{self.prefix}/about"

    @property
    def receipt_filter(self) -> str:
        """Return the filter under which the centre's receipts arrive."""
        return f"{self.prefix}/receipt/+"


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """Makes topic and bytes of a record once the journal has given it its number."""

    identity: Identity
    mode: str
    configrev: str
    software: str

    def __call__(
        self, record: Record, epoch: str, seq: int, recorded_utc_us: int
    ) -> tuple[str, bytes]:
        """Return the record's topic and its bytes; raises WireError."""
        payload = encode(
            record, encoder=self, epoch=epoch, seq=seq, recorded_utc_us=recorded_utc_us
        )
        return topic_of(record, self.identity), payload


def stream_of(record: Record) -> Stream:
    """Return the stream whose sequence numbers the record."""
    match record:
        case Alarm():
            return "alarm"
        case Passage():
            return "pass"
        case Audit():
            return "audit"


def topic_of(record: Record, identity: Identity) -> str:
    """Return the topic a record is published on; a lane of None is the gateway itself."""
    events = f"{identity.prefix}/ev"
    match record:
        case Alarm(lane=None):
            return f"{events}/alarm/gw/{record.kind}"
        case Alarm():
            return f"{events}/alarm/lane/{record.lane}/{record.kind}"
        case Passage():
            return f"{events}/pass/lane/{record.lane}/passage"
        case Audit():
            return f"{events}/audit/{record.kind}"


def encode(
    record: Record, *, encoder: Encoder, epoch: str, seq: int, recorded_utc_us: int
) -> bytes:
    """Return the record's bytes as they are stored, sent and sent again.

    Parameters
    ----------
    epoch, seq : the journal's numbering; with stream, site and gateway the record's identity
    recorded_utc_us : when it is committed [µs since 1970 UTC]

    Raises
    ------
    WireError
        Where a figure is NaN, infinite or beyond 2⁵³, or a type has no place in JSON. The record's
        maker is at fault.
    """
    stream = stream_of(record)
    identity = encoder.identity
    envelope: dict[str, object] = {
        "specversion": "1.0",
        "id": f"{identity.site}/{identity.gw}/{stream}/{epoch}/{seq}",
        "source": identity.prefix,
        "type": _TYPES[stream],
        "time": iso(record.stamp.utc_us),
        "datacontenttype": "application/json",
        "stream": stream,
        "epoch": epoch,
        "seq": seq,
        "recorded": iso(recorded_utc_us),
        "mode": encoder.mode,
        "configrev": encoder.configrev,
        "data": _data(record, encoder.software),
    }
    if record.lane is not None:
        envelope["subject"] = record.lane
    return _canonical(envelope)


def blob_topic(identity: Identity, sha256: str, number: int) -> str:
    """Return the topic of one chunk of a blob; numbers begin at 0."""
    return f"{identity.prefix}/blob/{sha256}/{number}"


def iso(utc_us: int) -> str:
    """Return UTC with microseconds and a Z, from microseconds since 1970; raises WireError."""
    try:
        moment = _UNIX + timedelta(microseconds=utc_us)
    except OverflowError as exc:
        raise WireError(f"time {utc_us} µs: expected a moment in the years 1 to 9999") from exc
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _data(record: Record, software: str) -> dict[str, object] | msgspec.Raw:
    stamp = record.stamp
    data: dict[str, object] = {
        "clock": {
            "boot": stamp.boot,
            "mono_us": stamp.mono_us,
            "sync": stamp.sync,
            "err_ms": _plain(stamp.err_ms, "err_ms"),
            "stepped": stamp.stepped,
        },
        "software": software,
    }
    for name in _names(type(record)):
        if name in ("stamp", "blobs", "event") or (name == "data" and isinstance(record, Audit)):
            continue
        data[name] = _plain(getattr(record, name), name)
    blobs = blobs_of(record)
    if blobs:
        data["blobs"] = [_named(blob) for blob in blobs]
    if isinstance(record, Audit):
        for name, value in record.data.items():
            if name in data:
                raise WireError(f"audit {record.kind}: member {name!r} is taken, name it otherwise")
            data[name] = _plain(value, name)
        return _members(data)
    return data


def _named(blob: Blob) -> dict[str, object]:
    return {
        "role": blob.role,
        "media_type": blob.media_type,
        "sha256": blob.sha256,
        "size": len(blob.data),
        "chunks": chunk_count(len(blob.data)),
    }


def _names(kind: type) -> tuple[str, ...]:
    names = _NAMES.get(kind)
    if names is None:
        names = _NAMES[kind] = tuple(each.name for each in fields(kind))
    return names


def _plain(value: object, name: str) -> object:
    """Return the value as the encoder is to say it; refuses what JSON cannot say exactly."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        # An enumeration's member is its text here, whatever it calls itself.
        text = str.__str__(value)
        return text if text.isascii() else text.encode("utf-8", "replace").decode()
    if isinstance(value, int):
        if not -MAX_INTEGER <= value <= MAX_INTEGER:
            raise WireError(f"{name} = {value}: expected an integer below 2^53")
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise WireError(f"{name} = {value}: expected a finite number, or None where unknown")
        return _number(value)
    return _plain_group(value, name)


def _number(value: float) -> int | float | msgspec.Raw:
    """Return a finite figure so that the encoder says it as RFC 8785 does, 3.2.2.3.

    That is the form of ECMAScript: 5.0 is 5 and -0.0 is 0, and an exponent stands only below 1e-6
    and from 1e21 on. Between the limits here both write the shortest decimals without one.
    """
    if abs(value) <= MAX_INTEGER:
        if value.is_integer():
            return int(value)
        if abs(value) >= _PLAIN_DECIMALS_FROM:
            return float(value)
    return msgspec.Raw(rfc8785.dumps(value))


def _plain_group(value: object, name: str) -> object:
    if isinstance(value, Stamp):
        return iso(value.utc_us)
    if isinstance(value, (list, tuple)):
        return [_plain(item, name) for item in value]
    if isinstance(value, dict):
        return _members({str(key): _plain(item, str(key)) for key, item in value.items()})
    if is_dataclass(value):
        return {each: _plain(getattr(value, each), each) for each in _names(type(value))}
    raise WireError(f"{name}: {type(value).__name__} has no place in a message")


def _members(members: dict[str, object]) -> dict[str, object] | msgspec.Raw:
    """Return the members so that the encoder puts them into the order of RFC 8785, 3.2.3.

    That is the order of UTF-16 code units; the encoder's is that of code points, which is the same
    for ASCII alone.
    """
    if all(map(str.isascii, members)):
        return members
    try:
        ordered = sorted(members, key=lambda name: name.encode("utf-16-be"))
    except UnicodeEncodeError as exc:
        raise WireError(f"message: a member's name is no text: {exc}") from exc
    said = (_ENCODER.encode(name) + b":" + _ENCODER.encode(members[name]) for name in ordered)
    return msgspec.Raw(b"{" + b",".join(said) + b"}")


def _canonical(message: dict[str, object]) -> bytes:
    """Return the bytes of RFC 8785; the names of the members are ASCII, the values ``_plain``."""
    return _ENCODER.encode(message)


# ---------------------------------------------------------------- retained snapshots


def _snapshot(value: object, **more: object) -> bytes:
    plain = _plain_group(value, "snapshot")
    assert isinstance(plain, dict)
    return _canonical({**plain, **more})


def status(identity: Identity, value: Status, software: str) -> tuple[str, bytes]:
    """Return topic and bytes of the status; an offline one is the will."""
    return identity.status_topic, _snapshot(value, software=software)


def about(identity: Identity, value: About, software: str) -> tuple[str, bytes]:
    """Return topic and bytes of the gateway's description."""
    return identity.about_topic, _snapshot(
        value,
        site=identity.site,
        gw=identity.gw,
        streams=list(STREAMS),
        schemas=dict(SCHEMAS),
        software=software,
    )


def health(identity: Identity, value: Health) -> tuple[str, bytes]:
    """Return topic and bytes of the gateway's condition."""
    return f"{identity.prefix}/health", _snapshot(value)


def config(identity: Identity, value: ConfigReport) -> tuple[str, bytes]:
    """Return topic and bytes of which configuration runs."""
    return f"{identity.prefix}/config", _snapshot(value)


def lane_state(identity: Identity, value: LaneSnapshot) -> tuple[str, bytes]:
    """Return topic and bytes of a lane's state now."""
    plain = _plain_group(value, "lane")
    assert isinstance(plain, dict)
    plain["at"] = plain.pop("stamp")
    del plain["lane"]
    return lane_topic(identity, value.lane), _canonical(plain)


def lane_topic(identity: Identity, lane: str) -> str:
    """Return the topic of a lane's snapshot."""
    return f"{identity.prefix}/lane/{lane}/state"


def device_state(identity: Identity, value: DeviceSnapshot) -> tuple[str, bytes]:
    """Return topic and bytes of an instrument's state now."""
    plain = _plain_group(value, "device")
    assert isinstance(plain, dict)
    del plain["lane"], plain["device"]
    return device_topic(identity, value.lane, value.device), _canonical(plain)


def device_topic(identity: Identity, lane: str, device: str) -> str:
    """Return the topic of an instrument's snapshot."""
    return f"{identity.prefix}/lane/{lane}/dev/{device}/state"


# ---------------------------------------------------------------- live figures, never the record


def live(timed: Timed, *, is_test: bool = False) -> tuple[str, bytes] | None:
    """Return quantity and payload of a reading for displays, or None where it has none.

    ``is_test``: the device is being calibrated, and what it says is no measurement.
    """
    reading = timed.reading
    figures: dict[str, object]
    match reading:
        case GammaCounts() | NeutronCounts():
            quantity = "gamma" if isinstance(reading, GammaCounts) else "neutron"
            figures = {
                "counts": reading.counts,
                "real_time_s": reading.real_time_s,
                "age_s": reading.age_s,
                "device_alarm": reading.device_alarm,
            }
        case GammaBackground():
            quantity = "gamma-background"
            figures = {"cps": reading.cps, "level": reading.level}
        case NeutronBackground():
            quantity = "neutron-background"
            figures = {
                "total_cps": reading.total_cps,
                "rounded_down": reading.rounded_down,
                "level": reading.level,
            }
        case Weight():
            quantity = "weight"
            figures = {
                "value": reading.value,
                "unit": reading.unit,
                "mass_kg": reading.mass_kg,
                "mode": reading.mode,
                "stable": reading.stable,
                "range": reading.range,
            }
        case GammaSpectrum():
            quantity = "spectrum"
            figures = {
                "detector": reading.detector,
                "counts": reading.counts,
                "real_time_s": reading.real_time_s,
                "live_time_s": reading.live_time_s,
                "age_s": reading.age_s,
            }
        case _:
            return None
    message = {"at": iso(timed.stamp.utc_us), "device": timed.device, **figures}
    if is_test:
        message["test"] = True
    return quantity, msgspec.json.encode(message)


def live_topic(identity: Identity, lane: str, quantity: str) -> str:
    """Return the topic of a live figure."""
    return f"{identity.prefix}/meas/lane/{lane}/{quantity}"


# ---------------------------------------------------------------- receipts


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """The centre holds every record of the stream up to ``upto``."""

    stream: Stream
    epoch: str
    upto: int
    hash: str | None
    by: str | None
    at: str | None


def parse_receipt(topic: str, payload: bytes, identity: Identity) -> Receipt | None:
    """Return the receipt, or None where it is not one: it releases records, so nothing is guessed.

    Refused: a foreign topic or stream, more than 4096 bytes, what is not JSON, a member given
    twice, a missing or mistyped member, a negative or too large number. Further members are let be.
    """
    head = f"{identity.prefix}/receipt/"
    stream = next((each for each in STREAMS if topic == head + each), None)
    if stream is None or len(payload) > RECEIPT_LIMIT_BYTES:
        return None
    try:
        message = json.loads(
            payload.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict):
        return None
    epoch, upto = message.get("epoch"), message.get("upto")
    texts = [message.get(name) for name in ("hash", "by", "at")]
    if not isinstance(epoch, str) or type(upto) is not int or not 0 <= upto <= MAX_INTEGER:
        return None
    if not all(text is None or isinstance(text, str) for text in texts):
        return None
    return Receipt(stream=stream, epoch=epoch, upto=upto, hash=texts[0], by=texts[1], at=texts[2])


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is given twice")
    return members


def _refuse(constant: str) -> object:
    raise ValueError(f"{constant} is no number")
