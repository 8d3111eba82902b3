"""The lane's reducer: (state, event, rules) → (state, records).

Pure: it knows no clock, no I/O and no randomness; time comes with the events. What falls due
between two events is done at the moment it fell due, so ticks change no record, only when it is
said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import assert_never

from agent.lane import annunciator, links, occupancy, passage, portals
from agent.lane import event as events
from agent.lane.alarms import Finding, Standing, clear_standing, set_standing
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
from agent.lane.instruments.axles import AxleRuns
from agent.lane.instruments.walks import Metal
from agent.lane.instruments.weighing import Weighings
from agent.lane.links import Links
from agent.lane.moment import Moment
from agent.lane.occupancy import Tellers
from agent.lane.options.rules import LaneRules
from agent.lane.portals import Portals, background_used
from agent.lane.radiation import area, background, counts
from agent.lane.spectra import judging as spectra
from agent.lane.spectra import panel_health, windows
from agent.lane.spectra.memory import Crystals
from agent.lane.state import LaneState
from agent.lane.vehicles import Transit, Vehicles
from agent.records import (
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

Due = tuple[int, Callable[[Moment], None]]


def step(
    state: LaneState, event: LaneEvent, rules: LaneRules
) -> tuple[LaneState, tuple[Record, ...]]:
    """Return the lane after one event, and what it has to say; ``state`` stays as it was."""
    moment = Moment.after(state, rules, event.stamp)
    _run_due(moment, 0, event.stamp)
    metal_tests.watch(moment)
    parts = moment.of(Vehicles).parts
    match event:
        case Timed():
            links.hear(moment, event.device)
            _read(moment, event.device, event.reading)
            if isinstance(event.reading, GammaCounts | NeutronCounts | WindowCounts):
                events.note(moment, event.device, event.reading)
        case LinkChange():
            _link(moment, event)
        case Tick():
            pass
        case Stop():
            _stop(moment)
        case _:
            assert_never(event)
    passage.revise(moment, parts)
    # What is due now and was not before is due through this event, so it has this event's time.
    _run_due(moment, event.stamp.mono_us, event.stamp)
    if rules.outputs:
        annunciator.note(moment)
    return moment.state, tuple(moment.records)


def snapshot(state: LaneState, stamp: Stamp, rules: LaneRules) -> LaneSnapshot:
    """Return the lane as it is now, for displays."""
    alarms = [a.alarm_id for t in state.of(Vehicles).transits if not t.is_sealed for a in t.alarms]
    alarms += [a.alarm_id for a in state.of(Standing).standing.values()]
    alarms += [w.alarm.alarm_id for w in state.of(Weighings).weighings.values() if w.alarm]
    alarms += [r.alarm.alarm_id for r in state.of(AxleRuns).axle_runs.values() if r.alarm]
    alarms += [w.alarm.alarm_id for w in state.of(Metal).walks.values() if w.alarm]
    alarms += [
        p.declared_alarm.alarm_id
        for p in state.of(Vehicles).parts
        if p.declared_alarm is not None and p.declared_alarm.phase != "cleared"
    ]
    backgrounds = {}
    for portal in state.of(Portals).portals.values():
        if rules.traits_of(portal.device).rule == "none":
            continue
        suspect = portals.is_suspect(portal.background, rules)
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
        told = state.of(Tellers).presence.values()
        return True if True in told else False if False in told else None
    if not state.of(Links).up.get(teller, False):
        return None
    if rules.traits_of(teller).presence == "told":
        return state.of(Tellers).presence.get(teller)
    if teller not in state.of(Portals).portals:
        return None
    return bool(state.of(Vehicles).transits) and state.of(Vehicles).transits[-1].ended is None


def is_vacant(state: LaneState) -> bool:
    """Return whether no vehicle is being measured, so that options may be exchanged."""
    last = state.of(Vehicles).transits[-1] if state.of(Vehicles).transits else None
    return last is None or last.is_sealed


# ------------------------------------------------------------------ what falls due


def _run_due(moment: Moment, from_us: int, until: Stamp) -> None:
    """Do what has fallen due by ``until``, in order of time, none before ``from_us``."""
    state = moment.state
    while (
        state.of(Vehicles).transits
        or state.of(Vehicles).parts
        or state.of(Metal).walks
        or state.of(AxleRuns).axle_runs
        or state.of(Crystals).spectra
        or state.of(Metal).metal_tests
        or state.of(Metal).metal_tested
    ):
        due = min(_due(moment), key=lambda d: d[0], default=None)
        if due is None or due[0] > until.mono_us:
            break
        from_us = max(from_us, due[0])
        moment.stamp = until.back((until.mono_us - from_us) / 1e6)
        parts = moment.of(Vehicles).parts
        due[1](moment)
        passage.revise(moment, parts)
    moment.stamp = until


def _due(moment: Moment) -> Iterator[Due]:
    """Yield each thing that time alone will do, with its moment [monotonic µs]."""
    state, rules = moment.state, moment.rules
    longest_s = max((o.max_gap_s for o in rules.sides.values()), default=0.0)
    slice_us = spectra.due_us(moment)
    if slice_us is not None:
        yield slice_us, spectra.close_slice
    for transit in state.of(Vehicles).transits:
        yield _due_of_transit(moment, transit, longest_s)
    for device, walk in state.of(Metal).walks.items():
        at = walk.last.forward(rules.metals[device].alarm_joins_s)
        yield at.mono_us, partial(walks.finish, device=device)
    yield from _due_of_tests(moment)
    for device, run in state.of(AxleRuns).axle_runs.items():
        if run.left_at is not None and not run.is_loaded:
            at = run.left_at.forward(rules.scales[device].axle_gap_s)
            yield at.mono_us, partial(axles.finish, device=device)
    for part in state.of(Vehicles).parts:
        if not part.claimed_by and part.orphan is None:
            at = passage.last_moment(part, rules.sides[part.device])
            yield at.mono_us, partial(passage.publish_orphan, part=part)
        elif part.orphan is not None:
            at = part.at.forward(4 * longest_s + 2 * passage.KEPT_PUBLISHED_S)
            yield at.mono_us, partial(_forget_part, serial=part.serial)


def _due_of_tests(moment: Moment) -> Iterator[Due]:
    """Yield when a metal detector's test has lasted too long, and when the next one is due."""
    for test in moment.of(Metal).metal_tests.values():
        at = test.started.forward(metal_tests.LONGEST_TEST_S)
        yield at.mono_us, partial(metal_tests.end_left_on, switch=test.switch)
    for device, tested in moment.of(Metal).metal_tested.items():
        options = moment.rules.metals.get(device)
        if options is not None and options.test_every_h is not None:
            at = tested.forward(options.test_every_h * 3600)
            yield at.mono_us, partial(metal_tests.expire, device=device)


