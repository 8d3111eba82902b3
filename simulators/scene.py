"""The truth of a scene: who passes when, with what aboard, and what the lane must notice.

No wire, no noise: rates and loads are exact functions of scene time. The instruments draw their
counts from these, and a test asks `Scene.truth` whether the right vehicle was alarmed.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from simulators import physics, spectra
from simulators.exercise import (
    Exercise,
    Four,
    GammaSource,
    NormCargo,
    SceneError,
    Traffic,
    Vehicle,
    read_exercise,
    read_exercise_file,
)

AlarmKind = Literal["gamma", "neutron", "weight", "metal"]

# The portal keeps an occupancy open this long after the beam clears (SG1: 10 intervals of 200 ms).
HOLD_IN_S = 2.0
# The beam must be clear a little longer than the hold-in, or two vehicles are one occupancy.
_LEAST_CLEAR_S = HOLD_IN_S + 0.4
RAMP_S = 2.0  # driving onto and off the scale
DWELL_S = 6.0  # standing on it
TRANSIT_S = 0.8  # through the metal detector
# Beyond this a passing source adds less than a thousandth of its peak.
_REACH_M = 80.0
# Surely alarmed, or surely not: this many standard deviations of counting noise past the limit.
_SURE_SIGMA = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """One walk through the metal detector, from ``at_s`` on."""

    at_s: float
    direction: Literal["in", "out"]
    has_metal: bool
    is_random: bool
    transit_s: float = TRANSIT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Mean rates over an interval, per detector [cps]: background as shielded, and sources."""

    gamma_background: Four
    gamma_source: Four
    neutron: float  # all tubes together


