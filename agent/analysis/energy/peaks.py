"""Peaks of known lines in a spectrum: where they stand, how wide and how sure they are.

Channels are counted by their edges: channel i reaches from i to i + 1, a peak in its middle
stands at i + 0.5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_SIGMAS_PER_FWHM = 2.3548200450309493
_ITERATIONS = 12
_REGION_FWHM = 1.3


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """One peak on a straight background; every figure with its standard deviation."""

    channel: float
    sigma_channel: float
    fwhm_channels: float
    net_counts: float
    sigma_net: float

    @property
    def significance(self) -> float:
        """Return net counts in standard deviations."""
        return self.net_counts / self.sigma_net


def significance(counts: Floats, channels: Floats, fwhm_channels: Floats) -> Floats:
    """Return how far a peak of that width rises at each place, in standard deviations.

    A window of one FWHM against half a FWHM on either side: quick, for looking around.
    """
    below = np.concatenate(([0.0], np.cumsum(counts)))
    edges = np.arange(len(below), dtype=float)
    half = fwhm_channels / 2

    def between(low: Floats, high: Floats) -> Floats:
        found: Floats = np.interp(high, edges, below) - np.interp(low, edges, below)
        return found

    inner = between(channels - half, channels + half)
    sides = between(channels - 2 * half, channels - half)
    sides = sides + between(channels + half, channels + 2 * half)
    found: Floats = (inner - sides) / np.sqrt(np.maximum(inner + sides, 1.0))
    inside = (channels - 2 * half > 0) & (channels + 2 * half < len(counts))
    return np.where(inside, found, 0.0)


def fitted(counts: Floats, channel: float, fwhm_channels: float) -> Peak | None:
    """Return the peak near a channel, or None where none stands there.

    Gauss and Newton on area, place and width over a straight background, weighted by Poisson.
    """
    reach = _REGION_FWHM * fwhm_channels
    low, high = max(0, int(channel - reach)), min(len(counts), int(channel + reach) + 1)
    if high - low < 6:
        return None
    y = np.asarray(counts[low:high], dtype=float)
    edges = np.arange(low, high + 1, dtype=float)
    middle = (edges[1:] + edges[:-1]) / 2
    place, sigma = channel, fwhm_channels / _SIGMAS_PER_FWHM
    weight = 1 / np.maximum(np.convolve(np.pad(y, 1, mode="edge"), np.ones(3) / 3, "valid"), 1.0)
    amplitudes = np.zeros(3)
    covariance = np.zeros((5, 5))
    for _ in range(_ITERATIONS):
        shape = np.exp(-0.5 * ((middle - place) / sigma) ** 2)
        linear = np.stack((shape, np.ones_like(middle), middle - channel), axis=1)
        weighted = linear * weight[:, None]
        amplitudes = np.linalg.lstsq(weighted.T @ linear, weighted.T @ y, rcond=None)[0]
        away = (middle - place) / sigma
        moves = np.stack((shape * away / sigma, shape * away**2 / sigma), axis=1) * amplitudes[0]
        design = np.concatenate((linear, moves), axis=1)
        weighted = design * weight[:, None]
        covariance = np.linalg.pinv(weighted.T @ design)
        step = covariance @ (weighted.T @ (y - linear @ amplitudes))
        place += float(np.clip(step[3], -0.3 * sigma, 0.3 * sigma))
        sigma += float(np.clip(step[4], -0.2 * sigma, 0.2 * sigma))
    width = sigma * np.sqrt(2 * np.pi)
    spread = np.sqrt(np.maximum(np.diag(covariance), 0.0))
    if not (amplitudes[0] > 0 and low < place < high and spread[0] > 0):
        return None
    return Peak(
        channel=place,
        sigma_channel=float(spread[3]),
        fwhm_channels=_SIGMAS_PER_FWHM * sigma,
        net_counts=float(amplitudes[0] * width),
        sigma_net=float(spread[0] * width),
    )
