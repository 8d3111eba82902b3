"""Lines of text described as data: framing, parts, texts, checksums, samples, bounded patterns."""

from __future__ import annotations

import asyncio
import functools
import operator
import random
import re
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
import test_drivers as contract
from capture_files import Capture
from hypothesis import given, settings
from hypothesis import strategies as st

import drivers.scale
from agent.config import ConfigError, load_lane
from drivers import text_lines
from drivers.base import find, names
from drivers.readings import BadFrame, Reason, Weight
from drivers.scale import ascii_columns
from simulators.clock import SceneClock
from simulators.scales_table import LINES, LineScale
from simulators.weighbridge import Weighbridge

KG = {"kg": Decimal(1), "lb": Decimal("0.45359237")}

FIELDS = {
    "separator": ",",
    "fields": ["stability", "mode", "value", "unit"],
    "mode_texts": {"GS": "gross", "NT": "net"},
    "stability_texts": {"ST": "stable", "US": "moving"},
    "samples": [{"frame": "ST,GS, 12340.5,kg<CR><LF>", "value": "12340.5", "stable": True}],
}
OPTIONS = {
    "separated": FIELDS
    | {
        "stability_texts": {"ST": "stable", "US": "moving", "OL": "unknown"},
        "separator": "",
        "fields": [],
        "pattern": "(?P<status>[A-Z]{2}),(?P<mode>GS|NT),(?P<value>[- 0-9.]{9}),(?P<unit>kg|lb)",
        "samples": [{"frame": "ST,GS,- 12340.5,kg<CR><LF>", "value": "-12340.5"}],
        "range_texts": {"ST": "ok", "US": "ok", "OL": "over"},
    },
    "columns": {
        "end": "<CR>",
        "poll": "W<CR>",
        "unit_texts": {"KG": "kg", "LB": "lb"},
        "mode_texts": {"GR": "gross", "gr": "gross", "NT": "net", "nt": "net"},
        "stability_texts": {"GR": "stable", "gr": "moving", "NT": "stable", "nt": "moving"},
        "value_texts": {"--uL--": "under", "--oL--": "over"},
        "columns": {"value": "2-7", "unit": "9-10", "status": "12-13"},
        "samples": [{"frame": "  12340 KG gr<CR>", "value": "12340", "stable": False}],
    },
    "checked": {
        "start": "<STX>",
        "decimal_mark": "comma",
        "checksum": "sum",
        "checksum_skip": 1,
        "pattern": "(?P<status>[SUOV])(?P<mode>[GN])(?P<sign>[ -])(?P<value>.{8})(?P<unit>kg|lb)"
        "(?P<checksum>[0-9A-F]{2})",
        "mode_texts": {"G": "gross", "N": "net"},
        "stability_texts": {"S": "stable", "U": "moving", "O": "unknown", "V": "unknown"},
        "range_texts": {"S": "ok", "U": "ok", "O": "over", "V": "under"},
        # 53+47+20 + 20+31+32+33+34+30+2C+35 + 6B+67 = 307
        "samples": [{"frame": "<STX>SG  12340,5kg07<CR><LF>", "value": "12340.5"}],
    },
    "reversed": {
        "start": "=",
        "end": "",
        "length": 9,
        "digits_reversed": True,
        "columns": {"value": "1-8"},
        "samples": [{"frame": "=5.0432- ", "value": "-2340.5", "stable": "unknown"}],
    },
    "binary": {
        "start": "<STX>",
        "end": "",
        "length": 11,
        "pattern": "(?P<status>[AMOU])(?P<sign>[ -])(?P<value>.{6})\\r(?P<checksum>.)",
        "stability_texts": {"A": "stable", "M": "moving", "O": "unknown", "U": "unknown"},
        "range_texts": {"A": "ok", "M": "ok", "O": "over", "U": "under"},
        "checksum": "twos-complement",
        "checksum_form": "bytes",
        "checksum_bits": 7,
        # 02+41+20 + 20+31+32+33+34+30 + 0D = 18A, and 80 - 0A = 76
        "samples": [{"frame": "<STX>A  12340<CR><0x76>", "value": "12340", "stable": True}],
    },
}


