"""Indicators that send a line of text, each a row of a table.

``template`` is a format string over::

    {sign} minus or blank   {digits} magnitude, right-aligned in ``width``   {unit} {mode} {status}
    {tare} like digits      {check} the checksum over all before it but the start

``texts`` translate kg, lb, gross, net, stable, moving, over and under into what the line says. Out
of range the digits are ``blank``. The rows are made up, save where the row names its source.
"""

from __future__ import annotations

import asyncio
import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from simulators.ports import Send, Talk
from simulators.weighbridge import Observation, Reading, Terminal, Unit, Weighbridge


@dataclass(frozen=True, slots=True, kw_only=True)
class LineForm:
    """One row: how a line is written."""

    template: str
    texts: Mapping[str, str]
    width: int = 7
    decimals: int = 0
    comma: bool = False
    is_reversed: bool = False
    blank: str = ""
    check: Literal["none", "xor", "sum", "twos7"] = "none"
    start: bytes = b""
    end: bytes = b"\r\n"
    asked_by: bytes = b""  # empty: it talks unasked


LINES: dict[str, LineForm] = {
    "separated": LineForm(
        template="{status},{mode},{sign}{digits},{unit}",
        texts={
            "kg": "kg",
            "lb": "lb",
            "gross": "GS",
            "net": "NT",
            "stable": "ST",
            "moving": "US",
            "over": "OL",
            "under": "OL",
        },
        width=8,
        decimals=1,
    ),
    # Fairbanks 2800, POLLID: thirteen columns, the legend in lower case in motion.
    "columns": LineForm(
        template=" {digits} {unit} {mode}",
        texts={
            "kg": "KG",
            "lb": "LB",
            "gross": "GR",
            "net": "NT",
            "stable": "upper",
            "moving": "lower",
            "over": "--oL--",
            "under": "--uL--",
        },
        width=6,
        end=b"\r",
        asked_by=b"W\r",
    ),
    "checked": LineForm(
        template="{status}{mode}{sign}{digits}{unit}{check}",
        texts={
            "kg": "kg",
            "lb": "lb",
            "gross": "G",
            "net": "N",
            "stable": "S",
            "moving": "U",
            "over": "O",
            "under": "V",
        },
        width=8,
        decimals=1,
        comma=True,
        blank="--------",
        check="sum",
        start=b"\x02",
    ),
    "reversed": LineForm(
        template="{digits}",
        texts={},
        width=8,
        decimals=1,
        is_reversed=True,
        blank="        ",
        start=b"=",
        end=b"",
    ),
    "binary": LineForm(
        template="{status}{sign}{digits}\r{check}",
        texts={"stable": "A", "moving": "M", "over": "O", "under": "U"},
        width=6,
        check="twos7",
        start=b"\x02",
        end=b"",
    ),
}


def line_frame(reading: Reading, form: LineForm, *, unit: Unit) -> bytes:
    """Return one frame as it is on the wire."""
    text = form.texts
    digits = _digits(abs(reading.value), form)
    sign = "-" if reading.value < 0 else " "
    if form.is_reversed or "{sign}" not in form.template:
        digits = _with_sign(digits, sign)
    mode = text.get("net" if reading.is_net else "gross", "")
    status = text.get("moving" if reading.in_motion else "stable", "")
    if status in ("upper", "lower"):
        mode = mode.lower() if status == "lower" else mode
        if reading.range != "ok":
            digits = text[reading.range]
    elif reading.range != "ok":
        status = text.get(reading.range, "")
        digits = form.blank or digits
    if form.is_reversed:
        digits = digits[::-1]
    body, _, behind = form.template.partition("{check}")
    written = body.format(
        sign=sign,
        digits=digits,
        unit=text.get(unit, ""),
        mode=mode,
        status=status,
        tare=_digits(reading.tare, form),
    ).encode("latin-1")
    return form.start + written + _check(written, form) + behind.encode("latin-1") + form.end


def _digits(value: Decimal, form: LineForm) -> str:
    written = f"{value:.{form.decimals}f}"
    return (written.replace(".", ",") if form.comma else written).rjust(form.width)


def _with_sign(digits: str, sign: str) -> str:
    """Return the digits with the minus in the blank before the first of them."""
    bare = digits.strip()
    return (("-" if sign == "-" else "") + bare).rjust(len(digits))


def _check(written: bytes, form: LineForm) -> bytes:
    match form.check:
        case "xor":
            return b"%02X" % functools.reduce(operator.xor, written)
        case "sum":
            return b"%02X" % (sum(written) % 256)
        case "twos7":
            return bytes((-(sum(form.start) + sum(written)) % 128,))
        case _:
            return b""


class LineScale(Terminal):
    """A terminal that sends the lines of one row, unasked or on request.

    Parameters
    ----------
    form : a row of ``LINES``, or one's own
    frames_per_s : of scene time, where it talks unasked
    """

    def __init__(
        self,
        weighbridge: Weighbridge,
        form: LineForm,
        *,
        unit: Unit = "kg",
        increment: Decimal | None = None,
        frames_per_s: float = 10.0,
    ) -> None:
        super().__init__(weighbridge, unit=unit, increment=increment)
        self.form = form
        self.period_s = 1.0 / frames_per_s

    def frame(self, observation: Observation) -> bytes:
        """Return the line for an observation."""
        return line_frame(self.show(observation), self.form, unit=self.unit)

    def _start(self, send: Send) -> Talk:
        return _LineTalk(self, send)

    async def stream(self, send: Send) -> None:
        """Send line after line; none is made up for where the machine was too slow."""
        assert self._clock is not None
        next_s = self._clock.now_s()
        while True:
            send(self.frame(self.observe()))
            next_s = max(next_s + self.period_s, self._clock.now_s())
            await self._clock.sleep_until(next_s)


class _LineTalk:
    def __init__(self, scale: LineScale, send: Send) -> None:
        self._scale = scale
        self._send = send
        self._heard = b""
        is_asked = bool(scale.form.asked_by)
        self._task = None if is_asked else asyncio.create_task(scale.stream(send))

    def received(self, data: bytes) -> None:
        asked_by = self._scale.form.asked_by
        if not asked_by:
            return
        *requests, self._heard = (self._heard + data).split(asked_by)
        self._heard = self._heard[-64:]
        for _ in requests:
            self._send(self._scale.frame(self._scale.observe()))

    def closed(self) -> None:
        if self._task is not None:
            self._task.cancel()
