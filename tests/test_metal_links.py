"""Metal detectors by serial messages, lines and registers: the pitfalls, one by one."""

from __future__ import annotations

import dataclasses
import random

import msgspec
import pytest
from capture_files import captures, good, play

from agent.config import ConfigError, load_lane
from drivers.counters import Counters
from drivers.metal import ascii_fields, register_map, safeline
from drivers.metal.register_map import Point
from drivers.readings import (
    BadFrame,
    DeviceState,
    MetalAlarm,
    MetalPassages,
    MetalProgram,
    Reason,
)
from simulators.metal import MetalWalk
from simulators.metal_links import (
    Found,
    Pack,
    RegisterDetector,
    SafelineHead,
    mcrf4xx,
    safeline_message,
    walk_line,
)

COVERED = {"g-to-before-etx": "text", "g-to-etx": "text and end", "stx-to-etx": "all"}


def link(**options):
    return safeline.Driver(safeline.Options(**options))


def told(driver, number, commands):
    return driver.feed(safeline_message(number, commands))


def states(readings):
    return {r.condition: r.active for r in readings if isinstance(r, DeviceState)}


def metal(readings):
    return [r for r in readings if isinstance(r, MetalAlarm)]


# --- Safeline Signature ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "crc"),
    [(b"T", 0x1B26), (b"THE", 0x44BE), (b"THE,QUICK,BROWN,FOX,0123456789", 0xDF91)],
)
def test_the_crc_is_that_of_the_manuals_examples(text, crc):
    assert safeline.crc16(text) == mcrf4xx(text) == crc


@pytest.mark.parametrize(
    ("scope", "crc"), [("g-to-before-etx", "AF13"), ("g-to-etx", "102E"), ("stx-to-etx", "7D9F")]
)
def test_each_scope_of_the_crc_is_learned_from_one_message_and_then_asked_with(scope, crc):
    driver = link(requests=("F",))
    assert good(driver.feed(f"\x02G07M0001a?\x03{crc}".encode()))
    assert driver.poll() == safeline_message(0, "F?", COVERED[scope])
    others = [c for s, c in COVERED.items() if s != scope]
    for other in others:
        (refused,) = driver.feed(safeline_message(2, "R", other))
        assert refused.reason is Reason.CHECKSUM


def test_before_the_scope_is_known_requests_try_each_in_turn():
    driver = link(requests=("F",))
    sent = [driver.poll() for _ in range(4)]
    assert sent == [safeline_message(i, "F?", list(COVERED.values())[i % 3]) for i in range(4)]


def test_the_number_of_requests_wraps_after_9999():
    driver = link(requests=("F",), crc_scope="g-to-before-etx")
    sent = [driver.poll() for _ in range(10_001)]
    assert sent[9_999] == safeline_message(9_999, "F?")
    assert sent[10_000] == safeline_message(0, "F?")


def test_a_repeated_message_is_one_detection():
    driver = link()
    readings = [*told(driver, 7, "A300R"), *told(driver, 7, "A300R"), *told(driver, 8, "A300R")]
    assert [r.pulses for r in metal(readings)] == [1, 0, 1]


def test_the_largest_bargraph_before_a_detection_goes_with_it_and_an_old_one_does_not():
    driver = link()
    for number, commands in enumerate(["A900", "A0", "A120", "A-260", "A40"]):
        assert metal(told(driver, number, commands))[0].pulses == 0
    (alarm,) = told(driver, 9, "R")
    assert (alarm.pulses, alarm.amplitude) == (1, 260.0)
    assert alarm.amplitude_scale == "bargraph counts, 200 full scale"


def test_a_detection_with_a_value_is_refused_as_its_meaning_is_not_known():
    (refused, *_) = told(link(), 1, "R1")
    assert refused.reason is Reason.UNKNOWN


def test_counted_rejects_are_alarms_where_the_lane_says_so_and_only_there():
    for alarms, pulses in (("rejects", [0, 2]), ("detection", [])):
        driver = link(alarms=alarms)
        readings = told(driver, 1, "D9998,16777213") + told(driver, 2, "D0,1")
        assert [r.pulses for r in metal(readings)] == pulses
        assert [r.entered for r in readings if isinstance(r, MetalPassages)] == [0, 3]


def test_a_counter_that_was_reset_is_said_and_is_not_thousands_of_packs():
    driver = link()
    told(driver, 1, "D50,70000")
    readings = told(driver, 2, "D0,3")
    assert states(readings)["counter_reset"]
    assert MetalPassages(entered=3, left=None) in readings
    assert states(told(driver, 3, "D0,3"))["counter_reset"] is False


