"""The parts of the identification benchmark: what is played and what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from identification_lanes import JUDGING_SEED, Arm, Lane, passage_of, truth_of
from identification_passes import USUAL, Conditions, Load, one_pass
from report import progress
from scipy.special import betaincinv

from agent.analysis.identification.courses import Passage, locate
from agent.analysis.identification.identify import Identification, identify_passage
from agent.analysis.identification.knowledge import knowledge_of
from agent.analysis.identification.norm import norm_decision
from agent.analysis.identification.unmix import Prior, Spectrum, fit

SOURCES = (
    *("U235_Unshielded_9330", "Pu239_Shielded", "Np237_Shielded", "U233_Unshielded"),
    *("U238_Unshielded", "Cs137_Unshielded", "Cs137_Shielded", "Co60_Unshielded"),
    *("Am241_Unshielded", "Ba133_Unshielded", "Co57_Unshielded", "Ir192_Shielded"),
    *("Se75_Unshielded", "Eu152_Unshielded", "Na22_Unshielded", "Tc99m_Phantom", "I131_Phantom"),
    *("F18_Phantom", "Tl201_Unshielded", "Ga67_Phantom", "In111_Unshielded", "Lu177_Phantom"),
    *("I123_Phantom", "Ra226_Unshielded"),
)
JUDGED_AT_CPS = 600.0
NATURAL = ("K40_Unshielded", "Uore_Unshielded", "Th232_Unshielded")
POINTS = ("K40_Unshielded-Point", "Ra226_Unshielded", "Th232_Unshielded")
TRUCK_MEDIAN_CPS, TRUCK_LOG_SD = 403.0, 0.7
MASK_RATIO = 3.0
PILED_UP_CPS = 1e5
CONFIDENCES = (0.0, 0.5, 0.7, 0.9, 0.95, 0.99, 1.0001)


# ------------------------------ naming


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outcome:
    """One judged pass; every fact that the tables sum. ``named``: what was said, in words."""

    source: str
    cps: float
    is_seen: bool
    is_first: bool
    is_group: bool
    is_category: bool
    is_unknown: bool
    is_baseline_first: bool | None
    named: str
    confidences: tuple[tuple[float, bool], ...]


def named(
    lane: Lane,
    arm: Arm,
    cps: float,
    passes: int,
    under: Conditions = USUAL,
    *,
    seed: int = JUDGING_SEED,
) -> list[Outcome]:
    """Return what was said of every test source at one strength.

    The baseline, which has the matched templates, is asked at the judged strength alone.
    """
    with_baseline = arm.name == "matched" and under is USUAL and cps == JUDGED_AT_CPS
    rng = np.random.default_rng((seed, int(cps)))
    outcomes = []
    for done, source in enumerate(SOURCES):
        progress(f"{arm.name}: {source} at {cps:.0f} counts/s ({done + 1} of {len(SOURCES)})")
        load = (Load(source=lane.world.index(source), cps=cps),)
        for _ in range(passes):
            passage = passage_of(one_pass(lane.world, load, rng, under))
            place = locate(passage, arm.components, arm.known)
            said = identify_passage(passage, arm.components, arm.known, profile=place.profile)
            first = baseline(lane, passage) if with_baseline else None
            outcomes.append(
                _outcome(lane, source, cps, said, is_seen=place.z > arm.gate, baseline=first)
            )
    return outcomes


def _outcome(
    lane: Lane,
    source: str,
    cps: float,
    said: Identification,
    *,
    is_seen: bool,
    baseline: str | None,
) -> Outcome:
    truth, group = truth_of(source), lane.nuclides.group_of
    first = max(said.nuclides, key=lambda found: found.z, default=None)
    groups = {group(found.nuclide) for found in said.nuclides}
    names = "+".join(sorted(found.name for found in said.nuclides)) or "nothing"
    return Outcome(
        source=source,
        cps=cps,
        is_seen=is_seen,
        is_first=first is not None and first.nuclide == truth,
        is_group=group(truth) in groups,
        is_category=said.category == lane.nuclides.category_of(truth),
        is_unknown=said.is_unknown,
        is_baseline_first=None if baseline is None else baseline == truth,
        named=f"{names} ({said.category})",
        confidences=tuple(
            (found.confidence, group(found.nuclide) == group(truth)) for found in said.nuclides
        ),
    )


def baseline(lane: Lane, passage: Passage) -> str:
    """Return the nuclide by the likelihood ratio of one template over a free background."""
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
    return lane.library.nuclides[int(ratio.argmax())]


def _best_window(passage: Passage, length: int = 10) -> slice:
    """Return the 2 s with the least likely spectrum: the largest χ² over the scaled background."""
    starts = range(len(passage.slices) - length + 1)
    sums = np.array([passage.slices[s : s + length].sum(axis=0) for s in starts])
    shape = passage.background / passage.background.sum()
    expected = sums.sum(axis=1, keepdims=True) * shape
    start = int(((sums - expected) ** 2 / np.maximum(expected, 1e-3)).sum(axis=1).argmax())
    return slice(start, start + length)


def share(outcomes: Sequence[Outcome], fact: Callable[[Outcome], bool | None]) -> float | None:
    """Return the share of outcomes of which a fact holds; None of none."""
    return float(np.mean([bool(fact(o)) for o in outcomes])) if outcomes else None


def error(part: float | None, passes: int) -> float | None:
    """Return a share's standard error; that of one in ``passes`` where it is 0 or 1."""
    if part is None or not passes:
        return None
    held = min(max(part, 1 / (passes + 2)), 1 - 1 / (passes + 2))
    return float(np.sqrt(held * (1 - held) / passes))


