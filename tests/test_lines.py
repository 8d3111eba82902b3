"""Lines of a serial stream, however the bytes arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.lines import Lines
from drivers.readings import BadFrame, Reason

LIMIT = 16
PIECES = st.lists(st.binary(max_size=40))


def lines_of(data: bytes) -> list[bytes | Reason]:
    """Return what a stream holds, read at leisure: every line, and each that is too long once."""
    *ended, rest = data.split(b"\n")
    found: list[bytes | Reason] = [
        line + b"\n" if len(line) <= LIMIT else Reason.FLOOD for line in ended
    ]
    return [*found, Reason.FLOOD] if len(rest) > LIMIT else found


@given(PIECES, st.booleans())
def test_lines_are_the_same_however_the_bytes_arrive(pieces, is_split):
    data = b"".join(pieces)
    arriving = [bytes([byte]) for byte in data] if is_split else pieces
    lines = Lines(LIMIT)
    found = [line for piece in arriving for line in lines.feed(piece)]
    told = [line.reason if isinstance(line, BadFrame) else line for line in found]
    assert told == lines_of(data)
    assert lines.buffered <= LIMIT


def test_what_is_dropped_is_given_back_and_never_joins_the_next_line():
    lines = Lines(LIMIT)
    lines.feed(b"half")
    assert lines.clear() == b"half"
    assert lines.feed(b"whole\n") == [b"whole\n"]


def test_a_line_shed_is_over_at_its_end():
    lines = Lines(LIMIT)
    (refused,) = lines.feed(b"x" * 40)
    assert isinstance(refused, BadFrame)
    assert refused.raw == b"x" * LIMIT
    assert lines.feed(b"xx\nnext\n") == [b"next\n"]
