"""What a trainer writes in a scene file, and the strict reading of it.

Every figure is in scene seconds, metres, kilograms and counts per second (cps). A key that no
table knows is refused, because a misspelt ``sheilding`` would silently teach the wrong lesson.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin, get_type_hints

from simulators.spectra import NUCLIDES

Four = tuple[float, float, float, float]
T = TypeVar("T")

_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class SceneError(ValueError):
    """A scene file cannot be played; the one sentence names file, table and key."""


@dataclass(frozen=True, slots=True)
class Within:
    """The bounds of a number and its unit."""

    low: float
    high: float
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GammaSource:
    """A point source aboard: net gamma rate of all four detectors at closest approach."""

    peak_cps: Annotated[float, Within(0, 1e6, "cps")]
    offset_m: Annotated[float, Within(0, 40, "m")]  # behind the front bumper
    detectors: Annotated[Four, Within(0, 100)] = (1.0, 1.0, 1.0, 1.0)  # relative shares
    nuclide: str = "Cs-137"  # one of `spectra.NUCLIDES`; only a spectrometer can tell
    # Its own shield as iron. It changes the spectrum; peak_cps is what is left behind it.
    shield_g_per_cm2: Annotated[float, Within(0, 100, "g/cm²")] = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NormCargo:
    """Naturally radioactive cargo spread over the whole vehicle: net rate when it is centred."""

    peak_cps: Annotated[float, Within(0, 1e6, "cps")]
    detectors: Annotated[Four, Within(0, 100)] = (1.0, 1.0, 1.0, 1.0)
    # Relative shares of the three natural series in that rate.
    potassium: Annotated[float, Within(0, 100)] = 1.0
    uranium: Annotated[float, Within(0, 100)] = 1.0
    thorium: Annotated[float, Within(0, 100)] = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NeutronSource:
    """A point source of neutrons aboard: net rate of all tubes together at closest approach."""

    peak_cps: Annotated[float, Within(0, 1e5, "cps")]
    offset_m: Annotated[float, Within(0, 40, "m")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Someone from the vehicle who walks through the metal detector."""

    walks_at_s: Annotated[float, Within(-120, 300, "s")]  # after the vehicle breaks the beam
    metal: bool = False
    selected_at_random: bool = False
    direction: Literal["in", "out"] = "in"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """One vehicle; ``at_s`` is when its front breaks the beam of the portal."""

    id: str
    label: str = ""
    at_s: Annotated[float, Within(0, 1e6, "s")]
    speed_m_per_s: Annotated[float, Within(0.2, 20, "m/s")] = 2.5
    length_m: Annotated[float, Within(1, 40, "m")] = 9.0
    # Part of the background that the vehicle keeps from the detectors while it stands between them.
    shielding: Annotated[float, Within(0, 0.95)] = 0.30
    mass_kg: Annotated[float | None, Within(0, 200_000, "kg")] = None  # None: never weighed
    weigh: Literal["before", "after"] = "after"
    # Between the beam (clear, or broken) and the first (or last) axle on the scale.
    weigh_delay_s: Annotated[float, Within(0, 300, "s")] = 4.0
    # A tractor with its trailer far behind: the portal ends its occupancy and begins another.
    split_at_m: Annotated[float | None, Within(0.5, 39, "m")] = None
    split_gap_s: Annotated[float | None, Within(0.4, 60, "s")] = None
    unplug_portal_at_s: Annotated[float | None, Within(-60, 300, "s")] = None
    replug_after_s: Annotated[float | None, Within(0.2, 3600, "s")] = None
    # A container around whatever is aboard, as iron: it softens what a spectrometer sees.
    container_g_per_cm2: Annotated[float, Within(0, 50, "g/cm²")] = 0.0
    gamma: GammaSource | None = None
    hidden: GammaSource | None = None  # another source, masked by the first or by the cargo
    norm: NormCargo | None = None
    neutron: NeutronSource | None = None
    person: Person | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Background:
    """What the detectors see with nobody in the lane."""

    gamma_cps: Annotated[Four, Within(1, 20_000, "cps")] = (402.0, 390.0, 430.0, 415.0)
    neutron_cps: Annotated[float, Within(0, 1000, "cps")] = 2.6  # all tubes together


