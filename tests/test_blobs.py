from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import select
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from blob_child import blob
from delivery_bench import ENCODER, IDENTITY, Bench, alarm, check_message, passage, until
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto import running_mosquitto

from agent.clock import Clock
from agent.daemon import recorder as recorders
from agent.delivery import blobs, forward, outbox
from agent.delivery.blobs import CHUNK_BYTES
from agent.delivery.outbox import Item, Outbox
from agent.delivery.store.blob_tables import StoredBlob
from agent.delivery.store.journal import JournalError, Store, Stored
from agent.delivery.wire import encode
from agent.records import Blob
from agent.settings import JournalOptions
from simulators.centre import Centre

SEED = 20261123
KILLS = 6
PREFIX = f"{IDENTITY.prefix}/"


@contextmanager
def opened(folder: Path, *, max_bytes: int = 64 << 20):
    options = JournalOptions(path=str(folder / "journal.db"), max_bytes=max_bytes, reserve_bytes=0)
    store = Store(options, Clock(), ENCODER)
    store.open()
    try:
        yield store
    finally:
        store.close()


def append(store: Store, *records, is_vital: bool = True) -> list[Stored]:
    return store.run(
        [lambda record=record: store.append(record) for record in records], is_vital=is_vital
    )


def body(stored: Stored) -> dict:
    return json.loads(stored.payload)["data"]


def whole(store: Store, part: StoredBlob) -> bytes:
    numbers = range(part.chunks)
    return b"".join(store.read(lambda n=n: store.blob_chunk(part.sha256, n)) for n in numbers)


def held(store: Store) -> set[str]:
    return {name for (name,) in store._db.execute("SELECT DISTINCT sha256 FROM blob_chunk")}


def tombstones(store: Store) -> list[dict]:
    kept = store.read(lambda: store.unsent("audit", 0, 10_000))
    return [body(row) for row in kept if row.topic.endswith("/drop")]


# ------------------------------------------------------------ on the wire and on disk


def test_a_record_names_its_blobs_and_holds_none_of_their_bytes(tmp_path) -> None:
    part = blob(7, size=2 * CHUNK_BYTES + 1)
    with opened(tmp_path) as store:
        (stored,) = append(store, replace(alarm(1), blobs=(part,)))
        digest = hashlib.sha256(part.data).hexdigest()
        assert body(stored)["blobs"] == [
            {"role": "n42", "media_type": "application/xml", "sha256": digest,
             "size": 2 * CHUNK_BYTES + 1, "chunks": 3}
        ]  # fmt: skip
        assert len(stored.payload) < 4000
        check_message(stored.topic, stored.payload)
        assert stored.blobs == (StoredBlob(digest, 3),)
        assert whole(store, stored.blobs[0]) == part.data
    with opened(tmp_path) as store:
        (again,) = store.read(lambda: store.unsent("alarm", 0, 10))
        assert again == stored


def test_a_record_without_blobs_has_the_bytes_it_always_had() -> None:
    message = encode(alarm(1), encoder=ENCODER, epoch="00ff", seq=1, recorded_utc_us=0)
    assert b"blobs" not in message


def test_bytes_that_two_records_name_are_kept_once_and_leave_with_the_last(tmp_path) -> None:
    part = blob(1)
    with opened(tmp_path) as store:
        append(store, replace(alarm(1), blobs=(part,)), replace(passage(1), blobs=(part, part)))
        chunks = store._db.execute("SELECT count(*) FROM blob_chunk").fetchone()[0]
        assert chunks == blobs.chunk_count(len(part.data))
        for stream, left in (("alarm", {part.sha256}), ("pass", set())):
            store.run([lambda stream=stream: store.receipt(stream, store.epoch, 1)])
            store.run([store.release_receipted])
            assert held(store) == left


def test_a_store_of_the_first_schema_is_brought_up_and_keeps_its_records(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(alarm(n) for n in range(3)))
        before = store.read(lambda: store.unsent("alarm", 0, 10))
    database = sqlite3.connect(tmp_path / "journal.db")
    for trigger in ("record_gone", "record_blob_gone"):
        database.execute(f"DROP TRIGGER {trigger}")
    for table in ("record_blob", "blob_chunk"):
        database.execute(f"DROP TABLE {table}")
    database.execute("UPDATE meta SET value='1' WHERE key='schema'")
    database.commit()
    database.close()
    with opened(tmp_path) as store:
        assert store.read(lambda: store.unsent("alarm", 0, 10)) == before
        append(store, replace(alarm(3), blobs=(blob(3),)))
        assert held(store) == {blob(3).sha256}


