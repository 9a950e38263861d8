"""Crystal graphs kept on a device as flat tensors, and batches gathered from them.

A crystal has one static graph, no matter which elements are filled in; only the node types change along a trajectory.
Within a crystal, the edges that no network can distinguish (same sites, same length) are merged and counted:
24 % of the edges of MP-20's nonmetals are such parallel edges, and nothing is lost by computing them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from xtalrl import tables
from xtalrl.errors import XtalrlError, shorten

MAX_SITES = 20
"""Largest crystal of MP-20, and the size of the focus embedding."""
DISTANCE_TOLERANCE = 1e-5
"""Å. Lengths of a crystal's edges that differ by less are one length: they stem from the same bond by symmetry."""
N_STATE_FEATURES = 7
"""a, b, c, α, β, γ and the space group number, eq. 10 without p̂ and focus."""


@dataclass(frozen=True)
class EdgeKinds:
    """The kinds of edges that the first block of a network cannot tell apart: same crystal, length and types at both ends."""

    source: Tensor
    """(K,) node that an edge of each kind starts from."""
    target: Tensor
    """(K,) node that it ends at."""
    length: Tensor
    """(K,) position of its length in `GraphBatch.lengths`."""
    of_edge: Tensor
    """(E,) kind of each edge of the batch."""


@dataclass(frozen=True)
class GraphBatch:
    """B crystal graphs as one disjoint graph of N nodes and E edges with D distinct edge lengths.

    Nodes and edges of a graph are contiguous and in the order of the graphs, so that the first graphs are a prefix.
    """

    n_nodes: Tensor
    """(B,) nodes of each graph."""
    n_edges: Tensor
    """(B,) edges of each graph, every parallel edge counted."""
    first_node: Tensor
    """(B,) position of each graph's first node."""
    node_graph: Tensor
    """(N,) graph of each node."""
    node_multiplicity: Tensor
    """(N,) number of nodes of the crystal this one stands for; 1 before `xtalrl.rl.compression`."""
    in_degree: Tensor
    """(N,) edges that end at each node, every parallel edge counted; at least 1."""
    edge_source: Tensor
    """(E,) node the edge starts from."""
    edge_target: Tensor
    """(E,) node the edge ends at."""
    edge_graph: Tensor
    """(E,) graph of each edge."""
    multiplicity: Tensor
    """(E,) number of parallel edges that end at the target node this one stands for."""
    edge_length: Tensor
    """(E,) position of the edge's length in `lengths`."""
    lengths: Tensor
    """(D,) distinct edge lengths in Å."""
    state: Tensor
    """(B, 7) a, b, c in Å, α, β, γ in degrees, space group number."""
    edge_kinds: EdgeKinds | None = None
    """Known after `xtalrl.rl.compression`."""

    def head(self, n_graphs: int, n_nodes: int, n_edges: int) -> GraphBatch:
        """The first graphs, which have `n_nodes` nodes and `n_edges` merged edges, as views."""
        return GraphBatch(
            n_nodes=self.n_nodes[:n_graphs],
            n_edges=self.n_edges[:n_graphs],
            first_node=self.first_node[:n_graphs],
            node_graph=self.node_graph[:n_nodes],
            node_multiplicity=self.node_multiplicity[:n_nodes],
            in_degree=self.in_degree[:n_nodes],
            edge_source=self.edge_source[:n_edges],
            edge_target=self.edge_target[:n_edges],
            edge_graph=self.edge_graph[:n_edges],
            multiplicity=self.multiplicity[:n_edges],
            edge_length=self.edge_length[:n_edges],
            lengths=self.lengths,
            state=self.state[:n_graphs],
        )


