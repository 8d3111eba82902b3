"""Indicators that send lines of text and have no driver of their own: the line as data.

A frame is cut by ``end``, by ``start`` and ``end``, or by ``start`` and ``length``; between them
stands the body, whose parts are named by one of three::

    pattern    a regular expression over the whole body with named groups
    columns    { value = "3-10" }  characters counted from 1, the body's first
    separator  the body is split there, and ``fields`` names the pieces ("-": not looked at)

    value      digits, with a decimal mark as ``decimal_mark`` says      sign   see ``sign_texts``
    unit  mode  stability  range   texts, each looked up in its own table of texts
    status     a text for those of mode, stability and range that have no part of their own
    tare       a figure like value         alibi   its number of this weighing; zeros: none
    decimals   one digit: so many decimals stand in value, which has no mark then
    checksum   see ``checksum``

A text that no table holds is refused, not guessed. ``samples`` are frames with what they mean: one
that does not decode to it is a ValueError when the driver is made, so that a wrong line in the file
shows before the first truck.

How bytes are written, which patterns are taken, and the checksums: ``drivers.text_lines``.

Source: the indicator's manual, which the lane file describes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import KG_PER_UNIT, EqualFrames, LineParameters, mass_kg
from drivers.line_cutter import LineCutter, truncated, unanswered
from drivers.readings import (
    BadFrame,
    Mode,
    Range,
    Reading,
    Reason,
    Weight,
)
from drivers.text_lines import (
    Checksum,
    ChecksumBehind,
    ChecksumBits,
    ChecksumSkip,
    Columns,
    Cut,
    Fields,
    Parts,
    Poll,
    PollInterval,
    RefusedError,
    Separator,
    SevenBits,
    Start,
    as_bytes,
    by_columns,
    by_pattern,
    by_separator,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

PARTS = (
    *("value", "sign", "unit", "mode", "stability", "range", "status"),
    *("tare", "alibi", "decimals", "checksum"),
)
_MARKS = {"point": r"\.", "comma": ",", "either": "[.,]", "none": "(?!)"}

Modes = Literal["gross", "net", "tare"]
Ranges = Literal["ok", "over", "under", "error", "unknown"]
Sample = dict[str, str | bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The line as data; the forms stand at the head of the driver."""

    samples: Annotated[
        tuple[Sample, ...],
        Meta(
            description="frames with what they mean: frame, and any of value, unit, mode, tare, "
            "alibi, range, stable (true, false or unknown), or refused (the reason)",
            min_length=1,
            max_length=32,
        ),
    ]
    start: Start = ""
    end: Annotated[str, Meta(description="bytes that close a frame; empty: none")] = "<CR><LF>"
    length: Annotated[
        int, Meta(description="bytes of a frame from start to end; 0: any", ge=0, le=256)
    ] = 0
    max_length: Annotated[
        int, Meta(description="a frame without end is refused after so much [bytes]", ge=4, le=256)
    ] = 128
    seven_bits: SevenBits = False
    pattern: Annotated[
        str, Meta(description="regular expression of the whole body", max_length=200)
    ] = ""
    columns: Columns = field(default_factory=dict)
    separator: Separator = ""
    fields: Fields = ()
    sign_texts: Annotated[
        dict[str, Literal["+", "-"]], Meta(description="+ or - by the text of sign")
    ] = field(default_factory=lambda: {"": "+", "+": "+", "-": "-"})
    unit_texts: Annotated[
        dict[str, str], Meta(description="unit by its text, where it is none of g, kg, t, lb, oz")
    ] = field(default_factory=dict)
    weight_unit: Annotated[
        Literal["g", "kg", "t", "lb", "oz"] | None,
        Meta(description="unit of the figures where the frame has none"),
    ] = None
    mode_texts: Annotated[dict[str, Modes], Meta(description="gross, net or tare by text")] = field(
        default_factory=dict
    )
    stability_texts: Annotated[
        dict[str, Literal["stable", "moving", "unknown"]], Meta(description="by text")
    ] = field(default_factory=dict)
    range_texts: Annotated[dict[str, Ranges], Meta(description="range by text")] = field(
        default_factory=dict
    )
    value_texts: Annotated[
        dict[str, Literal["over", "under", "error", "unknown"]],
        Meta(description="range by what stands in value instead of a figure"),
    ] = field(default_factory=dict)
    decimal_mark: Annotated[
        Literal["point", "comma", "either", "none"],
        Meta(description="what may stand before the decimals; none: see decimals"),
    ] = "point"
    decimals: Annotated[
        int, Meta(description="none: decimals that the figure stands for", ge=-3, le=6)
    ] = 0
    digits_reversed: Annotated[
        bool, Meta(description="value is sent with its last character first")
    ] = False
    checksum: Annotated[
        Literal["none", "xor", "sum", "twos-complement", "crc16-modbus", "crc16-ccitt"],
        Meta(description="integrity field, in the part checksum"),
    ] = "none"
    checksum_form: Annotated[
        Literal["hex", "hex-lower", "bytes", "bytes-low-first"],
        Meta(description="digits, or bytes (those need start and length)"),
    ] = "hex"
    checksum_bits: ChecksumBits = 8
    checksum_skip: ChecksumSkip = 0
    checksum_behind: ChecksumBehind = 0
    equal_frames: Annotated[
        int,
        Meta(
            description="without checksum: equal frames in a row that make a reading [frames]; "
            "1: no vote. Frames that say motion are passed on at once",
            ge=1,
            le=10,
        ),
    ] = 2
    host_stable_frames: Annotated[
        int,
        Meta(
            description="where no frame says stable: so many equal figures in a row are stable by "
            "the host [frames], and a figure that changed is moving; 0: unknown",
            ge=0,
            le=600,
        ),
    ] = 0
    poll: Poll = ""
    poll_interval_s: PollInterval = 0.5


