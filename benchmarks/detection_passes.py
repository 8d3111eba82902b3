"""Makes the passages that the detection benchmark judges: four NaI logs beside a vehicle lane.

A passage is 40 slices of 0.2 s. The background is K, U, Th and the rest in varying shares; the
vehicle takes up to a third of it away, by an amount that changes along the vehicle and is larger
at low energies; one benign vehicle in twenty carries natural radioactivity spread over its load;
each detector's gain is off by its own small factor. Everything random comes from the seed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.scale import sqrt_grid

Floats = NDArray[np.float64]

SLICE_S = 0.2
SLICES = 40
DETECTORS = 4
BACKGROUND_S = 30.0
BACKGROUND_CPS = 6900.0
DISTANCE_M = 2.5
SOURCES = (
    "U235_Unshielded_9330",
    "Pu239_Shielded",
    "Cs137_Unshielded",
    "Cs137_Shielded",
    "Co60_Unshielded",
    "Am241_Unshielded",
    "Ba133_Unshielded",
    "Co57_Unshielded",
    "Tc99m_Phantom",
    "I131_Phantom",
    "Ir192_Shielded",
    "Np237_Shielded",
)
"""Twelve sources from soft to hard, bare, shielded and inside a patient."""
NORM_SHAPES = ("K40_Unshielded", "Ra226_Unshielded", "Th232_Unshielded")
NORM_MIXES = ((1.0, 0.0, 0.0), (0.15, 0.45, 0.4), (0.1, 0.8, 0.1), (0.1, 0.1, 0.8))
NORM_CHANCES = (0.4, 0.3, 0.15, 0.15)
NORM_MEDIAN_CPS = 400.0
NORM_SPREAD = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectra:
    """A library file: net count rates [counts/s] per channel, and the channels' edges [keV]."""

    names: tuple[str, ...]
    net_cps: Floats
    background_cps: Floats
    edges_kev: Floats

    def of(self, name: str) -> Floats:
        """Return the net spectrum of that name [counts/s per channel]."""
        net: Floats = self.net_cps[self.names.index(name)]
        return net


