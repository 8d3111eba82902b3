"""The software's own name and version, as it stands on every record."""

from __future__ import annotations

from importlib.metadata import version

SOFTWARE = f"checkpointd {version('checkpointd')}"
