"""Spectra read from files: a capture of ours through the lane's driver, an npz, an SPE.

    *.jsonl   our own capture; the spectra that the device's driver reads in it, summed
    *.npz     counts (channel,) or (anything, channel); live_s; coefficients_kev, if known
    *.spe     $DATA:, $MEAS_TIM: (live, real), $MCA_CAL: or $ENER_FIT:

Source of the last: ORTEC, "Software File Structure Manual", section 4.11 (ASCII SPE).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from agent.config.model_file import BROKEN_NPZ
from agent.settings import DeviceConfig
from agent.tools.replay.recording import CapturedBytes, CapturedRegisters, read_capture
from drivers.base import PolledDriver, StreamDriver
from drivers.readings import EnergyCalibration, GammaSpectrum, Reading

Floats = NDArray[np.float64]

LARGEST_FILE_BYTES = 256 << 20
MOST_CHANNELS = 1 << 16
NEAR_EDGES_KEV = 0.5
"""Less than a channel of any scintillator: printed edges are rounded."""


class SpectrumFileError(ValueError):
    """A file that holds no usable spectrum: which, what was seen, and what would do."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class MeasuredSpectrum:
    """One spectrum, summed of ``spectra`` of them.

    ``live_s`` None: unknown. ``coefficients_kev``: the scale that came with it, empty where none
    did. ``detector``: its name as the device gives it, empty where it has none.
    """

    counts: Floats
    live_s: float | None
    coefficients_kev: tuple[float, ...] = ()
    detector: str = ""
    spectra: int = 1


def read_spectrum(
    path: Path, device: DeviceConfig | None, *, detector: str | None, only_vacant: bool
) -> MeasuredSpectrum:
    """Return the spectrum in a file.

    ``device``: whose driver reads a capture; None: captures cannot be read. ``detector``: which
    one in it, None: the only one. ``only_vacant``: spectra that the device calls occupied are
    left out.

    Raises
    ------
    SpectrumFileError
        If it holds no usable spectrum.
    OSError
        If it cannot be read.
    """
    if path.stat().st_size > LARGEST_FILE_BYTES:
        raise SpectrumFileError(f"{path}: over {LARGEST_FILE_BYTES >> 20} MiB; cut it first")
    suffix = path.suffix.lower()
    if suffix == ".jsonl":
        if device is None:
            raise SpectrumFileError(f"{path}: a capture needs the lane's file, --lane")
        return _of_capture(path, device, detector=detector, only_vacant=only_vacant)
    if suffix == ".npz":
        return _of_npz(path)
    if suffix == ".spe":
        return _of_spe(path)
    raise SpectrumFileError(f"{path}: expected a capture (.jsonl), .npz or .spe")


# ------------------------------------------------------------------ captures


def _of_capture(
    path: Path, device: DeviceConfig, *, detector: str | None, only_vacant: bool
) -> MeasuredSpectrum:
    found: dict[str, list[GammaSpectrum]] = {}
    left_out = 0
    for reading in _readings(path, device):
        if isinstance(reading, GammaSpectrum):
            if only_vacant and reading.occupied:
                left_out += 1
            else:
                found.setdefault(reading.detector, []).append(reading)
    if not found:
        said = f", {left_out} of an occupied lane left out" if left_out else ""
        raise SpectrumFileError(f"{path}: it holds no spectrum of {device.name}{said}")
    if detector is None and len(found) > 1:
        names = ", ".join(sorted(found))
        raise SpectrumFileError(f"{path}: it holds several detectors; name one: {names}")
    name = next(iter(found)) if detector is None else detector
    if name not in found:
        names = ", ".join(sorted(found))
        raise SpectrumFileError(f"{path}: it holds no detector {name}; it holds {names}")
    return _summed(path, found[name])


def _readings(path: Path, device: DeviceConfig) -> Iterator[Reading]:
    driver = device.driver.make(device.driver_options)
    for line in read_capture(path):
        if line.device != device.name:
            continue
        if isinstance(line, CapturedBytes) and not device.driver.is_polled:
            yield from cast("StreamDriver", driver).feed(line.data)
        elif isinstance(line, CapturedRegisters) and device.driver.is_polled:
            asked = (line.table, line.address, len(line.registers))
            polled = cast("PolledDriver", driver)
            for block in polled.blocks():
                if (block.table, block.address, block.count) == asked:
                    yield from polled.decode(block, line.registers)


def _summed(path: Path, spectra: list[GammaSpectrum]) -> MeasuredSpectrum:
    channels = {len(spectrum.counts) for spectrum in spectra}
    scales = {spectrum.energy for spectrum in spectra}
    if len(channels) > 1 or len(scales) > 1:
        text = "channels or scale change within it; capture again while nothing is changed"
        raise SpectrumFileError(f"{path}: {text}")
    scale = next(iter(scales))
    lives = [spectrum.live_time_s for spectrum in spectra]
    known = [live for live in lives if live is not None]
    return MeasuredSpectrum(
        counts=np.sum([spectrum.counts for spectrum in spectra], axis=0).astype(float),
        live_s=sum(known) if len(known) == len(lives) else None,
        coefficients_kev=() if scale is None else coefficients_of(scale),
        detector=spectra[0].detector,
        spectra=len(spectra),
    )


