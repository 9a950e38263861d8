"""A miniature real run: a handful of crystals through every stage, with a real pw.x."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from printed_commands import printed_commands, words_of
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

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


# ------------------------------------------------------------------------------------------------ what the documents print

ELSEWHERE = {
    "xtalrl demo": "the whole demo: `make demo`",
    "xtalrl relax": "needs CHGNet: tests/test_relax.py",
    "xtalrl doctor --profile": "needs SLURM: tests/test_slurm.py",
    "sbatch": "needs SLURM: tests/test_slurm.py",
}
"""Commands that are not run here, by their first words, and where they are."""


@pytest.fixture(scope="module")
def folder(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader would have: the run that has ended, a campaign in mind, crystals to judge, a skeleton to fill."""
    folder = tmp_path_factory.mktemp("reader")
    content = yaml.safe_load((run.root / "config/test.yaml").read_text())
    content |= {"results": str(run.results), "cache": str(run.cache)}
    (folder / "ended.yaml").write_text(yaml.safe_dump(content))
    campaign = {"gap_ev": 3, "budget": 6, "rounds": 2}
    (folder / "mine.yaml").write_text(yaml.safe_dump(content | {"campaign": campaign}))
    asking = re.search(r"```yaml\n(.*?)```", (run.root / "docs/materials-project.md").read_text(), re.DOTALL)
    assert asking
    (folder / "my.yaml").write_text(asking[1])
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    for name in ("generated.zip", "generated_crystals.zip", "crystals.zip"):
        with zipfile.ZipFile(folder / name, "w") as archive:
            archive.writestr("salt.cif", salt.get_primitive_structure().to(fmt="cif"))
    (folder / "my_folder").mkdir()
    salt.get_primitive_structure().to(folder / "my_folder/salt.cif")
    perovskite = Structure.from_spacegroup(
        "Pm-3m", Lattice.cubic(4), ["Ca", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]
    )
    perovskite.to(folder / "perovskite.vasp", fmt="poscar")
    return folder


def adapted(words: list[str], folder: Path, run: Run) -> list[str]:
    """A printed command with the reader's files and this run in place of the documents' own."""
    ended = str(folder / "ended.yaml")
    if words[0] == "make":
        return ["make", "--dry-run", "--directory", str(run.root), *words[1:]]
    if words[0] == "xtalrl":
        # The configurations, policies and outcomes of the documents are those of runs that are not here.
        own = {"results/demo": str(run.results), "ccql-3ev-w5": "ccql-1.12ev-w5", "not_converged": "converged"}
        words = [ended if word.endswith(".yaml") else own.get(word, word) for word in words]
        if words[1] in ("status", "rerun", "export", "evaluate", "cache") and not {"--configfile", "--results"} & set(
            words
        ):
            words += ["--configfile", ended]
        return [sys.executable, "-c", "from xtalrl.commands.cli import main; main()", *words[1:]]
    words = words[words.index("snakemake") + 1 :]
    if "--report" in words:
        own = {"config/demo.yaml": ended, "snakemake.html": str(folder / "snakemake.html")}
        words = [own.get(word, word) for word in words]
    else:
        words = ["--dry-run", *words]
    if "--reporter" in words:  # a plugin that is not installed here; its options stand last
        at = words.index("--reporter")
        words = words[:at] + words[at + 2 : next(at for at, word in enumerate(words) if word.startswith("--report-"))]
    words = [str(folder / word) if (folder / word).is_file() else word for word in words]
    data = run.root.parent / "shared/data"
    for name, path in {
        "results/mine": run.results,
        "MP20": data / "mp20",
        "LABELS": data / "qe_labels",
        "FORMULAS": data / "mp_formulas.txt.gz",
    }.items():
        words = [re.sub(rf"\b{name}\b", str(path), word) for word in words]
    return [sys.executable, "-m", "snakemake", "--nolock", *words]


@pytest.mark.parametrize(("page", "command"), printed_commands())
def test_a_printed_command_runs(page: str, command: str, folder: Path, run: Run) -> None:
    """Each for real, in the order of the pages; make and Snakemake only say what they would do, which takes hours."""
    if why := next((why for start, why in ELSEWHERE.items() if command.startswith(start)), None):
        pytest.skip(why)
    if "MP20" in command and not (run.root.parent / "shared/data").is_dir():
        pytest.skip("the developers' data set ../shared/data is not here")
    words = words_of(command)
    where = folder if words[0] == "xtalrl" else run.root
    done = subprocess.run(adapted(words, folder, run), cwd=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
