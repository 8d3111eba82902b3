"""``checkpointd calibrate scale``: weigh test loads through the scale's own driver, and judge them.

It only reads. What it proposes is a section for the lane's file; the instrument is adjusted and
sealed at the instrument, by those who may.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, is_dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from agent import config as configuration
from agent.clock import Clock
from agent.daemon.link import Lines, make_link
from agent.lane.options.scales import ScaleCalibration, ScaleOptions
from agent.records import LaneEvent, LinkChange, Timed
from agent.settings import DeviceConfig
from agent.tools.calibrate.table import Plan, Point, Result, due_after, judge, parse_load, section
from agent.tools.terminal import WrongInputError, refuse_to_overwrite, wrong_input
from drivers.readings import Housekeeping, Weight
from drivers.transport import tcp_address

NEAR_SHARE, NEAR_INTERVALS = 0.05, 10
"""A reading further from the announced load than this part of it and so many e is another load."""
LOOK_S = 0.05
HOST_FACTOR = 2
"""Where the scale does not tell rest, its figure must stand so many times as long."""

Prompt = Callable[[str], Awaitable[None]]
Say = Callable[[str], None]


class MeasureError(Exception):
    """The scale gave no usable reading; the text says what was seen and what to do."""


class Live:
    """What the scale shows, and since when it has shown that."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._weight: Weight | None = None
        self._since_s = 0.0
        self.trouble = "nothing came from the scale; check its port, cable and power"
        self.counters: dict[str, int] = {}

    def take(self, event: LaneEvent) -> None:
        """Take what the link says."""
        if isinstance(event, LinkChange) and not event.is_up:
            self._weight, self.trouble = None, event.detail
        elif isinstance(event, Timed) and isinstance(event.reading, Housekeeping):
            self.counters[event.reading.quantity] = int(event.reading.value)
        elif isinstance(event, Timed) and isinstance(event.reading, Weight):
            before, self._weight = self._weight, event.reading
            if before is None or _figure(before) != _figure(event.reading):
                self._since_s = self._clock.mono_s()

    @property
    def shown(self) -> str:
        """Return what the display shows now, for people."""
        weight = self._weight
        if weight is None:
            return "nothing"
        if weight.range != "ok" or weight.value is None:
            return f"{weight.range} range"
        moving = {True: "", False: " moving", None: " (rest unknown)"}[weight.stable]
        return f"{weight.value} {weight.unit or 'without unit'}{moving}"

    @property
    def mass_kg(self) -> float | None:
        """Return the mass shown [kg], None where there is none."""
        return None if self._weight is None else self._weight.mass_kg

    def resting(self, settle_s: float) -> Weight | None:
        """Return the indication where it has rested for so long [s]."""
        weight = self._weight
        if weight is None or weight.range != "ok" or weight.stable is False:
            return None
        needed_s = settle_s * (HOST_FACTOR if weight.stable_by != "device" else 1)
        needed_s *= HOST_FACTOR if weight.stable is None else 1
        return weight if self._clock.mono_s() - self._since_s >= needed_s else None

    def seen(self, load_kg: float) -> str:
        """Return why no reading of this load was taken."""
        weight = self._weight
        if weight is None:
            return self.trouble
        if weight.range != "ok":
            return f"the display is {weight.range} range; unload it, or have the scale looked at"
        if weight.mass_kg is None:
            return f"the display shows {self.shown}; set the unit in the lane's file"
        if weight.stable is False:
            return f"the display did not come to rest (now {self.shown}); wait for wind and engine"
        return (
            f"the display shows {self.shown}, which is not near {load_kg:g} kg; check the load, "
            "and the unit and the decimals of the scale"
        )


