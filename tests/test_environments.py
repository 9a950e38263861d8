"""The versions in envs/ and pyproject.toml are those of the lock; `--sdm conda` with a stand-in for conda."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

CONDA_NAMES = {"matplotlib-base": "matplotlib", "pytorch": "torch"}


def pins(root: Path, name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", (root / f"requirements/{name}.txt").read_text(), re.MULTILINE))


def locked(root: Path) -> dict[str, str]:
    lock = pins(root, "lock")
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
        *(
            r
            for extra, rs in project["project"]["optional-dependencies"].items()
            if extra not in ("dgl", "minari", "relax")
            for r in rs
        ),
        *project["dependency-groups"]["dev"],
    ]
    lock = locked(root)
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9_.-]+", requirement)
        assert name
        assert name.group().lower().replace("_", "-") in lock


def test_the_torch_versions_agree(root: Path) -> None:
    version = locked(root)["torch"]
    assert f"\ntorch=={version}+cpu \\\n" in (root / "requirements/torch-cpu.txt").read_text()
    assert pins(root, "torch-cuda")["torch"] == version


def test_torch_leaves_the_lock_as_it_is(root: Path) -> None:
    cuda, lock = pins(root, "torch-cuda"), pins(root, "lock")
    assert "triton" in cuda and "triton" not in lock
    shared = cuda.keys() & lock.keys()
    assert "sympy" in shared
    assert {name: cuda[name] for name in shared} == {name: lock[name] for name in shared}


@pytest.mark.parametrize("name", ["lock", "torch-cpu", "torch-cuda"])
def test_what_is_installed_is_hashed_and_names_no_host(root: Path, name: str) -> None:
    text = "\n".join(
        line for line in (root / f"requirements/{name}.txt").read_text().splitlines() if not line.startswith("#")
    )
    assert "://" not in text
    for block in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in block, block.splitlines()[0]


@pytest.mark.parametrize("name", ["workflow", "train"])
def test_an_environment_needs_nothing_beside_its_file(root: Path, name: str) -> None:
    """Snakemake makes it from a copy in another folder, where conda runs pip: a relative path would lead nowhere."""
    for entry in yaml.safe_load((root / f"envs/{name}.yaml").read_text())["dependencies"]:
        for requirement in entry["pip"] if isinstance(entry, dict) else [entry]:
            assert re.fullmatch(r"[a-z0-9-]+(==?[0-9.]+)?", requirement), requirement


def test_the_environment_of_training_needs_little(root: Path) -> None:
    """GPU nodes need no pymatgen: what training and rollout import is in train.yaml."""
    names = [
        re.split("=+", entry)[0] for entry in yaml.safe_load((root / "envs/train.yaml").read_text())["dependencies"]
    ]
    allowed = {CONDA_NAMES.get(name, name) for name in names}
    code = """
import sys
import xtalrl.rl.training, xtalrl.rl.rollout, xtalrl.workflow
folders = {name.partition(".")[0]: getattr(module, "__file__", None) or "" for name, module in sys.modules.items()}
print(*(name for name, file in folders.items() if "site-packages" in file))
"""
    imported = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert "torch" in imported
    assert not imported & {"pymatgen", "pydantic", "snakemake", "ase", "spglib", "smact", "pandas"}
    assert {"torch", "numpy", "pyarrow", "safetensors"} <= allowed


def modules_by_environment(root: Path) -> dict[str, set[str]]:
    """The modules whose functions the rules call in each of envs/."""
    found: dict[str, set[str]] = {}
    for path in (root / "rules").glob("*.smk"):
        for rule in re.split(r"\n(?=\s*(?:rule|checkpoint) \w+:)", path.read_text()):
            if call := re.search(r'call=unrecorded\("([\w.]+)\.\w+"\)', rule):
                environment = re.search(r"envs/(\w+)\.yaml", rule)
                assert environment, f"{path}: the rule of {call[1]} has no environment"
                found.setdefault(environment[1], {"xtalrl.workflow"}).add(call[1])
    return found


def imports_of(path: Path) -> set[str]:
    """All modules that a file imports, within functions too, but for those that only a type checker reads."""
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(path.read_text())]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
        elif not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            todo += ast.iter_child_nodes(node)
    return found


@pytest.mark.parametrize("name", ["workflow", "train"])
def test_an_environment_has_all_that_its_functions_import(root: Path, name: str) -> None:
    todo, seen, packages = (
        {root / "src" / f"{module.replace('.', '/')}.py" for module in modules_by_environment(root)[name]},
        set(),
        set(),
    )
    while todo:
        path = todo.pop()
        seen.add(path)
        for module in imports_of(path):
            file = root / "src" / module.replace(".", "/")
            todo |= {f for f in (file.with_suffix(".py"), file / "__init__.py") if f.is_file() and f not in seen}
            if (package := module.partition(".")[0]) not in {"xtalrl", *sys.stdlib_module_names}:
                packages.add(package)
    content = yaml.safe_load((root / f"envs/{name}.yaml").read_text())["dependencies"]
    entries = [e for entry in content for e in (entry["pip"] if isinstance(entry, dict) else [entry])]
    named = {re.split("=+", entry)[0] for entry in entries} - {"python", "pip"}
    installed = {CONDA_NAMES.get(entry, entry) for entry in named} | {"markupsafe", "urllib3"}  # of jinja2 and requests
    distributions = importlib.metadata.packages_distributions()
    assert "numpy" in packages
    for package in packages:
        assert {d.lower().replace("_", "-") for d in distributions[package]} & installed, package


_CONDA = """#!{python}
import json, os, sys
words = sys.argv[1:]
if words == ["info", "--json"]:
    print(json.dumps({{"conda_prefix": {prefix!r}, "platform": "linux-64"}}))
elif words == ["--version"]:
    print("conda 25.1.0")
elif words[0] == "config":
    print(json.dumps({{"get": {{"channel_priority": "strict"}}}}))
elif words[:2] == ["env", "create"]:
    bin_folder = os.path.join(words[words.index("--prefix") + 1], "bin")
    os.makedirs(bin_folder)
    for name in ("python", "python3"):
        path = os.path.join(bin_folder, name)
        with open(path, "w") as file:  # -S: without any package of its own
            file.write('#!/bin/sh\\necho "$@" >> {log}\\nexec {python} -S "$@"\\n')
        os.chmod(path, 0o755)
"""


@pytest.mark.slow
def test_the_script_finds_xtalrl_in_a_conda_environment(root: Path, tmp_path: Path) -> None:
    log = tmp_path / "python.log"
    (tmp_path / "bin").mkdir()
    conda = tmp_path / "bin/conda"
    conda.write_text(_CONDA.format(python=sys.executable, prefix=str(tmp_path), log=log))
    conda.chmod(0o755)
    (tmp_path / "bin/activate").write_text('export PATH="$1/bin:$PATH"\n')
    output = tmp_path / "results/structures/demo/train.csv"
    done = subprocess.run(
        [
            sys.executable, "-m", "snakemake", "--nolock", "--profile", "profiles/local", "--cores", "1", "--sdm", "conda",
            "--conda-prefix", str(tmp_path / "envs"), "--configfile", "config/demo.yaml",
            "--config", f"results={tmp_path / 'results'}", f"cache={tmp_path / 'cache'}", "--", str(output),
        ],
        cwd=root, capture_output=True, text=True, timeout=300, env={**os.environ, "PATH": f"{conda.parent}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert output.exists()
    assert "call.py" in log.read_text()
