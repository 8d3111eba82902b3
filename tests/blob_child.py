"""What the blob test kills: a journal of alarms with blobs, and a line for each that is kept."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path

from delivery_bench import ENCODER, alarm

from agent.clock import Clock
from agent.delivery.store.journal import Store
from agent.records import Blob
from agent.settings import JournalOptions


def blob(number: int, size: int = 300_000) -> Blob:
    """Return a blob whose every chunk is its own."""
    data = (f"{number:08d}" * (size // 8 + 1)).encode()[:size]
    return Blob(role="n42", media_type="application/xml", data=data)


def main(path: str, begin: int) -> None:
    store = Store(JournalOptions(path=path, reserve_bytes=0), Clock(), ENCODER)
    store.open()
    os.write(1, b"ready\n")
    for number in range(begin, begin + 1_000_000):
        record = replace(alarm(number), blobs=(blob(number),))
        store.run([lambda record=record: store.append(record)])
        os.write(1, f"{number} {record.blobs[0].sha256}\n".encode())


if __name__ == "__main__":
    main(str(Path(sys.argv[1])), int(sys.argv[2]))
