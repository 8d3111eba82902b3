"""Beacon, siren, traffic light and barrier on the relays of a Modbus module.

Coils, addresses from 0 as on the wire; Moxa ioLogik E1212, output c::

    coil  0x0000 + c    the relay: 1 on, 0 off    (FC01 read, FC05 or FC15 written)

Only the coils that are named are ever written, each by its own address or with its named
neighbours; no register is. Everything written is read back, and read again every
``readback_period_s``: an output that is not what was asked for stands as ``output_mismatch``.

A barrier is moved by a pulse (about 200 ms), never by a level that stays. ``inverted`` outputs are
on while their relay is off: wire red so, and it shows red without power.

``safe_on`` is what is on when nobody decides: written at the start and at an orderly stop. When the
agent dies, only the module itself can do it: set its own watchdog and safe state to the same, and
say here after how long it acts (``watchdog_s``); reading back keeps it quiet meanwhile.

Source: Moxa ioLogik E1212 manual p. A-7 to A-10 (coils at 0x0000, safe status). Unconfirmed: the
meaning of any other module's map, e.g. Advantech ADAM-4000 with its outputs from 0x0010.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Block, CoilWrite
from drivers.inputs import UNWIRED, Address
from drivers.readings import Contact, DeviceState, Reading
from drivers.registers import Part, plan, refusal

Signal = Literal["beacon", "siren", "red", "green", "yellow", "barrier_open", "barrier_close"]
SIGNALS: tuple[Signal, ...] = (
    *("beacon", "siren", "red", "green", "yellow"),
    *("barrier_open", "barrier_close"),
)
PULSED: tuple[Signal, ...] = ("barrier_open", "barrier_close")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which coil is wired to what."""

    beacon: Address = UNWIRED
    siren: Address = UNWIRED
    red: Address = UNWIRED
    green: Address = UNWIRED
    yellow: Address = UNWIRED
    barrier_open: Address = UNWIRED
    barrier_close: Address = UNWIRED
    inverted: Annotated[
        tuple[Signal, ...], Meta(description="outputs that are on while their relay is off")
    ] = ()
    safe_on: Annotated[
        tuple[Literal["beacon", "siren", "red", "green", "yellow"], ...],
        Meta(description="outputs that are on when the agent does not run; the others are off"),
    ] = ("red", "yellow")
    function: Annotated[
        Literal[5, 15], Meta(description="Modbus function that sets coils; 5: one at a time")
    ] = 15
    barrier_pulse_s: Annotated[
        float, Meta(description="how long a barrier's relay is on [s]", ge=0.05, le=5)
    ] = 0.2
    readback_period_s: Annotated[
        float, Meta(description="how often all outputs are read back [s]", ge=0.1, le=60)
    ] = 0.5
    watchdog_s: Annotated[
        float,
        Meta(
            description="the module goes into its own safe state when not asked for so long, as "
            "set in the module [s]; 0: it has no watchdog",
            ge=0,
            le=600,
        ),
    ] = 0.0

    def __post_init__(self) -> None:
        addresses = [address for _, address in self.wired]
        if not addresses:
            raise ValueError("no output is wired; give at least one its coil's address")
        twice = sorted({a for a in addresses if addresses.count(a) > 1})
        if twice:
            raise ValueError(f"coil {twice[0]} is given to two outputs; give each its own")
        if 0 < self.watchdog_s < 3 * self.readback_period_s:
            raise ValueError(
                f"watchdog_s {self.watchdog_s:g} would act between two reads; expected at least "
                f"3 times readback_period_s, {3 * self.readback_period_s:g} s"
            )

    @property
    def wired(self) -> tuple[tuple[Signal, int], ...]:
        """Return the outputs that have a coil, with its address."""
        found = ((signal, getattr(self, signal)) for signal in SIGNALS)
        return tuple((signal, address) for signal, address in found if address != UNWIRED)


