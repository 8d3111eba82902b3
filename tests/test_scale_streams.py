"""Eight more scales: each driver against the independent simulator, and its pitfalls."""

from __future__ import annotations

import asyncio
import random
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drivers import weighing
from drivers.readings import BadFrame, Reason, Weight
from drivers.scale import a_and_d, cardinal, cas, nci, ohaus, rice_lake, sma, toledo_demand
from simulators.clock import SceneClock
from simulators.scale_indicators import AskedScale
from simulators.scale_streams import (
    AndForm,
    and_line,
    cardinal_line,
    cas_line,
    cas_short_line,
    demand_answer,
    nci_answer,
    ohaus_answer,
    ohaus_line,
    rice_lake_frame,
    sma_answer,
    sma_frame,
)
from simulators.weighbridge import Reading, Terminal, Weighbridge

SEEDS = range(4)
KG = {"kg": Decimal(1), "lb": Decimal("0.45359237")}
LIMIT_S = 5.0


def bridge_of(seed):
    """A truck drives on at 3 s and off at 12 s; one in three is over capacity."""
    load = random.Random(seed).uniform(3_000, 75_000)

    def load_kg(scene_s):
        return load * (min(max((scene_s - 3) / 2, 0), 1) - min(max((scene_s - 12) / 2, 0), 1))

    return Weighbridge(load_kg, seed=seed)


def shown_over(seed, *, unit="kg", decimals=0):
    """What a terminal shows over 17 s, ten times a second; with tare for odd seeds."""
    print(f"seed={seed}")
    terminal = Terminal(bridge_of(seed), unit=unit, increment=None)
    terminal.tare = Decimal(1200 * (seed % 2))
    found = [terminal.show(terminal.weighbridge.observe(tenth / 10)) for tenth in range(170)]
    return [
        Reading(
            value=truth.value.scaleb(-decimals),
            tare=truth.tare,
            is_net=truth.is_net,
            in_motion=truth.in_motion,
            range=truth.range,
        )
        for truth in found
    ]


def shown(value, *, tare=0, moving=False, where="ok"):
    return Reading(
        value=Decimal(value), tare=Decimal(tare), is_net=tare != 0, in_motion=moving, range=where
    )


def weights(readings):
    return [r for r in readings if isinstance(r, Weight)]


def reasons(readings):
    return [r.reason for r in readings if isinstance(r, BadFrame)]


def assert_true(weight, truth, unit, *, has_mode=True):
    """Compare one reading, with all that the protocol says, with what the terminal showed."""
    assert not weight.verified
    assert weight.range == truth.range
    if truth.range != "ok":
        assert (weight.value, weight.mass_kg) == (None, None)
        return
    assert Decimal(weight.value) == truth.value
    assert weight.unit == unit
    assert weight.mass_kg == float(truth.value * KG[unit])
    assert weight.stable is not truth.in_motion
    mode = "net" if truth.is_net else "gross"
    assert weight.mode == (mode if has_mode else "unknown")


def each_seed_and_unit(function):
    with_units = pytest.mark.parametrize(("unit", "decimals"), [("kg", 0), ("lb", 0), ("kg", 2)])
    return pytest.mark.parametrize("seed", SEEDS)(with_units(function))


# --- driver and simulator agree -----------------------------------------------------------------


@each_seed_and_unit
def test_sma_agrees_with_the_simulator(seed, unit, decimals):
    driver = sma.Driver(sma.Options(equal_frames=1))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        (weight,) = driver.feed(sma_answer(driver.poll(), truth, unit=unit, decimals=decimals))
        assert_true(weight, truth, unit)


@each_seed_and_unit
def test_cas_agrees_with_the_simulator(seed, unit, decimals):
    driver = cas.Driver(cas.Options(equal_frames=1, device_id=seed + 1))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        line = cas_line(truth, unit=unit, decimals=decimals, device=seed + 1)
        (weight,) = driver.feed(line)
        if truth.range == "under":  # OL and a minus: which of them is not documented
            assert (weight.range, weight.value) == ("unknown", None)
        else:
            assert_true(weight, truth, unit)


@pytest.mark.parametrize("seed", SEEDS)
def test_cas_short_line_gives_true_figures_and_neither_rest_nor_mode(seed):
    driver = cas.Driver(cas.Options(form="10", weight_unit="kg", equal_frames=1))
    for truth in shown_over(seed, decimals=1):
        (weight,) = driver.feed(cas_short_line(truth, decimals=1))
        assert Decimal(weight.value) == truth.value
        assert (weight.stable, weight.stable_by, weight.mode) == (None, None, "unknown")


