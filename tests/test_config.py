"""Configuration: every problem at once, at its line; the example; change and last good copy."""

from __future__ import annotations

import json
import os
import re
import shutil
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from certificates import BEGINS, ENDS, Authority, encrypted_copy
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from agent.config import (
    ConfigError,
    difference,
    examine,
    load,
    load_lane,
    load_last_good,
    save_last_good,
)
from agent.config.certificates import validity, validity_of
from agent.config.lines import line_of, lines_of
from agent.config.load import KIND_OPTIONS, kind_of
from agent.config.options import options_of
from agent.lane.options.lane import LaneOptions
from agent.lane.options.spectral import SpectralOptions
from agent.settings import DeviceOptions, GatewayOptions, JournalOptions, MqttOptions
from agent.tools.check import checked
from drivers.base import find, names

EXAMPLE = Path(__file__).resolve().parent.parent / "config"

GATEWAY = """\
[gateway]
site = "north"
gw = "gw-1"

[mqtt]
host = "localhost"
tls = false
"""

LANE = """\
[lane]
name = "One"

[devices.rpm]
driver = "rpm.rapiscan"
port = "tcp://127.0.0.1:1600"
"""

RTU_METAL = """
[devices.{name}]
driver = "metal.dry_contact"
port = "{port}"
preset = "moxa-e1212"
{more}
"""


@pytest.fixture(scope="module")
def authority():
    return Authority()


def written(directory: Path, gateway: str = GATEWAY, **lanes: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "lanes").mkdir(exist_ok=True)
    (directory / "gateway.toml").write_text(gateway, encoding="utf-8")
    for name, text in (lanes or {"one": LANE}).items():
        (directory / "lanes" / f"{name}.toml").write_text(text, encoding="utf-8")
    return directory


def problems_of(directory: Path, **kwargs) -> list[str]:
    return [str(problem) for problem in examine(directory, **kwargs).problems]


def only_problem(directory: Path, **kwargs) -> str:
    found = problems_of(directory, **kwargs)
    assert len(found) == 1, "\n".join(found)
    return found[0]


def lane_problem(tmp_path: Path, text: str) -> str:
    return only_problem(written(tmp_path, one=text))


# ---------------------------------------------------------------- the example


@pytest.fixture
def example(tmp_path, authority):
    """The shipped example, with the TLS files that a site would put there."""
    directory = tmp_path / "etc"
    shutil.copytree(EXAMPLE, directory)
    tls = directory / "tls"
    tls.mkdir()
    authority.write(tls / "ca.pem")
    authority.issue(tls, "gateway", "bridge-north/gw-1")
    (directory / "identity.key").write_text("0123456789abcdef" * 4)
    (directory / "identity.key").chmod(0o600)
    return directory


def test_the_example_is_accepted_as_it_stands(example):
    examined = examine(example, now=datetime(2026, 11, 22, tzinfo=UTC))
    assert examined.problems == ()
    config = load(example)
    assert config.gateway.site == "bridge-north"
    (lane,) = config.lanes
    assert lane.lane_id == "inbound-1"
    assert [(d.name, d.driver.name) for d in lane.devices] == [
        ("rpm", "rpm.rapiscan"),
        ("scale", "scale.toledo"),
        ("metal", "metal.dry_contact"),
        ("gate", "lane.contacts"),
        ("plate", "lane.identity_line"),
        ("io", "lane.outputs"),
    ]
    assert lane.lane.max_gross_kg == 40000.0
    assert config.mqtt.key_file == str(example / "tls" / "gateway.key")


def example_tables():
    yield "gateway.toml", "[gateway]", (GatewayOptions,)
    yield "gateway.toml", "[mqtt]", (MqttOptions,)
    yield "gateway.toml", "[journal]", (JournalOptions,)
    yield "lanes/inbound-1.toml", "[lane]", (LaneOptions,)
    yield "lanes/inbound-1.toml", "[spectral]", (SpectralOptions,)
    devices = tomllib.loads((EXAMPLE / "lanes/inbound-1.toml").read_text())["devices"]
    for name, device in devices.items():
        driver = device["driver"]
        kinds = (KIND_OPTIONS[kind_of(driver)], find(driver).options)
        yield "lanes/inbound-1.toml", f"[devices.{name}]", kinds


@pytest.mark.parametrize(
    ("file", "table", "kinds"), list(example_tables()), ids=lambda v: str(v)[:20]
)
def test_the_example_mentions_every_option_of_each_table(file, table, kinds):
    text = (EXAMPLE / file).read_text(encoding="utf-8")
    section = text.split(f"\n{table}\n", 1)[1].split("\n[", 1)[0]
    expected = {name for kind in kinds for name in options_of(kind)}
    mentioned = set(re.findall(r"^#?([a-z_0-9]+) = ", section, re.MULTILINE))
    common = set(options_of(DeviceOptions)) if table.startswith("[devices") else set()
    assert mentioned - common == expected
    assert mentioned <= expected | common


def test_the_examples_devices_mention_every_common_option_between_them():
    text = (EXAMPLE / "lanes/inbound-1.toml").read_text(encoding="utf-8")
    for name in options_of(DeviceOptions):
        assert re.search(rf"^#?{name} = ", text, re.MULTILINE), name


