"""Quality of predictions for crystals with known gaps and formation energies: errors, ranking and calibration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from xtalrl import tables
from xtalrl.metrics.intervals import BOOTSTRAP, NOTHING, Bools, Estimate, Floats, has_spread

BINS = 10
"""Number of bins of equal width in which stated probabilities are compared with observed shares."""
_SAMPLES, _CONFIDENCE, _SEED = 1000, 0.95, 20240322

Statistic = Callable[["Judged"], float]


@dataclass(frozen=True)
class Judged:
    """n predictions beside the true values; all (n,), NaN if unknown."""

    p_metal: Floats
    nonmetal_gap: Floats
    nonmetal_gap_std: Floats
    nonmetal_gap_spread: Floats
    """Part of the standard deviation that lies between the members, in eV."""
    gap: Floats
    """Predicted gap in eV, with the probability of a metal counted."""
    gap_low: Floats
    gap_high: Floats
    energy: Floats
    """Predicted formation energy in eV/atom."""
    energy_low: Floats
    energy_high: Floats
    p_hit: Floats
    gap_from: Floats
    gap_to: Floats
    true_gap: Floats
    """True gap in eV; NaN also if the SCF failed."""
    true_energy: Floats
    """True formation energy in eV/atom."""

    @classmethod
    def of_rows(cls, predictions: list[dict[str, Any]], truth: Mapping[str, Mapping[str, Any]]) -> Judged:
        """Rows of `tables.PREDICTIONS` beside rows, by material_id, with the columns band_gap and formation_energy_per_atom (`tables.LABELS`).

        A crystal without such a row is left out; a crystal whose row has no values counts as a failed SCF.
        """
        rows = [(row, truth[row["material_id"]]) for row in predictions if row["material_id"] in truth]

        def column(name: str, of: int, default: float = np.nan) -> Floats:
            return np.array([default if pair[of][name] is None else pair[of][name] for pair in rows], float)

        return cls(
            p_metal=column("p_metal", 0),
            nonmetal_gap=column("nonmetal_gap", 0),
            nonmetal_gap_std=column("nonmetal_gap_std", 0),
            nonmetal_gap_spread=column("nonmetal_gap_spread", 0),
            gap=column("band_gap", 0),
            gap_low=column("band_gap_low", 0),
            gap_high=column("band_gap_high", 0),
            energy=column("formation_energy_per_atom", 0),
            energy_low=column("formation_energy_low", 0),
            energy_high=column("formation_energy_high", 0),
            p_hit=column("p_hit", 0),
            gap_from=column("gap_from", 0, -np.inf),
            gap_to=column("gap_to", 0, np.inf),
            true_gap=column("band_gap", 1),
            true_energy=column("formation_energy_per_atom", 1),
        )

    @classmethod
    def read(cls, predictions: str | Path, labels: str | Path) -> Judged:
        """`of_rows` of two files.

        Raises:
            XtalrlError: one of them is missing or malformed.
        """
        truth = {row["material_id"]: row for row in tables.read_rows(labels, tables.LABELS)}
        return cls.of_rows(tables.read_rows(predictions, tables.PREDICTIONS), truth)

    def __len__(self) -> int:
        """Number of predictions."""
        return len(self.p_metal)

    def where(self, chosen: Any) -> Judged:
        """The chosen predictions, by a mask or by positions."""
        return Judged(*[getattr(self, field.name)[chosen] for field in fields(self)])

    @property
    def is_metal(self) -> Bools:
        """Whether each turned out to have a gap of 0."""
        metal: Bools = self.true_gap == 0
        return metal

    @property
    def is_hit(self) -> Bools:
        """Whether each turned out to have a gap in its wanted range; a failed SCF is not a hit."""
        hit: Bools = (self.true_gap > self.gap_from) & (self.true_gap < self.gap_to)
        return hit


@dataclass(frozen=True)
class Figure:
    """A number on predictions."""

    name: str
    unit: str
    estimate: Estimate
    constant: float | None = None
    """The same number for the best constant prediction on the same crystals, if there is one."""


def figures(judged: Judged, confidence: float) -> Iterator[Figure]:
    """Every figure on predictions whose intervals have the level `confidence`, each with its 95 % bootstrap interval over crystals."""
    known = judged.where(np.isfinite(judged.true_gap))
    nonmetals = known.where(known.true_gap > 0)
    energies = judged.where(np.isfinite(judged.true_energy))
    said = f"{100 * confidence:g} % intervals"
    yield Figure("gap, mean absolute error", "eV", resampled(gap_error, known), _constant_error(known.true_gap))
    yield Figure(
        "gap of nonmetals, mean absolute error", "eV", resampled(nonmetal_gap_error, nonmetals), _constant_error(nonmetals.true_gap)
    )  # fmt: skip
    yield Figure("gap, mean error", "eV", resampled(gap_bias, known))
    yield Figure("gap, rank correlation", "1", resampled(rank_correlation, known), 0.0)
    yield Figure("metals told from nonmetals, area under the curve", "1", resampled(metal_auc, known), 0.5)
    yield Figure("metals, expected calibration error", "1", resampled(metal_calibration, known))
    yield Figure("metals expected less metals found, share", "1", resampled(metal_excess, known))
    yield Figure(f"gap, share covered by the {said}", "1", resampled(gap_coverage, known))
    for likelier, some in (("a metal", known.p_metal >= 0.5), ("a nonmetal", known.p_metal < 0.5)):
        yield Figure(f"the same where {likelier} is likelier", "1", resampled(gap_coverage, known.where(some)))
    yield Figure(f"gap, mean width of the {said}", "eV", resampled(gap_width, known))
    yield Figure(
        "formation energy, mean absolute error", "eV/atom", resampled(energy_error, energies), _constant_error(energies.true_energy)
    )  # fmt: skip
    yield Figure(f"formation energy, share covered by the {said}", "1", resampled(energy_coverage, energies))
    if np.isfinite(judged.p_hit).any():
        yield Figure("hits, area under the curve", "1", resampled(hit_auc, judged), 0.5)
        yield Figure("hits expected", "crystals", resampled(hits_expected, judged))
        yield Figure("hits found", "crystals", resampled(hits_found, judged))


def resampled(statistic: Statistic, judged: Judged, confidence: float = _CONFIDENCE) -> Estimate:
    """A statistic with its percentile bootstrap interval over crystals; resamples without a value (e.g. of a single class) are left out.

    There is no interval where all resamples agree: a perfect ranking of five crystals is no certainty.
    """
    n = len(judged)
    if n == 0:
        return NOTHING
    value = statistic(judged)
    if not np.isfinite(value):
        return NOTHING
    draws = np.random.default_rng(_SEED)
    values = np.array([statistic(judged.where(draws.integers(n, size=n))) for _ in range(_SAMPLES)])
    if n < 2 or not has_spread(values):
        return Estimate(value, None, None, n)
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(values, [tail, 1 - tail])
    return Estimate(value, min(float(low), value), max(float(high), value), n, BOOTSTRAP, values)


def gap_error(judged: Judged) -> float:
    """Mean absolute error of the gap, metals counted, eV."""
    return float(np.abs(judged.gap - judged.true_gap).mean())


def nonmetal_gap_error(judged: Judged) -> float:
    """Mean absolute error of the gap a nonmetal would have, eV."""
    return float(np.abs(judged.nonmetal_gap - judged.true_gap).mean())


def gap_bias(judged: Judged) -> float:
    """Mean of predicted minus true gap, eV."""
    return float((judged.gap - judged.true_gap).mean())


def rank_correlation(judged: Judged) -> float:
    """Spearman's ρ between the expected gap, metals counted, and the true one; NaN where one of them does not vary."""
    expected, true = (1 - judged.p_metal) * judged.nonmetal_gap, judged.true_gap
    if np.ptp(expected) == 0 or np.ptp(true) == 0:
        return np.nan
    return float(np.corrcoef(stats.rankdata(expected), stats.rankdata(true))[0, 1])


