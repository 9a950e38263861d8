"""The recovery ladder, climbed without pw.x: what comes first, what follows each failure, and that it always ends."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from dft_data import SHARED, SILICON, SSSP, needs_shared, sssp
from hypothesis import given
from hypothesis import strategies as st
from test_dft_engines import fetched_cache, needs_embedded
from test_dft_shards import crystal

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.dft import recovery as recovery_module
from xtalrl.dft.outcomes import Outcome, Result, Run, classify
from xtalrl.dft.protocols import PROTOCOLS, load_protocol
from xtalrl.dft.pseudopotentials import fetch_family
from xtalrl.dft.recovery import (
    MOST_ATTEMPTS,
    RUNGS,
    SEARCH_DEGAUSS_RY,
    STUCK_ITERATIONS,
    Attempt,
    Recovery,
    Rung,
    Situation,
    final_result,
    first_attempt,
    lower_state,
    next_attempt,
    possible_moment,
)
from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.dft.shards import run_shard

FIXTURES = Path(__file__).parent / "fixtures" / "recovery"
PAPER_FAST = load_protocol("paper-fast")
MNO = Cell(("Mn", "O"), SILICON.lattice, SILICON.frac_coords)
MN2O2 = Cell(("Mn", "Mn", "O", "O"), SILICON.lattice, (0, 0, 0, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.75, 0.75, 0.75))
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


def converged(energy: float, gap: float) -> Result:
    """With fixed occupations."""
    return Result(Outcome.CONVERGED, total_energy_ry=energy, band_gap_raw_ev=gap)


def smeared(moment: float, energy: float = -1.0) -> Result:
    """With smearing, which has found a moment."""
    return Result(Outcome.CONVERGED, total_energy_ry=energy, total_magnetization=moment, smearing=True)


def recorded(name: str) -> Result:
    """What a real run of the embedded pw.x gave, its output cut by hand to what the ladder looks at."""
    return classify(Run((FIXTURES / f"{name}.out").read_text(), "", exit_code=None))


# Runs on cubes of 4 Å (nitrogen, gamma point) and on textbook cells; what each rung is for, and what pw.x really said.
REAL: dict[str, tuple[Cell, list[str], list[str]]] = {
    "an atom with another moment than 1 µB": (
        Cell(("N",), (4, 0, 0, 0, 4, 0, 0, 0, 4), (0, 0, 0)),
        ["nitrogen_low_spin_gapless", "nitrogen_smearing_finds_3_bohr", "nitrogen_3_bohr_imposed"],
        ["low_spin", "smear_to_find_moment", "impose_found_moment"],
    ),
    "a metal": (
        Cell(("Al",), (0, 2.025, 2.025, 2.025, 0, 2.025, 2.025, 2.025, 0), (0, 0, 0)),
        ["aluminium_low_spin_gapless", "aluminium_smearing_finds_a_metal", "aluminium_smearing_finds_a_metal"],
        ["low_spin", "smear_to_find_moment", "converge_as_a_metal"],
    ),
    "an insulator": (SILICON, ["silicon_converged"], ["unpolarised"]),
    "too few iterations": (
        SILICON,
        ["silicon_not_converged", "silicon_not_converged", "silicon_converged"],
        ["unpolarised", "smear_to_find_moment", "mix_gently"],
    ),
    "too few bands": (SILICON, ["silicon_too_few_bands", "silicon_converged"], ["unpolarised", "more_bands"]),
    "too many bands": (
        SILICON,
        ["silicon_more_bands_than_plane_waves", "silicon_converged"],
        ["unpolarised", "fewer_bands"],
    ),
    "too many bands, noticed late": (
        SILICON,
        ["diamond_diagonalization_failed", "silicon_converged"],
        ["unpolarised", "fewer_bands"],
    ),
    "too many bands, and still no diagonalization": (
        SILICON,
        ["diamond_diagonalization_failed", "diamond_diagonalization_failed", "silicon_converged"],
        ["unpolarised", "fewer_bands", "conjugate_gradients"],
    ),
    "a charge that is wrong although the parity is right": (
        SILICON,
        ["nitrogen_charge_wrong", "silicon_converged"],
        ["unpolarised", "fewer_bands"],
    ),
    "no moment that would do": (
        ODD,
        ["nitrogen_charge_wrong"] * 3 + ["nitrogen_3_bohr_imposed"],
        ["low_spin", "fewer_bands", "smear_to_find_moment", "scan_moments"],
    ),
    "too little time": (SILICON, ["silicon_out_of_time", "silicon_converged"], ["unpolarised", "more_time"]),
    "stuck, and a metal": (
        SILICON,
        ["silicon_stuck", "aluminium_smearing_finds_a_metal", "aluminium_smearing_finds_a_metal"],
        ["unpolarised", "smear_to_find_moment", "converge_as_a_metal"],
    ),
    "stuck, and an antiferromagnet": (
        MN2O2,
        ["silicon_stuck", "mno_smearing_finds_8_bohr", "silicon_out_of_time", "mno_antiferromagnetic"],
        ["unpolarised", "smear_to_find_moment", "impose_found_moment", "start_antiferromagnetic"],
    ),
    "killed from outside": (SILICON, ["silicon_killed", "silicon_converged"], ["unpolarised", "again"]),
}


@pytest.mark.parametrize("case", REAL)
def test_real_outputs_climb_the_ladder(case: str) -> None:
    cell, outputs, strategies = REAL[case]
    s = situation(cell, "extended")
    results = [recorded(name) for name in outputs]
    assert [attempt.strategy for attempt in climb(s, *results)] == strategies
    attempt, result = final_result(s)
    assert result.outcome is Outcome.CONVERGED
    assert not attempt.searches
    assert (attempt.settings.smearing is not None) == (attempt.strategy == "converge_as_a_metal")
    assert result.total_energy_ry == min(
        result.total_energy_ry for attempt, result in s.history if result.outcome.usable and not attempt.searches
    )


def test_every_rung_says_what_it_mends_and_is_climbed_by_a_real_output(monkeypatch: pytest.MonkeyPatch) -> None:
    rungs = {rung for table in RUNGS.values() for rungs in table.values() for rung in rungs}
    assert all(rung.__doc__ for rung in rungs)
    climbed = set()

    def noted(rung: Rung) -> Rung:
        def offer(s: Situation) -> Attempt | None:
            attempt = rung(s)
            if attempt is not None:
                climbed.add(rung)
            return attempt

        return offer

    table = {outcome: tuple(map(noted, some)) for outcome, some in RUNGS["extended"].items()}
    monkeypatch.setattr(recovery_module, "RUNGS", {"extended": table})
    for cell, outputs, _ in REAL.values():
        climb(situation(cell, "extended"), *map(recorded, outputs))
    assert climbed == rungs


@needs_shared
@needs_embedded
@pytest.mark.slow
def test_the_moment_of_nitrogen_is_found_by_a_real_pw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three electrons in the p shell of an atom align (Hund); imposing 1 µB leaves it gapless and 3 eV higher."""
    monkeypatch.setenv("PATH", "")
    engine = fetched_cache()
    assert engine is not None
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "engine").symlink_to(engine / "engine")
    family = fetch_family(SSSP, str(SHARED / "sssp" / "SSSP_1.3.0_PBE_efficiency.tar.gz"), cache)
    protocol = tmp_path / "gamma.yaml"
    protocol.write_text((PROTOCOLS / "paper-fast.yaml").read_text().replace("[3, 3, 3]", "[1, 1, 1]"))
    crystals, requests, outcomes = (str(tmp_path / f"{name}.parquet") for name in ("crystals", "requests", "outcomes"))
    atom = crystal("N", "N") | {"lattice": [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0]}
    tables.write_rows([atom], tables.CRYSTALS, crystals)
    plan_crystal_scf(crystals, str(family), requests, str(protocol), 1)
    run_shard(
        requests, str(family), 0, outcomes, 1, str(protocol), "extended", {"crystal": [10.0]}, None, str(cache)
    )  # fmt: skip
    (row,) = tables.read_rows(outcomes, tables.SCF_OUTCOMES)
    assert [a["strategy"] for a in row["attempts"]] == ["low_spin", "smear_to_find_moment", "impose_found_moment"]
    assert (row["outcome"], row["tot_magnetization"]) == ("converged", 3.0)
    assert row["band_gap"] > 4
    assert row["total_energy_ry"] == pytest.approx(recorded("nitrogen_3_bohr_imposed").total_energy_ry, abs=1e-5)


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


