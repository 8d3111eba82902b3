"""The nuclide table: what it holds, where it is found, and what is said of a broken one."""

from __future__ import annotations

import csv
import tomllib
from importlib import resources
from pathlib import Path

import pytest

from agent.config.nuclides import load_nuclides, parse_nuclides, shipped_nuclides
from agent.config.problems import ConfigError

ROOT = Path(__file__).resolve().parents[1]
LINES_CSV = ROOT.parent / "shared" / "data" / "nuclides" / "nuclide_lines.csv"

GOOD = """
["Cs-137"]
category = "industrial"
half_life_s = 9.48e8
gamma = [[661.66, 85.1]]
source = "a table"
"""


@pytest.fixture(scope="module")
def table():
    return load_nuclides()


def wrong(text):
    with pytest.raises(ConfigError) as caught:
        parse_nuclides(text.encode())
    return [str(problem) for problem in caught.value.problems]


# ------------------------------------------------------------------ what it holds


@pytest.mark.parametrize(
    ("name", "energy_kev", "per_100", "within"),
    [  # Table of Radionuclides, BIPM-5 (Decay Data Evaluation Project), photons per 100 decays
        ("Cs-137", 661.66, 84.99, 0.5),
        ("Co-60", 1332.49, 99.98, 0.1),
        ("Co-60", 1173.23, 99.85, 0.1),
        ("K-40", 1460.82, 10.55, 0.2),
        ("Na-22", 1274.54, 99.94, 0.1),
        ("Mn-54", 834.85, 99.98, 0.1),
        ("Ba-133", 356.01, 62.05, 0.2),
        ("Am-241", 59.54, 35.92, 0.2),
        ("Co-57", 122.06, 85.51, 0.3),
        ("I-131", 364.49, 81.2, 0.6),
        ("Tc-99m", 140.51, 88.5, 1.0),
        ("U-235", 185.72, 57.1, 0.5),
        ("Th-232", 2614.51, 35.85, 0.4),
        ("Ra-226", 609.31, 45.5, 0.5),
        ("Y-88", 1836.07, 99.35, 0.4),
        ("U-238", 1001.03, 0.847, 0.02),
    ],
    ids=str,
)
def test_strong_lines_are_those_of_the_evaluated_tables(table, name, energy_kev, per_100, within):
    near = [line for line in table[name].lines if abs(line.energy_kev - energy_kev) < 0.3]
    assert sum(line.per_100 for line in near) == pytest.approx(per_100, abs=within)


@pytest.mark.parametrize(
    ("name", "half_life"),
    [
        ("Cs-137", 30.05 * 365.25 * 86400),
        ("Co-60", 5.271 * 365.25 * 86400),
        ("Tc-99m", 6.0067 * 3600),
        ("F-18", 109.73 * 60),
        ("Am-241", 432.6 * 365.25 * 86400),
    ],
    ids=str,
)
def test_half_lives_are_those_of_the_evaluated_tables(table, name, half_life):
    assert table[name].half_life_s == pytest.approx(half_life, rel=0.005)


def test_positrons_give_two_photons_each(table):
    for name, positrons in (("F-18", 96.7), ("Na-22", 90.4), ("Ga-68", 88.9), ("Rb-82", 95.4)):
        lines = [line for line in table[name].lines if line.kind == "annihilation"]
        assert [line.energy_kev for line in lines] == [511.0]
        assert lines[0].per_100 == pytest.approx(2 * positrons, rel=0.02)


def test_every_nuclide_has_photons_a_source_and_a_category(table):
    assert len(table.nuclides) >= 60
    for nuclide in table.nuclides:
        assert nuclide.lines or nuclide.betas or nuclide.fission_per_100
        assert nuclide.source
        assert nuclide.category in ("SNM", "industrial", "medical", "NORM")
        assert len(nuclide.lines) <= 150


def test_what_instruments_are_asked_to_identify_is_there(table):
    asked = {
        "SNM": "U-233 U-235 U-238 Np-237 Pu-238 Pu-239 Pu-240 Pu-241",
        "industrial": "Co-57 Co-60 Ba-133 Cs-137 Ir-192 Tl-204 Am-241 Se-75 Eu-152 Na-22 Mn-54 "
        "Cd-109 Bi-207 Cf-252 Am-241-Be Yb-169",
        "medical": "F-18 Ga-67 Cr-51 Sr-89 Mo-99 Tc-99m Pd-103 In-111 I-123 I-125 I-131 Sm-153 "
        "Tl-201 Xe-133 Lu-177 Ga-68 Zr-89 Cu-64 I-124 Ra-223 Ac-225 Re-186 Re-188 Rb-82",
        "NORM": "K-40 Ra-226 Th-232 Lu-176 La-138",
    }
    for category, names in asked.items():
        for name in names.split():
            assert table.category_of(name) == category


def test_nuclides_with_the_same_photons_are_one_group(table):
    assert table.group_of("F-18") == table.group_of("Rb-82") == "annihilation 511"
    assert table.group_of("Cs-137") == "Cs-137"
    assert set(table.group("thorium chain")) == {"Th-228", "Th-232", "U-232"}
    assert table.group("Cs-137") == ("Cs-137",)


