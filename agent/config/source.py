"""The files of a configuration as they were read, and where in them an option stands."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from agent.config.lines import line_of, lines_of
from agent.config.problems import Problem

GATEWAY_FILE = "gateway.toml"
LARGEST_FILE_BYTES = 1 << 20
LONGEST_VALUE = 60

Table = Mapping[str, object]
OptionPath = tuple[str, ...]

_AT_LINE = re.compile(r" \(at (?:line (\d+), column \d+|end of document)\)$")
_SECRET_NAMES = re.compile(r"pass(word|wd|phrase)?|secret|token|psk|(private_?)?key|pin")


def is_secret_name(name: str) -> bool:
    """Tell whether an option of this name would hold a secret itself, not name its file."""
    return _SECRET_NAMES.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One parsed file; ``overrides`` tells which values came from the command line instead."""

    name: str
    table: Table
    lines: Mapping[OptionPath, int]
    overrides: frozenset[OptionPath] = frozenset()

    def problem(
        self, path: OptionPath, text: str, *, value: object = None, is_warning: bool = False
    ) -> Problem:
        """Return a problem of the option at that path; ``value`` None: nothing to show."""
        hidden = value is None or any(is_secret_name(part) for part in path)
        # An option is an override's where it stands inside one, or only came to be by one.
        is_override = any(path[: len(o)] == o for o in self.overrides) or (
            path not in self.lines and any(o[: len(path)] == path for o in self.overrides)
        )
        return Problem(
            file="--set" if is_override else self.name,
            line=None if is_override else line_of(self.lines, path),
            option=".".join(path),
            value=None if hidden else shown(value),
            text=text,
            is_warning=is_warning,
        )


def shown(value: object) -> str:
    """Return a value as TOML writes it, cut where it is long."""
    text = _toml(value)
    if "-----BEGIN" in text:
        return '"-----BEGIN …"'
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}…"


def _toml(value: object) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            escaped = value.replace("\\", "\\\\").replace('"', '\\"')
            return (
                '"' + "".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in escaped) + '"'
            )
        case list() | tuple():
            return f"[{', '.join(_toml(item) for item in value)}]"
        case dict():
            return "{" + ", ".join(f"{k} = {_toml(v)}" for k, v in value.items()) + "}"
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Files:
    """The bytes of every file, by name relative to the directory."""

    contents: Mapping[str, bytes]

    @property
    def revision(self) -> str:
        """Return the SHA-256 over names and contents in the order of the names."""
        digest = hashlib.sha256()
        for name, content in sorted(self.contents.items()):
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return digest.hexdigest()


def read_files(directory: Path) -> tuple[Files, list[Problem]]:
    """Read ``gateway.toml`` and ``lanes/*.toml``; an editor's hidden files are left alone."""
    problems: list[Problem] = []
    contents: dict[str, bytes] = {}
    lanes = sorted(p for p in (directory / "lanes").glob("*.toml") if not p.name.startswith("."))
    if not lanes:
        text = f"expected at least one lane file, {directory}/lanes/NAME.toml"
        problems.append(Problem(file="lanes/", text=text))
    for path in (directory / GATEWAY_FILE, *lanes):
        name = path.relative_to(directory).as_posix()
        found = read_file(path, name)
        if isinstance(found, Problem):
            problems.append(found)
        else:
            contents[name] = found
    return Files(MappingProxyType(contents)), problems


def read_file(path: Path, name: str) -> bytes | Problem:
    """Return the file's bytes, or why there are none."""
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST_FILE_BYTES + 1)
    except OSError as exc:
        trouble = (exc.strerror or type(exc).__name__).lower()
        return Problem(file=name, text=f"cannot be read: {trouble}; expected a file at {path}")
    if len(content) > LARGEST_FILE_BYTES:
        return Problem(file=name, text=f"expected at most {LARGEST_FILE_BYTES} bytes")
    return content


def parse(name: str, content: bytes) -> Source | Problem:
    """Return the file's tables with their lines, or what is wrong with its syntax."""
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        return Problem(file=name, line=line, text="expected UTF-8; save the file as UTF-8 text")
    text = text.replace("\r\n", "\n")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        match = _AT_LINE.search(str(exc))
        at_end = text.count("\n") + 1
        line = int(match[1]) if match is not None and match[1] else at_end
        said = _AT_LINE.sub("", str(exc))
        return Problem(file=name, line=line, text=f"not valid TOML: {said[:1].lower()}{said[1:]}")
    except RecursionError:
        return Problem(file=name, text="not valid TOML: brackets are nested too deeply")
    return Source(name=name, table=table, lines=MappingProxyType(lines_of(text)))


def override(source: Source, settings: Iterable[str]) -> tuple[Source, list[Problem]]:
    """Return the source with ``table.option=VALUE`` put in, each value as TOML writes it."""
    table = _copied(source.table)
    overrides: set[OptionPath] = set()
    problems: list[Problem] = []
    for setting in settings:
        name, equals, value_text = setting.partition("=")
        path = tuple(part.strip() for part in name.split("."))
        found = _override_value(table, setting, path, value_text if equals else "")
        if isinstance(found, Problem):
            problems.append(found)
            continue
        _put(table, path, found[0])
        overrides.add(path)
    changed = Source(
        name=source.name,
        table=table,
        lines=source.lines,
        overrides=frozenset(overrides),
    )
    return changed, problems


def _override_value(
    table: Table, setting: str, path: OptionPath, text: str
) -> tuple[object] | Problem:
    where = f"--set {setting}"
    if len(path) < 2 or not all(path) or not text.strip():
        return Problem(file=where, text="expected TABLE.OPTION=VALUE, as lane.join_gap_s=3.0")
    if path[0] == "devices":
        devices = table.get("devices")
        names = list(devices) if isinstance(devices, dict) else []
        if path[1] not in names or len(path) < 3:
            known = ", ".join(names) or "none"
            text = f"expected devices.NAME.OPTION=VALUE with a device of the file: {known}"
            return Problem(file=where, text=text)
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        hint = f"""write text in quotes, '{".".join(path)}="{text.strip()}"'"""
        return Problem(file=where, text=f"expected a TOML value after the equals sign; {hint}")
    if len(value) != 1:
        return Problem(file=where, text="expected one value")
    return (value["value"],)


def _copied(table: Table) -> dict[str, object]:
    return {k: _copied(v) if isinstance(v, dict) else v for k, v in table.items()}


def _put(table: dict[str, object], path: OptionPath, value: object) -> None:
    for part in path[:-1]:
        inner = table.get(part)
        if not isinstance(inner, dict):
            inner = {}
            table[part] = inner
        table = inner
    table[path[-1]] = value
