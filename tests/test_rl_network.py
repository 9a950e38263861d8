from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rl_data import random_graph
from torch import Tensor, nn

from xtalrl import tables
from xtalrl.elements import UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl import activation
from xtalrl.rl.activation import softplus2
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, Bonds, MEGNetBlock, QNetwork, Set2Set, segment_sum

Row = dict[str, Any]
P_HAT = 1.12


def random_graphs(n: int, seed: int = 0) -> list[Row]:
    generator = np.random.default_rng(seed)
    return [random_graph(generator, f"x-{i}", "train", int(generator.integers(1, 10))) for i in range(n)]


def load(rows: list[Row]) -> CrystalGraphs:
    return CrystalGraphs(tables.from_rows(rows, tables.GRAPHS))


def random_state(rows: list[Row], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Node types and focus of partly filled crystals."""
    generator = np.random.default_rng(seed)
    types, focus = [], []
    for row in rows:
        n = len(row["actions"])
        order, filled = generator.permutation(n), int(generator.integers(n))
        filling = np.full(n, UNFILLED)
        filling[order[:filled]] = np.array(row["actions"])[order[:filled]]
        types.append(filling)
        focus.append(order[filled])
    return torch.from_numpy(np.concatenate(types)), torch.tensor(np.array(focus))


def make_network(seed: int = 0, **architecture: Any) -> QNetwork:
    torch.manual_seed(seed)
    return QNetwork(Architecture(**{"conditional": True, **architecture})).double()


def q_values(network: QNetwork, rows: list[Row], types: Tensor, focus: Tensor) -> Tensor:
    batch = load(rows).batch(np.arange(len(rows)))
    return network(to_double(batch), types, focus, P_HAT)


def to_double(batch: Any) -> Any:
    values = {
        name: value.double()
        for name, value in vars(batch).items()
        if name != "edge_kinds" and value.is_floating_point()
    }
    return dataclasses.replace(batch, **values)


def permuted_edges(row: Row, generator: np.random.Generator) -> Row:
    order = generator.permutation(len(row["edge_source"]))
    return {**row} | {name: [row[name][i] for i in order] for name in ("edge_source", "edge_target", "edge_distance")}


def permuted_sites(row: Row, permutation: np.ndarray) -> Row:
    """Site i of the result is site permutation[i] of the row."""
    new = np.argsort(permutation)
    return {
        **row,
        "actions": [row["actions"][i] for i in permutation],
        "edge_source": [int(new[i]) for i in row["edge_source"]],
        "edge_target": [int(new[i]) for i in row["edge_target"]],
    }


# --- the whole network against matgl and torch_geometric ------------------------------------------------------------


class OracleQNetwork(nn.Module):
    """The authors' network put together from matgl 4's and torch_geometric's layers, on unmerged edges.

    matgl 4 sums messages at an edge's source, matgl 0.9 (the authors') at its target: edges are passed reversed and the weights of
    source and target swapped.
    """

    swaps = True

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        from matgl.layers import MLP, ActivationFunction, EdgeSet2Set, MEGNetBlock

        act = ActivationFunction.softplus2.value()
        self.source = network
        self.node_embedding, self.focus_embedding = nn.Embedding(89, 16), nn.Embedding(20, 8)
        self.edge_encoder = MLP([1, 64, 32], act, activate_last=True)
        self.node_encoder = MLP([16, 64, 32], act, activate_last=True)
        self.state_encoder = MLP([16, 64, 32], act, activate_last=True)
        self.blocks = nn.ModuleList(MEGNetBlock([32, 64, 32] if i else [32], [64, 64, 32], act) for i in range(3))
        self.node_readout = self.set2set()
        self.edge_readout = EdgeSet2Set(32, 2, 1)
        self.head = MLP([160, 32, 16, 88], act, activate_last=False)
        self.double()
        self.pairs = list(self.correspondence(network))
        with torch.no_grad():
            for theirs, ours, swap in self.pairs:
                theirs.copy_(swap_blocks(ours) if swap else ours)

    def set2set(self) -> nn.Module:
        from torch_geometric.nn.aggr import Set2Set

        return Set2Set(32, 2)

    def correspondence(self, network: QNetwork) -> Any:
        """Our parameters beside theirs, and whether the source and target columns are swapped."""

        def mlp(theirs: Any, ours: Any, swap: bool = False) -> Any:
            linears = [layer for layer in theirs.layers if isinstance(layer, nn.Linear)]
            for number, (a, b) in enumerate(zip(linears, [ours.first, *ours.rest], strict=True)):
                yield a.weight, b.weight, swap and number == 0
                yield a.bias, b.bias, False

        yield self.node_embedding.weight, network.node_embedding.weight, False
        yield self.focus_embedding.weight, network.focus_embedding.weight, False
        for name in ("edge_encoder", "node_encoder", "state_encoder", "head"):
            yield from mlp(getattr(self, name), getattr(network, name))
        for number, (a, b) in enumerate(zip(self.blocks, network.blocks, strict=True)):
            for name in ("edge", "node", "state"):
                yield from mlp(
                    getattr(a.conv, f"{name}_func"), getattr(b, f"{name}_update"), self.swaps and name == "edge"
                )
                if number:
                    yield from mlp(getattr(a, f"{name}_func"), getattr(b, f"{name}_dense"))
        for name in ("node_readout", "edge_readout"):
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                theirs = getattr(getattr(self, name).lstm, f"{part}_l0")
                yield theirs, getattr(getattr(network, name).lstm, part), False

    def forward(self, rows: list[Row], types: Tensor, focus: Tensor) -> Tensor:
        sizes = [len(row["actions"]) for row in rows]
        starts = np.cumsum([0, *sizes])
        node_graph = torch.repeat_interleave(torch.arange(len(rows)), torch.tensor(sizes))
        source, target, distance, state = [], [], [], []
        for row, start in zip(rows, starts, strict=False):
            source += [site + start for site in row["edge_source"]]
            target += [site + start for site in row["edge_target"]]
            distance += row["edge_distance"]
            state.append([*row["lattice_parameters"], row["spacegroup_number"], P_HAT])
        # The stored features are single precision, as the network's inputs are.
        d = torch.tensor(distance).float().double()
        z = torch.tensor(state).float().double()
        edges = self.edge_encoder(torch.exp(-(d**2) / 2.0)[:, None])
        nodes = self.node_encoder(self.node_embedding(types))
        u = self.state_encoder(torch.cat([z, self.focus_embedding(focus)], 1))
        return self.head(self.convolve(torch.tensor(np.array([source, target])), node_graph, edges, nodes, u))

    def convolve(self, bonds: Tensor, node_graph: Tensor, edges: Tensor, nodes: Tensor, u: Tensor) -> Tensor:
        """What the head gets, given the (2, E) sources and targets of edges."""
        reversed_edges = bonds.flip(0)
        edge_graph, n_graphs = node_graph[reversed_edges[0]], len(u)
        for block in self.blocks:
            edges, nodes, u = block(
                reversed_edges, edges, nodes, u, node_graph, edge_graph, num_nodes=len(nodes), num_graphs=n_graphs
            )
        readout = [
            self.node_readout(nodes, node_graph, dim_size=n_graphs),
            self.edge_readout(edges, edge_graph, n_graphs),
            u,
        ]
        return torch.cat(readout, 1)


def swap_blocks(weight: Tensor) -> Tensor:
    source, target, rest = torch.split(weight, [32, 32, 64], 1)
    return torch.cat([target, source, rest], 1)


def test_values_and_gradients_against_matgl() -> None:
    pytest.importorskip("matgl")
    pytest.importorskip("torch_geometric")
    compare_with(OracleQNetwork)


def compare_with(oracle_type: type[OracleQNetwork]) -> None:
    rows = random_graphs(12)
    types, focus = random_state(rows)
    network = make_network()
    oracle = oracle_type(network)
    ours, theirs = q_values(network, rows, types, focus), oracle(rows, types, focus)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9 * float(theirs.detach().abs().max()))

    weights = torch.randn(ours.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    for their_weight, our_weight, swap in oracle.pairs:
        assert our_weight.grad is not None
        expected = swap_blocks(their_weight.grad) if swap else their_weight.grad
        torch.testing.assert_close(our_weight.grad, expected, rtol=1e-6, atol=1e-8 * float(expected.abs().max() + 1))
    assert {id(ours) for _, ours, _ in oracle.pairs} == {id(weight) for weight in network.parameters()}


def test_set2set_against_torch_geometric() -> None:
    aggr = pytest.importorskip("torch_geometric.nn.aggr")
    torch.manual_seed(0)
    ours, theirs = Set2Set(6, 3), aggr.Set2Set(6, 3)
    for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
        getattr(theirs.lstm, f"{part}_l0").data = getattr(ours.lstm, part).data
    owner = torch.tensor([0, 0, 0, 1, 2, 2])
    x = torch.randn(6, 6)
    torch.testing.assert_close(ours(x, owner, 3, torch.ones(6)), theirs(x, owner, dim_size=3))
    # Counting an element twice is having it twice.
    count = torch.tensor([1, 2, 1, 1, 1, 3])
    repeated = torch.repeat_interleave(torch.arange(6), count)
    expected = theirs(x[repeated], owner[repeated], dim_size=3)
    torch.testing.assert_close(ours(x, owner, 3, count.float()), expected)


# --- by hand -------------------------------------------------------------------------------------------------------


def test_softplus2_by_hand() -> None:
    x = torch.tensor([0.0, 100.0, -100.0], dtype=torch.float64)
    torch.testing.assert_close(softplus2(x), torch.tensor([0.0, 100 - np.log(2), -np.log(2)], dtype=torch.float64))
    assert torch.autograd.gradcheck(softplus2, torch.linspace(-30, 30, 41, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("values", ["in one loop", pytest.param("compiled", marks=pytest.mark.slow)])
def test_softplus2_in_one_loop(values: str) -> None:
    """Against torch's softplus in double precision, in steps of 1e-3 and where exp would overflow: as close as torch's own."""
    x = torch.cat(
        [torch.arange(-30, 30, 1e-3), torch.tensor([-1e30, -200.0, -88.0, 0.0, 60.0, 88.0, 89.0, 200.0, 1e30])]
    )
    exact = torch.nn.functional.softplus(x.double(), threshold=700) - np.log(2)
    function = activation._in_one_loop if values == "in one loop" else activation.compiled_values()
    torch.testing.assert_close(function(x).double(), exact, rtol=1.5e-7, atol=1.5e-7)
    torch.testing.assert_close(activation.torch_values(x).double(), exact, rtol=1.5e-7, atol=1.5e-7)


def test_rough_softplus2_is_as_close_as_bfloat16() -> None:
    x = torch.cat([torch.linspace(-100, 100, 2001), torch.linspace(-1, 1, 2001)]).bfloat16()
    exact = torch.nn.functional.softplus(x.double(), threshold=700) - np.log(2)
    torch.testing.assert_close(activation._roughly(x).double(), exact, rtol=2**-8, atol=3e-4)
    gradient = torch.full_like(x, 2.0)
    derivative = activation._rough_derivative(gradient, x).double()
    torch.testing.assert_close(derivative, 2 * torch.sigmoid(x.double()), rtol=2**-8, atol=3e-4)


def test_no_compiler_gets_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(x: Tensor) -> Tensor:
        raise RuntimeError("No working C++ compiler found\nin a long text")

    monkeypatch.setattr(torch, "compile", lambda function, **options: fail)
    activation.compiled_values.cache_clear()
    with pytest.raises(
        XtalrlError, match=r"cannot compile here \(No working C\+\+ compiler found\): install .*compile: false"
    ):
        make_network().compile_activations()


def test_block_by_hand() -> None:
    """Two sites, one edge 0 → 1, every update a mere sum of its inputs: x → softplus2 of the sum, width 1."""
    row = random_graphs(1)[0] | {
        "actions": [3, 4],
        "edge_source": [0],
        "edge_target": [1],
        "edge_image": [0, 0, 0],
        "edge_distance": [1.0],
    }
    batch = to_double(load([row]).batch(np.array([0])))
    block = MEGNetBlock(1, (1,), None).double()
    for parameter in block.parameters():
        nn.init.constant_(parameter, 1.0) if parameter.dim() == 2 else nn.init.zeros_(parameter)
    edge, nodes, state = (torch.tensor(x, dtype=torch.float64) for x in ([[0.5]], [[1.0], [2.0]], [[0.25]]))
    bonds = Bonds(batch.edge_source, batch.edge_target)
    new_edge, new_nodes, new_state = block(batch, bonds, edge, nodes, state)
    s = lambda x: np.log1p(np.exp(x)) - np.log(2)  # noqa: E731
    e = s(0.5 + 1.0 + 2.0 + 0.25)
    v0, v1 = s(1.0 + 0.0 + 0.25), s(2.0 + e + 0.25)  # only the target of the edge hears of it
    u = s(0.25 + e + (v0 + v1) / 2)
    np.testing.assert_allclose(new_edge.tolist(), [[e + 0.5]])
    np.testing.assert_allclose(new_nodes.tolist(), [[v0 + 1], [v1 + 2]])
    np.testing.assert_allclose(new_state.tolist(), [[u + 0.25]])


def test_segment_sum_by_hand() -> None:
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert segment_sum(x, torch.tensor([0, 2, 2]), 3).tolist() == [[1, 2], [0, 0], [8, 10]]


def test_size_is_the_papers() -> None:
    """185,728 in the authors' code, less the 8 of an embedding for 'no focus left', which no value is asked for."""
    assert sum(parameter.numel() for parameter in make_network().parameters()) == 185_728 - 8


