"""The command centre against a real Mosquitto, with a gateway played by a bare MQTT client."""

from __future__ import annotations

import hashlib
import json
import ssl
import threading
import time
from datetime import UTC, datetime
from ipaddress import IPv4Address

import paho.mqtt.client as mqtt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from mosquitto import running_mosquitto
from paho.mqtt.enums import CallbackAPIVersion

from simulators.centre import Centre, Stream

pytestmark = pytest.mark.broker

LIMIT_S = 10.0
HOME = "checkpoint/v1/bridge-north/gw-1/"
ALARM = Stream("bridge-north", "gw-1", "alarm", "3f9c")
VERSIONS = ["5", "3.1.1"]


@pytest.fixture
def broker(tmp_path):
    with running_mosquitto(tmp_path) as running:
        yield running


class Gateway:
    """Publishes what it is told and keeps the receipts it gets."""

    def __init__(self, broker):
        self.receipts = []
        self.arrived = threading.Condition()
        ready = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id="gw-1")
        self.client.on_connect = lambda *_: self.client.subscribe(f"{HOME}receipt/#", qos=1)
        self.client.on_subscribe = lambda *_: ready.set()
        self.client.on_message = self._on_message
        self.client.connect(broker.host, broker.port)
        self.client.loop_start()
        assert ready.wait(LIMIT_S)

    def _on_message(self, client, userdata, message):
        with self.arrived:
            self.receipts.append((message.topic, json.loads(message.payload)))
            self.arrived.notify_all()

    def publish(self, topic, payload, *, retain=False):
        text = payload if isinstance(payload, bytes) else json.dumps(payload)
        self.client.publish(HOME + topic, text, qos=1, retain=retain).wait_for_publish(LIMIT_S)

    def record(self, seq, *, stream="alarm", epoch="3f9c", kind="gamma", data=None, **more):
        body = {
            "specversion": "1.0",
            "id": f"bridge-north/gw-1/{stream}/{epoch}/{seq}",
            "stream": stream,
            "epoch": epoch,
            "seq": seq,
            "data": (data or {}) | more,
        }
        place = f"ev/audit/{kind}" if stream == "audit" else f"ev/{stream}/lane/inbound-1/{kind}"
        self.publish(place, body)

    def receipted(self, upto, *, stream="alarm", epoch="3f9c"):
        def found():
            return any(
                topic == f"{HOME}receipt/{stream}"
                and (body["epoch"], body["upto"]) == (epoch, upto)
                for topic, body in self.receipts
            )

        with self.arrived:
            return self.arrived.wait_for(found, LIMIT_S)

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.fixture
def gateway(broker):
    gateway = Gateway(broker)
    yield gateway
    gateway.close()


def started(broker, **options):
    centre = Centre(broker.host, broker.port, **options)
    centre.start()
    assert centre.wait_for(lambda: centre.is_connected, LIMIT_S)
    return centre


@pytest.fixture
def centre(broker):
    centre = started(broker)
    yield centre
    centre.stop()


@pytest.mark.parametrize("protocol", VERSIONS)
def test_records_are_stored_once_and_receipted_up_to_the_unbroken_end(broker, gateway, protocol):
    at = datetime(2026, 11, 22, 8, 14, 7, tzinfo=UTC)
    with Centre(broker.host, broker.port, protocol=protocol, now=lambda: at) as centre:
        assert centre.wait_for(lambda: centre.is_connected, LIMIT_S)
        for seq in (1, 2, 3, 5):
            gateway.record(seq, code="n_sigma")
        gateway.record(2, code="n_sigma")
        assert centre.wait_for(lambda: centre.duplicates == 1 and len(centre.records()) == 4)
        assert gateway.receipted(3)
        assert centre.gaps() == {ALARM: [(4, 4)]}
        assert (centre.upto(ALARM), centre.highest(ALARM)) == (3, 5)
        gateway.record(4, code="n_sigma")
        assert gateway.receipted(5)
        assert centre.gaps() == {}
        topic, body = gateway.receipts[-1]
        assert topic == f"{HOME}receipt/alarm"
        assert body == {
            "epoch": "3f9c",
            "upto": 5,
            "by": "centre",
            "at": "2026-11-22T08:14:07.000Z",
        }
        assert [record.seq for record in centre.records("alarm")] == [1, 2, 3, 5, 4]
        assert centre.records()[0].data == {"code": "n_sigma"}
        assert not centre.problems


def test_a_receipt_is_retained_for_a_gateway_that_comes_later(broker, gateway, centre):
    gateway.record(1)
    assert gateway.receipted(1)
    gateway.close()
    later = Gateway(broker)
    assert later.receipted(1)
    later.close()


