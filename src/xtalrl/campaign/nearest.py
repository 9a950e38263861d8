"""The known crystal whose composition is nearest to a design's and, where the composition is the same, whether the crystal is too.

The distance is ElMD (Hargreaves et al., Chem. Mater. 32, 10610 (2020), doi:10.1021/acs.chemmater.0c03381): the earth mover's distance between two
compositions, where the distance of two elements is the difference of their Mendeleev numbers (Pettifor, Solid State Commun. 51, 31 (1984),
doi:10.1016/0038-1098(84)90765-8). A distance of 0 is the same composition; at 1 every atom has moved by one place in Pettifor's order.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from xtalrl.cells import Cell, reduced_formula
from xtalrl.elements import ELEMENTS
from xtalrl.metrics.intervals import Floats

PLACE = {element: round(float(Element(element).mendeleev_no)) for element in ELEMENTS}
"""Mendeleev number of each element."""
SAME = 1e-6
"""Distances that differ by less than this count as equal."""


def cumulative(compositions: Sequence[Sequence[str]]) -> Floats:
    """Cumulative distribution of each composition, (n, 1 + largest Mendeleev number): share of the atoms whose number is at most 0, 1, …"""
    shares = np.zeros((len(compositions), 1 + max(PLACE.values())))
    for row, species in zip(shares, compositions, strict=True):
        np.add.at(row, [PLACE[element] for element in species], 1 / len(species))
    return shares.cumsum(1)


def first_alike(cells: Sequence[Cell]) -> list[int | None]:
    """For each cell the index of the first one before it that pymatgen's StructureMatcher finds to be the same crystal; None where there is none.

    Volumes are scaled, so that the same crystal on cells of other sizes is the same.
    """
    matcher = StructureMatcher()
    firsts: dict[str, list[tuple[int, Structure]]] = defaultdict(list)
    alike: list[int | None] = []
    for at, cell in enumerate(cells):
        structure = cell.to_structure()
        of_this_formula = firsts[reduced_formula(cell.species)]
        first = next((index for index, other in of_this_formula if matcher.fit(other, structure)), None)
        if first is None:
            of_this_formula.append((at, structure))
        alike.append(first)
    return alike


class KnownCrystals:
    """Crystals in which the nearest one to a design is looked up."""

    def __init__(self, crystals: Sequence[Mapping[str, Any]]) -> None:
        """Take the crystals from rows of `CRYSTALS`."""
        self.crystals = crystals
        self._cumulative = cumulative([row["species"] for row in crystals])
        self._matcher = StructureMatcher()

    def nearest(self, cell: Cell) -> dict[str, Any] | None:
        """The known crystal nearest to a design; None where no crystal is known.

        Among several at the same distance, one that pymatgen's StructureMatcher finds to be the same crystal is preferred, then the one with the
        lowest material_id.

        Returns:
            `material_id`, `formula` and `spacegroup_number` of the crystal, `composition_distance` from the design, and `same_structure`.
        """
        if not self.crystals:
            return None
        # In one dimension the earth mover's distance is the area between the cumulative distributions.
        distances = np.abs(self._cumulative - cumulative([cell.species])).sum(1)
        least = float(distances.min())
        tied = [self.crystals[int(at)] for at in np.flatnonzero(distances < least + SAME)]
        tied.sort(key=lambda row: str(row["material_id"]))
        is_known = least < SAME
        same = next((row for row in tied if is_known and self._is_same(cell, row)), None)
        row = same or tied[0]
        return {
            "material_id": row["material_id"],
            "formula": row["formula"],
            "spacegroup_number": row["spacegroup_number"],
            "composition_distance": 0.0 if is_known else least,
            "same_structure": same is not None,
        }

    def _is_same(self, cell: Cell, row: Mapping[str, Any]) -> bool:
        return bool(self._matcher.fit(cell.to_structure(), Cell.from_row(row).to_structure()))
