"""What the crash test kills: a journal and an uplink, and a line for each alarm that is kept."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from delivery_bench import Bench, alarm, audit, passage


async def main(folder: Path, port: int, begin: int, count: int) -> None:
    bench = Bench(folder, port)
    async with bench:
        os.write(1, b"ready\n")
        for number in range(begin, begin + count):
            record = audit(number) if number % 7 == 0 else alarm(number, text=f"alarm {number}")
            if number % 5 == 0:
                asyncio.ensure_future(bench.journal.append(passage(number)))  # noqa: RUF006 - lost with the process, as meant
            stored = await bench.journal.append(record)
            # Whole lines below PIPE_BUF: what the parent reads was returned by append.
            os.write(1, f"{stored.stream} {stored.epoch} {stored.seq} {number}\n".encode())


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), 1_000_000))
