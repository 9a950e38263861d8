"""The Q-network: MEGNet blocks on a crystal graph, a set2set readout and an MLP to 88 Q-values (eq. 8 to 14, appendix A.1.4).

Names, widths and activations follow MEGNet of matgl (Chen et al., Chem. Mater. 31, 3564 (2019)) as the authors used it.

Every layer works on one network or on a stack of P networks: a parameter is (out, in) or (P, out, in), features are (n, width)
or (P, n, width), and indices into a batch, which all networks of a stack share, stay (n,). `…` in a shape stands for P or nothing.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from xtalrl.elements import ATOMIC_NUMBERS, N_ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.rl.activation import Values, compiled_values, softplus2, torch_values
from xtalrl.rl.compression import compress
from xtalrl.rl.graphs import MAX_SITES, N_STATE_FEATURES, GraphBatch, send
from xtalrl.rl.rows import segment_sum, take, take_sum
from xtalrl.rl.settings import Backend, EdgeFeatures, Focus, TargetEmbedding

FOCUS = UNFILLED + 1
"""Node type of the site to fill next, where the focus is a node feature."""
N_NODE_TYPES = FOCUS + 1

N_GAUSSIANS, LAST_GAUSSIAN, GAUSSIAN_WIDTH = 100, 5.0, 0.5
"""The basis of MEGNet's own paper: exp(-(d - d₀)²/σ²) at 100 d₀ from 0 to 5 Å, σ = 0.5 Å (Chen et al. 2019, section 2.3)."""

GAP_CENTRES, GAP_WIDTH = (0.0, 7.5, 16), 0.5
"""First and last centre in eV and number of the Gaussians exp(-(p̂ - c)²/σ²) that embed a target gap, and their σ in eV."""
NO_GAP = 0.02
"""eV; a target below it is one for a metal, which has a feature of its own."""
ENERGY_CENTRES, ENERGY_WIDTH = (-4.0, 0.5, 16), 0.3
"""The same of the Gaussians that embed a target formation energy, in eV/atom."""
N_ELECTRON_FEATURES = 3
"""Parity of the electrons placed, their number, and the number of sites that are still free (both scaled to about 1)."""


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of the Q-network; the defaults are appendix A.1.4 and, where it is silent, the authors' code.

    `focus` tells how the network learns which site it fills. `index`, as in the paper: the site's number in the file,
    embedded into the state; the nodes do not show it. `node`: a node type of its own, so that the result does not depend
    on the order of the sites, with the state features standardised.

    `edge_features` tells how a bond length d enters. `paper`: exp(-d²/ρ), eq. 8. `gaussian_basis`: 100 Gaussians, which tell
    lengths apart where eq. 8 is flat.

    `target_embedding` tells how the target gap p̂ enters. `column`, as in the paper: as one more number of the state. `gaussians`: 16 of
    them, and a mark for 0, added to the encoding of every node and of the state; NaN stands for a p̂ that is hidden, and adds nothing.
    `condition_on_energy` embeds a target formation energy in the same way beside it. `electrons` adds what is known of the electrons
    placed so far to the state (`N_ELECTRON_FEATURES`).
    """

    conditional: bool
    focus: Focus = "index"
    edge_features: EdgeFeatures = "paper"
    n_blocks: int = 3
    node_embedding: int = 16
    state_embedding: int = 8
    encoder: tuple[int, ...] = (64, 32)
    block: tuple[int, ...] = (64, 64, 32)
    head: tuple[int, ...] = (32, 16)
    set2set_steps: int = 2
    rho: float = 2.0
    """ρ of eq. 8 in Å². The paper gives none; the authors' single Gaussian of width 0.5 comes to this."""
    target_embedding: TargetEmbedding = "column"
    condition_on_energy: bool = False
    electrons: bool = False

    @property
    def n_edge_features(self) -> int:
        """Numbers that describe a bond length."""
        return 1 if self.edge_features == "paper" else N_GAUSSIANS

    @property
    def n_target_features(self) -> int:
        """Numbers that embed the targets; 0 where p̂ is a column of the state."""
        if not self.conditional or self.target_embedding == "column":
            return 0
        return GAP_CENTRES[2] + 1 + (ENERGY_CENTRES[2] if self.condition_on_energy else 0)

    @property
    def n_state_features(self) -> int:
        """Numbers that enter the encoder of the state."""
        column = self.conditional and self.target_embedding == "column"
        focus = self.state_embedding if self.focus == "index" else 0
        return N_STATE_FEATURES + self.electrons * N_ELECTRON_FEATURES + column + focus


