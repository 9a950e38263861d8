"""How much the order of the sites in the file tells a policy, and what an honest skeleton costs.

    python benchmarks/leak.py RESULTS [--crystals 2000] [--skeletons 500] [--steps 1000] [--policies bc ccql]

RESULTS is the folder of a run that has labels.parquet and structures/graphs.parquet. Policies are trained on random crystals of its train split
and fill random skeletons of its validation split, with four settings: the focus as an index or as a mark on the node, and

    file       sites as the file has them, ties of the breadth-first search broken by their number
    scrambled  the same, after the sites of every crystal were permuted at random, in training and test
    shuffled   orders that know nothing of the file (`ties: shuffled`), as `training.focus: node` has them

Every policy then fills the same skeletons with their sites scrambled again: an honest one makes the same designs. Writes
docs/results/leak.{md,csv}, a row as soon as it is known; rows that the CSV holds are not run again.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import tables
from xtalrl.csv_files import write_csv
from xtalrl.elements import ACTION
from xtalrl.files import write_text
from xtalrl.metrics.intervals import Bootstrap
from xtalrl.rl.policies import PolicySpec, Reward
from xtalrl.rl.rollout import rollout_policy
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import train_policy
from xtalrl.rl.trajectories import build_trajectories

PROJECT = Path(__file__).resolve().parents[1]
POLICIES = {"bc": PolicySpec("bc"), "ccql": PolicySpec("ccql", omega=5.0, target_ev=1.12, reward=Reward())}
SETTINGS = (("index", "file"), ("index", "scrambled"), ("node", "file"), ("node", "shuffled"))
COLUMNS = (
    "policy", "focus", "sites", "accuracy", "low", "high", "accuracy_scrambled", "low_scrambled", "high_scrambled", "same_designs",
    "atoms", "skeletons", "train_crystals", "steps", "batch_size", "learning_rate", "seed", "wall_s",
)  # fmt: skip


def scrambled(graph: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The same crystal with its sites in a random order."""
    new = list(range(len(graph["actions"])))
    random.Random(f"{seed}:{graph['material_id']}").shuffle(new)
    actions = [0] * len(new)
    for site, action in zip(new, graph["actions"], strict=True):
        actions[site] = action
    return {
        **graph,
        "actions": actions,
        "edge_source": [new[site] for site in graph["edge_source"]],
        "edge_target": [new[site] for site in graph["edge_target"]],
    }


def sample(results: Path, crystals: int, skeletons: int, seed: int) -> list[dict[str, Any]]:
    """Graphs of random labelled crystals of the train split, and of random labelled skeletons of the validation split."""
    known = {
        row["material_id"]
        for row in tables.read_rows(results / "labels.parquet", tables.LABELS)
        if row["band_gap"] is not None and row["formation_energy_per_atom"] is not None
    }
    candidates = tables.read_rows(results / "structures/graphs.parquet", tables.GRAPHS)
    graphs: list[dict[str, Any]] = []
    for split, n in (("train", crystals), ("val", skeletons)):
        found = [row for row in candidates if row["split"] == split and row["material_id"] in known]
        graphs += random.Random(seed).sample(found, min(n, len(found)))
    return graphs


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a CSV, none where there is no such file."""
    return list(csv.DictReader(path.open())) if path.exists() else []


def write_data(graphs: Iterable[Mapping[str, Any]], labels: Path, folder: Path, ties: str) -> dict[str, Path]:
    """Graphs and trajectories of one setting."""
    paths = {"graphs": folder / "graphs.parquet", "trajectories": folder / "trajectories.parquet"}
    tables.write_rows(graphs, tables.GRAPHS, paths["graphs"])
    build_trajectories(paths["graphs"], labels, paths["trajectories"], 5, ties=ties)  # type: ignore[arg-type]
    return paths


def fill(policy: Path, data: Mapping[str, Path], out: Path) -> tuple[np.ndarray, np.ndarray, list[tuple[str, ...]]]:
    """Correct sites and sites of every design, by material_id, and its elements in the order they were placed."""
    rollout_policy(policy, data["graphs"], data["trajectories"], out, "cpu")
    truth = {row["material_id"]: row["actions"] for row in tables.read_rows(data["graphs"], tables.GRAPHS)}
    rows = sorted(tables.read_rows(out, tables.DESIGNS), key=lambda row: row["material_id"])
    correct = [
        sum(ACTION[element] == true for element, true in zip(row["species"], truth[row["material_id"]], strict=True))
        for row in rows
    ]
    placed = [tuple(row["species"][site] for site in row["order"]) for row in rows]
    return np.array([correct]), np.array([[len(row["species"]) for row in rows]]), placed


def run(
    name: str, focus: str, sites: str, graphs: list[dict[str, Any]], labels: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Train one policy in one setting and judge it."""
    start = time.monotonic()
    ties = "shuffled" if sites == "shuffled" else "index"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        own = [scrambled(graph, 1) for graph in graphs] if sites == "scrambled" else graphs
        data = write_data(own, labels, folder / "own", ties)
        other = write_data([scrambled(graph, 2) for graph in graphs], labels, folder / "other", ties)
        settings = TrainingSettings(
            steps=options.steps,
            batch_size=options.batch_size,
            learning_rate=options.learning_rate,
            focus="node" if focus == "node" else "index",
            device="cpu",
        )
        train_policy(POLICIES[name], settings, seed=options.seed, threads=1, folder=folder / "policy", **data)
        correct, atoms, placed = fill(folder / "policy", data, folder / "own.parquet")
        correct_other, _, placed_other = fill(folder / "policy", other, folder / "other.parquet")
    bootstrap = Bootstrap(1, correct.shape[1], samples=2000, confidence=0.95)
    here, there = bootstrap.proportion(correct, atoms), bootstrap.proportion(correct_other, atoms)
    return {
        "policy": POLICIES[name].name, "focus": focus, "sites": sites,
        "accuracy": here.value, "low": here.low, "high": here.high,
        "accuracy_scrambled": there.value, "low_scrambled": there.low, "high_scrambled": there.high,
        "same_designs": np.mean([a == b for a, b in zip(placed, placed_other, strict=True)]),
        "atoms": int(atoms.sum()), "skeletons": correct.shape[1],
        "train_crystals": options.crystals, "steps": options.steps, "batch_size": options.batch_size,
        "learning_rate": options.learning_rate, "seed": options.seed, "wall_s": time.monotonic() - start,
    }  # fmt: skip


