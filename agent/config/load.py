"""Configuration files to a checked, frozen ``Config``, or to every problem at once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from types import MappingProxyType

from agent.config.checks import check_journal, check_lane, check_mqtt
from agent.config.identity_key import check_key, check_readers
from agent.config.options import ID_PATTERN, ID_TEXT, did_you_mean, fill, fill_flat, unknown
from agent.config.ports import User, check_ports
from agent.config.problems import ConfigError, Problem
from agent.config.relays import check_relays
from agent.config.source import (
    GATEWAY_FILE,
    Files,
    Source,
    Table,
    override,
    parse,
    read_file,
    read_files,
)
from agent.lane.options.instruments import (
    ContactOptions,
    IdentityOptions,
    MetalOptions,
    OutputOptions,
)
from agent.lane.options.lane import LaneOptions
from agent.lane.options.portals import RpmOptions
from agent.lane.options.rules import KindOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.options.spectral import SpectralOptions
from agent.settings import (
    Config,
    DeviceConfig,
    DeviceOptions,
    GatewayOptions,
    JournalOptions,
    LaneConfig,
    MqttOptions,
)
from drivers.base import KINDS, DriverType, find, names

KIND_OPTIONS: MappingProxyType[str, type[KindOptions]] = MappingProxyType(
    {
        "rpm": RpmOptions,
        "scale": ScaleOptions,
        "metal": MetalOptions,
        "lane.contacts": ContactOptions,
        "lane.identity_line": IdentityOptions,
        "lane.outputs": OutputOptions,
    }
)
"""The lane's side of a device, by its kind; devices of kind lane differ, each driver by itself."""
GATEWAY_TABLES = ("gateway", "mqtt", "journal")
LANE_TABLES = ("lane", "spectral", "devices")

