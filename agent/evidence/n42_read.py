"""N42.42-2012 documents read back: ours, the standard's examples and those of instruments.

Taken as the field sends it: in any order, with prefixes that nobody declared, as Latin-1 though
UTF-8 was said (``drivers.xml_tree``), with STX and ETX around it. Unknown elements are passed over
and what is missing is None; a figure that is none, or a spectrum beyond the bounds, refuses the
document: nothing is guessed. ``DerivedData`` repeats what was measured and is passed over.
NuclideIDConfidenceValue is a percentage by the schema and ``0.91`` in its annex E: in foreign
documents what is not above 1 is taken as a fraction.

Source: ANSI N42.42-2012 schema 0.0.54; its annexes B, D and E.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final, cast, get_args

from agent.evidence import n42
from agent.evidence.n42_words import (
    Analysis,
    Detector,
    Fault,
    GrossCounts,
    Instrument,
    Item,
    Measurement,
    MeasurementClass,
    N42Event,
    RadAlarm,
    Setting,
    Spectrum,
)
from drivers.readings import EnergyCalibration, NuclideFound
from drivers.xml_tree import Element, XmlError, decoded, parse_tree

DOCUMENT_LIMIT_BYTES: Final = 16 << 20
CHANNEL_LIMIT: Final = 65_536
_DURATION: Final = re.compile(
    r"P(?:(\d{1,5})D)?(?:T(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,9}(?:\.\d{0,18})?)S)?)?"
)
_MOMENT: Final = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.(\d{1,18}))?(Z|[+-]\d\d:\d\d)?")
_NUMBER: Final = re.compile(r"[+-]?(?:\d{1,25}\.?\d{0,25}|\.\d{1,25})(?:[eE][+-]?\d{1,3})?")
_FINDINGS: Final = re.compile(
    r"(?:p = ([^;]+))?(?:; )?(?:statistic = ([^;]+))?(?:; )?(.*)", re.DOTALL
)
_AROUND: Final = b"\x00\x02\x03 \t\r\n"
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document cannot be read: one sentence with what was seen."""

    text: str


class _UnreadableError(ValueError):
    """A part of the document is not what its element says; never leaves this module."""


def read_n42(data: bytes) -> N42Event | Problem:
    """Return the event of one document, or in a sentence why there is none.

    A time without a zone is taken as UTC.
    """
    data = data.strip(_AROUND)
    if len(data) > DOCUMENT_LIMIT_BYTES:
        return Problem(f"{len(data)} bytes, the limit is {DOCUMENT_LIMIT_BYTES}")
    try:
        root = parse_tree(decoded(data), (n42.NAMESPACE,))
    except XmlError as exc:
        return Problem(str(exc))
    if root.name != "RadInstrumentData":
        return Problem(f"its root is {root.name[:40]!r}; expected N42.42-2012's RadInstrumentData")
    try:
        return _Reader(root).event()
    except _UnreadableError as exc:
        return Problem(str(exc))


