"""What a technician says of metal detectors, contacts, readers and outputs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from msgspec import Meta

from agent.lane.options.words import Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalOptions:
    """A metal detector's place in the lane."""

    relation: Annotated[
        Relation, Meta(description="when the person walks through, seen from the occupancy")
    ] = "during"
    max_gap_s: Annotated[
        float,
        Meta(description="a person further than this from it is another's [s]", ge=0, le=3600),
    ] = 20.0
    alarm_joins_s: Annotated[
        float,
        Meta(description="an alarm and a person closer than this belong together [s]", ge=0, le=10),
    ] = 2.0
    test_every_h: Annotated[
        float | None,
        Meta(
            description="an operational test is due so long after the last that passed, and at "
            "every start [h]; absent: none is ever due",
            gt=0,
            le=8760,
        ),
    ] = None
    test_alarms: Annotated[
        int,
        Meta(description="a test passes with at least so many alarms in it", ge=1, le=100),
    ] = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactOptions:
    """What the contacts of one module are for, by their names."""

    presence: Annotated[
        tuple[str, ...],
        Meta(
            description="loops and photocells that see a vehicle, in the order in which one that "
            "comes in meets them",
            max_length=8,
        ),
    ] = ()
    tamper: Annotated[
        tuple[str, ...], Meta(description="contacts that raise a tamper alarm while active")
    ] = ()
    door: Annotated[
        tuple[str, ...], Meta(description="doors: active, that is open, raises a tamper alarm")
    ] = ()
    under_barrier: Annotated[
        tuple[str, ...],
        Meta(
            description="loops and photocells under the barrier: it is never closed by the agent "
            "while one of them, or of presence, is active or unknown",
            max_length=8,
        ),
    ] = ()
    barrier_closed: Annotated[
        str | None, Meta(description="limit switch, active while the barrier is down")
    ] = None
    barrier_open: Annotated[
        str | None, Meta(description="limit switch, active while the barrier is up")
    ] = None

    metal_test: Annotated[
        str | None,
        Meta(
            description="key switch: while it is active, walks at the lane's metal detectors are "
            "an operational test and no passage"
        ),
    ] = None
    metal_test_of: Annotated[
        dict[str, str],
        Meta(
            description="metal detectors with a key switch of their own, each with its switch; "
            "metal_test is for all others",
            max_length=16,
        ),
    ] = field(default_factory=dict)

    @property
    def named(self) -> tuple[str, ...]:
        """Return every name that has a role here."""
        single = (self.barrier_closed, self.barrier_open)
        names = (*(name for name in single if name), *self.test_switches)
        return (*self.presence, *self.tamper, *self.door, *self.under_barrier, *names)

    @property
    def test_switches(self) -> tuple[str, ...]:
        """Return the key switches of metal detectors' tests; one for several stands once."""
        own = dict.fromkeys(self.metal_test_of.values())
        return (*own, self.metal_test) if self.metal_test else tuple(own)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityOptions:
    """A reader's place in the lane, and how much of what it reads is written down."""

    relation: Annotated[
        Relation, Meta(description="when something is read, seen from the occupancy")
    ] = "during"
    max_gap_s: Annotated[
        float,
        Meta(description="a reading further than this from it is another's [s]", ge=0, le=3600),
    ] = 15.0
    debounce_s: Annotated[
        float,
        Meta(
            description="the same again within so long of the last time is the same reading [s]",
            ge=0,
            le=3600,
        ),
    ] = 10.0
    identity_privacy: Annotated[
        Literal["token", "clear"],
        Meta(
            description="token: a passage holds a keyed token and only an alarm's record the text; "
            "clear: both hold the text"
        ),
    ] = "token"


AlarmWord = Literal["gamma", "neutron", "spectral", "metal", "weight", "tamper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputOptions:
    """What the lane's outputs show, and whether its barrier moves by itself."""

    beacon_kinds: Annotated[
        tuple[AlarmWord, ...], Meta(description="kinds of alarm that light the beacon")
    ] = ("gamma", "neutron", "spectral", "metal", "weight", "tamper")
    siren_kinds: Annotated[
        tuple[AlarmWord, ...], Meta(description="kinds of alarm that sound the siren")
    ] = ("gamma", "neutron", "spectral")
    siren_s: Annotated[
        float,
        Meta(description="the siren is silent so long after an alarm began [s]", ge=1, le=600),
    ] = 30.0
    hold_s: Annotated[
        float,
        Meta(description="an alarm is shown so long after it was cleared [s]", ge=0, le=600),
    ] = 10.0
    barrier: Annotated[
        Literal["manual", "routine"],
        Meta(
            description="manual: never moved by the agent; routine: opened for a vehicle without "
            "any finding, closed behind it"
        ),
    ] = "manual"
    close_after_s: Annotated[
        float,
        Meta(description="the way must be free so long before the barrier closes [s]", ge=0, le=60),
    ] = 2.0
    opens_despite_radiation: Annotated[
        bool,
        Meta(description="true: the barrier may open while a gamma or neutron alarm stands"),
    ] = False