def driver(**options):
    return ascii_columns.Driver(msgspec.convert(options, ascii_columns.Options))


def weights(readings):
    return [r for r in readings if isinstance(r, Weight)]


def truck(seed):
    load = random.Random(seed).uniform(3_000, 75_000)

    def load_kg(scene_s):
        on = min(max((scene_s - 3) / 2, 0), 1)
        off = min(max((scene_s - 12) / 2, 0), 1)
        return load * (on - off)

    return Weighbridge(load_kg, seed=seed)


# --- the simulator's truth ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", ["kg", "lb"])
@pytest.mark.parametrize("row", sorted(LINES))
def test_a_described_line_agrees_with_the_simulated_indicator(row, unit, seed):
    print(f"seed={seed}")
    scale = LineScale(truck(seed), LINES[row], unit=unit)
    options = OPTIONS[row] | {"equal_frames": 1}
    if row in ("reversed", "binary"):
        options["weight_unit"] = unit
    device = driver(**options)
    device.poll()
    device.feed(scale.form.end)  # what a line without start drops at first
    device.poll()
    ranges = set()
    for tenth in range(170):
        observation = scale.weighbridge.observe(tenth / 10)
        if tenth == 10 and seed % 2:
            scale.tare = Decimal(40)
        truth = scale.show(observation)
        (weight,) = device.feed(scale.frame(observation))
        expected = truth.range
        if row == "reversed" and expected != "ok":
            expected = "unknown"
        if row == "separated" and expected == "under":
            expected = "over"  # its one text, OL, for both
        assert weight.range == expected
        ranges.add(weight.range)
        if truth.range != "ok":
            assert (weight.value, weight.mass_kg) == (None, None)
            continue
        assert Decimal(weight.value) == truth.value
        assert weight.mass_kg == float(truth.value * KG[unit])
        assert weight.verified is (row in ("checked", "binary"))
        assert weight.stable is (None if row == "reversed" else not truth.in_motion)
    assert "ok" in ranges


@pytest.mark.parametrize("row", ["columns", "checked"])
def test_a_served_indicator_is_read_over_its_port(row):
    async def first_weight():
        scale = LineScale(Weighbridge(lambda _: 12_340.0, seed=1), LINES[row], frames_per_s=100)
        address = await scale.serve_tcp(SceneClock())
        reader, writer = await asyncio.open_connection("127.0.0.1", int(address.split(":")[-1]))
        device = driver(**OPTIONS[row])
        try:
            async with asyncio.timeout(5):
                while True:
                    writer.write(device.poll())
                    for weight in weights(device.feed(await reader.read(256))):
                        return weight
        finally:
            writer.close()
            await scale.close()

    assert asyncio.run(first_weight()).mass_kg == 12_340.0


# --- framing --------------------------------------------------------------------------------------


def test_the_rest_of_a_line_that_was_running_is_never_a_weight():
    device = driver(**FIELDS, equal_frames=1)
    assert device.feed(b"ST,GS,  2340.5,kg\r\n") == []  # may have been 12340.5
    (weight,) = device.feed(b"ST,GS, 12340.5,kg\r\n")
    assert weight.value == "12340.5"


def test_an_asked_line_counts_from_the_second_request_on():
    device = driver(**OPTIONS["columns"], equal_frames=1)
    assert device.poll() == b"W\r"
    assert device.feed(b"  2340 KG GR\r  12340 KG GR\r") == []
    assert device.no_reply() == []  # it did answer
    device.poll()
    assert weights(device.feed(b"  12340 KG GR\r"))[0].value == "12340"
    device.poll()
    assert device.no_reply()[0].reason is Reason.NO_REPLY


def test_the_echo_of_an_adapter_is_no_reply():
    device = driver(**OPTIONS["columns"], equal_frames=1)
    for _ in range(2):
        device.poll()
        device.feed(b"W\r")
    assert weights(device.feed(b"W\r  12340 KG GR\r"))[0].value == "12340"
    device.poll()
    assert device.feed(b"W\r") == []
    assert device.no_reply()[0].reason is Reason.NO_REPLY


