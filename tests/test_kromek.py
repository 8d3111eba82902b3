"""Kromek spectrometers: what only they do, and the driver against the independent simulator."""

from __future__ import annotations

import asyncio
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Clock
from agent.daemon.link import Lines, make_link
from agent.lane.options.portals import RpmOptions
from agent.records import LinkChange, Timed
from agent.settings import DeviceConfig, DeviceOptions
from drivers.base import LineParameters, find
from drivers.readings import (
    BadFrame,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    GammaSpectrum,
    Housekeeping,
    NeutronCounts,
    NuclideFound,
    Reason,
)
from drivers.rpm.kromek import LINE, Driver, Options
from drivers.slip import Unslip, slipped
from simulators.clock import SceneClock
from simulators.kromek import DeviceError, KromekDevice, KromekOptions, crc16
from simulators.lane import LaneSimulator
from simulators.mischief import Faults, mangle
from simulators.scene import Scene

SPECTRUM, RADIOMETRICS, STATUS, COMPRESSION = 0xC1, 0xC2, 0xC5, 0x4F
LIMIT_S = 10.0


def of(kind, readings):
    return [r for r in readings if isinstance(r, kind)]


def message(report, payload=b"", *, mode=0):
    head = struct.pack("<HBBB", 7 + len(payload), mode, 7, report) + payload
    return head + struct.pack("<H", crc16(head))


def spectrum_reply(real_ms=1000, neutrons=1, counts=None):
    channels = np.zeros(4096, dtype="<u2") if counts is None else counts
    return message(SPECTRUM, struct.pack("<IH", real_ms, neutrons) + channels.tobytes())


def scene(seed=1, instrument="kromek-d4"):
    return Scene.from_text(
        f'title = "panel"\nseed = {seed}\n[spectrometer]\ninstrument = "{instrument}"\n'
        'background_cps = 400.0\n[[vehicle]]\nid = "v"\nat_s = 6.0\n[vehicle.gamma]\n'
        'peak_cps = 4000.0\noffset_m = 3.0\nnuclide = "Co-60"\n'
    )


def conversed(driver, device, *, seconds, faults=None, seed=0):
    """Let driver and device talk for so many intervals; return the readings and what was sent."""
    readings, sent = [], []
    period_s = driver.poll_period_s
    for tick in range(round(seconds / period_s)):
        request = driver.poll()
        if not request:
            continue
        sent.append(request)
        whole = request.strip(b"\xc0") if device.model.has_slip else request
        whole = whole.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb")
        reply = device.answer(whole, tick * period_s)
        pieces = [reply] if faults is None else mangle([reply], faults, seed=seed + tick)
        for piece in pieces:
            readings += driver.feed(piece)
    return readings, sent


# --- slip -----------------------------------------------------------------------------------


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=6), st.lists(st.integers(1, 7)))
@settings(max_examples=100, deadline=None)
def test_slipped_frames_come_back_whatever_the_pieces(frames, sizes):
    wire = b"\xc0".join(slipped(frame) for frame in frames)
    cut = Unslip(100)
    found, at = [], 0
    for size in [*sizes, len(wire)]:
        found += cut.feed(wire[at : at + size])
        at += size
    assert found == frames


@given(st.binary(max_size=300), st.lists(st.integers(1, 40), max_size=10))
@settings(max_examples=200, deadline=None)
def test_any_bytes_unslip_alike_in_any_pieces_and_bounded(data, sizes):
    whole, parts = Unslip(50), Unslip(50)
    split, at = [], 0
    for size in [*sizes, len(data)]:
        split += parts.feed(data[at : at + size])
        at += size
        assert parts.buffered <= 50
    assert split == whole.feed(data)


def test_what_slip_does_not_know_is_refused_once_and_the_next_frame_read():
    cut = Unslip(10)
    found = cut.feed(b"\xc0a\xdbb\xdb\xdc\xc0ok\xc0\xdb\xc0" + b"x" * 30 + b"\xc0ok\xc0")
    reasons = [f.reason if isinstance(f, BadFrame) else f for f in found]
    assert reasons == [Reason.SYNTAX, b"ok", Reason.SYNTAX, Reason.FLOOD, b"ok"]


