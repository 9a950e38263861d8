"""The policy of a campaign goes on learning: from the SCFs of its own designs, and from known crystals so that it does not forget them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.rl.learner import Learner, Stack
from xtalrl.rl.replay import Replay
from xtalrl.rl.rollout import load_network, read_record
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import find_device, keep_freed_memory, write_policy
from xtalrl.rl.trajectories import Ties, build_trajectories

N_KNOWN = 1000
"""Number of known crystals that the policy sees again beside its designs."""
PER_CRYSTAL = 5
"""Trajectories per crystal, as in the paper."""
LEARNING_RATE = 3e-4
"""Highest learning rate; the modern preset trains with 1e-3."""


def learn_from_designs(
    folder: str | Path,
    graphs: str | Path,
    labels: str | Path,
    design_graphs: Sequence[str | Path],
    design_labels: Sequence[str | Path],
    policy: str | Path,
    steps: int,
    device: str,
    seed: int,
    threads: int,
) -> None:
    """Train a policy further on the designs of a campaign, and write it as a new policy.

    Designs with a gap, metals among them, become trajectories like those of crystals; a policy that uses the formation energy needs that, too. Beside them are `N_KNOWN` crystals of the training data,
    and every crystal counts alike, so that the share of designs grows with the campaign. A design whose SCF failed has no outcome that a policy could be asked for:
    it teaches the predictor only.

    Args:
        folder: holds policy.json and weights.safetensors of the policy to begin with.
        graphs: `GRAPHS` of the run.
        labels: `LABELS` of the run.
        design_graphs: `GRAPHS` of the designs of each round so far.
        design_labels: `LABELS` of the same designs.
        policy: policy.json to write; its other files are written beside it.
        steps: number of updates.
        device: auto, cpu or cuda.
        seed: seed of the choice of crystals, of their trajectories and of the batches.
        threads: number of threads that torch uses.

    Raises:
        XtalrlError: a file is missing or malformed, or no known crystal has the labels that are needed.
    """
    keep_freed_memory()
    torch.set_num_threads(threads)
    record, spec = read_record(Path(folder) / "policy.json")
    trained = load_network(record, Path(folder) / "weights.safetensors")
    settings = replace(
        TrainingSettings(**record["settings"]),
        steps=steps,
        learning_rate=LEARNING_RATE,
        schedule="cosine",
        warmup_steps=steps // 10,
        weighting="crystals",
    )
    uses_energy = spec.reward is not None or settings.condition_on_energy
    needed = ["band_gap", *["formation_energy_per_atom"] * uses_energy]
    known = _labelled(graphs, labels, ["train", *[tables.METALS] * spec.algorithm.learns_from_metals], needed)
    if not len(known[0]):
        raise XtalrlError(
            f"{spec.name} cannot learn further: no crystal of the train split has a graph in {graphs} and {' and '.join(needed)} in {labels}. "
            "Set `campaign.policy_steps: 0`."
        )
    drawn = np.random.default_rng(seed).permutation(len(known[0]))[:N_KNOWN]
    designs = [
        _labelled(*files, [tables.DESIGN_SPLIT], needed) for files in zip(design_graphs, design_labels, strict=True)
    ]
    with TemporaryDirectory() as temporary:
        both = graphs, labels = Path(temporary) / "graphs.parquet", Path(temporary) / "labels.parquet"
        trajectories = Path(temporary) / "trajectories.parquet"
        for number, (path, schema) in enumerate(zip(both, (tables.GRAPHS, tables.LABELS), strict=True)):
            parts = [known[number].take(drawn), *(of_round[number] for of_round in designs)]
            tables.write(pa.concat_tables(parts), schema, path)
        ties: Ties = "shuffled" if settings.focus == "node" else "index"
        build_trajectories(graphs, labels, trajectories, PER_CRYSTAL, seed, ties=ties)
        replay = Replay(graphs, trajectories, device=find_device(device))

    stack = Stack(settings, replay)
    learner = Learner([spec], stack, seed, [stack.trained_state(spec, trained)])
    n_designs = sum(len(of_graphs) for of_graphs, _ in designs)
    progress = Progress(f"{spec.name} learns from {n_designs:,} designs", steps, "steps")
    statistics = []
    for step in range(steps):
        batch = stack.draw_batch(seed, step, bootstrap=learner.target is not None)
        statistics.append(learner.update(batch)[0])
        progress.advance()
    learner.check_finite()
    record = {name: value for name, value in record.items() if name not in ("format", "sha256")}
    record["further_training"] = {
        "designs": n_designs,
        "known_crystals": len(drawn),
        "steps": steps,
        "learning_rate": LEARNING_RATE,
        "seed": seed,
    }
    rows = [[float(step), *values, math.nan] for step, values in enumerate(torch.stack(statistics).tolist(), 1)]
    write_policy(Path(policy).parent, record, stack.state_dict(spec, learner.state(spec).result), {}, rows)


def _labelled(
    graphs: str | Path, labels: str | Path, splits: Sequence[str], needed: Sequence[str]
) -> tuple[pa.Table, pa.Table]:
    """The graphs and labels of the crystals of some splits that have the needed labels, in the same order, as the split train.

    A formation energy that is not needed and not known becomes 0, because a trajectory must have one.
    """
    label_table = tables.read(labels, tables.LABELS)
    for name in needed:
        label_table = label_table.filter(pc.is_valid(label_table[name]))
    graph_table = tables.read(graphs, tables.GRAPHS)
    graph_table = graph_table.filter(pc.is_in(graph_table["split"], pa.array(splits)))
    rows = pc.index_in(graph_table["material_id"].combine_chunks(), label_table["material_id"].combine_chunks())
    graph_table, label_table = graph_table.filter(pc.is_valid(rows)), label_table.take(rows.drop_null())
    energy = pc.fill_null(label_table["formation_energy_per_atom"], 0.0)
    train = pa.array(["train"] * len(graph_table), pa.string())
    return (
        _with_column(graph_table, "split", train),
        _with_column(_with_column(label_table, "split", train), "formation_energy_per_atom", energy),
    )


def _with_column(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)
