"""Lines of text described as data: bytes as text, the parts of a body, and its checksum.

Bytes are written as themselves and as ``<CR> <LF> <STX> <ETX> <EOT> <ENQ> <ACK> <NAK> <ESC> <NUL>
<SP>`` or ``<0x7F>``; ``<0x3C>`` is the character <.

A pattern is refused where it can be tried in more than ``MAX_WAYS`` ways on one line: repeats must
be bounded, {0,8}, or possessive, *+ and ++ and ?+, which never give back what they took.

Source: crc16-modbus: MODBUS over Serial Line V1.02, 6.2.2; crc16-ccitt: ITU-T V.41 polynomial
1021h, starting FFFFh.
"""

from __future__ import annotations

import functools
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.readings import Reason

MAX_WAYS = 10_000
NOT_READ = "-"
"""The name of a field that is not looked at."""

ChecksumName = Literal["xor", "sum", "twos-complement", "crc16-modbus", "crc16-ccitt"]
ChecksumForm = Literal["hex", "hex-lower", "bytes", "bytes-low-first"]

Start = Annotated[str, Meta(description="bytes that open a frame; empty: none")]
End = Annotated[str, Meta(description="bytes that close a frame", min_length=1)]
SevenBits = Annotated[
    bool, Meta(description="bit 7 of each byte is parity and no part of the character")
]
Pattern = Annotated[str, Meta(description="regular expression of the whole body", max_length=300)]
Columns = Annotated[
    dict[str, str], Meta(description="first and last character of each part, from 1")
]
Separator = Annotated[
    str, Meta(description="bytes between the fields; empty: not split so", max_length=20)
]
Fields = Annotated[
    tuple[str, ...], Meta(description='the parts between separators; "-": not looked at')
]
ChecksumBits = Annotated[
    Literal[7, 8], Meta(description="xor, sum and twos-complement: bits that count [bit]")
]
ChecksumSkip = Annotated[
    int, Meta(description="bytes of the frame before the first that counts", ge=0, le=64)
]
ChecksumBehind = Annotated[
    int, Meta(description="bytes before the checksum that do not count, e.g. *", ge=0, le=8)
]
Poll = Annotated[str, Meta(description="bytes that ask for a frame; empty: it is sent unasked")]
PollInterval = Annotated[float, Meta(description="how often to ask [s]", ge=0.05, le=60)]

NAMED_BYTES = {
    "NUL": 0x00,
    "STX": 0x02,
    "ETX": 0x03,
    "EOT": 0x04,
    "ENQ": 0x05,
    "ACK": 0x06,
    "LF": 0x0A,
    "CR": 0x0D,
    "NAK": 0x15,
    "ESC": 0x1B,
    "SP": 0x20,
}
_BYTE = re.compile(r"<([A-Z]{2,3}|0x[0-9A-F]{2})>|([^<])")
_COLUMN = re.compile(r"([0-9]{1,3})-([0-9]{1,3})", re.ASCII)


class RefusedError(Exception):
    """A frame is no reading; stays inside the driver that cut it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def as_bytes(name: str, text: str) -> bytes:
    """Return the bytes that a text of the lane file means; ``name`` is the option's.

    Raises
    ------
    ValueError
        For a name in <> that is not known, and a character that is no single byte.
    """
    found = bytearray()
    at = 0
    while at < len(text):
        token = _BYTE.match(text, at)
        named = None if token is None else token[1]
        if token is None or (named is not None and named[:2] != "0x" and named not in NAMED_BYTES):
            known = " ".join(f"<{n}>" for n in NAMED_BYTES)
            raise ValueError(f'{name} has "{text[at : at + 6]}"; expected {known} or <0x7F>')
        character = token[2]
        if named is not None:
            found.append(int(named, 16) if named[:2] == "0x" else NAMED_BYTES[named])
        elif ord(character) > 0xFF:
            raise ValueError(f'{name} has "{character}", which is no single byte; write <0x7F>')
        else:
            found.append(ord(character))
        at = token.end()
    return bytes(found)


Parts = dict[str, tuple[int, str]]
"""Each part's place in the body and its text."""

