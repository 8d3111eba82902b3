"""One connection to the broker: the only file that knows paho.

paho is used as a socket, not as a queue: one client for one connection, never reconnected, so that
nothing is sent twice behind our back and nothing waits in it unseen. Facts of paho-mqtt 2.2.0 this
rests on, read in its source: an exception in a callback ends its thread while ``is_connected()``
stays true; a refused publish counts as published; neither Receive Maximum nor Maximum Packet Size
of the broker is obeyed; ``publish()`` writes to the socket from the caller's thread unless paho's
own thread runs or a register-write callback is set; with ``on_log`` every packet is put into words
and only a logger is asked first whether it wants them; properties are packed at every publish.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from agent.delivery.wire import Identity
from agent.settings import MqttOptions

WILL_DELAY_S: Final = 15
SESSION_EXPIRY_S: Final = 600
LIVE_EXPIRY_S: Final = 10
TCP_TIMEOUT_S: Final = 5.0
MQTT_PACKET_LIMIT: Final = 268_435_455
"""Remaining length of four bytes (MQTT 5.0, 1.5.5)."""
_INCOMING_LIMIT_BYTES: Final = 1 << 16


class UplinkError(OSError):
    """The broker cannot be reached or will not have us; one sentence with the remedy."""


@dataclass(frozen=True, slots=True)
class Acknowledged:
    """The broker answered a publish; a ``code`` from 0x80 on is a refusal."""

    mid: int
    code: int
    name: str


@dataclass(frozen=True, slots=True)
class Message:
    """The broker delivered something."""

    topic: str
    payload: bytes


Heard = Acknowledged | Message


class _PublishProperties(Properties):
    """Properties of a publish that never change: packed once, not for each message."""

    _packed: bytes

    def __init__(self, **values: object) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]  # paho leaves it untyped
        for name, value in values.items():
            setattr(self, name, value)
        packed: bytes = super().pack()  # type: ignore[no-untyped-call]
        object.__setattr__(self, "_packed", packed)  # paho's takes no names but its own

    def pack(self) -> bytes:
        """Return the bytes as they stand in the packet."""
        return self._packed


class _LastError(logging.Logger):
    """Takes paho's errors only; the last one may be the one word on why a line was lost."""

    def __init__(self) -> None:
        super().__init__("paho", logging.ERROR)
        self.text = ""

    def handle(self, record: logging.LogRecord) -> None:
        """Keep what it says; the cause of a failed read, such as a TLS alert, is told here only."""
        self.text = _alert(record.getMessage())


class _TlsSocket(ssl.SSLSocket):
    """Closes itself where the handshake fails; paho would leave it open."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as inherited
        try:
            super().do_handshake(block)
        except OSError:
            self.close()
            raise


def tls_context(options: MqttOptions) -> ssl.SSLContext:
    """Return a TLS 1.3 context with the configured CA and our certificate; raises UplinkError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class = _TlsSocket
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    file, option = options.ca_file, "ca_file"
    try:
        if options.ca_file is None:
            context.load_default_certs()
        else:
            context.load_verify_locations(options.ca_file)
        if options.cert_file is not None:
            file, option = options.cert_file, "cert_file and key_file"
            context.load_cert_chain(options.cert_file, options.key_file)
    except OSError as exc:  # ssl.SSLError is one
        raise UplinkError(
            f"[mqtt] {option} = {file}: {exc.strerror or exc}; expected PEM that this user can read"
        ) from exc
    return context


