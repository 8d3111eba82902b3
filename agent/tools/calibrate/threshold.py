"""``checkpointd calibrate threshold``: what a lane's benign traffic teaches its detection."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.special import bdtrc

from agent import config as configuration
from agent.analysis.detection import learning
from agent.analysis.detection import model as detection
from agent.analysis.detection.learning import LEAST_TO_LEARN
from agent.analysis.detection.model import Model, Shapes
from agent.analysis.detection.threshold import rate_bound, uniformity_p
from agent.analysis.energy.scale import sqrt_grid
from agent.analysis.sought import window_shapes
from agent.config.model_file import model_bytes
from agent.config.spectral import spectral_rules, window_rules
from agent.lane.options.spectral import SpectralOptions
from agent.settings import LaneConfig
from agent.tools.evaluate import spectra as pass_spectra
from agent.tools.evaluate.evaluate import Progressing, progress_bar
from agent.tools.evaluate.lane_passes import LanePasses
from agent.tools.evaluate.passes import Passes, PassesError, read_passes
from agent.tools.evaluate.spectra import Summed
from agent.tools.replay.recording import RecordingError
from agent.tools.replay.replay import replay, replay_options
from agent.tools.terminal import refuse_to_overwrite, wrong_input

Floats = NDArray[np.float64]
Json = dict[str, object]

FOLDS = 5
"""So many parts are held out, one after the other."""
FEWEST = LEAST_TO_LEARN * FOLDS // (FOLDS - 1)
REACH = 0.1
"""A tail is carried on to this part of 1/passages at most."""
SURE = 0.01
"""Held-out figures less likely than this under the rate asked, or uniform p-values, refuse."""
MOST_SHOWN = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Benign:
    """Benign passages of all files in order, and where each is from: (file, number in it)."""

    summed: Summed
    slice_s: float
    origin: tuple[tuple[str, int], ...]
    others: int
    """Passages that are not learned from because something alarmed at them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """What one run came to; ``model`` None: the data support none, for these ``reasons``.

    ``held_out_p`` (pass,): p of each passage by a model that had not seen it; empty where there
    were too few passages.
    """

    passes: int
    others: int
    false_alarm_rate: float
    held_out_p: Floats
    uniformity_p: float | None
    model: Model | None
    reasons: tuple[str, ...]

    @property
    def alarms(self) -> int:
        """Return how many held-out passages would have alarmed."""
        return int((self.held_out_p < self.false_alarm_rate).sum())

    @property
    def bound(self) -> float:
        """Return the upper 95 % bound of the false-alarm rate of held-out passages."""
        return rate_bound(self.alarms, len(self.held_out_p))

    @property
    def is_rate_shown(self) -> bool:
        """Return whether the rate asked is shown with 95 % confidence."""
        return self.bound <= self.false_alarm_rate


def passes_for(false_alarm_rate: float) -> int:
    """Return how many benign passages without an alarm show a rate with 95 % confidence.

    The least n with (1 - rate)^n ≤ 0.05: 2,995 for 1e-3.
    """
    return math.ceil(math.log(0.05) / math.log1p(-false_alarm_rate))


def calibrate_threshold_command(arguments: argparse.Namespace) -> int:
    """Learn thresholds: 0 where the data support them, 1 where not."""
    with wrong_input(configuration.ConfigError, RecordingError, PassesError, ValueError, OSError):
        lane = _without_thresholds(configuration.load_lane(arguments.lane))
        output = arguments.output or Path(f"{lane.lane_id}-{datetime.now(UTC):%Y-%m-%d}.npz")
        refuse_to_overwrite(output, "file")
        before = _thresholds_file(arguments.lane)
        with progress_bar() as progress:
            done = progress("computing what is looked for", 1)
            options, shapes = _looked_for(lane)
            done(1)
            slice_s = None if shapes is None else options.slice_s
            benign = gathered(arguments, lane, slice_s, progress)
            if shapes is None:
                shapes = window_shapes(benign.summed.counts.shape[2])
            far = arguments.far or options.false_alarm_rate
            learned = learn(benign, shapes, benign.slice_s, far, progress)
        if learned.model is not None:
            with output.open("xb") as file:
                file.write(model_bytes(learned.model))
    proposed = None
    if learned.model is not None:
        proposed = section(output.resolve(), learned, before, options)
    _print(learned, benign, proposed, output, as_json=arguments.json)
    return 0 if learned.model is not None else 1


