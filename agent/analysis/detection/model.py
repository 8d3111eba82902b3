"""The whole detection of one lane: learned from benign passages, judged slice by slice.

A ``Model`` is made once, from commissioning traffic or from assumptions where there is none yet
(``learning``; its alarms are then provisional). A passage is a ``Stream``: each slice is added
at the same cost whatever came before, because only the last WINDOW_S are looked at, every LOOK_S.
The statistics stand side by side and share one false-alarm budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection import score as detect
from agent.analysis.detection import threshold
from agent.analysis.detection.nuisance import Nuisance
from agent.analysis.detection.score import Bank, Profiles
from agent.analysis.detection.threshold import Tails
from agent.analysis.response.library import Library

Floats = NDArray[np.float64]

LOOK_S = 1.0
LAG_S = 2.0
"""Until the passage is over a source is looked for this long before the newest slice: what comes
after a peak tells the vehicle's shadow from the source's own fall."""
STATISTICS = ("score", "dictionary", "gross", "residual")
"""The library's templates; single energies, for what no library holds; a source like the
background itself; and whatever else is no traffic."""
WEIGHTS = (0.75, 0.17, 0.03, 0.05)
"""How the false-alarm budget is shared out, in the order of STATISTICS."""
ASSUMED_SPREAD = 1.06
"""Standard deviation of Z with thresholds by formula: a background of half a minute is itself
uncertain, by (sum p)²/sum p² · slice/30 s = 0.14 of a passing source's variance at most, less what
the prior takes of slow changes. Learned thresholds have it in them."""
CLEAR = 14.0
"""Surprises above it, p = 1e-6, are far outside what passages taught; of several so clear the first
in the order of STATISTICS is named, which says most."""
CHUNK = 200


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shapes:
    """What is looked for on one grid, and what is not.

    ``library`` and ``dictionary`` are looked for. ``norm``: K, U and Th, one shape of each.
    ``loads``: the shapes that a load of them shows, more and less of it taken up in the load.
    """

    library: Library
    dictionary: Library
    norm: Library
    loads: Library


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmptyShape:
    """What spectra the empty lane has: the mean shape and how it varies.

    ``mean`` (bin,) sums to 1; ``modes`` (bin, mode) are relative changes with prior ``variance``
    (mode,) per count of the background, in units of its counting noise at ``counts`` counts.
    """

    mean: Floats
    modes: Floats
    variance: Floats

    def smoothed(self, counts: Floats) -> Floats:
        """Return background counts (…, bin) with the noise taken out that the modes do not explain.

        Each mode is kept by as much as its own variance outweighs the counting noise.
        """
        total = counts.sum(axis=-1, keepdims=True)
        expected = total * self.mean
        root = np.sqrt(np.where(expected > 0, expected, 1.0))
        white = np.where(expected > 0, (counts - expected) / root, 0.0)
        # Relative variance is fixed, so in units of counting noise it grows with the counts.
        signal = self.variance * total
        amounts = (white @ self.modes) * (signal / (1.0 + signal))
        smooth = expected + (amounts @ self.modes.T) * root
        kept: Floats = np.maximum(smooth, 0.1 * expected)
        return kept

    def steadied(self, expected: Floats, counts: Floats) -> Floats:
        """Return counts expected in a slice (…, bin) without the noise of the background itself.

        ``expected``: as the background ``counts`` (…, bin) say. A bin in which the empty lane gave
        no count is still expected to give some: it takes its part of what all bins give.
        """
        smooth = self.smoothed(counts)
        total = np.maximum(counts.sum(axis=-1, keepdims=True), 1e-12)
        of_bin = expected * smooth / np.where(counts > 0, counts, 1.0)
        of_all = expected.sum(axis=-1, keepdims=True) / total * smooth
        steady: Floats = np.where(counts > 0, of_bin, of_all)
        return steady


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Model:
    """Everything that judging a passage needs; see ``learning``."""

    slice_s: float
    slices: int
    """Of the window."""
    false_alarm_rate: float
    shapes: Shapes
    empty: EmptyShape
    nuisance: Nuisance
    root_expected: Floats
    """(bin,) square root of the background counts expected in a slice."""
    profiles: Profiles
    banks: tuple[Bank, ...]
    """Library, dictionary, gross."""
    templates: tuple[Tails, ...] | None
    """Of each template's largest Z, in the order of ``banks``; None: provisional."""
    statistics: Tails | None
    """Of each statistic's largest surprise, in the order of STATISTICS; None: provisional."""
    together: Tails | None
    """Of the largest of them with their weights; None: provisional."""

    @property
    def is_provisional(self) -> bool:
        """Return whether the thresholds come from a formula instead of this lane's traffic."""
        return self.statistics is None

    @property
    def look(self) -> int:
        """Return after how many slices the window is looked at."""
        return max(1, round(LOOK_S / self.slice_s))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stream:
    """One passage, or several side by side (leading axes), as far as it has come.

    ``white``: (…, slice, bin) the window's whitened residuals; ``best``: (…, template) the largest
    Z so far of each bank's templates; ``peak_slice`` and ``half_width_s`` say where it was.
    """

    seen: int
    white: Floats
    best: tuple[Floats, ...]
    peak_slice: tuple[Floats, ...]
    half_width_s: tuple[Floats, ...]
    residual: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Verdict:
    """What a passage comes to: ``p`` (…,), the statistic and template behind it.

    ``template`` indexes the dictionary's names where the statistic is that, else the library's.
    ``z``, ``peak_slice`` and ``half_width_s`` are of that template at its best; -inf and NaN
    before the first look.
    """

    p: Floats
    statistic: NDArray[np.intp]
    surprises: Floats
    template: NDArray[np.intp]
    z: Floats
    peak_slice: Floats
    half_width_s: Floats


