"""Faults of the gateway itself: each stands under its code until it is cleared."""

from __future__ import annotations

from dataclasses import replace

from agent.clock import Clock
from agent.daemon.recorder import Recorder
from agent.records import Alarm


class GatewayFaults:
    """Raises, says again and clears the faults that belong to no lane; each phase is a record."""

    def __init__(self, recorder: Recorder, clock: Clock) -> None:
        self._recorder = recorder
        self._clock = clock
        self._standing: dict[str, Alarm] = {}
        self._serial = 0

    def say(self, code: str, text: str) -> None:
        """Raise a fault, or say it again where its text has changed."""
        before = self._standing.get(code)
        if before is not None and before.text == text:
            return
        now = self._clock.stamp()
        if before is None:
            self._serial += 1
            alarm = Alarm(
                stamp=now,
                lane=None,
                alarm_id=f"gw-{self._clock.run}-f{self._serial}",
                code=code,
                phase="raised",
                rev=1,
                passage_id=None,
                kind="fault",
                source="agent",
                severity="elevated",
                device=None,
                text=text,
            )
        else:
            alarm = replace(before, stamp=now, phase="updated", rev=before.rev + 1, text=text)
        self._standing[code] = alarm
        self._recorder.put(alarm)

    def clear(self, code: str) -> None:
        """Clear a fault; one that does not stand needs nothing."""
        before = self._standing.pop(code, None)
        if before is not None:
            now = self._clock.stamp()
            self._recorder.put(replace(before, stamp=now, phase="cleared", rev=before.rev + 1))

    def clear_all(self) -> None:
        """Clear what still stands, at an orderly stop."""
        for code in tuple(self._standing):
            self.clear(code)
