"""The versions in envs/ and pyproject.toml are those of the lock."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import yaml

CONDA_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch"}


def locked(root: Path) -> dict[str, str]:
    lock = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (root / "requirements/lock.txt").read_text(), re.MULTILINE))
    extras = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    torch = next(requirement for requirement in extras["train"] if requirement.startswith("torch=="))
    return lock | {"torch": torch.removeprefix("torch==")}


@pytest.mark.parametrize("name", ["workflow", "train"])
def test_conda_pins_are_the_locks(root: Path, name: str) -> None:
    environment = yaml.safe_load((root / f"envs/{name}.yaml").read_text())
    lock = locked(root)
    pins = [pin for pin in environment["dependencies"] if isinstance(pin, str)]
    pip_pins = [pin for entry in environment["dependencies"] if isinstance(entry, dict) for pin in entry["pip"]]
    for package, version in (re.split("=+", pin) for pin in pins + pip_pins if "=" in pin):
        if package != "python":
            assert lock[CONDA_NAMES.get(package, package)] == version, package


def test_every_direct_dependency_is_locked(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())
    requirements = [
        *project["project"]["dependencies"],
        *(r for extra, rs in project["project"]["optional-dependencies"].items() if extra != "dgl" for r in rs),
        *project["dependency-groups"]["dev"],
    ]
    lock = locked(root)
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert name
        assert name.group().lower().replace("_", "-") in lock


def test_the_torch_versions_agree(root: Path) -> None:
    assert f'TORCH = "torch=={locked(root)["torch"]}"' in (root / "tools/make_venv.py").read_text()


def test_the_lock_is_hashed_and_names_no_host(root: Path) -> None:
    text = (root / "requirements/lock.txt").read_text()
    assert "://" not in text
    for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]
