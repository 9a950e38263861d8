"""Designs on skeletons that no trajectory was built for: those of `xtalrl design` and of a campaign."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from xtalrl import tables
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.rl.canonical import CrystalBonds
from xtalrl.rl.graphs import CrystalGraphs
from xtalrl.rl.replay import Orders
from xtalrl.rl.rollout import design_skeletons, read_record
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.rl.training import find_device, keep_freed_memory
from xtalrl.rl.trajectories import Ties, orders

logger = logging.getLogger(__name__)

_ORDERS = pa.schema([tables.TRAJECTORIES.field(name) for name in ("material_id", "order", "actions")])


def skeleton_orders(graphs: Iterable[Mapping[str, Any]], ties: Ties, keep: Collection[str] = ()) -> pa.Table:
    """One trajectory for each graph: breadth first, except that sites whose element stays come first.

    Args:
        graphs: rows of `GRAPHS`.
        ties: what decides between sites that the search reaches at once (`orders`).
        keep: elements that stay.

    Returns:
        The columns material_id, order and actions of `TRAJECTORIES`.
    """
    rows = []
    for graph in graphs:
        bonds = CrystalBonds(len(graph["actions"]), graph["edge_source"], graph["edge_target"], graph["edge_distance"])
        (order,) = orders(graph["material_id"], bonds, 1, 0, ties)
        order.sort(key=lambda site: ELEMENTS[graph["actions"][site]] not in keep)
        actions = [graph["actions"][site] for site in order]
        rows.append({"material_id": graph["material_id"], "order": order, "actions": actions})
    return pa.Table.from_pylist(rows, _ORDERS)


def propose_designs(
    policy: str | Path,
    weights: str | Path,
    graphs: str | Path,
    earlier: Sequence[str | Path] | None,
    designs: str | Path,
    device: str,
    settings: RolloutSettings | Mapping[str, Any],
    target_ev: float,
    round_number: int,
    seed: int,
    keep: Collection[str] = (),
) -> None:
    """Fill every skeleton for one round of a campaign, and write `DESIGNS`.

    With `greedy`, a round takes the best designs that no round before it has proposed; otherwise it draws with a seed of its own.

    Args:
        policy: policy.json of the policy.
        weights: its weights.safetensors.
        graphs: `GRAPHS` of the skeletons.
        earlier: `DESIGNS` of the rounds before; None in the first.
        designs: table to write.
        device: auto, cpu or cuda.
        settings: how elements are chosen, and how many designs a skeleton gets in a round; a `RolloutSettings` or its fields.
        target_ev: gap that a policy for all targets is asked for.
        round_number: number of the round, from 1.
        seed: seed of all random choices.
        keep: elements that stay on the sites where the skeletons have them.

    Raises:
        XtalrlError: a file is missing or malformed, or the first round can fill no skeleton as the wishes demand. A later round may
            end without further designs.
    """
    keep_freed_memory()
    settings = RolloutSettings.of(settings)
    record, trained = read_record(Path(policy))
    spec = trained.at(target_ev)
    before = [row for path in earlier or () for row in tables.read_rows(path, tables.DESIGNS)]
    proposed = Counter(row["material_id"] for row in before)
    known = {(row["material_id"], *row["species"]) for row in before}
    goes_on = spec.is_learned and settings.select == "greedy"
    asked = replace(settings, designs=settings.designs + max(proposed.values(), default=0)) if goes_on else settings
    table = tables.read(graphs, tables.GRAPHS)
    ties: Ties = "shuffled" if record["settings"].get("focus") == "node" else "index"
    order_table = skeleton_orders(table.to_pylist(), ties, keep)
    skeletons = CrystalGraphs(table, find_device(device))
    filled = design_skeletons(
        record | {"seed": 100 * seed + round_number},
        spec,
        Path(weights),
        Orders(skeletons, order_table, graphs),
        asked,
        keep,
    )
    rows = []
    for trajectory, of_skeleton in zip(order_table.to_pylist(), filled, strict=True):
        material_id = trajectory["material_id"]
        found = ([ELEMENTS[element] for element in elements] for elements in of_skeleton)
        new = [species for species in found if not goes_on or (material_id, *species) not in known]
        rows += [
            {
                "material_id": material_id,
                "policy": spec.name,
                "seed": record["seed"],
                "sample": sample,
                "order": trajectory["order"],
                "species": species,
            }
            for sample, species in enumerate(new[: settings.designs], proposed[material_id])
        ]
    if not rows and round_number == 1:
        raise XtalrlError(
            "No skeleton can be filled as `campaign.allow`, `campaign.deny`, `campaign.keep` and `campaign.neutral` demand: allow more elements, "
            "or set `campaign.neutral` to false."
        )
    tables.write_rows(rows, tables.DESIGNS, designs)
    logger.info("%s designs of %s on %s skeletons", f"{len(rows):,}", spec.name, f"{len(filled):,}")
