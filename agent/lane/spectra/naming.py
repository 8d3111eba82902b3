"""What the spectrum of one passage is called: nuclides, category, spread over the load or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from agent.analysis.detection.model import Verdict
from agent.analysis.detection.score import FALL
from agent.analysis.identification.courses import COMPONENT_SD, Passage, weighted
from agent.analysis.identification.identify import Identification, identify
from agent.analysis.identification.norm import NormDecision, norm_decision
from agent.lane.options.spectral import SpectralRules
from agent.lane.question import Answer, Question
from agent.lane.spectra.slices import Floats
from agent.records import Category, NuclideNamed

NATURAL = ("K-40", "Ra-226", "Th-232")
NATURAL_SIGMA = 4.0
"""A natural nuclide is named above so many standard deviations."""
LOADED_SD = 0.1
"""K, U or Th of a load that hides something: 1 σ of each, as a share of the background."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Named(Answer):
    """The name of what was found; ``norm``: natural radioactivity spread over the load, alone."""

    category: Category
    nuclides: tuple[NuclideNamed, ...]
    norm: bool
    extent_s: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NameAsked(Question):
    """What is the spectrum of this passage called? See ``named`` for the fields."""

    slices: tuple[tuple[Floats, Floats], ...]
    background_s: float
    found: Verdict
    rules: SpectralRules
    is_alarm: bool

    def answer(self) -> Named:
        """Return the name; it takes some 0.1 s of a server's processor, a second of a Pi's."""
        return named(self.slices, self.background_s, self.found, self.rules, is_alarm=self.is_alarm)


def named(
    slices: Sequence[tuple[Floats, Floats]],
    background_s: float,
    found: Verdict,
    rules: SpectralRules,
    *,
    is_alarm: bool = True,
) -> Named:
    """Return the name of what a passage shows.

    ``is_alarm``: its spectrum is an alarm by itself; else what is natural must stand clear, since
    a weak excess of anything looks like a little of everything.

    ``slices``: counts and expected background (bin,) of each, over the detectors in use;
    ``background_s``: exposure that the background was measured with [s].
    """
    slice_s = rules.options.slice_s
    counts = np.array([each for each, _ in slices])
    expected = np.array([each for _, each in slices])
    passage = Passage(
        slices=counts,
        background=expected.mean(axis=0),
        background_slices=background_s / slice_s,
        slice_s=slice_s,
    )
    natural = norm_decision(passage, rules.shapes.norm.shapes, rules.known)
    if natural.is_norm and (is_alarm or natural.excess_z >= NATURAL_SIGMA):
        return Named(
            category="NORM",
            nuclides=_natural(natural),
            norm=True,
            extent_s=round(natural.extent_s, 2),
            reasons=natural.reasons,
        )
    profile = (
        natural.masked_profile if natural.is_masking else _profile(found, len(slices), slice_s)
    )
    spectrum, base, held = weighted(counts, expected, profile)
    said = identify(
        spectrum,
        base,
        rules.shapes.norm.shapes,
        rules.known,
        background_share=held / max(passage.background_slices, 1e-9),
        component_sd=LOADED_SD if natural.is_masking else COMPONENT_SD,
    )
    return Named(
        category=_category(said),
        nuclides=tuple(
            NuclideNamed(name=n.name, confidence=round(min(max(n.confidence, 0.0), 1.0), 3))
            for n in said.nuclides
        ),
        norm=False,
        extent_s=round(natural.extent_s, 2),
        reasons=said.reasons,
    )


def _profile(found: Verdict, slices: int, slice_s: float) -> Floats:
    """Return the course of the source that detection found: (slice,), 1 at its peak."""
    away_s = (np.arange(slices) + 0.5 - float(found.peak_slice)) * slice_s
    course = (1.0 + (away_s / float(found.half_width_s)) ** 2) ** -FALL
    return course.astype(float)


def _natural(natural: NormDecision) -> tuple[NuclideNamed, ...]:
    pairs = zip(NATURAL, natural.excess_cps, natural.sigma_cps, strict=True)
    seen = [name for name, cps, sigma in pairs if sigma > 0 and cps > NATURAL_SIGMA * sigma]
    return tuple(NuclideNamed(name=name, confidence=None) for name in seen)


def _category(said: Identification) -> Category:
    for category in ("SNM", "industrial", "medical", "NORM"):
        if said.category == category:
            return category
    return "unknown"
