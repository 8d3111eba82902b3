"""Whether the thresholds of a lane's spectra still hold: benign p-values must stay uniform.

Every passage adds its p-value. Sources are so rare that they move the whole distribution by
nothing that this test sees; a lane that has changed (other vehicles, a new road, a crystal that
ages) moves all of it. Thresholds by formula are conservative on purpose and are not tested.
"""

from __future__ import annotations

import numpy as np

from agent.analysis.threshold import uniformity_p
from agent.lane.alarms import fault, set_standing
from agent.lane.state import SelfTest, Turn
from agent.records import SpectralPart

KEPT = 500
"""So many passages are looked at: a shift of a tenth of them is then seen."""
LEAST = 100
EVERY = 50
RAISED_P, CLEARED_P = 1e-6, 1e-3
"""The test is made every 50 passages, twenty times on a busy day: by chance alone it would be
raised about once in a hundred years at the most."""
CODE = "thresholds_stale"


def note(turn: Turn, part: SpectralPart) -> None:
    """Take a passage's p-value, and say from time to time whether the thresholds hold."""
    rules = turn.rules.spectral
    if part.p is None or part.provisional or rules is None or rules.model is None:
        return
    test = turn.state.self_test
    if test.calibration != rules.calibration:
        test = SelfTest(calibration=rules.calibration)
        for device in part.devices:
            set_standing(turn, fault(device, CODE, ""), active=False)
    test = SelfTest(
        calibration=test.calibration,
        p_values=(*test.p_values, part.p)[-KEPT:],
        passages=test.passages + 1,
    )
    turn.state.self_test = test
    if len(test.p_values) < LEAST or test.passages % EVERY or not part.devices:
        return
    tails = rules.model.together
    uniform = uniformity_p(np.array(test.p_values), None if tails is None else tails.passes)
    device = part.devices[0]
    text = (
        f"{device}: of the last {len(test.p_values)} passages the spectra's p-values are no longer "
        f"uniform ({_shape(test.p_values)}): the traffic has changed since the thresholds were "
        "learned; record it and run checkpointd calibrate threshold"
    )
    limit = CLEARED_P if (device, CODE) in turn.state.standing else RAISED_P
    set_standing(turn, fault(device, CODE, text), active=uniform < limit)


def _shape(p_values: tuple[float, ...]) -> str:
    """Return which way they stray: a tenth of them should be below 0.1."""
    low = float(np.mean(np.array(p_values) < 0.1))
    return f"{low:.0%} of them below 0.1 instead of 10%"
