"""A scale's calibration: what is declared of it, its zero between vehicles, work in progress.

While a technician works at a scale (``calibrating``) its weights are a test: no passage, no alarm,
a standing notice, and an audit record at begin and end. Otherwise the empty platform is watched:

    sample   the first stable empty reading after a load, then one each ``SAMPLE_S``
    zero     the median of the last ``SAMPLES``, against ``zero_limit_kg``: one person standing
             on the platform moves it not, snow and mud do
    slope    the median of the slopes between any two of the last ``TREND`` samples taken
             ``TREND_S`` apart (Theil-Sen), against ``zero_slope_limit_kg_per_h``

Permissible errors: OIML R 76-1:2006, table 6, unconfirmed against the text itself: at initial
verification half an interval, one, and one and a half, up to so many intervals of load; in
service twice that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import combinations
from statistics import median
from typing import Literal, TypeVar

from agent.lane.alarms import clear_standing, cleared, fault, set_standing, stand
from agent.lane.options import ScaleCalibration, ScaleOptions
from agent.lane.state import EmptyScale, Shown, Turn
from agent.records import Audit, Stamp
from drivers.readings import Housekeeping, Weight

SAMPLE_S = 30.0
SAMPLES = 5
TREND_S = 120.0
TREND = 60
TREND_AT_LEAST = 10
"""So many trend samples, 18 minutes or more, before a slope is told."""

T = TypeVar("T")
AccuracyClass = Literal["III", "IIII"]
_STEPS: dict[AccuracyClass, tuple[tuple[float, float], ...]] = {
    "III": ((500, 0.5), (2000, 1.0), (10_000, 1.5)),
    "IIII": ((50, 0.5), (200, 1.0), (1000, 1.5)),
}
"""Load up to [intervals], permissible error at initial verification [intervals]."""

_COUNTERS = ("calibration_counter", "configuration_counter")
_STOPPED_BY_WORK = (
    *("zero_drift", "zero_slope", "scale_frozen", "interval_mismatch", "beyond_max", "span_error"),
    *("scale_over_range", "scale_under_range", "scale_error_range", *_COUNTERS),
)
"""Faults that say nothing while somebody works at the scale."""


def permissible_error_kg(
    load_kg: float, *, e_kg: float, accuracy_class: AccuracyClass, in_service: bool
) -> float | None:
    """Return how far off a scale may read at a load [kg], either way; None beyond its class.

    ``e_kg`` is the verification interval [kg]. Source: OIML R 76-1:2006, table 6 and 3.5.2
    (unconfirmed).
    """
    intervals = abs(load_kg) / e_kg
    for up_to, error in _STEPS[accuracy_class]:
        if intervals <= up_to:
            return error * e_kg * (2 if in_service else 1)
    return None


# ------------------------------------------------------------------ work in progress


def is_test(turn: Turn, device: str) -> bool:
    """Return whether this scale is being worked at, and say where that has changed."""
    is_now = turn.rules.scales[device].calibrating
    if is_now != (device in turn.state.calibrating):
        (_begin if is_now else _end)(turn, device)
    return is_now


def on_stop(turn: Turn) -> None:
    """Say of each calibration in progress that nobody watches it any more."""
    for device in sorted(turn.state.calibrating):
        _end(turn, device, reason="agent_stop")


def _begin(turn: Turn, device: str) -> None:
    for standing in (turn.state.weighings.get(device), turn.state.axle_runs.get(device)):
        if standing is not None and standing.alarm is not None:
            cleared(turn, standing.alarm)
    turn.state.weighings = _without(turn.state.weighings, device)
    turn.state.axle_runs = _without(turn.state.axle_runs, device)
    turn.state.empty_scales = _without(turn.state.empty_scales, device)
    turn.state.shown = _without(turn.state.shown, device)
    for code in _STOPPED_BY_WORK:
        clear_standing(turn, device, code)
    text = f"{device}: the scale is being calibrated; its weights are a test and make no passage"
    stand(turn, fault(device, "calibration_in_progress", text, "notice"))
    turn.state.calibrating |= {device}
    _audit(turn, device, "begun")


def _end(turn: Turn, device: str, *, reason: str | None = None) -> None:
    clear_standing(turn, device, "calibration_in_progress")
    turn.state.calibrating -= {device}
    # Work at a scale moves its counters: what they are afterwards is heard anew.
    kept = {key: count for key, count in turn.state.counters.items() if key[0] != device}
    turn.state.counters = kept
    _audit(turn, device, "ended", reason)


def _audit(turn: Turn, device: str, state: str, reason: str | None = None) -> None:
    declared = turn.rules.scales[device].calibration or ScaleCalibration()
    data: dict[str, object] = {
        "device": device,
        "state": state,
        "reason": reason,
        "certificate": declared.certificate,
        "calibrated": declared.calibrated,
        "due": declared.due,
        "seal": declared.seal,
        "calibration_counter": declared.calibration_counter,
        "configuration_counter": declared.configuration_counter,
    }
    record = Audit(stamp=turn.stamp, kind="calibration", lane=turn.rules.lane_id, data=data)
    turn.records.append(record)


def _without(mapping: Mapping[str, T], device: str) -> Mapping[str, T]:
    return {key: value for key, value in mapping.items() if key != device}


# ------------------------------------------------------------------ what is declared


def on_housekeeping(turn: Turn, device: str, reading: Housekeeping) -> None:
    """Hold a scale's own counter against the declared one, or else the first one heard."""
    options = turn.rules.scales.get(device)
    if options is None or reading.quantity not in _COUNTERS or options.calibrating:
        return
    key, count = (device, reading.quantity), int(reading.value)
    if key not in turn.state.counters:
        turn.state.counters = {**turn.state.counters, key: count}
    declared = getattr(options.calibration, reading.quantity, None)
    known = turn.state.counters[key] if declared is None else declared
    what = reading.quantity.replace("_", " ")
    text = (
        f"{device}: the {what} is {count} where {known} is known; find out who has been at the "
        "scale, and have it verified"
    )
    set_standing(turn, fault(device, reading.quantity, text), active=count != known)


