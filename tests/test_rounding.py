"""What a record states is rounded to what it means: every processor gives the same bytes.

Mathematical libraries differ in the last digits of a special function (``betainc`` by 28 units in
the last place between x86-64 and arm64). So each is made to differ by more, either way, and not one
byte of what a lane says may change; and the bytes of one recording are held by their digest.
"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from lane_bench import Bench
from spectral_bench import SpectralLane, computed_rules

from agent.analysis.counting import empty_lane, gross
from agent.analysis.detection import threshold, uniformity
from agent.analysis.identification import identify
from agent.delivery.wire import Encoder, Identity
from agent.evidence.event import EventFiles

ULPS = 256
SPECIAL = [
    (gross, "betainc"),
    (empty_lane, "chdtrc"),
    (threshold, "gammaincc"),
    (threshold, "gammaincinv"),
    (threshold, "betaincinv"),
    (threshold, "log_ndtr"),
    (threshold, "pdtr"),
    (uniformity, "bdtrc"),
    (identify, "ndtr"),
]


def nudged(function, ulps: int):
    """Return the function with its last digits changed."""

    def other(*arguments):
        value = np.asarray(function(*arguments), dtype=float)
        return value * (1.0 + ulps * np.finfo(float).eps)

    return other


def told_by(lane: Bench) -> bytes:
    """Return all that a lane has said, as it would be stored, its files too."""
    encode = Encoder(
        identity=Identity(root="checkpoint", site="s", gw="g"),
        mode="test",
        configrev="0" * 64,
        software="checkpointd 0",
    )
    files = EventFiles(gateway="s/g", creator="checkpointd 0")
    said = []
    for number, record in enumerate(map(files.attach, lane.records), start=1):
        said.append(encode(record, "e", number, record.stamp.utc_us)[1])
        said += [blob.data for blob in getattr(record, "blobs", ())]
    return b"\n".join(said)


def counting() -> bytes:
    """Return what a counting lane says of neutrons, gammas and a weight, of stated counts alone."""
    lane = Bench()
    lane.background(0.0, 400.0, n=260)
    lane.neutron_background(1300.0, 2.566)
    for number, (at_s, loud, neutrons) in enumerate(
        [(1310.0, 80, (2, 3, 1)), (1360.0, 130, (9, 14, 11)), (1410.0, 81, (5, 6, 8))], start=1
    ):
        for second, n in enumerate(neutrons):
            for i in range(5):
                at = at_s + second + 0.2 * i
                lane.gamma(at, (loud, 81, 79, loud), alarm=loud > 100)
            lane.neutron(at_s + second + 0.9, n)
        lane.leave(at_s + len(neutrons) + 0.1, number)
        lane.weigh(at_s + 10.0, 3000.0 * number)
    lane.stop(1600.0)
    return told_by(lane)


def spectral() -> bytes:
    lane = SpectralLane(computed_rules(), seed=5)
    lane.empty(90)
    lane.passes("Cs-137", 60.0)
    lane.passes("K-40", 40.0)
    lane.passes(None)
    lane.stop(lane.at_s + 60.0)
    return told_by(lane)


DIGEST = "6a4451f3b2ce2457acef06d059efb352947ee778794e5d772476f3dc8baf3793"
"""Of the records and files of ``counting``; where what a lane says is changed, so is this."""


def test_the_records_of_stated_counts_are_byte_for_byte_what_they_were():
    said = counting()
    assert b"poisson_tail" in said
    assert hashlib.sha256(said).hexdigest() == DIGEST


@pytest.mark.parametrize("ulps", [ULPS, -ULPS])
def test_a_processor_that_counts_its_last_digits_otherwise_says_the_same(monkeypatch, ulps):
    before = counting(), spectral()
    for module, name in SPECIAL:
        monkeypatch.setattr(module, name, nudged(getattr(module, name), ulps))
    assert counting() == before[0]
    assert spectral() == before[1]


def test_the_nudge_is_felt_where_nothing_is_rounded(monkeypatch):
    arguments = (9, 1.0, 2.566, 120.0)
    before = gross.neutron_tail_p(*arguments)
    monkeypatch.setattr(gross, "betainc", nudged(gross.betainc, ULPS))
    assert gross.neutron_tail_p(*arguments) != before
