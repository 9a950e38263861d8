"""The sweep of appendix A.3: its jobs, and a miniature of it from structures to tables, with a stand-in for pw.x."""

from __future__ import annotations

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from test_workflow import dry_run, job_counts, snakemake

from xtalrl.config import load
from xtalrl.report.contents import figures_of, tables_of


def test_jobs_of_the_sweep(root: Path) -> None:
    counts = job_counts(dry_run(root, "sweep", "--configfile", "config/sweep.yaml"))
    assert counts["train_policy"] == counts["rollout_policy"] == 40
    assert all(
        counts[f"make_{name}"] == 1
        for name in ("table3_settings_1.12ev", "table4_settings_4ev", "figure6", "figure7", "figure8")
    )
    assert "make_figure2" not in counts


def test_a_sweep_without_settings_says_what_to_run(root: Path) -> None:
    result = snakemake(root, "--dry-run", "sweep", "--configfile", "config/demo.yaml")
    assert result.returncode != 0
    assert "snakemake sweep --configfile config/sweep.yaml" in result.stdout + result.stderr


def test_ordinary_runs_have_no_tables_of_the_sweep(root: Path) -> None:
    counts = job_counts(dry_run(root, "all", "tables", "figures", "--configfile", "config/demo.yaml"))
    assert counts["make_figure2"] == counts["make_table1_composition"] == 1
    assert (
        not {"make_table3_settings_1.12ev", "make_table4_settings_4ev", "make_figure6", "make_figure7", "make_figure8"}
        & counts.keys()
    )


@pytest.fixture(scope="module")
def miniature(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep")
    if not (root / "results/cache/families/pseudo-dojo-0.4-pbe-sr-standard/family.json").is_file():
        pytest.skip("no pseudopotentials: run `make engine`")
    for name in ("downloads", "engine", "families"):
        shutil.copytree(root / "results/cache" / name, folder / "cache" / name)
    (folder / "seconds").write_text("0")
    (folder / "hungry").write_text("none")
    config = {
        "results": str(folder / "results"),
        "cache": str(folder / "cache"),
        "dft": {"command": f"{sys.executable} {root / 'tests/slurm/pw.py'} {folder}"},
        "policies": {"targets_ev": [1.12, 2], "omegas": [5]},
        "reward": {"energy": "total", "alpha1": 1, "alpha2": 5, "beta2": 1},
        "sweep": {"settings": [[0, 5, 1], [1, 5, 1]], "targets_ev": [1.12, 4]},
        "training": {"steps": 5, "log_every": 5},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def run(root: Path, folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--nolock", *arguments, "--profile", "profiles/local", "--cores", "2", "--configfile",
            "config/test.yaml", str(folder / "config.yaml"),
        ],
        cwd=root, capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


@pytest.mark.slow
def test_a_miniature_sweep(root: Path, miniature: Path) -> None:
    run(root, miniature, "sweep")
    results = miniature / "results"
    config = load(root / "config/config.yaml", root / "config/test.yaml", miniature / "config.yaml")
    for entry in tables_of(config):
        for kind in ("csv", "md", "tex", "txt"):
            assert (results / f"tables/{entry.name}.{kind}").stat().st_size > 0
    for entry in figures_of(config):
        for kind in ("png", "pdf", "csv"):
            assert (results / f"figures/{entry.name}.{kind}").is_file()
    with (results / "tables/table4_settings_4ev.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["policy"] for row in rows] == ["random", "bc", "ucql-w5", "ccql-4ev-w5-a0-5-b1", "ccql-4ev-w5-a1-5-b1"]
    assert rows[-1]["accuracy_pct_paper"] == "46.79"
    assert (results / "report.html").stat().st_size > 0
    # Killed and started again, it goes on where it was: nothing is left to do, and one policy is trained again alone.
    assert "Nothing to be done" in run(root, miniature, "sweep", "--dry-run")
    policy = "ccql-4ev-w5-a1-5-b1"
    weights = results / f"policies/{policy}/seed0/weights.safetensors"
    plan = run(root, miniature, "sweep", "--forcerun", str(weights), "--dry-run")
    planned = re.findall(r"^Job \d+: (Training|Designing with) (\S+), seed 0$", plan, re.MULTILINE)
    assert sorted(planned) == [("Designing with", policy), ("Training", policy)]


@pytest.mark.slow
def test_snakemakes_own_report_has_the_captions(root: Path, miniature: Path) -> None:
    run(root, miniature, "sweep")
    path = miniature / "snakemake.html"
    run(root, miniature, "sweep", "--report", str(path))
    text = path.read_text()
    for name in ("figure7", "table3_settings_1.12ev", "paper_comparison"):
        assert name in text
    assert "Settings of the reward with the total energy" in text
    assert "designed by offline reinforcement learning on DFT data" in text