@pytest.mark.parametrize("commands", ["D10000,5", "D1", "D1.5,2", "D-1,2", "F-1"])
def test_values_that_a_command_cannot_have_are_refused(commands):
    assert any(isinstance(r, BadFrame) for r in told(link(), 1, commands))


@pytest.mark.parametrize(("bit", "name"), sorted(safeline.FAULTS.items()))
def test_each_fault_stands_until_its_bit_clears(bit, name):
    driver = link()
    raised = states(told(driver, 1, f"F{bit}"))
    is_blind = name not in {
        *("warning_02", "warning_03", "warning_04", "warning_07"),
        *("reject_not_confirmed", "reject_port_fault"),
    }
    assert raised == {name: True, "not_ready": is_blind}
    assert states(told(driver, 2, "F0")) == {name: False, "not_ready": False}


def test_a_fault_bit_that_is_not_in_the_table_is_a_fault_and_not_ready():
    assert states(told(link(), 1, "F8")) == {"unknown_fault": True, "not_ready": True}


def test_power_up_is_said_and_taken_back_only_where_that_is_wanted():
    head = SafelineHead()
    for clear, expected in ((False, [True, True]), (True, [True, False])):
        head.power_up = 1
        driver = link(requests=("h",), clear_power_up=clear, crc_scope="g-to-before-etx")
        seen = [states(driver.feed(head.answer(driver.poll())))["power_up"] for _ in range(2)]
        assert seen == expected


def test_nothing_is_written_unless_asked_for():
    driver = link(crc_scope="g-to-before-etx")
    told(driver, 5, "h1F1")
    for _ in range(5):
        commands = driver.poll()[9:-5].decode()
        assert set(commands.replace("?", "")) <= set("DFhOC")
        assert commands.count("?") * 2 == len(commands)


def test_a_message_is_acknowledged_only_where_that_is_configured_and_once():
    for acknowledge, first in (("none", 2), ("ack", 6)):
        driver = link(acknowledge=acknowledge, requests=("F",))
        told(driver, 1, "F0")
        assert driver.poll()[0] == first
        assert driver.poll()[0] == 2


def test_who_is_at_the_panel_is_told_and_a_test_is_told_from_settings():
    driver = link()
    known = {0: (False, False), 2: (True, False), 4: (False, True), 13: (False, True)}
    for who, (settings, test) in known.items():
        assert states(told(driver, who, f"O{who}")) == {
            "settings_open": settings,
            "operational_test": test,
        }


def test_reports_that_are_switched_off_leave_alarms_unknown():
    driver = link()
    assert MetalAlarm(active=None, pulses=0) in told(driver, 1, "g1")
    readings = told(driver, 2, "g0")
    assert states(readings) == {"reports_off": True}
    assert MetalAlarm(active=None, pulses=None) in readings


def test_our_own_request_sent_back_by_the_adapter_is_no_reading():
    driver = link()
    assert driver.feed(driver.poll()) == []


def test_parity_bits_on_a_port_set_to_8_bits_are_named():
    message = bytes(b | 0x80 if b.bit_count() % 2 == 0 else b for b in safeline_message(1, "R"))
    readings = link().feed(message + b"\x02")
    assert good(readings) == []
    assert any("7 bits" in r.detail or "parity" in r.detail for r in readings)


def test_a_lost_link_is_unknown_and_its_counters_begin_anew():
    driver = link()
    told(driver, 1, "A3D5,100F1")
    lost = driver.silence()
    assert MetalAlarm(active=None, pulses=None) in lost
    assert states(lost) == {"balance_fault": None, "not_ready": None}
    assert driver.silence() == []
    assert MetalPassages(entered=0, left=None) in told(driver, 2, "D9,140")


def test_no_answer_is_said_but_not_where_only_damage_came():
    driver = link()
    driver.poll()
    (silent,) = driver.no_reply()
    assert silent.reason is Reason.NO_REPLY
    driver.poll()
    driver.feed(safeline_message(1, "F0")[:-1] + b"?")
    assert driver.no_reply() == []