# ------------------------------------------------------------ room


def test_blobs_of_passages_go_first_and_a_tombstone_names_them(tmp_path) -> None:
    with opened(tmp_path, max_bytes=8 << 20) as store:
        append(store, replace(alarm(1), blobs=(blob(1, 900_000),)))
        names = {}
        for n in range(2, 30):
            (stored,) = append(store, replace(passage(n), blobs=(blob(n, 500_000),)))
            names[stored.seq] = stored.blobs[0].sha256
        assert store.read(store.stats).used_bytes <= 8 << 20
        kept = store.read(lambda: store.unsent("pass", 0, 100))
        assert [row.seq for row in kept] == list(range(1, 29)), "no passage itself has gone"
        gone = {digest for stone in tombstones(store) for digest in stone["blobs"]}
        with_blob = [row.seq for row in kept if row.blobs]
        assert gone == {names[row.seq] for row in kept if not row.blobs}
        assert with_blob == list(range(with_blob[0], 29)), "the oldest went"
        assert blob(1, 900_000).sha256 in held(store)
        for row in store.read(lambda: store.unsent("audit", 0, 100)):
            check_message(row.topic, row.payload)


def test_for_an_alarms_blobs_passages_go_and_no_alarm_does(tmp_path) -> None:
    with opened(tmp_path, max_bytes=4 << 20) as store:
        append(store, *(passage(n) for n in range(400)))
        for n in range(1, 12):
            append(store, alarm(100 + n), replace(alarm(n), blobs=(blob(n, 700_000),)))
        alarms = store.read(lambda: store.unsent("alarm", 0, 100))
        assert [row.seq for row in alarms] == list(range(1, 23))
        assert store.read(lambda: store.unsent("pass", 0, 10)) == []
        assert alarms[-1].blobs, "the newest alarm's blob found room"
        assert whole(store, alarms[-1].blobs[0]) == blob(11, 700_000).data
        named = {b["sha256"] for row in alarms for b in body(row).get("blobs", [])}
        gone = {digest for stone in tombstones(store) for digest in stone.get("blobs", [])}
        assert named == held(store) | gone
        assert not held(store) & gone


def test_a_blob_that_would_drive_out_a_quarter_of_the_store_is_not_kept(tmp_path) -> None:
    with opened(tmp_path, max_bytes=4 << 20) as store:
        (stored,) = append(store, replace(alarm(1), blobs=(blob(1, (1 << 20) + 1),)))
        assert stored.blobs == ()
        (stone,) = tombstones(store)
        assert stone["blobs"] == [blob(1, (1 << 20) + 1).sha256]
        assert "1048577 bytes, the limit is 1048576" in stone["reason"]


def test_what_is_left_of_a_full_disk_is_for_alarms_and_not_for_their_blobs(tmp_path) -> None:
    with opened(tmp_path) as store:
        store._tighten()
        (stored,) = append(store, replace(alarm(1), blobs=(blob(1),)))
        assert stored.blobs == ()
        assert [stone["reason"] for stone in tombstones(store)] == ["the disk is full"]


def test_a_kill_leaves_no_record_without_its_blobs_and_no_half_blob(tmp_path) -> None:
    print(f"seed {SEED}")
    moments = random.Random(SEED)
    acknowledged: dict[int, str] = {}
    for kill in range(KILLS):
        child = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("blob_child.py"),
             tmp_path / "journal.db", str(kill * 100_000)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        assert child.stdout is not None
        try:
            ready, _, _ = select.select([child.stdout], [], [], 20.0)
            assert ready, "the child did not start"
            time.sleep(0.02 + moments.random() * 0.15)  # the moment of the kill is the point
        finally:
            child.kill()
            text = child.stdout.read().decode()
            child.wait(10)
            child.stdout.close()
        for line in text[: text.rfind("\n") + 1].splitlines()[1:]:
            number, digest = line.split()
            acknowledged[int(number)] = digest
    assert len(acknowledged) > 2 * KILLS
    with opened(tmp_path) as store:
        rows = store.read(lambda: store.unsent("alarm", 0, 100_000))
        for row in rows:
            (named,) = body(row)["blobs"]
            (part,) = row.blobs
            data = whole(store, part)
            assert len(data) == named["size"]
            assert hashlib.sha256(data).hexdigest() == named["sha256"] == part.sha256
        assert set(acknowledged.values()) <= {row.blobs[0].sha256 for row in rows}
        assert held(store) == {row.blobs[0].sha256 for row in rows}


