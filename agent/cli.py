"""``checkpointd``: one command, one sub-command for each thing a person or a service does.

Exit codes: 0 done; 1 it ran and found something wrong; 2 wrong input, with one sentence.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from agent.tools.terminal import DEFAULT_CONFIG

Run = Callable[[argparse.Namespace], int]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code."""
    parser = _parser()
    arguments = parser.parse_args(_with_zone(sys.argv[1:] if argv is None else argv))
    run: Run = arguments.run
    try:
        return run(arguments)
    except BrokenPipeError:
        # The reader has what it wanted (… | head); closing quietly is what it expects.
        sys.stderr.close()
        return 0
    except KeyboardInterrupt:
        return 130


def _with_zone(argv: Sequence[str]) -> list[str]:
    """Join ``--tz`` with its value: alone, argparse would take -07:00 for an option."""
    joined: list[str] = []
    for word in argv:
        if joined and joined[-1] == "--tz":
            joined[-1] = f"--tz={word}"
        else:
            joined.append(word)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="checkpointd", description="The agent of a border checkpoint lane."
    )
    parser.add_argument("--version", action="version", version=_version())
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_run(commands)
    _add_check(commands)
    _add_devices(commands)
    _add_probe(commands)
    _add_status(commands)
    _add_replay(commands)
    _add_evaluate(commands)
    _add_capture(commands)
    _add_demo(commands)
    _add_simulate(commands)
    _add_calibrate(commands)
    return parser


def _version() -> str:
    from agent.version import SOFTWARE  # noqa: PLC0415 - keep `--help` quick

    return SOFTWARE


def _config_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        default=DEFAULT_CONFIG,
        metavar="DIR",
        help="directory of gateway.toml and lanes/ (default: %(default)s)",
    )


# Each command imports what it needs when it runs: `checkpointd --help` stays quick, and the daemon
# never carries a tool's libraries.


def _add_run(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("run", help="run the agent (what the service does)")
    _config_option(parser)
    parser.add_argument(
        "--log-level",
        default="info",
        choices=["debug", "info", "warning", "error"],
        help="how much to log (default: %(default)s)",
    )

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.run import run_agent  # noqa: PLC0415 - see above

        return run_agent(arguments.config, log_level=arguments.log_level)

    parser.set_defaults(run=run)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("check", help="check a configuration, and say what it changes")
    _config_option(parser)
    parser.add_argument(
        "--against",
        type=Path,
        metavar="DIR",
        default=Path("/var/lib/checkpointd/last-good"),
        help="print what differs from this configuration (default: what runs, %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.check import check_command  # noqa: PLC0415 - see above

        text, code = check_command(
            arguments.config,
            against=arguments.against,
            as_json=arguments.json,
            now=datetime.now(UTC),
        )
        print(text, file=sys.stdout if code == 0 or arguments.json else sys.stderr)
        return code

    parser.set_defaults(run=run)


def _add_devices(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("devices", help="every driver, its options and where it is from")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="for a machine to read")
    form.add_argument("--markdown", action="store_true", help="as docs/drivers.md")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools import devices  # noqa: PLC0415 - see above

        if arguments.markdown:
            print(devices.devices_markdown(), end="")
        else:
            print(devices.devices_json() if arguments.json else devices.devices_text())
        return 0

    parser.set_defaults(run=run)


def _add_probe(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "probe",
        help="listen at a port and say which driver reads what comes",
        description="Writes nothing unless --ask is given. A serial line is tried at the usual "
        "speeds and parities. Exit code 0: recognised, 1: not, 2: no such port.",
    )
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
        type=_unit,
        metavar="N",
        help="with --ask: read this Modbus unit instead",
    )
    parser.add_argument(
        "--seconds",
        type=_seconds,
        default=6.0,
        metavar="S",
        help="listen for S s at each speed and parity (default: 6), three times that at the first",
    )
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.probe.command import probe_command  # noqa: PLC0415 - see above

        return probe_command(arguments)

    parser.set_defaults(run=run)


def _unit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 255):
        raise argparse.ArgumentTypeError(f"{text}: expected a unit id from 0 to 255")
    return int(text)


def _add_status(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("status", help="what the store of this gateway holds")
    _config_option(parser)
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.status import status_command  # noqa: PLC0415 - see above

        return status_command(arguments.config, as_json=arguments.json)

    parser.set_defaults(run=run)


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "replay",
        help="decide a recording again with a lane's own configuration",
        description="Print the records that the lane makes of a recording: a portal's daily file, "
        "a capture, or an N42 file (ours, another program's, or an instrument's stream). The same "
        "input gives the same bytes.",
    )
    parser.add_argument("recording", type=Path, help="daily file, capture or N42 file")
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument("--device", help="which portal recorded a daily or N42 file")
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="TABLE.OPTION=VALUE",
        help="what if: outranks the lane's file and the settings in the recording; repeatable",
    )
    parser.add_argument(
        "--date", type=_day, metavar="YYYY-MM-DD", help="day of a file that gives the time only"
    )
    parser.add_argument("--tz", default="+00:00", metavar="±HH:MM", help="its zone (default UTC)")
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

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.replay.command import replay_command  # noqa: PLC0415 - see above

        return replay_command(arguments)

    parser.set_defaults(run=run)


