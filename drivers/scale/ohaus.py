"""Ohaus balances and bench scales (Courier, T71P and the like): ask, and a printed line answers.

Wire: ``IP`` CR LF asks; a line ended CR LF answers::

    [l ... _] w w w w w w w w w _ u [...] _ s _ m

    l  label, up to 11 characters and a blank; lines that carry one are refused unless ``labels``
       names it, as it may say a total or a stored tare
    w  weight, nine characters, right-aligned, its minus beside the first digit, with point [u]
    u  unit, up to 5 characters; only g, kg, t, lb and oz are taken
    s  ? in motion, blank at rest
    m  G gross, N or NET net, or nothing

    ES  unknown command

Blanks after the unit may be several or absent. How the scale says over or under range is not
documented: any text in place of the weight is refused. No line has an integrity field. Nothing
but IP, P or SP is sent: neither tare, zero nor ESC R, which restores the factory settings. The
older Navigator line is read by ``scale.ascii_columns``.

Source: Ohaus Courier 5000 manual EN-34, T71P EN-56, RS232 Interface Manual EN-3. Unconfirmed:
9600 8N1 (older scales 2400 7N2), and that in legal-for-trade mode nothing is printed in motion.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

from msgspec import Meta

from drivers.base import LineParameters
from drivers.readings import BadFrame, Mode, Reason, Weight
from drivers.weighing import (
    FramedDriver,
    Legend,
    NeededFrames,
    PollIntervalS,
    Wire,
    figure,
    known_unit,
    refused_figure,
    refused_unit,
    weight,
)

LINE = LineParameters(baud=9600, data_bits=8, parity="N", stop_bits=1)

_LINE = re.compile(
    rb"(?:(?P<label>[!-~](?:[ -~]{0,9}[!-~])?) )?(?P<weight>[-0-9. ]{9}) "
    rb"(?P<unit>[A-Za-z%:]{1,5}) *(?P<motion>\??) *(?P<mode>G|N|NET)? *"
)
_MODES: dict[bytes | None, Mode] = {b"G": "gross", b"N": "net", b"NET": "net", None: "unknown"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How the scale is asked and set to print."""

    request: Annotated[
        Literal["IP", "P", "SP", "none"],
        Meta(
            description="IP: weight now; P: as displayed; SP: at rest, so the reply may take "
            "long; none: the scale prints by itself"
        ),
    ] = "IP"
    labels: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=11)], ...],
        Meta(description="labels of lines that hold the present weight, as the scale prints them"),
    ] = ()
    poll_interval_s: PollIntervalS = 0.5
    equal_frames: NeededFrames = 2


class Driver(FramedDriver):
    """Lines in, weights out."""

    def __init__(self, options: Options) -> None:
        asked = "" if options.request == "none" else f"{options.request}\r\n"
        super().__init__(
            Wire(
                end=b"\r\n",
                between=b"\r\n",
                request=asked.encode("ascii"),
                # What follows a label looks like a line without one.
                skips_first=not asked,
                poll_interval_s=options.poll_interval_s,
                equal_frames=options.equal_frames,
            ),
            partial(_read, labels=options.labels),
        )


def _read(line: bytes, *, labels: tuple[str, ...]) -> Weight | BadFrame:
    """Return what one whole line says.

    Source: Ohaus Courier 5000 manual EN-34.
    """
    text = line[:-2]
    if text == b"ES":
        return BadFrame.of(Reason.DEVICE_ERROR, line, "ES: unknown command")
    found = _LINE.fullmatch(text)
    if found is None:
        return BadFrame.of(Reason.SYNTAX, line, "no weight, unit, motion and mode")
    label = found["label"]
    if label is not None and label.decode("ascii") not in labels:
        return BadFrame.of(Reason.UNKNOWN, line, f"label {label!r} is not one of labels")
    number = figure(found["weight"])
    if number is None or b"- " in found["weight"]:
        return refused_figure(line, found["weight"])
    unit = known_unit(found["unit"])
    if unit is None:
        return refused_unit(line, found["unit"])
    legend = Legend(unit=unit, mode=_MODES[found["mode"]], stable=not found["motion"])
    return weight(number, legend)
