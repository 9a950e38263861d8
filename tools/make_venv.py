"""Make `.venv` with everything the lock pins. Standard library only; run by `make` with any Python 3.11 or 3.12.

Works as root or not, with or without Debian's python3-venv: where `ensurepip` is missing, pip's own wheel is fetched
from the package index that pip is configured for, and checked against the checksum below.
"""

from __future__ import annotations

import configparser
import hashlib
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
LOCK = ROOT / "requirements" / "lock.txt"
TORCH = "torch==2.13.0"  # as in pyproject.toml; not in the lock, because the CPU and the CUDA build have other hashes
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
PIP_WHEEL = "pip-25.3-py3-none-any.whl"
PIP_SHA256 = "9655943313a94722b7774661c21049070f6bbb0a1516bf02f7c8d5d9201514cd"


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
    say("Installing the locked packages.")
    run([*pip, "--require-hashes", "--requirement", str(LOCK)])
    say("Installing PyTorch.")
    run([*pip, "--constraint", str(constraints()), *torch_index(), TORCH])
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
        wheel = fetch_pip_wheel()
        run([python, str(wheel / "pip"), "install", "--quiet", "--no-index", str(wheel)])
    else:
        venv.create(VENV, with_pip=True, symlinks=True)
        python = str(VENV / "bin" / "python")
    return python


def fetch_pip_wheel() -> Path:
    """pip's wheel from the configured package index, checked."""
    index = configured_index().rstrip("/")
    try:
        with urllib.request.urlopen(f"{index}/pip/", timeout=60) as page:
            links = re.findall(r'href="([^"]+)"', page.read().decode())
        link = next(link for link in links if link.split("#")[0].endswith(PIP_WHEEL))
        with urllib.request.urlopen(urllib.parse.urljoin(f"{index}/pip/", link), timeout=120) as answer:
            content = answer.read()
    except (urllib.error.URLError, StopIteration, OSError) as error:
        fail(
            f"pip is not installed and could not be fetched ({error}): `apt-get install python3-venv`, then run make again."
        )
    if (found := hashlib.sha256(content).hexdigest()) != PIP_SHA256:
        fail(
            f"{PIP_WHEEL} has the SHA-256 {found}, not {PIP_SHA256}: `apt-get install python3-venv`, then run make again."
        )
    path = VENV / PIP_WHEEL
    path.write_bytes(content)
    return path


def configured_index() -> str:
    """The index URL of pip's environment variable or configuration files, else pip's default."""
    if url := os.environ.get("PIP_INDEX_URL"):
        return url
    home = Path.home()
    for path in (
        os.environ.get("PIP_CONFIG_FILE"),
        home / ".config/pip/pip.conf",
        home / ".pip/pip.conf",
        "/etc/pip.conf",
    ):
        parser = configparser.RawConfigParser()
        if path and parser.read(path) and parser.has_option("global", "index-url"):
            return parser.get("global", "index-url")
    return "https://pypi.org/simple"


def torch_index() -> list[str]:
    """Without an NVIDIA GPU, PyTorch's CPU builds (200 MB instead of some 3 GB), where their index can be reached."""
    if Path("/proc/driver/nvidia").exists():
        return []
    try:
        urllib.request.urlopen(f"{TORCH_CPU_INDEX}/torch/", timeout=10).close()
    except OSError:
        return []
    return ["--extra-index-url", TORCH_CPU_INDEX]


def constraints() -> Path:
    """The lock's versions without the hashes, so that PyTorch's own needs stay at what is locked."""
    pins = [line.split(" ")[0] for line in LOCK.read_text().splitlines() if re.match(r"[a-z0-9].*==", line)]
    path = VENV / "constraints.txt"
    path.write_text("\n".join(pins) + "\n")
    return path


def run(command: list[str]) -> None:
    if code := subprocess.run(command).returncode:
        fail(f"`{' '.join(command)}` ended with exit code {code}; the lines above say why. Mend it and run make again.")


def say(message: str) -> None:
    print(f"[make] {message}", flush=True)


def fail(message: str) -> None:
    sys.exit(f"[make] ERROR: {message}")


if __name__ == "__main__":
    main()
