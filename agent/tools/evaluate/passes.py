"""Files of passages for ``checkpointd evaluate``, and library files; every defect is one sentence.

A passages file is an npz archive (``np.savez_compressed``). P passages, S slices, D detectors,
C channels::

    format             ()              "checkpointd-passes/1"
    counts             (P, S, D, C)    integer gamma counts per slice, lane occupied
    slices             (P,)            optional: how many slices are real; the rest is padding
    live_s             (P, S, D)       optional live time [s], at most slice_s
    slice_s            ()              length of a slice [s]
    energy_edges_kev   (D, C + 1)      channel edges [keV]; absent for windows without edges
    background_counts  (P, D, C)       what the empty lane had accumulated before the passage
    background_s       (P,)            over how long [s]
    speed_m_per_s      (P,)            NaN where unknown
    neutron_counts     (P, S, N)       optional
    neutron_live_s     (P, S, N)       optional live time of those [s]; 0 where nothing was counted,
                                       and over slice_s where a longer interval is booked in one
                                       slice; absent: slice_s in every slice
    role               (P,)            "commission": benign traffic to learn from; "test"
    truth              (P,)            optional: "" benign, "NORM:K-40" …, else the source
    strength_cps       (P,)            optional: net counts/s of the source at closest approach
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.config.model_file import BROKEN_NPZ

Floats = NDArray[np.float64]
Counts = NDArray[np.integer]

FORMAT = "checkpointd-passes/1"
COMMISSION, TEST = "commission", "test"
MOST_WINDOWS = 16
"""More channels than that are a spectrum, which says nothing without its energies."""
_ARRAYS = (
    "format",
    "counts",
    "slices",
    "live_s",
    "slice_s",
    "energy_edges_kev",
    "background_counts",
    "background_s",
    "speed_m_per_s",
    "neutron_counts",
    "neutron_live_s",
    "role",
    "truth",
    "strength_cps",
)


class PassesError(ValueError):
    """What is wrong with a file: its name, the array, what was seen, and the remedy."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Passes:
    """Passages as the file holds them; shapes stand in the module's head.

    ``slices`` and ``live_s`` are filled in where the file leaves them out: all slices real, and
    always live. None: the file does not say. ``ignored``: arrays of other names.
    """

    counts: Counts
    slices: NDArray[np.intp]
    live_s: Floats
    slice_s: float
    edges_kev: Floats | None
    background_counts: Counts
    background_s: Floats
    speed_m_per_s: Floats
    neutron_counts: Counts | None
    is_commission: NDArray[np.bool_]
    truth: tuple[str, ...] | None
    strength_cps: Floats | None
    neutron_live_s: Floats | None = None
    ignored: tuple[str, ...] = ()

    @property
    def is_test(self) -> NDArray[np.bool_]:
        """Return which passages are to be judged."""
        return ~self.is_commission

    @property
    def is_real(self) -> NDArray[np.bool_]:
        """Return (pass, slice): which slices are no padding."""
        real: NDArray[np.bool_] = np.arange(self.counts.shape[1]) < self.slices[:, None]
        return real


def read_passes(path: Path, *, needs_test: bool = True) -> Passes:
    """Return the passages of a file.

    ``needs_test``: a file without a passage to be judged is a defect. Raises PassesError for the
    first defect that is found.
    """
    arrays, names = _arrays(path, _ARRAYS)
    file = _File(path.name, arrays)
    if "format" not in arrays:
        raise file.error("format", f"is missing; store np.array({FORMAT!r})")
    said = arrays["format"]
    if said.shape != () or said.dtype.kind != "U" or str(said) != FORMAT:
        raise file.error("format", f"is {_shown(said)}; this version reads {FORMAT!r}")
    counts = file.integers("counts", (None, None, None, None), "(pass, slice, detector, channel)")
    if counts.size == 0:
        raise file.error("counts", f"has the shape {counts.shape}; there is nothing to judge")
    passes, length, detectors, channels = counts.shape
    slices = _slices(file, passes, length)
    real = np.arange(length) < slices[:, None]
    file.not_negative("counts", counts, real)
    slice_s = file.number("slice_s", 0.001, 60.0)
    neutrons = _neutrons(file, passes, length, real)
    roles = _roles(file, passes, needs_test=needs_test)
    return Passes(
        counts=counts,
        slices=slices,
        live_s=_live(file, counts.shape[:3], slice_s, real),
        slice_s=slice_s,
        edges_kev=_edges(file, detectors, channels),
        background_counts=_background(file, (passes, detectors, channels)),
        background_s=_background_s(file, passes),
        speed_m_per_s=_speed(file, passes),
        neutron_counts=neutrons,
        neutron_live_s=_neutron_live(file, neutrons, real),
        is_commission=roles == COMMISSION,
        truth=_truth(file, passes),
        strength_cps=_strength(file, passes),
        ignored=tuple(sorted(set(names) - set(_ARRAYS))),
    )


