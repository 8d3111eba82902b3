"""``checkpointd replay``: the same lane, the same drivers, on a recording.

What was decided can be decided again: nothing depends on the clock, so two runs give the same
bytes. Site, gateway, epoch and run are called ``replay``; ``recorded`` equals ``time``.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, timezone
from pathlib import Path
from typing import cast

from agent.config.spectral import spectral_rules, window_rules
from agent.delivery.wire import Encoder, Identity, stream_of
from agent.evidence.event import EventFiles
from agent.lane.inline import step_answered
from agent.lane.options.rules import LaneRules
from agent.lane.state import LaneState
from agent.records import Alarm, LaneEvent, LinkChange, Passage, Record, Stamp, Stop, Timed
from agent.settings import LaneConfig
from agent.tools.replay.daily import parse_zone, read_daily
from agent.tools.replay.n42 import is_n42, read_n42_file
from agent.tools.replay.recording import (
    CapturedBytes,
    CapturedLink,
    CapturedReadings,
    CapturedRegisters,
    CaptureLine,
    RecordingError,
    read_capture,
)
from agent.tools.replay.spectral_daily import is_spectral_daily, read_spectral_daily
from agent.version import SOFTWARE
from drivers.base import PolledDriver, StreamDriver
from drivers.readings import BadFrame, Reading, Reason

NAME = "replay"
Watch = Callable[[LaneEvent, LaneState, Sequence[Record]], None]
"""Is told of every step: what went in, the lane after it, and what it said."""
PORTAL_SETTINGS = frozenset({"nsigma", "intervals", "algorithms"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayOptions:
    """How a recording is read.

    ``device`` None: the lane's only portal takes a daily file or an N42 file. ``overrides`` are the
    ``--set`` texts; portal settings among them outrank what the recording carries.
    """

    device: str | None = None
    day: date | None = None
    zone: timezone = UTC
    overrides: tuple[str, ...] = ()
    software: str = "checkpointd"


def replay_options(arguments: argparse.Namespace, overrides: tuple[str, ...] = ()) -> ReplayOptions:
    """Return what --device, --date and --tz say of a recording; raises ValueError for a zone."""
    return ReplayOptions(
        device=arguments.device,
        day=arguments.date,
        zone=parse_zone(arguments.tz),
        overrides=overrides,
        software=SOFTWARE,
    )


@dataclass(slots=True)
class Summary:
    """What a replay came to."""

    passages: set[str] = field(default_factory=set)
    alarms: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    intervals: int = 0
    agree: int = 0
    rounding: int = 0
    lines: int = 0
    first_us: int | None = None
    last_us: int = 0

    def as_json(self) -> bytes:
        """Return the last line of a replay; ``seconds`` is what the recording spans."""
        first_us = self.last_us if self.first_us is None else self.first_us
        summary = {
            "type": "summary",
            "passages": len(self.passages),
            "alarms": dict(sorted(self.alarms.items())),
            "refused": dict(sorted(self.refused.items())),
            "device_agreement": {
                "intervals": self.intervals,
                "agree": self.agree,
                "rounding": self.rounding,
            },
            "lines": self.lines,
            "seconds": round((self.last_us - first_us) / 1e6, 3),
        }
        return json.dumps(summary).encode()


def replay(
    recording: Path,
    lane: LaneConfig,
    lane_file: Path,
    options: ReplayOptions,
    watch: Watch | None = None,
) -> Replay:
    """Return the replay of a recording by a lane; iterate over it for the records' bytes.

    Raises
    ------
    RecordingError
        If the recording is none, or names a device that the lane does not have.
    OSError
        If it cannot be read.
    """
    revision = hashlib.sha256(lane_file.read_bytes())
    for override in options.overrides:
        revision.update(b"\0" + override.encode())
    names = {text.partition("=")[0].strip().rpartition(".")[2] for text in options.overrides}
    pinned = frozenset(names & PORTAL_SETTINGS)
    rules = lane.rules(
        run=NAME, pinned=pinned, spectral=spectral_rules(lane), windows=window_rules(lane)
    )
    encoder = Encoder(
        identity=Identity(root="checkpoint", site=NAME, gw=NAME),
        mode="test",
        configrev=revision.hexdigest(),
        software=options.software,
    )
    lines = _lines(recording, lane, options)
    return Replay(recording, lane, rules, encoder, lines, watch)


class Replay:
    """Feeds a recording to a lane; iterating yields each record's bytes as on MQTT."""

    def __init__(
        self,
        recording: Path,
        lane: LaneConfig,
        rules: LaneRules,
        encoder: Encoder,
        lines: Iterable[CaptureLine | None],
        watch: Watch | None = None,
    ) -> None:
        self.summary = Summary()
        self._watch = watch
        self._recording = recording
        self._drivers: dict[str, StreamDriver | PolledDriver] = {
            d.name: d.driver.make(d.driver_options) for d in lane.devices
        }
        self._polled = {d.name for d in lane.devices if d.driver.is_polled}
        self._rules = rules
        self._encoder = encoder
        self._lines = lines
        self._state = LaneState()
        self._sequence: Counter[str] = Counter()
        identity = encoder.identity
        self._files = EventFiles(gateway=f"{identity.site}/{identity.gw}", creator=encoder.software)

    def __iter__(self) -> Iterator[bytes]:
        for line in self._lines:
            self.summary.lines += 1
            if line is None:
                self.summary.refused["no_time"] += 1
                continue
            if self.summary.first_us is None:
                self.summary.first_us = line.utc_us
            # A recorder's clock may be set back; a lane's time never runs backwards.
            self.summary.last_us = max(self.summary.last_us, line.utc_us)
            stamp = _stamp(line.utc_us, self.summary.last_us)
            for event in self._events(line, stamp):
                yield from self._take(event)
        if self.summary.first_us is not None:
            yield from self._take(Stop(stamp=_stamp(self.summary.last_us, self.summary.last_us)))

    def _events(self, line: CaptureLine, stamp: Stamp) -> Iterator[LaneEvent]:
        readings: Iterable[Reading]
        driver = self._drivers.get(line.device)
        if driver is None:
            raise RecordingError(
                f"{self._recording}: it has a device {line.device!r} that the lane "
                f"{self._rules.lane_id} does not have; known are {', '.join(self._drivers)}"
            )
        is_polled = line.device in self._polled
        if isinstance(line, CapturedLink):
            readings = driver.silence()
            yield LinkChange(stamp=stamp, device=line.device, is_up=line.is_up)
        elif isinstance(line, CapturedReadings):
            readings = line.readings
        elif isinstance(line, CapturedBytes) and not is_polled:
            readings = cast("StreamDriver", driver).feed(line.data)
        elif isinstance(line, CapturedRegisters) and is_polled:
            readings = self._decode(cast("PolledDriver", driver), line)
        else:
            raise RecordingError(
                f"{self._recording}: {line.device!r} was recorded over another kind of line than "
                "its driver in the lane file reads"
            )
        for reading in readings:
            if isinstance(reading, BadFrame):
                self.summary.refused[reading.reason.value] += 1
            yield Timed(stamp=stamp, device=line.device, reading=reading)

    def _decode(self, driver: PolledDriver, line: CapturedRegisters) -> list[Reading]:
        asked = (line.table, line.address, len(line.registers), line.written)
        for block in driver.blocks():
            if (block.table, block.address, block.values, block.written) == asked:
                return driver.decode(block, line.registers)
        self.summary.refused[Reason.UNKNOWN.value] += 1
        return []

    def _take(self, event: LaneEvent) -> Iterator[bytes]:
        self._state, records = step_answered(self._state, event, self._rules)
        if self._watch is not None:
            self._watch(event, self._state, records)
        for record in map(self._files.attach, records):
            self._count(record)
            stream = stream_of(record)
            self._sequence[stream] += 1
            seq = self._sequence[stream]
            yield self._encoder(record, NAME, seq, record.stamp.utc_us)[1]

    def _count(self, record: Record) -> None:
        summary = self.summary
        if isinstance(record, Alarm) and record.phase == "raised":
            summary.alarms[record.kind] += 1
        if isinstance(record, Passage):
            is_first = record.passage_id not in summary.passages
            summary.passages.add(record.passage_id)
            agreement = record.rpm.device_agreement if record.rpm else None
            if is_first and agreement is not None:
                summary.intervals += agreement.intervals
                summary.agree += agreement.agree
                summary.rounding += agreement.rounding


