"""Compton scatter: what energy a photon keeps, and how often.

Source: O. Klein and Y. Nishina, Z. Phys. 52:853 (1929), free electrons at rest. Energies of the
scattered photon follow from its angle, so one integral over energy serves both.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response.attenuation import ELECTRON_KEV

Floats = NDArray[np.float64]


def scattered_kev(energies_kev: Floats, cosines: Floats) -> Floats:
    """Return the energy after a scatter by each angle: (energy, angle) [keV]."""
    energies = np.asarray(energies_kev, dtype=float)[:, None]
    kept: Floats = energies / (1 + energies / ELECTRON_KEV * (1 - cosines[None, :]))
    return kept


def share_below(energies_kev: Floats, kept_kev: Floats) -> Floats:
    """Return the share of scatters of each energy that keep at most ``kept_kev``.

    ``energies_kev``: (energy,) [keV]; ``kept_kev``: (energy or 1, any) [keV]; the share is 0 below
    the energy of a photon scattered straight back, 1 from the energy itself.
    """
    energies = np.asarray(energies_kev, dtype=float)[:, None]
    lowest = energies / (1 + 2 * energies / ELECTRON_KEV)
    kept = np.clip(kept_kev, lowest, energies)
    floor = _integral(energies, lowest)
    share: Floats = (_integral(energies, kept) - floor) / (_integral(energies, energies) - floor)
    return share


def _integral(energies: Floats, kept: Floats) -> Floats:
    """Return an integral, over the energy kept, of the differential cross-section (unscaled)."""
    # dσ/dE' is proportional to E/E' + E'/E - sin²θ, and cosθ = shift - rest / E'.
    shift, rest = 1 + ELECTRON_KEV / energies, ELECTRON_KEV
    log = np.log(kept)
    cosine_squared = shift**2 * kept - 2 * shift * rest * log - rest**2 / kept
    total: Floats = energies * log + kept**2 / (2 * energies) - kept + cosine_squared
    return total