@each_seed_and_unit
@pytest.mark.parametrize(
    ("form", "options"),
    [
        (AndForm(), {}),
        (AndForm(overload="9"), {}),
        (AndForm(unit_width=3, mark=","), {"unit_width": 3, "decimal_mark": "comma"}),
        (AndForm(is_balance=True), {"form": "balance"}),
        (AndForm(is_balance=True, csv=True), {"form": "balance", "comma_before_unit": True}),
    ],
    ids=["blank", "nines", "comma", "balance", "csv"],
)
def test_a_and_d_agrees_with_the_simulator(seed, unit, decimals, form, options):
    driver = a_and_d.Driver(a_and_d.Options(equal_frames=1, **options))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        (weight,) = driver.feed(and_line(truth, unit=unit, decimals=decimals, form=form))
        assert_true(weight, truth, unit, has_mode=not form.is_balance)


@each_seed_and_unit
@pytest.mark.parametrize("end", [b"\r\n", b"\r"])
def test_rice_lake_agrees_with_the_simulator(seed, unit, decimals, end):
    driver = rice_lake.Driver(rice_lake.Options(equal_frames=1))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        (weight,) = driver.feed(rice_lake_frame(truth, unit=unit, decimals=decimals, end=end))
        assert_true(weight, truth, unit)


@each_seed_and_unit
def test_cardinal_agrees_with_the_simulator(seed, unit, decimals):
    driver = cardinal.Driver(cardinal.Options(equal_frames=1, decimals=bool(decimals)))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        (weight,) = driver.feed(cardinal_line(truth, unit=unit, decimals=decimals))
        assert_true(weight, truth, unit)


@each_seed_and_unit
def test_ohaus_agrees_with_the_simulator(seed, unit, decimals):
    driver = ohaus.Driver(ohaus.Options(equal_frames=1))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        answer = ohaus_answer(driver.poll(), truth, unit=unit, decimals=decimals)
        if truth.range != "ok":
            driver.feed(ohaus_line(shown(0), unit=unit))
            assert reasons(driver.feed(answer)) == [Reason.SYNTAX]
            continue
        (weight,) = driver.feed(answer)
        assert_true(weight, truth, unit)


@each_seed_and_unit
@pytest.mark.parametrize("status_bytes", [2, 3, 4])
def test_nci_agrees_with_the_simulator(seed, unit, decimals, status_bytes):
    third = "net-and-zero" if status_bytes > 2 else "not-read"
    driver = nci.Driver(nci.Options(equal_frames=1, third_status=third))
    for truth in shown_over(seed, unit=unit, decimals=decimals):
        answer = nci_answer(
            driver.poll(),
            truth,
            unit=unit,
            decimals=decimals,
            status_bytes=status_bytes,
            always_more=bool(seed % 2),
        )
        (weight,) = driver.feed(answer)
        assert_true(weight, truth, unit, has_mode=status_bytes > 2)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("request_", ["W", "H"])
@pytest.mark.parametrize("model", ["8217", "8213"])
def test_toledo_demand_gives_a_weight_only_at_rest_in_range_and_not_below_zero(
    seed, request_, model
):
    options = toledo_demand.Options(
        weight_unit="kg", model=model, request=request_, equal_frames=1, digits=6
    )
    driver = toledo_demand.Driver(options)
    for truth in shown_over(seed, decimals=2):
        answer = demand_answer(driver.poll(), truth, decimals=2, digits=6, is_8213=model == "8213")
        (weight,) = driver.feed(answer)
        is_sent = truth.range == "ok" and not truth.in_motion and truth.value >= 0
        assert (weight.value is not None) is is_sent
        if is_sent:
            assert_true(weight, truth, "kg", has_mode=model == "8217")
            assert weight.high_resolution is (request_ == "H")
        elif truth.in_motion:
            assert weight.stable is False
        elif truth.value < 0 or truth.range == "under":
            assert weight.range == "under"


# --- what every one of them must survive --------------------------------------------------------

DECIMALS = 1


def asked(driver, answer):
    """Return the reply to the driver's own request."""
    return lambda truth: answer(driver.poll(), truth, unit="kg", decimals=DECIMALS)


