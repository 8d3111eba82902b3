"""Mettler-Toledo Safeline Signature metal detector on a conveyor, by its serial link.

Wire, RS-232 9600 7O1, one message::

    S G nn M mmmm c... E kkkk

    S  STX 0x02     E  ETX 0x03
    G  nn: how many characters stand between it and ETX (7 for "M0001a?")
    M  mmmm: number of the message, one more each time, 0000 after 9999; the same again: a repeat
    c  commands: a letter, then decimal values with commas between, or ? for a request
    k  CRC-16/MCRF4XX in hexadecimal, high digit first (polynomial 1021h reflected, start FFFFh)

    A n        bargraph -2047 to 2047, 10 a light, 200 full scale        [counts]
    R          detection
    g n        1: A and R are sent by themselves   0: they are not
    D d,c      rejects 0 to 9999, packs 0 to 16777214, both since the last reset
    C n,s,...  product 0-20, sensitivity 0-199, phase, timer group, frequency offset
    F n        sum of the faults that last, see FAULTS; 0 when the last of them clears
    h n        1 since power-up until the host sends h0
    O n        who is at the panel: 0 nobody, see ACCESS
    d ...      serial number of the head, model

Every message is a reading, so that silence means a lost link. A alone is an alarm that did not
begin; its largest since the bargraph was last dark goes with the next R. What a counter gained
while the link was lost is not told: nobody knows which pack it was. Nothing is ever set but, where
``clear_power_up`` says so, h0: g must stand at 1 already.

Source: Safeline Signature manual, appendix D p. 118-144. Unconfirmed: which characters the CRC
covers (``crc_scope``), R (its row was not at hand; it is named beside g), whether messages must be
acknowledged and how (``acknowledge``), that d is figures only, and the names in ACCESS above 3 as
an operational test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.counters import Counters
from drivers.readings import (
    RAW_LIMIT_BYTES,
    BadFrame,
    DeviceState,
    MetalAlarm,
    MetalPassages,
    MetalProgram,
    Reading,
    Reason,
)

LINE = LineParameters(baud=9600, data_bits=7, parity="O", stop_bits=1)

STX, ETX, ACK = 0x02, 0x03, 0x06
CRC_CHARACTERS = 4
MAX_MESSAGE = 1 + 3 + 99 + 1 + CRC_CHARACTERS
AMPLITUDE_SCALE = "bargraph counts, 200 full scale"
PARITY = "bit 7 is set; set the port to 7 bits and odd parity"
LIGHT = 10
"""A bargraph below one light is dark [counts]."""
REJECTS_MODULUS = 10_000
PACKS_MODULUS = 16_777_215

FAULTS = {
    1: "balance_fault",
    2: "fault_08",
    4: "fault_09",
    16: "warning_02",
    32: "warning_03",
    64: "warning_04",
    128: "eprom_fault",
    256: "reject_not_confirmed",
    512: "reject_port_fault",
    1024: "data_unit_fault_1",
    2048: "data_unit_fault_2",
    4096: "warning_07",
    8192: "balancing",
    32768: "extended_fault",
}
STILL_DETECTING = 16 | 32 | 64 | 256 | 512 | 4096
"""Warnings and faults of the reject: all others leave it open whether metal would be found."""
ACCESS = {1: "supervisor", 2: "engineer", 3: "viewing", 4: "QA inspector"}

Scope = Literal["g-to-before-etx", "g-to-etx", "stx-to-etx"]
SCOPES: tuple[Scope, ...] = ("g-to-before-etx", "g-to-etx", "stx-to-etx")

_MESSAGE = re.compile(rb"G([0-9]{2})M([0-9]{4})([\x21-\x7e]*)")
_NUMBER = rb"-?[0-9]{1,8}(?:\.[0-9]{1,4})?"
_COMMAND = re.compile(rb"([A-Za-z])(\?|(?:%b(?:,(?:%b|[A-Z]))*)?)" % (_NUMBER, _NUMBER))
_Command = tuple[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the manual leaves open, and what is asked for."""

    crc_scope: Annotated[
        Literal["auto", "g-to-before-etx", "g-to-etx", "stx-to-etx"],
        Meta(
            description="which characters the CRC covers, unconfirmed; auto: learned from the "
            "first message that is right by one of them"
        ),
    ] = "auto"
    alarms: Annotated[
        Literal["detection", "rejects"],
        Meta(
            description="detection: each R is an alarm, unconfirmed; rejects: what the counter of "
            "rejects gained"
        ),
    ] = "detection"
    requests: Annotated[
        tuple[Literal["D", "F", "h", "O", "d", "C", "g"], ...],
        Meta(description="what is asked for; empty: nothing, it only listens", max_length=7),
    ] = ("D", "F", "h", "O", "C")
    poll_interval_s: Annotated[float, Meta(description="how often to ask [s]", ge=0.1, le=60)] = 1.0
    acknowledge: Annotated[
        Literal["none", "ack"],
        Meta(
            description="unconfirmed: ack sends 06h before the next request where a message came; "
            "none sends nothing, and a repeated message counts once either way"
        ),
    ] = "none"
    clear_power_up: Annotated[
        bool,
        Meta(description="send h0 once h1 was told, so that the next power-up shows"),
    ] = False


