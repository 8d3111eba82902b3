"""Our Modbus parts against parts that others wrote: libmodbus as the server, mbpoll as the client.

What both our line and our simulator took wrongly from the specification would agree with itself;
here the other end is Debian's libmodbus, over RTU on pseudo-terminals and over TCP.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import subprocess
import tty
from pathlib import Path

import pytest

from drivers.base import Block, LineParameters
from drivers.modbus import ExceptionReplyError, ModbusLine, NoReplyError
from drivers.scale import ricelake_mailbox
from drivers.scale.modbus_map import Driver, Options
from simulators.clock import SceneClock
from simulators.modbus_server import ModbusRtuServer, ModbusTcpServer, ModbusUnit
from simulators.scales_modbus import ModbusScale
from simulators.weighbridge import Weighbridge

SOURCE = Path(__file__).parent / "peers" / "libmodbus_server.c"
LINE = LineParameters(baud=115200, parity="E")
LIMIT_S = 5.0
KINDS = pytest.mark.parametrize("kind", ["rtu", "tcp"])


def require(found, package):
    """Skip the test where the package is missing, fail it under CI."""
    if found:
        return
    reason = f"install the package {package} (.ci/run does)"
    if os.environ.get("CI", "").lower() in ("true", "1"):
        pytest.fail(reason)
    pytest.skip(reason)


class NoDelays:
    def next_s(self):
        return 0.0

    def reset(self):
        pass


# ------------------------------------------------------------------ libmodbus as the server


@pytest.fixture(scope="module")
def server_program(tmp_path_factory):
    require(shutil.which("gcc"), "gcc")
    require(Path("/usr/include/modbus/modbus.h").exists(), "libmodbus-dev")
    program = tmp_path_factory.mktemp("peer") / "libmodbus_server"
    command = ["gcc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-o", program, SOURCE]
    built = subprocess.run([*command, "-lmodbus"], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return program


class NullModem:
    """Two pseudo-terminals joined by a cable, each end opened like a serial port."""

    def __enter__(self):
        self._loop = asyncio.get_running_loop()
        self._masters, self._slaves = zip(os.openpty(), os.openpty(), strict=True)
        for slave in self._slaves:
            tty.setraw(slave)
        for here, there in (self._masters, self._masters[::-1]):
            self._loop.add_reader(here, lambda a=here, b=there: os.write(b, os.read(a, 4096)))
        return [os.ttyname(slave) for slave in self._slaves]

    def __exit__(self, *_):
        for master in self._masters:
            self._loop.remove_reader(master)
        for end in (*self._masters, *self._slaves):
            os.close(end)


@contextlib.asynccontextmanager
async def libmodbus(program, kind, unit=1):
    """Run the server and yield a line of ours to it."""
    with contextlib.ExitStack() as stack:
        if kind == "rtu":
            ours, theirs = stack.enter_context(NullModem())
            arguments = ["rtu", theirs, str(LINE.baud), LINE.parity, str(unit)]
        else:
            arguments = ["tcp"]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(program, *arguments, stdin=pipe, stdout=pipe)
        try:
            async with asyncio.timeout(LIMIT_S):
                ready = (await process.stdout.readline()).split()
            assert ready[0] == b"ready"
            port = ours if kind == "rtu" else f"tcp://127.0.0.1:{int(ready[1])}"
            line = ModbusLine(port, LINE, framing=kind, delays=NoDelays())
            line.join()
            try:
                yield line
            finally:
                line.leave()
        finally:
            process.stdin.close()
            async with asyncio.timeout(LIMIT_S):
                assert await process.wait() == 0


def block(table, address, count):
    return Block(table=table, address=address, count=count, period_s=1.0)


async def read(line, what, *, unit=1, timeout_s=0.5, max_lateness_s=0.1):
    return await line.read_block(unit, what, timeout_s=timeout_s, max_lateness_s=max_lateness_s)


@KINDS
def test_our_line_reads_every_table_of_libmodbus(server_program, kind):
    async def scene():
        async with libmodbus(server_program, kind) as line:
            coils = await read(line, block("coils", 5, 19))
            discrete = await read(line, block("discrete", 1, 3))
            most = await read(line, block("holding", 0, 125))
            words = await read(line, block("input", 396, 4))
        assert coils == tuple(int(i % 3 == 0) for i in range(5, 24))
        assert discrete == (0, 1, 0)
        assert most == tuple(range(125))
        assert words == (1396, 1397, 1398, 1399)

    asyncio.run(scene())


@KINDS
def test_libmodbus_refuses_what_it_does_not_have_and_our_line_says_so(server_program, kind):
    async def scene():
        async with libmodbus(server_program, kind) as line:
            with pytest.raises(ExceptionReplyError, match="illegal address") as refused:
                await read(line, block("holding", 399, 2))
            assert refused.value.code == 2
            return await read(line, block("holding", 399, 1))

    assert asyncio.run(scene()) == (399,)


def test_libmodbus_is_silent_for_another_unit_and_answers_its_own_afterwards(server_program):
    """After a request to another unit libmodbus takes what follows for that unit's reply."""

    async def scene():
        async with libmodbus(server_program, "rtu", unit=17) as line:
            with pytest.raises(NoReplyError):
                await read(line, block("holding", 9, 1), unit=18, timeout_s=0.1)
            with contextlib.suppress(NoReplyError):
                await read(line, block("holding", 5, 1), unit=17, timeout_s=0.2)
            return [await read(line, block("holding", i, 1), unit=17) for i in (9, 11, 13)]

    assert asyncio.run(scene()) == [(9,), (11,), (13,)]


