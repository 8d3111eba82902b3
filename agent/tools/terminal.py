"""What the commands share: how they refuse wrong input, and what their options may say.

Imported by the command line before any command runs: nothing here needs a library.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import date
from pathlib import Path
from typing import TypeAlias

DEFAULT_CONFIG = Path("/etc/checkpointd")
"""The directory of ``gateway.toml`` and ``lanes/`` where none is named."""


class WrongInputError(Exception):
    """What was given cannot be used; the text is the sentence that says why (exit code 2)."""


@contextmanager
def wrong_input(*errors: type[Exception]) -> Iterator[None]:
    """Make these errors the user's: what is raised leaves as a ``WrongInputError``.

    An ``OSError`` of a file, where it is among them, is said by the file's name.
    """
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of what we print has enough: nobody's input is wrong
    except errors as exc:
        if isinstance(exc, OSError) and exc.filename is not None:
            raise WrongInputError(f"{exc.filename}: {exc.strerror}") from exc
        raise WrongInputError(str(exc)) from exc


def refuse_to_overwrite(path: Path | None, what: str) -> None:
    """Raise WrongInputError where the file is there already; ``what`` is to be written to it."""
    if path is not None and path.exists():
        raise WrongInputError(f"{path}: it is there already, and no {what} is written over another")


# ------------------------------------------------------------------ options of several commands

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no other name
"""What sub-commands are added to."""


def config_option(parser: argparse.ArgumentParser) -> None:
    """Add --config, the directory of the configuration."""
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="DIR",
        help="directory of gateway.toml and lanes/ (default: %(default)s)",
    )


def lane_option(parser: argparse.ArgumentParser) -> None:
    """Add --lane, which has no default: which lane it is must be said."""
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")


def time_options(parser: argparse.ArgumentParser) -> None:
    """Add --date and --tz, for a recording whose lines tell neither."""
    parser.add_argument(
        "--date", type=day, metavar="YYYY-MM-DD", help="day of a file that gives the time only"
    )
    parser.add_argument("--tz", default="+00:00", metavar="±HH:MM", help="its zone (default UTC)")


def json_option(parser: argparse.ArgumentParser, text: str = "for a machine to read") -> None:
    """Add --json."""
    parser.add_argument("--json", action="store_true", help=text)


# ------------------------------------------------------------------ what an option may say


def number(expected: str, is_good: Callable[[float], bool]) -> Callable[[str], float]:
    """Return what reads a number of the command line, and refuses one that is not good."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not is_good(value):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return value

    return read


def whole(expected: str, lowest: int, highest: int) -> Callable[[str], int]:
    """Return what reads a whole number of digits alone, from ``lowest`` to ``highest``."""

    def read(text: str) -> int:
        is_number = text.isascii() and text.isdigit() and len(text) <= 9
        if not (is_number and lowest <= int(text) <= highest):
            raise argparse.ArgumentTypeError(f"{text}: expected {expected}")
        return int(text)

    return read


seconds = number("a number of seconds above 0", lambda value: 0 < value < 1e7)
time_scale = number("a number from 0.1 to 20", lambda value: 0.1 <= value <= 20)
false_alarm_rate = number("alarms per passage, 1e-9 to 0.5", lambda value: 1e-9 <= value <= 0.5)
count = whole("a count from 0", 0, 999_999_999)
months = whole("a number of months from 1 to 120", 1, 120)
modbus_unit = whole("a unit id from 0 to 255", 0, 255)


def day(text: str) -> date:
    """Return a day of the command line."""
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text}: expected a day as YYYY-MM-DD") from exc


def crystal_sides_cm(text: str) -> tuple[float, float, float]:
    """Return the sides of a crystal [cm], written as 5x10x40cm."""
    sides: tuple[float, ...] = ()
    with suppress(ValueError):
        sides = tuple(float(side) for side in text.removesuffix("cm").split("x"))
    if len(sides) != 3 or not all(0.1 <= side <= 500 for side in sides):
        raise argparse.ArgumentTypeError(f"{text}: expected three sides in cm, such as 5x10x40cm")
    return (sides[0], sides[1], sides[2])