def _watch_due(turn: Turn, device: str, calibration: ScaleCalibration) -> None:
    if calibration.due is None or turn.stamp.sync == "none":
        return  # a clock that nobody set may say any day
    text = f"{device}: the calibration was due on {calibration.due}; have the scale verified"
    is_over = turn.stamp.utc_us >= end_of_day_us(calibration.due)
    set_standing(turn, fault(device, "calibration_due", text), active=is_over)


@lru_cache(maxsize=64)
def end_of_day_us(day: str) -> int:
    """Return when a day ("2026-11-02") is over in UTC [µs]."""
    after = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    return round(after.timestamp() * 1e6)


# ------------------------------------------------------------------ between vehicles


def watch(turn: Turn, device: str, weight: Weight) -> None:
    """Look at one indication for what it tells of the scale itself."""
    options = turn.rules.scales[device]
    if options.calibration is not None:
        _watch_due(turn, device, options.calibration)
    if options.frozen_after_vehicles is not None:
        _watch_frozen(turn, device, options.frozen_after_vehicles, weight)
    if options.zero_limit_kg is not None or options.zero_slope_limit_kg_per_h is not None:
        _watch_zero(turn, device, options, weight)


def _watch_frozen(turn: Turn, device: str, limit: int, weight: Weight) -> None:
    figure = (weight.value, weight.unit, weight.range, weight.mode, weight.stable)
    shown = turn.state.shown.get(device)
    if shown is None or shown.figure != figure:
        new = Shown(figure=figure, vehicles=turn.state.vehicles)
        turn.state.shown = {**turn.state.shown, device: new}
        clear_standing(turn, device, "scale_frozen")
        return
    passed = turn.state.vehicles - shown.vehicles
    if passed >= limit:
        text = (
            f"{device}: the figure {weight.value} {weight.unit} has not changed while {passed} "
            "vehicles passed; look at the scale's display and what reads it"
        )
        stand(turn, fault(device, "scale_frozen", text))


def _watch_zero(turn: Turn, device: str, options: ScaleOptions, weight: Weight) -> None:
    if weight.mass_kg is None or weight.range != "ok" or weight.mode == "tare":
        return
    empty = turn.state.empty_scales.get(device, EmptyScale())
    if weight.mass_kg >= options.min_load_kg:
        if not empty.was_loaded:
            _keep(turn, device, replace(empty, was_loaded=True))
        return
    is_early = empty.at is not None and turn.stamp.since_s(empty.at) < SAMPLE_S
    if weight.stable is not True or (is_early and not empty.was_loaded):
        return
    samples = (*empty.samples, weight.mass_kg)[-SAMPLES:]
    trend = _trend(empty.trend, turn.stamp, median(samples))
    _keep(turn, device, EmptyScale(at=turn.stamp, samples=samples, trend=trend))
    _judge_zero(turn, device, options, samples)
    if trend is not empty.trend:
        _judge_slope(turn, device, options, trend)


def _keep(turn: Turn, device: str, empty: EmptyScale) -> None:
    turn.state.empty_scales = {**turn.state.empty_scales, device: empty}


def _trend(
    trend: tuple[tuple[int, float], ...], stamp: Stamp, zero_kg: float
) -> tuple[tuple[int, float], ...]:
    if trend and stamp.mono_us - trend[-1][0] < TREND_S * 1e6:
        return trend
    return (*trend, (stamp.mono_us, zero_kg))[-TREND:]


def _judge_zero(turn: Turn, device: str, options: ScaleOptions, samples: tuple[float, ...]) -> None:
    if options.zero_limit_kg is None or len(samples) < SAMPLES:
        return
    zero_kg = median(samples)
    text = (
        f"{device}: the empty platform reads {zero_kg:+g} kg, beyond {options.zero_limit_kg:g} kg; "
        "clean it and set it to zero"
    )
    finding = fault(device, "zero_drift", text, "notice")
    set_standing(turn, finding, active=abs(zero_kg) > options.zero_limit_kg)


def slope_kg_per_h(trend: tuple[tuple[int, float], ...]) -> float | None:
    """Return how fast the empty reading creeps [kg/h], None where too little is known.

    ``trend`` holds (monotonic µs, kg). Source: the median of pairwise slopes, P. K. Sen, Journal
    of the American Statistical Association 63 (1968) 1379.
    """
    if len(trend) < TREND_AT_LEAST:
        return None
    per_us = [(kg - kg0) / (us - us0) for (us0, kg0), (us, kg) in combinations(trend, 2)]
    return median(per_us) * 3.6e9


def _judge_slope(
    turn: Turn, device: str, options: ScaleOptions, trend: tuple[tuple[int, float], ...]
) -> None:
    limit = options.zero_slope_limit_kg_per_h
    slope = slope_kg_per_h(trend)
    if limit is None or slope is None:
        return
    text = (
        f"{device}: the empty platform creeps by {slope:+.1f} kg/h, more than {limit:g} kg/h; look "
        "for snow, mud or water on it"
    )
    set_standing(turn, fault(device, "zero_slope", text, "notice"), active=abs(slope) > limit)
