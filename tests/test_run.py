"""A miniature real run: a handful of crystals through every stage, with a real pw.x."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from xtalrl import tables

pytestmark = pytest.mark.slow


class Run:
    """A run of config/test.yaml in a folder of its own, with downloads shared with the checkout."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root = root
        self.results = folder / "results"
        self.cache = folder / "cache"

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable, "-m", "snakemake", "--nolock", *arguments, "--profile", "profiles/local", "--cores", "2",
                "--configfile", "config/test.yaml",
                "--config", f"results={self.results}", f"cache={self.cache}",
            ],
            cwd=self.root, capture_output=True, text=True, timeout=1500,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )  # fmt: skip


@pytest.fixture(scope="module")
def run(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    run = Run(root, tmp_path_factory.mktemp("run"))
    for name in ("downloads", "engine"):  # what the network gives; finished SCFs are not shared
        if (root / "results/cache" / name).is_dir():
            shutil.copytree(root / "results/cache" / name, run.cache / name)
    result = run.snakemake("all")
    assert result.returncode == 0, result.stdout + result.stderr
    return run


def test_every_stage_table_has_rows(run: Run) -> None:
    for path, schema in {
        "structures/crystals.parquet": tables.CRYSTALS,
        "structures/rejected.parquet": tables.REJECTED,
        "structures/graphs.parquet": tables.GRAPHS,
        "scf/outcomes.parquet": tables.SCF_OUTCOMES,
        "references.parquet": tables.REFERENCES,
        "labels.parquet": tables.LABELS,
        "trajectories.parquet": tables.TRAJECTORIES,
        "designs/assessments.parquet": tables.ASSESSMENTS,
        "evaluation/evaluation.parquet": tables.EVALUATION,
    }.items():
        assert tables.read(run.results / path, schema).num_rows > 0, path
        assert pq.read_schema(run.results / path).metadata[b"xtalrl_table"].decode() == tables.table_name(schema)


def test_every_crystal_ends_in_one_outcome(run: Run) -> None:
    requests = tables.read_rows(run.results / "scf/requests.parquet", tables.SCF_REQUESTS)
    outcomes = tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    assert sorted(row["request_id"] for row in requests) == sorted(row["request_id"] for row in outcomes)
    assert all(row["outcome"] == "converged" for row in outcomes), outcomes
    assert all(row["attempts"] for row in outcomes)


def test_labels_are_physical(run: Run) -> None:
    for row in tables.read_rows(run.results / "labels.parquet", tables.LABELS):
        assert row["formation_energy_per_atom"] < 0.2, row  # diamond lies above graphite
        assert 0 <= row["band_gap"] < 15, row


def test_tables_figures_and_report_are_made(run: Run) -> None:
    for name in (
        "tables/table1_composition.csv", "tables/table1_composition.md", "tables/table2_dft_success.csv",
        "figures/figure2.png", "figures/figure2.csv", "report.html",
    ):  # fmt: skip
        assert (run.results / name).stat().st_size > 0, name


def test_a_second_run_has_nothing_to_do(run: Run) -> None:
    result = run.snakemake("--dry-run", "all")
    assert "Nothing to be done" in result.stdout + result.stderr


def test_a_run_from_the_cache_repeats_no_scf_and_gives_the_same_tables(run: Run) -> None:
    before = {
        name: (run.results / name).read_text()
        for name in ("tables/table1_composition.csv", "tables/table2_dft_success.csv")
    }
    records = sorted((path.name, path.stat().st_size) for path in (run.cache / "scf").glob("*.jsonl"))
    shutil.rmtree(run.results)
    result = run.snakemake("all")
    assert result.returncode == 0, result.stdout + result.stderr
    assert {name: (run.results / name).read_text() for name in before} == before
    assert sorted((path.name, path.stat().st_size) for path in (run.cache / "scf").glob("*.jsonl")) == records
