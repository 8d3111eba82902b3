"""``checkpointd evaluate``: what the lane's own detection makes of a file of passages."""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from agent.analysis.detection.learning import LEAST_TO_LEARN
from agent.analysis.detection.threshold import rate_bound, uniformity_p
from agent.analysis.response.detector import CrystalMaterial, Detector
from agent.config.nuclides import load_nuclides
from agent.config.problems import ConfigError
from agent.lane.alarms import figure_of_p, stated_p
from agent.lane.spectra.naming import Named
from agent.tools.evaluate import judging as pass_judging
from agent.tools.evaluate import spectra as pass_spectra
from agent.tools.evaluate.judging import Judged
from agent.tools.evaluate.passes import Passes, PassesError, read_library, read_passes
from agent.tools.evaluate.sought import Sought, name_of, nuclide_of_source, targets
from agent.tools.evaluate.spectra import LeftOut
from agent.tools.terminal import DEFAULT_CONFIG, wrong_input

Floats = NDArray[np.float64]
Json = dict[str, object]

SIDES_CM: dict[CrystalMaterial, tuple[float, float, float]] = {
    "nai": (5.08, 10.16, 40.64),
    "csi": (5.0, 10.0, 40.0),
    "labr3": (3.8, 3.8, 3.8),
    "pvt": (3.8, 35.6, 172.7),
}
"""What is usual in portals: 2 × 4 × 16 inch logs, 1.5 inch crystals, 1.5 × 14 × 68 inch plastic."""
MOST_STRENGTHS = 20
"""With more strengths than that of a source, neighbours are put together."""
STRENGTHS_PER_DECADE = 6

_CRYSTAL = re.compile(r"(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)x(\d+(?:\.\d+)?)(cm|mm|in)", re.ASCII)
_UNITS_CM = {"cm": 1.0, "mm": 0.1, "in": 2.54}


def evaluate_command(arguments: argparse.Namespace) -> int:
    """Evaluate a file of passages.

    Raises
    ------
    WrongInputError
        Where the file, the library or an option is wrong.
    """
    with wrong_input(PassesError, ConfigError):
        sought = Sought(
            detector=detector_of(arguments.detector, arguments.crystal),
            nuclides=load_nuclides(DEFAULT_CONFIG),
            library=None if arguments.library is None else read_library(arguments.library),
            exclude=tuple(arguments.exclude),
        )
        passes = read_passes(arguments.passes)
        with progress_bar() as progress:
            result = evaluate(passes, sought, arguments.far, progress)
    for note in result.notes:
        print(f"checkpointd: {note}", file=sys.stderr)
    if arguments.json:
        for line in result.lines:
            print(json.dumps(line, ensure_ascii=False))
        print(json.dumps(result.summary, ensure_ascii=False))
    else:
        _show(result)
    return 0


