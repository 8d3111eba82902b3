"""N42.42-2012: what one event looked like, and the file that another laboratory can read.

The schema fixes the order of elements, and so does this writer; nothing is checked against it at
run time. Deterministic: one event, one byte string. Pure: no clock, no file.

What the schema cannot say is said in a ``Remark`` that ``agent.evidence.n42_read`` knows: a live
time that the device did not give (``LiveTimeDuration`` is mandatory; the real time stands there),
an alarm whose detectors nobody named (the reference is mandatory; all of its kind stand there), a
spectrum without an energy calibration (the reference is mandatory; it leads to an empty one).

Sources: ANSI N42.42-2012 schema 0.0.54 and the examples of its annexes B, D and E (NIST,
physics.nist.gov/N42/2011/N42). Readers of the field, measured on SpecUtils (SandiaSpecUtils
0.0.11): gamma ``GrossCounts`` are dropped without a word, so energy windows are written as a
``Spectrum`` of as many channels; a neutron detector called ``Aa1N`` is taken as part of ``Aa1``.
"""

from __future__ import annotations

import re
import uuid
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Final
from xml.etree import ElementTree as ET

from agent.evidence.n42_words import (
    Analysis,
    Detector,
    Fault,
    Instrument,
    Item,
    Measurement,
    N42Event,
    RadAlarm,
    Spectrum,
)
from drivers.readings import EnergyCalibration, NuclideFound

NAMESPACE: Final = "http://physics.nist.gov/N42/2011/N42"
MEDIA_TYPE: Final = "application/xml"
CREATOR: Final = "checkpointd"
"""What the creator's name of a document of ours begins with."""
NO_LIVE_TIME: Final = "live time not given by the device; the real time stands here"
NO_ENERGY: Final = "not calibrated"
NO_DETECTORS: Final = "detectors not named; all of this kind stand here"
NO_CONFIDENCE: Final = "not given"
PASSAGE: Final = "PassageIdentifier"
LANE: Final = "Lane"

_NANOSECOND: Final = Decimal("1e-9")
_UNIX: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UUIDS: Final = uuid.UUID("8d0c1f0e-6a3f-5c52-9a51-6a6f2f0f4e42")
"""The name space of the documents' UUIDs (RFC 9562, version 5)."""
_ILLEGAL: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ID: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")
_OUR_ID: Final = re.compile(r"(m|energy|windows|detector)\d+(\.[sgd]\d+)?|item|instrument")
_NON_BLANK: Final = re.compile(r"(?:[^\W_]| )*\S+(?:[^\W_]| )*")


def document_id(name: str) -> str:
    """Return the UUID of the document about ``site/gw/alarm_id`` (RFC 9562, 5.5: name-based)."""
    return str(uuid.uuid5(_UUIDS, name))


def n42_event(event: N42Event) -> bytes:
    """Return the event as an N42.42-2012 document in UTF-8, valid against its schema.

    Parameters
    ----------
    event : its class and kind codes must be the schema's words, its energies at or above 0 keV
        where given as edges, its real times above 0; a calibration polynomial of more than three
        terms is written as the edges it gives

    Raises
    ------
    ValueError
        If a measurement or alarm names a detector that the event does not have, or an event
        has no detector: the caller is at fault.
    """
    return _Document(event).serialise()


