"""Weighbridge, its terminals and the walk-through detector against the vendors' own forms."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import struct
import termios
import tty
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulators.clock import SceneClock
from simulators.metal import ALARM, ENTERED, LEFT, RANDOM, MetalWalk, WalkThrough
from simulators.ports import PtyPort
from simulators.scales import (
    Observation,
    Reading,
    SicsScale,
    ToledoForm,
    ToledoScale,
    Weighbridge,
    toledo_frame,
)

LIMIT_S = 5.0
TRUCK_KG = 38_412.0


def truck(scene_s):
    """A truck drives on from 10 s to 13 s, stands, and drives off from 40 s to 43 s."""
    return TRUCK_KG * min(1.0, max(0.0, (scene_s - 10) / 3), max(0.0, (43 - scene_s) / 3))


def shown(value, *, tare=0, moving=False, where="ok"):
    return Reading(
        value=Decimal(value),
        tare=Decimal(tare),
        is_net=tare != 0,
        in_motion=moving,
        range=where,
    )


def frame(reading, increment=1, unit="kg", **form):
    return toledo_frame(reading, increment=Decimal(increment), unit=unit, form=ToledoForm(**form))


# --- platform -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_empty_platform_stays_within_a_quarter_interval_and_shows_zero(seed):
    bridge = Weighbridge(lambda _: 0.0, seed=seed)
    seen = [bridge.observe(0.5 * n) for n in range(4000)]
    assert max(abs(one.sensed_kg) for one in seen) <= 20.0 / 4
    assert {one.displayed_kg for one in seen} == {0.0}
    assert not any(one.in_motion for one in seen)
    drift = [one.sensed_kg for one in seen]
    assert max(drift) - min(drift) > 1.0  # it does drift


@pytest.mark.parametrize("seed", range(20))
def test_truck_swings_then_settles_within_half_an_interval_and_leaves_zero(seed):
    bridge = Weighbridge(truck, seed=seed)
    seen = [bridge.observe(0.1 * n) for n in range(500)]
    assert all(one.in_motion for one in seen if 10.5 < one.scene_s < 13.0)
    assert max(one.sensed_kg for one in seen) > TRUCK_KG + 100  # overshoot
    plateau = [one for one in seen if 16.5 < one.scene_s < 40.0]
    assert not any(one.in_motion for one in plateau)
    assert {one.displayed_kg for one in plateau} <= {38_400.0, 38_420.0}
    # Nothing may be called stable that is not within an interval of what the truck weighs.
    assert all(
        one.in_motion or abs(one.sensed_kg - TRUCK_KG) <= 20.0
        for one in seen
        if 10.5 < one.scene_s < 40.0
    )
    assert all(one.range == "ok" for one in seen)
    assert seen[-1].displayed_kg == 0.0


def test_weights_depend_on_seed_and_time_alone():
    often = Weighbridge(truck, seed=7)
    seldom = Weighbridge(truck, seed=7)
    for n in range(1, 1400):
        often.observe(0.01 * n)
    assert often.observe(14.0) == seldom.observe(14.0)
    late = Weighbridge(truck, seed=7)
    for n in range(100):
        often.observe(14.0 + 0.2 * n)
    assert often.observe(39.0).sensed_kg == pytest.approx(late.observe(39.0).sensed_kg, abs=1e-6)
    assert Weighbridge(truck, seed=8).observe(14.0) != Weighbridge(truck, seed=7).observe(14.0)


def test_range_follows_capacity_and_interval():
    for load, where in (
        (60_170.0, "ok"),
        (60_190.0, "over"),
        (-390.0, "ok"),
        (-410.0, "under"),
    ):
        observed = Weighbridge(lambda _, load=load: load, seed=1).observe(5.0)
        assert observed.range == where, load


def test_observing_the_past_is_refused():
    bridge = Weighbridge(truck, seed=1)
    bridge.observe(5.0)
    with pytest.raises(ValueError, match=r"observed at 4\.000 s after 5\.000 s"):
        bridge.observe(4.0)


# --- Toledo -------------------------------------------------------------------------------------


def test_toledo_frames_to_the_byte():
    assert frame(shown(12_340)) == b"\x02\x2a\x30\x20 12340000000\x0d\x3d"
    assert frame(shown(-120, tare=12_000, moving=True)) == (b"\x02\x2a\x3b\x20   120 12000\x0d\x66")


@pytest.mark.parametrize(
    ("increment", "status_a", "value", "digits"),
    [
        (20, 0x31, 12_340, b"  1234"),  # x10, build 2
        (5, 0x3A, 12_345, b" 12345"),  # x1, build 5
        ("0.01", 0x2C, "12.34", b"  1234"),  # x0.01, build 1
        (500, 0x38, 12_500, b"   125"),  # x100, build 5
        ("0.00005", 0x3F, "1.23455", b"123455"),
        (10, 0x29, 0, b"     0"),
    ],
)
def test_toledo_increment_sets_decimal_factor_and_build(increment, status_a, value, digits):
    sent = frame(shown(value), increment)
    assert (sent[1], sent[4:10]) == (status_a, digits)


@pytest.mark.parametrize("increment", [0, 3, 25, -2, 1000, "0.000005"])
def test_an_increment_no_status_byte_can_say_is_refused(increment):
    with pytest.raises(
        ValueError, match=r"expected 1, 2 or 5 times a power of ten|status A can say"
    ):
        frame(shown(0), increment)


def test_toledo_short_form_and_no_checksum_have_their_lengths():
    lengths = {
        (short, checksum): len(frame(shown(5), short=short, checksum=checksum))
        for short in (False, True)
        for checksum in (False, True)
    }
    assert lengths == {(False, False): 17, (False, True): 18, (True, False): 11, (True, True): 12}
    assert frame(shown(12_340), short=True, checksum=False) == b"\x02\x2a\x30\x20 12340\x0d"


def test_toledo_status_b_bits():
    assert frame(shown(5), unit="lb")[2] == 0x20
    assert frame(shown(5), constant_bit=False)[2] == 0x10
    over = frame(shown(0, where="over"))
    assert (over[2], over[4:10]) == (0x34, b" " * 6)
    assert frame(shown(-999, where="under"))[2] == 0x36
    assert frame(shown(1_000_000))[2] == 0x34  # does not fit into six digits


@given(
    value=st.integers(-99_999, 999_999),
    tare=st.integers(0, 999_999),
    moving=st.booleans(),
    parity=st.sampled_from(["none", "even", "odd"]),
)
def test_toledo_sums_to_zero_and_carries_its_parity(value, tare, moving, parity):
    sent = frame(shown(value, tare=tare, moving=moving), parity=parity)
    assert len(sent) == 18
    assert sum(byte & 0x7F for byte in sent) & 0x7F == 0
    if parity == "none":
        assert all(byte < 0x80 for byte in sent)
    else:
        assert {byte.bit_count() % 2 for byte in sent} == {0 if parity == "even" else 1}


def at_rest(kg):
    return Observation(
        scene_s=1.0, sensed_kg=kg, displayed_kg=round(kg / 20) * 20, in_motion=False, range="ok"
    )


def test_toledo_commands_tare_zero_clear_and_print():
    scale = ToledoScale(Weighbridge(lambda _: 0.0, seed=1), zero_captured=False)
    assert scale.frame(at_rest(0.0))[2] == 0x70
    scale.obey(ord("Z"), at_rest(30.0))
    assert (scale.zero_kg, scale.frame(at_rest(30.0))[2]) == (30.0, 0x30)
    scale.obey(ord("T"), at_rest(12_030.0))
    assert scale.frame(at_rest(38_030.0))[1:16] == b"\x31\x31\x20  2600  1200"[:15]
    scale.obey(ord("C"), at_rest(38_030.0))
    scale.obey(ord("P"), at_rest(38_030.0))
    assert scale.frame(at_rest(38_030.0))[2:10] == b"\x30\x28  3800"
    assert scale.frame(at_rest(38_030.0))[3] == 0x20
    scale.obey(ord("Z"), at_rest(2_000.0))  # beyond 2 % of capacity
    moving = Observation(
        scene_s=1.0, sensed_kg=500.0, displayed_kg=500.0, in_motion=True, range="ok"
    )
    scale.obey(ord("T"), moving)
    assert (scale.zero_kg, scale.tare) == (30.0, 0)


def test_toledo_in_pounds_shows_pounds():
    scale = ToledoScale(Weighbridge(lambda _: 0.0, seed=1), unit="lb")
    sent = scale.frame(at_rest(38_000.0))  # 83,775.66 lb, by 50 lb 83,800
    assert (sent[1], sent[2] & 0x10, sent[4:10]) == (0x39, 0, b"  8380")


# --- on the wire --------------------------------------------------------------------------------


def test_toledo_streams_whole_frames_on_a_pseudo_terminal_and_obeys():
    async def run():
        scale = ToledoScale(Weighbridge(truck, seed=3))
        path = await scale.serve_pty(SceneClock(time_scale=20.0))
        fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(fd)
        data = bytearray()
        arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(fd, arrived.set)

        async def read_until(pattern):
            async with asyncio.timeout(LIMIT_S):
                while not re.search(pattern, data):
                    await arrived.wait()
                    arrived.clear()
                    with contextlib.suppress(BlockingIOError):
                        data.extend(os.read(fd, 4096))

        await read_until(rb"\x02\x31\x30\x20     0000000\r")
        await read_until(rb"\x02\x31\x38\x20......000000\r")
        await read_until(rb"\x02\x31\x30\x20  384[0-2]000000\r")
        os.write(fd, b"T")
        await read_until(rb"\x02\x31\x31\x20     0  384[0-2]\r")
        await read_until(rb"\x02\x31\x33\x20  384[0-2]  384[0-2]\r")  # net, negative, at rest
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)
        await scale.close()

    asyncio.run(run())


def test_an_unread_serial_line_loses_its_oldest_bytes_and_keeps_the_newest():
    class Deaf:
        def received(self, data):
            pass

        def closed(self):
            pass

    async def run():
        port = PtyPort(lambda _: Deaf())
        fd = os.open(port.path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(fd)

        def unread():
            return struct.unpack("i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]

        async with asyncio.timeout(LIMIT_S):
            for number in range(30):
                before = unread()
                port.send(b"%02d" % number * 150)
                while unread() == before:  # noqa: ASYNC110 - the kernel tells nobody when
                    await asyncio.sleep(0)
        data = os.read(fd, 10_000)
        assert data.endswith(b"29" * 150)
        assert 300 <= len(data) <= 2048 + 300
        os.close(fd)
        port.close()
        port.send(b"to nobody")

    asyncio.run(run())


async def connect(address):
    host, port = address.removeprefix("tcp://").split(":")
    return await asyncio.open_connection(host, int(port))


def with_sics(load_kg, play, *, time_scale=20.0, **options):
    async def run():
        scale = SicsScale(Weighbridge(load_kg, seed=3), **options)
        reader, writer = await connect(await scale.serve_tcp(SceneClock(time_scale=time_scale)))

        async def ask(text=None, lines=1):
            if text is not None:
                writer.write(text if isinstance(text, bytes) else text.encode() + b"\r\n")
            async with asyncio.timeout(LIMIT_S):
                found = [(await reader.readuntil(b"\r\n"))[:-2].decode() for _ in range(lines)]
            return found[0] if lines == 1 else found

        try:
            async with asyncio.timeout(3 * LIMIT_S):
                await play(ask, scale)
        finally:
            writer.close()
            await scale.close()

    asyncio.run(run())


def test_sics_answers_the_weight_and_the_identity():
    async def play(ask, scale):
        assert await ask("SI") == "S S      38420 kg"
        assert await ask("S") == "S S      38420 kg"
        assert await ask("I1") == 'I1 A "01" "2.00" "2.00"'
        assert await ask("I2") == 'I2 A "Weighbridge 60000 kg"'
        assert await ask("I3") == 'I3 A "1.00"'
        assert await ask("I4") == 'I4 A "B021002593"'
        assert await ask("@") == 'I4 A "B021002593"'
        listed = await ask("I0", lines=13)
        assert listed[0] == 'I0 B 0 "@"'
        assert all(re.fullmatch(r'I0 B [01] "[A-Z0-9@]+"', line) for line in listed[:-1])
        assert listed[-1] == 'I0 A 1 "TAC"'

    with_sics(lambda _: 38_416.0, play, serial="B021002593")


def test_sics_value_field_has_ten_characters_and_its_decimals():
    scale = SicsScale(Weighbridge(lambda _: 0.0, e_kg=0.01, seed=1))
    assert scale.weight_text(Decimal("100.00")) == "    100.00 kg"
    assert scale.weight_text(Decimal("-0.02")) == "     -0.02 kg"
    assert SicsScale(Weighbridge(truck, seed=1)).weight_text(Decimal(-40)) == "       -40 kg"


def test_sics_errors_by_their_kind():
    async def play(ask, scale):
        assert await ask("HELLO") == "ES"
        assert await ask("si") == "ES"
        assert await ask("SI 5") == "EL"
        assert await ask(b"S\xc9\r\n") == "ET"
        assert await ask("\x07SI") == "ES"
        assert await ask(b"x" * 5000 + b"\r\n") == "ES"
        assert await ask(b"\r\nSI\r\n") == "S S          0 kg"

    with_sics(lambda _: 0.0, play)


@pytest.mark.parametrize(("load", "sign"), [(61_000.0, "+"), (-500.0, "-")])
def test_sics_out_of_range_says_its_sign_and_no_number(load, sign):
    async def play(ask, scale):
        for command in ("SI", "S", "SIR"):
            assert await ask(command) == f"S {sign}"

    with_sics(lambda _: load, play)


def swinging(scene_s):
    return 10_000.0 + 4_000.0 * (int(scene_s) % 2)


def test_sics_in_motion_is_dynamic_or_refused_after_the_wait():
    async def play(ask, scale):
        for command, refusal in (("S", "S I"), ("Z", "Z I"), ("T", "T I")):
            assert await ask(command) == refusal
        assert re.fullmatch(r"S D [ \d]{10} kg", await ask("SI"))

    with_sics(swinging, play, stability_timeout_s=4.0)


def test_sics_waits_for_rest_and_a_new_command_ends_the_wait():
    async def play(ask, scale):
        assert await ask("S") == "S I"
        assert re.fullmatch(r"S D [ \d]{10} kg", await ask(b"S\r\nSI\r\n"))
        # Had the S still waited, its answer would come before this one.
        assert await ask(b"S\r\nI3\r\n") == 'I3 A "1.00"'

    with_sics(swinging, play, stability_timeout_s=2.0)


def test_sics_repeats_until_told_otherwise():
    async def play(ask, scale):
        lines = await ask("SIR", lines=40)
        assert {line[:4] for line in lines} == {"S S "}
        writer_stops = await ask("@")
        while writer_stops.startswith("S S"):
            writer_stops = await ask()
        assert writer_stops == 'I4 A "0123456789"'
        assert await ask("I3") == 'I3 A "1.00"'  # nothing more of SIR before it

    with_sics(lambda _: 500.0, play)


def test_sics_follows_a_truck_on_change():
    async def play(ask, scale):
        assert await ask("SR") == "S S          0 kg"
        assert re.fullmatch(r"S D [ \d]{10} kg", await ask())
        assert re.fullmatch(r"S S      384[0-2]0 kg", await ask())
        assert re.fullmatch(r"S D [ \d]{10} kg", await ask())
        assert await ask() == "S S          0 kg"

    with_sics(truck, play)


def test_sics_sets_zero_and_tare_within_their_limits():
    load = [100.0]

    async def play(ask, scale):
        assert await ask("Z") == "Z A"
        assert await ask("SI") == "S S          0 kg"
        assert await ask("T") == "T -"  # nothing on it to tare
        load[0] = 12_100.0
        while await ask("SI") != "S S      12000 kg":
            pass
        assert await ask("T") == "T S      12000 kg"
        assert await ask("S") == "S S          0 kg"
        assert await ask("Z") == "Z +"
        assert await ask("TAC") == "TAC A"
        assert await ask("S") == "S S      12000 kg"

    with_sics(lambda _: load[0], play)


# --- metal --------------------------------------------------------------------------------------


def test_passage_relays_tell_the_direction_and_only_metal_closes_the_alarm_relay():
    walks = [
        MetalWalk(at_s=10.0, direction="in", has_metal=True),
        MetalWalk(at_s=20.0, direction="out", has_metal=False),
        MetalWalk(at_s=30.0, direction="in", has_metal=False, is_random=True),
    ]
    detector = WalkThrough(walks)

    def rises(channel):
        found, before = [], False
        for tick in range(4000):
            detector.update(tick / 100)
            now = detector.unit.discrete[channel]
            if now and not before:
                found.append(tick / 100)
            before = now
        return found

    assert rises(ENTERED) == [pytest.approx(at_s, abs=0.011) for at_s in (10.4, 30.4)]
    assert rises(LEFT) == [pytest.approx(20.4, abs=0.011)]
    assert rises(ALARM) == [pytest.approx(10.4, abs=0.011)]
    assert rises(RANDOM) == [pytest.approx(30.4, abs=0.011)]


def test_alarm_relay_holds_and_counters_catch_what_polls_miss():
    detector = WalkThrough(
        [MetalWalk(at_s=t, direction="in", has_metal=True) for t in (10.0, 10.5, 20.0)],
        hold_s=1.0,
        counters_begin_at=0xFFFF_FFFF,
    )
    for scene_s, is_alarm, count in (
        (10.3, False, 0xFFFF_FFFF),
        (11.8, True, 0),  # held on by the second walk: one closing
        (12.0, False, 0),
        (30.0, False, 1),
    ):
        detector.update(scene_s)
        words = detector.unit.input
        assert (words[0x10] << 16 | words[0x11], bool(words[0x30] & 1)) == (count, is_alarm)


def test_a_detector_that_is_not_ready_says_so_and_misses_metal():
    walk = MetalWalk(at_s=10.0, direction="in", has_metal=True)
    detector = WalkThrough([walk], not_ready=[(9.0, 12.0)])
    words = {}
    for scene_s in (5.0, 10.5, 12.5):
        detector.update(scene_s)
        words[scene_s] = detector.unit.input[0x30] & 0b11
    assert words == {5.0: 0b10, 10.5: 0b00, 12.5: 0b10}


def test_the_input_module_answers_on_both_wires():
    async def run():
        walk = MetalWalk(at_s=-1.0, direction="in", has_metal=True)
        detector = WalkThrough([walk], unit_id=5, hold_s=1e6)
        clock = SceneClock()
        reader, writer = await connect(await detector.serve_tcp(clock))
        for request, reply in (
            ("0001 0000 0006 05 02 0000 0008", "0001 0000 0004 05 02 01 03"),
            ("0002 0000 0006 05 04 0010 0004", "0002 0000 000B 05 04 08 00000001 00000001"),
            ("0003 0000 0006 05 04 0030 0001", "0003 0000 0005 05 04 02 0003"),
        ):
            writer.write(bytes.fromhex(request))
            expected = bytes.fromhex(reply)
            assert await asyncio.wait_for(reader.readexactly(len(expected)), LIMIT_S) == expected
        writer.close()
        fd = os.open(await detector.serve_pty(clock), os.O_RDWR | os.O_NOCTTY)
        tty.setraw(fd)
        os.write(fd, bytes.fromhex("05 02 0000 0008 7848"))
        reply = await asyncio.to_thread(os.read, fd, 64)
        assert reply[:4] == bytes.fromhex("05 02 01 03")
        os.close(fd)
        await detector.close()

    asyncio.run(run())
