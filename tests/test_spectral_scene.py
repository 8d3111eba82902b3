"""Simulated spectra: what a spectroscopic panel of a scene counts, and that it is the truth."""

from __future__ import annotations

import numpy as np
import pytest

from simulators import spectra
from simulators.exercise import SceneError
from simulators.scene import Scene
from simulators.spectra import BIN_KEV, BINS, ENERGY_KEV, NUCLIDES, Channels, shape
from simulators.spectrometer import SLICE_S, Spectrometer

CHANNELS = Channels(count=1024, kev_per_channel=3.0)
ALL = range(CHANNELS.count)


def scene_of(vehicle="", rest="", *, seed=1):
    car = f'[[vehicle]]\nid = "it"\nat_s = 30.0\n{vehicle}' if vehicle else ""
    return Scene.from_text(f'title = "spectra"\nseed = {seed}\n{rest}\n{car}', name="s.toml")


def panel(scene, **more):
    return Spectrometer(scene, crystal="NaI", channels=CHANNELS, **more)


def energy(channel):
    return (channel + 0.5) * CHANNELS.kev_per_channel


def share(spectrum, low_kev, high_kev):
    edges = slice(int(low_kev / 3), int(high_kev / 3))
    return float(np.sum(spectrum[edges]) / np.sum(spectrum))


# --- shapes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("crystal", sorted(spectra.CRYSTALS))
@pytest.mark.parametrize("name", [*NUCLIDES, "cosmic", "soil K-40"])
def test_a_shape_is_a_share_of_every_channel(name, crystal):
    found = shape(name, crystal, CHANNELS, matter_g_per_cm2=3.0)
    assert found.shape == (1024,)
    assert np.all(found >= 0)
    assert float(np.sum(found)) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("nuclide", "line_kev"),
    [("Cs-137", 661.7), ("Co-57", 122.1), ("K-40", 1460.8), ("Tc-99m", 140.5)],
)
def test_the_peak_stands_at_the_line_and_is_as_wide_as_the_crystal_makes_it(nuclide, line_kev):
    fine = Channels(count=3200, kev_per_channel=1.0)
    found = shape(nuclide, "NaI", fine)
    around = slice(int(line_kev * 0.85), int(line_kev * 1.15))
    top = int(np.argmax(found[around])) + around.start
    # Co-57's second line draws its peak up by 2 keV.
    assert top + 0.5 == pytest.approx(line_kev, abs=0.012 * line_kev + 2)
    if nuclide == "Cs-137":
        above = np.flatnonzero(found > found[top] / 2)
        above = above[above > 550]
        assert above[-1] - above[0] == pytest.approx(0.075 * 661.7, rel=0.08)


def test_the_compton_edge_stands_where_klein_and_nishina_put_it():
    fine = Channels(count=1100, kev_per_channel=1.0)
    found = shape("Cs-137", "NaI", fine)
    edge_kev = 661.7 * 2 * 661.7 / 511 / (1 + 2 * 661.7 / 511)  # 477.3 keV
    smooth = np.convolve(found, np.ones(15) / 15, mode="same")
    steepest = int(np.argmin(np.gradient(smooth)[430:540])) + 430
    assert steepest == pytest.approx(edge_kev, abs=25)


def test_the_compton_cross_section_is_klein_and_nishinas():
    # 0.2563 b an electron at 661.7 keV and 0.4927 b at 100 keV are textbook figures.
    barn = spectra._klein_nishina_cm2_per_g(1.0) / 0.60221
    at = np.interp([100.0, 661.7], ENERGY_KEV, barn)
    assert at[0] == pytest.approx(0.4927, rel=0.01)
    assert at[1] == pytest.approx(0.2563, rel=0.01)


def test_a_line_keeps_its_mean_energy_and_its_photons():
    photons = spectra._line_photons("Cs-137")
    assert np.sum(photons) == pytest.approx(85.0)
    assert np.sum(photons * ENERGY_KEV) / 85.0 == pytest.approx(661.7)


def test_matter_takes_the_low_lines_first_and_leaves_scattered_photons():
    bare = shape("Ba-133", "NaI", CHANNELS)
    behind = shape("Ba-133", "NaI", CHANNELS, matter_g_per_cm2=10.0)
    ratio = share(behind, 65, 100) / share(behind, 320, 400)
    assert ratio < share(bare, 65, 100) / share(bare, 320, 400)
    cobalt, thick = (shape("Co-60", "NaI", CHANNELS, matter_g_per_cm2=x) for x in (0.0, 40.0))
    assert share(thick, 1280, 1390) < 0.6 * share(cobalt, 1280, 1390)


