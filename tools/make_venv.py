"""Make `.venv` with everything the lock pins. Standard library only; run by `make` with any Python 3.11 or 3.12.

Works as root or not, with or without Debian's python3-venv: where `ensurepip` is missing, apt fetches the distribution's
pip into a temporary folder.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
import venv
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "lock.txt"
TORCH_CPU = ROOT / "requirements" / "torch-cpu.txt"
TORCH_CUDA = ROOT / "requirements" / "torch-cuda.txt"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"


def main() -> None:
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        fail(
            f"Python 3.11 or 3.12 is needed, and {sys.executable} is {sys.version.split()[0]}: "
            "run `make PYTHON=python3.11` (or python3.12)."
        )
    say(f"Making {VENV.name}/ with Python {sys.version.split()[0]}; downloads of about 500 MB on the first run.")
    shutil.rmtree(VENV, ignore_errors=True)
    python = make_environment()
    pip = [python, "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    pinned = [*pip, "--require-hashes", "--requirement"]
    say("Installing the locked packages.")
    run([*pinned, str(LOCK)])
    say("Installing PyTorch.")
    if not install_cpu_build([*pinned, str(TORCH_CPU)]):
        run([*pinned, str(TORCH_CUDA)])
    run([*pip, "--no-deps", "--no-build-isolation", "--quiet", "--editable", str(ROOT)])
    (VENV / ".complete").touch()
    say("The environment is ready.")


def make_environment() -> str:
    """Create the environment with pip in it and return its interpreter."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:  # Debian without python3-venv
        venv.create(VENV, symlinks=True)
        python = str(VENV / "bin" / "python")
        with tempfile.TemporaryDirectory() as folder:
            wheel = unpack_pip_wheel(Path(folder))
            run([python, str(wheel / "pip"), "install", "--quiet", "--no-index", str(wheel)])
    else:
        venv.create(VENV, with_pip=True, symlinks=True)
        python = str(VENV / "bin" / "python")
    return python


def unpack_pip_wheel(folder: Path) -> Path:
    """The distribution's own pip, from the package that python3-venv would install; needs no root and installs nothing."""
    for name in ("lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True)
    apt = ["apt-get", "-qq", "-o", f"Dir::State::Lists={folder}/lists", "-o", f"Dir::Cache={folder}/cache"]
    apt += ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root"]  # its other user cannot write our folder
    try:
        for command in ([*apt, "update"], [*apt, "download", "python3-pip-whl"]):
            subprocess.run(command, cwd=folder, check=True)
        subprocess.run(["dpkg", "-x", str(next(folder.glob("python3-pip-whl*.deb"))), "."], cwd=folder, check=True)
        return next(folder.glob("usr/share/python-wheels/pip-*.whl"))
    except (OSError, subprocess.CalledProcessError, StopIteration) as error:
        fail(
            f"This Python has no pip and no ensurepip, and Debian's could not be fetched ({error}): install them "
            "(Debian and Ubuntu: `apt-get install python3-venv`), then run make again."
        )


def install_cpu_build(command: list[str]) -> bool:
    """Without an NVIDIA GPU, install PyTorch's CPU build (200 MB instead of some 3 GB), where it can be had; whether it was.

    Only its own index has it, which not every network reaches, or a folder that PIP_FIND_LINKS names. Where the machine that installs is
    not the one that computes, the variable TORCH_BUILD says which build is wanted, `cpu` or `cuda`.
    """
    has_gpu = Path("/proc/driver/nvidia").exists()
    if os.environ.get("TORCH_BUILD", "cuda" if has_gpu else "cpu") != "cpu":
        return False
    try:
        urllib.request.urlopen(f"{TORCH_CPU_INDEX}/torch/", timeout=10).close()
        command = [*command, "--extra-index-url", TORCH_CPU_INDEX]
    except OSError:
        say("PyTorch's index of CPU builds cannot be reached.")
    if subprocess.run(command).returncode:
        say("The CPU build cannot be had here: taking the one on PyPI, with CUDA.")
        return False
    return True


def run(command: list[str]) -> None:
    if code := subprocess.run(command).returncode:
        fail(f"`{' '.join(command)}` ended with exit code {code}; the lines above say why. Fix it and run make again.")


def say(message: str) -> None:
    print(f"[make] {message}", flush=True)


def fail(message: str) -> NoReturn:
    sys.exit(f"[make] ERROR: {message}")


if __name__ == "__main__":
    main()