# --- the driver -----------------------------------------------------------------------------


def test_requests_are_those_that_the_sources_print_with_their_crc():
    driver = Driver(Options())
    sent = [driver.poll() for _ in range(5)]
    driver.feed(spectrum_reply())
    assert sent[0][4] == COMPRESSION
    assert sent[0][5:-2] == bytes([0, 9, 8, 0, 0, 0])
    assert crc16(sent[0][:-2]) == int.from_bytes(sent[0][-2:], "little")
    assert sent[1:3] == [b"", bytes.fromhex("070000 07 C2 4116")]
    driver = Driver(Options())
    driver.poll()
    driver.poll()
    driver.poll()
    driver.no_reply()
    assert driver.poll() == bytes.fromhex("070000 07 C5 A666")
    driver.no_reply()
    assert driver.poll() == bytes.fromhex("070000 07 C1 2226")


def test_nothing_but_reads_and_the_compression_switch_is_ever_written():
    for confirmation in ("off", "standard", "extended"):
        driver = Driver(Options(confirmation=confirmation))
        device = KromekDevice(scene())
        _, sent = conversed(driver, device, seconds=25)
        reports = {request[4] for request in sent}
        assert {r for r in reports if not r & 0x80} == {COMPRESSION}
        assert sum(request[4] == COMPRESSION for request in sent) == 1


def test_the_line_is_the_documented_one():
    assert LineParameters(baud=115200, data_bits=8, parity="N", stop_bits=1) == LINE


def test_the_first_reply_after_opening_and_after_silence_is_thrown_away():
    driver = Driver(Options())
    assert driver.feed(spectrum_reply(63_000)) == []
    assert len(of(GammaSpectrum, driver.feed(spectrum_reply(1000)))) == 1
    driver.silence()
    assert driver.feed(spectrum_reply(1000)) == []
    assert len(of(GammaSpectrum, driver.feed(spectrum_reply(1000)))) == 1


@pytest.mark.parametrize("real_ms", [0, 10_001, 3_600_000])
def test_a_reply_that_covers_no_interval_is_refused(real_ms):
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    (refused,) = driver.feed(spectrum_reply(real_ms))
    assert refused.reason is Reason.RANGE


def test_an_unanswered_first_request_makes_it_ask_the_other_report_and_back():
    driver = Driver(Options())
    asked = []
    for _ in range(30):
        request = driver.poll()
        if request:
            asked.append(request[4])
            driver.no_reply()
    counts = [report for report in asked if report in (SPECTRUM, RADIOMETRICS)]
    assert counts[:4] == [RADIOMETRICS, SPECTRUM, RADIOMETRICS, SPECTRUM]


def test_a_device_once_heard_is_not_doubted_for_one_missing_reply():
    driver = Driver(Options(model="D4"))
    conversed(driver, KromekDevice(scene()), seconds=4)
    while not (request := driver.poll()):
        pass
    assert request[4] == RADIOMETRICS
    assert [r.reason for r in driver.no_reply()] == [Reason.NO_REPLY]
    asked = {request[4] for _ in range(4) if (request := driver.poll())}
    assert SPECTRUM not in asked


def test_a_wrong_length_drops_all_until_the_line_was_quiet():
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    driver.poll()
    assert [r.reason for r in driver.feed(b"\x00\x00")] == [Reason.LENGTH]
    assert driver.feed(spectrum_reply()) == []  # it might begin anywhere
    assert driver.poll() == b""  # bytes came since the last poll
    assert driver.poll() != b""
    assert len(of(GammaSpectrum, driver.feed(spectrum_reply()))) == 1