def test_transaction_numbers_of_many_requests_are_what_libmodbus_echoes(server_program):
    async def scene():
        async with libmodbus(server_program, "tcp") as line:
            return [await read(line, block("holding", i % 300, 2)) for i in range(200)]

    assert asyncio.run(scene()) == [(i % 300, i % 300 + 1) for i in range(200)]


@KINDS
def test_an_indicator_served_by_libmodbus_is_weighed_with_its_sign(server_program, kind):
    driver = Driver(
        Options(preset="dini-dgt", decimals=0, weight_unit="kg", capacity=100_000, map_proven=True)
    )

    async def scene():
        async with libmodbus(server_program, kind) as line:
            (what,) = driver.blocks()
            return driver.decode(what, await read(line, what))

    (weight,) = asyncio.run(scene())
    assert (weight.value, weight.unit, weight.mode) == ("-70000", "kg", "gross")
    assert (weight.stable, weight.range) == (True, "ok")


@pytest.mark.parametrize(("order", "address"), [("high_first", 300), ("low_first", 302)])
def test_a_float_from_libmodbus_is_read_in_its_word_order(server_program, order, address):
    driver = Driver(
        Options(
            preset="custom",
            table="holding",
            address_base=0,
            gross=f"{address} f32",
            word_order=order,
            decimals=1,
            weight_unit="kg",
        )
    )

    async def scene():
        async with libmodbus(server_program, "tcp") as line:
            (what,) = driver.blocks()
            return driver.decode(what, await read(line, what))

    (weight,) = asyncio.run(scene())
    assert weight.value == "12340.5"


@KINDS
def test_a_mailbox_served_by_libmodbus_is_asked_and_weighed_with_its_tare(server_program, kind):
    driver = ricelake_mailbox.Driver(
        ricelake_mailbox.Options(
            write_address=380,
            read_address=384,
            weight_unit="kg",
            decimals=0,
            capacity=80_000,
            answer_after_s=0.0,
        )
    )

    async def scene():
        async with libmodbus(server_program, kind) as line:
            (what,) = driver.blocks()
            return [w for _ in range(3) for w in driver.decode(what, await read(line, what))]

    weights = asyncio.run(scene())
    assert [(w.value, w.tare, w.mode) for w in weights] == [("-70000", "160", "gross")] * 3


# ------------------------------------------------------------------ mbpoll as the client

_VALUE = re.compile(r"^\[(\d+)\]:\s+(-?[0-9.]+)", re.MULTILINE)


