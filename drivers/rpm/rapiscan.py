"""Rapiscan / TSA lane protocol: VM-250, TM-850, RPM8xx (SC-770 class) and SC-880 controllers.

The portal pushes ASCII lines over TCP (port 1600 in the vendor's simulator) or RS-232; nothing is
requested and nothing written is read. One line a message, fields by comma, ended CR LF. No
checksum, no sequence number, no time stamp.

::

    GB|GH|GL,gggggg x4     gamma background per detector, normal|high|low     [counts/s]
    NB|NH,nnnnnn x4        neutron background per detector, rounded down      [counts/s]
    GS|GA,gggggg x4        gamma counts in 0.2 s, without|with gamma alarm    [counts]
    NS|NA,nnnnnn x4        neutron counts in 1 s, without|with neutron alarm  [counts]
    SP,s.ssss,mm.mmm,kkk.kk,000000    s/ft, mph (99.999: false timing), km/h
    GX,oooooo,nnnnnn,000000,000000    occupancy number, neutron background x 1000 [counts/s]
    TT,000000 x4 / TC,111111 x4       cabinet tamper on / cleared
    SG1,high,low,intervals,hold-in,NSIGMA,P          high and low limits [counts/s]
    SG2,detectors,lld,uld,relay,algorithms,variant   algorithms: SUM HORIZONTAL VERTICAL SINGLE
    SG3,lld,uld,background s,background sigma,firmware
    SN1,high,max intervals,alpha,z-max,sequential,background s
    SN2,lld,uld,lld,uld,PP
  SC-880 only:
    NB1,n.nnnnnnnn x4      neutron background per detector, unrounded         [counts/s]
    AB1,a.aaaaaaaa x4      gamma background in four energy windows            [counts/s]
    AS,aaaaaa x4           counts in the four windows in 0.2 s                [counts]
    AA,n,n,n,fffffA        window-ratio alarm
    AR AC AX AM NZ NC NX RW    ratios and statistics whose formula is not public: kept as they came

Fields 1 and 2 are one pillar, 3 and 4 the other.

Source: message handler of the open OSCAR lane driver (MPL-2.0); EYamamotoRapiscan RPM-Simulator
and Daily-File-Reader (MIT, by the vendor's engineer); SC-880 lines measured on that simulator's
sample recordings S2-C0-NONE and S2-C3-NORM2.
Quirk: an occupancy opens with a burst: five GS from before the beam broke (SC-880: fourteen AS),
then the first live one; they are given an age, not the time they arrived.
Quirk: tags GB, NB, GS, NS, GX also open the lines of spectroscopic portals' daily files, with
hundreds of channels; such lines are refused here by their field count.
Quirk: NSIGMA has one decimal. Occupancy numbers return to 1 each day and at power-up.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from drivers.base import LineParameters, ascii_integers
from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceState,
    GammaBackground,
    GammaCounts,
    Level,
    NeutronBackground,
    NeutronCounts,
    OccupancyEnd,
    PortalSettings,
    Reading,
    Reason,
    Undocumented,
    VehicleSpeed,
    WindowBackground,
    WindowCounts,
)

# RS-232 of the environment board on the SC-880 (vendor's program); that the lane data port is set
# alike is unconfirmed.
LINE = LineParameters(baud=19200, data_bits=8, parity="O", stop_bits=1)

PRESENCE = "counts"
GIVES_WINDOWS = True
GAMMA_RULE = "tsa"

GAMMA_INTERVAL_S = 0.2
NEUTRON_INTERVAL_S = 1.0
LONGEST_LINE = 128
METRES_PER_FOOT = 0.3048
INVALID_MPH = 99.999

_SPEED = re.compile(r"(\d{1,3}\.\d{4}),(\d{2}\.\d{3}),(\d{3}\.\d{2}),\d{6}")
_UNSIGNED = re.compile(r"\d{1,7}\.\d{1,9}")
_NUMBER = re.compile(r" *-?\d{1,7}(?:\.\d{1,9})?")
_SG1 = re.compile(r"(\d{6}),(\d{6}),(\d{2}),(\d{2}),(\d{2}\.\d),[A-Z]{1,2}")
_SG2 = re.compile(r"([01]{4}),\d\.\d{3},\d\.\d{3},\d{2},([01]{4}),[A-Z]")
_SG3 = re.compile(r"\d\.\d{3},\d\.\d{3},(\d{3}),(\d{3}),([0-9A-Za-z.]{1,16})")
_SN1 = re.compile(r"(\d{6}),(\d{2}),\d{4},\d{4},(\d{2}),(\d{3})")
_SN2 = re.compile(r"\d\.\d{3},\d\.\d{3},\d\.\d{3},\d\.\d{3},[A-Z]{1,2}")
_AA = re.compile(r"(\d{6}),\d{6},\d{6},[01]{5}[A-Z]")

_ALGORITHMS = ("sum", "horizontal", "vertical", "single")
_KEPT_RAW = frozenset({"AR", "AC", "AX", "AM", "NZ", "NC", "NX", "RW"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What differs between controllers; the portal's own alarm settings are the lane's."""

    pre_occupancy_intervals: Annotated[
        int, Meta(description="gamma intervals sent late at the start", ge=0, le=50)
    ] = 5
    pre_occupancy_windows: Annotated[
        int, Meta(description="energy-window intervals sent late at the start", ge=0, le=50)
    ] = 14