# ------------------------------------------------------------------ what goes in


def _without_thresholds(lane: LaneConfig) -> LaneConfig:
    """Return the lane without its learned thresholds: they decide nothing here, and may be old."""
    if lane.spectral is None:
        return lane
    return replace(lane, spectral=replace(lane.spectral, thresholds_file=None))


def _thresholds_file(lane_file: Path) -> str | None:
    spectral = configuration.load_lane(lane_file).spectral
    return None if spectral is None else spectral.thresholds_file


def _looked_for(lane: LaneConfig) -> tuple[SpectralOptions, Shapes | None]:
    """Return the lane's options and the shapes; None: those of energy windows."""
    if lane.spectral is None:
        raise ValueError(f"the lane {lane.lane_id} has no table [spectral]; give it one first")
    rules = spectral_rules(lane)
    if rules is not None:
        return rules.options, rules.shapes
    if window_rules(lane) is None:
        raise ValueError(
            f"no device of the lane {lane.lane_id} gives spectra or windows; nothing to learn"
        )
    return lane.spectral, None


def gathered(
    arguments: argparse.Namespace, lane: LaneConfig, slice_s: float | None, progress: Progressing
) -> Benign:
    """Return the benign passages of all files; ``slice_s`` None: they are energy windows.

    Raises PassesError, RecordingError, ConfigError or OSError.
    """
    done = progress("reading", len(arguments.sources))
    parts: list[Summed] = []
    origin: list[tuple[str, int]] = []
    others = 0
    grid = None if slice_s is None else sqrt_grid()
    for path in arguments.sources:
        passes = _passes_of(path, arguments, lane)
        _check_kind(path, passes, grid, parts)
        slice_s = slice_s or passes.slice_s
        if not math.isclose(passes.slice_s, slice_s, rel_tol=1e-6):
            raise PassesError(
                f"{path.name}: its slices are {passes.slice_s:g} s long, those of the lane "
                f"{slice_s:g} s; set slice_s in [spectral], or record anew"
            )
        summed = pass_spectra.summed(passes, grid, pass_spectra.left_out(passes))
        which = np.flatnonzero(passes.is_commission & summed.is_judged)
        parts.append(summed.some(which))
        origin += [(path.name, int(number)) for number in which]
        others += len(passes.counts) - len(which)
        done(1)
    assert slice_s is not None
    summed = _joined(parts)
    return Benign(summed=summed, slice_s=slice_s, origin=tuple(origin), others=others)


def _check_kind(path: Path, passes: Passes, grid: Floats | None, parts: Sequence[Summed]) -> None:
    """Refuse windows for a lane of spectra, spectra for one of windows, and other windows."""
    if grid is not None and passes.edges_kev is None:
        raise PassesError(f"{path.name}: it holds energy windows; this lane learns from spectra")
    if grid is None and passes.edges_kev is not None:
        raise PassesError(f"{path.name}: it holds spectra; this lane learns from energy windows")
    windows = passes.counts.shape[3]
    if grid is None and parts and parts[0].counts.shape[2] != windows:
        text = f"it holds {windows} windows, the files before {parts[0].counts.shape[2]}"
        raise PassesError(f"{path.name}: {text}")


def _passes_of(path: Path, arguments: argparse.Namespace, lane: LaneConfig) -> Passes:
    if path.suffix.lower() == ".npz":
        return read_passes(path, needs_test=False)
    assert lane.spectral is not None
    watch = LanePasses(lane.spectral.slice_s)
    for _ in replay(path, lane, arguments.lane, replay_options(arguments), watch):
        pass
    passes = watch.passes()
    if passes is None:
        raise PassesError(f"{path.name}: no passage in it has spectra or windows and a background")
    return passes


