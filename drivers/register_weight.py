"""A number out of registers as a weight: what it may be, and what is refused.

Shared by the drivers of weighing indicators on Modbus. Pure arithmetic: which register is which
stands in the drivers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal

from drivers.readings import Reason

UNPROVEN = "register map not yet proven against the display"
"""A note of every weight until ``map_proven`` is set."""
MARGIN = Decimal("1.5")
"""So many times its capacity a scale may be loaded before its figures are taken for nonsense."""
F32_DIGITS = 1 << 24
F32_LIMIT = 1e9


class RefusedError(Exception):
    """These registers are no weight; stays inside the driver that reads them."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def register_bytes(registers: Iterable[int]) -> bytes:
    """Return registers as they came, two bytes each, for a refusal."""
    return b"".join((value & 0xFFFF).to_bytes(2, "big") for value in registers)


def signed(number: float, *, is_magnitude: bool, is_negative: bool) -> float:
    """Return a number with the sign that a bit of its own says.

    Raises
    ------
    RefusedError
        Where a number that has a sign, and is no magnitude, contradicts the bit.
    """
    if is_magnitude:
        return -number if is_negative else number
    if number and (number < 0) != is_negative:
        raise RefusedError(
            Reason.RANGE,
            f"{number} contradicts its sign bit; is the figure a magnitude (u32, u16)?",
        )
    return number


def of_float(number: float, factor: Decimal, decimals: int) -> Decimal:
    """Return an IEEE 754 number times a factor, rounded to the decimals that the scale shows.

    Raises
    ------
    RefusedError
        Where it is no number, beyond all weights, or has more digits than 32 bits hold.
    """
    if not math.isfinite(number) or abs(number) >= F32_LIMIT:
        raise RefusedError(Reason.RANGE, f"{number} is no weight; check type and word_order")
    counts = (Decimal(number) * factor).scaleb(decimals).quantize(Decimal(1))
    if abs(counts) > F32_DIGITS:
        raise RefusedError(Reason.RANGE, f"{number} has more digits than f32 holds; check decimals")
    return counts.scaleb(-decimals)


def check_capacity(value: Decimal, capacity: float | None) -> None:
    """Refuse a figure far beyond the scale's capacity, or as far below zero as it reaches.

    Raises
    ------
    RefusedError
        Where it is; ``capacity`` None: nothing is.
    """
    if capacity is None:
        return
    limit = Decimal(str(capacity))
    if not -limit <= value <= limit * MARGIN:
        raise RefusedError(
            Reason.RANGE,
            f"{value:f} is far beyond the capacity {capacity:g}; check type, word_order, "
            "decimals and address_base",
        )
