"""A SLURM whose kernel enforces the memory of jobs, as on most clusters: the same promises as in test_slurm.py.

Where a job is killed as a whole by sampling, the kernel ends single processes: pw.x, while its shard lives on.
"""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_run import Run, jobs, running_cluster, stand_in

from xtalrl import tables

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[None]:
    with running_cluster(root, "cgroup"):
        yield


def run_of(root: Path, tmp_path: Path, launcher: str = "", shards: int = 2) -> Run:
    settings = {
        "structures": {"source": "demo", "limit": 4},
        "dft": {
            "command": launcher + stand_in(root, tmp_path / "pw"),
            "shards": {"scf": shards, "references": 1, "evaluation": 1},
        },
    }
    return Run(root, tmp_path / "run", settings)


def test_a_shard_with_too_little_memory_is_repeated_with_more(root: Path, cluster: None, tmp_path: Path) -> None:
    run = run_of(root, tmp_path)
    requests = run.results / "scf/requests.parquet"
    run.snakemake(str(requests))
    rows = tables.read_rows(requests, tables.SCF_REQUESTS)
    elements = Counter(element for row in rows for element in set(row["species"]))
    hungry = next(row for row in rows if 1 in (elements[element] for element in row["species"]))
    (tmp_path / "pw/hungry").write_text(next(element for element in hungry["species"] if elements[element] == 1))

    log = run.snakemake("scf")
    assert len(re.findall(r"SLURM-job '\d+' failed, SLURM status is: 'FAILED'", log)) == 1, log
    assert "again: killed after" in log and "srun: error" in log and "Out Of Memory" in log
    done = tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    assert {row["request_id"]: row["outcome"] for row in done} == {row["request_id"]: "converged" for row in rows}
    # One result each: what the shard had finished beside the killed pw.x is not run again.
    assert len(run.records()) == len(set(run.records())) == len({row["key"] for row in rows})


def test_several_pw_under_srun(root: Path, cluster: None, tmp_path: Path) -> None:
    """Each is a step of its own in the memory and the cores of the job."""
    run = run_of(root, tmp_path, "srun --overlap -n 1 ", shards=1)
    (tmp_path / "pw/seconds").write_text("8")
    requests = run.results / "scf/requests.parquet"
    run.snakemake(str(requests))
    command = run.command("scf")
    command[command.index("run_scf_shard=1")] = "run_scf_shard=3"
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    most = 0
    while process.poll() is None:
        if job := next((i for name, i in jobs("RUNNING").items() if name.startswith("rule_run_scf_shard")), None):
            steps = subprocess.run(
                ["squeue", "--steps", f"--jobs={job}", "--noheader", "--format=%j"], capture_output=True, text=True
            )
            most = max(most, sum(Path(name).name.startswith("python") for name in steps.stdout.split()))
    assert process.returncode == 0
    assert most == 3
    done = tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    assert done and {row["outcome"] for row in done} == {"converged"}
