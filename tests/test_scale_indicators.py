"""Seven makers' indicators: each driver against the independent simulator, and its pitfalls."""

from __future__ import annotations

import asyncio
import contextlib
import random
from decimal import Decimal

import pytest
from capture_files import good
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers.readings import BadFrame, Reason, Weight
from drivers.scale import (
    dini_argeo,
    flintec_bsi,
    radwag,
    rinstrum,
    sartorius,
    systec,
    yaohua,
)
from simulators.clock import SceneClock
from simulators.scale_indicators import (
    AskedScale,
    DiniAlibi,
    SystecMemory,
    TalkingScale,
    bsi_answer,
    dini_line,
    radwag_line,
    rinstrum_frame,
    sbi_line,
    yaohua_answer,
    yaohua_frame,
)
from simulators.weighbridge import Observation, Reading, Terminal, Weighbridge

SEEDS = range(4)
KG = {"kg": Decimal(1), "lb": Decimal("0.45359237"), "t": Decimal(1000), "g": Decimal("0.001")}
LIMIT_S = 5.0


def bridge_of(seed):
    """A truck drives on at 3 s and off at 12 s; one in three is over capacity."""
    load = random.Random(seed).uniform(3_000, 75_000)

    def load_kg(scene_s):
        return load * (min(max((scene_s - 3) / 2, 0), 1) - min(max((scene_s - 12) / 2, 0), 1))

    return Weighbridge(load_kg, seed=seed)


def shown_over(seed, *, unit="kg", tare=0):
    """What a terminal shows over 17 s, ten times a second."""
    print(f"seed={seed}")
    terminal = Terminal(bridge_of(seed), unit=unit, increment=None)
    terminal.tare = Decimal(tare)
    return [terminal.show(terminal.weighbridge.observe(tenth / 10)) for tenth in range(170)]


def shown(value, *, tare=0, moving=False, where="ok"):
    return Reading(
        value=Decimal(value),
        tare=Decimal(tare),
        is_net=tare != 0,
        in_motion=moving,
        range=where,
    )


def weights(readings):
    return [r for r in readings if isinstance(r, Weight)]


def reasons(readings):
    return [r.reason for r in readings if isinstance(r, BadFrame)]


def assert_true(weight, truth, unit, *, gross=False):
    """Compare with what the terminal showed; ``unit`` None where the frame cannot say it."""
    assert weight.range == truth.range
    if truth.range != "ok":
        assert (weight.value, weight.mass_kg) == (None, None)
        return
    value = truth.value + (truth.tare if gross else 0)
    assert Decimal(weight.value) == value
    assert weight.unit == unit
    assert weight.mass_kg == (None if unit is None else float(value * KG[unit]))


# --- Yaohua -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["stx", "a12"])
def test_yaohua_with_xor_agrees_with_the_simulator(seed, form):
    driver = yaohua.Driver(yaohua.Options(form=form, host_stable_frames=0))
    for truth in shown_over(seed, tare=400 * (seed % 2)):
        (weight,) = driver.feed(yaohua_frame(truth, form=form))
        assert weight.verified
        assert weight.stable is None
        if truth.range == "ok" or form == "a12":
            assert_true(weight, truth, "kg")
        else:
            assert (weight.range, weight.value) == ("unknown", None)
        if form == "a12" and truth.range == "ok":
            assert weight.mode == ("net" if truth.is_net else "gross")


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["reversed", "forward", "wn"])
@pytest.mark.parametrize("decimals", [0, 2])
def test_yaohua_without_xor_gives_only_true_figures(seed, form, decimals):
    truths = [t for t in shown_over(seed) if t.value >= 0 or form != "wn"]
    driver = yaohua.Driver(yaohua.Options(form=form, host_stable_frames=0, equal_frames=1))
    sent = b"".join(
        yaohua_frame(
            shown(t.value / 10**decimals if form != "wn" else t.value),
            form=form,
            decimals=decimals if form != "wn" else 0,
        )
        for t in truths
    )
    found = weights(driver.feed(sent + b"="))
    assert len(found) == len(truths)
    for weight, truth in zip(found, truths, strict=True):
        scale = 10**decimals if form != "wn" else 1
        assert Decimal(weight.value) == truth.value / scale
        assert not weight.verified


