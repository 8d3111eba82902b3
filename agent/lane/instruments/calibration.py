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
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import combinations
from statistics import median
from typing import Literal, TypeVar

from agent.lane.alarms import clear_standing, cleared, fault, set_standing, stand
from agent.lane.instruments.axles import AxleRuns
from agent.lane.instruments.weighing import Weighings
from agent.lane.moment import Moment
from agent.lane.options.scales import ScaleCalibration, ScaleOptions
from agent.lane.state import Memory
from agent.lane.vehicles import Vehicles
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


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyScale:
    """What the empty platform of a scale read between loads, oldest first.

    ``samples`` [kg] are the latest; ``trend`` holds (monotonic µs, kg) at longer intervals.
    """

    at: Stamp | None = None
    samples: tuple[float, ...] = ()
    trend: tuple[tuple[int, float], ...] = ()
    was_loaded: bool = False
    """A load has come since the last sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a scale shows, and how many vehicles had passed when it began to show that."""

    figure: tuple[object, ...]
    vehicles: int


@dataclass(slots=True, kw_only=True)
class Calibrations(Memory):
    """What is watched of the lane's scales between vehicles."""

    calibrating: frozenset[str] = frozenset()
    """Scales whose weights are a test since this was last said."""
    empty_scales: Mapping[str, EmptyScale] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    counters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """First value of each scale's own counter since its last calibration, by (device, name)."""


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


def is_test(moment: Moment, device: str) -> bool:
    """Return whether this scale is being worked at, and say where that has changed."""
    is_now = moment.rules.scales[device].calibrating
    if is_now != (device in moment.of(Calibrations).calibrating):
        (_begin if is_now else _end)(moment, device)
    return is_now


def on_stop(moment: Moment) -> None:
    """Say of each calibration in progress that nobody watches it any more."""
    for device in sorted(moment.of(Calibrations).calibrating):
        _end(moment, device, reason="agent_stop")


def _begin(moment: Moment, device: str) -> None:
    for standing in (
        moment.of(Weighings).weighings.get(device),
        moment.of(AxleRuns).axle_runs.get(device),
    ):
        if standing is not None and standing.alarm is not None:
            cleared(moment, standing.alarm)
    moment.of(Weighings).weighings = _without(moment.of(Weighings).weighings, device)
    moment.of(AxleRuns).axle_runs = _without(moment.of(AxleRuns).axle_runs, device)
    moment.of(Calibrations).empty_scales = _without(moment.of(Calibrations).empty_scales, device)
    moment.of(Calibrations).shown = _without(moment.of(Calibrations).shown, device)
    for code in _STOPPED_BY_WORK:
        clear_standing(moment, device, code)
    text = f"{device}: the scale is being calibrated; its weights are a test and make no passage"
    stand(moment, fault(device, "calibration_in_progress", text, "notice"))
    moment.of(Calibrations).calibrating |= {device}
    _audit(moment, device, "begun")


def _end(moment: Moment, device: str, *, reason: str | None = None) -> None:
    clear_standing(moment, device, "calibration_in_progress")
    moment.of(Calibrations).calibrating -= {device}
    # Work at a scale moves its counters: what they are afterwards is heard anew.
    kept = {
        key: count for key, count in moment.of(Calibrations).counters.items() if key[0] != device
    }
    moment.of(Calibrations).counters = kept
    _audit(moment, device, "ended", reason)


def _audit(moment: Moment, device: str, state: str, reason: str | None = None) -> None:
    declared = moment.rules.scales[device].calibration or ScaleCalibration()
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
    record = Audit(stamp=moment.stamp, kind="calibration", lane=moment.rules.lane_id, data=data)
    moment.records.append(record)


def _without(mapping: Mapping[str, T], device: str) -> Mapping[str, T]:
    return {key: value for key, value in mapping.items() if key != device}


# ------------------------------------------------------------------ what is declared


def on_housekeeping(moment: Moment, device: str, reading: Housekeeping) -> None:
    """Hold a scale's own counter against the declared one, or else the first one heard."""
    options = moment.rules.scales.get(device)
    if options is None or reading.quantity not in _COUNTERS or options.calibrating:
        return
    key, count = (device, reading.quantity), int(reading.value)
    if key not in moment.of(Calibrations).counters:
        moment.of(Calibrations).counters = {**moment.of(Calibrations).counters, key: count}
    declared = getattr(options.calibration, reading.quantity, None)
    known = moment.of(Calibrations).counters[key] if declared is None else declared
    what = reading.quantity.replace("_", " ")
    text = (
        f"{device}: the {what} is {count} where {known} is known; find out who has been at the "
        "scale, and have it verified"
    )
    set_standing(moment, fault(device, reading.quantity, text), active=count != known)


