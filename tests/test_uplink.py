from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import json
import shutil
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Self

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from delivery_bench import ENCODER, IDENTITY, Bench, alarm, audit, check_message, passage, until
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto import Mosquitto, running_mosquitto

from agent.delivery import outbox, wire
from agent.delivery.outbox import FETCH_ROWS, Item, Outbox
from agent.delivery.snapshots import Stream
from agent.delivery.store.journal import Stored
from agent.delivery.uplink import UplinkError, tls_context
from agent.settings import MqttOptions
from simulators.centre import Centre

pytestmark = pytest.mark.broker
PREFIX = IDENTITY.prefix


class Tap:
    """Hears everything on the broker, in order."""

    def __init__(self, port: int) -> None:
        self.messages: list[tuple[str, bytes]] = []
        self.retained: set[str] = set()
        self._ready = threading.Event()
        self._client = paho.Client(paho.CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _c, _u, message: self.messages.append(
            (message.topic.removeprefix(PREFIX + "/"), message.payload)
        )
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def __enter__(self) -> Self:
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()
        for topic, payload in self.messages:
            check_message(f"{PREFIX}/{topic}", payload)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        self._client.publish(f"{PREFIX}/{topic}", payload, qos=1, retain=retain).wait_for_publish(5)

    def ids(self) -> list[str]:
        """Return stream/seq of the records heard."""
        bodies = [json.loads(payload) for topic, payload in self.messages if "ev/" in topic]
        return [f"{body['stream']}/{body['seq']}" for body in bodies]

    def states(self) -> list[str]:
        heard = [json.loads(payload) for topic, payload in self.messages if topic == "status"]
        return [body["state"] for body in heard]


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with running_mosquitto(tmp_path / "broker") as running:
        yield running


def run(scenario, limit_s: float = 30.0) -> None:
    asyncio.run(asyncio.wait_for(scenario, limit_s))


async def released(bench: Bench) -> None:
    """Wait until nothing is left in the store."""
    while True:
        await bench.journal.flush()
        stats = await bench.journal.stats()
        if all(state.first_kept is None for state in stats.streams.values()):
            return
        await asyncio.sleep(0.02)


def centre_on(broker: Mosquitto, **options) -> Centre:
    centre = Centre("127.0.0.1", broker.port, **options)
    centre.start()
    assert centre.wait_for(lambda: centre.is_connected)
    return centre


# ------------------------------------------------------------ order


def test_a_connection_greets_then_sends_snapshots_then_alarm_audit_pass(tmp_path, broker) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, broker.port)
        await bench.journal.open()
        for record in (passage(1), audit(1), alarm(1), passage(2), alarm(2)):
            await bench.journal.append(record)
        bench.uplink.set_retained(f"{PREFIX}/config", b"{}")
        topic = f"{PREFIX}/config"
        config = {"at": "2026-11-22T08:14:07.412301Z", "active": "9d", "last_good": None,
                  "last_result": "ok", "changed": []}  # fmt: skip
        bench.uplink.set_retained(topic, json.dumps(config).encode())
        with Tap(broker.port) as tap:
            bench._running = asyncio.create_task(bench.uplink.run())
            await until(lambda: len(tap.messages) >= 8)
            heard = [topic for topic, _ in tap.messages[:3]]
            assert heard == ["status", "about", "config"]
            assert tap.ids() == ["alarm/1", "alarm/2", "audit/1", "pass/1", "pass/2"]
            await bench.__aexit__()
            await until(lambda: tap.states()[-1:] == ["stopping"])
            assert tap.states() == ["online", "stopping"]

    run(scenario())


def test_a_live_alarm_goes_before_all_backlog(tmp_path, broker) -> None:
    async def scenario() -> None:
        bench = Bench(tmp_path, broker.port, backlog_per_s=100)
        await bench.journal.open()
        await asyncio.gather(*(bench.journal.append(alarm(n)) for n in range(200)))
        with Tap(broker.port) as tap:
            bench._running = asyncio.create_task(bench.uplink.run())
            await until(lambda: len(tap.ids()) >= 20)
            before = len(tap.ids())
            stored = await bench.journal.append(alarm(999))
            assert stored.seq == 201
            await until(lambda: "alarm/201" in tap.ids())
            assert tap.ids().index("alarm/201") <= before + 25
            await until(lambda: len(tap.ids()) >= 201)
            assert [each for each in tap.ids() if each != "alarm/201"] == [
                f"alarm/{n}" for n in range(1, 201)
            ]
            await bench.__aexit__()

    run(scenario())


