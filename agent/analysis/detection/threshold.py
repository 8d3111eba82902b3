"""From a score to how likely chance gives as much, learned from benign traffic.

Each statistic's largest value in a passage is compared with the largest values of benign
passages: an empirical body, and above its 95 % quantile a generalised Pareto tail. The tail is
fitted by probability-weighted moments (Hosking and Wallis, Technometrics 29 (1987) 339) to the
squares, because a maximum of standard normal variables falls off as exp(-z²/2): its square has a
tail that is exponential, or heavier where traffic makes it so. Several statistics are put
together by a weighted Bonferroni bound, which holds however they depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincinv, gammaincc, gammaincinv, kolmogorov, log_ndtr, pdtr

Floats = NDArray[np.float64]

BODY = 0.95
"""The quantile above which the tail is fitted."""
LEAST_PASSES = 200
"""With fewer benign passages nothing is learned: the tail alone would rest on ten of them."""
KNOTS = 257
MOST_SHAPE = 0.5
"""A tail with a larger one has no variance, and nothing would ever be unlikely enough."""
LEAST_TAIL = 1e-250
LEAST_SKEW = 0.003
"""Below it a gamma variable is a normal one as far as any p-value here goes."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tails:
    """How benign maxima are distributed, for several scores at once (leading axis: score).

    ``body``: (score, knot) quantiles at equal steps of probability from 0 to BODY. ``shape``
    (never negative, so that no value is called impossible) and ``scale`` are the tail's, in
    squares of the score. ``passes`` is how many benign passages stand behind it.
    """

    body: Floats
    shape: Floats
    scale: Floats
    passes: int

    def surprise(self, scores: Floats) -> Floats:
        """Return -ln p of scores (…, score), with p the chance of as much or more."""
        edge = self.body[:, -1]
        chances = np.linspace(0.0, BODY, self.body.shape[1])
        below = np.empty(scores.shape)
        for index, body in enumerate(self.body):
            below[..., index] = np.interp(scores[..., index], body, chances)
        over = np.maximum(np.maximum(scores, 0.0) ** 2 - np.maximum(edge, 0.0) ** 2, 0.0)
        # A shape of 0 is the limit of small ones: an exponential tail.
        shape = np.maximum(self.shape, 1e-9)
        steps = np.log1p(shape * over / self.scale) / shape
        surprise: Floats = np.where(scores > edge, steps - math.log(1.0 - BODY), -np.log1p(-below))
        return surprise


def learn_tails(scores: Floats, *, is_shape_shared: bool = False) -> Tails:
    """Return the tails of benign scores (pass, score).

    ``is_shape_shared``: all have the mean of their tails' shapes, each its own scale: shapes are
    known badly one by one, and scores of one kind have similar ones (the regional estimate of
    J.R.M. Hosking and J.R. Wallis, Regional Frequency Analysis (1997), 6.2).

    Raises ValueError for fewer than LEAST_PASSES passages.
    """
    passes = len(scores)
    if passes < LEAST_PASSES:
        message = f"{passes} benign passages are too few to learn from; {LEAST_PASSES} are needed"
        raise ValueError(message)
    body = np.quantile(scores, np.linspace(0.0, BODY, KNOTS), axis=0).T
    fits = [_pareto(column, edge) for column, edge in zip(scores.T, body[:, -1], strict=True)]
    mean, shape = (np.array(each) for each in zip(*fits, strict=True))
    if is_shape_shared:
        shape = np.full_like(shape, shape.mean())
    shape = np.clip(shape, 0.0, MOST_SHAPE)
    return Tails(
        body=np.ascontiguousarray(body), shape=shape, scale=mean * (1.0 - shape), passes=passes
    )


def _pareto(scores: Floats, edge: float) -> tuple[float, float]:
    """Return mean and shape of the squares' excess over the edge's square."""
    base = max(edge, 0.0) ** 2
    excess = np.sort(np.maximum(scores[scores > edge], 0.0) ** 2 - base)
    count = len(excess)
    if count < 2 or excess[-1] <= 0:
        return 1.0, 0.0
    mean = float(excess.mean())
    ranks = (np.arange(1, count + 1) - 0.35) / count
    moment = float(((1.0 - ranks) * excess).mean())
    return mean, 2.0 - mean / (mean - 2.0 * moment) if mean > 2.0 * moment else 0.0


