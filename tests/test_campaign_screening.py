"""The screen of a campaign's round: shares of the budget, order, audit; and what the audit tells, against direct simulation."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from xtalrl.campaign.audit import Stratum, judge, missed
from xtalrl.campaign.screening import (
    FIRST_S_PER_COST,
    Candidate,
    drawn,
    probability,
    ranked,
    seconds_per_cost,
    share_of_round,
    split_hours,
    split_share,
)
from xtalrl.campaign.wishes import Wishes
from xtalrl.metrics.intervals import expected_hits

COUNTS = st.integers(0, 60)


@given(budget=st.integers(1, 500), rounds=st.integers(1, 20))
def test_the_rounds_spend_the_budget_in_equal_shares(budget: int, rounds: int) -> None:
    spent, shares = 0, []
    for number in range(rounds):
        shares.append(share_of_round(budget, spent, rounds - number))
        spent += shares[-1]
    assert spent == budget
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


def test_what_a_round_could_not_spend_goes_to_those_after_it() -> None:
    assert share_of_round(100, 10, 3) == 30


@given(share=COUNTS, audit=st.floats(0, 1), n=COUNTS)
def test_a_share_is_split_without_loss(share: int, audit: float, n: int) -> None:
    chosen, audited = split_share(share, audit, n)
    assert chosen + audited == min(share, n)
    if n <= share:
        assert audited == 0, "nothing is dropped"
    elif 0 < audit < 1 and share >= 2:
        assert chosen >= 1
        assert audited >= 1
        assert abs(audited - share * audit) <= 1


@pytest.mark.parametrize(
    ("share", "audit", "expected"),
    [(40, 0.1, (36, 4)), (4, 0.1, (3, 1)), (1, 0.1, (1, 0)), (4, 0, (4, 0)), (4, 1, (0, 4))],
)
def test_splits(share: int, audit: float, expected: tuple[int, int]) -> None:
    assert split_share(share, audit, 1000) == expected


CANDIDATES = st.lists(st.tuples(st.sampled_from("abcd"), st.sampled_from("XYZ"), st.floats(0, 1)), max_size=20).map(
    lambda found: [Candidate(str(number), *one) for number, one in enumerate(found)]
)


@given(candidates=CANDIDATES, seed=st.randoms())
def test_the_order_is_of_all_once_and_does_not_depend_on_the_file(candidates: list[Candidate], seed: Any) -> None:
    order = ranked(candidates)
    assert Counter(order) == Counter(candidates)
    seed.shuffle(candidates)
    assert ranked(candidates) == order


@given(candidates=CANDIDATES)
def test_the_likeliest_of_its_skeleton_and_formula_comes_before_what_repeats_both(candidates: list[Candidate]) -> None:
    place = {one.request_id: number for number, one in enumerate(ranked(candidates))}
    for one, other in itertools.permutations(candidates, 2):
        likelier = [
            each for each in candidates if (-each.probability, each.request_id) < (-one.probability, one.request_id)
        ]
        is_first = all(each.skeleton != one.skeleton and each.formula != one.formula for each in likelier)
        repeats = any(
            (each.skeleton == other.skeleton or each.formula == other.formula)
            and (-each.probability, each.request_id) < (-other.probability, other.request_id)
            for each in candidates
        )
        if is_first and repeats:
            assert place[one.request_id] < place[other.request_id]


def test_variants_of_one_crystal_do_not_fill_a_round() -> None:
    many = [Candidate(f"a{number}", "a", f"F{number}", 0.9 - number / 100) for number in range(5)]
    others = [Candidate("b", "b", "G", 0.2), Candidate("c", "c", "H", 0.1)]
    assert [one.request_id for one in ranked(many + others)] == ["a0", "b", "c", "a1", "a2", "a3", "a4"]


def test_all_dropped_designs_are_as_likely_to_be_audited() -> None:
    ids = [f"d{number}" for number in range(10)]
    counts = Counter(one for seed in range(3000) for one in drawn(ids, 3, seed, 1))
    assert stats.chisquare([counts[one] for one in ids]).pvalue > 0.001
    assert drawn(ids, 3, 0, 1) == drawn(ids[::-1], 3, 0, 1)
    assert drawn(ids, 3, 0, 1) != drawn(ids, 3, 0, 2)
    assert drawn([], 0, 0, 1) == set()


# ---- What the audit tells ---------------------------------------------------------------------------------------------------------


def campaign(generator: np.random.Generator, rounds: int, pool: int, share: int, audit: int, skill: float) -> Any:
    """A campaign with known hits: the strata that are seen, and the true recall and rate."""
    strata, found, there, size = [], 0, 0, 0
    for _ in range(rounds):
        is_hit = generator.random(pool) < 0.15
        score = skill * is_hit + generator.random(pool)
        order = np.argsort(-score)
        chosen, dropped = order[: share - audit], order[share - audit :]
        audited = generator.choice(dropped, audit, replace=False)
        strata.append(Stratum(len(chosen), int(is_hit[chosen].sum()), len(dropped), audit, int(is_hit[audited].sum())))
        found, there, size = found + int(is_hit[chosen].sum()), there + int(is_hit.sum()), size + pool
    return strata, found / there, there / size


@pytest.mark.parametrize("skill", [0.0, 0.6, 2.0])
def test_recall_and_rate_are_what_they_are_in_simulated_campaigns(skill: float) -> None:
    generator = np.random.default_rng(1)
    covered = {"recall": 0, "rate": 0}
    estimates, truths = [], []
    n = 400
    for _ in range(n):
        strata, recall, rate = campaign(generator, rounds=3, pool=120, share=40, audit=10, skill=skill)
        verdict = judge(strata, samples=500, confidence=0.9)
        assert verdict.recall.low is not None and verdict.recall.high is not None
        assert (
            verdict.unscreened.value is not None
            and verdict.unscreened.low is not None
            and verdict.unscreened.high is not None
        )
        covered["recall"] += verdict.recall.low - 1e-9 <= recall <= verdict.recall.high + 1e-9
        covered["rate"] += verdict.unscreened.low - 1e-9 <= rate <= verdict.unscreened.high + 1e-9
        estimates.append(verdict.unscreened.value)
        truths.append(rate)
    # The estimate of the rate is unbiased: its weights are those of the draw.
    difference = np.array(estimates) - truths
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(n)
    assert covered["recall"] >= 0.86 * n
    assert covered["rate"] >= 0.86 * n


STRATA = st.lists(
    st.tuples(st.integers(1, 30), st.integers(1, 30), st.integers(1, 100), st.floats(0, 1), st.floats(0, 1)).map(
        lambda x: Stratum(x[0], round(x[0] * x[3]), x[1] + x[2], x[1], round(x[1] * x[4]))
    ),
    min_size=1,
    max_size=4,
)


@given(strata=STRATA)
def test_shares_are_shares_and_lie_in_their_intervals(strata: list[Stratum]) -> None:
    verdict = judge(strata, 200, 0.95)
    for estimate in (verdict.screened, verdict.unscreened, verdict.recall):
        if estimate.value is not None:
            assert estimate.low is not None and estimate.high is not None
            assert -1e-9 <= estimate.low <= estimate.value <= estimate.high <= 1 + 1e-9
    if verdict.acceleration.value is not None:
        assert verdict.screened.value is not None and verdict.unscreened.value is not None
        assert verdict.acceleration.value == pytest.approx(verdict.screened.value / verdict.unscreened.value)
    if verdict.recall_at_most is not None and verdict.recall.value is not None:
        assert verdict.recall.value <= verdict.recall_at_most + 1e-9


@given(strata=STRATA)
def test_a_round_without_an_audit_leaves_recall_unknown(strata: list[Stratum]) -> None:
    assert missed([*strata, Stratum(5, 1, 20, 0, 0)], 10) is None
    assert judge([*strata, Stratum(5, 1, 20, 0, 0)], 10, 0.95).recall.value is None


def test_where_nothing_was_dropped_everything_is_known() -> None:
    verdict = judge([Stratum(8, 2, 0, 0, 0)], 100, 0.95)
    assert (verdict.recall.value, verdict.recall.low, verdict.recall.high) == (1, 1, 1)
    assert verdict.acceleration.value == 1


def test_one_audited_hit_stands_for_as_many_as_were_dropped_for_one_audited() -> None:
    verdict = judge([Stratum(10, 6, 100, 10, 1)], 2000, 0.95)
    assert verdict.recall.value == pytest.approx(6 / (6 + 10))
    assert verdict.unscreened.value == pytest.approx(16 / 110)
    assert verdict.acceleration.value == pytest.approx(0.6 / (16 / 110))
    assert verdict.recall_at_most == pytest.approx(10 / 16)


@given(p=st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_promised_hits_are_the_sum_of_the_probabilities(p: list[float]) -> None:
    promised = expected_hits(p, 0.95)
    assert promised.value == pytest.approx(sum(p))
    assert promised.low is not None and promised.high is not None
    assert 0 <= promised.low <= promised.value <= promised.high <= len(p)


def test_the_interval_of_promised_hits_is_that_of_the_binomial_where_all_are_alike() -> None:
    promised = expected_hits([0.3] * 40, 0.9)
    assert (promised.low, promised.high) == stats.binom(40, 0.3).interval(0.9)


# ---- What is a hit ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wishes", "design", "above_hull", "expected"),
    [
        ({"gap_from": 1, "gap_to": 2}, {"band_gap": 1.5}, None, True),
        ({"gap_from": 1, "gap_to": 2}, {"band_gap": 1.0}, None, False),
        ({"gap_from": 1, "gap_to": 2}, {"band_gap": None}, None, False),
        ({"gap_from": 3, "gap_to": None}, {"band_gap": 9.0}, None, True),
        ({"gap_from": 3, "gap_to": None}, {"band_gap": 2.9}, None, False),
        ({"gap_from": 1, "gap_to": 2, "novel": True}, {"band_gap": 1.5, "novel": False}, None, False),
        ({"gap_from": 1, "gap_to": 2, "highest_formation_energy": -1}, {"band_gap": 1.5, "formation_energy_per_atom": -0.5}, None, False),
        ({"gap_from": 1, "gap_to": 2, "highest_formation_energy": -1}, {"band_gap": 1.5, "formation_energy_per_atom": -1.5}, None, True),
        ({"gap_from": 1, "gap_to": 2, "highest_above_hull": 0.1}, {"band_gap": 1.5}, 0.2, False),
        ({"gap_from": 1, "gap_to": 2, "highest_above_hull": 0.1}, {"band_gap": 1.5}, None, True),
    ],
)  # fmt: skip
def test_a_hit_meets_all_wishes(
    wishes: dict[str, Any], design: dict[str, Any], above_hull: float | None, expected: bool
) -> None:
    nothing = {"formation_energy_per_atom": None, "novel": None}
    assert Wishes(**wishes).are_met(nothing | design, above_hull) == expected


def test_a_wished_formation_energy_makes_a_hit_less_likely() -> None:
    said = {"p_hit": 0.5, "formation_energy_per_atom": -1.0, "formation_energy_std": 0.5}
    assert probability(said, Wishes(1, 2)) == 0.5
    assert probability(said, Wishes(1, 2, highest_formation_energy=-1.0)) == pytest.approx(0.25)
    assert probability(said, Wishes(1, 2, highest_formation_energy=-1.5)) == pytest.approx(0.5 * stats.norm.cdf(-1))


def test_a_range_without_an_upper_end_reaches_to_the_widest_gap() -> None:
    assert Wishes(3, None).middle_ev + Wishes(3, None).half_width_ev == 30
    assert Wishes(3, None).in_words == "at least 3 eV"


def test_a_share_of_core_hours_ends_where_its_estimate_is_spent() -> None:
    assert split_hours(100, 0.2, [30, 40, 20, 10, 10, 30, 10]) == (
        2,
        1,
    )  # 70 of 80 s; 20 s of draws of 16 s in the mean
    assert split_hours(1000, 0.2, [30, 40]) == (2, 0), "all of them"
    assert split_hours(10, 0.5, [30, 40, 50]) == (1, 1), "at least one of each kind"
    assert split_hours(100, 0, [60, 60]) == (1, 0)
    assert split_hours(100, 1, [60, 60, 60]) == (0, 1)
    assert split_hours(100, 0.1, []) == (0, 0)


@given(
    share=st.floats(0, 1000),
    audit=st.floats(0, 1),
    costs=st.lists(st.floats(0.1, 100), min_size=1, max_size=30),
)
def test_the_chosen_stay_within_their_hours(share: float, audit: float, costs: list[float]) -> None:
    chosen, audited = split_hours(share, audit, costs)
    assert 0 < chosen + audited <= len(costs)
    assert chosen <= 1 or sum(costs[:chosen]) <= max(share * (1 - audit), share if chosen == len(costs) else 0) + 1e-6
    assert (audited > 0) == (audit > 0 and chosen < len(costs))


def test_the_price_is_what_earlier_rounds_took() -> None:
    outcomes = [{"request_id": name, "wall_s": wall} for name, wall in (("a", 30.0), ("b", 90.0), ("ref-Na", 500.0))]
    assert seconds_per_cost({"a": 1000.0, "b": 2000.0}, outcomes) == pytest.approx(0.04)
    assert seconds_per_cost({}, outcomes) == FIRST_S_PER_COST
