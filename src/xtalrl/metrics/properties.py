"""Metrics of the SCFs of a policy's designs: success, energies, gaps, desired range (appendix A.1.2).

Every metric takes the designs of one policy and the `Scoring`, and returns an `Estimate`: a fraction, eV or eV/atom. The paper divides ν and κ
by the number M of all designs; `of="successes"` divides by the designs whose SCF converged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.intervals import NOTHING, Bools, Bootstrap, Estimate, Floats, expected_hits
from xtalrl.metrics.scoring import Scoring

Denominator = Literal["all", "successes"]
Gaps = Literal["clipped", "raw"]
"""Whether a negative gap (overlapping bands) is set to 0, as in the labels that the policies learn from, or kept as it is."""


def in_window(gaps: Floats, target_ev: float, window_ev: float) -> Bools:
    """Whether gaps lie in the open interval (p̂ - w, p̂ + w), eV; NaN does not.

    The interval is open, as A.1.2.4 prints it. A gap within 1e-9 eV of a bound counts as on the bound, hence as outside.
    """
    return np.abs(gaps - target_ev) < window_ev - 1e-9


def _hits(gaps: Floats, scoring: Scoring) -> Bools:
    """Whether gaps lie in the desired range of the scoring's target."""
    if scoring.target_ev is None:
        raise ValueError("ν and κ are counted at a target: use `scoring.at(target_ev)`")
    return in_window(gaps, scoring.target_ev, scoring.window_ev)


