"""Records and parts of the delivery for its tests, and a check of every message sent."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, Self

from agent.clock import Backoff, Clock
from agent.delivery.forward import Uplink
from agent.delivery.store.retention import JournalEvent
from agent.delivery.store.thread import Journal
from agent.delivery.wire import Encoder, Identity
from agent.records import (
    Alarm,
    Audit,
    BackgroundUsed,
    Evidence,
    MetalPart,
    NuclideNamed,
    Passage,
    Phase,
    RpmPart,
    ScalePart,
    SpectralPart,
    Stamp,
)
from agent.settings import JournalOptions, MqttOptions

IDENTIFIER = "[a-z0-9][a-z0-9-]{0,31}"
WORDS = {"sha256": "[0-9a-f]{64}", "number": "0|[1-9][0-9]{0,5}"}
IDENTITY = Identity(root="checkpoint", site="bridge-north", gw="gw-1")
ENCODER = Encoder(identity=IDENTITY, mode="test", configrev="9d41c0", software="checkpointd 0.1.0")
ABOUT = (
    b'{"gw":"gw-1","kid":null,"lanes":{},"machine":"aarch64","schemas":{},"site":"bridge-north",'
    b'"software":"checkpointd 0.1.0","streams":["alarm","audit","pass"]}'
)
MESSAGES = Path(__file__).parents[1] / "docs" / "messages"


def stamp(second: float = 0.0) -> Stamp:
    return Stamp(
        utc_us=1_763_799_247_412_301 + round(second * 1e6),
        mono_us=90_122_331_204 + round(second * 1e6),
        boot="0b6e",
        sync="ntp",
        err_ms=3.1,
    )


def alarm(number: int = 1, *, phase: Phase = "raised", text: str = "Gamma alarm") -> Alarm:
    return Alarm(
        stamp=stamp(number),
        lane="inbound-1",
        alarm_id=f"inbound-1-{number}",
        code="n_sigma",
        phase=phase,
        rev=1,
        passage_id="p-1",
        kind="gamma",
        source="device",
        severity="high",
        device="rpm",
        text=text,
        evidence=(
            Evidence(test="n_sigma", observed=512, expected=400.5, statistic=5.6, threshold=4.5),
        ),
        background=BackgroundUsed(
            gamma_cps=(100.5, 99.25),
            reference_gamma_cps=None,
            neutron_cps=2.566,
            quality="good",
            age_s=4.0,
        ),
        detectors=("1", "3"),
    )


def passage(number: int = 1, *, parts: bool = False) -> Passage:
    return Passage(
        stamp=stamp(number),
        lane="inbound-1",
        passage_id=f"p-{number}",
        rev=0,
        started=stamp(number - 8),
        ended=stamp(number),
        end_reason="left",
        direction=None,
        speed_m_per_s=2.25,
        transit_id=f"t-{number}",
        priority="routine",
        reasons=(),
        alarm_ids=(),
        ambiguous=(),
        rpm=_rpm() if parts else None,
        scale=_scale() if parts else None,
        metal=MetalPart(device="metal", result="clear", persons=1, alarms=0, directions=("in",))
        if parts
        else None,
        spectral=_spectral() if parts else None,
    )


def _spectral() -> SpectralPart:
    return SpectralPart(
        devices=("panel",),
        detectors=("panel/1",),
        left_out=(),
        alarm=True,
        statistic="score",
        p=3.1e-6,
        false_alarm_rate=1e-3,
        provisional=False,
        category="industrial",
        nuclides=(NuclideNamed(name="Cs-137", confidence=0.97),),
        norm=False,
        extent_s=2.4,
        slices=14,
        background_s=280.0,
        background_quality="good",
        calibration=None,
    )


def _rpm() -> RpmPart:
    return RpmPart(
        device="rpm",
        occupancy_number=17,
        occupancy_numbers=(17,),
        background_cps=(402.0, 398.5),
        background_quality="good",
        reference_background_cps=None,
        gamma_max_cps=520.0,
        gamma_max_cps_by_detector=(260.0, 260.0),
        gamma_max_sigma=5.5,
        gamma_max_sigma_reference=None,
        neutron_max_cps=4.0,
        neutron_background_cps=2.566,
        neutron_p=0.2,
        device_gamma_alarm=True,
        device_neutron_alarm=False,
        device_agreement=None,
        settings={"nsigma": 4.5, "algorithms": ["1000"], "intervals": 5},
        undocumented={"XX": "000000"},
    )


def _scale() -> ScalePart:
    return ScalePart(
        device="scale",
        mass_kg=38420.0,
        value="38420",
        unit="kg",
        mode="gross",
        stable=True,
        stable_by="device",
        range="ok",
        alibi_id="000123",
        verified=True,
        max_gross_kg=40000.0,
        legal=True,
    )


def audit(number: int = 1) -> Audit:
    return Audit(stamp=stamp(number), kind="boot", data={"number": number, "since": stamp()})


class Bench:
    """A journal and an uplink on it, as the agent wires them."""

    def __init__(self, folder: Path, port: int, **mqtt: Any) -> None:
        self.clock = Clock()
        self.events: list[JournalEvent] = []
        options = JournalOptions(path=str(folder / "journal.db"), reserve_bytes=0)
        self.journal = Journal(
            options, self.clock, ENCODER, on_event=self.events.append, group_s=0.1
        )
        given: dict[str, Any] = {"tls": False, "host": "127.0.0.1", "port": port, **mqtt}
        self.uplink = Uplink(
            MqttOptions(**given),
            IDENTITY,
            self.journal,
            self.clock,
            about=lambda: ABOUT,
            software="checkpointd 0.1.0",
            backoff=Backoff(first_s=0.05, cap_s=0.2),
        )
        self.journal.on_stored = self.uplink.notify_appended

    async def __aenter__(self) -> Self:
        await self.journal.open()
        self._running = asyncio.get_running_loop().create_task(self.uplink.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.uplink.stop(drain_s=0.2)
        await asyncio.wait_for(self._running, 10)
        await self.journal.close()

    async def stopped(self) -> None:
        """End at once, as a program that breaks off."""
        self._running.cancel()


async def until(condition: Callable[[], bool], limit_s: float = 10.0) -> None:
    """Wait until the condition holds; fails after the limit."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        await asyncio.sleep(0.005)


