"""``checkpointd probe --modbus-unit``: read what the drivers would read, and see who answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from agent.tools.probe.ear import Kind, kind_of
from agent.tools.probe.probe import SPEEDS_BAUD, Found, Say
from agent.tools.probe.recognise import Address, needed_blocks, recognise_registers
from drivers.base import Block, LineParameters, Parity
from drivers.modbus import (
    ExceptionReplyError,
    Framing,
    GoneError,
    ModbusLine,
    NoReplyError,
    RefusedReplyError,
)

TIMEOUT_S = 0.6
LATENESS_S = 0.3


class _NoDelays:
    """Opens at once: each setting is tried once."""

    def next_s(self) -> float:
        """Return no delay."""
        return 0.0

    def reset(self) -> None:
        """Keep no state."""


def settings(kind: Kind) -> tuple[tuple[LineParameters, Framing], ...]:
    """Return line and framing to try, even parity first.

    Source: MODBUS over Serial Line V1.02, section 2.5.1 (8E1 is the default).
    """
    if kind == "tcp":
        return ((LineParameters(), "tcp"), (LineParameters(), "rtu"))
    if kind == "pty":
        return ((LineParameters(), "rtu"),)
    return tuple(
        (LineParameters(baud=baud, parity=parity), "rtu")
        for baud in SPEEDS_BAUD
        for parity in cast("tuple[Parity, ...]", ("E", "N", "O"))
    )


async def probe_modbus(port: str, unit: int, say: Say) -> Found:
    """Return what a Modbus unit is; only registers and inputs are read.

    Raises
    ------
    ValueError
        If the name is no port's.
    LinkError
        If the port cannot be opened; the text says what to look at.
    """
    kind, blocks = kind_of(port), needed_blocks()
    tried = 0
    for line, framing in settings(kind):
        tried += 1
        at = f"{line}, " if kind == "serial" else ""
        say(f"{at}Modbus {framing.upper()}: reading unit {unit}")
        bus = ModbusLine(port, line, framing=framing, delays=_NoDelays())
        try:
            answers = await _read(bus, unit, blocks)
        finally:
            bus.close()
        if answers:
            return Found(
                kind=kind,
                line=line if kind == "serial" else None,
                candidates=recognise_registers(answers),
                tried=tried,
                unit=unit,
                framing=framing,
            )
    return Found(kind=kind, tried=tried, unit=unit)


async def _read(
    bus: ModbusLine, unit: int, blocks: Sequence[Block]
) -> dict[Address, tuple[int, ...] | None]:
    """Return what the unit answered; empty where the first read got no answer of its own."""
    answers: dict[Address, tuple[int, ...] | None] = {}
    for block in blocks:
        key = (block.table, block.address, block.count)
        try:
            answers[key] = await bus.read_block(
                unit, block, timeout_s=TIMEOUT_S, max_lateness_s=LATENESS_S
            )
        except ExceptionReplyError:
            answers[key] = None
        except (NoReplyError, RefusedReplyError):
            if not answers:
                return {}
        except GoneError:
            # Another framing makes some servers hang up; a port that never opened is the world's.
            if not bus.opened:
                raise
            return answers
    return answers
