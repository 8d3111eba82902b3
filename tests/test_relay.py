"""A device's bytes served to others: the same bytes, in nobody's way, to nobody else."""

from __future__ import annotations

import asyncio
import fcntl
import json
import logging
import socket
import sys
import termios
from contextlib import asynccontextmanager, suppress
from ipaddress import ip_address, ip_network

import pytest
from agent_process import (
    LANE,
    PREFIX,
    LinePortal,
    alarms,
    newest_passages,
    rpm_lane,
    running_agent,
    until,
    write_config,
)
from delivery_bench import check_message
from hypothesis import given, settings
from hypothesis import strategies as st
from mosquitto import running_mosquitto

from agent.clock import Clock
from agent.config import ConfigError, load_lane
from agent.config.relays import RelayConfig, relay_of
from agent.daemon import relay as relay_module
from agent.daemon.link import Link
from agent.daemon.relay import MOST_CLIENTS, MOST_UNSENT_BYTES, VANISHED_S, Relay
from agent.delivery import wire
from agent.delivery.snapshots import DeviceSnapshot, RelayState
from simulators.centre import Centre

HERE = "127.0.0.1"
FAST = Clock(time_scale=20.0)


@pytest.fixture
def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HERE, 0))
        return probe.getsockname()[1]


def config_of(*clients: str, port: int = 0, address: str = HERE) -> RelayConfig:
    networks = tuple(ip_network(client) for client in clients or (f"{HERE}/32",))
    return RelayConfig(address=ip_address(address), port=port, clients=networks)


@asynccontextmanager
async def running_relay(config: RelayConfig | None = None, *, said=None, is_up=True):
    """Run a relay until the block ends; what it says of its trouble goes into ``said``."""
    told = [] if said is None else said
    relay = Relay(config or config_of(), clock=FAST, label="rpm in-1", on_trouble=told.append)
    task = asyncio.create_task(relay.run())
    try:
        if is_up:
            await until(lambda: relay.port, 5)
        yield relay
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), 5)
        assert relay.status().clients == 0
        assert not relay.status().listening


@asynccontextmanager
async def client_of(relay: Relay, source: str = HERE, *, is_admitted=True):
    """Connect to the relay; the streams are its client's."""
    before = relay.status()
    reader, writer = await asyncio.open_connection(HERE, relay.port, local_addr=(source, 0))
    try:
        if is_admitted:
            await until(lambda: relay.status().clients == before.clients + 1, 5)
        yield reader, writer
    finally:
        writer.transport.abort()


@asynccontextmanager
async def deaf_client(port: int):
    """Connect and read nothing until told; the kernel holds little for it."""
    with socket.socket() as deaf:
        deaf.settimeout(0)
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await asyncio.get_running_loop().sock_connect(deaf, (HERE, port))
        yield deaf


async def all_left(opened: socket.socket) -> bytes:
    """Return what comes until the end, however it ends."""
    loop, got = asyncio.get_running_loop(), b""
    with suppress(ConnectionResetError):
        while piece := await asyncio.wait_for(loop.sock_recv(opened, 65536), 5):
            got += piece
    return got


def numbered(first: int, count: int) -> bytes:
    """Return lines no two of which are equal, so that a gap or a repetition shows."""
    return b"".join(b"GB,%06d,000303,000289,000327\r\n" % n for n in range(first, first + count))


# ---------------------------------------------------------------- the bytes


def test_two_clients_get_the_same_bytes_from_their_connection_on():
    async def play():
        async with running_relay() as relay:
            relay.feed(numbered(0, 3))
            async with client_of(relay) as (first, _):
                relay.feed(b"GB,0000")
                async with client_of(relay) as (second, _):
                    relay.feed(b"07,000000\r\n\xff\x00")
                    relay.feed(numbered(4, 500))
                    tail = b"07,000000\r\n\xff\x00" + numbered(4, 500)
                    assert await first.readexactly(7 + len(tail)) == b"GB,0000" + tail
                    # It joined in mid-line, as at the portal itself.
                    assert await second.readexactly(len(tail)) == tail

    asyncio.run(play())


