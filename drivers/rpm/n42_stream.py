"""Instruments that stream N42.42-2012 documents, as the RSI RS-350 does about once a second.

::

    STX <?xml ...?><RadInstrumentData ...> ... </RadInstrumentData> ETX     TCP, nothing is asked
    STX 0x02   ETX 0x03: neither can stand in XML, so either one ends what came before it

What is taken of each document (the elements stand in ``drivers.n42_xml``):

    RadMeasurement   Spectrum of a gamma detector; of several of one detector in one measurement
                     the first, for the others are the same counts in other channels
                     GrossCounts of neutron detectors; of gamma detectors without a spectrum
                     DoseRate [µSv/h], OccupancyIndicator, SpeedValue [m/s]
    AnalysisResults  RadAlarm, NuclideAnalysisResults, Fault
    Characteristic   Battery Charge [%]

Source: ANSI N42.42-2012; the stream of a real RS-350 in the open OSCAR lane software (MPL-2.0):
framing, 1 s documents, battery, two channel layouts per measurement (3 keV a channel, and
0.046 keV times the channel squared).
Quirk: every measurement of that stream is Foreground, whether or not anything stands before the
instrument; so Foreground alone says nothing of the phase unless ``foreground_is_occupied`` is set.
An OccupancyIndicator always does, Background means that nothing is there.
Quirk: the document that brings an alarm repeats the last 3 s as one measurement. One that begins
before what was already given is taken for such a summary: its counts are not given twice.
Quirk: its first document came without STX.
An alarm whose category is none of Gamma, Neutron and Isotope is given once: as the kind of the
detectors it names where they are all gamma or all neutron, otherwise as spectral.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from msgspec import Meta

from drivers.n42_xml import Analysis, Document, GrossCounts, Measurement, RadAlarm, parse_document
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceAlarmKind,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    GammaCounts,
    GammaSpectrum,
    Housekeeping,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    Reading,
    Reason,
    VehiclePresence,
    VehicleSpeed,
    WindowCounts,
)
from drivers.xml_tree import XmlError

GIVES_SPECTRA = True
PRESENCE = "told"
BUFFER_LIMIT_BYTES = 1 << 20
"""A longer document is refused."""
LEAST_BACKGROUND_S = 10.0
"""A shorter background measurement is an interval of counting, not a background."""
SUMMARY_OVERLAP_S = 1.0
"""Starts are given to the second, so an overlap up to this is none."""

_ENDS = re.compile(rb"[\x02\x03]")
_COUNTING = frozenset({"Foreground", "Background", "NotSpecified", ""})
_KINDS: dict[str, DeviceAlarmKind] = {
    "Gamma": "gamma",
    "Neutron": "neutron",
    "Isotope": "spectral",
}
_BATTERY = frozenset({"Battery Charge", "BatteryCharge", "Battery"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the instrument's words mean at this lane."""

    foreground_is_occupied: Annotated[
        bool,
        Meta(
            description="a Foreground measurement without OccupancyIndicator means that a vehicle "
            "is there; false for instruments that call everything Foreground, such as the RS-350"
        ),
    ] = False


