"""The gateway's own condition: the service manager's protocol, the watchdog, the probes."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

log = logging.getLogger(__name__)

_THERMAL = Path("/sys/class/thermal/thermal_zone0/temp")


class Notifier:
    """Speaks to the service manager over its datagram socket.

    ``address`` is the value of NOTIFY_SOCKET, None: there is no service manager and nothing is
    sent. Source: systemd, sd_notify(3).
    """

    def __init__(self, address: str | None) -> None:
        self._address = address

    def send(self, state: str) -> None:
        """Send one state line, e.g. ``READY=1``; a service manager that is gone is only logged."""
        if not self._address:
            return
        address = self._address
        if address.startswith("@"):
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(address)
                sender.sendall(state.encode())
        except OSError as exc:
            log.warning("notify=failed socket=%s error=%s", self._address, exc)


@dataclass(slots=True)
class Watchdog:
    """Is fed only when every watched part has made progress since the last meal.

    A part is a name and a counter that grows while it works. ``starving`` names those that have
    not moved, so that a log line can say who starved it.
    """

    notifier: Notifier
    _eaten: dict[str, int] = field(default_factory=dict)
    starving: tuple[str, ...] = ()

    def feed(self, progress: Mapping[str, int]) -> bool:
        """Send WATCHDOG=1 where all parts have moved; return whether it was sent.

        A part that is new is taken as moving; one that is gone (a lane removed) is forgotten.
        """
        stuck = tuple(
            name for name, count in progress.items() if self._eaten.get(name, -1) == count
        )
        if stuck != self.starving and stuck:
            log.error("watchdog=starving parts=%s", ",".join(stuck))
        self.starving = stuck
        if stuck:
            return False
        self._eaten = dict(progress)
        self.notifier.send("WATCHDOG=1")
        return True


def temperature_c() -> float | None:
    """Return the processor's temperature [°C], None where the board has no such sensor."""
    try:
        return int(_THERMAL.read_text(encoding="ascii")) / 1000
    except (OSError, ValueError):
        return None


def resident_bytes() -> int:
    """Return this process's resident memory [bytes]."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
