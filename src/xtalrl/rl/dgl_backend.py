"""The Q-network with DGL's message passing in place of our own: the same weights, the same interface, the same values.

The authors' code uses DGL. This backend is for users with code of their own in DGL, and an independent check of ours (`training.backend: dgl`). It
is slower and has no stacks of networks. Only `xtalrl.rl.network.network_type` imports it. The last DGL with wheels for today's Python and torch
on PyPI is 1.1.3, for CPUs only (`make dgl`); DGL is no longer developed.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor

from xtalrl.rl.graphs import GraphBatch
from xtalrl.rl.network import Architecture, Bonds, MEGNetBlock, QNetwork, Set2Set

os.environ.setdefault("DGLBACKEND", "pytorch")  # or DGL writes this choice into the user's home
import dgl  # type: ignore[import-not-found]
from dgl import function as fn
from dgl import ops


class DGLQNetwork(QNetwork):
    """Q(s, ·; p̂) by DGL."""

    def __init__(self, architecture: Architecture) -> None:
        """Draw the weights as `QNetwork` does."""
        super().__init__(architecture)
        dgl.utils.set_num_threads(torch.get_num_threads())  # by itself DGL takes all cores

    @property
    def parts(self) -> tuple[type[MEGNetBlock], type[Set2Set]]:
        """The block and the readout of DGL."""
        return DGLBlock, DGLSet2Set


class DGLBlock(MEGNetBlock):
    """A MEGNet block on a `dgl.DGLGraph`, written as in eq. 12: features are concatenated, then go through the update."""

    def forward(
        self, graphs: GraphBatch, bonds: Bonds, edges: Tensor, nodes: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What `MEGNetBlock.forward` does, for one network."""
        if bonds.origin is not None:
            edges = edges[bonds.origin]
        old_edges, old_nodes, old_state = edges, nodes, state
        edges, nodes, state = self.edge_dense(edges), self.node_dense(nodes), self.state_dense(state)
        graph = dgl.graph((bonds.source, bonds.target), num_nodes=len(nodes))
        graph.ndata["v"], graph.edata["e"] = nodes, edges
        graph.ndata["u"] = state[graphs.node_graph]

        graph.apply_edges(
            lambda edge: {"e": self.edge_update(_beside(edge.src["v"], edge.dst["v"], edge.data["e"], edge.src["u"]))}
        )
        edges = graph.edata["e"]
        messages = dgl.graph((graphs.edge_source, graphs.edge_target), num_nodes=len(nodes))
        messages.edata["m"] = (edges if bonds.of_edge is None else edges[bonds.of_edge]) * graphs.multiplicity[:, None]
        messages.update_all(fn.copy_e("m", "m"), fn.sum("m", "received"))
        received = messages.ndata["received"]
        nodes = self.node_update(_beside(nodes, received / graphs.in_degree[:, None], graph.ndata["u"]))

        count = graphs.node_multiplicity[:, None]
        kept = _lengths(graphs.node_graph, len(state))
        mean_edge = ops.segment_reduce(kept, received * count) / graphs.n_edges[:, None]
        mean_node = ops.segment_reduce(kept, nodes * count) / graphs.n_nodes[:, None]
        state = self.state_update(_beside(state, mean_edge, mean_node))
        return edges + old_edges, nodes + old_nodes, state + old_state


class DGLSet2Set(Set2Set):
    """The set2set readout with DGL's segments (eq. 13)."""

    def forward(self, x: Tensor, owner: Tensor, n_sets: int, multiplicity: Tensor) -> Tensor:
        """What `Set2Set.forward` does, for one network."""
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
