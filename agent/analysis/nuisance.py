"""What harmless traffic does to the counts, as a prior that a source is told apart from.

A vehicle takes background away, by an amount that changes smoothly along it and with energy; a
load of fertiliser or tiles adds K, U and Th, spread over the load. Both are Gaussian here: a few
energy modes, each with a covariance in time, learned from benign passages. In time the prior is
taken to be stationary over the window, so that it is diagonal in cosines (DCT-II), and at each
cosine the best linear estimate of the modes is a small matrix: a Wiener filter in time, of a few
numbers in energy. Subtracting it leaves white noise and sources.

Residuals are whitened: (counts - expected) / sqrt(expected), about unit variance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

MOST_MODES = 5
LEAST_EXCESS = 1.1
"""An energy mode is kept whose slow variance is so much more than the counting noise of 1."""
SLOW_HZ = 1.0
"""Cosines slower than this show what traffic does; faster ones are counting noise."""
NORM_SHARE = 0.03
"""Natural radioactivity of each kind is expected at so much of the background's rate (one
standard deviation). Smaller lets NORM loads through as sources, larger costs detection."""
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
    ``gain``: (cosine, mode, mode): the Wiener filter, between 0 (the prior is exact) and 1 (the
    mode is free).
    """

    cosines: Floats
    modes: Floats
    gain: Floats

    def clean(self, white: Floats) -> Floats:
        """Return whitened residuals (…, slice, bin) without what the prior explains of them."""
        slow = self.cosines @ white
        amounts = slow @ self.modes
        explained = (amounts[..., None, :] @ self.gain)[..., 0, :] @ self.modes.T
        cleaned: Floats = self.cosines.T @ (slow - explained)
        return cleaned

    def power(self, profiles: Floats, shapes: Floats) -> Floats:
        """Return (profile, shape): the variance of each matched filter under the prior.

        ``profiles``: (profile, slice); ``shapes``: (shape, bin), whitened.
        """
        slow = profiles @ self.cosines.T
        seen = shapes @ self.modes
        lost = np.einsum("tk,fkl,tl->tf", seen, self.gain, seen, optimize=True)
        kept = (shapes**2).sum(axis=1)[:, None] - lost
        variance: Floats = (slow**2) @ kept.T
        return variance


def cosines(slices: int) -> Floats:
    """Return the orthonormal DCT-II: (cosine, slice)."""
    number, at = np.arange(slices)[:, None], np.arange(slices)[None, :]
    matrix: Floats = math.sqrt(2.0 / slices) * np.cos(math.pi * number * (at + 0.5) / slices)
    matrix[0] /= math.sqrt(2.0)
    return matrix


def learn(white: Floats, slice_s: float, norm_shapes: Floats, norm_cps: float) -> Nuisance:
    """Return the prior that benign passages show.

    Parameters
    ----------
    white : whitened residuals of benign passages (pass, slice, bin)
    slice_s : length of a slice [s]
    norm_shapes : K, U and Th (shape, bin), each the whitened change per count and second
    norm_cps : expected amount of each [counts/s]; see NORM_SHARE
    """
    basis = cosines(white.shape[1])
    slow = np.einsum("fs,psb->pfb", basis, white, optimize=True)
    seen = min(white.shape[1], max(2, round(2.0 * SLOW_HZ * white.shape[1] * slice_s)))
    flat = slow[:, :seen].reshape(-1, white.shape[2])
    variance, shapes = np.linalg.eigh(flat.T @ flat / len(flat))
    # Of few passages chance alone gives more: (1 + sqrt(bins/rows))² (Marchenko and Pastur).
    chance = (1.0 + np.sqrt(flat.shape[1] / len(flat))) ** 2
    kept = int(min(max((variance > max(LEAST_EXCESS, chance)).sum(), 1), MOST_MODES))
    modes = shapes[:, ::-1][:, :kept]
    amounts = slow @ modes
    covariance = np.einsum("pfk,pfl->fkl", amounts, amounts) / len(amounts) - np.eye(kept)
    return _with_norm(basis, modes, covariance, slice_s, norm_shapes, norm_cps)


def assumed(
    slices: int, slice_s: float, expected: Floats, centres: Floats, norm: tuple[Floats, float]
) -> Nuisance:
    """Return the prior for a lane that has not learned from traffic yet.

    ``expected``: (bin,) background counts per slice; ``centres``: (bin,) bin centres [keV];
    ``norm``: the shapes and the amount that ``learn`` takes.
    """
    decade = np.log10(np.maximum(centres, 1.0) / 300.0)
    modes = np.stack([np.ones_like(decade), decade, decade**2 - decade.var()])
    modes = (modes * np.sqrt(expected)).T
    at_s = np.arange(slices) * slice_s
    apart = (at_s[:, None] - at_s[None, :]) / SUPPRESSION_S
    basis = cosines(slices)
    density = np.einsum("fs,st,ft->f", basis, np.exp(-0.5 * apart**2), basis, optimize=True)
    covariance = density[:, None, None] * np.diag(np.square(SUPPRESSION))
    orthonormal, mixing = np.linalg.qr(modes)
    covariance = mixing @ covariance @ mixing.T
    return _with_norm(basis, orthonormal, covariance, slice_s, *norm)


def _with_norm(
    basis: Floats,
    modes: Floats,
    covariance: Floats,
    slice_s: float,
    norm_shapes: Floats,
    norm_cps: float,
) -> Nuisance:
    """Return the prior with smooth K, U and Th of unknown amount beside the learned modes."""
    kept, kinds = modes.shape[1], len(norm_shapes)
    orthonormal, mixing = np.linalg.qr(np.concatenate([modes, norm_shapes.T], axis=1))
    density = _load_density(basis, slice_s) * (norm_cps * slice_s) ** 2
    whole = np.zeros((len(basis), kept + kinds, kept + kinds))
    whole[:, :kept, :kept] = covariance
    whole[:, range(kept, kept + kinds), range(kept, kept + kinds)] = density[:, None]
    whole = mixing @ whole @ mixing.T
    return Nuisance(cosines=basis, modes=orthonormal, gain=_wiener(whole))


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


def _wiener(covariance: Floats) -> Floats:
    """Return (cosine, mode, mode) Λ(1 + Λ)⁻¹, with negative variances taken as none."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.maximum(values, 0.0)
    gain: Floats = (vectors * (values / (1.0 + values))[:, None, :]) @ vectors.swapaxes(1, 2)
    return gain
