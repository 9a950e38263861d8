from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_data import random_graph

from xtalrl import tables
from xtalrl.elements import UNFILLED
from xtalrl.rl import network
from xtalrl.rl.compression import compress
from xtalrl.rl.graphs import CrystalGraphs, GraphBatch
from xtalrl.rl.network import Architecture, QNetwork

Row = dict[str, Any]


def ring(n: int, name: str = "ring") -> Row:
    """A ring of n equivalent sites: every site two bonds of the same length, and a self-loop."""
    base = random_graph(np.random.default_rng(0), name, "train", n)
    source = [site for site in range(n) for _ in range(3)]
    target = [t for site in range(n) for t in ((site + 1) % n, (site - 1) % n, site)]
    return base | {
        "actions": [5] * n,
        "edge_source": source,
        "edge_target": target,
        "edge_image": [0] * 9 * n,
        "edge_distance": [2.0, 2.0, 3.0] * n,
    }


def load(rows: list[Row]) -> GraphBatch:
    return CrystalGraphs(tables.from_rows(rows, tables.GRAPHS)).batch(np.arange(len(rows)))


def test_empty_ring_is_one_site() -> None:
    graphs, types, kind = compress(load([ring(8), ring(6)]), torch.full((14,), UNFILLED), rounds=3)
    assert types.tolist() == [UNFILLED] * 2
    assert kind.tolist() == [0] * 8 + [1] * 6
    assert graphs.node_multiplicity.tolist() == [8, 6]
    assert graphs.in_degree.tolist() == [3, 3]
    # Either neighbour looks like the site itself, at 2 Å twice, as does its image, at 3 Å once.
    lengths = graphs.lengths[graphs.edge_length].tolist()
    edges = zip(
        graphs.edge_source.tolist(), graphs.edge_target.tolist(), lengths, graphs.multiplicity.tolist(), strict=True
    )
    assert sorted(edges) == [(0, 0, 2, 2), (0, 0, 3, 1), (1, 1, 2, 2), (1, 1, 3, 1)]


@pytest.mark.parametrize(("rounds", "kinds"), [(0, 2), (1, 3), (2, 4), (3, 5), (9, 5)])
def test_one_filled_site_splits_a_ring_by_distance(rounds: int, kinds: int) -> None:
    """In a ring of 8 the sites at distance 0, 1, 2, 3 and 4 from the filled one differ, each found one round later."""
    types = torch.full((8,), UNFILLED)
    types[3] = 5
    graphs, kept, kind = compress(load([ring(8)]), types, rounds)
    assert len(kept) == kinds
    assert graphs.node_multiplicity.sum() == 8
    assert torch.equal(kept[kind], types)
    if kinds == 5:
        assert kind[[2, 1, 0, 7]].tolist() == kind[[4, 5, 6, 7]].tolist()


def test_the_first_block_sees_lengths_and_types_alone() -> None:
    """Where one site of a ring is filled, a bond starts there, ends there or neither, and a self-loop is there or not: five kinds."""
    node_types = torch.full((16,), UNFILLED)
    node_types[[3, 9]] = 5
    graphs, types, _ = compress(load([ring(8), ring(8)]), node_types, rounds=3)
    kinds = graphs.edge_kinds
    assert kinds is not None
    assert len(kinds.length) == 2 * 5 < len(graphs.edge_source)
    assert torch.equal(kinds.length[kinds.of_edge], graphs.edge_length)
    assert torch.equal(types[kinds.source][kinds.of_edge], types[graphs.edge_source])
    assert torch.equal(types[kinds.target][kinds.of_edge], types[graphs.edge_target])
    assert torch.equal(graphs.node_graph[kinds.source][kinds.of_edge], graphs.edge_graph)


@settings(max_examples=8)
@given(
    seed=st.integers(0, 2**32 - 1),
    focus=st.sampled_from(["index", "node"]),
    n_filled=st.integers(0, 3),
    n_blocks=st.sampled_from([1, 3]),
)
def test_values_and_gradients_are_those_of_the_whole_graph(seed: int, focus: Any, n_filled: int, n_blocks: int) -> None:
    generator = np.random.default_rng(seed)
    rows = [ring(8, "a"), random_graph(generator, "b", "train", 7), ring(5, "c")]
    types = torch.full((20,), UNFILLED)
    types[generator.permutation(20)[:n_filled]] = 5
    graphs = load(rows)
    doubled = {
        name: getattr(graphs, name).double()
        for name in ("lengths", "state", "multiplicity", "node_multiplicity", "in_degree")
    }
    graphs = dataclasses.replace(graphs, **doubled)
    torch.manual_seed(0)
    q_network = QNetwork(Architecture(conditional=True, focus=focus, n_blocks=n_blocks)).double()

    def values_and_gradients() -> list[torch.Tensor]:
        q = q_network(graphs, types, torch.tensor([1, 2, 0]), 2.0)
        return [
            q.detach(),
            *torch.autograd.grad((q * torch.linspace(-1, 1, 88).double()).sum(), list(q_network.parameters())),
        ]

    compressed = values_and_gradients()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "compress", lambda graphs, types, rounds: (graphs, types, None))
        whole = values_and_gradients()
    for ours, theirs in zip(compressed, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-9)
