"""Time and size of everything after the last SCF, on made-up results of the paper's size.

python benchmarks/report.py [--crystals 9944] [--seeds 1]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from report_data import write_results

from xtalrl.metrics.composition import assess_designs
from xtalrl.metrics.evaluation import evaluate_designs
from xtalrl.report.figures import make_figure2
from xtalrl.report.html import make_report
from xtalrl.report.tables import make_table1, make_table2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--crystals", type=int, default=4 * 2486, help="a quarter of them are validation crystals")
    parser.add_argument("--seeds", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_results(folder, arguments.crystals, tuple(range(arguments.seeds)))
        policies = config.policy_specs()
        evaluation = folder / "evaluation/evaluation.parquet"
        sampling = {
            "bootstrap_samples": config.evaluation.bootstrap_samples,
            "confidence": config.evaluation.confidence,
        }

        def table(number: int) -> dict[str, Path]:
            stem = folder / "tables" / ("table1_composition" if number == 1 else "table2_dft_success")
            return {
                "csv": stem.with_suffix(".csv"),
                "markdown": stem.with_suffix(".md"),
                "latex": stem.with_suffix(".tex"),
            }

        steps = {
            "assess_designs": lambda: assess_designs(
                sorted(folder.glob("designs/*/seed*.parquet")),
                folder / "structures/crystals.parquet",
                folder / "formulas.txt",
                folder / "designs/again.parquet",
            ),
            "evaluate_designs": lambda: evaluate_designs(
                folder / "designs/assessments.parquet",
                folder / "evaluation/outcomes.parquet",
                folder / "references.parquet",
                folder / "labels.parquet",
                folder / "evaluation/again.parquet",
            ),
            "make_table1": lambda: make_table1(evaluation, **table(1), policies=list(policies), **sampling),
            "make_table2": lambda: make_table2(evaluation, **table(2), policies=list(policies), **sampling),
            "make_figure2": lambda: make_figure2(
                evaluation,
                folder / "labels.parquet",
                folder / "figures/figure2.png",
                folder / "figures/figure2.pdf",
                folder / "figures/figure2.csv",
                policies={policy: spec.target_ev for policy, spec in policies.items()},
                targets_ev=config.policies.targets_ev,
                window_ev=config.evaluation.window_ev,
                **sampling,
            ),
            "make_report": lambda: make_report(folder, config.model_dump(mode="json"), folder / "report.html"),
        }
        skeletons = arguments.crystals // 4
        print(f"{len(policies)} policies, {arguments.seeds} seed(s), {skeletons:,} skeletons")
        print(f"{'step':<18}{'wall s':>8}{'cpu s':>8}")
        for step, run in steps.items():
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            print(f"{step:<18}{time.perf_counter() - wall:>8.1f}{time.process_time() - cpu:>8.1f}", flush=True)
        print(f"report.html: {(folder / 'report.html').stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
