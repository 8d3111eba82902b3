"""Two weighing terminals that put a weighbridge on the wire.

Toledo continuous output, sent unasked::

    02 A B C gggggg tttttt 0D [S]
       A  bits 2-0: decimal factor, 000 = x100 ... 010 = x1 ... 111 = x0.00001; bits 4-3: build
          of the increment, 01 = 1, 10 = 2, 11 = 5 (times the factor); bit 5 = 1
       B  bit 0 net, 1 negative, 2 out of range, 3 motion, 4 kg (else lb), 5 = 1,
          6 zero not captured
       C  bit 3 print request, bit 5 = 1
       g  gross or net weight without sign or point, t  tare (absent in the short form)
       S  checksum: all bytes together are 0 in their low seven bits
    It obeys P print, T tare, Z zero, C clear tare, and acknowledges nothing.
    Source: Rice Lake 680 manual p. 64, Fairbanks FB3000 manual p. 55, Cardinal 225 manual p. 126
    (short form). What the weight digits show out of range is unconfirmed; here they are blank.

MT-SICS, a line each way, ended CR LF::

    S SI SIR SR     S S vvvvvvvvvv unit (stable), S D ... (dynamic), S I, S +, S -
    Z T TAC         Z A / I / + / -; T S vvvvvvvvvv unit / I / + / -; TAC A
    @ I0 ... I4     I4 A "serial" and the like;  ES ET EL  syntax, transmission, logic error
       v  ten characters, right-aligned
    Source: Mettler-Toledo MT-SICS as in the balances AT p. 87, JS p. 30, AL p. 72. The replies of
    T, TAC, @, I0 and I1 and the ten characters are unconfirmed.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from simulators.ports import Send, Talk
from simulators.weighbridge import (
    Observation,
    Reading,
    Terminal,
    Unit,
    Weighbridge,
    factor_and_build,
)

__all__ = [
    "Observation",
    "Reading",
    "SicsScale",
    "ToledoForm",
    "ToledoScale",
    "Weighbridge",
    "toledo_frame",
]

# --- Toledo continuous output -------------------------------------------------------------------

_STX, _CR = 0x02, 0x0D
_BUILD_BITS = {1: 0b01, 2: 0b10, 5: 0b11}


@dataclass(frozen=True, slots=True, kw_only=True)
class ToledoForm:
    """How a terminal is set to send."""

    short: bool = False
    checksum: bool = True
    parity: Literal["none", "even", "odd"] = "none"  # seven data bits as an 8N1 port sees them
    constant_bit: bool = True  # bit 5 of status B: 1 at Toledo and Rice Lake, 0 at Fairbanks


def toledo_frame(
    reading: Reading,
    *,
    increment: Decimal,
    unit: Unit,
    form: ToledoForm,
    print_requested: bool = False,
    zero_captured: bool = True,
) -> bytes:
    """Return one frame as it is on the wire."""
    factor, build = factor_and_build(increment)
    decimal_code = 2 - factor.adjusted()
    if not 0 <= decimal_code <= 7:
        raise ValueError(f"increment is {increment}; status A can say 0.00001 to 500")
    status_a = 0x20 | _BUILD_BITS[build] << 3 | decimal_code
    digits = f"{int(abs(reading.value) / factor):6d}"
    is_out = reading.range != "ok" or len(digits) > 6
    is_negative = reading.value < 0 or reading.range == "under"
    status_b = (
        reading.is_net
        | is_negative << 1
        | is_out << 2
        | reading.in_motion << 3
        | (unit == "kg") << 4
        | form.constant_bit << 5
        | (not zero_captured) << 6
    )
    status_c = 0x20 | print_requested << 3
    text = " " * 6 if is_out else digits
    if not form.short:
        text += f"{int(reading.tare / factor):6d}" if reading.tare else "000000"
    frame = bytes((_STX, status_a, status_b, status_c)) + text.encode("ascii") + bytes((_CR,))
    if form.checksum:
        frame += bytes((-sum(frame) & 0x7F,))
    return bytes(_with_parity(value, form.parity) for value in frame)


def _with_parity(value: int, parity: str) -> int:
    if parity == "none":
        return value
    ones = value.bit_count() + (parity == "odd")
    return value | (ones & 1) << 7


class ToledoScale(Terminal):
    """A terminal that sends Toledo continuous output to whoever listens.

    Parameters
    ----------
    unit, increment : what is shown; the increment (default e, or 50 lb) gives the decimal factor:
        20 is sent as x10, 500 as x100
    form : long or short, checksum, parity bit
    frames_per_s : of scene time
    zero_captured : False: as after power-up, until zero is set
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        form: ToledoForm | None = None,
        frames_per_s: float = 10.0,
        zero_captured: bool = True,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self.form = form or ToledoForm()
        self.period_s = 1.0 / frames_per_s
        self.zero_captured = zero_captured
        self._print_requested = False

    def frame(self, observation: Observation) -> bytes:
        """Return the next frame."""
        is_print, self._print_requested = self._print_requested, False
        return toledo_frame(
            self.show(observation),
            increment=self.increment,
            unit=self.unit,
            form=self.form,
            print_requested=is_print,
            zero_captured=self.zero_captured,
        )

    def obey(self, command: int, observation: Observation) -> None:
        """Do what one received character asks, in motion nothing but clear the tare."""
        character = chr(command & 0x7F)
        if character == "C":
            self.tare = Decimal(0)
        elif observation.in_motion:
            return
        elif character == "P":
            self._print_requested = True
        elif character == "T":
            self.set_tare(observation)
        elif character == "Z":
            self.zero_captured |= self.set_zero(observation) == "ok"

    def _start(self, send: Send) -> Talk:
        return _ToledoTalk(self, send)

    async def stream(self, send: Send) -> None:
        """Send frame after frame; none is made up for where the machine was too slow."""
        assert self._clock is not None
        next_s = self._clock.now_s()
        while True:
            send(self.frame(self.observe()))
            next_s = max(next_s + self.period_s, self._clock.now_s())
            await self._clock.sleep_until(next_s)


