"""Lines cut out of a stream: the same frames however the bytes come, and nothing made of none."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from drivers.line_cutter import SLICE_BYTES, LineCutter, truncated
from drivers.readings import BadFrame, Reason

pieces = st.lists(st.sampled_from([b"\x02", b"\r", b"12", b"\x02W1\r", b"x" * 9, b"?\r"]))


def cutter(**changes) -> LineCutter:
    line = {"start": b"\x02", "end": b"\r", "max_length": 16, "seven_bits": False}
    return LineCutter(**(line | {"is_joining": False} | changes))


def found(lines: LineCutter, *data: bytes) -> list[bytes | BadFrame]:
    return [frame for piece in data for frame in lines.cut(piece)]


@given(pieces, st.booleans(), st.sampled_from([b"", b"?\r"]))
def test_frames_are_the_same_however_the_bytes_come(data, is_joining, request):
    whole = b"".join(data)
    one, other = (cutter(is_joining=is_joining, request=request) for _ in range(2))
    assert found(one, *(bytes([b]) for b in whole)) == found(other, whole)
    assert bytes(one.buffer) == bytes(other.buffer)
    assert len(one.buffer) <= 16


@given(st.lists(st.text("0123456789+-. kg", min_size=1, max_size=13), max_size=40))
def test_whole_frames_come_out_as_they_went_in(texts):
    frames = [b"\x02" + text.encode() + b"\r" for text in texts]
    assert found(cutter(), b"".join(frames)) == frames


def test_an_empty_line_between_frames_is_nothing():
    assert found(cutter(), b"\x02A\r\r\r\x02B\r") == [b"\x02A\r", b"\x02B\r"]


def test_bytes_outside_a_frame_are_refused_and_the_frame_behind_them_is_whole():
    lost, frame = found(cutter(), b"9\x02A\r")
    assert (lost.reason, lost.raw, frame) == (Reason.SYNTAX, b"9", b"\x02A\r")


def test_a_flood_is_refused_once_and_passed_over_to_its_end():
    refused, frame = found(cutter(), b"x" * (3 * SLICE_BYTES) + b"\r\x02A\r")
    assert (refused.reason, frame) == (Reason.FLOOD, b"\x02A\r")


def test_what_came_before_the_second_request_is_passed_over():
    lines = cutter(start=b"", is_joining=True, request=b"W\r")
    assert lines.ask() == b"W\r"
    assert found(lines, b"23\r") == []
    assert lines.has_answer
    lines.ask()
    assert not lines.has_answer
    assert found(lines, b"123\r") == [b"123\r"]


def test_our_own_request_sent_back_is_no_frame_and_no_answer():
    lines = cutter(start=b"", request=b"W\r")
    lines.ask()
    assert found(lines, b"W\r") == []
    assert not lines.has_answer


def test_a_half_frame_is_said_when_the_line_falls_silent_and_then_forgotten():
    lines = cutter()
    assert found(lines, b"\x021") == []
    (refused,) = truncated(lines.reset())
    assert (refused.reason, refused.raw) == (Reason.TRUNCATED, b"\x021")
    assert truncated(lines.reset()) == []
    assert found(lines, b"\x02A\r") == [b"\x02A\r"]


def test_the_parity_bit_of_seven_bit_bytes_is_taken_off():
    assert found(cutter(seven_bits=True), b"\x82\xc1\x8d") == [b"\x02A\r"]
