"""The Snakemake command that evaluates a set of external crystals, for `xtalrl evaluate`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import typer

from xtalrl import tables
from xtalrl.commands.runs import load_run
from xtalrl.commands.workflow_commands import workflow_command
from xtalrl.config import Config
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES
from xtalrl.metrics.evaluation import UNUSABLE_ENTRY
from xtalrl.metrics.properties import in_window
from xtalrl.report.contents import settings_of
from xtalrl.structures.external_files import check_sets

NO_POLICIES: dict[str, dict[str, object]] = {
    "policies": {
        "random": False,
        "bc": False,
        "ucql": False,
        "targets_ev": [],
        "any_targets_ev": [],
        "rvs_targets_ev": [],
        "pretrained": None,
    },
    "sweep": {"settings": []},
}
"""Settings that turn off every policy of a configuration."""
MAX_NAME = 60
"""Largest number of characters in the name of a set, which is also part of the name of its results folder."""


def evaluation_command(
    path: Path,
    name: str | None,
    configfiles: Sequence[Path],
    config: Config,
    alone: bool,
    profile: str,
    dry_run: bool,
    targets_ev: Sequence[float] = (),
) -> list[str]:
    """The `snakemake` command that takes the crystals of `path` through the SCFs into tables and report.

    Args:
        path: folder, archive, file or database of crystals.
        name: name of the set; None takes the name of the path.
        configfiles: configuration files, as given to snakemake.
        config: configuration that they give; its own external sets stay.
        alone: evaluate without policies, into a results folder of its own; otherwise the set joins the policies of the run.
        profile: folder in profiles/.
        dry_run: only list the jobs.
        targets_ev: target gaps of the set beside those of the run; if it is evaluated alone, those of the run are the default.

    Raises:
        XtalrlError: there are no crystals at `path`, a target is not a gap, the set has the name of a policy, or there is no such profile.
    """
    for target in targets_ev:
        if not 0 <= target <= tables.GAP_RANGE_EV[1]:
            raise XtalrlError(f"--target is {target:g}: a gap is from 0 to {tables.GAP_RANGE_EV[1]:g} eV.")
    name = set_name(path, name)
    sets = {name: str(path)} if alone else {**config.external, name: str(path)}
    check_sets(sets, config.policy_specs())
    settings = [f"external={json.dumps(sets)}"]
    if alone:
        settings += [f"{section}={json.dumps(off)}" for section, off in NO_POLICIES.items()]
        settings.append(f"results={results_alone(config, name)}")
        targets_ev = targets_ev or sorted(
            {spec.target_ev for spec in config.policy_specs().values() if spec.target_ev is not None}
        )
    if targets_ev:
        targets = list(dict.fromkeys([*config.evaluation.targets_ev, *targets_ev]))
        settings.append(f"evaluation={json.dumps({'targets_ev': targets})}")
    return workflow_command("report", profile, configfiles, settings, ["--dry-run"] if dry_run else [])


def set_name(path: Path, name: str | None) -> str:
    """The name of a set: the given one, or that of its file or folder without characters that the tables do not take.

    Raises:
        XtalrlError: the tables do not take the given name.
    """
    usable = re.sub(r"[^A-Za-z0-9._-]+", "-", name or path.resolve().stem).lstrip("._-")[:MAX_NAME] or "external"
    if name and name != usable:
        raise XtalrlError(
            f"--name {name!r} cannot be the name of a set: up to {MAX_NAME} letters, digits, dots, underscores and hyphens, the first "
            f"a letter or digit; e.g. {usable}."
        )
    return usable


def results_alone(config: Config, name: str) -> str:
    """The folder of results of a set that is evaluated without policies."""
    return f"{config.results}-{name}"


def print_result(results: str | Path, name: str) -> None:
    """Print the result of a set, and the commands to continue with.

    Raises:
        XtalrlError: a table is missing.
    """
    config, _ = load_run([], Path(results))
    rows = tables.read_rows(Path(results) / "evaluation/evaluation.parquet", tables.EVALUATION)
    rows = [row for row in rows if row["policy"] == name]
    unusable = [row for row in rows if row["outcome"] == UNUSABLE_ENTRY]
    gaps = [row["band_gap"] for row in rows if row["band_gap"] is not None]
    lines = [
        "",
        f"{name}: {len(rows):,} entries, {sum(row['valid'] for row in rows):,} valid, "
        f"{sum(row['outcome'] in SUCCESSFUL_OUTCOMES for row in rows):,} with an SCF that converged"
        + (f", {len(unusable):,} that could not be used ({unusable[0]['material_id']}, …)" if unusable else ""),
    ]
    window = config.evaluation.window_ev
    for target in settings_of(config)["targets_ev"]:
        n = sum(bool(in_window(np.array(gap), target, window)) for gap in gaps)
        lines.append(f"  {n:,} of {len(rows):,} have a gap within {window:g} eV of {target:g} eV")
    lines.append(
        f"  {_hull_in_words(Path(results), {row['request_id'] for row in rows}, config.evaluation.stable_ev_per_atom)}"
    )
    lines += [
        f"Report    {Path(results) / 'report.html'}",
        f"Crystals  xtalrl export {name}.csv --policy {name} --results {results}",
    ]
    typer.echo("\n".join(lines))


def _hull_in_words(results: Path, requests: set[str | None], limit: float) -> str:
    """A clause on how many of the designs with these requests are stable, or on what is missing to know it."""
    rows = tables.read_rows(results / "evaluation/stability.parquet", tables.STABILITY)
    known = [row["energy_above_hull"] for row in rows if row["request_id"] in requests and not row["flag"]]
    if not known:
        return (
            "no energy above the hull is known: it takes labelled crystals of the same elements and of the protocol of these SCFs "
            "(`labels.path`, docs/published-labels.md)"
        )
    return f"{sum(energy <= limit for energy in known):,} of {len(known):,} whose hull is known are at most {limit:g} eV/atom above it"