def test_a_converged_crystal_is_left_alone() -> None:
    for cell, gap in ((SILICON, 0.6), (SILICON, -0.4), (ODD, 0.6)):
        assert len(climb(situation(cell, "extended"), converged(-1.0, gap))) == 1


def test_where_low_spin_is_gapless_smearing_finds_the_moment() -> None:
    s = situation(ODD, "extended")
    attempts = climb(s, converged(-1.0, -0.3), smeared(6.9), converged(-1.2, 0.5))
    assert [attempt.strategy for attempt in attempts] == ["low_spin", "smear_to_find_moment", "impose_found_moment"]
    assert [attempt.settings.tot_magnetization for attempt in attempts] == [1, None, 7]
    search = attempts[1].settings
    assert (search.nspin, search.smearing, search.starting_magnetization) == (2, PAPER_FAST.references.smearing, 0.5)
    assert search.conv_thr_ry > attempts[0].settings.conv_thr_ry
    assert attempts[2].settings.smearing is None
    assert final_result(s)[0] is attempts[2]


def test_where_smearing_finds_no_lower_state_low_spin_speaks() -> None:
    s = situation(ODD, "extended")
    attempts = climb(s, converged(-1.0, -0.3), smeared(4.1))
    assert [attempt.strategy for attempt in attempts] == ["low_spin", "smear_to_find_moment"]
    assert final_result(s)[0] is attempts[0]


