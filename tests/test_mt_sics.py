"""MT-SICS: the pitfalls of asking a balance, one by one."""

from __future__ import annotations

import pytest
from capture_files import good

from drivers.readings import BadFrame, DeviceState, Reason, Weight
from drivers.scale.mt_sics import Driver, Options

SERIAL = b'I4 A "0123456789"\r\n'


def opened(**options):
    """A driver whose ``@`` was answered."""
    driver = Driver(Options(**{"equal_frames": 1, **options}))
    assert driver.poll() == b"@\r\n"
    assert driver.feed(SERIAL) == []
    return driver


def ask(driver, answer):
    assert driver.poll() == driver._command + b"\r\n"
    return driver.feed(answer)


def answer_to(line, **options):
    return ask(opened(**options), line)


def test_start_in_mid_line_gives_no_value_of_half_a_line():
    line = b"S S     123.40 kg\r\n"
    for offset in range(1, len(line)):
        driver = Driver(Options(equal_frames=1))
        assert driver.feed(line[offset:]) == []
        assert driver.poll() == b"@\r\n"
        assert good(driver.feed(SERIAL)) == []
        (weight,) = ask(driver, line)
        assert weight.value == "123.40"


def test_a_pause_inside_a_reply_never_joins_old_head_and_new_tail():
    driver = opened()
    assert ask(driver, b"S S     99") == []
    (lost,) = driver.silence()
    assert lost.reason is Reason.TRUNCATED
    assert driver.poll() == b"@\r\n"
    assert good(driver.feed(b"9.90 kg\r\n" + SERIAL)) == []
    (weight,) = ask(driver, b"S S       1.00 kg\r\n")
    assert weight.value == "1.00"


def test_without_checksum_a_stable_line_needs_an_equal_one_and_is_marked_unverified():
    driver = opened(equal_frames=2)
    lines = [b"S S     100.00 kg\r\n", b"S S     900.00 kg\r\n", b"S S     100.00 kg\r\n"]
    assert [ask(driver, line) for line in lines] == [[], [], []]
    (weight,) = ask(driver, lines[0])
    assert (weight.value, weight.verified) == ("100.00", False)


def test_a_moving_line_between_two_equal_stable_ones_ends_the_vote():
    driver = opened(equal_frames=2)
    still, moving = b"S S     100.00 kg\r\n", b"S D     900.00 kg\r\n"
    assert ask(driver, still) == []
    assert len(ask(driver, moving)) == 1
    assert ask(driver, still) == []


def test_a_lost_byte_is_refused_where_the_width_is_given():
    line = b"S S      12340 kg\r\n"
    (weight,) = answer_to(line, value_width=10)
    assert weight.value == "12340"
    for at in range(4, 14):
        damaged = line[:at] + line[at + 1 :]
        (refused,) = answer_to(damaged, value_width=10)
        assert refused.reason is Reason.LENGTH


@pytest.mark.parametrize(
    ("field", "value"),
    [(b"-12.5", "-12.5"), (b"-   12.5", "-12.5"), (b"-0.00", "0.00"), (b"0.10", "0.10")],
)
def test_sign_is_read_with_spaces_after_it_and_zero_has_none(field, value):
    (weight,) = answer_to(b"S D " + field.rjust(10) + b" kg\r\n")
    assert weight.value == value


@pytest.mark.parametrize(
    "field", [b"12,5", b"1e5", b"0x10", b"1_000", b"+5", b"--5", b".", b"NaN", b"12345678901"]
)
def test_a_decimal_that_is_no_plain_figure_is_refused(field):
    (refused,) = answer_to(b"S S " + field.rjust(10) + b" kg\r\n")
    assert refused.reason is Reason.SYNTAX


def test_decimals_are_exact():
    weights = [
        answer_to(b"S D " + text.rjust(10) + b" lb\r\n")[0] for text in (b"0.1", b"0.2", b"0.3")
    ]
    assert [w.mass_kg for w in weights] == [0.045359237, 0.090718474, 0.136077711]