class Driver:
    """Frames in, weights out; keeps at most one frame."""

    def __init__(self, options: Options) -> None:
        self._codec = _Codec(options)
        _check_samples(self._codec, options)
        self._options = options
        self._vote = EqualFrames(options.equal_frames)
        self._rest = EqualFrames(options.host_stable_frames)
        self._request = as_bytes("poll", options.poll)
        self._lines = LineCutter(
            start=self._codec.start,
            end=self._codec.end,
            max_length=options.max_length,
            seven_bits=options.seven_bits,
            # Without a start nothing tells the rest of a frame from a whole one.
            is_joining=not self._codec.start,
            request=self._request,
        )

    @property
    def poll_period_s(self) -> float | None:
        """How often to poll [s]; None: the device just talks."""
        return self._options.poll_interval_s if self._request else None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._lines.buffer)

    def poll(self) -> bytes:
        """Return the request; what came before the second one since opening is not looked at."""
        return self._lines.ask()

    def no_reply(self) -> list[Reading]:
        """Say that the request went unanswered, unless what came was only no reading."""
        if self._lines.has_answer or not self._request:
            return []
        return [unanswered(self._options.poll)]

    def silence(self) -> list[Reading]:
        """Drop a half frame and say so."""
        self._forget()
        return [*truncated(self._lines.reset())]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        if self._codec.is_fixed:
            for _ in self._lines.put(data):
                while self._take_fixed(readings):
                    pass
            return readings
        for frame in self._lines.cut(data):
            if isinstance(frame, BadFrame):
                self._forget()
                readings.append(frame)
            else:
                self._say(frame, readings)
        return readings

    def _take_fixed(self, readings: list[Reading]) -> bool:
        """Consume one frame of fixed length from its start, or what is none."""
        codec, buffer = self._codec, self._lines.buffer
        begin = buffer.find(codec.start)
        if begin < 0:  # the last bytes may be half a start
            begin = max(0, len(buffer) - len(codec.start) + 1)
        if begin:
            del buffer[:begin]  # between frames, or one that was refused already
        length = self._options.length
        if len(buffer) < length:
            return False
        frame = bytes(buffer[:length])
        if not frame.endswith(codec.end):
            detail = f"byte {length} does not end with {self._options.end}"
            self._skip(Reason.LENGTH, detail, readings)
            return True
        try:
            codec.check(frame)
        except RefusedError as exc:
            self._skip(exc.reason, str(exc), readings)
            return True
        del buffer[:length]
        self._say(frame, readings)
        return True

    def _skip(self, reason: Reason, detail: str, readings: list[Reading]) -> None:
        """Refuse what stands before the next possible start."""
        buffer = self._lines.buffer
        step = buffer.find(self._codec.start, 1, self._options.length)
        stop = self._options.length if step < 0 else step
        self._refuse(reason, bytes(buffer[:stop]), detail, readings)
        del buffer[: 1 if step < 0 else step]

    def _refuse(self, reason: Reason, raw: bytes, detail: str, readings: list[Reading]) -> None:
        self._lines.has_answer = True
        self._forget()
        readings.append(BadFrame.of(reason, raw, detail))

    def _forget(self) -> None:
        self._vote.forget()
        self._rest.forget()

    def _say(self, frame: bytes, readings: list[Reading]) -> None:
        self._lines.has_answer = True
        try:
            weight = self._codec.decode(frame)
        except RefusedError as exc:
            self._refuse(exc.reason, frame, str(exc), readings)
            return
        weight = self._host_stability(weight)
        is_moving = weight.stable is False and weight.range == "ok"
        if is_moving and weight.stable_by == "device":
            self._vote.forget()
        elif not weight.verified and not self._vote.agrees(frame) and not is_moving:
            return
        readings.append(weight)

    def _host_stability(self, weight: Weight) -> Weight:
        if weight.stable is not None or not self._options.host_stable_frames:
            return weight
        if weight.value is None:
            self._rest.forget()
            return weight
        rests = self._rest.agrees(f"{weight.value} {weight.unit} {weight.mode}".encode())
        return replace(weight, stable=rests, stable_by="host")


