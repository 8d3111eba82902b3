"""What comes out of a source: its lines, its bremsstrahlung, through its own metal and shields.

An emission is exact lines, which become peaks, and a continuum in the energy groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.analysis import transport
from agent.analysis.attenuation import ELECTRON_KEV, MATERIALS
from agent.analysis.bodies import COSINE_EDGES, Body, Ground, Lump, Shell, first_leaving
from agent.analysis.compton import scattered_kev, share_below
from agent.analysis.nuclides import Beta, Form, Nuclide, NuclideTable
from agent.analysis.transport import CENTRES_KEV, EDGES_KEV, GROUPS, Leaving

Floats = NDArray[np.float64]

LUMP_RADIUS_CM = 2.5
_ATOMIC_NUMBER = {"iron": 26.0, "uranium": 92.0, "plutonium": 94.0, "polyethylene": 6.0}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Emission:
    """Photons per 100 decays: ``lines_kev`` and ``per_100`` (line,), ``continuum`` (group,)."""

    lines_kev: Floats
    per_100: Floats
    continuum: Floats


@dataclass(frozen=True, slots=True, kw_only=True)
class Shielding:
    """A shell around the source. ``name`` ends a template's name, "Fe20" in "Cs-137_Fe20"."""

    name: str
    material: str
    thickness_cm: float
    inner_cm: float = 3.0


def of_nuclide(nuclide: Nuclide, *, stopped_in: str = "iron") -> Emission:
    """Return what a thin source of a nuclide sends out; electrons stop in ``stopped_in``."""
    lines = [line for line in nuclide.lines if line.energy_kev < transport.HIGHEST_KEV]
    continuum = np.zeros(GROUPS)
    for beta in nuclide.betas:
        continuum += bremsstrahlung(beta, _ATOMIC_NUMBER[stopped_in])
    continuum += nuclide.fission_per_100 * fission_photons()
    return Emission(
        lines_kev=np.array([line.energy_kev for line in lines]),
        per_100=np.array([line.per_100 for line in lines]),
        continuum=continuum,
    )


def of_form(table: NuclideTable, nuclide: Nuclide, form: Form) -> Emission:
    """Return what a nuclide sends out in one of its forms."""
    stopped_in = "iron" if form.lump is None else form.lump
    parts = [of_nuclide(nuclide, stopped_in=stopped_in)]
    for name, ratio in form.mixed:
        parts.append(_times(of_nuclide(table[name], stopped_in=stopped_in), ratio))
    mixed = Emission(
        lines_kev=np.concatenate([part.lines_kev for part in parts]),
        per_100=np.concatenate([part.per_100 for part in parts]),
        continuum=np.sum([part.continuum for part in parts], axis=0),
    )
    return mixed if form.lump is None else through_lump(mixed, form.lump)


def _times(emission: Emission, factor: float) -> Emission:
    return replace(
        emission, per_100=emission.per_100 * factor, continuum=emission.continuum * factor
    )


def bremsstrahlung(beta: Beta, atomic_number: float) -> Floats:
    """Return the photons of electrons that stop in matter, per 100 decays: (group,).

    Kramers' thick target for each electron, over the allowed beta spectrum; of the energy T [MeV]
    of an electron the part 6e-4 Z T becomes photons (H.W. Koch and J.W. Motz, Rev. Mod. Phys.
    31:920 (1959), section IV).
    """
    electron = (np.arange(40) + 0.5) / 40 * beta.endpoint_kev
    momentum = np.sqrt(electron * (electron + 2 * ELECTRON_KEV))
    weight = momentum * (electron + ELECTRON_KEV) * (beta.endpoint_kev - electron) ** 2
    weight = weight / weight.sum()
    per_kev = 2 * 6e-7 * atomic_number / (1 + 6e-7 * atomic_number * electron)
    ratio = electron[:, None] / CENTRES_KEV[None, :]
    photons = (weight * per_kev) @ np.maximum(ratio - 1, 0.0)
    found: Floats = beta.per_100 * photons * np.diff(EDGES_KEV)
    return found


def fission_photons() -> Floats:
    """Return the prompt photons of fission, one photon in all: (group,).

    Source: V.V. Verbinski, H. Weber and R.E. Sund, Phys. Rev. C 7:1173 (1973): flat to 0.3 MeV,
    then falling as exp(-2.3 E) to 1 MeV and exp(-1.1 E) beyond.
    """
    energy = CENTRES_KEV / 1e3
    falling = np.exp(-2.3 * (np.clip(energy, 0.3, 1.0) - 0.3)) * np.exp(
        -1.1 * np.maximum(energy - 1.0, 0.0)
    )
    shape = falling * np.diff(EDGES_KEV)
    found: Floats = shape / shape.sum()
    return found


def through_lump(emission: Emission, material: str) -> Emission:
    """Return what leaves a lump whose photons start evenly in all of it."""
    lump = Lump(material=MATERIALS[material], radius_cm=LUMP_RADIUS_CM)
    ways = lump.later_ways_cm()
    total = lump.material.total_per_cm(emission.lines_kev)
    free = np.exp(-total[:, None] * ways[None, :]).mean(axis=1)
    leaving = _lump_leaving(lump)
    groups = _group_indices(emission.lines_kev)
    struck = (emission.per_100 * (1 - free)) @ leaving.struck[groups, :GROUPS]
    return Emission(
        lines_kev=emission.lines_kev,
        per_100=emission.per_100 * free,
        continuum=struck + emission.continuum @ leaving.born[:, :GROUPS],
    )


