"""What a device can say: the words every driver speaks and the lane understands.

Readings know no time: ``agent.daemon.link`` stamps them on arrival. A figure the device did not
give is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

RAW_LIMIT_BYTES = 256
"""No more than this of a refused frame is kept."""


class Reason(StrEnum):
    """Why a frame was refused."""

    SYNTAX = "syntax"
    LENGTH = "length"
    CHECKSUM = "checksum"
    RANGE = "range"
    UNKNOWN = "unknown"
    TRUNCATED = "truncated"
    FLOOD = "flood"
    DEVICE_ERROR = "device_error"
    NO_REPLY = "no_reply"
    UNIT = "unit"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadFrame:
    """Bytes that are not a reading: counted and published, never guessed."""

    reason: Reason
    raw: bytes
    detail: str

    @classmethod
    def of(cls, reason: Reason, raw: bytes, detail: str) -> BadFrame:
        """Return a refusal that keeps at most RAW_LIMIT_BYTES of the frame."""
        return cls(reason=reason, raw=bytes(raw[:RAW_LIMIT_BYTES]), detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaCounts:
    """Gamma counts of one interval of an occupancy, one figure per detector [counts]."""

    counts: tuple[int, ...]
    real_time_s: float
    device_alarm: bool
    age_s: float = 0.0
    """How long before it arrived the interval ended [s]; above 0 for intervals sent late."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeutronCounts:
    """Neutron counts of one interval of an occupancy, one figure per detector [counts]."""

    counts: tuple[int, ...]
    real_time_s: float
    device_alarm: bool
    age_s: float = 0.0


