"""The metrics that are columns of the tables."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from xtalrl.metrics import composition, properties, stability
from xtalrl.metrics.intervals import NOTHING, Estimate
from xtalrl.metrics.scoring import Scoring

Metric = Callable[[Any, Scoring], Estimate]
"""A function that gives a number: of the `PolicyDesigns` of a policy, or of `GapPairs`."""


@dataclass(frozen=True)
class Column:
    """A metric in a table: its name in the CSV (with the unit), its heading for people, and what its n counts.

    `at_target`: the metric is taken at the policy's own target, and a policy without a target has no number. `in_paper`: the paper's table
    has the number too.
    """

    name: str
    heading: str
    unit_counted: str
    metric: Metric
    factor: float = 1.0
    decimals: int = 1
    in_paper: bool = False
    at_target: bool = False

    def estimate(self, counted: Any, scoring: Scoring) -> Estimate:
        """The metric in the column's unit."""
        if self.at_target and scoring.target_ev is None:
            return NOTHING
        return self.metric(counted, scoring).scaled(self.factor)


def _percent(name: str, heading: str, counted: str, metric: Metric, in_paper: bool = False) -> Column:
    return Column(f"{name}_pct", f"{heading} (%)", counted, metric, 100, in_paper=in_paper)


_ACCURACY = _percent("accuracy", "Accuracy", "atoms", composition.accuracy, in_paper=True)
_SIMILARITY = _percent("similarity", "Similarity", "atoms", composition.similarity, in_paper=True)
_VALIDITY = _percent("validity", "Validity", "designs", composition.validity, in_paper=True)

TABLE1 = (
    _ACCURACY,
    _SIMILARITY,
    _VALIDITY,
    _percent("novelty", "Novelty", "valid designs", composition.novelty, in_paper=True),
    _percent("exact_match", "Exact match", "designs", composition.exact_match),
    _percent("uniqueness", "Unique", "designs", composition.uniqueness),
    _percent("validity_smact14", "Valid, smact 3 with states of 2014", "designs", composition.validity_smact14),
    _percent("validity_icsd24", "Valid, smact 3 by default", "designs", composition.validity_icsd24),
    _percent("odd_electrons", "Odd electrons of valid", "valid designs", composition.odd_electrons),
)
TABLE2 = (
    _percent("dft_success", "DFT success of valid", "valid designs", properties.dft_success_by_the_papers_rules, True),
    _percent("dft_success_of_all", "DFT success of all", "designs", properties.dft_success_of_all_by_the_papers_rules),
    _percent("dft_success_recovered", "Success with recovery, of valid", "valid designs", properties.dft_success),
    _percent("dft_success_recovered_of_all", "Success with recovery, of all", "designs", properties.dft_success_of_all),
    Column("mean_formation_energy_ev_per_atom", "Mean E_form (eV/atom)", "successes", properties.mean_formation_energy, decimals=2),
    Column("emd_formation_energy_ev_per_atom", "EMD of E_form (eV/atom)", "successes", properties.formation_energy_distance, decimals=2),
    Column("mean_band_gap_ev", "Mean gap (eV)", "successes", properties.mean_band_gap, decimals=2),
    Column("mean_band_gap_raw_ev", "Mean raw gap (eV)", "successes", functools.partial(properties.mean_band_gap, gaps="raw"), decimals=2),
    Column("emd_band_gap_ev", "EMD of gap (eV)", "successes", properties.band_gap_distance, decimals=2),
    Column("emd_band_gap_raw_ev", "EMD of raw gap (eV)", "successes", functools.partial(properties.band_gap_distance, gaps="raw"), decimals=2),
)  # fmt: skip
TABLE3 = (_ACCURACY, _SIMILARITY, _VALIDITY)
DESIRED_RANGE = (
    _percent("nu", "ν of all", "designs", properties.desired_range),
    _percent("nu_of_successes", "ν of successes", "successes", functools.partial(properties.desired_range, of="successes")),
    _percent("kappa", "κ of all", "designs", properties.out_of_distribution),
    _percent("kappa_of_successes", "κ of successes", "successes", functools.partial(properties.out_of_distribution, of="successes")),
    _percent("nu_by_the_papers_rules", "ν without recovered", "designs", properties.desired_range_by_the_papers_rules),
    _percent("kappa_by_the_papers_rules", "κ without recovered", "designs", properties.out_of_distribution_by_the_papers_rules),
)  # fmt: skip
PREDICTED_RANGE = (_percent("predicted_nu", "ν predicted", "designs", properties.predicted_range),)
STABILITY = (
    _percent("hull_coverage", "Hull without a flag", "designs with E_form", stability.hull_coverage),
    Column("mean_energy_above_hull_ev_per_atom", "Mean E above hull (eV/atom)", "designs without a flag", stability.mean_energy_above_hull, decimals=3),
    _percent("stable", "Stable", "designs", stability.stable_share),
    _percent("sun", "S.U.N.", "designs", stability.stable_unique_novel),
)  # fmt: skip
LEARNING_CURVE = (
    replace(_VALIDITY, in_paper=False),
    replace(_ACCURACY, in_paper=False),
    replace(_percent("nu_at_least", "ν at least", "designs", properties.desired_range), at_target=True),
    replace(_percent("nu_at_most", "ν at most", "designs", properties.desired_range_at_most), at_target=True),
    _percent("outcome_known", "Outcome known", "designs", properties.outcome_known),
)
GAP_ERROR = (
    Column("mean_absolute_error_ev", "MAE (eV)", "crystals", properties.mean_absolute_gap_error, decimals=3),
    Column("mean_error_ev", "Mean error (eV)", "crystals", properties.mean_gap_error, decimals=3),
    _percent("metallic_here", "Gap 0 here", "crystals", properties.share_without_gap),
)
