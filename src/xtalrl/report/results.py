"""The result files of a run, as its tables and figures see them."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xtalrl.config import Config
from xtalrl.dft.recovery import Recovery
from xtalrl.metrics.designs import Labels, PolicyDesigns, read_compositions, read_labels, read_policies
from xtalrl.metrics.scoring import Scoring
from xtalrl.report.contents import Files, settings_of
from xtalrl.report.style import Policies
from xtalrl.rl.policies import PolicySpec


@dataclass(frozen=True)
class Results:
    """Files of one run by name (`evaluation`, `labels`, …), and what was run; tables are read when first needed.

    A file that the run does not have is None or an empty list.
    """

    files: Files
    policies: Policies
    training_steps: int = 0
    """Gradient steps of the policies of this run."""
    snapshot_steps: tuple[int, ...] = ()
    """Steps at which weights were kept, one per file of `snapshots`."""
    campaign: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `xtalrl.campaign.wishes.Wishes`; empty where there is no campaign."""
    family: str = ""
    """Pseudopotential family of the run."""
    recovery: Recovery = "paper"
    baselines: tuple[str, ...] = ()
    """Names of the policies that a campaign is compared with."""

    @classmethod
    def of(cls, config: Config, files: Files) -> Results:
        """The results of a run, from its configuration and files."""
        policies: dict[str, PolicySpec | None] = {**config.policy_specs(), **dict.fromkeys(config.external)}
        return cls(
            files,
            policies,
            training_steps=config.training.steps,
            snapshot_steps=tuple(config.training.snapshot_steps),
            campaign=config.campaign.wishes,
            family=config.dft.family,
            recovery=config.dft.recovery,
            baselines=config.campaign.baselines,
        )

    def file(self, name: str) -> Path | None:
        """The file with this name; None if the run does not have it."""
        path = self.files.get(name) or None
        if path is not None and not isinstance(path, str | Path):
            raise TypeError(f"{name} is several files")
        return None if path is None else Path(path)

    def path(self, name: str) -> Path:
        """The file with this name, which the run must have."""
        path = self.file(name)
        if path is None:
            raise KeyError(name)
        return path

    def paths(self, name: str) -> list[Path]:
        """The files with this name."""
        files = self.files[name] or ()
        return [Path(files)] if isinstance(files, str | Path) else [Path(path) for path in files]

    @functools.cached_property
    def designs(self) -> dict[str, PolicyDesigns]:
        """The designs of every policy with their properties, by name of the policy."""
        return self.designs_in(self.path("evaluation"), self.policies)

    def designs_in(
        self, evaluation: Path, policies: Policies, p_hit: Mapping[str, float] | None = None
    ) -> dict[str, PolicyDesigns]:
        """The designs of these policies in an `EVALUATION` table of this run, by name of the policy; `p_hit` as in `read_policies`."""
        found = read_policies(evaluation, self.file("labels"), self.file("stability"), policies, p_hit)
        return {designs.policy: designs for designs in found}

    @functools.cached_property
    def compositions(self) -> dict[str, PolicyDesigns]:
        """The designs of every policy before any SCF, by name of the policy."""
        return {designs.policy: designs for designs in read_compositions(self.path("assessments"), self.policies)}

    @functools.cached_property
    def labels(self) -> Labels:
        """Labels of the validation crystals."""
        path = self.file("labels")
        return read_labels(path) if path else Labels()

    @property
    def ordinary(self) -> Policies:
        """The policies except those of the sweep, which have tables and figures of their own."""
        return {name: spec for name, spec in self.policies.items() if not (spec and spec.in_sweep)}

    def settings_at(self, target_ev: float) -> dict[str, PolicySpec]:
        """The policies without a target, then those with this target in ascending order of their settings α1, α2, β and ω."""

        def rank(item: tuple[str, PolicySpec]) -> tuple[float, ...]:
            reward, omega = item[1].reward, item[1].omega
            if item[1].kind != "ccql" or reward is None or omega is None:
                return (-1.0,)
            return reward.alpha1, reward.alpha2, reward.beta2, omega

        chosen = {
            name: spec
            for name, spec in self.policies.items()
            if spec and (spec.kind in ("random", "bc", "ucql") or (spec.kind == "ccql" and spec.target_ev == target_ev))
        }
        return dict(sorted(chosen.items(), key=rank))


def scoring_of(config: Config) -> Scoring:
    """How the designs of a run with this configuration are scored."""
    settings = settings_of(config)
    return Scoring(
        settings["bootstrap_samples"],
        settings["confidence"],
        settings["window_ev"],
        tuple(settings["targets_ev"]),
        settings["stable_ev_per_atom"],
    )
