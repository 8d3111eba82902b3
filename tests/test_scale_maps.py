"""Modbus indicators by a register map: presets, one's own map, wrap, torn reads, heartbeat."""

from __future__ import annotations

import asyncio
import random
import tomllib
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from agent.config import ConfigError, load_lane
from drivers.base import Block, LineParameters
from drivers.modbus import ModbusLine
from drivers.readings import BadFrame, DeviceState, Reason, Weight
from drivers.scale import modbus_map
from simulators.clock import SceneClock
from simulators.scales_modbus import ModbusScale
from simulators.weighbridge import Weighbridge

ROOT = Path(__file__).resolve().parent.parent
KG = {"kg": Decimal(1), "lb": Decimal("0.45359237")}

FLOAT_MAP = {
    "preset": "custom",
    "table": "input",
    "gross": "0 f32",
    "status": 2,
    "stable": "!.12",
    "under": [".9"],
    "over": [".10"],
    "error": ["!.15"],
}
OPTIONS = {
    "laumas": {"preset": "laumas"},
    "dini": {"preset": "dini-dgt"},
    "wtx": {"preset": "hbm-wtx"},
    "flintec": {"preset": "flintec-ft112"},
    "pr5220": {"preset": "pr-5220"},
    "float": FLOAT_MAP,
}
CUSTOM = {
    "preset": "custom",
    "table": "holding",
    "gross": "10 u32",
    "stable": "12.0",
    "decimals": 0,
    "weight_unit": "kg",
}


def driver(**options):
    return modbus_map.Driver(msgspec.convert(options, modbus_map.Options))


def read(device, *registers):
    (block,) = device.blocks()
    return device.decode(block, registers)


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
@pytest.mark.parametrize("layout", sorted(OPTIONS))
def test_a_map_agrees_with_the_simulated_indicator(layout, unit, seed):
    print(f"seed={seed}")
    scale = ModbusScale(truck(seed), layout, unit=unit, decimals=seed % 3)
    device = driver(**OPTIONS[layout], decimals=seed % 3, weight_unit=unit, heartbeat_s=60)
    (block,) = device.blocks()
    bank = scale.modbus.input if block.table == "input" else scale.modbus.holding
    ranges = set()
    for tenth in range(170):
        observation = scale.weighbridge.observe(tenth / 10)
        if tenth == 10 and seed % 2:
            scale.tare = Decimal(40)
        scale.update(observation)
        truth = scale.show(observation)
        words = tuple(bank[block.address + i] for i in range(block.count))
        (weight,) = device.decode(block, words)
        expected = truth.range
        if expected == "under" and layout in ("laumas", "pr5220"):
            expected = "ok"  # their maps have no bit for it
        assert weight.range == expected
        assert weight.stable is not truth.in_motion
        ranges.add(weight.range)
        if weight.range == "ok":
            gross = truth.value + truth.tare
            assert Decimal(weight.value) == gross
            assert weight.mass_kg == float(gross * KG[unit])
            assert (weight.unit, weight.mode, weight.verified) == (unit, "gross", True)
    assert "ok" in ranges


def test_the_truck_is_weighed_through_a_real_modbus_line():
    class Never:
        def next_s(self):
            return 0.0

        def reset(self):
            pass

    async def weigh():
        scale = ModbusScale(Weighbridge(lambda _: 70_000.0, max_kg=80_000.0, seed=1), "laumas")
        port = await scale.serve_tcp(SceneClock())
        line = ModbusLine(port, LineParameters(), framing="tcp", delays=Never())
        device = driver(preset="laumas", decimals=0, weight_unit="kg", capacity=80_000)
        (block,) = device.blocks()
        line.join()
        try:
            words = await line.read_block(1, block, timeout_s=2.0, max_lateness_s=0.0)
        finally:
            line.leave()
            await scale.close()
        assert {request.function for request in scale.modbus.requests} == {3}
        return device.decode(block, words)

    (weight,) = asyncio.run(weigh())
    assert weight.value == "70000"


# --- width, order, sign ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "capacity", "wraps_at"), [("u16", 60_000, 65535), ("i16", 30_000, 32767)]
)
def test_a_16_bit_register_that_a_heavy_truck_would_wrap_is_refused(type_, capacity, wraps_at):
    wanted = f"16-bit register, which wraps at {wraps_at}.*use the indicator's 32-bit register"
    with pytest.raises(ValueError, match=wanted):
        driver(**{**CUSTOM, "gross": f"10 {type_}", "capacity": capacity})