def talking(line):
    return lambda truth: line(truth, unit="kg", decimals=DECIMALS)


def makers(**options):
    """Return each driver with the simulator that speaks to it, one decimal each."""
    drivers = {
        "sma": sma.Driver(sma.Options(**options)),
        "cas": cas.Driver(cas.Options(**options)),
        "a_and_d": a_and_d.Driver(a_and_d.Options(**options)),
        "rice_lake": rice_lake.Driver(rice_lake.Options(**options)),
        "cardinal": cardinal.Driver(cardinal.Options(decimals=True, **options)),
        "ohaus": ohaus.Driver(ohaus.Options(**options)),
        "nci": nci.Driver(nci.Options(display_width=7, **options)),
        "toledo_demand": toledo_demand.Driver(toledo_demand.Options(weight_unit="kg", **options)),
    }
    sources = {
        "sma": asked(drivers["sma"], sma_answer),
        "cas": talking(cas_line),
        "a_and_d": talking(and_line),
        "rice_lake": talking(rice_lake_frame),
        "cardinal": talking(cardinal_line),
        "ohaus": asked(drivers["ohaus"], ohaus_answer),
        "nci": asked(drivers["nci"], nci_answer),
        "toledo_demand": lambda truth: demand_answer(
            drivers["toledo_demand"].poll(), truth, decimals=DECIMALS
        ),
    }
    return {name: (drivers[name], sources[name]) for name in drivers}


NAMES = sorted(makers())
each_maker = pytest.mark.parametrize("name", NAMES)
ASKED = ["nci", "ohaus", "sma", "toledo_demand"]


@each_maker
def test_a_stable_weight_needs_two_equal_frames_in_a_row(name):
    driver, frame = makers()[name]
    first, second = shown("1234.5"), shown("1234.6")
    for truth in (first, second, first):
        assert driver.feed(frame(truth)) == []
    (weight,) = driver.feed(frame(first))
    assert (weight.value, weight.mass_kg, weight.stable) == ("1234.5", 1234.5, True)


@each_maker
def test_a_refused_frame_between_two_equal_ones_breaks_the_vote(name):
    driver, frame = makers()[name]
    whole = frame(shown("1234.5"))
    driver.feed(whole)
    frame(shown("1234.5"))
    assert weights(driver.feed(whole[:3] + b"x" + whole[3:])) == []
    assert weights(driver.feed(frame(shown("1234.5")))) == []


@each_maker
@pytest.mark.parametrize("value", ["0", "1234.5", "20.0", "999.9"])
def test_a_lost_or_doubled_byte_is_refused_or_changes_nothing(name, value):
    """One frame alone, without the vote: the length of its fields holds it."""
    whole = makers(equal_frames=1)[name][1](shown(value))
    for at in range(len(whole)):
        for damaged in (
            whole[:at] + whole[at + 1 :],
            whole[:at] + whole[at : at + 1] + whole[at:],
        ):
            driver, frame = makers(equal_frames=1)[name]
            frame(shown(value))  # so that it is asked
            for weight in weights(driver.feed(damaged)):
                assert weight.value is None or Decimal(weight.value) == Decimal(value), damaged


@each_maker
@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_any_frame_opened_in_its_middle_gives_nothing_of_it(name, data):
    driver, frame = makers(equal_frames=1)[name]
    value = data.draw(st.integers(1, 9999)) / Decimal(10)
    whole = frame(shown(value))
    at = data.draw(st.integers(1, len(whole) - 1))
    assert weights(driver.feed(whole[at:])) == []


@each_maker
def test_a_pause_inside_a_frame_never_joins_old_head_and_new_tail(name):
    driver, frame = makers(equal_frames=1)[name]
    old = frame(shown("1111.1"))
    for at in range(1, len(old)):
        driver.feed(old[:at])
        driver.silence()
        new = frame(shown("2222.2"))
        assert weights(driver.feed(new[at:])) == []
        (weight,) = weights(driver.feed(frame(shown("2222.2"))))
        assert weight.value == "2222.2"
        driver.silence()


@each_maker
def test_parity_bits_on_an_8n1_port_are_refused_and_give_no_weight(name):
    driver, frame = makers(equal_frames=1)[name]
    seen = []
    for _ in range(12):
        whole = frame(shown("1234.5"))
        seen += driver.feed(bytes(b | 0x80 * (b.bit_count() & 1) for b in whole))
    assert weights(seen) == []
    assert seen
    assert all("parity" in bad.detail or "bits" in bad.detail for bad in seen)


