"""What is to be sent next: the order of things on their way to the broker, without a broker.

Order: what greets a new connection; live alarms; retained snapshots, the newest of each topic only;
then alarm before audit before pass, oldest first within a stream; last, what the broker had
acknowledged before this connection began and the centre has not receipted. Records from disk are
paced, live ones are not. A record is taken from here once in a connection.

A record that names blobs is taken as its chunks, one after the other, and then itself; meanwhile
its stream waits, but for live alarms that have none.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Final

from agent.delivery.snapshots import Stream
from agent.delivery.store.blob_tables import StoredBlob
from agent.delivery.store.journal import Stored
from agent.delivery.wire import STREAMS

FRESH_LIMIT: Final = 500
"""So many records are held in memory for a stream; further ones are read from disk."""
FETCH_ROWS: Final = 100
REPEAT_SOON_S: Final = 10.0
"""A centre that speaks, but whose receipts of a stream stand still so long, missed something."""
REPEAT_AFTER_S: Final = 300.0
"""One that is silent gets the oldest records again after so long, then after twice that."""
REPEAT_CAP_S: Final = 3600.0
REPEAT_ROWS: Final = 1000
CARRIED_LIMIT: Final = 256
"""So many blobs are remembered as carried in a connection; a record that names one of them again
does without."""
_BURST_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class Chunk:
    """One part of a blob."""

    sha256: str
    number: int
    is_last: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One message to publish; ``stored`` None: a retained snapshot."""

    topic: str
    payload: bytes
    stored: Stored | None = None
    is_repeat: bool = False
    """The broker has acknowledged it before this connection."""
    chunk: Chunk | None = None
    """Set where it is a part of a blob of ``stored``; topic and payload are found by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Rows to read from the journal, and then to be given to ``fetched``."""

    stream: Stream
    after_seq: int
    is_repeat: bool


@dataclass(slots=True)
class _Queue:
    """One stream; every record up to ``cursor`` that was unsent has been taken or lies here."""

    cursor: int = 0
    is_drained: bool = False
    """Nothing unsent stands on disk above ``cursor``."""
    rows: deque[Stored] = field(default_factory=deque)
    fresh: deque[Stored] = field(default_factory=deque)
    ahead: set[int] = field(default_factory=set)
    """Numbers above ``cursor`` that were taken out of turn."""
    has_missed: bool = False
    """A record was left to the disk, perhaps after the reading under way had passed its place."""


@dataclass(slots=True)
class _Repeat:
    """What stands acknowledged and unreceipted, up to ``upto``."""

    upto: int
    cursor: int = 0
    rows: deque[Stored] = field(default_factory=deque)
    is_done: bool = False


class ReceiptWatch:
    """Whether the centre's receipts of one stream keep up with the broker's acknowledgements.

    A broker acknowledges what no one receives, so a receipt that stays out is the only sign that
    the centre was away. All times are any monotonic time [s].
    """

    def __init__(self, acknowledged: int, receipted: int, now_s: float) -> None:
        self.receipted = receipted
        self._acknowledged = acknowledged
        self._still_since_s = now_s
        self._patience_s = REPEAT_AFTER_S
        self._has_spoken = False

    def acknowledged(self, seq: int, now_s: float) -> None:
        """Note that the broker has a record."""
        if self._acknowledged <= self.receipted:
            self._still_since_s = now_s
        self._acknowledged = max(self._acknowledged, seq)

    def heard(self, upto: int, now_s: float) -> None:
        """Note a receipt: of this stream, or with ``upto`` 0 of another one."""
        self._has_spoken = True
        if upto > self.receipted:
            self.receipted = upto
            self._still_since_s = now_s
            self._patience_s = REPEAT_AFTER_S

    def due(self, now_s: float) -> int | None:
        """Return up to which record to send again now, or None; asked again it is due later."""
        still_s = now_s - self._still_since_s
        if self._acknowledged <= self.receipted:
            return None
        if self._has_spoken and still_s >= REPEAT_SOON_S:
            upto = self._acknowledged
        elif still_s >= self._patience_s:
            upto = min(self._acknowledged, self.receipted + REPEAT_ROWS)
            self._patience_s = min(REPEAT_CAP_S, 2 * self._patience_s)
        else:
            return None
        self._still_since_s = now_s
        self._has_spoken = False
        return upto