class Driver:
    """Turns the portal's bytes into readings; see ``drivers.base.StreamDriver``."""

    poll_period_s: float | None = None

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = b""
        self._is_first_line = True
        self._is_shedding = False
        # Intervals since the occupancy began; None: we joined in the middle of one.
        self._gamma_seen: int | None = None
        self._windows_seen: int | None = None
        self._joined_inside = False
        self._backgrounds_in_a_row = 0

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished line are kept."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[Reading]:
        """Return the readings of every line the bytes complete."""
        *lines, rest = (self._buffer + data).split(b"\n")
        readings: list[Reading] = []
        for line in lines:
            if self._is_shedding:
                self._is_shedding = False  # its end; the head was refused
            elif len(line) > LONGEST_LINE:
                readings.append(self._endless(line))
            else:
                readings += self._line(line)
        if len(rest) > LONGEST_LINE and not self._is_shedding:
            readings.append(self._endless(rest))
            self._is_shedding = True
        # What follows of such a line must not pass for a line of its own.
        self._buffer = b"" if self._is_shedding else rest
        return readings

    def poll(self) -> bytes:
        """Return nothing: the portal just talks."""
        return b""

    def silence(self) -> list[Reading]:
        """Forget the half line and where in an occupancy we were."""
        half, self._buffer = self._buffer, b""
        self._is_first_line, self._is_shedding = True, False
        self._gamma_seen = self._windows_seen = None
        self._joined_inside, self._backgrounds_in_a_row = False, 0
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent")] if half else []

    def no_reply(self) -> list[Reading]:
        """Return nothing: nothing is asked."""
        return []

    def _endless(self, line: bytes) -> BadFrame:
        """Refuse a line by its head alone, so that it is the same in whatever pieces it comes."""
        self._is_first_line = False
        head = line[: LONGEST_LINE + 1]
        return BadFrame.of(Reason.FLOOD, head, f"no line end in {LONGEST_LINE} bytes")

    def _line(self, line: bytes) -> list[Reading]:
        first, self._is_first_line = self._is_first_line, False
        body = line.removesuffix(b"\r")
        tag, _, rest = body.decode("latin-1").partition(",")
        decode = _DECODERS.get(tag)
        reading = None if decode is None else decode(self, tag, rest)
        if reading is not None:
            return [reading]
        if first:
            return [BadFrame.of(Reason.TRUNCATED, body, "joined in the middle of a line")]
        if decode is None:
            return [BadFrame.of(Reason.UNKNOWN, body, f"unknown tag {tag[:8]!r}")]
        return [BadFrame.of(Reason.SYNTAX, body, f"{tag} line with wrong fields")]

    # Each decoder returns None where the fields are not what the tag demands.

    def _gamma_background(self, tag: str, rest: str) -> Reading | None:
        counts = _four(rest)
        if counts is None:
            return None
        self._note_background()
        return GammaBackground(cps=tuple(float(c) for c in counts), level=_LEVELS[tag])

    def _neutron_background(self, tag: str, rest: str) -> Reading | None:
        counts = _four(rest)
        if counts is None:
            return None
        cps = tuple(float(c) for c in counts)
        return NeutronBackground(
            total_cps=sum(cps), rounded_down=True, per_detector_cps=cps, level=_LEVELS[tag]
        )

    def _fine_neutron_background(self, _tag: str, rest: str) -> Reading | None:
        cps = _four_decimals(rest)
        if cps is None:
            return None
        return NeutronBackground(total_cps=sum(cps), rounded_down=False, per_detector_cps=cps)

    def _gamma(self, tag: str, rest: str) -> Reading | None:
        counts = _four(rest)
        if counts is None:
            return None
        self._backgrounds_in_a_row = 0
        age_s = 0.0
        if self._gamma_seen is None:
            self._joined_inside = True
        else:
            late = self._options.pre_occupancy_intervals - self._gamma_seen
            age_s = max(0, late) * GAMMA_INTERVAL_S
            self._gamma_seen += 1
        return GammaCounts(
            counts=counts,
            real_time_s=GAMMA_INTERVAL_S,
            device_alarm=tag == "GA",
            age_s=age_s,
        )

    def _neutron(self, tag: str, rest: str) -> Reading | None:
        counts = _four(rest)
        if counts is None:
            return None
        return NeutronCounts(
            counts=counts, real_time_s=NEUTRON_INTERVAL_S, device_alarm=tag == "NA"
        )

    def _windows(self, _tag: str, rest: str) -> Reading | None:
        counts = _four(rest)
        if counts is None:
            return None
        age_s = 0.0
        if self._windows_seen is not None:
            late = self._options.pre_occupancy_windows - self._windows_seen
            age_s = max(0, late) * GAMMA_INTERVAL_S
            self._windows_seen += 1
        return WindowCounts(counts=counts, real_time_s=GAMMA_INTERVAL_S, age_s=age_s)

    def _window_background(self, _tag: str, rest: str) -> Reading | None:
        cps = _four_decimals(rest)
        return None if cps is None else WindowBackground(cps=cps)

    def _window_alarm(self, _tag: str, rest: str) -> Reading | None:
        match = _AA.fullmatch(rest)
        if match is None:
            return None
        return DeviceAlarm(kind="spectral", code="window_ratio", detail=rest)

    def _speed(self, _tag: str, rest: str) -> Reading | None:
        match = _SPEED.fullmatch(rest)
        if match is None:
            return None
        seconds_per_foot, mph = float(match[1]), float(match[2])
        if mph >= INVALID_MPH or seconds_per_foot == 0:
            return VehicleSpeed(m_per_s=None)
        return VehicleSpeed(m_per_s=METRES_PER_FOOT / seconds_per_foot)

    def _occupancy_end(self, _tag: str, rest: str) -> Reading | None:
        fields = _four(rest)
        if fields is None:
            return None
        self._begin_vacant()
        return OccupancyEnd(number=fields[0], neutron_background_cps=fields[1] / 1000)

    def _tamper(self, tag: str, rest: str) -> Reading | None:
        if _four(rest) is None:
            return None
        return DeviceState(condition="tamper", active=tag == "TT", detail=f"cabinet ({tag})")

    def _settings_1(self, tag: str, rest: str) -> Reading | None:
        match = _SG1.fullmatch(rest)
        if match is None or int(match[3]) == 0:
            return None
        return PortalSettings(
            gamma_high_cps=int(match[1]),
            gamma_low_cps=int(match[2]),
            intervals=int(match[3]),
            hold_in_intervals=int(match[4]),
            nsigma=float(match[5]),
            line=f"{tag},{rest}",
        )

    def _settings_2(self, tag: str, rest: str) -> Reading | None:
        match = _SG2.fullmatch(rest)
        if match is None:
            return None
        return PortalSettings(
            detectors_on=tuple(bit == "1" for bit in match[1]),
            algorithms=tuple(
                name for name, bit in zip(_ALGORITHMS, match[2], strict=True) if bit == "1"
            ),
            line=f"{tag},{rest}",
        )

    def _settings_3(self, tag: str, rest: str) -> Reading | None:
        match = _SG3.fullmatch(rest)
        if match is None:
            return None
        return PortalSettings(
            background_s=int(match[1]),
            background_sigma=float(match[2]),
            firmware=match[3],
            line=f"{tag},{rest}",
        )

    def _settings_neutron(self, tag: str, rest: str) -> Reading | None:
        if tag == "SN2":
            return None if _SN2.fullmatch(rest) is None else PortalSettings(line=f"{tag},{rest}")
        match = _SN1.fullmatch(rest)
        if match is None:
            return None
        return PortalSettings(
            neutron_high_cps=int(match[1]),
            neutron_max_intervals=int(match[2]),
            neutron_sequential_intervals=int(match[3]),
            neutron_background_s=int(match[4]),
            line=f"{tag},{rest}",
        )

    def _kept_raw(self, tag: str, rest: str) -> Reading | None:
        if not all(_NUMBER.fullmatch(field) for field in rest.split(",")):
            return None
        return Undocumented(tag=tag, text=rest)

    def _note_background(self) -> None:
        """A GB inside an occupancy is tolerated; two in a row mean that it is over."""
        self._backgrounds_in_a_row += 1
        if self._backgrounds_in_a_row >= 2 or (
            self._gamma_seen is None and not self._joined_inside
        ):
            self._begin_vacant()

    def _begin_vacant(self) -> None:
        self._gamma_seen = self._windows_seen = 0
        self._joined_inside = False