def test_weapon_grade_plutonium_is_mixed_by_mass(table):
    mixed = dict(next(f for f in table["Pu-239"].forms if f.name == "WG").mixed)
    # Decays per decay of Pu-239 are masses over half lives and mass numbers: here of Pu-240,
    # 6.0 against 93.3 in mass, 6561 and 24110 years.
    assert mixed["Pu-240"] == pytest.approx(6.0 / 93.3 * 24110 / 6561 * 239 / 240, rel=0.01)


def test_a_mixture_has_the_lines_of_its_parts(table):
    ore = {round(line.energy_kev, 1): line.per_100 for line in table["U-ore"].lines}
    assert ore[609.3] == pytest.approx(45.5, abs=0.5)
    assert ore[185.7] == pytest.approx(57.2 * 0.046, rel=0.02)


# ------------------------------------------------------------------ where it is found


def test_the_shipped_file_is_the_one_in_config():
    there = resources.files("agent.config").joinpath("nuclides.toml").read_bytes()
    assert there == (ROOT / "config" / "nuclides.toml").read_bytes() == shipped_nuclides()


def test_packages_carry_the_file():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "config/*.toml" in project["tool"]["setuptools"]["package-data"]["agent"]


def test_a_file_in_the_configuration_replaces_the_shipped_one(tmp_path):
    assert len(load_nuclides(tmp_path).nuclides) > 60
    (tmp_path / "nuclides.toml").write_text(GOOD)
    assert load_nuclides(tmp_path).names == ("Cs-137",)


def test_a_file_that_cannot_be_read_is_a_problem_and_not_the_shipped_one(tmp_path):
    (tmp_path / "nuclides.toml").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load_nuclides(tmp_path)


# ------------------------------------------------------------------ broken ones


def test_all_problems_are_said_at_once_each_with_its_line():
    found = wrong(
        GOOD.replace("industrial", "industry")
        + """
["Co 60"]
category = "industrial"
half_life = 1.7e8
gamma = [[1332.5, -3]]
source = "a table"
"""
    )
    text = "\n".join(found)
    assert "nuclides.toml:3: Cs-137.category" in text
    assert '"SNM", "industrial", "medical", "NORM"' in text
    assert "nuclides.toml:8: Co 60: expected a name like Cs-137" in text
    assert (
        "nuclides.toml:10: Co 60.half_life: there is no such option; did you mean half_life_s"
        in (text)
    )
    assert "nuclides.toml:11: Co 60.gamma" in text
    assert "Co 60.half_life_s: missing" in text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected a table"),
        ("x = 3", "expected a table"),
        ("[a\n", "not valid TOML"),
        (GOOD.replace("gamma = [[661.66, 85.1]]\n", ""), "expected photons"),
        (GOOD + 'mixed = { "Cs-13" = 1.0 }', "there is no nuclide Cs-13; did you mean Cs-137"),
        (GOOD + "form = 3", "expected tables, one a form"),
        (GOOD + '["Cs-137".form.metal]\nlump = "gold"', '"uranium", "plutonium"'),
        (GOOD + '["Cs-137".form."a b"]\nlump = "uranium"', "letters and digits"),
        (GOOD.replace("[[661.66, 85.1]]", "[[661.66]]"), "pairs of energy"),
        (GOOD.replace("85.1", "nan"), "Cs-137.gamma"),
        (GOOD.replace("661.66", "661e9"), "pairs of energy"),
    ],
    ids=[
        "empty",
        "no table",
        "syntax",
        "no photons",
        "unknown part",
        "form no table",
        "unknown lump",
        "form name",
        "half a pair",
        "nan",
        "energy too high",
    ],
)
def test_a_broken_file_is_refused_with_its_reason(text, said):
    assert any(said in line for line in wrong(text)), wrong(text)


def test_a_mixture_of_mixtures_is_refused():
    text = (
        GOOD
        + """
["A-1"]
category = "NORM"
half_life_s = 1.0
mixed = { "Cs-137" = 1.0 }
source = "x"
["A-2"]
category = "NORM"
half_life_s = 1.0
mixed = { "A-1" = 1.0 }
source = "x"
"""
    )
    assert any("A-1 is mixed itself" in line for line in wrong(text))


# ------------------------------------------------------------------ against a second source


@pytest.mark.shared_data
@pytest.mark.skipif(not LINES_CSV.exists(), reason="no shared nuclide lines beside the project")
def test_every_strong_gamma_line_agrees_with_one_of_two_evaluations(table):
    """Where ENSDF and decay_2012 differ, the table has to be one of them."""
    with LINES_CSV.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["type"] == "g"]
    ours = {}
    for nuclide in table.nuclides:
        ours[nuclide.name.replace("-", "")] = nuclide
    checked = 0
    for row in rows:
        nuclide = ours[row["parent"]]
        energy = float(row["energy_keV"])
        given = [100 * float(row["photons_per_parent_decay"])]
        if row["ENSDF_photons_per_parent_decay"]:
            given.append(100 * float(row["ENSDF_photons_per_parent_decay"]))
        strongest = max(line.per_100 for line in nuclide.lines)
        alone = [other for other in rows if other["parent"] == row["parent"]]
        alone = [other for other in alone if abs(float(other["energy_keV"]) - energy) < 1.0]
        if energy < 30 or given[0] < 0.1 * strongest or len(alone) > 1:
            continue
        found = [line for line in nuclide.lines if abs(line.energy_kev - energy) < 0.5]
        total = sum(line.per_100 for line in found if line.kind == "gamma")
        assert any(total == pytest.approx(value, rel=0.03) for value in given), (row, total)
        checked += 1
    assert checked > 140