class QNetwork(nn.Module):
    """Q(s, ·; p̂) of partly filled crystals."""

    state_mean: Tensor
    state_scale: Tensor

    def __init__(self, architecture: Architecture) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.architecture = a = architecture
        self.node_embedding = nn.Embedding(N_NODE_TYPES if a.focus == "node" else N_NODE_TYPES - 1, a.node_embedding)
        self.focus_embedding = nn.Embedding(MAX_SITES, a.state_embedding) if a.focus == "index" else None
        # Standardisation of the state features; the paper feeds them raw.
        self.register_buffer("state_mean", torch.zeros(N_STATE_FEATURES))
        self.register_buffer("state_scale", torch.ones(N_STATE_FEATURES))
        self.edge_encoder = MLP(a.n_edge_features, *a.encoder)
        self.node_encoder = MLP(a.node_embedding, *a.encoder)
        self.state_encoder = MLP(a.n_state_features, *a.encoder)
        width = a.encoder[-1]
        block, readout = self.parts
        self.blocks = nn.ModuleList(
            block(width, a.block, dense=a.encoder if number > 0 else None) for number in range(a.n_blocks)
        )
        self.node_readout = readout(width, a.set2set_steps)
        self.edge_readout = readout(width, a.set2set_steps)
        self.head = MLP(5 * width, *a.head, N_ELEMENTS, activate_last=False)
        # Last, so that all other weights are drawn as without them.
        self.target_to_nodes, self.target_to_state = (
            nn.Linear(a.n_target_features, width, bias=False) if a.n_target_features else None for _ in range(2)
        )

    @property
    def parts(self) -> tuple[type[MEGNetBlock], type[Set2Set]]:
        """The block that passes messages and the readout of a graph; each backend has its own."""
        return MEGNetBlock, Set2Set

    def standardise(self, state: Tensor) -> None:
        """Have the state features (n, 7) of a data set enter with mean 0 and standard deviation 1."""
        scale, mean = torch.std_mean(state, 0, correction=0)
        self.state_mean.copy_(mean)
        self.state_scale.copy_(scale.where(scale > 0, 1.0))

    def compile_activations(self) -> None:
        """Have the activations done by a compiled loop.

        Raises:
            XtalrlError: torch cannot compile here.
        """
        values = compiled_values()
        for module in self.modules():
            if isinstance(module, MLP):
                module.softplus2_values = values

    def forward(
        self,
        graphs: GraphBatch,
        node_types: Tensor,
        focus: Tensor,
        target_ev: float | Tensor | None,
        target_energy: float | Tensor | None = None,
    ) -> Tensor:
        """Q-values of B states.

        Args:
            graphs: the skeletons.
            node_types: (N,) action index of the element on each site, or `UNFILLED`.
            focus: (B,) site to fill next, counted within its crystal.
            target_ev: target gap p̂ in eV, as in `q_values`.
            target_energy: target formation energy in eV/atom, as in `q_values`.

        Returns:
            (…, B, 88) Q(s, a) in the order of `xtalrl.elements.ELEMENTS`.
        """
        return self.q_values(*self.observe(graphs, node_types, focus), focus, target_ev, target_energy)

    def observe(self, graphs: GraphBatch, node_types: Tensor, focus: Tensor) -> tuple[GraphBatch, Tensor]:
        """What the weights work on: the graphs and node types with the focus marked, where it is a node feature, and made small.

        It is the same for every network of an architecture, so that those which share a batch share this too.
        """
        if self.architecture.electrons:
            graphs = dataclasses.replace(
                graphs, state=torch.cat([graphs.state, electrons_placed(graphs, node_types)], 1)
            )
        if self.architecture.focus == "node":
            node_types = node_types.index_fill(0, graphs.first_node + focus, FOCUS)
        if node_types.device.type == "cpu":  # a GPU is busy with launching, not with arithmetic, at these sizes
            graphs, node_types, _ = compress(graphs, node_types, self.architecture.n_blocks)
        return graphs, node_types

    def q_values(
        self,
        graphs: GraphBatch,
        node_types: Tensor,
        focus: Tensor,
        target_ev: float | Tensor | None,
        target_energy: float | Tensor | None = None,
    ) -> Tensor:
        """Q-values (…, B, 88) of B states that went through `observe`.

        `target_ev` is p̂ in eV: one number, or a tensor (…, B) or (…, 1) where states or networks differ in it. An unconditional
        network ignores it. `target_energy` in eV/atom likewise; None hides it.
        """
        state = (graphs.state[:, :N_STATE_FEATURES] - self.state_mean) / self.state_scale
        parts = [state, graphs.state[:, N_STATE_FEATURES:]] if self.architecture.electrons else [state]
        if self.architecture.conditional and target_ev is None:
            raise ValueError("a conditional network needs a target gap")
        if self.architecture.conditional and self.architecture.target_embedding == "column":
            column = _as_tensor(target_ev, state.dtype, state.device)[..., None]
            parts.append(column.expand(*column.shape[:-2], len(state), 1))
        if self.focus_embedding is not None:
            parts.append(self.focus_embedding.weight.index_select(-2, focus))
        # A crystal has few distinct bond lengths and a node few types: encode those, then spread.
        edges = self.edge_encoder(self._edge_features(graphs.lengths))
        nodes = take(self.node_encoder(self.node_embedding.weight), node_types)
        state = self.state_encoder(_concatenate(parts))
        if self.target_to_nodes is not None and self.target_to_state is not None:
            features = self._target_features(target_ev, target_energy, state)
            nodes = nodes + take(features @ self.target_to_nodes.weight.mT, graphs.node_graph)
            state = state + features @ self.target_to_state.weight.mT
        for block, bonds in zip(self.blocks, _bonds(graphs, len(self.blocks)), strict=True):
            edges, nodes, state = block(graphs, bonds, edges, nodes, state)
        n_graphs = state.shape[-2]
        edge_multiplicity = graphs.multiplicity * graphs.node_multiplicity.index_select(0, graphs.edge_target)
        readout = [
            self.node_readout(nodes, graphs.node_graph, n_graphs, graphs.node_multiplicity),
            self.edge_readout(edges, graphs.edge_graph, n_graphs, edge_multiplicity),
            state,
        ]
        q: Tensor = self.head(_concatenate(readout))
        return q

    def _target_features(
        self, target_ev: float | Tensor | None, target_energy: float | Tensor | None, like: Tensor
    ) -> Tensor:
        """(…, B, n_target_features) of the targets; 0 where one is hidden. `like` (…, B, width) gives B, type and device."""

        def expand(target: float | Tensor | None) -> Tensor:
            values = _as_tensor(target, torch.float32, like.device)
            return values.expand(*values.shape[:-1], like.shape[-2])[..., None]

        def gaussians(target: Tensor, centres: tuple[float, float, int], width: float) -> Tensor:
            grid = torch.linspace(*centres, device=like.device)
            return torch.exp(-((target - grid) / width).square())

        gap = expand(target_ev)
        parts = [gaussians(gap, GAP_CENTRES, GAP_WIDTH), (gap < NO_GAP).float()]
        if self.architecture.condition_on_energy:
            energy = gaussians(expand(target_energy), ENERGY_CENTRES, ENERGY_WIDTH)
            parts.append(energy.expand(*gap.shape[:-1], energy.shape[-1]))
        return torch.cat(parts, -1).nan_to_num(0.0)

    def _edge_features(self, lengths: Tensor) -> Tensor:
        """(D, n_edge_features) of lengths (D,) in Å."""
        if self.architecture.edge_features == "paper":
            return torch.exp(-lengths.square() / self.architecture.rho)[:, None]
        centres = torch.linspace(0.0, LAST_GAUSSIAN, N_GAUSSIANS, dtype=lengths.dtype, device=lengths.device)
        return torch.exp(-((lengths[:, None] - centres) / GAUSSIAN_WIDTH).square())


