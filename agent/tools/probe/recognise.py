"""Which driver reads these bytes: a pure judgement, ranked, on what was heard.

Every stream driver is fed the bytes, first with its defaults and then with its other closed
choices (``form``, ``checksum`` …); a driver that polls is polled without anything being sent, so
that it takes what somebody else asked for. What counts is the share of the bytes that ended in a
reading, the number of frames, and integrity fields that were right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from agent.tools.probe.sample import Marking, marking, unmarked
from agent.tools.probe.variants import known_drivers, make, variants
from drivers.base import Block, DriverType, PolledDriver, StreamDriver, Table
from drivers.readings import BadFrame, Reading, Reason, Undocumented

JUDGED_BYTES = 4096
"""Only the last so many bytes are judged: enough for 200 frames, and bounded work."""
PIECE_BYTES = 16
LONG_JUDGED_BYTES = 32_768
LONG_PIECE_BYTES = 512
"""The same for drivers whose messages are of thousands of bytes."""
KEPT_READINGS = 4

LEAST_SHARE = 0.5
"""Less of the bytes explained than this is chance or a wrong line."""
EQUAL_SHARES = 0.03
"""Two drivers closer than this read the same bytes equally well."""
CLEARLY_MORE = 0.15
WHOLE_SHARE = 0.95

LOOK_ALIKES: dict[frozenset[str], str] = {}
"""Drivers whose frames are the same on the wire, and what tells the devices apart."""

_PIECE_ENDS = b"\r\n\x03"
_POLLS_TO_READY = 4

Certainty = Literal["sure", "likely", "possible"]
Address = tuple[Table, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One driver and how well it reads the bytes.

    ``options`` are those to be set because the defaults read less. ``share`` is how much of the
    bytes (or of its Modbus blocks) ended in a reading, 0 to 1.
    """

    driver: str
    options: Mapping[str, object]
    certainty: Certainty
    why: str
    share: float
    frames: int
    refused: int
    verified: int
    readings: tuple[Reading, ...]
    refusals: tuple[BadFrame, ...]
    look_alikes: tuple[str, ...] = ()
    """Drivers that read the same bytes just as well."""
    undecided: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    """Of ``options``, those of which several values read just as well."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognition:
    """Who reads the bytes, the best first; ``marking`` is what bit 7 held."""

    heard_bytes: int
    marking: Marking
    candidates: tuple[Candidate, ...]

    @property
    def best(self) -> Candidate | None:
        """Return the first, None where nobody reads the bytes."""
        return self.candidates[0] if self.candidates else None


@dataclass(slots=True)
class _Tally:
    """What became of the bytes that a driver was fed."""

    good_bytes: int = 0
    bad_bytes: int = 0
    pending: int = 0
    frames: int = 0
    refused: int = 0
    verified: int = 0
    readings: tuple[Reading, ...] = ()
    refusals: tuple[BadFrame, ...] = ()

    def take(self, fed_bytes: int, said: Sequence[Reading]) -> None:
        """Count what one piece made the driver say."""
        self.pending += fed_bytes
        if not said:
            return
        good = [r for r in said if not isinstance(r, BadFrame | Undocumented)]
        # A device's own word for "I will not" is one of its messages.
        refused = [r for r in said if isinstance(r, BadFrame)]
        bad = [r for r in refused if r.reason is not Reason.DEVICE_ERROR]
        is_good = bool(good) or len(refused) > len(bad)
        if not is_good and self.frames == 0 and self.refused == 0 and _is_joining(bad):
            self.pending = 0  # the rest of what was running when we came
            return
        bad_bytes = min(self.pending, sum(len(r.raw) for r in bad)) if is_good else self.pending
        if not is_good and not bad:
            bad_bytes = 0  # a message whose meaning is not published: of the device, no evidence
        self.good_bytes += self.pending - bad_bytes
        self.bad_bytes += bad_bytes
        self.pending = 0
        self.frames += is_good
        self.refused += len(bad)
        self.verified += sum(getattr(r, "verified", False) for r in good)
        new = [r for r in dict.fromkeys(good) if r not in self.readings]
        self.readings = (*self.readings, *new)[:KEPT_READINGS]
        self.refusals = (*self.refusals, *bad)[:KEPT_READINGS]

    @property
    def share(self) -> float:
        """Return how much of the bytes ended in a reading, 0 to 1."""
        total = self.good_bytes + self.bad_bytes
        return self.good_bytes / total if total and self.frames else 0.0


def recognise(data: bytes) -> Recognition:
    """Return which stream drivers read these bytes; none where it could be chance."""
    data = data[-LONG_JUDGED_BYTES:]
    bit_7 = marking(data[-JUDGED_BYTES:])
    candidates = _ranked(data if bit_7 == "none" else unmarked(data))
    if bit_7 != "none" and not candidates:
        bit_7, candidates = "none", _ranked(data)
    return Recognition(
        heard_bytes=min(len(data), JUDGED_BYTES), marking=bit_7, candidates=candidates
    )


def recognise_registers(
    answers: Mapping[Address, tuple[int, ...] | None],
) -> tuple[Candidate, ...]:
    """Return which Modbus drivers read a unit; an answer None: asked, and refused.

    Registers do not say what they mean, so this is never more than possible.
    """
    found = []
    for driver in known_drivers():
        if not driver.is_polled:
            continue
        tallies = [(v, _decode(driver, v, answers)) for v in variants(driver, required_only=True)]
        best = max(tallies, key=lambda item: item[1].share, default=None)
        if best is not None and best[1].share >= WHOLE_SHARE:
            undecided = _undecided(best, tallies)
            found.append(_candidate(driver, *best, equals=(), undecided=undecided))
    found.sort(key=lambda c: (-c.frames, c.driver))
    return tuple(found)


def needed_blocks() -> tuple[Block, ...]:
    """Return what the Modbus drivers would read first, each block once.

    What must be asked for by writing is left out: nothing is written to an unknown device.
    """
    blocks: dict[Address, Block] = {}
    for driver in known_drivers():
        if driver.is_polled:
            for options in variants(driver, required_only=True):
                made = cast("PolledDriver", make(driver, options))
                read = (block for block in made.blocks() if not block.questions)
                blocks |= {(b.table, b.address, b.count): b for b in read}
    return tuple(blocks.values())


# ---------------------------------------------------------------- judging


Tried = tuple[Mapping[str, object], _Tally]
Undecided = Mapping[str, tuple[object, ...]]


def _ranked(data: bytes) -> tuple[Candidate, ...]:
    best: list[tuple[DriverType, Mapping[str, object], _Tally, Undecided]] = []
    short = tuple(_pieces(data[-JUDGED_BYTES:]))
    long = tuple(data[at : at + LONG_PIECE_BYTES] for at in range(0, len(data), LONG_PIECE_BYTES))
    for driver in known_drivers():
        if driver.is_polled:
            continue
        pieces = long if driver.has_long_messages else short
        if (found := _best_variant(driver, pieces)) is not None:
            best.append((driver, *found, _undecided(found, _alike(driver, found, pieces))))
    best.sort(key=lambda item: _rank(item[0].name, item[1], item[2]))
    tallies = {driver.name: tally for driver, _, tally, _ in best}
    return tuple(
        _candidate(
            driver, options, tally, equals=_equals(driver.name, tallies), undecided=undecided
        )
        for driver, options, tally, undecided in best
    )


def _rank(name: str, options: Mapping[str, object], tally: _Tally) -> tuple[object, ...]:
    return (
        -round(tally.share, 1),
        -tally.verified,
        -tally.frames,
        -tally.share,
        len(options),
        name,
    )


def _best_variant(driver: DriverType, pieces: Sequence[bytes]) -> Tried | None:
    best: Tried | None = None
    for options in variants(driver):
        tally = _feed(driver, options, pieces)
        if tally.share < LEAST_SHARE:
            continue
        if best is None or _is_clearly_better(tally, best[1]):
            best = options, tally
        if best[1].share >= WHOLE_SHARE and best[1].frames >= 3:
            break
    return best


def _alike(driver: DriverType, best: Tried, pieces: Sequence[bytes]) -> list[Tried]:
    """Return what the other values of each option that would be set read."""
    chosen = best[0]
    return [
        (options, _feed(driver, options, pieces))
        for options in variants(driver)
        if options.keys() == chosen.keys() and sum(options[n] != chosen[n] for n in chosen) <= 1
    ]


def _undecided(best: Tried, tried: Sequence[Tried]) -> Undecided:
    """Return the options of which several values read as well as the best."""
    chosen, tally = best
    equal = [
        options
        for options, theirs in tried
        if theirs.share >= tally.share and theirs.verified >= tally.verified
    ]
    values = {name: tuple(dict.fromkeys(options[name] for options in equal)) for name in chosen}
    return {name: several for name, several in values.items() if len(several) > 1}


def _is_clearly_better(one: _Tally, other: _Tally) -> bool:
    """Tell whether an option is worth setting: without a reason the default stands."""
    if one.verified and not other.verified:
        return one.share >= other.share - EQUAL_SHARES
    return one.share >= other.share + CLEARLY_MORE and bool(one.verified) >= bool(other.verified)


def _feed(found: DriverType, options: Mapping[str, object], pieces: Sequence[bytes]) -> _Tally:
    driver = cast("StreamDriver", make(found, options))
    tally = _Tally()
    is_polling = driver.poll_period_s is not None
    polls = _POLLS_TO_READY
    for piece in pieces:
        if is_polling:
            for _ in range(polls):
                driver.poll()
        said = driver.feed(piece)
        tally.take(len(piece), said)
        # Between two polls a device has answered; inside an answer nothing is asked.
        is_between = bool(said) or piece[-1:] in (b"\n", b"\x03")
        is_between &= not found.has_long_messages  # a long piece holds the next one's beginning
        polls = _POLLS_TO_READY if is_between else 0
    return tally


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield the bytes cut behind each line end, CR LF together, and into short pieces."""
    start = 0
    for i, byte in enumerate(data):
        is_end = byte in _PIECE_ENDS and not (byte == 0x0D and data[i + 1 : i + 2] == b"\n")
        if is_end or i - start + 1 >= PIECE_BYTES:
            yield data[start : i + 1]
            start = i + 1
    if start < len(data):
        yield data[start:]


