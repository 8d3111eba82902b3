"""Weighing indicators on Modbus whose register map is data: a shipped preset, or the lane file's.

What a map says of the registers, read in one request so that no 32-bit value is ever torn::

    gross net displayed tare heartbeat counters   "ADDRESS TYPE"  or  "ADDRESS TYPE sign CONDITION"
    stable net_shown over under error refuse states      "CONDITION"
    decimals_field unit_field                            "PLACE.LOW-HIGH"

    ADDRESS    as the manual prints it; less ``address_base`` it is the one on the wire
    TYPE       u16 i16 u32 i32 f32 (IEEE 754); 32 bits take ADDRESS and the next one
    PLACE      ADDRESS; ADDRESS-ADDRESS, two registers as 32 bits; or nothing: ``status``
    CONDITION  PLACE.BIT, or PLACE.LOW-HIGH=NUMBER; with ! in front it holds where that does not

    figure = number x factor / 10^decimals   [weight_unit, or the unit of unit_field]

Bit 0 is the lowest. ``sign`` names the bit that is set for a negative figure: of an unsigned number
it is the sign, and a signed number that contradicts it is refused. A whole reply was checked by
RTU's CRC or by TCP, so a weight is ``verified``. Nothing is ever written.

A 16-bit register wraps at 65535 or 32767, and a truck of 70 t then reads 4464 kg: 16-bit types need
``capacity``, and a register that cannot hold half as much again is refused when the driver is made.

Source: MODBUS Application Protocol Specification V1.1b3, 4.3 and 6.3; each preset of
``drivers/scale_maps.toml`` names its own document and what in it is unconfirmed.
"""

from __future__ import annotations

import math
import re
import struct
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib import resources
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, Block, mass_kg, swapped
from drivers.readings import (
    BadFrame,
    DeviceState,
    Housekeeping,
    Mode,
    Range,
    Reading,
    Reason,
    Weight,
)
from drivers.register_weight import (
    MARGIN,
    UNPROVEN,
    RefusedError,
    check_capacity,
    of_float,
    register_bytes,
    signed,
)

CUSTOM = "custom"
MAX_BLOCK = 125
"""Registers in one request (MODBUS V1.1b3, 6.3)."""

_PLACE = r"(?:([0-9]{1,6})(?:-([0-9]{1,6}))?)?\.([0-9]{1,2})"
_CONDITION = re.compile(rf"(!?){_PLACE}(?:-([0-9]{{1,2}})=([0-9]{{1,10}}))?", re.ASCII)
_FIELD = re.compile(rf"(){_PLACE}-([0-9]{{1,2}})", re.ASCII)
_FIGURE = re.compile(r"([0-9]{1,6}) (u16|i16|u32|i32|f32)(?: sign (\S+))?", re.ASCII)
_FACTOR = re.compile(r"[0-9]{1,6}(?:\.[0-9]{1,6})?", re.ASCII)
_NO_MAP_FIELDS = ("source", "unconfirmed")

