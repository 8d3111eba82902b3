"""Weighing axle by axle: a vehicle rolls over a short platform, and the axles' sum is its mass.

idle (zero seen) → per axle: arrive, rest, capture at the plateau (not the maximum), leave → no axle
for ``axle_gap_s`` → sum. The result is valid only if zero was seen within ± e before the first axle
and after the last, every axle came to rest, and the count is the declared one. An invalid weighing
is stored as invalid, with its axles and the reason, and never summed.

Source: OIML R 134-1:2006 in use (scope and reasons for "weighing invalid"); the zero rule follows
OIML R 76-1 practice for static axle scales. Unconfirmed against the texts themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.lane.alarms import Finding, cleared, raised
from agent.lane.moment import Moment
from agent.lane.options.scales import ScaleOptions
from agent.lane.state import Memory
from agent.lane.vehicles import Part, Vehicles, likely_passage
from agent.records import Alarm, Evidence, ScalePart, Stamp
from drivers.readings import Weight

SETTLE_S = 0.5
"""An axle must rest so long before its load is taken."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AxleRun:
    """One vehicle rolling over an axle scale; ``began_at`` None: nobody is."""

    began_at: Stamp | None = None
    left_at: Stamp | None = None
    """When the last axle left."""
    is_loaded: bool = False
    stable_since: Stamp | None = None
    captured: Weight | None = None
    """The resting load of the axle that stands on the platform."""
    axles_kg: tuple[float, ...] = ()
    zero_seen: bool = False
    """The empty platform read zero since the last load."""
    troubles: tuple[str, ...] = ()
    alarm: Alarm | None = None


@dataclass(slots=True, kw_only=True)
class AxleRuns(Memory):
    """What rolls over the lane's axle scales."""

    axle_runs: Mapping[str, AxleRun] = field(default_factory=dict)


def on_weight(moment: Moment, device: str, weight: Weight) -> None:
    """Take one indication of an axle scale."""
    options = moment.rules.scales[device]
    run = moment.of(AxleRuns).axle_runs.get(device, AxleRun())
    if weight.mass_kg is None or weight.range != "ok":
        run = _unusable(run, weight)
    elif weight.mass_kg < options.min_load_kg:
        run = _empty(moment, options, run, weight)
    else:
        run = _loaded(moment, device, options, run, weight)
    moment.of(AxleRuns).axle_runs = {**moment.of(AxleRuns).axle_runs, device: run}


def _unusable(run: AxleRun, weight: Weight) -> AxleRun:
    """A blank display makes a weighing that has begun invalid, and proves no zero."""
    troubles = run.troubles
    if (run.axles_kg or run.is_loaded) and weight.range != "unknown":
        troubles = (*troubles, f"display {weight.range}")
    return replace(run, stable_since=None, troubles=troubles, zero_seen=False)


def _empty(moment: Moment, options: ScaleOptions, run: AxleRun, weight: Weight) -> AxleRun:
    assert weight.mass_kg is not None
    if run.is_loaded:
        if run.captured is None or run.captured.mass_kg is None:
            troubles = (*run.troubles, f"axle {len(run.axles_kg) + 1} did not come to rest")
            run = replace(run, troubles=troubles)
        else:
            run = replace(run, axles_kg=(*run.axles_kg, run.captured.mass_kg))
        run = replace(run, is_loaded=False, captured=None, left_at=moment.stamp, zero_seen=False)
    run = replace(run, stable_since=None)
    is_zero = weight.stable is not False and abs(weight.mass_kg) <= (options.e_kg or 0.0)
    return replace(run, zero_seen=True) if is_zero else run


def _loaded(
    moment: Moment, device: str, options: ScaleOptions, run: AxleRun, weight: Weight
) -> AxleRun:
    assert weight.mass_kg is not None
    if run.began_at is None:
        troubles = () if run.zero_seen else ("zero was not seen before the first axle",)
        run = AxleRun(began_at=moment.stamp, troubles=troubles)
    run = replace(run, is_loaded=True)
    if weight.stable is not True:
        return replace(run, stable_since=None)
    since = run.stable_since or moment.stamp
    run = replace(run, stable_since=since)
    if run.captured is not None or moment.stamp.since_s(since) < SETTLE_S:
        return run
    run = replace(run, captured=weight)
    limit_kg = options.max_axle_kg
    if limit_kg is not None and weight.mass_kg > limit_kg and run.alarm is None:
        over = Evidence(test="max_axle", observed=weight.mass_kg, threshold=limit_kg, unit="kg")
        run = _alarm(moment, device, run, over, f"axle {len(run.axles_kg) + 1} loads")
    return run


def _alarm(moment: Moment, device: str, run: AxleRun, evidence: Evidence, what: str) -> AxleRun:
    finding = Finding(
        kind="weight",
        source="agent",
        code=evidence.test,
        severity="elevated",
        device=device,
        text=f"{device}: {what} {evidence.observed:g} kg, over {evidence.threshold:g} kg",
        evidence=(evidence,),
    )
    alarm = raised(moment, finding, moment.new_id("w"), likely_passage(moment, device))
    return replace(run, alarm=alarm)


def finish(moment: Moment, device: str) -> None:
    """No further axle came: sum what is valid, and make it a part that a vehicle can claim."""
    run, options = moment.of(AxleRuns).axle_runs[device], moment.rules.scales[device]
    if run.is_loaded:
        run = replace(run, troubles=(*run.troubles, "the last axle did not leave"))
    troubles = list(run.troubles)
    if not run.zero_seen:
        troubles.append("zero was not seen after the last axle")
    if options.axles is not None and len(run.axles_kg) != options.axles:
        troubles.append(f"{len(run.axles_kg)} axles where {options.axles} are declared")
    total_kg = None if troubles else sum(run.axles_kg)
    limit_kg = moment.rules.lane.max_gross_kg
    if total_kg is not None and limit_kg is not None and total_kg > limit_kg and run.alarm is None:
        over = Evidence(test="max_gross", observed=total_kg, threshold=limit_kg, unit="kg")
        run = _alarm(moment, device, run, over, f"{len(run.axles_kg)} axles weigh")
    alarm_ids = () if run.alarm is None else (run.alarm.alarm_id,)
    if run.alarm is not None:
        cleared(moment, run.alarm)
    assert run.began_at is not None
    content = ScalePart(
        device=device,
        mass_kg=total_kg,
        value=None,
        unit="kg" if total_kg is not None else None,
        mode="gross",
        stable=True if total_kg is not None else None,
        stable_by="device" if total_kg is not None else None,
        range="ok",
        alibi_id=None,
        verified=False,
        max_gross_kg=limit_kg,
        legal=False,
        axles_kg=run.axles_kg,
        invalid="; ".join(troubles) or None,
    )
    part = Part(
        serial=moment.next_serial(),
        device=device,
        at=run.began_at,
        content=content,
        alarm_ids=alarm_ids,
    )
    moment.of(Vehicles).parts = (*moment.of(Vehicles).parts, part)
    rest = AxleRun(zero_seen=run.zero_seen)
    moment.of(AxleRuns).axle_runs = {**moment.of(AxleRuns).axle_runs, device: rest}


def on_lost(moment: Moment, device: str) -> None:
    """The scale was lost in the middle of a weighing: it is invalid, and says why."""
    run = moment.of(AxleRuns).axle_runs.get(device)
    if run is None or run.began_at is None:
        return
    troubles = (*run.troubles, "the scale was lost")
    lost = replace(run, troubles=troubles, is_loaded=False)
    moment.of(AxleRuns).axle_runs = {**moment.of(AxleRuns).axle_runs, device: lost}
    finish(moment, device)
