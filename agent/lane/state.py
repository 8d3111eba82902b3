"""What a lane remembers from one event to the next.

Each part of the lane keeps a memory of its own, a class of its own beside its functions; a state is
one of each. Who wants to read another part's memory has to import its class, which the test of the
layers sees.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, TypeVar


@dataclass(slots=True, kw_only=True)
class Memory:
    """What one part of a lane remembers; everything in it is immutable, or replaced as a whole."""

    def copied(self) -> Self:
        """Return another memory of the same; ``copy.copy`` takes three times as long."""
        kind = type(self)
        new = object.__new__(kind)
        names: Iterable[str] = kind.__slots__
        for name in names:
            setattr(new, name, getattr(self, name))
        return new


M = TypeVar("M", bound=Memory)


@dataclass(slots=True, kw_only=True)
class LaneState:
    """Everything one lane remembers; ``serial`` numbers what it names."""

    serial: int = 0
    memories: dict[type[Memory], Memory] = field(default_factory=dict)

    def of(self, kind: type[M]) -> M:
        """Return what a part remembers, for reading; nothing yet where it has not begun."""
        found = self.memories.get(kind) or _EMPTY.get(kind)
        if isinstance(found, kind):
            return found
        # One of each, never written to: whether a memory has changed is asked by identity.
        _EMPTY[kind] = empty = kind()
        return empty


_EMPTY: dict[type[Memory], Memory] = {}
