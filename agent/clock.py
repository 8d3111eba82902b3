"""The only place that asks what time it is, what boot this is, and for randomness.

``time_scale`` lets a demonstration run faster than the world: a scaled clock's seconds pass
``time_scale`` times as fast, and every wait that goes through it is that much shorter.
"""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from agent.records import Stamp, Sync

STEP_S = 0.5
"""A wall clock that moves this much against the monotonic one was stepped."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_TIMESYNC = Path("/run/systemd/timesync/synchronized")
_CHRONY = Path("/run/chrony/chronyd.pid")


class Clock:
    """Makes stamps and waits.

    Parameters
    ----------
    time_scale : scene seconds per wall second; 1 in the field.
    wall_s, monotonic_s : sources of time [s]; tests put their own in.
    boot : this boot's id; None: read from the kernel.
    """

    def __init__(
        self,
        *,
        time_scale: float = 1.0,
        wall_s: Callable[[], float] = time.time,
        monotonic_s: Callable[[], float] = time.monotonic,
        boot: str | None = None,
    ) -> None:
        self.time_scale = time_scale
        self._wall_s = wall_s
        self._monotonic_s = monotonic_s
        self._mono_zero_s = monotonic_s()
        self._offset_s = wall_s() - self._mono_zero_s
        self._first_offset_s = self._offset_s
        self._stepped = False
        self._sync: Sync = _sync()
        self._sync_read_s = self._mono_zero_s
        self.boot = boot or _BOOT_ID.read_text(encoding="ascii").strip()
        self.run = secrets.token_hex(4)
        """Random name of this run, part of every passage id."""

    def mono_s(self) -> float:
        """Return the monotonic time, scaled [s]."""
        if self.time_scale == 1.0:
            return self._monotonic_s()
        return self._mono_zero_s + (self._monotonic_s() - self._mono_zero_s) * self.time_scale

    def stamp(self) -> Stamp:
        """Return the stamp of now.

        At ``time_scale`` 1 the wall clock is read each time, so a step shows in the next stamp;
        a scaled clock runs from the wall time at which it was made.
        """
        mono_s = self.mono_s()
        utc_s = self._wall_s() if self.time_scale == 1.0 else self._offset_s + mono_s
        if abs(utc_s - mono_s - self._first_offset_s) > STEP_S:
            self._stepped = True
        return Stamp(
            utc_us=round(utc_s * 1e6),
            mono_us=round(mono_s * 1e6),
            boot=self.boot,
            sync=self._sync,
            stepped=self._stepped,
        )

    def token(self, size_bytes: int) -> str:
        """Return a random name in hexadecimal, for what must not be taken for its predecessor."""
        return secrets.token_hex(size_bytes)

    def step_s(self) -> float | None:
        """Return how far the wall clock jumped since last asked [s], or None where it did not."""
        if self.time_scale != 1.0:
            return None
        now_s = self._monotonic_s()
        if now_s - self._sync_read_s > 10.0:
            self._sync, self._sync_read_s = _sync(), now_s
        offset_s = self._wall_s() - now_s
        jump_s, self._offset_s = offset_s - self._offset_s, offset_s
        return jump_s if abs(jump_s) > STEP_S else None

    async def sleep(self, delay_s: float) -> None:
        """Wait for so long on this clock [s]."""
        await asyncio.sleep(max(0.0, delay_s) / self.time_scale)

    def wall_delay_s(self, delay_s: float) -> float:
        """Return the wall seconds in which this clock's ``delay_s`` pass, for asyncio timeouts."""
        return delay_s / self.time_scale


def _sync() -> Sync:
    # os.path.exists: a directory that may not be entered is "not there", where Path.exists raises.
    return "ntp" if os.path.exists(_TIMESYNC) or os.path.exists(_CHRONY) else "none"  # noqa: PTH110


class Backoff:
    """Delays between attempts: anywhere from ``first_s`` to a ceiling that doubles to ``cap_s``.

    The whole span is drawn from, so that many gateways that lost one broker do not come back at
    one moment. ``reset`` only after the thing held for a while, so that a flapping link does not
    hammer.
    """

    def __init__(
        self, *, first_s: float, cap_s: float, jitter: Callable[[], float] = random.random
    ) -> None:
        self._first_s = first_s
        self._cap_s = cap_s
        self._jitter = jitter
        self._ceiling_s = min(cap_s, 2 * first_s)

    def next_s(self) -> float:
        """Return how long to wait before the next attempt [s]."""
        ceiling_s, self._ceiling_s = self._ceiling_s, min(self._cap_s, self._ceiling_s * 2)
        return self._first_s + (ceiling_s - self._first_s) * self._jitter()

    def reset(self) -> None:
        """Begin again with the shortest delays."""
        self._ceiling_s = min(self._cap_s, 2 * self._first_s)
