"""Whether a spectrometer's detectors count as they should: silent, saturated, over-range, missing.

Each condition stands under the detector's own name, and the other detectors go on.
"""

from __future__ import annotations

from agent.lane.alarms import clear_standing, fault, set_standing
from agent.lane.radiation.area import say
from agent.lane.radiation.counts import over_range
from agent.lane.state import Panel, Turn
from drivers.readings import GammaSpectrum

SILENT_S = 30.0
"""Even a cubic centimetre of crystal counts some ten natural photons a second."""
MISSING_S = 30.0
SATURATED_LIVE = 0.5
"""A detector that is live for less of the time piles pulses up; its spectrum is no spectrum."""


def watch(turn: Turn, device: str, reading: GammaSpectrum) -> None:
    """Take one detector's interval: say and clear what is wrong with it."""
    if reading.real_time_s <= 0:
        return
    panels = turn.state.panels
    before = panels.get((device, reading.detector), Panel())
    total = sum(reading.counts)
    live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
    live_share = live_s / reading.real_time_s
    now = Panel(
        heard=turn.stamp,
        silent_s=0.0 if total else before.silent_s + reading.real_time_s,
        rate_cps=total / reading.real_time_s,
        least_rate_cps=min(before.rate_cps, total / reading.real_time_s),
        live_share=live_share,
        most_live_share=max(before.live_share, live_share),
    )
    turn.state.panels = {**panels, (device, reading.detector): now}
    _say_faults(turn, device, reading.detector, now)
    _say_missing(turn, device)
    _say_over_range(turn, device)


def on_lost(turn: Turn, device: str) -> None:
    """Forget how its detectors counted; what is wrong with them stands until they are heard."""
    panels = turn.state.panels
    turn.state.panels = {key: panel for key, panel in panels.items() if key[0] != device}


def _say_faults(turn: Turn, device: str, detector: str, panel: Panel) -> None:
    name = detector or "spectrum"
    text = f"{device}: detector {name} counts nothing; check its cable and high voltage"
    finding = fault(device, f"detector_{name}_silent", text, "high")
    set_standing(turn, finding, active=panel.silent_s >= SILENT_S)
    text = (
        f"{device}: detector {name} is live for {panel.most_live_share:.0%} of the time, so counts "
        "are lost and its spectrum is distorted; look for a strong source near it, or for noise"
    )
    finding = fault(device, f"detector_{name}_saturated", text, "high")
    set_standing(turn, finding, active=panel.most_live_share < SATURATED_LIVE)


def _say_missing(turn: Turn, device: str) -> None:
    """Say which detectors are heard no longer though their device still speaks."""
    for (owner, detector), panel in turn.state.panels.items():
        if owner != device or panel.heard is None:
            continue
        text = f"{device}: detector {detector} is no longer in what the device sends; check it"
        finding = fault(device, f"detector_{detector or 'spectrum'}_missing", text, "high")
        is_missing = turn.stamp.since_s(panel.heard) > MISSING_S
        set_standing(turn, finding, active=is_missing)


def _say_over_range(turn: Turn, device: str) -> None:
    """Keep people away from a detector that counts too much in two intervals in a row.

    A device that also gives gross counts is judged by those.
    """
    portal = turn.state.portals.get(device)
    if portal is not None and portal.window:
        return
    rates = {d: p.least_rate_cps for (o, d), p in turn.state.panels.items() if o == device}
    if max(rates.values()) < turn.rules.lane.over_range_cps:
        clear_standing(turn, device, "over_range")
    else:
        say(turn, over_range(turn, device, rates))
