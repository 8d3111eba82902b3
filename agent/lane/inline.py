"""The lane where nobody waits: each question is answered at once, in the moment it was asked.

This is how a recording is replayed, and the same recording gives the same records at every run.
"""

from __future__ import annotations

from dataclasses import replace

from agent.lane import due
from agent.lane.options.rules import LaneRules
from agent.lane.question import Answered
from agent.lane.state import LaneState
from agent.lane.step import step
from agent.records import LaneEvent, Record, Stop, Tick


def step_answered(
    state: LaneState, event: LaneEvent, rules: LaneRules
) -> tuple[LaneState, tuple[Record, ...]]:
    """Return the lane after one event and its questions' answers, and what it has to say.

    What falls due before the event is done first, one moment after the other, so that an answer
    comes before whatever is due later.
    """
    records: list[Record] = []
    now_us = event.stamp.mono_us
    if rules.spectral is not None:  # nothing else asks
        while (at_us := due.next_us(state, rules)) is not None and at_us < now_us:
            tick = Tick(stamp=event.stamp.back((now_us - at_us) / 1e6))
            state = _through(state, tick, rules, records)
        if isinstance(event, Stop):
            state = _through(state, replace(event, waits=True), rules, records)
    return _through(state, event, rules, records), tuple(records)


def _through(
    state: LaneState, event: LaneEvent, rules: LaneRules, records: list[Record]
) -> LaneState:
    """Return the lane after the event and its answers; what it says is added to ``records``."""
    waiting: list[LaneEvent | Answered] = [event]
    while waiting:
        now = waiting.pop(0)
        state, said, questions = step(state, now, rules)
        records += said
        for each in questions:
            answer = each.answer()
            waiting.append(Answered(stamp=now.stamp, question_id=each.question_id, answer=answer))
    return state