@each_maker
def test_out_of_range_needs_the_vote_too_and_is_no_weight(name):
    driver, frame = makers()[name]
    over = shown("99999.9", where="over")
    assert weights(driver.feed(frame(over))) == []
    found = weights(driver.feed(frame(over)))
    if name == "ohaus":  # its form is not documented, so it is refused
        assert found == []
        return
    assert [(w.range, w.value, w.mass_kg) for w in found] == [("over", None, None)]


@pytest.mark.parametrize("name", ASKED)
def test_an_echo_of_the_own_request_is_no_answer(name):
    driver, frame = makers(equal_frames=1)[name]
    request = driver.poll()
    assert driver.feed(request) == []
    if request.endswith(b"\r") or name == "ohaus":
        (bad,) = driver.no_reply()
        assert bad.reason is Reason.NO_REPLY
        driver.poll()
    answer = frame(shown("1234.5"))
    (weight,) = driver.feed(request + answer)
    assert weight.value == "1234.5"


@pytest.mark.parametrize("name", ASKED)
def test_a_late_answer_is_refused_and_the_next_is_not_taken_for_it(name):
    driver, frame = makers(equal_frames=1)[name]
    late = frame(shown("1111.1"))
    assert reasons(driver.no_reply()) == [Reason.NO_REPLY]
    assert reasons(driver.feed(late)) == [Reason.UNKNOWN]
    (weight,) = driver.feed(frame(shown("2222.2")))
    assert weight.value == "2222.2"


@pytest.mark.parametrize("name", ASKED)
def test_a_scale_that_sends_by_itself_is_not_taken_for_one_that_answers(name):
    driver, frame = makers(equal_frames=1)[name]
    answer = frame(shown("1234.5"))
    readings = driver.feed(answer * 3)
    assert len(weights(readings)) == 1
    assert reasons(readings) == [Reason.UNKNOWN] * 2


@each_maker
def test_only_requests_without_effect_are_ever_sent(name):
    driver, _ = makers()[name]
    sent = {driver.poll() for _ in range(50)}
    assert sent <= {b"", b"\nW\r", b"IP\r\n", b"W\r", b"W"}


def test_an_endless_frame_is_refused_once_and_the_next_whole_one_is_read():
    driver = rice_lake.Driver(rice_lake.Options(equal_frames=1))
    readings = driver.feed(b"x" * 5000)
    assert reasons(readings) == [Reason.FLOOD]
    assert driver.buffered <= weighing.MAX_FRAME_BYTES
    frame = rice_lake_frame(shown(40), unit="kg")
    assert [w.value for w in weights(driver.feed(frame * 2))] == ["40"]


# --- SMA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("status", "note"), [("E", "zero"), ("I", "initial zero"), ("T", "tare")])
def test_sma_error_with_dashes_is_no_weight(status, note):
    driver = sma.Driver(sma.Options(request="none", equal_frames=1))
    (weight,) = driver.feed(sma_frame(shown(40), unit="kg", status=status))
    assert (weight.range, weight.value, weight.notes) == ("error", None, (f"{note} error",))


def test_sma_high_resolution_is_marked():
    driver = sma.Driver(sma.Options(request="H", equal_frames=1))
    (weight,) = driver.feed(sma_answer(driver.poll(), shown("-12.34"), unit="kg", decimals=1))
    assert (weight.value, weight.high_resolution, weight.mode) == ("-12.34", True, "gross")


