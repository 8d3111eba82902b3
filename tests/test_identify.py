"""Identification against a library whose shapes are written down here: peaks and a step."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.identification.courses import (
    Passage,
    load_profiles,
    locate,
    point_profiles,
    weighted,
)
from agent.analysis.identification.hypotheses import MATCHED, candidates, stretched
from agent.analysis.identification.identify import identify, identify_passage
from agent.analysis.identification.knowledge import Knowledge, knowledge_of
from agent.analysis.identification.norm import norm_decision
from agent.analysis.identification.unmix import Prior, Spectrum, fit
from agent.analysis.response.library import Library
from agent.analysis.response.nuclides import Line, Nuclide, NuclideTable

EDGES = sqrt_grid()
MIDDLES = 0.5 * (EDGES[1:] + EDGES[:-1])
FWHM_662 = 0.075 * 661.7

LINES = {  # energy [keV], photons; facts of ENSDF, rounded
    "Cs-137": ((661.7, 85),),
    "Co-60": ((1173.2, 100), (1332.5, 100)),
    "Co-57": ((122.1, 86), (136.5, 11)),
    "Ba-133": ((81.0, 33), (302.9, 18), (356.0, 62)),
    "I-131": ((284.3, 6), (364.5, 82), (637.0, 7)),
    "U-235": ((143.8, 11), (185.7, 57), (205.3, 5)),
    "Ga-67": ((93.3, 39), (184.6, 21), (300.2, 17), (393.5, 5)),
    "F-18": ((511.0, 193),),
    "Cu-64": ((511.0, 35),),
    "K-40": ((1460.8, 11),),
    "Ra-226": ((351.9, 36), (609.3, 45), (1120.3, 15), (1764.5, 15)),
    "Th-232": ((238.6, 44), (583.2, 31), (911.2, 26), (2614.5, 36)),
}
CATEGORY = {
    **dict.fromkeys(("Cs-137", "Co-60", "Co-57", "Ba-133"), "industrial"),
    **dict.fromkeys(("I-131", "Ga-67", "F-18", "Cu-64"), "medical"),
    **dict.fromkeys(("K-40", "Ra-226", "Th-232"), "NORM"),
    "U-235": "SNM",
}
SHIELDED_MM = (0.0, 20.0)


def shape(lines, gain=0.0, iron_mm=0.0):
    """Counts of lines in a crystal: a peak and a flat step below each, weakened by iron."""
    total = np.zeros(len(MIDDLES))
    for energy_kev, photons in lines:
        read_kev = energy_kev * (1 + gain)
        sd = FWHM_662 * math.sqrt(read_kev / 661.7) / 2.3548
        cut = [0.5 * (1 + math.erf((edge - read_kev) / (sd * math.sqrt(2)))) for edge in EDGES]
        widths = np.clip(np.minimum(EDGES[1:], 0.75 * read_kev) - EDGES[:-1], 0, None)
        step = widths / widths.sum()
        through = math.exp(-0.058 * iron_mm * math.sqrt(661.7 / energy_kev))
        scattered = 1 - through
        total += photons * (through * np.diff(cut) + (0.5 + scattered) * step)
    return total / total.sum()


NATURAL = np.array([shape(LINES[name]) for name in ("K-40", "Ra-226", "Th-232")])
GROUND_CPS = 5000 * np.exp(-MIDDLES / 350) * np.diff(EDGES) / 350 + 600 * NATURAL.sum(axis=0)
SLICE_S = 0.2
BACKGROUND_SLICES = 150.0
KNOWLEDGE = Knowledge(
    category=CATEGORY,
    group={"F-18": "annihilation 511", "Cu-64": "annihilation 511"},
    lines={name: tuple(energy for energy, _ in lines) for name, lines in LINES.items()},
)


def library(without=()):
    names, rows = [], []
    for name, lines in LINES.items():
        for iron_mm in SHIELDED_MM:
            if name not in without:
                names.append(f"{name}_Fe{iron_mm:.0f}" if iron_mm else name)
                rows.append(shape(lines, iron_mm=iron_mm))
    return Library(names=tuple(names), shapes=np.array(rows), edges_kev=EDGES)


KNOWN = candidates(library(), KNOWLEDGE, MATCHED)
SECONDS = 4.0
BACKGROUND = GROUND_CPS * SECONDS


def spectrum(counts, *, gain=0.0, iron_mm=0.0, rng=None, suppressed=0.15):
    """Background behind a vehicle and so many counts of each source; without noise or with it."""
    fall = (np.maximum(MIDDLES, 120) / 120) ** -0.35
    expected = BACKGROUND * (1 - suppressed * fall)
    for name, amount in counts.items():
        expected = expected + amount * shape(LINES[name], gain, iron_mm)
    return expected if rng is None else rng.poisson(expected).astype(float)


def said(counts, known=KNOWN, **how):
    return identify(spectrum(counts, **how), BACKGROUND, NATURAL, known)


def names(identification):
    return {found.name for found in identification.nuclides}


ALONE = sorted(set(LINES) - {"F-18", "Cu-64"})


@pytest.mark.parametrize("nuclide", ALONE)
def test_a_strong_source_is_named_alone_with_its_category(nuclide):
    result = said({nuclide: 20_000})
    assert names(result) == {nuclide}
    assert result.category == CATEGORY[nuclide]
    assert result.nuclides[0].confidence > 0.95
    assert result.nuclides[0].share == pytest.approx(1.0)


@pytest.mark.parametrize("amount", [3e3, 3e4, 3e5, 3e6])
@pytest.mark.parametrize("nuclide", ["Cs-137", "Ba-133", "U-235", "Th-232"])
def test_no_strength_is_too_great(nuclide, amount):
    result = said({nuclide: amount}, gain=0.01)
    assert names(result) == {nuclide}


@pytest.mark.parametrize("iron_mm", SHIELDED_MM)
def test_a_source_behind_iron_is_the_same_nuclide(iron_mm):
    assert names(said({"Ba-133": 8000}, iron_mm=iron_mm)) == {"Ba-133"}


def test_what_cannot_be_told_apart_is_named_by_its_group():
    result = said({"F-18": 10_000})
    assert names(result) == {"annihilation 511"}
    assert result.category == "medical"
    assert result.nuclides[0].confidence > 0.95
    assert {("Cu-64",), ("F-18",)} <= set(result.contenders)


def test_a_rare_member_of_a_group_leaves_the_name_to_the_common_one():
    knowledge = replace(KNOWLEDGE, prior={"Cu-64": 0.01})
    result = said({"F-18": 10_000}, candidates(library(), knowledge, MATCHED))
    assert names(result) == {"F-18"}


@pytest.mark.parametrize(
    ("counts", "category"),
    [
        ({"Cs-137": 6000, "K-40": 6000}, "industrial"),
        ({"U-235": 6000, "I-131": 9000}, "SNM"),
        ({"Co-60": 8000, "I-131": 8000, "Th-232": 8000}, "industrial"),
    ],
    ids=["source-in-norm", "snm-under-medical", "three"],
)
def test_a_mixture_reports_all_and_its_worst_category_leads(counts, category):
    result = said(counts)
    assert names(result) == set(counts)
    assert result.category == category
    assert result.nuclides[0].category == category
    whole = sum(counts.values())
    for found in result.nuclides:
        assert found.share == pytest.approx(counts[found.name] / whole, abs=0.1)


def test_a_nuclide_that_the_library_lacks_is_unknown_with_the_peak_that_nothing_explains():
    result = said({"Cs-137": 15_000}, candidates(library(without=("Cs-137",)), KNOWLEDGE, MATCHED))
    assert result.is_unknown
    assert result.confidence is None
    assert result.unexplained_z > MATCHED.unexplained_z
    assert any("is not explained" in reason for reason in result.reasons)


def test_background_alone_names_nothing():
    result = said({})
    assert (result.category, result.nuclides) == ("unknown", ())
    assert result.reasons == ("no nuclide of the library stands out",)


@pytest.mark.parametrize("gain", [-0.02, -0.01, 0.01, 0.02])
@pytest.mark.parametrize("nuclide", ["Cs-137", "U-235", "Co-57"])
def test_two_percent_of_gain_do_not_change_the_name(nuclide, gain):
    assert names(said({nuclide: 10_000}, gain=gain)) == {nuclide}


def test_the_scale_of_components_and_priors_does_not_matter():
    counts = spectrum({"Cs-137": 5000, "I-131": 5000})
    scaled = replace(KNOWLEDGE, prior=dict.fromkeys(LINES, 7.0))
    first = identify(counts, BACKGROUND, NATURAL, KNOWN)
    second = identify(counts, BACKGROUND, 1e3 * NATURAL, candidates(library(), scaled, MATCHED))
    assert names(first) == names(second)
    assert first.nuclides[0].confidence == pytest.approx(second.nuclides[0].confidence, rel=1e-6)


def test_a_low_energy_excess_alone_is_never_snm():
    lines = {**LINES, "U-235": ((59.0, 100),)}
    rows = np.array([shape(lines[name]) for name in LINES])
    known = candidates(
        Library(names=tuple(LINES), shapes=rows, edges_kev=EDGES), KNOWLEDGE, MATCHED
    )
    counts = spectrum({}) + 20_000 * shape(lines["U-235"])
    result = identify(counts, BACKGROUND, NATURAL, known)
    assert names(result) == {"U-235"}
    assert result.is_unknown
    assert any("nothing of its own above 110 keV" in reason for reason in result.reasons)


def test_background_and_medical_passes_are_not_called_snm():
    rng = np.random.default_rng(20261123)
    loads = [{}, {"I-131": 1500}, {"Ga-67": 1500}, {"F-18": 1500}]
    results = [said(loads[i % 4], rng=rng) for i in range(160)]
    assert [r.category for r in results].count("SNM") == 0


def test_confidence_is_near_the_share_that_is_right():
    rng = np.random.default_rng(7)
    sure, right = [], []
    for i in range(120):
        nuclide = ALONE[i % len(ALONE)]
        result = said({nuclide: 900}, rng=rng, gain=rng.normal(0, 0.01))
        for found in result.nuclides:
            sure.append(found.confidence)
            right.append(found.name == nuclide)
    assert len(sure) > 60
    assert abs(np.mean(sure) - np.mean(right)) < 0.1


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit a library of 64 bins"):
        identify(np.ones(63), BACKGROUND, NATURAL, KNOWN)


def test_stretching_moves_a_peak_by_the_gain_and_keeps_its_counts():
    peak = shape(((661.7, 1),))
    moved = stretched(peak[None], EDGES, 0.02)[0]
    assert moved.sum() == pytest.approx(peak.sum(), abs=2e-3)
    assert moved @ MIDDLES == pytest.approx(1.02 * (peak @ MIDDLES), rel=3e-3)
    assert np.all(moved >= 0)


def test_an_unmixed_amplitude_is_the_true_one_with_the_variance_of_the_closed_form():
    # one flat column over a flat base: s = mean excess, var = Σμ / (column sum)²
    base, column = np.full(50, 100.0), np.full(50, 0.02)
    counts = base + 400 * column
    empty = Prior(columns=np.zeros((0, 50)), mean=np.zeros(0), sd=np.zeros(0))
    result = fit(
        Spectrum(counts=counts, base=base, dispersion=np.ones(50)), empty, column[None, None]
    )
    assert result.coefficients[0, 0] == pytest.approx(400.0)
    assert result.covariance[0, 0, 0] == pytest.approx(counts.sum())


# ------------------------------ passages in time

SLICES = 40
TIMES = (np.arange(SLICES) + 0.5) * SLICE_S


def passage(loads, rng, *, course):
    """One vehicle: loads [counts/s at the greatest] along one course."""
    expected = np.tile(0.85 * GROUND_CPS * SLICE_S, (SLICES, 1))
    for name, cps in loads.items():
        expected = expected + SLICE_S * cps * course[:, None] * shape(LINES[name])
    before = rng.poisson(GROUND_CPS * SLICE_S * BACKGROUND_SLICES)
    return Passage(
        slices=rng.poisson(expected).astype(float),
        background=before / BACKGROUND_SLICES,
        background_slices=BACKGROUND_SLICES,
        slice_s=SLICE_S,
    )


POINT = 1 / (1 + ((TIMES - 4.0) * 2.2 / 2.5) ** 2)
LOAD = np.clip((TIMES - 1.0) / 0.8, 0, 1) * np.clip((7.0 - TIMES) / 0.8, 0, 1)


def test_weights_keep_the_variance_of_a_bin_equal_to_its_mean():
    rng = np.random.default_rng(3)
    slices = rng.poisson(50.0, size=(2000, SLICES, 1)).astype(float)
    values = [weighted(one, np.array([50.0]), POINT) for one in slices]
    counts = np.array([value[0][0] for value in values])
    assert counts.mean() == pytest.approx(values[0][1][0], rel=0.02)
    assert counts.var() == pytest.approx(counts.mean(), rel=0.12)


def test_a_source_is_located_where_it_passes():
    found = locate(passage({"Cs-137": 800}, np.random.default_rng(4), course=POINT), NATURAL, KNOWN)
    assert TIMES[found.profile.argmax()] == pytest.approx(4.0, abs=0.5)
    assert KNOWN.nuclides[found.template] == "Cs-137"
    assert found.z > 8


def test_a_passage_is_identified_along_its_own_course():
    one = passage({"Co-60": 900}, np.random.default_rng(5), course=POINT)
    assert names(identify_passage(one, NATURAL, KNOWN)) == {"Co-60"}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["K-40", "Ra-226", "Th-232"])
def test_a_load_of_natural_cargo_is_norm(family, seed):
    one = passage({family: 1500}, np.random.default_rng(seed), course=LOAD)
    decision = norm_decision(one, NATURAL, KNOWN)
    assert decision.is_norm
    assert decision.extent_s > 4
    index = ("K-40", "Ra-226", "Th-232").index(family)
    assert int(np.argmax(decision.excess_cps)) == index
    assert decision.excess_cps[index] == pytest.approx(1500, rel=0.25)


@pytest.mark.parametrize("seed", range(4))
def test_potassium_at_one_point_is_not_norm_and_says_why(seed):
    decision = norm_decision(
        passage({"K-40": 2500}, np.random.default_rng(seed), course=POINT), NATURAL, KNOWN
    )
    assert not decision.is_norm
    assert "K, U or Th at one point, not a load" in decision.reasons


@pytest.mark.parametrize("threat", ["Cs-137", "U-235"])
def test_a_source_under_three_times_as_much_natural_cargo_is_raised_and_named(threat):
    rng = np.random.default_rng(8)
    hidden = passage({threat: 700}, rng, course=POINT)
    cargo = SLICE_S * 2100 * LOAD[:, None] * (0.6 * NATURAL[0] + 0.4 * NATURAL[2])
    one = replace(hidden, slices=hidden.slices + rng.poisson(cargo))
    decision = norm_decision(one, NATURAL, KNOWN)
    assert decision.is_masking
    assert not decision.is_norm
    assert decision.masked_template.startswith(threat)
    result = identify_passage(
        one, NATURAL, KNOWN, profile=decision.masked_profile, component_sd=0.1
    )
    assert threat in names(result)
    assert result.category == CATEGORY[threat]


def test_an_empty_vehicle_is_neither_norm_nor_masking():
    decision = norm_decision(passage({}, np.random.default_rng(9), course=POINT), NATURAL, KNOWN)
    assert not decision.is_norm
    assert not decision.is_masking
    assert "K, U and Th do not explain the excess" in decision.reasons


def test_courses_have_the_widths_of_a_point_and_of_a_line_of_points():
    one = Passage(
        slices=np.zeros((400, 1)),
        background=np.ones(1),
        background_slices=1.0,
        slice_s=0.02,
        speed_m_per_s=2.0,
        distance_m=2.5,
    )
    middle = point_profiles(one)[200]
    assert (middle >= 0.5).sum() * 0.02 == pytest.approx(2 * 2.5 / 2.0, abs=0.05)
    # a line of 8 s at 2 m/s is 16 m long: half of it is left at its ends
    longest = load_profiles(one)[4 * 400 + 200]
    assert longest.max() == pytest.approx(1.0)
    assert longest[0] == pytest.approx(math.atan(16 / 2.5) / (2 * math.atan(8 / 2.5)), abs=0.02)


def test_knowledge_of_a_table_has_its_categories_groups_and_stated_priors():
    def nuclide(name, alike=None):
        lines = (Line(energy_kev=100.0, per_100=5.0), Line(energy_kev=511.0, per_100=9.0))
        return Nuclide(
            name=name, category="medical", half_life_s=1.0, lines=lines, source="-", alike=alike
        )

    table = NuclideTable(nuclides=(nuclide("F-18", "511"), nuclide("In-111"), nuclide("Br-76")))
    knowledge = knowledge_of(table)
    assert knowledge.prior == {"F-18": 3.0, "In-111": 1.0, "Br-76": 0.1}
    assert knowledge.group_of("F-18") == "511"
    assert knowledge.group_of("In-111") == "In-111"
    assert knowledge.category_of("nothing") == "unknown"
    assert knowledge.lines["F-18"] == (511.0, 100.0)


@pytest.mark.parametrize(("open_snm", "category"), [(0.9, "industrial"), (0.05, "unknown")])
def test_nothing_harmless_is_named_while_snm_is_as_likely_as_the_limit(open_snm, category):
    twin = 1 + 0.02 * np.sin(np.arange(len(KNOWN.edges_kev) - 1))
    shape = KNOWN.shapes[KNOWN.middle][KNOWN.nuclides.index("Cs-137")]
    library = Library(
        names=("Cs-137", "U-235"),
        shapes=np.array([shape, shape * twin / (shape * twin).sum()]),
        edges_kev=KNOWN.edges_kev,
    )
    knowledge = Knowledge(
        category={"Cs-137": "industrial", "U-235": "SNM"}, prior={"Cs-137": 3.0, "U-235": 0.6}
    )
    known = candidates(library, knowledge, replace(KNOWN.limits, open_snm=open_snm))
    one = passage({"Cs-137": 900}, np.random.default_rng(11), course=POINT)
    said = identify_passage(one, NATURAL, known)
    assert 0.05 < said.categories["SNM"] < 0.5
    assert said.category == category


def test_a_source_at_a_point_that_natural_cargo_explains_worse_is_not_norm():
    for seed in range(6):
        one = passage({"Co-60": 450}, np.random.default_rng(seed), course=POINT)
        decision = norm_decision(one, NATURAL, KNOWN)
        assert decision.rival_z**2 > decision.excess_z**2 + 20
        assert not decision.is_norm


@pytest.mark.parametrize(("snm_share", "category"), [(0.1, "SNM"), (0.6, "unknown")])
def test_a_small_part_of_snm_beside_another_source_is_said_and_not_certain(snm_share, category):
    known = replace(KNOWN, limits=replace(KNOWN.limits, snm_share=snm_share))
    one = passage({"Cs-137": 1500, "U-235": 1500}, np.random.default_rng(3), course=POINT)
    said = identify_passage(one, NATURAL, known)
    assert names(said) == {"Cs-137", "U-235"}
    assert said.category == category
    assert any("beside others" in reason for reason in said.reasons) == (category == "unknown")
