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
            description="a stable empty reading beyond this is a fault [kg]; absent: no check", gt=0
        ),
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


Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]

Coefficients = tuple[Annotated[float, Meta(ge=-10000, le=10000)], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyCalibrationOptions:
    """Table ``[devices.NAME.energy]``: the energy scale of a spectroscopic detector.

    ``checkpointd calibrate energy`` proposes it. The ``previous`` options keep what stood before.
    """

    coefficients_kev: Annotated[
        Coefficients,
        Meta(
            description="the lower edge of channel i is their polynomial in i [keV]",
            min_length=2,
            max_length=4,
        ),
    ]
    measured: Annotated[Day, Meta(description='day of the measurement, as "2026-11-02"')]
    valid_until: Annotated[
        Day | None, Meta(description="last day it holds; after it the detector is a fault")
    ] = None
    source: Annotated[
        str, Meta(description="what was measured, such as Cs-137 or background", max_length=64)
    ] = ""
    measured_by: Annotated[str, Meta(description="who or what measured it", max_length=128)] = ""
    detector: Annotated[
        str, Meta(description="which detector of the device; empty: its only one", max_length=64)
    ] = ""
    previous_coefficients_kev: Annotated[
        Coefficients, Meta(description="the coefficients before; empty: none known", max_length=4)
    ] = ()
    previous_measured: Annotated[Day | None, Meta(description="the day they were measured")] = None

    def __post_init__(self) -> None:
        """Refuse days that no calendar has, and an end before the beginning."""
        days = {}
        for name in ("measured", "valid_until", "previous_measured"):
            text = getattr(self, name)
            try:
                days[name] = None if text is None else date.fromisoformat(text)
            except ValueError:
                raise ValueError(f"{name} = {text!r}: there is no such day") from None
        measured, until = days["measured"], days["valid_until"]
        if measured is not None and until is not None and until <= measured:
            raise ValueError(f"valid_until = {self.valid_until!r}: expected a day after measured")


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
