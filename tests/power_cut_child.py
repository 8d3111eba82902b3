"""What the power-cut test cuts off: a journal that says which records are kept."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import sys
import time
from dataclasses import replace
from pathlib import Path

from blob_child import blob
from delivery_bench import ENCODER, alarm, audit

from agent.clock import Clock
from agent.delivery.store import journal as journal_module
from agent.delivery.store.thread import Journal
from agent.records import Alarm
from agent.settings import JournalOptions


class Forgetful(sqlite3.Connection):
    """A database that never flushes: what the test must notice."""

    def execute(self, sql, *args):
        return super().execute(sql.replace("synchronous=FULL", "synchronous=NORMAL"), *args)


async def main(path: Path, begin: int, *, flushes: bool) -> None:
    if not flushes:
        connect = sqlite3.connect
        journal_module.sqlite3.connect = lambda *a, **k: connect(*a, **k, factory=Forgetful)
    options = JournalOptions(path=str(path), reserve_bytes=0)
    journal = Journal(options, Clock(), ENCODER)
    await journal.open()
    for number in range(begin, begin + 1_000_000):
        record = audit(number) if number % 7 == 0 else alarm(number, text=f"alarm {number}")
        if isinstance(record, Alarm) and number % 5 == 0:
            record = replace(record, blobs=(blob(number, 150_000),))
        stored = await journal.append(record)
        line = f"{stored.stream} {stored.epoch} {stored.seq} {time.monotonic_ns()}\n"
        os.write(1, line.encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), flushes=sys.argv[3] == "flushes"))
