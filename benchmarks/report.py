"""What every benchmark prints: one table, one JSON line; progress goes to stderr."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """One figure and the most it may be."""

    name: str
    measured: float
    limit: float
    unit: str

    @property
    def is_met(self) -> bool:
        """Tell whether the figure holds."""
        return self.measured <= self.limit


def progress(text: str) -> None:
    """Say on stderr what is being done."""
    print(f"… {text}", file=sys.stderr, flush=True)


def quantile(values: Sequence[float], part: float) -> float:
    """Return the value that ``part`` of all are not above (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(part * len(ordered)) - 1)]


def spread(values_s: Sequence[float]) -> dict[str, float | int]:
    """Return number, median, p95, p99 and largest of times given in seconds [ms]."""
    parts = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}
    figures = {name: round(quantile(values_s, part) * 1e3, 3) for name, part in parts.items()}
    return {"n": len(values_s), **figures}


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return aligned columns, the first to the left, the others to the right."""
    texts = [list(head), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in texts) for i in range(len(head))]
    texts.insert(1, ["-" * width for width in widths])
    lines = []
    for row in texts:
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 100 else f"{value:.0f}"
    return "" if value is None else str(value)


def finish(
    name: str,
    text: str,
    figures: dict[str, object],
    goals: Sequence[Goal] = (),
    *,
    is_quick: bool,
) -> int:
    """Print table and JSON line and return the exit code: 1 where a goal is missed.

    A quick run is too short to be judged: its goals are not looked at.
    """
    print(text)
    judged = () if is_quick else goals
    if judged:
        rows = [
            (g.name, g.measured, g.limit, g.unit, "met" if g.is_met else "MISSED") for g in judged
        ]
        print("\n" + table(("goal", "measured", "at most", "unit", ""), rows))
    line = {
        "benchmark": name,
        "quick": is_quick,
        "machine": {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "goals": {
            g.name: {"measured": g.measured, "limit": g.limit, "unit": g.unit, "met": g.is_met}
            for g in judged
        },
        **figures,
    }
    print("\n" + json.dumps(line, ensure_ascii=False), flush=True)
    return 0 if all(goal.is_met for goal in judged) else 1