@lru_cache(maxsize=8)
def _lump_leaving(lump: Lump) -> Leaving:
    return transport.leaving(lump.material, lump.later_ways_cm(), as_sum=False)


def through_shell(emission: Emission, shielding: Shielding) -> Emission:
    """Return what leaves a shell around the source, what scattered in it included."""
    shell = _shell(shielding)
    once = _after_first(shell, emission.lines_kev)
    struck = shell.struck_share(shell.material.total_per_cm(emission.lines_kev))
    continuum = (emission.per_100 * struck) @ once
    group_struck = shell.struck_share(shell.material.total_per_cm(CENTRES_KEV))
    continuum += (emission.continuum * group_struck) @ _group_after_first(shell)
    continuum += emission.continuum * (1 - group_struck)
    return Emission(
        lines_kev=emission.lines_kev,
        per_100=emission.per_100 * (1 - struck),
        continuum=continuum,
    )


def _shell(shielding: Shielding) -> Shell:
    return Shell(
        material=MATERIALS[shielding.material],
        inner_cm=shielding.inner_cm,
        thickness_cm=shielding.thickness_cm,
    )


def surroundings(emission: Emission) -> Floats:
    """Return the photons that come back from ground and walls: (group,).

    For every photon that meets them; how many do is the caller's.
    """
    ground = Ground(material=MATERIALS["concrete"])
    from_lines = emission.per_100 @ _after_first(ground, emission.lines_kev)
    found: Floats = from_lines + emission.continuum @ _group_after_first(ground)
    return found


def _after_first(body: Shell | Ground, energies_kev: Floats) -> Floats:
    """Return what leaves a body of photons of those energies that collide: (energy, group)."""
    table = _group_after_first(body)
    # A group's row begins at its centre; moved to the photon's own energy it keeps its shape in
    # the scattering angle well enough, as it is blurred by the detector afterwards.
    at = np.interp(energies_kev, CENTRES_KEV, np.arange(GROUPS))
    low = np.minimum(at.astype(int), GROUPS - 2)
    part = (at - low)[:, None]
    rows: Floats = table[low] * (1 - part) + table[low + 1] * part
    return rows


@lru_cache(maxsize=64)
def _group_after_first(body: Shell | Ground) -> Floats:
    """Return what leaves a body of photons of each group that collide: (group, group)."""
    material = body.material
    total = material.total_per_cm(CENTRES_KEV)
    after = transport.leaving(material, body.later_ways_cm(), as_sum=False)
    kept = scattered_kev(CENTRES_KEV, COSINE_EDGES)
    compton = material.compton_per_cm(CENTRES_KEV) / total
    scatters = -np.diff(share_below(CENTRES_KEV, kept), axis=1) * compton[:, None]
    leaves = _first_leaving(body)
    found = transport.to_groups(kept, scatters * leaves)
    found += transport.to_groups(kept, scatters * (1 - leaves)) @ after.struck[:, :GROUPS]
    pair = material.pair_per_cm(CENTRES_KEV) / total
    one = after.born[transport.group_of(ELECTRON_KEV)]
    found += pair[:, None] * 2 * one[None, :GROUPS]
    for symbol, line_kev, per_photo in transport.x_ray_lines(material):
        taken = transport.element_photo_per_cm(material, symbol, CENTRES_KEV) / total
        born = after.born[transport.group_of(line_kev), :GROUPS]
        found += (taken * per_photo)[:, None] * born[None, :]
    found.flags.writeable = False
    return found


def _first_leaving(body: Body) -> Floats:
    nodes = np.geomspace(transport.LOWEST_KEV, transport.HIGHEST_KEV, 40)
    table = first_leaving(body, nodes)
    at = np.interp(np.log(CENTRES_KEV), np.log(nodes), np.arange(len(nodes)))
    low = np.minimum(at.astype(int), len(nodes) - 2)
    part = (at - low)[:, None]
    rows: Floats = table[low] * (1 - part) + table[low + 1] * part
    return rows


def endless_flux(per_100: Floats, material: str) -> Floats:
    """Return the photons underway inside endless matter that sends them out evenly: (group,).

    ``per_100``: photons sent out by group. Every collision either takes a photon up or moves it
    down, so the collisions of a group follow from those above it.
    """
    matter = MATERIALS[material]
    total = matter.total_per_cm(CENTRES_KEV)
    compton = matter.compton_per_cm(CENTRES_KEV) / total
    pair = matter.pair_per_cm(CENTRES_KEV) / total
    shares = transport.scatter_matrix()
    at_511 = transport.group_of(ELECTRON_KEV)
    collisions = np.array(per_100, dtype=float)
    for g in range(GROUPS - 1, -1, -1):
        collisions[g] /= 1 - compton[g] * shares[g, g]
        collisions[:g] += collisions[g] * compton[g] * shares[g, :g]
        if g > at_511:
            collisions[at_511] += 2 * collisions[g] * pair[g]
    found: Floats = collisions / total
    return found


def straight_flux(energies_kev: Floats, per_100: Floats, material: str) -> Floats:
    """Return the photons underway in endless matter that have not collided yet: (line,)."""
    flux: Floats = per_100 / MATERIALS[material].total_per_cm(energies_kev)
    return flux


def _group_indices(energies_kev: Sequence[float] | Floats) -> NDArray[np.intp]:
    found = np.searchsorted(EDGES_KEV, energies_kev, side="right") - 1
    return np.clip(found, 0, GROUPS - 1)
