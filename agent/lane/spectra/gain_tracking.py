"""The gain of each crystal, held by the natural background of the empty lane.

Light yield and multiplier drift with temperature, some tenths of a per cent for a degree. While
nothing is in the lane, each detector's spectra are summed; every ``gain_every_s`` a sum of
``SAMPLE_COUNTS`` is fitted with K, U, Th and cosmic shapes (``agent.analysis.energy.gain``), and
the scale found is what its spectra are brought onto the common grid with::

    true energy = offset + gain × energy by its calibration

Nothing is summed or fitted while a vehicle is there, nor of the ``guard_s`` before it came and
after it left. A scale is exchanged only where it moved by more than ``STEP``, and what was counted
with the old one is carried over, so that the background stays the background.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agent.analysis.energy.gain import (
    LOWEST_KEV,
    POTASSIUM_KEV,
    TRACKED_KEV,
    GainFit,
    GainPrior,
    of_line,
    track,
)
from agent.analysis.energy.scale import on_grid
from agent.lane.alarms import fault, set_standing
from agent.lane.links import Links
from agent.lane.moment import Moment
from agent.lane.occupancy import Tellers
from agent.lane.options.spectral import SpectralRules
from agent.lane.question import Answer, Question
from agent.lane.spectra.memory import Crystals, FitWanted, GainTrack, Gathered, Scale, Spectra
from agent.lane.spectra.slices import EmptyLane, Floats, Slice
from agent.lane.vehicles import Vehicles
from agent.records import Audit, DetectorGain, Stamp
from drivers.readings import EnergyCalibration, GammaSpectrum

SAMPLE_COUNTS = 30_000
"""Above 150 keV; more tell no more, as the shapes themselves are not known better."""
LONGEST_SAMPLE_S = 3600.0
"""A detector that has not counted so much by then says nothing of its gain."""
STEP = 0.002
"""A scale that moved by less at 1 MeV stays: half a per cent is what identification asks for."""
LARGE_STEP = 0.01
"""What was counted on a scale further off is no background for spectra on the new one."""
FAILURES = 3
"""So many samples in a row without a gain are a fault."""
MOVED = 0.002
"""A device that moves its own scale by so much of its range is followed from anew."""
NEAR = GainPrior(sigma_gain=0.0015, sigma_offset_kev=1.0)
"""As uncertain as one sample leaves the gain, so that fit upon fit is smoothed; what drifted
further than three times that is looked for anywhere."""
ANYWHERE = GainPrior(sigma_gain=0.05, sigma_offset_kev=1.0)
"""Drift moves the gain, hardly the offset: left free, the two would stand in for each other."""
BY_LINE = GainPrior(sigma_gain=0.01)
"""A line is looked for within three per cent of where it stood: Co-60's stands nine away."""
HOLDS_AFTER_S = 10.0
"""What a sample told holds from so long after it while nothing is there, live and replayed."""
DIGITS = 9
"""Of a corrected energy: an electronvolt in a few MeV; the rest is the processor's."""
_REFERENCE_KEV = 1000.0


NOMINAL = Scale()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GainMeasured(Answer):
    """What a sample told."""

    fit: GainFit


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GainAsked(Question):
    """The question on which scale a sample of the empty lane was counted.

    ``counts`` (bin,) on ``gain.TRACKED_KEV`` over ``live_s``; ``ground`` (component, bin): the
    natural background on the same; ``top_kev``: where the detector's channels end nominally.
    ``near`` None: the gain is not known yet, and is looked for anywhere. ``gain``: the last one.
    ``peak_kev``: the width that potassium's line has [keV].
    """

    counts: Floats
    live_s: float
    ground: Floats
    top_kev: float
    near: GainPrior | None
    gain: float
    peak_kev: float

    def answer(self) -> GainMeasured:
        """Return the fit near the last gain, or else anywhere; it takes some 0.1 s."""
        counts, live_s = self.counts, self.live_s
        if self.near is not None:
            fit = track(counts, live_s, TRACKED_KEV, self.ground, self.near, self.top_kev)
            if fit.gain is not None:
                return GainMeasured(fit=fit)
        fit = track(counts, live_s, TRACKED_KEV, self.ground, ANYWHERE, self.top_kev)
        if fit.gain is not None:
            return GainMeasured(fit=fit)
        # A background that is not the four shapes may still show the line of potassium.
        prior = replace(BY_LINE, gain=self.gain)
        return GainMeasured(fit=of_line(counts, TRACKED_KEV, self.peak_kev, prior) or fit)


