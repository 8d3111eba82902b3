"""``checkpointd capture``: write down what devices send, as it comes, for a replay.

The lines are described in ``agent.tools.replay.recording``, which reads them back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agent import config as configuration
from agent.clock import Clock
from agent.daemon.link import Captured, DeviceLink, Lines, make_link
from agent.records import LaneEvent, Stamp
from agent.settings import DeviceConfig
from agent.tools.terminal import WrongInputError, wrong_input

PROGRESS_S = 1.0


def format_line(stamp: Stamp, device: str, captured: Captured) -> str:
    """Return one capture line without its end of line; ``t`` has exact microseconds."""
    seconds, microseconds = divmod(stamp.utc_us, 1_000_000)
    head = f'{{"t": {seconds}.{microseconds:06d}, "dev": {json.dumps(device)}, '
    if isinstance(captured, bytes):
        return f'{head}"hex": "{captured.hex()}"}}'
    if isinstance(captured, str):
        return f'{head}"link": "{captured}"}}'
    block, registers = captured
    asked = "".join(
        f'{{"address": {address}, "regs": {list(words)}}}, ' for address, words in block.written
    )
    asked = f'"written": [{asked.removesuffix(", ")}], ' if asked else ""
    values = ", ".join(map(str, registers))
    place = f'"table": "{block.table}", "address": {block.address}'
    return f'{head}{asked}{place}, "regs": [{values}]}}'


async def capture(
    devices: Sequence[DeviceConfig],
    path: Path,
    clock: Clock,
    for_s: float | None,
    lines: Counter[str] | None = None,
) -> Counter[str]:
    """Write what the devices send to a new file; return the number of lines by device.

    ``for_s`` is how long on the clock [s]; None: until cancelled. ``lines`` is what it counts in,
    for a caller who cancels it; None: a counter of its own. The file is flushed to disk
    before this returns, cancelled or not; progress goes to stderr.

    Raises
    ------
    FileExistsError
        If the file is there already: a capture is evidence and is never written over.
    OSError
        If it cannot be written.
    """
    lines = Counter() if lines is None else lines
    with path.open("x", encoding="ascii") as file:

        def link_to(device: DeviceConfig) -> DeviceLink:
            def tap(stamp: Stamp, captured: Captured) -> None:
                file.write(format_line(stamp, device.name, captured) + "\n")
                lines[device.name] += 1

            return make_link(device, clock=clock, sink=_ignore, lines=shared, tap=tap)

        shared = Lines(clock)
        links = [link_to(device) for device in devices]
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(link.run()) for link in links]
                await _watch(links, lines, clock, for_s)
                for task in tasks:
                    task.cancel()
        finally:
            file.flush()
            os.fsync(file.fileno())
    return lines


async def _watch(
    links: Sequence[DeviceLink], lines: Counter[str], clock: Clock, for_s: float | None
) -> None:
    begun_s = clock.mono_s()
    while for_s is None or clock.mono_s() - begun_s < for_s:
        left_s = PROGRESS_S if for_s is None else begun_s + for_s - clock.mono_s()
        await clock.sleep(min(PROGRESS_S, left_s))
        said = ", ".join(
            f"{link.device.name} {link.status().link} {lines[link.device.name]} lines"
            for link in links
        )
        print(f"{clock.mono_s() - begun_s:6.0f} s  {said}", file=sys.stderr, flush=True)


def _ignore(_: LaneEvent) -> None:
    """A capture keeps what came, not what it means."""


def capture_command(arguments: argparse.Namespace) -> int:
    """Capture a lane's devices; 1 where nothing came.

    Raises
    ------
    WrongInputError
        Where the file, the lane or a device is wrong.
    """
    with wrong_input(configuration.ConfigError):
        lane = configuration.load_lane(arguments.lane, [])
    known = {device.name: device for device in lane.devices}
    unknown = [name for name in arguments.device if name not in known]
    if unknown:
        raise WrongInputError(
            f"--device {unknown[0]}: {arguments.lane} has no such device; known are "
            f"{', '.join(known)}"
        )
    devices = [known[name] for name in arguments.device] or list(lane.devices)
    with wrong_input(OSError):
        try:
            lines = asyncio.run(_until_interrupted(devices, arguments))
        except FileExistsError as exc:
            text = f"{arguments.output}: it is there already, and a capture is never written over"
            raise WrongInputError(text) from exc
    counted = ", ".join(f"{name} {n}" for name, n in sorted(lines.items())) or "nothing"
    print(f"{arguments.output}: {counted} lines", file=sys.stderr)
    return 0 if lines else 1


async def _until_interrupted(
    devices: list[DeviceConfig], arguments: argparse.Namespace
) -> dict[str, int]:
    lines: Counter[str] = Counter()
    writing = capture(devices, arguments.output, Clock(), arguments.for_s, lines)
    work = asyncio.ensure_future(writing)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, work.cancel)
    await asyncio.wait({work})
    if not work.cancelled():
        work.result()
    return dict(lines)
