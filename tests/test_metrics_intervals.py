"""Estimates and their intervals: against scipy, by invariants, and where there is nothing to count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import stats

from xtalrl.metrics.intervals import BOOTSTRAP, BOOTSTRAP_SEEDS, NOTHING, WILSON, Bootstrap, Estimate, paired_difference

NAN = np.nan


def bootstrap(n_seeds: int, n_crystals: int, samples: int = 200, confidence: float = 0.95) -> Bootstrap:
    return Bootstrap(n_seeds, n_crystals, samples, confidence)


def test_wilson_where_each_crystal_is_one_trial() -> None:
    hits = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0, 0]])
    estimate = bootstrap(1, 10).proportion(hits, np.ones((1, 10)))
    assert estimate.value == 0.3
    # Wilson's formula written out for k = 3, n = 10, z = 1.959964.
    z = 1.959963984540054
    centre = (3 + z**2 / 2) / (10 + z**2)
    half = z / (10 + z**2) * np.sqrt(3 * 7 / 10 + z**2 / 4)
    assert (estimate.low, estimate.high) == pytest.approx((centre - half, centre + half))
    assert (estimate.n, estimate.method) == (10, WILSON)


def test_no_hit_at_all_still_has_an_upper_end_that_counts_crystals_only() -> None:
    """Two seeds and 14 atoms a crystal do not make more than 10 independent trials."""
    estimate = bootstrap(2, 10).proportion(np.zeros((2, 10)), np.full((2, 10), 14.0))
    wilson = stats.binomtest(0, 10).proportion_ci(0.95, method="wilson")
    assert (estimate.value, estimate.n) == (0, 280)
    assert (estimate.low, estimate.high) == pytest.approx((wilson.low, wilson.high))


def test_mean_agrees_with_scipys_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=300)
    ours = bootstrap(1, 300, samples=9999).mean(values[None])
    theirs = stats.bootstrap((values,), np.mean, n_resamples=9999, method="percentile", rng=2).confidence_interval
    assert ours.value == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)
    assert ours.method == BOOTSTRAP


def test_seeds_that_disagree_widen_the_interval() -> None:
    generator = np.random.default_rng(3)
    values = generator.normal(size=(1, 400)).repeat(4, axis=0)
    alike = bootstrap(4, 400).mean(values)
    apart = bootstrap(4, 400).mean(values + np.array([[-1.0], [-0.3], [0.3], [1.0]]))
    assert alike.low is not None
    assert apart.low is not None
    assert alike.high is not None
    assert apart.high is not None
    assert apart.value == pytest.approx(alike.value)
    assert apart.high - apart.low > 3 * (alike.high - alike.low)
    assert alike.method == BOOTSTRAP_SEEDS


def test_resampled_distances_are_scipys() -> None:
    """The vectorised distance of each resample equals scipy's weighted one."""
    generator = np.random.default_rng(4)
    values, reference = generator.normal(size=(2, 30)), generator.normal(0.5, 2, size=30)
    values[0, :7] = reference[3:5] = NAN
    sampler = bootstrap(2, 30, samples=100)
    ours = sampler.earth_movers_distance(values, reference)

    known, reference_known = np.isfinite(values), np.isfinite(reference)
    seeds, crystals = np.nonzero(known)
    distances = np.array(
        [
            stats.wasserstein_distance(
                values[known], reference[reference_known], crystal[crystals] * seed[seeds], crystal[reference_known]
            )
            for crystal, seed in zip(sampler.crystal_weights, sampler.seed_weights, strict=True)
        ]
    )
    value = stats.wasserstein_distance(values[known], reference[reference_known])
    low, high = np.quantile(distances - np.median(distances) + value, [0.025, 0.975])
    assert (ours.value, ours.low, ours.high) == pytest.approx((value, max(low, 0), high))
    assert ours.n == 53


def test_hand_computed_distance() -> None:
    """{0, 1} to {2, 3}: every unit of mass moves by 2."""
    assert bootstrap(1, 2).earth_movers_distance(np.array([[0.0, 1.0]]), np.array([2.0, 3.0])).value == 2


def test_identical_distributions_are_no_distance_apart() -> None:
    values = np.random.default_rng(5).normal(size=50)
    estimate = bootstrap(1, 50).earth_movers_distance(values[None], values)
    assert estimate.value == pytest.approx(0, abs=1e-12)
    assert (estimate.low, estimate.high) == (None, None), "no resample differs: that is no certainty"


