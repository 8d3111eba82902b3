"""Readers of plates, tags, codes and travel documents that send lines of text.

A frame is cut by ``end``, and by ``start`` where there is one; between them stands the body. What
it means depends on ``reads``: "plate", "tag" and "code" name the parts of the body by one of three,
and a body without any of them is the value itself::

    pattern    a regular expression over the whole body with named groups
    columns    { value = "3-10" }  characters counted from 1, the body's first
    separator  the body is split there, and ``fields`` names the pieces ("-": not looked at)

    value       what was read, as it stands, blanks around it taken off
    confidence  a figure from 0 to ``confidence_full``; blank: the reader gives none
    declared    the mass that a document declares, in ``declared_unit``; blank: it declares none
    checksum    see ``checksum``; "xor-hex" is the XOR of the bytes that value's hex digits write

"mrz" takes the lines of a machine readable zone, each as a frame of its own or all in one, and
gives ``ISSUER-NUMBER`` of the document; names and dates never leave the driver. Check digits that
are wrong are said with what was read (``drivers.mrz``). Its samples write < as it stands.

A reader that repeats a tag while it is near says it again and again; the lane joins that. Readers
are silent while nobody comes, so that the link counts as up while its port is open. ``heartbeat``
names a body that some send to say that they live; a lane file that sets ``silence_s`` for the
device has it watched by them.

A pattern, checksum or position that is wrong shows when the driver is made: ``samples`` are frames
with what they mean. How bytes are written and which patterns are taken: ``drivers.text_lines``.

Source: the reader's manual, which the lane file describes; RDM6300 tag frames (02, ten hex digits,
two hex digits of XOR, 03, repeated while the tag is near); Nedap ANPR manual p. 19 (templates);
ICAO Doc 9303. Unconfirmed: every other maker's framing; it is the site's samples that prove it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers import mrz
from drivers.base import LineParameters, mass_kg
from drivers.line_cutter import LineCutter, truncated
from drivers.readings import BadFrame, DeviceState, Identity, Reading, Reason
from drivers.text_lines import (
    Checksum,
    ChecksumBehind,
    ChecksumSkip,
    Columns,
    Cut,
    End,
    Fields,
    Pattern,
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
SILENT_BY_NATURE = True
"""Nothing comes while nobody does."""

PARTS = ("value", "confidence", "declared", "checksum")
MEANINGS = ("value", "confidence", "checked", "declared_kg", "refused")
MAX_VALUE = 64

_FIGURE = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)
_FILLER = re.compile(r"<(?!(?:[A-Z]{2,3}|0x[0-9A-F]{2})>)", re.ASCII)
"""The filler of a zone, which its samples may write as it stands there: no > ever follows."""
_HEX = {
    "hex": re.compile("(?:[0-9A-F]{2})+", re.ASCII),
    "hex-lower": re.compile("(?:[0-9a-f]{2})+", re.ASCII),
}

Meaning = str | float | bool
Sample = dict[str, Meaning]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The line as data; the forms stand at the head of the driver."""

    reads: Annotated[
        Literal["plate", "tag", "code", "mrz"],
        Meta(description="what stands in a frame; mrz: the zone of a travel document"),
    ]
    samples: Annotated[
        tuple[Sample, ...],
        Meta(
            description="frames with what they mean: frame, and any of value, confidence, checked, "
            "declared_kg, or refused (the reason)",
            min_length=1,
            max_length=32,
        ),
    ]
    start: Start = ""
    end: End = "<CR><LF>"
    max_length: Annotated[
        int, Meta(description="a frame without end is refused after so much [bytes]", ge=4, le=512)
    ] = 128
    seven_bits: SevenBits = False
    encoding: Annotated[
        Literal["ascii", "utf-8", "latin-1"], Meta(description="how the characters are written")
    ] = "ascii"
    skips_first: Annotated[
        bool,
        Meta(description="the first frame after opening is dropped, for it may be half of one"),
    ] = False
    pattern: Pattern = ""
    columns: Columns = field(default_factory=dict)
    separator: Separator = ""
    fields: Fields = ()
    confidence_full: Annotated[
        float, Meta(description="what the reader writes where it is quite sure", gt=0)
    ] = 100.0
    declared_unit: Annotated[
        Literal["g", "kg", "t", "lb"], Meta(description="unit of the part declared")
    ] = "kg"
    checksum: Annotated[
        Literal["none", "xor-hex", "xor", "sum", "twos-complement", "crc16-modbus", "crc16-ccitt"],
        Meta(description="integrity field, in the part checksum"),
    ] = "none"
    checksum_form: Annotated[
        Literal["hex", "hex-lower"], Meta(description="digits of the checksum")
    ] = "hex"
    checksum_skip: ChecksumSkip = 0
    checksum_behind: ChecksumBehind = 0
    heartbeat: Annotated[
        str, Meta(description="a body that only says that the reader lives; empty: none")
    ] = ""


