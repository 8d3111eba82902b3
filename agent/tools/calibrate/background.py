"""``checkpointd calibrate background``: what the empty lane counts, and limits drawn from it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from agent import config as configuration
from agent.analysis.counting.empty_lane import Shares, Steadiness, in_blocks, shares_of, steadiness
from agent.analysis.energy.scale import on_grid, sqrt_grid
from agent.analysis.response.detector import Detector
from agent.analysis.response.templates import background_components
from agent.config.options import did_you_mean
from agent.config.spectral import energy_option
from agent.lane.options.spectral import SpectralOptions
from agent.lane.spectra.energies import edges_of, energy_of
from agent.lane.state import LaneState
from agent.lane.step import is_vacant
from agent.records import LaneEvent, Record, Timed
from agent.settings import DeviceConfig, LaneConfig
from agent.tools.replay.recording import RecordingError
from agent.tools.replay.replay import replay, replay_options
from agent.tools.terminal import wrong_input
from drivers.readings import (
    EnergyCalibration,
    GammaBackground,
    GammaCounts,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    PortalSettings,
)

Floats = NDArray[np.float64]
Json = dict[str, object]

LEAST_S = 600.0
"""Of the empty lane; less says nothing about how steady it is."""
LONGEST_GAP_S = 10.0
"""Between two figures of a background a longer time was not watched."""
BLOCK_S = 60.0
QUANTILE, SIGMAS = 0.01, 5.0
"""Limits lie so many standard deviations of a block outside the blocks' quantiles."""
KINDS = ("K", "U", "Th", "cosmic")
WORST_MISFIT = 20.0
"""Chi-square per degree of freedom above which the shares are not those of this spectrum."""


@dataclass(slots=True)
class _Samples:
    """One detector's intervals: middle [s], counts, live time [s].

    ``averaged``: the figures are the device's own running means, which overlap.
    """

    at_s: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    live_s: list[float] = field(default_factory=list)
    averaged: bool = False
    spectrum: Floats | None = None

    def add(self, at_s: float, counts: float, live_s: float) -> None:
        self.at_s.append(at_s)
        self.counts.append(counts)
        self.live_s.append(live_s)


