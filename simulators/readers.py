"""Readers of tags and travel documents, made up and seeded: what they send, and what is true of it.

::

    tag       02  TTTTTTTTTT  XX  03          T  five bytes in hex   X  their XOR in hex
    document  lines of a machine readable zone, each closed by CR

A tag is sent again every 50 ms while it is near. Source: RDM6300 module; ICAO Doc 9303 parts 3 to 7
(positions and the weights 7, 3, 1 of a check digit). The holder is the specimen's of the state of
Utopia; numbers and dates are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from simulators.ports import Send, TcpPort

REPEAT_S = 0.05
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_HOLDER = "ERIKSSON<<ANNA<MARIA"

# Where number, birth, expiry and optional data stand: line, first, one behind the last.
_FIELDS = {
    "TD1": ((0, 5, 14), (1, 0, 6), (1, 8, 14)),
    "TD2": ((1, 0, 9), (1, 13, 19), (1, 21, 27)),
    "TD3": ((1, 0, 9), (1, 13, 19), (1, 21, 27)),
    "MRVA": ((1, 0, 9), (1, 13, 19), (1, 21, 27)),
    "MRVB": ((1, 0, 9), (1, 13, 19), (1, 21, 27)),
}
_COMPOSITE = {
    "TD1": (((0, 5, 30), (1, 0, 7), (1, 8, 15), (1, 18, 29)), (1, 29)),
    "TD2": (((1, 0, 10), (1, 13, 20), (1, 21, 35)), (1, 35)),
    "TD3": (((1, 0, 10), (1, 13, 20), (1, 21, 43)), (1, 43)),
}


def digit(characters: str) -> int:
    """Return the check digit: weights 7, 3, 1 over the values of the characters."""
    total = 0
    for index, character in enumerate(characters):
        worth = 0 if character == "<" else _ALPHABET.index(character)
        total += worth * [7, 3, 1][index % 3]
    return total % 10


def zone(rng: random.Random, form: str) -> tuple[str, ...]:
    """Return the lines of one document: form TD1, TD2, TD3, MRVA or MRVB."""
    number = "".join(rng.choice(_ALPHABET) for _ in range(9))
    birth = f"{rng.randrange(40, 99):02d}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    expiry = f"{rng.randrange(27, 36):02d}{rng.randrange(1, 13):02d}{rng.randrange(1, 29):02d}"
    born, ends = f"{birth}{digit(birth)}", f"{expiry}{digit(expiry)}"
    numbered = f"{number}{digit(number)}"
    match form:
        case "TD1":
            lines = [_filled(f"I<UTO{numbered}", 30), _filled(f"{born}F{ends}UTO", 30)]
            lines.append(_filled(_HOLDER, 30))
        case "TD2" | "MRVB":
            first = "I<UTO" if form == "TD2" else "V<UTO"
            lines = [_filled(first + _HOLDER, 36), _filled(f"{numbered}UTO{born}F{ends}", 36)]
        case _:
            first = "P<UTO" if form == "TD3" else "V<UTO"
            second = f"{numbered}UTO{born}F{ends}"
            if form == "TD3":
                personal = _filled("ZE184226B", 14)
                second += f"{personal}{digit(personal)}"
            lines = [_filled(first + _HOLDER, 44), _filled(second, 44)]
    if form in _COMPOSITE:
        spans, (line, at) = _COMPOSITE[form]
        whole = "".join(lines[n][first_at:last] for n, first_at, last in spans)
        lines[line] = lines[line][:at] + str(digit(whole)) + lines[line][at + 1 :]
    return tuple(lines)


def number_of(lines: Sequence[str], form: str) -> str:
    """Return the document's number."""
    line, first, last = _FIELDS[form][0]
    return lines[line][first:last]


def is_checked(form: str, line: int, at: int) -> bool:
    """Tell whether a check digit covers this character."""
    covered = [(n, first, last + 1) for n, first, last in _FIELDS[form]]
    if form in _COMPOSITE:
        spans, (n, place) = _COMPOSITE[form]
        covered += [*spans, (n, place, place + 1)]
    return any(n == line and first <= at < last for n, first, last in covered)


def _filled(text: str, length: int) -> str:
    return text.ljust(length, "<")


class TagReader:
    """A reader of 125 kHz tags with one tag before it."""

    def __init__(self, *, seed: int) -> None:
        number = random.Random(seed).randbytes(5)
        self.tag = number.hex().upper()
        check = 0
        for byte in number:
            check ^= byte
        self._frame = b"\x02" + self.tag.encode() + f"{check:02X}".encode() + b"\x03"

    def near(self, *, seconds: float) -> bytes:
        """Return what the reader sends while the tag is near for so long."""
        return self._frame * round(seconds / REPEAT_S)


class ReaderPort:
    """A reader behind a device server: it says what it reads to whoever is connected."""

    def __init__(self) -> None:
        self._sends: list[Send] = []
        self._port = TcpPort(self._talk)

    def _talk(self, send: Send) -> _Silent:
        self._sends.append(send)
        return _Silent()

    async def serve_tcp(self) -> str:
        """Listen on the loopback and return the address, ``tcp://127.0.0.1:N``."""
        return f"tcp://127.0.0.1:{await self._port.open()}"

    @property
    def heard_by(self) -> int:
        """How many have connected so far."""
        return len(self._sends)

    def say(self, data: bytes) -> None:
        """Send to every client."""
        for send in self._sends:
            send(data)

    async def close(self) -> None:
        """Stop listening and cut every client off."""
        await self._port.close()


class _Silent:
    """A reader hears nothing."""

    def received(self, data: bytes) -> None:
        """Let it be."""

    def closed(self) -> None:
        """Nothing is open."""
