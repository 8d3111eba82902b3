"""A process that only wakes a hundred times a second, until a line comes, and says how late.

What the machine itself, without any agent, adds to a time: other work, and a host that takes the
processor away.
"""

from __future__ import annotations

import json
import select
import sys
import time

from report import spread

EVERY_S = 0.01


def main() -> None:
    late_s = []
    while True:
        due_s = time.monotonic() + EVERY_S
        if select.select([sys.stdin], [], [], EVERY_S)[0]:
            break
        late_s.append(time.monotonic() - due_s)
    print(json.dumps(spread(late_s)), flush=True)
    sys.stdin.read()  # whoever asked ends it


if __name__ == "__main__":
    main()
