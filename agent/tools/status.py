"""``checkpointd status``: what this gateway's store holds, and what the centre has not got."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent import config as configuration
from agent.delivery.store.journal import JournalError, look
from agent.tools.terminal import wrong_input


def status_command(arguments: argparse.Namespace) -> int:
    """Print each stream of the store; 1 where records are parked."""
    with wrong_input(configuration.ConfigError, JournalError):
        config = configuration.load(arguments.config)
        streams = look(Path(config.journal.path))
    parked = sum(stream.parked for stream in streams)
    if arguments.json:
        print(json.dumps({"journal": config.journal.path, "streams": [asdict(s) for s in streams]}))
        return 1 if parked else 0
    table = Table(title=f"journal {config.journal.path}", title_justify="left")
    table.add_column("stream")
    for column in ("last", "receipted", "kept", "not sent", "parked"):
        table.add_column(column, justify="right")
    for stream in streams:
        figures = (stream.last, stream.receipted, stream.kept, stream.unsent, stream.parked)
        table.add_row(stream.stream, *map(str, figures))
    Console(highlight=False).print(table)
    if parked:
        print(f"{parked} records are parked: the broker would not take them; the log says why")
    return 1 if parked else 0