def _watch_due(moment: Moment, device: str, calibration: ScaleCalibration) -> None:
    if calibration.due is None or moment.stamp.sync == "none":
        return  # a clock that nobody set may say any day
    text = f"{device}: the calibration was due on {calibration.due}; have the scale verified"
    is_over = moment.stamp.utc_us >= end_of_day_us(calibration.due)
    set_standing(moment, fault(device, "calibration_due", text), active=is_over)


@lru_cache(maxsize=64)
def end_of_day_us(day: str) -> int:
    """Return when a day ("2026-11-02") is over in UTC [µs]."""
    after = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
    return round(after.timestamp() * 1e6)


# ------------------------------------------------------------------ between vehicles


def watch(moment: Moment, device: str, weight: Weight) -> None:
    """Look at one indication for what it tells of the scale itself."""
    options = moment.rules.scales[device]
    if options.calibration is not None:
        _watch_due(moment, device, options.calibration)
    if options.frozen_after_vehicles is not None:
        _watch_frozen(moment, device, options.frozen_after_vehicles, weight)
    if options.zero_limit_kg is not None or options.zero_slope_limit_kg_per_h is not None:
        _watch_zero(moment, device, options, weight)


def _watch_frozen(moment: Moment, device: str, limit: int, weight: Weight) -> None:
    figure = (weight.value, weight.unit, weight.range, weight.mode, weight.stable)
    shown = moment.of(Calibrations).shown.get(device)
    if shown is None or shown.figure != figure:
        new = Shown(figure=figure, vehicles=moment.of(Vehicles).passed)
        moment.of(Calibrations).shown = {**moment.of(Calibrations).shown, device: new}
        clear_standing(moment, device, "scale_frozen")
        return
    passed = moment.of(Vehicles).passed - shown.vehicles
    if passed >= limit:
        text = (
            f"{device}: the figure {weight.value} {weight.unit} has not changed while {passed} "
            "vehicles passed; look at the scale's display and what reads it"
        )
        stand(moment, fault(device, "scale_frozen", text))


def _watch_zero(moment: Moment, device: str, options: ScaleOptions, weight: Weight) -> None:
    if weight.mass_kg is None or weight.range != "ok" or weight.mode == "tare":
        return
    empty = moment.of(Calibrations).empty_scales.get(device, EmptyScale())
    if weight.mass_kg >= options.min_load_kg:
        if not empty.was_loaded:
            _keep(moment, device, replace(empty, was_loaded=True))
        return
    is_early = empty.at is not None and moment.stamp.since_s(empty.at) < SAMPLE_S
    if weight.stable is not True or (is_early and not empty.was_loaded):
        return
    samples = (*empty.samples, weight.mass_kg)[-SAMPLES:]
    trend = _trend(empty.trend, moment.stamp, median(samples))
    _keep(moment, device, EmptyScale(at=moment.stamp, samples=samples, trend=trend))
    _judge_zero(moment, device, options, samples)
    if trend is not empty.trend:
        _judge_slope(moment, device, options, trend)


def _keep(moment: Moment, device: str, empty: EmptyScale) -> None:
    moment.of(Calibrations).empty_scales = {**moment.of(Calibrations).empty_scales, device: empty}


def _trend(
    trend: tuple[tuple[int, float], ...], stamp: Stamp, zero_kg: float
) -> tuple[tuple[int, float], ...]:
    if trend and stamp.mono_us - trend[-1][0] < TREND_S * 1e6:
        return trend
    return (*trend, (stamp.mono_us, zero_kg))[-TREND:]


def _judge_zero(
    moment: Moment, device: str, options: ScaleOptions, samples: tuple[float, ...]
) -> None:
    if options.zero_limit_kg is None or len(samples) < SAMPLES:
        return
    zero_kg = median(samples)
    text = (
        f"{device}: the empty platform reads {zero_kg:+g} kg, beyond {options.zero_limit_kg:g} kg; "
        "clean it and set it to zero"
    )
    finding = fault(device, "zero_drift", text, "notice")
    set_standing(moment, finding, active=abs(zero_kg) > options.zero_limit_kg)


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
    moment: Moment, device: str, options: ScaleOptions, trend: tuple[tuple[int, float], ...]
) -> None:
    limit = options.zero_slope_limit_kg_per_h
    slope = slope_kg_per_h(trend)
    if limit is None or slope is None:
        return
    text = (
        f"{device}: the empty platform creeps by {slope:+.1f} kg/h, more than {limit:g} kg/h; look "
        "for snow, mud or water on it"
    )
    set_standing(moment, fault(device, "zero_slope", text, "notice"), active=abs(slope) > limit)