def test_damaged_answers_are_refused_whole():
    (capture,) = [c for c in captures() if c.name == "metal.safeline/requests"]
    steps = capture.steps()
    _, answer = steps[-1]
    for bit in range(len(answer) * 8):
        damaged = bytearray(answer)
        damaged[bit // 8] ^= 1 << bit % 8
        driver = capture.make()
        play(driver, steps[:-1])
        assert good(driver.feed(bytes(damaged) + b"\x02")) == []


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("alarms", ["detection", "rejects"])
@pytest.mark.parametrize("scope", sorted(COVERED))
def test_safeline_agrees_with_the_simulated_head(seed, alarms, scope):
    print(f"seed={seed}")
    rng = random.Random(seed)
    head = SafelineHead(seed=seed, covered=COVERED[scope], rejects=9_990, packs=16_777_200)
    driver = link(alarms=alarms)
    packs = [Pack(signal=rng.randint(-600, 600)) for _ in range(40)]
    readings = []

    def ask():
        for _ in range(3):  # until the scope is learned
            answer = head.answer(driver.poll())
            if answer:
                return driver.feed(answer)
        return []

    first = ask()
    for pack in packs:
        for message in head.passing(pack):
            for piece in (message[:7], message[7:]):
                readings += driver.feed(piece)
        readings += ask()
    assert not [r for r in first + readings if isinstance(r, BadFrame)]
    rejected = [p for p in packs if p.is_rejected]
    found = [r for r in metal(readings) if r.pulses]
    assert sum(r.pulses for r in found) == len(rejected)
    assert sum(r.entered for r in readings if isinstance(r, MetalPassages)) == len(packs)
    if alarms == "detection":
        assert [r.amplitude for r in found] == [abs(p.signal) for p in rejected]
    assert MetalProgram(program="3", sensitivity="120") in first


# --- a map of registers ---------------------------------------------------------------------------

WIDE = {"type": "u32", "word_order": "low_first"}
POINTS = (
    Point(name="alarm", table="input", address=10, map={"0": "clear", "1": "alarm", "2": "random"}),
    Point(name="zones", table="input", address=11),
    Point(name="amplitude", table="input", address=12, scale=0.1),
    Point(name="passages_in", table="input", address=20, **WIDE),
    Point(name="passages_out", table="input", address=22, **WIDE),
    Point(name="alarms", table="input", address=24, **WIDE),
    Point(name="ready", table="discrete", address=0, type="bit"),
    Point(name="program", table="holding", address=40),
    Point(name="sensitivity", table="holding", address=41),
)


def mapped(*points, **options):
    if any(p.name == "amplitude" for p in points):
        options.setdefault("amplitude_scale", "percent")
    return register_map.Driver(register_map.Options(points=points, **options))


def one(name, **changes):
    """A point at input register 0."""
    return Point(**{"name": name, "table": "input", "address": 0, **changes})


def read(driver, *words):
    return driver.decode(driver.blocks()[0], words)


def test_two_registers_of_one_figure_are_read_in_one_request():
    near = [one("alarms", address=a, type="u32") for a in (118, 119, 500)]
    for point in near:
        driver = mapped(one("passages_in", address=0), point)
        for p in (point, one("passages_in", address=0)):
            assert any(
                b.address <= p.address and p.address + p.words <= b.address + b.count
                for b in driver.blocks()
            )


def test_overlapping_points_at_the_end_of_a_request_are_never_read_in_half():
    faults = [one("fault", address=a, map={"0": "ok"}) for a in range(8, 120, 8)]
    last = one("passages_in", address=119, type="u32")
    for more in ([last], [one("sensitivity", address=119), last]):
        driver = mapped(one("alarms"), *faults, *more)
        for block in driver.blocks():
            readings = driver.decode(block, (0,) * block.count)
            assert len(good(readings)) == len(readings)


@pytest.mark.parametrize(
    ("type_", "order", "words", "amplitude"),
    [
        ("u16", "high_first", (65535,), 65535.0),
        ("i16", "high_first", (65535,), 1.0),
        ("u32", "high_first", (1, 2), 65538.0),
        ("u32", "low_first", (1, 2), 131073.0),
        ("i32", "high_first", (0xFFFF, 0xFFFE), 2.0),
        ("f32", "high_first", (0x4048, 0xF5C3), 3.14),
        ("f32", "low_first", (0xF5C3, 0x4048), 3.14),
    ],
)
def test_each_type_and_word_order_is_the_figure_it_stands_for(type_, order, words, amplitude):
    """f32: 4048F5C3h is 3.14 (IEEE 754); a signal's size has no sign."""
    driver = mapped(
        one("amplitude", type=type_, word_order=order), one("alarm", address=2, type="bit")
    )
    words = words if len(words) == 2 else (*words, 0)
    (alarm,) = read(driver, *words, 1)
    assert alarm.amplitude == amplitude


def test_a_figure_that_is_no_number_is_refused():
    driver = mapped(one("amplitude", type="f32"), one("alarm", address=2, type="bit"))
    refused, alarm = read(driver, 0x7FC0, 0, 1)
    assert refused.reason is Reason.RANGE
    assert (alarm.active, alarm.amplitude) == (True, None)


def test_a_number_that_no_map_holds_is_refused_and_the_level_unknown():
    driver = mapped(POINTS[0])
    assert read(driver, 0) == [MetalAlarm(active=False, pulses=None)]
    refused, lost = read(driver, 7)
    assert refused.reason is Reason.UNKNOWN
    assert lost == MetalAlarm(active=None, pulses=None)
    assert [r.reason for r in read(driver, 7)] == [Reason.UNKNOWN]
    assert read(driver, 0) == [MetalAlarm(active=False, pulses=None)]


def test_a_random_alarm_is_never_metal():
    driver = mapped(POINTS[0])
    read(driver, 0)
    assert read(driver, 2) == [MetalAlarm(active=True, pulses=None, is_random=True)]
    assert read(driver, 1) == [
        MetalAlarm(active=True, pulses=None),
        MetalAlarm(active=False, pulses=None, is_random=True),
    ]


def test_a_normally_closed_contact_is_turned_round_and_a_broken_wire_is_an_alarm():
    driver = mapped(one("alarm", type="bit", bit=3, map={"1": "clear", "0": "alarm"}))
    assert read(driver, 0b1000) == [MetalAlarm(active=False, pulses=None)]
    assert read(driver, 0) == [MetalAlarm(active=True, pulses=None)]


def test_zones_that_come_after_the_alarm_are_said_while_it_lasts():
    driver = mapped(
        one("alarm", type="bit"), one("zones", address=1, map={"0": "left", "4": "top"})
    )
    read(driver, 0, 0)
    assert metal(read(driver, 1, 0))[0].zones == ()
    assert read(driver, 1, 0b10001) == [MetalAlarm(active=True, pulses=None, zones=("left", "top"))]
    assert read(driver, 1, 0b10001) == []
    assert read(driver, 1, 0b10)[0].reason is Reason.UNKNOWN


def test_missed_increments_are_several_alarms_and_a_wrap_loses_none():
    driver = mapped(one("alarms", modulus=10_000))
    assert read(driver, 9_998) == [MetalAlarm(active=None, pulses=0)]
    assert read(driver, 2) == [MetalAlarm(active=None, pulses=4)]
    (refused,) = read(driver, 10_000)
    assert refused.reason is Reason.RANGE


def test_what_was_counted_in_a_gap_is_told_and_a_reset_is_told_apart():
    driver = mapped(one("alarms"))
    read(driver, 500)
    assert driver.silence() == [MetalAlarm(active=None, pulses=None)]
    late, alarm, heard = read(driver, 503)
    assert late.condition == "counted_in_gap"
    assert (alarm.pulses, heard.pulses) == (3, 0)
    reset, alarm = read(driver, 1)
    assert (reset.condition, reset.active, alarm.pulses) == ("counter_reset", True, 1)


@pytest.mark.parametrize(
    ("edge", "levels", "expected"),
    [
        ("rising", (1, 0, 1, 1, 0, 1), 2),
        ("falling", (1, 0, 1, 1, 0, 1), 2),
        ("change", (1, 0, 1, 1, 0, 1), 4),
    ],
)
def test_each_edge_of_a_counted_bit_is_one_person_and_the_first_read_none(edge, levels, expected):
    driver = mapped(one("passages_in", type="bit", edge=edge), one("alarm", address=1, type="bit"))
    readings = [r for level in levels for r in read(driver, level, 0)]
    assert sum(r.entered for r in readings if isinstance(r, MetalPassages)) == expected
    assert all(r.left is None for r in readings if isinstance(r, MetalPassages))


def test_faults_by_code_stand_until_another_code_comes():
    driver = mapped(
        one("alarm", type="bit"),
        one("fault", address=1, map={"0": "ok", "3": "coil_fault"}),
        one("fault", address=2, type="bit", map={"1": "coil_fault"}),
    )
    read(driver, 0, 0, 0)
    assert states(read(driver, 0, 3, 1)) == {"coil_fault": True}
    assert states(read(driver, 0, 0, 1)) == {}  # the other one still says it
    assert states(read(driver, 0, 9, 0)) == {"coil_fault": False, "unknown_fault": True}
    assert states(driver.silence()) == {"unknown_fault": None}


def test_tamper_and_saturation_are_faults_of_the_map_by_their_names():
    driver = mapped(
        one("alarm", type="bit"),
        one("fault", address=1, type="bit", map={"1": "tamper"}),
        one("fault", address=2, map={"0": "ok", "5": "saturated"}),
    )
    assert states(read(driver, 0, 1, 5)) == {"tamper": True, "saturated": True}
    assert states(read(driver, 0, 0, 0)) == {"tamper": False, "saturated": False}


def test_program_and_sensitivity_are_told_together_and_on_change_alone():
    driver = mapped(
        one("alarm", type="bit"),
        one("program", table="holding", map={"1": "handguns", "2": "knives"}),
        one("sensitivity", table="holding", address=100, scale=0.5),
    )
    program, sensitivity = driver.blocks()[0], driver.blocks()[1]
    assert driver.decode(program, (1,)) == []
    assert driver.decode(sensitivity, (130,)) == [
        MetalProgram(program="handguns", sensitivity="65")
    ]
    assert driver.decode(sensitivity, (130,)) == []
    assert driver.decode(program, (2,)) == [MetalProgram(program="knives", sensitivity="65")]
    assert driver.decode(program, (5,))[0].reason is Reason.UNKNOWN


def test_a_stuck_alarm_is_said_once_and_its_release_too():
    driver = mapped(one("alarm", type="bit"), stuck_after_s=1, poll_period_s=0.1)
    readings = [r for _ in range(50) for r in read(driver, 1)]
    assert states(readings) == {"alarm_stuck": True}
    assert len(readings) == 2
    assert states(read(driver, 0)) == {"alarm_stuck": False}


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ([{"name": "passages_in"}], "no point tells alarms"),
        ([{"name": "alarms"}, {"name": "alarms", "address": 4}], "stands twice"),
        ([{"name": "alarm"}], "without map"),
        ([{"name": "alarm", "map": {"1": "gold"}}], "expected alarm, clear, random"),
        ([{"name": "alarms", "map": {"1": "alarm"}}], "is a figure"),
        ([{"name": "alarms", "type": "f32"}], "never negative"),
        ([{"name": "alarms", "modulus": 70000}], "does not fit 16 bits"),
        ([{"name": "alarms"}, {"name": "amplitude"}], "amplitude_scale"),
        ([{"name": "alarms"}, {"name": "zones", "map": {"16": "top"}}], "bits are 0 to 15"),
        ([{"name": "alarms"}, {"name": "fault", "map": {"1": "Bad Coil"}}], "a-z and _"),
        ([{"name": "alarms", "table": "coils"}], "table of bits"),
        ([{"name": "alarms"}, {"name": "program", "scale": 0.0}], "no scale"),
        ([{"name": "alarms"}, {"name": "program", "map": {"one": "x"}}], "numbers stand there"),
        ([{"name": "gate"}], "Invalid enum value"),
    ],
)
def test_a_map_that_cannot_be_read_is_a_configuration_error(points, says):
    given = {"points": [{"table": "input", "address": 0, **point} for point in points]}
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(given, register_map.Options)


