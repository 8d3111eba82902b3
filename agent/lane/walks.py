"""The metal detector: persons and alarms that lie close together are one walk.

A random selection is never a metal alarm. A person counted while the detector was not ready, or
its alarm contact unknown, is "unknown", never "clear".
"""

from __future__ import annotations

from dataclasses import replace

from agent.lane.alarms import Finding, cleared, raised
from agent.lane.passage import likely_passage
from agent.lane.state import Pairing, Part, Turn, Walk
from agent.records import MetalPart, MetalResult
from drivers.readings import MetalAlarm, MetalPassages


def on_metal_alarm(turn: Turn, device: str, reading: MetalAlarm) -> None:
    """Take the alarm relay: say a new alarm at once, clear it when the relay falls."""
    before = turn.state.metal_levels.get(device)
    if reading.active is not None:
        turn.state.metal_levels = {**turn.state.metal_levels, device: reading.active}
    is_rising = reading.active is True and before is not True
    begun = _begun(turn, device, reading.pulses, is_rising=is_rising)
    if begun == 0:
        return
    walk = _walk(turn, device)
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


def _begun(turn: Turn, device: str, pulses: int | None, *, is_rising: bool) -> int:
    """Return how many alarms began: each is seen at the contact, at its latched counter, or both.

    Whichever is read first says the alarm; the other's word for the same one is then not another.
    ``pulses`` None: there is no counter, and a rising contact is one alarm.
    """
    if pulses is None:
        return int(is_rising)
    pairing = turn.state.metal_pairing.get(device, Pairing())
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
        ahead = 0 if is_rising or turn.state.metal_levels.get(device) else begun
        pairing = Pairing(
            risen_first=pairing.risen_first - told,
            counted_first=pairing.counted_first + ahead,
        )
    turn.state.metal_pairing = {**turn.state.metal_pairing, device: pairing}
    return begun


def on_passages(turn: Turn, device: str, reading: MetalPassages) -> None:
    """Count persons in and out."""
    counted = (("in", reading.entered or 0), ("out", reading.left or 0))
    persons = sum(n for _, n in counted)
    if persons == 0:
        return
    walk = _walk(turn, device)
    new = tuple(side for side, n in counted if n and side not in walk.directions)
    walk = replace(walk, persons=walk.persons + persons, directions=walk.directions + new)
    _put(turn, device, walk)


def on_ready(turn: Turn, device: str, *, is_ready: bool) -> None:
    """Note whether the detector says that it is working."""
    names = turn.state.not_ready
    turn.state.not_ready = names - {device} if is_ready else names | {device}


def on_lost(turn: Turn, device: str) -> None:
    """Forget the alarm contact's level: silence is unknown."""
    turn.state.metal_levels = {**turn.state.metal_levels, device: None}
    turn.state.metal_pairing = {**turn.state.metal_pairing, device: Pairing()}


def finish(turn: Turn, device: str) -> None:
    """Make a walk that is over a part that a vehicle can claim."""
    walk = turn.state.walks[device]
    turn.state.walks = {d: w for d, w in turn.state.walks.items() if d != device}
    # A pulse too short for the contact never rises there: do not wait for it for ever.
    pairing = replace(turn.state.metal_pairing.get(device, Pairing()), counted_first=0)
    turn.state.metal_pairing = {**turn.state.metal_pairing, device: pairing}
    if walk.alarm is not None:
        cleared(turn, walk.alarm)
    content = MetalPart(
        device=device,
        result=_result(turn, device, walk),
        persons=walk.persons,
        alarms=walk.alarms,
        directions=walk.directions,
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
    if device in turn.state.not_ready or turn.state.metal_levels.get(device) is None:
        return "unknown"
    return "clear"


def _walk(turn: Turn, device: str) -> Walk:
    walk = turn.state.walks.get(device)
    if walk is None:
        return Walk(at=turn.stamp, last=turn.stamp)
    return replace(walk, last=turn.stamp)


def _put(turn: Turn, device: str, walk: Walk) -> None:
    turn.state.walks = {**turn.state.walks, device: walk}
