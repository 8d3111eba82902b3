"""One device: open its pipe, feed its driver, stamp what it says, say once that it is lost or back.

A link is *up* from the first good reading, not from the connection: a device server connects as
happily with nothing behind it. It is *down* when an open pipe is lost, or when nothing good came
for the device's ``silence_s``; both are said once. A device that is silent by nature (a reader of
tags) is up once its pipe has stayed open for ``SETTLED_S``, and its silence tells nothing. A driver
that raises is a bug and ends the task; whoever started it starts it again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NoReturn

from agent.clock import Backoff, Clock
from agent.config.relays import networks
from agent.records import LaneEvent, LinkChange, Stamp, Timed
from agent.settings import DeviceConfig
from drivers.base import Block, PolledDriver, StreamDriver
from drivers.listener import Listener
from drivers.modbus import (
    ExceptionReplyError,
    GoneError,
    ModbusLine,
    NoReplyError,
    RefusedReplyError,
    framing_of,
)
from drivers.readings import BadFrame, Housekeeping, Reading
from drivers.transport import LinkError, Pipe, open_pipe

OPEN_TIMEOUT_S = 5.0
RETRY_FIRST_S, RETRY_CAP_S = 0.5, 30.0
REOPEN_S = 15.0
"""A silent pipe is opened anew after so long [wall seconds]; not at once, for what a device says
in the moment of opening is lost."""
HELD_S = 10.0
"""A pipe that gave good frames for so long is tried again with the shortest delay."""
SETTLED_S = 1.0
"""A device server that has no room for us accepts and closes at once [wall seconds]."""
HEARTBEAT_S = 2.0
"""A link wakes at least so often [wall seconds], so that ``progress`` tells a watchdog it lives."""
FLOOD_BYTES, FLOOD_PAUSE_S = 4096, 0.05
"""After more in one piece than a line at 921600 baud brings in the pause, the pipe has to wait
[wall seconds]: a flood over TCP is held to its buffer per pause, and the others go on."""
POLL_SLOTS = 20
"""The polling period is divided so; device N begins in slot N."""
PARK_AFTER = 3
"""A unit on a shared line that missed so many requests in a row is parked."""
PARK_FIRST_S, PARK_CAP_S = 5.0, 30.0
PARK_TIMEOUTS = 10
"""A probe may cost its line at most one part in so many (and one)."""

MOST_HOUSEKEEPING = 32
"""So many quantities of housekeeping are remembered of one device."""

log = logging.getLogger(__name__)

Sink = Callable[[LaneEvent], None]
Captured = bytes | tuple[Block, tuple[int, ...]] | Literal["up", "down"]
Tap = Callable[[Stamp, Captured], None]
"""Sees all that came, as it came, with its stamp; before the driver does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStatus:
    """A device's link now; ``last_good`` is None where nothing good ever came."""

    link: Literal["up", "down", "parked", "unknown"]
    last_good: Stamp | None
    frames: int
    """Good readings."""
    refused: dict[str, int]
    """Refused frames by reason."""
    reconnects: int
    skipped_polls: int
    detail: str
    """What was last seen going wrong; empty: nothing, or the link is up."""
    housekeeping: tuple[Housekeeping, ...] = ()
    """The last figure of each quantity that the device told of itself."""


