"""What comes out of a source: its lines, its bremsstrahlung, through its own metal and shields.

An emission is exact lines, which become peaks, and a continuum in the energy groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response import transport
from agent.analysis.response.attenuation import ELECTRON_KEV, MATERIALS, Material
from agent.analysis.response.bodies import (
    COSINE_EDGES,
    GROUND_EDGES_CM,
    Ground,
    Lump,
    Shell,
    first_leaving,
)
from agent.analysis.response.compton import scattered_kev, share_below
from agent.analysis.response.nuclides import Beta, Form, Nuclide
from agent.analysis.response.transport import CENTRES_KEV, EDGES_KEV, GROUPS, Leaving

Floats = NDArray[np.float64]

LUMP_RADIUS_CM = 2.5
_STOPPED_IN = {"SNM": "iron", "industrial": "iron", "medical": "water", "NORM": "concrete"}
"""In what a nuclide's electrons stop, by what it is used for: a capsule, a body, a stone."""
_ATOMIC_NUMBER = {
    "iron": 26.0,
    "water": 7.4,
    "concrete": 11.0,
    "uranium": 92.0,
    "plutonium": 94.0,
}


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


def of_nuclide(nuclide: Nuclide) -> Emission:
    """Return what a thin source of a nuclide sends out."""
    return _of(nuclide, _ATOMIC_NUMBER[_STOPPED_IN[nuclide.category]])


def of_form(nuclide: Nuclide, form: Form) -> Emission:
    """Return what a nuclide sends out in one of its forms."""
    stopped_in = form.lump or _STOPPED_IN[nuclide.category]
    thin = _of(form, _ATOMIC_NUMBER[stopped_in])
    return thin if form.lump is None else through_lump(thin, form.lump)


def _of(source: Nuclide | Form, atomic_number: float) -> Emission:
    """Return lines and continuum, where electrons stop in matter of that atomic number."""
    lines = [line for line in source.lines if line.energy_kev < transport.HIGHEST_KEV]
    continuum = source.fission_per_100 * fission_photons()
    for beta in source.betas:
        continuum += bremsstrahlung(beta, atomic_number)
    return Emission(
        lines_kev=np.array([line.energy_kev for line in lines]),
        per_100=np.array([line.per_100 for line in lines]),
        continuum=continuum,
    )


