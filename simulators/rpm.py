"""A Rapiscan/TSA radiation portal (SC-770 or SC-880 controller): truth to lines.

Every line is ASCII, comma separated, ended CR LF, without time stamp or checksum::

    NB,nnnnnn x4                neutron background per detector, cps, rounded down
    GB,gggggg x4                gamma background per detector, cps (GH/GL/NH: a limit is broken)
    NS,nnnnnn x4                neutron counts in the last second (NA: alarm)
    GS,gggggg x4                gamma counts in the last 0.2 s (GA: alarm in this interval)
    SP,s.ssss,mm.mmm,kkk.kk,000000      s/ft, mph (at most 99.999), km/h
    GX,cccccc,bbbbbb,000000,000000      occupancy number, neutron background cps x 1000
    TT,000000 x4  TC,111111 x4          cabinet opened, closed
    SG1 SG2 SG3 SN1 SN2                 settings, after power-up or a change

Unoccupied: NB, 80 ms later GB, every 5.000 s. Occupied: NS each 1 s and GS/GA each 0.2 s on one
tick; first NS, the five GS from before the beam broke, and the first live GS within 150 ms. GX
follows 2 s after the beam clears, the next NB 4.87 s after GX. Source: RPM-Simulator (Rapiscan,
MIT licence) and public recordings: a 24 h SC-770 lane log, and S2-C0-NONE.csv and S2-C3-NORM2.csv
of an SC-880. The SC-880's own lines stand in `rpm_sc880`.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from simulators import physics, rpm_sc880
from simulators.scene import Scene

INTERVAL_S = 0.2
INTERVALS_A_SECOND = 5
BACKGROUND_PERIOD_S = 5.0
GB_AFTER_NB_S = 0.08
NB_AFTER_GX_S = 4.87
HOLD_IN_INTERVALS = 10
PRE_OCCUPANCY = 5
_GX_DELAY_S = 0.03
# 57 of 700 recorded occupancies began with two live intervals in the burst, the others with one.
_LATE_BURST = 57 / 700
_SPEED_FIRST = 500 / 700  # and 500 of 700 with the speed before the first NS
# A timing made by something other than a bumper: the 24 h log has them among real ones.
_FALSE_TIMING = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalOptions:
    """How the controller is set; the defaults are those of the recorded SC-770."""

    high_background_cps: int = 2000  # per detector
    low_background_cps: int = 68
    neutron_high_background_cps: int = 50  # all tubes together
    intervals: int = 5  # of 0.2 s, in the sliding sum
    gamma_background_s: int = 20
    neutron_background_s: int = 120
    relay_output: int = 1
    firmware: str = "1.10.1"
    first_occupancy: int = 1
    # How long the unit ran before the scene began: its background buffers hold that much.
    ran_before_s: float = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What the detectors counted in 0.2 s."""

    gamma: tuple[int, ...]
    neutron: tuple[int, ...]
    windows: tuple[int, ...]  # SC-880 energy windows, all detectors summed


def counts_line(tag: str, counts: tuple[int, ...]) -> bytes:
    """Return a line of six-digit zero-filled figures."""
    return line(tag, *(f"{min(count, 999_999):06d}" for count in counts))


def line(*fields: str) -> bytes:
    """Return one line as the portal sends it."""
    return ",".join(fields).encode("ascii") + b"\r\n"


def speed_line(speed_m_per_s: float) -> bytes:
    """Return the SP line of a speed; mph is worked out from the printed seconds per foot."""
    seconds_per_foot = max(1, round(0.3048 / speed_m_per_s * 1e4)) / 1e4
    mph = 0.681818 / seconds_per_foot
    if mph > 99.999:
        return line("SP", f"{seconds_per_foot:.4f}", "99.999", "160.93", "000000")
    km_h = 1.609344 * mph
    return line("SP", f"{seconds_per_foot:.4f}", f"{mph:06.3f}", f"{km_h:06.2f}", "000000")


