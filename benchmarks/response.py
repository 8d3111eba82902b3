"""How well computed templates agree with spectra that others simulated or measured.

For every source spectrum in a folder of reference spectra: net counts (source less background) on
the common grid against the nuclide's computed templates, the best of its forms and shieldings,
as a cosine weighted by the background's Poisson variance. The spectra judge; nothing is fitted to
them but the choice of the template. With it, the cost of computing a library, and where the two
sources of nuclide data differ.

    python benchmarks/response.py [--data DIR] [--quick]
"""

from __future__ import annotations

import argparse
import csv
import re
import resource
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from report import Goal, finish, progress, quantile, table

from agent.analysis.detection.selection import cosines, pruned
from agent.analysis.energy.gain import track
from agent.analysis.energy.scale import polynomial_edges, rebin_matrix, sqrt_grid
from agent.analysis.response.detector import Detector
from agent.analysis.response.nuclides import NuclideTable
from agent.analysis.response.templates import background_components, monoenergetic, templates
from agent.config.nuclides import load_nuclides

Floats = NDArray[np.float64]

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
DETECTORS = {
    "nai": ("nai_2x4x16_simulated.npz", Detector(material="nai", sides_cm=(5.08, 10.16, 40.64))),
    "csi": ("csi_radiacode102_simulated.npz", Detector(material="csi", sides_cm=(1, 1, 1))),
}
OTHER_NAMES = {
    "Uore": "U-ore",
    "Am241Li": "Am-241",
    "Tl201wTl202": "Tl-201",
    "Tl201woTl202": "Tl-201",
}
MOST_CPS = 1e5
"""Above this a reference spectrum is piled up, which no template is."""
LEAST_SIGNAL_TO_NOISE = 50.0
"""Net counts less clear than this over all bins say more of chance than of shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """One reference spectrum and the template most like it; None: it judges nothing, and why."""

    reference: str
    nuclide: str
    template: str
    cosine: float | None
    bare_cosine: float | None
    why_not: str = ""


def nuclide_name(reference: str) -> str:
    """Return ``Cs-137`` of ``Cs137_Shielded``."""
    stem = reference.partition("_")[0]
    stem = OTHER_NAMES.get(stem, stem)
    found = re.fullmatch(r"([A-Z][a-z]?)(\d+m?)", stem)
    return f"{found[1]}-{found[2]}" if found else stem


def agreements(file: Path, detector: Detector, nuclides: NuclideTable) -> Iterator[Agreement]:
    """Yield every reference spectrum's best template."""
    with np.load(file) as spectra:
        names = [str(name) for name in spectra["names"]]
        counts, live = spectra["counts"].astype(float), spectra["live"]
        edges = polynomial_edges(tuple(map(float, spectra["cal"])), counts.shape[1])
    grid = sqrt_grid()
    on_grid = counts @ rebin_matrix(edges, grid)
    at = names.index("background")
    # One count more, so that bins in which none fell weigh what they can.
    background = (on_grid[at] + 1) / live[at]
    library = templates(detector, nuclides, grid)
    known = np.array(library.nuclides)
    for i, name in enumerate(names):
        if i == at:
            continue
        net = on_grid[i] / live[i] - on_grid[at] / live[at]
        variance = on_grid[i] / live[i] ** 2 + on_grid[at] / live[at] ** 2
        mine = np.flatnonzero(known == nuclide_name(name))
        noise = float(np.sum(variance / background))
        size = float(np.sum(net**2 / background)) - noise
        why = ""
        if not len(mine):
            why = "not in the table"
        elif counts[i].sum() / live[i] > MOST_CPS:
            why = "piled up"
        elif size < LEAST_SIGNAL_TO_NOISE * noise:
            why = "too few counts"
        if why:
            yield Agreement(
                reference=name,
                nuclide=nuclide_name(name),
                template="",
                cosine=None,
                bare_cosine=None,
                why_not=why,
            )
            continue
        # The noise in the reference is known and taken out of its size; none is left in the sum.
        found = cosines(library.shapes[mine], net[None, :], background)[:, 0]
        found *= float(np.sqrt(np.sum(net**2 / background) / size))
        best = int(np.argmax(found))
        yield Agreement(
            reference=name,
            nuclide=nuclide_name(name),
            template=library.names[mine[best]],
            cosine=float(found[best]),
            bare_cosine=float(found[0]),
        )


