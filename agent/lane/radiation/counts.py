"""What portals count: their alarms forwarded, the decision of a TSA controller recomputed.

The device's own alarm is always forwarded. What we recompute reports agreement and never
suppresses; where a portal decides by a rule of its own, its counts are set against its background
and against our long median. Our own alarms are the neutron tail, the over-range limit and, where
the lane's file asks for it, an excess over the background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from agent.analysis.counting.gross import groups_of, neutron_tail_p, nsigma, rounding_explains
from agent.lane.alarms import Finding, clear_standing, latch, stand, stated_p, worded_p
from agent.lane.moment import Moment
from agent.lane.occupancy import enter, tally_of, with_tally
from agent.lane.options.portals import RpmOptions
from agent.lane.options.rules import LaneRules
from agent.lane.portals import Portal, background_of, portal_of, put_portal
from agent.lane.vehicles import Tally, Transit, open_transit, put, unsealed_transit
from agent.records import AlarmKind, Evidence
from drivers.readings import GammaCounts, NeutronCounts, PortalSettings

INTERVAL_S = 0.2
NEUTRON_BACKGROUND_S = 120
"""The portal's neutron averaging time [s] where its settings lines have not said (factory SN1)."""
FALLEN_SHARE = 0.8
"""An alarm of ours that stands is cleared below so much of its limit, or it would flutter."""


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


# ------------------------------------------------------------------ gamma


def on_gamma(moment: Moment, device: str, reading: GammaCounts) -> None:
    """Take one interval: tally it, forward the device's alarm, and judge it beside the device."""
    transit = _transit_for(moment, device, is_alarm=reading.device_alarm)
    if moment.rules.traits_of(device).rule == "tsa":
        _by_tsa_rule(moment, device, transit, reading)
    else:
        _by_own_rule(moment, device, transit, reading)


def _transit_for(moment: Moment, device: str, *, is_alarm: bool) -> Transit | None:
    """Return the passage that counts belong to; None: nothing is there.

    The counts of a TSA controller, which sends them only then, mean a vehicle. A second portal
    further on may alarm when the first is free already.
    """
    is_counting_only_then = moment.rules.traits_of(device).presence == "counts"
    if device == moment.rules.teller and is_counting_only_then:
        return enter(moment)
    if is_alarm or is_counting_only_then:
        return unsealed_transit(moment)
    return open_transit(moment)


def _by_tsa_rule(
    moment: Moment, device: str, transit: Transit | None, reading: GammaCounts
) -> None:
    portal = portal_of(moment, device)
    decision = decision_of(portal, moment.rules)
    window = (*portal.window, reading.counts)[-decision.intervals :]
    put_portal(moment, replace(portal, window=window))
    sums = tuple(map(sum, zip(*window, strict=True)))
    is_full = len(window) == decision.intervals
    background = portal.background
    found = None
    if is_full and background.gamma_cps is not None:
        found = nsigma(sums, background.gamma_cps, decision.groups, decision.window_s)
    tally = tally_of(transit, device)
    if is_full:
        rates = tuple(s / decision.window_s for s in sums)
        tally = _with_rates(tally, sum(sums) / decision.window_s, rates)
    if found is not None and background.gamma_cps is not None:
        tally = _with_decision(
            tally, portal, decision, sums, found[0], device_alarm=reading.device_alarm
        )
    if reading.device_alarm:
        tally = replace(tally, device_gamma=True)
    if transit is not None:
        transit = with_tally(moment, transit, device, tally)
    if reading.device_alarm:
        transit = _say(moment, transit, _tsa_finding(moment, device, decision, sums, found))
    # The line has no checksum: one flipped bit must not drive people away, two intervals may.
    both = map(min, reading.counts, portal.window[-1]) if portal.window else ()
    rates = tuple(c / reading.real_time_s for c in both)
    if rates and max(rates) >= moment.rules.lane.over_range_cps:
        transit = _say(
            moment, transit, over_range(moment, device, named_rates(moment, device, rates))
        )
    if transit is not None:
        put(moment, transit)
    if not reading.device_alarm:
        clear_standing(moment, device, "n_sigma")