def test_two_frames_whose_end_between_was_lost_never_make_one():
    device = driver(**OPTIONS["checked"])
    good = b"\x02SG  12340,5kg07\r\n"
    readings = device.feed(good[:-1] + good)
    assert [type(r) for r in readings] == [BadFrame, Weight]
    readings = device.feed(good[:6] + good)
    assert [type(r) for r in readings] == [BadFrame, Weight]


def test_a_stable_figure_needs_equal_frames_and_a_moving_one_passes():
    device = driver(**FIELDS)
    device.feed(b"\r\n")
    assert weights(device.feed(b"US,GS, 12340.5,kg\r\n"))
    assert device.feed(b"ST,GS, 12340.5,kg\r\n") == []
    assert weights(device.feed(b"ST,GS, 12340.5,kg\r\n"))
    assert device.feed(b"ST,GS, 12540.5,kg\r\n") == []  # one flipped bit


def test_stability_by_the_host_says_so():
    options = OPTIONS["reversed"] | {"weight_unit": "kg", "host_stable_frames": 3}
    device = driver(**options, equal_frames=1)
    frames = b"=0.04321 =0.04321 =0.04321 =0.06321 "
    said = [(w.stable, w.stable_by) for w in weights(device.feed(frames))]
    assert said == [(False, "host"), (False, "host"), (True, "host"), (False, "host")]


def test_the_parity_bit_of_a_7e1_indicator_is_masked_where_it_is_said():
    frame = b"ST,GS, 12340.5,kg\r\n"
    sent = bytes(b | (b.bit_count() & 1) << 7 for b in frame)
    device = driver(**FIELDS, seven_bits=True)
    assert weights(device.feed(sent * 3))[0].value == "12340.5"
    assert weights(driver(**FIELDS).feed(sent * 3)) == []


# --- parts ----------------------------------------------------------------------------------------


def one(frame, **options):
    """Return what one frame says, the first part apart."""
    base = {"weight_unit": "kg", "columns": {"value": "1-10"}, "equal_frames": 1}
    base["samples"] = [{"frame": f"{1:10d}<CR><LF>", "range": "ok"}]
    device = driver(**base | options)
    device.feed(b"\r\n")
    (said,) = device.feed(frame + b"\r\n")
    return said


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("-    123.4", "-123.4"),
        ("    -123.4", "-123.4"),
        ("    123.4-", "-123.4"),
        ("+    123.4", "123.4"),
        ("   0000.30", "0.30"),
        ("      -0.0", "0.0"),
        ("      123.", "123"),
    ],
)
def test_every_form_of_sign_gives_the_exact_figure(text, value):
    said = one(text.encode())
    expected = Decimal(value)
    assert Decimal(said.value) == expected
    assert not said.value.startswith("-0") or expected
    assert said.mass_kg == float(expected)


@pytest.mark.parametrize(
    "text", ["-   123.4-", "1 23.4    ", "1e5       ", "1_000     ", "12,5      ", "٣         "]
)
def test_what_is_no_figure_is_refused(text):
    assert one(text.encode()[:10].ljust(10)).reason is Reason.SYNTAX


def test_a_blank_display_is_no_weight():
    said = one(b" " * 10)
    assert (said.range, said.value, said.mass_kg) == ("unknown", None, None)


@pytest.mark.parametrize("text", ["^^^^^^^^^^", "----------", "    EEEE  ", "      OL  "])
def test_texts_in_place_of_the_figure_are_ranges_where_they_are_named(text):
    assert one(text.encode()).reason is Reason.SYNTAX
    assert one(text.encode(), value_texts={text.strip(): "over"}).range == "over"


@pytest.mark.parametrize(
    ("mark", "text", "value"),
    [("comma", "123,4", "123.4"), ("either", "123,4", "123.4"), ("either", "123.4", "123.4")],
)
def test_the_decimal_mark_is_as_described(mark, text, value):
    assert one(text.rjust(10).encode(), decimal_mark=mark).value == value


def test_decimals_may_stand_in_a_digit_of_the_frame():
    columns = {"value": "1-9", "decimals": "10-10"}
    said = one(b"  0012343", decimal_mark="none", decimals=1)
    assert said.reason is Reason.SYNTAX  # nine characters, ten wanted
    sample = [{"frame": "  001234 3<CR><LF>", "value": "1.234"}]
    options = {"columns": columns, "decimal_mark": "none", "samples": sample}
    assert one(b"  001234 2", **options).value == "12.34"
    assert one(b"  001234 9", **options).reason is Reason.SYNTAX