def read_spectra(path: Path) -> Spectra:
    """Return the spectra of a library file; the background is taken off every source."""
    with np.load(path) as held:
        names = tuple(str(name) for name in held["names"])
        rates = held["counts"].astype(float) / held["live"][:, None]
        coefficients = held["cal"].astype(float)
    channels = np.arange(rates.shape[1] + 1)
    edges = np.polynomial.polynomial.polyval(channels, coefficients)
    background = rates[names.index("background")]
    sources = [i for i, name in enumerate(names) if name != "background"]
    return Spectra(
        names=tuple(names[i] for i in sources),
        net_cps=np.clip(rates[sources] - background, 0.0, None),
        background_cps=background,
        edges_kev=edges,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What drives through, and how exact the detectors are."""

    norm_share: float = 0.05
    gain_sigma: float = 0.015
    suppression_max: float = 1.0 / 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Passes:
    """Passages: ``counts`` (pass, slice, detector, bin), and what the empty lane had before."""

    counts: NDArray[np.uint16]
    background_counts: NDArray[np.uint32]
    is_norm: NDArray[np.bool_]
    speed_m_per_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Generator:
    """Draws passages from a detector's spectra on a grid."""

    spectra: Spectra
    grid_kev: Floats
    traffic: Traffic
    parts_cps: Floats
    """(4, channel) K, U, Th and the rest of one detector's background."""

    @classmethod
    def of(cls, spectra: Spectra, traffic: Traffic, grid_kev: Floats | None = None) -> Generator:
        """Return a generator; K, U and Th take as much of the background as it can hold."""
        parts = np.array([spectra.of(name) for name in NORM_SHAPES])
        parts = parts / parts.sum(axis=1, keepdims=True)
        background = spectra.background_cps
        left, shares = background.copy(), np.zeros(3)
        # The rest may go nowhere below a third of the background: cosmic rays are everywhere.
        smooth = np.ones(15) / 15
        for index in (2, 0, 1):
            shape = np.convolve(parts[index], smooth, mode="same")
            room = np.convolve(left - background / 3, smooth, mode="same")
            use = shape > 0.2 * shape.max()
            shares[index] = max(0.0, 0.8 * float(np.quantile(room[use] / shape[use], 0.1)))
            left = left - shares[index] * parts[index]
        rest = np.clip(left, 0.0, None)
        scale = BACKGROUND_CPS / DETECTORS / background.sum()
        stacked = np.concatenate([shares[:, None] * parts, rest[None]]) * scale
        grid = sqrt_grid() if grid_kev is None else grid_kev
        return cls(spectra=spectra, grid_kev=grid, traffic=traffic, parts_cps=stacked)

    def benign(self, count: int, seed: int) -> Passes:
        """Return benign passages, one in twenty with natural radioactivity."""
        return self._passes(count, np.random.default_rng(seed), None, np.zeros(count))

    def with_source(self, name: str, strength_cps: Floats, seed: int) -> Passes:
        """Return passages with a source of those net count rates at closest approach."""
        rng = np.random.default_rng(seed)
        none = replace(self, traffic=replace(self.traffic, norm_share=0.0))
        return none._passes(len(strength_cps), rng, self.spectra.of(name), strength_cps)  # noqa: SLF001 - the same class

    def _passes(
        self, count: int, rng: np.random.Generator, source: Floats | None, strength_cps: Floats
    ) -> Passes:
        gains = 1.0 + self.traffic.gain_sigma * rng.standard_normal((count, DETECTORS))
        shares = np.exp(rng.normal(0.0, (0.08, 0.12, 0.08, 0.04), (count, 4)))
        parts = self._on_grid(self.parts_cps, gains)  # (part, pass, detector, bin)
        sizes = np.exp(rng.normal(0.0, 0.02, (count, DETECTORS)))
        empty = np.einsum("kpdb,pk,pd->pdb", parts, shares, sizes)
        kept = self._kept(count, rng)  # (pass, slice, bin)
        mean = empty[:, None] * kept[:, :, None, :]
        speed = rng.uniform(1.6, 2.8, count)
        is_norm = rng.random(count) < self.traffic.norm_share
        if is_norm.any():
            mean[is_norm] += self._norm(gains[is_norm], speed[is_norm], rng)
        if source is not None:
            shape = self._on_grid((source / source.sum())[None], gains)[0]
            near = rng.uniform(0.6, 1.4, (count, DETECTORS))
            near /= near.sum(axis=1, keepdims=True)
            centre_s = rng.uniform(2.5, 5.5, count)
            profile = point_profile(centre_s, speed)
            mean += np.einsum("p,ps,pd,pdb->psdb", strength_cps, profile, near, shape)
        counts = rng.poisson(mean * SLICE_S).astype(np.uint16)
        background = rng.poisson(empty * BACKGROUND_S).astype(np.uint32)
        return Passes(
            counts=counts, background_counts=background, is_norm=is_norm, speed_m_per_s=speed
        )

    def _on_grid(self, spectra_cps: Floats, gains: Floats) -> Floats:
        """Return (spectrum, pass, detector, bin): a gain of 1.01 shows 662 keV at 668.6 keV."""
        edges = self.grid_kev[None, None] / gains[..., None]
        shown = np.empty((len(spectra_cps), *gains.shape, len(self.grid_kev) - 1))
        for index, spectrum in enumerate(spectra_cps):
            below = np.concatenate([[0.0], np.cumsum(spectrum)])
            shown[index] = np.diff(np.interp(edges, self.spectra.edges_kev, below), axis=-1)
        return shown

    def _kept(self, count: int, rng: np.random.Generator) -> Floats:
        """Return the share of the background that a vehicle lets through, (pass, slice, bin)."""
        t = (np.arange(SLICES) + 0.5) * SLICE_S
        begins, ends = rng.uniform(0.4, 1.4, count), rng.uniform(6.2, 7.6, count)
        rise = rng.uniform(0.25, 0.6, (2, count))
        inside = 1.0 / (1.0 + np.exp(-(t - begins[:, None]) / rise[0][:, None]))
        inside *= 1.0 / (1.0 + np.exp((t - ends[:, None]) / rise[1][:, None]))
        bumps = np.ones((count, SLICES))
        other = np.zeros((count, SLICES))
        for _ in range(4):
            at, width = rng.uniform(0.5, 7.5, (count, 1)), rng.uniform(0.5, 1.6, (count, 1))
            bell = np.exp(-0.5 * ((t - at) / width) ** 2)
            bumps += rng.uniform(-0.45, 0.45, (count, 1)) * bell
            other += rng.uniform(-0.3, 0.3, (count, 1)) * bell
        depth = rng.uniform(0.03, self.traffic.suppression_max, (count, 1))
        centre_kev = np.sqrt(self.grid_kev[:-1] * self.grid_kev[1:])
        slope = np.log(centre_kev / 300.0) / np.log(10.0)  # -1 at 30 keV, +1 at 3 MeV
        # Measured on a plastic portal: 27, 21, 14 and 9 % from the lowest window to the highest.
        tilt = np.clip(1.0 - rng.normal(0.5, 0.1, (count, 1)) * slope, 0.1, 2.0)
        field = (depth * np.clip(bumps, 0.1, 1.5) * inside)[:, :, None] * tilt[:, None, :]
        field += (depth * other * inside)[:, :, None] * (0.3 * slope)
        kept: Floats = 1.0 - np.clip(field, -0.05, 0.55)
        return kept

    def _norm(self, gains: Floats, speed: Floats, rng: np.random.Generator) -> Floats:
        count = len(gains)
        shapes = np.array([self.spectra.of(name) for name in NORM_SHAPES])
        shapes = shapes / shapes.sum(axis=1, keepdims=True)
        shown = self._on_grid(shapes, gains)
        mixes = np.array(NORM_MIXES)[rng.choice(len(NORM_MIXES), count, p=NORM_CHANCES)]
        total = NORM_MEDIAN_CPS * np.exp(NORM_SPREAD * rng.standard_normal(count))
        length_s = rng.uniform(2.0, 5.0, count)
        centre_s = rng.uniform(3.0, 5.0, count)
        t = (np.arange(SLICES) + 0.5) * SLICE_S
        profile = np.zeros((count, SLICES))
        for part in np.linspace(-0.5, 0.5, 15):  # the load is a row of points
            at = centre_s + part * length_s
            reach = speed[:, None] * (t - at[:, None]) / DISTANCE_M
            profile += (1.0 + reach**2) ** -1.25
        profile /= profile.max(axis=1, keepdims=True)
        each = np.einsum("p,pk,kpdb->pdb", total / DETECTORS, mixes, shown)
        rate: Floats = profile[:, :, None, None] * each[:, None]
        return rate


def point_profile(centre_s: Floats, speed: Floats) -> Floats:
    """Return (pass, slice) of a point source that passes at DISTANCE_M, 1 at closest approach."""
    t = (np.arange(SLICES) + 0.5) * SLICE_S
    reach = speed[:, None] * (t - centre_s[:, None]) / DISTANCE_M
    profile: Floats = (1.0 + reach**2) ** -1.25
    return profile
