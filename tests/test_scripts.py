"""Every rule hands its function what the function takes: each script runs here with the files and parameters of a real plan, up to the call.

Without this a renamed parameter would pass all quick tests and fail on a cluster, after the DFT.
"""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_changes import EVERYTHING, dry_run, tmp

import xtalrl.workflow
from xtalrl.workflow import job as real_job

__all__ = ["tmp"]

RUNS: dict[str, Mapping[str, Any]] = {
    "everything": EVERYTHING,
    "pretrained": {"policies.pretrained": "mp20", "policies.rvs_targets_ev": [1.34], "labels.path": "source"},
    "published labels": {
        "labels.path": "{tmp}/labels.csv",
        "references.energies": "{tmp}/energies.csv",
        "references.protocol": "demo",
    },
    "external crystals": {"external": {"others": "{tmp}/crystals.xyz"}, "structures.magnetizations": "{tmp}/table.csv"},
    "downloads": {
        "structures.source": "mp20",
        "cache": "{tmp}/cache",
        "structures.magnetizations": "materials-project",
        "references.crystals": "materials-project",
        "evaluation.formulas": "materials-project",
    },
}


def filled(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {key: filled(inner, folder) for key, inner in value.items()}
    return value.replace("{tmp}", str(folder)) if isinstance(value, str) else value


def called(script: Path, snakemake: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Run a script whose functions of ours only bind what they are given to their signature; the names of those that were called."""
    calls: list[str] = []
    tree = ast.parse(script.read_text())
    functions = {
        (node.module, alias.name)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xtalrl")
        for alias in node.names
        if alias.name.islower() and (node.module, alias.name) != ("xtalrl.workflow", "job")
    }

    def stand_in(function: Callable[..., Any]) -> Callable[..., None]:
        def bind(*arguments: Any, **keywords: Any) -> None:
            bound = inspect.signature(function).bind(*arguments, **keywords)
            assert bound.arguments
            calls.append(function.__name__)

        return bind

    with monkeypatch.context() as patched:
        for module, name in functions:
            found = importlib.import_module(module)
            patched.setattr(found, name, stand_in(getattr(found, name)))
        patched.setattr(xtalrl.workflow, "job", lambda log: contextlib.nullcontext())
        exec(compile(tree, str(script), "exec"), {"__name__": "__main__", "snakemake": snakemake})
    assert sorted(calls) == sorted(name for _, name in functions), "each function that is imported is called, once"
    return calls


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Scripts that were run by any of the tests."""
    return set()


@pytest.mark.parametrize("name", RUNS)
def test_every_script_calls_its_function_with_what_it_takes(
    root: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch, name: str, seen: set[str]
) -> None:
    monkeypatch.chdir(root)
    keys = {"results": f"{tmp}/results", **filled(dict(RUNS[name]), tmp)}
    done: set[str] = set()
    with dry_run(root, keys, forceall=True) as workflow:
        for job in workflow.dag.jobs:
            if job.rule.script is None or job.rule.name in done:
                continue
            done.add(job.rule.name)
            script = root / "workflow/scripts" / Path(str(job.rule.script)).name
            snakemake = SimpleNamespace(
                input=job.input, output=job.output, params=job.params, wildcards=job.wildcards, threads=job.threads,
                resources=job.resources, config=workflow.config, log=job.log,
            )  # fmt: skip
            assert called(script, snakemake, monkeypatch), job.rule.name
            seen.add(script.name)
    assert done


def test_every_script_was_seen(root: Path, seen: set[str]) -> None:
    assert {path.name for path in (root / "workflow/scripts").glob("*.py")} == seen


def test_a_parameter_of_another_name_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "wrong.py"
    script.write_text(
        "from xtalrl.metrics.confirmation import confirm_hits\n"
        "confirm_hits(**{name: 'x' for name in ('hits', 'outcomes', 'confirmed')})\n"
    )
    with pytest.raises(TypeError, match="confirm"):
        called(script, SimpleNamespace(), monkeypatch)
    assert xtalrl.workflow.job is real_job