class _Reader:
    """Resolves the references of one document."""

    def __init__(self, root: Element) -> None:
        self._root = root
        self._detectors = _detectors(root)
        self._is_ours = (_words(root, "RadInstrumentDataCreatorName") or "").startswith(
            "checkpointd"
        )
        self._energies = {
            each.attributes.get("id"): _energy(each) for each in root.all("EnergyCalibration")
        }
        self._windows = {
            each.attributes.get("id"): _windows(each) for each in root.all("EnergyWindows")
        }

    def event(self) -> N42Event:
        root = self._root
        created = root.attributes.get("n42DocDateTime")
        item = root.first("RadItemInformation")
        return N42Event(
            document_id=root.attributes.get("n42DocUUID", ""),
            created_us=None if created is None else _moment_us(created, "n42DocDateTime"),
            creator=_words(root, "RadInstrumentDataCreatorName"),
            instrument=_instrument(root.first("RadInstrumentInformation")),
            detectors=tuple(self._detectors.values()),
            item=None if item is None else _item(item),
            measurements=tuple(self._measurement(m) for m in root.all("RadMeasurement")),
            analyses=tuple(self._analysis(each) for each in root.all("AnalysisResults")),
        )

    def _measurement(self, within: Element) -> Measurement:
        real_time_s = _seconds(within, "RealTimeDuration")
        if real_time_s is None or real_time_s <= 0:
            raise _UnreadableError(f"{_named(within)}: its RealTimeDuration is missing or zero")
        kind = _words(within, "MeasurementClassCode")
        return Measurement(
            kind=cast("MeasurementClass", kind)
            if kind in get_args(MeasurementClass)
            else "NotSpecified",
            start_us=_moment_us(_needed(within, "StartDateTime"), _named(within)),
            real_time_s=real_time_s,
            spectra=tuple(self._spectrum(each) for each in within.all("Spectrum")),
            gross_counts=tuple(self._gross(each) for each in within.all("GrossCounts")),
            dose_usv_per_h=tuple(
                (self._name(each), _number(_needed(each, "DoseRateValue"), _named(each)))
                for each in within.all("DoseRate")
                if each.first("DoseRateValue") is not None
            ),
            occupied=_truth(within, "OccupancyIndicator"),
            speed_m_per_s=_optional(within, "RadItemState/StateVector/SpeedValue"),
        )

    def _spectrum(self, within: Element) -> Spectrum:
        reference = within.attributes.get("energyCalibrationReference")
        data = within.first("ChannelData")
        is_packed = data is not None and data.attributes.get("compressionCode") == "CountedZeroes"
        counts = _counts(_needed(within, "ChannelData"), _named(within))
        counts = _unpacked(counts, _named(within)) if is_packed else counts
        energy = self._energies.get(reference or "")
        edges = () if energy is None else energy.edges_kev
        if edges and len(edges) == len(counts):  # a writer that leaves the end of the last out
            energy = None
        elif edges and len(edges) != len(counts) + 1:
            raise _UnreadableError(f"{_named(within)}: {len(counts)} channels, {len(edges)} edges")
        return Spectrum(
            detector=self._name(within),
            counts=counts,
            live_time_s=_live_time_s(within),
            energy=energy,
        )

    def _gross(self, within: Element) -> GrossCounts:
        windows = self._windows.get(within.attributes.get("energyWindowsReference", ""), ())
        counts = _counts(_needed(within, "CountData"), _named(within))
        return GrossCounts(
            detector=self._name(within),
            counts=counts,
            live_time_s=_live_time_s(within),
            windows_kev=windows if len(windows) == len(counts) else (),
        )

    def _name(self, within: Element) -> str:
        """Return the detector's name; the only one needs no reference."""
        reference = within.attributes.get("radDetectorInformationReference")
        if reference is None and len(self._detectors) == 1:
            return next(iter(self._detectors.values())).name
        return self._called(reference or "")

    def _called(self, reference: str) -> str:
        detector = self._detectors.get(reference)
        return reference if detector is None else detector.name

    def _analysis(self, within: Element) -> Analysis:
        started = _words(within, "AnalysisStartDateTime")
        p, statistic, description = _findings(within)
        return Analysis(
            algorithm=_words(within, "AnalysisAlgorithmName"),
            version=_words(within, "AnalysisAlgorithmVersion/AnalysisAlgorithmComponentVersion"),
            settings=tuple(_setting(s) for s in within.all("AnalysisAlgorithmSetting")),
            started_us=None if started is None else _moment_us(started, "AnalysisStartDateTime"),
            duration_s=_seconds(within, "AnalysisComputationDuration"),
            succeeded=_words(within, "AnalysisResultStatusCode") != "Failure",
            p=p,
            statistic=statistic,
            description=description,
            alarms=tuple(self._alarm(each) for each in within.all("RadAlarm")),
            nuclides=tuple(
                _nuclide(each, is_ours=self._is_ours)
                for each in _nuclides(within)
                if _truth(each, "NuclideIdentifiedIndicator") is not False
            ),
            faults=tuple(_fault(each) for each in within.all("Fault")),
        )

    def _alarm(self, within: Element) -> RadAlarm:
        at = _words(within, "RadAlarmDateTime")
        references = within.attributes.get("radDetectorInformationReferences", "").split()
        is_named = _words(within, "Remark") != n42.NO_DETECTORS
        return RadAlarm(
            category=_words(within, "RadAlarmCategoryCode") or "Other",
            detectors=tuple(self._called(each) for each in references if is_named),
            description=_words(within, "RadAlarmDescription"),
            at_us=None if at is None else _moment_us(at, "RadAlarmDateTime"),
        )


