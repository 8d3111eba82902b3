"""The uplink sleeps whenever there is nothing that it can do, and still forgets nothing.

A timer of 0 s that is armed again and again while a chunk is being read starves the thread that
reads it: on a slow machine the backlog then stands still.
"""

from __future__ import annotations

import asyncio
import copy
import selectors
import threading
from collections import deque
from dataclasses import replace
from unittest import mock

import pytest
from blob_child import blob
from delivery_bench import ABOUT, IDENTITY, Bench, alarm, until
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto import running_mosquitto

from agent.clock import Backoff, Clock
from agent.delivery import forward
from agent.delivery.outbox import FETCH_ROWS, Item, Outbox
from agent.delivery.snapshots import Stream, StreamState
from agent.delivery.store.blob_tables import StoredBlob
from agent.delivery.store.journal import JournalStats, Stored
from agent.delivery.uplink import Acknowledged, Heard
from agent.delivery.wire import STREAMS
from agent.settings import MqttOptions

BACKLOG_PER_S = 20
WINDOW = 3
TURNS_AT_MOST = 60
"""The loop may turn so often for one piece of news before it sleeps; far more than any needs."""
TURNS_OF_A_BURST = 5_000
"""With a real broker answers may come as fast as they are taken, but not so many of them."""
NEVER_S = 1e9

streams = st.sampled_from(STREAMS)
chunk_counts = st.sampled_from([0, 0, 1, 3])


def record(stream: Stream, seq: int, chunks: int) -> Stored:
    parts = (StoredBlob(f"{stream}{seq}", chunks),) if chunks else ()
    return Stored(stream=stream, epoch="e", seq=seq, topic="t", payload=b"p", blobs=parts)


# ------------------------------------------------------------ what the outbox says of later


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("stored"), streams, chunk_counts),
            st.tuples(st.just("disk"), streams, chunk_counts),
            st.sampled_from([("fetch",), ("next",), ("next_but_chunks",), ("wait",)]),
            st.sampled_from([("begin",), ("repeat",)]),
        ),
        max_size=60,
    )
)
@settings(max_examples=300, deadline=None)
def test_the_outbox_names_a_moment_that_is_later_and_at_which_it_has_more(steps) -> None:
    box = Outbox(BACKLOG_PER_S)
    box.begin([], {})
    disk: dict[str, list[Stored]] = {stream: [] for stream in STREAMS}
    taken: list[Stored] = []
    now_s = 5.0
    for name, *given_ in steps:
        if name in ("stored", "disk"):
            stream, chunks = given_
            new = record(stream, len(disk[stream]) + 1, chunks)
            disk[stream].append(new)
            if name == "stored":
                box.stored(new)
        elif name == "fetch" and (wanted := box.wants()) is not None:
            rows = [row for row in disk[wanted.stream] if row.seq > wanted.after_seq]
            box.fetched(wanted, [row for row in rows if (row in taken) == wanted.is_repeat])
        elif name in ("next", "next_but_chunks"):
            found = box.next(now_s, may_carry=name == "next")
            if isinstance(found, Item) and found.chunk is None and found.stored is not None:
                taken.append(found.stored)
        elif name == "wait":
            now_s += 0.6 / BACKLOG_PER_S
        elif name == "begin":
            box.begin([], {stream: len(disk[stream]) for stream in STREAMS})
        elif name == "repeat":
            box.repeat({stream: len(disk[stream]) for stream in STREAMS})
        for may_carry in (True, False):
            found = copy.deepcopy(box).next(now_s, may_carry=may_carry)
            if found is None:  # then time alone changes nothing: nobody need look again
                assert copy.deepcopy(box).next(NEVER_S, may_carry=may_carry) is None
            elif not isinstance(found, Item):
                assert found > now_s
                assert isinstance(copy.deepcopy(box).next(found, may_carry=may_carry), Item)


# ------------------------------------------------------------ the loop under the uplink


