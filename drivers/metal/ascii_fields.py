"""Metal detectors that send lines of text and have no driver of their own: the line as data.

A frame is cut by ``end``, and by ``start`` where there is one; between them stands the body, whose
parts are named by one of two::

    pattern    a regular expression over the whole body with named groups
    separator  the body is split there, and ``fields`` names the pieces ("-": not looked at)

    alarm      a text, see ``alarm_texts``           direction  a text, see ``direction_texts``
    zones      where: names or a mask, see ``zones_form``
    level      the signal, a figure in units of ``level_scale``
    program    sensitivity     what it is set to, as it stands
    fault      a text, see ``fault_texts``           time       not looked at: ours is used
    passages_in  passages_out  alarms  randoms       counters that return to 0 at counter_modulus
    checksum   see ``checksum``

``frames = "events"``: each frame is one walk or one alarm. ``frames = "states"``: each frame is how
things are now, alarm is a level, and two equal ones in a row make a reading. An event comes once,
so that without a checksum nothing tells a damaged one that can still be cut from a right one.

A part that is blank says nothing; a text that no table holds is refused, not guessed. ``samples``
are frames with what they mean: one that does not decode to it is a ValueError when the driver is
made, so that a wrong line in the file shows before the first person walks.

A detector that only speaks when somebody walks needs a ``silence_s`` that is longer than the lane
is ever empty, or a poll. What a counter gained while the link was lost is not told. How bytes are
written, which patterns are taken, and the checksums: ``drivers.text_lines``.

Source: the detector's manual or site sheet, which the lane file describes; CEIA 02PN20 manual p. 33
for counters of passages and alarms (0 to 9999999, persons entering only). Unconfirmed: every
maker's framing; it is the site's samples that prove it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import EqualFrames, LineParameters
from drivers.counters import Counters, resets
from drivers.line_cutter import LineCutter, truncated, unanswered
from drivers.readings import (
    BadFrame,
    DeviceState,
    MetalAlarm,
    MetalPassages,
    MetalProgram,
    Reading,
    Reason,
)
from drivers.text_lines import (
    Checksum,
    ChecksumBehind,
    ChecksumBits,
    ChecksumSkip,
    End,
    Fields,
    Parts,
    Pattern,
    Poll,
    PollInterval,
    RefusedError,
    Separator,
    SevenBits,
    Start,
    as_bytes,
    by_pattern,
    by_separator,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

COUNTED = ("passages_in", "passages_out", "alarms", "randoms")
PARTS = (
    *("time", "direction", "alarm", "zones", "level", "program", "sensitivity", "fault"),
    *COUNTED,
    "checksum",
)
MEANINGS = (
    *("direction", "alarm", "zones", "level", "program", "sensitivity", "fault"),
    *COUNTED,
    "refused",
)
MAX_ZONES = 64

_CONDITION = re.compile("[a-z][a-z0-9_]{0,31}", re.ASCII)
_COUNT = re.compile("[0-9]{1,10}", re.ASCII)
_FIGURE = re.compile(r"-?[0-9]{1,9}(?:\.[0-9]{1,6})?", re.ASCII)
_MASK = {"hex-mask": (re.compile("[0-9A-Fa-f]{1,16}"), 16), "decimal-mask": (_COUNT, 10)}

Alarm = Literal["alarm", "random", "clear"]
Meaning = str | int | float | tuple[str, ...] | None
Sample = dict[str, str | int | float | list[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The line as data; the forms stand at the head of the driver."""

    frames: Annotated[
        Literal["events", "states"],
        Meta(description="events: a frame is one walk or one alarm; states: how things are now"),
    ]
    samples: Annotated[
        tuple[Sample, ...],
        Meta(
            description="frames with what they mean: frame, and any of direction, alarm, zones, "
            "level, program, sensitivity, fault, passages_in, passages_out, alarms, randoms, or "
            "refused (the reason)",
            min_length=1,
            max_length=32,
        ),
    ]
    start: Start = ""
    end: End = "<CR><LF>"
    max_length: Annotated[
        int, Meta(description="a frame without end is refused after so much [bytes]", ge=4, le=256)
    ] = 128
    seven_bits: SevenBits = False
    pattern: Pattern = ""
    separator: Separator = ""
    fields: Fields = ()
    alarm_texts: Annotated[
        dict[str, Alarm], Meta(description="alarm, random (no metal) or clear by its text")
    ] = field(default_factory=dict)
    direction_texts: Annotated[
        dict[str, Literal["in", "out", "none"]],
        Meta(description="in or out by its text; none: nobody walked"),
    ] = field(default_factory=dict)
    walks: Annotated[
        Literal["in", "out", "none"],
        Meta(description="events without a part direction: which way each of them walked"),
    ] = "none"
    zones_form: Annotated[
        Literal["names", "hex-mask", "decimal-mask"],
        Meta(description="names with zones_separator between, or a mask, lowest bit first"),
    ] = "names"
    zones_separator: Annotated[
        str, Meta(description="between names; empty: each character is one", max_length=4)
    ] = "+"
    zone_names: Annotated[
        tuple[str, ...],
        Meta(description="a mask: the zones, lowest bit first; else: those that are known"),
    ] = ()
    level_scale: Annotated[
        str, Meta(description='what level is counted in, e.g. "percent"', max_length=40)
    ] = ""
    fault_texts: Annotated[
        dict[str, str],
        Meta(description='condition by its text, e.g. not_ready; "ok": there is none'),
    ] = field(default_factory=dict)
    counter_modulus: Annotated[
        int, Meta(description="where counters return to 0", ge=10, le=1 << 32)
    ] = 10_000_000
    max_increments: Annotated[
        int, Meta(description="a counter cannot gain more between two frames [increments]", ge=1)
    ] = 200
    checksum: Annotated[
        Literal["none", "xor", "sum", "twos-complement", "crc16-modbus", "crc16-ccitt"],
        Meta(description="integrity field, in the part checksum"),
    ] = "none"
    checksum_form: Annotated[
        Literal["hex", "hex-lower"], Meta(description="how its digits are written")
    ] = "hex"
    checksum_bits: ChecksumBits = 8
    checksum_skip: ChecksumSkip = 0
    checksum_behind: ChecksumBehind = 0
    equal_frames: Annotated[
        int,
        Meta(
            description="states without checksum: equal frames in a row that make a reading "
            "[frames]; 1: no vote",
            ge=1,
            le=10,
        ),
    ] = 2
    poll: Poll = ""
    poll_interval_s: PollInterval = 1.0


