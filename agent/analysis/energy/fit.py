"""An energy scale from lines of known energy: a check source's, or the background's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.peaks import Peak, fitted, significance
from agent.analysis.energy.scale import polynomial_edges

Floats = NDArray[np.float64]
Width = Callable[[Floats], Floats]
"""The FWHM to expect at energies, both in keV."""

LEAST_SPAN = 1.5
"""Lines closer than this factor tell the slope alone; the offset stays as it was."""
LEAST_REACH = 0.15
"""The highest line must lie so far up the spectrum: beyond it the scale is only carried on."""
LINES_FOR_BEND = 5
LEAST_SIGNIFICANCE = 5.0
LEAST_NET_COUNTS = 100.0
NARROWEST, WIDEST = 0.5, 2.0
"""A peak's width may be so many times what is expected."""
WORST_RESIDUAL_FWHM = 0.15
"""A line may lie so far from the fitted scale, in its FWHM."""
CALIBRATES = 0.02
"""The scale must be sure to this part of the energy at the highest line used."""
_LEAST_FULL_KEV, _MOST_FULL_KEV = 700.0, 7000.0
_BLEND_FWHM = 1.6
_MERGE_FWHM = 0.5
_WEAK_SHARE = 0.1
_BACKGROUND_FWHM = 0.02  # what a straight background may move a peak by, in its FWHM


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownLine:
    """A line to look for; ``per_100`` tells only how strong it is beside the others."""

    name: str
    energy_kev: float
    per_100: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LineFound:
    """What was found of one line; ``reason`` says why it was not used, "" where it was."""

    line: KnownLine
    peak: Peak | None
    measured_kev: float | None = None
    fwhm_kev: float | None = None
    reason: str = ""

    @property
    def residual_kev(self) -> float | None:
        """Return measured less known energy [keV]; None where no peak was found."""
        return None if self.measured_kev is None else self.measured_kev - self.line.energy_kev


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleFit:
    """The scale, or why there is none: ``coefficients_kev`` is empty where ``reasons`` holds any.

    The energy of the lower edge of channel i is the polynomial of the coefficients in i [keV].
    """

    coefficients_kev: tuple[float, ...]
    lines: tuple[LineFound, ...]
    reasons: tuple[str, ...] = ()


def separate(lines: Sequence[KnownLine], width: Width) -> tuple[KnownLine, ...]:
    """Return the lines that make a peak of their own at that resolution, low energy first.

    Lines closer than half a FWHM become one at their mean; those that another of some strength
    spoils from further off are left out.
    """
    merged: list[KnownLine] = []
    for line in sorted(lines, key=lambda line: line.energy_kev):
        fwhm = float(width(np.array([line.energy_kev]))[0])
        if merged and line.energy_kev - merged[-1].energy_kev < _MERGE_FWHM * fwhm:
            merged[-1] = _mean(merged[-1], line)
        else:
            merged.append(line)
    return tuple(line for line in merged if not _is_spoilt(line, merged, width))


def _mean(one: KnownLine, other: KnownLine) -> KnownLine:
    total = one.per_100 + other.per_100
    energy = (one.energy_kev * one.per_100 + other.energy_kev * other.per_100) / total
    stronger = one if one.per_100 >= other.per_100 else other
    return KnownLine(name=stronger.name, energy_kev=energy, per_100=total)


def _is_spoilt(line: KnownLine, lines: Sequence[KnownLine], width: Width) -> bool:
    fwhm = float(width(np.array([line.energy_kev]))[0])
    return any(
        other is not line
        and abs(other.energy_kev - line.energy_kev) < _BLEND_FWHM * fwhm
        and other.per_100 > _WEAK_SHARE * line.per_100
        for other in lines
    )


def fit_scale(
    counts: Floats,
    lines: Sequence[KnownLine],
    width: Width,
    start_kev: tuple[float, ...] | None = None,
) -> ScaleFit:
    """Return the scale at which the lines stand where they belong.

    ``counts``: (channel,). ``lines``: as ``separate`` returns them. ``start_kev``: the scale as
    known so far, right within a fifth; None: unknown, all scales are tried on which the spectrum
    ends between 0.7 and 7 MeV.
    """
    if not lines:
        reason = "this source has no line that stands alone at this resolution; take another"
        return ScaleFit(coefficients_kev=(), lines=(), reasons=(reason,))
    counts = np.asarray(counts, dtype=float)
    scale = _coarse(counts, lines, width, start_kev)
    found: tuple[LineFound, ...] = ()
    for _ in range(3):
        found = tuple(_found(counts, line, scale, width) for line in lines)
        used = [line for line in found if not line.reason]
        if not used:
            break
        scale = _polynomial(used, scale)
    found = tuple(_measured(line, scale) for line in found)
    reasons = _reasons(found, scale, len(counts))
    return ScaleFit(
        coefficients_kev=() if reasons else tuple(float(value) for value in scale),
        lines=found,
        reasons=reasons,
    )


def _coarse(
    counts: Floats, lines: Sequence[KnownLine], width: Width, start_kev: tuple[float, ...] | None
) -> Floats:
    """Return the scale on which the lines' places rise highest together."""
    energies = np.array([line.energy_kev for line in lines])
    strength = np.array([line.per_100 for line in lines])
    if start_kev is None:
        slopes = np.geomspace(_LEAST_FULL_KEV, _MOST_FULL_KEV, 240) / len(counts)
        scales = [np.array([0.0, slope]) for slope in slopes]
    else:
        offset = np.zeros(len(start_kev))
        offset[0] = start_kev[0]
        rising = np.array(start_kev) - offset
        scales = [offset + rising * factor for factor in np.linspace(0.8, 1.2, 81)]
    best, best_score = scales[0], -np.inf
    for scale in scales:
        channels, slope = _channels(scale, energies, len(counts))
        rises = significance(counts, channels, width(energies) / slope)
        # A weak line proves less than a strong one, and one alone less than several.
        score = float(np.sum(np.sqrt(np.maximum(rises, 0.0) * strength / strength.max())))
        if score > best_score:
            best, best_score = scale, score
    return best


