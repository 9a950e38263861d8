"""Graphs: the same as pymatgen's StructureGraph with CrystalNN, for textbook crystals, MP-20 and random cells."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.core.graphs import StructureGraph

from xtalrl import tables
from xtalrl.csv_files import read_csv
from xtalrl.elements import ACTION
from xtalrl.errors import XtalrlError
from xtalrl.structures import graph_cache, neighbors
from xtalrl.structures import neighbor_graphs as graphs_module
from xtalrl.structures.crystals import Rejection, parse_row
from xtalrl.structures.neighbor_graphs import build_graphs, find_edges
from xtalrl.structures.prototypes import build_crystal, parse_parameters

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def pymatgen_edges(structure: Structure) -> list[tuple[int, ...]]:
    """Directed edges as the paper's code takes them from pymatgen: each bond both ways."""
    graph = StructureGraph.from_local_env_strategy(structure, neighbors.crystal_nn()).graph
    bonds = [(u, v, image) for u, v, image in graph.edges(data="to_jimage")]
    return sorted([(u, v, *image) for u, v, image in bonds] + [(v, u, *(-i for i in image)) for u, v, image in bonds])


def our_edges(structure: Structure) -> list[tuple[int, ...]]:
    edges = find_edges(structure)
    return [
        (int(u), int(v), *map(int, image)) for u, v, image in zip(edges.source, edges.target, edges.image, strict=True)
    ]


def demo_crystals(root):
    for row in read_csv(root / "resources" / "demo" / "crystals.csv").rows:
        yield row, build_crystal(row["prototype"], row["elements"].split(), parse_parameters(row["parameters"]))


def crystal_row(structure: Structure, material_id="x"):
    return {
        "material_id": material_id,
        "split": "train",
        "formula": structure.composition.reduced_formula,
        "n_sites": len(structure),
        "species": [site.specie.symbol for site in structure],
        "lattice": structure.lattice.matrix.ravel(),
        "frac_coords": structure.frac_coords.ravel(),
        "spacegroup_number": 1,
        "source": "test",
    }


def test_demo_crystals(root):
    for row, structure in list(demo_crystals(root))[::2]:
        assert our_edges(structure) == pymatgen_edges(structure), row["material_id"]


@pytest.mark.parametrize(("n", "seed"), [(12, 0), pytest.param(400, 1, marks=pytest.mark.slow)])
def test_mp20(shared, n, seed):
    rows = read_csv(shared / "mp20" / "val.csv.gz").rows
    random.Random(seed).shuffle(rows)
    compared = 0
    for row in rows:
        try:
            crystal = parse_row(row, 20)
        except Rejection:
            continue
        structure = Structure(
            Lattice(np.reshape(crystal["lattice"], (3, 3))),
            crystal["species"],
            np.reshape(crystal["frac_coords"], (-1, 3)),
        )
        assert our_edges(structure) == pymatgen_edges(structure), crystal["material_id"]
        compared += 1
        if compared == n:
            break
    assert compared == n


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.floats(0.5, 2.5))
def test_random_cells(seed, n_sites, spread):
    """Also far from any crystal: atoms anywhere, cells oblique, dense and loose."""
    generator = np.random.default_rng(seed)
    lattice = Lattice(np.diag([3.0, 4.0, 5.0]) * spread + generator.normal(0, 0.5, (3, 3)))
    structure = Structure(lattice, ["Na"] * n_sites, generator.random((n_sites, 3)))
    if not structure.is_valid(0.5):
        return
    try:
        expected = pymatgen_edges(structure)
    except (RuntimeError, ValueError) as error:
        with pytest.raises(type(error)):
            find_edges(structure)
    else:
        assert our_edges(structure) == expected


def test_rocksalt_by_hand():
    structure = build_crystal("rocksalt", ["Na", "Cl"], {"a": 5.64})
    edges = find_edges(structure)
    assert len(edges.source) == 12  # six bonds, each both ways, all parallel
    assert edges.distance == pytest.approx([2.82] * 12)


def test_self_loops_and_parallel_edges_are_kept():
    edges = find_edges(build_crystal("fcc", ["Cu"], {"a": 3.61}))
    assert len(edges.source) == 12
    assert set(edges.source) == set(edges.target) == {0}
    images = set(map(tuple, edges.image.tolist()))
    assert len(images) == 12 and images == {tuple(-i for i in image) for image in images}


def test_a_bond_found_from_one_side_only_is_a_bond(shared):
    """Such bonds exist; the graph has them both ways, as pymatgen's."""
    one_sided = 0
    for row in read_csv(shared / "mp20" / "val.csv.gz").rows[:25]:
        try:
            crystal = parse_row(row, 20)
        except Rejection:
            continue
        structure = Structure(
            Lattice(np.reshape(crystal["lattice"], (3, 3))),
            crystal["species"],
            np.reshape(crystal["frac_coords"], (-1, 3)),
        )
        found = {(u, v, *image) for u in range(len(structure)) for v, image in neighbors.find_neighbors(structure, u)}
        missing = {(v, u, -x, -y, -z) for u, v, x, y, z in found} - found
        one_sided += len(missing)
        assert missing <= set(our_edges(structure))
    assert one_sided > 0


def test_distances_are_those_of_the_sites(root):
    for _, structure in list(demo_crystals(root))[::10]:
        edges = find_edges(structure)
        for u, v, image, distance in zip(edges.source, edges.target, edges.image, edges.distance, strict=True):
            assert structure.get_distance(u, v, jimage=image) == pytest.approx(distance, abs=1e-9)


