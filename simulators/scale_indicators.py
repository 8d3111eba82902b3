"""Weighing indicators of seven makers on the wire: pure frames, and two terminals to serve them.

    Yaohua   02 s dddddd p hh 03         s sign, d digits, p decimals, h XOR of s to p
             =dddddd.0  =0dddddd.        last digit first, or first digit first
             WG dddd.ddkghh CR LF        h XOR of the eleven characters before it
             02 A B hh 03 asks, 02 A B s dddddd p hh 03 answers
    Dini     ST,GS,pppppppp,kg CR LF     PID: PIDSS,B,gggggggggg u,YYtttttttttt u,rrrrr-iiiiii
    SBI      s wwwwwwww uuu CR LF        unit blank in motion; six letters of name before it
    Systec   <ee ss date time id n gross tare net unit code range terminal CRC>, no spaces between
    Rinstrum 02 s wwwwwww S 03           02 s wwwwwww MSZR uuu 03
    Radwag   SI  m swwwwwwwww uuu CR LF  m mark: ? unstable, ^ over, v under
    Flintec  01PS+000123.4kk CR LF       kk: all before it and kk's value together are 0 in 8 bits

Source: Yaohua XK3190-A26 p. 10, A12E p. 13, A23p p. 21; Dini Argeo 3590EXP p. 81, DGT1P p. 41;
Sartorius GC803S p. 57; Systec alibi memory note for the IT series; Rinstrum C500 p. 53; Radwag HRP
p. 131; Flintec FT-112. What an indicator sends beyond its range is invented where its manual does
not say it: Yaohua blanks, Dini and Radwag the last figure, Systec its error alone, Rinstrum blanks.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from decimal import Decimal
from typing import Literal

from simulators.ports import Send, Talk
from simulators.weighbridge import Observation, Reading, Terminal, Unit, Weighbridge

YaohuaForm = Literal["stx", "reversed", "forward", "a12", "wn"]
_END = b"\r\n"


def _fixed(value: Decimal, decimals: int) -> str:
    return f"{abs(value):.{decimals}f}"


def _xor(text: str) -> int:
    total = 0
    for character in text:
        total ^= ord(character)
    return total


# --- Yaohua -------------------------------------------------------------------------------------


def _yaohua_figure(reading: Reading, decimals: int) -> str:
    """Return sign, six digits and the number of decimals."""
    digits = _fixed(reading.value, decimals).replace(".", "").rjust(6, "0")
    if reading.range != "ok":
        digits = " " * 6
    return f"{'-' if reading.value < 0 else '+'}{digits}{decimals}"


def yaohua_frame(reading: Reading, *, form: YaohuaForm, decimals: int = 0) -> bytes:
    """Return one frame of the continuous output."""
    if form == "stx":
        text = _yaohua_figure(reading, decimals)
        return f"\x02{text}{_xor(text):02X}\x03".encode("ascii")
    if form == "a12":
        return _a12_line(reading, decimals)
    sign = "-" if reading.value < 0 else "0"
    if form == "wn":
        figure = _fixed(reading.value, decimals).rjust(6, "0")
        return f"wn{figure}kg".encode("ascii") + _END
    figure = _fixed(reading.value, decimals)
    figure = (figure if decimals else figure + ".").rjust(7, "0")
    if form == "forward":
        return f"={sign}{figure}".encode("ascii")
    return f"={figure[::-1]}{sign}".encode("ascii")


def _a12_line(reading: Reading, decimals: int) -> bytes:
    if reading.range == "ok":
        minus = "-" if reading.value < 0 else ""
        room = 7 - len(minus)
        figure = minus + _fixed(reading.value, decimals).rjust(room)
        text = f"W{'N' if reading.is_net else 'G'}{figure}kg"
    else:
        text = " " * 9 + ("OL" if reading.range == "over" else "LO")
    return f"{text}{_xor(text):02X}".encode("ascii") + _END


def yaohua_answer(request: bytes, reading: Reading, *, address: str, decimals: int = 0) -> bytes:
    """Return what the command mode answers; nothing to another address or a damaged request."""
    if len(request) != 6 or request[0] != 2 or request[5] != 3:
        return b""
    called, command = chr(request[1]), chr(request[2])
    nibbles = f"{request[1] ^ request[2]:02X}".encode("ascii")
    if called != address or request[3:5] != nibbles or command not in "BCD":
        return b""
    gross = reading.value + reading.tare
    shown = {"B": gross, "C": reading.tare, "D": reading.value}[command]
    told = Reading(
        value=shown, tare=reading.tare, is_net=command == "D", in_motion=False, range=reading.range
    )
    text = called + command + _yaohua_figure(told, decimals)
    return f"\x02{text}{_xor(text):02X}\x03".encode("ascii")


# --- Dini Argeo ---------------------------------------------------------------------------------

_DINI_UNITS = {"kg": "kg", "lb": "lb", "t": " t", "g": " g"}


def dini_line(reading: Reading, *, unit: str, decimals: int = 0, address: str = "") -> bytes:
    """Return the standard string."""
    if reading.range == "over":
        state = "OL"
    elif reading.range == "under":
        state = "UL"
    else:
        state = "US" if reading.in_motion else "ST"
    mode = "NT" if reading.is_net else "GS"
    figure = ("-" if reading.value < 0 else "") + _fixed(reading.value, decimals)
    return f"{address}{state},{mode},{figure:>8},{_DINI_UNITS[unit]}".encode("ascii") + _END


class DiniAlibi:
    """The alibi memory of a Dini Argeo: answers PID and counts what it keeps.

    ``first`` is the number of its next record, ``rewritten`` how often it has been filled.
    """

    def __init__(self, *, first: int = 1, rewritten: int = 0) -> None:
        self._next = first
        self._rewritten = rewritten
        self.kept: dict[str, Decimal] = {}

    def answer(self, reading: Reading, *, unit: str, decimals: int = 0) -> bytes:
        """Return the answer to PID; what moves, is negative or out of range is not kept."""
        gross = reading.value + reading.tare
        number = "NO"
        if not reading.in_motion and gross >= 0 and reading.range == "ok":
            number = f"{self._rewritten:05d}-{self._next:06d}"
            self.kept[number] = gross
            self._next += 1
        state = "US" if reading.in_motion else "ST"
        if reading.range != "ok":
            state = "OL" if reading.range == "over" else "UL"
        sign = "-" if gross < 0 else ""
        unit = _DINI_UNITS[unit]
        first = f"{sign}{_fixed(gross, decimals)}".rjust(10) + unit
        second = "  " + _fixed(reading.tare, decimals).rjust(10) + unit
        return f"PID{state},1,{first},{second},{number}".encode("ascii") + _END


# --- Sartorius ----------------------------------------------------------------------------------


def sbi_line(
    reading: Reading, *, unit: str, decimals: int = 0, is_long: bool = False, code: str = ""
) -> bytes:
    """Return a line of 16 or 22 characters; ``code`` such as ``Err 054`` stands in its place."""
    if not code and reading.range != "ok":
        code = "H" if reading.range == "over" else "L"
    if code:
        head = "Stat  " if is_long else ""
        return f"{head}{code.center(14)}".encode("ascii") + _END
    head = ("N" if reading.is_net else "G").ljust(6) if is_long else ""
    sign = "-" if reading.value < 0 else "+"
    legend = "" if reading.in_motion else unit
    figure = _fixed(reading.value, decimals)
    return f"{head}{sign} {figure:>8} {legend:<3}".encode("ascii") + _END


# --- Systec -------------------------------------------------------------------------------------


class SystecMemory:
    """Answers RM and RN; RN numbers what it keeps, from 1 each day."""

    def __init__(self, *, day: str = "05.11.26", first: int = 1) -> None:
        self._day = day
        self._next = first
        self.kept: dict[str, Decimal] = {}

    def answer(
        self, command: str, reading: Reading, *, unit: str, decimals: int = 0, time: str = "12:34"
    ) -> bytes:
        """Return a telegram; RN refuses what moves or is negative."""
        if reading.range != "ok":
            return b"<12>" if reading.range == "over" else b"<14>"
        gross = reading.value + reading.tare
        number = 0
        if command == "RN":
            if reading.in_motion or gross < 0:
                return b"<13>"
            number = self._next
            self._next += 1
            self.kept[f"{self._day} {time} {number:04d}"] = gross
        is_negative = min(gross, reading.value) < 0
        weights = "".join(
            f"{value:8.{decimals}f}" for value in (gross, reading.tare, reading.value)
        )
        tare_code = " T" if reading.is_net else "  "
        text = f"00{reading.in_motion:d}{is_negative:d}{self._day}{time}{number:>4d}1{weights}"
        text += f"{unit:>2}{tare_code}1  1"
        return f"<{text}{_crc16(text.encode('ascii')):>8d}>".encode("ascii")


def _crc16(data: bytes) -> int:
    """Return some CRC-16: the maker's polynomial is not known here."""
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return crc


