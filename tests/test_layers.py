"""Who may import whom: the tables of docs/architecture.md, read off every module's source.

Three things are held: each layer imports only what it may, inside a package imports run from one
room down to another and never up, and no files import each other in a circle.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("agent", "drivers", "simulators")
BARRED_FROM_PURE = frozenset(
    {
        "asyncio",
        "socket",
        "serial",
        "time",
        "logging",
        "random",
        "threading",
        "subprocess",
        "sqlite3",
    }
)


@dataclass(frozen=True)
class Rule:
    """``inside``: prefixes of our own modules; ``outside``: other packages, standard ones apart."""

    modules: tuple[str, ...]
    inside: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    barred: frozenset[str] = frozenset()


WORDS = ("drivers.readings",)
SHARED_BY_CODECS = (
    "drivers.base",
    "drivers.counters",
    "drivers.inputs",
    "drivers.line_cutter",
    "drivers.lines",
    "drivers.mrz",
    "drivers.n42_xml",
    "drivers.register_weight",
    "drivers.registers",
    "drivers.slip",
    "drivers.text_lines",
    "drivers.weighing",
    "drivers.weighing_lines",
    "drivers.xml_tree",
)
CODECS = (*SHARED_BY_CODECS, "drivers.rpm", "drivers.scale", "drivers.metal", "drivers.lane")
PIPES = ("drivers.transport", "drivers.listener", "drivers.modbus")
MATHEMATICS = ("agent.analysis",)
CORE = ("agent.records", "agent.lane")
EVIDENCE = ("agent.evidence",)
EDGES = (
    "agent.settings",
    "agent.config",
    "agent.clock",
    "agent.health",
    "agent.version",
    "agent.delivery.wire",
    "agent.delivery.blobs",
    "agent.delivery.snapshots",
)
DELIVERY = ("agent.delivery",)
DEVICES = ("agent.daemon.link", "agent.daemon.outputs", "agent.daemon.relay")
# The rooms of each package from the ground up: each imports only those named before it.
ROOMS = {
    "agent.analysis": (
        "energy",
        "response",
        "detection",
        "identification",
        "counting",
        "sought",
    ),
    "agent.lane": (
        "options",
        "state",
        "question",
        "moment",
        "vehicles",
        "alarms",
        "links",
        "portals",
        "occupancy",
        "radiation",
        "instruments",
        "spectra",
        "event",
        "passage",
        "annunciator",
        "due",
        "step",
        "inline",
    ),
    "agent.delivery": ("blobs", "snapshots", "wire", "store", "outbox", "uplink", "forward"),
    "agent.daemon": (
        "link",
        "relay",
        "outputs",
        "worker",
        "long_work",
        "recorder",
        "gateway_faults",
        "running_lane",
        "display",
        "supervisor",
    ),
    "agent.evidence": ("n42_words", "n42", "n42_read", "event"),
    "agent.config": (
        "problems",
        "lines",
        "source",
        "options",
        "ports",
        "relays",
        "certificates",
        "checks",
        "identity_key",
        "nuclides",
        "model_file",
        "spectral",
        "load",
        "listing",
        "change",
    ),
    "agent.tools": (
        "terminal",
        "show",
        "simulate",
        "demo",
        "capture",
        "check",
        "devices",
        "run",
        "status",
        "evaluate",
        "probe",
        "replay",
        "calibrate",
    ),
}

RUNNING = (
    "agent.daemon.supervisor",
    "agent.daemon.display",
    "agent.daemon.gateway_faults",
    "agent.daemon.long_work",
    "agent.daemon.worker",
    "agent.daemon.recorder",
    "agent.daemon.running_lane",
)
TOP = (*RUNNING, "agent.cli", "agent.tools")

# The first rule whose module fits counts: the narrow before the wide.
RULES = (
    Rule(WORDS, WORDS, ("numpy", "msgspec.Meta"), BARRED_FROM_PURE),
    Rule(("drivers.base",), WORDS, (), BARRED_FROM_PURE),
    Rule(CODECS, (*WORDS, *SHARED_BY_CODECS), ("numpy", "msgspec.Meta"), BARRED_FROM_PURE),
    Rule(("drivers.modbus",), (*WORDS, "drivers.base", *PIPES), ("pymodbus",), frozenset()),
    Rule(("drivers.transport",), (*WORDS, "drivers.base"), ("serial",), frozenset()),
    Rule(("drivers.listener",), ("drivers.transport",), (), frozenset()),
    Rule(MATHEMATICS, MATHEMATICS, ("numpy", "scipy.special"), BARRED_FROM_PURE),
    Rule(CORE, (*CORE, *WORDS, *MATHEMATICS), ("numpy", "msgspec.Meta"), BARRED_FROM_PURE),
    Rule(EVIDENCE, (*EVIDENCE, *CORE, *WORDS, "drivers.xml_tree"), ("numpy",), BARRED_FROM_PURE),
    Rule(
        EDGES,
        (*EDGES, *CORE, *MATHEMATICS, *PIPES, *CODECS, *WORDS),
        ("msgspec", "cryptography", "numpy", "rfc8785"),
        frozenset({"sqlite3"}),
    ),
    Rule(
        ("agent.delivery.uplink",),
        (*DELIVERY, *EDGES, *CORE, *WORDS),
        ("msgspec", "paho"),
        frozenset({"sqlite3"}),
    ),
    Rule(
        ("agent.delivery.store.journal",),
        (*DELIVERY, *EDGES, *CORE, *WORDS),
        ("msgspec",),
        frozenset(),
    ),
    Rule(
        DELIVERY,
        (*DELIVERY, *EDGES, *CORE, *WORDS),
        ("msgspec",),
        frozenset({"sqlite3"}),
    ),
    Rule(
        DEVICES,
        (*DEVICES, *EDGES, *CORE, *PIPES, *CODECS, *WORDS),
        (),
        frozenset({"sqlite3"}),
    ),
    Rule(
        (*RUNNING, "agent.cli"),
        ("agent", "drivers"),
        ("msgspec",),
        frozenset({"sqlite3"}),
    ),
    Rule(
        ("agent.tools",),
        PACKAGES,
        ("msgspec", "numpy", "scipy", "rich", "amqtt"),
        frozenset({"sqlite3"}),
    ),
    Rule(("simulators.centre",), ("simulators",), ("numpy", "paho"), frozenset()),
    Rule(("simulators",), ("simulators",), ("numpy",), frozenset({"sqlite3"})),
    Rule(("agent", "drivers"), (), (), frozenset()),  # the empty __init__ of each package
)


def below(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def imports(source: str) -> dict[str, int]:
    """Return what a module imports, with lines; ``from a import b`` is ``a.b``."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name: node.lineno for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import hides its layer"
            found |= {f"{node.module}.{alias.name}": node.lineno for alias in node.names}
    return found


