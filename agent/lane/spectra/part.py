"""What the spectra of one passage come to: its part of the record, and its alarm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agent.analysis.detection import model
from agent.analysis.detection.model import STATISTICS, Verdict
from agent.lane.alarms import Finding, latch, stated_p, worded_p
from agent.lane.moment import Moment
from agent.lane.spectra import gain_tracking, naming
from agent.lane.spectra.memory import Crystals, PassSpectra, Spectra
from agent.lane.spectra.naming import Named
from agent.lane.spectra.slices import Floats, Slice
from agent.lane.vehicles import Transit
from agent.records import Evidence, Severity, SpectralPart

LEAST_BACKGROUND_S = 10.0
"""With less exposure of the empty lane nothing is judged."""
NORM_LOOK_P = 0.05
"""A passage no likelier than this is looked at for natural radioactivity, alarming or not."""


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
    """Return what the passage comes to, and the vehicle with its alarm."""
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
    named = None
    is_asked = is_alarm or any(a.kind == "gamma" for a in transit.alarms)
    if is_asked or float(found.p) < NORM_LOOK_P:
        exposure_s = float(passage.background_s[passage.used].mean())
        summed_up = [summed(passage, each) for each in passage.slices]
        named = naming.named(summed_up, exposure_s, found, rules, is_alarm=is_alarm)
    part = replace(
        part,
        alarm=is_alarm,
        statistic=STATISTICS[int(found.statistic)],
        p=stated_p(float(found.p)),
    )
    if named is not None and (is_alarm or named.norm or (is_asked and named.nuclides)):
        part = replace(
            part,
            category=named.category,
            nuclides=named.nuclides,
            norm=named.norm,
            extent_s=named.extent_s,
        )
    if is_alarm:
        transit = latch(moment, transit, finding(moment, found, named))
    return part, transit


def finding(moment: Moment, found: Verdict, named: Named | None) -> Finding:
    """Return the alarm; what nobody has named yet is not benign, so it ranks high."""
    rules = moment.rules.spectral
    assert rules is not None
    p = stated_p(float(found.p))
    statistic = STATISTICS[int(found.statistic)]
    spectra = moment.of(Crystals).spectra
    detectors = () if spectra is None else spectra.gathering.detectors
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
                threshold=rules.options.false_alarm_rate,
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
