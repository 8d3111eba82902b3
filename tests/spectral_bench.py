"""A lane of two crystals on a bench, with spectra drawn from the simulators' physics.

That physics shares nothing with the response that the lane looks with.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
from lane_bench import Bench

from agent.config.spectral import spectral_rules
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.lane.options.spectral import SpectralOptions, SpectralRules
from agent.lane.spectra.memory import Crystals
from agent.records import Passage
from drivers.readings import DeviceAlarm, EnergyCalibration, GammaSpectrum, VehiclePresence
from simulators import spectra
from simulators.spectra import Channels

CHANNELS = Channels(count=512, kev_per_channel=6.0)
ENERGY = EnergyCalibration(coefficients_kev=(0.0, 6.0))
LEFT, RIGHT = "Aa1", "Ba1"
BACKGROUND_CPS = 250.0
"""Of one detector."""


@cache
def computed_rules() -> SpectralRules:
    """Return what a lane of small CsI crystals judges by; it takes some seconds, once."""
    options = SpectralOptions(detector="csi", crystal_cm=(2.54, 2.54, 5.0), guard_s=3.0)
    portal = SimpleNamespace(
        name="rpm", driver=SimpleNamespace(gives_spectra=True), kind_options=RpmOptions()
    )
    found = spectral_rules(SimpleNamespace(spectral=options, devices=(portal,)))
    assert found is not None
    return found


def shape(name: str) -> np.ndarray:
    return spectra.shape(name, "CsI", CHANNELS)


def background_cps() -> np.ndarray:
    shares = spectra.BACKGROUND_SHARES.items()
    return sum(w * shape(n if n == "cosmic" else f"soil {n}") for n, w in shares) * BACKGROUND_CPS


class SpectralLane(Bench):
    """A lane with a portal of two crystals, each with its own noise, a spectrum every second."""

    def __init__(self, rules: SpectralRules, seed: int = 1, detectors=(LEFT, RIGHT)) -> None:
        super().__init__(traits={"rpm": PortalTraits(presence="told", rule="own")}, scale=None)
        self.rules = replace(self.rules, spectral=rules, scales={}, metals={})
        self.rng = np.random.default_rng(seed)
        self.detectors = detectors
        self.energy: dict[str, EnergyCalibration | None] = dict.fromkeys(detectors, ENERGY)
        self.at_s = 1.0
        self.events = []
        self.read(0.5, VehiclePresence(occupied=False))

    def _do(self, event):
        self.events.append(event)
        return super()._do(event)

    def second(self, source: str | None = None, cps: float = 0.0) -> None:
        """Let one second pass, with so much of a source at each detector."""
        rate = background_cps() + (0.0 if source is None else cps * shape(source))
        for detector in self.detectors:
            counts = tuple(int(n) for n in self.rng.poisson(rate))
            self.at_s += 0.01
            self.read(
                self.at_s,
                GammaSpectrum(
                    detector=detector,
                    counts=counts,
                    real_time_s=1.0,
                    live_time_s=0.99,
                    energy=self.energy[detector],
                ),
            )
        self.at_s += 1.0 - 0.01 * len(self.detectors)

    def empty(self, seconds: int) -> None:
        for _ in range(seconds):
            self.second()

    def passes(
        self,
        source: str | None = None,
        cps: float = 0.0,
        *,
        half_s: float = 1.5,
        long_s: int = 8,
        alarm: bool = False,
    ) -> Passage:
        """Let a vehicle through, its source in the middle, and return its passage.

        ``alarm``: the portal itself raises a gamma alarm.
        """
        self.read(self.at_s - 0.1, VehiclePresence(occupied=True))
        if alarm:
            self.read(self.at_s - 0.05, DeviceAlarm(kind="gamma", code="gamma"))
        for i in range(long_s):
            away_s = i + 0.5 - long_s / 2
            self.second(source, cps * (1.0 + (away_s / half_s) ** 2) ** -1.5)
        self.read(self.at_s - 0.1, VehiclePresence(occupied=False))
        self.empty(6)
        return self.passages()[-1]

    def rate_cps(self) -> float:
        """Return what the lane takes for the background of all its detectors."""
        empty = self.state.of(Crystals).spectra.empty
        return float((empty.counts.sum(axis=1) / empty.live_s).sum())