class Driver:
    """Documents in, readings out; see ``drivers.base.StreamDriver``."""

    poll_period_s: float | None = None

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = bytearray()
        self._forget()

    def _forget(self) -> None:
        self._buffer.clear()
        self._is_overlong = False
        self._is_first = True
        self._occupied: bool | None = None
        self._given_until: datetime | None = None
        self._faults: frozenset[str] = frozenset()

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished document are kept."""
        return len(self._buffer)

    def poll(self) -> bytes:
        """Return nothing: the instrument just talks."""
        return b""

    def no_reply(self) -> list[Reading]:
        """Return nothing: nothing is asked."""
        return []

    def silence(self) -> list[Reading]:
        """Drop a half document, and what only holds without a gap."""
        half = bytes(self._buffer).strip()
        self._forget()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a document")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return the readings of every document the bytes complete; never raises on input."""
        readings: list[Reading] = []
        *ended, rest = _ENDS.split(data)
        for piece in ended:
            self._extend(piece, readings)
            self._end(readings)
        self._extend(rest, readings)
        return readings

    def _extend(self, piece: bytes, readings: list[Reading]) -> None:
        if self._is_overlong:
            return
        self._buffer += piece
        if len(self._buffer) > BUFFER_LIMIT_BYTES:
            detail = f"no end of a document in {BUFFER_LIMIT_BYTES} bytes"
            readings.append(BadFrame.of(Reason.FLOOD, bytes(self._buffer[:256]), detail))
            self._buffer.clear()
            self._is_overlong = True

    def _end(self, readings: list[Reading]) -> None:
        """Take what stands before an STX or ETX."""
        text = bytes(self._buffer).strip()
        self._buffer.clear()
        self._is_overlong = False
        if not text:
            return
        is_first, self._is_first = self._is_first, False
        try:
            document = parse_document(text)
        except XmlError as exc:
            if is_first:
                detail = "joined in the middle of a document"
                readings.append(BadFrame.of(Reason.TRUNCATED, text, detail))
            else:
                readings.append(BadFrame.of(exc.reason, text, str(exc)))
            return
        if document.unread:
            detail = "; ".join(document.unread)[:500]
            readings.append(BadFrame.of(Reason.RANGE, text, detail))
        readings += self._said(document)

    def _said(self, document: Document) -> Iterator[Reading]:
        ends = [end for m in document.measurements if (end := _end_of(m)) is not None]
        newest = max(ends, default=None)
        for measurement in document.measurements:
            if measurement.class_code not in _COUNTING:
                continue
            yield from self._presence(measurement)
            if not self._is_summary(document, measurement):
                yield from self._counted(document, measurement, newest)
            for rate in measurement.dose_rates_usv_per_h:
                yield DoseRate(usv_per_h=rate)
        if newest is not None and (self._given_until is None or not document.analyses):
            self._given_until = newest
        for analysis in document.analyses:
            yield from _analysed(document, analysis)
        if document.analyses:
            yield from self._fault_changes(document)
        for one in document.instrument.characteristics:
            if one.name in _BATTERY and one.unit == "%" and re.fullmatch(r"[0-9]{1,3}", one.value):
                yield Housekeeping(quantity="battery", value=float(one.value), unit="%")

    def _presence(self, measurement: Measurement) -> Iterator[Reading]:
        if measurement.occupied is not None and measurement.occupied != self._occupied:
            self._occupied = measurement.occupied
            yield VehiclePresence(occupied=measurement.occupied)
        if measurement.speed_m_per_s is not None:
            yield VehicleSpeed(m_per_s=measurement.speed_m_per_s or None)

    def _is_summary(self, document: Document, measurement: Measurement) -> bool:
        """Tell whether a report with an analysis repeats counts of documents before it."""
        until, start = self._given_until, measurement.start
        if until is None or start is None or not document.analyses:
            return False
        if measurement.class_code == "Background":
            return False
        overlap_s = (until - start).total_seconds()
        return SUMMARY_OVERLAP_S < overlap_s <= (measurement.real_time_s or 0) + SUMMARY_OVERLAP_S

    def _phase(self, measurement: Measurement) -> bool | None:
        if measurement.occupied is not None:
            return measurement.occupied
        if measurement.class_code == "Background":
            return False
        is_foreground = measurement.class_code == "Foreground"
        return True if is_foreground and self._options.foreground_is_occupied else None

    def _counted(
        self, document: Document, measurement: Measurement, newest: datetime | None
    ) -> Iterator[Reading]:
        real_time_s = measurement.real_time_s
        if not real_time_s:
            detail = f"measurement {measurement.id[:64]} does not say how long it counted"
            yield BadFrame.of(Reason.RANGE, b"", detail)
            return
        end = _end_of(measurement)
        age_s = 0.0 if end is None or newest is None else (newest - end).total_seconds()
        heard: set[str] = set()
        for spectrum in measurement.spectra:
            if spectrum.detector in heard or _is_neutron(document, spectrum.detector):
                continue
            heard.add(spectrum.detector)
            if spectrum.live_time_s == 0 or not spectrum.counts:
                detail = f"spectrum {spectrum.id[:64]} has no live time or no channels"
                yield BadFrame.of(Reason.RANGE, b"", detail)
                continue
            yield GammaSpectrum(
                detector=spectrum.detector,
                counts=spectrum.counts,
                real_time_s=real_time_s,
                live_time_s=spectrum.live_time_s,
                energy=spectrum.energy,
                occupied=self._phase(measurement),
                age_s=age_s,
            )
        gamma = [
            g
            for g in measurement.gross_counts
            if not _is_neutron(document, g.detector) and g.detector not in heard
        ]
        yield from _gross_gamma(gamma, real_time_s, age_s)
        neutron = [g for g in measurement.gross_counts if _is_neutron(document, g.detector)]
        yield from _neutrons(measurement, neutron, real_time_s, age_s)

    def _fault_changes(self, document: Document) -> Iterator[Reading]:
        """Give the faults that an analysis names, and those that it no longer names."""
        now = {
            f"fault {fault.code}".strip(): f"{fault.severity}: {fault.description}"
            for analysis in document.analyses
            for fault in analysis.faults
        }
        for condition in sorted(self._faults - now.keys()):
            yield DeviceState(condition=condition, active=False)
        for condition, detail in now.items():
            yield DeviceState(condition=condition, active=True, detail=detail)
        self._faults = frozenset(now)


