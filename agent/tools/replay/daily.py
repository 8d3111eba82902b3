"""Portal daily files read back: wire lines with the recorder's time as the last column.

::

    GB,000387,000383,000414,000361,09-30-00.918                       needs the day (--date)
    GB,000387,000383,000414,000361,2016-05-31 09:30:00.918 -07        or -07:00

The time was added by the recorder and is not on the wire. The first form rolls over at midnight.
Source: vendor's daily-file reader and sample recordings (EYamamotoRapiscan, MIT).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

from agent.tools.replay.recording import RecordingError

_DAY_US = 86_400_000_000
_HALF_DAY_US = _DAY_US // 2
_TIME = re.compile(rb"(\d\d)-(\d\d)-(\d\d)\.(\d{3})")
_FULL = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d)\.(\d{3}) ([+-]\d\d)(?::?(\d\d))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class DailyLine:
    """One wire line without its end, and when it was recorded [µs UTC]; None: it had no time."""

    utc_us: int | None
    wire: bytes


def parse_zone(text: str) -> timezone:
    """Return the zone of ``+01:00``; raises ValueError for anything else."""
    match = re.fullmatch(r"([+-])(\d\d):?(\d\d)?", text)
    if match is None or int(match[2]) > 14 or int(match[3] or 0) > 59:
        raise ValueError(f"--tz {text}: expected a zone such as +00:00 or -07:00")
    sign = -1 if match[1] == "-" else 1
    return timezone(sign * timedelta(hours=int(match[2]), minutes=int(match[3] or 0)))


def read_daily(path: Path, *, day: date | None, zone: timezone) -> Iterator[DailyLine]:
    """Yield the lines of a daily file in order.

    ``day`` and ``zone`` belong to files that give the time of day only; ``day`` None: such a file
    is refused.

    Raises
    ------
    RecordingError
        If the first line has no time, or one that needs a day.
    OSError
        If the file cannot be read.
    """
    clock = _RecorderClock(path, day, zone)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            body = line.rstrip(b"\r\n")
            if not body:
                continue
            wire, _, recorded = body.rpartition(b",")
            utc_us = clock.utc_us(recorded)
            if utc_us is None:
                if clock.has_never_read:
                    raise RecordingError(
                        f"{path}:{number}: no recording this program knows: expected a wire line "
                        "that ends in HH-MM-SS.mmm or YYYY-MM-DD HH:MM:SS.mmm ±ZZ, or a capture "
                        f"in JSON Lines, but found {body[:40]!r}"
                    )
                wire = body
            yield DailyLine(utc_us=utc_us, wire=wire)


class _RecorderClock:
    """Turns the last column into UTC, and rolls a time of day over at midnight."""

    def __init__(self, path: Path, day: date | None, zone: timezone) -> None:
        self._path = path
        self._day = day
        self._zone = zone
        self._days: dict[bytes, int] = {}
        self._last_of_day_us: int | None = None
        self._rolled_us = 0
        self.has_never_read = True

    def utc_us(self, text: bytes) -> int | None:
        match = _FULL.fullmatch(text)
        if match is not None:
            midnight_us = self._midnight_us(match[1], match[6], match[7] or b"00")
            moment_us = None if midnight_us is None else midnight_us + _of_day_us(match, 2)
        else:
            match = _TIME.fullmatch(text)
            moment_us = None if match is None else self._from_time_of_day(_of_day_us(match, 1))
        if moment_us is not None:
            self.has_never_read = False
        return moment_us

    def _midnight_us(self, day: bytes, hours: bytes, minutes: bytes) -> int | None:
        """Return midnight of that day and zone [µs UTC]; None: there is no such day."""
        key = day + hours + minutes
        if key not in self._days:
            try:
                zone = parse_zone(f"{hours.decode()}:{minutes.decode()}")
                midnight = datetime.fromisoformat(day.decode()).replace(tzinfo=zone)
            except ValueError:
                return None
            self._days[key] = _us(midnight)
        return self._days[key]

    def _from_time_of_day(self, of_day_us: int) -> int:
        if self._day is None:
            raise RecordingError(
                f"{self._path}: its lines give the time of day only; say the day with --date "
                "YYYY-MM-DD (and the zone with --tz ±HH:MM)"
            )
        last_us, self._last_of_day_us = self._last_of_day_us, of_day_us
        if last_us is not None and last_us - of_day_us > _HALF_DAY_US:
            self._rolled_us += _DAY_US
        midnight = datetime(self._day.year, self._day.month, self._day.day, tzinfo=self._zone)
        return _us(midnight) + self._rolled_us + of_day_us


def _of_day_us(match: re.Match[bytes], first: int) -> int:
    hours, minutes, seconds, millis = (int(match[first + i]) for i in range(4))
    return ((hours * 60 + minutes) * 60 + seconds) * 1_000_000 + millis * 1000


def _us(moment: datetime) -> int:
    return round((moment - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(microseconds=1))
