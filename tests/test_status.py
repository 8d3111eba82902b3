"""`checkpointd status` looks at a store that an agent may be using."""

from __future__ import annotations

import asyncio
import json

import pytest

from agent.cli import main
from agent.clock import Clock
from agent.delivery.store.journal import JournalError, look
from agent.delivery.store.thread import Journal
from agent.delivery.wire import Encoder, Identity
from agent.records import Audit
from agent.settings import JournalOptions

GATEWAY = """
[gateway]
site = "a"
gw = "b"
[mqtt]
host = "127.0.0.1"
tls = false
[journal]
path = "{path}"
"""


def write_some(path, records):
    async def run():
        clock = Clock()
        encoder = Encoder(
            identity=Identity(root="checkpoint", site="a", gw="b"),
            mode="test",
            configrev="0",
            software="x",
        )
        journal = Journal(JournalOptions(path=str(path), reserve_bytes=0), clock, encoder)
        await journal.open()
        for n in range(records):
            await journal.append(Audit(stamp=clock.stamp(), kind="clock", data={"n": n}))
        seen = look(path)
        await journal.close()
        return seen

    return asyncio.run(run())


def configured(tmp_path, path):
    (tmp_path / "lanes").mkdir()
    (tmp_path / "lanes" / "in-1.toml").write_text(
        '[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "tcp://127.0.0.1:1600"\n'
    )
    (tmp_path / "gateway.toml").write_text(GATEWAY.format(path=path))
    return str(tmp_path)


def test_a_store_in_use_can_be_looked_at(tmp_path):
    seen = {s.stream: s for s in write_some(tmp_path / "journal.db", 3)}
    assert (seen["audit"].last, seen["audit"].unsent, seen["audit"].receipted) == (3, 3, 0)
    assert seen["alarm"].kept == 0


def test_status_prints_the_streams_for_a_machine(tmp_path, capsys):
    path = tmp_path / "journal.db"
    write_some(path, 2)
    assert main(["status", "--config", configured(tmp_path, path), "--json"]) == 0
    streams = {s["stream"]: s for s in json.loads(capsys.readouterr().out)["streams"]}
    assert streams["audit"]["last"] == 2


def test_status_prints_a_table_for_a_person(tmp_path, capsys):
    path = tmp_path / "journal.db"
    write_some(path, 2)
    assert main(["status", "--config", configured(tmp_path, path)]) == 0
    assert "audit" in capsys.readouterr().out


def test_a_missing_or_foreign_store_is_named(tmp_path, capsys):
    path = tmp_path / "journal.db"
    directory = configured(tmp_path, path)
    assert main(["status", "--config", directory]) == 2
    assert str(path) in capsys.readouterr().err
    path.write_bytes(b"no database at all, but long enough to be read as one" * 100)
    with pytest.raises(JournalError, match="cannot be read"):
        look(path)
