"""Daily files of spectroscopic portals (SPM, RDSC, MRDIS) read back as readings with their times.

::

    S1,NaI|HPGe,SPM|RDSC|MRDIS,channels,algorithm version,name,value,...      first line
    S2,detector,deviation pairs ...                                           not used
    GB,detector,counts x channels       a background; how long it counted is not said
    NB,sss,counts ...                   neutron background: seconds, counts per detector
    BX,time                             an occupancy begins
    GS,detector,chunk,counts x channels one second of it
    NS,slices,chunk,counts ...          neutrons: slices of 0.1 s, counts per detector
    ID,nuclide|NONE,detectors,slices    the portal's own identification
    AB,Gamma|Neutron,real time,counts   the background it was judged by
    GX,Red|Yellow|Green,number,time,file,speed[,speed]    it ends

The tags GB, NB, GS, NS and GX also open the lines of counting portals, with other fields: this
dialect is told by its S1, S2, BX, ID or AB lines, or by hundreds of fields.

Source: reader of sandialabs/SpecUtils for these files (SpecFile_spmdf.cpp), read for its layout.
Unconfirmed: the form of the times (ISO 8601 is read, with ``--tz`` where they name no zone, and
HH-MM-SS.mmm with ``--date``), that a slice is 0.1 s, whether chunks count from 0 or 1 (the first
of an occupancy is taken for its first second), and the unit of the speeds, so they are not given.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

from agent.tools.replay.recording import CapturedReadings, RecordingError
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceNuclides,
    GammaSpectrum,
    NeutronBackground,
    NeutronCounts,
    NuclideFound,
    OccupancyEnd,
    Reading,
    Reason,
    Undocumented,
    VehiclePresence,
)

LINE_LIMIT_BYTES = 1 << 20
CHUNK_S = 1.0
SLICE_S = 0.1
CROWDED_FIELDS = 32
"""A counting portal's lines have six fields at most, a spectrum hundreds."""

_OWN_TAGS = frozenset({"S2", "BX", "ID", "AB"})
_SHARED_TAGS = frozenset({"GB", "GS"})
_TAGS = frozenset({"S1", "S2", "GB", "NB", "BX", "GS", "NS", "ID", "AB", "GX"})
_DETECTOR_TYPES = frozenset({"nai", "hpge"})
_COUNT = re.compile(r" *([0-9]{1,9})(?:\.0*)? *", re.ASCII)
_NUMBER = re.compile(r" *([0-9]{1,6}(?:\.[0-9]{0,6})?) *", re.ASCII)
_TIME_OF_DAY = re.compile(r"([0-2][0-9])-([0-5][0-9])-([0-5][0-9])\.([0-9]{3})", re.ASCII)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_spectral_daily(head: bytes) -> bool:
    """Tell from the first bytes of a file whether it is of this dialect."""
    for line in head.decode("latin-1").splitlines():
        tag, *fields = line.split(",")
        if tag == "S1":
            return bool(fields) and fields[0].strip().lower() in _DETECTOR_TYPES
        if tag in _OWN_TAGS or (tag in _SHARED_TAGS and len(fields) > CROWDED_FIELDS):
            return True
    return False


def read_spectral_daily(
    path: Path, device: str, *, day: date | None, zone: timezone
) -> Iterator[CapturedReadings | None]:
    """Yield what each line says, in order; None: a line before which no time was ever given.

    ``day`` belongs to files whose times have none, ``zone`` to times without one.

    Raises
    ------
    RecordingError
        At a time that cannot be read, or one that needs a day.
    OSError
        If the file cannot be read.
    """
    reader = _Reader(path, device, day, zone)
    waiting: list[tuple[Reading, ...]] = []  # before the first time
    with path.open("rb") as file:
        number = 0
        while line := file.readline(LINE_LIMIT_BYTES + 1):
            number += 1
            body = line.rstrip(b"\r\n")
            if not body:
                continue
            readings = tuple(reader.line(body, number))
            if reader.now_us is None:
                waiting.append(readings)
                continue
            for earlier in waiting:
                yield reader.captured(earlier)
            waiting.clear()
            yield reader.captured(readings)
    for _ in waiting:
        yield None