class _Document:
    """Gives the parts their ids, and keeps the order of the schema."""

    def __init__(self, event: N42Event) -> None:
        if not event.detectors:
            raise ValueError("an N42 document names at least one detector")
        self._event = event
        self._ids = _detector_ids(event.detectors)
        self._calibrations: dict[tuple[EnergyCalibration | None, int], str] = {}
        self._windows: dict[tuple[tuple[float, float], ...], str] = {}
        self._root = ET.Element("RadInstrumentData", xmlns=NAMESPACE, n42DocUUID=event.document_id)

    def serialise(self) -> bytes:
        event, root = self._event, self._root
        if event.created_us is not None:
            root.set("n42DocDateTime", _moment(event.created_us))
        if event.creator is not None:
            _add(root, "RadInstrumentDataCreatorName", _token(event.creator))
        self._add_instrument(event.instrument)
        for detector in event.detectors:
            self._add_detector(detector)
        has_speed = any(each.speed_m_per_s is not None for each in event.measurements)
        if event.item is not None or has_speed:  # a speed is an item's
            self._add_item(event.item or Item())
        self._add_references()
        for number, measurement in enumerate(event.measurements, 1):
            self._add_measurement(f"m{number}", measurement)
        for analysis in event.analyses:
            self._add_analysis(analysis)
        ET.indent(root, " ")
        text = ET.tostring(root, encoding="unicode", short_empty_elements=True)
        return b'<?xml version="1.0" encoding="UTF-8"?>\n' + text.encode() + b"\n"

    def _add_instrument(self, instrument: Instrument) -> None:
        within = _add(self._root, "RadInstrumentInformation", id="instrument")
        _add(within, "RadInstrumentManufacturerName", _token(instrument.manufacturer))
        if instrument.identifier is not None:
            _add(within, "RadInstrumentIdentifier", _token(instrument.identifier))
        _add(within, "RadInstrumentModelName", _token(instrument.model))
        _add(within, "RadInstrumentClassCode", instrument.class_code)
        for component, version in instrument.versions or (("Software", "unknown"),):
            part = _add(within, "RadInstrumentVersion")
            _add(part, "RadInstrumentComponentName", _token(component))
            _add(part, "RadInstrumentComponentVersion", _token(version))

    def _add_detector(self, detector: Detector) -> None:
        within = _add(self._root, "RadDetectorInformation", id=self._ids[detector.name])
        _add(within, "RadDetectorName", _text(detector.name))
        _add(within, "RadDetectorCategoryCode", detector.category)
        _add(within, "RadDetectorKindCode", detector.kind)
        if detector.description is not None:
            _add(within, "RadDetectorDescription", _text(detector.description))

    def _add_item(self, item: Item) -> None:
        within = _add(self._root, "RadItemInformation", id="item")
        if item.description is not None:
            _add(within, "RadItemDescription", _text(item.description))
        ours = ((PASSAGE, item.passage_id), (LANE, item.lane))
        named = [(name, value) for name, value in ours if value is not None]
        named += item.characteristics
        if not named:
            return
        group = _add(within, "RadItemCharacteristics")
        for name, value in named:
            part = _add(group, "Characteristic")
            _add(part, "CharacteristicName", _token(name))
            _add(part, "CharacteristicValue", _token(value))
            _add(part, "CharacteristicValueUnits", "unit-less")
            _add(part, "CharacteristicValueDataClassCode", "string")

    def _add_references(self) -> None:
        """Write the calibrations and windows that the measurements refer to, each once."""
        for measurement in self._event.measurements:
            for spectrum in measurement.spectra:
                self._calibration_id(spectrum)
            for gross in measurement.gross_counts:
                self._windows_id(gross.windows_kev)

    def _calibration_id(self, spectrum: Spectrum) -> str:
        energy = spectrum.energy
        must_expand = energy is not None and len(energy.coefficients_kev) > 3
        key = (energy, len(spectrum.counts) if must_expand else 0)
        if key in self._calibrations:
            return self._calibrations[key]
        name = self._calibrations[key] = f"energy{len(self._calibrations) + 1}"
        within = _add(self._root, "EnergyCalibration", id=name)
        if energy is None:
            _add(within, "Remark", NO_ENERGY)
        elif energy.edges_kev or must_expand:
            edges = energy.edges_kev or _edges_kev(energy.coefficients_kev, len(spectrum.counts))
            _add(within, "EnergyBoundaryValues", _numbers(edges))
        else:
            padded = (*energy.coefficients_kev, 0.0, 0.0, 0.0)[:3]
            _add(within, "CoefficientValues", _numbers(padded))
        return name

    def _windows_id(self, windows_kev: tuple[tuple[float, float], ...]) -> str | None:
        if not windows_kev:
            return None
        if windows_kev not in self._windows:
            name = self._windows[windows_kev] = f"windows{len(self._windows) + 1}"
            within = _add(self._root, "EnergyWindows", id=name)
            _add(within, "WindowStartEnergyValues", _numbers([low for low, _ in windows_kev]))
            _add(within, "WindowEndEnergyValues", _numbers([high for _, high in windows_kev]))
        return self._windows[windows_kev]

    def _add_measurement(self, name: str, measurement: Measurement) -> None:
        within = _add(self._root, "RadMeasurement", id=name)
        _add(within, "MeasurementClassCode", measurement.kind)
        _add(within, "StartDateTime", _moment(measurement.start_us))
        _add(within, "RealTimeDuration", _duration(measurement.real_time_s))
        for number, spectrum in enumerate(measurement.spectra, 1):
            part = _add(
                within,
                "Spectrum",
                id=f"{name}.s{number}",
                radDetectorInformationReference=self._detector_id(spectrum.detector),
                energyCalibrationReference=self._calibration_id(spectrum),
            )
            _add_live_time(part, spectrum.live_time_s, measurement.real_time_s)
            counts = _add(part, "ChannelData", _counted_zeroes(spectrum.counts))
            counts.set("compressionCode", "CountedZeroes")
        for number, gross in enumerate(measurement.gross_counts, 1):
            part = _add(
                within,
                "GrossCounts",
                id=f"{name}.g{number}",
                radDetectorInformationReference=self._detector_id(gross.detector),
            )
            windows = self._windows_id(gross.windows_kev)
            if windows is not None:
                part.set("energyWindowsReference", windows)
            _add_live_time(part, gross.live_time_s, measurement.real_time_s)
            _add(part, "CountData", " ".join(map(str, gross.counts)))
        for number, (detector, usv_per_h) in enumerate(measurement.dose_usv_per_h, 1):
            part = _add(
                within,
                "DoseRate",
                id=f"{name}.d{number}",
                radDetectorInformationReference=self._detector_id(detector),
            )
            _add(part, "DoseRateValue", _number(usv_per_h), units="uSv/h")
        self._add_item_state(within, measurement)

    def _add_item_state(self, within: ET.Element, measurement: Measurement) -> None:
        if measurement.speed_m_per_s is not None:
            state = _add(within, "RadItemState", radItemInformationReference="item")
            vector = _add(state, "StateVector")
            _add(vector, "SpeedValue", _number(measurement.speed_m_per_s), units="m/s")
        if measurement.occupied is not None:
            _add(within, "OccupancyIndicator", str(measurement.occupied).lower())

    def _add_analysis(self, analysis: Analysis) -> None:
        within = _add(self._root, "AnalysisResults")
        measured = enumerate(self._event.measurements, 1)
        judged = [f"m{number}" for number, each in measured if each.kind == "Foreground"]
        if judged:
            within.set("radMeasurementReferences", " ".join(judged))
        if analysis.started_us is not None:
            _add(within, "AnalysisStartDateTime", _moment(analysis.started_us))
        if analysis.duration_s is not None:
            _add(within, "AnalysisComputationDuration", _duration(analysis.duration_s))
        _add_algorithm(within, analysis)
        _add(within, "AnalysisResultStatusCode", "Success" if analysis.succeeded else "Failure")
        found = _findings(analysis)
        if found:
            _add(within, "AnalysisResultDescription", found)
        for alarm in analysis.alarms:
            self._add_alarm(within, alarm)
        if analysis.nuclides:
            group = _add(within, "NuclideAnalysisResults")
            for nuclide in analysis.nuclides:
                _add_nuclide(group, nuclide)
        for fault in analysis.faults:
            _add_fault(within, fault)

    def _add_alarm(self, within: ET.Element, alarm: RadAlarm) -> None:
        part = _add(within, "RadAlarm")
        names = alarm.detectors
        if not names:
            _add(part, "Remark", NO_DETECTORS)
            wanted = "Neutron" if alarm.category == "Neutron" else "Gamma"
            alike = tuple(d.name for d in self._event.detectors if d.category == wanted)
            names = alike or tuple(d.name for d in self._event.detectors)
        ids = " ".join(self._detector_id(name) for name in names)
        part.set("radDetectorInformationReferences", ids)
        if alarm.at_us is not None:
            _add(part, "RadAlarmDateTime", _moment(alarm.at_us))
        _add(part, "RadAlarmCategoryCode", alarm.category)
        if alarm.description is not None:
            _add(part, "RadAlarmDescription", _text(alarm.description))

    def _detector_id(self, name: str) -> str:
        if name not in self._ids:
            raise ValueError(f"detector {name!r} is named and not described")
        return self._ids[name]


