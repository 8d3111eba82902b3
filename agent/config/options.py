"""One table of a file turned into option dataclasses, checked field by field.

Type, bounds, unit and text of an option come from its dataclass alone, so that the check, its
error text and the listing cannot disagree.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from agent.config.problems import Problem
from agent.config.source import OptionPath, Source, Table, is_secret_name, shown

T = TypeVar("T")

ID_PATTERN = r"^[a-z0-9][a-z0-9-]{0,31}$"
ID_TEXT = "at most 32 of a-z, 0-9 and -, the first no -"

_INLINE_REFUSED = (
    "a secret never stands in this file; put it into a file that only checkpointd can read, "
    "and name that with password_file or key_file"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option as its dataclass declares it; ``default`` None: it must be given."""

    name: str
    expected: str
    description: str
    default: str | None
    hint: object


def options_of(kind: type) -> dict[str, Option]:
    """Return a dataclass's options by name."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in dataclasses.fields(kind):
        hint, metas = _flat(hints[field.name])
        found[field.name] = Option(
            name=field.name,
            expected=_expected(hint, metas),
            description=next((m.description for m in metas if m.description), ""),
            default=_default(field),
            hint=hint if not metas else _annotated(hint, metas),
        )
    return found


def fill(
    kind: type[T], table: Table, source: Source, at: OptionPath
) -> tuple[T | None, list[Problem]]:
    """Return the table as that dataclass, or None and all that is wrong with it."""
    filled, problems = fill_flat((kind,), table, source, at)
    return (None if filled is None else cast("T", filled[0])), problems


def fill_flat(
    kinds: tuple[type, ...], table: Table, source: Source, at: OptionPath
) -> tuple[tuple[object, ...] | None, list[Problem]]:
    """Return one flat table as several dataclasses, which share no option's name."""
    known = [options_of(kind) for kind in kinds]
    names = [name for options in known for name in options]
    problems = unknown(table, names, source, at)
    filled: list[object] = []
    for kind, options in zip(kinds, known, strict=True):
        made, wrong = _make(kind, options, table, source, at)
        filled.append(made)
        problems += wrong
    is_whole = all(made is not None for made in filled)
    return (tuple(filled) if is_whole else None), problems


def unknown(
    table: Table, known: Iterable[str], source: Source, at: OptionPath, what: str = "option"
) -> list[Problem]:
    """Return a problem for each key that nobody would read."""
    names = list(known)
    problems = []
    for key in table:
        if key in names:
            continue
        if is_secret_name(key):
            text = _INLINE_REFUSED
        else:
            text = f"there is no such {what}; {did_you_mean(key, names)}"
        problems.append(source.problem((*at, key), text))
    return problems


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean X?``, or all there are."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.6)
    return f"did you mean {close[0]}?" if close else f"expected one of {', '.join(names) or 'none'}"


def _make(
    kind: type, options: Mapping[str, Option], table: Table, source: Source, at: OptionPath
) -> tuple[object | None, list[Problem]]:
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for name, option in options.items():
        path = (*at, name)
        if name not in table:
            if option.default is None:
                problems.append(source.problem(path, f"missing; {_sentence(option)}"))
            continue
        value, wrong = _value(option, table[name], source, path)
        values[name] = value
        problems += wrong
    if problems:
        return None, problems
    try:
        return kind(**values), []
    except ValueError as exc:  # what __post_init__ says of options that do not fit together
        return None, [source.problem(at, str(exc))]


def _value(
    option: Option, value: object, source: Source, path: OptionPath
) -> tuple[object, list[Problem]]:
    base, _ = _flat(option.hint)
    if dataclasses.is_dataclass(base) and isinstance(base, type):
        if not isinstance(value, dict):
            return None, [source.problem(path, _sentence(option), value=value)]
        return fill(base, value, source, path)
    named = _named_tables(base)
    if named is not None and isinstance(value, dict):
        return _fill_named(named, value, source, path)
    try:
        converted: object = msgspec.convert(value, cast("type", option.hint), strict=True)
    except msgspec.ValidationError:
        return None, [source.problem(path, _sentence(option), value=value)]
    if isinstance(converted, float) and not math.isfinite(converted):
        return None, [source.problem(path, _sentence(option), value=value)]
    # "$" of a pattern lets a line end pass, and a topic or a file name must not hold one.
    texts = converted if isinstance(converted, tuple) else (converted,)
    if any(isinstance(text, str) and not text.isprintable() for text in texts):
        text = "expected text of one line without control characters"
        return None, [source.problem(path, text, value=value)]
    return converted, []