def _instrument(within: Element | None) -> Instrument:
    if within is None:
        return Instrument(manufacturer="", model="", class_code="Other", versions=())
    return Instrument(
        manufacturer=_words(within, "RadInstrumentManufacturerName") or "",
        model=_words(within, "RadInstrumentModelName") or "",
        class_code=_words(within, "RadInstrumentClassCode") or "Other",
        versions=tuple(
            (
                _words(each, "RadInstrumentComponentName") or "",
                _words(each, "RadInstrumentComponentVersion") or "",
            )
            for each in within.all("RadInstrumentVersion")
        ),
        identifier=_words(within, "RadInstrumentIdentifier"),
    )


def _detectors(root: Element) -> dict[str, Detector]:
    """Return the detectors by their ids; a name that two of them bear gives way to the id."""
    found = {}
    names = Counter(each.said("RadDetectorName") for each in root.all("RadDetectorInformation"))
    for within in root.all("RadDetectorInformation"):
        is_unique = names[within.said("RadDetectorName")] == 1
        found[_id(within)] = _detector(within, is_unique=is_unique)
    return found


def _detector(within: Element, *, is_unique: bool) -> Detector:
    name = _words(within, "RadDetectorName") if is_unique else None
    return Detector(
        name=name or _id(within),
        category=_words(within, "RadDetectorCategoryCode") or "Other",
        kind=_words(within, "RadDetectorKindCode") or "Other",
        description=_words(within, "RadDetectorDescription"),
    )


def _item(within: Element) -> Item | None:
    named = [
        (_words(each, "CharacteristicName") or "", _words(each, "CharacteristicValue") or "")
        for each in _characteristics(within)
    ]
    ours = dict(named)
    item = Item(
        description=_words(within, "RadItemDescription"),
        passage_id=ours.get(n42.PASSAGE),
        lane=ours.get(n42.LANE),
        characteristics=tuple(pair for pair in named if pair[0] not in (n42.PASSAGE, n42.LANE)),
    )
    return None if item == Item() else item


def _characteristics(item: Element) -> Iterator[Element]:
    for group in item.all("RadItemCharacteristics"):
        yield from group.all("Characteristic")
        for inner in group.all("CharacteristicGroup"):
            yield from inner.all("Characteristic")


def _nuclides(analysis: Element) -> Iterator[Element]:
    for group in analysis.all("NuclideAnalysisResults"):
        yield from group.all("Nuclide")


def _setting(within: Element) -> Setting:
    return Setting(
        name=_words(within, "AnalysisAlgorithmSettingName") or "",
        value=_words(within, "AnalysisAlgorithmSettingValue") or "",
        unit=_words(within, "AnalysisAlgorithmSettingUnits") or "unit-less",
    )


def _nuclide(within: Element, *, is_ours: bool) -> NuclideFound:
    text = _words(within, "NuclideIDConfidenceValue")
    confidence = None
    if text is not None:
        is_fraction = _number(text, "NuclideIDConfidenceValue") <= 1 and not is_ours
        confidence = float(Decimal(text) / (1 if is_fraction else 100))
    return NuclideFound(
        name=_words(within, "NuclideName") or "",
        confidence=confidence,
        category=_words(within, "NuclideCategoryDescription"),
    )


def _fault(within: Element) -> Fault:
    severity = _words(within, "FaultSeverityCode")
    return Fault(
        code=_words(within, "FaultCodeValue") or "",
        description=_words(within, "FaultDescription") or "",
        severity="Fatal" if severity == "Fatal" else "Error" if severity == "Error" else "Warning",
    )


def _energy(within: Element) -> EnergyCalibration | None:
    edges = _floats(within, "EnergyBoundaryValues")
    if edges:
        return EnergyCalibration(edges_kev=edges)
    coefficients = _floats(within, "CoefficientValues")
    return EnergyCalibration(coefficients_kev=coefficients) if any(coefficients) else None


def _windows(within: Element) -> tuple[tuple[float, float], ...]:
    lows = _floats(within, "WindowStartEnergyValues")
    highs = _floats(within, "WindowEndEnergyValues")
    return tuple(zip(lows, highs, strict=False)) if len(lows) == len(highs) else ()


