"""The store on disk: SQLite in WAL mode, one connection, every commit flushed to the medium.

With ``synchronous=NORMAL`` a power cut loses acknowledged commits, with ``FULL`` it does not
(SQLite documentation, "PRAGMA synchronous"), so FULL it is, always; what need not be on disk at
once shares a commit (``agent.delivery.store.thread``). Nothing here is asynchronous: a ``Store``
belongs to one thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from agent.clock import Clock
from agent.delivery import blobs
from agent.delivery.snapshots import Stream, StreamState
from agent.delivery.store import blob_tables, retention
from agent.delivery.store.blob_tables import StoredBlob
from agent.delivery.store.retention import EventKind, JournalEvent, Reserve
from agent.delivery.wire import STREAMS, WireError, iso, stream_of
from agent.records import Alarm, Audit, Blob, Record
from agent.settings import JournalOptions

Encode = Callable[[Record, str, int, int], tuple[str, bytes]]
"""(record, epoch, seq, recorded [µs UTC]) → topic and bytes; may raise WireError."""

SCHEMA_VERSION: Final = 2
"""1 knew no blobs; such a store is brought up when opened."""
RELEASE_ROWS: Final = 256
"""So many receipted records are deleted in one transaction, so that an alarm never waits long."""
CHECK_BYTES: Final = 16 << 20
"""A database up to this size is checked in full when opened; a larger one shows damage in use."""
T = TypeVar("T")
_ATTEMPTS: Final = 4
_FULL_DISK_BYTES: Final = 1 << 16
_GROWTH_PAGES: Final = 16
"""A row adds no more than this to its own bytes: a page of each table and index that it stands in,
and the pages above that are split (SQLite, "Database File Format", 1.6)."""
_WAL_PAGES: Final = 1000
_TIGHT_WAL_PAGES: Final = 32

_SCHEMA: Final = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    """CREATE TABLE stream (
        name TEXT PRIMARY KEY, last INTEGER NOT NULL, sent INTEGER NOT NULL,
        receipted INTEGER NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE record (
        stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
        topic TEXT NOT NULL, payload BLOB NOT NULL, recorded_us INTEGER NOT NULL,
        is_update INTEGER NOT NULL, state INTEGER NOT NULL, reason TEXT,
        PRIMARY KEY (stream, epoch, seq)
    )""",
    "CREATE INDEX record_parked ON record (stream, seq) WHERE state = 2",
    *blob_tables.SCHEMA,
)
# state of a record: 0 not yet acknowledged by the broker, 1 acknowledged, 2 parked
_UNSENT, _SENT, _PARKED = 0, 1, 2


class JournalError(OSError):
    """The store cannot be used, or could not take what was given; names file, cause and remedy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A record as it stands on disk and as it is published."""

    stream: Stream
    epoch: str
    seq: int
    topic: str
    payload: bytes
    blobs: tuple[StoredBlob, ...] = ()
    """What of the blobs that it names stands in the store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalStats:
    """The store in figures; ``level_percent`` is the highest threshold reached (0, 70, 85, 95)."""

    epoch: str
    streams: dict[str, StreamState]
    used_bytes: int
    cap_bytes: int
    level_percent: int
    disk_free_bytes: int | None
    parked: int
    has_reserve: bool


@dataclass(frozen=True, slots=True)
class _Counter:
    last: int
    receipted: int
    first_unsent: int
    """No unsent record stands below."""


class Store:
    """Keeps records until the centre holds them.

    Promises: what ``run`` returned is on the medium. Numbers of a stream begin at 1 in each epoch
    and have no hole; a number is used up only by a commit. The bytes under a number never change.
    What leaves without a receipt leaves a tombstone, in the same transaction. A damaged database is
    moved aside and a new one with a new epoch begun.

    Raises JournalError from ``open``, ``run`` and ``read``, and nothing else of its own.
    """

    def __init__(self, options: JournalOptions, clock: Clock, encode: Encode) -> None:
        self.encode = encode
        self._path = Path(options.path)
        self._max_bytes = options.max_bytes
        self._clock = clock
        self._reserve = Reserve(self._path, options.reserve_bytes)
        self._db: sqlite3.Connection | None = None
        self._lock_fd: int | None = None
        self._epoch = ""
        self._counters: dict[Stream, _Counter] = {}
        self._events: list[JournalEvent] = []
        self._stored: list[Stored] = []
        self._page_bytes = 4096
        self._measured_bytes: int | None = None
        """Used when last measured; None: not yet, of this database."""
        self._grown_bytes = 0
        """By so much it has grown since, at most."""
        self._level = 0
        self._tight_bytes: int | None = None
        """Set while the disk is full: passages may not grow the database beyond this."""
        self._refused: tuple[str, int] | None = None

    @property
    def epoch(self) -> str:
        """Return the name of this store's numbering, four hexadecimal digits."""
        return self._epoch

    def take_events(self) -> list[JournalEvent]:
        """Return what the caller should report since last asked."""
        events, self._events = self._events, []
        return events

    def take_stored(self) -> list[Stored]:
        """Return what was committed since last asked, tombstones too."""
        stored, self._stored = self._stored, []
        return stored

    # ------------------------------------------------------------ opening

    def open(self) -> None:
        """Open or make the store; raises JournalError where that cannot be done here."""
        self._take_lock()
        try:
            self._persist(lambda _db: None, is_vital=False)
        except JournalError:
            self.close()
            raise
        if not self._reserve.make():
            self._tighten()

    def close(self) -> None:
        """Close the database and let another process have it."""
        self._disconnect()
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def _take_lock(self) -> None:
        try:
            lock = self._path.with_name(self._path.name + ".lock")
            self._lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except BlockingIOError as exc:
            self.close()
            raise JournalError(
                f"journal {self._path}: another checkpointd uses it; stop that one first"
            ) from exc
        except OSError as exc:
            self.close()
            raise JournalError(
                f"journal {self._path}: {exc.strerror}; make the folder {self._path.parent} "
                "writable for this user or correct [journal] path"
            ) from exc

    def _open_or_replace(self) -> None:
        try:
            self._connect()
        except sqlite3.DatabaseError as exc:
            if not _is_damage(exc):
                raise
            self._replace(exc)

    def _connect(self) -> None:
        db = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        self._db = db
        db.execute("PRAGMA auto_vacuum=INCREMENTAL")
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=FULL")
        pages = _WAL_PAGES if self._tight_bytes is None else _TIGHT_WAL_PAGES
        db.execute(f"PRAGMA wal_autocheckpoint={pages}")
        db.execute(f"PRAGMA journal_size_limit={pages * 4096}")
        if self._path.stat().st_size <= CHECK_BYTES:
            (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise _Damage(f"{verdict}")
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
        if not tables:
            self._make(db)
        elif not {"meta", "stream", "record"} <= tables:
            raise JournalError(
                f"journal {self._path}: this database is another program's; "
                "correct [journal] path or move the file"
            )
        self._load(db)

    def _make(self, db: sqlite3.Connection) -> None:
        epoch = self._clock.token(2)
        db.execute("BEGIN IMMEDIATE")
        for table in _SCHEMA:
            db.execute(table)
        meta = [("schema", str(SCHEMA_VERSION)), ("epoch", epoch)]
        db.executemany("INSERT INTO meta VALUES (?, ?)", meta)
        db.executemany("INSERT INTO stream VALUES (?, 0, 0, 0)", [(stream,) for stream in STREAMS])
        db.execute("COMMIT")
        self._report("new_store", f"journal {self._path}: begun anew", epoch=epoch)

    def _load(self, db: sqlite3.Connection) -> None:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        version = meta.get("schema", "")
        if not version.isdecimal() or "epoch" not in meta:
            raise _Damage("its head is missing")
        if int(version) > SCHEMA_VERSION:
            raise JournalError(
                f"journal {self._path}: schema {version} is newer than this program's "
                f"{SCHEMA_VERSION}; install the newer checkpointd or move the file aside"
            )
        if int(version) < SCHEMA_VERSION:
            self._upgrade(db)
        (self._page_bytes,) = db.execute("PRAGMA page_size").fetchone()
        parked = dict(
            db.execute("SELECT stream, min(seq) FROM record WHERE state = 2 GROUP BY stream")
        )
        self._epoch = meta["epoch"]
        self._counters = {
            name: _Counter(last, receipted, min(sent + 1, parked.get(name, sent + 1)))
            for name, last, sent, receipted in db.execute(
                "SELECT name, last, sent, receipted FROM stream"
            )
        }
        # A record that was refused is tried once more after a restart: its cause may be gone.
        if parked:
            db.execute("UPDATE record SET state = 0 WHERE state = 2")
            db.executemany(
                "UPDATE stream SET sent=? WHERE name=?",
                [(counter.first_unsent - 1, name) for name, counter in self._counters.items()],
            )
        if set(self._counters) != set(STREAMS):
            raise _Damage("a stream is missing")

    def _upgrade(self, db: sqlite3.Connection) -> None:
        """Bring a store of schema 1 up; all of it or nothing."""
        db.execute("BEGIN IMMEDIATE")
        for table in blob_tables.SCHEMA:
            db.execute(table)
        db.execute("UPDATE meta SET value=? WHERE key='schema'", (str(SCHEMA_VERSION),))
        db.execute("COMMIT")

    def _replace(self, damage: sqlite3.Error) -> None:
        """Move the damaged database aside and begin a new one."""
        self._disconnect()
        old_epoch = self._epoch or None
        at = iso(self._clock.stamp().utc_us)[:19].replace("-", "").replace(":", "") + "Z"
        aside = retention.set_aside(self._path, at)
        self._report(
            "moved_aside",
            f"journal {self._path}: damaged ({damage}); moved to {aside.name}, a new one is begun",
            cause=str(damage),
            file=aside.name,
            old_epoch=old_epoch,
        )
        self._connect()

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        self._measured_bytes = None
        if db is not None:
            try:
                db.close()
            except sqlite3.Error as exc:
                self._report("write_failed", f"journal {self._path}: closing failed: {exc}")

    # ------------------------------------------------------------ transactions

    def run(
        self, work: Sequence[Callable[[], object]], *, is_vital: bool = True
    ) -> list[object | WireError | JournalError]:
        """Do all of the work in one transaction and return what each gave, or its own refusal.

        When this returns, all of it is on the medium. A full disk is met by giving up the reserve,
        then by dropping records (alarms only where ``is_vital``), damage by a new store; each then
        does the work again, so a work item keeps nothing of its own between calls.

        Raises JournalError where nothing of it could be stored; no number is used up then, and the
        caller may try again. (After a failed flush a record may stand twice, under two numbers.)
        """
        return self._persist(lambda db: self._transact(db, work), is_vital=is_vital)

    def read(self, query: Callable[[], T]) -> T:
        """Return what the query finds; raises JournalError."""
        return self._persist(lambda _db: query(), is_vital=False)

    def _persist(self, action: Callable[[sqlite3.Connection], T], *, is_vital: bool) -> T:
        for attempt in range(_ATTEMPTS):
            try:
                if self._db is None:
                    self._open_or_replace()
                return action(self._connection())
            except (sqlite3.Error, OSError) as exc:
                if isinstance(exc, JournalError):
                    raise
                if attempt + 1 == _ATTEMPTS or not self._recover(exc, is_vital=is_vital):
                    raise self._error(exc) from exc
        raise AssertionError

    def _error(self, exc: Exception) -> JournalError:
        return JournalError(
            f"journal {self._path}: {exc}; nothing was stored, see that the folder is writable "
            "and the disk sound"
        )

    def _connection(self) -> sqlite3.Connection:
        assert self._db is not None
        return self._db

    def _transact(
        self, db: sqlite3.Connection, work: Sequence[Callable[[], object]]
    ) -> list[object | WireError | JournalError]:
        counters = dict(self._counters)
        reported, stored = len(self._events), len(self._stored)
        db.execute("BEGIN IMMEDIATE")
        try:
            self._grown_bytes += len(work) * _GROWTH_PAGES * self._page_bytes
            results = [self._one(item) for item in work]
            self._write_numbers(db, counters)
            db.execute("COMMIT")
        except BaseException:
            self._counters = counters
            del self._events[reported:], self._stored[stored:]
            if db.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    db.execute("ROLLBACK")
            raise
        self._watch_level()
        return results

    def _write_numbers(self, db: sqlite3.Connection, before: dict[Stream, _Counter]) -> None:
        """Write each stream's last number once for all records of the transaction."""
        for stream, counter in self._counters.items():
            if counter.last != before[stream].last:
                # ``sent`` spares a search at the next start; it rides along here.
                db.execute(
                    "UPDATE stream SET last=?, sent=? WHERE name=?",
                    (counter.last, counter.first_unsent - 1, stream),
                )

    @staticmethod
    def _one(item: Callable[[], object]) -> object | WireError | JournalError:
        try:
            return item()
        except (WireError, JournalError) as refusal:
            return refusal

    def _recover(self, exc: Exception, *, is_vital: bool) -> bool:
        """Make another attempt worth while; False: it is not."""
        if isinstance(exc, sqlite3.DatabaseError) and _is_damage(exc):
            try:
                self._replace(exc)
            except (sqlite3.Error, OSError) as again:
                raise self._error(again) from again
            return True
        code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or (
            code == sqlite3.SQLITE_IOERR and self._disk_free_bytes(0) < _FULL_DISK_BYTES
        ):
            return self._make_room_on_disk(is_vital=is_vital)
        # After a failed write or flush the pages in memory are not to be trusted.
        self._disconnect()
        return False

    def _make_room_on_disk(self, *, is_vital: bool) -> bool:
        self._tighten()
        was_freed = self._reserve.free()
        if self._db is None:
            return was_freed
        # What waits in the WAL stands on the disk twice until it is taken over.
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        if was_freed:
            return True
        order = retention.DROP_ORDER if is_vital else retention.FOR_PASSAGE
        try:
            results = self._transact(self._db, [lambda: self._drop(order, "the disk is full")])
        except sqlite3.Error:
            return False
        return results != [0]

    def _tighten(self) -> None:
        """From now on passages may not let the database grow."""
        if self._tight_bytes is not None:
            return
        self._tight_bytes = 0
        if self._db is not None:
            self._tight_bytes = self._used_bytes()
            self._db.execute(f"PRAGMA wal_autocheckpoint={_TIGHT_WAL_PAGES}")
        self._report(
            "disk_full",
            f"journal {self._path}: the disk is full; what is left is for alarms, "
            "make room on the disk",
            used_bytes=self._tight_bytes,
        )

    # ------------------------------------------------------------ work items: within ``run``

    def append(self, record: Record, encode: Encode | None = None) -> Stored:
        """Give the record its number and store its bytes and blobs; a work item of ``run``.

        Where there is no room for its blobs it is stored all the same, and a tombstone says so.
        """
        stream = stream_of(record)
        self._make_room(stream)
        parts = blobs.blobs_of(record)
        reason = self._make_room_for_blobs(stream, parts)
        stored = self._insert(record, stream, encode or self.encode, parts if not reason else ())
        if reason:
            self._entomb_blobs(stream, [blob.sha256 for blob in parts], reason)
        return stored

    def mark_sent(self, stream: Stream, epoch: str, seqs: Sequence[int]) -> None:
        """Remember that the broker has these; a work item of ``run``."""
        self._connection().executemany(
            "UPDATE record SET state=? WHERE stream=? AND epoch=? AND seq=? AND state=?",
            [(_SENT, stream, epoch, seq, _UNSENT) for seq in seqs],
        )

    def release(self, stream: Stream, epoch: str, seqs: Sequence[int]) -> None:
        """Delete what the broker has, for a centre that sends no receipts; a work item."""
        self._connection().executemany(
            "DELETE FROM record WHERE stream=? AND epoch=? AND seq=?",
            [(stream, epoch, seq) for seq in seqs],
        )

    def receipt(self, stream: Stream, epoch: str, upto: int) -> bool:
        """Release what the centre holds; a work item. Another epoch's receipt is let be (False).

        Cumulative, never going back. One beyond the newest record is refused and reported.
        """
        if epoch != self._epoch:
            return False
        counter = self._counters[stream]
        if upto > counter.last:
            if self._refused != (stream, upto):
                self._refused = (stream, upto)
                self._report(
                    "receipt_refused",
                    f"receipt for {stream} up to {upto}: the newest record is {counter.last}; "
                    "the centre holds records that are not ours",
                    stream=stream,
                    upto=upto,
                    last=counter.last,
                )
            return False
        if upto > counter.receipted:
            first_unsent = max(counter.first_unsent, upto + 1)
            self._counters[stream] = replace(counter, receipted=upto, first_unsent=first_unsent)
            self._connection().execute("UPDATE stream SET receipted=? WHERE name=?", (upto, stream))
        return True

    def release_receipted(self) -> bool:
        """Delete some of what is receipted; a work item. True: there is more."""
        db = self._connection()
        deleted = 0
        for stream, counter in self._counters.items():
            deleted += db.execute(
                "DELETE FROM record WHERE rowid IN (SELECT rowid FROM record "
                "WHERE stream=? AND epoch=? AND seq<=? ORDER BY seq LIMIT ?)",
                (stream, self._epoch, counter.receipted, RELEASE_ROWS - deleted),
            ).rowcount
        return deleted >= RELEASE_ROWS

    def park(self, stream: Stream, epoch: str, seq: int, reason: str) -> None:
        """Set a record aside that the broker will not take, with its reason; a work item.

        It stays in the store, is tried once more after a restart, and the audit stream says so
        once, so that the centre's receipts can go past it.
        """
        db = self._connection()
        row = db.execute(
            "SELECT reason, topic FROM record WHERE stream=? AND epoch=? AND seq=?",
            (stream, epoch, seq),
        ).fetchone()
        if row is None:
            return
        db.execute(
            "UPDATE record SET state=?, reason=? WHERE stream=? AND epoch=? AND seq=?",
            (_PARKED, reason, stream, epoch, seq),
        )
        self._report(
            "parked",
            f"record {stream}/{epoch}/{seq} is parked: {reason}",
            stream=stream,
            seq=seq,
            reason=reason,
        )
        is_tombstone = stream == "audit" and row[1].endswith("/drop")
        if row[0] is None and not is_tombstone:
            self._entomb(stream, [seq], f"parked: {reason}")

    def set_value(self, key: str, value: str) -> None:
        """Keep a text under a name; a work item."""
        self._connection().execute(
            "INSERT INTO meta VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value=excluded.value",
            (f"kept.{key}", value),
        )

    def increment(self, key: str) -> int:
        """Add one to a kept number and return it; a work item."""
        value = int(self.value(key) or 0) + 1
        self.set_value(key, str(value))
        return value

    # ------------------------------------------------------------ queries: within ``read``

    def value(self, key: str) -> str | None:
        """Return the text kept under a name, or None."""
        row = (
            self._connection()
            .execute("SELECT value FROM meta WHERE key=?", (f"kept.{key}",))
            .fetchone()
        )
        return None if row is None else str(row[0])

    def unsent(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        """Return records the broker has not acknowledged, oldest first."""
        counter = self._counters[stream]
        found = self._select(stream, _UNSENT, max(after_seq, counter.first_unsent - 1), limit)
        if after_seq < counter.first_unsent:
            first = found[0].seq if found else counter.last + 1
            self._counters[stream] = replace(counter, first_unsent=first)
        return found

    def blob_chunk(self, sha256: str, number: int) -> bytes | None:
        """Return one chunk, or None: the store no longer has it."""
        row = (
            self._connection()
            .execute("SELECT content FROM blob_chunk WHERE sha256=? AND number=?", (sha256, number))
            .fetchone()
        )
        return None if row is None else bytes(row[0])

    def unreceipted(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        """Return records the broker has acknowledged and the centre has not, oldest first."""
        return self._select(stream, _SENT, max(after_seq, self._counters[stream].receipted), limit)

    def stats(self) -> JournalStats:
        """Return the store in figures."""
        (parked,) = (
            self._connection().execute("SELECT count(*) FROM record WHERE state = 2").fetchone()
        )
        used_bytes = self._used_bytes()
        return JournalStats(
            epoch=self._epoch,
            streams={stream: self._stream_state(stream) for stream in STREAMS},
            used_bytes=used_bytes,
            cap_bytes=self._max_bytes,
            level_percent=retention.level(used_bytes, self._max_bytes),
            disk_free_bytes=self._disk_free_bytes(None),
            parked=parked,
            has_reserve=self._reserve.is_kept,
        )

    def maintain(self) -> None:
        """Set the reserve aside again where there is room, and give free pages back; a query."""
        if self._tight_bytes is not None and self._reserve.make():
            self._tight_bytes = None
            self._connection().execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
            self._report("reserve_back", f"journal {self._path}: there is room on the disk again")
        db = self._connection()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        if free > 1024 and free > pages // 2:
            db.execute("PRAGMA incremental_vacuum(256)").fetchall()

    # ------------------------------------------------------------ within

    def _select(self, stream: Stream, state: int, after_seq: int, limit: int) -> list[Stored]:
        rows = self._connection().execute(
            f"SELECT seq, topic, payload, {blob_tables.OF_RECORD} FROM record "  # noqa: S608 - our own constant
            "WHERE stream=? AND epoch=? AND seq>? AND state=? ORDER BY seq LIMIT ?",
            (stream, self._epoch, after_seq, state, limit),
        )
        return [
            Stored(
                stream=stream,
                epoch=self._epoch,
                seq=seq,
                topic=topic,
                payload=payload,
                blobs=blob_tables.named(parts),
            )
            for seq, topic, payload, parts in rows
        ]

    def _stream_state(self, stream: Stream) -> StreamState:
        self.unsent(stream, 0, 1)
        counter = self._counters[stream]
        db = self._connection()
        (first,) = db.execute(
            "SELECT min(seq) FROM record WHERE stream=? AND epoch=?", (stream, self._epoch)
        ).fetchone()
        oldest = db.execute(
            "SELECT recorded_us FROM record WHERE stream=? AND epoch=? AND seq=? AND state=?",
            (stream, self._epoch, counter.first_unsent, _UNSENT),
        ).fetchone()
        now_us = self._clock.stamp().utc_us
        return StreamState(
            epoch=self._epoch,
            first_kept=first,
            last=counter.last,
            sent=counter.first_unsent - 1,
            receipted=counter.receipted,
            oldest_unsent_s=None if oldest is None else max(0.0, (now_us - oldest[0]) / 1e6),
        )

    def _insert(
        self, record: Record, stream: Stream, encode: Encode, parts: Sequence[Blob] = ()
    ) -> Stored:
        counter = self._counters[stream]
        seq, recorded_us = counter.last + 1, self._clock.stamp().utc_us
        topic, payload = encode(record, self._epoch, seq, recorded_us)
        is_update = isinstance(record, Alarm) and record.phase == "updated"
        db = self._connection()
        db.execute(
            "INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (stream, self._epoch, seq, topic, payload, recorded_us, is_update, _UNSENT),
        )
        self._grown_bytes += len(payload) + len(topic) + _GROWTH_PAGES * self._page_bytes
        self._counters[stream] = replace(counter, last=seq)
        stored = Stored(
            stream=stream,
            epoch=self._epoch,
            seq=seq,
            topic=topic,
            payload=payload,
            blobs=self._insert_blobs(stream, seq, parts),
        )
        self._stored.append(stored)
        return stored

    def _insert_blobs(
        self, stream: Stream, seq: int, parts: Sequence[Blob]
    ) -> tuple[StoredBlob, ...]:
        db = self._connection()
        found: dict[str, StoredBlob] = {}
        for blob in parts:
            chunks = blobs.chunks_of(blob.data)
            self._grown_bytes += 2 * len(blob.data) + _GROWTH_PAGES * self._page_bytes
            each = StoredBlob(blob.sha256, len(chunks))
            found[each.sha256] = each
            # Bytes that another record has brought already are kept once.
            db.executemany(
                "INSERT OR IGNORE INTO blob_chunk VALUES (?, ?, ?)",
                [(each.sha256, number, chunk) for number, chunk in enumerate(chunks)],
            )
            db.execute(
                "INSERT OR IGNORE INTO record_blob VALUES (?, ?, ?, ?, ?)",
                (stream, self._epoch, seq, each.sha256, each.chunks),
            )
        return tuple(found.values())

    def _make_room(self, stream: Stream) -> None:
        """Drop what the cap no longer allows, before a record of this stream is stored."""
        if stream == "pass" and self._tight_bytes is not None:
            cap_bytes, reason = min(self._max_bytes, self._tight_bytes), "the disk is full"
        else:
            cap_bytes, reason = self._max_bytes, "the store is full"
        need_bytes = 2 * self._page_bytes
        if self._used_at_most_bytes() + need_bytes <= cap_bytes:
            return
        if self._used_bytes() + need_bytes <= cap_bytes:
            return
        self.release_receipted()
        order = retention.FOR_PASSAGE if stream == "pass" else retention.DROP_ORDER
        while self._used_bytes() + 2 * self._page_bytes > cap_bytes:
            if not self._drop(order, reason):
                break
        if stream == "pass" and self._used_bytes() + 2 * self._page_bytes > cap_bytes:
            raise JournalError(
                f"journal {self._path}: {reason} and holds no passage that could go; "
                "the passage is not kept, make room or raise [journal] max_bytes"
            )

    def _make_room_for_blobs(self, stream: Stream, parts: Sequence[Blob]) -> str | None:
        """Drop what may go for a record's blobs; return why they cannot be kept, or None."""
        size_bytes = sum(len(blob.data) for blob in parts)
        if size_bytes == 0:
            return None
        limit_bytes = min(blobs.BLOBS_LIMIT_BYTES, self._max_bytes // blobs.STORE_SHARE)
        if size_bytes > limit_bytes:
            return f"{size_bytes} bytes, the limit is {limit_bytes}"
        if self._tight_bytes is not None:
            return "the disk is full"
        # A page of a chunk that is not full, and the record itself.
        need_bytes = size_bytes + size_bytes // 16 + (2 + len(parts)) * self._page_bytes
        if self._used_bytes() + need_bytes > self._max_bytes:
            self.release_receipted()
        while self._used_bytes() + need_bytes > self._max_bytes:
            if not self._drop(retention.FOR_BLOBS[stream], "the store is full"):
                return "the store is full"
        return None

    def _drop(self, order: Sequence[retention.Drop], reason: str) -> int:
        """Delete a few records or blobs in the order given, with tombstones; return how many."""
        for step in order:
            drop = self._drop_blobs if step.is_blobs else self._drop_records
            count = drop(step.condition, reason)
            if count:
                return count
        return 0

    def _drop_blobs(self, condition: str, reason: str) -> int:
        """Delete the blobs of a few records; the records themselves stay."""
        db = self._connection()
        rows = db.execute(
            f"SELECT stream, epoch, seq, sha256 FROM record_blob WHERE {condition} LIMIT ?",  # noqa: S608 - our own constant
            (retention.DROP_BLOBS,),
        ).fetchall()
        db.executemany(
            "DELETE FROM record_blob WHERE stream=? AND epoch=? AND seq=? AND sha256=?", rows
        )
        gone = [sha256 for *_, sha256 in rows if self.blob_chunk(sha256, 0) is None]
        if gone:
            self._entomb_blobs(rows[0][0], sorted(set(gone)), reason)
        return len(rows)

    def _entomb_blobs(self, stream: Stream, digests: Sequence[str], reason: str) -> None:
        """Say which blobs the centre need not wait for."""
        data: dict[str, object] = {
            "stream": stream,
            "epoch": self._epoch,
            "blobs": list(digests),
            "count": len(digests),
            "reason": reason,
        }
        tombstone = Audit(stamp=self._clock.stamp(), kind="drop", data=data)
        self._insert(tombstone, "audit", self.encode)
        self._report(
            "dropped",
            f"{len(digests)} blobs of {stream} are not kept: {reason}",
            stream=stream,
            count=len(digests),
            reason=reason,
        )

    def _drop_records(self, condition: str, reason: str) -> int:
        db = self._connection()
        rows = db.execute(
            f"SELECT rowid, stream, seq FROM record WHERE {condition} LIMIT ?",  # noqa: S608 - our own constant
            (retention.DROP_ROWS,),
        ).fetchall()
        db.executemany("DELETE FROM record WHERE rowid=?", [(rowid,) for rowid, _, _ in rows])
        for stream in STREAMS:
            seqs = sorted(seq for _, name, seq in rows if name == stream)
            if seqs:
                self._entomb(stream, seqs, reason)
                self._report(
                    "dropped",
                    f"{len(seqs)} records of {stream} from {seqs[0]} to {seqs[-1]} were dropped: "
                    f"{reason}",
                    stream=stream,
                    count=len(seqs),
                    reason=reason,
                )
        return len(rows)

    def _entomb(self, stream: Stream, seqs: Sequence[int], reason: str) -> None:
        ranges = retention.runs(seqs)
        data: dict[str, object] = {
            "stream": stream,
            "epoch": self._epoch,
            "from": seqs[0],
            "to": seqs[-1],
            "count": len(seqs),
            "reason": reason,
        }
        if len(ranges) > 1:
            data["ranges"] = [list(each) for each in ranges]
        tombstone = Audit(stamp=self._clock.stamp(), kind="drop", data=data)
        self._insert(tombstone, "audit", self.encode)

    def _used_bytes(self) -> int:
        db = self._connection()
        (pages,) = db.execute("PRAGMA page_count").fetchone()
        (free,) = db.execute("PRAGMA freelist_count").fetchone()
        self._measured_bytes, self._grown_bytes = int(pages - free) * self._page_bytes, 0
        return self._measured_bytes

    def _used_at_most_bytes(self) -> int:
        """Return what is used, or more: it is measured only where that could make a difference."""
        if self._measured_bytes is None:
            return self._used_bytes()
        return self._measured_bytes + self._grown_bytes

    def _disk_free_bytes(self, default: T) -> int | T:
        try:
            return retention.free_bytes(self._path.parent)
        except OSError:
            return default

    def _watch_level(self) -> None:
        cap_bytes = self._max_bytes
        if self._level == 0 and retention.level(self._used_at_most_bytes(), cap_bytes) == 0:
            return
        used_bytes = self._used_bytes()
        now = retention.level(used_bytes, cap_bytes)
        if now > self._level:
            self._report(
                "fill_level",
                f"journal {self._path}: {now} % of [journal] max_bytes are used",
                percent=now,
                used_bytes=used_bytes,
            )
        self._level = max(now, min(self._level, retention.level(used_bytes * 21 // 20, cap_bytes)))

    def _report(self, kind: EventKind, text: str, **data: object) -> None:
        self._events.append(JournalEvent(kind=kind, text=text, data=data))


class _Damage(sqlite3.DatabaseError):
    """The database is readable but is not what we wrote."""


def _is_damage(exc: sqlite3.DatabaseError) -> bool:
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF
    return isinstance(exc, _Damage) or code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamLook:
    """One stream of a store as another process sees it; counts of records on disk.

    ``receipted`` is the highest number the centre has receipted (0: none yet).
    """

    stream: str
    epoch: str
    last: int
    receipted: int
    kept: int
    unsent: int
    parked: int


def look(path: Path) -> list[StreamLook]:
    """Return what a store holds, without taking it from the agent that may be using it.

    Raises
    ------
    JournalError
        If there is no store, or it cannot be read.
    """
    if not path.is_file():
        raise JournalError(f"journal {path}: there is none yet; has the agent run here?")
    try:
        db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5.0)
    except sqlite3.Error as exc:
        raise JournalError(f"journal {path}: cannot be read ({exc})") from exc
    try:
        (epoch,) = db.execute("SELECT value FROM meta WHERE key='epoch'").fetchone()
        found = []
        for name, last, receipted in db.execute(
            "SELECT name, last, receipted FROM stream ORDER BY name"
        ).fetchall():
            counts = dict(
                db.execute(
                    "SELECT state, count(*) FROM record WHERE stream=? GROUP BY state", (name,)
                ).fetchall()
            )
            found.append(
                StreamLook(
                    stream=name,
                    epoch=epoch,
                    last=last,
                    receipted=receipted,
                    kept=sum(counts.values()),
                    unsent=counts.get(_UNSENT, 0),
                    parked=counts.get(_PARKED, 0),
                )
            )
    except (sqlite3.Error, TypeError) as exc:
        raise JournalError(
            f"journal {path}: cannot be read ({exc}); read it as the user of the service"
        ) from exc
    finally:
        db.close()
    return found
