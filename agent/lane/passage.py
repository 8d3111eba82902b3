"""Joins what belongs to one vehicle into one passage, and closes it.

A weight, a walk and what a reader reads come before, during or after the portal's occupancy
(``relation``), at most ``max_gap_s`` from it::

    before   start - gap … start          during   start … end, or else within the gap of it
    after    end … end + gap

A part that fits two vehicles stays null in both, and both say *ambiguous*. A part that comes
after its passage was said gives the same passage with a higher ``rev``. What fits no vehicle gets
a passage of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from operator import is_not
from statistics import median
from typing import Literal

from agent.lane import event
from agent.lane.alarms import cleared, latch, tell_identity, told_late
from agent.lane.instruments import declared
from agent.lane.instruments.axles import AxleRuns
from agent.lane.instruments.walks import Metal
from agent.lane.instruments.weighing import Weighings
from agent.lane.links import Links
from agent.lane.moment import Moment
from agent.lane.options.rules import LaneRules, SideOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.spectra import judging as spectra
from agent.lane.spectra import uniformity, windows
from agent.lane.spectra.naming import Named
from agent.lane.spectra.part import finding_of, with_name
from agent.lane.vehicles import (
    NameWanted,
    Part,
    Share,
    Sighting,
    Transit,
    Vehicles,
    claimants,
    put,
    sightings_of,
)
from agent.records import (
    Agreement,
    MetalPart,
    MetalResult,
    Passage,
    Priority,
    RpmPart,
    ScalePart,
    Stamp,
)

KEPT_PUBLISHED_S = 5.0
"""A published transit is remembered so long after the last part that could still join it."""

LATE_NAME_S = 120.0
"""A name that comes later than so long after it was waited for is not said any more."""

LONGEST_VEHICLE_M = 40.0
"""A beam timing that would make the vehicle longer than this is a false one."""
HOLD_IN_S = 2.0
"""The portal stays occupied so long after the beam clears."""

_METAL_ORDER: tuple[MetalResult, ...] = ("alarm", "unknown", "random", "clear")


def last_moment(part: Part, options: SideOptions) -> Stamp:
    """Return until when a vehicle can still appear that the part fits."""
    return part.at if options.relation == "after" else part.at.forward(options.max_gap_s)


def waiting_until(moment: Moment, transit: Transit) -> Stamp:
    """Return until when this sealed transit waits for parts that have not come."""
    assert transit.ended is not None
    until = transit.ended
    for device, options in moment.rules.sides.items():
        if options.relation == "before" or not moment.state.of(Links).up.get(device, False):
            continue
        if isinstance(options, ScaleOptions) and options.calibrating:
            continue
        has_part = any(
            p.device == device and transit.passage_id in p.claimed_by
            for p in moment.state.of(Vehicles).parts
        )
        if not has_part:
            deadline = transit.ended.forward(options.max_gap_s)
            until = deadline if deadline.mono_us > until.mono_us else until
    return until


def seal(moment: Moment, transit: Transit) -> None:
    """No further occupancy can join: the vehicle has left.

    Where its spectra have to be named it is closed when the name has come, else at once.
    """
    transit = windows.finish(moment, spectra.finish(moment, transit))
    moment.of(Vehicles).passed += 1
    source = event.source_of(moment, transit, _speed(transit, moment.rules))
    transit = replace(transit, is_sealed=True, event=source)
    put(moment, transit)
    if transit.name_wanted is None:
        close(moment, transit)


def close(moment: Moment, transit: Transit) -> None:
    """Clear the vehicle's alarms, whether a name that was wanted has come or not."""
    if transit.name_wanted is None:
        uniformity.note(moment, transit)
    source = event.completed(transit)
    alarms = tuple(cleared(moment, alarm, source) for alarm in transit.alarms)
    put(moment, replace(transit, alarms=alarms, is_closed=True, event=source))


def on_name(moment: Moment, question_id: str, named: Named | None) -> None:
    """Take the name of a spectrum; None: nobody could find one.

    One that comes after its passage was closed gives alarm and passage another revision.
    """
    for transit in moment.state.of(Vehicles).transits:
        wanted = transit.name_wanted
        if wanted is not None and wanted.question_id == question_id:
            _name(moment, transit, wanted, named)


def _name(moment: Moment, transit: Transit, wanted: NameWanted, named: Named | None) -> None:
    assert transit.spectral is not None
    part = with_name(transit.spectral, wanted, named)
    transit = replace(transit, name_wanted=None, spectral=part)
    finding = None
    if wanted.is_alarm:
        finding = finding_of(part.detectors, part.false_alarm_rate, wanted.found, named)
    if not transit.is_closed:
        if finding is not None:
            transit = latch(moment, transit, finding)
        close(moment, transit)
        return
    uniformity.note(moment, transit)
    if finding is not None:
        transit = told_late(moment, transit, finding)
    put(moment, transit)
    if transit.published is not None:
        publish(moment, transit)


