"""A driver's options to try on an unknown device: its defaults, then its other closed choices."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import combinations, product
from typing import Literal, get_args, get_origin

import msgspec

from agent.config.options import options_of
from drivers.base import DriverType, find, names

MAX_VARIANTS = 48

# Chosen for judging alone and never proposed: a vote hides frames, and nothing is cancelled here.
_FOR_JUDGING: dict[str, object] = {"equal_frames": 1, "send_cancel": False, "ready_check": False}

UNIT_OPTIONS = frozenset({"unit", "weight_unit"})
"""What the display shows where a frame has no unit: bytes never tell it, so it is never varied."""


def variants(
    driver: DriverType, *, required_only: bool = False
) -> tuple[Mapping[str, object], ...]:
    """Return the options to try, the defaults first; none where a free value must be given."""
    return _variants(driver.name, required_only)


@lru_cache(maxsize=256)
def _variants(name: str, required_only: bool) -> tuple[Mapping[str, object], ...]:  # noqa: FBT001 - a key of the cache
    driver = find(name)
    options = options_of(driver.options)
    choices = {
        n: several
        for n, option in options.items()
        if n not in _FOR_JUDGING and (several := _choices(option.hint))
    }
    required = required_options(driver)
    if any(n not in choices for n in required):
        return ()
    bases: list[dict[str, object]] = [
        dict(zip(sorted(required), values, strict=True))
        for values in product(*(choices[n] for n in sorted(required)))
    ]
    free: dict[str, tuple[object, ...]] = {}
    if not required_only:
        defaults = {f.name: f.default for f in dataclasses.fields(driver.options)}
        free = {
            n: tuple(value for value in several if value != defaults[n])
            for n, several in choices.items()
            # What is absent by default a person must say.
            if n not in required | UNIT_OPTIONS and defaults[n] is not None
        }
    found: list[Mapping[str, object]] = []
    for changes in _changes(free):
        for base in bases:
            variant = {**base, **changes}
            try:
                make(driver, variant)
            except msgspec.ValidationError:
                continue  # options that do not fit together
            found.append(variant)
    return tuple(found[:MAX_VARIANTS])


def required_options(driver: DriverType) -> frozenset[str]:
    """Return the options without a default."""
    options = options_of(driver.options)
    return frozenset(name for name, option in options.items() if option.default is None)


def _changes(free: Mapping[str, tuple[object, ...]]) -> Iterator[dict[str, object]]:
    """Yield no change, then every single one, then every pair."""
    for count in range(3):
        for chosen in combinations(free, count):
            for values in product(*(free[name] for name in chosen)):
                yield dict(zip(chosen, values, strict=True))


def _choices(hint: object) -> tuple[object, ...]:
    while get_origin(hint) is not None and hasattr(hint, "__metadata__"):
        hint = get_args(hint)[0]
    if hint is bool:
        return (False, True)
    return get_args(hint) if get_origin(hint) is Literal else ()


def make(driver: DriverType, options: Mapping[str, object]) -> object:
    """Return a driver for judging; msgspec.ValidationError where the options do not fit."""
    known = {field.name for field in dataclasses.fields(driver.options)}
    given = {name: value for name, value in _FOR_JUDGING.items() if name in known}
    made: object = driver.make(msgspec.convert({**options, **given}, driver.options))
    return made


@lru_cache(maxsize=1)
def known_drivers() -> tuple[DriverType, ...]:
    """Return every driver, sorted by name; a probe asks for them at each piece that comes."""
    return tuple(map(find, names()))
