"""A plastic portal's energy windows, judged as they come by the filter that judges spectra.

A Rapiscan SC-880 sends four windows every 200 ms while a vehicle is there, the first fifteen at
once, and its own 20 s background before. A slice is one interval; the background is the portal's.
Windows tell no nuclide: what is found is "unknown".
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from agent.analysis.detection import learning
from agent.analysis.detection import model as detection
from agent.analysis.detection.model import STATISTICS, Model, Stream, Verdict
from agent.analysis.sought import window_shapes
from agent.lane.alarms import Finding, latch, stated_p, worded_p
from agent.lane.moment import Moment
from agent.lane.options.spectral import WindowRules
from agent.lane.portals import background_of, portal_of
from agent.lane.spectra.judging import LONGEST_PASS_S, MODEL_DRIFT
from agent.lane.spectra.slices import Floats
from agent.lane.state import Memory
from agent.lane.vehicles import Transit, put, unsealed_transit
from agent.records import BackgroundQuality, Evidence, SpectralPart
from drivers.readings import WindowBackground, WindowCounts

BACKGROUND_S = 20.0
"""Over how long a portal averages its windows where its settings do not say: an SC-880's window
backgrounds are multiples of 1/20 counts/s."""
EARLY_S = 5.0
"""Intervals that came so long before the vehicle was told of are not its own."""
SAME_LENGTH = 0.01
"""An interval that is longer or shorter than the others by so much is left out."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassWindows:
    """The energy windows of one passage, and how they are judged.

    ``background_cps`` (window,) is the portal's own before it came, averaged over
    ``background_s``; ``stream`` None: nothing can be judged.
    """

    passage_id: str
    quality: BackgroundQuality
    background_cps: Floats | None = None
    background_s: float | None = None
    model: Model | None = None
    calibration: str | None = None
    stream: Stream | None = None
    slices: int = 0
    is_alarmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """What is remembered of the portal that counts in energy windows."""

    background_cps: tuple[float, ...] = ()
    """The portal's own, said last; empty: none yet."""
    early: tuple[tuple[int, WindowCounts], ...] = ()
    """Intervals that came before any vehicle was told of, with the moment they came [µs]."""
    passage: PassWindows | None = None
    assumed: Model | None = None
    """The model made without learning, for a background of ``assumed_cps``."""
    assumed_cps: float = 0.0


@dataclass(slots=True, kw_only=True)
class WindowMemory(Memory):
    """The lane's energy windows."""

    windows: Windows | None = None


def on_background(moment: Moment, device: str, reading: WindowBackground) -> None:
    """Take the portal's own background; what it says while a vehicle is there is for the next."""
    if _is_judged(moment, device):
        moment.of(WindowMemory).windows = replace(_held(moment), background_cps=reading.cps)


def on_counts(moment: Moment, device: str, reading: WindowCounts) -> None:
    """Take one interval of windows: it is the vehicle's, or waits for one to be told of."""
    if not _is_judged(moment, device) or reading.real_time_s <= 0:
        return
    held, transit = _held(moment), unsealed_transit(moment)
    now_us = moment.stamp.mono_us
    early = tuple(each for each in held.early if now_us - each[0] <= EARLY_S * 1e6)
    if transit is None:
        moment.of(WindowMemory).windows = replace(held, early=(*early, (now_us, reading)))
        return
    if held.passage is None or held.passage.passage_id != transit.passage_id:
        held = _begun(moment, held, transit, reading)
    for each in (*(one for _, one in early), reading):
        held = _with(held, each)
    moment.of(WindowMemory).windows = replace(held, early=())
    _alarm_if_due(moment, transit)


def _is_judged(moment: Moment, device: str) -> bool:
    return moment.rules.windows is not None and moment.rules.windows.device == device


def _held(moment: Moment) -> Windows:
    return moment.of(WindowMemory).windows or Windows()


def _begun(moment: Moment, held: Windows, transit: Transit, first: WindowCounts) -> Windows:
    """Begin a passage: the background is frozen."""
    rules = moment.rules.windows
    assert rules is not None
    settings = portal_of(moment, rules.device).settings
    told_s = settings.background_s if settings else None
    passage = PassWindows(
        passage_id=transit.passage_id, quality=background_of(moment, rules.device).quality
    )
    cps = np.array(held.background_cps, dtype=float)
    if len(cps) != len(first.counts) or cps.sum() <= 0:
        return replace(held, passage=passage)
    held, model, calibration = _model(rules, held, cps, first.real_time_s)
    passage = replace(
        passage,
        background_cps=cps,
        background_s=float(told_s or BACKGROUND_S),
        model=model,
        calibration=calibration,
        stream=detection.begin(model),
    )
    return replace(held, passage=passage)


