"""The lane's reducer: (state, event, rules) → (state, records).

Pure: it knows no clock, no I/O and no randomness; time comes with the events. What falls due
between two events is done at the moment it fell due, so ticks change no record, only when it is
said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import assert_never

from agent.lane import annunciator, occupancy, passage
from agent.lane import (
    event as events,
)
from agent.lane.alarms import Finding, clear_standing, fault, set_standing, stand
from agent.lane.instruments import (
    axles,
    calibration,
    contacts,
    declared,
    identities,
    metal_tests,
    walks,
    weighing,
)
from agent.lane.options import LaneRules
from agent.lane.radiation import area, background, counts
from agent.lane.spectra import judging as spectra
from agent.lane.spectra import panel_health, windows
from agent.lane.state import LaneState, Transit, Turn, background_used
from agent.records import (
    Audit,
    LaneEvent,
    LaneSnapshot,
    LinkChange,
    Record,
    Stamp,
    Stop,
    Tick,
    Timed,
)
from drivers.readings import (
    BadFrame,
    Contact,
    DeviceAlarm,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    Housekeeping,
    Identity,
    MetalAlarm,
    MetalPassages,
    MetalProgram,
    NeutronBackground,
    NeutronCounts,
    OccupancyEnd,
    PortalSettings,
    Reading,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
    Weight,
    WindowBackground,
    WindowCounts,
)

Due = tuple[int, Callable[[Turn], None]]


def step(
    state: LaneState, event: LaneEvent, rules: LaneRules
) -> tuple[LaneState, tuple[Record, ...]]:
    """Return the lane after one event, and what it has to say; ``state`` stays as it was."""
    turn = Turn(state.copied(), rules, event.stamp)
    _run_due(turn, 0, event.stamp)
    metal_tests.watch(turn)
    parts = turn.state.parts
    match event:
        case Timed():
            _hear(turn, event.device)
            _read(turn, event.device, event.reading)
            if isinstance(event.reading, GammaCounts | NeutronCounts | WindowCounts):
                events.note(turn, event.device, event.reading)
        case LinkChange():
            _link(turn, event)
        case Tick():
            pass
        case Stop():
            _stop(turn)
        case _:
            assert_never(event)
    passage.revise(turn, parts)
    # What is due now and was not before is due through this event, so it has this event's time.
    _run_due(turn, event.stamp.mono_us, event.stamp)
    if rules.outputs:
        annunciator.note(turn)
    return turn.state, tuple(turn.records)


def snapshot(state: LaneState, stamp: Stamp, rules: LaneRules) -> LaneSnapshot:
    """Return the lane as it is now, for displays."""
    alarms = [a.alarm_id for t in state.transits if not t.is_sealed for a in t.alarms]
    alarms += [a.alarm_id for a in state.standing.values()]
    alarms += [w.alarm.alarm_id for w in state.weighings.values() if w.alarm]
    alarms += [r.alarm.alarm_id for r in state.axle_runs.values() if r.alarm]
    alarms += [w.alarm.alarm_id for w in state.walks.values() if w.alarm]
    alarms += [
        p.declared_alarm.alarm_id
        for p in state.parts
        if p.declared_alarm is not None and p.declared_alarm.phase != "cleared"
    ]
    backgrounds = {}
    for portal in state.portals.values():
        if rules.traits_of(portal.device).rule == "none":
            continue
        suspect = occupancy.is_suspect(portal.background, rules)
        backgrounds[portal.device] = background_used(portal.background, stamp, suspect=suspect)
    return LaneSnapshot(
        stamp=stamp,
        lane=rules.lane_id,
        in_service=rules.lane.in_service,
        occupied=is_occupied(state, rules),
        alarms=tuple(alarms),
        background=backgrounds,
    )


def is_occupied(state: LaneState, rules: LaneRules) -> bool | None:
    """Return whether a vehicle is inside; None: who could tell is not heard, or cannot say."""
    teller = rules.teller
    if teller is None:
        told = state.presence.values()
        return True if True in told else False if False in told else None
    if not state.links.get(teller, False):
        return None
    if rules.traits_of(teller).presence == "told":
        return state.presence.get(teller)
    if teller not in state.portals:
        return None
    return bool(state.transits) and state.transits[-1].ended is None


def is_vacant(state: LaneState) -> bool:
    """Return whether no vehicle is being measured, so that options may be exchanged."""
    last = state.transits[-1] if state.transits else None
    return last is None or last.is_sealed


# ------------------------------------------------------------------ what falls due


def _run_due(turn: Turn, from_us: int, until: Stamp) -> None:
    """Do what has fallen due by ``until``, in order of time, none before ``from_us``."""
    state = turn.state
    while (
        state.transits
        or state.parts
        or state.walks
        or state.axle_runs
        or state.spectra
        or state.metal_tests
        or state.metal_tested
    ):
        due = min(_due(turn), key=lambda d: d[0], default=None)
        if due is None or due[0] > until.mono_us:
            break
        from_us = max(from_us, due[0])
        turn.stamp = until.back((until.mono_us - from_us) / 1e6)
        parts = turn.state.parts
        due[1](turn)
        passage.revise(turn, parts)
    turn.stamp = until


def _due(turn: Turn) -> Iterator[Due]:
    """Yield each thing that time alone will do, with its moment [monotonic µs]."""
    state, rules = turn.state, turn.rules
    longest_s = max((o.max_gap_s for o in rules.sides.values()), default=0.0)
    slice_us = spectra.due_us(turn)
    if slice_us is not None:
        yield slice_us, spectra.close_slice
    for transit in state.transits:
        yield _due_of_transit(turn, transit, longest_s)
    for device, walk in state.walks.items():
        at = walk.last.forward(rules.metals[device].alarm_joins_s)
        yield at.mono_us, partial(walks.finish, device=device)
    yield from _due_of_tests(turn)
    for device, run in state.axle_runs.items():
        if run.left_at is not None and not run.is_loaded:
            at = run.left_at.forward(rules.scales[device].axle_gap_s)
            yield at.mono_us, partial(axles.finish, device=device)
    for part in state.parts:
        if not part.claimed_by and part.orphan is None:
            at = passage.last_moment(part, rules.sides[part.device])
            yield at.mono_us, partial(passage.publish_orphan, part=part)
        elif part.orphan is not None:
            at = part.at.forward(4 * longest_s + 2 * passage.KEPT_PUBLISHED_S)
            yield at.mono_us, partial(_forget_part, serial=part.serial)


def _due_of_tests(turn: Turn) -> Iterator[Due]:
    """Yield when a metal detector's test has lasted too long, and when the next one is due."""
    for test in turn.state.metal_tests.values():
        at = test.started.forward(metal_tests.LONGEST_TEST_S)
        yield at.mono_us, partial(metal_tests.end_left_on, switch=test.switch)
    for device, tested in turn.state.metal_tested.items():
        options = turn.rules.metals.get(device)
        if options is not None and options.test_every_h is not None:
            at = tested.forward(options.test_every_h * 3600)
            yield at.mono_us, partial(metal_tests.expire, device=device)