Cut = Callable[[str], Parts | None]


def by_separator(separator: str, fields: tuple[str, ...]) -> tuple[Cut, tuple[str, ...]]:
    """Return how a body is split, and the parts it then has."""
    text = as_bytes("separator", separator).decode("latin-1")
    named = tuple(name for name in fields if name != NOT_READ)
    return functools.partial(_split, separator=text, fields=fields), named


def _split(body: str, *, separator: str, fields: tuple[str, ...]) -> Parts | None:
    pieces = body.split(separator)
    if len(pieces) != len(fields):
        return None
    parts: Parts = {}
    at = 0
    for name, piece in zip(fields, pieces, strict=True):
        parts[name] = (at, piece)
        at += len(piece) + len(separator)
    return parts


def by_columns(columns: Mapping[str, str]) -> tuple[Cut, tuple[str, ...]]:
    """Return how a body is cut at columns, "3-10" counted from 1, and the parts it then has."""
    places: dict[str, tuple[int, int]] = {}
    for name, text in columns.items():
        found = _COLUMN.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]) <= 256:
            raise ValueError(f'columns has {name} = "{text}"; write the first and last, as "3-10"')
        places[name] = (int(found[1]) - 1, int(found[2]))
    needed = max(last for _, last in places.values())

    def cut(body: str) -> Parts | None:
        if len(body) < needed:
            return None
        return {name: (first, body[first:last]) for name, (first, last) in places.items()}

    return cut, tuple(places)


def by_pattern(text: str, line: int) -> tuple[Cut, tuple[str, ...]]:
    """Return how a regular expression cuts a body of at most ``line`` bytes, and its groups.

    Raises
    ------
    ValueError
        Where it is none, or can be tried in more than MAX_WAYS ways.
    """
    try:
        pattern = re.compile(text, re.ASCII | re.DOTALL)
    except re.error as exc:
        raise ValueError(f"pattern is no regular expression: {exc}") from exc
    count = ways(text, line)
    if count > MAX_WAYS:
        raise ValueError(
            f"pattern can be tried in more than {MAX_WAYS} ways on a line of {line} bytes; bound "
            "its repeats, as {0,8}, or let them never give back, as *+"
        )

    def cut(body: str) -> Parts | None:
        found = pattern.fullmatch(body)
        if found is None:
            return None
        texts = found.groupdict(default="")
        return {name: (max(0, found.start(name)), text) for name, text in texts.items()}

    return cut, tuple(pattern.groupindex)


_QUANTIFIER = re.compile(r"(?:([*+?])|\{([0-9]+)\}|\{([0-9]*),([0-9]*)\})([?+]?)", re.ASCII)
_GROUP = re.compile(r"\((?:\?P<[A-Za-z_][A-Za-z_0-9]*>|\?:|\?>|(?!\?))", re.ASCII)
_CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\]\\])*+\]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:x[0-9a-fA-F]{2}|[^1-9])", re.DOTALL)


def ways(pattern: str, line: int) -> int:
    """Return in how many ways at most a pattern can be tried on a line; MAX_WAYS + 1: or more.

    Every path of a backtracking match chooses one branch and one number of turns of each repeat,
    so that the product over a sequence, the sum over branches and the sum over turns bounds them.

    Raises
    ------
    ValueError
        For what is not counted: look-around, references, flags.
    """
    count, at = _branches(pattern, 0, line)
    if at != len(pattern):
        raise ValueError(f'pattern has "{pattern[at : at + 6]}", which does not belong there')
    return count


