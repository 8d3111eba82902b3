"""The contract of every driver, over every capture."""

from __future__ import annotations

import dataclasses
import importlib
import random
import typing
from decimal import Decimal

import msgspec
import pytest
from capture_files import captures, good, plain, play, play_registers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from drivers.base import PolledDriver, StreamDriver, UnknownDriverError, find, names
from drivers.readings import BadFrame, DeviceState, MetalAlarm, Reading, Weight
from drivers.scale import mt_sics, toledo
from simulators.scales import SicsScale, ToledoForm, ToledoScale, Weighbridge

CAPTURES = captures()
STREAMS = [c for c in CAPTURES if c.is_stream]
TALKERS = [c for c in STREAMS if all(kind == "data" for kind, _ in c.steps())]
POLLED = [c for c in CAPTURES if not c.is_stream]
MAX_BUFFERED = 8192
"""Drivers of longer messages say their own bound: ``BUFFER_LIMIT_BYTES``."""
MAX_DAMAGES_TIMES_BYTES = 8_000_000
"""Long captures are damaged at evenly spread places only, or one would take minutes."""
MAX_CUTS = 300
GARBAGE = bytes(range(256)) * 3 + b"\x02\x02 12340\r\n\r\n"

few = settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))


def each(cases):
    return pytest.mark.parametrize("capture", cases, ids=lambda c: c.name)


def pieces(sizes):
    def cut(data):
        at = 0
        for size in sizes:
            yield data[at : at + size]
            at += size
        yield data[at:]

    return cut


def buffer_limit(capture):
    module = importlib.import_module(f"drivers.{capture.driver}")
    return getattr(module, "BUFFER_LIMIT_BYTES", MAX_BUFFERED)


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(any(item == other for other in rest) for item in part)


# --- every driver ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", names())
def test_every_driver_has_a_capture(name):
    assert name in {c.driver for c in CAPTURES}


@pytest.mark.parametrize("name", names())
def test_every_driver_says_its_source_and_keeps_its_contract(name):
    module = importlib.import_module(f"drivers.{name}")
    assert "Source:" in module.__doc__
    found = find(name)
    first = next(c for c in CAPTURES if c.driver == name)
    contract = PolledDriver if found.is_polled else StreamDriver
    assert isinstance(first.make(), contract)
    assert first.is_stream != found.is_polled


def described(options):
    hints = typing.get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        hint = hints[field.name]
        metas = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, msgspec.Meta)]
        assert any(m.description for m in metas), f"{options.__name__}.{field.name}"
        for part in (hint.__origin__, *typing.get_args(hint.__origin__)):
            if dataclasses.is_dataclass(part):
                described(part)


@pytest.mark.parametrize("name", names())
def test_every_option_is_described_and_frozen(name):
    options = find(name).options
    assert options.__dataclass_params__.frozen
    described(options)


@pytest.mark.parametrize("name", names())
def test_an_option_nobody_knows_is_an_error(name):
    found = find(name)
    fields = {f.name for f in dataclasses.fields(found.options)}
    assert "no_such_option" not in fields
    with pytest.raises(TypeError):
        found.options(no_such_option=1)


def test_an_unknown_driver_is_never_imported():
    with pytest.raises(UnknownDriverError, match="known are"):
        find("scale.os")


# --- every capture --------------------------------------------------------------------------


@each(CAPTURES)
def test_a_capture_says_where_it_is_from(capture):
    provenance = capture.provenance
    assert provenance["kind"] in ("recorded", "vendor's example", "constructed")
    assert provenance["document"]
    assert provenance["page"]
    assert provenance["note"]


@each(CAPTURES)
def test_a_capture_gives_the_expected_readings(capture):
    driver = capture.make()
    if capture.is_stream:
        readings = play(driver, capture.steps())
    else:
        readings = play_registers(driver, capture.reads())
    got = [plain(r) for r in readings]
    assert [g["type"] for g in got] == [e["type"] for e in capture.expected]
    for reading, expected in zip(got, capture.expected, strict=True):
        assert {key: reading[key] for key in expected} == expected


