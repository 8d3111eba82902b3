"""Ludlum 375 area monitor: it calls us over TCP and sends a piece of XML every 2 s.

The monitor is the TCP client, so the port is ``listen://address:port``. At most 384 bytes::

    <area_monitor rev=".." serial="..">
      <status>
        <rate>..</rate>             dose rate                    [unit of units_code]
        <units_code>03</units_code> 03: µSv/h
        <audio>.</audio>            sounder, 0 or 1
        <alarm1>.</alarm1>          low alarm, 0 or 1
        <alarm2>.</alarm2>          high alarm, 0 or 1
        <over_range>.</over_range>  0 or 1; the rate is then no figure
        <monitor>.</monitor>        kept as it came
        <error_code>..</error_code> 0: none
      </status>
    </area_monitor>

Each of these may also stand as an attribute of the element above it. Nothing is sent to the
monitor; it decides its alarms itself.

Source: ludlum_m375 (LGPL-2.1 or later), a control-system driver: names, order, length, period,
stale after 7 s. Unconfirmed: ``units_code`` 03 as µSv/h, which is what that driver reads a real
unit's as; 0 and 1 as the only figures of the flags; whether the names are elements or attributes;
the meaning of ``monitor``.
Quirk: after a cut the monitor can take 2 to 3 minutes to call again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal
from xml.etree import ElementTree as ET

from msgspec import Meta

from drivers.readings import (
    BadFrame,
    DeviceAlarm,
    DeviceState,
    DoseRate,
    Reading,
    Reason,
    Undocumented,
)

PRESENCE = "none"
GAMMA_RULE = "own"
SILENCE_S = 7.0

LONGEST = 384
"""Bytes of one message, line end included."""

_START, _END = b"<area_monitor", b"</area_monitor>"
_RATE = re.compile(r"[0-9]{1,7}(?:\.[0-9]{0,6})?(?:[eE][+-]?[0-9]{1,2})?")
_CODE = re.compile(r"[0-9A-Za-z]{1,8}")
_FLAGS = {"0": False, "1": True}
_TEXT = re.compile(r"[\x20-\x7e]{0,32}")
_USV = {"uSv/h": 1.0, "mSv/h": 1000.0}

_ALARMS = (
    ("alarm1", "dose_rate_alarm_1"),
    ("alarm2", "dose_rate_alarm_2"),
    ("over_range", "over_range"),
)
_NAMES = (
    "rate",
    "units_code",
    "audio",
    "alarm1",
    "alarm2",
    "over_range",
    "monitor",
    "error_code",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the monitor is set to."""

    units_code: Annotated[
        str, Meta(description="the units_code that it must send", pattern="^[0-9A-Za-z]{1,8}$")
    ] = "03"
    dose_unit: Annotated[
        Literal["uSv/h", "mSv/h"], Meta(description="what that code stands for, as it displays it")
    ] = "uSv/h"
    serial: Annotated[
        str,
        Meta(description="serial number it must give; empty: the first seen", max_length=32),
    ] = ""


