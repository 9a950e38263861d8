"""The learning curve of the designs: its numbers counted by hand, its figure, and the jobs behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from report_data import make, read, write_results
from test_workflow import dry_run, job_counts

from xtalrl import tables
from xtalrl.config import Config, validate
from xtalrl.errors import XtalrlError
from xtalrl.metrics.evaluation import UNKNOWN, evaluate_designs
from xtalrl.report.contents import figures_of, tables_of

STEPS = [500, 1000, 1500, 2000]


def make_figure(folder: Path, config: Config, stem: str = "curve") -> list[dict[str, str]]:
    return read(make("learning_curve", folder, config, stem))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config, list[dict[str, str]]]:
    folder = tmp_path_factory.mktemp("results")
    training = {"training": {"steps": 2000, "snapshots": 3}}
    config = write_results(folder, 400, (0, 1), sections=training, targets_ev=[1.12, 3.0], omegas=[1, 5])
    assert config.training.snapshot_steps == STEPS[:-1]
    return folder, config, read(make("designs_over_training", folder, config, "table"))


def test_a_row_for_every_policy_that_learns_and_every_step(run: tuple[Path, Config, list[dict[str, str]]]) -> None:
    folder, config, rows = run
    learned = [name for name, spec in config.policy_specs().items() if spec.is_learned]
    assert "random" not in learned
    assert [(row["policy"], int(row["step"])) for row in rows] == [(name, step) for name in learned for step in STEPS]
    for row in rows:
        assert row["seeds"] == "0 1"
        assert row["n_crystals"] == "100"
        assert bool(row["nu_at_least_pct"]) == row["policy"].startswith("ccql")
    assert "Validity rule: `cdvae-smact14`" in (folder / "table.md").read_text()
    assert (folder / "table.tex").read_text().count(r"\begin{table}") == 1


@pytest.mark.parametrize("policy", ["bc", "ccql-3ev-w5"])
@pytest.mark.parametrize("step", STEPS)
def test_numbers_counted_by_hand(run: tuple[Path, Config, list[dict[str, str]]], policy: str, step: int) -> None:
    folder, _, rows = run
    scf = {
        row["request_id"]: row for row in tables.read_rows(folder / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES)
    }
    at = folder / ("designs" if step == STEPS[-1] else f"learning_curve/{step}")
    designs = [
        row for row in tables.read_rows(at / "assessments.parquet", tables.ASSESSMENTS) if row["policy"] == policy
    ]
    assert len(designs) == 200
    valid = [row for row in designs if row["valid"]]
    unknown = [row for row in valid if row["request_id"] not in scf]
    gaps = [scf[row["request_id"]]["band_gap"] for row in valid if row["request_id"] in scf]
    hits = [gap for gap in gaps if gap is not None and 2.75 < gap < 3.25]
    (shown,) = [row for row in rows if row["policy"] == policy and int(row["step"]) == step]
    assert float(shown["validity_pct"]) == pytest.approx(len(valid) / 2, rel=1e-5)
    assert float(shown["accuracy_pct"]) == pytest.approx(
        100 * sum(row["n_correct"] for row in designs) / sum(row["n_sites"] for row in designs), rel=1e-5
    )
    assert float(shown["outcome_known_pct"]) == pytest.approx(100 - len(unknown) / 2, rel=1e-5)
    assert bool(unknown) == (step != STEPS[-1])
    if policy != "bc":
        assert float(shown["nu_at_least_pct"]) == pytest.approx(len(hits) / 2, rel=1e-5)
        assert float(shown["nu_at_most_pct"]) == pytest.approx((len(hits) + len(unknown)) / 2, rel=1e-5)


def test_the_figure_shows_the_numbers_of_the_table(run: tuple[Path, Config, list[dict[str, str]]]) -> None:
    folder, config, rows = run
    assert make_figure(folder, config) == rows
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (folder / "curve.pdf").read_bytes().startswith(b"%PDF")
    make_figure(folder, config, "again")
    for kind in ("png", "pdf"):
        assert (folder / f"again.{kind}").read_bytes() == (folder / f"curve.{kind}").read_bytes()


def test_one_policy_and_no_target(tmp_path: Path) -> None:
    sections = {"training": {"steps": 2000, "snapshots": 3}}
    config = write_results(tmp_path, 24, (0,), sections=sections, targets_ev=[], omegas=[5], random=False, ucql=False)
    assert {row["policy"] for row in make_figure(tmp_path, config)} == {"bc"}


def test_a_design_without_an_outcome_is_a_mistake_but_in_a_snapshot(
    run: tuple[Path, Config, list[dict[str, str]]], tmp_path: Path
) -> None:
    folder, _, _ = run
    files = {
        "assessments": folder / "learning_curve/500/assessments.parquet",
        "outcomes": folder / "evaluation/outcomes.parquet",
        "references": folder / "references.parquet",
        "labels": folder / "labels.parquet",
        "evaluation": tmp_path / "evaluation.parquet",
    }
    with pytest.raises(XtalrlError, match="no outcome for the design"):
        evaluate_designs(**files)
    evaluate_designs(**files, of_snapshot=True)
    rows = tables.read_rows(tmp_path / "evaluation.parquet", tables.EVALUATION)
    assert any(row["outcome"] == UNKNOWN for row in rows)
    assert all(row["valid"] and row["band_gap"] is None for row in rows if row["outcome"] == UNKNOWN)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"training": {"snapshots": 2}}, True),
        ({}, False),
        ({"training": {"snapshots": 2, "steps": 1}}, False),
        ({"training": {"snapshots": 2}, "policies": {"bc": False, "ucql": False, "targets_ev": []}}, False),
    ],
)
def test_only_runs_with_snapshots_have_it(sections: dict[str, Any], expected: bool) -> None:
    config = validate(sections)
    assert ("learning_curve" in [entry.name for entry in figures_of(config)]) == expected
    assert ("designs_over_training" in [entry.name for entry in tables_of(config)]) == expected


@pytest.mark.parametrize("together", [True, False])
def test_jobs(root: Path, together: bool) -> None:
    training = f"training={{snapshots: 2, steps: 20, policies_per_pass: {2 if together else 1}}}"
    counts = job_counts(dry_run(root, "all", "tables", "--configfile", "config/test.yaml", "--config", training))
    assert counts["rollout_snapshot"] == 2 * 3  # of bc, u-CQL and c-CQL
    assert counts["rollout_policy"] == 4
    assert counts["train_policy"] == (1 if together else 4)
    assert counts["assess_snapshots"] == counts["evaluate_snapshots"] == 2
    assert counts["make_learning_curve"] == counts["make_designs_over_training"] == 1


def test_no_jobs_without_snapshots(root: Path) -> None:
    counts = job_counts(dry_run(root, "all", "tables", "--configfile", "config/test.yaml"))
    assert not {"rollout_snapshot", "assess_snapshots", "evaluate_snapshots", "make_learning_curve"} & counts.keys()