class EmptyLaneWatch:
    """Watches a replay and keeps what one device counts while the lane is empty."""

    def __init__(
        self, device: str, guard_s: float, energies: Mapping[str, EnergyCalibration]
    ) -> None:
        self.gamma: dict[str, _Samples] = {}
        self.neutron: dict[str, _Samples] = {}
        self.averaging_s: float | None = None
        self._device, self._guard_s, self._energies = device, guard_s, energies
        self._waiting: list[tuple[float, Timed]] = []
        self._occupied_until_s = -np.inf
        self._told_fine_neutrons = False

    def __call__(self, event: LaneEvent, state: LaneState, _records: Sequence[Record]) -> None:
        """Take what one step of the lane brought; what came near a vehicle is left out."""
        now_s = event.stamp.mono_us / 1e6
        if not is_vacant(state):
            self._occupied_until_s = now_s
            self._waiting = [(s, e) for s, e in self._waiting if now_s - s > self._guard_s]
        elif now_s - self._occupied_until_s > self._guard_s and isinstance(event, Timed):
            self._waiting.append((now_s, event))
        while self._waiting and now_s - self._waiting[0][0] > self._guard_s:
            at_s, ripe = self._waiting.pop(0)
            if ripe.device == self._device:
                self._take(at_s, ripe)
        if isinstance(event, Timed) and isinstance(event.reading, PortalSettings):
            self.averaging_s = event.reading.background_s or self.averaging_s

    def _take(self, at_s: float, event: Timed) -> None:
        reading = event.reading
        match reading:
            case GammaSpectrum() if not reading.occupied and reading.real_time_s > 0:
                self._take_spectrum(at_s, reading)
            case GammaCounts():
                for i, counts in enumerate(reading.counts):
                    self._of(self.gamma, i).add(at_s, counts, reading.real_time_s)
            case NeutronCounts():
                for i, counts in enumerate(reading.counts):
                    self._of(self.neutron, i).add(at_s, counts, reading.real_time_s)
            case GammaBackground():
                self.averaging_s = reading.averaging_s or self.averaging_s
                self._averages(self.gamma, at_s, reading.cps)
            case NeutronBackground():
                self._take_neutron_background(at_s, reading)

    def _take_neutron_background(self, at_s: float, reading: NeutronBackground) -> None:
        """Take exact figures; rounded-down ones only until an exact one came."""
        if reading.rounded_down and self._told_fine_neutrons:
            return
        if not reading.rounded_down and not self._told_fine_neutrons:
            self._told_fine_neutrons = True
            self.neutron.clear()
        cps = reading.per_detector_cps or (reading.total_cps,)
        self._averages(self.neutron, at_s, cps)

    def _averages(self, into: dict[str, _Samples], at_s: float, cps: tuple[float, ...]) -> None:
        for i, rate in enumerate(cps):
            samples = self._of(into, i)
            if samples.counts and not samples.averaged:
                return  # what the device counts says more than its own means
            samples.averaged = True
            gap_s = at_s - samples.at_s[-1] if samples.at_s else 0.0
            watched_s = min(gap_s, LONGEST_GAP_S)
            samples.add(at_s, rate * watched_s, watched_s)

    def _of(self, into: dict[str, _Samples], index: int) -> _Samples:
        return into.setdefault(str(index + 1), _Samples())

    def _take_spectrum(self, at_s: float, reading: GammaSpectrum) -> None:
        samples = self.gamma.setdefault(reading.detector or "1", _Samples())
        live_s = reading.real_time_s if reading.live_time_s is None else reading.live_time_s
        samples.add(at_s - 0.5 * reading.real_time_s, float(sum(reading.counts)), live_s)
        energy = energy_of(self._energies, self._device, reading)
        edges = edges_of(energy, len(reading.counts))
        if edges is None:
            return
        spectrum = on_grid(reading.counts, edges, sqrt_grid())
        samples.spectrum = spectrum if samples.spectrum is None else samples.spectrum + spectrum


# ------------------------------------------------------------------ what it comes to


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One detector: its rate, and the limits drawn from its blocks [counts/s].

    ``low_cps`` and ``high_cps`` None: under three blocks.
    """

    name: str
    kind: str
    watched_s: float
    steady: Steadiness
    low_cps: float | None
    high_cps: float | None
    shares: Shares | None = None


def measured(
    name: str, kind: str, samples: _Samples, averaging_s: float | None, components: Floats | None
) -> Measured | None:
    """Return what one detector's samples come to; None: nothing was watched."""
    counts, live_s, at_s = map(np.array, (samples.counts, samples.live_s, samples.at_s))
    watched_s = float(live_s.sum())
    if watched_s <= 0:
        return None
    totals, lives, middles = in_blocks(counts, live_s, at_s, BLOCK_S)
    if len(totals) >= 3:
        steady = steadiness(totals, lives, middles)
    else:
        steady = steadiness(counts, live_s, at_s)
    if samples.averaged:
        steady = _of_averages(steady, counts, live_s, at_s, averaging_s)
    low, high = _limits(totals, lives)
    shares = None
    if samples.spectrum is not None and components is not None:
        shares = shares_of(samples.spectrum, components, sqrt_grid())
    return Measured(
        name=name,
        kind=kind,
        watched_s=watched_s,
        steady=steady,
        low_cps=low,
        high_cps=high,
        shares=shares,
    )


