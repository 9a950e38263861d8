"""Runs of the workflow for tests of SLURM and of accidents, with a stand-in for pw.x (tests/slurm/pw.py), and the test cluster."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from xtalrl.dft.cache import Record, read_records

STATE = Path(os.environ.get("XTALRL_SLURM_STATE", "/tmp/xtalrl-slurm"))
"""Where tests/slurm/cluster.sh keeps pid files and logs."""


@contextmanager
def running_cluster(root: Path, *variant: str) -> Iterator[None]:
    """A SLURM of this machine; skips the tests where it cannot be had."""
    if os.geteuid() != 0:
        pytest.skip("starting SLURM's daemons needs root")
    if missing := [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name)]:
        pytest.skip(f"SLURM is not installed ({', '.join(missing)}): apt-get install slurm-wlm munge")
    script = str(root / "tests/slurm/cluster.sh")
    started = subprocess.run([script, "start", *variant], capture_output=True, text=True, timeout=120)
    if started.returncode == 77:
        pytest.skip(started.stderr.strip())
    assert started.returncode == 0, started.stderr
    try:
        yield
    finally:
        subprocess.run([script, "stop"], check=True, timeout=120)


def stand_in(root: Path, folder: Path) -> str:
    """The command of the stand-in for pw.x that this folder steers."""
    folder.mkdir(exist_ok=True)
    (folder / "seconds").write_text("0")
    (folder / "hungry").write_text("nothing")
    return f"{sys.executable} {root / 'tests/slurm/pw.py'} {folder}"


class Run:
    """A run of config/test.yaml with these changes in a folder of its own, with what the network gave taken from the checkout."""

    def __init__(self, root: Path, folder: Path, config: Mapping[str, object]) -> None:
        self.root, self.folder = root, folder
        folders = {"results": str(folder / "results"), "cache": str(folder / "cache")} | dict(config)
        self.results, self.cache = Path(str(folders["results"])), Path(str(folders["cache"]))
        self.environment = dict(os.environ)
        for name in ("engine", "families/pseudo-dojo-0.4-pbe-sr-standard"):
            if (root / "results/cache" / name).is_dir():
                shutil.copytree(root / "results/cache" / name, self.cache / name)
        self.config = folder / "config.yaml"
        folder.mkdir(exist_ok=True)
        self.config.write_text(yaml.safe_dump(folders))

    def command(self, *arguments: str, profile: str = "slurm", quick: bool = True) -> list[str]:
        """Snakemake on a core a job; `quick` asks SLURM more often than the profile does."""
        options = ["--cores", "2"]
        if profile == "slurm":
            options = ["--set-threads", "run_scf_shard=1", "build_graphs=1", "train_policy=1"]
            if quick:
                options += ["--slurm-init-seconds-before-status-checks", "2", "--max-status-checks-per-second", "2"]
        return [
            sys.executable, "-m", "snakemake", "--nolock", "--profile", f"profiles/{profile}", *options,
            "--configfile", "config/test.yaml", str(self.config), "--", *arguments,
        ]  # fmt: skip

    def snakemake(self, *arguments: str, profile: str = "slurm", fails: bool = False) -> str:
        """What Snakemake says until its end, which must be a success, or a failure."""
        options = [argument for argument in arguments if argument.startswith("--")]
        targets = [argument for argument in arguments if not argument.startswith("--")]
        command = self.command(*targets, profile=profile)
        command[3:3] = options
        result = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=900
        )
        assert (result.returncode != 0) == fails, result.stdout + result.stderr
        return result.stdout + result.stderr

    def start(
        self, *targets: str, profile: str = "slurm", quick: bool = True, options: Sequence[str] = ()
    ) -> subprocess.Popen[bytes]:
        """A Snakemake in the background; `log` is what it says."""
        command = self.command(*targets, profile=profile, quick=quick)
        command[3:3] = options
        with open(self.folder / "snakemake.log", "wb") as log:
            return subprocess.Popen(
                command,
                cwd=self.root, env=self.environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

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
        """The key of every finished SCF in the cache, as often as it was run; torn lines are none."""
        found = [record for path in (self.cache / "scf").glob("*.jsonl") for _, record in read_records(path)]
        return [record.key for record in found if isinstance(record, Record)]


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