@pytest.mark.parametrize("unit", [b"ct", b"%", b"pcs", b"ozt", b"dwt", b"mg", b"lb:oz", b"KG"])
def test_an_unknown_unit_is_refused_and_never_converted(unit):
    (refused,) = answer_to(b"S S     100.00 " + unit + b"\r\n")
    assert refused.reason is Reason.UNIT


def test_unit_change_while_running_is_followed():
    driver = opened()
    assert ask(driver, b"S D     1.0 kg\r\n")[0].mass_kg == 1.0
    assert ask(driver, b"S D     1.0 t\r\n")[0].mass_kg == 1000.0


@pytest.mark.parametrize(("line", "range_"), [(b"S +", "over"), (b"S -", "under")])
def test_over_and_under_are_a_range_and_no_value(line, range_):
    (weight,) = answer_to(line + b"\r\n")
    assert (weight.range, weight.value, weight.mass_kg) == (range_, None, None)


def test_not_now_is_an_answer_without_a_weight_and_no_fault():
    (weight,) = answer_to(b"S I\r\n")
    assert isinstance(weight, Weight)
    assert (weight.range, weight.value, weight.stable) == ("unknown", None, None)


@pytest.mark.parametrize("line", [b"S S Error 3b", b"S S   Error 10b", b"S D Error 15b kg"])
def test_an_error_code_in_the_value_field_is_a_fault_never_a_number(line):
    state, weight = answer_to(line + b"\r\n")
    assert (state.condition, state.active) == ("weighing_error", True)
    assert (weight.range, weight.value, weight.mass_kg) == ("error", None, None)


def test_a_moving_value_is_never_stable():
    (weight,) = answer_to(b"S D     100.02 kg\r\n")
    assert weight.stable is False


def test_a_line_with_bit_7_set_is_refused_with_a_hint_at_parity():
    line = bytes(b | (b.bit_count() & 1) << 7 for b in b"S S     100.00 kg\r")
    (refused,) = answer_to(line + b"\n")
    assert refused.reason is Reason.SYNTAX
    readings = answer_to(line[:-1] + b"\r\n")
    assert "parity" in readings[0].detail


def test_a_wrong_baud_rate_is_bounded_and_said():
    driver = Driver(Options())
    for _ in range(100):
        driver.poll()
        readings = driver.feed(bytes(range(128, 256)) * 10)
        assert driver.buffered <= 80
        assert good(readings) == []
    driver.silence()
    (flood,) = driver.feed(b"x" * 10000)
    assert flood.reason is Reason.FLOOD


def test_an_echoing_adapter_that_returns_our_own_request_first_is_ignored():
    driver = Driver(Options(equal_frames=1))
    assert driver.feed(driver.poll()) == []
    assert driver.feed(SERIAL) == []
    request = driver.poll()
    (weight,) = driver.feed(request + b"S D     100.00 kg\r\n")
    assert weight.value == "100.00"


def test_a_late_reply_to_the_previous_request_is_never_paired_with_the_next():
    driver = opened()
    assert driver.poll() == b"SI\r\n"
    (missed,) = driver.no_reply()
    assert missed.reason is Reason.NO_REPLY
    assert driver.poll() == b"@\r\n"
    assert driver.feed(b"S S     999.90 kg\r\n" + SERIAL) == []
    (weight,) = ask(driver, b"S S     100.00 kg\r\n")
    assert weight.value == "100.00"


def test_a_late_reply_before_the_next_request_is_refused_and_pairing_begins_anew():
    driver = opened()
    ask(driver, b"S S     100.00 kg\r\n")
    (stale,) = driver.feed(b"S S     999.90 kg\r\n")
    assert stale.reason is Reason.UNKNOWN
    assert driver.poll() == b"@\r\n"


def test_two_cancels_answered_late_are_not_a_restart():
    driver = Driver(Options())
    assert driver.poll() == driver.poll() == b"@\r\n"
    assert driver.feed(SERIAL + b"S S     999.90 kg\r\n" + SERIAL) == []
    assert driver.poll() == b"SI\r\n"


def test_an_unsolicited_i4_is_a_restart_and_never_paired_with_a_request():
    driver = opened()
    (restart,) = ask(driver, SERIAL)
    assert (restart.condition, restart.active) == ("power_up", True)
    assert driver.poll() == b""  # the request is still unanswered
    cleared, weight = driver.feed(b"S S     100.00 kg\r\n")
    assert (cleared.condition, cleared.active) == ("power_up", False)
    assert weight.value == "100.00"