def test_the_search_radii_agree(root, monkeypatch):
    """The small tessellation is used only where it is the large one."""
    crystals = [structure for _, structure in demo_crystals(root)][::8]
    small = [our_edges(structure) for structure in crystals]
    monkeypatch.setattr(neighbors, "RADII", (neighbors.SEARCH_RADIUS,))
    assert [our_edges(structure) for structure in crystals] == small


def test_build_graphs(root, tmp_path, monkeypatch):
    monkeypatch.setattr(graphs_module, "MIN_PER_WORKER", 1)
    rows = [crystal_row(structure, row["material_id"]) for row, structure in demo_crystals(root)][:12]
    lonely = Structure(Lattice.cubic(60), ["He", "He"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    rows.insert(3, crystal_row(lonely, "lonely"))
    tables.write_rows(rows, tables.CRYSTALS, tmp_path / "crystals.parquet")
    build_graphs(
        tmp_path / "crystals.parquet", tmp_path / "g.parquet", tmp_path / "f.parquet", tmp_path / "cache", workers=2
    )
    graphs = tables.read_rows(tmp_path / "g.parquet", tables.GRAPHS)
    failures = tables.read_rows(tmp_path / "f.parquet", tables.REJECTED)
    assert len(graphs) + len(failures) == len(rows)
    for graph, row in zip(
        graphs, [r for r in rows if r["material_id"] not in {f["material_id"] for f in failures}], strict=True
    ):
        assert graph["material_id"] == row["material_id"]
        assert graph["actions"] == [ACTION[element] for element in row["species"]]
        assert len(graph["edge_image"]) == 3 * len(graph["edge_source"]) == 3 * len(graph["edge_distance"])


SALT = build_crystal("rocksalt", ["Na", "Cl"], {"a": 5.64})


def test_no_graph_is_built_twice(root, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "PART", 4)
    rows = [crystal_row(structure, row["material_id"]) for row, structure in demo_crystals(root)][:10]

    def build(rows, name):
        tables.write_rows(rows, tables.CRYSTALS, tmp_path / "crystals.parquet")
        build_graphs(tmp_path / "crystals.parquet", tmp_path / name, tmp_path / "f.parquet", tmp_path / "cache")
        return tables.read(tmp_path / name, tables.GRAPHS)

    built = []
    monkeypatch.setattr(graphs_module, "find_edges", lambda structure: built.append(structure) or find_edges(structure))
    cached = build(rows[3:], "1.parquet")
    assert len(built) == 7
    (tmp_path / "cache" / "graphs" / "torn.parquet").write_bytes(b"PAR1")
    everything = build([row | {"split": "val"} for row in rows], "2.parquet")
    assert len(built) == 10
    assert everything.slice(3).drop(["split"]) == cached.drop(["split"])
    assert set(everything["split"].to_pylist()) == {"val"}
    assert build([row | {"split": "val"} for row in rows], "3.parquet") == everything
    assert len(built) == 10
    moved = rows[0] | {"frac_coords": [x + 1e-9 for x in rows[0]["frac_coords"]]}
    build([moved], "4.parquet")
    assert len(built) == 11


def test_a_killed_build_keeps_what_it_has(root, tmp_path, monkeypatch):
    monkeypatch.setattr(graph_cache, "PART", 4)
    rows = [crystal_row(structure, row["material_id"]) for row, structure in demo_crystals(root)][:10]
    tables.write_rows(rows, tables.CRYSTALS, tmp_path / "crystals.parquet")
    built = []

    def find(structure):
        if len(built) == 6:
            raise KeyboardInterrupt
        built.append(structure)
        return find_edges(structure)

    monkeypatch.setattr(graphs_module, "find_edges", find)
    arguments = (tmp_path / "crystals.parquet", tmp_path / "g.parquet", tmp_path / "f.parquet", tmp_path / "cache")
    with pytest.raises(KeyboardInterrupt):
        build_graphs(*arguments)
    assert not (tmp_path / "g.parquet").exists()
    monkeypatch.setattr(graphs_module, "find_edges", lambda structure: built.append(structure) or find_edges(structure))
    build_graphs(*arguments)
    assert len(built) == 10


class KillsItsReader(dict):
    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_worker_ends_the_stage_with_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(graphs_module, "MIN_PER_WORKER", 1)
    monkeypatch.setattr(tables, "read_rows", lambda *_: [KillsItsReader(crystal_row(SALT))] * 20)
    with pytest.raises(XtalrlError, match="was killed, most likely for lack of memory"):
        build_graphs("crystals.parquet", tmp_path / "g.parquet", tmp_path / "f.parquet", tmp_path / "cache", workers=2)
    assert not (tmp_path / "g.parquet").exists()


def test_a_crystal_without_a_graph_is_a_row(tmp_path):
    nonsense = crystal_row(Structure(Lattice.cubic(4), ["Na"], [[0, 0, 0]]), "nonsense") | {"lattice": [0.0] * 9}
    good = crystal_row(build_crystal("rocksalt", ["Na", "Cl"], {"a": 5.64}), "good")
    tables.write_rows([nonsense, good], tables.CRYSTALS, tmp_path / "crystals.parquet")
    build_graphs(tmp_path / "crystals.parquet", tmp_path / "g.parquet", tmp_path / "f.parquet", tmp_path / "cache")
    assert [row["material_id"] for row in tables.read_rows(tmp_path / "g.parquet", tables.GRAPHS)] == ["good"]
    (failure,) = tables.read_rows(tmp_path / "f.parquet", tables.REJECTED)
    assert (failure["material_id"], failure["row"], failure["reason"]) == ("nonsense", 0, "no_neighbors")
    assert failure["detail"]