class DeviceLink(ABC):
    """What all links share: stamps out, up and down once, counters.

    Parameters
    ----------
    device : the checked configuration.
    sink : takes every event, in order; must not block.
    label : how sentences name the device, e.g. "rpm inbound-1"; None: its name.
    tap : sees the raw input, for a capture.
    """

    def __init__(
        self,
        device: DeviceConfig,
        *,
        clock: Clock,
        sink: Sink,
        label: str | None = None,
        tap: Tap | None = None,
    ) -> None:
        self.device = device
        self.label = label or device.name
        self.progress = 0
        """Grows while the link's task lives, whatever the device does."""
        self._clock = clock
        self._sink = sink
        self._tap = tap
        self._port = device.common.port
        self._silence_s = clock.wall_delay_s(device.silence_s)
        self._state: Literal["up", "down", "unknown"] = "unknown"
        self._last_good: Stamp | None = None
        self._good_at = 0.0
        self._frames = 0
        self._refused: Counter[str] = Counter()
        self._skipped = 0
        self._opened = 0
        self._trouble = ""
        self._housekeeping: dict[str, Housekeeping] = {}

    @abstractmethod
    async def run(self) -> NoReturn:
        """Read the device until cancelled; whatever the world does, it goes on."""

    def status(self) -> DeviceStatus:
        """Return the link's state and counters."""
        return DeviceStatus(
            link=self._state,
            last_good=self._last_good,
            frames=self._frames,
            refused=dict(self._refused),
            reconnects=max(0, self._opened - 1),
            skipped_polls=self._skipped,
            detail="" if self._state == "up" else self._trouble,
            housekeeping=tuple(self._housekeeping.values()),
        )

    def _good(self, stamp: Stamp) -> None:
        self._good_at = asyncio.get_running_loop().time()
        self._last_good = stamp
        self._up(stamp, "reading on")

    def _up(self, stamp: Stamp, how: str) -> None:
        if self._state != "up":
            self._state = "up"
            self._trouble = ""
            self._change(stamp, is_up=True, detail=f"{self.label}: {how} {self._port}")

    def _down(self, seen: str) -> None:
        self._trouble = seen
        if self._state != "down":
            self._state = "down"
            self._change(
                self._clock.stamp(), is_up=False, detail=f"{self.label}: {seen} ({self._when()})"
            )

    def _change(self, stamp: Stamp, *, is_up: bool, detail: str) -> None:
        level = logging.INFO if is_up else logging.WARNING
        log.log(level, "link=%s device=%r detail=%r", self._state, self.label, detail)
        if self._tap is not None:
            self._tap(stamp, "up" if is_up else "down")
        self._sink(LinkChange(stamp=stamp, device=self.device.name, is_up=is_up, detail=detail))

    def _when(self) -> str:
        if self._last_good is None:
            return "no good frame yet"
        at = datetime.fromtimestamp(self._last_good.utc_us / 1e6, tz=UTC)
        return f"last good frame {at:%H:%M:%S}Z"

    def _hear(self, stamp: Stamp, readings: Iterable[Reading]) -> bool:
        """Pass on what the device said; return whether any of it was good."""
        is_good = False
        for reading in readings:
            if isinstance(reading, BadFrame):
                self._refused[reading.reason] += 1
            else:
                self._frames += 1
                if isinstance(reading, Housekeeping):
                    self._keep(reading)
                if not is_good:
                    is_good = True
                    self._good(stamp)
            self._sink(Timed(stamp=stamp, device=self.device.name, reading=reading))
        return is_good

    def _keep(self, reading: Housekeeping) -> None:
        known = self._housekeeping
        if reading.quantity in known or len(known) < MOST_HOUSEKEEPING:
            known[reading.quantity] = reading

    def _note(self, readings: Iterable[Reading]) -> None:
        """Pass on what the driver says by itself; that is no sign of life."""
        stamp = None
        for reading in readings:
            stamp = stamp or self._clock.stamp()
            if isinstance(reading, BadFrame):
                self._refused[reading.reason] += 1
            self._sink(Timed(stamp=stamp, device=self.device.name, reading=reading))

    def _silent_for_s(self, since: float) -> float:
        """Return the time from ``since`` (of the loop) to now on the agent's clock [s]."""
        return (asyncio.get_running_loop().time() - since) / self._clock.wall_delay_s(1.0)


