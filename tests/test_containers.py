"""The definitions of containers, as far as it goes without an engine: they say the same, name files that are there, and hold sound shell.

What they copy becomes an environment by their commands, here in a folder; that of apt, and all in a debootstrap, were run by hand
(docs/cluster.md), which takes too long for a test. No test pulls an image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

PYTHON_OF_DEBIAN = {"bookworm": "3.11"}
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ARG", "ENV", "WORKDIR", "CMD"}
SECTIONS = {"arguments", "files", "post", "environment", "runscript", "test"}


@pytest.fixture
def docker(root: Path) -> list[tuple[str, str]]:
    """Instruction and argument of each line."""
    text = (root / "containers/Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [tuple(line.split(" ", 1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


@pytest.fixture
def apptainer(root: Path) -> dict[str, list[str]]:
    """The lines of each section; those of the header under an empty name."""
    sections: dict[str, list[str]] = {"": []}
    name = ""
    for line in (root / "containers/xtalrl.def").read_text().splitlines():
        if line.startswith("%"):
            name = line.removeprefix("%")
            sections[name] = []
        elif line.strip() and not line.startswith("#"):
            sections[name].append(line.strip())
    return sections


def of(docker: list[tuple[str, str]], instruction: str) -> list[str]:
    return [argument for name, argument in docker if name == instruction]


def copied(docker: list[tuple[str, str]]) -> dict[str, str]:
    """Where each file or folder of the checkout goes."""
    found = {}
    for argument in of(docker, "COPY"):
        *sources, target = argument.split()
        found |= {source: target + source if target.endswith("/") else target for source in sources}
    return found


def test_only_what_is_known_stands_there(docker: list[tuple[str, str]], apptainer: dict[str, list[str]]) -> None:
    assert {name for name, _ in docker} == INSTRUCTIONS
    assert apptainer.keys() - {""} == SECTIONS
    assert docker[0][0] == "FROM"


def test_both_say_the_same(docker: list[tuple[str, str]], apptainer: dict[str, list[str]]) -> None:
    assert apptainer[""] == ["Bootstrap: docker", f"From: {docker[0][1]}"]
    assert apptainer["files"] == [f"{source} {target}" for source, target in copied(docker).items()]
    assert apptainer["arguments"] == of(docker, "ARG")
    commands = [command.replace("$TORCH_BUILD", "{{ TORCH_BUILD }}") for command in of(docker, "RUN")]
    assert apptainer["post"] == ["set -e", *commands]
    assert apptainer["environment"] == [f"export {variable}" for variable in of(docker, "ENV")]


def test_the_image_has_what_the_wheel_has(root: Path, docker: list[tuple[str, str]]) -> None:
    build = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    files = copied(docker)
    assert set(build["force-include"]) <= files.keys()
    assert all((root / source).exists() and files[source] == f"/opt/xtalrl/{source}" for source in files)
    allowed = [line.removeprefix("!") for line in (root / ".dockerignore").read_text().splitlines() if "!" in line]
    assert sorted(allowed) == sorted(files)


def test_what_make_venv_reads_is_copied(root: Path, docker: list[tuple[str, str]]) -> None:
    tool = (root / "tools/make_venv.py").read_text()
    named = set(re.findall(r'ROOT / "(\w+)"', tool)) | {"pyproject.toml", "README.md"}
    assert "requirements" in named
    assert named <= copied(docker).keys()
    assert '"TORCH_BUILD"' in tool


@pytest.mark.slow
def test_what_is_copied_becomes_an_environment(root: Path, docker: list[tuple[str, str]], tmp_path: Path) -> None:
    """The files that the image gets are all that its commands need; `/opt/xtalrl` is a folder here, and apt's packages are those of the machine."""
    for source, target in copied(docker).items():
        place = tmp_path / target.removeprefix("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        if (root / source).is_dir():
            shutil.copytree(root / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(root / source, place)
    commands = [command for command in of(docker, "RUN") if not command.startswith("apt-get")]
    assert len(commands) == 2
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    environment |= dict(argument.split("=") for argument in of(docker, "ARG"))
    for command in commands:
        here = re.sub(r"(?<![\w/])/opt/xtalrl", f"{tmp_path}/opt/xtalrl", command)
        ran = subprocess.run(
            ["/bin/sh", "-c", here], env=environment, cwd="/", capture_output=True, text=True, timeout=1200
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.startswith("xtalrl ")
    shutil.rmtree(tmp_path / "opt")  # 2 GB


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_the_commands_are_sound_shell(docker: list[tuple[str, str]], shell: str) -> None:
    for command in of(docker, "RUN"):
        checked = subprocess.run([shell, "-n", "-c", command], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr


def test_hadolint_finds_nothing(root: Path) -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed (`make oracles`)")
    checked = subprocess.run([hadolint, str(root / "containers/Dockerfile")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_the_python_of_the_base_is_one_of_ours(root: Path, docker: list[tuple[str, str]]) -> None:
    release = re.fullmatch(r"debian:(\w+)-slim", docker[0][1])
    assert release
    wanted = tomllib.loads((root / "pyproject.toml").read_text())["project"]["requires-python"]
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", wanted).groups()  # type: ignore[union-attr]
    assert int(low) <= int(PYTHON_OF_DEBIAN[release[1]].split(".")[1]) < int(high)
