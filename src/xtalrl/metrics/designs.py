"""The designs of a policy as arrays over (seeds, crystals), which all metrics are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.metrics.evaluation import UNKNOWN
from xtalrl.metrics.intervals import Bools, Bootstrap, Floats
from xtalrl.metrics.scoring import Scoring

_COLUMNS = (
    "composition", "n_sites", "n_correct", "n_similar", "valid", "valid_smact14", "valid_icsd24", "odd_electrons", "novel", "converged", "recovered",
    "band_gap", "band_gap_raw", "formation_energy_per_atom", "energy_above_hull", "hull_is_complete", "p_hit",
)  # fmt: skip
SUCCESSFUL_OUTCOMES = ("converged", "converged_not_saved")
"""Names of the outcomes in which an SCF succeeded, as `xtalrl.dft.outcomes` gives them."""

_TRUE_COLUMNS = ("true_band_gap",)


@dataclass(frozen=True)
class Labels:
    """Labels of the validation crystals by material_id, which designs are compared with: gaps in eV, energies in eV/atom."""

    band_gap: Mapping[str, float] = field(default_factory=dict)
    band_gap_raw: Mapping[str, float] = field(default_factory=dict)
    formation_energy_per_atom: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PolicyDesigns:
    """Every design of one policy.

    Arrays have the shape (n_seeds, n_crystals), those that begin with `true_` (n_crystals,). NaN means unknown: everything where a seed has no design
    of a crystal, `novel` of invalid designs or without a formula list, `converged` of designs without an SCF (so far), and properties of
    designs whose SCF failed. Energies are in eV/atom; gaps are in eV and, except for `band_gap_raw`, clipped at 0. `composition` numbers the
    reduced formulas. `p_hit` is the predicted probability that the design's SCF gives a wanted gap, where probabilities were given.
    """

    policy: str
    seeds: tuple[int, ...]
    material_ids: tuple[str, ...]
    validity_rule: str
    composition: Floats
    n_sites: Floats
    n_correct: Floats
    n_similar: Floats
    valid: Floats
    valid_smact14: Floats
    valid_icsd24: Floats
    odd_electrons: Floats
    novel: Floats
    converged: Floats
    recovered: Floats
    band_gap: Floats
    band_gap_raw: Floats
    formation_energy_per_atom: Floats
    energy_above_hull: Floats
    hull_is_complete: Floats
    p_hit: Floats
    true_band_gap: Floats
    labels: Labels = Labels()

    @property
    def designed(self) -> Bools:
        """Whether a crystal has a design of a seed."""
        return np.isfinite(self.n_sites)

    @property
    def succeeded(self) -> Bools:
        """Whether the SCF of a design converged. The gap can still be unknown (smearing), and so can the formation energy (a missing reference)."""
        return np.equal(self.converged, 1)

    @property
    def outcome_is_known(self) -> Bools:
        """Whether the SCF of a design was run, or was not needed because the design is invalid."""
        return self.designed & np.isfinite(self.converged)

    def by_the_papers_rules(self) -> PolicyDesigns:
        """The same designs, except that those which converged only by an extended recovery count as failures."""
        lost = np.equal(self.recovered, 1)
        return replace(
            self,
            converged=np.where(lost, 0.0, self.converged),
            band_gap=np.where(lost, np.nan, self.band_gap),
            band_gap_raw=np.where(lost, np.nan, self.band_gap_raw),
            formation_energy_per_atom=np.where(lost, np.nan, self.formation_energy_per_atom),
            energy_above_hull=np.where(lost, np.nan, self.energy_above_hull),
        )

    def share_of_composition(self, among: Bools) -> Floats:
        """1/m for each design of `among`, of which m of the same seed share its composition; 0 elsewhere. Sums to their number."""
        shares = np.zeros(self.composition.shape)
        for row, chosen, codes in zip(shares, among, self.composition, strict=True):
            _, inverse, counts = np.unique(codes[chosen], return_inverse=True, return_counts=True)
            row[chosen] = 1 / counts[inverse]
        return shares

    def bootstrap(self, scoring: Scoring) -> Bootstrap:
        """The resampling for these arrays."""
        return Bootstrap(len(self.seeds), len(self.material_ids), scoring.bootstrap_samples, scoring.confidence)


def read_policies(
    evaluation: str | Path,
    labels: str | Path | None,
    stability: str | Path | None,
    policies: Iterable[str],
    p_hit: Mapping[str, float] | None = None,
) -> list[PolicyDesigns]:
    """The designs of the named policies, in the order of the names; of several designs of a skeleton, the first one.

    Args:
        evaluation: `EVALUATION` table.
        labels: `LABELS`; designs are compared with the distribution of those of the split val. None if there are no labels.
        stability: `STABILITY` table of the same designs; None if energies above the hull are unknown.
        policies: names of the policies.
        p_hit: predicted probability of a hit by the request of the design's SCF, 0 for requests that are not in it. None if the probabilities are unknown.

    Raises:
        XtalrlError: a table cannot be read, a policy has no design in it, or its designs were judged by different rules.
    """
    frame = tables.read(evaluation, tables.EVALUATION).drop_columns(["species", "detail"]).to_pandas()
    frame["converged"] = frame["outcome"].isin(SUCCESSFUL_OUTCOMES).astype(float).mask(frame["outcome"] == UNKNOWN)
    if (odd := frame[(frame["converged"] == 1) & ~frame["valid"]]).size:
        raise XtalrlError(
            f"{evaluation} holds an SCF of the design {odd['formula'].iloc[0]}, which it calls invalid: delete it and run "
            f"`snakemake {evaluation}` again."
        )
    frame[["energy_above_hull", "hull_is_complete"]] = np.nan
    frame["p_hit"] = _probabilities(frame, p_hit)
    if stability:
        hull = tables.read(stability, tables.STABILITY).drop_columns(["decomposition"]).to_pandas()
        hull = hull.set_index("request_id")
        frame["energy_above_hull"] = frame["request_id"].map(hull["energy_above_hull"])
        frame["hull_is_complete"] = frame["request_id"].map(hull["flag"] == "")
    return _by_policy(frame, evaluation, "evaluate", policies, read_labels(labels) if labels else Labels())


def read_compositions(
    assessments: str | Path, policies: Iterable[str], p_hit: Mapping[str, float] | None = None
) -> list[PolicyDesigns]:
    """Read designs before any SCF, as `read_policies` does: all properties are unknown.

    Args:
        assessments: `ASSESSMENTS` table.
        policies: names.
        p_hit: as in `read_policies`.

    Raises:
        XtalrlError: as in `read_policies`.
    """
    frame = tables.read(assessments, tables.ASSESSMENTS).drop_columns(["species"]).to_pandas()
    frame["p_hit"] = _probabilities(frame, p_hit)
    frame[[name for name in (*_COLUMNS, *_TRUE_COLUMNS) if name not in frame and name != "composition"]] = np.nan
    return _by_policy(frame, assessments, "rollout", policies, Labels())


def _probabilities(frame: pd.DataFrame, p_hit: Mapping[str, float] | None) -> pd.Series[float] | float:
    return np.nan if p_hit is None else frame["request_id"].map(dict(p_hit)).astype(float).fillna(0.0)


def _by_policy(
    frame: pd.DataFrame, path: str | Path, stage: str, policies: Iterable[str], labels: Labels
) -> list[PolicyDesigns]:
    frame = frame[frame["sample"].fillna(0) == 0].copy()
    frame["composition"] = pd.factorize(frame["formula"])[0]
    groups = {str(name): group for name, group in frame.groupby("policy")}
    if missing := [policy for policy in policies if policy not in groups]:
        raise XtalrlError(
            f"{path} holds no design of the policy {missing[0]!r} (it has {', '.join(sorted(groups)) or 'none at all'}): "
            f"run `snakemake {stage}` with the present configuration."
        )
    return [_designs(policy, groups[policy], path, labels) for policy in policies]


def read_labels(labels: str | Path) -> Labels:
    """The known labels of the split val of a `LABELS` table."""
    frame = tables.read(labels, tables.LABELS).to_pandas()
    frame = frame[frame["split"] == "val"].set_index("material_id")
    return Labels(**{name: frame[name].dropna().to_dict() for name in Labels.__dataclass_fields__})


def _designs(policy: str, frame: pd.DataFrame, path: str | Path, labels: Labels) -> PolicyDesigns:
    rules = sorted(set(frame["validity_rule"]))
    if len(rules) > 1:
        raise XtalrlError(
            f"{path} mixes the validity rules {', '.join(rules)} in policy {policy!r}: run `snakemake evaluate -R assess_designs` again."
        )
    by_cell = frame.set_index(["seed", "material_id"])
    if by_cell.index.has_duplicates:
        seed, material_id = by_cell.index[by_cell.index.duplicated()][0]
        raise XtalrlError(
            f"{path} holds the design of {material_id} by {policy}, seed {seed}, twice: run `snakemake evaluate -R assess_designs` again."
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
        labels=labels,
    )
