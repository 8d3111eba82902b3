"""Vacant or occupied: who tells of a vehicle, when it came, and when it left.

The lane's first portal that tells of vehicles decides (``LaneRules.teller``): a TSA controller by
sending counts, others in words. Where no portal can tell, loops and photocells do. Whatever else
the lane's portals and monitors measure meanwhile joins that passage.
"""

from __future__ import annotations

from dataclasses import fields, replace

from agent.analysis.counting.background import parts_from_reference
from agent.lane.alarms import clear_standing, fault, set_standing, stand
from agent.lane.options import LaneRules
from agent.lane.state import (
    Portal,
    RunningBackground,
    Share,
    Tally,
    Transit,
    Turn,
    background_used,
)
from agent.records import Audit, BackgroundUsed, EndReason
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


def portal_of(turn: Turn, device: str) -> Portal:
    """Return the portal's memory, new where it was not heard before."""
    return turn.state.portals.get(device) or Portal(device=device)


def put_portal(turn: Turn, portal: Portal) -> None:
    """Put a portal's memory back in its place."""
    turn.state.portals = {**turn.state.portals, portal.device: portal}


def open_transit(turn: Turn) -> Transit | None:
    """Return the vehicle that is inside, or None."""
    last = turn.state.transits[-1] if turn.state.transits else None
    return last if last is not None and last.ended is None else None


def unsealed_transit(turn: Turn) -> Transit | None:
    """Return the vehicle that is inside or has just left, or None."""
    last = turn.state.transits[-1] if turn.state.transits else None
    return last if last is not None and not last.is_sealed else None


def put(turn: Turn, transit: Transit) -> None:
    """Put a transit back in its place."""
    turn.state.transits = tuple(
        transit if t.passage_id == transit.passage_id else t for t in turn.state.transits
    )


def is_suspect(background: RunningBackground, rules: LaneRules) -> bool:
    """Return whether the running background has parted from its long median."""
    if background.gamma_cps is None or background.reference_cps is None:
        return False
    return parts_from_reference(
        background.gamma_cps, background.reference_cps, rules.lane.suspect_fraction
    )


def background_of(turn: Turn, device: str) -> BackgroundUsed:
    """Return the background that a decision of this portal made now would use."""
    background = portal_of(turn, device).background
    suspect = is_suspect(background, turn.rules)
    return background_used(background, turn.stamp, suspect=suspect)


def tally_of(transit: Transit | None, device: str) -> Tally:
    """Return what a portal or monitor has measured of a transit so far."""
    if transit is None:
        return Tally()
    if device == transit.device:
        return transit.tally
    return next((share.tally for share in transit.also if share.device == device), Tally())


def with_tally(turn: Turn, transit: Transit, device: str, tally: Tally) -> Transit:
    """Return the transit with what this portal or monitor has measured by now."""
    if device == transit.device:
        return replace(transit, last_count=turn.stamp, tally=tally)
    return _with_share(transit, replace(_share_of(turn, transit, device), tally=tally))


def _share_of(turn: Turn, transit: Transit, device: str) -> Share:
    for share in transit.also:
        if share.device == device:
            return share
    return Share(device=device, background=background_of(turn, device))


def _with_share(transit: Transit, share: Share) -> Transit:
    known = {s.device: s for s in transit.also}
    return replace(transit, also=tuple({**known, share.device: share}.values()))


# ------------------------------------------------------------------ coming and leaving


def on_presence(turn: Turn, device: str, reading: VehiclePresence) -> None:
    """Take the word of a portal, a loop or a photocell that something is there, or nothing.

    A device that is not the lane's teller only adds a direction. Where several tell, the vehicle
    has left when none of them sees it any more.
    """
    turn.state.presence = {**turn.state.presence, device: reading.occupied}
    if not reading.occupied:
        clear_standing(turn, device, "occupancy_stuck")
    is_teller = turn.rules.teller in {None, device}
    transit = enter(turn) if is_teller and reading.occupied else open_transit(turn)
    if transit is None:
        return
    numbers = transit.numbers
    if is_teller and reading.number is not None and reading.number not in numbers[-1:]:
        numbers = (*numbers, reading.number)[-MOST_NUMBERS:]
    transit = replace(transit, direction=reading.direction or transit.direction, numbers=numbers)
    if is_teller:
        transit = replace(transit, last_count=turn.stamp)
    put(turn, transit)
    if is_teller and reading.occupied is False and not is_told_occupied(turn):
        end_occupancy(turn, "left")


def is_told_occupied(turn: Turn) -> bool:
    """Return whether someone whose word counts says that a vehicle is there."""
    return bool(_who_sees(turn))


def _who_sees(turn: Turn) -> list[str]:
    teller = turn.rules.teller
    return [d for d, sees in turn.state.presence.items() if sees and teller in {None, d}]


def end_stuck(turn: Turn) -> None:
    """End an occupancy that nobody can believe any more; who told of it is at fault."""
    for device in _who_sees(turn):
        limit_s = turn.rules.lane.longest_occupancy_s
        text = (
            f"{device}: says for {limit_s:g} s that something is there; check its sensors, or "
            "raise longest_occupancy_s"
        )
        stand(turn, fault(device, "occupancy_stuck", text))
    end_occupancy(turn, "timeout")


