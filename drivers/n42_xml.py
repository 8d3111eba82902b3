"""ANSI N42.42-2012 documents read into plain words: what was measured, and what was made of it.

::

    RadInstrumentData                     one document; everything else is inside
      RadInstrumentInformation            maker, model, class, Characteristic (battery ...)
      RadDetectorInformation @id          category Gamma | Neutron ..., kind NaI | He3 ...
      RadItemInformation @id              what is measured: Characteristic (container ...)
      EnergyCalibration @id               CoefficientValues c0 c1 c2: channel i begins at
                                          c0 + c1 i + c2 i²; or EnergyBoundaryValues  [keV]
      RadMeasurement                      Foreground | Background ..., start, real time [s]
        Spectrum                          detector, calibration, live time, counts per channel
        GrossCounts                       detector, live time, counts (one, or one per window)
        DoseRate                          [µSv/h]
        RadItemState/StateVector/SpeedValue [m/s]    OccupancyIndicator
      DerivedData                         the same, worked out of measurements
      AnalysisResults                     RadAlarm, NuclideAnalysisResults/Nuclide, Fault

``CountedZeroes``: a 0 is followed by how many zeroes it stands for. Durations are ISO 8601.

Source: ANSI N42.42-2012 and its schema n42.xsd (namespace below). Elements of other namespaces, and
of prefixes that nobody declared (a real file of InterSpec's has such), are left out with all they
hold. The schema says of boundaries that they are where channels begin; of the "channel position" in
the polynomial it does not, so the lower edge there is unconfirmed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from typing import TypeVar

from drivers.readings import EnergyCalibration, Reason
from drivers.xml_tree import Element, XmlError, decoded, parse_tree

T = TypeVar("T")

NAMESPACE = "http://physics.nist.gov/N42/2011/N42"
MAX_CHANNELS = 1 << 16
MAX_COUNT = 1 << 53
"""Larger counts are no exact integers in a file of doubles."""

_DURATION = re.compile(
    r"P(?:(\d{1,5})D)?(?:T(?:(\d{1,6})H)?(?:(\d{1,8})M)?(?:(\d{1,10}(?:\.\d{1,12})?)S)?)?",
    re.ASCII,
)
_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:[eE][+-]?\d{1,3})?", re.ASCII)
_COUNT = re.compile(r"\d{1,16}(?:\.0{0,12})?(?:[eE]\+?\d{1,2})?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Characteristic:
    """A named figure or text about the instrument or the item, as it is written."""

    name: str
    value: str
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Instrument:
    """The measuring instrument; empty texts: not given."""

    manufacturer: str = ""
    identifier: str = ""
    model: str = ""
    class_code: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    characteristics: tuple[Characteristic, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """One detector; ``category`` is Gamma, Neutron, ... and ``kind`` NaI, He3, ..., as written."""

    id: str
    name: str
    category: str
    kind: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Counts per channel of one detector; None: not given."""

    id: str
    detector: str
    live_time_s: float | None
    counts: tuple[int, ...]
    energy: EnergyCalibration | None


@dataclass(frozen=True, slots=True, kw_only=True)
class GrossCounts:
    """Counts without energy: one figure, or one per energy window of ``windows_kev``."""

    id: str
    detector: str
    live_time_s: float | None
    counts: tuple[int, ...]
    windows_kev: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """One interval of counting, or (``is_derived``) what was worked out of several.

    ``class_code`` is Foreground, Background, Calibration, IntrinsicActivity or NotSpecified.
    ``start`` is aware; where the text names no zone (``start_has_zone`` false) it is read as UTC.
    """

    id: str
    class_code: str
    start: datetime | None
    start_has_zone: bool
    real_time_s: float | None
    spectra: tuple[Spectrum, ...]
    gross_counts: tuple[GrossCounts, ...]
    dose_rates_usv_per_h: tuple[float, ...]
    occupied: bool | None
    speed_m_per_s: float | None
    remarks: tuple[str, ...] = ()
    is_derived: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RadAlarm:
    """An alarm of the instrument's own analysis; ``category`` as written."""

    category: str
    description: str
    detectors: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Nuclide:
    """One entry of a nuclide analysis.

    ``confidence`` is 0 to 1. The schema says percent, the standard's own example writes 0.91; so
    what is above 1 is taken as percent.
    """

    name: str
    is_identified: bool
    confidence: float | None
    category: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What the instrument says is wrong with itself; ``severity`` Warning, Error or Fatal."""

    code: str
    description: str
    severity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Analysis:
    """One AnalysisResults; ``nuclides`` None: it made no nuclide analysis."""

    measurements: tuple[str, ...]
    algorithm: str
    status: str
    description: str
    confidence: float | None
    alarms: tuple[RadAlarm, ...]
    nuclides: tuple[Nuclide, ...] | None
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One whole document; ``unread`` says in a sentence each what in it was left out."""

    uuid: str
    instrument: Instrument
    detectors: tuple[Detector, ...]
    items: tuple[Characteristic, ...]
    measurements: tuple[Measurement, ...]
    derived: tuple[Measurement, ...]
    analyses: tuple[Analysis, ...]
    unread: tuple[str, ...] = ()

    def category_of(self, detector: str) -> str:
        """Return a detector's category; empty where the document does not say it."""
        return next((d.category for d in self.detectors if d.id == detector), "")


