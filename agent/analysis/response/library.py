"""A library: the spectral shapes that detection and identification look for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Library:
    """Spectral shapes on one energy grid.

    ``names``: nuclide, then the shielding after an underscore ("Cs-137", "Cs-137_Fe20").
    ``shapes``: (template, bin), read-only, each sums to 1. ``edges_kev``: (bin + 1,) [keV].
    """

    names: tuple[str, ...]
    shapes: NDArray[np.float64]
    edges_kev: NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.shapes.shape != (len(self.names), len(self.edges_kev) - 1):
            message = f"{len(self.names)} names and {len(self.edges_kev)} edges do not fit shapes"
            raise ValueError(f"{message} {self.shapes.shape}")

    @property
    def nuclides(self) -> tuple[str, ...]:
        """Return the nuclide of each template."""
        return tuple(nuclide_of(name) for name in self.names)

    def without(self, nuclide: str) -> Library:
        """Return the library without every template of a nuclide."""
        kept = [i for i, name in enumerate(self.nuclides) if name != nuclide]
        return Library(
            names=tuple(self.names[i] for i in kept),
            shapes=self.shapes[kept],
            edges_kev=self.edges_kev,
        )


def nuclide_of(name: str) -> str:
    """Return the nuclide of a template's name: what stands before the underscore."""
    return name.partition("_")[0]
