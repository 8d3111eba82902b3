"""All that ``step`` needs to know of one lane's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.lane.options.instruments import (
    ContactOptions,
    IdentityOptions,
    MetalOptions,
    OutputOptions,
)
from agent.lane.options.lane import LaneOptions
from agent.lane.options.portals import PortalTraits, RpmOptions
from agent.lane.options.scales import ScaleOptions
from agent.lane.options.spectral import SpectralRules, WindowRules

SideOptions = ScaleOptions | MetalOptions | IdentityOptions
"""Of devices whose parts join a portal's passage."""


KindOptions = (
    RpmOptions | ScaleOptions | MetalOptions | ContactOptions | IdentityOptions | OutputOptions
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaneRules:
    """What ``step`` needs to know of one lane's configuration.

    ``run`` is the random name of this run of the agent, part of every passage and alarm id.
    ``portals`` and ``traits`` are in the order of the lane's file; a portal without traits is a
    TSA one. ``pinned`` names portal options ("nsigma" …) that outrank the portal's own settings
    lines.
    ``identity_key`` makes the tokens that stand for identities; None: they are left out.
    """

    lane_id: str
    run: str
    lane: LaneOptions
    portals: dict[str, RpmOptions]
    scales: dict[str, ScaleOptions]
    metals: dict[str, MetalOptions]
    traits: Mapping[str, PortalTraits] = field(default_factory=dict)
    contacts: dict[str, ContactOptions] = field(default_factory=dict)
    readers: dict[str, IdentityOptions] = field(default_factory=dict)
    outputs: dict[str, OutputOptions] = field(default_factory=dict)
    identity_key: bytes | None = field(default=None, repr=False)
    spectral: SpectralRules | None = field(default=None, repr=False)
    """None: the lane judges no spectra, or what it looks for is still being computed."""
    windows: WindowRules | None = field(default=None, repr=False)
    """None: the lane judges no energy windows."""
    pinned: frozenset[str] = frozenset()
    is_test: bool = False
    sides: Mapping[str, SideOptions] = field(init=False)
    """The devices whose parts join a portal's passage."""
    longest_gap_s: float = field(init=False)
    """The longest that any of them allows between a part and its vehicle [s]."""

    def __post_init__(self) -> None:
        """Put the sides together once: every step asks for them."""
        sides: dict[str, SideOptions] = {**self.scales, **self.metals, **self.readers}
        longest_s = max((side.max_gap_s for side in sides.values()), default=0.0)
        object.__setattr__(self, "sides", sides)
        object.__setattr__(self, "longest_gap_s", longest_s)

    def traits_of(self, portal: str) -> PortalTraits:
        """Return how a portal works."""
        return self.traits.get(portal, _TSA)

    @property
    def teller(self) -> str | None:
        """Return the portal whose word on a vehicle's coming and leaving counts: the first.

        None: no portal can tell; then loops and photocells do.
        """
        for name in self.portals:
            if self.traits_of(name).presence != "none":
                return name
        return None

    @property
    def owner(self) -> str | None:
        """Return the portal that a passage's ``rpm`` part is of; None: there is none.

        It is the one that tells, else the first that counts.
        """
        counting = (name for name in self.portals if self.traits_of(name).rule != "none")
        return self.teller or next(counting, None)


_TSA = PortalTraits()
