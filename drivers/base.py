"""The contracts of a driver, its line parameters, and how one is found by name.

A driver module offers ``Options`` (a frozen dataclass whose fields are
``Annotated[type, msgspec.Meta(...)]`` with a description and a unit), ``Driver(options)``, and
for serial lines ``LINE``, the line parameters its maker documents. A module under ``rpm`` may also
say ``PRESENCE``, ``GAMMA_RULE``, ``GIVES_SPECTRA``, ``GIVES_WINDOWS``, any module ``SILENCE_S``;
see ``DriverType``.
``SILENT_BY_NATURE = True`` says that the device may be well and say nothing for hours; a driver
that keeps more than 8 KiB between two calls says how much: ``BUFFER_LIMIT_BYTES``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType
from typing import Literal, Protocol, runtime_checkable

from drivers.readings import DeviceState, Reading

Parity = Literal["N", "E", "O"]
Table = Literal["coils", "discrete", "input", "holding"]

KINDS = ("rpm", "scale", "metal", "lane")

Presence = Literal["counts", "told", "none"]
"""How a portal shows that a vehicle is there: it sends counts only then; it says so
(``VehiclePresence``); it does not."""
GammaRule = Literal["tsa", "own", "none"]
"""Whose gamma decision it is: the N-sigma rule of TSA controllers, which can be recomputed; the
device's own; or the device counts nothing at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LineParameters:
    """A serial line's parameters."""

    baud: int = 9600
    data_bits: Literal[7, 8] = 8
    parity: Parity = "N"
    stop_bits: Literal[1, 2] = 1

    def __str__(self) -> str:
        return f"{self.baud} {self.data_bits}{self.parity}{self.stop_bits}"


Asked = Literal["gross", "net", "tare", "displayed", "gross_float", "net_float", "tare_float"]
QUESTION_NUMBERS: Mapping[Asked, int] = MappingProxyType(
    {
        "gross": 32,
        "net": 33,
        "tare": 34,
        "displayed": 37,
        "gross_float": 288,
        "net_float": 289,
        "tare_float": 290,
    }
)
"""All that may ever be written into a mailbox: its commands that only ask for a figure.

Of each, number and number with its bytes swapped stand for nothing that changes the indicator. That
is why 0 and 256 (status and weight) are missing: an empty mailbox echoes 0, and 256 swapped is 1.

Source: Rice Lake 880 network interface manual p. 13-21.
"""
MOST_SCALES = 9
"""Where a mailbox is taken one register too low, the scale's number arrives as the command: 10 sets
zero and 12 to 14 the tare."""
Written = tuple[int, tuple[int, ...]]
"""Address of the first holding register, and the words that are written there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is written into a mailbox of holding registers, which then answers by a figure.

    It has no way to say a command that changes the indicator: what it can ask for stands in
    ``QUESTION_NUMBERS``, and the value that a command would set is always 0. ``wait_s`` is how long
    the answer takes [s].

    Raises
    ------
    ValueError
        Where it asks for anything else, or of a scale that is not 1 to ``MOST_SCALES``.
    """

    address: int
    asked: Asked
    scale: int
    wait_s: float
    is_low_byte_first: bool = False

    def __post_init__(self) -> None:
        if self.asked not in QUESTION_NUMBERS:
            raise ValueError(f"{self.asked!r} is no question; known are {[*QUESTION_NUMBERS]}")
        if self.scale not in range(1, MOST_SCALES + 1):
            raise ValueError(f"scale {self.scale}: expected 1 to {MOST_SCALES}")

    @property
    def number(self) -> int:
        """Return the command's number, which the answer echoes."""
        return QUESTION_NUMBERS[self.asked]

    @property
    def words(self) -> tuple[int, ...]:
        """Return the four words: command, scale, and a value of 0."""
        words = (self.number, self.scale, 0, 0)
        return tuple(map(swapped, words)) if self.is_low_byte_first else words


