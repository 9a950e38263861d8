"""Seconds of the structure stages: CrystalNN graphs beside plain pymatgen, and trajectories. `python benchmarks/structures.py`.

Uses a random sample of the crystals of a folder of CSVs in MP-20's columns, or the demo set.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pymatgen.core import Lattice, Structure
from pymatgen.core.graphs import StructureGraph

from xtalrl import tables
from xtalrl.resources import RESOURCES
from xtalrl.rl.trajectories import build_trajectories
from xtalrl.structures import neighbors
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.demo import write_csvs
from xtalrl.structures.graphs import build_graphs, find_edges
from xtalrl.structures.mp20 import find_csvs


def cpu_seconds(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def label(row: dict) -> dict:
    return {
        "material_id": row["material_id"],
        "split": row["split"],
        "band_gap": 1.0,
        "formation_energy_per_atom": -1.0,
        "outcome": "benchmark",
        "detail": "",
        "source": "benchmark",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csvs", help="folder with train, val and test in MP-20's columns; without it, the demo set")
    parser.add_argument("--sample", type=int, default=60, help="crystals to build graphs of")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.csvs:
            csvs = find_csvs(options.csvs)
        else:
            csvs = {split: str(folder / f"{split}.csv") for split in ("train", "val", "test")}
            seconds = cpu_seconds(lambda: write_csvs(RESOURCES / "demo" / "crystals.csv", csvs))
            print(f"write the demo CSVs         {seconds:8.2f} s")
        seconds = cpu_seconds(lambda: build_crystals(csvs, folder / "crystals.parquet", folder / "rejected.parquet"))
        crystals = tables.read_rows(folder / "crystals.parquet", tables.CRYSTALS)
        n_rows = len(crystals) + tables.read(folder / "rejected.parquet", tables.REJECTED).num_rows
        print(f"read {n_rows:,} rows             {seconds:8.2f} s")

        sample = random.Random(0).sample(crystals, min(options.sample, len(crystals)))
        structures = [
            Structure(
                Lattice(np.reshape(row["lattice"], (3, 3))), row["species"], np.reshape(row["frac_coords"], (-1, 3))
            )
            for row in sample
        ]
        crystal_nn = neighbors.crystal_nn()
        theirs = cpu_seconds(lambda: [StructureGraph.from_local_env_strategy(s, crystal_nn) for s in structures])
        ours = cpu_seconds(lambda: [find_edges(s) for s in structures])
        print(f"graph, pymatgen             {1000 * theirs / len(sample):8.2f} ms a crystal")
        print(
            f"graph, xtalrl               {1000 * ours / len(sample):8.2f} ms a crystal, {theirs / ours:.2f} times faster"
        )

        tables.write_rows(sample, tables.CRYSTALS, folder / "sample.parquet")
        build_graphs(folder / "sample.parquet", folder / "graphs.parquet", folder / "failures.parquet")
        rows = [row | {"split": "train"} for row in tables.read_rows(folder / "graphs.parquet", tables.GRAPHS)]
        many = [
            row | {"material_id": f"{row['material_id']}-{i}"} for i in range(8813 // len(rows) + 1) for row in rows
        ][:8813]
        tables.write_rows(many, tables.GRAPHS, folder / "graphs.parquet")
        tables.write_rows(map(label, many), tables.LABELS, folder / "labels.parquet")
        seconds = cpu_seconds(
            lambda: build_trajectories(
                folder / "graphs.parquet", folder / "labels.parquet", folder / "trajectories.parquet"
            )
        )
        print(f"trajectories of {len(many):,} crystals {seconds:6.2f} s")


if __name__ == "__main__":
    main()
