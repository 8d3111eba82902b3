"""``checkpointd check``: every problem of a configuration, and what would change."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from agent.config import Difference, Examined, difference, examine, report

EXIT_GOOD, EXIT_PROBLEMS = 0, 2


def check_command(arguments: argparse.Namespace) -> int:
    """Check a configuration and print what is wrong with it, and what it changes."""
    text, code = checked(
        arguments.config,
        against=arguments.against,
        as_json=arguments.json,
        now=datetime.now(UTC),
    )
    print(text, file=sys.stdout if code == EXIT_GOOD or arguments.json else sys.stderr)
    return code


def checked(
    directory: Path,
    *,
    against: Path | None = None,
    as_json: bool = False,
    now: datetime | None = None,
) -> tuple[str, int]:
    """Return what to print and the exit code: 0, or 2 where the daemon would refuse.

    ``against`` is a configuration to compare with, such as the last good one; None, or one that
    is not there: nothing is compared. ``now``: certificates are held against it.
    """
    examined = examine(directory, now=now)
    changes = _changes(examined, directory, against)
    text = _json(examined, changes) if as_json else _text(directory, examined, changes)
    return text, EXIT_GOOD if examined.is_usable else EXIT_PROBLEMS


def _changes(examined: Examined, directory: Path, against: Path | None) -> Difference | None:
    if against is None or examined.config is None or not against.is_dir():
        return None
    other = examine(against, relative_to=directory).config
    return None if other is None else difference(other, examined.config)


def _text(directory: Path, examined: Examined, changes: Difference | None) -> str:
    lines = [report(examined.problems)] if examined.problems else []
    count = sum(not problem.is_warning for problem in examined.problems)
    if examined.is_usable and examined.config is not None:
        config = examined.config
        devices = sum(len(lane.devices) for lane in config.lanes)
        lines.append(
            f"{directory}: good; {config.gateway.site}/{config.gateway.gw}, "
            f"lanes {', '.join(lane.lane_id for lane in config.lanes)}, {devices} devices, "
            f"revision {config.revision[:12]}"
        )
    else:
        lines.append(f"{directory}: {count} problem{'' if count == 1 else 's'}; nothing changes")
    if changes is not None:
        lines.append("What changes:" if changes.lines else "Nothing changes.")
        lines += [f"  {line}" for line in changes.lines]
    return "\n".join(lines)


def _json(examined: Examined, changes: Difference | None) -> str:
    return json.dumps(
        {
            "ok": examined.is_usable,
            "revision": examined.config.revision if examined.config is not None else None,
            "problems": [asdict(problem) for problem in examined.problems],
            "changes": None if changes is None else list(changes.lines),
        },
        ensure_ascii=False,
    )
