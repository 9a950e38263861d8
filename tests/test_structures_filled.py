"""Designs as crystals of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.errors import XtalrlError
from xtalrl.structures.external_graphs import read_with_graphs
from xtalrl.structures.filled import fill_crystals
from xtalrl.structures.neighbor_graphs import build_graphs

PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(4.0), ["Ca", "Ti", "O"], [[0.5] * 3, [0, 0, 0], [0.5, 0, 0]]
)


def skeleton() -> dict[str, Any]:
    return {
        "material_id": "mp-1",
        "split": "val",
        "formula": "CaTiO3",
        "n_sites": 5,
        **Cell.from_structure(PEROVSKITE).row,
        "spacegroup_number": 221,
        "source": "test",
    }


def assessment(species: list[str], request_id: str | None, **values: Any) -> dict[str, Any]:
    names = ("valid", "valid_smact14", "valid_icsd24", "odd_electrons")
    return {
        "material_id": "mp-1",
        "policy": "rvs",
        "seed": 0,
        "species": species,
        "formula": "x",
        "n_sites": len(species),
        "validity_rule": "cdvae-smact14",
        "request_id": request_id,
        **dict.fromkeys(names, request_id is not None),
        **values,
    }


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    paths = {name: tmp_path / f"{name}.parquet" for name in ("assessments", "crystals", "filled")}
    tables.write_rows([skeleton()], tables.CRYSTALS, paths["crystals"])
    return paths


def test_valid_designs_become_crystals_with_their_own_graph(files: dict[str, Path], tmp_path: Path) -> None:
    broken = ["Sr", "Zr", "O", "O", "S"]  # one S breaks the cubic symmetry
    rows = [
        assessment(broken, "b"),
        assessment(broken, "b", seed=1),
        assessment(["Ba", "Sn", "O", "O", "O"], "a"),
        assessment(["Cs"] * 5, None),
    ]
    tables.write_rows(rows, tables.ASSESSMENTS, files["assessments"])
    fill_crystals(**files)
    filled = tables.read_rows(files["filled"], tables.CRYSTALS)
    assert [(row["material_id"], row["split"], row["spacegroup_number"]) for row in filled] == [
        ("a", "design", 221),
        ("b", "design", 123),
    ]
    assert filled[1]["species"] == broken
    build_graphs(files["filled"], tmp_path / "graphs.parquet", tmp_path / "without.parquet", tmp_path / "cache")
    graphs = tables.read_rows(tmp_path / "graphs.parquet", tables.GRAPHS)

    # What `xtalrl predict` makes of the same crystal in a CIF.
    Cell.from_row(filled[1]).to_structure().to(filename=str(tmp_path / "b.cif"))
    [crystal], [graph], problems = read_with_graphs(tmp_path / "b.cif", 20)
    assert problems == []
    assert crystal["spacegroup_number"] == graph["spacegroup_number"] == 123
    assert sorted(graph["edge_distance"]) == pytest.approx(sorted(graphs[1]["edge_distance"]), abs=1e-6)


def test_a_design_on_a_skeleton_that_is_not_there_is_a_sentence(files: dict[str, Path]) -> None:
    tables.write_rows([assessment(["Cs", "Cl"], "a", material_id="mp-2")], tables.ASSESSMENTS, files["assessments"])
    with pytest.raises(XtalrlError, match="on the skeleton mp-2"):
        fill_crystals(**files)
