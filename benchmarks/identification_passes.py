"""Synthetic passes for the identification benchmark: four NaI logs, one vehicle, one source.

The lane: background 6,900 counts/s over four 2×4×16 inch NaI logs, its K, U, Th and remaining
parts varied by 4, 10, 6 and 3 % from pass to pass; 30 s of it measured before the vehicle. The
vehicle suppresses 3 to 33 %, more at low energy (measured on a portal's four windows: 27, 21, 14
and 9 %), uneven over its length. The scale of energies is off by a normal error of 1.5 %. A point
source passes at 1.6 to 2.8 m/s at 2.5 m; NORM is spread over 2.5 to 6 s.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.scale import polynomial_edges, rebin_matrix

Floats = NDArray[np.float64]

SLICE_S = 0.2
SLICES = 40
BACKGROUND_S = 30.0
LOGS = 4
DISTANCE_M = 2.5
SPEEDS_M_PER_S = (1.6, 2.8)
VARIED = (0.04, 0.10, 0.06, 0.03)  # K, U, Th, the rest
_GAINS = np.linspace(-0.045, 0.045, 61)
_MIDDLES_S = (np.arange(SLICES) + 0.5) * SLICE_S


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class World:
    """Shapes on the lane's grid at 61 gains, from a library of long spectra.

    ``sources``: (name, gain, bin), each sums to about 1 at gain 0. ``background_cps``: (K U Th
    rest, gain, bin) of one log. ``middles_kev``: (bin,).
    """

    names: tuple[str, ...]
    sources: Floats
    background_cps: Floats
    edges_kev: Floats
    middles_kev: Floats

    def index(self, name: str) -> int:
        """Return the row of a source."""
        return self.names.index(name)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Pass:
    """One vehicle, all detectors summed: (slice, bin) counts and the background before it."""

    counts: Floats
    background_counts: Floats

    @property
    def background(self) -> Floats:
        """Return the expected background of one slice [counts]."""
        expected: Floats = self.background_counts * (SLICE_S / BACKGROUND_S)
        return expected


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What a vehicle carries: (source row, net counts/s at closest approach); and whether spread.

    ``is_point``: one place, else spread evenly over a length of the vehicle.
    """

    source: int
    cps: float
    is_point: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is not left to chance.

    ``gain_sd``: 1 σ of the energy scale's relative error. ``gain``: that error itself; None:
    drawn. ``suppression``: share of the background that the vehicle takes at 120 keV and below
    where it takes most; None: drawn, 3 to 33 %.
    """

    gain_sd: float = 0.015
    gain: float | None = None
    suppression: float | None = None


USUAL = Conditions()


def world(path: Path, edges_kev: Floats) -> World:
    """Return the shapes of a library file with ``names, counts, live, cal`` and ``background``."""
    with np.load(path) as file:
        names = [str(name) for name in file["names"]]
        rates = file["counts"].astype(float) / file["live"][:, None]
        channel_kev = polynomial_edges(tuple(file["cal"]), rates.shape[1])
    whole = rates[names.index("background")]
    kept = [name for name in names if name != "background"]
    net = np.clip(np.array([rates[names.index(name)] for name in kept]) - whole, 0.0, None)
    matrices = np.array([rebin_matrix(channel_kev * (1 + g), edges_kev) for g in _GAINS])
    shapes = np.einsum("sc,gcb->sgb", net, matrices, optimize=True)
    middle = len(_GAINS) // 2
    shapes /= shapes[:, middle].sum(axis=1)[:, None, None]
    parts = _background_parts(
        whole, np.array([net[kept.index(n)] for n in ("K40_Unshielded", *_CHAINS)])
    )
    return World(
        names=tuple(kept),
        sources=shapes,
        background_cps=np.einsum("kc,gcb->kgb", parts, matrices, optimize=True),
        edges_kev=edges_kev,
        middles_kev=0.5 * (edges_kev[1:] + edges_kev[:-1]),
    )


_CHAINS = ("Uore_Unshielded", "Th232_Unshielded")


def _background_parts(whole: Floats, natural: Floats) -> Floats:
    """Return K, U, Th and the rest [counts/s per channel]: as much of each as leaves a rest."""
    shapes = natural / natural.sum(axis=1, keepdims=True)
    weights = np.full(len(shapes), whole.sum() / 6)
    for _ in range(2000):  # Poisson multiplicative updates; the rest is what they leave
        weights *= (shapes @ (whole / np.maximum(weights @ shapes, 1e-9))) / shapes.sum(axis=1)
    fitted = 0.8 * weights[:, None] * shapes
    fitted *= np.minimum(1.0, whole / np.maximum(fitted.sum(axis=0), 1e-12))
    return np.vstack([fitted, whole - fitted.sum(axis=0)])


def one_pass(
    lane: World, loads: tuple[Load, ...], rng: np.random.Generator, under: Conditions = USUAL
) -> Pass:
    """Return one vehicle with its loads (none: benign)."""
    drawn = rng.normal(0, under.gain_sd)
    error = drawn if under.gain is None else under.gain
    gain = int(np.argmin(np.abs(_GAINS - np.clip(error, -0.045, 0.045))))
    varied = 1 + np.array(VARIED) * rng.normal(size=4)
    background = LOGS * varied @ lane.background_cps[:, gain]
    expected = SLICE_S * background * _transmitted(lane.middles_kev, rng, under.suppression)
    for load in loads:
        shape = SLICE_S * load.cps * lane.sources[load.source, gain]
        expected = expected + _course(rng, is_point=load.is_point)[:, None] * shape
    return Pass(
        counts=rng.poisson(expected).astype(float),
        background_counts=rng.poisson(background * BACKGROUND_S).astype(float),
    )


def _course(rng: np.random.Generator, *, is_point: bool) -> Floats:
    """Return the source's share of its greatest rate in each slice."""
    centre_s = rng.uniform(2.5, SLICES * SLICE_S - 2.5)
    speed = rng.uniform(*SPEEDS_M_PER_S)
    if is_point:
        course: Floats = 1 / (1 + ((_MIDDLES_S - centre_s) * speed / DISTANCE_M) ** 2)
        return course
    half_s = rng.uniform(1.25, 3.0)
    rate = speed / DISTANCE_M
    apart = _MIDDLES_S - centre_s
    course = np.arctan((apart + half_s) * rate) - np.arctan((apart - half_s) * rate)
    return np.asarray(course / course.max())


def _transmitted(
    middles_kev: Floats, rng: np.random.Generator, suppression: float | None
) -> Floats:
    """Return the (slice, bin) share of the background that the vehicle lets through."""
    knots = rng.uniform(0.55, 1.0, size=6)
    rough = np.interp(_MIDDLES_S, np.linspace(0.4, SLICES * SLICE_S - 0.4, 6), knots)
    smooth = np.convolve(np.pad(rough, 3, mode="edge"), np.ones(7) / 7, mode="valid")
    ends = np.clip(np.minimum(_MIDDLES_S, SLICES * SLICE_S - _MIDDLES_S) / 0.8, 0, 1)
    drawn = rng.uniform(0.03, 0.33)
    depth = (drawn if suppression is None else suppression) * smooth * ends
    steepness = rng.uniform(0.2, 0.5) + 0.05 * np.sin(2 * np.pi * (_MIDDLES_S / 8 + rng.uniform()))
    falls = (np.clip(middles_kev, 120, None) / 120)[None, :] ** -steepness[:, None]
    share: Floats = 1 - depth[:, None] * falls
    return share