class Connection:
    """One attempt to connect and what comes of it; made, used and closed on the event loop.

    ``accepted`` completes when the broker takes us, ``ended`` with the reason, one sentence, when
    all is over; then nothing more is heard. Raises UplinkError where a file is unreadable.
    """

    def __init__(
        self,
        options: MqttOptions,
        identity: Identity,
        will: bytes,
        heard: Callable[[Connection, Heard], None],
    ) -> None:
        loop = asyncio.get_running_loop()
        self.name = f"broker {options.host}:{options.port}"
        self.accepted: asyncio.Future[str] = loop.create_future()
        self.ended: asyncio.Future[str] = loop.create_future()
        self.packet_limit = MQTT_PACKET_LIMIT
        self._options = options
        self._is_v5 = options.protocol == "5"
        self._receive_maximum = 65535
        self._heard = heard
        self._loop = loop
        self._why: str | None = None
        self._last_error = _LastError()
        self._untaken: deque[Heard] = deque()
        self._is_taking = False
        self._client = self._make_client(identity, will)
        self._record_properties = _PublishProperties(ContentType="application/cloudevents+json")
        self._chunk_properties = _PublishProperties(ContentType="application/octet-stream")
        self._snapshot_properties = _PublishProperties(ContentType="application/json")
        self._live_properties = _PublishProperties(MessageExpiryInterval=LIVE_EXPIRY_S)
        self._thread = threading.Thread(target=self._serve, name="mqtt", daemon=True)

    def _make_client(self, identity: Identity, will: bytes) -> paho.Client:
        options = self._options
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=identity.client_id,
            clean_session=None if self._is_v5 else False,
            protocol=MQTTProtocolVersion.MQTTv5 if self._is_v5 else MQTTProtocolVersion.MQTTv311,
            reconnect_on_failure=False,
        )
        client.max_inflight_messages_set(0)  # the window is ours
        client.connect_timeout = TCP_TIMEOUT_S
        if options.tls:
            client.tls_set_context(tls_context(options))
        if options.username is not None:
            client.username_pw_set(options.username, _password(options))
        delay = _properties(PacketTypes.WILLMESSAGE, WillDelayInterval=WILL_DELAY_S)
        client.will_set(
            identity.status_topic,
            will,
            qos=1,
            retain=True,
            properties=delay if self._is_v5 else None,
        )
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        client.enable_logger(self._last_error)
        client.on_socket_register_write = _let_the_loop_write
        client.on_socket_open = _send_at_once
        return client

    # ------------------------------------------------------------ on the event loop

    def start(self) -> None:
        """Begin to connect, on a thread of its own; returns at once."""
        self._thread.start()

    def window(self, wanted: int) -> int:
        """Return how many publishes may be in flight: what is wanted, what the broker allows."""
        return min(wanted, self._receive_maximum)

    def publish(
        self, topic: str, payload: bytes, *, is_retained: bool, is_opaque: bool = False
    ) -> int | None:
        """Hand a QoS 1 message to the socket and return its id; None: it is no MQTT message.

        ``is_opaque``: a part of a blob, of no type by itself.
        """
        properties = self._snapshot_properties if is_retained else self._record_properties
        if is_opaque:
            properties = self._chunk_properties
        try:
            sent = self._client.publish(
                topic,
                payload,
                qos=1,
                retain=is_retained,
                properties=properties if self._is_v5 else None,
            )
        except ValueError:
            return None
        return sent.mid

    def publish_live(self, topic: str, payload: bytes) -> int | None:
        """Hand a QoS 0 message to the socket and return its id; None: it is no MQTT message."""
        try:
            properties = self._live_properties if self._is_v5 else None
            return self._client.publish(topic, payload, qos=0, properties=properties).mid
        except ValueError:
            return None

    def subscribe(self, topic_filter: str) -> None:
        """Ask for messages, QoS 1."""
        self._client.subscribe(topic_filter, qos=1)

    def disconnect(self) -> None:
        """Say good-bye, so that the broker sends no will."""
        self._client.disconnect()

    def close(self) -> None:
        """Cut the line; the thread ends by itself and nothing more is heard of it."""
        line = self._client.socket()
        if isinstance(line, socket.socket):
            # The plain socket's shutdown: TLS would want to say good-bye and could wait for it.
            with contextlib.suppress(OSError):
                socket.socket.shutdown(line, socket.SHUT_RDWR)

    # ------------------------------------------------------------ on the connection's own thread

    def _serve(self) -> None:
        text = "connection closed"
        try:
            self._connect()
            result = MQTTErrorCode.MQTT_ERR_SUCCESS
            while result == MQTTErrorCode.MQTT_ERR_SUCCESS:
                result = self._client.loop(timeout=1.0)
            text = self._why or self._last_error.text or paho.error_string(result).rstrip(".")
        except (OSError, ValueError) as exc:
            text = _reason(exc)
        finally:
            _let_go(self._client)
            self._post(self._end, f"{self.name}: {text}")

    def _connect(self) -> None:
        options = self._options
        if not self._is_v5:
            self._client.connect(options.host, options.port, options.keepalive_s)
            return
        self._client.connect(
            options.host,
            options.port,
            options.keepalive_s,
            clean_start=False,
            properties=_properties(
                PacketTypes.CONNECT,
                SessionExpiryInterval=SESSION_EXPIRY_S,
                MaximumPacketSize=_INCOMING_LIMIT_BYTES,
            ),
        )

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        """Hand over to the event loop; must not raise, so a loop that has ended is let be."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    def _hear(self, event: Heard) -> None:
        """Hand over an event; the loop is woken once for all that it has not taken yet."""
        self._untaken.append(event)
        if not self._is_taking:
            self._is_taking = True
            self._post(self._take)

    def _on_connect(
        self,
        _client: paho.Client,
        _userdata: object,
        _flags: paho.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        if reason.is_failure:
            self._why = (
                f"it refused us: {reason}; check client id, certificate and the broker's ACL"
            )
            return
        limit = getattr(properties, "MaximumPacketSize", MQTT_PACKET_LIMIT)
        receive_maximum = getattr(properties, "ReceiveMaximum", 65535)
        self._post(self._accept, limit, receive_maximum)

    def _on_disconnect(
        self,
        _client: paho.Client,
        _userdata: object,
        flags: paho.DisconnectFlags,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        if flags.is_disconnect_packet_from_server:
            self._why = f"it disconnected us: {reason}"
            if reason.value == 0x8E:
                self._why += "; another client has our id, no two gateways may share site and gw"

    def _on_publish(
        self,
        _client: paho.Client,
        _userdata: object,
        mid: int,
        reason: ReasonCode,
        _properties: Properties | None,
    ) -> None:
        self._hear(Acknowledged(mid, reason.value, str(reason) if reason.is_failure else ""))

    def _on_message(
        self, _client: paho.Client, _userdata: object, message: paho.MQTTMessage
    ) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # no topic of ours
        self._hear(Message(topic, bytes(message.payload)))

    def _on_subscribe(
        self,
        _client: paho.Client,
        _userdata: object,
        _mid: int,
        reasons: list[ReasonCode],
        _properties: Properties | None,
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._hear(Acknowledged(0, reasons[0].value, f"subscription: {reasons[0]}"))

    # ------------------------------------------------------------ handed over

    def _accept(self, packet_limit: int, receive_maximum: int) -> None:
        self.packet_limit = packet_limit
        self._receive_maximum = receive_maximum
        if not self.accepted.done():
            self.accepted.set_result(self.name)

    def _take(self) -> None:
        self._is_taking = False  # first: what comes from here on wakes the loop again
        try:
            for _ in range(len(self._untaken)):
                self._heard(self, self._untaken.popleft())
        except BaseException:
            self._post(self._take)  # a bug in one costs the others nothing
            raise

    def _end(self, text: str) -> None:
        if not self.ended.done():
            self.ended.set_result(text)


def _let_go(client: paho.Client) -> None:
    """Take our methods from it: in a circle with us it would keep its sockets open."""
    client.on_connect = client.on_disconnect = client.on_publish = None
    client.on_message = client.on_subscribe = None


def _let_the_loop_write(_client: paho.Client, _userdata: object, _socket: object) -> None:
    """Set so that ``publish`` wakes the connection's thread instead of writing itself."""