@pytest.mark.parametrize("file", ["gateway.toml", "lanes/inbound-1.toml"])
def test_what_the_example_shows_as_default_is_the_default(example, file):
    """Taking every ``#`` away from a default changes nothing but what is no default."""
    before = load(example)
    path = example / file
    text = path.read_text(encoding="utf-8")
    no_default = "username|password_file|baud|parity|data_bits|stop_bits|silence_s|span_|unit"
    no_default += (
        "|alarm|ready|passage_in|passage_out|tamper|saturated|axles|max_axle_kg|relay_listen"
    )
    no_default += "|relay_clients|gamma_alarm_sigma|dose_rate_alarm_usv_per_h"
    no_default += "|columns|pattern|energy|type_plate|thresholds_file|exclude"
    no_default += "|zero_slope_limit_kg_per_h|frozen_after_vehicles|calibration"
    opened = re.sub(
        rf"^#(?!(?:{no_default}) |span_)([a-z_0-9]+ = )", r"\1", text, flags=re.MULTILINE
    )
    assert opened != text
    path.write_text(opened, encoding="utf-8")
    assert difference(before, load(example)).lines == ()


def test_the_custom_points_of_the_example_are_accepted(example):
    path = example / "lanes/inbound-1.toml"
    text = path.read_text(encoding="utf-8").replace('"moxa-e1212"\n', '"custom"\n', 1)
    text = re.sub(
        r"^#((?:alarm|ready|passage_in|passage_out|tamper|saturated) = \{)",
        r"\1",
        text,
        flags=re.MULTILINE,
    )
    path.write_text(text, encoding="utf-8")
    assert load(example).lanes[0].device("metal").driver_options.preset == "custom"


# ---------------------------------------------------------------- one option


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nsigma = 55", "devices.rpm.nsigma = 55: expected a number from 1 to 20: the portal's"),
        ("nsigma = nan", "devices.rpm.nsigma = nan: expected a number from 1 to 20"),
        ("nsigma = true", "devices.rpm.nsigma = true: expected a number"),
        ('nsigma = "4"', 'devices.rpm.nsigma = "4": expected a number'),
        ("intervals = 5.0", "devices.rpm.intervals = 5.0: expected a whole number from 1 to 50"),
        ("intervals = true", "devices.rpm.intervals = true: expected a whole number"),
        ("intervals = 2026-11-22", "devices.rpm.intervals = 2026-11-22: expected a whole number"),
        ("nsgima = 5.0", "devices.rpm.nsgima: there is no such option; did you mean nsigma?"),
        ('algorithms = ["sums"]', 'expected a list of 1 or more entries, each one of "sum", "hor'),
        ("algorithms = []", "devices.rpm.algorithms = []: expected a list of 1 or more entries"),
        ('detectors = ["a", "b"]', "expected a list of 4 entries, one for each of its detectors"),
        ("detectors = []", "expected a list of 1 to 8 entries, each text"),
        ("gamma_alarm_sigma = 5.0", "rpm.rapiscan decides by no such setting and reads none"),
        ('detectors = ["a", "a", "b", "c"]', "expected each entry once"),
        ('detectors = ["a", "b\\n", "c", "d"]', "without control characters"),
        ("silence_s = 0", "expected a number above 0 and up to 600: without a good frame for so"),
        ("silence_s = inf", "devices.rpm.silence_s = inf: expected a number above 0"),
        ('parity = "X"', 'devices.rpm.parity = "X": expected one of "N", "E", "O"'),
        ("baud = 19200", "devices.rpm.baud = 19200: a tcp:// port has none"),
        ("timeout_s = 1", "rpm.rapiscan is no Modbus device and reads none"),
        ('password = "hunter2"', "devices.rpm.password: a secret never stands in this file"),
    ],
)
def test_a_wrong_option_is_told_with_its_line_and_what_is_expected(tmp_path, line, expected):
    text = f"{LANE}# a comment\n\n{line}\n"
    problem = lane_problem(tmp_path, text)
    assert problem.startswith("lanes/one.toml:9: "), problem
    assert expected in problem
    assert "hunter2" not in problem


def test_units_stand_in_brackets_in_the_text_of_a_problem(tmp_path):
    text = LANE.replace('name = "One"', "join_gap_s = 61")
    problem = lane_problem(tmp_path, text)
    assert problem == (
        "lanes/one.toml:2: lane.join_gap_s = 61: expected a number from 0 to 60: occupancies "
        "closer than this are one transit [s]; 0: never joined"
    )


def test_a_whole_number_is_taken_where_a_number_is_asked(tmp_path):
    config = load(written(tmp_path, one=LANE + "nsigma = 4\n"))
    options = config.lanes[0].device("rpm").kind_options
    assert options.nsigma == 4.0
    assert isinstance(options.nsigma, float)