# --- streams --------------------------------------------------------------------------------


@each(STREAMS)
def test_the_same_bytes_one_at_a_time_give_the_same_readings(capture):
    whole = play(capture.make(), capture.steps())
    driver = capture.make()
    single = play(driver, capture.steps(), cut=lambda data: [bytes([b]) for b in data])
    assert single == whole


@each(TALKERS)
def test_all_bytes_in_one_read_give_the_same_readings(capture):
    whole = play(capture.make(), capture.steps())
    assert capture.make().feed(b"".join(data for _, data in capture.steps())) == whole


@each(STREAMS)
@few
@given(sizes=st.lists(st.integers(0, 40), max_size=12))
def test_any_split_of_the_same_bytes_gives_the_same_readings(capture, sizes):
    whole = play(capture.make(), capture.steps())
    assert play(capture.make(), capture.steps(), cut=pieces(sizes)) == whole


@each(STREAMS)
@few
@given(
    noise=st.lists(
        st.one_of(st.binary(max_size=400), st.sampled_from(["poll", "silence", "no_reply"])),
        max_size=12,
    ),
    sizes=st.lists(st.integers(1, 30), max_size=8),
)
def test_random_bytes_never_raise_and_split_alike(capture, noise, sizes):
    whole, parts = capture.make(), capture.make()
    for item in noise:
        if isinstance(item, str):
            assert getattr(whole, item)() == getattr(parts, item)()
            continue
        readings = whole.feed(item)
        split = [r for piece in pieces(sizes)(item) for r in parts.feed(piece)]
        assert split == readings
        assert all(isinstance(r, Reading) for r in readings)
        assert whole.buffered <= buffer_limit(capture)


@each(STREAMS)
@pytest.mark.parametrize("byte", [0x00, 0x02, 0x0A, 0x0D, 0x20, 0x30, 0x53, 0xFF])
def test_a_flood_of_one_byte_is_refused_in_bounded_memory(capture, byte):
    driver = capture.make()
    readings = []
    for _ in range(40):
        driver.poll()
        readings += driver.feed(bytes([byte]) * 1000)
        assert driver.buffered <= buffer_limit(capture)
    assert good(readings) == []
    assert sum(len(r.raw) for r in readings) <= 41_000
    assert len(readings) <= 41_000


@each(STREAMS)
def test_frames_of_all_zero_or_all_one_bits_are_refused(capture):
    for byte in (0x00, 0xFF):
        driver = capture.make()
        steps = [
            (kind, bytes([byte]) * len(data) if kind == "data" else data)
            for kind, data in capture.steps()
        ]
        assert good(play(driver, steps, check_polls=False)) == []


@each(STREAMS)
def test_garbage_before_the_line_is_opened_anew_changes_nothing(capture):
    driver = capture.make()
    driver.feed(GARBAGE)
    driver.silence()
    assert play(driver, capture.steps()) == play(capture.make(), capture.steps())


@each(TALKERS)
def test_a_talker_resynchronises_after_garbage(capture):
    wanted = good(play(capture.make(), capture.steps()))
    driver = capture.make()
    play(driver, capture.steps())
    driver.feed(GARBAGE)
    readings = good(play(driver, capture.steps() * 3))
    assert is_subsequence(wanted, readings)


