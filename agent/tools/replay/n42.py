"""N42 files read back for a replay: what was measured, at the moments at which it was.

One document is one event: ours, or another program's. Each measurement gives its readings at its
end, and the presence of a vehicle at its beginning. Documents between STX and ETX are an
instrument's stream: they go through the driver that reads it live (``drivers.rpm.n42_stream``), at
the end of what they measured.

A measurement is *occupied* by its OccupancyIndicator; without one only Background says something:
that nothing is there. Unoccupied counts are the device's background. Of several spectra of one
detector in a measurement the first is taken (the others are the same counts in other channels, as
the RS-350 sends them), and gross counts only of gamma detectors without a spectrum. A plastic
detector's few channels are energy windows, summed over the detectors.

A document that checkpointd wrote ends with the agent's own analysis. It is passed over: a replay
decides again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from agent.evidence.n42 import CREATOR
from agent.evidence.n42_read import Problem, read_n42
from agent.evidence.n42_words import Measurement, N42Event, RadAlarm, Spectrum
from agent.tools.replay.recording import CapturedReadings, RecordingError
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceAlarmKind,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    Reading,
    Reason,
    VehiclePresence,
    VehicleSpeed,
    WindowBackground,
    WindowCounts,
)
from drivers.rpm.n42_stream import Driver, Options

FILE_LIMIT_BYTES: Final = 256 << 20
WINDOWS_LIMIT: Final = 16
"""A plastic detector with more channels than this has a spectrum."""
_PLASTIC: Final = frozenset({"PVT", "PS"})
_FRAME: Final = re.compile(rb"[\x02\x03]")
_ALARMS: Final[dict[str, DeviceAlarmKind]] = {"Gamma": "gamma", "Neutron": "neutron"}


def is_n42(head: bytes) -> bool:
    """Return whether a file that begins so may be N42: XML, perhaps in a stream's frame."""
    return head.lstrip(b"\xef\xbb\xbf\x02 \t\r\n").startswith(b"<")


def read_n42_file(path: Path, device: str) -> Iterator[CapturedReadings]:
    """Yield what the file's documents say, in the order of time, as readings of one device.

    Raises
    ------
    RecordingError
        If the file is one document and cannot be read, or holds none that can be.
    OSError
        If it cannot be read.
    """
    if path.stat().st_size > FILE_LIMIT_BYTES:
        raise RecordingError(
            f"{path}: larger than {FILE_LIMIT_BYTES} bytes; cut it, or replay a capture"
        )
    data = path.read_bytes()
    documents = [piece for piece in _FRAME.split(data) if piece.strip()]
    if len(documents) > 1:
        yield from _stream(path, documents, device)
        return
    event = read_n42(data)
    if isinstance(event, Problem):
        raise RecordingError(f"{path}: no N42 document: {event.text}")
    yield from event_readings(event, device)


def event_readings(event: N42Event, device: str) -> Iterator[CapturedReadings]:
    """Yield the readings of one event in the order of time."""
    found: list[tuple[int, Reading]] = []
    presence: bool | None = None
    speed: float | None = None
    for measurement in sorted(event.measurements, key=_end_us):
        occupied = _occupied(measurement)
        if occupied is not None and occupied != presence:
            presence = occupied
            found.append((measurement.start_us, VehiclePresence(occupied=occupied)))
        end_us = _end_us(measurement)
        if measurement.speed_m_per_s not in (None, speed):
            speed = measurement.speed_m_per_s
            found.append((end_us, VehicleSpeed(m_per_s=speed or None)))
        found += [(end_us, reading) for reading in _counted(event, measurement, occupied=occupied)]
    if event.creator is None or not event.creator.startswith(CREATOR):
        found += _conclusions(event)
    # Stable: at one moment what ended comes before what begins.
    for utc_us, reading in sorted(found, key=lambda each: each[0]):
        yield CapturedReadings(utc_us=utc_us, device=device, readings=(reading,))


def _stream(path: Path, documents: list[bytes], device: str) -> Iterator[CapturedReadings]:
    driver = Driver(Options())
    now_us: int | None = None
    refused: list[Reading] = []
    for document in documents:
        event = read_n42(document)
        if isinstance(event, N42Event) and event.measurements:
            end_us = max(map(_end_us, event.measurements))
            now_us = end_us if now_us is None else max(now_us, end_us)
        readings = driver.feed(b"\x02" + document + b"\x03")
        if now_us is None:  # it has no moment before the first that can be read
            refused += readings
            continue
        for reading in (*refused, *readings):
            yield CapturedReadings(utc_us=now_us, device=device, readings=(reading,))
        refused = []
    if now_us is None:
        raise RecordingError(f"{path}: a stream of {len(documents)} pieces, none an N42 document")


def _end_us(measurement: Measurement) -> int:
    return measurement.start_us + round(measurement.real_time_s * 1e6)


def _occupied(measurement: Measurement) -> bool | None:
    if measurement.occupied is None and measurement.kind == "Background":
        return False
    return measurement.occupied


