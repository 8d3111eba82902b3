"""The scale: a load comes, rests, and leaves; the largest stable weight is the vehicle's.

A truck rolls on axle by axle and may rest half-way, so a stable weight must hold ``SETTLE_S``
before it is offered, and a larger one replaces it. A weight is legal only where the device itself
says stable, in its own resolution, with its alibi number (OIML R 76-1: nothing is recorded in
motion; an indication without an id is informative).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal

from agent.lane.alarms import Finding, cleared, fault, raised, set_standing
from agent.lane.moment import Moment
from agent.lane.options.scales import ScaleOptions
from agent.lane.state import Memory
from agent.lane.vehicles import Part, Vehicles, likely_passage
from agent.records import Alarm, Evidence, ScalePart, Stamp
from drivers.readings import PARITY_SEEN, Weight

SETTLE_S = 1.0
"""A stable weight must hold so long before it is a vehicle's."""
OVER_MAX_INTERVALS = 9
"""An indication must be blank above Max + 9 e (OIML R 76-1)."""
FACTOR_KG = {"g": Decimal("0.001"), "kg": Decimal(1), "t": Decimal(1000)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """What stands on a scale; ``best`` is the largest stable weight so far."""

    is_loaded: bool = False
    stable_since: Stamp | None = None
    best: Weight | None = None
    best_at: Stamp | None = None
    moving: Weight | None = None
    """The largest weight seen in motion, for a load that never came to rest."""
    moving_at: Stamp | None = None
    part_serial: int | None = None
    alarm: Alarm | None = None


@dataclass(slots=True, kw_only=True)
class Weighings(Memory):
    """What stands on the lane's scales."""

    weighings: Mapping[str, Weighing] = field(default_factory=dict)


def on_weight(moment: Moment, device: str, weight: Weight) -> None:
    """Take one indication."""
    options = moment.rules.scales[device]
    weighing = moment.of(Weighings).weighings.get(device, Weighing())
    if weight.mass_kg is None or weight.range != "ok":
        weighing = replace(weighing, stable_since=None)
    elif weight.mass_kg < options.min_load_kg:
        weighing = _leave(moment, device, weighing)
    else:
        weighing = _load(moment, device, options, weighing, weight)
    moment.of(Weighings).weighings = {**moment.of(Weighings).weighings, device: weighing}


def on_lost(moment: Moment, device: str) -> None:
    """Finish what was on the platform when the scale's link was lost."""
    weighing = moment.of(Weighings).weighings.get(device)
    if weighing is not None:
        finished = _leave(moment, device, weighing)
        moment.of(Weighings).weighings = {**moment.of(Weighings).weighings, device: finished}


def watch_range(moment: Moment, device: str, weight: Weight) -> None:
    """Make a display that is over, under or in error a fault until it shows a weight again.

    Not while the platform moves: it swings below its zero when a heavy vehicle has left it.
    """
    if weight.range in {"over", "under"} and weight.stable is False:
        return
    for code, text in (
        ("over", "is over its range: unload it"),
        ("under", "is under its zero: clean the platform and set it to zero"),
        ("error", "reports an error instead of a weight"),
    ):
        finding = fault(device, f"scale_{code}_range", f"{device}: the scale {text}")
        set_standing(moment, replace(finding, source="device"), active=weight.range == code)


def watch_parity(moment: Moment, device: str, weight: Weight) -> None:
    """Say where a parity bit had to be masked: the line is set otherwise than the scale."""
    text = f"{device}: the scale sends a parity bit; set data_bits = 7 and its parity"
    finding = fault(device, "parity_bit_seen", text, "notice")
    set_standing(moment, finding, active=PARITY_SEEN in weight.notes)


def _load(
    moment: Moment, device: str, options: ScaleOptions, weighing: Weighing, weight: Weight
) -> Weighing:
    """Keep the largest stable weight, and offer it once it has held."""
    assert weight.mass_kg is not None
    weighing = replace(weighing, is_loaded=True)
    if weight.stable is False:
        if weighing.moving is None or weight.mass_kg > (weighing.moving.mass_kg or 0):
            weighing = replace(weighing, moving=weight, moving_at=moment.stamp)
        return replace(weighing, stable_since=None)
    since = weighing.stable_since or moment.stamp
    weighing = replace(weighing, stable_since=since)
    if moment.stamp.since_s(since) < SETTLE_S:
        return weighing
    step_kg = 2 * (options.e_kg or 0.0)
    best_kg = weighing.best.mass_kg if weighing.best is not None else None
    if best_kg is not None and weight.mass_kg <= best_kg + step_kg:
        if not _stores(weighing, weight, step_kg):
            return weighing
        # The same load, now with its number in the alibi memory.
        since = weighing.best_at or since
    _watch_declared(moment, device, options, weight)
    weighing = replace(weighing, best=weight, best_at=weighing.best_at or since)
    weighing = _alarm_over_limit(moment, device, weighing, weight)
    return _offer(moment, device, weighing, weight, since)


def _stores(weighing: Weighing, weight: Weight, step_kg: float) -> bool:
    """Return whether the indication is the best one again, with the alibi number that it lacked."""
    best = weighing.best
    if best is None or best.mass_kg is None or weight.mass_kg is None:
        return False
    is_same = abs(weight.mass_kg - best.mass_kg) <= step_kg
    return is_same and best.alibi_id is None and weight.alibi_id is not None


def _watch_declared(moment: Moment, device: str, options: ScaleOptions, weight: Weight) -> None:
    """Compare a stable weight with what the technician declared of this scale."""
    mass_kg, value = weight.mass_kg, weight.value
    assert mass_kg is not None
    assert value is not None
    if options.e_kg is not None and weight.unit in FACTOR_KG and not weight.high_resolution:
        exact_kg = Decimal(value) * FACTOR_KG[weight.unit]
        text = (
            f"{device}: {value} {weight.unit} is no multiple of the declared e = {options.e_kg:g} "
            "kg; was the indicator exchanged or set up anew?"
        )
        is_off = exact_kg % Decimal(str(options.e_kg)) != 0
        set_standing(moment, fault(device, "interval_mismatch", text), active=is_off)
    if options.max_kg is not None:
        limit_kg = options.max_kg + OVER_MAX_INTERVALS * (options.e_kg or 0.0)
        text = f"{device}: {mass_kg:g} kg is beyond Max + 9 e = {limit_kg:g} kg; check the unit"
        set_standing(moment, fault(device, "beyond_max", text), active=mass_kg > limit_kg)
    if options.span_load_kg is not None and options.span_limit_kg and moment.rules.is_test:
        error_kg = mass_kg - options.span_load_kg
        text = (
            f"{device}: the reference load of {options.span_load_kg:g} kg reads {error_kg:+g} kg "
            f"off, more than {options.span_limit_kg:g} kg; have the scale adjusted"
        )
        is_off = abs(error_kg) > options.span_limit_kg
        set_standing(moment, fault(device, "span_error", text), active=is_off)


def _alarm_over_limit(moment: Moment, device: str, weighing: Weighing, weight: Weight) -> Weighing:
    limit_kg = moment.rules.lane.max_gross_kg
    if limit_kg is None or weighing.alarm is not None or weight.mode == "tare":
        return weighing
    # A net weight over the gross limit means a gross weight over it too.
    if weight.mass_kg is None or weight.mass_kg <= limit_kg:
        return weighing
    finding = Finding(
        kind="weight",
        source="agent",
        code="max_gross",
        severity="elevated",
        device=device,
        text=f"{device}: {weight.mass_kg:g} kg ({weight.mode}) is over the lane's {limit_kg:g} kg",
        evidence=(
            Evidence(test="max_gross", observed=weight.mass_kg, threshold=limit_kg, unit="kg"),
        ),
    )
    return replace(
        weighing, alarm=raised(moment, finding, moment.new_id("w"), likely_passage(moment, device))
    )


def _offer(moment: Moment, device: str, weighing: Weighing, weight: Weight, at: Stamp) -> Weighing:
    """Make the weight a part that a vehicle can claim, or renew the part made before."""
    content = part_of(moment, device, weight)
    alarm_ids = () if weighing.alarm is None else (weighing.alarm.alarm_id,)
    for part in moment.of(Vehicles).parts:
        if part.serial == weighing.part_serial:
            renewed = replace(part, content=content, alarm_ids=alarm_ids)
            moment.of(Vehicles).parts = tuple(
                renewed if p is part else p for p in moment.of(Vehicles).parts
            )
            return weighing
    serial = moment.next_serial()
    part = Part(serial=serial, device=device, at=at, content=content, alarm_ids=alarm_ids)
    moment.of(Vehicles).parts = (*moment.of(Vehicles).parts, part)
    return replace(weighing, part_serial=serial)


def part_of(moment: Moment, device: str, weight: Weight) -> ScalePart:
    """Return the scale's part of a passage from one indication."""
    is_legal = (
        weight.stable is True
        and weight.stable_by == "device"
        and not weight.high_resolution
        and weight.alibi_id is not None
    )
    return ScalePart(
        device=device,
        mass_kg=weight.mass_kg,
        value=weight.value,
        unit=weight.unit,
        mode=weight.mode,
        stable=weight.stable,
        stable_by=weight.stable_by if weight.stable is not None else None,
        range=weight.range,
        alibi_id=weight.alibi_id,
        verified=weight.verified,
        max_gross_kg=moment.rules.lane.max_gross_kg,
        legal=is_legal,
    )


def _leave(moment: Moment, device: str, weighing: Weighing) -> Weighing:
    """The platform is empty again: what never came to rest is offered as moving."""
    if not weighing.is_loaded:
        return weighing
    if weighing.best is None and weighing.moving is not None and weighing.moving_at is not None:
        _offer(moment, device, weighing, weighing.moving, weighing.moving_at)
    if weighing.alarm is not None:
        cleared(moment, weighing.alarm)
    return Weighing()
