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
    what the model's parameters could explain is projected out, with their priors.
    """
    columns = np.vstack([prior.columns, held])
    weight = 1.0 / (spectrum.dispersion * fitted.expected[0])
    shared = (trial * weight) @ columns.T
    gain = trial @ (weight * (spectrum.counts - fitted.expected[0]))
    own = (trial**2) @ weight
    information = own - np.einsum("tp,pq,tq->t", shared, fitted.covariance[0], shared)
    z: Floats = gain / np.sqrt(np.maximum(information, 1e-9 * own + 1e-30))
    return z
