"""What is known of nuclides beside their shapes: use, look-alikes, how often met, lines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.analysis.response.nuclides import NuclideTable

UNKNOWN = "unknown"

_LINES = 8

# Most of what a lane meets: gauges, radiography, nuclear medicine, natural cargo.
_OFTEN = """
    Am-241 Co-60 Cs-137 Ir-192
    F-18 I-131 Tc-99m Tl-201
    K-40 Ra-226 Th-232
"""
# The rest of the portal standards' lists (ANSI N42.38, unconfirmed) and of present medicine.
_LISTED = """
    Np-237 Pu-239 U-233 U-235 U-238
    Am-241-Be Ba-133 Bi-207 Cd-109 Cf-252 Co-57 Eu-152 Mn-54 Na-22 Se-75 Th-228
    Ac-225 Cr-51 Cu-64 Ga-67 Ga-68 I-123 I-124 In-111 Lu-177 Mo-99 Ra-223 Rb-82 Re-186 Re-188
    Sm-153 Xe-133 Zr-89
    U-ore
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Knowledge:
    """What is known of nuclides; each mapping is by nuclide.

    ``category``: SNM, industrial, medical or NORM; missing: unknown. ``group``: name shared by
    nuclides that a scintillator cannot tell apart; missing: the nuclide alone. ``prior``: how
    likely against others; missing: 1. ``lines``: energies of the strongest lines [keV].
    """

    category: Mapping[str, str]
    group: Mapping[str, str] = field(default_factory=dict)
    prior: Mapping[str, float] = field(default_factory=dict)
    lines: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def group_of(self, nuclide: str) -> str:
        """Return the group's name, or the nuclide's own."""
        return self.group.get(nuclide, nuclide)

    def category_of(self, nuclide: str) -> str:
        """Return the category of a nuclide."""
        return self.category.get(nuclide, UNKNOWN)


def knowledge_of(table: NuclideTable) -> Knowledge:
    """Return what the nuclide table knows, and the priors: 3 often met, 1 listed, 0.1 seldom.

    The priors are a judgement, stated here because every confidence rests on them.
    """
    often, listed = _OFTEN.split(), _LISTED.split()
    prior = {name: 3.0 if name in often else 1.0 if name in listed else 0.1 for name in table.names}
    lines = {
        nuclide.name: tuple(
            line.energy_kev
            for line in sorted(nuclide.lines, key=lambda line: -line.per_100)
            if line.kind != "x-ray"
        )[:_LINES]
        for nuclide in table.nuclides
    }
    return Knowledge(
        category={name: table.category_of(name) for name in table.names},
        group={name: table.group_of(name) for name in table.names},
        prior=prior,
        lines=lines,
    )
