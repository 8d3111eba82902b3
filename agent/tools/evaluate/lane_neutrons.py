"""The neutrons of a replayed lane, booked in the slices of its passages."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from drivers.readings import NeutronCounts

Floats = NDArray[np.float64]
Spans = Sequence[tuple[int, int]]
"""When each slice began and ended [monotonic µs], in order."""


class LaneNeutrons:
    """Keeps every interval of neutrons, and books each in the slice that holds its middle.

    An interval is not cut: a portal's second of neutrons stands in one slice of 0.2 s, with a live
    time of a second.
    """

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        """The first column of each device's detectors."""
        self._widths: dict[str, int] = {}
        self._heard: list[tuple[int, str, NeutronCounts]] = []

    def take(self, ended_us: int, device: str, reading: NeutronCounts) -> None:
        """Take one interval that ended then; a device that changes its detectors is left out."""
        if not reading.counts or reading.real_time_s <= 0:
            return
        if device not in self._widths:
            self._first[device] = sum(self._widths.values())
            self._widths[device] = len(reading.counts)
        if len(reading.counts) == self._widths[device]:
            middle_us = ended_us - round(0.5e6 * reading.real_time_s)
            self._heard.append((middle_us, device, reading))

    def booked(
        self, passages: Sequence[Spans], slice_s: float
    ) -> tuple[NDArray[np.int64] | None, Floats | None]:
        """Return counts and live time (pass, slice, detector) [s].

        Counts None: none were heard in any. Live time None: it is ``slice_s`` in every slice. A
        slice without an interval has none, which is not the same as no neutrons.
        """
        length = max((len(spans) for spans in passages), default=0)
        shape = (len(passages), length, sum(self._widths.values()))
        counts, live_s = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        heard = sorted(self._heard, key=lambda each: each[0])
        middles = [middle_us for middle_us, _, _ in heard]
        for number, spans in enumerate(passages):
            ends = [ended_us for _, ended_us in spans]
            first = bisect_left(middles, spans[0][0])
            for middle_us, device, reading in heard[first : bisect_left(middles, ends[-1])]:
                at = min(bisect_left(ends, middle_us + 1), len(ends) - 1)
                column = self._first[device]
                columns = slice(column, column + len(reading.counts))
                counts[number, at, columns] += reading.counts
                live_s[number, at, columns] += reading.real_time_s
        if not live_s.any():
            return None, None
        real = np.arange(length) < np.array([len(spans) for spans in passages])[:, None]
        return counts, None if np.allclose(live_s[real], slice_s) else live_s
