"""Every rule hands its function what the function takes: the files and parameters of real plans are bound to the functions' signatures.

Without this a renamed parameter would pass all quick tests and fail on a cluster, after the DFT.
"""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_changes import EVERYTHING, dry_run, tmp

from xtalrl.metrics.confirmation import confirm_hits
from xtalrl.report.contents import content
from xtalrl.workflow import call_of

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
    "external crystals alone": {
        "external": {"others": "{tmp}/crystals.xyz"},
        **{f"policies.{kind}": False for kind in ("random", "bc", "ucql")},
        **{f"policies.{targets}": [] for targets in ("targets_ev", "any_targets_ev", "rvs_targets_ev")},
    },
    "campaign alone": {
        "labels.path": "source",
        "campaign.gap_ev": 2,
        **{f"policies.{kind}": False for kind in ("random", "bc", "ucql")},
        **{f"policies.{targets}": [] for targets in ("targets_ev", "any_targets_ev", "rvs_targets_ev")},
    },
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


def bind(function: Callable[..., Any], keywords: Mapping[str, Any]) -> None:
    """Check that a function takes these keywords, and None where it gets None.

    Raises:
        TypeError: it does not.
    """
    bound = inspect.signature(function).bind(**keywords)
    hints = typing.get_type_hints(function)
    for name, value in bound.arguments.items():
        if value is None and type(None) not in (hints[name], *typing.get_args(hints[name])):
            raise TypeError(f"{name} of {function.__name__} is {hints[name]} and gets None")


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Functions that the jobs of any of the tests call."""
    return set()


@pytest.mark.parametrize("name", RUNS)
def test_every_rule_calls_its_function_with_what_it_takes(
    root: Path, tmp: Path, monkeypatch: pytest.MonkeyPatch, name: str, seen: set[str]
) -> None:
    monkeypatch.chdir(root)
    keys = {"results": f"{tmp}/results", **filled(dict(RUNS[name]), tmp)}
    with dry_run(root, keys, forceall=True) as workflow:
        jobs = [job for job in workflow.dag.jobs if job.rule.script]
        assert jobs
        for job in jobs:
            function, keywords = call_of(job)
            bind(function, keywords)
            if function.__name__ in ("make_table", "make_figure"):
                given = keywords.keys() - inspect.signature(function).parameters.keys()
                assert given == {*content(job.params.name).inputs}, job.rule.name
            seen.add(f"{function.__module__}.{function.__name__}")


def test_every_function_that_a_rule_names_was_seen(root: Path, seen: set[str]) -> None:
    rules = "".join(path.read_text() for path in (root / "rules").glob("*.smk"))
    assert set(re.findall(r'call=unrecorded\("([\w.]+)"\)', rules)) == seen


@pytest.mark.parametrize(
    ("keywords", "said"),
    [
        ({"hits": "x", "outcomes": "x", "confirmed": "x"}, "missing a required argument: 'confirmation'"),
        ({"hits": "x", "outcomes": "x", "confirmation": "x", "window": 1}, "unexpected keyword argument 'window'"),
        ({"hits": "x", "outcomes": None, "confirmation": "x"}, "outcomes of confirm_hits is .* gets None"),
    ],
)
def test_what_a_function_does_not_take_is_caught(keywords: dict[str, Any], said: str) -> None:
    bind(confirm_hits, dict.fromkeys(("hits", "outcomes", "confirmation"), "x"))
    with pytest.raises(TypeError, match=said):
        bind(confirm_hits, keywords)


def test_files_and_parameters_share_no_name() -> None:
    rule = {"input": {"a": "x"}, "output": {"b": []}, "params": {"call": "xtalrl.metrics.confirmation.confirm_hits"}}
    assert call_of(SimpleNamespace(**rule)) == (confirm_hits, {"a": "x", "b": None})
    with pytest.raises(TypeError, match="multiple values"):
        call_of(SimpleNamespace(**rule | {"output": {"a": "y"}}))