class Driver:
    """XML in, dose rates and alarms out."""

    poll_period_s: float | None = None

    def __init__(self, options: Options) -> None:
        self._options = options
        self._serial = options.serial
        self._buffer = b""
        self._is_first = True

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished message are kept."""
        return len(self._buffer)

    def poll(self) -> bytes:
        """Return nothing: the monitor just talks."""
        return b""

    def no_reply(self) -> list[Reading]:
        """Return nothing: nothing is asked."""
        return []

    def silence(self) -> list[Reading]:
        """Drop a half message and say so."""
        half, self._buffer = self._buffer.strip(), b""
        self._is_first = True
        return [BadFrame.of(Reason.TRUNCATED, half, "the call ended in a message")] if half else []

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        # In pieces, so that how the bytes were cut changes nothing and the buffer stays small.
        for at in range(0, len(data), LONGEST):
            self._buffer += data[at : at + LONGEST]
            self._take(readings)
        return readings

    def _take(self, readings: list[Reading]) -> None:
        while True:
            end = self._buffer.find(_END)
            if 0 <= end <= LONGEST - len(_END):
                message = self._buffer[: end + len(_END)]
                self._buffer = self._buffer[end + len(_END) :]
                readings += self._message(message)
            elif len(self._buffer) > LONGEST:
                readings.append(
                    BadFrame.of(
                        Reason.FLOOD, self._buffer[:LONGEST], f"no end within {LONGEST} bytes"
                    )
                )
                self._buffer = self._buffer[LONGEST:]
                self._is_first = True
            else:
                return

    def _message(self, message: bytes) -> list[Reading]:
        first, self._is_first = self._is_first, False
        start = message.rfind(_START)
        if start < 0:
            reason = Reason.TRUNCATED if first else Reason.SYNTAX
            return [BadFrame.of(reason, message, "an end without its beginning")]
        fields = _fields(message[start:])
        if isinstance(fields, BadFrame):
            return [fields]
        return self._said(message, fields)

    def _said(self, message: bytes, fields: dict[str, str]) -> list[Reading]:
        flags = {name: _FLAGS.get(fields[name]) for name in ("alarm1", "alarm2", "over_range")}
        unknown = [name for name, value in flags.items() if value is None]
        if unknown:
            detail = f"{unknown[0]} is {fields[unknown[0]]!r}, expected 0 or 1"
            return [BadFrame.of(Reason.UNKNOWN, message, detail)]
        if fields["units_code"] != self._options.units_code:
            detail = (
                f"units_code is {fields['units_code']}, expected {self._options.units_code}; "
                "set units_code and dose_unit to what it displays"
            )
            return [BadFrame.of(Reason.UNIT, message, detail)]
        is_over = bool(flags["over_range"])
        rate = float(fields["rate"]) * _USV[self._options.dose_unit]
        readings: list[Reading] = [] if is_over else [DoseRate(usv_per_h=rate)]
        detail = f"rate {fields['rate']} {self._options.dose_unit}"
        readings += [
            DeviceAlarm(kind="gamma", code=code, detail=detail, active=bool(flags[name]))
            for name, code in _ALARMS
        ]
        error = fields["error_code"]
        is_error = bool(error.strip("0"))
        detail = f"code {error}" if is_error else ""
        readings.append(DeviceState(condition="device_error", active=is_error, detail=detail))
        readings.append(self._identified(fields["serial"]))
        readings += [Undocumented(tag=name, text=fields[name]) for name in ("audio", "monitor")]
        return readings

    def _identified(self, serial: str) -> DeviceState:
        self._serial = self._serial or serial
        is_other = serial != self._serial
        detail = f"serial {serial}, expected {self._serial}" if is_other else ""
        return DeviceState(condition="device_changed", active=is_other, detail=detail)


def _fields(message: bytes) -> dict[str, str] | BadFrame:
    """Return serial and status of one message by name, each in its form."""
    # No declaration of entities: a few bytes of it can grow to gigabytes.
    if b"<!" in message or not message.isascii():
        return BadFrame.of(Reason.SYNTAX, message, "bytes above 7Fh, or a declaration")
    try:
        root = ET.fromstring(message.decode("ascii"))  # noqa: S314 - no declarations
    except ET.ParseError as exc:
        return BadFrame.of(Reason.SYNTAX, message, f"no XML: {exc}")
    status = root.find("status")
    if status is None:
        return BadFrame.of(Reason.SYNTAX, message, "no status")
    fields = {"serial": _text(root, "serial") or ""}
    for name in _NAMES:
        text = _text(status, name)
        if text is None:
            return BadFrame.of(Reason.LENGTH, message, f"no {name}")
        fields[name] = text
    forms = {"rate": _RATE, "units_code": _CODE, "error_code": _CODE}
    for name, text in fields.items():
        if forms.get(name, _TEXT).fullmatch(text) is None:
            return BadFrame.of(Reason.SYNTAX, message, f"{name} is {text[:16]!r}")
    return fields


def _text(element: ET.Element, name: str) -> str | None:
    """Return an attribute or the text of a child; None: neither is there."""
    if (value := element.get(name)) is not None:
        return value.strip()
    child = element.find(name)
    return None if child is None else (child.text or "").strip()