def _of_averages(
    steady: Steadiness, counts: Floats, live_s: Floats, at_s: Floats, averaging_s: float | None
) -> Steadiness:
    """Return the steadiness of running means: of those that do not overlap.

    Without knowing over how long the device averages, nothing is said of the spread.
    """
    if averaging_s is None:
        return replace(steady, spread=None, spread_p=None)
    kept, last_s = [], -np.inf
    for i in np.flatnonzero(live_s > 0):
        if at_s[i] - last_s >= averaging_s - 1e-3:
            kept.append(i)
            last_s = at_s[i]
    rates = counts[kept] / live_s[kept]
    apart = steadiness(rates * averaging_s, np.full(len(kept), averaging_s), at_s[kept])
    return replace(steady, spread=apart.spread, spread_p=apart.spread_p)


def _limits(totals: Floats, lives: Floats) -> tuple[float | None, float | None]:
    if len(totals) < 3:
        return None, None
    rates = totals / lives
    poisson = np.sqrt(max(float(totals.mean()), 1.0)) / float(lives.mean())
    sigma = max(float(rates.std(ddof=1)), float(poisson))
    low, high = np.quantile(rates, (QUANTILE, 1.0 - QUANTILE))
    return max(0.0, float(low) - SIGMAS * sigma), float(high) + SIGMAS * sigma


# ------------------------------------------------------------------ the command


def calibrate_background_command(arguments: argparse.Namespace) -> int:
    """Measure the empty lane: 0 where it was watched long enough, 1 where not."""
    with wrong_input(configuration.ConfigError, RecordingError, ValueError, OSError):
        lane = configuration.load_lane(arguments.lane)
        device = _device(lane, arguments.device)
        spectral = lane.spectral or SpectralOptions()
        own = energy_option(device)
        energies = {} if own is None else dict([own])
        watch = EmptyLaneWatch(device.name, spectral.guard_s, energies)
        watch.averaging_s = arguments.averaging
        options = replay_options(arguments)
        # What the spectra come to is not asked here, and takes seconds to prepare.
        bare = replace(lane, spectral=None)
        for _ in replay(arguments.recording, bare, arguments.lane, options, watch):
            pass
    components = None
    if any(samples.spectrum is not None for samples in watch.gamma.values()):
        detector = Detector(material=spectral.detector, sides_cm=spectral.crystal_cm)
        components = background_components(detector, sqrt_grid())
    averaging_s = arguments.averaging or watch.averaging_s
    found = [
        each
        for kind, all_samples in (("gamma", watch.gamma), ("neutron", watch.neutron))
        for name, samples in all_samples.items()
        # How long neutrons are averaged is another setting, which no portal tells here.
        for each in [
            measured(name, kind, samples, averaging_s if kind == "gamma" else None, components)
        ]
        if each is not None
    ]
    reasons = _reasons(found, device.name)
    proposed = None if reasons else comments(device.name, found, arguments.recording.name)
    if arguments.json:
        print(json.dumps(_as_json(device.name, found, reasons, proposed), ensure_ascii=False))
    else:
        _print(found, reasons, proposed)
    return 1 if reasons else 0


def _device(lane: LaneConfig, name: str) -> DeviceConfig:
    known = {device.name: device for device in lane.devices}
    if name not in known:
        raise ValueError(f"--device {name}: there is no such device; {did_you_mean(name, known)}")
    return known[name]


def _reasons(found: Sequence[Measured], device: str) -> list[str]:
    watched_s = max((each.watched_s for each in found if each.kind == "gamma"), default=0.0)
    if watched_s >= LEAST_S:
        return []
    minutes = f"{watched_s / 60:.1f} minutes of the empty lane by {device}"
    return [f"{minutes}; at least {LEAST_S / 60:.0f} are needed"]


