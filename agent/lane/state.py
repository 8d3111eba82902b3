"""What a lane remembers.

``LaneState`` is copied by ``step`` before it is written to, and everything it holds is immutable
or replaced as a whole, so an old state stays what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from agent.analysis.detection.model import Model, Stream
from agent.lane.options import LaneRules
from agent.lane.spectra.slices import EmptyLane, Floats, Gathering, Slice
from agent.records import (
    Alarm,
    AlarmKind,
    BackgroundQuality,
    BackgroundUsed,
    EndReason,
    EventSource,
    IdentityItem,
    Measured,
    MetalPart,
    Passage,
    Record,
    ScalePart,
    Severity,
    SpectralPart,
    Stamp,
)
from drivers.readings import (
    GammaSpectrum,
    Level,
    MetalProgram,
    NuclideFound,
    PortalSettings,
    Weight,
    WindowCounts,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningBackground:
    """The portal's background and our long median of it.

    ``history`` holds (monotonic µs, counts/s per detector) of vacant times only.
    """

    gamma_cps: tuple[float, ...] | None = None
    gamma_at: Stamp | None = None
    level: Level = "ok"
    history: tuple[tuple[int, tuple[float, ...]], ...] = ()
    reference_cps: tuple[float, ...] | None = None
    neutron_cps: float | None = None
    gamma_variance: tuple[float, ...] | None = None
    """The device's own variance of one interval's counts; None: it tells none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Portal:
    """A portal between and during occupancies."""

    device: str
    background: RunningBackground = field(default_factory=RunningBackground)
    window: tuple[tuple[int, ...], ...] = ()
    """Counts of the last intervals since the last occupancy's end."""
    neutrons: tuple[int, ...] = ()
    """Summed counts of the last seconds since the last occupancy's end."""
    settings: PortalSettings | None = None
    speeds: tuple[tuple[Stamp, float], ...] = ()
    """Valid beam timings of a vehicle whose first count is still to come [m/s]."""
    undocumented: Mapping[str, str] = field(default_factory=dict)
    gathered: tuple[tuple[int, ...], float] | None = None
    """Vacant counts and their time [s] towards the next row of the history, of a device that
    tells no background."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """The largest of everything in one transit, and how often device and rule agreed."""

    gamma_cps: float | None = None
    gamma_cps_by_detector: tuple[float, ...] | None = None
    sigma: float | None = None
    sigma_reference: float | None = None
    neutron_cps: float | None = None
    neutron_p: float | None = None
    device_gamma: bool = False
    device_neutron: bool = False
    intervals: int = 0
    agree: int = 0
    rounding: int = 0
    nuclides: tuple[NuclideFound, ...] | None = None
    dose_rate_usv_per_h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What one portal or monitor measured of a transit."""

    device: str
    background: BackgroundUsed
    numbers: tuple[int, ...] = ()
    tally: Tally = field(default_factory=Tally)
    undocumented: Mapping[str, str] = field(default_factory=dict)
    settings: PortalSettings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transit:
    """One vehicle at the portal: one occupancy, or several that a short gap parts.

    ``device`` is the portal it belongs to, whose share is in the transit itself; None: the lane
    has none, and a loop or a photocell told of the vehicle.
    """

    passage_id: str
    device: str | None
    started: Stamp
    last_count: Stamp
    background: BackgroundUsed
    ended: Stamp | None = None
    """When the last occupancy ended; None: the vehicle is still inside."""
    end_reason: EndReason = "left"
    numbers: tuple[int, ...] = ()
    speeds: tuple[float, ...] = ()
    tally: Tally = field(default_factory=Tally)
    alarms: tuple[Alarm, ...] = ()
    """The latest phase of each alarm latched for this passage."""
    raised: tuple[Stamp, ...] = ()
    """When each of them was raised."""
    undocumented: Mapping[str, str] = field(default_factory=dict)
    settings: PortalSettings | None = None
    direction: Literal["in", "out"] | None = None
    is_portal_lost: bool = False
    """Its portal was lost while it was inside."""
    also: tuple[Share, ...] = ()
    """The shares of the lane's other portals and monitors."""
    joined: Stamp | None = None
    """When the last of several occupancies began; None: there was but one."""
    spectral: SpectralPart | None = None
    is_sealed: bool = False
    """No further occupancy can join it and its alarms are cleared."""
    published: Passage | None = None
    event: EventSource | None = None
    """What its file is made of, once it has left with a radiation alarm."""

    @property
    def began(self) -> Stamp:
        """Return when its last occupancy began."""
        return self.joined or self.started


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a reader read of a vehicle or a person."""

    clear: IdentityItem
    """As an alarm's record holds it."""
    kept: IdentityItem
    """As a passage holds it."""
    declared_kg: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LastRead:
    """When a reader last read the same, and the part that was made of it."""

    at: Stamp
    serial: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A finished weighing, a walk through the metal detector, or what a reader read.

    ``at`` is the moment that decides which vehicle it belongs to.
    """

    serial: int
    device: str
    at: Stamp
    content: ScalePart | MetalPart | Sighting
    alarm_ids: tuple[str, ...] = ()
    claimed_by: frozenset[str] = frozenset()
    """Every passage it ever fitted; more than one: ambiguous."""
    is_inside: bool = False
    """It came inside an occupancy, so that one has it and the near ones have not."""
    orphan: Passage | None = None
    """The passage of its own that it got because no vehicle fitted."""
    declared_alarm: Alarm | None = None
    """The latest phase of the alarm that a weight differs from the declared mass."""

    @property
    def all_alarm_ids(self) -> tuple[str, ...]:
        """Return the alarms that this part brings into a passage."""
        declared = () if self.declared_alarm is None else (self.declared_alarm.alarm_id,)
        return (*self.alarm_ids, *declared)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """What stands on a scale; ``best`` is the largest stable weight so far."""

    is_loaded: bool = False
    stable_since: Stamp | None = None
    best: Weight | None = None
    best_at: Stamp | None = None
    moving: Weight | None = None
    """The largest weight seen in motion, for a load that never came to rest."""
    moving_at: Stamp | None = None
    part_serial: int | None = None
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AxleRun:
    """One vehicle rolling over an axle scale; ``began_at`` None: nobody is."""

    began_at: Stamp | None = None
    left_at: Stamp | None = None
    """When the last axle left."""
    is_loaded: bool = False
    stable_since: Stamp | None = None
    captured: Weight | None = None
    """The resting load of the axle that stands on the platform."""
    axles_kg: tuple[float, ...] = ()
    zero_seen: bool = False
    """The empty platform read zero since the last load."""
    troubles: tuple[str, ...] = ()
    alarm: Alarm | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """Persons and alarms at a metal detector that lie close together in time."""

    at: Stamp
    last: Stamp
    persons: int = 0
    alarms: int = 0
    randoms: int = 0
    directions: tuple[str, ...] = ()
    alarm: Alarm | None = None
    zones: tuple[str, ...] | None = None
    """Where metal was found; None: the detector does not say."""
    amplitude: float | None = None
    amplitude_scale: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalTest:
    """The operational test of a metal detector that runs now, and what it has seen."""

    started: Stamp
    switch: tuple[str, str]
    """The key switch (module, contact) that announced it, and whose release ends it."""
    alarms: int = 0
    passages: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Detector:
    """What is remembered of one metal detector between walks."""

    risen_first: int = 0
    """Alarms that only its contact has told so far, and not yet its counter."""
    counted_first: int = 0
    """Alarms that only its counter has told so far."""
    is_counting: bool = False
    """It counts its alarms, and none is missed though no contact tells the level."""
    first: MetalProgram | None = None
    """What it was set to when it was first heard."""
    now: MetalProgram | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """What the presence contacts of one module say together."""

    occupied: bool | None = None
    order: tuple[str, ...] = ()
    """The contacts of this vehicle in the order in which they became active."""
    cleared_at: Stamp | None = None
    """When the last of them became inactive; None: one is active, or none has been yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """An alarm or fault as far as the lane's outputs show it."""

    kind: AlarmKind
    code: str
    severity: Severity
    raised: Stamp
    """When it began, or became another one."""
    cleared: Stamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Barrier:
    """What was decided for the vehicle that left the portal last."""

    passage_id: str
    decided: Stamp
    opens: bool
    closes: bool
    """It may still be up from the vehicle before, and this one must not follow."""
    entered: bool = False
    """A vehicle has stood under it since."""
    free_since: Stamp | None = None
    """When the way became free; None: it is not, or nobody knows."""


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


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PassWindows:
    """The energy windows of one passage, and how they are judged.

    ``background_cps`` (window,) is the portal's own before it came, averaged over
    ``background_s``; ``stream`` None: nothing can be judged.
    """

    passage_id: str
    quality: BackgroundQuality
    background_cps: Floats | None = None
    background_s: float | None = None
    model: Model | None = None
    calibration: str | None = None
    stream: Stream | None = None
    slices: int = 0
    is_alarmed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Windows:
    """What is remembered of the portal that counts in energy windows."""

    background_cps: tuple[float, ...] = ()
    """The portal's own, said last; empty: none yet."""
    early: tuple[tuple[int, WindowCounts], ...] = ()
    """Intervals that came before any vehicle was told of, with the moment they came [µs]."""
    passage: PassWindows | None = None
    assumed: Model | None = None
    """The model made without learning, for a background of ``assumed_cps``."""
    assumed_cps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EmptyScale:
    """What the empty platform of a scale read between loads, oldest first.

    ``samples`` [kg] are the latest; ``trend`` holds (monotonic µs, kg) at longer intervals.
    """

    at: Stamp | None = None
    samples: tuple[float, ...] = ()
    trend: tuple[tuple[int, float], ...] = ()
    was_loaded: bool = False
    """A load has come since the last sample."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a scale shows, and how many vehicles had passed when it began to show that."""

    figure: tuple[object, ...]
    vehicles: int


