"""CONTRIBUTING.md does what it says: its code works as it stands, its files are there. And one version, one set of facts for a citation."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_data import write_results
from test_dft_recovery import situation

from xtalrl import __version__
from xtalrl.commands.citation_files import render_codemeta, render_zenodo
from xtalrl.dft.outcomes import Outcome, Result
from xtalrl.dft.recovery import first_attempt
from xtalrl.metrics.designs import read_policies
from xtalrl.metrics.scoring import Scoring
from xtalrl.rl.algorithms import ALGORITHMS, Algorithm


@pytest.fixture(scope="module")
def taught(root: Path) -> dict[str, Any]:
    """What the Python of the page defines."""
    names: dict[str, Any] = {}
    for code in re.findall(r"```python\n(.*?)```", (root / "CONTRIBUTING.md").read_text(), re.DOTALL):
        exec(code, names)
    return names


def test_the_metric_is_an_estimate(taught: dict[str, Any], tmp_path: Path) -> None:
    write_results(tmp_path, 24, (0, 1), targets_ev=[2.0], omegas=[5])
    (designs,) = read_policies(tmp_path / "evaluation/evaluation.parquet", None, None, ["bc"])
    estimate = taught["gapless"](designs, Scoring(100, 0.95, 0.25, (), 0.1))
    assert estimate.n == designs.succeeded.sum() > 0
    assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1


def test_the_rung_is_climbed_once(taught: dict[str, Any]) -> None:
    here = situation(recovery="extended")
    first = first_attempt(here)
    here.history.append((first, Result(Outcome.NOT_CONVERGED)))
    attempt = taught["iterate_longer"](here)
    assert attempt.settings.electron_maxstep == 2 * first.settings.electron_maxstep
    here.history.append((attempt, Result(Outcome.NOT_CONVERGED)))
    assert taught["iterate_longer"](here) is None


def test_the_algorithm_is_one(taught: dict[str, Any]) -> None:
    made = taught["Imitation"]()
    assert isinstance(made, Algorithm)
    assert made.kind not in ALGORITHMS
    assert made.is_learned and not made.is_conditional


def test_there_is_one_version(root: Path) -> None:
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    cited = yaml.safe_load((root / "CITATION.cff").read_text())
    assert project["version"] == cited["version"] == __version__
    assert project["license"] == cited["license"]


def test_the_files_of_a_citation_are_in_step(root: Path) -> None:
    assert (root / ".zenodo.json").read_text() == render_zenodo(), "run `make docs`"
    assert (root / "codemeta.json").read_text() == render_codemeta(), "run `make docs`"
    zenodo = json.loads(render_zenodo())
    assert {"title", "creators", "description", "upload_type", "license"} <= set(zenodo)
    assert json.loads(render_codemeta())["@context"] == "https://doi.org/10.5063/schema/codemeta-2.0"
