"""Intervals of metrics over designs: how much a number would change with another draw of crystals and another training seed.

The designs of a policy form a table (seeds, crystals): every seed fills the same skeletons. A resample draws crystals with
replacement, the same for all seeds, and, if there are several seeds, seeds with replacement (a two-way bootstrap, Owen 2007,
doi:10.1214/07-AOAS122). With few seeds the spread between them is underestimated, by the factor (S - 1)/S in variance.

If all resamples agree, as for three gaps of 0 eV, resampling says nothing, and an interval without width would claim certainty. A share then
has Wilson's interval. A mean has no interval: a few equal values say nothing about the mean of an unbounded quantity
(Bahadur and Savage 1956, doi:10.1214/aoms/1177728077).
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from xtalrl.metrics.swaps import Distance, Ratio, swap_test

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

WILSON = "Wilson score"
BOOTSTRAP = "percentile bootstrap over crystals"
BOOTSTRAP_SEEDS = "percentile bootstrap over crystals and seeds"
EXPECTED = "Poisson binomial, if the probabilities are right"

_RANDOM_SEED = 20240322  # any fixed number: the same table gives the same interval
_CHUNK = 1_000_000  # weights held at once while resampling a distribution


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; all fields are null if nothing could be counted.

    `n` is the number of units in the denominator (crystals, atoms, designs), `method` how the interval was made,
    empty if there is no interval: with fewer than two crystals, or if all resamples agree. `resamples` (B,) is the number in each
    bootstrap resample, NaN if there was nothing to count: policies on the same skeletons share their resamples, so that the difference of
    two of them is paired. `terms` are the contributions to the number, skeleton by skeleton.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    method: str = ""
    resamples: Floats | None = field(default=None, repr=False, compare=False)
    terms: Ratio | Distance | None = field(default=None, repr=False, compare=False)

    def scaled(self, factor: float) -> Estimate:
        """The same estimate in another unit, e.g. percent."""
        value, low, high = (None if number is None else number * factor for number in (self.value, self.low, self.high))
        resamples = None if self.resamples is None else self.resamples * factor
        return Estimate(value, low, high, self.n, self.method, resamples, self.terms)


NOTHING = Estimate(None, None, None, 0)


def wilson(successes: int, trials: int, confidence: float) -> Estimate:
    """The share successes / trials with its Wilson interval (Wilson 1927, doi:10.1080/01621459.1927.10502953)."""
    if not trials:
        return NOTHING
    interval = stats.binomtest(successes, trials).proportion_ci(confidence, method="wilson")
    return Estimate(successes / trials, float(interval.low), float(interval.high), trials, WILSON)


class Bootstrap:
    """Intervals from resampling a table of (n_seeds, n_crystals) designs; the same arguments give the same resamples."""

    def __init__(self, n_seeds: int, n_crystals: int, samples: int, confidence: float) -> None:
        """Draw the resamples: `samples` of them, for intervals of level `confidence` (0.95)."""
        self.confidence = confidence
        self.n_seeds = n_seeds
        self.crystal_weights, self.seed_weights = _weights(n_seeds, n_crystals, samples)
        self.method = BOOTSTRAP if n_seeds == 1 else BOOTSTRAP_SEEDS

    def mean(self, values: Floats) -> Estimate:
        """Mean of the values that are not NaN, (S, M)."""
        known = np.isfinite(values)
        return self._ratio(np.where(known, values, 0.0), known.astype(float))

    def proportion(self, numerator: Floats | Bools, denominator: Floats | Bools) -> Estimate:
        """Sum of numerators over sum of denominators, both (S, M), 0 <= numerator <= denominator.

        The interval is Wilson's if there is one seed and one trial per crystal. If all resamples agree (mostly at 0 % or 100 %), it
        is Wilson's with crystals as trials; neither atoms nor seeds count as independent.
        """
        hits, trials_made = numerator.astype(np.float64), denominator.astype(np.float64)
        estimate = self._ratio(hits, trials_made)
        single_trials = self.n_seeds == 1 and bool(np.isin(trials_made, (0, 1)).all())
        if estimate.value is None or (estimate.method and not single_trials):
            return estimate
        trials = int((trials_made > 0).any(axis=0).sum())
        interval = wilson(round(estimate.value * trials), trials, self.confidence)
        assert interval.low is not None and interval.high is not None  # There are trials where there is a value.
        low, high = min(interval.low, estimate.value), max(interval.high, estimate.value)
        return replace(estimate, low=low, high=high, method=WILSON)

    def earth_movers_distance(self, values: Floats, reference: Floats) -> Estimate:
        """Earth mover's distance between designs (S, M) and the reference distribution (M,), NaN where unknown.

        A crystal is drawn together with its reference value. Resampling two samples moves them apart, so the resamples are
        shifted until their median is the estimate (and not below 0).
        """
        known, reference_known = np.isfinite(values), np.isfinite(reference)
        n = int(known.sum())
        if n == 0 or not reference_known.any():
            return NOTHING
        value = float(stats.wasserstein_distance(values[known], reference[reference_known]))
        if known.any(axis=0).sum() < 2:
            return Estimate(value, None, None, n)

        # The distance is the area between the two distribution functions: sort all values once, then every resample
        # is a sum of weights along them, those of the reference (row S) counted as negative.
        table = np.vstack([np.where(known, values, np.nan), reference])
        rows, crystals = np.nonzero(np.isfinite(table))
        order = np.argsort(table[rows, crystals], kind="stable")
        rows, crystals = rows[order], crystals[order]
        widths = np.diff(table[rows, crystals])
        distances = []
        chunk = max(1, _CHUNK // len(rows))
        for start in range(0, len(self.crystal_weights), chunk):
            by_crystal, by_seed = self.crystal_weights[start : start + chunk], self.seed_weights[start : start + chunk]
            total = (by_crystal @ known.T * by_seed).sum(1, keepdims=True)
            reference_total = (by_crystal @ reference_known)[:, None]
            # A resample without any known value has no distance: NaN, left out below.
            with np.errstate(invalid="ignore", divide="ignore"):
                signed = by_crystal[:, crystals] * np.hstack([by_seed / total, -1 / reference_total])[:, rows]
            np.cumsum(signed, axis=1, out=signed)
            distances.append(np.abs(signed[:, :-1], out=signed[:, :-1]) @ widths)
        resampled = np.concatenate(distances)
        terms = Distance(values, reference)
        if not has_spread(resampled):
            return Estimate(value, None, None, n, "", resampled, terms)
        low, high = self._percentiles(resampled - (np.nanmedian(resampled) - value))
        return Estimate(value, max(low, 0.0), high, n, self.method + ", shifted to the estimate", resampled, terms)

    def _ratio(self, numerator: Floats, denominator: Floats) -> Estimate:
        total = denominator.sum()
        if total == 0:
            return NOTHING
        value = float(numerator.sum() / total)
        resampled = self._resampled_ratio(numerator, denominator)
        terms = Ratio(numerator.sum(axis=0), denominator.sum(axis=0))
        if (denominator > 0).any(axis=0).sum() < 2 or not has_spread(resampled):
            return Estimate(value, None, None, int(total), "", resampled, terms)
        low, high = self._percentiles(resampled)
        # Rounding must not put the estimate outside its own interval.
        return Estimate(value, min(low, value), max(high, value), int(total), self.method, resampled, terms)

    def _resampled_ratio(self, numerator: Floats, denominator: Floats) -> Floats:
        above, below = ((self.crystal_weights @ part.T * self.seed_weights).sum(1) for part in (numerator, denominator))
        with np.errstate(invalid="ignore"):
            ratios: Floats = np.where(below > 0, above / below, np.nan)
        return ratios

    def _percentiles(self, resampled: Floats) -> tuple[float, float]:
        tail = (1 - self.confidence) / 2
        low, high = np.nanquantile(resampled, [tail, 1 - tail])
        return float(low), float(high)


@functools.lru_cache(maxsize=4)
def _weights(n_seeds: int, n_crystals: int, samples: int) -> tuple[Floats, Floats]:
    """How often each crystal (B, M) and each seed (B, S) is drawn."""
    generator = np.random.default_rng(_RANDOM_SEED)
    crystals = generator.multinomial(n_crystals, np.full(n_crystals, 1 / n_crystals), size=samples).astype(float)
    seeds = generator.multinomial(n_seeds, np.full(n_seeds, 1 / n_seeds), size=samples).astype(float)
    return crystals, seeds


def has_spread(resampled: Floats) -> bool:
    """Whether resamples differ by more than rounding does."""
    known = resampled[np.isfinite(resampled)]
    return bool(known.size) and float(np.ptp(known)) > 1e-9 * max(1.0, float(np.abs(known).max()))


@dataclass(frozen=True)
class Difference:
    """The difference of the numbers of two policies with designs on the same skeletons.

    `low` and `high` are null if the policies agree on every skeleton, or if neither resampling nor the intervals of the two numbers give them. `p` is the two-sided p value of no difference
    between the trained policies, null if they differ on no skeleton. `p_floor` is the smallest p that the test can give, and `test` says
    how p was found.
    """

    value: float
    low: float | None
    high: float | None
    p: float | None
    p_floor: float | None
    test: str


def paired_difference(first: Estimate, second: Estimate, confidence: float) -> Difference | None:
    """`first` minus `second`, whose resamples must be of the same crystals and seeds; None if one of them has none.

    The interval is the percentile interval of the differences of the resamples, shifted to the difference of the estimates. If these
    show no spread, it follows from the intervals of the two numbers by adding squares (Newcombe 1998,
    doi:10.1002/(SICI)1097-0258(19980430)17:8<873::AID-SIM779>3.0.CO;2-I). The p value is that of `swaps.swap_test`.
    """
    if first.value is None or second.value is None or first.resamples is None or second.resamples is None:
        return None
    value = first.value - second.value
    resampled = first.resamples - second.resamples
    resampled = resampled[np.isfinite(resampled)]
    if not resampled.size:
        return None
    assert first.terms is not None and second.terms is not None  # They come with the resamples.
    test = swap_test(first.terms, second.terms, len(first.resamples))
    if test is None:
        return Difference(value, None, None, None, None, "")
    low, high = _interval_of_difference(first, second, value, resampled, confidence)
    return Difference(value, low, high, test.p, test.floor, test.name)


def _interval_of_difference(
    first: Estimate, second: Estimate, value: float, resampled: Floats, confidence: float
) -> tuple[float, float] | tuple[None, None]:
    if has_spread(resampled):
        tail = (1 - confidence) / 2
        low, high = np.quantile(resampled - np.median(resampled), [tail, 1 - tail]) + value
        # An end that is 0 but for rounding is 0: whether the interval holds 0 is read off it.
        return _without_rounding(float(low)), _without_rounding(float(high))
    if first.value is None or first.low is None or first.high is None:
        return None, None
    if second.value is None or second.low is None or second.high is None:
        return None, None
    below = float(np.hypot(first.value - first.low, second.high - second.value))
    above = float(np.hypot(first.high - first.value, second.value - second.low))
    return value - below, value + above


def _without_rounding(number: float) -> float:
    return 0.0 if abs(number) < 1e-9 else number


def expected_hits(
    probabilities: Sequence[float] | Floats, confidence: float, designs: Sequence[int] | None = None
) -> Estimate:
    """Hits that predictions promise: the sum of the probabilities, and the interval of the Poisson binomial distribution, if they are right.

    Args:
        probabilities: that each SCF gives a hit, each independent of the others.
        confidence: level of the interval.
        designs: number of designs that share each SCF, and so are hits together; None: one each.
    """
    if not len(probabilities):
        return NOTHING
    shared = [1] * len(probabilities) if designs is None else designs
    distribution = np.ones(1)
    for p, count in zip(probabilities, shared, strict=True):
        distribution = np.convolve(distribution, np.concatenate([[1 - p], np.zeros(count - 1), [p]]))
    cumulative = np.cumsum(distribution)
    tail = (1 - confidence) / 2
    low, high = (int(np.searchsorted(cumulative, level - 1e-12)) for level in (tail, 1 - tail))
    value = float(np.dot(probabilities, shared))
    return Estimate(value, min(float(low), value), max(float(high), value), len(probabilities), EXPECTED)
