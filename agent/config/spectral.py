"""What judging a lane's spectra needs, computed from its options in some seconds."""

from __future__ import annotations

from pathlib import Path

from agent.analysis.detector import Detector
from agent.analysis.energy import sqrt_grid
from agent.analysis.response import background_components
from agent.analysis.shapes import computed_shapes
from agent.config.model_file import load_model
from agent.config.nuclides import load_nuclides
from agent.lane.options import RpmOptions, SpectralRules
from agent.settings import LaneConfig
from drivers.readings import EnergyCalibration

NUCLIDES_DIRECTORY = Path("/etc/checkpointd")


def spectral_rules(lane: LaneConfig) -> SpectralRules | None:
    """Return what the lane's spectra are judged by; None: the lane file has no [spectral].

    Raises
    ------
    ConfigError
        If the nuclide table or the thresholds file cannot be used.
    """
    options = lane.spectral
    if options is None:
        return None
    nuclides = load_nuclides(NUCLIDES_DIRECTORY)
    detector = Detector(material=options.detector, sides_cm=options.crystal_cm)
    grid = sqrt_grid()
    # Only how much each bin counts for in choosing templates: equal shares of K, U, Th and cosmic.
    background = background_components(detector, grid).sum(axis=0)
    shapes = computed_shapes(detector, nuclides, grid, background, options.exclude)
    model = calibration = None
    if options.thresholds_file is not None:
        model, calibration = load_model(Path(options.thresholds_file), shapes, options)
    return SpectralRules(
        options=options,
        shapes=shapes,
        categories={n.name: n.category for n in nuclides.nuclides},
        energies={
            d.name: EnergyCalibration(coefficients_kev=d.kind_options.energy.coefficients_kev)
            for d in lane.devices
            if isinstance(d.kind_options, RpmOptions) and d.kind_options.energy is not None
        },
        model=model,
        calibration=calibration,
    )
