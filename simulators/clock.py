"""Scene time: seconds since the scene began, as fast as the trainer wants it."""

from __future__ import annotations

import asyncio


class SceneClock:
    """Turns the event loop's time into scene seconds; ``time_scale`` 10 plays ten times as fast."""

    def __init__(self, *, time_scale: float = 1.0) -> None:
        if time_scale <= 0:
            raise ValueError(f"time_scale must be above 0, not {time_scale}")
        self.time_scale = time_scale
        self._started_at = asyncio.get_running_loop().time()

    def now_s(self) -> float:
        """Return the scene time [s]."""
        return (asyncio.get_running_loop().time() - self._started_at) * self.time_scale

    async def sleep_until(self, scene_s: float) -> None:
        """Wait until the scene time is reached; return at once where it has passed."""
        await asyncio.sleep(max(0.0, (scene_s - self.now_s()) / self.time_scale))