async def mbpoll(kind, port, *arguments, unit=1, write=()):
    """Run mbpoll once at a simulator's port; return its exit code, values and text."""
    require(shutil.which("mbpoll"), "mbpoll")
    if kind == "rtu":
        where = ["-m", "rtu", "-b", str(LINE.baud), "-P", "even", port]
    else:
        where = ["-m", "tcp", "-p", str(port), "127.0.0.1"]
    asked = ["-1", "-o", "1", "-a", str(unit), "-0", *arguments]
    process = await asyncio.create_subprocess_exec(
        "mbpoll",
        *asked,
        *where,
        *write,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(LIMIT_S):
        said, _ = await process.communicate()
    text = said.decode()
    return process.returncode, {int(k): v for k, v in _VALUE.findall(text)}, text


@contextlib.asynccontextmanager
async def served(kind, *units):
    server = ModbusRtuServer(units) if kind == "rtu" else ModbusTcpServer(units)
    try:
        yield await (server.start_pty() if kind == "rtu" else server.start())
    finally:
        await server.close()


@KINDS
def test_mbpoll_reads_every_table_of_our_simulator(kind):
    unit = ModbusUnit(
        coils={i: i % 3 == 0 for i in range(20)},
        discrete={i: i % 2 == 0 for i in range(20)},
        input={i: 1000 + i for i in range(20)},
        holding={i: i for i in range(200)},
    )

    async def scene():
        async with served(kind, unit) as port:
            for arguments, expected in (
                (["-t", "0", "-r", "5", "-c", "9"], {i: i % 3 == 0 for i in range(5, 14)}),
                (["-t", "1", "-r", "1", "-c", "3"], {1: 0, 2: 1, 3: 0}),
                (["-t", "3", "-r", "7", "-c", "2"], {7: 1007, 8: 1008}),
                (["-t", "4", "-r", "0", "-c", "125"], {i: i for i in range(125)}),
            ):
                code, values, text = await mbpoll(kind, port, *arguments)
                assert code == 0, text
                assert {k: int(v) for k, v in values.items()} == expected

    asyncio.run(scene())


@KINDS
def test_mbpoll_writes_to_our_simulator_and_reads_it_back(kind):
    unit = ModbusUnit(coils={3: False}, holding=dict.fromkeys(range(8), 0))

    async def scene():
        async with served(kind, unit) as port:
            for arguments, write in (
                (["-t", "4", "-r", "2"], ["4711"]),
                (["-t", "4", "-r", "5"], ["11", "22"]),
                (["-t", "0", "-r", "3"], ["1"]),
            ):
                code, _, text = await mbpoll(kind, port, *arguments, write=write)
                assert code == 0, text

    asyncio.run(scene())
    assert unit.holding == {0: 0, 1: 0, 2: 4711, 3: 0, 4: 0, 5: 11, 6: 22, 7: 0}
    assert unit.coils == {3: True}


@KINDS
def test_mbpoll_is_told_by_our_simulator_that_an_address_is_not_there(kind):
    async def scene():
        async with served(kind, ModbusUnit(holding={0: 1})) as port:
            return await mbpoll(kind, port, "-t", "4", "-r", "0", "-c", "2")

    code, values, text = asyncio.run(scene())
    assert (code, values) == (1, {})
    assert "Illegal data address" in text


@pytest.mark.parametrize(
    ("layout", "arguments", "place", "expected"),
    [
        ("dini", ["-t", "3:int", "-B", "-r", "0"], 0, 70_000),
        ("wtx", ["-t", "4:int", "-B", "-r", "2"], 2, 70_000),
        ("float", ["-t", "3:float", "-B", "-r", "0"], 0, 70_000.0),
    ],
)
def test_mbpoll_shows_the_simulated_trucks_weight(layout, arguments, place, expected):
    async def scene():
        scale = ModbusScale(Weighbridge(lambda _: 70_000.0, max_kg=80_000.0, seed=1), layout)
        port = await scale.serve_tcp(SceneClock())
        try:
            return await mbpoll("tcp", port.rpartition(":")[2], *arguments)
        finally:
            await scale.close()

    code, values, text = asyncio.run(scene())
    assert code == 0, text
    assert float(values[place]) == expected
