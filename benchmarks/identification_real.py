"""Naming real spectra: long measurements thinned to short passes, with computed templates only.

A measured spectrum holds source and background. Thinning every channel binomially leaves Poisson
counts of a shorter measurement; the empty lane is thinned from a measurement of its own. Nothing
is known of the detector beside its material and size.
"""

from __future__ import annotations

import collections
import re
from pathlib import Path

import numpy as np
from identification_lanes import Arm, computed
from identification_passes import Floats
from report import progress
from response import read_radiacode

from agent.analysis.energy.gain import track
from agent.analysis.energy.scale import rebin_matrix, sqrt_grid
from agent.analysis.identification.identify import Identification, identify
from agent.analysis.response.detector import Detector
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import background_components

NET_COUNTS = (100.0, 300.0, 1000.0, 3000.0)
BACKGROUND_COUNTS = 300.0  # in the pass; ten times that was seen of the empty lane
TIMES = 10.0
NAI_BACKGROUND_COUNTS = (3000.0, 30000.0)
_CSI = Detector(material="csi", sides_cm=(1, 1, 1))
_NAI = Detector(material="nai", sides_cm=(7.62, 7.62, 7.62))
_KEV_A_CHANNEL = 1460.8 / 725  # K-40 stands at channel 725


def measured_csi(
    directory: Path, nuclides: NuclideTable, passes: int, seed: int
) -> dict[str, dict[str, object]]:
    """Return, of each source and size, how often it was named right and its category.

    A size is net counts beside 300 counts of background.
    """
    arm = computed(nuclides, sqrt_grid(), _CSI)
    background, _ = read_radiacode(next(directory.glob("*background*.xml")))
    rng = np.random.default_rng(seed)
    rows: dict[str, dict[str, object]] = {}
    for file in sorted(directory.glob("*.xml")):
        found = re.search(r"(Cs-137|Co-60|Am-241|Ba-133|K-40)", file.name)
        if found is None or "background" in file.name:
            continue
        rate, _ = read_radiacode(file)
        net = np.clip(rate - background, 0.0, None)
        for size in NET_COUNTS:
            progress(f"measured CsI: {found[1]}, {size:.0f} counts")
            truth = found[1]
            mean = size * net / net.sum() + BACKGROUND_COUNTS * background / background.sum()
            empty = TIMES * BACKGROUND_COUNTS * background / background.sum()
            said = [
                _thinned(rng.poisson(mean), rng.poisson(empty), TIMES, arm) for _ in range(passes)
            ]
            rows[f"{truth} {size:.0f}"] = _row(said, truth, nuclides)
    return rows


def _thinned(counts: Floats, empty: Floats, times: float, arm: Arm) -> Identification:
    return identify(
        counts.astype(float),
        (empty + 0.5) / times,
        arm.components,
        arm.known,
        background_share=1 / times,
    )


def _row(said: list[Identification], truth: str, nuclides: NuclideTable) -> dict[str, object]:
    group = nuclides.group_of
    right = [group(truth) in {group(f.nuclide) for f in one.nuclides} for one in said]
    category = [one.category == nuclides.category_of(truth) for one in said]
    wrong = collections.Counter(
        "+".join(f.name for f in one.nuclides) or "nothing"
        for one, is_right in zip(said, right, strict=True)
        if not is_right
    )
    return {
        "passes": len(said),
        "group": float(np.mean(right)),
        "category": float(np.mean(category)),
        "snm": sum(one.category == "SNM" for one in said),
        "instead": wrong.most_common(2),
    }


def measured_nai(
    file: Path, nuclides: NuclideTable, passes: int, seed: int
) -> dict[str, dict[str, int]]:
    """Return, of each size of pass, how many of a real NaI background alone were given a name.

    The scale is the tracked one.
    """
    lines = file.read_text(encoding="latin-1").splitlines()
    at = lines.index("$DATA:")
    first, last = map(int, lines[at + 1].split())
    counts = np.array([int(line) for line in lines[at + 2 : at + 3 + last - first]])
    # As in ``response``: about its scale, above 0 where nothing is computed.
    edges: Floats = _KEV_A_CHANNEL * np.arange(len(counts) + 1, dtype=float) + 1e-3
    scale = track(counts.astype(float), 3600.0, edges, background_components(_NAI, edges))
    matrix = rebin_matrix((scale.offset_kev or 0.0) + (scale.gain or 1.0) * edges, sqrt_grid())
    arm = computed(nuclides, sqrt_grid(), _NAI)
    rng = np.random.default_rng(seed)
    mean = counts @ matrix
    rows = {}
    for size in NAI_BACKGROUND_COUNTS:
        progress(f"measured NaI background: passes of {size:.0f} counts")
        shape = size * mean / mean.sum()
        said = [
            _thinned(rng.poisson(shape), rng.poisson(TIMES * shape), TIMES, arm)
            for _ in range(passes)
        ]
        rows[f"{size:.0f}"] = {
            "passes": passes,
            "named": sum(not one.is_unknown for one in said),
            "snm": sum(one.category == "SNM" for one in said),
        }
    return rows