FACTS: dict[str, Callable[[Outcome], bool | None]] = {
    "first": lambda o: o.is_first,
    "group": lambda o: o.is_group,
    "category": lambda o: o.is_category,
    "unknown": lambda o: o.is_unknown,
}


def shares(outcomes: Sequence[Outcome]) -> dict[str, float | int | None]:
    """Return every fact's share, of all passes and of those that were detected, with errors."""
    seen = [o for o in outcomes if o.is_seen]
    row: dict[str, float | int | None] = {
        "passes": len(outcomes),
        "detected": len(seen) / len(outcomes),
    }
    for label, some in (("", outcomes), (" of detected", seen)):
        for name, fact in FACTS.items():
            row[name + label] = share(some, fact)
            row[f"{name}{label} ±"] = error(share(some, fact), len(some))
    if any(o.is_baseline_first is not None for o in outcomes):
        row["baseline first"] = share(outcomes, lambda o: o.is_baseline_first)
        row["baseline first ±"] = error(
            share(outcomes, lambda o: o.is_baseline_first), len(outcomes)
        )
    return row


def reliability(outcomes: Sequence[Outcome]) -> list[tuple[str, int, float, float]]:
    """Return (bin, nuclides, mean confidence, share right) of every nuclide's confidence."""
    said = [pair for o in outcomes for pair in o.confidences]
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
    """Return the load of each pass that was called SNM, whether it would alarm or not.

    Loads in turn (none: an empty list), strengths log-uniform from 300 to 2,500 counts/s.
    """
    rng = np.random.default_rng(seed)
    called = []
    for i in range(passes):
        if i % 500 == 0:
            progress(f"{arm.name}: {i} of {passes} passes without SNM ({len(loads)} spectra)")
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
        nuclide = truth_of(spectrum)
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


def trucks(lane: Lane, arm: Arm, passes: int, seed: int) -> dict[str, float | int]:
    """Return how many natural loads alarm, and how many of those are called NORM."""
    rng = np.random.default_rng(seed)
    alarmed = called = 0
    for i in range(passes):
        if i % 100 == 0:
            progress(f"{arm.name}: {i} of {passes} natural loads")
        cps = float(np.exp(rng.normal(np.log(TRUCK_MEDIAN_CPS), TRUCK_LOG_SD)))
        passage = passage_of(one_pass(lane.world, truck(lane, rng, cps), rng))
        if locate(passage, arm.components, arm.known).z > arm.gate:
            alarmed += 1
            called += norm_decision(passage, arm.components, arm.known).is_norm
    return {"passes": passes, "alarmed": alarmed, "called_norm": called}


