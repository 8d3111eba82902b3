"""What time alone will do in a lane, and when: what is due stands in order.

Whoever waits for a moment says what its waiting is made of (``made_of``: parts of the memories,
compared by identity) and what will be due (``due``). It is asked again only where one of these has
been replaced, so an idle lane is asked one number, and a busy one little more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from operator import is_, itemgetter

from agent.lane import occupancy, passage
from agent.lane.instruments import axles, declared, metal_tests, walks
from agent.lane.instruments.axles import AxleRuns
from agent.lane.instruments.walks import Metal
from agent.lane.links import Links
from agent.lane.moment import Moment
from agent.lane.occupancy import Tellers
from agent.lane.options.rules import LaneRules
from agent.lane.spectra import judging as spectra
from agent.lane.spectra.memory import Crystals
from agent.lane.state import LaneState, Memory
from agent.lane.vehicles import Transit, Vehicles
from agent.records import Stamp

Due = tuple[int, Callable[[Moment], None]]
"""When [monotonic µs], and what is done then."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One kind of thing that waits for its moment.

    ``kinds``: the memories that ``made_of`` takes from.
    """

    kinds: frozenset[type[Memory]]
    made_of: Callable[[LaneState], tuple[object, ...]]
    due: Callable[[Moment], Iterator[Due]]


@dataclass(frozen=True, slots=True)
class Head:
    """The first moment of one kind [monotonic µs], None: it waits for none."""

    made_of: tuple[object, ...]
    at_us: int | None


@dataclass(slots=True, kw_only=True)
class Agenda(Memory):
    """The first moment of each kind, and by which rules it was found."""

    rules: LaneRules | None = None
    heads: tuple[Head, ...] = ()
    next_us: int | None = None


def is_idle(state: LaneState, rules: LaneRules, now_us: int) -> bool:
    """Return whether nothing is due by now, by the same rules as at the step before."""
    agenda = state.of(Agenda)
    return agenda.rules is rules and (agenda.next_us is None or agenda.next_us > now_us)


def next_us(state: LaneState, rules: LaneRules) -> int | None:
    """Return when something is due first [monotonic µs]; None: nothing, or nobody looked yet."""
    agenda = state.of(Agenda)
    return agenda.next_us if agenda.rules is rules else None


def are_new_rules(moment: Moment) -> bool:
    """Return whether this step goes by other rules than the one before."""
    return moment.state.of(Agenda).rules is not moment.rules


def run(moment: Moment, from_us: int, until: Stamp) -> None:
    """Do what has fallen due by ``until``, in order of time, none before ``from_us``."""
    while True:
        at_us = _next_us(moment)
        if at_us is None or at_us > until.mono_us:
            break
        at_us, act = min(_all(moment), key=itemgetter(0))
        from_us = max(from_us, at_us)
        moment.stamp = until.back((until.mono_us - from_us) / 1e6)
        seen = passage.seen(moment)
        act(moment)
        passage.revise(moment, seen)
    moment.stamp = until


def _next_us(moment: Moment) -> int | None:
    """Return when something is due first [monotonic µs], None where nothing ever is."""
    agenda = moment.state.of(Agenda)
    is_known = agenda.rules is moment.rules
    if is_known and moment.touched.isdisjoint(_ALL_KINDS):
        return agenda.next_us
    known = agenda.heads if is_known else (None,) * len(WAITING)
    heads = tuple(map(partial(_head, moment), WAITING, known))
    if is_known and all(map(is_, heads, known)):
        return agenda.next_us
    own = moment.of(Agenda)
    own.rules, own.heads = moment.rules, heads
    own.next_us = min((h.at_us for h in heads if h.at_us is not None), default=None)
    return own.next_us


def _head(moment: Moment, waiting: Waiting, known: Head | None) -> Head:
    if known is not None and moment.touched.isdisjoint(waiting.kinds):
        return known
    made_of = waiting.made_of(moment.state)
    if known is not None and all(map(is_, known.made_of, made_of)):
        return known
    return Head(made_of, min((at_us for at_us, _ in waiting.due(moment)), default=None))


def _all(moment: Moment) -> Iterator[Due]:
    for waiting in WAITING:
        yield from waiting.due(moment)


def _after(stamp: Stamp, delay_s: float) -> int:
    """Return the moment so long after the stamp [monotonic µs]."""
    return stamp.mono_us + round(delay_s * 1e6)


# ------------------------------------------------------------------ who waits for what


def _slices(moment: Moment) -> Iterator[Due]:
    at_us = spectra.due_us(moment)
    if at_us is not None:
        yield at_us, spectra.close_slice


def _transits(moment: Moment) -> Iterator[Due]:
    for transit in moment.state.of(Vehicles).transits:
        yield _of_transit(moment, transit)


def _of_transit(moment: Moment, transit: Transit) -> Due:
    """Return what time does next with a transit: end it, seal it, say it, or forget it."""
    lane = moment.rules.lane
    if transit.ended is None and occupancy.is_told_occupied(moment):
        return _after(transit.began, lane.longest_occupancy_s), occupancy.end_stuck
    if transit.ended is None:
        at_us = _after(transit.last_count, lane.occupancy_timeout_s)
        return at_us, partial(occupancy.end_occupancy, reason="timeout")
    sealed_us = _after(transit.ended, lane.join_gap_s)
    if not transit.is_sealed:
        return sealed_us, partial(passage.seal, transit=transit)
    if transit.name_wanted is not None and not transit.is_closed:
        return transit.name_wanted.until.mono_us, partial(passage.close, transit=transit)
    if transit.published is None:
        at_us = max(passage.waiting_until(moment, transit).mono_us, sealed_us)
        return at_us, partial(passage.publish, transit=transit)
    kept_us = _after(transit.ended, 2 * moment.rules.longest_gap_s + passage.KEPT_PUBLISHED_S)
    if transit.name_wanted is not None:
        kept_us = max(kept_us, _after(transit.name_wanted.until, passage.LATE_NAME_S))
    return kept_us, partial(_forget_transit, passage_id=transit.passage_id)


def _walks(moment: Moment) -> Iterator[Due]:
    for device, walk in moment.state.of(Metal).walks.items():
        at_us = _after(walk.last, moment.rules.metals[device].alarm_joins_s)
        yield at_us, partial(walks.finish, device=device)


def _tests(moment: Moment) -> Iterator[Due]:
    """Yield when a metal detector's test has lasted too long, and when the next one is due."""
    metal = moment.state.of(Metal)
    for test in metal.metal_tests.values():
        at_us = _after(test.started, metal_tests.LONGEST_TEST_S)
        yield at_us, partial(metal_tests.end_left_on, switch=test.switch)
    for device, tested in metal.metal_tested.items():
        options = moment.rules.metals.get(device)
        if options is not None and options.test_every_h is not None:
            at_us = _after(tested, options.test_every_h * 3600)
            yield at_us, partial(metal_tests.expire, device=device)


