"""A plastic portal's energy windows, judged live, and learned from by calibrate threshold."""

from __future__ import annotations

import asyncio
import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_process import newest_passages, rpm_lane, running_agent, until, write_config
from delivery_bench import check_message
from lane_bench import Bench
from mosquitto import running_mosquitto

from agent.analysis.detection import learning
from agent.analysis.detection import model as detection
from agent.analysis.sought import window_shapes
from agent.cli import main
from agent.clock import Clock
from agent.config import load_lane
from agent.config.model_file import load_model, load_window_model, model_bytes
from agent.config.problems import ConfigError
from agent.config.spectral import spectral_rules, window_rules
from agent.delivery.wire import Encoder, Identity
from agent.evidence.event import event_of
from agent.lane.options.spectral import SpectralOptions, WindowRules
from agent.lane.spectra.windows import WindowMemory
from agent.lane.state import LaneState
from agent.tools.evaluate.passes import Passes, write_passes
from drivers.readings import WindowBackground, WindowCounts
from simulators.centre import Centre
from simulators.lane import LaneSimulator
from simulators.scene import Scene

SEED = 20261123
EMPTY_CPS = np.array([408.0, 582.0, 290.0, 288.0])
SLICE_S, BACKGROUND_S = 0.2, 20.0
LONG_S = 8.0
OPTIONS = SpectralOptions()
LOGS = Path(__file__).resolve().parents[2] / "shared/data/lane-logs"
SCENE = """
title = "windows"
seed = 4
portal.controller = "sc-880"

[[vehicle]]
id = "clean"
at_s = 12.0
length_m = 8.0

[[vehicle]]
id = "source"
at_s = 32.0
length_m = 8.0
gamma = { peak_cps = 2500.0, offset_m = 4.0 }
"""
LANE = """
[devices.rpm]
driver = "rpm.rapiscan"
port = "tcp://127.0.0.1:1600"

[spectral]
"""


class WindowLane(Bench):
    """A lane with a portal of four windows; its gamma lines never alarm."""

    def __init__(self, rules: WindowRules | None = None, seed: int = SEED) -> None:
        super().__init__(scale=None)
        rules = rules or WindowRules(device="rpm", options=OPTIONS)
        self.rules = replace(self.rules, windows=rules, scales={}, metals={})
        self.rng = np.random.default_rng(seed)
        self.at_s = 1.0
        self.events = []

    def _do(self, event):
        self.events.append(event)
        return super()._do(event)

    def vacant(self, seconds: float = 30.0, background_s: float = BACKGROUND_S) -> None:
        for _ in range(round(seconds / 5)):
            self.at_s += 5.0
            cps = self.rng.poisson(EMPTY_CPS * background_s) / background_s
            self.background(self.at_s)
            self.read(self.at_s + 0.01, WindowBackground(cps=tuple(cps)))

    def passes(self, cps: float = 0.0, window: int = 0, *, kept: float = 0.85, early: int = 15):
        """Let a vehicle through, a source in the middle that shines into one window."""
        slices = round(LONG_S / SLICE_S)
        at = (np.arange(slices) + 0.5) * SLICE_S - LONG_S / 2
        shadow = 1.0 - (1.0 - kept) * np.exp(-0.5 * (at / 1.5) ** 2)
        rate = EMPTY_CPS * shadow[:, None]
        rate[:, window] += cps * (1.0 + at**2) ** -1.25
        counts = self.rng.poisson(rate * SLICE_S)
        for number in range(early):  # the burst of what came before the beam was broken
            self.at_s += 0.001
            self.windows(counts[number], age_s=(early - 1 - number) * SLICE_S)
        self.gamma(self.at_s)
        for each in counts[early:]:
            self.at_s += SLICE_S
            self.gamma(self.at_s)
            self.windows(each)
        self.leave(self.at_s + 0.1)
        self.at_s += 10.0
        self.tick(self.at_s)
        return self.passages()[-1]

    def windows(self, counts, age_s: float = 0.0) -> None:
        reading = WindowCounts(
            counts=tuple(int(n) for n in counts), real_time_s=SLICE_S, age_s=age_s
        )
        self.read(self.at_s, reading)


