"""One device's bytes for others: a portal takes one reader, and the agent is it.

Whoever connects gets what the device sends, byte for byte and in its order, from the moment of
the connection on. That moment is as likely as not in the middle of a line, as with the portal
itself: a reader begins after the first line end. Nothing is ever sent to the device; what a
client writes is read and thrown away.

While the device is lost its clients stay connected and get nothing. That is what they would see
of a portal whose cable is cut, they judge it by their own time-out, and they have no reconnecting
to do. When it is back its bytes go on, so that the line in which it was lost may run into a later
one; nothing is put between them, for then it would no longer be the device that speaks.

The lane comes first: taking bytes appends them to a bounded buffer per client, and who does not
keep up is let go. Linux only: a client inherits the listening socket's options (tcp(7)).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from collections.abc import Callable
from ipaddress import ip_address
from typing import NoReturn

from agent.clock import Backoff, Clock
from agent.config.relays import RelayConfig
from agent.delivery.snapshots import RelayState
from drivers.transport import KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES

MOST_CLIENTS = 8
MOST_UNSENT_BYTES = 65536
"""A client for which more than this waits is let go; about six minutes of an occupied portal."""
KERNEL_BUFFER_BYTES = 16384
"""Asked of the kernel in each direction, which else would hold megabytes for who does not read."""
VANISHED_S = KEEPALIVE_IDLE_S + KEEPALIVE_INTERVAL_S * KEEPALIVE_PROBES
"""What is sent and not taken for so long ends a client too; keepalive alone does not see that."""
RETRY_FIRST_S, RETRY_CAP_S = 1.0, 30.0
ACCEPT_PAUSE_S = 0.05
"""Between two connections, and after what a client wrote [wall seconds]: neither may hold up the
loop, and each is one line of the log at most."""
MOST_TOLD = 32
"""So many refused addresses are named in the log; all are counted."""

_PIECE_BYTES = 4096
_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    (socket.SOL_SOCKET, socket.SO_RCVBUF, KERNEL_BUFFER_BYTES),
    (socket.SOL_SOCKET, socket.SO_SNDBUF, KERNEL_BUFFER_BYTES),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, KEEPALIVE_PROBES),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, VANISHED_S * 1000),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
)

log = logging.getLogger(__name__)


class Relay:
    """Serves one device's bytes to the clients that the configuration lets in.

    Parameters
    ----------
    config : where it listens, and who may connect.
    label : how sentences name the device, e.g. "rpm inbound-1".
    on_trouble : told one sentence when it cannot listen, and None when it can again.
    """

    def __init__(
        self,
        config: RelayConfig,
        *,
        clock: Clock,
        label: str,
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self.config = config
        self.port = 0
        """The port it listens on; 0: it does not."""
        self._clock = clock
        self._label = label
        self._on_trouble = on_trouble
        self._clients: set[_Client] = set()
        self._trouble: str | None = None
        self._dropped = 0
        self._refused = 0
        self._told: set[str] = set()

    def feed(self, data: bytes) -> None:
        """Take what the device sent; sends nothing itself and never waits."""
        for client in self._clients:
            client.put(data)

    def status(self) -> RelayState:
        """Return its state and counters."""
        return RelayState(
            listening=self.port != 0,
            clients=len(self._clients),
            dropped=self._dropped,
            refused=self._refused,
        )

    async def run(self) -> NoReturn:
        """Listen and serve until cancelled; where it cannot listen it tries again."""
        async with asyncio.TaskGroup() as clients:
            backoff = Backoff(first_s=RETRY_FIRST_S, cap_s=RETRY_CAP_S)
            while True:
                try:
                    await self._accept(clients)
                except OSError as exc:
                    self._cannot(exc)
                await self._clock.sleep(backoff.next_s())

    async def _accept(self, clients: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        with _listening(self.config) as listener:
            self.port = listener.getsockname()[1]
            try:
                self._can()
                while True:
                    try:
                        opened, peer = await loop.sock_accept(listener)
                    except ConnectionAbortedError:  # gone before it was taken
                        continue
                    self._admit(opened, str(peer[0]), clients)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
            finally:
                self.port = 0

    def _admit(self, opened: socket.socket, peer: str, clients: asyncio.TaskGroup) -> None:
        trouble = ""
        if not any(ip_address(peer) in network for network in self.config.clients):
            trouble = "not in relay_clients"
        elif len(self._clients) >= MOST_CLIENTS:
            trouble = f"there are {MOST_CLIENTS} clients already"
        if trouble:
            opened.close()
            self._refuse(peer, trouble)
            return
        client = _Client(opened, peer)
        client.task = clients.create_task(self._serve(client))
        # Not in the task itself: one that is cancelled before it began does nothing at all.
        client.task.add_done_callback(lambda _: self._let_go(client))
        self._clients.add(client)
        self._say(logging.INFO, "client", peer)

    async def _serve(self, client: _Client) -> None:
        try:
            async with asyncio.TaskGroup() as both:
                sending = both.create_task(client.send())
                is_told = False
                while await client.discard():
                    if not is_told:
                        is_told = True
                        self._say(logging.WARNING, "client_writes_ignored", client.peer)
                    # What always has more to read would never give the loop back.
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                client.left = "closed by the client"
                sending.cancel()
        except* (ConnectionResetError, BrokenPipeError):
            client.left = "closed by the client"
        except* OSError as lost:
            client.lost = f"vanished: {_seen(lost.exceptions[0])}"

    def _let_go(self, client: _Client) -> None:
        self._clients.discard(client)
        client.opened.close()
        if client.lost:
            self._dropped += 1
            self._say(logging.WARNING, "client_dropped", client.peer, client.lost)
        else:
            self._say(logging.INFO, "client_left", client.peer, client.left)

    def _refuse(self, peer: str, trouble: str) -> None:
        self._refused += 1
        if peer not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(peer)
            self._say(logging.WARNING, "client_refused", peer, trouble)

    def _say(self, level: int, what: str, peer: str, why: str = "") -> None:
        log.log(
            level,
            "relay=%s device=%r client=%s clients=%d%s",
            what,
            self._label,
            peer,
            len(self._clients),
            f" detail={why!r}" if why else "",
        )

    def _can(self) -> None:
        log.info("relay=listening device=%r address=%s", self._label, self.config)
        self._trouble = None
        self._on_trouble(None)

    def _cannot(self, exc: OSError) -> None:
        text = f"{self._label}: {_sentence(self.config, exc)}; the lane itself goes on"
        if text != self._trouble:
            log.warning("relay=not_listening device=%r detail=%r", self._label, text)
        self._trouble = text
        self._on_trouble(text)


class _Client:
    """One reader, and what waits for it."""

    def __init__(self, opened: socket.socket, peer: str) -> None:
        self.opened = opened
        self.peer = peer
        self.task: asyncio.Task[None] | None = None
        self.left = "the relay ended"
        self.lost = ""
        """Why it was let go; empty: it was not."""
        self._waiting = bytearray()
        self._news = asyncio.Event()

    def put(self, data: bytes) -> None:
        """Append to what waits; a client for which it is too much gets no further byte."""
        if self.lost:
            return
        if len(self._waiting) + len(data) <= MOST_UNSENT_BYTES:
            self._waiting += data
            self._news.set()
            return
        self.lost = f"reads too slowly: more than {MOST_UNSENT_BYTES} bytes wait for it"
        self._waiting.clear()
        assert self.task is not None
        self.task.cancel()

    async def send(self) -> NoReturn:
        """Send what waits, forever; raises OSError."""
        loop = asyncio.get_running_loop()
        while True:
            await self._news.wait()
            self._news.clear()
            while piece := bytes(self._waiting[:_PIECE_BYTES]):
                await loop.sock_sendall(self.opened, piece)
                # Taken out only now, so that a piece on its way counts against the bound.
                del self._waiting[: len(piece)]

    async def discard(self) -> bool:
        """Wait for something it wrote and throw it away; false: it closed. Raises OSError."""
        loop = asyncio.get_running_loop()
        return bool(await loop.sock_recv(self.opened, _PIECE_BYTES))


def _listening(config: RelayConfig) -> socket.socket:
    family = socket.AF_INET6 if config.address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.settimeout(0)
        for level, option, value in _OPTIONS:
            listener.setsockopt(level, option, value)
        listener.bind((str(config.address), config.port))
        listener.listen(MOST_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener


def _sentence(config: RelayConfig, exc: OSError) -> str:
    if exc.errno == errno.EADDRINUSE:
        return (
            f"cannot relay on {config}, which another program uses; stop that one or choose "
            "another port in relay_listen"
        )
    if exc.errno == errno.EADDRNOTAVAIL:
        return (
            f"cannot relay on {config}, which is no address of this machine now; check the network "
            "cable and relay_listen"
        )
    if exc.errno in (errno.EACCES, errno.EPERM):
        return (
            f"cannot relay on {config}, which is not permitted; choose a port from 1024 on in "
            "relay_listen"
        )
    return f"cannot relay on {config}: {_seen(exc)}; check the network and relay_listen"


def _seen(exc: BaseException) -> str:
    number = getattr(exc, "errno", None)
    return os.strerror(number).lower() if number else str(exc) or type(exc).__name__