def _branches(pattern: str, at: int, line: int) -> tuple[int, int]:
    total, count = 0, 1
    while at < len(pattern) and pattern[at] != ")":
        if pattern[at] == "|":
            total, count, at = _capped(total + count), 1, at + 1
            continue
        item, is_single, at = _item(pattern, at, line)
        found = _QUANTIFIER.match(pattern, at)
        if found is not None:
            at = found.end()
            item = 1 if is_single and found[5] == "+" else _turns(found, item, line)
        count = _capped(count * item)
    return _capped(total + count), at


def _item(pattern: str, at: int, line: int) -> tuple[int, bool, int]:
    """Return the ways of one item, whether it is a single character, and where the next begins."""
    if pattern[at] == "(":
        group = _GROUP.match(pattern, at)
        if group is None:
            raise ValueError(
                f'pattern has "{pattern[at : at + 4]}"; of groups only (...), (?:...), (?>...) and '
                "(?P<name>...) are taken"
            )
        count, at = _branches(pattern, group.end(), line)
        return count, False, at + 1
    form = {"[": _CLASS, "\\": _ESCAPE}.get(pattern[at])
    if form is None:
        return 1, True, at + 1
    found = form.match(pattern, at)
    if found is None:
        raise ValueError(
            f'pattern has "{pattern[at : at + 4]}"; references to groups are not taken'
        )
    return 1, True, found.end()


def _turns(found: re.Match[str], item: int, line: int) -> int:
    """Return the ways of an item repeated: the sum over all numbers of turns."""
    least, most = {"*": (0, line), "+": (1, line), "?": (0, 1)}.get(found[1] or "", (0, 0))
    if found[2] is not None:
        least = most = int(found[2])
    elif found[3] is not None:
        least, most = int(found[3] or 0), int(found[4] or line)
    total = 0
    power = 1
    for turn in range(min(most, line) + 1):
        if turn >= least:
            total = _capped(total + power)
        power = _capped(power * item)
    return max(1, total)


def _capped(count: int) -> int:
    return min(count, MAX_WAYS + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checksum:
    """An integrity field: which sum, how it is written, and over which bytes it runs."""

    name: ChecksumName
    form: ChecksumForm = "hex"
    bits: Literal[7, 8] = 8
    skip: int = 0
    """Bytes of the frame before the first that counts."""
    behind: int = 0
    """Bytes before the checksum that do not count."""

    def verify(self, frame: bytes, at: int, text: str) -> None:
        """Raise RefusedError where ``text``, which stands at ``at``, is not right."""
        right = _CHECKSUMS[self.name](frame[self.skip : max(0, at - self.behind)])
        if not self.name.startswith("crc16"):
            right &= (1 << self.bits) - 1
        wanted = _written(right, self)
        if text != wanted:
            raise RefusedError(Reason.CHECKSUM, f"checksum is {text!r}, should be {wanted!r}")


def _crc16_modbus(data: bytes) -> int:
    crc = 0xFFFF
    for value in data:
        crc ^= value
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


def _crc16_ccitt(data: bytes) -> int:
    crc = 0xFFFF
    for value in data:
        crc ^= value << 8
        for _ in range(8):
            crc = (crc << 1 ^ (0x1021 if crc & 0x8000 else 0)) & 0xFFFF
    return crc


_CHECKSUMS: dict[str, Callable[[bytes], int]] = {
    "xor": lambda data: functools.reduce(operator.xor, data, 0),
    "sum": sum,
    "twos-complement": lambda data: -sum(data),
    "crc16-modbus": _crc16_modbus,
    "crc16-ccitt": _crc16_ccitt,
}


def _written(value: int, checksum: Checksum) -> str:
    size = 2 if checksum.name.startswith("crc16") else 1
    match checksum.form:
        case "hex":
            return f"{value:0{2 * size}X}"
        case "hex-lower":
            return f"{value:0{2 * size}x}"
        case "bytes":
            return value.to_bytes(size, "big").decode("latin-1")
        case "bytes-low-first":
            return value.to_bytes(size, "little").decode("latin-1")
