"""Sites numbered by the crystal itself, not by the file it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LENGTH_TOLERANCE = 1e-4
"""Å. Bond lengths of a crystal that differ by less are one length: they stem from the same bond by symmetry."""


@dataclass(frozen=True)
class CrystalBonds:
    """The bonds of a crystal as directed edges from `source[i]` to `target[i]` of a length in Å; there may be several between two sites."""

    n_sites: int
    source: Sequence[int]
    target: Sequence[int]
    length: Sequence[float]


def canonical_sites(bonds: CrystalBonds) -> list[int]:
    """The sites in an order that depends on their bonds and bond lengths alone, not on the order in the file.

    Colour refinement (Weisfeiler and Leman) distinguishes sites by their surroundings. If some remain alike, one of them is marked and the
    refinement is repeated, as in McKay's canonical labelling (Congressus Numerantium 30, 45 (1981)), but without its search: the marked site is
    the one that leaves the fewest colours. Of several such sites the first is taken, because they are almost always equivalent by a symmetry of
    the bonds.
    """
    neighbors: list[list[tuple[int, int]]] = [[] for _ in range(bonds.n_sites)]
    for u, v, length in zip(bonds.source, bonds.target, _length_classes(bonds.length), strict=True):
        neighbors[v].append((length, u))
    colours, _ = _refine([0] * bonds.n_sites, neighbors)
    while alike := _first_alike(colours):
        refined = [
            _refine([2 * colour - (site == marked) for site, colour in enumerate(colours)], neighbors)
            for marked in alike
        ]
        colours, _ = min(refined, key=lambda item: item[1])
    return sorted(range(bonds.n_sites), key=colours.__getitem__)


def _length_classes(lengths: Sequence[float]) -> list[int]:
    classes = [0] * len(lengths)
    number, last = -1, float("-inf")
    for edge in sorted(range(len(lengths)), key=lengths.__getitem__):
        number += lengths[edge] - last > LENGTH_TOLERANCE
        classes[edge], last = number, lengths[edge]
    return classes


def _first_alike(colours: list[int]) -> list[int]:
    """The sites of the lowest colour that several sites share."""
    members: dict[int, list[int]] = {}
    for site, colour in enumerate(colours):
        members.setdefault(colour, []).append(site)
    return next((sites for _, sites in sorted(members.items()) if len(sites) > 1), [])


def _refine(
    colours: list[int], neighbors: list[list[tuple[int, int]]]
) -> tuple[list[int], list[tuple[int, list[tuple[int, int]]]]]:
    """Colours 0, 1, … refined until no neighbourhood distinguishes further sites, and the meaning of each colour."""
    n_colours = len(set(colours))
    while True:
        views = [
            (colour, sorted([(length, colours[u]) for length, u in around]))
            for colour, around in zip(colours, neighbors, strict=True)
        ]
        kinds = sorted(views)
        distinct = [kind for number, kind in enumerate(kinds) if number == 0 or kind != kinds[number - 1]]
        numbers = {(colour, tuple(around)): number for number, (colour, around) in enumerate(distinct)}
        colours = [numbers[colour, tuple(around)] for colour, around in views]
        if len(distinct) == n_colours:
            return colours, kinds
        n_colours = len(distinct)