def _send_at_once(_client: paho.Client, _userdata: object, line: object) -> None:
    """Switch Nagle's delay off: a small message would wait up to 40 ms for the broker's TCP."""
    assert isinstance(line, socket.socket)
    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _properties(packet: int, **values: object) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves it untyped
    for name, value in values.items():
        setattr(properties, name, value)
    return properties


def _password(options: MqttOptions) -> str | None:
    if options.password_file is None:
        return None
    try:
        return Path(options.password_file).read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise UplinkError(
            f"[mqtt] password_file = {options.password_file}: {exc}; expected a readable file"
        ) from exc


def _reason(exc: Exception) -> str:
    """Return why no connection came about, with the remedy where it is known."""
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted: {exc.verify_message}; check [mqtt] ca_file, host and "
            "this machine's clock"
        )
    if isinstance(exc, ssl.SSLError):
        return _alert(str(exc))
    return f"{getattr(exc, 'strerror', None) or exc or type(exc).__name__}"


def _alert(text: str) -> str:
    """Return what the broker's TLS said; it judges our certificate after the handshake."""
    if "ALERT" in text and any(word in text for word in ("CERTIFICATE", "UNKNOWN_CA")):
        return f"it refused our certificate ({text}); renew or correct [mqtt] cert_file"
    return text
