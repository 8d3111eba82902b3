"""A command centre: keeps every record, knows what is missing, and says what it holds.

It subscribes to ``{root}/v1/#`` and reads, under ``{root}/v1/{site}/{gw}/``::

    ev/...                    records, CloudEvents JSON with stream, epoch, seq, data
    blob/{sha256}/{index}     parts of what a record names in its ``blobs``
    receipt/{stream}          its own, retained: where it stood before it was restarted
    status about health config lane/...   snapshots, of which the newest is kept
    anything else             counted only

A record is *held* when it and all its blobs are here. Of each stream (site, gateway, stream, epoch;
sequence numbers begin at 1) the unbroken prefix of held records is receipted, and a number that an
audit record of kind ``drop`` explains is no gap; a blob that one explains is not waited for. The
receipt is retained JSON
``{"epoch", "upto", "by", "at"}``.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
import ssl
import threading
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from simulators.ledger import IDENTIFIER, Progress, Stored, Stream, is_number, parse, read_record

__all__ = ["Centre", "Stored", "Stream"]

_RECEIPT_PERIOD_S = 0.2
_CHUNK_LIMIT_BYTES = 128 * 1024
_SNAPSHOT = re.compile(r"(status|about|health|config|lane/.+)")
_TABLES = """
CREATE TABLE IF NOT EXISTS record (
    id TEXT PRIMARY KEY, topic TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS blob (sha256 TEXT PRIMARY KEY, content BLOB NOT NULL);
"""


class Centre:
    """One command centre on one broker; runs on paho's thread and one of its own.

    All questions may be asked from any thread, and within a condition given to `wait_for`.

    Parameters
    ----------
    host, port : the broker
    root : the first part of every topic
    tls : None: in the clear
    protocol : MQTT 5, or 3.1.1
    username, password : None: anonymous
    client_id, by : its name at the broker, and in its receipts
    session_expiry_s : how long the broker keeps messages for it while it is away; 0: not at all
        (with 3.1.1 any other figure means: as long as the broker likes)
    receipts : False: a centre that never says what it holds; `sends_receipts` changes it
    database : an SQLite file that outlives the centre; None: memory only
    now : the clock of the receipts' ``at``

    ``is_connected`` means subscribed; ``problems`` says in a sentence each what was refused.
    """

    def __init__(  # noqa: PLR0913 - every one is a choice that some test or demonstration makes
        self,
        host: str,
        port: int,
        root: str = "checkpoint",
        tls: ssl.SSLContext | None = None,
        *,
        protocol: Literal["5", "3.1.1"] = "5",
        username: str | None = None,
        password: str | None = None,
        client_id: str = "centre",
        by: str = "centre",
        session_expiry_s: int = 0,
        receipts: bool = True,
        database: Path | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._host, self._port = host, port
        self._prefix = f"{root}/v1/"
        self._by = by
        self._now = now
        self._session_expiry_s = session_expiry_s
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._receipts_due: set[Stream] = set()
        self._epoch: dict[tuple[str, str, str], str] = {}  # the newest of each stream
        self._progress: dict[Stream, Progress] = {}
        self._records: dict[str, Stored] = {}
        self._chunks: dict[str, dict[int, bytes]] = {}
        self._blobs: dict[str, bytes] = {}
        self._awaiting: list[Stored] = []
        self._lost_blobs: set[str] = set()  # what gateways said they did not keep
        self.sends_receipts = receipts
        self.snapshots: dict[str, Any] = {}  # topic → JSON
        self.duplicates = 0
        self.others = 0
        self.connections = 0
        self.is_connected = False
        self.problems: deque[str] = deque(maxlen=1000)
        self._database = None if database is None else self._open(database)
        self._client = self._make_client(client_id, protocol)
        if username is not None:
            self._client.username_pw_set(username, password)
        if tls is not None:
            self._client.tls_set_context(tls)
        self._sender = threading.Thread(target=self._send_receipts, name="receipts", daemon=True)

    def _make_client(self, client_id: str, protocol: Literal["5", "3.1.1"]) -> mqtt.Client:
        is_v5 = protocol == "5"
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=MQTTProtocolVersion.MQTTv5 if is_v5 else MQTTProtocolVersion.MQTTv311,
            clean_session=None if is_v5 else self._session_expiry_s == 0,
        )
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.reconnect_delay_set(min_delay=1, max_delay=5)
        return client

    # --- running --------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect, and go on trying until `stop`; returns at once."""
        properties = None
        if self._client.protocol == MQTTProtocolVersion.MQTTv5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = self._session_expiry_s
            clean_start = self._session_expiry_s == 0
            self._client.connect_async(
                self._host, self._port, 20, clean_start=clean_start, properties=properties
            )
        else:
            self._client.connect_async(self._host, self._port, 20)
        self._client.loop_start()
        self._sender.start()

    def stop(self) -> None:
        """Disconnect and end both threads; what was received can still be asked."""
        self._stopping.set()
        self._client.disconnect()
        self._client.loop_stop()
        # In a circle with us it would keep its sockets until a collection.
        self._client.on_connect = self._client.on_disconnect = None
        self._client.on_message = self._client.on_subscribe = None
        if self._sender.is_alive():
            self._sender.join(5.0)
        with self._changed:
            if self._database is not None:
                self._database.close()
                self._database = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    # --- questions ------------------------------------------------------------------------------

    def wait_for(self, condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
        """Wait until the condition holds; False where it does not within the time.

        It is asked again after every message, on the caller's thread.
        """
        with self._changed:
            return self._changed.wait_for(condition, timeout_s)

    def records(
        self, stream: str | None = None, *, site: str | None = None, gw: str | None = None
    ) -> list[Stored]:
        """Return the records received, each once, in order of first arrival."""
        with self._changed:
            return [
                record
                for record in self._records.values()
                if stream in (None, record.key.stream)
                and site in (None, record.key.site)
                and gw in (None, record.key.gw)
            ]

    def record(self, record_id: str) -> Stored | None:
        """Return one record, or None where it has not come."""
        with self._changed:
            return self._records.get(record_id)

    def streams(self) -> list[Stream]:
        """Return every stream that anything is known of."""
        with self._changed:
            return sorted(self._progress)

    def upto(self, key: Stream) -> int:
        """Return the end of the unbroken prefix, 0 where even the first record is missing."""
        with self._changed:
            progress = self._progress.get(key)
            return 0 if progress is None else progress.upto

    def highest(self, key: Stream) -> int:
        """Return the highest sequence number seen or explained; 0: none."""
        with self._changed:
            progress = self._progress.get(key)
            return 0 if progress is None else progress.highest

    def gaps(self) -> dict[Stream, list[tuple[int, int]]]:
        """Return the ranges (first, last) missing and unexplained below the highest of a stream."""
        with self._changed:
            found = {key: progress.gaps() for key, progress in self._progress.items()}
        return {key: gaps for key, gaps in found.items() if gaps}

    def dropped(self, key: Stream) -> list[tuple[int, int]]:
        """Return the ranges that the gateway said it dropped."""
        with self._changed:
            progress = self._progress.get(key)
            return [] if progress is None else sorted(progress.dropped)

    def blob(self, sha256: str) -> bytes | None:
        """Return a blob whose parts are all here, or None."""
        with self._changed:
            return self._blobs.get(sha256)

    # --- what arrives (paho's thread; nothing here may raise) -----------------------------------

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del userdata, flags, properties
        with self._changed:
            if reason.is_failure:
                self.problems.append(f"broker refused the centre: {reason}")
            else:
                client.subscribe(f"{self._prefix}#", qos=1)
            self._changed.notify_all()

    def _on_subscribe(
        self,
        client: mqtt.Client,
        userdata: object,
        mid: int,
        reasons: list[ReasonCode],
        properties: Properties | None,
    ) -> None:
        del client, userdata, mid, properties
        with self._changed:
            if any(reason.is_failure for reason in reasons):
                self.problems.append(f"broker refused the subscription: {reasons[0]}")
            else:
                self.is_connected = True
                self.connections += 1
                self._receipts_due.update(self._progress)
            self._changed.notify_all()

    def _on_disconnect(
        self,
        client: mqtt.Client,
        userdata: object,
        flags: mqtt.DisconnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        del client, userdata, flags, reason, properties
        with self._changed:
            self.is_connected = False
            self._changed.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: object, message: mqtt.MQTTMessage) -> None:
        del client, userdata
        try:
            topic = message.topic
        except UnicodeDecodeError:
            self.problems.append("a topic is not UTF-8")
            return
        with self._changed:
            self._take(topic, bytes(message.payload))
            self._changed.notify_all()

    def _take(self, topic: str, payload: bytes) -> None:
        parts = topic.removeprefix(self._prefix).split("/", 2)
        if len(parts) < 3:
            self.others += 1
            return
        site, gw, rest = parts
        if rest.startswith("ev/"):
            self._take_record(site, gw, topic, payload)
        elif rest.startswith("blob/"):
            self._take_chunk(rest, payload)
        elif rest.startswith("receipt/"):
            self._take_receipt(site, gw, rest.removeprefix("receipt/"), payload)
        elif _SNAPSHOT.fullmatch(rest):
            self._take_snapshot(topic, payload)
        else:
            self.others += 1

    def _take_snapshot(self, topic: str, payload: bytes) -> None:
        if not payload:  # how a retained message is taken back
            self.snapshots.pop(topic, None)
            return
        body = parse(payload)
        if body is None:
            self.problems.append(f"{topic}: not a JSON object: {payload[:80]!r}")
        else:
            self.snapshots[topic] = body

    def _take_record(self, site: str, gw: str, topic: str, payload: bytes) -> None:
        record = read_record(site, gw, topic, payload)
        if record is None:
            self.problems.append(f"{topic}: not a record: {payload[:80]!r}")
            return
        known = self._records.get(record.id)
        if known is not None:
            self.duplicates += 1
            if known.payload != payload:
                self.problems.append(f"{record.id}: sent again with other bytes")
            # A gateway sends again what it was not receipted for: say it again.
            self._receipts_due.add(record.key)
            return
        row = (record.id, record.topic, payload)
        if self._write("INSERT INTO record VALUES (?, ?, ?)", row):
            self._accept(record)

    def _accept(self, record: Stored) -> None:
        self._records[record.id] = record
        self._begin(record.key)
        self._explain(record)
        if self._blobs_complete(record):
            self._hold(record)
        else:
            self._awaiting.append(record)

    def _begin(self, key: Stream) -> Progress:
        """Return the progress of a stream; one not seen before is the newest epoch."""
        if key not in self._progress:
            self._progress[key] = Progress()
            self._epoch[key[:3]] = key.epoch
        return self._progress[key]

    def _hold(self, record: Stored) -> None:
        self._progress[record.key].hold(record.seq)
        self._receipts_due.add(record.key)

    def _explain(self, record: Stored) -> None:
        """Take the tombstone of what a gateway's store limit dropped."""
        data = record.data
        if record.key.stream != "audit" or data.get("kind") != "drop":
            return
        if "blobs" in data:
            self._explain_blobs(record, data["blobs"])
            return
        stream, start, to = data.get("stream"), data.get("from"), data.get("to")
        if not isinstance(stream, str) or IDENTIFIER.fullmatch(stream) is None:
            self.problems.append(f"{record.id}: a tombstone without its stream")
            return
        if not (is_number(start) and is_number(to) and 1 <= start <= to):
            self.problems.append(f"{record.id}: a tombstone without its range")
            return
        key = record.key._replace(stream=stream)
        self._begin(key).drop(start, to)
        self._receipts_due.add(key)

    def _explain_blobs(self, record: Stored, digests: object) -> None:
        if not (isinstance(digests, list) and all(isinstance(each, str) for each in digests)):
            self.problems.append(f"{record.id}: a tombstone without its blobs")
            return
        self._lost_blobs.update(digests)
        self._hold_completed()

    def _take_chunk(self, rest: str, payload: bytes) -> None:
        match = re.fullmatch(r"blob/([0-9a-f]{64})/(\d{1,6})", rest)
        if match is None:
            self.problems.append(f"{rest}: not the topic of a blob")
            return
        sha256, index = match[1], int(match[2])
        if len(payload) > _CHUNK_LIMIT_BYTES:
            self.problems.append(f"{rest}: {len(payload)} bytes, the limit is {_CHUNK_LIMIT_BYTES}")
            return
        if sha256 not in self._blobs:
            self._chunks.setdefault(sha256, {})[index] = payload
        self._hold_completed()

    def _hold_completed(self) -> None:
        """Hold the records whose blobs have all come, or will never come."""
        ready = [record for record in self._awaiting if self._blobs_complete(record)]
        for record in ready:
            self._awaiting.remove(record)
            self._hold(record)

    def _blobs_complete(self, record: Stored) -> bool:
        """Tell whether all blobs of the record are here; join those that have become whole."""
        named = record.data.get("blobs") or record.body.get("blobs") or []
        if not isinstance(named, list):
            return True
        return all(self._join(blob) for blob in named if isinstance(blob, dict))

    def _join(self, blob: dict[str, Any]) -> bool:
        sha256, chunks = blob.get("sha256"), blob.get("chunks")
        if not (isinstance(sha256, str) and is_number(chunks)):
            return False
        if sha256 in self._blobs or sha256 in self._lost_blobs:
            return True
        parts = self._chunks.get(sha256, {})
        if any(index not in parts for index in range(chunks)):
            return False
        whole = b"".join(parts[index] for index in range(chunks))
        if hashlib.sha256(whole).hexdigest() != sha256 or len(whole) != blob.get("size"):
            self.problems.append(f"blob {sha256}: its parts do not add up to it")
            return False
        if not self._write("INSERT INTO blob VALUES (?, ?)", (sha256, whole)):
            return False
        self._blobs[sha256] = whole
        self._chunks.pop(sha256, None)
        return True

    def _take_receipt(self, site: str, gw: str, stream: str, payload: bytes) -> None:
        """Go on from what this centre receipted in an earlier life: the gateway may have let go."""
        body = parse(payload) or {}
        epoch, upto = body.get("epoch"), body.get("upto")
        if body.get("by") != self._by or not (isinstance(epoch, str) and is_number(upto)):
            return
        key = Stream(site, gw, stream, epoch)
        progress = self._progress.setdefault(key, Progress())
        self._epoch.setdefault(key[:3], epoch)
        progress.reach(upto)

    # --- what is kept ---------------------------------------------------------------------------

    def _open(self, path: Path) -> sqlite3.Connection:
        database = sqlite3.connect(path, check_same_thread=False)
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_TABLES)
        self._blobs.update(database.execute("SELECT sha256, content FROM blob"))
        for topic, payload in database.execute("SELECT topic, payload FROM record ORDER BY rowid"):
            site, gw, _ = topic.removeprefix(self._prefix).split("/", 2)
            record = read_record(site, gw, topic, payload)
            if record is not None:
                self._accept(record)
        database.commit()
        return database

    def _write(self, statement: str, row: tuple[str | bytes, ...]) -> bool:
        if self._database is None:
            return True
        try:
            with self._database:
                self._database.execute(statement, row)
        except sqlite3.Error as error:
            self.problems.append(f"{row[0]!r}: not stored: {error}")
            return False
        return True

    # --- what it says (a thread of its own) -----------------------------------------------------

    def _send_receipts(self) -> None:
        while not self._stopping.wait(_RECEIPT_PERIOD_S):
            with self._changed:
                if not (self.sends_receipts and self.is_connected):
                    continue
                due, self._receipts_due = self._receipts_due, set()
                newest = [key for key in due if self._epoch[key[:3]] == key.epoch]
                receipts = [(key, self._progress[key].upto) for key in newest]
            for key, upto in receipts:
                if upto > 0:
                    self._send_receipt(key, upto)

    def _send_receipt(self, key: Stream, upto: int) -> None:
        at = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = {"epoch": key.epoch, "upto": upto, "by": self._by, "at": at}
        topic = f"{self._prefix}{key.site}/{key.gw}/receipt/{key.stream}"
        # A publish that fails is made good at the next connection, when all are due again.
        self._client.publish(topic, json.dumps(body), qos=1, retain=True)
