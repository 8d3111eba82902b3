"""Rice Lake 880, 1280 and 920i over Modbus: a mailbox that is asked for each weight.

One request writes four holding registers, another reads four; 32 bits with the high word first::

    written  command 1   scale 1    value 2, always 0         at write_address (function 16)
    read     echo 1      status 1   figure 2                  at read_address
    command              integer    float
             tare        34         290
             gross       32         288
             net         33         289
             displayed   37
    status   bit 14: the figure is a float

    CONDITION of a status bit: "BIT" (0 to 15), it is set; "!BIT", it is not

Each weight is two questions, first for the tare: so the echo must change twice, and a gateway that
repeats its last answer, or an answer to another master's question, is no weight. Nor are our own
words, read back where the answer should stand. Nothing else can be written, see
``drivers.base.QUESTION_NUMBERS``: 10 would set zero, 12 to 14 the tare, 254 would reset the
indicator. The scale's number is at most 9, so that it is none of these where ``write_address`` is
one register too low. The registers given here are overwritten with each poll: take them from the
manual of the interface, and give nobody else the same mailbox.

Overload, underload and a scale that has no weight show in the status only, and which bits those
are is unconfirmed: give them as ``error``. Without them only the ``capacity`` stands between an
overloaded scale and a figure; so it must be given, and each weight has a note until ``map_proven``
is set.

Source: Rice Lake 880 network interface manual p. 13-21. Unconfirmed: where the mailbox stands and
whether it is read as holding registers (hence must be given); that all this holds over RTU; every
status bit but 14, and whether 14 is set for floats; the figure's word order, and whether a negative
one is two's complement or a magnitude; the scale's numbers from 1; how long an answer takes.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import Asked, Block, Question, mass_kg, swapped
from drivers.readings import BadFrame, Mode, Range, Reading, Reason, Weight
from drivers.register_weight import (
    UNPROVEN,
    RefusedError,
    check_capacity,
    of_float,
    register_bytes,
    signed,
)
from drivers.registers import refusal

_WORDS = 4
_CONDITION = re.compile(r"(!?)([0-9]|1[0-5])", re.ASCII)
_CONDITIONS = "as BIT, or !BIT for one that is not set; unconfirmed, see the driver's head"

Order = Literal["high_first", "low_first"]
Printed = Annotated[int, Meta(ge=0, le=465536)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Where the mailbox stands, and how its figures are to be read."""

    write_address: Annotated[
        Printed,
        Meta(description="first of the four registers that are written, as the manual prints it"),
    ]
    read_address: Annotated[
        Printed,
        Meta(description="first of the four registers that are read, as the manual prints it"),
    ]
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"], Meta(description="unit of the figures")
    ]
    decimals: Annotated[
        int,
        Meta(
            description="decimals that an integer stands for, or that a float is rounded to",
            ge=-3,
            le=6,
        ),
    ]
    capacity: Annotated[
        float,
        Meta(
            description="capacity of the scale in its unit; figures above one and a half times "
            "this are refused",
            gt=0,
            le=1e9,
        ),
    ]
    figure: Annotated[
        Literal["gross", "net", "displayed"], Meta(description="which figure is the weight")
    ] = "gross"
    number: Annotated[
        Literal["integer", "float"],
        Meta(description="whether to ask for integers or floats; displayed is an integer only"),
    ] = "integer"
    map_proven: Annotated[
        bool,
        Meta(description="the figures were compared with the live display; else each has a note"),
    ] = False
    scale: Annotated[int, Meta(description="number of the scale at the indicator", ge=1, le=9)] = 1
    address_base: Annotated[
        int,
        Meta(
            description="what the manual calls the first register, 0, 1, 30001 or 40001",
            ge=0,
            le=400001,
        ),
    ] = 0
    table: Annotated[
        Literal["holding", "input"],
        Meta(description="what is read; holding: function 3; input: function 4"),
    ] = "holding"
    word_order: Annotated[Order, Meta(description="which register of a figure comes first")] = (
        "high_first"
    )
    byte_order: Annotated[
        Order,
        Meta(description="low_first: the bytes of every register are swapped (10 reads as 2560)"),
    ] = "high_first"
    float_when: Annotated[
        str, Meta(description=f"status bit of a figure that is a float, {_CONDITIONS}")
    ] = "14"
    negative: Annotated[
        str | None,
        Meta(
            description=f"status bit of a negative figure, {_CONDITIONS}; absent: the figure has "
            "its own sign"
        ),
    ] = None
    stable: Annotated[
        str | None,
        Meta(
            description=f"status bit of a weight that rests, {_CONDITIONS}; absent: that stays "
            "unknown"
        ),
    ] = None
    net_shown: Annotated[
        str | None,
        Meta(description=f"status bit of a displayed figure that is net, {_CONDITIONS}"),
    ] = None
    error: Annotated[
        tuple[str, ...],
        Meta(description=f"status bits, any of which means no weight, each {_CONDITIONS}"),
    ] = ()
    refuse: Annotated[
        tuple[str, ...],
        Meta(
            description=f"status bits with which no figure counts, e.g. another unit, each "
            f"{_CONDITIONS}"
        ),
    ] = ()
    poll_period_s: Annotated[
        float, Meta(description="how often the scale is asked [s]", ge=0.05, le=10)
    ] = 0.25
    answer_after_s: Annotated[
        float,
        Meta(
            description="how long after a question the answer is read [s]; too short, and every "
            "answer is refused as an old one",
            ge=0,
            le=1,
        ),
    ] = 0.05

    def __post_init__(self) -> None:
        if self.figure == "displayed" and self.number == "float":
            raise ValueError('the displayed figure is an integer only; set number = "integer"')
        if self.net_shown is not None and self.figure != "displayed":
            raise ValueError(f"net_shown belongs to the displayed figure, not to {self.figure}")
        for name, printed in (("write", self.write_address), ("read", self.read_address)):
            if not 0 <= printed - self.address_base <= 0x10000 - _WORDS:
                raise ValueError(
                    f"{name}_address {printed} has no four registers with address_base "
                    f"{self.address_base}; give both as the manual prints them"
                )
        single = (self.float_when, self.negative, self.stable, self.net_shown)
        for text in (*filter(None, single), *self.error, *self.refuse):
            if _CONDITION.fullmatch(text) is None:
                raise ValueError(f'"{text}" is no status bit; write 0 to 15, or ! and 0 to 15')