def test_a_state_far_below_is_computed_and_speaks() -> None:
    """Energies of pw.x 6.7 for MnO in a primitive cell: 1 µB lies 2.1 eV above the metal that smearing finds."""
    s = situation(MNO, "extended")
    attempts = climb(s, converged(-252.66704, -1.39), smeared(4.56, -252.82323), smeared(4.56, -252.82167))
    assert [attempt.strategy for attempt in attempts] == ["low_spin", "smear_to_find_moment", "converge_as_a_metal"]
    assert final_result(s)[0] is attempts[2]
    assert lower_state(s) == "fixed occupations give no state as low: low_spin lies 2.10 eV per cell above"


def test_a_state_far_below_that_cannot_be_computed_is_marked() -> None:
    s = situation(MNO, "extended")
    attempts = climb(s, converged(-252.66704, -1.39), smeared(4.56, -252.82323), Outcome.TIME_LIMIT)
    assert final_result(s)[0] is attempts[0]
    assert lower_state(s).startswith("a state 2.13 eV per cell lower was seen with smearing (4.56 µB)")
    assert lower_state(situation_after(converged(-1.0, 0.6))) == ""


def situation_after(result: Result) -> Situation:
    s = situation(recovery="extended")
    climb(s, result)
    return s


def test_a_gapless_run_without_spin_is_searched_where_an_element_may_have_spin() -> None:
    """O2 in a box, pw.x 6.7: without spin gapless, with 2 µB 1.1 eV lower and with a gap."""
    s = situation(Cell(("O", "O"), SILICON.lattice, SILICON.frac_coords), "extended")
    attempts = climb(s, converged(-82.83765, -0.031), smeared(2.0, -82.91966), converged(-82.91966, 2.229))
    assert [attempt.strategy for attempt in attempts] == ["unpolarised", "smear_to_find_moment", "impose_found_moment"]
    assert final_result(s)[0] is attempts[2]
    assert lower_state(s) == ""
    paper = situation(s.cell)
    assert len(climb(paper, converged(-82.83765, -0.031))) == 1
    assert len(climb(situation(s.cell, "extended"), converged(-82.83765, 0.6))) == 1, "a gap is left alone"


@pytest.mark.parametrize("known", [None, 0.0])
@pytest.mark.parametrize(
    "first", [converged(-505.0, -1.0), Result(Outcome.TIME_LIMIT, iterations=352), Result(Outcome.NOT_CONVERGED)]
)
def test_an_antiferromagnet_is_searched_even_if_its_moment_is_known(known: float | None, first: Result) -> None:
    s = situation(MN2O2, "extended", known)
    results = [first, smeared(10.0, -505.4), converged(-505.4, 0.3), converged(-505.5, 0.84)]
    attempts = climb(s, *results)
    assert [attempt.strategy for attempt in attempts] == [
        "unpolarised", "smear_to_find_moment", "impose_found_moment", "start_antiferromagnetic",
    ]  # fmt: skip
    start = attempts[3].settings
    assert (start.nspin, start.tot_magnetization, start.smearing) == (2, 0.0, None)
    assert start.site_magnetization == (0.5, -0.5, 0.0, 0.0)
    assert final_result(s)[0] is attempts[3]