def test_all_problems_of_all_files_are_told_at_once(tmp_path):
    directory = written(
        tmp_path,
        GATEWAY.replace('"north"', '"North"') + "kepalive_s = 20\n[jornal]\n",
        one=LANE + "nsigma = 0\nintervalls = 3\n",
        two="[lane]\nx = 1\n[devices.scale]\ndriver = 'scale.tolledo'\nport = 'x'\n",
        Bad=LANE,
    )
    (directory / "lanes" / "three.toml").write_text("[lane\n")
    (directory / "lanes" / "four.toml").write_bytes(b"[lane]\nname = '\xff'\n")
    (directory / "lanes" / ".#two.toml").symlink_to("nowhere")
    with pytest.raises(ConfigError) as caught:
        load(directory)
    said = str(caught.value).splitlines()
    starts = [
        "gateway.toml:2: gateway.site = ",
        "gateway.toml:8: mqtt.kepalive_s: there is no such option; did you mean keepalive_s?",
        "gateway.toml:9: jornal: there is no such table; did you mean journal?",
        "lanes/Bad.toml: expected a lane id as file name: at most 32 of a-z, 0-9 and -",
        "lanes/four.toml:2: expected UTF-8",
        "lanes/one.toml:7: devices.rpm.nsigma = 0: ",
        "lanes/one.toml:8: devices.rpm.intervalls: there is no such option; did you mean inter",
        "lanes/three.toml:1: not valid TOML: ",
        "lanes/two.toml:2: lane.x: there is no such option; expected one of name, ",
        'lanes/two.toml:4: devices.scale.driver = "scale.tolledo": there is no such driver; did',
    ]
    for start in starts:
        assert any(line.startswith(start) for line in said), (start, said)
    assert len(said) == len(starts)


def test_what_is_missing_is_told_with_what_it_is(tmp_path):
    directory = written(tmp_path, "[gateway]\nsite = 'a'\n", one="[lane]\n[devices.m]\n")
    with pytest.raises(ConfigError) as caught:
        load(directory)
    said = str(caught.value)
    assert "gateway.toml:1: gateway.gw: missing; expected at most 32 of a-z" in said
    assert "mqtt.host: missing; expected text, not empty: broker's host name" in said
    assert "lanes/one.toml:2: devices.m.driver: missing; expected one of lane.contacts" in said


def test_a_drivers_required_option_is_asked_for(tmp_path):
    text = RTU_METAL.format(name="m", port="tcp://h:502", more="").replace(
        'preset = "moxa-e1212"\n', ""
    )
    problem = lane_problem(tmp_path, text)
    assert 'devices.m.preset: missing; expected one of "moxa-e1210", "moxa-e1212"' in problem


def test_options_that_do_not_fit_together_are_told_at_their_table(tmp_path):
    text = LANE + "\n[devices.s]\ndriver = 'scale.toledo'\nport = '/dev/s'\nswa_mask = 1\n"
    problem = lane_problem(tmp_path, text)
    assert problem.startswith("lanes/one.toml:8: devices.s: swa_exponents, swa_mask and swa_bits")


def test_nested_tables_are_checked_to_the_last_option(tmp_path):
    metal = RTU_METAL.format(name="m", port="tcp://h:502", more="").replace("moxa-e1212", "custom")
    inline = lane_problem(tmp_path, metal + "alarm = {contact = 70000}\n")
    assert inline.startswith("lanes/one.toml:7: devices.m.alarm.contact = 70000: expected a whole")
    own = lane_problem(tmp_path, metal + "[devices.m.alarm]\ncontact = 1\nconter = 2\n")
    assert own.startswith("lanes/one.toml:9: devices.m.alarm.conter: there is no such option; did")


def test_a_missing_directory_is_told_and_not_raised_past(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "none")
    assert "gateway.toml: cannot be read: no such file" in str(caught.value)
    assert "lanes/: expected at least one lane file" in str(caught.value)


@pytest.mark.parametrize(
    "text", ["devices = 3\n", "lane = 1\n[devices.a]\n", "[devices]\na = 1\n", "[[lane]]\n", ""]
)
def test_a_file_of_another_shape_is_a_problem_and_never_a_crash(tmp_path, text):
    directory = written(tmp_path, text, one=text)
    assert examine(directory).config is None
    assert problems_of(directory)


@given(text=st.text(alphabet="[]{}=.,\"'# \n\tabx1:_-é\\", max_size=60))
def test_no_text_whatever_raises_anything_but_a_config_error(tmp_path_factory, text):
    directory = written(tmp_path_factory.mktemp("c"), text, one=text)
    with pytest.raises(ConfigError):
        load(directory)


# ---------------------------------------------------------------- lines


KEYS = st.sampled_from(["a", "b-1", '"q.x"', "'l\"'", '"e\\"s"', "a . b", 'a."c d".e'])
VALUES = st.sampled_from(
    [
        "1",
        '"text # = [x]"',
        "'lit \"'",
        '"""\nx = 1\n[t]\n\\""" more\n"""',
        '"""ends in two quotes"""""',
        "'''\ny = 2\n''x'''",
        "[\n 1, # ] one\n 2,\n]",
        '[["]"], [\n"\n"\n]]'.replace('"\n"', '"#"'),
        "{ p = 1, q = { r = '}' } }",
        "2026-11-22T08:00:00Z",
        "true # key = 3",
    ]
)


