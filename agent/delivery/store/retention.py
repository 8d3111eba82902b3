"""What leaves the store when there is no room, and the reserve that the last alarms fit into.

Order, oldest first in each (what is receipted has left already): blobs of passages, passages, blobs
of alarms, ``updated`` phases of alarms, alarm and audit. Every drop is told in a tombstone by the
caller.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

WARN_PERCENT: Final = (70, 85, 95)
DROP_ROWS: Final = 64
"""So many records leave at once, so that not every new record needs a drop."""

DROP_BLOBS: Final = 4
"""So many blobs leave at once: each may be as large as thousands of records."""


@dataclass(frozen=True, slots=True)
class Drop:
    """One step of the order: SQL on the table ``record``, or ``record_blob`` for blobs."""

    condition: str
    is_blobs: bool = False


_PASSAGE_BLOBS: Final = Drop("stream = 'pass' ORDER BY seq", is_blobs=True)
_PASSAGES: Final = Drop("stream = 'pass' ORDER BY seq")
_ALARM_BLOBS: Final = Drop("stream = 'alarm' ORDER BY seq", is_blobs=True)
DROP_ORDER: Final = (
    _PASSAGE_BLOBS,
    _PASSAGES,
    _ALARM_BLOBS,
    Drop("stream = 'alarm' AND is_update = 1 ORDER BY seq"),
    Drop("stream IN ('alarm', 'audit') ORDER BY rowid"),
)
"""What goes first, first."""
FOR_PASSAGE: Final = DROP_ORDER[:2]
"""What may go for a passage to be kept; a passage never drives out an alarm."""
FOR_BLOBS: Final = {"pass": DROP_ORDER[:1], "alarm": DROP_ORDER[:3]}
"""What may go for a record's blobs to be kept; blobs never drive out an alarm."""


EventKind = Literal[
    "new_store",
    "moved_aside",
    "dropped",
    "parked",
    "disk_full",
    "reserve_back",
    "fill_level",
    "receipt_refused",
    "write_failed",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEvent:
    """Something the caller makes a fault or an audit record of; ``text`` is one sentence."""

    kind: EventKind
    text: str
    data: dict[str, object]


def level(used_bytes: int, cap_bytes: int) -> int:
    """Return the highest warning threshold that is reached [percent], 0 where none is."""
    percent = 100 * used_bytes / cap_bytes
    return max((each for each in WARN_PERCENT if percent >= each), default=0)


def runs(seqs: Sequence[int]) -> list[tuple[int, int]]:
    """Return ascending numbers as unbroken ranges, both ends included."""
    found: list[tuple[int, int]] = []
    for seq in seqs:
        if found and found[-1][1] == seq - 1:
            found[-1] = (found[-1][0], seq)
        else:
            found.append((seq, seq))
    return found


class Reserve:
    """A file of real blocks beside the database, deleted when the disk is full."""

    def __init__(self, database: Path, size_bytes: int) -> None:
        self._path = database.with_name(database.name + ".reserve")
        self._size_bytes = size_bytes

    @property
    def is_kept(self) -> bool:
        """Return whether the reserve stands in full."""
        try:
            return self._size_bytes == 0 or self._path.stat().st_size >= self._size_bytes
        except OSError:
            return False

    def free(self) -> bool:
        """Give the room up; False: there was none to give."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def make(self) -> bool:
        """Set the room aside where it is there twice over; False: it is not."""
        if self.is_kept:
            return True
        try:
            if free_bytes(self._path.parent) < 2 * self._size_bytes:
                return False
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
        except OSError:
            self.free()
            return False
        return True


def free_bytes(directory: Path) -> int:
    """Return the bytes free to us on the directory's file system; raises OSError."""
    room = os.statvfs(directory)
    return room.f_bavail * room.f_frsize


def set_aside(database: Path, at: str) -> Path:
    """Rename the database with its -wal and -shm to a dated name and return it; raises OSError.

    The folder is synchronised, so that the rename survives a power cut.
    """
    aside = database.with_name(f"{database.name}.damaged-{at}")
    attempt = 1
    while aside.exists():
        attempt += 1
        aside = database.with_name(f"{database.name}.damaged-{at}-{attempt}")
    for suffix in ("", "-wal", "-shm"):
        part = database.with_name(database.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    folder = os.open(database.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return aside
