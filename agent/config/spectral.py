"""What judging a lane's spectra needs, computed from its options in some seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from agent.analysis.energy.gain import TRACKED_KEV
from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.identification.hypotheses import COMPUTED, candidates
from agent.analysis.identification.knowledge import knowledge_of
from agent.analysis.response.detector import Detector
from agent.analysis.response.templates import background_components, templates
from agent.analysis.sought import named_among, shapes_among
from agent.config.model_file import load_model, load_window_model
from agent.config.nuclides import load_nuclides
from agent.config.problems import ConfigError
from agent.lane.options.portals import RpmOptions
from agent.lane.options.spectral import SpectralRules, WindowRules
from agent.settings import DeviceConfig, LaneConfig
from drivers.readings import EnergyCalibration

NUCLIDES_DIRECTORY = Path("/etc/checkpointd")


def window_rules(lane: LaneConfig) -> WindowRules | None:
    """Return what the lane's energy windows are judged by; None: no [spectral], or no windows.

    A lane that gives spectra too has learned its thresholds from those; its windows then have
    thresholds by formula.

    Raises
    ------
    ConfigError
        If the thresholds file cannot be used.
    """
    options = lane.spectral
    portal = next((d.name for d in lane.devices if d.driver.gives_windows), None)
    if options is None or portal is None:
        return None
    model = calibration = None
    has_spectra = any(d.driver.gives_spectra for d in lane.devices)
    if options.thresholds_file is not None and not has_spectra:
        model, calibration = load_window_model(Path(options.thresholds_file), options)
    return WindowRules(device=portal, options=options, model=model, calibration=calibration)


def spectral_rules(lane: LaneConfig) -> SpectralRules | None:
    """Return what the lane's spectra are judged by; None: it has no [spectral], or no spectra.

    Raises
    ------
    ConfigError
        If the nuclide table or the thresholds file cannot be used.
    """
    options = lane.spectral
    if options is None or not any(d.driver.gives_spectra for d in lane.devices):
        return None
    nuclides = load_nuclides(NUCLIDES_DIRECTORY)
    detector = Detector(material=options.detector, sides_cm=options.crystal_cm)
    grid = sqrt_grid()
    # Only how much each bin counts for in choosing templates: equal shares of K, U, Th and cosmic.
    background = background_components(detector, grid).sum(axis=0)
    everything = templates(detector, nuclides, grid)
    shapes = shapes_among(everything, detector, nuclides, background, options.exclude)
    model = calibration = None
    if options.thresholds_file is not None:
        model, calibration = load_model(Path(options.thresholds_file), shapes, options)
    return SpectralRules(
        options=options,
        shapes=shapes,
        known=candidates(
            named_among(everything, background, options.exclude),
            knowledge_of(nuclides),
            replace(COMPUTED, resolution_662=detector.resolution_662),
        ),
        energies=dict(filter(None, map(energy_option, lane.devices))),
        model=model,
        calibration=calibration,
        # Plastic shows no peak of the background to hold a scale by.
        ground=None if options.detector == "pvt" else background_components(detector, TRACKED_KEV),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RulesAsked:
    """What are this lane's spectra and windows judged by? It takes seconds to compute."""

    lane: LaneConfig

    def answer(self) -> Computed:
        """Return both, or why they cannot be had."""
        try:
            return Computed(spectral=spectral_rules(self.lane), windows=window_rules(self.lane))
        except ConfigError as exc:
            return Computed(refused=str(exc))


@dataclass(frozen=True, slots=True, kw_only=True)
class Computed:
    """What a lane's spectra and windows are judged by.

    ``refused``: why they cannot be. ``is_passing``: it may go better another time.
    """

    spectral: SpectralRules | None = None
    windows: WindowRules | None = None
    refused: str | None = None
    is_passing: bool = False


def energy_option(device: DeviceConfig) -> tuple[str, EnergyCalibration] | None:
    """Return the scale in the lane's file, and whose: a device's, or one detector's of it."""
    options = device.kind_options
    if not isinstance(options, RpmOptions) or options.energy is None:
        return None
    detector = options.energy.detector
    name = f"{device.name}/{detector}" if detector else device.name
    return name, EnergyCalibration(coefficients_kev=options.energy.coefficients_kev)
