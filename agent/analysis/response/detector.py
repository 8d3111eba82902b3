"""What a detector counts of photons of one energy: peak, Compton continuum, escapes, all blurred.

The first collision is followed exactly (where, by which angle, which way out); what comes after
is ``transport``. Electrons stop where they are
made, but for those that reach the surface.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from agent.analysis.response import transport
from agent.analysis.response.attenuation import ELECTRON_KEV, MATERIALS
from agent.analysis.response.bodies import COSINE_EDGES, Box, first_leaving
from agent.analysis.response.compton import scattered_kev, share_below
from agent.analysis.response.transport import EDGES_KEV, Leaving

Floats = NDArray[np.float64]

CrystalMaterial = Literal["nai", "csi", "labr3", "pvt"]

CAESIUM_KEV = 661.657
SIGMAS_PER_FWHM = 2.3548200450309493

_FINE_EDGES_KEV: Floats = np.linspace(0.0, transport.HIGHEST_KEV**0.5, 1025) ** 2
_FINE_KEV: Floats = (_FINE_EDGES_KEV[1:] + _FINE_EDGES_KEV[:-1]) / 2
_NODES_KEV: Floats = np.geomspace(12.0, 4600.0, 40)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """How wide a peak is: FWHM = offset + slope · √(E + curve · E²), all in MeV.

    The form is that of MCNP's Gaussian energy broadening (LA-UR-03-1987, F8 tally treatment).
    ``least``: what the number of photoelectrons alone makes of it, FWHM over energy at 661.7 keV;
    it rules at low energy, where the form, fitted above 60 keV, would fall to nothing.
    """

    offset: float
    slope: float
    curve: float
    least: float = 0.0

    def fwhm_kev(self, energies_kev: Floats) -> Floats:
        """Return the full width at half maximum at each energy [keV]."""
        energy = np.maximum(np.asarray(energies_kev, dtype=float), 1.0) / 1e3
        width = self.offset + self.slope * np.sqrt(energy + self.curve * energy**2)
        floor = self.least * np.sqrt(energy * CAESIUM_KEV / 1e3)
        wide: Floats = 1e3 * np.maximum(width, floor)
        return wide

    @property
    def at_caesium(self) -> float:
        """Return the full width at half maximum over the energy at Cs-137's 661.7 keV."""
        return float(self.fwhm_kev(np.array(CAESIUM_KEV))) / CAESIUM_KEV

    def scaled(self, fraction_at_caesium: float) -> Resolution:
        """Return the same curve with that FWHM over energy at 661.7 keV, 0.07 for 7 %."""
        factor = fraction_at_caesium / self.at_caesium
        return replace(self, offset=self.offset * factor, slope=self.slope * factor)


