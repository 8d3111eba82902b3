"""What a run of bytes looks like, before any driver is asked: parity bits, lines, frames, noise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

Marking = Literal["none", "even", "odd", "mark"]
"""What bit 7 holds: data or nothing, even or odd parity, or always 1."""

MARKED_SHARE = 0.97
"""So many of the bytes must agree: a hit on the line spoils one, not the judgement."""
MARKED_AT_LEAST = 8
REGULAR_SHARE = 0.8

_NUMBER = re.compile(rb"\d+(?:[.,]\d+)?")
_STX = 0x02
_FRAME_MARKS = (0x0D, 0x0A, 0x03, ord("="))


def marking(data: bytes) -> Marking:
    """Return what bit 7 holds throughout.

    A 7E1 or 7O1 character is as long as an 8N1 one and its parity stands where bit 7 is read, so
    a port set to 8N1 receives such a device whole.
    """
    if len(data) < MARKED_AT_LEAST or not any(b & 0x80 for b in data):
        return "none"
    needed = MARKED_SHARE * len(data)
    if sum(b >> 7 for b in data) >= needed:
        return "mark"
    odd = sum(b.bit_count() & 1 for b in data)
    if len(data) - odd >= needed:
        return "even"
    return "odd" if odd >= needed else "none"


def unmarked(data: bytes) -> bytes:
    """Return the bytes with bit 7 cleared."""
    return bytes(b & 0x7F for b in data)


def shown(data: bytes, limit: int = 48) -> tuple[str, str]:
    """Return the first bytes as hex and as text, a point for what cannot be printed."""
    head = data[:limit]
    more = " …" if len(data) > limit else ""
    text = "".join(chr(b) if 0x20 <= b < 0x7F else "." for b in head)
    return head.hex(" ").upper() + more, text + more


def text_lines(data: bytes) -> tuple[bytes, ...]:
    """Return the whole lines of a text, or none where this is not text."""
    plain = data if marking(data) == "none" else unmarked(data)
    # The first and the last may be cut.
    lines = [line for line in re.split(rb"[\r\n\x02\x03]+", plain)[1:-1] if line]
    legible = sum(0x20 <= b < 0x7F for line in lines for b in line)
    total = sum(map(len, lines))
    return tuple(lines) if len(lines) >= 2 and legible >= 0.95 * total else ()


def is_columns(lines: Sequence[bytes]) -> bool:
    """Tell whether the lines are alike and hold a number each, as a printed table does."""
    if len(lines) < 2:
        return False
    _, often = Counter(map(len, lines)).most_common(1)[0]
    numbers = sum(_NUMBER.search(line) is not None for line in lines)
    return often >= REGULAR_SHARE * len(lines) and numbers >= REGULAR_SHARE * len(lines)


def described(data: bytes) -> str:
    """Return one sentence that says what kind of bytes these are."""
    if not data:
        return "Not one byte came."
    plain = unmarked(data)
    if _period(plain, _STX) is None and (lines := text_lines(data)):
        lengths = sorted(set(map(len, lines)))
        span = f"{lengths[0]}" if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
        return f"{len(data)} bytes came: lines of text of {span} characters."
    for mark in (_STX, *_FRAME_MARKS):
        period = _period(plain, mark)
        if period is not None:
            return f"{len(data)} bytes came: frames of {period} bytes with one {mark:#04x} each."
    return f"{len(data)} bytes came, in no order that shows lines or frames."


def is_regular(data: bytes) -> bool:
    """Tell whether the bytes show lines or frames, as they do at the right speed alone."""
    plain = unmarked(data)
    marks = (_STX, *_FRAME_MARKS)
    return bool(text_lines(data)) or any(_period(plain, mark) is not None for mark in marks)


def _period(data: bytes, mark: int) -> int | None:
    """Return the distance at which a byte keeps coming back, None where it does not."""
    places = [i for i, b in enumerate(data) if b == mark]
    if len(places) < 4:
        return None
    gaps = Counter(b - a for a, b in pairwise(places))
    period, often = gaps.most_common(1)[0]
    return period if period >= 4 and often >= REGULAR_SHARE * gaps.total() else None