@dataclass(frozen=True, slots=True, kw_only=True)
class Emitter:
    """One radiation that reaches the spectroscopic panel, by name, and its mean rate [cps].

    ``matter_g_per_cm2`` lies between it and the detector, as iron.
    """

    name: str
    matter_g_per_cm2: float
    cps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What reaches the spectroscopic panel, means over an interval.

    ``kept`` is what a vehicle leaves of the open background; ``gain`` what the crystal makes of a
    pulse height.
    """

    background_cps: float
    kept: float
    radon_factor: float
    sources: tuple[Emitter, ...]
    neutron_cps: float
    gain: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PassageTruth:
    """What one vehicle was, and what the lane must and may say of it.

    ``occupancies`` are (beam broken, hold-in elapsed) [scene s], two for a split vehicle.
    ``expected`` must be alarmed; ``possible`` may be, because it lies near a limit or the portal
    was unplugged. ``mass_kg`` and ``metal`` are None where nobody was weighed or walked through.
    """

    vehicle_id: str
    label: str
    occupancies: tuple[tuple[float, float], ...]
    finished_s: float  # off the scale and through the metal detector too
    expected: frozenset[AlarmKind]
    possible: frozenset[AlarmKind]
    mass_kg: float | None
    metal: bool | None
    portal_unplugged: bool
    nuclides: tuple[str, ...] = ()
    categories: tuple[spectra.Category, ...] = ()  # of the nuclides, the gravest first

    @property
    def is_complete(self) -> bool:
        """False where the portal was unplugged while the vehicle was in it."""
        return not self.portal_unplugged


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """A stretch of a vehicle that breaks the beam without a gap."""

    front_m: float  # behind the vehicle's own front
    rear_m: float
    broken_s: float
    clear_s: float


class Transit:
    """One vehicle on its way: where its parts are at any time."""

    def __init__(self, vehicle: Vehicle) -> None:
        self.vehicle = vehicle
        cuts = [0.0, vehicle.length_m]
        if vehicle.split_at_m is not None:
            cuts.insert(1, vehicle.split_at_m)
        late_s, parts = 0.0, []
        for front, rear in pairwise(cuts):
            start = vehicle.at_s + late_s
            parts.append(
                _Part(
                    front_m=front,
                    rear_m=rear,
                    broken_s=start + front / vehicle.speed_m_per_s,
                    clear_s=start + rear / vehicle.speed_m_per_s,
                )
            )
            late_s += HOLD_IN_S + (vehicle.split_gap_s or 0.0)
        self.parts = tuple(parts)

    def past_beam_m(self, offset_m: float, scene_s: float) -> float:
        """Return how far the point ``offset_m`` behind the front is past the beam [m]."""
        part = next((p for p in self.parts if offset_m <= p.rear_m), self.parts[-1])
        behind = offset_m - part.front_m
        return self.vehicle.speed_m_per_s * (scene_s - part.broken_s) - behind

    @property
    def clear_s(self) -> float:
        """When the last part leaves the beam."""
        return self.parts[-1].clear_s

    @cached_property
    def on_scale_s(self) -> tuple[float, float] | None:
        """First axle on, last axle off; None where the vehicle is never weighed."""
        vehicle = self.vehicle
        if vehicle.mass_kg is None:
            return None
        stay = 2 * RAMP_S + DWELL_S
        if vehicle.weigh == "before":
            start = vehicle.at_s - vehicle.weigh_delay_s - stay
        else:
            start = self.clear_s + vehicle.weigh_delay_s
        return start, start + stay

    @property
    def busy_s(self) -> tuple[float, float]:
        """From the first thing this vehicle does in the lane to the last."""
        times = [self.vehicle.at_s, self.clear_s + HOLD_IN_S, *(self.on_scale_s or ())]
        if self.vehicle.person is not None:
            walk = self.vehicle.at_s + self.vehicle.person.walks_at_s
            times += [walk, walk + TRANSIT_S]
        return min(times), max(times)


class Scene:
    """A playable scene; every query is a pure function of scene time.

    Raises
    ------
    SceneError
        Where two vehicles are in one another's way.
    """

    def __init__(self, exercise: Exercise, *, name: str) -> None:
        self.exercise = exercise
        self.name = name
        vehicles = sorted((*exercise.vehicle, *_made_up(exercise)), key=lambda v: v.at_s)
        self.transits = tuple(Transit(vehicle) for vehicle in vehicles)
        self._arrivals = [vehicle.at_s for vehicle in vehicles]
        self._near_s = max(
            (
                t.clear_s - t.vehicle.at_s + _REACH_M / t.vehicle.speed_m_per_s
                for t in self.transits
            ),
            default=0.0,
        )
        self._check_traffic()

    @classmethod
    def load(cls, path: Path) -> Scene:
        """Load a scene file; raises SceneError naming file, table and key."""
        return cls(read_exercise_file(path), name=path.name)

    @classmethod
    def from_text(cls, text: str, *, name: str = "scene") -> Scene:
        """Load the text of a scene file; raises SceneError."""
        return cls(read_exercise(text, name=name), name=name)

    @classmethod
    def named(cls, name: str) -> Scene:
        """Load a scene that comes with the simulators, such as ``demo``; raises SceneError."""
        known = cls.names()
        if name not in known:
            raise SceneError(f'no scene is called "{name}"; choose one of {", ".join(known)}')
        file = resources.files("simulators") / "scenes" / f"{name}.toml"
        return cls(read_exercise(file.read_text(encoding="utf-8"), name=file.name), name=file.name)

    @staticmethod
    def names() -> list[str]:
        """Return the scenes that come with the simulators."""
        folder = resources.files("simulators") / "scenes"
        files = (entry.name for entry in folder.iterdir())
        return sorted(name.removesuffix(".toml") for name in files if name.endswith(".toml"))

    @property
    def duration_s(self) -> float:
        """When the scene is over: as the trainer said, or 15 s after all have left."""
        if self.exercise.duration_s is not None:
            return self.exercise.duration_s
        return 15.0 + max((transit.busy_s[1] for transit in self.transits), default=0.0)

    @cached_property
    def unplugs(self) -> tuple[tuple[float, float], ...]:
        """From when to when the portal's cable is out [scene s]."""
        return tuple(
            (v.at_s + v.unplug_portal_at_s, v.at_s + v.unplug_portal_at_s + v.replug_after_s)
            for v in (transit.vehicle for transit in self.transits)
            if v.unplug_portal_at_s is not None and v.replug_after_s is not None
        )

    @cached_property
    def tampers(self) -> tuple[tuple[float, float], ...]:
        """From when to when the portal's cabinet is open [scene s]."""
        return tuple((e.at_s, e.at_s + e.for_s) for e in self.exercise.event if e.kind == "tamper")

    def beam_broken(self, start_s: float, end_s: float) -> bool:
        """Tell whether anything stands in the beam at any time in the interval."""
        return any(
            part.broken_s < end_s and part.clear_s > start_s
            for transit in self._near(start_s, end_s)
            for part in transit.parts
        )

    def speed_m_per_s(self, scene_s: float) -> float | None:
        """Return the speed of what is at the beam, within half a second; None: nothing is."""
        return next(
            (
                transit.vehicle.speed_m_per_s
                for transit in self._near(scene_s, scene_s)
                for part in transit.parts
                if part.broken_s - 0.5 <= scene_s <= part.clear_s + 0.5
            ),
            None,
        )

    def open_background(self, scene_s: float) -> tuple[Four, float]:
        """Return what an empty lane gives: gamma per detector, and neutron of all tubes [cps]."""
        setup = self.exercise.background
        gamma, neutron = np.array(setup.gamma_cps), setup.neutron_cps
        for event in self.exercise.event:
            if event.at_s <= scene_s < event.at_s + event.for_s:
                if event.kind == "gamma_background":
                    gamma *= 1.0 + (event.factor - 1.0) * np.array(event.detectors)
                elif event.kind == "neutron_background":
                    neutron *= event.factor
        gamma *= 1.0 + spectra.URANIUM_SHARE * (self.radon_factor(scene_s) - 1.0)
        return _four(gamma), neutron

    def radon_factor(self, scene_s: float) -> float:
        """Return what rain has made of the uranium series in the background; 1: dry."""
        factor = 1.0
        for event in self.exercise.event:
            if event.kind == "radon" and event.at_s <= scene_s < event.at_s + event.for_s:
                part = (scene_s - event.at_s) / event.for_s
                height = part / 0.25 if part < 0.25 else (1.0 - part) / 0.75
                factor *= 1.0 + (event.factor - 1.0) * height
        return factor

    def gain(self, scene_s: float) -> float:
        """Return the spectrometer's pulse height over its nominal one."""
        setup = self.exercise.spectrometer
        swing = setup.swing_c * math.sin(2.0 * math.pi * scene_s / setup.swing_s)
        return 1.0 + setup.gain_per_c * (setup.temperature_c + swing - 20.0)

    def mix(self, start_s: float, end_s: float) -> Mix:
        """Return what reaches the spectroscopic panel over an interval of scene time."""
        middle = (start_s + end_s) / 2.0
        setup = self.exercise.spectrometer
        portal_cps, neutron = self.open_background(middle)
        scale = setup.background_cps / sum(self.exercise.background.gamma_cps)
        kept = 1.0
        sources: list[Emitter] = []
        for transit in self._near(start_s, end_s):
            kept *= 1.0 - transit.vehicle.shielding * _shadow(transit, middle)
            sources += _emitters(transit, start_s, end_s, scale)
            neutron += _neutron(transit, start_s, end_s)
        return Mix(
            background_cps=sum(portal_cps) * scale,
            kept=kept,
            radon_factor=self.radon_factor(middle),
            sources=tuple(sources),
            neutron_cps=neutron * setup.neutron_share,
            gain=self.gain(middle),
        )

    def rates(self, start_s: float, end_s: float) -> Rates:
        """Return the mean rates over an interval of scene time."""
        middle = (start_s + end_s) / 2.0
        background, neutron = self.open_background(middle)
        kept = 1.0
        source = np.zeros(4)
        for transit in self._near(start_s, end_s):
            kept *= 1.0 - transit.vehicle.shielding * _shadow(transit, middle)
            source += _gamma(transit, start_s, end_s)
            neutron += _neutron(transit, start_s, end_s)
        return Rates(
            gamma_background=_four(np.array(background) * kept),
            gamma_source=_four(source),
            neutron=neutron,
        )

    def load_kg(self, scene_s: float) -> float:
        """Return the true load on the platform: ramp on, stand, ramp off."""
        load = 0.0
        for transit in self.transits:
            stay = transit.on_scale_s
            if stay is None or not stay[0] < scene_s < stay[1]:
                continue
            edge = min(scene_s - stay[0], stay[1] - scene_s) / RAMP_S
            load += (transit.vehicle.mass_kg or 0.0) * min(1.0, edge)
        return load

    def walks(self) -> list[Walk]:
        """Return every walk through the metal detector, in order."""
        found = [
            Walk(
                at_s=transit.vehicle.at_s + person.walks_at_s,
                direction=person.direction,
                has_metal=person.metal,
                is_random=person.selected_at_random,
            )
            for transit in self.transits
            if (person := transit.vehicle.person) is not None
        ]
        return sorted(found, key=lambda walk: walk.at_s)

    @cached_property
    def truth(self) -> tuple[PassageTruth, ...]:
        """What every vehicle was, in order of arrival."""
        return tuple(self._truth_of(transit) for transit in self.transits)

    def finished(self, scene_s: float) -> tuple[PassageTruth, ...]:
        """Return the truth of the vehicles that have left everything by ``scene_s``."""
        return tuple(truth for truth in self.truth if truth.finished_s <= scene_s)

    def _truth_of(self, transit: Transit) -> PassageTruth:
        vehicle = transit.vehicle
        expected: set[AlarmKind] = set()
        possible: set[AlarmKind] = set()
        for kind, (excess, limit, noise) in self._portal_excess(transit).items():
            if excess - _SURE_SIGMA * noise >= limit:
                expected.add(kind)
            elif excess + _SURE_SIGMA * noise >= limit and _carries(vehicle, kind):
                possible.add(kind)
        occupancies = tuple((p.broken_s, p.clear_s + HOLD_IN_S) for p in transit.parts)
        unplugged = any(
            start < off and on < end for start, end in occupancies for on, off in self.unplugs
        )
        doubtful = expected if unplugged else self._background_unsettled(transit)
        possible |= doubtful
        expected -= possible
        if vehicle.mass_kg is not None and vehicle.mass_kg > self.exercise.lane.max_gross_kg:
            expected.add("weight")
        if vehicle.person is not None and vehicle.person.metal:
            expected.add("metal")
        return PassageTruth(
            vehicle_id=vehicle.id,
            label=vehicle.label,
            occupancies=occupancies,
            finished_s=transit.busy_s[1],
            expected=frozenset(expected),
            possible=frozenset(possible),
            mass_kg=vehicle.mass_kg,
            metal=None if vehicle.person is None else vehicle.person.metal,
            portal_unplugged=unplugged,
            nuclides=vehicle_nuclides(vehicle),
            categories=_categories(vehicle),
        )

    def _portal_excess(self, transit: Transit) -> dict[AlarmKind, tuple[float, float, float]]:
        """Return, noise-free, the highest 1 s of each kind, its limit and its noise."""
        portal = self.exercise.portal
        background, neutron_background = self.open_background(transit.vehicle.at_s - 1.0)
        gamma = neutron = 0.0
        noise = 1.0
        start, end = transit.vehicle.at_s - 1.0, transit.clear_s + HOLD_IN_S
        for second in np.arange(start, end, 0.2):
            rates = self.rates(float(second), float(second) + 1.0)
            sums = np.add(rates.gamma_background, rates.gamma_source)
            sigma = physics.excess_sigma(sums.tolist(), background, portal.algorithm)
            if sigma > gamma:
                gamma = sigma
                noise = float(np.sqrt(max(1.0, np.sum(sums) / max(1.0, sum(background)))))
            neutron = max(neutron, rates.neutron)
        least = physics.neutron_alarm_count(neutron_background)
        return {
            "gamma": (gamma, portal.nsigma, noise),
            "neutron": (neutron, float(least), float(np.sqrt(neutron))),
        }

    def _background_unsettled(self, transit: Transit) -> set[AlarmKind]:
        """Return the kinds whose background changes too near the vehicle to promise anything."""
        unsettled: set[AlarmKind] = set()
        for event in self.exercise.event:
            for edge in (event.at_s, event.at_s + event.for_s):
                if edge > transit.clear_s + HOLD_IN_S:
                    continue
                if (
                    event.kind in ("gamma_background", "radon")
                    and edge > transit.vehicle.at_s - 25.0
                ):
                    unsettled.add("gamma")
                if event.kind == "neutron_background" and edge > transit.vehicle.at_s - 125.0:
                    unsettled.add("neutron")
        return unsettled

    def _near(self, start_s: float, end_s: float) -> Sequence[Transit]:
        """Return the transits close enough to matter in the interval."""
        reach = self._near_s
        first = bisect.bisect_left(self._arrivals, start_s - reach)
        return self.transits[first : bisect.bisect_right(self._arrivals, end_s + reach)]

    def _check_traffic(self) -> None:
        """Refuse vehicles in one another's way, so that every part belongs to one vehicle."""
        last_off: tuple[float, str] | None = None
        for transit in sorted(self.transits, key=lambda t: (t.on_scale_s or (0.0, 0.0))[0]):
            stay = transit.on_scale_s
            if stay is None:
                continue
            where = f'{self.name}: [[vehicle]] "{transit.vehicle.id}"'
            if stay[0] < 0:
                raise SceneError(f"{where}, key at_s: it must be weighed before the scene begins")
            if last_off is not None and stay[0] < last_off[0]:
                raise SceneError(
                    f'{where}: drives onto the scale before "{last_off[1]}" leaves it at '
                    f"{last_off[0]:.1f} s; let it arrive later"
                )
            last_off = (stay[1], transit.vehicle.id)
        for ahead, behind in pairwise(self.transits):
            least = ahead.clear_s + _LEAST_CLEAR_S
            if behind.vehicle.at_s < least:
                raise SceneError(
                    f'{self.name}: [[vehicle]] "{behind.vehicle.id}", key at_s: the portal still '
                    f'holds "{ahead.vehicle.id}"; expected at least {least:.1f} s'
                )


