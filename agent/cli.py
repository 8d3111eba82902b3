"""``checkpointd``: one command, one sub-command for each thing a person or a service does.

Exit codes: 0 done; 1 it ran and found something wrong; 2 wrong input, with one sentence.

A command names the function that does it, ``module:function``, and that is imported only when the
command runs: ``checkpointd --help`` stays quick, and the daemon never carries a tool's libraries.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from agent.tools import terminal
from agent.tools.calibrate.kinds import add_calibrate

Tool = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    words = _with_zone(sys.argv[1:] if argv is None else argv)
    arguments = command_line().parse_args(words)
    try:
        return tool_of(arguments.tool)(arguments)
    except terminal.WrongInputError as exc:
        print(f"checkpointd: {exc}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader has what it wanted (… | head); closing quietly is what it expects.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def tool_of(name: str) -> Tool:
    """Import and return the function that a command names as ``module:function``."""
    module, _, function = name.partition(":")
    tool: Tool = getattr(importlib.import_module(module), function)
    return tool


class _Version(argparse.Action):
    """Print the version; it is looked up only when asked for: that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from agent.version import SOFTWARE  # noqa: PLC0415 - reads package metadata

        print(SOFTWARE)
        parser.exit()


def _with_zone(argv: Sequence[str]) -> list[str]:
    """Join ``--tz`` with its value: alone, argparse would take -07:00 for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--tz":
            joined[-1] = f"--tz={word}"
        else:
            joined.append(word)
    return joined


def command_line() -> argparse.ArgumentParser:
    """Return the parser of every command; ``tool`` of what it parses names who does it."""
    parser = argparse.ArgumentParser(
        prog="checkpointd", description="The agent of a border checkpoint lane."
    )
    parser.add_argument(
        "--version", action=_Version, nargs=0, help="show program's version number and exit"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (
        _add_run,
        _add_check,
        _add_devices,
        _add_probe,
        _add_status,
        _add_replay,
        _add_evaluate,
        _add_capture,
        _add_demo,
        _add_simulate,
        add_calibrate,
    ):
        add(commands)
    return parser


def _add_run(commands: terminal.Commands) -> None:
    parser = commands.add_parser("run", help="run the agent (what the service does)")
    parser.set_defaults(tool="agent.tools.run:run_command")
    terminal.config_option(parser)
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="how much to log (default: %(default)s)",
    )


def _add_check(commands: terminal.Commands) -> None:
    parser = commands.add_parser("check", help="check a configuration, and say what it changes")
    parser.set_defaults(tool="agent.tools.check:check_command")
    terminal.config_option(parser)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        default=Path("/var/lib/checkpointd/last-good"),
        help="print what differs from this configuration (default: what runs, %(default)s)",
    )
    terminal.json_option(parser)


def _add_devices(commands: terminal.Commands) -> None:
    parser = commands.add_parser("devices", help="every driver, its options and where it is from")
    parser.set_defaults(tool="agent.tools.devices:devices_command")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for a machine to read")
    form.add_argument("--markdown", action="store_true", help="as docs/drivers.md")


def _add_probe(commands: terminal.Commands) -> None:
    parser = commands.add_parser(
        "probe",
        help="listen at a port and say which driver reads what comes",
        description="Writes nothing unless --ask is given. A serial line is tried at the usual "
        "speeds and parities. Exit code 0: recognised, 1: not, 2: no such port.",
    )
    parser.set_defaults(tool="agent.tools.probe.command:probe_command")
    parser.add_argument("port", metavar="PORT", help="/dev/… or tcp://host:port")
    parser.add_argument(
        "--ask",
        action="store_true",
        help="where listening is not enough, send requests that only ask for a weight, at every "
        "speed; not to a scale in use, which could misread one at a wrong speed",
    )
    parser.add_argument(
        "--modbus-unit",
        dest="unit",
        type=terminal.modbus_unit,
        metavar="N",
        help="with --ask: read this Modbus unit instead",
    )
    parser.add_argument(
        "--seconds",
        type=terminal.seconds,
        default=6.0,
        metavar="S",
        help="listen for S s at each speed and parity (default: 6), three times that at the first",
    )
    terminal.json_option(parser)


def _add_status(commands: terminal.Commands) -> None:
    parser = commands.add_parser("status", help="what the store of this gateway holds")
    parser.set_defaults(tool="agent.tools.status:status_command")
    terminal.config_option(parser)
    terminal.json_option(parser)


def _add_replay(commands: terminal.Commands) -> None:
    parser = commands.add_parser(
        "replay",
        help="decide a recording again with a lane's own configuration",
        description="Print the records that the lane makes of a recording: a portal's daily file, "
        "a capture, or an N42 file (ours, another program's, or an instrument's stream). The same "
        "input gives the same bytes.",
    )
    parser.set_defaults(tool="agent.tools.replay.command:replay_command")
    parser.add_argument("recording", type=Path, help="daily file, capture or N42 file")
    terminal.lane_option(parser)
    parser.add_argument("--device", help="which portal recorded a daily or N42 file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="TABLE.OPTION=VALUE",
        help="what if: outranks the lane's file and the settings in the recording; repeatable",
    )
    terminal.time_options(parser)
    parser.add_argument(
        "--passes",
        type=Path,
        metavar="OUT.npz",
        help="new file for what the passages counted in their spectra or energy windows, for "
        "evaluate and calibrate threshold; exit code 1 where there is none",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a line, as on MQTT, and a summary"
    )


def _add_evaluate(commands: terminal.Commands) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="what the detection finds in recorded or synthetic passages, and how often it errs",
        description="Learns from the passages whose role is commission, judges each one whose role "
        "is test on its own, and sums up alarms by truth and strength. The truth is read for the "
        "summary alone. With too few passages to learn from, every line says provisional.",
    )
    parser.set_defaults(tool="agent.tools.evaluate.evaluate:evaluate_command")
    parser.add_argument("passes", type=Path, metavar="PASSES.npz", help="see docs/detection.md")
    parser.add_argument(
        "--far",
        type=terminal.false_alarm_rate,
        default=1e-3,
        metavar="RATE",
        help="false alarms per benign passage (default: %(default)s)",
    )
    parser.add_argument(
        "--detector",
        choices=["nai", "csi", "labr3", "pvt"],
        default="nai",
        help="what the detectors are made of (default: %(default)s)",
    )
    parser.add_argument(
        "--crystal",
        metavar="AxBxCcm",
        help="size of one detector, as 5x10x40cm (default: what is usual of its material)",
    )
    parser.add_argument(
        "--library", type=Path, metavar="FILE", help="look for this library file's spectra instead"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="NUCLIDE",
        help="do not look for this nuclide's own spectra; repeatable",
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON object a test passage, and a summary"
    )


def _add_capture(commands: terminal.Commands) -> None:
    parser = commands.add_parser("capture", help="write down what a lane's devices send")
    parser.set_defaults(tool="agent.tools.capture:capture_command")
    terminal.lane_option(parser)
    parser.add_argument(
        "--device", action="append", default=[], help="only this device; repeatable"
    )
    parser.add_argument(
        "--for", dest="for_s", type=terminal.seconds, metavar="S", help="stop after S s"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="new file")


def _add_demo(commands: terminal.Commands) -> None:
    parser = commands.add_parser(
        "demo",
        help="a simulated lane, a broker, the agent and a command centre, all here",
        description="Plays a scene and shows what a subscriber receives. Ends with a comparison of "
        "what the centre received with the truth; exit code 1 where they differ.",
    )
    parser.set_defaults(tool="agent.tools.demo:demo_command")
    parser.add_argument(
        "--for",
        dest="for_s",
        type=terminal.seconds,
        metavar="S",
        help="end after S seconds (wall clock)",
    )
    parser.add_argument("--scene", default="demo", help="a named scene or a file (default: demo)")
    parser.add_argument(
        "--time-scale",
        type=terminal.time_scale,
        metavar="N",
        help="play N times as fast (default: 4, or what lets the scene fit into --for)",
    )


def _add_simulate(commands: terminal.Commands) -> None:
    parser = commands.add_parser(
        "simulate", help="play a scene on ports of this machine, for an agent to read"
    )
    parser.set_defaults(tool="agent.tools.simulate:simulate_command")
    parser.add_argument("scene", nargs="?", default="demo", help="a named scene or a file")
    parser.add_argument("--list", action="store_true", help="list the named scenes")
    parser.add_argument(
        "--for", dest="for_s", type=terminal.seconds, metavar="S", help="end after S s"
    )
    parser.add_argument(
        "--time-scale",
        type=terminal.time_scale,
        default=1.0,
        metavar="N",
        help="play N times as fast",
    )


if __name__ == "__main__":
    sys.exit(main())
