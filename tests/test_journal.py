from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from delivery_bench import ENCODER, alarm, audit, check_message, passage
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.clock import Clock
from agent.delivery.store import retention
from agent.delivery.store.journal import JournalError, Store
from agent.delivery.store.thread import BATCH_ITEMS, Journal
from agent.delivery.wire import WireError
from agent.records import Record
from agent.settings import JournalOptions


def make(folder: Path, *, max_bytes: int = 64 << 20, reserve_bytes: int = 0, clock=None) -> Store:
    options = JournalOptions(
        path=str(folder / "journal.db"), max_bytes=max_bytes, reserve_bytes=reserve_bytes
    )
    return Store(options, clock or Clock(), ENCODER)


def options_in(folder: Path) -> JournalOptions:
    return JournalOptions(path=str(folder / "journal.db"), reserve_bytes=0)


@contextmanager
def opened(folder: Path, **options):
    store = make(folder, **options)
    store.open()
    try:
        yield store
    finally:
        store.close()


def append(store: Store, *records: Record, is_vital: bool = True) -> list:
    return store.run(
        [lambda record=record: store.append(record) for record in records], is_vital=is_vital
    )


def rows(store: Store, stream: str) -> list[int]:
    return [row.seq for row in store.read(lambda: store.unsent(stream, 0, 100_000))]


def tombstones(store: Store) -> list[dict]:
    kept = store.read(lambda: store.unsent("audit", 0, 100_000))
    bodies = [json.loads(row.payload) for row in kept if row.topic.endswith("/drop")]
    return [body["data"] for body in bodies]


def covered(store: Store, stream: str) -> set[int]:
    """The numbers that stand in the store or on a tombstone."""
    numbers = set(rows(store, stream))
    for stone in tombstones(store):
        if stone["stream"] == stream:
            for first, last in stone.get("ranges", [[stone["from"], stone["to"]]]):
                numbers |= set(range(first, last + 1))
    return numbers


def kinds(store: Store) -> list[str]:
    return [event.kind for event in store.take_events()]


# ------------------------------------------------------------ numbers and bytes