def test_a_crc_of_zero_says_not_checked_until_the_device_has_sent_a_right_one():
    unchecked = spectrum_reply()[:-2] + b"\x00\x00"
    wrong = bytearray(spectrum_reply())
    wrong[-1] ^= 1
    driver = Driver(Options())
    driver.feed(unchecked)
    assert len(of(GammaSpectrum, driver.feed(unchecked))) == 1
    assert len(of(GammaSpectrum, driver.feed(spectrum_reply()))) == 1
    assert [r.reason for r in driver.feed(unchecked)] == [Reason.CHECKSUM]
    assert [r.reason for r in Driver(Options()).feed(bytes(wrong))] == [Reason.CHECKSUM]


def test_two_bytes_too_many_do_not_pass_for_a_message_that_is_not_checked():
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    counts = np.zeros(4096, dtype="<u2")
    counts[:100] = 7
    whole = spectrum_reply(counts=counts)
    shifted = whole[:50] + b"\x07\x00" + whole[50:]
    assert shifted[8203:8205] == b"\x00\x00"  # where the CRC of 8,205 bytes is looked for
    assert of(GammaSpectrum, driver.feed(shifted)) == []


def test_a_rest_left_on_the_line_does_not_spoil_the_next_reply():
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    driver.feed(spectrum_reply() + b"\x05")
    assert [bool(driver.poll()) for _ in range(3)] == [True, False, True]
    assert len(of(GammaSpectrum, driver.feed(spectrum_reply()))) == 1


def test_a_compressed_payload_is_refused_and_compression_switched_off_again():
    driver = Driver(Options())
    driver.poll()
    (refused,) = driver.feed(message(SPECTRUM, b"\xff" * 100, mode=1))
    assert refused.reason is Reason.UNKNOWN
    assert "compressed" in refused.detail
    assert driver.poll()[4] == COMPRESSION


@pytest.mark.parametrize(
    ("code", "condition"),
    [(0x0B, "warming_up"), (6, "gamma_detector_missing"), (9, "neutron_detector_frozen")],
)
def test_a_condition_is_said_once_and_ends_with_the_next_counts(code, condition):
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    error = message(0xC0, bytes([code]) + b"why".ljust(50, b"\0"))
    assert driver.feed(error) == [DeviceState(condition=condition, active=True, detail="why")]
    assert driver.feed(error) == []
    readings = driver.feed(spectrum_reply())
    assert readings[0] == DeviceState(condition=condition, active=False)


def test_other_errors_are_refusals_with_the_devices_own_words():
    driver = Driver(Options())
    driver.feed(spectrum_reply())
    (refused,) = driver.feed(message(0xC0, b"\x05unknown component".ljust(51, b"\0")))
    assert refused.reason is Reason.DEVICE_ERROR
    assert refused.detail == "error 05: unknown component"


@pytest.mark.parametrize(
    ("codes", "found"),
    [
        ("unknown", NuclideFound(name="code 2", confidence=0.5, category=None)),
        ("from 0", NuclideFound(name="Cs-137", confidence=0.5, category="industrial")),
        ("from 1", NuclideFound(name="Ba-133", confidence=0.5, category="medical")),
    ],
)
def test_nuclides_stay_codes_until_their_numbering_is_set(codes, found):
    driver = Driver(Options(confirmation="standard", nuclide_codes=codes))
    records = struct.pack("<BBf", 2, 2, 0.5) + bytes(6)
    reply = message(0xEC, struct.pack("<IBH", 120, 0, 1) + records + bytes(48))
    assert driver.feed(reply) == [DeviceNuclides(nuclides=(found,))]
    assert driver.feed(reply) == []  # the same confirmation, not another


@pytest.mark.parametrize(("unit", "usv"), [("Sv/h", 2e6), ("mSv/h", 2e3), ("µSv/h", 2.0)])
def test_the_dose_rate_is_given_only_in_a_unit_that_was_set(unit, usv):
    layout = struct.pack("<IIIfffIIhfIIhfBB", 0, 1000, 0, 0, 2.0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 12, 0)
    reply = message(RADIOMETRICS, layout + bytes(8192))
    for options, expected in ((Options(dose_unit=unit), [usv]), (Options(), [])):
        driver = Driver(options)
        driver.feed(reply)
        rates = [r.usv_per_h for r in of(DoseRate, driver.feed(reply))]
        assert rates == pytest.approx(expected)


