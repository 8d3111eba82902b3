"""Who or what passes: repeats joined, and the text made a token before a passage holds it.

A plate is personal data. With ``identity_privacy = "token"`` a passage holds HMAC-SHA-256 of the
text under the gateway's key, so that the same plate can be found again by whoever has the key and
by nobody else; the text itself stands in the record of an alarm of that passage, and nowhere else.
Capitals and separators are no part of the token: "ab-123" and "AB 123" are one plate.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.lane.alarms import fault, set_standing
from agent.lane.moment import Moment
from agent.lane.options.instruments import IdentityOptions
from agent.lane.state import Memory
from agent.lane.vehicles import Part, Sighting, Vehicles
from agent.records import IdentityItem, Stamp
from drivers.readings import Identity

MOST_READ = 64
"""So many readings of one reader are kept at once; beyond, it reads what is no vehicle."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRead:
    """When a reader last read the same, and the part that was made of it."""

    at: Stamp
    serial: int


@dataclass(slots=True, kw_only=True)
class Readers(Memory):
    """What the lane's readers read lately."""

    last_reads: Mapping[tuple[str, str, str], LastRead] = field(default_factory=dict)
    """By (device, kind, value), oldest first; those that can still be repeated."""


def token(key: bytes, kind: str, value: str) -> str:
    """Return what stands for a text: 64 hexadecimal digits.

    Source: RFC 2104 with SHA-256 (FIPS 180-4), over ``kind:TEXT`` in UTF-8.
    """
    text = "".join(c for c in value.upper() if c.isalnum())
    return hmac.new(key, f"{kind}:{text}".encode(), hashlib.sha256).hexdigest()


def on_identity(moment: Moment, device: str, reading: Identity) -> None:
    """Take one reading: a new one is a part that a vehicle can claim, a repeat only lasts."""
    options = moment.rules.readers.get(device)
    if options is None:
        return
    key = (device, reading.kind, reading.value)
    reads = {k: r for k, r in moment.of(Readers).last_reads.items() if _may_repeat(moment, k[0], r)}
    before = reads.pop(key, None)
    sighting = _sighting(moment, device, options, reading)
    if before is None:
        if not _has_room(moment, device):
            return
        serial = moment.next_serial()
        part = Part(serial=serial, device=device, at=moment.stamp, content=sighting)
        moment.of(Vehicles).parts = (*moment.of(Vehicles).parts, part)
    else:
        serial = before.serial
        _better(moment, serial, sighting)
    reads[key] = LastRead(at=moment.stamp, serial=serial)
    moment.of(Readers).last_reads = reads


def _has_room(moment: Moment, device: str) -> bool:
    """Return whether one more reading can be kept; none is a fault until one can be again."""
    kept = sum(
        isinstance(p.content, Sighting) and p.device == device for p in moment.of(Vehicles).parts
    )
    text = (
        f"{device}: {kept} different readings within a few minutes, and no more are kept; check "
        "what stands before the reader, and its samples"
    )
    set_standing(moment, fault(device, "too_many_readings", text), active=kept >= MOST_READ)
    return kept < MOST_READ


def _may_repeat(moment: Moment, device: str, read: LastRead) -> bool:
    options = moment.rules.readers.get(device)
    return options is not None and moment.stamp.since_s(read.at) <= options.debounce_s


def _sighting(moment: Moment, device: str, options: IdentityOptions, reading: Identity) -> Sighting:
    clear = IdentityItem(
        kind=reading.kind,
        value=reading.value,
        token=None,
        confidence=reading.confidence,
        checked=reading.checked,
        device=device,
    )
    kept = clear
    if options.identity_privacy == "token":
        key = moment.rules.identity_key
        made = None if key is None else token(key, reading.kind, reading.value)
        kept = replace(clear, value=None, token=made)
    return Sighting(clear=clear, kept=kept, declared_kg=reading.declared_kg)


def _better(moment: Moment, serial: int, sighting: Sighting) -> None:
    """Let a repeat that the reader is surer of take the place of what it repeats."""
    for part in moment.of(Vehicles).parts:
        if part.serial != serial or not isinstance(part.content, Sighting):
            continue
        before, now = part.content.kept.confidence, sighting.kept.confidence
        if now is not None and (before is None or now > before):
            renewed = replace(part, content=sighting)
            moment.of(Vehicles).parts = tuple(
                renewed if p is part else p for p in moment.of(Vehicles).parts
            )
        return