def test_figures_without_point_count_as_many_decimals_as_described():
    assert one(b"     12345", decimal_mark="none", decimals=2).value == "123.45"
    assert one(b"     12345", decimal_mark="none", decimals=-1).value == "123450"
    assert one(b"    123.45", decimal_mark="none", decimals=2).reason is Reason.SYNTAX


def test_a_text_that_no_table_holds_is_refused_not_guessed():
    device = driver(**FIELDS, equal_frames=1)
    device.feed(b"\r\n")
    for line, reason in (
        (b"QT,GS, 12340.5,kg\r\n", Reason.UNKNOWN),
        (b"ST,XX, 12340.5,kg\r\n", Reason.UNKNOWN),
        (b"ST,GS, 12340.5,kN\r\n", Reason.UNIT),
        (b"ST,GS, 12340.5,\r\n", Reason.UNIT),
        (b"ST,GS, 12340.5,kg,\r\n", Reason.SYNTAX),
    ):
        assert [r.reason for r in device.feed(line)] == [reason], line


def test_a_unit_key_pressed_is_refused_where_the_unit_was_declared():
    device = driver(**FIELDS, weight_unit="kg", equal_frames=1)
    device.feed(b"\r\n")
    assert device.feed(b"ST,GS, 12340.5,lb\r\n")[0].reason is Reason.UNIT


# --- checksums ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "form", "wanted"),
    [
        ("xor", "hex", "31"),
        ("xor", "hex-lower", "31"),
        ("sum", "hex", "DD"),
        ("twos-complement", "hex", "23"),
        ("crc16-modbus", "hex", "4B37"),
        ("crc16-modbus", "hex-lower", "4b37"),
        ("crc16-ccitt", "hex", "29B1"),
    ],
)
def test_each_checksum_over_the_digits_1_to_9(kind, form, wanted):
    """Check values: CRC-16/MODBUS 4B37, CRC-16/CCITT-FALSE 29B1; the others added up by hand."""
    options = {
        "checksum": kind,
        "checksum_form": form,
        "pattern": "(?P<value>[0-9]{9})(?P<checksum>[0-9A-Fa-f]+)",
    }
    sample = {"frame": f"123456789{wanted}<CR><LF>", "value": "123456789"}
    said = one(b"123456789" + wanted.encode(), columns={}, samples=[sample], **options)
    assert said.verified
    wrong = wanted[:-1] + ("0" if wanted[-1] != "0" else "1")
    said = one(b"123456789" + wrong.encode(), columns={}, samples=[sample], **options)
    assert said.reason is Reason.CHECKSUM


def test_the_scope_of_a_checksum_is_as_described():
    """$RWAWT,EstSteer,3400,11111111*7B: XOR between $ and *."""
    options = {
        "start": "$",
        "checksum": "xor",
        "checksum_skip": 1,
        "checksum_behind": 1,
        "columns": {},
        "pattern": "RWAWT,[A-Za-z]{1,12},(?P<value>[0-9]{1,6}),[0-9]{8}[*](?P<checksum>..)",
        "samples": [{"frame": "$RWAWT,EstSteer,3400,11111111*7B<CR><LF>", "value": "3400"}],
    }
    assert driver(weight_unit="kg", **options)
    options["checksum_behind"] = 0
    with pytest.raises(ValueError, match=r"sample 1 .* is refused \(checksum"):
        driver(weight_unit="kg", **options)


