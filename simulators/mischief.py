"""Faults between any simulator and the wire: what cables, adapters and networks really do.

`Faults` says what goes wrong and may be changed while bytes flow; `Mangler` does it to one
direction of one stream, from a seed; `TcpProxy` and `SerialProxy` stand between an instrument and
its reader, can unplug and replug it, flood it, and leave it half open.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tty
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from simulators.ports import PtyPort, Send

_FLOOD_PERIOD_S = 0.02
_READ_MAX = 4096


@dataclass(slots=True, kw_only=True)
class Faults:
    """What goes wrong in one direction; the defaults are a perfect wire.

    Rates are chances: of each byte, or (garbage) of each piece that is delivered.
    """

    split_to: int | None = None  # pieces of 1 to so many bytes
    merge_to: int | None = None  # nothing is delivered until so many bytes are there
    drop_rate: float = 0.0  # the byte is lost
    double_rate: float = 0.0  # the byte comes twice
    flip_rate: float = 0.0  # one of its bits is inverted
    garbage_rate: float = 0.0  # 1 to garbage_max random bytes come before the piece
    garbage_max: int = 16
    hang: bool = False  # the connection stays, nothing comes through
    # These two only where a proxy stands on the wire:
    echo: bool = False  # the sender hears its own bytes, as on a two-wire RS-485 adapter
    flood_bytes_per_s: float = 0.0  # random bytes, whether or not the other end speaks


class Mangler:
    """Does the faults to one stream of bytes; one seed and one input give one output."""

    def __init__(self, faults: Faults, *, seed: int) -> None:
        self.faults = faults
        self._rng = np.random.default_rng(seed)
        self._held = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Return the pieces to deliver now, in order, each in a write of its own."""
        faults = self.faults
        if faults.hang:
            return []
        self._held += self._hurt(data)
        if faults.merge_to is not None and len(self._held) < faults.merge_to:
            return []
        whole, self._held = self._held, b""
        return [self._soil(piece) for piece in self._cut(whole)]

    def flush(self) -> list[bytes]:
        """Return what merging still holds back."""
        whole, self._held = self._held, b""
        return [whole] if whole else []

    def random_bytes(self, size: int) -> bytes:
        """Return bytes for a flood."""
        return self._rng.bytes(size)

    def _hurt(self, data: bytes) -> bytes:
        faults, rng = self.faults, self._rng
        if not (faults.drop_rate or faults.double_rate or faults.flip_rate):
            return data
        hurt = bytearray()
        chances = rng.random((len(data), 3))
        for value, (drop, double, flip) in zip(data, chances.tolist(), strict=True):
            if drop < faults.drop_rate:
                continue
            shown = value ^ (1 << int(rng.integers(8))) if flip < faults.flip_rate else value
            hurt.append(shown)
            if double < faults.double_rate:
                hurt.append(shown)
        return bytes(hurt)

    def _cut(self, data: bytes) -> list[bytes]:
        most = self.faults.split_to
        if most is None or not data:
            return [data] if data else []
        pieces = []
        start = 0
        while start < len(data):
            size = int(self._rng.integers(1, most + 1))
            pieces.append(data[start : start + size])
            start += size
        return pieces

    def _soil(self, piece: bytes) -> bytes:
        faults = self.faults
        if faults.garbage_rate and self._rng.random() < faults.garbage_rate:
            return self._rng.bytes(int(self._rng.integers(1, faults.garbage_max + 1))) + piece
        return piece


def mangle(chunks: Iterable[bytes], faults: Faults, *, seed: int) -> list[bytes]:
    """Return what arrives of the chunks sent, piece by piece; what merging held comes last."""
    mangler = Mangler(faults, seed=seed)
    pieces = [piece for chunk in chunks for piece in mangler.feed(chunk)]
    return pieces + mangler.flush()


