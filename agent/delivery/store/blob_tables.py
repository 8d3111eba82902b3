"""The tables that bulky parts of records stand in.

A blob is stored once however many records name it, in the commit of the first, and leaves with the
last of them: the triggers below keep that, whatever deletes a record and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

SCHEMA: Final = (
    """CREATE TABLE record_blob (
        stream TEXT NOT NULL, epoch TEXT NOT NULL, seq INTEGER NOT NULL,
        sha256 TEXT NOT NULL, chunks INTEGER NOT NULL,
        PRIMARY KEY (stream, epoch, seq, sha256)
    ) WITHOUT ROWID""",
    "CREATE INDEX record_blob_sha256 ON record_blob (sha256)",
    """CREATE TABLE blob_chunk (
        sha256 TEXT NOT NULL, number INTEGER NOT NULL, content BLOB NOT NULL,
        PRIMARY KEY (sha256, number)
    )""",
    """CREATE TRIGGER record_gone AFTER DELETE ON record BEGIN
        DELETE FROM record_blob
        WHERE stream=OLD.stream AND epoch=OLD.epoch AND seq=OLD.seq;
    END""",
    """CREATE TRIGGER record_blob_gone AFTER DELETE ON record_blob BEGIN
        DELETE FROM blob_chunk WHERE sha256=OLD.sha256
        AND NOT EXISTS (SELECT 1 FROM record_blob WHERE sha256=OLD.sha256);
    END""",
)
OF_RECORD: Final = (
    "(SELECT group_concat(sha256 || ':' || chunks, ' ') FROM record_blob AS blob "
    "WHERE blob.stream=record.stream AND blob.epoch=record.epoch AND blob.seq=record.seq)"
)
"""SQL: what a record's blobs are, for ``named``; NULL: it has none."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob on disk: its SHA-256 in hexadecimal digits and the number of its chunks."""

    sha256: str
    chunks: int


def named(text: str | None) -> tuple[StoredBlob, ...]:
    """Return the blobs that ``OF_RECORD`` found."""
    pairs = [each.split(":") for each in (text or "").split()]
    return tuple(StoredBlob(sha256, int(chunks)) for sha256, chunks in pairs)
