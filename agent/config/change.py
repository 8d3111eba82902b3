"""What differs between two configurations, and the copy of the last one that worked."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from datetime import datetime
from pathlib import Path

from agent.config.load import examine
from agent.config.problems import ConfigError
from agent.config.source import Files, read_files, shown
from agent.settings import Config, DeviceConfig, LaneConfig

LAST_GOOD = "last-good"


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """What a reload has to touch; ``lines`` tell it to a person, one option a line."""

    lanes_added: tuple[str, ...]
    lanes_removed: tuple[str, ...]
    lanes_changed: tuple[str, ...]
    gateway_changed: bool
    mqtt_changed: bool
    journal_changed: bool
    lines: tuple[str, ...]

    @property
    def is_empty(self) -> bool:
        """Tell whether both mean the same; their files' comments may still differ."""
        return not self.lines


def difference(old: Config, new: Config) -> Difference:
    """Return what changes when ``new`` takes the place of ``old``."""
    before = {lane.lane_id: lane for lane in old.lanes}
    after = {lane.lane_id: lane for lane in new.lanes}
    both = [lane_id for lane_id in before if lane_id in after]
    lines: list[str] = []
    for table in ("gateway", "mqtt", "journal"):
        changes = _options(table, getattr(old, table), getattr(new, table))
        lines += [f"gateway.toml: {change}" for change in changes]
    for lane_id in sorted(before.keys() | after.keys()):
        lines += [
            f"lanes/{lane_id}.toml: {change}"
            for change in _lane(before.get(lane_id), after.get(lane_id))
        ]
    return Difference(
        lanes_added=tuple(sorted(after.keys() - before.keys())),
        lanes_removed=tuple(sorted(before.keys() - after.keys())),
        lanes_changed=tuple(lane_id for lane_id in both if before[lane_id] != after[lane_id]),
        gateway_changed=old.gateway != new.gateway,
        mqtt_changed=old.mqtt != new.mqtt,
        journal_changed=old.journal != new.journal,
        lines=tuple(lines),
    )


def _lane(old: LaneConfig | None, new: LaneConfig | None) -> Iterator[str]:
    if old is None or new is None:
        yield "lane added" if old is None else "lane removed"
        return
    yield from _options("lane", old.lane, new.lane)
    before = {device.name: device for device in old.devices}
    after = {device.name: device for device in new.devices}
    for name in dict.fromkeys((*before, *after)):
        yield from _device(name, before.get(name), after.get(name))
    if old != new and before == after and old.lane == new.lane:
        yield "devices stand in another order"


def _device(name: str, old: DeviceConfig | None, new: DeviceConfig | None) -> Iterator[str]:
    at = f"devices.{name}"
    if old is None and new is not None:
        yield f"{at} added ({new.driver.name} on {new.common.port})"
    elif new is None and old is not None:
        yield f"{at} removed ({old.driver.name} on {old.common.port})"
    elif old is not None and new is not None:
        yield from _options(at, old.common, new.common)
        if old.driver == new.driver:
            yield from _options(at, old.kind_options, new.kind_options)
            yield from _options(at, old.driver_options, new.driver_options)


def _options(at: str, old: object, new: object) -> Iterator[str]:
    assert is_dataclass(old)
    assert type(old) is type(new)
    for field in fields(old):
        before, after = getattr(old, field.name), getattr(new, field.name)
        if before == after:
            continue
        path = f"{at}.{field.name}"
        if is_dataclass(before) and type(before) is type(after):
            yield from _options(path, before, after)
        else:
            yield f"{path} {_told(before)} → {_told(after)}"


def _told(value: object) -> str:
    if value is None:
        return "absent"
    if is_dataclass(value) and not isinstance(value, type):
        return shown({f.name: getattr(value, f.name) for f in fields(value)})
    return shown(value)


def save_last_good(config: Config, config_dir: Path, state_dir: Path) -> bool:
    """Keep a copy of the files that ``config`` was made of; false where they have changed since.

    The copy is whole or not there: files first, then one rename of a link. Nothing is written
    where this very revision is already kept.

    Raises
    ------
    OSError
        If the state directory cannot be written.
    """
    link = state_dir / LAST_GOOD
    kept = state_dir / f"{LAST_GOOD}-{config.revision[:16]}"
    if link.is_symlink() and link.resolve() == kept.resolve() and kept.is_dir():
        _drop_others(state_dir, kept)
        return True
    files, problems = read_files(config_dir)
    if problems or files.revision != config.revision:
        return False
    unfinished = state_dir / f"{LAST_GOOD}.unfinished"
    _remove(unfinished)
    _remove(kept)
    _write(files, unfinished)
    unfinished.rename(kept)
    new_link = state_dir / f"{LAST_GOOD}.link"
    new_link.unlink(missing_ok=True)
    new_link.symlink_to(kept.name)
    new_link.replace(link)
    _sync(state_dir)
    _drop_others(state_dir, kept)
    return True


def load_last_good(
    state_dir: Path, config_dir: Path, *, now: datetime | None = None
) -> Config | None:
    """Return the last configuration that worked, or None where none was kept.

    Its relative file names still begin in ``config_dir``.

    Raises
    ------
    ConfigError
        If it cannot be used any more, for example because a key file is gone.
    """
    kept = state_dir / LAST_GOOD
    if not kept.is_dir():
        return None
    examined = examine(kept, relative_to=config_dir, now=now)
    if examined.config is None or not examined.is_usable:
        raise ConfigError(examined.problems)
    return examined.config


def _write(files: Files, directory: Path) -> None:
    for folder in (directory, directory / "lanes"):
        folder.mkdir(mode=0o700)
    for name, content in files.contents.items():
        with (directory / name).open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    _sync(directory / "lanes")
    _sync(directory)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _drop_others(state_dir: Path, kept: Path) -> None:
    for other in state_dir.glob(f"{LAST_GOOD}-*"):
        if other != kept:
            _remove(other)


def _remove(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