@pytest.mark.parametrize("seed", SEEDS)
def test_yaohua_command_mode_reads_gross_and_net(seed):
    for ask in ("gross", "net"):
        driver = yaohua.Driver(yaohua.Options(form="command", address="C", ask=ask))
        for truth in shown_over(seed, tare=1200):
            if truth.range != "ok":
                continue
            (weight,) = driver.feed(yaohua_answer(driver.poll(), truth, address="C"))
            assert weight.mode == ask
            assert_true(weight, truth, "kg", gross=ask == "gross")


def test_yaohua_host_calls_stable_only_what_stayed_and_says_that_it_was_the_host():
    for seed in SEEDS:
        driver = yaohua.Driver(yaohua.Options(host_stable_within=20.0))
        truths = shown_over(seed)
        for at, truth in enumerate(truths):
            (weight,) = driver.feed(yaohua_frame(truth, form="stx"))
            recent = truths[max(0, at - 9) : at + 1]
            if truth.range != "ok":
                assert (weight.stable, weight.stable_by) == (None, None)
            elif weight.stable:
                figures = [t.value for t in recent]
                assert len(figures) == 10
                assert max(figures) - min(figures) <= 20
            if weight.stable is not None:
                assert weight.stable_by == "host"


def test_yaohua_forward_refuses_a_negative_weight_sent_reversed():
    frames = yaohua_frame(shown("-1.00"), form="reversed", decimals=2) * 3 + b"="
    driver = yaohua.Driver(yaohua.Options(form="forward"))
    assert weights(driver.feed(frames)) == []


def test_yaohua_reversed_frame_counts_only_when_the_next_begins():
    driver = yaohua.Driver(yaohua.Options(form="reversed", equal_frames=1, host_stable_frames=0))
    assert driver.feed(b"=000.3000") == []
    (weight,) = driver.feed(b"=")
    assert weight.value == "3.000"


def test_yaohua_doubled_or_lost_character_never_moves_the_point():
    driver = yaohua.Driver(yaohua.Options(form="reversed", equal_frames=1, host_stable_frames=0))
    whole = b"=000.2430"
    for at in range(1, len(whole)):
        lost = whole[:at] + whole[at + 1 :]
        doubled = whole[:at] + whole[at : at + 1] + whole[at:]
        for damaged in (lost, doubled):
            found = weights(driver.feed(damaged + whole + b"="))
            assert [w.value for w in found] == ["342.000"]
            driver.silence()


def test_yaohua_answer_of_another_command_or_address_is_refused():
    driver = yaohua.Driver(yaohua.Options(form="command"))
    driver.poll()
    other = yaohua_answer(b"\x02AD05\x03", shown(40), address="A")
    assert reasons(driver.feed(other)) == [Reason.UNKNOWN]
    other = yaohua_answer(b"\x02BB00\x03", shown(40), address="B")
    assert reasons(driver.feed(other)) == [Reason.UNKNOWN]


def test_yaohua_blank_digits_are_no_zero():
    driver = yaohua.Driver(yaohua.Options())
    (weight,) = driver.feed(yaohua_frame(shown(0, where="over"), form="stx"))
    assert (weight.range, weight.value, weight.mass_kg, weight.stable) == (
        "unknown",
        None,
        None,
        None,
    )


def test_yaohua_lower_case_xor_digits_are_refused():
    frame = yaohua_frame(shown(12_340), form="stx").lower()
    assert reasons(yaohua.Driver(yaohua.Options()).feed(frame)) == [Reason.CHECKSUM]