class _Counters:
    """Draws what the detectors count, interval after interval, from the seed."""

    def __init__(self, scene: Scene, tubes: tuple[int, ...]) -> None:
        self._scene = scene
        self._tubes = tubes
        self._rng = np.random.default_rng([scene.exercise.seed, 1])

    def count(self, start_s: float) -> Interval:
        rates = self._scene.rates(start_s, start_s + INTERVAL_S)
        rng = self._rng
        background = rng.poisson(np.multiply(rates.gamma_background, INTERVAL_S))
        source = rng.poisson(np.multiply(rates.gamma_source, INTERVAL_S))
        neutron = [0, 0, 0, 0]
        for tube in self._tubes:
            neutron[tube] = int(rng.poisson(rates.neutron / len(self._tubes) * INTERVAL_S))
        windows = rpm_sc880.sort_into_windows(rng, int(background.sum()), int(source.sum()))
        return Interval(
            gamma=tuple((background + source).tolist()), neutron=tuple(neutron), windows=windows
        )


class Portal:
    """The controller; `advance` returns every line up to a scene time, in order.

    Parameters
    ----------
    scene : the truth, with the portal's controller, N and algorithm bits
    options : everything else that a technician can set
    """

    def __init__(self, scene: Scene, options: PortalOptions | None = None) -> None:
        self.scene = scene
        self.options = options or PortalOptions()
        setup = scene.exercise.portal
        self._is_sc880 = setup.controller == "sc-880"
        # The SC-880 of the recordings has no tubes at detectors 2 and 4.
        self._counters = _Counters(scene, (0, 2) if self._is_sc880 else (0, 1, 2, 3))
        self._rng = np.random.default_rng([scene.exercise.seed, 2])  # timing, not counts
        self._pending: list[tuple[float, int, bytes]] = []
        self._serial = 0
        self._tick = 0
        options = self.options
        self._gamma_buffer = _buffer(options.gamma_background_s)
        self._neutron_buffer = _buffer(options.neutron_background_s)
        self._recent: deque[Interval] = deque(maxlen=rpm_sc880.BURST)
        self._gamma_background: tuple[float, ...] = (0.0,) * 4
        self._neutron_background: tuple[float, ...] = (0.0,) * 4
        self._next_nb_s = BACKGROUND_PERIOD_S - GB_AFTER_NB_S
        self._occupancy = options.first_occupancy - 1
        self._occupied = False
        self._live = 0  # intervals since the beam broke
        self._clear = 0  # intervals since it cleared
        self._held_back: Interval | None = None
        self._run_before()
        self._say_fixed_lines()

    @property
    def wake_s(self) -> float:
        """When something is next to be done [scene s]."""
        tick_s = (self._tick + 1) * INTERVAL_S
        return min(self._pending[0][0], tick_s) if self._pending else tick_s

    def advance(self, until_s: float) -> list[tuple[float, bytes]]:
        """Return the lines up to ``until_s`` that were not returned before, with their times."""
        while (self._tick + 1) * INTERVAL_S <= until_s + 1e-9:
            self._tick += 1
            self._do_interval(round(self._tick * INTERVAL_S, 6))
        said = []
        while self._pending and self._pending[0][0] <= until_s + 1e-9:
            scene_s, _, text = heapq.heappop(self._pending)
            said.append((scene_s, text))
        return said

    def _say(self, scene_s: float, text: bytes) -> None:
        self._serial += 1  # keeps lines of one moment in order
        heapq.heappush(self._pending, (round(scene_s, 6), self._serial, text))

    def _run_before(self) -> None:
        """Fill the buffers with the background before the scene began."""
        for _ in range(round(self.options.ran_before_s / INTERVAL_S)):
            self._remember(self._counters.count(-1e5))
        if self._gamma_buffer:
            self._renew_background()

    def _say_fixed_lines(self) -> None:
        """Say what does not depend on counts: settings and tamper."""
        for text in self.settings_lines():
            self._say(self.scene.exercise.portal.settings_at_s, text)
        for opened_s, closed_s in self.scene.tampers:
            self._say(opened_s, counts_line("TT", (0,) * 4))
            self._say(closed_s, counts_line("TC", (111_111,) * 4))

    def settings_lines(self) -> list[bytes]:
        """Return the five settings lines, which always come together."""
        o, setup = self.options, self.scene.exercise.portal
        limits = f"{o.high_background_cps:06d},{o.low_background_cps:06d}"
        texts = (
            f"SG1,{limits},{o.intervals:02d},{HOLD_IN_INTERVALS:02d},{setup.nsigma:04.1f},P",
            f"SG2,1111,0.069,0.455,{o.relay_output:02d},{setup.algorithm},A",
            f"SG3,0.069,0.455,{o.gamma_background_s:03d},000,{o.firmware}",
            f"SN1,{o.neutron_high_background_cps:06d},03,0004,1200,01,{o.neutron_background_s:03d}",
            "SN2,0.504,5.040,0.504,5.040,PP",
        )
        return [line(text) for text in texts]

    def _do_interval(self, now_s: float) -> None:
        """Count one interval and say what follows from it; ``now_s`` is its end."""
        interval = self._counters.count(now_s - INTERVAL_S)
        is_broken = self.scene.beam_broken(now_s - INTERVAL_S, now_s)
        if not self._occupied:
            if is_broken:
                self._begin_occupancy(now_s, interval)
            else:
                self._remember(interval)
                self._recent.append(interval)
                self._say_background(now_s)
            return
        self._recent.append(interval)
        self._clear = 0 if is_broken else self._clear + 1
        if self._clear == 1:
            self._say_speed(now_s)
        self._live += 1
        self._say_live(now_s, interval)
        if self._clear >= HOLD_IN_INTERVALS:
            self._end_occupancy(now_s)

    # -- unoccupied --

    def _remember(self, interval: Interval) -> None:
        """Take an interval into the moving averages; never an occupied one."""
        self._gamma_buffer.append((*interval.gamma, *interval.windows))
        self._neutron_buffer.append(interval.neutron)

    def _renew_background(self) -> None:
        self._gamma_background = _mean_cps(self._gamma_buffer)[:4]
        self._neutron_background = _mean_cps(self._neutron_buffer)

    def _say_background(self, now_s: float) -> None:
        at_s = self._next_nb_s
        if at_s >= now_s + INTERVAL_S:
            return
        self._next_nb_s = at_s + BACKGROUND_PERIOD_S
        self._renew_background()
        options = self.options
        gamma, neutron = self._gamma_background, self._neutron_background
        is_high = any(cps > options.high_background_cps for cps in gamma)
        is_low = any(cps < options.low_background_cps for cps in gamma)
        gamma_tag = "GH" if is_high else "GL" if is_low else "GB"
        neutron_high = sum(neutron) > options.neutron_high_background_cps
        nb = counts_line("NH" if neutron_high else "NB", _floor(neutron))
        gb = counts_line(gamma_tag, _floor(gamma))
        if not self._is_sc880:
            self._say(at_s, nb)
            self._say(at_s + GB_AFTER_NB_S, gb)
            return
        windows = _mean_cps(self._gamma_buffer)[4:]
        for delay_s, text in rpm_sc880.background_lines(nb, gb, neutron, windows):
            self._say(at_s + delay_s, text)

    # -- occupied --

    def _begin_occupancy(self, now_s: float, interval: Interval) -> None:
        self._occupied = True
        self._occupancy += 1
        self._live = 1
        self._clear = 0
        speed_first = self._rng.random() < _SPEED_FIRST
        self._say_speed(now_s if speed_first else now_s + 0.155)
        if self._rng.random() < _LATE_BURST:
            self._held_back = interval  # the unit is busy: the burst comes one interval later
            return
        self._burst(now_s, [interval])

    def _burst(self, now_s: float, live: list[Interval]) -> None:
        """Say the intervals from before the beam broke, then the live ones."""
        before = list(self._recent)
        self._recent.extend(live)
        for text in self._neutron_lines():
            self._say(now_s + 0.005, text)
        shown = before[-PRE_OCCUPANCY:] + live
        for number in range(len(shown)):
            at_s = now_s + 0.01 + 0.02 * number
            self._say(at_s, self._gamma_line(shown[: number + 1]))
        if self._is_sc880:
            for text in rpm_sc880.burst_lines([i.windows for i in self._recent], self._windows):
                self._say(now_s + 0.15, text)

    def _say_live(self, now_s: float, interval: Interval) -> None:
        if self._held_back is not None:
            first, self._held_back = self._held_back, None
            self._recent.pop()  # the burst takes both in
            self._burst(now_s, [first, interval])
            self._live = 1  # NS keeps its second from the burst on
            return
        if (self._live - 1) % INTERVALS_A_SECOND == 0:
            for text in self._neutron_lines():
                self._say(now_s + 0.005, text)
        self._say(now_s + 0.01, self._gamma_line(list(self._recent)))
        if self._is_sc880:
            recent = [i.windows for i in self._recent]
            for number, text in enumerate(rpm_sc880.interval_lines(recent, self._windows)):
                self._say(now_s + 0.012 + 0.002 * number, text)

    @property
    def _windows(self) -> tuple[float, ...]:
        return _mean_cps(self._gamma_buffer)[4:]

    def _gamma_line(self, shown: list[Interval]) -> bytes:
        """Return GS, or GA where the sliding sum exceeds the background by N sigma."""
        window = shown[-self.options.intervals :]
        sums = [sum(i.gamma[d] for i in window) for d in range(4)]
        seconds = self.options.intervals * INTERVAL_S
        background = [cps * seconds for cps in self._rule_background()]
        setup = self.scene.exercise.portal
        is_alarm = (
            len(window) == self.options.intervals
            and physics.excess_sigma(sums, background, setup.algorithm) >= setup.nsigma
        )
        return counts_line("GA" if is_alarm else "GS", shown[-1].gamma)

    def _rule_background(self) -> tuple[float, ...]:
        """Return the background the alarm rule takes.

        In the SC-770's 24 h log all 34,720 flags follow from the printed GB; in the SC-880's
        recording two flags need the fraction that GB drops.
        """
        if self._is_sc880:
            return self._gamma_background
        return tuple(float(cps) for cps in _floor(self._gamma_background))

    def _neutron_lines(self) -> Iterator[bytes]:
        """Return NS or NA for the last second; the rule is ours, the vendor's is not public."""
        second = list(self._recent)[-INTERVALS_A_SECOND:]
        counts = tuple(sum(i.neutron[d] for i in second) for d in range(4))
        least = physics.neutron_alarm_count(sum(self._neutron_background))
        if self._is_sc880:
            yield rpm_sc880.neutron_statistic_line(sum(counts), sum(self._neutron_background))
        yield counts_line("NA" if sum(counts) >= least else "NS", counts)

    def _say_speed(self, at_s: float) -> None:
        """Say the speed of what breaks or clears the beam, sometimes with a false timing."""
        speed = self.scene.speed_m_per_s(at_s)
        if speed is None:
            return
        self._say(at_s, speed_line(speed * float(self._rng.normal(1.0, 0.02))))
        if self._rng.random() < _FALSE_TIMING:
            self._say(at_s, speed_line(0.3048 / float(self._rng.uniform(0.0001, 0.0068))))

    def _end_occupancy(self, now_s: float) -> None:
        self._occupied = False
        at_s = now_s + _GX_DELAY_S
        neutron = round(1000 * sum(self._neutron_background))
        self._say(at_s, counts_line("GX", (self._occupancy, neutron, 0, 0)))
        self._next_nb_s = at_s + NB_AFTER_GX_S


def _buffer(seconds: int) -> deque[tuple[int, ...]]:
    return deque(maxlen=round(seconds / INTERVAL_S))


def _mean_cps(buffer: deque[tuple[int, ...]]) -> tuple[float, ...]:
    """Return the mean rate of each column."""
    seconds = len(buffer) * INTERVAL_S
    return tuple(sum(column) / seconds for column in zip(*buffer, strict=True))


def _floor(rates: tuple[float, ...]) -> tuple[int, ...]:
    return tuple(math.floor(cps) for cps in rates)
