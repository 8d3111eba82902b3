"""The portal: vacant or occupied, its decision recomputed, its alarms forwarded.

The device's own alarm is always forwarded. What we recompute reports agreement and never
suppresses; our own alarms are the neutron tail and the over-range limit.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

from agent.analysis.background import REFERENCE_MIN_S, median_cps, parts_from_reference
from agent.analysis.gross import groups_of, neutron_tail_p, nsigma, rounding_explains
from agent.lane.alarms import Finding, clear_standing, fault, latch, set_standing, stand
from agent.lane.options import LaneRules, RpmOptions
from agent.lane.state import Portal, RunningBackground, Tally, Transit, Turn, background_used
from agent.records import Audit, EndReason, Evidence
from drivers.readings import (
    DeviceAlarm,
    GammaBackground,
    GammaCounts,
    NeutronBackground,
    NeutronCounts,
    OccupancyEnd,
    PortalSettings,
    Undocumented,
    VehiclePresence,
    VehicleSpeed,
)

INTERVAL_S = 0.2
SILENT_S = 3.0
"""Background lines and no count for longer than the 2 s hold-in: the end line was lost."""
NEUTRON_BACKGROUND_S = 120
"""The portal's neutron averaging time [s] where its settings lines have not said (factory SN1)."""
KEPT_SPEED_S = 10.0
"""A beam timing so long before the first count is another vehicle's."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The portal's own alarm settings, as far as they are known."""

    nsigma: float
    intervals: int
    groups: tuple[tuple[int, ...], ...]

    @property
    def window_s(self) -> float:
        """Return the length of the sliding sum [s]."""
        return self.intervals * INTERVAL_S


@lru_cache(maxsize=64)
def _decision(
    options: RpmOptions, settings: PortalSettings | None, pinned: frozenset[str]
) -> Decision:
    def setting(name: str) -> object:
        told = None if settings is None or name in pinned else getattr(settings, name)
        return getattr(options, name) if told is None else told

    sigma, intervals, algorithms = setting("nsigma"), setting("intervals"), setting("algorithms")
    assert isinstance(sigma, int | float)
    assert isinstance(intervals, int)
    assert isinstance(algorithms, tuple)
    detectors_on = settings.detectors_on if settings else None
    return Decision(float(sigma), intervals, groups_of(algorithms, detectors_on))


def decision_of(portal: Portal, rules: LaneRules) -> Decision:
    """Return the settings the decision is recomputed with: pinned, the portal's own, the file's."""
    return _decision(rules.portals[portal.device], portal.settings, rules.pinned)


def portal_of(turn: Turn, device: str) -> Portal:
    """Return the portal's memory, new where it was not heard before."""
    portal = turn.state.portal
    return portal if portal is not None and portal.device == device else Portal(device=device)


def open_transit(turn: Turn) -> Transit | None:
    """Return the vehicle that is inside, or None."""
    last = turn.state.transits[-1] if turn.state.transits else None
    return last if last is not None and last.ended is None else None


def put(turn: Turn, transit: Transit) -> None:
    """Put a transit back in its place."""
    turn.state.transits = tuple(
        transit if t.passage_id == transit.passage_id else t for t in turn.state.transits
    )


# ------------------------------------------------------------------ background


def on_gamma_background(turn: Turn, device: str, reading: GammaBackground) -> None:
    """Renew the running background and its median; a level fault or over-range is said at once."""
    portal, transit = portal_of(turn, device), open_transit(turn)
    background = replace(
        portal.background, gamma_cps=reading.cps, gamma_at=turn.stamp, level=reading.level
    )
    if transit is None:
        background = _with_history(turn, background, reading.cps)
    turn.state.portal = replace(portal, background=background)
    for level in ("high", "low"):
        text = f"{device}: gamma background is {level} ({_list(reading.cps)} counts/s per detector)"
        finding = fault(device, f"gamma_background_{level}", text)
        set_standing(turn, replace(finding, source="device"), active=reading.level == level)
    _watch_detectors(turn, device, reading.cps)
    over = max(reading.cps) >= turn.rules.lane.over_range_cps
    if over and transit is None:
        stand(turn, _over_range(turn, device, reading.cps))
    elif not over:
        clear_standing(turn, device, "over_range")
    clear_standing(turn, device, "window_ratio")
    if transit is not None and turn.stamp.since_s(transit.last_count) > SILENT_S:
        end_occupancy(turn, "timeout")


