"""What the identification benchmark judges with: the lane, its templates, and when it detects."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from identification_passes import BACKGROUND_S, SLICE_S, Floats, Pass, World, one_pass, world

from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.identification.courses import Passage, locate
from agent.analysis.identification.hypotheses import COMPUTED, MATCHED, Candidates, candidates
from agent.analysis.identification.knowledge import knowledge_of
from agent.analysis.response.detector import Detector
from agent.analysis.response.library import Library, nuclide_of
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import background_components, templates
from agent.analysis.sought import NORM, named_among
from agent.config.nuclides import load_nuclides

GATE = 1e-3  # false alarms a benign pass
DEVELOPMENT_SEED, JUDGING_SEED = 1000, 9800
DETECTOR = Detector(material="nai", sides_cm=(5.08, 10.16, 40.64))
_ALIASES = {"Tl201wTl202": "Tl201", "Tl201woTl202": "Tl201", "Am241Li": "Am241"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """One way to have templates. ``gate``: the score a pass must exceed to count as detected."""

    name: str
    known: Candidates
    components: Floats
    gate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """What all passes share. ``library``: the spectra that make the passes, as templates."""

    world: World
    nuclides: NuclideTable
    library: Library


def name_of(spectrum: str) -> str:
    """Return the template's name of a spectrum: "Cs137_Shielded" is "Cs-137_Shielded"."""
    head, _, shielding = spectrum.partition("_")
    if head == "Uore":
        return f"U-ore_{shielding}"
    symbol = re.fullmatch(r"([A-Z][a-z]?)(\d+m?)", _ALIASES.get(head, head))
    if symbol is None:
        raise SystemExit(f"spectrum {spectrum} names no nuclide")
    return f"{symbol[1]}-{symbol[2]}_{shielding}" + (f"-{head}" if head in _ALIASES else "")


def truth_of(spectrum: str) -> str:
    """Return the nuclide of a spectrum."""
    return nuclide_of(name_of(spectrum))


def passage_of(one: Pass) -> Passage:
    """Return what identification is given of a pass."""
    slices = BACKGROUND_S / SLICE_S
    return Passage(
        slices=one.counts,
        background=(one.background_counts + 0.5) / slices,
        background_slices=slices,
        slice_s=SLICE_S,
    )


def lane_of(spectra: Path) -> Lane:
    """Return the lane that a library of long spectra makes."""
    made = world(spectra, sqrt_grid())
    nuclides = load_nuclides()
    rows = [i for i, n in enumerate(made.names) if truth_of(n) in nuclides.names]
    shapes = made.sources[rows, made.sources.shape[1] // 2]
    library = Library(
        names=tuple(name_of(made.names[i]) for i in rows),
        shapes=shapes / shapes.sum(axis=1, keepdims=True),
        edges_kev=made.edges_kev,
    )
    return Lane(world=made, nuclides=nuclides, library=library)


def matched(lane: Lane) -> Arm:
    """Return the templates that made the passes."""
    middle = lane.world.background_cps.shape[1] // 2
    known = candidates(lane.library, knowledge_of(lane.nuclides), MATCHED)
    return Arm(name="matched", known=known, components=lane.world.background_cps[:3, middle])


def computed(nuclides: NuclideTable, edges_kev: Floats, detector: Detector = DETECTOR) -> Arm:
    """Return the templates that a lane without measured ones has, made ready as a lane does."""
    background = background_components(detector, edges_kev).sum(axis=0)
    every = templates(detector, nuclides, edges_kev)
    limits = replace(COMPUTED, resolution_662=detector.resolution_662)
    known = candidates(named_among(every, background), knowledge_of(nuclides), limits)
    natural = every.shapes[[every.names.index(name) for name in NORM]]
    return Arm(name="computed", known=known, components=natural)


def gated(lane: Lane, arm: Arm, benign: int) -> Arm:
    """Return the arm with the gate that one benign development pass in a thousand exceeds."""
    rng = np.random.default_rng(DEVELOPMENT_SEED)
    z = [
        locate(passage_of(one_pass(lane.world, (), rng)), arm.components, arm.known).z
        for _ in range(benign)
    ]
    return replace(arm, gate=float(np.quantile(z, 1 - GATE)))