def test_a_16_bit_register_needs_the_capacity():
    with pytest.raises(ValueError, match="give the scale's capacity"):
        driver(**{**CUSTOM, "gross": "10 u16"})


def test_a_16_bit_register_that_counts_intervals_holds_a_truck_and_its_overload():
    device = driver(**{**CUSTOM, "gross": "10 i16", "factor": "20", "capacity": 60_000})
    (weight,) = read(device, 3500, 0, 1)
    assert (weight.value, weight.mass_kg) == ("70000", 70000.0)


def test_a_16_bit_figure_taken_for_signed_is_refused_above_its_range():
    device = driver(**{**CUSTOM, "gross": "10 i16", "capacity": 21_000})
    for number in (32_768, 40_000, 44_000):
        (refused,) = read(device, number, 0, 1)
        assert refused.reason is Reason.RANGE, number
    (weight,) = read(device, 0xFFEC, 0, 1)
    assert weight.value == "-20"


@pytest.mark.parametrize("order", ["high_first", "low_first"])
@pytest.mark.parametrize("swap", ["high_first", "low_first"])
@pytest.mark.parametrize("type_", ["u32", "i32"])
def test_word_and_byte_order_are_each_honoured(order, swap, type_):
    words = [0x0001, 0x1170]  # 70 000
    if order == "low_first":
        words.reverse()
    status = 0x0001
    if swap == "low_first":
        words = [word >> 8 | (word & 0xFF) << 8 for word in words]
        status = 0x0100
    form = {"gross": f"10 {type_}", "word_order": order, "byte_order": swap}
    (weight,) = read(driver(**CUSTOM | form), *words, status)
    assert (weight.value, weight.stable) == ("70000", True)


def test_words_in_the_wrong_order_are_refused_where_the_capacity_is_known():
    device = driver(**CUSTOM, capacity=60_000)
    (refused,) = read(device, 12_340, 0, 1)
    assert refused.reason is Reason.RANGE
    assert "word_order" in refused.detail


def test_a_signed_number_that_contradicts_its_sign_bit_is_refused():
    device = driver(preset="pr-5220", decimals=0, weight_unit="kg")

    def gross(number, bits):
        return read(device, bits, *(0,) * 13, number >> 16 & 0xFFFF, number & 0xFFFF)[0]

    assert gross(-120, 0x48).value == "-120"
    assert gross(120, 0x40).value == "120"
    assert gross(0, 0x48).value == "0"
    assert gross(120, 0x48).reason is Reason.RANGE
    assert gross(-120, 0x40).reason is Reason.RANGE


@pytest.mark.parametrize("base", [0, 1, 30001, 40001])
def test_addresses_stand_as_printed_and_lose_the_base(base):
    form = {"address_base": base, "gross": f"{base + 10} u32", "stable": f"{base + 12}.0"}
    (block,) = driver(**CUSTOM | form).blocks()
    assert (block.address, block.count) == (10, 3)


def test_a_preset_is_shifted_by_one_register_with_its_base():
    shifted = driver(preset="dini-dgt", decimals=0, weight_unit="kg", address_base=30_000)
    (block,) = shifted.blocks()
    assert block == Block(table="input", address=1, count=5, period_s=0.2)


def test_all_that_a_reading_needs_is_read_in_one_request():
    for layout, options in OPTIONS.items():
        device = driver(**options, decimals=0, weight_unit="kg")
        assert len(device.blocks()) == 1, layout
    with pytest.raises(ValueError, match="one request reads 125"):
        driver(**CUSTOM | {"stable": "140.0"})


# --- what the device says of itself ---------------------------------------------------------------


def flintec(**options):
    return driver(preset="flintec-ft112", weight_unit="kg", map_proven=True, **options)


def flintec_words(gross=12_340, status=1 << 31, errors=0, beat=0):
    pairs = (0, gross, status, errors, beat)  # tare first
    return [word for number in pairs for word in (number >> 16 & 0xFFFF, number & 0xFFFF)]


