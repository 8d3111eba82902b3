"""What a technician says of a portal or spectrometer, and what its driver says of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from msgspec import Meta

from agent.lane.options.words import Day

Algorithm = Literal["sum", "horizontal", "vertical", "single"]


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


Plate = Annotated[str, Meta(max_length=64)]


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePlateOptions:
    """Table ``[devices.NAME.type_plate]``: which instrument it is; empty: nobody has said."""

    manufacturer: Annotated[Plate, Meta(description="who made it")] = ""
    model: Annotated[Plate, Meta(description="its model")] = ""
    serial_number: Annotated[Plate, Meta(description="its serial number")] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmOptions:
    """A portal's own settings as its display shows them, and how its panels are called.

    ``nsigma``, ``intervals`` and ``algorithms`` are those of TSA controllers, whose decision is
    recomputed; other portals are not asked for them.
    """

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
        Meta(description="names of the detectors in field order", min_length=1, max_length=8),
    ] = ("1", "2", "3", "4")
    gamma_alarm_sigma: Annotated[
        float | None,
        Meta(
            description="own gamma alarm at this excess over its background, for a detector that "
            "decides nothing itself [sigma]; absent: none",
            ge=3,
            le=100,
        ),
    ] = None

    def detector(self, index: int) -> str:
        """Return what people call a detector, from 0; its number where the file has no name."""
        return self.detectors[index] if index < len(self.detectors) else str(index + 1)

    energy: Annotated[
        EnergyCalibrationOptions | None,
        Meta(description="energy scale of a spectroscopic device; absent: the device's own"),
    ] = None
    type_plate: Annotated[
        TypePlateOptions | None,
        Meta(description="which instrument it is, for the files of its alarms; absent: not said"),
    ] = None
    gain_tracking: Annotated[
        bool,
        Meta(
            description="the energy scale of its spectra is held by the natural background; false: "
            "the device holds it by itself"
        ),
    ] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalTraits:
    """How a portal works, as its driver says it (``drivers.base``).

    ``presence``: it sends counts only while a vehicle is there; it says so; it does not.
    ``rule``: whose its gamma decision is, that of TSA controllers or its own; "none": it counts
    nothing.
    """

    presence: Literal["counts", "told", "none"] = "counts"
    rule: Literal["tsa", "own", "none"] = "tsa"