def _due_of_transit(turn: Turn, transit: Transit, longest_s: float) -> Due:
    """Return what time does next with a transit: end it, seal it, say it, or forget it."""
    if transit.ended is None and occupancy.is_told_occupied(turn):
        at = transit.began.forward(turn.rules.lane.longest_occupancy_s)
        return at.mono_us, occupancy.end_stuck
    if transit.ended is None:
        at = transit.last_count.forward(turn.rules.lane.occupancy_timeout_s)
        return at.mono_us, partial(occupancy.end_occupancy, reason="timeout")
    sealed_at = transit.ended.forward(turn.rules.lane.join_gap_s)
    if not transit.is_sealed:
        return sealed_at.mono_us, partial(passage.seal, transit=transit)
    if transit.published is None:
        waits_until = passage.waiting_until(turn, transit)
        at_us = max(waits_until.mono_us, sealed_at.mono_us)
        return at_us, partial(passage.publish, transit=transit)
    at = transit.ended.forward(2 * longest_s + passage.KEPT_PUBLISHED_S)
    return at.mono_us, partial(_forget_transit, passage_id=transit.passage_id)


def _forget_transit(turn: Turn, passage_id: str) -> None:
    """Forget a transit that no part can join any more, and the parts that only it could claim."""
    kept = tuple(t for t in turn.state.transits if t.passage_id != passage_id)
    names = {t.passage_id for t in kept}
    turn.state.transits = kept
    parts = tuple(p for p in turn.state.parts if not p.claimed_by or p.claimed_by & names)
    for part in turn.state.parts:
        if part not in parts:
            declared.let_go(turn, part)
    turn.state.parts = parts


def _forget_part(turn: Turn, serial: int) -> None:
    turn.state.parts = tuple(p for p in turn.state.parts if p.serial != serial)


# ------------------------------------------------------------------ events


def _hear(turn: Turn, device: str) -> None:
    """A device that speaks has a link, also where nobody said so (a recording)."""
    if device not in turn.state.links:
        turn.state.links = {**turn.state.links, device: True}


