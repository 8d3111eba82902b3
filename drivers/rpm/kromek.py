"""Kromek D-series gamma and neutron spectrometers: D3S, D3M, D4 and D5, asked for each interval.

USB serial (115200 8N1) or, for a D5, TCP. Request and reply have one form, little endian::

    LL LL MM CC RR payload KK KK
    L  length of the whole message, 7 to 8500       [bytes]
    M  mode, bit 0: the payload is compressed
    C  component, 07 the interface board
    R  report: 80 set, a read; not set, a write; FE accepted, FF refused, C0 error
    K  CRC-16/CCITT-FALSE of all before it; 0000: not checked

A message ends in empty channels, so two bytes too many leave 0000 where its CRC should be: once a
device has sent a right CRC, 0000 is refused.

A D5 sends each message in a SLIP frame; un-escaped first, then its length is read. Without SLIP a
wrong length or CRC means that where the next message begins is lost: all is dropped until the line
was quiet.

    C2  radiometrics: status u32, real time [ms] u32, offset u32, dose f32, dose rate f32, dose f32,
        neutron live time [ms] u32, neutrons u32, temperature [0.01 °C] i16, bias f32,
        gamma live time [ms] u32, gammas u32, temperature i16, bias f32, bits u8, u8, 4096 x u16
    C1  spectrum: real time [ms] u32, neutrons u16, 4096 x u16       older models know only this
    C5  status: application, power u8, temperature [°C] i8, gamma, neutron u8, battery [%] u8,
        charge rate i8, battery temperature [°C] i8, USB, Bluetooth u8 (D5: one more u8)
    C0  error: code u8, 50 characters
    EC  isotope confirmation: mode u32, state u8, n u16, 2 x (nuclide u8, category u8,
        confidence f32), 48 bytes of statistics       FB  the same with the statistics before n
    4F  write: compression: on u8, window u8, look-ahead u8, direction u8, 0 u16

Counts are since the last request. The first reply after connecting covers all the time since
anyone asked and is thrown away. C2 is asked first; no answer or error 3 means C1. Error 0B: still
warming up, C2 is known. What is written: the read requests above and, at the start, 4F to switch
compression off; nothing else.

Source: Kromek's SDK as published in westpoint-robotics/kromek_sensor; lbl-anp/radmon_d3s; the
Kromek D5 driver of the OSCAR lane software (MPL-2.0). No bytes of a real device were seen.
Unconfirmed: that live times are in ms like the real time, the unit of the dose rate, the order of
FB, the scale of the confidence, and how nuclides and categories are numbered. The maker lists the
names without figures, so they stay ``code 5`` until ``nuclide_codes`` says where the list begins.
"""

from __future__ import annotations

import binascii
import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import (
    BadFrame,
    DeviceNuclides,
    DeviceState,
    DoseRate,
    EnergyCalibration,
    GammaSpectrum,
    Housekeeping,
    NeutronCounts,
    NuclideFound,
    Reading,
    Reason,
)
from drivers.slip import Unslip, slipped

LINE = LineParameters(baud=115200, data_bits=8, parity="N", stop_bits=1)

LONGEST_BYTES = 8500
BUFFER_LIMIT_BYTES = LONGEST_BYTES
OVERHEAD_BYTES = 7
CHANNELS = 4096
COVERS_TOO_LONG = 10
"""A reply that covers more than this many intervals is no interval of counting."""
STATUS_PERIOD_S = 10.0
CONFIRMATION_PERIOD_S = 5.0
WAITS = 6
"""So many half intervals without a byte end the waiting for a reply."""

_BOARD = 0x07
_COMPRESSION, _ERROR, _ACCEPTED, _REFUSED = 0x4F, 0xC0, 0xFE, 0xFF
_SPECTRUM, _RADIOMETRICS, _STATUS = 0xC1, 0xC2, 0xC5
_CONFIRMATION, _EXTENDED_CONFIRMATION = 0xEC, 0xFB
_COMPRESSION_OFF = struct.pack("<BBBBH", 0, 9, 8, 0, 0)

