"""Photons that scatter again and again inside a body: what leaves it in the end.

A body is its material and how far the way out is. A photon that has set out inside it leaves
unhurt, or interacts: it is taken up (a heavy atom may send an x-ray in its stead), scatters to a
lower energy and sets out anew, or makes a pair, whose two annihilation photons set out anew. Since
energies only fall, the whole chain is solved group by group from below, without chance.
The one approximation: from the second collision on, photons set out evenly in the body and in all
directions, as in the collision probability method (J.R. Askew, AEEW-R 1046, 1972).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.attenuation import ELECTRON_KEV, ELEMENTS, Material
from agent.analysis.compton import share_below

Floats = NDArray[np.float64]

LOWEST_KEV = 10.0
HIGHEST_KEV = 4600.0
GROUPS = 220
EDGES_KEV: Floats = np.linspace(LOWEST_KEV**0.5, HIGHEST_KEV**0.5, GROUPS + 1) ** 2
"""Edges of the energy groups [keV]; they widen as a scintillator's resolution does."""
CENTRES_KEV: Floats = (EDGES_KEV[1:] + EDGES_KEV[:-1]) / 2
TAKEN_UP = GROUPS
"""The last column of what leaves: nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Leaving:
    """What leaves a body, by the energy group inside it: (group, group + 1), the last: nothing.

    ``born``: of a photon that sets out anywhere in it; ``struck``: of one about to interact.
    """

    born: Floats
    struck: Floats


def group_of(energy_kev: float) -> int:
    """Return the group of an energy, the outermost ones for what lies beyond."""
    return int(np.clip(np.searchsorted(EDGES_KEV, energy_kev, side="right") - 1, 0, GROUPS - 1))


def scatter_matrix() -> Floats:
    """Return (group, group): the shares of one scatter; what falls below all groups is missing."""
    below = share_below(CENTRES_KEV, EDGES_KEV[None, :])
    return np.diff(below, axis=1)


def leaving(material: Material, ways_out_cm: Floats, *, as_sum: bool) -> Leaving:
    """Return what leaves a body of that material.

    ``ways_out_cm``: distances to the surface of photons that set out anywhere in any direction
    [cm]; none: an endless body. ``as_sum``: the two photons of an annihilation count as the sum
    of their energies (what a crystal misses), else as two photons (what a shield lets out).
    """
    free = _free_share(material, ways_out_cm)
    total = material.total_per_cm(CENTRES_KEV)
    compton = material.compton_per_cm(CENTRES_KEV) / total
    pair = material.pair_per_cm(CENTRES_KEV) / total
    shares = scatter_matrix()
    lines = x_ray_lines(material)
    born = np.zeros((GROUPS, GROUPS + 1))
    struck = np.zeros((GROUPS, GROUPS + 1))
    two = None
    for g in range(GROUPS):
        own = np.zeros(GROUPS + 1)
        own[:GROUPS] = shares[g, :g] @ born[:g, :GROUPS]
        own[g] += shares[g, g] * free[g]
        own *= compton[g]
        own += _after_photo(material, float(CENTRES_KEV[g]), lines, born) / total[g]
        if pair[g] > 0:
            if two is None:
                two = annihilation(born[group_of(ELECTRON_KEV)], as_sum=as_sum)
            own += pair[g] * two
        # Scatters that stay in the group go round in it: a geometric series.
        own /= 1 - compton[g] * shares[g, g] * (1 - free[g])
        own[TAKEN_UP] = max(0.0, 1 - own[:GROUPS].sum())
        struck[g] = own
        born[g] = (1 - free[g]) * own
        born[g, g] += free[g]
    return Leaving(born=born, struck=struck)


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


def _free_share(material: Material, ways_out_cm: Floats) -> Floats:
    if not len(ways_out_cm):
        return np.zeros(GROUPS)
    total = material.total_per_cm(CENTRES_KEV)
    share: Floats = np.exp(-total[:, None] * ways_out_cm[None, :]).mean(axis=1)
    return share


def _after_photo(
    material: Material,
    energy_kev: float,
    lines: tuple[tuple[str, float, float], ...],
    born: Floats,
) -> Floats:
    found = np.zeros(GROUPS + 1)
    for symbol, line_kev, share in lines:
        if line_kev < energy_kev:
            taken = float(element_photo_per_cm(material, symbol, np.array(energy_kev)))
            found[:GROUPS] += taken * share * born[group_of(line_kev), :GROUPS]
    return found


def annihilation(one: Floats, *, as_sum: bool) -> Floats:
    """Return what leaves of the two photons of an annihilation, where ``one`` is of one of them."""
    if not as_sum:
        return 2 * one
    energies = np.append(CENTRES_KEV, 0.0)
    energies[group_of(ELECTRON_KEV)] = ELECTRON_KEV
    some = np.flatnonzero(one)
    sums = (energies[some, None] + energies[None, some]).ravel()
    weights = np.outer(one[some], one[some]).ravel()
    found = np.zeros(GROUPS + 1)
    is_any = sums > 0
    groups = np.clip(np.searchsorted(EDGES_KEV, sums, side="right") - 1, 0, GROUPS - 1)
    np.add.at(found, groups[is_any], weights[is_any])
    found[TAKEN_UP] = weights[~is_any].sum()
    return found


def to_groups(kept_kev: Floats, amounts: Floats) -> Floats:
    """Return (row, group): amounts between falling energies, each spread evenly over the groups."""
    found = np.empty((len(kept_kev), GROUPS))
    for i in range(len(kept_kev)):
        below = np.concatenate(([0.0], np.cumsum(amounts[i, ::-1])))
        found[i] = np.diff(np.interp(EDGES_KEV, kept_kev[i, ::-1], below))
    return found
