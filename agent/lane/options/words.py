"""Words that several of a lane's tables share."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

Relation = Literal["before", "during", "after"]


Seconds = Annotated[float, Meta(ge=0, le=3600)]


Day = Annotated[str, Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