class Driver:
    """Frames in, walks and alarms out; keeps at most one frame.

    Raises
    ------
    ValueError
        Where the description is wrong, or a sample does not decode to what it means.
    """

    def __init__(self, options: Options) -> None:
        self._codec = _Codec(options)
        _check_samples(self._codec, options)
        self._options = options
        is_voted = options.frames == "states" and options.checksum == "none"
        self._vote = EqualFrames(options.equal_frames if is_voted else 1)
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
        self._reset()

    def _reset(self) -> None:
        self._vote.forget()
        self._is_watched = False
        self._faults: set[str] = set()
        self._is_reset = False
        most = self._options.max_increments
        self._counters = Counters(max_increments=most, max_increments_after_gap=most)

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
        """Drop a half frame and say so; forget levels and counters."""
        readings: list[Reading] = [*truncated(self._lines.reset())]
        if self._is_watched:
            readings.append(MetalAlarm(active=None, pulses=None))
        readings += [DeviceState(condition=name, active=None) for name in sorted(self._faults)]
        self._reset()
        return readings

    def feed(self, data: bytes) -> list[Reading]:
        """Return what the bytes say; never raises on input."""
        readings: list[Reading] = []
        for frame in self._lines.cut(data):
            if isinstance(frame, BadFrame):
                self._vote.forget()
                readings.append(frame)
            else:
                self._say(frame, readings)
        return readings

    def _say(self, frame: bytes, readings: list[Reading]) -> None:
        try:
            said = self._codec.decode(frame)
        except RefusedError as exc:
            self._vote.forget()
            readings.append(BadFrame.of(exc.reason, frame, str(exc)))
            return
        if not self._vote.agrees(frame):
            return
        before = len(readings)
        if self._options.frames == "events":
            self._event(said, readings)
        else:
            self._level(said, readings)
        self._count(said, readings)
        self._set(said, readings)
        if len(readings) == before:  # heard all the same
            readings.append(MetalAlarm(active=None, pulses=0 if self._is_watched else None))

    def _event(self, said: Mapping[str, Meaning], readings: list[Reading]) -> None:
        """Say one walk, and whether it alarmed."""
        walked = said["direction"] or self._options.walks
        if said["alarm"] is not None:
            self._is_watched = True
            readings.append(MetalAlarm(active=None, pulses=0))
            if said["alarm"] != "clear":
                is_random = said["alarm"] == "random"
                readings.append(_alarm(said, active=None, pulses=1, is_random=is_random))
        if walked != "none":
            readings.append(MetalPassages(entered=int(walked == "in"), left=int(walked == "out")))

    def _level(self, said: Mapping[str, Meaning], readings: list[Reading]) -> None:
        """Say the levels of alarm and random selection."""
        if said["alarm"] is None:
            return
        self._is_watched = True
        pulses = 0 if "alarms" in self._codec.named else None
        is_random = said["alarm"] == "random"
        is_alarm = said["alarm"] == "alarm"
        readings.append(_alarm(said, active=is_alarm, pulses=pulses, is_random=False))
        if "random" in self._options.alarm_texts.values():
            pulses = 0 if "randoms" in self._codec.named else None
            readings.append(MetalAlarm(active=is_random, pulses=pulses, is_random=True))

    def _count(self, said: Mapping[str, Meaning], readings: list[Reading]) -> None:
        """Say what the counters gained."""
        gained: dict[str, int | None] = {}
        gains = []
        for name in COUNTED:
            figure = said[name]
            if isinstance(figure, int):
                gain = self._counters.take(name, figure, self._options.counter_modulus)
                gained[name] = 0 if gain is None else gain.increments
                gains += [] if gain is None else [gain]
        if "passages_in" in gained or "passages_out" in gained:
            entered, left = gained.get("passages_in"), gained.get("passages_out")
            readings.append(MetalPassages(entered=entered, left=left))
        if "alarms" in gained:
            self._is_watched = True
            active = None if said["alarm"] is None else said["alarm"] == "alarm"
            readings.append(_alarm(said, active=active, pulses=gained["alarms"], is_random=False))
        if gained.get("randoms", 0) != 0:
            readings.append(MetalAlarm(active=None, pulses=gained["randoms"], is_random=True))
        detail = resets(gains)
        if detail or self._is_reset:
            self._is_reset = bool(detail)
            readings.append(
                DeviceState(condition="counter_reset", active=self._is_reset, detail=detail)
            )

    def _set(self, said: Mapping[str, Meaning], readings: list[Reading]) -> None:
        """Say faults, and what the detector is set to."""
        fault = said["fault"]
        if fault is not None:
            now = set() if fault == "ok" else {str(fault)}
            if "not_ready" in self._options.fault_texts.values():
                readings.append(DeviceState(condition="not_ready", active="not_ready" in now))
            readings += [
                DeviceState(condition=name, active=name in now)
                for name in sorted((now | self._faults) - {"not_ready"})
            ]
            self._faults = now
        program, sensitivity = said["program"], said["sensitivity"]
        if program is not None or sensitivity is not None:
            readings.append(
                MetalProgram(
                    program=None if program is None else str(program),
                    sensitivity=None if sensitivity is None else str(sensitivity),
                )
            )


