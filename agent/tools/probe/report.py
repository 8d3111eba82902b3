"""What a probe found, in a technician's words, as a lane file's section, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from agent.config.options import options_of
from agent.tools.probe.probe import Found
from agent.tools.probe.recognise import Candidate
from agent.tools.probe.sample import described, is_columns, shown, text_lines
from agent.tools.probe.variants import UNIT_OPTIONS
from drivers.base import LineParameters, Parity, find, names
from drivers.readings import Reading

COLUMNS_DRIVER, MAP_DRIVER = "scale.ascii_columns", "scale.modbus_map"
BY_ID = Path("/dev/serial/by-id")

_UNITS = (("_cps", "counts/s"), ("_m_per_s", "m/s"), ("_kg", "kg"), ("_s", "s"))
_PARITY_OF: dict[str, Parity] = {"even": "E", "odd": "O"}


def text(port: str, found: Found) -> str:
    """Return the report for a person."""
    best = found.best
    if best is None:
        return "\n".join([f"{port}: nothing recognised", *_saw(found)])
    lines = [f"{port}: {best.driver} ({best.certainty})", f"  line  {_line_text(found)}"]
    if found.asked:
        lines.append(f"  asked {found.asked.decode('ascii')!a}: it says nothing unasked")
    lines.append(f"  why   {best.why}")
    lines += [f"  reads {plain_words(reading)}" for reading in best.readings]
    for name, several in best.undecided.items():
        values = " or ".join(map(_toml, several))
        lines.append(
            f"  open  {name} = {values}: both read this; shown is {name} = "
            f"{_toml(best.options[name])}"
        )
    if best.refusals:
        lines.append(f"  not   {best.refusals[0].detail} ({best.refused} refused in all)")
    if found.data:
        as_hex, as_text = shown(found.data)
        lines += [f"  raw   {as_hex}", f"        {as_text}"]
    others = [f"  next  {_runner_up(other)}" for other in found.candidates[1:3]]
    lines += others or ["  next  no other driver reads as much as half of it"]
    return "\n".join([*lines, "", "For the lane's file:", "", section(port, found)])


def as_json(port: str, found: Found) -> str:
    """Return the same for a machine."""
    best = found.best
    return json.dumps(
        {
            "port": port,
            "recognised": best is not None,
            "line": None if found.line is None else str(proposed_line(found)),
            "candidates": [_plain_candidate(candidate) for candidate in found.candidates],
            "saw": [line.strip() for line in _saw(found)] if best is None else [],
            "raw": found.data[:256].hex(),
            "section": None if best is None else section(port, found),
        },
        ensure_ascii=False,
    )


def section(port: str, found: Found, *, by_id: Path = BY_ID) -> str:
    """Return the section for the lane's file; what is at its default is left out."""
    best = found.best
    assert best is not None
    driver = find(best.driver)
    lines = [
        f"[devices.{best.driver.partition('.')[0]}]",
        f'driver = "{best.driver}"',
        f'port = "{stable_name(port, by_id)}"',
    ]
    line = proposed_line(found)
    if found.line is not None and line is not None:
        lines += [
            f"{field.name} = {_toml(getattr(line, field.name))}"
            for field in dataclasses.fields(line)
            if getattr(line, field.name) != getattr(driver.line, field.name)
        ]
    if found.unit is not None and found.unit != 1:
        lines.append(f"unit = {found.unit}")
    if found.kind == "tcp" and found.framing == "rtu":
        lines.append('framing = "rtu"')
    for name, value in best.options.items():
        if (several := best.undecided.get(name)) is None:
            lines.append(f"{name} = {_toml(value)}")
        else:
            lines.append(
                f"# these read alike, take it from the device: {name} = "
                f"{' or '.join(map(_toml, several))}"
            )
    for option in options_of(driver.options).values():
        if option.name in UNIT_OPTIONS and option.default not in (None, "absent"):
            lines.append(
                f"# not in the bytes, compare with the display: {option.name} = {option.default}"
            )
    return "\n".join(lines)


def proposed_line(found: Found) -> LineParameters | None:
    """Return the line as the device is set, None where the port has no line parameters."""
    if found.line is None or found.marking == "none":
        return found.line
    if found.marking == "mark":
        return LineParameters(baud=found.line.baud, data_bits=7, stop_bits=2)
    return LineParameters(baud=found.line.baud, data_bits=7, parity=_PARITY_OF[found.marking])


def stable_name(port: str, by_id: Path) -> str:
    """Return the port's name that stays when adapters are plugged in in another order."""
    if port.startswith("/dev/") and by_id.is_dir():
        for link in sorted(by_id.iterdir()):
            if link.resolve() == Path(port).resolve():
                return str(link)
    return port


