"""Bulky parts of records: which they are, how large they may be, and how they are cut."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from agent.records import Alarm, Audit, Blob, Passage, Record

CHUNK_BYTES: Final = 1 << 16
"""Half of what the contract allows: a live alarm waits behind one chunk on the wire at most."""
BLOBS_LIMIT_BYTES: Final = 16 << 20
"""A record whose blobs are larger together is kept without them, and that is said."""
STORE_SHARE: Final = 4
"""Nor may they be larger than this fraction of the store: they would drive out too much."""


def blobs_of(record: Record) -> tuple[Blob, ...]:
    """Return the blobs that come with a record."""
    match record:
        case Alarm() | Passage():
            return record.blobs
        case Audit():
            return ()


def without_blobs(record: Record) -> Record:
    """Return the record as it is where its blobs cannot be kept."""
    return record if isinstance(record, Audit) else replace(record, blobs=())


def chunk_count(size_bytes: int) -> int:
    """Return into how many chunks so many bytes are cut."""
    return -(-size_bytes // CHUNK_BYTES)


def chunks_of(data: bytes) -> list[bytes]:
    """Return the data in chunks, all full but the last."""
    return [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