def test_a_tombstone_explains_a_gap(gateway, centre):
    passes = ALARM._replace(stream="pass")
    gateway.record(1, stream="pass", kind="passage")
    gateway.record(9, stream="pass", kind="passage")
    assert centre.wait_for(lambda: centre.gaps() == {passes: [(2, 8)]})
    tombstone = {"kind": "drop", "stream": "pass", "from": 2, "to": 6, "reason": "store full"}
    gateway.record(1, stream="audit", kind="drop", data=tombstone)
    assert gateway.receipted(6, stream="pass")
    assert centre.gaps() == {passes: [(7, 8)]}
    assert centre.dropped(passes) == [(2, 6)]
    gateway.record(2, stream="audit", kind="drop", data=tombstone | {"from": 7, "to": 8})
    assert gateway.receipted(9, stream="pass")
    assert centre.gaps() == {}


def test_a_new_epoch_counts_from_one_and_only_the_newest_is_receipted(gateway, centre):
    gateway.record(1)
    gateway.record(2)
    assert gateway.receipted(2)
    gateway.record(1, epoch="77aa")
    assert gateway.receipted(1, epoch="77aa")
    gateway.record(3)
    newer = ALARM._replace(epoch="77aa")
    assert centre.wait_for(lambda: (centre.upto(ALARM), centre.upto(newer)) == (3, 1))
    gateway.record(2, epoch="77aa")
    assert gateway.receipted(2, epoch="77aa")
    assert not any(body["epoch"] == "3f9c" and body["upto"] == 3 for _, body in gateway.receipts)


def test_a_centre_that_sends_no_receipts_is_silent_until_told_to(broker, gateway):
    with Centre(broker.host, broker.port, receipts=False) as centre:
        assert centre.wait_for(lambda: centre.is_connected, LIMIT_S)
        gateway.record(1)
        assert centre.wait_for(lambda: centre.upto(ALARM) == 1)
        assert gateway.receipts == []
        centre.sends_receipts = True
        assert gateway.receipted(1)


def test_snapshots_keep_the_newest_of_each_topic(gateway, centre):
    gateway.publish("status", {"state": "offline"}, retain=True)
    gateway.publish("status", {"state": "online"}, retain=True)
    gateway.publish("lane/inbound-1/dev/rpm/state", {"link": "up"}, retain=True)
    gateway.publish("about", {"gw": "gw-1"}, retain=True)
    gateway.publish("about", b"", retain=True)
    gateway.publish("meas/lane/inbound-1/gamma", {"cps": 402})
    assert centre.wait_for(lambda: centre.others == 1)
    assert centre.snapshots == {
        f"{HOME}status": {"state": "online"},
        f"{HOME}lane/inbound-1/dev/rpm/state": {"link": "up"},
    }


@pytest.mark.parametrize(
    "payload",
    [
        b"\xff\xfe",
        b"[]",
        b"[" * 100_000,
        {"id": "x", "stream": "alarm", "epoch": "e", "seq": 0, "data": {}},
        {"id": "x", "stream": "alarm", "epoch": "e", "seq": True, "data": {}},
        {"id": "x", "stream": "alarm", "epoch": "e", "seq": 1},
        {"id": "x", "stream": "alarm/#", "epoch": "e", "seq": 1, "data": {}},
        {"id": "\ud800", "stream": "alarm", "epoch": "e", "seq": 1, "data": {}},
        {"id": "x", "stream": "audit", "epoch": "e", "seq": 1, "data": {"kind": "drop"}},
        {
            "id": "x",
            "stream": "audit",
            "epoch": "e",
            "seq": 1,
            "data": {"kind": "drop", "stream": "pass", "from": 3, "to": 2},
        },
    ],
)
def test_what_is_not_a_record_is_a_problem_and_stops_nothing(gateway, centre, payload):
    gateway.publish("ev/alarm/lane/inbound-1/gamma", payload)
    gateway.record(1)
    assert centre.wait_for(lambda: centre.upto(ALARM) == 1, LIMIT_S)
    assert len(centre.problems) == 1


def test_the_same_id_with_other_bytes_is_a_problem(gateway, centre):
    gateway.record(1, code="n_sigma")
    gateway.record(1, code="over_range")
    assert centre.wait_for(lambda: centre.duplicates == 1, LIMIT_S)
    assert centre.problems[0] == "bridge-north/gw-1/alarm/3f9c/1: sent again with other bytes"
    assert centre.records()[0].data == {"code": "n_sigma"}


