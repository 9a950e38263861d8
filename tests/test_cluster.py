"""`xtalrl doctor --profile slurm` away from a cluster: the profile's requests, and the answers to classical mistakes.

What a real SLURM says to them is in test_slurm.py.
"""

from __future__ import annotations

import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from xtalrl import config
from xtalrl.commands import doctor
from xtalrl.commands.checks import Check, State
from xtalrl.commands.cluster import check_cluster, load_profile
from xtalrl.commands.submissions import OTHER_JOBS, Submission
from xtalrl.dft.engines import find_engine
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.errors import XtalrlError

SETTINGS = "AccountingStorageType   = {accounting}\nMinJobAge               = {age} sec\n"
SQUEUE = {"executor": "slurm", "slurm-status-command": "squeue"}
SACCT = {"executor": "slurm", "slurm-status-command": "sacct"}


def stand_ins(
    folder: Path,
    accounting: str = "accounting_storage/none",
    age: int = 300,
    sacct: str = "exit 0",
    sbatch: str = "exit 0",
    sacctmgr: str = "exit 1",
) -> None:
    """scontrol, sinfo and sbatch as on a cluster with the partition `cpu` and a limit of one day."""
    for name, text in {
        "scontrol": f"cat <<END\n{SETTINGS.format(accounting=accounting, age=age)}END",
        "sinfo": 'case "$*" in *%l*) echo "cpu 1-00:00:00";; *) echo "cpu*";; esac',
        "sbatch": sbatch,
        "sacct": sacct,
        "sacctmgr": sacctmgr,
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)


def checks(
    monkeypatch: pytest.MonkeyPatch,
    folder: Path,
    profile: dict[str, object],
    settings: dict[str, object] | None = None,
    attempts: Sequence[str] = ("-t 60 --mem 2000 --cpus-per-task=1",),
    **cluster: object,
) -> dict[str, Check]:
    """The checks where Snakemake asks this of sbatch at each attempt of a job; what it really asks is in test_submissions.py."""
    stand_ins(folder, **cluster)  # type: ignore[arg-type]
    asked = [Submission(OTHER_JOBS, tuple(options.split())) for options in attempts]
    monkeypatch.setattr("xtalrl.commands.cluster.ask_snakemake", lambda profile, rules: {OTHER_JOBS: asked})
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return {check.name: check for check in check_cluster(config.validate(settings or {}), profile)}


def test_every_rule_of_the_profile_exists(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    rules = "".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    for name in ("slurm", "local"):
        profile = load_profile(name)
        for rule in {*profile.get("set-resources", {}), *profile["set-threads"]}:
            assert re.search(rf"^(rule|checkpoint) {rule}:", rules, re.MULTILINE), f"{name}: {rule}"


def test_no_rule_has_retries(root: Path) -> None:
    """They would run nested inside the allocation: `retries` is the profile's."""
    assert not any("retries:" in path.read_text() for path in (root / "rules").glob("*.smk"))


def test_every_entry_of_the_slurm_profile_has_a_comment(root: Path) -> None:
    lines = (root / "profiles/slurm/config.yaml").read_text().splitlines()
    plain = {"executor: slurm", "default-resources:", "set-resources:", "set-threads:"}
    for line in lines:
        rule = line.endswith(":") and line.startswith("  ")
        follows = any(word in line for word in ("mem_mb:", "runtime:", "build_graphs:", "train_policy:"))
        assert not line.strip() or "#" in line or line in plain or rule or follows, line


@pytest.mark.parametrize(
    ("profile", "cluster", "state", "fix"),
    [
        (SQUEUE, {}, State.OK, ""),
        (SQUEUE, {"age": 60}, State.MISSING, "ask the administrators for MinJobAge=300"),
        (
            SQUEUE,
            {"age": 60, "accounting": "accounting_storage/slurmdbd"},
            State.MISSING,
            "slurm-status-command: sacct",
        ),
        (SACCT, {}, State.MISSING, "slurm-status-command: squeue"),
        (SACCT, {"accounting": "accounting_storage/slurmdbd"}, State.OK, ""),
        (SACCT, {"accounting": "accounting_storage/slurmdbd", "age": 60}, State.OK, ""),
        (
            SACCT,
            {"accounting": "accounting_storage/slurmdbd", "sacct": "echo 'Connection refused' >&2; exit 1"},
            State.MISSING,
            "slurm-status-command: squeue  (in the profile)",
        ),
    ],
)
def test_how_snakemake_hears_of_the_end_of_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: dict[str, object], cluster: dict[str, object], state: State, fix: str
) -> None:  # fmt: skip
    check = checks(monkeypatch, tmp_path, profile, **cluster)["job states"]
    assert (check.state, check.fix) == (state, fix)