# --- Dini Argeo -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unit", ["kg", "lb"])
def test_dini_argeo_agrees_with_the_simulator(seed, unit):
    driver = dini_argeo.Driver(dini_argeo.Options(equal_frames=1, address="07"))
    for truth in shown_over(seed, unit=unit, tare=600 * (seed % 2)):
        assert driver.poll() == b"07READ\r\n"
        (weight,) = driver.feed(dini_line(truth, unit=unit, address="07"))
        assert_true(weight, truth, unit)
        if truth.range == "ok":
            assert weight.stable is not truth.in_motion
            assert weight.mode == ("net" if truth.is_net else "gross")


@pytest.mark.parametrize("seed", range(8))
def test_dini_argeo_stores_each_load_at_rest_once_and_gives_the_stored_weight(seed):
    memory = DiniAlibi(first=998, rewritten=2)
    driver = dini_argeo.Driver(dini_argeo.Options(alibi=True))
    found = []
    truths = shown_over(seed)
    for truth in truths:
        request = driver.poll()
        answer = (
            memory.answer(truth, unit="kg")
            if request == b"PID\r\n"
            else dini_line(truth, unit="kg")
        )
        found += driver.feed(answer)
    stored = {w.alibi_id: Decimal(w.value) for w in weights(found) if w.alibi_id}
    assert stored == memory.kept
    assert all(w.stable and w.mode == "gross" for w in weights(found) if w.alibi_id)
    at_rest = {t.value for t in truths if not t.in_motion and t.range == "ok" and t.value > 400}
    assert len(stored) <= len(at_rest)
    assert bool(stored) == bool(at_rest)


def stored(driver, number="00000-000001", gross="38420"):
    """Bring a load to rest and store it."""
    line = f"ST,GS,{gross:>8},kg\r\n".encode()
    for _ in range(2):
        driver.poll()
        driver.feed(line)
    assert driver.poll() == b"PID\r\n"
    return driver.feed(f"PIDST,1,{gross:>10}kg,  {0:>10}kg,{number}\r\n".encode())


def dini_with_alibi():
    return dini_argeo.Driver(dini_argeo.Options(alibi=True, alibi_after=2))


def test_dini_argeo_never_sends_pid_unless_told_and_never_for_an_empty_platform():
    silent = dini_argeo.Driver(dini_argeo.Options())
    empty = dini_with_alibi()
    for _ in range(20):
        assert silent.poll() == empty.poll() == b"READ\r\n"
        silent.feed(b"ST,GS,   38420,kg\r\n")
        empty.feed(b"ST,GS,       0,kg\r\n")


def test_dini_argeo_repeated_or_earlier_alibi_number_is_refused():
    driver = dini_with_alibi()
    assert [w.alibi_id for w in weights(stored(driver))] == ["00000-000001"]
    driver.feed(b"US,GS,   39000,kg\r\n")
    assert reasons(stored(driver, gross="40000")) == [Reason.RANGE]


def test_dini_argeo_record_that_nobody_waits_for_is_refused():
    driver = dini_with_alibi()
    driver.poll()
    answer = DiniAlibi().answer(shown(38_420), unit="kg")
    assert reasons(driver.feed(answer)) == [Reason.UNKNOWN]


def test_dini_argeo_unanswered_pid_says_that_storing_is_not_known_and_is_tried_again():
    driver = dini_with_alibi()
    for _ in range(2):
        driver.poll()
        driver.feed(b"ST,GS,   38420,kg\r\n")
    assert driver.poll() == b"PID\r\n"
    (lost,) = driver.no_reply()
    assert lost.reason is Reason.NO_REPLY
    assert "not known" in lost.detail
    assert [w.alibi_id for w in weights(stored(driver))] == ["00000-000001"]


def test_dini_argeo_load_that_only_trembles_is_not_stored_twice():
    driver = dini_with_alibi()
    stored(driver)
    for _ in range(10):
        for line in (b"US,GS,   38440,kg\r\n", b"ST,GS,   38420,kg\r\n", b"ST,GS,   38420,kg\r\n"):
            assert driver.poll() == b"READ\r\n"
            driver.feed(line)


def test_dini_argeo_weight_kept_unstable_is_refused():
    driver = dini_with_alibi()
    for _ in range(2):
        driver.poll()
        driver.feed(b"ST,GS,   38420,kg\r\n")
    driver.poll()
    answer = b"PIDUS,1,     38420kg,           0kg,00000-000001\r\n"
    assert reasons(driver.feed(answer)) == [Reason.UNKNOWN]