@dataclass(frozen=True, slots=True)
class Panel:
    """How one detector of a spectrometer counted last.

    ``heard`` None: never. ``silent_s``: how long it has counted nothing [s]. ``rate_cps``: of its
    last interval, ``least_rate_cps``: the lesser of its last two [counts/s of real time].
    ``live_share`` and ``most_live_share``: live over real time, the same way.
    """

    heard: Stamp | None = None
    silent_s: float = 0.0
    rate_cps: float = 0.0
    least_rate_cps: float = 0.0
    live_share: float = 1.0
    most_live_share: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignPassages:
    """The last passages that nothing else speaks against, judged with the same thresholds.

    ``thresholds``: which, by their calibration's name and the false-alarm rate. ``p``: the final
    p-values, oldest first.
    """

    thresholds: tuple[str | None, float]
    p: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class LaneState:
    """Everything one lane remembers."""

    serial: int = 0
    links: Mapping[str, bool] = field(default_factory=dict)
    lost_at: Mapping[str, Stamp] = field(default_factory=dict)
    standing: Mapping[tuple[str, str], Alarm] = field(default_factory=dict)
    """Alarms and faults that stand until cleared, by (device, code)."""
    portals: Mapping[str, Portal] = field(default_factory=dict)
    presence: Mapping[str, bool | None] = field(default_factory=dict)
    """What each device that tells of vehicles said last; None: it cannot say any more."""
    transits: tuple[Transit, ...] = ()
    """Oldest first; only the last can be occupied."""
    parts: tuple[Part, ...] = ()
    weighings: Mapping[str, Weighing] = field(default_factory=dict)
    axle_runs: Mapping[str, AxleRun] = field(default_factory=dict)
    walks: Mapping[str, Walk] = field(default_factory=dict)
    not_ready: frozenset[str] = frozenset()
    """Metal detectors that say they are not ready, so a person without alarm is not "clear"."""
    metal_levels: Mapping[str, bool | None] = field(default_factory=dict)
    metal_detectors: Mapping[str, Detector] = field(default_factory=dict)
    metal_tests: Mapping[str, MetalTest] = field(default_factory=dict)
    """The tests that run now, by metal detector."""
    metal_tested: Mapping[str, Stamp] = field(default_factory=dict)
    """When each metal detector passed its last test, as long as that holds."""
    switches_left_on: frozenset[tuple[str, str]] = frozenset()
    """The test switches (module, contact) that were on for too long, until they fall."""
    contacts: Mapping[tuple[str, str], bool | None] = field(default_factory=dict)
    """Each contact's level by (device, name); None: nobody can say."""
    presences: Mapping[str, Presence] = field(default_factory=dict)
    last_reads: Mapping[tuple[str, str, str], LastRead] = field(default_factory=dict)
    """By (device, kind, value), oldest first; those that can still be repeated."""
    announced: Mapping[str, Announced] = field(default_factory=dict)
    """By alarm id; only where the lane has outputs."""
    barrier: Barrier | None = None
    spectra: Spectra | None = None
    windows: Windows | None = None
    panels: Mapping[tuple[str, str], Panel] = field(default_factory=dict)
    """The detectors of spectrometers, by (device, detector)."""
    measured: tuple[tuple[Stamp, str, Measured], ...] = ()
    """What portals counted of the vehicle that is inside: the interval's end, and whose it is."""
    calibrating: frozenset[str] = frozenset()
    """Scales whose weights are a test since this was last said."""
    empty_scales: Mapping[str, EmptyScale] = field(default_factory=dict)
    shown: Mapping[str, Shown] = field(default_factory=dict)
    counters: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """First value of each scale's own counter since its last calibration, by (device, name)."""
    vehicles: int = 0
    """How many have left the portal."""
    benign: BenignPassages | None = None

    def copied(self) -> LaneState:
        """Return another state that holds the same; ``copy.copy`` takes three times as long."""
        new = object.__new__(LaneState)
        for name in LaneState.__slots__:
            setattr(new, name, getattr(self, name))
        return new