def _say(moment: Moment, transit: Transit | None, finding: Finding) -> Transit | None:
    """Latch a finding for the vehicle, or let it stand where none is there."""
    if transit is None:
        stand(moment, finding)
        return None
    return latch(moment, transit, finding)


def _with_rates(tally: Tally, cps: float, rates: tuple[float, ...]) -> Tally:
    before = tally.gamma_cps_by_detector
    if before is not None and len(before) == len(rates):
        rates = tuple(map(max, before, rates))
    return replace(tally, gamma_cps=_larger(tally.gamma_cps, cps), gamma_cps_by_detector=rates)


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


def _tsa_finding(
    moment: Moment,
    device: str,
    decision: Decision,
    sums: tuple[int, ...],
    found: tuple[float, tuple[int, ...]] | None,
) -> Finding:
    if found is None:
        text = f"{device}: the portal reports a gamma alarm (background unknown to us)"
        return _portal_finding(moment, device, "gamma", "n_sigma", text)
    z, group = found
    background = portal_of(moment, device).background.gamma_cps
    assert background is not None
    observed = sum(sums[d] for d in group)
    expected = sum(background[d] for d in group) * decision.window_s
    names = tuple(moment.rules.portals[device].detector(d) for d in group)
    text = (
        f"{device}: the portal reports a gamma alarm; recomputed {z:.1f} sigma on "
        f"detectors {'+'.join(names)} ({observed} counts against {expected:.0f} in "
        f"{decision.window_s:g} s)"
    )
    finding = _portal_finding(moment, device, "gamma", "n_sigma", text)
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


def _portal_finding(moment: Moment, device: str, kind: AlarmKind, code: str, text: str) -> Finding:
    """Return a high finding of the portal's own decision."""
    return Finding(
        kind=kind,
        source="device",
        code=code,
        severity="high",
        device=device,
        text=text,
        background=background_of(moment, device),
    )


def over_range(moment: Moment, device: str, rates_cps: Mapping[str, float]) -> Finding:
    """Return the finding that keeps people away from a detector that counts so much.

    ``rates_cps``: of each detector by its name, "" for the only one of a device.
    """
    limit = moment.rules.lane.over_range_cps
    highest = max(rates_cps.values())
    over = tuple(name for name, rate in rates_cps.items() if rate >= limit and name)
    where = f" in detector {'+'.join(over)}" if over else ""
    return Finding(
        kind="gamma",
        source="agent",
        code="over_range",
        severity="critical",
        device=device,
        text=f"{device}: {highest:.0f} counts/s{where} is over {limit:g}: keep people away",
        evidence=(Evidence(test="over_range", observed=highest, threshold=limit, unit="counts/s"),),
        detectors=over,
    )


def named_rates(moment: Moment, device: str, rates_cps: Sequence[float]) -> dict[str, float]:
    """Return the rates of a portal's detectors by what people call them."""
    names = moment.rules.portals[device]
    return {names.detector(index): rate for index, rate in enumerate(rates_cps)}


# ------------------------------------------------------------------ gamma, by the device's own rule


@dataclass(frozen=True, slots=True)
class _Excess:
    """How far counts are above a background, of the detectors that are furthest."""

    sigma: float
    group: tuple[int, ...]
    observed: int
    expected: float


def _excess(
    counts: Sequence[int], background_cps: tuple[float, ...] | None, real_time_s: float
) -> _Excess | None:
    """Return the largest excess of all detectors together and of each; None: no background."""
    if background_cps is None or len(background_cps) != len(counts):
        return None
    everything = tuple(range(len(counts)))
    groups = [everything, *((d,) for d in everything if len(counts) > 1)]
    found = nsigma(counts, background_cps, groups, real_time_s)
    if found is None:
        return None
    sigma, group = found
    return _Excess(
        sigma=sigma,
        group=group,
        observed=sum(counts[d] for d in group),
        expected=sum(background_cps[d] for d in group) * real_time_s,
    )


