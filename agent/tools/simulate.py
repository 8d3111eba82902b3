"""``checkpointd simulate``: a scene on ports of this machine."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from pathlib import Path

from agent.tools.terminal import wrong_input
from simulators.exercise import SceneError
from simulators.lane import LanePorts, run_lane
from simulators.scene import Scene


def scene_of(name: str) -> Scene:
    """Return a named scene or one from a file; raises SceneError."""
    is_file = "/" in name or name.endswith(".toml")
    return Scene.load(Path(name)) if is_file else Scene.named(name)


def simulate_command(arguments: argparse.Namespace) -> int:
    """Play a scene until it ends, for ``--for`` seconds, or until interrupted."""
    if arguments.list:
        for name in Scene.names():
            print(f"{name:<16} {Scene.named(name).exercise.title}")
        return 0
    with wrong_input(SceneError):
        scene = scene_of(arguments.scene)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(
            run_lane(
                scene,
                time_scale=arguments.time_scale,
                for_s=arguments.for_s,
                announce=lambda ports: _announce(ports, scene.exercise.spectrometer.instrument),
            )
        )
    return 0


SPECTROMETERS = {
    "kromek-d3s": 'driver = "rpm.kromek"\nmodel = "D3S"\nenergy_kev = [0.0, 0.75]\n',
    "kromek-d3m": 'driver = "rpm.kromek"\nmodel = "D3M"\nenergy_kev = [0.0, 0.75]\n',
    "kromek-d4": 'driver = "rpm.kromek"\nmodel = "D4"\nenergy_kev = [0.0, 0.75]\n',
    "kromek-d5": 'driver = "rpm.kromek"\nmodel = "D5"\nenergy_kev = [0.0, 0.75]\n',
    "rs-350": 'driver = "rpm.n42_stream"\n',
}
"""How a lane's file reads each simulated spectroscopic panel, its port apart."""
CRYSTALS = {"kromek": ("csi", [2.54, 2.54, 5.0]), "rs-350": ("nai", [5.08, 10.16, 40.64])}
"""What the simulated panels count with, as a technician would read it off the type plate."""
PANEL = """[devices.panel]
{driver}port = "{port}"
silence_s = 30.0

[spectral]
detector = "{material}"
crystal_cm = {crystal_cm}
background_memory_s = 120.0
guard_s = 2.0
"""


def panel_tables(ports: LanePorts, instrument: str) -> str:
    """Return the lane file's tables for the spectroscopic panel, empty where the scene has none."""
    if ports.spectrometer is None:
        return ""
    material, crystal_cm = CRYSTALS[instrument.partition("-d")[0]]
    return PANEL.format(
        driver=SPECTROMETERS[instrument],
        port=ports.spectrometer,
        material=material,
        crystal_cm=crystal_cm,
    )


def _announce(ports: LanePorts, instrument: str) -> None:
    """Print the devices' tables as they would stand in a lane's file."""
    print(
        f'[devices.rpm]\ndriver = "rpm.rapiscan"\nport = "{ports.portal}"\n\n'
        f'[devices.scale]\ndriver = "scale.toledo"\nport = "{ports.scale}"\n\n'
        f'[devices.metal]\ndriver = "metal.dry_contact"\nport = "{ports.metal}"\n'
        f'preset = "moxa-e1212"\n\n{panel_tables(ports, instrument)}',
        flush=True,
    )
