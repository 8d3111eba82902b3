"""What stands retained on the broker beside the records: the state of gateway, lanes and devices.

Plain dataclasses whose fields stand on the wire as they stand here; ``agent.delivery.wire`` makes
topic and bytes of them. A part of which nothing is known is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from agent.records import Stamp, Sync

Stream = Literal["alarm", "audit", "pass"]
Delivery = Literal["receipt", "puback"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Whether the gateway is there.

    ``session`` is random for each connection, ``conn`` counts connections over restarts: a reader
    ignores an offline whose session is not the newest online's. ``at`` None: a will, whose moment
    nobody can know beforehand.
    """

    state: Literal["online", "offline", "stopping"]
    session: str
    conn: int
    at: Stamp | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutDevice:
    """One device as configured."""

    driver: str
    port: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AboutLane:
    """One lane as configured; ``name`` is for people."""

    name: str
    devices: dict[str, AboutDevice]


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What this gateway is; ``kid`` None: records are not signed."""

    lanes: dict[str, AboutLane]
    machine: str
    kid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamState:
    """One stream of the journal, from which a centre finds gaps without a new record.

    ``first_kept`` None: the store holds none. ``last`` is the newest sequence number given (0:
    none yet), ``sent`` and ``receipted`` the ends of the unbroken runs that the broker and the
    centre have acknowledged. ``oldest_unsent_s`` None: all is sent.
    """

    epoch: str
    first_kept: int | None
    last: int
    sent: int
    receipted: int
    oldest_unsent_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockState:
    """How far the wall clock can be trusted; ``err_ms`` None: unknown."""

    sync: Sync
    err_ms: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """The gateway's own condition."""

    at: Stamp
    streams: dict[str, StreamState]
    disk_free_bytes: int | None
    journal_bytes: int | None
    clock: ClockState
    temperature_c: float | None
    certificate_days: int | None
    delivery: Delivery


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigReport:
    """Which configuration runs; hashes are revisions, ``changed`` names what the last load changed.

    ``last_result`` is "ok", or why the last load was refused.
    """

    at: Stamp
    active: str
    last_good: str | None
    last_result: str
    changed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The calibration a device runs on; ``due`` is a date, None: not known."""

    rev: str | None
    due: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayState:
    """The relay of an instrument's bytes now, counted since it was begun.

    ``dropped``: clients let go because they read too slowly or vanished without a word;
    ``refused``: connections closed at once, from elsewhere or beyond the most there may be.
    """

    listening: bool
    clients: int
    dropped: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with its unit."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSnapshot:
    """One instrument now; ``last_good_s`` is the age of its last good frame, None: none yet.

    ``relay`` None: its bytes are served to nobody else. ``housekeeping`` is what it last told of
    itself, by quantity.
    """

    at: Stamp
    lane: str
    device: str
    link: Literal["up", "down", "parked", "unknown"]
    last_good_s: float | None
    frames: int
    refused: dict[str, int] = field(default_factory=dict)
    faults: tuple[str, ...] = ()
    calibration: Calibration | None = None
    relay: RelayState | None = None
    housekeeping: dict[str, Figure] = field(default_factory=dict)
