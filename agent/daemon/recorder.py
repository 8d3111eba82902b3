"""Brings records to the journal in their order, and keeps them while the disk takes none."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque

from agent.clock import Clock
from agent.daemon.long_work import LongWork, NoAnswer
from agent.delivery.blobs import blobs_of, without_blobs
from agent.delivery.store.journal import JournalError, Stored
from agent.delivery.store.thread import Journal
from agent.delivery.wire import WireError
from agent.evidence.event import EventFiles
from agent.records import Alarm, Passage, Record

log = logging.getLogger(__name__)

RETRY_STORE_S = 1.0
KEPT_UNSTORED = 10_000
"""So many records wait for a disk that takes none; the next one is counted as lost, and said."""
KEPT_UNSTORED_BLOB_BYTES = 32 << 20
"""So much of their blobs; a record beyond it is kept without."""


class Recorder:
    """Brings records to the journal, and keeps them while the disk takes none.

    The file of an event is written elsewhere; what comes after it waits, so order is kept.
    """

    def __init__(
        self,
        journal: Journal,
        clock: Clock,
        files: EventFiles | None = None,
        long_work: LongWork | None = None,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._files = files
        self._long_work = long_work
        self._waiting: set[asyncio.Task[None]] = set()
        self._behind_file: deque[Record] = deque()
        """A record whose file is being written, and those that came after it."""
        self._writing: asyncio.Task[None] | None = None
        self._blob_bytes = 0
        self.lost = 0
        """Records for which there was no room in memory either."""

    def put(self, record: Record) -> None:
        """Store the record; returns at once, order is kept."""
        waiting = len(self._waiting) + len(self._behind_file)
        if waiting >= KEPT_UNSTORED:
            self.lost += 1
            log.error("record=lost type=%s waiting=%d", type(record).__name__, waiting)
            return
        if not self._behind_file and not _has_event(record):
            self._begin(record)
            return
        self._behind_file.append(record)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.get_running_loop().create_task(self._write_files())

    async def _write_files(self) -> None:
        while self._behind_file:
            first = self._behind_file[0]
            if _has_event(first):
                first = await self._with_file(first)
            self._behind_file.popleft()
            self._begin(first)

    async def _with_file(self, record: Record) -> Record:
        """Return the record with its file; a bug in the file costs the file, not the record.

        The file of spectra is long work; one of counts alone is written at once, in a thread.
        """
        if self._files is None:
            return record
        asked = self._files.asked(record)
        try:
            if asked is None:
                return self._files.attach(record)
            if self._long_work is not None and asked.has_spectra:
                file = await self._long_work.answer(asked)
            else:
                file = await asyncio.to_thread(asked.answer)
        except NoAnswer as exc:
            log.error("event_file=none type=%s error=%s", type(record).__name__, exc)  # noqa: TRY400 - expected
            return record
        except Exception:
            log.exception("bug task=event_file type=%s", type(record).__name__)
            return record
        return self._files.attach(record, file)

    def _begin(self, record: Record) -> None:
        size_bytes = sum(len(blob.data) for blob in blobs_of(record))
        if self._blob_bytes + size_bytes > KEPT_UNSTORED_BLOB_BYTES:
            log.error("blobs=lost type=%s bytes=%d", type(record).__name__, size_bytes)
            record, size_bytes = without_blobs(record), 0
        self._blob_bytes += size_bytes
        task = asyncio.get_running_loop().create_task(self._store(record))
        self._waiting.add(task)
        task.add_done_callback(lambda done: self._stored(done, size_bytes))

    def _stored(self, task: asyncio.Task[None], size_bytes: int) -> None:
        self._waiting.discard(task)
        self._blob_bytes -= size_bytes

    async def _store(self, record: Record) -> None:
        is_first = True
        while True:
            try:
                stored = await self._journal.append(record)
            except JournalError as exc:
                if is_first:
                    log.error("journal=failed error=%s", exc)  # noqa: TRY400 - expected, no traceback
                is_first = False
                await self._clock.sleep(RETRY_STORE_S)
            except WireError:
                log.exception("record=unsayable type=%s", type(record).__name__)
                return
            else:
                if isinstance(record, Alarm):
                    _log_alarm(record, stored)
                return

    async def drain(self, within_s: float) -> None:
        """Wait until all is stored, at most so long [s]."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                if self._writing is not None:
                    await asyncio.wait({self._writing})
                if self._waiting:
                    await asyncio.wait(set(self._waiting))


def _has_event(record: Record) -> bool:
    return isinstance(record, Alarm | Passage) and record.event is not None


def _log_alarm(alarm: Alarm, stored: Stored) -> None:
    log.info(
        "alarm=%s kind=%s code=%s lane=%s seq=%d",
        alarm.phase,
        alarm.kind,
        alarm.code,
        alarm.lane or "-",
        stored.seq,
    )
