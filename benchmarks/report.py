"""Time and size of everything after the last SCF, on made-up results of the paper's size.

python benchmarks/report.py [--crystals 9944] [--seeds 3] [--jobs 2]

Tables and figures are made as the workflow makes them: each by a process of its own, so many at a time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from report_data import make, write_results

from xtalrl.config import Config
from xtalrl.metrics.composition import assess_designs
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.metrics.stability import assess_stability
from xtalrl.report.contents import figures_of, tables_of
from xtalrl.report.html import make_report


def stages(folder: Path) -> dict[str, Callable[[], None]]:
    """What comes before the tables."""
    return {
        "assess_designs": partial(
            assess_designs,
            sorted(folder.glob("designs/*/seed*.parquet")),
            folder / "structures/crystals.parquet",
            folder / "formulas.txt",
            folder / "designs/again.parquet",
        ),
        "evaluate_designs": partial(
            evaluate_designs,
            folder / "designs/assessments.parquet",
            folder / "evaluation/outcomes.parquet",
            folder / "references.parquet",
            folder / "labels.parquet",
            folder / "evaluation/again.parquet",
        ),
        "assess_stability": partial(
            assess_stability,
            folder / "evaluation/evaluation.parquet",
            folder / "evaluation/outcomes.parquet",
            folder / "labels.parquet",
            folder / "structures/crystals.parquet",
            folder / "references.parquet",
            folder / "evaluation/stability.parquet",
        ),
    }


def makers(folder: Path, config: Config) -> dict[str, Callable[[], object]]:
    """What makes each table and figure of an ordinary run."""
    samples = config.evaluation.bootstrap_samples
    return {
        entry.name: partial(make, entry.name, folder, config, bootstrap_samples=samples)
        for entry in (*tables_of(config), *figures_of(config))
    }


def timed(name: str, run: Callable[[], object]) -> tuple[str, float, float, float]:
    """Name, wall and CPU seconds, and the peak memory of the process in GB."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return name, time.perf_counter() - wall, time.process_time() - cpu, peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=int, default=4 * 2486, help="a quarter of them are validation crystals")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_results(folder, arguments.crystals, tuple(range(arguments.seeds)))
        skeletons = arguments.crystals // 4
        print(f"{len(config.policy_specs())} policies, {arguments.seeds} seed(s), {skeletons:,} skeletons")
        print(f"load average at the start: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
        print(f"{'step':<22}{'wall s':>8}{'cpu s':>8}{'peak GB':>9}")

        def show(step: str, wall: float, cpu: float, peak: float) -> None:
            print(f"{step:<22}{wall:>8.1f}{cpu:>8.1f}{peak:>9.2f}", flush=True)

        for step, run in stages(folder).items():
            show(*timed(step, run))
        start, cpu = time.perf_counter(), 0.0
        context = multiprocessing.get_context("spawn")
        with context.Pool(arguments.jobs, maxtasksperchild=1) as pool:
            waiting = [pool.apply_async(timed, item) for item in makers(folder, config).items()]
            for result in waiting:
                row = result.get()
                cpu += row[2]
                show(*row)
        print(
            f"tables and figures: {time.perf_counter() - start:.1f} s with {arguments.jobs} at a time, {cpu:.1f} s of CPU"
        )
        show(
            *timed("make_report", partial(make_report, folder, config.model_dump(mode="json"), folder / "report.html"))
        )
        print(f"report.html: {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
