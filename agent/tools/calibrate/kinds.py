"""``checkpointd calibrate``: its kinds and their options."""

from __future__ import annotations

from pathlib import Path

from agent.tools import terminal


def add_calibrate(commands: terminal.Commands) -> None:
    """Add the command and its kinds."""
    parser = commands.add_parser("calibrate", help="measure what an instrument is to be set to")
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _add_scale(kinds)
    _add_energy(kinds)
    _add_threshold(kinds)
    _add_background(kinds)


def _add_scale(kinds: terminal.Commands) -> None:
    parser = kinds.add_parser(
        "scale",
        help="weigh test loads, and hold the errors against the permissible ones",
        description="Reads the scale through its driver and writes nothing to it. The service must "
        "not hold the port: stop it, or read its relay with --port. Give a load several times to "
        "show repeatability. Exit code 0: the data make a calibration, and a section for the "
        "lane's file is proposed; 1: they do not, and it says why.",
    )
    parser.set_defaults(tool="agent.tools.calibrate.scale:calibrate_scale_command")
    terminal.lane_option(parser)
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
            f"--{name}-counter",
            type=terminal.count,
            metavar="N",
            help="as the display shows it now",
        )
    parser.add_argument(
        "--months",
        type=terminal.months,
        default=12,
        metavar="N",
        help="due again after (default: 12)",
    )
    parser.add_argument(
        "--settle",
        type=terminal.seconds,
        default=3.0,
        metavar="S",
        help="a figure must rest so long (default: 3)",
    )
    parser.add_argument(
        "--wait",
        type=terminal.seconds,
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
    terminal.json_option(parser)


def _add_energy(kinds: terminal.Commands) -> None:
    parser = kinds.add_parser(
        "energy",
        help="find a detector's energy scale from a check source or the background",
        description="Reads a capture (.jsonl), .npz or .spe file and changes nothing. Exit code 0: "
        "the data support a scale, and a section for the lane's file is proposed; 1: they do not, "
        "and it says why.",
    )
    parser.set_defaults(tool="agent.tools.calibrate.energy:calibrate_energy_command")
    parser.add_argument("spectrum", type=Path, metavar="FILE", help="capture or spectrum file")
    terminal.lane_option(parser)
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
        type=terminal.crystal_sides_cm,
        metavar="AxBxCcm",
        help="its sides, as 5x10x40cm; with the background, all of the spectrum is fitted then",
    )
    parser.add_argument("--by", metavar="TEXT", help="who measured, for the proposed section")
    parser.add_argument(
        "--months",
        type=terminal.months,
        default=12,
        metavar="N",
        help="the scale is valid for so long (default: %(default)s)",
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="new file for the section"
    )
    terminal.json_option(parser)


def _add_threshold(kinds: terminal.Commands) -> None:
    parser = kinds.add_parser(
        "threshold",
        help="learn from a lane's benign passages when its spectra are to alarm",
        description="Learns from the passages without any alarm, of spectra or of a portal's "
        "energy windows, judges each by models that have "
        "not seen it, and writes a file that thresholds_file in [spectral] names. Exit code 0: the "
        "data support thresholds; 1: they do not, and it says why.",
    )
    parser.set_defaults(tool="agent.tools.calibrate.threshold:calibrate_threshold_command")
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        metavar="PASSES.npz|RECORDING",
        help="files of replay --passes, or recordings, in the order of time",
    )
    terminal.lane_option(parser)
    parser.add_argument(
        "--far",
        type=terminal.false_alarm_rate,
        metavar="RATE",
        help="false alarms per benign passage (default: false_alarm_rate of the lane)",
    )
    parser.add_argument("--device", help="which portal recorded a daily or N42 file")
    terminal.time_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE.npz",
        help="new file for the thresholds (default: lane and day, here)",
    )
    terminal.json_option(parser)


def _add_background(kinds: terminal.Commands) -> None:
    parser = kinds.add_parser(
        "background",
        help="measure what the empty lane counts, and how steadily",
        description="Reads a recording and changes nothing; what came near a vehicle is left out. "
        "Exit code 0: the empty lane was watched for 10 minutes or more; 1: it was not.",
    )
    parser.set_defaults(tool="agent.tools.calibrate.background:calibrate_background_command")
    parser.add_argument("recording", type=Path, help="daily file, capture or N42 file")
    terminal.lane_option(parser)
    parser.add_argument("--device", required=True, metavar="NAME", help="which device of the lane")
    parser.add_argument(
        "--averaging",
        type=terminal.seconds,
        metavar="S",
        help="over how long the device averages its own background (default: as it says); "
        "without it nothing is said of the spread of such figures",
    )
    terminal.time_options(parser)
    terminal.json_option(parser)