def percent(row: Mapping[str, Any], suffix: str = "") -> str:
    """33.1 (31.2 to 35.0)."""
    value, low, high = (100 * float(row[name + suffix]) for name in ("accuracy", "low", "high"))
    return f"{value:.1f} ({low:.1f} to {high:.1f})"


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for people."""
    first = rows[0]
    lines = [
        "# What the order of the sites tells a policy",
        "",
        f"Written by `benchmarks/leak.py`. Each policy was trained on {int(first['train_crystals']):,} random crystals of MP-20's train split with "
        f"the paper's labels, with {first['batch_size']} transitions a step at a learning rate of {first['learning_rate']}: "
        f"far less than the paper's 250,000 steps of 1,024. It then filled {int(first['skeletons']):,} random validation skeletons "
        f"(some {int(first['atoms']):,} atoms). A seed draws the crystals, the skeletons, the first weights and the batches. Accuracy is in percent of atoms with 95 % intervals from "
        "resampling crystals; the spread between seeds is not in them.",
        "",
        "- `file`: sites as the file has them, ties of the breadth-first search broken by their number.",
        "- `scrambled`: the same, after the sites of every crystal were permuted at random, in training and test.",
        "- `shuffled`: orders that know nothing of the file, as `training.focus: node` has them.",
        "",
        "The last two columns are of the same policy on the same skeletons with their sites scrambled at test alone; a design that stays the same has "
        "the same elements in the order they are placed.",
        "",
        "| policy | focus | sites | seed | steps | accuracy | accuracy, scrambled at test | designs that stay the same |",
        "|---|---|---|---|---|---|---|---|",
        *(
            f"| {row['policy']} | {row['focus']} | {row['sites']} | {row['seed']} | {int(row['steps']):,} | {percent(row)} | {percent(row, '_scrambled')} "
            f"| {100 * float(row['same_designs']):.1f} % |"
            for row in rows
        ),
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--crystals", type=int, default=2000)
    parser.add_argument("--skeletons", type=int, default=500)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    names = [f"{focus}/{sites}" for focus, sites in SETTINGS]
    parser.add_argument("--settings", nargs="+", choices=names, default=names)
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=list(POLICIES))
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/results")
    options = parser.parse_args()

    labels = options.results / "labels.parquet"
    graphs = sample(options.results, options.crystals, options.skeletons, options.seed)
    path = options.output / "leak.csv"
    rows = read_rows(path)
    done = {(row["policy"], row["focus"], row["sites"], int(row["seed"])) for row in rows}
    for name in options.policies:
        for focus, sites in (setting.split("/") for setting in options.settings):
            if (POLICIES[name].name, focus, sites, options.seed) in done:
                continue
            rows.append(run(name, focus, sites, graphs, labels, options))
            rows.sort(key=lambda row: (row["policy"], SETTINGS.index((row["focus"], row["sites"])), int(row["seed"])))
            write_csv(path, COLUMNS, rows)
            page = options.output / "leak.md"
            # What people wrote below the table stays.
            _, mark, words = (page.read_text() if page.is_file() else "").partition("\n## What this says\n")
            write_text(page, markdown(rows) + mark + words)
            print(f"{name} {focus}/{sites}: done", flush=True)


if __name__ == "__main__":
    main()