def _by_own_rule(
    moment: Moment, device: str, transit: Transit | None, reading: GammaCounts
) -> None:
    portal = portal_of(moment, device)
    put_portal(moment, replace(portal, window=(reading.counts,)))
    background, time_s = portal.background, reading.real_time_s
    told = _excess(reading.counts, background.gamma_cps, time_s)
    ours = _excess(reading.counts, background.reference_cps, time_s)
    tally = tally_of(transit, device)
    rates = tuple(c / time_s for c in reading.counts)
    tally = _with_rates(tally, sum(rates), rates)
    if told is not None:
        tally = replace(tally, sigma=_larger(tally.sigma, told.sigma))
    if ours is not None:
        tally = replace(tally, sigma_reference=_larger(tally.sigma_reference, ours.sigma))
    tally = replace(tally, device_gamma=tally.device_gamma or reading.device_alarm)
    if transit is not None:
        transit = with_tally(moment, transit, device, tally)
    best = told or ours
    if reading.device_alarm:
        transit = _say(moment, transit, _own_finding(moment, portal, best, reading))
    else:
        clear_standing(moment, device, "device_gamma")
    transit = _alarm_of_ours(moment, device, transit, best, time_s)
    transit = _watch_over_range(moment, portal, transit, reading)
    if transit is not None:
        put(moment, transit)


def _own_finding(
    moment: Moment, portal: Portal, excess: _Excess | None, reading: GammaCounts
) -> Finding:
    """Return the device's alarm with what we make of its counts beside it."""
    device, time_s = portal.device, reading.real_time_s
    seen = f"{sum(reading.counts)} counts in {time_s:g} s"
    if excess is None:
        text = f"{device}: the device reports a gamma alarm ({seen}, background unknown to us)"
        return _portal_finding(moment, device, "gamma", "device_gamma", text)
    text = (
        f"{device}: the device reports a gamma alarm ({seen}, {excess.sigma:.1f} sigma above "
        "background by counting statistics)"
    )
    evidence = [_evidence(excess, time_s, None)]
    variance = portal.background.gamma_variance
    if variance is not None and len(variance) == len(reading.counts):
        noise = sum(variance[d] for d in excess.group)
        if noise > 0:
            sigma = (excess.observed - excess.expected) / noise**0.5
            evidence.append(replace(evidence[0], test="device_variance", statistic=round(sigma, 6)))
    finding = _portal_finding(moment, device, "gamma", "device_gamma", text)
    names = tuple(moment.rules.portals[device].detector(d) for d in excess.group)
    return replace(finding, evidence=tuple(evidence), detectors=names)


def _evidence(excess: _Excess, time_s: float, limit: float | None) -> Evidence:
    return Evidence(
        test="poisson_sigma",
        observed=float(excess.observed),
        expected=excess.expected,
        statistic=round(excess.sigma, 6),
        threshold=limit,
        unit="counts",
        window_s=time_s,
    )


def _alarm_of_ours(
    moment: Moment, device: str, transit: Transit | None, excess: _Excess | None, time_s: float
) -> Transit | None:
    """Raise our own gamma alarm for a device that decides nothing, where the lane's file asks."""
    limit = moment.rules.portals[device].gamma_alarm_sigma
    if limit is None or excess is None:
        return transit
    if excess.sigma < FALLEN_SHARE * limit:
        clear_standing(moment, device, "k_sigma")
    if excess.sigma < limit:
        return transit
    text = (
        f"{device}: {excess.observed} counts in {time_s:g} s against {excess.expected:.0f} "
        f"expected, {excess.sigma:.1f} sigma"
    )
    finding = _portal_finding(moment, device, "gamma", "k_sigma", text)
    names = tuple(moment.rules.portals[device].detector(d) for d in excess.group)
    evidence = (_evidence(excess, time_s, limit),)
    finding = replace(finding, source="agent", evidence=evidence, detectors=names)
    return _say(moment, transit, finding)


