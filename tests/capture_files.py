"""Captures: what a device said, where it is from, and what it means.

``tests/captures/<kind>.<driver>/<case>/`` holds

- ``wire.hex`` (stream drivers): one chunk a line in hex; ``#`` opens a comment; ``> hex`` is a
  poll and what the driver must send; ``! silence`` and ``! no_reply`` call these
- or ``registers.jsonl`` (polled drivers): ``{"table", "address", "regs"}`` a line, in the order
  of reading, and before them ``"written"``, what was written for them, each with "address" and
  "regs"; ``{"silence": true}`` loses the device
- ``expected.json``: the readings; fields that are left out are not compared
- ``provenance.toml``: kind, document, page, note, and ``integrity = true`` where every frame has
  an integrity field
- ``options.toml``, where they differ from the defaults
"""

from __future__ import annotations

import dataclasses
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path

import msgspec

from drivers.base import find
from drivers.readings import BadFrame

ROOT = Path(__file__).parent / "captures"


@dataclass(frozen=True)
class Capture:
    driver: str
    path: Path

    @property
    def name(self):
        return f"{self.driver}/{self.path.name}"

    @property
    def provenance(self):
        return tomllib.loads((self.path / "provenance.toml").read_text())

    @property
    def has_integrity(self):
        return self.provenance.get("integrity", False)

    @property
    def expected(self):
        return json.loads((self.path / "expected.json").read_text())

    @property
    def is_stream(self):
        return (self.path / "wire.hex").exists()

    def make(self):
        found = find(self.driver)
        path = self.path / "options.toml"
        options = tomllib.loads(path.read_text()) if path.exists() else {}
        return found.make(msgspec.convert(options, found.options))

    def steps(self):
        """Return (data, poll, silence or no_reply; bytes) in order."""
        found = []
        for line in (self.path / "wire.hex").read_text().splitlines():
            text = line.split("#")[0].strip()
            if text.startswith(">"):
                found.append(("poll", bytes.fromhex(text[1:])))
            elif text.startswith("!"):
                found.append((text[1:].strip(), b""))
            elif text:
                found.append(("data", bytes.fromhex(text)))
        return found

    def reads(self):
        lines = (self.path / "registers.jsonl").read_text().splitlines()
        return [json.loads(line) for line in lines if line.strip()]


def captures():
    return [
        Capture(folder.parent.name, folder)
        for folder in sorted(ROOT.glob("*/*"))
        if (folder / "provenance.toml").exists()
    ]


def play(driver, steps, *, cut=None, check_polls=True):
    """Play a stream capture; ``cut`` divides each data chunk into pieces."""
    readings = []
    for kind, data in steps:
        if kind == "data":
            for piece in cut(data) if cut else [data]:
                readings += driver.feed(piece)
        elif kind == "poll":
            sent = driver.poll()
            assert not check_polls or sent == data, f"sent {sent!r}, the capture expects {data!r}"
        else:
            readings += getattr(driver, kind)()
    return readings


def play_registers(driver, reads):
    readings = []
    for read in reads:
        if read.get("silence"):
            readings += driver.silence()
            continue
        registers = tuple(read["regs"])
        written = tuple((one["address"], tuple(one["regs"])) for one in read.get("written", ()))
        wanted = (read["table"], read["address"], len(registers), written)
        blocks = [b for b in driver.blocks() if (b.table, b.address, b.values, b.written) == wanted]
        assert blocks, f"the driver asks for {driver.blocks()}, the capture has {wanted}"
        readings += driver.decode(blocks[0], registers)
    return readings


def plain(reading):
    """Return a reading as expected.json writes it."""
    fields = dataclasses.asdict(reading)
    if isinstance(reading, BadFrame):
        fields["raw"] = reading.raw.hex()
    return {"type": type(reading).__name__, **json.loads(json.dumps(fields))}


def good(readings):
    """Return what is not a refusal."""
    return [r for r in readings if not isinstance(r, BadFrame)]
