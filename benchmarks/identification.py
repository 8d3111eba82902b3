"""How often a passage's nuclide, group and category are named right, and what is named wrongly.

Synthetic passes of a four-log NaI portal (``identification_passes``), with the templates that made
them (*matched*) and with those computed from physics (*computed*), and real spectra thinned to
short passes. Beside ours, in the same run and on the same passes: the single-template Poisson
likelihood ratio over a free background. What decides comes from development seeds
(``--development``), figures from others; nothing is fitted here.

    python benchmarks/identification.py [--spectra FILE] [--only ARM] [--part PART]… [--passes N]
        [--quick] [--development]
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import identification_parts as parts
from identification_lanes import (
    DEVELOPMENT_SEED,
    JUDGING_SEED,
    Arm,
    Lane,
    computed,
    gated,
    lane_of,
    matched,
)
from identification_passes import Conditions
from identification_real import measured_csi, measured_nai
from report import Goal, finish, progress, table

from agent.analysis.energy.scale import sqrt_grid

SPECTRA = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "spectra" / "nai_2x4x16_simulated.npz"
)
STRENGTHS_CPS = (300.0, 600.0, 1200.0, 2500.0)
CONDITIONS = {
    "gain -2 %": Conditions(gain=-0.02),
    "gain +2 %": Conditions(gain=0.02),
    "suppression 0": Conditions(suppression=0.0),
    "suppression 35 %": Conditions(suppression=0.35),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many passes: of each source, without SNM of each kind, benign, natural loads, masked."""

    passes: int = 30
    snm: int = 3000
    benign: int = 3000
    trucks: int = 600
    masked: int = 40
    real: int = 100


QUICK = Size(passes=1, snm=20, benign=50, trucks=10, masked=2, real=2)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Run:
    """What a part is given."""

    lane: Lane
    arm: Arm
    size: Size
    spectra: Path
    seed: int


Part = tuple[list[str], dict[str, Any]]


def naming(run: Run) -> Part:
    """Return shares right at each strength, sources at the judged one, and the confidences."""
    rows, every = [], []
    for cps in STRENGTHS_CPS:
        outcomes = parts.named(run.lane, run.arm, cps, run.size.passes, seed=run.seed)
        rows.append({"cps": cps, **parts.shares(outcomes)})
        every += outcomes
    judged = [o for o in every if o.cps == parts.JUDGED_AT_CPS]
    confident = parts.reliability(every)
    texts = [
        _table("counts/s", [(f"{row['cps']:.0f}", row) for row in rows]),
        _of_sources(judged),
        table(("confidence", "nuclides", "mean", "right"), confident),
    ]
    return texts, {"strengths": rows, "reliability": confident}


def _of_sources(judged: Sequence[parts.Outcome]) -> str:
    lines = []
    for source in parts.SOURCES:
        some = [o for o in judged if o.source == source]
        facts = [parts.share(some, fact) for fact in parts.FACTS.values()]
        said = collections.Counter(o.named for o in some).most_common(3)
        words = ", ".join(f"{count} {name}" for name, count in said)
        lines.append((source, parts.share(some, lambda o: o.is_seen), *facts, words))
    head = (f"at {parts.JUDGED_AT_CPS:.0f} counts/s", "detected", *parts.FACTS, "named")
    return table(head, lines)