@each(STREAMS)
def test_a_truncated_frame_and_silence_never_mix_with_what_follows(capture):
    """Start in mid-frame, and a pause in mid-frame: no old head with a new tail."""
    steps = capture.steps()
    fresh = [r for r in good(play(capture.make(), steps)) if not isinstance(r, DeviceState)]
    last = max(i for i, (kind, _) in enumerate(steps) if kind == "data")
    length = len(steps[last][1])
    for cut_at in range(1, length, max(1, length // MAX_CUTS)):
        driver = capture.make()
        cut = [*steps[:last], ("data", steps[last][1][:cut_at])]
        play(driver, cut)
        rest = good(driver.silence())
        assert all(getattr(r, "active", 1) is None for r in rest)
        again = good(play(driver, steps))
        assert [r for r in again if not isinstance(r, DeviceState)] == fresh


@each(TALKERS)
def test_opened_at_every_offset_only_whole_frames_count(capture):
    stream = b"".join(data for _, data in capture.steps())
    for offset in range(1, min(len(stream), 60)):
        readings = good(capture.make().feed(stream[offset:]))
        weights = [r for r in readings if isinstance(r, Weight)]
        full = good(play(capture.make(), capture.steps()))
        assert is_subsequence(weights, full)


# --- damage ---------------------------------------------------------------------------------


def spread(steps, places_a_byte):
    """Return every place, or those evenly spread ones that a long capture has time for."""
    size = sum(len(data) for kind, data in steps if kind == "data")
    return max(1, places_a_byte * size * size // MAX_DAMAGES_TIMES_BYTES)


def flipped(steps):
    stride = spread(steps, 8)
    for i, (kind, data) in enumerate(steps):
        for bit in range(0, len(data) * 8 if kind == "data" else 0, stride):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            yield [*steps[:i], ("data", bytes(damaged)), *steps[i + 1 :]]


def most_of_one_frame(capture):
    """Return how many readings one frame gives at most; nearly always one."""
    driver = capture.make()
    return max(len(good(play(driver, [step]))) for step in capture.steps())


@each([c for c in STREAMS if c.has_integrity])
def test_every_bit_flip_of_a_frame_with_an_integrity_field_is_refused(capture):
    steps = capture.steps()
    whole = good(play(capture.make(), steps))
    most = most_of_one_frame(capture)
    for damaged in flipped(steps):
        # What it asks next may differ: some wait until the line is quiet.
        readings = good(play(capture.make(), damaged, check_polls=False))
        assert len(whole) - most <= len(readings) < len(whole)
        assert is_subsequence(readings, whole)


@each([c for c in STREAMS if not c.has_integrity])
def test_a_bit_flip_without_integrity_field_never_raises_nor_passes_as_verified(capture):
    steps = capture.steps()
    whole = play(capture.make(), steps)
    for damaged in flipped(steps):
        readings = play(capture.make(), damaged, check_polls=False)
        assert all(isinstance(r, Reading) for r in readings)
        for reading in readings:
            if isinstance(reading, Weight) and reading not in whole:
                assert not reading.verified or reading.range == "unknown"


@each([c for c in STREAMS if c.has_integrity])
def test_a_lost_or_doubled_byte_is_refused_or_changes_nothing(capture):
    steps = capture.steps()
    whole = good(play(capture.make(), steps))
    stride, most = spread(steps, 2), most_of_one_frame(capture)
    for i, (kind, data) in enumerate(steps):
        for at in range(0, len(data) if kind == "data" else 0, stride):
            for damaged in (data[:at] + data[at + 1 :], data[:at] + data[at : at + 1] + data[at:]):
                replayed = [*steps[:i], ("data", damaged), *steps[i + 1 :]]
                readings = good(play(capture.make(), replayed, check_polls=False))
                assert is_subsequence(readings, whole)
                assert len(readings) >= len(whole) - 2 * most


# --- polled ---------------------------------------------------------------------------------

register = st.one_of(st.integers(0, 1), st.integers(0, 65535), st.integers(-(1 << 40), 1 << 40))


@each(POLLED)
@few
@given(data=st.data())
def test_any_register_values_never_raise(capture, data):
    driver = capture.make()
    for _ in range(8):
        block = data.draw(st.sampled_from(driver.blocks()))
        count = data.draw(st.sampled_from([block.values, block.values, 0, block.values + 1]))
        registers = tuple(data.draw(st.lists(register, min_size=count, max_size=count)))
        readings = driver.decode(block, registers)
        assert all(isinstance(r, Reading) for r in readings)
        if count != block.values:
            assert readings
            assert good(readings) == []
        if data.draw(st.booleans()):
            driver.silence()


@each([c for c in POLLED if c.driver.startswith("metal.")])
def test_a_lost_device_says_unknown_and_not_that_all_is_well(capture):
    driver = capture.make()
    play_registers(driver, capture.reads())
    readings = driver.silence()
    assert MetalAlarm(active=None, pulses=None) in readings
    assert all(r.active is None for r in readings)
    assert driver.silence() == []


@each(POLLED)
def test_blocks_differ_in_function_or_length_because_a_late_reply_has_no_number(capture):
    blocks = capture.make().blocks()
    assert len({(b.table, b.count) for b in blocks}) == len(blocks)
    assert all(b.count <= 125 for b in blocks)


@each(POLLED)
def test_a_block_that_was_not_asked_for_is_refused(capture):
    driver = capture.make()
    block = dataclasses.replace(driver.blocks()[0], address=999)
    readings = driver.decode(block, (0,) * block.values)
    assert [type(r) for r in readings] == [BadFrame]


# --- the simulator's truth --------------------------------------------------------------------

KG = {"kg": Decimal(1), "lb": Decimal("0.45359237")}


def truck(seed):
    """A truck that drives on at 3 s and off at 12 s; one in three is over capacity."""
    load = random.Random(seed).uniform(3_000, 75_000)

    def load_kg(scene_s):
        on = min(max((scene_s - 3) / 2, 0), 1)
        off = min(max((scene_s - 12) / 2, 0), 1)
        return load * (on - off)

    return Weighbridge(load_kg, seed=seed)


def observed(bridge):
    return [bridge.observe(tenth / 10) for tenth in range(170)]


def assert_true(weight, shown, unit):
    assert weight.range == shown.range
    if shown.range != "ok":
        assert (weight.value, weight.mass_kg) == (None, None)
        return
    assert Decimal(weight.value) == shown.value
    assert weight.unit == unit
    assert weight.mass_kg == float(shown.value * KG[unit])
    assert weight.stable is not shown.in_motion


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", ["kg", "lb"])
@pytest.mark.parametrize("parity", ["none", "even", "odd"])
@pytest.mark.parametrize("form", ["long", "short"])
def test_toledo_agrees_with_the_simulated_weighbridge(seed, unit, parity, form):
    print(f"seed={seed}")
    bridge = truck(seed)
    sent = ToledoForm(short=form == "short", parity=parity, constant_bit=bool(seed % 2))
    scale = ToledoScale(bridge, unit=unit, form=sent)
    driver = toledo.Driver(toledo.Options(form=form, checksum="yes"))
    for observation in observed(bridge):
        (weight,) = driver.feed(scale.frame(observation))
        assert weight.verified
        assert_true(weight, scale.show(observation), unit)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("checksum", [True, False])
def test_toledo_finds_out_by_itself_and_gives_only_true_weights(seed, checksum):
    print(f"seed={seed}")
    bridge = truck(seed)
    scale = ToledoScale(bridge, form=ToledoForm(checksum=checksum))
    driver = toledo.Driver(toledo.Options())
    stable = set()
    shown = set()
    for observation in observed(bridge):
        truth = scale.show(observation)
        if truth.range == "ok" and not truth.in_motion:
            shown.add(truth.value)
        for weight in driver.feed(scale.frame(observation)):
            assert weight.verified is checksum
            if weight.range == "ok":
                assert_true(weight, truth, "kg")
            if weight.stable and weight.value is not None:
                stable.add(Decimal(weight.value))
    assert stable <= shown
    assert max(stable) >= max(shown) - 40


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("unit", ["kg", "lb"])
def test_mt_sics_agrees_with_the_simulated_weighbridge(seed, unit):
    print(f"seed={seed}")
    bridge = truck(seed)
    scale = SicsScale(bridge, unit=unit)
    driver = mt_sics.Driver(mt_sics.Options(equal_frames=1, value_width=10))
    assert driver.poll() == b"@\r\n"
    driver.feed(scale.identity("I4")[0].encode() + b"\r\n")
    for observation in observed(bridge):
        assert driver.poll() == b"SI\r\n"
        (weight,) = driver.feed(scale.value_now(observation).encode() + b"\r\n")
        truth = scale.show(observation)
        if truth.range == "ok":
            assert_true(weight, truth, unit)
        else:
            assert (weight.range, weight.value) == (truth.range, None)
