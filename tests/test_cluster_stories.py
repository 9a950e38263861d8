"""The accidents of docs/cluster.md that need no cluster: full disks, a crystal that hangs. After each, the same command goes on."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from slurm_run import Run, stand_in, wait_for

from xtalrl import config, tables
from xtalrl.commands import doctor
from xtalrl.commands.checks import State

pytestmark = pytest.mark.slow

CRYSTALS = 4


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Makes a file system of so many MB."""
    mounted = []

    def mount(size_mb: int) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(folder)], capture_output=True
        )
        if made.returncode:
            pytest.skip("a file system cannot be mounted here")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Write a file until nothing more fits."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def run_with_stand_in(root: Path, tmp_path: Path, data: Path | None = None, **dft: object) -> Run:
    """A run with a stand-in for pw.x, steered by tmp_path/pw; results and cache are in `data` if given."""
    settings: dict[str, object] = {
        "structures": {"source": "demo", "limit": CRYSTALS},
        "dft": {
            "command": stand_in(root, tmp_path / "pw"),
            "shards": {"scf": 1, "references": 1, "evaluation": 1},
            **dft,
        },
    }
    if data:
        settings |= {"results": str(data / "results"), "cache": str(data / "cache")}
    return Run(root, tmp_path / "run", settings)


def outcomes(run: Run) -> dict[str, str]:
    return {
        row["request_id"]: row["outcome"]
        for row in tables.read_rows(run.results / "scf/outcomes.parquet", tables.SCF_OUTCOMES)
    }


def test_a_full_home(root: Path, tmp_path: Path, disk: Callable[[int], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    home = disk(1)
    fill(home)
    run = run_with_stand_in(root, tmp_path)
    run.environment["XDG_CACHE_HOME"] = str(home)
    assert "No space left on device" in run.snakemake("structures", profile="local", fails=True)

    monkeypatch.chdir(root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(home))
    check = next(check for check in doctor.run_checks(config.load(run.config), "local") if check.name == "home")
    assert check.state is State.MISSING
    name, _, value = check.fix.removeprefix("export ").partition("=")
    run.environment[name] = value
    run.snakemake("structures", profile="local")


def test_a_quota_that_is_used_up_half_way(root: Path, tmp_path: Path, disk: Callable[[int], Path]) -> None:
    data = disk(300)
    run = run_with_stand_in(root, tmp_path, data)
    run.snakemake(str(run.results / "scf/requests.parquet"), profile="local")
    (tmp_path / "pw/seconds").write_text("2")
    process = run.start("scf", profile="local")
    wait_for(run.records, "a first finished SCF")
    filler = fill(data)
    finished = run.records()
    assert process.wait(timeout=120) != 0
    assert "ERROR: The disk is full" in run.log()
    filler = fill(data)  # What the run gave back at its end is filled as well.
    assert "cannot be written (No space left on device)" in run.snakemake("scf", profile="local", fails=True)

    filler.unlink()
    (tmp_path / "pw/seconds").write_text("0")
    run.snakemake("scf", profile="local")
    assert set(outcomes(run).values()) == {"converged"}
    records = run.records()
    assert finished and len(finished) < len(records) == len(set(records))


def test_a_scratch_disk_that_is_too_small(root: Path, tmp_path: Path, disk: Callable[[int], Path]) -> None:
    """With the real pw.x, which finds the disk full while it writes."""
    if not (root / "results/cache/engine/engine.json").is_file():
        pytest.skip("no embedded pw.x: run `make engine`")
    scratch = disk(1)
    run = Run(root, tmp_path / "run", {"structures": {"source": "demo", "limit": 1}})
    run.environment["TMPDIR"] = str(scratch)
    assert "ERROR: C-diamond: The disk of the scratch folder is full." in run.snakemake(
        "scf", profile="local", fails=True
    )

    run.environment["TMPDIR"] = str(tmp_path)
    run.snakemake("scf", profile="local")
    assert set(outcomes(run).values()) == {"converged"}


def test_a_crystal_that_hangs(root: Path, tmp_path: Path) -> None:
    limits = {"crystal": [0.1], "reference": [0.1], "design": [0.1]}
    run = run_with_stand_in(root, tmp_path, time_limits=limits)
    run.snakemake(str(run.results / "scf/requests.parquet"), profile="local")
    species = {
        row["request_id"]: row["species"]
        for row in tables.read_rows(run.results / "scf/requests.parquet", tables.SCF_REQUESTS)
    }
    hanging = next(iter(species))
    (tmp_path / "pw/hanging").write_text(species[hanging][0])
    those = {name for name, elements in species.items() if species[hanging][0] in elements}
    run.snakemake("scf", profile="local")
    assert outcomes(run) == {name: "time_limit" if name in those else "converged" for name in species}
    before = run.records()

    # More time for all: those that had converged are not run again.
    (tmp_path / "pw/hanging").write_text("nothing")
    content = yaml.safe_load(run.config.read_text())
    content["dft"]["time_limits"]["crystal"] = [1]
    run.config.write_text(yaml.safe_dump(content))
    run.snakemake("scf", profile="local")
    assert set(outcomes(run).values()) == {"converged"}
    assert sorted(set(run.records())) == sorted(set(before))
    assert len(run.records()) == len(before) + len(those)
