"""``checkpointd calibrate energy``: the energy scale from a check source or the background."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from agent import config as configuration
from agent.analysis.energy.fit import KnownLine, LineFound, ScaleFit, fit_scale, separate
from agent.analysis.energy.gain import GainFit, track
from agent.analysis.energy.scale import polynomial_edges
from agent.analysis.response.detector import Detector
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import background_components
from agent.config.nuclides import load_nuclides
from agent.config.options import did_you_mean, fill
from agent.config.source import parse, read_file
from agent.lane.options.portals import EnergyCalibrationOptions
from agent.settings import DeviceConfig
from agent.tools.calibrate.spectrum_files import MeasuredSpectrum, SpectrumFileError, read_spectrum
from agent.tools.calibrate.table import due_after
from agent.tools.replay.recording import RecordingError
from agent.tools.terminal import refuse_to_overwrite, wrong_input

BACKGROUND = "background"
WEAKEST_SHARE = 0.03
"""A source's lines below this part of its strongest are not looked for."""
LOWEST_LINE_KEV = 40.0
APART = 0.01
"""Peaks and the whole background must agree on the gain so closely."""

BACKGROUND_LINES = (
    KnownLine(name="Pb-212", energy_kev=238.9, per_100=20.0),
    KnownLine(name="K-40", energy_kev=1460.82, per_100=100.0),
    KnownLine(name="Bi-214", energy_kev=1764.49, per_100=10.0),
    KnownLine(name="Tl-208", energy_kev=2614.51, per_100=30.0),
)
"""Lines of the ground that stand alone even in NaI (ENSDF); strengths as they are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What one run came to."""

    spectrum: MeasuredSpectrum
    fit: ScaleFit
    whole: GainFit | None
    previous: EnergyCalibrationOptions | None
    coefficients_kev: tuple[float, ...]
    reasons: tuple[str, ...]


def calibrate_energy_command(arguments: argparse.Namespace) -> int:
    """Measure a scale: 0 where the data support one, 1 where not."""
    output: Path | None = arguments.output
    refuse_to_overwrite(output, "section")
    with wrong_input(
        configuration.ConfigError, RecordingError, SpectrumFileError, ValueError, OSError
    ):
        previous = previous_scale(arguments.lane, arguments.device)
        lines = lines_of(arguments.source, load_nuclides(arguments.lane.parent.parent))
        spectrum = read_spectrum(
            arguments.spectrum,
            _device(arguments) if arguments.spectrum.suffix.lower() == ".jsonl" else None,
            detector=arguments.detector,
            only_vacant=arguments.source == BACKGROUND,
        )
    detector = Detector(material=arguments.material, sides_cm=arguments.crystal or (5, 10, 40))
    done = calibrate(
        spectrum,
        lines,
        detector,
        previous,
        whole=arguments.source == BACKGROUND and arguments.crystal is not None,
    )
    proposed = None if done.reasons else _proposed(done, arguments)
    if proposed is not None and output is not None:
        with wrong_input(OSError):
            output.write_text(proposed, encoding="utf-8")
    _print(done, proposed, arguments)
    return 1 if done.reasons else 0


def previous_scale(lane: Path, device: str) -> EnergyCalibrationOptions | None:
    """Return the scale that stands in the lane's file, None where none does.

    Raises
    ------
    ConfigError
        If the file, the device or its ``energy`` table is wrong.
    """
    content = read_file(lane, lane.name)
    source = content if isinstance(content, configuration.Problem) else parse(lane.name, content)
    if isinstance(source, configuration.Problem):
        raise configuration.ConfigError([source])
    devices = source.table.get("devices")
    known = devices if isinstance(devices, dict) else {}
    table = known.get(device)
    if not isinstance(table, Mapping):
        text = f"there is no device {device}; {did_you_mean(device, known)}"
        raise configuration.ConfigError([source.problem(("devices",), text)])
    energy = table.get("energy")
    if not isinstance(energy, Mapping):
        return None
    found, problems = fill(EnergyCalibrationOptions, energy, source, ("devices", device, "energy"))
    if found is None:
        raise configuration.ConfigError(problems)
    return found


