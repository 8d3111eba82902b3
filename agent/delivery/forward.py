"""Carries the journal to the broker: what goes when, what was answered, when to connect anew.

All of it runs on the event loop; ``agent.delivery.uplink`` hands over what paho's thread heard.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal

from agent.clock import Backoff, Clock
from agent.delivery import wire
from agent.delivery.outbox import FETCH_ROWS, Fetch, Item, Outbox, ReceiptWatch
from agent.delivery.snapshots import Status, Stream
from agent.delivery.store.journal import JournalError, JournalStats, Stored
from agent.delivery.store.thread import Journal
from agent.delivery.uplink import Acknowledged, Connection, Heard, Message, UplinkError
from agent.delivery.wire import Identity
from agent.settings import MqttOptions

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S: Final = 10.0
STABLE_S: Final = 30.0
"""A connection that held for so long lets the next attempt come soon."""
LOST_SOON: Final = 3
"""After so many connections in a row that did not hold, the error says what may be the cause."""
LIVE_IN_FLIGHT: Final = 100
REFUSALS: Final = 5
"""A record refused for a passing reason so often is parked."""
RETRY_S: Final = 5.0
CHUNK_RETRY_S: Final = 1.0
"""After so long a chunk that the journal could not give is asked for again."""
_PACKET_OVERHEAD_BYTES: Final = 64
_NO_SUBSCRIBERS: Final = 0x10
# MQTT 5.0, 3.4.2.1: not authorised, topic name invalid, payload format invalid: no use in trying
_FINAL_REFUSALS: Final = (0x87, 0x90, 0x99)


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkStats:
    """The uplink in figures; ``oldest_unacknowledged_s`` None: nothing is in flight."""

    is_connected: bool
    conn: int
    last_error: str | None
    in_flight: int
    oldest_unacknowledged_s: float | None
    published: int
    acknowledged: int
    no_subscribers: int
    refused: dict[str, int]
    parked: int
    receipts: int
    receipts_refused: int
    live_skipped: int
    rebuilt: int
    is_caught_up: bool


@dataclass(frozen=True, slots=True)
class _Flight:
    item: Item
    since_s: float


class Uplink:
    """Carries the journal to the broker and the centre's receipts back.

    Promises: a record leaves the store only by a receipt (or, where ``delivery`` is "puback", by
    the broker's acknowledgement); it is never given to paho while it is in flight; a live alarm
    goes before all backlog; a record the broker will not take is parked and the rest flows on;
    nothing the broker or the network does raises out of ``run``. The chunks of a record's blobs are
    acknowledged, one after the other, before the record goes.

    After a connection is made what was never acknowledged goes first, and then, at the lowest rank,
    what the broker had acknowledged and the centre has not receipted: a broker's acknowledgement is
    no proof that anybody has it. The oldest of these go again from time to time, too.

    Parameters
    ----------
    about : returns the bytes of the gateway's description, asked at each connection
    backoff : delays between attempts; None: 1 to 60 s
    """

    def __init__(  # noqa: PLR0913 - its partners, each named once at the top
        self,
        options: MqttOptions,
        identity: Identity,
        journal: Journal,
        clock: Clock,
        *,
        about: Callable[[], bytes],
        software: str,
        backoff: Backoff | None = None,
    ) -> None:
        self.progress = 0
        """Counts turns of the uplink's own loop, for the watchdog."""
        self._options = options
        self._identity = identity
        self._journal = journal
        self._clock = clock
        self._about = about
        self._software = software
        self._backoff = backoff or Backoff(first_s=1.0, cap_s=60.0)
        self._outbox = Outbox(options.backlog_per_s)
        self._connection: Connection | None = None
        self._is_ready = False
        self._is_stopping = False
        self._stop = asyncio.Event()
        self._answered = asyncio.Event()
        self._in_flight: dict[int, _Flight] = {}
        self._carrying: Item | None = None
        """The chunk that is being read, sent or refused; a second one waits for it."""
        self._live_mids: set[int] = set()
        self._refusals: Counter[tuple[Stream, int]] = Counter()
        self._fetching: asyncio.Task[None] | None = None
        self._fetching_chunk: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watches: dict[Stream, ReceiptWatch] = {}
        self._lost_soon = 0
        self._session = ""
        self._conn = 0
        self._last_error: str | None = None
        self._count: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()

    # ------------------------------------------------------------ for the rest of the agent

    @property
    def is_connected(self) -> bool:
        """Return whether the broker has accepted us."""
        return self._is_ready

    def notify_appended(self, stored: Stored) -> None:
        """Take a record that was just committed: the journal's ``on_stored`` should lead here.

        Without it a record still goes, once the next connection is made.
        """
        self._outbox.stored(stored)
        self._pump()

    def set_retained(self, topic: str, payload: bytes) -> None:
        """Publish a snapshot now and after each connection, the newest of each topic only."""
        self._outbox.set_retained(topic, payload)
        self._pump()

    def live(self, topic: str, payload: bytes) -> None:
        """Publish a figure for displays if it can go at once; otherwise it is gone, and counted."""
        if not self._is_ready or self._connection is None or len(self._live_mids) >= LIVE_IN_FLIGHT:
            self._count["live_skipped"] += 1
            return
        mid = self._connection.publish_live(topic, payload)
        if mid is not None:
            self._live_mids.add(mid)

    def stats(self) -> UplinkStats:
        """Return the uplink in figures."""
        count = self._count
        return UplinkStats(
            is_connected=self._is_ready,
            conn=self._conn,
            last_error=self._last_error,
            in_flight=len(self._in_flight),
            oldest_unacknowledged_s=self._oldest_s(),
            published=count["published"],
            acknowledged=count["acknowledged"],
            no_subscribers=count["no_subscribers"],
            refused=dict(self._refused),
            parked=count["parked"],
            receipts=count["receipts"],
            receipts_refused=count["receipts_refused"],
            live_skipped=count["live_skipped"],
            rebuilt=count["rebuilt"],
            is_caught_up=self._outbox.is_caught_up and not self._in_flight,
        )

    async def run(self) -> None:
        """Connect, deliver and connect again until ``stop``; no failure of the world raises."""
        try:
            while not self._stop.is_set():
                await self._attempt()
        finally:
            self._drop_connection()

    async def stop(self, drain_s: float = 2.0) -> None:
        """Send what is fresh for ``drain_s`` at most, say "stopping", disconnect, end ``run``."""
        await self._wait_answered(drain_s, self._is_drained)
        self._is_stopping = True
        await self._say_stopping()
        self._stop.set()

    async def _wait_answered(self, limit_s: float, is_done: Callable[[], bool]) -> None:
        """Wait while the broker answers, until all is done or the time or connection is over."""
        until_s = _now_s() + limit_s
        while self._is_ready and not is_done() and (left_s := until_s - _now_s()) > 0:
            self._answered.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._answered.wait(), left_s)

    # ------------------------------------------------------------ one connection

    async def _attempt(self) -> None:
        began_s = _now_s()
        self.progress += 1
        try:
            await self._hold_connection()
        except UplinkError as exc:
            self._note_failure(str(exc))
        finally:
            self._drop_connection()
        if _now_s() - began_s > STABLE_S:
            self._backoff.reset()
        if not self._stop.is_set():
            await self._pause(self._backoff.next_s())

    async def _pause(self, delay_s: float) -> None:
        """Wait, a second at a time so that the watchdog sees us, or until ``stop``."""
        until_s = _now_s() + delay_s
        while (left_s := until_s - _now_s()) > 0 and not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), min(1.0, left_s))
            self.progress += 1

    async def _hold_connection(self) -> None:
        await self._count_connection()
        self._session = self._clock.token(8)
        _, will = self._status("offline")
        connection = Connection(self._options, self._identity, will, self._heard)
        self._connection = connection
        connection.start()
        await self._until(connection.accepted, connection)
        await self._begin(connection)
        began_s = _now_s()
        while not self._stop.is_set():
            self.progress += 1
            await asyncio.wait({connection.ended}, timeout=1.0)
            if connection.ended.done():
                raise UplinkError(connection.ended.result() + self._hint(_now_s() - began_s))
            self._watch_age()
            self._repeat_at_times()
            self._pump()

    def _hint(self, held_s: float) -> str:
        """Name the likely cause of connections that are accepted and soon lost."""
        self._lost_soon = self._lost_soon + 1 if held_s < STABLE_S else 0
        if self._lost_soon < LOST_SOON:
            return ""
        return (
            f"; lost {self._lost_soon} times soon after connecting: perhaps another gateway runs "
            "under this site and gw"
        )

    async def _until(self, accepted: asyncio.Future[str], connection: Connection) -> None:
        until_s = _now_s() + CONNECT_TIMEOUT_S
        while not accepted.done() and not self._stop.is_set():
            self.progress += 1
            left_s = until_s - _now_s()
            if left_s <= 0:
                raise UplinkError(f"{connection.name}: no answer to CONNECT in 10 s")
            await asyncio.wait(
                {accepted, connection.ended},
                timeout=min(0.5, left_s),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if connection.ended.done():
                raise UplinkError(connection.ended.result())

    async def _count_connection(self) -> None:
        try:
            self._conn = await self._journal.increment("conn")
        except JournalError as exc:
            self._conn += 1
            log.warning("uplink conn=%d kept in memory only: %s", self._conn, exc)

    async def _begin(self, connection: Connection) -> None:
        """Greet the broker; what is unsent is looked for anew."""
        if self._stop.is_set():
            return
        sent: dict[Stream, int] = {}
        try:
            await self._journal.flush()  # marks of the last connection
            sent = self._repeat_bounds(await self._journal.stats())
        except JournalError as exc:
            log.warning("uplink journal unreadable: %s", exc)
        topic, online = self._status("online")
        about = Item(topic=self._identity.about_topic, payload=self._about())
        self._in_flight.clear()
        self._live_mids.clear()
        self._carrying = None
        self._outbox.begin([Item(topic=topic, payload=online), about], sent)
        self._is_ready = True
        self._last_error = None
        log.info("uplink up broker=%s conn=%d", connection.name, self._conn)
        self._pump()
        connection.subscribe(self._identity.receipt_filter)

    def _repeat_bounds(self, stats: JournalStats) -> dict[Stream, int]:
        if self._options.delivery == "puback":
            return {}
        sent = {stream: stats.streams[stream].sent for stream in wire.STREAMS}
        self._watches = {
            stream: ReceiptWatch(sent[stream], stats.streams[stream].receipted, _now_s())
            for stream in wire.STREAMS
        }
        return sent

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self._is_ready = False
        self._in_flight.clear()
        self._live_mids.clear()
        self._answered.set()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if connection is not None:
            connection.close()

    def _note_failure(self, text: str) -> None:
        if self._is_stopping:
            return
        if text != self._last_error:
            log.warning("uplink down %s", text)
        self._last_error = text

    def _status(self, state: Literal["online", "offline", "stopping"]) -> tuple[str, bytes]:
        at = None if state == "offline" else self._clock.stamp()
        value = Status(state=state, session=self._session, conn=self._conn, at=at)
        return wire.status(self._identity, value, self._software)

    async def _say_stopping(self) -> None:
        connection = self._connection
        if connection is None or not self._is_ready:
            return
        topic, payload = self._status("stopping")
        self._publish(Item(topic=topic, payload=payload))
        await self._wait_answered(1.0, lambda: not self._in_flight)
        self._is_ready = False
        connection.disconnect()
        await asyncio.wait({connection.ended}, timeout=1.0)

    def _is_drained(self) -> bool:
        return self._outbox.is_live_empty and not self._in_flight

    # ------------------------------------------------------------ sending

    def _pump(self) -> None:
        """Fill the window.

        A timer is set only where the outbox names a later moment at which it has more: whatever
        else holds it up (the window, a chunk on its way, a reading) calls here when it is over.
        """
        if not self._is_ready or self._connection is None or self._is_stopping:
            return
        window = self._connection.window(self._options.window)
        now_s = _now_s()
        while len(self._in_flight) < window:
            found = self._outbox.next(now_s, may_carry=self._carrying is None)
            if not isinstance(found, Item):
                self._arm_timer(found)
                break
            if found.chunk is not None:
                self._carry(found)
            else:
                self._publish(found)
        self._fetch()

    def _publish(self, item: Item) -> None:
        assert self._connection is not None
        size = len(item.payload) + len(item.topic.encode()) + _PACKET_OVERHEAD_BYTES
        limit = min(self._options.max_payload_bytes, self._connection.packet_limit)
        if size > limit:
            self._give_up(item, f"{len(item.payload)} bytes, the limit is {limit}")
            return
        mid = self._connection.publish(
            item.topic,
            item.payload,
            is_retained=item.stored is None,
            is_opaque=item.chunk is not None,
        )
        if mid is None:
            self._give_up(item, "its topic or payload is no MQTT message")
            return
        self._in_flight[mid] = _Flight(item, _now_s())
        self._count["published"] += 1

    def _give_up(self, item: Item, reason: str) -> None:
        stored = item.stored
        if stored is None:
            self._outbox.forget_retained(item.topic)
            log.error("uplink snapshot not sent topic=%s reason=%s", item.topic, reason)
            return
        self._count["parked"] += 1
        log.error("uplink parked %s/%s/%d: %s", stored.stream, stored.epoch, stored.seq, reason)
        self._journal.park(stored.stream, stored.epoch, stored.seq, reason)
        if item.chunk is not None:
            self._outbox.abandon(stored)
            self._carrying = None

    def _carry(self, item: Item) -> None:
        """Send a chunk once it has been read from disk; no second one meanwhile."""
        self._carrying = item
        reading = self._read_chunk(item, self._connection)
        self._fetching_chunk = asyncio.get_running_loop().create_task(reading)

    async def _read_chunk(self, item: Item, connection: Connection | None) -> None:
        chunk = item.chunk
        assert chunk is not None
        while True:
            try:
                content = await self._journal.blob_chunk(chunk.sha256, chunk.number)
                break
            except JournalError as exc:
                log.warning("uplink journal unreadable: %s", exc)
                await asyncio.sleep(CHUNK_RETRY_S)
        if self._carrying is not item or self._connection is not connection:
            return
        if content is None:  # dropped meanwhile, and its tombstone says so
            self._carrying = None
        else:
            topic = wire.blob_topic(self._identity, chunk.sha256, chunk.number)
            self._publish(replace(item, topic=topic, payload=content))
        self._pump()

    def _fetch(self) -> None:
        wanted = self._outbox.wants()
        if wanted is None or not (self._fetching is None or self._fetching.done()):
            return
        reading = self._read(wanted, self._connection)
        self._fetching = asyncio.get_running_loop().create_task(reading)

    async def _read(self, wanted: Fetch, connection: Connection | None) -> None:
        query = self._journal.unreceipted if wanted.is_repeat else self._journal.unsent
        try:
            rows = await query(wanted.stream, wanted.after_seq, FETCH_ROWS)
        except JournalError as exc:
            log.warning("uplink journal unreadable: %s", exc)
            return  # asked again within a second
        if self._connection is connection:
            self._outbox.fetched(wanted, rows)
        self._fetching = None
        self._pump()

    def _arm_timer(self, at_s: float | None) -> None:
        if at_s is not None and self._timer is None:
            self._timer = asyncio.get_running_loop().call_at(at_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._pump()

    def _oldest_s(self) -> float | None:
        oldest_s = min((flight.since_s for flight in self._in_flight.values()), default=None)
        return None if oldest_s is None else _now_s() - oldest_s

    def _watch_age(self) -> None:
        oldest_s = self._oldest_s()
        if oldest_s is not None and oldest_s > self._options.stuck_s:
            self._count["rebuilt"] += 1
            raise UplinkError(
                f"broker {self._options.host}:{self._options.port}: connected, and a publish is "
                f"unanswered for {oldest_s:.0f} s; connecting anew"
            )

    def _repeat_at_times(self) -> None:
        """Send again what the centre should have receipted: soon where it speaks, else seldom."""
        if self._options.delivery == "puback":
            return
        now_s = _now_s()
        for stream, watch in self._watches.items():
            upto = watch.due(now_s)
            if upto is not None:
                log.info(
                    "uplink repeats stream=%s from=%d to=%d", stream, watch.receipted + 1, upto
                )
                self._outbox.repeat({stream: upto})

    # ------------------------------------------------------------ what paho's thread handed over

    def _heard(self, connection: Connection, event: Heard) -> None:
        if connection is not self._connection:
            return
        match event:
            case Acknowledged():
                self._on_acknowledged(event)
            case Message():
                self._on_message(event)

    def _on_acknowledged(self, event: Acknowledged) -> None:
        self._answered.set()
        self._live_mids.discard(event.mid)
        flight = self._in_flight.pop(event.mid, None)
        if flight is None:
            if event.code >= 0x80:  # a subscription
                self._refused[event.name] += 1
                log.error("uplink refused %s; no receipt can arrive, correct the ACL", event.name)
            return
        self._count["acknowledged"] += 1
        if event.code == _NO_SUBSCRIBERS:
            self._count["no_subscribers"] += 1
        chunk = flight.item.chunk
        if event.code >= 0x80:
            self._on_refused(flight.item, event)
        elif chunk is not None:
            self._carrying = None
            if chunk.is_last:
                self._outbox.carried(chunk.sha256)
        elif flight.item.stored is not None and not flight.item.is_repeat:
            stored = flight.item.stored
            if self._refusals:
                self._refusals.pop((stored.stream, stored.seq), None)
            done = (
                self._journal.release
                if self._options.delivery == "puback"
                else self._journal.mark_sent
            )
            done(stored.stream, stored.epoch, (stored.seq,))
            if stored.stream in self._watches:
                self._watches[stored.stream].acknowledged(stored.seq, _now_s())
        self._pump()

    def _on_refused(self, item: Item, event: Acknowledged) -> None:
        self._refused[event.name] += 1
        stored = item.stored
        reason = f"the broker refused it: {event.name} (0x{event.code:02X})"
        loop = asyncio.get_running_loop()
        if stored is None:
            log.warning("uplink snapshot refused topic=%s reason=%s", item.topic, event.name)
            if event.code not in _FINAL_REFUSALS:
                loop.call_later(RETRY_S, self._renew, item.topic)
            return
        key = (stored.stream, stored.seq)
        self._refusals[key] += 1
        if event.code in _FINAL_REFUSALS or self._refusals[key] >= REFUSALS:
            del self._refusals[key]
            self._give_up(item, reason)
            return
        loop.call_later(RETRY_S, self._retry, item, self._connection)

    def _retry(self, item: Item, connection: Connection | None) -> None:
        if connection is self._connection and self._is_ready:
            self._publish(item)

    def _renew(self, topic: str) -> None:
        self._outbox.renew_retained(topic)
        self._pump()

    def _on_message(self, event: Message) -> None:
        receipt = wire.parse_receipt(event.topic, event.payload, self._identity)
        if receipt is None:
            self._count["receipts_refused"] += 1
            log.warning("uplink receipt refused topic=%s bytes=%d", event.topic, len(event.payload))
            return
        self._count["receipts"] += 1
        for stream, watch in self._watches.items():
            ours = stream == receipt.stream and receipt.epoch == self._journal.epoch
            watch.heard(receipt.upto if ours else 0, _now_s())
        if self._options.delivery == "receipt":
            self._journal.receipt(receipt.stream, receipt.epoch, receipt.upto)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