def measured_csi(directory: Path, nuclides: NuclideTable) -> Iterator[tuple[str, str, float]]:
    """Yield (file, template, cosine) of spectra measured with small CsI crystals."""
    background_file = next(directory.glob("*background*.xml"))
    background, background_s = read_radiacode(background_file)
    for file in sorted(directory.glob("*.xml")):
        found = re.search(r"(Cs-137|Co-60|Am-241|Ba-133|K-40)", file.name)
        if file == background_file or found is None:
            continue
        rate, seconds = read_radiacode(file)
        net = rate - background
        library = templates(DETECTORS["csi"][1], nuclides, sqrt_grid())
        mine = [i for i, name in enumerate(library.nuclides) if name == found[1]]
        shown = cosines(library.shapes[mine], net[None, :], background + 1 / background_s)[:, 0]
        best = int(np.argmax(shown))
        yield f"{found[1]} ({seconds:.0f} s)", library.names[mine[best]], float(shown[best])


def read_radiacode(file: Path) -> tuple[Floats, float]:
    """Return counts per second on the grid, and the time [s]."""
    counts, seconds, edges = radiacode_spectrum(file)
    return counts @ rebin_matrix(edges, sqrt_grid()) / seconds, seconds


def radiacode_spectrum(file: Path) -> tuple[Floats, float, Floats]:
    """Return counts (channel,), the time [s] and the channels' edges [keV]."""
    spectrum = ET.parse(file).getroot().find(".//EnergySpectrum")  # noqa: S314 - see the import
    assert spectrum is not None
    coefficients = tuple(float(c.text or 0) for c in spectrum.iterfind(".//Coefficient"))
    counts = np.array([float(p.text or 0) for p in spectrum.iterfind(".//DataPoint")])
    seconds = float(spectrum.findtext("MeasurementTime") or 0)
    return counts, seconds, polynomial_edges(coefficients, len(counts))


def data_differences(file: Path) -> list[tuple[str, float, float, float, float]]:
    """Return lines of which ENSDF and decay_2012 say different things: over 10 % or 0.5 keV.

    Strong lines only, at least a tenth of the nuclide's strongest.
    """
    with file.open(newline="", encoding="utf-8") as text:
        rows = [row for row in csv.DictReader(text) if row["ENSDF_photons_per_parent_decay"]]
    strongest: dict[str, float] = {}
    for row in rows:
        if float(row["energy_keV"]) > 30:
            amount = float(row["photons_per_parent_decay"])
            strongest[row["parent"]] = max(strongest.get(row["parent"], 0.0), amount)
    found = []
    for row in rows:
        energy, amount = float(row["energy_keV"]), float(row["photons_per_parent_decay"])
        other_energy = float(row["ENSDF_energy_keV"])
        other = float(row["ENSDF_photons_per_parent_decay"])
        if energy < 30 or amount < 0.1 * strongest[row["parent"]]:
            continue
        if abs(amount / other - 1) > 0.1 or abs(energy - other_energy) > 0.5:
            found.append((row["parent"], other_energy, 100 * other, energy, 100 * amount))
    return found