def comments(device: str, found: Sequence[Measured], recording: str) -> str:
    """Return the proposed limits as comment lines for the lane's file."""
    day = datetime.now(UTC).date().isoformat()
    low, high = f"{100 * QUANTILE:g} %", f"{100 - 100 * QUANTILE:g} %"
    source = json.dumps(recording, ensure_ascii=False)
    limits = [
        f"# {each.kind} {each.name}: low {each.low_cps:.4g}, usual {each.steady.rate_cps:.4g}, "
        f"high {each.high_cps:.4g}\n"
        for each in found
        if each.low_cps is not None and each.high_cps is not None
    ]
    return (
        f"# {device}: the empty lane on {day}, from {source}.\n"
        f"# Limits: {SIGMAS:g} sigma outside the {low} and {high} quantiles of {BLOCK_S:g} s "
        f"blocks [counts/s].\n{''.join(limits)}"
    )


def _print(found: Sequence[Measured], reasons: Sequence[str], proposed: str | None) -> None:
    console = Console(highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    table.add_column("detector")
    for head in ("minutes", "counts/s", "spread", "p", "drift %/h", "low", "high"):
        table.add_column(head, justify="right", no_wrap=True)
    for each in found:
        table.add_row(*_row(each))
    console.print(table)
    if any(each.steady.spread is not None for each in found):
        console.print("spread: standard deviation over that of counting statistics alone")
    for each in found:
        if each.shares is not None:
            console.print(f"{each.kind} {each.name}: {_shares_text(each.shares)}")
    for reason in reasons:
        console.print(f"no background: {reason}")
    if proposed is not None:
        console.print("\nFor the lane's file:\n")
        print(proposed, end="")


def _row(each: Measured) -> tuple[str, ...]:
    steady = each.steady
    drift = ""
    if steady.drift_per_h is not None and steady.sigma_drift_per_h is not None:
        drift = f"{100 * steady.drift_per_h:+.2f} ± {100 * steady.sigma_drift_per_h:.2f}"
    return (
        f"{each.kind} {each.name}",
        f"{each.watched_s / 60:.1f}",
        f"{steady.rate_cps:.4g} ± {steady.sigma_cps:.1g}",
        "" if steady.spread is None else f"{steady.spread:.2f}",
        "" if steady.spread_p is None else f"{steady.spread_p:.2g}",
        drift,
        "" if each.low_cps is None else f"{each.low_cps:.4g}",
        "" if each.high_cps is None else f"{each.high_cps:.4g}",
    )


def _shares_text(shares: Shares) -> str:
    if shares.misfit > WORST_MISFIT:
        return (
            f"no plain background: chi-square {shares.misfit:.0f} per degree of freedom; look at "
            "the energy scale, the crystal in [spectral], and for a source"
        )
    parts = (
        f"{kind} {100 * share:.0f} ± {100 * sigma:.0f} %"
        for kind, share, sigma in zip(KINDS, shares.shares, shares.sigmas, strict=True)
    )
    return f"{', '.join(parts)} (chi-square {shares.misfit:.1f} per degree of freedom)"


def _as_json(
    device: str, found: Sequence[Measured], reasons: Sequence[str], proposed: str | None
) -> Json:
    return {
        "ok": not reasons,
        "device": device,
        "detectors": [
            {
                "name": each.name,
                "kind": each.kind,
                "watched_s": round(each.watched_s, 1),
                "rate_cps": each.steady.rate_cps,
                "sigma_cps": each.steady.sigma_cps,
                "spread": each.steady.spread,
                "spread_p": each.steady.spread_p,
                "drift_per_h": each.steady.drift_per_h,
                "sigma_drift_per_h": each.steady.sigma_drift_per_h,
                "low_cps": each.low_cps,
                "high_cps": each.high_cps,
                "shares": _shares_json(each.shares),
            }
            for each in found
        ],
        "refusals": list(reasons),
        "proposed": proposed,
    }


def _shares_json(shares: Shares | None) -> Json | None:
    if shares is None:
        return None
    held = shares.misfit <= WORST_MISFIT
    return {
        "misfit": round(shares.misfit, 3),
        "parts": dict(zip(KINDS, map(float, shares.shares), strict=True)) if held else None,
        "sigmas": dict(zip(KINDS, map(float, shares.sigmas), strict=True)) if held else None,
    }
