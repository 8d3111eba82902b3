"""``checkpointd replay`` on the command line: options in, records and a summary out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from agent import config as configuration
from agent.lane.options.spectral import SpectralOptions
from agent.tools.evaluate.lane_passes import LanePasses
from agent.tools.evaluate.passes import write_passes
from agent.tools.replay.recording import RecordingError
from agent.tools.replay.replay import Replay, replay, replay_options
from agent.tools.show import line_of
from agent.tools.terminal import refuse_to_overwrite, wrong_input

PROGRESS_EVERY_LINES = 20_000


def replay_command(arguments: argparse.Namespace) -> int:
    """Replay a recording; 1 where it was to write passages and has none.

    Raises
    ------
    WrongInputError
        Where the recording, the lane's file or an option is wrong.
    """
    output: Path | None = arguments.passes
    refuse_to_overwrite(output, "file")
    with wrong_input(configuration.ConfigError, RecordingError, ValueError, OSError):
        options = replay_options(arguments, tuple(arguments.overrides))
        lane = configuration.load_lane(arguments.lane, arguments.overrides)
        watch = LanePasses((lane.spectral or SpectralOptions()).slice_s)
        records = replay(
            arguments.recording, lane, arguments.lane, options, None if output is None else watch
        )
        _print(records, as_json=arguments.json)
        if output is not None:
            return _write(watch, output)
    return 0


def _write(watch: LanePasses, output: Path) -> int:
    """Write the passages; 1 where the recording holds none with spectra or windows."""
    passes = watch.passes()
    if watch.without_background:
        text = f"{watch.without_background} passages left out: no background before them"
        print(f"checkpointd: {text}", file=sys.stderr)
    if passes is None:
        print(
            f"checkpointd: {output} not written: no passage has spectra or energy windows and a "
            "background; a lane judges spectra where its file has [spectral]",
            file=sys.stderr,
        )
        return 1
    write_passes(output, passes)
    benign = int(passes.is_commission.sum())
    print(
        f"checkpointd: {len(passes.counts)} passages to {output}: {benign} without any alarm "
        f"(commission), {len(passes.counts) - benign} others (test)",
        file=sys.stderr,
    )
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