# --- invariants ----------------------------------------------------------------------------------------------------


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), focus=st.sampled_from(["index", "node"]))
def test_order_of_edges_and_company_do_not_matter(seed: int, focus: str) -> None:
    generator = np.random.default_rng(seed)
    rows = random_graphs(4, seed)
    types, sites = random_state(rows, seed)
    network = make_network(focus=focus)
    together = q_values(network, rows, types, sites)
    shuffled = q_values(network, [permuted_edges(row, generator) for row in rows], types, sites)
    torch.testing.assert_close(shuffled, together, rtol=1e-9, atol=1e-9)
    start = len(rows[0]["actions"])
    alone = q_values(network, rows[1:2], types[start : start + len(rows[1]["actions"])], sites[1:2])
    torch.testing.assert_close(alone, together[1:2], rtol=1e-9, atol=1e-9)


@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1))
def test_node_focus_is_blind_to_the_order_of_sites(seed: int) -> None:
    generator = np.random.default_rng(seed)
    row = random_graph(generator, "x", "train", int(generator.integers(2, 12)))
    types, sites = random_state([row], seed)
    permutation = generator.permutation(len(row["actions"]))
    moved = torch.from_numpy(np.argsort(permutation))[sites]
    network = make_network(focus="node")
    before = q_values(network, [row], types, sites)
    after = q_values(network, [permuted_sites(row, permutation)], types[permutation], moved)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