# --- Rinstrum -----------------------------------------------------------------------------------


def rinstrum_frame(
    reading: Reading,
    *,
    unit: str,
    decimals: int = 0,
    is_long: bool = True,
    light: int | None = None,
) -> bytes:
    """Return format B, or the short format A; a ``light`` takes the place of the sign."""
    figure = _fixed(reading.value, decimals)
    sign = b"-" if reading.value < 0 else b" "
    if light is not None:
        figure = ("-" if reading.value < 0 else "") + figure
        sign = bytes((light,))
    letter = "N" if reading.is_net else "G"
    if reading.range != "ok":
        letter = "O" if reading.range == "over" else "U"
        figure = ""
    text = f"{figure:>7}{letter}"
    if is_long:
        zero = "Z" if reading.value == 0 else " "
        text += ("M" if reading.in_motion else " ") + zero + "-"
        text += ("" if reading.in_motion else unit).rjust(3)
    return b"\x02" + sign + text.encode("ascii") + b"\x03"


# --- Radwag -------------------------------------------------------------------------------------


def radwag_line(reading: Reading, *, unit: str, decimals: int = 0, command: str = "SI") -> bytes:
    """Return a mass frame of 22 characters."""
    mark = "?" if reading.in_motion else " "
    mark = {"over": "^", "under": "v", "ok": mark}[reading.range]
    sign = "-" if reading.value < 0 else " "
    figure = _fixed(reading.value, decimals)
    return f"{command:<3} {mark} {sign}{figure:>9} {unit:<3}".encode("ascii") + _END