def enter(turn: Turn) -> Transit:
    """Return the vehicle inside, beginning a transit or joining the last where none is."""
    transit = open_transit(turn)
    if transit is not None:
        return transit
    last = turn.state.transits[-1] if turn.state.transits else None
    if last is not None and last.ended is not None and not last.is_sealed:
        # The deadline that seals it has not passed, so the gap is short: the same vehicle.
        joined = replace(
            last, ended=None, end_reason="left", last_count=turn.stamp, joined=turn.stamp
        )
        put(turn, joined)
        return joined
    device = turn.rules.owner
    portal = portal_of(turn, device or "")
    suspect = is_suspect(portal.background, turn.rules)
    transit = Transit(
        passage_id=turn.new_id("p"),
        device=device,
        started=turn.stamp,
        last_count=turn.stamp,
        background=background_used(portal.background, turn.stamp, suspect=suspect),
        speeds=tuple(v for at, v in portal.speeds if turn.stamp.since_s(at) <= KEPT_SPEED_S),
        settings=portal.settings,
    )
    if portal.speeds:
        put_portal(turn, replace(portal, speeds=()))
    turn.state.transits = (*turn.state.transits, transit)
    return transit


def on_speed(turn: Turn, device: str, reading: VehicleSpeed) -> None:
    """Keep a valid beam timing for the vehicle it belongs to."""
    if reading.m_per_s is None:
        return
    transit = open_transit(turn)
    if transit is not None:
        put(turn, replace(transit, speeds=(*transit.speeds, reading.m_per_s)[-32:]))
        return
    portal = portal_of(turn, device)
    put_portal(turn, replace(portal, speeds=(*portal.speeds, (turn.stamp, reading.m_per_s))[-8:]))


def on_undocumented(turn: Turn, device: str, reading: Undocumented) -> None:
    """Keep the last of each tag whose meaning is not published."""
    portal = portal_of(turn, device)
    undocumented = {**portal.undocumented, reading.tag: reading.text}
    put_portal(turn, replace(portal, undocumented=undocumented))


def on_occupancy_end(turn: Turn, device: str, reading: OccupancyEnd) -> None:
    """Close the occupancy and take the neutron background that the portal gives with it."""
    portal = portal_of(turn, device)
    if reading.neutron_background_cps is not None:
        background = replace(portal.background, neutron_cps=reading.neutron_background_cps)
        put_portal(turn, replace(portal, background=background))
    if device != turn.rules.teller:
        _end_beside(turn, device, reading.number)
        return
    transit = open_transit(turn)
    if transit is not None:
        put(turn, replace(transit, numbers=(*transit.numbers, reading.number)))
        end_occupancy(turn, "left")


def _end_beside(turn: Turn, device: str, number: int) -> None:
    """Let another portal's own occupancy end; the passage goes on as its owner says."""
    _forget_counts(turn, device)
    transit = unsealed_transit(turn)
    if transit is not None:
        share = _share_of(turn, transit, device)
        put(turn, _with_share(transit, replace(share, numbers=(*share.numbers, number))))


def on_lost(turn: Turn, device: str) -> None:
    """A device was lost: the occupancy ends with its teller, and else waits for the others."""
    if device in turn.state.presence:
        turn.state.presence = {**turn.state.presence, device: None}
    if device == turn.rules.teller:
        end_occupancy(turn, "device_lost")
        return
    transit = open_transit(turn)
    if transit is None:
        return
    if device == transit.device:
        transit = replace(transit, is_portal_lost=True)
    if device in turn.state.presence:
        transit = replace(transit, last_count=turn.stamp)
    put(turn, transit)


def end_occupancy(turn: Turn, reason: EndReason) -> None:
    """Close the open occupancy; its transit stays open to another one for ``join_gap_s``."""
    transit, device = open_transit(turn), turn.rules.owner
    if device is not None:
        _forget_counts(turn, device)
    if transit is None:
        return
    portal = portal_of(turn, device or "")
    also = []
    for share in transit.also:
        told = portal_of(turn, share.device)
        also.append(replace(share, undocumented=told.undocumented, settings=told.settings))
    put(
        turn,
        replace(
            transit,
            ended=turn.stamp,
            end_reason=reason,
            undocumented=portal.undocumented,
            settings=portal.settings,
            also=tuple(also),
        ),
    )


def _forget_counts(turn: Turn, device: str) -> None:
    """Begin the sliding sums anew."""
    portal = turn.state.portals.get(device)
    if portal is not None:
        put_portal(turn, replace(portal, window=(), neutrons=(), speeds=()))


# ------------------------------------------------------------------ settings


def on_settings(turn: Turn, device: str, reading: PortalSettings) -> None:
    """Take the portal's settings over, record them, and say where the lane file differs."""
    portal = portal_of(turn, device)
    merged = portal.settings or PortalSettings()
    told = {
        f.name: getattr(reading, f.name)
        for f in fields(PortalSettings)
        if f.name != "line" and getattr(reading, f.name) is not None
    }
    merged = replace(merged, **told)
    put_portal(turn, replace(portal, settings=merged))
    turn.records.append(
        Audit(
            stamp=turn.stamp,
            kind="settings",
            lane=turn.rules.lane_id,
            data={"device": device, "line": reading.line},
        )
    )
    options = turn.rules.portals[device]
    differing = [
        f"{name} {getattr(merged, name)} where the lane file says {getattr(options, name)}"
        for name in ("nsigma", "intervals", "algorithms")
        if name not in turn.rules.pinned
        and getattr(merged, name) is not None
        and getattr(merged, name) != getattr(options, name)
    ]
    text = f"{device}: the portal runs with {'; '.join(differing)}; correct the lane file"
    set_standing(turn, fault(device, "settings_mismatch", text, "notice"), active=bool(differing))
