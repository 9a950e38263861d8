"""Small random data sets in the shape of the stage tables, for the tests of xtalrl.rl."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from xtalrl import tables
from xtalrl.rl.learner import Learner

# Tiny batches lose more to waiting for other threads than they gain, above all on a busy machine.
torch.set_num_threads(1)


def random_graph(generator: np.random.Generator, name: str, split: str, n_sites: int) -> dict[str, Any]:
    """A connected multigraph row of `tables.GRAPHS`: each bond in both directions, some bonds doubled, some loops."""
    bonds = [(site, int(generator.integers(site))) for site in range(1, n_sites)]
    bonds += [tuple(generator.integers(n_sites, size=2).tolist()) for _ in range(2 * n_sites)]
    lengths = generator.uniform(0.8, 3.5, len(bonds)).tolist()
    doubled = generator.integers(len(bonds), size=len(bonds) // 3)
    bonds += [bonds[i] for i in doubled]
    lengths += [lengths[i] for i in doubled]
    return {
        "material_id": name,
        "split": split,
        "actions": generator.integers(88, size=n_sites).tolist(),
        "lattice_parameters": [*generator.uniform(3, 12, 3), *generator.uniform(60, 120, 3)],
        "spacegroup_number": int(generator.integers(1, 231)),
        "edge_source": [site for bond in bonds for site in bond],
        "edge_target": [site for bond in bonds for site in bond[::-1]],
        "edge_image": [0] * 6 * len(bonds),
        "edge_distance": [length for length in lengths for _ in range(2)],
    }


def random_trajectories(generator: np.random.Generator, graph: dict[str, Any], n: int) -> list[dict[str, Any]]:
    """Rows of `tables.TRAJECTORIES` of a graph: random orders, the first sites all different where there are enough."""
    n_sites = len(graph["actions"])
    label = {
        "band_gap": float(generator.uniform(0, 5)),
        "formation_energy_per_atom": float(generator.uniform(-4, 0.5)),
        "total_energy_ry": float(generator.uniform(-900, -20)),
    }
    rows = []
    for number in range(n):
        order = generator.permutation(n_sites).tolist()
        rows.append(
            {
                "material_id": graph["material_id"],
                "split": graph["split"],
                "trajectory": number,
                "order": order,
                "actions": [graph["actions"][site] for site in order],
                **label,
            }
        )
    return rows


def random_dataset(
    n_train: int = 8, n_val: int = 5, *, seed: int = 0, per_crystal: int = 2
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rows of graphs and of trajectories, crystals of 1 to 8 sites."""
    generator = np.random.default_rng(seed)
    graphs = [
        random_graph(generator, f"x-{number}", "train" if number < n_train else "val", int(generator.integers(1, 9)))
        for number in range(n_train + n_val)
    ]
    return graphs, [row for graph in graphs for row in random_trajectories(generator, graph, per_crystal)]


def write_dataset(folder: Path, graphs: list[dict[str, Any]], trajectories: list[dict[str, Any]]) -> dict[str, Path]:
    """The rows as files, by the names that train_policy and rollout_policy take."""
    paths = {"graphs": folder / "graphs.parquet", "trajectories": folder / "trajectories.parquet"}
    tables.write_rows(graphs, tables.GRAPHS, paths["graphs"])
    tables.write_rows(trajectories, tables.TRAJECTORIES, paths["trajectories"])
    return paths


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A training in this block dies before its update at a step."""

    class Killed(Exception):
        pass

    update = Learner.update

    def update_until_killed(self: Learner, batch: Any) -> torch.Tensor:
        if self.step == step:
            raise Killed
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "update", update_until_killed)
        try:
            yield
        except Killed:
            return
    pytest.fail(f"the training did not reach step {step}")