def test_every_commit_is_flushed_to_the_medium(tmp_path) -> None:
    with opened(tmp_path) as store:
        assert store._db.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_an_alarm_is_flushed_before_it_is_acknowledged(tmp_path) -> None:
    trace = tmp_path / "trace"
    program = (
        "import os, sys; from pathlib import Path; import test_journal as t\n"
        "with t.opened(Path(sys.argv[1])) as store:\n"
        "    os.write(1, b'begin\\n')\n"
        "    for n in range(20): t.append(store, t.alarm(n)); os.write(1, b'ack\\n')\n"
    )
    subprocess.run(
        ["strace", "-f", "-e", "trace=fsync,fdatasync,write", "-e", "signal=none", "-o", trace,
         sys.executable, "-c", program, tmp_path],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    lines = trace.read_text().splitlines()
    start = next(index for index, line in enumerate(lines) if '"begin' in line)
    flushed = False
    acknowledged = 0
    for line in lines[start:]:
        if "fdatasync(" in line or "fsync(" in line:
            flushed = True
        elif '"ack' in line:
            assert flushed, "acknowledged without a flush since the last one"
            flushed, acknowledged = False, acknowledged + 1
    assert acknowledged == 20


def test_numbers_begin_at_one_in_each_stream_and_go_on_after_a_restart(tmp_path) -> None:
    with opened(tmp_path) as store:
        stored = append(store, alarm(), passage(), alarm(), audit())
        assert [(each.stream, each.seq) for each in stored] == [
            ("alarm", 1), ("pass", 1), ("alarm", 2), ("audit", 1),
        ]  # fmt: skip
        epoch = store.epoch
    with opened(tmp_path) as store:
        assert store.epoch == epoch
        assert append(store, alarm())[0].seq == 3


def test_the_bytes_on_disk_are_the_bytes_given_out(tmp_path) -> None:
    with opened(tmp_path) as store:
        (stored,) = append(store, alarm())
    with opened(tmp_path) as store:
        assert store.read(lambda: store.unsent("alarm", 0, 10)) == [stored]
        check_message(stored.topic, stored.payload)


def test_a_record_that_cannot_be_encoded_uses_up_no_number_and_costs_no_other(tmp_path) -> None:
    bad = audit()
    bad.data["figure"] = float("nan")
    with opened(tmp_path) as store:
        results = append(store, audit(), bad, audit())
        assert [getattr(each, "seq", None) for each in results] == [1, None, 2]
        assert isinstance(results[1], WireError)


def test_a_failed_commit_uses_up_no_number(tmp_path) -> None:
    def broken() -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with opened(tmp_path) as store:
        append(store, alarm())
        with pytest.raises(JournalError, match="nothing was stored"):
            store.run([lambda: store.append(alarm()), broken])
        assert rows(store, "alarm") == [1]
        assert append(store, alarm())[0].seq == 2
        assert rows(store, "alarm") == [1, 2]


def test_a_clock_that_steps_back_does_not_disorder_the_numbers(tmp_path) -> None:
    now = [1_800_000_000.0]
    clock = Clock(wall_s=lambda: now[0])
    with opened(tmp_path, clock=clock) as store:
        first = append(store, alarm(1))[0]
        now[0] -= 5 * 86400
        second = append(store, alarm(2))[0]
        assert [first.seq, second.seq] == [1, 2]
        times = [json.loads(each.payload)["recorded"] for each in (first, second)]
        assert times[1] < times[0]
        assert rows(store, "alarm") == [1, 2]
        age_s = store.read(store.stats).streams["alarm"].oldest_unsent_s
        assert age_s == 0.0


# ------------------------------------------------------------ sent, receipted, parked


def test_only_a_receipt_releases(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(alarm(n) for n in range(5)))
        store.run([lambda: store.mark_sent("alarm", store.epoch, [1, 2, 3])])
        assert rows(store, "alarm") == [4, 5]
        repeat = store.read(lambda: store.unreceipted("alarm", 0, 10))
        assert [row.seq for row in repeat] == [1, 2, 3]
        store.run([lambda: store.receipt("alarm", store.epoch, 2), store.release_receipted])
        state = store.read(store.stats).streams["alarm"]
        assert (state.first_kept, state.last, state.sent, state.receipted) == (3, 5, 3, 2)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=12))
@settings(max_examples=25, deadline=None)
def test_receipts_are_cumulative_monotonic_and_idempotent(tmp_path_factory, receipts) -> None:
    with opened(tmp_path_factory.mktemp("store")) as store:
        append(store, *(alarm(n) for n in range(8)))
        highest = 0
        for is_ours, upto in receipts:
            epoch = store.epoch if is_ours else "zzzz"
            (taken,) = store.run([lambda e=epoch, u=upto: store.receipt("alarm", e, u)])
            assert taken == (is_ours and upto <= 8)
            highest = max(highest, upto if taken else 0)
            store.run([store.release_receipted])
            assert rows(store, "alarm") == list(range(highest + 1, 9))
            assert store.read(store.stats).streams["alarm"].receipted == highest


def test_a_receipt_beyond_what_exists_releases_nothing_and_is_reported_once(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, alarm())
        kinds(store)
        for _ in range(2):
            assert store.run([lambda: store.receipt("alarm", store.epoch, 2)]) == [False]
        assert kinds(store) == ["receipt_refused"]
        assert rows(store, "alarm") == [1]


def test_release_is_sliced_and_finishes(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(passage(n) for n in range(600)))
        store.run([lambda: store.receipt("pass", store.epoch, 600)])
        slices = 0
        while store.run([store.release_receipted]) == [True]:
            slices += 1
        assert slices == 2
        assert store.read(store.stats).streams["pass"].first_kept is None