@given(
    st.lists(
        st.tuples(st.booleans(), KEYS, VALUES, st.sampled_from(["", "# c = 1\n", "\n\n", "  \t"])),
        max_size=8,
    )
)
def test_every_key_is_found_on_the_line_it_was_written(items):
    text, expected, table = "", {}, ()
    for number, (is_table, key, value, before) in enumerate(items):
        parts = tuple(re.findall(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[a-z0-9-]+', key))
        path = tuple(tomllib.loads(f"k={p}")["k"] if p[0] in "'\"" else p for p in parts)
        own = (f"n{number}", *path)  # unique, so that tomllib accepts the file
        line = (text + before).count("\n") + 1
        if is_table:
            table = own
            text += f"{before}[n{number}.{key}] # comment [x]\n"
            expected[own] = line
        else:
            text += f"{before}n{number}.{key} = {value}\n"
            expected[(*table, *own)] = line
    tomllib.loads(text)  # the text is valid TOML
    found = lines_of(text)
    for path, line in expected.items():
        assert found.get(path) == line, (path, text)
    # and nothing that stands inside a value was taken for a key
    known = {path[:size] for path in expected for size in range(1, len(path) + 1)}
    assert set(found) == known


def test_a_path_without_a_line_has_that_of_the_table_around_it():
    lines = lines_of("x = 1\n\n[a]\nb = { c = 1 }\n")
    assert line_of(lines, ("a", "b", "c")) == 4
    assert line_of(lines, ("a", "other")) == 3
    assert line_of(lines, ("nothing",)) == 1


def test_windows_line_ends_do_not_shift_lines(tmp_path):
    directory = written(tmp_path)
    (directory / "lanes/one.toml").write_bytes(
        (LANE + "nsigma = 0\n").replace("\n", "\r\n").encode()
    )
    assert only_problem(directory).startswith("lanes/one.toml:7: ")


# ---------------------------------------------------------------- ports


def two_lanes(tmp_path, first: str, second: str) -> Path:
    return written(tmp_path, a="[lane]\n" + first, b="[lane]\n" + second)


def test_one_port_has_one_owner_over_all_lanes(tmp_path):
    problem = only_problem(written(tmp_path, a=LANE, b=LANE))
    assert problem.startswith("lanes/b.toml:6: devices.rpm.port = ")
    assert "is already the port of devices.rpm of lanes/a.toml" in problem


def test_two_names_of_one_serial_line_are_one_port(tmp_path):
    (tmp_path / "tty").touch()
    (tmp_path / "link").symlink_to("tty")
    # Ports stand under /dev; the two are made there only in name.
    up = "/dev/.." + str(tmp_path)
    scale = '[devices.s]\ndriver = "scale.toledo"\nport = "{}"\n'
    directory = two_lanes(tmp_path, scale.format(f"{up}/tty"), scale.format(f"{up}/link"))
    assert "is already the port of devices.s" in only_problem(directory)


def test_two_modbus_units_share_one_line(tmp_path):
    first = RTU_METAL.format(name="m", port="/dev/rs485", more="unit = 1")
    second = RTU_METAL.format(name="m", port="/dev/rs485", more="unit = 2")
    assert problems_of(two_lanes(tmp_path, first, second)) == []


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ("unit = 1", "devices.m.unit = 1: is already the unit of devices.m of lanes/a.toml"),
        ("unit = 2\nbaud = 19200", "shares the line with devices.m of lanes/a.toml at 9600 8N1"),
        ('unit = 2\nframing = "tcp"', 'devices.m.framing = "tcp": expected the same as devices.m'),
    ],
)
def test_users_of_one_modbus_line_must_agree(tmp_path, more, expected):
    first = RTU_METAL.format(name="m", port="/dev/rs485", more="unit = 1")
    second = RTU_METAL.format(name="m", port="/dev/rs485", more=more)
    assert expected in only_problem(two_lanes(tmp_path, first, second))


def test_unit_0_is_refused_on_a_serial_line_where_it_is_everyone(tmp_path):
    text = RTU_METAL.format(name="m", port="/dev/rs485", more="unit = 0")
    assert "0 speaks to all units" in lane_problem(tmp_path, text)


def test_two_detectors_on_one_module_need_inputs_of_their_own(tmp_path):
    port = "tcp://10.0.0.5:502"
    first = RTU_METAL.format(name="m", port=port, more="")
    channels = [f"{s}_channel = {n + 4}" for n, s in enumerate(SIGNALS)]
    apart = RTU_METAL.format(name="m", port=port, more="\n".join(channels))
    assert problems_of(two_lanes(tmp_path / "apart", first, apart)) == []
    same = problems_of(two_lanes(tmp_path / "same", first, first))
    assert same
    assert all("reads the same" in problem for problem in same)


SIGNALS = ("alarm", "ready", "passage_in", "passage_out", "tamper", "saturated")


def test_blocks_that_look_alike_are_refused_where_a_late_reply_could_be_mistaken(tmp_path):
    metal = RTU_METAL.format(name="m", port="{}", more="").replace("moxa-e1212", "custom")
    metal += "counter_bits = 16\nalarm = {{counter = 10}}\npassage_in = {{counter = 900}}\n"
    serial = lane_problem(tmp_path / "rtu", metal.format("/dev/rs485"))
    assert "whose replies look alike" in serial
    assert problems_of(written(tmp_path / "tcp", one=metal.format("tcp://h:502"))) == []


