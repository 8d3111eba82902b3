"""What is remembered of a portal between and during occupancies: background, last counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.analysis.counting.background import parts_from_reference
from agent.lane.moment import Moment
from agent.lane.options.rules import LaneRules
from agent.lane.state import Memory
from agent.records import BackgroundQuality, BackgroundUsed, Stamp
from drivers.readings import Level, PortalSettings

STALE_S = 600.0
"""A background from longer ago than this is stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBackground:
    """The portal's background and our long median of it.

    ``history`` holds (monotonic µs, counts/s per detector) of vacant times only.
    """

    gamma_cps: tuple[float, ...] | None = None
    gamma_at: Stamp | None = None
    level: Level = "ok"
    history: tuple[tuple[int, tuple[float, ...]], ...] = ()
    reference_cps: tuple[float, ...] | None = None
    neutron_cps: float | None = None
    gamma_variance: tuple[float, ...] | None = None
    """The device's own variance of one interval's counts; None: it tells none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """A portal between and during occupancies."""

    device: str
    background: RunningBackground = field(default_factory=RunningBackground)
    window: tuple[tuple[int, ...], ...] = ()
    """Counts of the last intervals since the last occupancy's end."""
    neutrons: tuple[int, ...] = ()
    """Summed counts of the last seconds since the last occupancy's end."""
    settings: PortalSettings | None = None
    speeds: tuple[tuple[Stamp, float], ...] = ()
    """Valid beam timings of a vehicle whose first count is still to come [m/s]."""
    undocumented: Mapping[str, str] = field(default_factory=dict)
    gathered: tuple[tuple[int, ...], float] | None = None
    """Vacant counts and their time [s] towards the next row of the history, of a device that
    tells no background."""


@dataclass(slots=True, kw_only=True)
class Portals(Memory):
    """The lane's portals and monitors."""

    portals: Mapping[str, Portal] = field(default_factory=dict)


def portal_of(moment: Moment, device: str) -> Portal:
    """Return the portal's memory, new where it was not heard before."""
    return moment.state.of(Portals).portals.get(device) or Portal(device=device)


def put_portal(moment: Moment, portal: Portal) -> None:
    """Put a portal's memory back in its place."""
    moment.of(Portals).portals = {**moment.of(Portals).portals, portal.device: portal}


def is_suspect(background: RunningBackground, rules: LaneRules) -> bool:
    """Return whether the running background has parted from its long median."""
    if background.gamma_cps is None or background.reference_cps is None:
        return False
    return parts_from_reference(
        background.gamma_cps, background.reference_cps, rules.lane.suspect_fraction
    )


def background_used(background: RunningBackground, now: Stamp, *, suspect: bool) -> BackgroundUsed:
    """Return the background as a decision made now would use it, with its quality."""
    age_s = None if background.gamma_at is None else now.since_s(background.gamma_at)
    quality: BackgroundQuality
    if background.level != "ok":
        quality = background.level
    elif age_s is not None and age_s > STALE_S:
        quality = "stale"
    elif background.reference_cps is None:
        quality = "learning"
    else:
        quality = "suspect" if suspect else "good"
    return BackgroundUsed(
        gamma_cps=background.gamma_cps,
        reference_gamma_cps=background.reference_cps,
        neutron_cps=background.neutron_cps,
        quality=quality,
        age_s=None if age_s is None else round(age_s, 3),
    )


def background_of(moment: Moment, device: str) -> BackgroundUsed:
    """Return the background that a decision of this portal made now would use."""
    background = portal_of(moment, device).background
    suspect = is_suspect(background, moment.rules)
    return background_used(background, moment.stamp, suspect=suspect)
