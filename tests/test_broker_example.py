"""The example broker of config/mosquitto, run as it stands: who gets in and who may do what."""

from __future__ import annotations

import socket
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import paho.mqtt.client as mqtt
import pytest
from certificates import Authority
from mosquitto import running_mosquitto
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

pytestmark = pytest.mark.broker

EXAMPLE = Path(__file__).resolve().parent.parent / "config" / "mosquitto"
PEOPLE = ("site-a/gw-1", "site-b/gw-1", "ingest", "operator", "display")
A, B = "checkpoint/v1/site-a/gw-1", "checkpoint/v1/site-b/gw-1"
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Broker:
    port: int
    folder: Path

    def client(self, name: str, *, folder: Path | None = None) -> Client:
        return Client(self.port, folder or self.folder, name)


class Client:
    """A client with the certificate of that name; waits for answers, with a deadline."""

    def __init__(self, port: int, folder: Path, name: str) -> None:
        self.name = name
        self._stem = name.replace("/", "-")
        self._port, self._folder = port, folder
        self._answers: dict[int, str] = {}
        self._received: list[str] = []
        self._changed = threading.Condition()
        self._connected: str | None = None
        self.mqtt = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=self._stem, protocol=MQTTProtocolVersion.MQTTv5
        )
        self.mqtt.on_connect = lambda c, u, f, reason, p: self._set("_connected", str(reason))
        self.mqtt.on_publish = lambda c, u, mid, reason, p: self._answer(mid, str(reason))
        self.mqtt.on_subscribe = lambda c, u, mid, reasons, p: self._answer(mid, str(reasons[0]))
        self.mqtt.on_message = lambda c, u, message: self._take(message.topic)

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self._folder / "ca.pem")
        context.load_cert_chain(
            self._folder / f"{self._stem}.pem", self._folder / f"{self._stem}.key"
        )
        return context

    def __enter__(self) -> Self:
        self.mqtt.tls_set_context(self.context())
        self.mqtt.connect("127.0.0.1", self._port)
        self.mqtt.loop_start()
        self._wait(lambda: self._connected is not None)
        assert self._connected == "Success"
        return self

    def __exit__(self, *args) -> None:
        self.mqtt.disconnect()
        self.mqtt.loop_stop()

    def may_publish(self, topic: str, *, retain: bool = False) -> bool:
        sent = self.mqtt.publish(topic, self.name, qos=1, retain=retain)
        self._wait(lambda: sent.mid in self._answers)
        answer = self._answers[sent.mid]
        assert answer in ("Success", "No matching subscribers", "Not authorized")
        return answer != "Not authorized"

    def subscribe(self, topic: str) -> None:
        _, mid = self.mqtt.subscribe(topic, qos=1)
        self._wait(lambda: mid in self._answers)

    def received_until(self, last: str) -> set[str]:
        """Return all topics received, once that one came: the broker keeps a publisher's order."""
        self._wait(lambda: last in self._received)
        return set(self._received)

    def _set(self, name: str, value: str) -> None:
        with self._changed:
            setattr(self, name, value)
            self._changed.notify_all()

    def _answer(self, mid: int, answer: str) -> None:
        with self._changed:
            self._answers[mid] = answer
            self._changed.notify_all()

    def _take(self, topic: str) -> None:
        with self._changed:
            self._received.append(topic)
            self._changed.notify_all()

    def _wait(self, condition) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, PATIENCE_S), f"{self.name}: no answer"


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    folder = tmp_path_factory.mktemp("broker")
    authority = Authority()
    authority.write(folder / "ca.pem")
    authority.issue(folder, "broker", "localhost")
    for name in PEOPLE:
        authority.issue(folder, name.replace("/", "-"), name)
    authority.issue(folder, "withdrawn", "site-a/gw-2", revoked=True)
    authority.write_revoked(folder / "revoked.pem")
    (folder / "checkpoint.acl").write_bytes((EXAMPLE / "checkpoint.acl").read_bytes())
    (folder / "checkpoint.acl").chmod(0o600)
    config = (EXAMPLE / "checkpoint.conf").read_text(encoding="utf-8")
    for at_site, here in (
        ("listener 8883", "listener {port} 127.0.0.1"),
        ("/etc/mosquitto/checkpoint/", "{folder}/"),
        ("/var/lib/mosquitto/", "{folder}/"),
    ):
        assert at_site in config
        config = config.replace(at_site, here)
    with running_mosquitto(folder, config) as mosquitto:
        yield Broker(mosquitto.port, folder)


OUTGOING = (
    "status",
    "about",
    "health",
    "config",
    "lane/inbound-1/state",
    "lane/inbound-1/dev/rpm/state",
    "ev/alarm/lane/inbound-1/gamma",
    "ev/alarm/gw/fault",
    "ev/pass/lane/inbound-1/passage",
    "ev/audit/boot",
    "meas/lane/inbound-1/gamma",
    "blob/0a1b/0",
    "rsp/17",
)
INCOMING = ("cmd/alarm.ack", "receipt/alarm")


