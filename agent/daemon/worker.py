"""The process beside the daemon that does its long work, one job after the other.

``agent.daemon.long_work`` starts it and speaks to it over its standard input and output, which only
the daemon has. A frame is its length (eight bytes, big-endian) and a pickle: to the worker a
``Keep``, a ``Forget`` or a job, from it the job's answer. What is kept is named in later jobs by
its number, so that what a lane looks for crosses once and not with every question.
"""

from __future__ import annotations

import io
import os
import pickle
import signal
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import BinaryIO, Protocol, TypeVar

LENGTH = struct.Struct(">Q")
NICENESS = 10
"""An alarm goes before a name."""
LOOK_EVERY_S = 0.005
SQUEEZED = 0.5
"""A job that gets less of a processor than this takes it from somebody, and rests."""
RESTS = 2.0
"""So many times as long as it was squeezed."""
LONGEST_REST_S = 0.1


A_co = TypeVar("A_co", covariant=True)


class Job(Protocol[A_co]):
    """Something that takes long."""

    def answer(self) -> A_co:
        """Return what came of it."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Keep this for jobs to come."""

    number: int
    value: object


@dataclass(frozen=True, slots=True)
class Forget:
    """No job will name this any more."""

    number: int


@dataclass(frozen=True, slots=True)
class Failed:
    """The job raised; its traceback stands in the log."""

    text: str


class Unpickler(pickle.Unpickler):
    """Puts what is kept in its places."""

    def __init__(self, file: BinaryIO, kept: dict[int, object]) -> None:
        super().__init__(file)
        self._kept = kept

    def persistent_load(self, pid: object) -> object:
        """Return what is kept under that number."""
        assert isinstance(pid, int)
        return self._kept[pid]


def frame(data: bytes) -> bytes:
    """Return the bytes with their length before them."""
    return LENGTH.pack(len(data)) + data


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer jobs until the input ends."""
    kept: dict[int, object] = {}
    while len(head := source.read(LENGTH.size)) == LENGTH.size:
        data = source.read(LENGTH.unpack(head)[0])
        said = Unpickler(io.BytesIO(data), kept).load()
        if isinstance(said, Keep):
            kept[said.number] = said.value
        elif isinstance(said, Forget):
            kept.pop(said.number, None)
        else:
            sink.write(frame(pickle.dumps(_answer(said), pickle.HIGHEST_PROTOCOL)))
            sink.flush()


def rest_s(wall_s: float, cpu_s: float) -> float:
    """Return how long to rest after so long at work, with so much of a processor [s].

    Priorities hold on one processor only: where a share of several is all there is (a container, a
    control group), a job beside the daemon would use up what the daemon needs.
    """
    if cpu_s >= SQUEEZED * wall_s:
        return 0.0
    return min(RESTS * wall_s, LONGEST_REST_S)


@contextmanager
def giving_way() -> Iterator[None]:
    """Look again and again whether others need the processor, and rest where they do."""
    wall_s, cpu_s = time.monotonic(), time.process_time()
    is_over = False

    def look(_number: int, _frame: FrameType | None) -> None:
        nonlocal wall_s, cpu_s
        time.sleep(rest_s(time.monotonic() - wall_s, time.process_time() - cpu_s))
        wall_s, cpu_s = time.monotonic(), time.process_time()
        # Set anew each time: a rest is longer than the time to the next look.
        if not is_over:
            signal.setitimer(signal.ITIMER_REAL, LOOK_EVERY_S)

    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_REAL, LOOK_EVERY_S)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _answer(job: Job[object]) -> object:
    try:
        with giving_way():
            return job.answer()
    except Exception as exc:  # noqa: BLE001 - the boundary of this process; said to the daemon
        traceback.print_exc()
        return Failed(f"{type(exc).__name__}: {exc}")


def main() -> None:
    """Serve on standard input and output; whatever prints goes to the log."""
    source, sink = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    # At a stop the service manager signals all processes: the daemon ends this one when it is done.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    serve(source, sink)