_HEAD = struct.Struct("<HBBB")
_CRC = struct.Struct("<H")
_CHANNELS = struct.Struct(f"<{CHANNELS}H")
_OLD = struct.Struct("<IH")
_NEW = struct.Struct("<IIIfffIIhfIIhfBB")
_STATUS_FIELDS = struct.Struct("<BBbBBBbbBB")
_CONFIRMED = struct.Struct("<IBH")
_NUCLIDE = struct.Struct("<BBf")
_STATISTICS_BYTES = 48

_UNSUPPORTED = frozenset({3, 4})
_CONDITIONS = {
    1: "in_use_by_usb",
    2: "in_use_by_bluetooth",
    6: "gamma_detector_missing",
    7: "neutron_detector_missing",
    8: "gamma_detector_frozen",
    9: "neutron_detector_frozen",
    0x0B: "warming_up",
}
# fmt: off
_NUCLIDES = (
    "Am-241", "Ba-133", "Cs-137", "Co-57", "Co-60", "Eu-152", "F-18", "Ga-67", "I-123", "I-131",
    "Ir-192", "Lu-177", "Lu-177m", "Mo-99", "Np-237", "Pu-239", "WGPu", "RGPu", "K-40",
    "Ra-226", "Na-22", "Tc-99m", "Tl-201", "Th-232", "U-235", "U-238", "DU", "HEU", "Y-88",
    "unknown",
)
# fmt: on
_CATEGORIES = ("SNM", "medical", "industrial", "NORM", "unknown")