def _due_of_transit(moment: Moment, transit: Transit, longest_s: float) -> Due:
    """Return what time does next with a transit: end it, seal it, say it, or forget it."""
    if transit.ended is None and occupancy.is_told_occupied(moment):
        at = transit.began.forward(moment.rules.lane.longest_occupancy_s)
        return at.mono_us, occupancy.end_stuck
    if transit.ended is None:
        at = transit.last_count.forward(moment.rules.lane.occupancy_timeout_s)
        return at.mono_us, partial(occupancy.end_occupancy, reason="timeout")
    sealed_at = transit.ended.forward(moment.rules.lane.join_gap_s)
    if not transit.is_sealed:
        return sealed_at.mono_us, partial(passage.seal, transit=transit)
    if transit.published is None:
        waits_until = passage.waiting_until(moment, transit)
        at_us = max(waits_until.mono_us, sealed_at.mono_us)
        return at_us, partial(passage.publish, transit=transit)
    at = transit.ended.forward(2 * longest_s + passage.KEPT_PUBLISHED_S)
    return at.mono_us, partial(_forget_transit, passage_id=transit.passage_id)


def _forget_transit(moment: Moment, passage_id: str) -> None:
    """Forget a transit that no part can join any more, and the parts that only it could claim."""
    kept = tuple(t for t in moment.of(Vehicles).transits if t.passage_id != passage_id)
    names = {t.passage_id for t in kept}
    moment.of(Vehicles).transits = kept
    parts = tuple(p for p in moment.of(Vehicles).parts if not p.claimed_by or p.claimed_by & names)
    for part in moment.of(Vehicles).parts:
        if part not in parts:
            declared.let_go(moment, part)
    moment.of(Vehicles).parts = parts


def _forget_part(moment: Moment, serial: int) -> None:
    moment.of(Vehicles).parts = tuple(p for p in moment.of(Vehicles).parts if p.serial != serial)


# ------------------------------------------------------------------ events


