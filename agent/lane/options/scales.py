"""What a technician says of a scale."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta

from agent.lane.options.words import Day, Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleCalibration:
    """Table ``[devices.NAME.calibration]``: what a scale's last calibration left behind.

    ``errors_kg`` holds (test load, indication less load) as they were left.
    """

    accuracy_class: Annotated[
        Literal["III", "IIII"], Meta(description="accuracy class on the type plate (OIML R 76)")
    ] = "III"
    certificate: Annotated[
        str | None, Meta(description="number of the certificate", max_length=64)
    ] = None
    calibrated: Annotated[Day | None, Meta(description='day of it, as "2026-11-02"')] = None
    due: Annotated[
        Day | None, Meta(description="last day it holds (UTC); after it the scale is a fault")
    ] = None
    seal: Annotated[str | None, Meta(description="numbers of the seals", max_length=128)] = None
    calibration_counter: Annotated[
        int | None, Meta(description="the indicator's count of calibrations as sealed", ge=0)
    ] = None
    configuration_counter: Annotated[
        int | None, Meta(description="its count of changes of its set-up as sealed", ge=0)
    ] = None
    errors_kg: Annotated[
        tuple[tuple[float, float], ...],
        Meta(description="measured error at each test load, [load, indication - load] [kg]"),
    ] = ()

    def __post_init__(self) -> None:
        """Refuse days that no calendar has, and a due day before the calibration."""
        days = {}
        for name in ("calibrated", "due"):
            text = getattr(self, name)
            try:
                days[name] = None if text is None else date.fromisoformat(text)
            except ValueError:
                raise ValueError(f"{name} = {text!r}: there is no such day") from None
        if days["calibrated"] and days["due"] and days["due"] <= days["calibrated"]:
            raise ValueError(f"due = {self.due!r}: expected a day after {self.calibrated}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptions:
    """A scale's place in the lane and its declared calibration."""

    relation: Annotated[
        Relation, Meta(description="when a stable weight comes, seen from the occupancy")
    ] = "after"
    max_gap_s: Annotated[
        float,
        Meta(description="a weight further than this from it is another's [s]", ge=0, le=3600),
    ] = 60.0
    e_kg: Annotated[
        float | None,
        Meta(description="declared verification interval e [kg]; absent: not checked", gt=0),
    ] = None
    max_kg: Annotated[
        float | None, Meta(description="declared capacity Max [kg]; absent: not checked", gt=0)
    ] = None
    min_load_kg: Annotated[
        float, Meta(description="below this the platform is empty [kg]", gt=0)
    ] = 400.0
    zero_limit_kg: Annotated[
        float | None,
        Meta(
            description="an empty platform that keeps reading beyond this is a fault [kg]; absent: "
            "no check",
            gt=0,
        ),
    ] = None
    zero_slope_limit_kg_per_h: Annotated[
        float | None,
        Meta(
            description="an empty reading that creeps faster than this is a fault [kg/h]; absent: "
            "no check",
            gt=0,
        ),
    ] = None
    frozen_after_vehicles: Annotated[
        int | None,
        Meta(
            description="a figure that has not changed while so many vehicles passed the portal is "
            "frozen; absent: not watched",
            ge=2,
            le=1000,
        ),
    ] = None
    calibrating: Annotated[
        bool,
        Meta(
            description="true while somebody works at the scale: its weights are a test, and make "
            "no passage and no alarm"
        ),
    ] = False
    calibration: Annotated[
        ScaleCalibration | None,
        Meta(description="the declared calibration, a table of its own; absent: not declared"),
    ] = None
    weighs: Annotated[
        Literal["vehicle", "axles"],
        Meta(description="vehicle: all of it stands on the platform; axles: one after the other"),
    ] = "vehicle"
    axle_gap_s: Annotated[
        float, Meta(description="no further axle for so long ends the vehicle [s]", ge=1, le=120)
    ] = 15.0
    axles: Annotated[
        int | None, Meta(description="declared number of axles; absent: any", ge=1, le=20)
    ] = None
    max_axle_kg: Annotated[
        float | None, Meta(description="weight alarm above this axle load [kg]; absent: none", gt=0)
    ] = None
    span_load_kg: Annotated[
        float | None,
        Meta(description="mass of the reference load weighed in test mode [kg]", gt=0),
    ] = None
    span_limit_kg: Annotated[
        float | None,
        Meta(description="the reference load may read so far off before it is a fault [kg]", gt=0),
    ] = None
    accuracy_class: Annotated[
        Literal["III", "IIII", "0.2", "0.5", "1", "2", "5", "10"],
        Meta(
            description="its class: III or IIII of OIML R 76-1 for a scale used at rest, or the "
            "vehicle mass class of OIML R 134-1 for one that weighs in motion [percent]"
        ),
    ] = "III"
    declared_as: Annotated[
        Literal["gross", "net"],
        Meta(description="which mass the documents declare; one of the other kind is not judged"),
    ] = "gross"
    declared_percent: Annotated[
        float,
        Meta(description="a weight may differ so far from the declared [percent]", ge=0, le=100),
    ] = 3.0
    declared_within_kg: Annotated[
        float, Meta(description="and always so far [kg]", ge=0, le=100000)
    ] = 100.0
    declared_mpe_factor: Annotated[
        float,
        Meta(
            description="and always so many times the scale's own maximum permissible error in "
            "service",
            ge=0,
            le=100,
        ),
    ] = 2.0
    declared_alarm: Annotated[
        Literal["off", "notice", "elevated"],
        Meta(
            description="severity of the alarm where it differs further; off: the passage only "
            "says it"
        ),
    ] = "notice"
