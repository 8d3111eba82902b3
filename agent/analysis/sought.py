"""What a lane looks for, computed from nuclide data: library, single energies, K, U and Th."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection.model import Shapes
from agent.analysis.detection.selection import chosen, pruned, representative, spread
from agent.analysis.energy.scale import on_grid
from agent.analysis.identification.knowledge import knowledge_of
from agent.analysis.response.detector import Detector
from agent.analysis.response.library import Library
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import monoenergetic, templates

Floats = NDArray[np.float64]

NORM = ("K-40", "Ra-226", "Th-232")
LOADS = (*NORM, *(f"{name}_Fe20" for name in NORM))
"""A load takes up what its inside sends out: 2 cm of iron are 16 g/cm², about a mean free path of
1.5 MeV photons in anything."""
OFF_SCALE = 0.015
"""A load is hot enough to show that an energy scale is off; each shape stands this far to either
side, so that their sums and differences reach whatever lies between."""
TEMPLATES = 150
ENERGIES_KEV = tuple(float(e) for e in np.geomspace(40.0, 2700.0, 60))
SCATTER_CM = (0.0, 1.0, 4.0)
SINGLES = 100
NAMED_ALIKE = 0.99
WINDOW_EDGES_KEV = (60.0, 3000.0)
"""A plastic portal's windows share out about this range; their limits are not published."""
WINDOW_SLOPES = (0.2, 0.35, 0.5, 0.75)
"""Of a soft source each window holds so much of the one below it."""


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
    singles = monoenergetic(detector, everything.edges_kev, ENERGIES_KEV, SCATTER_CM)
    norm, taken_up = (
        chosen(everything, np.array([everything.names.index(name) for name in names]))
        for names in (NORM, LOADS)
    )
    return Shapes(
        library=looked_for(chosen(everything, np.array(sought)), nuclides, background),
        dictionary=spread(singles, background, SINGLES),
        norm=norm,
        loads=_off_scale(taken_up),
    )


def _off_scale(library: Library) -> Library:
    """Return each shape twice, as energy scales would show it that read too low and too high."""
    edges = library.edges_kev
    shown = np.array(
        [
            on_grid(shape, edges * (1.0 + side * OFF_SCALE), edges)
            for shape in library.shapes
            for side in (-1, 1)
        ]
    )
    return Library(
        names=tuple(f"{name} {side}" for name in library.names for side in ("low", "high")),
        shapes=shown / shown.sum(axis=1, keepdims=True),
        edges_kev=edges,
    )


def looked_for(library: Library, nuclides: NuclideTable, background: Floats) -> Library:
    """Return the templates of a library that detection uses: TEMPLATES that stand best for all.

    A template is as likely as its nuclide, shared by all of the nuclide's templates.
    """
    library = pruned(library, background)
    prior, each = knowledge_of(nuclides).prior, library.nuclides
    chances = np.array([prior.get(name, 1.0) / each.count(name) for name in each])
    return representative(library, background, TEMPLATES, chances)


def named_among(everything: Library, background: Floats, exclude: Collection[str] = ()) -> Library:
    """Return what identification names: every nuclide, without near-copies of its own."""
    kept = [i for i, name in enumerate(everything.nuclides) if name not in exclude]
    return pruned(chosen(everything, np.array(kept)), background, at_most=NAMED_ALIKE)


def window_shapes(count: int) -> Shapes:
    """Return the shapes for a plastic portal's energy windows, low to high.

    Plastic shows no peaks: a source is soft or hard, its shape a falling or rising series of
    windows. The dictionary holds the single windows and their neighbours. K, U and Th fill the
    windows nearly evenly, the harder the higher.
    """
    if count < 1:
        raise ValueError(f"{count} windows; there is at least one")
    edges = np.geomspace(*WINDOW_EDGES_KEV, count + 1)
    number = np.arange(count)
    soft = [(f"soft_{slope:g}", slope**number) for slope in WINDOW_SLOPES]
    hard = [("even_1", np.ones(count)), ("hard_2", 2.0**number)]
    single = [(f"window {i + 1}_1", np.eye(count)[i]) for i in range(count)]
    pairs = [
        (f"window {i + 1}_2", np.eye(count)[i] + np.eye(count)[i + 1]) for i in range(count - 1)
    ]
    norm = [
        (name, slope**number) for name, slope in (("K-40", 0.9), ("Ra-226", 0.7), ("Th-232", 1.1))
    ]
    library, dictionary, natural = (
        Library(
            names=tuple(name for name, _ in each),
            shapes=np.array([shape / shape.sum() for _, shape in each]),
            edges_kev=edges,
        )
        for each in ([*soft, *hard], [*single, *pairs], norm)
    )
    return Shapes(library=library, dictionary=dictionary, norm=natural, loads=natural)