def parse_document(data: bytes | str) -> Document:
    """Return one N42.42-2012 document in words.

    A part that cannot be read (a spectrum with a negative count) is left out and named in
    ``Document.unread``.

    Raises
    ------
    XmlError
        If it is not well formed, has a document type, or is no N42.42-2012 document.
    """
    text = decoded(data) if isinstance(data, bytes) else data
    return _Reader(parse_tree(text, (NAMESPACE,))).document()


# --- from elements to words -------------------------------------------------------------------


class _UnreadError(ValueError):
    """One part cannot be read; it is named in ``Document.unread``."""


class _Reader:
    def __init__(self, root: Element) -> None:
        if root.name != "RadInstrumentData":
            raise XmlError(
                Reason.UNKNOWN,
                f"not N42.42-2012: its root element is {root.name[:40]}, not RadInstrumentData",
            )
        self._root = root
        self._unread: list[str] = []
        self._energies: dict[str, EnergyCalibration] = {}
        self._windows: dict[str, tuple[tuple[float, float], ...]] = {}

    def document(self) -> Document:
        root = self._root
        self._energies = dict(self._by_id(_energy, "EnergyCalibration"))
        self._windows = dict(self._by_id(_windows, "EnergyWindows"))
        information = root.first("RadInstrumentInformation")
        return Document(
            uuid=root.attributes.get("n42DocUUID", ""),
            instrument=Instrument() if information is None else _instrument(information),
            detectors=tuple(_detector(part) for part in root.all("RadDetectorInformation")),
            items=tuple(
                characteristic
                for part in root.all("RadItemInformation")
                for characteristic in _characteristics(part, "RadItemCharacteristics")
            ),
            measurements=tuple(self._measurement(p) for p in root.all("RadMeasurement")),
            derived=tuple(self._measurement(p) for p in root.all("DerivedData")),
            analyses=tuple(self._analysis(p) for p in root.all("AnalysisResults")),
            unread=tuple(self._unread),
        )

    def _by_id(self, read: Callable[[Element], T], name: str) -> Iterator[tuple[str, T]]:
        for part in self._root.all(name):
            for found in self._kept(read, part):
                yield part.attributes.get("id", ""), found

    def _kept(self, read: Callable[[Element], T], part: Element) -> Iterator[T]:
        """Yield what the part says, or nothing and a note of why it cannot be read."""
        try:
            yield read(part)
        except _UnreadError as exc:
            self._unread.append(f"{part.name} {part.attributes.get('id', '')[:64]}: {exc}")

    def _measurement(self, part: Element) -> Measurement:
        start, has_zone = _moment(part.said("StartDateTime"))
        speed = next(self._kept(_speed, part), None)
        return Measurement(
            id=part.attributes.get("id", ""),
            class_code=part.said("MeasurementClassCode"),
            start=start,
            start_has_zone=has_zone,
            real_time_s=next(self._kept(_real_time, part), None),
            spectra=tuple(
                found
                for child in part.all("Spectrum")
                for found in self._kept(self._spectrum, child)
            ),
            gross_counts=tuple(
                found
                for child in part.all("GrossCounts")
                for found in self._kept(self._gross, child)
            ),
            dose_rates_usv_per_h=tuple(
                found for child in part.all("DoseRate") for found in self._kept(_dose_rate, child)
            ),
            occupied=_boolean(part.said("OccupancyIndicator")),
            speed_m_per_s=speed,
            remarks=tuple(child.text.strip() for child in part.all("Remark")),
            is_derived=part.name == "DerivedData",
        )

    def _spectrum(self, part: Element) -> Spectrum:
        data = part.first("ChannelData")
        if data is None:
            raise _UnreadError("it has no ChannelData")
        code = data.attributes.get("compressionCode", "None")
        if code not in ("None", "CountedZeroes"):
            raise _UnreadError(f"compression {code[:20]!r} is not known")
        counts = _counts(data.text, has_counted_zeroes=code == "CountedZeroes")
        reference = part.attributes.get("energyCalibrationReference", "")
        energy = self._energies.get(reference)
        if energy is not None and energy.edges_kev and len(energy.edges_kev) != len(counts) + 1:
            if len(energy.edges_kev) != len(counts):
                raise _UnreadError(
                    f"{len(counts)} channels, but {len(energy.edges_kev)} boundaries in {reference}"
                )
            energy = None  # the end of the last channel is not given, so the calibration is not
        return Spectrum(
            id=part.attributes.get("id", ""),
            detector=part.attributes.get("radDetectorInformationReference", ""),
            live_time_s=_optional_duration(part.said("LiveTimeDuration")),
            counts=counts,
            energy=energy,
        )

    def _gross(self, part: Element) -> GrossCounts:
        windows = self._windows.get(part.attributes.get("energyWindowsReference", ""), ())
        counts = _counts(part.said("CountData"), has_counted_zeroes=False)
        if not counts:
            raise _UnreadError("it has no counts")
        return GrossCounts(
            id=part.attributes.get("id", ""),
            detector=part.attributes.get("radDetectorInformationReference", ""),
            live_time_s=_optional_duration(part.said("LiveTimeDuration")),
            counts=counts,
            windows_kev=windows if len(windows) == len(counts) else (),
        )

    def _analysis(self, part: Element) -> Analysis:
        results = part.first("NuclideAnalysisResults")
        return Analysis(
            measurements=tuple(part.attributes.get("radMeasurementReferences", "").split()),
            algorithm=part.said("AnalysisAlgorithmName"),
            status=part.said("AnalysisResultStatusCode"),
            description=part.said("AnalysisResultDescription"),
            confidence=_share(part.said("AnalysisConfidenceValue")),
            alarms=tuple(_alarm(child) for child in part.all("RadAlarm")),
            nuclides=None
            if results is None
            else tuple(_nuclide(child) for child in results.all("Nuclide")),
            faults=tuple(
                Fault(
                    code=child.said("FaultCodeValue"),
                    description=child.said("FaultDescription"),
                    severity=child.said("FaultSeverityCode"),
                )
                for child in part.all("Fault")
            ),
        )


