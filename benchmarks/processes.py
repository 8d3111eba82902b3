"""What a tree of processes uses, and a control group that gives it only a share of a processor."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_EMPTY_WAIT_S = 5.0


def tree(pid: int) -> list[int]:
    """Return a process and all that descend from it, as far as they live."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = int(fields[1])
    found = [pid] if pid in parents else []
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def cpu_s(pids: Iterable[int]) -> float:
    """Return the processor time of processes and of their ended children [s]."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(map(int, fields[11:15]))  # utime, stime, cutime, cstime
    return ticks / TICKS_PER_S


def pss_mb(pids: Iterable[int]) -> float:
    """Return their memory, what they share counted once [MB of 10⁶ bytes]."""
    kilobytes = 0
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended meanwhile
            text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
            kilobytes += sum(int(s.split()[1]) for s in text.splitlines() if s.startswith("Pss:"))
    return kilobytes * 1024 / 1e6


def machine_cpu_s() -> tuple[float, float]:
    """Return how long all processors were busy, and were taken from this machine (steal) [s]."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, line.split()[1:9])
    return (user + nice + system + interrupts + soft) / TICKS_PER_S, steal / TICKS_PER_S


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty: it has ended."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    return text.rpartition(")")[2].split()  # its name may hold blanks and brackets


# ------------------------------------------------------------------ a share of a processor


class NoControlGroup(Exception):  # noqa: N818 - nothing went wrong
    """Control groups cannot be made here; the sentence says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A control group: ``procs`` is the file that a process joins it by."""

    procs: Path
    stat: Path

    def throttled(self) -> tuple[int, float]:
        """Return in how many periods it was stopped, and for how long in all [s]."""
        found = dict(line.split() for line in self.stat.read_text(encoding="ascii").splitlines())
        if "throttled_usec" in found:
            return int(found["nr_throttled"]), int(found["throttled_usec"]) / 1e6
        return int(found["nr_throttled"]), int(found["throttled_time"]) / 1e9


@contextlib.contextmanager
def limited(share: float, period_s: float) -> Iterator[Limit]:
    """Make a control group with a share of one processor; it is gone afterwards.

    Raises
    ------
    NoControlGroup
        Where none can be made.
    """
    period_us = round(period_s * 1e6)
    parent, is_v2 = _parent()
    group = parent / f"checkpointd-bench-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as exc:
        raise NoControlGroup(f"no control group can be made in {parent}: {exc}") from exc
    try:
        try:
            if is_v2:
                _write(group / "cpu.max", f"{round(share * period_us)} {period_us}")
            else:
                _write(group / "cpu.cfs_period_us", str(period_us))
                _write(group / "cpu.cfs_quota_us", str(round(share * period_us)))
        except OSError as exc:
            raise NoControlGroup(f"{group} takes no limit: {exc}") from exc
        yield Limit(procs=group / "cgroup.procs", stat=group / "cpu.stat")
    finally:
        _remove(group)


def _parent() -> tuple[Path, bool]:
    """Return where groups with a limit of processor time are made, and whether that is v2."""
    for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines():
        _, place, kind, options, *_ = line.split()
        if kind == "cgroup" and "cpu" in options.split(","):
            return Path(place), False
        if kind == "cgroup2":
            given = Path(place, "cgroup.subtree_control")
            # Only what is there already: switching it on would change the machine.
            if given.exists() and "cpu" in given.read_text(encoding="ascii").split():
                return Path(place), True
    raise NoControlGroup("no control groups for processor time are mounted here")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="ascii")


def _remove(group: Path) -> None:
    """Remove the group; its last process may still be leaving."""
    until_s = time.monotonic() + _EMPTY_WAIT_S
    while True:
        try:
            group.rmdir()
        except OSError:
            if time.monotonic() > until_s:
                raise
            time.sleep(0.05)
        else:
            return
