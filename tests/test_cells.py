from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase.formula import Formula
from dft_data import SILICON
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core.composition import Composition

from xtalrl.cells import BOND_LEAST, BOND_REACH, Cell, bonds, covalent_radius, reduced_formula, write_formula
from xtalrl.elements import ELEMENTS

lengths = st.floats(2, 12)
numbers = st.floats(-1.5, 1.5)


@st.composite
def cells(draw: st.DrawFn) -> Cell:
    """With any symmetric positive metric, so never flat; positions inside the cell or not."""
    species = draw(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=6))
    shear = [draw(st.floats(-0.4, 0.4)) for _ in range(3)]
    a, b, c = draw(lengths), draw(lengths), draw(lengths)
    lattice = (a, 0.0, 0.0, b * shear[0], b, 0.0, c * shear[1], c * shear[2], c)
    return Cell(tuple(species), lattice, tuple(draw(numbers) for _ in range(3 * len(species))))


@given(cells())
def test_a_cell_returns_from_everywhere(cell: Cell) -> None:
    assert Cell.from_row(cell.row) == cell
    assert Cell.from_structure(cell.to_structure()) == cell
    back = Cell.from_atoms(cell.to_atoms())
    assert (back.species, back.lattice) == (cell.species, cell.lattice)
    np.testing.assert_allclose(back.positions, cell.positions, atol=1e-9)


@given(cells())
def test_volume_and_reciprocal_are_pymatgens(cell: Cell) -> None:
    lattice = cell.to_structure().lattice
    assert cell.volume == pytest.approx(lattice.volume)
    np.testing.assert_allclose(cell.reciprocal, lattice.reciprocal_lattice.matrix, atol=1e-9)


@given(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=20))
def test_a_formula_is_read_back(species: list[str]) -> None:
    counts = Counter(species)
    assert Formula(write_formula(counts)).count() == counts
    assert Composition(reduced_formula(species)).reduced_composition == Composition(counts).reduced_composition


def test_formulas() -> None:
    assert write_formula({"Na": 2, "O": 1}) == "Na2O"
    assert reduced_formula(["O", "Na", "O", "Na"]) == "Na2O2"
    assert reduced_formula(["Xe", "F", "F"]) == "XeF2"


def bonded(species: list[str], distance: float) -> bool:
    points = np.array([[0, 0, 0], *([[distance, 0, 0]] * (len(species) - 1))], dtype=float)
    return (0, 1) in list(bonds(species, points))


def test_atoms_within_reach_are_bonded() -> None:
    reach = BOND_REACH * (covalent_radius("Na") + covalent_radius("Cl"))
    assert bonded(["Na", "Cl"], reach - 0.01)
    assert not bonded(["Na", "Cl"], reach + 0.01)
    assert not bonded(["Na", "Cl"], BOND_LEAST - 0.01)


def test_cations_that_touch_are_not_bonded_but_metals_are() -> None:
    assert not bonded(["Na", "Al", "Cl"], 2.5)
    assert bonded(["Na", "Al", "Al"], 2.5)


def test_silicon_has_four_bonds() -> None:
    atoms = (cell := replace(SILICON)).to_atoms() * (3, 3, 3)
    n_bonds = Counter(site for pair in bonds(atoms.get_chemical_symbols(), atoms.positions) for site in pair)
    assert max(n_bonds.values()) == 4
    assert n_bonds[2 * (9 + 3 + 1)] == 4  # in the middle
    assert len(cell.species) == 2


def test_the_report_draws_the_bonds_of_figure_3(root: Path) -> None:
    """The numbers of the rule stand in cells.py alone: the viewer is given them."""
    script = (root / "src/xtalrl/report/templates/viewer.js").read_text()
    assert "data.bonds.reach * (radius(one.elem) + radius(other.elem))" in script
    assert "distance > data.bonds.least" in script
