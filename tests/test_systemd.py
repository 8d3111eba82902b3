"""The service, the port rules and the installer, as far as they can be tried without a gateway."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SYSTEMD = ROOT / "systemd"
UNIT = SYSTEMD / "checkpointd.service"
RULES = SYSTEMD / "99-checkpoint-ports.rules"
INSTALL = SYSTEMD / "install.sh"
EXPOSURE_LIMIT_TENTHS = 20


def require(program: str) -> str:
    """Return the program's path; skip the test where there is none, fail it under CI."""
    found = shutil.which(program)
    if found is not None:
        return found
    reason = f"no program {program} found"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


def run(*command, **kwargs) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        **kwargs,
    )


# ---------------------------------------------------------------- the service


def exposure(unit: Path) -> subprocess.CompletedProcess[str]:
    return run(
        require("systemd-analyze"),
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE_LIMIT_TENTHS}",
        "--no-pager",
        unit,
    )


def test_the_service_is_no_more_exposed_than_promised():
    done = exposure(UNIT)
    assert done.returncode == 0, done.stdout[-400:] + done.stderr


def test_the_gate_on_exposure_can_fail(tmp_path):
    text = UNIT.read_text(encoding="utf-8")
    weak = re.sub(
        r"^(Protect|Restrict|System|Capab|Private|Memory).*\n", "", text, flags=re.MULTILINE
    )
    (tmp_path / UNIT.name).write_text(weak, encoding="utf-8")
    assert exposure(tmp_path / UNIT.name).returncode != 0


def test_systemd_understands_every_line_of_the_service(tmp_path):
    program = require("systemd-analyze")
    text = UNIT.read_text(encoding="utf-8")
    command = "/opt/checkpointd/bin/checkpointd"
    assert command in text
    unit = tmp_path / UNIT.name
    unit.write_text(text.replace(command, "/bin/true"), encoding="utf-8")
    done = run(program, "verify", unit)
    about_us = [line for line in done.stderr.splitlines() if "checkpointd" in line]
    assert about_us == []
    unit.write_text(unit.read_text() + "[Service]\nWatchdogSecs=3\n")
    assert "WatchdogSecs" in run(program, "verify", unit).stderr


def directives() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_the_service_runs_the_command_under_a_watchdog_and_comes_back_for_ever():
    unit = directives()
    service = unit["Service"]
    assert service["Type"] == "notify"
    assert service["WatchdogSec"] == "60"
    assert service["Restart"] == "always"
    assert unit["Unit"]["StartLimitIntervalSec"] == "0"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert service["ExecStart"].endswith("run --config /etc/checkpointd")
    assert service["StateDirectory"] == "checkpointd"
    assert service["StateDirectoryMode"] == "0700"


def test_the_service_leaves_the_agent_what_it_needs():
    """What would harden further and break it: the boot's id, serial lines, the network."""
    service = directives()["Service"]
    assert service["ProcSubset"] == "all"
    assert service["PrivateDevices"] == "no"
    assert "AF_INET " in service["RestrictAddressFamilies"]
    assert "IPAddressDeny" not in service


# ---------------------------------------------------------------- serial ports


def active_rules() -> list[str]:
    lines = RULES.read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


PAIR = re.compile(r'[A-Z]+(\{[A-Za-z_]+\})?(==|!=|\+=|:=|=)"[^"]*"')


def test_serial_lines_belong_to_dialout_and_nobody_probes_them():
    (rule,) = active_rules()
    assert 'GROUP="dialout"' in rule
    assert 'MODE="0660"' in rule
    assert 'ENV{ID_MM_PORT_IGNORE}="1"' in rule


def test_every_rule_and_every_example_of_one_is_well_formed():
    lines = RULES.read_text(encoding="utf-8").splitlines()
    rules = [line.lstrip("#") for line in lines if line.lstrip("#").startswith("SUBSYSTEM")]
    assert len(rules) == 3
    for rule in rules:
        for pair in rule.split(", "):
            assert PAIR.fullmatch(pair), pair
    assert all(rule.count('SYMLINK+="checkpoint/') == 1 for rule in rules[1:])


# ---------------------------------------------------------------- the installer


