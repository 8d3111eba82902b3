"""The shape of a checked configuration: plain frozen dataclasses, filled by ``agent.config``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from agent.lane.options.instruments import (
    ContactOptions,
    IdentityOptions,
    MetalOptions,
    OutputOptions,
)
from agent.lane.options.lane import LaneOptions
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.lane.options.rules import KindOptions, LaneRules
from agent.lane.options.scales import ScaleOptions
from agent.lane.options.spectral import SpectralOptions, SpectralRules, WindowRules
from drivers.base import DriverType, LineParameters

Mode = Literal["live", "training", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttOptions:
    """Table ``[mqtt]``: the way to the command centre."""

    host: Annotated[str, Meta(description="broker's host name or address", min_length=1)]
    port: Annotated[int, Meta(description="broker's port", ge=1, le=65535)] = 8883
    protocol: Annotated[
        Literal["5", "3.1.1"], Meta(description="MQTT version; 3.1.1 cannot refuse a publish")
    ] = "5"
    root: Annotated[
        str, Meta(description="first topic level", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    ] = "checkpoint"
    tls: Annotated[bool, Meta(description="false only for a broker on this very machine")] = True
    ca_file: Annotated[str | None, Meta(description="the centre's CA certificate (PEM)")] = None
    cert_file: Annotated[str | None, Meta(description="this gateway's certificate (PEM)")] = None
    key_file: Annotated[str | None, Meta(description="its private key, readable by us only")] = None
    username: Annotated[str | None, Meta(description="for brokers without certificates")] = None
    password_file: Annotated[str | None, Meta(description="file that holds the password")] = None
    keepalive_s: Annotated[int, Meta(description="MQTT keepalive [s]", ge=5, le=300)] = 20
    window: Annotated[int, Meta(description="publishes in flight at once", ge=1, le=200)] = 20
    backlog_per_s: Annotated[
        int, Meta(description="stored records sent again at most [records/s]", ge=1, le=10000)
    ] = 500
    max_payload_bytes: Annotated[
        int, Meta(description="a larger record is parked, not sent [bytes]", ge=1024)
    ] = 262144
    delivery: Annotated[
        Literal["receipt", "puback"],
        Meta(description="what releases a record: the centre's receipt, or the broker's PUBACK"),
    ] = "receipt"
    stuck_s: Annotated[
        float,
        Meta(description="a publish unanswered for so long rebuilds the client [s]", ge=2, le=600),
    ] = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalOptions:
    """Table ``[journal]``: the store on disk."""

    path: Annotated[str, Meta(description="the database file", min_length=1)] = (
        "/var/lib/checkpointd/journal.db"
    )
    max_bytes: Annotated[
        int, Meta(description="size the database may reach [bytes]", ge=1 << 20)
    ] = 2 << 30
    reserve_bytes: Annotated[
        int, Meta(description="kept aside and freed on a full disk [bytes]", ge=0)
    ] = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayOptions:
    """Table ``[gateway]``: who this gateway is."""

    site: Annotated[
        str, Meta(description="site id, never renamed", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    ]
    gw: Annotated[
        str, Meta(description="gateway id, never renamed", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    ]
    mode: Annotated[
        Mode, Meta(description="stands on every record; a centre refuses what is not live")
    ] = "live"
    identity_key_file: Annotated[
        str | None,
        Meta(
            description="file with the secret that makes tokens of plates and tags, at least 16 "
            "bytes; absent: no lane may ask for tokens"
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """The part of ``[devices.NAME]`` that every device has, beside its driver's own options."""

    driver: Annotated[str, Meta(description="kind.device, see `checkpointd devices`")]
    port: Annotated[
        str,
        Meta(
            description="/dev/…, tcp://host:port, or listen://address:port for a device that calls "
            "(Modbus over a serial line: /dev/…)"
        ),
    ]
    baud: Annotated[
        int | None, Meta(description="serial speed [baud]; absent: the driver's", ge=300, le=921600)
    ] = None
    parity: Annotated[
        Literal["N", "E", "O"] | None, Meta(description="serial parity; absent: the driver's")
    ] = None
    data_bits: Annotated[
        Literal[7, 8] | None, Meta(description="serial data bits; absent: the driver's")
    ] = None
    stop_bits: Annotated[
        Literal[1, 2] | None, Meta(description="serial stop bits; absent: the driver's")
    ] = None
    unit: Annotated[int, Meta(description="Modbus unit id", ge=0, le=255)] = 1
    framing: Annotated[
        Literal["auto", "rtu", "tcp"],
        Meta(description="Modbus framing; auto: rtu on /dev/…, tcp on tcp://"),
    ] = "auto"
    timeout_s: Annotated[
        float, Meta(description="how long a Modbus reply may take [s]", gt=0, le=10)
    ] = 0.5
    max_lateness_s: Annotated[
        float,
        Meta(
            description="an RTU unit that did not answer in time is left alone so much longer, and "
            "a reply that late is never taken for another's [s]",
            ge=0,
            le=10,
        ),
    ] = 1.0
    silence_s: Annotated[
        float | None,
        Meta(
            description="without a good frame for so long the device is lost [s]; absent: as the "
            "driver says, else rpm 16, scale, metal and lane 3, and never for a reader of "
            "identities",
            gt=0,
            le=600,
        ),
    ] = None
    listen_callers: Annotated[
        tuple[str, ...],
        Meta(description="addresses or networks that may call on a listen:// port"),
    ] = ()
    relay_listen: Annotated[
        str | None,
        Meta(
            description="own ADDRESS:PORT on which others read the bytes of a device that talks by "
            "itself; absent: nowhere"
        ),
    ] = None
    relay_clients: Annotated[
        tuple[str, ...], Meta(description="addresses or networks that may read there")
    ] = ()