# ------------------------------------------------------------------ one passage


def begin(model: Model, *lead: int) -> Stream:
    """Return a passage of which nothing has been seen; ``lead``: so many side by side."""
    sizes = [len(bank.shapes) for bank in model.banks]
    bins = model.nuisance.modes.shape[0]
    return Stream(
        seen=0,
        white=np.zeros((*lead, model.slices, bins)),
        best=tuple(np.full((*lead, size), -np.inf) for size in sizes),
        peak_slice=tuple(np.full((*lead, size), np.nan) for size in sizes),
        half_width_s=tuple(np.full((*lead, size), np.nan) for size in sizes),
        residual=np.full(lead, -np.inf),
    )


def add(model: Model, stream: Stream, counts: Floats, expected: Floats) -> Stream:
    """Return the passage after one more slice: counts and expected counts (…, bin).

    Every ``model.look`` slices the window is looked at; the others only join it.
    """
    white = np.concatenate(
        [stream.white[..., 1:, :], detect.whiten(counts, expected)[..., None, :]], axis=-2
    )
    stream = replace(stream, white=white, seen=stream.seen + 1)
    if stream.seen % model.look:
        return stream
    return _looked(model, stream, model.profiles.upto(model.slices * model.slice_s - LAG_S))


def end(model: Model, stream: Stream) -> Stream:
    """Return the passage after its last slice: the whole window is looked at."""
    return _looked(model, stream, model.profiles.upto(np.inf))


def _looked(model: Model, stream: Stream, used: slice) -> Stream:
    """Return the passage after a look at some of the profiles."""
    even = detect.equalised(stream.white, model.root_expected, model.slice_s)
    cleaned, case = model.nuisance.clean(even)
    first = stream.seen - model.slices
    best, peaks, widths = [], [], []
    for index, filters in enumerate(model.banks):
        z, which = filters.best(cleaned, case, model.profiles, used)
        better = z > stream.best[index]
        peak = first + model.profiles.peak_s[which] / model.slice_s
        best.append(np.where(better, z, stream.best[index]))
        peaks.append(np.where(better, peak, stream.peak_slice[index]))
        width = model.profiles.half_width_s[which]
        widths.append(np.where(better, width, stream.half_width_s[index]))
    power = detect.residual(cleaned, model.slice_s)
    return replace(
        stream,
        best=tuple(best),
        peak_slice=tuple(peaks),
        half_width_s=tuple(widths),
        residual=np.maximum(stream.residual, power),
    )


def verdict(model: Model, stream: Stream) -> Verdict:
    """Return what the passage comes to so far; before the first look p is 1."""
    surprises, largest = weighed(model, stream)
    statistic = (np.minimum(surprises, CLEAR) + np.log(WEIGHTS)).argmax(axis=-1)
    if model.together is not None:
        fused = model.together.surprise(as_z(largest)[..., None])[..., 0]
    else:
        fused = threshold.together(surprises, WEIGHTS)
    p = np.exp(-fused)
    library = _best_template(model, stream, 0)
    other = _best_template(model, stream, 1)
    is_library = statistic != 1
    template = np.where(is_library, library, other)
    z, peak, width = (
        np.where(
            is_library,
            np.take_along_axis(of[0], library[..., None], axis=-1)[..., 0],
            np.take_along_axis(of[1], other[..., None], axis=-1)[..., 0],
        )
        for of in (stream.best, stream.peak_slice, stream.half_width_s)
    )
    return Verdict(
        p=p,
        statistic=statistic,
        surprises=surprises,
        template=template,
        z=z,
        peak_slice=peak,
        half_width_s=width,
    )


def weighed(model: Model, stream: Stream) -> tuple[Floats, Floats]:
    """Return -ln p of each statistic (…, statistic), and the largest of them with its weight.

    The latter is never negative and, unlike the Bonferroni bound, never stops at p = 1: passages
    that stop at one value would not have uniform p-values.
    """
    surprises = statistic_surprises(model, stream)
    if model.statistics is not None:
        surprises = model.statistics.surprise(as_z(surprises))
    return surprises, (surprises + np.log(np.array(WEIGHTS) / max(WEIGHTS))).max(axis=-1)