def normal_surprise(z: Floats, looks: float, skew: Floats | float = 0.0) -> Floats:
    """Return -ln p of the largest of so many standard normal variables, by Bonferroni.

    For a lane without enough benign traffic: p = looks × P(Z ≥ z), at most 1. No correlation
    between the looks is credited, so the figure errs to the side of fewer alarms. ``skew``: third
    moment of Z; where few counts make it count, Z is taken as a shifted gamma variable of that
    skewness (Pearson's type III: Phil. Trans. R. Soc. A 186 (1895) 343).
    """
    z, gamma = np.broadcast_arrays(np.asarray(z, dtype=float), np.asarray(skew, dtype=float))
    log_p = log_ndtr(-z)
    has = gamma > LEAST_SKEW
    if has.any():
        log_p = np.where(has, _log_gamma_tail(z, np.where(has, gamma, 1.0)), log_p)
    surprise: Floats = np.maximum(-log_p - math.log(looks), 0.0)
    return surprise


def _log_gamma_tail(z: Floats, skew: Floats) -> Floats:
    """Return ln P(Z ≥ z) of a gamma variable with mean 0, variance 1 and that skewness."""
    mean = 4.0 / skew**2
    ratio = np.maximum(1.0 + z / np.sqrt(mean), 1e-9)
    tail = gammaincc(mean, mean * ratio)
    # Where the tail is below the least number there is: Chernoff's bound, which is above it.
    bound = np.where(ratio > 1.0, -mean * (ratio - 1.0 - np.log(ratio)), 0.0)
    least = math.log(LEAST_TAIL)
    log_p: Floats = np.where(
        tail > LEAST_TAIL, np.log(np.maximum(tail, LEAST_TAIL)), np.minimum(bound, least)
    )
    return log_p


def together(surprises: Floats, weights: Sequence[float]) -> Floats:
    """Return -ln p of several statistics (…, statistic) together.

    p = min over i of p_i / w_i, at most 1, with weights that sum to at most 1: the weighted
    Bonferroni bound, valid under any dependence. Raises ValueError for other weights.
    """
    share = np.asarray(weights, dtype=float)
    if share.sum() > 1.0 + 1e-9 or (share <= 0).any():
        message = f"weights {tuple(weights)} must be positive and sum to at most 1"
        raise ValueError(message)
    largest: Floats = np.maximum((surprises + np.log(share)).max(axis=-1), 0.0)
    return largest


def uniformity_p(p_values: Floats, learned_from: int | None = None) -> float:
    """Return the probability that uniform p-values stray so far from uniform.

    The Kolmogorov–Smirnov test, two-sided, with Stephens' finite-sample correction (JRSS B 32
    (1970) 115). Benign p-values that are not uniform say that the thresholds no longer hold.
    ``learned_from``: of how many passages the distribution that made them was learned, which is
    as uncertain itself (the two-sample test: N. Smirnov, Ann. Math. Stat. 19 (1948) 279); None:
    it is exact. Raises ValueError where there are none.
    """
    ordered = np.sort(np.asarray(p_values, dtype=float))
    count = len(ordered)
    if count == 0:
        raise ValueError("no p-values to test")
    steps = np.arange(count + 1) / count
    apart = max(float((steps[1:] - ordered).max()), float((ordered - steps[:-1]).max()))
    like = count if learned_from is None else count * learned_from / (count + learned_from)
    root = math.sqrt(like)
    return float(kolmogorov((root + 0.12 + 0.11 / root) * apart))


def rate_bound(events: int, trials: int, confidence: float = 0.95) -> float:
    """Return the one-sided Clopper–Pearson upper bound of a rate (Biometrika 26 (1934) 404)."""
    if events >= trials:
        return 1.0
    return float(betaincinv(events + 1, trials - events, confidence))


def poisson_band(expected: float, confidence: float = 0.95) -> tuple[int, int]:
    """Return the central range of counts that a Poisson mean gives with that probability."""
    tail = (1.0 - confidence) / 2.0
    low = 0
    while pdtr(low, expected) < tail:
        low += 1
    high = low
    while pdtr(high, expected) < 1.0 - tail:
        high += 1
    return low, high


def poisson_upper(events: int, confidence: float = 0.95) -> float:
    """Return the one-sided upper bound of a Poisson mean after so many events."""
    return float(gammaincinv(events + 1, confidence))