def _read(turn: Turn, device: str, reading: Reading) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a word
    match reading:
        case GammaCounts():
            counts.on_gamma(turn, device, reading)
            background.gather(turn, device, reading)
        case NeutronCounts():
            counts.on_neutron(turn, device, reading)
        case GammaBackground():
            background.on_gamma_background(turn, device, reading)
        case NeutronBackground():
            background.on_neutron_background(turn, device, reading)
        case OccupancyEnd():
            occupancy.on_occupancy_end(turn, device, reading)
        case VehicleSpeed():
            occupancy.on_speed(turn, device, reading)
        case PortalSettings():
            occupancy.on_settings(turn, device, reading)
        case DeviceAlarm():
            area.on_device_alarm(turn, device, reading)
        case Undocumented():
            occupancy.on_undocumented(turn, device, reading)
        case Weight():
            _on_weight(turn, device, reading)
        case MetalAlarm():
            walks.on_metal_alarm(turn, device, reading)
        case MetalPassages():
            walks.on_passages(turn, device, reading)
        case MetalProgram():
            walks.on_program(turn, device, reading)
        case DeviceState():
            _on_device_state(turn, device, reading)
        case BadFrame():
            pass
        case WindowCounts():
            windows.on_counts(turn, device, reading)
        case WindowBackground():
            windows.on_background(turn, device, reading)
        case VehiclePresence():
            occupancy.on_presence(turn, device, reading)
        case DoseRate():
            area.on_dose_rate(turn, device, reading)
        case DeviceNuclides():
            area.on_nuclides(turn, device, reading)
        case Contact():
            contacts.on_contact(turn, device, reading)
        case Identity():
            identities.on_identity(turn, device, reading)
        case GammaSpectrum():
            panel_health.watch(turn, device, reading)
            spectra.on_spectrum(turn, device, reading)
        case Housekeeping():
            calibration.on_housekeeping(turn, device, reading)
        case _:
            assert_never(reading)


def _on_weight(turn: Turn, device: str, weight: Weight) -> None:
    if calibration.is_test(turn, device):
        return
    calibration.watch(turn, device, weight)
    weighing.watch_range(turn, device, weight)
    weighing.watch_parity(turn, device, weight)
    if turn.rules.scales[device].weighs == "axles":
        axles.on_weight(turn, device, weight)
    else:
        weighing.on_weight(turn, device, weight)


def _on_device_state(turn: Turn, device: str, reading: DeviceState) -> None:
    """Raise or clear what the device says of itself; what it cannot say any more stays standing."""
    if reading.condition == "not_ready" and device in turn.rules.metals:
        walks.on_ready(turn, device, is_ready=reading.active is False)
    if reading.active is None:
        return
    detail = f" ({reading.detail})" if reading.detail else ""
    finding = Finding(
        kind="tamper" if reading.condition == "tamper" else "fault",
        source="device",
        code=reading.condition,
        severity="elevated",
        device=device,
        text=f"{device}: the device reports {reading.condition.replace('_', ' ')}{detail}",
    )
    set_standing(turn, finding, active=reading.active)


def _link(turn: Turn, change: LinkChange) -> None:
    device = change.device
    turn.state.links = {**turn.state.links, device: change.is_up}
    if change.is_up:
        clear_standing(turn, device, "device_lost")
        _explain_gap(turn, device)
        return
    occupancy.on_lost(turn, device)
    if device in turn.rules.portals:
        panel_health.on_lost(turn, device)
    elif device in turn.rules.scales:
        weighing.on_lost(turn, device)
        axles.on_lost(turn, device)
    elif device in turn.rules.metals:
        walks.on_lost(turn, device)
    elif device in turn.rules.contacts:
        contacts.on_lost(turn, device)
    turn.state.lost_at = {**turn.state.lost_at, device: turn.stamp}
    stand(turn, fault(device, "device_lost", change.detail or f"{device}: the link was lost"))


def _explain_gap(turn: Turn, device: str) -> None:
    """Say from when to when nothing could be measured."""
    since = turn.state.lost_at.get(device)
    if since is None:
        return
    turn.state.lost_at = {d: s for d, s in turn.state.lost_at.items() if d != device}
    data: dict[str, object] = {
        "device": device,
        "from": since,
        "to": turn.stamp,
        "gap_s": turn.stamp.since_s(since),
        "reason": "device_lost",
    }
    turn.records.append(Audit(stamp=turn.stamp, kind="gap", lane=turn.rules.lane_id, data=data))


def _stop(turn: Turn) -> None:
    """Close and say everything that is open: the agent stops."""
    occupancy.end_occupancy(turn, "agent_stop")
    for device in turn.rules.scales:
        weighing.on_lost(turn, device)
        axles.on_lost(turn, device)
    for device in tuple(turn.state.walks):
        walks.finish(turn, device)
    metal_tests.end(turn, "agent_stop")
    passage.claim(turn)
    for transit in turn.state.transits:
        if not transit.is_sealed:
            passage.seal(turn, transit)
    for transit in turn.state.transits:
        passage.publish(turn, transit)
    for part in turn.state.parts:
        if not part.claimed_by and part.orphan is None:
            passage.publish_orphan(turn, part)
    turn.state.parts = tuple(declared.let_go(turn, part) for part in turn.state.parts)
    calibration.on_stop(turn)
    # Nobody watches any more; what still holds is raised anew at the next start.
    for device, code in tuple(turn.state.standing):
        clear_standing(turn, device, code)
