"""Distributions of gaps and energies, the probability of a hit, and conformal intervals."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats

from xtalrl.rl.predictive import Energies, Floats, Gaps, conformal_radius

seeds = st.integers(0, 2**32 - 1)


def some_gaps(seed: int, n: int = 5, members: int = 3) -> Gaps:
    generator = np.random.default_rng(seed)
    return Gaps(
        location=generator.uniform(-3, 6, (members, n)),
        scale=np.exp(generator.uniform(-4, 1, (members, n))),
        metal=generator.beta(0.5, 0.5, (members, n)),
    )


def draw(gaps: Gaps, generator: np.random.Generator, n: int) -> Floats:
    """(n,) gaps, each drawn from the distribution of its crystal."""
    member = generator.integers(len(gaps.location), size=n)
    column = np.arange(n)
    laplace = stats.laplace(gaps.location[member, column], gaps.scale[member, column])
    positive = laplace.isf(generator.uniform(0, 1, n) * laplace.sf(0))
    return np.where(generator.uniform(0, 1, n) < gaps.metal[member, column], 0.0, np.maximum(positive, 1e-12))


@given(seeds)
def test_the_distribution_is_the_mixture_of_its_members(seed: int) -> None:
    """Against scipy's Laplace distribution, cut off and mixed."""
    gaps = some_gaps(seed)
    for value in (0.0, 0.3, 2.0, 7.0):
        laplace = stats.laplace(gaps.location, gaps.scale)
        above = np.where(laplace.sf(0) > 1e-300, laplace.sf(value) / np.maximum(laplace.sf(0), 1e-300), 0)
        known = laplace.sf(0) > 1e-200
        expected = (1 - (1 - gaps.metal) * above).mean(0)
        assert gaps.cdf(value)[known.all(0)] == pytest.approx(expected[known.all(0)], abs=1e-9)
    assert (gaps.cdf(-1e-9) == 0).all()
    assert gaps.cdf(0.0) == pytest.approx(gaps.metal.mean(0))


@given(seeds, st.floats(0.01, 0.99))
def test_quantiles_invert_the_distribution(seed: int, probability: float) -> None:
    gaps = some_gaps(seed)
    at = gaps.quantile(probability)
    metal = gaps.cdf(0.0) >= probability
    assert (at[metal] == 0).all()
    assert gaps.cdf(at)[~metal] == pytest.approx(probability, abs=1e-6)
    energies = Energies(gaps.location, gaps.scale)
    assert energies.cdf(energies.quantile(probability)) == pytest.approx(probability, abs=1e-6)


@settings(max_examples=20)
@given(seeds)
def test_moments_are_integrals(seed: int) -> None:
    gaps = some_gaps(seed, n=1)
    p = float(gaps.cdf(0.0)[0])
    if 1 - p < 1e-3:
        return
    points = np.concatenate([np.linspace(0, 40, 400_001)])
    survival = np.array([1 - gaps.cdf(x)[0] for x in points[::200]]) / (1 - p)
    mean = integrate.simpson(survival, x=points[::200])
    square = integrate.simpson(2 * points[::200] * survival, x=points[::200])
    assert gaps.mean()[0] == pytest.approx(mean, rel=0.02, abs=0.01)
    assert gaps.std()[0] ** 2 == pytest.approx(square - mean**2, rel=0.1, abs=0.02)
    assert gaps.spread()[0] <= gaps.std()[0] + 1e-12


def test_a_metal_is_a_hit_where_0_is_wanted() -> None:
    gaps = some_gaps(0)
    everything = gaps.probability(None, None)
    assert everything == pytest.approx(1)
    assert gaps.probability(-0.25, 0.25) == pytest.approx(gaps.cdf(0.25))
    assert gaps.probability(0.0, None) == pytest.approx(1 - gaps.metal.mean(0))
    assert gaps.probability(None, 0.0) == pytest.approx(0)
    assert gaps.probability(1.0, 2.0) == pytest.approx(gaps.cdf(2.0) - gaps.cdf(1.0))
    assert gaps.probability(2.0, 1.0) == pytest.approx(0)


@given(seeds, st.floats(0, 0.5))
def test_the_interval_holds_exactly_the_values_whose_score_is_small(seed: int, radius: float) -> None:
    generator = np.random.default_rng(seed)
    gaps = some_gaps(seed, n=40)
    value = np.where(generator.uniform(size=40) < 0.3, 0.0, generator.exponential(2, 40))
    low, high = gaps.interval(radius)
    inside = (value >= low - 1e-7) & (value <= high + 1e-7)
    score = gaps.score(value)
    assert inside[score <= radius - 1e-6].all()
    assert not (inside & (score > radius + 1e-4) & (np.abs(value - low) > 1e-5) & (np.abs(value - high) > 1e-5)).any()


@settings(max_examples=30, deadline=None)
@given(seeds, st.sampled_from([20, 50, 200]), st.sampled_from([0.5, 0.8, 0.9]), st.floats(0.2, 3))
def test_conformal_intervals_cover_what_they_say(seed: int, n: int, confidence: float, wrong: float) -> None:
    """However wrong the scales of the distributions are: over many draws of scores and new values, at least the stated share is covered."""
    generator = np.random.default_rng(seed)
    trials, covered = 60, []
    for _ in range(trials):
        truth = some_gaps(int(generator.integers(2**32)), n=2 * n)
        value = draw(truth, generator, 2 * n)
        said = Gaps(truth.location, truth.scale * wrong, truth.metal**wrong)
        score = said.score(value)
        radius = conformal_radius(score[:n], confidence)
        covered.append((score[n:] <= radius).mean())
    # The standard deviation of the share of one trial is at most that of a beta distribution of n plus that of n new values.
    tolerance = 4 * np.sqrt(confidence * (1 - confidence) * 2 / n / trials)
    assert np.mean(covered) >= confidence - tolerance


@given(st.lists(st.floats(0, 0.5), min_size=1, max_size=60), st.floats(0.05, 0.99))
def test_the_radius_is_the_order_statistic_of_split_conformal_prediction(
    scores: list[float], confidence: float
) -> None:
    """Against numpy's quantile with infinity added, its usual formulation."""
    found = conformal_radius(np.array(scores), confidence)
    padded = np.sort([*scores, 0.5])
    rank = int(np.ceil((len(scores) + 1) * confidence - 1e-9))
    assert found == padded[rank - 1]
