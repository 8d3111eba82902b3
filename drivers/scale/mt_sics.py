"""MT-SICS, the command set of Mettler-Toledo balances and terminals: ask, and a line answers.

Wire: ASCII lines ended CR LF, parameters separated by one space::

    SI            value now           S S     100.00 g     stable
    S             next stable value   S D     100.02 g     moving
    SIR           value, repeated     S I                  not now     S + / S -   over / under
    @             cancel              I4 A "serial"        also sent unasked after a restart
                                      ES / ET / EL         syntax / transmission / logical error

    value  10 characters, right-aligned [unit], the minus before the first digit; some devices put
           spaces after the minus, some use another width; or a code, ``Error 3b``
    unit   1-5 characters, left-aligned; only g, kg, t, lb and oz are taken

A reply carries no number, so it cannot show which request it answers. Wherever that is in doubt
(the line was opened, a reply came late or garbled) ``@`` is sent and all is dropped until its
``I4 A`` answers; that also stops a repeat which another process left running. XON and XOFF are
ignored, and so is the echo of our own line on a two-wire RS-485 adapter.

Source: Mettler-Toledo AT balance manual p. 87, JS p. 30, AL/IC p. 72 (commands and replies);
janelia-python/mettler_toledo_device_python (9600 Bd; meaning of ES, ET, EL). Unconfirmed:
10 characters of value, the ``Error`` codes, ``I4`` as the answer to ``@``, 8N1 with XON/XOFF, and
that ``@`` leaves the tare alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.lines import Lines
from drivers.readings import BadFrame, DeviceState, Range, Reading, Reason, Weight

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

MAX_LINE_BYTES = 80
CANCEL = b"@"
CANCEL_TRIES = 2
MISSED_REPEATS = 3
"""So many polls without a line end a repeat that we started: it is asked for again."""

_FLOW_CONTROL = b"\x11\x13"
_WEIGHT = re.compile(rb"S ([SD]) +(-?) *([0-9]{1,10}(?:\.[0-9]{0,9})?) +([A-Za-z%:]{1,5})")
_WEIGHT_ERROR = re.compile(rb"S [SD] +(Error +([0-9]{1,3})[A-Za-z]?)(?: .*)?")
_SERIAL = re.compile(rb'I4 A "([\x20-\x21\x23-\x7e]{0,40})"')
_RANGES: dict[bytes, Range] = {b"S I": "unknown", b"S +": "over", b"S -": "under"}
_REFUSALS = {
    b"ES": "ES: syntax error or unknown command",
    b"ET": "ET: transmission error (parity, framing or overrun)",
    b"EL": "EL: logical error (wrong parameter)",
}
_ERRORS = {
    1: "boot",
    2: "brand",
    3: "checksum",
    9: "option",
    10: "EEPROM",
    11: "device mismatch",
    12: "unplugged while on",
    14: "module mismatch",
    15: "adjustment needed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the balance is asked."""

    command: Annotated[
        Literal["SI", "S", "SU", "SIU", "SIR", "SIRU"],
        Meta(
            description="SI: value now; S: next stable value, answered only after the device's own "
            "stability time-out, so the reply time-out must exceed that; SIR: repeated by the "
            "device; with U: in the displayed unit"
        ),
    ] = "SI"
    poll_period_s: Annotated[
        float, Meta(description="how often to ask, or to look at a repeat [s]", ge=0.05, le=60)
    ] = 0.5
    equal_frames: Annotated[
        int,
        Meta(
            description="equal stable lines in a row that make a reading, as no line has a "
            "checksum [lines]; 1: no vote. Moving values are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2
    value_width: Annotated[
        int,
        Meta(
            description="width of the value field, another is refused [characters]; 10 on most "
            "devices; 0: any",
            ge=0,
            le=20,
        ),
    ] = 0
    send_cancel: Annotated[
        bool,
        Meta(
            description="send @ to stop a repeat and to pair replies; false, for a device whose "
            "tare it would clear: only wait a poll"
        ),
    ] = True
    serial: Annotated[
        str,
        Meta(
            description="serial number the device must give in I4; empty: the first seen",
            max_length=40,
        ),
    ] = ""


class _State(Enum):
    CLOSED = "nothing sent since the line was opened or pairing was lost"
    CANCELLING = "@ sent, all is dropped until it is answered"
    READY = "paired, nothing asked"
    WAITING = "asked, not answered"
    REPEATING = "the device repeats by our order"


@dataclass(frozen=True, slots=True)
class _Serial:
    """An ``I4 A`` line."""

    number: str


class Driver:
    """Lines in, weights out; asks one thing at a time."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._command = options.command.encode("ascii")
        self._repeats = options.command in ("SIR", "SIRU")
        self._serial = options.serial
        self._conditions: dict[str, bool] = {}
        self._vote = EqualFrames(options.equal_frames)
        self._lines = Lines(MAX_LINE_BYTES)
        self._reset()

    def _reset(self) -> None:
        self._lines.clear()
        self._is_first_line = True
        self._cancels_unanswered = 0
        self._lose_pairing()

    def _lose_pairing(self) -> None:
        self._state = _State.CLOSED
        self._cancel_tries = 0
        self._quiet_polls = 0
        self._vote.forget()

    @property
    def poll_period_s(self) -> float:
        """How often to poll [s]."""
        return self._options.poll_period_s

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return self._lines.buffered

    def poll(self) -> bytes:
        """Return the request to send now; empty while one is unanswered or a repeat runs."""
        if self._state is _State.REPEATING:
            self._quiet_polls += 1
            if self._quiet_polls > MISSED_REPEATS:
                self._lose_pairing()
        if self._state is _State.CLOSED:
            return self._open()
        if self._state is _State.CANCELLING:
            if self._cancel_tries < CANCEL_TRIES:
                return self._cancel()
            self._state = _State.READY  # a device that never answers @ is asked all the same
        if self._state is not _State.READY:
            return b""
        self._state = _State.REPEATING if self._repeats else _State.WAITING
        self._quiet_polls = 0
        return self._command + b"\r\n"

    def _open(self) -> bytes:
        if self._options.send_cancel:
            return self._cancel()
        self._state = _State.READY  # what comes until the next poll is dropped as unasked
        return b""

    def _cancel(self) -> bytes:
        self._state = _State.CANCELLING
        self._cancel_tries += 1
        self._cancels_unanswered += 1
        return CANCEL + b"\r\n"

    def silence(self) -> list[Reading]:
        """Drop a half line and say so; the next poll opens with ``@``."""
        half = self._lines.clear()
        self._reset()
        if not half:
            return []
        return [BadFrame.of(Reason.TRUNCATED, half, "the line fell silent inside a reply")]

    def no_reply(self) -> list[Reading]:
        """Say which request went unanswered; its reply, should it still come, is dropped."""
        if self._state is _State.CANCELLING:
            asked = CANCEL
        elif self._state is _State.WAITING or (
            self._state is _State.REPEATING and self._quiet_polls
        ):
            asked = self._command
            self._lose_pairing()
        else:
            return []  # answered, only not with a reading
        detail = f"no answer to {asked.decode('ascii')!r} in time; check cable, baud and power"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for line in self._lines.feed(data.translate(None, _FLOW_CONTROL)):
            if isinstance(line, BadFrame):
                self._take(line, line.raw, readings)
            elif line.rstrip(b"\r\n") not in (self._command, CANCEL):  # else our own echo
                self._take(_parse(line, self._options.value_width), line, readings)
        return readings

    def _take(
        self, said: Weight | BadFrame | _Serial, line: bytes, readings: list[Reading]
    ) -> None:
        is_first, self._is_first_line = self._is_first_line, False
        match said:
            case _Serial():
                readings += self._identified(said)
            case BadFrame():
                if (
                    not is_first or said.reason is Reason.FLOOD
                ):  # the first line may be the rest of one that was running
                    readings.append(said)
                self._bad_line()
            case Weight() if self._state in (_State.WAITING, _State.REPEATING):
                self._quiet_polls = 0
                self._cancels_unanswered = 0
                if self._state is _State.WAITING:
                    self._state = _State.READY
                readings += self._weighed(said, line)
            case Weight() if self._state is _State.READY:
                self._lose_pairing()
                detail = "a weight nobody asked for: a late reply, or a repeat left running"
                readings.append(BadFrame.of(Reason.UNKNOWN, line, detail))
            case Weight():
                pass  # drained

    def _bad_line(self) -> None:
        self._vote.forget()
        # Was it the answer or noise before it? After @ it no longer matters.
        if self._state is _State.WAITING:
            self._lose_pairing()

    def _identified(self, said: _Serial) -> list[Reading]:
        """Take ``I4 A``: the answer to our ``@``, else the device has just started."""
        readings = self._compared(said.number)
        if self._cancels_unanswered:
            self._cancels_unanswered -= 1
            # Every @ must be answered: what stands before the last answer is old.
            if self._state is _State.CANCELLING and not self._cancels_unanswered:
                self._state = _State.READY
            return readings
        if self._state is _State.REPEATING:
            self._state = _State.READY  # a restart ends the repeat
        self._vote.forget()
        return [*readings, *self._condition("power_up", f"restarted, serial {said.number}")]

    def _compared(self, number: str) -> list[Reading]:
        self._serial = self._serial or number
        if number == self._serial:
            return self._condition("device_changed", None)
        return self._condition("device_changed", f"serial {number}, was {self._serial}")

    def _weighed(self, weight: Weight, line: bytes) -> list[Reading]:
        fault = weight.notes[0] if weight.range == "error" else None
        readings = self._condition("weighing_error", fault)
        if weight.range != "ok" or not weight.stable:
            self._vote.forget()
        elif not self._vote.agrees(line):
            return readings
        return [*readings, *self._condition("power_up", None), weight]

    def _condition(self, name: str, detail: str | None) -> list[Reading]:
        """Report a condition where it changed; ``detail`` None: it does not hold."""
        is_active = detail is not None
        if self._conditions.get(name, False) == is_active:
            return []
        self._conditions[name] = is_active
        return [DeviceState(condition=name, active=is_active, detail=detail or "")]


def _parse(line: bytes, value_width: int) -> Weight | BadFrame | _Serial:
    """Return what one whole line says.

    Source: Mettler-Toledo AT manual p. 87, AL/IC p. 72; Error codes unconfirmed.
    """
    fault = _form_fault(line)
    if fault is not None:
        return fault
    text = line[:-2]
    if text in _REFUSALS:
        return BadFrame.of(Reason.DEVICE_ERROR, line, _REFUSALS[text])
    if text in _RANGES:
        return _no_weight(_RANGES[text], () if text != b"S I" else ("not executable now",))
    if serial := _SERIAL.fullmatch(text):
        return _Serial(serial[1].decode("ascii"))
    if error := _WEIGHT_ERROR.fullmatch(text):
        meaning = _ERRORS.get(int(error[2]), "meaning not published")
        return _no_weight("error", (f"{error[1].decode('ascii')}: {meaning}",))
    if weight := _WEIGHT.fullmatch(text):
        if value_width and text[4 + value_width :].find(b" ") != 0:
            detail = f"the value field is not {value_width} characters wide; see value_width"
            return BadFrame.of(Reason.LENGTH, line, detail)
        return _weight(line, weight)
    return BadFrame.of(Reason.SYNTAX, line, "no reply that this driver asks for")


def _form_fault(line: bytes) -> BadFrame | None:
    if not line.endswith(b"\r\n"):
        return BadFrame.of(Reason.SYNTAX, line, "the line ends LF without CR")
    if not line.isascii():
        return BadFrame.of(Reason.SYNTAX, line, "bytes above 0x7F; check the line's parity")
    return None


def _weight(line: bytes, found: re.Match[bytes]) -> Weight | BadFrame:
    unit = found[4].decode("ascii")
    if unit not in KG_PER_UNIT:
        detail = f"unit {unit!r} is none of {', '.join(KG_PER_UNIT)}; change the device's unit"
        return BadFrame.of(Reason.UNIT, line, detail)
    value = Decimal(found[3].decode("ascii"))
    if found[2] and value:
        value = -value
    return Weight(
        value=format(value, "f"),
        unit=unit,
        mass_kg=mass_kg(value, unit),
        mode="unknown",
        stable=found[1] == b"S",
        range="ok",
    )


def _no_weight(range_: Range, notes: tuple[str, ...]) -> Weight:
    return Weight(
        value=None,
        unit=None,
        mass_kg=None,
        mode="unknown",
        stable=None,
        range=range_,
        stable_by=None,
        notes=notes,
    )