def lines_of(name: str, nuclides: NuclideTable) -> tuple[KnownLine, ...]:
    """Return the lines to look for; ValueError: there is no such source."""
    if name == BACKGROUND:
        return BACKGROUND_LINES
    if name not in nuclides.names:
        hint = did_you_mean(name, (BACKGROUND, *nuclides.names))
        raise ValueError(f"--source {name}: there is no such source; {hint}")
    lines = [line for line in nuclides[name].lines if line.energy_kev > LOWEST_LINE_KEV]
    if not lines:
        raise ValueError(f"--source {name}: it has no line above {LOWEST_LINE_KEV:g} keV")
    least = WEAKEST_SHARE * max(line.per_100 for line in lines)
    return tuple(
        KnownLine(name=name, energy_kev=line.energy_kev, per_100=line.per_100)
        for line in lines
        if line.per_100 >= least
    )


def calibrate(
    spectrum: MeasuredSpectrum,
    lines: tuple[KnownLine, ...],
    detector: Detector,
    previous: EnergyCalibrationOptions | None,
    *,
    whole: bool,
) -> Calibration:
    """Return the scale that the spectrum supports, or why it supports none.

    ``whole``: the lines are the background's, and the crystal is known, so that the whole
    background is fitted too.
    """
    start = spectrum.coefficients_kev
    if previous is not None:
        start = previous.coefficients_kev
    fit = fit_scale(
        spectrum.counts, separate(lines, detector.fwhm_kev), detector.fwhm_kev, start or None
    )
    reasons = list(fit.reasons)
    if detector.material == "pvt":
        reasons.insert(0, "plastic has no peaks; its scale is set by its maker's procedure")
    coefficients = fit.coefficients_kev
    fitted = None
    if whole and coefficients:
        fitted = _whole(spectrum, coefficients, detector)
        if fitted.gain is not None and fitted.offset_kev is not None:
            if abs(fitted.gain - 1) > APART:
                reasons.append(
                    f"peaks and the whole background differ by {100 * (fitted.gain - 1):+.1f} % "
                    "in gain; the crystal may be another than --crystal says"
                )
            first, *rest = (fitted.gain * value for value in coefficients)
            coefficients = (fitted.offset_kev + first, *rest)
    return Calibration(
        spectrum=spectrum,
        fit=fit,
        whole=fitted,
        previous=previous,
        coefficients_kev=() if reasons else coefficients,
        reasons=tuple(reasons),
    )


def _whole(
    spectrum: MeasuredSpectrum, coefficients: tuple[float, ...], detector: Detector
) -> GainFit:
    if spectrum.live_s is None:
        return GainFit(reasons=("the live time is unknown",))
    edges = np.maximum.accumulate(
        np.maximum(polynomial_edges(coefficients, _channels(spectrum)), 0)
    )
    edges = edges + 1e-3 * np.arange(len(edges)) / len(edges)
    components = background_components(detector, edges)
    return track(spectrum.counts, spectrum.live_s, edges, components)


def _channels(spectrum: MeasuredSpectrum) -> int:
    return len(spectrum.counts)


def _device(arguments: argparse.Namespace) -> DeviceConfig:
    lane = configuration.load_lane(arguments.lane)
    return next(device for device in lane.devices if device.name == arguments.device)


# ------------------------------------------------------------------ what is shown


def _proposed(done: Calibration, arguments: argparse.Namespace) -> str:
    """Return the section for the lane's file, what stood there before kept in it."""
    today: date = datetime.now(UTC).date()
    options = EnergyCalibrationOptions(
        coefficients_kev=tuple(float(f"{value:.7g}") for value in done.coefficients_kev),
        measured=today.isoformat(),
        valid_until=due_after(today, arguments.months).isoformat(),
        source=arguments.source,
        measured_by=arguments.by or f"checkpointd calibrate energy {arguments.spectrum.name}",
        detector=arguments.detector or "",
        previous_coefficients_kev=_before(done),
        previous_measured=None if done.previous is None else done.previous.measured,
    )
    return section(arguments.device, options)


