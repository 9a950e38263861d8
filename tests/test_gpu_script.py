"""benchmarks/gpu.sh on a machine without a GPU: all of its code but what CUDA alone can do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

# What torch, numpy, pyarrow and safetensors do without.
OTHERS = "ase matplotlib pandas pydantic pymatgen pytest requests scipy smact snakemake spglib typer yaml"
_PYTHON = f"""#!/bin/sh
exec {sys.executable} -c '
import importlib.machinery, importlib.metadata, os, runpy, sys
finder = importlib.machinery.PathFinder
find = finder.find_spec
absent = lambda name, *more: None if name.partition(".")[0] in "{OTHERS}".split() else find(name, *more)
finder.find_spec = staticmethod(absent)
version = importlib.metadata.version
def without_xtalrl(name):
    if name == "xtalrl":
        raise importlib.metadata.PackageNotFoundError(name)
    return version(name)
importlib.metadata.version = without_xtalrl
sys.argv.pop(0)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name="__main__")
' "$@"
"""


def run(root: Path, python: str | Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(root / "benchmarks/gpu.sh"), *arguments],
        env={**os.environ, "PYTHON": str(python)}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.mark.slow
def test_dry(root: Path, tmp_path: Path) -> None:
    """With four packages, xtalrl not installed."""
    python = tmp_path / "python"
    python.write_text(_PYTHON)
    python.chmod(0o755)
    done = run(root, python, "--dry")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.rstrip().endswith("all checks passed")
    assert len(re.findall("^## ", done.stdout, re.MULTILINE)) == 8
    assert len(re.findall("^ok ", done.stdout, re.MULTILINE)) == 13
    assert "FAILED" not in done.stdout
    assert "designs for 4 eV" in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_no_gpu(root: Path) -> None:
    done = run(root, sys.executable)
    assert done.returncode == 1
    assert re.fullmatch(r"torch \S+ sees no GPU here: run this on a node with one, or with --dry.\n", done.stderr)
