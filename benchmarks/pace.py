"""A process beside the agent that does next to nothing, and says how long that takes.

    pace.py DATABASE

It wakes a hundred times a second, and four times a second it commits one kilobyte with a full sync.
How late it wakes and how long the commit takes is what the machine itself adds to a time: other
work, a host that takes the processor away, a disk that others write to. It answers the first line
on its standard input with one of JSON.
"""

from __future__ import annotations

import json
import select
import sqlite3
import sys
import time

from report import spread

EVERY_S = 0.01
COMMIT_EVERY = 25
PAYLOAD = bytes(1024)


def main() -> None:
    database = sqlite3.connect(sys.argv[1], isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE record (payload BLOB)")
    late_s, commit_s = [], []
    while True:
        began_s = time.monotonic()
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            break
        late_s.append(time.monotonic() - began_s - EVERY_S)
        if len(late_s) % COMMIT_EVERY == 0:
            began_s = time.monotonic()
            database.execute("INSERT INTO record VALUES (?)", (PAYLOAD,))
            commit_s.append(time.monotonic() - began_s)
    database.close()
    print(json.dumps({"late": spread(late_s), "commit": spread(commit_s)}), flush=True)
    sys.stdin.read()  # whoever asked ends it


if __name__ == "__main__":
    main()
