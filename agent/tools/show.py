"""A record as a person reads it: one line, the time first, the news next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

from agent.lane.alarms import worded_p

Json = Mapping[str, object]

PRIORITY_STYLE = {"routine": "green", "elevated": "yellow", "high": "bold red"}
PHASE_STYLE = {"raised": "bold red", "updated": "red", "cleared": "dim"}


def line_of(message: Json) -> tuple[str, str]:
    """Return the line for a record as it stands on MQTT, and the style to print it in."""
    data = cast("Json", message["data"])
    clock = str(message["time"])[11:19]
    lane = str(message.get("subject", "gateway"))
    match message.get("stream"):
        case "alarm":
            text, style = _alarm(data)
        case "pass":
            text, style = _passage(data)
        case _:
            text, style = _audit(str(message.get("type")), data)
    return f"{clock}  {lane:<10}  {text}", style


def _alarm(data: Json) -> tuple[str, str]:
    phase = str(data["phase"])
    kind = str(data["kind"]).upper()
    text = str(data["text"]) if phase != "cleared" else f"over ({data['code']}, {data['source']})"
    return f"ALARM   {kind:<8} {phase:<8} {text}", PHASE_STYLE.get(phase, "")


def _passage(data: Json) -> tuple[str, str]:
    parts = [
        part
        for part in (
            _rpm(cast("Json | None", data["rpm"])),
            _spectral(cast("Json | None", data["spectral"])),
            _scale(cast("Json | None", data["scale"])),
            _metal(cast("Json | None", data["metal"])),
            _identity(cast("list[Json]", data["identity"])),
        )
        if part
    ]
    reasons = cast("list[str]", data["reasons"])
    priority = str(data["priority"])
    rev = "" if data["rev"] == 1 else f" (rev {data['rev']})"
    ended = "" if data["end_reason"] == "left" else f"  ended: {data['end_reason']}"
    why = f"  [{', '.join(reasons)}]" if reasons else ""
    name = str(data["passage_id"]).rpartition("-")[2]
    text = f"PASSAGE {name:<8} {priority:<8} {'; '.join(parts)}{ended}{why}{rev}"
    return text, PRIORITY_STYLE.get(priority, "")


def _rpm(rpm: Json | None) -> str:
    if rpm is None:
        return ""
    cps, sigma = rpm["gamma_max_cps"], rpm["gamma_max_sigma"]
    gamma = "gamma not measured" if cps is None else f"gamma {cps:.0f} cps"
    if sigma is not None:
        gamma += f" ({sigma:+.1f} σ)"
    neutron = rpm["neutron_max_cps"]
    return gamma + ("" if neutron is None else f", neutron {neutron:g} cps")


def _spectral(spectral: Json | None) -> str:
    if spectral is None:
        return ""
    if spectral["p"] is None:
        return "spectrum not judged"
    p = worded_p(cast("float", spectral["p"]))
    found = cast("list[Json]", spectral["nuclides"])
    names = ", ".join(str(each["name"]) for each in found)
    category = spectral["category"]
    if category is None:
        return f"spectrum clean ({p})"
    return f"{category}{': ' if names else ''}{names} ({p})"


def _scale(scale: Json | None) -> str:
    if scale is None:
        return ""
    if scale["invalid"] is not None:
        return f"weighing invalid: {scale['invalid']}"
    if scale["mass_kg"] is None:
        return f"weight {scale['range']}"
    rest = "" if scale["stable"] else " in motion"
    declared = scale["declared_kg"]
    if declared is not None:
        rest += f" (declared {declared:.0f} kg)"
    return f"{scale['mass_kg']:.0f} kg{rest}"


def _metal(metal: Json | None) -> str:
    if metal is None:
        return ""
    persons = "1 person" if metal["persons"] == 1 else f"{metal['persons']} persons"
    return f"{persons}: metal {metal['result']}"


def _identity(items: list[Json]) -> str:
    """Return what was read, or the head of the token that stands for it."""
    said = []
    for item in items:
        token = item["token"]
        told = item["value"] or (f"{str(token)[:8]}…" if token else "not written")
        wrong = " (wrong check digit)" if item["checked"] is False else ""
        said.append(f"{item['kind']} {told}{wrong}")
    return ", ".join(said)


def _audit(kind: str, data: Json) -> tuple[str, str]:
    skipped = {"clock", "software", "kind", "lane"}
    rest = ", ".join(f"{k} {v}" for k, v in data.items() if k not in skipped and v is not None)
    return f"audit {data.get('kind', kind)}  {rest}", "dim"