def swapped(word: int) -> int:
    """Return a register with its two bytes in the other order."""
    return (word & 0xFF) << 8 | word >> 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A run of Modbus coils or registers that is read in one request.

    ``address`` counts from 0, as on the wire. ``period_s`` is how often it should be read. Where
    there are ``questions``, each is written and the block read behind it, one after the other.
    """

    table: Table
    address: int
    count: int
    period_s: float
    questions: tuple[Question, ...] = ()

    @property
    def values(self) -> int:
        """Return how many values a reading of it gives: ``count`` for each question."""
        return self.count * max(1, len(self.questions))

    @property
    def written(self) -> tuple[Written, ...]:
        """Return what is written for it: address and words of each question."""
        return tuple((question.address, question.words) for question in self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class CoilWrite:
    """Coils to set in one request: function 5 sets one, 15 several in a row."""

    address: int
    values: tuple[bool, ...]
    function: Literal[5, 15] = 15


@runtime_checkable
class StreamDriver(Protocol):
    """Talks in bytes. Pure: no clock, no I/O; keeps only its own bounded buffer."""

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""

    def poll(self) -> bytes:
        """Return what to send now; empty: nothing."""

    def silence(self) -> list[Reading]:
        """The line fell silent or was reopened: drop a half frame and say so."""

    def no_reply(self) -> list[Reading]:
        """The poll went unanswered in time: fall back, or say so."""


@runtime_checkable
class PolledDriver(Protocol):
    """Talks in Modbus registers."""

    def blocks(self) -> tuple[Block, ...]:
        """Return what to read; asked again after each decode."""

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say (coils and discrete inputs as 0 or 1); never raises.

        There are ``block.values`` of them: those behind its first question first.
        """

    def silence(self) -> list[Reading]:
        """The device was lost or found again: forget what only holds without a gap."""


@runtime_checkable
class OutputDriver(PolledDriver, Protocol):
    """Sets coils; says what to read back and what is safe when the agent is gone.

    ``blocks`` are the coils themselves: ``decode`` tells what they are, and holds them against
    what was asked for last.
    """

    @property
    def signals(self) -> tuple[str, ...]:
        """Which outputs are wired."""

    @property
    def pulse_s(self) -> float:
        """How long a pulse lasts [s]."""

    @property
    def differing(self) -> tuple[str, ...]:
        """Which outputs were last read back as something else than was asked for."""

    def levels(self, wanted: Mapping[str, bool]) -> tuple[CoilWrite, ...]:
        """Return what to write so that these outputs are on or off."""

    def pulse(self, signal: str, *, is_on: bool) -> tuple[CoilWrite, ...]:
        """Return what to write to begin or end a pulse; empty: it is not wired."""

    def safe(self) -> tuple[CoilWrite, ...]:
        """Return what to write so that everything is safe without the agent."""


@dataclass(frozen=True, slots=True)
class DriverType:
    """A driver found by name: its options, its maker and its documented line.

    ``presence`` and ``gamma_rule`` matter to the kind "rpm" only, see ``Presence`` and
    ``GammaRule``. ``silence_s`` is without a good frame for how long the device is lost [s]; None:
    as its kind.
    """

    name: str
    options: type
    make: type
    line: LineParameters
    is_polled: bool
    presence: Presence = "none"
    gamma_rule: GammaRule = "own"
    silence_s: float | None = None
    is_silent_by_nature: bool = False
    """It speaks only when somebody comes: its silence tells nothing."""
    is_output: bool = False
    gives_spectra: bool = False
    gives_windows: bool = False
    """It counts in energy windows, with a background of its own in each."""
    has_long_messages: bool = False
    """Its messages are of thousands of bytes: the module says its own ``BUFFER_LIMIT_BYTES``."""


class UnknownDriverError(LookupError):
    """No driver has this name."""


def names() -> tuple[str, ...]:
    """Return every driver's name, ``kind.device``, sorted."""
    found = []
    for kind in KINDS:
        package = importlib.import_module(f"drivers.{kind}")
        found += [f"{kind}.{module.name}" for module in pkgutil.iter_modules(package.__path__)]
    return tuple(sorted(found))


