"""What would take a step too long: a question, answered beside the lane.

A question is plain data and holds all that its answer depends on; whoever asked gets the answer as
an event, and has a moment until which it waits. Live, a worker answers it
(``agent.daemon.long_work``); a replay answers at once, in line (``agent.lane.inline``).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from agent.records import Stamp


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What came of a question; each kind is a class of its own."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question(ABC):
    """Something to be found out; ``question_id`` is unique in its lane and run."""

    question_id: str

    @abstractmethod
    def answer(self) -> Answer:
        """Return the answer; it may take as long as it takes, and depends on the question alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question was answered; ``answer`` None: it will not be, and the lane goes on without."""

    stamp: Stamp
    question_id: str
    answer: Answer | None
