"""What the spectrum of one passage is called: nuclides, category, spread over the load or not."""

from __future__ import annotations

from dataclasses import dataclass

from agent.analysis.library import nuclide_of
from agent.analysis.model import STATISTICS, Verdict
from agent.lane.options import SpectralRules
from agent.lane.state import PassSpectra
from agent.records import Category, NuclideNamed


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """The name of what was found; ``norm`` None: not judged."""

    category: Category
    nuclides: tuple[NuclideNamed, ...]
    norm: bool | None
    extent_s: float | None
    reasons: tuple[str, ...] = ()


def named(passage: PassSpectra, found: Verdict, rules: SpectralRules) -> Named:
    """Return the name of what a passage shows."""
    statistic = STATISTICS[int(found.statistic)]
    extent_s = round(2.0 * float(found.half_width_s), 2)
    if statistic != "score":
        return Named(category="unknown", nuclides=(), norm=None, extent_s=extent_s)
    name = nuclide_of(rules.shapes.library.names[int(found.template)])
    category = rules.categories[name]
    assert category in {"SNM", "industrial", "medical", "NORM", "unknown"}
    nuclides = (NuclideNamed(name=name, confidence=None),)
    return Named(category=category, nuclides=nuclides, norm=None, extent_s=extent_s)  # type: ignore[arg-type]  # asserted above
