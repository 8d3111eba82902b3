"""The nuclides that are looked for: ``nuclides.toml`` of the configuration, or the one we ship."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Annotated

from msgspec import Meta

from agent.analysis.response.nuclides import (
    Beta,
    Category,
    Form,
    Line,
    LineKind,
    LumpMaterial,
    Nuclide,
    NuclideTable,
)
from agent.config.options import did_you_mean, fill
from agent.config.problems import ConfigError, Problem
from agent.config.source import OptionPath, Source, Table, parse, read_file

NUCLIDES_FILE = "nuclides.toml"

_NAME = re.compile(r"[A-Z][A-Za-z0-9-]{0,23}\Z")
_NAME_TEXT = "expected a name like Cs-137: at most 24 letters, digits and -, a capital first"

_Energy = Annotated[float, Meta(ge=1, le=20000)]
_Amount = Annotated[float, Meta(gt=0, le=2000)]
_Pairs = Annotated[
    tuple[tuple[_Energy, _Amount], ...],
    Meta(description="pairs of energy [keV], 1 to 20000, and amount per 100 decays, above 0"),
]
_Mixed = Annotated[
    dict[str, Annotated[float, Meta(gt=0, le=1e6)]],
    Meta(description="other nuclides and their decays per decay of this one, above 0"),
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NuclideEntry:
    """One table of the file."""

    category: Annotated[Category, Meta(description="what the nuclide is used for")]
    half_life_s: Annotated[float, Meta(description="half life [s]", gt=0)]
    source: Annotated[str, Meta(description="where the figures are from", min_length=1)]
    alike: Annotated[
        str, Meta(description="the group it cannot be told apart from", max_length=40)
    ] = ""
    chain: Annotated[
        tuple[str, ...], Meta(description="daughters whose photons are among the lines")
    ] = ()
    gamma: _Pairs = ()
    x_ray: _Pairs = ()
    annihilation: Annotated[
        float, Meta(description="photons of 511 keV per 100 decays", ge=0, le=200)
    ] = 0.0
    beta: _Pairs = ()
    fission: Annotated[
        float, Meta(description="photons of fission per 100 decays", ge=0, le=2000)
    ] = 0.0
    neutrons: Annotated[bool, Meta(description="true: it comes with neutrons")] = False
    mixed: _Mixed = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class FormEntry:
    """One table below ``form`` of a nuclide."""

    lump: Annotated[
        LumpMaterial | None, Meta(description="metal that weakens the nuclide's own photons")
    ] = None
    mixed: _Mixed = field(default_factory=dict)


def load_nuclides(directory: Path | None = None) -> NuclideTable:
    """Return the nuclides of a configuration directory, or those we ship where it has none.

    Raises
    ------
    ConfigError
        With every problem of the file, each with its line.
    """
    path = None if directory is None else directory / NUCLIDES_FILE
    if path is None or not path.exists():
        return parse_nuclides(shipped_nuclides())
    content = read_file(path, NUCLIDES_FILE)
    if isinstance(content, Problem):
        raise ConfigError([content])
    return parse_nuclides(content)


def shipped_nuclides() -> bytes:
    """Return the file that comes with the program."""
    return resources.files("agent.config").joinpath(NUCLIDES_FILE).read_bytes()


def parse_nuclides(content: bytes) -> NuclideTable:
    """Return the nuclides that the file's bytes describe; raises ConfigError with every problem."""
    source = parse(NUCLIDES_FILE, content)
    if isinstance(source, Problem):
        raise ConfigError([source])
    found: dict[str, _Entry] = {}
    problems: list[Problem] = []
    for name, table in source.table.items():
        entry, wrong = _entry(name, table, source)
        problems += wrong
        if entry is not None:
            found[name] = entry
    if not source.table:
        problems.append(Problem(file=source.name, text='expected a table like ["Cs-137"]'))
    if not problems:  # a name that a broken table would have is no second mistake
        problems += [p for name, entry in found.items() for p in _references(name, entry, found)]
        problems += [p for name, entry in found.items() for p in _photons(name, entry, source)]
    if problems:
        raise ConfigError(problems)
    return NuclideTable(nuclides=tuple(_nuclide(name, found) for name in found))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    options: NuclideEntry
    forms: dict[str, FormEntry]
    source: Source


