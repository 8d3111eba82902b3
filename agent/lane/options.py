"""The lane's options: what a technician sets in the lane's file, with bounds and units."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta

Algorithm = Literal["sum", "horizontal", "vertical", "single"]
Relation = Literal["before", "during", "after"]

Seconds = Annotated[float, Meta(ge=0, le=3600)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneOptions:
    """Table ``[lane]``: the rules of one lane."""

    name: Annotated[str, Meta(description="what people call the lane", max_length=64)] = ""
    in_service: Annotated[
        bool, Meta(description="false: everything is recorded and marked out of service")
    ] = True
    max_gross_kg: Annotated[
        float | None,
        Meta(description="weight alarm above this gross mass [kg]; absent: no such alarm", gt=0),
    ] = None
    join_gap_s: Annotated[
        float,
        Meta(
            description="occupancies closer than this are one transit [s]; 0: never joined",
            ge=0,
            le=60,
        ),
    ] = 5.0
    over_range_cps: Annotated[
        float,
        Meta(
            description="any one detector at or above this for two intervals: keep people away "
            "[counts/s]",
            gt=0,
        ),
    ] = 20000.0
    neutron_p: Annotated[
        float,
        Meta(description="neutron alarm below this probability of chance", gt=0, lt=0.01),
    ] = 1e-5
    neutron_window_s: Annotated[
        int, Meta(description="longest neutron window [s]", ge=1, le=30)
    ] = 5
    reference_background_s: Annotated[
        int, Meta(description="length of the long median background [s]", ge=600, le=1800)
    ] = 1200
    suspect_fraction: Annotated[
        float,
        Meta(
            description="background is suspect when it parts this far from its median [fraction]",
            gt=0,
            lt=1,
        ),
    ] = 0.05
    occupancy_timeout_s: Annotated[
        float,
        Meta(
            description="an occupancy in which no count arrives for so long is closed [s]",
            ge=1,
            le=600,
        ),
    ] = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmOptions:
    """A portal's own settings as its display shows them, and how its panels are called."""

    nsigma: Annotated[
        float, Meta(description="the portal's NSIGMA, used to recompute its decision", ge=1, le=20)
    ] = 5.0
    intervals: Annotated[
        int, Meta(description="intervals of 200 ms in the portal's sliding sum", ge=1, le=50)
    ] = 5
    algorithms: Annotated[
        tuple[Algorithm, ...],
        Meta(description="the portal's detector combinations in use", min_length=1),
    ] = ("sum", "vertical")
    detectors: Annotated[
        tuple[str, ...],
        Meta(description="names of detectors 1-4 in field order", min_length=4, max_length=4),
    ] = ("1", "2", "3", "4")


Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]


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


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalOptions:
    """A metal detector's place in the lane."""

    relation: Annotated[
        Relation, Meta(description="when the person walks through, seen from the occupancy")
    ] = "during"
    max_gap_s: Annotated[
        float,
        Meta(description="a person further than this from it is another's [s]", ge=0, le=3600),
    ] = 20.0
    alarm_joins_s: Annotated[
        float,
        Meta(description="an alarm and a person closer than this belong together [s]", ge=0, le=10),
    ] = 2.0


KindOptions = RpmOptions | ScaleOptions | MetalOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What ``step`` needs to know of one lane's configuration.

    ``run`` is the random name of this run of the agent, part of every passage and alarm id.
    ``pinned`` names portal options ("nsigma" …) that outrank the portal's own settings lines.
    """

    lane_id: str
    run: str
    lane: LaneOptions
    portals: dict[str, RpmOptions]
    scales: dict[str, ScaleOptions]
    metals: dict[str, MetalOptions]
    pinned: frozenset[str] = frozenset()
    is_test: bool = False

    @property
    def sides(self) -> dict[str, ScaleOptions | MetalOptions]:
        """Return the devices whose parts join a portal's passage."""
        return {**self.scales, **self.metals}