def points(lane: Lane, arm: Arm, passes: int, seed: int) -> dict[str, float]:
    """Return the share of point sources of K-40, Ra-226, Th-232 that are called NORM cargo."""
    rng = np.random.default_rng(seed)
    called = dict.fromkeys(("600", "1200"), 0)
    progress(f"{arm.name}: natural point sources")
    for cps in called:
        for i in range(passes):
            load = (Load(source=lane.world.index(POINTS[i % len(POINTS)]), cps=float(cps)),)
            passage = passage_of(one_pass(lane.world, load, rng))
            called[cps] += norm_decision(passage, arm.components, arm.known).is_norm
    return {cps: count / passes for cps, count in called.items()}


# ------------------------------ threats under natural cargo


MASKED = ("Cs137_Unshielded", "Co60_Unshielded", "U235_Unshielded_9330", "Pu239_Shielded")
MASKED_CPS = (100.0, 141.0, 200.0, 283.0, 400.0, 566.0, 800.0, 1131.0, 1600.0, 2263.0)
FOUND = 0.9
_DRAWS = 200


def masked(lane: Lane, arm: Arm, source: str, passes: int, seed: int) -> dict[str, float | None]:
    """Return the strength found in nine of ten passes, bare and under 3 times as much NORM.

    Found: it alarms and is not called NORM. ``ratio``: masked over bare; ``ratio ±`` its
    standard error, from drawing the counts of found passes anew. None: beyond the range tried.
    """
    rng = np.random.default_rng((seed, MASKED.index(source)))
    found = {False: np.zeros(len(MASKED_CPS)), True: np.zeros(len(MASKED_CPS))}
    for k, cps in enumerate(MASKED_CPS):
        progress(f"{arm.name}: {source} at {cps:.0f} counts/s, bare and masked")
        for is_masked, count in found.items():
            for _ in range(passes):
                if count[k - 1] == passes and k > 1 and count[k - 2] == passes:
                    count[k] += 1  # certain at the two strengths below
                    continue
                count[k] += _is_found(lane, arm, source, cps, rng, is_masked=is_masked)
    bare, under = (strength_found(found[is_masked] / passes) for is_masked in (False, True))
    drawn = []
    for _ in range(_DRAWS):
        pair = [
            strength_found(rng.binomial(passes, found[is_masked] / passes) / passes)
            for is_masked in (False, True)
        ]
        drawn += [pair[1] / pair[0]] if pair[0] is not None and pair[1] is not None else []
    ratio = under / bare if bare is not None and under is not None else None
    spread = float(np.std(drawn)) if drawn else None
    return {"bare": bare, "masked": under, "ratio": ratio, "ratio ±": spread}


def _is_found(
    lane: Lane, arm: Arm, source: str, cps: float, rng: np.random.Generator, *, is_masked: bool
) -> bool:
    loads = truck(lane, rng, MASK_RATIO * cps) if is_masked else ()
    loads += (Load(source=lane.world.index(source), cps=cps),)
    passage = passage_of(one_pass(lane.world, loads, rng))
    if locate(passage, arm.components, arm.known).z <= arm.gate:
        return False
    return not norm_decision(passage, arm.components, arm.known).is_norm


def strength_found(shares_: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float | None:
    """Return where nine of ten are found: made monotone, straight in log strength."""
    rising = np.maximum.accumulate(shares_)
    falling = np.minimum.accumulate(shares_[::-1])[::-1]
    level = 0.5 * (rising + falling)
    above = np.flatnonzero(level >= FOUND)
    if not len(above) or above[0] == 0:
        return None
    k = int(above[0])
    part = (FOUND - level[k - 1]) / (level[k] - level[k - 1])
    low, high = np.log(MASKED_CPS[k - 1 : k + 1])
    return float(np.exp(low + part * (high - low)))
