"""Pairs of policies, and the paper's cells beside ours."""

from __future__ import annotations

from pathlib import Path

import pytest
from report_data import make, read, write_results
from scipy import stats

from xtalrl.config import Config
from xtalrl.metrics.intervals import NOTHING, Estimate
from xtalrl.report.comparisons import verdict


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_results(
        folder, 160, (0, 1), sections={"training": {"steps": 2000}}, targets_ev=[1.12, 3.0], omegas=[5]
    )


def table(name: str, run: tuple[Path, Config]) -> tuple[list[dict[str, str]], str]:
    path = make(name, *run, bootstrap_samples=300)
    return read(path), path.with_suffix(".md").read_text()


def test_every_pair_is_tested_in_every_metric(run: tuple[Path, Config]) -> None:
    rows, text = table("policy_tests", run)
    by_metric: dict[tuple[str, str], list[dict[str, str]]] = {}
    for row in rows:
        by_metric.setdefault((row["metric"], row["target_ev"]), []).append(row)
    for (metric, target), pairs in by_metric.items():
        # At a target: random, BC, u-CQL and the c-CQL of that target; else all five.
        assert len(pairs) == (6 if target else 10), (metric, target)
        assert ("ccql-3ev-w5" in {row["second"] for row in pairs}) == (target != "1.12")
        p = [float(row["p"]) for row in pairs if row["p"]]
        corrected = [float(row["p_fdr"]) for row in pairs if row["p"]]
        assert corrected == pytest.approx(list(stats.false_discovery_control(p)), rel=1e-4)
        assert all(a >= b for a, b in zip(corrected, p, strict=True))
    for row in rows:
        if row["low"]:
            assert float(row["low"]) <= float(row["difference"]) <= float(row["high"])
        assert float(row["difference"]) == pytest.approx(
            float(row["first_value"]) - float(row["second_value"]), abs=1e-3
        )
    random_accuracy = next(
        row for row in rows if (row["first"], row["second"], row["metric"]) == ("random", "bc", "accuracy")
    )
    # As small as 300 random swaps can tell.
    assert float(random_accuracy["p"]) == float(random_accuracy["p_floor"]) == pytest.approx(1 / 301, rel=1e-3)
    assert random_accuracy["test"] == "300 random swaps"
    assert "| ≤ 0.0033 |" in text
    assert float(random_accuracy["high"]) < 0
    assert "| random " in text


def test_policies_on_other_skeletons_are_not_compared(tmp_path: Path) -> None:
    config = write_results(tmp_path, 40, (0,), targets_ev=[1.12], omegas=[5], random=False)
    from xtalrl import tables

    path = tmp_path / "evaluation/evaluation.parquet"
    rows = tables.read_rows(path, tables.EVALUATION)
    others = [row | {"material_id": f"x-{row['material_id']}"} if row["policy"] == "bc" else row for row in rows]
    tables.write_rows(others, tables.EVALUATION, path)
    pairs, _ = table("policy_tests", (tmp_path, config))
    assert {(row["first"], row["second"]) for row in pairs} == {("ucql-w5", "ccql-1.12ev-w5")}


def test_every_cell_of_the_paper_is_there(run: tuple[Path, Config]) -> None:
    rows, text = table("paper_comparison", run)
    assert [sum(row["paper_table"] == table for row in rows) for table in "1234"] == [48, 12, 60, 60]
    assert "180 cells" in text
    cells = {(row["paper_table"], row["row"], row["metric"]): row for row in rows}
    ours = cells["1", "c-CQL 1.12 eV, ω = 5", "accuracy"]
    assert (ours["paper"], ours["policy"], ours["seeds"], ours["n_counts"]) == (
        "47.72",
        "ccql-1.12ev-w5",
        "0 1",
        "atoms",
    )
    assert float(ours["low"]) <= float(ours["ours"]) <= float(ours["high"])
    assert "2,000 steps here, 250,000 in the paper" in ours["note"]
    # This run has no ω = 1 and no reward with the total energy.
    assert cells["1", "c-CQL 1.12 eV, ω = 1", "accuracy"]["verdict"] == "missing"
    assert cells["3", "c-CQL 1-10-3, ω = 5", "validity"]["verdict"] == "missing"
    assert cells["3", "BC", "validity"]["verdict"] in ("inside", "above", "below")
    random = cells["1", "Random", "accuracy"]
    assert random["paper"] == "1.15"
    assert "fraction 0.0115" in random["note"]
    assert cells["1", "Random", "novelty"]["verdict"] == "not_printed"


def test_success_is_compared_by_the_papers_rules(tmp_path: Path) -> None:
    config = write_results(
        tmp_path, 200, (0,), sections={"training": {"steps": 250_000}}, recovered=1.0, targets_ev=[], omegas=[5]
    )
    rows, _ = table("paper_comparison", (tmp_path, config))
    success = next(row for row in rows if row["row"] == "BC" and row["metric"] == "dft_success")
    assert float(success["ours"]) == 0
    assert success["note"] == ""


@pytest.mark.parametrize(
    ("paper", "ours", "expected"),
    [
        (50.0, Estimate(49, 47, 51, 10), "inside"),
        (51.0, Estimate(49, 47, 51, 10), "inside"),
        (51.1, Estimate(49, 47, 51, 10), "above"),
        (46.9, Estimate(49, 47, 51, 10), "below"),
        (None, Estimate(49, 47, 51, 10), "not_printed"),
        (50.0, NOTHING, "missing"),
    ],
)
def test_verdicts(paper: float | None, ours: Estimate, expected: str) -> None:
    assert verdict(paper, ours) == expected
