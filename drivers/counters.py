"""Latched counters: what they gained between two reads, across wraps, resets and gaps.

A counter that went back is a wrap where the wrap makes few increments, else a reset: what it
counted since is added where it is little, otherwise nobody can say. A gap in our polling loses
nothing: what was counted meanwhile comes with the first figure after it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drivers.readings import DeviceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """What one counter gained since its last figure; None: nobody can say."""

    name: str
    increments: int | None
    reset: str = ""
    """What was seen where the counter began anew or jumped; empty: nothing."""
    is_late: bool = False
    """It was counted, at least in part, while the counter was not read."""


class Counters:
    """The last figure of each counter.

    Parameters
    ----------
    max_increments : a counter cannot gain more between two reads, nor in a wrap
    max_increments_after_gap : nor more than this while it was not read
    """

    def __init__(self, *, max_increments: int, max_increments_after_gap: int) -> None:
        self._most = max_increments
        self._most_after_gap = max_increments_after_gap
        self._figures: dict[str, int] = {}
        self._after_gap: set[str] = set()

    def take(self, name: str, now: int, modulus: int) -> Gain | None:
        """Return what a counter gained; None: its first figure, against which others count.

        ``modulus`` is where it returns to 0; ``now`` is below it.
        """
        before = self._figures.get(name)
        self._figures[name] = now
        is_late = name in self._after_gap
        self._after_gap.discard(name)
        if before is None:
            return None
        most = self._most_after_gap if is_late else self._most
        gain = (now - before) % modulus  # right across a wrap
        # A wrap must be tight also after a gap: a power cut resets counters and makes gaps.
        if gain <= (most if now >= before else self._most):
            return Gain(name=name, increments=gain, is_late=is_late)
        # Forward too far, or backward and no wrap: the counter began anew, or another device came.
        return Gain(
            name=name,
            increments=now if now < before and now <= most else None,
            reset=f"{name} counter went from {before} to {now}",
            is_late=is_late,
        )

    def gap(self) -> None:
        """Note that the counters are not read for a while; their figures are kept."""
        self._after_gap = set(self._figures)

    def is_followed(self, name: str) -> bool:
        """Tell whether a counter has a figure and no gap since."""
        return name in self._figures and name not in self._after_gap


def counted_in_gap(gains: Iterable[Gain]) -> list[DeviceState]:
    """Return the note of what was counted while nobody read; empty where that is nothing."""
    late = ", ".join(f"{g.name} {g.increments}" for g in gains if g.is_late and g.increments)
    if not late:
        return []
    detail = f"counted while the module was lost: {late}"
    return [DeviceState(condition="counted_in_gap", active=False, detail=detail)]


def resets(gains: Iterable[Gain]) -> str:
    """Return what was seen of counters that began anew; empty where none did."""
    return "; ".join(g.reset for g in gains if g.reset)