@pytest.mark.parametrize("value", [0.0, 0.1, 2.5])
def test_equal_values_are_no_certainty(value: float) -> None:
    """Three gaps of 0 eV: their mean has no interval, and a share of 2 of 4 atoms in each of three crystals has Wilson's."""
    values = np.full((1, 3), value)
    assert bootstrap(1, 3).mean(values) == Estimate(pytest.approx(value), None, None, 3)
    share = bootstrap(2, 3).proportion(np.full((2, 3), 2.0), np.full((2, 3), 4.0))
    wilson = stats.binomtest(2, 3).proportion_ci(0.95, method="wilson")
    assert (share.value, share.low, share.high) == (0.5, pytest.approx(wilson.low), pytest.approx(wilson.high))


def test_paired_difference_is_that_of_scipys_paired_bootstrap_and_test() -> None:
    """Two policies that mostly agree: the interval of the difference is scipy's paired one, p that of its paired t test."""
    generator = np.random.default_rng(8)
    first = generator.normal(size=400)
    second = first + generator.normal(0.02, 0.2, size=400)
    sampler = bootstrap(1, 400, samples=9999)
    ours = paired_difference(sampler.mean(first[None]), sampler.mean(second[None]), 0.95)
    theirs = stats.bootstrap(
        (first, second), lambda x, y, axis: x.mean(axis) - y.mean(axis), paired=True, n_resamples=9999, method="percentile", rng=2
    ).confidence_interval  # fmt: skip
    assert ours is not None
    assert ours.p is not None
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.002)
    assert ours.p == pytest.approx(stats.ttest_rel(first, second).pvalue, rel=0.1)
    unpaired = stats.ttest_ind(first, second).pvalue
    assert ours.p < unpaired / 2
    assert ours.test == "9,999 random swaps"


def test_paired_difference_of_shares_is_mcnemars() -> None:
    """Yes or no of the same 500 crystals by two policies: 60 against 30 discordant pairs."""
    first = np.concatenate([np.ones(200), np.ones(60), np.zeros(30), np.zeros(210)])
    second = np.concatenate([np.ones(200), np.zeros(60), np.ones(30), np.zeros(210)])
    sampler, trials = bootstrap(1, 500, samples=9999), np.ones((1, 500))
    ours = paired_difference(sampler.proportion(first[None], trials), sampler.proportion(second[None], trials), 0.95)
    mcnemar = 2 * stats.norm.sf(30 / np.sqrt(90))
    assert ours is not None
    assert ours.p is not None
    assert ours.value == pytest.approx(30 / 500)
    assert np.log10(ours.p) == pytest.approx(np.log10(mcnemar), abs=0.25)
    assert ours.low is not None and ours.low > 0


def test_a_policy_does_not_differ_from_itself_which_is_no_certainty() -> None:
    sampler = bootstrap(2, 40)
    estimate = sampler.mean(np.random.default_rng(9).normal(size=(2, 40)))
    difference = paired_difference(estimate, estimate, 0.95)
    assert difference is not None
    assert (difference.value, difference.low, difference.high, difference.p) == (0, None, None, None)
    assert difference.test == ""
    assert paired_difference(estimate, NOTHING, 0.95) is None


def test_nothing_to_count_is_null() -> None:
    nowhere = np.full((2, 5), NAN)
    assert bootstrap(2, 5).mean(nowhere) == NOTHING
    assert bootstrap(2, 5).proportion(np.zeros((2, 5)), np.zeros((2, 5))) == NOTHING
    assert bootstrap(2, 5).earth_movers_distance(nowhere, np.zeros(5)) == NOTHING
    assert bootstrap(2, 5).earth_movers_distance(np.zeros((2, 5)), np.full(5, NAN)) == NOTHING


def test_one_crystal_gives_a_number_without_interval() -> None:
    values = np.full((2, 5), NAN)
    values[:, 3] = 1.0, 2.0
    assert bootstrap(2, 5).mean(values) == Estimate(1.5, None, None, 2)
    assert bootstrap(2, 5).earth_movers_distance(values, np.zeros(5)) == Estimate(1.5, None, None, 2)


numbers = st.floats(-5, 5, allow_subnormal=False)
tables = arrays(np.float64, st.tuples(st.integers(1, 3), st.integers(1, 8)), elements=numbers | st.just(NAN))


@given(tables)
def test_an_estimate_lies_in_its_interval_and_in_the_range_of_the_data(values: np.ndarray) -> None:
    sampler = bootstrap(*values.shape, samples=100)
    estimate = sampler.mean(values)
    if estimate.low is not None and estimate.high is not None and estimate.value is not None:
        assert np.nanmin(values) - 1e-9 <= estimate.low <= estimate.value <= estimate.high <= np.nanmax(values) + 1e-9
    distance = sampler.earth_movers_distance(values, np.zeros(values.shape[1]))
    if distance.low is not None and distance.high is not None and distance.value is not None:
        assert 0 <= distance.low <= distance.value + 1e-12
        assert distance.value <= distance.high + 1e-12