def _instrument(part: Element) -> Instrument:
    return Instrument(
        manufacturer=part.said("RadInstrumentManufacturerName"),
        identifier=part.said("RadInstrumentIdentifier"),
        model=part.said("RadInstrumentModelName"),
        class_code=part.said("RadInstrumentClassCode"),
        versions=tuple(
            (v.said("RadInstrumentComponentName"), v.said("RadInstrumentComponentVersion"))
            for v in part.all("RadInstrumentVersion")
        ),
        characteristics=tuple(_characteristics(part, "RadInstrumentCharacteristics")),
    )


def _characteristics(part: Element, name: str) -> Iterator[Characteristic]:
    for group in part.all(name):
        for one in group.all("Characteristic"):
            yield Characteristic(
                name=one.said("CharacteristicName"),
                value=one.said("CharacteristicValue"),
                unit=one.said("CharacteristicValueUnits"),
            )


def _detector(part: Element) -> Detector:
    return Detector(
        id=part.attributes.get("id", ""),
        name=part.said("RadDetectorName"),
        category=part.said("RadDetectorCategoryCode"),
        kind=part.said("RadDetectorKindCode"),
    )


def _energy(part: Element) -> EnergyCalibration:
    edges = _numbers(part.said("EnergyBoundaryValues"))
    if edges:
        if any(high <= low for low, high in pairwise(edges)):
            raise _UnreadError("its boundaries do not rise")
        return EnergyCalibration(edges_kev=edges)
    coefficients = _numbers(part.said("CoefficientValues"))
    if not any(coefficients[1:]):
        raise _UnreadError("it has neither coefficients nor boundaries")
    return EnergyCalibration(coefficients_kev=coefficients)


def _windows(part: Element) -> tuple[tuple[float, float], ...]:
    starts = _numbers(part.said("WindowStartEnergyValues"))
    ends = _numbers(part.said("WindowEndEnergyValues"))
    if len(starts) != len(ends):
        raise _UnreadError(f"{len(starts)} windows begin and {len(ends)} end")
    return tuple(zip(starts, ends, strict=True))


