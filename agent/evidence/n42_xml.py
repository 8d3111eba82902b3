"""XML as N42 writers of the field send it, read into a small tree.

Tolerated, because real instruments and programs write it: a prefix that is never declared, bytes
that are Latin-1 though UTF-8 was said or nothing, blanks or the STX and ETX of a stream around the
document. Refused: a document type (entities, and so anything external), and more than the bounds
below. Names come without their prefix. Sources: XML 1.0 5th edition; expat's own namespace
processing is what refuses an undeclared prefix, so it stays off.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from xml.etree import ElementTree as ET
from xml.parsers import expat

DOCUMENT_LIMIT_BYTES: Final = 16 << 20
ELEMENT_LIMIT: Final = 200_000
DEPTH_LIMIT: Final = 64
_AROUND: Final = b"\x00\x02\x03 \t\r\n"


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a document cannot be read: one sentence with what was seen."""

    text: str


class _Refused(Exception):  # noqa: N818 - it ends a parse and never leaves this module
    """The document breaks a bound; raised within expat's callbacks."""


def parse_document(data: bytes) -> ET.Element | Problem:
    """Return the root of one document, tags and attributes without prefixes, or why not."""
    data = data.strip(_AROUND)
    if len(data) > DOCUMENT_LIMIT_BYTES:
        return Problem(f"{len(data)} bytes, the limit is {DOCUMENT_LIMIT_BYTES}")
    try:
        return _parse(data, None)
    except _Refused as exc:
        return Problem(str(exc))
    except expat.ExpatError as exc:
        if _is_utf8(data):
            return Problem(f"no XML: {exc}")
    try:
        return _parse(data, "iso-8859-1")
    except (_Refused, expat.ExpatError) as exc:
        return Problem(f"no XML: {exc}")


def _parse(data: bytes, encoding: str | None) -> ET.Element:
    tree = _Tree()
    parser = expat.ParserCreate(encoding)
    parser.buffer_text = True
    parser.StartElementHandler = tree.start
    parser.EndElementHandler = tree.end
    parser.CharacterDataHandler = tree.builder.data
    parser.StartDoctypeDeclHandler = tree.refuse_doctype
    try:
        parser.Parse(data, True)  # noqa: FBT003 - expat takes it by place only
    except (LookupError, ValueError) as exc:  # an encoding that Python does not know
        raise _Refused(f"its encoding cannot be read ({exc})") from exc
    return tree.builder.close()


class _Tree:
    """Builds elements and counts them."""

    def __init__(self) -> None:
        self.builder = ET.TreeBuilder()
        self._depth = 0
        self._elements = 0

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self._elements += 1
        if self._depth > DEPTH_LIMIT or self._elements > ELEMENT_LIMIT:
            raise _Refused(
                f"more than {DEPTH_LIMIT} levels or {ELEMENT_LIMIT} elements; this is no event"
            )
        self.builder.start(_local(name), {_local(key): text for key, text in attributes.items()})

    def end(self, name: str) -> None:
        self._depth -= 1
        self.builder.end(_local(name))

    def refuse_doctype(self, *_: object) -> None:
        raise _Refused("it has a document type, which no N42 file needs")


def _local(name: str) -> str:
    return name.rpartition(":")[2]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
