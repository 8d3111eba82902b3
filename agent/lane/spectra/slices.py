"""Spectra of several detectors gathered into slices of equal length, and their background.

Panels speak when they like. An interval belongs to the slice that holds its middle; a slice is
whole when every detector that is heard has covered it, and is closed without the others when time
is up. While the lane is empty each slice waits for ``guard_s`` before it becomes background,
because a vehicle that comes nearer shields and shines before it breaks the beam.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

COVERED = 0.75
"""A detector that was live for so much of a slice has covered it."""
GRACE_SLICES = 1.5
"""A slice is closed at the latest so long after its end [slices]."""
FORGET_SLICES = 5
"""A detector that gave nothing for so many slices is not waited for."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Slice:
    """What all detectors counted between two moments of the monotonic clock [µs].

    ``counts``: (detector, bin); ``live_s``: (detector,), 0 where a detector gave nothing.
    """

    began_us: int
    ended_us: int
    counts: Floats
    live_s: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class OpenSlice:
    """A slice in the making: by detector, its counts on the grid and its live time [s]."""

    counts: Mapping[str, Floats] = field(default_factory=dict)
    live_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Gathering:
    """The slices that are not closed yet, by their number since the monotonic clock's zero."""

    slice_us: int
    bins: int
    detectors: tuple[str, ...] = ()
    """In the order in which they were first heard."""
    open: Mapping[int, OpenSlice] = field(default_factory=dict)
    heard: Mapping[str, int] = field(default_factory=dict)
    """The last slice that each detector gave something to, in time or late."""
    closed_upto: int = -1
    late: int = 0
    """Intervals that came when their slice was closed already; they count for nothing."""

    def with_interval(
        self, detector: str, counts: Floats, live_s: float, middle_us: int
    ) -> Gathering:
        """Return the gathering with one interval of one detector in it.

        One that comes too late makes its detector heard all the same, so that the next slice
        waits for it.
        """
        number = middle_us // self.slice_us
        known = detector in self.detectors
        hearing = replace(
            self,
            heard={**self.heard, detector: max(number, self.heard.get(detector, number))},
            detectors=self.detectors if known else (*self.detectors, detector),
        )
        if number <= self.closed_upto:
            return replace(hearing, late=self.late + 1)
        before = self.open.get(number, OpenSlice())
        held = before.counts.get(detector)
        now = OpenSlice(
            counts={**before.counts, detector: counts if held is None else held + counts},
            live_s={**before.live_s, detector: before.live_s.get(detector, 0.0) + live_s},
        )
        return replace(hearing, open={**self.open, number: now})

    def without(self, detector: str) -> Gathering:
        """Return the gathering without what the detector gave to open slices."""
        rest = {
            number: OpenSlice(
                counts={d: c for d, c in held.counts.items() if d != detector},
                live_s={d: s for d, s in held.live_s.items() if d != detector},
            )
            for number, held in self.open.items()
        }
        return replace(self, open=rest)

    def whole(self) -> bool:
        """Return whether every detector that is heard has covered the oldest open slice."""
        if not self.open:
            return False
        number = min(self.open)
        live_s = self.open[number].live_s
        wanted = COVERED * self.slice_us / 1e6
        return all(
            live_s.get(detector, 0.0) >= wanted
            for detector, last in self.heard.items()
            if last > number - FORGET_SLICES
        )

    def due_us(self) -> int | None:
        """Return when the oldest open slice is closed at the latest; None: none is open."""
        if not self.open:
            return None
        return round((min(self.open) + 1 + GRACE_SLICES) * self.slice_us)

    def close(self) -> tuple[Gathering, Slice]:
        """Return the gathering without its oldest open slice, and that slice."""
        number = min(self.open)
        held = self.open[number]
        nothing = np.zeros(self.bins)
        counts = np.array([held.counts.get(d, nothing) for d in self.detectors])
        live_s = np.array([held.live_s.get(d, 0.0) for d in self.detectors])
        closed = Slice(
            began_us=number * self.slice_us,
            ended_us=(number + 1) * self.slice_us,
            counts=counts,
            live_s=live_s,
        )
        rest = {n: o for n, o in self.open.items() if n != number}
        return replace(self, open=rest, closed_upto=number), closed


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmptyLane:
    """The background spectrum of the empty lane, weighted down exponentially with its age.

    ``counts``: (detector, bin) weighted counts; ``live_s``: (detector,) weighted live time, so
    that their ratio is the rate and ``live_s`` the exposure that the rate's noise goes with.
    ``slow_rate`` (detector,) is the gross rate over a longer memory [counts/s].
    """

    memory_s: float
    counts: Floats | None = None
    live_s: Floats | None = None
    at_us: int | None = None
    slow_counts: Floats | None = None
    slow_live_s: Floats | None = None

    def with_slice(self, new: Slice, *, slow_memory_s: float) -> EmptyLane:
        """Return the background after one more slice of the empty lane."""
        detectors = len(new.live_s)
        since_s = 0.0 if self.at_us is None else max(0.0, (new.ended_us - self.at_us) / 1e6)
        fast = math.exp(-since_s / self.memory_s)
        slow = math.exp(-since_s / slow_memory_s)
        counts, live_s = _grown(self.counts, detectors), _grown(self.live_s, detectors)
        slow_counts = _grown(self.slow_counts, detectors)
        slow_live_s = _grown(self.slow_live_s, detectors)
        gross = new.counts.sum(axis=1)
        return EmptyLane(
            memory_s=self.memory_s,
            counts=new.counts if counts is None else counts * fast + new.counts,
            live_s=new.live_s if live_s is None else live_s * fast + new.live_s,
            at_us=new.ended_us,
            slow_counts=gross if slow_counts is None else slow_counts * slow + gross,
            slow_live_s=new.live_s if slow_live_s is None else slow_live_s * slow + new.live_s,
        )

    def for_detectors(self, count: int) -> tuple[Floats, Floats] | None:
        """Return (detector, bin) counts and (detector,) live time for so many detectors.

        None: nothing is known yet. A detector that was never heard has live time 0.
        """
        counts, live_s = _grown(self.counts, count), _grown(self.live_s, count)
        if counts is None or live_s is None:
            return None
        return counts, live_s

    def parts_by(self) -> float | None:
        """Return how far the gross rate is from the slow one [fraction]; None: not known."""
        if self.counts is None or self.live_s is None or self.slow_counts is None:
            return None
        assert self.slow_live_s is not None
        has = (self.live_s > 0) & (self.slow_live_s > 0)
        if not has.any():
            return None
        now = float((self.counts.sum(axis=1)[has] / self.live_s[has]).sum())
        slow = float((self.slow_counts[has] / self.slow_live_s[has]).sum())
        return abs(now / slow - 1.0) if slow > 0 else None


def _grown(values: Floats | None, detectors: int) -> Floats | None:
    """Return the values with rows of zero for detectors that were heard later."""
    if values is None or len(values) == detectors:
        return values
    more = np.zeros((detectors - len(values), *values.shape[1:]))
    return np.concatenate([values, more])