@pytest.mark.parametrize(
    "port", ["COM3", "tcp://host", "udp://h:1", "/tmp/tty", "tcp://user:word@h:1", "tcp://h:99999"]
)
def test_a_port_of_another_form_is_refused(tmp_path, port):
    text = LANE.replace("tcp://127.0.0.1:1600", port)
    assert "expected /dev/… or tcp://host:port" in lane_problem(tmp_path, text)


@pytest.mark.parametrize("port", ["/dev/ttyUSB0", "/dev/ttyACM1"])
def test_a_numbered_adapter_is_warned_of_and_accepted(tmp_path, port):
    directory = written(tmp_path, one=LANE.replace("tcp://127.0.0.1:1600", port))
    assert "warning: devices.rpm.port" in only_problem(directory)
    assert load(directory).lanes[0].device("rpm").common.port == port


def test_a_lane_may_have_several_portals_and_the_first_that_tells_owns_its_passages(tmp_path):
    own = LANE.split("\n\n")[1]
    text = LANE.replace(
        own,
        own.replace("devices.rpm", "devices.area")
        .replace("rpm.rapiscan", "rpm.ludlum_375")
        .replace("tcp://127.0.0.1:1600", "listen://127.0.0.1:50000")
        + '\nlisten_callers = ["127.0.0.1"]\n\n'
        + own
        + "\n\n"
        + own.replace("devices.rpm", "devices.two").replace("1600", "1601"),
    )
    rules = load(written(tmp_path, one=text)).lanes[0].rules(run="r")
    assert list(rules.portals) == ["area", "rpm", "two"]
    assert (rules.teller, rules.owner) == ("rpm", "rpm")
    assert rules.traits_of("area").presence == "none"


