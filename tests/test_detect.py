"""Matched filters under a prior of harmless traffic, against explicit matrices and closed forms."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from agent.analysis.detection import learning, model, nuisance, threshold
from agent.analysis.detection import score as detect
from agent.analysis.detection.model import Shapes
from agent.analysis.detection.nuisance import Nuisance
from agent.analysis.response.library import Library

SEED = 20261123
SLICE_S = 0.5
SLICES = 16
BINS = 12
EDGES_KEV = np.linspace(40.0, 2800.0, BINS + 1)
MIDDLES_KEV = 0.5 * (EDGES_KEV[1:] + EDGES_KEV[:-1])


@pytest.fixture(autouse=True)
def said_seed():
    print(f"seed {SEED}")


def falling(counts):
    shape = np.exp(-MIDDLES_KEV / 700.0)
    return counts * shape / shape.sum()


def peaks(names, energies_kev, width_kev=150.0):
    apart = (MIDDLES_KEV[None, :] - np.array(energies_kev)[:, None]) / width_kev
    shapes = np.exp(-0.5 * apart**2)
    shapes /= shapes.sum(axis=1, keepdims=True)
    return Library(names=tuple(names), shapes=shapes, edges_kev=EDGES_KEV)


def shapes_sought():
    return Shapes(
        library=peaks(("Cs-137", "Co-60", "Am-241"), (662.0, 1250.0, 80.0)),
        dictionary=peaks([f"{e} keV" for e in (100, 400, 900, 1800)], (100, 400, 900, 1800)),
        norm=peaks(("K-40", "Ra-226", "Th-232"), (1460.0, 700.0, 2600.0), 300.0),
        loads=peaks(("K-40", "Ra-226", "Th-232"), (1460.0, 700.0, 2600.0), 300.0),
    )


def small_prior(rng, slices=6, bins=5, modes=2, *, strength=3.0):
    """A prior of one case with dense covariances, and that covariance per cosine."""
    orthonormal = np.linalg.qr(rng.standard_normal((bins, modes)))[0]
    mixing = rng.standard_normal((slices, modes, modes))
    covariance = strength * mixing @ mixing.swapaxes(1, 2)
    gain = covariance @ np.linalg.inv(np.eye(modes) + covariance)
    basis = nuisance.cosines(slices)
    return one_case(basis, orthonormal, gain), covariance


def one_case(basis, modes, gain):
    return Nuisance(cosines=basis, modes=modes, gain=gain[None], weight=np.zeros(1))


def whole_covariance(prior, covariance):
    """1 + B Λ Bᵀ over (slice, bin) flattened, B the products of cosine and mode."""
    slices, (bins, modes) = len(prior.cosines), prior.modes.shape
    whole = np.eye(slices * bins)
    for f in range(slices):
        columns = np.array([np.kron(prior.cosines[f], prior.modes[:, k]) for k in range(modes)]).T
        whole += columns @ covariance[f] @ columns.T
    return whole


@pytest.mark.parametrize("slices", [1, 2, 7, 40])
def test_the_cosines_are_orthonormal_and_slow_first(slices):
    basis = nuisance.cosines(slices)
    assert basis @ basis.T == pytest.approx(np.eye(slices), abs=1e-12)
    turns = (np.diff(np.sign(basis), axis=1) != 0).sum(axis=1)
    assert turns.tolist() == list(range(slices))


def test_cleaning_is_the_inverse_of_the_whole_covariance():
    rng = np.random.default_rng(SEED)
    prior, covariance = small_prior(rng)
    inverse = np.linalg.inv(whole_covariance(prior, covariance))
    white = rng.standard_normal((3, 6, 5))
    cleaned, case = prior.clean(white)
    assert cleaned.reshape(3, 30) == pytest.approx(white.reshape(3, 30) @ inverse)
    assert case.tolist() == [0, 0, 0]


def test_the_case_is_the_likeliest_one_given_the_window():
    rng = np.random.default_rng(SEED)
    basis, modes = nuisance.cosines(6), np.linalg.qr(rng.standard_normal((5, 2)))[0]
    mixing = rng.standard_normal((6, 2, 2))
    shared = mixing @ mixing.swapaxes(1, 2)
    covariances, chances = np.stack([0.1 * shared, 2.0 * shared, 30.0 * shared]), (0.5, 0.3, 0.2)
    prior = nuisance.of_cases(basis, modes, covariances, np.array(chances))
    seen = set()
    for size in (0.5, 1.0, 2.0, 4.0, 8.0):
        white = size * rng.standard_normal((6, 5))
        odds = []
        for covariance, chance in zip(covariances, chances, strict=True):
            whole = whole_covariance(prior, covariance)
            fit = white.ravel() @ np.linalg.solve(whole, white.ravel())
            odds.append(math.log(chance) - 0.5 * (fit + np.linalg.slogdet(whole)[1]))
        cleaned, case = prior.clean(white)
        assert case == int(np.argmax(odds))
        whole = whole_covariance(prior, covariances[case])
        assert cleaned.ravel() == pytest.approx(np.linalg.solve(whole, white.ravel()))
        seen.add(int(case))
    assert seen == {0, 1, 2}


def test_traffic_teaches_how_often_vehicles_take_how_much_away():
    rng = np.random.default_rng(SEED)
    passes, slices, bins = 3000, 16, 8
    basis = nuisance.cosines(slices)
    direction = np.full(bins, 1.0) / math.sqrt(bins)
    # Most vehicles take little away, one in four takes eight times as much.
    scale = np.where(rng.random(passes) < 0.25, 8.0, 1.0)
    amounts = 6.0 * np.exp(-np.arange(slices) / 2.0) * rng.standard_normal((passes, slices))
    slow = np.einsum("p,pf,b->pfb", scale, amounts, direction)
    white = basis.T @ slow + rng.standard_normal((passes, slices, bins))
    load = rng.random((1, bins))
    prior = nuisance.learn(white, SLICE_S, load, 0.1)
    _, case = prior.clean(white)
    taken = np.array(nuisance.SCALES)[case // 2]
    largest = scale > 1.0
    # Scales are known up to a factor: what they say is which vehicles take more.
    assert np.median(taken[largest]) >= 4 * np.median(taken[~largest])
    wrong = (taken >= 4 * np.median(taken[~largest])) != largest
    assert wrong.mean() < 0.15


def test_power_is_the_quadratic_form_of_the_inverse():
    rng = np.random.default_rng(SEED)
    prior, covariance = small_prior(rng)
    inverse = np.linalg.inv(whole_covariance(prior, covariance))
    profiles, shapes = rng.random((4, 6)), rng.standard_normal((3, 5))
    power = prior.power(profiles, shapes)[0]
    for p in range(4):
        for t in range(3):
            signal = np.kron(profiles[p], shapes[t])
            assert power[p, t] == pytest.approx(signal @ inverse @ signal)


def test_z_is_the_generalised_least_squares_estimate_over_its_error():
    rng = np.random.default_rng(SEED)
    prior, covariance = small_prior(rng)
    whole = whole_covariance(prior, covariance)
    expected, shapes = rng.uniform(50, 100, 5), rng.random((3, 5))
    profiles = detect.Profiles(
        values=rng.random((4, 6)), peak_s=np.arange(4.0), half_width_s=np.ones(4)
    )
    filters = detect.bank(shapes, expected, prior, profiles)
    white = rng.standard_normal((6, 5))
    z, which = filters.best(*prior.clean(white), profiles, slice(None))
    for t in range(3):
        scores = []
        for profile in profiles.values:
            signal = np.kron(profile, shapes[t] / np.sqrt(expected))
            weighed = np.linalg.solve(whole, signal)
            strength = weighed @ white.ravel() / (weighed @ signal)
            scores.append(strength / math.sqrt(1.0 / (weighed @ signal)))
        assert z[t] == pytest.approx(max(scores))
        assert which[t] == int(np.argmax(scores))


def one_z(prior, shape, expected, profile, counts):
    profiles = detect.Profiles(values=profile[None], peak_s=np.zeros(1), half_width_s=np.ones(1))
    filters = detect.bank(shape[None], expected, prior, profiles)
    cleaned = prior.clean(detect.whiten(counts, expected))
    return filters.best(*cleaned, profiles, slice(None))[0][:, 0]


def free_modes(modes, gain):
    """A prior whose modes are all free (1) or all absent (0)."""
    count = modes.shape[1]
    return one_case(nuisance.cosines(SLICES), modes, np.tile(gain * np.eye(count), (SLICES, 1, 1)))


@pytest.mark.parametrize("gain", [0.0, 1.0])
def test_z_is_standard_normal_without_a_source(gain):
    rng = np.random.default_rng(SEED)
    passes, expected = 4000, falling(4000.0)
    modes = np.linalg.qr(rng.standard_normal((BINS, 3)))[0]
    counts = rng.poisson(expected, (passes, SLICES, BINS)).astype(float)
    profile = detect.point_profiles(SLICES, SLICE_S).values[20]
    z = one_z(free_modes(modes, gain), peaks("x", (662.0,)).shapes[0], expected, profile, counts)
    # Standard errors: 1/sqrt(n) of the mean, sqrt(2/n) of the variance; four of each.
    assert abs(z.mean()) < 4 / math.sqrt(passes)
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / passes)


def test_z_is_standard_normal_where_traffic_is_as_the_prior_says():
    rng = np.random.default_rng(SEED)
    passes, slices, bins = 4000, 6, 5
    prior, covariance = small_prior(rng, slices, bins)
    amounts = np.einsum(
        "fkl,pfl->pfk", np.linalg.cholesky(covariance), rng.standard_normal((passes, slices, 2))
    )
    traffic = np.einsum("fs,pfk,bk->psb", prior.cosines, amounts, prior.modes)
    expected = np.full(bins, 1e4)
    counts = rng.poisson(expected + np.sqrt(expected) * traffic).astype(float)
    profile = np.array([0.1, 0.4, 1.0, 0.4, 0.1, 0.0])
    z = one_z(prior, rng.random(bins), expected, profile, counts)
    assert abs(z.mean()) < 4 / math.sqrt(passes)
    # Traffic itself makes the counts a little more or less noisy than the background alone.
    assert abs(z.var() - 1) < 4 * math.sqrt(2 / passes) + 0.02


def test_a_free_direction_is_invisible():
    rng = np.random.default_rng(SEED)
    expected = falling(1000.0)
    shape = peaks("x", (662.0,)).shapes[0]
    direction = (shape / np.sqrt(expected))[:, None]
    prior = free_modes(direction / np.linalg.norm(direction), 1.0)
    white = np.outer(rng.standard_normal(SLICES), direction[:, 0])
    assert prior.clean(white)[0] == pytest.approx(np.zeros((SLICES, BINS)), abs=1e-12)
    # The shape itself can then not be told from traffic: it scores nothing, not infinity.
    counts = rng.poisson(expected, (5, SLICES, BINS)).astype(float)
    profile = detect.point_profiles(SLICES, SLICE_S).values[20]
    assert one_z(prior, shape, expected, profile, counts).tolist() == [0.0] * 5


def test_a_wiener_filter_takes_negative_variances_as_none():
    covariance = np.array([[[[-0.5, 0.0], [0.0, 3.0]]]])
    prior = nuisance.of_cases(np.eye(1), np.eye(2), covariance, np.ones(1))
    assert prior.gain[0, 0] == pytest.approx(np.array([[0.0, 0.0], [0.0, 0.75]]))
    assert prior.weight == pytest.approx([-0.5 * math.log(4.0)])


def test_nothing_expected_is_no_residual():
    white = detect.whiten(np.array([3.0, 8.0]), np.array([0.0, 4.0]))
    assert white.tolist() == [0.0, 2.0]


def test_the_noise_behind_a_vehicle_is_brought_to_one():
    rng = np.random.default_rng(SEED)
    expected = falling(5000.0)
    behind = rng.poisson(0.5 * expected, (300, SLICES, BINS)).astype(float)
    white = detect.whiten(behind, expected)
    even = detect.equalised(white, np.sqrt(expected), SLICE_S)
    assert white.var(axis=0).mean() == pytest.approx(0.5, abs=0.02)
    assert even.var(axis=0).mean() == pytest.approx(1.0, abs=0.04)
    flat = rng.poisson(expected, (300, SLICES, BINS)).astype(float)
    white = detect.whiten(flat, expected)
    even = detect.equalised(white, np.sqrt(expected), SLICE_S)
    assert even == pytest.approx(white, rel=0.1, abs=1e-9)


def test_the_residual_counts_standard_deviations_of_chi_square():
    rng = np.random.default_rng(SEED)
    cleaned = rng.standard_normal((2000, 1, 40))  # one slice: every span is that slice
    power = detect.residual(cleaned, 8.0)
    assert abs(power.mean()) < 4 / math.sqrt(2000)
    assert power.var() == pytest.approx(1.0, abs=0.2)


# ------------------------------------------------------------------ the whole model


def traffic(rng, passes, slices=SLICES, cps=2000.0):
    """Benign passages: each vehicle takes up to a third away, less at high energy."""
    expected = falling(cps * SLICE_S)
    at = np.arange(slices)
    depth = rng.uniform(0, 0.33, (passes, 1))
    middle = rng.uniform(0.3, 0.7, (passes, 1)) * slices
    course = depth * np.exp(-0.5 * ((at - middle) / (0.2 * slices)) ** 2)
    kept = 1.0 - course[:, :, None] * (1.0 - 0.3 * np.log10(MIDDLES_KEV / 100.0))
    background = rng.poisson(expected / SLICE_S * 60.0, (passes, BINS)).astype(float)
    counts = rng.poisson(expected * kept).astype(float)
    return counts, (background * SLICE_S / 60.0)[:, None], background


def source(strength_cps, peak_slice, slices=SLICES, energy_kev=662.0):
    at_s = (np.arange(slices) - peak_slice) * SLICE_S
    profile = (1.0 + at_s**2) ** -1.25
    return strength_cps * SLICE_S * np.outer(profile, peaks("x", (energy_kev,)).shapes[0])


@pytest.fixture(scope="module")
def taught():
    counts, expected, background = traffic(np.random.default_rng(SEED), 1200)
    return learning.learn(counts, expected, background, shapes_sought(), SLICE_S, 1e-2)


def assumed(cps=2000.0, rate=1e-2):
    return learning.assume(shapes_sought(), falling(cps), SLICE_S, rate)


def test_p_values_of_benign_passages_are_uniform_on_fresh_traffic(taught):
    fresh = traffic(np.random.default_rng(SEED + 1), 1000)
    p = model.judge(taught, *fresh).p
    assert threshold.uniformity_p(p) > 1e-3
    assert not taught.is_provisional
    low, high = threshold.poisson_band(0.01 * 1000, 0.999)
    assert low <= int((p < 0.01).sum()) <= high


def test_streaming_gives_what_the_batch_gives(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 2), 4)
    batch = model.judge(taught, counts, expected, background)
    smooth = taught.empty.steadied(expected, background[:, None])
    for i in range(4):
        stream = model.begin(taught)
        for number in range(SLICES):
            stream = model.add(taught, stream, counts[i, number], smooth[i, 0])
        single = model.verdict(taught, model.end(taught, stream))
        for name in ("p", "z", "peak_slice", "half_width_s", "surprises"):
            assert getattr(single, name) == pytest.approx(getattr(batch, name)[i], rel=1e-9)
        assert single.template == batch.template[i]
        assert single.statistic == batch.statistic[i]


def test_before_the_first_look_nothing_is_claimed(taught):
    stream = model.begin(taught)
    assert model.verdict(taught, stream).p == 1.0
    stream = model.add(taught, stream, 50 * falling(1000.0), falling(1000.0))
    assert model.verdict(taught, stream).p == 1.0


def test_a_source_is_found_where_it_stands_and_by_its_name(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 3), 1, 40)
    for peak in (8, 14, 20, 31):
        seen = counts + np.random.default_rng(SEED).poisson(source(600.0, peak, 40))
        verdict = model.judge(taught, seen, expected, background)
        assert verdict.p[0] < 1e-4
        assert verdict.peak_slice[0] == pytest.approx(peak, abs=1.0)
        assert taught.shapes.library.names[verdict.template[0]] == "Cs-137"
        assert model.STATISTICS[verdict.statistic[0]] == "score"


def test_a_source_that_no_template_has_is_found_by_single_energies(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 4), 1)
    verdict = model.judge(taught, counts + source(300.0, 8, energy_kev=400.0), expected, background)
    assert verdict.p[0] < 1e-2
    score, dictionary = verdict.surprises[0, :2]
    assert dictionary > score + 1.0


def test_a_stronger_source_is_never_less_likely(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 5), 1)
    ps = [
        float(model.judge(taught, counts + source(strength, 8), expected, background).p[0])
        for strength in (0.0, 100.0, 200.0, 400.0, 800.0, 1600.0)
    ]
    print(ps)
    assert all(after <= before for before, after in itertools.pairwise(ps))
    assert ps[-1] < 1e-6


def test_padding_after_a_passage_changes_nothing(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 6), 6)
    expected = np.repeat(expected, SLICES, axis=1)
    lengths = (16, 16, 13, 11, 9, 16)
    for i, length in enumerate(lengths):
        counts[i, length:], expected[i, length:] = 0.0, 0.0
    padded = model.judge(
        taught,
        np.pad(counts, ((0, 0), (0, 25), (0, 0))),
        np.pad(expected, ((0, 0), (0, 25), (0, 0))),
        background,
    )
    for i, length in enumerate(lengths):
        one = slice(i, i + 1)
        alone = model.judge(taught, counts[one, :length], expected[one, :length], background[one])
        assert alone.p[0] == pytest.approx(padded.p[i], rel=1e-9)
        assert alone.peak_slice[0] == padded.peak_slice[i]


def test_a_bin_without_a_background_count_still_sees_a_source(taught):
    counts, expected, background = traffic(np.random.default_rng(SEED + 7), 1)
    background[:, -2:], expected[..., -2:] = 0.0, 0.0
    seen = counts.copy()
    seen[..., -2] += 200 * (np.abs(np.arange(SLICES) - 8) < 2)
    assert model.judge(taught, seen, expected, background).p[0] < 1e-4


def test_too_few_passages_teach_no_model():
    counts, expected, background = traffic(np.random.default_rng(SEED), learning.LEAST_TO_LEARN - 1)
    with pytest.raises(ValueError, match="399 benign passages; at least 400 are needed"):
        learning.learn(counts, expected, background, shapes_sought(), SLICE_S, 1e-2)


@pytest.mark.parametrize("cps", [20.0, 200.0, 5000.0])
def test_an_assumed_model_is_provisional_and_alarms_less_than_asked(cps):
    rng, passes, rate = np.random.default_rng(SEED), 2000, 1e-2
    guessed = assumed(cps, rate)
    assert guessed.is_provisional
    counts = rng.poisson(falling(cps * SLICE_S), (passes, SLICES, BINS)).astype(float)
    background = rng.poisson(falling(cps * 30.0), (passes, BINS)).astype(float)
    p = model.judge(guessed, counts, (background * SLICE_S / 30.0)[:, None], background).p
    alarms = int((p < rate).sum())
    print(f"{alarms} of {passes}")
    assert alarms <= rate * passes


def test_an_assumed_model_finds_a_source_and_suffers_a_vehicle():
    guessed = assumed()
    counts, expected, background = traffic(np.random.default_rng(SEED + 8), 300)
    p = model.judge(guessed, counts, expected, background).p
    assert int((p < 1e-2).sum()) <= 9  # twice the rate asked, and three standard errors
    seen = counts[:5] + source(900.0, 8)
    assert (model.judge(guessed, seen, expected[:5], background[:5]).p < 1e-4).all()


def test_the_smoothed_background_keeps_its_total_and_loses_its_noise():
    rng = np.random.default_rng(SEED)
    truth = falling(3000.0)
    empty = learning.learn_empty(rng.poisson(truth, (500, BINS)).astype(float))
    counts = rng.poisson(truth, (200, BINS)).astype(float)
    smooth = empty.smoothed(counts)
    scaled = truth * counts.sum(axis=1, keepdims=True) / truth.sum()
    assert np.abs(smooth - scaled).mean() < 0.5 * np.abs(counts - scaled).mean()
    assert smooth.sum(axis=1) == pytest.approx(counts.sum(axis=1), rel=0.01)


def test_long_passages_teach_by_all_their_windows():
    white = np.arange(3 * 40.0).reshape(3, 40, 1)
    windows = learning._windows(white, np.array([40, 30, 10]), 16)
    firsts = [(int(each[0, 0]) // 40, int(each[0, 0]) % 40) for each in windows]
    assert firsts == [(0, 0), (1, 0), (2, 0), (0, 8), (1, 8), (0, 16), (0, 24)]
    short = learning._windows(white[:, :10], np.array([10] * 3), 16)
    assert short.shape == (3, 16, 1)
    assert not short[:, :6].any()


def test_a_few_passages_teach_the_prior_but_no_threshold():
    counts, expected, _ = traffic(np.random.default_rng(SEED + 9), 30)
    few = learning.learn_prior(counts, expected, shapes_sought(), SLICE_S, 1e-2)
    assert few.is_provisional
    # What a vehicle takes away is slow: the slow cosines are free, the fast ones hardly at all.
    free = np.trace(few.nuisance.gain, axis1=2, axis2=3)
    bare = free[::2]  # every other case has no load
    assert (bare[:, 1] > 3 * bare[:, -4:].mean(axis=1)).all()
    assert (np.diff(bare[:, 1]) > 0).all()


def test_a_model_says_its_look_and_its_window(taught):
    assert (taught.slices, taught.look) == (16, 2)
    assert replace(taught, slice_s=2.0).look == 1
