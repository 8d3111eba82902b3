"""ATOMTEX detectors: swapped CRC, the start, what is written and what is not, and agreement."""

from __future__ import annotations

import asyncio
import struct

import pytest

from agent.clock import Clock
from agent.config import load_lane
from agent.daemon.link import Lines, make_link
from agent.records import LinkChange, Timed
from drivers.readings import (
    BadFrame,
    DoseRate,
    GammaCounts,
    Housekeeping,
    Reason,
    Undocumented,
)
from drivers.rpm import atomtex
from simulators.area_monitors import COLD_START_S, BdkgDetector, swapped_crc
from simulators.ports import PtyPort

WARM_S = 100.0
READ = bytes.fromhex("01040001000D") + swapped_crc(bytes.fromhex("01040001000D"))


def detector(**options):
    return atomtex.Driver(atomtex.Options(**options))


def warm(driver):
    assert driver.poll() == bytes.fromhex("0107E241")
    (status,) = driver.feed(b"\x01\x07\x00" + swapped_crc(b"\x01\x07\x00"))
    assert status == Undocumented(tag="status", text="00h")
    return driver


@pytest.mark.parametrize("request_", ["01040001 0001 0A60", "0107 E241"])
def test_the_crc_of_the_sources_requests_is_sent_high_byte_first(request_):
    data = bytes.fromhex(request_)
    assert atomtex.framed(data[:-2]) == data
    assert swapped_crc(data[:-2]) == data[-2:]
    assert atomtex.framed(data[:-2]) != data[:-2] + data[-2:][::-1]


def test_a_reply_in_the_ordinary_order_of_its_crc_is_refused():
    driver = warm(detector())
    assert driver.poll() == READ
    body = b"\x01\x04\x1a" + bytes(26)
    (refused,) = driver.feed(body + swapped_crc(body)[::-1])
    assert refused.reason is Reason.CHECKSUM


def test_a_cold_detector_is_asked_until_it_answers_and_then_for_its_figures():
    driver, cold = detector(), BdkgDetector(lambda _: 10.0)
    asked = []
    for second in range(6):
        request = driver.poll()
        asked.append(request)
        if not driver.feed(cold.answer(request, float(second))):
            (silent,) = driver.no_reply()
            assert silent.reason is Reason.NO_REPLY
    assert asked == [bytes.fromhex("0107E241")] * 5 + [READ]
    assert COLD_START_S < 4


def test_nothing_is_written_unless_the_lane_file_says_so():
    for clear, written in ((False, 0), (True, 3)):
        driver, unit = detector(clear_dose=clear), BdkgDetector(lambda _: 10.0)
        for second in range(20):
            assert driver.feed(unit.answer(driver.poll(), WARM_S + second))
        assert len(unit.written) == written


def test_the_dose_is_cleared_after_three_seconds_of_reads_in_the_order_of_the_source():
    driver, unit = warm(detector(clear_dose=True)), BdkgDetector(lambda _: 10.0)
    functions = []
    for second in range(8):
        request = driver.poll()
        functions.append(request[1])
        driver.feed(unit.answer(request, WARM_S + second))
    assert functions == [4, 4, 4, 6, 5, 5, 4, 4]
    assert unit.written == [
        b"\x06\x00\x00\xff\xff",
        b"\x05\x00\x23\xff\x00",
        b"\x05\x00\x22\xff\x00",
    ]


def test_a_line_that_fell_silent_begins_with_the_start_again():
    driver = warm(detector())
    driver.poll()
    driver.feed(b"\x01\x04\x1a")
    (half,) = driver.silence()
    assert half.reason is Reason.TRUNCATED
    assert driver.poll() == bytes.fromhex("0107E241")


def test_our_own_request_that_a_two_wire_adapter_sends_back_is_no_answer():
    driver, unit = detector(), BdkgDetector(lambda _: 10.0)
    for _ in range(3):
        request = driver.poll()
        readings = driver.feed(request + unit.answer(request, WARM_S))
        assert readings
        assert not any(isinstance(r, BadFrame) for r in readings)