def install(*arguments) -> subprocess.CompletedProcess[str]:
    return run("/bin/sh", INSTALL, *arguments)


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()
    }


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_installer_is_a_plain_shell_script():
    assert os.access(INSTALL, os.X_OK)
    text = INSTALL.read_text(encoding="utf-8")
    assert text.startswith("#!/bin/sh\n")
    assert "\nset -eu\n" in text
    assert run("/bin/sh", "-n", INSTALL).returncode == 0
    # nothing that only bash understands
    assert not re.search(r"\[\[|\blocal\b|\bfunction\b|<<<|\$'|&>", text)


def test_a_trial_install_puts_everything_in_its_place(tmp_path):
    done = install("--root", tmp_path, "--skip-environment")
    assert done.returncode == 0, done.stderr
    assert set(tree(tmp_path)) == {
        "etc/checkpointd/gateway.toml",
        "etc/checkpointd/lanes/inbound-1.toml",
        "etc/systemd/system/checkpointd.service",
        "etc/udev/rules.d/99-checkpoint-ports.rules",
    }
    assert mode(tmp_path / "var/lib/checkpointd") == 0o700
    assert mode(tmp_path / "etc/checkpointd") == 0o750
    assert mode(tmp_path / "etc/checkpointd/gateway.toml") == 0o640
    assert (tmp_path / "etc/systemd/system/checkpointd.service").read_bytes() == UNIT.read_bytes()


def test_a_second_install_changes_nothing(tmp_path):
    assert install("--root", tmp_path, "--skip-environment").returncode == 0
    before = tree(tmp_path)
    done = install("--root", tmp_path, "--skip-environment")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path) == before


def test_a_sites_own_configuration_and_port_names_are_never_overwritten(tmp_path):
    own_files = {
        "etc/checkpointd/gateway.toml": "# ours\n",
        "etc/checkpointd/lanes/outbound-7.toml": "# ours too\n",
        "etc/udev/rules.d/99-checkpoint-ports.rules": "# our names\n",
    }
    for name, text in own_files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    done = install("--root", tmp_path, "--skip-environment")
    assert done.returncode == 0, done.stderr
    for name, text in own_files.items():
        assert (tmp_path / name).read_text() == text
    assert not (tmp_path / "etc/checkpointd/lanes/inbound-1.toml").exists()
    beside = tmp_path / "etc/udev/rules.d/99-checkpoint-ports.rules.new"
    assert beside.read_bytes() == RULES.read_bytes()
    assert "kept" in done.stdout


def test_an_older_service_file_is_brought_up_to_date(tmp_path):
    unit = tmp_path / "etc/systemd/system/checkpointd.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n")
    assert install("--root", tmp_path, "--skip-environment").returncode == 0
    assert unit.read_bytes() == UNIT.read_bytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--root", "/nonexistent", "--skip-environment"], "there is no such directory; make it"),
        (["--root"], "--root needs a directory"),
        (["--root", "/", "--skip-environment"], "leave --root out"),
        (["--force"], "--force: unknown option"),
        (["--root", "{tmp}"], "give the directory with the packages"),
        (["--root", "{tmp}", "{tmp}"], "holds no checkpointd-"),
        (["--root", "{tmp}", "{tmp}/no"], "there is no such directory"),
        (["--root", "{tmp}", "{tmp}", "{tmp}"], "one directory of packages is enough"),
        (["--root", "{tmp}", "--skip-environment", "{tmp}"], "no packages are used"),
    ],
)
def test_a_wrong_call_says_what_is_wrong_and_touches_nothing(tmp_path, arguments, said):
    done = install(*(argument.format(tmp=tmp_path) for argument in arguments))
    assert done.returncode == 1
    assert done.stderr.startswith("install.sh: ")
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_packages_that_pip_cannot_install_end_the_installation_with_a_reason(tmp_path):
    """pip is the real one; the wheel is no wheel."""
    packages, root = tmp_path / "packages", tmp_path / "root"
    packages.mkdir()
    root.mkdir()
    (packages / "checkpointd-0.1.0-py3-none-any.whl").write_bytes(b"no archive")
    done = install("--root", root, packages)
    assert done.returncode == 1
    assert "pip could not install checkpointd" in done.stderr
    assert not (root / "etc/systemd/system/checkpointd.service").exists()


def test_the_help_names_every_option_and_every_place():
    done = install("--help")
    assert done.returncode == 0
    for word in ("PACKAGES", "--online", "--skip-environment", "--root", "/var/lib/checkpointd"):
        assert word in done.stdout