def test_a_wall_time_that_outgrows_the_partition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = checks(monkeypatch, tmp_path, SQUEUE, attempts=["-t 720", "-t 1440", "-t 2160"])["the other jobs"]
    assert (check.state, check.fix) == (State.MISSING, "runtime: at most 1440 in the profile")
    assert "2160 min at the last attempt, and the limit of partition cpu is 1440 min" in check.finding


def test_a_partition_that_is_a_word_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = checks(monkeypatch, tmp_path, {**SQUEUE, "default-resources": {"slurm_partition": "all"}})["profile"]
    assert (check.state, check.fix) == (State.MISSING, "slurm_partition: \"'all'\"")


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = check_cluster(config.validate({}), SQUEUE)
    assert "not a login node" in check.finding


def test_mistakes_in_a_profile_get_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(XtalrlError, match=r"no profile 'slrum', .*there are: local, slurm"):
        load_profile("slrum")
    (tmp_path / "config.yaml").write_text("jobs: [")
    with pytest.raises(XtalrlError, match="not a valid profile"):
        load_profile(str(tmp_path))


def test_a_partition_that_does_not_exist(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = checks(monkeypatch, tmp_path, SQUEUE, attempts=["-p gpu -t 60"])["the other jobs"]
    assert (check.state, check.fix) == (State.MISSING, "slurm_partition: cpu")
    assert check.finding == "there is no partition gpu; there are: cpu"


@pytest.mark.parametrize(
    ("refusal", "fix"),
    [  # as SLURM 22.05 with slurmdbd says it
        ("Invalid account or account/partition combination specified", "sacctmgr show associations user=$USER format=account,partition"),
        ("Invalid qos specification", "sacctmgr show associations user=$USER format=account,qos"),
        ("Invalid feature specification", "sinfo --format='%P %f'"),
        ("Requested reservation is invalid", "scontrol show reservation"),
        ("Invalid generic resource (gres) specification", "sinfo --format='%P %G'"),
        ("Requested node configuration is not available", "sinfo --format='%P %c %m %G %l'"),
    ],
)  # fmt: skip
def test_what_slurm_refuses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, refusal: str, fix: str) -> None:
    sbatch = f"echo 'allocation failure: {refusal}' >&2; exit 1"
    check = checks(monkeypatch, tmp_path, SQUEUE, sbatch=sbatch)["the other jobs"]
    assert check.state is State.MISSING
    assert check.finding == f"1 CPU, 2 GB: {refusal}"
    assert check.fix.partition("  ")[0] == fix


@pytest.mark.parametrize(
    ("jobs", "limit", "state", "fix"),
    [
        (200, "150", State.OPTIONAL, "jobs: 150"),
        ("unlimited", "150", State.OPTIONAL, "jobs: 150"),
        (150, "150", State.OK, ""),
        (200, "", State.OK, ""),
    ],
)
def test_jobs_are_compared_with_the_limits_of_slurm(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, jobs: object, limit: str, state: State, fix: str
) -> None:
    sacctmgr = f'case "$*" in *Partition*) echo "proj|me||{limit}|||normal";; esac'
    check = checks(monkeypatch, tmp_path, {**SQUEUE, "jobs": jobs}, sacctmgr=sacctmgr)["number of jobs"]
    assert (check.state, check.fix) == (state, fix)