def test_index_focus_sees_the_order_of_sites() -> None:
    """Why there is another mode: under the paper's, renumbering the sites changes the values."""
    row = random_graph(np.random.default_rng(0), "x", "train", 6)
    types, sites = torch.full((6,), UNFILLED), torch.tensor([0])
    network = make_network()
    after = q_values(network, [permuted_sites(row, np.arange(6)[::-1])], types, torch.tensor([5]))
    assert not torch.allclose(after, q_values(network, [row], types, sites), rtol=1e-3)


@pytest.mark.parametrize("focus", ["index", "node"])
def test_the_focus_matters(focus: str) -> None:
    row = random_graph(np.random.default_rng(0), "x", "train", 6)
    types = torch.full((6,), UNFILLED)
    network = make_network(focus=focus)
    q = [q_values(network, [row], types, torch.tensor([site])) for site in range(6)]
    assert all(not torch.allclose(q[0], other) for other in q[1:])


def test_only_the_conditional_network_sees_the_target_gap() -> None:
    rows = random_graphs(3)
    types, focus = random_state(rows)
    batch = to_double(load(rows).batch(np.arange(3)))
    conditional, unconditional = make_network(), make_network(conditional=False)
    assert not torch.allclose(conditional(batch, types, focus, 1.0), conditional(batch, types, focus, 4.0))
    assert torch.equal(unconditional(batch, types, focus, None), unconditional(batch, types, focus, 4.0))
    with pytest.raises(ValueError, match="target gap"):
        conditional(batch, types, focus, None)