def test_a_frozen_heartbeat_withholds_the_weight_until_it_moves_again():
    device = flintec(heartbeat_s=0.6, poll_period_s=0.2)
    kinds = [[type(r) for r in read(device, *flintec_words(beat=7))] for _ in range(5)]
    assert kinds == [[Weight], [Weight], [Weight], [DeviceState, BadFrame], [BadFrame]]
    state, weight = read(device, *flintec_words(beat=8))
    assert (state.condition, state.active) == ("heartbeat_stopped", False)
    assert weight.value == "12340"


def test_a_frozen_gateway_is_noticed_although_it_answers():
    scale = ModbusScale(Weighbridge(lambda _: 12_340.0, seed=1), "flintec")
    device = flintec(heartbeat_s=1.0)
    (block,) = device.blocks()
    said = []
    for fifth in range(20):
        scale.is_frozen = fifth >= 10
        scale.update(scale.weighbridge.observe(fifth / 5))
        bank = scale.modbus.holding
        said.append(device.decode(block, tuple(bank[block.address + i] for i in range(10)))[-1])
    assert [isinstance(r, Weight) for r in said] == [True] * 14 + [False] * 6


def test_the_heartbeat_may_wrap():
    device = flintec(heartbeat_s=0.2)
    for beat in (0xFFFFFFFE, 0xFFFFFFFF, 0, 1):
        (weight,) = read(device, *flintec_words(beat=beat))
        assert isinstance(weight, Weight)


def test_a_second_unit_or_high_resolution_is_refused_not_converted():
    for bit in (6, 13):
        (refused,) = read(flintec(), *flintec_words(status=1 << 31 | 1 << bit))
        assert refused.reason is Reason.UNIT, bit


def test_no_or_two_decimal_point_bits_are_refused():
    for status in (0, 1 << 31 | 1 << 30):
        (refused,) = read(flintec(), *flintec_words(status=status))
        assert refused.reason is Reason.UNKNOWN


def test_a_unit_key_pressed_is_refused_where_the_unit_was_declared():
    device = driver(preset="hbm-wtx", weight_unit="kg")
    assert read(device, 0, 1234, 0, 0)[0].unit == "kg"
    assert read(device, 0, 1234, 0, 3 << 7)[0].reason is Reason.UNIT


def test_decimals_set_up_anew_are_refused_where_they_were_declared():
    device = driver(preset="hbm-wtx", decimals=1)
    assert read(device, 0, 1234, 0, 1 << 4)[0].value == "123.4"
    assert read(device, 0, 1234, 0, 2 << 4)[0].reason is Reason.UNKNOWN


def test_a_lost_scale_says_unknown_of_what_it_had_reported_and_keeps_nothing():
    device = flintec(heartbeat_s=0.2)
    read(device, *flintec_words(errors=1))
    assert device.silence() == [DeviceState(condition="low_voltage", active=None)]
    assert device.silence() == []
    readings = read(device, *flintec_words())  # the same heartbeat after a gap is no standstill
    assert [type(r) for r in readings] == [Weight]


def test_over_and_under_at_once_is_an_error():
    (weight,) = read(flintec(), *flintec_words(errors=0b11000))
    assert (weight.range, weight.value) == ("error", None)


def test_without_a_stable_bit_stability_is_unknown():
    device = driver(**{**CUSTOM, "stable": None, "status": None})
    (weight,) = read(device, 0, 12_340)
    assert (weight.stable, weight.stable_by) == (None, None)


@pytest.mark.parametrize("number", ["7fc00000", "7f800000", "ff800000", "7f7fffff", "4f000000"])
def test_a_float_that_is_no_weight_is_refused(number):
    device = driver(**FLOAT_MAP, decimals=0, weight_unit="kg")
    words = (int(number[:4], 16), int(number[4:], 16), 0x8000)
    assert read(device, *words)[0].reason is Reason.RANGE


def test_a_float_with_more_digits_than_it_can_hold_is_refused():
    device = driver(**FLOAT_MAP, decimals=3, weight_unit="kg")
    assert read(device, 0x4700, 0x0000, 0x8000)[0].reason is Reason.RANGE  # 32768.000
    (weight,) = read(device, 0x4145, 0x70A4, 0x8000)  # 12.34 as float
    assert (weight.value, weight.mass_kg) == ("12.340", 12.34)


def test_a_map_never_proven_against_the_display_says_so_with_every_weight():
    words = (0, 12_340, 1)
    assert read(driver(**CUSTOM), *words)[0].notes == (modbus_map.UNPROVEN,)
    assert read(driver(**CUSTOM, map_proven=True), *words)[0].notes == ()


