"""Whether a spectrometer's detectors count as they should: silent, saturated, over-range, missing.

Each condition stands under the detector's own name, and the other detectors go on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.lane.alarms import clear_standing, fault, set_standing
from agent.lane.moment import Moment
from agent.lane.portals import Portals
from agent.lane.radiation.area import say
from agent.lane.radiation.counts import over_range
from agent.lane.state import Memory
from agent.records import Stamp
from drivers.readings import GammaSpectrum

SILENT_S = 30.0
"""Even a cubic centimetre of crystal counts some ten natural photons a second."""
MISSING_S = 30.0
SATURATED_LIVE = 0.5
"""A detector that is live for less of the time piles pulses up; its spectrum is no spectrum."""


@dataclass(frozen=True, slots=True)
class Panel:
    """How one detector of a spectrometer counted last.

    ``heard`` None: never. ``silent_s``: how long it has counted nothing [s]. ``rate_cps``: of its
    last interval, ``least_rate_cps``: the lesser of its last two [counts/s of real time].
    ``live_share`` and ``most_live_share``: live over real time, the same way.
    """

    heard: Stamp | None = None
    silent_s: float = 0.0
    rate_cps: float = 0.0
    least_rate_cps: float = 0.0
    live_share: float = 1.0
    most_live_share: float = 1.0


@dataclass(slots=True, kw_only=True)
class PanelHealth(Memory):
    """How the lane's spectrometers count."""

    panels: Mapping[tuple[str, str], Panel] = field(default_factory=dict)
    """The detectors of spectrometers, by (device, detector)."""


def watch(moment: Moment, device: str, reading: GammaSpectrum) -> None:
    """Take one detector's interval: say and clear what is wrong with it."""
    if reading.real_time_s <= 0:
        return
    panels = moment.of(PanelHealth).panels
    before = panels.get((device, reading.detector), Panel())
    total = sum(reading.counts)
    live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
    live_share = live_s / reading.real_time_s
    now = Panel(
        heard=moment.stamp,
        silent_s=0.0 if total else before.silent_s + reading.real_time_s,
        rate_cps=total / reading.real_time_s,
        least_rate_cps=min(before.rate_cps, total / reading.real_time_s),
        live_share=live_share,
        most_live_share=max(before.live_share, live_share),
    )
    moment.of(PanelHealth).panels = {**panels, (device, reading.detector): now}
    _say_faults(moment, device, reading.detector, now)
    _say_missing(moment, device)
    _say_over_range(moment, device)


def on_lost(moment: Moment, device: str) -> None:
    """Forget how its detectors counted; what is wrong with them stands until they are heard."""
    panels = moment.of(PanelHealth).panels
    moment.of(PanelHealth).panels = {
        key: panel for key, panel in panels.items() if key[0] != device
    }


def _say_faults(moment: Moment, device: str, detector: str, panel: Panel) -> None:
    name = detector or "spectrum"
    text = f"{device}: detector {name} counts nothing; check its cable and high voltage"
    finding = fault(device, f"detector_{name}_silent", text, "high")
    set_standing(moment, finding, active=panel.silent_s >= SILENT_S)
    text = (
        f"{device}: detector {name} is live for {panel.most_live_share:.0%} of the time, so counts "
        "are lost and its spectrum is distorted; look for a strong source near it, or for noise"
    )
    finding = fault(device, f"detector_{name}_saturated", text, "high")
    set_standing(moment, finding, active=panel.most_live_share < SATURATED_LIVE)


def _say_missing(moment: Moment, device: str) -> None:
    """Say which detectors are heard no longer though their device still speaks."""
    for (owner, detector), panel in moment.of(PanelHealth).panels.items():
        if owner != device or panel.heard is None:
            continue
        text = f"{device}: detector {detector} is no longer in what the device sends; check it"
        finding = fault(device, f"detector_{detector or 'spectrum'}_missing", text, "high")
        is_missing = moment.stamp.since_s(panel.heard) > MISSING_S
        set_standing(moment, finding, active=is_missing)


def _say_over_range(moment: Moment, device: str) -> None:
    """Keep people away from a detector that counts too much in two intervals in a row.

    A device that also gives gross counts is judged by those.
    """
    portal = moment.state.of(Portals).portals.get(device)
    if portal is not None and portal.window:
        return
    rates = {
        d: p.least_rate_cps for (o, d), p in moment.of(PanelHealth).panels.items() if o == device
    }
    if max(rates.values()) < moment.rules.lane.over_range_cps:
        clear_standing(moment, device, "over_range")
    else:
        say(moment, over_range(moment, device, rates))
