"""Poisson fits of one spectrum by many small linear models at once.

Each model explains the counts of a spectrum as

    μ = base + Σ_p θ_p · column_p

with a Gaussian prior on every θ that has a finite one. Fisher scoring solves all models of a batch
together; what comes out is what comparing them needs: the penalised log likelihood and the
logarithm of the evidence (Laplace's approximation).

Source: penalised iteratively reweighted least squares for a Poisson model with identity link,
McCullagh and Nelder, Generalized Linear Models, 2nd ed., 2.5 and 6.2; Laplace's approximation:
Kass and Raftery, J. Am. Stat. Assoc. 90 (1995) 773, 4.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_FLOOR = 0.05  # a model may fall to this share of the base, not below: no bin expects nothing
_ROUNDS = 5  # the base dominates, so scoring converges in three or four


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectrum:
    """One spectrum to explain, per bin.

    ``counts``: measured [counts], need not be whole. ``base``: expected without a source
    [counts], above 0. ``dispersion``: variance over expectation, 1 for pure Poisson counts.
    """

    counts: Floats
    base: Floats
    dispersion: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prior:
    """Gaussian priors of the nuisances that every model has.

    ``columns``: (nuisance, bin) [counts per unit]. ``mean``, ``sd``: (nuisance,).
    """

    columns: Floats
    mean: Floats
    sd: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fits:
    """What came of a batch of models.

    ``coefficients``: (model, parameter), nuisances first. ``expected``: (model, bin).
    ``log_likelihood``: (model,), with the prior's penalty, without terms of the data alone.
    ``covariance``: (model, parameter, parameter).
    """

    coefficients: Floats
    expected: Floats
    log_likelihood: Floats
    covariance: Floats

    def only(self, model: int) -> Fits:
        """Return one model's fit, as a batch of one."""
        part = slice(model, model + 1)
        return Fits(
            coefficients=self.coefficients[part],
            expected=self.expected[part],
            log_likelihood=self.log_likelihood[part],
            covariance=self.covariance[part],
        )


def fit(spectrum: Spectrum, prior: Prior, sources: Floats, *, rounds: int = _ROUNDS) -> Fits:
    """Return the fits of models with the nuisances and each their own sources.

    ``sources``: (model, source, bin); a source's amplitude has a flat prior and may come out
    negative, which the caller judges.
    """
    models, extra, bins = sources.shape
    nuisances = len(prior.mean)
    columns = np.empty((models, nuisances + extra, bins))
    columns[:, :nuisances] = prior.columns
    columns[:, nuisances:] = sources
    precision = np.concatenate([prior.sd**-2.0, np.full(extra, 1e-12)])
    pull = np.concatenate([precision[:nuisances] * prior.mean, np.zeros(extra)])
    diagonal = np.diag(precision)
    expected = np.broadcast_to(np.maximum(spectrum.base, _FLOOR * spectrum.counts), (models, bins))
    excess = spectrum.counts - spectrum.base
    for _ in range(rounds):
        weighted = columns / (spectrum.dispersion * expected)[:, None, :]
        information = weighted @ columns.transpose(0, 2, 1) + diagonal
        right = weighted @ excess + pull
        coefficients = np.linalg.solve(information, right[..., None])[..., 0]
        model = spectrum.base + np.einsum("mp,mpb->mb", coefficients, columns)
        expected = np.maximum(model, _FLOOR * spectrum.base)
    weighted = columns / (spectrum.dispersion * expected)[:, None, :]
    information = weighted @ columns.transpose(0, 2, 1) + diagonal
    likelihood = (spectrum.counts * np.log(expected) - expected) / spectrum.dispersion
    offset = coefficients[:, :nuisances] - prior.mean
    penalty = 0.5 * (offset**2 * precision[:nuisances]).sum(axis=1)
    return Fits(
        coefficients=coefficients,
        expected=expected,
        log_likelihood=likelihood.sum(axis=1) - penalty,
        covariance=np.linalg.inv(information),
    )


def score(spectrum: Spectrum, prior: Prior, held: Floats, fitted: Fits, trial: Floats) -> Floats:
    """Return each trial shape's efficient score [σ] when added to the one fitted model.

    ``held``: (source, bin), the model's own sources. ``trial``: (shape, bin). Neyman's C(α) test:
    what the model's parameters could explain is projected out, with their priors. 0 for a shape
    that they explain in full.
    """
    columns = np.vstack([prior.columns, held])
    weight = 1.0 / (spectrum.dispersion * fitted.expected[0])
    gain = trial @ (weight * (spectrum.counts - fitted.expected[0]))
    return _standardised(gain, trial, columns, weight, fitted.covariance[0])


def screen(spectrum: Spectrum, prior: Prior, held: Floats, trial: Floats) -> Floats:
    """Return roughly how much each trial shape would improve a model [σ], however strong it is.

    Least squares with the variance that the data themselves show: unlike the score, it does not
    trust a model that is far off, as one without a strong source is. ``held``, ``trial``: as for
    ``score``.
    """
    columns = np.vstack([prior.columns, held])
    padded = np.pad(spectrum.counts, 1, mode="edge")
    smooth = (padded[:-2] + padded[1:-1] + padded[2:]) / 3
    variance = spectrum.dispersion * np.maximum(smooth, 0.5 * spectrum.base)
    weight: Floats = np.divide(1.0, variance)
    precision = np.concatenate([prior.sd**-2.0, np.full(len(held), 1e-12)])
    mean = np.concatenate([prior.mean, np.zeros(len(held))])
    inner = (columns * weight) @ columns.T + np.diag(precision)
    covariance: Floats = np.linalg.inv(np.asarray(inner, dtype=np.float64))
    excess = weight * (spectrum.counts - spectrum.base - mean @ columns)
    gain = trial @ excess - (trial * weight) @ columns.T @ covariance @ (columns @ excess)
    return _standardised(gain, trial, columns, weight, covariance)


def _standardised(
    gain: Floats, trial: Floats, columns: Floats, weight: Floats, covariance: Floats
) -> Floats:
    shared = (trial * weight) @ columns.T
    own = (trial**2) @ weight
    information = own - ((shared @ covariance) * shared).sum(axis=1)
    is_free = information > 1e-6 * own
    z: Floats = np.where(is_free, gain / np.sqrt(np.where(is_free, information, 1.0)), 0.0)
    return z
