"""The Rapiscan / TSA codec beyond the contract suite: what is nearly right is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drivers.readings import BadFrame, GammaCounts, NeutronBackground, OccupancyEnd, Reason
from drivers.rpm.rapiscan import LONGEST_LINE, Driver, Options


def driver():
    codec = Driver(Options())
    codec.feed(b"GB,000400,000400,000400,000400\r\n")
    return codec


@pytest.mark.parametrize(
    "line",
    [
        b"GS,000055,000048,000064",
        b"GS,000055,000048,000064,000061,000001",
        b"GS,00055,000048,000064,000061",
        b"GS,+00055,000048,000064,000061",
        b"GS,0 0055,000048,000064,000061",
        b"GS,0_0055,000048,000064,000061",
        b"GS,\xb9\xb2\xb3055,000048,000064,000061",
        b"GX,000630,002566,000000",
        b"SP,0.6606,01.032,001.66",
        b"SP,-.6606,01.032,001.66,000000",
        b"TT,000000",
        b"NB1,3.86,0.0,-2.9,0.0",
        b"SG1,002000,000068,00,10,05.0,P",
        b"SG1,002000,000068,05,10,5,P",
        b"SG2,1121,0.069,0.455,01,1010,A",
        b"SN1,000050,03,0004,1200,01",
        b"AA,000001,000001,000001,21111A",
    ],
)
def test_a_line_with_wrong_fields_is_refused_with_its_bytes(line):
    (reading,) = driver().feed(line + b"\r\n")
    assert isinstance(reading, BadFrame)
    assert reading.reason is Reason.SYNTAX
    assert reading.raw == line


def test_a_spectroscopic_daily_line_with_the_same_tag_is_refused():
    line = b"GS,Aa1,001," + b",".join(b"%d" % n for n in range(20))
    (reading,) = driver().feed(line + b"\r\n")
    assert isinstance(reading, BadFrame)


def test_an_unknown_tag_is_named():
    (reading,) = driver().feed(b"QQ,000000,000000,000000,000000\r\n")
    assert reading.reason is Reason.UNKNOWN
    assert "QQ" in reading.detail


def test_a_line_that_never_ends_is_bounded_and_the_next_whole_line_is_read():
    codec = driver()
    readings = []
    for _ in range(200):
        readings += codec.feed(b"9" * 100)
        assert codec.buffered <= LONGEST_LINE
    assert all(r.reason is Reason.FLOOD for r in readings)
    *_, last = codec.feed(b"\r\nGB,000400,000400,000400,000400\r\n")
    assert not isinstance(last, BadFrame)


def test_silence_drops_a_half_line_and_says_so():
    codec = driver()
    codec.feed(b"GS,0000")
    (refused,) = codec.silence()
    assert refused.reason is Reason.TRUNCATED
    (reading,) = codec.feed(b"GS,000055,000048,000064,000061\r\n")
    assert isinstance(reading, GammaCounts)
    assert reading.age_s == 0.0


def test_one_background_line_inside_an_occupancy_does_not_begin_another_burst():
    codec = driver()
    line = b"GS,000055,000048,000064,000061\r\n"
    for _ in range(8):
        codec.feed(line)
    codec.feed(b"GB,000400,000400,000400,000400\r\n")
    (reading,) = codec.feed(line)
    assert reading.age_s == 0.0


def test_two_background_lines_in_a_row_mean_that_the_end_was_lost():
    codec = driver()
    line = b"GS,000055,000048,000064,000061\r\n"
    for _ in range(8):
        codec.feed(line)
    codec.feed(b"GB,000400,000400,000400,000400\r\n" * 2)
    (reading,) = codec.feed(line)
    assert reading.age_s == 1.0


def test_the_neutron_background_of_the_end_line_is_in_thousandths():
    (reading,) = driver().feed(b"GX,000630,002566,000000,000000\r\n")
    assert reading == OccupancyEnd(number=630, neutron_background_cps=2.566)


def test_a_printed_neutron_background_is_marked_as_rounded_down():
    (reading,) = driver().feed(b"NB,000000,000000,000000,000000\r\n")
    assert isinstance(reading, NeutronBackground)
    assert reading.rounded_down is True


def test_a_bare_line_feed_ends_a_line_too():
    (reading,) = driver().feed(b"GS,000055,000048,000064,000061\n")
    assert isinstance(reading, GammaCounts)


@given(st.lists(st.integers(0, 999_999), min_size=4, max_size=4), st.sampled_from(["GS", "GA"]))
def test_every_count_line_reads_back_as_it_was_written(counts, tag):
    line = f"{tag}," + ",".join(f"{c:06d}" for c in counts)
    (reading,) = driver().feed(line.encode() + b"\r\n")
    assert reading.counts == tuple(counts)
    assert reading.device_alarm == (tag == "GA")


@given(st.integers(0, 29), st.integers(1, 255))
def test_a_flip_that_breaks_the_form_is_refused(position, mask):
    line = bytearray(b"GS,000055,000048,000064,000061")
    line[position] ^= mask
    readings = driver().feed(bytes(line) + b"\r\n")
    is_digit = position > 2 and (position - 2) % 7 and chr(line[position]).isdigit()
    is_tag = bytes(line[:2]) in {b"GA", b"NS", b"AS", b"GX", b"GB", b"GH", b"GL"} and position < 2
    if not (is_digit and line[position] < 128) and not is_tag:
        assert all(isinstance(r, BadFrame) for r in readings)
