"""What a nuclide is to a detector: its photons, what it is used for, and what it looks like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Category = Literal["SNM", "industrial", "medical", "NORM"]
LineKind = Literal["gamma", "x-ray", "annihilation"]
LumpMaterial = Literal["uranium", "plutonium"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Photons of one energy, per 100 decays of the nuclide that heads the chain."""

    energy_kev: float
    per_100: float
    kind: LineKind = "gamma"


@dataclass(frozen=True, slots=True, kw_only=True)
class Beta:
    """Electrons up to one energy, per 100 decays; matter turns them into bremsstrahlung."""

    endpoint_kev: float
    per_100: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A shape in which a nuclide is met: mixed with others, or as a lump of its own metal.

    ``mixed``: the other nuclides and their decays per decay of this one. ``lines``, ``betas`` and
    ``fission_per_100``: of all of them together, as of a nuclide. ``lump``: the material that
    weakens its own photons, None: a thin source.
    """

    name: str
    lines: tuple[Line, ...]
    betas: tuple[Beta, ...] = ()
    fission_per_100: float = 0.0
    mixed: tuple[tuple[str, float], ...] = ()
    lump: LumpMaterial | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuclide:
    """One nuclide with what is in equilibrium with it.

    ``name``: "Cs-137", "Tc-99m". ``chain``: daughters whose photons are in ``lines``.
    ``alike``: the group it cannot be told apart from by its photons, None: it stands alone.
    ``has_neutrons``: it comes with neutrons. ``fission_per_100``: photons of spontaneous fission
    per 100 decays, besides its lines. ``forms``: other shapes in which it is met.
    ``source``: where the figures are from.
    """

    name: str
    category: Category
    half_life_s: float
    lines: tuple[Line, ...]
    source: str
    betas: tuple[Beta, ...] = ()
    chain: tuple[str, ...] = ()
    alike: str | None = None
    has_neutrons: bool = False
    fission_per_100: float = 0.0
    forms: tuple[Form, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NuclideTable:
    """All nuclides that are looked for, by name."""

    nuclides: tuple[Nuclide, ...]

    def __getitem__(self, name: str) -> Nuclide:
        """Return the nuclide of that name; KeyError: there is none."""
        for nuclide in self.nuclides:
            if nuclide.name == name:
                return nuclide
        raise KeyError(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Return every name in the table's order."""
        return tuple(nuclide.name for nuclide in self.nuclides)

    def category_of(self, name: str) -> Category:
        """Return what a nuclide is used for; KeyError: it is not in the table."""
        return self[name].category

    def group_of(self, name: str) -> str:
        """Return the group that a nuclide cannot be told apart from, or its own name."""
        return self[name].alike or name

    def group(self, name: str) -> tuple[str, ...]:
        """Return the names of that group; of a name that is no group, the name itself."""
        return tuple(n.name for n in self.nuclides if n.alike == name) or (name,)

    def without(self, *names: str) -> NuclideTable:
        """Return the table without those nuclides."""
        return NuclideTable(nuclides=tuple(n for n in self.nuclides if n.name not in names))