def test_a_record_counts_only_when_its_blobs_are_whole(broker, gateway, tmp_path):
    centre = started(broker, database=tmp_path / "centre.sqlite")
    first, second = b"<RadInstrumentData>" * 10, b"</RadInstrumentData>"
    sha256 = hashlib.sha256(first + second).hexdigest()
    named = [{"role": "n42", "sha256": sha256, "size": 210, "chunks": 2}]
    gateway.publish(f"blob/{sha256}/0", first)
    gateway.record(1, blobs=named)
    gateway.record(2)
    assert centre.wait_for(lambda: len(centre.records()) == 2, LIMIT_S)
    assert centre.upto(ALARM) == 0
    gateway.publish(f"blob/{sha256}/1", second)
    assert gateway.receipted(2)
    assert centre.blob(sha256) == first + second
    centre.stop()
    again = Centre(broker.host, broker.port, database=tmp_path / "centre.sqlite")
    assert (again.blob(sha256), again.upto(ALARM)) == (first + second, 2)
    again.stop()


def test_a_blob_that_a_tombstone_names_is_not_waited_for(gateway, centre):
    named = [{"role": "n42", "sha256": "ab" * 32, "size": 210, "chunks": 2}]
    gateway.record(1, blobs=named)
    stone = {"kind": "drop", "stream": "alarm", "blobs": ["ab" * 32], "count": 1}
    gateway.record(1, stream="audit", kind="drop", data=stone)
    assert gateway.receipted(1)
    assert centre.blob("ab" * 32) is None
    assert list(centre.problems) == []


def test_a_chunk_over_the_limit_is_a_problem(gateway, centre):
    gateway.publish(f"blob/{'ab' * 32}/0", bytes(131_073))
    assert centre.wait_for(lambda: len(centre.problems) == 1, LIMIT_S)
    assert "131073 bytes, the limit is 131072" in centre.problems[0]


def test_a_restarted_centre_goes_on_from_its_file(broker, gateway, tmp_path):
    options = {"database": tmp_path / "centre.sqlite"}
    centre = started(broker, **options)
    gateway.record(1)
    gateway.record(2)
    assert gateway.receipted(2)
    centre.stop()
    centre = started(broker, **options)
    gateway.record(2)
    gateway.record(3)
    assert gateway.receipted(3)
    assert (len(centre.records()), centre.duplicates) == (3, 1)
    assert centre.record("bridge-north/gw-1/alarm/3f9c/1").seq == 1
    centre.stop()


def test_a_centre_without_a_file_goes_on_from_its_own_retained_receipt(broker, gateway):
    centre = started(broker)
    gateway.record(1)
    gateway.record(2)
    assert gateway.receipted(2)
    centre.stop()
    centre = started(broker)
    gateway.record(3)
    assert gateway.receipted(3)
    assert [record.seq for record in centre.records()] == [3]
    centre.stop()
    other = started(broker, by="another-centre", client_id="another")
    gateway.record(4)
    assert other.wait_for(lambda: other.gaps() == {ALARM: [(1, 3)]}, LIMIT_S)
    other.stop()


def test_a_centre_outlives_its_broker_and_receipts_again(broker, gateway, centre):
    gateway.record(1)
    assert gateway.receipted(1)
    broker.kill()
    assert centre.wait_for(lambda: not centre.is_connected, LIMIT_S)
    broker.start()
    assert centre.wait_for(lambda: centre.connections == 2, LIMIT_S)
    # The killed broker forgot the retained receipt; the centre says it again unasked.
    again = Gateway(broker)
    assert again.receipted(1)
    again.close()


def test_a_centre_that_was_away_gets_what_its_session_kept(broker, gateway):
    centre = started(broker, session_expiry_s=60)
    centre.stop()
    gateway.record(1)
    centre = started(broker, session_expiry_s=60)
    assert gateway.receipted(1)
    centre.stop()


def test_a_centre_waits_for_a_broker_that_is_not_there_yet(broker):
    broker.stop()
    with Centre(broker.host, broker.port) as centre:
        assert not centre.wait_for(lambda: centre.is_connected, 0.05)
        broker.start()
        assert centre.wait_for(lambda: centre.is_connected, LIMIT_S)


def test_receipts_of_a_stream_come_at_most_five_a_second(gateway, centre):
    began = time.monotonic()
    for seq in range(1, 301):
        gateway.record(seq)
    assert gateway.receipted(300)
    elapsed = time.monotonic() - began
    assert len(gateway.receipts) <= elapsed / 0.2 + 2


def own_certificate(folder):
    """Write a certificate for 127.0.0.1 that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "broker")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2099, 1, 1, tzinfo=UTC))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )


# paho 2.2 leaves the socket of a refused TLS handshake to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_centre_speaks_tls_and_trusts_only_its_own_authority(tmp_path):
    own_certificate(tmp_path)
    extra = "certfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n"
    with running_mosquitto(tmp_path, extra=extra) as broker:
        trusting = ssl.create_default_context(cafile=tmp_path / "cert.pem")
        with Centre(broker.host, broker.port, tls=trusting) as centre:
            assert centre.wait_for(lambda: centre.is_connected, LIMIT_S)
        with Centre(broker.host, broker.port, tls=ssl.create_default_context()) as centre:
            assert not centre.wait_for(lambda: centre.is_connected, 0.5)
