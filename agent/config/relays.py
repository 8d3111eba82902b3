"""The relay of a device's bytes: which address it listens on, and who may connect to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)

from agent.config.ports import User
from agent.config.problems import Problem
from agent.settings import DeviceOptions
from drivers.transport import listen_address, tcp_address

_PORT = re.compile(r"[1-9][0-9]{0,4}")

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """One device's relay, checked; ``clients`` are the networks that may connect."""

    address: Address
    port: int
    clients: tuple[Network, ...]

    def __str__(self) -> str:
        """Return the listening address as the lane file writes it."""
        host = f"[{self.address}]" if self.address.version == 6 else str(self.address)
        return f"{host}:{self.port}"


def relay_of(common: DeviceOptions) -> RelayConfig | None:
    """Return the relay that the options ask for; None: none.

    Raises
    ------
    ValueError
        If an address in them is not one; a checked configuration has none such.
    """
    if common.relay_listen is None:
        return None
    address, port = _listen(common.relay_listen)
    clients = tuple(_network(text, address) for text in common.relay_clients)
    return RelayConfig(address=address, port=port, clients=clients)


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Return the networks of a checked configuration's texts; ValueError for others."""
    return tuple(ip_network(text) for text in texts)


def check_relays(users: Sequence[User]) -> list[Problem]:
    """Return what is wrong with the relays of all devices of all lanes."""
    problems: list[Problem] = []
    taken = dict(_device_ports(users))
    for user in users:
        problems += check_callers(user)
        wrong = list(_one(user))
        problems += wrong
        relay = None if wrong else relay_of(user.device.common)
        if relay is None:
            continue
        place = (relay.address, relay.port)
        if place in taken:
            text = f"is already used by {taken[place]}; expected an address and port of its own"
            problems.append(user.problem("relay_listen", text))
        taken.setdefault(place, f"the relay of {user.name}")
    return problems


def _device_ports(users: Sequence[User]) -> Iterator[tuple[tuple[Address, int], str]]:
    """Yield where devices listen: a relay there would be read by its own agent."""
    for user in users:
        with suppress(ValueError):  # a host's name, or no port at all, which is said elsewhere
            port = user.device.common.port
            found = listen_address(port) or tcp_address(port)
            if found is not None:
                yield (ip_address(found[0]), found[1]), f"the port of {user.name}"


def check_callers(user: User) -> Iterator[Problem]:
    """Yield what is wrong with a port on which the device calls, and with who may call."""
    common = user.device.common
    if not common.port.startswith("listen://"):
        if common.listen_callers:
            yield user.problem("listen_callers", "expected a listen:// port beside it; take it out")
        return
    if user.device.driver.is_polled:
        text = f"{user.device.driver.name} is a Modbus device, which never calls; expected tcp://"
        yield user.problem("port", text)
        return
    try:
        address, _ = _listen(common.port.removeprefix("listen://"))
    except ValueError as exc:
        yield user.problem("port", str(exc))
        return
    if not common.listen_callers:
        text = "expected at least one address or network that may call"
        yield user.problem("listen_callers", text)
    for caller in common.listen_callers:
        try:
            _network(caller, address)
        except ValueError as exc:
            yield user.problem("listen_callers", f"{caller!r}: {exc}")


def _one(user: User) -> Iterator[Problem]:
    common = user.device.common
    if common.relay_listen is None:
        if common.relay_clients:
            yield user.problem("relay_clients", "expected relay_listen beside it, or neither")
        return
    if user.device.driver.is_polled:
        text = (
            f"{user.device.driver.name} is a Modbus device, which only answers whom it is asked "
            "by, so there is no stream to relay; take it out"
        )
        yield user.problem("relay_listen", text)
        return
    try:
        address, _ = _listen(common.relay_listen)
    except ValueError as exc:
        yield user.problem("relay_listen", str(exc))
        return
    if not common.relay_clients:
        text = "expected at least one address or network that may connect to relay_listen"
        yield user.problem("relay_clients", text)
    for client in common.relay_clients:
        try:
            _network(client, address)
        except ValueError as exc:
            yield user.problem("relay_clients", f"{client!r}: {exc}")


def _listen(text: str) -> tuple[Address, int]:
    host, _, port = text.rpartition(":")
    is_bracketed = host.startswith("[") and host.endswith("]")
    form = 'expected ADDRESS:PORT as "192.168.10.1:1600" (IPv6: "[fd00::1]:1600")'
    if _PORT.fullmatch(port) is None or int(port) > 65535:
        raise ValueError(f"{form}, the port from 1 to 65535")
    try:
        address = ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        raise ValueError(f"{form}, an address in figures and no name") from None
    if is_bracketed != (address.version == 6) or "%" in host:
        raise ValueError(form)
    # An IPv4 address in IPv6 clothes would not be found among the clients' IPv4 networks.
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if (mapped or address).is_unspecified:
        raise ValueError(
            "expected one address of this machine: on all of them the device would be shown to "
            "every network the gateway is in"
        )
    if mapped is not None or address.is_multicast:
        raise ValueError(f"{form}, one of this machine's own")
    return address, int(port)


def _network(text: str, listen: Address) -> Network:
    try:
        network = ip_network(text)
    except ValueError:
        try:
            meant = ip_interface(text).network
        except ValueError:
            raise ValueError("expected an address or a network as 192.168.10.0/28") from None
        raise ValueError(f"is no network's first address; did you mean {meant}?") from None
    if network.version != listen.version:
        raise ValueError(f"expected IPv{listen.version}, as where it listens")
    if network.prefixlen == 0:
        raise ValueError("would let everybody in; expected the addresses of the readers")
    return network