_ID = re.compile(ID_PATTERN.removesuffix("$") + r"\Z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """What stands in the files.

    ``config`` None: some option is wrong or missing. It can be there and still not be usable:
    problems between options, devices and files leave it whole.
    """

    config: Config | None
    problems: tuple[Problem, ...]

    @property
    def is_usable(self) -> bool:
        """Tell whether nothing but warnings was found."""
        return self.config is not None and all(p.is_warning for p in self.problems)


def load(directory: Path, *, now: datetime | None = None) -> Config:
    """Return the configuration that stands in a directory; see ``examine``.

    Raises
    ------
    ConfigError
        With every problem, where there is one that is not a warning.
    """
    examined = examine(directory, now=now)
    if examined.config is None or not examined.is_usable:
        raise ConfigError(examined.problems)
    return examined.config


def examine(
    directory: Path, *, relative_to: Path | None = None, now: datetime | None = None
) -> Examined:
    """Return what stands in a directory, warnings included.

    ``relative_to`` is where relative file names begin; None: in that directory. ``now``:
    certificates are held against it; None: they are not.
    """
    files, problems = read_files(directory)
    return examine_files(files, problems, base=relative_to or directory, now=now)


def examine_files(
    files: Files, problems: Sequence[Problem], *, base: Path, now: datetime | None
) -> Examined:
    """Return what stands in files already read."""
    found = list(problems)
    sources: dict[str, Source] = {}
    for name, content in files.contents.items():
        parsed = parse(name, content)
        if isinstance(parsed, Problem):
            found.append(parsed)
        else:
            sources[name] = parsed
    head = _Head()
    if GATEWAY_FILE in sources:
        head = _head(sources[GATEWAY_FILE], base, found, now)
    lanes: list[LaneConfig] = []
    users: list[User] = []
    for name, source in sources.items():
        if name == GATEWAY_FILE:
            continue
        lane, devices = _lane(source, found)
        users += devices
        if lane is not None:
            lanes.append(lane)
    found += check_ports(users)
    found += check_relays(users)
    if head.gateway is not None:
        found += check_readers(users, head.gateway)
    is_whole = len(sources) == len(files.contents) and len(lanes) == len(sources) - 1
    if not is_whole or not lanes or not head.gateway or not head.mqtt or not head.journal:
        return Examined(config=None, problems=tuple(found))
    config = Config(
        gateway=head.gateway,
        mqtt=head.mqtt,
        journal=head.journal,
        lanes=tuple(lanes),
        revision=files.revision,
    )
    return Examined(config=config, problems=tuple(found))


def load_lane(path: Path, overrides: Sequence[str] = ()) -> LaneConfig:
    """Return one lane's file, with ``table.option=VALUE`` texts put over it.

    Raises
    ------
    ConfigError
        With every problem; that of an override says ``--set``.
    """
    content = read_file(path, path.name)
    if isinstance(content, Problem):
        raise ConfigError([content])
    source = parse(path.name, content)
    if isinstance(source, Problem):
        raise ConfigError([source])
    source, problems = override(source, overrides)
    lane, users = _lane(source, problems)
    problems += check_ports(users)
    problems += check_relays(users)
    if lane is None or any(not problem.is_warning for problem in problems):
        raise ConfigError(problems)
    return lane


@dataclass(slots=True)
class _Head:
    """What ``gateway.toml`` holds; None: not there, or wrong."""

    gateway: GatewayOptions | None = None
    mqtt: MqttOptions | None = None
    journal: JournalOptions | None = None


def _head(source: Source, base: Path, found: list[Problem], now: datetime | None) -> _Head:
    found += unknown(source.table, GATEWAY_TABLES, source, (), "table")
    gateway, wrong = fill(GatewayOptions, _table(source, "gateway", found), source, ("gateway",))
    found += wrong
    if gateway is not None:
        gateway = replace(gateway, identity_key_file=_absolute(base, gateway.identity_key_file))
        found += check_key(gateway, source)
    mqtt, wrong = fill(MqttOptions, _table(source, "mqtt", found), source, ("mqtt",))
    found += wrong
    journal, wrong = fill(JournalOptions, _table(source, "journal", found), source, ("journal",))
    found += wrong
    if mqtt is not None:
        mqtt = replace(
            mqtt,
            ca_file=_absolute(base, mqtt.ca_file),
            cert_file=_absolute(base, mqtt.cert_file),
            key_file=_absolute(base, mqtt.key_file),
            password_file=_absolute(base, mqtt.password_file),
        )
        found += check_mqtt(mqtt, source, now=now)
    if journal is not None:
        journal = replace(journal, path=str(base.absolute() / journal.path))
        found += check_journal(journal, source)
    return _Head(gateway, mqtt, journal)


def _absolute(base: Path, name: str | None) -> str | None:
    return None if name is None else str(base.absolute() / name)


def _table(source: Source, name: str, found: list[Problem]) -> Table:
    table = source.table.get(name, {})
    if isinstance(table, dict):
        return table
    found.append(source.problem((name,), f"expected a table, [{name}]", value=table))
    return {}


def _lane(source: Source, found: list[Problem]) -> tuple[LaneConfig | None, list[User]]:
    """Return the lane, None where something in it is wrong, and its devices that are right."""
    lane_id = Path(source.name).stem
    before = len(found)
    if _ID.match(lane_id) is None:
        found.append(Problem(file=source.name, text=f"expected a lane id as file name: {ID_TEXT}"))
    found += unknown(source.table, LANE_TABLES, source, (), "table")
    options, wrong = fill(LaneOptions, _table(source, "lane", found), source, ("lane",))
    found += wrong
    spectral = None
    if "spectral" in source.table:
        given = _table(source, "spectral", found)
        spectral, wrong = fill(SpectralOptions, given, source, ("spectral",))
        found += wrong
    tables = _table(source, "devices", found)
    if not tables:
        text = "expected at least one device, a table [devices.NAME] with its driver and port"
        found.append(source.problem(("devices",), text))
    devices = []
    for name, table in tables.items():
        device, wrong = _device(name, table, source)
        found += wrong
        if device is not None:
            devices.append(device)
    users = [User(device, source) for device in devices]
    is_whole = len(found) == before
    if not is_whole or options is None:
        return None, users
    lane = LaneConfig(lane_id=lane_id, lane=options, devices=tuple(devices), spectral=spectral)
    found += check_lane(lane, source)
    return lane, users


def _device(name: str, table: object, source: Source) -> tuple[DeviceConfig | None, list[Problem]]:
    at = ("devices", name)
    if not isinstance(table, dict):
        text = f"expected a table, [devices.{name}]"
        return None, [source.problem(at, text, value=table)]
    problems = []
    if _ID.match(name) is None:
        problems.append(source.problem(at, f"expected a device name of {ID_TEXT}"))
    driver = _driver(table, source, at)
    if isinstance(driver, Problem):
        return None, [*problems, driver]
    kind = driver.name.partition(".")[0]
    of_kind = KIND_OPTIONS[kind_of(driver.name)]
    kinds = (DeviceOptions, of_kind, driver.options)
    filled, wrong = fill_flat(kinds, table, source, at)
    problems += wrong
    if filled is None or problems:
        return None, problems
    try:
        driver.make(filled[-1])
    except ValueError as exc:  # what only the driver itself can tell: a sample frame, a map
        return None, [source.problem(at, str(exc))]
    common, kind_options, driver_options = filled
    assert isinstance(common, DeviceOptions)
    assert isinstance(kind_options, KindOptions)
    device = DeviceConfig(
        name=name,
        kind=kind,
        common=common,
        driver=driver,
        driver_options=driver_options,
        kind_options=kind_options,
    )
    return device, []


def kind_of(driver: str) -> str:
    """Return under which name a driver's kind stands in KIND_OPTIONS."""
    return driver if driver in KIND_OPTIONS else driver.partition(".")[0]


def _driver(table: Table, source: Source, at: tuple[str, ...]) -> DriverType | Problem:
    path = (*at, "driver")
    name = table.get("driver")
    known = names()
    if name is None:
        text = f"missing; expected one of {', '.join(known)}"
        return source.problem(path, text)
    if not isinstance(name, str) or name not in known or name.partition(".")[0] not in KINDS:
        text = f"there is no such driver; {did_you_mean(str(name), known)}"
        return source.problem(path, text, value=name)
    return find(name)
