"""Every driver with every option it takes, told from the option dataclasses themselves."""

from __future__ import annotations

from dataclasses import dataclass

from agent.config.load import KIND_OPTIONS, kind_of
from agent.config.options import Option, options_of
from agent.settings import DeviceOptions
from drivers.base import find, names


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverListing:
    """One driver: its own options, those of its kind and those that every device has."""

    name: str
    kind: str
    """Whose options it shares: its kind, or itself where it shares them with none."""
    is_modbus: bool
    line: str
    own: tuple[Option, ...]
    of_kind: tuple[Option, ...]
    common: tuple[Option, ...]


def describe_drivers() -> tuple[DriverListing, ...]:
    """Return all drivers, sorted by name."""
    return tuple(_listing(name) for name in names())


def _listing(name: str) -> DriverListing:
    driver = find(name)
    kind = kind_of(name)
    return DriverListing(
        name=name,
        kind=kind,
        is_modbus=driver.is_polled,
        line=str(driver.line),
        own=tuple(options_of(driver.options).values()),
        of_kind=tuple(options_of(KIND_OPTIONS[kind]).values()),
        common=tuple(options_of(DeviceOptions).values()),
    )
