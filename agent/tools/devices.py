"""``checkpointd devices``: every driver with its options, its source and its captures.

``docs/drivers.md`` is this listing as Markdown; a test holds it to the code.
"""

from __future__ import annotations

import argparse
import importlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.config import DriverListing, describe_drivers
from agent.config.options import Option

CAPTURES = Path(__file__).resolve().parents[2] / "tests" / "captures"
"""Beside the code in the repository; an installed package has none."""

RENEW = "checkpointd devices --markdown > docs/drivers.md"


def devices_command(arguments: argparse.Namespace) -> int:
    """Print the listing in the form asked for."""
    if arguments.markdown:
        print(devices_markdown(), end="")
    else:
        print(devices_json() if arguments.json else devices_text())
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a driver's knowledge is from, as its module says: what it reads, from which document.

    ``unconfirmed`` is what no document at hand says; empty where there is nothing.
    """

    reads: str
    source: str
    unconfirmed: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Captures:
    """The captures a driver is tested on, by provenance; how many have an integrity field."""

    by_provenance: Counter[str]
    with_integrity: int


def origin(name: str) -> Origin:
    """Return what the driver's module says of itself."""
    text = importlib.import_module(f"drivers.{name}").__doc__ or ""
    first = text.partition("\n\n")[0]
    found = re.search(r"^Sources?: (.*?)(?=^Quirks?:|\n\n|\Z)", text, re.DOTALL | re.MULTILINE)
    said = " ".join(found[1].split()) if found else ""
    source, _, unconfirmed = said.partition(" Unconfirmed: ")
    return Origin(
        reads=" ".join(first.split()).removesuffix("."),
        source=source.removesuffix("."),
        unconfirmed=unconfirmed.removesuffix("."),
    )


def captures(name: str, directory: Path = CAPTURES) -> Captures | None:
    """Return a driver's captures, None where the repository is not at hand."""
    if not directory.is_dir():
        return None
    kinds: Counter[str] = Counter()
    with_integrity = 0
    for path in sorted((directory / name).glob("*/provenance.toml")):
        provenance = tomllib.loads(path.read_text("utf-8"))
        kinds[str(provenance["kind"])] += 1
        with_integrity += bool(provenance.get("integrity", False))
    return Captures(by_provenance=kinds, with_integrity=with_integrity)


def devices_text() -> str:
    """Return every driver and option as text for a technician."""
    listings = describe_drivers()
    lines: list[str] = ["Every device:", *_option_lines(listings[0].common if listings else ())]
    for kind, options in _kinds(listings).items():
        lines += ["", f"Every {kind} device:", *_option_lines(options)]
    for listing in listings:
        known = origin(listing.name)
        lines += ["", f"{listing.name} ({_transport(listing)}):", f"  {known.reads}."]
        lines.append(f"  Source: {known.source or 'not given'}.")
        if known.unconfirmed:
            lines.append(f"  Unconfirmed: {known.unconfirmed}.")
        lines += _option_lines(listing.own) or ["  no options of its own"]
    return "\n".join(lines)


def devices_json() -> str:
    """Return the same for a machine: a list of drivers with their options."""
    return json.dumps([_plain(listing) for listing in describe_drivers()], ensure_ascii=False)


def _plain(listing: DriverListing) -> dict[str, object]:
    known = origin(listing.name)
    owned = (("device", listing.common), ("kind", listing.of_kind), ("driver", listing.own))
    return {
        "driver": listing.name,
        "reads": known.reads,
        "modbus": listing.is_modbus,
        "line": None if listing.is_modbus else listing.line,
        "source": known.source,
        "unconfirmed": known.unconfirmed or None,
        "options": [
            {
                "name": option.name,
                "of": owner,
                "expected": option.expected,
                "default": option.default,
                "description": option.description,
            }
            for owner, options in owned
            for option in options
        ],
    }


def devices_markdown(directory: Path = CAPTURES) -> str:
    """Return ``docs/drivers.md``; without the repository its captures are left open."""
    listings = describe_drivers()
    lines = [
        "# Drivers",
        "",
        f"Written by `{RENEW}`; edit the drivers, not this page.",
        "",
        "Which of them reads a device that stands before you: `checkpointd probe PORT`. It only",
        "listens; `--ask` lets it send requests that ask for a weight, or read a Modbus unit.",
        "",
        "A capture is *recorded* from a device, a *vendor's example* from its maker's document, or",
        "*constructed* from the layout there. The integrity field is what lets a damaged frame be",
        "refused by itself; without one, equal frames in a row must agree.",
        "",
        "| driver | reads | transport | captures | integrity field | source |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [_row(listing, directory) for listing in listings]
    lines += ["", "## Options of every device", "", *_option_table(listings[0].common)]
    for kind, options in _kinds(listings).items():
        lines += ["", f"## Options of every {kind} device", "", *_option_table(options)]
    for listing in listings:
        known = origin(listing.name)
        lines += ["", f"## {listing.name}", "", f"{_cell(known.reads)}.", ""]
        if known.unconfirmed:
            lines += [f"Unconfirmed: {_cell(known.unconfirmed)}.", ""]
        lines += _option_table(listing.own)
    return "\n".join(lines) + "\n"


def _row(listing: DriverListing, directory: Path) -> str:
    known, found = origin(listing.name), captures(listing.name, directory)
    if found is None:
        said, integrity = "", ""
    else:
        said = ", ".join(f"{n} {kind}" for kind, n in sorted(found.by_provenance.items())) or "none"
        integrity = _integrity(listing, found)
    cells = (f"`{listing.name}`", known.reads, _transport(listing), said, integrity, known.source)
    return f"| {' | '.join(map(_cell, cells))} |"


def _integrity(listing: DriverListing, found: Captures) -> str:
    if listing.is_modbus:
        return "the line's (CRC, TCP)"
    if not found.with_integrity:
        return "none"
    return "yes" if found.with_integrity == found.by_provenance.total() else "where it is sent"


def _transport(listing: DriverListing) -> str:
    return "Modbus RTU or TCP" if listing.is_modbus else f"serial {listing.line} or TCP"


def _kinds(listings: Iterable[DriverListing]) -> dict[str, tuple[Option, ...]]:
    return {listing.kind: listing.of_kind for listing in listings}


def _option_table(options: Iterable[Option]) -> list[str]:
    rows = [
        f"| `{option.name}` | {_cell(option.expected)} | "
        f"{'must be given' if option.default is None else _cell(option.default)} | "
        f"{_cell(option.description)} |"
        for option in options
    ]
    if not rows:
        return ["No options of its own."]
    return ["| option | expected | default | |", "| --- | --- | --- | --- |", *rows]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("``", "`")


def _option_lines(options: Iterable[Option]) -> list[str]:
    lines = []
    for option in options:
        default = "must be given" if option.default is None else f"default {option.default}"
        lines.append(f"  {option.name}: {option.expected}; {default}")
        if option.description:
            lines.append(f"      {option.description}")
    return lines
