"""XML read into plain elements, with what could harm or confuse a reader left outside.

Source: XML 1.0 and Namespaces in XML 1.0. A document type declaration is refused, so no entity can
be defined: nothing is ever fetched or expanded. Elements of other namespaces, and of prefixes that
nobody declared, are left out with all they hold.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.parsers import expat

from drivers.readings import Reason

MAX_DEPTH = 40
MAX_ELEMENTS = 200_000

_ENCODING = re.compile(rb"""^<\?xml[^>]{0,80}encoding=["']([A-Za-z0-9._-]{1,20})["']""")
_ONE_BYTE = frozenset({"iso-8859-1", "latin-1", "latin1", "windows-1252", "us-ascii", "ascii"})
_CUT = frozenset(
    {
        expat.errors.codes[expat.errors.XML_ERROR_NO_ELEMENTS],
        expat.errors.codes[expat.errors.XML_ERROR_UNCLOSED_TOKEN],
    }
)


class XmlError(ValueError):
    """A document cannot be read at all; ``reason`` says of what kind the trouble is."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


def decoded(data: bytes) -> str:
    """Return the text of a document: as declared, else UTF-8, else Latin-1."""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="replace")
    declared = _ENCODING.match(data.lstrip()[:120])
    if declared is None or declared[1].decode("ascii").lower() not in _ONE_BYTE:
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    return data.decode("latin-1")


def parse_tree(text: str, namespaces: tuple[str, ...]) -> Element:
    """Return the root element; ``namespaces`` are read, and elements of none at all.

    Raises
    ------
    XmlError
        If the text is not well formed, declares a document type, or is larger than any document
        of an instrument.
    """
    return _Tree(namespaces).parse(text)


class Element:
    """An element by its local name; ``text`` is what stands before and between its children."""

    __slots__ = ("attributes", "children", "name", "text")

    def __init__(self, name: str, attributes: dict[str, str]) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element] = []
        self.text = ""

    def all(self, name: str) -> Iterator[Element]:
        """Return the children of that name."""
        return (child for child in self.children if child.name == name)

    def first(self, *path: str) -> Element | None:
        """Return the first descendant along the path of names, or None."""
        found: Element | None = self
        for name in path:
            found = None if found is None else next(found.all(name), None)
        return found

    def said(self, *path: str) -> str:
        """Return the text of the first such descendant, empty where there is none."""
        found = self.first(*path)
        return "" if found is None else found.text.strip()


class _Tree:
    """Builds the elements; resolves namespaces itself, for the parser refuses unknown prefixes."""

    def __init__(self, namespaces: tuple[str, ...]) -> None:
        self._namespaces = namespaces
        self._root: Element | None = None
        self._open: list[Element] = []
        self._scopes: list[dict[str, str]] = [{}]
        self._left_out = 0  # how many elements deep we are in something foreign
        self._elements = 0
        self._texts: list[list[str]] = []

    def parse(self, text: str) -> Element:
        parser = expat.ParserCreate()
        parser.buffer_text = True
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters
        parser.StartDoctypeDeclHandler = self._doctype
        try:
            parser.Parse(text.strip(), True)  # noqa: FBT003 - expat takes no keyword
        except expat.ExpatError as exc:
            reason = Reason.TRUNCATED if exc.code in _CUT else Reason.SYNTAX
            raise XmlError(reason, f"not well-formed XML: {exc}") from exc
        except UnicodeEncodeError as exc:
            raise XmlError(Reason.SYNTAX, f"characters that no text may hold: {exc}") from exc
        if self._root is None:
            known = " or ".join(self._namespaces)
            raise XmlError(Reason.UNKNOWN, f"its root element is of another namespace than {known}")
        return self._root

    def _doctype(self, *_declared: object) -> None:
        raise XmlError(Reason.SYNTAX, "it declares a document type; none is ever read")

    def _start(self, tag: str, attributes: dict[str, str]) -> None:
        self._elements += 1
        if self._elements > MAX_ELEMENTS or len(self._scopes) > MAX_DEPTH:
            raise XmlError(Reason.FLOOD, "more elements, or deeper ones, than any such document")
        scope = self._scopes[-1]
        declared = {
            key.partition(":")[2]: uri
            for key, uri in attributes.items()
            if key == "xmlns" or key.startswith("xmlns:")
        }
        self._scopes.append(scope | declared if declared else scope)
        prefix, _, name = tag.rpartition(":")
        if self._left_out or not self._is_ours(prefix):
            self._left_out += 1
            return
        element = Element(name, attributes)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)
        self._texts.append([])

    def _is_ours(self, prefix: str) -> bool:
        uri = self._scopes[-1].get(prefix)
        return uri in self._namespaces or (not uri and not prefix)

    def _end(self, _tag: str) -> None:
        self._scopes.pop()
        if self._left_out:
            self._left_out -= 1
            return
        self._open.pop().text = "".join(self._texts.pop())

    def _characters(self, text: str) -> None:
        if self._texts and not self._left_out:
            self._texts[-1].append(text)