def cost(nuclides: NuclideTable) -> dict[str, float]:
    """Return what it costs to compute a library anew [s, MiB] and how many templates it has."""
    detector = Detector(material="nai", sides_cm=(10, 10, 40))  # one that nothing has cached
    grid = sqrt_grid()
    began = time.perf_counter()
    library = templates(detector, nuclides, grid)
    computed = time.perf_counter()
    background = background_components(detector, grid).sum(axis=0)
    fewer = pruned(library, background)
    kept = time.perf_counter()
    monoenergetic(detector, grid, list(np.geomspace(40, 2800, 60)), (0.0, 0.5, 2.0))
    return {
        "templates": len(library.names),
        "pruned": len(fewer.names),
        "templates_s": round(computed - began, 3),
        "pruned_s": round(kept - computed, 3),
        "monoenergetic_s": round(time.perf_counter() - kept, 3),
        "peak_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    }


def gain_of_measured(file: Path) -> dict[str, object]:
    """Return the scale that the background of a measured NaI spectrum gives, in quarters of it."""
    lines = file.read_text(encoding="latin-1").splitlines()
    at = lines.index("$DATA:")
    first, last = map(int, lines[at + 1].split())
    counts = np.array([int(line) for line in lines[at + 2 : at + 3 + last - first]])
    edges: Floats = (
        2.0 * np.arange(len(counts) + 1, dtype=float) + 1e-3
    )  # about its scale: K-40 at channel 725
    components = background_components(Detector(material="nai", sides_cm=(7.62, 7.62, 7.62)), edges)
    dice = np.random.default_rng(1)
    gains = []
    for parts in (4, 3, 2, 1):
        part = dice.binomial(counts, 1 / parts)
        counts = counts - part
        gains.append(track(part.astype(float), 900.0, edges, components))
    known = [fit.gain for fit in gains if fit.gain is not None]
    return {
        "quarters": len(known),
        "gain": round(float(np.mean(known)), 4) if known else None,
        "spread_percent": round(100 * float(np.ptp(known)), 3) if known else None,
    }


def summary(found: list[Agreement]) -> dict[str, object]:
    """Return the figures of one detector."""
    judged = [a for a in found if a.cosine is not None]
    figures: dict[str, object] = {"judged": len(judged)}
    for part, chosen in (
        ("unshielded", [a for a in judged if "Unshielded" in a.reference]),
        ("all", judged),
    ):
        values = [a.cosine for a in chosen if a.cosine is not None]
        figures[part] = {
            "n": len(values),
            "median": round(quantile(values, 0.5), 4),
            "p10": round(quantile(values, 0.1), 4),
            "below_0.94": sum(value < 0.94 for value in values),
        }
    figures["not_judged"] = {
        why: sum(a.why_not == why for a in found)
        for why in ("not in the table", "piled up", "too few counts")
    }
    return figures


def rows_of(found: list[Agreement]) -> list[tuple[object, ...]]:
    """Return the table of one detector, worst first."""
    judged = sorted((a for a in found if a.cosine is not None), key=lambda a: a.cosine or 0.0)
    return [
        (a.reference, a.template, f"{a.cosine:.3f}", f"{a.bare_cosine or 0.0:.3f}") for a in judged
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of reference data")
    parser.add_argument("--quick", action="store_true", help="NaI alone, and judge no goal")
    arguments = parser.parse_args()
    if not (arguments.data / "spectra").is_dir():
        raise SystemExit(f"{arguments.data}/spectra: there is no such folder; name one with --data")
    nuclides = load_nuclides()
    progress("cost of a library")
    figures: dict[str, object] = {"nuclides": len(nuclides.nuclides), "cost": cost(nuclides)}
    texts = []
    goals = []
    for name, (file, detector) in DETECTORS.items():
        if arguments.quick and name != "nai":
            continue
        progress(f"{name}: {file}")
        found = list(agreements(arguments.data / "spectra" / file, detector, nuclides))
        figures[name] = summary(found)
        head = (f"{name} reference", "best template", "cosine", "bare")
        texts.append(table(head, rows_of(found)))
        skipped = [f"{a.reference} ({a.why_not})" for a in found if a.why_not]
        texts.append(f"not judged: {', '.join(skipped) or 'none'}")
        goals += _goals(name, [a for a in found if a.cosine is not None])
    progress("measured CsI")
    measured = list(measured_csi(arguments.data / "spectra" / "csi_measured", nuclides))
    texts.append(
        table(
            ("measured CsI", "best template", "cosine"),
            [(n, t, f"{c:.3f}") for n, t, c in measured],
        )
    )
    figures["csi_measured"] = {n: round(c, 4) for n, _, c in measured}
    progress("measured NaI background")
    figures["nai_measured_gain"] = gain_of_measured(
        arguments.data / "spectra" / "nai_measured_background.spe"
    )
    differences = data_differences(arguments.data / "nuclides" / "nuclide_lines.csv")
    figures["data_differences"] = len(differences)
    columns = ("ENSDF and decay_2012 differ", "ENSDF keV", "per 100", "decay_2012 keV", "per 100")
    texts.append(table(columns, differences))
    return finish("response", "\n\n".join(texts), figures, goals, is_quick=arguments.quick)


def _goals(name: str, judged: list[Agreement]) -> list[Goal]:
    bare = [a.cosine for a in judged if "Unshielded" in a.reference and a.cosine is not None]
    everything = [a.cosine for a in judged if a.cosine is not None]
    return [
        Goal(
            name=f"{name}, unshielded, median: 1 - cosine",
            measured=1 - quantile(bare, 0.5),
            limit=0.03,
            unit="",
        ),
        Goal(
            name=f"{name}, nine in ten: 1 - cosine",
            measured=1 - quantile(everything, 0.1),
            limit=0.06,
            unit="",
        ),
    ]


if __name__ == "__main__":
    raise SystemExit(main())