def test_dini_argeo_listener_cannot_store():
    with pytest.raises(ValueError, match="a listener stores nothing"):
        dini_argeo.Options(alibi=True, request="none")


# --- Sartorius --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["16", "22"])
def test_sartorius_agrees_with_the_simulator_and_a_blank_unit_is_motion(seed, form):
    driver = sartorius.Driver(sartorius.Options(form=form, equal_frames=1))
    for truth in shown_over(seed, tare=600 * (seed % 2)):
        assert driver.poll() == b"\x1bP\r\n"
        (weight,) = driver.feed(sbi_line(truth, unit="kg", is_long=form == "22"))
        assert_true(weight, truth, None if truth.in_motion else "kg")
        if truth.range == "ok":
            assert weight.stable is not truth.in_motion
            mode = "net" if truth.is_net else "gross"
            assert weight.mode == ("unknown" if form == "16" else mode)


def test_sartorius_error_code_is_never_its_number():
    driver = sartorius.Driver(sartorius.Options(equal_frames=1))
    (weight,) = driver.feed(sbi_line(shown(0), unit="g", code="Err 054"))
    assert (weight.range, weight.value, weight.notes) == ("error", None, ("error 054",))
    (weight,) = driver.feed(sbi_line(shown(0), unit="g", code="C"))
    assert (weight.range, weight.value) == ("error", None)


def test_sartorius_line_of_the_other_length_is_refused_with_a_hint():
    for form, is_long in (("16", True), ("22", False)):
        driver = sartorius.Driver(sartorius.Options(form=form))
        line = sbi_line(shown(5), unit="g", is_long=is_long)
        readings = driver.feed(line * 3)
        assert reasons(readings) == [Reason.LENGTH] * 2  # the first may be the rest of one
        assert "see form" in readings[0].detail


# --- Systec -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unit", ["kg", "lb"])
def test_systec_agrees_with_the_simulator(seed, unit):
    memory = SystecMemory()
    driver = systec.Driver(systec.Options(equal_frames=1))
    for truth in shown_over(seed, unit=unit, tare=600 * (seed % 2)):
        command = driver.poll()[1:3].decode()
        assert command == "RM"
        (weight,) = driver.feed(memory.answer(command, truth, unit=unit))
        assert weight.alibi_id is None
        if truth.range != "ok":
            assert (weight.range, weight.value) == (truth.range, None)
            continue
        assert_true(weight, truth, unit, gross=True)
        assert weight.stable is not truth.in_motion
        assert weight.tare == ("600" if truth.is_net else None)


@pytest.mark.parametrize("seed", range(8))
def test_systec_stores_each_load_at_rest_once_under_date_time_and_ident(seed):
    memory = SystecMemory(first=17)
    driver = systec.Driver(systec.Options(alibi=True))
    found = []
    for truth in shown_over(seed):
        found += driver.feed(memory.answer(driver.poll()[1:3].decode(), truth, unit="kg"))
    kept = {w.alibi_id: Decimal(w.value) for w in weights(found) if w.alibi_id}
    assert kept == memory.kept
    assert all(w.stable for w in weights(found) if w.alibi_id)


def resting_systec():
    driver = systec.Driver(systec.Options(alibi=True, alibi_after=2))
    memory = SystecMemory()
    for _ in range(2):
        driver.poll()
        driver.feed(memory.answer("RM", shown(38_420), unit="kg"))
    assert driver.poll() == b"<RN1>"
    return driver, memory


def test_systec_is_asked_nothing_while_rn_waits_for_standstill():
    driver, memory = resting_systec()
    assert driver.poll() == b""
    (weight,) = driver.feed(memory.answer("RN", shown(38_420), unit="kg"))
    assert weight.alibi_id == "05.11.26 12:34 0001"
    assert driver.poll() == b"<RM1>"