def _named_tables(hint: object) -> type | None:
    """Return the dataclass of an option that is a table of tables, None where it is none."""
    if get_origin(hint) is not dict:
        return None
    inner, _ = _flat(get_args(hint)[1])
    return inner if dataclasses.is_dataclass(inner) and isinstance(inner, type) else None


def _fill_named(
    kind: type, table: Table, source: Source, path: OptionPath
) -> tuple[object, list[Problem]]:
    """Return each table of a table as that dataclass, by its name."""
    filled: dict[str, object] = {}
    problems: list[Problem] = []
    for name, inner in table.items():
        if not isinstance(inner, dict):
            problems.append(source.problem((*path, name), "expected a table", value=inner))
            continue
        filled[name], wrong = fill(kind, inner, source, (*path, name))
        problems += wrong
    return filled, problems


def _sentence(option: Option) -> str:
    said = f": {option.description}" if option.description else ""
    return f"expected {option.expected}{said}"


def _default(field: dataclasses.Field[object]) -> str | None:
    if field.default is not dataclasses.MISSING:
        return "absent" if field.default is None else shown(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return shown(field.default_factory())
    return None


def _flat(hint: object) -> tuple[object, tuple[Meta, ...]]:
    """Return the type without ``Annotated`` and ``None``, and every Meta on it."""
    metas: tuple[Meta, ...] = ()
    while True:
        origin = get_origin(hint)
        if origin is Annotated:
            base, *extras = get_args(hint)
            metas += tuple(extra for extra in extras if isinstance(extra, Meta))
            hint = base
        elif origin in (Union, types.UnionType):
            left = [part for part in get_args(hint) if part is not type(None)]
            if len(left) != 1:
                return hint, metas
            hint = left[0]
        else:
            return hint, metas


def _annotated(hint: object, metas: tuple[Meta, ...]) -> object:
    for meta in metas:
        hint = Annotated[hint, meta]
    return hint


def _expected(hint: object, metas: tuple[Meta, ...]) -> str:
    if get_origin(hint) is Literal:
        return f"one of {', '.join(shown(choice) for choice in get_args(hint))}"
    if get_origin(hint) is tuple:
        inner, inner_metas = _flat(get_args(hint)[0])
        return f"a list of {_length(metas)}entries, each {_expected(inner, inner_metas)}"
    if hint is bool:
        return "true or false"
    if hint is int:
        return f"a whole number{_bounds(metas)}"
    if hint is float:
        return f"a number{_bounds(metas)}"
    if hint is str:
        if any(meta.pattern == ID_PATTERN for meta in metas):
            return ID_TEXT
        return f"text{_text_length(metas)}"
    return "a table"


def _bounds(metas: tuple[Meta, ...]) -> str:
    low = next((m.ge for m in metas if m.ge is not None), None)
    above = next((m.gt for m in metas if m.gt is not None), None)
    high = next((m.le for m in metas if m.le is not None), None)
    below = next((m.lt for m in metas if m.lt is not None), None)
    if low is not None and high is not None:
        return f" from {low:.12g} to {high:.12g}"
    parts = [
        f"{word} {bound:.12g}"
        for word, bound in (("from", low), ("above", above), ("up to", high), ("below", below))
        if bound is not None
    ]
    return f" {' and '.join(parts)}" if parts else ""


def _length(metas: tuple[Meta, ...]) -> str:
    low = next((m.min_length for m in metas if m.min_length is not None), None)
    high = next((m.max_length for m in metas if m.max_length is not None), None)
    if low is not None and low == high:
        return f"{low} "
    if low is not None and high is not None:
        return f"{low} to {high} "
    if low is not None:
        return f"{low} or more "
    return f"at most {high} " if high is not None else ""


def _text_length(metas: tuple[Meta, ...]) -> str:
    high = next((m.max_length for m in metas if m.max_length is not None), None)
    if high is not None:
        return f" of at most {high} characters"
    return ", not empty" if any(m.min_length for m in metas) else ""