def walks(seed, number=30):
    """Persons who walk in and out, some with metal, some selected at random."""
    rng = random.Random(seed)
    for i in range(number):
        has_metal = rng.random() < 0.4
        direction = rng.choice(["in", "out"])
        is_random = not has_metal and rng.random() < 0.2
        walk = MetalWalk(
            at_s=float(i), direction=direction, has_metal=has_metal, is_random=is_random
        )
        zones = tuple(sorted(rng.sample(range(1, 13), rng.randint(1, 3)))) if has_metal else ()
        yield Found(walk=walk, zones=zones, level=rng.randint(0, 1000) / 10 if has_metal else 0.0)


@pytest.mark.parametrize("seed", range(8))
def test_a_register_map_agrees_with_the_simulated_detector(seed):
    print(f"seed={seed}")
    detector = RegisterDetector(entered=0xFFFF_FFF0, left=65_530, alarms=0xFFFE)
    driver = mapped(*POINTS)

    def poll():
        readings = []
        for block in driver.blocks():
            bank = getattr(detector.unit, block.table)
            words = tuple(int(bank.get(block.address + i, 0)) for i in range(block.count))
            readings += driver.decode(block, words)
        return readings

    first = poll()
    assert MetalProgram(program="7", sensitivity="65") in first
    found, readings = list(walks(seed)), []
    for item in found:
        detector.walk(item)
        now = poll()
        rises = [r for r in metal(now) if r.active and not r.is_random]
        if item.walk.has_metal:
            assert rises[0].zones == tuple(map(str, item.zones))
            assert rises[0].amplitude == pytest.approx(item.level)
        else:
            assert rises == []
        assert any(r.is_random and r.active for r in metal(now)) is item.walk.is_random
        detector.quiet()
        readings += now + poll()
    assert not [r for r in readings if isinstance(r, BadFrame)]
    passed = [r for r in readings if isinstance(r, MetalPassages)]
    assert sum(r.entered for r in passed) == sum(f.walk.direction == "in" for f in found)
    assert sum(r.left for r in passed) == sum(f.walk.direction == "out" for f in found)
    pulses = sum(r.pulses or 0 for r in metal(readings) if not r.is_random)
    assert pulses == sum(f.walk.has_metal for f in found)


