"""What the SCFs of a policy's designs tell: success, energies, gaps, desired range (appendix A.1.2).

Every function takes the designs of one policy and a bootstrap, and gives an `Estimate`; fractions, eV and eV/atom. The paper divides ν and κ
by all M designs; `of="successes"` divides by the designs whose SCF converged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np

from xtalrl.metrics.designs import PolicyDesigns
from xtalrl.metrics.intervals import Bools, Bootstrap, Estimate, Floats

Denominator = Literal["all", "successes"]
Gaps = Literal["clipped", "raw"]
"""Whether a negative gap (overlapping bands) is taken as 0, as in the labels the policies learn from, or as it is."""


def in_window(gaps: Floats, target_ev: float, window_ev: float) -> Bools:
    """Whether gaps lie in the open interval (p̂ - w, p̂ + w), eV; NaN lies nowhere.

    Open, as A.1.2.4 prints it. A gap within 1e-9 eV of a bound counts as on it, hence outside.
    """
    return np.abs(gaps - target_ev) < window_ev - 1e-9


def dft_success(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """Share of the valid designs whose SCF converged."""
    return bootstrap.proportion(designs.succeeded, designs.valid == 1)


def dft_success_of_all(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """Share of all designs whose SCF converged."""
    return bootstrap.proportion(designs.succeeded, designs.designed)


def dft_success_by_the_papers_rules(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """`dft_success` without designs that only an extended recovery made converge (Table 2)."""
    return dft_success(designs.by_the_papers_rules(), bootstrap)


def dft_success_of_all_by_the_papers_rules(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """`dft_success_of_all` without designs that only an extended recovery made converge."""
    return dft_success_of_all(designs.by_the_papers_rules(), bootstrap)


def mean_formation_energy(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """Mean formation energy of the designs that have one, eV/atom (A.1.2.1)."""
    return bootstrap.mean(designs.formation_energy_per_atom)


def mean_band_gap(designs: PolicyDesigns, bootstrap: Bootstrap, gaps: Gaps = "clipped") -> Estimate:
    """Mean gap of the designs that have one, eV (A.1.3)."""
    return bootstrap.mean(designs.band_gap if gaps == "clipped" else designs.band_gap_raw)


def desired_range(
    designs: PolicyDesigns, bootstrap: Bootstrap, target_ev: float, window_ev: float, of: Denominator = "all"
) -> Estimate:
    """ν: share of designs with a gap within the window around the target (A.1.2.4)."""
    hits = in_window(designs.band_gap, target_ev, window_ev)
    return bootstrap.proportion(hits, designs.designed if of == "all" else designs.succeeded)


def desired_range_at_most(designs: PolicyDesigns, bootstrap: Bootstrap, target_ev: float, window_ev: float) -> Estimate:
    """ν of all were every design without an outcome in the desired range; `desired_range` counts it as outside."""
    hits = in_window(designs.band_gap, target_ev, window_ev)
    return bootstrap.proportion(hits | (designs.designed & ~designs.outcome_is_known), designs.designed)


def outcome_known(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """Share of designs that are invalid or whose SCF was run."""
    return bootstrap.proportion(designs.outcome_is_known, designs.designed)


def out_of_distribution(
    designs: PolicyDesigns, bootstrap: Bootstrap, target_ev: float, window_ev: float, of: Denominator = "all"
) -> Estimate:
    """κ: share of designs with a gap within the window whose true crystal has a known gap outside it (A.1.2.5)."""
    truth = designs.true_band_gap
    true_outside = np.isfinite(truth) & ~in_window(truth, target_ev, window_ev)
    hits = in_window(designs.band_gap, target_ev, window_ev) & true_outside
    return bootstrap.proportion(hits, designs.designed if of == "all" else designs.succeeded)


def desired_range_by_the_papers_rules(
    designs: PolicyDesigns, bootstrap: Bootstrap, target_ev: float, window_ev: float
) -> Estimate:
    """ν of all without designs that only an extended recovery made converge."""
    return desired_range(designs.by_the_papers_rules(), bootstrap, target_ev, window_ev)


def out_of_distribution_by_the_papers_rules(
    designs: PolicyDesigns, bootstrap: Bootstrap, target_ev: float, window_ev: float
) -> Estimate:
    """κ of all without designs that only an extended recovery made converge."""
    return out_of_distribution(designs.by_the_papers_rules(), bootstrap, target_ev, window_ev)


def band_gap_distance(designs: PolicyDesigns, bootstrap: Bootstrap, gaps: Gaps = "clipped") -> Estimate:
    """Γ_p: earth mover's distance between the gaps of designs and those of the validation crystals, eV (A.1.2.2)."""
    if gaps == "clipped":
        return _distance(designs, designs.band_gap, bootstrap, designs.labels.band_gap)
    return _distance(designs, designs.band_gap_raw, bootstrap, designs.labels.band_gap_raw)


def formation_energy_distance(designs: PolicyDesigns, bootstrap: Bootstrap) -> Estimate:
    """Γ_E: earth mover's distance between the formation energies of designs and of validation crystals, eV/atom (A.1.2.3)."""
    return _distance(designs, designs.formation_energy_per_atom, bootstrap, designs.labels.formation_energy_per_atom)


def _distance(designs: PolicyDesigns, values: Floats, bootstrap: Bootstrap, reference: Mapping[str, float]) -> Estimate:
    """The crystals of the designs first, then reference crystals that no design was made for."""
    crystals = [*designs.material_ids, *sorted(set(reference) - set(designs.material_ids))]
    padded = np.pad(values, ((0, 0), (0, len(crystals) - values.shape[1])), constant_values=np.nan)
    if len(crystals) != values.shape[1]:
        bootstrap = Bootstrap(len(designs.seeds), len(crystals), len(bootstrap.crystal_weights), bootstrap.confidence)
    return bootstrap.earth_movers_distance(padded, np.array([reference.get(crystal, np.nan) for crystal in crystals]))


def mean_absolute_gap_error(gaps: Floats, source_gaps: Floats, bootstrap: Bootstrap) -> Estimate:
    """Mean absolute difference between gaps here and in the source, both (n_crystals,) in eV; NaN where unknown."""
    return bootstrap.mean(np.abs(gaps - source_gaps)[None])


def mean_gap_error(gaps: Floats, source_gaps: Floats, bootstrap: Bootstrap) -> Estimate:
    """Mean of gap here less gap in the source, eV."""
    return bootstrap.mean((gaps - source_gaps)[None])


def share_without_gap(gaps: Floats, source_gaps: Floats, bootstrap: Bootstrap) -> Estimate:
    """Share of the crystals with a gap in the source that have none here."""
    compared = np.isfinite(gaps) & (source_gaps > 0)
    return bootstrap.proportion((compared & (gaps == 0))[None], compared[None])
