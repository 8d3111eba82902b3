"""What a centre reckons with: one record, the stream it belongs to, and what a stream lacks."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

IDENTIFIER = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_EPOCH = re.compile(r"[0-9A-Za-z-]{1,64}")
_ID = re.compile(r"[!-~]{1,256}")


class Stream(NamedTuple):
    """What has sequence numbers of its own."""

    site: str
    gw: str
    stream: str
    epoch: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """One record as it came; ``body`` is the whole envelope."""

    id: str
    topic: str
    payload: bytes
    body: dict[str, Any]
    key: Stream
    seq: int

    @property
    def data(self) -> dict[str, Any]:
        """The record's own part of the envelope."""
        data: dict[str, Any] = self.body["data"]
        return data


@dataclass(slots=True)
class Progress:
    """How far one stream is known without a break, and what lies beyond."""

    upto: int = 0
    highest: int = 0
    held: set[int] = field(default_factory=set)  # beyond upto
    dropped: list[tuple[int, int]] = field(default_factory=list)

    def hold(self, seq: int) -> None:
        """Take one record as held."""
        if seq > self.upto:
            self.held.add(seq)
        self.highest = max(self.highest, seq)
        self.advance()

    def drop(self, start: int, to: int) -> None:
        """Take a range as explained."""
        self.dropped.append((start, to))
        self.highest = max(self.highest, to)
        self.advance()

    def advance(self) -> None:
        """Move the end of the unbroken prefix as far as it goes."""
        while True:
            following = self.upto + 1
            if following in self.held:
                self.held.remove(following)
                self.upto = following
                continue
            to = max((to for start, to in self.dropped if start <= following <= to), default=0)
            if to == 0:
                return
            self._jump(to)

    def reach(self, upto: int) -> None:
        """Take all up to a number as accounted for."""
        if upto > self.upto:
            self._jump(upto)
            self.advance()

    def _jump(self, upto: int) -> None:
        self.upto = upto
        self.highest = max(self.highest, upto)
        self.held = {seq for seq in self.held if seq > upto}

    def gaps(self) -> list[tuple[int, int]]:
        """Return the ranges (first, last) missing and unexplained."""
        known = [(seq, seq) for seq in self.held] + self.dropped
        found: list[tuple[int, int]] = []
        upto = self.upto
        for start, to in sorted(known):
            if start > upto + 1:
                found.append((upto + 1, start - 1))
            upto = max(upto, to)
        return found


def is_number(value: object) -> TypeGuard[int]:
    """Tell whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def parse(payload: bytes) -> dict[str, Any] | None:
    """Return the JSON object of a payload; None: it is not one."""
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def read_record(site: str, gw: str, topic: str, payload: bytes) -> Stored | None:
    """Return the record of a payload that came on a topic; None: it is not one."""
    body = parse(payload)
    if body is None:
        return None
    record_id, stream, epoch, seq = (body.get(name) for name in ("id", "stream", "epoch", "seq"))
    if not (isinstance(record_id, str) and _ID.fullmatch(record_id)):
        return None
    if not (isinstance(stream, str) and IDENTIFIER.fullmatch(stream)):
        return None
    if not (isinstance(epoch, str) and _EPOCH.fullmatch(epoch)):
        return None
    if not is_number(seq) or seq < 1 or not isinstance(body.get("data"), dict):
        return None
    return Stored(
        id=record_id,
        topic=topic,
        payload=payload,
        body=body,
        key=Stream(site, gw, stream, epoch),
        seq=seq,
    )