def test_an_answer_of_another_address_or_without_question_is_dropped():
    driver = warm(detector(address=1))
    reply = b"\x02\x07\x00"
    driver.poll()
    assert driver.feed(reply + swapped_crc(reply)) == []
    driver.no_reply()
    body = b"\x01\x04\x1a" + bytes(26)
    assert driver.feed(body + swapped_crc(body)) == []


@pytest.mark.parametrize(
    "figures",
    [
        (0, 5, float("nan"), 0.0, 0.0, 0.0, 0.0),
        (0, 5, 1.0, -1.0, 0.0, 0.0, 0.0),
        (0, 5, 1.0, 1.0, float("inf"), 0.0, 0.0),
        (0, 5, 1.0, 1.0, 0.0, 0.0, -1e-9),
    ],
    ids=["nan", "negative error", "infinite rate", "negative dose"],
)
def test_figures_that_cannot_be_refuse_the_whole_reply(figures):
    driver = warm(detector())
    driver.poll()
    body = b"\x01\x04\x1a" + struct.pack(">hI5f", *figures)
    (refused,) = driver.feed(body + swapped_crc(body))
    assert refused.reason is Reason.RANGE


@pytest.mark.parametrize("seed", range(5))
def test_the_driver_agrees_with_the_simulated_detector(seed):
    print(f"seed={seed}")
    unit = BdkgDetector(lambda s: 8.0 + 400.0 * (20 < s - WARM_S < 30), seed=seed)
    driver = detector(ready_check=False)
    for second in range(60):
        readings = driver.feed(unit.answer(driver.poll(), WARM_S + second))
        assert [type(r) for r in readings] == [GammaCounts, DoseRate] + [Housekeeping] * 5
        told = {r.quantity: r.value for r in readings if isinstance(r, Housekeeping)}
        assert readings[0].counts == (unit.shown.counts,)
        assert readings[0].real_time_s == 1.0
        assert readings[1].usv_per_h == pytest.approx(unit.shown.usv_per_h, rel=1e-6)
        assert told["mean_count_rate"] == unit.shown.mean_cps
        assert told["temperature"] == unit.shown.temperature_c
        assert told["dose"] == pytest.approx(unit.dose_usv, rel=1e-6)


def test_the_link_brings_up_a_cold_detector_on_a_serial_line(tmp_path):
    asyncio.run(_on_a_line(tmp_path))


class Talk:
    def __init__(self, unit, now_s, send):
        self.unit, self.now_s, self.send = unit, now_s, send
        self.buffer = b""

    def received(self, data):
        self.buffer += data
        length = 4 if self.buffer[1:2] == b"\x07" else 8
        if len(self.buffer) >= length:
            self.send(self.unit.answer(self.buffer[:length], self.now_s()))
            self.buffer = b""

    def closed(self):
        pass


async def _on_a_line(tmp_path):
    loop = asyncio.get_running_loop()
    scale, began = 50.0, loop.time()
    line = PtyPort(
        lambda send: Talk(BdkgDetector(lambda _: 10.0), lambda: (loop.time() - began) * scale, send)
    )
    file = tmp_path / "one.toml"
    # /dev/pts is no name that a lane's file may give, so the checked one is exchanged.
    file.write_text('[devices.area]\ndriver = "rpm.atomtex"\nport = "/dev/serial/by-id/x"\n')
    (device,) = load_lane(file).devices
    object.__setattr__(device.common, "port", line.path)
    clock = Clock(time_scale=scale)
    heard, figures = [], asyncio.Event()

    def sink(event):
        heard.append(event)
        if isinstance(event, Timed) and isinstance(event.reading, DoseRate):
            figures.set()

    link = make_link(device, clock=clock, sink=sink, lines=Lines(clock))
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(10):
            await figures.wait()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        line.close()
    assert [e.is_up for e in heard if isinstance(e, LinkChange)][-1]
    kept = {h.quantity: h.unit for h in link.status().housekeeping}
    assert kept["temperature"] == "°C"
    assert str(device.line) == "19200 8N1"