def _entry(name: str, table: object, source: Source) -> tuple[_Entry | None, list[Problem]]:
    if not isinstance(table, dict):
        return None, [source.problem((name,), 'expected a table like ["Cs-137"]', value=table)]
    problems = []
    if _NAME.match(name) is None:
        problems.append(source.problem((name,), _NAME_TEXT))
    forms: dict[str, FormEntry] = {}
    given = table.get("form", {})
    if not isinstance(given, dict):
        text = "expected tables, one a form"
        problems.append(source.problem((name, "form"), text, value=given))
        given = {}
    for form_name, form_table in given.items():
        form, wrong = _form(name, form_name, form_table, source)
        problems += wrong
        if form is not None:
            forms[form_name] = form
    rest: Table = {key: value for key, value in table.items() if key != "form"}
    options, wrong = fill(NuclideEntry, rest, source, (name,))
    problems += wrong
    if options is None or problems:
        return None, problems
    return _Entry(options=options, forms=forms, source=source), []


def _form(
    name: str, form_name: str, table: object, source: Source
) -> tuple[FormEntry | None, list[Problem]]:
    path = (name, "form", form_name)
    if not isinstance(table, dict) or not form_name.isalnum():
        text = "expected a table, its name of letters and digits alone"
        return None, [source.problem(path, text)]
    return fill(FormEntry, table, source, path)


def _references(name: str, entry: _Entry, found: dict[str, _Entry]) -> list[Problem]:
    """Return what is wrong with the other nuclides that a nuclide is mixed of."""
    problems = []
    mixes: list[tuple[OptionPath, dict[str, float]]]
    mixes = [((name, "mixed"), entry.options.mixed)]
    mixes += [((name, "form", form, "mixed"), f.mixed) for form, f in entry.forms.items()]
    for path, mixed in mixes:
        for other in mixed:
            if other not in found:
                text = f"there is no nuclide {other}; {did_you_mean(other, found)}"
                problems.append(entry.source.problem(path, text))
            elif found[other].options.mixed:
                text = f"{other} is mixed itself; name its parts instead"
                problems.append(entry.source.problem(path, text))
    return problems


def _photons(name: str, entry: _Entry, source: Source) -> list[Problem]:
    given = entry.options
    if given.gamma or given.x_ray or given.annihilation or given.beta:
        return []
    if given.fission or given.mixed:
        return []
    text = "expected photons: one of gamma, x_ray, annihilation, beta, fission, mixed"
    return [source.problem((name,), text)]


def _nuclide(name: str, found: dict[str, _Entry]) -> Nuclide:
    given = found[name].options
    whole = _mixture(given, given.mixed, found)
    forms = []
    for form, entry in found[name].forms.items():
        mixture = _mixture(given, {**given.mixed, **entry.mixed}, found)
        forms.append(
            Form(
                name=form,
                lump=entry.lump,
                mixed=tuple(entry.mixed.items()),
                lines=mixture.lines,
                betas=mixture.betas,
                fission_per_100=mixture.fission_per_100,
            )
        )
    return Nuclide(
        name=name,
        category=given.category,
        half_life_s=given.half_life_s,
        lines=whole.lines,
        betas=whole.betas,
        chain=given.chain,
        alike=given.alike or None,
        has_neutrons=given.neutrons,
        fission_per_100=whole.fission_per_100,
        forms=tuple(forms),
        source=given.source,
    )


def _mixture(given: NuclideEntry, mixed: dict[str, float], found: dict[str, _Entry]) -> Form:
    """Return the photons of an entry and of what is mixed with it."""
    lines, betas, fission = _lines(given, 1.0), _betas(given, 1.0), given.fission
    for other, ratio in mixed.items():
        lines += _lines(found[other].options, ratio)
        betas += _betas(found[other].options, ratio)
        fission += ratio * found[other].options.fission
    return Form(
        name="",
        lines=tuple(sorted(lines, key=lambda line: line.energy_kev)),
        betas=tuple(betas),
        fission_per_100=fission,
    )


def _lines(given: NuclideEntry, ratio: float) -> list[Line]:
    kinds: tuple[tuple[LineKind, tuple[tuple[float, float], ...]], ...] = (
        ("gamma", given.gamma),
        ("x-ray", given.x_ray),
        ("annihilation", ((511.0, given.annihilation),) if given.annihilation else ()),
    )
    return [
        Line(energy_kev=energy, per_100=ratio * amount, kind=kind)
        for kind, pairs in kinds
        for energy, amount in pairs
    ]


def _betas(given: NuclideEntry, ratio: float) -> list[Beta]:
    return [Beta(endpoint_kev=energy, per_100=ratio * amount) for energy, amount in given.beta]