def _joined(parts: Sequence[Summed]) -> Summed:
    """Return passages side by side; shorter ones are padded with nothing expected."""
    length = max(part.counts.shape[1] for part in parts)

    def padded(values: Floats, slices: int) -> Floats:
        whole = np.broadcast_to(values, (len(values), slices, values.shape[2]))
        return np.pad(whole, ((0, 0), (0, length - slices), (0, 0)))

    return Summed(
        counts=np.concatenate([padded(part.counts, part.counts.shape[1]) for part in parts]),
        expected=np.concatenate([padded(part.expected, part.counts.shape[1]) for part in parts]),
        background=np.concatenate([part.background for part in parts]),
        background_s=np.concatenate([part.background_s for part in parts]),
        is_judged=np.concatenate([part.is_judged for part in parts]),
    )


# ------------------------------------------------------------------ learning


def learn(
    benign: Benign, shapes: Shapes, slice_s: float, far: float, progress: Progressing
) -> Learned:
    """Return the model of all benign passages, judged by models of a part of them each.

    Parts are held out in the order of time, so that a day is judged by the others.
    """
    passes = len(benign.summed.counts)
    reasons = _too_few(passes, far)
    p = np.zeros(0)
    uniform = None
    if not reasons:
        p, learned_from = _held_out(benign.summed, shapes, slice_s, far, progress)
        uniform = uniformity_p(p, learned_from)
        reasons += _not_held(p, uniform, far)
    learned = None
    if not reasons:
        done = progress(f"learning from {passes} passages", 1)
        learned = _model(benign.summed, np.arange(passes), shapes, slice_s, far)
        done(1)
    return Learned(
        passes=passes,
        others=benign.others,
        false_alarm_rate=far,
        held_out_p=p,
        uniformity_p=uniform,
        model=learned,
        reasons=tuple(reasons),
    )


def _too_few(passes: int, far: float) -> list[str]:
    if passes < FEWEST:
        text = (
            f"{passes} benign passages; at least {FEWEST} are needed, {LEAST_TO_LEARN} to learn "
            "from and a fifth to hold against, and more are better: "
            f"{passes_for(far)} without an alarm show a rate of {far:g}"
        )
        return [text]
    if far < REACH / passes:
        text = (
            f"{passes} benign passages carry no threshold for one false alarm in {1 / far:.0f}; "
            f"ask for {REACH / passes:.2g} or more, or record {math.ceil(REACH / far)} passages"
        )
        return [text]
    return []


def _held_out(
    summed: Summed, shapes: Shapes, slice_s: float, far: float, progress: Progressing
) -> tuple[Floats, int | None]:
    """Return p of each passage by a model of the others, and of how few its tails were learned."""
    passes = len(summed.counts)
    done = progress(f"holding {passes} passages out in {FOLDS} parts", FOLDS)
    p, learned_from = np.empty(passes), None
    for part in np.array_split(np.arange(passes), FOLDS):
        rest = np.setdiff1d(np.arange(passes), part)
        learned = _model(summed, rest, shapes, slice_s, far)
        some = summed.some(part)
        p[part] = detection.judge(learned, some.counts, some.expected, some.background).p
        if learned.together is not None:
            learned_from = learned.together.passes
        done(1)
    return p, learned_from


def _model(
    summed: Summed, which: NDArray[np.intp], shapes: Shapes, slice_s: float, far: float
) -> Model:
    some = summed.some(which)
    return learning.learn(some.counts, some.expected, some.background, shapes, slice_s, far)


def _not_held(p: Floats, uniform: float, far: float) -> list[str]:
    """Return why held-out passages do not follow what the others teach; empty: they do."""
    reasons = []
    alarms = int((p < far).sum())
    if alarms and float(bdtrc(alarms - 1, len(p), far)) < SURE:
        reasons.append(
            f"{alarms} of {len(p)} held-out passages would alarm at a rate of {far:g}; look at "
            "those named, and leave out what was no benign traffic"
        )
    if uniform < SURE:
        reasons.append(
            f"held-out p-values are not uniform (p = {uniform:.1g}); the lane changed while it was "
            "recorded: look at its background, its energy scale and its traffic day by day"
        )
    return reasons


# ------------------------------------------------------------------ what is shown