def scale_of(spectra: Spectra, detector: str) -> Scale:
    """Return the detector's scale; the nominal one where it is not tracked or not measured."""
    found = spectra.gains.get(detector)
    return NOMINAL if found is None else found.scale


def on_interval(
    moment: Moment,
    device: str,
    detector: str,
    reading: GammaSpectrum,
    nominal_kev: Floats,
    middle: Stamp,
) -> None:
    """Take one spectrum of one detector, and measure its gain where that is due."""
    rules, spectra = moment.rules.spectral, moment.of(Crystals).spectra
    assert rules is not None
    assert spectra is not None
    portal = moment.rules.portals.get(device)
    if rules.ground is None or portal is None or not portal.gain_tracking:
        if detector in spectra.gains:
            _put(moment, device, {d: g for d, g in spectra.gains.items() if d != detector})
        return
    followed = spectra.gains.get(detector)
    if followed is not None and _has_moved(followed.nominal_kev, nominal_kev):
        spectra, followed = _forgotten(spectra, detector), None
    if followed is None:
        followed = _begun(nominal_kev, middle.mono_us)
    if not _is_empty(moment, spectra, middle.mono_us):
        followed = _emptied(followed, middle.mono_us)
        moment.of(Crystals).spectra = replace(spectra, gains={**spectra.gains, detector: followed})
        return
    live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
    new = Gathered(counts=on_grid(reading.counts, nominal_kev, TRACKED_KEV), live_s=live_s)
    followed = _with(followed, new, middle.mono_us, rules.options.guard_s)
    moment.of(Crystals).spectra = replace(spectra, gains={**spectra.gains, detector: followed})
    wanted = followed.fit
    if wanted is not None and wanted.fit is not None and middle.mono_us >= wanted.from_us:
        _use_fit(moment, device, detector, wanted, wanted.fit)
    if _is_whole(followed) or _is_overdue(followed, middle.mono_us):
        _ask(moment, device, detector, middle)


def corrected(energy: EnergyCalibration | None, scale: Scale) -> EnergyCalibration | None:
    """Return a device's calibration as the scale corrects it, to ``DIGITS`` significant digits."""
    if energy is None or scale == NOMINAL:
        return energy
    if energy.edges_kev:
        edges = scale.true_kev(np.asarray(energy.edges_kev, dtype=float))
        return EnergyCalibration(edges_kev=tuple(map(_stated, edges.tolist())))
    first, *rest = (scale.gain * value for value in energy.coefficients_kev)
    coefficients = (scale.offset_kev + first, *rest)
    return EnergyCalibration(coefficients_kev=tuple(map(_stated, coefficients)))


