"""Energy grids, peaks, scales from known lines, and the gain tracked on background."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.analysis.energy.fit import KnownLine, fit_scale, separate
from agent.analysis.energy.gain import POTASSIUM_KEV, GainPrior, of_line, track
from agent.analysis.energy.peaks import fitted, significance
from agent.analysis.energy.scale import polynomial_edges, rebin_matrix, sqrt_grid
from agent.analysis.response.detector import Detector
from agent.analysis.response.templates import background_components

SPECTRA = Path(__file__).resolve().parents[2] / "shared" / "data" / "spectra"
NAI = Detector(material="nai", sides_cm=(5.08, 10.16, 40.64))
EDGES = np.linspace(0.01, 3072.0, 1025)
BACKGROUND_CPS = 1700.0
SHARES = np.array([0.33, 0.22, 0.40, 0.05])
FWHM_PER_SIGMA = 2.3548


@pytest.fixture(scope="module")
def components():
    return background_components(NAI, EDGES)


# ------------------------------------------------------------------ grids


def test_a_grid_is_even_in_the_root_of_the_energy():
    grid = sqrt_grid(25, 3025, 10)
    assert grid[[0, 1, -1]] == pytest.approx([25, 100, 3025])


@pytest.mark.parametrize("args", [(30, 20, 5), (-1, 20, 5), (30, 40, 0)])
def test_a_grid_without_bins_is_refused(args):
    with pytest.raises(ValueError, match="a grid needs"):
        sqrt_grid(*args)


def test_a_polynomial_gives_the_lower_edges():
    assert polynomial_edges((-2.0, 3.0, 0.5), 3) == pytest.approx([-2, 1.5, 6, 11.5])


def test_a_falling_scale_is_refused():
    with pytest.raises(ValueError, match="does not rise"):
        polynomial_edges((0.0, 3.0, -0.01), 1024)


@given(
    slope=st.floats(1.0, 10.0),
    offset=st.floats(30.0, 100.0),
    counts=st.lists(st.integers(0, 1000), min_size=4, max_size=40),
)
def test_rebinning_loses_no_count_inside_the_grid(slope, offset, counts):
    edges = polynomial_edges((offset, slope), len(counts))
    grid = sqrt_grid(30, 600, 32)
    moved = np.array(counts) @ rebin_matrix(edges, grid)
    assert moved.sum() == pytest.approx(sum(counts))


# ------------------------------------------------------------------ peaks


def gauss(channel, fwhm, area, channels=512):
    sigma = fwhm / FWHM_PER_SIGMA
    middle = np.arange(channels) + 0.5
    bump = np.exp(-0.5 * ((middle - channel) / sigma) ** 2)
    return area * bump / bump.sum()


def test_a_peak_is_placed_and_measured_within_its_stated_errors():
    rng = np.random.default_rng(4)
    truth = gauss(201.3, 18, 4000) + 40 - 0.03 * np.arange(512)
    pulls = []
    for _ in range(60):
        peak = fitted(rng.poisson(truth), 204, 20)
        pulls.append((peak.channel - 201.3) / peak.sigma_channel)
        assert peak.fwhm_channels == pytest.approx(18, rel=0.15)
        assert peak.net_counts == pytest.approx(4000, rel=0.2)
        assert peak.net_counts == pytest.approx(4000, abs=5 * peak.sigma_net)
    assert abs(np.mean(pulls)) < 0.5
    assert 0.7 < np.std(pulls) < 1.4


def test_where_no_peak_stands_none_is_significant():
    rng = np.random.default_rng(5)
    flat = rng.poisson(50, 512)
    peak = fitted(flat, 200, 18)
    assert peak is None or peak.significance < 5
    assert np.abs(significance(flat, np.linspace(60, 450, 50), np.full(50, 18.0))).max() < 5


def test_a_peak_at_the_very_edge_is_no_peak():
    assert fitted(np.full(512, 10.0), 1.0, 2.0) is None
    assert significance(np.full(64, 9.0), np.array([1.0, 63.0]), np.array([9.0, 9.0])).max() == 0


# ------------------------------------------------------------------ scales from lines


def spectrum(lines, coefficients, *, counts=20_000, channels=1024, seed=7, detector=NAI):
    """Return Poisson counts of Gaussian lines, and a continuum that falls with energy."""
    edges = polynomial_edges(coefficients, channels)
    middle = (edges[1:] + edges[:-1]) / 2
    truth = 300 * np.exp(-np.maximum(middle, 0) / 500)
    for line in lines:
        sigma = float(detector.fwhm_kev(np.array(line.energy_kev))) / FWHM_PER_SIGMA
        bump = np.exp(-0.5 * ((middle - line.energy_kev) / sigma) ** 2) * np.diff(edges)
        truth = truth + line.per_100 / 100 * counts * bump / bump.sum()
    return np.random.default_rng(seed).poisson(truth)


def known(*pairs):
    return tuple(KnownLine(name="X", energy_kev=e, per_100=p) for e, p in pairs)


CO60 = known((1173.23, 99.85), (1332.49, 99.98))
CS137 = known((661.66, 85.0))
NA22 = known((511.0, 180.0), (1274.54, 99.9))
EU152 = known((121.78, 28), (344.28, 27), (778.9, 13), (964.1, 14), (1112.1, 14), (1408.0, 21))


@pytest.mark.parametrize("slope", [2.5, 3.0, 3.7])
@pytest.mark.parametrize("lines", [CS137, CO60, NA22], ids=["Cs-137", "Co-60", "Na-22"])
def test_an_unknown_scale_is_found_from_a_check_source(lines, slope):
    fit = fit_scale(spectrum(lines, (0.0, slope)), lines, NAI.fwhm_kev)
    assert fit.reasons == ()
    edges = polynomial_edges(fit.coefficients_kev, 1024)
    assert edges[-1] == pytest.approx(1024 * slope, rel=0.004)


def test_one_line_leaves_the_offset_as_it_was():
    fit = fit_scale(spectrum(CS137, (12.0, 3.0)), CS137, NAI.fwhm_kev, (12.0, 2.9))
    assert fit.coefficients_kev == pytest.approx((12.0, 3.0), rel=0.003)


def test_two_lines_far_apart_tell_offset_and_slope():
    fit = fit_scale(spectrum(NA22, (-15.0, 3.1)), NA22, NAI.fwhm_kev, (0.0, 3.0))
    assert fit.coefficients_kev == pytest.approx((-15.0, 3.1), rel=0.05)


def test_five_lines_tell_the_bend_too():
    fit = fit_scale(spectrum(EU152, (-6.0, 2.4, 4e-4)), EU152, NAI.fwhm_kev, (0.0, 2.6))
    assert fit.reasons == ()
    truth = polynomial_edges((-6.0, 2.4, 4e-4), 1024)
    found = polynomial_edges(fit.coefficients_kev, 1024)
    used = (truth > 100) & (truth < 1500)
    assert np.abs(found - truth)[used].max() < 4


@pytest.mark.parametrize(
    ("counts", "lines", "said"),
    [
        (np.zeros(1024), CS137, "was not usable|no line of the source"),
        (np.random.default_rng(1).poisson(20, 1024), CO60, "no line of the source|not usable"),
        (spectrum(CS137, (0.0, 3.0), counts=100), CS137, "count longer|no line|no peak"),
        (spectrum(CS137, (0.0, 3.0)), CO60, "no line of the source was found"),
        (spectrum(known((59.54, 36)), (0.0, 3.0)), known((59.54, 36)), "says nothing of a scale"),
    ],
    ids=["no counts", "flat", "too few counts", "another source", "only a low line"],
)
def test_data_that_support_no_scale_give_a_reason_and_none(counts, lines, said):
    fit = fit_scale(counts, lines, NAI.fwhm_kev, (0.0, 3.0))
    assert fit.coefficients_kev == ()
    assert any(re.search(said, reason) for reason in fit.reasons), fit.reasons


def test_without_lines_there_is_no_scale():
    assert "no line that stands alone" in fit_scale(np.ones(64), (), NAI.fwhm_kev).reasons[0]


def test_lines_that_make_one_peak_are_one_and_spoilt_ones_are_left_out():
    lines = known((100, 10), (102, 30), (500, 50), (540, 50), (1500, 5), (1530, 0.1))
    apart = separate(lines, lambda energies: np.full(len(energies), 30.0))
    assert [(round(line.energy_kev, 1), line.per_100) for line in apart] == [
        (101.5, 40),
        (1500, 5),
        (1530, 0.1),
    ] or [round(line.energy_kev, 1) for line in apart] == [101.5, 1500]


# ------------------------------------------------------------------ gain tracking


def background(components, gain, offset_kev, live_s, seed):
    """Return counts at nominal edges whose true energy is offset + gain × nominal."""
    density = SHARES @ components * BACKGROUND_CPS * live_s
    below = np.concatenate(([0.0], np.cumsum(density)))
    true = offset_kev + gain * EDGES
    return np.random.default_rng(seed).poisson(np.diff(np.interp(true, EDGES, below)))


@pytest.mark.parametrize("gain", [1.0, 1.02, 0.975])
def test_a_line_tells_the_gain_where_the_background_is_not_the_known_shapes(components, gain):
    """Potassium's share is as it was; what lies below is of nothing that was computed."""
    potassium = components[0] / components[0].sum()
    strange = np.exp(-EDGES[:-1] / 300.0) * (1.0 + 0.3 * np.sin(EDGES[:-1] / 60.0))
    density = 40_000 * potassium + 200_000 * strange / strange.sum()
    below = np.concatenate(([0.0], np.cumsum(density)))
    mean = np.diff(np.interp(gain * EDGES, EDGES, below))
    width = float(NAI.fwhm_kev(np.array([POTASSIUM_KEV]))[0])
    prior = GainPrior(sigma_gain=0.01)
    for seed in range(5):
        counts = np.random.default_rng(seed).poisson(mean)
        assert track(counts, 600.0, EDGES, components).gain is None
        fit = of_line(counts, EDGES, width, prior)
        assert fit.gain == pytest.approx(gain, abs=0.004)
        assert 0 < fit.sigma_gain < 0.004


