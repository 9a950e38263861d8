"""Breadth-first trajectories: networkx as the oracle, and what has to hold for every graph."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

import networkx as nx
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.rl.trajectories import (
    Transition,
    adjacency,
    breadth_first_order,
    build_trajectories,
    is_connected,
    iter_trajectories,
    source_sites,
)


@st.composite
def multigraphs(draw):
    n_sites = draw(st.integers(1, 12))
    site = st.integers(0, n_sites - 1)
    bonds = draw(st.lists(st.tuples(site, site), max_size=30))
    return n_sites, [u for u, v in bonds] + [v for u, v in bonds], [v for u, v in bonds] + [u for u, v in bonds]


@given(multigraphs(), st.data())
def test_orders_are_breadth_first(graph, data):
    n_sites, edge_source, edge_target = graph
    source = data.draw(st.integers(0, n_sites - 1))
    order = breadth_first_order(adjacency(n_sites, edge_source, edge_target), source)
    assert sorted(order) == list(range(n_sites))
    assert order[0] == source
    oracle = nx.Graph()
    oracle.add_nodes_from(range(n_sites))
    oracle.add_edges_from(zip(edge_source, edge_target, strict=True))
    expected: list[int] = []
    for start in [source, *range(n_sites)]:
        if start not in expected:
            expected += [start, *(v for _, v in nx.bfs_edges(oracle, start, sort_neighbors=sorted))]
    assert order == expected


@given(st.text(max_size=10), st.integers(1, 20), st.integers(1, 20), st.integers(0, 99))
def test_sources_are_distinct_and_more_of_them_begin_alike(material_id, n_sites, per_crystal, seed):
    sources = source_sites(material_id, n_sites, per_crystal, seed)
    assert len(set(sources)) == len(sources) == min(n_sites, per_crystal)
    assert sources == source_sites(material_id, n_sites, 20, seed)[: len(sources)]


def test_sources_are_uniform():
    counts = Counter(source_sites(f"mp-{i}", 4, 1, 0)[0] for i in range(4000))
    assert all(abs(count - 1000) < 5 * 27.4 for count in counts.values())  # five standard deviations


def graph_row(material_id, split="train", bonds=((0, 1), (1, 2)), actions=(3, 4, 5)):
    return {
        "material_id": material_id,
        "split": split,
        "actions": list(actions),
        "lattice_parameters": [4.0, 4.0, 4.0, 90.0, 90.0, 90.0],
        "spacegroup_number": 1,
        "edge_source": [u for u, v in bonds] + [v for u, v in bonds],
        "edge_target": [v for u, v in bonds] + [u for u, v in bonds],
        "edge_image": [0] * 6 * len(bonds),
        "edge_distance": [2.0] * 2 * len(bonds),
    }


def label_row(material_id, split="train", gap=1.0, formation=-1.0, total=-50.0):
    return {
        "material_id": material_id,
        "split": split,
        "band_gap": gap,
        "formation_energy_per_atom": formation,
        "total_energy_ry": total,
        "outcome": "converged",
        "detail": "",
        "source": "scf",
    }


def run(folder, graphs, labels, **options):
    tables.write_rows(graphs, tables.GRAPHS, folder / "graphs.parquet")
    tables.write_rows(labels, tables.LABELS, folder / "labels.parquet")
    given = {"per_crystal": 5, **options}
    build_trajectories(folder / "graphs.parquet", folder / "labels.parquet", folder / "trajectories.parquet", **given)
    return tables.read_rows(folder / "trajectories.parquet", tables.TRAJECTORIES)


def test_a_chain_by_hand(tmp_path):
    rows = run(tmp_path, [graph_row("a")], [label_row("a", gap=0.0, formation=0.0, total=None)])
    assert sorted((row["order"], row["actions"]) for row in rows) == [
        ([0, 1, 2], [3, 4, 5]),
        ([1, 0, 2], [4, 3, 5]),
        ([2, 1, 0], [5, 4, 3]),
    ]
    assert [row["trajectory"] for row in rows] == [0, 1, 2]
    assert {(row["band_gap"], row["formation_energy_per_atom"], row["total_energy_ry"]) for row in rows} == {
        (0.0, 0.0, None)
    }


def test_a_disconnected_crystal_is_kept(tmp_path):
    rows = run(tmp_path, [graph_row("a", bonds=((0, 1),))], [label_row("a")])
    assert sorted(row["order"] for row in rows) == [[0, 1, 2], [1, 0, 2], [2, 0, 1]]


def test_a_disconnected_crystal_is_dropped_as_the_published_code_does(tmp_path):
    graphs = [
        graph_row("parts", bonds=((0, 1),)),
        graph_row("whole"),
        graph_row("lonely", bonds=((0, 0), (1, 1), (2, 2))),
    ]
    labels = [label_row(row["material_id"]) for row in graphs]
    assert {row["material_id"] for row in run(tmp_path, graphs, labels, disconnected="drop")} == {"whole"}
    assert {row["material_id"] for row in run(tmp_path, graphs, labels)} == {"parts", "whole", "lonely"}


@given(multigraphs())
def test_connected_as_networkx_says(graph):
    n_sites, edge_source, edge_target = graph
    theirs = nx.Graph(list(zip(edge_source, edge_target, strict=True)))
    theirs.add_nodes_from(range(n_sites))
    assert is_connected(adjacency(n_sites, edge_source, edge_target)) == nx.is_connected(theirs)


def test_only_crystals_with_both_labels(tmp_path):
    graphs = [graph_row(name) for name in ("a", "no gap", "no energy", "no row")]
    labels = [
        label_row("a"),
        label_row("no gap", gap=None),
        label_row("no energy", formation=None),
        label_row("no graph"),
    ]
    assert {row["material_id"] for row in run(tmp_path, graphs, labels)} == {"a"}


def test_neither_order_nor_number_of_rows_matters(tmp_path):
    graphs = [graph_row(f"mp-{i}", bonds=[(k, k + 1) for k in range(11)], actions=range(12)) for i in range(30)]
    labels = [label_row(f"mp-{i}") for i in range(30)]
    all_rows = {(row["material_id"], row["trajectory"]): row for row in run(tmp_path, graphs, labels, seed=7)}
    backwards = run(tmp_path, graphs[::-1], labels[3:], seed=7)
    assert len(all_rows) == 150 and len(backwards) == 135
    assert all(row == all_rows[row["material_id"], row["trajectory"]] for row in backwards)
    assert run(tmp_path, graphs, labels, seed=8) != list(all_rows.values())


def test_nothing_to_learn_from_is_said(tmp_path):
    with pytest.raises(XtalrlError, match=r"No crystal of the train split .* both a band gap and a formation energy"):
        run(
            tmp_path,
            [graph_row("a"), graph_row("b", split="val")],
            [label_row("a", gap=None), label_row("b", split="val")],
        )


def test_the_validation_split_alone_is_enough_for_a_policy_that_was_trained_elsewhere(tmp_path):
    graphs = [graph_row("a", split="val"), graph_row("b", split="val")]
    assert {row["material_id"] for row in run(tmp_path, graphs, [label_row("a", split="val")])} == {"a"}
    with pytest.raises(XtalrlError, match=r"No crystal of the val split .* there is no skeleton to fill"):
        run(tmp_path, graphs, [label_row("a", split="val", gap=None)])


def test_labels_that_are_there_twice(tmp_path):
    with pytest.raises(XtalrlError, match=r"row 1 \(a\) is there twice"):
        run(tmp_path, [graph_row("a")], [label_row("a"), label_row("a", gap=2.0)])


def test_as_many_crystals_as_the_paper_has(tmp_path):
    n = 9000
    graphs = [
        graph_row(f"mp-{i}", bonds=[(k, (k + 1) % 15) for k in range(15)] * 3, actions=range(15)) for i in range(n)
    ]
    tables.write_rows(graphs, tables.GRAPHS, tmp_path / "graphs.parquet")
    tables.write_rows([label_row(f"mp-{i}") for i in range(n)], tables.LABELS, tmp_path / "labels.parquet")
    build_trajectories(tmp_path / "graphs.parquet", tmp_path / "labels.parquet", tmp_path / "trajectories.parquet", 5)
    assert tables.read(tmp_path / "trajectories.parquet", tables.TRAJECTORIES).num_rows == 5 * n
    with pq.ParquetFile(tmp_path / "trajectories.parquet") as file:
        assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [8192] * 5 + [4040]
        assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert sum(1 for _ in iter_trajectories(tmp_path / "trajectories.parquet")) == 5 * n


def test_metals_by_their_label(tmp_path):
    graphs = [graph_row(name) for name in ("metal", "nonmetal")]
    labels = [label_row("metal", gap=0.0), label_row("nonmetal", gap=0.01)]
    assert {row["material_id"] for row in run(tmp_path, graphs, labels, metals="dft")} == {"nonmetal"}
    assert {row["material_id"] for row in run(tmp_path, graphs, labels)} == {"metal", "nonmetal"}


def test_the_reader_gives_transitions(tmp_path):
    graphs = [graph_row("a"), graph_row("b", split="val")]
    rows = run(tmp_path, graphs, [label_row("a", gap=1.5), label_row("b", split="val")])
    path = tmp_path / "trajectories.parquet"
    assert [asdict(trajectory) for trajectory in iter_trajectories(path)] == rows
    assert [trajectory.material_id for trajectory in iter_trajectories(path, "val")] == ["b"] * 3
    first = next(iter_trajectories(path, "train"))
    order, actions = first.order, first.actions
    assert list(first.transitions()) == [
        Transition((), order[0], actions[0], False),
        Transition((order[0],), order[1], actions[1], False),
        Transition((order[0], order[1]), order[2], actions[2], True),
    ]