def _decode(
    driver: DriverType,
    options: Mapping[str, object],
    answers: Mapping[Address, tuple[int, ...] | None],
) -> _Tally:
    made = cast("PolledDriver", make(driver, options))
    tally = _Tally()
    for _ in range(2):  # a counter says nothing before its second figure
        for block in made.blocks():
            key = (block.table, block.address, block.count)
            if key not in answers:
                continue
            registers = answers[key]
            if registers is None:
                tally.bad_bytes += 1
                tally.refused += 1
                continue
            tally.take(1, made.decode(block, registers))
    return tally


def _is_joining(bad: Sequence[BadFrame]) -> bool:
    return len(bad) == 1 and bad[0].reason is Reason.TRUNCATED


def _equals(name: str, tallies: Mapping[str, _Tally]) -> tuple[str, ...]:
    """Return who else reads these bytes as well; a right checksum outranks none."""
    tally = tallies[name]
    return tuple(
        other
        for other, theirs in tallies.items()
        if other != name
        and abs(theirs.share - tally.share) <= EQUAL_SHARES
        and bool(theirs.verified) >= bool(tally.verified)
    )


def _candidate(
    driver: DriverType,
    options: Mapping[str, object],
    tally: _Tally,
    *,
    equals: tuple[str, ...],
    undecided: Undecided,
) -> Candidate:
    return Candidate(
        driver=driver.name,
        options=options,
        certainty=_certainty(driver, tally, equals),
        why=_why(driver, tally, equals),
        share=tally.share,
        frames=tally.frames,
        refused=tally.refused,
        verified=tally.verified,
        readings=tally.readings,
        refusals=tally.refusals,
        look_alikes=equals,
        undecided=undecided,
    )


def _certainty(driver: DriverType, tally: _Tally, equals: Sequence[str]) -> Certainty:
    is_lone = tally.frames < 2 and not tally.verified
    if driver.is_polled or equals or is_lone or tally.share < 0.75:
        return "possible"
    is_sure = (tally.verified >= 2 or tally.frames >= 3) and tally.share >= 0.9
    return "sure" if is_sure else "likely"


def _why(driver: DriverType, tally: _Tally, equals: Sequence[str]) -> str:
    if driver.is_polled:
        return (
            "every read was answered and decoded; registers do not say what they mean, so compare "
            "one value with the device's own display"
        )
    decoded = (
        f"{tally.frames} frame{'s' * (tally.frames != 1)} decoded, {tally.refused} refused, "
        f"{100 * tally.share:.0f} % of the bytes explained"
    )
    parts = [decoded]
    if tally.verified:
        parts.append(f"{tally.verified} with a right checksum")
    if tally.frames < 3 and tally.verified < 2:
        parts.append("few frames: listen longer")
    for other in equals:
        reason = LOOK_ALIKES.get(
            frozenset({driver.name, other}), "compare with the indicator's manual"
        )
        parts.append(f"{other} reads the same bytes as well: {reason}")
    return "; ".join(parts)
