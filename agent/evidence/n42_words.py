"""The words of one event as N42.42-2012 tells it; ``n42`` writes them, ``n42_read`` reads them.

Codes (class, category, kind, severity) are the schema's own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from drivers.readings import EnergyCalibration, NuclideFound

MeasurementClass = Literal[
    "Foreground", "Background", "Calibration", "IntrinsicActivity", "NotSpecified"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """The portal: maker, model and what runs in it.

    ``class_code`` is one of the schema's words, for a lane "Portal Monitor" or "Spectroscopic
    Portal Monitor"; ``versions`` are (component, version), at least one.
    """

    manufacturer: str
    model: str
    class_code: str
    versions: tuple[tuple[str, str], ...]
    identifier: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One sensor; ``kind`` is one of the schema's words: NaI, CsI, PVT, He3, LiZnS, …, Other."""

    name: str
    category: str
    kind: str
    description: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """What one detector counted, one figure per channel or energy window [counts].

    ``live_time_s`` None: the device did not give it; ``energy`` None: not calibrated.
    """

    detector: str
    counts: tuple[int, ...]
    live_time_s: float | None
    energy: EnergyCalibration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrossCounts:
    """Counts of one detector as a whole, or in windows; ``windows_kev``: (from, to) of each."""

    detector: str
    counts: tuple[int, ...]
    live_time_s: float | None
    windows_kev: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One interval: the background before, or one slice of the passage.

    ``start_us`` [µs since 1970 UTC]; ``occupied`` None: nobody said.
    """

    kind: MeasurementClass
    start_us: int
    real_time_s: float
    spectra: tuple[Spectrum, ...] = ()
    gross_counts: tuple[GrossCounts, ...] = ()
    dose_usv_per_h: tuple[tuple[str, float], ...] = ()
    """(detector, ambient dose rate)."""
    occupied: bool | None = None
    speed_m_per_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """What passed; ``characteristics`` are further (name, value)."""

    description: str | None = None
    passage_id: str | None = None
    lane: str | None = None
    characteristics: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One figure that the analysis was run with: a threshold, the model's or calibration's rev."""

    name: str
    value: str
    unit: str = "unit-less"


@dataclass(frozen=True, slots=True, kw_only=True)
class RadAlarm:
    """One alarm; ``category`` is one of the schema's: Gamma, Neutron, Isotope, Other, ….

    ``detectors`` empty: not named. ``at_us`` None: not said.
    """

    category: str
    detectors: tuple[str, ...] = ()
    description: str | None = None
    at_us: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A condition that spoils or limits what was found."""

    code: str
    description: str
    severity: Literal["Fatal", "Error", "Warning"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """What was concluded, by which algorithm with which settings.

    ``p``: probability of as much or more without a source; ``statistic``: the figure behind it.
    """

    algorithm: str | None
    version: str | None = None
    settings: tuple[Setting, ...] = ()
    started_us: int | None = None
    duration_s: float | None = None
    succeeded: bool = True
    p: float | None = None
    statistic: float | None = None
    description: str | None = None
    alarms: tuple[RadAlarm, ...] = ()
    nuclides: tuple[NuclideFound, ...] = ()
    faults: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class N42Event:
    """One event: who measured what, and what was found; times [µs since 1970 UTC]."""

    document_id: str
    """A UUID; ``document_id`` makes it from the alarm's."""
    created_us: int | None
    creator: str | None
    instrument: Instrument
    detectors: tuple[Detector, ...]
    item: Item | None = None
    measurements: tuple[Measurement, ...] = ()
    analyses: tuple[Analysis, ...] = ()
