"""The environment board: its conversions both ways, what cannot be, and its limits."""

from __future__ import annotations

import asyncio
import json
import random
import struct
from pathlib import Path

import jsonschema
import pytest
from lane_bench import stamp

from agent.clock import Clock
from agent.config import load_lane
from agent.daemon.link import Lines, make_link
from agent.delivery import wire
from agent.delivery.snapshots import DeviceSnapshot, Figure
from agent.records import Timed
from drivers.readings import DeviceState, Housekeeping, Reason
from drivers.rpm import environment_board
from simulators.area_monitors import Climate, EnvironmentTalk, environment_reply
from simulators.ports import TcpPort

SCHEMAS = Path(__file__).resolve().parents[1] / "docs/messages/schemas"
FINE = Climate(
    temperature_c=23.5,
    humidity=41.2,
    pressure_hpa=1013.25,
    battery_v=12.7,
    dc_a=2.1,
    ac_a=0.85,
    thermocouple_c=24.0,
    outside_humidity=60.0,
)
WORDS = struct.unpack("<12I", environment_reply(FINE))


def board(**options):
    return environment_board.Driver(environment_board.Options(**options))


def told(driver, reply):
    assert driver.poll() == bytes.fromhex("FF00AA550E")
    return driver.feed(reply)


def figures(readings):
    return {r.quantity: r.value for r in readings if isinstance(r, Housekeeping)}


def states(readings):
    return {r.condition: r.active for r in readings if isinstance(r, DeviceState)}


def reply(**words):
    changed = list(WORDS)
    for name, word in words.items():
        changed[int(name[1:])] = word
    return struct.pack("<12I", *changed)


@pytest.mark.parametrize(
    ("word", "temperature_c"),
    [(0, 0.0), (235, 23.5), (1000, 100.0), (65535, -0.1), (65436, -10.0), (64936, -60.0)],
)
def test_a_temperature_above_2000_counts_is_a_negative_one(word, temperature_c):
    assert figures(told(board(), reply(w1=word)))["temperature"] == temperature_c


@pytest.mark.parametrize(
    ("word", "celsius"),
    [(0, 0.0), (94, 23.5), (0x1FFF, 2047.75), (0x2000, -2048.0), (0x3FFF, -0.25)],
)
def test_the_thermocouple_is_fourteen_bits_in_quarter_degrees(word, celsius):
    assert figures(told(board(), reply(w9=word)))["thermocouple"] == celsius


@pytest.mark.parametrize("word", [1381126725, 1163022930])
def test_a_thermocouple_in_error_is_a_fault_and_no_figure(word):
    driver = board()
    readings = told(driver, reply(w9=word))
    assert states(readings) == {"thermocouple_error": True}
    assert "thermocouple" not in figures(readings)
    assert states(told(driver, reply())) == {"thermocouple_error": False}


def test_a_thermocouple_beyond_its_fourteen_bits_is_no_figure():
    assert "thermocouple" not in figures(told(board(), reply(w9=0x4000)))


@pytest.mark.parametrize(
    ("word", "volts"),
    [(0, 0.0), (19, 0.0), (20, 0.0), (397, 0.0), (2300, 12.7308), (4095, 24.7416)],
)
def test_the_battery_is_a_straight_line_and_never_below_zero(word, volts):
    assert figures(told(board(), reply(w5=word)))["battery"] == pytest.approx(volts, abs=1e-3)


def test_the_currents_are_those_of_the_source():
    readings = figures(told(board(), reply(w6=1800, w7=123)))
    assert readings["dc_current"] == pytest.approx(14.48507166 - 1800 * 0.00686993, abs=1e-4)
    assert readings["ac_current"] == 1.23


@pytest.mark.parametrize(
    "words",
    [
        {"w1": 1001},
        {"w1": 64935},
        {"w1": 0xFFFFFFFF},
        {"w2": 1101},
        {"w3": 29999},
        {"w3": 120001},
        {f"w{i}": 0 for i in range(12)},
    ],
    ids=str,
)
def test_a_climate_that_cannot_be_refuses_the_whole_reply(words):
    (refused,) = told(board(), reply(**words))
    assert refused.reason is Reason.RANGE
    assert "cannot be" in refused.detail


@pytest.mark.parametrize(
    ("word", "quantity"),
    [
        (4, "temperature_2"),
        (5, "battery"),
        (6, "dc_current"),
        (7, "ac_current"),
        (8, "spare_input"),
        (10, "humidity_outside"),
    ],
)
def test_another_figure_that_cannot_be_is_left_out_alone(word, quantity):
    readings = figures(told(board(), reply(**{f"w{word}": 0xFFFFFFFF})))
    assert quantity not in readings
    assert len(readings) == 9


