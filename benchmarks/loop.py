"""Measures how long a lane's step and a turn of the loop hold everything else up.

Four lanes with four spectroscopic panels each and three counting lanes, every third vehicle with a
source; the agent runs as its own process between simulated instruments, a real Mosquitto and a
centre. Measured are the longest step of a lane's reducer, the longest turn of the event loop, and
meanwhile the way of each alarm of the counting lanes, from the last byte of the frame to the
message at the centre. What the centre received is held against the truth of every vehicle.

Then everything once more with the agent alone in a control group of a quarter of one processor, in
periods of 10 ms, in the place of a small gateway. Where no such group can be made, that half is
left out and the output says so.

Beside them runs a bare process (``pace.py``) that only wakes and, now and then, commits: how late
and how long is the machine's own part in a long time.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence

import processes
from loop_run import Half, Size, Timing, measured
from processes import NoControlGroup
from report import Goal, finish, progress, quantile, spread, table

STEP_LIMIT_MS, ALARM_P99_LIMIT_MS, QUARTER_ALARM_P99_LIMIT_MS = 15.0, 50.0, 250.0
SHARE, PERIOD_S = 0.25, 0.01
FULL = Size(spectral=4, panels=4, counting=3, first_s=16.0, last_s=118.0)
QUICK = Size(spectral=1, panels=2, counting=1, first_s=1.0, last_s=7.0)
SLOWEST = 8
"""So many of the longest steps and turns are told one by one."""
ROWS = (
    ("longest step [ms]", "longest_step_ms"),
    ("  most processor time of one [ms]", "step_cpu_max_ms"),
    ("  99.9 % of the steps [ms]", "steps_p999_ms"),
    (f"  longer than {STEP_LIMIT_MS:g} ms", "steps_over_limit"),
    ("  all", "steps"),
    ("longest turn of the loop [ms]", "longest_turn_ms"),
    ("  most processor time of one [ms]", "turn_cpu_max_ms"),
    ("alarm of a counting lane: median [ms]", "alarm_p50_ms"),
    ("  p95 [ms]", "alarm_p95_ms"),
    ("  p99 [ms]", "alarm_p99_ms"),
    ("  longest [ms]", "alarm_max_ms"),
    ("  all", "alarms"),
    ("bare process wakes late: p99 [ms]", "bare_late_p99_ms"),
    ("  longest [ms]", "bare_late_max_ms"),
    ("bare process commits: median [ms]", "bare_commit_p50_ms"),
    ("  p99 [ms]", "bare_commit_p99_ms"),
    ("  longest [ms]", "bare_commit_max_ms"),
    ("vehicles", "vehicles"),
    ("  told wrongly", "vehicles_wrong"),
    ("sources in spectral lanes", "spectral_sources"),
    ("  alarmed by their spectrum", "spectral_alarmed"),
    ("  named rightly", "spectral_named"),
    ("  named otherwise or in part", "spectral_misnamed"),
    ("  not named", "spectral_unnamed"),
    ("records at the centre", "records"),
    ("  missing", "missing"),
    ("start to all lanes ready [s]", "ready_s"),
    ("agent: processor time [% of a core]", "agent_cpu_percent"),
    ("  stopped by its limit [% of the time]", "throttled_percent"),
    ("  memory, all its processes, most [MB]", "memory_mb"),
    ("  processes, most", "processes"),
    ("simulators: processor time [% of a core]", "simulators_cpu_percent"),
    ("work of others [% of a core]", "others_cpu_percent"),
    ("taken by the host [% of a core]", "stolen_percent"),
)


def figures_of(half: Half) -> dict[str, object]:
    """Return the figures of one run."""
    judged, used = half.judged, half.used
    if not (judged.counting_s and half.steps and half.turns):
        raise SystemExit(f"nothing was measured: {judged}")
    alarms = spread(judged.counting_s)
    took_s = [each.took_s for each in half.steps]
    return {
        "longest_step_ms": ms(max(took_s)),
        "step_cpu_max_ms": ms(max(each.cpu_s for each in half.steps)),
        "steps_p999_ms": ms(quantile(took_s, 0.999)),
        "steps_over_limit": sum(each > STEP_LIMIT_MS / 1e3 for each in took_s),
        "steps": len(took_s),
        "longest_turn_ms": ms(slowest(half.turns)[0].took_s),
        "turn_cpu_max_ms": ms(max(each.cpu_s for each in half.turns)),
        **{f"alarm_{name}_ms": alarms[name] for name in ("p50", "p95", "p99", "max")},
        "alarms": alarms["n"],
        **{
            f"bare_{what}_{name}_ms": half.bare[what][name]
            for what in ("late", "commit")
            for name in ("p50", "p99", "max")
        },
        "vehicles": judged.vehicles,
        "vehicles_wrong": judged.wrong,
        "spectral_sources": judged.spectral_sources,
        "spectral_alarmed": judged.seen,
        "spectral_named": judged.named,
        "spectral_misnamed": len(judged.misnamed),
        "spectral_unnamed": judged.unnamed,
        "records": judged.records.total(),
        "missing": judged.missing,
        "ready_s": round(half.ready_s, 2),
        "agent_cpu_percent": used.percent(used.agent_cpu_s),
        "throttled_percent": half.throttled and used.percent(half.throttled[1]),
        "memory_mb": round(max(used.pss_mb), 1),
        "processes": used.processes,
        "simulators_cpu_percent": used.percent(used.site_cpu_s),
        "others_cpu_percent": used.percent(used.others_cpu_s),
        "stolen_percent": used.percent(used.stolen_s),
    }


def details_of(half: Half) -> dict[str, object]:
    """Return what explains the figures of one run."""
    judged = half.judged
    lists = ("lost", "extra", "missed", "false", "unheard", "misnamed")
    return {
        "longest_steps": [told(each) for each in slowest(half.steps)],
        "longest_turns": [told(each) for each in slowest(half.turns)],
        "alarms_of_spectral_lanes_ms": spread(judged.spectral_s) if judged.spectral_s else None,
        "memory_samples_mb": [round(each, 1) for each in half.used.pss_mb],
        "faults": dict(judged.faults),
        "records_by_stream": dict(judged.records),
        "sequence_gaps": judged.gaps,
        **{name: getattr(judged, name)[:10] for name in lists},
    }


def ms(time_s: float) -> float:
    return round(1e3 * time_s, 2)


def slowest(timings: Sequence[Timing]) -> list[Timing]:
    """Return the longest, the longest first."""
    return sorted(timings, key=lambda each: -each.took_s)[:SLOWEST]


def told(timing: Timing) -> dict[str, object]:
    return {"ms": ms(timing.took_s), "cpu_ms": ms(timing.cpu_s), "what": timing.what}


def goals_of(name: str, half: Half, alarm_limit_ms: float) -> list[Goal]:
    """Return what both halves are judged by."""
    p99_ms = spread(half.judged.counting_s)["p99"]
    judged = half.judged
    return [
        Goal(name=f"{name}: alarm p99", measured=p99_ms, limit=alarm_limit_ms, unit="ms"),
        Goal(name=f"{name}: vehicles told wrongly", measured=judged.wrong, limit=0, unit=""),
        Goal(name=f"{name}: records missing", measured=judged.missing, limit=0, unit=""),
    ]


def quarter(size: Size) -> Half | str:
    """Return the run in a quarter of a processor, or why there is none."""
    try:
        with processes.limited(SHARE, PERIOD_S) as limit:
            return measured(size, limit)
    except NoControlGroup as exc:
        return str(exc)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument(
        "--quick", action="store_true", help="two lanes and a few vehicles, nothing judged"
    )
    is_quick: bool = parser.parse_args().quick
    size = QUICK if is_quick else FULL
    # Ended from outside, too, it takes its processes and its control group along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    progress("the whole machine")
    whole = measured(size, None)
    progress("a quarter of one processor")
    small = quarter(size)
    step = Goal(
        name="longest step",
        measured=ms(slowest(whole.steps)[0].took_s),
        limit=STEP_LIMIT_MS,
        unit="ms",
    )
    columns = {"whole": figures_of(whole)}
    goals = [step, *goals_of("whole machine", whole, ALARM_P99_LIMIT_MS)]
    if isinstance(small, str):
        note = f"\n\nno half in a quarter of a processor: {small}"
        figures: dict[str, object] = {"quarter_left_out": small}
    else:
        note, figures = "", {}
        columns["quarter"] = figures_of(small)
        goals += goals_of("quarter of a processor", small, QUARTER_ALARM_P99_LIMIT_MS)
        figures["quarter"] = columns["quarter"] | details_of(small)
    figures["whole"] = columns["whole"] | details_of(whole)
    rows = [[label, *(column[key] for column in columns.values())] for label, key in ROWS]
    head = (f"{size.spectral} lanes of {size.panels} panels, {size.counting} counting", *columns)
    return finish("loop", table(head, rows) + note, figures, goals, is_quick=is_quick)


if __name__ == "__main__":
    sys.exit(main())
