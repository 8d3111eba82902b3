"""A coverage-guided fuzzer over every codec; run by hand, not by pytest.

    pip install atheris
    python tests/fuzz_codecs.py --seconds 240                all targets in turn, so long together
    python tests/fuzz_codecs.py --only scale.toledo          one of them
    python tests/fuzz_codecs.py --show scale.toledo FILE     a finding, as a capture's lines

An input is a little program: which capture's options the driver is made with, then what befalls it
(bytes come, it is polled, the line falls silent, no reply came; or registers are read). It begins
with the captures themselves. A target fails where the driver raises, keeps more than
``MAX_BUFFERED`` bytes, says another thing when the same bytes come one at a time, or gives a weight
that contradicts itself. What is found is mended in the driver and kept as a capture.
"""

from __future__ import annotations

import argparse
import copy
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[1])]

KINDS = ("feed", "feed", "feed", "feed", "feed", "poll", "silence", "no_reply")
MAX_BUFFERED = 8192
MAX_INPUT = 700
MODBUS = "modbus"
_FIGURE = re.compile(r"-?[0-9]+(\.[0-9]+)?", re.ASCII)


# ------------------------------------------------------------------ programs


def steps(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what befalls a stream driver: a byte of kind, for "feed" a length, and bytes."""
    at = 1
    while at < len(data):
        kind = KINDS[data[at] % len(KINDS)]
        at += 1
        if kind == "feed":
            size = data[at] if at < len(data) else 0
            yield kind, data[at + 1 : at + 1 + size]
            at += 1 + size
        else:
            yield kind, b""


def program(number: int, capture_steps: list[tuple[str, bytes]]) -> bytes:
    """Return a stream capture as a program."""
    parts = [bytes([number])]
    for kind, data in capture_steps:
        if kind == "data":
            for at in range(0, len(data), 255):
                piece = data[at : at + 255]
                parts.append(bytes([0, len(piece)]) + piece)
        else:
            parts.append(bytes([KINDS.index(kind)]))
    return b"".join(parts)


def reads(data: bytes, driver: object) -> Iterator[tuple[object, tuple[int, ...]]]:
    """Yield a polled driver's block and its registers: a byte of choice, and two for each."""
    at = 1
    while at < len(data):
        blocks = driver.blocks()
        choice = data[at]
        block = blocks[choice % len(blocks)]
        count = block.values if choice < 0xF0 else choice & 0x0F
        words = data[at + 1 : at + 1 + 2 * count].ljust(2 * count, b"\0")
        yield block, tuple(words[i] << 8 | words[i + 1] for i in range(0, 2 * count, 2))
        at += 1 + 2 * count


# ------------------------------------------------------------------ what must hold


def check(readings: list) -> None:
    """Raise AssertionError where a reading contradicts itself."""
    from drivers.base import KG_PER_UNIT  # noqa: PLC0415 - after the instrumentation
    from drivers.readings import BadFrame, Reading, Weight  # noqa: PLC0415

    for reading in readings:
        assert isinstance(reading, Reading), reading
        if isinstance(reading, BadFrame):
            assert len(reading.raw) <= 256, len(reading.raw)
            assert reading.detail, reading
        elif isinstance(reading, Weight):
            if reading.range != "ok":
                assert (reading.value, reading.mass_kg) == (None, None), reading
                continue
            assert reading.value is not None, reading
            assert _FIGURE.fullmatch(reading.value), reading
            if reading.mass_kg is None:
                assert reading.unit not in KG_PER_UNIT, reading
                continue
            assert math.isfinite(reading.mass_kg), reading
            exact = Decimal(reading.value) * KG_PER_UNIT[reading.unit]
            assert reading.mass_kg == float(exact), reading


def maker(capture: object) -> object:
    """Return what makes the capture's driver; a copy, because making one can read a file."""
    first = capture.make()
    return lambda: copy.deepcopy(first)


def stream_target(makers: list) -> object:
    """Return the fuzz target of a stream driver."""

    def one(data: bytes) -> None:
        if not data:
            return
        make = makers[data[0] % len(makers)]
        whole, parts = make(), make()
        for kind, piece in steps(data):
            if kind == "feed":
                readings = whole.feed(piece)
                single = [r for value in piece for r in parts.feed(bytes([value]))]
                assert readings == single, (readings, single)
            elif kind == "poll":
                assert whole.poll() == parts.poll()
                readings = []
            else:
                readings = getattr(whole, kind)()
                assert readings == getattr(parts, kind)()
            assert whole.buffered <= MAX_BUFFERED, whole.buffered
            check(readings)

    return one


def polled_target(makers: list) -> object:
    """Return the fuzz target of a driver of registers."""

    def one(data: bytes) -> None:
        if not data:
            return
        driver = makers[data[0] % len(makers)]()
        for block, registers in reads(data, driver):
            check(driver.decode(block, registers))
        check(driver.silence())

    return one


def modbus_target(data: bytes) -> None:
    """Let a reply to a Modbus request be anything, in any pieces."""
    from drivers import modbus  # noqa: PLC0415 - after the instrumentation
    from drivers.base import Block  # noqa: PLC0415
    from drivers.transport import LinkError  # noqa: PLC0415

    if len(data) < 2:
        return
    tables = ("coils", "discrete", "holding", "input")
    block = Block(table=tables[data[0] % 4], address=data[0], count=1 + data[1] % 125, period_s=1.0)
    asked = modbus._asked(1, block)
    request = modbus.FramerRTU(modbus.DecodePDU(is_server=False)).encode(asked.payload, 1, 0)
    said = []
    for cut in ([data[2:]], [bytes([b]) for b in data[2:]]):
        if data[1] & 1:
            reply = modbus._TcpReply("port", 1, asked, 7, b"")
        else:
            reply = modbus._RtuReply("port", 1, asked, request)
        said.append(_answer(reply, cut, asked, (LinkError, modbus._BrokenError)))
    # In one piece, what comes behind a whole reply is refused; byte by byte it comes too late.
    whole, single = said
    assert not isinstance(whole, bytes) or whole == single, said


def _answer(reply: object, pieces: list[bytes], asked: object, errors: tuple) -> object:
    from drivers.modbus import DecodePDU  # noqa: PLC0415 - after the instrumentation

    try:
        for piece in pieces:
            found = reply.feed(piece)
            if found is not None:
                assert DecodePDU(is_server=False).decode(found) is not None, found
                return found
    except errors as exc:
        return type(exc)
    missing = reply.missing(0.5)
    assert isinstance(missing, errors[0])
    return None


# ------------------------------------------------------------------ running


def targets() -> list[str]:
    """Return every target's name."""
    from drivers.base import names  # noqa: PLC0415 - the parent does not instrument

    return [*names(), MODBUS]


def fuzz(target: str, seconds: int, corpus: Path) -> None:
    """Fuzz one target in this process, which atheris ends."""
    import atheris  # noqa: PLC0415 - only where it is installed

    with atheris.instrument_imports(include=["drivers"]):
        from capture_files import captures  # noqa: PLC0415

        from drivers import modbus  # noqa: F401, PLC0415 - so that it is instrumented

        found = [c for c in captures() if c.driver == target]
        makers = [maker(capture) for capture in found]
    if target == MODBUS:
        one = modbus_target
        (corpus / "seed-rtu").write_bytes(bytes.fromhex("0200 010302000AB844".replace(" ", "")))
        (corpus / "seed-tcp").write_bytes(bytes.fromhex("02010007000000050103020001"))
    elif found[0].is_stream:
        one = stream_target(makers)
        for number, capture in enumerate(found):
            text = program(number, capture.steps())
            (corpus / f"seed-{number}").write_bytes(text[:MAX_INPUT])
    else:
        one = polled_target(makers)
        for number, capture in enumerate(found):
            words = [w for r in capture.reads() if "regs" in r for w in r["regs"]]
            text = bytes([number, 0]) + b"".join(w.to_bytes(2, "big") for w in words)
            (corpus / f"seed-{number}").write_bytes(text[:MAX_INPUT])
    options = [
        *(sys.argv[0], str(corpus), f"-max_total_time={seconds}", f"-max_len={MAX_INPUT}"),
        *("-timeout=5", "-rss_limit_mb=2048", "-print_final_stats=1", "-verbosity=0"),
        f"-artifact_prefix={corpus}/finding-",
    ]
    atheris.Setup(options, one)
    atheris.Fuzz()


def run_all(names: list[str], seconds: int) -> int:
    """Fuzz each target in a process of its own; return 1 where one failed."""
    failed = 0
    each = max(2, seconds // len(names))
    kept = Path(tempfile.mkdtemp(prefix="fuzz-findings-"))
    for name in names:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as corpus:
            command = [sys.executable, __file__, "--child", name, corpus, "--seconds", str(each)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            runs = re.search(r"number_of_executed_units: (\d+)", done.stderr)
            inputs = len(list(Path(corpus).iterdir()))
            findings = sorted(Path(corpus).glob("finding-*"))
            said = f"{runs[1] if runs else '?'} runs, {inputs} inputs kept"
            print(f"{name:24} {each} s  {said}  {len(findings)} findings", flush=True)
            for finding in findings:
                failed = 1
                (kept / f"{name}-{finding.name}").write_bytes(finding.read_bytes())
                print(f"  {kept / f'{name}-{finding.name}'}")
            if findings or (done.returncode and not runs):
                failed = 1
                lines = (done.stdout + done.stderr).splitlines()
                about = [n for n, line in enumerate(lines) if "Uncaught Python exception" in line]
                print("  " + "\n  ".join(lines[about[0] if about else -12 :][:24]))
    return failed


def show(target: str, path: Path) -> None:
    """Print a finding as the lines of a capture."""
    from capture_files import captures  # noqa: PLC0415 - the parent does not instrument

    data = path.read_bytes()
    found = [c for c in captures() if c.driver == target]
    if not found:
        print(data.hex(" "))
        return
    capture = found[data[0] % len(found)]
    print(f"# options of {capture.name}")
    driver = capture.make()
    if not capture.is_stream:
        for block, registers in reads(data, driver):
            print(f"{block.table} {block.address} {list(registers)}")
        return
    for kind, piece in steps(data):
        if kind == "feed":
            print(piece.hex(" ").upper())
        else:
            print(f"> {driver.poll().hex(' ').upper()}" if kind == "poll" else f"! {kind}")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=int, default=240, help="for all targets together")
    parser.add_argument("--only", action="append", help="only this target; repeatable")
    parser.add_argument("--show", nargs=2, metavar=("TARGET", "FILE"))
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        fuzz(arguments.child[0], arguments.seconds, Path(arguments.child[1]))
        return 0
    if arguments.show:
        show(arguments.show[0], Path(arguments.show[1]))
        return 0
    known = targets()
    unknown = [name for name in arguments.only or () if name not in known]
    if unknown:
        print(f"{unknown[0]}: there is no such target; known are {', '.join(known)}")
        return 2
    return run_all(arguments.only or known, arguments.seconds)


if __name__ == "__main__":
    sys.exit(main())