def metal_auc(judged: Judged) -> float:
    """Probability that, of a metal and a nonmetal, the metal has the higher predicted probability of being a metal."""
    return area_under_curve(judged.p_metal, judged.is_metal)


def metal_calibration(judged: Judged) -> float:
    """Expected calibration error of the probability of a metal."""
    return calibration_error(judged.p_metal, judged.is_metal)


def metal_excess(judged: Judged) -> float:
    """Mean predicted probability of a metal minus the share of metals."""
    return float(judged.p_metal.mean() - judged.is_metal.mean())


def gap_coverage(judged: Judged) -> float:
    """Share of true gaps inside their interval."""
    return _coverage(judged.gap_low, judged.true_gap, judged.gap_high)


def gap_width(judged: Judged) -> float:
    """Mean width of the intervals, eV."""
    return float((judged.gap_high - judged.gap_low).mean())


def energy_error(judged: Judged) -> float:
    """Mean absolute error of the formation energy, eV/atom."""
    return float(np.abs(judged.energy - judged.true_energy).mean())


def energy_coverage(judged: Judged) -> float:
    """Share of true formation energies inside their interval."""
    return _coverage(judged.energy_low, judged.true_energy, judged.energy_high)


def hit_auc(judged: Judged) -> float:
    """Probability that, of a hit and another crystal, the hit has the higher predicted probability of being a hit."""
    return area_under_curve(judged.p_hit, judged.is_hit)


def hits_expected(judged: Judged) -> float:
    """Sum of the probabilities of a hit."""
    return float(judged.p_hit.sum())


def hits_found(judged: Judged) -> float:
    """Number of hits."""
    return float(judged.is_hit.sum())


def area_under_curve(score: Floats, positive: Bools) -> float:
    """Probability that, of a random positive and a random negative, the positive has the higher score; ties count half. NaN if either is missing."""
    n_positive = int(positive.sum())
    n_negative = len(positive) - n_positive
    if not n_positive or not n_negative:
        return np.nan
    ranks = stats.rankdata(score)
    return float((ranks[positive].sum() - n_positive * (n_positive + 1) / 2) / (n_positive * n_negative))


def calibration_error(probability: Floats, happened: Bools) -> float:
    """Expected calibration error: mean over crystals of the difference between the mean probability in a bin and the observed share."""
    which = np.minimum((probability * BINS).astype(int), BINS - 1)
    difference = np.bincount(which, probability - happened, BINS)
    return float(np.abs(difference).sum() / len(probability))


def _coverage(low: Floats, true: Floats, high: Floats) -> float:
    """Share of values between the ends of their interval; NaN where there are no intervals."""
    there = np.isfinite(low) & np.isfinite(high)
    return float(((low <= true) & (true <= high))[there].mean()) if there.any() else np.nan


def _constant_error(values: Floats) -> float | None:
    """Mean absolute error of the best constant, the median."""
    return float(np.abs(values - np.median(values)).mean()) if len(values) else None
