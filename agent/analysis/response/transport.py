"""Photons that scatter again and again inside a body: what leaves it in the end.

A body is its material, cut into layers, and the flights through them. A photon that sets out in a
layer leaves, or collides in one: it is taken up (a heavy atom may send an x-ray in its stead),
scatters to a lower energy and sets out anew, or makes a pair, whose two annihilation photons set
out anew. Since energies only fall, the whole chain is solved group by group from below, without
chance. The one approximation: from the second collision on, photons set out evenly in their layer
and in all directions, as in the collision probability method (J.R. Askew, AEEW-R 1046, 1972).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response.attenuation import ELECTRON_KEV, ELEMENTS, Material
from agent.analysis.response.compton import share_below

Floats = NDArray[np.float64]

LOWEST_KEV = 10.0
HIGHEST_KEV = 4600.0
GROUPS = 220
EDGES_KEV: Floats = np.linspace(LOWEST_KEV**0.5, HIGHEST_KEV**0.5, GROUPS + 1) ** 2
"""Edges of the energy groups [keV]; they widen as a scintillator's resolution does."""
CENTRES_KEV: Floats = (EDGES_KEV[1:] + EDGES_KEV[:-1]) / 2


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Flights:
    """Straight ways of photons that set out in each layer, evenly in place and direction.

    ``lengths_cm``: (layer, flight, stretch), in the order in which they are flown. ``layers``:
    (stretch,), which layer each lies in. ``leaves``: (layer, flight), whether the end of the last
    stretch is a way out that counts (1) or is lost (0).
    """

    lengths_cm: Floats
    layers: NDArray[np.intp]
    leaves: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaving:
    """What leaves a body, by energy group and layer inside it: (group, layer, group).

    ``born``: of a photon that sets out there; ``kept``: of one that sets out there and is known
    to collide. What is missing to 1 is taken up.
    """

    born: Floats
    kept: Floats


def group_of(energy_kev: float) -> int:
    """Return the group of an energy, the outermost ones for what lies beyond."""
    return int(np.clip(np.searchsorted(EDGES_KEV, energy_kev, side="right") - 1, 0, GROUPS - 1))


def scatter_matrix() -> Floats:
    """Return (group, group): the shares of one scatter; what falls below all groups is missing."""
    below = share_below(CENTRES_KEV, EDGES_KEV[None, :])
    return np.diff(below, axis=1)


def leaving(material: Material, flights: Flights, *, as_sum: bool) -> Leaving:
    """Return what leaves a body of that material.

    ``as_sum``: the two photons of an annihilation count as the sum of their energies (what a
    crystal misses), else as two photons (what a shield lets out).
    """
    total = material.total_per_cm(CENTRES_KEV)
    compton = material.compton_per_cm(CENTRES_KEV) / total
    pair = material.pair_per_cm(CENTRES_KEV) / total
    shares = scatter_matrix()
    x_rays = [
        (
            group_of(line_kev),
            per_photo * element_photo_per_cm(material, symbol, CENTRES_KEV) / total,
        )
        for symbol, line_kev, per_photo in x_ray_lines(material)
    ]
    layers = len(flights.lengths_cm)
    born = np.zeros((GROUPS, layers, GROUPS))
    kept = np.zeros((GROUPS, layers, GROUPS))
    two = np.zeros((layers, GROUPS))
    for g in range(GROUPS):
        free, collides = _first_flights(flights, float(total[g]))
        # What leaves after a collision in each layer, scatters that stay in the group left out.
        own = (shares[g, :g] @ born[:g].reshape(g, layers * GROUPS)).reshape(layers, GROUPS)
        own[:, g] += shares[g, g] * free
        own *= compton[g]
        for line, per_collision in x_rays:
            if line < g:
                own += per_collision[g] * born[line]
        if pair[g] > 0:
            if not two.any():
                two = annihilation(born[group_of(ELECTRON_KEV)], as_sum=as_sum)
            own += pair[g] * two
        # Those that stay go round in the group, from layer to layer: a geometric series.
        again = np.eye(layers) - compton[g] * shares[g, g] * collides
        onward = collides @ np.linalg.solve(again, own)
        kept[g] = onward / np.maximum(collides.sum(axis=1), 1e-300)[:, None]
        born[g] = onward
        born[g, :, g] += free
    return Leaving(born=born, kept=kept)