# --- lines of text --------------------------------------------------------------------------------

LINE = {
    "frames": "events",
    "pattern": (
        r"(?P<time>[0-9:]{8});(?P<direction>IN|OUT);(?P<alarm>[MR-]);(?P<zones>[Z0-9+]{0,24}+);"
        r"(?P<level>[0-9.]{3,5}+);(?P<program>[A-Z0-9]{1,8}+);(?P<fault>[A-Z0-9]{2,3}+)"
        r"\*(?P<checksum>[0-9A-F]{2})"
    ),
    "alarm_texts": {"M": "alarm", "R": "random", "-": "clear"},
    "direction_texts": {"IN": "in", "OUT": "out"},
    "level_scale": "percent",
    "fault_texts": {"OK": "ok", "E7": "not_ready", "E9": "coil_fault"},
    "checksum": "xor",
    "checksum_behind": 1,
    "samples": [
        {
            "frame": "08:15:00;IN;-;;0.0;IS3;OK*25<CR><LF>",
            "direction": "in",
            "alarm": "clear",
            "level": 0.0,
            "program": "IS3",
            "fault": "ok",
        }
    ],
}
STATES = {
    "frames": "states",
    "separator": ",",
    "fields": ["alarm", "zones", "-"],
    "alarm_texts": {"1": "alarm", "0": "clear", "S": "random"},
    "samples": [{"frame": "1,A+B,x<CR><LF>", "alarm": "alarm", "zones": ["A", "B"]}],
}