streams = st.sampled_from(["alarm", "audit", "pass"])


@given(st.lists(st.one_of(streams, st.sampled_from(["fetch", "land", "next"])), max_size=300))
@settings(max_examples=150, deadline=None)
def test_every_record_leaves_the_outbox_once_and_streams_in_order(steps) -> None:
    """A model of the disk: a reading sees it as it was, and lands later than it was made."""
    box = Outbox(backlog_per_s=1_000_000)
    box.begin([], {})
    disk: dict[str, list[Stored]] = {"alarm": [], "audit": [], "pass": []}
    taken: list[Stored] = []
    reading = None
    now_s = 0.0

    def advance(step: str) -> None:
        nonlocal reading, now_s
        now_s += 1.0
        if step == "fetch" and reading is None and (wanted := box.wants()) is not None:
            rows = [row for row in disk[wanted.stream] if row.seq > wanted.after_seq]
            unsent = [row for row in rows if row not in taken]
            reading = (wanted, unsent[:FETCH_ROWS])
        elif step == "land" and reading is not None:
            box.fetched(*reading)
            reading = None
        elif step == "next" and isinstance(item := box.next(now_s), Item):
            assert item.stored is not None
            taken.append(item.stored)
        elif step in disk:
            stream: Stream = step  # type: ignore[assignment]
            stored = Stored(
                stream=stream, epoch="0", seq=len(disk[step]) + 1, topic="", payload=b""
            )
            disk[step].append(stored)
            box.stored(stored)

    for step in steps:
        advance(step)
    for _ in range(4 * len(steps) + 20):
        for step in ("fetch", "land", "next"):
            advance(step)
    assert box.is_caught_up
    assert Counter((each.stream, each.seq) for each in taken) == Counter(
        (each.stream, each.seq) for rows in disk.values() for each in rows
    )
    for stream in ("audit", "pass"):
        seqs = [each.seq for each in taken if each.stream == stream]
        assert seqs == sorted(seqs)


def test_of_a_snapshot_only_the_newest_waits() -> None:
    box = Outbox(backlog_per_s=10)
    box.set_retained("a", b"1")
    box.set_retained("b", b"1")
    box.set_retained("a", b"2")
    box.begin([Item(topic="s", payload=b"")], {})
    items = list(iter(lambda: box.next(0.0), None))
    sent = [(item.topic, item.payload) for item in items if isinstance(item, Item)]
    assert sent == [("s", b""), ("a", b"2"), ("b", b"1")]


# ------------------------------------------------------------ receipts


def test_a_centre_that_speaks_gets_what_it_missed_soon() -> None:
    watch = outbox.ReceiptWatch(acknowledged=0, receipted=0, now_s=0.0)
    watch.acknowledged(5, 100.0)
    assert watch.due(109.0) is None
    watch.heard(0, 109.0)
    assert watch.due(109.9) is None
    assert watch.due(110.0) == 5
    assert watch.due(200.0) is None, "it has not spoken since"
    watch.heard(2, 201.0)
    assert watch.due(205.0) is None
    assert watch.due(211.0) == 5
    watch.heard(5, 212.0)
    assert watch.due(9999.0) is None


def test_a_silent_centre_gets_the_oldest_records_ever_more_seldom() -> None:
    watch = outbox.ReceiptWatch(acknowledged=5000, receipted=100, now_s=0.0)
    due = [second for second in range(20_000) if watch.due(second) == 1100]
    assert due == [300, 900, 2100, 4500, 8100, 11700, 15300, 18900]


