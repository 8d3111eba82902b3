"""The vehicles of the last minutes, and the parts of a passage that may be theirs.

A weight, a walk and what a reader reads come before, during or after the portal's occupancy
(``relation``), at most ``max_gap_s`` from it::

    before   start - gap … start          during   start … end, or else within the gap of it
    after    end … end + gap
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from agent.analysis.detection.model import Verdict
from agent.lane.moment import Moment
from agent.lane.options.rules import SideOptions
from agent.lane.state import LaneState, Memory
from agent.records import (
    Alarm,
    BackgroundUsed,
    EndReason,
    EventSource,
    IdentityItem,
    MetalPart,
    Passage,
    ScalePart,
    SpectralPart,
    Stamp,
)
from drivers.readings import NuclideFound, PortalSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The largest of everything in one transit, and how often device and rule agreed."""

    gamma_cps: float | None = None
    gamma_cps_by_detector: tuple[float, ...] | None = None
    sigma: float | None = None
    sigma_reference: float | None = None
    neutron_cps: float | None = None
    neutron_p: float | None = None
    device_gamma: bool = False
    device_neutron: bool = False
    intervals: int = 0
    agree: int = 0
    rounding: int = 0
    nuclides: tuple[NuclideFound, ...] | None = None
    dose_rate_usv_per_h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one portal or monitor measured of a transit."""

    device: str
    background: BackgroundUsed
    numbers: tuple[int, ...] = ()
    tally: Tally = field(default_factory=Tally)
    undocumented: Mapping[str, str] = field(default_factory=dict)
    settings: PortalSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NameWanted:
    """A passage's spectrum whose name has been asked for.

    ``found``: what detection made of it. ``is_alarm``: it is an alarm by itself. ``is_asked``: it
    is, or its portal alarmed, so that any name is told; else only a natural one is.
    """

    question_id: str
    until: Stamp
    """The passage is not said before the name has come or this moment is past."""
    found: Verdict
    is_alarm: bool
    is_asked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Transit:
    """One vehicle at the portal: one occupancy, or several that a short gap parts.

    ``device`` is the portal it belongs to, whose share is in the transit itself; None: the lane
    has none, and a loop or a photocell told of the vehicle.
    """

    passage_id: str
    device: str | None
    started: Stamp
    last_count: Stamp
    background: BackgroundUsed
    ended: Stamp | None = None
    """When the last occupancy ended; None: the vehicle is still inside."""
    end_reason: EndReason = "left"
    numbers: tuple[int, ...] = ()
    speeds: tuple[float, ...] = ()
    tally: Tally = field(default_factory=Tally)
    alarms: tuple[Alarm, ...] = ()
    """The latest phase of each alarm latched for this passage."""
    raised: tuple[Stamp, ...] = ()
    """When each of them was raised."""
    undocumented: Mapping[str, str] = field(default_factory=dict)
    settings: PortalSettings | None = None
    direction: Literal["in", "out"] | None = None
    is_portal_lost: bool = False
    """Its portal was lost while it was inside."""
    also: tuple[Share, ...] = ()
    """The shares of the lane's other portals and monitors."""
    joined: Stamp | None = None
    """When the last of several occupancies began; None: there was but one."""
    spectral: SpectralPart | None = None
    is_sealed: bool = False
    """No further occupancy can join it."""
    name_wanted: NameWanted | None = None
    """None: nothing is to be named, or it has been."""
    is_closed: bool = False
    """Its alarms are cleared, named or not."""
    published: Passage | None = None
    event: EventSource | None = None
    """What its file is made of, once it has left with a radiation alarm."""

    @property
    def began(self) -> Stamp:
        """Return when its last occupancy began."""
        return self.joined or self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a reader read of a vehicle or a person."""

    clear: IdentityItem
    """As an alarm's record holds it."""
    kept: IdentityItem
    """As a passage holds it."""
    declared_kg: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A finished weighing, a walk through the metal detector, or what a reader read.

    ``at`` is the moment that decides which vehicle it belongs to.
    """

    serial: int
    device: str
    at: Stamp
    content: ScalePart | MetalPart | Sighting
    alarm_ids: tuple[str, ...] = ()
    claimed_by: frozenset[str] = frozenset()
    """Every passage it ever fitted; more than one: ambiguous."""
    is_inside: bool = False
    """It came inside an occupancy, so that one has it and the near ones have not."""
    orphan: Passage | None = None
    """The passage of its own that it got because no vehicle fitted."""
    declared_alarm: Alarm | None = None
    """The latest phase of the alarm that a weight differs from the declared mass."""

    @property
    def all_alarm_ids(self) -> tuple[str, ...]:
        """Return the alarms that this part brings into a passage."""
        declared = () if self.declared_alarm is None else (self.declared_alarm.alarm_id,)
        return (*self.alarm_ids, *declared)


@dataclass(slots=True, kw_only=True)
class Vehicles(Memory):
    """The vehicles of the last minutes, and the parts that may be theirs."""

    transits: tuple[Transit, ...] = ()
    """Oldest first; only the last can be occupied."""
    parts: tuple[Part, ...] = ()
    passed: int = 0
    """How many have left the portal."""


def open_transit(moment: Moment) -> Transit | None:
    """Return the vehicle that is inside, or None."""
    transits = moment.state.of(Vehicles).transits
    last = transits[-1] if transits else None
    return last if last is not None and last.ended is None else None


def unsealed_transit(moment: Moment) -> Transit | None:
    """Return the vehicle that is inside or has just left, or None."""
    transits = moment.state.of(Vehicles).transits
    last = transits[-1] if transits else None
    return last if last is not None and not last.is_sealed else None


def put(moment: Moment, transit: Transit) -> None:
    """Put a transit back in its place."""
    vehicles = moment.of(Vehicles)
    vehicles.transits = tuple(
        transit if t.passage_id == transit.passage_id else t for t in vehicles.transits
    )


def fits(at: Stamp, transit: Transit, options: SideOptions) -> bool:
    """Return whether a part of that moment can be this vehicle's."""
    gap_s = options.max_gap_s
    from_start_s = at.since_s(transit.started)
    from_end_s = None if transit.ended is None else at.since_s(transit.ended)
    match options.relation:
        case "before":
            return -gap_s <= from_start_s <= 0
        case "during":
            return from_start_s >= -gap_s and (from_end_s is None or from_end_s <= gap_s)
        case "after":
            return from_end_s is not None and 0 <= from_end_s <= gap_s


