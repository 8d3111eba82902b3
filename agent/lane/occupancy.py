"""Vacant or occupied: who tells of a vehicle, when it came, and when it left.

The lane's first portal that tells of vehicles decides (``LaneRules.teller``): a TSA controller by
sending counts, others in words. Where no portal can tell, loops and photocells do. Whatever else
the lane's portals and monitors measure meanwhile joins that passage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace

from agent.lane.alarms import clear_standing, fault, set_standing, stand
from agent.lane.moment import Moment
from agent.lane.portals import (
    Portals,
    background_of,
    background_used,
    is_suspect,
    portal_of,
    put_portal,
)
from agent.lane.state import Memory
from agent.lane.vehicles import Share, Tally, Transit, Vehicles, open_transit, put, unsealed_transit
from agent.records import Audit, EndReason
from drivers.readings import (
    OccupancyEnd,
    PortalSettings,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
)

KEPT_SPEED_S = 10.0
"""A beam timing so long before the first count is another vehicle's."""
MOST_NUMBERS = 64
"""So many occupancy numbers of one transit are kept, the last ones."""


# ------------------------------------------------------------------ what is remembered


@dataclass(slots=True, kw_only=True)
class Tellers(Memory):
    """Who tells of a vehicle."""

    presence: Mapping[str, bool | None] = field(default_factory=dict)
    """What each device that tells of vehicles said last; None: it cannot say any more."""


def tally_of(transit: Transit | None, device: str) -> Tally:
    """Return what a portal or monitor has measured of a transit so far."""
    if transit is None:
        return Tally()
    if device == transit.device:
        return transit.tally
    return next((share.tally for share in transit.also if share.device == device), Tally())


def with_tally(moment: Moment, transit: Transit, device: str, tally: Tally) -> Transit:
    """Return the transit with what this portal or monitor has measured by now."""
    if device == transit.device:
        return replace(transit, last_count=moment.stamp, tally=tally)
    return _with_share(transit, replace(_share_of(moment, transit, device), tally=tally))


def _share_of(moment: Moment, transit: Transit, device: str) -> Share:
    for share in transit.also:
        if share.device == device:
            return share
    return Share(device=device, background=background_of(moment, device))


def _with_share(transit: Transit, share: Share) -> Transit:
    known = {s.device: s for s in transit.also}
    return replace(transit, also=tuple({**known, share.device: share}.values()))


# ------------------------------------------------------------------ coming and leaving


def on_presence(moment: Moment, device: str, reading: VehiclePresence) -> None:
    """Take the word of a portal, a loop or a photocell that something is there, or nothing.

    A device that is not the lane's teller only adds a direction. Where several tell, the vehicle
    has left when none of them sees it any more.
    """
    moment.of(Tellers).presence = {**moment.of(Tellers).presence, device: reading.occupied}
    if not reading.occupied:
        clear_standing(moment, device, "occupancy_stuck")
    is_teller = moment.rules.teller in {None, device}
    transit = enter(moment) if is_teller and reading.occupied else open_transit(moment)
    if transit is None:
        return
    numbers = transit.numbers
    if is_teller and reading.number is not None and reading.number not in numbers[-1:]:
        numbers = (*numbers, reading.number)[-MOST_NUMBERS:]
    transit = replace(transit, direction=reading.direction or transit.direction, numbers=numbers)
    if is_teller:
        transit = replace(transit, last_count=moment.stamp)
    put(moment, transit)
    if is_teller and reading.occupied is False and not is_told_occupied(moment):
        end_occupancy(moment, "left")


def is_told_occupied(moment: Moment) -> bool:
    """Return whether someone whose word counts says that a vehicle is there."""
    return bool(_who_sees(moment))


def _who_sees(moment: Moment) -> list[str]:
    teller = moment.rules.teller
    return [
        d for d, sees in moment.state.of(Tellers).presence.items() if sees and teller in {None, d}
    ]


def end_stuck(moment: Moment) -> None:
    """End an occupancy that nobody can believe any more; who told of it is at fault."""
    for device in _who_sees(moment):
        limit_s = moment.rules.lane.longest_occupancy_s
        text = (
            f"{device}: says for {limit_s:g} s that something is there; check its sensors, or "
            "raise longest_occupancy_s"
        )
        stand(moment, fault(device, "occupancy_stuck", text))
    end_occupancy(moment, "timeout")


def enter(moment: Moment) -> Transit:
    """Return the vehicle inside, beginning a transit or joining the last where none is."""
    transit = open_transit(moment)
    if transit is not None:
        return transit
    transits = moment.state.of(Vehicles).transits
    last = transits[-1] if transits else None
    if last is not None and last.ended is not None and not last.is_sealed:
        # The deadline that seals it has not passed, so the gap is short: the same vehicle.
        joined = replace(
            last, ended=None, end_reason="left", last_count=moment.stamp, joined=moment.stamp
        )
        put(moment, joined)
        return joined
    device = moment.rules.owner
    portal = portal_of(moment, device or "")
    suspect = is_suspect(portal.background, moment.rules)
    transit = Transit(
        passage_id=moment.new_id("p"),
        device=device,
        started=moment.stamp,
        last_count=moment.stamp,
        background=background_used(portal.background, moment.stamp, suspect=suspect),
        speeds=tuple(v for at, v in portal.speeds if moment.stamp.since_s(at) <= KEPT_SPEED_S),
        settings=portal.settings,
    )
    if portal.speeds:
        put_portal(moment, replace(portal, speeds=()))
    vehicles = moment.of(Vehicles)
    vehicles.transits = (*vehicles.transits, transit)
    return transit