def lined(options, **changes):
    given = msgspec.convert({**options, **changes}, ascii_fields.Options)
    return ascii_fields.Driver(given)


def fed(driver, *lines):
    return [r for line in lines for r in driver.feed(line.encode() + b"\r\n")]


@pytest.mark.parametrize("seed", range(8))
def test_a_described_line_agrees_with_the_simulated_detector(seed):
    print(f"seed={seed}")
    driver = lined(LINE)
    driver.feed(b"\r\n")  # joined between two lines
    for found in walks(seed):
        readings = driver.feed(walk_line(found))
        walk = found.walk
        assert not [r for r in readings if isinstance(r, BadFrame)]
        entered, left = int(walk.direction == "in"), int(walk.direction == "out")
        assert MetalPassages(entered=entered, left=left) in readings
        alarms = [r for r in metal(readings) if r.pulses]
        assert len(alarms) == (walk.has_metal or walk.is_random)
        for alarm in alarms:
            assert alarm.is_random is walk.is_random
            if walk.has_metal:
                assert alarm.zones == tuple(f"Z{zone}" for zone in found.zones)
                assert alarm.amplitude == found.level


def test_a_damaged_line_with_a_checksum_is_refused_and_the_next_one_is_whole():
    line = walk_line(next(walks(3)))
    for at in range(len(line) - 2):
        driver = lined(LINE)
        driver.feed(b"\r\n")
        damaged = bytearray(line)
        damaged[at] ^= 1
        assert good(driver.feed(bytes(damaged))) == []
        assert good(driver.feed(line))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"alarm": "alarm"}, "sample 1 .* gives alarm clear, not alarm"),
        ({"frame": "08:15:00;IN;X;;0.0;IS3;OK*59<CR><LF>"}, "sample 1 .* is refused"),
        ({"frame": "08:15:00;IN;-;;0.0;IS3;OK*2D<CR><LF>"}, "sample 1 .* checksum is '2D'"),
        ({"frame": "08:15:00<CR><LF>"}, "sample 1 .* not cut as described"),
        ({"frame": "08:15:00"}, "sample 1 .* does not fit start, end"),
        ({"speed": "3"}, "sample 1 .* has speed"),
        ({"zones": ["Z1"]}, "gives zones None"),
        ({"refused": "syntax"}, "is not refused"),
    ],
)
def test_a_sample_that_does_not_decode_is_named_before_the_first_person_walks(changes, says):
    sample = {**LINE["samples"][0], **changes}
    with pytest.raises(ValueError, match=says) as raised:
        lined(LINE, samples=[sample])
    assert "\n" not in str(raised.value)


