"""The Q-network with DGL's message passing in place of our own: the same weights, the same interface, the same values.

The authors' code stands on DGL. It is here for those who have work in DGL and as an independent check of ours; it is slower, knows no stack of
networks, and is never imported elsewhere. The last DGL with wheels for today's Python and torch on PyPI is 1.1.3, for CPUs only
(`pip install 'xtalrl[train,dgl]'`); DGL is no longer developed.
"""

from __future__ import annotations

import copy

import dgl  # type: ignore[import-not-found]
import torch
from dgl import function as fn
from dgl import ops
from torch import Tensor, nn

from xtalrl.rl.graphs import GraphBatch
from xtalrl.rl.network import Bonds, MEGNetBlock, QNetwork, Set2Set


def dgl_network(network: QNetwork) -> QNetwork:
    """A network that shares the weights of another and passes messages by DGL, forward and backward."""
    twin = copy.copy(network)
    twin._modules = dict(network._modules)
    twin.blocks = nn.ModuleList(DGLBlock(block) for block in network.blocks if isinstance(block, MEGNetBlock))
    twin.node_readout, twin.edge_readout = (DGLSet2Set(part) for part in (network.node_readout, network.edge_readout))  # type: ignore[assignment]
    return twin


class DGLBlock(nn.Module):
    """A MEGNet block on a `dgl.DGLGraph`, written as in eq. 12: features are concatenated, then go through the update."""

    def __init__(self, block: MEGNetBlock) -> None:
        """Share the weights of a block."""
        super().__init__()
        self.block = block

    def forward(
        self, graphs: GraphBatch, bonds: Bonds, edges: Tensor, nodes: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `MEGNetBlock.forward`, of one network."""
        block = self.block
        if bonds.origin is not None:
            edges = edges[bonds.origin]
        old_edges, old_nodes, old_state = edges, nodes, state
        edges, nodes, state = block.edge_dense(edges), block.node_dense(nodes), block.state_dense(state)
        graph = dgl.graph((bonds.source, bonds.target), num_nodes=len(nodes))
        graph.ndata["v"], graph.edata["e"] = nodes, edges
        graph.ndata["u"] = state[graphs.node_graph]

        graph.apply_edges(
            lambda edge: {"e": block.edge_update(_beside(edge.src["v"], edge.dst["v"], edge.data["e"], edge.src["u"]))}
        )
        edges = graph.edata["e"]
        messages = dgl.graph((graphs.edge_source, graphs.edge_target), num_nodes=len(nodes))
        messages.edata["m"] = (edges if bonds.of_edge is None else edges[bonds.of_edge]) * graphs.multiplicity[:, None]
        messages.update_all(fn.copy_e("m", "m"), fn.sum("m", "received"))
        received = messages.ndata["received"]
        nodes = block.node_update(_beside(nodes, received / graphs.in_degree[:, None], graph.ndata["u"]))

        count = graphs.node_multiplicity[:, None]
        kept = _lengths(graphs.node_graph, len(state))
        mean_edge = ops.segment_reduce(kept, received * count) / graphs.n_edges[:, None]
        mean_node = ops.segment_reduce(kept, nodes * count) / graphs.n_nodes[:, None]
        state = block.state_update(_beside(state, mean_edge, mean_node))
        return edges + old_edges, nodes + old_nodes, state + old_state


class DGLSet2Set(nn.Module):
    """The set2set readout with DGL's segments (eq. 13)."""

    def __init__(self, readout: Set2Set) -> None:
        """Share the weights of a readout."""
        super().__init__()
        self.lstm, self.width, self.steps = readout.lstm, readout.width, readout.steps

    def forward(self, x: Tensor, owner: Tensor, n_sets: int, multiplicity: Tensor) -> Tensor:
        """As `Set2Set.forward`, of one network."""
        lengths = _lengths(owner, n_sets)
        readout = x.new_zeros(n_sets, 2 * self.width)
        hidden = cell = x.new_zeros(n_sets, self.width)
        for _ in range(self.steps):
            hidden, cell = self.lstm(readout, (hidden, cell))
            score = (x * hidden[owner]).sum(1, keepdim=True) + multiplicity.log()[:, None]
            attended = ops.segment_reduce(lengths, x * ops.segment_softmax(lengths, score))
            readout = _beside(hidden, attended)
        return readout


def _beside(*features: Tensor) -> Tensor:
    return torch.cat(features, 1)


def _lengths(owner: Tensor, n: int) -> Tensor:
    """Members of each set, which stand together."""
    return torch.bincount(owner, minlength=n)
