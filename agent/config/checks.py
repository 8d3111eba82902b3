"""What one option alone cannot tell: files, options that need each other, devices of a lane."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from agent.config import certificates
from agent.config.options import did_you_mean
from agent.config.problems import Problem
from agent.config.source import OptionPath, Source
from agent.lane.instruments.calibration import permissible_error_kg
from agent.lane.options.instruments import ContactOptions, MetalOptions, OutputOptions
from agent.lane.options.portals import RpmOptions
from agent.lane.options.scales import ScaleOptions
from agent.settings import DeviceConfig, JournalOptions, LaneConfig, MqttOptions

CREDENTIALS = "/run/credentials/"
TSA_DETECTORS = 4
TSA_OPTIONS = ("nsigma", "intervals", "algorithms")
"""What only the portals have whose decision is recomputed."""


def check_mqtt(mqtt: MqttOptions, source: Source, *, now: datetime | None) -> Iterator[Problem]:
    """Yield what is wrong with ``[mqtt]`` and its files; ``now`` None: no expiry is looked at."""
    yield from _needs(mqtt, source)
    yield from _encryption(mqtt, source)
    usable = set()
    for option in ("ca_file", "cert_file", "key_file", "password_file"):
        name = getattr(mqtt, option)
        if name is None:
            continue
        wrong = list(_file(Path(name), option, source))
        yield from wrong
        if not wrong:
            usable.add(option)
    if {"cert_file", "key_file"} <= usable:
        assert mqtt.cert_file is not None
        assert mqtt.key_file is not None
        trouble = certificates.pair_trouble(Path(mqtt.cert_file), Path(mqtt.key_file))
        if trouble is not None:
            yield _of(source, "cert_file", trouble, mqtt.cert_file)
    if "ca_file" in usable and mqtt.ca_file is not None:
        trouble = certificates.authority_trouble(Path(mqtt.ca_file))
        if trouble is not None:
            yield _of(source, "ca_file", trouble, mqtt.ca_file)
    for option in usable & {"ca_file", "cert_file"}:
        if now is not None:
            yield from _expiry(getattr(mqtt, option), option, source, now)


def check_journal(journal: JournalOptions, source: Source) -> Iterator[Problem]:
    """Yield what is wrong with ``[journal]``."""
    if journal.reserve_bytes * 2 > journal.max_bytes:
        text = f"expected at most half of max_bytes, {journal.max_bytes // 2} [bytes]"
        yield source.problem(("journal", "reserve_bytes"), text, value=journal.reserve_bytes)


def check_lane(lane: LaneConfig, source: Source) -> Iterator[Problem]:
    """Yield what is wrong between the devices of one lane."""
    for device in lane.devices:
        options = device.kind_options
        if not isinstance(options, RpmOptions):
            continue
        yield from _by_rule(device, options, source)
        for name in ("detectors", "algorithms"):
            given = getattr(options, name)
            if len(set(given)) != len(given):
                path = ("devices", device.name, name)
                yield source.problem(path, "expected each entry once", value=given)
    yield from _untested(lane, source)
    for device in lane.devices:
        if isinstance(device.kind_options, ContactOptions):
            yield from _roles(device, device.kind_options, source)
            yield from _tested(device, device.kind_options, lane, source)
        if isinstance(device.kind_options, OutputOptions):
            yield from _outputs(device, device.kind_options, lane, source)
        if isinstance(device.kind_options, ScaleOptions):
            yield from _declared_errors(device.name, device.kind_options, source)


def _outputs(
    device: DeviceConfig, options: OutputOptions, lane: LaneConfig, source: Source
) -> Iterator[Problem]:
    """Yield a barrier that could never close, and outputs that nobody makes safe."""
    at = ("devices", device.name)
    contacts = [d.kind_options for d in lane.devices if isinstance(d.kind_options, ContactOptions)]
    if options.barrier == "routine" and not any(c.under_barrier for c in contacts):
        text = (
            "expected a lane.contacts device with under_barrier: a barrier is closed only where "
            "a contact says that nothing is under it"
        )
        yield source.problem((*at, "barrier"), text, value=options.barrier)
    if not getattr(device.driver_options, "watchdog_s", 0.0):
        text = (
            "the module has no watchdog: when the agent dies its outputs stay as they are; set "
            "the module's own and say so with watchdog_s"
        )
        yield source.problem((*at, "watchdog_s"), text, is_warning=True)


def _roles(device: DeviceConfig, options: ContactOptions, source: Source) -> Iterator[Problem]:
    """Yield the contacts that have a role and no input, or two roles."""
    wired = getattr(device.driver_options, "inputs", {})
    single = ("barrier_closed", "barrier_open", "metal_test")
    roles = ("presence", "tamper", "door", "under_barrier", *single, "metal_test_of")
    for role in roles:
        given = getattr(options, role) or ()
        if isinstance(given, dict):
            names = tuple(dict.fromkeys(given.values()))
        else:
            names = (given,) if isinstance(given, str) else given
        for name in names:
            path = ("devices", device.name, role)
            if name not in wired:
                text = f'there is no input "{name}"; {did_you_mean(name, wired)}'
                yield source.problem(path, text, value=given)
            elif options.named.count(name) > 1:
                text = f'input "{name}" has two roles; give each contact one'
                yield source.problem(path, text, value=given)


def _tested(
    device: DeviceConfig, options: ContactOptions, lane: LaneConfig, source: Source
) -> Iterator[Problem]:
    """Yield the switches of metal detectors that are none of the lane's, or have another."""
    metals = [d.name for d in lane.devices if d.kind == "metal"]
    path = ("devices", device.name, "metal_test_of")
    for name in options.metal_test_of:
        if name not in metals:
            text = f'there is no metal detector "{name}" in this lane; {did_you_mean(name, metals)}'
            yield source.problem(path, text, value=options.metal_test_of)
        first = next(
            d.name
            for d in lane.devices
            if isinstance(d.kind_options, ContactOptions) and name in d.kind_options.metal_test_of
        )
        if first != device.name:
            text = f'"{name}" has its test switch at {first} already; give it one'
            yield source.problem(path, text, value=options.metal_test_of)


