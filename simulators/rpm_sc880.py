"""The extra lines of an SC-880 portal controller, which sorts its counts into energy windows.

Unoccupied, every 5 s: NC NX NB NB1 GB RW AC AB1 AR. Occupied: NZ before NS; after each GS or GA
also AS AX AM, and AA where a window test alarms. The occupancy begins with 15 AS in a row::

    NB1,f x4   neutron background per detector, unrounded, cps
    AB1,f x4   gamma background in four energy windows, all detectors, cps
    AR,f x4    AB1 divided by its sum
    AC,f,f     (w3+w4)/w1 and (w1+w2)/(w3+w4) of AB1
    AS,c x4    counts in the four windows in 0.2 s
    AA,n,n,n,11111A   window test number n alarms (1 to 3)

Source: S2-C0-NONE.csv and S2-C3-NORM2.csv, samples of RPM-Simulator (Rapiscan, MIT licence), 2016.
The formulas behind NC, NX, NZ, AX, AM and the limits of AA are not public: those lines have the
right form and a likely size, no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

BURST = 15  # AS lines at the start of an occupancy: fourteen from before, one live

# Shares of the four windows: background, and the NORM cargo of S2-C3-NORM2.csv less background.
BACKGROUND_SHARES = (0.2600, 0.3725, 0.1835, 0.1840)
SOURCE_SHARES = (0.5400, 0.4000, 0.0490, 0.0110)
# The windows together count this much more than the gross count: 42 cps.
_BELOW_GROSS = 42.0 / 1535.0
# Excess of the low windows' share at which test 1, 2 and 3 alarm [sigma]; ours, not the vendor's.
_TEST_SIGMA = (5.0, 9.0, 14.0)


def sort_into_windows(
    rng: np.random.Generator, background: int, source: int
) -> tuple[int, int, int, int]:
    """Sort counts into the four windows, adding those below the gross count's own limit."""
    extra = int(rng.poisson(_BELOW_GROSS * background))
    drawn = rng.multinomial(background + extra, BACKGROUND_SHARES)
    drawn = drawn + rng.multinomial(source, SOURCE_SHARES)
    first, second, third, fourth = (int(count) for count in drawn)
    return first, second, third, fourth


def background_lines(
    nb: bytes, gb: bytes, neutron: Sequence[float], windows: Sequence[float]
) -> Iterator[tuple[float, bytes]]:
    """Yield the lines of one background message and their delays [s], as recorded."""
    total = sum(windows) or 1.0
    low, high = windows[0] + windows[1], windows[2] + windows[3]
    yield 0.000, _line("NC", *_eight((sum(neutron) - 11.8, 0.6191)))
    yield 0.016, b"NX,9.50437640,-0.99599343\r\n"
    yield 0.019, nb
    yield 0.022, _line("NB1", *_eight(neutron))
    yield 0.075, gb
    yield 0.094, b"RW,000000,000000,000000,000000\r\n"
    yield 0.096, _line("AC", *_eight((high / (windows[0] or 1.0), low / (high or 1.0))))
    yield 0.098, _line("AB1", *_eight(windows))
    yield 0.109, _line("AR", *(f"{window / total:.4f}" for window in windows))


def burst_lines(recent: Sequence[tuple[int, ...]], background: Sequence[float]) -> Iterator[bytes]:
    """Yield the 15 AS lines that open an occupancy, then the statistics of the last interval."""
    for windows in recent[:-1]:
        yield _counts("AS", windows)
    yield from interval_lines(recent, background)


def interval_lines(
    recent: Sequence[tuple[int, ...]], background: Sequence[float]
) -> Iterator[bytes]:
    """Yield the lines of one interval: AS, AX, AM, and AA for each window test that alarms."""
    sums = [sum(column) for column in zip(*recent, strict=True)]
    seconds = len(recent) * 0.2
    expected = [max(cps * seconds, 1e-9) for cps in background]
    yield _counts("AS", recent[-1])
    changes = [seen / usual - 1.0 for seen, usual in zip(sums, expected, strict=True)]
    yield _line("AX", *(f"{min(x, 99.9999):8.4f}" for x in (*changes, sum(sums) / sum(expected))))
    total = sum(sums) or 1
    yield _counts("AM", tuple(round(595 * count / total) for count in sums))
    sigma = low_share_sigma(sums, background)
    for number, limit in enumerate(_TEST_SIGMA, 1):
        if sigma >= limit:
            yield _line("AA", *(f"{number:06d}",) * 3, "11111A")


def low_share_sigma(sums: Sequence[int], background: Sequence[float]) -> float:
    """Return how far the share of the two low windows exceeds the background's [sigma].

    Shielding changes the total, hardly the share, so a shielded clean vehicle stays near 0.
    """
    total, usual = sum(sums), sum(background)
    if total == 0 or usual <= 0:
        return 0.0
    share = (background[0] + background[1]) / usual
    return (sums[0] + sums[1] - total * share) / math.sqrt(max(total * share * (1 - share), 1e-9))


def neutron_statistic_line(counts: int, background: float) -> bytes:
    """Return NZ, roughly linear in the counts as recorded."""
    statistic = 0.55 * (counts - background) - 1.5
    return _line("NZ", *_eight((statistic, statistic)))


def _eight(values: Sequence[float]) -> Iterator[str]:
    return (f"{value:.8f}" for value in values)


def _counts(tag: str, counts: Sequence[int]) -> bytes:
    return _line(tag, *(f"{count:06d}" for count in counts))


def _line(*fields: str) -> bytes:
    return ",".join(fields).encode("ascii") + b"\r\n"