PANEL = """
[devices.panel]
driver = "rpm.aspect"
port = "tcp://127.0.0.1:502"
"""
CALLER = """
[devices.area]
driver = "rpm.ludlum_375"
port = "listen://127.0.0.1:50000"
listen_callers = ["127.0.0.1"]
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (PANEL + "nsigma = 5.0", "rpm.aspect decides by no such setting and reads none"),
        (PANEL + 'algorithms = ["sum"]', "rpm.aspect decides by no such setting"),
        (PANEL.replace("tcp", "listen"), "rpm.aspect is a Modbus device, which never calls"),
        (PANEL + 'listen_callers = ["127.0.0.1"]', "expected a listen:// port beside it"),
        (CALLER.replace('["127.0.0.1"]', "[]"), "at least one address or network that may call"),
        (CALLER.replace('["127.0.0.1"]', '["0.0.0.0/0"]'), "would let everybody in"),
        (CALLER.replace('["127.0.0.1"]', '["::1"]'), "expected IPv4, as where it listens"),
        (
            CALLER.replace("127.0.0.1:50000", "0.0.0.0:50000"),
            "expected one address of this machine",
        ),
        (CALLER.replace("127.0.0.1:50000", "host:50000"), "an address in figures and no name"),
        (CALLER.replace("127.0.0.1:50000", "127.0.0.1:0"), "the port from 1 to 65535"),
        (CALLER + "baud = 9600", "a listen:// port has none"),
        (CALLER + CALLER.replace("area", "two"), "is already the port of devices.area"),
        (
            CALLER + 'relay_listen = "127.0.0.1:50000"\nrelay_clients = ["127.0.0.1"]',
            "is already used by the port of devices.area",
        ),
    ],
    ids=str,
)
def test_a_radiation_device_whose_options_do_not_fit_it_is_refused(tmp_path, text, expected):
    assert expected in lane_problem(tmp_path, text)


# ---------------------------------------------------------------- the way to the centre


def tls_gateway(**options: str) -> str:
    lines = "\n".join(f'{name} = "{value}"' for name, value in options.items())
    return f'[gateway]\nsite = "n"\ngw = "g"\n[mqtt]\nhost = "broker.example"\n{lines}\n'


@pytest.fixture
def tls(tmp_path, authority):
    directory = tmp_path / "tls"
    directory.mkdir()
    authority.write(directory / "ca.pem")
    authority.issue(directory, "gw", "n/g")
    return directory


FILES = {"ca_file": "tls/ca.pem", "cert_file": "tls/gw.pem", "key_file": "tls/gw.key"}


def test_a_whole_set_of_tls_files_is_accepted(tmp_path, tls):
    assert problems_of(written(tmp_path, tls_gateway(**FILES))) == []


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_may_use_is_refused(tmp_path, tls, mode):
    (tls / "gw.key").chmod(mode)
    problem = only_problem(written(tmp_path, tls_gateway(**FILES)))
    assert "gateway.toml:8: mqtt.key_file = " in problem
    assert f"has mode {mode:04o}" in problem
    assert "chmod 600" in problem


def test_a_password_file_that_others_may_read_is_refused(tmp_path):
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o644)
    text = tls_gateway(username="g", password_file="password")
    assert "mqtt.password_file" in only_problem(written(tmp_path, text))


def test_a_key_of_another_certificate_is_refused(tmp_path, tls, authority):
    authority.issue(tls, "other", "n/other")
    text = tls_gateway(**{**FILES, "key_file": "tls/other.key"})
    assert "the key is not this certificate's" in only_problem(written(tmp_path, text))


def test_an_encrypted_key_is_refused_and_nobody_is_asked_for_its_password(tmp_path, tls):
    encrypted = encrypted_copy(tls / "gw.key", b"word")
    text = tls_gateway(**{**FILES, "key_file": f"tls/{encrypted.name}"})
    assert "unencrypted PEM key" in only_problem(written(tmp_path, text))


def test_missing_empty_and_wrong_files_are_told_one_by_one(tmp_path, tls):
    (tls / "gw.pem").unlink()
    (tls / "ca.pem").write_text("no certificate")
    (tls / "gw.key").write_text("")
    found = problems_of(written(tmp_path, tls_gateway(**FILES)))
    assert len(found) == 3
    assert any("holds no PEM certificate" in problem for problem in found)
    assert any("no such file" in problem for problem in found)
    assert any("is empty" in problem for problem in found)


def test_half_a_pair_is_refused(tmp_path, tls):
    for name, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        found = problems_of(written(tmp_path, tls_gateway(**{name: FILES[name]})))
        assert any(f"mqtt.{name} = " in p and f"expected {other} beside it" in p for p in found)


@pytest.mark.parametrize(
    ("host", "is_accepted"),
    [("localhost", True), ("127.0.0.1", True), ("::1", True), ("127.0.0.1.evil.example", False),
     ("broker.example", False), ("0.0.0.0", False), ("192.168.1.1", False)],
)  # fmt: skip
def test_only_a_broker_on_this_machine_may_go_without_tls(tmp_path, host, is_accepted):
    directory = written(tmp_path, GATEWAY.replace("localhost", host))
    assert examine(directory).is_usable == is_accepted
    if not is_accepted:
        assert "gateway.toml:7: mqtt.tls = false: expected true" in only_problem(directory)


def test_a_key_pasted_into_the_file_is_refused_and_not_shown(tmp_path):
    pasted = tls_gateway(cert_file="x", key_file="-----BEGIN PRIVATE KEY-----\\nMIGHAgEAMB")
    found = problems_of(written(tmp_path, pasted))
    assert found
    assert not any("MIGHAgEAMB" in problem for problem in found)


def test_a_credential_of_the_running_service_is_not_missed_outside_it(tmp_path, tls):
    name = "/run/credentials/checkpointd.service/mqtt-key"
    directory = written(tmp_path, tls_gateway(**{**FILES, "key_file": name}))
    assert "warning: mqtt.key_file" in only_problem(directory)
    assert examine(directory).is_usable


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (ENDS + timedelta(days=1), "expired on 2056-01-01"),
        (datetime(1970, 1, 1, 0, 1, tzinfo=UTC), "is not valid before 2026-01-01 00:00 UTC"),
    ],
)
def test_a_certificate_out_of_date_is_warned_of_and_measuring_goes_on(tmp_path, tls, now, expected):
    directory = written(tmp_path, tls_gateway(**FILES))
    found = problems_of(directory, now=now)
    assert len(found) == 2  # the authority's and ours
    assert all("warning" in problem and expected in problem for problem in found)
    load(directory, now=now)


@pytest.mark.parametrize("year", [1999, 2049, 2050, 2200])
def test_validity_is_read_as_another_reader_reads_it(tmp_path, authority, year):
    """2050 is where the certificate's own form of the date changes."""
    ends = datetime(year, 12, 31, 23, 59, 58, tzinfo=UTC)
    path, _ = authority.issue(
        tmp_path, "c", "x" * 60, begins=datetime(1990, 2, 3, tzinfo=UTC), ends=ends
    )
    independent = x509.load_pem_x509_certificate(path.read_bytes())
    span = validity(path)
    assert span is not None
    assert span.ends == independent.not_valid_after_utc == ends
    assert span.begins == independent.not_valid_before_utc


@given(st.binary(max_size=80))
def test_no_bytes_for_a_certificate_raise(data):
    assert validity_of(data) is None


def test_a_truncated_certificate_has_no_validity(tmp_path, authority):
    path, _ = authority.issue(tmp_path, "c", "x")
    der = x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER)
    assert validity_of(der).begins == BEGINS
    assert all(validity_of(der[:size]) is None for size in range(len(der)))


# ---------------------------------------------------------------- --set


