"""What the agent says: the records that are journaled and sent, and the events a lane is fed.

Every figure the lane does not know is None. Field names end in their unit and stand on the wire
as they stand here (``agent.delivery.wire``).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Literal

from drivers.readings import (
    GammaCounts,
    GammaSpectrum,
    NeutronCounts,
    NuclideFound,
    Reading,
    WindowCounts,
)

Sync = Literal["none", "rtc", "ntp"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stamp:
    """When something was measured.

    ``utc_us``: wall clock [µs since 1970 UTC]; ``mono_us``: this boot's monotonic clock [µs], the
    only one durations are taken from. ``sync`` says whether the wall clock is to be trusted,
    ``err_ms`` by how much (None: unknown), ``stepped`` that it jumped since boot.
    """

    utc_us: int
    mono_us: int
    boot: str
    sync: Sync = "none"
    err_ms: float | None = None
    stepped: bool = False

    def back(self, age_s: float) -> Stamp:
        """Return the stamp of the moment ``age_s`` seconds earlier on both clocks."""
        return self.forward(-age_s)

    def forward(self, delay_s: float) -> Stamp:
        """Return the stamp of the moment ``delay_s`` seconds later on both clocks."""
        if delay_s == 0:
            return self
        shift_us = round(delay_s * 1e6)
        return Stamp(
            utc_us=self.utc_us + shift_us,
            mono_us=self.mono_us + shift_us,
            boot=self.boot,
            sync=self.sync,
            err_ms=self.err_ms,
            stepped=self.stepped,
        )

    def since_s(self, earlier: Stamp) -> float:
        """Return the monotonic time from ``earlier`` to here [s]."""
        return (self.mono_us - earlier.mono_us) / 1e6


# ---------------------------------------------------------------- events: what a lane is fed


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """A reading with the moment it arrived."""

    stamp: Stamp
    device: str
    reading: Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChange:
    """A device's link came up or was lost; ``detail`` says what was seen, in one sentence."""

    stamp: Stamp
    device: str
    is_up: bool
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Time passes."""

    stamp: Stamp


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The agent stops in order: what is open is closed and said."""

    stamp: Stamp
    waits: bool = False
    """What can still be found out is waited for, and another stop follows."""


LaneEvent = Timed | LinkChange | Tick | Stop

# ---------------------------------------------------------------- records: what the agent says

