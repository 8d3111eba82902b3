"""What a lane looks for, computed from nuclide data: library, single energies, K, U and Th."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detector import Detector
from agent.analysis.library import Library
from agent.analysis.model import Shapes
from agent.analysis.nuclides import NuclideTable
from agent.analysis.response import monoenergetic, templates
from agent.analysis.selection import chosen, pruned, spread

Floats = NDArray[np.float64]

NORM = ("K-40", "Ra-226", "Th-232")
TEMPLATES = 200
ENERGIES_KEV = tuple(float(e) for e in np.geomspace(40.0, 2700.0, 60))
SCATTER_CM = (0.0, 1.0, 4.0)
SINGLES = 100
NAMED_ALIKE = 0.99


def computed_shapes(
    detector: Detector,
    nuclides: NuclideTable,
    edges_kev: Floats,
    background: Floats,
    exclude: Collection[str] = (),
) -> Shapes:
    """Return the shapes for a detector over a background (bin,) of any scale.

    NORM is no source here: it stands among the nuisances, and is decided by itself. ``exclude``
    names nuclides that are not looked for; single energies still see what they send out.
    """
    everything = templates(detector, nuclides, edges_kev)
    return shapes_among(everything, detector, nuclides, background, exclude)


def shapes_among(
    everything: Library,
    detector: Detector,
    nuclides: NuclideTable,
    background: Floats,
    exclude: Collection[str] = (),
) -> Shapes:
    """Return what detection looks for among all templates; see ``computed_shapes``."""
    natural = {n.name for n in nuclides.nuclides if n.category == "NORM"}
    sought = [
        i
        for i, name in enumerate(everything.nuclides)
        if name not in natural and name not in exclude
    ]
    library = pruned(chosen(everything, np.array(sought)), background)
    library = spread(library, background, TEMPLATES)
    singles = monoenergetic(detector, everything.edges_kev, ENERGIES_KEV, SCATTER_CM)
    norm = chosen(everything, np.array([everything.names.index(name) for name in NORM]))
    return Shapes(library=library, dictionary=spread(singles, background, SINGLES), norm=norm)


def named_among(everything: Library, background: Floats, exclude: Collection[str] = ()) -> Library:
    """Return what identification names: every nuclide, without near-copies of its own."""
    kept = [i for i, name in enumerate(everything.nuclides) if name not in exclude]
    return pruned(chosen(everything, np.array(kept)), background, at_most=NAMED_ALIKE)
