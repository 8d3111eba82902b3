"""The lane's options: what a technician sets in the lane's file, with bounds and units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from agent.analysis.detection.model import Model, Shapes
from agent.analysis.identification.hypotheses import Candidates
from drivers.readings import EnergyCalibration

Algorithm = Literal["sum", "horizontal", "vertical", "single"]
Relation = Literal["before", "during", "after"]

Seconds = Annotated[float, Meta(ge=0, le=3600)]


Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
Coefficients = tuple[Annotated[float, Meta(ge=-10000, le=10000)], ...]


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
    test_every_h: Annotated[
        float | None,
        Meta(
            description="an operational test is due so long after the last that passed, and at "
            "every start [h]; absent: none is ever due",
            gt=0,
            le=8760,
        ),
    ] = None
    test_alarms: Annotated[
        int,
        Meta(description="a test passes with at least so many alarms in it", ge=1, le=100),
    ] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactOptions:
    """What the contacts of one module are for, by their names."""

    presence: Annotated[
        tuple[str, ...],
        Meta(
            description="loops and photocells that see a vehicle, in the order in which one that "
            "comes in meets them",
            max_length=8,
        ),
    ] = ()
    tamper: Annotated[
        tuple[str, ...], Meta(description="contacts that raise a tamper alarm while active")
    ] = ()
    door: Annotated[
        tuple[str, ...], Meta(description="doors: active, that is open, raises a tamper alarm")
    ] = ()
    under_barrier: Annotated[
        tuple[str, ...],
        Meta(
            description="loops and photocells under the barrier: it is never closed by the agent "
            "while one of them, or of presence, is active or unknown",
            max_length=8,
        ),
    ] = ()
    barrier_closed: Annotated[
        str | None, Meta(description="limit switch, active while the barrier is down")
    ] = None
    barrier_open: Annotated[
        str | None, Meta(description="limit switch, active while the barrier is up")
    ] = None

    metal_test: Annotated[
        str | None,
        Meta(
            description="key switch: while it is active, walks at the lane's metal detectors are "
            "an operational test and no passage"
        ),
    ] = None
    metal_test_of: Annotated[
        dict[str, str],
        Meta(
            description="metal detectors with a key switch of their own, each with its switch; "
            "metal_test is for all others",
            max_length=16,
        ),
    ] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """Return every name that has a role here."""
        single = (self.barrier_closed, self.barrier_open)
        names = (*(name for name in single if name), *self.test_switches)
        return (*self.presence, *self.tamper, *self.door, *self.under_barrier, *names)

    @property
    def test_switches(self) -> tuple[str, ...]:
        """Return the key switches of metal detectors' tests; one for several stands once."""
        own = dict.fromkeys(self.metal_test_of.values())
        return (*own, self.metal_test) if self.metal_test else tuple(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityOptions:
    """A reader's place in the lane, and how much of what it reads is written down."""

    relation: Annotated[
        Relation, Meta(description="when something is read, seen from the occupancy")
    ] = "during"
    max_gap_s: Annotated[
        float,
        Meta(description="a reading further than this from it is another's [s]", ge=0, le=3600),
    ] = 15.0
    debounce_s: Annotated[
        float,
        Meta(
            description="the same again within so long of the last time is the same reading [s]",
            ge=0,
            le=3600,
        ),
    ] = 10.0
    identity_privacy: Annotated[
        Literal["token", "clear"],
        Meta(
            description="token: a passage holds a keyed token and only an alarm's record the text; "
            "clear: both hold the text"
        ),
    ] = "token"


AlarmWord = Literal["gamma", "neutron", "spectral", "metal", "weight", "tamper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What the lane's outputs show, and whether its barrier moves by itself."""

    beacon_kinds: Annotated[
        tuple[AlarmWord, ...], Meta(description="kinds of alarm that light the beacon")
    ] = ("gamma", "neutron", "spectral", "metal", "weight", "tamper")
    siren_kinds: Annotated[
        tuple[AlarmWord, ...], Meta(description="kinds of alarm that sound the siren")
    ] = ("gamma", "neutron", "spectral")
    siren_s: Annotated[
        float,
        Meta(description="the siren is silent so long after an alarm began [s]", ge=1, le=600),
    ] = 30.0
    hold_s: Annotated[
        float,
        Meta(description="an alarm is shown so long after it was cleared [s]", ge=0, le=600),
    ] = 10.0
    barrier: Annotated[
        Literal["manual", "routine"],
        Meta(
            description="manual: never moved by the agent; routine: opened for a vehicle without "
            "any finding, closed behind it"
        ),
    ] = "manual"
    close_after_s: Annotated[
        float,
        Meta(description="the way must be free so long before the barrier closes [s]", ge=0, le=60),
    ] = 2.0
    opens_despite_radiation: Annotated[
        bool,
        Meta(description="true: the barrier may open while a gamma or neutron alarm stands"),
    ] = False


SideOptions = ScaleOptions | MetalOptions | IdentityOptions
"""Of devices whose parts join a portal's passage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralOptions:
    """Table ``[spectral]``: what the lane's spectroscopic panels are, and how they are judged."""

    detector: Annotated[
        Literal["nai", "csi", "labr3", "pvt"], Meta(description="what the crystals are made of")
    ] = "nai"
    crystal_cm: Annotated[
        tuple[float, float, float],
        Meta(description="their sides [cm], in any order; the shortest is the depth"),
    ] = (5.0, 10.0, 40.0)
    slice_s: Annotated[
        float,
        Meta(
            description="length of a slice [s]; not shorter than the panels' own intervals",
            ge=0.1,
            le=2.0,
        ),
    ] = 1.0
    background_memory_s: Annotated[
        float,
        Meta(description="the background forgets with this time constant [s]", ge=30, le=3600),
    ] = 300.0
    guard_s: Annotated[
        float,
        Meta(
            description="what came so long before a vehicle is its approach and no background [s]",
            ge=1,
            le=30,
        ),
    ] = 5.0
    false_alarm_rate: Annotated[
        float,
        Meta(description="alarms per benign passage that the site accepts", gt=0, le=0.05),
    ] = 1e-3
    thresholds_file: Annotated[
        str | None,
        Meta(
            description="what calibrate threshold learned from this lane's traffic; absent: "
            "thresholds by formula, and alarms are provisional"
        ),
    ] = None
    exclude: Annotated[
        tuple[str, ...], Meta(description='nuclides that are not looked for, such as "F-18"')
    ] = ()
    gain_every_s: Annotated[
        float,
        Meta(
            description="a detector's gain is measured on the empty lane at most so often [s]",
            ge=60,
            le=3600,
        ),
    ] = 120.0
    gain_limit: Annotated[
        float,
        Meta(
            description="a detector whose gain is further from its calibration is a fault and is "
            "not used [fraction]",
            ge=0.01,
            le=0.14,
        ),
    ] = 0.1


KindOptions = (
    RpmOptions | ScaleOptions | MetalOptions | ContactOptions | IdentityOptions | OutputOptions
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalTraits:
    """How a portal works, as its driver says it (``drivers.base``).

    ``presence``: it sends counts only while a vehicle is there; it says so; it does not.
    ``rule``: whose its gamma decision is, that of TSA controllers or its own; "none": it counts
    nothing.
    """

    presence: Literal["counts", "told", "none"] = "counts"
    rule: Literal["tsa", "own", "none"] = "tsa"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SpectralRules:
    """What judging spectra needs, computed from the options once.

    ``known``: what identification names. ``energies``: the lane file's own energy scales by device,
    or by "device/detector" where they name one; they outrank the device's. ``model`` None: nothing
    was learned, and one is assumed from the background. ``calibration`` names the learned
    thresholds. ``ground`` (component, bin): the natural background on ``gain.TRACKED_KEV``; None:
    gains are not tracked (plastic).
    """

    options: SpectralOptions
    shapes: Shapes
    known: Candidates
    energies: Mapping[str, EnergyCalibration]
    model: Model | None
    calibration: str | None
    ground: NDArray[np.float64] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WindowRules:
    """What judging a portal's energy windows needs.

    ``device``: the portal; another one's windows are no common spectrum with it. ``model`` None:
    nothing was learned, and one is assumed from the background. ``calibration`` names the learned
    thresholds.
    """

    device: str
    options: SpectralOptions
    model: Model | None = None
    calibration: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What ``step`` needs to know of one lane's configuration.

    ``run`` is the random name of this run of the agent, part of every passage and alarm id.
    ``portals`` and ``traits`` are in the order of the lane's file; a portal without traits is a
    TSA one. ``pinned`` names portal options ("nsigma" …) that outrank the portal's own settings
    lines.
    ``identity_key`` makes the tokens that stand for identities; None: they are left out.
    """

    lane_id: str
    run: str
    lane: LaneOptions
    portals: dict[str, RpmOptions]
    scales: dict[str, ScaleOptions]
    metals: dict[str, MetalOptions]
    traits: Mapping[str, PortalTraits] = field(default_factory=dict)
    contacts: dict[str, ContactOptions] = field(default_factory=dict)
    readers: dict[str, IdentityOptions] = field(default_factory=dict)
    outputs: dict[str, OutputOptions] = field(default_factory=dict)
    identity_key: bytes | None = field(default=None, repr=False)
    spectral: SpectralRules | None = field(default=None, repr=False)
    """None: the lane judges no spectra, or what it looks for is still being computed."""
    windows: WindowRules | None = field(default=None, repr=False)
    """None: the lane judges no energy windows."""
    pinned: frozenset[str] = frozenset()
    is_test: bool = False

    def traits_of(self, portal: str) -> PortalTraits:
        """Return how a portal works."""
        return self.traits.get(portal, _TSA)

    @property
    def teller(self) -> str | None:
        """Return the portal whose word on a vehicle's coming and leaving counts: the first.

        None: no portal can tell; then loops and photocells do.
        """
        for name in self.portals:
            if self.traits_of(name).presence != "none":
                return name
        return None

    @property
    def owner(self) -> str | None:
        """Return the portal that a passage's ``rpm`` part is of; None: there is none.

        It is the one that tells, else the first that counts.
        """
        counting = (name for name in self.portals if self.traits_of(name).rule != "none")
        return self.teller or next(counting, None)

    @property
    def sides(self) -> dict[str, SideOptions]:
        """Return the devices whose parts join a portal's passage."""
        return {**self.scales, **self.metals, **self.readers}


_TSA = PortalTraits()