def _stamp(utc_us: int, mono_us: int) -> Stamp:
    return Stamp(utc_us=utc_us, mono_us=mono_us, boot=NAME)


def _lines(
    recording: Path, lane: LaneConfig, options: ReplayOptions
) -> Iterator[CaptureLine | None]:
    """Return the recording's lines whatever its kind; None: a line without a time."""
    with recording.open("rb") as file:
        head = file.read(4096).lstrip()
    if not head:
        raise RecordingError(f"{recording}: the recording is empty")
    if head.startswith(b"{"):
        return read_capture(recording)
    portal = _portal(lane, options.device)
    if is_n42(head):
        return read_n42_file(recording, portal)
    if is_spectral_daily(head):
        return read_spectral_daily(recording, portal, day=options.day, zone=options.zone)
    return _daily_lines(recording, portal, options)


def _daily_lines(
    recording: Path, device: str, options: ReplayOptions
) -> Iterator[CapturedBytes | None]:
    for line in read_daily(recording, day=options.day, zone=options.zone):
        if line.utc_us is None:
            yield None
        else:
            yield CapturedBytes(utc_us=line.utc_us, device=device, data=line.wire + b"\r\n")


def _portal(lane: LaneConfig, device: str | None) -> str:
    known = [d.name for d in lane.devices]
    if device is not None:
        if device not in known:
            raise RecordingError(
                f"--device {device}: the lane {lane.lane_id} has no such device; known are "
                f"{', '.join(known)}"
            )
        return device
    portals = [d.name for d in lane.devices if d.driver.gamma_rule == "tsa" and d.kind == "rpm"]
    if len(portals) != 1:
        raise RecordingError(
            f"the lane {lane.lane_id} has {len(portals)} portals that write such files; say with "
            "--device which one recorded the file"
        )
    return portals[0]