def _alarm(
    said: Mapping[str, Meaning], *, active: bool | None, pulses: int | None, is_random: bool
) -> MetalAlarm:
    zones, level, scale = said["zones"], said["level"], said["level_scale"]
    is_metal = not is_random and (active or pulses != 0) and said["alarm"] in (None, "alarm")
    return MetalAlarm(
        active=active,
        pulses=pulses,
        is_random=is_random,
        zones=zones if is_metal and isinstance(zones, tuple) else None,
        amplitude=level if is_metal and isinstance(level, float) else None,
        amplitude_scale=str(scale) if is_metal and level is not None else None,
    )


class _Codec:
    """One frame to what it says; ValueError with one sentence where the description is wrong."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self.start = as_bytes("start", options.start)
        self.end = as_bytes("end", options.end)
        if bool(options.pattern) == bool(options.separator):
            raise ValueError("give one of pattern, or separator with fields")
        if options.pattern:
            self._cut, self.named = by_pattern(options.pattern, options.max_length)
        else:
            self._cut, self.named = by_separator(options.separator, options.fields)
        self._checksum = None
        if options.checksum != "none":
            self._checksum = Checksum(
                name=options.checksum,
                form=options.checksum_form,
                bits=options.checksum_bits,
                skip=options.checksum_skip,
                behind=options.checksum_behind,
            )
        self._check()

    def _check(self) -> None:
        options, named = self._options, self.named
        for name in named:
            if name not in PARTS:
                raise ValueError(f'there is no part "{name}"; expected {", ".join(PARTS)}')
            if named.count(name) > 1:
                raise ValueError(f"the part {name} is named twice; name it once")
        if not {"alarm", "alarms"} & set(named):
            raise ValueError("no part tells alarms; name the one that does alarm or alarms")
        if ("checksum" in named) != (options.checksum != "none"):
            raise ValueError("the part checksum and the option checksum need each other; give both")
        if ("level" in named) != bool(options.level_scale):
            raise ValueError("the part level and level_scale need each other; give both")
        self._check_meanings()

    def _check_meanings(self) -> None:
        options, named = self._options, self.named
        for name, texts in self._tables().items():
            if (name in named) != bool(texts):
                raise ValueError(f"the part {name} and {name}_texts need each other; give both")
        if options.walks != "none" and (options.frames != "events" or "direction" in named):
            raise ValueError("walks is for events without a part direction; leave it out")
        if options.frames == "states" and "direction" in named:
            raise ValueError('direction is one walk\'s; give frames = "events", or counters')
        for name in options.fault_texts.values():
            if not _CONDITION.fullmatch(name):
                raise ValueError(f'fault_texts has "{name}"; name it as not_ready, a-z and _')
        if len(options.zone_names) > MAX_ZONES:
            raise ValueError(f"zone_names has more than {MAX_ZONES} zones; a mask holds no more")

    def _tables(self) -> dict[str, Mapping[str, str]]:
        options = self._options
        return {
            "alarm": options.alarm_texts,
            "direction": options.direction_texts,
            "fault": options.fault_texts,
        }

    def decode(self, frame: bytes) -> dict[str, Meaning]:
        """Return what each part says, None where it is not there or blank."""
        body = frame[len(self.start) : len(frame) - len(self.end)].decode("latin-1")
        parts = self._cut(body)
        if parts is None:
            raise RefusedError(Reason.SYNTAX, "the frame is not cut as described")
        if self._checksum is not None:
            at, text = parts["checksum"]
            self._checksum.verify(frame, len(self.start) + at, text)
        said: dict[str, Meaning] = {
            name: _looked_up(name, texts, parts) for name, texts in self._tables().items()
        }
        said["zones"] = self._zones(_text(parts, "zones"))
        level = _text(parts, "level")
        said["level"] = None if not level else float(_figure(level))
        said["level_scale"] = self._options.level_scale or None
        for name in ("program", "sensitivity"):
            said[name] = _text(parts, name) or None
        for name in COUNTED:
            said[name] = self._counter(name, _text(parts, name))
        return said

    def _counter(self, name: str, text: str) -> int | None:
        if not text:
            return None
        if not _COUNT.fullmatch(text) or int(text) >= self._options.counter_modulus:
            detail = f"{name} {text!r} is no count below {self._options.counter_modulus}"
            raise RefusedError(Reason.RANGE, detail)
        return int(text)

    def _zones(self, text: str) -> tuple[str, ...] | None:
        form, names = self._options.zones_form, self._options.zone_names
        if not text:
            return None
        if form == "names":
            mark = self._options.zones_separator
            found = tuple(piece.strip() for piece in (text.split(mark) if mark else text))
            if names and not set(found) <= set(names):
                raise RefusedError(Reason.UNKNOWN, f"zones {text!r} are not all in zone_names")
            return found
        pattern, base = _MASK[form]
        if not pattern.fullmatch(text):
            raise RefusedError(Reason.SYNTAX, f"zones {text!r} is no {form}")
        mask = int(text, base)
        names = names or tuple(str(n + 1) for n in range(MAX_ZONES))
        if mask >> len(names):
            raise RefusedError(Reason.UNKNOWN, f"zones {text!r} has bits beyond zone_names")
        return tuple(name for bit, name in enumerate(names) if mask >> bit & 1)


def _text(parts: Parts, name: str) -> str:
    return parts.get(name, (0, ""))[1].strip(" ")


def _figure(text: str) -> Decimal:
    if not _FIGURE.fullmatch(text):
        raise RefusedError(Reason.SYNTAX, f"level {text!r} is no figure")
    return Decimal(text)


def _looked_up(name: str, texts: Mapping[str, str], parts: Parts) -> str | None:
    """Return what a text means; a blank one says nothing unless its table holds it."""
    text = _text(parts, name)
    if text in texts:
        return texts[text]
    if text:
        raise RefusedError(Reason.UNKNOWN, f"{text!r} is none of {name}_texts")
    return None


# --- samples -------------------------------------------------------------------------------------


def _check_samples(codec: _Codec, options: Options) -> None:
    """Raise ValueError naming the first sample that does not mean what it should."""
    for number, sample in enumerate(options.samples, 1):
        named = f'sample {number} "{sample.get("frame", "")}"'
        unknown = sorted(set(sample) - {"frame", *MEANINGS})
        if unknown:
            raise ValueError(f"{named} has {unknown[0]}; expected frame and {', '.join(MEANINGS)}")
        if not set(sample) & set(MEANINGS):
            raise ValueError(f"{named} does not say what it means; give its alarm or another part")
        trouble = next(_differences(codec, options, sample), None)
        if trouble is not None:
            raise ValueError(
                f"{named} {trouble}; correct the description of the line or the sample"
            )


def _differences(codec: _Codec, options: Options, sample: Sample) -> Iterator[str]:
    frame = as_bytes("frame of a sample", str(sample.get("frame", "")))
    body = frame[len(codec.start) : len(frame) - len(codec.end)]
    if codec.start + body + codec.end != frame or len(frame) > options.max_length:
        yield "does not fit start, end and max_length"
        return
    if codec.end in frame[: -len(codec.end)]:
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
    for name in set(MEANINGS) & set(sample):
        got = said.get(name)
        plain = list(got) if isinstance(got, tuple) else got
        if sample[name] != plain:
            yield f"gives {name} {plain}, not {sample[name]}"
