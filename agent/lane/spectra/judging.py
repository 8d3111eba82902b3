"""Spectroscopic panels: from readings to the slices of one passage, and what they come to.

While the lane is empty its slices become the background; a vehicle's slices begin ``guard_s``
before it breaks the beam. They are judged as they come, so that an alarm does not wait for the
vehicle to leave, and once more, whole, when it has left.
"""

from __future__ import annotations

from dataclasses import replace

from agent.analysis.detection import learning, model
from agent.analysis.detection.model import Model
from agent.analysis.energy.scale import on_grid
from agent.lane.alarms import fault, latch, set_standing
from agent.lane.moment import Moment
from agent.lane.spectra import energies, gain_tracking
from agent.lane.spectra import part as spectral_part
from agent.lane.spectra.memory import Crystals, PassSpectra, Spectra
from agent.lane.spectra.part import LEAST_BACKGROUND_S
from agent.lane.spectra.slices import EmptyLane, Floats, Gathering, Slice
from agent.lane.vehicles import Transit, Vehicles, put
from agent.records import BackgroundQuality
from drivers.readings import GammaSpectrum

SLOW_MEMORY = 5.0
"""The slow background remembers so many times longer than the one decisions are made with."""
LONGEST_PASS_S = 120.0
"""A vehicle that stands longer is judged on its first two minutes."""
GOOD_BACKGROUND_S = 60.0
LONGEST_INTERVAL_S = 5.0
"""A spectrum over a longer time tells nothing of when."""
MODEL_DRIFT = 0.15
"""An assumed model is made anew where the background has moved by so much."""


# ------------------------------------------------------------------ readings


def on_spectrum(moment: Moment, device: str, reading: GammaSpectrum) -> None:
    """Put one detector's spectrum into its slice; one without energies is only said."""
    rules = moment.rules.spectral
    if rules is None or reading.real_time_s > LONGEST_INTERVAL_S or reading.real_time_s <= 0:
        return  # a background that the device has summed by itself is no slice
    energies.watch_due(moment, device, reading)
    name = energies.detector_name(device, reading)
    energy = energies.energy_of(rules.energies, device, reading)
    edges = energies.edges_of(energy, len(reading.counts))
    text = (
        f"{device}: the channels of {name} have no usable energies; set devices.{device}.energy "
        "(checkpointd calibrate energy measures it)"
    )
    spectra = _told_energies(moment, name, is_known=edges is not None)
    # One fault a device: it stands until every detector of it that lacked energies has them.
    lacking = any(each.partition("/")[0] == device for each in spectra.without_energies)
    set_standing(moment, fault(device, "energy_unknown", text, "high"), active=lacking)
    if edges is None:
        return
    middle = moment.stamp.back(reading.age_s + 0.5 * reading.real_time_s)
    live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
    live_s = min(live_s, reading.real_time_s)
    gain_tracking.on_interval(moment, device, name, reading, edges, middle)
    spectra = _known(moment)
    true_kev = gain_tracking.scale_of(spectra, name).true_kev(edges)
    on_common = on_grid(reading.counts, true_kev, rules.shapes.library.edges_kev)
    gathering = spectra.gathering.with_interval(name, on_common, live_s, middle.mono_us)
    moment.of(Crystals).spectra = _with_raw(
        moment, replace(spectra, gathering=gathering), device, reading
    )
    while _known(moment).gathering.whole():
        close_slice(moment)


def _fresh(moment: Moment) -> Spectra:
    rules = moment.rules.spectral
    assert rules is not None
    slice_us = round(rules.options.slice_s * 1e6)
    bins = len(rules.shapes.library.edges_kev) - 1
    empty = EmptyLane(memory_s=rules.options.background_memory_s)
    return Spectra(gathering=Gathering(slice_us=slice_us, bins=bins), empty=empty)


def _is_alike(spectra: Spectra, fresh: Spectra) -> bool:
    """Return whether what is remembered was gathered by the rules that hold now."""
    gathering, wanted = spectra.gathering, fresh.gathering
    is_same_grid = (gathering.slice_us, gathering.bins) == (wanted.slice_us, wanted.bins)
    return is_same_grid and spectra.empty.memory_s == fresh.empty.memory_s


def _known(moment: Moment) -> Spectra:
    spectra = moment.of(Crystals).spectra
    assert spectra is not None
    return spectra