def test_a_parked_record_is_explained_once_and_tried_again_after_a_restart(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, alarm(1), alarm(2))
        store.run([lambda: store.park("alarm", store.epoch, 1, "Not authorized")])
        assert rows(store, "alarm") == [2]
        (stone,) = tombstones(store)
        assert (stone["stream"], stone["from"], stone["to"]) == ("alarm", 1, 1)
        assert stone["reason"] == "parked: Not authorized"
    with opened(tmp_path) as store:
        assert rows(store, "alarm") == [1, 2]
        store.run([lambda: store.park("alarm", store.epoch, 1, "Not authorized")])
        assert len(tombstones(store)) == 1


def test_a_restart_neither_forgets_nor_repeats_what_was_sent(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(alarm(n) for n in range(6)))
        store.run([lambda: store.mark_sent("alarm", store.epoch, [1, 2, 3, 5])])
        store.run([lambda: store.park("alarm", store.epoch, 2, "x")])
        store.read(store.stats)
        append(store, alarm(7))
    for _ in range(2):
        with opened(tmp_path) as store:
            assert rows(store, "alarm") == [2, 4, 6, 7]
            append(store, audit())


def test_a_refused_tombstone_makes_no_further_tombstone(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, alarm(1))
        store.run([lambda: store.park("alarm", store.epoch, 1, "x")])
        store.run([lambda: store.park("audit", store.epoch, 1, "x")])
        assert store.read(store.stats).streams["audit"].last == 1


def test_values_are_kept(tmp_path) -> None:
    with opened(tmp_path) as store:
        assert store.run([lambda: store.increment("conn")]) == [1]
        store.run([lambda: store.set_value("time_floor", "1800000000")])
    with opened(tmp_path) as store:
        assert store.run([lambda: store.increment("conn")]) == [2]
        assert store.read(lambda: store.value("time_floor")) == "1800000000"
        assert store.read(lambda: store.value("never")) is None


# ------------------------------------------------------------ room


def test_passages_go_first_and_every_number_stays_explained(tmp_path) -> None:
    with opened(tmp_path, max_bytes=1 << 20) as store:
        append(store, *(alarm(n) for n in range(50)))
        for start in range(0, 1500, 50):
            append(store, *(passage(n) for n in range(start, start + 50)), is_vital=False)
        stats = store.read(store.stats)
        assert stats.used_bytes <= 1 << 20
        assert rows(store, "alarm") == list(range(1, 51))
        last = stats.streams["pass"].last
        assert last == 1500
        assert rows(store, "pass")[-1] == 1500
        assert 1 not in rows(store, "pass")
        assert covered(store, "pass") == set(range(1, 1501))
        found = kinds(store)
        assert "dropped" in found
        assert found.count("fill_level") == 3


def test_of_alarms_the_updated_phases_go_before_the_others(tmp_path) -> None:
    with opened(tmp_path, max_bytes=1 << 20) as store:
        append(store, *(passage(n) for n in range(20)))
        for n in range(900):
            append(store, alarm(n, phase="updated" if n % 2 else "raised"))
            if tombstones(store)[-1:] and tombstones(store)[-1]["stream"] == "alarm":
                break
        kept = store.read(lambda: store.unsent("alarm", 0, 10_000))
        phases = {row.seq: json.loads(row.payload)["data"]["phase"] for row in kept}
        assert rows(store, "pass") == []
        assert 1 in phases
        assert 2 not in phases
        last = store.read(store.stats).streams["alarm"].last
        assert covered(store, "alarm") == set(range(1, last + 1))
        for payload in (row for row in store.read(lambda: store.unsent("audit", 0, 99))):
            check_message(payload.topic, payload.payload)


def test_the_newest_alarm_always_fits(tmp_path) -> None:
    with opened(tmp_path, max_bytes=1 << 20) as store:
        for n in range(0, 1500, 50):
            append(store, *(alarm(n + m) for m in range(50)))
        state = store.read(store.stats).streams["alarm"]
        assert state.last == 1500
        assert rows(store, "alarm")[-1] == 1500
        assert store.read(store.stats).used_bytes <= 1 << 20