class CrystalGraphs:
    """The graphs of n crystals as flat tensors on a device.

    Sizes and offsets stay on the host too, so that batching on a GPU never waits for it.
    """

    def __init__(self, table: pa.Table, device: torch.device | str = "cpu") -> None:
        """Load a `tables.GRAPHS` table, all rows, in its order."""
        self.material_ids: list[str] = table["material_id"].to_pylist()
        self.device = torch.device(device)
        actions, self.n_sites = ragged(table["actions"])
        source, n_raw_edges = ragged(table["edge_source"])
        target, n_targets = ragged(table["edge_target"])
        distance, n_distances = ragged(table["edge_distance"])
        state, n_state = ragged(table["lattice_parameters"])
        crystal = np.repeat(np.arange(len(self.n_sites)), n_raw_edges)
        self._check((n_raw_edges == n_targets) & (n_raw_edges == n_distances), "edge columns of different lengths")
        self._check(n_raw_edges > 0, "no edge")
        self._check(n_state == 6, "not 6 lattice parameters")
        self._check((self.n_sites > 0) & (self.n_sites <= MAX_SITES), f"not between 1 and {MAX_SITES} sites")
        sane = np.isfinite(distance) & (np.minimum(source, target) >= 0)
        sane &= np.maximum(source, target) < self.n_sites[crystal]
        self._check(
            np.bincount(crystal, ~sane, len(self.n_sites)) == 0,
            "an edge to a site that does not exist, or of no length",
        )

        self.first_site = offsets(self.n_sites)
        length_first, self.n_lengths, lengths, length_of_edge = _distinct_lengths(crystal, distance, len(self.n_sites))
        edges, multiplicity = np.unique(np.stack([crystal, target, source, length_of_edge]), axis=1, return_counts=True)
        crystal, target, source, length_of_edge = edges
        self.n_edges = np.bincount(crystal, minlength=len(self.n_sites))
        self.first_edge = offsets(self.n_edges)
        self.first_length = length_first
        in_degree = np.bincount(self.first_site[crystal] + target, multiplicity, int(self.n_sites.sum()))

        def resident(values: NDArray[Any], dtype: torch.dtype = torch.int64) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=self.device)

        self.actions = resident(actions)
        self._n_raw_edges = resident(n_raw_edges)
        self._source, self._target = resident(source), resident(target)
        self._multiplicity = resident(multiplicity, torch.float32)
        self._in_degree = resident(np.maximum(in_degree, 1), torch.float32)
        self._length, self._lengths = resident(length_of_edge), resident(lengths, torch.float32)
        space_group = table["spacegroup_number"].to_numpy().astype(np.float64)
        self.state = resident(np.column_stack([state.reshape(-1, 6), space_group]), torch.float32)

    @classmethod
    def read(cls, path: str | Path, material_ids: Sequence[str], device: torch.device | str = "cpu") -> CrystalGraphs:
        """The graphs of these crystals, in this order.

        Raises:
            XtalrlError: the file is missing or malformed, or lacks one of the crystals.
        """
        table = tables.read(path, tables.GRAPHS)
        rows = pc.index_in(pa.array(material_ids, pa.string()), value_set=table["material_id"].combine_chunks())
        if rows.null_count:
            missing = [name for name, row in zip(material_ids, rows.to_pylist(), strict=True) if row is None]
            raise XtalrlError(
                f"{path} has no graph of {shorten(missing)}, which the trajectories use: "
                f"the two files are of different runs; run `snakemake --forcerun build_graphs` again."
            )
        return cls(table.take(rows), device)

    @property
    def nbytes(self) -> int:
        """Device memory of the graphs."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))

    def batch(self, crystals: NDArray[np.int64]) -> GraphBatch:
        """The graphs of these crystals (positions, repeats allowed), in this order."""
        device = self.device
        n_nodes, n_edges, n_lengths = self.n_sites[crystals], self.n_edges[crystals], self.n_lengths[crystals]
        first_node, first_edge, first_length = offsets(n_nodes), offsets(n_edges), offsets(n_lengths)
        # One small transfer carries all that the device needs to know about the batch.
        per_graph = np.stack(
            [
                crystals,
                n_nodes,
                n_edges,
                n_lengths,
                first_node,
                first_length,
                self.first_site[crystals] - first_node,
                self.first_edge[crystals] - first_edge,
                self.first_length[crystals] - first_length,
            ]
        )
        rows = send(per_graph, device)
        crystal, nodes, edges, lengths, first_node_, first_length_, node_shift, edge_shift, length_shift = rows
        graph = torch.arange(len(crystals), device=device)

        def spread(counts: Tensor, total: int, shift: Tensor) -> tuple[Tensor, Tensor]:
            """Graph of each item, and the item's position among the resident ones."""
            owner = torch.repeat_interleave(graph, counts, output_size=total)
            # `index_select` takes half the time of `x[index]`.
            return owner, shift.index_select(0, owner).add_(torch.arange(total, device=device))

        node_graph, node = spread(nodes, int(n_nodes.sum()), node_shift)
        edge_graph, edge = spread(edges, int(n_edges.sum()), edge_shift)
        _, length = spread(lengths, int(n_lengths.sum()), length_shift)
        edge_first_node = first_node_.index_select(0, edge_graph)
        return GraphBatch(
            n_nodes=nodes,
            n_edges=self._n_raw_edges.index_select(0, crystal),
            first_node=first_node_,
            node_graph=node_graph,
            node_multiplicity=torch.ones(len(node), device=device),
            in_degree=self._in_degree.index_select(0, node),
            edge_source=self._source.index_select(0, edge).add_(edge_first_node),
            edge_target=self._target.index_select(0, edge).add_(edge_first_node),
            edge_graph=edge_graph,
            multiplicity=self._multiplicity.index_select(0, edge),
            edge_length=self._length.index_select(0, edge).add_(first_length_.index_select(0, edge_graph)),
            lengths=self._lengths.index_select(0, length),
            state=self.state.index_select(0, crystal),
        )

    def _check(self, good: NDArray[np.bool_], fault: str) -> None:
        if not good.all():
            bad = [name for name, ok in zip(self.material_ids, good, strict=True) if not ok]
            raise XtalrlError(
                f"The graphs table has {fault} for {shorten(bad)}: run `snakemake --forcerun build_graphs` again."
            )


def ragged(column: pa.ChunkedArray) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """A list column as its flat values and the length of each list."""
    lists = column.combine_chunks()
    return lists.flatten().to_numpy(), pc.list_value_length(lists).to_numpy().astype(np.int64)


def send(values: NDArray[Any], device: torch.device) -> Tensor:
    """Host values on a device. From pinned memory, so that the host goes on while a GPU still works."""
    host = torch.from_numpy(values)
    return (host.pin_memory() if device.type == "cuda" else host).to(device, non_blocking=True)


def offsets(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Position of each run's first item."""
    return np.cumsum(counts) - counts


def _distinct_lengths(
    crystal: NDArray[np.int64], distance: NDArray[np.float64], n_crystals: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.int64]]:
    """Offsets, counts and values of each crystal's distinct lengths, and each edge's number among its crystal's."""
    order = np.lexsort((distance, crystal))
    new_crystal = np.diff(crystal[order], prepend=-1) != 0
    new_length = new_crystal | (np.diff(distance[order], prepend=-np.inf) > DISTANCE_TOLERANCE)
    length = np.empty(len(distance), np.int64)
    length[order] = np.cumsum(new_length) - 1
    counts = np.bincount(crystal[order][new_length], minlength=n_crystals)
    first = offsets(counts)
    return first, counts, distance[order][new_length], length - first[crystal]
