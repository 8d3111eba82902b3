"""The service manager is told the truth: ready, reloading, stopping, and alive only by progress."""

from __future__ import annotations

import asyncio
import logging

import pytest
from agent_process import (
    LANE,
    LinePortal,
    NotifySocket,
    rpm_lane,
    running_agent,
    until,
    write_config,
)
from mosquitto import free_port

import agent.daemon.link
import agent.daemon.supervisor
from agent.clock import Clock
from agent.health import Notifier, Watchdog, resident_bytes, temperature_c


@pytest.fixture
def manager(tmp_path):
    socket = NotifySocket(tmp_path / "notify")
    yield socket
    socket.close()


def test_a_state_line_goes_to_the_service_managers_socket(manager):
    Notifier(manager.path).send("READY=1")
    assert manager.said == ["READY=1"]


def test_without_a_service_manager_nothing_is_sent_and_nothing_fails(tmp_path, caplog):
    Notifier(None).send("READY=1")
    Notifier("").send("READY=1")
    assert not caplog.records
    Notifier(str(tmp_path / "nobody")).send("READY=1")
    assert "notify=failed" in caplog.text


def test_the_watchdog_is_fed_only_when_every_part_has_moved(manager, caplog):
    watchdog = Watchdog(Notifier(manager.path))
    assert watchdog.feed({"clock": 1, "uplink": 1})
    assert watchdog.feed({"clock": 2, "uplink": 2})
    assert not watchdog.feed({"clock": 3, "uplink": 2})
    assert watchdog.starving == ("uplink",)
    # One that moved only while another stood is not stuck because the meal was missed.
    assert not watchdog.feed({"clock": 3, "uplink": 2})
    assert watchdog.feed({"clock": 4, "uplink": 3})
    assert watchdog.starving == ()
    assert manager.said == ["WATCHDOG=1"] * 3
    assert "starving parts=uplink" in caplog.text


def test_a_part_that_is_new_or_gone_starves_nobody(manager):
    watchdog = Watchdog(Notifier(manager.path))
    assert watchdog.feed({"clock": 1, "in-1": 7})
    assert watchdog.feed({"clock": 2, "in-2": 0})
    assert not watchdog.feed({"clock": 3, "in-2": 0})


def test_a_stuck_part_of_a_running_agent_starves_the_watchdog(
    tmp_path, manager, monkeypatch, caplog
):
    monkeypatch.setattr(agent.daemon.link, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(agent.daemon.supervisor, "WATCH_EVERY_S", 1.3)
    caplog.set_level(logging.ERROR, logger="agent.health")

    async def play():
        portal = LinePortal()
        directory = write_config(tmp_path, free_port(), {LANE: rpm_lane(await portal.start())})
        async with running_agent(
            directory, Clock(time_scale=8.0), Notifier(manager.path)
        ) as running:
            # Neither broker nor words from the portal: that is the world's fault, and no reason
            # to be started again.
            await until(lambda: manager.said.count("WATCHDOG=1") == 2)
            for task in running._lanes[LANE].tasks:
                if task.get_name() == f"{LANE}_rpm":
                    task.cancel()
            await until(lambda: f"starving parts={LANE}/rpm" in caplog.text)
            fed = manager.said.count("WATCHDOG=1")
        await portal.close()
        assert manager.said == ["READY=1", *["WATCHDOG=1"] * fed, "STOPPING=1"]
        assert fed <= 3

    asyncio.run(play())


def test_what_the_board_tells_of_itself_is_a_figure_or_unknown():
    assert resident_bytes() > 1 << 20
    heat_c = temperature_c()
    assert heat_c is None or -40 < heat_c < 150