def _watch_over_range(
    moment: Moment, portal: Portal, transit: Transit | None, reading: GammaCounts
) -> Transit | None:
    """Say over-range in two intervals in a row, whether a vehicle is there or not."""
    before = portal.window[-1] if portal.window else ()
    both = map(min, reading.counts, before) if len(before) == len(reading.counts) else ()
    rates = tuple(c / reading.real_time_s for c in both)
    is_over = bool(rates) and max(rates) >= moment.rules.lane.over_range_cps
    if is_over:
        named = named_rates(moment, portal.device, rates)
        return _say(moment, transit, over_range(moment, portal.device, named))
    clear_standing(moment, portal.device, "over_range")
    return transit


# ------------------------------------------------------------------ neutrons


def on_neutron(moment: Moment, device: str, reading: NeutronCounts) -> None:
    """Take one interval of neutrons: forward the device's alarm, and test the exact tail."""
    transit = _transit_for(moment, device, is_alarm=reading.device_alarm)
    portal = portal_of(moment, device)
    # Only a TSA controller's seconds are known to follow one another without overlap.
    is_tsa = moment.rules.traits_of(device).rule == "tsa"
    longest = moment.rules.lane.neutron_window_s if is_tsa else 1
    neutrons = (*portal.neutrons, sum(reading.counts))[-longest:]
    portal = replace(portal, neutrons=neutrons)
    put_portal(moment, portal)
    rate = neutrons[-1] / reading.real_time_s
    before = tally_of(transit, device)
    tally = replace(before, neutron_cps=_larger(before.neutron_cps, rate))
    evidence = _neutron_evidence(portal, moment.rules, reading.real_time_s)
    if evidence is not None and evidence.p is not None:
        tally = replace(tally, neutron_p=min(evidence.p, tally.neutron_p or 1.0))
    if reading.device_alarm:
        tally = replace(tally, device_neutron=True)
    if transit is not None:
        transit = with_tally(moment, transit, device, tally)
    given = () if evidence is None else (evidence,)
    if reading.device_alarm:
        text = (
            f"{device}: the portal reports a neutron alarm ({neutrons[-1]} counts in "
            f"{reading.real_time_s:g} s)"
        )
        finding = _portal_finding(moment, device, "neutron", "device_neutron", text)
        transit = _say(moment, transit, replace(finding, evidence=given))
    else:
        clear_standing(moment, device, "device_neutron")
    if transit is None:
        return
    if evidence is not None and evidence.p is not None and evidence.p < moment.rules.lane.neutron_p:
        text = (
            f"{device}: {evidence.observed:g} neutrons in {evidence.window_s:g} s against "
            f"{evidence.expected:.1f} expected; chance gives as many with {worded_p(evidence.p)}"
        )
        finding = _portal_finding(moment, device, "neutron", "poisson_tail", text)
        transit = latch(moment, transit, replace(finding, source="agent", evidence=given))
    put(moment, transit)


def _neutron_evidence(portal: Portal, rules: LaneRules, real_time_s: float) -> Evidence | None:
    """Return the least likely of the windows of 1, 2 … seconds; None: background not known.

    What is compared and said is the p-value as records state it: processors differ in its last
    digits.
    """
    background_cps = portal.background.neutron_cps
    if background_cps is None:
        return None
    told = portal.settings.neutron_background_s if portal.settings else None
    background_s = float(told or NEUTRON_BACKGROUND_S)
    best: Evidence | None = None
    for seconds in range(1, len(portal.neutrons) + 1):
        window_s = seconds * real_time_s
        observed = sum(portal.neutrons[-seconds:])
        p = stated_p(neutron_tail_p(observed, window_s, background_cps, background_s))
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
