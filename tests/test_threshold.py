"""Tails, bounds and fused p-values against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.detection import threshold

SEED = 20261123


def exponential_squares(rng, passes, scores=1):
    """Scores whose squares fall off as exp(-x): P(score > s) = exp(-s²)."""
    return np.sqrt(rng.exponential(1.0, (passes, scores)))


def test_the_tail_recovers_the_quantiles_of_an_exponential():
    tails = threshold.learn_tails(exponential_squares(np.random.default_rng(SEED), 20_000))
    print(f"seed {SEED}")
    for p in (1e-2, 1e-3, 1e-4):
        quantile = math.sqrt(-math.log(p))  # closed form
        found = float(tails.surprise(np.array([[quantile]]))[0, 0])
        # Half a unit of surprise is a factor of 1.6 in the false-alarm rate, at 20,000 passes.
        assert found == pytest.approx(-math.log(p), abs=0.5)
    assert tails.passes == 20_000


def test_the_body_is_the_empirical_distribution():
    rng = np.random.default_rng(SEED)
    tails = threshold.learn_tails(exponential_squares(rng, 20_000))
    for p in (0.9, 0.5, 0.1):
        score = math.sqrt(-math.log(p))
        assert float(tails.surprise(np.array([[score]]))[0, 0]) == pytest.approx(
            -math.log(p), abs=0.03
        )


def test_a_heavy_tail_makes_a_large_score_less_of_a_surprise():
    rng = np.random.default_rng(SEED)
    # Squares with P(X > x) = (1 + x/4)^-4: a generalised Pareto tail of shape 1/4.
    heavy = np.sqrt(4.0 * (rng.random((20_000, 1)) ** -0.25 - 1.0))
    tails = threshold.learn_tails(heavy)
    assert tails.shape[0] == pytest.approx(0.25, abs=0.1)
    for p in (1e-3, 1e-4):
        quantile = math.sqrt(4.0 * (p**-0.25 - 1.0))
        found = float(tails.surprise(np.array([[quantile]]))[0, 0])
        assert found == pytest.approx(-math.log(p), abs=0.7)


def test_scores_of_one_kind_share_the_shape_of_their_tails():
    rng = np.random.default_rng(SEED)
    scales = np.array([1.0, 2.0, 4.0])
    scores = np.sqrt(scales) * np.sqrt(4.0 * (rng.random((20_000, 3)) ** -0.25 - 1.0))
    alone = threshold.learn_tails(scores)
    shared = threshold.learn_tails(scores, is_shape_shared=True)
    assert np.unique(alone.shape).size == 3
    assert shared.shape == pytest.approx(np.full(3, alone.shape.mean()))
    assert np.abs(shared.shape - 0.25).max() < 0.06
    quantiles = np.sqrt(scales * 4.0 * (1e-3**-0.25 - 1.0))
    found = shared.surprise(quantiles[None])[0]
    assert found == pytest.approx(np.full(3, -math.log(1e-3)), abs=0.7)


def test_no_score_is_called_impossible():
    rng = np.random.default_rng(SEED)
    bounded = rng.random((1000, 1))  # a tail that ends; fitted freely it would forbid 2
    surprise = threshold.learn_tails(bounded).surprise(np.array([[2.0], [1e6], [np.inf]]))
    assert np.isfinite(surprise[:2]).all()
    assert (np.diff(surprise[:, 0]) > 0).all()


@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.floats(-10, 50), min_size=2, max_size=20),
)
def test_a_larger_score_is_never_less_of_a_surprise(seed, scores):
    learned = exponential_squares(np.random.default_rng(seed), threshold.LEAST_PASSES)
    ordered = np.sort(np.array(scores))[:, None]
    surprise = threshold.learn_tails(learned).surprise(ordered)
    assert (np.diff(surprise[:, 0]) >= -1e-12).all()
    assert (surprise >= 0).all()


def test_constant_scores_teach_without_dividing_by_nothing():
    tails = threshold.learn_tails(np.zeros((threshold.LEAST_PASSES, 2)))
    assert np.isfinite(tails.surprise(np.array([[0.0, 3.0]]))).all()


def test_too_few_passages_teach_nothing():
    scores = np.ones((threshold.LEAST_PASSES - 1, 1))
    with pytest.raises(ValueError, match=r"199 benign passages are too few.*200 are needed"):
        threshold.learn_tails(scores)


def test_p_values_of_passages_that_taught_nothing_are_uniform():
    rng = np.random.default_rng(SEED)
    tails = threshold.learn_tails(exponential_squares(rng, 5000))
    fresh = np.exp(-tails.surprise(exponential_squares(rng, 1000)))[:, 0]
    assert threshold.uniformity_p(fresh) > 1e-3


def test_uniformity_sees_a_shift():
    uniform = (np.arange(1000) + 0.5) / 1000
    assert threshold.uniformity_p(uniform) > 0.999
    assert threshold.uniformity_p(0.9 * uniform) < 1e-6
    with pytest.raises(ValueError, match="no p-values"):
        threshold.uniformity_p(np.array([]))


def test_uniformity_allows_for_what_the_distribution_was_learned_from():
    """As many learned from as tested: the distance counts as that of half as many."""
    uniform = (np.arange(1000) + 0.5) / 1000
    shifted = np.clip(uniform + 0.06, 0, 1)
    half = np.clip((np.arange(500) + 0.5) / 500 + 0.06, 0, 1)
    both = threshold.uniformity_p(shifted, learned_from=1000)
    assert both == pytest.approx(threshold.uniformity_p(half), rel=0.1)
    assert threshold.uniformity_p(shifted) < 0.05 * both


def test_uniformity_has_the_tabled_critical_value():
    # Stephens (1970), table 1: the modified D exceeds 1.358 with probability 0.05.
    count = 100
    root = math.sqrt(count)
    apart = 1.358 / (root + 0.12 + 0.11 / root)
    shifted = np.clip((np.arange(count) + 0.5) / count + apart - 0.5 / count, 0.0, 1.0)
    assert threshold.uniformity_p(shifted) == pytest.approx(0.05, abs=0.001)


def test_together_is_the_weighted_bonferroni_bound():
    p, weights = (1e-4, 0.2, 1e-3), (0.5, 0.3, 0.2)
    fused = threshold.together(-np.log(np.array([p])), weights)
    assert math.exp(-fused[0]) == pytest.approx(min(1e-4 / 0.5, 0.2 / 0.3, 1e-3 / 0.2))
    ones = threshold.together(np.zeros((1, 3)), weights)
    assert ones[0] == 0.0  # p is 1, not more


@pytest.mark.parametrize("weights", [(0.6, 0.5), (1.0, 0.0), (1.2, -0.2)])
def test_weights_that_spend_too_much_or_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="must be positive and sum to at most 1"):
        threshold.together(np.zeros((1, 2)), weights)


def test_the_fused_p_keeps_its_rate_under_full_dependence_and_under_none():
    rng = np.random.default_rng(SEED)
    passes, rate, weights = 40_000, 0.01, (0.5, 0.3, 0.2)
    free = rng.random((passes, 3))
    same = np.repeat(free[:, :1], 3, axis=1)
    for p in (free, same):
        alarms = int((np.exp(-threshold.together(-np.log(p), weights)) < rate).sum())
        assert alarms <= passes * rate + 4 * math.sqrt(passes * rate)


def test_a_normal_surprise_is_its_tail_times_the_looks():
    # P(Z > 5) = 2.866516e-7 (Abramowitz and Stegun, table 26.2)
    assert math.exp(-threshold.normal_surprise(np.array(5.0), 1.0)) == pytest.approx(
        2.866516e-7, rel=1e-5
    )
    assert math.exp(-threshold.normal_surprise(np.array(5.0), 1000.0)) == pytest.approx(
        2.866516e-4, rel=1e-5
    )
    assert threshold.normal_surprise(np.array(-3.0), 1000.0) == 0.0


def test_no_alarm_in_2995_passages_supports_one_in_a_thousand():
    assert threshold.rate_bound(0, 2995) == pytest.approx(1e-3, rel=1e-3)
    assert threshold.rate_bound(0, 2994) > 1e-3
    assert threshold.rate_bound(0, 100) == pytest.approx(1 - 0.05 ** (1 / 100))  # closed form
    assert threshold.rate_bound(3, 3) == 1.0
    assert threshold.rate_bound(0, 0) == 1.0


def test_a_rate_bound_covers_what_it_says():
    # Below the bound's rate so few events have 5 %: sum of the binomial's lower tail.
    bound = threshold.rate_bound(2, 50)
    tail = sum(math.comb(50, k) * bound**k * (1 - bound) ** (50 - k) for k in range(3))
    assert tail == pytest.approx(0.05)


@pytest.mark.parametrize("expected", [0.0, 0.4, 4.0, 25.0])
def test_a_poisson_band_holds_at_least_its_probability_and_no_count_too_many(expected):
    def chance(counts):
        return sum(math.exp(-expected) * expected**k / math.factorial(k) for k in counts)

    low, high = threshold.poisson_band(expected)
    assert chance(range(low, high + 1)) >= 0.95
    assert chance(range(low)) <= 0.025
    assert 1 - chance(range(high + 1)) <= 0.025
    assert chance(range(low + 1)) >= 0.025  # the next count up would leave too much below


def test_an_upper_poisson_bound_leaves_five_percent_below():
    assert threshold.poisson_upper(0) == pytest.approx(-math.log(0.05))
    mean = threshold.poisson_upper(3)
    assert sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(4)) == pytest.approx(
        0.05
    )