def test_a_live_time_longer_than_the_real_time_is_unknown():
    def reply(gamma_live):
        layout = struct.pack(
            "<IIIfffIIhfIIhfBB", 0, 1000, 0, 0, 0, 0, 999, 0, 0, 0, gamma_live, 0, 0, 0, 12, 0
        )
        return message(RADIOMETRICS, layout + bytes(8192))

    driver = Driver(Options())
    driver.feed(reply(900))
    found = [of(GammaSpectrum, driver.feed(reply(live)))[0] for live in (900, 0, 990_000)]
    assert [r.live_time_s for r in found] == [0.9, None, None]


@pytest.mark.parametrize("report", [SPECTRUM, RADIOMETRICS, STATUS, 0xEC, 0xFB])
def test_a_payload_of_another_size_is_refused(report):
    driver = Driver(Options())
    for size in (1, 9, 60, 8191):
        refused = of(BadFrame, driver.feed(message(report, b"\x01" * size)))
        assert [r.reason for r in refused] == [Reason.LENGTH]


# --- against the simulator ------------------------------------------------------------------

MODELS = [("D3S", "kromek-d3s"), ("D3M", "kromek-d3m"), ("D4", "kromek-d4"), ("D5", "kromek-d5")]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("model", "instrument"), MODELS)
def test_driver_and_device_agree_on_every_count(model, instrument, seed):
    print(f"seed={seed}")
    options = KromekOptions(model=instrument, answers_with_crc=bool(seed % 2))
    device = KromekDevice(scene(seed, instrument), options)
    truth = KromekDevice(scene(seed, instrument), options).spectrometer
    driver = Driver(Options(model=model, energy_kev=(0.0, 0.75)))
    readings, _ = conversed(driver, device, seconds=12)
    assert of(BadFrame, readings) == []
    spectra, neutrons = of(GammaSpectrum, readings), of(NeutronCounts, readings)
    assert len(spectra) == len(neutrons) >= 9
    # The last spectra end where the device was last asked, and nothing between them is lost.
    heard_s = sum(r.real_time_s for r in spectra)
    until_s = device.spectrometer.counted_until_s
    last_s = until_s - 0.5 if device.requests[-1] == STATUS else until_s
    truth.advance(last_s - heard_s)
    truth.take()
    truth.advance(last_s)
    counted = truth.take()
    assert np.array_equal(np.sum([r.counts for r in spectra], axis=0), counted.channels)
    assert sum(r.counts[0] for r in neutrons) == counted.neutrons
    if model != "D3S":
        assert sum(r.live_time_s for r in spectra) == pytest.approx(counted.live_time_s, abs=0.02)
    else:
        assert {r.live_time_s for r in spectra} == {None}
    battery = [r.value for r in of(Housekeeping, readings) if r.quantity == "battery"]
    assert battery
    assert set(battery) == {87.0}


def test_a_device_that_warms_up_says_so_and_then_counts():
    device = KromekDevice(scene(), KromekOptions(warm_up_s=5.0))
    readings, _ = conversed(Driver(Options(model="D4")), device, seconds=12)
    assert of(DeviceState, readings) == [
        DeviceState(condition="warming_up", active=True, detail="warming up"),
        DeviceState(condition="warming_up", active=False),
    ]
    assert RADIOMETRICS in device.requests
    assert SPECTRUM not in device.requests


def test_a_frozen_detector_is_a_condition_while_it_lasts():
    errors = (DeviceError(from_s=4.0, until_s=7.0, code=8, text="gamma frozen"),)
    device = KromekDevice(scene(), KromekOptions(errors=errors))
    readings, _ = conversed(Driver(Options(model="D4")), device, seconds=12)
    assert [r.active for r in of(DeviceState, readings)] == [True, False]
    # What it counted meanwhile comes with the next reply, and its real time says so.
    assert max(r.real_time_s for r in of(GammaSpectrum, readings)) == pytest.approx(4.0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("model", "instrument"), [MODELS[2], MODELS[3]])
