"""The passages of a replayed lane, as a passages file holds them (``agent.tools.evaluate.passes``).

Spectra come from the lane's own slices, on its own energy grid. A lane that has energy windows
only gives those: a slice is then the portal's interval.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.analysis.energy.scale import sqrt_grid
from agent.lane.spectra.memory import Crystals, PassSpectra
from agent.lane.spectra.windows import BACKGROUND_S
from agent.lane.state import LaneState
from agent.records import LaneEvent, Passage, Record, Timed
from agent.tools.evaluate.lane_neutrons import LaneNeutrons, Spans
from agent.tools.evaluate.passes import Passes
from drivers.readings import NeutronCounts, PortalSettings, WindowBackground, WindowCounts

Floats = NDArray[np.float64]

WINDOWS_BEFORE_S, WINDOWS_AFTER_S = 4.0, 0.5
"""Windows sent late from before the vehicle broke the beam (14 intervals of an SC-880), and the
last interval's delay."""
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Held:
    """One passage: counts (slice, detector, bin), live time (slice, detector), background."""

    passage_id: str
    counts: Floats
    live_s: Floats
    background: Floats
    background_s: float
    spans: Spans


class LanePasses:
    """Watches a replay and keeps what each passage counted."""

    def __init__(self, slice_s: float) -> None:
        self.without_background = 0
        """Passages that are left out because the empty lane was never seen before them."""
        self._slice_s = slice_s
        self._last: PassSpectra | None = None
        self._held: list[_Held] = []
        self._said: dict[str, Passage] = {}
        self._device: str | None = None
        self._windows: list[tuple[int, WindowCounts]] = []
        self._backgrounds: list[tuple[int, WindowBackground]] = []
        self._averaging_s = BACKGROUND_S
        self._neutrons = LaneNeutrons()

    def __call__(self, event: LaneEvent, state: LaneState, records: Sequence[Record]) -> None:
        """Take what one step of the lane brought."""
        for record in records:
            if isinstance(record, Passage):
                self._said[record.passage_id] = record
        if isinstance(event, Timed):
            self._take_windows(event)
            if isinstance(event.reading, NeutronCounts):
                ended_us = event.stamp.back(event.reading.age_s).mono_us
                self._neutrons.take(ended_us, event.device, event.reading)
        spectra = state.of(Crystals).spectra
        finished = None if spectra is None else spectra.finished
        if finished is not None and finished is not self._last:
            self._last = finished
            self._keep(finished)

    def _take_windows(self, event: Timed) -> None:
        reading, at = event.reading, event.stamp
        if isinstance(reading, PortalSettings) and reading.background_s is not None:
            self._averaging_s = float(reading.background_s)
        if not isinstance(reading, WindowCounts | WindowBackground):
            return
        self._device = self._device or event.device
        if event.device != self._device:
            return  # two portals' windows are no common spectrum
        if isinstance(reading, WindowCounts):
            self._windows.append((at.back(reading.age_s).mono_us, reading))
        else:
            self._backgrounds.append((at.mono_us, reading))

    def _keep(self, finished: PassSpectra) -> None:
        known, exposure_s = finished.background, finished.background_s
        if known is None or exposure_s is None or finished.used is None or not finished.slices:
            self.without_background += 1
            return
        used = finished.used & (exposure_s > 0)
        if not used.any():
            self.without_background += 1
            return
        detectors = max(len(known), *(len(each.live_s) for each in finished.slices))
        # A file has one exposure for all detectors; the lane too takes their mean.
        common_s = float(exposure_s[used].mean())
        rates = np.where(used[:, None], known / np.maximum(exposure_s, 1e-9)[:, None], 0.0)
        counts, live_s = _within_slices(
            np.array([_rows(each.counts, detectors) for each in finished.slices]),
            np.array([_rows(each.live_s, detectors) for each in finished.slices]),
            self._slice_s,
        )
        self._held.append(
            _Held(
                passage_id=finished.passage_id,
                counts=counts,
                live_s=live_s,
                background=_rows(rates * common_s, detectors),
                background_s=common_s,
                spans=[(each.began_us, each.ended_us) for each in finished.slices],
            )
        )

    def passes(self) -> Passes | None:
        """Return the passages so far, in order; None: there is none with spectra or windows."""
        if self._held:
            return self._joined(self._held, self._slice_s, sqrt_grid())
        held = self._of_windows()
        return self._joined(held, self._windows[0][1].real_time_s, None) if held else None

    def _of_windows(self) -> list[_Held]:
        """Return the windows of each passage, with the portal's last background before it."""
        if not self._windows:
            return []
        known_us = [at_us for at_us, _ in self._backgrounds]
        windows, length = len(self._windows[0][1].counts), self._windows[0][1].real_time_s
        waiting = [
            each
            for each in sorted(self._windows, key=lambda each: each[0])
            if len(each[1].counts) == windows and abs(each[1].real_time_s / length - 1) < 0.01
        ]
        held = []
        said = [p for p in self._said.values() if p.rpm is not None]
        for passage in sorted(said, key=lambda p: p.started.mono_us):
            first_us = passage.started.back(WINDOWS_BEFORE_S).mono_us
            last_us = passage.ended.forward(WINDOWS_AFTER_S).mono_us
            inside = [each for each in waiting if first_us <= each[0] <= last_us]
            own = [each for _, each in inside]
            waiting = [each for each in waiting if each[0] > last_us]
            before = bisect_left(known_us, passage.started.mono_us)
            cps = self._backgrounds[before - 1][1].cps if before else ()
            if not own or len(cps) != windows:
                self.without_background += bool(own)
                continue
            counts = np.array([each.counts for each in own], dtype=float)
            held.append(
                _Held(
                    passage_id=passage.passage_id,
                    counts=counts[:, None],
                    live_s=np.full((len(own), 1), length),
                    background=np.array([cps]) * self._averaging_s,
                    background_s=self._averaging_s,
                    spans=[(at_us - round(length * 1e6), at_us) for at_us, _ in inside],
                )
            )
        return held

    def _joined(self, held: list[_Held], slice_s: float, grid_kev: Floats | None) -> Passes:
        """Return the passages side by side, shorter ones padded."""
        length = max(len(each.counts) for each in held)
        detectors = max(each.counts.shape[1] for each in held)
        bins = held[0].counts.shape[2]
        counts = np.zeros((len(held), length, detectors, bins), dtype=np.int32)
        live_s = np.zeros((len(held), length, detectors))
        background = np.zeros((len(held), detectors, bins), dtype=np.int64)
        for number, each in enumerate(held):
            slices, known = each.live_s.shape
            counts[number, :slices, :known] = whole(each.counts)
            live_s[number, :slices, :known] = each.live_s
            background[number, :known] = np.rint(each.background)
        said = [self._said.get(each.passage_id) for each in held]
        speeds = [None if p is None else p.speed_m_per_s for p in said]
        neutrons, neutron_live_s = self._neutrons.booked([each.spans for each in held], slice_s)
        return Passes(
            counts=counts,
            slices=np.array([len(each.counts) for each in held], dtype=np.intp),
            live_s=live_s,
            slice_s=slice_s,
            edges_kev=None if grid_kev is None else np.tile(grid_kev, (detectors, 1)),
            background_counts=background,
            background_s=np.array([each.background_s for each in held]),
            speed_m_per_s=np.array([np.nan if v is None else v for v in speeds]),
            neutron_counts=neutrons,
            neutron_live_s=neutron_live_s,
            is_commission=np.array([p is not None and not p.alarm_ids for p in said]),
            truth=None,
            strength_cps=None,
        )


