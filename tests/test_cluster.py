"""`xtalrl doctor --profile slurm` away from a cluster: the profile's requests, and the answers to classical mistakes.

What a real SLURM says to them is in test_slurm.py.
"""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from xtalrl import config
from xtalrl.cluster import Request, _minutes, check_cluster, load_profile, request_of
from xtalrl.doctor import Check, State
from xtalrl.errors import XtalrlError

SETTINGS = "AccountingStorageType   = {accounting}\nMinJobAge               = {age} sec\n"
SQUEUE = {"executor": "slurm", "slurm-status-command": "squeue"}
SACCT = {"executor": "slurm", "slurm-status-command": "sacct"}


def stand_ins(folder: Path, accounting: str = "accounting_storage/none", age: int = 300) -> None:
    """scontrol, sinfo and sbatch as on a cluster with the partition `cpu` and a limit of one day."""
    for name, text in {
        "scontrol": f"cat <<END\n{SETTINGS.format(accounting=accounting, age=age)}END",
        "sinfo": 'case "$*" in *%l*) echo "cpu 1-00:00:00";; *) echo "cpu*";; esac',
        "sbatch": "exit 0",
    }.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(stat.S_IRWXU)


def checks(
    monkeypatch: pytest.MonkeyPatch, folder: Path, profile: dict[str, object], **cluster: object
) -> dict[str, Check]:
    stand_ins(folder, **cluster)  # type: ignore[arg-type]
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return {check.name: check for check in check_cluster(config.validate({}), profile)}


def test_what_the_profile_asks_for_grows_with_the_attempts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    profile = load_profile("slurm")
    assert request_of(profile, "run_scf_shard", 1) == Request("run_scf_shard", None, None, None, 16, 32000, 720)
    assert request_of(profile, "run_scf_shard", 2) == Request("run_scf_shard", None, None, None, 16, 64000, 1440)
    assert request_of(profile, "train_policy", 1).gres == "gpu:1"
    assert request_of(profile, "read_crystals", 3) == Request("read_crystals", None, None, None, 1, 6000, 180)


def test_every_rule_of_the_profile_exists(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    rules = "".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    for name in ("slurm", "local"):
        profile = load_profile(name)
        for rule in {*profile.get("set-resources", {}), *profile["set-threads"]}:
            assert f"rule {rule}:" in rules, f"{name}: {rule}"


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
    ("limit", "minutes"),
    [("infinite", None), ("1-00:00:00", 1440), ("12:00:00", 720), ("30:00", 30), ("2-12:30:00", 3630), ("n/a", None)],
)
def test_time_limits_of_slurm(limit: str, minutes: int | None) -> None:
    assert _minutes(limit) == minutes


@pytest.mark.parametrize(
    ("profile", "cluster", "state", "mend"),
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
    ],
)
def test_how_snakemake_hears_of_the_end_of_jobs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, profile: dict[str, object], cluster: dict[str, object], state: State, mend: str
) -> None:  # fmt: skip
    check = checks(monkeypatch, tmp_path, profile, **cluster)["job states"]
    assert (check.state, check.mend) == (state, mend)


def test_a_wall_time_that_outgrows_the_partition(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profile = {**SQUEUE, "retries": 2, "default-resources": {"runtime": "720 * attempt", "mem_mb": 1000}}
    check = checks(monkeypatch, tmp_path, profile)["the other jobs"]
    assert check.state is State.MISSING
    assert "2160 min at the last attempt, and cpu allows 1440" in check.finding


def test_a_partition_that_is_a_word_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    check = checks(monkeypatch, tmp_path, {**SQUEUE, "default-resources": {"slurm_partition": "all"}})["profile"]
    assert (check.state, check.mend) == (State.MISSING, "slurm_partition: \"'all'\"")


def test_no_slurm_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (check,) = check_cluster(config.validate({}), SQUEUE)
    assert "no login node" in check.finding


def test_mistakes_in_a_profile_get_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    with pytest.raises(XtalrlError, match="no profile 'slrum'; there are: local, slurm"):
        load_profile("slrum")
    (tmp_path / "config.yaml").write_text("jobs: [")
    with pytest.raises(XtalrlError, match="not a valid profile"):
        load_profile(str(tmp_path))
    with pytest.raises(XtalrlError, match=r"`mem_mb` of train_policy .* 'lots'"):
        request_of({"default-resources": {"mem_mb": "lots"}}, "train_policy", 1)
