"""What harmless traffic does to the counts, as a prior that a source is told apart from.

A vehicle takes background away, by an amount that changes smoothly along it and with energy; a
load of fertiliser or tiles adds K, U and Th, spread over the load. Both are Gaussian here: a few
energy modes, each with a covariance in time, learned from benign passages. In time the prior is
taken to be stationary over the window, so that it is diagonal in cosines (DCT-II), and at each
cosine the best linear estimate of the modes is a small matrix: a Wiener filter in time, of a few
numbers in energy. Subtracting it leaves white noise and sources.

One Gaussian does not fit all vehicles: a lorry takes ten times as much away as a car, and few
carry a load that radiates. So the prior has cases, how much is taken away and whether there is
such a load, and each window is cleaned by the case that its own slow changes make likeliest
(a scale mixture of normals: D.F. Andrews and C.L. Mallows, JRSS B 36 (1974) 99; the choice is
empirical Bayes).

Residuals are whitened: (counts - expected) / sqrt(expected), about unit variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Numbers = NDArray[np.intp]

MOST_MODES = 5
LEAST_EXCESS = 1.1
"""An energy mode is kept whose slow variance is so much more than the counting noise of 1."""
SLOW_HZ = 1.0
"""Cosines slower than this show what traffic does; faster ones are counting noise."""
SCALES = (0.25, 0.5, 1.0, 2.0)
"""Vehicles take away so many times what the mean one does; a lane's traffic says how often."""
ROUNDS = 12
"""Of expectation and maximisation; the likelihood hardly rises after as many."""
LEAST_CHANCE = 1e-3
"""No case is held for less likely than this, however few the passages that taught."""
LOAD_CHANCE = 0.05
"""So many vehicles carry natural radioactivity, before any traffic was learned from."""
LEAST_LOAD_CHANCE = 0.01
"""As rare as they may be taken to be: a lane that has not met one yet will."""
NORM_SHARE = 0.03
"""A load of natural radioactivity gives so much of the background's rate in each of its shapes
(one standard deviation). Smaller lets loads through as sources, larger costs detection."""
NORM_LENGTH_S = (1.5, 3.0, 4.5)
"""A load passes in about so long."""
SUPPRESSION = (0.2, 0.15, 0.05)
"""What is assumed of vehicles before any traffic was learned from: standard deviation of the
share of background taken away, of its slope and of its bend over a decade of energy. Plastic
portals saw 27, 21, 14 and 9 % taken from four windows."""
SUPPRESSION_S = 1.0
"""Correlation length in time of what is assumed [s]."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Nuisance:
    """The prior as the filter needs it.

    ``cosines``: (slice, slice) orthonormal DCT-II. ``modes``: (bin, mode) orthonormal, whitened.
    ``gain``: (case, cosine, mode, mode): each case's Wiener filter, between 0 (the prior is
    exact) and 1 (the mode is free). ``weight``: (case,) the logarithm of its chance and of what
    its width costs, ln chance + ln det(1 - gain) / 2.
    """

    cosines: Floats
    modes: Floats
    gain: Floats
    weight: Floats

    def clean(self, white: Floats) -> tuple[Floats, Numbers]:
        """Return whitened residuals (…, slice, bin) without what the prior explains of them.

        And the case (…,) that explains them best: with a the modes' amounts and G the gain, the
        logarithm of its posterior chance is weight + Σ a·Ga / 2 and what all cases share.
        """
        slow = self.cosines @ white
        amounts = slow @ self.modes
        fit = [0.5 * (amounts * _filtered(amounts, each)).sum(axis=(-2, -1)) for each in self.gain]
        case: Numbers = (np.stack(fit, axis=-1) + self.weight).argmax(axis=-1)
        explained = _filtered(amounts, self.gain[case]) @ self.modes.T
        cleaned: Floats = self.cosines.T @ (slow - explained)
        return cleaned, case

    def power(self, profiles: Floats, shapes: Floats) -> Floats:
        """Return (case, profile, shape): the variance of each matched filter under the prior.

        ``profiles``: (profile, slice); ``shapes``: (shape, bin), whitened.
        """
        slow = profiles @ self.cosines.T
        seen = shapes @ self.modes
        lost = np.einsum("tk,cfkl,tl->ctf", seen, self.gain, seen, optimize=True)
        kept = (shapes**2).sum(axis=1)[:, None] - lost
        variance: Floats = (slow**2) @ kept.swapaxes(1, 2)
        return variance


def _filtered(amounts: Floats, gain: Floats) -> Floats:
    """Return amounts (…, cosine, mode) through a gain (…, cosine, mode, mode)."""
    through: Floats = (amounts[..., None, :] @ gain)[..., 0, :]
    return through


def cosines(slices: int) -> Floats:
    """Return the orthonormal DCT-II: (cosine, slice)."""
    number, at = np.arange(slices)[:, None], np.arange(slices)[None, :]
    matrix: Floats = math.sqrt(2.0 / slices) * np.cos(math.pi * number * (at + 0.5) / slices)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def of_cases(basis: Floats, modes: Floats, covariance: Floats, chance: Floats) -> Nuisance:
    """Return the prior with those covariances (case, cosine, mode, mode) and chances (case,).

    ``modes``: (bin, mode) orthonormal. Negative variances are taken as none.
    """
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    gain = (vectors * (values / (1.0 + values))[..., None, :]) @ vectors.swapaxes(-1, -2)
    width = 0.5 * np.log1p(values).sum(axis=(-2, -1))
    return Nuisance(cosines=basis, modes=modes, gain=gain, weight=np.log(chance) - width)


def learn(white: Floats, slice_s: float, load_shapes: Floats, load_cps: float) -> Nuisance:
    """Return the prior that benign passages show.

    Covariance, the chance of each scale and that of a load are those of greatest likelihood, by
    expectation and maximisation (A.P. Dempster, N.M. Laird and D.B. Rubin, JRSS B 39 (1977) 1).

    Parameters
    ----------
    white : whitened residuals of benign passages (pass, slice, bin)
    slice_s : length of a slice [s]
    load_shapes : K, U and Th (shape, bin), each the whitened change per count and second
    load_cps : expected amount of each [counts/s]; see NORM_SHARE
    """
    basis = cosines(white.shape[1])
    slow = np.einsum("fs,psb->pfb", basis, white, optimize=True)
    seen = min(white.shape[1], max(2, round(2.0 * SLOW_HZ * white.shape[1] * slice_s)))
    flat = slow[:, :seen].reshape(-1, white.shape[2])
    variance, shapes = np.linalg.eigh(flat.T @ flat / len(flat))
    # Of few passages chance alone gives more: (1 + sqrt(bins/rows))² (Marchenko and Pastur).
    chance = (1.0 + np.sqrt(flat.shape[1] / len(flat))) ** 2
    kept = int(min(max((variance > max(LEAST_EXCESS, chance)).sum(), 1), MOST_MODES))
    learned = shapes[:, ::-1][:, :kept]
    modes, load = _with_loads(learned, basis, slice_s, load_shapes, load_cps)
    amounts = np.ascontiguousarray((slow @ modes).swapaxes(0, 1))
    covariance = amounts.swapaxes(1, 2) @ amounts / len(white) - np.eye(modes.shape[1])
    # The learned modes are the first of the orthonormal ones: QR keeps their span.
    covariance[:, kept:] = 0.0
    covariance[:, :, kept:] = 0.0
    return of_cases(basis, modes, *_fitted(amounts, _positive(covariance), load))


def assumed(
    slices: int, slice_s: float, expected: Floats, centres: Floats, load: tuple[Floats, float]
) -> Nuisance:
    """Return the prior for a lane that has not learned from traffic yet.

    ``expected``: (bin,) background counts per slice; ``centres``: (bin,) bin centres [keV];
    ``load``: the shapes and the amount that ``learn`` takes.
    """
    decade = np.log10(np.maximum(centres, 1.0) / 300.0)
    taken = np.stack([np.ones_like(decade), decade, decade**2 - decade.var()])
    taken = (taken * np.sqrt(expected)).T
    at_s = np.arange(slices) * slice_s
    apart = (at_s[:, None] - at_s[None, :]) / SUPPRESSION_S
    basis = cosines(slices)
    density = np.einsum("fs,st,ft->f", basis, np.exp(-0.5 * apart**2), basis, optimize=True)
    modes, loads = _with_loads(taken, basis, slice_s, *load)
    mixing = modes.T @ taken
    covariance = mixing @ (density[:, None, None] * np.diag(np.square(SUPPRESSION))) @ mixing.T
    scales = np.full(len(SCALES), 1.0 / len(SCALES))
    carries = np.array([1.0 - LOAD_CHANCE, LOAD_CHANCE])
    return of_cases(basis, modes, _cases(covariance, loads), np.outer(scales, carries).ravel())


def _with_loads(
    taken: Floats, basis: Floats, slice_s: float, load_shapes: Floats, load_cps: float
) -> tuple[Floats, Floats]:
    """Return orthonormal modes (bin, mode) of both, and a load's covariance (cosine, mode, mode).

    Smooth K, U and Th of unknown amount: each shape by itself.
    """
    modes, _ = np.linalg.qr(np.concatenate([taken, load_shapes.T], axis=1))
    seen = load_shapes @ modes
    power = _load_density(basis, slice_s) * (load_cps * slice_s) ** 2
    covariance: Floats = power[:, None, None] * (seen.T @ seen)
    return modes, covariance


def _cases(covariance: Floats, load: Floats) -> Floats:
    """Return (case, cosine, mode, mode): each scale without and with a load, in that order."""
    squares = np.square(SCALES)[:, None, None, None, None]
    both = squares * covariance + np.stack([np.zeros_like(load), load])
    cases: Floats = both.reshape(-1, *covariance.shape)
    return cases


def _fitted(amounts: Floats, covariance: Floats, load: Floats) -> tuple[Floats, Floats]:
    """Return the covariances of all cases and their chances, as the amounts make likeliest.

    ``amounts``: (cosine, pass, mode). A passage's changes are b times its scale, with b normal
    of that covariance; given the amounts b has mean A a and covariance Λ - s A Λ, with
    A = s Λ (1 + s²Λ + load)⁻¹.
    """
    passes, one = amounts.shape[1], np.eye(amounts.shape[2])
    scales = np.full(len(SCALES), 1.0 / len(SCALES))
    carries = np.array([1.0 - LOAD_CHANCE, LOAD_CHANCE])
    for _ in range(ROUNDS):
        cases = _cases(covariance, load)
        chance = _posterior(amounts, cases, np.outer(scales, carries).ravel())
        total = np.zeros_like(covariance)
        for number, case in enumerate(cases):
            scale, share = SCALES[number // 2], chance[:, number]
            back = scale * covariance @ np.linalg.inv(one + case)
            second = (amounts * share[:, None]).swapaxes(1, 2) @ amounts
            total += back @ second @ back.swapaxes(1, 2)
            total += share.sum() * (covariance - scale * back @ covariance)
        covariance = total / passes
        each = chance.sum(axis=0).reshape(len(SCALES), 2) / passes
        scales = np.maximum(each.sum(axis=1), LEAST_CHANCE)
        scales /= scales.sum()
        loaded = min(max(float(each[:, 1].sum()), LEAST_LOAD_CHANCE), 0.5)
        carries = np.array([1.0 - loaded, loaded])
    return _cases(covariance, load), np.outer(scales, carries).ravel()


def _posterior(amounts: Floats, cases: Floats, chance: Floats) -> Floats:
    """Return (pass, case): how likely each case is, given the amounts (cosine, pass, mode)."""
    whole = np.eye(amounts.shape[2]) + cases
    fit = np.empty((amounts.shape[1], len(cases)))
    for number, each in enumerate(whole):
        white = amounts @ np.linalg.inv(np.linalg.cholesky(each)).swapaxes(1, 2)
        fit[:, number] = -0.5 * (white**2).sum(axis=(0, 2))
    fit += np.log(chance) - 0.5 * np.linalg.slogdet(whole)[1].sum(axis=1)
    odds = np.exp(fit - fit.max(axis=1, keepdims=True))
    likely: Floats = odds / odds.sum(axis=1, keepdims=True)
    return likely


def _load_density(basis: Floats, slice_s: float) -> Floats:
    """Return the mean power of extended loads at each cosine, over their places and lengths."""
    at_s = (np.arange(basis.shape[1]) + 0.5) * slice_s
    whole_s = at_s[-1]
    power = np.zeros(len(basis))
    places = np.linspace(0.25, 0.75, 9) * whole_s
    for length_s in NORM_LENGTH_S:
        for place in places:
            # The load's edges are seen from afar: about a metre, half a second.
            edge = 0.5 * length_s - np.abs(at_s - place)
            power += (basis @ (1.0 / (1.0 + np.exp(-edge / 0.4)))) ** 2
    mean: Floats = power / (len(places) * len(NORM_LENGTH_S))
    return mean


def _positive(covariance: Floats) -> Floats:
    """Return covariances (…, mode, mode) with negative variances taken as none."""
    values, vectors = np.linalg.eigh(covariance)
    kept: Floats = (vectors * np.maximum(values, 0.0)[..., None, :]) @ vectors.swapaxes(-1, -2)
    return kept
