"""Seconds and memory of the structure stages, and CrystalNN graphs beside plain pymatgen. `python benchmarks/structures.py`.

Without options on the demo set. `--csvs` names a folder of CSVs in MP-20's columns, `--labels` and `--references` published results (else
every crystal gets a made-up label). Every stage runs in a process of its own, without the cache of graphs.
"""

from __future__ import annotations

import argparse
import random
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pymatgen.core.graphs import StructureGraph

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.dft.labels import import_labels
from xtalrl.dft.references import import_references
from xtalrl.resources import RESOURCES
from xtalrl.rl.trajectories import build_trajectories, iter_trajectories
from xtalrl.structures import neighbors
from xtalrl.structures.crystals import build_crystals
from xtalrl.structures.demo import write_csvs
from xtalrl.structures.mp20 import find_csvs
from xtalrl.structures.neighbor_graphs import build_graphs, find_edges


@dataclass(frozen=True)
class Usage:
    """What a stage took: seconds on the clock, seconds of CPU, and MB at most, in the largest process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def _measure(function: Callable[..., Any], arguments: dict[str, Any]) -> Usage:
    start, cpu_start = time.perf_counter(), time.process_time()
    function(**arguments)
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return Usage(
        time.perf_counter() - start,
        time.process_time() - cpu_start + children.ru_utime + children.ru_stime,
        max(own.ru_maxrss, children.ru_maxrss) / 1024,
    )


def run_stage(name: str, unit: str, count: Callable[[], int], function: Callable[..., Any], **arguments: Any) -> None:
    """Run a stage in a fresh process and print its line."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        usage = pool.submit(_measure, function, arguments).result()
    n = count()
    print(
        f"{name:<24} {n:>9,} {unit:<12} {usage.wall_s:8.1f} {usage.cpu_s:8.1f} {n / usage.wall_s:12,.0f} {usage.peak_mb:8.0f} "
        f"{10 * usage.wall_s / 60:10.1f}",
        flush=True,
    )


def n_rows(path: Path, schema: Any) -> int:
    """Rows of a table."""
    return tables.read(path, schema).num_rows


def read_all(path: Path) -> None:
    """Every transition, as Python objects."""
    for trajectory in iter_trajectories(path):
        for _ in trajectory.transitions():
            pass


def made_up_labels(crystals: Path, labels: Path) -> None:
    """The same label for every crystal."""
    rows = tables.read(crystals, tables.CRYSTALS).select(["material_id", "split"]).to_pylist()
    common = {
        "band_gap": 1.0,
        "formation_energy_per_atom": -1.0,
        "outcome": "made_up",
        "detail": "",
        "source": "made up",
    }
    tables.write_rows((row | common for row in rows), tables.LABELS, labels)


def compare_with_pymatgen(crystals: Path, sample: int) -> None:
    """CPU milliseconds a graph of a random sample: plain pymatgen, and ours."""
    rows = tables.read_rows(crystals, tables.CRYSTALS)
    structures = [Cell.from_row(row).to_structure() for row in random.Random(0).sample(rows, min(sample, len(rows)))]
    crystal_nn = neighbors.crystal_nn()
    seconds = []
    for build in (lambda s: StructureGraph.from_local_env_strategy(s, crystal_nn), find_edges):
        start = time.process_time()
        for structure in structures:
            build(structure)
        seconds.append(time.process_time() - start)
    theirs, ours = (1000 * s / len(structures) for s in seconds)
    print(
        f"\nCrystalNN graphs of {len(structures)} random crystals, one core: pymatgen {theirs:.1f} ms a crystal, xtalrl {ours:.1f} ms, "
        f"{theirs / ours:.2f} times faster"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csvs", help="folder with train, val and test in MP-20's columns; without it, the demo set")
    parser.add_argument("--labels", help="folder or CSV of published labels")
    parser.add_argument("--references", help="CSV of their reference energies")
    parser.add_argument("--sample", type=int, default=60, help="crystals to compare with pymatgen")
    parser.add_argument("--workers", type=int, default=2, help="processes that build graphs")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        crystals, rejected, graphs, failures, references, labels, trajectories = (
            folder / f"{table}.parquet"
            for table in ("crystals", "rejected", "graphs", "failures", "references", "labels", "trajectories")
        )
        csvs = (
            find_csvs(options.csvs) if options.csvs else {s: str(folder / f"{s}.csv") for s in ("train", "val", "test")}
        )
        if not options.csvs:
            write_csvs(RESOURCES / "demo" / "crystals.csv", csvs)
        print(f"{'':<24} {'':>9} {'':<12} {'wall':>8} {'CPU':>8} {'':>12} {'memory':>8} {'10x data':>10}")
        print(f"{'stage':<24} {'':>9} {'':<12} {'s':>8} {'s':>8} {'per second':>12} {'MB':>8} {'minutes':>10}")
        run_stage(
            "read, filter, reduce", "rows", lambda: n_rows(crystals, tables.CRYSTALS) + n_rows(rejected, tables.REJECTED),
            build_crystals, csvs=csvs, crystals=crystals, rejected=rejected,
        )  # fmt: skip
        run_stage(
            f"graphs, {options.workers} processes", "crystals", lambda: n_rows(crystals, tables.CRYSTALS), build_graphs,
            crystals=crystals, graphs=graphs, failures=failures, cache=folder / "cache", workers=options.workers,
        )  # fmt: skip
        run_stage(
            "graphs, from the cache", "crystals", lambda: n_rows(crystals, tables.CRYSTALS), build_graphs,
            crystals=crystals, graphs=graphs, failures=failures, cache=folder / "cache", workers=options.workers,
        )  # fmt: skip
        if options.labels:
            if options.references:
                import_references(options.references, str(references))
            run_stage(
                "labels", "crystals", lambda: n_rows(labels, tables.LABELS), import_labels, crystals=str(crystals), tables=options.labels,
                labels=str(labels), references=str(references) if options.references else None,
            )  # fmt: skip
        else:
            made_up_labels(crystals, labels)

        def n_transitions() -> int:
            return sum(len(row) for row in tables.read(trajectories, tables.TRAJECTORIES)["order"].to_pylist())

        run_stage(
            "trajectories",
            "transitions",
            n_transitions,
            build_trajectories,
            graphs=graphs,
            labels=labels,
            trajectories=trajectories,
        )
        run_stage("reading them", "transitions", n_transitions, read_all, path=trajectories)
        compare_with_pymatgen(crystals, options.sample)


if __name__ == "__main__":
    main()