class Turns(selectors.DefaultSelector):
    """Counts turns of an event loop between two sleeps; ``on_sleep`` is told of each of these."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self._at_most = at_most
        self.turns = 0
        self.sleeps = 0

    def select(self, timeout: float | None = None):
        if timeout is None or timeout > 0:
            self.turns = 0
            self.sleeps += 1
            return self.on_sleep(timeout)
        self.turns += 1
        assert self.turns <= self._at_most, "the loop turns and turns, and nothing is to be done"
        return super().select(0)

    def on_sleep(self, timeout: float | None):
        return super().select(timeout)


class StillLoop(asyncio.SelectorEventLoop):
    """An event loop whose time the test moves, and which says when it would sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        selector = Turns(TURNS_AT_MOST)
        selector.on_sleep = self._on_sleep
        super().__init__(selector)
        self._asleep: asyncio.Future[None] | None = None

    def time(self) -> float:
        return self.now_s

    def _on_sleep(self, _timeout: float | None):
        assert self._asleep is not None
        assert not self._asleep.done()
        self._asleep.set_result(None)
        return []

    async def settled(self) -> None:
        """Return once the loop has done all it can do now."""
        self._asleep = self.create_future()
        await self._asleep

    async def wait(self, delay_s: float) -> None:
        self.now_s += delay_s
        await self.settled()