class _Reader:
    """Keeps the time, the channel count and the occupancy from line to line."""

    def __init__(self, path: Path, device: str, day: date | None, zone: timezone) -> None:
        self._path = path
        self._device = device
        self._day = day
        self._zone = zone
        self._channels: int | None = None
        self._began_us: int | None = None  # of the occupancy that is open
        self._first_chunk: int | None = None
        self.now_us: int | None = None

    def captured(self, readings: tuple[Reading, ...]) -> CapturedReadings:
        assert self.now_us is not None
        return CapturedReadings(utc_us=self.now_us, device=self._device, readings=readings)

    def line(self, body: bytes, number: int) -> list[Reading]:
        if len(body) > LINE_LIMIT_BYTES:
            return [BadFrame.of(Reason.FLOOD, body, "a line longer than any of this dialect")]
        tag, *fields = body.decode("latin-1").split(",")
        if tag not in _TAGS:
            return [BadFrame.of(Reason.UNKNOWN, body, f"unknown tag {tag[:8]!r}")]
        if tag == "BX":
            return self._begin(fields, number)
        if tag == "GX":
            return self._end(fields, number, body)
        readings = {
            "S1": self._settings,
            "S2": _passed_over,
            "GB": self._background,
            "NB": _neutron_background,
            "GS": self._second,
            "NS": self._neutrons,
            "ID": _identified,
            "AB": self._analysed_background,
        }[tag](fields)
        if readings is None:
            return [BadFrame.of(Reason.SYNTAX, body, f"{tag} line with wrong fields")]
        return readings

    # Each returns None where the fields are not what the tag demands.

    def _settings(self, fields: list[str]) -> list[Reading] | None:
        channels = _counts(fields[2:3])
        if not channels:
            return None
        self._channels = channels[0]
        return []

    def _background(self, fields: list[str]) -> list[Reading] | None:
        counts = self._spectrum(fields[1:])
        if counts is None:
            return None
        text = f"{fields[0]}: {sum(counts)} counts, real time unknown"
        return [Undocumented(tag="GB", text=text)]

    def _second(self, fields: list[str]) -> list[Reading] | None:
        counts, chunk = self._spectrum(fields[2:]), _counts(fields[1:2])
        if counts is None or not chunk or self._began_us is None:
            return None
        self._move_to(chunk[0])
        return [
            GammaSpectrum(
                detector=fields[0],
                counts=counts,
                real_time_s=CHUNK_S,
                live_time_s=None,
                energy=None,
                occupied=True,
            )
        ]

    def _neutrons(self, fields: list[str]) -> list[Reading] | None:
        figures = _counts(fields)
        if figures is None or len(figures) < 3 or figures[0] == 0 or self._began_us is None:
            return None
        self._move_to(figures[1])
        real_time_s = figures[0] * SLICE_S
        return [NeutronCounts(counts=figures[2:], real_time_s=real_time_s, device_alarm=False)]

    def _analysed_background(self, fields: list[str]) -> list[Reading] | None:
        time = _NUMBER.fullmatch(fields[1]) if len(fields) > 2 else None
        if time is None or not (real_time_s := float(time[1])):
            return None
        if fields[0] == "Neutron":
            counts = _counts(fields[2:])
            return None if counts is None else [_neutron_rate(counts, real_time_s)]
        counts = self._spectrum(fields[2:]) if fields[0] == "Gamma" else None
        if counts is None:
            return None
        return [
            GammaSpectrum(
                detector="all",
                counts=counts,
                real_time_s=real_time_s,
                live_time_s=None,
                energy=None,
                occupied=False,
            )
        ]

    def _spectrum(self, fields: list[str]) -> tuple[int, ...] | None:
        counts = _counts(fields)
        expected = self._channels
        if not counts or (expected is not None and len(counts) != expected):
            return None
        return counts

    # -- time --

    def _begin(self, fields: list[str], number: int) -> list[Reading]:
        self._began_us = self.now_us = self._moment_us(fields[0] if fields else "", number)
        self._first_chunk = None
        return [VehiclePresence(occupied=True)]

    def _end(self, fields: list[str], number: int, body: bytes) -> list[Reading]:
        occupancy = _counts(fields[1:2])
        if len(fields) < 3 or not occupancy:
            return [BadFrame.of(Reason.SYNTAX, body, "GX line with wrong fields")]
        ended_us = self._moment_us(fields[2], number)
        self.now_us = max(ended_us, self.now_us or ended_us)
        self._began_us = None
        readings: list[Reading] = []
        if fields[0] in ("Red", "Yellow"):
            code = fields[0].lower()
            readings.append(DeviceAlarm(kind="spectral", code=code, detail="the portal's light"))
        return [
            *readings,
            VehiclePresence(occupied=False),
            OccupancyEnd(number=occupancy[0], neutron_background_cps=None),
        ]

    def _move_to(self, chunk: int) -> None:
        """Take the end of that second as the time of what follows."""
        assert self._began_us is not None
        if self._first_chunk is None:
            self._first_chunk = chunk
        seconds = max(0, chunk - self._first_chunk) + CHUNK_S
        ended_us = self._began_us + round(seconds * 1_000_000)
        self.now_us = max(ended_us, self.now_us or 0)

    def _moment_us(self, text: str, number: int) -> int:
        text = text.strip()
        of_day = _TIME_OF_DAY.fullmatch(text)
        if of_day is not None:
            return self._of_day_us(of_day, number)
        try:
            moment = datetime.fromisoformat(text)
        except ValueError as exc:
            raise RecordingError(
                f"{self._path}:{number}: {text[:40]!r} is no time that this program knows: "
                "expected YYYY-MM-DDTHH:MM:SS or HH-MM-SS.mmm"
            ) from exc
        return _us(moment if moment.tzinfo is not None else moment.replace(tzinfo=self._zone))

    def _of_day_us(self, match: re.Match[str], number: int) -> int:
        if self._day is None:
            raise RecordingError(
                f"{self._path}:{number}: its times have no day; say it with --date YYYY-MM-DD "
                "(and the zone with --tz ±HH:MM)"
            )
        hours, minutes, seconds, millis = (int(group) for group in match.groups())
        midnight = datetime(self._day.year, self._day.month, self._day.day, tzinfo=self._zone)
        moment = midnight + timedelta(
            hours=hours, minutes=minutes, seconds=seconds, milliseconds=millis
        )
        if self.now_us is not None and self.now_us - _us(moment) > 43_200_000_000:
            self._day += timedelta(days=1)
            moment += timedelta(days=1)
        return _us(moment)


