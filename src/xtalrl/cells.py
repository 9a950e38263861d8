"""The cell of a crystal: conversion from and to table rows, pymatgen and ASE; formulas; which atoms are bonded."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ase.data import atomic_numbers, covalent_radii
from numpy.typing import NDArray

if TYPE_CHECKING:
    from ase import Atoms
    from pymatgen.core.structure import Structure

BOND_REACH = 1.15
"""Bonded atoms are closer to each other than this times the sum of their covalent radii."""
BOND_LEAST = 0.4
"""Smallest distance of bonded atoms in Å; anything closer is one atom drawn twice."""


@dataclass(frozen=True)
class Cell:
    """A periodic cell: the element of each site, lattice vectors as rows (9 numbers, Å), fractional coordinates (3 per site)."""

    species: tuple[str, ...]
    lattice: tuple[float, ...]
    frac_coords: tuple[float, ...]

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Cell:
        """The cell in a row of a table with `species`, `lattice` and `frac_coords`."""
        return cls(tuple(row["species"]), tuple(row["lattice"]), tuple(row["frac_coords"]))

    @classmethod
    def from_structure(cls, structure: Structure) -> Cell:
        """The cell of a pymatgen structure, which must be ordered."""
        return cls(
            tuple(site.specie.symbol for site in structure),
            tuple(structure.lattice.matrix.ravel().tolist()),
            tuple(structure.frac_coords.ravel().tolist()),
        )

    @classmethod
    def from_atoms(cls, atoms: Any) -> Cell:
        """The cell of `ase.Atoms`; positions outside the cell are kept as they are."""
        return cls(
            tuple(atoms.get_chemical_symbols()),
            tuple(atoms.cell.array.ravel().tolist()),
            tuple(atoms.get_scaled_positions(wrap=False).ravel().tolist()),
        )

    @property
    def row(self) -> dict[str, Any]:
        """The cell as columns of a table: the inverse of `from_row`."""
        return asdict(self)

    @property
    def vectors(self) -> NDArray[np.float64]:
        """(3, 3) lattice vectors as rows, Å."""
        return np.array(self.lattice, dtype=np.float64).reshape(3, 3)

    @property
    def positions(self) -> NDArray[np.float64]:
        """(n, 3) fractional coordinates."""
        return np.array(self.frac_coords, dtype=np.float64).reshape(-1, 3)

    @property
    def volume(self) -> float:
        """Volume in Å³."""
        return abs(float(np.linalg.det(self.vectors)))

    @property
    def reciprocal(self) -> NDArray[np.float64]:
        """(3, 3) reciprocal lattice vectors as rows, 2π included, in 1/Å."""
        return np.asarray(2 * np.pi * np.linalg.inv(self.vectors).T, dtype=np.float64)

    def to_structure(self) -> Structure:
        """The cell as a pymatgen structure, with the sites in the same order."""
        from pymatgen.core.lattice import Lattice
        from pymatgen.core.structure import Structure

        return Structure(Lattice(self.vectors), self.species, self.positions)

    def to_atoms(self) -> Atoms:
        """The cell as `ase.Atoms`, with the sites in the same order."""
        from ase import Atoms

        return Atoms(self.species, cell=self.vectors, scaled_positions=self.positions, pbc=True)


def write_formula(counts: Mapping[str, int]) -> str:
    """A formula such as Na2O: the elements in the order of `counts`, each followed by its number unless that is 1."""
    return "".join(f"{element}{n if n != 1 else ''}" for element, n in counts.items())


def reduced_formula(species: Iterable[str]) -> str:
    """The conventional reduced formula of the elements of all sites, in pymatgen's spelling."""
    return _reduced_formula(tuple(sorted(Counter(species).items())))


@functools.lru_cache(maxsize=200_000)
def _reduced_formula(items: tuple[tuple[str, int], ...]) -> str:
    from pymatgen.core.composition import Composition

    with warnings.catch_warnings():
        # pymatgen sorts by electronegativity and warns about noble gases, which have none.
        warnings.filterwarnings("ignore", message="No Pauling electronegativity")
        return Composition(dict(items)).reduced_formula


def covalent_radius(element: str) -> float:
    """Covalent radius in Å (Cordero et al., Dalton Trans. 2008, 2832, as ASE has them)."""
    return float(covalent_radii[atomic_numbers[element]])


@functools.cache
def is_metal(element: str) -> bool:
    """Whether pymatgen counts the element among the metals."""
    from pymatgen.core.periodic_table import Element

    return bool(Element(element).is_metal)


def bonds(species: Sequence[str], points: NDArray[np.float64]) -> Iterator[tuple[int, int]]:
    """Pairs of atoms that a drawing joins by a bond.

    Atoms are bonded from `BOND_LEAST` up to `BOND_REACH` times the sum of their covalent radii. Metals are bonded to each other only
    where there are only metals: cations that touch are not. viewer.js follows the same rule with the same numbers
    (`report.viewer_data`).

    Args:
        species: elements of the n atoms.
        points: (n, 3) positions, Å.
    """
    radii = [covalent_radius(element) for element in species]
    metals = [is_metal(element) for element in species]
    only_metals = all(metals)
    for i, j in itertools.combinations(range(len(species)), 2):
        distance = float(np.linalg.norm(points[i] - points[j]))
        is_near = BOND_LEAST < distance < BOND_REACH * (radii[i] + radii[j])
        if is_near and (only_metals or not (metals[i] and metals[j])):
            yield i, j
