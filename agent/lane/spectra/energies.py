"""Which energies the channels of a spectrum have, and until when its calibration holds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from agent.analysis.energy.scale import polynomial_edges
from agent.lane.alarms import Standing, fault, set_standing
from agent.lane.instruments.calibration import end_of_day_us
from agent.lane.moment import Moment
from agent.lane.spectra.slices import Floats
from drivers.readings import EnergyCalibration, GammaSpectrum

DUE = "energy_calibration_due"


def detector_name(device: str, reading: GammaSpectrum) -> str:
    """Return what the lane calls the detector of a spectrum."""
    return f"{device}/{reading.detector}" if reading.detector else device


def energy_of(
    energies: Mapping[str, EnergyCalibration], device: str, reading: GammaSpectrum
) -> EnergyCalibration | None:
    """Return the lane file's scale for this detector or its device, else what came with it."""
    own = energies.get(detector_name(device, reading)) or energies.get(device)
    return own or reading.energy


def edges_of(energy: EnergyCalibration | None, channels: int) -> Floats | None:
    """Return the channels' edges [keV], None where they are unknown or do not rise."""
    if energy is None or channels < 1:
        return None
    if energy.edges_kev:
        edges = np.asarray(energy.edges_kev, dtype=float)
        fits = len(edges) == channels + 1 and bool(np.all(np.diff(edges) > 0))
        return edges if fits else None
    try:
        return polynomial_edges(energy.coefficients_kev, channels)
    except ValueError:
        return None


def watch_due(moment: Moment, device: str, reading: GammaSpectrum) -> None:
    """Make a scale of the lane's file whose last day is over a fault; it is used all the same."""
    portal = moment.rules.portals.get(device)
    energy = None if portal is None else portal.energy
    if energy is not None and energy.detector not in {"", reading.detector}:
        return
    until = None if energy is None else energy.valid_until
    if until is not None and moment.stamp.sync == "none":
        return  # a clock that nobody set may say any day
    is_over = until is not None and moment.stamp.utc_us >= end_of_day_us(until)
    if is_over == ((device, DUE) in moment.state.of(Standing).standing):
        return
    text = (
        f"{device}: its energy calibration held until {until}; measure it anew with "
        "checkpointd calibrate energy"
    )
    set_standing(moment, fault(device, DUE, text), active=is_over)