def coefficients_of(scale: EnergyCalibration) -> tuple[float, ...]:
    """Return the coefficients [keV] of a scale; of edges the polynomial that meets them all.

    Empty where none up to the third degree comes within NEAR_EDGES_KEV of each.
    """
    if not scale.edges_kev:
        return scale.coefficients_kev
    edges = np.asarray(scale.edges_kev, dtype=float)
    numbers = np.arange(len(edges), dtype=float)
    for degree in (1, 2, 3):
        if len(edges) <= degree or not np.isfinite(edges).all():
            break
        fitted = np.polynomial.Polynomial.fit(numbers, edges, degree)
        if np.abs(fitted(numbers) - edges).max() <= NEAR_EDGES_KEV:
            return tuple(fitted.convert().coef.tolist())
    return ()


# ------------------------------------------------------------------ npz


def _of_npz(path: Path) -> MeasuredSpectrum:
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {
                name: file[name]
                for name in ("counts", "live_s", "coefficients_kev")
                if name in file.files
            }
    except BROKEN_NPZ as exc:
        raise SpectrumFileError(f"{path}: not a readable npz of numbers: {exc}") from exc
    if "counts" not in arrays:
        raise SpectrumFileError(f"{path}: there is no array counts in it")
    counts = arrays["counts"]
    if counts.dtype.kind not in "iuf" or counts.ndim < 1 or counts.shape[-1] < 8:
        raise SpectrumFileError(f"{path}: counts: expected numbers, the last axis the channels")
    summed = counts.reshape(-1, counts.shape[-1]).sum(axis=0).astype(float)
    live = arrays.get("live_s")
    scale = arrays.get("coefficients_kev")
    return _checked(
        path,
        MeasuredSpectrum(
            counts=summed,
            live_s=None if live is None else float(np.sum(live)),
            coefficients_kev=() if scale is None else tuple(map(float, np.ravel(scale))),
            spectra=int(np.prod(counts.shape[:-1])),
        ),
    )


# ------------------------------------------------------------------ SPE


def _of_spe(path: Path) -> MeasuredSpectrum:
    blocks: dict[str, list[str]] = {}
    name = ""
    for line in path.read_text(encoding="latin-1").splitlines():
        if line.startswith("$"):
            name = line.strip().upper()
            blocks[name] = []
        elif name:
            blocks[name].append(line)
    data = _numbers(path, "$DATA:", blocks.get("$DATA:", []))
    if len(data) < 3:
        raise SpectrumFileError(f"{path}: there is no $DATA: block in it")
    first, last = data[:2]
    counts = np.array(data[2:])
    if len(counts) != last - first + 1:
        text = f"$DATA: says channels {first:g} to {last:g} and holds {len(counts)}"
        raise SpectrumFileError(f"{path}: {text}")
    counts = np.concatenate((np.zeros(int(first)), counts))
    times = _numbers(path, "$MEAS_TIM:", blocks.get("$MEAS_TIM:", []))
    scale = _numbers(path, "$MCA_CAL:", blocks.get("$MCA_CAL:", []))[1:]
    scale = scale or _numbers(path, "$ENER_FIT:", blocks.get("$ENER_FIT:", []))
    return _checked(
        path,
        MeasuredSpectrum(
            counts=counts,
            live_s=times[0] if times else None,
            coefficients_kev=_trimmed(scale),
        ),
    )


def _numbers(path: Path, name: str, lines: list[str]) -> list[float]:
    words = " ".join(lines).replace("keV", " ").split()
    try:
        return [float(word) for word in words]
    except ValueError as exc:
        raise SpectrumFileError(f"{path}: {name} {exc}") from exc


def _trimmed(scale: list[float]) -> tuple[float, ...]:
    """Return the coefficients; files without a calibration say 0 and 0, or 0 and 1."""
    kept = list(scale)
    while kept and kept[-1] == 0:
        kept.pop()
    return tuple(kept) if len(kept) > 1 and kept != [0.0, 1.0] else ()


def _checked(path: Path, spectrum: MeasuredSpectrum) -> MeasuredSpectrum:
    counts = spectrum.counts
    if not 8 <= len(counts) <= MOST_CHANNELS:
        raise SpectrumFileError(f"{path}: {len(counts)} channels; expected 8 to {MOST_CHANNELS}")
    if not np.all(np.isfinite(counts)) or counts.min() < 0:
        raise SpectrumFileError(f"{path}: a count is negative or not a number")
    if spectrum.live_s is not None and not 0 < spectrum.live_s < 1e9:
        raise SpectrumFileError(f"{path}: a live time of {spectrum.live_s:g} s is none")
    return spectrum
