"""Raising, updating and clearing: one alarm per passage, kind, source and device, latched.

Each phase is a record of its own, with a higher ``rev`` of the same ``alarm_id``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.lane.moment import Moment
from agent.lane.state import Memory
from agent.lane.vehicles import Transit, identity_of
from agent.records import (
    Alarm,
    AlarmKind,
    BackgroundUsed,
    Category,
    EventSource,
    Evidence,
    IdentityItem,
    Phase,
    Severity,
    Source,
)

UPDATE_RATIO = 1.5
"""A latched alarm is said again when its statistic has grown so much."""
UPDATE_MIN_S = 1.0
LEAST_P = 1e-300
"""A p-value is never stated as 0: so small a number is none that a float tells from it."""
LEAST_WORDED_P = 1e-12
"""Smaller p-values rest on the form of a tail, and are not put into words."""


@dataclass(slots=True, kw_only=True)
class Standing(Memory):
    """The alarms and faults that stand until cleared."""

    standing: Mapping[tuple[str, str], Alarm] = field(default_factory=dict)
    """Alarms and faults that stand until cleared, by (device, code)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What a test found, before it is known whether it is news."""

    kind: AlarmKind
    source: Source
    code: str
    severity: Severity
    device: str
    text: str
    evidence: tuple[Evidence, ...] = ()
    detectors: tuple[str, ...] = ()
    background: BackgroundUsed | None = None
    category: Category | None = None
    nuclides: tuple[str, ...] | None = None


def raised(moment: Moment, finding: Finding, alarm_id: str, passage_id: str | None) -> Alarm:
    """Say a new alarm and return it."""
    alarm = Alarm(
        stamp=moment.stamp,
        lane=moment.rules.lane_id,
        alarm_id=alarm_id,
        code=finding.code,
        phase="raised",
        rev=1,
        passage_id=passage_id,
        kind=finding.kind,
        source=finding.source,
        severity=finding.severity,
        device=finding.device,
        text=finding.text,
        evidence=finding.evidence,
        background=finding.background,
        detectors=finding.detectors,
        category=finding.category,
        nuclides=finding.nuclides,
        provisional=passage_id is not None,
        identity=() if passage_id is None else identity_of(moment, passage_id),
    )
    moment.records.append(alarm)
    return alarm


def tell_identity(moment: Moment, transit: Transit) -> Transit:
    """Say each alarm of this passage again where it is known better now whose passage it is.

    One that is cleared already stays cleared: its last phase is said again with a higher ``rev``.
    """
    if not transit.alarms:
        return transit
    identity = identity_of(moment, transit.passage_id)
    alarms = tuple(
        alarm if alarm.identity == identity else _identified(moment, alarm, identity)
        for alarm in transit.alarms
    )
    return transit if alarms == transit.alarms else replace(transit, alarms=alarms)


def _identified(moment: Moment, alarm: Alarm, identity: tuple[IdentityItem, ...]) -> Alarm:
    phase: Phase = "cleared" if alarm.phase == "cleared" else "updated"
    told = replace(alarm, stamp=moment.stamp, phase=phase, rev=alarm.rev + 1, identity=identity)
    moment.records.append(told)
    return told


def latch(moment: Moment, transit: Transit, finding: Finding) -> Transit:
    """Raise the finding for this passage, or update what is latched already where it grew."""
    sought = (finding.kind, finding.source, finding.device)
    for index, alarm in enumerate(transit.alarms):
        if (alarm.kind, alarm.source, alarm.device) == sought:
            if not _is_news(moment, alarm, finding):
                return transit
            updated = _next_phase(moment, alarm, finding)
            return replace(
                transit,
                alarms=(*transit.alarms[:index], updated, *transit.alarms[index + 1 :]),
            )
    alarm_id = f"{transit.passage_id}-{finding.kind}-{finding.source}"
    if finding.device != transit.device:
        alarm_id = f"{alarm_id}-{finding.device}"
    return replace(
        transit,
        alarms=(*transit.alarms, raised(moment, finding, alarm_id, transit.passage_id)),
        raised=(*transit.raised, moment.stamp),
    )


def _is_news(moment: Moment, alarm: Alarm, finding: Finding) -> bool:
    if alarm.code != finding.code and _is_graver(finding.severity, alarm.severity):
        return True
    if finding.category is not None and finding.category != alarm.category:
        return True  # its name is known now
    if moment.stamp.since_s(alarm.stamp) < UPDATE_MIN_S:
        return False
    before, after = _statistic(alarm.evidence), _statistic(finding.evidence)
    return before is not None and after is not None and after >= UPDATE_RATIO * before


def _is_graver(now: Severity, before: Severity) -> bool:
    return now == "critical" and before != "critical"


def _statistic(evidence: tuple[Evidence, ...]) -> float | None:
    return evidence[0].statistic if evidence else None


def _next_phase(moment: Moment, alarm: Alarm, finding: Finding, phase: Phase = "updated") -> Alarm:
    updated = replace(
        alarm,
        stamp=moment.stamp,
        phase=phase,
        rev=alarm.rev + 1,
        code=finding.code,
        severity=finding.severity,
        text=finding.text,
        evidence=finding.evidence,
        detectors=finding.detectors,
        background=finding.background,
        category=finding.category,
        nuclides=finding.nuclides,
    )
    moment.records.append(updated)
    return updated


def cleared(moment: Moment, alarm: Alarm, event: EventSource | None = None) -> Alarm:
    """Say that the alarm is over and return its last phase; the evidence stays what it was.

    ``event``: what its file is made of, None where it has none.
    """
    last = replace(
        alarm,
        stamp=moment.stamp,
        phase="cleared",
        rev=alarm.rev + 1,
        provisional=False,
        event=event,
    )
    moment.records.append(last)
    return last


def told_late(moment: Moment, transit: Transit, finding: Finding) -> Transit:
    """Say the cleared alarm of this finding again, with its name; return the vehicle with it."""
    sought = (finding.kind, finding.source, finding.device)
    source = replace(transit.event, spectral=transit.spectral) if transit.event else None
    alarms = tuple(
        _next_phase(moment, replace(alarm, event=source), finding, alarm.phase)
        if (alarm.kind, alarm.source, alarm.device) == sought
        else alarm
        for alarm in transit.alarms
    )
    return replace(transit, alarms=alarms, event=source)


def stand(moment: Moment, finding: Finding) -> None:
    """Raise a condition that stands until cleared; nothing where it stands already."""
    key = (finding.device, finding.code)
    if key in moment.state.of(Standing).standing:
        return
    alarm = raised(moment, finding, moment.new_id("f"), None)
    moment.of(Standing).standing = {**moment.of(Standing).standing, key: alarm}


def clear_standing(moment: Moment, device: str, code: str) -> None:
    """Clear a standing condition; nothing where it does not stand."""
    alarm = moment.state.of(Standing).standing.get((device, code))
    if alarm is None:
        return
    cleared(moment, alarm)
    moment.of(Standing).standing = {
        key: other for key, other in moment.of(Standing).standing.items() if key != (device, code)
    }


def set_standing(moment: Moment, finding: Finding, *, active: bool) -> None:
    """Raise or clear a standing condition."""
    if active:
        stand(moment, finding)
    else:
        clear_standing(moment, finding.device, finding.code)


def fault(device: str, code: str, text: str, severity: Severity = "elevated") -> Finding:
    """Return a finding of ours that a device is not as it should be."""
    return Finding(
        kind="fault", source="agent", code=code, severity=severity, device=device, text=text
    )


def stated_p(p: float) -> float:
    """Return a p-value as records state it: four digits, above 0."""
    return max(float(f"{p:.4g}"), LEAST_P)


def figure_of_p(p: float) -> str:
    """Return a p-value as people read it: "4.2e-07".

    A very small one is only called smaller, "< 1e-12"; the record's number stands beside it.
    """
    if p < LEAST_WORDED_P:
        return f"< {LEAST_WORDED_P:.0e}"
    return f"{p:.2g}" if p >= 0.01 else f"{p:.1e}"


def worded_p(p: float) -> str:
    """Return a p-value in a sentence: "p = 4.2e-07" or "p < 1e-12"."""
    figure = figure_of_p(p)
    return f"p {figure}" if figure.startswith("<") else f"p = {figure}"