def publish(moment: Moment, transit: Transit) -> None:
    """Say the passage, or say it again with a higher ``rev`` where a part has changed it."""
    composed = _compose(moment, transit)
    before = transit.published
    if before is not None and replace(composed, stamp=before.stamp, rev=before.rev) == before:
        return
    if before is not None:
        composed = replace(composed, rev=before.rev + 1)
    moment.records.append(composed)
    put(moment, replace(transit, published=composed))


@dataclass(frozen=True, slots=True)
class Seen:
    """The vehicles and parts as the last passages were said of them."""

    transits: tuple[Transit, ...]
    parts: tuple[Part, ...]


def seen(moment: Moment) -> Seen:
    """Return what is said already, before something may change it."""
    vehicles = moment.state.of(Vehicles)
    return Seen(vehicles.transits, vehicles.parts)


def revise(moment: Moment, before: Seen) -> None:
    """Say again every published passage that a part has changed since."""
    claim(moment, before)
    declared.judge(moment)
    vehicles = moment.state.of(Vehicles)
    if vehicles.parts is before.parts:
        return
    known = {part.serial: part for part in before.parts}
    renewed = [p for p in vehicles.parts if known.pop(p.serial, None) is not p]
    concerned = frozenset().union(*(p.claimed_by for p in (*renewed, *known.values())))
    for transit in vehicles.transits:
        if transit.passage_id in concerned:
            told = tell_identity(moment, transit)
            if told is not transit:
                put(moment, told)
            if told.published is not None:
                publish(moment, told)
    for part in renewed:
        if part.orphan is not None:
            publish_orphan(moment, part)


def claim(moment: Moment, before: Seen | None = None) -> None:
    """Remember which vehicles each part has ever fitted.

    Nothing where neither the parts nor the coming and leaving of vehicles have changed.
    """
    vehicles = moment.state.of(Vehicles)
    if not vehicles.parts or (before is not None and not _has_moved(vehicles, before)):
        return
    parts = tuple(_claimed(moment, part) for part in vehicles.parts)
    if any(map(is_not, parts, vehicles.parts)):
        moment.of(Vehicles).parts = parts


def _has_moved(vehicles: Vehicles, before: Seen) -> bool:
    if vehicles.parts is not before.parts or len(vehicles.transits) != len(before.transits):
        return True
    return any(
        new is not old and (new.started is not old.started or new.ended is not old.ended)
        for new, old in zip(vehicles.transits, before.transits, strict=True)
    )


def _claimed(moment: Moment, part: Part) -> Part:
    if part.orphan is not None:
        return part
    fitting, inside = claimants(moment, part.device, part.at)
    if inside and not part.is_inside:
        return replace(part, claimed_by=fitting, is_inside=True)
    if part.is_inside and not inside:
        return part
    if fitting <= part.claimed_by:
        return part
    return replace(part, claimed_by=part.claimed_by | fitting)


def publish_orphan(moment: Moment, part: Part) -> None:
    """Give a part that fits no vehicle a passage of its own, or say that passage again."""
    passage_id = part.orphan.passage_id if part.orphan else moment.new_id("p")
    scale = part.content if isinstance(part.content, ScalePart) else None
    metal = part.content if isinstance(part.content, MetalPart) else None
    identity = (part.content.kept,) if isinstance(part.content, Sighting) else ()
    priority, reasons = _priority(moment.rules, None, scale, metal, ())
    passage = Passage(
        stamp=moment.stamp,
        lane=moment.rules.lane_id,
        passage_id=passage_id,
        rev=1,
        started=part.at,
        ended=part.at,
        end_reason="left",
        direction=_direction(metal),
        speed_m_per_s=None,
        transit_id=passage_id,
        priority=priority,
        reasons=reasons,
        alarm_ids=part.all_alarm_ids,
        ambiguous=(),
        rpm=None,
        scale=scale,
        metal=metal,
        identity=identity,
    )
    before = part.orphan
    if before is not None:
        if replace(passage, stamp=before.stamp, rev=before.rev) == before:
            return
        passage = replace(passage, rev=before.rev + 1)
    moment.records.append(passage)
    vehicles = moment.of(Vehicles)
    # A walk that is over is never renewed, as a weight and a reading may be.
    kept = None if metal is not None else replace(part, orphan=passage)
    renewed = (kept if p.serial == part.serial else p for p in vehicles.parts)
    vehicles.parts = tuple(p for p in renewed if p is not None)