def test_gain_moves_the_peak_in_proportion():
    tops = [
        float(np.argmax(shape("K-40", "NaI", CHANNELS, gain=gain)[400:560])) + 400.5
        for gain in (0.97, 1.0, 1.03)
    ]
    assert [top * 3 / 1460.8 for top in tops] == pytest.approx([0.97, 1.0, 1.03], abs=0.005)


def test_a_vehicle_keeps_away_as_much_as_it_says_and_most_of_the_low_energies():
    bare = sum(
        part * shape(name if name == "cosmic" else f"soil {name}", "NaI", CHANNELS)
        for name, part in spectra.BACKGROUND_SHARES.items()
    )
    left = spectra.suppressed(bare, CHANNELS, 0.81)
    assert np.sum(left) / np.sum(bare) == pytest.approx(0.81)
    kept = [float(left[int(kev / 3)] / bare[int(kev / 3)]) for kev in (100, 250, 700, 1800)]
    assert kept == sorted(kept)
    assert kept[0] < 0.81 < kept[3]


def test_pile_up_sums_pulses_and_loses_counts_but_only_at_a_high_rate():
    cesium = shape("Cs-137", "NaI", CHANNELS)
    slow = spectra.piled_up(100.0 * cesium)
    assert np.sum(slow) == pytest.approx(100.0 / (1 + 100.0 * spectra.DEAD_TIME_S))
    fast = spectra.piled_up(2e5 * cesium)
    assert np.sum(fast) < 2e5 / (1 + 2e5 * spectra.DEAD_TIME_S) + 1e-6
    assert share(fast, 1200, 1400) > 100 * share(slow, 1200, 1400)  # twice 662 keV


# --- scenes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vehicle", "said"),
    [
        (
            '[vehicle.gamma]\npeak_cps = 3.0\noffset_m = 1.0\nnuclide = "Cs137"',
            'key gamma.nuclide: no such source; did you mean "Cs-137"?',
        ),
        (
            '[vehicle.hidden]\npeak_cps = 3.0\noffset_m = 20.0\nnuclide = "U-235"',
            "key hidden.offset_m: 20 lies behind the vehicle",
        ),
        (
            "[vehicle.gamma]\npeak_cps = 3.0\noffset_m = 1.0\nshield_g_per_cm2 = -1",
            "shield_g_per_cm2: -1 is out of range; expected a number from 0 to 100 [g/cm²]",
        ),
    ],
)
def test_a_source_nobody_knows_is_refused(vehicle, said):
    with pytest.raises(SceneError) as caught:
        scene_of(vehicle)
    assert said in str(caught.value)


def test_the_truth_names_what_is_aboard_the_gravest_first():
    scene = Scene.named("spectral-day")
    truth = {t.vehicle_id: (t.nuclides, t.categories) for t in scene.truth}
    assert truth["clean-1"] == ((), ())
    assert truth["norm-potash"] == (("K-40",), ("NORM",))
    assert truth["patient"] == (("I-131",), ("medical",))
    assert truth["masked"] == (("U-235", "K-40", "Ra-226", "Th-232"), ("SNM", "NORM"))
    assert truth["plutonium"][1] == ("SNM",)


def test_the_day_alarms_where_it_should():
    scene = Scene.named("spectral-day")
    expected = {t.vehicle_id: set(t.expected) for t in scene.truth}
    assert expected["clean-1"] == expected["clean-2"] == set()
    assert expected["plutonium"] == {"gamma", "neutron"}
    for name in ("norm-tiles", "patient", "gauge", "masked", "strong"):
        assert expected[name] == {"gamma"}, name


def test_counts_depend_on_the_seed_and_not_on_when_they_are_taken():
    scene = Scene.named("spectral-day")
    often, seldom, other = panel(scene), panel(scene), panel(scene_of(seed=9))
    parts = []
    for tenth in range(1, 60):
        often.advance(tenth / 10)
        parts.append(often.take())
    seldom.advance(5.9)
    whole = seldom.take()
    assert np.array_equal(sum(p.channels for p in parts), whole.channels)
    assert sum(p.neutrons for p in parts) == whole.neutrons
    assert whole.real_time_s == pytest.approx(5.9)
    other.advance(5.9)
    assert not np.array_equal(other.take().channels, whole.channels)


def test_an_empty_lane_counts_its_background():
    scene = scene_of(rest="[spectrometer]\nbackground_cps = 500.0")
    empty = panel(scene)
    empty.advance(100.0)
    counted = empty.take()
    expected = 500.0 * 100.0 * spectra.live_share(500.0)
    assert abs(int(counted.channels.sum()) - expected) < 5 * expected**0.5
    assert counted.live_time_s == pytest.approx(100.0 * spectra.live_share(500.0), abs=1e-6)


SOURCE = '[vehicle.gamma]\nnuclide = "Cs-137"\npeak_cps = 1637.0\noffset_m = 4.0'