class Driver:
    """Messages in, alarms and packs out; keeps at most one message."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = bytearray()
        self._skipped = bytearray()
        self._reset()

    def _reset(self) -> None:
        self._buffer.clear()
        self._skipped.clear()
        self._is_joining = True
        scope = self._options.crc_scope
        self._scope: Scope | None = None if scope == "auto" else scope
        self._number = -1
        self._last = self._sent = b""
        self._has_message = self._has_answer = self._power_up = False
        self._peak = 0.0
        self._states: dict[str, bool] = {}
        self._counters = Counters(max_increments=200, max_increments_after_gap=200)
        self._is_watched = False

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return self._options.poll_interval_s if self._options.requests else None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._buffer) + len(self._skipped)

    def poll(self) -> bytes:
        """Return the requests; while ``auto`` has learned nothing, with each scope in turn."""
        if not self._options.requests:
            return b""
        self._number = (self._number + 1) % 10_000
        commands = "".join(f"{letter}?" for letter in self._options.requests)
        if self._power_up and self._options.clear_power_up:
            commands += "h0"
        text = f"M{self._number:04}{commands}"
        message = bytes([STX]) + f"G{len(text):02}{text}".encode() + bytes([ETX])
        scope = self._scope or SCOPES[self._number % len(SCOPES)]
        self._sent = message + _crc(message, scope)
        has_to_acknowledge = self._has_message and self._options.acknowledge == "ack"
        self._has_message = self._has_answer = False
        return (bytes([ACK]) if has_to_acknowledge else b"") + self._sent

    def no_reply(self) -> list[Reading]:
        """Say that the requests went unanswered, unless what came was only no reading."""
        if self._has_answer or not self._options.requests:
            return []
        detail = "no answer to the requests in time; check cable, baud and access to the link"
        return [BadFrame.of(Reason.NO_REPLY, b"", detail)]

    def silence(self) -> list[Reading]:
        """Drop half a message and say so; forget levels, and what the last message was."""
        half = bytes(self._skipped + self._buffer)
        readings: list[Reading] = []
        if half:
            detail = "the line fell silent inside a message"
            readings.append(BadFrame.of(Reason.TRUNCATED, half, detail))
        if self._is_watched:
            readings.append(MetalAlarm(active=None, pulses=None))
        for condition, active in self._states.items():
            if active or condition == "not_ready":
                readings.append(DeviceState(condition=condition, active=None))
        self._reset()
        return readings

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for value in data:
            if value == STX:
                self._drop(readings, "a message began inside another")
                self._buffer.append(value)
            elif not self._buffer:
                self._skip(value, readings)
            else:
                self._buffer.append(value)
                self._take(readings)
        return readings

    def _take(self, readings: list[Reading]) -> None:
        """Consume the message where its last character has come."""
        etx = self._buffer.find(ETX)
        if 0 <= etx == len(self._buffer) - 1 - CRC_CHARACTERS:
            message = bytes(self._buffer)
            self._buffer.clear()
            self._report(readings)
            self._is_joining = False
            self._has_answer = True
            self._message(message, readings)
        elif etx < 0 and len(self._buffer) > MAX_MESSAGE:
            self._drop(readings, f"no end in {MAX_MESSAGE} characters; check baud and parity")

    def _drop(self, readings: list[Reading], detail: str) -> None:
        self._report(readings)
        if self._buffer:
            self._has_answer = True
            if any(value & 0x80 for value in self._buffer):
                detail = PARITY
            readings.append(BadFrame.of(Reason.LENGTH, bytes(self._buffer), detail))
            self._buffer.clear()
            self._is_joining = False

    def _skip(self, value: int, readings: list[Reading]) -> None:
        self._skipped.append(value)
        if len(self._skipped) >= RAW_LIMIT_BYTES:
            self._is_joining = False
            self._report(readings)

    def _report(self, readings: list[Reading]) -> None:
        """Say what stood outside; the rest of a message that was running when we came is none."""
        outside = bytes(self._skipped).strip(bytes([ACK]))
        self._skipped.clear()
        is_rest = self._is_joining and len(outside) <= MAX_MESSAGE
        if outside and not is_rest:
            detail = "characters outside any message; check baud and parity"
            readings.append(BadFrame.of(Reason.SYNTAX, outside, detail))

    def _message(self, message: bytes, readings: list[Reading]) -> None:
        if message == self._sent:
            return  # our own requests, sent back by the adapter
        bad = self._fault(message)
        commands = None if bad else _commands(message[1 : -1 - CRC_CHARACTERS])
        if commands is None:
            detail = "no row of commands with decimal values"
            readings.append(bad or BadFrame.of(Reason.SYNTAX, message, detail))
            return
        self._has_message = True
        is_repeat = message == self._last
        self._last = message
        alarm = self._alarm(commands, is_repeat=is_repeat)
        said: list[Reading] = [] if alarm is None else [alarm]
        for command in commands:
            said += self._say(*command)
        if not said:  # heard all the same
            said = [MetalAlarm(active=None, pulses=0 if self._is_watched else None)]
        readings += said

    def _fault(self, message: bytes) -> BadFrame | None:
        """Refuse by parity, CRC and length; the first right CRC tells its scope."""
        if any(value & 0x80 for value in message):
            return BadFrame.of(Reason.CHECKSUM, message, PARITY)
        body, crc = message[:-CRC_CHARACTERS], message[-CRC_CHARACTERS:]
        scopes = SCOPES if self._scope is None else (self._scope,)
        right = [scope for scope in scopes if _crc(body, scope) == crc]
        if len(right) != 1:
            wanted = " or ".join(_crc(body, scope).decode() for scope in scopes)
            detail = f"CRC is {crc!r}, should be {wanted}"
            return BadFrame.of(Reason.CHECKSUM, message, detail)
        found = _MESSAGE.fullmatch(body[1:-1])
        if found is None or int(found[1]) != len(body) - 5:
            detail = "the length after G is not that of the message"
            return BadFrame.of(Reason.LENGTH, message, detail)
        self._scope = right[0]
        return None

    def _alarm(self, commands: list[_Command], *, is_repeat: bool) -> MetalAlarm | None:
        """Return what A and R say together, None where neither stands there."""
        amplitude: float | None = None
        for letter, values in commands:
            if letter == "A" and values:
                amplitude = abs(float(values[0]))
                self._peak = 0.0 if amplitude < LIGHT else max(self._peak, amplitude)
        has_detection = ("R", ()) in commands and self._options.alarms == "detection"
        if amplitude is None and not has_detection:
            return None
        if self._options.alarms == "detection":
            self._is_watched = True
        pulses = None if not self._is_watched else int(has_detection and not is_repeat)
        if has_detection:
            amplitude, self._peak = self._peak or amplitude, 0.0
        return MetalAlarm(
            active=None,
            pulses=pulses,
            amplitude=amplitude,
            amplitude_scale=None if amplitude is None else AMPLITUDE_SCALE,
        )

    def _say(self, letter: str, values: tuple[str, ...]) -> list[Reading]:
        """Return what one command says; values that do not fit it are refused."""
        if not values or values == ("?",):
            return []
        if letter == "R":
            raw = f"R{','.join(values)}".encode()
            return [BadFrame.of(Reason.UNKNOWN, raw, "R has values, whose meaning is not known")]
        if letter not in _NEEDED:
            return []
        given = values[: _NEEDED[letter]]
        if len(given) < _NEEDED[letter] or not all(map(str.isdecimal, given)):
            raw = f"{letter}{','.join(values)}".encode()
            return [BadFrame.of(Reason.RANGE, raw, f"these are no values of command {letter}")]
        return self._understood(letter, [int(value) for value in given])

    def _understood(self, letter: str, numbers: list[int]) -> list[Reading]:
        match letter:
            case "D":
                return self._count(numbers[0], numbers[1])
            case "C":
                return [MetalProgram(program=str(numbers[0]), sensitivity=str(numbers[1]))]
            case "F":
                return self._faults(numbers[0])
            case "O":
                return self._access(numbers[0])
            case "g":
                return self._reports(is_on=numbers[0] == 1)
            case _:  # h
                self._power_up = numbers[0] != 0
                return [self._state("power_up", active=self._power_up)]

    def _count(self, rejects: int, packs: int) -> list[Reading]:
        readings: list[Reading] = []
        if rejects >= REJECTS_MODULUS or packs >= PACKS_MODULUS:
            raw = f"D{rejects},{packs}".encode()
            return [BadFrame.of(Reason.RANGE, raw, "more rejects or packs than the counter holds")]
        rejected = self._counters.take("rejects", rejects, REJECTS_MODULUS)
        passed = self._counters.take("packs", packs, PACKS_MODULUS)
        if self._options.alarms == "rejects":
            self._is_watched = True
            pulses = 0 if rejected is None else rejected.increments
            amplitude = (self._peak or None) if pulses else None
            self._peak = 0.0 if pulses else self._peak
            readings.append(
                MetalAlarm(
                    active=None,
                    pulses=pulses,
                    amplitude=amplitude,
                    amplitude_scale=None if amplitude is None else AMPLITUDE_SCALE,
                )
            )
        entered = 0 if passed is None else passed.increments
        readings.append(MetalPassages(entered=entered, left=None))
        seen = "; ".join(gain.reset for gain in (rejected, passed) if gain and gain.reset)
        if seen or self._states.get("counter_reset"):
            readings.append(self._state("counter_reset", active=bool(seen), detail=seen))
        return readings

    def _faults(self, total: int) -> list[Reading]:
        named = {name for bit, name in FAULTS.items() if total & bit}
        if total & ~sum(FAULTS):
            named.add("unknown_fault")
        before = {name for name in (*FAULTS.values(), "unknown_fault") if self._states.get(name)}
        readings: list[Reading] = [
            self._state(name, active=name in named, detail=f"F{total}" if name in named else "")
            for name in sorted(before | named)
        ]
        readings.append(self._state("not_ready", active=bool(total & ~STILL_DETECTING)))
        return readings

    def _reports(self, *, is_on: bool) -> list[Reading]:
        state = self._state("reports_off", active=not is_on)
        if self._options.alarms != "detection":
            return [state]
        self._is_watched = is_on
        return [state, MetalAlarm(active=None, pulses=0 if is_on else None)]

    def _access(self, who: int) -> list[Reading]:
        name = ACCESS.get(who, f"QA operator {who}" if 5 <= who <= 13 else f"code {who}")
        is_testing = 4 <= who <= 13
        is_open = who != 0 and not is_testing
        return [
            self._state("settings_open", active=is_open, detail=name if is_open else ""),
            self._state("operational_test", active=is_testing, detail=name if is_testing else ""),
        ]

    def _state(self, condition: str, *, active: bool, detail: str = "") -> DeviceState:
        self._states[condition] = active
        return DeviceState(condition=condition, active=active, detail=detail)


_NEEDED = {"D": 2, "C": 2, "F": 1, "O": 1, "g": 1, "h": 1}
"""How many whole numbers a command has at least; others are not looked at."""


def _commands(body: bytes) -> list[_Command] | None:
    """Return letters and values of ``GnnMmmmm...``, None where it is no row of commands."""
    found = _MESSAGE.fullmatch(body)
    text = b"" if found is None else found[3]
    commands: list[_Command] = []
    at = 0
    while at < len(text):
        command = _COMMAND.match(text, at)
        if command is None:
            return None
        values = command[2].decode()
        commands.append((command[1].decode(), tuple(values.split(",")) if values else ()))
        at = command.end()
    return commands or None


def _crc(message: bytes, scope: Scope) -> bytes:
    """Return the four characters of the CRC of STX to ETX.

    Source: Safeline Signature manual p. 118 (T is 1B26).
    """
    start = 0 if scope == "stx-to-etx" else 1
    stop = len(message) - 1 if scope == "g-to-before-etx" else len(message)
    return f"{crc16(message[start:stop]):04X}".encode()


def crc16(data: bytes) -> int:
    """Return the CRC-16/MCRF4XX: polynomial 1021h reflected, start FFFFh, no final inversion."""
    crc = 0xFFFF
    for value in data:
        crc ^= value
        for _ in range(8):
            crc = crc >> 1 ^ (0x8408 if crc & 1 else 0)
    return crc