def plain_words(reading: Reading) -> str:
    """Return a reading as words with units; what the device did not say is left out."""
    name = "".join(f" {c.lower()}" if c.isupper() else c for c in type(reading).__name__).strip()
    said = []
    for field in dataclasses.fields(reading):
        value = getattr(reading, field.name)
        if value is None or value in ((), "") or field.name == "line":
            continue
        said.append(_quantity(field.name, value))
    return f"{name}: {', '.join(said)}"


def _quantity(name: str, value: object) -> str:
    for ending, unit in _UNITS:
        if name.endswith(ending) or name == ending[1:]:
            label = name.removesuffix(ending).replace("_", " ")
            label = "" if name == ending[1:] else f"{label} "
            return f"{label}{_figure(value)} {unit}"
    return f"{name.replace('_', ' ')} {_figure(value)}"


def _figure(value: object) -> str:
    if isinstance(value, tuple):
        return " ".join(map(_figure, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _line_text(found: Found) -> str:
    marked = {
        "even": "every byte carries even parity in bit 7: the device is set to 7E1",
        "odd": "every byte carries odd parity in bit 7: the device is set to 7O1",
        "mark": "bit 7 is always 1: the device is set to 7N2",
        "none": "",
    }[found.marking]
    if found.kind == "serial":
        if marked:
            return f"{proposed_line(found)} (received at {found.line}; {marked})"
        return f"{found.line}{_parity_doubt(found)}"
    if found.kind == "pty":
        where = "a pseudo-terminal, which has no speed and no parity: they cannot be shown here"
    else:
        where = "speed and parity are set in the device server"
        if found.framing is not None:
            where = f"Modbus {found.framing.upper()} over TCP"
    if not marked:
        return where
    return f"{where}; {marked}{'; set the server to that' if found.kind == 'tcp' else ''}"


def _parity_doubt(found: Found) -> str:
    if found.framing is not None or found.asked:
        return ""
    if found.errors is None:
        return " (this port counts no line errors: 8E1 and 8O1 can pass for it; compare the device)"
    return f" ({found.errors} line errors)"


def _runner_up(other: Candidate) -> str:
    return f"{other.driver} ({other.certainty}): {other.why}"


def _saw(found: Found) -> list[str]:
    """Return what was seen and what to do, where nothing was recognised."""
    if found.unit is not None:
        return _saw_modbus(found)
    lines = [f"  {described(found.data)}"]
    if found.line is not None and found.data:
        lines[0] += f" At {found.line}, the best of {found.tried} settings."
    if found.lost:
        lines.append(f"  {found.lost}.")
    if not found.data:
        return [*lines, *_silent(found)]
    as_hex, as_text = shown(found.data)
    lines += [f"  {as_hex}", f"  {as_text}"]
    seen = text_lines(found.data)
    if is_columns(seen):
        has_driver = COLUMNS_DRIVER in names()
        say = f"{COLUMNS_DRIVER} can be told the columns" if has_driver else "no driver reads them"
        lines.append(f"  The lines are alike and hold a number: {say}.")
    elif not seen:
        where = "in the device server" if found.kind == "tcp" else "at the device"
        advice = "  A wrong speed or parity looks like this, or a protocol that is not known: "
        lines.append(f"{advice}compare with what is set {where}.")
    return lines


def _silent(found: Found) -> list[str]:
    if found.lost:
        return []
    if found.asked_in_vain:
        return ["  Nor was a request answered: check power, wiring (RX and TX crossed?) and port."]
    advice = (
        "  Check power and wiring (RX and TX crossed?). A device that only answers says nothing "
        "unasked: --ask sends it harmless requests, --ask --modbus-unit N reads a Modbus unit."
    )
    return [advice]


def _saw_modbus(found: Found) -> list[str]:
    if found.framing is None:
        advice = (
            f"  Unit {found.unit} did not answer at {found.tried} settings: check power, wiring "
            "(A and B crossed?), unit id and, on TCP, the port number."
        )
        return [advice]
    at = "" if found.line is None else f" at {found.line}"
    by_map = f" ({MAP_DRIVER})" if MAP_DRIVER in names() else ""
    advice = (
        f"  Unit {found.unit} answers Modbus {found.framing.upper()}{at}, but has not the "
        f"registers of any driver's defaults: take driver{by_map} and addresses from its manual. "
        "An indicator that must be asked by a write is none of those tried: a probe writes nothing."
    )
    return [advice]


def _plain_candidate(candidate: Candidate) -> Mapping[str, object]:
    return {
        "driver": candidate.driver,
        "options": dict(candidate.options),
        "certainty": candidate.certainty,
        "why": candidate.why,
        "share": round(candidate.share, 3),
        "frames": candidate.frames,
        "refused": candidate.refused,
        "verified": candidate.verified,
        "look_alikes": list(candidate.look_alikes),
        "readings": [
            {"type": type(r).__name__, **dataclasses.asdict(r)} for r in candidate.readings
        ],
    }


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int | float) else f'"{value}"'
