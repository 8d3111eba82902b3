"""Radiation monitors beside the portal: dose rates, nuclides and alarms in the device's words.

An alarm while a vehicle is there belongs to its passage; with none it stands until it falls. A
lane with nothing but an area monitor has standing alarms and no passages.
"""

from __future__ import annotations

from dataclasses import replace

from agent.lane.alarms import Finding, clear_standing, latch, stand
from agent.lane.moment import Moment
from agent.lane.occupancy import tally_of, with_tally
from agent.lane.vehicles import open_transit, put
from agent.records import Evidence, Severity
from drivers.readings import DeviceAlarm, DeviceNuclides, DoseRate, NuclideFound

CRITICAL = frozenset({"over_range", "gamma_overload", "neutron_overload", "dose_rate_alarm_2"})
"""Alarms of a device that mean: keep people away."""
FALLEN_SHARE = 0.8
"""Our dose rate alarm is cleared below so much of its limit, or it would flutter."""


def on_device_alarm(moment: Moment, device: str, reading: DeviceAlarm) -> None:
    """Forward an alarm that the device decided by itself, inside an occupancy or not."""
    if not reading.active:
        clear_standing(moment, device, reading.code)
        return
    is_tsa = device in moment.rules.portals and moment.rules.traits_of(device).rule == "tsa"
    who = "portal" if is_tsa else "device"
    text = f"{device}: the {who} reports {reading.code.replace('_', ' ')} ({reading.detail})"
    severity: Severity = "critical" if reading.code in CRITICAL else "high"
    finding = Finding(
        kind=reading.kind,
        source="device",
        code=reading.code,
        severity=severity,
        device=device,
        text=text,
    )
    say(moment, finding)


def say(moment: Moment, finding: Finding) -> None:
    """Latch a finding for the vehicle that is inside, or let it stand where none is there."""
    transit = open_transit(moment)
    if transit is None:
        stand(moment, finding)
    else:
        put(moment, latch(moment, transit, finding))


def on_dose_rate(moment: Moment, device: str, reading: DoseRate) -> None:
    """Keep the highest of a passage, and raise our own alarm at the lane's limit."""
    transit = open_transit(moment)
    if transit is not None:
        tally = tally_of(transit, device)
        highest = max(reading.usv_per_h, tally.dose_rate_usv_per_h or 0.0)
        tally = replace(tally, dose_rate_usv_per_h=highest)
        put(moment, with_tally(moment, transit, device, tally))
    limit = moment.rules.lane.dose_rate_alarm_usv_per_h
    if limit is None:
        return
    if reading.usv_per_h < FALLEN_SHARE * limit:
        clear_standing(moment, device, "dose_rate")
    if reading.usv_per_h < limit:
        return
    evidence = Evidence(
        test="dose_rate",
        observed=reading.usv_per_h,
        statistic=reading.usv_per_h,
        threshold=limit,
        unit="µSv/h",
    )
    finding = Finding(
        kind="gamma",
        source="agent",
        code="dose_rate",
        severity="critical",
        device=device,
        text=f"{device}: {reading.usv_per_h:.3g} µSv/h is at or above {limit:g}: keep people away",
        evidence=(evidence,),
    )
    say(moment, finding)


def on_nuclides(moment: Moment, device: str, reading: DeviceNuclides) -> None:
    """Keep what a device identified during a passage, each nuclide at its surest."""
    transit = open_transit(moment)
    if transit is None:
        return
    tally = tally_of(transit, device)
    surest = {n.name: n for n in tally.nuclides or ()}
    for nuclide in reading.nuclides:
        before = surest.get(nuclide.name)
        if before is None or _confidence(nuclide) > _confidence(before):
            surest[nuclide.name] = nuclide
    tally = replace(tally, nuclides=tuple(surest.values()))
    put(moment, with_tally(moment, transit, device, tally))


def _confidence(nuclide: NuclideFound) -> float:
    return -1.0 if nuclide.confidence is None else nuclide.confidence