def test_an_override_is_checked_like_the_files_own_value(tmp_path):
    path = written(tmp_path) / "lanes/one.toml"
    lane = load_lane(path, ["devices.rpm.nsigma=4.5", 'lane.name="Two"', "devices.rpm.intervals=3"])
    assert lane.lane_id == "one"
    assert lane.lane.name == "Two"
    assert lane.device("rpm").kind_options.nsigma == 4.5
    assert lane.device("rpm").kind_options.intervals == 3


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("devices.rpm.nsigma=99", "--set: devices.rpm.nsigma = 99: expected a number from 1 to 20"),
        (
            "devices.rpm.nsgima=4",
            "--set: devices.rpm.nsgima: there is no such option; did you mean",
        ),
        (
            "devices.rmp.nsigma=4",
            "expected devices.NAME.OPTION=VALUE with a device of the file: rpm",
        ),
        ("devices.rpm=4", "expected devices.NAME.OPTION=VALUE"),
        ("lane.name=Two", "write text in quotes, 'lane.name=\"Two\"'"),
        ("nsigma=4", "expected TABLE.OPTION=VALUE"),
        ("lane.join_gap_s", "expected TABLE.OPTION=VALUE"),
        ("lane.join_gap_s=", "expected TABLE.OPTION=VALUE"),
        ("lane.join_gap_s=1\nx=2", "expected one value"),
        ("lanes.x=1", "--set: lanes: there is no such table; did you mean lane?"),
    ],
)
def test_a_wrong_override_is_told_as_such(tmp_path, setting, expected):
    path = written(tmp_path) / "lanes/one.toml"
    with pytest.raises(ConfigError) as caught:
        load_lane(path, [setting])
    assert len(caught.value.problems) == 1
    assert expected in str(caught.value)
    assert "--set" in str(caught.value)


def test_the_same_lane_comes_of_its_file_alone_and_of_the_whole_directory(tmp_path):
    directory = written(tmp_path)
    assert load_lane(directory / "lanes/one.toml") == load(directory).lanes[0]


# ---------------------------------------------------------------- options' declarations


@pytest.mark.parametrize("name", names())
def test_no_option_of_a_driver_is_also_one_of_its_kind_or_of_every_device(name):
    every = [
        option
        for options in (DeviceOptions, KIND_OPTIONS[kind_of(name)], find(name).options)
        for option in options_of(options)
    ]
    assert sorted(every) == sorted(set(every))


def test_every_option_has_a_text_and_a_quantity_its_unit():
    kinds = [GatewayOptions, MqttOptions, JournalOptions, LaneOptions, DeviceOptions]
    kinds += [*KIND_OPTIONS.values(), *(find(name).options for name in names())]
    for kind in kinds:
        for option in options_of(kind).values():
            assert option.description, f"{kind.__module__}.{option.name}"
            if re.search(r"_(s|kg|cps|bytes)$", option.name):
                assert re.search(r"\[[a-z/]+\]", option.description), option.name


# ---------------------------------------------------------------- revision, difference, last good


def test_the_revision_is_of_names_and_bytes_alone(tmp_path):
    first = load(written(tmp_path / "a")).revision
    assert re.fullmatch(r"[0-9a-f]{64}", first)
    assert load(written(tmp_path / "b")).revision == first
    assert load(written(tmp_path / "c", GATEWAY + "\n")).revision != first
    assert load(written(tmp_path / "d", two=LANE)).revision != first


def test_a_difference_is_told_option_by_option(tmp_path):
    scale = '\n[devices.scale]\ndriver = "scale.toledo"\nport = "/dev/scale"\n'
    old = load(
        written(tmp_path / "old", one=LANE + "nsigma = 4\n" + scale, gone=LANE.replace("1600", "1"))
    )
    new_one = LANE.replace('"One"', '"Uno"') + "nsigma = 5.5\n"
    new_gateway = GATEWAY + "window = 5\n"
    new = load(written(tmp_path / "new", new_gateway, one=new_one, added=LANE.replace("1600", "2")))
    changes = difference(old, new)
    assert changes.lines == (
        "gateway.toml: mqtt.window 20 → 5",
        "lanes/added.toml: lane added",
        "lanes/gone.toml: lane removed",
        'lanes/one.toml: lane.name "One" → "Uno"',
        "lanes/one.toml: devices.rpm.nsigma 4.0 → 5.5",
        "lanes/one.toml: devices.scale removed (scale.toledo on /dev/scale)",
    )
    assert (changes.lanes_added, changes.lanes_removed) == (("added",), ("gone",))
    assert changes.lanes_changed == ("one",)
    assert changes.mqtt_changed
    assert not changes.gateway_changed
    assert not changes.journal_changed


def test_another_comment_is_another_revision_and_no_difference(tmp_path):
    old = load(written(tmp_path / "a"))
    new = load(written(tmp_path / "b", GATEWAY + "# said\n"))
    assert old.revision != new.revision
    assert difference(old, new).is_empty


def test_another_driver_for_a_device_is_a_difference(tmp_path):
    scale = '[devices.s]\ndriver = "scale.{}"\nport = "/dev/s"\n'
    old = load(written(tmp_path / "a", one=scale.format("toledo")))
    new = load(written(tmp_path / "b", one=scale.format("mt_sics")))
    changes = difference(old, new)
    assert changes.lines == ('lanes/one.toml: devices.s.driver "scale.toledo" → "scale.mt_sics"',)
    assert changes.lanes_changed == ("one",)


def test_the_last_good_copy_brings_the_same_configuration_back(tmp_path, tls):
    directory = written(tmp_path, tls_gateway(**FILES))
    state = tmp_path / "state"
    state.mkdir()
    assert load_last_good(state, directory) is None
    config = load(directory)
    assert save_last_good(config, directory, state)
    assert load_last_good(state, directory) == config
    assert (state / "last-good").resolve().stat().st_mode & 0o777 == 0o700
    assert all(p.stat().st_mode & 0o077 == 0 for p in (state / "last-good").rglob("*.toml"))


