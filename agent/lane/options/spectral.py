"""Table ``[spectral]``, and what is computed from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.analysis.detection.model import Model, Shapes
from agent.analysis.identification.hypotheses import Candidates
from drivers.readings import EnergyCalibration


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralOptions:
    """Table ``[spectral]``: what the lane's spectroscopic panels are, and how they are judged."""

    detector: Annotated[
        Literal["nai", "csi", "labr3", "pvt"], Meta(description="what the crystals are made of")
    ] = "nai"
    crystal_cm: Annotated[
        tuple[float, float, float],
        Meta(description="their sides [cm], in any order; the shortest is the depth"),
    ] = (5.0, 10.0, 40.0)
    slice_s: Annotated[
        float,
        Meta(
            description="length of a slice [s]; not shorter than the panels' own intervals",
            ge=0.1,
            le=2.0,
        ),
    ] = 1.0
    background_memory_s: Annotated[
        float,
        Meta(description="the background forgets with this time constant [s]", ge=30, le=3600),
    ] = 300.0
    guard_s: Annotated[
        float,
        Meta(
            description="what came so long before a vehicle is its approach and no background [s]",
            ge=1,
            le=30,
        ),
    ] = 5.0
    false_alarm_rate: Annotated[
        float,
        Meta(description="alarms per benign passage that the site accepts", gt=0, le=0.05),
    ] = 1e-3
    thresholds_file: Annotated[
        str | None,
        Meta(
            description="what calibrate threshold learned from this lane's traffic; absent: "
            "thresholds by formula, and alarms are provisional"
        ),
    ] = None
    exclude: Annotated[
        tuple[str, ...], Meta(description='nuclides that are not looked for, such as "F-18"')
    ] = ()
    gain_every_s: Annotated[
        float,
        Meta(
            description="a detector's gain is measured on the empty lane at most so often [s]",
            ge=60,
            le=3600,
        ),
    ] = 120.0
    gain_limit: Annotated[
        float,
        Meta(
            description="a detector whose gain is further from its calibration is a fault and is "
            "not used [fraction]",
            ge=0.01,
            le=0.14,
        ),
    ] = 0.1


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpectralRules:
    """What judging spectra needs, computed from the options once.

    ``known``: what identification names. ``energies``: the lane file's own energy scales by device,
    or by "device/detector" where they name one; they outrank the device's. ``model`` None: nothing
    was learned, and one is assumed from the background. ``calibration`` names the learned
    thresholds. ``ground`` (component, bin): the natural background on ``gain.TRACKED_KEV``; None:
    gains are not tracked (plastic).
    """

    options: SpectralOptions
    shapes: Shapes
    known: Candidates
    energies: Mapping[str, EnergyCalibration]
    model: Model | None
    calibration: str | None
    ground: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowRules:
    """What judging a portal's energy windows needs.

    ``device``: the portal; another one's windows are no common spectrum with it. ``model`` None:
    nothing was learned, and one is assumed from the background. ``calibration`` names the learned
    thresholds.
    """

    device: str
    options: SpectralOptions
    model: Model | None = None
    calibration: str | None = None
