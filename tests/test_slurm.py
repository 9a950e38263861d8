"""The workflow on a real single-node SLURM: what jobs ask for, and that no accident costs a result or an SCF.

tests/slurm/cluster.sh starts SLURM and stops it. Where jobs are cancelled and killed, a stand-in for pw.x (tests/slurm/pw.py) makes
the accidents quick and repeatable; the real pw.x is tried through SLURM on a few crystals.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from xtalrl import tables
from xtalrl.cluster import check_cluster
from xtalrl.config import validate
from xtalrl.doctor import State

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[None]:
    """A running SLURM."""
    if os.geteuid() != 0:
        pytest.skip("starting SLURM's daemons needs root")
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    script = str(root / "tests/slurm/cluster.sh")
    started = subprocess.run([script, "start"], capture_output=True, text=True, timeout=120)
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run([script, "stop"], check=True, timeout=120)


class Run:
    """A run of config/test.yaml in a folder of its own, with what the network gave taken from the checkout."""

    def __init__(self, root: Path, folder: Path, config: dict[str, object]) -> None:
        self.root, self.folder = root, folder
        self.results, self.cache = folder / "results", folder / "cache"
        for name in ("downloads", "engine", "families"):
            if (root / "results/cache" / name).is_dir():
                shutil.copytree(root / "results/cache" / name, self.cache / name)
        self.config = folder / "config.yaml"
        self.config.write_text(yaml.safe_dump({"results": str(self.results), "cache": str(self.cache), **config}))

    def command(self, *arguments: str, profile: str = "slurm") -> list[str]:
        quick = (
            "--slurm-init-seconds-before-status-checks", "2", "--max-status-checks-per-second", "2",
            "--set-threads", "run_scf_shard=1", "build_graphs=1", "train_policy=1",
        ) if profile == "slurm" else ("--cores", "2")  # fmt: skip
        return [
            sys.executable, "-m", "snakemake", "--profile", f"profiles/{profile}", *quick,
            "--configfile", "config/test.yaml", str(self.config), "--", *arguments,
        ]  # fmt: skip

    def snakemake(self, *arguments: str, profile: str = "slurm") -> str:
        options = [argument for argument in arguments if argument.startswith("--")]
        targets = [argument for argument in arguments if not argument.startswith("--")]
        command = self.command(*targets, profile=profile)
        command[3:3] = options
        result = subprocess.run(command, cwd=self.root, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout + result.stderr

    def start(self, *targets: str) -> subprocess.Popen[bytes]:
        with open(self.folder / "snakemake.log", "wb") as log:
            return subprocess.Popen(
                self.command(*targets), cwd=self.root, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )

    def log(self) -> str:
        return (self.folder / "snakemake.log").read_text()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """The login node dies and somebody cancels every job; then the user has the folder unlocked."""
        process.send_signal(signal.SIGKILL)
        process.wait()
        subprocess.run(["scancel", "--user=root"], check=True)
        wait_for(lambda: not jobs("RUNNING", "PENDING", "COMPLETING"), "the jobs to end")
        self.snakemake("--unlock")

    def tables(self) -> dict[str, str]:
        """The text of every table, and of the numbers behind every figure."""
        return {path.name: path.read_text() for path in self.results.glob("*/*.csv")}

    def records(self) -> list[str]:
        """The key of every finished SCF in the cache."""
        lines = [line for path in (self.cache / "scf").glob("*.jsonl") for line in path.read_text().splitlines()]
        return [json.loads(line)["key"] for line in lines]


def wait_for(condition: Callable[[], object], what: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what}"
        time.sleep(0.5)


def jobs(*states: str) -> dict[str, str]:
    """Comment (rule and wildcards) and id of the jobs in these states."""
    lines = subprocess.run(
        ["squeue", "--noheader", "--states", ",".join(states), "--format=%k %i"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return dict(line.split() for line in lines)


def job_field(path: Path, name: str) -> str:
    found = re.search(rf"\b{name}=(\S*)", path.read_text())
    return found[1] if found else ""


def test_jobs_ask_for_what_the_profile_says(root: Path, cluster: None, tmp_path: Path) -> None:
    # A controller that does not answer at first: the plugin's defaults would forget the jobs after five failures.
    calls, squeue = tmp_path / "calls", tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        f'#!/bin/sh\necho x >> {calls}\n[ $(wc -l < {calls}) -le 7 ] && exit 1\nexec {shutil.which("squeue")} "$@"\n'
    )
    squeue.chmod(0o755)
    run = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--profile", str(root / "profiles/slurm"), "--snakefile", str(root / "tests/slurm/Snakefile"),
            "--slurm-init-seconds-before-status-checks", "2", "--max-status-checks-per-second", "2",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PATH": f"{squeue.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    expected = {
        "shard": ("cpu=16,mem=62.50G", "1-00:00:00", "(null)"),  # of the second attempt: twice as much of both
        "graphs": ("cpu=16,mem=16000M", "04:00:00", "(null)"),
        "policy": ("cpu=4,mem=16000M", "12:00:00", "gres:gpu:1"),
        "other": ("cpu=1,mem=2000M", "01:00:00", "(null)"),
    }
    for name, (size, limit, gpu) in expected.items():
        path = tmp_path / f"{name}.txt"
        assert job_field(path, "TRES").startswith(size), path.read_text()
        assert job_field(path, "TimeLimit") == limit
        assert (job_field(path, "TresPerNode") or "(null)") == gpu
        assert job_field(path, "JobName").startswith("xtalrl_")
        assert job_field(path, "Partition") == "main"
    assert (tmp_path / "local.txt").read_text() == "SLURM_JOB_ID=\n"


@pytest.mark.parametrize(
    ("section", "entry", "expected"),
    [
        ("default-resources", {}, None),
        ("default-resources", {"slurm_partition": "nope"}, "there is no partition nope; there are: main, gpu"),
        ("train_policy", {"gres": "tpu:1"}, "Invalid generic resource"),
        ("run_scf_shard", {"mem_mb": 900_000}, "Requested node configuration is not available"),
        ("run_scf_shard", {"runtime": "1440 * attempt"}, "the job would wait for ever"),
    ],
)
def test_doctor_asks_slurm(
    root: Path, cluster: None, section: str, entry: dict[str, object], expected: str | None
) -> None:
    profile = yaml.safe_load((root / "profiles/slurm/config.yaml").read_text())
    (profile if section == "default-resources" else profile["set-resources"])[section].update(entry)
    wrong = [check for check in check_cluster(validate({}), profile) if check.state is State.MISSING]
    assert bool(wrong) == bool(expected)
    assert all(expected in check.finding for check in wrong if expected)


def test_a_real_scf_through_slurm(root: Path, cluster: None, tmp_path: Path) -> None:
    run = Run(root, tmp_path, {"structures": {"source": "demo", "limit": 1}})
    run.snakemake("scf")
    rows = tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    assert rows and all(row["outcome"] == "converged" for row in rows), rows


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Path, dict[str, object]]:
    """The folder that steers the stand-in for pw.x, and the configuration that uses it."""
    folder = tmp_path_factory.mktemp("pw")
    (folder / "seconds").write_text("0")
    (folder / "hungry").write_text("nothing")
    command = f"{sys.executable} {root / 'tests/slurm/pw.py'} {folder}"
    shards = {"scf": 3, "references": 1, "evaluation": 2}
    return folder, {
        "structures": {"source": "demo", "limit": 6},
        "dft": {"command": command, "shards": shards},
        "training": {"steps": 400, "checkpoint_every": 20},  # long enough to be cancelled in the middle
    }


@pytest.fixture(scope="module")
def undisturbed(root: Path, stand_in: tuple[Path, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run on this machine alone, without SLURM and without accidents."""
    run = Run(root, tmp_path_factory.mktemp("undisturbed"), stand_in[1])
    run.snakemake("all", profile="local")
    return run


