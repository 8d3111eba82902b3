"""Dry contacts and counters on a Modbus module: the pitfalls, one by one."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.base import Block
from drivers.metal.dry_contact import Driver, Options, Point
from drivers.readings import BadFrame, DeviceState, MetalAlarm, MetalPassages, Reason
from simulators.metal import MetalWalk, WalkThrough

COUNTER_ONLY = Point(counter=0)


def moxa(**options):
    return Driver(Options(preset="moxa-e1212", **options))


def contacts(driver, *levels):
    return driver.decode(driver.blocks()[0], levels)


def counters(driver, alarm, entered=0, left=0):
    """Channels 0, 2 and 3 of a Moxa module, high word first (E1212 manual p. A-10)."""
    words = []
    for figure in (alarm, 0, entered, left):
        words += [figure >> 16, figure & 0xFFFF]
    return driver.decode(driver.blocks()[1], tuple(words))


def single(**options):
    """One alarm counter and nothing else."""
    return Driver(Options(preset="custom", alarm=COUNTER_ONLY, **options))


def read(driver, *words):
    return driver.decode(driver.blocks()[0], words)


def test_the_moxa_map_is_read_as_one_block_each_of_discrete_inputs_and_counters():
    assert moxa().blocks() == (
        Block(table="discrete", address=0, count=4, period_s=0.1),
        Block(table="input", address=16, count=8, period_s=0.5),
    )


def test_a_start_address_that_differs_by_model_can_be_given():
    assert moxa(counters_start=0x64).blocks()[1].address == 0x64


def test_word_order_of_a_32_bit_counter_is_as_configured():
    for order, words in (("high_first", (1, 2)), ("low_first", (2, 1))):
        driver = single(word_order=order)
        assert read(driver, 0, 0) == []
        (reset,) = [r for r in read(driver, *words) if isinstance(r, DeviceState)]
        assert "from 0 to 65538" in reset.detail


def test_a_torn_32_bit_read_is_impossible_because_both_words_are_in_one_block():
    point = Point(counter=65, counter_table="input")
    far = Point(counter=9, counter_table="input")
    driver = Driver(Options(preset="custom", alarm=point, passage_in=far))
    for address in (65, 9):
        assert any(b.address <= address and address + 2 <= b.address + b.count
                   for b in driver.blocks())  # fmt: skip


def test_a_first_read_is_only_a_baseline():
    driver = moxa()
    assert counters(driver, 12345, 678, 9) == []
    assert counters(driver, 12345, 678, 9) == []


def test_missed_increments_between_two_polls_are_several_events_not_one():
    driver = moxa()
    counters(driver, 5, 10, 20)
    assert counters(driver, 8, 14, 22) == [
        MetalAlarm(active=None, pulses=3),
        MetalPassages(entered=4, left=2),
    ]


def test_a_relay_pulse_shorter_than_the_poll_is_not_lost():
    driver = moxa()
    contacts(driver, 0, 1, 0, 0)
    counters(driver, 5)
    assert contacts(driver, 0, 1, 0, 0) == []  # closed and opened in between
    assert counters(driver, 6) == [MetalAlarm(active=False, pulses=1)]


@pytest.mark.parametrize(
    ("bits", "modulus", "before", "now", "gain"),
    [
        (16, 0, 65534, 3, 5),
        (32, 0, 0xFFFFFFFE, 1, 3),
        (16, 10000, 9999, 0, 1),
        (32, 10_000_000, 9_999_998, 4, 6),
        (16, 32768, 32767, 1, 2),
    ],
)
def test_a_counter_that_rolls_over_loses_nothing(bits, modulus, before, now, gain):
    driver = single(counter_bits=bits, counter_modulus=modulus)

    def words(figure):
        return (figure,) if bits == 16 else (figure >> 16, figure & 0xFFFF)

    assert read(driver, *words(before)) == []
    assert read(driver, *words(now)) == [MetalAlarm(active=None, pulses=gain)]


def test_a_counter_reset_is_told_apart_from_a_wrap_and_what_came_since_is_counted():
    driver = single()
    read(driver, 0, 5000)
    state, alarm = read(driver, 0, 3)
    assert (state.condition, state.active) == ("counter_reset", True)
    assert alarm == MetalAlarm(active=None, pulses=3)
    assert read(driver, 0, 3) == [DeviceState(condition="counter_reset", active=False)]


def test_a_reset_to_zero_without_an_alarm_since_gives_no_alarm():
    driver = single()
    read(driver, 0, 5000)
    (state,) = read(driver, 0, 0)
    assert state.condition == "counter_reset"


def test_a_power_cut_that_resets_a_16_bit_counter_is_not_taken_for_a_wrap():
    driver = single(counter_bits=16)
    read(driver, 60000)
    driver.silence()
    late, state, alarm = read(driver, 3)
    assert late.condition == "counted_in_gap"
    assert state.condition == "counter_reset"
    assert alarm == MetalAlarm(active=None, pulses=3)


def test_an_implausible_jump_is_unknown_and_not_thousands_of_alarms():
    driver = single()
    read(driver, 0, 5)
    state, alarm = read(driver, 7, 0)
    assert (state.condition, state.active) == ("counter_reset", True)
    assert alarm == MetalAlarm(active=None, pulses=None)


@settings(max_examples=60, deadline=None)
@given(
    start=st.integers(0, 65535),
    gains=st.lists(st.integers(0, 200), max_size=30),
    lost=st.sets(st.integers(0, 30)),
)
def test_the_sum_of_pulses_is_the_sum_of_increments_also_across_gaps(start, gains, lost):
    driver = single(counter_bits=16)
    read(driver, start)
    figure, told = start, 0
    for i, gain in enumerate(gains):
        figure = (figure + gain) % 65536
        if i in lost:
            driver.silence()
        told += sum(r.pulses for r in read(driver, figure) if isinstance(r, MetalAlarm))
    assert told == sum(gains)


def test_pulses_of_a_short_outage_are_reported_when_the_module_answers_again():
    driver = moxa()
    contacts(driver, 0, 1, 0, 0)
    counters(driver, 5, 10)
    assert MetalAlarm(active=None, pulses=None) in driver.silence()
    note, alarm, passages = counters(driver, 7, 500)
    assert (note.condition, note.active) == ("counted_in_gap", False)
    assert alarm == MetalAlarm(active=None, pulses=2)
    assert passages == MetalPassages(entered=490, left=0)


def test_loss_of_communication_is_unknown_and_not_no_alarm():
    driver = moxa()
    contacts(driver, 0, 1, 0, 0)
    assert driver.silence() == [
        MetalAlarm(active=None, pulses=None),
        DeviceState(condition="not_ready", active=None),
    ]
    assert contacts(driver, 1, 1, 0, 0)[0] == MetalAlarm(active=True, pulses=0)


def test_a_module_with_counters_alone_is_unknown_too_when_it_is_lost():
    driver = single()
    read(driver, 0, 5)
    assert driver.silence() == [MetalAlarm(active=None, pulses=None)]
    assert driver.silence() == []


def test_levels_are_told_on_the_first_read_and_then_only_on_change():
    driver = moxa()
    assert contacts(driver, 0, 1, 0, 0) == [
        MetalAlarm(active=False, pulses=0),
        DeviceState(condition="not_ready", active=False),
    ]
    assert contacts(driver, 0, 1, 0, 0) == []
    assert contacts(driver, 1, 1, 0, 0) == [MetalAlarm(active=True, pulses=0)]
    assert contacts(driver, 1, 1, 0, 0) == []
    assert contacts(driver, 0, 1, 0, 0) == [MetalAlarm(active=False, pulses=0)]


def test_a_stuck_alarm_contact_is_said_once_and_its_release_too():
    driver = moxa(stuck_after_s=1, contacts_period_s=0.1)
    contacts(driver, 1, 1, 0, 0)
    readings = [r for _ in range(50) for r in contacts(driver, 1, 1, 0, 0)]
    (stuck,) = readings
    assert (stuck.condition, stuck.active) == ("alarm_stuck", True)
    assert DeviceState(condition="alarm_stuck", active=False) in contacts(driver, 0, 1, 0, 0)


def test_an_alarm_relay_of_5_seconds_is_not_stuck():
    driver = moxa(contacts_period_s=0.1)
    readings = [r for _ in range(50) for r in contacts(driver, 1, 1, 0, 0)]
    assert not any(getattr(r, "condition", "") == "alarm_stuck" for r in readings)


def test_an_open_ready_contact_is_a_detector_that_is_not_ready():
    driver = moxa()
    contacts(driver, 0, 1, 0, 0)
    assert contacts(driver, 0, 0, 0, 0) == [DeviceState(condition="not_ready", active=True)]


def test_a_broken_wire_of_a_normally_closed_contact_reads_as_alarm():
    driver = moxa(normally_closed=("alarm",))
    assert contacts(driver, 1, 1, 0, 0)[0] == MetalAlarm(active=False, pulses=0)
    assert contacts(driver, 0, 1, 0, 0) == [MetalAlarm(active=True, pulses=0)]


def test_photocells_without_counter_count_on_the_edge_and_never_on_the_first_read():
    point = {name: Point(contact=i) for i, name in enumerate(("alarm", "passage_in"))}
    driver = Driver(Options(preset="custom", **point))
    assert contacts(driver, 0, 1) == [MetalAlarm(active=False, pulses=None)]
    assert contacts(driver, 0, 0) == []
    assert contacts(driver, 0, 1) == [MetalPassages(entered=1, left=None)]


def test_a_direction_that_is_not_wired_is_unknown_and_not_zero():
    driver = moxa(passage_out_channel=-1)
    first, second = (driver.blocks()[1].count, driver.blocks()[1])
    assert first == 6
    driver.decode(second, (0, 0, 0, 0, 0, 1))
    assert driver.decode(second, (0, 0, 0, 0, 0, 2)) == [MetalPassages(entered=1, left=None)]


def test_a_contact_in_a_register_is_one_bit_of_it():
    point = Point(contact=0x30, contact_table="input", contact_bit=5)
    driver = Driver(Options(preset="custom", alarm=point))
    assert read(driver, 0xFFDF) == [MetalAlarm(active=False, pulses=None)]
    assert read(driver, 0x0020) == [MetalAlarm(active=True, pulses=None)]


def test_a_figure_above_the_modulus_is_refused():
    driver = single(counter_bits=16, counter_modulus=10000)
    (refused,) = read(driver, 12000)
    assert isinstance(refused, BadFrame)
    assert refused.reason is Reason.RANGE


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"preset": "custom"}, "needs the point alarm"),
        ({"preset": "moxa-e1210", "alarm": {"contact": 1}}, "custom"),
        ({"preset": "custom", "alarm": {}}, "neither contact nor counter"),
        (
            {
                "preset": "custom",
                "alarm": {"counter": 1},
                "counter_bits": 16,
                "counter_modulus": 65537,
            },
            "does not fit",
        ),
        ({"preset": "moxa-e9999"}, "Invalid enum value"),
    ],
)
def test_a_map_that_cannot_be_read_is_a_configuration_error(options, says):
    with pytest.raises(msgspec.ValidationError, match=says):
        msgspec.convert(options, Options)


# --- against the simulator ------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_persons_and_alarms_are_the_simulators_truth_whatever_the_poll_misses(seed):
    rng = random.Random(seed)
    at_s, walks = 3.0, []
    for _ in range(25):
        at_s += rng.uniform(1.5, 6.0)
        walks.append(
            MetalWalk(
                at_s=at_s,
                direction=rng.choice(["in", "out"]),
                has_metal=rng.random() < 0.4,
                transit_s=rng.uniform(0.1, 1.0),
            )
        )
    begin = rng.choice([0, 0xFFFF_FFF0])
    detector = WalkThrough(walks, hold_s=0.2, counters_begin_at=begin)
    driver = Driver(Options(preset="moxa-e1212"))
    readings, scene_s = [], 0.0
    while scene_s < at_s + 5.0:
        detector.update(scene_s)
        for block in driver.blocks():
            bank = detector.unit.discrete if block.table == "discrete" else detector.unit.input
            words = tuple(int(bank[block.address + i]) for i in range(block.count))
            readings += driver.decode(block, words)
        scene_s += rng.uniform(0.05, 1.2)
    assert not [r for r in readings if isinstance(r, BadFrame)]
    assert sum(r.entered or 0 for r in readings if isinstance(r, MetalPassages)) == sum(
        w.direction == "in" for w in walks
    )
    assert sum(r.left or 0 for r in readings if isinstance(r, MetalPassages)) == sum(
        w.direction == "out" for w in walks
    )
    assert sum(r.pulses or 0 for r in readings if isinstance(r, MetalAlarm)) == sum(
        w.has_metal for w in walks
    )


def test_tamper_and_saturation_contacts_are_states_of_the_detector_and_no_alarm():
    driver = moxa(tamper_channel=4, saturated_channel=5, normally_closed=("tamper",))
    block = driver.blocks()[0]
    assert (block.address, block.count) == (0, 6)
    assert DeviceState(condition="tamper", active=False) in contacts(driver, 0, 1, 0, 0, 1, 0)
    assert contacts(driver, 0, 1, 0, 0, 0, 1) == [
        DeviceState(condition="tamper", active=True),
        DeviceState(condition="saturated", active=True),
    ]
    assert contacts(driver, 0, 1, 0, 0, 0, 1) == []
    assert DeviceState(condition="tamper", active=None) in driver.silence()


def test_a_counter_of_the_tamper_contact_is_refused():
    with pytest.raises(ValueError, match="leave its counter out"):
        Options(preset="custom", alarm=COUNTER_ONLY, tamper=Point(contact=4, counter=20))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("contacts"), st.lists(st.integers(0, 1), min_size=4, max_size=4)),
        st.tuples(st.just("counters"), st.lists(st.sampled_from([0, 1, 3, 70_000]), max_size=4)),
        st.tuples(st.just("again"), st.just([])),
        st.tuples(st.just("again"), st.just([])),
        st.tuples(st.just("silence"), st.just([])),
    ),
    max_size=60,
)


@given(steps, st.sampled_from([(), ("alarm",), ("ready",)]))
@settings(max_examples=300, deadline=None)
def test_a_poll_that_changed_nothing_says_what_decoding_it_again_would_say(steps, closed):
    """The comparison is held against a driver that forgets before each decode what was settled."""
    options = {"preset": "moxa-e1212", "ready_channel": 1, "normally_closed": closed}
    quick, thorough = (Driver(Options(stuck_after_s=1.0, **options)) for _ in range(2))
    last = {block: (0,) * block.count for block in quick.blocks()}
    for name, figures in steps:
        if name == "silence":
            assert quick.silence() == thorough.silence()
            continue
        if name == "contacts":
            last[quick.blocks()[0]] = tuple(figures)
        elif name == "counters":
            words = [word for each in figures for word in (each >> 16, each & 0xFFFF)]
            last[quick.blocks()[1]] = tuple(words)
        for block, registers in last.items():
            thorough._settled.clear()
            assert quick.decode(block, registers) == thorough.decode(block, registers)