def conditions(run: Run) -> Part:
    """Return shares right at the judged strength, with the scale off and with more in the way."""
    rows = {}
    for name, under in CONDITIONS.items():
        passes = max(run.size.passes // 3, 1)
        outcomes = parts.named(
            run.lane, run.arm, parts.JUDGED_AT_CPS, passes, under, seed=run.seed + 1
        )
        rows[name] = parts.shares(outcomes)
    return [_table("600 counts/s", list(rows.items()))], {"conditions": rows}


def snm(run: Run) -> Part:
    """Return how many passes without SNM were called SNM."""
    kinds = {
        "benign": [],
        "medical": parts.medical(run.lane, run.spectra, is_seldom=False),
        "medical, seldom met": parts.medical(run.lane, run.spectra, is_seldom=True),
    }
    found: dict[str, dict[str, Any]] = {}
    for i, (kind, loads) in enumerate(kinds.items()):
        passes = run.size.snm if kind != "medical, seldom met" else run.size.snm // 3
        called = parts.false_snm(run.lane, run.arm, loads, passes, run.seed + 10 + i)
        found[kind] = {
            "passes": passes,
            "called": len(called),
            "bound_95": parts.upper_95(len(called), passes),
            "of": collections.Counter(called).most_common(4),
        }
    rows = [
        (kind, each["passes"], each["called"], f"{each['bound_95']:.5f}", each["of"])
        for kind, each in found.items()
    ]
    return [table(("without SNM", "passes", "called SNM", "bound", "of"), rows)], {"snm": found}


def cargo(run: Run) -> Part:
    """Return how often natural loads are called NORM, and natural points are."""
    loads = parts.trucks(run.lane, run.arm, run.size.trucks, run.seed + 20)
    silent = parts.points(run.lane, run.arm, run.size.trucks // 2, run.seed + 21)
    part = loads["called_norm"] / max(loads["alarmed"], 1)
    figures = {**loads, "share": part, "±": parts.error(part, int(loads["alarmed"]))}
    rows = [("natural loads that alarm", loads["alarmed"], part, figures["±"])]
    for cps, share in silent.items():
        count = run.size.trucks // 2
        rows.append((f"natural points, {cps} counts/s", count, share, parts.error(share, count)))
    head = ("", "passes", "called NORM", "±")
    return [table(head, rows)], {"cargo": figures, "points_called_norm": silent}


def masked(run: Run) -> Part:
    """Return the strengths of threats found bare and under three times as much NORM."""
    found = {
        source: parts.masked(run.lane, run.arm, source, run.size.masked, run.seed + 30)
        for source in parts.MASKED
    }
    head = ("found in 9 of 10 [counts/s]", *next(iter(found.values())))
    return [table(head, [(name, *each.values()) for name, each in found.items()])], {
        "masked": found
    }


def real(run: Run) -> Part:
    """Return how real spectra, thinned, are named with computed templates."""
    data = run.spectra.parent
    csi = measured_csi(data / "csi_measured", run.lane.nuclides, run.size.real, run.seed + 40)
    nai = measured_nai(
        data / "nai_measured_background.spe", run.lane.nuclides, run.size.snm // 3, run.seed + 41
    )
    heads = tuple(next(iter(csi.values())))
    return [
        table(("CsI, net counts", *heads), [(k, *v.values()) for k, v in csi.items()]),
        table(
            ("NaI background, counts", "passes", "named", "SNM"),
            [(k, *v.values()) for k, v in nai.items()],
        ),
    ], {"csi": csi, "nai_background": nai}


PARTS: dict[str, Callable[[Run], Part]] = {
    "naming": naming,
    "conditions": conditions,
    "snm": snm,
    "cargo": cargo,
    "masked": masked,
    "real": real,
}


def _table(first: str, rows: Sequence[tuple[str, dict[str, Any]]]) -> str:
    """Return rows of shares, each with its standard error behind it."""
    every = dict.fromkeys(key for _, row in rows for key in row)
    keys = [key for key in every if not key.endswith(" ±") and key != "cps"]
    return table((first, *keys), [(name, *[_said(row, key) for key in keys]) for name, row in rows])


def _said(row: dict[str, Any], key: str) -> object:
    value, wrong = row.get(key), row.get(f"{key} ±")
    return value if value is None or wrong is None else f"{value:.3f}±{wrong:.3f}"


# ------------------------------ goals


def goals_of(figures: dict[str, Any]) -> list[Goal]:
    """Return the goals of one arm's parts, as shares that are missed."""
    goals = []
    if "strengths" in figures:
        row = next(r for r in figures["strengths"] if r["cps"] == parts.JUDGED_AT_CPS)
        wanted = {"first": 0.15, "group": 0.05, "category": 0.03}
        for label in ("", " of detected"):
            goals += [
                Goal(name=f"not right: {n}{label}", measured=1 - row[n + label], limit=m, unit="")
                for n, m in wanted.items()
            ]
    if "snm" in figures:
        both = [figures["snm"][kind] for kind in ("benign", "medical")]
        wrong, passes = sum(k["called"] for k in both), sum(k["passes"] for k in both)
        bound = parts.upper_95(wrong, passes)
        goals.append(
            Goal(name="called SNM wrongly, 95 % bound", measured=bound, limit=1e-3, unit="a pass")
        )
    if "cargo" in figures:
        silent = 1 - figures["cargo"]["share"]
        goals.append(Goal(name="natural load not NORM", measured=silent, limit=0.05, unit=""))
    if "masked" in figures:
        ratios = [each["ratio"] for each in figures["masked"].values()]
        worst = float("inf") if None in ratios else max(ratios)
        goals.append(Goal(name="masked over bare strength", measured=worst, limit=1.5, unit=""))
    return goals


def main(argv: Sequence[str] | None = None) -> int:
    """Run the parts asked for and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--spectra", type=Path, default=SPECTRA, help="library of long NaI spectra (npz)"
    )
    parser.add_argument("--passes", type=int, help="of each source and strength (30)")
    parser.add_argument("--only", choices=("matched", "computed"), help="one kind of templates")
    parser.add_argument(
        "--part", choices=tuple(PARTS), action="append", help="one part of it; may be given again"
    )
    parser.add_argument("--quick", action="store_true", help="few passes; goals are not judged")
    parser.add_argument(
        "--development", action="store_true", help="other seeds, to improve the method with"
    )
    asked = parser.parse_args(argv)
    if not asked.spectra.is_file():
        print(f"no spectra at {asked.spectra}; name a library with --spectra", file=sys.stderr)
        return 2
    size = QUICK if asked.quick else Size(passes=asked.passes or Size().passes)
    texts, figures, goals = _run(asked, size)
    named = {"arms": figures, "seed": _seed(asked)}
    return finish("identification", "\n\n".join(texts), named, goals, is_quick=asked.quick)


def _seed(asked: argparse.Namespace) -> int:
    return DEVELOPMENT_SEED + 100 if asked.development else JUDGING_SEED


def _run(asked: argparse.Namespace, size: Size) -> tuple[list[str], dict[str, Any], list[Goal]]:
    lane = lane_of(asked.spectra)
    wanted = asked.part or list(PARTS)
    texts: list[str] = []
    figures: dict[str, Any] = {}
    goals: list[Goal] = []
    for name in ("matched", "computed"):
        mine = [part for part in wanted if part != "real" or name == "computed"]
        if asked.only not in (None, name) or not mine:
            continue
        progress(f"{name}: the gate")
        arm = matched(lane) if name == "matched" else computed(lane.nuclides, sqrt_grid())
        arm = gated(lane, arm, size.benign)
        run = Run(lane=lane, arm=arm, size=size, spectra=asked.spectra, seed=_seed(asked))
        texts.append(f"{name}: {len(arm.known.names)} templates, detected above {arm.gate:.2f} σ")
        figures[name] = {"gate_z": arm.gate, "templates": len(arm.known.names), "cpu_s": {}}
        for part in mine:
            began = time.process_time()
            said, facts = PARTS[part](run)
            figures[name]["cpu_s"][part] = round(time.process_time() - began, 1)
            figures[name].update(facts)
            texts += said
        goals += [
            Goal(name=f"{name}: {g.name}", measured=g.measured, limit=g.limit, unit=g.unit)
            for g in goals_of(figures[name])
        ]
    return texts, figures, goals


if __name__ == "__main__":
    sys.exit(main())
