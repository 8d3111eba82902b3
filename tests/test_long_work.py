"""The worker beside the daemon, with real processes: what it answers, survives, and is spared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
from long_jobs import Buggy, Double, Endless, Killed, LooksAt, Printing, WhoAmI
from spectral_bench import computed_rules

from agent.daemon import long_work, worker
from agent.daemon.long_work import LongWork, NoAnswer, answer_alone
from agent.daemon.worker import NICENESS, giving_way, rest_s


@pytest.fixture(autouse=True)
def _jobs_are_found_by_the_worker(monkeypatch):
    """Let the worker import the jobs of the tests too."""
    here = str(Path(__file__).resolve().parent)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))


@contextlib.asynccontextmanager
async def working():
    """Give a running LongWork and what it said of its troubles."""
    troubles: list[str | None] = []
    work = LongWork(troubles.append)
    running = asyncio.get_running_loop().create_task(work.run())
    try:
        yield work, troubles
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def gone(pid: int) -> None:
    """Wait until the process is no more."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(handle, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 10)
    finally:
        loop.remove_reader(handle)
        os.close(handle)


def test_jobs_are_answered_in_their_order_by_one_process_of_low_priority():
    async def scenario():
        async with working() as (work, troubles):
            order = []
            for number in range(5):
                work.ask(Double(number), order.append)
            first = await work.answer(WhoAmI())
            second = await work.answer(WhoAmI())
            assert order == [0, 2, 4, 6, 8]
            assert first == second
            assert first[0] != os.getpid()
            assert first[1] == os.nice(0) + NICENESS
            assert set(troubles) == {None}
        await gone(first[0])

    asyncio.run(scenario())


def test_no_process_is_started_before_there_is_a_job():
    async def scenario():
        async with working() as (work, _):
            await asyncio.sleep(0)
            assert work._process is None

    asyncio.run(scenario())


def test_what_a_job_prints_does_not_spoil_the_answer():
    async def scenario():
        async with working() as (work, _):
            assert await work.answer(Printing()) == "said"
            assert await work.answer(Double(1)) == 2

    asyncio.run(scenario())


def test_a_bug_in_a_job_costs_that_job_and_is_said():
    async def scenario():
        async with working() as (work, troubles):
            with pytest.raises(NoAnswer, match="ZeroDivisionError: a bug"):
                await work.answer(Buggy())
            assert "Buggy" in troubles[-1]
            assert await work.answer(Double(2)) == 4
            assert troubles[-1] is None

    asyncio.run(scenario())


def test_a_worker_that_is_killed_costs_one_answer_and_another_takes_its_place():
    async def scenario():
        async with working() as (work, troubles):
            before, _ = await work.answer(WhoAmI())
            taken = []
            work.ask(Killed(), taken.append)
            after, _ = await work.answer(WhoAmI())
            assert taken == [None]
            assert after != before
            assert any(text and "Killed" in text for text in troubles)

    asyncio.run(scenario())


def test_a_job_without_end_is_broken_off(monkeypatch):
    monkeypatch.setattr(long_work, "LONGEST_JOB_S", 0.3)

    async def scenario():
        async with working() as (work, troubles):
            with pytest.raises(NoAnswer, match=r"longer than 0\.3 s"):
                await work.answer(Endless())
            assert "names and files may be missing" in troubles[-1]
            monkeypatch.setattr(long_work, "LONGEST_JOB_S", 60.0)
            assert await work.answer(Double(3)) == 6

    asyncio.run(scenario())


def test_the_oldest_that_waits_is_dropped_where_too_many_do(monkeypatch):
    monkeypatch.setattr(long_work, "MOST_WAITING", 3)

    async def scenario():
        taken = {}
        work = LongWork(lambda _: None)
        for number in range(5):
            work.ask(Double(number), lambda answer, n=number: taken.update({n: answer}))
        running = asyncio.get_running_loop().create_task(work.run())
        await work.join()
        await asyncio.sleep(0)
        assert taken == {0: None, 1: None, 2: 4, 3: 6, 4: 8}
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    asyncio.run(scenario())


def test_what_a_lane_looks_for_crosses_once():
    """The worker is handed the very same object again, not a copy of it."""
    rules = computed_rules()

    async def scenario():
        async with working() as (work, _):
            first = await work.answer(LooksAt(rules))
            assert await work.answer(LooksAt(rules)) == first
            assert work._kept.last == 1

    asyncio.run(scenario())


def test_of_many_lanes_the_oldest_is_forgotten_and_sent_again(monkeypatch):
    monkeypatch.setattr(long_work, "MOST_KEPT", 2)
    rules = [replace(computed_rules()) for _ in range(3)]

    async def scenario():
        async with working() as (work, _):
            for each in rules:
                await work.answer(LooksAt(each))
            assert len(work._kept.numbers) == 2
            await work.answer(LooksAt(rules[0]))
            assert work._kept.last == 4

    asyncio.run(scenario())


def test_a_signal_to_stop_leaves_the_worker_to_the_daemon_and_its_end_ends_it():
    async def scenario():
        async with working() as (work, _):
            pid, _ = await work.answer(WhoAmI())
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            assert (await work.answer(WhoAmI()))[0] == pid
            work._process.stdin.close()  # as the kernel does where the daemon is killed
            await gone(pid)

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wall_s", "cpu_s", "expected_s"),
    [
        (0.005, 0.005, 0.0),  # a processor of its own
        (0.005, 0.003, 0.0),
        (0.010, 0.0025, 0.020),  # a quarter of one, with the daemon
        (0.300, 0.002, 0.100),  # hardly any
    ],
)
def test_a_job_that_is_squeezed_rests_and_one_that_is_not_goes_on(wall_s, cpu_s, expected_s):
    assert rest_s(wall_s, cpu_s) == pytest.approx(expected_s)


def test_a_job_that_gives_way_again_and_again_is_done_all_the_same(monkeypatch):
    """Rests are longer than the time to the next look, so looks must not stand on each other."""
    deepest, rests = 0, 0

    def rest(_wall_s: float, _cpu_s: float) -> float:
        nonlocal deepest, rests
        rests += 1
        deepest = max(deepest, len(traceback.extract_stack()))
        return 0.012

    monkeypatch.setattr(worker, "rest_s", rest)
    with giving_way():
        until_s = time.process_time() + 0.05
        while time.process_time() < until_s or rests < 5:
            pass
        allowed = len(traceback.extract_stack()) + 4
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert deepest <= allowed


def test_a_job_done_alone_leaves_no_process_behind():
    async def scenario():
        pid, _ = await answer_alone(WhoAmI())
        await gone(pid)
        with pytest.raises(NoAnswer, match="a bug"):
            await answer_alone(Buggy())

    asyncio.run(scenario())


def test_whoever_waits_at_the_end_is_told_that_there_will_be_no_answer():
    async def scenario():
        taken = []
        async with working() as (work, _):
            await work.answer(Double(0))
            work.ask(Endless(), taken.append)
            work.ask(Double(1), taken.append)
        await asyncio.sleep(0)
        assert taken == [None, None]

    asyncio.run(scenario())
