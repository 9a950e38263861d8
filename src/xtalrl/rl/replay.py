"""The transitions of the data set, kept on a device.

A transition is (trajectory, step); s and s' share the graph of its crystal, so that nothing is stored twice. Rewards are kept apart
(`Replay.rewards`), because all policies share the transitions.
400 of MP-20's nonmetals with 5 trajectories each take 1.13 MB (`Replay.nbytes`), so the paper's 8.8k about 25 MB.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from torch import Tensor

from xtalrl import tables
from xtalrl.elements import UNFILLED
from xtalrl.errors import XtalrlError, shorten
from xtalrl.rl.algorithms.base import Outcomes
from xtalrl.rl.graphs import CrystalGraphs, GraphBatch, offsets, ragged, send
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.rewards import terminal_rewards
from xtalrl.rl.settings import Weighting


@dataclass(frozen=True)
class Transitions:
    """B transitions (s, a, s') on B graphs; those whose s' is not terminal come first.

    `next_graphs`, `next_node_types` and `next_focus` describe the s' of these first C transitions only:
    the value of a complete crystal is never asked for.
    """

    graphs: GraphBatch
    node_types: Tensor
    """(N,) of s."""
    focus: Tensor
    """(B,) site that the action fills."""
    action: Tensor
    """(B,) element placed there in the data."""
    trajectory: Tensor
    """(B,) trajectory of each, for its reward."""
    done: Tensor
    """(B,) whether s' is terminal."""
    next_graphs: GraphBatch
    """The first C graphs."""
    next_node_types: Tensor
    """Node types of s'."""
    next_focus: Tensor
    """(C,) site to fill in s'."""
    steps_left: Tensor
    """(B,) steps between this one and the last of its trajectory."""
    outcomes: Outcomes | None = None
    """Labels and draws, once `Stack.draw_batch` has added them (`Replay.outcomes`)."""


class Orders:
    """Trajectories on crystal graphs: the order in which the sites of each are filled."""

    def __init__(self, graphs: CrystalGraphs, table: pa.Table, path: str | Path) -> None:
        """Load rows of `tables.TRAJECTORIES` and check them against the graphs.

        Raises:
            XtalrlError: an order is not a permutation of its crystal's sites, or its actions are not its elements.
        """
        self.graphs = graphs
        value_set = pa.array(graphs.material_ids, pa.string())
        self.crystal = (
            pc.index_in(table["material_id"].combine_chunks(), value_set=value_set).to_numpy().astype(np.int64)
        )
        order, self.n_steps = ragged(table["order"])
        actions, n_actions = ragged(table["actions"])
        order = order.astype(np.int64)
        self.first_step = offsets(self.n_steps)
        n_sites = graphs.n_sites[self.crystal]

        good = (self.n_steps == n_sites) & (n_actions == n_sites)
        if good.all():
            owner = np.repeat(np.arange(len(n_sites)), self.n_steps)
            inside = (order >= 0) & (order < n_sites[owner])
            site = np.where(inside, order, 0)
            visits = np.bincount(self.first_step[owner] + site, inside, len(order))
            true_action = graphs.actions.cpu().numpy()[graphs.first_site[self.crystal][owner] + site]
            good &= np.bincount(owner, (visits != 1) | (true_action != actions), len(n_sites)) == 0
        if not good.all():
            bad = [graphs.material_ids[crystal] for crystal in dict.fromkeys(self.crystal[~good].tolist())]
            raise XtalrlError(
                f"{path} does not fit the graphs: its orders or actions are not those of the sites of {shorten(bad)}. "
                f"Run `snakemake --forcerun build_trajectories` again."
            )
        rank = np.empty(len(order), np.int64)
        rank[self.first_step[owner] + order] = np.arange(len(order)) - self.first_step[owner]
        self.order = torch.from_numpy(order).to(graphs.device)
        """(n_transitions,) site filled at each step of each trajectory."""
        self.rank = torch.from_numpy(rank).to(graphs.device)
        """(n_transitions,) step at which each site of each trajectory's crystal is filled."""


def read_trajectories(path: str | Path, split: str, *others: str) -> pa.Table:
    """The trajectories of a split, and of other splits where they have any.

    Raises:
        XtalrlError: the file is missing or malformed, or has none.
    """
    table = tables.read(path, tables.TRAJECTORIES)
    if others:
        table = table.filter(pc.is_in(table["split"], pa.array([split, *others])))
    else:
        table = table.filter(pc.equal(table["split"], split))
    if not pc.any(pc.equal(table["split"], split)).as_py():
        raise XtalrlError(
            f"{path} has no trajectory of the split {split!r}: no crystal of it has a label. "
            f"See labels.parquet for the reasons, fix them, and run `snakemake trajectories` again."
        )
    return table


class Replay:
    """The transitions of a split."""

    def __init__(
        self,
        graphs: str | Path,
        trajectories: str | Path,
        *,
        split: str = "train",
        metals: bool = False,
        device: torch.device | str = "cpu",
    ) -> None:
        """Read the data set, with the split `tables.METALS`, where there is one, if `metals`.

        Raises:
            XtalrlError: the files are missing or malformed, or do not fit each other.
        """
        table = read_trajectories(trajectories, split, *[tables.METALS] * metals)
        material_ids = pc.unique(table["material_id"]).to_pylist()
        self.graphs = CrystalGraphs.read(graphs, material_ids, device)
        self.orders = Orders(self.graphs, table, trajectories)
        n_steps = self.orders.n_steps
        self.trajectory = np.repeat(np.arange(len(n_steps)), n_steps)
        """(n_transitions,) trajectory of each transition."""
        self.step = np.arange(len(self.trajectory)) - self.orders.first_step[self.trajectory]
        """(n_transitions,) its number within the trajectory."""
        self.band_gap = torch.tensor(table["band_gap"].to_numpy(), dtype=torch.float32, device=self.graphs.device)
        """(n_trajectories,) p in eV, for the rewards of a policy that is trained for any target."""
        self.formation_energy = torch.tensor(
            table["formation_energy_per_atom"].to_numpy(), dtype=torch.float32, device=self.graphs.device
        )
        """(n_trajectories,) E_form in eV/atom."""
        self._probabilities: dict[Weighting, NDArray[np.float64]] = {}
        self._path = trajectories
        self._labels = table.select(["material_id", "band_gap", "formation_energy_per_atom", "total_energy_ry"])

    def __len__(self) -> int:
        """Number of transitions."""
        return len(self.trajectory)

    @property
    def nbytes(self) -> int:
        """Device memory of the data set."""
        return self.graphs.nbytes + self.orders.order.nbytes + self.orders.rank.nbytes + self.band_gap.nbytes

    def rewards(self, spec: PolicySpec) -> Tensor:
        """(n_trajectories,) terminal reward that a policy gets for each; 0 for a policy that learns without rewards.

        For a policy that serves all targets the gap term is left out: it depends on the target that is drawn for each transition.

        Raises:
            XtalrlError: a label that the reward needs is missing.
        """
        if spec.reward is None:
            return torch.zeros(len(self._labels), device=self.graphs.device)
        rewards = terminal_rewards(
            spec.reward.without_gap() if spec.algorithm.serves_all_targets else spec.reward,
            spec.target_ev,
            band_gap=self._labels["band_gap"].to_numpy(),
            formation_energy_per_atom=self._labels["formation_energy_per_atom"].to_numpy(),
            total_energy_ry=pc.fill_null(self._labels["total_energy_ry"], np.nan).to_numpy(),
        )
        if not (finite := np.isfinite(rewards)).all():
            bad = list(dict.fromkeys(self._labels["material_id"].filter(pa.array(~finite)).to_pylist()))
            wanted = (
                "a negative total energy (`reward.energy: total`)"
                if spec.reward.energy == "total"
                else "a finite label"
            )
            raise XtalrlError(
                f"{self._path} gives no reward for {shorten(bad)}: {wanted} is needed for every trajectory. "
                f"Set `reward.energy: formation`, or fix labels.parquet and run `snakemake trajectories` again."
            )
        return torch.from_numpy(rewards).to(self.graphs.device, torch.float32)

    def material_ids(self, transitions: NDArray[np.int64]) -> list[str]:
        """Crystals of some transitions, each once."""
        crystals = self.orders.crystal[self.trajectory[transitions]]
        return [self.graphs.material_ids[crystal] for crystal in dict.fromkeys(crystals.tolist())]

    def sample(
        self, batch_size: int, *, seed: int, step: int, weighting: Weighting = "transitions"
    ) -> NDArray[np.int64]:
        """(batch_size,) transitions drawn with replacement.

        A function of seed and step alone (a counter-based generator): the batches are the same on every device, and a
        resumed or failing run can name any of them. `transitions`: every transition is equally likely, so that a crystal of 20 sites is drawn 25 times
        as often as one of 4. `crystals`: every crystal is equally likely. `sizes`: every number of sites is equally likely.
        """
        generator = np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, 0, step]))
        if weighting == "transitions":
            return generator.integers(len(self), size=batch_size)
        if weighting not in self._probabilities:
            self._probabilities[weighting] = np.cumsum(self._weights(weighting))
        cumulative = self._probabilities[weighting]
        drawn: NDArray[np.int64] = np.searchsorted(
            cumulative, generator.random(batch_size) * cumulative[-1], side="right"
        )
        return drawn

    def _weights(self, weighting: Weighting) -> NDArray[np.float64]:
        """(n_transitions,) weight with which each is drawn, up to a factor."""
        crystal = self.orders.crystal[self.trajectory]
        weights: NDArray[np.float64] = 1.0 / np.bincount(crystal)[crystal]  # those of a crystal sum to 1
        if weighting == "sizes":
            n_sites = self.graphs.n_sites
            weights /= np.bincount(n_sites)[n_sites[crystal]]
        return weights

    def outcomes(self, trajectory: Tensor, *, seed: int, step: int) -> Outcomes:
        """What is known of the crystals of a batch's trajectories (B,), and draws; as `sample` a function of seed and step."""

        def draws(stream: int) -> np.random.Generator:
            return np.random.Generator(np.random.Philox(key=seed, counter=[0, 0, stream, step]))

        device, size = self.graphs.device, len(trajectory)
        shown = send(draws(3).random(size, dtype=np.float32), device) < 0.5
        return Outcomes(
            band_gap=self.band_gap[trajectory],
            uniform=send(draws(1).random(size, dtype=np.float32), device),
            normal=send(draws(2).standard_normal(size, dtype=np.float32), device),
            formation_energy=self.formation_energy[trajectory],
            shows_energy=shown,
        )

    def batch(self, transitions: NDArray[np.int64]) -> Transitions:
        """Gather transitions; their order changes, non-terminal ones come first."""
        device, orders = self.graphs.device, self.orders
        trajectory, step = self.trajectory[transitions], self.step[transitions]
        done = step + 1 == orders.n_steps[trajectory]
        arrange = np.argsort(done, kind="stable")
        trajectory, step, done = trajectory[arrange], step[arrange], done[arrange]
        crystal = orders.crystal[trajectory]
        n_continuing = len(done) - int(done.sum())
        graphs = self.graphs.batch(crystal)

        per_graph = np.stack([trajectory, step, orders.first_step[trajectory], self.graphs.first_site[crystal]])
        trajectory_, step_, first_step, first_site = send(per_graph, device)
        done_ = send(done, device)
        # Site of each node within its crystal, then its true element and the step at which it is filled.
        graph = graphs.node_graph
        site = torch.arange(len(graph), device=device) - graphs.first_node.index_select(0, graph)
        element = self.graphs.actions.index_select(0, site + first_site.index_select(0, graph))
        filled_at = orders.rank.index_select(0, site + first_step.index_select(0, graph))
        now = step_.index_select(0, graph)
        focus = orders.order[first_step + step_]
        n_next_nodes = int(self.graphs.n_sites[crystal[:n_continuing]].sum())
        n_next_edges = int(self.graphs.n_edges[crystal[:n_continuing]].sum())
        return Transitions(
            graphs=graphs,
            node_types=torch.where(filled_at < now, element, UNFILLED),
            focus=focus,
            action=self.graphs.actions[first_site + focus],
            trajectory=trajectory_,
            done=done_,
            next_graphs=graphs.head(n_continuing, n_next_nodes, n_next_edges),
            next_node_types=torch.where(filled_at <= now, element, UNFILLED)[:n_next_nodes],
            next_focus=orders.order[(first_step + step_)[:n_continuing] + 1],
            steps_left=send(orders.n_steps[trajectory] - 1 - step, device),
        )