DEFAULT_SILENCE_S = {"rpm": 16.0, "scale": 3.0, "metal": 3.0, "lane": 3.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceConfig:
    """One device of a lane, checked."""

    name: str
    kind: str
    common: DeviceOptions
    driver: DriverType
    driver_options: object
    kind_options: KindOptions

    @property
    def line(self) -> LineParameters:
        """Return the serial line's parameters: the driver's, with what the file sets."""
        default = self.driver.line
        return LineParameters(
            baud=self.common.baud or default.baud,
            data_bits=self.common.data_bits or default.data_bits,
            parity=self.common.parity or default.parity,
            stop_bits=self.common.stop_bits or default.stop_bits,
        )

    @property
    def may_be_silent(self) -> bool:
        """Return whether its silence tells nothing: so by nature, and no limit is set for it."""
        return self.driver.is_silent_by_nature and self.common.silence_s is None

    @property
    def silence_s(self) -> float:
        """Return how long without a good frame makes the device lost [s]."""
        own_s = self.driver.silence_s or DEFAULT_SILENCE_S[self.kind]
        return self.common.silence_s or own_s


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneConfig:
    """One lane, checked; ``lane_id`` is the file's name."""

    lane_id: str
    lane: LaneOptions
    devices: tuple[DeviceConfig, ...]
    spectral: SpectralOptions | None = None
    """None: the lane judges no spectra."""

    def device(self, name: str) -> DeviceConfig:
        """Return the device of that name; raises KeyError where there is none."""
        for device in self.devices:
            if device.name == name:
                return device
        raise KeyError(name)

    def rules(
        self,
        *,
        run: str,
        pinned: frozenset[str] = frozenset(),
        is_test: bool = False,
        identity_key: bytes | None = None,
        spectral: SpectralRules | None = None,
        windows: WindowRules | None = None,
    ) -> LaneRules:
        """Return what the lane's reducer needs to know; see ``LaneRules``."""
        of_kind = {device.name: device.kind_options for device in self.devices}
        return LaneRules(
            lane_id=self.lane_id,
            run=run,
            lane=self.lane,
            portals={n: o for n, o in of_kind.items() if isinstance(o, RpmOptions)},
            scales={n: o for n, o in of_kind.items() if isinstance(o, ScaleOptions)},
            metals={n: o for n, o in of_kind.items() if isinstance(o, MetalOptions)},
            traits={
                d.name: PortalTraits(presence=d.driver.presence, rule=d.driver.gamma_rule)
                for d in self.devices
                if isinstance(d.kind_options, RpmOptions)
            },
            contacts={n: o for n, o in of_kind.items() if isinstance(o, ContactOptions)},
            readers={n: o for n, o in of_kind.items() if isinstance(o, IdentityOptions)},
            outputs={n: o for n, o in of_kind.items() if isinstance(o, OutputOptions)},
            identity_key=identity_key,
            pinned=pinned,
            is_test=is_test,
            spectral=spectral,
            windows=windows,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """A whole checked configuration; ``revision`` is the SHA-256 of its files' contents."""

    gateway: GatewayOptions
    mqtt: MqttOptions
    journal: JournalOptions
    lanes: tuple[LaneConfig, ...]
    revision: str
