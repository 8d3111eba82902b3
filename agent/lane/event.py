"""What the file of an alarming passage is made of: kept while it lasts, told at its end.

Counts of portals are noted from the vehicle's coming; the spectra of crystals, which have an
approach and a frozen background as well, lie with ``agent.lane.spectra.judging``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from agent.lane.moment import Moment
from agent.lane.options.spectral import SpectralRules
from agent.lane.spectra import energies, gain_tracking
from agent.lane.spectra.judging import LONGEST_PASS_S
from agent.lane.spectra.memory import Crystals, PassSpectra, Spectra
from agent.lane.state import Memory
from agent.lane.vehicles import Transit, unsealed_transit
from agent.records import (
    BackgroundUsed,
    DetectorBackground,
    EventSource,
    Measured,
    Stamp,
    TypePlate,
)
from drivers.readings import EnergyCalibration, GammaSpectrum, NuclideFound

MOST_READINGS = 4096
RADIATION = frozenset({"gamma", "neutron", "spectral"})


@dataclass(slots=True, kw_only=True)
class Measurements(Memory):
    """What portals counted of the vehicle that is inside."""

    measured: tuple[tuple[Stamp, str, Measured], ...] = ()
    """What portals counted of the vehicle that is inside: the interval's end, and whose it is."""


def note(moment: Moment, device: str, reading: Measured) -> None:
    """Keep what a portal counted while a vehicle is there, bounded."""
    transit = unsealed_transit(moment)
    kept = moment.of(Measurements).measured
    if transit is None or len(kept) >= MOST_READINGS:
        return
    if moment.stamp.since_s(transit.started) <= LONGEST_PASS_S:
        moment.of(Measurements).measured = (
            *kept,
            (moment.stamp.back(reading.age_s), device, reading),
        )


def source_of(moment: Moment, transit: Transit, speed_m_per_s: float | None) -> EventSource | None:
    """Return what the passage's file is made of, None where no radiation alarm was raised.

    The vehicle has left, and what was noted of it is forgotten.
    """
    measured, moment.of(Measurements).measured = moment.of(Measurements).measured, ()
    if transit.ended is None or not any(a.kind in RADIATION for a in transit.alarms):
        return None
    source = EventSource(
        lane=moment.rules.lane_id,
        passage_id=transit.passage_id,
        at=moment.stamp,
        started=transit.started,
        ended=transit.ended,
        speed_m_per_s=speed_m_per_s,
        alarms=transit.alarms,
        raised=transit.raised,
        readings=measured,
        panels=tuple((name, each.detectors) for name, each in moment.rules.portals.items()),
        backgrounds=_backgrounds(transit),
        device_nuclides=_device_nuclides(transit),
        plates=_plates(moment, {device for _, device, _ in measured}),
        spectral=transit.spectral,
    )
    return _with_spectra(moment, transit, source)


def completed(transit: Transit) -> EventSource | None:
    """Return what the passage's file is made of, as the passage stands by now."""
    if transit.event is None:
        return None
    if (transit.event.alarms, transit.event.spectral) == (transit.alarms, transit.spectral):
        return transit.event
    return replace(
        transit.event,
        alarms=transit.alarms,
        raised=transit.raised,
        spectral=transit.spectral,
    )


def _plates(moment: Moment, devices: set[str]) -> tuple[TypePlate, ...]:
    return tuple(
        TypePlate(
            device=name,
            manufacturer=plate.manufacturer,
            model=plate.model,
            serial_number=plate.serial_number,
        )
        for name, portal in moment.rules.portals.items()
        if name in devices and (plate := portal.type_plate) is not None
    )


def _backgrounds(transit: Transit) -> tuple[tuple[str, BackgroundUsed], ...]:
    own = () if transit.device is None else ((transit.device, transit.background),)
    return (*own, *((share.device, share.background) for share in transit.also))


def _device_nuclides(transit: Transit) -> tuple[tuple[str, tuple[NuclideFound, ...]], ...]:
    own = () if transit.device is None else ((transit.device, transit.tally),)
    tallies = (*own, *((share.device, share.tally) for share in transit.also))
    return tuple((device, tally.nuclides) for device, tally in tallies if tally.nuclides)


def _with_spectra(moment: Moment, transit: Transit, source: EventSource) -> EventSource:
    rules, spectra = moment.rules.spectral, moment.of(Crystals).spectra
    passage = None if spectra is None else spectra.finished
    if rules is None or spectra is None or passage is None:
        return source
    if passage.passage_id != transit.passage_id:
        return source
    readings: list[tuple[Stamp, str, Measured]] = [
        (at, device, replace(reading, energy=_energy(spectra, rules, device, reading)))
        for at, device, reading in spectra.finished_raw
    ]
    return replace(
        source,
        readings=(*readings, *source.readings),
        material=rules.options.detector,
        spectral_background=_frozen(passage, spectra.gathering.detectors),
        grid_kev=tuple(round(edge, 6) for edge in rules.shapes.library.edges_kev.tolist()),
    )


def _energy(
    spectra: Spectra, rules: SpectralRules, device: str, reading: GammaSpectrum
) -> EnergyCalibration | None:
    """Return the energies that the spectrum was judged with."""
    scale = gain_tracking.scale_of(spectra, energies.detector_name(device, reading))
    return gain_tracking.corrected(energies.energy_of(rules.energies, device, reading), scale)


def _frozen(passage: PassSpectra, detectors: tuple[str, ...]) -> tuple[DetectorBackground, ...]:
    if passage.background is None or passage.background_s is None:
        return ()
    rows = zip(detectors, passage.background.tolist(), passage.background_s.tolist(), strict=False)
    return tuple(
        DetectorBackground(detector=name, counts=tuple(counts), live_s=live_s)
        for name, counts, live_s in rows
        if live_s > 0
    )
