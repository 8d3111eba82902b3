"""Environment board of Rapiscan portals: climate and supply of a pillar, over TCP port 7.

Asked with five bytes, answered with twelve unsigned 32-bit words, low byte first::

    asked      FF 00 AA 55 0E
     0  header, kept as it comes              6  DC current: 14.48507166 - 0.00686993 x     [A]
     1  temperature, 0.1 °C, over 2000        7  AC current: x / 100                        [A]
        negative (16-bit wrap)                8  spare input                           [counts]
     2  relative humidity, 0.1 %              9  thermocouple, 14 bits two's complement,
     3  pressure, 0.01 hPa                       0.25 °C; or one of two words for its error
     4  second temperature, as word 1        10  humidity outside, as word 2
     5  battery: 0.00669129 x - 2.65918493   11  reserved
        [V], below 20 counts 0

A portal has one board a pillar cabinet and detector, each with an address of its own (detectors
at .1 to .4, master at .5, slave at .6 of 192.168.10.0/24), so each is a device of its own here.

There is no checksum: TCP has one. What cannot be, temperature, humidity and pressure of the board
itself first of all, refuses the whole reply.

Source: EYamamotoRapiscan Environmental-Board-Readout-Code (MIT, by the vendor's engineer).
Unconfirmed: words 4 and 10 scaled as words 1 and 2; the error words as text of the thermocouple's
reader; all limits, which the site sets.
Quirk: port 7 is also that of the echo service; an answer of the five bytes themselves means that
the address is some other machine's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from drivers.readings import BadFrame, DeviceState, Housekeeping, Reading, Reason

PRESENCE = "none"
GAMMA_RULE = "none"

REQUEST = bytes.fromhex("FF00AA550E")
REPLY = struct.Struct("<12I")
THERMOCOUPLE_ERRORS = (1381126725, 1163022930)
ADC_MOST = 4095
"""The inputs are taken to be of 12 bits: more cannot be (unconfirmed)."""
READS_TO_BELIEVE = 3
"""A limit counts as passed, or kept again, after so many replies in a row that say so."""

_TEMPERATURE_C = (-60.0, 100.0)
_HUMIDITY = (0.0, 110.0)
_PRESSURE_HPA = (300.0, 1200.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How often the board is asked, and what is a fault here."""

    poll_period_s: Annotated[
        float, Meta(description="how often the board is asked [s]", ge=1, le=60)
    ] = 5.0
    battery_low_v: Annotated[
        float, Meta(description="battery below this is a fault [V]; 0: no check", ge=0, le=60)
    ] = 0.0
    mains_low_a: Annotated[
        float,
        Meta(description="AC current below this: mains failed [A]; 0: no check", ge=0, le=100),
    ] = 0.0
    temperature_low_c: Annotated[
        float, Meta(description="colder than this is a fault [°C]; -60: none is", ge=-60, le=100)
    ] = -60.0
    temperature_high_c: Annotated[
        float, Meta(description="warmer than this is a fault [°C]; 100: none is", ge=-60, le=100)
    ] = 100.0
    humidity_high_percent: Annotated[
        float, Meta(description="damper than this is a fault [%]; 110: none is", gt=0, le=110)
    ] = 110.0


