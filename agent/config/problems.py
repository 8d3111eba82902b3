"""What is wrong with a configuration: all of it, each with its place and what was expected."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One thing to put right.

    ``file`` is relative to the configuration directory, or ``--set …`` for a value from the
    command line. ``line`` None: it concerns no line. ``option`` is dotted, empty for a whole file.
    ``value`` None: missing, or not to be shown. ``is_warning``: said, but refuses nothing.
    """

    file: str
    line: int | None = None
    option: str = ""
    value: str | None = None
    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        """Return ``file:line: table.option = value: text``, as compilers do."""
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        option = self.option if self.value is None else f"{self.option} = {self.value}"
        parts = [where, "warning" if self.is_warning else "", option, self.text]
        return ": ".join(part for part in parts if part)


class ConfigError(Exception):
    """A configuration cannot be used; ``problems`` holds every reason and every warning."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(report(self.problems))


def report(problems: Iterable[Problem]) -> str:
    """Return one line a problem, by file and line, warnings among them."""
    ordered = sorted(problems, key=lambda p: (p.file, p.line or 0, p.option, p.text))
    return "\n".join(dict.fromkeys(str(problem) for problem in ordered))
