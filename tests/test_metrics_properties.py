"""Metrics of a policy: hand-computed on toy designs, and what must hold for any."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.metrics import composition, properties
from xtalrl.metrics.designs import Labels, PolicyDesigns
from xtalrl.metrics.intervals import Estimate
from xtalrl.metrics.scoring import Scoring

NAN = np.nan
SAMPLER_OPTIONS = (100, 0.95)
SCORING = Scoring(*SAMPLER_OPTIONS, window_ev=0.25, targets_ev=(), stable_ev_per_atom=0.1)


def designs(**arrays: Any) -> PolicyDesigns:
    """Designs of one seed unless arrays say otherwise; what is not named is a valid, converged, wrong design of two sites."""
    gaps = np.atleast_2d(np.array(arrays.get("band_gap", [1.0, 2.0, 3.0]), dtype=float))
    shape = gaps.shape
    defaults = {
        "composition": np.arange(gaps.size).reshape(shape),
        "n_sites": np.full(shape, 2.0),
        "n_correct": np.zeros(shape),
        "n_similar": np.zeros(shape),
        "valid": np.ones(shape),
        "valid_smact14": np.ones(shape),
        "valid_icsd24": np.ones(shape),
        "odd_electrons": np.zeros(shape),
        "novel": np.full(shape, NAN),
        "converged": np.isfinite(gaps).astype(float),
        "recovered": np.where(np.isfinite(gaps), 0.0, NAN),
        "band_gap_raw": gaps,
        "formation_energy_per_atom": np.where(np.isfinite(gaps), -1.0, NAN),
        "energy_above_hull": np.full(shape, NAN),
        "hull_is_complete": np.full(shape, NAN),
        "p_hit": np.full(shape, NAN),
        "true_band_gap": np.zeros(shape[1]),
    }
    labels = arrays.pop("labels", Labels())
    given_arrays = {name: np.array(value, dtype=float) for name, value in arrays.items() if name != "band_gap"}
    fields = {
        name: value if name.startswith("true_") else np.atleast_2d(value)
        for name, value in (defaults | given_arrays).items()
    }
    return PolicyDesigns(
        policy="toy",
        seeds=tuple(range(shape[0])),
        material_ids=tuple(f"mp-{i}" for i in range(shape[1])),
        validity_rule="cdvae-smact14",
        band_gap=gaps,
        labels=labels,
        **fields,
    )


def estimate(
    metric: Callable[..., Estimate],
    toy: PolicyDesigns,
    target_ev: float | None = None,
    window_ev: float = 0.25,
    **options: Any,
) -> Estimate:
    return metric(toy, replace(SCORING, target_ev=target_ev, window_ev=window_ev), **options)


def test_odd_electrons_are_counted_among_the_valid() -> None:
    """Of four designs three are odd, of which one is valid, as is the even one: 1/2."""
    toy = designs(band_gap=[1.0] * 4, valid=[1, 0, 0, 1], odd_electrons=[1, 1, 1, 0])
    assert estimate(composition.odd_electrons, toy).value == pytest.approx(1 / 2)


def test_accuracy_is_over_atoms_not_crystals() -> None:
    """1 of 1 and 1 of 9 atoms: 2/10, not the mean of 100 % and 11 %."""
    toy = designs(band_gap=[1.0, 1.0], n_sites=[1, 9], n_correct=[1, 1], n_similar=[1, 5])
    assert estimate(composition.accuracy, toy).value == pytest.approx(0.2)
    assert estimate(composition.similarity, toy).value == pytest.approx(0.6)
    assert estimate(composition.accuracy, toy).n == 10
    assert estimate(composition.exact_match, toy).value == 0.5


def test_validity_is_over_all_and_novelty_over_valid_designs() -> None:
    toy = designs(band_gap=[NAN] * 5, valid=[1, 1, 1, 0, 0], novel=[1, 0, 0, NAN, NAN], converged=[0] * 5)
    assert estimate(composition.validity, toy).value == pytest.approx(3 / 5)
    assert estimate(composition.novelty, toy).value == pytest.approx(1 / 3)
    assert estimate(composition.novelty, toy).n == 3


def test_novelty_without_a_list_is_unknown_not_zero() -> None:
    assert estimate(composition.novelty, designs()).value is None


def test_dft_success_has_two_denominators() -> None:
    toy = designs(band_gap=[1.0, NAN, 2.0, NAN], valid=[1, 1, 1, 0])
    assert estimate(properties.dft_success, toy).value == pytest.approx(2 / 3)
    assert estimate(properties.dft_success_of_all, toy).value == pytest.approx(2 / 4)


def test_a_converged_scf_without_gap_is_a_success_outside_every_range() -> None:
    toy = designs(band_gap=[NAN, 1.0], converged=[1, 1])
    assert estimate(properties.dft_success, toy).value == 1
    assert estimate(properties.mean_band_gap, toy).n == 1
    assert estimate(properties.desired_range, toy, 1.0, 0.25, of="successes").value == 0.5


def test_desired_range_and_out_of_distribution_by_hand() -> None:
    """Five designs, target 2 ± 0.25: gaps 1.8 and 2.2 hit; the true crystal of the first has 2.1 (inside), of the second 0.5."""
    toy = designs(band_gap=[1.8, 2.2, 2.6, 0.0, NAN], true_band_gap=[2.1, 0.5, 2.0, 0.0, 2.0])
    assert estimate(properties.desired_range, toy, 2.0, 0.25).value == pytest.approx(2 / 5)
    assert estimate(properties.desired_range, toy, 2.0, 0.25, of="successes").value == pytest.approx(2 / 4)
    assert estimate(properties.out_of_distribution, toy, 2.0, 0.25).value == pytest.approx(1 / 5)
    assert estimate(properties.out_of_distribution, toy, 2.0, 0.25, of="successes").value == pytest.approx(1 / 4)


def test_the_window_is_open() -> None:
    gaps = np.array([0.87, 0.8700001, 1.12, 1.3699999, 1.37, NAN])
    assert properties.in_window(gaps, 1.12, 0.25).tolist() == [False, True, True, True, False, False]


def test_a_true_gap_on_the_bound_is_outside_and_an_unknown_one_counts_for_nothing() -> None:
    toy = designs(band_gap=[2.0, 2.0, 2.0], true_band_gap=[2.25, NAN, 2.2])
    assert estimate(properties.out_of_distribution, toy, 2.0, 0.25).value == pytest.approx(1 / 3)


def test_means_are_over_what_is_known() -> None:
    toy = designs(band_gap=[1.0, NAN, 2.0, 0.0], formation_energy_per_atom=[-1.0, NAN, NAN, -3.0])
    assert estimate(properties.mean_band_gap, toy).value == 1.0
    assert estimate(properties.mean_formation_energy, toy).value == -2.0
    assert estimate(properties.mean_formation_energy, toy).n == 2


def test_distance_from_all_reference_crystals() -> None:
    """Designs {1, 1} against the labels {1, 1, 4} of three crystals: a third of the mass moves by 3. One label has no design."""
    toy = designs(band_gap=[1.0, 1.0], labels=Labels(band_gap={"mp-0": 1.0, "mp-1": 1.0, "mp-77": 4.0}))
    distance = estimate(properties.band_gap_distance, toy)
    assert distance.value == pytest.approx(1.0)
    assert distance.low is not None
    assert distance.high is not None
    assert distance.low < 1 < distance.high


def test_no_labels_no_distance() -> None:
    assert estimate(properties.formation_energy_distance, designs()).value is None


def test_raw_gaps_may_be_negative() -> None:
    """Raw gaps {-1, 1} have mean 0; clipped {0, 1} mean 0.5. Against raw labels {-1, 1} the distance is 0, clipped 0.5 from {1, 1}."""
    labels = Labels(band_gap={"mp-0": 1.0, "mp-1": 1.0}, band_gap_raw={"mp-0": -1.0, "mp-1": 1.0})
    toy = designs(band_gap=[0.0, 1.0], band_gap_raw=[-1.0, 1.0], labels=labels)
    assert estimate(properties.mean_band_gap, toy).value == 0.5
    assert estimate(properties.mean_band_gap, toy, gaps="raw").value == 0
    assert estimate(properties.band_gap_distance, toy).value == pytest.approx(0.5)
    assert estimate(properties.band_gap_distance, toy, gaps="raw").value == pytest.approx(0)


def test_by_the_papers_rules_a_recovered_design_failed() -> None:
    """Four valid designs: two plain successes, one recovered, one failure; the recovered one is in the range."""
    toy = designs(band_gap=[1.0, 3.0, 1.1, NAN], recovered=[0, 0, 1, NAN])
    assert estimate(properties.dft_success, toy).value == pytest.approx(3 / 4)
    assert estimate(properties.dft_success_by_the_papers_rules, toy).value == pytest.approx(2 / 4)
    assert estimate(properties.dft_success_of_all_by_the_papers_rules, toy).value == pytest.approx(2 / 4)
    assert estimate(properties.desired_range, toy, 1.0, 0.25).value == pytest.approx(2 / 4)
    assert estimate(properties.desired_range_by_the_papers_rules, toy, 1.0, 0.25).value == pytest.approx(1 / 4)
    assert estimate(properties.out_of_distribution_by_the_papers_rules, toy, 1.0, 0.25).value == pytest.approx(1 / 4)
    assert estimate(properties.mean_band_gap, toy.by_the_papers_rules()).n == 2


def test_uniqueness_counts_compositions_within_a_seed() -> None:
    """Seed 0 has 2 compositions in 4 designs, seed 1 has 4 in 4, the same as of seed 0 among them: 6 of 8."""
    toy = designs(band_gap=np.ones((2, 4)), composition=[[5, 5, 5, 7], [5, 6, 7, 8]])
    assert estimate(composition.uniqueness, toy).value == pytest.approx(6 / 8)


def test_gap_errors_by_hand() -> None:
    """Ours {0, 1, 2, unknown} against {1, 1, 3, 2}: errors {-1, 0, -1}; one of three has no gap here."""
    gaps = properties.GapPairs(np.array([0.0, 1.0, 2.0, NAN]), np.array([1.0, 1.0, 3.0, 2.0]))
    assert properties.mean_absolute_gap_error(gaps, SCORING).value == pytest.approx(2 / 3)
    assert properties.mean_gap_error(gaps, SCORING).value == pytest.approx(-2 / 3)
    assert properties.share_without_gap(gaps, SCORING).value == pytest.approx(1 / 3)
    assert properties.share_without_gap(gaps, SCORING).n == 3


gap = st.none() | st.floats(0, 6)


@st.composite
def any_designs(draw: st.DrawFn) -> PolicyDesigns:
    n_seeds, n_crystals = draw(st.integers(1, 2)), draw(st.integers(1, 6))
    cell = st.tuples(gap, st.booleans())
    table = draw(st.lists(st.lists(cell, min_size=n_crystals, max_size=n_crystals), min_size=n_seeds, max_size=n_seeds))
    return designs(
        band_gap=[[NAN if g is None else g for g, _ in row] for row in table],
        valid=[[float(g is not None or valid) for g, valid in row] for row in table],
        true_band_gap=[NAN if (g := draw(gap)) is None else g for _ in range(n_crystals)],
    )


@given(any_designs(), st.floats(0, 5), st.floats(0.05, 1))
def test_kappa_is_at_most_nu_and_both_are_shares(toy: PolicyDesigns, target: float, window: float) -> None:
    for of in ("all", "successes"):
        nu = estimate(properties.desired_range, toy, target, window, of=of)
        kappa = estimate(properties.out_of_distribution, toy, target, window, of=of)
        assert (nu.value is None) == (kappa.value is None)
        if nu.value is not None and kappa.value is not None:
            assert 0 <= kappa.value <= nu.value <= 1
            if nu.low is not None and nu.high is not None:
                assert 0 <= nu.low <= nu.value + 1e-12 <= nu.high + 2e-12 <= 1 + 3e-12


@given(any_designs(), st.floats(0, 5))
def test_over_all_is_at_most_over_successes(toy: PolicyDesigns, target: float) -> None:
    over_all = estimate(properties.desired_range, toy, target, 0.25)
    over_successes = estimate(properties.desired_range, toy, target, 0.25, of="successes")
    if over_all.value is not None and over_successes.value is not None:
        assert over_all.value <= over_successes.value


@given(any_designs(), st.randoms(use_true_random=False))
def test_the_order_of_crystals_does_not_matter(toy: PolicyDesigns, random: Any) -> None:
    order = list(range(len(toy.material_ids)))
    random.shuffle(order)
    shuffled = designs(
        band_gap=toy.band_gap[:, order], valid=toy.valid[:, order], true_band_gap=toy.true_band_gap[order]
    )
    for metric in (
        composition.validity,
        properties.dft_success,
        properties.mean_band_gap,
        properties.mean_formation_energy,
    ):
        assert estimate(metric, shuffled).value == pytest.approx(estimate(metric, toy).value)
    for metric in (properties.desired_range, properties.out_of_distribution):
        assert estimate(metric, shuffled, 2.0, 0.5).value == estimate(metric, toy, 2.0, 0.5).value


@given(any_designs())
def test_reproducing_the_labels_is_no_distance_from_them(toy: PolicyDesigns) -> None:
    own = {
        name: float(value) for name, value in zip(toy.material_ids, toy.band_gap[0], strict=True) if np.isfinite(value)
    }
    copied = designs(band_gap=toy.band_gap[:1], labels=Labels(band_gap=own))
    distance = estimate(properties.band_gap_distance, copied)
    assert distance.value is None if not own else distance.value == pytest.approx(0, abs=1e-12)