Order = Literal["high_first", "low_first"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The preset, and what goes before it; the forms stand at the head of the driver."""

    preset: Annotated[
        str,
        Meta(
            description="laumas, dini-dgt, hbm-wtx, pr-5220, flintec-ft112, dat-400, each partly "
            "unconfirmed (drivers/scale_maps.toml says what); custom: all from the options below",
            max_length=32,
        ),
    ]
    figure: Annotated[
        Literal["gross", "net", "displayed"], Meta(description="which figure is the weight")
    ] = "gross"
    map_proven: Annotated[
        bool,
        Meta(description="the figures were compared with the live display; else each has a note"),
    ] = False
    capacity: Annotated[
        Annotated[float, Meta(gt=0, le=1e9)] | None,
        Meta(
            description="capacity of the scale in its unit; figures above one and a half times "
            "this are refused; must be given for 16-bit registers",
        ),
    ] = None
    poll_period_s: Annotated[
        float, Meta(description="how often the registers are read [s]", ge=0.02, le=10)
    ] = 0.2
    heartbeat_s: Annotated[
        float, Meta(description="a heartbeat unchanged for so long has stopped [s]", ge=0.1, le=60)
    ] = 1.0
    table: Annotated[
        Literal["holding", "input"] | None,
        Meta(description="holding: function 3; input: function 4; absent: the preset's"),
    ] = None
    address_base: Annotated[
        Annotated[int, Meta(ge=0, le=400001)] | None,
        Meta(
            description="what this map calls the first register, 0, 1, 30001 or 40001; one less "
            "where every figure stands one register further; absent: the preset's, or 0",
        ),
    ] = None
    word_order: Annotated[
        Order | None,
        Meta(description="which register of 32 bits comes first; absent: the preset's, high_first"),
    ] = None
    byte_order: Annotated[
        Order | None,
        Meta(description="low_first: the bytes of a register are swapped (10 reads as 2560)"),
    ] = None
    gross: Annotated[
        str | None,
        Meta(description="the gross weight, as ADDRESS TYPE or ADDRESS TYPE sign CONDITION"),
    ] = None
    net: Annotated[str | None, Meta(description="the net weight, in the same form")] = None
    displayed: Annotated[
        str | None, Meta(description="the figure on the display, in the same form")
    ] = None
    tare: Annotated[str | None, Meta(description="the tare, in the same form")] = None
    heartbeat: Annotated[
        str | None,
        Meta(description="a counter that runs while the indicator lives, in the same form"),
    ] = None
    factor: Annotated[
        str | None,
        Meta(description="what the number is multiplied with, e.g. 20 where it counts intervals"),
    ] = None
    decimals: Annotated[
        Annotated[int, Meta(ge=-3, le=6)] | None,
        Meta(
            description="decimals that the number stands for; with decimals_field: what that must "
            "say; for f32: what it is rounded to",
        ),
    ] = None
    decimals_field: Annotated[
        str | None,
        Meta(description="the bits that tell the decimals, as PLACE.LOW-HIGH"),
    ] = None
    decimals_codes: Annotated[
        dict[str, int] | None, Meta(description="decimals by code; absent: the code is the number")
    ] = None
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"] | None,
        Meta(description="unit of the figures; with unit_field: what that must say"),
    ] = None
    unit_field: Annotated[
        str | None,
        Meta(description="the bits that tell the unit, as PLACE.LOW-HIGH"),
    ] = None
    unit_codes: Annotated[dict[str, str] | None, Meta(description="unit by code")] = None
    status: Annotated[
        Annotated[int, Meta(ge=0, le=465536)] | None,
        Meta(description="register that a PLACE without an ADDRESS means"),
    ] = None
    stable: Annotated[
        str | None,
        Meta(description="CONDITION in which the weight rests; without one that stays unknown"),
    ] = None
    net_shown: Annotated[
        str | None,
        Meta(description="CONDITION in which the displayed figure is net"),
    ] = None
    over: Annotated[
        tuple[str, ...] | None, Meta(description="CONDITIONs, any of which is over range")
    ] = None
    under: Annotated[
        tuple[str, ...] | None, Meta(description="CONDITIONs, any of which is under range")
    ] = None
    error: Annotated[
        tuple[str, ...] | None,
        Meta(description="CONDITIONs, any of which means that there is no weight"),
    ] = None
    refuse: Annotated[
        tuple[str, ...] | None,
        Meta(description="CONDITIONs in which no figure counts: another unit, high resolution"),
    ] = None
    states: Annotated[
        dict[str, str] | None,
        Meta(description="conditions of the device that are reported, by name, e.g. seal_open"),
    ] = None
    counters: Annotated[
        dict[Literal["calibration_counter", "configuration_counter"], str] | None,
        Meta(
            description="the indicator's own counts of calibrations and of changes of its set-up, "
            "each as ADDRESS TYPE; the lane holds them against the declared ones"
        ),
    ] = None


def presets() -> dict[str, dict[str, object]]:
    """Return the shipped maps by name, with ``source`` and ``unconfirmed`` of each."""
    text = resources.files("drivers").joinpath("scale_maps.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@dataclass(frozen=True, slots=True)
class _Bits:
    """Some bits of one register or of a pair."""

    address: int
    words: int
    low: int
    high: int

    def number(self, words: _Words) -> int:
        value = words.unsigned(self.address, self.words)
        return value >> self.low & (1 << self.high - self.low + 1) - 1


@dataclass(frozen=True, slots=True)
class _Test:
    bits: _Bits
    number: int
    is_inverted: bool
    text: str

    def holds(self, words: _Words) -> bool:
        return (self.bits.number(words) == self.number) != self.is_inverted


@dataclass(frozen=True, slots=True)
class _Figure:
    address: int
    type: str
    sign: _Test | None

    @property
    def words(self) -> int:
        return 2 if self.type.endswith("32") else 1

    def number(self, words: _Words) -> int | float:
        raw = words.unsigned(self.address, self.words)
        if self.type == "f32":
            number: float = struct.unpack(">f", raw.to_bytes(4, "big"))[0]
            return number
        bits = 16 * self.words
        return raw - (1 << bits) if self.type[0] == "i" and raw >> bits - 1 else raw


class _Words:
    """The registers of one reply by their address on the wire, bytes in the right order."""

    def __init__(self, block: Block, registers: Iterable[int], map_: _Map) -> None:
        if map_.bytes_swapped:
            registers = map(swapped, registers)
        self._words = dict(enumerate(registers, block.address))
        self._is_low_first = map_.is_low_first

    def unsigned(self, address: int, words: int) -> int:
        if words == 1:
            return self._words[address]
        first, second = self._words[address], self._words[address + 1]
        return second << 16 | first if self._is_low_first else first << 16 | second


class _Map:
    """A map made ready; ValueError with one sentence where it is wrong or lacks something."""

    def __init__(self, options: Options) -> None:
        self.options = options = _with_preset(options)
        self._base = options.address_base or 0
        self.is_low_first = options.word_order == "low_first"
        self.bytes_swapped = options.byte_order == "low_first"
        figures = {name: self._figure(name) for name in ("gross", "net", "displayed")}
        figure = figures[options.figure]
        assert figure is not None
        self.figure = figure
        self.tare = self._figure("tare")
        self.heartbeat = self._figure("heartbeat")
        if self.heartbeat is not None and self.heartbeat.type not in ("u16", "u32"):
            raise ValueError("heartbeat is a counter; give it the type u16 or u32")
        self.stable = self._one("stable")
        self.net_shown = self._one("net_shown")
        self.over, self.under = self._many("over"), self._many("under")
        self.error, self.refuse = self._many("error"), self._many("refuse")
        states = options.states or {}
        self.states = {name: self._test(f"states.{name}", text) for name, text in states.items()}
        counters = options.counters or {}
        self.counters = {name: self._counter(name, text) for name, text in counters.items()}
        self.decimals_field = self._field("decimals_field")
        self.unit_field = self._field("unit_field")
        self.factor = _factor(options.factor or "1")
        self._check_codes()
        self._check_width()
        self.block = self._block()

    def _counter(self, name: str, text: str) -> _Figure:
        counter = self._figure_of(f"counters.{name}", text)
        if counter.type not in ("u16", "u32") or counter.sign is not None:
            raise ValueError(f"counters.{name} only counts up; give it the type u16 or u32")
        return counter

    def _figure(self, name: str) -> _Figure | None:
        text = getattr(self.options, name)
        return None if text is None else self._figure_of(name, text)

    def _figure_of(self, name: str, text: str) -> _Figure:
        found = _FIGURE.fullmatch(text)
        if found is None:
            raise ValueError(
                f'{name} = "{text}" is no figure; write "ADDRESS TYPE" with u16, i16, u32, i32 or '
                'f32, and behind it "sign CONDITION" where a bit has the sign'
            )
        sign = None if found[3] is None else self._test(name, found[3])
        return _Figure(self._address(name, int(found[1])), found[2], sign)

    def _address(self, name: str, printed: int) -> int:
        address = printed - self._base
        if not 0 <= address <= 0xFFFF:
            raise ValueError(
                f"{name} stands at {printed}, which is no register with address_base {self._base}; "
                "give both as the manual prints them"
            )
        return address

    def _one(self, name: str) -> _Test | None:
        text = getattr(self.options, name)
        return None if text is None else self._test(name, text)

    def _many(self, name: str) -> tuple[_Test, ...]:
        return tuple(self._test(name, text) for text in getattr(self.options, name) or ())

    def _test(self, name: str, text: str) -> _Test:
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ValueError(
                f'{name} has "{text}", which is no condition; write ADDRESS.BIT, '
                "ADDRESS-ADDRESS.BIT or ADDRESS.LOW-HIGH=NUMBER, with ! in front to turn it round"
            )
        bits = self._bits(name, found)
        number = 1 if found[6] is None else int(found[6])
        if number >> bits.high - bits.low + 1:
            raise ValueError(f'{name} has "{text}", whose number does not fit its bits')
        return _Test(bits, number, bool(found[1]), text)

    def _field(self, name: str) -> _Bits | None:
        text = getattr(self.options, name)
        if text is None:
            return None
        found = _FIELD.fullmatch(text)
        if found is None:
            raise ValueError(f'{name} = "{text}" is no field; write ADDRESS.LOW-HIGH')
        return self._bits(name, found)

    def _bits(self, name: str, found: re.Match[str]) -> _Bits:
        printed = self.options.status if found[2] is None else int(found[2])
        assert printed is not None
        words = 1 if found[3] is None else 2
        low = int(found[4])
        high = low if found[5] is None else int(found[5])
        if words == 2 and int(found[3]) != printed + 1:
            raise ValueError(f'{name} has "{found[0]}"; a pair is a register and the next one')
        if not low <= high < 16 * words:
            raise ValueError(f'{name} has "{found[0]}"; its bits are 0 to {16 * words - 1}')
        return _Bits(self._address(name, printed), words, low, high)

    def _check_codes(self) -> None:
        units = self.options.unit_codes or {}
        wrong = sorted(set(units.values()) - set(KG_PER_UNIT))
        if wrong:
            raise ValueError(
                f"unit_codes names {', '.join(wrong)}; expected units of {', '.join(KG_PER_UNIT)}"
            )
        for name in ("unit_codes", "decimals_codes"):
            for code in getattr(self.options, name) or {}:
                if not re.fullmatch("[0-9]{1,10}", code, re.ASCII):
                    raise ValueError(f'{name} has the code "{code}"; a code is a number')

    def _check_width(self) -> None:
        """Refuse a 16-bit register that a heavy truck would wrap."""
        figure, capacity = self.figure, self.options.capacity
        if figure.words == 2:
            return
        highest = 0xFFFF if figure.type == "u16" else 0x7FFF
        if capacity is None:
            raise ValueError(
                f"{self.options.figure} is a 16-bit register, which wraps at {highest}; give the "
                "scale's capacity, or use the indicator's 32-bit register"
            )
        codes = tuple((self.options.decimals_codes or {}).values()) or (6,)
        decimals = (self.options.decimals,) if self.options.decimals is not None else codes
        counts = Decimal(str(capacity)) * MARGIN / self.factor * 10 ** max(map(Decimal, decimals))
        if counts > highest:
            raise ValueError(
                f"{self.options.figure} is a 16-bit register, which wraps at {highest}, and "
                f"one and a half times the capacity {capacity:g} can read {counts:.0f}; use the "
                "indicator's 32-bit register"
            )

    def _block(self) -> Block:
        options = self.options
        parts = [(part.address, part.words) for part in self._parts()]
        first = min(address for address, _ in parts)
        count = max(address + words for address, words in parts) - first
        if count > MAX_BLOCK:
            raise ValueError(
                f"the map spans {count} registers, and one request reads {MAX_BLOCK}; leave out "
                "what stands furthest from the weight"
            )
        assert options.table is not None
        return Block(
            table=options.table, address=first, count=count, period_s=options.poll_period_s
        )

    def _parts(self) -> Iterator[_Figure | _Bits]:
        for figure in (self.figure, self.tare, self.heartbeat, *self.counters.values()):
            if figure is not None:
                yield figure
                if figure.sign is not None:
                    yield figure.sign.bits
        for bits in (self.decimals_field, self.unit_field):
            if bits is not None:
                yield bits
        single = [test for test in (self.stable, self.net_shown) if test is not None]
        groups = (*self.over, *self.under, *self.error, *self.refuse, *self.states.values())
        for test in (*single, *groups):
            yield test.bits


def _with_preset(options: Options) -> Options:
    """Return the options with what the preset knows; ValueError where something is missing."""
    known: Mapping[str, object] = {}
    if options.preset != CUSTOM:
        shipped = presets()
        if options.preset not in shipped:
            raise ValueError(
                f'there is no preset "{options.preset}"; expected one of {", ".join(shipped)} or '
                f"{CUSTOM}"
            )
        known = shipped[options.preset]
    filled = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in known.items()
        if name not in _NO_MAP_FIELDS and getattr(options, name) is None
    }
    whole = replace(options, **filled)  # type: ignore[arg-type]  # a test fills every preset
    missing = list(_missing(whole))
    if missing:
        raise ValueError(
            f'preset "{options.preset}" does not say {", ".join(missing)}; read it off the manual '
            "or the indicator and give it"
        )
    return whole


def _missing(options: Options) -> Iterator[str]:
    if options.table is None:
        yield "table"
    if getattr(options, options.figure) is None:
        yield options.figure
    if options.decimals is None and options.decimals_field is None:
        yield "decimals"
    if options.weight_unit is None and (options.unit_field is None or not options.unit_codes):
        yield "weight_unit"
    if options.status is None and any(_lacks_address(text) for text in _texts(options)):
        yield "status"


def _lacks_address(text: str) -> bool:
    return re.search(r"(?:^|[ !])\.[0-9]", text) is not None


def _texts(options: Options) -> Iterator[str]:
    figures = ("gross", "net", "displayed", "tare", "heartbeat")
    for name in (*figures, "decimals_field", "unit_field", "stable", "net_shown"):
        text = getattr(options, name)
        if text is not None:
            yield text
    for name in ("over", "under", "error", "refuse"):
        yield from getattr(options, name) or ()
    yield from (options.states or {}).values()


def _factor(text: str) -> Decimal:
    if _FACTOR.fullmatch(text) is None or not Decimal(text):
        raise ValueError(f'factor = "{text}" is no number above 0; write it as 20 or 0.5')
    return Decimal(text)


class Driver:
    """Registers in, weights out; keeps what the device said of itself and its heartbeat."""

    def __init__(self, options: Options) -> None:
        self._map = _Map(options)
        self._still_limit = max(1, math.ceil(options.heartbeat_s / options.poll_period_s))
        self._notes = () if options.map_proven else (UNPROVEN,)
        self._states: dict[str, bool] = {}
        self._counters: dict[str, int | float] = {}
        self._heartbeat: int | float | None = None
        self._still = 0

    def blocks(self) -> tuple[Block, ...]:
        """Return the one block that holds the whole map."""
        return (self._map.block,)

    def silence(self) -> list[Reading]:
        """Forget the heartbeat; what the device said to be wrong is unknown now."""
        readings: list[Reading] = [
            DeviceState(condition=name, active=None)
            for name, is_active in self._states.items()
            if is_active
        ]
        self._states.clear()
        self._counters.clear()
        self._heartbeat, self._still = None, 0
        return readings

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return what the registers say; never raises.

        Source: the preset's document, see ``drivers/scale_maps.toml``.
        """
        raw = register_bytes(registers)
        fault = self._fault(block, registers)
        if fault is not None:
            return [BadFrame.of(fault[0], raw, fault[1])]
        words = _Words(block, registers, self._map)
        readings: list[Reading] = []
        for name, test in self._map.states.items():
            self._state(name, readings, active=test.holds(words))
        for name, counter in self._map.counters.items():
            count = counter.number(words)
            if self._counters.get(name) != count:
                self._counters[name] = count
                readings.append(Housekeeping(quantity=name, value=count, unit="1"))
        try:
            self._watch_heartbeat(words, readings)
            readings.append(self._weight(words))
        except RefusedError as exc:
            readings.append(BadFrame.of(exc.reason, raw, str(exc)))
        return readings

    def _fault(self, block: Block, registers: tuple[int, ...]) -> tuple[Reason, str] | None:
        if block != self._map.block:
            return Reason.UNKNOWN, f"{block} was not asked for"
        if len(registers) != block.count:
            return Reason.LENGTH, f"{len(registers)} registers came, not {block.count}"
        if any(not 0 <= value <= 0xFFFF for value in registers):
            return Reason.RANGE, "a register is outside 0 to 65535"
        return None

    def _state(self, name: str, readings: list[Reading], *, active: bool) -> None:
        if self._states.get(name, False) != active:
            readings.append(DeviceState(condition=name, active=active))
        self._states[name] = active

    def _watch_heartbeat(self, words: _Words, readings: list[Reading]) -> None:
        """Refuse what a gateway repeats although the indicator behind it has stopped."""
        if self._map.heartbeat is None:
            return
        beat = self._map.heartbeat.number(words)
        self._still = self._still + 1 if beat == self._heartbeat else 0
        self._heartbeat = beat
        has_stopped = self._still >= self._still_limit
        self._state("heartbeat_stopped", readings, active=has_stopped)
        if has_stopped:
            raise RefusedError(
                Reason.DEVICE_ERROR,
                f"the heartbeat stands at {beat}; check the indicator behind its gateway",
            )

    def _weight(self, words: _Words) -> Weight:
        map_ = self._map
        for test in map_.refuse:
            if test.holds(words):
                detail = f"{test.text} holds, and then no figure counts; set the indicator back"
                raise RefusedError(Reason.UNIT, detail)
        unit, decimals = self._unit(words), self._decimals(words)
        range_ = self._range(words)
        value = self._value(map_.figure, words, decimals) if range_ == "ok" else None
        return Weight(
            value=None if value is None else format(value, "f"),
            unit=unit,
            mass_kg=None if value is None else mass_kg(value, unit),
            mode=self._mode(words),
            stable=None if map_.stable is None else map_.stable.holds(words),
            stable_by=None if map_.stable is None else "device",
            range=range_,
            tare=self._tare(words, decimals),
            verified=True,
            notes=self._notes,
        )

    def _mode(self, words: _Words) -> Mode:
        figure = self._map.options.figure
        if figure != "displayed":
            return figure
        if self._map.net_shown is None:
            return "unknown"
        return "net" if self._map.net_shown.holds(words) else "gross"

    def _range(self, words: _Words) -> Range:
        is_over = any(test.holds(words) for test in self._map.over)
        is_under = any(test.holds(words) for test in self._map.under)
        if (is_over and is_under) or any(test.holds(words) for test in self._map.error):
            return "error"
        if is_over:
            return "over"
        return "under" if is_under else "ok"

    def _unit(self, words: _Words) -> str:
        fixed, field = self._map.options.weight_unit, self._map.unit_field
        if field is None:
            assert fixed is not None
            return fixed
        code = field.number(words)
        unit = (self._map.options.unit_codes or {}).get(str(code))
        if unit is None:
            raise RefusedError(Reason.UNIT, f"unit code {code} is none of unit_codes")
        if fixed not in (None, unit):
            raise RefusedError(Reason.UNIT, f"the indicator shows {unit}, not {fixed}; set it back")
        return unit

    def _decimals(self, words: _Words) -> int:
        fixed, field = self._map.options.decimals, self._map.decimals_field
        if field is None:
            assert fixed is not None
            return fixed
        code = field.number(words)
        codes = self._map.options.decimals_codes
        decimals = code if codes is None else codes.get(str(code))
        if decimals is None or decimals > 6:
            raise RefusedError(Reason.UNKNOWN, f"decimals code {code} is not known to the map")
        if fixed not in (None, decimals):
            detail = f"the indicator shows {decimals} decimals, not {fixed}; was it set up anew?"
            raise RefusedError(Reason.UNKNOWN, detail)
        return decimals

    def _value(self, figure: _Figure, words: _Words, decimals: int) -> Decimal:
        number = figure.number(words)
        if figure.sign is not None:
            is_magnitude = figure.type[0] == "u"
            is_negative = figure.sign.holds(words)
            number = signed(number, is_magnitude=is_magnitude, is_negative=is_negative)
        if figure.type == "f32":
            value = of_float(number, self._map.factor, decimals)
        else:
            value = (Decimal(number) * self._map.factor).scaleb(-decimals)
        check_capacity(value, self._map.options.capacity)
        return value or abs(value)

    def _tare(self, words: _Words, decimals: int) -> str | None:
        if self._map.tare is None:
            return None
        value = self._value(self._map.tare, words, decimals)
        return format(value, "f") if value else None