@settings(max_examples=25, deadline=None)
@given(
    chunks=st.lists(st.binary(min_size=1, max_size=5000), max_size=12),
    joins=st.lists(st.integers(min_value=0, max_value=12), max_size=3),
)
def test_whatever_the_chunks_a_client_gets_one_unbroken_run_of_the_stream(chunks, joins):
    async def play():
        relay_module.ACCEPT_PAUSE_S, before = 0.0, relay_module.ACCEPT_PAUSE_S
        try:
            async with running_relay() as relay:
                await check(relay)
        finally:
            relay_module.ACCEPT_PAUSE_S = before

    async def check(relay):
        clients = []
        for turn in range(len(chunks) + 1):
            for _ in range(joins.count(turn)):
                opened = client_of(relay)
                clients.append((turn, opened, await opened.__aenter__()))
            if turn < len(chunks):
                relay.feed(chunks[turn])
        for joined, opened, (reader, _) in clients:
            run = b"".join(chunks[joined:])
            assert await asyncio.wait_for(reader.readexactly(len(run)), 5) == run
            relay.feed(b"")
            assert reader._buffer == b""
            await opened.__aexit__(None, None, None)

    asyncio.run(play())


# ---------------------------------------------------------------- clients that misbehave


def test_a_slow_client_is_dropped_without_a_gap_and_the_other_goes_on(caplog):
    caplog.set_level(logging.INFO, "agent.daemon.relay")

    async def play():
        sent = b""
        async with (
            running_relay() as relay,
            client_of(relay) as (good, _),
            deaf_client(relay.port) as deaf,
        ):
            await until(lambda: relay.status().clients == 2, 5)
            number = 0
            while relay.status().dropped == 0:
                assert len(sent) < 1 << 20, "nothing bounds what is kept for it"
                piece = numbered(number, 100)
                number += 100
                relay.feed(piece)
                sent += piece
                assert await asyncio.wait_for(good.readexactly(len(piece)), 5) == piece
            assert relay.status() == RelayState(listening=True, clients=1, dropped=1, refused=0)
            got = await all_left(deaf)
            assert sent.startswith(got)
            assert len(sent) - len(got) <= MOST_UNSENT_BYTES + 65536
            relay.feed(b"and on")
            assert await asyncio.wait_for(good.readexactly(6), 5) == b"and on"

    asyncio.run(play())
    assert "relay=client_dropped" in caplog.text
    assert "reads too slowly" in caplog.text


def test_what_waits_for_a_client_is_bounded_even_if_the_loop_never_runs():
    async def play():
        async with running_relay() as relay, client_of(relay):
            (client,) = relay._clients
            for _ in range(100):
                relay.feed(bytes(4096))
                assert len(client._waiting) <= MOST_UNSENT_BYTES
            await until(lambda: relay.status().dropped == 1, 5)

    asyncio.run(play())


def test_a_client_that_floods_writes_is_read_slowly_and_holds_up_nobody(caplog):
    caplog.set_level(logging.INFO, "agent.daemon.relay")

    async def play():
        async with (
            running_relay() as relay,
            client_of(relay) as (own, flooding),
            client_of(relay) as (other, _),
        ):
            flood = asyncio.create_task(_flood(flooding))
            await until(lambda: "client_writes_ignored" in caplog.text, 5)
            for number in range(50):
                line = numbered(number, 1)
                relay.feed(line)
                for reader in (own, other):
                    assert await asyncio.wait_for(reader.readexactly(len(line)), 5) == line
            # The network holds the rest of it back; nothing of it is kept here.
            await until(lambda: flooding.transport.get_write_buffer_size() > 65536, 5)
            flood.cancel()
            assert relay.status() == RelayState(listening=True, clients=2, dropped=0, refused=0)

    asyncio.run(play())
    assert caplog.text.count("client_writes_ignored") == 1


def test_what_a_client_wrote_is_never_read_to_its_end_in_one_go(caplog):
    async def play():
        async with running_relay() as relay, deaf_client(relay.port) as writing:
            await until(lambda: relay.status().clients == 1, 5)
            (client,) = relay._clients
            assert writing.send(bytes(1 << 20)) > 4 * 4096
            await until(lambda: "client_writes_ignored" in caplog.text, 5)
            unread = fcntl.ioctl(client.opened, termios.FIONREAD, bytes(4))
            assert int.from_bytes(unread, sys.byteorder) > 0, "it may hold the loop for ever"

    asyncio.run(play())