def test_a_bad_line_loses_intervals_but_invents_no_counts(model, instrument, seed):
    print(f"seed={seed}")
    faults = Faults(
        flip_rate=3e-5, drop_rate=2e-5, double_rate=2e-5, split_to=700, garbage_rate=0.005
    )
    device = KromekDevice(scene(seed, instrument), KromekOptions(model=instrument))
    twin = KromekDevice(scene(seed, instrument), KromekOptions(model=instrument))
    readings, _ = conversed(
        Driver(Options(model=model)), device, seconds=40, faults=faults, seed=1000 * seed
    )
    right, _ = conversed(Driver(Options(model=model)), twin, seconds=40)
    spectra = of(GammaSpectrum, readings)
    assert of(BadFrame, readings)
    assert len(spectra) >= 12
    whole = [r.counts for r in of(GammaSpectrum, right)]
    one_second = [r.counts for r in spectra if r.real_time_s == pytest.approx(1.0)]
    assert set(one_second) <= set(whole)


async def through_the_link(serve, name, options, until):
    """Read a simulated device as the agent does, ten times as fast as life."""
    device = KromekDevice(scene(instrument=name), KromekOptions(model=name))
    port = await getattr(device, serve)(SceneClock(time_scale=10.0))
    config = DeviceConfig(
        name="spectrometer",
        kind="rpm",
        common=DeviceOptions(driver="rpm.kromek", port=port),
        driver=find("rpm.kromek"),
        driver_options=options,
        kind_options=RpmOptions(),
    )
    events = []
    clock = Clock(time_scale=10.0)
    link = make_link(config, clock=clock, sink=events.append, lines=Lines(clock))
    task = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            while not until([e.reading for e in events if isinstance(e, Timed)]):
                assert not task.done()
                await asyncio.sleep(0.01)
    finally:
        task.cancel()
        await asyncio.wait([task])
        await device.close()
    return events


@pytest.mark.parametrize("serve", ["serve_pty", "serve_tcp"])
@pytest.mark.parametrize(("model", "name"), [MODELS[0], MODELS[3]])
def test_the_agents_link_reads_the_device_on_a_serial_line_and_on_tcp(serve, model, name):
    options = Options(model=model, interval_s=2.0)
    events = asyncio.run(
        through_the_link(serve, name, options, lambda found: len(of(GammaSpectrum, found)) >= 3)
    )
    spectra = of(GammaSpectrum, [e.reading for e in events if isinstance(e, Timed)])
    assert all(len(r.counts) == 4096 and sum(r.counts) > 0 for r in spectra)
    assert [e.is_up for e in events if isinstance(e, LinkChange)] == [True]


def test_an_answer_that_is_still_coming_is_not_taken_for_none():
    """At 115200 baud a spectrum takes 0.7 s, more than the link waits."""
    driver = Driver(Options(model="D4"))
    driver.feed(spectrum_reply())
    driver.poll()
    while not driver.poll():
        pass
    reply = spectrum_reply()
    assert driver.feed(reply[:5000]) == []
    assert driver.no_reply() == []
    assert driver.poll() == b""
    assert len(of(GammaSpectrum, driver.feed(reply[5000:]))) == 1


def test_a_simulated_lane_has_the_panel_that_its_scene_sets():
    async def ports_of(name):
        lane = LaneSimulator(scene(instrument=name), time_scale=20.0)
        try:
            return await lane.start()
        finally:
            await lane.close()

    assert asyncio.run(ports_of("none")).spectrometer is None
    for name in ("kromek-d4", "rs-350"):
        assert asyncio.run(ports_of(name)).spectrometer.startswith("tcp://127.0.0.1:")