def test_an_antiferromagnetic_start_needs_sites_in_pairs_and_an_even_number_of_electrons() -> None:
    for cell in (MNO, Cell(("Mn", "O", "O"), SILICON.lattice, (0,) * 9), Cell(("O", "O"), SILICON.lattice, (0,) * 6)):
        s = situation(cell, "extended")
        strategies = [a.strategy for a in climb(s, *(Outcome.NOT_CONVERGED,) * MOST_ATTEMPTS)]
        assert "smear_to_find_moment" in strategies
        assert "start_antiferromagnetic" not in strategies


@pytest.mark.parametrize(("moment", "nspin"), [(0.0, 1), (2.6, 2)])
def test_what_only_smearing_converges_is_a_metal(moment: float, nspin: int) -> None:
    s = situation(recovery="extended")
    attempts = climb(s, Outcome.NOT_CONVERGED, smeared(moment), smeared(moment, energy=-1.5))
    assert [attempt.strategy for attempt in attempts] == ["unpolarised", "smear_to_find_moment", "converge_as_a_metal"]
    metal = attempts[2].settings
    assert (metal.nspin, metal.degauss_ry, metal.conv_thr_ry) == (nspin, 0.001, 1e-8)
    attempt, result = final_result(s)
    assert (attempt, result.total_energy_ry) == (attempts[2], -1.5)
    assert result.is_metallic


def test_a_found_moment_is_tried_before_it_is_called_a_metal() -> None:
    attempts = climb(
        situation(recovery="extended"), Outcome.NOT_CONVERGED, smeared(2.1), Outcome.NOT_CONVERGED, smeared(2.0)
    )
    assert [(attempt.strategy, attempt.settings.tot_magnetization) for attempt in attempts[2:]] == [
        ("impose_found_moment", 2),
        ("converge_as_a_metal", None),
    ]


def test_a_run_that_is_stuck_is_not_given_more_time() -> None:
    stuck = Result(Outcome.TIME_LIMIT, iterations=STUCK_ITERATIONS)
    assert climb(situation(recovery="extended"), stuck)[1].strategy == "smear_to_find_moment"
    assert climb(situation(), stuck)[1].strategy == "more_time"
    slow = Result(Outcome.TIME_LIMIT, iterations=STUCK_ITERATIONS - 1)
    assert climb(situation(recovery="extended"), slow)[1].strategy == "more_time"


def test_the_lowest_energy_speaks_for_a_crystal() -> None:
    s = situation(ODD, "extended")
    attempts = climb(s, converged(-1.2, -0.3), smeared(5.0), converged(-1.1, 0.4))
    assert final_result(s)[0] is attempts[0]


def test_the_energy_of_a_search_is_never_the_crystals() -> None:
    s = situation(ODD, "extended")
    attempts = climb(s, Outcome.NOT_CONVERGED, smeared(1.0, energy=-99.0), Outcome.NOT_CONVERGED, Outcome.NOT_CONVERGED)
    assert [attempt.strategy for attempt in attempts[:3]] == ["low_spin", "smear_to_find_moment", "converge_as_a_metal"]
    assert (attempts[3].strategy, attempts[3].settings.mixing_beta) == ("mix_gently", 0.3)
    result = final_result(s)[1]
    assert (result.outcome, result.total_energy_ry) == (Outcome.NOT_CONVERGED, None)


def test_a_moment_is_never_imposed_on_an_elemental_crystal() -> None:
    iron = Cell(("Fe",), (2.8, 0, 0, 0, 2.8, 0, 0, 0, 2.8), (0, 0, 0))
    s = Situation(iron, "elemental", PAPER_FAST, sssp(), "extended", None)
    (attempt,) = climb(s, smeared(2.2))
    assert attempt.settings.smearing is not None
    assert final_result(s)[1].total_energy_ry == -1.0


def test_a_known_moment_is_not_looked_for() -> None:
    attempts = climb(situation(ODD, "extended", known=5.0), *(Outcome.NOT_CONVERGED,) * 4)
    assert {attempt.settings.tot_magnetization for attempt in attempts} == {5.0}
    assert not any(attempt.settings.smearing for attempt in attempts)


