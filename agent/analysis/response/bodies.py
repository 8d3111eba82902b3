"""Bodies that photons meet: a crystal, a shell around a source, a lump that is one, the ground.

Each knows how likely a photon collides in which of its layers, and how far it is from there to the
surface. All averages are over fixed, evenly spread points (J.H. Halton, Numer. Math. 2:84, 1960):
the same body gives the same figures every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response.attenuation import Material
from agent.analysis.response.compton import scattered_kev
from agent.analysis.response.transport import Flights

Floats = NDArray[np.float64]

COSINE_EDGES: Floats = 1 - 2 * np.linspace(0, 1, 49) ** 1.5
"""Edges of the classes of scattering angle, forward first and finer there."""
COSINES: Floats = (COSINE_EDGES[1:] + COSINE_EDGES[:-1]) / 2

ENDLESS_CM = 1e6
SHELL_LAYERS = 6
GROUND_EDGES_CM: Floats = np.array([0.0, 1.0, 2.5, 5.0, 9.0, 15.0, 30.0])
_FLIGHTS = 48
_FLIGHTS_OF_ONE_LAYER = 512
_DEPTHS = 4


class Body(Protocol):
    """What a first collision needs to know of a body."""

    @property
    def material(self) -> Material:
        """Return what it is made of."""
        ...

    def struck(self, total_per_cm: Floats) -> Floats:
        """Return how likely a photon that meets it collides: (energy, layer)."""
        ...

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways out after a first collision: (layer, point, angle class) [cm]."""
        ...

    def flights(self) -> Flights:
        """Return the flights of photons that set out anywhere in it."""
        ...


