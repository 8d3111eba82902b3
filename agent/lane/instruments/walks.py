"""The metal detector: persons and alarms that lie close together are one walk.

A random selection is never a metal alarm. A person counted while the detector was not ready, or
while neither its alarm contact nor a counter of its alarms was heard, is "unknown", never "clear".
What the detector is set to stands in each walk; another setting than the first one heard is a
fault until it is set back, for it voids the test certificate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.lane.alarms import Finding, cleared, fault, raised, set_standing
from agent.lane.moment import Moment
from agent.lane.state import Memory
from agent.lane.vehicles import Part, Vehicles, likely_passage
from agent.records import Alarm, MetalPart, MetalResult, Stamp
from drivers.readings import MetalAlarm, MetalPassages, MetalProgram


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Persons and alarms at a metal detector that lie close together in time."""

    at: Stamp
    last: Stamp
    persons: int = 0
    alarms: int = 0
    randoms: int = 0
    directions: tuple[str, ...] = ()
    alarm: Alarm | None = None
    zones: tuple[str, ...] | None = None
    """Where metal was found; None: the detector does not say."""
    amplitude: float | None = None
    amplitude_scale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalTest:
    """The operational test of a metal detector that runs now, and what it has seen."""

    started: Stamp
    switch: tuple[str, str]
    """The key switch (module, contact) that announced it, and whose release ends it."""
    alarms: int = 0
    passages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """What is remembered of one metal detector between walks."""

    risen_first: int = 0
    """Alarms that only its contact has told so far, and not yet its counter."""
    counted_first: int = 0
    """Alarms that only its counter has told so far."""
    is_counting: bool = False
    """It counts its alarms, and none is missed though no contact tells the level."""
    first: MetalProgram | None = None
    """What it was set to when it was first heard."""
    now: MetalProgram | None = None


@dataclass(slots=True, kw_only=True)
class Metal(Memory):
    """The lane's metal detectors: walks, levels, and operational tests."""

    walks: Mapping[str, Walk] = field(default_factory=dict)
    not_ready: frozenset[str] = frozenset()
    """Metal detectors that say they are not ready, so a person without alarm is not "clear"."""
    metal_levels: Mapping[str, bool | None] = field(default_factory=dict)
    metal_detectors: Mapping[str, Detector] = field(default_factory=dict)
    metal_tests: Mapping[str, MetalTest] = field(default_factory=dict)
    """The tests that run now, by metal detector."""
    metal_tested: Mapping[str, Stamp] = field(default_factory=dict)
    """When each metal detector passed its last test, as long as that holds."""
    switches_left_on: frozenset[tuple[str, str]] = frozenset()
    """The test switches (module, contact) that were on for too long, until they fall."""


def on_metal_alarm(moment: Moment, device: str, reading: MetalAlarm) -> None:
    """Take the alarm relay: say a new alarm at once, clear it when the relay falls."""
    # A random selection has its own relay or its own word: it never stands for one of metal.
    relay = _random(device) if reading.is_random else device
    before = moment.of(Metal).metal_levels.get(relay)
    if reading.active is not None or reading.pulses is None:
        moment.of(Metal).metal_levels = {**moment.of(Metal).metal_levels, relay: reading.active}
    if reading.active is None and not reading.pulses:  # None: lost; 0: counted, and none began
        _remember(moment, relay, replace(_detector(moment, relay), is_counting=reading.pulses == 0))
    is_rising = reading.active is True and before is not True
    begun = _begun(moment, relay, reading.pulses, is_rising=is_rising)
    test = moment.of(Metal).metal_tests.get(device)
    if test is not None:
        found = 0 if reading.is_random else begun
        _test_on(moment, device, replace(test, alarms=test.alarms + found))
        return
    if begun == 0:
        _measure_on(moment, device, reading)
        return
    walk = _measured(_walk(moment, device), reading)
    if reading.is_random:
        _put(moment, device, replace(walk, randoms=walk.randoms + begun))
        return
    if walk.alarm is None:
        finding = Finding(
            kind="metal",
            source="device",
            code="metal",
            severity="elevated",
            device=device,
            text=f"{device}: the metal detector reports an alarm",
        )
        walk = replace(
            walk, alarm=raised(moment, finding, moment.new_id("m"), likely_passage(moment, device))
        )
    _put(moment, device, replace(walk, alarms=walk.alarms + begun))


def _random(device: str) -> str:
    """Return the name that a detector's random selection is remembered by; no device has it."""
    return f"{device}:random"


def _detector(moment: Moment, relay: str) -> Detector:
    return moment.of(Metal).metal_detectors.get(relay, Detector())


def _remember(moment: Moment, relay: str, detector: Detector) -> None:
    moment.of(Metal).metal_detectors = {**moment.of(Metal).metal_detectors, relay: detector}


def _measure_on(moment: Moment, device: str, reading: MetalAlarm) -> None:
    """Add what is only said while an alarm lasts to the walk it began in."""
    walk = moment.of(Metal).walks.get(device)
    if walk is not None and walk.alarms and reading.active:
        _put(moment, device, _measured(walk, reading))


def _measured(walk: Walk, reading: MetalAlarm) -> Walk:
    """Return the walk with all zones that were named and the largest amplitude."""
    if reading.is_random:
        return walk
    if reading.zones is not None:
        zones = tuple(dict.fromkeys((*(walk.zones or ()), *reading.zones)))
        walk = replace(walk, zones=zones)
    largest = walk.amplitude
    if reading.amplitude is None or (largest is not None and reading.amplitude <= largest):
        return walk
    return replace(walk, amplitude=reading.amplitude, amplitude_scale=reading.amplitude_scale)