class Driver:
    """Asks, and takes the 48 bytes that answer."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._buffer = b""
        self._is_asked = False
        self._extra = 0
        # Kept over a gap: what stood before it is taken back by the first reply that finds it gone.
        self._active: dict[str, bool] = {}
        self._contrary: dict[str, int] = {}

    @property
    def poll_period_s(self) -> float:
        """How often to poll [s]."""
        return self._options.poll_period_s

    @property
    def buffered(self) -> int:
        """How many bytes of an unfinished reply are kept."""
        return len(self._buffer)

    def poll(self) -> bytes:
        """Return the request; nothing while a reply is coming in, which ``no_reply`` cuts off."""
        if self._buffer:
            return b""
        self._is_asked, self._extra = True, 0
        return REQUEST

    def silence(self) -> list[Reading]:
        """Drop a half reply, and say what nobody can say any more."""
        readings: list[Reading] = []
        if self._buffer:
            readings.append(
                BadFrame.of(Reason.TRUNCATED, self._buffer, "the line fell silent in a reply")
            )
        readings += [
            DeviceState(condition=name, active=None) for name, on in self._active.items() if on
        ]
        self._buffer, self._is_asked, self._extra = b"", False, 0
        self._contrary.clear()
        return readings

    def no_reply(self) -> list[Reading]:
        """Say that no whole reply came."""
        half, self._buffer = self._buffer, b""
        if not self._is_asked:
            return []
        self._is_asked = False
        if half == REQUEST:
            detail = "the request came back as it was: this is an echo service; check the address"
            return [BadFrame.of(Reason.UNKNOWN, half, detail)]
        if half:
            detail = f"{len(half)} bytes of {REPLY.size} came"
            return [BadFrame.of(Reason.TRUNCATED, half, detail)]
        return [BadFrame.of(Reason.NO_REPLY, b"", "no reply in time; check power and address")]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        if not self._is_asked:
            return self._unasked(data)
        wanted = REPLY.size - len(self._buffer)
        self._buffer += data[:wanted]
        if len(self._buffer) < REPLY.size:
            return []
        frame, self._buffer, self._is_asked = self._buffer, b"", False
        return [*self._reply(frame), *self._unasked(data[wanted:])]

    def _unasked(self, data: bytes) -> list[Reading]:
        """Report the first byte behind a reply, once: which of the two was ours is not known."""
        was_there, self._extra = self._extra, self._extra + len(data)
        if was_there or not data:
            return []
        return [BadFrame.of(Reason.LENGTH, data[:1], "bytes that nobody asked for")]

    def _reply(self, frame: bytes) -> list[Reading]:
        words = REPLY.unpack(frame)
        figures = _figures(words)
        if isinstance(figures, str):
            return [BadFrame.of(Reason.RANGE, frame, figures)]
        readings: list[Reading] = [
            Housekeeping(quantity=name, value=round(value, 4), unit=unit)
            for name, (value, unit) in figures.items()
        ]
        is_broken = words[9] in THERMOCOUPLE_ERRORS
        self._condition("thermocouple_error", readings, active=is_broken, detail="")
        self._limits({name: value for name, (value, _) in figures.items()}, readings)
        return readings

    def _limits(self, figures: dict[str, float], readings: list[Reading]) -> None:
        options = self._options
        for condition, name, limit, is_lower in (
            ("battery_low", "battery", options.battery_low_v, True),
            ("mains_failed", "ac_current", options.mains_low_a, True),
            ("temperature_low", "temperature", options.temperature_low_c, True),
            ("temperature_high", "temperature", options.temperature_high_c, False),
            ("humidity_high", "humidity", options.humidity_high_percent, False),
        ):
            value = figures.get(name)
            if value is None:
                continue
            is_past = value < limit if is_lower else value > limit
            detail = f"{name.replace('_', ' ')} {value:g}, limit {limit:g}"
            self._believed(condition, readings, active=is_past, detail=detail)

    def _believed(
        self, condition: str, readings: list[Reading], *, active: bool, detail: str
    ) -> None:
        """Say a condition once several replies in a row agree that it changed."""
        if self._active.get(condition, False) == active:
            self._contrary[condition] = 0
            return
        self._contrary[condition] = self._contrary.get(condition, 0) + 1
        if self._contrary[condition] >= READS_TO_BELIEVE:
            self._contrary[condition] = 0
            self._condition(condition, readings, active=active, detail=detail)

    def _condition(
        self, condition: str, readings: list[Reading], *, active: bool, detail: str
    ) -> None:
        if self._active.get(condition, False) != active:
            self._active[condition] = active
            detail = detail if active else ""
            readings.append(DeviceState(condition=condition, active=active, detail=detail))


def _figures(words: tuple[int, ...]) -> dict[str, tuple[float, str]] | str:
    """Return every figure that can be, by quantity with its unit; text: why none is believed."""
    temperature, humidity = _temperature_c(words[1]), words[2] / 10
    pressure = words[3] / 100
    for name, value, unit, (low, high) in (
        ("temperature", temperature, "°C", _TEMPERATURE_C),
        ("humidity", humidity, "%", _HUMIDITY),
        ("pressure", pressure, "hPa", _PRESSURE_HPA),
    ):
        if not low <= value <= high:
            return f"{name} {value:g} {unit} cannot be; check that an environment board answers"
    figures = {
        "temperature": (temperature, "°C"),
        "humidity": (humidity, "%"),
        "pressure": (pressure, "hPa"),
    }
    second, outside = _temperature_c(words[4]), words[10] / 10
    if _TEMPERATURE_C[0] <= second <= _TEMPERATURE_C[1]:
        figures["temperature_2"] = (second, "°C")
    if _HUMIDITY[0] <= outside <= _HUMIDITY[1]:
        figures["humidity_outside"] = (outside, "%")
    if words[5] <= ADC_MOST:
        volts = 0.0 if words[5] < 20 else 0.00669129 * words[5] - 2.65918493
        figures["battery"] = (max(0.0, volts), "V")  # the line goes below 0 at its foot
    if words[6] <= ADC_MOST:
        figures["dc_current"] = (14.48507166 - 0.00686993 * words[6], "A")
    if words[7] <= ADC_MOST:
        figures["ac_current"] = (words[7] / 100, "A")
    if words[8] <= ADC_MOST:
        figures["spare_input"] = (float(words[8]), "counts")
    if words[9] < 1 << 14:
        signed = words[9] - (1 << 14 if words[9] & 0x2000 else 0)
        figures["thermocouple"] = (signed / 4, "°C")
    return figures


def _temperature_c(word: int) -> float:
    """Return 0.1 °C steps; 65436 is -10.0 °C."""
    return (word - 0x10000 if word > 2000 else word) / 10