def is_inside(at: Stamp, transit: Transit) -> bool:
    """Return whether the moment lies between the vehicle's coming and its leaving."""
    return at.since_s(transit.started) >= 0 and (
        transit.ended is None or at.since_s(transit.ended) <= 0
    )


def claimants(moment: Moment, device: str, at: Stamp) -> tuple[frozenset[str], bool]:
    """Return the passages that a part of that device and moment fits now, and whether inside.

    With ``relation = "during"`` a vehicle that is inside at that moment has it before one that is
    only near.
    """
    options = moment.rules.sides[device]
    fitting = [t for t in moment.state.of(Vehicles).transits if fits(at, t, options)]
    if options.relation == "during":
        inside = [t for t in fitting if is_inside(at, t)]
        if inside:
            return frozenset(t.passage_id for t in inside), True
    return frozenset(t.passage_id for t in fitting), False


def likely_passage(moment: Moment, device: str) -> str | None:
    """Return the one passage that a part of this moment fits, or None where it is not one."""
    fitting, _ = claimants(moment, device, moment.stamp)
    return next(iter(fitting)) if len(fitting) == 1 else None


def sightings_of(state: LaneState, passage_id: str) -> list[Sighting]:
    """Return what was read of this vehicle and of no other, in order of time.

    A reader of which one reading is in doubt gives none: the others might be another vehicle's.
    """
    found = [
        part
        for part in state.of(Vehicles).parts
        if isinstance(part.content, Sighting) and passage_id in part.claimed_by
    ]
    doubted = {part.device for part in found if len(part.claimed_by) > 1}
    return [
        part.content
        for part in sorted(found, key=lambda p: p.at.mono_us)
        if isinstance(part.content, Sighting) and part.device not in doubted
    ]


def identity_of(moment: Moment, passage_id: str) -> tuple[IdentityItem, ...]:
    """Return in clear whose passage it is, as far as readers have told."""
    return tuple(sighting.clear for sighting in sightings_of(moment.state, passage_id))
