"""The lane's reducer: (state, event, rules) → (state, records, questions).

Pure: it knows no clock, no I/O and no randomness; time comes with the events. What falls due
between two events is done at the moment it fell due, so ticks change no record, only when it is
said.
"""

from __future__ import annotations

from typing import assert_never

from agent.lane import annunciator, due, links, occupancy, passage, portals
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
from agent.lane.question import Answered, Question
from agent.lane.radiation import area, background, counts
from agent.lane.spectra import gain_tracking, panel_health, windows
from agent.lane.spectra import judging as spectra
from agent.lane.spectra.gain_tracking import GainMeasured
from agent.lane.spectra.naming import Named
from agent.lane.state import LaneState
from agent.lane.vehicles import Vehicles
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


def step(
    state: LaneState, event: LaneEvent | Answered, rules: LaneRules
) -> tuple[LaneState, tuple[Record, ...], tuple[Question, ...]]:
    """Return the lane after one event, what it has to say, and what it asks.

    ``state`` stays as it was. A question is answered by an ``Answered`` event, sooner or later.
    """
    now_us = event.stamp.mono_us
    if isinstance(event, Tick) and not rules.outputs and due.is_idle(state, rules, now_us):
        return state, (), ()
    moment = Moment.after(state, rules, event.stamp)
    if due.are_new_rules(moment):
        metal_tests.watch(moment)
    due.run(moment, 0, event.stamp)
    seen = passage.seen(moment)
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
            _stop(moment, waits=event.waits)
        case Answered():
            _answered(moment, event)
        case _:
            assert_never(event)
    passage.revise(moment, seen)
    # What is due now and was not before is due through this event, so it has this event's time.
    due.run(moment, now_us, event.stamp)
    if rules.outputs:
        annunciator.note(moment)
    return moment.state, tuple(moment.records), tuple(moment.questions)


def snapshot(state: LaneState, stamp: Stamp, rules: LaneRules) -> LaneSnapshot:
    """Return the lane as it is now, for displays."""
    alarms = [a.alarm_id for t in state.of(Vehicles).transits if not t.is_closed for a in t.alarms]
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


def _answered(moment: Moment, event: Answered) -> None:
    match event.answer:
        case GainMeasured():
            gain_tracking.on_fit(moment, event.question_id, event.answer)
        case Named():
            passage.on_name(moment, event.question_id, event.answer)
        case _:  # who asked is known by the id alone
            gain_tracking.on_fit(moment, event.question_id, None)
            passage.on_name(moment, event.question_id, None)


def _stop(moment: Moment, *, waits: bool) -> None:
    """Close and say everything that is open: the agent stops.

    ``waits``: vehicles have left, names are waited for, and another stop follows.
    """
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
    if waits:
        return
    _say_all(moment)
    calibration.on_stop(moment)
    # Nobody watches any more; what still holds is raised anew at the next start.
    for device, code in tuple(moment.of(Standing).standing):
        clear_standing(moment, device, code)


def _say_all(moment: Moment) -> None:
    """Say every passage as it stands."""
    for transit in moment.of(Vehicles).transits:
        if not transit.is_closed:
            passage.close(moment, transit)
    for transit in moment.of(Vehicles).transits:
        passage.publish(moment, transit)
    for part in moment.of(Vehicles).parts:
        if not part.claimed_by and part.orphan is None:
            passage.publish_orphan(moment, part)
    vehicles = moment.of(Vehicles)
    vehicles.parts = tuple(declared.let_go(moment, part) for part in vehicles.parts)