def _figure(weight: Weight) -> tuple[object, ...]:
    return (weight.value, weight.unit, weight.mode, weight.range, weight.stable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long an indication must stand, and how long it is waited for [s]."""

    settle_s: float
    wait_s: float


async def measure(live: Live, plan: Plan, pace: Pace, prompt: Prompt, clock: Clock) -> Result:
    """Return zero, every load and zero again, judged.

    Raises
    ------
    MeasureError
        If a step gave no usable reading in time.
    """
    await prompt("Clear the platform")
    zero_before = await _weigh(live, plan, pace, 0.0, clock)
    points: list[Point] = []
    for load_kg in plan.loads_kg:
        if points and points[-1].load_kg == load_kg:
            await prompt(f"Take the {load_kg:g} kg off the platform")
            await _unload(live, pace, load_kg, clock)
        await prompt(f"Put {load_kg:g} kg on the platform")
        points.append(await _weigh(live, plan, pace, load_kg, clock))
    await prompt("Clear the platform")
    zero_after = await _weigh(live, plan, pace, 0.0, clock)
    return judge(plan, zero_before.indication_kg, points, zero_after.indication_kg)


async def _weigh(live: Live, plan: Plan, pace: Pace, load_kg: float, clock: Clock) -> Point:
    """Wait for an indication that rests near the load."""
    near_kg = max(NEAR_SHARE * load_kg, NEAR_INTERVALS * plan.e_kg)
    give_up_s = clock.mono_s() + pace.wait_s
    while clock.mono_s() < give_up_s:
        weight = live.resting(pace.settle_s)
        if weight is not None and weight.mode in ("net", "tare"):
            raise MeasureError(f"the display shows {weight.mode}; clear the tare and begin anew")
        mass_kg = None if weight is None else weight.mass_kg
        if weight is not None and mass_kg is not None and abs(mass_kg - load_kg) <= near_kg:
            return Point(
                load_kg=load_kg,
                indication_kg=mass_kg,
                shown=live.shown,
                stable_by=None if weight.stable is None else weight.stable_by,
            )
        await clock.sleep(LOOK_S)
    raise MeasureError(f"{load_kg:g} kg: {live.seen(load_kg)}")


async def _unload(live: Live, pace: Pace, load_kg: float, clock: Clock) -> None:
    give_up_s = clock.mono_s() + pace.wait_s
    while live.mass_kg is None or live.mass_kg > load_kg / 2:
        if clock.mono_s() >= give_up_s:
            raise MeasureError(f"{load_kg:g} kg were not taken off in {pace.wait_s:g} s")
        await clock.sleep(LOOK_S)


# ------------------------------------------------------------------ the command


def calibrate_scale_command(arguments: argparse.Namespace) -> int:
    """Weigh and judge: 0 where the data make a calibration, 1 where not."""
    with wrong_input(configuration.ConfigError, ValueError):
        lane = configuration.load_lane(arguments.lane)
        device = _device(lane.devices, arguments)
        plan = _plan(device, arguments)
    output: Path | None = arguments.output
    refuse_to_overwrite(output, "section")
    if output is not None and not output.parent.is_dir():
        raise WrongInputError(f"{output.parent}: there is no such directory; make it first")
    clock = Clock()
    live = Live(clock)
    try:
        result = asyncio.run(_run(device, plan, live, clock, arguments))
    except MeasureError as exc:
        if arguments.json:
            print(json.dumps({"ok": False, "refusals": [str(exc)]}, ensure_ascii=False))
        else:
            print(f"checkpointd: {exc}", file=sys.stderr)
        return 1
    proposed = None
    if not result.refusals and not arguments.as_found:
        proposed = _proposed(device, plan, result, live, clock, arguments)
    if proposed is not None and output is not None:
        try:
            output.write_text(proposed, encoding="utf-8")
        except OSError as exc:  # the work must not be lost with the file
            print(f"checkpointd: {output}: {exc.strerror}; here it is instead", file=sys.stderr)
            arguments.output = None
    _print(device.name, plan, result, proposed, arguments)
    return 1 if result.refusals else 0


def _device(devices: tuple[DeviceConfig, ...], arguments: argparse.Namespace) -> DeviceConfig:
    scales = {d.name: d for d in devices if isinstance(d.kind_options, ScaleOptions)}
    name: str | None = arguments.device
    if name is None and len(scales) == 1:
        name = next(iter(scales))
    if name not in scales:
        known = ", ".join(scales) or "none"
        raise ValueError(f"--device {name or 'is missing'}: the lane's scales are {known}")
    device = scales[name]
    if arguments.port is not None:
        tcp_address(arguments.port)  # says what is no port
        device = replace(device, common=replace(device.common, port=arguments.port))
    return replace(device, driver_options=_storing_nothing(device.driver_options))


def _storing_nothing(options: object) -> object:
    """Return a driver's options without the storing of each load in an alibi memory."""
    if is_dataclass(options) and not isinstance(options, type) and hasattr(options, "alibi"):
        return replace(options, alibi=False)
    return options


def _plan(device: DeviceConfig, arguments: argparse.Namespace) -> Plan:
    options = device.kind_options
    assert isinstance(options, ScaleOptions)
    if options.e_kg is None or options.max_kg is None:
        raise ValueError(
            f"devices.{device.name}: declare e_kg and max_kg from the type plate first; nothing "
            "tells the permissible error without them"
        )
    loads_kg = tuple(parse_load(text) for text in arguments.load)
    up_to_kg = options.max_kg if arguments.up_to is None else parse_load(arguments.up_to)
    for load_kg in (*loads_kg, up_to_kg):
        if load_kg > options.max_kg:
            raise ValueError(f"{load_kg:g} kg is more than Max = {options.max_kg:g} kg")
    d_kg = options.e_kg if arguments.d is None else parse_load(arguments.d)
    if d_kg > options.e_kg:
        raise ValueError(f"--d {d_kg:g}kg: expected at most e = {options.e_kg:g} kg")
    return Plan(
        loads_kg=loads_kg,
        e_kg=options.e_kg,
        d_kg=d_kg,
        max_kg=options.max_kg,
        up_to_kg=up_to_kg,
        accuracy_class=(options.calibration or ScaleCalibration()).accuracy_class,
        in_service=not arguments.initial,
    )


async def _run(
    device: DeviceConfig, plan: Plan, live: Live, clock: Clock, arguments: argparse.Namespace
) -> Result:
    link = make_link(device, clock=clock, sink=live.take, lines=Lines(clock))
    reading = asyncio.create_task(link.run())
    is_asking = sys.stdin.isatty() and not arguments.no_prompt
    console = Console(stderr=True)
    pace = Pace(settle_s=arguments.settle, wait_s=arguments.wait)
    try:
        with console.status("waiting for the scale") as status:

            async def prompt(text: str) -> None:
                if is_asking:
                    status.stop()
                    console.print(f"{text}, then press Enter.")
                    await _enter()
                    status.start()
                else:
                    console.print(f"{text}.")
                status.update(f"{text}: waiting for the figure to rest")

            measuring = asyncio.create_task(measure(live, plan, pace, prompt, clock))
            done, _ = await asyncio.wait({measuring, reading}, return_when=asyncio.FIRST_COMPLETED)
            if measuring not in done:
                measuring.cancel()
                reading.result()  # a driver that raised is a bug, and shows as one
            return measuring.result()
    finally:
        reading.cancel()
        await asyncio.wait({reading})


async def _enter() -> None:
    """Wait for a line on standard input; Ctrl-C stays possible, unlike in a thread."""
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(sys.stdin.fileno())
    if not sys.stdin.readline():
        raise MeasureError("standard input ended before the last load; begin anew")


def _proposed(
    device: DeviceConfig,
    plan: Plan,
    result: Result,
    live: Live,
    clock: Clock,
    arguments: argparse.Namespace,
) -> str:
    options = device.kind_options
    assert isinstance(options, ScaleOptions)
    now = datetime.fromtimestamp(clock.stamp().utc_us / 1e6, tz=UTC)
    due = due_after(now.date(), arguments.months)

    def counter(name: str) -> int | None:
        typed: int | None = getattr(arguments, name)
        return live.counters.get(name) if typed is None else typed

    new = ScaleCalibration(
        accuracy_class=plan.accuracy_class,
        calibrated=now.date().isoformat(),
        due=due.isoformat(),
        errors_kg=tuple((row.load_kg, row.error_kg) for row in result.rows),
        certificate=arguments.certificate,
        seal=arguments.seal,
        calibration_counter=counter("calibration_counter"),
        configuration_counter=counter("configuration_counter"),
    )
    when = "in service" if plan.in_service else "initial verification"
    remark = (
        f"Weighed through {device.driver.name} until {now:%Y-%m-%d %H:%M} UTC, up to "
        f"{plan.up_to_kg:g} kg, e = {plan.e_kg:g} kg, permissible errors {when}."
    )
    return section(device.name, new, options.calibration, remark)


def _print(
    device: str, plan: Plan, result: Result, proposed: str | None, arguments: argparse.Namespace
) -> None:
    if arguments.json:
        said = {
            "ok": not result.refusals,
            "device": device,
            "stage": "as-found" if arguments.as_found else "as-left",
            "plan": asdict(plan),
            **asdict(result),
            "section": proposed,
        }
        print(json.dumps(said, ensure_ascii=False))
        return
    console = Console()
    table = Table(title=f"{device}: errors against OIML R 76 class {plan.accuracy_class}")
    for head in ("load [kg]", "shown", "error [kg]", "permissible [kg]", ""):
        table.add_column(head, justify="right")
    for row in result.rows:
        limit = "-" if row.permissible_kg is None else f"± {row.permissible_kg:g}"
        cells = (f"{row.load_kg:g}", row.shown, f"{row.error_kg:+g}", limit, row.judgement)
        table.add_row(*cells, style=None if row.judgement == "within" else "red")
    console.print(table)
    for spread in result.spreads:
        apart = f"lie {spread.spread_kg:g} kg apart"
        print(f"{spread.weighings} weighings of {spread.load_kg:g} kg {apart}")
    print(f"zero before {result.zero_before_kg:+g} kg, after {result.zero_after_kg:+g} kg")
    for refusal in result.refusals:
        print(f"no calibration: {refusal}", file=sys.stderr)
    if proposed is None:
        return
    if arguments.output is None:
        print(f"\nFor the lane's file, in place of any section of this name:\n\n{proposed}")
    else:
        print(f"{arguments.output}: the section for the lane's file")