@dataclass(frozen=True, slots=True, kw_only=True)
class PortalSetup:
    """How the portal of the lane is set."""

    controller: Literal["sc-770", "sc-880"] = "sc-770"
    nsigma: Annotated[float, Within(1, 20, "sigma")] = 5.0
    # Algorithm bits in the order SUM, HORIZONTAL, VERTICAL, SINGLE.
    algorithm: Literal["1000", "1010", "1110", "1111", "0010", "0001"] = "1010"
    settings_at_s: Annotated[float, Within(0, 1e5, "s")] = 2.0  # when it says its settings


@dataclass(frozen=True, slots=True, kw_only=True)
class SpectrometerSetup:
    """A spectroscopic panel beside the counting portal; ``none``: the lane has none."""

    instrument: Literal["none", "kromek-d3s", "kromek-d3m", "kromek-d4", "kromek-d5", "rs-350"] = (
        "none"
    )
    # What it counts with nobody in the lane. Sources keep the ratio to the background that they
    # have at the portal: peak_cps is scaled by this over the sum of background.gamma_cps.
    background_cps: Annotated[float, Within(1, 20_000, "cps")] = 600.0
    neutron_share: Annotated[float, Within(0, 10)] = 0.1  # of what the portal's tubes count
    # The crystal's temperature swings once in swing_s, and its pulse heights with it.
    temperature_c: Annotated[float, Within(-30, 60, "°C")] = 20.0
    swing_c: Annotated[float, Within(0, 30, "°C")] = 0.0
    swing_s: Annotated[float, Within(60, 1e6, "s")] = 86_400.0
    gain_per_c: Annotated[float, Within(-0.02, 0.02, "1/°C")] = -0.003  # nominal at 20 °C


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneSetup:
    """What the lane allows."""

    max_gross_kg: Annotated[float, Within(1, 200_000, "kg")] = 40_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Clean vehicles made up from the seed, so that a long day is short to write."""

    vehicles: Annotated[int, Within(1, 2000)]
    first_at_s: Annotated[float, Within(0, 1e6, "s")] = 30.0
    mean_gap_s: Annotated[float, Within(0, 3600, "s")] = 60.0  # after one has left everything


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that befalls the portal itself, not a vehicle."""

    # radon: rain brings its daughters down; the uranium series rises to `factor` in the first
    # quarter of the time and falls back over the rest.
    kind: Literal["tamper", "gamma_background", "neutron_background", "radon"]
    at_s: Annotated[float, Within(0, 1e6, "s")]
    for_s: Annotated[float, Within(0.2, 1e6, "s")]
    factor: Annotated[float, Within(0, 1000)] = 1.0  # times the background
    detectors: Annotated[Four, Within(0, 1)] = (1.0, 1.0, 1.0, 1.0)  # 1: touched, 0: not


@dataclass(frozen=True, slots=True, kw_only=True)
class Exercise:
    """One whole scene file."""

    title: str
    seed: Annotated[int, Within(0, 2**31)]
    duration_s: Annotated[float | None, Within(1, 1e6, "s")] = None  # None: until all have left
    background: Background = Background()
    portal: PortalSetup = PortalSetup()
    spectrometer: SpectrometerSetup = SpectrometerSetup()
    lane: LaneSetup = LaneSetup()
    traffic: Traffic | None = None
    vehicle: tuple[Vehicle, ...] = ()
    event: tuple[Event, ...] = ()


def read_exercise(text: str, *, name: str) -> Exercise:
    """Read the text of a scene file; ``name`` is the file as the trainer knows it.

    Raises
    ------
    SceneError
        At the first key that cannot be played.
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as exc:
        raise SceneError(f"{name}: this is not TOML ({exc}); correct that line") from exc
    exercise = _read(Exercise, table, name)
    seen: set[str] = set()
    for number, vehicle in enumerate(exercise.vehicle, 1):
        where = f'{name}: [[vehicle]] {number} "{vehicle.id}"'
        if vehicle.id in seen:
            raise SceneError(f"{where}, key id: another vehicle has this id; choose a new one")
        seen.add(vehicle.id)
        _check_vehicle(vehicle, where)
    return exercise


def read_exercise_file(path: Path) -> Exercise:
    """Read a scene file; SceneError also where the file itself cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise SceneError(f"{path.name}: cannot be read as text ({exc}); check the path") from exc
    return read_exercise(text, name=path.name)