def violations(module: str, source: str) -> list[str]:
    """Return one sentence for each import that the module's layer does not allow."""
    rule = next(rule for rule in RULES if below(module, rule.modules))
    wrong = []
    for name, line in imports(source).items():
        top = name.partition(".")[0]
        if top in PACKAGES:
            # `from agent import config` names a package's member, `agent.config`.
            is_allowed = below(name, rule.inside)
        elif top in sys.stdlib_module_names:
            is_allowed = top not in rule.barred
        else:
            is_allowed = below(name, rule.outside)
        if not is_allowed:
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def room_of(name: str) -> tuple[str, str] | None:
    """Return package and room of a module, None where it is the package itself or has no rooms."""
    for package in ROOMS:
        if name.startswith(f"{package}."):
            return package, name.removeprefix(f"{package}.").partition(".")[0]
    return None


def arrows_up(module: str, source: str) -> list[str]:
    """Return one sentence for each import that runs up inside the module's package."""
    place = room_of(module)
    if place is None:
        return []
    package, own = place
    rooms = ROOMS[package]
    wrong = []
    for name, line in imports(source).items():
        other = room_of(name)
        if other is None or other[0] != package or other[1] == own:
            continue
        if other[1] not in rooms or own not in rooms:
            wrong.append(f"{module}:{line} imports {name}: not in the table of rooms")
        elif rooms.index(other[1]) > rooms.index(own):
            wrong.append(f"{module}:{line} imports {name}, which stands above it")
    return wrong


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Return a circle of files for each that can be walked; none: every import leads down."""
    done: set[str] = set()
    found = []

    def walk(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
        elif name not in done:
            for other in sorted(graph.get(name, ())):
                walk(other, (*path, name))
            done.add(name)

    for name in sorted(graph):
        walk(name, ())
    return found


def file_graph(sources: dict[str, str]) -> dict[str, set[str]]:
    """Return which module's file imports which others of ours."""
    graph = {}
    for module, source in sources.items():
        names = imports(source)
        graph[module] = {
            name if name in sources else name.rpartition(".")[0] for name in names
        } & set(sources) - {module}
    return graph


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def test_every_module_imports_only_what_its_layer_allows():
    found = modules()
    assert len(found) > 30, "the modules were not found"
    wrong = [w for name, path in found.items() for w in violations(name, path.read_text("utf-8"))]
    assert wrong == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("drivers.rpm.rapiscan", "import asyncio"),
        ("drivers.rpm.rapiscan", "from time import monotonic"),
        ("drivers.rpm.rapiscan", "from drivers.rpm import aspect"),
        ("drivers.scale.toledo", "import serial"),
        ("drivers.scale.toledo", "import msgspec"),
        ("drivers.metal.dry_contact", "from pymodbus.client import AsyncModbusTcpClient"),
        ("drivers.metal.dry_contact", "from drivers.modbus import ModbusLine"),
        ("drivers.lane.outputs", "from drivers.modbus import ModbusLine"),
        ("drivers.lane.identity_line", "from drivers.lane import contacts"),
        ("agent.lane.annunciator", "from agent.daemon.outputs import OutputLink"),
        ("drivers.base", "from agent.records import Alarm"),
        ("drivers.transport", "import pymodbus"),
        ("drivers.listener", "from drivers.rpm import ludlum_375"),
        ("drivers.transport", "from drivers.modbus import ModbusLine"),
        ("agent.analysis.counting.gross", "from drivers.readings import GammaCounts"),
        ("agent.analysis.counting.gross", "from scipy import stats"),
        ("agent.analysis.counting.gross", "import scipy.optimize"),
        ("agent.lane.step", "def f():\n    import logging"),
        ("agent.lane.step", "from agent.settings import LaneConfig"),
        ("agent.records", "import msgspec"),
        ("agent.evidence.n42", "import lxml.etree"),
        ("agent.evidence.n42", "from agent.delivery import wire"),
        ("agent.config.load", "from agent.daemon.link import Link"),
        ("agent.config.load", "import yaml"),
        ("agent.delivery.wire", "from agent.delivery.store.journal import Journal"),
        ("agent.delivery.wire", "import sqlite3"),
        ("agent.delivery.forward", "import paho.mqtt.client"),
        ("agent.delivery.forward", "from agent.daemon.link import DeviceLink"),
        ("agent.delivery.store.thread", "import sqlite3"),
        ("agent.daemon.link", "from agent.daemon.supervisor import Supervisor"),
        ("agent.daemon.supervisor", "import scipy.stats"),
        ("agent.daemon.supervisor", "from simulators.scene import Scene"),
        ("agent.tools.demo", "import paho.mqtt.client"),
        ("simulators.rpm", "from drivers.readings import GammaCounts"),
        ("simulators.centre", "from agent.delivery import wire"),
        ("simulators.modbus_server", "import pymodbus"),
    ],
)
def test_an_import_across_the_layers_is_caught(module, source):
    assert len(violations(module, source)) == 1, f"{module} may not: {source}"


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("drivers.rpm.rapiscan", "from msgspec import Meta\nimport re\nimport drivers.base"),
        ("drivers.modbus", "import pymodbus.pdu\nimport asyncio"),
        ("agent.lane.step", "from agent.analysis import gross\nfrom msgspec import Meta"),
        ("agent.delivery.store.journal", "import sqlite3\nfrom agent.delivery import wire"),
        ("agent.delivery.uplink", "import paho.mqtt.client as mqtt"),
        ("agent.tools.demo", "from simulators.scene import Scene\nimport rich.table"),
        ("simulators.centre", "import sqlite3\nimport paho.mqtt.client"),
    ],
)
def test_an_import_that_the_layer_allows_passes(module, source):
    assert violations(module, source) == []