def _first_flights(flights: Flights, total_per_cm: float) -> tuple[Floats, Floats]:
    """Return how likely a photon leaves at once, (layer,), or collides: (from layer, in layer)."""
    depth = total_per_cm * flights.lengths_cm
    passed = np.exp(-np.cumsum(depth, axis=2))
    before = np.concatenate((np.ones_like(passed[:, :, :1]), passed[:, :, :-1]), axis=2)
    stopped = (before - passed).mean(axis=1)
    layers = len(flights.lengths_cm)
    collides = np.zeros((layers, layers))
    for layer in range(layers):
        collides[:, layer] = stopped[:, flights.layers == layer].sum(axis=1)
    free: Floats = (passed[:, :, -1] * flights.leaves).mean(axis=1)
    return free, collides


def free_share(material: Material, flights: Flights, energies_kev: Floats) -> Floats:
    """Return how likely a photon that sets out in a layer leaves at once: (layer, energy)."""
    ways = flights.lengths_cm.sum(axis=2)[:, :, None]
    passed = np.exp(-material.total_per_cm(energies_kev) * ways)
    share: Floats = (passed * flights.leaves[:, :, None]).mean(axis=1)
    return share


def x_ray_lines(material: Material) -> tuple[tuple[str, float, float], ...]:
    """Return (element, energy [keV], x-rays per photon taken up above its K edge) of a material."""
    found = []
    for symbol, _ in material.fractions:
        element = ELEMENTS[symbol]
        if element.edge is None or element.k_lines is None:
            continue
        _, below, above = element.edge
        yields = (1 - below / above) * element.k_lines.fluorescence
        pairs = zip(element.k_lines.energies_kev, element.k_lines.shares, strict=True)
        found += [(symbol, energy, share * yields) for energy, share in pairs]
    return tuple(found)


def element_photo_per_cm(material: Material, symbol: str, energies_kev: Floats) -> Floats:
    """Return the photoelectric coefficient of one element above its K edge, else 0 [1/cm]."""
    element = ELEMENTS[symbol]
    assert element.edge is not None
    part = tuple(pair for pair in material.fractions if pair[0] == symbol)
    alone = Material(density=material.density, fractions=part)
    above = np.asarray(energies_kev) > element.edge[0]
    return np.where(above, alone.photo_per_cm(energies_kev), 0.0)


def annihilation(one: Floats, *, as_sum: bool) -> Floats:
    """Return what leaves of the two photons of an annihilation, where ``one`` is of one of them.

    ``one`` and the result: (layer, group).
    """
    if not as_sum:
        return 2 * one
    nothing = np.maximum(0.0, 1 - one.sum(axis=1, keepdims=True))
    whole = np.concatenate((one, nothing), axis=1)
    energies = np.append(CENTRES_KEV, 0.0)
    energies[group_of(ELECTRON_KEV)] = ELECTRON_KEV
    sums = energies[:, None] + energies[None, :]
    groups = np.clip(np.searchsorted(EDGES_KEV, sums, side="right") - 1, 0, GROUPS - 1)
    groups[sums == 0] = GROUPS
    found = [
        np.bincount(groups.ravel(), np.outer(row, row).ravel(), minlength=GROUPS + 1)[:GROUPS]
        for row in whole
    ]
    return np.array(found)


def to_groups(kept_kev: Floats, amounts: Floats) -> Floats:
    """Return (row, group): amounts between falling energies, each spread evenly over the groups."""
    found = np.empty((len(kept_kev), GROUPS))
    for i in range(len(kept_kev)):
        below = np.concatenate(([0.0], np.cumsum(amounts[i, ::-1])))
        found[i] = np.diff(np.interp(EDGES_KEV, kept_kev[i, ::-1], below))
    return found
