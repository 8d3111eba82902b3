"""Metal detectors that say more than a contact can: by serial messages, lines and registers.

Safeline Signature, 9600 7O1 (manual appendix D, p. 118-144; what the CRC covers is unconfirmed)::

    02h "G" nn "M" mmmm commands 03h kkkk     nn: characters after it and before 03h
    kkkk: CRC-16/MCRF4XX in hexadecimal       A bargraph  R detection  D rejects,packs  F faults
                                              C product,sensitivity,...  O access  h power-up

A line for each walk, of no maker in particular, the checksum over all before the star::

    hh:mm:ss;IN|OUT;M|R|-;zones;level;program;fault*xx CR LF      zones: names with + between

Registers, of no maker in particular, addresses from 0::

    input 10 alarm (0 none, 1 metal, 2 random)   11 zones, lowest bit the lowest   12 signal, 0.1 %
    input 20-21 persons in, 22-23 out, 24-25 alarms: 32 bit, low word first   discrete 0 ready
    holding 40 program, 41 sensitivity
"""

from __future__ import annotations

import functools
import operator
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from simulators.metal import MetalWalk
from simulators.modbus_server import ModbusUnit

Covered = Literal["text", "text and end", "all"]

STX, ETX = "\x02", "\x03"


def _mirrored(value: int, bits: int) -> int:
    return int(f"{value:0{bits}b}"[::-1], 2)


def mcrf4xx(data: bytes) -> int:
    """Return the CRC as the division it is: bits mirrored, the highest first, by 11021h."""
    register = 0xFFFF
    for byte in data:
        for bit in f"{_mirrored(byte, 8):08b}":
            out = (register >> 15) ^ int(bit)
            register = (register << 1 & 0xFFFF) ^ (0x1021 if out else 0)
    return _mirrored(register, 16)


def safeline_message(number: int, commands: str, covered: Covered = "text") -> bytes:
    """Return one message; ``number`` runs from 0 to 9999."""
    body = f"M{number:04d}{commands}"
    text = f"G{len(body):02d}{body}"
    summed = {"text": text, "text and end": text + ETX, "all": STX + text + ETX}[covered]
    crc = mcrf4xx(summed.encode("ascii"))
    return f"{STX}{text}{ETX}{crc:04X}".encode("ascii")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pack:
    """One pack on the belt, and the largest signal that it gives [bargraph counts]."""

    signal: int

    @property
    def is_rejected(self) -> bool:
        """Tell whether the head finds metal: the bargraph is full."""
        return abs(self.signal) >= 200


class SafelineHead:
    """A head with its counters; what it says of each pack, and what it answers."""

    def __init__(
        self, *, seed: int = 0, covered: Covered = "text", rejects: int = 0, packs: int = 0
    ) -> None:
        self._random = random.Random(seed)
        self._covered = covered
        self.rejects, self.packs = rejects, packs
        self.faults = 0
        self.product, self.sensitivity = 3, 120
        self.power_up = 1
        self.access = 0
        self._number = self._random.randrange(10_000)

    def say(self, commands: str) -> bytes:
        """Return the next message with these commands."""
        self._number = (self._number + 1) % 10_000
        return safeline_message(self._number, commands, self._covered)

    def passing(self, pack: Pack) -> Iterator[bytes]:
        """Yield what is sent while a pack goes through: bargraphs, and the detection."""
        peak = pack.signal
        for share in (0.4, 1.0, 0.6):
            signal = round(peak * share)
            is_peak = share == 1.0
            yield self.say(f"A{signal}R" if is_peak and pack.is_rejected else f"A{signal}")
        yield self.say(f"A{self._random.randint(-5, 5)}")
        self.packs = (self.packs + 1) % 16_777_215
        self.rejects = (self.rejects + pack.is_rejected) % 10_000

    def answer(self, request: bytes) -> bytes:
        """Return the answer to a row of requests; nothing to what is none."""
        found = re.fullmatch(rb"\x06?\x02G\d\dM(\d{4})([^\x03]+)\x03[0-9A-F]{4}", request)
        if found is None or request.removeprefix(b"\x06") != safeline_message(
            int(found[1]), found[2].decode("ascii"), self._covered
        ):
            return b""
        asked = found[2].decode("ascii")
        if "h0" in asked:
            self.power_up = 0
        told = {
            "D": f"D{self.rejects},{self.packs}",
            "F": f"F{self.faults}",
            "h": f"h{self.power_up}",
            "O": f"O{self.access}",
            "C": f"C{self.product},{self.sensitivity},45.50,A,2",
            "d": "d123456,2",
            "g": "g1",
        }
        return self.say("".join(told[letter] for letter in re.findall(r"([A-Za-z])\?", asked)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What a walk-through detector says of a walk; ``level`` in percent."""

    walk: MetalWalk
    zones: tuple[int, ...] = ()
    level: float = 0.0
    program: str = "IS3"
    fault: str = "OK"


def walk_line(found: Found, *, clock: str = "08:15:00") -> bytes:
    """Return the line of one walk."""
    walk = found.walk
    alarm = "M" if walk.has_metal else "R" if walk.is_random else "-"
    fields = (
        clock,
        walk.direction.upper(),
        alarm,
        "+".join(f"Z{zone}" for zone in found.zones),
        f"{found.level:.1f}",
        found.program,
        found.fault,
    )
    text = ";".join(fields).encode("ascii")
    check = functools.reduce(operator.xor, text, 0)
    return text + b"*%02X\r\n" % check


class RegisterDetector:
    """A walk-through detector whose registers follow what is done to it."""

    def __init__(self, *, entered: int = 0, left: int = 0, alarms: int = 0) -> None:
        self.unit = ModbusUnit()
        self._counts = {20: entered, 22: left, 24: alarms}
        self.unit.discrete[0] = True
        self.setting(program=7, sensitivity=65)
        self.quiet()
        for address in self._counts:
            self._add(address, 0)

    def _add(self, address: int, count: int) -> None:
        self._counts[address] = (self._counts[address] + count) % (1 << 32)
        self.unit.input[address] = self._counts[address] & 0xFFFF
        self.unit.input[address + 1] = self._counts[address] >> 16

    def setting(self, *, program: int, sensitivity: int) -> None:
        """Set the detector to another program."""
        self.unit.holding[40], self.unit.holding[41] = program, sensitivity

    def quiet(self) -> None:
        """Let the alarm fall."""
        for address in (10, 11, 12):
            self.unit.input[address] = 0

    def walk(self, found: Found) -> None:
        """Let one person through; the alarm stays until ``quiet``."""
        walk = found.walk
        self._add(20 if walk.direction == "in" else 22, 1)
        if walk.has_metal:
            self._add(24, 1)
            self.unit.input[10] = 1
            self.unit.input[11] = sum(1 << zone - 1 for zone in found.zones)
            self.unit.input[12] = round(10 * found.level)
        elif walk.is_random:
            self.unit.input[10] = 2