class Driver:
    """Keeps what was asked for and what was read back."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._coils: dict[Signal, int] = dict(options.wired)
        self._asked: dict[Signal, bool] = {}
        self._read: dict[Signal, bool] = {}
        self._is_wrong = False
        coils: set[Part] = {("coils", address, 1) for address in self._coils.values()}
        self._blocks = tuple(plan(coils, options.readback_period_s))

    @property
    def signals(self) -> tuple[str, ...]:
        """Which outputs are wired."""
        return tuple(self._coils)

    @property
    def pulse_s(self) -> float:
        """How long a pulse lasts [s]."""
        return self._options.barrier_pulse_s

    @property
    def differing(self) -> tuple[str, ...]:
        """Which outputs were last read back as something else than was asked for."""
        return tuple(s for s, on in self._asked.items() if self._read.get(s, on) is not on)

    def blocks(self) -> tuple[Block, ...]:
        """Return the coils to read back."""
        return self._blocks

    def levels(self, wanted: Mapping[str, bool]) -> tuple[CoilWrite, ...]:
        """Return what to write so that these outputs are on or off.

        A barrier has no level; one that is named here, or not wired, is left out.
        """
        named: dict[Signal, bool] = {
            s: wanted[s] for s in self._coils if s in wanted and s not in PULSED
        }
        return self._writes(named)

    def pulse(self, signal: str, *, is_on: bool) -> tuple[CoilWrite, ...]:
        """Return what to write to begin or end a pulse; empty: it is not wired."""
        return self._writes({s: is_on for s in PULSED if s == signal and s in self._coils})

    def safe(self) -> tuple[CoilWrite, ...]:
        """Return what to write so that everything is safe without the agent."""
        return self._writes({s: s in self._options.safe_on for s in self._coils})

    def _writes(self, wanted: Mapping[Signal, bool]) -> tuple[CoilWrite, ...]:
        self._asked.update(wanted)
        relays = {
            self._coils[signal]: on != (signal in self._options.inverted)
            for signal, on in wanted.items()
        }
        if self._options.function == 5:
            return tuple(
                CoilWrite(address=a, values=(on,), function=5) for a, on in sorted(relays.items())
            )
        return tuple(
            CoilWrite(address=run[0], values=tuple(relays[a] for a in run)) for run in _runs(relays)
        )

    def silence(self) -> list[Reading]:
        """The module was lost: nobody can say any more what its outputs are."""
        readings: list[Reading] = [Contact(name=name, active=None) for name in self._read]
        if self._is_wrong:
            readings.append(DeviceState(condition="output_mismatch", active=None))
        self._read.clear()
        self._is_wrong = False
        return readings

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return which outputs have changed, and whether they are what was asked for.

        Source: Moxa ioLogik E1212 manual p. A-7 to A-10.
        """
        fault = refusal(block, self._blocks, registers)
        if fault is not None:
            return [fault]
        readings: list[Reading] = []
        for signal, address in self._coils.items():
            if not block.address <= address < block.address + block.count:
                continue
            is_on = bool(registers[address - block.address])
            is_on = is_on != (signal in self._options.inverted)
            if self._read.get(signal) is not is_on:
                self._read[signal] = is_on
                readings.append(Contact(name=signal, active=is_on))
        wrong = self.differing
        if bool(wrong) is not self._is_wrong:
            self._is_wrong = bool(wrong)
            readings.append(
                DeviceState(
                    condition="output_mismatch",
                    active=self._is_wrong,
                    detail=", ".join(
                        f"{s} reads {'off' if self._asked[s] else 'on'}"
                        for s in self._coils
                        if s in wrong
                    ),
                )
            )
        return readings


def _runs(addresses: Iterable[int]) -> list[list[int]]:
    """Return the addresses in runs without a gap."""
    runs: list[list[int]] = []
    for address in sorted(addresses):
        if runs and address == runs[-1][-1] + 1:
            runs[-1].append(address)
        else:
            runs.append([address])
    return runs