def _rows(values: Floats, count: int) -> Floats:
    """Return the values with rows of zero for detectors that were heard later."""
    missing = count - len(values)
    return np.concatenate([values, np.zeros((missing, *values.shape[1:]))]) if missing else values


def _within_slices(counts: Floats, live_s: Floats, slice_s: float) -> tuple[Floats, Floats]:
    """Return counts (slice, detector, bin) and live time with none over the slice's length.

    An interval whose middle falls just past an edge makes one slice too full and its neighbour
    too empty: the surplus goes to the slice before, as far as there is room, and else on.
    """
    counts, live_s = counts.copy(), live_s.copy()
    last = len(live_s) - 1
    for number in range(last + 1):
        for other in (number - 1, number + 1):
            over_s = np.maximum(live_s[number] - slice_s, 0.0)
            if not over_s.any():
                break
            if 0 <= other <= last:
                room_s = np.maximum(slice_s - live_s[other], 0.0) if other < number else over_s
                moved_s = np.minimum(over_s, room_s)
                share = moved_s / np.maximum(live_s[number], 1e-12)
                moved = counts[number] * share[:, None]
                counts[number] -= moved
                counts[other] += moved
                live_s[number] -= moved_s
                live_s[other] += moved_s
    # What the last slice could not give away is left out, counts and time alike.
    kept = np.minimum(1.0, slice_s / np.maximum(live_s, 1e-12))
    return counts * kept[:, :, None], np.minimum(live_s, slice_s)


def whole(counts: Floats) -> NDArray[np.int64]:
    """Return whole counts (…, bin) for the fractions that carrying to a grid leaves.

    Each spectrum is cut at steps of 1 of its running sum, from a start that moves by the golden
    section from spectrum to spectrum: no bin is favoured, and a spectrum's sum is kept within 1.
    """
    rows = counts.reshape(-1, counts.shape[-1])
    start = (np.arange(1, len(rows) + 1) * GOLDEN % 1.0)[:, None]
    # A whole sum that came out a little below itself must not lose a count.
    below = np.floor(np.cumsum(rows, axis=1) + start + 1e-9)
    cut: NDArray[np.int64] = np.diff(below, axis=1, prepend=0.0).astype(np.int64)
    return cut.reshape(counts.shape)
