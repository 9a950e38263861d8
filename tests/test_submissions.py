"""What `xtalrl doctor` shows to SLURM is what Snakemake asks for: the lines come from Snakemake and its plugin."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from xtalrl.commands.cluster import load_profile
from xtalrl.commands.submissions import OTHER_JOBS, Submission, ask_snakemake
from xtalrl.errors import XtalrlError


@pytest.fixture(autouse=True)
def slurm(root: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The commands that the plugin calls before sbatch."""
    for name in ("sinfo", "scontrol", "squeue", "sacct", "sacctmgr", "sshare"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(root)


def test_what_the_profile_asks_for_grows_with_the_attempts() -> None:
    asked = ask_snakemake(load_profile("slurm"), ["run_scf_shard", "train_policy", OTHER_JOBS])
    found = {
        rule: [[line.value(name) for name in ("--cpus-per-task", "--mem", "-t", "--gres")] for line in lines]
        for rule, lines in asked.items()
        if not isinstance(lines, str)
    }
    assert found == {
        "run_scf_shard": [["16", "32000", "720", ""], ["16", "64000", "1440", ""], ["16", "96000", "1440", ""]],
        "train_policy": [
            ["4", "16000", "720", "gpu:1"],
            ["4", "32000", "1440", "gpu:1"],
            ["4", "48000", "1440", "gpu:1"],
        ],
        OTHER_JOBS: [["1", "2000", "60", ""], ["1", "4000", "120", ""], ["1", "6000", "180", ""]],
    }


def test_every_entry_of_the_plugin_is_seen() -> None:
    entries: dict[str, dict[str, object]] = {
        "qos": {"qos": "short"},
        "words": {"mem": "32GB", "runtime": "60h"},
        "constraint": {"constraint": "zen9"},
        "gpu": {"gpu": 99, "gpu_model": "a100"},
        "extra": {"slurm_extra": "'--exclusive --nice=5'"},
        "cpus": {"cpus_per_task": 8, "mem_mb_per_cpu": 4000},
        "clusters": {"clusters": "one,two", "nodes": 2, "tasks": 4},
        "partition": {"slurm_partition": "long", "slurm_account": "proj"},
        "gres": {"gres": "gpu:a:b:c"},
    }
    profile = {
        "executor": "slurm",
        "jobs": 100,
        "default-resources": {"mem_mb": 1000, "runtime": 5},
        "set-resources": entries,
        "slurm-reservation": "course",
        "slurm-status-command": "squeue",
    }
    asked = ask_snakemake(profile, [*entries, "run_scf_shard"])
    lines = {rule: " ".join(line[0].options) if not isinstance(line, str) else line for rule, line in asked.items()}
    for rule, options in {
        "qos": "--qos=short",
        "words": "-t 3600 --mem 32000",
        "constraint": "-C zen9",
        "gpu": "--gpus=a100:99",
        "extra": "--exclusive --nice=5",
        "cpus": "--mem-per-cpu 4000 --reservation=course --ntasks=1 --cpus-per-task=8",
        "clusters": "--clusters one,two -t 5 --mem 1000 --nodes=2 --reservation=course --ntasks=4",
        "partition": "-A proj -p long",
        "gres": "Invalid GRES format: gpu:a:b:c.",  # the plugin refuses it itself
        "run_scf_shard": "--cpus-per-task=4",  # the rule's own threads
    }.items():
        assert options in lines[rule].replace("  ", " "), lines[rule]


def test_a_profile_that_snakemake_refuses_gets_a_sentence() -> None:
    with pytest.raises(XtalrlError, match=r"train_policy: .*'mem_mb'.*'lots'"):
        ask_snakemake(
            {"executor": "slurm", "jobs": 1, "set-resources": {"train_policy": {"mem_mb": "lots"}}}, ["train_policy"]
        )
    with pytest.raises(XtalrlError, match=r"Snakemake does not accept the profile: .*nosuch"):
        ask_snakemake({"executor": "nosuch", "jobs": 1}, [OTHER_JOBS])


def test_values_of_options() -> None:
    line = Submission("any", ("-p", "main", "--qos=a", "--qos=b", "-t", "60", "--requeue"))
    assert [line.value("-p", "--partition"), line.value("--qos"), line.value("-t")] == ["main", "b", "60"]
    assert line.value("--mem") == ""
