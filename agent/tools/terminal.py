"""What every command says in the same way."""

from __future__ import annotations

import sys
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/checkpointd")
"""The directory of ``gateway.toml`` and ``lanes/`` where none is named."""


def wrong(text: str) -> int:
    """Say in one sentence what is wrong with the input, and return exit code 2."""
    print(f"checkpointd: {text}", file=sys.stderr)
    return 2
