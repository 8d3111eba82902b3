"""``checkpointd probe`` on the command line."""

from __future__ import annotations

import argparse
import asyncio
import sys

from agent.tools.probe.ear import PortEar
from agent.tools.probe.modbus import probe_modbus
from agent.tools.probe.probe import Found, Plan, probe_stream
from agent.tools.probe.report import as_json, text
from agent.tools.terminal import WrongInputError, wrong_input
from drivers.transport import LinkError, tcp_address

MODBUS_PORT = 502
"""Registered for Modbus TCP (IANA service names and port numbers)."""


def probe_command(arguments: argparse.Namespace) -> int:
    """Probe one port: 0 recognised, 1 nothing recognised."""
    port: str = arguments.port
    if arguments.unit is not None and not arguments.ask:
        raise WrongInputError(
            "--modbus-unit sends requests to the device; give --ask too, if you mean it"
        )
    with wrong_input(LinkError, ValueError):
        found = asyncio.run(_probe(port, arguments))
    print(as_json(port, found) if arguments.json else text(port, found))
    return 0 if found.best is not None else 1


async def _probe(port: str, arguments: argparse.Namespace) -> Found:
    address = tcp_address(port)
    unit: int | None = arguments.unit
    if unit is None and arguments.ask and address is not None and address[1] == MODBUS_PORT:
        unit = 1
    if unit is not None:
        return await probe_modbus(port, unit, _say)
    plan = Plan(seconds=arguments.seconds, is_asking=arguments.ask)
    return await probe_stream(PortEar(port), plan, _say)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