class Link(DeviceLink):
    """A device that talks in bytes."""

    def __init__(
        self,
        device: DeviceConfig,
        *,
        clock: Clock,
        sink: Sink,
        label: str | None = None,
        tap: Tap | None = None,
    ) -> None:
        super().__init__(device, clock=clock, sink=sink, label=label, tap=tap)
        self._driver: StreamDriver = device.driver.make(device.driver_options)
        self._heard_bytes = 0
        self._bytes_at = math.inf  # inf: nothing came since the driver last forgot
        self._poll_at = math.inf
        self._reply_by = math.inf
        self._has_bytes = False  # since the last request
        self.listener: Listener | None = None
        """Where the device calls; None: it is called."""

    async def run(self) -> NoReturn:
        """Read the device until cancelled; whatever the world does, it goes on."""
        loop = asyncio.get_running_loop()
        backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
        self._good_at = loop.time()
        if self._port.startswith("listen://"):
            self.listener = Listener(self._port, networks(self.device.common.listen_callers))
        try:
            while True:
                self.progress += 1
                try:
                    await self._connection(backoff)
                except LinkError as exc:
                    if self._state == "up":
                        self._down(str(exc))
                    self._trouble = str(exc)
                    await self._pause(backoff.next_s())
        finally:
            if self.listener is not None:
                self.listener.close()

    async def _open(self) -> Pipe:
        if self.listener is not None:
            return await self.listener.pipe(OPEN_TIMEOUT_S)
        return await open_pipe(self._port, self.device.line, timeout_s=OPEN_TIMEOUT_S)

    async def _connection(self, backoff: Backoff) -> None:
        """Open the pipe and talk until it is lost (LinkError) or silent for long (return)."""
        loop = asyncio.get_running_loop()
        pipe = await self._open()
        self._opened += 1
        opened_at = loop.time()
        try:
            await self._talk(pipe, opened_at)
        except LinkError:
            self._note(self._driver.silence())
            raise
        finally:
            pipe.close()
            held_until = loop.time() if self.device.may_be_silent else self._good_at
            if held_until - opened_at > HELD_S:
                backoff.reset()
        self._note(self._driver.silence())

    async def _talk(self, pipe: Pipe, opened_at: float) -> None:
        loop = asyncio.get_running_loop()
        self._heard_bytes = 0
        self._poll_at = self._reply_by = self._bytes_at = math.inf
        while True:
            self.progress += 1
            now = loop.time()
            if now >= self._reply_by:
                self._reply_by = math.inf
                self._note(self._driver.no_reply())
            silent_at = self._watch_silence(now, opened_at)
            if silent_at is None:
                return
            await self._poll(pipe, now)
            wake_at = min(silent_at, self._poll_at, self._reply_by, now + HEARTBEAT_S)
            try:
                async with asyncio.timeout_at(wake_at):
                    data = await pipe.read()
            except TimeoutError:
                continue
            self._feed(data)
            if len(data) >= FLOOD_BYTES:
                await asyncio.sleep(FLOOD_PAUSE_S)

    def _watch_silence(self, now: float, opened_at: float) -> float | None:
        """Say a silence that tells something; return when to look again, None to open anew."""
        if self.device.may_be_silent:
            if now >= self._bytes_at + self._silence_s:
                self._note(self._driver.silence())  # no tail follows so late
                self._bytes_at = math.inf
            settled_at = opened_at + SETTLED_S
            if now < settled_at:
                return settled_at
            self._up(self._clock.stamp(), "open on")
            return self._bytes_at + self._silence_s
        since = max(self._good_at, opened_at)
        silent_at = since + self._silence_s
        if now < silent_at:
            return silent_at
        self._fall_silent(since)
        return None if now >= silent_at + REOPEN_S else silent_at + REOPEN_S

    def _feed(self, data: bytes) -> None:
        stamp = self._clock.stamp()
        if self._tap is not None:
            self._tap(stamp, data)
        self._has_bytes = True
        self._bytes_at = asyncio.get_running_loop().time()
        readings = self._driver.feed(data)
        if readings:
            self._reply_by = math.inf
        self._heard_bytes = 0 if self._hear(stamp, readings) else self._heard_bytes + len(data)

    async def _poll(self, pipe: Pipe, now: float) -> None:
        """Ask where it is time; what is late is skipped and counted, never made up for."""
        period_s = self._driver.poll_period_s
        if period_s is None:
            self._poll_at = math.inf
            return
        period_s = self._clock.wall_delay_s(period_s)
        if self._poll_at == math.inf:
            self._poll_at = now
        if now < self._poll_at:
            return
        late = int((now - self._poll_at) / period_s)
        self._poll_at += (late + 1) * period_s
        self._skipped += late
        is_waiting = self._reply_by < math.inf
        # Bytes that made no reading may have been an answer all the same: the driver knows.
        request = b"" if is_waiting and not self._has_bytes else self._driver.poll()
        if not request:
            self._skipped += is_waiting
            return
        self._has_bytes = False
        try:
            async with asyncio.timeout(self.device.common.timeout_s):
                await pipe.write(request)
        except TimeoutError as exc:
            raise LinkError(
                f"writing to {self._port} took longer than {self.device.common.timeout_s:g} s; "
                "check flow control and the device"
            ) from exc
        self._reply_by = asyncio.get_running_loop().time() + self.device.common.timeout_s

    def _fall_silent(self, since: float) -> None:
        if self._state == "down":
            return
        self._note(self._driver.silence())
        silent_s = self._silent_for_s(since)
        if not self._heard_bytes:
            self._down(
                f"no bytes for {silent_s:.1f} s on {self._port}; check cable, power and whether "
                "the device is set to send"
            )
            return
        hint = (
            "the driver's name and what speaks there"
            if not self._port.startswith("/")
            else f"baud and parity (here {self.device.line}) and the driver's name"
        )
        self._down(
            f"no good frame for {silent_s:.1f} s among {self._heard_bytes} bytes on {self._port}; "
            f"check {hint}"
        )

    async def _pause(self, delay_s: float) -> None:
        """Wait on the agent's clock; a device that cannot be reached falls silent meanwhile."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._clock.wall_delay_s(delay_s)
        while (now := loop.time()) < until:
            self.progress += 1
            silent_at = self._good_at + self._silence_s
            if self._state == "unknown" and now >= silent_at:
                self._down(
                    f"no frame for {self._silent_for_s(self._good_at):.1f} s: {self._trouble}"
                )
            nap_s = min(until - now, HEARTBEAT_S)
            await asyncio.sleep(min(nap_s, silent_at - now) if now < silent_at else nap_s)


class ModbusLink(DeviceLink):
    """A device that talks in Modbus registers, alone on its line or with others."""

    def __init__(  # noqa: PLR0913 - its partners, each named once at the making
        self,
        device: DeviceConfig,
        *,
        line: ModbusLine,
        clock: Clock,
        sink: Sink,
        label: str | None = None,
        tap: Tap | None = None,
        slot: float = 0.0,
    ) -> None:
        super().__init__(device, clock=clock, sink=sink, label=label, tap=tap)
        self._driver: PolledDriver = device.driver.make(device.driver_options)
        self._line = line
        self._slot = slot
        self._blocks: tuple[Block, ...] = ()
        self._due: list[float] = []
        self._misses = 0
        self._park_s = PARK_FIRST_S
        self._parked_until = 0.0

    def status(self) -> DeviceStatus:
        """Return the link's state and counters; reconnects are the line's."""
        plain = super().status()
        is_parked = self._misses >= PARK_AFTER and self._parked_until > 0
        return DeviceStatus(
            link="parked" if is_parked else plain.link,
            last_good=plain.last_good,
            frames=plain.frames,
            refused=plain.refused,
            reconnects=max(0, self._line.opened - 1),
            skipped_polls=plain.skipped_polls,
            detail=plain.detail,
            housekeeping=plain.housekeeping,
        )

    async def run(self) -> NoReturn:
        """Read the device until cancelled; whatever the world does, it goes on."""
        loop = asyncio.get_running_loop()
        self._line.join()
        try:
            self._good_at = loop.time()
            self._plan(self._driver.blocks())
            while True:
                self.progress += 1
                await self._turn(loop)
        finally:
            self._line.leave()

    async def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        """Wait for what is due next, or read it."""
        now = loop.time()
        silent_at = self._good_at + self._silence_s
        if now >= silent_at and self._state != "down":
            self._note(self._driver.silence())
            self._down(
                f"no good reply for {self._silent_for_s(self._good_at):.1f} s on {self._port}"
                + (f": {self._trouble}" if self._trouble else "; check cable and power")
            )
        at = max(min(self._due, default=math.inf), self._parked_until)
        if at > now:
            wake_at = min(at, now + HEARTBEAT_S, silent_at if silent_at > now else math.inf)
            await self._nap(wake_at - now)
            return
        index = self._due.index(min(self._due))
        await self._read(self._blocks[index])
        self._reschedule(index, loop.time())

    async def _nap(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def _read(self, block: Block) -> None:
        common = self.device.common
        try:
            registers = await self._line.read_block(
                common.unit,
                block,
                timeout_s=common.timeout_s,
                max_lateness_s=common.max_lateness_s,
            )
        except GoneError as exc:
            self._lost(str(exc))
            return
        except (NoReplyError, RefusedReplyError, ExceptionReplyError) as exc:
            self._missed(exc)
            return
        stamp = self._clock.stamp()
        self._misses = 0
        self._parked_until = 0.0
        self._park_s = PARK_FIRST_S
        if self._tap is not None:
            self._tap(stamp, (block, registers))
        readings = self._driver.decode(block, registers)
        if not readings:
            self._good(stamp)  # read, understood, nothing new
        self._hear(stamp, readings)

    def _lost(self, seen: str) -> None:
        self._trouble = seen
        if self._state == "up":
            self._note(self._driver.silence())
            self._down(seen)

    def _missed(self, exc: NoReplyError | RefusedReplyError | ExceptionReplyError) -> None:
        self._trouble = str(exc)
        self._note([BadFrame.of(exc.reason, b"", str(exc))])
        if isinstance(exc, ExceptionReplyError):
            self._misses = 0
            return
        self._misses += 1
        if self._misses >= PARK_AFTER and self._line.users > 1:
            # The line waits out each probe's time-out: not more than one part in eleven of it.
            park_s = max(
                self._clock.wall_delay_s(self._park_s),
                PARK_TIMEOUTS * self.device.common.timeout_s,
            )
            self._park_s = min(PARK_CAP_S, self._park_s * 2)
            self._parked_until = asyncio.get_running_loop().time() + park_s

    def _plan(self, blocks: tuple[Block, ...]) -> None:
        """Keep each block's turn; a new one has its first in this device's slot of the period.

        All devices in one moment would make the last wait for all others; beyond ``POLL_SLOTS``
        devices two share a moment, which saves wake-ups.
        """
        now = asyncio.get_running_loop().time()
        known = dict(zip(self._blocks, self._due, strict=True))
        self._due = [
            known.get(block, now + self._slot * self._clock.wall_delay_s(block.period_s))
            for block in blocks
        ]
        self._blocks = blocks

    def _reschedule(self, index: int, now: float) -> None:
        """Set the next turn on the block's own grid; late turns are skipped and counted."""
        period_s = self._clock.wall_delay_s(self._blocks[index].period_s)
        due = self._due[index] + period_s
        if due <= now:
            late = int((now - due) / period_s) + 1
            due += late * period_s
            self._skipped += late
        self._due[index] = due
        blocks = self._driver.blocks()
        if blocks != self._blocks:
            self._plan(blocks)