def _detector_ids(detectors: tuple[Detector, ...]) -> dict[str, str]:
    """Return each detector's id: its name where that can be one, as readers show the id."""
    ids = {
        each.name: each.name
        if _ID.fullmatch(each.name) and not _OUR_ID.fullmatch(each.name)
        else f"detector{number}"
        for number, each in enumerate(detectors, 1)
    }
    if len(ids) != len(detectors):
        raise ValueError("two detectors have one name")
    return ids


def _add(within: ET.Element, tag: str, text: str | None = None, **attributes: str) -> ET.Element:
    part = ET.SubElement(within, tag, attributes)
    part.text = text
    return part


def _add_live_time(within: ET.Element, live_time_s: float | None, real_time_s: float) -> None:
    if live_time_s is None:
        _add(within, "Remark", NO_LIVE_TIME)
    _add(within, "LiveTimeDuration", _duration(real_time_s if live_time_s is None else live_time_s))


def _add_algorithm(within: ET.Element, analysis: Analysis) -> None:
    if analysis.algorithm is not None:
        _add(within, "AnalysisAlgorithmName", _text(analysis.algorithm))
    if analysis.version is not None:
        part = _add(within, "AnalysisAlgorithmVersion")
        _add(part, "AnalysisAlgorithmComponentName", "main")
        _add(part, "AnalysisAlgorithmComponentVersion", _token(analysis.version))
    for setting in analysis.settings:
        part = _add(within, "AnalysisAlgorithmSetting")
        _add(part, "AnalysisAlgorithmSettingName", _token(setting.name))
        _add(part, "AnalysisAlgorithmSettingValue", _token(setting.value))
        _add(part, "AnalysisAlgorithmSettingUnits", _token(setting.unit))