RESOLUTIONS: dict[CrystalMaterial, Resolution] = {
    # A 3 × 3 inch NaI(Tl): C.M. Salgado et al., Progress in Nuclear Energy 59:19 (2012); then set
    # to 7.5 %, typical of the long portal crystals, whose four photoelectrons per keV make 5 %.
    "nai": Resolution(offset=-0.00789, slope=0.06769, curve=0.21159, least=0.05).scaled(0.075),
    # Statistics alone; a 1 cm³ CsI(Tl) on a silicon photomultiplier: 9.5 % by its data sheet.
    "csi": Resolution(offset=0.0, slope=1.0, curve=0.0).scaled(0.095),
    # 2.9 %: E.V.D. van Loef et al., Nucl. Instrum. Methods A 486:254 (2002).
    "labr3": Resolution(offset=0.0, slope=1.0, curve=0.0).scaled(0.029),
    # Some 20 % in large panels: E.R. Siciliano et al., Nucl. Instrum. Methods A 550:647 (2005).
    "pvt": Resolution(offset=0.0, slope=1.0, curve=0.0).scaled(0.20),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One crystal that looks at the lane with its largest face.

    ``sides_cm``: in any order; the shortest is its depth. ``resolution`` None: typical of the
    material. ``threshold_kev``: what deposits less is not counted. ``window`` and ``window_cm``:
    what stands before the crystal.
    """

    material: CrystalMaterial
    sides_cm: tuple[float, float, float]
    resolution: Resolution | None = None
    threshold_kev: float = 30.0
    window: str = "aluminium"
    window_cm: float = 0.1

    @property
    def box(self) -> Box:
        """Return the crystal as a body."""
        depth, width, length = sorted(self.sides_cm)
        return Box(
            material=MATERIALS[self.material], depth_cm=depth, width_cm=width, length_cm=length
        )

    def fwhm_kev(self, energies_kev: Floats) -> Floats:
        """Return the full width at half maximum of a peak at each energy [keV]."""
        return self._curve.fwhm_kev(energies_kev)

    @property
    def resolution_662(self) -> float:
        """Return the full width at half maximum over the energy at Cs-137's 661.7 keV."""
        return self._curve.at_caesium

    @property
    def _curve(self) -> Resolution:
        return RESOLUTIONS[self.material] if self.resolution is None else self.resolution


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Crystal:
    """What is the same for every energy grid: tables of one crystal."""

    box: Box
    after: Leaving
    first: Floats
    """(node, angle class): how likely a photon leaves after one scatter."""


@lru_cache(maxsize=8)
def _crystal(box: Box) -> _Crystal:
    return _Crystal(
        box=box,
        after=transport.leaving(box.material, box.flights(), as_sum=True),
        first=first_leaving(box, _NODES_KEV)[:, 0, :],
    )


def response(detector: Detector, edges_kev: Floats, energies_kev: Floats) -> Floats:
    """Return counts per photon that meets the crystal's face: (energy, bin).

    ``edges_kev``: (bin + 1,) of what is counted [keV]; ``energies_kev``: of the photons [keV],
    10 to 4600.
    """
    crystal = _crystal(detector.box)
    material = detector.box.material
    total = material.total_per_cm(energies_kev)
    struck = detector.box.struck(total)[:, 0] * window_share(detector, energies_kev)
    deposits, peaks = _deposits(crystal, energies_kev, total)
    fine = _blur(detector, _FINE_KEV, edges_kev)
    lost = _electrons_lost(detector.box, _FINE_KEV)[:, None]
    partly = _rising_means(fine)
    counted = deposits @ (fine * (1 - lost) + partly * lost)
    lost = _electrons_lost(detector.box, energies_kev)
    counted += (peaks * (1 - lost))[:, None] * _blur(detector, energies_kev, edges_kev)
    at = np.searchsorted(_FINE_EDGES_KEV, energies_kev, side="right") - 1
    counted += (peaks * lost)[:, None] * partly[at]
    counted += _x_ray_escapes(detector, energies_kev, total, edges_kev)
    above = np.clip((edges_kev[1:] - detector.threshold_kev) / np.diff(edges_kev), 0.0, 1.0)
    found: Floats = np.maximum(counted, 0.0) * struck[:, None] * above
    return found


def _electrons_lost(box: Box, deposits_kev: Floats) -> Floats:
    """Return how likely an electron of that energy leaves through the crystal's surface.

    Electrons that start evenly and fly straight as far as they get cross it with a quarter of
    surface over volume per length. Source of the range: L. Katz and A.S. Penfold, Rev. Mod. Phys.
    24:28 (1952).
    """
    energy = np.maximum(np.asarray(deposits_kev, dtype=float) / 1e3, 0.01)
    range_cm = 0.412 * energy ** (1.265 - 0.0954 * np.log(energy)) / box.material.density
    surface_per_volume = 2 * (1 / box.depth_cm + 1 / box.width_cm + 1 / box.length_cm)
    share: Floats = np.minimum(0.25 * surface_per_volume * range_cm, 0.5)
    return share


def _rising_means(fine: Floats) -> Floats:
    """Return where a deposit is counted of which any part, evenly, was carried off."""
    width = np.diff(_FINE_EDGES_KEV)[:, None]
    means: Floats = np.cumsum(fine * width, axis=0) / _FINE_EDGES_KEV[1:, None]
    return means


def window_share(detector: Detector, energies_kev: Floats) -> Floats:
    """Return the share of photons that the window lets through."""
    stopped = MATERIALS[detector.window].total_per_cm(energies_kev)
    share: Floats = np.exp(-stopped * detector.window_cm)
    return share


def _blur(detector: Detector, deposits_kev: Floats, edges_kev: Floats) -> Floats:
    """Return (deposit, bin): where a deposit is counted."""
    sigma = detector.fwhm_kev(deposits_kev) / SIGMAS_PER_FWHM
    below = ndtr((edges_kev[None, :] - deposits_kev[:, None]) / sigma[:, None])
    return np.diff(below, axis=1)


def _deposits(crystal: _Crystal, energies_kev: Floats, total: Floats) -> tuple[Floats, Floats]:
    """Return deposits where something escapes, (energy, fine bin), and the share of full ones."""
    material = crystal.box.material
    compton = material.compton_per_cm(energies_kev) / total
    pair = material.pair_per_cm(energies_kev) / total
    kept = scattered_kev(energies_kev, COSINE_EDGES)
    scatters = -np.diff(share_below(energies_kev, kept), axis=1)
    leaves = _between_nodes(crystal.first, energies_kev)
    once = compton[:, None] * scatters * leaves
    again = compton[:, None] * scatters * (1 - leaves)
    after = transport.to_groups(kept, again) @ crystal.after.kept[:, 0, :]
    after += pair[:, None] * _pair_escape(crystal.after)
    fine = np.empty((len(energies_kev), len(_FINE_KEV)))
    for i, energy in enumerate(energies_kev):
        at_once = _spread(energy - kept[i], once[i])
        # Groups above the photon's own energy hold nothing but what their width adds.
        later = _spread(np.maximum(energy - EDGES_KEV, 0.0)[::-1], after[i, ::-1])
        fine[i] = at_once + later
    photo = 1 - compton - pair
    return fine, photo + (again.sum(axis=1) + pair - after.sum(axis=1))


def _pair_escape(after: Leaving) -> Floats:
    """Return what escapes of the two photons of an annihilation inside, as ``kept`` does."""
    one = after.born[transport.group_of(ELECTRON_KEV)]
    both: Floats = transport.annihilation(one, as_sum=True)[0]
    return both


def _spread(edges_kev: Floats, amounts: Floats) -> Floats:
    """Return amounts between rising edges, each spread evenly, on the fine bins."""
    below = np.concatenate(([0.0], np.cumsum(amounts)))
    return np.diff(np.interp(_FINE_EDGES_KEV, edges_kev, below))


def _between_nodes(table: Floats, energies_kev: Floats) -> Floats:
    """Return the rows of a table over the nodes, carried to other energies."""
    at = np.interp(np.log(energies_kev), np.log(_NODES_KEV), np.arange(len(_NODES_KEV)))
    low = np.minimum(at.astype(int), len(_NODES_KEV) - 2)
    part = (at - low)[:, None]
    rows: Floats = table[low] * (1 - part) + table[low + 1] * part
    return rows


def _x_ray_escapes(
    detector: Detector, energies_kev: Floats, total: Floats, edges_kev: Floats
) -> Floats:
    """Return the escape peaks, less what they take from the full peak: (energy, bin).

    Source: P. Axel, Rev. Sci. Instrum. 25:391 (1954): a beam straight into a flat face.
    """
    material = detector.box.material
    change = np.zeros((len(energies_kev), len(edges_kev) - 1))
    for symbol, line_kev, per_photo in transport.x_ray_lines(material):
        photo = transport.element_photo_per_cm(material, symbol, energies_kev) / total
        ratio = float(material.total_per_cm(np.array(line_kev))) / total
        escape = photo * per_photo * 0.5 * (1 - ratio * np.log1p(1 / ratio))
        left = np.maximum(energies_kev - line_kev, 1.0)
        moved = _blur(detector, left, edges_kev) - _blur(detector, energies_kev, edges_kev)
        change += escape[:, None] * moved
    return change
