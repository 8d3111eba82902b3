"""What a file of passages is searched for: computed templates, or a library file's; and names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection.model import Shapes, Verdict
from agent.analysis.detection.selection import chosen
from agent.analysis.energy.scale import rebin_matrix
from agent.analysis.identification.hypotheses import COMPUTED, MATCHED, candidates
from agent.analysis.identification.knowledge import knowledge_of
from agent.analysis.response.detector import Detector
from agent.analysis.response.library import Library
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import templates
from agent.analysis.sought import looked_for, named_among, shapes_among, window_shapes
from agent.config.options import did_you_mean
from agent.lane.options.spectral import SpectralOptions, SpectralRules
from agent.lane.spectra.naming import Named, named
from agent.tools.evaluate.passes import LibraryFile, PassesError
from agent.tools.evaluate.spectra import Summed

Floats = NDArray[np.float64]

_NUCLIDE = re.compile(r"([A-Z][a-z]?)-?(\d{1,3}m?)")


def nuclide_of_source(name: str) -> str:
    """Return "Cs-137" for "Cs137_Shielded" or "Cs-137"; a name of another kind up to its "_"."""
    found = _NUCLIDE.match(name)
    return f"{found[1]}-{found[2]}" if found else name.partition("_")[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sought:
    """What is looked for, and with what: ``library`` None: templates are computed."""

    detector: Detector
    nuclides: NuclideTable
    library: LibraryFile | None = None
    exclude: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Targets:
    """Shapes for detection; ``rules`` for naming, as a lane has them. None: windows name none."""

    shapes: Shapes
    rules: SpectralRules | None


def targets(grid_kev: Floats | None, background: Floats, sought: Sought, slice_s: float) -> Targets:
    """Return what is looked for over a background (bin,).

    Raises PassesError for a library that holds nothing to look for, or an excluded nuclide that
    nothing knows.
    """
    library = sought.library
    if grid_kev is None:
        if library is not None:
            raise PassesError("a library has energies, the windows of this file have none")
        return Targets(shapes=window_shapes(len(background)), rules=None)
    excluded = _excluded(sought)
    everything = templates(sought.detector, sought.nuclides, grid_kev)
    shapes = shapes_among(everything, sought.detector, sought.nuclides, background, excluded)
    if library is not None:
        natural = {n.name for n in sought.nuclides.nuclides if n.category == "NORM"}
        given = library_on(library, grid_kev)
        known = _without(given, {*natural, *excluded})
        if not known.names:
            raise PassesError("the library holds no source that is looked for")
        shapes = replace(shapes, library=looked_for(known, sought.nuclides, background))
        everything = _joined(_without(everything, set(given.nuclides)), given)
    rules = SpectralRules(
        options=SpectralOptions(slice_s=slice_s, exclude=tuple(excluded)),
        shapes=shapes,
        known=candidates(
            named_among(everything, background, excluded),
            knowledge_of(sought.nuclides),
            replace(
                COMPUTED if library is None else MATCHED,
                resolution_662=sought.detector.resolution_662,
            ),
        ),
        energies={},
        model=None,
        calibration=None,
    )
    return Targets(shapes=shapes, rules=rules)


def _excluded(sought: Sought) -> list[str]:
    known = set(sought.nuclides.names)
    if sought.library is not None:
        known |= {nuclide_of_source(name) for name in sought.library.names}
    wanted = [name if name in known else nuclide_of_source(name) for name in sought.exclude]
    for name in wanted:
        if name not in known:
            text = f"--exclude {name}: there is no such nuclide"
            raise PassesError(f"{text}; {did_you_mean(name, sorted(known))}")
    return wanted


def library_on(file: LibraryFile, grid_kev: Floats) -> Library:
    """Return the shapes of a library file on a grid, named as ours: "Cs-137_Shielded"."""
    shapes = file.net_cps @ rebin_matrix(file.edges_kev, grid_kev)
    names, rows = [], []
    for name, shape in zip(file.names, shapes, strict=True):
        if not shape.sum() > 0:
            continue
        rest = name.partition("_")[2]
        nuclide = nuclide_of_source(name)
        names.append(f"{nuclide}_{rest}" if rest else nuclide)
        rows.append(shape / shape.sum())
    if not names:
        raise PassesError("the library holds no source in this file's energy range")
    return Library(names=tuple(names), shapes=np.array(rows), edges_kev=grid_kev)


def _without(library: Library, nuclides: set[str]) -> Library:
    kept = [i for i, name in enumerate(library.nuclides) if name not in nuclides]
    return chosen(library, np.array(kept, dtype=np.intp))


def _joined(first: Library, second: Library) -> Library:
    return Library(
        names=first.names + second.names,
        shapes=np.concatenate([first.shapes, second.shapes]),
        edges_kev=first.edges_kev,
    )


def name_of(rules: SpectralRules, test: Summed, verdict: Verdict, index: int) -> Named:
    """Return what a test passage is called; the lane's own naming on the slices that count."""
    expected = np.broadcast_to(test.expected[index], test.counts[index].shape)
    real = np.flatnonzero(expected.sum(axis=1) > 0)
    last = int(real[-1]) + 1
    slices = [(test.counts[index, at], expected[at]) for at in range(last)]
    fields = {name: getattr(verdict, name)[index] for name in Verdict.__slots__}
    return named(slices, float(test.background_s[index]), Verdict(**fields), rules)