def as_z(surprise: Floats) -> Floats:
    """Return the figure whose square falls off exponentially, as the tails take it."""
    z: Floats = np.sqrt(2.0 * surprise)
    return z


def _template_surprises(model: Model, stream: Stream, index: int) -> Floats:
    best = np.maximum(stream.best[index], -50.0)
    if model.templates is not None:
        return model.templates[index].surprise(best)
    # Two profiles a half-width apart are nearly independent looks; templates are all counted.
    looks = best.shape[-1] * max(1.0, stream.seen * model.slice_s / detect.HALF_WIDTHS_S[0])
    return threshold.normal_surprise(best / ASSUMED_SPREAD, looks, model.banks[index].skew)


def _best_template(model: Model, stream: Stream, index: int) -> NDArray[np.intp]:
    which: NDArray[np.intp] = _template_surprises(model, stream, index).argmax(axis=-1)
    return which


def statistic_surprises(model: Model, stream: Stream) -> Floats:
    """Return (…, statistic): the largest surprise of each statistic's templates."""
    each = [
        _template_surprises(model, stream, index).max(axis=-1) for index in range(len(model.banks))
    ]
    if model.templates is not None:
        # Only its rank among benign passages is used.
        power = 0.5 * np.square(np.maximum(stream.residual, 0.0))
    else:
        # A sum of squares is heavier than a normal variable; nothing is claimed from it unlearned.
        power = np.zeros(stream.residual.shape)
    return np.stack([*each, power], axis=-1)


def judge(model: Model, counts: Floats, expected: Floats, background_counts: Floats) -> Verdict:
    """Return the verdicts on whole passages; arguments as for ``learning.learn``."""
    expected = model.empty.steadied(expected, background_counts[:, None])
    groups = _by_length(expected, counts.shape[1])
    verdicts = [
        verdict(model, _judged_alike(model, counts[which, :length], expected[which, :length]))
        for length, which in groups
    ]
    order = np.argsort(np.concatenate([which for _, which in groups]))
    fields = {
        name: np.concatenate([getattr(each, name) for each in verdicts])[order]
        for name in Verdict.__slots__
    }
    return Verdict(**fields)


def _by_length(expected: Floats, slices: int) -> list[tuple[int, NDArray[np.intp]]]:
    """Return the passages of each length, without the padding at their end (nothing expected)."""
    each = lengths(expected, slices)
    return [(int(length), np.flatnonzero(each == length)) for length in np.unique(each)]


def lengths(expected: Floats, slices: int) -> NDArray[np.intp]:
    """Return how many of so many slices of each passage are no padding: (pass,)."""
    if expected.shape[1] == 1:
        return np.full(len(expected), slices)
    has = expected.sum(axis=-1) > 0
    return np.where(has.any(axis=1), slices - has[:, ::-1].argmax(axis=1), 0)


def judged(model: Model, counts: Floats, expected: Floats) -> Stream:
    """Return the streams of whole passages, each ended with its last slice that is no padding."""
    groups = _by_length(expected, counts.shape[1])
    streams = [
        _judged_alike(model, counts[which, :length], expected[which, :length])
        for length, which in groups
    ]
    return _joined(streams, np.argsort(np.concatenate([which for _, which in groups])))


def _judged_alike(model: Model, counts: Floats, expected: Floats) -> Stream:
    """Return the streams of passages of one length, some at a time for memory's sake."""
    parts = []
    for at in range(0, len(counts), CHUNK):
        some, wanted = counts[at : at + CHUNK], expected[at : at + CHUNK]
        wanted = np.broadcast_to(wanted, some.shape)
        stream = begin(model, len(some))
        for number in range(some.shape[1]):
            stream = add(model, stream, some[:, number], wanted[:, number])
        parts.append(end(model, stream))
    return _joined(parts, np.arange(len(counts)))


def _joined(parts: Sequence[Stream], order: NDArray[np.intp]) -> Stream:
    """Return the streams side by side in that order, without their windows."""

    def each(pick: Callable[[Stream], tuple[Floats, ...]]) -> tuple[Floats, ...]:
        picked = zip(*(pick(part) for part in parts), strict=True)
        return tuple(np.concatenate(arrays)[order] for arrays in picked)

    return Stream(
        seen=max(part.seen for part in parts),
        white=np.zeros((0, *parts[0].white.shape[-2:])),
        best=each(lambda part: part.best),
        peak_slice=each(lambda part: part.peak_slice),
        half_width_s=each(lambda part: part.half_width_s),
        residual=np.concatenate([part.residual for part in parts])[order],
    )
