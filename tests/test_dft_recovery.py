"""The recovery ladder, climbed without pw.x: what comes first, what follows each failure, and that it always ends."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dft_data import SILICON, sssp
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.dft.inputs import Cell
from xtalrl.dft.outcomes import Outcome, Result
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.recovery import Attempt, Recovery, Situation, final_result, first_attempt, next_attempt, possible_moment

PAPER_FAST = load_protocol("paper-fast")
ODD = Cell(("Na", "Si"), SILICON.lattice, SILICON.frac_coords)
FAILURES = (Outcome.CHARGE_WRONG, Outcome.NOT_CONVERGED, Outcome.DIAGONALIZATION_FAILED, Outcome.TOO_FEW_BANDS)


def situation(cell: Cell = SILICON, recovery: Recovery = "paper", known: float | None = None) -> Situation:
    return Situation(cell, "crystal", PAPER_FAST, sssp(), recovery, known)


def climb(s: Situation, *results: Result | Outcome) -> list[Attempt]:
    """The attempts made when these are their results, and the one (if any) that would follow."""
    attempt = first_attempt(s)
    attempts = []
    for result in results:
        assert isinstance(attempt, Attempt)
        attempts.append(attempt)
        s.history.append((attempt, result if isinstance(result, Result) else Result(result)))
        attempt = next_attempt(s)
    return [*attempts, attempt] if isinstance(attempt, Attempt) else attempts


def test_parity_decides_before_anything_runs() -> None:
    assert first_attempt(situation(ODD)) is Outcome.ODD_ELECTRONS
    (even,) = climb(situation())
    assert (even.strategy, even.settings.nspin, even.settings.tot_magnetization) == ("unpolarised", 1, None)
    (known,) = climb(situation(ODD, known=0.9999))
    assert (known.strategy, known.settings.nspin, known.settings.tot_magnetization) == ("known_magnetization", 2, 1.0)
    (low,) = climb(situation(ODD, "extended"))
    assert (low.strategy, low.settings.tot_magnetization) == ("low_spin", 1.0)
    lacking = replace(SILICON, species=("Xx", "Si"))
    assert first_attempt(situation(lacking)) is Outcome.NO_PSEUDOPOTENTIAL


@given(st.floats(-40, 40), st.integers(1, 30))
def test_a_moment_has_the_parity_of_the_electrons(magnetization: float, electrons: int) -> None:
    moment = possible_moment(magnetization, electrons)
    assert 0 <= moment <= electrons
    assert moment % 2 == electrons % 2
    if abs(magnetization) <= electrons:
        assert abs(moment - abs(magnetization)) <= 1 + 1e-9


def test_the_paper_drops_what_the_paper_dropped() -> None:
    for outcome in (Outcome.CHARGE_WRONG, Outcome.NOT_CONVERGED, Outcome.ATOMS_OVERLAP):
        assert len(climb(situation(), outcome)) == 1


def test_the_extended_ladder_finds_the_moment_by_smearing() -> None:
    smeared = Result(Outcome.CONVERGED, total_energy_ry=-99.0, total_magnetization=6.7, smearing=True)
    done = Result(Outcome.CONVERGED, total_energy_ry=-1.0, band_gap_raw_ev=0.5)
    wrong = Outcome.CHARGE_WRONG
    s = situation(ODD, "extended")
    attempts = climb(s, wrong, wrong, wrong, smeared, done)
    assert [attempt.strategy for attempt in attempts] == [
        "low_spin",
        "scan_moments",
        "scan_moments",
        "smear_to_find_moment",
        "impose_found_moment",
    ]
    assert [attempt.settings.tot_magnetization for attempt in attempts] == [1, 3, 5, None, 7]
    assert attempts[3].settings.smearing == "marzari-vanderbilt"
    assert final_result(s) == (attempts[4], done)


def test_the_energy_of_a_smearing_run_is_never_the_crystals() -> None:
    smeared = Result(Outcome.CONVERGED, total_energy_ry=-99.0, total_magnetization=0.2, smearing=True)
    s = situation(ODD, "extended")
    attempts = climb(s, *(Outcome.CHARGE_WRONG,) * 3, smeared)
    assert attempts[-1].strategy == "smear_to_find_moment"
    assert final_result(s)[1].outcome is Outcome.CHARGE_WRONG


def test_mixing_and_diagonalization_are_changed_one_at_a_time() -> None:
    attempts = climb(situation(recovery="extended"), *(Outcome.NOT_CONVERGED,) * 4)
    seen = [(attempt.settings.mixing_beta, attempt.settings.diagonalization) for attempt in attempts]
    assert seen == [(0.7, "david"), (0.3, "david"), (0.1, "david"), (0.1, "cg")]


def test_a_killed_run_is_repeated_once() -> None:
    attempts = climb(situation(), Outcome.KILLED, Outcome.KILLED)
    assert [attempt.strategy for attempt in attempts] == ["unpolarised", "again"]
    assert attempts[0].settings == attempts[1].settings


def test_bands_follow_what_pw_says() -> None:
    few = climb(situation(), Outcome.TOO_FEW_BANDS)
    assert [attempt.settings.nbnd for attempt in few] == [8, 16]
    many = climb(situation(), Outcome.MORE_BANDS_THAN_PLANE_WAVES)
    assert [attempt.settings.nbnd for attempt in many] == [8, 5]


@given(
    st.sampled_from(["paper", "extended"]),
    st.sampled_from([SILICON, ODD]),
    st.lists(st.sampled_from(FAILURES), min_size=30, max_size=30),
)
def test_the_ladder_ends_and_makes_no_attempt_twice(recovery: Recovery, cell: Cell, failures: list[Outcome]) -> None:
    s = situation(cell, recovery)
    attempt = first_attempt(s)
    for failure in failures:
        if not isinstance(attempt, Attempt):
            break
        s.history.append((attempt, Result(failure)))
        attempt = next_attempt(s)
    settings = [made.settings for made, _ in s.history]
    assert len(set(settings)) == len(settings)
    assert len(s.history) < 30


@pytest.mark.parametrize("recovery", ["paper", "extended"])
def test_too_little_time_asks_for_more(recovery: Recovery) -> None:
    attempts = climb(situation(recovery=recovery), Outcome.TIME_LIMIT)
    assert attempts[1].strategy == "more_time"
    assert attempts[1].settings == attempts[0].settings
