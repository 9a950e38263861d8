"""The designs of a policy as arrays over (seeds, crystals), which all metrics are computed from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.metrics.intervals import Bools, Bootstrap, Floats

_COLUMNS = ("n_sites", "n_correct", "n_similar", "valid", "novel", "converged", "band_gap", "formation_energy_per_atom")
SUCCESSFUL_OUTCOMES = ("converged", "converged_not_saved")
"""Names of the outcomes in which an SCF succeeded, as `xtalrl.dft.outcomes` gives them."""

_TRUE_COLUMNS = ("true_band_gap", "true_formation_energy_per_atom")


@dataclass(frozen=True)
class PolicyDesigns:
    """Every design of one policy.

    Arrays are (n_seeds, n_crystals), `true_` ones (n_crystals,); NaN stands for what is unknown: where a seed has no design of a crystal,
    `novel` of invalid designs or without a formula list, properties of designs whose SCF failed. Energies in eV/atom, gaps in eV
    and clipped at 0.
    """

    policy: str
    seeds: tuple[int, ...]
    material_ids: tuple[str, ...]
    validity_rule: str
    n_sites: Floats
    n_correct: Floats
    n_similar: Floats
    valid: Floats
    novel: Floats
    converged: Floats
    band_gap: Floats
    formation_energy_per_atom: Floats
    true_band_gap: Floats
    true_formation_energy_per_atom: Floats

    @property
    def designed(self) -> Bools:
        """Where there is a design."""
        return np.isfinite(self.n_sites)

    @property
    def succeeded(self) -> Bools:
        """Where the SCF converged. The gap can still be unknown (smearing), and so the formation energy (a missing reference)."""
        return np.equal(self.converged, 1)

    def bootstrap(self, samples: int, confidence: float) -> Bootstrap:
        """The resampling that fits these arrays."""
        return Bootstrap(len(self.seeds), len(self.material_ids), samples, confidence)


def read_policies(evaluation: str | Path, policies: Sequence[str]) -> list[PolicyDesigns]:
    """The designs of the named policies, in the order of the names.

    Raises:
        XtalrlError: the table cannot be read, a policy has no design in it, or its designs were judged by different rules.
    """
    frame = tables.read(evaluation, tables.EVALUATION).to_pandas()
    frame["converged"] = frame["outcome"].isin(SUCCESSFUL_OUTCOMES)
    missing = [policy for policy in policies if policy not in set(frame["policy"])]
    if missing:
        raise XtalrlError(
            f"{evaluation} holds no design of the policy {missing[0]!r} (it has {', '.join(sorted(set(frame['policy']))) or 'none at all'}): "
            "run `snakemake evaluate` with the present configuration."
        )
    return [_designs(policy, frame[frame["policy"] == policy], evaluation) for policy in policies]


def _designs(policy: str, frame: pd.DataFrame, path: str | Path) -> PolicyDesigns:
    rules = sorted(set(frame["validity_rule"]))
    if len(rules) > 1:
        raise XtalrlError(
            f"{path} mixes the validity rules {', '.join(rules)} in policy {policy!r}: run `snakemake -R assess_designs evaluate` again."
        )
    by_cell = frame.set_index(["seed", "material_id"])
    if by_cell.index.has_duplicates:
        seed, material_id = by_cell.index[by_cell.index.duplicated()][0]
        raise XtalrlError(
            f"{path} holds the design of {material_id} by {policy}, seed {seed}, twice: run `snakemake -R assess_designs evaluate` again."
        )
    seeds, crystals = sorted(set(frame["seed"])), sorted(set(frame["material_id"]))
    arrays = {
        name: by_cell[name].astype(float).unstack("material_id").reindex(index=seeds, columns=crystals).to_numpy(float)
        for name in _COLUMNS
    }
    truth = frame.drop_duplicates("material_id").set_index("material_id").loc[crystals]
    return PolicyDesigns(
        policy=policy,
        seeds=tuple(int(seed) for seed in seeds),
        material_ids=tuple(crystals),
        validity_rule=rules[0],
        **arrays,
        **{name: truth[name].to_numpy(float) for name in _TRUE_COLUMNS},
    )
