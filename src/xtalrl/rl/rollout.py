"""Designs: the validation skeletons filled by a policy, all at once, site by site."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file

from xtalrl import tables
from xtalrl.elements import ELEMENTS, N_ELEMENTS, UNFILLED
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.network import Architecture, QNetwork
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.replay import Orders, read_trajectories
from xtalrl.rl.training import find_device

CRYSTALS_AT_ONCE = 1024
"""Bounds the memory of a rollout; a design depends on its own crystal only."""


def rollout_policy(
    folder: str | Path, graphs: str | Path, trajectories: str | Path, designs: str | Path, device: str
) -> None:
    """Fill every skeleton of the split val greedily, in the order of its trajectory 0, and write `tables.DESIGNS`.

    The random policy draws each element uniformly instead, by its seed.

    Args:
        folder: holds policy.json and weights.safetensors.
        graphs: `tables.GRAPHS`.
        trajectories: `tables.TRAJECTORIES`.
        designs: file to write.
        device: auto, cpu or cuda.

    Raises:
        XtalrlError: a file is missing or malformed, or there is no such device.
    """
    record = _read_record(Path(folder) / "policy.json")
    spec, seed = PolicySpec.from_dict(record["spec"]), record["seed"]
    table = read_trajectories(trajectories, "val")
    table = table.filter(pc.equal(table["trajectory"], 0))
    skeletons = CrystalGraphs.read(graphs, table["material_id"].to_pylist(), find_device(device))
    orders = Orders(skeletons, table, trajectories)
    if spec.is_learned:
        network = QNetwork(Architecture(**record["network"]))
        network.load_state_dict(load_file(Path(folder) / "weights.safetensors"))
        elements = fill_greedily(network.to(skeletons.device), orders, spec.target_ev)
    else:
        elements = np.random.default_rng(seed).integers(N_ELEMENTS, size=int(skeletons.n_sites.sum()))
    rows = [
        {
            "material_id": material_id,
            "policy": spec.name,
            "seed": seed,
            "order": order,
            "species": [ELEMENTS[element] for element in elements[first : first + len(order)]],
        }
        for material_id, order, first in zip(
            skeletons.material_ids, table["order"].to_pylist(), skeletons.first_site.tolist(), strict=True
        )
    ]
    tables.write_rows(rows, tables.DESIGNS, designs)


@torch.no_grad()
def fill_greedily(network: QNetwork, orders: Orders, target_ev: float | None) -> NDArray[np.int64]:
    """Fill all crystals, one trajectory each, taking argmax_a Q(s, a) at every step (eq. 5).

    All crystals take their step together; one that is full leaves the batch.

    Returns:
        (n_sites,) elements, crystal after crystal.
    """
    graphs = orders.graphs
    device = graphs.device
    elements = torch.full((int(graphs.n_sites.sum()),), UNFILLED, device=device)
    progress = Progress("Rollout", int(graphs.n_sites.sum()), "sites")
    for trajectories, step in _lock_steps(orders.n_steps):
        crystals = orders.crystal[trajectories]
        batch = graphs.batch(crystals)
        first_site = torch.from_numpy(graphs.first_site[crystals]).to(device)
        site = torch.arange(len(batch.node_graph), device=device) + (first_site - batch.first_node)[batch.node_graph]
        focus = orders.order[torch.from_numpy(orders.first_step[trajectories] + step).to(device)]
        q = network(batch, elements[site], focus, target_ev)
        elements[first_site + focus] = q.argmax(1)
        progress.advance(len(trajectories))
    return elements.cpu().numpy()


def _lock_steps(n_steps: NDArray[np.int64]) -> Iterator[tuple[NDArray[np.int64], int]]:
    """Trajectories that take a step together, and its number."""
    longest_first = np.argsort(-n_steps, kind="stable")
    for start in range(0, len(n_steps), CRYSTALS_AT_ONCE):
        together = longest_first[start : start + CRYSTALS_AT_ONCE]
        for step in range(int(n_steps[together[0]])):
            yield together[n_steps[together] > step], step


def _read_record(path: Path) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        raise XtalrlError(f"{path} does not exist: train the policy first (`snakemake {path}`).") from None
    except json.JSONDecodeError as error:
        raise XtalrlError(f"{path} is not readable ({error}): delete it and run `snakemake {path}` again.") from None
    return record