def _before(done: Calibration) -> tuple[float, ...]:
    if done.previous is not None:
        return done.previous.coefficients_kev
    return done.spectrum.coefficients_kev[:4]


def section(device: str, options: EnergyCalibrationOptions) -> str:
    """Return a scale as the section of a lane's file."""
    lines = [f"[devices.{device}.energy]"]
    for name in options.__slots__:
        value = getattr(options, name)
        if isinstance(value, tuple) and value:
            lines.append(f"{name} = [{', '.join(repr(float(number)) for number in value)}]")
        elif isinstance(value, str) and value:
            # A JSON string of printable text is a TOML string too.
            lines.append(f"{name} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _print(done: Calibration, proposed: str | None, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps(_as_json(done, proposed, arguments), ensure_ascii=False))
        return
    console = Console()
    console.print(_table(done.fit))
    console.print(_summary(done), highlight=False, soft_wrap=True)
    for reason in done.reasons:
        console.print(f"no calibration: {reason}", highlight=False, soft_wrap=True)
    if proposed is not None:
        if arguments.output is None:
            console.print("\nFor the lane's file:\n", highlight=False)
            print(proposed, end="")
        else:
            console.print(f"section written to {arguments.output}", highlight=False)


def _table(fit: ScaleFit) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("line")
    for head in ("known keV", "channel", "measured keV", "off keV", "FWHM", "counts"):
        table.add_column(head, justify="right", no_wrap=True)
    table.add_column("")
    for found in fit.lines:
        table.add_row(*_row(found))
    return table


def _row(found: LineFound) -> tuple[str, ...]:
    line, peak = found.line, found.peak
    if peak is None or found.measured_kev is None or found.fwhm_kev is None:
        return (line.name, f"{line.energy_kev:.1f}", "", "", "", "", "", found.reason)
    return (
        line.name,
        f"{line.energy_kev:.1f}",
        f"{peak.channel:.2f} ± {peak.sigma_channel:.2f}",
        f"{found.measured_kev:.1f}",
        f"{found.measured_kev - line.energy_kev:+.1f}",
        f"{100 * found.fwhm_kev / line.energy_kev:.1f} %",
        f"{peak.net_counts:.0f}",
        found.reason or "used",
    )


def _summary(done: Calibration) -> str:
    spectrum = done.spectrum
    live = "an unknown live time" if spectrum.live_s is None else f"{spectrum.live_s:.0f} s"
    parts = [f"{spectrum.counts.sum():.0f} counts in {len(spectrum.counts)} channels, {live}"]
    whole = done.whole
    if whole is not None and whole.gain is not None:
        assert whole.sigma_gain is not None
        parts.append(
            f"whole background: gain {100 * (whole.gain - 1):+.2f} ± {100 * whole.sigma_gain:.2f} "
            f"%, offset {whole.offset_kev:+.1f} keV beside the peaks"
        )
    elif whole is not None:
        parts.append(f"whole background not used: {'; '.join(whole.reasons)}")
    return "\n".join(parts)


def _as_json(
    done: Calibration, proposed: str | None, arguments: argparse.Namespace
) -> dict[str, object]:
    return {
        "ok": not done.reasons,
        "device": arguments.device,
        "source": arguments.source,
        "counts": round(float(done.spectrum.counts.sum())),
        "live_s": done.spectrum.live_s,
        "coefficients_kev": list(done.coefficients_kev),
        "previous_coefficients_kev": list(_before(done)),
        "lines": [
            {
                "name": found.line.name,
                "energy_kev": round(found.line.energy_kev, 3),
                "channel": None if found.peak is None else round(found.peak.channel, 3),
                "measured_kev": _rounded(found.measured_kev),
                "fwhm_kev": _rounded(found.fwhm_kev),
                "net_counts": None if found.peak is None else round(found.peak.net_counts),
                "reason": found.reason,
            }
            for found in done.fit.lines
        ],
        "whole_background": None
        if done.whole is None
        else {"gain": done.whole.gain, "reasons": list(done.whole.reasons)},
        "refusals": list(done.reasons),
        "proposed": proposed,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)
