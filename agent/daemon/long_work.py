"""Long work beside the lanes: names of nuclides, gain fits, event files, what a lane looks for.

A process and not a thread: these jobs hold the interpreter, and a thread would take every second
5 ms from the loop while one runs. One worker, one job at a time, at a low priority; it is started
with the first job, so a gateway that only counts has none.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import pickle
import subprocess
import sys
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from subprocess import Popen
from typing import IO, Any, TypeVar

from agent.daemon.worker import LENGTH, Failed, Forget, Job, Keep, frame
from agent.lane.options.spectral import SpectralRules

A = TypeVar("A")

log = logging.getLogger(__name__)

START = "from agent.daemon.worker import main; main()"
"""Not ``-m``: what crosses is pickled by the names of that module."""
MOST_WAITING = 32
"""So many jobs wait; beyond, the oldest is dropped, and whoever asked goes on without."""
LONGEST_JOB_S = 120.0
"""A job that takes longer is broken off [wall seconds]; on a slow gateway the longest takes 20."""
MOST_KEPT = 16
"""The worker keeps what so many lanes look for."""


class NoAnswer(Exception):  # noqa: N818 - it says what there is
    """The worker could not do the job: it failed, was ended, or had too much to do."""


@dataclass(slots=True)
class _Waiting:
    job: Job[Any]
    done: asyncio.Future[Any]


@dataclass(slots=True)
class _Kept:
    """What the running worker keeps, by the identity of the object it was made of."""

    numbers: OrderedDict[int, tuple[int, object]] = field(default_factory=OrderedDict)
    last: int = 0


class _Pickler(pickle.Pickler):
    """Writes a number for what the worker keeps already, and remembers what it should keep."""

    def __init__(self, file: IO[bytes], kept: _Kept) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._kept = kept
        self.new: list[Keep] = []

    def persistent_id(self, obj: object) -> int | None:
        """Return the number of what lanes look for, None for everything else."""
        if not isinstance(obj, SpectralRules):
            return None
        numbers = self._kept.numbers
        if id(obj) not in numbers:
            self._kept.last += 1
            numbers[id(obj)] = self._kept.last, obj
            self.new.append(Keep(self._kept.last, obj))
        numbers.move_to_end(id(obj))
        return numbers[id(obj)][0]


class LongWork:
    """Does jobs in a process of its own.

    ``on_trouble`` is told why no work gets done, and None when it does again.
    """

    def __init__(self, on_trouble: Callable[[str | None], None]) -> None:
        self._on_trouble = on_trouble
        self._waiting: deque[_Waiting] = deque()
        self._news = asyncio.Event()
        self._process: Popen[bytes] | None = None
        self._kept = _Kept()
        self._exchange: asyncio.Task[Any] | None = None
        self._at_work: _Waiting | None = None

    async def answer(self, job: Job[A]) -> A:
        """Return the job's answer; raises NoAnswer where there will be none."""
        return await self._ask(job)

    def ask(self, job: Job[A], take: Callable[[A | None], None]) -> None:
        """Have a job done; ``take`` gets the answer in the loop, None: there is none."""

        def done(future: asyncio.Future[A]) -> None:
            if not future.cancelled():
                take(None if future.exception() is not None else future.result())

        self._ask(job).add_done_callback(done)

    def _ask(self, job: Job[A]) -> asyncio.Future[A]:
        done: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        waiting = _Waiting(job, done)
        self._waiting.append(waiting)
        if len(self._waiting) > MOST_WAITING:
            oldest = self._waiting.popleft()
            _refuse(oldest, f"more than {MOST_WAITING} jobs wait")
        self._news.set()
        return done

    async def join(self) -> None:
        """Wait until all that has been asked by now is answered or refused."""
        asked = [each.done for each in (self._at_work, *self._waiting) if each is not None]
        if asked:
            await asyncio.wait(asked)

    async def run(self) -> None:
        """Do what is asked, until cancelled; what is being done then is broken off."""
        try:
            while True:
                await self._news.wait()
                self._news.clear()
                while self._waiting:
                    await self._do(self._waiting.popleft())
        finally:
            for waiting in self._waiting:
                _refuse(waiting, "the agent stops")
            self._waiting.clear()
            await self._end()

    async def _do(self, waiting: _Waiting) -> None:
        if waiting.done.done():
            return  # nobody waits any more
        self._at_work = waiting
        try:
            async with asyncio.timeout(LONGEST_JOB_S):
                answer = await self._through_worker(waiting.job)
        except (OSError, TimeoutError) as exc:
            await self._end()
            why = f"took longer than {LONGEST_JOB_S:g} s" if isinstance(exc, TimeoutError) else exc
            text = f"the worker for long work failed: {type(waiting.job).__name__}: {why or exc!r}"
            log.error("worker=failed job=%s error=%r", type(waiting.job).__name__, exc)  # noqa: TRY400 - expected
            _refuse(waiting, text)
            self._on_trouble(f"{text}; names and files may be missing")
        else:
            if isinstance(answer, Failed):
                _refuse(waiting, answer.text)
                self._on_trouble(
                    f"a bug in long work: {type(waiting.job).__name__}: {answer.text}; see the log"
                )
            else:
                if not waiting.done.done():
                    waiting.done.set_result(answer)
                self._on_trouble(None)
        finally:
            self._at_work = None
            if not waiting.done.done():
                _refuse(waiting, "the agent stops")

    async def _through_worker(self, job: Job[A]) -> A | Failed:
        if self._process is None or self._process.poll() is not None:
            await self._end()
            command = (sys.executable, "-c", START)
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603, ASYNC220 - our own, started in a millisecond
            log.info("worker=started pid=%d", self._process.pid)
        # In a thread, where it may wait; it ends with the process, whatever becomes of this task.
        exchange = asyncio.to_thread(_exchange, self._process, self._kept, job)
        self._exchange = asyncio.get_running_loop().create_task(exchange)
        return await asyncio.shield(self._exchange)

    async def _end(self) -> None:
        """End the worker and what it kept; the next job starts another."""
        process, self._process, self._kept = self._process, None, _Kept()
        if process is not None:
            process.kill()
            if self._exchange is not None:
                await asyncio.gather(self._exchange, return_exceptions=True)
            await asyncio.to_thread(_buried, process)


