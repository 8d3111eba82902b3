"""A small Monte Carlo of photons: a second way to what ``agent.analysis`` computes without chance.

It shares the attenuation coefficients and nothing else: it follows single photons, samples the
Compton angle by H. Kahn's rejection (RAND AECU-3259, 1954) and knows no groups, layers or angles.
"""

from __future__ import annotations

import numpy as np

REST_KEV = 511.0


def deposits(material, sides_cm, energy_kev, photons, seed):
    """Return the energy each photon leaves in a box that it enters straight through its face."""
    rng = np.random.default_rng(seed)
    place = np.zeros((photons, 3))
    place[:, 1:] = (rng.random((photons, 2)) - 0.5) * np.array(sides_cm[1:])
    heading = np.tile([1.0, 0.0, 0.0], (photons, 1))
    energy = np.full(photons, float(energy_kev))
    left = np.zeros(photons)
    alive = np.arange(photons)
    low = np.array([0.0, -sides_cm[1] / 2, -sides_cm[2] / 2])
    high = np.array([sides_cm[0], sides_cm[1] / 2, sides_cm[2] / 2])
    while len(alive):
        total = material.total_per_cm(energy[alive])
        place[alive] += heading[alive] * (rng.exponential(size=len(alive)) / total)[:, None]
        inside = np.all((place[alive] > low) & (place[alive] < high), axis=1)
        alive = alive[inside]
        alive = _collide(material, rng, energy, heading, left, alive)
    return left


def leaving_shell(material, inner_cm, thickness_cm, energy_kev, photons, seed):
    """Return the energies of photons that leave a shell around a point source."""
    rng = np.random.default_rng(seed)
    place = np.tile([inner_cm, 0.0, 0.0], (photons, 1))
    heading = np.tile([1.0, 0.0, 0.0], (photons, 1))
    energy = np.full(photons, float(energy_kev))
    left = np.zeros(photons)
    alive = np.arange(photons)
    gone = []
    while len(alive):
        total = material.total_per_cm(energy[alive])
        wanted = rng.exponential(size=len(alive)) / total
        place[alive] += (
            heading[alive]
            * _through_hollow(place[alive], heading[alive], wanted, inner_cm)[:, None]
        )
        out = np.linalg.norm(place[alive], axis=1) > inner_cm + thickness_cm
        gone.append(energy[alive[out]])
        alive = _collide(material, rng, energy, heading, left, alive[~out])
    return np.concatenate(gone)


def _through_hollow(place, heading, wanted, inner_cm):
    """Return how far a photon goes to fly ``wanted`` in the material, the hollow for nothing."""
    along = np.sum(place * heading, axis=1)
    passing_squared = np.sum(place**2, axis=1) - along**2
    half = np.sqrt(np.maximum(inner_cm**2 - passing_squared, 0.0))
    to_hollow = np.maximum(-along - half, 0.0)
    crosses = (half > 0) & (along < 0) & (wanted > to_hollow)
    return wanted + np.where(crosses, 2 * half, 0.0)


def _collide(material, rng, energy, heading, left, alive):
    compton = material.compton_per_cm(energy[alive]) / material.total_per_cm(energy[alive])
    scatters = rng.random(len(alive)) < compton
    taken = alive[~scatters]
    left[taken] += energy[taken]
    going = alive[scatters]
    kept, cosine = _kahn(energy[going], rng)
    left[going] += energy[going] - kept
    energy[going] = kept
    heading[going] = _turned(heading[going], cosine, 2 * np.pi * rng.random(len(going)))
    slow = energy[going] < 12.0
    left[going[slow]] += energy[going[slow]]
    return going[~slow]


def _kahn(energy_kev, rng):
    k = energy_kev / REST_KEV
    ratio = np.empty_like(k)
    open_ = np.arange(len(k))
    while len(open_):
        a = k[open_]
        r1, r2, r3 = rng.random((3, len(open_)))
        first = r1 <= (1 + 2 * a) / (9 + 2 * a)
        x = np.where(first, 1 + 2 * a * r2, (1 + 2 * a) / (1 + 2 * a * r2))
        good = np.where(
            first,
            r3 <= 4 * (1 / x - 1 / x**2),
            r3 <= 0.5 * ((1 / a - x / a + 1) ** 2 + 1 / x),
        )
        ratio[open_[good]] = x[good]
        open_ = open_[~good]
    return energy_kev / ratio, 1 - (ratio - 1) / k


def _turned(heading, cosine, turn):
    sine = np.sqrt(np.maximum(1 - cosine**2, 0.0))
    helper = np.where(np.abs(heading[:, :1]) < 0.9, [[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]])
    across = np.cross(heading, helper)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    third = np.cross(heading, across)
    side = np.cos(turn)[:, None] * across + np.sin(turn)[:, None] * third
    return cosine[:, None] * heading + sine[:, None] * side
