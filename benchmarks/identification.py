"""How often a passage's nuclide, group and category are named right, and what is named wrongly.

Synthetic passes of a four-log NaI portal (``identification_passes``), with the templates that made
them (*matched*) and with those computed from physics (*computed*). Beside ours, in the same run
and on the same passes: the single-template Poisson likelihood ratio over a free background. Gates
come from development seeds, figures from others; nothing is fitted here but with ``--fit``, which
uses development seeds alone.

    python benchmarks/identification.py [--spectra FILE] [--passes N] [--only ARM] [--fit] [--quick]
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
from identification_passes import BACKGROUND_S, SLICE_S, Floats, Load, Pass, World, one_pass, world
from report import Goal, finish, progress, table
from scipy.special import betaincinv

from agent.analysis.courses import Passage, locate
from agent.analysis.detector import Detector
from agent.analysis.energy import sqrt_grid
from agent.analysis.hypotheses import COMPUTED, MATCHED, Candidates, Limits, candidates
from agent.analysis.identify import Identification, identify_passage
from agent.analysis.knowledge import knowledge_of
from agent.analysis.library import Library, nuclide_of
from agent.analysis.norm import norm_decision
from agent.analysis.nuclides import NuclideTable
from agent.analysis.response import background_components, templates
from agent.analysis.selection import pruned
from agent.analysis.unmix import Prior, Spectrum, fit
from agent.config.nuclides import load_nuclides

SPECTRA = (
    Path(__file__).resolve().parents[2] / "shared" / "data" / "spectra" / "nai_2x4x16_simulated.npz"
)
SOURCES = (
    *("U235_Unshielded_9330", "Pu239_Shielded", "Np237_Shielded", "U233_Unshielded"),
    *("U238_Unshielded", "Cs137_Unshielded", "Cs137_Shielded", "Co60_Unshielded"),
    *("Am241_Unshielded", "Ba133_Unshielded", "Co57_Unshielded", "Ir192_Shielded"),
    *("Se75_Unshielded", "Eu152_Unshielded", "Na22_Unshielded", "Tc99m_Phantom", "I131_Phantom"),
    *("F18_Phantom", "Tl201_Unshielded", "Ga67_Phantom", "In111_Unshielded", "Lu177_Phantom"),
    *("I123_Phantom", "Ra226_Unshielded"),
)
MASKED = ("Cs137_Unshielded", "Co60_Unshielded", "U235_Unshielded_9330", "Pu239_Shielded")
STRENGTHS_CPS = (300.0, 600.0, 1200.0, 2500.0)
JUDGED_AT_CPS = 600.0
NATURAL = ("K40_Unshielded", "Uore_Unshielded", "Th232_Unshielded")
POINTS = ("K40_Unshielded-Point", "Ra226_Unshielded", "Th232_Unshielded")
TRUCK_MEDIAN_CPS, TRUCK_LOG_SD = 403.0, 0.7
MASK_RATIO = 3.0
PILED_UP_CPS = 1e5
GATE = 1e-3  # false alarms a benign pass
DEVELOPMENT_SEED, JUDGING_SEED = 1000, 9000
TEMPERATURES = (0.75, 1.0, 1.5, 2.0, 3.0)
CONFIDENCES = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0001)
DETECTOR = Detector(material="nai", sides_cm=(5.08, 10.16, 40.64))
_ALIASES = {"Tl201wTl202": "Tl201", "Tl201woTl202": "Tl201", "Am241Li": "Am241"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Arm:
    """One way to have templates. ``gate``: the score a pass must exceed to count as detected."""

    name: str
    known: Candidates
    components: Floats
    gate: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lane:
    """What all passes share. ``library``: the spectra that make the passes, as templates."""

    world: World
    nuclides: NuclideTable
    library: Library
    passes: int


def name_of(spectrum: str) -> str:
    """Return the template's name of a spectrum: "Cs137_Shielded" is "Cs-137_Shielded"."""
    head, _, shielding = spectrum.partition("_")
    if head == "Uore":
        return f"U-ore_{shielding}"
    symbol = re.fullmatch(r"([A-Z][a-z]?)(\d+m?)", _ALIASES.get(head, head))
    if symbol is None:
        raise SystemExit(f"spectrum {spectrum} names no nuclide")
    return f"{symbol[1]}-{symbol[2]}_{shielding}" + (f"-{head}" if head in _ALIASES else "")