class _ToledoTalk:
    def __init__(self, scale: ToledoScale, send: Send) -> None:
        self._scale = scale
        self._task = asyncio.create_task(scale.stream(send))

    def received(self, data: bytes) -> None:
        observation = self._scale.observe()
        for command in data:
            self._scale.obey(command, observation)

    def closed(self) -> None:
        self._task.cancel()


# --- MT-SICS ------------------------------------------------------------------------------------

_COMMANDS = (
    (0, ("@", "I0", "I1", "I2", "I3", "I4", "S", "SI", "SIR", "Z")),
    (1, ("SR", "T", "TAC")),
)
_KNOWN = {name for _, names in _COMMANDS for name in names}
_LINE_MAX = 64
_SIGNS = {"over": "+", "under": "-"}


class SicsScale(Terminal):
    """A terminal that answers MT-SICS.

    Parameters
    ----------
    serial : what ``I4`` and ``@`` answer
    stability_timeout_s : how long ``S``, ``Z`` and ``T`` wait for rest before they answer ``I``
    repeat_period_s : between the values of ``SIR``

    All times are scene time. ``SR`` answers again after a change of 12.5 % of the last stable
    value, at least 30 increments.
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        serial: str = "0123456789",
        stability_timeout_s: float = 10.0,
        repeat_period_s: float = 0.2,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self.serial = serial
        self.stability_timeout_s = stability_timeout_s
        self.repeat_period_s = repeat_period_s

    def weight_text(self, value: Decimal) -> str:
        """Return value and unit as they stand in a reply."""
        decimals = max(0, -self.factor.adjusted())
        return f"{value:10.{decimals}f} {self.unit}"

    def value_now(self, observation: Observation) -> str:
        """Return the answer to SI."""
        reading = self.show(observation)
        if reading.range != "ok":
            return f"S {_SIGNS[reading.range]}"
        return f"S {'D' if reading.in_motion else 'S'} {self.weight_text(reading.value)}"

    def identity(self, command: str) -> list[str]:
        """Return the answer to I0 ... I4."""
        if command == "I0":
            known = [(level, name) for level, names in _COMMANDS for name in names]
            letters = ["B"] * (len(known) - 1) + ["A"]
            return [
                f'I0 {letter} {level} "{name}"'
                for letter, (level, name) in zip(letters, known, strict=True)
            ]
        capacity = self.weight_text(self.rounded(self.weighbridge.max_kg)).strip()
        answers = {
            "I1": '"01" "2.00" "2.00"',
            "I2": f'"Weighbridge {capacity}"',
            "I3": '"1.00"',
            "I4": f'"{self.serial}"',
        }
        return [f"{command} A {answers[command]}"]

    def _start(self, send: Send) -> Talk:
        return _SicsTalk(self, send)

    async def wait(self, scene_s: float) -> None:
        """Wait until a scene time."""
        assert self._clock is not None
        await self._clock.sleep_until(scene_s)

    async def rest(self) -> Observation | None:
        """Wait for the platform to rest; None: it did not in time."""
        observation = self.observe()
        until_s = observation.scene_s + self.stability_timeout_s
        while observation.in_motion:
            if observation.scene_s >= until_s:
                return None
            await self.wait(observation.scene_s + 0.05)
            observation = self.observe()
        return observation


class _SicsTalk:
    """One client; a new command ends whatever still waits or repeats."""

    def __init__(self, scale: SicsScale, send: Send) -> None:
        self._scale = scale
        self._send = send
        self._buffer = b""
        self._task: asyncio.Task[None] | None = None

    def received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        self._buffer = self._buffer[-_LINE_MAX:]
        for line in lines:
            self._obey(line[-_LINE_MAX:].removesuffix(b"\r"))

    def closed(self) -> None:
        self._cancel()

    def _say(self, *lines: str) -> None:
        self._send(b"".join(line.encode("ascii") + b"\r\n" for line in lines))

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            self._task = None

    def _obey(self, line: bytes) -> None:
        if not line:
            return
        if any(value > 0x7F for value in line):
            self._say("ET")
            return
        name, *parameters = line.decode("ascii").split(" ")
        if name not in _KNOWN or not re.fullmatch(r"[ -~]*", line.decode("ascii")):
            self._say("ES")
            return
        if parameters:
            self._say("EL")
            return
        self._cancel()
        scale = self._scale
        match name:
            case "SI":
                self._say(scale.value_now(scale.observe()))
            case "TAC":
                scale.tare = Decimal(0)
                self._say("TAC A")
            case "@":
                scale.tare = Decimal(0)
                self._say(*scale.identity("I4"))
            case "S" | "SIR" | "SR" | "Z" | "T":
                work = {
                    "S": self._stable,
                    "SIR": self._repeat,
                    "SR": self._on_change,
                    "Z": self._zero,
                    "T": self._tare,
                }[name]
                self._task = asyncio.create_task(work())
            case _:
                self._say(*scale.identity(name))

    async def _stable(self) -> None:
        observation = await self._scale.rest()
        self._say("S I" if observation is None else self._scale.value_now(observation))

    async def _repeat(self) -> None:
        scale = self._scale
        while True:
            observation = scale.observe()
            self._say(scale.value_now(observation))
            await scale.wait(observation.scene_s + scale.repeat_period_s)

    async def _on_change(self) -> None:
        """A stable value, and after each change the moving and then the stable one."""
        scale = self._scale
        while True:
            observation = await scale.rest()
            if observation is None:
                self._say("S I")
                return
            self._say(scale.value_now(observation))
            last = scale.show(observation).value
            least = max(abs(last) / 8, 30 * scale.increment)
            while abs(scale.show(observation).value - last) < least:
                await scale.wait(observation.scene_s + 0.05)
                observation = scale.observe()
            self._say(scale.value_now(observation))

    async def _zero(self) -> None:
        observation = await self._scale.rest()
        if observation is None:
            self._say("Z I")
            return
        found = self._scale.set_zero(observation)
        self._say("Z A" if found == "ok" else f"Z {_SIGNS[found]}")

    async def _tare(self) -> None:
        observation = await self._scale.rest()
        if observation is None:
            self._say("T I")
            return
        found = self._scale.set_tare(observation)
        self._say(
            f"T S {self._scale.weight_text(self._scale.tare)}"
            if found == "ok"
            else f"T {_SIGNS[found]}"
        )