def test_no_limits_are_known_without_an_accounting_database(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = checks(monkeypatch, tmp_path, {**SQUEUE, "jobs": 200}, sacctmgr="exit 1")["number of jobs"]
    assert (check.state, check.finding) == (State.OK, "`jobs: 200`; SLURM names no limit")


@pytest.mark.parametrize(
    ("command", "fix"),
    [
        ("srun pw.x", "dft.command: srun --overlap pw.x"),
        ("../slurm/bin/srun -n 1 pw.x", "dft.command: ../slurm/bin/srun --overlap -n 1 pw.x"),
        ("srun --overlap -n 1 pw.x", None),
        ("mpirun -n 1 pw.x", None),
    ],
)
def test_an_srun_that_would_wait_for_its_own_job(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: str, fix: str | None
) -> None:
    check = checks(monkeypatch, tmp_path, SQUEUE, {"dft": {"command": command}}).get("srun")
    assert (check and check.fix) == fix


def test_srun_is_not_tried_outside_a_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It would wait in the queue for a job of its own."""
    srun = tmp_path / "srun"
    srun.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    srun.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert find_engine("srun pw.x", tmp_path).version == ""
    assert not (tmp_path / "started").exists()
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    with pytest.raises(XtalrlError, match="does not start"):
        find_engine("srun pw.x", tmp_path)
    assert (tmp_path / "started").exists()


def run_config(folder: Path, **settings: object) -> config.Config:
    return config.validate({"results": str(folder / "results"), "cache": str(folder / "cache"), **settings})


def local_checks(root: Path, monkeypatch: pytest.MonkeyPatch, settings: config.Config) -> dict[str, Check]:
    monkeypatch.chdir(root)
    return {check.name: check for check in doctor.run_checks(settings, "local")}


def test_a_home_that_is_full(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert local_checks(root, monkeypatch, run_config(tmp_path))["home"].state is State.OK
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/full")
    check = local_checks(root, monkeypatch, run_config(tmp_path))["home"]
    assert (check.state, check.fix) == (State.MISSING, f"export XDG_CACHE_HOME={root}/.snakemake/cache")


def test_pseudopotentials_that_are_not_there(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    settings = run_config(tmp_path)
    path = tmp_path / "cache/families/sssp-1.3.0-efficiency/family.json"
    path.parent.mkdir(parents=True)
    path.write_text(describe_family("sssp-1.3.0-efficiency").model_dump_json())
    check = local_checks(root, monkeypatch, settings)["pseudopotentials"]
    assert check.state is State.MISSING
    assert "lacks 103 of its files, Ac.us.z_11" in check.finding
    assert check.fix == f"rm {path}; snakemake --profile profiles/local {path}"
    elsewhere = run_config(tmp_path / "other", dft={"pseudopotentials": "/nowhere"})
    assert "which does not exist" in local_checks(root, monkeypatch, elsewhere)["pseudopotentials"].finding


def test_no_pw_x_after_the_module_load(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = local_checks(root, monkeypatch, run_config(tmp_path, dft={"command": "pw-of-a-module.x"}))["pw.x"]
    assert check.state is State.MISSING
    assert "`pw-of-a-module.x -in pw.in` does not start pw.x" in check.finding


def test_a_pw_x_that_the_run_fetches_itself_is_not_missing(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    check = local_checks(root, monkeypatch, run_config(tmp_path))["pw.x"]
    assert (check.state, check.fix.partition("  ")[0]) == (
        State.OPTIONAL,
        f"snakemake --profile profiles/local {tmp_path}/cache/engine/engine.json",
    )
    # Once fetched, it must be there.
    fetched = tmp_path / "cache/engine/engine.json"
    fetched.parent.mkdir(parents=True)
    fetched.write_text("{}")
    assert local_checks(root, monkeypatch, run_config(tmp_path))["pw.x"].state is State.MISSING


@pytest.mark.slow
def test_fixing_commands_work_as_printed(
    root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(run_config(tmp_path, dft={"command": "embedded"}).model_dump_json())
    monkeypatch.chdir(root)
    stand_ins(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    doctor.print_checks(config.load(path), "slurm", [Path("config/config.yaml"), path])
    commands = [line for line in capsys.readouterr().out.splitlines() if line.startswith("snakemake ")]
    assert len(commands) == 4  # structures, pw.x, pseudopotentials, all downloads
    for command in commands:
        done = subprocess.run(
            [sys.executable, "-m", *shlex.split(command), "--dry-run"], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, command + done.stdout + done.stderr
        assert "Nothing to be done" not in done.stdout + done.stderr
