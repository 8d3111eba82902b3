"""Computed templates against tabled facts, single photons and simulated spectra."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import photons
import pytest

from agent.analysis.detection.selection import chosen, cosines, pruned, representative, spread
from agent.analysis.energy.scale import polynomial_edges, rebin_matrix, sqrt_grid
from agent.analysis.response import emission
from agent.analysis.response.attenuation import ELEMENTS, MATERIALS, klein_nishina_cm2
from agent.analysis.response.compton import share_below
from agent.analysis.response.detector import RESOLUTIONS, Detector, response
from agent.analysis.response.emission import Emission, Shielding
from agent.analysis.response.library import Library
from agent.analysis.response.nuclides import Beta, Line, Nuclide, NuclideTable
from agent.analysis.response.templates import background_components, monoenergetic, templates
from agent.analysis.response.transport import CENTRES_KEV, EDGES_KEV, GROUPS
from agent.analysis.sought import computed_shapes
from agent.config.nuclides import load_nuclides

SPECTRA = Path(__file__).resolve().parents[2] / "shared" / "data" / "spectra"
NAI = Detector(material="nai", sides_cm=(5.08, 10.16, 40.64))
GRID = sqrt_grid()
CENTRES = (GRID[1:] + GRID[:-1]) / 2


@pytest.fixture(scope="module")
def table():
    return load_nuclides()


@pytest.fixture(scope="module")
def few(table):
    names = ("Cs-137", "Co-60", "Tc-99m", "Am-241", "Sr-90", "U-235", "Cf-252")
    return NuclideTable(nuclides=tuple(table[name] for name in names))


@pytest.fixture(scope="module")
def library(few):
    return templates(NAI, few, GRID)


def shape(library, name):
    return library.shapes[library.names.index(name)]


def line_of(energy_kev):
    return Emission(
        lines_kev=np.array([float(energy_kev)]),
        per_100=np.array([1.0]),
        continuum=np.zeros(GROUPS),
    )


# ------------------------------------------------------------------ tabled facts


@pytest.mark.parametrize(
    ("material", "energy_kev", "per_g"),
    [  # NIST, X-Ray Mass Attenuation Coefficients, tables 3 and 4, total [cm²/g]
        ("lead", 600, 0.1248),
        ("lead", 1000, 0.07102),
        ("lead", 100, 5.549),
        ("iron", 600, 0.07704),
        ("iron", 1000, 0.05995),
        ("iron", 300, 0.1099),
        ("water", 100, 0.1707),
        ("water", 600, 0.08956),
        ("water", 1000, 0.07072),
        ("water", 3000, 0.03969),
    ],
)
def test_attenuation_is_that_of_the_tables(material, energy_kev, per_g):
    matter = MATERIALS[material]
    total = float(matter.total_per_cm(np.array(float(energy_kev)))) / matter.density
    # Coherent scatter, which the model leaves out, is up to 7 % of the tabled totals here.
    assert total == pytest.approx(per_g, rel=0.07)


def test_klein_nishina_has_its_known_values():
    barn = klein_nishina_cm2(np.array([0.1, 100.0, 1000.0])) / 1e-24
    assert barn == pytest.approx([0.665, 0.4927, 0.2112], rel=0.002)


def test_a_scattered_photon_keeps_what_klein_and_nishina_say():
    energy = np.array([1000.0])
    kept = np.linspace(0, 1000, 4001)
    below = share_below(energy, kept[None, :])[0]
    assert below[0] == 0
    assert below[-1] == 1
    assert np.all(np.diff(below) >= 0)
    mean = np.sum(np.diff(below) * (kept[1:] + kept[:-1]) / 2)
    assert 1 - mean / 1000 == pytest.approx(0.440, abs=0.002)  # the part that the electron gets


def test_materials_are_whole():
    for name, matter in MATERIALS.items():
        assert sum(fraction for _, fraction in matter.fractions) == pytest.approx(1, abs=0.003), (
            name
        )
        assert all(symbol in ELEMENTS for symbol, _ in matter.fractions)


def test_resolution_is_what_was_asked_for_at_caesium():
    for material, at_caesium in (("nai", 0.075), ("csi", 0.095), ("labr3", 0.029), ("pvt", 0.2)):
        width = RESOLUTIONS[material].fwhm_kev(np.array(661.657))
        assert float(width) / 661.657 == pytest.approx(at_caesium, rel=1e-6)
        widths = RESOLUTIONS[material].fwhm_kev(np.geomspace(20, 3000, 50))
        assert np.all(np.diff(widths) > 0)


# ------------------------------------------------------------------ single photons


@pytest.mark.parametrize("sides", [(5.08, 10.16, 40.64), (7.62, 7.62, 7.62), (1.0, 1.0, 1.0)])
@pytest.mark.parametrize("energy_kev", [200, 662, 1000])
def test_a_crystal_counts_what_single_photons_leave_in_it(sides, energy_kev):
    followed = photons.deposits(MATERIALS["nai"], sides, energy_kev, 40_000, seed=11)
    detector = Detector(material="nai", sides_cm=sides, window_cm=0.0, threshold_kev=0.0)
    fwhm = float(detector.fwhm_kev(np.array(float(energy_kev))))
    blurred = (
        followed[followed > 0]
        + np.random.default_rng(2).normal(size=np.count_nonzero(followed))
        * detector.fwhm_kev(followed[followed > 0])
        / 2.3548
    )
    edges = np.linspace(20, energy_kev + 2 * fwhm, 40)
    seen = np.histogram(blurred, edges)[0] / len(followed)
    computed = response(detector, edges, np.array([float(energy_kev)]))[0]
    alike = np.sum(seen * computed) / np.sqrt(np.sum(seen**2) * np.sum(computed**2))
    # Single photons know no escaping electrons or x-rays, which matter in the small crystal.
    assert alike > (0.998 if min(sides) > 2 else 0.985)
    assert computed.sum() == pytest.approx(seen.sum(), rel=0.03)


@pytest.mark.parametrize(
    ("material", "inner_cm", "thickness_cm", "energy_kev", "within"),
    [
        ("iron", 3.0, 2.0, 662, 0.15),
        ("lead", 3.0, 1.0, 662, 0.15),
        ("polyethylene", 0.0, 10.0, 140, 0.05),
        ("polyethylene", 0.0, 10.0, 511, 0.1),
    ],
)
def test_a_shield_lets_through_what_single_photons_do(
    material, inner_cm, thickness_cm, energy_kev, within
):
    many = 30_000
    gone = photons.leaving_shell(MATERIALS[material], inner_cm, thickness_cm, energy_kev, many, 3)
    is_straight = gone > energy_kev - 1e-6
    shield = Shielding(name="", material=material, thickness_cm=thickness_cm, inner_cm=inner_cm)
    out = emission.through_shell(line_of(energy_kev), shield)
    assert out.per_100[0] == pytest.approx(is_straight.sum() / many, rel=0.03)
    # The computed scatter starts anew in all directions after the second collision, and so keeps
    # a little too much inside.
    assert out.continuum.sum() == pytest.approx((~is_straight).sum() / many, rel=within)
    edges = np.linspace(15, energy_kev, 13)
    seen = np.histogram(gone[~is_straight], edges)[0].astype(float)
    below = np.interp(edges, EDGES_KEV, np.concatenate(([0.0], np.cumsum(out.continuum))))
    computed = np.diff(below)
    alike = np.sum(seen * computed) / np.sqrt(np.sum(seen**2) * np.sum(computed**2))
    assert alike > 0.98


def test_lead_takes_up_what_it_fluoresces_at_its_inner_wall():
    thick = Shielding(name="", material="lead", thickness_cm=1.0)
    thin = Shielding(name="", material="lead", thickness_cm=0.01)
    x_rays = (CENTRES_KEV > 70) & (CENTRES_KEV < 90)
    inside = emission.through_shell(line_of(140), thin).continuum[x_rays].sum()
    outside = emission.through_shell(line_of(140), thick).continuum[x_rays].sum()
    assert inside > 0.02
    assert outside < 1e-6


# ------------------------------------------------------------------ what a spectrum shows


def counts_at(energy_kev, detector=NAI, low=0.0):
    edges = np.arange(low, 3000.0, 4.0)
    counts = response(detector, edges, np.array([float(energy_kev)]))[0]
    return edges[:-1] + 2, counts


def test_a_high_line_has_both_escape_peaks():
    narrow = Detector(material="labr3", sides_cm=(5, 5, 5))
    at, counts = counts_at(2614.5, narrow)
    for peak in (2614.5, 2614.5 - 511.0, 2614.5 - 1022.0):
        top = counts[np.abs(at - peak) < 12].max()
        beside = counts[(np.abs(at - peak) > 60) & (np.abs(at - peak) < 90)].mean()
        assert top > 1.3 * beside, peak


def test_iodine_lets_its_x_ray_escape_from_a_low_line():
    at, counts = counts_at(59.54, Detector(material="nai", sides_cm=(5, 10, 40), threshold_kev=5))
    escape = counts[np.abs(at - 31) < 8].sum() / counts.sum()
    assert 0.03 < escape < 0.15


def test_the_compton_edge_stands_where_kinematics_put_it():
    at, counts = counts_at(661.657, Detector(material="labr3", sides_cm=(1, 1, 1)))
    edge = 661.657 * (1 - 1 / (1 + 2 * 661.657 / 511.0))
    slope = np.gradient(counts)
    near = np.abs(at - edge) < 40
    assert at[near][np.argmin(slope[near])] == pytest.approx(edge, abs=10)


def test_plastic_has_hardly_a_peak():
    plastic = Detector(material="pvt", sides_cm=(5, 30, 70))
    full = counts_at(661.657, plastic)[1][145:200].sum()
    assert full < 0.1 * counts_at(661.657, plastic)[1].sum()
    assert counts_at(661.657)[1][145:200].sum() > 0.4 * counts_at(661.657)[1].sum()


def test_nothing_is_counted_below_the_threshold():
    _, counts = counts_at(661.657, Detector(material="nai", sides_cm=(5, 10, 40), threshold_kev=80))
    assert counts[:20].sum() == 0
    assert counts[20] > 0


def test_no_more_is_counted_than_comes(table):
    energies = np.geomspace(15, 4500, 60)
    for material in ("nai", "csi", "labr3", "pvt"):
        counted = response(
            Detector(material=material, sides_cm=(5, 10, 40)), np.linspace(1, 4600, 300), energies
        )
        assert np.all(counted >= 0)
        assert np.all(counted.sum(axis=1) <= 1.0001)


# ------------------------------------------------------------------ libraries


def test_templates_are_named_by_nuclide_form_and_shielding(library):
    assert library.names[:7] == (
        "Cs-137",
        "Cs-137_Fe5",
        "Cs-137_Fe20",
        "Cs-137_Pb3",
        "Cs-137_Pb10",
        "Cs-137_Pb30",
        "Cs-137_PE100",
    )
    assert {"U-235", "U-235_metal", "U-235_HEU-Fe20"} <= set(library.names)
    assert set(library.nuclides) == {
        "Cs-137", "Co-60", "Tc-99m", "Am-241", "Sr-90", "U-235", "Cf-252"
    }  # fmt: skip


def test_every_template_sums_to_one(library):
    assert library.shapes.sum(axis=1) == pytest.approx(1)
    assert library.shapes.min() >= 0
    assert not library.shapes.flags.writeable


def test_a_shield_softens_what_it_scatters_and_hardens_what_it_takes_up(library):
    peak = np.abs(CENTRES - 661.657) < 60
    low = CENTRES < 250
    bare, iron, lead = (shape(library, f"Cs-137{s}") for s in ("", "_Fe20", "_Pb10"))
    assert iron[peak].sum() < bare[peak].sum()
    assert iron[low].sum() > bare[low].sum()
    assert lead[low].sum() < iron[low].sum()


def test_bremsstrahlung_falls_to_its_end_point(library):
    counts = shape(library, "Sr-90")
    assert counts[CENTRES > 2400].sum() < 1e-4
    assert counts[CENTRES < 300].sum() > 0.8


def test_bremsstrahlung_carries_the_known_part_of_the_energy():
    # Koch and Motz: about 6e-4 Z T of the energy; Y-90 in iron, mean electron energy 0.93 MeV.
    photons_per_100 = emission.bremsstrahlung(Beta(endpoint_kev=2280, per_100=100), 26.0)
    energy = np.sum(photons_per_100 * CENTRES_KEV) / 100 / 930
    assert energy == pytest.approx(6e-4 * 26 * 1.1, rel=0.25)


def test_uranium_metal_shows_its_own_x_rays_and_weakens_its_low_lines(table):
    thin = emission.of_nuclide(table["U-235"])
    metal = emission.of_form(table["U-235"], table["U-235"].forms[0])
    at = int(np.argmin(np.abs(thin.lines_kev - 185.71)))
    free = metal.per_100[at] / thin.per_100[at]
    # A sphere much larger than the free path lets out 3/(4 µR) of what starts in it.
    per_cm = float(MATERIALS["uranium"].total_per_cm(np.array(185.71)))
    assert free == pytest.approx(3 / (4 * per_cm * emission.LUMP_RADIUS_CM), rel=0.1)
    x_rays = (CENTRES_KEV > 90) & (CENTRES_KEV < 116)
    assert metal.continuum[x_rays].sum() > 3 * metal.continuum[CENTRES_KEV < 85].sum()


def test_a_new_nuclide_needs_only_its_lines():
    mine = Nuclide(
        name="Zz-1",
        category="industrial",
        half_life_s=1.0,
        source="made up",
        lines=(Line(energy_kev=500.0, per_100=50.0),),
    )
    library = templates(NAI, NuclideTable(nuclides=(mine,)), GRID, shieldings=())
    assert library.names == ("Zz-1",)
    assert abs(CENTRES[np.argmax(library.shapes[0] / np.sqrt(CENTRES))] - 500) < 25


def test_lines_above_the_grid_still_scatter_into_it(table):
    source = NuclideTable(nuclides=(table["Am-241-Be"],))
    hard = templates(NAI, source, GRID, shieldings=(Shielding(
        name="Pb30", material="lead", thickness_cm=3.0),))  # fmt: skip
    assert hard.shapes[1][CENTRES > 1500].sum() > 0.1


def test_monoenergetic_shapes_peak_at_their_energy():
    library = monoenergetic(NAI, GRID, (100, 662, 1460), (0.0, 1.0))
    assert library.names == (
        "100 keV_0", "662 keV_0", "1460 keV_0", "100 keV_1", "662 keV_1", "1460 keV_1"
    )  # fmt: skip
    for row, energy in zip(library.shapes[:3], (100, 662, 1460), strict=True):
        assert abs(CENTRES[np.argmax(row / np.diff(GRID))] - energy) < 0.06 * energy
    low = CENTRES < 300
    assert library.shapes[4][low].sum() > library.shapes[1][low].sum()


def test_background_components_have_the_peaks_of_their_chains():
    potassium, uranium, thorium, cosmic = background_components(NAI, np.linspace(30, 3000, 991))
    at = np.linspace(30, 3000, 991)[:-1] + 1.5
    window = {e: np.abs(at - e) < 60 for e in (609, 1461, 1764, 2614)}
    beside = {e: np.abs(at - 1.13 * e) < 60 for e in window}
    for row, energy in ((potassium, 1461), (uranium, 609), (uranium, 1764), (thorium, 2614)):
        assert row[window[energy]].sum() > 1.8 * row[beside[energy]].sum()
    assert potassium[at > 1650].sum() < 1e-3
    assert thorium[at > 2400].sum() > 10 * uranium[at > 2400].sum()
    assert cosmic[at > 2850].sum() > 10 * thorium[at > 2850].sum()
    for row in (potassium, uranium, thorium, cosmic):
        assert row.sum() == pytest.approx(1)
        assert row[at < 400].sum() > 0.5  # the ground scatters most of what leaves it


# ------------------------------------------------------------------ selection


def made(names, shapes):
    shapes = np.asarray(shapes, dtype=float)
    return Library(
        names=names,
        shapes=shapes / shapes.sum(axis=1, keepdims=True),
        edges_kev=np.arange(shapes.shape[1] + 1.0),
    )


def test_cosines_weigh_bins_by_the_background():
    found = cosines(
        np.array([[1.0, 1.0]]), np.array([[1.0, 0.0], [2.0, 2.0]]), np.array([1.0, 3.0])
    )
    assert found[0] == pytest.approx([1 / np.sqrt(1 + 1 / 3), 1.0])


def test_pruning_keeps_one_of_what_is_alike_within_a_nuclide():
    library = made(("A", "A_Fe5", "A_Pb3", "B"), [[1, 0, 0], [1, 0.001, 0], [0, 1, 0], [1, 0, 0]])
    assert pruned(library, np.ones(3)).names == ("A", "A_Pb3", "B")


def test_spreading_takes_the_least_alike_first():
    library = made(("A", "B", "C"), [[1, 1, 0], [1, 0.9, 0], [0, 0, 1]])
    assert spread(library, np.ones(3), 2).names in (("A", "C"), ("B", "C"))
    assert spread(library, np.ones(3), 9).names == ("A", "B", "C")


def test_representatives_stand_for_likely_shapes_first():
    shapes = [[1, 0, 0, 0], [1, 0.3, 0, 0], [1, 0, 0.3, 0], [0, 0, 0, 1]]
    library = made(("A", "A_Fe5", "A_Pb3", "B"), shapes)
    flat, equal = np.ones(4), np.ones(4)
    # A is most like its variants; what it leaves most of is B.
    assert representative(library, flat, 1, equal).names == ("A",)
    assert representative(library, flat, 2, equal).names == ("A", "B")
    # A shape that hardly ever comes waits until the likely ones stand.
    seldom = np.array([1.0, 1.0, 1.0, 1e-3])
    assert representative(library, flat, 3, seldom).names == ("A", "A_Fe5", "A_Pb3")
    assert representative(library, flat, 9, seldom).names == library.names


def test_loads_show_their_own_absorption_and_a_scale_that_is_off(table):
    grid = sqrt_grid()
    sought = computed_shapes(NAI, table, grid, np.ones(len(grid) - 1))
    middle = 0.5 * (grid[1:] + grid[:-1])
    near = (middle > 1300) & (middle < 1620)
    peaks = {
        name: float(shape[near] @ middle[near] / shape[near].sum())
        for name, shape in zip(sought.loads.names, sought.loads.shapes, strict=True)
    }
    assert len(peaks) == 4 * len(sought.norm.names)
    assert sought.loads.shapes.sum(axis=1) == pytest.approx(np.ones(len(peaks)))
    # Two times 1.5 % of 1,461 keV, less what the window cuts off the peak's sides.
    assert 25 < peaks["K-40 high"] - peaks["K-40 low"] < 50


def test_chosen_templates_stay_in_order(library):
    assert chosen(library, np.array([2, 5])).names == (library.names[2], library.names[5])


# ------------------------------------------------------------------ simulated spectra


@pytest.mark.shared_data
@pytest.mark.skipif(not SPECTRA.is_dir(), reason="no shared spectra beside the project")
@pytest.mark.parametrize(
    ("file", "detector"),
    [
        ("nai_2x4x16_simulated.npz", NAI),
        ("csi_radiacode102_simulated.npz", Detector(material="csi", sides_cm=(1, 1, 1))),
    ],
    ids=["nai", "csi"],
)
def test_templates_agree_with_simulated_spectra_of_bare_sources(table, file, detector):
    with np.load(SPECTRA / file) as spectra:
        names = [str(name) for name in spectra["names"]]
        counts, live = spectra["counts"].astype(float), spectra["live"]
        edges = polynomial_edges(tuple(map(float, spectra["cal"])), counts.shape[1])
    on_grid = counts @ rebin_matrix(edges, GRID) / live[:, None]
    background = on_grid[names.index("background")]
    chosen_names = ("Cs-137", "Co-60", "Tc-99m", "I-131", "Ba-133", "Co-57", "F-18", "Eu-152")
    few = NuclideTable(nuclides=tuple(table[name] for name in chosen_names))
    library = templates(detector, few, GRID, shieldings=())
    net = np.array([on_grid[names.index(n.replace("-", "") + "_Unshielded")] for n in chosen_names])
    alike = np.diag(cosines(library.shapes, net - background, background + 1 / 1800))
    assert np.median(alike) > 0.97
    assert alike.min() > 0.94, dict(zip(chosen_names, alike, strict=True))