def _told_energies(moment: Moment, name: str, *, is_known: bool) -> Spectra:
    """Remember whether the detector's channels have energies, and return the spectra."""
    spectra, fresh = moment.of(Crystals).spectra, _fresh(moment)
    if spectra is None:
        spectra = fresh
    elif not _is_alike(spectra, fresh):  # options were exchanged
        spectra = replace(fresh, gains=spectra.gains, left_us=spectra.left_us)
    if is_known == (name in spectra.without_energies):
        spectra = replace(spectra, without_energies=spectra.without_energies ^ {name})
    moment.of(Crystals).spectra = spectra
    return spectra


def _with_raw(moment: Moment, spectra: Spectra, device: str, reading: GammaSpectrum) -> Spectra:
    """Keep the spectrum as it came, for the event's own file: what is near a vehicle, bounded."""
    rules = moment.rules.spectral
    assert rules is not None
    raw = (*spectra.raw, (moment.stamp.back(reading.age_s), device, reading))
    if spectra.passage is None:
        oldest = moment.stamp.back(rules.options.guard_s + 2 * rules.options.slice_s)
        raw = tuple(each for each in raw if each[0].mono_us >= oldest.mono_us)
    elif raw[-1][0].since_s(raw[0][0]) > LONGEST_PASS_S:
        raw = raw[:-1]
    return replace(spectra, raw=raw)


# ------------------------------------------------------------------ slices


def close_slice(moment: Moment) -> None:
    """Close the oldest slice: it is the vehicle's, or waits to become background."""
    spectra = moment.of(Crystals).spectra
    assert spectra is not None
    gathering, new = spectra.gathering.close()
    spectra = replace(spectra, gathering=gathering)
    transit = _transit_at(moment, new)
    if transit is None:
        moment.of(Crystals).spectra = _waiting(moment, spectra, new)
        return
    if spectra.passage is None or spectra.passage.passage_id != transit.passage_id:
        spectra = _begun(moment, spectra, transit)
    # Its approach, or the gap between two halves of it.
    for each in spectra.waiting:
        spectra = _added(spectra, each)
    moment.of(Crystals).spectra = spectra = _added(replace(spectra, waiting=()), new)
    _alarm_if_due(moment, transit)


def _transit_inside(moment: Moment) -> Transit | None:
    """Return the last vehicle while it is not sealed."""
    transits = moment.state.of(Vehicles).transits
    last = transits[-1] if transits else None
    return None if last is None or last.is_sealed else last


def _transit_at(moment: Moment, new: Slice) -> Transit | None:
    """Return the vehicle whose slice it is, None where the lane was empty."""
    transit = _transit_inside(moment)
    if transit is None or new.ended_us <= transit.started.mono_us:
        return None
    if transit.ended is not None and new.began_us >= transit.ended.mono_us:
        return None
    return transit


def _waiting(moment: Moment, spectra: Spectra, new: Slice) -> Spectra:
    """Let the slice wait, and make background of what has waited long enough.

    What came so soon after a vehicle never does: it may still shine from behind.
    """
    rules = moment.rules.spectral
    assert rules is not None
    waiting, empty, left_us = (*spectra.waiting, new), spectra.empty, spectra.left_us
    transits = moment.state.of(Vehicles).transits
    last = transits[-1] if transits else None
    if last is not None and last.ended is not None:
        left_us = last.ended.mono_us
    guard_us = rules.options.guard_s * 1e6
    slow_s = SLOW_MEMORY * rules.options.background_memory_s
    while waiting and new.ended_us - waiting[0].ended_us >= guard_us:
        if left_us is None or waiting[0].began_us >= left_us + guard_us:
            empty = empty.with_slice(waiting[0], slow_memory_s=slow_s)
        waiting = waiting[1:]
    return replace(spectra, waiting=waiting, empty=empty, left_us=left_us)


def _begun(moment: Moment, spectra: Spectra, transit: Transit) -> Spectra:
    """Begin a passage: the background is frozen."""
    rules = moment.rules.spectral
    assert rules is not None
    known = spectra.empty.for_detectors(len(spectra.gathering.detectors))
    passage = PassSpectra(passage_id=transit.passage_id, quality=_quality(moment, spectra.empty))
    if known is not None:
        counts, live_s = known
        exposure_s = float(live_s.max())
        # A crystal that counts nothing at all is dead: any count of it would look like a source.
        used = (live_s > 0.2 * exposure_s) & (counts.sum(axis=1) > 0)
        names = spectra.gathering.detectors
        used &= [not gain_tracking.is_out_of_bounds(spectra, name) for name in names]
        passage = replace(passage, background=counts, background_s=live_s, used=used)
        if exposure_s >= LEAST_BACKGROUND_S and used.any():
            spectra, lane_model = _model(moment, spectra, counts[used], live_s[used])
            passage = replace(passage, stream=model.begin(lane_model), model=lane_model)
    return replace(spectra, passage=passage)