# ------------------------------------------------------------ the order of sending


def stored_as(stream: str, seq: int, chunks: int = 0) -> Stored:
    parts = (StoredBlob(f"{stream}{seq}", chunks),) if chunks else ()
    return Stored(stream=stream, epoch="0", seq=seq, topic="t", payload=b"p", blobs=parts)


def drained(box: Outbox) -> Outbox:
    """Return the outbox once it knows that nothing stands on disk."""
    while (wanted := box.wants()) is not None:
        box.fetched(wanted, [])
    return box


def label(item: Item | float | None) -> str | None:
    if not isinstance(item, Item) or item.stored is None:
        return None
    part = "" if item.chunk is None else f".{item.chunk.number}"
    return f"{item.stored.stream}/{item.stored.seq}{part}"


def test_a_live_alarm_never_waits_for_a_chunk() -> None:
    box = drained(Outbox(backlog_per_s=100))
    box.stored(stored_as("alarm", 1, chunks=3))
    assert label(box.next(0.0)) == "alarm/1.0"
    box.stored(stored_as("alarm", 2))
    assert label(box.next(0.0, may_carry=False)) == "alarm/2"
    assert label(box.next(0.0, may_carry=False)) is None
    assert [label(box.next(0.0)) for _ in range(4)] == ["alarm/1.1", "alarm/1.2", "alarm/1", None]


def test_an_alarms_chunks_go_between_those_of_a_passage() -> None:
    box = drained(Outbox(backlog_per_s=100))
    box.stored(stored_as("pass", 1, chunks=3))
    assert label(box.next(0.0)) == "pass/1.0"
    box.stored(stored_as("alarm", 1, chunks=2))
    box.stored(stored_as("pass", 2))
    order = [label(box.next(0.0)) for _ in range(7)]
    assert order == ["alarm/1.0", "alarm/1.1", "alarm/1", "pass/1.1", "pass/1.2", "pass/1",
                     "pass/2"]  # fmt: skip
    assert box.is_caught_up


def test_a_blob_goes_once_in_a_connection_and_again_with_a_repeat() -> None:
    box = drained(Outbox(backlog_per_s=100))
    first, second = (
        stored_as("alarm", 1, chunks=1),
        replace(stored_as("pass", 1, chunks=1), blobs=(StoredBlob("alarm1", 1),)),
    )
    box.stored(first)
    assert [label(box.next(0.0)) for _ in range(2)] == ["alarm/1.0", "alarm/1"]
    box.carried("alarm1")
    box.stored(second)
    assert label(box.next(0.0)) == "pass/1"
    box.repeat({"pass": 1})
    wanted = box.wants()
    assert wanted is not None
    box.fetched(wanted, [second])
    assert [label(box.next(9.0)) for _ in range(2)] == ["pass/1.0", "pass/1"]
    box.begin([], {})
    drained(box).stored(second)
    assert label(box.next(9.0)) == "pass/1.0"


@given(
    st.lists(
        st.tuples(st.sampled_from(["alarm", "audit", "pass"]), st.integers(0, 3)), max_size=40
    ),
    st.lists(st.booleans(), max_size=200),
)
@settings(max_examples=100, deadline=None)
def test_every_chunk_goes_once_and_before_its_record(records, turns) -> None:
    box = drained(Outbox(backlog_per_s=1_000_000))
    waiting = [
        stored_as(stream, number, chunks if stream != "audit" else 0)
        for number, (stream, chunks) in enumerate(records, 1)
    ]
    taken: list[str] = []
    carrying = False
    for turn in (*turns, *[True] * (8 * len(records) + 8)):
        if turn and waiting:
            box.stored(waiting.pop(0))
            continue
        item = box.next(0.0, may_carry=not carrying)
        name = label(item)
        if name is not None:
            taken.append(name)
        # A chunk is answered a turn later.
        carrying = isinstance(item, Item) and item.chunk is not None
    expected = []
    for number, (stream, chunks) in enumerate(records, 1):
        parts = [f"{stream}/{number}.{n}" for n in range(chunks if stream != "audit" else 0)]
        expected += [*parts, f"{stream}/{number}"]
        places = [taken.index(part) for part in (*parts, f"{stream}/{number}")]
        assert places == sorted(places)
    assert sorted(taken) == sorted(expected)
    assert box.is_caught_up