def _end_of(measurement: Measurement) -> datetime | None:
    if measurement.start is None:
        return None
    try:
        return measurement.start + timedelta(seconds=measurement.real_time_s or 0.0)
    except OverflowError:
        return None


def _is_neutron(document: Document, detector: str) -> bool:
    return document.category_of(detector) == "Neutron"


def _gross_gamma(
    counted: list[GrossCounts], real_time_s: float, age_s: float
) -> Iterator[GammaCounts | WindowCounts]:
    """Give what gamma detectors without a spectrum counted, in total or in their windows."""
    if not counted:
        return
    widths = {len(g.counts) for g in counted}
    if widths == {1}:
        counts = tuple(g.counts[0] for g in counted)
        yield GammaCounts(counts=counts, real_time_s=real_time_s, device_alarm=False, age_s=age_s)
    elif len(widths) == 1:
        sums = tuple(map(sum, zip(*(g.counts for g in counted), strict=True)))
        yield WindowCounts(counts=sums, real_time_s=real_time_s, age_s=age_s)


def _neutrons(
    measurement: Measurement, counted: list[GrossCounts], real_time_s: float, age_s: float
) -> Iterator[NeutronCounts | NeutronBackground]:
    if not counted:
        return
    counts = tuple(sum(g.counts) for g in counted)
    time_s = counted[0].live_time_s or real_time_s
    is_background = measurement.class_code == "Background" and not measurement.occupied
    if is_background and time_s >= LEAST_BACKGROUND_S:
        cps = tuple(
            count / (g.live_time_s or real_time_s) for g, count in zip(counted, counts, strict=True)
        )
        yield NeutronBackground(total_cps=sum(cps), rounded_down=False, per_detector_cps=cps)
        return
    yield NeutronCounts(counts=counts, real_time_s=time_s, device_alarm=False, age_s=age_s)


def _analysed(document: Document, analysis: Analysis) -> Iterator[Reading]:
    for alarm in analysis.alarms:
        yield DeviceAlarm(
            kind=_kind(document, alarm),
            code=alarm.category.lower()[:40] or "unknown",
            detail=alarm.description,
        )
    if analysis.nuclides is not None:
        yield DeviceNuclides(
            nuclides=tuple(
                NuclideFound(
                    name=nuclide.name,
                    confidence=nuclide.confidence,
                    category=nuclide.category or None,
                )
                for nuclide in analysis.nuclides
                if nuclide.is_identified
            )
        )


def _kind(document: Document, alarm: RadAlarm) -> DeviceAlarmKind:
    known = _KINDS.get(alarm.category)
    if known is not None:
        return known
    categories = {document.category_of(detector) for detector in alarm.detectors}
    if categories == {"Neutron"}:
        return "neutron"
    return "gamma" if categories == {"Gamma"} else "spectral"
