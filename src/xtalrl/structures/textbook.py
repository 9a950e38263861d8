"""Textbook crystals of the elements, the reference states of eq. 15 where the user names no others."""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields

from pymatgen.core.structure import Structure

from xtalrl.csv_files import read_csv
from xtalrl.errors import XtalrlError
from xtalrl.resources import RESOURCES
from xtalrl.structures.prototypes import build_crystal, parse_parameters, prototypes

TABLE = RESOURCES / "demo" / "elements.csv"


@dataclass(frozen=True)
class ElementalCrystal:
    """What the code uses of a row of `elements.csv`; its other columns, `phase` and `magnetic_order`, are for readers.

    `prototype` is empty where the textbook crystal has more than 12 atoms in its primitive cell or does not exist at normal
    pressure; `source` then says which.
    """

    element: str
    prototype: str
    parameters: str
    spacegroup_number: str
    source: str


@functools.cache
def elemental_crystals() -> dict[str, ElementalCrystal]:
    """The table by element: all 88."""
    names = [field.name for field in fields(ElementalCrystal)]
    return {row["element"]: ElementalCrystal(**{name: row[name] for name in names}) for row in read_csv(TABLE).rows}


def textbook_crystal(element: str) -> Structure | None:
    """Primitive cell of the element's textbook crystal, or None where one atom in a box has to stand for it.

    Raises:
        XtalrlError: not one of the 88 elements.
    """
    if element not in elemental_crystals():
        raise XtalrlError(f"{element!r} is not one of the 88 elements: {', '.join(elemental_crystals())}.")
    row = elemental_crystals()[element]
    if not row.prototype:
        return None
    n_sites = len(prototypes()[row.prototype]["sites"])
    return build_crystal(row.prototype, [element] * n_sites, parse_parameters(row.parameters))