class Driver:
    """Frames in, identities out; keeps at most one frame, or the lines of one zone.

    Raises
    ------
    ValueError
        Where the description is wrong, or a sample does not decode to what it means.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._codec = _Codec(options)
        self._frames = LineCutter(
            start=self._codec.start,
            end=self._codec.end,
            max_length=options.max_length,
            seven_bits=options.seven_bits,
            is_joining=options.skips_first,
        )
        for number, sample in enumerate(options.samples, start=1):
            self._lines: tuple[str, ...] = ()
            self._frames.reset(is_joining=False)
            for trouble in _troubles(self.feed, sample, is_zone=options.reads == "mrz"):
                raise ValueError(f'sample {number} "{sample.get("frame", "")}" {trouble}')
        self._lines = ()
        self._frames.reset()

    @property
    def poll_period_s(self) -> None:
        """The reader just talks."""
        return None

    @property
    def buffered(self) -> int:
        """How much is kept between two calls [bytes]."""
        return len(self._frames.buffer) + sum(map(len, self._lines))

    def poll(self) -> bytes:
        """Return nothing: a reader is never asked."""
        return b""

    def no_reply(self) -> list[Reading]:
        """Return nothing: a reader is never asked."""
        return []

    def silence(self) -> list[Reading]:
        """Drop a half frame or a zone without its last line, and say so."""
        zone = "".join(self._lines).encode("latin-1")
        self._lines = ()
        return [*truncated(zone + self._frames.reset())]

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for frame in self._frames.cut(data):
            if isinstance(frame, BadFrame):
                self._lines = ()
                readings.append(frame)
            else:
                self._frame(frame, readings)
        return readings

    def _frame(self, frame: bytes, readings: list[Reading]) -> None:
        try:
            body = self._codec.body(frame)
            if body == self._options.heartbeat:
                if body:
                    readings.append(DeviceState(condition="heartbeat_lost", active=False))
                return
            if self._options.reads == "mrz":
                self._line(body, readings)
            else:
                readings.append(self._codec.decode(frame, body))
        except RefusedError as exc:
            self._refuse(exc.reason, frame, str(exc), readings)

    def _line(self, body: str, readings: list[Reading]) -> None:
        """Collect the lines of a zone; one that does not go with those before begins anew."""
        lines = mrz.split(body.strip())
        if not all(mrz.is_line(line) for line in lines):
            raise RefusedError(Reason.SYNTAX, f"{len(body)} characters are no line of a zone")
        if self._lines and len(lines[0]) != len(self._lines[0]):
            lost = "".join(self._lines).encode("latin-1")
            self._refuse(Reason.LENGTH, lost, "a zone's next line has another length", readings)
        self._lines = (*self._lines, *lines)
        needed = mrz.FORMS[len(lines[0])]
        if len(self._lines) < needed:
            return
        zone, self._lines = self._lines[:needed], ()
        found = mrz.read(zone)
        if not found.number or not found.issuer:
            raise RefusedError(Reason.SYNTAX, "the zone has no document number or issuing state")
        value = f"{found.issuer}-{found.number}"
        readings.append(Identity(kind="document", value=value, checked=found.is_right))

    def _refuse(self, reason: Reason, raw: bytes, detail: str, readings: list[Reading]) -> None:
        self._lines = ()
        readings.append(BadFrame.of(reason, raw, detail))


class _Codec:
    """One frame to one identity; ValueError with one sentence where the description is wrong."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.start = as_bytes("start", options.start)
        self.end = as_bytes("end", options.end)
        self._cut = _cutter(options)
        self._checksum = _checksum(options)

    def body(self, frame: bytes) -> str:
        """Return what stands between start and end; raises RefusedError where it is no text."""
        raw = frame[len(self.start) : len(frame) - len(self.end)]
        try:
            text = raw.decode(self._options.encoding)
        except UnicodeDecodeError as exc:
            detail = f"the body is no {self._options.encoding}: {exc.reason}"
            raise RefusedError(Reason.SYNTAX, detail) from exc
        if not text.isprintable():
            raise RefusedError(Reason.SYNTAX, "a byte of the body is no printable character")
        return text

    def decode(self, frame: bytes, body: str) -> Identity:
        """Return what the frame says; raises RefusedError."""
        options = self._options
        assert options.reads != "mrz"
        if self._cut is None:
            parts = {"value": (0, body)}
        else:
            found = self._cut(body)
            if found is None:
                raise RefusedError(Reason.SYNTAX, "the line is not cut as the file describes it")
            parts = found
        value = parts["value"][1].strip()
        is_checked = self._verify(frame, parts, value)
        if not value or len(value) > MAX_VALUE:
            raise RefusedError(Reason.LENGTH, f"value has {len(value)} characters")
        return Identity(
            kind=options.reads,
            value=value,
            confidence=self._confidence(parts),
            checked=is_checked,
            declared_kg=self._declared(parts),
        )

    def _verify(
        self, frame: bytes, parts: dict[str, tuple[int, str]], value: str
    ) -> Literal[True] | None:
        """Return True where a checksum stood and was right, None where there is none."""
        if self._options.checksum == "none":
            return None
        at, text = parts["checksum"]
        if self._options.checksum == "xor-hex":
            if _HEX[self._options.checksum_form].fullmatch(value) is None:
                raise RefusedError(Reason.SYNTAX, "value is not written in pairs of hex digits")
            right = 0
            for byte in bytes.fromhex(value):
                right ^= byte
            wanted = f"{right:02X}" if self._options.checksum_form == "hex" else f"{right:02x}"
            if text != wanted:
                raise RefusedError(Reason.CHECKSUM, f"checksum is {text!r}, should be {wanted!r}")
        elif self._checksum is not None:
            self._checksum.verify(frame, len(self.start) + at, text)
        return True

    def _confidence(self, parts: dict[str, tuple[int, str]]) -> float | None:
        figure = _figure(parts, "confidence")
        if figure is None:
            return None
        confidence = float(figure) / self._options.confidence_full
        if confidence > 1:
            raise RefusedError(
                Reason.RANGE,
                f"confidence {figure} is above confidence_full {self._options.confidence_full:g}",
            )
        return round(confidence, 6)

    def _declared(self, parts: dict[str, tuple[int, str]]) -> float | None:
        figure = _figure(parts, "declared")
        return None if figure is None else mass_kg(figure, self._options.declared_unit)