def traffic(passes: int, seed: int = SEED) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts, expected and background of benign passages that shield by up to a third."""
    print(f"seed {seed}")
    dice = np.random.default_rng(seed)
    slices = round(LONG_S / SLICE_S)
    depth = dice.uniform(0.0, 0.3, (passes, 1, 1))
    rate = EMPTY_CPS * (1.0 - depth * np.hanning(slices)[None, :, None])
    background = dice.poisson(EMPTY_CPS * BACKGROUND_S, (passes, 4)).astype(float)
    counts = dice.poisson(rate * SLICE_S).astype(float)
    return counts, background[:, None] / BACKGROUND_S * SLICE_S, background


@pytest.fixture(scope="module")
def learned():
    return learning.learn(*traffic(420), window_shapes(4), SLICE_S, 1e-3)


# ------------------------------------------------------------------ judged live


def test_a_source_in_one_window_alarms_before_its_vehicle_has_left():
    lane = WindowLane()
    lane.vacant()
    passage = lane.passes(900.0)
    first, *_, last = lane.alarms("spectral")
    assert (first.phase, first.source, first.severity) == ("raised", "agent", "high")
    assert first.code.startswith("windows_")
    assert first.stamp.mono_us < passage.ended.mono_us
    assert (last.phase, last.category) == ("cleared", "unknown")
    part = passage.spectral
    assert part.alarm
    assert part.p < OPTIONS.false_alarm_rate
    assert (part.devices, part.detectors, part.left_out) == (("rpm",), ("rpm windows",), ())
    assert (part.category, part.nuclides, part.norm, part.gains) == ("unknown", (), None, ())
    assert (part.slices, part.background_s) == (40, 20.0)
    assert part.provisional
    assert passage.alarm_ids == (first.alarm_id,)
    assert passage.reasons == ("spectral_agent",)


def test_vehicles_that_only_shield_are_judged_and_are_no_alarm():
    lane = WindowLane()
    for _ in range(30):
        lane.vacant()
        part = lane.passes(kept=float(lane.rng.uniform(0.7, 1.0))).spectral
        assert part.p >= OPTIONS.false_alarm_rate
    assert lane.alarms() == []


def test_what_came_before_the_vehicle_was_told_of_is_its_own_unless_it_is_old():
    lane = WindowLane()
    lane.vacant()
    lane.windows((1, 2, 3, 4))
    lane.at_s += 10.0
    assert lane.passes(early=15).spectral.slices == 40
    assert lane.state.of(WindowMemory).windows.early == ()


def test_without_the_portals_background_nothing_is_judged_and_the_passage_says_so():
    lane = WindowLane()
    part = lane.passes(2000.0).spectral
    assert (part.p, part.statistic, part.alarm) == (None, None, False)
    assert part.left_out == ("rpm windows: no background yet",)
    assert lane.alarms("spectral") == []


def test_a_lane_that_judges_no_windows_keeps_none():
    lane = WindowLane()
    lane.rules = replace(lane.rules, windows=None)
    lane.vacant()
    assert lane.passes(2000.0).spectral is None
    assert lane.state.of(WindowMemory).windows is None


def test_ticks_change_nothing_and_a_replay_gives_the_same():
    lane = WindowLane()
    lane.vacant()
    lane.passes(900.0)
    again = Bench()
    again.rules, again.state = lane.rules, LaneState()
    for event in lane.events:
        again._do(event)
    assert again.records == lane.records


def test_what_the_centre_gets_is_as_the_schemas_say_and_the_file_has_four_channels():
    lane = WindowLane()
    lane.vacant()
    passage = lane.passes(900.0)
    identity = Identity(root="checkpoint", site="s", gw="g")
    encoder = Encoder(identity=identity, mode="test", configrev="0" * 64, software="t")
    for number, record in enumerate(lane.records, start=1):
        check_message(*encoder(record, "3f9c", number, 1_000_000))
    event = event_of(passage.event, name="x", creator="t")
    counted = [s for m in event.measurements for s in m.spectra if s.detector == "rpm windows"]
    assert {len(spectrum.counts) for spectrum in counted} == {4}
    (analysis,) = event.analyses
    assert "rpm windows" in analysis.alarms[0].detectors


# ------------------------------------------------------------------ learned thresholds


def test_learned_thresholds_are_used_and_named(learned):
    rules = WindowRules(device="rpm", options=OPTIONS, model=learned, calibration="abc")
    lane = WindowLane(rules)
    lane.vacant()
    part = lane.passes(900.0).spectral
    assert (part.provisional, part.calibration, part.alarm) == (False, "abc", True)
    p = []
    for _ in range(60):
        lane.vacant(10)
        p.append(lane.passes(kept=float(lane.rng.uniform(0.75, 1.0))).spectral.p)
    assert min(p) > 1e-4
    assert np.median(p) == pytest.approx(0.5, abs=0.25)


def test_thresholds_of_other_windows_or_intervals_are_not_used(learned):
    short = replace(learned, slice_s=0.1)
    for model in (short, learning.assume(window_shapes(3), EMPTY_CPS[:3], SLICE_S, 1e-3)):
        rules = WindowRules(device="rpm", options=OPTIONS, model=model, calibration="abc")
        lane = WindowLane(rules)
        lane.vacant()
        part = lane.passes(900.0).spectral
        assert (part.provisional, part.calibration, part.alarm) == (True, None, True)


def test_a_file_of_learned_windows_is_read_back_and_one_of_spectra_is_not(tmp_path, learned):
    file = tmp_path / "w.npz"
    file.write_bytes(model_bytes(learned))
    read, name = load_window_model(file, OPTIONS)
    assert len(name) == 64
    counts, expected, background = traffic(40, seed=SEED + 1)
    want = detection.judge(learned, counts, expected, background).p
    assert detection.judge(read, counts, expected, background).p == pytest.approx(want)
    other = replace(window_shapes(4), library=window_shapes(4).dictionary)
    with pytest.raises(ConfigError, match="another detector"):
        load_model(file, other, replace(OPTIONS, slice_s=SLICE_S))


def test_a_lane_of_windows_has_window_rules_and_no_spectral_ones(tmp_path, learned):
    file = tmp_path / "in-1.toml"
    file.write_text(LANE)
    lane = load_lane(file)
    assert spectral_rules(lane) is None
    rules = window_rules(lane)
    assert (rules.device, rules.model, rules.calibration) == ("rpm", None, None)
    (tmp_path / "w.npz").write_bytes(model_bytes(learned))
    file.write_text(LANE + f'thresholds_file = "{tmp_path / "w.npz"}"\n')
    rules = window_rules(load_lane(file))
    assert not rules.model.is_provisional
    assert len(rules.calibration) == 64
    file.write_text(LANE.replace("[spectral]", ""))
    assert window_rules(load_lane(file)) is None
    (tmp_path / "w.npz").write_bytes(b"PK")
    file.write_text(LANE + f'thresholds_file = "{tmp_path / "w.npz"}"\n')
    with pytest.raises(ConfigError, match="no file of learned thresholds"):
        window_rules(load_lane(file))


def passes_of(count: int, **changes) -> Passes:
    counts, _, background = traffic(count)
    given = {
        "counts": counts[:, :, None].astype(np.int32),
        "slices": np.full(count, counts.shape[1]),
        "live_s": np.full((count, counts.shape[1], 1), SLICE_S),
        "slice_s": SLICE_S,
        "edges_kev": None,
        "background_counts": background[:, None].astype(np.int64),
        "background_s": np.full(count, BACKGROUND_S),
        "speed_m_per_s": np.full(count, np.nan),
        "neutron_counts": None,
        "is_commission": np.ones(count, dtype=bool),
        "truth": None,
        "strength_cps": None,
    }
    return Passes(**{**given, **changes})


def test_calibrate_threshold_learns_from_windows_what_the_lane_then_uses(tmp_path, capsys):
    file = tmp_path / "in-1.toml"
    file.write_text(LANE)
    source, output = tmp_path / "p.npz", tmp_path / "w.npz"
    write_passes(source, passes_of(600))
    capsys.readouterr()
    asked = ["calibrate", "threshold", source, "--lane", file, "-o", output, "--far", "0.01"]
    assert main([*map(str, asked), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"]
    proposed = tomllib.loads(said["proposed"])["spectral"]
    assert proposed["thresholds_file"] == str(output)
    file.write_text(LANE + said["proposed"].partition("\n")[2])
    rules = window_rules(load_lane(file))
    lane = WindowLane(rules)
    lane.vacant()
    part = lane.passes(900.0).spectral
    assert (part.provisional, part.alarm) == (False, True)
    assert part.calibration == rules.calibration


def test_spectra_teach_a_lane_of_windows_nothing(tmp_path, capsys):
    file = tmp_path / "in-1.toml"
    file.write_text(LANE)
    source = tmp_path / "p.npz"
    edges = np.array([[30.0, 200.0, 500.0, 1000.0, 3000.0]])
    write_passes(source, passes_of(4, edges_kev=edges))
    assert main(["calibrate", "threshold", str(source), "--lane", str(file)]) == 2
    assert "it holds spectra; this lane learns from energy windows" in capsys.readouterr().err


# ------------------------------------------------------------------ the daemon


@pytest.mark.broker
def test_the_daemon_judges_the_windows_of_a_simulated_portal(tmp_path):
    folder = tmp_path / "broker"
    folder.mkdir()
    with running_mosquitto(folder) as broker, Centre("127.0.0.1", broker.port) as centre:
        assert centre.wait_for(lambda: centre.is_connected)
        passages = asyncio.run(_scene(tmp_path, broker, centre))
    parts = [passage["spectral"] for passage in passages]
    assert [part["detectors"] for part in parts] == [["rpm windows"]] * 2
    assert [part["alarm"] for part in parts] == [False, True]
    assert all(part["provisional"] and part["slices"] > 20 for part in parts)
    assert parts[1]["p"] < OPTIONS.false_alarm_rate <= parts[0]["p"]


async def _scene(tmp_path, broker, centre):
    lane = LaneSimulator(Scene.from_text(SCENE), time_scale=10.0)
    ports = await lane.start()
    text = rpm_lane(ports.portal) + "\nsilence_s = 60.0\n\n[spectral]\n"
    directory = write_config(tmp_path, broker.port, {"in-1": text})
    try:
        async with running_agent(directory, Clock(time_scale=10.0)):
            await until(lambda: len(newest_passages(centre)) == 2, 20, what="two passages")
    finally:
        await lane.close()
    return newest_passages(centre)


# ------------------------------------------------------------------ a real portal


@pytest.mark.shared_data
@pytest.mark.parametrize(
    ("log", "passages", "alarms"), [("S2-C0-NONE", 25, 0), ("S2-C3-NORM2-first13", 13, 13)]
)
def test_recorded_passages_of_a_portal_with_windows(tmp_path, capsys, log, passages, alarms):
    recorded = LOGS / f"{log}.csv"
    if not recorded.exists():
        pytest.skip(f"{recorded.name} is not here")
    file = tmp_path / "in-1.toml"
    file.write_text(LANE)
    assert main(["replay", str(recorded), "--lane", str(file), "--json"]) == 0
    messages = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    parts = [m["data"]["spectral"] for m in messages if "spectral" in m.get("data", {})]
    assert len(parts) == passages
    assert all(part["p"] is not None for part in parts)
    assert sum(part["alarm"] for part in parts) == alarms
