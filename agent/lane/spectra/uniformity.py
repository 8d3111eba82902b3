"""A lane's own check that the thresholds of its spectra still hold.

The last ``WINDOW`` benign passages' p-values are kept; learned thresholds make them uniform.
Benign is what raised no alarm of another kind, and what nobody gave a name to: a load of tiles or
a patient is found rightly, and says nothing against the thresholds.

``LIMIT`` is meant for a test that is repeated after each passage: a lane of 1,000 vehicles a day
makes 365,000 tests a year, of which by Bonferroni's bound at most one in three years is wrong. They
share their passages and are far from independent, so that it is much less.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.analysis.detection.uniformity import holds_p
from agent.lane.alarms import Standing, fault, set_standing
from agent.lane.moment import Moment
from agent.lane.state import Memory
from agent.lane.vehicles import Transit
from agent.records import SpectralPart

WINDOW = 500
"""What changed shows after some hundred passages, and what was mended is forgotten as soon."""
LEAST = 100
LIMIT = 1e-6
RECOVERED = 1e-3
"""A fault that stands is cleared above this only, or it would come and go."""
CODE = "thresholds_not_holding"


@dataclass(frozen=True, slots=True, kw_only=True)
class BenignPassages:
    """The last passages that nothing else speaks against, judged with the same thresholds.

    ``thresholds``: which, by their calibration's name and the false-alarm rate. ``p``: the final
    p-values, oldest first.
    """

    thresholds: tuple[str | None, float]
    p: tuple[float, ...] = ()


@dataclass(slots=True, kw_only=True)
class Uniformity(Memory):
    """The p-values of benign passages."""

    benign: BenignPassages | None = None


def note(moment: Moment, transit: Transit) -> None:
    """Take the passage of a vehicle that has left, and say whether the thresholds hold."""
    part = transit.spectral
    if part is None or part.p is None or not _is_benign(transit, part):
        return
    thresholds = (part.calibration, part.false_alarm_rate)
    before = moment.of(Uniformity).benign
    p = before.p if before is not None and before.thresholds == thresholds else ()
    p = (*p, part.p)[-WINDOW:]
    moment.of(Uniformity).benign = BenignPassages(thresholds=thresholds, p=p)
    _judge(moment, part, p)


def _is_benign(transit: Transit, part: SpectralPart) -> bool:
    others = (a for a in transit.alarms if (a.kind, a.source) != ("spectral", "agent"))
    if any(alarm.kind in {"gamma", "neutron", "spectral"} for alarm in others):
        return False
    is_named = bool(part.nuclides) or part.category not in {None, "unknown"}
    return not is_named and part.background_quality != "learning"


def _learned_from(moment: Moment, part: SpectralPart) -> int | None:
    """Return of how many passages the thresholds were learned; None: they are by formula."""
    if part.provisional:
        return None
    for rules in (moment.rules.spectral, moment.rules.windows):
        model = None if rules is None else rules.model
        if model is not None and model.together is not None:
            return model.together.passes
    return None


def _judge(moment: Moment, part: SpectralPart, p: tuple[float, ...]) -> None:
    device = part.devices[0]
    holds = 1.0
    if len(p) >= LEAST:
        rate = part.false_alarm_rate
        holds = holds_p(np.array(p), rate, learned_from=_learned_from(moment, part))
    stands = (device, CODE) in moment.state.of(Standing).standing
    alarms = sum(each < part.false_alarm_rate for each in p)
    text = (
        f"{device}: the spectral thresholds do not hold any more ({alarms} of the last {len(p)} "
        f"benign passages alarm, p = {holds:.1e}); look at the gain, the background and the "
        "traffic, then run checkpointd calibrate threshold"
    )
    is_wrong = holds < (RECOVERED if stands else LIMIT)
    set_standing(moment, fault(device, CODE, text), active=is_wrong)
