"""What one option alone cannot tell: files, options that need each other, devices of a lane."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from agent.config import certificates
from agent.config.problems import Problem
from agent.config.source import Source
from agent.lane.calibration import permissible_error_kg
from agent.lane.options import RpmOptions, ScaleOptions
from agent.settings import JournalOptions, LaneConfig, MqttOptions

CREDENTIALS = "/run/credentials/"


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
    portals = [d for d in lane.devices if isinstance(d.kind_options, RpmOptions)]
    for extra in portals[1:]:
        text = f"expected one portal in a lane, and {portals[0].name} is it; make another lane file"
        yield source.problem(("devices", extra.name, "driver"), text, value=extra.driver.name)
    for device in portals:
        options = device.kind_options
        assert isinstance(options, RpmOptions)
        for name in ("detectors", "algorithms"):
            given = getattr(options, name)
            if len(set(given)) != len(given):
                path = ("devices", device.name, name)
                yield source.problem(path, "expected each entry once", value=given)
    for device in lane.devices:
        if isinstance(device.kind_options, ScaleOptions):
            yield from _declared_errors(device.name, device.kind_options, source)


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
    if str(path).startswith(CREDENTIALS) and not path.exists():
        text = "exists only while the service runs, so it is not checked here"
        yield _of(source, option, text, str(path), is_warning=True)
        return
    trouble = certificates.readable_trouble(path)
    if trouble is not None:
        text = f"{trouble}; expected a file that the user of this program may read"
        yield _of(source, option, text, str(path))
    if option in ("key_file", "password_file"):
        trouble = certificates.secrecy_trouble(path)
        if trouble is not None:
            yield _of(source, option, trouble, str(path))


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