def passage_of(one: Pass) -> Passage:
    slices = BACKGROUND_S / SLICE_S
    return Passage(
        slices=one.counts,
        background=(one.background_counts + 0.5) / slices,
        background_slices=slices,
        slice_s=SLICE_S,
    )


def lane_of(spectra: Path, passes: int) -> Lane:
    made = world(spectra, sqrt_grid())
    nuclides = load_nuclides()
    rows = [i for i, n in enumerate(made.names) if nuclide_of(name_of(n)) in nuclides.names]
    shapes = made.sources[rows, made.sources.shape[1] // 2]
    library = Library(
        names=tuple(name_of(made.names[i]) for i in rows),
        shapes=shapes / shapes.sum(axis=1, keepdims=True),
        edges_kev=made.edges_kev,
    )
    return Lane(world=made, nuclides=nuclides, library=library, passes=passes)


def arms_of(lane: Lane) -> tuple[Arm, Arm]:
    knowledge = knowledge_of(lane.nuclides)
    middle = lane.world.background_cps.shape[1] // 2
    own = lane.world.background_cps[:3, middle]
    computed = templates(DETECTOR, lane.nuclides, lane.world.edges_kev)
    components = background_components(DETECTOR, lane.world.edges_kev)
    few = pruned(computed, components.sum(axis=0))
    return (
        Arm(name="matched", known=candidates(lane.library, knowledge, MATCHED), components=own),
        Arm(name="computed", known=candidates(few, knowledge, COMPUTED), components=components[:3]),
    )


def gated(lane: Lane, arm: Arm, benign: int) -> Arm:
    """Return the arm with the gate that one benign development pass in a thousand exceeds."""
    rng = np.random.default_rng(DEVELOPMENT_SEED)
    z = [
        locate(passage_of(one_pass(lane.world, (), rng)), arm.components, arm.known).z
        for _ in range(benign)
    ]
    return replace(arm, gate=float(np.quantile(z, 1 - GATE)))


# ------------------------------ the baseline


def baseline_ranks(lane: Lane, passage: Passage) -> list[str]:
    """Return the nuclides by the likelihood ratio of one template over a free background."""
    middle = lane.world.background_cps.shape[1] // 2
    parts = lane.world.background_cps[:, middle]
    window = _best_window(passage)
    counts = passage.slices[window].sum(axis=0)
    base = passage.background * (window.stop - window.start)
    columns = base.sum() * parts / parts.sum(axis=1, keepdims=True)
    prior = Prior(columns=columns, mean=np.zeros(4), sd=np.full(4, 0.5))
    spectrum = Spectrum(counts=counts, base=base, dispersion=np.ones(len(base)))
    found = fit(spectrum, prior, lane.library.shapes[:, None, :])
    ratio = np.where(found.coefficients[:, -1] > 0, found.log_likelihood, -np.inf)
    order = np.argsort(-ratio)
    return list(dict.fromkeys(lane.library.nuclides[t] for t in order))


def _best_window(passage: Passage, length: int = 10) -> slice:
    """Return the 2 s with the least likely spectrum: the largest χ² over the scaled background."""
    starts = range(len(passage.slices) - length + 1)
    sums = np.array([passage.slices[s : s + length].sum(axis=0) for s in starts])
    shape = passage.background / passage.background.sum()
    expected = sums.sum(axis=1, keepdims=True) * shape
    start = int(((sums - expected) ** 2 / np.maximum(expected, 1e-3)).sum(axis=1).argmax())
    return slice(start, start + length)


# ------------------------------ identification


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """One judged pass; every fact that the tables sum."""

    source: str
    cps: float
    z: float
    said: Identification
    is_first: bool
    is_alone: bool
    is_group: bool
    is_category: bool
    baseline_first: bool
    baseline_three: bool
    cost_s: float

    @property
    def is_unknown(self) -> bool:
        """Tell whether no category was named."""
        return self.said.is_unknown


def judge(lane: Lane, arm: Arm, strengths: Sequence[float], seed: int) -> list[Outcome]:
    """Return what was said of every test source at every strength."""
    outcomes = []
    for cps in strengths:
        progress(f"{arm.name}: {len(SOURCES)} sources at {cps:.0f} counts/s")
        rng = np.random.default_rng((seed, int(cps)))
        for source in SOURCES:
            load = (Load(source=lane.world.index(source), cps=cps),)
            for _ in range(lane.passes):
                passage = passage_of(one_pass(lane.world, load, rng))
                outcomes.append(_outcome(lane, arm, source, cps, passage))
    return outcomes


def _outcome(lane: Lane, arm: Arm, source: str, cps: float, passage: Passage) -> Outcome:
    place = locate(passage, arm.components, arm.known)
    began = time.process_time()
    said = identify_passage(passage, arm.components, arm.known, profile=place.profile)
    cost_s = time.process_time() - began
    truth = nuclide_of(name_of(source))
    names = {found.nuclide for found in said.nuclides}
    first = max(said.nuclides, key=lambda found: found.z, default=None)
    group = lane.nuclides.group_of
    ranks = baseline_ranks(lane, passage) if arm.name == "matched" else []
    return Outcome(
        source=source,
        cps=cps,
        z=place.z,
        said=said,
        is_first=first is not None and first.nuclide == truth,
        is_alone=names == {truth},
        is_group=group(truth) in {group(name) for name in names},
        is_category=said.category == lane.nuclides.category_of(truth),
        baseline_first=ranks[:1] == [truth],
        baseline_three=truth in ranks[:3],
        cost_s=cost_s,
    )


def share(outcomes: Sequence[Outcome], fact: Callable[[Outcome], bool]) -> float:
    """Return the share of outcomes of which a fact holds; NaN of none."""
    return float(np.mean([fact(o) for o in outcomes])) if outcomes else float("nan")


def summary(outcomes: Sequence[Outcome], gate: float) -> list[dict[str, float]]:
    """Return one row per strength."""
    rows = []
    for cps in dict.fromkeys(o.cps for o in outcomes):
        every = [o for o in outcomes if o.cps == cps]
        seen = [o for o in every if o.z > gate]
        row = {"cps": cps, "passes": len(every), "detected": len(seen) / len(every)}
        if any(o.baseline_three for o in every):
            row["baseline_first"] = share(every, lambda o: o.baseline_first)
            row["baseline_three"] = share(every, lambda o: o.baseline_three)
        for label, some in (("", every), ("_detected", seen)):
            row[f"first{label}"] = share(some, lambda o: o.is_first)
            row[f"alone{label}"] = share(some, lambda o: o.is_alone)
            row[f"group{label}"] = share(some, lambda o: o.is_group)
            row[f"category{label}"] = share(some, lambda o: o.is_category)
            row[f"unknown{label}"] = share(some, lambda o: o.is_unknown)
        rows.append(row)
    return rows


def reliability(
    outcomes: Sequence[Outcome], group: Callable[[str], str]
) -> list[tuple[str, int, float, float]]:
    """Return (bin, nuclides, mean confidence, share right) of every nuclide's confidence."""
    said = [
        (f.confidence, group(f.nuclide) == group(nuclide_of(name_of(o.source))))
        for o in outcomes
        for f in o.said.nuclides
    ]
    rows = []
    for low, high in pairwise(CONFIDENCES):
        some = [(c, right) for c, right in said if low <= c < high]
        if some:
            mean, right = np.mean(np.array(some, dtype=float), axis=0)
            rows.append((f"{low:.2f} to {min(high, 1):.2f}", len(some), float(mean), float(right)))
    return rows


# ------------------------------ SNM that is none


def upper_95(wrong: int, passes: int) -> float:
    """Return the one-sided 95 % Clopper-Pearson bound of a rate."""
    return 1.0 if wrong >= passes else float(betaincinv(wrong + 1, passes - wrong, 0.95))


def false_snm(lane: Lane, arm: Arm, loads: Sequence[str], passes: int, seed: int) -> list[str]:
    """Return the load of each pass that was called SNM; loads in turn, strengths log-uniform."""
    progress(f"{arm.name}: {passes} passes without SNM ({len(loads)} kinds)")
    rng = np.random.default_rng(seed)
    called = []
    for i in range(passes):
        load: tuple[Load, ...] = ()
        name = loads[i % len(loads)] if loads else "benign"
        if loads:
            cps = float(np.exp(rng.uniform(np.log(300), np.log(2500))))
            load = (Load(source=lane.world.index(name), cps=cps),)
        passage = passage_of(one_pass(lane.world, load, rng))
        if identify_passage(passage, arm.components, arm.known).category == "SNM":
            called.append(name)
    return called


def medical(lane: Lane, spectra: Path, *, is_seldom: bool) -> list[str]:
    """Return the medical spectra that are not piled up, of nuclides seldom met or of the others."""
    with np.load(spectra) as file:
        rates = dict(zip(file["names"], file["counts"].sum(axis=1) / file["live"], strict=True))
    prior = knowledge_of(lane.nuclides).prior
    found = []
    for spectrum in lane.world.names:
        nuclide = nuclide_of(name_of(spectrum))
        if nuclide in lane.nuclides.names and rates[spectrum] < PILED_UP_CPS:
            is_wanted = (prior[nuclide] < 1.0) == is_seldom
            if is_wanted and lane.nuclides.category_of(nuclide) == "medical":
                found.append(spectrum)
    return found


# ------------------------------ natural cargo


def truck(lane: Lane, rng: np.random.Generator, cps: float) -> tuple[Load, ...]:
    """Return K, U and Th in any proportion, spread over the vehicle."""
    parts = rng.dirichlet(np.ones(3))
    return tuple(
        Load(source=lane.world.index(name), cps=cps * part, is_point=False)
        for name, part in zip(NATURAL, parts, strict=True)
    )


def natural_cargo(lane: Lane, arm: Arm, passes: int, seed: int) -> dict[str, object]:
    """Return how often trucks are called NORM, points are not, and masked threats are raised."""
    progress(f"{arm.name}: natural cargo")
    rng = np.random.default_rng(seed)
    alarmed = called = 0
    for _ in range(passes):
        cps = float(np.exp(rng.normal(np.log(TRUCK_MEDIAN_CPS), TRUCK_LOG_SD)))
        passage = passage_of(one_pass(lane.world, truck(lane, rng, cps), rng))
        decision = norm_decision(passage, arm.components, arm.known)
        is_alarm = locate(passage, arm.components, arm.known).z > arm.gate
        alarmed += is_alarm
        called += is_alarm and decision.is_norm
    points = {}
    for cps in (600.0, 1200.0):
        silent = 0
        for i in range(passes // 2):
            load = (Load(source=lane.world.index(POINTS[i % len(POINTS)]), cps=cps),)
            passage = passage_of(one_pass(lane.world, load, rng))
            silent += norm_decision(passage, arm.components, arm.known).is_norm
        points[f"{cps:.0f}"] = silent / (passes // 2)
    return {
        "trucks": passes,
        "trucks_alarmed": alarmed,
        "trucks_called_norm": called / max(alarmed, 1),
        "points_called_norm": points,
        "masked": {name: masked(lane, arm, name, passes // 4, rng) for name in MASKED},
    }


def masked(
    lane: Lane, arm: Arm, source: str, passes: int, rng: np.random.Generator
) -> dict[str, float]:
    """Return how often a threat under three times as much NORM is raised, and named by group."""
    group = lane.nuclides.group_of
    raised = named = 0
    for _ in range(passes):
        loads = truck(lane, rng, MASK_RATIO * JUDGED_AT_CPS)
        loads += (Load(source=lane.world.index(source), cps=JUDGED_AT_CPS),)
        passage = passage_of(one_pass(lane.world, loads, rng))
        decision = norm_decision(passage, arm.components, arm.known)
        raised += not decision.is_norm
        said = identify_passage(
            passage,
            arm.components,
            arm.known,
            profile=decision.masked_profile,
            component_sd=0.1,
        )
        names = {group(found.nuclide) for found in said.nuclides}
        named += group(nuclide_of(name_of(source))) in names
    return {"raised": raised / passes, "named": named / passes}


# ------------------------------ fit and run


def fit_temperature(lane: Lane, arm: Arm) -> dict[str, float]:
    """Return the mean log loss of the truth's confidence at each temperature, development seeds."""
    group = lane.nuclides.group_of
    few = replace(lane, passes=max(lane.passes // 5, 2))
    losses = {}
    for temperature in TEMPERATURES:
        limits: Limits = replace(arm.known.limits, temperature=temperature)
        tried = replace(arm, known=replace(arm.known, limits=limits))
        outcomes = judge(few, tried, (300.0, 600.0, 1200.0), DEVELOPMENT_SEED)
        loss = [
            -np.log(np.clip(f.confidence if right else 1 - f.confidence, 1e-6, 1.0))
            for o in outcomes
            for f in o.said.nuclides
            for right in [group(f.nuclide) == group(nuclide_of(name_of(o.source)))]
        ]
        losses[str(temperature)] = float(np.mean(loss))
    return losses


def run_arm(lane: Lane, arm: Arm, spectra: Path, snm_passes: int) -> tuple[str, dict[str, object]]:
    outcomes = judge(lane, arm, STRENGTHS_CPS, JUDGING_SEED)
    rows = summary(outcomes, arm.gate)
    kinds = {
        "benign": [],
        "medical": medical(lane, spectra, is_seldom=False),
        "medical, seldom": medical(lane, spectra, is_seldom=True),
    }
    snm: dict[str, dict[str, object]] = {}
    for i, (kind, loads) in enumerate(kinds.items()):
        called = false_snm(lane, arm, loads, snm_passes, JUDGING_SEED + 10 + i)
        bound = upper_95(len(called), snm_passes)
        snm[kind] = {"passes": snm_passes, "called": len(called), "bound_95": bound}
        snm[kind]["of"] = sorted(set(called))
    cargo = natural_cargo(lane, arm, lane.passes * 10, JUDGING_SEED + 20)
    calibration = reliability(outcomes, lane.nuclides.group_of)
    cost_ms = float(np.median([o.cost_s for o in outcomes]) * 1e3)
    figures = {
        "gate_z": arm.gate,
        "templates": len(arm.known.names),
        "strengths": rows,
        "snm": snm,
        "cargo": cargo,
        "reliability": calibration,
        "identify_ms": cost_ms,
        "identify_worst_ms": float(max(o.cost_s for o in outcomes) * 1e3),
    }
    return "\n\n".join(_tables(arm, figures, rows, calibration, outcomes)), figures


def _tables(
    arm: Arm,
    figures: dict[str, object],
    rows: Sequence[dict[str, float]],
    calibration: Sequence[tuple[str, int, float, float]],
    outcomes: Sequence[Outcome],
) -> list[str]:
    heads = tuple(dict.fromkeys(key for row in rows for key in row))
    by_source = []
    for source in SOURCES:
        some = [o for o in outcomes if o.source == source and o.cps == JUDGED_AT_CPS]
        facts = [share(some, f) for f in (lambda o: o.z > arm.gate, lambda o: o.is_first)]
        facts += [share(some, f) for f in (lambda o: o.is_group, lambda o: o.is_category)]
        by_source.append((source, *facts, share(some, lambda o: o.is_unknown)))
    return [
        f"{arm.name}: {figures['templates']} templates, detected above {arm.gate:.2f} σ",
        table(heads, [[row.get(head) for head in heads] for row in rows]),
        table(
            (
                f"at {JUDGED_AT_CPS:.0f} counts/s",
                "detected",
                "first",
                "group",
                "category",
                "unknown",
            ),
            by_source,
        ),
        table(("confidence", "nuclides", "mean", "right"), calibration),
        f"SNM that is none: {figures['snm']}",
        f"natural cargo: {figures['cargo']}",
        f"identify: {figures['identify_ms']:.1f} ms in the median",
    ]


def goals_of(figures: dict[str, dict[str, object]]) -> list[Goal]:
    """Return the goals of the matched arm, as shares that are missed."""
    arm = figures["matched"]
    row = next(r for r in arm["strengths"] if r["cps"] == JUDGED_AT_CPS)  # type: ignore[attr-defined]
    cargo = arm["cargo"]
    snm = arm["snm"]
    assert isinstance(cargo, dict)
    assert isinstance(snm, dict)
    both = [snm["benign"], snm["medical"]]
    wrong, passes = sum(k["called"] for k in both), sum(k["passes"] for k in both)
    least = min(m["raised"] for m in cargo["masked"].values())
    return [
        Goal(name="not right first", measured=1 - row["first"], limit=0.15, unit=""),
        Goal(name="not right by group", measured=1 - row["group"], limit=0.05, unit=""),
        Goal(name="category not right", measured=1 - row["category"], limit=0.03, unit=""),
        Goal(
            name="the same, of detected", measured=1 - row["category_detected"], limit=0.03, unit=""
        ),
        Goal(name="called SNM wrongly", measured=wrong / passes, limit=1e-3, unit="a pass"),
        Goal(name="its 95 % bound", measured=upper_95(wrong, passes), limit=1e-3, unit="a pass"),
        Goal(name="truck not NORM", measured=1 - cargo["trucks_called_norm"], limit=0.05, unit=""),
        Goal(name="masked not raised", measured=1 - least, limit=0.1, unit=""),
        Goal(name="identify", measured=float(str(arm["identify_ms"])), limit=100.0, unit="ms"),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "--spectra", type=Path, default=SPECTRA, help="library of long spectra (npz)"
    )
    parser.add_argument("--passes", type=int, default=40, help="of each source and strength")
    parser.add_argument("--only", choices=("matched", "computed"), help="one kind of templates")
    parser.add_argument("--fit", action="store_true", help="fit the temperature instead of judging")
    parser.add_argument("--quick", action="store_true", help="few passes; goals are not judged")
    asked = parser.parse_args(argv)
    if not asked.spectra.is_file():
        print(f"no spectra at {asked.spectra}; name a library with --spectra", file=sys.stderr)
        return 2
    lane = lane_of(asked.spectra, 2 if asked.quick else asked.passes)
    arms = [arm for arm in arms_of(lane) if asked.only in (None, arm.name)]
    if asked.fit:
        losses = {arm.name: fit_temperature(lane, arm) for arm in arms}
        rows = [(name, *loss.values()) for name, loss in losses.items()]
        text = table(("log loss at temperature", *map(str, TEMPERATURES)), rows)
        return finish("identification-fit", text, {"losses": losses}, is_quick=True)
    texts, figures = [], {}
    for arm in arms:
        progress(f"{arm.name}: the gate")
        ready = gated(lane, arm, 100 if asked.quick else 3000)
        text, figures[arm.name] = run_arm(lane, ready, asked.spectra, 30 if asked.quick else 3000)
        texts.append(text)
    goals = goals_of(figures) if "matched" in figures and not asked.quick else []
    return finish(
        "identification", "\n\n\n".join(texts), {"arms": figures}, goals, is_quick=asked.quick
    )


if __name__ == "__main__":
    sys.exit(main())
