"""The methods the pipeline is measured against, on the same passages in the same run.

Each takes summed spectra (pass, slice, bin) and the background of the 30 s before (pass, bin), is
taught by the same benign passages, and gives one figure a passage; larger is more like a source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from detection_passes import BACKGROUND_S, SLICE_S
from numpy.typing import NDArray

from agent.analysis.detection import score as detect
from agent.analysis.detection.nuisance import Nuisance, cosines

Floats = NDArray[np.float64]

SECOND = round(1.0 / SLICE_S)
COMPONENTS = 5
ITERATIONS = 150
MORE_ITERATIONS = 50
CHUNK = 500


def sums(counts: Floats, span: int) -> Floats:
    """Return sums over so many slices at each place: (pass, place, bin)."""
    below = np.cumsum(np.pad(counts, ((0, 0), (1, 0), (0, 0))), axis=1)
    moving: Floats = below[:, span:] - below[:, :-span]
    return moving


def gross(counts: Floats, background: Floats) -> Floats:
    """Return the largest k-sigma of the gross count over 1 s, with the background's own noise."""
    observed = sums(counts.sum(axis=2, keepdims=True), SECOND)[..., 0]
    expected = (background.sum(axis=1) / BACKGROUND_S)[:, None]
    z: Floats = (observed - expected) / np.sqrt(expected + expected / BACKGROUND_S)
    largest: Floats = z.max(axis=1)
    return largest


def windows(edges_kev: Floats, bounds_kev: tuple[float, ...]) -> Floats:
    """Return (bin, window): which bins belong to which window."""
    centre = 0.5 * (edges_kev[:-1] + edges_kev[1:])
    place = np.clip(np.searchsorted(bounds_kev, centre), 1, len(bounds_kev) - 1) - 1
    member: Floats = np.eye(len(bounds_kev) - 1)[place]
    return member