def _model(
    rules: WindowRules, held: Windows, cps: Floats, slice_s: float
) -> tuple[Windows, Model, str | None]:
    """Return the learned model where it fits the portal's windows, or an assumed one."""
    learned = rules.model
    if learned is not None and _fits(learned, cps, slice_s):
        return held, learned, rules.calibration
    gross_cps = float(cps.sum())
    assumed = held.assumed
    has_drifted = abs(gross_cps - held.assumed_cps) > MODEL_DRIFT * held.assumed_cps
    if assumed is None or has_drifted or not _fits(assumed, cps, slice_s):
        rate = rules.options.false_alarm_rate
        assumed = learning.assume(window_shapes(len(cps)), cps, slice_s, rate)
        held = replace(held, assumed=assumed, assumed_cps=gross_cps)
    return held, assumed, None


def _fits(model: Model, cps: Floats, slice_s: float) -> bool:
    is_as_long = abs(slice_s / model.slice_s - 1.0) < SAME_LENGTH
    return is_as_long and len(model.root_expected) == len(cps)


def _with(held: Windows, reading: WindowCounts) -> Windows:
    """Return the passage after one more interval, up to the longest that is judged."""
    passage = held.passage
    assert passage is not None
    model, cps, stream = passage.model, passage.background_cps, passage.stream
    if model is None or cps is None or stream is None or len(reading.counts) != len(cps):
        return held
    if abs(reading.real_time_s / model.slice_s - 1.0) > SAME_LENGTH:
        return held
    if passage.slices * model.slice_s >= LONGEST_PASS_S:
        return held
    assert passage.background_s is not None
    counts = np.array(reading.counts, dtype=float)
    expected = model.empty.steadied(cps * model.slice_s, cps * passage.background_s)
    stream = detection.add(model, stream, counts, expected)
    return replace(held, passage=replace(passage, stream=stream, slices=passage.slices + 1))


# ------------------------------------------------------------------ what it comes to


def _alarm_if_due(moment: Moment, transit: Transit) -> None:
    """Raise the alarm at the first crossing, before the vehicle has left."""
    held, rules = moment.of(WindowMemory).windows, moment.rules.windows
    passage = None if held is None else held.passage
    if held is None or rules is None or passage is None or passage.is_alarmed:
        return
    if passage.stream is None or passage.model is None:
        return
    if not passage.stream.seen or passage.stream.seen % passage.model.look:
        return
    found = detection.verdict(passage.model, passage.stream)
    if float(found.p) < rules.options.false_alarm_rate:
        put(moment, latch(moment, transit, _finding(rules, found, is_over=False)))
        moment.of(WindowMemory).windows = replace(held, passage=replace(passage, is_alarmed=True))


def finish(moment: Moment, transit: Transit) -> Transit:
    """Return the vehicle with what its windows come to, where no spectra told more."""
    held, rules = moment.of(WindowMemory).windows, moment.rules.windows
    if held is None or rules is None or held.passage is None:
        return transit
    passage = held.passage
    moment.of(WindowMemory).windows = replace(held, passage=None, early=())
    if passage.passage_id != transit.passage_id or transit.spectral is not None:
        return transit
    part = _part(rules, passage)
    if passage.stream is None or passage.model is None or not passage.slices:
        return replace(transit, spectral=part)
    found = detection.verdict(passage.model, detection.end(passage.model, passage.stream))
    p = stated_p(float(found.p))
    is_alarm = passage.is_alarmed or p < rules.options.false_alarm_rate
    part = replace(
        part,
        alarm=is_alarm,
        statistic=STATISTICS[int(found.statistic)],
        p=p,
        category="unknown" if is_alarm else None,
    )
    if is_alarm:
        transit = latch(moment, transit, _finding(rules, found, is_over=True))
    return replace(transit, spectral=part)


def _part(rules: WindowRules, passage: PassWindows) -> SpectralPart:
    """Return the part of the record before anything was judged."""
    name = f"{rules.device} windows"
    return SpectralPart(
        devices=(rules.device,),
        detectors=(name,),
        left_out=() if passage.stream is not None else (f"{name}: no background yet",),
        alarm=False,
        statistic=None,
        p=None,
        false_alarm_rate=rules.options.false_alarm_rate,
        provisional=passage.calibration is None,
        category=None,
        nuclides=(),
        norm=None,
        extent_s=None,
        slices=passage.slices,
        background_s=passage.background_s,
        background_quality=passage.quality,
        calibration=passage.calibration,
    )


def _finding(rules: WindowRules, found: Verdict, *, is_over: bool) -> Finding:
    """Return the alarm; windows name nothing, so it ranks high."""
    statistic, p = STATISTICS[int(found.statistic)], stated_p(float(found.p))
    evidence = Evidence(
        test=statistic,
        statistic=round(float(found.z), 3),
        threshold=rules.options.false_alarm_rate,
        p=p,
        window_s=round(2.0 * float(found.half_width_s), 2),
    )
    return Finding(
        kind="spectral",
        source="agent",
        code=f"windows_{statistic}",
        severity="high",
        device=rules.device,
        text=f"{rules.device}: energy windows no benign traffic gives ({worded_p(p)})",
        evidence=(evidence,),
        detectors=(f"{rules.device} windows",),
        category="unknown" if is_over else None,
    )