def _untested(lane: LaneConfig, source: Source) -> Iterator[Problem]:
    """Yield the metal detectors whose test falls due and could never be announced."""
    contacts = [d.kind_options for d in lane.devices if isinstance(d.kind_options, ContactOptions)]
    if any(options.metal_test for options in contacts):
        return
    switched = {name for options in contacts for name in options.metal_test_of}
    for device in lane.devices:
        options = device.kind_options
        if not isinstance(options, MetalOptions) or options.test_every_h is None:
            continue
        if device.name not in switched:
            text = (
                "a test falls due and no switch announces one, so that none is ever recorded; wire "
                "a key switch to a lane.contacts device and name it there with metal_test"
            )
            path = ("devices", device.name, "test_every_h")
            yield source.problem(path, text, value=options.test_every_h, is_warning=True)


def _by_rule(device: DeviceConfig, options: RpmOptions, source: Source) -> Iterator[Problem]:
    """Yield the options of a portal that its way of deciding leaves unread."""
    tables = source.table.get("devices")
    table = tables.get(device.name, {}) if isinstance(tables, dict) else {}
    unread: tuple[str, ...] = ()
    if device.driver.gamma_rule == "tsa":
        unread = ("gamma_alarm_sigma",)
        if len(options.detectors) != TSA_DETECTORS:
            text = f"expected a list of {TSA_DETECTORS} entries, one for each of its detectors"
            path = ("devices", device.name, "detectors")
            yield source.problem(path, text, value=options.detectors)
    elif device.driver.gamma_rule == "own":
        unread = TSA_OPTIONS
    else:
        unread = (*TSA_OPTIONS, "gamma_alarm_sigma", "detectors")
    for name in unread:
        if name in table:
            text = f"{device.driver.name} decides by no such setting and reads none; take it out"
            value = getattr(options, name)
            yield source.problem(("devices", device.name, name), text, value=value)