def _alarm(part: Element) -> RadAlarm:
    return RadAlarm(
        category=part.said("RadAlarmCategoryCode"),
        description=part.said("RadAlarmDescription"),
        detectors=tuple(part.attributes.get("radDetectorInformationReferences", "").split()),
    )


def _nuclide(part: Element) -> Nuclide:
    return Nuclide(
        name=part.said("NuclideName"),
        is_identified=_boolean(part.said("NuclideIdentifiedIndicator")) is True,
        confidence=_share(part.said("NuclideIDConfidenceValue")),
        category=part.said("NuclideCategoryDescription"),
    )


def _speed(part: Element) -> float | None:
    value = part.first("RadItemState", "StateVector", "SpeedValue")
    if value is None:
        return None
    _expect_unit(value, ("m/s",))
    speed = _number(value.text.strip())
    if speed is None or speed < 0:
        raise _UnreadError(f"speed {value.text.strip()[:20]!r} is no figure")
    return speed


def _dose_rate(part: Element) -> float:
    value = part.first("DoseRateValue")
    if value is None:
        raise _UnreadError("it has no DoseRateValue")
    _expect_unit(value, ("uSv/h", "µSv/h", "μSv/h", "microsieverts/h"))
    rate = _number(value.text.strip())
    if rate is None or rate < 0:
        raise _UnreadError(f"dose rate {value.text.strip()[:20]!r} is no figure")
    return rate


def _expect_unit(value: Element, units: tuple[str, ...]) -> None:
    """Refuse a unit attribute that the schema does not allow: the figure would be misread."""
    unit = value.attributes.get("units", units[0])
    if unit not in units:
        raise _UnreadError(f"its unit is {unit[:20]!r}, not {units[0]}")


def _real_time(part: Element) -> float | None:
    text = part.said("RealTimeDuration")
    return duration_s(text) if text else None


def _optional_duration(text: str) -> float | None:
    return duration_s(text) if text else None


def duration_s(text: str) -> float:
    """Return an ISO 8601 duration of days, hours, minutes and seconds [s].

    Raises
    ------
    ValueError
        If it is none (years and months have no fixed length).
    """
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise _UnreadError(f"{text[:40]!r} is no duration")
    days, hours, minutes, seconds = (float(group or 0) for group in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def _moment(text: str) -> tuple[datetime | None, bool]:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None, False
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC), False
    return moment, True


def _boolean(text: str) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(text)


def _number(text: str) -> float | None:
    return float(text) if _NUMBER.fullmatch(text) and math.isfinite(float(text)) else None


def _numbers(text: str) -> tuple[float, ...]:
    fields = text.split()
    if len(fields) > MAX_CHANNELS + 1:
        raise _UnreadError(f"{len(fields)} figures, at most {MAX_CHANNELS + 1} are read")
    numbers = [_number(field) for field in fields]
    found = tuple(number for number in numbers if number is not None)
    if len(found) != len(fields):
        raise _UnreadError(f"{fields[numbers.index(None)][:20]!r} is no figure")
    return found


def _share(text: str) -> float | None:
    value = _number(text)
    if value is None or not 0 <= value <= 100:
        return None
    return value / 100 if value > 1 else value


def _counts(text: str, *, has_counted_zeroes: bool) -> tuple[int, ...]:
    """Return whole counts; a fraction, a sign or an unbounded run is refused."""
    fields = text.split()
    counts: list[int] = []
    numbers = iter(fields)
    for field in numbers:
        count = _count(field)
        if count == 0 and has_counted_zeroes:
            length = _count(next(numbers, ""))
            if length == 0:
                raise _UnreadError("a run of no zeroes")
            if len(counts) + length > MAX_CHANNELS:
                raise _UnreadError(f"more than {MAX_CHANNELS} channels")
            counts += [0] * length
        else:
            counts.append(count)
    if len(counts) > MAX_CHANNELS:
        raise _UnreadError(f"more than {MAX_CHANNELS} channels")
    return tuple(counts)


def _count(field: str) -> int:
    if _COUNT.fullmatch(field) is None:
        raise _UnreadError(f"{field[:20]!r} is no whole count")
    count = int(field) if field.isdigit() else int(float(field))
    if count > MAX_COUNT:
        raise _UnreadError(f"{field[:20]!r} is no count")
    return count