def test_systec_late_answer_to_rm_is_no_record():
    driver, memory = resting_systec()
    (bad,) = driver.feed(memory.answer("RM", shown(38_400, moving=True), unit="kg"))
    assert bad.reason is Reason.RANGE


def test_systec_without_memory_module_gives_a_weight_without_number():
    driver, memory = resting_systec()
    answer = memory.answer("RM", shown(38_420), unit="kg", time="12:35")
    (weight,) = driver.feed(answer)
    assert (weight.alibi_id, weight.notes) == (None, ("no alibi memory",))


def test_systec_no_standstill_in_time_is_said_and_asked_again_later():
    driver, memory = resting_systec()
    assert reasons(driver.feed(b"<13>")) == [Reason.DEVICE_ERROR]
    for _ in range(2):
        assert driver.poll() == b"<RM1>"
        driver.feed(memory.answer("RM", shown(38_420), unit="kg"))
    assert driver.poll() == b"<RN1>"


def test_systec_damaged_figure_that_no_longer_adds_up_is_refused():
    whole = SystecMemory().answer("RM", shown(26_420, tare=12_000, moving=True), unit="kg")
    for at in range(23, 47):
        if not whole[at : at + 1].isdigit():
            continue
        damaged = bytearray(whole)
        damaged[at] ^= 1
        driver = systec.Driver(systec.Options())
        assert weights(driver.feed(bytes(damaged))) == []


# --- Rinstrum ---------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("form", ["a", "b"])
def test_rinstrum_agrees_with_the_simulator(seed, form):
    driver = rinstrum.Driver(rinstrum.Options(form=form, equal_frames=1))
    for truth in shown_over(seed, tare=600 * (seed % 2)):
        (weight,) = driver.feed(rinstrum_frame(truth, unit="kg", is_long=form == "b"))
        assert_true(weight, truth, None if form == "b" and truth.in_motion else "kg")
        assert weight.stable is (None if form == "a" else not truth.in_motion)


def test_rinstrum_traffic_light_is_no_sign_and_the_minus_stands_in_the_figure():
    driver = rinstrum.Driver(rinstrum.Options(lights=True, equal_frames=1))
    for light in (0x20, 0x30, 0x60):
        (weight,) = driver.feed(rinstrum_frame(shown(-40), unit="kg", light=light))
        assert weight.value == "-40"
    plain = rinstrum.Driver(rinstrum.Options(equal_frames=1))
    assert reasons(plain.feed(rinstrum_frame(shown(40), unit="kg", light=0x30))) == [Reason.SYNTAX]


# --- Radwag -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unit", ["kg", "lb"])
def test_radwag_agrees_with_the_simulator(seed, unit):
    driver = radwag.Driver(radwag.Options(equal_frames=1))
    for truth in shown_over(seed, unit=unit):
        assert driver.poll() == b"SI\r\n"
        (weight,) = driver.feed(radwag_line(truth, unit=unit))
        assert_true(weight, truth, unit)
        if truth.range == "ok":
            assert weight.stable is not truth.in_motion


def test_radwag_accepted_is_no_reading_and_mt_sics_is_refused():
    driver = radwag.Driver(radwag.Options(command="S", equal_frames=1))
    driver.poll()
    assert driver.feed(b"S A\r\n") == []
    assert len(driver.no_reply()) == 1  # accepted, but the frame never came
    driver.feed(radwag_line(shown(5), unit="kg", command="S"))
    assert reasons(driver.feed(b"S S     100.00 g\r\n")) == [Reason.SYNTAX]


# --- Flintec ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_flintec_agrees_with_the_simulator(seed):
    driver = flintec_bsi.Driver(flintec_bsi.Options())
    for truth in shown_over(seed):
        if truth.range == "ok":
            (weight,) = driver.feed(bsi_answer(driver.poll(), truth))
            assert_true(weight, truth, "kg")
            assert (weight.verified, weight.stable) == (True, None)


def test_flintec_letter_that_nobody_confirmed_is_refused_and_not_guessed():
    line = b"01PM+000123.4" + b"4F\r\n"  # M is 6 less than S, so the checksum is 6 more
    assert reasons(flintec_bsi.Driver(flintec_bsi.Options()).feed(line)) == [Reason.UNKNOWN]


