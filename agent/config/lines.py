"""On which line of a TOML file each table and key stands; tomllib keeps no lines.

The file must have passed tomllib: this scan only follows strings, brackets and comments, so that
it never takes what stands inside a value for a key.

Source: TOML 1.0.0, sections "Keys", "String", "Array", "Table", "Inline Table".
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping

Path = tuple[str, ...]

_KEY_PART = re.compile(r"""[ \t]*("(?:[^"\\]|\\.)*"|'[^']*'|[A-Za-z0-9_-]+)[ \t]*""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}(?!")'
    r"|'''.*?'{3,5}(?!')"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)
_PLAIN = re.compile(r"[^\"'\[\]{}#\n]+")


def lines_of(text: str) -> dict[Path, int]:
    """Return the line, counted from 1, of every table header and key of a valid TOML text.

    Keys inside inline tables have no line of their own; of a repeated path (an array of tables)
    the first counts.
    """
    found: dict[Path, int] = {}
    table: Path = ()
    at = 0
    while (at := _end(_BLANK, text, at)) < len(text):
        line = text.count("\n", 0, at) + 1
        if text[at] == "[":
            table, at = _key(text, at + (2 if text.startswith("[[", at) else 1))
            at = _line_end(text, at)
            path = table
        else:
            key, at = _key(text, at)
            path = table + key
            at = _after_value(text, at + 1)  # past the equals sign
        # Every table that the path implies has a line too: that of its first mention.
        for size in range(1, len(path) + 1):
            found.setdefault(path[:size], line)
    return found


def line_of(lines: Mapping[Path, int], path: Path) -> int:
    """Return the line of that path, or of the nearest table around it; 1 where there is none."""
    for size in range(len(path), 0, -1):
        if path[:size] in lines:
            return lines[path[:size]]
    return 1


def _key(text: str, at: int) -> tuple[Path, int]:
    """Return the dotted key that begins here, and where it ends."""
    parts: list[str] = []
    while (match := _KEY_PART.match(text, at)) is not None:
        raw = match[1]
        parts.append(tomllib.loads(f"k = {raw}")["k"] if raw[0] in "\"'" else raw)
        at = match.end()
        if not text.startswith(".", at):
            break
        at += 1
    return tuple(parts), at


def _after_value(text: str, at: int) -> int:
    """Return where the value that begins here ends: at its line's end outside all brackets."""
    depth = 0
    while at < len(text):
        character = text[at]
        if character in "\"'":
            at = _end(_STRING, text, at)
        elif character == "#":
            at = _line_end(text, at)
        elif character == "\n" and depth == 0:
            return at
        elif character in "[{":
            depth, at = depth + 1, at + 1
        elif character in "]}":
            depth, at = depth - 1, at + 1
        else:
            at = max(at + 1, _end(_PLAIN, text, at))
    return at


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    match = pattern.match(text, at)
    return at if match is None else match.end()


def _line_end(text: str, at: int) -> int:
    end = text.find("\n", at)
    return len(text) if end < 0 else end