Level = Literal["ok", "high", "low"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaBackground:
    """The device's own running gamma background, one figure per detector [counts/s].

    ``averaging_s`` is None where the device does not say over how long it averages.
    """

    cps: tuple[float, ...]
    level: Level = "ok"
    averaging_s: float | None = None
    variance: tuple[float, ...] | None = None
    """The device's own variance of the counts of one of its intervals; None: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NeutronBackground:
    """The device's own running neutron background [counts/s].

    ``rounded_down`` figures are a lower bound within 1 cps and no basis for a decision.
    ``total_cps`` is exact to 0.001 where ``rounded_down`` is false.
    """

    total_cps: float
    rounded_down: bool
    per_detector_cps: tuple[float, ...] | None = None
    level: Level = "ok"
    variance: float | None = None
    """The device's own variance of the counts of one of its intervals; None: it does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowCounts:
    """Gamma counts in energy windows, all detectors summed, low energy first [counts]."""

    counts: tuple[int, ...]
    real_time_s: float
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowBackground:
    """The device's own background in energy windows, all detectors summed [counts/s]."""

    cps: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OccupancyEnd:
    """The device says that the vehicle has left.

    ``number`` is the device's own counter and no key: it returns to 1 each day and at power-up.
    """

    number: int
    neutron_background_cps: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleSpeed:
    """One beam timing; ``m_per_s`` is None where the device capped or spoiled it."""

    m_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalSettings:
    """What a portal says of its own settings; one line gives a part, the rest is None."""

    nsigma: float | None = None
    intervals: int | None = None
    hold_in_intervals: int | None = None
    gamma_high_cps: int | None = None
    gamma_low_cps: int | None = None
    algorithms: tuple[str, ...] | None = None
    detectors_on: tuple[bool, ...] | None = None
    background_s: int | None = None
    background_sigma: float | None = None
    firmware: str | None = None
    neutron_high_cps: int | None = None
    neutron_background_s: int | None = None
    neutron_max_intervals: int | None = None
    neutron_sequential_intervals: int | None = None
    line: str = ""
    """The line itself, for the record."""


DeviceAlarmKind = Literal["gamma", "neutron", "spectral", "metal", "weight", "tamper"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAlarm:
    """An alarm the device decided by itself and that no other reading carries.

    ``active`` False: it has fallen; a device that cannot say so leaves it to whoever hears it.
    """

    kind: DeviceAlarmKind
    code: str
    detail: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceState:
    """A condition of the device: tamper, mains, not ready, high background and so on.

    ``active`` None: the device cannot say any more. ``tamper`` conditions raise a tamper alarm,
    the others a fault.
    """

    condition: str
    active: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Undocumented:
    """A message whose meaning its maker does not publish, kept as it came."""

    tag: str
    text: str


PARITY_SEEN = "parity bit seen"
"""A note of a weight whose bytes carried a parity bit that the line is not set for."""

Mode = Literal["gross", "net", "tare", "unknown"]
Range = Literal["ok", "over", "under", "error", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """One indication of a scale.

    ``value`` is the exact decimal text of the indication and ``mass_kg`` its exact conversion;
    both are None where ``range`` is not "ok" (a blank display is no weight). ``stable`` is what
    the device says, None where the protocol cannot say it. ``verified`` is true where the frame
    had an integrity field and it was right.
    """

    value: str | None
    unit: str | None
    mass_kg: float | None
    mode: Mode
    stable: bool | None
    range: Range
    stable_by: Literal["device", "host"] | None = "device"
    tare: str | None = None
    alibi_id: str | None = None
    high_resolution: bool = False
    verified: bool = False
    notes: tuple[str, ...] = ()
    """What a technician should know of this frame, e.g. PARITY_SEEN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalAlarm:
    """The alarm relay of a metal detector.

    ``active`` is the level now, ``pulses`` how many alarms began since the last reading (from a
    latched counter, so none is lost between polls); None where the device gives no such figure.
    ``active`` None with ``pulses`` 0 says that alarms are counted and none began; with both None
    nobody can say.
    """

    active: bool | None
    pulses: int | None
    is_random: bool = False
    """Selected for secondary search by chance: no metal was found. Its level is another one."""
    zones: tuple[str, ...] | None = None
    """Where metal was found, by the names of the device's zones; None: it does not say."""
    amplitude: float | None = None
    """The largest signal of this alarm, in units of ``amplitude_scale``; None: it does not say."""
    amplitude_scale: str | None = None
    """What the amplitude is counted in, e.g. "percent" or "bars of 20"; None: no amplitude."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalProgram:
    """What a metal detector is set to, as it says it; None where it does not say."""

    program: str | None
    sensitivity: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MetalPassages:
    """Persons counted since the last reading, by direction; None where the device cannot say."""

    entered: int | None
    left: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VehiclePresence:
    """Something is in the detection zone, or nothing is; None: the sensor cannot say any more.

    ``direction`` is which way it came in, None where nobody can say. ``number`` is the device's
    own count of occupancies and no key.
    """

    occupied: bool | None
    direction: Literal["in", "out"] | None = None
    number: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EnergyCalibration:
    """What energy each channel of a spectrum begins at.

    Exactly one is given: ``coefficients_kev`` (the lower edge of channel i is their polynomial
    in i [keV]) or ``edges_kev`` (channels + 1 edges [keV], rising).
    """

    coefficients_kev: tuple[float, ...] = ()
    edges_kev: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaSpectrum:
    """The gamma counts of one detector over one interval, one figure per channel [counts].

    ``live_time_s`` None: the device did not give it. ``energy`` None: its channels are not
    calibrated by the device. ``occupied`` is the phase the device itself claims, None where it
    has no idea. ``age_s``: how long before it arrived the interval ended [s].
    """

    detector: str
    counts: tuple[int, ...]
    real_time_s: float
    live_time_s: float | None
    energy: EnergyCalibration | None
    occupied: bool | None = None
    age_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NuclideFound:
    """One nuclide as a device names it; ``confidence`` 0 to 1, None where it gives none."""

    name: str
    confidence: float | None = None
    category: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNuclides:
    """What a device's own identification found, empty where it looked and found nothing."""

    nuclides: tuple[NuclideFound, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DoseRate:
    """Ambient dose rate as the device gives it [µSv/h]."""

    usv_per_h: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Housekeeping:
    """A figure of the device about itself or its cabinet: temperature, humidity, voltage."""

    quantity: str
    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Contact:
    """A dry contact of the lane: a loop, a photocell, a door.

    ``active`` is its meaning, not its level (polarity is applied); None: nobody can say.
    ``pulses``: how often it became active since the last reading, from a latched counter; None
    where the device counts none.
    """

    name: str
    active: bool | None
    pulses: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Who or what passes: a plate, a tag, a code or a travel document, as it was read.

    ``confidence`` 0 to 1, None where the reader gives none. ``checked`` is whether check digits
    stood and were right, None where the format has none. ``declared_kg`` is the mass that the
    document declares, None where it declares none.
    """

    kind: Literal["plate", "tag", "code", "document"]
    value: str
    confidence: float | None = None
    checked: bool | None = None
    declared_kg: float | None = None


Reading = (
    BadFrame
    | GammaCounts
    | NeutronCounts
    | GammaBackground
    | NeutronBackground
    | WindowCounts
    | WindowBackground
    | OccupancyEnd
    | VehicleSpeed
    | PortalSettings
    | DeviceAlarm
    | DeviceState
    | Undocumented
    | Weight
    | MetalAlarm
    | MetalPassages
    | MetalProgram
    | VehiclePresence
    | GammaSpectrum
    | DeviceNuclides
    | DoseRate
    | Housekeeping
    | Contact
    | Identity
)
