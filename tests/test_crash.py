from __future__ import annotations

import asyncio
import os
import random
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from delivery_bench import Bench
from mosquitto import running_mosquitto

from simulators.centre import Centre

KILLS = 100
SEED = 20261122


def lines_until_killed(folder: Path, port: int, begin: int, alive_s: float) -> list[str]:
    """Run the child, kill it ``alive_s`` after it began to append, return what it acknowledged."""
    child = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("crash_child.py"),
         str(folder), str(port), str(begin)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert child.stdout is not None
    try:
        ready, _, _ = select.select([child.stdout], [], [], 20.0)
        assert ready, "the child did not start"
        time.sleep(alive_s)  # the moment of the kill is the point, not a wait for something
    finally:
        child.kill()
        text = child.stdout.read().decode()
        child.wait(10)
        child.stdout.close()
    whole = text[: text.rfind("\n") + 1].splitlines()
    assert whole[0] == "ready"
    return whole[1:]


async def deliver_the_rest(folder: Path, port: int) -> dict:
    """Let the last child's successor send what is left, until the centre has all."""
    async with Bench(folder, port) as bench:
        while True:
            await bench.journal.flush()
            stats = await bench.journal.stats()
            if all(state.first_kept is None for state in stats.streams.values()):
                assert bench.events == [], bench.events
                return stats.streams
            await asyncio.sleep(0.02)


@pytest.mark.broker
def test_no_acknowledged_record_is_lost_in_a_hundred_kills(tmp_path) -> None:
    """Killed at random moments: no loss, no hole, one content for one number.

    A kill is no power cut: that what is acknowledged is flushed, test_journal shows.
    """
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    store, broker_folder = tmp_path / "store", tmp_path / "broker"
    store.mkdir()
    broker_folder.mkdir()
    acknowledged: dict[tuple[str, str, int], int] = {}
    with running_mosquitto(broker_folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        assert centre.wait_for(lambda: centre.is_connected)
        for kill in range(KILLS):
            alive_s = moments.choice([0.0, 0.01, 0.05]) + moments.random() * 0.1
            for line in lines_until_killed(store, broker.port, kill * 100_000, alive_s):
                stream, epoch, seq, number = line.split()
                key = (stream, epoch, int(seq))
                assert key not in acknowledged, f"{key} was given out twice"
                acknowledged[key] = int(number)
        last = asyncio.run(asyncio.wait_for(deliver_the_rest(store, broker.port), 60))
        received = {(r.key.stream, r.key.epoch, r.seq): r for r in centre.records()}

        assert len({epoch for _, epoch, _ in acknowledged}) == 1, "the store was begun anew"
        assert len(acknowledged) > 10 * KILLS
        assert acknowledged.keys() <= received.keys()
        assert list(centre.problems) == [], "a number came with two contents, or no record at all"
        assert centre.gaps() == {}
        for stream, state in last.items():
            seqs = sorted(seq for name, _, seq in received if name == stream)
            assert seqs == list(range(1, state.last + 1))
        for key, number in acknowledged.items():
            data = received[key].data
            told = data["number"] if key[0] == "audit" else int(data["text"].split()[1])
            assert told == number
        print(f"acknowledged {len(acknowledged)} received {len(received)} "
              f"repeats {centre.duplicates}")  # fmt: skip