def detector_of(material: CrystalMaterial, crystal: str | None) -> Detector:
    """Return the detector of ``--detector`` and ``--crystal``; raises PassesError."""
    if crystal is None:
        return Detector(material=material, sides_cm=SIDES_CM[material])
    found = _CRYSTAL.fullmatch(crystal.replace(" ", "").replace("×", "x"))
    if found is None:
        raise PassesError(f"--crystal {crystal}: expected three sides and a unit, as 5x10x40cm")
    unit = _UNITS_CM[found[4]]
    a, b, c = (float(found[i]) * unit for i in (1, 2, 3))
    if not 0.1 <= min(a, b, c) <= max(a, b, c) <= 400.0:
        raise PassesError(f"--crystal {crystal}: expected sides from 1 mm to 4 m")
    return Detector(material=material, sides_cm=(a, b, c))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What is printed: a line for each test passage, the summary, and notes for a person."""

    lines: tuple[Json, ...]
    summary: Json
    notes: tuple[str, ...]


Progressing = Callable[[str, int], Callable[[int], None]]
"""Begins a piece of work of so many parts, and returns what is to be told of each part done."""


def evaluate(passes: Passes, sought: Sought, far: float, progress: Progressing) -> Result:
    """Return what the detection makes of a file of passages; raises PassesError."""
    out = pass_spectra.left_out(passes)
    grid = pass_spectra.grid_of(passes)
    summed = pass_spectra.summed(passes, grid, out)
    teach, test = (
        summed.some(np.flatnonzero(which)) for which in (passes.is_commission, passes.is_test)
    )
    done = progress("computing what is looked for", 1)
    empty = summed.background[summed.is_judged].sum(axis=0)
    wanted = targets(grid, empty, sought, passes.slice_s)
    done(1)
    done = progress(f"learning from {len(teach.counts)} passages", 1)
    model = pass_judging.model_of(teach, test, wanted.shapes, passes.slice_s, far)
    done(1)
    done = progress("judging", len(test.counts))
    neutron_p = pass_judging.neutron_p_values(passes)
    judged = pass_judging.judged(model, test, neutron_p, done)
    names: dict[int, Named] = {}
    if wanted.rules is not None:
        alarmed = np.flatnonzero((judged.p < far) & test.is_judged)
        done = progress("naming", len(alarmed))
        for index in alarmed:
            names[int(index)] = name_of(wanted.rules, test, judged.verdict, int(index))
            done(1)
    return Result(
        lines=tuple(
            _line(int(number), index, judged, names.get(index), far)
            | {"provisional": model.is_provisional, "left_out": out.of(int(number))}
            for index, number in enumerate(np.flatnonzero(passes.is_test))
        ),
        summary=summary_of(passes, judged, far, is_provisional=model.is_provisional),
        notes=tuple(_notes(passes, out, is_provisional=model.is_provisional)),
    )


def _line(number: int, index: int, judged: Judged, name: Named | None, far: float) -> Json:
    p = float(judged.p[index])
    known = not math.isnan(p)
    nuclides = () if name is None else name.nuclides
    return {
        "pass": number,
        "alarm": p < far if known else None,
        "p": stated_p(p) if known else None,
        "statistic": judged.statistic[index],
        "category": None if name is None else name.category,
        "nuclides": [{"name": each.name, "confidence": each.confidence} for each in nuclides],
    }


def _notes(passes: Passes, out: LeftOut, *, is_provisional: bool) -> Iterator[str]:
    if passes.ignored:
        yield f"arrays that nothing reads: {', '.join(passes.ignored)}"
    if is_provisional:
        yield (
            f"provisional: {int(passes.is_commission.sum())} commission passages, "
            f"{LEAST_TO_LEARN} are needed to learn from; the thresholds come from a formula"
        )
    if passes.neutron_counts is not None and not passes.is_commission.any():
        yield "neutrons are not judged: no commission passage says what their background is"
    left = out.any.sum(axis=0)
    for detector in np.flatnonzero(left):
        yield f"detector {detector} is left out of {left[detector]} of {len(out.any)} passages"


# ------------------------------------------------------------------ the summary


def summary_of(passes: Passes, judged: Judged, far: float, *, is_provisional: bool) -> Json:
    """Return the summary: alarms of benign passages with their bound, and by truth and strength.

    Without ``truth`` nothing can be summed up, and ``benign`` is None.
    """
    test = np.flatnonzero(passes.is_test)
    alarms = judged.p < far
    summary: Json = {
        "type": "summary",
        "far": far,
        "benign": None,
        "norm": None,
        "detection": {},
        "passes": len(test),
        "not_judged": int(np.isnan(judged.p).sum()),
        "commission": int(passes.is_commission.sum()),
        "provisional": is_provisional,
        "uniformity_p": None,
        "slice_us": None if math.isnan(judged.slice_us) else round(judged.slice_us, 1),
    }
    if passes.truth is None:
        return summary
    truth = [passes.truth[number] for number in test]
    benign = np.array([name == "" for name in truth], dtype=bool)
    norm = np.array([name.upper().startswith("NORM") for name in truth], dtype=bool)
    known = benign & ~np.isnan(judged.p)
    summary["benign"] = _rate_of(alarms, known)
    if norm.any():
        summary["norm"] = _rate_of(alarms, norm & ~np.isnan(judged.p))
    if known.any() and judged.neutron_p is None and not is_provisional:
        summary["uniformity_p"] = float(f"{uniformity_p(judged.p[known]):.3g}")
    strengths = np.full(len(test), np.nan)
    if passes.strength_cps is not None:
        strengths = passes.strength_cps[test]
    names = np.array([nuclide_of_source(name) for name in truth])
    summary["detection"] = {
        str(name): _by_strength(strengths[which], alarms[which])
        for name in np.unique(names[~benign & ~norm])
        for which in [(names == name) & ~benign & ~norm]
    }
    return summary


def _rate_of(alarms: NDArray[np.bool_], which: NDArray[np.bool_]) -> Json:
    passes, found = int(which.sum()), int((alarms & which).sum())
    return {
        "passes": passes,
        "alarms": found,
        "bound_95": float(f"{rate_bound(found, passes):.6g}"),
    }


def _by_strength(strengths: Floats, alarms: NDArray[np.bool_]) -> list[Json]:
    """Return passages and alarms at each strength, in rising order; unknown strengths last."""
    known = np.isfinite(strengths)
    levels = strengths[known]
    if len(np.unique(levels)) > MOST_STRENGTHS:
        # Neighbours together, each group at the middle of its steps of the logarithm.
        steps = np.round(np.log10(np.maximum(levels, 1e-3)) * STRENGTHS_PER_DECADE)
        levels = 10.0 ** (steps / STRENGTHS_PER_DECADE)
    rows: list[Json] = []
    for level in np.unique(levels):
        which = levels == level
        found = int(alarms[known][which].sum())
        strength = float(f"{level:.4g}")
        rows.append({"strength_cps": strength, "passes": int(which.sum()), "alarms": found})
    if not known.all():
        found = int(alarms[~known].sum())
        rows.append({"strength_cps": None, "passes": int((~known).sum()), "alarms": found})
    return rows


# ------------------------------------------------------------------ for a person


@contextmanager
def progress_bar() -> Iterator[Progressing]:
    """Show a bar on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not sys.stderr.isatty()
    ) as bar:

        def begin(text: str, parts: int) -> Callable[[int], None]:
            task = bar.add_task(text, total=parts)

            def done(count: int) -> None:
                bar.advance(task, count)

            return done

        yield begin