def _axle_runs(moment: Moment) -> Iterator[Due]:
    for device, run in moment.state.of(AxleRuns).axle_runs.items():
        if run.left_at is not None and not run.is_loaded:
            at_us = _after(run.left_at, moment.rules.scales[device].axle_gap_s)
            yield at_us, partial(axles.finish, device=device)


def _parts(moment: Moment) -> Iterator[Due]:
    rules = moment.rules
    kept_s = 4 * rules.longest_gap_s + 2 * passage.KEPT_PUBLISHED_S
    for part in moment.state.of(Vehicles).parts:
        if part.orphan is not None:
            yield _after(part.at, kept_s), partial(_forget_part, serial=part.serial)
        elif not part.claimed_by:
            at_us = passage.last_moment(part, rules.sides[part.device]).mono_us
            yield at_us, partial(passage.publish_orphan, part=part)


def _forget_transit(moment: Moment, passage_id: str) -> None:
    """Forget a transit that no part can join any more, and the parts that only it could claim."""
    vehicles = moment.of(Vehicles)
    vehicles.transits = tuple(t for t in vehicles.transits if t.passage_id != passage_id)
    names = {t.passage_id for t in vehicles.transits}
    kept = []
    for part in vehicles.parts:
        if not part.claimed_by or part.claimed_by & names:
            kept.append(part)
        else:
            declared.let_go(moment, part)
    vehicles.parts = tuple(kept)


def _forget_part(moment: Moment, serial: int) -> None:
    vehicles = moment.of(Vehicles)
    vehicles.parts = tuple(p for p in vehicles.parts if p.serial != serial)


def _vehicles(state: LaneState) -> tuple[object, ...]:
    vehicles = state.of(Vehicles)
    return vehicles.transits, vehicles.parts, state.of(Tellers).presence, state.of(Links).up


# Of two things that are due at the same moment the one named first is done first.
WAITING = (
    Waiting(frozenset({Crystals}), lambda state: (state.of(Crystals).spectra,), _slices),
    Waiting(frozenset({Vehicles, Tellers, Links}), _vehicles, _transits),
    Waiting(frozenset({Metal}), lambda state: (state.of(Metal).walks,), _walks),
    Waiting(
        frozenset({Metal}),
        lambda state: (state.of(Metal).metal_tests, state.of(Metal).metal_tested),
        _tests,
    ),
    Waiting(frozenset({AxleRuns}), lambda state: (state.of(AxleRuns).axle_runs,), _axle_runs),
    Waiting(frozenset({Vehicles}), lambda state: (state.of(Vehicles).parts,), _parts),
)
_ALL_KINDS = frozenset[type[Memory]]().union(*(waiting.kinds for waiting in WAITING))