def _carries(vehicle: Vehicle, kind: str) -> bool:
    if kind == "neutron":
        return vehicle.neutron is not None
    return any(part is not None for part in (vehicle.gamma, vehicle.hidden, vehicle.norm))


# Natural cargo screens itself this much on average, as iron; a usual depth, not a measured one.
_CARGO_G_PER_CM2 = 15.0
_GRAVEST_FIRST: tuple[spectra.Category, ...] = ("SNM", "industrial", "medical", "NORM")


def vehicle_nuclides(vehicle: Vehicle) -> tuple[str, ...]:
    """Return what is aboard by name, point sources first."""
    names = [source.nuclide for source in (vehicle.gamma, vehicle.hidden) if source is not None]
    if vehicle.norm is not None:
        names += [name for name, share in _series(vehicle.norm) if share > 0]
    return tuple(dict.fromkeys(names))


def _categories(vehicle: Vehicle) -> tuple[spectra.Category, ...]:
    found = {spectra.NUCLIDES[name].category for name in vehicle_nuclides(vehicle)}
    return tuple(category for category in _GRAVEST_FIRST if category in found)


def _series(norm: NormCargo) -> tuple[tuple[str, float], ...]:
    total = norm.potassium + norm.uranium + norm.thorium or 1.0
    return (
        ("K-40", norm.potassium / total),
        ("Ra-226", norm.uranium / total),
        ("Th-232", norm.thorium / total),
    )