class TcpProxy:
    """Stands between a TCP instrument and its reader, who connects to the proxy's own port.

    Parameters
    ----------
    host, port : the instrument
    to_client, to_device : the faults of each direction, to be changed at any time
    seed : of both; each connection draws its own
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        to_client: Faults | None = None,
        to_device: Faults | None = None,
        seed: int,
    ) -> None:
        self._target = (host, port)
        self.to_client = to_client or Faults()
        self.to_device = to_device or Faults()
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.connections = 0
        self.port = 0

    async def start(self) -> int:
        """Listen on 127.0.0.1 and return the port number."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self.port

    async def unplug(self) -> None:
        """Cut every connection; new ones are refused."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await server.wait_closed()

    async def replug(self) -> None:
        """Listen again on the same port."""
        await self.start()

    async def close(self) -> None:
        """End it."""
        await self.unplug()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        seeds = np.random.SeedSequence([self._seed, self.connections]).generate_state(2).tolist()
        task = asyncio.create_task(self._relay(reader, writer, seeds))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seeds: list[int]
    ) -> None:
        """Pass bytes until either end hangs up, then hang up on both."""
        outward = Mangler(self.to_client, seed=seeds[0])
        inward = Mangler(self.to_device, seed=seeds[1])
        writers = [writer]
        work: list[asyncio.Task[None]] = []
        try:
            device_reader, device_writer = await asyncio.open_connection(*self._target)
            writers.append(device_writer)
            work = [
                asyncio.create_task(coroutine)
                for coroutine in (
                    _pump(device_reader, outward, writer, back=(inward, device_writer)),
                    _pump(reader, inward, device_writer, back=(outward, writer)),
                    _pour(outward, writer.write),
                )
            ]
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        except OSError:
            return  # no instrument: the reader is cut off below
        finally:
            for task in work:
                task.cancel()
            for opened in writers:
                opened.transport.abort()
            await asyncio.gather(*work, return_exceptions=True)


async def _pump(
    reader: asyncio.StreamReader,
    mangler: Mangler,
    writer: asyncio.StreamWriter,
    *,
    back: tuple[Mangler, asyncio.StreamWriter],
) -> None:
    way_back, sender = back
    while data := await reader.read(_READ_MAX):
        if mangler.faults.echo and not way_back.faults.hang:
            sender.write(data)
        for piece in mangler.feed(data):
            writer.write(piece)
            await writer.drain()
    if mangler.faults.hang:  # a half-open connection does not hear of the other end's going
        await asyncio.Event().wait()
    writer.writelines(mangler.flush())
    await writer.drain()


async def _pour(mangler: Mangler, send: Send) -> None:
    """Flood at the set rate for as long as one is set."""
    owed = 0.0
    while True:
        await asyncio.sleep(_FLOOD_PERIOD_S)
        owed += mangler.faults.flood_bytes_per_s * _FLOOD_PERIOD_S
        if owed >= 1.0:
            size = int(owed)
            owed -= size
            send(mangler.random_bytes(size))


class SerialProxy:
    """Stands between a pseudo-terminal instrument and its reader, who opens ``link``.

    Parameters
    ----------
    device_path : the instrument's own serial path
    link : where the reader's path stands, like a link in ``/dev/serial/by-id``: gone while
        unplugged, and perhaps another terminal after a replug
    to_client, to_device, seed : as of `TcpProxy`
    """

    def __init__(
        self,
        device_path: str,
        link: Path,
        *,
        to_client: Faults | None = None,
        to_device: Faults | None = None,
        seed: int,
    ) -> None:
        self._device_path = device_path
        self.link = link
        self.to_client = to_client or Faults()
        self.to_device = to_device or Faults()
        seeds = np.random.SeedSequence([seed]).generate_state(2).tolist()
        self._outward = Mangler(self.to_client, seed=seeds[0])
        self._inward = Mangler(self.to_device, seed=seeds[1])
        self._device: int | None = None
        self._pty: PtyPort | None = None
        self._flood: asyncio.Task[None] | None = None

    async def start(self) -> str:
        """Open both sides and return the path that the reader opens."""
        self._device = os.open(self._device_path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK)
        tty.setraw(self._device)
        asyncio.get_running_loop().add_reader(self._device, self._from_device)
        self._flood = asyncio.create_task(_pour(self._outward, self._to_client))
        await self.replug()
        return str(self.link)

    async def unplug(self) -> None:
        """Pull the adapter: the reader's terminal hangs up and its path is gone."""
        if self._pty is not None:
            self.link.unlink(missing_ok=True)
            self._pty.close()
            self._pty = None

    async def replug(self) -> None:
        """Plug the adapter in again, under the same path."""
        self._pty = PtyPort(lambda _: self)
        self.link.unlink(missing_ok=True)
        self.link.symlink_to(self._pty.path)

    async def close(self) -> None:
        """End it."""
        await self.unplug()
        if self._flood is not None:
            self._flood.cancel()
        if self._device is not None:
            self._stop_listening(self._device)

    def received(self, data: bytes) -> None:
        """Take bytes from the reader."""
        if self.to_device.echo and not self.to_client.hang:
            self._to_client(data)
        for piece in self._inward.feed(data):
            self._to_device(piece)

    def closed(self) -> None:
        """The terminal is closed by this proxy alone, which knows."""

    def _to_client(self, data: bytes) -> None:
        if self._pty is not None:
            self._pty.send(data)

    def _to_device(self, data: bytes) -> None:
        if self._device is not None:
            with contextlib.suppress(OSError):  # full, or closed by the instrument: bytes are lost
                os.write(self._device, data)

    def _from_device(self) -> None:
        assert self._device is not None
        try:
            data = os.read(self._device, _READ_MAX)
        except BlockingIOError:
            return
        except OSError:  # how the kernel says that the instrument closed its terminal
            data = b""
        if not data:
            self._stop_listening(self._device)
            return
        for piece in self._outward.feed(data):
            self._to_client(piece)

    def _stop_listening(self, device: int) -> None:
        asyncio.get_running_loop().remove_reader(device)
        os.close(device)
        self._device = None
