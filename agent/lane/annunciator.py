"""What the lane's beacon, siren, light and barrier should show, from what the lane knows.

====================  ======  =====  =======  ======  ======
shown                 beacon  siren  red      green   yellow
====================  ======  =====  =======  ======  ======
alarm (by its kind)   on      on     on       off     if faulty
out of service        off     off    on       off     if faulty
fault, or unknown     off     off    on       off     on
occupied              off     off    on       off     off
routine               off     off    off      on      off
====================  ======  =====  =======  ======  ======

The siren is silent ``siren_s`` after an alarm began; a new alarm sounds it again; the light stays.
Faults of severity *notice* are not shown.

The barrier, where it moves by itself, opens for a vehicle that left the portal without any finding
while neither alarm nor fault stands in the lane. It closes behind that vehicle, or at once when a
radiation alarm begins and the way is free. Two interlocks outrank every wish, and are asked again
in the moment of writing: it never closes while a contact under it, or one of presence, is active or
unknown; it never opens while a gamma, neutron or spectral alarm stands, unless the lane's file says
otherwise. The barrier's own safety loop is no business of ours and must be wired to the barrier.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.lane.instruments.contacts import Contacts
from agent.lane.moment import Moment
from agent.lane.options.instruments import OutputOptions
from agent.lane.options.rules import LaneRules
from agent.lane.passage import has_no_finding
from agent.lane.state import LaneState, Memory
from agent.lane.vehicles import Vehicles
from agent.records import Alarm, AlarmKind, Severity, Stamp

Shown = Literal["alarm", "out_of_service", "fault", "occupied", "routine"]
Move = Literal["barrier_open", "barrier_close"]

RADIATION: frozenset[AlarmKind] = frozenset({"gamma", "neutron", "spectral"})
OPENS_WITHIN_S = 10.0
"""A barrier that could not open so long after the decision does not open by itself any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """An alarm or fault as far as the lane's outputs show it."""

    kind: AlarmKind
    code: str
    severity: Severity
    raised: Stamp
    """When it began, or became another one."""
    cleared: Stamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """What was decided for the vehicle that left the portal last."""

    passage_id: str
    decided: Stamp
    opens: bool
    closes: bool
    """It may still be up from the vehicle before, and this one must not follow."""
    entered: bool = False
    """A vehicle has stood under it since."""
    free_since: Stamp | None = None
    """When the way became free; None: it is not, or nobody knows."""


@dataclass(slots=True, kw_only=True)
class Announcements(Memory):
    """What the lane's outputs show, and what was decided for the barrier."""

    announced: Mapping[str, Announced] = field(default_factory=dict)
    """By alarm id; only where the lane has outputs."""
    barrier: Barrier | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """One movement of the barrier; the same ``command_id`` is the same movement."""

    command_id: str
    signal: Move
    passage_id: str
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the outputs of one device should be now."""

    shown: Shown
    kinds: frozenset[AlarmKind]
    """The kinds of alarm that are shown."""
    levels: dict[str, bool]
    command: Command | None


# ------------------------------------------------------------------ what is remembered


def note(moment: Moment) -> None:
    """Remember what this step has said, and what it means to the barrier."""
    for record in moment.records:
        if isinstance(record, Alarm):
            _announce(moment, record)
    _forget(moment)
    _note_barrier(moment)


def _announce(moment: Moment, alarm: Alarm) -> None:
    before = moment.of(Announcements).announced.get(alarm.alarm_id)
    raised = alarm.stamp
    if before is not None and before.code == alarm.code:
        raised = before.raised
    cleared = alarm.stamp if alarm.phase == "cleared" else None
    if before is not None and before.cleared is not None:
        cleared = before.cleared  # said again only to complete it
    elif before is None and cleared is not None and _is_old(moment, alarm):
        return
    told = Announced(
        kind=alarm.kind, code=alarm.code, severity=alarm.severity, raised=raised, cleared=cleared
    )
    moment.of(Announcements).announced = {
        **moment.of(Announcements).announced,
        alarm.alarm_id: told,
    }


def _is_old(moment: Moment, alarm: Alarm) -> bool:
    """Tell whether an alarm's last word comes after it was forgotten; one raised now is not."""
    return not any(
        isinstance(r, Alarm) and r.alarm_id == alarm.alarm_id and r.phase == "raised"
        for r in moment.records
    )


def _forget(moment: Moment) -> None:
    """Drop what is shown no more."""
    hold_s = max(options.hold_s for options in moment.rules.outputs.values())
    kept = {
        alarm_id: told
        for alarm_id, told in moment.of(Announcements).announced.items()
        if told.cleared is None or moment.stamp.since_s(told.cleared) < hold_s
    }
    if len(kept) != len(moment.of(Announcements).announced):
        moment.of(Announcements).announced = kept


def _note_barrier(moment: Moment) -> None:
    state = moment.state
    sealed = [t for t in state.of(Vehicles).transits if t.is_sealed]
    barrier = state.of(Announcements).barrier
    if sealed and (barrier is None or barrier.passage_id != sealed[-1].passage_id):
        opens = has_no_finding(moment, sealed[-1]) and not _is_anything_wrong(state)
        barrier = Barrier(
            passage_id=sealed[-1].passage_id,
            decided=moment.stamp,
            opens=opens,
            closes=not opens and barrier is not None and (barrier.opens or barrier.closes),
        )
    if barrier is None:
        return
    levels = list(_under(state, moment.rules))
    is_free = bool(levels) and all(level is False for level in levels)
    free_since = (barrier.free_since or moment.stamp) if is_free else None
    barrier = replace(barrier, entered=barrier.entered or any(levels), free_since=free_since)
    if barrier != state.of(Announcements).barrier:
        state.of(Announcements).barrier = barrier