# ------------------------------------------------------------ the published contract


@cache
def channels() -> dict[str, tuple[re.Pattern[str], str | None]]:
    """Return per channel of the AsyncAPI document its topics and the name of its schema.

    None: its payload is no JSON.
    """
    import yaml  # noqa: PLC0415 - the crash test's child starts without it

    document = yaml.safe_load((MESSAGES / "asyncapi.yaml").read_text())
    shared = document["components"]["parameters"]
    found = {}
    for name, channel in document["channels"].items():
        pattern = re.escape(channel["address"]).replace(r"\{", "{").replace(r"\}", "}")
        for parameter, about in channel["parameters"].items():
            allowed = about.get("enum")
            if allowed is None:
                assert parameter in shared
            words = "|".join(allowed) if allowed else WORDS.get(parameter, IDENTIFIER)
            pattern = pattern.replace("{" + parameter + "}", f"({words})")
        (message,) = channel["messages"]
        schema = document["components"]["messages"][message]["payload"]["schema"]
        found[name] = (re.compile(pattern), schema.get("$ref"))
    return found


def check_message(topic: str, payload: bytes) -> str:
    """Check a message against the published contract and return its channel."""
    matching = [name for name, (pattern, _) in channels().items() if pattern.fullmatch(topic)]
    assert len(matching) == 1, f"{topic} matches {matching}"
    schema = channels()[matching[0]][1]
    if schema is None:
        assert len(payload) <= 131072, f"{topic}: {len(payload)} bytes"
    else:
        _validator(schema).validate(json.loads(payload))
    return matching[0]


@cache
def _validator(schema: str) -> Any:
    import jsonschema  # noqa: PLC0415 - the crash test's child starts without it

    return jsonschema.Draft202012Validator(json.loads((MESSAGES / schema).read_text()))
