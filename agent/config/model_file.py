"""The file that ``calibrate threshold`` writes: what a lane's benign traffic taught.

An npz archive of plain arrays; it holds no template and no spectrum of a source. Its calibration
name is the SHA-256 of its bytes, which stands in every record made with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import lzma
import struct
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection import learning
from agent.analysis.detection.model import STATISTICS, EmptyShape, Model, Shapes
from agent.analysis.detection.nuisance import Nuisance, cosines
from agent.analysis.detection.score import WINDOW_S
from agent.analysis.detection.threshold import Tails
from agent.analysis.sought import window_shapes
from agent.config.problems import ConfigError, Problem
from agent.lane.options.spectral import SpectralOptions

FORMAT = "checkpointd-thresholds/2"
LARGEST_BYTES = 64 << 20
MOST_WINDOWS = 16
LEAST_SLICE_S, LONGEST_SLICE_S = 0.1, 2.0
"""Of a portal's intervals."""
BROKEN_NPZ = (
    ValueError,
    LookupError,
    EOFError,
    AttributeError,
    NotImplementedError,
    RuntimeError,
    MemoryError,
    OverflowError,
    TypeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""What zipfile, zlib, json and numpy raise for broken archives, members and headers."""


def model_bytes(model: Model) -> bytes:
    """Return the file of a learned model; raises ValueError for one that has learned nothing."""
    if model.templates is None or model.statistics is None or model.together is None:
        raise ValueError("nothing was learned, so there is nothing to keep")
    head = {
        "format": FORMAT,
        "slice_s": model.slice_s,
        "slices": model.slices,
        "false_alarm_rate": model.false_alarm_rate,
        "library": _digest(model.shapes),
    }
    arrays: dict[str, np.ndarray] = {
        "head": np.array(json.dumps(head)),
        "empty_mean": model.empty.mean,
        "empty_modes": model.empty.modes,
        "empty_variance": model.empty.variance,
        "modes": model.nuisance.modes,
        "gain": model.nuisance.gain,
        "weight": model.nuisance.weight,
        "root_expected": model.root_expected,
    }
    tails = {f"template_{i}": each for i, each in enumerate(model.templates)}
    for name, each in {**tails, "statistics": model.statistics, "together": model.together}.items():
        arrays |= {
            f"{name}_body": each.body,
            f"{name}_shape": each.shape,
            f"{name}_scale": each.scale,
            f"{name}_passes": np.array(each.passes),
        }
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub wants allow_pickle
    return buffer.getvalue()


def load_model(path: Path, shapes: Shapes, options: SpectralOptions) -> tuple[Model, str]:
    """Return the learned model and its calibration name.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no such file, or was learned for other options.
    """
    return _loaded(path, lambda arrays: _model(arrays, shapes, options))


def load_window_model(path: Path, options: SpectralOptions) -> tuple[Model, str]:
    """Return the model learned from a portal's energy windows, and its calibration name.

    Its slices are as long as the portal's intervals were; ``options.slice_s`` says nothing here.

    Raises
    ------
    ConfigError
        If the file cannot be read, is no such file, or was learned for spectra.
    """
    return _loaded(path, lambda arrays: _window_model(arrays, options))


def _window_model(arrays: dict[str, np.ndarray], options: SpectralOptions) -> Model:
    windows = arrays["empty_mean"].size if "empty_mean" in arrays else 0
    if not 1 <= windows <= MOST_WINDOWS:
        raise ValueError("it was not learned from energy windows")
    slice_s = _head(arrays).get("slice_s")
    if not isinstance(slice_s, float) or not LEAST_SLICE_S <= slice_s <= LONGEST_SLICE_S:
        raise ValueError(f"its slices are {slice_s!r} s long")
    return _model(arrays, window_shapes(windows), replace(options, slice_s=slice_s))


def _loaded(path: Path, build: Callable[[dict[str, np.ndarray]], Model]) -> tuple[Model, str]:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise _refused(path, exc.strerror or str(exc)) from exc
    try:
        arrays = _arrays(content)
    except BROKEN_NPZ as exc:
        raise _refused(path, f"it is no file of learned thresholds ({_short(exc)})") from exc
    try:
        model = build(arrays)
    except ValueError as exc:
        raise _refused(path, str(exc)) from exc
    return model, hashlib.sha256(content).hexdigest()


def _arrays(content: bytes) -> dict[str, np.ndarray]:
    if len(content) > LARGEST_BYTES or not zipfile.is_zipfile(io.BytesIO(content)):
        raise ValueError("no archive, or far too large")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's word on headers of old Pythons
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            return {name: np.asarray(held[name]) for name in held.files}


def _model(arrays: dict[str, np.ndarray], shapes: Shapes, options: SpectralOptions) -> Model:
    """Return the model; raises ValueError for what was not learned for these options."""
    head = _head(arrays)
    if head.get("format") != FORMAT:
        raise ValueError(f"its format is {head.get('format')!r}, not {FORMAT!r}")
    if head.get("library") != _digest(shapes):
        raise ValueError("it was learned for another detector, nuclide table or list of exclusions")
    if head.get("slice_s") != options.slice_s:
        raise ValueError(f"it was learned with slices of {head.get('slice_s')} s")
    slices = max(2, round(WINDOW_S / options.slice_s))
    if head.get("slices") != slices:
        raise ValueError(f"it was learned for a window of {head.get('slices')} slices")
    bins = shapes.library.shapes.shape[1]
    modes = _numbers(arrays, "modes", (bins, None))
    kept = modes.shape[1]
    gain = _numbers(arrays, "gain", (None, slices, kept, kept))
    if not len(gain):
        raise ValueError("its gain is damaged")
    prior = Nuisance(
        cosines=cosines(slices),
        modes=modes,
        gain=gain,
        weight=_numbers(arrays, "weight", (len(gain),)),
    )
    root_expected = _numbers(arrays, "root_expected", (bins,))
    if not (root_expected > 0).all():
        raise ValueError("its root_expected is not above 0 everywhere")
    bare = learning.with_prior(
        shapes, prior, root_expected**2, options.slice_s, options.false_alarm_rate
    )
    changes = _numbers(arrays, "empty_modes", (bins, None))
    empty = EmptyShape(
        mean=_numbers(arrays, "empty_mean", (bins,)),
        modes=changes,
        variance=_numbers(arrays, "empty_variance", (changes.shape[1],)),
    )
    return replace(
        bare,
        empty=empty,
        templates=tuple(
            _tails(arrays, f"template_{i}", len(bank.shapes)) for i, bank in enumerate(bare.banks)
        ),
        statistics=_tails(arrays, "statistics", len(STATISTICS)),
        together=_tails(arrays, "together", 1),
    )


def _head(arrays: dict[str, np.ndarray]) -> dict[str, object]:
    try:
        head = json.loads(str(arrays["head"]))
    except (KeyError, ValueError, RecursionError) as exc:
        raise ValueError("it does not say what it was learned for") from exc
    if not isinstance(head, dict):
        raise ValueError("it does not say what it was learned for")  # noqa: TRY004 - the file is wrong
    return head


def _numbers(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int | None, ...]
) -> NDArray[np.float64]:
    """Return finite numbers of that shape, None any length; raises ValueError for anything else."""
    if name not in arrays:
        raise ValueError(f"it has no {name}")
    found = arrays[name]
    fits = found.ndim == len(shape) and all(
        wanted in (None, size) for wanted, size in zip(shape, found.shape, strict=True)
    )
    if not fits or found.dtype.kind not in "iuf" or not np.isfinite(found).all():
        raise ValueError(f"its {name} is damaged")
    return found.astype(np.float64)


def _tails(arrays: dict[str, np.ndarray], name: str, scores: int) -> Tails:
    body = _numbers(arrays, f"{name}_body", (scores, None))
    shape = _numbers(arrays, f"{name}_shape", (scores,))
    scale = _numbers(arrays, f"{name}_scale", (scores,))
    if body.shape[1] < 2 or (np.diff(body) < 0).any() or (shape < 0).any() or (scale <= 0).any():
        raise ValueError(f"its {name} is damaged")
    passes = int(_numbers(arrays, f"{name}_passes", ()))
    return Tails(body=body, shape=shape, scale=scale, passes=passes)


def _digest(shapes: Shapes) -> str:
    """Return what the shapes are, so that thresholds are not used with others."""
    digest = hashlib.sha256()
    for library in (shapes.library, shapes.dictionary, shapes.loads):
        digest.update("\n".join(library.names).encode())
        digest.update(np.round(library.shapes, 9).tobytes())
    return digest.hexdigest()


def _short(exc: BaseException) -> str:
    return str(exc).partition("\n")[0][:80] or type(exc).__name__


def _refused(path: Path, why: str) -> ConfigError:
    text = f"{why}; make it anew with checkpointd calibrate threshold"
    return ConfigError([Problem(file=str(path), text=text)])