def _is_anything_wrong(state: LaneState) -> bool:
    """Return whether an alarm or a fault stands: a vehicle may not have been seen as it should."""
    return any(
        a.cleared is None and a.severity != "notice"
        for a in state.of(Announcements).announced.values()
    )


def _under(state: LaneState, rules: LaneRules) -> Iterator[bool | None]:
    """Yield the level of every contact under the barrier."""
    for device, options in rules.contacts.items():
        for name in options.under_barrier:
            yield state.of(Contacts).levels.get((device, name))


# ------------------------------------------------------------------ what should be shown


def wanted(
    state: LaneState, stamp: Stamp, rules: LaneRules, device: str, *, occupied: bool | None
) -> Wanted:
    """Return what one device's outputs should be now.

    ``occupied``: whether a vehicle is in the portal; None: it is not heard.
    """
    options = rules.outputs[device]
    alarms = [a for a in state.of(Announcements).announced.values() if _is_shown(a, stamp, options)]
    kinds = frozenset(a.kind for a in alarms)
    is_faulty = _is_faulty(state, rules, occupied=occupied)
    shown = _shown(rules, kinds, is_faulty=is_faulty, occupied=occupied)
    is_loud = any(
        a.kind in options.siren_kinds and stamp.since_s(a.raised) < options.siren_s for a in alarms
    )
    levels = {
        "beacon": any(kind in options.beacon_kinds for kind in kinds),
        "siren": is_loud,
        "red": shown != "routine",
        "green": shown == "routine",
        "yellow": is_faulty,
    }
    command = _command(state, stamp, rules, options)
    return Wanted(shown=shown, kinds=kinds, levels=levels, command=command)


def _is_shown(alarm: Announced, stamp: Stamp, options: OutputOptions) -> bool:
    if alarm.kind == "fault":
        return False
    return alarm.cleared is None or stamp.since_s(alarm.cleared) < options.hold_s


def _is_faulty(state: LaneState, rules: LaneRules, *, occupied: bool | None) -> bool:
    is_unheard = occupied is None and bool(rules.portals)
    return is_unheard or any(
        a.kind == "fault" and a.cleared is None and a.severity != "notice"
        for a in state.of(Announcements).announced.values()
    )


def _shown(
    rules: LaneRules, kinds: frozenset[AlarmKind], *, is_faulty: bool, occupied: bool | None
) -> Shown:
    if kinds:
        return "alarm"
    if not rules.lane.in_service:
        return "out_of_service"
    if is_faulty:
        return "fault"
    return "occupied" if occupied else "routine"


# ------------------------------------------------------------------ the barrier


def interlock(state: LaneState, rules: LaneRules, device: str, signal: str) -> str | None:
    """Return why the barrier must not move so now, in a few words; None: it may."""
    if signal == "barrier_close":
        names = {
            f"{module} {name}": state.of(Contacts).levels.get((module, name))
            for module, options in rules.contacts.items()
            for name in (*options.under_barrier, *options.presence)
        }
        if not names:
            return "no contact tells whether anything is under it"
        for name, level in names.items():
            if level is None:
                return f"{name} is unknown"
            if level:
                return f"{name} is active"
        return None
    if signal == "barrier_open":
        if rules.outputs[device].opens_despite_radiation:
            return None
        kinds = sorted(
            {a.kind for a in state.of(Announcements).announced.values() if a.cleared is None}
            & RADIATION
        )
        return f"a {kinds[0]} alarm stands" if kinds else None
    return "it is no movement of the barrier"


def _command(
    state: LaneState, stamp: Stamp, rules: LaneRules, options: OutputOptions
) -> Command | None:
    barrier = state.of(Announcements).barrier
    if barrier is None or options.barrier != "routine":
        return None
    why = _closes(state, stamp, barrier, options)
    if why is not None:
        if barrier.free_since is None or _is_at(state, rules, "barrier_closed"):
            return None
        return _moved("barrier_close", barrier, why)
    if not barrier.opens or stamp.since_s(barrier.decided) > OPENS_WITHIN_S:
        return None
    if _is_at(state, rules, "barrier_open"):
        return None
    return _moved("barrier_open", barrier, "the vehicle left the portal without any finding")


def _closes(state: LaneState, stamp: Stamp, barrier: Barrier, options: OutputOptions) -> str | None:
    """Return why the barrier should come down as soon as the way is free; None: it need not."""
    stands = {
        a.kind for a in state.of(Announcements).announced.values() if a.cleared is None
    } & RADIATION
    if stands and not options.opens_despite_radiation and (barrier.opens or barrier.closes):
        return f"a {min(stands)} alarm stands"
    if barrier.closes:
        return "the next vehicle has a finding"
    free_s = None if barrier.free_since is None else stamp.since_s(barrier.free_since)
    has_passed = barrier.entered and free_s is not None and free_s >= options.close_after_s
    return "the vehicle has passed" if barrier.opens and has_passed else None


def _moved(signal: Move, barrier: Barrier, why: str) -> Command:
    return Command(
        command_id=f"{signal}-{barrier.passage_id}",
        signal=signal,
        passage_id=barrier.passage_id,
        why=why,
    )


def _is_at(
    state: LaneState, rules: LaneRules, limit: Literal["barrier_open", "barrier_closed"]
) -> bool:
    """Return whether a limit switch says that the barrier is there already."""
    return any(
        state.of(Contacts).levels.get((device, name)) is True
        for device, options in rules.contacts.items()
        if (name := getattr(options, limit)) is not None
    )
