"""The file that ``calibrate threshold`` writes: what a lane's benign traffic taught.

An npz archive of plain arrays; it holds no template and no spectrum of a source. Its calibration
name is the SHA-256 of its bytes, which stands in every record made with it.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.analysis import model as detection
from agent.analysis.model import EmptyShape, Model, Shapes
from agent.analysis.nuisance import Nuisance, cosines
from agent.analysis.threshold import Tails
from agent.config.problems import ConfigError, Problem
from agent.lane.options import SpectralOptions

FORMAT = "checkpointd-thresholds/1"


def model_bytes(model: Model) -> bytes:
    """Return the file of a learned model; raises ValueError for one that has learned nothing."""
    if model.empty is None or model.templates is None:
        raise ValueError("nothing was learned, so there is nothing to keep")
    assert model.statistics is not None
    assert model.together is not None
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
    try:
        content = path.read_bytes()
        with np.load(io.BytesIO(content), allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        model = _model(arrays, shapes, options)
    except OSError as exc:
        raise _refused(path, exc.strerror or str(exc)) from exc
    except (ValueError, KeyError, zipfile.BadZipFile, EOFError) as exc:
        raise _refused(path, str(exc)) from exc
    return model, hashlib.sha256(content).hexdigest()


def _model(arrays: dict[str, np.ndarray], shapes: Shapes, options: SpectralOptions) -> Model:
    head = json.loads(str(arrays["head"]))
    if head.get("format") != FORMAT:
        raise ValueError(f"its format is {head.get('format')!r}, not {FORMAT!r}")
    if head["library"] != _digest(shapes):
        raise ValueError("it was learned for another detector, nuclide table or list of exclusions")
    if head["slice_s"] != options.slice_s:
        raise ValueError(f"it was learned with slices of {head['slice_s']} s")
    prior = Nuisance(
        cosines=cosines(int(head["slices"])), modes=arrays["modes"], gain=arrays["gain"]
    )
    bare = detection.with_prior(
        shapes, prior, arrays["root_expected"] ** 2, options.slice_s, options.false_alarm_rate
    )
    empty = EmptyShape(
        mean=arrays["empty_mean"], modes=arrays["empty_modes"], variance=arrays["empty_variance"]
    )
    return replace(
        bare,
        empty=empty,
        templates=tuple(_tails(arrays, f"template_{i}") for i in range(len(bare.banks))),
        statistics=_tails(arrays, "statistics"),
        together=_tails(arrays, "together"),
    )


def _tails(arrays: dict[str, np.ndarray], name: str) -> Tails:
    return Tails(
        body=arrays[f"{name}_body"],
        shape=arrays[f"{name}_shape"],
        scale=arrays[f"{name}_scale"],
        passes=int(arrays[f"{name}_passes"]),
    )


def _digest(shapes: Shapes) -> str:
    """Return what the shapes are, so that thresholds are not used with others."""
    digest = hashlib.sha256()
    for library in (shapes.library, shapes.dictionary, shapes.norm):
        digest.update("\n".join(library.names).encode())
        digest.update(np.round(library.shapes, 9).tobytes())
    return digest.hexdigest()


def _refused(path: Path, why: str) -> ConfigError:
    text = f"{why}; make it anew with checkpointd calibrate threshold"
    return ConfigError([Problem(file=str(path), text=text)])