def _compose(moment: Moment, transit: Transit) -> Passage:
    """Return the passage as it stands now, with ``rev`` 1."""
    assert transit.ended is not None
    own, ambiguous = _parts_of(moment, transit)
    scales = [p.content for p in own if isinstance(p.content, ScalePart)]
    metals = [p.content for p in own if isinstance(p.content, MetalPart)]
    # Weighed again: the later weighing counts.
    scale = scales[-1] if scales else None
    metal = _joined(metals) if metals else None
    if scale is not None:
        scale = declared.with_declaration(moment, scale, transit.passage_id)
    rpm = _own_part(transit, moment.rules)
    priority, reasons = _priority(moment.rules, transit, scale, metal, ambiguous)
    alarm_ids = [a.alarm_id for a in transit.alarms]
    alarm_ids += [alarm_id for part in own for alarm_id in part.all_alarm_ids]
    return Passage(
        stamp=moment.stamp,
        lane=moment.rules.lane_id,
        passage_id=transit.passage_id,
        rev=1,
        started=transit.started,
        ended=transit.ended,
        end_reason=transit.end_reason,
        direction=transit.direction,
        speed_m_per_s=_speed(transit, moment.rules),
        transit_id=transit.passage_id,
        priority=priority,
        reasons=reasons,
        alarm_ids=tuple(alarm_ids),
        ambiguous=ambiguous,
        rpm=rpm,
        scale=scale,
        metal=metal,
        spectral=transit.spectral,
        event=transit.event,
        also=tuple(_rpm_part(share, moment.rules) for share in transit.also),
        identity=tuple(s.kept for s in sightings_of(moment.state, transit.passage_id)),
    )


def _parts_of(moment: Moment, transit: Transit) -> tuple[list[Part], tuple[str, ...]]:
    """Return the parts that only this vehicle fits, and the devices with one that fits others."""
    own, ambiguous = [], set()
    for part in moment.state.of(Vehicles).parts:
        if transit.passage_id not in part.claimed_by:
            continue
        if len(part.claimed_by) == 1:
            own.append(part)
        else:
            ambiguous.add(part.device)
    # A device of which one part is in doubt gives none: the others might be the other vehicle's.
    return [p for p in own if p.device not in ambiguous], tuple(sorted(ambiguous))


def _joined(walks: list[MetalPart]) -> MetalPart:
    """Return several persons' walks as one part: the most serious result, sums and extremes."""
    told = [w.zones for w in walks if w.zones is not None]
    loudest = max((w for w in walks if w.amplitude is not None), key=_amplitude, default=walks[-1])
    return MetalPart(
        device=walks[0].device,
        result=min((w.result for w in walks), key=_METAL_ORDER.index),
        persons=sum(w.persons for w in walks),
        alarms=sum(w.alarms for w in walks),
        directions=tuple(dict.fromkeys(d for w in walks for d in w.directions)),
        zones=tuple(dict.fromkeys(z for zones in told for z in zones)) if told else None,
        amplitude=loudest.amplitude,
        amplitude_scale=loudest.amplitude_scale,
        program=walks[-1].program,
        sensitivity=walks[-1].sensitivity,
    )


def _amplitude(walk: MetalPart) -> float:
    return walk.amplitude or 0.0


def _speed(transit: Transit, rules: LaneRules) -> float | None:
    """Return the median of the believable beam timings [m/s], None where there is none."""
    assert transit.ended is not None
    teller = rules.teller
    has_hold_in = teller is not None and rules.traits_of(teller).presence == "counts"
    inside_s = transit.ended.since_s(transit.started) - (HOLD_IN_S if has_hold_in else 0.0)
    inside_s = max(inside_s, 0.0)
    speeds = [v for v in transit.speeds if v * inside_s <= LONGEST_VEHICLE_M]
    return round(median(speeds), 3) if speeds else None


def _direction(metal: MetalPart | None) -> Literal["in", "out"] | None:
    """Return a person's direction, None where none or both were told."""
    if metal is None or len(metal.directions) != 1:
        return None
    return "in" if metal.directions[0] == "in" else "out"


def _own_part(transit: Transit, rules: LaneRules) -> RpmPart | None:
    """Return the part of the portal that the passage is of; None: the lane has none."""
    if transit.device is None:
        return None
    share = Share(
        device=transit.device,
        background=transit.background,
        numbers=transit.numbers,
        tally=transit.tally,
        undocumented=transit.undocumented,
        settings=transit.settings,
    )
    return _rpm_part(share, rules)


