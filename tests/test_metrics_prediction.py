"""Figures of predictions beside what turned out."""

from __future__ import annotations

import itertools
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xtalrl import tables
from xtalrl.metrics.prediction import (
    Judged,
    area_under_curve,
    calibration_error,
    figures,
    rank_correlation,
    resampled,
)


def judged(n: int, seed: int = 0, **columns: Any) -> Judged:
    generator = np.random.default_rng(seed)
    values = {field.name: generator.uniform(0, 3, n) for field in fields(Judged)}
    values["p_metal"] = generator.uniform(0, 1, n)
    values["true_gap"] = np.where(generator.uniform(size=n) < 0.5, 0.0, values["true_gap"])
    return Judged(**(values | {name: np.asarray(column, float) for name, column in columns.items()}))


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=30))
def test_the_area_under_the_curve_counts_pairs(pairs: list[tuple[int, bool]]) -> None:
    score, positive = np.array([s for s, _ in pairs], float), np.array([p for _, p in pairs])
    better = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(score[positive], score[~positive])]
    found = area_under_curve(score, positive)
    assert np.isnan(found) if not better else found == pytest.approx(np.mean(better))


def test_the_rank_correlation_is_spearmans() -> None:
    one = judged(50)
    expected = (1 - one.p_metal) * one.nonmetal_gap
    assert rank_correlation(one) == pytest.approx(stats.spearmanr(expected, one.true_gap).statistic)
    assert np.isnan(rank_correlation(judged(5, true_gap=np.zeros(5))))


def test_probabilities_that_mean_what_they_say_have_no_calibration_error() -> None:
    generator = np.random.default_rng(0)
    probability = generator.uniform(size=200_000)
    assert calibration_error(probability, generator.uniform(size=200_000) < probability) < 0.01
    assert calibration_error(np.ones(4), np.array([True, True, False, False])) == pytest.approx(0.5)
    assert calibration_error(np.array([0.1, 0.9]), np.array([False, True])) == pytest.approx(0.1)


def test_a_failed_scf_is_no_hit_and_has_no_error() -> None:
    one = judged(
        4, true_gap=[np.nan, 1.1, 0.0, 2.0], gap=[1, 1, 1, 1], gap_from=[1.0] * 4, gap_to=[1.5] * 4, p_hit=[0.5] * 4,
        gap_low=[0.5] * 4, gap_high=[1.5] * 4,
    )  # fmt: skip
    found = {figure.name: figure for figure in figures(one, 0.9)}
    error = found["gap, mean absolute error"]
    assert error.estimate.value == pytest.approx((0.1 + 1 + 1) / 3)
    assert error.estimate.n == 3
    assert error.constant == pytest.approx((0 + 1.1 + 0.9) / 3)
    assert found["hits expected"].estimate.value == 2
    assert found["hits found"].estimate.value == 1
    assert found["gap, share covered by the 90 % intervals"].estimate.value == pytest.approx(1 / 3)
    assert found["metals told from nonmetals, area under the curve"].estimate.n == 3


def test_intervals_hold_their_value_and_are_the_same_every_time() -> None:
    one = judged(60)
    first, second = ([figure.estimate for figure in figures(one, 0.9)] for _ in range(2))
    assert first == second
    assert all(
        e.low <= e.value <= e.high for e in first if e.value is not None and e.low is not None and e.high is not None
    )


def test_predictions_without_intervals_have_no_coverage() -> None:
    nothing = np.full(5, np.nan)
    one = judged(5, gap_low=nothing, gap_high=nothing)
    found = {figure.name: figure.estimate.value for figure in figures(one, 0.9)}
    assert found["gap, share covered by the 90 % intervals"] is None
    assert found["gap, mean absolute error"] is not None


def test_nothing_known_gives_nothing() -> None:
    nothing = judged(3, true_gap=[np.nan] * 3, true_energy=[np.nan] * 3, p_hit=[np.nan] * 3)
    assert all(figure.estimate.value is None for figure in figures(nothing, 0.9))
    assert resampled(rank_correlation, judged(0)).value is None


def test_a_perfect_ranking_of_a_few_is_no_certainty() -> None:
    perfect = judged(5, p_metal=np.zeros(5), nonmetal_gap=np.arange(5.0), true_gap=np.arange(5.0))
    correlation = resampled(rank_correlation, perfect)
    assert (correlation.value, correlation.low, correlation.high) == (pytest.approx(1), None, None)


def test_it_reads_tables(tmp_path: Path) -> None:
    prediction = {field.name: 0.5 for field in tables.PREDICTIONS} | {
        "calibrated_on": "crystals",
        "predictor": "x",
        "gap_to": None,
    }
    label = {"split": "val", "outcome": "converged", "detail": "", "source": "scf"}
    tables.write_rows(
        [prediction | {"material_id": name} for name in "abc"], tables.PREDICTIONS, tmp_path / "p.parquet"
    )
    labels = [label | {"material_id": "b", "band_gap": 1.0}, label | {"material_id": "a"}, label | {"material_id": "z"}]
    tables.write_rows(labels, tables.LABELS, tmp_path / "l.parquet")
    read = Judged.read(tmp_path / "p.parquet", tmp_path / "l.parquet")
    assert len(read) == 2
    assert read.is_hit.tolist() == [False, True]
    assert np.isnan(read.true_gap[0])
    assert read.gap_to.tolist() == [np.inf] * 2