def first_leaving(body: Body, energies_kev: Floats) -> Floats:
    """Return how likely a photon leaves after one scatter: (energy, layer, angle class)."""
    kept = scattered_kev(energies_kev, COSINES)
    outward = body.material.total_per_cm(kept)
    inward = body.material.total_per_cm(energies_kev)
    rows = [
        np.exp(-outward[i] * body.first_ways_cm(float(inward[i]))).mean(axis=1)
        for i in range(len(energies_kev))
    ]
    return np.array(rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A crystal whose largest face (width × length) looks at the source; sides in cm."""

    material: Material
    depth_cm: float
    width_cm: float
    length_cm: float

    def struck(self, total_per_cm: Floats) -> Floats:
        """Return the share of photons through the face that collide, in the one layer."""
        return -np.expm1(-total_per_cm * self.depth_cm)[:, None]

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways out after a collision of a photon that came straight through the face."""
        points = _halton(96, 4)
        depth = _first_depths(points[:, 0], total_per_cm, self.depth_cm)
        at = np.stack([depth, points[:, 1] * self.width_cm, points[:, 2] * self.length_cm], axis=1)
        turn = 2 * np.pi * points[:, 3, None]
        sine = np.sqrt(1 - COSINES**2)[None, :]
        ahead = np.broadcast_to(COSINES, (len(points), len(COSINES)))
        directions = np.stack([ahead, sine * np.cos(turn), sine * np.sin(turn)], axis=2)
        return self._ways(at[:, None, :], directions)[None, :, :]

    def flights(self) -> Flights:
        """Return ways out from anywhere in any direction."""
        points = _halton(_FLIGHTS_OF_ONE_LAYER, 5)
        at = points[:, :3] * np.array([self.depth_cm, self.width_cm, self.length_cm])
        return _one_layer(self._ways(at, _directions(points[:, 3], points[:, 4])))

    def _ways(self, at: Floats, directions: Floats) -> Floats:
        sides = np.array([self.depth_cm, self.width_cm, self.length_cm])
        steep = np.where(np.abs(directions) < 1e-9, 1e-9, directions)
        ways = np.where(steep > 0, sides - at, -at) / steep
        shortest: Floats = ways.min(axis=-1)
        return shortest


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """A sphere around a point source, hollow up to ``inner_cm`` (0: solid)."""

    material: Material
    inner_cm: float
    thickness_cm: float

    @property
    def _radii(self) -> Floats:
        return self.inner_cm + np.linspace(0, self.thickness_cm, SHELL_LAYERS + 1)

    def struck(self, total_per_cm: Floats) -> Floats:
        """Return the share of the source's photons that collide in each layer on the way out."""
        passed = np.exp(-np.asarray(total_per_cm)[:, None] * (self._radii - self.inner_cm))
        return -np.diff(passed, axis=1)

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways out after a collision of a photon that came from the centre."""
        share = (np.arange(_DEPTHS) + 0.5) / _DEPTHS
        depth = _first_depths(share, total_per_cm, self.thickness_cm / SHELL_LAYERS)
        radius = (self._radii[:-1, None] + depth[None, :])[:, :, None]
        cosine = COSINES[None, None, :]
        passing_squared = radius**2 * (1 - cosine**2)
        outer = self.inner_cm + self.thickness_cm
        way = -radius * cosine + np.sqrt(np.maximum(outer**2 - passing_squared, 0.0))
        chord = 2 * np.sqrt(np.maximum(self.inner_cm**2 - passing_squared, 0.0))
        return np.maximum(way - np.where(cosine < 0, chord, 0.0), 0.0)

    def flights(self) -> Flights:
        """Return flights from each layer; the hollow is flown through and costs nothing."""
        points = _halton(_FLIGHTS, 2)
        radii = self._radii
        radius = radii[:-1, None] + points[None, :, 0] * np.diff(radii)[:, None]
        cosine = 2 * points[None, :, 1] - 1
        start = radius * cosine
        passing_squared = radius**2 * (1 - cosine**2)
        # Where the flight's line crosses each sphere, counted from its point nearest the centre.
        crossing = np.sqrt(np.maximum(radii[:, None, None] ** 2 - passing_squared, 0.0))
        inward = [_beyond(start, -crossing[k + 1], -crossing[k]) for k in _falling()]
        outward = [_beyond(start, crossing[k], crossing[k + 1]) for k in range(SHELL_LAYERS)]
        return Flights(
            lengths_cm=np.stack([*inward, *outward], axis=2),
            layers=np.array([*_falling(), *range(SHELL_LAYERS)]),
            leaves=np.ones((SHELL_LAYERS, _FLIGHTS)),
        )


def _falling() -> range:
    return range(SHELL_LAYERS - 1, -1, -1)


def _beyond(start: Floats, low: Floats, high: Floats) -> Floats:
    """Return how much of the stretch from low to high lies ahead of the start."""
    return np.maximum(high - np.maximum(low, start), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lump:
    """A solid sphere that is itself the source, evenly so."""

    material: Material
    radius_cm: float

    def flights(self) -> Flights:
        """Return ways out from anywhere in any direction."""
        points = _halton(_FLIGHTS_OF_ONE_LAYER, 2)
        radius = self.radius_cm * np.cbrt(points[:, 0])
        cosine = 2 * points[:, 1] - 1
        passing_squared = radius**2 * (1 - cosine**2)
        return _one_layer(-radius * cosine + np.sqrt(self.radius_cm**2 - passing_squared))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A floor or wall without end, met evenly from all directions above it."""

    material: Material

    def struck(self, total_per_cm: Floats) -> Floats:
        """Return the share of photons that collide in each layer."""
        slope = np.sqrt((np.arange(8) + 0.5) / 8)  # cosine of the way down, weighted by the flow
        depth = np.asarray(total_per_cm)[:, None, None] * GROUND_EDGES_CM / slope[:, None]
        share: Floats = -np.diff(np.exp(-depth).mean(axis=1), axis=1)
        return share

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways back up after a first collision; those further down have no end."""
        points = _halton(64, 3)
        slope = np.sqrt(points[:, 0])
        thickness = np.diff(GROUND_EDGES_CM)
        per_cm = total_per_cm / slope[None, :]
        inside = -np.log1p(points[None, :, 1] * np.expm1(-per_cm * thickness[:, None])) / per_cm
        depth = GROUND_EDGES_CM[:-1, None] + inside
        turn = np.cos(2 * np.pi * points[:, 2])[:, None]
        across = np.sqrt(1 - slope**2)[:, None] * np.sqrt(1 - COSINES**2)[None, :]
        up = -(slope[:, None] * COSINES[None, :] + across * turn)
        return np.where(up > 1e-9, depth[:, :, None] / np.maximum(up, 1e-9), ENDLESS_CM)

    def flights(self) -> Flights:
        """Return flights up and down; what goes through the bottom is lost."""
        points = _halton(_FLIGHTS, 2)
        up = 2 * points[None, :, 1] - 1
        up = np.where(np.abs(up) < 1e-6, 1e-6, up)
        layers = len(GROUND_EDGES_CM) - 1
        thickness = np.diff(GROUND_EDGES_CM)
        start = GROUND_EDGES_CM[:-1, None] + points[None, :, 0] * thickness[:, None]
        lengths = []
        order = [*range(layers - 1, -1, -1), *range(layers)]
        for position, k in enumerate(order):
            low, high = GROUND_EDGES_CM[k], GROUND_EDGES_CM[k + 1]
            above = np.maximum(np.minimum(high, start) - low, 0.0)
            below = np.maximum(high - np.maximum(low, start), 0.0)
            is_upward = position < layers
            height = np.where(up > 0, above, 0.0) if is_upward else np.where(up < 0, below, 0.0)
            lengths.append(height / np.abs(up))
        return Flights(
            lengths_cm=np.stack(lengths, axis=2),
            layers=np.array(order),
            leaves=np.broadcast_to((up > 0).astype(float), start.shape),
        )


def _one_layer(ways_cm: Floats) -> Flights:
    return Flights(
        lengths_cm=ways_cm[None, :, None],
        layers=np.array([0]),
        leaves=np.ones((1, len(ways_cm))),
    )


def _first_depths(share: Floats, total_per_cm: float, thickness_cm: float) -> Floats:
    """Return the depths of first collisions at those quantiles of their distribution [cm]."""
    depths: Floats = -np.log1p(share * np.expm1(-total_per_cm * thickness_cm)) / total_per_cm
    return depths


def _directions(share: Floats, turn: Floats) -> Floats:
    cosine = 2 * share - 1
    sine = np.sqrt(1 - cosine**2)
    around = 2 * np.pi * turn
    return np.stack([cosine, sine * np.cos(around), sine * np.sin(around)], axis=-1)


def _halton(count: int, dimensions: int) -> Floats:
    """Return (count, dimension) points spread evenly over 0 to 1, the first few left out."""
    columns = []
    for base in (2, 3, 5, 7, 11)[:dimensions]:
        left = np.arange(20, 20 + count)
        column = np.zeros(count)
        weight = 1.0
        while left.any():
            weight /= base
            left, digit = np.divmod(left, base)
            column += weight * digit
        columns.append(column)
    return np.stack(columns, axis=1)
