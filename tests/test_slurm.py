"""The workflow on a real single-node SLURM: what jobs ask for, and that no accident costs a result or an SCF.

tests/slurm/cluster.sh starts SLURM and stops it. Where jobs are cancelled and killed, a stand-in for pw.x (tests/slurm/pw.py) makes
the accidents quick and repeatable; the real pw.x is tried through SLURM on a few crystals.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from slurm_run import STATE, Run, jobs, running_cluster, stand_in, wait_for

from xtalrl import tables
from xtalrl.commands.checks import State
from xtalrl.commands.cluster import check_cluster
from xtalrl.config import validate

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[None]:
    """A running SLURM that samples the memory of jobs."""
    with running_cluster(root):
        yield


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
        env={**os.environ, "PATH": f"{squeue.parent}:{os.environ['PATH']}", "LOADED_BY_MODULE": "qe"},
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
    assert job_field(tmp_path / "other.txt", "LOADED_BY_MODULE") == "qe"


@pytest.mark.parametrize(
    ("section", "entry", "expected"),
    [
        ("default-resources", {}, None),
        (
            "default-resources",
            {"slurm_partition": "nope"},
            "there is no partition nope; there are: main, gpu, spare, spare-requeue, urgent",
        ),
        ("train_policy", {"gres": "tpu:1"}, "Invalid generic resource"),
        ("run_scf_shard", {"mem_mb": 900_000}, "Requested node configuration is not available"),
        ("run_scf_shard", {"runtime": "1440 * attempt"}, "the job would wait forever"),
        ("run_scf_shard", {"runtime": "12h"}, None),
        ("run_scf_shard", {"mem": "999GB", "mem_mb": None}, "Requested node configuration is not available"),
        ("default-resources", {"constraint": "zen9"}, "Invalid feature specification"),
        ("train_policy", {"gpu": 99, "gres": None}, "Requested node configuration is not available"),
        ("build_graphs", {"slurm_extra": "'--reservation=nope'"}, "Requested reservation is invalid"),
    ],
)
def test_doctor_asks_slurm(
    root: Path, cluster: None, section: str, entry: dict[str, object], expected: str | None
) -> None:
    profile = yaml.safe_load((root / "profiles/slurm/config.yaml").read_text())
    entries = (profile if section == "default-resources" else profile["set-resources"])[section]
    entries.update(entry)
    for name in [name for name, value in entry.items() if value is None]:
        del entries[name]
    wrong = [check for check in check_cluster(validate({}), profile) if check.state is State.MISSING]
    assert bool(wrong) == bool(expected)
    assert all(expected in check.finding for check in wrong if expected)


def one_shard(root: Path, folder: Path) -> Run:
    """A run of a shard with one crystal, up to its SCF, which takes 600 s until folder/pw/seconds says otherwise."""
    settings = {
        "structures": {"source": "demo", "limit": 1},
        "dft": {"command": stand_in(root, folder / "pw"), "shards": {"scf": 1, "references": 1, "evaluation": 1}},
    }
    run = Run(root, folder / "run", settings)
    run.snakemake(str(run.results / "scf/requests.parquet"))
    (folder / "pw/seconds").write_text("600")
    return run


def wait_for_scf(run: Run) -> None:
    log = run.results / "logs/run_scf_shard.scf.0000.log"
    wait_for(lambda: log.exists() and "running" in log.read_text(), "the job's first SCF", 400)


def finish(run: Run, process: subprocess.Popen[bytes], folder: Path) -> None:
    """Let SCFs be quick; the run ends by itself, with every SCF run once."""
    (folder / "pw/seconds").write_text("0")
    try:
        assert process.wait(timeout=300) == 0, run.log()
    except subprocess.TimeoutExpired:
        run.kill(process)
        raise
    assert len(run.records()) == len(set(run.records())) > 0


def test_a_controller_that_is_away(root: Path, cluster: None, tmp_path: Path) -> None:
    run = one_shard(root, tmp_path)
    process = run.start("scf")
    wait_for_scf(run)
    daemon = int((STATE / "slurmctld.pid").read_text())
    os.kill(daemon, signal.SIGTERM)
    wait_for(lambda: not Path(f"/proc/{daemon}").exists(), "the controller's end")
    (tmp_path / "pw/seconds").write_text("0")
    wait_for((run.results / "scf/shards/0000.parquet").exists, "the end of the job, which needs no controller")
    wait_for(lambda: "SLURM does not say how the jobs are" in run.log(), "the next question about the job")
    subprocess.run(["slurmctld"], check=True)
    finish(run, process, tmp_path)
    assert "failed" not in run.log()


@pytest.mark.parametrize("partition", ["spare", "spare-requeue"])
def test_a_job_that_gives_way_to_another(root: Path, cluster: None, tmp_path: Path, partition: str) -> None:
    """Requeued or not, it runs again, and never twice at a time; no attempt is used up."""
    run = one_shard(root, tmp_path)
    options = ["--set-resources", f"run_scf_shard:slurm_partition={partition}", "--retries=0"]
    process = run.start("scf", options=options)
    wait_for_scf(run)
    (first,) = jobs("RUNNING").values()
    urgent = ["--partition=urgent", "--cpus-per-task=64", "--mem=1000", "--output=/dev/null", "--wrap=sleep 1"]
    subprocess.run(["sbatch", "--wait", *urgent], check=True, timeout=120)
    wait_for(lambda: jobs("RUNNING"), "it to run again", 400)  # after two minutes where SLURM requeues it
    assert len(jobs("RUNNING")) == 1
    assert (list(jobs("RUNNING").values()) == [first]) == (partition == "spare-requeue")
    finish(run, process, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGKILL])
def test_jobs_outlive_their_snakemake(root: Path, cluster: None, tmp_path: Path, number: signal.Signals) -> None:
    """The next Snakemake waits for what is in the queue; what has changed since is cancelled and submitted again."""
    run = one_shard(root, tmp_path)
    process = run.start("scf")
    wait_for_scf(run)
    (first,) = jobs("RUNNING").values()
    process.send_signal(number)
    assert process.wait(timeout=60) != 0
    if number == signal.SIGKILL:
        run.snakemake("--unlock")
    else:
        assert "The jobs stay in the queue" in run.log()
    process = run.start("scf")
    wait_for(lambda: f"is in the queue already, as SLURM-job {first}" in run.log(), "the job to be found")
    assert list(jobs("RUNNING", "PENDING").values()) == [first]
    if number == signal.SIGKILL:
        finish(run, process, tmp_path)
        return
    process.send_signal(number)
    process.wait(timeout=60)
    content = yaml.safe_load(run.config.read_text())
    content["dft"]["time_limits"] = {"crystal": [77]}
    run.config.write_text(yaml.safe_dump(content))
    process = run.start("scf")
    wait_for(lambda: f"SLURM-job {first}, which is cancelled" in run.log(), "the job to be found")
    wait_for(lambda: jobs("RUNNING", "PENDING"), "another job")
    assert first not in jobs("RUNNING", "PENDING", "COMPLETING").values()
    finish(run, process, tmp_path)


def test_snakemake_as_a_job(root: Path, cluster: None, tmp_path: Path) -> None:
    """It gives way before its end, its job runs on, and it waits for it when it runs again; nothing of it reaches its job."""
    run = one_shard(root, tmp_path)
    log = tmp_path / "head.log"
    arguments = run.command("scf")
    submitted = [
        "sbatch",
        "--parsable",
        f"--output={log}",
        "--comment=of_the_head",
        "profiles/slurm/head.sh",
        *arguments[arguments.index("--set-threads") :],
    ]
    environment = run.environment | {
        "SBATCH_TIMELIMIT": "120",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    head = subprocess.run(
        submitted, cwd=root, env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()
    wait_for_scf(run)
    found = jobs("RUNNING")
    assert found.pop("of_the_head") == head
    (shard,) = found.values()
    pid = (
        subprocess.run(["scontrol", "listpids", shard], capture_output=True, text=True, check=True)
        .stdout.splitlines()[-1]
        .split()[0]
    )
    variables = Path(f"/proc/{pid}/environ").read_text().split("\0")
    assert f"SLURM_JOB_ID={shard}" in variables and not [name for name in variables if name.startswith("SBATCH_")]
    subprocess.run(["scancel", "--signal=USR1", "--batch", head], check=True)
    wait_for(lambda: "of_the_head" in jobs("PENDING"), "the head to give way")
    assert shard in jobs("RUNNING").values()
    wait_for(lambda: f"is in the queue already, as SLURM-job {shard}" in log.read_text(), "the head to run again", 400)
    (tmp_path / "pw/seconds").write_text("0")
    wait_for(lambda: "of_the_head" in jobs("COMPLETED"), "the end of the run", 400)
    assert len(run.records()) == len(set(run.records())) > 0


def test_a_node_that_goes_down(root: Path, cluster: None, tmp_path: Path) -> None:
    run = one_shard(root, tmp_path)
    process = run.start("scf")
    wait_for_scf(run)
    (first,) = jobs("RUNNING").values()
    node = f"nodename={os.uname().nodename.split('.')[0]}"
    subprocess.run(["scontrol", "update", node, "state=down", "reason=test"], check=True)
    wait_for(lambda: not jobs("RUNNING", "COMPLETING"), "the end of the job")
    subprocess.run(["scontrol", "update", node, "state=resume"], check=False)  # slurmd may have registered again
    wait_for(lambda: jobs("RUNNING"), "it to run again", 400)
    assert list(jobs("RUNNING").values()) == [first]
    assert "NODE_FAIL" not in run.log()
    finish(run, process, tmp_path)


def test_a_job_that_fails_three_times(root: Path, cluster: None, tmp_path: Path) -> None:
    """A pw.x that is gone: what does not need it is finished, and once it is back the same command goes on."""
    program = tmp_path / "pw-of-a-module"
    command = stand_in(root, tmp_path / "pw")
    program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    program.chmod(0o755)
    settings = {
        "structures": {"source": "demo", "limit": 1},
        "dft": {"command": str(program), "shards": {"scf": 1, "references": 1, "evaluation": 1}},
    }
    run = Run(root, tmp_path / "run", settings)
    run.snakemake(str(run.cache / "engine/engine.json"))
    program.rename(tmp_path / "gone")
    said = run.snakemake("scf", "structures", fails=True)
    assert len(re.findall("SLURM-job '[0-9]+' failed", said)) == 3
    assert f"ERROR: `{program} -in pw.in` does not start" in said
    assert (run.results / "structures/graphs.parquet").exists()
    (tmp_path / "gone").rename(program)
    run.snakemake("scf")


def test_a_real_scf_through_slurm(root: Path, cluster: None, tmp_path: Path) -> None:
    run = Run(root, tmp_path, {"structures": {"source": "demo", "limit": 1}})
    run.snakemake("scf")
    rows = tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    assert rows and all(row["outcome"] == "converged" for row in rows), rows


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory, root: Path) -> tuple[Path, dict[str, object]]:
    """The folder that steers the stand-in for pw.x, and the configuration that uses it."""
    folder = tmp_path_factory.mktemp("pw")
    command = stand_in(root, folder)
    shards = {"scf": 3, "references": 1, "evaluation": 2}
    return folder, {
        "structures": {"source": "demo", "limit": 6},
        "dft": {"command": command, "shards": shards},
        "training": {"steps": 400, "checkpoint_every": 20},  # long enough to be cancelled in the middle
    }


@pytest.fixture(scope="module")
def undisturbed(root: Path, setting: tuple[Path, dict[str, object]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The same run on this machine alone, without SLURM and without accidents."""
    run = Run(root, tmp_path_factory.mktemp("undisturbed"), setting[1])
    run.snakemake("all", profile="local")
    return run