@dataclass(slots=True)
class Turn:
    """One step in the making: the copied state, and the records it has led to so far."""

    state: LaneState
    rules: LaneRules
    stamp: Stamp
    records: list[Record] = field(default_factory=list)

    def next_serial(self) -> int:
        """Return the next number of this lane and run."""
        self.state.serial += 1
        return self.state.serial

    def new_id(self, letter: str) -> str:
        """Return a new id, unique over lanes and runs."""
        return f"{self.rules.lane_id}-{self.rules.run}-{letter}{self.next_serial()}"


def sightings_of(state: LaneState, passage_id: str) -> list[Sighting]:
    """Return what was read of this vehicle and of no other, in order of time.

    A reader of which one reading is in doubt gives none: the others might be another vehicle's.
    """
    found = [
        part
        for part in state.parts
        if isinstance(part.content, Sighting) and passage_id in part.claimed_by
    ]
    doubted = {part.device for part in found if len(part.claimed_by) > 1}
    return [
        part.content
        for part in sorted(found, key=lambda p: p.at.mono_us)
        if isinstance(part.content, Sighting) and part.device not in doubted
    ]


def background_used(background: RunningBackground, now: Stamp, *, suspect: bool) -> BackgroundUsed:
    """Return the background as a decision made now would use it, with its quality."""
    age_s = None if background.gamma_at is None else now.since_s(background.gamma_at)
    quality: BackgroundQuality
    if background.level != "ok":
        quality = background.level
    elif age_s is not None and age_s > STALE_S:
        quality = "stale"
    elif background.reference_cps is None:
        quality = "learning"
    else:
        quality = "suspect" if suspect else "good"
    return BackgroundUsed(
        gamma_cps=background.gamma_cps,
        reference_gamma_cps=background.reference_cps,
        neutron_cps=background.neutron_cps,
        quality=quality,
        age_s=None if age_s is None else round(age_s, 3),
    )


STALE_S = 600.0
"""A background from longer ago than this is stale."""
