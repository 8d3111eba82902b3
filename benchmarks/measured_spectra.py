"""What is said of spectra that real crystals measured, thinned to the counts of short passages.

A small CsI crystal's spectra of check sources and of an empty room (SÚRO, CC BY-SA) and a NaI
crystal's background (LBNL) are drawn as passages: 8 s, background taken away by the vehicle up to
35 %, a point source at its closest in the middle, and the energy scale as calibrated, or 2 % off to
either side. ``checkpointd evaluate`` judges and names them as a lane would without any traffic to
learn from; nothing here teaches or tunes it. The NaI spectrum comes without a scale: the agent's
own calibration finds it. What is drawn is noise about one measured shape each, so it says how
names bear real shapes and few counts, not how traffic alarms.

    python benchmarks/measured_spectra.py [--data DIR] [--passes N] [--quick]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from report import finish, progress, table
from response import DATA, radiacode_spectrum

from agent.analysis.energy.fit import fit_scale, separate
from agent.analysis.energy.scale import on_grid, polynomial_edges
from agent.analysis.response.detector import Detector
from agent.config.nuclides import load_nuclides
from agent.tools.calibrate.energy import BACKGROUND_LINES
from agent.tools.evaluate.passes import FORMAT

Floats = NDArray[np.float64]

SEED = 20261123
SLICE_S, SLICES, BACKGROUND_S, BACKGROUND_CPS = 0.5, 16, 60.0, 600.0
HALF_WIDTH_S, FALL = 1.25, 1.25
MOST_SUPPRESSED = 0.35
STRENGTHS_CPS = (100.0, 200.0, 400.0)
GAINS = (0.0, 0.02, -0.02)
NUCLIDES = ("Cs-137", "Co-60", "Am-241", "Ba-133", "K-40")
NAI = Detector(material="nai", sides_cm=(5.0, 5.0, 5.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Real:
    """Shapes of unit sum on one detector's channels; ``crystal``: as evaluate is told."""

    detector: str
    crystal: str
    edges_kev: Floats
    background: Floats
    sources: dict[str, Floats]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Passages of one kind: how many alarmed, and what was said of them."""

    detector: str
    source: str
    cps: float
    gain: float
    passes: int
    alarms: int
    first: int
    category: int
    snm: int
    said: Counter[str]


def csi(directory: Path) -> Real:
    """Return the spectra of the small CsI crystal, net of its background."""
    counts, seconds, edges = radiacode_spectrum(next(directory.glob("*background*.xml")))
    background = counts / seconds
    sources = {}
    for name in NUCLIDES:
        file = next(directory.glob(f"*{name}*.xml"))
        counts, seconds, own = radiacode_spectrum(file)
        net = on_grid(counts.tolist(), own, edges) / seconds - background
        net = np.maximum(net, 0.0)
        sources[name] = net / net.sum()
    return Real(
        detector="csi",
        crystal="1x1x1cm",
        edges_kev=edges,
        background=background / background.sum(),
        sources=sources,
    )


def nai(file: Path) -> Real:
    """Return the background of the NaI crystal, on the scale that its own lines give."""
    text = file.read_text(encoding="ascii").partition("$DATA:")[2].partition("$")[0]
    counts = np.array([float(word) for word in text.split()[2:]])
    fit = fit_scale(counts, separate(BACKGROUND_LINES, NAI.fwhm_kev), NAI.fwhm_kev, None)
    assert fit.coefficients_kev, fit.reasons
    return Real(
        detector="nai",
        crystal="5x5x5cm",
        edges_kev=polynomial_edges(fit.coefficients_kev, len(counts)),
        background=counts / counts.sum(),
        sources={},
    )


def judged(real: Real, source: str, cps: float, gain: float, passes: int) -> Row:
    """Return what is said of passages with one source, "" for none."""
    rng = np.random.default_rng((SEED, int(cps), int(1e3 * (gain + 1)), *source.encode()))
    away_s = (np.arange(SLICES) + 0.5 - SLICES / 2) * SLICE_S
    course = (1.0 + (away_s / HALF_WIDTH_S) ** 2) ** -FALL
    bump = np.exp(-0.5 * (away_s / 2.0) ** 2)
    taken = rng.uniform(0.0, MOST_SUPPRESSED, passes)
    empty = BACKGROUND_CPS * real.background
    net = cps * real.sources[source] if source else 0.0 * empty
    means = (1.0 - taken[:, None] * bump)[:, :, None] * empty + course[:, None] * net
    counts = rng.poisson(means * SLICE_S)
    arrays: dict[str, Any] = {
        "format": FORMAT,
        "counts": counts[:, :, None].astype(np.int32),
        "slice_s": SLICE_S,
        "energy_edges_kev": (real.edges_kev * (1.0 + gain))[None],
        "background_counts": rng.poisson(empty * BACKGROUND_S, (passes, len(empty)))[:, None],
        "background_s": np.full(passes, BACKGROUND_S),
        "speed_m_per_s": np.full(passes, np.nan),
        "role": np.full(passes, "test"),
    }
    category = load_nuclides().category_of(source) if source else None
    lines = evaluated(real, arrays)
    names = [[each["name"] for each in line["nuclides"]] for line in lines]
    return Row(
        detector=real.detector,
        source=source or "none",
        cps=cps,
        gain=gain,
        passes=passes,
        alarms=sum(line["alarm"] for line in lines),
        first=sum(said[:1] == [source] for said in names),
        category=sum(line["category"] == category for line in lines) if source else 0,
        snm=sum(line["category"] == "SNM" for line in lines),
        said=Counter(
            f"{line['category']}: {', '.join(said) or '-'}"
            for line, said in zip(lines, names, strict=True)
            if line["alarm"]
        ),
    )


def evaluated(real: Real, arrays: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the lines of ``checkpointd evaluate --json``, the summary left out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "passes.npz"
        np.savez_compressed(file, **arrays)
        command = [sys.executable, "-m", "agent.cli", "evaluate", str(file), "--json"]
        command += ["--detector", real.detector, "--crystal", real.crystal]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line for text in done.stdout.splitlines() if "pass" in (line := json.loads(text))]


def main() -> int:
    """Judge every source, and no source, and print what was said."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the reference data")
    parser.add_argument("--passes", type=int, default=200, help="of each kind")
    parser.add_argument("--quick", action="store_true", help="few passages of one source")
    asked = parser.parse_args()
    passes = 4 if asked.quick else asked.passes
    crystal = csi(asked.data / "spectra" / "csi_measured")
    other = nai(asked.data / "spectra" / "nai_measured_background.spe")
    rows = []
    for gain in GAINS[:1] if asked.quick else GAINS:
        for real in (crystal, other):
            progress(f"{real.detector}: no source, scale {gain:+.0%}")
            rows.append(judged(real, "", 0.0, gain, passes if asked.quick else 5 * passes))
        for source in NUCLIDES[:1] if asked.quick else NUCLIDES:
            for cps in STRENGTHS_CPS[-1:] if asked.quick else STRENGTHS_CPS:
                progress(f"csi: {source} at {cps:.0f} counts/s, scale {gain:+.0%}")
                rows.append(judged(crystal, source, cps, gain, passes))
    return finish("measured_spectra", text_of(rows), figures_of(rows), is_quick=asked.quick)


def text_of(rows: Sequence[Row]) -> str:
    """Return the table; shares are of the passages that alarmed."""
    head = ("source", "crystal", "counts/s", "scale", "passages", "alarms")
    heads = (*head, "first", "category", "SNM", "said most often")
    cells = []
    for row in rows:
        seen = max(row.alarms, 1)
        most = "; ".join(f"{n} {text}" for text, n in row.said.most_common(2))
        known = row.source != "none"
        cells.append(
            (
                row.source,
                row.detector,
                f"{row.cps:.0f}",
                f"{row.gain:+.0%}",
                row.passes,
                row.alarms,
                row.first / seen if known else None,
                row.category / seen if known else None,
                row.snm,
                most,
            )
        )
    return table(heads, cells)


def figures_of(rows: Sequence[Row]) -> dict[str, object]:
    """Return the figures of the JSON line."""
    return {
        "rows": [
            {
                "detector": row.detector,
                "source": row.source,
                "cps": row.cps,
                "gain": row.gain,
                "passes": row.passes,
                "alarms": row.alarms,
                "first": row.first,
                "category": row.category,
                "snm": row.snm,
            }
            for row in rows
        ]
    }


if __name__ == "__main__":
    sys.exit(main())
