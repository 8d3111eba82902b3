"""A lane on a bench: readings go in at chosen moments, records come out."""

from __future__ import annotations

from agent.lane.inline import step_answered as step
from agent.lane.options.instruments import MetalOptions
from agent.lane.options.lane import LaneOptions
from agent.lane.options.portals import RpmOptions
from agent.lane.options.rules import LaneRules
from agent.lane.options.scales import ScaleOptions
from agent.lane.state import LaneState
from agent.lane.step import snapshot
from agent.records import (
    Alarm,
    Audit,
    LaneSnapshot,
    LinkChange,
    Passage,
    Record,
    Stamp,
    Stop,
    Tick,
    Timed,
)
from drivers.readings import (
    GammaBackground,
    GammaCounts,
    MetalAlarm,
    MetalPassages,
    NeutronBackground,
    NeutronCounts,
    OccupancyEnd,
    Reading,
    Weight,
)

CLEAN = (80, 80, 80, 80)
LOUD = (400, 400, 400, 400)


def stamp(at_s: float) -> Stamp:
    return Stamp(utc_us=round((1e9 + at_s) * 1e6), mono_us=round(at_s * 1e6), boot="bench")


def weight(kg: float, *, stable: bool | None = True, **changes) -> Weight:
    given = {
        "value": f"{kg:g}",
        "unit": "kg",
        "mass_kg": kg,
        "mode": "gross",
        "stable": stable,
        "range": "ok",
        "verified": True,
    }
    return Weight(**{**given, **changes})


class Bench:
    """One lane with a portal, a scale and a metal detector."""

    def __init__(
        self,
        *,
        scale=None,
        metal=None,
        rpm=None,
        portals=None,
        traits=None,
        pinned=(),
        is_test=False,
        **lane,
    ):
        self.rules = LaneRules(
            lane_id="in-1",
            run="r",
            lane=LaneOptions(**lane),
            portals={"rpm": rpm or RpmOptions()} if portals is None else portals,
            scales={"scale": scale or ScaleOptions(max_gap_s=30.0)},
            metals={"metal": metal or MetalOptions(max_gap_s=10.0)},
            traits=traits or {},
            pinned=frozenset(pinned),
            is_test=is_test,
        )
        self.state = LaneState()
        self.records: list[Record] = []

    def _do(self, event) -> list[Record]:
        self.state, said = step(self.state, event, self.rules)
        self.records += said
        return list(said)

    def read(self, at_s: float, reading: Reading, device: str = "rpm") -> list[Record]:
        return self._do(Timed(stamp=stamp(at_s), device=device, reading=reading))

    def tick(self, at_s: float) -> list[Record]:
        return self._do(Tick(stamp=stamp(at_s)))

    def stop(self, at_s: float) -> list[Record]:
        return self._do(Stop(stamp=stamp(at_s)))

    def link(self, at_s: float, device: str, *, up: bool) -> list[Record]:
        detail = "" if up else f"{device}: no bytes"
        return self._do(LinkChange(stamp=stamp(at_s), device=device, is_up=up, detail=detail))

    def background(self, at_s: float, cps: float = 400.0, n: int = 1, **changes) -> None:
        for i in range(n):
            self.read(at_s + 5 * i, GammaBackground(cps=(cps,) * 4, **changes))

    def neutron_background(self, at_s: float, cps: float) -> None:
        self.read(at_s, NeutronBackground(total_cps=cps, rounded_down=False))

    def gamma(self, at_s: float, counts=CLEAN, *, alarm=False, age_s=0.0) -> list[Record]:
        reading = GammaCounts(counts=counts, real_time_s=0.2, device_alarm=alarm, age_s=age_s)
        return self.read(at_s, reading)

    def neutron(self, at_s: float, n: int = 2, *, alarm=False) -> list[Record]:
        reading = NeutronCounts(counts=(n, 0, 0, 0), real_time_s=1.0, device_alarm=alarm)
        return self.read(at_s, reading)

    def leave(self, at_s: float, number: int = 1, neutron_cps=2.5) -> list[Record]:
        return self.read(at_s, OccupancyEnd(number=number, neutron_background_cps=neutron_cps))

    def vehicle(self, at_s: float, long_s: float = 4.0, counts=CLEAN, *, number=1, alarm=False):
        """Let a vehicle through from ``at_s`` to ``at_s + long_s``."""
        n = round(long_s / 0.2)
        for i in range(n):
            self.gamma(at_s + 0.2 * i, counts, alarm=alarm and i >= 4)
        self.leave(at_s + long_s, number)

    def weigh(self, at_s: float, kg: float, long_s: float = 4.0) -> None:
        """Roll on at ``at_s``, rest, and roll off after ``long_s``."""
        self.read(at_s - 0.5, weight(kg / 2, stable=False), "scale")
        for i in range(round(long_s / 0.5)):
            self.read(at_s + 0.5 * i, weight(kg), "scale")
        self.read(at_s + long_s, weight(kg / 2, stable=False), "scale")
        self.read(at_s + long_s + 0.5, weight(0), "scale")

    def metal_ready(self, at_s: float) -> None:
        self.read(at_s, MetalAlarm(active=False, pulses=0), "metal")

    def walk(self, at_s: float, *, alarm=False, is_random=False) -> None:
        self.read(at_s, MetalPassages(entered=1, left=0), "metal")
        if alarm:
            reading = MetalAlarm(active=True, pulses=1, is_random=is_random)
            self.read(at_s + 0.3, reading, "metal")
            self.read(at_s + 1.3, MetalAlarm(active=False, pulses=0), "metal")

    def snapshot(self, at_s: float) -> LaneSnapshot:
        return snapshot(self.state, stamp(at_s), self.rules)

    def passages(self) -> list[Passage]:
        return [r for r in self.records if isinstance(r, Passage)]

    def alarms(self, kind: str | None = None, phase: str | None = None) -> list[Alarm]:
        return [
            r
            for r in self.records
            if isinstance(r, Alarm) and kind in {None, r.kind} and phase in {None, r.phase}
        ]

    def audits(self, kind: str) -> list[Audit]:
        return [r for r in self.records if isinstance(r, Audit) and r.kind == kind]
