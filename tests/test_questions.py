"""What a lane asks, what it says without an answer, and what a late one changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lane_bench import stamp
from spectral_bench import LEFT, SpectralLane, background_cps, computed_rules

from agent.analysis.energy.gain import TRACKED_KEV
from agent.analysis.energy.scale import on_grid
from agent.lane.options.spectral import SpectralRules
from agent.lane.question import Answered
from agent.lane.spectra import gain_tracking
from agent.lane.spectra.energies import edges_of
from agent.lane.spectra.gain_tracking import GainAsked, GainMeasured
from agent.lane.spectra.memory import Crystals
from agent.lane.spectra.naming import NameAsked, Named
from agent.lane.spectra.part import NAMED_WITHIN_S
from agent.lane.step import step
from agent.records import Alarm, Passage, Stop
from drivers.readings import VehiclePresence


@pytest.fixture(scope="module")
def rules() -> SpectralRules:
    return computed_rules()


class Asking(SpectralLane):
    """A lane whose questions wait until the test answers them."""

    def __init__(self, rules: SpectralRules, fitted_within_s: float | None = None, **changes):
        self.questions = []
        self.fitted_within_s = fitted_within_s
        super().__init__(rules, **changes)

    def _do(self, event):
        self.events.append(event)
        self.state, said, asked = step(self.state, event, self.rules)
        self.records += said
        self.questions += asked
        return list(said)

    def second(self, source=None, cps=0.0) -> None:
        super().second(source, cps)
        if self.fitted_within_s is None:
            return
        for question in self.asked(GainAsked):
            if self.at_s - float(question.question_id.split("-")[-1]) / 1e6 > self.fitted_within_s:
                self.answer(question)

    def asked(self, kind):
        return [q for q in self.questions if isinstance(q, kind)]

    def answer(self, question, *, with_none: bool = False):
        """Answer a question at the moment that the lane has come to."""
        answer = None if with_none else question.answer()
        self.questions.remove(question)
        return self._do(
            Answered(stamp=stamp(self.at_s), question_id=question.question_id, answer=answer)
        )

    def through(self, source: str | None = "Cs-137", cps: float = 60.0) -> None:
        """Let a vehicle through, and end with its last second."""
        self.read(self.at_s - 0.1, VehiclePresence(occupied=True))
        for i in range(8):
            self.second(source, cps * (1.0 + ((i - 3.5) / 1.5) ** 2) ** -1.5)
        self.read(self.at_s - 0.1, VehiclePresence(occupied=False))
        self.at_s += self.rules.lane.join_gap_s
        self.tick(self.at_s)


def passing(rules: SpectralRules) -> Asking:
    """Return a lane that a source has just passed, its name still to be answered."""
    lane = Asking(rules)
    lane.empty(90)
    lane.through()
    assert [type(q) for q in lane.asked(NameAsked)] == [NameAsked]
    return lane


def said_of(record: Alarm | Passage):
    """Return what a record says, whenever it was said and how often before."""
    blank = stamp(0)
    changes = {"stamp": blank, "rev": 0, "event": None}
    return replace(record, **changes)


def test_an_alarm_waits_for_no_name_and_its_passage_waits_for_it(rules):
    lane = passing(rules)
    assert [a.phase for a in lane.alarms("spectral")] == ["raised"]
    lane.tick(lane.at_s + NAMED_WITHIN_S - 0.5)
    assert lane.passages() == []
    assert lane.snapshot(lane.at_s).alarms != (), "it stands until it is cleared"


def test_an_answer_in_time_gives_one_passage_with_the_name(rules):
    lane = passing(rules)
    lane.at_s += 1.0
    lane.answer(lane.asked(NameAsked)[0])
    (passage,) = lane.passages()
    assert (passage.rev, passage.spectral.naming) == (1, "done")
    assert [n.name for n in passage.spectral.nuclides] == ["Cs-137"]
    assert [a.phase for a in lane.alarms("spectral")] == ["raised", "updated", "cleared"]
    assert lane.snapshot(lane.at_s).alarms == ()


def test_a_late_answer_is_said_to_be_pending_and_then_revises_alarm_and_passage(rules):
    lane = passing(rules)
    lane.at_s += NAMED_WITHIN_S + 1.0
    lane.tick(lane.at_s)
    (first,) = lane.passages()
    assert (first.rev, first.spectral.naming, first.spectral.category) == (1, "pending", None)
    assert "not_named" in first.reasons
    assert first.priority == "high"
    assert [a.phase for a in lane.alarms("spectral")] == ["raised", "cleared"]
    lane.at_s += 3.0
    lane.answer(lane.asked(NameAsked)[0])
    second = lane.passages()[-1]
    assert (second.rev, second.spectral.naming) == (2, "done")
    assert "not_named" not in second.reasons
    last = lane.alarms("spectral")[-1]
    assert (last.phase, last.category, last.nuclides) == ("cleared", "industrial", ("Cs-137",))
    assert last.rev == lane.alarms("spectral")[-2].rev + 1
    assert last.event is second.event, "one file for both"
    assert last.event.spectral == second.spectral


def test_what_nobody_can_answer_is_said_at_once_and_never_waited_for(rules):
    lane = passing(rules)
    lane.answer(lane.asked(NameAsked)[0], with_none=True)
    (passage,) = lane.passages()
    assert (passage.spectral.naming, passage.spectral.alarm) == ("failed", True)
    assert "not_named" in passage.reasons
    assert lane.alarms("spectral")[-1].phase == "cleared"


def test_an_answer_of_a_passage_that_is_forgotten_changes_nothing(rules):
    lane = passing(rules)
    question = lane.asked(NameAsked)[0]
    lane.at_s += 300.0
    lane.tick(lane.at_s)
    assert lane.answer(question) == []


def test_an_answer_that_comes_twice_is_taken_once(rules):
    lane = passing(rules)
    question = lane.asked(NameAsked)[0]
    lane.answer(question)
    lane.questions.append(question)
    assert lane.answer(question) == []


def test_a_stop_that_waits_lets_the_name_come_and_the_last_one_does_not(rules):
    for is_answered in (True, False):
        lane = Asking(rules)
        lane.empty(90)
        lane.read(lane.at_s - 0.1, VehiclePresence(occupied=True))
        for _ in range(6):
            lane.second("Cs-137", 60.0)
        lane._do(Stop(stamp=stamp(lane.at_s), waits=True))
        assert lane.passages() == []
        if is_answered:
            lane.answer(lane.asked(NameAsked)[0])
        lane._do(Stop(stamp=stamp(lane.at_s)))
        naming = [p.spectral.naming for p in lane.passages()]
        assert naming == (["done"] if is_answered else ["pending"])
        assert lane.alarms("spectral")[-1].phase == "cleared"


@pytest.mark.parametrize("delay_s", [0.0, 2.0, NAMED_WITHIN_S + 0.5, 40.0])
def test_however_late_the_answer_the_last_word_on_each_is_that_of_a_replay(rules, delay_s):
    at_once = SpectralLane(rules)
    lane = Asking(rules, fitted_within_s=min(delay_s, gain_tracking.HOLDS_AFTER_S - 2))
    for each in (at_once, lane):
        each.empty(90)
    for source, cps in (("Cs-137", 60.0), (None, 0.0), ("K-40", 40.0)):
        Asking.through(at_once, source, cps)
        lane.through(source, cps)
        waits_s = 0.0
        for question in lane.asked(NameAsked):
            waits_s = delay_s
            lane.at_s += delay_s
            lane.tick(lane.at_s)
            lane.answer(question)
        if waits_s:
            at_once.at_s += waits_s
            at_once.tick(at_once.at_s)
        for each in (at_once, lane):
            each.empty(60)
    for kind, key in ((Passage, "passage_id"), (Alarm, "alarm_id")):
        last = [
            {getattr(r, key): said_of(r) for r in each.records if isinstance(r, kind)}
            for each in (at_once, lane)
        ]
        assert last[0] == last[1]


def test_a_gain_holds_from_its_moment_however_soon_the_fit_has_come(rules):
    asked_s = {}
    used_s = {}
    for delay_s in (0, 4, 9):
        lane = Asking(rules, detectors=(LEFT,))
        lane.energy[LEFT] = replace(lane.energy[LEFT], coefficients_kev=(0.0, 6.09))
        while not lane.asked(GainAsked):
            lane.second()
        asked_s[delay_s] = lane.at_s
        lane.empty(delay_s)
        lane.answer(lane.asked(GainAsked)[0])
        while gain_tracking.scale_of(lane.state.of(Crystals).spectra, f"rpm/{LEFT}").gain == 1.0:
            lane.second()
        used_s[delay_s] = lane.at_s
    assert len(set(asked_s.values())) == 1
    assert len(set(used_s.values())) == 1
    assert 0 <= used_s[0] - asked_s[0] - gain_tracking.HOLDS_AFTER_S <= 2.0


def test_a_fit_that_fails_leaves_the_scale_and_the_next_sample_asks_again(rules):
    lane = Asking(rules, detectors=(LEFT,))
    while not lane.asked(GainAsked):
        lane.second()
    lane.answer(lane.asked(GainAsked)[0], with_none=True)
    for _ in range(400):
        if lane.asked(GainAsked):
            break
        lane.second()
    assert lane.asked(GainAsked)
    scale = gain_tracking.scale_of(lane.state.of(Crystals).spectra, f"rpm/{LEFT}")
    assert scale == gain_tracking.NOMINAL


def test_a_question_holds_all_that_its_answer_depends_on(rules):
    """Asked again a day later, in another process, of another lane: the same answer."""
    lane = passing(rules)
    question = lane.asked(NameAsked)[0]
    first, again = question.answer(), replace(question, question_id="other").answer()
    assert isinstance(first, Named)
    assert (first.category, first.nuclides) == (again.category, again.nuclides)
    edges = edges_of(lane.energy[LEFT], 512)
    counts = on_grid(tuple(background_cps() * 200), edges * 1.02, TRACKED_KEV)
    sample = GainAsked(
        question_id="g",
        counts=counts,
        live_s=200.0,
        ground=rules.ground,
        top_kev=float(edges[-1]),
        near=None,
        gain=1.0,
        peak_kev=80.0,
    )
    found = sample.answer()
    assert isinstance(found, GainMeasured)
    assert found.fit.gain == pytest.approx(1 / 1.02, abs=0.01) or found.fit.gain == pytest.approx(
        1.02, abs=0.01
    )