def test_a_passing_source_has_the_portals_profile_and_its_ratio_to_the_background():
    vehicle = f"speed_m_per_s = 2.0\nlength_m = 9.0\nshielding = 0.0\n{SOURCE}"
    scene = scene_of(vehicle, "[spectrometer]\nbackground_cps = 600.0")
    at_beam_s = 30.0 + 4.0 / 2.0
    peak = scene.mix(at_beam_s, at_beam_s).sources[0].cps
    # Peak and background are alike at the portal: 1,637 of 1,637 cps.
    assert peak == pytest.approx(600.0)
    away = scene.mix(at_beam_s + 2.25 / 2.0, at_beam_s + 2.25 / 2.0).sources[0].cps
    assert away == pytest.approx(300.0)  # d²/(d²+x²) at x = d


def test_the_suppressed_background_of_a_clean_vehicle_dips_by_its_shielding():
    scene = scene_of("length_m = 14.0\nshielding = 0.3", "[spectrometer]\nbackground_cps = 500.0")
    quiet, inside = panel(scene).expected(5.0, 5.1), panel(scene).expected(32.5, 32.6)
    assert np.sum(inside.cps) / np.sum(quiet.cps) == pytest.approx(0.7, abs=0.005)


def test_rain_raises_the_uranium_series_and_nothing_else():
    rest = '[[event]]\nkind = "radon"\nat_s = 100.0\nfor_s = 400.0\nfactor = 1.2'
    scene = scene_of(rest=rest)
    assert [scene.radon_factor(t) for t in (99.0, 150.0, 200.0, 350.0, 500.0)] == pytest.approx(
        [1.0, 1.1, 1.2, 1.1, 1.0]
    )
    dry, wet = panel(scene).expected(50.0, 50.1).cps, panel(scene).expected(200.0, 200.1).cps
    added = wet - dry
    uranium = shape("soil Ra-226", "NaI", CHANNELS)
    assert added / np.sum(added) == pytest.approx(uranium, abs=2e-4)
    assert np.sum(added) / np.sum(dry) == pytest.approx(0.2 * spectra.URANIUM_SHARE, rel=0.01)
    gross = sum(scene.open_background(200.0)[0]) / sum(scene.open_background(50.0)[0])
    assert gross == pytest.approx(1 + 0.2 * spectra.URANIUM_SHARE)


def test_the_gain_follows_the_temperature():
    rest = "[spectrometer]\ntemperature_c = 20.0\nswing_c = 10.0\nswing_s = 1000.0"
    scene = scene_of(rest=f"{rest}\ngain_per_c = -0.003")
    assert [scene.gain(t) for t in (0.0, 250.0, 750.0)] == pytest.approx([1.0, 0.97, 1.03])


def test_extended_cargo_is_seen_longer_than_a_point_source():
    cargo = "length_m = 14.0\n[vehicle.norm]\npeak_cps = 1000.0\nuranium = 0.0\nthorium = 0.0"
    point = "length_m = 14.0\n[vehicle.gamma]\npeak_cps = 1000.0\noffset_m = 7.0"

    def above_half(scene):
        rates = [sum(s.cps for s in scene.mix(t, t).sources) for t in np.arange(20.0, 50.0, 0.1)]
        return sum(rate > max(rates) / 2 for rate in rates) * 0.1

    assert above_half(scene_of(cargo)) > 2 * above_half(scene_of(point))


def test_a_masked_source_adds_its_own_shape_to_that_of_the_cargo():
    scene = Scene.named("spectral-day")
    transit = next(t for t in scene.transits if t.vehicle.id == "masked")
    middle_s = transit.vehicle.at_s + 6.0 / transit.vehicle.speed_m_per_s
    names = [s.name for s in scene.mix(middle_s, middle_s + SLICE_S).sources]
    assert names == ["U-235", "K-40", "Ra-226", "Th-232"]
    tiles = next(t for t in scene.transits if t.vehicle.id == "norm-tiles")
    same_s = tiles.vehicle.at_s + 6.0 / tiles.vehicle.speed_m_per_s
    masked = panel(scene).expected(middle_s, middle_s + SLICE_S).cps
    harmless = panel(scene).expected(same_s, same_s + SLICE_S).cps
    assert share(masked, 160, 210) > 1.3 * share(harmless, 160, 210)


def test_scenes_that_name_no_spectrometer_have_none():
    for name in Scene.names():
        if name not in ("spectral-day", "demo"):
            assert Scene.named(name).exercise.spectrometer.instrument == "none"


def test_bins_reach_above_every_line():
    highest = max(kev for nuclide in NUCLIDES.values() for kev, _ in nuclide.lines)
    assert highest < BINS * BIN_KEV - 100