def test_no_line_or_another_one_tells_no_gain(components):
    width = float(NAI.fwhm_kev(np.array([POTASSIUM_KEV]))[0])
    smooth = np.random.default_rng(1).poisson(2000 * np.exp(-EDGES[:-1] / 600.0))
    assert of_line(smooth, EDGES, width, GainPrior(sigma_gain=0.01)) is None
    cobalt = np.exp(-0.5 * ((EDGES[:-1] - 1332.5) / (width / FWHM_PER_SIGMA)) ** 2)
    counts = np.random.default_rng(1).poisson(200 * np.exp(-EDGES[:-1] / 600.0) + 300 * cobalt)
    assert of_line(counts, EDGES, width, GainPrior(sigma_gain=0.01)) is None


@pytest.mark.parametrize(
    ("gain", "offset_kev"), [(1.0, 0.0), (1.03, 0.0), (0.97, 2.0), (1.10, 0.0), (0.92, -3.0)]
)
def test_a_minute_of_background_tells_the_gain_within_three_tenths_of_a_percent(
    components, gain, offset_kev
):
    fits = [
        track(background(components, gain, offset_kev, 60.0, seed), 60.0, EDGES, components)
        for seed in range(12)
    ]
    assert all(fit.reasons == () for fit in fits)
    gains = np.array([fit.gain for fit in fits])
    assert abs(gains.mean() / gain - 1) < 0.003
    assert gains.std() / gain < 0.003
    assert np.mean([fit.sigma_gain for fit in fits]) == pytest.approx(gains.std(), rel=0.8)
    assert np.mean([fit.quality for fit in fits]) == pytest.approx(1.0, abs=0.2)