def _quality(moment: Moment, empty: EmptyLane) -> BackgroundQuality:
    apart = empty.parts_by()
    if apart is None or empty.live_s is None or float(empty.live_s.max()) < GOOD_BACKGROUND_S:
        return "learning"
    return "suspect" if apart > moment.rules.lane.suspect_fraction else "good"


def _model(
    moment: Moment, spectra: Spectra, counts: Floats, live_s: Floats
) -> tuple[Spectra, Model]:
    """Return the model to judge with: the learned one, or one assumed for this background."""
    rules = moment.rules.spectral
    assert rules is not None
    if rules.model is not None:
        return spectra, rules.model
    rate_cps = (counts / live_s[:, None]).sum(axis=0)
    gross_cps = float(rate_cps.sum())
    if spectra.assumed is None or _has_drifted(gross_cps, spectra.assumed_cps):
        options = rules.options
        made = learning.assume(rules.shapes, rate_cps, options.slice_s, options.false_alarm_rate)
        spectra = replace(spectra, assumed=made, assumed_cps=gross_cps)
    assert spectra.assumed is not None
    return spectra, spectra.assumed


def _has_drifted(now_cps: float, before_cps: float) -> bool:
    return abs(now_cps - before_cps) > MODEL_DRIFT * before_cps


def _added(spectra: Spectra, new: Slice) -> Spectra:
    """Return the passage after one more slice, up to the longest that is judged."""
    passage = spectra.passage
    assert passage is not None
    slice_s = spectra.gathering.slice_us / 1e6
    if len(passage.slices) * slice_s >= LONGEST_PASS_S:
        return spectra
    passage = replace(passage, slices=(*passage.slices, new))
    if passage.stream is not None and passage.model is not None:
        counts, expected = spectral_part.summed(passage, new)
        stream = model.add(passage.model, passage.stream, counts, expected)
        passage = replace(passage, stream=stream)
    return replace(spectra, passage=passage)


def due_us(moment: Moment) -> int | None:
    """Return when the oldest open slice is closed at the latest; None: none is open."""
    spectra = moment.of(Crystals).spectra
    return None if spectra is None else spectra.gathering.due_us()


# ------------------------------------------------------------------ what it comes to


def _alarm_if_due(moment: Moment, transit: Transit) -> None:
    """Raise the alarm at the first crossing; it is named when the vehicle has left."""
    spectra = moment.of(Crystals).spectra
    assert spectra is not None
    passage, rules = spectra.passage, moment.rules.spectral
    if passage is None or passage.stream is None or passage.model is None or rules is None:
        return
    if passage.stream.seen % passage.model.look or passage.is_alarmed:
        return
    found = model.verdict(passage.model, passage.stream)
    if float(found.p) >= rules.options.false_alarm_rate:
        return
    detectors = spectra.gathering.detectors
    finding = spectral_part.finding_of(detectors, rules.options.false_alarm_rate, found, None)
    put(moment, latch(moment, transit, finding))
    moment.of(Crystals).spectra = replace(spectra, passage=replace(passage, is_alarmed=True))


def finish(moment: Moment, transit: Transit) -> Transit:
    """Return the vehicle with what its spectra come to; its passage is then over."""
    spectra, rules = moment.of(Crystals).spectra, moment.rules.spectral
    if spectra is None or rules is None:
        return transit
    while spectra.gathering.open and _is_next_of(moment, transit):
        close_slice(moment)
        spectra = moment.of(Crystals).spectra
        assert spectra is not None
    transit = next(
        t for t in moment.state.of(Vehicles).transits if t.passage_id == transit.passage_id
    )
    if transit.ended is not None:
        moment.of(Crystals).spectra = spectra = replace(spectra, left_us=transit.ended.mono_us)
    passage = spectra.passage
    if passage is None or passage.passage_id != transit.passage_id:
        return transit
    part, transit = spectral_part.made_of(moment, transit, passage)
    moment.of(Crystals).spectra = replace(
        spectra, passage=None, finished=passage, raw=(), finished_raw=spectra.raw
    )
    return replace(transit, spectral=part)


def _is_next_of(moment: Moment, transit: Transit) -> bool:
    spectra = moment.of(Crystals).spectra
    assert spectra is not None
    number = min(spectra.gathering.open)
    return transit.ended is None or number * spectra.gathering.slice_us < transit.ended.mono_us
