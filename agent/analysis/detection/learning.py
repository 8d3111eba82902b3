"""What a lane's detection knows, learned from benign passages or assumed where there are none yet.

``learn`` makes a whole ``Model``, prior and thresholds; ``assume`` one whose alarms are
provisional; ``learn_prior`` one that knows the traffic but no threshold.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection import nuisance, threshold
from agent.analysis.detection import score as detect
from agent.analysis.detection.model import (
    EmptyShape,
    Model,
    Shapes,
    as_z,
    judged,
    lengths,
    statistic_surprises,
    weighed,
)
from agent.analysis.detection.nuisance import NORM_SHARE, Nuisance
from agent.analysis.detection.score import WINDOW_S

Floats = NDArray[np.float64]

LEAST_TO_LEARN = 2 * threshold.LEAST_PASSES
"""Half of the passages teach what traffic does, the other half what scores it gives."""
LEAST_BIN_SHARE = 1e-4
"""Of all counts of a background at least so much is expected in each bin before any is learned; a
64th of a NaI log's 3 MeV holds this much at the upper end."""
EMPTY_SD = 0.3
"""Before any was learned each bin of the empty lane's spectrum may differ by so much of its rate
from the mean: a bin of many counts is taken as it was counted, one of few mostly as the mean."""
CAPPED = 0.995
"""A passage whose slow changes are larger than those of so many others counts no more than they."""


def assume(shapes: Shapes, expected_cps: Floats, slice_s: float, false_alarm_rate: float) -> Model:
    """Return a model for a lane that has seen no traffic, with that background (bin,) [cps].

    The background may be a short one: a bin that gave no count is taken to give a few.
    """
    slices = max(2, round(WINDOW_S / slice_s))
    expected = expected_cps * slice_s
    expected = np.maximum(expected, max(LEAST_BIN_SHARE * float(expected.sum()), 1e-9))
    edges = shapes.library.edges_kev
    centres = np.sqrt(np.maximum(edges[:-1], 1.0) * edges[1:])
    load = _load(shapes, expected, slice_s)
    prior = nuisance.assumed(slices, slice_s, expected, centres, load)
    return with_prior(shapes, prior, expected, slice_s, false_alarm_rate)


def learn(
    counts: Floats,
    expected: Floats,
    background_counts: Floats,
    shapes: Shapes,
    slice_s: float,
    false_alarm_rate: float,
) -> Model:
    """Return the model that benign passages teach.

    Parameters
    ----------
    counts : (pass, slice, bin) gamma counts, all live detectors summed
    expected : (pass, slice, bin) or (pass, 1, bin): background counts per slice, 0 for padding
    background_counts : (pass, bin) what the empty lane had accumulated before each
    shapes : what is looked for
    slice_s : length of a slice [s]
    false_alarm_rate : alarms per benign passage

    Raises ValueError for fewer than LEAST_TO_LEARN passages.
    """
    if len(counts) < LEAST_TO_LEARN:
        message = f"{len(counts)} benign passages; at least {LEAST_TO_LEARN} are needed to learn"
        raise ValueError(message)
    empty = learn_empty(background_counts[::2])
    expected = empty.steadied(expected, background_counts[:, None])
    model = learn_prior(counts[::2], expected[::2], shapes, slice_s, false_alarm_rate)
    model = replace(model, empty=empty)
    taught = judged(model, counts[::2], expected[::2])
    tails = tuple(threshold.learn_tails(best, is_shape_shared=True) for best in taught.best)
    model = replace(model, templates=tails)
    held_out = judged(model, counts[1::2], expected[1::2])
    scores = as_z(statistic_surprises(model, held_out))
    model = replace(model, statistics=threshold.learn_tails(scores))
    _, largest = weighed(model, held_out)
    return replace(model, together=threshold.learn_tails(as_z(largest)[:, None]))


def _assumed_empty(expected: Floats) -> EmptyShape:
    """Return how an empty lane's spectrum may change: each bin by itself."""
    mean = expected / expected.sum()
    return EmptyShape(mean=mean, modes=np.eye(len(mean)), variance=EMPTY_SD**2 * mean)