def test_imports_run_down_from_room_to_room():
    wrong = [
        w for name, path in modules().items() for w in arrows_up(name, path.read_text("utf-8"))
    ]
    assert wrong == []


def test_every_room_of_the_table_stands_and_none_is_missing_in_it():
    for package, rooms in ROOMS.items():
        below_it = {
            place[1]
            for place in map(room_of, modules())
            if place is not None and place[0] == package
        }
        assert sorted(rooms) == sorted(below_it), package


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("agent.lane.instruments.weighing", "from agent.lane.passage import publish"),
        ("agent.lane.state", "from agent.lane.spectra.slices import Slice"),
        ("agent.lane.moment", "from agent.lane import vehicles"),
        ("agent.lane.passage", "from agent.lane.annunciator import note"),
        ("agent.lane.radiation.counts", "from agent.lane.spectra import judging"),
        ("agent.analysis.response.library", "import agent.analysis.detection.model"),
        ("agent.analysis.identification.norm", "from agent.analysis import sought"),
        ("agent.delivery.wire", "from agent.delivery.store.journal import Journal"),
        ("agent.delivery.store.journal", "from agent.delivery.uplink import Connection"),
        ("agent.daemon.link", "from agent.daemon.running_lane import RunningLane"),
        ("agent.tools.evaluate.passes", "def f():\n    from agent.tools.calibrate import energy"),
        ("agent.tools.terminal", "from agent.tools import show"),
        ("agent.lane.newcomer", "from agent.lane.step import step"),
    ],
)
def test_an_arrow_that_is_turned_round_is_caught(module, source):
    assert len(arrows_up(module, source)) == 1, f"{module} may not: {source}"