def _with_history(
    turn: Turn, background: RunningBackground, cps: tuple[float, ...]
) -> RunningBackground:
    now_us, keep_us = turn.stamp.mono_us, turn.rules.lane.reference_background_s * 1_000_000
    history = tuple(h for h in background.history if now_us - h[0] < keep_us)
    history = (*history, (now_us, cps))
    is_long_enough = now_us - history[0][0] >= REFERENCE_MIN_S * 1e6
    reference = median_cps([row for _, row in history]) if is_long_enough else None
    return replace(background, history=history, reference_cps=reference)


def _watch_detectors(turn: Turn, device: str, cps: tuple[float, ...]) -> None:
    """Make a detector that counts nothing at all a fault: silence is not "clean"."""
    portal = turn.state.portal
    settings = portal.settings if portal else None
    detectors_on = (settings and settings.detectors_on) or (True,) * len(cps)
    names = turn.rules.portals[device].detectors
    for index, (rate, is_on) in enumerate(zip(cps, detectors_on, strict=True)):
        text = f"{device}: detector {names[index]} counts nothing; check its cable and high voltage"
        finding = fault(device, f"detector_{index + 1}_silent", text, "high")
        set_standing(turn, finding, active=is_on and rate == 0)


def on_neutron_background(turn: Turn, device: str, reading: NeutronBackground) -> None:
    """Take an unrounded neutron background; a rounded one only says high or not."""
    portal = portal_of(turn, device)
    if not reading.rounded_down:
        background = replace(portal.background, neutron_cps=reading.total_cps)
        portal = replace(portal, background=background)
    else:
        text = f"{device}: neutron background is high (≥ {reading.total_cps:g} counts/s)"
        finding = fault(device, "neutron_background_high", text)
        set_standing(turn, replace(finding, source="device"), active=reading.level == "high")
    turn.state.portal = portal


# ------------------------------------------------------------------ occupancy


def _enter(turn: Turn, device: str) -> Transit:
    """Return the vehicle inside, beginning a transit or joining the last where none is."""
    transit = open_transit(turn)
    if transit is not None:
        return transit
    last = turn.state.transits[-1] if turn.state.transits else None
    if last is not None and last.ended is not None and not last.is_sealed:
        # The deadline that seals it has not passed, so the gap is short: the same vehicle.
        joined = replace(last, ended=None, end_reason="left", last_count=turn.stamp)
        put(turn, joined)
        return joined
    portal = portal_of(turn, device)
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
    turn.state.portal = replace(portal, speeds=())
    turn.state.transits = (*turn.state.transits, transit)
    return transit


def is_suspect(background: RunningBackground, rules: LaneRules) -> bool:
    """Return whether the running background has parted from its long median."""
    if background.gamma_cps is None or background.reference_cps is None:
        return False
    return parts_from_reference(
        background.gamma_cps, background.reference_cps, rules.lane.suspect_fraction
    )


def on_gamma(turn: Turn, device: str, reading: GammaCounts) -> None:
    """Take one interval: tally, forward the device's alarm, and recompute its decision."""
    transit = _enter(turn, device)
    portal = portal_of(turn, device)
    decision = decision_of(portal, turn.rules)
    window = (*portal.window, reading.counts)[-decision.intervals :]
    turn.state.portal = replace(portal, window=window)
    sums = tuple(map(sum, zip(*window, strict=True)))
    is_full = len(window) == decision.intervals
    background = portal.background
    found = None
    if is_full and background.gamma_cps is not None:
        found = nsigma(sums, background.gamma_cps, decision.groups, decision.window_s)
    tally = transit.tally
    if is_full:
        tally = _with_rates(tally, sums, decision.window_s)
    if found is not None and background.gamma_cps is not None:
        tally = _with_decision(
            tally, portal, decision, sums, found[0], device_alarm=reading.device_alarm
        )
    if reading.device_alarm:
        tally = replace(tally, device_gamma=True)
    transit = replace(transit, last_count=turn.stamp, tally=tally)
    if reading.device_alarm:
        transit = latch(turn, transit, _gamma_finding(turn, transit, decision, sums, found))
    # The line has no checksum: one flipped bit must not drive people away, two intervals may.
    both = map(min, reading.counts, portal.window[-1]) if portal.window else ()
    rates = tuple(c / reading.real_time_s for c in both)
    if rates and max(rates) >= turn.rules.lane.over_range_cps:
        transit = latch(turn, transit, _over_range(turn, device, rates))
    put(turn, transit)


def _with_rates(tally: Tally, sums: tuple[int, ...], window_s: float) -> Tally:
    rates = tuple(s / window_s for s in sums)
    before = tally.gamma_cps_by_detector
    return replace(
        tally,
        gamma_cps=_larger(tally.gamma_cps, sum(sums) / window_s),
        gamma_cps_by_detector=rates if before is None else tuple(map(max, before, rates)),
    )