def _add_evaluate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="what the detection finds in recorded or synthetic passages, and how often it errs",
        description="Learns from the passages whose role is commission, judges each one whose role "
        "is test on its own, and sums up alarms by truth and strength. The truth is read for the "
        "summary alone. With too few passages to learn from, every line says provisional.",
    )
    parser.add_argument("passes", type=Path, metavar="PASSES.npz", help="see docs/detection.md")
    parser.add_argument(
        "--far",
        type=_rate,
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

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.evaluate.evaluate import evaluate_command  # noqa: PLC0415 - see above

        return evaluate_command(arguments)

    parser.set_defaults(run=run)


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 1e-9 <= value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text}: expected alarms per passage, 1e-9 to 0.5")
    return value


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text}: expected a day as YYYY-MM-DD") from exc


def _add_capture(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("capture", help="write down what a lane's devices send")
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument(
        "--device", action="append", default=[], help="only this device; repeatable"
    )
    parser.add_argument("--for", dest="for_s", type=_seconds, metavar="S", help="stop after S s")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="new file")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.capture import capture_command  # noqa: PLC0415 - see above

        return capture_command(arguments)

    parser.set_defaults(run=run)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e7:
        raise argparse.ArgumentTypeError(f"{text}: expected a number of seconds above 0")
    return value


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="a simulated lane, a broker, the agent and a command centre, all here",
        description="Plays a scene and shows what a subscriber receives. Ends with a comparison of "
        "what the centre received with the truth; exit code 1 where they differ.",
    )
    parser.add_argument(
        "--for", dest="for_s", type=_seconds, metavar="S", help="end after S seconds (wall clock)"
    )
    parser.add_argument("--scene", default="demo", help="a named scene or a file (default: demo)")
    parser.add_argument(
        "--time-scale",
        type=_scale,
        metavar="N",
        help="play N times as fast (default: 4, or what lets the scene fit into --for)",
    )

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.demo import demo_command  # noqa: PLC0415 - see above

        return demo_command(arguments.scene, for_s=arguments.for_s, time_scale=arguments.time_scale)

    parser.set_defaults(run=run)


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value <= 20:
        raise argparse.ArgumentTypeError(f"{text}: expected a number from 0.1 to 20")
    return value


def _add_simulate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "simulate", help="play a scene on ports of this machine, for an agent to read"
    )
    parser.add_argument("scene", nargs="?", default="demo", help="a named scene or a file")
    parser.add_argument("--list", action="store_true", help="list the named scenes")
    parser.add_argument("--for", dest="for_s", type=_seconds, metavar="S", help="end after S s")
    parser.add_argument(
        "--time-scale", type=_scale, default=1.0, metavar="N", help="play N times as fast"
    )

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.simulate import simulate_command  # noqa: PLC0415 - see above

        return simulate_command(arguments)

    parser.set_defaults(run=run)


def _add_calibrate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("calibrate", help="measure what an instrument is to be set to")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_calibrate_scale(kinds)
    _add_calibrate_energy(kinds)
    _add_calibrate_threshold(kinds)
    _add_calibrate_background(kinds)


def _add_calibrate_background(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "background",
        help="measure what the empty lane counts, and how steadily",
        description="Reads a recording and changes nothing; what came near a vehicle is left out. "
        "Exit code 0: the empty lane was watched for 10 minutes or more; 1: it was not.",
    )
    parser.add_argument("recording", type=Path, help="daily file, capture or N42 file")
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument("--device", required=True, metavar="NAME", help="which device of the lane")
    parser.add_argument(
        "--averaging",
        type=_seconds,
        metavar="S",
        help="over how long the device averages its own background (default: as it says); "
        "without it nothing is said of the spread of such figures",
    )
    parser.add_argument(
        "--date", type=_day, metavar="YYYY-MM-DD", help="day of a file that gives the time only"
    )
    parser.add_argument("--tz", default="+00:00", metavar="±HH:MM", help="its zone (default UTC)")
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.calibrate.background import calibrate_background_command  # noqa: PLC0415 - see above

        return calibrate_background_command(arguments)

    parser.set_defaults(run=run)


def _add_calibrate_threshold(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "threshold",
        help="learn from a lane's benign passages when its spectra are to alarm",
        description="Learns from the passages without any alarm, of spectra or of a portal's "
        "energy windows, judges each by models that have "
        "not seen it, and writes a file that thresholds_file in [spectral] names. Exit code 0: the "
        "data support thresholds; 1: they do not, and it says why.",
    )
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="PASSES.npz|RECORDING",
        help="files of replay --passes, or recordings, in the order of time",
    )
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument(
        "--far",
        type=_rate,
        metavar="RATE",
        help="false alarms per benign passage (default: false_alarm_rate of the lane)",
    )
    parser.add_argument("--device", help="which portal recorded a daily or N42 file")
    parser.add_argument(
        "--date", type=_day, metavar="YYYY-MM-DD", help="day of a file that gives the time only"
    )
    parser.add_argument("--tz", default="+00:00", metavar="±HH:MM", help="its zone (default UTC)")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.npz",
        help="new file for the thresholds (default: lane and day, here)",
    )
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.calibrate.threshold import calibrate_threshold_command  # noqa: PLC0415 - see above

        return calibrate_threshold_command(arguments)

    parser.set_defaults(run=run)


