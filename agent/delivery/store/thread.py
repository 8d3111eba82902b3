"""The journal for the event loop: one thread, one connection, and commits that are shared.

An alarm or audit record is committed at once, together with all that waits; a passage, a mark or a
receipt waits for the next such commit, or ``group_s`` at most. While one commit runs the next one
gathers, so a burst costs few flushes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, TypeVar

from agent.clock import Clock
from agent.delivery.snapshots import Stream
from agent.delivery.store.journal import Encode, JournalError, JournalStats, Store, Stored
from agent.delivery.store.retention import JournalEvent
from agent.delivery.wire import WireError, stream_of
from agent.records import Record
from agent.settings import JournalOptions

T = TypeVar("T")
_Marks = Callable[[Stream, str, Sequence[int]], None]
BATCH_ITEMS: Final = 256
MAINTAIN_EVERY_S: Final = 10.0
RELEASE_PAUSE_S: Final = 0.05
"""Between two transactions that delete what is receipted, so that others come in between."""


@dataclass(frozen=True, slots=True)
class _Visit:
    """What one visit to the thread gave; what is to be told is taken there, not here."""

    result: object
    failure: JournalError | None
    events: list[JournalEvent]
    stored: list[Stored]


@dataclass(slots=True)
class _Item:
    work: Callable[[], object]
    future: asyncio.Future[object] | None
    is_vital: bool


class Journal:
    """A record is kept once ``append`` has returned, whatever happens to process or power then.

    Parameters
    ----------
    encode : makes topic and bytes within the commit; may be replaced at a reload, a record takes
        the one that stood when it was given
    on_event : told on the loop of damage, drops, full disk and the like; makes faults of them
    group_s : how long what is not urgent may wait for a commit [s]
    """

    def __init__(
        self,
        options: JournalOptions,
        clock: Clock,
        encode: Encode,
        *,
        on_event: Callable[[JournalEvent], None] | None = None,
        group_s: float = 1.0,
    ) -> None:
        self.on_stored: Callable[[Stored], None] | None = None
        """Called on the loop right after the commit, before ``append`` returns."""
        self.progress = 0
        """Counts finished visits to the disk, for the watchdog."""
        self._store = Store(options, clock, encode)
        self._clock = clock
        self._encode = encode
        self._on_event = on_event
        self._group_s = group_s
        self._waiting: list[_Item] = []
        self._marks: dict[tuple[_Marks, Stream, str], list[int]] = {}
        """Numbers that a waiting item will mark: further ones join it."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_committing = False
        self._is_wanted = False
        self._wants_release = False
        self._maintained_s = clock.mono_s()
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="journal")

    @property
    def epoch(self) -> str:
        """Return the name of this store's numbering."""
        return self._store.epoch

    def set_encoder(self, encode: Encode) -> None:
        """Encode every later record with this one: another configuration revision."""
        self._encode = encode

    async def open(self) -> None:
        """Open or make the store; raises JournalError with one sentence for the operator."""
        await self._visit(self._store.open)
        self._wants_release = True

    async def close(self) -> None:
        """Commit what waits and close; what could not be stored is reported as an event."""
        await self.flush()
        await self._visit(self._store.close)
        self._executor.shutdown(wait=False)

    async def append(self, record: Record) -> Stored:
        """Commit the record and return it as it stands on disk.

        At once for alarm and audit, within ``group_s`` for a passage. Raises JournalError where it
        is not stored (try again; no number was used up) and WireError where it cannot be encoded.
        A caller that is cancelled meanwhile does not undo the commit.
        """
        store, encode = self._store, self._encode
        is_vital = stream_of(record) != "pass"
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._put(lambda: store.append(record, encode), is_vital=is_vital, future=future)
        stored = await future
        assert isinstance(stored, Stored)
        return stored

    async def unsent(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        """Return records the broker has not acknowledged, oldest first; raises JournalError."""
        return await self._read(lambda: self._store.unsent(stream, after_seq, limit))

    async def unreceipted(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        """Return what the broker has and the centre has not receipted; raises JournalError."""
        return await self._read(lambda: self._store.unreceipted(stream, after_seq, limit))

    async def blob_chunk(self, sha256: str, number: int) -> bytes | None:
        """Return one chunk of a blob, or None: it has been dropped; raises JournalError."""
        return await self._read(lambda: self._store.blob_chunk(sha256, number))

    def mark_sent(self, stream: Stream, epoch: str, seqs: Sequence[int]) -> None:
        """Remember, within ``group_s``, that the broker has these; a lost mark is a re-send."""
        self._mark(self._store.mark_sent, stream, epoch, seqs)

    def release(self, stream: Stream, epoch: str, seqs: Sequence[int]) -> None:
        """Delete, within ``group_s``, what the broker has; only where delivery is "puback"."""
        self._mark(self._store.release, stream, epoch, seqs)

    def receipt(self, stream: Stream, epoch: str, upto: int) -> None:
        """Release, within ``group_s``, what the centre holds: cumulative, idempotent.

        One beyond the newest record is refused and reported as an event.
        """
        self._wants_release = True
        self._put(lambda: self._store.receipt(stream, epoch, upto), is_vital=False)

    def park(self, stream: Stream, epoch: str, seq: int, reason: str) -> None:
        """Set a record aside that the broker will not take; the audit stream says so once."""
        self._put(lambda: self._park(stream, epoch, seq, reason), is_vital=True)

    async def stats(self) -> JournalStats:
        """Return the store in figures; raises JournalError."""
        self._maintained_s = self._clock.mono_s()
        return await self._read(self._maintained_stats)

    async def value(self, key: str) -> str | None:
        """Return the text kept under a name, or None; raises JournalError."""
        return await self._read(lambda: self._store.value(key))

    def set_value(self, key: str, value: str) -> None:
        """Keep a text under a name, within ``group_s``."""
        self._put(lambda: self._store.set_value(key, value), is_vital=False)

    async def increment(self, key: str) -> int:
        """Add one to a kept number, on disk at once, and return it; raises JournalError."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._put(lambda: self._store.increment(key), is_vital=True, future=future)
        value = await future
        assert isinstance(value, int)
        return value

    async def flush(self) -> None:
        """Commit all that waits now; raises JournalError where that failed."""
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._put(lambda: None, is_vital=True, future=future)
        await future

    # ------------------------------------------------------------ within

    def _mark(self, work: _Marks, stream: Stream, epoch: str, seqs: Sequence[int]) -> None:
        """Let numbers join those that wait to be marked: one statement takes them all."""
        key = work, stream, epoch
        waiting = self._marks.get(key)
        if waiting is None:
            waiting = self._marks[key] = []
            joined = waiting
            self._put(lambda: work(stream, epoch, joined), is_vital=False)
        waiting.extend(seqs)
        if len(waiting) >= BATCH_ITEMS:
            self._commit()

    def _park(self, stream: Stream, epoch: str, seq: int, reason: str) -> None:
        self._store.park(stream, epoch, seq, reason)

    def _maintained_stats(self) -> JournalStats:
        self._store.maintain()
        return self._store.stats()

    async def _read(self, query: Callable[[], T]) -> T:
        return await self._visit(lambda: self._store.read(query))

    async def _visit(self, action: Callable[[], T]) -> T:
        results: list[T] = []
        loop = asyncio.get_running_loop()
        visit = await loop.run_in_executor(
            self._executor, self._in_thread, lambda: results.append(action())
        )
        self._after_visit(visit)
        if visit.failure is not None:
            raise visit.failure
        return results[0]

    def _in_thread(self, action: Callable[[], object]) -> _Visit:
        result: object = None
        failure: JournalError | None = None
        try:
            result = action()
        except JournalError as exc:
            failure = exc
        return _Visit(result, failure, self._store.take_events(), self._store.take_stored())

    def _release_some(self) -> object:
        return _More() if self._store.release_receipted() else None

    def _put(
        self,
        work: Callable[[], object],
        *,
        is_vital: bool,
        future: asyncio.Future[object] | None = None,
    ) -> None:
        self._waiting.append(_Item(work, future, is_vital))
        if is_vital or len(self._waiting) >= BATCH_ITEMS:
            self._commit()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._group_s, self._commit)

    def _commit(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._is_committing:
            self._is_wanted = True
            return
        items, self._waiting = self._waiting[:BATCH_ITEMS], self._waiting[BATCH_ITEMS:]
        self._marks.clear()  # from here on the lists are the thread's
        if self._wants_release:
            # Last, so that the receipts of this commit count; once, so that it stays short.
            self._wants_release = False
            items.append(_Item(self._release_some, None, is_vital=False))
        if not items:
            return
        self._is_wanted = bool(self._waiting)
        self._is_committing = True
        loop = asyncio.get_running_loop()
        is_vital = any(item.is_vital for item in items)
        work = [item.work for item in items]
        running = self._executor.submit(
            self._in_thread, lambda: self._store.run(work, is_vital=is_vital)
        )
        running.add_done_callback(lambda done: loop.call_soon_threadsafe(self._done, items, done))

    def _done(self, items: list[_Item], running: Future[_Visit]) -> None:
        self._is_committing = False
        # The next commit starts before anybody reacts to this one.
        if self._is_wanted:
            self._commit()
        bug = running.exception()
        if bug is not None:
            self._settle_all(items, [bug] * len(items))
            return
        visit = running.result()
        results = visit.result
        if visit.failure is not None:
            results = [visit.failure] * len(items)
            if any(item.future is None for item in items):
                self._tell(JournalEvent(kind="write_failed", text=str(visit.failure), data={}))
        assert isinstance(results, list)
        self._after_visit(visit)
        self._settle_all(items, results)
        self._maintain_at_times()

    def _settle_all(self, items: list[_Item], results: list[object]) -> None:
        for item, result in zip(items, results, strict=True):
            self._settle(item, result)

    def _settle(self, item: _Item, result: object) -> None:
        if isinstance(result, _More):
            self._wants_release = True
            asyncio.get_running_loop().call_later(RELEASE_PAUSE_S, self._commit)
        if item.future is None or item.future.done():
            return
        if isinstance(result, BaseException):
            item.future.set_exception(result)
        else:
            item.future.set_result(result)

    def _after_visit(self, visit: _Visit) -> None:
        self.progress += 1
        if self.on_stored is not None:
            for stored in visit.stored:
                self.on_stored(stored)
        for event in visit.events:
            self._tell(event)

    def _tell(self, event: JournalEvent) -> None:
        if self._on_event is not None:
            self._on_event(event)

    def _maintain_at_times(self) -> None:
        now_s = self._clock.mono_s()
        if now_s - self._maintained_s > MAINTAIN_EVERY_S:
            self._maintained_s = now_s
            # What fails here meets the next append, which says so.
            self._executor.submit(self._in_thread, lambda: self._store.read(self._store.maintain))


class _More:
    """There is more to release."""


__all__ = ["Journal", "JournalError", "WireError"]
