"""What the centre received, held against the truth of each vehicle of ``loop_site.py``."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rig import Arrival

RADIATION = frozenset({"gamma", "neutron", "spectral"})
RECORDS = list[tuple[Arrival, dict[str, Any]]]


@dataclass(slots=True, kw_only=True)
class Judged:
    """All vehicles of all lanes.

    ``lost`` have no passage, ``extra`` are passages of no vehicle; ``missed`` had a source and no
    alarm of radiation, ``false`` none and one. Of those with a source in a spectral lane ``seen``
    had an alarm of their spectrum; ``named`` were all their nuclides, ``misnamed`` others or only
    some of them, ``unnamed`` none.
    """

    vehicles: int = 0
    with_source: int = 0
    lost: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    false: list[str] = field(default_factory=list)
    unheard: list[str] = field(default_factory=list)
    """Alarming frames of counting lanes whose alarm's message never came."""
    spectral_sources: int = 0
    seen: int = 0
    named: int = 0
    misnamed: list[str] = field(default_factory=list)
    unnamed: int = 0
    gaps: int = 0
    """Numbers that are missing from the centre's streams."""
    records: Counter[str] = field(default_factory=Counter)
    """By their stream."""
    faults: Counter[str] = field(default_factory=Counter)
    counting_s: list[float] = field(default_factory=list)
    """From the last byte of each alarming frame of a counting lane to its message."""
    spectral_s: list[float] = field(default_factory=list)
    """The same of the portals of spectral lanes."""

    @property
    def wrong(self) -> int:
        """How many vehicles the centre was told wrongly of."""
        return sum(map(len, (self.lost, self.extra, self.missed, self.false)))

    @property
    def missing(self) -> int:
        """How much of what was said never came."""
        return self.gaps + len(self.unheard)


@dataclass(slots=True, kw_only=True)
class _Said:
    """What the records come to: the newest form of each passage, the first of each alarm."""

    passages: dict[str, dict[str, Any]] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    gamma_ns: dict[str, int] = field(default_factory=dict)
    """When the portal's gamma alarm of each passage came."""


def judge(lanes: dict[str, Any], records: RECORDS) -> Judged:
    """Return how the records of one run fit the lanes' own account of it."""
    judged = Judged(gaps=gaps(records))
    judged.records.update(str(record["stream"]) for _, record in records)
    said = _said(records, judged.faults)
    by_number: dict[tuple[str, int], list[str]] = defaultdict(list)
    for passage_id, data in said.passages.items():
        numbers = [] if data["rpm"] is None else data["rpm"]["occupancy_numbers"]
        for number in numbers:
            by_number[data["lane"], number].append(passage_id)
        if not numbers:
            judged.extra.append(f"{data['lane']} {data['started']}: without a number")
    for lane, told in lanes.items():
        # A portal numbers its occupancies from 1, and each vehicle is one of them.
        for number, truth in enumerate(told["vehicles"], start=1):
            ids = by_number.pop((lane, number), [])
            sent_ns = told["alarming_ns"].get(str(number))
            _vehicle(judged, said, f"{lane} {number}", ids, truth, sent_ns)
    judged.extra += [f"{lane} {number}" for lane, number in by_number]
    return judged


def _vehicle(
    judged: Judged,
    said: _Said,
    where: str,
    ids: list[str],
    truth: dict[str, Any],
    sent_ns: int | None,
) -> None:
    judged.vehicles += 1
    has_source = bool(truth["must"])
    judged.with_source += has_source
    judged.extra += [f"{where}: again" for _ in ids[1:]]
    is_spectral = where.startswith("spectral")
    came_ns = next((said.gamma_ns[each] for each in ids if each in said.gamma_ns), None)
    if sent_ns is not None and came_ns is not None:
        times = judged.spectral_s if is_spectral else judged.counting_s
        times.append((came_ns - sent_ns) / 1e9)
    elif sent_ns is not None:
        judged.unheard.append(where)
    if not ids:
        judged.lost.append(where)
        return
    passage = said.passages[ids[0]]
    kinds = {said.kinds.get(each, "") for each in passage["alarm_ids"]}
    if has_source and not kinds & RADIATION:
        judged.missed.append(where)
    if not has_source and not truth["may"] and kinds & RADIATION:
        judged.false.append(f"{where}: {', '.join(sorted(kinds & RADIATION))}")
    if has_source and is_spectral:
        _naming(judged, where, passage, truth["nuclides"], is_seen="spectral" in kinds)


def _naming(
    judged: Judged, where: str, passage: dict[str, Any], nuclides: list[str], *, is_seen: bool
) -> None:
    judged.spectral_sources += 1
    judged.seen += is_seen
    part = passage["spectral"]
    names = [] if part is None else [each["name"] for each in part["nuclides"]]
    if not names:
        judged.unnamed += 1
    elif set(nuclides) <= set(names):
        judged.named += 1
    else:
        judged.misnamed.append(f"{where}: {', '.join(names)} for {', '.join(nuclides)}")


def _said(records: RECORDS, faults: Counter[str]) -> _Said:
    said = _Said()
    for arrival, record in records:
        data: Any = record["data"]
        if record["stream"] == "pass":
            old = said.passages.get(data["passage_id"])
            if old is None or old["rev"] < data["rev"]:
                said.passages[data["passage_id"]] = data
        elif record["stream"] == "alarm":
            said.kinds[data["alarm_id"]] = data["kind"]
            is_raised = data["phase"] == "raised"
            if data["kind"] == "fault" and is_raised:
                faults[f"{data['lane']} {data['code']}"] += 1
            if data["kind"] == "gamma" and data["source"] == "device" and is_raised:
                said.gamma_ns.setdefault(data["passage_id"], arrival.at_ns)
    return said


def gaps(records: Iterable[tuple[Arrival, dict[str, Any]]]) -> int:
    """Return how many numbers are missing from 1 to the highest of each stream."""
    numbers: dict[tuple[str, str, str], set[int]] = defaultdict(set)
    for _, record in records:
        numbers[record["source"], record["stream"], record["epoch"]].add(record["seq"])
    return sum(max(each) - len(each) for each in numbers.values())