def on_speed(moment: Moment, device: str, reading: VehicleSpeed) -> None:
    """Keep a valid beam timing for the vehicle it belongs to."""
    if reading.m_per_s is None:
        return
    transit = open_transit(moment)
    if transit is not None:
        put(moment, replace(transit, speeds=(*transit.speeds, reading.m_per_s)[-32:]))
        return
    portal = portal_of(moment, device)
    put_portal(
        moment, replace(portal, speeds=(*portal.speeds, (moment.stamp, reading.m_per_s))[-8:])
    )


def on_undocumented(moment: Moment, device: str, reading: Undocumented) -> None:
    """Keep the last of each tag whose meaning is not published."""
    portal = portal_of(moment, device)
    undocumented = {**portal.undocumented, reading.tag: reading.text}
    put_portal(moment, replace(portal, undocumented=undocumented))


def on_occupancy_end(moment: Moment, device: str, reading: OccupancyEnd) -> None:
    """Close the occupancy and take the neutron background that the portal gives with it."""
    portal = portal_of(moment, device)
    if reading.neutron_background_cps is not None:
        background = replace(portal.background, neutron_cps=reading.neutron_background_cps)
        put_portal(moment, replace(portal, background=background))
    if device != moment.rules.teller:
        _end_beside(moment, device, reading.number)
        return
    transit = open_transit(moment)
    if transit is not None:
        put(moment, replace(transit, numbers=(*transit.numbers, reading.number)))
        end_occupancy(moment, "left")


def _end_beside(moment: Moment, device: str, number: int) -> None:
    """Let another portal's own occupancy end; the passage goes on as its owner says."""
    _forget_counts(moment, device)
    transit = unsealed_transit(moment)
    if transit is not None:
        share = _share_of(moment, transit, device)
        put(moment, _with_share(transit, replace(share, numbers=(*share.numbers, number))))


def on_lost(moment: Moment, device: str) -> None:
    """A device was lost: the occupancy ends with its teller, and else waits for the others."""
    if device in moment.state.of(Tellers).presence:
        moment.of(Tellers).presence = {**moment.of(Tellers).presence, device: None}
    if device == moment.rules.teller:
        end_occupancy(moment, "device_lost")
        return
    transit = open_transit(moment)
    if transit is None:
        return
    if device == transit.device:
        transit = replace(transit, is_portal_lost=True)
    if device in moment.state.of(Tellers).presence:
        transit = replace(transit, last_count=moment.stamp)
    put(moment, transit)


def end_occupancy(moment: Moment, reason: EndReason) -> None:
    """Close the open occupancy; its transit stays open to another one for ``join_gap_s``."""
    transit, device = open_transit(moment), moment.rules.owner
    if device is not None:
        _forget_counts(moment, device)
    if transit is None:
        return
    portal = portal_of(moment, device or "")
    also = []
    for share in transit.also:
        told = portal_of(moment, share.device)
        also.append(replace(share, undocumented=told.undocumented, settings=told.settings))
    put(
        moment,
        replace(
            transit,
            ended=moment.stamp,
            end_reason=reason,
            undocumented=portal.undocumented,
            settings=portal.settings,
            also=tuple(also),
        ),
    )


def _forget_counts(moment: Moment, device: str) -> None:
    """Begin the sliding sums anew."""
    portal = moment.state.of(Portals).portals.get(device)
    if portal is not None:
        put_portal(moment, replace(portal, window=(), neutrons=(), speeds=()))


# ------------------------------------------------------------------ settings


def on_settings(moment: Moment, device: str, reading: PortalSettings) -> None:
    """Take the portal's settings over, record them, and say where the lane file differs."""
    portal = portal_of(moment, device)
    merged = portal.settings or PortalSettings()
    told = {
        f.name: getattr(reading, f.name)
        for f in fields(PortalSettings)
        if f.name != "line" and getattr(reading, f.name) is not None
    }
    merged = replace(merged, **told)
    put_portal(moment, replace(portal, settings=merged))
    moment.records.append(
        Audit(
            stamp=moment.stamp,
            kind="settings",
            lane=moment.rules.lane_id,
            data={"device": device, "line": reading.line},
        )
    )
    options = moment.rules.portals[device]
    differing = [
        f"{name} {getattr(merged, name)} where the lane file says {getattr(options, name)}"
        for name in ("nsigma", "intervals", "algorithms")
        if name not in moment.rules.pinned
        and getattr(merged, name) is not None
        and getattr(merged, name) != getattr(options, name)
    ]
    text = f"{device}: the portal runs with {'; '.join(differing)}; correct the lane file"
    set_standing(moment, fault(device, "settings_mismatch", text, "notice"), active=bool(differing))
