"""``checkpointd run``: what the service does, from configuration to exit code."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import logging.handlers
import os
import queue
import signal
import sys
from pathlib import Path

from agent import config as configuration
from agent.clock import Clock
from agent.daemon.supervisor import Supervisor
from agent.delivery.store.journal import JournalError
from agent.health import Notifier
from agent.settings import Config
from agent.tools.terminal import WrongInputError, wrong_input

log = logging.getLogger("checkpointd")

LAST_GOOD = Path("/var/lib/checkpointd")
"""Where the last good configuration is looked for without a service manager."""


def run_command(arguments: argparse.Namespace) -> int:
    """Run the agent until SIGTERM or SIGINT; SIGHUP reloads.

    Raises
    ------
    WrongInputError
        Where neither the configuration nor a last good one can be used, or the store cannot be
        opened.
    """
    directory: Path = arguments.config
    listener = _start_logging(arguments.log_level)
    try:
        config, refused = _configuration(directory)
        if config is None:
            raise WrongInputError(refused or "no configuration")
        with wrong_input(JournalError):
            # What is loaded by now stays: later collections need not walk it in the loop.
            gc.freeze()
            return asyncio.run(_run(config, directory, refused))
    finally:
        listener.stop()


def _configuration(directory: Path) -> tuple[Config | None, str | None]:
    """Return the configuration to run, and why the one on disk was refused (None: it was not)."""
    try:
        return configuration.load(directory), None
    except configuration.ConfigError as exc:
        refused = str(exc)
    try:
        config = configuration.load_last_good(_state_dir() or LAST_GOOD, directory)
    except configuration.ConfigError:
        return None, refused
    if config is None:
        return None, refused
    log.error("config=refused running=last_good detail=%s", refused)
    return config, f"{directory}: refused at the start, the last good one runs: {refused}"


def _state_dir() -> Path | None:
    """Return the state directory that the service manager made, or None."""
    given = os.environ.get("STATE_DIRECTORY")
    return Path(given.split(":")[0]) if given else None


async def _run(config: Config, directory: Path, refused: str | None) -> int:
    supervisor = Supervisor(
        config,
        directory=directory,
        clock=Clock(),
        notifier=Notifier(os.environ.get("NOTIFY_SOCKET")),
        state_dir=_state_dir(),
        refused=refused,
    )
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    loop.add_signal_handler(signal.SIGHUP, supervisor.reload)
    await supervisor.run()
    return 0


def _start_logging(level: str) -> logging.handlers.QueueListener:
    """Send log lines through a thread of their own: a slow console never holds the loop."""
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
    root = logging.getLogger()
    root.handlers = [logging.handlers.QueueHandler(lines)]
    root.setLevel(level.upper())
    # pymodbus repeats as errors what our own link says once.
    logging.getLogger("pymodbus").setLevel(logging.CRITICAL)
    listener = logging.handlers.QueueListener(lines, stream)
    listener.start()
    return listener