# --- samples and other problems -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sample", "said"),
    [
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>", "value": "12340.6"}, "gives value 12340.5, not"),
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>", "value": "12340.50"}, "gives value 12340.5, not"),
        ({"frame": "US,GS, 12340.5,kg<CR><LF>", "value": "12340.5", "stable": True}, "gives sta"),
        ({"frame": "ST,NT, 12340.5,kg<CR><LF>", "value": "12340.5", "mode": "gross"}, "gives mode"),
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>", "value": "12340.5", "unit": "lb"}, "gives unit kg"),
        ({"frame": "ST,GS, 12340.5,kg<CR>", "value": "12340.5"}, "does not fit start, end"),
        ({"frame": "ST,GS,12340.5,kg<CR><LF><CR><LF>", "value": "12340.5"}, "holds end twice"),
        ({"frame": "ST,GS, 12340.5 kg<CR><LF>", "value": "12340.5"}, r"is refused \(syntax"),
        ({"frame": "OL,GS, 12340.5,kg<CR><LF>", "range": "over"}, r"is refused \(unknown"),
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>", "refused": "unit"}, "is not refused"),
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>", "weight": "12340.5"}, "has weight; expected"),
        ({"frame": "ST,GS, 12340.5,kg<CR><LF>"}, "does not say what it means"),
        ({"value": "12340.5"}, "does not fit start, end"),
    ],
)
def test_a_sample_that_does_not_decode_to_its_meaning_is_named(sample, said):
    with pytest.raises(ValueError, match=said) as caught:
        driver(**FIELDS | {"samples": [*FIELDS["samples"], sample]})
    assert str(caught.value).startswith('sample 2 "')
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"end": ""}, "a frame needs end, or start and length"),
        ({"end": "<CRLF>"}, 'end has "<CRLF>"'),
        ({"end": "<"}, "expected <NUL>"),
        ({"end": "→"}, "no single byte"),
        ({"columns": {"value": "1-4"}}, "give one of pattern, columns, or separator"),
        ({"separator": "", "fields": []}, "give one of pattern"),
        ({"fields": []}, "separator needs fields"),
        ({"fields": ["stability", "mode", "weight", "unit"]}, 'there is no part "weight"'),
        ({"fields": ["stability", "mode", "unit", "unit"]}, "named twice"),
        ({"fields": ["stability", "mode", "-", "unit"]}, "no part is called value"),
        ({"fields": ["stability", "mode", "value", "-"]}, "give weight_unit"),
        ({"mode_texts": {}}, "no mode_texts say what it means"),
        ({"range_texts": {"OL": "over"}}, "no part is called range or status"),
        ({"checksum": "xor"}, "need each other"),
        ({"unit_texts": {"lbs": "pound"}}, "unit_texts names pound"),
        ({"separator": "", "columns": {"value": "8-3"}}, "write the first and last"),
        ({"separator": "", "pattern": "(?P<value"}, "is no regular expression"),
        ({"length": 2}, "leaves nothing between"),
    ],
)
def test_what_is_wrong_with_a_description_is_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=re.escape(said)) as caught:
        driver(**FIELDS | wrong)
    assert "\n" not in str(caught.value)


def test_a_checksum_of_bytes_needs_frames_cut_by_length():
    with pytest.raises(ValueError, match="cut by their length"):
        driver(**OPTIONS["binary"] | {"length": 0, "end": "<CR>", "weight_unit": "kg"})


LANE = """\
[devices.scale]
driver = "scale.ascii_columns"
port = "tcp://127.0.0.1:4001"
separator = ","
fields = ["-", "value", "unit"]
samples = [
    { frame = "ST,12340,kg<CR><LF>", value = "12340" },
    { frame = "ST,12340,kg<CR><LF>", value = "VALUE" },
]
"""


def test_a_wrong_sample_is_a_problem_of_the_devices_table_at_load(tmp_path):
    lane = tmp_path / "one.toml"
    lane.write_text("\n[lane]\n\n" + LANE.replace("VALUE", "1234.0"))
    with pytest.raises(ConfigError) as caught:
        load_lane(lane)
    (problem,) = caught.value.problems
    assert (problem.line, problem.option, problem.is_warning) == (4, "devices.scale", False)
    assert problem.text.startswith('sample 2 "ST,12340,kg<CR><LF>" gives value 12340, not 1234.0')
    lane.write_text(LANE.replace("VALUE", "12340"))
    assert load_lane(lane).device("scale").driver.name == "scale.ascii_columns"