def test_sma_on_the_wire_answers_the_driver():
    async def run():
        scale = AskedScale(
            Weighbridge(lambda _: 38_416.0, seed=3),
            lambda request, reading: sma_answer(request, reading, unit="kg"),
            request=rb"\n[A-Z]\r",
        )
        address = await scale.serve_tcp(SceneClock(time_scale=20.0))
        host, port = address.removeprefix("tcp://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        driver = sma.Driver(sma.Options())
        found = []
        async with asyncio.timeout(LIMIT_S):
            while not found:
                writer.write(driver.poll())
                found = driver.feed(await reader.readuntil(b"\r"))
        writer.close()
        await scale.close()
        return found

    (weight,) = asyncio.run(run())
    assert abs(Decimal(weight.value) - 38_420) <= 20
    assert (weight.unit, weight.stable, weight.mode) == ("kg", True, "gross")


# --- CAS ----------------------------------------------------------------------------------------


def test_cas_lamps_stripped_by_seven_data_bits_are_refused_with_the_remedy():
    driver = cas.Driver(cas.Options(equal_frames=1))
    line = bytes(b & 0x7F for b in cas_line(shown(40), unit="kg"))
    (bad,) = driver.feed(line)
    assert (bad.reason, "8 data bits" in bad.detail) == (Reason.UNKNOWN, True)


def test_cas_held_figure_is_no_present_weight():
    driver = cas.Driver(cas.Options(equal_frames=1))
    (weight,) = driver.feed(cas_line(shown(40), unit="kg", hold=True))
    assert (weight.stable, weight.notes) == (None, ("held figure",))


def test_cas_relays_may_be_any_byte_and_are_not_looked_at():
    driver = cas.Driver(cas.Options(form="22-relay", equal_frames=1))
    for value in range(256):
        line = cas_line(shown(40), unit="kg", relays=bytes((value,)))
        assert [w.value for w in driver.feed(line)] == ["40"], value


def test_cas_another_device_on_the_line_is_refused():
    driver = cas.Driver(cas.Options(device_id=2, equal_frames=1))
    assert reasons(driver.feed(cas_line(shown(40), unit="kg", device=3))) == [Reason.UNKNOWN]


def test_cas_line_in_tonnes_keeps_its_factor():
    driver = cas.Driver(cas.Options(equal_frames=1))
    (weight,) = driver.feed(cas_line(shown("38.42"), unit="t", decimals=2))
    assert (weight.value, weight.unit, weight.mass_kg) == ("38.42", "t", 38_420.0)


@pytest.mark.parametrize(
    "options", [{"weight_unit": "kg"}, {"form": "10", "device_id": 1}], ids=["unit", "device"]
)
def test_cas_options_that_say_nothing_are_refused(options):
    with pytest.raises(ValueError, match="form = "):
        cas.Options(**options)


# --- A&D ----------------------------------------------------------------------------------------


def test_a_and_d_preset_tare_is_marked_and_is_no_gross_weight():
    driver = a_and_d.Driver(a_and_d.Options(equal_frames=1))
    (weight,) = driver.feed(b"ST,PT,+0012000kg\r\n")
    assert (weight.mode, weight.notes) == ("tare", ("preset tare",))


def test_a_and_d_thousands_never_pass_for_decimals():
    line = b"ST,GS,+012,340kg\r\n"
    point = a_and_d.Driver(a_and_d.Options(equal_frames=1))
    point.feed(b"ST,GS,+0000000kg\r\n")
    assert reasons(point.feed(line)) == [Reason.SYNTAX]


@pytest.mark.parametrize("line", [b"OL,+9999999E+19\r\n", b"OL,-9999999E+19\r\n"])
def test_a_and_d_overload_of_a_balance_is_never_its_number(line):
    driver = a_and_d.Driver(a_and_d.Options(form="balance", equal_frames=1))
    (weight,) = driver.feed(line)
    assert (weight.value, weight.range) == (None, "over" if line[3:4] == b"+" else "under")


def test_a_and_d_look_alikes_are_refused_by_their_width():
    driver = a_and_d.Driver(a_and_d.Options(equal_frames=1))
    driver.feed(b"ST,GS,+0000000kg\r\n")
    for line in (b"ST,GS,   38420,kg\r\n", b"ST,GS,1\xc4,00038420 kg\r\n"):
        assert weights(driver.feed(line)) == []


@pytest.mark.parametrize(
    "options",
    [{"form": "balance", "unit_width": 3}, {"comma_before_unit": True}],
    ids=["width", "comma"],
)
def test_a_and_d_options_that_do_not_belong_together_are_refused(options):
    with pytest.raises(ValueError, match="only for form"):
        a_and_d.Options(**options)


# --- Rice Lake, Cardinal ------------------------------------------------------------------------


def test_rice_lake_letter_t_is_refused_until_the_ton_is_said():
    frame = rice_lake_frame(shown("38.42"), unit="t", decimals=2)
    (bad,) = rice_lake.Driver(rice_lake.Options(equal_frames=1)).feed(frame)
    assert (bad.reason, "letter_t" in bad.detail) == (Reason.UNIT, True)
    told = rice_lake.Driver(rice_lake.Options(equal_frames=1, letter_t="tonne"))
    assert [w.mass_kg for w in told.feed(frame)] == [38_420.0]


def test_rice_lake_blank_unit_has_no_mass_until_it_is_said():
    frame = rice_lake_frame(shown(40), unit="")
    (weight,) = rice_lake.Driver(rice_lake.Options(equal_frames=1)).feed(frame)
    assert (weight.value, weight.unit, weight.mass_kg) == ("40", None, None)
    told = rice_lake.Driver(rice_lake.Options(equal_frames=1, weight_unit="lb"))
    assert [w.mass_kg for w in told.feed(frame)] == [float(40 * KG["lb"])]


def test_rice_lake_invalid_figure_is_no_weight():
    driver = rice_lake.Driver(rice_lake.Options(equal_frames=1))
    (weight,) = driver.feed(rice_lake_frame(shown(40), unit="kg", invalid=True))
    assert (weight.range, weight.value) == ("error", None)


def test_cardinal_line_that_lost_its_point_is_refused():
    line = cardinal_line(shown("12.34"), unit="kg", decimals=2).replace(b".", b"")
    driver = cardinal.Driver(cardinal.Options(decimals=True, equal_frames=1))
    driver.feed(cardinal_line(shown("12.34"), unit="kg", decimals=2))
    (bad,) = driver.feed(line)
    assert (bad.reason, "decimals" in bad.detail) == (Reason.LENGTH, True)


def test_cardinal_short_ton_is_refused_and_not_taken_for_a_tonne():
    driver = cardinal.Driver(cardinal.Options(equal_frames=1))
    assert reasons(driver.feed(cardinal_line(shown(40), unit="tn"))) == [Reason.UNIT]


# --- Ohaus, NCI, 8217 ---------------------------------------------------------------------------


def test_ohaus_line_with_a_label_is_no_present_weight_unless_it_is_named():
    line = ohaus_line(shown("12.5"), unit="kg", decimals=1, label="Total")
    plain = ohaus.Driver(ohaus.Options(equal_frames=1))
    plain.poll()
    assert reasons(plain.feed(line)) == [Reason.UNKNOWN]
    named = ohaus.Driver(ohaus.Options(equal_frames=1, labels=("Total",)))
    named.poll()
    assert [w.value for w in named.feed(line)] == ["12.5"]


def test_ohaus_rest_of_a_labelled_line_never_passes_for_a_plain_one():
    line = ohaus_line(shown("12.5"), unit="kg", decimals=1, label="Total")
    for at in range(len(line)):
        driver = ohaus.Driver(ohaus.Options(request="none", equal_frames=1))
        assert weights(driver.feed(line[at:] + line)) == []


def test_nci_unknown_status_or_compound_unit_is_refused():
    driver = nci.Driver(nci.Options(equal_frames=1))
    driver.poll()
    driver.feed(nci_answer(b"W\r", shown(40), unit="kg"))
    for body in (b"  12.34lb\r\n", b" 1lb 3.4oz\r\np0", b"  12.34st\r\np0", b"  12.34lb\r\np\x0b"):
        driver.poll()
        assert weights(driver.feed(b"\n" + body + b"\r\x03")) == []


@pytest.mark.parametrize(
    ("status", "note"),
    [
        (b"t0", "RAM error"),
        (b"x0", "EEPROM error"),
        (b"p4", "ROM error"),
        (b"p8", "calibration error"),
    ],
)
def test_nci_fault_of_the_scale_hides_its_figure(status, note):
    driver = nci.Driver(nci.Options(equal_frames=1))
    driver.poll()
    (weight,) = driver.feed(b"\n  12.34lb\r\n" + status + b"\r\x03")
    assert (weight.range, weight.value, weight.notes) == ("error", None, (note,))


def test_toledo_demand_must_be_told_its_unit():
    with pytest.raises(TypeError, match="weight_unit"):
        toledo_demand.Options()


def test_toledo_demand_never_takes_the_status_for_a_digit():
    driver = toledo_demand.Driver(toledo_demand.Options(weight_unit="lb", equal_frames=1))
    for bits in range(256):
        driver.poll()
        readings = driver.feed(b"\x02?" + bytes((bits,)) + b"\r")
        assert all(w.value is None for w in weights(readings)), bits
