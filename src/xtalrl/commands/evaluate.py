"""The Snakemake command that evaluates a set of external crystals, for `xtalrl evaluate`."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from xtalrl.commands.workflow_commands import workflow_command
from xtalrl.config import Config
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
"""What turns off every policy of a configuration."""
MAX_NAME = 60
"""Characters of a set that is named after its file; the results folder has the name too."""


def evaluation_command(
    path: Path,
    name: str | None,
    configfiles: Sequence[Path],
    config: Config,
    alone: bool,
    profile: str,
    dry_run: bool,
) -> list[str]:
    """The command, from `snakemake` on, that brings the crystals of `path` through the SCFs into tables and report.

    Args:
        path: folder, archive, file or database of crystals.
        name: of the set; None takes the name of the path.
        configfiles: as given to snakemake.
        config: what they say; its own external sets stay.
        alone: without policies, into a results folder of its own; else the set joins the policies of the run.
        profile: folder in profiles/.
        dry_run: only list the jobs.

    Raises:
        XtalrlError: there are no crystals at `path`, the set has the name of a policy, or there is no such profile.
    """
    name = name or re.sub(r"[^A-Za-z0-9._-]+", "-", path.resolve().stem).lstrip("._-")[:MAX_NAME] or "external"
    sets = {name: str(path)} if alone else {**config.external, name: str(path)}
    check_sets(sets, config.policy_specs())
    settings = [f"external={json.dumps(sets)}"]
    if alone:
        settings += [f"{section}={json.dumps(off)}" for section, off in NO_POLICIES.items()]
        settings.append(f"results={config.results}-{name}")
    return workflow_command("report", profile, configfiles, settings, ["--dry-run"] if dry_run else [])
