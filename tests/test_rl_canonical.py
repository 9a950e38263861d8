"""Sites numbered by the crystal: what must not depend on the order of the sites in the file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_data import random_graph, random_trajectories, write_dataset

from xtalrl import tables
from xtalrl.rl.canonical import LENGTH_TOLERANCE, CrystalBonds, canonical_sites
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.replay import Orders, read_trajectories
from xtalrl.rl.rollout import fill_skeletons
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.trajectories import build_trajectories, orders


@st.composite
def bonds(draw, lengths=(2.0, 3.0)):
    n_sites = draw(st.integers(1, 9))
    site = st.integers(0, n_sites - 1)
    found = draw(st.lists(st.tuples(site, site, st.sampled_from(lengths)), max_size=20))
    return both_ways(n_sites, found)


def both_ways(n_sites, found):
    edges = [(u, v, d) for u, v, d in found] + [(v, u, d) for u, v, d in found]
    return (
        CrystalBonds(n_sites, *(list(column) for column in zip(*edges, strict=True)))
        if edges
        else CrystalBonds(n_sites, [], [], [])
    )


def renumbered(bonds, new, seed=0):
    """The same bonds with site s called new[s], listed in another order, with the rounding noise of another cell."""
    edges = [(new[u], new[v], d) for u, v, d in zip(bonds.source, bonds.target, bonds.length, strict=True)]
    generator = random.Random(seed)
    generator.shuffle(edges)
    return CrystalBonds(bonds.n_sites, [u for u, _, _ in edges], [v for _, v, _ in edges],
                 [d + generator.uniform(-1e-9, 1e-9) for *_, d in edges])  # fmt: skip


def seen_along(bonds, sites):
    """The bonds with each site called by its place in `sites`."""
    place = {site: number for number, site in enumerate(sites)}
    return sorted(
        (place[u], place[v], round(d, 6)) for u, v, d in zip(bonds.source, bonds.target, bonds.length, strict=True)
    )


@settings(deadline=None)
@given(bonds(), st.randoms(use_true_random=False))
def test_the_order_in_the_file_does_not_matter(graph, generator):
    new = list(range(graph.n_sites))
    generator.shuffle(new)
    other = renumbered(graph, new)
    sites = canonical_sites(graph)
    assert sorted(sites) == list(range(graph.n_sites))
    assert seen_along(graph, sites) == seen_along(other, canonical_sites(other))
    for mine, its in zip(orders("x", graph, 5, 0, "shuffled"), orders("x", other, 5, 0, "shuffled"), strict=True):
        assert seen_along(graph, mine) == seen_along(other, its)


@pytest.mark.parametrize(
    "rings",
    [[6, 3, 3], [3, 3, 6], [4, 5, 3], [5, 5]],  # every site has two like neighbours: refinement alone tells none apart
)
def test_rings_of_different_sizes(rings):
    found, first = [], 0
    for size in rings:
        found += [(first + i, first + (i + 1) % size, 2.0) for i in range(size)]
        first += size
    graph = both_ways(first, found)
    for seed in range(20):
        new = list(range(first))
        random.Random(seed).shuffle(new)
        other = renumbered(graph, new)
        assert seen_along(graph, canonical_sites(graph)) == seen_along(other, canonical_sites(other))


def test_lengths_within_the_tolerance_are_one():
    near = both_ways(3, [(0, 1, 2.0), (1, 2, 2.0 + LENGTH_TOLERANCE / 2)])
    assert canonical_sites(near) == canonical_sites(renumbered(near, [2, 1, 0]))  # the ends are alike: the file decides
    far = both_ways(3, [(0, 1, 2.0), (1, 2, 2.5)])
    assert canonical_sites(renumbered(far, [2, 1, 0])) == [2 - site for site in canonical_sites(far)]


def test_the_source_of_like_sites_is_drawn_evenly():
    # Rock salt: two sites that only the file tells apart.
    salt = both_ways(2, [(0, 1, 2.8)] * 6)
    first = sum(orders(f"mp-{number}", salt, 1, 0, "shuffled")[0][0] for number in range(4000))
    assert abs(first - 2000) < 5 * 31.7


def test_ties_are_drawn_anew_for_every_trajectory():
    star = both_ways(7, [(0, site, 2.0) for site in range(1, 7)])
    found = {
        tuple(order[1:])
        for number in range(300)
        for order in orders(f"mp-{number}", star, 7, 0, "shuffled")
        if order[0] == 0
    }
    assert len(found) > 100  # of 720; by index it is always 1, 2, 3, …
    assert {tuple(order[1:]) for order in orders("mp-1", star, 7, 0, "index") if order[0] == 0} == {(1, 2, 3, 4, 5, 6)}


def dataset(folder: Path, graphs: list[dict], ties: str) -> Orders:
    tables.write_rows(graphs, tables.GRAPHS, folder / "graphs.parquet")
    labels = [
        {"material_id": graph["material_id"], "split": graph["split"], "band_gap": 1.0, "formation_energy_per_atom": -1.0,
         "outcome": "converged", "detail": "", "source": "scf"}
        for graph in graphs
    ]  # fmt: skip
    tables.write_rows(labels, tables.LABELS, folder / "labels.parquet")
    path = folder / "trajectories.parquet"
    build_trajectories(folder / "graphs.parquet", folder / "labels.parquet", path, 5, ties=ties)  # type: ignore[arg-type]
    table = read_trajectories(path, "val")
    table = table.filter([number == 0 for number in table["trajectory"].to_pylist()])
    return Orders(CrystalGraphs.read(folder / "graphs.parquet", table["material_id"].to_pylist()), table, path)


def scrambled(graph: dict, generator: np.random.Generator) -> dict:
    new = generator.permutation(len(graph["actions"])).tolist()
    actions = [0] * len(new)
    for site, action in zip(new, graph["actions"], strict=True):
        actions[site] = action
    return {
        **graph,
        "actions": actions,
        "edge_source": [new[site] for site in graph["edge_source"]],
        "edge_target": [new[site] for site in graph["edge_target"]],
    }


def placed(orders: Orders, filled: list[np.ndarray]) -> list[list[list[int]]]:
    """Elements in the order they were placed."""
    order = np.split(orders.order.numpy(), orders.first_step[1:])
    return [[design[sites].tolist() for design in designs] for designs, sites in zip(filled, order, strict=True)]


class Surroundings(torch.nn.Module):
    """A policy that looks at what surrounds the site it fills, and at nothing that has to do with numbers of sites."""

    def forward(self, batch, node_types, focus, target_ev):
        code = batch.lengths.double()[batch.edge_length] * (node_types[batch.edge_source] + 1) * batch.multiplicity
        around = torch.zeros(len(node_types), dtype=torch.double).index_add(0, batch.edge_target, code)
        return torch.sin(around[batch.first_node + focus][:, None] * torch.arange(1, 89) / 50)


@pytest.mark.parametrize("select", ["greedy", "softmax"])
def test_an_honest_policy_does_not_see_the_order_of_the_file(tmp_path: Path, select: str) -> None:
    generator = np.random.default_rng(3)
    graphs = [random_graph(generator, f"x-{number}", "val", int(generator.integers(2, 9))) for number in range(20)]
    graphs.append(random_graph(generator, "t", "train", 3))
    others = [scrambled(graph, generator) for graph in graphs]
    settings_ = RolloutSettings(select, designs=2, temperature=0.1)  # type: ignore[arg-type]
    same = {}
    for ties in ("shuffled", "index"):
        designs = []
        for name, rows in (("a", graphs), ("b", others)):
            found = dataset(tmp_path / ties / name, rows, ties)
            designs.append(placed(found, fill_skeletons(Surroundings(), found, None, settings_)))
        same[ties] = [a == b for a, b in zip(*designs, strict=True)]
        assert len({element for of_skeleton in designs[0] for design in of_skeleton for element in design}) > 20
    assert all(same["shuffled"])
    assert sum(same["index"]) < 10


def test_for_one_order_designs_move_with_the_sites(tmp_path: Path) -> None:
    """The network alone: whatever the order, a site's element goes where the site goes."""
    generator = np.random.default_rng(4)
    graph = random_graph(generator, "x", "val", 7)
    row = random_trajectories(generator, graph, 1)[0]
    new = generator.permutation(7).tolist()
    other = scrambled(graph, np.random.default_rng(0)) | {
        "actions": [graph["actions"][new.index(site)] for site in range(7)],
        "edge_source": [new[site] for site in graph["edge_source"]],
        "edge_target": [new[site] for site in graph["edge_target"]],
    }
    network = QNetwork(Architecture(conditional=False, focus="node"))
    designs = []
    for name, rows in (("a", (graph, row)), ("b", (other, row | {"order": [new[site] for site in row["order"]]}))):
        (tmp_path / name).mkdir()
        paths = write_dataset(tmp_path / name, [rows[0]], [rows[1]])
        table = read_trajectories(paths["trajectories"], "val")
        designs.append(
            fill_skeletons(network, Orders(CrystalGraphs.read(paths["graphs"], ["x"]), table, ""), None)[0][0]
        )
    assert designs[0].tolist() == [designs[1][new[site]] for site in range(7)]