_LEVELS: dict[str, Level] = {"GB": "ok", "GH": "high", "GL": "low", "NB": "ok", "NH": "high"}

# ruff: noqa: SLF001 - the table below stands in the same module as the methods it names
_Decoder = Callable[[Driver, str, str], Reading | None]

_DECODERS: dict[str, _Decoder] = {
    **dict.fromkeys(("GB", "GH", "GL"), Driver._gamma_background),
    **dict.fromkeys(("NB", "NH"), Driver._neutron_background),
    **dict.fromkeys(("GS", "GA"), Driver._gamma),
    **dict.fromkeys(("NS", "NA"), Driver._neutron),
    "NB1": Driver._fine_neutron_background,
    "AB1": Driver._window_background,
    "AS": Driver._windows,
    "AA": Driver._window_alarm,
    "SP": Driver._speed,
    "GX": Driver._occupancy_end,
    **dict.fromkeys(("TT", "TC"), Driver._tamper),
    "SG1": Driver._settings_1,
    "SG2": Driver._settings_2,
    "SG3": Driver._settings_3,
    **dict.fromkeys(("SN1", "SN2"), Driver._settings_neutron),
    **dict.fromkeys(_KEPT_RAW, Driver._kept_raw),
}


def _four(rest: str) -> tuple[int, ...] | None:
    """Return four six-digit fields, or None."""
    fields = rest.split(",")
    return ascii_integers(fields, 6) if len(fields) == 4 else None


def _four_decimals(rest: str) -> tuple[float, ...] | None:
    """Return four unsigned decimal fields, or None."""
    fields = rest.split(",")
    if len(fields) != 4 or not all(_UNSIGNED.fullmatch(f) for f in fields):
        return None
    return tuple(float(f) for f in fields)