# --- bounded patterns -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pattern",
    [
        "(?:a+)+b",
        "(?:a|a)*b",
        "(?:a|aa)+b",
        "(?:.*)*b",
        ".*.*.*b",
        "(?:a?){30}a{30}",
        "(?:(?:a{1,9}){1,9}){1,9}b",
        "(?:a*?)*?b",
        "(?:a|a?)++b",
        "(?>(?:a|a)*)b",
        "(?P<unit>a*)*b",
        "a*a*a*b",
        "[a]*[a-b]*[^c]*b",
        r"\w*\w*\w*b",
    ],
)
def test_a_pattern_that_could_run_away_is_refused_and_never_run(pattern):
    with pytest.raises(ValueError, match="bound its repeats"):
        driver(**FIELDS | {"separator": "", "pattern": f"(?P<value>1){pattern}"})


@pytest.mark.parametrize("pattern", ["(?=a)", "(?<!a)b", "(a)\\1", "(?P=value)", "(?i:a)", "(?#a)"])
def test_what_the_bound_does_not_count_is_refused(pattern):
    with pytest.raises(ValueError, match="pattern"):
        driver(**FIELDS | {"separator": "", "pattern": f"(?P<value>1){pattern}"})


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ("abc", 1),
        ("a|bc|d", 3),
        ("a?", 2),
        ("a{2}", 1),
        ("a{2,4}", 3),
        ("a*", 257),
        ("a+b*", 256 * 257),
        ("a*+b++", 1),
        ("(?:a?){3}", 8),
        ("(?:a|b|c){0,2}", 1 + 3 + 9),
        ("[]a*(]{1,2}", 2),
        (r"\*\({0,2}[\]*]?", 3 * 2),
    ],
)
def test_the_ways_of_a_pattern_are_counted(pattern, count):
    assert text_lines.ways(pattern, 256) == min(count, text_lines.MAX_WAYS + 1)


# A pattern as a tree, written out for the driver and walked through here path by path.
letters = st.sampled_from(["a", "[ab]", "."]).map(lambda text: ("letter", text))
turns = st.sampled_from([("*", 0, 9), ("+", 1, 9), ("?", 0, 1), ("{0,3}", 0, 3), ("*?", 0, 9)])
trees = st.recursive(
    st.one_of(letters, letters.map(lambda inner: ("possessive", inner))),
    lambda inner: st.one_of(
        st.tuples(st.just("both"), inner, inner),
        st.tuples(st.just("either"), inner, inner),
        st.tuples(st.just("repeat"), inner, turns),
    ),
    max_leaves=5,
)


def written(tree):
    match tree:
        case ("letter", text):
            return text
        case ("possessive", inner):
            return written(inner) + "*+"
        case ("both", first, second):
            return written(first) + written(second)
        case ("either", first, second):
            return f"(?:{written(first)}|{written(second)})"
        case ("repeat", inner, (sign, _, _)):
            return f"(?:{written(inner)}){sign}"


def ends(tree, line, at):
    """Yield where each path of a backtracking match through the tree comes out."""
    match tree:
        case ("letter", text):
            if at < len(line) and (text != "a" or line[at] == "a"):
                yield at + 1
        case ("possessive", inner):
            while (after := next(ends(inner, line, at), None)) is not None:
                at = after
            yield at
        case ("both", first, second):
            for middle in ends(first, line, at):
                yield from ends(second, line, middle)
        case ("either", first, second):
            yield from ends(first, line, at)
            yield from ends(second, line, at)
        case ("repeat", inner, (_, least, most)):
            yield from turned(inner, line, at, least, min(most, len(line)))


def turned(inner, line, at, least, most):
    if least <= 0:
        yield at
    if most > 0:
        for after in ends(inner, line, at):
            yield from turned(inner, line, after, least - 1, most - 1)


@settings(max_examples=200, deadline=None)
@given(tree=trees, line=st.text("ab", min_size=1, max_size=6))
def test_no_match_has_more_paths_than_are_counted(tree, line):
    count = text_lines.ways(written(tree), len(line))
    if count <= text_lines.MAX_WAYS:
        assert sum(1 for _ in ends(tree, line, 0)) <= count, written(tree)