def _show(result: Result) -> None:
    console = Console()
    alarms = [line for line in result.lines if line["alarm"]]
    if alarms:
        table = Table(title="alarms")
        for head in ("pass", "p", "statistic", "category", "nuclides"):
            table.add_column(head, justify="right" if head in ("pass", "p") else "left")
        for line in alarms:
            table.add_row(*_cells(line))
        console.print(table)
    _show_summary(console, result.summary)


def _cells(line: Json) -> list[str]:
    nuclides = line["nuclides"]
    assert isinstance(nuclides, list)
    named = ", ".join(str(each["name"]) for each in nuclides)
    p = line["p"]
    assert isinstance(p, float)
    return [
        str(line["pass"]),
        figure_of_p(p),
        str(line["statistic"]),
        str(line["category"] or ""),
        named,
    ]


def _show_summary(console: Console, summary: Json) -> None:
    detection = summary["detection"]
    assert isinstance(detection, dict)
    if detection:
        table = Table(title="found")
        for head in ("source", "net counts/s", "passes", "alarms", "share"):
            table.add_column(head, justify="left" if head == "source" else "right")
        for name, rows in detection.items():
            for row in rows:
                strength = "" if row["strength_cps"] is None else f"{row['strength_cps']:g}"
                share = f"{row['alarms'] / row['passes']:.2f}"
                table.add_row(name, strength, str(row["passes"]), str(row["alarms"]), share)
        console.print(table)
    for key, text in (("benign", "benign passages"), ("norm", "passages with natural cargo")):
        figures = summary[key]
        if isinstance(figures, dict):
            console.print(
                f"{figures['alarms']} alarms in {figures['passes']} {text}: with 95 % confidence "
                f"at most {figures['bound_95']:.2g} a passage (asked: {summary['far']:g})"
            )
    sure = "thresholds provisional" if summary["provisional"] else "thresholds learned"
    text = f"{summary['passes']} passages judged, {sure} from {summary['commission']}"
    if summary["not_judged"]:
        text += f"; {summary['not_judged']} could not be judged"
    if summary["slice_us"] is not None:
        text += f"; {summary['slice_us']} µs a slice"
    console.print(text)