def test_the_true_scale_puts_potassium_where_it_belongs(components):
    fit = track(background(components, 1.05, 0.0, 120.0, 3), 120.0, EDGES, components)
    nominal = (1460.8 - 0.0) / 1.05
    assert np.interp(nominal, EDGES, fit.corrected(EDGES)) == pytest.approx(1460.8, abs=4)


def test_shapes_that_are_wrong_where_they_are_smooth_do_not_move_the_gain(components):
    density = SHARES @ components * BACKGROUND_CPS * 60
    middle = (EDGES[1:] + EDGES[:-1]) / 2
    wrong = density * (1 + 0.3 * np.sin(np.sqrt(middle) / 9))
    gains = []
    for seed in range(8):
        counts = np.random.default_rng(seed).poisson(wrong)
        gains.append(track(counts, 60.0, EDGES, components).gain)
    assert abs(np.mean(gains) - 1) < 0.003


@pytest.mark.parametrize(
    ("counts", "live_s", "said"),
    [
        (np.zeros(1024), 60.0, "at least 20000 are needed"),
        (np.full(1024, 100.0), 0.0, "live time"),
        (np.full(1024, -1.0), 60.0, "negative"),
        (np.full(1024, np.nan), 60.0, "not a number"),
    ],
    ids=["no counts", "no time", "negative", "nan"],
)
def test_counts_that_tell_nothing_are_refused_with_a_reason(components, counts, live_s, said):
    fit = track(counts, live_s, EDGES, components)
    assert (fit.gain, fit.offset_kev, fit.sigma_gain) == (None, None, None)
    assert said in fit.reasons[0]
    with pytest.raises(ValueError, match=said):
        fit.corrected(EDGES)