class Driver:
    """Asks for tare and weight in turn; keeps nothing."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._notes = () if options.map_proven else (UNPROVEN,)
        self._is_low_byte_first = options.byte_order == "low_first"
        self._is_float = options.number == "float"
        asked: tuple[Asked, Asked]
        if options.figure == "displayed":
            asked = ("tare", "displayed")
        elif options.figure == "gross":
            asked = ("tare_float", "gross_float") if self._is_float else ("tare", "gross")
        else:
            asked = ("tare_float", "net_float") if self._is_float else ("tare", "net")
        questions = (self._question(asked[0]), self._question(asked[1]))
        # Compared after the bytes are turned: as the indicator is to see them.
        self._sent = tuple((q.number, q.scale, 0, 0) for q in questions)
        self._numbers = (questions[0].number, questions[1].number)
        self._block = Block(
            table=options.table,
            address=options.read_address - options.address_base,
            count=_WORDS,
            period_s=options.poll_period_s,
            questions=questions,
        )

    def _question(self, asked: Asked) -> Question:
        return Question(
            address=self._options.write_address - self._options.address_base,
            asked=asked,
            scale=self._options.scale,
            wait_s=self._options.answer_after_s,
            is_low_byte_first=self._is_low_byte_first,
        )

    def blocks(self) -> tuple[Block, ...]:
        """Return the mailbox with its two questions."""
        return (self._block,)

    def silence(self) -> list[Reading]:
        """Forget nothing: each weight is asked for anew, with all that belongs to it."""
        return []

    def decode(self, block: Block, registers: tuple[int, ...]) -> list[Reading]:
        """Return the weight, or why the two answers are none; never raises.

        Source: Rice Lake 880 network interface manual p. 13-21.
        """
        fault = refusal(block, (self._block,), registers)
        if fault is not None:
            return [fault]
        words = tuple(map(swapped, registers)) if self._is_low_byte_first else registers
        try:
            return [self._weight(words[:_WORDS], words[_WORDS:])]
        except RefusedError as exc:
            return [BadFrame.of(exc.reason, register_bytes(registers), str(exc))]

    def _weight(self, tare: tuple[int, ...], figure: tuple[int, ...]) -> Weight:
        options = self._options
        if (tare, figure) == self._sent:
            raise RefusedError(
                Reason.UNKNOWN,
                "the mailbox says what was written to it, word by word; that is no answer: check "
                "read_address",
            )
        self._check_echo(tare[0], *self._numbers)
        self._check_echo(figure[0], *reversed(self._numbers))
        status = figure[1]
        for text in options.refuse:
            if _holds(text, status):
                detail = f"status bit {text} holds, and then no figure counts; set the scale back"
                raise RefusedError(Reason.UNIT, detail)
        is_error = any(_holds(text, status) for text in options.error)
        range_: Range = "error" if is_error else "ok"
        value = None if is_error else self._value(status, figure[2:], options.negative)
        tared = self._value(tare[1], tare[2:], None)
        return Weight(
            value=None if value is None else format(value, "f"),
            unit=options.weight_unit,
            mass_kg=None if value is None else mass_kg(value, options.weight_unit),
            mode=self._mode(status),
            stable=None if options.stable is None else _holds(options.stable, status),
            stable_by=None if options.stable is None else "device",
            range=range_,
            tare=format(tared, "f") if tared else None,
            verified=True,
            notes=self._notes,
        )

    def _check_echo(self, echo: int, asked: int, other: int) -> None:
        if echo == asked:
            return
        if echo == other:
            raise RefusedError(
                Reason.NO_REPLY,
                f"asked for {asked}, the mailbox still answers {echo}; where it stays so, raise "
                "answer_after_s or look after the indicator behind its interface",
            )
        raise RefusedError(
            Reason.UNKNOWN,
            f"asked for {asked}, the mailbox answers {echo}; check read_address and byte_order, "
            "and that nobody else uses this mailbox",
        )

    def _mode(self, status: int) -> Mode:
        if self._options.figure != "displayed":
            return self._options.figure
        if self._options.net_shown is None:
            return "unknown"
        return "net" if _holds(self._options.net_shown, status) else "gross"

    def _value(self, status: int, words: tuple[int, ...], negative: str | None) -> Decimal:
        options = self._options
        if _holds(options.float_when, status) is not self._is_float:
            said = "an integer" if self._is_float else "a float"
            raise RefusedError(
                Reason.UNKNOWN,
                f"status bit {options.float_when} says {said}, not the {options.number} that was "
                "asked for; check read_address and float_when",
            )
        high, low = words if options.word_order == "high_first" else words[::-1]
        raw = struct.pack(">HH", high, low)
        number: float
        (number,) = struct.unpack(">f" if self._is_float else ">i", raw)
        if negative is not None:
            # A number without a sign of its own may be a magnitude; one below 0 is none.
            is_negative = _holds(negative, status)
            number = signed(number, is_magnitude=number >= 0, is_negative=is_negative)
        if self._is_float:
            value = of_float(number, Decimal(1), options.decimals)
        else:
            value = Decimal(number).scaleb(-options.decimals)
        check_capacity(value, options.capacity)
        return value or abs(value)


def _holds(text: str, status: int) -> bool:
    """Tell whether a status bit is as its CONDITION wants it."""
    bit = int(text.removeprefix("!"))
    return bool(status >> bit & 1) is not text.startswith("!")
