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

    @property
    def sides(self) -> dict[str, SideOptions]:
        """Return the devices whose parts join a portal's passage."""
        return {**self.scales, **self.metals, **self.readers}


_TSA = PortalTraits()