def _emitters(transit: Transit, start_s: float, end_s: float, scale: float) -> Iterator[Emitter]:
    """Yield what the vehicle adds to the spectroscopic panel."""
    vehicle = transit.vehicle
    for source in (vehicle.gamma, vehicle.hidden):
        if source is not None:
            yield Emitter(
                name=source.nuclide,
                matter_g_per_cm2=source.shield_g_per_cm2 + vehicle.container_g_per_cm2,
                cps=scale * float(_point(transit, source, start_s, end_s)),
            )
    if vehicle.norm is not None:
        cps = scale * vehicle.norm.peak_cps * _spread(transit, start_s, end_s)
        for name, share in _series(vehicle.norm):
            if share > 0:
                matter = _CARGO_G_PER_CM2 + vehicle.container_g_per_cm2
                yield Emitter(name=name, matter_g_per_cm2=matter, cps=cps * share)


def _four(values: np.ndarray) -> Four:
    first, second, third, fourth = (float(value) for value in values)
    return first, second, third, fourth


def _shadow(transit: Transit, scene_s: float) -> float:
    speed = transit.vehicle.speed_m_per_s
    return max(
        physics.shadow(speed * (scene_s - part.broken_s), speed * (scene_s - part.clear_s))
        for part in transit.parts
    )


