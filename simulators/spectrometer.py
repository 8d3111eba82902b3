"""The crystal and tube of a spectroscopic panel: the scene's truth to counts, slice by slice.

What is counted depends on the scene and its seed alone, not on when somebody asks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulators import spectra
from simulators.scene import Mix, Scene
from simulators.spectra import Array, Channels

SLICE_S = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """What was counted since it was last taken."""

    channels: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    neutrons: int
    real_time_s: float
    live_time_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """The means behind one slice: counts a second and channel as shown, and the share of time."""

    cps: Array
    live_share: float
    neutron_cps: float


class Spectrometer:
    """Counts in slices of 0.1 s of scene time.

    Parameters
    ----------
    crystal : a name of `spectra.CRYSTALS`
    ran_before_s : how long it counted before the scene began, with nobody in the lane
    """

    def __init__(
        self, scene: Scene, *, crystal: str, channels: Channels, ran_before_s: float = 0.0
    ) -> None:
        self.scene = scene
        self.channels = channels
        self._crystal = crystal
        self._rng = np.random.default_rng([scene.exercise.seed, 5])
        self._slices = 0
        self._forget()
        if ran_before_s > 0.0:
            self._count(self.expected(-1e5, -1e5 + SLICE_S), ran_before_s)

    def _forget(self) -> None:
        self._counts = np.zeros(self.channels.count, dtype=np.int64)
        self._neutrons = 0
        self._real_s = self._live_s = 0.0

    @property
    def counted_until_s(self) -> float:
        """The scene time up to which it has counted [s]."""
        return self._slices * SLICE_S

    def expected(self, start_s: float, end_s: float) -> Expected:
        """Return the means over an interval, without noise."""
        mix = self.scene.mix(start_s, end_s)
        gain = round(mix.gain * 2000) / 2000
        rates = self._background(mix, gain)
        for source in mix.sources:
            # What adds less than a count in a quarter of an hour is not worth its shape.
            if source.cps > 1e-3:
                rates = rates + source.cps * spectra.shape(
                    source.name,
                    self._crystal,
                    self.channels,
                    matter_g_per_cm2=source.matter_g_per_cm2,
                    gain=gain,
                )
        return Expected(
            cps=spectra.piled_up(rates),
            live_share=spectra.live_share(float(np.sum(rates))),
            neutron_cps=mix.neutron_cps,
        )

    def _background(self, mix: Mix, gain: float) -> Array:
        rates = np.zeros(self.channels.count)
        weights = {
            name: share * (mix.radon_factor if name == "Ra-226" else 1.0)
            for name, share in spectra.BACKGROUND_SHARES.items()
        }
        scale = mix.background_cps / sum(weights.values())
        for name, weight in weights.items():
            component = name if name == "cosmic" else f"soil {name}"
            rates += (
                scale * weight * spectra.shape(component, self._crystal, self.channels, gain=gain)
            )
        return spectra.suppressed(rates, self.channels, mix.kept)

    def advance(self, until_s: float) -> None:
        """Count every whole slice up to a scene time."""
        while (self._slices + 1) * SLICE_S <= until_s + 1e-9:
            start_s = self._slices * SLICE_S
            self._slices += 1
            self._count(self.expected(start_s, start_s + SLICE_S), SLICE_S)

    def _count(self, expected: Expected, seconds: float) -> None:
        self._counts += self._rng.poisson(expected.cps * seconds)
        self._neutrons += int(self._rng.poisson(expected.neutron_cps * seconds))
        self._real_s += seconds
        self._live_s += seconds * expected.live_share

    def take(self) -> Counted:
        """Return what was counted since the last taking, and begin anew."""
        counted = Counted(
            channels=self._counts,
            neutrons=self._neutrons,
            real_time_s=round(self._real_s, 6),
            live_time_s=round(self._live_s, 6),
        )
        self._forget()
        return counted