def test_no_files_import_each_other():
    sources = {name: path.read_text("utf-8") for name, path in modules().items()}
    assert circles(file_graph(sources)) == []


def test_a_circle_of_three_files_is_caught():
    sources = {
        "agent.a": "from agent.b import x",
        "agent.b": "def f():\n    from agent import c",
        "agent.c": "import agent.a",
    }
    assert circles(file_graph(sources)) == [["agent.a", "agent.b", "agent.c", "agent.a"]]


def test_a_relative_import_is_refused():
    with pytest.raises(AssertionError, match="relative"):
        violations("agent.daemon.link", "from . import clock")


def test_no_daemon_module_reaches_a_tools_library():
    """What ``checkpointd run`` loads holds neither simulators nor what only tools need."""
    found = modules()
    reached, waiting = set(), ["agent.tools.run"]
    while waiting:
        name = waiting.pop()
        if name in reached or name not in found:
            continue
        reached.add(name)
        for imported in imports(found[name].read_text("utf-8")):
            assert not below(
                imported,
                ("simulators", "rich", "amqtt", "scipy.stats", "scipy.optimize", "cryptography"),
            ), f"{name} imports {imported}"
            if imported.startswith("agent.cli"):
                continue  # imports each command's module only when that command runs
            waiting += [imported, imported.rpartition(".")[0]]
    assert "agent.daemon.supervisor" in reached