def _add_fault(within: ET.Element, fault: Fault) -> None:
    part = _add(within, "Fault")
    _add(part, "FaultCodeValue", _text(fault.code))
    _add(part, "FaultDescription", _text(fault.description))
    _add(part, "FaultSeverityCode", fault.severity)


def _add_nuclide(within: ET.Element, nuclide: NuclideFound) -> None:
    part = _add(within, "Nuclide")
    _add(part, "NuclideIdentifiedIndicator", "true")
    _add(part, "NuclideName", _token(nuclide.name))
    if nuclide.confidence is None:
        _add(part, "NuclideIDConfidenceDescription", NO_CONFIDENCE)
    else:
        percent = (Decimal(repr(nuclide.confidence)) * 100).normalize()
        text = format(percent, "f") if percent >= 1 else str(percent)
        _add(part, "NuclideIDConfidenceValue", text)
    if nuclide.category is not None:
        _add(part, "NuclideCategoryDescription", _text(nuclide.category))


def _findings(analysis: Analysis) -> str:
    """Return ``p = 1e-06; statistic = 12.5; text``: no element of the schema holds a p-value."""
    parts = []
    if analysis.p is not None:
        parts.append(f"p = {analysis.p!r}")
    if analysis.statistic is not None:
        parts.append(f"statistic = {analysis.statistic!r}")
    if analysis.description is not None:
        parts.append(_text(analysis.description))
    return "; ".join(parts)


def _edges_kev(coefficients_kev: tuple[float, ...], channels: int) -> list[float]:
    """Return the lower edge of each channel and the end of the last, none below 0."""
    edges = []
    for channel in range(channels + 1):
        edge = 0.0
        for coefficient in reversed(coefficients_kev):
            edge = edge * channel + coefficient
        edges.append(max(0.0, edge))
    return edges


def _counted_zeroes(counts: tuple[int, ...]) -> str:
    """Return the counts with each run of zeroes as ``0 n`` (schema, CompressionCodeSimpleType)."""
    parts = []
    zeroes = 0
    for count in counts:
        if count == 0:
            zeroes += 1
            continue
        if zeroes:
            parts.append(f"0 {zeroes}")
            zeroes = 0
        parts.append(str(count))
    if zeroes:
        parts.append(f"0 {zeroes}")
    return " ".join(parts)


def _moment(utc_us: int) -> str:
    moment = _UNIX + timedelta(microseconds=utc_us)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def _duration(seconds: float) -> str:
    nanoseconds = Decimal(repr(float(seconds))).quantize(_NANOSECOND)
    return f"PT{format(nanoseconds.normalize(), 'f')}S"


def _number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _numbers(values: tuple[float, ...] | list[float]) -> str:
    return " ".join(map(_number, values))


def _text(text: str) -> str:
    """Return the text with what XML 1.0 cannot hold replaced."""
    return _ILLEGAL.sub("\ufffd", text).strip()


def _token(text: str) -> str:
    """Return the text for an element of NonBlankStringSimpleType.

    Its pattern takes signs that are no letters in one place only, so ``A & B Ltd.`` is refused.
    With no-break spaces such a text is one run of non-blank signs, and looks the same.
    """
    text = " ".join(_text(text).split()) or "unknown"
    return text if _NON_BLANK.fullmatch(text) else text.replace(" ", "\u00a0")