def _rpm_part(share: Share, rules: LaneRules) -> RpmPart:
    tally, background = share.tally, share.background
    agreement = None
    if tally.intervals:
        agreement = Agreement(intervals=tally.intervals, agree=tally.agree, rounding=tally.rounding)
    return RpmPart(
        device=share.device,
        occupancy_number=share.numbers[-1] if share.numbers else None,
        occupancy_numbers=share.numbers,
        background_cps=background.gamma_cps,
        background_quality=background.quality,
        reference_background_cps=background.reference_gamma_cps,
        gamma_max_cps=tally.gamma_cps,
        gamma_max_cps_by_detector=tally.gamma_cps_by_detector,
        gamma_max_sigma=_rounded(tally.sigma),
        gamma_max_sigma_reference=_rounded(tally.sigma_reference),
        neutron_max_cps=tally.neutron_cps,
        neutron_background_cps=background.neutron_cps,
        neutron_p=tally.neutron_p,
        device_gamma_alarm=tally.device_gamma,
        device_neutron_alarm=tally.device_neutron,
        device_agreement=agreement,
        settings=_settings(share, rules),
        undocumented=dict(share.undocumented) or None,
        device_nuclides=tally.nuclides,
        dose_rate_max_usv_per_h=tally.dose_rate_usv_per_h,
    )


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _settings(share: Share, rules: LaneRules) -> dict[str, str | float | int | list[str] | None]:
    """Return the settings that the decision was recomputed with, and whose they were.

    Empty where the device decides by a rule of its own.
    """
    if share.device not in rules.portals or rules.traits_of(share.device).rule != "tsa":
        return {}
    options, told = rules.portals[share.device], share.settings
    values: dict[str, str | float | int | list[str] | None] = {}
    sources = set()
    for name in ("nsigma", "intervals", "algorithms"):
        said = None if told is None or name in rules.pinned else getattr(told, name)
        value = getattr(options, name) if said is None else said
        values[name] = list(value) if isinstance(value, tuple) else value
        sources.add("lane file" if said is None else "portal")
    values["from"] = " and ".join(sorted(sources))
    values["firmware"] = told.firmware if told else None
    return values


def _is_unmeasured(transit: Transit, rules: LaneRules) -> bool:
    """Return whether the portal's counts could not be judged; false where there is no portal."""
    if transit.device is None:
        return False
    if rules.traits_of(transit.device).rule == "tsa":
        return transit.tally.intervals == 0
    spectral = transit.spectral
    if spectral is not None and spectral.p is not None and transit.device in spectral.devices:
        return False  # by its spectra
    return transit.tally.gamma_cps is None


def has_no_finding(moment: Moment, transit: Transit) -> bool:
    """Return whether nothing at all speaks against a vehicle that has left the portal."""
    _, reasons = _priority(moment.rules, transit, None, None, ())
    theirs = (
        p.all_alarm_ids for p in moment.of(Vehicles).parts if transit.passage_id in p.claimed_by
    )
    begun = [w.alarm for w in moment.of(Metal).walks.values()]
    begun += [w.alarm for w in moment.of(Weighings).weighings.values()]
    begun += [r.alarm for r in moment.of(AxleRuns).axle_runs.values()]
    return not reasons and not any(theirs) and not any(begun)


def _priority(
    rules: LaneRules,
    transit: Transit | None,
    scale: ScalePart | None,
    metal: MetalPart | None,
    ambiguous: tuple[str, ...],
) -> tuple[Priority, tuple[str, ...]]:
    """Return how urgent the passage is, and each reason by name."""
    high, elevated = [], []
    if transit is not None:
        high = [
            a.code if a.code == "over_range" else f"{a.kind}_{a.source}" for a in transit.alarms
        ]
        high = list(dict.fromkeys(high))
        if transit.end_reason == "device_lost" or transit.is_portal_lost:
            elevated.append("portal_lost")
        if _is_unmeasured(transit, rules):
            elevated.append("not_measured")
        if transit.background.quality not in {"good", "learning"}:
            elevated.append(f"background_{transit.background.quality}")
    if scale is not None:
        elevated += _weight_reasons(scale)
    if metal and metal.result in {"alarm", "unknown"}:
        elevated.append(f"metal_{metal.result}")
    elevated += [f"ambiguous_{device}" for device in ambiguous]
    priority: Priority = "high" if high else "elevated" if elevated else "routine"
    check = scale.declared_check if scale else None
    notes = ["declared_not_judged"] if check is not None and check.result == "not_judged" else []
    spectral = None if transit is None else transit.spectral
    if spectral is not None and spectral.naming in {"pending", "failed"}:
        notes.append("not_named")
    if not rules.lane.in_service:
        notes.append("out_of_service")
    notes += [f"calibrating_{device}" for device, o in rules.scales.items() if o.calibrating]
    return priority, (*high, *elevated, *notes)


def _weight_reasons(scale: ScalePart) -> list[str]:
    """Return what a weight is remarkable for."""
    reasons = []
    limit_kg = scale.max_gross_kg
    if limit_kg is not None and scale.mass_kg is not None and scale.mass_kg > limit_kg:
        reasons.append("over_max_gross")
    if scale.stable is False:
        reasons.append("weight_in_motion")
    if scale.invalid is not None:
        reasons.append("weighing_invalid")
    check = scale.declared_check
    if check is not None and check.result == "differs":
        reasons.append("declared_mismatch")
    return reasons