def _declared_errors(name: str, options: ScaleOptions, source: Source) -> Iterator[Problem]:
    declared = options.calibration
    if declared is None or options.e_kg is None:
        return
    path = ("devices", name, "calibration", "errors_kg")
    for load_kg, error_kg in declared.errors_kg:
        limit_kg = permissible_error_kg(
            load_kg, e_kg=options.e_kg, accuracy_class=declared.accuracy_class, in_service=True
        )
        if limit_kg is None or abs(error_kg) > limit_kg:
            allowed = "nothing" if limit_kg is None else f"{limit_kg:g} kg"
            text = (
                f"{load_kg:g} kg was left {error_kg:+g} kg off, where class "
                f"{declared.accuracy_class} in service permits {allowed}"
            )
            yield source.problem(path, text, is_warning=True)


def is_loopback(host: str) -> bool:
    """Tell whether a connection to that host cannot leave this machine."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _needs(mqtt: MqttOptions, source: Source) -> Iterator[Problem]:
    pairs = (("cert_file", "key_file"), ("key_file", "cert_file"))
    for option, other in (*pairs, ("username", "password_file"), ("password_file", "username")):
        value = getattr(mqtt, option)
        if value is not None and getattr(mqtt, other) is None:
            yield _of(source, option, f"expected {other} beside it", value)


def _encryption(mqtt: MqttOptions, source: Source) -> Iterator[Problem]:
    if not mqtt.tls:
        if not is_loopback(mqtt.host):
            text = (
                f"expected true: the way to {mqtt.host} would be readable and open to forgery; "
                "only a broker on this machine (localhost) may go without"
            )
            yield source.problem(("mqtt", "tls"), text, value=mqtt.tls)
        for option in ("ca_file", "cert_file", "key_file"):
            if getattr(mqtt, option) is not None:
                text = "has no effect while tls = false"
                value = getattr(mqtt, option)
                yield source.problem(("mqtt", option), text, value=value, is_warning=True)
    elif mqtt.cert_file is None and mqtt.username is None:
        text = "neither cert_file nor username is set; most brokers will refuse this gateway"
        yield source.problem(("mqtt",), text, is_warning=True)


def _file(path: Path, option: str, source: Source) -> Iterator[Problem]:
    at = ("mqtt", option)
    if option in ("key_file", "password_file"):
        yield from check_secret_file(path, at, source)
    else:
        yield from _readable(path, at, source)


def check_secret_file(path: Path, at: OptionPath, source: Source) -> Iterator[Problem]:
    """Yield why a file that holds a secret cannot be read, or who else can read it."""
    yield from _readable(path, at, source)
    trouble = certificates.secrecy_trouble(path)
    if trouble is not None:
        yield source.problem(at, trouble, value=str(path))


def _readable(path: Path, at: OptionPath, source: Source) -> Iterator[Problem]:
    if str(path).startswith(CREDENTIALS) and not path.exists():
        text = "exists only while the service runs, so it is not checked here"
        yield source.problem(at, text, value=str(path), is_warning=True)
        return
    trouble = certificates.readable_trouble(path)
    if trouble is not None:
        text = f"{trouble}; expected a file that the user of this program may read"
        yield source.problem(at, text, value=str(path))


def _expiry(name: str, option: str, source: Source, now: datetime) -> Iterator[Problem]:
    # A warning only: measuring goes on with an old certificate, and after a boot without network
    # it may be the clock that is wrong.
    span = certificates.validity(Path(name))
    if span is None:
        return
    if now > span.ends:
        text = f"expired on {span.ends:%Y-%m-%d}; the broker will refuse it, have it renewed"
    elif now < span.begins:
        text = f"is not valid before {span.begins:%Y-%m-%d %H:%M} UTC; check this machine's clock"
    else:
        return
    yield _of(source, option, text, name, is_warning=True)


def _of(source: Source, option: str, text: str, value: str, *, is_warning: bool = False) -> Problem:
    return source.problem(("mqtt", option), text, value=value, is_warning=is_warning)