class Outbox:
    """Holds what is next; knows neither broker nor disk, ``now_s`` is any monotonic time [s]."""

    def __init__(self, backlog_per_s: int) -> None:
        self._step_s = 1.0 / backlog_per_s
        self._allowed_s = 0.0
        self._retained: dict[str, bytes] = {}
        self._pending: dict[str, None] = {}
        self._greeting: deque[Item] = deque()
        self._live: deque[Stored] = deque()
        self._queues: dict[Stream, _Queue] = {stream: _Queue() for stream in STREAMS}
        self._repeats: dict[Stream, _Repeat] = {}
        self._parts: dict[Stream | None, deque[Item]] = {}
        """What is left of the record with blobs that a stream is at; None: of the repeats."""
        self._carried: dict[str, None] = {}

    def begin(self, greeting: list[Item], sent: dict[Stream, int]) -> None:
        """Start a connection: greet, then all retained, then everything unsent, then repeats.

        ``sent`` is per stream the end of what the broker had acknowledged before.
        """
        self._greeting = deque(greeting)
        self._pending = dict.fromkeys(self._retained)
        self._live.clear()
        self._queues = {stream: _Queue() for stream in STREAMS}
        self._repeats = {}
        self._parts = {}
        self._carried = {}
        self.repeat(sent)

    def repeat(self, sent: dict[Stream, int]) -> None:
        """Send again, at the lowest rank, what is acknowledged up to ``sent`` and not receipted."""
        for stream, upto in sent.items():
            known = self._repeats.get(stream)
            if known is None or known.is_done:
                self._repeats[stream] = _Repeat(upto=upto, is_done=upto == 0)

    def set_retained(self, topic: str, payload: bytes) -> None:
        """Send the snapshot, in place of an older one that still waits."""
        self._retained[topic] = payload
        self._pending[topic] = None

    def renew_retained(self, topic: str) -> None:
        """Send the topic's snapshot again as it is now, where there is one."""
        if topic in self._retained:
            self._pending[topic] = None

    def forget_retained(self, topic: str) -> None:
        """Send this snapshot no more: it cannot go."""
        self._retained.pop(topic, None)
        self._pending.pop(topic, None)

    def stored(self, stored: Stored) -> None:
        """Take a record that was just committed; the same one twice is taken once."""
        queue = self._queues[stored.stream]
        if stored.seq <= queue.cursor or stored.seq in queue.ahead:
            return
        waiting = self._live if stored.stream == "alarm" else queue.fresh
        if len(waiting) >= FRESH_LIMIT:
            queue.is_drained, queue.has_missed = False, True
        elif queue.is_drained:
            queue.cursor = stored.seq
            waiting.append(stored)
        elif stored.stream == "alarm":
            queue.ahead.add(stored.seq)
            waiting.append(stored)
        else:
            queue.has_missed = True

    def next(self, now_s: float, *, may_carry: bool = True) -> Item | float | None:
        """Return what to publish now, or from when on there is more.

        A number: nothing now, but from this moment on, always later than ``now_s`` [s]. None:
        nothing, however long one waits, before something else is told to this outbox or
        ``may_carry`` changes. ``may_carry`` False: neither a chunk nor a record that waits behind
        its chunks.
        """
        if self._greeting:
            return self._greeting.popleft()
        if self._live:
            item = self._next_live(may_carry=may_carry)
            if item is not None:
                return item
        if self._pending:
            topic = next(iter(self._pending))
            del self._pending[topic]
            return Item(topic=topic, payload=self._retained[topic])
        found = self._next_in_turn(now_s, may_carry=may_carry)
        return self._next_repeat(now_s, may_carry=may_carry) if found is None else found

    def carried(self, sha256: str) -> None:
        """Note that the broker has all of a blob: another record may name it in this connection."""
        self._carried[sha256] = None
        if len(self._carried) > CARRIED_LIMIT:
            del self._carried[next(iter(self._carried))]

    def abandon(self, stored: Stored) -> None:
        """Send no more parts of a record: one of them cannot go."""
        for rank, parts in list(self._parts.items()):
            if parts and parts[0].stored is stored:
                del self._parts[rank]

    def wants(self) -> Fetch | None:
        """Return what to read from the journal next, or None."""
        for stream, queue in self._queues.items():
            if queue.rows:
                return None
            if not queue.is_drained:
                return Fetch(stream=stream, after_seq=queue.cursor, is_repeat=False)
        for stream, repeat in self._repeats.items():
            if repeat.rows:
                return None
            if not repeat.is_done:
                return Fetch(stream=stream, after_seq=repeat.cursor, is_repeat=True)
        return None

    def fetched(self, fetch: Fetch, rows: list[Stored]) -> None:
        """Take what the journal held for a ``Fetch``."""
        if fetch.is_repeat:
            repeat = self._repeats[fetch.stream]
            repeat.rows.extend(row for row in rows if row.seq <= repeat.upto)
            repeat.is_done = len(rows) < FETCH_ROWS or rows[-1].seq >= repeat.upto
            repeat.cursor = rows[-1].seq if rows else repeat.cursor
            return
        queue = self._queues[fetch.stream]
        queue.rows.extend(row for row in rows if row.seq not in queue.ahead)
        if rows:
            queue.cursor = rows[-1].seq
        queue.is_drained = len(rows) < FETCH_ROWS and not queue.has_missed
        queue.has_missed = False
        if queue.is_drained and queue.ahead:
            queue.cursor = max(queue.cursor, *queue.ahead)
        queue.ahead = {seq for seq in queue.ahead if seq > queue.cursor}

    @property
    def is_live_empty(self) -> bool:
        """Return whether nothing fresh waits; the backlog on disk may be long."""
        fresh = any(queue.fresh for queue in self._queues.values())
        parts = any(self._parts.get(stream) for stream in STREAMS)
        return not (self._greeting or self._live or self._pending or fresh or parts)

    @property
    def is_caught_up(self) -> bool:
        """Return whether every committed record has been taken at least once."""
        queues = self._queues.values()
        return self.is_live_empty and all(each.is_drained and not each.rows for each in queues)

    def _next_live(self, *, may_carry: bool) -> Item | None:
        """Return a live alarm: those without blobs first, they never wait for a chunk."""
        for place, stored in enumerate(self._live):
            if not stored.blobs:
                del self._live[place]
                return _item(stored)
        if may_carry and not self._parts.get("alarm"):
            return self._take(self._live.popleft(), "alarm")
        return None

    def _next_in_turn(self, now_s: float, *, may_carry: bool) -> Item | float | None:
        is_blocked = False
        from_s: float | None = None
        for stream, queue in self._queues.items():
            if self._parts.get(stream):
                if may_carry:
                    return self._parts[stream].popleft()
                is_blocked = True
                continue
            source = queue.fresh or queue.rows
            may_go = bool(source) and (may_carry or not source[0].blobs)
            if may_go and queue.fresh:
                return self._take(queue.fresh.popleft(), stream)
            if may_go and not is_blocked:
                from_s = self._paced(now_s)
                if from_s is None:
                    return self._take(queue.rows.popleft(), stream)
            is_blocked = is_blocked or bool(queue.rows) or not queue.is_drained
        return from_s

    def _next_repeat(self, now_s: float, *, may_carry: bool) -> Item | float | None:
        if not all(each.is_drained and not each.rows for each in self._queues.values()):
            return None
        if self._parts.get(None):
            return self._parts[None].popleft() if may_carry else None
        for repeat in self._repeats.values():
            if repeat.rows and (may_carry or not repeat.rows[0].blobs):
                from_s = self._paced(now_s)
                return self._take(repeat.rows.popleft(), None) if from_s is None else from_s
            if repeat.rows or not repeat.is_done:
                return None
        return None

    def _take(self, stored: Stored, rank: Stream | None) -> Item:
        """Return the record, or the first chunk of its blobs with the rest laid by."""
        record = _item(stored, is_repeat=rank is None)
        parts = deque(
            replace(record, topic="", payload=b"", chunk=chunk)
            for blob in stored.blobs
            # A centre that has not receipted may have lost them, so a repeat brings all.
            if rank is None or blob.sha256 not in self._carried
            for chunk in _chunks(blob)
        )
        parts.append(record)
        first = parts.popleft()
        self._parts[rank] = parts
        return first

    def _paced(self, now_s: float) -> float | None:
        """Count a record from disk as sent and return None, or from when on it may go [s]."""
        if now_s < self._allowed_s:
            return self._allowed_s
        self._allowed_s = max(self._allowed_s, now_s - _BURST_S) + self._step_s
        return None


def _chunks(blob: StoredBlob) -> list[Chunk]:
    last = blob.chunks - 1
    return [Chunk(blob.sha256, number, number == last) for number in range(blob.chunks)]


def _item(stored: Stored, *, is_repeat: bool = False) -> Item:
    return Item(topic=stored.topic, payload=stored.payload, stored=stored, is_repeat=is_repeat)