@pytest.mark.parametrize(
    ("option", "condition", "past"),
    [
        ({"battery_low_v": 11.5}, "battery_low", {"w5": 2100}),
        ({"mains_low_a": 0.1}, "mains_failed", {"w7": 9}),
        ({"temperature_low_c": -5.0}, "temperature_low", {"w1": 65436}),
        ({"temperature_high_c": 60.0}, "temperature_high", {"w1": 601}),
        ({"humidity_high_percent": 90.0}, "humidity_high", {"w2": 901}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_limit_is_a_fault_from_the_third_reply_in_a_row_until_the_third_that_keeps_it(
    option, condition, past
):
    driver = board(**option)
    said = [states(told(driver, reply(**past))) for _ in range(2)]
    said.append(states(told(driver, reply())))  # one good reply: counting begins again
    said += [states(told(driver, reply(**past))) for _ in range(4)]
    assert said == [{}] * 5 + [{condition: True}, {}]
    said = [states(told(driver, reply())) for _ in range(3)]
    assert said == [{}, {}, {condition: False}]


def test_no_limit_of_the_defaults_is_ever_passed():
    driver = board()
    for _ in range(5):
        assert states(told(driver, reply(w1=1000, w2=1100, w5=0, w7=0))) == {}
        assert states(told(driver, reply(w1=64936))) == {}


def test_an_echo_service_on_port_7_is_recognised_as_one():
    driver = board()
    assert told(driver, bytes.fromhex("FF00AA550E")) == []
    (refused,) = driver.no_reply()
    assert "echo service" in refused.detail


def test_bytes_behind_a_reply_are_reported_once_and_do_not_spoil_the_next():
    driver = board()
    readings = told(driver, reply() + b"rest")
    assert readings[-1].reason is Reason.LENGTH
    assert driver.feed(b"more") == []
    assert figures(told(driver, reply()))["temperature"] == 23.5


@pytest.mark.parametrize("seed", range(5))
def test_the_driver_gives_back_what_was_true_in_the_cabinet(seed):
    print(f"seed={seed}")
    rng = random.Random(seed)
    for _ in range(40):
        climate = Climate(
            temperature_c=rng.uniform(-55, 95),
            humidity=rng.uniform(0, 100),
            pressure_hpa=rng.uniform(500, 1100),
            battery_v=rng.uniform(0.5, 24),
            dc_a=rng.uniform(-13, 13),
            ac_a=rng.uniform(0, 20),
            thermocouple_c=rng.choice([None, rng.uniform(-200, 1300)]),
            outside_humidity=rng.uniform(0, 100),
        )
        got = figures(told(board(), environment_reply(climate)))
        assert got["temperature"] == pytest.approx(climate.temperature_c, abs=0.0501)
        assert got["humidity"] == pytest.approx(climate.humidity, abs=0.0501)
        assert got["pressure"] == pytest.approx(climate.pressure_hpa, abs=0.00501)
        assert got["battery"] == pytest.approx(climate.battery_v, abs=0.0034)
        assert got["dc_current"] == pytest.approx(climate.dc_a, abs=0.0035)
        assert got["ac_current"] == pytest.approx(climate.ac_a, abs=0.00501)
        assert got["humidity_outside"] == pytest.approx(climate.outside_humidity, abs=0.0501)
        if climate.thermocouple_c is None:
            assert "thermocouple" not in got
        else:
            assert got["thermocouple"] == pytest.approx(climate.thermocouple_c, abs=0.1251)


def test_the_link_asks_the_board_over_tcp_and_keeps_its_figures(tmp_path):
    asyncio.run(_over_tcp(tmp_path))


async def _over_tcp(tmp_path):
    server = TcpPort(lambda send: EnvironmentTalk(lambda: FINE, send))
    port = await server.open()
    file = tmp_path / "one.toml"
    file.write_text(
        f'[devices.climate]\ndriver = "rpm.environment_board"\nport = "tcp://127.0.0.1:{port}"\n'
    )
    (device,) = load_lane(file).devices
    clock = Clock(time_scale=20.0)
    heard = asyncio.Event()
    link = make_link(
        device,
        clock=clock,
        sink=lambda event: heard.set() if isinstance(event, Timed) else None,
        lines=Lines(clock),
    )
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await heard.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await server.close()
    kept = {h.quantity: (h.value, h.unit) for h in link.status().housekeeping}
    assert kept["pressure"] == (1013.25, "hPa")
    assert len(kept) == 10


def test_the_figures_stand_in_the_boards_retained_state_with_their_units():
    shot = DeviceSnapshot(
        at=stamp(5),
        lane="in-1",
        device="climate",
        link="up",
        last_good_s=1.0,
        frames=10,
        housekeeping={"battery": Figure(value=12.7, unit="V")},
    )
    topic, payload = wire.device_state(wire.Identity(root="c", site="s", gw="g"), shot)
    assert topic == "c/v1/s/g/lane/in-1/dev/climate/state"
    told = json.loads(payload)
    jsonschema.validate(told, json.loads((SCHEMAS / "device-state.json").read_text()))
    assert told["housekeeping"] == {"battery": {"value": 12.7, "unit": "V"}}
