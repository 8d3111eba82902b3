"""Which templates of a library are worth keeping: those that no other stands for."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from agent.analysis.response.library import Library

Floats = NDArray[np.float64]

NEARLY_ONE = 0.999


def cosines(shapes: Floats, others: Floats, background: Floats) -> Floats:
    """Return how alike shapes are over a background: (shape, other), 1: the same up to a factor.

    Bins count as the inverse of the background's counts, as they do for a weak source's Poisson
    score. ``background``: (bin,) of any scale; bins it leaves empty do not count.
    """
    weight = np.where(background > 0, 1 / np.where(background > 0, background, 1.0), 0.0)
    left, right = shapes * np.sqrt(weight), others * np.sqrt(weight)
    left = left / np.maximum(np.linalg.norm(left, axis=1, keepdims=True), np.finfo(float).tiny)
    right = right / np.maximum(np.linalg.norm(right, axis=1, keepdims=True), np.finfo(float).tiny)
    found: Floats = left @ right.T
    return found


def pruned(library: Library, background: Floats, *, at_most: float = NEARLY_ONE) -> Library:
    """Return the library without templates that one before them stands for.

    Of a nuclide's templates those come first that stand for most others; of different nuclides
    none replaces another, however alike they are: the nuclide is what is to be named.
    """
    alike = cosines(library.shapes, library.shapes, background) > at_most
    nuclides = np.array(library.nuclides)
    alike &= nuclides[:, None] == nuclides[None, :]
    left = np.ones(len(nuclides), dtype=bool)
    kept = np.zeros(len(nuclides), dtype=bool)
    while left.any():
        stands_for = np.where(left, (alike & left[None, :]).sum(axis=1), 0)
        best = int(np.argmax(stands_for))
        kept[best] = True
        left &= ~alike[best]
        left[best] = False
    return chosen(library, np.flatnonzero(kept))


def spread(library: Library, background: Floats, count: int) -> Library:
    """Return at most ``count`` templates, each next the one least like all before it.

    For detection alone, which has to see every shape but to name none. It begins with the one
    that is most like all others.
    """
    alike = cosines(library.shapes, library.shapes, background)
    order = [int(np.argmax(alike.sum(axis=1)))]
    nearest = alike[order[0]].copy()
    while len(order) < min(count, len(library.names)):
        order.append(int(np.argmin(nearest)))
        nearest = np.maximum(nearest, alike[order[-1]])
    return chosen(library, np.array(sorted(order)))


def representative(library: Library, background: Floats, count: int, chances: Floats) -> Library:
    """Return at most ``count`` templates that stand best for all, likely ones before others.

    Each next one adds most to the mean, over all templates with their ``chances`` (template,) of
    any scale, of the largest cosine with a kept one: what is left of a source's score if its own
    template is not there. Greedy choice gives at least 63 % of the best there is (G.L. Nemhauser,
    L.A. Wolsey and M.L. Fisher, Mathematical Programming 14 (1978) 265).
    """
    alike = np.maximum(cosines(library.shapes, library.shapes, background), 0.0)
    nearest = np.zeros(len(alike))
    order: list[int] = []
    while len(order) < min(count, len(alike)):
        gain = np.maximum(alike - nearest, 0.0) @ chances
        gain[order] = -1.0
        order.append(int(np.argmax(gain)))
        nearest = np.maximum(nearest, alike[order[-1]])
    return chosen(library, np.array(sorted(order)))


def chosen(library: Library, indices: NDArray[np.intp]) -> Library:
    """Return those templates, in the library's order."""
    return Library(
        names=tuple(library.names[i] for i in indices),
        shapes=library.shapes[indices],
        edges_kev=library.edges_kev,
    )
