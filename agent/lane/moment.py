"""One step in the making: when it is, by which rules, what it has said and asked so far."""

from __future__ import annotations

from collections.abc import KeysView
from dataclasses import dataclass, field

from agent.lane.options.rules import LaneRules
from agent.lane.question import Question
from agent.lane.state import LaneState, M, Memory
from agent.records import Record, Stamp


@dataclass(slots=True)
class Moment:
    """What every part of the lane is handed.

    ``state`` is this step's own: the memories that a part writes to are copied first, all others
    are those of the state before.
    """

    state: LaneState
    rules: LaneRules
    stamp: Stamp
    records: list[Record] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)
    _own: dict[type[Memory], Memory] = field(default_factory=dict)

    @classmethod
    def after(cls, state: LaneState, rules: LaneRules, stamp: Stamp) -> Moment:
        """Return a moment that leaves ``state`` as it was."""
        return cls(LaneState(serial=state.serial, memories=dict(state.memories)), rules, stamp)

    @property
    def touched(self) -> KeysView[type[Memory]]:
        """Return whose memories this step has copied, to read or to write."""
        return self._own.keys()

    def of(self, kind: type[M]) -> M:
        """Return a part's memory, to read and to write."""
        found = self._own.get(kind)
        if isinstance(found, kind):
            return found
        copy = self.state.of(kind).copied()
        self._own[kind] = self.state.memories[kind] = copy
        return copy

    def next_serial(self) -> int:
        """Return the next number of this lane and run."""
        self.state.serial += 1
        return self.state.serial

    def new_id(self, letter: str) -> str:
        """Return a new id, unique over lanes and runs."""
        return f"{self.rules.lane_id}-{self.rules.run}-{letter}{self.next_serial()}"