def _passed(transit: Transit, offset_m: float, start_s: float, end_s: float) -> float:
    """Return the point profile of a spot on the vehicle over the interval."""
    return physics.point_profile(
        transit.past_beam_m(offset_m, start_s), transit.past_beam_m(offset_m, end_s)
    )


def _shares(detectors: Four) -> np.ndarray:
    """Return what part of a source each detector sees; the parts sum to 1."""
    total = sum(detectors)
    return np.array(detectors) / total if total > 0 else np.zeros(4)


def _point(transit: Transit, source: GammaSource, start_s: float, end_s: float) -> float:
    return source.peak_cps * _passed(transit, source.offset_m, start_s, end_s)


def _spread(transit: Transit, start_s: float, end_s: float) -> float:
    """Return the profile of what is spread over the whole vehicle."""
    profile = 0.0
    for part in transit.parts:
        length = part.rear_m - part.front_m
        middle = part.front_m + length / 2.0
        ends = transit.past_beam_m(middle, start_s), transit.past_beam_m(middle, end_s)
        profile += physics.line_profile(*ends, length) * length / transit.vehicle.length_m
    return profile


def _gamma(transit: Transit, start_s: float, end_s: float) -> np.ndarray:
    """Return the net gamma rate per detector that the vehicle adds [cps]."""
    vehicle = transit.vehicle
    added = np.zeros(4)
    for source in (vehicle.gamma, vehicle.hidden):
        if source is not None:
            added += _point(transit, source, start_s, end_s) * _shares(source.detectors)
    if vehicle.norm is not None:
        spread = _spread(transit, start_s, end_s)
        added += vehicle.norm.peak_cps * spread * _shares(vehicle.norm.detectors)
    return added


def _neutron(transit: Transit, start_s: float, end_s: float) -> float:
    source = transit.vehicle.neutron
    if source is None:
        return 0.0
    return source.peak_cps * _passed(transit, source.offset_m, start_s, end_s)


def _made_up(exercise: Exercise) -> Iterator[Vehicle]:
    """Make up the clean vehicles of ``[traffic]`` from the seed."""
    traffic: Traffic | None = exercise.traffic
    if traffic is None:
        return
    rng = np.random.default_rng([exercise.seed, 3])
    at_s = traffic.first_at_s
    for number in range(1, traffic.vehicles + 1):
        vehicle = Vehicle(
            id=f"traffic-{number}",
            label="clean vehicle",
            at_s=round(at_s, 1),
            speed_m_per_s=round(float(rng.uniform(1.5, 3.5)), 2),
            length_m=round(float(rng.uniform(5.0, 16.0)), 1),
            shielding=round(float(rng.uniform(0.2, 0.4)), 2),
            mass_kg=round(float(rng.uniform(3_000, 38_000))),
            person=None,
        )
        yield vehicle
        left = Transit(vehicle).busy_s[1]
        at_s = left + 3.0 + float(rng.exponential(1.0)) * traffic.mean_gap_s