def test_an_unsolicited_es_after_a_cable_glitch_is_never_paired_with_the_next_request():
    driver = opened()
    ask(driver, b"S S     100.00 kg\r\n")
    (glitch,) = driver.feed(b"ES\r\n")
    assert glitch.reason is Reason.DEVICE_ERROR
    (weight,) = ask(driver, b"S S     100.00 kg\r\n")
    assert weight.value == "100.00"


def test_a_repeat_left_streaming_by_a_dead_process_is_cancelled_and_drained():
    stream = b"S S    9999.00 kg\r\n" * 50
    driver = Driver(Options(equal_frames=1))
    assert driver.feed(stream) == []
    assert driver.poll() == b"@\r\n"
    assert driver.feed(stream + SERIAL) == []
    (weight,) = ask(driver, b"S S     100.00 kg\r\n")
    assert weight.value == "100.00"


def test_a_device_that_never_answers_cancel_is_asked_all_the_same():
    driver = Driver(Options(equal_frames=1))
    assert [driver.poll() for _ in range(3)] == [b"@\r\n", b"@\r\n", b"SI\r\n"]
    (weight,) = driver.feed(b"S S     100.00 kg\r\n")
    assert weight.value == "100.00"


def test_cancel_can_be_left_out():
    driver = Driver(Options(send_cancel=False, equal_frames=1))
    assert driver.poll() == b""
    assert driver.feed(b"S S    9999.00 kg\r\n" * 3)[0].reason is Reason.UNKNOWN
    assert driver.poll() == b""
    assert driver.poll() == b"SI\r\n"


def test_no_second_request_is_sent_while_s_waits_for_stability():
    driver = opened(command="S")
    assert driver.poll() == b"S\r\n"
    assert [driver.poll() for _ in range(20)] == [b""] * 20
    (weight,) = driver.feed(b"S S     100.00 kg\r\n")
    assert weight.stable


def test_a_repeat_that_stops_is_asked_for_again():
    driver = opened(command="SIR")
    assert driver.poll() == b"SIR\r\n"
    assert len(driver.feed(b"S D     100.00 kg\r\n" * 3)) == 3
    assert [driver.poll() for _ in range(4)] == [b"", b"", b"", b"@\r\n"]


def test_another_device_after_a_power_loss_is_said():
    driver = opened()
    states = ask(driver, b'I4 A "777"\r\n')
    assert [(s.condition, s.active) for s in states] == [
        ("device_changed", True),
        ("power_up", True),
    ]
    back = driver.feed(SERIAL)
    assert DeviceState(condition="device_changed", active=False) in back


def test_a_serial_number_from_the_site_record_is_compared():
    driver = Driver(Options(serial="42"))
    driver.poll()
    (state,) = driver.feed(SERIAL)
    assert (state.condition, state.active) == ("device_changed", True)
    assert "42" in state.detail


@pytest.mark.parametrize("junk", [b"\x81\x82", b"\xa0", b"\x00\x00", b"\x1b[2J", b"20\xb0C"])
def test_odd_text_encodings_in_a_line_never_crash_and_are_refused(junk):
    readings = answer_to(b"S S " + junk + b"  100.00 kg\r\n")
    assert [type(r) for r in readings] == [BadFrame]
    assert junk in readings[0].raw


def test_xon_and_xoff_inside_a_line_are_ignored():
    (weight,) = answer_to(b"\x13S S\x11     100\x13.00 kg\r\x11\n")
    assert weight.value == "100.00"


def test_a_flood_of_lines_does_not_grow_the_buffer():
    driver = opened(command="SIR")
    driver.poll()
    for _ in range(100):
        assert len(driver.feed(b"S D     100.00 kg\r\n" * 100)) == 100
        assert driver.buffered == 0


def test_no_reply_is_silent_where_the_device_did_answer():
    driver = opened()
    assert driver.no_reply() == []
    ask(driver, b"S I\r\n")
    assert driver.no_reply() == []