def test_a_gateway_writes_all_its_own_topics_and_none_of_another_gateway(broker):
    with broker.client("site-a/gw-1") as gateway:
        for topic in OUTGOING:
            assert gateway.may_publish(f"{A}/{topic}"), topic
            assert not gateway.may_publish(f"{B}/{topic}"), topic
        assert not gateway.may_publish("checkpoint/v1/site-a/status")
        assert not gateway.may_publish("other/topic")


def test_a_gateway_cannot_write_its_own_commands_and_receipts(broker):
    with broker.client("site-a/gw-1") as gateway:
        for topic in INCOMING:
            assert not gateway.may_publish(f"{A}/{topic}"), topic
            assert not gateway.may_publish(f"{B}/{topic}"), topic


@pytest.mark.parametrize(
    ("name", "allowed", "refused"),
    [
        ("ingest", ("receipt/alarm", "cmd/replay"), ("cmd/alarm.ack", "ev/audit/boot", "status")),
        ("operator", ("cmd/alarm.ack", "cmd/replay"), ("receipt/alarm", "ev/audit/boot", "rsp/1")),
        ("display", (), (*INCOMING, "cmd/replay", "status", "ev/alarm/gw/fault")),
    ],
)
def test_the_centres_roles_write_no_more_than_their_own(broker, name, allowed, refused):
    with broker.client(name) as client:
        for topic in allowed:
            assert client.may_publish(f"{A}/{topic}"), topic
        for topic in refused:
            assert not client.may_publish(f"{A}/{topic}"), topic


def test_everyone_receives_what_is_theirs_to_read_and_nothing_else(broker):
    with (
        broker.client("site-a/gw-1") as gateway,
        broker.client("ingest") as ingest,
        broker.client("operator") as operator,
        broker.client("display") as display,
        broker.client("site-b/gw-1") as other,
    ):
        for client in (gateway, ingest, operator, display, other):
            client.subscribe("#")
        for topic in OUTGOING:
            assert gateway.may_publish(f"{A}/{topic}")
        assert gateway.may_publish(f"{A}/status")  # all may read it but the other gateway
        sent = {f"{A}/{topic}" for topic in OUTGOING}
        hidden = {f"{A}/{topic}" for topic in ("config", "ev/audit/boot", "blob/0a1b/0", "rsp/17")}
        # the last one sent is readable by each; what had not come by then was withheld
        last = f"{A}/rsp/17"
        assert ingest.received_until(last) >= sent
        assert operator.received_until(last) >= sent
        assert operator.may_publish(f"{A}/cmd/alarm.ack")
        assert ingest.may_publish(f"{A}/receipt/alarm")
        assert operator.may_publish(f"{B}/cmd/alarm.ack")
        mine = gateway.received_until(f"{A}/receipt/alarm")
        assert mine == {f"{A}/cmd/alarm.ack", f"{A}/receipt/alarm"}
        assert other.received_until(f"{B}/cmd/alarm.ack") == {f"{B}/cmd/alarm.ack"}
        assert gateway.may_publish(f"{A}/ev/alarm/gw/tamper")
        seen = display.received_until(f"{A}/ev/alarm/gw/tamper")
        assert seen == sent - hidden | {f"{A}/ev/alarm/gw/tamper"}


def test_no_certificate_a_foreign_one_and_a_revoked_one_are_refused(broker, tmp_path):
    foreign = Authority()
    foreign.issue(tmp_path, "site-a-gw-1", "site-a/gw-1")
    (tmp_path / "ca.pem").write_bytes((broker.folder / "ca.pem").read_bytes())
    none = ssl.create_default_context(cafile=broker.folder / "ca.pem")
    stranger = broker.client("site-a/gw-1", folder=tmp_path).context()
    revoked = broker.client("withdrawn").context()
    for context in (none, stranger, revoked):
        with pytest.raises(OSError, match=r"(?i)certificate|alert|reset|eof"):
            _talk(broker.port, context)
    _talk(broker.port, broker.client("display").context())


def test_a_connection_below_tls_1_3_is_refused(broker):
    context = broker.client("display").context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        _talk(broker.port, context)


def _talk(port: int, context: ssl.SSLContext) -> None:
    """Shake hands and wait for the broker's first word: TLS 1.3 refuses only after its own side."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as raw,
        context.wrap_socket(raw, server_hostname="localhost") as secured,
    ):
        secured.sendall(bytes.fromhex("c000"))  # PINGREQ before CONNECT: the broker hangs up
        assert secured.recv(1) == b""