def _figure(parts: dict[str, tuple[int, str]], name: str) -> Decimal | None:
    text = parts.get(name, (0, ""))[1].strip()
    if not text:
        return None
    if _FIGURE.fullmatch(text) is None:
        raise RefusedError(Reason.SYNTAX, f"{name} is {text!r}, which is no figure")
    return Decimal(text)


def _cutter(options: Options) -> Cut | None:
    given = [name for name in ("pattern", "columns", "separator") if getattr(options, name)]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; describe the line by one of them")
    has_parts = bool(given or options.fields or options.checksum != "none")
    if options.reads == "mrz" and has_parts:
        raise ValueError('reads = "mrz" knows its parts and check digits; take the others out')
    if not given:
        if has_parts:
            raise ValueError("fields and checksum need separator, columns or pattern; give one")
        return None
    if options.pattern:
        cut, named = by_pattern(options.pattern, options.max_length)
    elif options.columns:
        cut, named = by_columns(options.columns)
    else:
        cut, named = by_separator(options.separator, options.fields)
    _check_parts(options, named)
    return cut


def _check_parts(options: Options, named: tuple[str, ...]) -> None:
    for name in named:
        if name not in PARTS:
            raise ValueError(f'there is no part "{name}"; expected {", ".join(PARTS)}')
        if named.count(name) > 1:
            raise ValueError(f"the part {name} is named twice; name it once")
    if "value" not in named:
        raise ValueError("no part is called value; name the one that was read")
    if ("checksum" in named) != (options.checksum != "none"):
        raise ValueError("the part checksum and the option checksum need each other; give both")
    if options.checksum not in {"none", "xor-hex"} and options.encoding == "utf-8":
        raise ValueError("a checksum runs over bytes, so encoding must be ascii or latin-1")


def _checksum(options: Options) -> Checksum | None:
    if options.checksum in {"none", "xor-hex"}:
        return None
    assert options.checksum != "none"
    assert options.checksum != "xor-hex"
    return Checksum(
        name=options.checksum,
        form=options.checksum_form,
        skip=options.checksum_skip,
        behind=options.checksum_behind,
    )


def _troubles(
    feed: Callable[[bytes], list[Reading]], sample: Sample, *, is_zone: bool
) -> Iterator[str]:
    """Yield what is wrong with one sample."""
    frame = sample.get("frame")
    if not isinstance(frame, str):
        yield "has no frame; give the bytes that the reader sent"
        return
    unknown = sorted(set(sample) - {"frame", *MEANINGS})
    if unknown:
        yield f"says {unknown[0]}; expected any of {', '.join(MEANINGS)}"
        return
    if is_zone:
        frame = _FILLER.sub("<0x3C>", frame)
    readings = feed(as_bytes("frame", frame))
    if len(readings) != 1:
        yield f"gives {len(readings)} readings; a sample is one frame with its end"
        return
    (reading,) = readings
    if isinstance(reading, BadFrame):
        if sample.get("refused") != reading.reason.value:
            yield f"is refused ({reading.reason.value}: {reading.detail}); correct the description"
        return
    if "refused" in sample:
        yield "is taken, not refused; correct the description of the line or the sample"
        return
    for name in MEANINGS[:-1]:
        got = getattr(reading, name, None)
        if name in sample and got != sample[name]:
            yield f"gives {name} {got}, not {sample[name]}; correct the description or the sample"