# --- all --------------------------------------------------------------------------------------

KG_LINES = {
    "yaohua": (yaohua.Driver, yaohua.Options(host_stable_frames=0)),
    "dini": (dini_argeo.Driver, dini_argeo.Options()),
    "sartorius": (sartorius.Driver, sartorius.Options()),
    "systec": (systec.Driver, systec.Options()),
    "rinstrum": (rinstrum.Driver, rinstrum.Options()),
    "radwag": (radwag.Driver, radwag.Options()),
}


def encoded(name, truth):
    match name:
        case "yaohua":
            return yaohua_frame(truth, form="stx")
        case "dini":
            return dini_line(truth, unit="kg")
        case "sartorius":
            return sbi_line(truth, unit="kg")
        case "systec":
            return SystecMemory().answer("RM", truth, unit="kg")
        case "rinstrum":
            return rinstrum_frame(truth, unit="kg")
        case _:
            return radwag_line(truth, unit="kg")


@pytest.mark.parametrize("name", sorted(KG_LINES))
@settings(max_examples=30, deadline=None)
@given(value=st.integers(-99_999, 999_999))
def test_any_figure_at_rest_comes_through_exactly_and_only_by_vote(name, value):
    make, options = KG_LINES[name]
    driver = make(options)
    sent = encoded(name, shown(value))
    first, second = weights(driver.feed(sent)), weights(driver.feed(sent))
    assert len(first) == (1 if name == "yaohua" else 0)
    assert [Decimal(w.value) for w in second] == [value]
    assert second[0].mass_kg == float(value)


@pytest.mark.parametrize("name", sorted(KG_LINES))
def test_a_pause_inside_a_frame_never_joins_old_head_and_new_tail(name):
    make, options = KG_LINES[name]
    old, new = encoded(name, shown(11_100)), encoded(name, shown(22_240))
    for cut in range(1, len(old)):
        driver = make(options)
        assert driver.feed(old[:cut]) == []
        driver.silence()
        found = weights(driver.feed(new[cut:] + new * 2))
        assert {w.value for w in found} == {"22240"}


@pytest.mark.parametrize("name", sorted(KG_LINES))
def test_start_in_mid_frame_is_no_fault_and_gives_no_value(name):
    make, options = KG_LINES[name]
    one = encoded(name, shown(22_240))
    for offset in range(1, len(one)):
        readings = make(options).feed(one[offset:] + one * 3)
        assert {w.value for w in weights(readings)} == {"22240"}
        assert readings == good(readings)


def at_rest(kg):
    return Observation(scene_s=1.0, sensed_kg=kg, displayed_kg=kg, in_motion=False, range="ok")


def test_simulated_terminals_talk_and_answer_on_the_wire():
    async def run():
        bridge = Weighbridge(lambda _: 38_420.0, seed=3)
        talker = TalkingScale(bridge, lambda reading: yaohua_frame(reading, form="stx"))
        asked = AskedScale(
            bridge,
            lambda _, reading: dini_line(reading, unit="kg"),
            request=rb"READ\r\n",
        )
        assert talker.frame(at_rest(38_420.0)) == b"\x02+038420016\x03"
        clock = SceneClock(time_scale=20.0)
        addresses = [await talker.serve_tcp(clock), await asked.serve_tcp(clock)]
        streams = []
        for address in addresses:
            host, port = address.removeprefix("tcp://").split(":")
            streams.append(await asyncio.open_connection(host, int(port)))
        try:
            async with asyncio.timeout(LIMIT_S):
                assert (await streams[0][0].readexactly(24))[:2] == b"\x02+"
                for _ in range(2):
                    streams[1][1].write(b"READ\r\n")
                    line = await streams[1][0].readuntil(b"\r\n")
                    assert line.endswith(b",kg\r\n")
        finally:
            for _, writer in streams:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()
            await talker.close()
            await asked.close()

    asyncio.run(run())
