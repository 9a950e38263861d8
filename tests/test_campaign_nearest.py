"""The known crystal that a design is nearest to."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from scipy import stats

from xtalrl.campaign.nearest import PLACE, KnownCrystals, cumulative, first_alike
from xtalrl.cells import Cell, reduced_formula
from xtalrl.elements import ELEMENTS

SPECIES = st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=8)
ROCKSALT = ([[0, 0, 0], [0.5, 0.5, 0.5]], "Fm-3m")
CAESIUM_CHLORIDE = ([[0, 0, 0], [0.5, 0.5, 0.5]], "Pm-3m")


def row(material_id: str, elements: list[str], prototype: tuple[list[list[float]], str], a: float) -> dict[str, Any]:
    coords, group = prototype
    structure = Structure.from_spacegroup(group, Lattice.cubic(a), elements, coords).get_primitive_structure()
    cell = Cell.from_structure(structure)
    return {"material_id": material_id, "formula": reduced_formula(cell.species), "spacegroup_number": 225, **cell.row}


@given(SPECIES, SPECIES)
def test_the_distance_is_the_earth_mover_s_over_mendeleev_numbers(first: list[str], second: list[str]) -> None:
    ours = abs(cumulative([first]) - cumulative([second])).sum()
    oracle = stats.wasserstein_distance([PLACE[e] for e in first], [PLACE[e] for e in second])
    assert ours == pytest.approx(oracle, abs=1e-9)


def test_one_place_further_is_a_distance_of_1() -> None:
    assert abs(cumulative([["Na"]]) - cumulative([["K"]])).sum() == pytest.approx(1)
    assert abs(cumulative([["Na", "Cl"]]) - cumulative([["K", "Cl"]])).sum() == pytest.approx(0.5)


def test_crystals_that_come_again_name_the_first() -> None:
    salt, larger, other, reordered = (
        Cell.from_row(row("x", elements, positions, edge))
        for elements, positions, edge in (
            (["Na", "Cl"], ROCKSALT, 5.6),
            (["Cl", "Na"], ROCKSALT, 6.1),
            (["Na", "Cl"], CAESIUM_CHLORIDE, 3.4),
            (["Cl", "Na"], CAESIUM_CHLORIDE, 3.4),
        )
    )
    twice = other.to_structure().make_supercell((1, 1, 2), in_place=False)
    cells = [salt, other, larger, Cell.from_structure(twice), reordered]
    assert first_alike(cells) == [None, None, 0, 1, 1]
    assert first_alike([]) == []


def test_a_known_crystal_is_recognised_and_another_form_of_it_is_not() -> None:
    known = KnownCrystals(
        [
            row("a", ["Na", "Cl"], CAESIUM_CHLORIDE, 3.4),
            row("b", ["Na", "Cl"], ROCKSALT, 5.6),
            row("c", ["K", "Cl"], ROCKSALT, 6.3),
        ]
    )
    found = known.nearest(Cell.from_row(row("x", ["Na", "Cl"], ROCKSALT, 5.8)))
    assert found is not None and (found["material_id"], found["composition_distance"], found["same_structure"]) == (
        "b",
        0.0,
        True,
    )
    other = KnownCrystals(known.crystals[:1]).nearest(Cell.from_row(row("x", ["Na", "Cl"], ROCKSALT, 5.8)))
    assert other is not None and (other["material_id"], other["composition_distance"], other["same_structure"]) == (
        "a",
        0.0,
        False,
    )


def test_a_novel_composition_has_a_neighbour_at_a_distance() -> None:
    known = KnownCrystals(
        [
            row("a", ["Na", "Cl"], ROCKSALT, 5.6),
            row("b", ["K", "Cl"], ROCKSALT, 6.3),
            row("c", ["Mg", "O"], ROCKSALT, 4.2),
        ]
    )
    found = known.nearest(Cell.from_row(row("x", ["Rb", "Cl"], ROCKSALT, 6.6)))
    assert found is not None and found["material_id"] == "b" and not found["same_structure"]
    assert found["composition_distance"] == pytest.approx(0.5)
    assert KnownCrystals([]).nearest(Cell.from_row(row("x", ["Rb", "Cl"], ROCKSALT, 6.6))) is None
