"""Off-policy evaluation: ν by the predictor before any SCF, and beside ν by DFT afterwards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_data import make, prediction_files, read, write_results
from scipy import stats

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.metrics.intervals import Estimate, expected_hits
from xtalrl.report.off_policy import rank_correlation

POLICIES = {"targets_ev": [1.12, 3.0], "omegas": [5]}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_results(folder, 240, (0,), **POLICIES)


def test_predicted_nu_is_the_mean_probability_of_all_designs(run: tuple[Path, Config]) -> None:
    folder, config = run
    rows = {(row["policy"], float(row["target_ev"])): row for row in read(make("predicted_range", folder, config))}
    assert len(rows) == 5 * 2
    evaluation = tables.read_rows(folder / "evaluation/evaluation.parquet", tables.EVALUATION)
    for target, path in zip((1.12, 3.0), prediction_files(folder, config), strict=True):
        said = {row["material_id"]: row["p_hit"] for row in tables.read_rows(path, tables.PREDICTIONS)}
        designs = [row for row in evaluation if row["policy"] == "bc"]
        # `recovery: paper` computes no odd number of electrons, and an invalid design gets no SCF.
        runs = [said[row["request_id"]] for row in designs if row["request_id"] and not row["odd_electrons"]]
        row = rows["bc", target]
        assert float(row["predicted_nu_pct"]) == pytest.approx(100 * sum(runs) / len(designs))
        assert float(row["predicted_nu_pct_low"]) < float(row["predicted_nu_pct"]) < float(row["predicted_nu_pct_high"])
        assert int(row["predicted_nu_pct_n"]) == len(designs)


def test_predictions_are_compared_with_dft_and_ranked(run: tuple[Path, Config]) -> None:
    rows = read(make("prediction_check", *run))
    found = {(row["policy"], row["target_ev"]): row for row in read(make("desired_range", *run))}
    for row in rows:
        if row["policy"] == "all policies":
            assert -1 <= float(row["rank_correlation_low"]) <= float(row["rank_correlation"]) <= 1
            assert row["rank_correlation_n"] == "5"
        else:
            assert row["nu_pct"] == found[row["policy"], row["target_ev"]]["nu_pct"]
            low, high = float(row["predicted_nu_pct_low"]), float(row["predicted_nu_pct_high"])
            is_kept = low <= float(row["nu_pct"]) <= high
            assert (row["prediction"] == "kept") == is_kept
    of_target = [row for row in rows if row["target_ev"] == "1.12"]
    *policies, together = of_target
    pairs = [[float(row[name]) for row in policies] for name in ("predicted_nu_pct", "nu_pct")]
    assert float(together["rank_correlation"]) == pytest.approx(stats.spearmanr(*pairs).statistic, abs=1e-5)


def test_two_policies_have_no_rank_correlation() -> None:
    estimates = [Estimate(value, None, None, 10, resamples=np.full(5, value)) for value in (0.1, 0.2)]
    assert rank_correlation(estimates, estimates, 0.95).value is None


def test_designs_that_share_an_scf_are_hits_together() -> None:
    alone, together = expected_hits([0.5] * 40, 0.9), expected_hits([0.5] * 10, 0.9, [4] * 10)
    assert alone.value == together.value == 20
    assert (together.low, together.high) == tuple(4 * np.array(stats.binom(10, 0.5).interval(0.9)))
