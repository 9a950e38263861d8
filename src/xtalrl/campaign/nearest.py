"""The known crystal that a design is nearest to, by composition; where the composition is known, whether it is the same crystal.

The distance is ElMD (Hargreaves et al., Chem. Mater. 32, 10610 (2020), doi:10.1021/acs.chemmater.0c03381): the earth mover's distance between two
compositions, with elements as far apart as their Mendeleev numbers (Pettifor, Solid State Commun. 51, 31 (1984), doi:10.1016/0038-1098(84)90765-8). 0 is the same
composition, and 1 every atom one place further in Pettifor's order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.periodic_table import Element

from xtalrl.cells import Cell
from xtalrl.elements import ELEMENTS
from xtalrl.metrics.intervals import Floats

PLACE = {element: round(float(Element(element).mendeleev_no)) for element in ELEMENTS}
"""Mendeleev number of each element."""
SAME = 1e-6
"""Distances that differ by less are equal."""


def cumulative(compositions: Sequence[Sequence[str]]) -> Floats:
    """Share of the atoms of each composition whose Mendeleev number is at most 0, 1, …: (n, 1 + the largest number)."""
    shares = np.zeros((len(compositions), 1 + max(PLACE.values())))
    for row, species in zip(shares, compositions, strict=True):
        np.add.at(row, [PLACE[element] for element in species], 1 / len(species))
    return shares.cumsum(1)


class KnownCrystals:
    """Crystals among which the nearest is looked for."""

    def __init__(self, crystals: Sequence[Mapping[str, Any]]) -> None:
        """`crystals`: rows of `CRYSTALS`."""
        self.crystals = crystals
        self._cumulative = cumulative([row["species"] for row in crystals])
        self._matcher = StructureMatcher()

    def nearest(self, cell: Cell) -> dict[str, Any] | None:
        """The known crystal nearest to a design; None where there is none.

        Of several at the same distance, one that pymatgen's StructureMatcher takes for the same crystal comes first, then by material_id.

        Returns:
            `material_id`, `formula` and `spacegroup_number` of the crystal, `composition_distance` from it, and `same_structure`.
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