def test_moments_are_scanned_last() -> None:
    attempts = climb(situation(ODD, "extended"), *(Outcome.CHARGE_WRONG,) * 6)
    assert [(attempt.strategy, attempt.settings.tot_magnetization) for attempt in attempts] == [
        ("low_spin", 1),
        ("fewer_bands", 1),
        ("smear_to_find_moment", None),
        ("scan_moments", 3),
        ("fewer_bands", 3),
        ("scan_moments", 5),
        ("fewer_bands", 5),
    ]


def test_mixing_and_diagonalization_are_changed_one_at_a_time() -> None:
    attempts = climb(situation(recovery="extended"), *(Outcome.NOT_CONVERGED,) * 4)
    seen = [(attempt.settings.mixing_beta, attempt.settings.diagonalization) for attempt in attempts]
    assert seen == [(0.7, "david"), (0.7, "david"), (0.3, "david"), (0.1, "david"), (0.1, "cg")]
    assert [attempt.settings.smearing is None for attempt in attempts] == [True, False, True, True, True]


@given(
    st.sampled_from([SILICON, ODD, MN2O2]),
    st.lists(
        st.sampled_from([*FAILURES, Outcome.TIME_LIMIT, Outcome.KILLED, "gap", "no gap", "integer", "fraction"]),
        min_size=30,
        max_size=30,
    ),
)
def test_the_attempts_of_the_paper_come_first(cell: Cell, story: list[Outcome | str]) -> None:
    """Told the same results, `extended` makes the attempts of `paper` in their order before its own."""
    results = {
        "gap": converged(-1, 1),
        "no gap": converged(-1, -1),
        "integer": smeared(3.0 + cell.species.count("Si") % 2),
        "fraction": smeared(2.5),
    }
    made = {}
    for recovery in ("paper", "extended"):
        s = situation(cell, recovery)  # type: ignore[arg-type]
        attempt = first_attempt(s)
        for outcome in story:
            if not isinstance(attempt, Attempt):
                break
            s.history.append((attempt, results[outcome] if outcome in results else Result(Outcome(outcome))))
            attempt = next_attempt(s)
        made[recovery] = [entry[0] for entry in s.history]
    assert made["extended"][: len(made["paper"])] == made["paper"]


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
    st.sampled_from([SILICON, ODD, MN2O2]),
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
    assert len(s.history) <= MOST_ATTEMPTS


@pytest.mark.parametrize("recovery", ["paper", "extended"])
def test_too_little_time_asks_for_more(recovery: Recovery) -> None:
    attempts = climb(situation(recovery=recovery), Outcome.TIME_LIMIT)
    assert attempts[1].strategy == "more_time"
    assert attempts[1].settings == attempts[0].settings


def test_a_search_is_known_by_its_purpose_not_by_its_smearing() -> None:
    """A protocol may smear its references as the search does: the metal's run speaks for the crystal all the same."""
    s = situation(recovery="extended")
    references = s.protocol.references.model_copy(update={"degauss_ry": SEARCH_DEGAUSS_RY})
    s.protocol = s.protocol.model_copy(update={"references": references})
    attempts = climb(s, Outcome.NOT_CONVERGED, Outcome.KILLED, smeared(2.6, -9.0), smeared(2.6, -1.5))
    assert [a.strategy for a in attempts[1:]] == ["smear_to_find_moment", "again", "converge_as_a_metal"]
    assert final_result(s)[0] is attempts[3]


def test_the_page_on_the_ladder_describes_the_ladder(root: Path) -> None:
    """`benchmarks/recovery.py` writes it; the table must not fall behind the code."""
    page = (root / "docs/results/recovery.md").read_text()
    for outcome, rungs in RUNGS["extended"].items():
        paper = ", ".join(f"`{rung.__name__}`" for rung in RUNGS["paper"].get(outcome, ()))
        assert f"| `{outcome}` | {', '.join(f'`{rung.__name__}`' for rung in rungs)} | {paper} |\n" in page
        for rung in rungs:
            assert (
                f"| `{rung.__name__}` | {' '.join((rung.__doc__ or '').partition(chr(10) * 2)[0].split())} |\n" in page
            )
    assert f"none after {MOST_ATTEMPTS}." in page
