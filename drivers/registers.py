"""Modbus blocks of a configurable map: which to ask for, and which answers to refuse."""

from __future__ import annotations

from collections.abc import Container, Iterable

from drivers.base import Block, Table
from drivers.readings import BadFrame, Reason

MAX_GAP = 8
"""Addresses further apart than this are read in two requests."""
MAX_BLOCK = 120
"""Modbus allows 125 registers in one request."""
BIT_TABLES: tuple[Table, ...] = ("coils", "discrete")

Part = tuple[Table, int, int]
"""Table, address, length: registers that must be read in one request."""


def plan(parts: Iterable[Part], period_s: float) -> list[Block]:
    """Return the requests that read these parts: near ones together, none of them cut."""
    blocks: list[Block] = []
    for table, address, length in sorted(parts):
        last = blocks[-1] if blocks else None
        if (
            last is not None
            and last.table == table
            and address <= last.address + last.count + MAX_GAP
            and address + length - last.address <= MAX_BLOCK
        ):
            count = max(last.count, address + length - last.address)
            blocks[-1] = Block(table=table, address=last.address, count=count, period_s=period_s)
        else:
            blocks.append(Block(table=table, address=address, count=length, period_s=period_s))
    return blocks


def refusal(block: Block, asked: Container[Block], registers: tuple[int, ...]) -> BadFrame | None:
    """Return why these are not the block's registers, None where they are."""
    raw = b"".join((value & 0xFFFF).to_bytes(2, "big") for value in registers)
    if block not in asked:
        return BadFrame.of(Reason.UNKNOWN, raw, f"{block} was not asked for")
    if len(registers) != block.values:
        detail = f"{len(registers)} values for {block.values} in {block.table} {block.address}"
        return BadFrame.of(Reason.LENGTH, raw, detail)
    highest = 1 if block.table in BIT_TABLES else 0xFFFF
    if any(not 0 <= value <= highest for value in registers):
        detail = f"a value in {block.table} {block.address} is outside 0 to {highest}"
        return BadFrame.of(Reason.RANGE, raw, detail)
    return None
