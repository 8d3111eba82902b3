"""The lane's contacts: presence drives the occupancy, an opened door or cabinet raises an alarm.

The presence contacts of one module are one sensor: occupied while one of them is active, vacant
only where each of them says so, unknown otherwise. A vehicle that comes in meets them in the order
of the lane's file; one that meets them the other way round goes out. A vehicle shorter than their
distance leaves the first before it meets the second: within ``join_gap_s`` it is still the same.

What a contact cannot say any more leaves its alarm standing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.lane import occupancy
from agent.lane.alarms import Finding, Standing, clear_standing, fault, set_standing, stand
from agent.lane.instruments import metal_tests
from agent.lane.instruments.walks import Metal
from agent.lane.moment import Moment
from agent.lane.options.instruments import ContactOptions
from agent.lane.state import Memory
from agent.records import Evidence, Stamp
from drivers.readings import Contact, VehiclePresence


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What the presence contacts of one module say together."""

    occupied: bool | None = None
    order: tuple[str, ...] = ()
    """The contacts of this vehicle in the order in which they became active."""
    cleared_at: Stamp | None = None
    """When the last of them became inactive; None: one is active, or none has been yet."""


@dataclass(slots=True, kw_only=True)
class Contacts(Memory):
    """The lane's contacts."""

    levels: Mapping[tuple[str, str], bool | None] = field(default_factory=dict)
    """Each contact's level by (device, name); None: nobody can say."""
    presences: Mapping[str, Presence] = field(default_factory=dict)


def on_contact(moment: Moment, device: str, reading: Contact) -> None:
    """Take one contact; what it is for stands in the lane's rules."""
    options = moment.rules.contacts.get(device)
    if options is None:
        return
    before = moment.of(Contacts).levels.get((device, reading.name))
    moment.of(Contacts).levels = {
        **moment.of(Contacts).levels,
        (device, reading.name): reading.active,
    }
    if reading.name in options.presence:
        _presence(
            moment, device, options, reading.name, rises=reading.active is True and not before
        )
    elif reading.name in (*options.tamper, *options.door):
        _opened(moment, device, options, reading)
    elif reading.name in (options.barrier_closed, options.barrier_open):
        _limits(moment, device, options)
    elif reading.name in options.test_switches:
        _switched(moment, device, reading.name, before=before, active=reading.active)


def on_lost(moment: Moment, device: str) -> None:
    """The module was lost: nobody can say any more what any of its contacts does."""
    moment.of(Contacts).levels = {
        key: None if key[0] == device else level
        for key, level in moment.of(Contacts).levels.items()
    }
    options = moment.rules.contacts[device]
    for name in options.test_switches:
        metal_tests.on_switch(moment, module=device, name=name, active=None)
    if options.presence:
        _presence(moment, device, options, "", rises=False)


def presence(moment: Moment, device: str, options: ContactOptions) -> bool | None:
    """Return whether a vehicle stands on the presence contacts of a module; None: unknown."""
    levels = [moment.of(Contacts).levels.get((device, name)) for name in options.presence]
    if any(levels):
        return True
    return None if not levels or None in levels else False


def _presence(
    moment: Moment, device: str, options: ContactOptions, name: str, *, rises: bool
) -> None:
    before = moment.of(Contacts).presences.get(device, Presence())
    occupied = presence(moment, device, options)
    order = before.order
    cleared_at = before.cleared_at
    if rises:
        is_new = cleared_at is None or (
            moment.stamp.since_s(cleared_at) > moment.rules.lane.join_gap_s
        )
        if is_new and before.occupied is not True:
            order = ()
        order = order if name in order else (*order, name)
    if occupied is True:
        cleared_at = None
    elif occupied is False and before.occupied is True:
        cleared_at = moment.stamp
    now = Presence(occupied=occupied, order=order, cleared_at=cleared_at)
    moment.of(Contacts).presences = {**moment.of(Contacts).presences, device: now}
    direction = _direction(options, order)
    if occupied is not before.occupied or direction != _direction(options, before.order):
        told = VehiclePresence(occupied=occupied, direction=direction)
        occupancy.on_presence(moment, device, told)


def _direction(options: ContactOptions, order: tuple[str, ...]) -> Literal["in", "out"] | None:
    """Return which way a vehicle goes that met the contacts in this order; None: too few."""
    if len(order) < 2:
        return None
    first, second = (options.presence.index(name) for name in order[:2])
    return "in" if first < second else "out"


def _opened(moment: Moment, device: str, options: ContactOptions, reading: Contact) -> None:
    """Raise or clear the alarm of a door or cabinet, also of one that nobody has seen open."""
    what = "door_open" if reading.name in options.door else "tamper"
    finding = Finding(
        kind="tamper",
        source="device",
        code=f"{what}_{reading.name}",
        severity="elevated",
        device=device,
        text=f"{device}: {reading.name} is open"
        if what == "door_open"
        else f"{device}: the tamper contact {reading.name} is active",
    )
    if reading.active is not None:
        set_standing(moment, finding, active=reading.active)
    if (
        reading.pulses
        and not reading.active
        and (device, finding.code) not in moment.of(Standing).standing
    ):
        # Only its latched counter has seen it: it opened and closed between two reads.
        times = "once" if reading.pulses == 1 else f"{reading.pulses} times"
        counted = Evidence(test="latched_counter", observed=float(reading.pulses), unit="openings")
        text = f"{device}: {reading.name} was active {times} while nobody looked"
        stand(moment, replace(finding, text=text, evidence=(counted,)))
        clear_standing(moment, device, finding.code)


def _switched(
    moment: Moment, device: str, name: str, *, before: bool | None, active: bool | None
) -> None:
    """The key switch of the metal detector's test: a level that is only said again is no news.

    A switch that was left on for too long stays so when its module comes back.
    """
    is_left_on = (device, name) in moment.of(Metal).switches_left_on
    if active is before or (active and is_left_on):
        return
    metal_tests.on_switch(moment, module=device, name=name, active=active)


def _limits(moment: Moment, device: str, options: ContactOptions) -> None:
    """A barrier that is up and down at once has a broken limit switch."""
    names = (options.barrier_closed, options.barrier_open)
    levels = [moment.of(Contacts).levels.get((device, name)) for name in names if name is not None]
    text = (
        f"{device}: {names[0]} and {names[1]} are both active; check the barrier's limit switches"
    )
    is_both = len(levels) == 2 and all(levels)
    set_standing(moment, fault(device, "barrier_limits", text), active=is_both)