def test_the_second_sample_is_named_where_only_it_is_wrong():
    wrong = {"frame": "2,A,x<CR><LF>", "alarm": "alarm"}
    with pytest.raises(ValueError, match='sample 2 "2,A,x<CR><LF>" is refused'):
        lined(STATES, samples=[*STATES["samples"], wrong])


def test_a_sample_may_say_that_a_frame_is_refused():
    refused = {"frame": "2,A,x<CR><LF>", "refused": "unknown"}
    assert lined(STATES, samples=[*STATES["samples"], refused])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"separator": "", "pattern": "(?P<alarm>[01]"}, "regular expression"),
        ({"separator": "", "pattern": "(?P<alarm>(?:a*)*)"}, "ways"),
        ({"separator": ""}, "one of pattern"),
        ({"pattern": "(?P<alarm>1)"}, "one of pattern"),
        ({"fields": ["alarm", "gate", "-"]}, 'no part "gate"'),
        ({"fields": ["alarm", "alarm", "-"]}, "named twice"),
        ({"fields": ["zones", "-"]}, "no part tells alarms"),
        ({"fields": ["alarm", "level", "-"]}, "level_scale"),
        ({"fields": ["alarm", "fault", "-"]}, "fault_texts"),
        ({"fields": ["alarm", "checksum", "-"]}, "option checksum"),
        ({"walks": "in"}, "events without"),
        ({"alarm_texts": {}}, "alarm_texts"),
        ({"end": "<EOL>"}, "expected <NUL>"),
    ],
)
def test_a_line_that_cannot_be_described_so_is_a_configuration_error(changes, says):
    with pytest.raises(ValueError, match=says):
        lined(STATES, **changes)


def test_two_equal_states_make_a_reading_and_one_does_not():
    driver = lined(STATES)
    fed(driver, "")
    assert fed(driver, "1,A+B,x") == []
    alarm, chance = fed(driver, "1,A+B,x")
    assert alarm == MetalAlarm(active=True, pulses=None, zones=("A", "B"))
    assert chance == MetalAlarm(active=False, pulses=None, is_random=True)
    assert fed(driver, "0,,x") == []


def test_a_random_selection_in_a_line_is_never_metal():
    driver = lined(STATES, equal_frames=1)
    fed(driver, "")
    alarm, chance = fed(driver, "S,,x")
    assert (alarm.active, alarm.is_random) == (False, False)
    assert (chance.active, chance.is_random) == (True, True)


def test_a_text_that_no_table_holds_is_refused_and_not_guessed():
    driver = lined(STATES, equal_frames=1)
    fed(driver, "")
    (refused,) = fed(driver, "7,,x")
    assert refused.reason is Reason.UNKNOWN


@pytest.mark.parametrize(
    ("form", "text", "zones"),
    [
        ("hex-mask", "0C", ("3", "4")),
        ("decimal-mask", "12", ("3", "4")),
        ("names", "3+4", ("3", "4")),
        ("hex-mask", "", None),
        ("hex-mask", "0", ()),
    ],
)
def test_zones_are_names_or_a_mask_lowest_bit_first(form, text, zones):
    sample = {"frame": f"1,{text},x<CR><LF>", "alarm": "alarm"}
    driver = lined(STATES, zones_form=form, equal_frames=1, samples=[sample])
    fed(driver, "")
    assert fed(driver, f"1,{text},x")[0].zones == zones


def test_an_alarm_without_a_passage_stays_one():
    driver = lined(
        LINE,
        direction_texts={"IN": "in", "OUT": "none"},
    )
    driver.feed(b"\r\n")
    found = Found(walk=MetalWalk(at_s=0.0, direction="out", has_metal=True), zones=(1,), level=9.0)
    readings = driver.feed(walk_line(found))
    assert [r.pulses for r in metal(readings)] == [0, 1]
    assert not [r for r in readings if isinstance(r, MetalPassages)]