class _Codec:
    """One frame to one weight; ValueError with one sentence where the description is wrong."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.start = as_bytes("start", options.start)
        self.end = as_bytes("end", options.end)
        self.is_fixed = bool(self.start and options.length)
        self._cut, named = _cutter(options)
        self._checksum = _checksum(options)
        mark = _MARKS[options.decimal_mark]
        self._figure = re.compile(
            rf" *+([+-]?) *+([0-9]{{1,12}})(?:{mark}([0-9]{{0,6}}))? *+([+-]?) *+"
        )
        self._check_framing()
        self._check_parts(named)

    def _check_framing(self) -> None:
        options = self._options
        if not self.end and not self.is_fixed:
            raise ValueError("a frame needs end, or start and length; give what closes it")
        if options.length and options.length < len(self.start) + len(self.end) + 1:
            raise ValueError(f"length {options.length} leaves nothing between start and end")
        has_bytes = options.checksum_form.startswith("bytes") and options.checksum != "none"
        if has_bytes and not self.is_fixed:
            raise ValueError(
                "a checksum of bytes can equal start or end; give start and length, so that "
                "frames are cut by their length"
            )
        units = sorted({*options.unit_texts.values()} - set(KG_PER_UNIT))
        if units:
            raise ValueError(
                f"unit_texts names {', '.join(units)}; expected units of {', '.join(KG_PER_UNIT)}"
            )

    def _check_parts(self, named: tuple[str, ...]) -> None:
        options = self._options
        for name in named:
            if name not in PARTS:
                raise ValueError(f'there is no part "{name}"; expected {", ".join(PARTS)}')
            if named.count(name) > 1:
                raise ValueError(f"the part {name} is named twice; name it once")
        if "value" not in named:
            raise ValueError("no part is called value; name the one that holds the figure")
        if "unit" not in named and options.weight_unit is None:
            raise ValueError("the frame has no part unit; give weight_unit")
        if ("checksum" in named) != (options.checksum != "none"):
            raise ValueError("the part checksum and the option checksum need each other; give both")
        if "decimals" in named and options.decimal_mark != "none":
            raise ValueError('the part decimals needs decimal_mark = "none"')
        self._check_tables(named)

    def _check_tables(self, named: tuple[str, ...]) -> None:
        for name, texts in self._tables().items():
            has_part = name in named or "status" in named
            if texts and not has_part:
                raise ValueError(f"{name}_texts are given, but no part is called {name} or status")
            if name in named and not texts:
                raise ValueError(f"there is a part {name}, but no {name}_texts say what it means")

    def _tables(self) -> dict[str, Mapping[str, str]]:
        options = self._options
        return {
            "mode": options.mode_texts,
            "stability": options.stability_texts,
            "range": options.range_texts,
        }

    def check(self, frame: bytes) -> None:
        """Raise RefusedError where this is no frame, or its checksum is wrong."""
        self._verify(frame, self._parts(frame))

    def _parts(self, frame: bytes) -> Parts:
        if self._options.length and len(frame) != self._options.length:
            detail = f"{len(frame)} bytes, not {self._options.length}"
            raise RefusedError(Reason.LENGTH, detail)
        body = frame[len(self.start) : len(frame) - len(self.end)].decode("latin-1")
        parts = self._cut(body)
        if parts is None:
            raise RefusedError(Reason.SYNTAX, "the body does not have the form described")
        return parts

    def decode(self, frame: bytes) -> Weight:
        """Return the weight of one whole frame, or raise RefusedError."""
        parts = self._parts(frame)
        is_verified = self._verify(frame, parts)
        said: dict[str, str | None] = {
            name: _looked_up(name, texts, parts) for name, texts in self._tables().items()
        }
        range_ = self._range(said["range"], parts)
        unit = self._unit(parts, may_be_blank=range_ != "ok")
        value = None
        if range_ == "ok":
            value = self._value(parts)
            assert unit is not None
        stable = {"stable": True, "moving": False}.get(said["stability"] or "")
        return Weight(
            value=None if value is None else format(value, "f"),
            unit=unit,
            mass_kg=None if value is None or unit is None else mass_kg(value, unit),
            mode=_MODES.get(said["mode"] or "", "unknown"),
            stable=stable,
            stable_by=None if stable is None else "device",
            range=range_,
            tare=self._tare(parts),
            alibi_id=_alibi(_text(parts, "alibi").strip()),
            verified=is_verified,
        )

    def _range(self, said: str | None, parts: Parts) -> Range:
        if said not in (None, "ok"):
            return _RANGES[said or ""]
        text = self._value_text(parts).strip()
        if text in self._options.value_texts:
            return self._options.value_texts[text]
        return "ok" if text else "unknown"  # a blank display is no weight

    def _unit(self, parts: Parts, *, may_be_blank: bool) -> str | None:
        fixed = self._options.weight_unit
        if "unit" not in parts:
            return fixed
        text = _text(parts, "unit")
        unit = _of(self._options.unit_texts, text) or text.strip()
        if not unit and may_be_blank:
            return None
        if unit not in KG_PER_UNIT:
            detail = f"unit {text!r} is none of unit_texts nor of {', '.join(KG_PER_UNIT)}"
            raise RefusedError(Reason.UNIT, detail)
        if fixed not in (None, unit):
            raise RefusedError(Reason.UNIT, f"the indicator sends {unit}, not {fixed}; set it back")
        return unit

    def _value_text(self, parts: Parts) -> str:
        text = _text(parts, "value")
        return text[::-1] if self._options.digits_reversed else text

    def _value(self, parts: Parts) -> Decimal:
        value, has_sign = self._number(self._value_text(parts), parts)
        if "sign" in parts:
            sign = _of(self._options.sign_texts, _text(parts, "sign"))
            if sign is None or has_sign:
                detail = f"sign {_text(parts, 'sign')!r} is none of sign_texts, or stands twice"
                raise RefusedError(Reason.SYNTAX, detail)
            value = -value if sign == "-" else value
        return value or abs(value)

    def _number(self, text: str, parts: Parts) -> tuple[Decimal, bool]:
        found = self._figure.fullmatch(text)
        if found is None or (found[1] and found[4]):
            raise RefusedError(Reason.SYNTAX, f"{text!r} is no figure; see decimal_mark")
        value = Decimal(f"{found[2]}.{found[3]}") if found[3] else Decimal(found[2])
        if self._options.decimal_mark == "none":
            value = value.scaleb(-self._decimals(parts))
        sign = found[1] or found[4]
        return (-value if sign == "-" else value), bool(sign)

    def _decimals(self, parts: Parts) -> int:
        if "decimals" not in parts:
            return self._options.decimals
        text = _text(parts, "decimals")
        if not re.fullmatch("[0-6]", text, re.ASCII):
            raise RefusedError(Reason.SYNTAX, f"{text!r} is no number of decimals from 0 to 6")
        return int(text)

    def _tare(self, parts: Parts) -> str | None:
        text = _text(parts, "tare")
        if not text.strip():
            return None
        value, _ = self._number(text, parts)
        return format(value, "f") if value else None

    def _verify(self, frame: bytes, parts: Parts) -> bool:
        """Return whether there is a checksum; a wrong one raises."""
        if self._checksum is None:
            return False
        at, text = parts["checksum"]
        self._checksum.verify(frame, len(self.start) + at, text)
        return True


_MODES: dict[str, Mode] = {"gross": "gross", "net": "net", "tare": "tare"}
_RANGES: dict[str, Range] = {
    "over": "over",
    "under": "under",
    "error": "error",
    "unknown": "unknown",
}


def _alibi(text: str) -> str | None:
    """Return the number of a stored weighing; zeros alone are none."""
    return text if text.strip("0") else None


def _text(parts: Parts, name: str) -> str:
    return parts.get(name, (0, ""))[1]


def _of(texts: Mapping[str, str], text: str) -> str | None:
    """Return what a text means, as it stands or without the blanks around it."""
    return texts.get(text, texts.get(text.strip()))


def _looked_up(name: str, texts: Mapping[str, str], parts: Parts) -> str | None:
    if not texts:
        return None
    text = _text(parts, name if name in parts else "status")
    meaning = _of(texts, text)
    if meaning is None:
        raise RefusedError(Reason.UNKNOWN, f"{text!r} is none of {name}_texts")
    return meaning


def _cutter(options: Options) -> tuple[Cut, tuple[str, ...]]:
    """Return how a body is cut, and the parts that it then has."""
    given = [bool(options.pattern), bool(options.columns), bool(options.separator)]
    if sum(given) != 1:
        raise ValueError("give one of pattern, columns, or separator with fields")
    if options.pattern:
        return by_pattern(options.pattern, options.length or options.max_length)
    if options.columns:
        return by_columns(options.columns)
    if not options.fields:
        raise ValueError("separator needs fields, the names of the parts between")
    return by_separator(options.separator, options.fields)


def _checksum(options: Options) -> Checksum | None:
    if options.checksum == "none":
        return None
    return Checksum(
        name=options.checksum,
        form=options.checksum_form,
        bits=options.checksum_bits,
        skip=options.checksum_skip,
        behind=options.checksum_behind,
    )


# --- samples -------------------------------------------------------------------------------------

_MEANINGS = ("value", "unit", "mode", "tare", "alibi", "range", "stable", "refused")


def _check_samples(codec: _Codec, options: Options) -> None:
    """Raise ValueError naming the first sample that does not mean what it should."""
    for number, sample in enumerate(options.samples, 1):
        named = f'sample {number} "{sample.get("frame", "")}"'
        unknown = sorted(set(sample) - {"frame", *_MEANINGS})
        if unknown:
            raise ValueError(f"{named} has {unknown[0]}; expected frame and {', '.join(_MEANINGS)}")
        if not {"value", "range", "refused"} & set(sample):
            raise ValueError(
                f"{named} does not say what it means; give its value, range or refused"
            )
        trouble = next(_differences(codec, options, sample), None)
        if trouble is not None:
            raise ValueError(
                f"{named} {trouble}; correct the description of the line or the sample"
            )


def _differences(codec: _Codec, options: Options, sample: Sample) -> Iterator[str]:
    frame = as_bytes("frame of a sample", str(sample.get("frame", "")))
    body = frame[len(codec.start) : len(frame) - len(codec.end)]
    if codec.start + body + codec.end != frame or len(frame) > max(
        options.max_length, options.length
    ):
        yield "does not fit start, end and length"
        return
    if not codec.is_fixed and codec.end in frame[: -len(codec.end)]:
        yield "holds end twice, so it is cut in two"
        return
    try:
        said = codec.decode(frame)
    except RefusedError as exc:
        if sample.get("refused") != exc.reason:
            yield f"is refused ({exc.reason}: {exc})"
        return
    if "refused" in sample:
        yield "is not refused"
    found: dict[str, object] = {
        "value": said.value,
        "unit": said.unit,
        "mode": said.mode,
        "tare": said.tare,
        "alibi": said.alibi_id,
        "range": said.range,
        "stable": "unknown" if said.stable is None else said.stable,
    }
    for name, got in found.items():
        if name in sample and sample[name] != got:
            yield f"gives {name} {got}, not {sample[name]}"
