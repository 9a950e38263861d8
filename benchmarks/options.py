"""What `training.edge_features: gaussian_basis` and `training.precision: bfloat16` do to what a policy learns and to the time of a step.

    python benchmarks/options.py RESULTS [--crystals 2000] [--skeletons 500] [--steps 400] [--seeds 0 1]

RESULTS is the folder of a run that has labels.parquet and structures/graphs.parquet. BC is trained on random crystals of its train split and
fills random skeletons of its validation split, with each option and seed, as in benchmarks/leak.py. Writes docs/results/options.{md,csv}, a row
as soon as it is known; rows that the CSV holds are not run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from leak import PROJECT, fill, percent, read_rows, sample, write_data

from xtalrl.csv_files import write_csv
from xtalrl.files import write_text
from xtalrl.metrics.intervals import Bootstrap
from xtalrl.rl.policies import PolicySpec
from xtalrl.rl.settings import TrainingSettings
from xtalrl.rl.training import train_policy

OPTIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "gaussian_basis": {"edge_features": "gaussian_basis"},
    "bfloat16": {"precision": "bfloat16"},
}
COLUMNS = (
    "option", "seed", "accuracy", "low", "high", "loss", "cpu_ms_per_step",
    "atoms", "skeletons", "train_crystals", "steps", "batch_size", "learning_rate",
)  # fmt: skip
LAST_ROWS = 10
"""Rows of the log, of 10 steps each, whose mean loss is reported."""


def run(option: str, seed: int, data: Mapping[str, Path], settings: TrainingSettings) -> dict[str, Any]:
    """Train BC with an option and judge it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        start = time.process_time()
        train_policy(
            PolicySpec("bc"),
            dataclasses.replace(settings, **OPTIONS[option]),
            seed=seed,
            threads=1,
            folder=folder,
            **data,
        )
        cpu = time.process_time() - start
        losses = [float(row["loss"]) for row in read_rows(folder / "training.csv")]
        correct, atoms, _ = fill(folder, data, folder / "designs.parquet")
    accuracy = Bootstrap(1, correct.shape[1], samples=2000, confidence=0.95).proportion(correct, atoms)
    return {
        "option": option, "seed": seed, "accuracy": accuracy.value, "low": accuracy.low, "high": accuracy.high,
        "loss": statistics.fmean(losses[-LAST_ROWS:]), "cpu_ms_per_step": 1e3 * cpu / settings.steps,
        "atoms": int(atoms.sum()), "skeletons": correct.shape[1],
    }  # fmt: skip


def markdown(rows: list[dict[str, Any]]) -> str:
    """The page for people."""
    first = rows[0]
    lines = [
        "# What the options of the learner do",
        "",
        f"Written by `benchmarks/options.py`. BC was trained on {int(first['train_crystals']):,} random crystals of MP-20's train split with the paper's "
        f"labels, {int(first['steps']):,} steps of {first['batch_size']} transitions at a learning rate of {first['learning_rate']} on one thread of a "
        f"CPU: far less than the paper's 250,000 steps of 1,024. It then filled {int(first['skeletons']):,} random validation skeletons "
        f"({int(first['atoms']):,} atoms). Accuracy is in percent of atoms with 95 % intervals from resampling crystals; the spread between training "
        f"runs is what the seeds show. The loss is the mean of {LAST_ROWS} batches of the last {10 * LAST_ROWS} steps.",
        "",
        "| option | seed | accuracy | loss | CPU time per step |",
        "|---|---|---|---|---|",
        *(
            f"| {row['option']} | {row['seed']} | {percent(row)} | {float(row['loss']):.3f} | {float(row['cpu_ms_per_step']):.0f} ms |"
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
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--output", type=Path, default=PROJECT / "docs/results")
    arguments = parser.parse_args()

    graphs = sample(arguments.results, arguments.crystals, arguments.skeletons, seed=0)
    settings = TrainingSettings(
        steps=arguments.steps,
        batch_size=arguments.batch_size,
        learning_rate=arguments.learning_rate,
        device="cpu",
        log_every=10,
    )
    common = {
        "train_crystals": arguments.crystals,
        **{name: getattr(settings, name) for name in ("steps", "batch_size", "learning_rate")},
    }

    path = arguments.output / "options.csv"
    rows = read_rows(path)
    done = {(row["option"], int(row["seed"])) for row in rows}
    with tempfile.TemporaryDirectory() as temporary:
        data = write_data(graphs, arguments.results / "labels.parquet", Path(temporary), "index")
        for seed in arguments.seeds:
            for option in OPTIONS:
                if (option, seed) in done:
                    continue
                rows.append(run(option, seed, data, settings) | common)
                write_csv(path, COLUMNS, rows)
                write_text(arguments.output / "options.md", markdown(rows))
                print(
                    f"{option}, seed {seed}: {percent(rows[-1])}, {rows[-1]['cpu_ms_per_step']:.0f} ms a step",
                    flush=True,
                )


if __name__ == "__main__":
    main()