def test_a_fault_in_a_line_stands_until_a_line_says_that_all_is_well():
    driver = lined(LINE)
    driver.feed(b"\r\n")
    found = next(walks(1))
    for code, expected in (
        ("OK", {"not_ready": False}),
        ("E9", {"not_ready": False, "coil_fault": True}),
        ("E7", {"not_ready": True, "coil_fault": False}),
        ("OK", {"not_ready": False}),
    ):
        readings = driver.feed(walk_line(dataclasses.replace(found, fault=code)))
        assert states(readings) == expected
    driver.feed(walk_line(dataclasses.replace(found, fault="E7")))
    lost = driver.silence()
    assert MetalAlarm(active=None, pulses=None) in lost
    assert states(lost) == {"not_ready": None}


def test_a_counter_that_goes_too_far_is_unknown_and_not_that_many_alarms():
    (capture,) = [c for c in captures() if c.name == "metal.ascii_fields/counters"]
    driver = capture.make()
    play(driver, capture.steps()[:4])
    driver.poll()
    readings = driver.feed(b"P=5000000 TA=0000031\r\n")
    assert MetalPassages(entered=None, left=None) in readings
    assert states(readings) == {"counter_reset": True}


LANE = """[lane]

[devices.metal]
driver = "metal.ascii_fields"
port = "/dev/metal"
frames = "states"
separator = ","
fields = ["alarm", "-"]
alarm_texts = { 1 = "alarm", 0 = "clear" }
samples = [
    { frame = "1,x<CR><LF>", alarm = "alarm" },
    { frame = "0,x<CR><LF>", alarm = "MEANING" },
]
"""


def test_a_wrong_sample_is_a_problem_of_the_devices_table_at_load(tmp_path):
    lane = tmp_path / "one.toml"
    lane.write_text(LANE.replace("MEANING", "alarm"))
    with pytest.raises(ConfigError) as caught:
        load_lane(lane)
    (problem,) = caught.value.problems
    assert (problem.line, problem.option, problem.is_warning) == (3, "devices.metal", False)
    assert problem.text.startswith('sample 2 "0,x<CR><LF>" gives alarm clear, not alarm')
    lane.write_text(LANE.replace("MEANING", "clear"))
    assert load_lane(lane).device("metal").driver.name == "metal.ascii_fields"


def test_a_map_of_points_stands_in_the_lanes_file(tmp_path):
    (capture,) = [c for c in captures() if c.driver == "metal.register_map"]
    options = (capture.path / "options.toml").read_text()
    head = '[lane]\n[devices.metal]\ndriver = "metal.register_map"\nport = "tcp://10.0.0.9:502"\n'
    lane = tmp_path / "one.toml"
    lane.write_text(head + options)
    device = load_lane(lane).device("metal")
    made = device.driver.make(device.driver_options)
    assert [b.count for b in made.blocks()] == [1, 2, 16]
    lane.write_text(head + options.replace("address = 12,", "adress = 12,"))
    with pytest.raises(ConfigError, match=r"one\.toml:6: devices\.metal\.points"):
        load_lane(lane)
    lane.write_text(head + options.replace('1 = "alarm"', '1 = "gold"'))
    with pytest.raises(ConfigError, match='point alarm has "gold" in its map'):
        load_lane(lane)


# --- what they share ------------------------------------------------------------------------------


def test_counters_are_followed_from_their_first_figure_until_a_gap():
    counters = Counters(max_increments=5, max_increments_after_gap=50)
    assert counters.take("alarm", 3, 10) is None
    assert counters.is_followed("alarm")
    assert counters.take("alarm", 1, 10).reset
    counters.gap()
    assert not counters.is_followed("alarm")
    gain = counters.take("alarm", 9, 10)
    assert (gain.increments, gain.is_late, gain.reset) == (8, True, "")


def test_tamper_and_saturation_in_a_line_are_states_by_their_names():
    sample = {"frame": "0,OK<CR><LF>", "alarm": "clear", "fault": "ok"}
    texts = {"OK": "ok", "T": "tamper", "W": "saturated"}
    driver = lined(STATES, fields=["alarm", "fault"], fault_texts=texts, samples=[sample])
    fed(driver, *["0,OK"] * 3)
    assert states(fed(driver, *["0,T"] * 3)) == {"tamper": True}
    assert states(fed(driver, *["0,W"] * 3)) == {"tamper": False, "saturated": True}