def test_standardised_state() -> None:
    network = make_network(focus="node").float()
    state = load(random_graphs(50)).state
    state[:, 6] = 3.0  # one that never varies stays finite
    network.standardise(state)
    standard = (state - network.state_mean) / network.state_scale
    torch.testing.assert_close(standard.mean(0), torch.zeros(7), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std(0, correction=0), torch.tensor([1.0] * 6 + [0.0]), atol=1e-5, rtol=0)


# --- graphs --------------------------------------------------------------------------------------------------------


def test_identical_edges_are_merged_and_counted() -> None:
    row = random_graphs(1)[0] | {
        "actions": [3, 4],
        "edge_source": [0, 1, 0, 1, 0, 1],
        "edge_target": [1, 0, 1, 0, 1, 0],
        "edge_image": [0] * 18,
        "edge_distance": [1.5, 1.5, 1.5 + 1e-9, 1.5 + 1e-9, 2.5, 2.5],
    }
    batch = load([row, row]).batch(np.array([1, 0]))
    assert batch.multiplicity.tolist() == [2, 1] * 4
    assert batch.n_edges.tolist() == [6, 6]
    assert batch.in_degree.tolist() == [3] * 4
    assert batch.lengths[batch.edge_length].tolist() == pytest.approx([1.5, 2.5] * 4)
    assert sorted(zip(batch.edge_source.tolist(), batch.edge_target.tolist(), strict=True)) == [
        (0, 1), (0, 1), (1, 0), (1, 0), (2, 3), (2, 3), (3, 2), (3, 2),
    ]  # fmt: skip