def _counted(
    event: N42Event, measurement: Measurement, *, occupied: bool | None
) -> Iterator[Reading]:
    if measurement.kind in ("Calibration", "IntrinsicActivity"):
        return
    gamma = {d.name for d in event.detectors if d.category in ("Gamma", "X-ray")}
    plastic = {d.name for d in event.detectors if d.kind in _PLASTIC}
    windows: list[tuple[float, Sequence[int]]] = []
    heard: set[str] = set()
    for spectrum in measurement.spectra:
        if spectrum.detector not in gamma or spectrum.detector in heard:
            continue
        heard.add(spectrum.detector)
        if spectrum.detector in plastic and len(spectrum.counts) <= WINDOWS_LIMIT:
            live_time_s = spectrum.live_time_s or measurement.real_time_s
            windows.append((live_time_s, spectrum.counts))
        else:
            yield _spectrum(spectrum, measurement, occupied=occupied)
    totals: list[tuple[float, int]] = []
    neutrons: list[tuple[float, int]] = []
    for gross in measurement.gross_counts:
        live_time_s = gross.live_time_s or measurement.real_time_s
        if gross.detector not in gamma:
            neutrons.append((live_time_s, sum(gross.counts)))
        elif gross.detector in heard:
            continue
        elif len(gross.counts) == 1:
            totals.append((live_time_s, gross.counts[0]))
        else:
            windows.append((live_time_s, gross.counts))
    real_time_s = measurement.real_time_s
    yield from _totals(totals, real_time_s, is_background=occupied is False)
    yield from _windows(windows, real_time_s, is_background=occupied is False)
    yield from _neutrons(neutrons, real_time_s, is_background=occupied is False)
    for _, usv_per_h in measurement.dose_usv_per_h:
        yield DoseRate(usv_per_h=usv_per_h)


def _spectrum(
    spectrum: Spectrum, measurement: Measurement, *, occupied: bool | None
) -> GammaSpectrum | BadFrame:
    if spectrum.live_time_s == 0 or not spectrum.counts:
        detail = f"the spectrum of {spectrum.detector[:64]} has no live time or no channels"
        return BadFrame.of(Reason.RANGE, b"", detail)
    return GammaSpectrum(
        detector=spectrum.detector,
        counts=spectrum.counts,
        real_time_s=measurement.real_time_s,
        live_time_s=spectrum.live_time_s,
        energy=spectrum.energy,
        occupied=occupied,
    )


def _totals(
    counted: list[tuple[float, int]], real_time_s: float, *, is_background: bool
) -> Iterator[GammaCounts | GammaBackground]:
    if not counted:
        return
    if is_background:
        cps = tuple(counts / time_s for time_s, counts in counted)
        yield GammaBackground(cps=cps, averaging_s=real_time_s)
    else:
        counts = tuple(counts for _, counts in counted)
        yield GammaCounts(counts=counts, real_time_s=real_time_s, device_alarm=False)


def _windows(
    counted: list[tuple[float, Sequence[int]]], real_time_s: float, *, is_background: bool
) -> Iterator[WindowCounts | WindowBackground | BadFrame]:
    if not counted:
        return
    if len({len(counts) for _, counts in counted}) > 1:
        detail = "its plastic detectors have windows of different numbers"
        yield BadFrame.of(Reason.RANGE, b"", detail)
    elif is_background:
        rates = [[count / time_s for count in counts] for time_s, counts in counted]
        yield WindowBackground(cps=tuple(map(sum, zip(*rates, strict=True))))
    else:
        sums = tuple(map(sum, zip(*(counts for _, counts in counted), strict=True)))
        yield WindowCounts(counts=sums, real_time_s=real_time_s)


def _neutrons(
    counted: list[tuple[float, int]], real_time_s: float, *, is_background: bool
) -> Iterator[NeutronCounts | NeutronBackground]:
    if not counted:
        return
    if is_background:
        cps = tuple(counts / time_s for time_s, counts in counted)
        yield NeutronBackground(total_cps=sum(cps), rounded_down=False, per_detector_cps=cps)
    else:
        counts = tuple(counts for _, counts in counted)
        yield NeutronCounts(counts=counts, real_time_s=real_time_s, device_alarm=False)


def _conclusions(event: N42Event) -> Iterator[tuple[int, Reading]]:
    """Yield what the device concluded: its alarms when it says, all else while it is occupied."""
    occupied = [each for each in event.measurements if each.occupied]
    ends_us = [_end_us(each) for each in occupied or event.measurements]
    last_us = max(ends_us, default=event.created_us or 0)
    for analysis in event.analyses:
        for fault in analysis.faults:
            condition = f"fault {fault.code}".strip()
            detail = f"{fault.severity}: {fault.description}"
            yield last_us, DeviceState(condition=condition, active=True, detail=detail)
        for alarm in analysis.alarms:
            code, detail = alarm.category.lower()[:40], alarm.description or ""
            reading = DeviceAlarm(kind=_alarm_kind(event, alarm), code=code, detail=detail)
            yield last_us if alarm.at_us is None else alarm.at_us, reading
        if analysis.nuclides:
            yield last_us, DeviceNuclides(nuclides=analysis.nuclides)


def _alarm_kind(event: N42Event, alarm: RadAlarm) -> DeviceAlarmKind:
    """Return the kind by the category; where that is Other, by the detectors, else spectral."""
    known = _ALARMS.get(alarm.category)
    if known is not None or alarm.category == "Isotope":
        return known or "spectral"
    categories = {d.category for d in event.detectors if d.name in alarm.detectors}
    return _ALARMS.get(categories.pop(), "spectral") if len(categories) == 1 else "spectral"