def _exchange(process: Popen[bytes], kept: _Kept, job: Job[A]) -> A | Failed:
    """Hand the job to the worker and return its answer; raises OSError where it ends meanwhile."""
    assert process.stdin is not None
    assert process.stdout is not None
    buffer = io.BytesIO()
    pickler = _Pickler(buffer, kept)
    pickler.dump(job)
    for keep in pickler.new:
        process.stdin.write(frame(_pickled(keep)))
    process.stdin.write(frame(buffer.getvalue()))
    while len(kept.numbers) > MOST_KEPT:
        _, (number, _) = kept.numbers.popitem(last=False)
        process.stdin.write(frame(_pickled(Forget(number))))
    process.stdin.flush()
    head = process.stdout.read(LENGTH.size)
    data = process.stdout.read(LENGTH.unpack(head)[0]) if len(head) == LENGTH.size else b""
    if not data:
        raise ChildProcessError("the process ended")
    answer: A | Failed = pickle.loads(data)  # noqa: S301 - our own child's
    return answer


def _buried(process: Popen[bytes]) -> None:
    process.wait()
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            if pipe is not None:
                pipe.close()


async def answer_alone(job: Job[A]) -> A:
    """Return the answer of one job, done in a process that ends with it: its memory is given back.

    Raises NoAnswer where there is none.
    """
    work = LongWork(lambda _: None)
    running = asyncio.get_running_loop().create_task(work.run())
    try:
        return await work.answer(job)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def _pickled(value: object) -> bytes:
    return pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _refuse(waiting: _Waiting, why: str) -> None:
    if not waiting.done.done():
        waiting.done.set_exception(NoAnswer(why))
        # Who only asked in passing looks at no exception.
        waiting.done.exception()
