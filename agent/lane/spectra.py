"""Spectroscopic panels and energy windows: from readings to the slices of one passage.

While the lane is empty the slices become its background; a vehicle's slices begin ``guard_s``
before it breaks the beam. What they come to is judged as they come, so that an alarm does not
wait for the vehicle to leave, and once more, whole, when it has left.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import numpy as np

from agent.analysis.energy import polynomial_edges
from agent.lane.alarms import fault, set_standing
from agent.lane.options import SpectralOptions
from agent.lane.slices import EmptyLane, Floats, Gathering, Slice, on_grid
from agent.lane.state import PassSpectra, Spectra, Transit, Turn
from drivers.readings import EnergyCalibration, GammaSpectrum, WindowBackground, WindowCounts

SLOW_MEMORY = 5.0
"""The slow background remembers so many times longer than the one decisions are made with."""
LONGEST_PASS_S = 120.0
"""A vehicle that stands longer than this is judged on its first two minutes."""
WINDOW_DETECTOR = "windows"
DEVICE_BACKGROUND_S = 20.0
"""What a portal averages its own energy windows over: steps of 1/20 count/s show it."""


def on_spectrum(turn: Turn, device: str, reading: GammaSpectrum) -> None:
    """Put one detector's spectrum into its slice; one without energies is only said."""
    rules = turn.rules.spectral
    if rules is None:
        return
    name = f"{device}/{reading.detector}" if reading.detector else device
    edges = edges_of(rules.energies.get(device) or reading.energy, len(reading.counts))
    text = (
        f"{device}: the spectrum of {name} has no usable energy scale; set "
        f"devices.{device}.energy (see: checkpointd calibrate energy)"
    )
    set_standing(turn, fault(device, "energy_unknown", text, "high"), active=edges is None)
    if edges is None:
        return
    counts = on_grid(reading.counts, edges, rules.grid_kev)
    live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
    _take(turn, name, counts, live_s, reading.real_time_s, reading.age_s)
    _keep_raw(turn, device, reading)