def _with_decision(
    tally: Tally,
    portal: Portal,
    decision: Decision,
    sums: tuple[int, ...],
    z: float,
    *,
    device_alarm: bool,
) -> Tally:
    printed, reference = portal.background.gamma_cps, portal.background.reference_cps
    assert printed is not None
    agrees = (z >= decision.nsigma) == device_alarm
    explained = not agrees and rounding_explains(
        sums,
        printed,
        decision.groups,
        nsigma_limit=decision.nsigma,
        device_alarm=device_alarm,
        window_s=decision.window_s,
    )
    against = reference and nsigma(sums, reference, decision.groups, decision.window_s)
    return replace(
        tally,
        sigma=_larger(tally.sigma, z),
        sigma_reference=_larger(tally.sigma_reference, against[0]) if against else None,
        intervals=tally.intervals + 1,
        agree=tally.agree + agrees,
        rounding=tally.rounding + explained,
    )


def _larger(before: float | None, now: float) -> float:
    return now if before is None else max(before, now)


def _gamma_finding(
    turn: Turn,
    transit: Transit,
    decision: Decision,
    sums: tuple[int, ...],
    found: tuple[float, tuple[int, ...]] | None,
) -> Finding:
    if found is None:
        text = f"{transit.device}: the portal reports a gamma alarm (background unknown to us)"
        return _portal_finding(turn, transit, "gamma", "n_sigma", text)
    z, group = found
    portal = portal_of(turn, transit.device)
    background = portal.background.gamma_cps
    assert background is not None
    observed = sum(sums[d] for d in group)
    expected = sum(background[d] for d in group) * decision.window_s
    names = tuple(turn.rules.portals[transit.device].detectors[d] for d in group)
    text = (
        f"{transit.device}: the portal reports a gamma alarm; recomputed {z:.1f} sigma on "
        f"detectors {'+'.join(names)} ({observed} counts against {expected:.0f} in "
        f"{decision.window_s:g} s)"
    )
    finding = _portal_finding(turn, transit, "gamma", "n_sigma", text)
    evidence = Evidence(
        test="n_sigma",
        observed=float(observed),
        expected=expected,
        statistic=round(z, 6),
        threshold=decision.nsigma,
        unit="counts",
        window_s=decision.window_s,
    )
    return replace(finding, evidence=(evidence,), detectors=names)


def _portal_finding(turn: Turn, transit: Transit, kind: str, code: str, text: str) -> Finding:
    """Return a high finding of the portal's own decision."""
    assert kind in {"gamma", "neutron", "spectral"}
    portal = portal_of(turn, transit.device)
    suspect = is_suspect(portal.background, turn.rules)
    return Finding(
        kind=kind,  # type: ignore[arg-type]  # narrowed by the assertion above
        source="device",
        code=code,
        severity="high",
        device=transit.device,
        text=text,
        background=background_used(portal.background, turn.stamp, suspect=suspect),
    )


def _over_range(turn: Turn, device: str, rates_cps: tuple[float, ...]) -> Finding:
    limit = turn.rules.lane.over_range_cps
    names = turn.rules.portals[device].detectors
    over = tuple(names[i] for i, rate in enumerate(rates_cps) if rate >= limit)
    return Finding(
        kind="gamma",
        source="agent",
        code="over_range",
        severity="critical",
        device=device,
        text=f"{device}: {max(rates_cps):.0f} counts/s in detector {'+'.join(over)} is over "
        f"{limit:g}: keep people away",
        evidence=(
            Evidence(test="over_range", observed=max(rates_cps), threshold=limit, unit="counts/s"),
        ),
        detectors=over,
    )


def on_neutron(turn: Turn, device: str, reading: NeutronCounts) -> None:
    """Take one second of neutrons: forward the device's alarm, and test the exact tail."""
    transit = _enter(turn, device)
    portal = portal_of(turn, device)
    longest = turn.rules.lane.neutron_window_s
    neutrons = (*portal.neutrons, sum(reading.counts))[-longest:]
    turn.state.portal = portal = replace(portal, neutrons=neutrons)
    rate = neutrons[-1] / reading.real_time_s
    tally = replace(transit.tally, neutron_cps=_larger(transit.tally.neutron_cps, rate))
    evidence = _neutron_evidence(portal, turn.rules, reading.real_time_s)
    if evidence is not None and evidence.p is not None:
        tally = replace(tally, neutron_p=min(evidence.p, tally.neutron_p or 1.0))
    if reading.device_alarm:
        tally = replace(tally, device_neutron=True)
    transit = replace(transit, last_count=turn.stamp, tally=tally)
    given = () if evidence is None else (evidence,)
    if reading.device_alarm:
        text = f"{device}: the portal reports a neutron alarm ({neutrons[-1]} counts in 1 s)"
        finding = _portal_finding(turn, transit, "neutron", "device_neutron", text)
        transit = latch(turn, transit, replace(finding, evidence=given))
    if evidence is not None and evidence.p is not None and evidence.p < turn.rules.lane.neutron_p:
        text = (
            f"{device}: {evidence.observed:g} neutrons in {evidence.window_s:g} s against "
            f"{evidence.expected:.1f} expected; chance gives as many with p = {evidence.p:.1e}"
        )
        finding = replace(
            _portal_finding(turn, transit, "neutron", "poisson_tail", text), source="agent"
        )
        transit = latch(turn, transit, replace(finding, evidence=given))
    put(turn, transit)