def test_a_spectrum_without_the_backgrounds_peaks_is_refused(components):
    smooth = 4e5 * np.exp(-EDGES[:-1] / 300) / 300
    counts = np.random.default_rng(2).poisson(smooth * 3)
    fit = track(counts, 60.0, EDGES, components)
    assert fit.gain is None
    assert "as narrow as a peak" in fit.reasons[0]


def test_a_strong_source_is_no_background(components):
    source = 300_000 * gauss(220.5, 17, 1.0, channels=1024)
    counts = background(components, 1.0, 0.0, 60.0, 1) + np.random.default_rng(3).poisson(source)
    fit = track(counts, 60.0, EDGES, components)
    assert fit.gain is None
    assert "no plain background" in fit.reasons[0]


def test_a_sure_prior_holds_the_scale_against_few_counts(components):
    counts = background(components, 1.02, 0.0, 20.0, 8)
    held = track(counts, 20.0, EDGES, components, GainPrior(gain=1.0, sigma_gain=0.0005))
    free = track(counts, 20.0, EDGES, components)
    if free.gain is not None:
        assert abs(free.gain - 1.02) < 0.01
    assert held.gain is None or abs(held.gain - 1.0) < abs((free.gain or 1.02) - 1.0)


@pytest.mark.shared_data
@pytest.mark.skipif(not SPECTRA.is_dir(), reason="no shared spectra beside the project")
def test_a_measured_background_gives_the_same_scale_from_any_start_and_any_part():
    lines = (SPECTRA / "nai_measured_background.spe").read_text("latin-1").splitlines()
    at = lines.index("$DATA:")
    first, last = map(int, lines[at + 1].split())
    counts = np.array([int(line) for line in lines[at + 2 : at + 3 + last - first]])
    detector = Detector(material="nai", sides_cm=(7.62, 7.62, 7.62))
    potassium = []
    for slope in (1.95, 2.0, 2.06):
        edges = slope * np.arange(len(counts) + 1.0) + 0.01
        fit = track(counts, 3600.0, edges, background_components(detector, edges))
        potassium.append(np.interp(721.5, np.arange(len(edges)), fit.corrected(edges)))
    # The 1460.8 keV peak stands at channel 721.5 by eye and by a Gaussian on a line.
    assert potassium == pytest.approx([1460.8] * 3, rel=0.006)
    assert np.ptp(potassium) < 2
    edges = 2.0 * np.arange(len(counts) + 1.0) + 0.01
    half = np.random.default_rng(1).binomial(counts, 0.5)
    shapes = background_components(detector, edges)
    parts = [track(part, 1800.0, edges, shapes).gain for part in (half, counts - half)]
    assert parts[0] == pytest.approx(parts[1], rel=0.006)
