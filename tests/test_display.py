"""What displays are shown: only what has changed, and not too often."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from agent_process import LANE, rpm_lane, write_config
from delivery_bench import IDENTITY, alarm, until

from agent import config as configuration
from agent.clock import Clock
from agent.daemon import display as displays
from agent.daemon.display import Display
from agent.daemon.link import Lines, make_link
from agent.daemon.running_lane import RunningLane
from agent.lane.alarms import Standing

LANE_TOPIC = f"{IDENTITY.prefix}/lane/{LANE}/state"
DEVICE_TOPIC = f"{IDENTITY.prefix}/lane/{LANE}/dev/rpm/state"


@dataclass
class Publisher:
    """Remembers what it was given to keep on the broker."""

    given: list[tuple[str, bytes]] = field(default_factory=list)

    def set_retained(self, topic: str, payload: bytes) -> None:
        self.given.append((topic, payload))

    def on(self, topic: str) -> list[dict]:
        return [json.loads(payload) for at, payload in self.given if at == topic and payload]


class Shown:
    """A lane with one portal that is never opened, and a display of it."""

    def __init__(self, folder) -> None:
        lanes = {LANE: rpm_lane("tcp://127.0.0.1:9")}
        (self.config,) = configuration.load(write_config(folder, 1883, lanes)).lanes
        self.clock = Clock()
        rules = self.config.rules(run="r", is_test=True, identity_key=None)
        self.lane = RunningLane(config=self.config, rules=rules)
        for device in self.config.devices:
            self.lane.links[device.name] = make_link(
                device, clock=self.clock, sink=lambda _: None, lines=Lines(self.clock)
            )
        self.publisher = Publisher()
        self.display = Display(IDENTITY, self.clock, lambda: self.publisher)  # type: ignore[return-value, arg-type]

    def stand(self, number: int) -> None:
        """Let another alarm stand in the lane."""
        standing = Standing(standing={("rpm", "silent"): alarm(number)})
        self.lane.state = replace(self.lane.state, memories={Standing: standing})


def in_a_loop(tmp_path, scenario: Callable) -> None:
    async def run() -> None:
        await scenario(Shown(tmp_path))

    asyncio.run(run())


def test_a_snapshot_that_says_nothing_new_is_neither_encoded_nor_sent(
    tmp_path, monkeypatch
) -> None:
    encoded = []
    for name in ("lane_state", "device_state"):
        encode = getattr(displays.wire, name)

        def counted(identity, shot, encode=encode):
            encoded.append(shot)
            return encode(identity, shot)

        monkeypatch.setattr(displays.wire, name, counted)

    async def scenario(shown: Shown) -> None:
        for _ in range(5):
            shown.display.renew_lane(shown.lane)
            shown.display.renew_devices(shown.lane)
        assert [topic for topic, _ in shown.publisher.given] == [LANE_TOPIC, DEVICE_TOPIC]
        assert len(encoded) == 2
        shown.stand(1)
        for _ in range(5):
            shown.display.renew_lane(shown.lane)
        assert len(encoded) == 3
        assert [said["alarms"] for said in shown.publisher.on(LANE_TOPIC)] == [[], ["inbound-1-1"]]

    in_a_loop(tmp_path, scenario)


def test_a_new_publisher_is_given_everything(tmp_path) -> None:
    async def scenario(shown: Shown) -> None:
        shown.display.renew_lane(shown.lane)
        shown.publisher = Publisher()
        shown.display.renew_lane(shown.lane)
        shown.display.renew_devices(shown.lane)
        assert [topic for topic, _ in shown.publisher.given] == [LANE_TOPIC, DEVICE_TOPIC]

    in_a_loop(tmp_path, scenario)


def test_what_was_taken_back_is_shown_again_when_it_returns(tmp_path) -> None:
    async def scenario(shown: Shown) -> None:
        for _ in range(2):
            shown.display.renew_lane(shown.lane)
            shown.display.renew_devices(shown.lane)
            shown.display.take_back(shown.config, None)
        assert len(shown.publisher.on(LANE_TOPIC)) == len(shown.publisher.on(DEVICE_TOPIC)) == 2
        assert {topic for topic, payload in shown.publisher.given[-2:] if not payload} == {
            LANE_TOPIC,
            DEVICE_TOPIC,
        }

    in_a_loop(tmp_path, scenario)


def test_a_lane_full_of_news_is_shown_once_a_second_and_the_newest_last(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(displays, "LANE_STATE_EVERY_S", 0.4)
    monkeypatch.setattr(displays, "LANE_STATE_AFTER_S", 0.01)

    async def scenario(shown: Shown) -> None:
        loop = asyncio.get_running_loop()
        sent_at: list[float] = []
        given = shown.publisher.set_retained

        def noted(topic: str, payload: bytes) -> None:
            sent_at.append(loop.time())
            given(topic, payload)

        shown.publisher.set_retained = noted  # type: ignore[method-assign]
        number = 0
        while len(sent_at) < 3:
            number += 1
            shown.stand(number)
            shown.display.renew_lane_soon(shown.lane)
            await asyncio.sleep(0.005)
        for earlier, later in itertools.pairwise(sent_at):
            assert later - earlier > 0.4 - 0.001
        await until(lambda: shown.lane.publishing is None)
        assert shown.publisher.on(LANE_TOPIC)[-1]["alarms"] == [f"inbound-1-{number}"]

    in_a_loop(tmp_path, scenario)
