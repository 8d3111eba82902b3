"""Test loads and what the scale showed for them, judged: error table, repeatability, zero return.

A display in steps of d hides up to d/2, so an error is *within* the permissible one only where
error + d/2 is, *beyond* it only where error - d/2 is, and *undecided* between.

What is asked of the data, from OIML R 76-1:2006 A.4.4 and A.4.10 and 3.6.1 (unconfirmed against
the text): five test loads, three weighings of one load that spread no more than its permissible
error, zero within e/4 before, and no more than e/2 away from it after. That the loads reach
``REACH`` of the greatest load in use is a rule of this program.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Literal

from agent.lane.instruments.calibration import AccuracyClass, permissible_error_kg
from agent.lane.options.scales import ScaleCalibration
from drivers.base import KG_PER_UNIT

LOADS_AT_LEAST = 5
WEIGHINGS_AT_LEAST = 3
REACH = 0.8

Judgement = Literal["within", "undecided", "beyond"]

_LOAD = re.compile(r"([0-9]{1,7}(?:\.[0-9]{1,6})?) ?(g|kg|t|lb)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is weighed, and against what it is judged.

    ``d_kg`` is the step of the display, ``up_to_kg`` the greatest load in use.
    """

    loads_kg: tuple[float, ...]
    e_kg: float
    d_kg: float
    max_kg: float
    up_to_kg: float
    accuracy_class: AccuracyClass
    in_service: bool

    def permissible_kg(self, load_kg: float) -> float | None:
        """Return the permissible error at a load [kg]; None beyond the accuracy class."""
        return permissible_error_kg(
            load_kg,
            e_kg=self.e_kg,
            accuracy_class=self.accuracy_class,
            in_service=self.in_service,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One weighing of one test load; ``stable_by`` None: the scale does not tell rest."""

    load_kg: float
    indication_kg: float
    shown: str
    stable_by: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the error table."""

    load_kg: float
    shown: str
    error_kg: float
    permissible_kg: float | None
    judgement: Judgement


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How far several weighings of one load lie apart."""

    load_kg: float
    weighings: int
    spread_kg: float
    permissible_kg: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The whole, and each reason why it is no calibration; none: it is one."""

    rows: tuple[Row, ...]
    spreads: tuple[Spread, ...]
    zero_before_kg: float
    zero_after_kg: float
    refusals: tuple[str, ...]


def parse_load(text: str) -> float:
    """Return a test load such as ``5000kg`` or ``5.5 t`` [kg]; ValueError with one sentence."""
    found = _LOAD.fullmatch(text.strip())
    if found is None or not Decimal(found[1]):
        raise ValueError(f"{text}: expected a load above 0 with its unit, such as 5000kg or 5t")
    return float(Decimal(found[1]) * KG_PER_UNIT[found[2]])


def judge(plan: Plan, zero_before_kg: float, points: list[Point], zero_after_kg: float) -> Result:
    """Return what the weighings say of the scale."""
    rows = tuple(_row(plan, point) for point in points)
    spreads = tuple(_spreads(plan, points))
    refusals = (
        *_enough(plan, spreads),
        *_zero(plan, zero_before_kg, zero_after_kg),
        *_steps(plan, points),
        *_errors(rows),
        *_apart(spreads),
    )
    return Result(
        rows=rows,
        spreads=spreads,
        zero_before_kg=zero_before_kg,
        zero_after_kg=zero_after_kg,
        refusals=refusals,
    )


def _row(plan: Plan, point: Point) -> Row:
    error_kg = round(point.indication_kg - point.load_kg, 6)
    permissible_kg = plan.permissible_kg(point.load_kg)
    judgement: Judgement = "undecided"
    if permissible_kg is None or abs(error_kg) - plan.d_kg / 2 > permissible_kg:
        judgement = "beyond"
    elif abs(error_kg) + plan.d_kg / 2 <= permissible_kg:
        judgement = "within"
    return Row(
        load_kg=point.load_kg,
        shown=point.shown,
        error_kg=error_kg,
        permissible_kg=permissible_kg,
        judgement=judgement,
    )


def _spreads(plan: Plan, points: list[Point]) -> Iterator[Spread]:
    by_load: dict[float, list[float]] = defaultdict(list)
    for point in points:
        by_load[point.load_kg].append(point.indication_kg)
    for load_kg, shown_kg in sorted(by_load.items()):
        if len(shown_kg) > 1:
            yield Spread(
                load_kg=load_kg,
                weighings=len(shown_kg),
                spread_kg=round(max(shown_kg) - min(shown_kg), 6),
                permissible_kg=plan.permissible_kg(load_kg),
            )


def _enough(plan: Plan, spreads: tuple[Spread, ...]) -> Iterator[str]:
    different = len(set(plan.loads_kg))
    if different < LOADS_AT_LEAST:
        yield f"{different} different test loads, where at least {LOADS_AT_LEAST} are needed"
    most_kg = max(plan.loads_kg)
    if most_kg < REACH * plan.up_to_kg:
        yield (
            f"the greatest test load is {most_kg:g} kg, where use up to {plan.up_to_kg:g} kg needs "
            f"at least {REACH * plan.up_to_kg:g} kg; load more, or name a lower --up-to"
        )
    if not any(spread.weighings >= WEIGHINGS_AT_LEAST for spread in spreads):
        yield f"no load was weighed {WEIGHINGS_AT_LEAST} times, so nothing shows repeatability"


def _zero(plan: Plan, before_kg: float, after_kg: float) -> Iterator[str]:
    if abs(before_kg) > plan.e_kg / 4:
        yield f"the empty scale read {before_kg:+g} kg, over e/4; set it to zero and begin anew"
    if abs(after_kg - before_kg) > plan.e_kg / 2:
        yield f"it did not return to zero: {after_kg - before_kg:+g} kg after the loads, over e/2"


def _steps(plan: Plan, points: list[Point]) -> Iterator[str]:
    """Hold the step of the display that was named against what it showed."""
    d, e = Decimal(str(plan.d_kg)), Decimal(str(plan.e_kg))
    shown = [Decimal(str(point.indication_kg)) for point in points]
    odd = next((kg for kg in shown if kg % d), None)
    if odd is not None:
        yield f"{odd:f} kg was shown, which is no multiple of the step {d:f} kg; correct --d"
    elif d < e and not any(kg % e for kg in shown):
        yield (
            f"every figure is a multiple of e = {e:f} kg, so nothing shows that the display has "
            f"steps of {d:f} kg; switch it to high resolution, or leave --d out"
        )


def _errors(rows: tuple[Row, ...]) -> Iterator[str]:
    for row in rows:
        limit = row.permissible_kg
        if limit is None:
            yield f"{row.load_kg:g} kg is beyond what the accuracy class has intervals for"
        elif row.judgement == "beyond":
            yield f"{row.load_kg:g} kg reads {row.error_kg:+g} kg off, more than {limit:g} kg"
        elif row.judgement == "undecided":
            yield (
                f"{row.load_kg:g} kg reads {row.error_kg:+g} kg off, and the steps of the display "
                f"hide whether that is within {limit:g} kg; weigh in high resolution and give --d"
            )


def _apart(spreads: tuple[Spread, ...]) -> Iterator[str]:
    for spread in spreads:
        if spread.permissible_kg is not None and spread.spread_kg > spread.permissible_kg:
            yield (
                f"{spread.weighings} weighings of {spread.load_kg:g} kg lie "
                f"{spread.spread_kg:g} kg apart, more than {spread.permissible_kg:g} kg"
            )


# ------------------------------------------------------------------ the proposed section


def section(device: str, new: ScaleCalibration, old: ScaleCalibration | None, remark: str) -> str:
    """Return the lane file's section for the new calibration, the old one as a comment in it."""
    lines = [f"# {remark}"]
    if old is not None:
        lines += ["# What stood here before:"]
        lines += [f"#   {line}" for line in _options(old)]
    lines += [f"[devices.{device}.calibration]", *_options(new)]
    lines += [f"#{name} =   # write it here" for name in _TO_WRITE if getattr(new, name) is None]
    return "\n".join(lines) + "\n"


_TO_WRITE = ("certificate", "seal", "calibration_counter", "configuration_counter")


def _options(calibration: ScaleCalibration) -> Iterator[str]:
    yield f"accuracy_class = {_quoted(calibration.accuracy_class)}"
    for name in ("certificate", "calibrated", "due", "seal"):
        text = getattr(calibration, name)
        if text is not None:
            yield f"{name} = {_quoted(text)}"
    for name in ("calibration_counter", "configuration_counter"):
        count = getattr(calibration, name)
        if count is not None:
            yield f"{name} = {count}"
    pairs = ", ".join(f"[{load!r}, {error!r}]" for load, error in calibration.errors_kg)
    yield f"errors_kg = [{pairs}]"


def _quoted(text: str) -> str:
    """Return a TOML basic string of printable text."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def due_after(day: date, months: int) -> date:
    """Return the day so many months later; the last of a month where it is shorter."""
    year, month = divmod(day.year * 12 + day.month - 1 + months, 12)
    for last in (day.day, 30, 29, 28):
        try:
            return date(year, month + 1, last)
        except ValueError:
            continue
    raise AssertionError("every month has 28 days")
