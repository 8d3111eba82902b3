"""Gross counting against worked examples and closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.counting.background import median_cps, parts_from_reference
from agent.analysis.counting.gross import groups_of, neutron_tail_p, nsigma, rounding_explains

SUM, VERTICAL = groups_of(["sum"]), groups_of(["vertical"])

# First alarms of a real lane: background, sums of one second, z of the sum and of either pillar.
WORKED = [
    ((267, 303, 289, 327), (314, 314, 368, 378), 5.459, 2.429, 5.238),
    ((397, 398, 427, 433), (558, 462, 441, 470), 6.784, 7.980, 1.739),
    ((398, 395, 430, 426), (559, 391, 431, 447), 4.408, 5.575, 0.752),
    ((385, 392, 417, 404), (440, 396, 540, 427), 5.128, 2.117, 5.095),
    ((393, 396, 445, 436), (370, 360, 617, 439), 2.839, -2.100, 5.896),
]


@pytest.mark.parametrize(("background", "sums", "z_sum", "z_12", "z_34"), WORKED)
def test_the_portals_rule_gives_the_worked_examples(background, sums, z_sum, z_12, z_34):
    z, group = nsigma(sums, background, SUM)
    assert z == pytest.approx(z_sum, abs=0.0006)
    assert group == (0, 1, 2, 3)
    assert nsigma(sums, background, [(0, 1)])[0] == pytest.approx(z_12, abs=0.0006)
    assert nsigma(sums, background, [(2, 3)])[0] == pytest.approx(z_34, abs=0.0006)
    assert nsigma(sums, background, VERTICAL)[0] == pytest.approx(max(z_12, z_34), abs=0.0006)


def test_the_combinations_are_the_portals_bits():
    assert groups_of(["horizontal"]) == ((0, 2), (1, 3))
    assert groups_of(["single"]) == ((0,), (1,), (2,), (3,))
    assert len(groups_of(["sum", "horizontal", "vertical", "single"])) == 9
    with pytest.raises(KeyError):
        groups_of(["diagonal"])


def test_a_detector_that_is_off_leaves_its_groups():
    assert groups_of(["vertical"], (True, False, True, True)) == ((0,), (2, 3))
    assert groups_of(["sum"], (False,) * 4) == ()


def test_no_background_decides_nothing():
    assert nsigma((100,) * 4, (0.0,) * 4, SUM) is None
    assert nsigma((100,) * 4, (400.0,) * 4, ()) is None
    assert not rounding_explains((100,) * 4, (400.0,) * 4, (), nsigma_limit=4.0, device_alarm=True)


def test_a_longer_window_expects_more():
    z, _ = nsigma((900, 900, 900, 900), (400.0,) * 4, SUM, window_s=2.0)
    assert z == pytest.approx((3600 - 3200) / math.sqrt(3200))


def test_rounding_explains_only_what_a_fraction_can():
    sums, printed = (440, 440, 440, 442), (400.0,) * 4
    z, _ = nsigma(sums, printed, SUM)
    assert z >= 4.0
    assert rounding_explains(sums, printed, SUM, nsigma_limit=4.0, device_alarm=False)
    assert not rounding_explains((500,) * 4, printed, SUM, nsigma_limit=4.0, device_alarm=False)
    assert not rounding_explains((420,) * 4, printed, SUM, nsigma_limit=4.0, device_alarm=True)


def poisson_tail(n, mean):
    return 1.0 - sum(math.exp(-mean) * mean**k / math.factorial(k) for k in range(n))


@pytest.mark.parametrize(("n", "mean"), [(1, 2.566), (5, 2.566), (9, 2.566), (12, 6.4)])
def test_a_background_known_for_ever_gives_the_poisson_tail(n, mean):
    assert neutron_tail_p(n, 1.0, mean, 1e9) == pytest.approx(poisson_tail(n, mean), rel=1e-5)


def test_the_tail_is_the_sum_of_the_binomial():
    n, k, share = 9, 312, 1.0 / 121.0
    total = n + k
    direct = sum(
        math.comb(total, i) * share**i * (1 - share) ** (total - i) for i in range(n, total + 1)
    )
    assert neutron_tail_p(n, 1.0, k / 120.0, 120.0) == pytest.approx(direct, rel=1e-9)


def test_no_neutrons_are_never_surprising():
    assert neutron_tail_p(0, 1.0, 2.5, 120.0) == 1.0
    assert neutron_tail_p(5, 1.0, 0.0, 120.0) < 1e-9


@given(st.integers(1, 60), st.floats(0.1, 20), st.integers(1, 10))
def test_a_shorter_background_is_never_more_certain(n, cps, window_s):
    short = neutron_tail_p(n, window_s, cps, 30.0)
    long_ = neutron_tail_p(n, window_s, cps, 3000.0)
    if long_ < 0.05:
        assert short >= long_ * (1 - 1e-9)


def test_the_median_does_not_follow_a_dip():
    history = [(400.0, 300.0)] * 20 + [(100.0, 50.0)] * 5
    assert median_cps(history) == (400.0, 300.0)
    with pytest.raises(ValueError, match="no background"):
        median_cps([])


def test_parting_is_measured_on_the_sum():
    assert not parts_from_reference((380.0, 420.0), (400.0, 400.0), 0.05)
    assert parts_from_reference((379.0, 380.0), (400.0, 400.0), 0.05)
    assert not parts_from_reference((1.0,), (0.0,), 0.05)
