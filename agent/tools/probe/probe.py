"""``checkpointd probe``: listen at one port and find which driver reads what comes.

It writes nothing unless told to ask; then only requests of ``HARMLESS``, or Modbus reads. Never
``Z``, ``T`` or ``C``, which zero, tare and clear, and no cancel, which may clear a tare.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import cast

from agent.tools.probe.ear import REPLIES, REPLY_S, Ear, Heard, Kind
from agent.tools.probe.recognise import Candidate, recognise
from agent.tools.probe.sample import Marking, is_regular
from agent.tools.probe.variants import known_drivers, make, variants
from drivers.base import LineParameters, Parity, StreamDriver
from drivers.modbus import Framing

HARMLESS = (b"\nW\r", b"W\r", b"SI\r\n", b"READ\r\n", b"W")
"""Requests that only ask for a weight. The bare W is last: without an end of its own it would run
into the next request.

Source: SMA SCP-0499 (LF W CR); NCI 7821 p. 25 (W CR); Mettler-Toledo 8217 (W); Mettler-Toledo AT
p. 87 (SI); Dini Argeo 3590EXP manual (READ).
"""

SPEEDS_BAUD = (9600, 19200, 4800, 2400, 1200, 38400, 57600, 115200)
FIRST_BYTE_SPELLS = 3
"""A line on which nothing has come yet is given so many times the time: portals talk every 5 s."""
HOPELESS_BYTES = 600
"""So much that nobody reads, and the next speed is tried."""
DOUBTFUL_ERRORS = 0.02
"""More line errors a byte than this: the parity is another, whatever decodes."""
GOOD_SHARE = 0.75
"""No wrong speed lets a driver read so much of the bytes."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the technician wants: ``seconds`` to listen at each setting, and whether to ask."""

    seconds: float = 6.0
    is_asking: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What is at the port; ``candidates`` is empty where nothing was recognised.

    ``line`` is how the serial port stood, None where it has no line parameters. ``data`` is what
    was heard there, ``asked`` what had been sent, ``tried`` at how many settings. ``framing`` is
    that of a Modbus unit that answered, None where none did. ``errors`` are framing and parity
    errors of the line, None where nobody counts them. ``lost``: why listening ended early.
    """

    kind: Kind
    line: LineParameters | None = None
    candidates: tuple[Candidate, ...] = ()
    marking: Marking = "none"
    data: bytes = b""
    asked: bytes = b""
    asked_in_vain: bool = False
    tried: int = 1
    unit: int | None = None
    framing: Framing | None = None
    errors: int | None = None
    lost: str = ""

    @property
    def best(self) -> Candidate | None:
        """Return the best candidate, None where nothing was recognised."""
        return self.candidates[0] if self.candidates else None

    @property
    def is_good(self) -> bool:
        """Tell whether this is the right speed: a driver reads most of what comes."""
        return self.best is not None and self.best.share >= GOOD_SHARE

    @property
    def is_doubtful(self) -> bool:
        """Tell whether the line counted so many errors that its parity must be another."""
        return self.errors is not None and self.errors > DOUBTFUL_ERRORS * len(self.data)


async def probe_stream(ear: Ear, plan: Plan, say: Say) -> Found:
    """Return what is at a port; ``say`` gets one line of progress at each step.

    It is asked only where the plan says so and listening was not enough. Raises LinkError where
    the port cannot be opened.
    """
    found = await _listen(ear, plan, say)
    if found.best is None and plan.is_asking and not found.lost:
        asked = await _ask(ear, say)
        if asked.best is not None or (asked.data and not found.data):
            return asked
        return replace(found, asked_in_vain=True)
    return found


# ---------------------------------------------------------------- listening


def listening_lines(kind: Kind) -> tuple[LineParameters, ...]:
    """Return the settings to listen at, the makers' own first.

    7E1 and 7O1 are not among them: such a device is received whole at 8N1, its parity in bit 7.
    """
    if kind != "serial":
        return (LineParameters(),)
    makers = [_as_received(driver.line) for driver in known_drivers() if not driver.is_polled]
    every = [
        LineParameters(baud=baud, parity=parity)
        for parity in cast("tuple[Parity, ...]", ("N", "E", "O"))
        for baud in SPEEDS_BAUD
    ]
    return tuple(dict.fromkeys([LineParameters(), *makers, *every]))


def _as_received(line: LineParameters) -> LineParameters:
    parity: Parity = line.parity if line.data_bits == 8 else "N"
    return LineParameters(baud=line.baud, parity=parity)


async def _listen(ear: Ear, plan: Plan, say: Say) -> Found:
    lines = list(listening_lines(ear.kind))
    most_s = plan.seconds * (FIRST_BYTE_SPELLS + len(lines) - 1)
    say(f"listening, nothing is written; at most {most_s:.3g} s")
    best: Found | None = None
    tried = 0
    while lines:
        line = lines.pop(0)
        tried += 1
        limit_s = plan.seconds * (FIRST_BYTE_SPELLS if best is None else 1)
        if ear.kind == "serial":
            say(f"{line}: listening for {limit_s:g} s")
        judge = _Judge(gives_up=ear.kind == "serial")
        heard = await ear.hear(line, limit_s, judge.is_enough)
        found = _found(ear.kind, line, heard)
        if best is None and not heard.data:
            return found  # a wrong speed garbles what comes, it does not hide it
        if best is None or _worth(found) > _worth(best):
            best = found
        if heard.lost or (found.is_good and not found.is_doubtful):
            break
        if found.is_good:  # a receiver may let a wrong parity pass: only the parity is left to find
            lines = [other for other in lines if other.baud == line.baud]
    assert best is not None
    return replace(best, tried=tried)


class _Judge:
    """Says when enough was heard; looks again only after half as much more has come."""

    def __init__(self, *, gives_up: bool) -> None:
        self._gives_up = gives_up
        self._next_bytes = 48

    def is_enough(self, data: bytes) -> bool:
        """Tell whether more bytes would change nothing."""
        if len(data) < self._next_bytes:
            return False
        self._next_bytes = len(data) * 3 // 2
        best = recognise(data).best
        if best is None:
            return self._gives_up and len(data) >= HOPELESS_BYTES
        return best.share >= 0.9 and best.frames >= (5 if best.certainty == "sure" else 10)


def _found(
    kind: Kind, line: LineParameters, heard: Heard, *, tried: int = 1, asked: bytes = b""
) -> Found:
    judged = recognise(heard.data)
    return Found(
        kind=kind,
        line=line if kind == "serial" else None,
        candidates=judged.candidates,
        marking=judged.marking,
        data=heard.data,
        asked=asked,
        tried=tried,
        errors=heard.errors,
        lost=heard.lost,
    )


def _worth(found: Found) -> tuple[object, ...]:
    """Rank what was heard at different settings: read by a driver, then in some order."""
    best = found.best
    if best is None:
        return False, False, 0.0, is_regular(found.data), len(found.data) > 0
    errors = (found.errors or 0) / len(found.data)
    return found.is_good, not found.is_doubtful, best.share - errors, True, True


# ---------------------------------------------------------------- asking


def requests() -> tuple[bytes, ...]:
    """Return the harmless requests that some driver makes."""
    wanted = set()
    for driver in known_drivers():
        if driver.is_polled:
            continue
        for options in variants(driver):
            wanted |= set(_polls(cast("StreamDriver", make(driver, options))))
    return tuple(request for request in HARMLESS if request in wanted)


def _polls(driver: StreamDriver) -> Iterator[bytes]:
    if driver.poll_period_s is not None:
        for _ in range(4):
            yield driver.poll()


def asking_lines(kind: Kind) -> tuple[LineParameters, ...]:
    """Return the settings to ask at; a 7E1 device wants its own parity in what it is sent."""
    if kind != "serial":
        return (LineParameters(),)
    makers = [driver.line for driver in known_drivers() if not driver.is_polled]
    every = [
        line
        for baud in SPEEDS_BAUD
        for line in (
            LineParameters(baud=baud),
            LineParameters(baud=baud, data_bits=7, parity="E"),
            LineParameters(baud=baud, data_bits=7, parity="O"),
            LineParameters(baud=baud, parity="E"),
            LineParameters(baud=baud, parity="O"),
        )
    ]
    return tuple(dict.fromkeys([LineParameters(), *makers, *every]))


async def _ask(ear: Ear, say: Say) -> Found:
    lines, wanted = asking_lines(ear.kind), requests()
    say(f"asking, at most {len(lines) * len(wanted) * REPLIES * REPLY_S:.0f} s")
    best = Found(kind=ear.kind)
    for tried, line in enumerate(lines, start=1):
        for request in wanted:
            at = f"{line}: " if ear.kind == "serial" else ""
            say(f"{at}asking {request.decode('ascii')!a}")
            heard = await ear.ask(line, request)
            found = _found(ear.kind, line, heard, tried=tried, asked=request)
            if _worth(found) > _worth(best):
                best = found
            if found.is_good:
                return found
            if heard.lost:
                return best
    return replace(best, tried=len(lines))
