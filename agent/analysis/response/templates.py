"""Spectral shapes computed from nuclide data and a detector's size: no measured template.

A source's photons (``emission``) pass its shielding, reach the crystal straight or by way of
ground and walls, and are counted (``detector``). Shapes, not efficiencies: every template sums
to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response import emission
from agent.analysis.response.attenuation import MATERIALS
from agent.analysis.response.detector import Detector, response
from agent.analysis.response.emission import Emission, Shielding
from agent.analysis.response.library import Library
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.transport import CENTRES_KEV, EDGES_KEV, GROUPS

__all__ = [
    "SHIELDINGS",
    "Detector",
    "Shielding",
    "background_components",
    "monoenergetic",
    "templates",
]

Floats = NDArray[np.float64]

SCATTER_SHARE = 0.75
"""Photons that come back from the ground for each that goes straight to the detector, per photon
that the ground sends back of those that meet it.

Source and detector 1 m above a floor that scatters evenly, 2.5 m apart: d²/π times the integral
of h²/(r₁r₂)³ over the floor is 0.76, with r₁ and r₂ from a spot to either; 0.6 to 0.8 for other
heights and distances of a lane.
"""

SHIELDINGS: tuple[Shielding, ...] = (
    Shielding(name="Fe5", material="iron", thickness_cm=0.5),
    Shielding(name="Fe20", material="iron", thickness_cm=2.0),
    Shielding(name="Pb3", material="lead", thickness_cm=0.3),
    Shielding(name="Pb10", material="lead", thickness_cm=1.0),
    Shielding(name="Pb30", material="lead", thickness_cm=3.0),
    Shielding(name="PE100", material="polyethylene", thickness_cm=10.0, inner_cm=0.0),
)
"""What stands around a source beside nothing; names say material and thickness in mm."""

LEAST_SHARE = 1e-7
"""A shielding that lets less through [counts of the bare source] gives no template."""


def templates(
    detector: Detector,
    nuclides: NuclideTable,
    edges_kev: Floats,
    *,
    shieldings: Sequence[Shielding] = SHIELDINGS,
    scatter_share: float = SCATTER_SHARE,
) -> Library:
    """Return the shapes of every nuclide in each of its forms, bare and in each shielding.

    ``edges_kev``: (bin + 1,) of the energy grid [keV]. Names: "Cs-137", "Cs-137_Fe20",
    "U-235_metal", "U-235_metal-Fe20". Order: that of the nuclides, then forms, then shieldings.
    """
    names: list[str] = []
    sources: list[Emission] = []
    for nuclide in nuclides.nuclides:
        bare = [("", emission.of_nuclide(nuclide))]
        bare += [(form.name, emission.of_form(nuclide, form)) for form in nuclide.forms]
        for form_name, source in bare:
            names.append(_name(nuclide.name, form_name))
            sources.append(source)
            for shielding in shieldings:
                names.append(_name(nuclide.name, form_name, shielding.name))
                sources.append(emission.through_shell(source, shielding))
    counts = _counted(detector, sources, edges_kev, scatter_share)
    variants = 1 + len(shieldings)
    bare_counts = np.repeat(counts[::variants].sum(axis=1), variants)
    seen = np.flatnonzero(counts.sum(axis=1) > LEAST_SHARE * bare_counts)
    return _library([names[i] for i in seen], counts[seen], edges_kev)


def _name(nuclide: str, *parts: str) -> str:
    variant = "-".join(part for part in parts if part)
    return f"{nuclide}_{variant}" if variant else nuclide


def monoenergetic(
    detector: Detector,
    edges_kev: Floats,
    energies_kev: Sequence[float],
    scatters: Sequence[float],
) -> Library:
    """Return the shapes of photons of one energy each, with several degrees of scatter.

    ``scatters``: thickness of iron around the source [cm]; 0: straight photons, and none from the
    ground. Names: "662 keV_0", energy and degree.
    """
    names, rows = [], []
    for degree, thickness_cm in enumerate(scatters):
        sources = []
        for energy in energies_kev:
            line = Emission(
                lines_kev=np.array([float(energy)]),
                per_100=np.array([100.0]),
                continuum=np.zeros(GROUPS),
            )
            names.append(f"{energy:.0f} keV_{degree}")
            if thickness_cm > 0:
                shell = Shielding(name="", material="iron", thickness_cm=thickness_cm)
                line = emission.through_shell(line, shell)
            sources.append(line)
        share = SCATTER_SHARE if thickness_cm > 0 else 0.0
        rows.append(_counted(detector, sources, edges_kev, share))
    return _library(names, np.concatenate(rows), edges_kev)


def background_components(detector: Detector, edges_kev: Floats) -> Floats:
    """Return the shapes of K, U, Th and cosmic background: (4, bin), each sums to 1.

    Lines of the natural chains (ENSDF) sent out evenly in deep concrete, with all that scatters
    there and in the air above. The fourth is photons whose number falls as 1/E, with the
    annihilation line, fewer below 100 keV, where air takes them up: what is counted of them falls
    as E^-1.3 from 1 to 3 MeV, as the cosmic ratios of airborne surveys do (R.L. Grasty and
    B.R.S. Minty, AGSO Record 1995/60; figures unconfirmed).
    """
    grounds = [_from_ground(chain) for chain in _CHAINS]
    air = MATERIALS["water"]
    survives = air.compton_per_cm(CENTRES_KEV) / air.total_per_cm(CENTRES_KEV)
    falling = survives / CENTRES_KEV * np.diff(EDGES_KEV)
    cosmic = Emission(
        lines_kev=np.array([511.0]),
        per_100=np.array([0.02 * falling.sum()]),
        continuum=falling,
    )
    counts = _counted(detector, [*grounds, cosmic], edges_kev, 0.0)
    shapes: Floats = counts / counts.sum(axis=1, keepdims=True)
    return shapes


def _from_ground(lines: Sequence[tuple[float, float]]) -> Emission:
    energies = np.array([energy for energy, _ in lines])
    amounts = np.array([amount for _, amount in lines])
    return emission.out_of_ground(energies, amounts)


def _counted(
    detector: Detector, sources: Sequence[Emission], edges_kev: Floats, scatter_share: float
) -> Floats:
    """Return the counts of each source: (source, bin)."""
    lines = np.unique(np.concatenate([source.lines_kev for source in sources]))
    of_lines = response(detector, edges_kev, lines)
    of_groups = response(detector, edges_kev, CENTRES_KEV)
    rows = []
    for source in sources:
        continuum = source.continuum
        if scatter_share > 0:
            continuum = continuum + scatter_share * emission.surroundings(source)
        at = np.searchsorted(lines, source.lines_kev)
        rows.append(source.per_100 @ of_lines[at] + continuum @ of_groups)
    return np.array(rows)


def _library(names: Sequence[str], counts: Floats, edges_kev: Floats) -> Library:
    shapes = counts / counts.sum(axis=1, keepdims=True)
    shapes.flags.writeable = False
    return Library(names=tuple(names), shapes=shapes, edges_kev=edges_kev)


_POTASSIUM = ((1460.82, 10.66),)
_URANIUM = (
    (186.2, 3.5),
    (242.0, 7.26),
    (295.2, 18.5),
    (351.9, 35.7),
    (609.3, 45.4),
    (665.4, 1.53),
    (768.4, 4.89),
    (806.2, 1.26),
    (934.1, 3.10),
    (1120.3, 14.9),
    (1155.2, 1.63),
    (1238.1, 5.83),
    (1280.9, 1.43),
    (1377.7, 3.99),
    (1401.5, 1.33),
    (1408.0, 2.39),
    (1509.2, 2.13),
    (1661.3, 1.05),
    (1729.6, 2.88),
    (1764.5, 15.3),
    (1847.4, 2.03),
    (2118.5, 1.16),
    (2204.1, 4.92),
    (2447.7, 1.55),
)
_THORIUM = (
    (129.1, 2.5),
    (209.3, 3.89),
    (238.6, 43.6),
    (241.0, 4.1),
    (270.2, 3.46),
    (277.4, 2.37),
    (300.1, 3.30),
    (328.0, 2.95),
    (338.3, 11.3),
    (409.5, 1.92),
    (463.0, 4.40),
    (510.8, 8.12),
    (583.2, 30.5),
    (727.3, 6.67),
    (755.3, 1.00),
    (763.1, 0.64),
    (772.3, 1.49),
    (785.4, 1.10),
    (794.9, 4.25),
    (835.7, 1.61),
    (840.4, 0.91),
    (860.6, 4.49),
    (911.2, 25.8),
    (964.8, 4.99),
    (969.0, 15.8),
    (1078.6, 0.56),
    (1247.1, 0.50),
    (1459.1, 0.83),
    (1496.0, 0.86),
    (1580.5, 0.60),
    (1588.2, 3.22),
    (1620.5, 1.47),
    (1630.6, 1.51),
    (2614.5, 35.85),
)
_CHAINS: tuple[tuple[tuple[float, float], ...], ...] = (_POTASSIUM, _URANIUM, _THORIUM)
"""Photons [keV] per 100 decays of K-40, and of U-238 and Th-232 with all daughters (ENSDF)."""