def test_head_is_the_batch_of_the_first_graphs() -> None:
    graphs = load(random_graphs(5))
    batch, first = graphs.batch(np.array([3, 1, 4, 1])), graphs.batch(np.array([3, 1]))
    head = batch.head(2, len(first.node_graph), len(first.edge_graph))
    for name, value in vars(first).items():
        ours = getattr(head, name)
        if name == "edge_kinds":
            assert ours is value is None
            continue
        assert torch.equal(ours[: len(value)] if name == "lengths" else ours, value), name


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"edge_distance": [1.0]}, "different lengths"),
        ({"edge_source": [], "edge_target": [], "edge_distance": []}, "no edge"),
        ({"edge_source": [9], "edge_target": [0], "edge_distance": [1.0]}, "does not exist"),
        ({"edge_source": [0], "edge_target": [0], "edge_distance": [float("nan")]}, "of no length"),
        ({"lattice_parameters": [1.0] * 5}, "lattice parameters"),
        ({"actions": [1] * 21}, "between 1 and 20 sites"),
    ],
)
def test_malformed_graphs_get_a_sentence(change: Row, fault: str) -> None:
    good, row = random_graphs(2)
    with pytest.raises(XtalrlError, match=rf"{fault}.* for x-1: run"):
        load([good, {**row, **change}])