def _findings(within: Element) -> tuple[float | None, float | None, str | None]:
    """Return p, statistic and text of ``p = 1e-06; statistic = 12.5; text``."""
    text = _words(within, "AnalysisResultDescription")
    match = None if text is None else _FINDINGS.fullmatch(text)
    if match is None:
        return None, None, text
    figures = [None if each is None else _NUMBER.fullmatch(each) for each in match.groups()[:2]]
    if any(
        figure is None and given for figure, given in zip(figures, match.groups(), strict=False)
    ):
        return None, None, text
    p, statistic = (None if figure is None else float(figure[0]) for figure in figures)
    return p, statistic, match[3] or None


def _live_time_s(within: Element) -> float | None:
    if _words(within, "Remark") == n42.NO_LIVE_TIME:
        return None
    return _seconds(within, "LiveTimeDuration")


# ---------------------------------------------------------------- the schema's simple types


def _words(within: Element, path: str) -> str | None:
    return within.said(*path.split("/")).replace("\u00a0", " ").strip() or None


def _needed(within: Element, path: str) -> str:
    text = within.said(path)
    if not text:
        raise _UnreadableError(f"{_named(within)}: its {path} is missing")
    return text


def _id(within: Element) -> str:
    return within.attributes.get("id", "")


def _named(within: Element) -> str:
    return f"{within.name} {within.attributes.get('id', 'without id')[:60]!r}"


def _truth(within: Element, path: str) -> bool | None:
    return {"true": True, "1": True, "false": False, "0": False}.get(_words(within, path) or "")


def _number(text: str, where: str) -> float:
    if _NUMBER.fullmatch(text) is None or not math.isfinite(value := float(text)):
        raise _UnreadableError(f"{where}: {text[:40]!r} is no number")
    return value


def _optional(within: Element, path: str) -> float | None:
    text = _words(within, path)
    return None if text is None else _number(text, path)


def _floats(within: Element, path: str) -> tuple[float, ...]:
    texts = within.said(path).split()
    if len(texts) > CHANNEL_LIMIT + 1:
        raise _UnreadableError(f"{_named(within)}: more than {CHANNEL_LIMIT} channels")
    return tuple(_number(text, _named(within)) for text in texts)


def _counts(text: str, where: str) -> tuple[int, ...]:
    """Return whole counts; ``5.0`` is one, ``5.5`` is none and is refused."""
    texts = text.split()
    if len(texts) > 2 * CHANNEL_LIMIT:
        raise _UnreadableError(f"{where}: more than {CHANNEL_LIMIT} channels")
    counts = []
    for each in texts:
        is_plain = len(each) < 16 and each.isascii() and each.isdigit()
        value = int(each) if is_plain else _number(each, where)
        if value < 0 or value > 2**53 or value != int(value):
            raise _UnreadableError(f"{where}: {each[:40]!r} is no count")
        counts.append(int(value))
    return tuple(counts)


def _unpacked(packed: tuple[int, ...], where: str) -> tuple[int, ...]:
    """Return the counts of ``CountedZeroes``: a zero is followed by how many there are."""
    counts: list[int] = []
    figures = iter(packed)
    for figure in figures:
        run = next(figures, 0) if figure == 0 else 1
        if run < 1 or len(counts) + run > CHANNEL_LIMIT:
            raise _UnreadableError(f"{where}: a run of {run} zeroes after channel {len(counts)}")
        counts += [figure] * run
    return tuple(counts)


def _seconds(within: Element, path: str) -> float | None:
    text = _words(within, path)
    if text is None:
        return None
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise _UnreadableError(f"{_named(within)}: {path} {text[:40]!r} is no duration")
    days, hours, minutes, seconds = (Decimal(each or 0) for each in match.groups())
    return float(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)


def _moment_us(text: str, where: str) -> int:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise _UnreadableError(f"{where}: {text[:40]!r} is no moment")
    try:
        moment = datetime.fromisoformat(match[1] + (match[3] or "Z"))
        whole_us = round((moment - _UNIX) / timedelta(microseconds=1))
    except (ValueError, OverflowError) as exc:
        raise _UnreadableError(f"{where}: {text[:40]!r} is no moment") from exc
    return whole_us + round(Decimal("0." + (match[2] or "0")) * 1_000_000)