def _check_vehicle(vehicle: Vehicle, where: str) -> None:
    """Refuse keys that contradict each other."""
    if _ID.fullmatch(vehicle.id) is None:
        raise SceneError(f"{where}, key id: expected small letters, digits and hyphens")
    for first, second in (
        ("split_at_m", "split_gap_s"),
        ("unplug_portal_at_s", "replug_after_s"),
    ):
        if (getattr(vehicle, first) is None) != (getattr(vehicle, second) is None):
            raise SceneError(f"{where}: {first} and {second} go together; give both or neither")
    if vehicle.split_at_m is not None and vehicle.split_at_m >= vehicle.length_m:
        raise SceneError(
            f"{where}, key split_at_m: {vehicle.split_at_m:g} lies outside the vehicle; "
            f"expected less than length_m = {vehicle.length_m:g}"
        )
    for key in ("gamma", "hidden", "neutron"):
        source = getattr(vehicle, key)
        if isinstance(source, GammaSource) and source.nuclide not in NUCLIDES:
            close = difflib.get_close_matches(source.nuclide, NUCLIDES, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(NUCLIDES)}"
            raise SceneError(f"{where}, key {key}.nuclide: no such source; {hint}")
        if source is not None and source.offset_m > vehicle.length_m:
            raise SceneError(
                f"{where}, key {key}.offset_m: {source.offset_m:g} lies behind the vehicle; "
                f"expected at most length_m = {vehicle.length_m:g}"
            )


def _read(kind: type[T], table: dict[str, Any], where: str) -> T:
    """Read one table into its dataclass, refusing what it does not know."""
    fields = {field.name: field for field in dataclasses.fields(cast("Any", kind))}
    for key in table:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f'did you mean "{close[0]}"?' if close else f"known are {', '.join(fields)}"
            raise SceneError(f"{where}, key {key}: unknown key; {hint}")
    hints = get_type_hints(kind, include_extras=True)
    values: dict[str, object] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _value(hints[name], table[name], f"{where}, key {name}")
        elif field.default is dataclasses.MISSING:
            raise SceneError(f"{where}, key {name}: missing; this key has to be given")
    return kind(**values)


def _value(hint: Any, value: object, where: str) -> object:
    """Check one value against the annotation of its field."""
    if get_origin(hint) is Annotated:
        kind, within = get_args(hint)
        if get_origin(kind) is tuple:
            return _figures(value, within, where)
        return _number(kind, value, within, where)
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is Literal:
        if value not in options:
            raise SceneError(f"{where}: {value!r} is none of {', '.join(map(repr, options))}")
        return value
    if get_origin(hint) is tuple:
        return _tables(options[0], value, where)
    if hint in (str, bool):
        if not isinstance(value, hint):
            word = "text in quotes" if hint is str else "true or false"
            raise SceneError(f"{where}: expected {word}, not {value!r}")
        return value
    if not isinstance(value, dict):
        raise SceneError(f"{where}: expected a table, not {value!r}")
    kind = options[0] if options else hint  # X | None
    return _read(kind, value, where.replace(", key ", ": table ", 1))


def _tables(kind: Any, value: object, where: str) -> tuple[object, ...]:
    """Check an array of tables such as ``[[vehicle]]``."""
    file, _, key = where.rpartition(", key ")
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise SceneError(f"{where}: expected tables written [[{key}]], not {value!r}")
    rows: list[object] = []
    for number, row in enumerate(value, 1):
        named = f' "{row["id"]}"' if isinstance(row.get("id"), str) else ""
        rows.append(_read(kind, row, f"{file}: [[{key}]] {number}{named}"))
    return tuple(rows)


def _figures(value: object, within: Within, where: str) -> tuple[float, ...]:
    """Check a list of four figures, one a detector."""
    if not isinstance(value, list) or len(value) != 4:
        raise SceneError(f"{where}: expected 4 figures, one a detector, not {value!r}")
    return tuple(_number(float, item, within, where) for item in value)


def _number(kind: object, value: object, within: Within, where: str) -> float | int:
    unit = f" [{within.unit}]" if within.unit else ""
    word = "whole number" if kind is int else "number"
    expected = f"expected a {word} from {within.low:g} to {within.high:g}{unit}"
    accepted = int if kind is int else (int, float)
    if isinstance(value, bool) or not isinstance(value, accepted):
        raise SceneError(f"{where}: {expected}, not {value!r}")
    if not math.isfinite(value) or not within.low <= value <= within.high:
        raise SceneError(f"{where}: {value!r} is out of range; {expected}")
    return value if kind is int else float(value)