def test_the_last_good_copy_is_followed_by_the_next_and_no_other_is_left(tmp_path):
    directory, state = written(tmp_path / "etc"), tmp_path / "state"
    state.mkdir()
    save_last_good(load(directory), directory, state)
    written(directory, GATEWAY + "window = 7\n")
    config = load(directory)
    assert save_last_good(config, directory, state)
    assert load_last_good(state, directory).mqtt.window == 7
    assert len(list(state.iterdir())) == 2  # the copy and the link to it


def test_files_that_changed_meanwhile_are_not_kept_as_good(tmp_path):
    directory, state = written(tmp_path / "etc"), tmp_path / "state"
    state.mkdir()
    config = load(directory)
    written(directory, GATEWAY + "window = 7777\n")
    assert not save_last_good(config, directory, state)
    assert load_last_good(state, directory) is None


def test_the_same_copy_is_not_written_twice(tmp_path):
    directory, state = written(tmp_path / "etc"), tmp_path / "state"
    state.mkdir()
    config = load(directory)
    save_last_good(config, directory, state)
    before = (state / "last-good" / "gateway.toml").stat()
    save_last_good(config, directory, state)
    after = (state / "last-good" / "gateway.toml").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("dies_at", range(40))
def test_a_copy_cut_off_at_any_step_leaves_the_old_or_the_new(tmp_path, monkeypatch, dies_at):
    """The process is ended at the n-th change of the disk; what is found after it is whole."""
    directory, state = written(tmp_path / "etc"), tmp_path / "state"
    state.mkdir()
    old = load(directory)
    save_last_good(old, directory, state)
    written(directory, GATEWAY + "window = 7\n")
    new = load(directory)
    steps = iter(range(1000))

    class CutOffError(BaseException):
        pass

    def counted(name, real):
        def step(*args, **kwargs):
            if next(steps) == dies_at:
                raise CutOffError(name)
            return real(*args, **kwargs)

        return step

    for owner, name in (
        (os, "fsync"),
        (os, "fchmod"),
        (shutil, "rmtree"),
        (Path, "mkdir"),
        (Path, "rename"),
        (Path, "replace"),
        (Path, "symlink_to"),
    ):
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    try:
        save_last_good(new, directory, state)
        was_cut = False
    except CutOffError:
        was_cut = True
    monkeypatch.undo()
    found = load_last_good(state, directory)
    assert found in (old, new)
    assert was_cut or found == new
    assert save_last_good(new, directory, state)  # and the next attempt heals it
    assert load_last_good(state, directory) == new
    assert sorted(p.name for p in state.iterdir()) == [
        "last-good",
        f"last-good-{new.revision[:16]}",
    ]


def test_a_last_good_copy_whose_key_is_gone_says_so(tmp_path, tls):
    directory, state = written(tmp_path, tls_gateway(**FILES)), tmp_path / "state"
    state.mkdir()
    save_last_good(load(directory), directory, state)
    (tls / "gw.key").unlink()
    with pytest.raises(ConfigError, match="key_file"):
        load_last_good(state, directory)


# ---------------------------------------------------------------- check


def test_check_says_good_and_what_changes(tmp_path):
    directory, state = written(tmp_path / "etc"), tmp_path / "state"
    state.mkdir()
    save_last_good(load(directory), directory, state)
    against = state / "last-good"
    text, code = checked(directory, against=against)
    assert code == 0
    assert "north/gw-1, lanes one, 1 devices" in text
    assert text.endswith("Nothing changes.")
    written(directory, GATEWAY + "window = 7\n")
    text, code = checked(directory, against=against)
    assert code == 0
    assert text.endswith("What changes:\n  gateway.toml: mqtt.window 20 → 7")


def test_check_ends_with_2_on_a_problem_and_0_on_a_warning(tmp_path):
    text, code = checked(written(tmp_path / "a", one=LANE + "nsigma = 0\n"))
    assert code == 2
    assert text.endswith("1 problem; nothing changes")
    port = LANE.replace("tcp://127.0.0.1:1600", "/dev/ttyUSB0")
    text, code = checked(written(tmp_path / "b", one=port))
    assert code == 0
    assert "warning" in text


def test_check_speaks_to_machines(tmp_path):
    text, code = checked(written(tmp_path, one=LANE + "nsigma = 0\n"), as_json=True)
    said = json.loads(text)
    assert code == 2
    assert said["ok"] is False
    (problem,) = said["problems"]
    assert (problem["file"], problem["line"]) == ("lanes/one.toml", 7)
    assert problem["option"] == "devices.rpm.nsigma"


def test_lanes_stand_in_the_order_of_their_names(tmp_path):
    lanes = {name: LANE.replace("1600", str(1700 + n)) for n, name in enumerate(("c", "a", "b"))}
    config = load(written(tmp_path, **lanes))
    assert [lane.lane_id for lane in config.lanes] == ["a", "b", "c"]
