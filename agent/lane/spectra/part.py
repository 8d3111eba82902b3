"""What the spectra of one passage come to: its part of the record, and its alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agent.analysis.detection import model
from agent.analysis.detection.model import STATISTICS, Verdict
from agent.lane.alarms import Finding, latch, stated_p, worded_p
from agent.lane.moment import Moment
from agent.lane.spectra import gain_tracking
from agent.lane.spectra.memory import Crystals, PassSpectra, Spectra
from agent.lane.spectra.naming import NameAsked, Named
from agent.lane.spectra.slices import Floats, Slice
from agent.lane.vehicles import NameWanted, Transit
from agent.records import Evidence, Severity, SpectralPart

LEAST_BACKGROUND_S = 10.0
"""With less exposure of the empty lane nothing is judged."""
NORM_LOOK_P = 0.05
"""A passage no likelier than this is looked at for natural radioactivity, alarming or not."""
NAMED_WITHIN_S = 5.0
"""A passage waits so long for its name; on a small gateway one takes a second, and lanes queue."""


def summed(passage: PassSpectra, new: Slice) -> tuple[Floats, Floats]:
    """Return counts and expected background (bin,) of a slice, over the detectors in use."""
    assert passage.background is not None
    assert passage.background_s is not None
    assert passage.used is not None
    # A slice may be older than a detector that was heard since, or have one that is newer.
    common = min(len(passage.used), len(new.live_s))
    used = np.flatnonzero(passage.used[:common] & (new.live_s[:common] > 0))
    rates = passage.background[used] / passage.background_s[used, None]
    expected = rates.T @ new.live_s[used]
    empty = passage.model.empty if passage.model is not None else None
    if empty is not None and len(used):
        # The background's own noise, over its whole exposure, is smoothed before it is scaled.
        exposure_s = float(passage.background_s[used].mean())
        whole = rates.sum(axis=0) * exposure_s
        expected = empty.steadied(expected, whole)
    return new.counts[used].sum(axis=0), expected


def made_of(moment: Moment, transit: Transit, passage: PassSpectra) -> tuple[SpectralPart, Transit]:
    """Return what the passage comes to, and the vehicle with its alarm; its name is asked for."""
    rules, spectra = moment.rules.spectral, moment.of(Crystals).spectra
    assert rules is not None
    assert spectra is not None
    detectors = spectra.gathering.detectors
    exposure_s = None if passage.background_s is None else float(passage.background_s.max())
    part = SpectralPart(
        devices=tuple(dict.fromkeys(name.partition("/")[0] for name in detectors)),
        detectors=detectors,
        left_out=_left_out(spectra, passage),
        alarm=False,
        statistic=None,
        p=None,
        false_alarm_rate=rules.options.false_alarm_rate,
        provisional=rules.model is None,
        category=None,
        nuclides=(),
        norm=None,
        extent_s=None,
        slices=len(passage.slices),
        background_s=None if exposure_s is None else round(exposure_s, 3),
        background_quality=passage.quality,
        calibration=rules.calibration,
        gains=gain_tracking.used(spectra, detectors, transit.ended or moment.stamp),
    )
    if passage.stream is None or passage.model is None or not passage.slices:
        return part, transit
    assert passage.background_s is not None
    assert passage.used is not None
    stream = model.end(passage.model, passage.stream)
    found = model.verdict(passage.model, stream)
    is_alarm = passage.is_alarmed or float(found.p) < rules.options.false_alarm_rate
    is_asked = is_alarm or any(a.kind == "gamma" for a in transit.alarms)
    part = replace(
        part,
        alarm=is_alarm,
        statistic=STATISTICS[int(found.statistic)],
        p=stated_p(float(found.p)),
    )
    if is_alarm and not passage.is_alarmed:
        finding = finding_of(part.detectors, part.false_alarm_rate, found, None)
        transit = latch(moment, transit, finding)
    if is_asked or float(found.p) < NORM_LOOK_P:
        wanted = NameWanted(
            question_id=f"{transit.passage_id}-name",
            until=moment.stamp.forward(NAMED_WITHIN_S),
            found=found,
            is_alarm=is_alarm,
            is_asked=is_asked,
        )
        transit = replace(transit, name_wanted=wanted)
        part = replace(part, naming="pending")
        moment.questions.append(
            NameAsked(
                question_id=wanted.question_id,
                slices=tuple(summed(passage, each) for each in passage.slices),
                background_s=float(passage.background_s[passage.used].mean()),
                found=found,
                rules=rules,
                is_alarm=is_alarm,
            )
        )
    return part, transit


def with_name(part: SpectralPart, wanted: NameWanted, named: Named | None) -> SpectralPart:
    """Return what the passage comes to by its name; None: nobody could find one."""
    if named is None:
        return replace(part, naming="failed")
    part = replace(part, naming="done")
    if not (wanted.is_alarm or named.norm or (wanted.is_asked and named.nuclides)):
        return part
    return replace(
        part,
        category=named.category,
        nuclides=named.nuclides,
        norm=named.norm,
        extent_s=named.extent_s,
    )


def finding_of(
    detectors: tuple[str, ...], false_alarm_rate: float, found: Verdict, named: Named | None
) -> Finding:
    """Return the alarm; what nobody has named yet is not benign, so it ranks high."""
    p = stated_p(float(found.p))
    statistic = STATISTICS[int(found.statistic)]
    device = detectors[0].partition("/")[0]
    names = () if named is None else tuple(n.name for n in named.nuclides)
    category = None if named is None else named.category
    says = "not named before it has left" if category is None else ", ".join((category, *names))
    severity: Severity = "high"
    if category in {"medical", "NORM"}:
        severity = "elevated"
    text = f"{device}: spectrum no benign traffic gives ({worded_p(p)}); {says}"
    return Finding(
        kind="spectral",
        source="agent",
        code=f"spectrum_{statistic}",
        severity=severity,
        device=device,
        text=text,
        evidence=(
            Evidence(
                test=statistic,
                statistic=round(float(found.z), 3),
                threshold=false_alarm_rate,
                p=p,
                window_s=round(2.0 * float(found.half_width_s), 2),
            ),
        ),
        detectors=detectors,
        category=category,
        nuclides=None if named is None else names,
    )


def _left_out(spectra: Spectra, passage: PassSpectra) -> tuple[str, ...]:
    """Return the detectors that were not used, each with its reason."""
    said = []
    detectors = spectra.gathering.detectors
    live_s = np.zeros(len(detectors))
    for each in passage.slices:
        live_s[: len(each.live_s)] += each.live_s
    for index, name in enumerate(detectors):
        if live_s[index] == 0:
            said.append(f"{name}: silent")
        elif passage.used is None or index >= len(passage.used) or not passage.used[index]:
            said.append(f"{name}: {_why_unused(spectra, passage, index)}")
    return tuple(said)


def _why_unused(spectra: Spectra, passage: PassSpectra, index: int) -> str:
    if gain_tracking.is_out_of_bounds(spectra, spectra.gathering.detectors[index]):
        return "gain out of bounds"
    return "counts nothing" if _is_dead(passage, index) else "no background yet"


def _is_dead(passage: PassSpectra, index: int) -> bool:
    """Return whether the detector has been live long enough and counted nothing."""
    if passage.background is None or passage.background_s is None:
        return False
    if index >= len(passage.background_s) or passage.background_s[index] < LEAST_BACKGROUND_S:
        return False
    return not passage.background[index].any()