def electrons_placed(graphs: GraphBatch, node_types: Tensor) -> Tensor:
    """(B, N_ELECTRON_FEATURES) of partly filled crystals, whose nodes are all there (not compressed)."""
    numbers = _atomic_numbers(node_types.device).index_select(0, node_types)
    placed = torch.zeros_like(graphs.n_nodes).index_add(0, graphs.node_graph, numbers)
    free = torch.zeros_like(graphs.n_nodes).index_add(0, graphs.node_graph, (node_types == UNFILLED).long())
    return torch.stack([placed % 2, placed / 300, free / MAX_SITES], 1).float()


@functools.cache
def _atomic_numbers(device: torch.device) -> Tensor:
    """Electrons of each node type (89,)."""
    return send(np.array([*ATOMIC_NUMBERS, 0]), device)


def _as_tensor(number: float | Tensor | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A number on a device, NaN for None. It is made there: for a copy of it, the host would wait."""
    if isinstance(number, Tensor):
        return number.to(device, dtype)
    return torch.full((), math.nan if number is None else number, dtype=dtype, device=device)


@dataclass(frozen=True)
class Bonds:
    """The edges that a block works on: those of the batch, or fewer that stand for them."""

    source: Tensor
    """(K,) node each starts from."""
    target: Tensor
    """(K,) node each ends at."""
    origin: Tensor | None = None
    """(K,) row of the features that each has before the block; None: they are in the same order."""
    of_edge: Tensor | None = None
    """(E,) which of them each edge of the batch is; None: they are the edges of the batch."""


def _bonds(graphs: GraphBatch, n_blocks: int) -> list[Bonds]:
    """The bonds of one block after another. The first starts from the features of the distinct lengths, the last ends at the edges of the batch."""
    source, target, kinds = graphs.edge_source, graphs.edge_target, graphs.edge_kinds
    if kinds is None or n_blocks == 1:
        first = [Bonds(source, target, graphs.edge_length)]
    else:
        first = [Bonds(kinds.source, kinds.target, kinds.length, kinds.of_edge), Bonds(source, target, kinds.of_edge)]
    return first + [Bonds(source, target)] * (n_blocks - len(first))


def _concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Features (…, n, width) side by side; those that a stack of networks shares are repeated for each."""
    leading = next((part.shape[:-1] for part in parts if part.dim() == 3), parts[0].shape[:-1])
    return torch.cat([part.expand(*leading, part.shape[-1]) for part in parts], -1)


class Linear(nn.Linear):
    """x Wᵀ + b, of one layer or of a stack of them."""

    def forward(self, x: Tensor) -> Tensor:
        """(…, n, in) to (…, n, out)."""
        return linear(x, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (…, n, in), weight (…, out, in), bias (…, out); a stack of layers takes one x for all too."""
    if weight.dim() == 2:
        return functional.linear(x, weight, bias)
    return torch.baddbmm(bias[:, None], x.expand(len(weight), *x.shape[-2:]), weight.mT)


def add_product_(y: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """y += x Wᵀ with y (…, n, out), x (…, n, in) and weight (…, out, in)."""
    x, weight = x.to(y.dtype), weight.to(y.dtype)  # autocast leaves operations in place to themselves
    return y.addmm_(x, weight.mT) if weight.dim() == 2 else y.baddbmm_(x, weight.mT)


class MLP(nn.Module):
    """Linear layers with softplus2 between them and, by default, after the last."""

    def __init__(self, *widths: int, activate_last: bool = True) -> None:
        """Layers between these widths, the first of which is the input's."""
        super().__init__()
        self.first, *rest = (Linear(n_in, n_out) for n_in, n_out in itertools.pairwise(widths))
        self.rest = nn.ModuleList(rest)
        self.activate_last = activate_last
        self.softplus2_values: Values = torch_values

    def forward(self, x: Tensor) -> Tensor:
        """(…, n, first width) to (…, n, last width)."""
        return self.after_first(self.first(x))

    def after_first(self, x: Tensor) -> Tensor:
        """All that follows the first linear layer, given its output."""
        for layer in self.rest:
            x = layer(softplus2(x, self.softplus2_values))
        return softplus2(x, self.softplus2_values) if self.activate_last else x


class MEGNetBlock(nn.Module):
    """Updates edges, then nodes, then state, each from the others, with a residual sum (eq. 12).

    matgl concatenates the features of source, target, edge and state before the first layer of an update. Here the weight of this layer is
    split, and each part is applied before its result is spread to the edges: the same sum with a third of the products.
    """

    def __init__(self, width: int, update: tuple[int, ...], dense: tuple[int, ...] | None) -> None:
        """Hidden widths of the updates, and of the dense layers before them (None: there are none, as in the first block)."""
        super().__init__()
        self.edge_dense, self.node_dense, self.state_dense = (
            MLP(width, *dense) if dense else nn.Identity() for _ in range(3)
        )
        self.edge_update = MLP(4 * width, *update)
        self.node_update = MLP(3 * width, *update)
        self.state_update = MLP(3 * width, *update)
        self.width = width

    def forward(
        self, graphs: GraphBatch, bonds: Bonds, edges: Tensor, nodes: Tensor, state: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Edge, node (…, N, width) and state (…, B, width) features before and after the block.

        Those of edges are before it (…, n, width) with any n that `bonds.origin` refers to, after it those of the `bonds`.
        """
        old_edges, old_nodes, old_state = edges, nodes, state
        edges, nodes, state = self.edge_dense(edges), self.node_dense(nodes), self.state_dense(state)
        n_nodes, n_graphs = nodes.shape[-2], state.shape[-2]

        first = self.edge_update.first
        source_weight, target_weight, edge_weight, state_weight = torch.split(first.weight, self.width, -1)
        of_state = take(linear(state, state_weight, first.bias), graphs.node_graph)
        of_target = add_product_(of_state, nodes, target_weight)
        of_ends = (of_target, bonds.target), (nodes @ source_weight.mT, bonds.source)
        if bonds.origin is None:
            of_edge = add_product_(take_sum(*of_ends), edges, edge_weight)
        else:
            of_edge = take_sum(*of_ends, (edges @ edge_weight.mT, bonds.origin))
        edges = self.edge_update.after_first(of_edge)
        received = segment_sum(edges, graphs.edge_target, n_nodes, bonds.of_edge, graphs.multiplicity)

        first = self.node_update.first
        node_weight, received_weight, state_weight = torch.split(first.weight, self.width, -1)
        of_state = take(linear(state, state_weight, first.bias), graphs.node_graph)
        mean_received = received / graphs.in_degree[:, None]
        of_node = add_product_(add_product_(of_state, nodes, node_weight), mean_received, received_weight)
        nodes = self.node_update.after_first(of_node)

        # Every edge ends at one node, so that the sums over nodes hold the sums over edges.
        count = graphs.node_multiplicity
        mean_edge = segment_sum(received, graphs.node_graph, n_graphs, weight=count) / graphs.n_edges[:, None]
        mean_node = segment_sum(nodes, graphs.node_graph, n_graphs, weight=count) / graphs.n_nodes[:, None]
        state = self.state_update(torch.cat([state, mean_edge, mean_node], -1))
        old_edges = old_edges if bonds.origin is None else take(old_edges, bonds.origin)
        return edges + old_edges, nodes + old_nodes, state + old_state


class Set2Set(nn.Module):
    """Order-invariant readout of a set by attention (eq. 13; Vinyals et al., arXiv:1511.06391)."""

    def __init__(self, width: int, steps: int) -> None:
        """Width of the features and number of attention steps."""
        super().__init__()
        self.lstm = nn.LSTMCell(2 * width, width)
        self.width, self.steps = width, steps

    def forward(self, x: Tensor, owner: Tensor, n_sets: int, multiplicity: Tensor) -> Tensor:
        """Read out sets of features.

        Args:
            x: (…, n, width) features.
            owner: (n,) set each belongs to; no set is empty.
            n_sets: number of sets.
            multiplicity: (n,) how often each counts.

        Returns:
            (…, n_sets, 2 width) query and attended feature.
        """
        # Nothing is read yet, so that the first query is the same for all sets: one row.
        readout = x.new_zeros(*x.shape[:-2], 1, 2 * self.width)
        hidden = cell = x.new_zeros(*x.shape[:-2], 1, self.width)
        for step in range(self.steps):
            hidden, cell = self._lstm(readout, hidden, cell)
            score = (x @ hidden.mT)[..., 0] if step == 0 else (x * take(hidden, owner)).sum(-1)
            highest = segment_max(score.detach(), owner, n_sets)
            weight = (score - highest.index_select(-1, owner)).exp() * multiplicity
            total = segment_sum(weight[..., None], owner, n_sets)
            attended = segment_sum(x, owner, n_sets, weight=weight) / total
            readout = torch.cat([hidden.expand_as(attended), attended], -1)
        return readout

    def _lstm(self, x: Tensor, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """The equations of `torch.nn.LSTMCell`, whose own kernel takes no stack."""
        lstm = self.lstm
        gates = linear(x, lstm.weight_ih, lstm.bias_ih) + linear(hidden, lstm.weight_hh, lstm.bias_hh)
        enter, forget, candidate, leave = gates.chunk(4, -1)
        cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
        return leave.sigmoid() * cell.tanh(), cell


def network_type(backend: Backend) -> type[QNetwork]:
    """The networks whose messages go through a backend; their weights have the same names, and their values are the same.

    Raises:
        XtalrlError: DGL is asked for, and cannot be imported.
    """
    if backend == "native":
        return QNetwork
    try:
        module = importlib.import_module("xtalrl.rl.dgl_backend")
    except (ImportError, OSError) as error:  # the second where DGL finds no library for this torch
        raise XtalrlError(
            f"`training.backend` is 'dgl', and DGL cannot be imported here ({error}): run `make dgl` in a checkout of xtalrl "
            "and work with that environment (docs/policies-and-rollout.md), or set `training.backend: native`, which learns the same."
        ) from None
    network: type[QNetwork] = module.DGLQNetwork
    return network


def segment_max(x: Tensor, owner: Tensor, n: int) -> Tensor:
    """(…, n) largest of the values x (…, len(owner)) that share an owner; no owner is without."""
    return x.new_zeros(*x.shape[:-1], n).scatter_reduce(-1, owner.expand_as(x), x, "amax", include_self=False)