# --- presets and problems -----------------------------------------------------------------------


def test_every_preset_names_its_source_what_is_unconfirmed_and_only_options():
    known = set(modbus_map.Options.__dataclass_fields__)
    shipped = modbus_map.presets()
    assert set(shipped) == {
        *("laumas", "dini-dgt", "hbm-wtx", "pr-5220", "flintec-ft112", "dat-400")
    }
    for name, preset in shipped.items():
        assert preset["source"], name
        assert preset["unconfirmed"], name
        map_ = {k: v for k, v in preset.items() if k not in ("source", "unconfirmed")}
        assert set(map_) <= known, name
        msgspec.convert({"preset": name, **map_}, modbus_map.Options)  # types and bounds
        assert name in modbus_map.Options.__annotations__["preset"]


@pytest.mark.parametrize("figure", ["gross", "net", "displayed"])
@pytest.mark.parametrize("name", sorted(modbus_map.presets()))
def test_every_preset_works_or_says_what_it_lacks(name, figure):
    options = {"preset": name, "figure": figure, "decimals": 0, "weight_unit": "kg"}
    if figure in modbus_map.presets()[name]:
        (block,) = driver(**options).blocks()
        assert block.count <= 32
    else:
        with pytest.raises(ValueError, match=f"does not say .*{figure}"):
            driver(**options)


def test_the_dat_400_is_made_whole_by_the_addresses_of_its_manual():
    with pytest.raises(
        ValueError, match="does not say table, gross, decimals, weight_unit, status"
    ):
        driver(preset="dat-400")
    device = driver(
        preset="dat-400",
        table="holding",
        status=40001,
        gross="40002 i32",
        address_base=40001,
        decimals=0,
        weight_unit="kg",
    )
    (weight,) = read(device, 0b10, 0, 12_340)
    assert (weight.value, weight.stable) == ("12340", True)
    assert read(device, 1 << 6, 0, 0)[0].range == "error"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"preset": "lumas"}, "there is no preset"),
        ({"gross": "10 u64"}, "is no figure"),
        ({"gross": "10 u32 sign"}, "is no figure"),
        ({"gross": "10 u32 sign 12"}, "is no condition"),
        ({"stable": "12.16"}, "its bits are 0 to 15"),
        ({"stable": "12-14.3"}, "a pair is a register and the next one"),
        ({"stable": "12.2-3=4"}, "does not fit its bits"),
        ({"stable": "12.2-3"}, "is no condition"),
        ({"stable": ".3"}, "does not say status"),
        ({"net": "10 u8"}, 'net = "10 u8" is no figure'),
        ({"address_base": 40001}, "which is no register with address_base 40001"),
        ({"factor": "0"}, "is no number above 0"),
        ({"factor": "-20"}, "is no number above 0"),
        ({"heartbeat": "14 f32"}, "give it the type u16 or u32"),
        ({"unit_field": "12.4-6", "unit_codes": {"0": "kN"}}, "unit_codes names kN"),
        ({"unit_field": "12.4-6", "unit_codes": {"zero": "kg"}}, "a code is a number"),
        ({"decimals_field": "12.4"}, "is no field"),
        ({"table": None}, "does not say table"),
    ],
)
def test_what_is_wrong_with_a_map_is_one_sentence(wrong, said):
    with pytest.raises(ValueError, match=said) as caught:
        driver(**CUSTOM | wrong)
    assert "\n" not in str(caught.value)


def test_a_wrong_map_is_a_problem_of_the_devices_table(tmp_path):
    lane = tmp_path / "one.toml"
    lane.write_text(
        '[devices.scale]\ndriver = "scale.modbus_map"\nport = "tcp://127.0.0.1:502"\n'
        'preset = "laumas"\nweight_unit = "kg"\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_lane(lane)
    (problem,) = caught.value.problems
    assert (problem.line, problem.option) == (1, "devices.scale")
    assert "does not say decimals" in problem.text
    lane.write_text(lane.read_text() + "decimals = 0\n")
    assert load_lane(lane).device("scale").driver.name == "scale.modbus_map"


def test_the_maps_are_shipped_with_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "*.toml" in project["tool"]["setuptools"]["package-data"]["drivers"]