def test_the_centres_receipts_empty_the_store(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            appends = [bench.journal.append(alarm(number)) for number in range(40)]
            appends += [bench.journal.append(passage(number)) for number in range(40)]
            await asyncio.gather(*appends)
            await released(bench)
            assert len(centre.records()) == 80
            assert centre.gaps() == {}
            assert list(centre.problems) == []
            assert bench.uplink.stats().receipts > 0
        centre.stop()

    run(scenario())


def test_without_a_receipt_nothing_leaves_and_all_is_sent_again(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker, receipts=False)
        async with Bench(tmp_path, broker.port) as bench:
            for number in range(5):
                await bench.journal.append(alarm(number))
            await until(lambda: bench.uplink.stats().is_caught_up)
            await bench.journal.flush()
            assert (await bench.journal.stats()).streams["alarm"].first_kept == 1
            assert centre.duplicates == 0
            bench.uplink._connection.close()
            await until(lambda: centre.duplicates >= 5)
            first = centre.records()
            centre.sends_receipts = True
            bench.uplink._connection.close()
            await bench.journal.append(alarm(6))
            await released(bench)
            assert [each.payload for each in centre.records()][:5] == [
                each.payload for each in first
            ]
        centre.stop()

    run(scenario())


def test_receipts_that_stand_still_bring_the_oldest_again(tmp_path, broker, monkeypatch) -> None:
    monkeypatch.setattr(outbox, "REPEAT_AFTER_S", 0.2)

    async def scenario() -> None:
        centre = centre_on(broker, receipts=False)
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            await bench.journal.append(alarm(1))
            await until(lambda: centre.duplicates >= 1, 15)
            assert bench.uplink.stats().is_connected
        centre.stop()

    run(scenario())


def test_with_delivery_by_puback_the_brokers_answer_releases(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port, delivery="puback") as bench:
            await bench.journal.append(alarm(1))
            await bench.journal.append(passage(1))
            await released(bench)
            assert bench.uplink.stats().no_subscribers >= 2

    run(scenario())


def test_a_receipt_that_is_none_is_counted_and_releases_nothing(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(alarm(1))
            await until(lambda: bench.uplink.stats().is_caught_up and bench.uplink.is_connected)
            client = paho.Client(paho.CallbackAPIVersion.VERSION2)
            client.connect("127.0.0.1", broker.port)
            client.loop_start()
            for payload in (b"", b'{"upto": 1}', b'{"epoch":"x","epoch":"y","upto":1}', b"\xff"):
                client.publish(f"{PREFIX}/receipt/alarm", payload, qos=1)
            beyond = {"epoch": bench.journal.epoch, "upto": 99}
            client.publish(f"{PREFIX}/receipt/alarm", json.dumps(beyond), qos=1)
            client.publish(f"{PREFIX}/receipt/nothing", json.dumps(beyond), qos=1)
            await until(lambda: bench.uplink.stats().receipts_refused == 5)
            await until(lambda: "receipt_refused" in [event.kind for event in bench.events])
            assert (await bench.journal.stats()).streams["alarm"].receipted == 0
            client.disconnect()
            client.loop_stop()

    run(scenario())


# ------------------------------------------------------------ a broker that fails


def test_a_broker_killed_in_mid_stream_costs_no_record(tmp_path, broker, monkeypatch) -> None:
    """The centre comes back later than the gateway: what it missed is acknowledged all the same."""
    monkeypatch.setattr(outbox, "REPEAT_SOON_S", 0.5)

    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            for number in range(300):
                await bench.journal.append(alarm(number) if number % 3 else audit(number))
                if number in (100, 200):
                    broker.kill()
                if number in (140, 240):
                    await asyncio.to_thread(broker.start)
            await until(lambda: len(centre.records()) == 300, 25)
            assert centre.gaps() == {}
            await released(bench)
            assert bench.uplink.stats().conn >= 2
        centre.stop()

    run(scenario(), 60)


def test_a_broker_that_comes_late_gets_everything(tmp_path) -> None:
    async def scenario() -> None:
        broker = Mosquitto(tmp_path)
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(alarm(1))
            await until(lambda: "Connection refused" in (bench.uplink.stats().last_error or ""))
            assert not bench.uplink.is_connected
            before = bench.uplink.progress
            await until(lambda: bench.uplink.progress > before)
            broker.start()
            with Tap(broker.port) as tap:
                await until(lambda: tap.ids() == ["alarm/1"])
            assert bench.uplink.stats().last_error is None
        broker.stop()

    run(scenario())


def test_a_broker_that_stands_still_gets_a_new_connection(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port, stuck_s=0.5) as bench:
            await until(lambda: bench.uplink.is_connected)
            broker._process.send_signal(signal.SIGSTOP)
            try:
                await bench.journal.append(alarm(1))
                await until(lambda: bench.uplink.stats().rebuilt == 1)
                assert "unanswered" in bench.uplink.stats().last_error
            finally:
                broker._process.send_signal(signal.SIGCONT)
            await until(lambda: bench.uplink.is_connected and bench.uplink.stats().is_caught_up)
            assert bench.uplink.stats().conn >= 2

    run(scenario())


def test_two_gateways_of_one_name_are_told_so(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            other = paho.Client(
                paho.CallbackAPIVersion.VERSION2, IDENTITY.client_id, protocol=paho.MQTTv5
            )
            errors: list[str] = []
            note = bench.uplink._note_failure
            bench.uplink._note_failure = lambda text: (errors.append(text), note(text))
            other.connect("127.0.0.1", broker.port)
            other.loop_start()
            await until(
                lambda: any("another gateway runs under this site" in text for text in errors)
            )
            other.disconnect()
            other.loop_stop()
            await until(lambda: bench.uplink.is_connected)

    run(scenario())


def test_a_lost_gateway_is_announced_by_its_will(tmp_path, broker) -> None:
    async def scenario() -> None:
        with Tap(broker.port) as tap:
            bench = Bench(tmp_path, broker.port, protocol="3.1.1")  # no will delay there
            await bench.journal.open()
            running = asyncio.create_task(bench.uplink.run())
            await until(lambda: tap.states() == ["online"])
            running.cancel()
            await until(lambda: tap.states() == ["online", "offline"])
            online, offline = (
                json.loads(payload) for topic, payload in tap.messages if topic == "status"
            )
            assert online["session"] == offline["session"]
            await bench.journal.close()

    run(scenario())


# ------------------------------------------------------------ what the broker will not take

ACL = """
acl_file {folder}/acl
"""


def test_a_refused_record_is_parked_and_the_rest_flows(tmp_path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(alarm(1))
            await bench.journal.append(replace(alarm(2), kind="metal"))
            await bench.journal.append(alarm(3))
            await until(lambda: len(centre.records()) == 3)  # two alarms and the tombstone
            (stone,) = centre.records("audit")
            assert stone.data["from"] == stone.data["to"] == 2
            assert "Not authorized" in stone.data["reason"]
            assert bench.uplink.stats().parked == 1
            assert bench.uplink.stats().refused == {"Not authorized": 1}
            await released(bench)
        centre.stop()

    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "acl").write_text(
        "topic readwrite checkpoint/#\ntopic deny checkpoint/v1/+/+/ev/alarm/lane/+/metal\n"
    )
    with running_mosquitto(folder, extra=ACL) as broker:
        run(scenario(broker))


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
def test_a_record_over_our_limit_is_parked_and_the_rest_flows(tmp_path, broker, protocol) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port, protocol=protocol, max_payload_bytes=4000) as bench:
            await bench.journal.append(alarm(1, text="x" * 5000))
            await bench.journal.append(alarm(2))
            await until(lambda: len(centre.records()) == 2)
            assert centre.dropped(centre.records("alarm")[0].key) == [(1, 1)]
            await released(bench)
        centre.stop()

    run(scenario())


def test_a_record_over_the_brokers_limit_is_parked_and_the_rest_flows(tmp_path) -> None:
    async def scenario(broker: Mosquitto) -> None:
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(alarm(1, text="x" * 5000))
            await bench.journal.append(alarm(2))
            await until(lambda: bench.uplink.is_connected and bench.uplink.stats().is_caught_up)
            await until(lambda: "parked" in [event.kind for event in bench.events])
            assert bench.uplink.stats().parked == 1
            assert bench.uplink.stats().conn == 1

    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder, extra="max_packet_size 3000\n") as broker:
        run(scenario(broker))


# ------------------------------------------------------------ MQTT 3.1.1, live figures


def test_all_of_it_goes_by_mqtt_3_1_1(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port, protocol="3.1.1") as bench:
            for number in range(20):
                await bench.journal.append(alarm(number))
            await released(bench)
            assert len(centre.records("alarm")) == 20
        centre.stop()

    run(scenario())


def test_live_figures_go_only_while_connected(tmp_path, broker) -> None:
    async def scenario() -> None:
        topic = wire.live_topic(IDENTITY, "inbound-1", "gamma-background")
        payload = b'{"at":"2026-11-22T08:14:07.412301Z","device":"rpm","cps":[402.0],"level":"ok"}'
        with Tap(broker.port) as tap:
            async with Bench(tmp_path, broker.port) as bench:
                bench.uplink.live(topic, payload)
                assert bench.uplink.stats().live_skipped == 1
                await until(lambda: bench.uplink.is_connected)
                for _ in range(300):
                    bench.uplink.live(topic, payload)
                    await asyncio.sleep(0)
                await until(lambda: any(topic.startswith("meas/") for topic, _ in tap.messages))
                await until(lambda: not bench.uplink._live_mids)

    run(scenario())


# ------------------------------------------------------------ TLS


class Authority:
    """A certificate authority of the test's own."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.ca_file = self._write(f"{name}-ca.pem", self._sign(self.name, self.key, is_ca=True))

    def issue(self, name: str, *, days: int = 10) -> tuple[str, str]:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        certificate = self._write(f"{name}.pem", self._sign(subject, key, days=days))
        private = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path = self.folder / f"{name}.key"
        path.write_bytes(private)
        return certificate, str(path)

    def _sign(self, subject, key, *, days: int = 10, is_ca: bool = False) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        host = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=30))
            .not_valid_after(now + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def _write(self, name: str, certificate: x509.Certificate) -> str:
        path = self.folder / name
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        return str(path)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"), "centre")


@pytest.fixture(scope="module")
def tls_broker(tmp_path_factory, authority):
    certificate, key = authority.issue("broker")
    extra = (
        f"cafile {authority.ca_file}\ncertfile {certificate}\nkeyfile {key}\n"
        "require_certificate true\ntls_version tlsv1.3\n"
    )
    with running_mosquitto(tmp_path_factory.mktemp("broker"), extra=extra) as running:
        yield running


def secured(authority: Authority, name: str = "gateway", **more) -> dict:
    certificate, key = authority.issue(name, **more)
    return {"tls": True, "ca_file": authority.ca_file, "cert_file": certificate, "key_file": key}


def test_records_go_by_tls_1_3_with_a_client_certificate(tmp_path, tls_broker, authority) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, tls_broker.port, **secured(authority)) as bench:
            for number in range(50):
                await bench.journal.append(alarm(number))
            await until(lambda: bench.uplink.is_connected and bench.uplink.stats().is_caught_up)
            assert bench.uplink._connection._client.socket().version() == "TLSv1.3"

    run(scenario())


def test_a_bad_certificate_is_named_and_tried_again_until_it_is_good(
    tmp_path, tls_broker, authority
) -> None:
    async def scenario() -> None:
        good = secured(authority)
        certificate, key = (Path(good[name]) for name in ("cert_file", "key_file"))
        kept = certificate.read_bytes(), key.read_bytes()
        expired, expired_key = authority.issue("expired", days=-1)
        shutil.copy(expired, certificate)
        shutil.copy(expired_key, key)
        async with Bench(tmp_path, tls_broker.port, **good) as bench:
            await bench.journal.append(alarm(1))
            await until(lambda: "cert_file" in (bench.uplink.stats().last_error or ""))
            assert "it refused our certificate" in bench.uplink.stats().last_error
            certificate.write_bytes(kept[0])
            key.write_bytes(kept[1])
            await until(lambda: bench.uplink.is_connected and bench.uplink.stats().is_caught_up)

    run(scenario())


def test_a_broker_of_another_authority_is_not_trusted(tmp_path, tls_broker, authority) -> None:
    async def scenario() -> None:
        stranger = Authority(tmp_path, "stranger")
        options = {**secured(authority, "gateway-2"), "ca_file": stranger.ca_file}
        async with Bench(tmp_path, tls_broker.port, **options) as bench:
            await until(lambda: bench.uplink.stats().last_error is not None)
            text = bench.uplink.stats().last_error
            assert "its certificate is not trusted" in text
            assert "[mqtt] ca_file" in text
            tries = bench.uplink.stats().conn
            await until(lambda: bench.uplink.stats().conn > tries + 1)

    run(scenario())


def test_an_unreadable_certificate_file_is_one_clear_sentence(tmp_path, authority) -> None:
    (tmp_path / "empty.pem").write_text("")
    missing = MqttOptions(host="x", ca_file=str(tmp_path / "missing.pem"))
    with pytest.raises(UplinkError, match=r"\[mqtt\] ca_file = .*missing.pem: No such file"):
        tls_context(missing)
    wrong = MqttOptions(
        host="x", ca_file=authority.ca_file, cert_file=str(tmp_path / "empty.pem"), key_file=None
    )
    with pytest.raises(UplinkError, match=r"\[mqtt\] cert_file and key_file = .*expected PEM"):
        tls_context(wrong)


def test_a_missing_file_does_not_end_the_uplink(tmp_path, broker) -> None:
    async def scenario() -> None:
        options = {"tls": True, "ca_file": str(tmp_path / "missing.pem")}
        async with Bench(tmp_path, broker.port, **options) as bench:
            await until(lambda: "missing.pem" in (bench.uplink.stats().last_error or ""))
            stored = await bench.journal.append(alarm(1))
            assert stored.topic == wire.topic_of(alarm(1), ENCODER.identity)

    run(scenario())
