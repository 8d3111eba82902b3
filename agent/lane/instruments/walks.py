"""The metal detector: persons and alarms that lie close together are one walk.

A random selection is never a metal alarm. A person counted while the detector was not ready, or
while neither its alarm contact nor a counter of its alarms was heard, is "unknown", never "clear".
What the detector is set to stands in each walk; another setting than the first one heard is a
fault until it is set back, for it voids the test certificate.
"""

from __future__ import annotations

from dataclasses import replace

from agent.lane.alarms import Finding, cleared, fault, raised, set_standing
from agent.lane.passage import likely_passage
from agent.lane.state import Detector, MetalTest, Part, Turn, Walk
from agent.records import MetalPart, MetalResult
from drivers.readings import MetalAlarm, MetalPassages, MetalProgram


def on_metal_alarm(turn: Turn, device: str, reading: MetalAlarm) -> None:
    """Take the alarm relay: say a new alarm at once, clear it when the relay falls."""
    # A random selection has its own relay or its own word: it never stands for one of metal.
    relay = _random(device) if reading.is_random else device
    before = turn.state.metal_levels.get(relay)
    if reading.active is not None or reading.pulses is None:
        turn.state.metal_levels = {**turn.state.metal_levels, relay: reading.active}
    if reading.active is None and not reading.pulses:  # None: lost; 0: counted, and none began
        _remember(turn, relay, replace(_detector(turn, relay), is_counting=reading.pulses == 0))
    is_rising = reading.active is True and before is not True
    begun = _begun(turn, relay, reading.pulses, is_rising=is_rising)
    test = turn.state.metal_tests.get(device)
    if test is not None:
        found = 0 if reading.is_random else begun
        _test_on(turn, device, replace(test, alarms=test.alarms + found))
        return
    if begun == 0:
        _measure_on(turn, device, reading)
        return
    walk = _measured(_walk(turn, device), reading)
    if reading.is_random:
        _put(turn, device, replace(walk, randoms=walk.randoms + begun))
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
            walk, alarm=raised(turn, finding, turn.new_id("m"), likely_passage(turn, device))
        )
    _put(turn, device, replace(walk, alarms=walk.alarms + begun))


def _random(device: str) -> str:
    """Return the name that a detector's random selection is remembered by; no device has it."""
    return f"{device}:random"


def _detector(turn: Turn, relay: str) -> Detector:
    return turn.state.metal_detectors.get(relay, Detector())


def _remember(turn: Turn, relay: str, detector: Detector) -> None:
    turn.state.metal_detectors = {**turn.state.metal_detectors, relay: detector}


def _measure_on(turn: Turn, device: str, reading: MetalAlarm) -> None:
    """Add what is only said while an alarm lasts to the walk it began in."""
    walk = turn.state.walks.get(device)
    if walk is not None and walk.alarms and reading.active:
        _put(turn, device, _measured(walk, reading))


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


def _begun(turn: Turn, relay: str, pulses: int | None, *, is_rising: bool) -> int:
    """Return how many alarms began: each is seen at the contact, at its latched counter, or both.

    Whichever is read first says the alarm; the other's word for the same one is then not another.
    ``pulses`` None: there is no counter, and a rising contact is one alarm.
    """
    if pulses is None:
        return int(is_rising)
    pairing = _detector(turn, relay)
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
        ahead = 0 if is_rising or turn.state.metal_levels.get(relay) else begun
        pairing = replace(
            pairing,
            risen_first=pairing.risen_first - told,
            counted_first=pairing.counted_first + ahead,
        )
    _remember(turn, relay, pairing)
    return begun


def on_passages(turn: Turn, device: str, reading: MetalPassages) -> None:
    """Count persons in and out."""
    counted = (("in", reading.entered or 0), ("out", reading.left or 0))
    persons = sum(n for _, n in counted)
    if persons == 0:
        return
    test = turn.state.metal_tests.get(device)
    if test is not None:
        _test_on(turn, device, replace(test, passages=test.passages + persons))
        return
    walk = _walk(turn, device)
    new = tuple(side for side, n in counted if n and side not in walk.directions)
    walk = replace(walk, persons=walk.persons + persons, directions=walk.directions + new)
    _put(turn, device, walk)


def on_program(turn: Turn, device: str, reading: MetalProgram) -> None:
    """Keep what the detector is set to; another setting than the first stands as a fault."""
    detector = _detector(turn, device)
    now = _completed(reading, detector.now)
    first = _completed(detector.first, now)
    _remember(turn, device, replace(detector, first=first, now=now))
    text = (
        f"{device}: the program changed from {_named(first)} to {_named(now)}, which voids the "
        "test certificate; set it back, or test the detector anew and restart the agent"
    )
    set_standing(turn, fault(device, "program_changed", text), active=now != first)


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


def on_ready(turn: Turn, device: str, *, is_ready: bool) -> None:
    """Note whether the detector says that it is working."""
    names = turn.state.not_ready
    turn.state.not_ready = names - {device} if is_ready else names | {device}


def on_lost(turn: Turn, device: str) -> None:
    """Forget the alarm contact's level: silence is unknown."""
    for relay in (device, _random(device)):
        turn.state.metal_levels = {**turn.state.metal_levels, relay: None}
        kept = _detector(turn, relay)
        _remember(turn, relay, Detector(first=kept.first, now=kept.now))


def settle(turn: Turn, device: str) -> None:
    """Expect no more at the contact what the counter has told: its pulse was too short."""
    for relay in (device, _random(device)):
        _remember(turn, relay, replace(_detector(turn, relay), counted_first=0))


def finish(turn: Turn, device: str) -> None:
    """Make a walk that is over a part that a vehicle can claim."""
    walk = turn.state.walks[device]
    turn.state.walks = {d: w for d, w in turn.state.walks.items() if d != device}
    settle(turn, device)
    if walk.alarm is not None:
        cleared(turn, walk.alarm)
    now = _detector(turn, device).now
    content = MetalPart(
        device=device,
        result=_result(turn, device, walk),
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
        serial=turn.next_serial(),
        device=device,
        at=walk.at,
        content=content,
        alarm_ids=alarm_ids,
    )
    turn.state.parts = (*turn.state.parts, part)


def _result(turn: Turn, device: str, walk: Walk) -> MetalResult:
    if walk.alarms:
        return "alarm"
    if walk.randoms:
        return "random"
    is_heard = turn.state.metal_levels.get(device) is not None
    if device in turn.state.not_ready or not (is_heard or _detector(turn, device).is_counting):
        return "unknown"
    return "clear"


def _walk(turn: Turn, device: str) -> Walk:
    walk = turn.state.walks.get(device)
    if walk is None:
        return Walk(at=turn.stamp, last=turn.stamp)
    return replace(walk, last=turn.stamp)


def _test_on(turn: Turn, device: str, test: MetalTest) -> None:
    turn.state.metal_tests = {**turn.state.metal_tests, device: test}


def _put(turn: Turn, device: str, walk: Walk) -> None:
    turn.state.walks = {**turn.state.walks, device: walk}