class Lines:
    """The Modbus lines in use: one for all devices on one port."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lines: dict[tuple[str, str, str], ModbusLine] = {}
        self._slots = itertools.cycle(n / POLL_SLOTS for n in range(POLL_SLOTS))

    def next_slot(self) -> float:
        """Return the next device's place in the polling period, from 0 to below 1."""
        return next(self._slots)

    def line_of(self, device: DeviceConfig) -> ModbusLine:
        """Return the device's line, made where it is the first on it."""
        port = device.common.port
        framing = framing_of(port, device.common.framing)
        key = (port, str(device.line), framing)
        if key not in self._lines:
            self._lines[key] = ModbusLine(
                port, device.line, framing=framing, delays=_LineDelays(self._clock)
            )
        return self._lines[key]


class _LineDelays:
    """Delays of the agent's clock in wall seconds."""

    def __init__(self, clock: Clock) -> None:
        self._backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
        self._clock = clock

    def next_s(self) -> float:
        return self._clock.wall_delay_s(self._backoff.next_s())

    def reset(self) -> None:
        self._backoff.reset()


def make_link(
    device: DeviceConfig,
    *,
    clock: Clock,
    sink: Sink,
    lines: Lines,
    label: str | None = None,
    tap: Tap | None = None,
) -> DeviceLink:
    """Return the link that fits the device's driver; ``lines`` is one for the whole agent."""
    if device.driver.is_polled:
        line = lines.line_of(device)
        return ModbusLink(
            device,
            line=line,
            clock=clock,
            sink=sink,
            label=label,
            tap=tap,
            slot=lines.next_slot(),
        )
    return Link(device, clock=clock, sink=sink, label=label, tap=tap)