async def _flood(writer):
    while True:
        writer.write(b"GX,999999,000000,000000,000000\r\n" * 4096)
        await writer.drain()


def test_a_client_that_leaves_makes_room_and_is_no_drop():
    async def play():
        async with running_relay() as relay:
            for _ in range(3):
                async with client_of(relay):
                    pass
                await until(lambda: relay.status().clients == 0, 5)
            assert relay.status().dropped == 0

    asyncio.run(play())


def test_a_client_that_vanished_without_a_word_is_noticed_idle_or_not():
    async def play():
        async with running_relay() as relay, client_of(relay):
            (client,) = relay._clients
            tcp = socket.IPPROTO_TCP
            asked = client.opened.getsockopt
            assert asked(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            span_s = asked(tcp, socket.TCP_KEEPIDLE) + asked(tcp, socket.TCP_KEEPINTVL) * asked(
                tcp, socket.TCP_KEEPCNT
            )
            assert span_s == VANISHED_S == 25
            assert asked(tcp, socket.TCP_USER_TIMEOUT) == 25_000
            assert asked(tcp, socket.TCP_NODELAY) == 1
            assert asked(socket.SOL_SOCKET, socket.SO_SNDBUF) <= 65536
            assert asked(socket.SOL_SOCKET, socket.SO_RCVBUF) <= 65536

    asyncio.run(play())


# ---------------------------------------------------------------- who may connect


def test_only_the_listed_addresses_are_let_in_and_each_stranger_is_told_once(caplog):
    async def play():
        async with running_relay(config_of("127.0.0.1", "127.0.1.0/28")) as relay:
            for source in ("127.0.0.2", "127.0.1.16", "127.0.0.2"):
                async with client_of(relay, source, is_admitted=False) as (reader, _):
                    assert await asyncio.wait_for(reader.read(), 5) == b""
            assert relay.status() == RelayState(listening=True, clients=0, dropped=0, refused=3)
            async with client_of(relay), client_of(relay, "127.0.1.15") as (reader, _):
                relay.feed(b"x")
                assert await asyncio.wait_for(reader.readexactly(1), 5) == b"x"

    asyncio.run(play())
    assert caplog.text.count("client=127.0.0.2") == 1
    assert "not in relay_clients" in caplog.text


def test_beyond_the_most_clients_the_next_is_refused_and_the_others_stay():
    async def play():
        async with running_relay() as relay:
            held = [client_of(relay) for _ in range(MOST_CLIENTS)]
            streams = [await one.__aenter__() for one in held]
            async with client_of(relay, is_admitted=False) as (reader, _):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            assert relay.status().refused == 1
            relay.feed(b"y")
            for reader, _ in streams:
                assert await asyncio.wait_for(reader.readexactly(1), 5) == b"y"
            for one in held:
                await one.__aexit__(None, None, None)

    asyncio.run(play())


# ---------------------------------------------------------------- where it listens


def test_a_taken_port_is_one_sentence_and_is_tried_until_it_is_free(caplog, free_port):
    async def play():
        said = []
        with socket.socket() as other:
            other.bind((HERE, free_port))
            other.listen()
            async with running_relay(config_of(port=free_port), said=said, is_up=False) as relay:
                await until(lambda: len(said) >= 2, 5, what="a second attempt")
                relay.feed(b"nobody")
                assert not relay.status().listening
                other.close()
                await until(lambda: relay.status().listening, 5)
                async with client_of(relay) as (reader, _):
                    relay.feed(b"z")
                    assert await asyncio.wait_for(reader.readexactly(1), 5) == b"z"
        return said

    *refusals, last = asyncio.run(play())
    assert last is None
    sentence = (
        f"rpm in-1: cannot relay on 127.0.0.1:{free_port}, which another program uses; stop that "
        "one or choose another port in relay_listen; the lane itself goes on"
    )
    assert set(refusals) == {sentence}
    assert caplog.text.count("relay=not_listening") == 1, "said once, not at each attempt"


def test_an_address_that_is_not_here_is_named():
    async def play():
        said = []
        config = config_of(address="192.0.2.1", port=1600)  # RFC 5737: no machine's
        async with running_relay(config, said=said, is_up=False):
            await until(lambda: said, 5)
        return said[0]

    assert "192.0.2.1:1600, which is no address of this machine now" in asyncio.run(play())


def test_a_relay_ends_at_once_with_clients_that_read_and_that_do_not(free_port):
    async def play():
        for _ in range(2):  # and its address can be listened on again at once
            async with (
                deaf_socket() as deaf,
                running_relay(config_of(port=free_port)) as relay,
            ):
                await asyncio.get_running_loop().sock_connect(deaf, (HERE, relay.port))
                reader, writer = await asyncio.open_connection(HERE, relay.port)
                await until(lambda r=relay: r.status().clients == 2, 5)
                relay.feed(bytes(60_000))
            with suppress(ConnectionResetError):
                while await asyncio.wait_for(reader.read(65536), 5):
                    pass
            writer.transport.abort()

    @asynccontextmanager
    async def deaf_socket():
        with socket.socket() as deaf:
            deaf.settimeout(0)
            yield deaf

    asyncio.run(play())


# ---------------------------------------------------------------- between a device and a lane


class HearingPortal(LinePortal):
    """A portal that remembers what it was sent and can be unplugged."""

    def __init__(self) -> None:
        super().__init__()
        self.was_sent = b""
        self.said = b""

    async def _accept(self, reader, writer):
        await super()._accept(reader, writer)
        with suppress(OSError):
            while data := await reader.read(4096):
                self.was_sent += data

    def say(self, *lines):
        super().say(*lines)
        self.said += "".join(f"{line}\r\n" for line in lines).encode()

    def cut(self):
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()


def test_a_lost_device_keeps_its_clients_and_its_bytes_go_on_when_it_is_back(tmp_path):
    async def play():
        portal = HearingPortal()
        lane = tmp_path / "in-1.toml"
        lane.write_text(rpm_lane(await portal.start()))
        (device,) = load_lane(lane).devices
        async with running_relay() as relay:

            def tap(_, captured):
                if isinstance(captured, bytes):
                    relay.feed(captured)

            link = Link(device, clock=FAST, sink=lambda _: None, tap=tap)
            task = asyncio.create_task(link.run())
            async with client_of(relay) as (reader, _):
                await until(lambda: portal.heard == 1, 5)
                portal.background()
                assert await reader.readexactly(len(portal.said)) == portal.said
                await until(lambda: link.status().link == "up", 5)
                portal.cut()
                await until(lambda: link.status().link == "down", 5)
                await until(lambda: portal.heard == 2, 5)
                portal.said = b""
                portal.background(2)
                got = await asyncio.wait_for(reader.readexactly(len(portal.said)), 5)
                assert got == portal.said
                assert relay.status() == RelayState(listening=True, clients=1, dropped=0, refused=0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await portal.close()

    asyncio.run(play())


@pytest.fixture
def broker(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as running:
        yield running


@pytest.fixture
def centre(broker):
    with Centre(HERE, broker.port) as running:
        assert running.wait_for(lambda: running.is_connected)
        yield running


def relayed_lane(port: str, listen: int | None) -> str:
    rpm = "silence_s = 600.0\n"
    if listen is not None:
        rpm += f'relay_listen = "{HERE}:{listen}"\nrelay_clients = ["{HERE}"]\n'
    return rpm_lane(port, lane="join_gap_s = 0.2", rpm=rpm)


@pytest.mark.broker
def test_the_lane_decides_the_same_whatever_its_readers_do(
    tmp_path, broker, centre, free_port, monkeypatch
):
    monkeypatch.setattr(relay_module, "MOST_UNSENT_BYTES", 32768)

    async def play():
        portal = HearingPortal()
        text = relayed_lane(await portal.start(), free_port)
        directory = write_config(tmp_path, broker.port, {LANE: text})
        async with running_agent(directory, Clock(time_scale=20.0)) as agent:
            await until(lambda: portal.heard == 1 and LANE in agent._lanes)
            relay, _ = agent._lanes[LANE].relays["rpm"]
            await until(lambda: relay.port)
            async with (
                client_of(relay) as (good, _),
                client_of(relay) as (_, flooding),
                deaf_client(free_port) as deaf,
            ):
                await until(lambda: relay.status().clients == 3)
                flood = asyncio.create_task(_flood(flooding))
                portal.background(3)
                portal.enter(alarm=True)
                portal.leave(1)
                await until(lambda: len(newest_passages(centre)) == 1)
                # Enough for the deaf one to be let go, in the middle of the next passage.
                portal.enter(alarm=True, intervals=2800)
                portal.leave(2)
                got = await asyncio.wait_for(good.readexactly(len(portal.said)), 10)
                assert got == portal.said
                await until(lambda: len(newest_passages(centre)) == 2)
                assert relay.status().dropped == 1
                assert portal.said.startswith(await all_left(deaf))
                flood.cancel()
                state = f"{PREFIX}lane/{LANE}/dev/rpm/state"
                expected = {"listening": True, "clients": 2, "dropped": 1, "refused": 0}
                await until(lambda: centre.snapshots.get(state, {}).get("relay") == expected)
                check_message(state, json.dumps(centre.snapshots[state]).encode())
        assert portal.was_sent == b""
        await portal.close()

    asyncio.run(play())
    first, second = newest_passages(centre)
    assert [p["rpm"]["device_gamma_alarm"] for p in (first, second)] == [True, True]
    assert (first["end_reason"], second["end_reason"]) == ("left", "left")
    assert second["rpm"]["device_agreement"]["intervals"] >= 2800
    assert alarms(centre, kind="fault") == []
    assert centre.gaps() == {}


@pytest.mark.broker
def test_a_reload_adds_and_removes_the_relay_and_the_lane_reads_on(
    tmp_path, broker, centre, free_port
):
    async def play():
        portal = HearingPortal()
        port = await portal.start()
        directory = write_config(tmp_path, broker.port, {LANE: relayed_lane(port, None)})

        def reload(listen):
            write_config(tmp_path, broker.port, {LANE: relayed_lane(port, listen)})
            agent.reload()

        code = f"relay_{LANE}_rpm"
        async with running_agent(directory, Clock(time_scale=20.0)) as agent:
            await until(lambda: portal.heard == 1 and LANE in agent._lanes)
            lane = agent._lanes[LANE]
            assert lane.relays == {}
            portal.background(3)
            portal.enter()
            with socket.socket() as other:
                other.bind((HERE, free_port))
                other.listen()
                reload(free_port)
                await until(lambda: alarms(centre, code=code, phase="raised"))
                reload(None)  # taken out, it is no fault any more
                await until(lambda: alarms(centre, code=code, phase="cleared"))
                reload(free_port)
                await until(lambda: len(alarms(centre, code=code, phase="raised")) == 2)
            await until(lambda: len(alarms(centre, code=code, phase="cleared")) == 2)
            relay, _ = lane.relays["rpm"]
            async with client_of(relay) as (reader, _):
                portal.said = b""
                portal.leave(1)
                got = await asyncio.wait_for(reader.readexactly(len(portal.said)), 5)
                assert got == portal.said
                reload(None)
                assert await asyncio.wait_for(reader.read(), 5) == b""
            await until(lambda: lane.relays == {} and len(newest_passages(centre)) == 1)
            assert portal.heard == 1, "the portal's own connection was held throughout"
        await portal.close()

    asyncio.run(play())
    (passage,) = newest_passages(centre)
    assert passage["end_reason"] == "left"
    raised, _ = alarms(centre, code=f"relay_{LANE}_rpm", phase="raised")
    assert (raised["kind"], raised["lane"]) == ("fault", None)
    assert "which another program uses" in raised["text"]


# ---------------------------------------------------------------- configuration and message


def lane_file(tmp_path, *options: str, other: str = ""):
    path = tmp_path / "in-1.toml"
    text = rpm_lane("tcp://192.168.10.1:1601", rpm="\n".join(options) + "\n")
    path.write_text(text + other)
    return path


def test_a_relay_is_read_from_the_lanes_file(tmp_path):
    path = lane_file(
        tmp_path,
        'relay_listen = "192.168.10.1:1600"',
        'relay_clients = ["192.168.10.7", "192.168.10.0/28"]',
    )
    (device,) = load_lane(path).devices
    relay = relay_of(device.common)
    assert relay is not None
    assert str(relay) == "192.168.10.1:1600"
    assert [str(n) for n in relay.clients] == ["192.168.10.7/32", "192.168.10.0/28"]


def test_a_relay_can_stand_on_ipv6(tmp_path):
    options = ('relay_listen = "[fd00::1]:1600"', 'relay_clients = ["fd00::/64"]')
    (device,) = load_lane(lane_file(tmp_path, *options)).devices
    assert str(relay_of(device.common)) == "[fd00::1]:1600"


def test_without_the_option_there_is_no_relay(tmp_path):
    (device,) = load_lane(lane_file(tmp_path)).devices
    assert relay_of(device.common) is None


@pytest.mark.parametrize(
    ("listen", "clients", "said"),
    [
        ("0.0.0.0:1600", '["10.0.0.1"]', "expected one address of this machine"),
        ("[::]:1600", '["fd00::1"]', "expected one address of this machine"),
        ("[::ffff:0.0.0.0]:1600", '["10.0.0.1"]', "expected one address of this machine"),
        ("[::ffff:10.0.0.2]:1600", '["10.0.0.1"]', "one of this machine's own"),
        ("224.0.0.1:1600", '["10.0.0.1"]', "one of this machine's own"),
        ("192.168.10.1", '["10.0.0.1"]', "expected ADDRESS:PORT"),
        ("192.168.10.1:0", '["10.0.0.1"]', "the port from 1 to 65535"),
        ("192.168.10.1:65536", '["10.0.0.1"]', "the port from 1 to 65535"),
        ("gateway.local:1600", '["10.0.0.1"]', "in figures and no name"),
        (":1600", '["10.0.0.1"]', "expected ADDRESS:PORT"),
        ("fd00::1:1600", '["fd00::1"]', "expected ADDRESS:PORT"),
        ("192.168.10.1:1600", "[]", "expected at least one address or network"),
        ("192.168.10.1:1600", '["station"]', "expected an address or a network"),
        ("192.168.10.1:1600", '["10.0.0.7/28"]', "did you mean 10.0.0.0/28?"),
        ("192.168.10.1:1600", '["0.0.0.0/0"]', "would let everybody in"),
        ("192.168.10.1:1600", '["fd00::1"]', "expected IPv4"),
        ("192.168.10.1:1601", '["10.0.0.1"]', "is already used by the port of devices.rpm"),
    ],
)  # fmt: skip
def test_what_a_relay_cannot_be_is_refused_with_the_option_named(tmp_path, listen, clients, said):
    path = lane_file(tmp_path, f'relay_listen = "{listen}"', f"relay_clients = {clients}")
    with pytest.raises(ConfigError) as refused:
        load_lane(path)
    (problem,) = refused.value.problems
    assert said in problem.text
    assert problem.option.startswith("devices.rpm.relay_")


def test_clients_without_a_place_to_listen_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="expected relay_listen beside it"):
        load_lane(lane_file(tmp_path, 'relay_clients = ["10.0.0.1"]'))


def test_two_relays_cannot_share_a_place(tmp_path):
    same = 'relay_listen = "10.0.0.2:1600"\nrelay_clients = ["10.0.0.1"]\n'
    scale = f'[devices.scale]\ndriver = "scale.toledo"\nport = "/dev/ttyS7"\n{same}'
    with pytest.raises(ConfigError, match=r"the relay of devices\.rpm"):
        load_lane(lane_file(tmp_path, same, other=scale))


def test_a_modbus_device_cannot_be_relayed(tmp_path):
    metal = (
        '[devices.metal]\ndriver = "metal.dry_contact"\nport = "tcp://192.168.10.50:502"\n'
        'preset = "moxa-e1212"\nrelay_listen = "10.0.0.2:1600"\nrelay_clients = ["10.0.0.1"]\n'
    )
    with pytest.raises(ConfigError, match="there is no stream to relay"):
        load_lane(lane_file(tmp_path, other=metal))


@pytest.mark.parametrize(
    "state", [None, RelayState(listening=False, clients=0, dropped=2, refused=1)]
)
def test_the_relays_state_is_a_message_of_the_contract(state):
    identity = wire.Identity(root="checkpoint", site="bridge-north", gw="gw-1")
    snapshot = DeviceSnapshot(
        at=FAST.stamp(), lane=LANE, device="rpm", link="up", last_good_s=0.2, frames=1, relay=state
    )
    topic, payload = wire.device_state(identity, snapshot)
    assert check_message(topic, payload) == "deviceState"
    got = json.loads(payload)["relay"]
    assert got == (state and {"listening": False, "clients": 0, "dropped": 2, "refused": 1})