def write_passes(path: Path, passes: Passes) -> None:
    """Write the passages as a file that ``read_passes`` reads; raises OSError."""
    arrays: dict[str, NDArray[np.generic]] = {
        "format": np.array(FORMAT),
        "counts": passes.counts,
        "slices": passes.slices,
        "live_s": passes.live_s,
        "slice_s": np.array(passes.slice_s),
        "background_counts": passes.background_counts,
        "background_s": passes.background_s,
        "speed_m_per_s": passes.speed_m_per_s,
        "role": np.where(passes.is_commission, COMMISSION, TEST),
    }
    optional = {
        "energy_edges_kev": passes.edges_kev,
        "neutron_counts": passes.neutron_counts,
        "neutron_live_s": passes.neutron_live_s,
        "truth": None if passes.truth is None else np.array(passes.truth),
        "strength_cps": passes.strength_cps,
    }
    arrays |= {name: array for name, array in optional.items() if array is not None}
    with path.open("xb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]  # numpy's stub wants allow_pickle


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class LibraryFile:
    """Spectra of a library file: net count rates (spectrum, channel) [counts/s], edges [keV]."""

    names: tuple[str, ...]
    net_cps: Floats
    edges_kev: Floats


BACKGROUND = "background"


def read_library(path: Path) -> LibraryFile:
    """Return the spectra of a library file, each with the background taken off.

    Arrays: ``names`` (N,), one of them ``background``; ``counts`` (N, C), background included;
    ``live`` (N,) [s]; ``edges_kev`` (C + 1,) or ``cal``, the polynomial's coefficients [keV] in
    the channel number at each edge. Raises PassesError for the first defect that is found.
    """
    arrays, _ = _arrays(path, ("names", "counts", "live", "edges_kev", "cal"))
    file = _File(path.name, arrays)
    names = tuple(file.texts("names", None))
    if BACKGROUND not in names:
        raise file.error("names", f"has no {BACKGROUND!r}; it is taken off every spectrum")
    if len(set(names)) < len(names) or len(names) < 2:
        raise file.error("names", "must be different, and at least one besides the background")
    counts = file.floats("counts", (len(names), None), "(spectrum, channel)", 0.0)
    live_s = file.floats("live", (len(names),), "(spectrum,)", 0.0)
    if (live_s <= 0).any():
        raise file.error("live", "has a spectrum of no live time; give seconds above 0")
    edges = _library_edges(file, counts.shape[1])
    rates = counts / live_s[:, None]
    background = rates[names.index(BACKGROUND)]
    sources = [i for i, name in enumerate(names) if name != BACKGROUND]
    net = np.clip(rates[sources] - background, 0.0, None)
    empty = [names[i] for i, each in zip(sources, net, strict=True) if not each.sum() > 0]
    if empty:
        raise file.error(
            "counts", f"of {empty[0]!r} are nowhere above the background; leave it out"
        )
    return LibraryFile(names=tuple(names[i] for i in sources), net_cps=net, edges_kev=edges)


def _library_edges(file: _File, channels: int) -> Floats:
    if "edges_kev" in file.arrays:
        edges = file.floats("edges_kev", (channels + 1,), "(channel + 1,)")
    elif "cal" in file.arrays:
        coefficients = file.floats("cal", (None,), "(coefficient,)")
        with np.errstate(over="ignore", invalid="ignore"):
            edges = np.polynomial.polynomial.polyval(np.arange(channels + 1.0), coefficients)
    else:
        raise file.error("edges_kev", "is missing; store the channels' edges [keV], or cal")
    _rising(file, "edges_kev" if "edges_kev" in file.arrays else "cal", edges)
    return edges


# ------------------------------------------------------------------ the parts of a passages file


def _slices(file: _File, passes: int, length: int) -> NDArray[np.intp]:
    if "slices" not in file.arrays:
        return np.full(passes, length, dtype=np.intp)
    slices = file.integers("slices", (passes,), "(pass,)")
    wrong = (slices < 1) | (slices > length)
    if wrong.any():
        at = int(wrong.argmax())
        text = f"is {slices[at]} for pass {at}; counts hold 1 to {length} slices"
        raise file.error("slices", text)
    return slices.astype(np.intp)


def _live(file: _File, shape: tuple[int, ...], slice_s: float, real: NDArray[np.bool_]) -> Floats:
    if "live_s" not in file.arrays:
        return np.where(real[:, :, None], slice_s, np.zeros(shape))
    live_s = file.floats("live_s", shape, "(pass, slice, detector)", allow_nan=True)
    judged = live_s[real]
    if np.isnan(judged).any():
        raise file.error("live_s", "is NaN; leave the array away where live time is unknown")
    if (judged < 0).any() or (judged > slice_s * (1 + 1e-6)).any():
        worst = float(judged.max()) if (judged >= 0).all() else float(judged.min())
        text = f"holds {worst:g} s; a slice of {slice_s:g} s can be live for 0 to {slice_s:g} s"
        raise file.error("live_s", text)
    return np.where(real[:, :, None], live_s, 0.0)


def _edges(file: _File, detectors: int, channels: int) -> Floats | None:
    if "energy_edges_kev" not in file.arrays:
        if channels > MOST_WINDOWS:
            text = f"is missing; {channels} channels are a spectrum, which needs its edges [keV]"
            raise file.error("energy_edges_kev", text)
        return None
    edges = file.floats("energy_edges_kev", (detectors, channels + 1), "(detector, channel + 1)")
    for each in edges:
        _rising(file, "energy_edges_kev", each)
    return edges


def _rising(file: _File, name: str, edges: Floats) -> None:
    if not np.isfinite(edges).all() or not (np.diff(edges) > 0).all():
        raise file.error(name, "does not rise from channel to channel; give edges in keV")
    if edges[-1] <= 100.0 or edges[-1] > 1e5:
        text = f"ends at {edges[-1]:g}; edges are energies in keV, some thousands at the end"
        raise file.error(name, text)


def _background(file: _File, shape: tuple[int, ...]) -> Counts:
    counts = file.integers("background_counts", shape, "(pass, detector, channel)")
    file.not_negative("background_counts", counts, np.ones(len(counts), dtype=bool))
    return counts


def _background_s(file: _File, passes: int) -> Floats:
    seconds = file.floats("background_s", (passes,), "(pass,)")
    if (seconds <= 0).any():
        raise file.error("background_s", "has a pass of no background; give seconds above 0")
    return seconds


def _speed(file: _File, passes: int) -> Floats:
    speed = file.floats("speed_m_per_s", (passes,), "(pass,)", allow_nan=True)
    if np.isinf(speed).any() or (speed < 0).any():
        raise file.error("speed_m_per_s", "is negative or infinite; NaN says unknown")
    return speed


def _neutrons(file: _File, passes: int, length: int, real: NDArray[np.bool_]) -> Counts | None:
    if "neutron_counts" not in file.arrays:
        return None
    shape = (passes, length, None)
    counts = file.integers("neutron_counts", shape, "(pass, slice, neutron detector)")
    file.not_negative("neutron_counts", counts, real)
    if not counts.shape[2]:
        raise file.error("neutron_counts", "has no detector; leave the array away where none is")
    return counts


def _neutron_live(file: _File, counts: Counts | None, real: NDArray[np.bool_]) -> Floats | None:
    if "neutron_live_s" not in file.arrays:
        return None
    if counts is None:
        raise file.error("neutron_live_s", "stands without neutron_counts; store both or neither")
    live_s = file.floats("neutron_live_s", counts.shape, "(pass, slice, neutron detector)", 0.0)
    if counts[real][live_s[real] == 0].any():
        raise file.error("neutron_live_s", "is 0 where neutrons were counted")
    return np.where(real[:, :, None], live_s, 0.0)


def _roles(file: _File, passes: int, *, needs_test: bool) -> NDArray[np.str_]:
    roles = np.array(file.texts("role", passes))
    other = ~np.isin(roles, (COMMISSION, TEST))
    if other.any():
        at = int(other.argmax())
        text = f"is {_short(str(roles[at]))} for pass {at}; it is {COMMISSION!r} or {TEST!r}"
        raise file.error("role", text)
    if needs_test and not (roles == TEST).any():
        raise file.error("role", f"is {TEST!r} for no pass, so there is nothing to judge")
    return roles


def _truth(file: _File, passes: int) -> tuple[str, ...] | None:
    return tuple(file.texts("truth", passes)) if "truth" in file.arrays else None


def _strength(file: _File, passes: int) -> Floats | None:
    if "strength_cps" not in file.arrays:
        return None
    strength = file.floats("strength_cps", (passes,), "(pass,)", allow_nan=True)
    if (strength < 0).any() or np.isinf(strength).any():
        raise file.error("strength_cps", "is negative or infinite; NaN says unknown")
    return strength


# ------------------------------------------------------------------ arrays of an archive


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    arrays: Mapping[str, NDArray[np.generic]]

    def error(self, array: str, text: str) -> PassesError:
        return PassesError(f"{self.name}: {array} {text}")

    def get(
        self, name: str, shape: tuple[int | None, ...] | None, meaning: str
    ) -> NDArray[np.generic]:
        if name not in self.arrays:
            raise self.error(name, f"is missing; it holds {meaning}")
        array = self.arrays[name]
        if shape is not None and (
            array.ndim != len(shape)
            or any(w is not None and w != s for w, s in zip(shape, array.shape, strict=True))
        ):
            wanted = ", ".join("any" if size is None else str(size) for size in shape)
            comma = "," if len(shape) == 1 else ""
            text = f"has the shape {array.shape}; expected {meaning}, here ({wanted}{comma})"
            raise self.error(name, text)
        return array

    def integers(self, name: str, shape: tuple[int | None, ...], meaning: str) -> Counts:
        array = self.get(name, shape, meaning)
        if array.dtype.kind not in "iu":
            raise self.error(name, f"is {array.dtype}; store whole numbers (astype int32)")
        whole: Counts = array  # type: ignore[assignment]  # its kind was looked at
        return whole

    def floats(
        self,
        name: str,
        shape: tuple[int | None, ...],
        meaning: str,
        least: float | None = None,
        *,
        allow_nan: bool = False,
    ) -> Floats:
        array = self.get(name, shape, meaning)
        if array.dtype.kind not in "iuf":
            raise self.error(name, f"is {array.dtype}; store numbers")
        with np.errstate(over="ignore"):
            numbers = array.astype(np.float64)
        if not allow_nan and not np.isfinite(numbers).all():
            raise self.error(name, "holds NaN or infinity; every entry has to be a number")
        if least is not None and (numbers < least).any():
            raise self.error(name, f"holds {numbers.min():g}; the least there can be is {least:g}")
        return numbers

    def number(self, name: str, low: float, high: float) -> float:
        value = float(self.floats(name, (), "one number"))
        if not low <= value <= high:
            raise self.error(name, f"is {value:g}; it lies between {low:g} and {high:g}")
        return value

    def texts(self, name: str, count: int | None) -> list[str]:
        array = self.get(
            name, (count,), "(pass,) text" if count is not None else "(spectrum,) text"
        )
        if array.dtype.kind != "U":
            raise self.error(name, f"is {array.dtype}; store text (np.array of str)")
        return [str(text) for text in array]

    def not_negative(self, name: str, counts: Counts, real: NDArray[np.bool_]) -> None:
        """Raise for a negative count; ``real``: leading axes, which entries are no padding."""
        rest = tuple(range(real.ndim, counts.ndim))
        lowest = counts.min(axis=rest, initial=0)
        wrong = (lowest < 0) & real
        if wrong.any():
            at = int(np.argwhere(wrong)[0][0])
            text = f"holds {int(lowest[wrong][0])} in pass {at}; counts are 0 or more"
            hint = " (padding is said with slices)" if name == "counts" else ""
            raise self.error(name, text + hint)


def _arrays(
    path: Path, wanted: tuple[str, ...]
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    """Return the arrays of those names that an archive has, and the names of all."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's word on headers of old Pythons
            return _opened(path, wanted)
    except PassesError:
        raise
    except OSError as exc:
        raise PassesError(f"{path}: {exc.strerror or exc}") from exc
    except BROKEN_NPZ as exc:
        text = f"{path.name}: no npz archive of plain arrays ({_reason(exc)})"
        raise PassesError(f"{text}; write it with np.savez_compressed") from exc


def _opened(
    path: Path, wanted: tuple[str, ...]
) -> tuple[dict[str, NDArray[np.generic]], tuple[str, ...]]:
    # The stream is ours: numpy leaves its own open where an archive is broken.
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is no zip archive")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as held:
            names = tuple(held.files)
            arrays: dict[str, NDArray[np.generic]] = {}
            for name in (name for name in wanted if name in names):
                array = held[name]
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{name} is no array")  # noqa: TRY004 - the file is wrong
                arrays[name] = array
    return arrays, names


def _reason(exc: BaseException) -> str:
    return _short(str(exc).split("\n")[0].strip() or type(exc).__name__, 120)


def _shown(array: NDArray[np.generic]) -> str:
    if array.ndim:
        return f"an array of shape {array.shape}"
    return _short(repr(str(array)))


def _short(text: str, most: int = 40) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
