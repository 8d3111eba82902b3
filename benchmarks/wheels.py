"""Shows that every run-time dependency installs on 64-bit ARM without a compiler.

The dependencies of pyproject.toml are resolved, with their own, for each Python: each must have a
wheel for aarch64 (manylinux, glibc 2.28 or older) or one for every machine. Nothing is installed.

Exit codes: 0 all are there, or the package index cannot be reached (a line says so); 1 one is
missing; 2 pip itself failed.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from report import finish, progress, table

PYTHONS = ("3.11", "3.12", "3.13")
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{n}_aarch64" for n in range(17, 29)))
TIMEOUT_S = 240

_UNREACHED = re.compile(
    r"Retrying \(|connection|ConnectTimeout|ReadTimeout|timed out|Max retries|name resolution|"
    r"Could not fetch URL|HTTP error 5|ProxyError",
    re.IGNORECASE,
)
_MISSING = re.compile(r"No matching distribution found for ([^\s(]+)")


class NotReachedError(Exception):
    """The package index did not answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wheel:
    """One resolved package, or one that has no wheel (``file`` None)."""

    name: str
    version: str
    file: str | None

    @property
    def kind(self) -> str:
        """Return aarch64, pure or missing."""
        if self.file is None:
            return "missing"
        return "aarch64" if "aarch64" in self.file else "pure"


def dependencies(root: Path) -> list[str]:
    """Return the run-time requirements as pyproject.toml states them."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return list(project["dependencies"])


def resolve(python: str, requirements: list[str], *, with_own: bool = True) -> list[Wheel]:
    """Return what pip would install for this Python on 64-bit ARM; raises NotReachedError."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--report", "-"]
    command += ["--retries", "1", "--timeout", "10", "--only-binary=:all:"]
    command += ["--implementation", "cp", "--python-version", python]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    if not with_own:
        command.append("--no-deps")
    try:
        done = subprocess.run(
            [*command, *requirements],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as exc:
        raise NotReachedError(f"no answer in {TIMEOUT_S} s") from exc
    if done.returncode == 0:
        return [_wheel(item) for item in json.loads(done.stdout)["install"]]
    if _UNREACHED.search(done.stderr):
        raise NotReachedError("the package index does not answer")
    missing = _MISSING.search(done.stderr)
    if missing is None:
        print(f"pip failed for Python {python}: {done.stderr.strip()[-500:]}", file=sys.stderr)
        raise SystemExit(2)
    if len(requirements) == 1:
        return [Wheel(name=missing[1], version="-", file=None)]
    found: dict[str, Wheel] = {}
    for requirement in requirements:  # one by one, so that each that is missing is named
        found |= {wheel.name: wheel for wheel in resolve(python, [requirement], with_own=with_own)}
    return list(found.values())


def _wheel(item: dict[str, dict[str, str]]) -> Wheel:
    about = item["metadata"]
    file = item["download_info"]["url"].rsplit("/", 1)[-1]
    is_wheel = file.endswith("-none-any.whl") or "aarch64" in file
    return Wheel(name=about["name"], version=about["version"], file=file if is_wheel else None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="one Python, direct dependencies only")
    is_quick: bool = parser.parse_args().quick
    requirements = dependencies(Path(__file__).parents[1])
    found: dict[str, list[Wheel]] = {}
    try:
        for python in PYTHONS[:1] if is_quick else PYTHONS:
            progress(f"resolving {len(requirements)} requirements for Python {python} on aarch64")
            found[python] = resolve(python, requirements, with_own=not is_quick)
    except NotReachedError as exc:
        return finish("wheels", f"not reached: {exc}", {"reached": False}, is_quick=is_quick)
    by_name: dict[str, dict[str, Wheel]] = {}
    for python, wheels in found.items():
        for wheel in wheels:
            by_name.setdefault(wheel.name, {})[python] = wheel
    rows = []
    for name in sorted(by_name, key=str.lower):
        cells = [by_name[name].get(python) for python in found]
        rows.append([name, *(f"{w.version} {w.kind}" if w else "not needed" for w in cells)])
    missing = sorted({f"{w.name} ({p})" for p, ws in found.items() for w in ws if w.file is None})
    text = table(("package", *(f"Python {python}" for python in found)), rows)
    text += "\n\n" + (f"missing: {', '.join(missing)}" if missing else "none is missing")
    figures: dict[str, object] = {
        "reached": True,
        "packages": {
            name: {python: f"{w.version} {w.kind}" for python, w in by_python.items()}
            for name, by_python in by_name.items()
        },
        "missing": missing,
    }
    finish("wheels", text, figures, is_quick=is_quick)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
