"""The secret that tokens of plates and tags are made with: there, long enough, and ours alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.config.checks import check_secret_file
from agent.config.ports import User
from agent.config.problems import Problem
from agent.config.source import Source
from agent.lane.options.instruments import IdentityOptions
from agent.settings import GatewayOptions

MIN_BYTES, MAX_BYTES = 16, 4096


def read_key(gateway: GatewayOptions) -> bytes | None:
    """Return the key; None: none is configured, or its file holds none that can be used."""
    if gateway.identity_key_file is None:
        return None
    try:
        with Path(gateway.identity_key_file).open("rb") as file:
            key = file.read(MAX_BYTES).strip()
    except OSError:
        return None
    return key if len(key) >= MIN_BYTES else None


def check_key(gateway: GatewayOptions, source: Source) -> Iterator[Problem]:
    """Yield what is wrong with the gateway's key file."""
    name = gateway.identity_key_file
    if name is None:
        return
    at = ("gateway", "identity_key_file")
    problems = list(check_secret_file(Path(name), at, source))
    yield from problems
    if not problems and read_key(gateway) is None:
        text = f"expected {MIN_BYTES} bytes or more; make it with: openssl rand -hex 32"
        yield source.problem(at, text, value=name)


def check_readers(users: Iterable[User], gateway: GatewayOptions) -> Iterator[Problem]:
    """Yield the readers that ask for tokens where there is no key to make them with."""
    if gateway.identity_key_file is not None:
        return
    for user in users:
        options = user.device.kind_options
        if isinstance(options, IdentityOptions) and options.identity_privacy == "token":
            path = ("devices", user.device.name, "identity_privacy")
            text = (
                'expected identity_key_file in [gateway] of gateway.toml for "token"; make one '
                'with openssl rand -hex 32 and chmod 600, or choose "clear"'
            )
            yield user.source.problem(path, text, value=options.identity_privacy)
