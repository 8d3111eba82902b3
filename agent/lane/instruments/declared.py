"""A weight held against the mass that a document declares.

It may differ by the largest of a percentage of the declared mass, a mass, and k times the scale's
own maximum permissible error in service: a difference that the scale itself may legally show is no
finding. What is not declared is not judged, and an unstable or invalid weight is not either, which
the passage then says. A weight above the limit is said at once, one below it when the vehicle has
left the scale: a truck may rest on it half-way.

Maximum permissible errors in service, twice those of the first verification::

    OIML R 76-1, class III    up to 500 e: 1 e    up to 2000 e: 2 e    above: 3 e
    class IIII                up to 50 e: 1 e     up to 200 e: 2 e     above: 3 e
    OIML R 134-1, class c     c percent of the mass of the vehicle

Source: OIML R 76-1:2006, table 6 and 3.5.2; OIML R 134-1:2006, vehicle mass classes. Unconfirmed
against the texts themselves.
"""

from __future__ import annotations

from dataclasses import replace
from operator import is_not
from typing import Literal

from agent.lane.alarms import Finding, cleared, raised
from agent.lane.instruments.weighing import Weighings
from agent.lane.moment import Moment
from agent.lane.options.scales import ScaleOptions
from agent.lane.vehicles import Part, Sighting, Vehicles, sightings_of
from agent.records import Alarm, DeclaredCheck, Evidence, ScalePart

AccuracyClass = Literal["III", "IIII", "0.2", "0.5", "1", "2", "5", "10"]

_STEPS = {"III": ((500, 1.0), (2000, 2.0)), "IIII": ((50, 1.0), (200, 2.0))}
_ABOVE = 3.0


def permissible_error_kg(
    mass_kg: float, accuracy_class: AccuracyClass, e_kg: float | None
) -> float | None:
    """Return the maximum permissible error in service at a load [kg].

    Parameters
    ----------
    mass_kg : the load [kg], not negative
    e_kg : verification interval [kg]; None: not known, and then neither is the error of a class of
        OIML R 76-1
    """
    steps = _STEPS.get(accuracy_class)
    if steps is None:
        return mass_kg * float(accuracy_class) / 100
    if e_kg is None:
        return None
    for up_to, errors in steps:
        if mass_kg <= up_to * e_kg:
            return errors * e_kg
    return _ABOVE * e_kg


def check(scale: ScalePart, declared_kg: float, options: ScaleOptions) -> DeclaredCheck:
    """Return whether a weight agrees with the declared mass."""
    why = _not_judged(scale, options)
    if why is not None or scale.mass_kg is None:
        return DeclaredCheck(result="not_judged", why=why)
    own_kg = permissible_error_kg(max(scale.mass_kg, 0.0), options.accuracy_class, options.e_kg)
    limit_kg = max(
        declared_kg * options.declared_percent / 100,
        options.declared_within_kg,
        options.declared_mpe_factor * (own_kg or 0.0),
    )
    difference_kg = round(scale.mass_kg - declared_kg, 6)
    return DeclaredCheck(
        result="differs" if abs(difference_kg) > limit_kg else "agrees",
        difference_kg=difference_kg,
        limit_kg=round(limit_kg, 6),
    )


def _not_judged(scale: ScalePart, options: ScaleOptions) -> str | None:
    if scale.invalid is not None:
        return f"the weighing is invalid: {scale.invalid}"
    if scale.mass_kg is None or scale.range != "ok":
        return "the scale gave no weight"
    if scale.stable is not True:
        is_moving = scale.stable is False
        return "the weight was in motion" if is_moving else "nobody says that the weight was stable"
    # An indicator that does not name its mode shows what stands on the platform.
    mode = "gross" if scale.mode == "unknown" else scale.mode
    if mode != options.declared_as:
        return f"the weight is {mode}, the declared mass {options.declared_as}"
    return None


def with_declaration(moment: Moment, scale: ScalePart, passage_id: str) -> ScalePart:
    """Return the scale's part with what was declared in this passage, and how it agrees."""
    found = {s.declared_kg for s in sightings_of(moment.state, passage_id)} - {None}
    if not found:
        return scale
    if len(found) > 1:
        doubt = DeclaredCheck(result="not_judged", why="two declarations of this passage differ")
        return replace(scale, declared_check=doubt)
    (declared_kg,) = found
    assert declared_kg is not None
    return replace(
        scale,
        declared_kg=declared_kg,
        declared_check=check(scale, declared_kg, moment.rules.scales[scale.device]),
    )


# ------------------------------------------------------------------ the alarm


def judge(moment: Moment) -> None:
    """Raise, and clear, the alarms of weights that differ from what was declared."""
    before = moment.state.of(Vehicles).parts
    # Only readers tell what was declared.
    if not moment.rules.readers or not any(map(_is_judged, before)):
        return
    newest = {part.device: part.serial for part in before}
    parts = tuple(_judged(moment, p, newest[p.device]) for p in before)
    if any(map(is_not, parts, before)):
        moment.of(Vehicles).parts = parts


def _is_judged(part: Part) -> bool:
    content = part.content
    declares = isinstance(content, Sighting) and content.declared_kg is not None
    return declares or part.declared_alarm is not None


def _judged(moment: Moment, part: Part, newest: int) -> Part:
    scale = part.content
    if not isinstance(scale, ScalePart) or len(part.claimed_by) != 1:
        return part
    (passage_id,) = part.claimed_by
    options = moment.rules.scales[part.device]
    judged = with_declaration(moment, scale, passage_id)
    found = judged.declared_check
    differs = found is not None and found.result == "differs"
    alarm = part.declared_alarm
    if alarm is not None:
        is_over = not differs or part.serial != newest
        if not is_over or alarm.phase == "cleared":
            return part
        return replace(part, declared_alarm=cleared(moment, alarm))
    if found is None or not differs or options.declared_alarm == "off":
        return part
    is_above = found.difference_kg is not None and found.difference_kg > 0
    if not is_above and _is_on_platform(moment, part):
        return part
    return replace(part, declared_alarm=_alarm(moment, judged, found, passage_id))


def _is_on_platform(moment: Moment, part: Part) -> bool:
    weighing = moment.of(Weighings).weighings.get(part.device)
    return weighing is not None and weighing.is_loaded and weighing.part_serial == part.serial


def _alarm(moment: Moment, scale: ScalePart, found: DeclaredCheck, passage_id: str) -> Alarm:
    assert found.difference_kg is not None
    options = moment.rules.scales[scale.device]
    assert options.declared_alarm != "off"
    finding = Finding(
        kind="weight",
        source="agent",
        code="declared_mismatch",
        severity=options.declared_alarm,
        device=scale.device,
        text=f"{scale.device}: {scale.mass_kg:g} kg is {abs(found.difference_kg):g} kg "
        f"{'more' if found.difference_kg > 0 else 'less'} than the declared "
        f"{scale.declared_kg:g} kg; {found.limit_kg:g} kg are allowed",
        evidence=(
            Evidence(
                test="declared_mass",
                observed=scale.mass_kg,
                expected=scale.declared_kg,
                statistic=found.difference_kg,
                threshold=found.limit_kg,
                unit="kg",
            ),
        ),
    )
    return raised(moment, finding, moment.new_id("w"), passage_id)


def let_go(moment: Moment, part: Part) -> Part:
    """Clear the alarm of a part that is forgotten; return the part without an open one."""
    alarm = part.declared_alarm
    if alarm is None or alarm.phase == "cleared":
        return part
    return replace(part, declared_alarm=cleared(moment, alarm))