def _add_calibrate_energy(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "energy",
        help="find a detector's energy scale from a check source or the background",
        description="Reads a capture (.jsonl), .npz or .spe file and changes nothing. Exit code 0: "
        "the data support a scale, and a section for the lane's file is proposed; 1: they do not, "
        "and it says why.",
    )
    parser.add_argument("spectrum", type=Path, metavar="FILE", help="capture or spectrum file")
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument("--device", required=True, metavar="NAME", help="which device of the lane")
    parser.add_argument("--detector", metavar="NAME", help="which of the device's detectors")
    parser.add_argument(
        "--source",
        default="background",
        metavar="NUCLIDE",
        help="what was measured: Cs-137, Co-60, Eu-152 … or background (the default)",
    )
    parser.add_argument(
        "--material",
        default="nai",
        choices=["nai", "csi", "labr3", "pvt"],
        help="of the crystal; says how wide peaks are (default: %(default)s)",
    )
    parser.add_argument(
        "--crystal",
        type=_crystal,
        metavar="AxBxCcm",
        help="its sides, as 5x10x40cm; with the background, all of the spectrum is fitted then",
    )
    parser.add_argument("--by", metavar="TEXT", help="who measured, for the proposed section")
    parser.add_argument(
        "--months",
        type=_months,
        default=12,
        metavar="N",
        help="the scale is valid for so long (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="new file for the section"
    )
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.calibrate.energy import calibrate_energy_command  # noqa: PLC0415 - see above

        return calibrate_energy_command(arguments)

    parser.set_defaults(run=run)


def _add_calibrate_scale(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = kinds.add_parser(
        "scale",
        help="weigh test loads, and hold the errors against the permissible ones",
        description="Reads the scale through its driver and writes nothing to it. The service must "
        "not hold the port: stop it, or read its relay with --port. Give a load several times to "
        "show repeatability. Exit code 0: the data make a calibration, and a section for the "
        "lane's file is proposed; 1: they do not, and it says why.",
    )
    parser.add_argument("--lane", type=Path, required=True, metavar="FILE", help="the lane's file")
    parser.add_argument("--device", help="which scale (default: the only one)")
    parser.add_argument("--port", help="read it here instead of at the port in the file")
    parser.add_argument(
        "--load",
        action="append",
        required=True,
        metavar="MASS",
        help="a test load such as 5000kg or 5t, in the order of loading; repeatable",
    )
    parser.add_argument("--up-to", metavar="MASS", help="greatest load in use (default: max_kg)")
    parser.add_argument("--d", metavar="MASS", help="step of the display (default: e_kg)")
    parser.add_argument(
        "--initial", action="store_true", help="permissible errors of initial verification"
    )
    parser.add_argument(
        "--as-found", action="store_true", help="before any adjustment: propose nothing"
    )
    parser.add_argument("--certificate", help="its number, for the proposed section")
    parser.add_argument("--seal", help="numbers of the seals, for the proposed section")
    for name in ("calibration", "configuration"):
        parser.add_argument(
            f"--{name}-counter", type=_count, metavar="N", help="as the display shows it now"
        )
    parser.add_argument(
        "--months", type=_months, default=12, metavar="N", help="due again after (default: 12)"
    )
    parser.add_argument(
        "--settle",
        type=_seconds,
        default=3.0,
        metavar="S",
        help="a figure must rest so long (default: 3)",
    )
    parser.add_argument(
        "--wait",
        type=_seconds,
        default=120.0,
        metavar="S",
        help="give a load up after so long (default: 120)",
    )
    parser.add_argument(
        "--no-prompt",
        action="store_true",
        help="ask for no Enter: each load is taken as soon as the figure rests near it",
    )
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="new file for it")
    parser.add_argument("--json", action="store_true", help="for a machine to read")

    def run(arguments: argparse.Namespace) -> int:
        from agent.tools.calibrate.scale import calibrate_scale_command  # noqa: PLC0415 - see above

        return calibrate_scale_command(arguments)

    parser.set_defaults(run=run)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise argparse.ArgumentTypeError(f"{text}: expected a count from 0")
    return int(text)


def _crystal(text: str) -> tuple[float, float, float]:
    numbers = text.removesuffix("cm").split("x")
    try:
        sides = tuple(float(number) for number in numbers)
    except ValueError:
        sides = ()
    if len(sides) != 3 or not all(0.1 <= side <= 500 for side in sides):
        raise argparse.ArgumentTypeError(f"{text}: expected three sides in cm, such as 5x10x40cm")
    return (sides[0], sides[1], sides[2])


def _months(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 120):
        raise argparse.ArgumentTypeError(f"{text}: expected a number of months from 1 to 120")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