def _stated(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def used(spectra: Spectra, detectors: tuple[str, ...], at: Stamp) -> tuple[DetectorGain, ...]:
    """Return the gains of the detectors that are tracked, as they stand."""
    found = []
    for name in detectors:
        if name not in spectra.gains:
            continue
        scale = spectra.gains[name].scale
        age_s = None if scale.measured is None else round(at.since_s(scale.measured), 3)
        sigma = None if scale.sigma_gain is None else round(scale.sigma_gain, 5)
        found.append(
            DetectorGain(
                detector=name,
                gain=round(scale.gain, 5),
                offset_kev=round(scale.offset_kev, 2),
                sigma_gain=sigma,
                age_s=age_s,
            )
        )
    return tuple(found)


def is_out_of_bounds(spectra: Spectra, detector: str) -> bool:
    """Return whether the detector's gain is too far from its calibration to be used."""
    found = spectra.gains.get(detector)
    return found is not None and found.out_by is not None


# ------------------------------------------------------------------ what is gathered


def _is_empty(moment: Moment, spectra: Spectra, at_us: int) -> bool:
    """Return whether somebody can tell of vehicles, and tells that none is or was just there."""
    state, teller = moment.state, moment.rules.teller
    if teller is None:
        if not state.of(Tellers).presence or any(
            sees is not False for sees in state.of(Tellers).presence.values()
        ):
            return False
    elif not state.of(Links).up.get(teller, False) or (
        moment.rules.traits_of(teller).presence == "told"
        and state.of(Tellers).presence.get(teller) is not False
    ):
        return False
    left_us = spectra.left_us
    for transit in state.of(Vehicles).transits:
        if transit.ended is None or not transit.is_sealed:
            return False
        left_us = max(left_us or 0, transit.ended.mono_us)
    assert moment.rules.spectral is not None
    guard_us = moment.rules.spectral.options.guard_s * 1e6
    return left_us is None or at_us >= left_us + guard_us


def _has_moved(before_kev: Floats, now_kev: Floats) -> bool:
    if before_kev is now_kev:
        return False
    if len(before_kev) != len(now_kev):
        return True
    return float(np.abs(now_kev - before_kev).max()) > MOVED * abs(float(before_kev[-1]))


def _nothing() -> Gathered:
    return Gathered(counts=np.zeros(len(TRACKED_KEV) - 1))


def _begun(nominal_kev: Floats, at_us: int) -> GainTrack:
    return GainTrack(
        nominal_kev=nominal_kev,
        young=_nothing(),
        young_us=at_us,
        waiting=_nothing(),
        sample=_nothing(),
        sample_us=at_us,
    )


def _emptied(followed: GainTrack, at_us: int) -> GainTrack:
    """Return the track without what came too shortly before a vehicle."""
    if not followed.young.live_s and not followed.waiting.live_s:
        return replace(followed, young_us=at_us)
    return replace(followed, young=_nothing(), young_us=at_us, waiting=_nothing())


def _with(followed: GainTrack, new: Gathered, at_us: int, guard_s: float) -> GainTrack:
    """Return the track after one more interval; what is ``guard_s`` old joins the sample."""
    guard_us = guard_s * 1e6
    if at_us - followed.young_us < guard_us:
        return replace(followed, young=followed.young.plus(new))
    if at_us - followed.young_us > 3 * guard_us:
        followed = _emptied(followed, at_us)  # a gap, and who knows what passed in it
        return replace(followed, young=new)
    sample = followed.sample
    sample_us = followed.sample_us if sample.live_s else followed.young_us
    if followed.waiting.live_s:
        sample = sample.plus(followed.waiting)
    return replace(
        followed,
        young=new,
        young_us=at_us,
        waiting=followed.young,
        sample=sample,
        sample_us=sample_us,
    )


_COUNTED = TRACKED_KEV[:-1] > LOWEST_KEV


def _is_whole(followed: GainTrack) -> bool:
    return float(followed.sample.counts[_COUNTED].sum()) >= SAMPLE_COUNTS


def _is_overdue(followed: GainTrack, at_us: int) -> bool:
    return at_us - followed.sample_us > LONGEST_SAMPLE_S * 1e6


# ------------------------------------------------------------------ what it tells


def _ask(moment: Moment, device: str, detector: str, middle: Stamp) -> None:
    """Have a sample fitted that is whole and due; one too early makes room for a new one."""
    rules, spectra = moment.rules.spectral, moment.of(Crystals).spectra
    assert rules is not None
    assert spectra is not None
    before = spectra.gains[detector]
    now = replace(before, sample=_nothing(), sample_us=middle.mono_us)
    if middle.mono_us >= before.due_us and before.fit is None:
        question = _question(before, rules, f"{detector}-gain-{middle.mono_us}")
        moment.questions.append(question)
        wanted = FitWanted(
            question_id=question.question_id,
            at=middle,
            from_us=middle.mono_us + round(HOLDS_AFTER_S * 1e6),
        )
        now = replace(
            now, due_us=middle.mono_us + round(rules.options.gain_every_s * 1e6), fit=wanted
        )
    _put(moment, device, {**spectra.gains, detector: now})


def _question(followed: GainTrack, rules: SpectralRules, question_id: str) -> GainAsked:
    assert rules.ground is not None
    near = None
    if followed.scale.measured is not None and followed.out_by is None:
        near = replace(NEAR, gain=followed.gain)
    return GainAsked(
        question_id=question_id,
        counts=followed.sample.counts,
        live_s=followed.sample.live_s,
        ground=rules.ground,
        top_kev=float(followed.nominal_kev[-1]),
        near=near,
        gain=followed.gain,
        peak_kev=rules.known.limits.resolution_662 * float(np.sqrt(661.7 * POTASSIUM_KEV)),
    )


def on_fit(moment: Moment, question_id: str, answer: GainMeasured | None) -> None:
    """Take the fit of a sample, to be used in its moment; None: there is none, the next will do.

    Its moment is the first interval of the empty lane at ``from_us`` or later.
    """
    spectra = moment.state.of(Crystals).spectra
    for detector, followed in () if spectra is None else spectra.gains.items():
        wanted = followed.fit
        if wanted is None or wanted.question_id != question_id:
            continue
        fitted = None if answer is None else replace(wanted, fit=answer.fit)
        now = replace(followed, fit=fitted)
        assert spectra is not None
        moment.of(Crystals).spectra = replace(spectra, gains={**spectra.gains, detector: now})
        return


def _use_fit(moment: Moment, device: str, detector: str, wanted: FitWanted, fit: GainFit) -> None:
    """Let the spectra of a detector stand on what its last sample told."""
    rules, spectra = moment.rules.spectral, moment.of(Crystals).spectra
    assert rules is not None
    assert spectra is not None
    before = spectra.gains[detector]
    now = _after(replace(before, fit=None), fit, wanted.at, rules.options.gain_limit)
    if now.scale.gain != before.scale.gain or now.scale.offset_kev != before.scale.offset_kev:
        grid_kev = rules.shapes.library.edges_kev
        moment.of(Crystals).spectra = _carried_over(
            spectra, detector, before.scale, now.scale, grid_kev
        )
        _audit(moment, device, detector, before.scale, now.scale)
    _put(moment, device, {**spectra.gains, detector: now})


def _after(followed: GainTrack, fit: GainFit, at: Stamp, limit: float) -> GainTrack:
    """Return the track after a fit; a scale that hardly moved stays."""
    if fit.gain is None or fit.offset_kev is None:
        return replace(followed, failed=followed.failed + 1)
    apart = abs(fit.gain - 1.0)
    scale = followed.scale
    new = Scale(gain=fit.gain, offset_kev=fit.offset_kev, sigma_gain=fit.sigma_gain, measured=at)
    if scale.measured is not None and _step(scale, new) <= STEP:
        new = replace(scale, measured=at)
    out_by = apart if apart > limit else None
    return replace(followed, scale=new, gain=fit.gain, failed=0, out_by=out_by)


def _step(before: Scale, now: Scale) -> float:
    """Return by how much the scale moved at 1 MeV [fraction]."""
    moved = (now.gain - before.gain) * _REFERENCE_KEV + now.offset_kev - before.offset_kev
    return abs(moved) / _REFERENCE_KEV


def _audit(moment: Moment, device: str, detector: str, before: Scale, now: Scale) -> None:
    data: dict[str, object] = {
        "device": device,
        "detector": detector,
        "gain": round(now.gain, 5),
        "offset_kev": round(now.offset_kev, 2),
        "sigma_gain": None if now.sigma_gain is None else round(now.sigma_gain, 5),
        "previous_gain": round(before.gain, 5),
        "previous_offset_kev": round(before.offset_kev, 2),
    }
    moment.records.append(
        Audit(stamp=moment.stamp, kind="gain", lane=moment.rules.lane_id, data=data)
    )


def _put(moment: Moment, device: str, gains: dict[str, GainTrack]) -> None:
    """Put the tracks in their place, and say or take back what is wrong with the device's."""
    spectra, rules = moment.of(Crystals).spectra, moment.rules.spectral
    assert spectra is not None
    assert rules is not None
    moment.of(Crystals).spectra = replace(spectra, gains=gains)
    own = {name: each for name, each in gains.items() if name.partition("/")[0] == device}
    out = {name: each.scale.gain for name, each in own.items() if each.out_by is not None}
    said = ", ".join(f"{name} ({100 * (gain - 1):+.1f} %)" for name, gain in out.items())
    text = (
        f"{device}: the gain of {said} is further than {100 * rules.options.gain_limit:g} % from "
        "its calibration and is not used; look at its high voltage and temperature, then run "
        "checkpointd calibrate energy"
    )
    set_standing(moment, fault(device, "gain_out_of_bounds", text, "high"), active=bool(out))
    unknown = [name for name, each in own.items() if each.failed >= FAILURES]
    text = (
        f"{device}: the empty lane's spectrum tells no gain of {', '.join(unknown)}; it is used on "
        "its last scale. Look for a source near the lane, and at crystal_cm in [spectral]"
    )
    set_standing(moment, fault(device, "gain_unknown", text), active=bool(unknown))


# ------------------------------------------------------------------ from one scale to another


def _carried_over(
    spectra: Spectra, detector: str, before: Scale, now: Scale, grid_kev: Floats
) -> Spectra:
    """Return the spectra with the detector's background brought onto its new scale.

    After a large step nothing of it is kept: it is learned anew.
    """
    detectors = spectra.gathering.detectors
    if _step(before, now) > LARGE_STEP:
        return _forgotten(spectra, detector)
    if detector not in detectors:
        return spectra
    index = detectors.index(detector)
    return replace(spectra, empty=_rescaled(spectra.empty, index, before, now, grid_kev))


def _forgotten(spectra: Spectra, detector: str) -> Spectra:
    """Return the spectra without what the detector counted in the empty lane."""
    if detector not in spectra.gathering.detectors:
        return spectra
    index, empty = spectra.gathering.detectors.index(detector), spectra.empty
    if empty.counts is not None and empty.live_s is not None and index < len(empty.live_s):
        none = np.zeros_like(empty.counts[index])
        empty = replace(
            empty,
            counts=_with_row(empty.counts, index, none),
            live_s=_with_row(empty.live_s, index, 0.0),
        )
    return replace(
        spectra,
        empty=empty,
        gathering=spectra.gathering.without(detector),
        waiting=tuple(_silenced(each, index) for each in spectra.waiting),
        assumed=None,
    )


def _rescaled(
    empty: EmptyLane, index: int, before: Scale, now: Scale, grid_kev: Floats
) -> EmptyLane:
    if empty.counts is None or index >= len(empty.counts):
        return empty
    moved = now.true_kev((grid_kev - before.offset_kev) / before.gain)
    # Of the first and the last bin a part may come from beyond the grid, where nobody counted.
    covered = on_grid(np.diff(moved), moved, grid_kev) / np.diff(grid_kev)
    row = on_grid(empty.counts[index], moved, grid_kev) / np.clip(covered, 0.2, 1.0)
    return replace(empty, counts=_with_row(empty.counts, index, row))


def _with_row(rows: Floats, index: int, row: Floats | float) -> Floats:
    new = rows.copy()
    new[index] = row
    return new


def _silenced(waiting: Slice, index: int) -> Slice:
    if index >= len(waiting.live_s):
        return waiting
    none = np.zeros_like(waiting.counts[index])
    return replace(
        waiting,
        counts=_with_row(waiting.counts, index, none),
        live_s=_with_row(waiting.live_s, index, 0.0),
    )