def bremsstrahlung(beta: Beta, atomic_number: float) -> Floats:
    """Return the photons of electrons that stop in matter, per 100 decays: (group,).

    The thick target of S.J. Wyard, Proc. Phys. Soc. A 65:377 (1952), for each electron of the
    allowed beta spectrum; of the energy T [MeV] of an electron the part 6e-4 Z T becomes photons
    (H.W. Koch and J.W. Motz, Rev. Mod. Phys. 31:920 (1959), section IV).
    """
    electron = (np.arange(40) + 0.5) / 40 * beta.endpoint_kev
    momentum = np.sqrt(electron * (electron + 2 * ELECTRON_KEV))
    weight = momentum * (electron + ELECTRON_KEV) * (beta.endpoint_kev - electron) ** 2
    weight = weight / weight.sum()
    radiated = 6e-7 * atomic_number * electron / (1 + 6e-7 * atomic_number * electron)
    part = np.minimum(CENTRES_KEV[None, :] / electron[:, None], 1.0)
    energy = 4 * (1 - part) + 3 * part * np.log(part)  # per unit of part; its integral is 1.25
    photons = (weight * radiated) @ (energy / 1.25) / CENTRES_KEV
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
    leaving = _lump_leaving(Lump(material=MATERIALS[material], radius_cm=LUMP_RADIUS_CM))
    groups = _group_indices(emission.lines_kev)
    free = leaving.free(emission.lines_kev)
    kept = (emission.per_100 * (1 - free)) @ leaving.after.kept[groups, 0]
    return Emission(
        lines_kev=emission.lines_kev,
        per_100=emission.per_100 * free,
        continuum=kept + emission.continuum @ leaving.after.born[:, 0],
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _LumpLeaving:
    material: Material
    ways_cm: Floats
    after: Leaving

    def free(self, energies_kev: Floats) -> Floats:
        """Return how likely a photon of each energy leaves at once."""
        total = self.material.total_per_cm(energies_kev)
        share: Floats = np.exp(-total[:, None] * self.ways_cm[None, :]).mean(axis=1)
        return share


@lru_cache(maxsize=8)
def _lump_leaving(lump: Lump) -> _LumpLeaving:
    flights = lump.flights()
    return _LumpLeaving(
        material=lump.material,
        ways_cm=flights.lengths_cm[0, :, 0],
        after=transport.leaving(lump.material, flights, as_sum=False),
    )


def through_shell(emission: Emission, shielding: Shielding) -> Emission:
    """Return what leaves a shell around the source, what scattered in it included."""
    shell = _shell(shielding)
    table = _after_first(shell)
    passed = np.exp(-shell.material.total_per_cm(emission.lines_kev) * shell.thickness_cm)
    group_passed = np.exp(-shell.material.total_per_cm(CENTRES_KEV) * shell.thickness_cm)
    return Emission(
        lines_kev=emission.lines_kev,
        per_100=emission.per_100 * passed,
        continuum=emission.per_100 @ _rows(table, emission.lines_kev)
        + emission.continuum @ table
        + emission.continuum * group_passed,
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
    return _scattered_back(emission, "concrete")


def _scattered_back(emission: Emission, material: str) -> Floats:
    table = _after_first(Ground(material=MATERIALS[material]))
    found: Floats = emission.per_100 @ _rows(table, emission.lines_kev) + emission.continuum @ table
    return found


def _rows(table: Floats, energies_kev: Floats) -> Floats:
    """Return the rows of a table over the groups, carried to other energies."""
    at = np.interp(energies_kev, CENTRES_KEV, np.arange(GROUPS))
    low = np.minimum(at.astype(int), GROUPS - 2)
    part = (at - low)[:, None]
    rows: Floats = table[low] * (1 - part) + table[low + 1] * part
    return rows


@lru_cache(maxsize=64)
def _after_first(body: Shell | Ground) -> Floats:
    """Return what leaves a body of photons of each group that meet it and collide: (group, group).

    The first scatter is followed by its angle, layer by layer; what comes after is ``transport``.
    """
    material = body.material
    total = material.total_per_cm(CENTRES_KEV)
    after = transport.leaving(material, body.flights(), as_sum=False)
    struck = body.struck(total)
    kept_kev = scattered_kev(CENTRES_KEV, COSINE_EDGES)
    compton = material.compton_per_cm(CENTRES_KEV) / total
    scatters = -np.diff(share_below(CENTRES_KEV, kept_kev), axis=1) * compton[:, None]
    leaves = _first_leaving(body)
    once = np.einsum("gl,glc->gc", struck, leaves) * scatters
    found = transport.to_groups(kept_kev, once)
    for layer in range(struck.shape[1]):
        again = scatters * (1 - leaves[:, layer]) * struck[:, layer, None]
        found += transport.to_groups(kept_kev, again) @ after.kept[:, layer]
    born = after.born
    pair = (material.pair_per_cm(CENTRES_KEV) / total)[:, None] * struck
    found += 2 * pair @ born[transport.group_of(ELECTRON_KEV)]
    for symbol, line_kev, per_photo in transport.x_ray_lines(material):
        taken = transport.element_photo_per_cm(material, symbol, CENTRES_KEV) / total
        found += (taken * per_photo)[:, None] * struck @ born[transport.group_of(line_kev)]
    found.flags.writeable = False
    return found


def _first_leaving(body: Shell | Ground) -> Floats:
    nodes = np.geomspace(transport.LOWEST_KEV, transport.HIGHEST_KEV, 40)
    table = first_leaving(body, nodes)
    at = np.interp(np.log(CENTRES_KEV), np.log(nodes), np.arange(len(nodes)))
    low = np.minimum(at.astype(int), len(nodes) - 2)
    part = (at - low)[:, None, None]
    rows: Floats = table[low] * (1 - part) + table[low + 1] * part
    return rows


def out_of_ground(energies_kev: Floats, per_100: Floats) -> Emission:
    """Return the photons above ground that sends lines out evenly from all its depth.

    With them what the air sends back to it (skyshine), and the ground again.
    """
    ground = Ground(material=MATERIALS["earth"])
    flights = ground.flights()
    thickness = np.diff(GROUND_EDGES_CM)
    table = np.tensordot(thickness, _ground_leaving(ground).born, axes=([0], [1]))
    groups = _group_indices(energies_kev)
    # What has not collided keeps its exact energy, so that peaks stand where they belong.
    straight = per_100 * (thickness @ transport.free_share(ground.material, flights, energies_kev))
    in_groups = thickness @ transport.free_share(ground.material, flights, CENTRES_KEV)
    continuum = per_100 @ table[groups]
    np.subtract.at(continuum, groups, per_100 * in_groups[groups])
    upward = Emission(lines_kev=energies_kev, per_100=straight, continuum=continuum)
    # Air scatters as water does, and where it is thin all is only further away.
    from_air = _scattered_back(upward, "water")
    down = Emission(lines_kev=energies_kev, per_100=np.zeros(len(groups)), continuum=from_air)
    return replace(upward, continuum=continuum + from_air + _scattered_back(down, "earth"))


@lru_cache(maxsize=4)
def _ground_leaving(ground: Ground) -> Leaving:
    return transport.leaving(ground.material, ground.flights(), as_sum=False)


def _group_indices(energies_kev: Sequence[float] | Floats) -> NDArray[np.intp]:
    found = np.searchsorted(EDGES_KEV, energies_kev, side="right") - 1
    return np.clip(found, 0, GROUPS - 1)