def _begun(moment: Moment, relay: str, pulses: int | None, *, is_rising: bool) -> int:
    """Return how many alarms began: each is seen at the contact, at its latched counter, or both.

    Whichever is read first says the alarm; the other's word for the same one is then not another.
    ``pulses`` None: there is no counter, and a rising contact is one alarm.
    """
    if pulses is None:
        return int(is_rising)
    pairing = _detector(moment, relay)
    begun = 0
    if is_rising and pulses == 0:
        if pairing.counted_first > 0:
            pairing = replace(pairing, counted_first=pairing.counted_first - 1)
        else:
            pairing = replace(pairing, risen_first=pairing.risen_first + 1)
            begun = 1
    else:
        told = min(pulses, pairing.risen_first)
        begun = pulses - told
        ahead = 0 if is_rising or moment.of(Metal).metal_levels.get(relay) else begun
        pairing = replace(
            pairing,
            risen_first=pairing.risen_first - told,
            counted_first=pairing.counted_first + ahead,
        )
    _remember(moment, relay, pairing)
    return begun


def on_passages(moment: Moment, device: str, reading: MetalPassages) -> None:
    """Count persons in and out."""
    counted = (("in", reading.entered or 0), ("out", reading.left or 0))
    persons = sum(n for _, n in counted)
    if persons == 0:
        return
    test = moment.of(Metal).metal_tests.get(device)
    if test is not None:
        _test_on(moment, device, replace(test, passages=test.passages + persons))
        return
    walk = _walk(moment, device)
    new = tuple(side for side, n in counted if n and side not in walk.directions)
    walk = replace(walk, persons=walk.persons + persons, directions=walk.directions + new)
    _put(moment, device, walk)


def on_program(moment: Moment, device: str, reading: MetalProgram) -> None:
    """Keep what the detector is set to; another setting than the first stands as a fault."""
    detector = _detector(moment, device)
    now = _completed(reading, detector.now)
    first = _completed(detector.first, now)
    _remember(moment, device, replace(detector, first=first, now=now))
    text = (
        f"{device}: the program changed from {_named(first)} to {_named(now)}, which voids the "
        "test certificate; set it back, or test the detector anew and restart the agent"
    )
    set_standing(moment, fault(device, "program_changed", text), active=now != first)


def _completed(said: MetalProgram | None, other: MetalProgram | None) -> MetalProgram:
    """Return what is said, and where it says nothing the other."""
    said, other = (found or MetalProgram(program=None, sensitivity=None) for found in (said, other))
    return MetalProgram(
        program=other.program if said.program is None else said.program,
        sensitivity=other.sensitivity if said.sensitivity is None else said.sensitivity,
    )


def _named(program: MetalProgram) -> str:
    sensitivity = "" if program.sensitivity is None else f" at sensitivity {program.sensitivity}"
    return f"{program.program or 'an unnamed one'}{sensitivity}"


def on_ready(moment: Moment, device: str, *, is_ready: bool) -> None:
    """Note whether the detector says that it is working."""
    names = moment.of(Metal).not_ready
    moment.of(Metal).not_ready = names - {device} if is_ready else names | {device}


def on_lost(moment: Moment, device: str) -> None:
    """Forget the alarm contact's level: silence is unknown."""
    for relay in (device, _random(device)):
        moment.of(Metal).metal_levels = {**moment.of(Metal).metal_levels, relay: None}
        kept = _detector(moment, relay)
        _remember(moment, relay, Detector(first=kept.first, now=kept.now))


def settle(moment: Moment, device: str) -> None:
    """Expect no more at the contact what the counter has told: its pulse was too short."""
    for relay in (device, _random(device)):
        _remember(moment, relay, replace(_detector(moment, relay), counted_first=0))


def finish(moment: Moment, device: str) -> None:
    """Make a walk that is over a part that a vehicle can claim."""
    walk = moment.of(Metal).walks[device]
    moment.of(Metal).walks = {d: w for d, w in moment.of(Metal).walks.items() if d != device}
    settle(moment, device)
    if walk.alarm is not None:
        cleared(moment, walk.alarm)
    now = _detector(moment, device).now
    content = MetalPart(
        device=device,
        result=_result(moment, device, walk),
        persons=walk.persons,
        alarms=walk.alarms,
        directions=walk.directions,
        zones=walk.zones,
        amplitude=walk.amplitude,
        amplitude_scale=walk.amplitude_scale,
        program=None if now is None else now.program,
        sensitivity=None if now is None else now.sensitivity,
    )
    alarm_ids = () if walk.alarm is None else (walk.alarm.alarm_id,)
    part = Part(
        serial=moment.next_serial(),
        device=device,
        at=walk.at,
        content=content,
        alarm_ids=alarm_ids,
    )
    moment.of(Vehicles).parts = (*moment.of(Vehicles).parts, part)


def _result(moment: Moment, device: str, walk: Walk) -> MetalResult:
    if walk.alarms:
        return "alarm"
    if walk.randoms:
        return "random"
    is_heard = moment.of(Metal).metal_levels.get(device) is not None
    if device in moment.of(Metal).not_ready or not (
        is_heard or _detector(moment, device).is_counting
    ):
        return "unknown"
    return "clear"


def _walk(moment: Moment, device: str) -> Walk:
    walk = moment.of(Metal).walks.get(device)
    if walk is None:
        return Walk(at=moment.stamp, last=moment.stamp)
    return replace(walk, last=moment.stamp)


def _test_on(moment: Moment, device: str, test: MetalTest) -> None:
    moment.of(Metal).metal_tests = {**moment.of(Metal).metal_tests, device: test}


def _put(moment: Moment, device: str, walk: Walk) -> None:
    moment.of(Metal).walks = {**moment.of(Metal).walks, device: walk}
