"""A power cut, not a kill: the file system goes down without writing what was not flushed.

A small ext4 image on a loop device is shut down by ``EXT4_IOC_SHUTDOWN`` without flushing its log
while a journal appends; mounted again, everything that was acknowledged must be there. The same
journal without flushes must lose records, or the test proves nothing.

``POWER_CUTS`` in the environment sets the number of rounds (default 5).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_LOG_FLUSH = 2
ROUNDS = int(os.environ.get("POWER_CUTS", "5"))
SEED = 20261122
CHILD = Path(__file__).with_name("power_cut_child.py")


def run(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True)


@pytest.fixture
def image(tmp_path):
    if os.geteuid() != 0 or not shutil.which("mkfs.ext4"):
        pytest.skip("a power cut needs root and mkfs.ext4, to mount an image of its own")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(64 << 20)
    run("mkfs.ext4", "-q", "-F", path)
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        run("mount", "-o", "loop", path, folder)
    except subprocess.CalledProcessError as exc:
        pytest.skip(f"no loop mount here: {exc.stderr.strip()}")
    run("umount", folder)
    return path, folder


@contextmanager
def mounted(image):
    path, folder = image
    run("mount", "-o", "loop", path, folder)
    try:
        yield folder
    finally:
        run("umount", folder)


def cut(folder):
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
    finally:
        os.close(descriptor)


def append_until_cut(image, begin, records, *, flushes=True):
    """Return what the journal acknowledged before the power went."""
    with mounted(image) as folder:
        how = "flushes" if flushes else "forgets"
        command = [sys.executable, str(CHILD), str(folder / "journal.db"), str(begin), how]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        ) as child:
            acknowledged = []
            cut_ns = None
            for line in child.stdout:
                acknowledged.append(line)
                if len(acknowledged) == records:
                    cut_ns = time.monotonic_ns()
                    cut(folder)
                    child.kill()
                    break
            # What was acknowledged before the power went may still be in the pipe. A line written
            # while it went is none: on a machine without power nobody would have heard it, and a
            # flush that runs meanwhile may say that it is done.
            acknowledged += child.stdout.readlines()
    told = [line.split() for line in acknowledged if line.endswith("\n")]
    return [
        (stream, epoch, int(seq))
        for stream, epoch, seq, at_ns in told
        if cut_ns is None or int(at_ns) < cut_ns
    ]


def kept(image):
    with mounted(image) as folder:
        db = sqlite3.connect(folder / "journal.db")
        try:
            rows = db.execute("SELECT stream, epoch, seq FROM record").fetchall()
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert_blobs_are_whole(db)
        finally:
            db.close()
    return set(rows)


def assert_blobs_are_whole(db):
    """What a record on disk names is on disk, and is what its digest says."""
    named = {
        blob["sha256"]
        for (payload,) in db.execute("SELECT payload FROM record WHERE stream='alarm'")
        for blob in json.loads(payload)["data"].get("blobs", [])
    }
    assert named == {name for (name,) in db.execute("SELECT DISTINCT sha256 FROM blob_chunk")}
    for name in named:
        chunks = db.execute(
            "SELECT content FROM blob_chunk WHERE sha256=? ORDER BY number", (name,)
        )
        assert hashlib.sha256(b"".join(content for (content,) in chunks)).hexdigest() == name


def test_nothing_acknowledged_is_lost_in_power_cuts(image):
    rng = random.Random(SEED)
    print(f"seed {SEED}, {ROUNDS} cuts")
    acknowledged = []
    for _ in range(ROUNDS):
        records = rng.randint(1, 60)
        acknowledged += append_until_cut(image, 1000 + len(acknowledged), records)
        on_disk = kept(image)
        assert [r for r in acknowledged if r not in on_disk] == []
    for stream in ("alarm", "audit"):
        numbers = sorted(seq for name, _, seq in kept(image) if name == stream)
        assert numbers == list(range(1, len(numbers) + 1))


def test_the_cut_is_real_without_flushes_records_are_lost(image):
    append_until_cut(image, 1000, 5)
    acknowledged = append_until_cut(image, 2000, 60, flushes=False)
    on_disk = kept(image)
    assert [r for r in acknowledged if r not in on_disk] != []
