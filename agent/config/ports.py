"""Who uses which port: one port has one owner, and Modbus users of one line must agree."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import combinations

from agent.config.problems import Problem
from agent.config.source import Source
from agent.settings import DeviceConfig
from drivers.base import Block
from drivers.modbus import framing_of
from drivers.transport import tcp_address

_NUMBERED = re.compile(r"/dev/tty(USB|ACM)\d+")


@dataclass(frozen=True, slots=True)
class User:
    """One device and where its table stands."""

    device: DeviceConfig
    source: Source

    @property
    def name(self) -> str:
        """Return how another table's problem names this device."""
        return f"devices.{self.device.name} of {self.source.name}"

    @property
    def is_rtu(self) -> bool:
        """Tell whether it speaks Modbus RTU."""
        common = self.device.common
        is_polled = self.device.driver.is_polled
        return is_polled and framing_of(common.port, common.framing) == "rtu"

    def problem(self, option: str, text: str, *, is_warning: bool = False) -> Problem:
        """Return a problem of one of the device's common options."""
        path = ("devices", self.device.name, option)
        value = getattr(self.device.common, option)
        return self.source.problem(path, text, value=value, is_warning=is_warning)


def check_ports(users: Iterable[User]) -> list[Problem]:
    """Return what is wrong with the ports of all devices of all lanes."""
    problems: list[Problem] = []
    by_port: dict[str, list[User]] = defaultdict(list)
    for user in users:
        form = _form(user)
        problems += form
        problems += _unread(user)
        problems += _equal_blocks(user)
        if not any(not problem.is_warning for problem in form):
            by_port[_identity(user.device.common.port)].append(user)
    for sharing in by_port.values():
        for first, second in combinations(sharing, 2):
            problems += _sharing(first, second)
    return problems


def _form(user: User) -> list[Problem]:
    port = user.device.common.port
    if port.startswith("listen://"):
        return []  # agent.config.relays looks at it, with who may call
    try:
        address = tcp_address(port)
    except ValueError:
        address = None
        is_wrong = True
    else:
        is_wrong = "@" in port or (address is None and not port.startswith("/dev/"))
    if is_wrong:
        return [user.problem("port", "expected /dev/… or tcp://host:port or listen://address:port")]
    if _NUMBERED.fullmatch(port):
        text = (
            "this name goes to whichever adapter is plugged in first; use the one under "
            "/dev/serial/by-id or /dev/serial/by-path"
        )
        return [user.problem("port", text, is_warning=True)]
    return []


def _unread(user: User) -> Iterator[Problem]:
    """Yield the options that are set and that nobody would read."""
    device = user.device
    given = user.source.table.get("devices")
    table = given.get(device.name, {}) if isinstance(given, dict) else {}
    if not device.driver.is_polled:
        for option in ("unit", "framing", "timeout_s", "max_lateness_s"):
            if option in table:
                text = f"{device.driver.name} is no Modbus device and reads none; take it out"
                yield user.problem(option, text)
    if not device.common.port.startswith("/"):
        kind = device.common.port.partition(":")[0]
        for option in ("baud", "parity", "data_bits", "stop_bits"):
            if option in table:
                text = f"a {kind}:// port has none; set it in the device and take it out here"
                yield user.problem(option, text)


def _identity(port: str) -> str:
    """Return a name that two spellings of one port share."""
    if port.startswith("listen://"):
        return port.lower()
    address = tcp_address(port)
    if address is None:
        return os.path.realpath(port)
    return f"{address[0].lower()}:{address[1]}"


def _sharing(first: User, second: User) -> Iterator[Problem]:
    if not (first.device.driver.is_polled and second.device.driver.is_polled):
        text = f"is already the port of {first.name}; expected one owner of each port"
        yield second.problem("port", text)
        return
    one, other = first.device.common, second.device.common
    if one.port != other.port:
        text = f'is the line of {first.name}; expected the same spelling, "{one.port}"'
        yield second.problem("port", text)
    if first.is_rtu != second.is_rtu:
        text = f"expected the same as {first.name} on this port"
        yield second.problem("framing", text)
    elif one.port.startswith("/") and first.device.line != second.device.line:
        text = (
            f"shares the line with {first.name} at {first.device.line}, but asks for "
            f"{second.device.line}; expected the same baud, parity, data_bits and stop_bits"
        )
        yield second.problem("port", text)
    if one.unit == other.unit:
        yield from _same_unit(first, second)


def _same_unit(first: User, second: User) -> Iterator[Problem]:
    if first.is_rtu or second.is_rtu:
        # Inputs and outputs of one module may be two devices, as long as no reply fits both.
        replies = {(block.table, block.count) for block in _blocks(first)}
        if replies & {(block.table, block.count) for block in _blocks(second)}:
            text = f"is already the unit of {first.name} on this line; expected another unit id"
            yield second.problem("unit", text)
        return
    # Two detectors may be wired to one module, but not to the same inputs of it.
    common = set(_blocks(first)) & set(_blocks(second))
    for block in sorted(common, key=lambda block: (block.table, block.address)):
        text = (
            f"reads the same {block.table} {block.address}+{block.count} of unit "
            f"{second.device.common.unit} as {first.name}; expected other inputs or another unit"
        )
        yield second.problem("unit", text)


def _equal_blocks(user: User) -> Iterator[Problem]:
    """Yield what a late reply could be taken for: RTU carries no transaction number.

    A reply names its unit, its function and its length, so that only blocks of one unit that
    agree in both can be mistaken for each other.
    """
    if not user.is_rtu:
        return
    if user.device.common.unit not in range(1, 248):
        text = "expected 1 to 247: on a serial line 0 speaks to all units, and none is above 247"
        yield user.problem("unit", text)
    for first, second in combinations(_blocks(user), 2):
        if (first.table, first.count) == (second.table, second.count):
            text = (
                f"reads {first.table} {first.address}+{first.count} and "
                f"{second.address}+{second.count}, whose replies look alike, so a late one would "
                "be taken for the other; read them as one block, or wire the device by Modbus TCP"
            )
            yield user.problem("driver", text)


def _blocks(user: User) -> tuple[Block, ...]:
    driver = user.device.driver
    made = driver.make(user.device.driver_options)
    blocks: tuple[Block, ...] = made.blocks()
    return blocks
