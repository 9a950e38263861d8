"""The wheel alone, in an environment that does not see the checkout and in an empty folder: it holds all that the commands need."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

SHIPPED = ("Snakefile", "rules", "workflow", "envs", "config", "profiles", "resources")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def python(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an environment with the wheel, and the dependencies where they are: its .pth adds their folder, and not what .pth files there add."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    (site,) = folder.glob("lib/python*/site-packages")
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-index", "--no-deps", str(wheel)],
        check=True,
    )  # fmt: skip
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    return python


def run(python: Path, folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["PATH"] = f"{python.parent}:{environment['PATH']}"
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_the_wheel_holds_what_git_knows_of_the_project(root: Path, wheel: Path) -> None:
    listed = subprocess.run(["git", "ls-files", *SHIPPED], cwd=root, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("this is not a git checkout")
    with zipfile.ZipFile(wheel) as archive:
        held = {
            name.removeprefix("xtalrl/project/"): archive.read(name)
            for name in archive.namelist()
            if name.startswith("xtalrl/project/")
        }
    missing = [name for name in listed.stdout.splitlines() if held.get(name) != (root / name).read_bytes()]
    assert "Snakefile" in held and not missing
    assert not [name for name in held if "__pycache__" in name]


@pytest.mark.slow
def test_every_command_works_without_a_checkout(root: Path, python: Path, tmp_path: Path) -> None:
    where = run(
        python, tmp_path, str(python), "-c", "import xtalrl.resources as r; print(r.__file__, r.PROJECT, sep='\\n')"
    )
    assert all(path.startswith(str(python.parents[1])) for path in where.split())
    assert run(python, tmp_path, "xtalrl", "--version") == "xtalrl 0.1.0\n"

    plan = run(python, tmp_path, "xtalrl", "demo", "--dry-run", "--cores", "1")
    assert "Writing results/demo/report.html" in plan
    assert str(root) not in plan.replace(str(python), "")
    assert {path.name for path in tmp_path.iterdir()} <= {"results", ".snakemake"}
    assert "Writing results/tour/report.html" in run(python, tmp_path, "xtalrl", "tour", "--dry-run", "--cores", "1")

    silicon = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.43), ["Si"], [[0, 0, 0]]).get_primitive_structure()
    silicon.to(str(tmp_path / "skeleton.cif"), fmt="cif")
    run(
        python,
        tmp_path,
        "xtalrl",
        "design",
        "skeleton.cif",
        "--gap",
        "1.34",
        "--best",
        "2",
        "--output",
        "designs.extxyz",
    )
    plan = run(
        python,
        tmp_path,
        "xtalrl",
        "evaluate",
        "designs.extxyz",
        "--alone",
        "--configfile",
        "config/demo.yaml",
        "--dry-run",
    )
    assert "Writing results/demo-designs/report.html" in plan


@pytest.mark.slow
def test_a_folder_of_init_is_like_a_checkout(python: Path, tmp_path: Path) -> None:
    """Scripts run from the wheel, too: the crystals of the demo are read, and found again."""
    run(python, tmp_path, "xtalrl", "init")
    assert {path.name for path in tmp_path.iterdir()} == {"Snakefile", "config", "profiles"}
    (tmp_path / "demo.yaml").write_text("results: results/mine\nstructures: {source: demo}\n")
    snakemake = [str(python), "-m", "snakemake", "--profile", "profiles/local", "--cores", "1"]
    run(python, tmp_path, *snakemake, "results/mine/structures/crystals.parquet", "--configfile", "demo.yaml")
    status = run(python, tmp_path, "xtalrl", "status")
    assert "results/mine is the only run here." in status
    assert "83" in status or "crystals" in status
    assert "Writing results/mp20/report.html" in run(python, tmp_path, *snakemake, "--dry-run")
