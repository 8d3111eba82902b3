"""The command line: wrong input is one sentence and exit code 2, and nothing is a traceback."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys

import pytest
from agent_process import (
    LANE,
    AgentProcess,
    LinePortal,
    command,
    rpm_lane,
    store_of,
    until,
    write_config,
)
from mosquitto import free_port

from agent.cli import command_line, main, tool_of

GOOD_LINE = "GB,000400,000400,000400,000400,2026-03-01 09:00:00.000 +00\r\n"


@pytest.fixture
def lane_file(tmp_path):
    path = tmp_path / f"{LANE}.toml"
    path.write_text(rpm_lane("tcp://127.0.0.1:1600"))
    return path


@pytest.fixture
def daily(tmp_path):
    path = tmp_path / "day.csv"
    path.write_text(GOOD_LINE * 3)
    return path


def refused(capsys, *arguments: object) -> str:
    """Return the sentence with which a command refuses: one line for each thing that is wrong."""
    words = [str(argument) for argument in arguments]
    try:
        code = main(words)
    except SystemExit as end:  # how argparse refuses; its usage comes before its sentence
        code = end.code
    out = capsys.readouterr()
    assert code == 2
    assert out.out == ""
    if out.err.startswith("usage: checkpointd"):
        last = out.err.splitlines()[-1]
        assert last.startswith("checkpointd")
        return last
    assert out.err.startswith("checkpointd: ")
    assert "Traceback" not in out.err
    assert out.err.count("\n") <= 2
    return out.err


# ---------------------------------------------------------------- replay


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty"),
        (b"\r\n\r\n", "empty"),
        (b"hello\nworld\n", "no recording"),
        (bytes(range(256)) * 40, "no recording"),
        (b"\xff\xd8\xff" * 3000, "no recording"),
        (b'{"t": 1, "dev": "rpm"}\n', ":1"),
        (b'{"t": 1, "dev": "rpm", "hex": "0g"}\n', "hexadecimal"),
        (b'{"t": "now", "dev": "rpm", "hex": "00"}\n', ":1"),
        (b'{"t": 1, "dev": "other", "hex": "00"}\n', "other"),
        (b'{"t": 1, "dev": "rpm", "table": "input", "address": 0, "regs": [1]}\n', "rpm"),
        (b"GB,000400,000400,000400,000400,09-00-00.000\r\n", "--date"),
    ],
)
def test_a_recording_that_is_none_is_named(capsys, tmp_path, lane_file, content, words):
    path = tmp_path / "what.csv"
    path.write_bytes(content)
    said = refused(capsys, "replay", path, "--lane", lane_file)
    assert str(path) in said or "--date" in said
    assert words in said
    assert len(said) < 500


def test_what_is_no_file_is_named(capsys, tmp_path, lane_file, daily):
    assert "gone.csv: No such file" in refused(
        capsys, "replay", tmp_path / "gone.csv", "--lane", lane_file
    )
    assert f"{tmp_path}: Is a directory" in refused(capsys, "replay", tmp_path, "--lane", lane_file)
    assert "gone.toml" in refused(capsys, "replay", daily, "--lane", tmp_path / "gone.toml")
    assert str(tmp_path) in refused(capsys, "replay", daily, "--lane", tmp_path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[lane\n", f"{LANE}.toml:1"),
        ("[lane]\njoin_gab_s = 3.0\n", "join_gap_s"),
        ("[lane]\njoin_gap_s = -1.0\n", "join_gap_s"),
        ('[lane]\n[devices.rpm]\ndriver = "rpm.rapidscan"\nport = "/dev/x"\n', "rpm.rapiscan"),
    ],
)
def test_a_lane_file_that_is_wrong_is_named_with_the_line_and_the_option(
    capsys, lane_file, daily, text, words
):
    lane_file.write_text(text)
    for arguments in (["replay", daily], ["capture", "-o", daily.with_name("new.jsonl")]):
        assert words in refused(capsys, *arguments, "--lane", lane_file)
    assert not daily.with_name("new.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--set", "nonsense"], "TABLE.OPTION=VALUE"),
        (["--set", "devices.rpm.nsigmo=4.5"], "nsigmo"),
        (["--set", "devices.rpm.nsigma=many"], "nsigma"),
        (["--set", "devices.rpm.nsigma=99"], "nsigma"),
        (["--set", "devices.other.nsigma=4.5"], "other"),
        (["--device", "other"], "other"),
        (["--tz", "Mars"], "--tz Mars"),
        (["--tz", "+25:00"], "--tz +25:00"),
        (["--date", "2026-02-30"], "2026-02-30"),
        (["--date", "yesterday"], "yesterday"),
    ],
)
def test_a_wrong_option_is_named(capsys, lane_file, daily, options, words):
    assert words in refused(capsys, "replay", daily, "--lane", lane_file, *options)


def test_a_zone_west_of_greenwich_is_no_option(capsys, lane_file, daily):
    daily.write_text("GB,000400,000400,000400,000400,09-00-00.000\r\n")
    words = ["replay", str(daily), "--lane", str(lane_file), "--date", "2026-03-01", "--json"]
    for zone in (["--tz", "-07:00"], ["--tz=-07:00"]):
        assert main([*words, *zone]) == 0
        assert json.loads(capsys.readouterr().out)["lines"] == 1


# ---------------------------------------------------------------- the other tools


def test_a_capture_never_writes_over_a_file_and_knows_its_devices(capsys, tmp_path, lane_file):
    taken = tmp_path / "taken.jsonl"
    taken.write_text("evidence")
    words = ["capture", "--lane", lane_file, "--for", "1"]
    assert "never written over" in refused(capsys, *words, "-o", taken)
    assert taken.read_text() == "evidence"
    new = tmp_path / "new.jsonl"
    said = refused(capsys, *words, "--device", "other", "-o", new)
    assert "other" in said
    assert "rpm" in said
    assert "folder" in refused(capsys, *words, "-o", tmp_path / "no-folder" / "x.jsonl")
    for wrong in ("0", "-3", "nan", "soon"):
        assert wrong in refused(capsys, "capture", "--lane", lane_file, "-o", new, f"--for={wrong}")
    assert not new.exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_a_capture_ends_in_time_or_when_interrupted_and_replays(capsys, tmp_path, interrupted):
    written, lane_file = tmp_path / "new.jsonl", tmp_path / f"{LANE}.toml"
    limit = ["--for", "30" if interrupted else "1"]

    async def play():
        portal = LinePortal()
        lane_file.write_text(rpm_lane(await portal.start()))
        words = command("capture", "--lane", str(lane_file), "-o", str(written), *limit)
        with subprocess.Popen(words, stderr=subprocess.PIPE) as process:  # noqa: ASYNC220 - starts at once
            await until(lambda: portal.heard)
            portal.background(2)
            portal.enter(alarm=True)
            if interrupted:
                assert process.stderr is not None
                seen = await asyncio.to_thread(process.stderr.readline)
                assert b"rpm up" in seen
                process.send_signal(signal.SIGINT)
            _, said = await asyncio.to_thread(process.communicate)
        await portal.close()
        assert process.returncode == 0
        assert f"{written}: rpm " in said.decode()

    asyncio.run(play())
    assert main(["replay", str(written), "--lane", str(lane_file), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (summary["passages"], summary["alarms"]) == (1, {"gamma": 1})


@pytest.mark.parametrize("tool", [["demo", "--scene"], ["simulate"]])
def test_an_unknown_or_wrong_scene_is_named(capsys, tmp_path, tool):
    said = refused(capsys, *tool, "moon-landing")
    assert "moon-landing" in said
    assert "demo" in said
    assert "gone.toml" in refused(capsys, *tool, tmp_path / "gone.toml")
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('title = "x"\nseed = 1\nsed = 2\n')
    assert "seed" in refused(capsys, *tool, wrong)
    assert "--time-scale" in refused(capsys, *tool, "demo", "--time-scale", "1000")


def test_every_command_has_help_and_the_scenes_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    commands = re.findall(r"^    ([a-z]+)  ", capsys.readouterr().out, flags=re.MULTILINE)
    assert {"run", "check", "status", "replay", "capture", "demo", "simulate"} <= set(commands)
    for words in ([], *([name] for name in commands)):
        with pytest.raises(SystemExit) as end:
            main([*words, "--help"])
        assert end.value.code == 0
        out = capsys.readouterr()
        assert out.err == ""
        assert out.out.startswith("usage: checkpointd")
        assert len(out.out.splitlines()) > 5
    assert main(["simulate", "--list"]) == 0
    assert "demo" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("checkpointd ")


def leaves(parser):
    """Yield every command without sub-commands of its own."""
    kinds = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    for kind in kinds:
        for below in kind.choices.values():
            yield from leaves(below)
    if not kinds:
        yield parser


def test_every_command_names_a_tool_that_there_is():
    commands = [*leaves(command_line())]
    assert len(commands) > 12, "the commands were not found"
    for command_of_its_own in commands:
        assert callable(tool_of(command_of_its_own.get_default("tool")))


def test_help_loads_no_library_and_no_tool():
    asked = "import sys, agent.cli\ntry: agent.cli.main(['--help'])\nfinally: print(*sys.modules)"
    said = subprocess.run(
        [sys.executable, "-c", asked], capture_output=True, text=True, check=True
    ).stdout
    loaded = set(said.splitlines()[-1].split())
    assert "agent.cli" in loaded
    assert not loaded & {"numpy", "msgspec", "scipy", "rich", "asyncio", "drivers", "simulators"}
    tools = {name for name in loaded if name.startswith("agent.")}
    assert tools == {
        "agent.cli",
        "agent.tools",
        "agent.tools.terminal",
        "agent.tools.calibrate",
        "agent.tools.calibrate.kinds",
    }


def test_an_unknown_command_and_none_are_named(capsys):
    assert "fly" in refused(capsys, "fly")
    assert "COMMAND" in refused(capsys)


def test_check_tells_every_problem_at_once(capsys, tmp_path):
    directory = write_config(tmp_path, 1883, {LANE: rpm_lane("tcp://h:1", lane="join_gab_s = 1")})
    gateway = directory / "gateway.toml"
    gateway.write_text(gateway.read_text().replace('mode = "training"', 'mode = "playing"'))
    assert main(["check", "--config", str(directory)]) == 2
    out = capsys.readouterr()
    assert out.out == ""
    assert "join_gab_s" in out.err
    assert "playing" in out.err
    assert main(["check", "--config", str(directory), "--json"]) == 2
    assert len(json.loads(capsys.readouterr().out)["problems"]) == 2


def test_status_without_a_configuration_or_a_store_is_one_sentence(capsys, tmp_path):
    assert "gateway.toml" in refused(capsys, "status", "--config", tmp_path / "none")
    directory = write_config(tmp_path, 1883, {LANE: rpm_lane("tcp://127.0.0.1:1")})
    assert str(store_of(tmp_path)) in refused(capsys, "status", "--config", directory)


# ---------------------------------------------------------------- the agent itself


def cannot_run(directory, tmp_path) -> str:
    """Return the sentence with which the agent refuses to begin."""
    agent = AgentProcess(directory, tmp_path)
    agent.start()
    try:
        assert agent.wait() == 2
    finally:
        agent.kill()
    assert "Traceback" not in agent.said
    lines = [line for line in agent.said.splitlines() if not line.startswith("INFO")]
    assert lines[0].startswith("checkpointd: ")
    return agent.said


def test_without_a_configuration_the_agent_does_not_begin(tmp_path):
    said = cannot_run(tmp_path / "none", tmp_path)
    assert str(tmp_path / "none" / "gateway.toml") in said


def test_a_key_that_others_can_read_is_refused(tmp_path):
    key = tmp_path / "password"
    key.write_text("secret")
    key.chmod(0o644)
    directory = write_config(
        tmp_path,
        1883,
        {LANE: rpm_lane("tcp://127.0.0.1:1")},
        mqtt=f'username = "gw"\npassword_file = "{key}"',
    )
    said = cannot_run(directory, tmp_path)
    assert "password_file" in said
    assert "chmod 600" in said


def test_a_store_that_cannot_be_is_named(tmp_path):
    directory = write_config(tmp_path, 1883, {LANE: rpm_lane("tcp://127.0.0.1:1")})
    gateway = directory / "gateway.toml"
    good = gateway.read_text()
    # Nobody can make a file here, not even root.
    gateway.write_text(good.replace(str(store_of(tmp_path)), "/proc/1/journal.db"))
    assert "/proc/1/journal.db" in cannot_run(directory, tmp_path)


def test_a_store_of_a_newer_program_is_refused_and_left_alone(tmp_path):
    directory = write_config(tmp_path, 1883, {LANE: rpm_lane("tcp://127.0.0.1:1")})
    agent = AgentProcess(directory, tmp_path)
    agent.start()
    asyncio.run(until(lambda: "agent=started" in agent.said))
    agent.kill()
    with sqlite3.connect(store_of(tmp_path)) as db:
        db.execute("UPDATE meta SET value = '99' WHERE key = 'schema'")
    db.close()
    (tmp_path / "agent.log").unlink()
    said = cannot_run(directory, tmp_path)
    assert "schema 99 is newer" in said
    with sqlite3.connect(store_of(tmp_path)) as db:
        assert db.execute("SELECT value FROM meta WHERE key = 'schema'").fetchone() == ("99",)
    db.close()


def test_two_agents_never_run_on_one_store(tmp_path):
    directory = write_config(tmp_path, free_port(), {LANE: rpm_lane("tcp://127.0.0.1:1")})
    first = AgentProcess(directory, tmp_path)
    first.start()
    try:
        asyncio.run(until(lambda: "agent=started" in first.said))
        other = tmp_path / "other"
        other.mkdir()
        said = cannot_run(directory, other)
        assert "another checkpointd uses it" in said
        assert str(store_of(tmp_path)) in said
        assert first.is_running
    finally:
        first.kill()


def test_the_agents_store_can_be_looked_at_while_it_runs(capsys, tmp_path):
    async def play():
        portal = LinePortal()
        text = rpm_lane(await portal.start(), lane="join_gap_s = 0.1")
        directory = write_config(tmp_path, free_port(), {LANE: text})
        agent = AgentProcess(directory, tmp_path)
        agent.start()
        try:
            await until(lambda: portal.heard)
            portal.background(2)
            portal.enter(alarm=True)
            await until(lambda: "alarm=raised" in agent.said)
            assert main(["status", "--config", str(directory), "--json"]) == 0
        finally:
            agent.kill()
            await portal.close()

    asyncio.run(play())
    streams = {s["stream"]: s for s in json.loads(capsys.readouterr().out)["streams"]}
    assert streams["alarm"]["last"] >= 1
    assert streams["alarm"]["unsent"] == streams["alarm"]["kept"] == streams["alarm"]["last"]


# ---------------------------------------------------------------- a closed pipe


@pytest.mark.parametrize(
    "words",
    [
        ["simulate", "--help"],
        ["simulate", "--list"],
        ["simulate", "--for", "3"],
        ["replay", "{daily}", "--lane", "{lane}", "--json"],
        ["replay", "{daily}", "--lane", "{lane}"],
    ],
)
def test_a_reader_that_has_enough_ends_a_command_quietly(lane_file, daily, words):
    # More than a pipe holds.
    seconds = range(20_000)
    daily.write_text(
        "".join(
            f"GX,{s % 10_000:06d},002566,000000,000000,2026-03-01 "
            f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}.000 +00\r\n"
            f"GS,000080,000080,000080,000080,2026-03-01 "
            f"{s // 3600:02}:{s // 60 % 60:02}:{s % 60:02}.500 +00\r\n"
            for s in seconds[::8]
        )
    )
    filled = [word.format(daily=daily, lane=lane_file) for word in words]
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            command(*filled), check=False, stdout=write_end, stderr=subprocess.PIPE, timeout=30
        )
    finally:
        os.close(write_end)
    assert done.stderr == b""
    assert done.returncode == 0