def _channels(scale: Floats, energies: Floats, channels: int) -> tuple[Floats, Floats]:
    """Return where energies stand on a scale, and its slope there [keV per channel]."""
    at = np.arange(channels + 1, dtype=float)
    edges = np.polynomial.polynomial.polyval(at, scale)
    slope = np.polynomial.polynomial.polyval(at, np.polynomial.polynomial.polyder(scale))
    places = np.interp(energies, np.maximum.accumulate(edges), at, left=-1e9, right=1e9)
    return places, np.interp(places, at, slope)


def _found(counts: Floats, line: KnownLine, scale: Floats, width: Width) -> LineFound:
    energy = np.array([line.energy_kev])
    places, slopes = _channels(scale, energy, len(counts))
    channel, slope = float(places[0]), float(slopes[0])
    if not 0 < channel < len(counts):
        return LineFound(line=line, peak=None, reason="beyond the last channel")
    expected = float(width(energy)[0]) / slope
    peak = fitted(counts, channel, expected)
    if peak is None or abs(peak.channel - channel) > 1.5 * expected:
        return LineFound(line=line, peak=None, reason="no peak there")
    fwhm_kev = peak.fwhm_channels * slope
    reason = ""
    if peak.significance < LEAST_SIGNIFICANCE or peak.net_counts < LEAST_NET_COUNTS:
        reason = f"{peak.net_counts:.0f} counts, {peak.significance:.1f} sigma; count longer"
    elif not NARROWEST < peak.fwhm_channels / expected < WIDEST:
        share = peak.fwhm_channels / expected
        reason = f"{share:.1f} times as wide as expected; no single peak, or another detector"
    return LineFound(line=line, peak=peak, fwhm_kev=fwhm_kev, reason=reason)


def _polynomial(used: Sequence[LineFound], scale: Floats) -> Floats:
    """Return the scale through the lines; what they cannot tell stays as it was.

    One line stretches the old scale, two stretch and move it; with five its bend is fitted too.
    """
    peaks = [line.peak for line in used if line.peak is not None]
    x = np.array([peak.channel for peak in peaks])
    energy = np.array([line.line.energy_kev for line in used])
    sigma = np.array([np.hypot(p.sigma_channel, _BACKGROUND_FWHM * p.fwhm_channels) for p in peaks])
    old = np.polynomial.polynomial.polyval(x, scale)
    size = max(len(scale), 3)
    basis = [np.append(scale, np.zeros(size - len(scale)))]
    if energy.max() < LEAST_SPAN * energy.min():
        stretch = float(np.average((energy - scale[0]) / (old - scale[0]), weights=1 / sigma**2))
        stretched: Floats = scale * stretch
        stretched[0] = scale[0]
        return stretched
    basis.append(np.eye(size)[0])
    if len(used) >= LINES_FOR_BEND:
        basis.append(np.eye(size)[2])
    rows = np.array(basis)
    design = np.polynomial.polynomial.polyval(x, rows.T).T
    fit = np.linalg.lstsq(design / sigma[:, None], energy / sigma, rcond=None)[0]
    return np.trim_zeros(fit @ rows, "b")


def _measured(found: LineFound, scale: Floats) -> LineFound:
    if found.peak is None:
        return found
    energy = float(np.polynomial.polynomial.polyval(found.peak.channel, scale))
    return LineFound(
        line=found.line,
        peak=found.peak,
        measured_kev=energy,
        fwhm_kev=found.fwhm_kev,
        reason=found.reason,
    )


def _reasons(found: Sequence[LineFound], scale: Floats, channels: int) -> tuple[str, ...]:
    used = [line for line in found if not line.reason]
    if not used:
        strongest = max(found, key=lambda line: line.line.per_100)
        text = (
            f"no line of the source was found; {strongest.line.name} "
            f"{strongest.line.energy_kev:.1f} keV: {strongest.reason}"
        )
        return (text,)
    reasons = []
    strongest = max(found, key=lambda line: line.line.per_100)
    if strongest.reason:
        text = f"the strongest line, {strongest.line.energy_kev:.1f} keV, was not usable: "
        reasons.append(text + strongest.reason)
    for line in used:
        residual, fwhm = line.residual_kev, line.fwhm_kev
        assert residual is not None
        assert fwhm is not None
        if abs(residual) > WORST_RESIDUAL_FWHM * fwhm:
            known = line.line.energy_kev
            reasons.append(
                f"{known:.1f} keV was measured at {known + residual:.1f} keV, over "
                f"{WORST_RESIDUAL_FWHM:g} of its width off: not the lines of one source, or a "
                "scale that is bent"
            )
    try:
        edges = polynomial_edges(tuple(float(value) for value in scale), channels)
    except ValueError as exc:
        return (*reasons, str(exc))
    highest = max(used, key=lambda line: line.line.energy_kev)
    assert highest.peak is not None
    if highest.line.energy_kev < LEAST_REACH * edges[-1]:
        reasons.append(
            f"the highest line found, {highest.line.energy_kev:.1f} keV, says nothing of a scale "
            f"that ends at {edges[-1]:.0f} keV; take a source with lines further up"
        )
    slope = (edges[-1] - edges[0]) / channels
    if highest.peak.sigma_channel * slope > CALIBRATES * highest.line.energy_kev:
        reasons.append("the highest line is not placed surely enough; count longer")
    return tuple(reasons)