def learn_prior(
    counts: Floats, expected: Floats, shapes: Shapes, slice_s: float, false_alarm_rate: float
) -> Model:
    """Return a model that knows what benign passages do, but not yet what scores they give.

    Its p-values are by formula and do not hold for real traffic, whose large changes are larger
    than normal ones: whoever uses it sets thresholds from benign passages, as ``learn`` does.

    ``counts`` (pass, slice, bin), ``expected`` as for ``learn``. Passages longer than the window
    teach by several windows, half a window apart.
    """
    mean = _mean_expected(expected)
    slices = max(2, round(WINDOW_S / slice_s))
    white = _windows(detect.whiten(counts, expected), lengths(expected, counts.shape[1]), slices)
    white = detect.equalised(white, np.sqrt(mean), slice_s)
    prior = nuisance.learn(_capped(white), slice_s, *_load(shapes, mean, slice_s))
    return with_prior(shapes, prior, mean, slice_s, false_alarm_rate)


def learn_empty(background_counts: Floats) -> EmptyShape:
    """Return the mean shape of empty-lane spectra (pass, bin) and the modes in which they vary."""
    total = background_counts.sum(axis=1, keepdims=True)
    mean = background_counts.sum(axis=0) / background_counts.sum()
    floor = np.maximum(mean, 1e-12)
    white = (background_counts - total * mean) / np.sqrt(total * floor)
    values, vectors = np.linalg.eigh(white.T @ white / len(white))
    # Of pure noise the largest eigenvalue is (1 + sqrt(bins/passes))² (Marchenko and Pastur).
    noise = (1.0 + np.sqrt(len(mean) / len(white))) ** 2
    kept = values > 1.1 * noise
    variance = (values[kept] - 1.0) / float(total.mean())
    return EmptyShape(mean=floor, modes=vectors[:, kept], variance=variance)


def with_prior(
    shapes: Shapes, prior: Nuisance, expected: Floats, slice_s: float, false_alarm_rate: float
) -> Model:
    """Return a model with that prior for background counts per slice (bin,), no thresholds yet."""
    slices = len(prior.cosines)
    profiles = detect.point_profiles(slices, slice_s)
    like_background = (expected / expected.sum())[None]
    wanted = (shapes.library.shapes, shapes.dictionary.shapes, like_background)
    return Model(
        slice_s=slice_s,
        slices=slices,
        false_alarm_rate=false_alarm_rate,
        shapes=shapes,
        empty=_assumed_empty(expected),
        nuisance=prior,
        root_expected=np.sqrt(expected),
        profiles=profiles,
        banks=tuple(detect.bank(each, expected, prior, profiles) for each in wanted),
        templates=None,
        statistics=None,
        together=None,
    )


def _load(shapes: Shapes, expected: Floats, slice_s: float) -> tuple[Floats, float]:
    """Return a load's whitened shapes per count, and how much of each is expected [counts/s]."""
    return shapes.loads.shapes / np.sqrt(expected), NORM_SHARE * float(expected.sum()) / slice_s


def _mean_expected(expected: Floats) -> Floats:
    """Return the mean expected counts (bin,) of the slices that are not padding."""
    flat = expected.reshape(-1, expected.shape[-1])
    mean: Floats = flat[flat.sum(axis=1) > 0].mean(axis=0)
    usable: Floats = np.maximum(mean, 1e-9)
    return usable


def _windows(white: Floats, lengths: NDArray[np.intp], slices: int) -> Floats:
    """Return the whole windows of each passage; a shorter one is quiet before it begins."""
    missing = slices - white.shape[1]
    if missing > 0:
        return np.concatenate([np.zeros((len(white), missing, white.shape[2])), white], axis=1)
    starts = range(0, -missing + 1, max(1, slices // 2))
    held = [white[(lengths >= at + slices) | (at == 0), at : at + slices] for at in starts]
    return np.concatenate(held)


def _capped(white: Floats) -> Floats:
    """Return the passages with the wildest scaled down, so that a hidden source teaches little."""
    size = np.sqrt((white.sum(axis=1) ** 2).sum(axis=1))
    limit = np.quantile(size, CAPPED)
    capped: Floats = white * np.minimum(1.0, limit / np.maximum(size, 1e-12))[:, None, None]
    return capped