@given(tables)
def test_same_arguments_same_interval(values: np.ndarray) -> None:
    assert bootstrap(*values.shape).mean(values) == bootstrap(*values.shape).mean(values.copy())


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say() -> None:
    """95 % intervals of accuracy: atoms of one crystal are right or wrong together."""
    generator = np.random.default_rng(6)
    sizes = generator.integers(1, 20, size=150).astype(float)
    covered = 0
    for _ in range(300):
        hits = np.round(sizes * np.clip(generator.normal(0.5, 0.3, size=150), 0, 1))
        truth = 0.5
        estimate = bootstrap(1, 150, samples=400).proportion(hits[None], sizes[None])
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    assert 0.91 <= covered / 300 <= 0.985


def test_twelve_pairs_are_not_more_than_twelve_pairs() -> None:
    """All of one policy's designs are novel and none of the other's: p is that of a sign-flip test, the interval has a width."""
    sampler, trials = bootstrap(1, 12), np.ones((1, 12))
    ours = paired_difference(sampler.proportion(trials, trials), sampler.proportion(0 * trials, trials), 0.95)
    assert ours is not None and ours.low is not None and ours.high is not None
    assert (ours.value, ours.p, ours.p_floor, ours.test) == (1, 2 / 2**12, 2 / 2**12, "all 4,096 swaps")
    # Newcombe's interval of 12/12 less 0/12, his method 10.
    upper = stats.binomtest(0, 12).proportion_ci(0.95, method="wilson").high
    assert (ours.low, ours.high) == pytest.approx((1 - np.hypot(upper, upper), 1))


def test_equal_means_have_a_difference_and_a_p_but_no_interval() -> None:
    sampler = bootstrap(1, 3)
    ours = paired_difference(sampler.mean(np.zeros((1, 3))), sampler.mean(np.ones((1, 3))), 0.95)
    assert ours is not None
    assert (ours.value, ours.low, ours.high, ours.p) == (-1, None, None, 0.25)


def differences_of(pairs: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.normal(size=pairs), generator.normal(0.5, 1, size=pairs)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_test_is_scipys(seed: int) -> None:
    first, second = differences_of(9, seed)
    oracle = stats.permutation_test(
        (first, second), lambda x, y, axis: x.mean(axis) - y.mean(axis), permutation_type="samples", vectorized=True
    )
    flipped = stats.permutation_test((first - second,), np.mean, permutation_type="samples", vectorized=True)
    sampler = bootstrap(1, 9)
    ours = paired_difference(sampler.mean(first[None]), sampler.mean(second[None]), 0.95)
    assert ours is not None
    assert ours.p == pytest.approx(oracle.pvalue) == pytest.approx(flipped.pvalue)


@pytest.mark.parametrize("seed", range(3))
def test_the_exact_test_of_distances_is_scipys(seed: int) -> None:
    first, second = differences_of(8, seed)
    reference = np.random.default_rng(seed + 9).normal(1, 1, size=8)
    oracle = stats.permutation_test(
        (first, second),
        lambda x, y: stats.wasserstein_distance(x, reference) - stats.wasserstein_distance(y, reference),
        permutation_type="samples", vectorized=False,
    )  # fmt: skip
    sampler = bootstrap(1, 8)
    one, other = (sampler.earth_movers_distance(values[None], reference) for values in (first, second))
    ours = paired_difference(one, other, 0.95)
    assert ours is not None
    assert ours.p == pytest.approx(oracle.pvalue)


@given(tables, tables)
def test_a_p_value_is_one_whichever_policy_comes_first(a: np.ndarray, b: np.ndarray) -> None:
    shape = tuple(min(sizes) for sizes in zip(a.shape, b.shape, strict=True))
    sampler = bootstrap(*shape, samples=100)
    for estimate in (sampler.mean, lambda values: sampler.earth_movers_distance(values, np.zeros(shape[1]))):
        x, y = (estimate(values[: shape[0], : shape[1]]) for values in (a, b))
        there, back = paired_difference(x, y, 0.95), paired_difference(y, x, 0.95)
        assert (there is None) == (back is None)
        if there is not None and back is not None and there.p is not None:
            assert there.p_floor is not None
            assert there.p == pytest.approx(back.p)
            assert 0 < there.p_floor / 2 <= there.p <= 1
            if there.low is not None and there.high is not None:
                assert there.low - 1e-9 <= there.value <= there.high + 1e-9


def test_many_pairs_have_a_floor() -> None:
    first = np.arange(40.0)
    sampler = bootstrap(1, 40, samples=200)
    ours = paired_difference(sampler.mean(first[None]), sampler.mean(first[None] + 1), 0.95)
    assert ours is not None
    assert ours.p == ours.p_floor == 1 / 201