def _passed_over(_fields: list[str]) -> list[Reading] | None:
    return []


def _neutron_background(fields: list[str]) -> list[Reading] | None:
    figures = _counts(fields)
    if figures is None or len(figures) < 2 or figures[0] == 0:
        return None
    return [_neutron_rate(figures[1:], float(figures[0]))]


def _neutron_rate(counts: tuple[int, ...], real_time_s: float) -> NeutronBackground:
    cps = tuple(count / real_time_s for count in counts)
    return NeutronBackground(total_cps=math.fsum(cps), rounded_down=False, per_detector_cps=cps)


def _identified(fields: list[str]) -> list[Reading] | None:
    if not fields or not fields[0].strip():
        return None
    name = fields[0].strip()
    nuclides = () if name.upper() == "NONE" else (NuclideFound(name=name),)
    return [DeviceNuclides(nuclides=nuclides)]


def _counts(fields: list[str]) -> tuple[int, ...] | None:
    """Return whole counts, or None where one field is anything else; a last empty one is none."""
    if fields and not fields[-1].strip():
        fields = fields[:-1]
    matches = [_COUNT.fullmatch(field) for field in fields]
    found = tuple(int(match[1]) for match in matches if match is not None)
    return found if len(found) == len(fields) else None


def _us(moment: datetime) -> int:
    return round((moment - _EPOCH) / timedelta(microseconds=1))