def test_a_passage_never_drives_out_an_alarm(tmp_path) -> None:
    with opened(tmp_path, max_bytes=1 << 20) as store:
        while "dropped" not in kinds(store):
            append(store, alarm())
        before = rows(store, "alarm")
        while not isinstance(result := append(store, passage(), is_vital=False)[0], JournalError):
            pass
        assert "holds no passage that could go" in str(result)
        assert rows(store, "alarm") == before
        assert append(store, alarm())[0].seq == before[-1] + 1


def test_a_full_database_gives_way_to_the_next_alarm(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(passage(n) for n in range(200)))
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages}")
        for n in range(60):
            append(store, alarm(n))
        assert rows(store, "alarm") == list(range(1, 61))
        assert covered(store, "pass") == set(range(1, 201))
        assert "disk_full" in kinds(store)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 40_000)), max_size=25))
@settings(max_examples=40, deadline=None)
def test_the_store_is_never_fuller_than_it_believes(tmp_path_factory, commits) -> None:
    with opened(tmp_path_factory.mktemp("grown")) as store:
        for count, size in commits:
            many = [alarm(n, text="x" * (size // count)) for n in range(count)]
            append(store, *many, passage(1, parts=True))
            store.run([lambda: store.mark_sent("alarm", store.epoch, list(range(1, 9)))])
            at_most = store._used_at_most_bytes()
            assert at_most >= store._used_bytes()
            assert store._used_at_most_bytes() == store._used_bytes()


def test_free_pages_count_as_room_and_are_given_back(tmp_path) -> None:
    with opened(tmp_path) as store:
        for start in range(0, 6000, 500):
            append(store, *(passage(n) for n in range(start, start + 500)))
        full = store.read(store.stats).used_bytes
        store.run([lambda: store.receipt("pass", store.epoch, 6000)])
        while store.run([store.release_receipted]) == [True]:
            pass
        assert store.read(store.stats).used_bytes < full / 10
        (before,) = store._db.execute("PRAGMA page_count").fetchone()
        store.read(store.maintain)
        assert store._db.execute("PRAGMA page_count").fetchone()[0] < before


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave no byte free."""
    filler = folder / "filler"
    with suppress(OSError), filler.open("wb") as file:
        while True:
            file.write(b"x" * 4096)
            file.flush()
    return filler


def test_on_a_full_disk_alarms_still_fit_and_the_reserve_comes_back(small_disk) -> None:
    with opened(small_disk, reserve_bytes=1 << 20) as store:
        append(store, *(passage(n) for n in range(100)))
        assert store.read(store.stats).has_reserve
        filler = small_disk / "filler"
        room = retention.free_bytes(small_disk) - 8192
        filler.write_bytes(b"x" * room)
        for n in range(300):
            append(store, alarm(n))
        assert rows(store, "alarm") == list(range(1, 301))
        assert "disk_full" in kinds(store)
        assert not store.read(store.stats).has_reserve
        filler.unlink()
        store.read(store.maintain)
        assert store.read(store.stats).has_reserve
        assert kinds(store) == ["reserve_back"]


def test_a_disk_without_a_byte_costs_the_append_and_nothing_else(small_disk) -> None:
    with opened(small_disk) as store:
        append(store, alarm())
        filler = fill(small_disk)
        stored = 1
        with suppress(JournalError):
            for _ in range(2000):
                append(store, *(alarm() for _ in range(20)))
                stored += 20
        assert stored < 40_000, "the disk never filled"
        filler.unlink()
        state = store.read(store.stats).streams["alarm"]
        assert state.last == stored
        assert append(store, alarm())[0].seq == stored + 1


# ------------------------------------------------------------ damage


def damage_overwritten(path: Path, seed: random.Random) -> None:
    data = bytearray(path.read_bytes())
    for offset in range(4096, len(data), 512):
        data[offset : offset + 256] = seed.randbytes(256)
    path.write_bytes(data)


def damage_truncated(path: Path, _: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: 4096 + 1000])


def damage_zeroed(path: Path, _: random.Random) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def damage_foreign(path: Path, _: random.Random) -> None:
    path.write_text("this is a shopping list\n" * 400)


DAMAGES = [damage_overwritten, damage_truncated, damage_zeroed, damage_foreign]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_set_aside_at_start_and_a_new_epoch_begins(tmp_path, damage) -> None:
    seed = random.Random(7)
    with opened(tmp_path) as store:
        append(store, *(alarm(n) for n in range(100)))
        epoch = store.epoch
    damage(tmp_path / "journal.db", seed)
    with opened(tmp_path) as store:
        assert store.epoch != epoch
        assert kinds(store) == ["moved_aside", "new_store"]
        assert append(store, alarm())[0].seq == 1
        assert len(list(tmp_path.glob("journal.db.damaged-*"))) == 1


def test_a_store_damaged_in_use_is_set_aside_and_the_record_is_kept(tmp_path) -> None:
    with opened(tmp_path) as store:
        append(store, *(alarm(n) for n in range(400)))
        store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        epoch = store.epoch
        kinds(store)
        with (tmp_path / "journal.db").open("r+b") as file:
            for page in range(1, os.fstat(file.fileno()).st_size // 4096):
                file.seek(page * 4096)
                file.write(random.Random(page).randbytes(4096))
        store._db.execute("PRAGMA shrink_memory")
        (stored,) = append(store, alarm())
        assert stored.epoch != epoch
        assert stored.seq == 1
        assert kinds(store) == ["moved_aside", "new_store"]
    with opened(tmp_path) as store:
        assert rows(store, "alarm") == [1]


def test_two_damaged_stores_of_one_second_are_both_kept(tmp_path) -> None:
    clock = Clock(wall_s=lambda: 1_800_000_000.0)
    for _ in range(2):
        (tmp_path / "journal.db").write_text("x" * 4096)
        with opened(tmp_path, clock=clock):
            pass
    assert len(list(tmp_path.glob("journal.db.damaged-*"))) == 2


# ------------------------------------------------------------ what the operator must correct


def test_a_newer_schema_is_refused(tmp_path) -> None:
    with opened(tmp_path) as store:
        store._db.execute("UPDATE meta SET value='3' WHERE key='schema'")
    with pytest.raises(JournalError, match=r"schema 3 is newer .* install the newer checkpointd"):
        make(tmp_path).open()


def test_another_programs_database_is_left_alone(tmp_path) -> None:
    other = sqlite3.connect(tmp_path / "journal.db")
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    with pytest.raises(JournalError, match="another program's"):
        make(tmp_path).open()
    assert not list(tmp_path.glob("*damaged*"))


def test_a_missing_folder_is_one_clear_sentence(tmp_path) -> None:
    with pytest.raises(JournalError, match=r"No such file or directory; make the folder .*nowhere"):
        make(tmp_path / "nowhere").open()


def test_a_folder_in_the_databases_place_is_refused(tmp_path) -> None:
    (tmp_path / "journal.db").mkdir()
    with pytest.raises(JournalError, match="Is a directory"):
        make(tmp_path).open()


def test_two_agents_never_share_a_store(tmp_path) -> None:
    with opened(tmp_path), pytest.raises(JournalError, match="another checkpointd uses it"):
        make(tmp_path).open()
    with opened(tmp_path):
        pass


# ------------------------------------------------------------ on the event loop


def test_passages_share_a_commit_and_an_alarm_takes_them_along(tmp_path) -> None:
    async def scenario() -> None:
        options = JournalOptions(path=str(tmp_path / "journal.db"), reserve_bytes=0)
        journal = Journal(options, Clock(), ENCODER, group_s=60.0)
        told: list[tuple[str, int]] = []
        journal.on_stored = lambda stored: told.append((stored.stream, stored.seq))
        await journal.open()
        before = journal.progress
        waiting = [asyncio.ensure_future(journal.append(passage(n))) for n in range(20)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in waiting)
        await journal.append(alarm())
        assert [(await each).seq for each in waiting] == list(range(1, 21))
        assert journal.progress == before + 1
        assert told == [("pass", n) for n in range(1, 21)] + [("alarm", 1)]
        await journal.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_passage_is_committed_within_the_group_time(tmp_path) -> None:
    async def scenario() -> None:
        options = JournalOptions(path=str(tmp_path / "journal.db"), reserve_bytes=0)
        journal = Journal(options, Clock(), ENCODER, group_s=0.05)
        await journal.open()
        assert (await journal.append(passage())).seq == 1
        await journal.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_burst_shares_few_commits_and_a_cancelled_caller_loses_nothing(tmp_path) -> None:
    async def scenario() -> None:
        options = JournalOptions(path=str(tmp_path / "journal.db"), reserve_bytes=0)
        journal = Journal(options, Clock(), ENCODER)
        await journal.open()
        before = journal.progress
        tasks = [asyncio.ensure_future(journal.append(alarm(n))) for n in range(200)]
        await asyncio.sleep(0)
        tasks[7].cancel()
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[7], asyncio.CancelledError)
        assert journal.progress - before < 20
        assert [row.seq for row in await journal.unsent("alarm", 0, 500)] == list(range(1, 201))
        await journal.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_marks_that_wait_share_a_statement_and_none_is_lost(tmp_path) -> None:
    async def scenario() -> None:
        journal = Journal(options_in(tmp_path), Clock(), ENCODER, group_s=3600.0)
        await journal.open()
        marked: list[list[int]] = []
        mark = journal._store.mark_sent

        def counted(stream, epoch, seqs) -> None:
            marked.append(list(seqs))
            mark(stream, epoch, seqs)

        journal._store.mark_sent = counted  # type: ignore[method-assign]
        stored = await asyncio.gather(*(journal.append(alarm(n)) for n in range(600)))
        for each in stored[:100]:
            journal.mark_sent("alarm", each.epoch, (each.seq,))
        await journal.append(alarm(1000))
        assert marked == [list(range(1, 101))]
        for each in stored[100:]:
            journal.mark_sent("alarm", each.epoch, (each.seq,))
        await journal.flush()
        assert sum(marked, []) == list(range(1, 601))  # noqa: RUF017 - a few
        assert max(map(len, marked)) <= BATCH_ITEMS
        assert [row.seq for row in await journal.unsent("alarm", 0, 9)] == [601]
        await journal.close()

    asyncio.run(scenario())


def test_receipts_release_in_the_background_until_nothing_is_left(tmp_path) -> None:
    async def scenario() -> None:
        options = JournalOptions(path=str(tmp_path / "journal.db"), reserve_bytes=0)
        journal = Journal(options, Clock(), ENCODER, group_s=0.02)
        await journal.open()
        await asyncio.gather(*(journal.append(alarm(n)) for n in range(1000)))
        journal.receipt("alarm", journal.epoch, 1000)
        kept: int | None = 1
        while kept is not None:
            await journal.flush()
            kept = (await journal.stats()).streams["alarm"].first_kept
        await journal.close()

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_a_store_that_fails_tells_each_caller_and_goes_on_later(small_disk) -> None:
    async def scenario() -> None:
        options = JournalOptions(path=str(small_disk / "journal.db"), reserve_bytes=0)
        events = []
        journal = Journal(options, Clock(), ENCODER, on_event=events.append)
        await journal.open()
        filler = fill(small_disk)
        stored = 0
        with suppress(JournalError):
            for number in range(5000):
                stored = (await journal.append(alarm(number))).seq
        assert stored < 5000, "the disk never filled"
        filler.unlink()
        assert (await journal.append(alarm())).seq == stored + 1
        assert "disk_full" in [event.kind for event in events]
        await journal.close()

    asyncio.run(asyncio.wait_for(scenario(), 30))