# --- Flintec ------------------------------------------------------------------------------------


def bsi_line(body: str) -> bytes:
    """Return a request or reply with its checksum."""
    total = sum(body.encode("ascii"))
    return f"{body}{(256 - total % 256) % 256:02X}".encode("ascii") + _END


def bsi_answer(
    request: bytes, reading: Reading, *, address: str = "01", decimals: int = 0
) -> bytes:
    """Return the answer to P; nothing to another address or a damaged request."""
    if request != bsi_line(f"{address}P"):
        return b""
    figure = _fixed(reading.value, decimals).rjust(8, "0")
    sign = "-" if reading.value < 0 else "+"
    return bsi_line(f"{address}PS{sign}{figure}")


# --- terminals ----------------------------------------------------------------------------------


class TalkingScale(Terminal):
    """Sends a frame after each period of scene time, whoever listens.

    Parameters
    ----------
    encode : the frame of one reading
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        encode: Callable[[Reading], bytes],
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        frames_per_s: float = 10.0,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self._encode = encode
        self.period_s = 1.0 / frames_per_s

    def frame(self, observation: Observation) -> bytes:
        """Return the next frame."""
        return self._encode(self.show(observation))

    def _start(self, send: Send) -> Talk:
        return _Talking(asyncio.create_task(self._stream(send)))

    async def _stream(self, send: Send) -> None:
        assert self._clock is not None
        next_s = self._clock.now_s()
        while True:
            send(self.frame(self.observe()))
            next_s = max(next_s + self.period_s, self._clock.now_s())
            await self._clock.sleep_until(next_s)


class _Talking:
    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def received(self, data: bytes) -> None:
        """Obey nothing."""

    def closed(self) -> None:
        self._task.cancel()


class AskedScale(Terminal):
    """Answers each request with what it shows at that moment.

    Parameters
    ----------
    answer : the reply to one request; empty: none
    request : how a request looks on the wire
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        answer: Callable[[bytes, Reading], bytes],
        *,
        request: bytes,
        unit: Unit = "kg",
        increment: Decimal | None = None,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self._answer = answer
        self.request = re.compile(request, re.DOTALL)

    def reply(self, request: bytes, observation: Observation) -> bytes:
        """Return the answer to a request."""
        return self._answer(request, self.show(observation))

    def _start(self, send: Send) -> Talk:
        return _Answering(self, send)


class _Answering:
    def __init__(self, scale: AskedScale, send: Send) -> None:
        self._scale = scale
        self._send = send
        self._buffer = b""

    def received(self, data: bytes) -> None:
        self._buffer = (self._buffer + data)[-64:]
        while found := self._scale.request.search(self._buffer):
            self._buffer = self._buffer[found.end() :]
            reply = self._scale.reply(found[0], self._scale.observe())
            if reply:
                self._send(reply)

    def closed(self) -> None:
        """Nothing runs on."""
