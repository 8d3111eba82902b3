"""The file of one alarming passage: from what the lane knew at its end to N42.42-2012.

Each interval stands as it was counted: spectra by crystal with the energies they were judged with,
energy windows as a spectrum of as many channels, counts of portals as gross counts. Of a device
that gives spectra the gross counts are left out, they are the same events. What the schema has no
element for (backgrounds in counts per second, thresholds) stands as settings of the analysis.

Source: ANSI N42.42-2012 schema 0.0.54 (``agent.evidence.n42``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from agent.evidence.n42 import MEDIA_TYPE, document_id, n42_event
from agent.evidence.n42_words import (
    Analysis,
    Detector,
    Fault,
    GrossCounts,
    Instrument,
    Item,
    Measurement,
    N42Event,
    RadAlarm,
    Setting,
    Spectrum,
)
from agent.records import Alarm, Blob, EventSource, Measured, Passage, Record, SpectralPart, Stamp
from drivers.readings import (
    EnergyCalibration,
    GammaCounts,
    GammaSpectrum,
    NeutronCounts,
    NuclideFound,
    WindowCounts,
)

ROLE: Final = "n42"
NOT_GIVEN: Final = "not given"
KINDS: Final = {"nai": "NaI", "csi": "CsI", "labr3": "LaBr3", "pvt": "PVT"}
"""The schema's words for what crystals are made of."""
CATEGORIES: Final = {"gamma": "Gamma", "neutron": "Neutron"}
"""The schema's words for kinds of alarms; a spectral one is an isotope's once it has a name."""


