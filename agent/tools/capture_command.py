"""``checkpointd capture`` on the command line."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections import Counter

from agent import config as configuration
from agent.cli import wrong
from agent.clock import Clock
from agent.settings import DeviceConfig
from agent.tools.capture import capture


def capture_command(arguments: argparse.Namespace) -> int:
    """Capture a lane's devices; 2 where the file, the lane or a device is wrong."""
    try:
        lane = configuration.load_lane(arguments.lane, [])
    except configuration.ConfigError as exc:
        return wrong(str(exc))
    known = {device.name: device for device in lane.devices}
    unknown = [name for name in arguments.device if name not in known]
    if unknown:
        return wrong(
            f"--device {unknown[0]}: {arguments.lane} has no such device; known are "
            f"{', '.join(known)}"
        )
    devices = [known[name] for name in arguments.device] or list(lane.devices)
    try:
        lines = asyncio.run(_until_interrupted(devices, arguments))
    except FileExistsError:
        return wrong(
            f"{arguments.output}: it is there already, and a capture is never written over"
        )
    except OSError as exc:
        return wrong(f"{exc.filename}: {exc.strerror}")
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