def dft_success(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of the valid designs whose SCF converged."""
    return designs.bootstrap(scoring).proportion(designs.succeeded, designs.valid == 1)


def dft_success_of_all(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of all designs whose SCF converged."""
    return designs.bootstrap(scoring).proportion(designs.succeeded, designs.designed)


def dft_success_by_the_papers_rules(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """`dft_success`, where a design that only an extended recovery made converge counts as a failure (Table 2)."""
    return dft_success(designs.by_the_papers_rules(), scoring)


def dft_success_of_all_by_the_papers_rules(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """`dft_success_of_all`, where a design that only an extended recovery made converge counts as a failure."""
    return dft_success_of_all(designs.by_the_papers_rules(), scoring)


def mean_formation_energy(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Mean formation energy of the designs that have one, eV/atom (A.1.2.1)."""
    return designs.bootstrap(scoring).mean(designs.formation_energy_per_atom)


def mean_band_gap(designs: PolicyDesigns, scoring: Scoring, gaps: Gaps = "clipped") -> Estimate:
    """Mean gap of the designs that have one, eV (A.1.3)."""
    return designs.bootstrap(scoring).mean(designs.band_gap if gaps == "clipped" else designs.band_gap_raw)


def desired_range(designs: PolicyDesigns, scoring: Scoring, of: Denominator = "all") -> Estimate:
    """ν: share of designs with a gap within the window around the target (A.1.2.4)."""
    hits = _hits(designs.band_gap, scoring)
    return designs.bootstrap(scoring).proportion(hits, designs.designed if of == "all" else designs.succeeded)


def desired_range_at_most(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Upper bound of ν of all: designs without an outcome count as inside the desired range, whereas `desired_range` counts them as outside."""
    hits = _hits(designs.band_gap, scoring)
    return designs.bootstrap(scoring).proportion(
        hits | (designs.designed & ~designs.outcome_is_known), designs.designed
    )


def predicted_range(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """ν predicted before any SCF: the mean probability of a hit over all designs, with the interval in which ν lies if the probabilities are right.

    Equal designs of a skeleton share an SCF and a probability, so that either all or none of them are hits.
    """
    probabilities, counts = [], []
    for column in designs.p_hit.T:
        of_column, shared = np.unique(column[column > 0], return_counts=True)
        probabilities.extend(of_column.tolist())
        counts.extend(shared.tolist())
    n = int(designs.designed.sum())
    if not n or np.isnan(designs.p_hit[designs.designed]).any():
        return NOTHING
    promised = expected_hits([*probabilities, 0.0], scoring.confidence, [*counts, 1]).scaled(1 / n)
    # Its resamples are those of the crystals, as for ν by DFT.
    mean = designs.bootstrap(scoring).mean(np.where(designs.designed, designs.p_hit, np.nan))
    return replace(promised, n=n, resamples=mean.resamples, terms=mean.terms)


def outcome_known(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Share of designs that are invalid or whose SCF was run."""
    return designs.bootstrap(scoring).proportion(designs.outcome_is_known, designs.designed)


def out_of_distribution(designs: PolicyDesigns, scoring: Scoring, of: Denominator = "all") -> Estimate:
    """κ: share of designs with a gap within the window whose true crystal has a known gap outside it (A.1.2.5)."""
    truth = designs.true_band_gap
    true_outside = np.isfinite(truth) & ~_hits(truth, scoring)
    hits = _hits(designs.band_gap, scoring) & true_outside
    return designs.bootstrap(scoring).proportion(hits, designs.designed if of == "all" else designs.succeeded)


def desired_range_by_the_papers_rules(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """ν of all, where a design that only an extended recovery made converge counts as a failure."""
    return desired_range(designs.by_the_papers_rules(), scoring)


def out_of_distribution_by_the_papers_rules(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """κ of all, where a design that only an extended recovery made converge counts as a failure."""
    return out_of_distribution(designs.by_the_papers_rules(), scoring)


def band_gap_distance(designs: PolicyDesigns, scoring: Scoring, gaps: Gaps = "clipped") -> Estimate:
    """Γ_p: earth mover's distance between the gaps of designs and those of the validation crystals, eV (A.1.2.2)."""
    if gaps == "clipped":
        return _distance(designs, designs.band_gap, scoring, designs.labels.band_gap)
    return _distance(designs, designs.band_gap_raw, scoring, designs.labels.band_gap_raw)


def formation_energy_distance(designs: PolicyDesigns, scoring: Scoring) -> Estimate:
    """Γ_E: earth mover's distance between the formation energies of designs and of validation crystals, eV/atom (A.1.2.3)."""
    return _distance(designs, designs.formation_energy_per_atom, scoring, designs.labels.formation_energy_per_atom)


def _distance(designs: PolicyDesigns, values: Floats, scoring: Scoring, reference: Mapping[str, float]) -> Estimate:
    """Distance of values from a reference; resampled crystals are those of the designs, then the reference crystals without a design."""
    crystals = [*designs.material_ids, *sorted(set(reference) - set(designs.material_ids))]
    padded = np.pad(values, ((0, 0), (0, len(crystals) - values.shape[1])), constant_values=np.nan)
    bootstrap = Bootstrap(len(designs.seeds), len(crystals), scoring.bootstrap_samples, scoring.confidence)
    return bootstrap.earth_movers_distance(padded, np.array([reference.get(crystal, np.nan) for crystal in crystals]))


@dataclass(frozen=True)
class GapPairs:
    """Gaps of the same crystals here and in their source, (n_crystals,) each, eV; NaN where unknown."""

    here: Floats
    source: Floats

    def bootstrap(self, scoring: Scoring) -> Bootstrap:
        """The resampling that fits these arrays."""
        return Bootstrap(1, len(self.here), scoring.bootstrap_samples, scoring.confidence)


def mean_absolute_gap_error(gaps: GapPairs, scoring: Scoring) -> Estimate:
    """Mean absolute difference between gaps here and in the source, eV."""
    return gaps.bootstrap(scoring).mean(np.abs(gaps.here - gaps.source)[None])


def mean_gap_error(gaps: GapPairs, scoring: Scoring) -> Estimate:
    """Mean of the gap here minus the gap in the source, eV."""
    return gaps.bootstrap(scoring).mean((gaps.here - gaps.source)[None])


def share_without_gap(gaps: GapPairs, scoring: Scoring) -> Estimate:
    """Share of the crystals with a gap in the source that have none here."""
    compared = np.isfinite(gaps.here) & (gaps.source > 0)
    return gaps.bootstrap(scoring).proportion((compared & (gaps.here == 0))[None], compared[None])