def section(output: Path, learned: Learned, before: str | None, options: SpectralOptions) -> str:
    """Return the lines for the lane's file, what stood there before kept in a comment."""
    day = datetime.now(UTC).date().isoformat()
    old = "none" if before is None else json.dumps(before, ensure_ascii=False)
    lines = [
        "[spectral]",
        f"# {day}: learned from {learned.passes} benign passages; before: {old}",
        f"thresholds_file = {json.dumps(str(output), ensure_ascii=False)}",
    ]
    if learned.false_alarm_rate != options.false_alarm_rate:
        lines += [
            f"# before: {options.false_alarm_rate:g}",
            f"false_alarm_rate = {float(learned.false_alarm_rate)!r}",
        ]
    return "\n".join(lines) + "\n"


def _modes(model: Model) -> int:
    """Return how many energy modes traffic taught, beside those of loads."""
    return int(model.nuisance.modes.shape[1]) - len(model.shapes.loads.names)


def _unlikely(learned: Learned, benign: Benign) -> list[tuple[str, int, float]]:
    """Return the passages least like the others: file, number in it, p."""
    order = np.argsort(learned.held_out_p)[:MOST_SHOWN]
    found = [(*benign.origin[i], float(learned.held_out_p[i])) for i in order]
    return [each for each in found if each[2] < learned.false_alarm_rate]


def _provisional(learned: Learned) -> str | None:
    """Return the sentence that the rate is not shown yet; None: it is, or nothing was learned."""
    if learned.is_rate_shown or not len(learned.held_out_p):
        return None
    far = learned.false_alarm_rate
    return (
        f"the rate of {far:g} is provisional: {len(learned.held_out_p)} passages show "
        f"{learned.bound:.2g} at most; {passes_for(far)} without an alarm would show it"
    )


def _print(
    learned: Learned, benign: Benign, proposed: str | None, output: Path, *, as_json: bool
) -> None:
    if as_json:
        print(json.dumps(_as_json(learned, benign, proposed, output), ensure_ascii=False))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(_table(learned))
    for name, number, p in _unlikely(learned, benign):
        console.print(f"would alarm: passage {number} of {name}, p = {p:.1e}")
    for reason in learned.reasons:
        console.print(f"no thresholds: {reason}")
    if proposed is not None:
        provisional = _provisional(learned)
        if provisional is not None:
            console.print(provisional)
        console.print(f"thresholds written to {output}\n\nFor the lane's file:\n")
        print(proposed, end="")


def _table(learned: Learned) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column("")
    table.add_column("", justify="right")
    table.add_row("benign passages", str(learned.passes))
    table.add_row("left out (alarms, or nothing to judge)", str(learned.others))
    table.add_row("false alarms asked per passage", f"{learned.false_alarm_rate:g}")
    if len(learned.held_out_p):
        held = len(learned.held_out_p)
        table.add_row("alarms of held-out passages", f"{learned.alarms} of {held}")
        table.add_row("their rate, at most with 95 % confidence", f"{learned.bound:.2g}")
        table.add_row("p of uniform p-values", f"{learned.uniformity_p:.2g}")
    if learned.model is not None:
        table.add_row("modes of traffic learned", str(_modes(learned.model)))
        empty = learned.model.empty.modes.shape[1]
        table.add_row("modes of the empty lane learned", str(empty))
    return table


def _as_json(learned: Learned, benign: Benign, proposed: str | None, output: Path) -> Json:
    has = len(learned.held_out_p) > 0
    learned_model = learned.model
    return {
        "ok": learned_model is not None,
        "passes": learned.passes,
        "left_out": learned.others,
        "far": learned.false_alarm_rate,
        "held_out": {
            "passes": len(learned.held_out_p),
            "alarms": learned.alarms,
            "bound_95": float(f"{learned.bound:.4g}"),
        }
        if has
        else None,
        "uniformity_p": learned.uniformity_p,
        "rate_shown": has and learned.is_rate_shown,
        "passes_for_rate": passes_for(learned.false_alarm_rate),
        "modes": None if learned_model is None else _modes(learned_model),
        "empty_modes": None if learned_model is None else int(learned_model.empty.modes.shape[1]),
        "would_alarm": [
            {"file": name, "pass": number, "p": float(f"{p:.4g}")}
            for name, number, p in _unlikely(learned, benign)
        ],
        "refusals": list(learned.reasons),
        "file": None if learned_model is None else str(output),
        "proposed": proposed,
    }
