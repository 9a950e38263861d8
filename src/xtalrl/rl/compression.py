"""Nodes that no message-passing network can tell apart, computed once.

A node's features after k blocks depend on the types and edge lengths within k edges of it. Colour refinement (Weisfeiler and Leman)
finds the nodes whose surroundings agree that far; one of each kind is kept and counted, and with it only the edges that end at it.
The Q-values stay the same (exact compression: Bollen, Steegmans, Van den Bussche, Vansummeren, arXiv:2304.14793). In half filled
crystals of MP-20, symmetry removes a fifth of the nodes and a quarter of the edges.

The first block sees less than the last: for it, an edge is its length and the types at both ends. The kept edges have about six such kinds per
ten edges, and the first block works on one edge of each (`EdgeKinds`). From the second block on, hardly any edges are alike.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from xtalrl.rl.graphs import EdgeKinds, GraphBatch

# Multipliers of the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014), as signed numbers.
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64


def compress(graphs: GraphBatch, node_types: Tensor, rounds: int) -> tuple[GraphBatch, Tensor, Tensor]:
    """Keep one of each kind of node that `rounds` blocks cannot tell apart.

    Colours are 64-bit hashes: among the 10⁴ kinds of a batch, two are mistaken for one with a probability of about 10⁻¹¹.

    Args:
        graphs: graphs of N nodes.
        node_types: (N,) types of the nodes.
        rounds: number of message-passing blocks the network has.

    Returns:
        The graphs of the K nodes kept, the types of these (K,), and the kind (0 to K - 1) of each of the N nodes.
    """
    n_nodes, device = len(node_types), node_types.device
    colour = _mix(graphs.node_graph * _GOLDEN + node_types)
    bond = _mix(graphs.edge_length + 1)
    count = graphs.multiplicity.long()
    for _ in range(rounds):
        message = _mix(colour.index_select(0, graphs.edge_source) + bond) * count
        colour = _mix(colour * _GOLDEN + torch.zeros_like(colour).index_add_(0, graphs.edge_target, message))

    _, kind = colour.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    n_kinds = int(kind.max()) + 1
    # Number the kinds by their first node, so that the nodes of a graph stay together.
    kept, order = _first_of_each(kind, n_kinds).sort()
    kind = order.argsort().index_select(0, kind)

    is_kept = torch.zeros(n_nodes, dtype=torch.bool, device=device).index_fill_(0, kept, True)
    edge = is_kept.index_select(0, graphs.edge_target).nonzero()[:, 0]
    source = kind.index_select(0, graphs.edge_source.index_select(0, edge))
    target = kind.index_select(0, graphs.edge_target.index_select(0, edge))
    n_lengths = len(graphs.lengths)
    key = (target * n_kinds + source) * n_lengths + graphs.edge_length.index_select(0, edge)
    key, merged = key.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    node_pair, edge_length = key // n_lengths, key % n_lengths
    target, source = node_pair // n_kinds, node_pair % n_kinds
    multiplicity = graphs.multiplicity.new_zeros(len(key)).index_add_(
        0, merged, graphs.multiplicity.index_select(0, edge)
    )
    node_graph = graphs.node_graph.index_select(0, kept)
    node_types = node_types.index_select(0, kept)
    smaller = dataclasses.replace(
        graphs,
        first_node=kind.index_select(0, graphs.first_node),
        node_graph=node_graph,
        node_multiplicity=graphs.node_multiplicity.new_zeros(n_kinds).index_add_(0, kind, graphs.node_multiplicity),
        in_degree=graphs.in_degree.index_select(0, kept),
        edge_source=source,
        edge_target=target,
        edge_graph=node_graph.index_select(0, target),
        multiplicity=multiplicity,
        edge_length=edge_length,
        edge_kinds=_edge_kinds(node_types, source, target, edge_length),
    )
    return smaller, node_types, kind


def _edge_kinds(node_types: Tensor, source: Tensor, target: Tensor, edge_length: Tensor) -> EdgeKinds:
    """The kinds of edges whose lengths are numbered crystal by crystal, so that no two crystals share a number."""
    n_types = int(node_types.max()) + 1
    key = (edge_length * n_types + node_types.index_select(0, target)) * n_types + node_types.index_select(0, source)
    key, of_edge = key.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    edge = _first_of_each(of_edge, len(key))
    return EdgeKinds(
        source=source.index_select(0, edge),
        target=target.index_select(0, edge),
        length=edge_length.index_select(0, edge),
        of_edge=of_edge,
    )


def _first_of_each(kind: Tensor, n_kinds: int) -> Tensor:
    """(n_kinds,) position of the first item of each kind (0 to n_kinds - 1) in (n,)."""
    position = torch.arange(len(kind), device=kind.device)
    return position.new_full((n_kinds,), len(kind)).scatter_reduce_(0, kind, position, "amin")


def _mix(x: Tensor) -> Tensor:
    """The finaliser of SplitMix64: every bit of x changes about half the bits of the result."""
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return x ^ (x >> 31)