AlarmKind = Literal["gamma", "neutron", "spectral", "metal", "weight", "tamper", "fault"]
Phase = Literal["raised", "updated", "cleared"]
Severity = Literal["notice", "elevated", "high", "critical"]
Source = Literal["device", "agent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """One test behind an alarm: what was observed, against what, and how sure.

    ``p`` is the probability of as much or more without a source; None where the test gives none.
    """

    test: str
    observed: float | None = None
    expected: float | None = None
    statistic: float | None = None
    threshold: float | None = None
    unit: str | None = None
    window_s: float | None = None
    p: float | None = None


BackgroundQuality = Literal["good", "suspect", "learning", "stale", "high", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BackgroundUsed:
    """The background a decision was made against."""

    gamma_cps: tuple[float, ...] | None
    reference_gamma_cps: tuple[float, ...] | None
    neutron_cps: float | None
    quality: BackgroundQuality
    age_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """A bulky part of a record: it goes beside the record, which only names it by its digest."""

    role: str
    """What it is to the record: ``n42``, ``profile``."""
    media_type: str
    data: bytes = field(repr=False)

    @property
    def sha256(self) -> str:
        """Return the digest of the data, in hexadecimal digits."""
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityItem:
    """Who or what passed, as one reader read it.

    ``value`` is the text, ``token`` a keyed token that stands for it; the other one is None. Both
    are None where the text may not be written and no key is there to make a token.
    """

    kind: Literal["plate", "tag", "code", "document"]
    value: str | None
    token: str | None
    confidence: float | None
    checked: bool | None
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm:
    """One phase of one alarm; ``lane`` None: the gateway's own."""

    stamp: Stamp
    lane: str | None
    alarm_id: str
    code: str
    phase: Phase
    rev: int
    passage_id: str | None
    kind: AlarmKind
    source: Source
    severity: Severity
    device: str | None
    text: str
    """One sentence for the officer."""
    evidence: tuple[Evidence, ...] = ()
    background: BackgroundUsed | None = None
    detectors: tuple[str, ...] = ()
    category: str | None = None
    nuclides: tuple[str, ...] | None = None
    provisional: bool = False
    blobs: tuple[Blob, ...] = ()
    identity: tuple[IdentityItem, ...] = ()
    """In clear: whose passage this alarm is about, as far as it is known."""
    event: EventSource | None = field(default=None, repr=False)
    """What the event's file is made of before the record is stored; never on the wire."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often the recomputed decision was the device's, over the comparable intervals.

    ``rounding`` counts the disagreements that the rounding of the printed background explains.
    """

    intervals: int
    agree: int
    rounding: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RpmPart:
    """The portal's part of a passage."""

    device: str
    occupancy_number: int | None
    """The device's own number of the (last) occupancy; no key: it returns to 1 each day."""
    occupancy_numbers: tuple[int, ...]
    """All of them, where several occupancies of one vehicle were joined."""
    background_cps: tuple[float, ...] | None
    background_quality: BackgroundQuality
    reference_background_cps: tuple[float, ...] | None
    gamma_max_cps: float | None
    gamma_max_cps_by_detector: tuple[float, ...] | None
    gamma_max_sigma: float | None
    gamma_max_sigma_reference: float | None
    neutron_max_cps: float | None
    neutron_background_cps: float | None
    neutron_p: float | None
    device_gamma_alarm: bool
    device_neutron_alarm: bool
    device_agreement: Agreement | None
    settings: dict[str, str | float | int | list[str] | None]
    undocumented: dict[str, str] | None = None
    """The last line of each tag whose meaning is not published, as it came."""
    device_nuclides: tuple[NuclideFound, ...] | None = None
    """What the device's own identification found, its word and not ours; None: it has none, or
    did not look."""
    dose_rate_max_usv_per_h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredCheck:
    """A weight held against the declared mass; None: nobody can say."""

    result: Literal["agrees", "differs", "not_judged"]
    difference_kg: float | None = None
    """Weighed less declared."""
    limit_kg: float | None = None
    why: str | None = None
    """Why it was not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePart:
    """The scale's part of a passage."""

    device: str
    mass_kg: float | None
    value: str | None
    unit: str | None
    mode: str
    stable: bool | None
    stable_by: str | None
    range: str
    alibi_id: str | None
    verified: bool
    max_gross_kg: float | None
    legal: bool
    """Only where the device itself said stable, in its own resolution, with an alibi number."""
    declared_kg: float | None = None
    """What a reader read in this passage; None: nothing, or two that differ."""
    declared_check: DeclaredCheck | None = None
    axles_kg: tuple[float, ...] | None = None
    """Each axle's load where the vehicle was weighed axle by axle."""
    invalid: str | None = None
    """Why an axle weighing does not count; its axles are then never summed."""


MetalResult = Literal["alarm", "random", "clear", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalPart:
    """The metal detector's part of a passage."""

    device: str
    result: MetalResult
    persons: int
    alarms: int
    directions: tuple[str, ...]
    zones: tuple[str, ...] | None = None
    """Where metal was found, by the device's names of its zones; None: it does not say."""
    amplitude: float | None = None
    """The largest signal of the alarms, in units of ``amplitude_scale``; None: it does not say."""
    amplitude_scale: str | None = None
    program: str | None = None
    """What the detector was set to when the walk ended; None: it does not say."""
    sensitivity: str | None = None


Category = Literal["SNM", "industrial", "medical", "NORM", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NuclideNamed:
    """One nuclide, or a group that cannot be told apart ("annihilation 511").

    ``confidence`` 0 to 1, None where whoever named it gives none.
    """

    name: str
    confidence: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorGain:
    """The energy scale that one detector's spectra were read with.

    True energy = ``offset_kev`` + ``gain`` × the energy of its calibration. ``age_s``: how long
    before the passage's end the natural background confirmed it [s]; None: it was not measured
    yet, and the calibration stands as it is.
    """

    detector: str
    gain: float
    offset_kev: float
    sigma_gain: float | None
    age_s: float | None


Naming = Literal["done", "pending", "failed"]
"""Pending: the name is still being found and comes with a later revision; failed: it never will."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectralPart:
    """What the spectra of one passage come to."""

    devices: tuple[str, ...]
    detectors: tuple[str, ...]
    left_out: tuple[str, ...]
    """Detectors whose spectra could not be used, each with its reason."""
    alarm: bool
    statistic: str | None
    """The statistic that was least likely by chance; None: nothing could be judged."""
    p: float | None
    """How likely benign traffic gives as much, all statistics together; None: not judged."""
    false_alarm_rate: float
    """Alarms per benign passage that the site has chosen; ``p`` below it is an alarm."""
    provisional: bool
    """The thresholds come from a formula, not from enough benign traffic of this lane."""
    category: Category | None
    """None: nothing was detected, so nothing was named."""
    nuclides: tuple[NuclideNamed, ...]
    norm: bool | None
    """Natural radioactivity spread over the load explains it; None: not judged."""
    extent_s: float | None
    """How long the excess lasts, full width at half maximum; None: no excess was found."""
    slices: int
    background_s: float | None
    """Exposure of the background it was judged against [s]; None: there was none."""
    background_quality: BackgroundQuality
    calibration: str | None
    """Which learned thresholds it was made with; None: none are learned."""
    gains: tuple[DetectorGain, ...] = ()
    """Of the detectors whose gain is tracked."""
    naming: Naming | None = None
    """Whether the spectrum has been named; None: there was nothing to name."""


EndReason = Literal["left", "timeout", "device_lost", "agent_stop"]
Priority = Literal["routine", "elevated", "high"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """One vehicle or person, alarming or not."""

    stamp: Stamp
    lane: str
    passage_id: str
    rev: int
    started: Stamp
    ended: Stamp
    end_reason: EndReason
    direction: str | None
    speed_m_per_s: float | None
    transit_id: str
    priority: Priority
    reasons: tuple[str, ...]
    alarm_ids: tuple[str, ...]
    ambiguous: tuple[str, ...]
    rpm: RpmPart | None
    scale: ScalePart | None
    metal: MetalPart | None
    spectral: SpectralPart | None = None
    identity: tuple[IdentityItem, ...] = ()
    blobs: tuple[Blob, ...] = ()
    also: tuple[RpmPart, ...] = ()
    """What other portals and radiation monitors of the lane measured meanwhile."""
    event: EventSource | None = field(default=None, repr=False)
    """What the event's file is made of before the record is stored; never on the wire."""


Measured = GammaSpectrum | GammaCounts | NeutronCounts | WindowCounts
"""Readings that an event's file holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorBackground:
    """One crystal's background as it was frozen when the vehicle came.

    ``counts`` are weighted down with their age, and so is ``live_s``; their ratio is the rate.
    """

    detector: str
    counts: tuple[float, ...]
    live_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TypePlate:
    """Which instrument a device is, as the technician read it off; "": not said."""

    device: str
    manufacturer: str
    model: str
    serial_number: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """Everything that the file of one alarming passage tells, as the lane knew it at its end."""

    lane: str
    passage_id: str
    at: Stamp
    """When the passage was closed."""
    started: Stamp
    ended: Stamp
    speed_m_per_s: float | None
    alarms: tuple[Alarm, ...]
    """The latest phase of each."""
    raised: tuple[Stamp, ...]
    """When each of them was raised."""
    readings: tuple[tuple[Stamp, str, Measured], ...]
    """What was counted near and in the vehicle's time: the interval's end, and whose it is."""
    panels: tuple[tuple[str, tuple[str, ...]], ...]
    """What people call the detectors of each portal, in field order."""
    backgrounds: tuple[tuple[str, BackgroundUsed], ...]
    """What each counting portal or monitor judged against."""
    device_nuclides: tuple[tuple[str, tuple[NuclideFound, ...]], ...]
    """What devices named by themselves."""
    plates: tuple[TypePlate, ...] = ()
    """Of each device that measured and has one, in the lane's order."""
    spectral: SpectralPart | None = None
    material: str | None = None
    """What the crystals are made of; None: the lane judges no spectra."""
    spectral_background: tuple[DetectorBackground, ...] = ()
    grid_kev: tuple[float, ...] = ()
    """The energies at which the bins of ``spectral_background`` begin, and the end of the last."""


AuditKind = Literal[
    "boot",
    "stop",
    "clock",
    "config",
    "gap",
    "drop",
    "settings",
    "output",
    "calibration",
    "test",
    "gain",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """Something about the gateway itself that a court may ask for; ``data`` is plain JSON."""

    stamp: Stamp
    kind: AuditKind
    lane: str | None = None
    data: dict[str, object] = field(default_factory=dict)


Record = Alarm | Passage | Audit


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSnapshot:
    """The lane now, for the retained topic; never a record."""

    stamp: Stamp
    lane: str
    in_service: bool
    occupied: bool | None
    """None: the portal's link is down or it has not spoken yet."""
    alarms: tuple[str, ...]
    background: dict[str, BackgroundUsed]