DoseUnit = Literal["none", "Sv/h", "mSv/h", "µSv/h"]
_USV_PER_H: dict[DoseUnit, float] = {"Sv/h": 1e6, "mSv/h": 1e3, "µSv/h": 1.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which instrument it is and how it is asked."""

    model: Annotated[
        Literal["D3S", "D3M", "D4", "D5"],
        Meta(description="model of the instrument; a D5 frames its messages with SLIP"),
    ] = "D3S"
    interval_s: Annotated[
        float, Meta(description="how often counts are asked for [s]", ge=0.2, le=10)
    ] = 1.0
    energy_kev: Annotated[
        tuple[float, ...],
        Meta(
            description="coefficients of the polynomial of the channel number that gives the "
            "energy at which a channel begins [keV]; empty: the channels stay without energy",
            max_length=4,
        ),
    ] = ()
    dose_unit: Annotated[
        DoseUnit,
        Meta(
            description="unit of the dose rate; none: it is not given. Unconfirmed: the maker's "
            "programming kit says Sv/h; compare with the display first"
        ),
    ] = "none"
    confirmation: Annotated[
        Literal["off", "standard", "extended"],
        Meta(description="ask for the isotope confirmation that someone began on the instrument"),
    ] = "off"
    nuclide_codes: Annotated[
        Literal["unknown", "from 0", "from 1"],
        Meta(
            description="code of the first entry in the maker's lists of nuclides and categories; "
            "unknown: nuclides are named by their code. Unconfirmed: compare with the display"
        ),
    ] = "unknown"


class _ByLength:
    """Cuts messages by their own length; once that is lost, drops all until told to resume."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.is_lost = False

    @property
    def buffered(self) -> int:
        return len(self._buffer)

    def clear(self) -> bytes:
        half = bytes(self._buffer)
        self._buffer.clear()
        self.is_lost = False
        return half

    def feed(self, data: bytes) -> Iterator[bytes | BadFrame]:
        self._buffer += data
        while len(self._buffer) >= 2 and not self.is_lost:
            (length,) = _CRC.unpack_from(self._buffer)
            if not OVERHEAD_BYTES <= length <= LONGEST_BYTES:
                detail = f"length {length} is none of {OVERHEAD_BYTES} to {LONGEST_BYTES} bytes"
                yield BadFrame.of(Reason.LENGTH, bytes(self._buffer[:2]), detail)
                self.is_lost = True
            elif len(self._buffer) < length:
                return
            else:
                message = bytes(self._buffer[:length])
                del self._buffer[:length]
                yield message
        if self.is_lost:
            self._buffer.clear()


class Driver:
    """Asks for one thing at a time; see ``drivers.base.StreamDriver``."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._slip = Unslip(LONGEST_BYTES) if options.model == "D5" else None
        self._cut = _ByLength()
        energy = options.energy_kev
        self._energy = EnergyCalibration(coefficients_kev=energy) if energy else None
        self._conditions: set[str] = set()
        self._reset()

    def _reset(self) -> None:
        self._cut.clear()
        if self._slip is not None:
            self._slip.clear()
        self._tick = -1  # every half interval
        # What else is asked for, and the tick at which it is next due.
        self._others = {_STATUS: 3}
        if self._options.confirmation != "off":
            is_extended = self._options.confirmation == "extended"
            self._others[_EXTENDED_CONFIRMATION if is_extended else _CONFIRMATION] = 5
        self._asked: int | None = None
        self._ticks_waited = 0
        self._has_heard = False  # since the last poll
        self._is_first_reply = True
        self._report = _RADIOMETRICS
        self._is_report_known = False
        self._is_compression_off = False
        self._last_confirmation = b""
        self._has_crc = False  # it has sent a right one: 0000 no longer counts

    @property
    def poll_period_s(self) -> float:
        """Half an interval: counts are asked for at every second poll, the rest between [s]."""
        return self._options.interval_s / 2

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished message are kept."""
        return self._cut.buffered if self._slip is None else self._slip.buffered

    def poll(self) -> bytes:
        """Return the next request; empty between two, and while a reply is still coming."""
        self._tick += 1
        has_heard, self._has_heard = self._has_heard, False
        if self._asked is not None or self._cut.is_lost:
            self._ticks_waited += 1
            is_quiet = not has_heard and (
                self.buffered or self._cut.is_lost or self._ticks_waited >= WAITS
            )
            if not is_quiet:
                return b""
        report = self._due()
        if report is None:
            return b""
        self._drop_half()
        return self._request(report)

    def _due(self) -> int | None:
        if not self._is_compression_off:
            return _COMPRESSION
        is_between = self._tick % 2 == 1
        for report, due_tick in self._others.items():
            late, period = self._tick - due_tick, self._ticks_between(report)
            # On a slow line the reply with the counts takes up the polls between.
            if late >= 0 and (is_between or late >= period):
                self._others[report] = self._tick + period
                return report
        return None if is_between else self._report

    def _ticks_between(self, report: int) -> int:
        period_s = STATUS_PERIOD_S if report == _STATUS else CONFIRMATION_PERIOD_S
        return 2 * max(1, round(period_s / self._options.interval_s))

    def _request(self, report: int) -> bytes:
        payload = b""
        if report == _COMPRESSION:
            # Whether a write is answered differs; nothing is waited for.
            self._is_compression_off, payload = True, _COMPRESSION_OFF
        else:
            self._asked, self._ticks_waited = report, 0
        message = _message(report, payload)
        return message if self._slip is None else slipped(message)

    def silence(self) -> list[Reading]:
        """Drop a half message and say so; the next poll begins anew."""
        half = self._drop_half()
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a message")]

    def no_reply(self) -> list[Reading]:
        """Ask for the other report where none was ever answered; say what went unanswered."""
        asked = self._asked
        if asked is None or self.buffered:
            return []  # answered, only not with a reading; or the answer is still coming
        self._drop_half()
        if asked == self._report and not self._is_report_known:
            self._report = _SPECTRUM if asked == _RADIOMETRICS else _RADIOMETRICS
        detail = f"no answer to report {asked:02X} in time; check cable, model and power"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def _drop_half(self) -> bytes:
        self._asked = None
        half = self._cut.clear()
        return half if self._slip is None else self._slip.clear()

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        if data:
            self._has_heard = True
        readings: list[Reading] = []
        messages = self._cut.feed(data) if self._slip is None else self._slip.feed(data)
        for message in messages:
            refused = message if isinstance(message, BadFrame) else self._form_fault(message)
            if refused is None and isinstance(message, bytes):
                readings += self._reply(message)
            elif refused is not None:
                self._asked = None
                self._cut.is_lost = self._slip is None
                readings.append(refused)
        return readings

    def _form_fault(self, message: bytes) -> BadFrame | None:
        """Return why a message is none: the length it says, then its CRC."""
        if len(message) < OVERHEAD_BYTES or _CRC.unpack_from(message)[0] != len(message):
            detail = f"{len(message)} bytes, not what the message says of its length"
            return BadFrame.of(Reason.LENGTH, message, detail)
        (got,) = _CRC.unpack_from(message, len(message) - _CRC.size)
        expected = binascii.crc_hqx(message[: -_CRC.size], 0xFFFF)
        if got == expected:
            self._has_crc = True
        elif got != 0 or self._has_crc:
            detail = f"CRC {got:04X}, expected {expected:04X}"
            return BadFrame.of(Reason.CHECKSUM, message, detail)
        return None

    def _reply(self, message: bytes) -> list[Reading]:
        _, mode, _, report = _HEAD.unpack_from(message)
        payload = message[_HEAD.size : -_CRC.size]
        if report == self._asked or report in (_ERROR, _REFUSED):
            self._asked = None
        if mode & 1:
            self._is_compression_off = False
            detail = "its payload is compressed, which was switched off; it is asked again"
            return [BadFrame.of(Reason.UNKNOWN, message, detail)]
        if report in (_SPECTRUM, _RADIOMETRICS):
            return self._counted(report, payload, message)
        if report == _STATUS:
            return _status(payload, message)
        if report in (_CONFIRMATION, _EXTENDED_CONFIRMATION):
            return self._confirmed(report, payload, message)
        if report == _ERROR:
            return self._error(payload, message)
        if report in (_ACCEPTED, _REFUSED):
            return []
        return [BadFrame.of(Reason.UNKNOWN, message, f"report {report:02X} was not asked for")]

    def _counted(self, report: int, payload: bytes, message: bytes) -> list[Reading]:
        layout = _OLD if report == _SPECTRUM else _NEW
        if len(payload) != layout.size + _CHANNELS.size:
            return [_wrong_size(message)]
        self._report, self._is_report_known = report, True
        if self._is_first_reply:
            self._is_first_reply = False
            return []
        fields = layout.unpack_from(payload)
        real_time_s = fields[0 if report == _SPECTRUM else 1] / 1000
        longest_s = COVERS_TOO_LONG * self._options.interval_s
        if not 0 < real_time_s <= longest_s:
            detail = f"it covers {real_time_s:.3f} s, not up to {longest_s:g} s; it is dropped"
            return [BadFrame.of(Reason.RANGE, message, detail)]
        readings = self._cleared()
        counts = _CHANNELS.unpack_from(payload, layout.size)
        if report == _SPECTRUM:
            return [*readings, *self._pair(counts, fields[1], real_time_s, None, None)]
        neutron_live_s = _live_time_s(fields[6], real_time_s)
        gamma_live_s = _live_time_s(fields[10], real_time_s)
        readings += self._pair(counts, fields[7], real_time_s, gamma_live_s, neutron_live_s)
        readings += self._dose(fields[4])
        for name, hundredths in (("gamma", fields[12]), ("neutron", fields[8])):
            quantity = f"{name} detector temperature"
            readings.append(Housekeeping(quantity=quantity, value=hundredths / 100, unit="°C"))
        return readings

    def _pair(
        self,
        counts: tuple[int, ...],
        neutrons: int,
        real_time_s: float,
        gamma_live_s: float | None,
        neutron_live_s: float | None,
    ) -> tuple[Reading, Reading]:
        spectrum = GammaSpectrum(
            detector="gamma",
            counts=counts,
            real_time_s=real_time_s,
            live_time_s=gamma_live_s,
            energy=self._energy,
        )
        return spectrum, NeutronCounts(
            counts=(neutrons,), real_time_s=neutron_live_s or real_time_s, device_alarm=False
        )

    def _dose(self, rate: float) -> list[Reading]:
        factor = _USV_PER_H.get(self._options.dose_unit)
        if factor is None or not math.isfinite(rate) or rate < 0:
            return []
        return [DoseRate(usv_per_h=rate * factor)]

    def _error(self, payload: bytes, message: bytes) -> list[Reading]:
        if not payload:
            return [_wrong_size(message)]
        code = payload[0]
        text = payload[1:].split(b"\0")[0].decode("latin-1").strip()
        if code in _UNSUPPORTED and self._report == _RADIOMETRICS and not self._is_report_known:
            self._report, self._is_report_known = _SPECTRUM, True
            return []
        if code == 0x0B:
            self._is_report_known = True
        if code not in _CONDITIONS:
            return [BadFrame.of(Reason.DEVICE_ERROR, message, f"error {code:02X}: {text}")]
        condition = _CONDITIONS[code]
        if condition in self._conditions:
            return []
        self._conditions.add(condition)
        return [DeviceState(condition=condition, active=True, detail=text)]

    def _cleared(self) -> list[Reading]:
        """Counts came: whatever kept them from coming is over."""
        over = sorted(self._conditions)
        self._conditions.clear()
        return [DeviceState(condition=condition, active=False) for condition in over]

    def _confirmed(self, report: int, payload: bytes, message: bytes) -> list[Reading]:
        records = _records(report, payload)
        if records is None:
            return [_wrong_size(message)]
        if payload == self._last_confirmation or not records:
            return []
        self._last_confirmation = payload
        return [DeviceNuclides(nuclides=tuple(self._nuclide(*record) for record in records))]

    def _nuclide(self, nuclide: int, category: int, confidence: float) -> NuclideFound:
        codes = self._options.nuclide_codes
        first = 1 if codes == "from 1" else 0
        name = _named(_NUCLIDES, nuclide - first) if codes != "unknown" else None
        is_share = 0 <= confidence <= 1
        return NuclideFound(
            name=name or f"code {nuclide}",
            confidence=confidence if is_share else None,
            category=_named(_CATEGORIES, category - first) if codes != "unknown" else None,
        )


def _named(names: tuple[str, ...], index: int) -> str | None:
    return names[index] if 0 <= index < len(names) else None


def _message(report: int, payload: bytes) -> bytes:
    head = _HEAD.pack(OVERHEAD_BYTES + len(payload), 0, _BOARD, report)
    return head + payload + _CRC.pack(binascii.crc_hqx(head + payload, 0xFFFF))


def _wrong_size(message: bytes) -> BadFrame:
    detail = f"report {message[4]:02X} of {len(message)} bytes is not of its documented size"
    return BadFrame.of(Reason.LENGTH, message, detail)


def _live_time_s(live_ms: int, real_time_s: float) -> float | None:
    """Return the live time; None for one that cannot be, as its unit is unconfirmed."""
    live_s = live_ms / 1000
    return live_s if 0 < live_s <= 1.02 * real_time_s else None


def _status(payload: bytes, message: bytes) -> list[Reading]:
    if len(payload) not in (_STATUS_FIELDS.size, _STATUS_FIELDS.size + 1):
        return [_wrong_size(message)]
    _, _, temperature, _, _, battery, _, battery_temperature, _, _ = _STATUS_FIELDS.unpack_from(
        payload
    )
    return [
        Housekeeping(quantity="temperature", value=float(temperature), unit="°C"),
        Housekeeping(quantity="battery", value=float(battery), unit="%"),
        Housekeeping(quantity="battery temperature", value=float(battery_temperature), unit="°C"),
    ]


def _records(report: int, payload: bytes) -> list[tuple[int, int, float]] | None:
    """Return (nuclide, category, confidence) each; None where the size is not as documented."""
    if report == _CONFIRMATION:
        if len(payload) != _CONFIRMED.size + 2 * _NUCLIDE.size + _STATISTICS_BYTES:
            return None
        _, _, count = _CONFIRMED.unpack_from(payload)
        return [
            _NUCLIDE.unpack_from(payload, _CONFIRMED.size + i * _NUCLIDE.size)
            for i in range(min(count, 2))
        ]
    start = 5 + _STATISTICS_BYTES + 2
    if len(payload) < start:
        return None
    (count,) = _CRC.unpack_from(payload, start - 2)
    if len(payload) != start + count * _NUCLIDE.size:
        return None
    return [_NUCLIDE.unpack_from(payload, start + i * _NUCLIDE.size) for i in range(count)]
