"""The lane's outputs: what it wants to show is written, read back, and made safe at the end.

At the start and at an orderly stop the safe state is written. In between the outputs follow what
the lane wants, within one request of the line; whatever a read-back shows otherwise is written
again and stands as a fault meanwhile. A module that was lost is written anew when it is back.

A movement of the barrier is a pulse that is begun now or never: it waits for no link, its
interlock is asked again in the moment of writing, and both ends of it are read back. Every one is
told to ``on_moved``, also those that were refused or failed.

All of it runs in this device's own task: a relay that does not answer delays no measurement.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NoReturn

from agent.clock import Clock
from agent.daemon.link import ModbusLink, Sink
from agent.lane.annunciator import Command
from agent.records import Stamp
from agent.settings import DeviceConfig
from drivers.base import CoilWrite, OutputDriver
from drivers.modbus import (
    ExceptionReplyError,
    GoneError,
    ModbusLine,
    NoReplyError,
    RefusedReplyError,
)

COMMAND_EXPIRES_S = 2.0
"""A movement that could not begin within so long is not made any more [wall seconds]."""
RETRY_S = 0.5
"""After a failed write the next one waits so long [wall seconds]."""
REMEMBERED = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """What became of a movement of the barrier."""

    stamp: Stamp
    command: Command
    result: Literal["done", "refused", "failed"]
    detail: str
    """Why it was refused or failed; empty where it is done."""


class OutputLink(ModbusLink):
    """A device that shows what the lane knows.

    Parameters
    ----------
    permit : why an output must not move now, asked just before writing; None: it may
    on_moved : is told what became of every movement of the barrier
    """

    def __init__(  # noqa: PLR0913 - its partners, each named once at the making
        self,
        device: DeviceConfig,
        *,
        line: ModbusLine,
        clock: Clock,
        sink: Sink,
        permit: Callable[[str], str | None],
        on_moved: Callable[[Moved], None],
        label: str | None = None,
    ) -> None:
        super().__init__(device, line=line, clock=clock, sink=sink, label=label)
        driver = self._driver
        assert isinstance(driver, OutputDriver)
        self._outputs: OutputDriver = driver
        self._permit = permit
        self._on_moved = on_moved
        self._news = asyncio.Event()
        self._wanted: dict[str, bool] | None = None
        """None: the safe state."""
        self._written: dict[str, bool] | None = None
        self._is_written = False
        """``_written`` was read back as it should be, and the link held since."""
        self._has_begun = False
        """The safe state was written once."""
        self._is_closing = False
        self._is_safe = asyncio.Event()
        self._pending: tuple[Command, float] | None = None
        self._seen: deque[str] = deque(maxlen=REMEMBERED)
        self._held: set[str] = set()
        """Barrier relays that are on, or whose end of pulse was not read back."""
        self._retry_at = -math.inf

    def want(self, levels: Mapping[str, bool], command: Command | None) -> None:
        """Take what should be shown and moved; returns at once."""
        if self._is_closing:
            return
        wanted = {signal: levels[signal] for signal in self._outputs.signals if signal in levels}
        if wanted != self._wanted:
            on = " ".join(signal for signal, is_on in wanted.items() if is_on)
            log.info("outputs=wanted device=%r on=%r", self.label, on)
            self._wanted = wanted
            self._news.set()
        if command is None or command.command_id in self._seen:
            return
        if command.signal not in self._outputs.signals:
            return
        self._seen.append(command.command_id)
        if self._pending is not None:
            self._say(self._pending[0], "failed", "another movement took its place")
        self._pending = command, asyncio.get_running_loop().time()
        self._news.set()

    async def make_safe(self, within_s: float) -> bool:
        """Write the safe state and take no more wishes; false: it could not be proven in time.

        ``run`` must be at work, for it does the writing.
        """
        self._is_closing = True
        self._wanted = None
        self._is_written = False
        self._retry_at = -math.inf
        self._is_safe.clear()
        self._news.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._is_safe.wait()
        if not self._is_safe.is_set():
            log.error("outputs=not_safe device=%r within_s=%g", self.label, within_s)
        return self._is_safe.is_set()

    async def run(self) -> NoReturn:
        """Show what is wanted until cancelled; whatever the world does, it goes on."""
        self._is_written = self._has_begun = False  # also after a bug: begin with the safe state
        await super().run()

    async def _nap(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._news.wait()

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._news.clear()
        now = loop.time()
        if self._pending is not None:
            command, given_at = self._pending
            self._pending = None
            await self._move(command, now - given_at)
        elif self._has_to_write() and now >= max(self._retry_at, self._parked_until):
            await self._show(now)
        else:
            await super()._turn(loop)
            if self._outputs.differing or self._state != "up":
                self._is_written = False

    def _has_to_write(self) -> bool:
        return not self._is_written or self._wanted != self._written or bool(self._held)

    async def _show(self, now: float) -> None:
        """Write what is wanted, and read it back."""
        self._retry_at = now + RETRY_S
        wanted = self._wanted if self._has_begun else None
        writes = self._outputs.safe() if wanted is None else self._outputs.levels(wanted)
        ends = [w for s in self._held for w in self._outputs.pulse(s, is_on=False)]
        if not await self._write((*ends, *writes)) or not await self._read_back():
            return
        if self._outputs.differing:
            return
        self._held.clear()
        self._written = wanted
        self._is_written = self._has_begun = True
        self._retry_at = -math.inf
        if self._is_closing and wanted is None:
            self._is_safe.set()

    async def _move(self, command: Command, waited_s: float) -> None:
        """Make one movement of the barrier, now or never."""
        if waited_s > COMMAND_EXPIRES_S:
            self._say(command, "failed", f"its turn came {waited_s:.1f} s too late")
            return
        if self._state != "up" or not self._has_begun:
            self._say(command, "failed", f"{self.label} is not heard")
            return
        why_not = self._permit(command.signal)
        if why_not is not None:
            self._say(command, "refused", why_not)
            return
        self._held.add(command.signal)
        has_begun = await self._pulse_edge(command.signal, is_on=True)
        if has_begun:
            await asyncio.sleep(self._clock.wall_delay_s(self._outputs.pulse_s))
        # Also where the beginning was not confirmed: it may have been done all the same.
        has_ended = await self._pulse_edge(command.signal, is_on=False)
        if has_ended:
            self._held.discard(command.signal)
        if has_begun and has_ended:
            self._say(command, "done", "")
        else:
            which = "beginning" if not has_begun else "end"
            detail = self._trouble or f"the {which} of the pulse was not read back"
            self._say(command, "failed", detail)

    async def _pulse_edge(self, signal: str, *, is_on: bool) -> bool:
        writes = self._outputs.pulse(signal, is_on=is_on)
        if not await self._write(writes) or not await self._read_back():
            return False
        return signal not in self._outputs.differing

    async def _write(self, writes: Iterable[CoilWrite]) -> bool:
        common = self.device.common
        for write in writes:
            try:
                await self._line.write_coils(
                    common.unit,
                    write,
                    timeout_s=common.timeout_s,
                    max_lateness_s=common.max_lateness_s,
                )
            except GoneError as exc:
                self._lost(str(exc))
                return False
            except (NoReplyError, RefusedReplyError, ExceptionReplyError) as exc:
                self._missed(exc)
                return False
        return True

    async def _read_back(self) -> bool:
        """Read all outputs; false: one block did not come."""
        for block in self._outputs.blocks():
            frames = self._good_at
            await self._read(block)
            if self._good_at == frames:
                return False
        return True

    def _say(
        self, command: Command, result: Literal["done", "refused", "failed"], detail: str
    ) -> None:
        level = logging.INFO if result == "done" else logging.WARNING
        log.log(
            level,
            "barrier=%s device=%r signal=%s detail=%r",
            result,
            self.label,
            command.signal,
            detail,
        )
        stamp = self._clock.stamp()
        self._on_moved(Moved(stamp=stamp, command=command, result=result, detail=detail))