class EventFiles:
    """Puts the file in its place in the records of an event; made once for all of them.

    ``gateway`` (``site/gw``) makes the document's id, ``creator`` is the software that writes it.
    """

    def __init__(self, *, gateway: str, creator: str) -> None:
        self._gateway = gateway
        self._creator = creator
        self._last: tuple[EventSource, Blob] | None = None

    def asked(self, record: Record) -> FileAsked | None:
        """Return the file that has to be written for a record; None: none, or it is written."""
        source = record.event if isinstance(record, Alarm | Passage) else None
        if source is None or (self._last is not None and self._last[0] is source):
            return None
        name = f"{self._gateway}/{source.passage_id}"
        return FileAsked(source=source, name=name, creator=self._creator)

    def attach(self, record: Record, file: Blob | None = None) -> Record:
        """Return the record with its file among its blobs, as it is where it has none.

        ``file``: what was asked for, None: it is written here where it is not yet.
        """
        if not isinstance(record, Alarm | Passage) or record.event is None:
            return record
        asked = self.asked(record)
        if asked is not None:
            self._last = record.event, asked.answer() if file is None else file
        assert self._last is not None
        return replace(record, event=None, blobs=(*record.blobs, self._last[1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class FileAsked:
    """The file of one event, to be written; ``name`` is unique to it and makes its UUID."""

    source: EventSource
    name: str
    creator: str

    @property
    def has_spectra(self) -> bool:
        """Return whether it holds spectra, and takes long."""
        return any(isinstance(reading, GammaSpectrum) for _, _, reading in self.source.readings)

    def answer(self) -> Blob:
        """Return the file."""
        data = n42_event(event_of(self.source, name=self.name, creator=self.creator))
        return Blob(role=ROLE, media_type=MEDIA_TYPE, data=data)


def event_of(source: EventSource, *, name: str, creator: str) -> N42Event:
    """Return the event in the words of N42; ``name`` is unique to it and makes its UUID."""
    measurements = (*_background(source), *_measurements(source))
    detectors = _detectors(source, measurements)
    known = {each.name for each in detectors}
    return N42Event(
        document_id=document_id(name),
        created_us=source.at.utc_us,
        creator=creator,
        instrument=_instrument(source, creator),
        detectors=detectors,
        item=Item(passage_id=source.passage_id, lane=source.lane),
        measurements=measurements,
        analyses=(_own_analysis(source, known, creator), *_device_analyses(source)),
    )


def _instrument(source: EventSource, creator: str) -> Instrument:
    """Return the lane's radiation devices as one instrument, in the words of their type plates."""
    has_spectra = any(isinstance(reading, GammaSpectrum) for _, _, reading in source.readings)
    serials = ((f"{p.device}, serial number", p.serial_number) for p in source.plates)
    return Instrument(
        manufacturer=_joined(plate.manufacturer for plate in source.plates),
        model=_joined(plate.model for plate in source.plates),
        class_code="Spectroscopic Portal Monitor" if has_spectra else "Portal Monitor",
        versions=(("Software", creator), *(each for each in serials if each[1])),
        identifier=source.lane,
    )


def _joined(words: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(word for word in words if word)) or NOT_GIVEN


# ------------------------------------------------------------------ what was measured


def _background(source: EventSource) -> Iterator[Measurement]:
    """Yield the frozen background of the crystals, in whole counts.

    It remembers with a fading memory, so it began earlier than its exposure says.
    """
    if not source.spectral_background:
        return
    real_s = max(each.live_s for each in source.spectral_background)
    energy = EnergyCalibration(edges_kev=source.grid_kev)
    yield Measurement(
        kind="Background",
        start_us=source.started.utc_us - round(real_s * 1e6),
        real_time_s=real_s,
        spectra=tuple(
            Spectrum(
                detector=each.detector,
                counts=tuple(round(count) for count in each.counts),
                live_time_s=each.live_s,
                energy=energy,
            )
            for each in source.spectral_background
        ),
        occupied=False,
    )


def _measurements(source: EventSource) -> Iterator[Measurement]:
    """Yield the intervals in order of time, those of one moment and length together."""
    panels = dict(source.panels)
    with_spectra = {d for _, d, reading in source.readings if isinstance(reading, GammaSpectrum)}
    grouped: dict[tuple[int, float], tuple[Stamp, list[Spectrum], list[GrossCounts]]] = {}
    for at, device, reading in source.readings:
        if reading.real_time_s <= 0:
            continue
        if isinstance(reading, GammaCounts | WindowCounts) and device in with_spectra:
            continue
        key = at.utc_us - round(reading.real_time_s * 1e6), reading.real_time_s
        _, spectra, gross = grouped.setdefault(key, (at, [], []))
        match reading:
            case GammaSpectrum() | WindowCounts():
                spectra.append(_spectrum(device, reading))
            case GammaCounts() | NeutronCounts():
                gross += _gross(device, reading, panels.get(device, ()))
    for (start_us, real_s), (at, spectra, gross) in sorted(grouped.items(), key=lambda g: g[0]):
        occupied = _is_occupied(source, at.back(0.5 * real_s))
        yield Measurement(
            kind="Foreground",
            start_us=start_us,
            real_time_s=real_s,
            spectra=tuple(spectra),
            gross_counts=tuple(gross),
            occupied=occupied,
            speed_m_per_s=source.speed_m_per_s if occupied else None,
        )


def _is_occupied(source: EventSource, middle: Stamp) -> bool:
    return source.started.mono_us <= middle.mono_us <= source.ended.mono_us


def _spectrum(device: str, reading: GammaSpectrum | WindowCounts) -> Spectrum:
    if isinstance(reading, WindowCounts):
        return Spectrum(
            detector=f"{device} windows", counts=reading.counts, live_time_s=None, energy=None
        )
    return Spectrum(
        detector=f"{device}/{reading.detector}" if reading.detector else device,
        counts=reading.counts,
        live_time_s=reading.live_time_s,
        energy=reading.energy,
    )


def _gross(
    device: str, reading: GammaCounts | NeutronCounts, panels: tuple[str, ...]
) -> Iterator[GrossCounts]:
    for index, counts in enumerate(reading.counts):
        name = panels[index] if index < len(panels) else str(index + 1)
        kind = "neutron" if isinstance(reading, NeutronCounts) else "gamma"
        yield GrossCounts(detector=f"{device} {kind} {name}", counts=(counts,), live_time_s=None)


def _detectors(source: EventSource, measurements: tuple[Measurement, ...]) -> tuple[Detector, ...]:
    """Return the detectors that counted; where none did, the devices that alarmed."""
    found: dict[str, Detector] = {}
    crystal = KINDS.get(source.material or "", "Other")
    crystals = {_name(d, r) for _, d, r in source.readings if isinstance(r, GammaSpectrum)}
    crystals |= {each.detector for each in source.spectral_background}
    for measurement in measurements:
        for spectrum in measurement.spectra:
            name = spectrum.detector
            kind = crystal if name in crystals else "Other"
            found[name] = Detector(name=name, category="Gamma", kind=kind)
        for gross in measurement.gross_counts:
            name = gross.detector
            category = "Neutron" if " neutron " in name else "Gamma"
            found[name] = Detector(name=name, category=category, kind="Other")
    if not found:
        for alarm in source.alarms:
            category = "Neutron" if alarm.kind == "neutron" else "Gamma"
            name = alarm.device or source.lane
            found[name] = Detector(name=name, category=category, kind="Other")
    return tuple(found.values())


def _name(device: str, reading: Measured) -> str:
    assert isinstance(reading, GammaSpectrum)
    return _spectrum(device, reading).detector


# ------------------------------------------------------------------ what was concluded


def _own_analysis(source: EventSource, known: set[str], creator: str) -> Analysis:
    """Return our conclusion with every alarm of the passage, the devices' own among them."""
    part = source.spectral
    ours = [a for a in source.alarms if (a.kind, a.source) == ("spectral", "agent")]
    statistic = ours[0].evidence[0].statistic if ours and ours[0].evidence else None
    return Analysis(
        algorithm="spectra against the empty lane" if part else "counts against the background",
        version=creator,
        settings=tuple(_settings(source)),
        p=None if part is None else part.p,
        statistic=statistic,
        description=_description(part),
        alarms=tuple(
            _alarm(alarm, at, known) for alarm, at in zip(source.alarms, source.raised, strict=True)
        ),
        nuclides=()
        if part is None
        else tuple(
            NuclideFound(name=n.name, confidence=n.confidence, category=part.category)
            for n in part.nuclides
        ),
        faults=() if part is None else tuple(_faults(part)),
    )


def _description(part: SpectralPart | None) -> str | None:
    if part is None or part.category is None:
        return None
    names = ", ".join(n.name for n in part.nuclides) or "no nuclide named"
    return f"{part.category}: {names}" + (", spread over the load" if part.norm else "")


def _settings(source: EventSource) -> Iterator[Setting]:
    """Yield thresholds and backgrounds, each as the decision used it."""
    part = source.spectral
    if part is not None:
        yield Setting(name="false alarms per passage", value=repr(part.false_alarm_rate))
        yield Setting(name="thresholds", value="provisional" if part.provisional else "learned")
        yield Setting(name="calibration revision", value=part.calibration or "none")
        yield Setting(name="background quality", value=part.background_quality)
        if part.statistic is not None:
            yield Setting(name="statistic", value=part.statistic)
    panels = dict(source.panels)
    for device, used in source.backgrounds:
        names = panels.get(device, ())
        for index, cps in enumerate(used.gamma_cps or ()):
            name = names[index] if index < len(names) else str(index + 1)
            yield Setting(name=f"background {device} gamma {name}", value=repr(cps), unit="1/s")
        if used.neutron_cps is not None:
            name, value = f"background {device} neutron", repr(used.neutron_cps)
            yield Setting(name=name, value=value, unit="1/s")
    for alarm in source.alarms:
        for evidence in alarm.evidence:
            if evidence.threshold is not None and alarm.kind != "spectral":
                name = f"{alarm.device} {evidence.test} threshold"
                yield Setting(name=name, value=repr(evidence.threshold))


def _alarm(alarm: Alarm, at: Stamp, known: set[str]) -> RadAlarm:
    kind = "neutron" if alarm.kind == "neutron" else "gamma"
    ways = ("{1}", "{0} {2} {1}")
    names = [way.format(alarm.device, each, kind) for each in alarm.detectors for way in ways]
    named = "Isotope" if alarm.nuclides else "Gamma"
    about = [alarm.severity, alarm.source, *([alarm.category] if alarm.category else [])]
    return RadAlarm(
        category=CATEGORIES.get(alarm.kind, named if alarm.kind == "spectral" else "Other"),
        detectors=tuple(name for name in names if name in known),
        description=f"{alarm.code} ({', '.join(about)}): {alarm.text}",
        at_us=at.utc_us,
    )


def _faults(part: SpectralPart) -> Iterator[Fault]:
    for text in part.left_out:
        yield Fault(code="left_out", description=text, severity="Warning")
    if part.background_quality != "good":
        text = f"the background is {part.background_quality}"
        yield Fault(code="background", description=text, severity="Warning")


def _device_analyses(source: EventSource) -> Iterator[Analysis]:
    for device, nuclides in source.device_nuclides:
        yield Analysis(algorithm=f"{device}: its own identification", nuclides=nuclides)
