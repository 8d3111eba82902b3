"""Which devices are heard, and the gap in what was measured when one was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.lane.alarms import clear_standing, fault, stand
from agent.lane.moment import Moment
from agent.lane.state import Memory
from agent.records import Audit, Stamp


@dataclass(slots=True, kw_only=True)
class Links(Memory):
    """Which devices are heard, and since when the others are not."""

    up: Mapping[str, bool] = field(default_factory=dict)
    lost_at: Mapping[str, Stamp] = field(default_factory=dict)


def hear(moment: Moment, device: str) -> None:
    """A device that speaks has a link, also where nobody said so (a recording)."""
    if device not in moment.state.of(Links).up:
        _set(moment, device, is_up=True)


def found(moment: Moment, device: str) -> None:
    """A device is heard again: say from when to when nothing could be measured."""
    _set(moment, device, is_up=True)
    clear_standing(moment, device, "device_lost")
    links = moment.of(Links)
    since = links.lost_at.get(device)
    if since is None:
        return
    links.lost_at = {d: s for d, s in links.lost_at.items() if d != device}
    data: dict[str, object] = {
        "device": device,
        "from": since,
        "to": moment.stamp,
        "gap_s": moment.stamp.since_s(since),
        "reason": "device_lost",
    }
    moment.records.append(
        Audit(stamp=moment.stamp, kind="gap", lane=moment.rules.lane_id, data=data)
    )


def lost(moment: Moment, device: str, detail: str) -> None:
    """A device is not heard any more: a fault until it is."""
    links = moment.of(Links)
    _set(moment, device, is_up=False)
    links.lost_at = {**links.lost_at, device: moment.stamp}
    stand(moment, fault(device, "device_lost", detail or f"{device}: the link was lost"))


def _set(moment: Moment, device: str, *, is_up: bool) -> None:
    links = moment.of(Links)
    links.up = {**links.up, device: is_up}
