"""The backgrounds of the lane's portals: as the portal tells them, and our long median of them.

Only vacant times count. A device that tells no background gets one from its own vacant counts.
"""

from __future__ import annotations

from dataclasses import replace

from agent.analysis.counting.background import REFERENCE_MIN_S, median_cps
from agent.lane.alarms import clear_standing, fault, set_standing, stand
from agent.lane.moment import Moment
from agent.lane.occupancy import end_occupancy
from agent.lane.portals import RunningBackground, portal_of, put_portal
from agent.lane.radiation.counts import named_rates, over_range
from agent.lane.vehicles import open_transit
from drivers.readings import GammaBackground, GammaCounts, NeutronBackground

SILENT_S = 3.0
"""Background lines and no count for longer than the 2 s hold-in: the end line was lost."""
GATHERED_S = 5.0
"""A row of the history of a device that tells no background: its counts over so long."""


def on_gamma_background(moment: Moment, device: str, reading: GammaBackground) -> None:
    """Renew the running background and its median; a level fault or over-range is said at once."""
    portal, transit = portal_of(moment, device), open_transit(moment)
    background = replace(
        portal.background,
        gamma_cps=reading.cps,
        gamma_at=moment.stamp,
        level=reading.level,
        gamma_variance=reading.variance,
    )
    if transit is None:
        background = _with_history(moment, background, reading.cps)
    put_portal(moment, replace(portal, background=background))
    for level in ("high", "low"):
        text = f"{device}: gamma background is {level} ({_list(reading.cps)} counts/s per detector)"
        finding = fault(device, f"gamma_background_{level}", text)
        set_standing(moment, replace(finding, source="device"), active=reading.level == level)
    _watch_detectors(moment, device, reading.cps)
    if moment.rules.traits_of(device).rule == "tsa":
        _after_tsa_background(moment, device, reading.cps)


def _after_tsa_background(moment: Moment, device: str, cps: tuple[float, ...]) -> None:
    """A TSA controller says its background while nothing is there: what was said before is over."""
    transit = open_transit(moment)
    over = max(cps) >= moment.rules.lane.over_range_cps
    if over and transit is None:
        stand(moment, over_range(moment, device, named_rates(moment, device, cps)))
    elif not over:
        clear_standing(moment, device, "over_range")
    for code in ("window_ratio", "n_sigma", "device_neutron"):
        clear_standing(moment, device, code)
    if transit is None or device != moment.rules.teller:
        return
    if moment.stamp.since_s(transit.last_count) > SILENT_S:
        end_occupancy(moment, "timeout")


def gather(moment: Moment, device: str, reading: GammaCounts) -> None:
    """Make a background of the vacant counts of a device that tells none."""
    portal = portal_of(moment, device)
    is_telling = portal.background.gamma_at is not None
    if (
        is_telling
        or moment.rules.traits_of(device).rule == "tsa"
        or open_transit(moment) is not None
    ):
        return
    counts, time_s = portal.gathered or ((), 0.0)
    if len(counts) != len(reading.counts):
        counts, time_s = (0,) * len(reading.counts), 0.0
    counts = tuple(a + b for a, b in zip(counts, reading.counts, strict=True))
    time_s += reading.real_time_s
    if time_s < GATHERED_S:
        put_portal(moment, replace(portal, gathered=(counts, time_s)))
        return
    rates = tuple(c / time_s for c in counts)
    background = _with_history(moment, portal.background, rates)
    put_portal(moment, replace(portal, gathered=None, background=background))


def _with_history(
    moment: Moment, background: RunningBackground, cps: tuple[float, ...]
) -> RunningBackground:
    now_us, keep_us = moment.stamp.mono_us, moment.rules.lane.reference_background_s * 1_000_000
    history = background.history
    kept = next((i for i, row in enumerate(history) if now_us - row[0] < keep_us), len(history))
    history = history[kept:]  # oldest first
    if history and len(history[-1][1]) != len(cps):
        history = ()  # another number of detectors
    history = (*history, (now_us, cps))
    is_long_enough = now_us - history[0][0] >= REFERENCE_MIN_S * 1e6
    reference = median_cps([row for _, row in history]) if is_long_enough else None
    return replace(background, history=history, reference_cps=reference)


def _watch_detectors(moment: Moment, device: str, cps: tuple[float, ...]) -> None:
    """Make a detector that counts nothing at all a fault: silence is not "clean"."""
    settings = portal_of(moment, device).settings
    detectors_on = (settings and settings.detectors_on) or (True,) * len(cps)
    names = moment.rules.portals[device]
    for index, (rate, is_on) in enumerate(zip(cps, detectors_on, strict=True)):
        name = names.detector(index)
        text = f"{device}: detector {name} counts nothing; check its cable and high voltage"
        finding = fault(device, f"detector_{index + 1}_silent", text, "high")
        set_standing(moment, finding, active=is_on and rate == 0)


def on_neutron_background(moment: Moment, device: str, reading: NeutronBackground) -> None:
    """Take an unrounded neutron background; a rounded one only says high or not."""
    portal = portal_of(moment, device)
    if not reading.rounded_down:
        background = replace(portal.background, neutron_cps=reading.total_cps)
        portal = replace(portal, background=background)
    else:
        text = f"{device}: neutron background is high (≥ {reading.total_cps:g} counts/s)"
        finding = fault(device, "neutron_background_high", text)
        set_standing(moment, replace(finding, source="device"), active=reading.level == "high")
    put_portal(moment, portal)


def _list(values: tuple[float, ...]) -> str:
    return ", ".join(f"{v:g}" for v in values)
