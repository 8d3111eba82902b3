"""The judge of the loop benchmark: what the centre received against the truth of each vehicle."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SENT_NS = 1_000_000_000


@pytest.fixture
def judge(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("loop_truth").judge


def vehicle(*nuclides, must=None):
    must = ["gamma"] if nuclides and must is None else must or []
    return {"nuclides": list(nuclides), "must": must, "may": []}


def lanes(*vehicles, name="counting-0", alarming=()):
    sent = {str(number): SENT_NS for number in alarming}
    return {name: {"vehicles": list(vehicles), "alarming_ns": sent}}


def record(stream, seq, at_ns=SENT_NS, **data):
    envelope = {"source": "s", "stream": stream, "epoch": "e", "seq": seq, "data": data}
    return SimpleNamespace(at_ns=at_ns), envelope


def passage(seq, number, *alarms, lane="counting-0", rev=1, named=None, numbered=None):
    spectral = None if named is None else {"nuclides": [{"name": each} for each in named]}
    return record(
        "pass",
        seq,
        passage_id=f"p{number}" if numbered is None else numbered,
        rev=rev,
        lane=lane,
        started="then",
        alarm_ids=list(alarms),
        rpm={"occupancy_numbers": [number]},
        spectral=spectral,
    )


def alarm(seq, number, kind="gamma", after_s=0.0, lane="counting-0"):
    return record(
        "alarm",
        seq,
        at_ns=SENT_NS + round(after_s * 1e9),
        alarm_id=f"a{seq}",
        passage_id=f"p{number}",
        kind=kind,
        source="device" if kind == "gamma" else "agent",
        phase="raised",
        lane=lane,
        code="c",
    )


def test_an_alarm_is_timed_from_its_frame_to_its_message(judge):
    said = [alarm(1, 2, after_s=0.25), passage(1, 1), passage(2, 2, "a1")]
    found = judge(lanes(vehicle(), vehicle("Cs-137"), alarming=[2]), said)
    assert found.counting_s == [0.25]
    assert (found.vehicles, found.with_source, found.wrong, found.missing) == (2, 1, 0, 0)


def test_a_vehicle_without_a_passage_is_lost_and_a_second_passage_of_one_is_extra(judge):
    said = [passage(1, 1), passage(2, 1, numbered="again"), passage(3, 7)]
    found = judge(lanes(vehicle(), vehicle()), said)
    assert found.lost == ["counting-0 2"]
    assert found.extra == ["counting-0 1: again", "counting-0 7"]


def test_a_source_without_an_alarm_is_missed_and_an_alarm_without_a_source_is_false(judge):
    said = [alarm(1, 2), passage(1, 1), passage(2, 2, "a1")]
    found = judge(lanes(vehicle("Cs-137"), vehicle()), said)
    assert found.missed == ["counting-0 1"]
    assert found.false == ["counting-0 2: gamma"]


def test_an_alarming_frame_whose_message_never_came_is_missing(judge):
    found = judge(lanes(vehicle("Cs-137"), alarming=[1]), [passage(1, 1)])
    assert found.unheard == ["counting-0 1"]
    assert found.missing == 1


def test_numbers_that_never_came_are_missing(judge):
    found = judge(lanes(vehicle(), vehicle()), [passage(2, 1), passage(5, 2)])
    assert found.gaps == found.missing == 3


@pytest.mark.parametrize(
    ("names", "counted"),
    [
        (["I-131", "Tc-99m"], (1, 0, 0)),
        (["I-131"], (0, 1, 0)),
        (["Co-60"], (0, 1, 0)),
        ([], (0, 0, 1)),
        (None, (0, 0, 1)),
    ],
)
def test_what_has_all_its_nuclides_named_is_told_from_what_has_not(judge, names, counted):
    lane = "spectral-0"
    said = [alarm(1, 1, "spectral", lane=lane)]
    said += [passage(1, 1, "a1", lane=lane), passage(2, 1, "a1", lane=lane, rev=2, named=names)]
    found = judge(lanes(vehicle("I-131", "Tc-99m"), name=lane), said)
    assert (found.named, len(found.misnamed), found.unnamed) == counted
    assert (found.seen, found.wrong) == (1, 0)