def test_the_dearest_pattern_that_is_taken_comes_to_an_end():
    pattern = "(?P<value>1)[ -~]{0,98}[ -~]{0,98}!"  # 99 x 99 = 9801 ways
    assert 9_000 < text_lines.ways(pattern, 256) <= text_lines.MAX_WAYS
    sample = {"frame": "1!<CR><LF>", "value": "1"}
    device = driver(pattern=pattern, weight_unit="kg", samples=[sample], max_length=256)
    device.feed(b"\r\n")
    (refused,) = device.feed(b"1" + b"a" * 250 + b"\r\n")
    assert refused.reason is Reason.SYNTAX


# --- the documented examples ----------------------------------------------------------------------

DOCUMENT = Path(__file__).resolve().parent.parent / "docs/adding-a-device.md"
BLOCK = re.compile(r"^```\w+ (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
EXAMPLE = "scale.example_terminal"


def documented(directory):
    """Write every code block that names a file below a directory, and return their paths."""
    found = {}
    for name, content in BLOCK.findall(DOCUMENT.read_text(encoding="utf-8")):
        found[name] = directory / name
        found[name].parent.mkdir(parents=True, exist_ok=True)
        found[name].write_text(content, encoding="utf-8")
    return found


def test_the_documented_section_adds_an_indicator_by_configuration_alone(tmp_path):
    device = load_lane(documented(tmp_path)["lanes/example.toml"]).device("scale")
    made = device.driver.make(device.driver_options)
    assert (made.poll(), made.poll_period_s) == (b"W\r", 0.2)
    moving, stable = b"MG  12360.0kg", b"SG  12360.0kg"
    for body in (moving, stable):
        check = b"%02X" % functools.reduce(operator.xor, body)
        (weight,) = made.feed(b"\x02" + body + check + b"\r\n")
        assert (weight.value, weight.stable, weight.verified) == ("12360.0", body == stable, True)


def test_the_document_shows_what_check_says_of_a_wrong_sample(tmp_path):
    lane = documented(tmp_path)["lanes/example.toml"]
    text = lane.read_text()
    assert 'value = "-20.0"' in text
    lane.write_text(text.replace('value = "-20.0"', 'value = "20.0"'))
    with pytest.raises(ConfigError) as caught:
        load_lane(lane)
    assert f"lanes/{caught.value}" in DOCUMENT.read_text(encoding="utf-8")


def test_the_documented_register_map_reads_a_truck(tmp_path):
    device = load_lane(documented(tmp_path)["lanes/example-modbus.toml"]).device("scale")
    made = device.driver.make(device.driver_options)
    (block,) = made.blocks()
    assert (block.table, block.address, block.count) == ("holding", 6, 3)
    (weight,) = made.decode(block, (0x0006, 0xACFC, 0x0800))  # 437 500
    assert (weight.value, weight.stable) == ("43750.0", True)


CONTRACT = (
    contract.test_a_capture_says_where_it_is_from,
    contract.test_a_capture_gives_the_expected_readings,
    contract.test_the_same_bytes_one_at_a_time_give_the_same_readings,
    contract.test_all_bytes_in_one_read_give_the_same_readings,
    contract.test_frames_of_all_zero_or_all_one_bits_are_refused,
    contract.test_garbage_before_the_line_is_opened_anew_changes_nothing,
    contract.test_a_talker_resynchronises_after_garbage,
    contract.test_a_truncated_frame_and_silence_never_mix_with_what_follows,
    contract.test_opened_at_every_offset_only_whole_frames_count,
    contract.test_every_bit_flip_of_a_frame_with_an_integrity_field_is_refused,
    contract.test_a_lost_or_doubled_byte_is_refused_or_changes_nothing,
)


def test_the_documented_driver_is_found_by_its_file_and_keeps_the_contract(tmp_path, monkeypatch):
    files = documented(tmp_path)
    place = files["drivers/scale/example_terminal.py"].parent
    monkeypatch.setattr(drivers.scale, "__path__", [*drivers.scale.__path__, str(place)])
    try:
        assert EXAMPLE in names()
        capture = Capture(EXAMPLE, files[f"tests/captures/{EXAMPLE}/first-load/wire.hex"].parent)
        contract.described(find(EXAMPLE).options)
        for promise in CONTRACT:
            promise(capture)
    finally:
        sys.modules.pop(f"drivers.{EXAMPLE}", None)
        vars(drivers.scale).pop("example_terminal", None)