@pytest.fixture(scope="module")
def disturbed(
    root: Path, cluster: None, setting: tuple[Path, dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """A run to which everything happens that happens to jobs, and which is then simply started again."""
    folder, config = setting
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
    # With some hash seeds, Snakemake also plans the light jobs that read what is forced; there, at the latest, nothing changes.
    light = {"plan_design_scf", "fill_designs"}
    redone = planned(disturbed.snakemake("--dry-run", "--forcerun=assess_designs", "all"))
    assert {"assess_designs"} <= redone <= {"assess_designs"} | light
    done = disturbed.snakemake("--forcerun=assess_designs", "all")
    assert len(re.findall(r"^Job \d+: ", done, re.MULTILINE)) <= 1 + len(light), "the tables come out the same"
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
    assert planned(output) == {"plan_crystal_scf"}, "whose table, once it is another, starts the shards"
    assert "Params have changed since last execution" in output


def test_a_chosen_scf_again(disturbed: Run) -> None:
    before = disturbed.records()
    name = tables.read_rows(disturbed.results / "scf/requests.parquet", tables.SCF_REQUESTS)[0]["request_id"]
    subprocess.run(
        [
            sys.executable, "-c", "from xtalrl.commands.cli import app; app()", "rerun", "--id", name, "--yes",
            "--configfile", "config/test.yaml", str(disturbed.config),
        ],
        cwd=disturbed.root, check=True,
    )  # fmt: skip
    output = disturbed.snakemake("--dry-run", "scf")
    assert len(re.findall("Running SCF shard", output)) == 1
    assert planned(output) == {"run_scf_shard", "gather_scf"}
    disturbed.snakemake("scf")
    assert len(disturbed.records()) == len(before) + 1
    assert set(disturbed.records()) == set(before)