def window_ratio(counts: Floats, background: Floats, edges_kev: Floats) -> Floats:
    """Return the largest excess of any of four windows' share of the counts over 1 s, in sigma."""
    member = windows(edges_kev, (0.0, 150.0, 400.0, 1200.0, 1e9))
    observed = sums(counts, SECOND) @ member
    share = (background @ member) / background.sum(axis=1, keepdims=True)
    total = observed.sum(axis=2, keepdims=True)
    expected = share[:, None]
    spread = np.sqrt(expected * (1 - expected) * total)
    z: Floats = (observed - expected * total) / spread
    largest: Floats = z.max(axis=(1, 2))
    return largest


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Comparison:
    """Spectral comparison ratios: twelve windows, contrasts that vanish for a scaled background."""

    member: Floats
    inverse: tuple[Floats, ...]

    @classmethod
    def learn(cls, counts: Floats, background: Floats, edges_kev: Floats) -> Comparison:
        """Return the test with the contrasts' covariance in benign traffic."""
        member = windows(edges_kev, tuple(np.geomspace(35.0, 2800.0, 13)))
        inverse: list[Floats] = []
        for span in (SECOND, 2 * SECOND):
            alpha = cls._contrasts(counts, background, member, span)[:, ::SECOND]
            flat = alpha.reshape(-1, alpha.shape[2])
            spread = np.linalg.pinv(flat.T @ flat / len(flat)).astype(float)
            inverse.append(spread)
        return cls(member=member, inverse=tuple(inverse))

    @staticmethod
    def _contrasts(counts: Floats, background: Floats, member: Floats, span: int) -> Floats:
        observed = sums(counts, span) @ member
        empty = background @ member
        share = (empty / empty.sum(axis=1, keepdims=True))[:, None]
        total = observed.sum(axis=2, keepdims=True)
        alpha: Floats = (observed - share * total) / np.sqrt(share * total)
        return alpha[..., :-1]  # the last follows from the others

    def score(self, counts: Floats, background: Floats) -> Floats:
        """Return the largest squared distance over 1 and 2 s."""
        best = np.full(len(counts), -np.inf)
        for span, inverse in zip((SECOND, 2 * SECOND), self.inverse, strict=True):
            alpha = self._contrasts(counts, background, self.member, span)
            best = np.maximum(best, ((alpha @ inverse) * alpha).sum(axis=2).max(axis=1))
        return best


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Principal:
    """Spectral anomaly: what the leading principal components of benign spectra leave."""

    scale: Floats
    components: Floats

    @classmethod
    def learn(cls, counts: Floats) -> Principal:
        """Return the components of benign 1 s spectra, whitened by their mean."""
        spectra = sums(counts, SECOND)[:, ::SECOND].reshape(-1, counts.shape[2])
        scale = np.sqrt(np.maximum(spectra.mean(axis=0), 1e-9))
        white = spectra / scale
        _, vectors = np.linalg.eigh(white.T @ white / len(white))
        return cls(scale=scale, components=vectors[:, ::-1][:, :COMPONENTS])

    def score(self, counts: Floats) -> Floats:
        """Return the largest residual over 1 and 2 s, per count of noise."""
        best = np.full(len(counts), -np.inf)
        for span in (SECOND, 2 * SECOND):
            spectra = sums(counts, span)
            white = spectra / self.scale / np.sqrt(span / SECOND)
            left = white - (white @ self.components) @ self.components.T
            noise = spectra.sum(axis=2) / (self.scale**2).sum() / (span / SECOND)
            best = np.maximum(best, ((left**2).sum(axis=2) / noise).max(axis=1))
        return best


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Factored:
    """Non-negative factors of benign spectra; with a template: a likelihood ratio."""

    factors: Floats

    @classmethod
    def learn(cls, counts: Floats, seed: int) -> Factored:
        """Return unit-sum factors (component, bin) by Poisson multiplicative updates."""
        rng = np.random.default_rng(seed)
        spectra = sums(counts, SECOND)[:, ::SECOND].reshape(-1, counts.shape[2])
        chosen = spectra[rng.choice(len(spectra), min(4000, len(spectra)), replace=False)]
        factors = rng.uniform(0.5, 1.5, (COMPONENTS, counts.shape[2])) * chosen.mean(axis=0)
        factors /= factors.sum(axis=1, keepdims=True)
        amounts = np.full((len(chosen), COMPONENTS), chosen.sum(axis=1).mean() / COMPONENTS)
        for _ in range(3 * ITERATIONS):
            amounts *= (chosen / (amounts @ factors)) @ factors.T
            factors *= amounts.T @ (chosen / (amounts @ factors)) / amounts.sum(axis=0)[:, None]
            factors /= factors.sum(axis=1, keepdims=True)
        return cls(factors=factors)

    def score(self, counts: Floats, templates: Floats) -> Floats:
        """Return the largest 2 ln(likelihood ratio) over templates and places, spans of 2 s."""
        span = 2 * SECOND
        best = np.full(len(counts), -np.inf)
        for at in range(0, len(counts), CHUNK):
            spectra = sums(counts[at : at + CHUNK], span)[:, ::SECOND]
            flat = spectra.reshape(-1, counts.shape[2])
            start = np.full((len(flat), COMPONENTS), 1.0) * flat.sum(axis=1, keepdims=True) / 5
            fitted = _fit(flat, self.factors, start, ITERATIONS)
            null = _likelihood(flat, fitted @ self.factors)
            largest = np.zeros(len(flat))
            for template in templates:
                both = np.concatenate([self.factors, template[None]])
                begin = np.concatenate([fitted, 0.02 * flat.sum(axis=1, keepdims=True)], axis=1)
                more = _fit(flat, both, begin, MORE_ITERATIONS)
                largest = np.maximum(largest, 2 * (_likelihood(flat, more @ both) - null))
            best[at : at + CHUNK] = largest.reshape(len(spectra), -1).max(axis=1)
        return best


def _fit(spectra: Floats, factors: Floats, amounts: Floats, iterations: int) -> Floats:
    for _ in range(iterations):
        amounts = amounts * ((spectra / (amounts @ factors)) @ factors.T)
    return amounts


def _likelihood(spectra: Floats, mean: Floats) -> Floats:
    """Return the Poisson log-likelihood of each spectrum, without its constant."""
    likelihood: Floats = (spectra * np.log(mean) - mean).sum(axis=1)
    return likelihood


def free_score(counts: Floats, background: Floats, factors: Floats, templates: Floats) -> Floats:
    """Return the largest Z of the plain score filter: the factors are free in every slice."""
    expected = background / BACKGROUND_S * SLICE_S
    mean = expected.mean(axis=0)
    modes, _ = np.linalg.qr((factors / np.sqrt(mean)).T)
    slices = counts.shape[1]
    free = np.tile(np.eye(modes.shape[1]), (1, slices, 1, 1))
    nuisance = Nuisance(cosines=cosines(slices), modes=modes, gain=free, weight=np.zeros(1))
    profiles = detect.point_profiles(slices, SLICE_S)
    filters = detect.bank(templates, mean, nuisance, profiles)
    best = np.empty(len(counts))
    for at in range(0, len(counts), CHUNK):
        some = slice(at, at + CHUNK)
        cleaned, case = nuisance.clean(detect.whiten(counts[some], expected[some][:, None]))
        z, _ = filters.best(cleaned, case, profiles, profiles.upto(np.inf))
        best[some] = z.max(axis=1)
    return best
