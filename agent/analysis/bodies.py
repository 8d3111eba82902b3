"""Bodies that photons meet: a crystal, a shell around a source, a lump that is one, the ground.

Each knows how likely a photon is to collide in it, and how far it is from there to the surface.
All averages are over fixed, evenly spread points (J.H. Halton, Numer. Math. 2:84, 1960): the same
body gives the same figures every time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from agent.analysis.attenuation import Material
from agent.analysis.compton import scattered_kev

Floats = NDArray[np.float64]

COSINE_EDGES: Floats = 1 - 2 * np.linspace(0, 1, 49) ** 1.5
"""Edges of the classes of scattering angle, forward first and finer there."""
COSINES: Floats = (COSINE_EDGES[1:] + COSINE_EDGES[:-1]) / 2

ENDLESS_CM = 1e6
_LATER_POINTS = 512
_GROUND_DEPTH_CM = 3.5  # a mean free path of 200 keV in concrete


class Body(Protocol):
    """What a first collision needs to know of a body."""

    @property
    def material(self) -> Material:
        """Return what it is made of."""
        ...

    def struck_share(self, total_per_cm: Floats) -> Floats:
        """Return how likely a photon that meets it collides, by attenuation [1/cm]."""
        ...

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return the way out after a first collision: (point, angle class) [cm], alike likely."""
        ...

    def later_ways_cm(self) -> Floats:
        """Return ways out from anywhere in it in any direction: (point,) [cm]."""
        ...


def first_leaving(body: Body, energies_kev: Floats) -> Floats:
    """Return how likely a photon leaves after one scatter: (energy, angle class)."""
    kept = scattered_kev(energies_kev, COSINES)
    outward = body.material.total_per_cm(kept)
    inward = body.material.total_per_cm(energies_kev)
    rows = [
        np.exp(-outward[i] * body.first_ways_cm(float(inward[i]))).mean(axis=0)
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

    def struck_share(self, total_per_cm: Floats) -> Floats:
        """Return the share of photons through the face that collide."""
        return -np.expm1(-total_per_cm * self.depth_cm)

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways out after a collision of a photon that came straight through the face."""
        points = _halton(96, 4)
        depth = _first_depths(points[:, 0], total_per_cm, self.depth_cm)
        at = np.stack([depth, points[:, 1] * self.width_cm, points[:, 2] * self.length_cm], axis=1)
        turn = 2 * np.pi * points[:, 3, None]
        sine = np.sqrt(1 - COSINES**2)[None, :]
        ahead = np.broadcast_to(COSINES, (len(points), len(COSINES)))
        directions = np.stack([ahead, sine * np.cos(turn), sine * np.sin(turn)], axis=2)
        return self._ways(at[:, None, :], directions)

    def later_ways_cm(self) -> Floats:
        """Return ways out from anywhere in any direction."""
        points = _halton(_LATER_POINTS, 5)
        at = points[:, :3] * np.array([self.depth_cm, self.width_cm, self.length_cm])
        return self._ways(at, _directions(points[:, 3], points[:, 4]))

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

    def struck_share(self, total_per_cm: Floats) -> Floats:
        """Return the share of the source's photons that collide on the straight way out."""
        return -np.expm1(-total_per_cm * self.thickness_cm)

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways out after a collision of a photon that came from the centre."""
        share = (np.arange(24) + 0.5) / 24
        radius = self.inner_cm + _first_depths(share, total_per_cm, self.thickness_cm)
        return self._ways(radius[:, None], COSINES[None, :])

    def later_ways_cm(self) -> Floats:
        """Return ways out from anywhere in any direction, a layer counted by its thickness."""
        points = _halton(_LATER_POINTS, 2)
        radius = self.inner_cm + points[:, 0] * self.thickness_cm
        return self._ways(radius, 2 * points[:, 1] - 1)

    def _ways(self, radius: Floats, cosine: Floats) -> Floats:
        """Return the way through the material; the hollow in between costs nothing."""
        passing_squared = radius**2 * (1 - cosine**2)
        outer = self.inner_cm + self.thickness_cm
        way = -radius * cosine + np.sqrt(np.maximum(outer**2 - passing_squared, 0.0))
        chord = 2 * np.sqrt(np.maximum(self.inner_cm**2 - passing_squared, 0.0))
        return np.maximum(way - np.where(cosine < 0, chord, 0.0), 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lump:
    """A solid sphere that is itself the source, evenly so."""

    material: Material
    radius_cm: float

    def later_ways_cm(self) -> Floats:
        """Return ways out from anywhere in any direction."""
        points = _halton(_LATER_POINTS, 2)
        radius = self.radius_cm * np.cbrt(points[:, 0])
        cosine = 2 * points[:, 1] - 1
        ways: Floats = -radius * cosine + np.sqrt(self.radius_cm**2 - radius**2 * (1 - cosine**2))
        return ways


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """A floor or wall without end, met evenly from all directions above it."""

    material: Material

    def struck_share(self, total_per_cm: Floats) -> Floats:
        """Return 1: every photon that meets it collides."""
        return np.ones(np.shape(total_per_cm))

    def first_ways_cm(self, total_per_cm: float) -> Floats:
        """Return ways back up after a first collision; those further down have no end."""
        points = _halton(96, 3)
        slope = np.sqrt(points[:, 0])  # cosine of the way down, weighted by the flow through
        depth = -np.log1p(-points[:, 1]) * slope / total_per_cm
        turn = np.cos(2 * np.pi * points[:, 2])[:, None]
        across = np.sqrt(1 - slope**2)[:, None] * np.sqrt(1 - COSINES**2)[None, :]
        down = slope[:, None] * COSINES[None, :] + across * turn
        return np.where(down < -1e-9, depth[:, None] / np.maximum(-down, 1e-9), ENDLESS_CM)

    def later_ways_cm(self) -> Floats:
        """Return ways up from a depth of about one mean free path; half go down for good."""
        points = _halton(_LATER_POINTS, 2)
        depth = -np.log1p(-points[:, 0]) * _GROUND_DEPTH_CM
        up = 2 * points[:, 1] - 1
        return np.where(up > 1e-9, depth / np.maximum(up, 1e-9), ENDLESS_CM)


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