def _neutron_evidence(portal: Portal, rules: LaneRules, real_time_s: float) -> Evidence | None:
    """Return the least likely of the windows of 1, 2 … seconds; None: background not known."""
    background_cps = portal.background.neutron_cps
    if background_cps is None:
        return None
    told = portal.settings.neutron_background_s if portal.settings else None
    background_s = float(told or NEUTRON_BACKGROUND_S)
    best: Evidence | None = None
    for seconds in range(1, len(portal.neutrons) + 1):
        window_s = seconds * real_time_s
        observed = sum(portal.neutrons[-seconds:])
        p = neutron_tail_p(observed, window_s, background_cps, background_s)
        if best is None or best.p is None or p < best.p:
            best = Evidence(
                test="poisson_tail",
                observed=float(observed),
                expected=background_cps * window_s,
                threshold=rules.lane.neutron_p,
                unit="counts",
                window_s=window_s,
                p=p,
            )
    return best


def on_device_alarm(turn: Turn, device: str, reading: DeviceAlarm) -> None:
    """Forward an alarm that the portal decided by itself, inside an occupancy or not."""
    transit = open_transit(turn)
    text = f"{device}: the portal reports {reading.code.replace('_', ' ')} ({reading.detail})"
    finding = Finding(
        kind=reading.kind,
        source="device",
        code=reading.code,
        severity="high",
        device=device,
        text=text,
    )
    if transit is None:
        stand(turn, finding)
    else:
        put(turn, latch(turn, transit, finding))


def on_speed(turn: Turn, device: str, reading: VehicleSpeed) -> None:
    """Keep a valid beam timing for the vehicle it belongs to."""
    if reading.m_per_s is None:
        return
    transit = open_transit(turn)
    if transit is not None:
        put(turn, replace(transit, speeds=(*transit.speeds, reading.m_per_s)[-32:]))
        return
    portal = portal_of(turn, device)
    speeds = (*portal.speeds, (turn.stamp, reading.m_per_s))[-8:]
    turn.state.portal = replace(portal, speeds=speeds)


def on_undocumented(turn: Turn, device: str, reading: Undocumented) -> None:
    """Keep the last of each tag whose meaning is not published."""
    portal = portal_of(turn, device)
    undocumented = {**portal.undocumented, reading.tag: reading.text}
    turn.state.portal = replace(portal, undocumented=undocumented)


def on_occupancy_end(turn: Turn, device: str, reading: OccupancyEnd) -> None:
    """Close the occupancy and take the neutron background that the portal gives with it."""
    portal = portal_of(turn, device)
    if reading.neutron_background_cps is not None:
        background = replace(portal.background, neutron_cps=reading.neutron_background_cps)
        turn.state.portal = replace(portal, background=background)
    transit = open_transit(turn)
    if transit is not None:
        put(turn, replace(transit, numbers=(*transit.numbers, reading.number)))
        end_occupancy(turn, "left")


def on_presence(turn: Turn, device: str, reading: VehiclePresence) -> None:  # noqa: ARG001 - whichever sensor says it
    """Take over which way the vehicle that is inside goes, where a sensor can tell."""
    transit = open_transit(turn)
    if transit is not None and reading.direction is not None:
        put(turn, replace(transit, direction=reading.direction))


def end_occupancy(turn: Turn, reason: EndReason) -> None:
    """Close the open occupancy; its transit stays open to another one for ``join_gap_s``."""
    transit, portal = open_transit(turn), turn.state.portal
    if portal is not None:
        turn.state.portal = replace(portal, window=(), neutrons=(), speeds=())
    if transit is None or portal is None:
        return
    put(
        turn,
        replace(
            transit,
            ended=turn.stamp,
            end_reason=reason,
            undocumented=portal.undocumented,
            settings=portal.settings,
        ),
    )


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
    turn.state.portal = replace(portal, settings=merged)
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


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)