def _read(moment: Moment, device: str, reading: Reading) -> None:  # noqa: C901, PLR0912, PLR0915 - one case a word
    match reading:
        case GammaCounts():
            counts.on_gamma(moment, device, reading)
            background.gather(moment, device, reading)
        case NeutronCounts():
            counts.on_neutron(moment, device, reading)
        case GammaBackground():
            background.on_gamma_background(moment, device, reading)
        case NeutronBackground():
            background.on_neutron_background(moment, device, reading)
        case OccupancyEnd():
            occupancy.on_occupancy_end(moment, device, reading)
        case VehicleSpeed():
            occupancy.on_speed(moment, device, reading)
        case PortalSettings():
            occupancy.on_settings(moment, device, reading)
        case DeviceAlarm():
            area.on_device_alarm(moment, device, reading)
        case Undocumented():
            occupancy.on_undocumented(moment, device, reading)
        case Weight():
            _on_weight(moment, device, reading)
        case MetalAlarm():
            walks.on_metal_alarm(moment, device, reading)
        case MetalPassages():
            walks.on_passages(moment, device, reading)
        case MetalProgram():
            walks.on_program(moment, device, reading)
        case DeviceState():
            _on_device_state(moment, device, reading)
        case BadFrame():
            pass
        case WindowCounts():
            windows.on_counts(moment, device, reading)
        case WindowBackground():
            windows.on_background(moment, device, reading)
        case VehiclePresence():
            occupancy.on_presence(moment, device, reading)
        case DoseRate():
            area.on_dose_rate(moment, device, reading)
        case DeviceNuclides():
            area.on_nuclides(moment, device, reading)
        case Contact():
            contacts.on_contact(moment, device, reading)
        case Identity():
            identities.on_identity(moment, device, reading)
        case GammaSpectrum():
            panel_health.watch(moment, device, reading)
            spectra.on_spectrum(moment, device, reading)
        case Housekeeping():
            calibration.on_housekeeping(moment, device, reading)
        case _:
            assert_never(reading)


def _on_weight(moment: Moment, device: str, weight: Weight) -> None:
    if calibration.is_test(moment, device):
        return
    calibration.watch(moment, device, weight)
    weighing.watch_range(moment, device, weight)
    weighing.watch_parity(moment, device, weight)
    if moment.rules.scales[device].weighs == "axles":
        axles.on_weight(moment, device, weight)
    else:
        weighing.on_weight(moment, device, weight)


def _on_device_state(moment: Moment, device: str, reading: DeviceState) -> None:
    """Raise or clear what the device says of itself; what it cannot say any more stays standing."""
    if reading.condition == "not_ready" and device in moment.rules.metals:
        walks.on_ready(moment, device, is_ready=reading.active is False)
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
    set_standing(moment, finding, active=reading.active)


def _link(moment: Moment, change: LinkChange) -> None:
    device, rules = change.device, moment.rules
    if change.is_up:
        links.found(moment, device)
        return
    occupancy.on_lost(moment, device)
    if device in rules.portals:
        panel_health.on_lost(moment, device)
    elif device in rules.scales:
        weighing.on_lost(moment, device)
        axles.on_lost(moment, device)
    elif device in rules.metals:
        walks.on_lost(moment, device)
    elif device in rules.contacts:
        contacts.on_lost(moment, device)
    links.lost(moment, device, change.detail)


def _stop(moment: Moment) -> None:
    """Close and say everything that is open: the agent stops."""
    occupancy.end_occupancy(moment, "agent_stop")
    for device in moment.rules.scales:
        weighing.on_lost(moment, device)
        axles.on_lost(moment, device)
    for device in tuple(moment.of(Metal).walks):
        walks.finish(moment, device)
    metal_tests.end(moment, "agent_stop")
    passage.claim(moment)
    for transit in moment.of(Vehicles).transits:
        if not transit.is_sealed:
            passage.seal(moment, transit)
    for transit in moment.of(Vehicles).transits:
        passage.publish(moment, transit)
    for part in moment.of(Vehicles).parts:
        if not part.claimed_by and part.orphan is None:
            passage.publish_orphan(moment, part)
    moment.of(Vehicles).parts = tuple(
        declared.let_go(moment, part) for part in moment.of(Vehicles).parts
    )
    calibration.on_stop(moment)
    # Nobody watches any more; what still holds is raised anew at the next start.
    for device, code in tuple(moment.of(Standing).standing):
        clear_standing(moment, device, code)
