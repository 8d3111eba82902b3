"""``checkpointd replay`` on the command line: options in, records and a summary out."""

from __future__ import annotations

import argparse
import json
import sys

from agent import config as configuration
from agent.cli import wrong
from agent.tools.daily import parse_zone
from agent.tools.recording import RecordingError
from agent.tools.replay import Replay, ReplayOptions, replay
from agent.tools.show import line_of
from agent.version import SOFTWARE

PROGRESS_EVERY_LINES = 20_000


def replay_command(arguments: argparse.Namespace) -> int:
    """Replay a recording; 2 where the recording, the lane's file or an option is wrong."""
    try:
        options = ReplayOptions(
            device=arguments.device,
            day=arguments.date,
            zone=parse_zone(arguments.tz),
            overrides=tuple(arguments.overrides),
            software=SOFTWARE,
        )
        lane = configuration.load_lane(arguments.lane, arguments.overrides)
        records = replay(arguments.recording, lane, arguments.lane, options)
        _print(records, as_json=arguments.json)
    except configuration.ConfigError as exc:
        return wrong(str(exc))
    except RecordingError as exc:
        return wrong(str(exc))
    except ValueError as exc:
        return wrong(str(exc))
    except BrokenPipeError:
        raise
    except OSError as exc:
        return wrong(f"{exc.filename}: {exc.strerror}")
    return 0


def _print(records: Replay, *, as_json: bool) -> None:
    shows_progress = sys.stderr.isatty() and not sys.stdout.isatty()
    said = 0
    for payload in records:
        if as_json:
            print(payload.decode())
        else:
            print(line_of(json.loads(payload))[0])
        if shows_progress and records.summary.lines - said >= PROGRESS_EVERY_LINES:
            said = records.summary.lines
            print(f"\r{said} lines", end="", file=sys.stderr, flush=True)
    if shows_progress and said:
        print(file=sys.stderr)
    summary = records.summary.as_json().decode()
    print(summary if as_json else _readable(json.loads(summary)))


def _readable(summary: dict[str, object]) -> str:
    agreement = summary["device_agreement"]
    assert isinstance(agreement, dict)
    alarms = summary["alarms"]
    refused = summary["refused"]
    assert isinstance(alarms, dict)
    assert isinstance(refused, dict)
    listed = ", ".join(f"{n} {kind}" for kind, n in alarms.items()) or "none"
    refusals = ", ".join(f"{n} {reason}" for reason, n in refused.items()) or "none"
    rounding = agreement["intervals"] - agreement["agree"]
    disagreeing = ""
    if rounding:
        disagreeing = (
            f" ({agreement['rounding']} of {rounding} disagreements explained by the rounding of "
            "the printed background)"
        )
    return (
        f"{summary['passages']} passages, alarms: {listed}; refused: {refusals}; device agreement "
        f"{agreement['agree']} of {agreement['intervals']} intervals{disagreeing}; "
        f"{summary['lines']} lines over {summary['seconds']} s"
    )