class Disk:
    """A journal whose readings land when the test lets them."""

    epoch = "e"

    def __init__(self, rows: list[tuple[Stream, int]]) -> None:
        self.rows: dict[Stream, list[Stored]] = {stream: [] for stream in STREAMS}
        self.sent: dict[Stream, set[int]] = {stream: set() for stream in STREAMS}
        self._readings: deque[asyncio.Future[None]] = deque()
        for stream, chunks in rows:
            self.add(stream, chunks)

    def add(self, stream: Stream, chunks: int) -> Stored:
        new = record(stream, len(self.rows[stream]) + 1, chunks)
        self.rows[stream].append(new)
        return new

    def land(self) -> None:
        if self._readings:
            self._readings.popleft().set_result(None)

    async def _reading(self) -> None:
        landing = asyncio.get_running_loop().create_future()
        self._readings.append(landing)
        await landing

    async def unsent(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        rows = [row for row in self.rows[stream] if row.seq not in self.sent[stream]]
        await self._reading()
        return [row for row in rows if row.seq > after_seq][:limit]

    async def unreceipted(self, stream: Stream, after_seq: int, limit: int) -> list[Stored]:
        rows = [row for row in self.rows[stream] if row.seq in self.sent[stream]]
        await self._reading()
        return [row for row in rows if row.seq > after_seq][:limit]

    async def blob_chunk(self, _sha256: str, _number: int) -> bytes:
        await self._reading()
        return b"chunk"

    def mark_sent(self, stream: Stream, _epoch: str, seqs: tuple[int, ...]) -> None:
        self.sent[stream].update(seqs)

    async def increment(self, _key: str) -> int:
        return 1

    async def flush(self) -> None:
        pass

    async def stats(self) -> JournalStats:
        state = StreamState(
            epoch="e", first_kept=None, last=0, sent=0, receipted=0, oldest_unsent_s=None
        )
        return JournalStats(
            epoch="e",
            streams=dict.fromkeys(STREAMS, state),
            used_bytes=0,
            cap_bytes=1,
            level_percent=0,
            disk_free_bytes=None,
            parked=0,
            has_reserve=False,
        )


class Line:
    """A connection whose broker answers when the test says so."""

    name = "broker"
    packet_limit = 1 << 20
    last: Line

    def __init__(self, _options, _identity, _will, heard) -> None:
        loop = asyncio.get_running_loop()
        self.accepted = loop.create_future()
        self.ended = loop.create_future()
        self._heard = heard
        self._mid = 0
        self.unanswered: deque[tuple[int, str, bytes]] = deque()
        self.accepted_last: dict[str, bytes] = {}
        Line.last = self

    def start(self) -> None:
        self.accepted.set_result(self.name)

    def window(self, _wanted: int) -> int:
        return WINDOW

    def publish(self, topic, payload, *, is_retained, is_opaque=False) -> int:
        assert not (is_retained and is_opaque)
        self._mid += 1
        self.unanswered.append((self._mid, topic, payload))
        return self._mid

    def answer(self, code: int = 0) -> None:
        if self.unanswered:
            mid, topic, payload = self.unanswered.popleft()
            if code == 0:
                self.accepted_last[topic] = payload
            event: Heard = Acknowledged(mid, code, "quota exceeded")
            self._heard(self, event)

    def subscribe(self, _filter) -> None:
        pass

    def close(self) -> None:
        pass


QUOTA_EXCEEDED = 0x97


@given(
    st.lists(st.tuples(streams, chunk_counts), max_size=8),
    st.lists(
        st.one_of(
            st.tuples(st.just("stored"), streams, chunk_counts),
            st.sampled_from(
                [("land",), ("answer",), ("answer",), ("refuse",), ("wait",), ("snapshot",)]
            ),
        ),
        max_size=40,
    ),
)
@settings(max_examples=150, deadline=None)
def test_the_uplink_sleeps_between_any_two_pieces_of_news_and_sends_everything(
    on_disk, steps
) -> None:
    async def scenario(loop: StillLoop) -> None:
        disk = Disk(on_disk)
        options = {"host": "broker", "tls": False, "backlog_per_s": BACKLOG_PER_S}
        uplink = forward.Uplink(
            MqttOptions(**options),  # type: ignore[arg-type]
            IDENTITY,
            disk,  # type: ignore[arg-type]
            Clock(),
            about=lambda: ABOUT,
            software="test",
            backoff=Backoff(first_s=1.0, cap_s=1.0),
        )
        newest = b""
        running = loop.create_task(uplink.run())
        await loop.settled()
        for name, *given_ in steps:
            if name == "stored":
                uplink.notify_appended(disk.add(*given_))
            elif name == "land":
                disk.land()
            elif name == "answer":
                Line.last.answer()
            elif name == "refuse":
                Line.last.answer(QUOTA_EXCEEDED)
            elif name == "snapshot":
                newest += b"."
                uplink.set_retained("snapshot", newest)
            elif name == "wait":
                loop.now_s += 0.6 / BACKLOG_PER_S
            await loop.settled()
        everything = {stream: {row.seq for row in disk.rows[stream]} for stream in STREAMS}
        for _ in range(40 * (len(on_disk) + len(steps) + 3)):
            shown = Line.last.accepted_last.get("snapshot", b"")
            if disk.sent == everything and shown == newest:
                break
            disk.land()
            await loop.settled()
            Line.last.answer()
            await loop.wait(1.0)
        assert (disk.sent, shown) == (everything, newest)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    assert FETCH_ROWS > 8
    loop = StillLoop()
    with (
        mock.patch.object(forward, "Connection", Line),
        asyncio.Runner(loop_factory=lambda: loop) as runner,
    ):
        runner.run(scenario(loop))


@pytest.mark.broker
def test_the_loop_sleeps_while_the_disk_keeps_a_chunk_waiting(tmp_path) -> None:
    """A backlog with blobs, and a disk that stands still at the first chunk."""
    count = 4

    async def scenario(port: int) -> None:
        bench = Bench(tmp_path, port)
        await bench.journal.open()
        for number in range(1, count + 1):
            await bench.journal.append(replace(alarm(number), blobs=(blob(number, 300_000),)))
        store, is_held, may_go_on = bench.journal._store, threading.Event(), threading.Event()
        read_chunk = store.blob_chunk

        def held(sha256: str, number: int) -> bytes | None:
            is_held.set()
            assert may_go_on.wait(20)
            return read_chunk(sha256, number)

        with mock.patch.object(store, "blob_chunk", held):
            bench._running = asyncio.create_task(bench.uplink.run())
            await until(is_held.is_set)
            asleep_before = selector.sleeps
            await until(lambda: selector.sleeps >= asleep_before + 5)
            may_go_on.set()
            await until(lambda: bench.uplink.stats().is_caught_up)
        await bench.__aexit__()

    (tmp_path / "broker").mkdir()
    selector = Turns(TURNS_OF_A_BURST)
    with (
        running_mosquitto(tmp_path / "broker") as broker,
        asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner,
    ):
        runner.run(asyncio.wait_for(scenario(broker.port), 30))
