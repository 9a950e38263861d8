"""The climb of one request, without pw.x: whatever an attempt gives, the climb ends, within its time, with one record per attempt."""

from __future__ import annotations

from dataclasses import replace

import pytest
from dft_data import SILICON, sssp
from hypothesis import given
from hypothesis import strategies as st

from xtalrl.dft.cache import Record, iterations_in
from xtalrl.dft.climb import AttemptLimits, climb
from xtalrl.dft.inputs import calculation, key_of
from xtalrl.dft.outcomes import Outcome, Result, Run, classify
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.recovery import MOST_ATTEMPTS, STUCK_ITERATIONS, Attempt, Recovery, Situation

PROTOCOL = load_protocol("paper-fast")
FREE = AttemptLimits((60.0,), in_all=False)


class Stub:
    """Gives the results it was told, in turn, then the last one without end."""

    def __init__(self, *results: Result, wall_s: float = 1.0) -> None:
        self.results, self.wall_s = list(results), wall_s
        self.limits: list[float] = []

    def __call__(self, attempt: Attempt, limit_s: float) -> tuple[Record, Result]:
        self.limits.append(limit_s)
        result = self.results[min(len(self.limits), len(self.results)) - 1]
        content = calculation(SILICON, attempt.settings.physics(), sssp())
        run = Run("", "", 0, wall_s=min(self.wall_s, limit_s))
        record = Record.of(key_of(content), run, result, limit_s, "pw.x", PROTOCOL.name, sssp().name, content)
        return record, result


def situation(recovery: Recovery = "extended", known: float | None = None) -> Situation:
    return Situation(SILICON, "crystal", PROTOCOL, sssp(), recovery, known)


def test_a_crystal_that_converges_takes_one_attempt() -> None:
    made = climb(situation(), FREE, Stub(Result(Outcome.CONVERGED, "", -16.0, 0.6)), accept_not_saved=False)
    assert [attempt.strategy for attempt, _ in made.situation.history] == ["unpolarised"]
    assert (len(made.records), made.verdict, made.paper_has_it()) == (1, None, True)


def test_an_element_without_pseudopotential_takes_none() -> None:
    unknown = replace(situation(), cell=replace(SILICON, species=("Og", "Si")))
    stub = Stub(Result(Outcome.CONVERGED, "", -16.0, 0.6))
    made = climb(unknown, FREE, stub, accept_not_saved=False)
    assert (made.verdict, made.records, stub.limits) == (Outcome.NO_PSEUDOPOTENTIAL, [], [])


def test_no_more_time_is_no_reason_to_run_again() -> None:
    stub = Stub(Result(Outcome.TIME_LIMIT, iterations=3), wall_s=60.0)
    climb(situation("paper"), AttemptLimits((60.0, 90.0), in_all=False), stub, accept_not_saved=False)
    assert stub.limits == [60.0, 90.0]


def test_what_was_not_saved_is_a_failure_unless_it_is_accepted() -> None:
    unsaved = Result(Outcome.CONVERGED_NOT_SAVED, "", -16.0, 0.6)
    for accept, outcome in ((True, Outcome.CONVERGED_NOT_SAVED), (False, Outcome.NOT_SAVED)):
        made = climb(situation("paper"), FREE, Stub(unsaved), accept)
        assert made.situation.last[1].outcome is outcome


results = st.builds(
    Result,
    st.sampled_from(list(Outcome)),
    total_energy_ry=st.floats(-20, -1),
    band_gap_raw_ev=st.none() | st.floats(-1, 3),
    total_magnetization=st.none() | st.floats(-4, 4),
    smearing=st.booleans(),
    iterations=st.none() | st.integers(0, 2 * STUCK_ITERATIONS),
)


@given(
    st.lists(results, min_size=1, max_size=6),
    st.lists(st.floats(1, 100), min_size=1, max_size=3),
    st.floats(0.5, 50),
    st.sampled_from(["paper", "extended"]),
)
def test_every_climb_ends_within_its_time(
    told: list[Result], limits_s: list[float], wall_s: float, recovery: Recovery
) -> None:
    stub = Stub(*told, wall_s=wall_s)
    made = climb(situation(recovery), AttemptLimits(tuple(limits_s), in_all=True), stub, accept_not_saved=False)
    assert len(made.records) == len(made.situation.history) <= MOST_ATTEMPTS
    assert sum(record.wall_s for record in made.records) <= sum(limits_s) + 0.01


def test_the_limits_of_a_design_add_up() -> None:
    one, two = AttemptLimits((60.0,), in_all=True), AttemptLimits((60.0, 20.0), in_all=True)
    assert [one.of([]), one.of([45.0])] == [60.0, 15.0]
    assert [two.of([]), two.of([45.0]), two.of([60.0, 15.0])] == [60.0, 20.0, 5.0]
    assert AttemptLimits((60.0, 20.0), in_all=False).of([60.0, 20.0, 20.0]) == 20.0


@pytest.mark.parametrize("scfs", [1, 3])
def test_the_cache_gives_back_how_many_iterations_were_done(scfs: int) -> None:
    """A record holds the detail alone, so that its reader has to know the sentence."""
    scf = "     Self-consistent Calculation\n" + "     estimated scf accuracy    <  0.1 Ry\n" * 57
    result = classify(Run("     Program PWSCF v.7.2 starts\n" + scf * scfs, "", -9, timed_out=True))
    assert (result.outcome, result.iterations) == (Outcome.TIME_LIMIT, 57)
    record, _ = Stub(result)(Attempt("unpolarised", situation().base()), 60.0)
    assert record.result == result
    assert iterations_in("signal 9") is None