@pytest.fixture(scope="module")
def disturbed(
    root: Path, cluster: None, stand_in: tuple[Path, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run to which everything happens that happens to jobs, and which is then simply started again."""
    folder, config = stand_in
    run = Run(root, tmp_path_factory.mktemp("disturbed"), config)
    requests = run.results / "scf/requests.parquet"
    run.snakemake(str(requests))
    elements: dict[int, list[str]] = {}
    for row in tables.read_rows(requests, tables.SCF_REQUESTS):
        elements.setdefault(row["shard"], []).extend(row["species"])
    small, *others = sorted(elements, key=lambda shard: len(elements[shard]))
    hungry, cancelled, late = (f"rule_run_scf_shard_wildcards_scf_{shard:04d}" for shard in (small, *others))
    (folder / "hungry").write_text(
        next(e for e in elements[small] if not any(e in elements[shard] for shard in others))
    )
    # The hungry crystal may be the last of its shard: it fails while the others are still at their last.
    (folder / "seconds").write_text("20")

    process = run.start("all")
    try:
        wait_for(lambda: hungry in jobs("FAILED"), "a job out of memory")
        wait_for(run.records, "a first finished SCF")
        wait_for(lambda: {cancelled, late} <= jobs("RUNNING").keys(), "the other shards")
        (folder / "seconds").write_text("600")
        first = jobs("RUNNING", "FAILED")
        subprocess.run(["scontrol", "update", f"JobId={first[late]}", "TimeLimit=1"], check=True)
        subprocess.run(["scancel", first[cancelled]], check=True)
        for name, state in ((hungry, "FAILED"), (cancelled, "CANCELLED"), (late, "TIMEOUT")):
            failure = f"SLURM-job '{first[name]}' failed, SLURM status is: '{state}'"
            wait_for(lambda failure=failure: failure in run.log(), failure)
        assert "exceeded memory limit" in run.log()
        wait_for(lambda: {hungry, cancelled, late} <= jobs("RUNNING").keys(), "the second attempts")
    finally:
        run.kill(process)
    (folder / "seconds").write_text("0")

    training, checkpoint = "rule_train_policy_wildcards_bc_0", run.results / "policies/bc/seed0/checkpoint.safetensors"
    process = run.start("all")
    try:
        wait_for(checkpoint.exists, "a checkpoint", 600)
        first = jobs("RUNNING")
        subprocess.run(["scancel", first[training]], check=True)
        wait_for(
            lambda: f"SLURM-job '{first[training]}' failed, SLURM status is: 'CANCELLED'" in run.log(), "its failure"
        )
        wait_for(
            lambda: training in jobs("RUNNING") and jobs("RUNNING")[training] != first[training], "the second attempt"
        )
        assert checkpoint.exists()
    finally:
        run.kill(process)
    run.snakemake("all")
    (folder / "hungry").write_text("nothing")
    return run


def test_after_every_accident_the_same_tables(disturbed: Run, undisturbed: Run) -> None:
    assert {"table1_composition.csv", "table2_dft_success.csv", "figure2.csv"} <= undisturbed.tables().keys()
    assert disturbed.tables() == undisturbed.tables()


def test_training_went_on_from_its_checkpoint(disturbed: Run, undisturbed: Run) -> None:
    assert "at step" in (disturbed.results / "logs/train_policy.bc.seed0.log").read_text()
    weights = "policies/bc/seed0/weights.safetensors"
    assert (disturbed.results / weights).read_bytes() == (undisturbed.results / weights).read_bytes()


def test_no_scf_is_run_twice(disturbed: Run, undisturbed: Run) -> None:
    assert len(disturbed.records()) == len(set(disturbed.records()))
    assert set(disturbed.records()) == set(undisturbed.records())


def test_a_finished_run_has_nothing_to_do(disturbed: Run) -> None:
    assert "Nothing to be done" in disturbed.snakemake("--dry-run", "all")


def planned(output: str) -> set[str]:
    """The rules of a dry run's job table."""
    return {name for name, _ in re.findall(r"^(\w+) +(\d+)$", output, re.MULTILINE)} - {"total", "all", "train", "scf"}


def test_one_stage_again_touches_only_what_depends_on_it(disturbed: Run) -> None:
    redone = planned(disturbed.snakemake("--dry-run", "--forcerun=assess_designs", "all"))
    assert redone >= {
        "assess_designs", "plan_design_scf", "run_scf_shard", "gather_scf", "evaluate_designs",
        "make_table1", "make_table2", "make_figure2", "make_report",
    }  # fmt: skip
    assert not redone & {
        "read_crystals", "build_graphs", "plan_crystal_scf", "plan_reference_scf", "label_crystals", "build_trajectories",
        "train_policy", "rollout_policy",
    }  # fmt: skip
    weights = str(disturbed.results / "policies/bc/seed0/weights.safetensors")
    redone = disturbed.snakemake("--dry-run", f"--forcerun={weights}", "all")
    assert set(re.findall(r"Training (\S+), seed", redone)) == {"bc"}
    assert set(re.findall(r"Designing with (\S+), seed", redone)) == {"bc"}
    assert planned(disturbed.snakemake("--dry-run", "--forcerun=train_policy", "train")) == {"train_policy"}


def test_a_changed_protocol_starts_dft_again_and_says_so(disturbed: Run) -> None:
    content = yaml.safe_load(disturbed.config.read_text())
    changed = Run.__new__(Run)
    changed.__dict__ |= disturbed.__dict__ | {"config": disturbed.folder / "changed.yaml"}
    content["dft"] = {**content["dft"], "protocol": "paper"}
    changed.config.write_text(yaml.safe_dump(content))
    output = changed.snakemake("--dry-run", "scf")
    assert planned(output) == {"plan_crystal_scf", "run_scf_shard", "gather_scf"}
    assert "Params have changed since last execution" in output


def test_a_chosen_scf_again(disturbed: Run) -> None:
    before = disturbed.records()
    name = tables.read_rows(disturbed.results / "scf/requests.parquet", tables.SCF_REQUESTS)[0]["request_id"]
    subprocess.run(
        [
            sys.executable, "-c", "from xtalrl.cli import app; app()", "rerun", "--id", name, "--yes",
            "--configfile", "config/test.yaml", "--configfile", str(disturbed.config),
        ],
        cwd=disturbed.root, check=True,
    )  # fmt: skip
    output = disturbed.snakemake("--dry-run", "scf")
    assert len(re.findall("Running SCF shard", output)) == 1
    assert planned(output) == {"run_scf_shard", "gather_scf"}
    disturbed.snakemake("scf")
    assert len(disturbed.records()) == len(before) + 1
    assert set(disturbed.records()) == set(before)
