"""What is remembered of a lane's spectroscopic panels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection.model import Model, Stream
from agent.analysis.energy.gain import GainFit
from agent.lane.spectra.slices import EmptyLane, Floats, Gathering, Slice
from agent.lane.state import Memory
from agent.records import BackgroundQuality, Stamp
from drivers.readings import GammaSpectrum


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassSpectra:
    """The spectra of one passage: its slices, the background before it, and how it is judged.

    ``background`` (detector, bin) and ``background_s`` (detector,) are None where the empty lane
    was never seen; ``used`` says which detectors have background enough. ``stream`` None: nothing
    can be judged.
    """

    passage_id: str
    quality: BackgroundQuality
    background: Floats | None = None
    background_s: Floats | None = None
    used: NDArray[np.bool_] | None = None
    model: Model | None = None
    stream: Stream | None = None
    slices: tuple[Slice, ...] = ()
    is_alarmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """A detector's energy scale: true energy = ``offset_kev`` + ``gain`` × nominal energy.

    ``measured``: when the background last confirmed it; None: it has not yet, and the nominal
    scale stands.
    """

    gain: float = 1.0
    offset_kev: float = 0.0
    sigma_gain: float | None = None
    measured: Stamp | None = None

    def true_kev(self, nominal_kev: Floats) -> Floats:
        """Return true energies [keV] for nominal ones."""
        energies: Floats = self.offset_kev + self.gain * nominal_kev
        return energies


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathered:
    """Counts (bin,) on ``gain.TRACKED_KEV`` and their live time [s]."""

    counts: Floats
    live_s: float = 0.0

    def plus(self, other: Gathered) -> Gathered:
        """Return both together."""
        return Gathered(counts=self.counts + other.counts, live_s=self.live_s + other.live_s)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FitWanted:
    """A sample that is being fitted; ``fit`` None: the answer has not come.

    What is found holds from a stated moment on, so that it is the same live and replayed.
    """

    question_id: str
    at: Stamp
    """When the last of the sample was counted."""
    from_us: int
    fit: GainFit | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GainTrack:
    """How the gain of one detector is followed.

    ``nominal_kev`` (channel + 1,): the edges that the scale corrects. ``young`` is gathered since
    ``young_us``, ``waiting`` came before it and is too fresh to be trusted as empty, ``sample``
    (since ``sample_us``) is what the next fit is made of.
    """

    nominal_kev: Floats
    young: Gathered
    young_us: int
    waiting: Gathered
    sample: Gathered
    sample_us: int
    scale: Scale = field(default_factory=Scale)
    gain: float = 1.0
    """By the last fit; the scale follows it in steps."""
    due_us: int = 0
    """No fit before that."""
    failed: int = 0
    """So many fits in a row told nothing, or no sample came together."""
    fit: FitWanted | None = None
    """None: no sample is being fitted."""
    out_by: float | None = None
    """The gain is out of bounds by its last fit: its distance from 1; None: it is not."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spectra:
    """What is remembered of a lane's spectroscopic panels."""

    gathering: Gathering
    empty: EmptyLane
    waiting: tuple[Slice, ...] = ()
    """Slices of the empty lane that are not background yet."""
    left_us: int | None = None
    """When the last vehicle left; None: none has yet."""
    without_energies: frozenset[str] = frozenset()
    """Detectors whose channels have no usable energies."""
    passage: PassSpectra | None = None
    """The vehicle that is inside."""
    finished: PassSpectra | None = None
    """The last one that was."""
    assumed: Model | None = None
    """The model made without learning, for a background of ``assumed_cps``."""
    assumed_cps: float = 0.0
    raw: tuple[tuple[Stamp, str, GammaSpectrum], ...] = ()
    """Spectra near the vehicle as they came: when each ended, and whose it is."""
    finished_raw: tuple[tuple[Stamp, str, GammaSpectrum], ...] = ()
    gains: Mapping[str, GainTrack] = field(default_factory=dict)
    """By detector; only those that are tracked."""


@dataclass(slots=True, kw_only=True)
class Crystals(Memory):
    """The lane's spectroscopic panels."""

    spectra: Spectra | None = None
