"""Table ``[lane]``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta


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
    longest_occupancy_s: Annotated[
        float,
        Meta(
            description="a portal, loop or photocell that sees something for so long is stuck [s]",
            ge=60,
            le=86400,
        ),
    ] = 1800.0
    dose_rate_alarm_usv_per_h: Annotated[
        float | None,
        Meta(description="alarm at or above this dose rate [µSv/h]; absent: no such alarm", gt=0),
    ] = None