def find(name: str) -> DriverType:
    """Return the driver of that name.

    Raises
    ------
    UnknownDriverError
        If the name is not on the package's own list; no other module is ever imported.
    """
    known = names()
    if name not in known:
        raise UnknownDriverError(f"there is no driver {name!r}; known are {', '.join(known)}")
    module = importlib.import_module(f"drivers.{name}")
    return DriverType(
        name=name,
        options=module.Options,
        make=module.Driver,
        line=getattr(module, "LINE", LineParameters()),
        is_polled=hasattr(module.Driver, "decode"),
        presence=getattr(module, "PRESENCE", "none"),
        gamma_rule=getattr(module, "GAMMA_RULE", "own"),
        silence_s=getattr(module, "SILENCE_S", None),
        is_silent_by_nature=getattr(module, "SILENT_BY_NATURE", False),
        is_output=hasattr(module.Driver, "safe"),
        gives_spectra=getattr(module, "GIVES_SPECTRA", False),
        gives_windows=getattr(module, "GIVES_WINDOWS", False),
        has_long_messages=hasattr(module, "BUFFER_LIMIT_BYTES"),
    )


def ascii_integers(fields: Sequence[str], width: int) -> tuple[int, ...] | None:
    """Return fixed-width decimal fields as integers, or None where one is anything else.

    ``int()`` alone would take ``+5``, `` 7 `` and ``1_000``.
    """
    if any(len(f) != width or not f.isascii() or not f.isdigit() for f in fields):
        return None
    return tuple(int(f) for f in fields)


KG_PER_UNIT = {
    "g": Decimal("0.001"),
    "kg": Decimal(1),
    "t": Decimal(1000),
    "lb": Decimal("0.45359237"),
    "oz": Decimal("0.028349523125"),
}
"""Exact: the pound is defined as 0.45359237 kg (international yard and pound agreement, 1959)."""


def mass_kg(value: Decimal, unit: str) -> float:
    """Return the mass [kg] of an indication; KeyError for a unit not in KG_PER_UNIT."""
    return float(value * KG_PER_UNIT[unit])


class EqualFrames:
    """A vote for protocols without an integrity field: ``needed`` equal frames in a row."""

    def __init__(self, needed: int) -> None:
        self._needed = needed
        self._last = b""
        self._seen = 0

    def agrees(self, frame: bytes) -> bool:
        """Count this frame; true where it and those just before it are enough."""
        self._seen = min(self._seen + 1, self._needed) if frame == self._last else 1
        self._last = frame
        return self._seen >= self._needed

    def forget(self) -> None:
        """Start again: what came before no longer counts."""
        self._last, self._seen = b"", 0


class Conditions:
    """What stands of a device, so that each condition is told where it changed, and not again.

    Parameters
    ----------
    told_first : conditions that are told at the first look too where they do not hold
    """

    def __init__(self, *told_first: str) -> None:
        self._told_first = told_first
        self._stands: dict[str, bool] = {}
        self._active_reads: dict[str, int] = {}

    def turned(self, name: str, *, active: bool, detail: str = "") -> list[Reading]:
        """Return that a condition began or ended; empty: it is as it was told."""
        before = self._stands.get(name, None if name in self._told_first else False)
        if before is active:
            return []
        self._stands[name] = active
        return [DeviceState(condition=name, active=active, detail=detail)]

    def stuck(self, signal: str, *, active: bool, period_s: float, limit_s: float) -> list[Reading]:
        """Take a read of a signal, one each ``period_s``; it is stuck once active for so long."""
        reads = self._active_reads.get(signal, 0) + 1 if active else 0
        self._active_reads[signal] = reads
        is_stuck = (reads - 1) * period_s >= limit_s
        detail = f"active for {limit_s:g} s" if is_stuck else ""
        return self.turned(f"{signal}_stuck", active=is_stuck, detail=detail)

    @property
    def is_counting(self) -> bool:
        """Return whether a signal is active, so that each further read of it counts."""
        return any(self._active_reads.values())

    def lost(self, *also: str) -> list[Reading]:
        """Forget all; return what nobody knows now: what stood, and of ``also`` what was told."""
        unknown: list[Reading] = [
            DeviceState(condition=name, active=None)
            for name, active in self._stands.items()
            if active or name in also
        ]
        self._stands.clear()
        self._active_reads.clear()
        return unknown