# ------------------------------------------------------------ on a real broker

broker_needed = pytest.mark.broker


@pytest.fixture
def broker(tmp_path):
    (tmp_path / "broker").mkdir()
    with running_mosquitto(tmp_path / "broker") as running:
        yield running


class Listening(Centre):
    """A centre that remembers what it heard, in order."""

    def __init__(self, host: str, port: int, **options) -> None:
        self.heard: list[tuple[str, bytes]] = []
        super().__init__(host, port, **options)

    def _take(self, topic: str, payload: bytes) -> None:
        self.heard.append((topic.removeprefix(PREFIX), payload))
        super()._take(topic, payload)


def centre_on(broker, **options) -> Listening:
    centre = Listening(broker.host, broker.port, **options)
    centre.start()
    assert centre.wait_for(lambda: centre.is_connected)
    return centre


def check_all(heard: list[tuple[str, bytes]]) -> None:
    for topic, payload in heard:
        check_message(PREFIX + topic, payload)


def run(scenario, limit_s: float = 30.0) -> None:
    asyncio.run(asyncio.wait_for(scenario, limit_s))


async def released(bench: Bench) -> None:
    """Wait until the centre's receipts have emptied the store, of blobs too."""
    while True:
        await bench.journal.flush()
        stats = await bench.journal.stats()
        if all(state.first_kept is None for state in stats.streams.values()):
            break
        await asyncio.sleep(0.02)
    assert await held_by(bench) == set()


async def held_by(bench: Bench) -> set[str]:
    return await bench.journal._read(lambda: held(bench.journal._store))


def with_blob(record, number: int, size: int = 300_000):
    return replace(record, blobs=(blob(number, size),))


@broker_needed
def test_chunks_arrive_before_their_event_and_the_receipt_releases_both(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker, database=tmp_path / "centre.sqlite")
        heard = centre.heard
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(with_blob(alarm(1), 1))
            await bench.journal.append(with_blob(passage(1), 2))
            await released(bench)
        centre.stop()
        for number in (1, 2):
            assert centre.blob(blob(number).sha256) == blob(number).data
        assert list(centre.problems) == []
        check_all(heard)
        for number, event in ((1, "ev/alarm"), (2, "ev/pass")):
            topics = [topic for topic, _ in heard]
            (at,) = [i for i, topic in enumerate(topics) if topic.startswith(event)]
            digest = blob(number).sha256
            chunks = [i for i, topic in enumerate(topics) if topic.startswith(f"blob/{digest}")]
            assert len(chunks) == 5  # 300,000 bytes in parts of 65,536
            assert max(chunks) < at

    run(scenario())


