"""Eight more scales on the wire, as pure frames: serve them by ``scale_indicators``.

    SMA        LF s r n m f wwwwwwwwww uuu CR        answers LF W CR, LF H CR; else LF ? CR
    CAS        HH,GG,il,wwwwwwww uu CR LF            i device, l lamps (bit 7 set); or w alone
    A&D        HH,GG,swwwwwwwuu CR LF                balances: HH,swwwwwwwwuuu CR LF
    Rice Lake  02 p wwwwwww u m s CR LF
    Cardinal   s wwwwww uu m cc CR                   one w more with a point
    Ohaus      wwwwwwwww uuuuu s m CR LF             answers IP, P, SP; else ES
    NCI        LF wwwwww uu CR LF nn CR ETX          answers W CR, H CR; else LF ? CR ETX
    8217       02 www.ww [N] CR, or 02 ? s CR        answers W, H; else the status

Source: SMA SCP-0499 as in Minebea PR 5220 p. 130; CAS NT-200 p. 49, CI-600D p. 74; A&D AD-4329A
p. 43, FX-CT p. 31; Rice Lake 482 p. 33; Cardinal 225 p. 126; Ohaus Courier 5000 EN-34; NCI 7800
p. 32; Transcell PC-150 p. 19. Invented where a manual does not say it: SMA and Rice Lake show
blanks out of range, Cardinal the figure, CAS nines under OL, Ohaus nothing but dashes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from simulators.weighbridge import Reading


def _magnitude(reading: Reading, decimals: int) -> str:
    return f"{abs(reading.value):.{decimals}f}"


def _floating(reading: Reading, decimals: int) -> str:
    """Return the figure with its minus before the first digit."""
    return ("-" if reading.value < 0 else "") + _magnitude(reading, decimals)


# --- SMA ----------------------------------------------------------------------------------------


def sma_frame(
    reading: Reading, *, unit: str, decimals: int = 0, status: str = "", fine: bool = False
) -> bytes:
    """Return one frame; ``status`` E, I or T is an error with its dashes, ``fine`` answers H."""
    figure = _floating(reading, decimals)
    if not status:
        status = {"over": "O", "under": "U"}.get(reading.range, " ")
        if status == " " and reading.value == 0:
            status = "Z"
    if status in "EIT":
        figure = "-" * 10
    elif status in "OU":
        figure = ""
    mode = "N" if reading.is_net else "G"
    motion = "M" if reading.in_motion else " "
    text = f"{status}1{mode.lower() if fine else mode}{motion} {figure:>10}{unit:<3}"
    return b"\n" + text.encode("ascii") + b"\r"


def sma_answer(request: bytes, reading: Reading, *, unit: str, decimals: int = 0) -> bytes:
    """Return the answer to W or H; anything else is unknown."""
    if request == b"\nW\r":
        return sma_frame(reading, unit=unit, decimals=decimals)
    if request == b"\nH\r":
        return sma_frame(reading, unit=unit, decimals=decimals + 1, fine=True)
    return b"\n?\r"


# --- CAS ----------------------------------------------------------------------------------------


def cas_line(
    reading: Reading,
    *,
    unit: str,
    decimals: int = 0,
    device: int = 1,
    hold: bool = False,
    relays: bytes = b" ",
) -> bytes:
    """Return a line of 22 bytes."""
    header = b"US" if reading.in_motion else b"ST"
    if reading.range != "ok":
        header = b"OL"
    lamps = 1 << 7
    lamps |= (not reading.in_motion) << 6
    lamps |= hold << 4
    lamps |= (1 << 1) if reading.is_net else (1 << 2)
    lamps |= reading.value == 0
    if reading.range == "ok":
        minus = "-" if reading.value < 0 else ""
        figure = minus + _magnitude(reading, decimals).rjust(8 - len(minus), "0")
    else:
        figure = ("-" if reading.range == "under" else "").ljust(8, "9")
    mode = b"NT" if reading.is_net else b"GS"
    head = header + b"," + mode + b"," + bytes((48 + device, lamps)) + b","
    return head + figure.encode("ascii") + relays + unit.rjust(2).encode("ascii") + b"\r\n"


def cas_short_line(reading: Reading, *, decimals: int = 0) -> bytes:
    """Return a line of 10 bytes."""
    minus = "-" if reading.value < 0 else ""
    figure = minus + _magnitude(reading, decimals).rjust(8 - len(minus), "0")
    return figure.encode("ascii") + b"\r\n"


# --- A&D ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AndForm:
    """How an A&D indicator or balance is set to send."""

    mark: Literal[".", ","] = "."
    is_balance: bool = False
    unit_width: int = 2  # of an indicator; a balance has 3
    csv: bool = False  # a comma before the unit
    overload: Literal[" ", "9"] = " "  # what fills the digits out of range


def and_line(
    reading: Reading, *, unit: str, decimals: int = 0, form: AndForm | None = None
) -> bytes:
    """Return a line of an indicator, or of a balance."""
    form = form or AndForm()
    digits = _magnitude(reading, decimals).rjust(8 if form.is_balance else 7, "0")
    sign = "-" if reading.value < 0 else "+"
    state = "US" if reading.in_motion else "ST"
    if reading.range != "ok":
        state = "OL"
        sign = "-" if reading.range == "under" else "+"
        digits = "".join("." if c == "." else form.overload for c in digits)
    mode = "" if form.is_balance else f"{'NT' if reading.is_net else 'GS'},"
    tail = ("," if form.csv else "") + unit.rjust(3 if form.is_balance else form.unit_width)
    text = f"{state},{mode}{sign}{digits.replace('.', form.mark)}{tail}"
    return text.encode("ascii") + b"\r\n"


# --- Rice Lake ----------------------------------------------------------------------------------

_RICE_LAKE_UNITS = {"lb": "L", "kg": "K", "t": "T", "g": "G", "oz": "O", "": " "}


def rice_lake_frame(
    reading: Reading, *, unit: str, decimals: int = 0, end: bytes = b"\r\n", invalid: bool = False
) -> bytes:
    """Return one frame of the stream."""
    figure = _magnitude(reading, decimals)
    below = reading.value < 0
    status = "M" if reading.in_motion else " "
    if status == " " and reading.value == 0:
        status = "Z"
    if reading.range != "ok":
        status, figure, below = "O", "", reading.range == "under"
    if invalid:
        status = "I"
    mode = "N" if reading.is_net else "G"
    text = f"{'-' if below else ' '}{figure:>7}{_RICE_LAKE_UNITS[unit]}{mode}{status}"
    return b"\x02" + text.encode("ascii") + end


# --- Cardinal -----------------------------------------------------------------------------------


def cardinal_line(reading: Reading, *, unit: str, decimals: int = 0) -> bytes:
    """Return a scoreboard line."""
    width = 7 if decimals else 6
    code = {"over": "OC", "under": "BZ"}.get(reading.range, "MO" if reading.in_motion else "  ")
    sign = "-" if reading.value < 0 else " "
    mode = "N" if reading.is_net else "G"
    figure = _magnitude(reading, decimals)
    return f"{sign}{figure:>{width}}{unit:>2}{mode}{code}\r".encode("ascii")


# --- Ohaus --------------------------------------------------------------------------------------


def ohaus_line(reading: Reading, *, unit: str, decimals: int = 0, label: str = "") -> bytes:
    """Return a printed line."""
    figure = _floating(reading, decimals) if reading.range == "ok" else "-" * 6
    head = f"{label} " if label else ""
    mark = "?" if reading.in_motion else " "
    text = f"{head}{figure:>9} {unit:<5} {mark} {'NET' if reading.is_net else 'G'}"
    return text.encode("ascii") + b"\r\n"


def ohaus_answer(request: bytes, reading: Reading, *, unit: str, decimals: int = 0) -> bytes:
    """Return the answer to IP, P or SP; SP in motion has none yet."""
    command = request.rstrip(b"\r\n")
    if command not in (b"IP", b"P", b"SP"):
        return b"ES\r\n"
    if command == b"SP" and reading.in_motion:
        return b""
    return ohaus_line(reading, unit=unit, decimals=decimals)


# --- NCI ----------------------------------------------------------------------------------------


def nci_answer(
    request: bytes,
    reading: Reading,
    *,
    unit: str,
    decimals: int = 0,
    status_bytes: int = 2,
    always_more: bool = False,
) -> bytes:
    """Return the answer to W or H; ``always_more``: bit 6 is set in the last status byte too."""
    if request not in (b"W\r", b"H\r"):
        return b"\n?\r\x03"
    if request == b"H\r":
        decimals += 1
    figure = _floating(reading, decimals).rjust(7)
    if reading.range != "ok":
        figure = ("^" if reading.range == "over" else "_") * 7
    nibbles = [0, 0, 0, 0]
    nibbles[0] = reading.in_motion | (reading.value == 0) << 1
    nibbles[1] = (reading.range == "under") | (reading.range == "over") << 1
    nibbles[2] = 1 | reading.is_net << 2
    status = bytearray(48 + nibble for nibble in nibbles[:status_bytes])
    for at in range(status_bytes if always_more else status_bytes - 1):
        status[at] += 64
    return b"\n" + f"{figure}{unit}\r\n".encode("ascii") + bytes(status) + b"\r\x03"


# --- Toledo 8217 --------------------------------------------------------------------------------


def demand_answer(
    request: bytes, reading: Reading, *, decimals: int, digits: int = 5, is_8213: bool = False
) -> bytes:
    """Return the answer to W or H: a weight at rest, in range and not below zero, else the status.

    ``digits`` counts those of W.
    """
    if request == b"H":
        decimals, digits = decimals + 1, digits + 1
    elif request != b"W":
        return _demand_status(reading, is_8213=is_8213)
    below = reading.value < Decimal(0)
    figure = f"{abs(reading.value):0{digits + 1}.{decimals}f}"
    if reading.in_motion or reading.range != "ok" or below or len(figure) > digits + 1:
        return _demand_status(reading, is_8213=is_8213)
    net = "N" if reading.is_net and not is_8213 else ""
    return f"\x02{figure}{net}\r".encode("ascii")


def _demand_status(reading: Reading, *, is_8213: bool) -> bytes:
    bits = 0b0100_0000
    if reading.in_motion:
        bits |= 1 << 0
    if reading.range == "over":
        bits |= 1 << 1
    if reading.range == "under" or reading.value < 0:
        bits |= 1 << 2
    if reading.value == 0:
        bits |= 1 << 4
    if reading.is_net or is_8213:
        bits |= 1 << 5
    return b"\x02?" + bytes((bits,)) + b"\r"