@broker_needed
def test_an_alarm_and_its_passage_name_one_file_that_is_sent_once(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        heard = centre.heard
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            await bench.journal.append(with_blob(alarm(1), 1))
            await bench.journal.append(with_blob(passage(1), 1))
            await released(bench)
        centre.stop()
        assert len([topic for topic, _ in heard if topic.startswith("blob/")]) == 5
        assert len(centre.records()) == 2

    run(scenario())


@broker_needed
def test_a_live_alarm_overtakes_a_large_blob(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        heard = centre.heard
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            await bench.journal.append(with_blob(alarm(1, phase="updated"), 1, 8_000_000))
            await until(lambda: len(heard) > 5)
            await bench.journal.append(alarm(2))
            await released(bench)
        centre.stop()
        topics = [topic for topic, _ in heard]
        chunks = [i for i, topic in enumerate(topics) if topic.startswith("blob/")]
        events = [i for i, topic in enumerate(topics) if topic.startswith("ev/alarm")]
        seqs = [json.loads(heard[i][1])["seq"] for i in events]
        assert seqs == [2, 1]
        assert len([i for i in chunks if i > events[0]]) > 20
        assert centre.blob(blob(1, 8_000_000).sha256) is not None

    run(scenario())


@broker_needed
@pytest.mark.parametrize("lost", ["connection", "broker"])
def test_what_is_lost_in_mid_blob_costs_nothing(tmp_path, broker, monkeypatch, lost) -> None:
    """A killed broker forgets what it acknowledged: event and blobs come again."""
    monkeypatch.setattr(outbox, "REPEAT_SOON_S", 0.5)

    async def scenario() -> None:
        centre = centre_on(broker)
        heard = centre.heard
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(alarm(1))
            await until(lambda: centre.upto(_key(bench, "alarm")) == 1)
            await bench.journal.append(with_blob(alarm(2), 2, 4_000_000))
            await until(lambda: len([t for t, _ in heard if t.startswith("blob/")]) > 10)
            assert len(centre.records()) == 1
            if lost == "connection":
                bench.uplink._connection.close()
            else:
                broker.kill()
                await asyncio.to_thread(broker.start)
            await released(bench)
            assert bench.uplink.stats().conn >= 2
        centre.stop()
        assert centre.blob(blob(2, 4_000_000).sha256) == blob(2, 4_000_000).data
        assert centre.gaps() == {}
        assert list(centre.problems) == []

    run(scenario())


def _key(bench: Bench, stream: str):
    from simulators.centre import Stream  # noqa: PLC0415 - the name is the outbox's too

    return Stream("bridge-north", "gw-1", stream, bench.journal.epoch)


@broker_needed
def test_a_centre_that_was_away_gets_event_and_blobs_again(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(with_blob(alarm(1), 1))
            await until(lambda: bench.uplink.stats().no_subscribers >= 6)
            centre = centre_on(broker)
            bench.uplink._connection.close()
            await released(bench)
            assert centre.blob(blob(1).sha256) == blob(1).data
            centre.stop()

    run(scenario())


@broker_needed
@pytest.mark.parametrize("where", ["ours", "the broker's"])
def test_a_chunk_too_large_parks_its_record_and_the_rest_flows(tmp_path, where) -> None:
    async def scenario(port: int, **mqtt: int) -> None:
        async with Bench(tmp_path, port, **mqtt) as bench:
            await bench.journal.append(with_blob(alarm(1), 1))
            await bench.journal.append(alarm(2))
            await bench.journal.append(passage(1))
            await until(lambda: "parked" in [event.kind for event in bench.events])
            await until(lambda: bench.uplink.stats().is_caught_up)
            stats = await bench.journal.stats()
            assert stats.parked == 1
            assert await held_by(bench) == {blob(1).sha256}
            assert bench.uplink.stats().conn == 1

    folder = tmp_path / "broker"
    folder.mkdir()
    extra = "" if where == "ours" else "max_packet_size 40000\n"
    with running_mosquitto(folder, extra=extra) as broker:
        run(scenario(broker.port, **({"max_payload_bytes": 40_000} if where == "ours" else {})))


@broker_needed
def test_a_chunk_the_broker_refuses_parks_its_record_and_the_rest_flows(tmp_path) -> None:
    async def scenario(broker) -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            await bench.journal.append(with_blob(alarm(1), 1))
            await bench.journal.append(alarm(2))
            await until(lambda: len(centre.records()) == 2)  # the alarm and the tombstone
            assert centre.dropped(_key(bench, "alarm")) == [(1, 1)]
            assert "Not authorized" in centre.records("audit")[0].data["reason"]
            await released_but_parked(bench)
        centre.stop()

    folder = tmp_path / "broker"
    folder.mkdir()
    (folder / "acl").write_text(
        "topic readwrite checkpoint/#\ntopic deny checkpoint/v1/+/+/blob/#\n"
    )
    with running_mosquitto(folder, extra=f"acl_file {folder}/acl\n") as broker:
        run(scenario(broker))


async def released_but_parked(bench: Bench) -> None:
    while True:
        await bench.journal.flush()
        stats = await bench.journal.stats()
        if stats.streams["alarm"].receipted == 2:
            return
        await asyncio.sleep(0.02)


@broker_needed
def test_a_blob_dropped_before_it_went_does_not_hold_its_event_back(tmp_path, broker) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        heard = centre.heard
        async with Bench(tmp_path, broker.port) as bench:
            await until(lambda: bench.uplink.is_connected)
            appended = bench.journal.append(with_blob(passage(1), 1, 4_000_000))
            waiting = asyncio.ensure_future(appended)
            await until(lambda: len([t for t, _ in heard if t.startswith("blob/")]) > 3)
            store = bench.journal._store
            bench.journal._put(
                lambda: store._drop_blobs("stream = 'pass' ORDER BY seq", "a test"), is_vital=True
            )
            await waiting
            await released(bench)
            assert len(centre.records("pass")) == 1
            assert centre.blob(blob(1, 4_000_000).sha256) is None
            assert centre.upto(_key(bench, "pass")) == 1
        centre.stop()
        check_all(heard)

    run(scenario())


@broker_needed
def test_with_delivery_by_puback_blobs_leave_with_their_record(tmp_path, broker) -> None:
    async def scenario() -> None:
        async with Bench(tmp_path, broker.port, delivery="puback") as bench:
            await bench.journal.append(with_blob(alarm(1), 1))
            await released(bench)

    run(scenario())


@broker_needed
def test_a_journal_that_cannot_be_read_delays_a_chunk_and_loses_none(
    tmp_path, broker, monkeypatch
) -> None:
    monkeypatch.setattr(forward, "CHUNK_RETRY_S", 0.05)

    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            read, failures = bench.journal.blob_chunk, 3

            async def fails(sha256: str, number: int) -> bytes | None:
                nonlocal failures
                if failures:
                    failures -= 1
                    raise JournalError("disk I/O error")
                return await read(sha256, number)

            bench.journal.blob_chunk = fails
            await bench.journal.append(with_blob(alarm(1), 1))
            await released(bench)
            assert failures == 0
        centre.stop()
        assert centre.blob(blob(1).sha256) == blob(1).data

    run(scenario())


@broker_needed
def test_a_centre_does_not_receipt_what_its_digest_contradicts(
    tmp_path, broker, monkeypatch
) -> None:
    async def scenario() -> None:
        centre = centre_on(broker)
        async with Bench(tmp_path, broker.port) as bench:
            monkeypatch.setattr(blobs, "chunks_of", lambda data: [b"x" * len(data)])
            await bench.journal.append(with_blob(alarm(1), 1, 1000))
            await until(lambda: len(centre.problems) > 0)
            assert "do not add up" in centre.problems[0]
            assert centre.upto(_key(bench, "alarm")) == 0
            assert await held_by(bench) == {blob(1, 1000).sha256}
        centre.stop()

    run(scenario())


def test_what_a_disk_takes_not_waits_in_bounded_memory(monkeypatch) -> None:
    """A record beyond the bound is kept without its blobs; the raised alarm is never lost."""
    monkeypatch.setattr(recorders, "KEPT_UNSTORED_BLOB_BYTES", 2500)
    monkeypatch.setattr(recorders, "RETRY_STORE_S", 0.01)

    class Disk:
        """Takes nothing until there is room."""

        has_room = False
        kept: ClassVar[list] = []

        async def append(self, record):
            if not self.has_room:
                raise JournalError("no space left")
            self.kept.append(record)
            return stored_as("pass", 1)

    async def scenario() -> None:
        disk = Disk()
        recorder = recorders.Recorder(disk, Clock())
        for number in range(4):
            recorder.put(with_blob(passage(number), number, 1000))
        await asyncio.sleep(0)
        disk.has_room = True
        await recorder.drain(5.0)
        found = sorted((record.passage_id, len(record.blobs)) for record in disk.kept)
        assert found == [("p-0", 1), ("p-1", 1), ("p-2", 0), ("p-3", 0)]
        recorder.put(with_blob(passage(4), 4, 1000))
        await recorder.drain(5.0)
        assert len(disk.kept[-1].blobs) == 1, "what is stored no longer counts"

    run(scenario())


def test_blob_data_never_shows_in_a_log_line() -> None:
    assert "secret" not in repr(Blob(role="n42", media_type="text/plain", data=b"secret"))
