"""Energy above the hull against pymatgen, and what counts as stable, unique and novel."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core.composition import Composition
from report_data import write_results
from test_metrics_properties import designs, estimate

from xtalrl import tables
from xtalrl.metrics import stability
from xtalrl.metrics.formulas import parse_formula
from xtalrl.metrics.stability import ATOM_REFERENCE, NO_COMPOUND, Hull

NAN = np.nan
ELEMENTS = ("Li", "Fe", "P", "O")


@st.composite
def phases(draw: st.DrawFn) -> dict[str, tuple[Counter[str], float]]:
    found = {}
    for _ in range(draw(st.integers(0, 6))):
        elements = draw(st.lists(st.sampled_from(ELEMENTS), min_size=1, max_size=3, unique=True))
        counts = Counter({element: draw(st.integers(1, 4)) for element in elements})
        found[Composition(counts).reduced_formula] = (counts, draw(st.floats(-4, 1, allow_subnormal=False)))
    return found


@settings(max_examples=60, deadline=None)
@given(phases(), st.lists(st.integers(1, 5), min_size=4, max_size=4))
def test_hull_is_pymatgens(compounds: dict[str, tuple[Counter[str], float]], amounts: list[int]) -> None:
    design = dict(zip(ELEMENTS, amounts, strict=True))
    entries = [PDEntry(Composition({element: 1}), 0.0) for element in ELEMENTS]
    entries += [PDEntry(Composition(counts), energy * counts.total()) for counts, energy in compounds.values()]
    theirs = PhaseDiagram(entries).get_hull_energy_per_atom(Composition(design))
    # pymatgen takes an element's lowest phase as its zero; so do we, by letting it onto the hull.
    assert Hull(compounds).decompose(design).energy == pytest.approx(theirs, abs=1e-6)


def test_decomposition_by_hand() -> None:
    """LiFe2O3 = 1/2 Li2O + 1/2 Fe2O3 + Fe: the hull is what these three weigh. A phase with a foreign element does not compete."""
    compounds = {
        formula: (Counter(parse_formula(formula)), energy)
        for formula, energy in (("Li2O", -2.0), ("Fe2O3", -1.6), ("NaCl", -2.1), ("Li3NaO2", -9.0))
    }
    found = Hull(compounds).decompose({"Li": 2, "Fe": 4, "O": 4})
    assert sorted(found.formulas) == ["Fe", "Fe2O3", "Li2O"]
    assert found.n_competing == 2
    assert found.energy == pytest.approx((3 * -2.0 + 5 * -1.6 + 2 * 0) / 10)


def test_eighteen_elements_take_no_longer() -> None:
    elements = "Li Na K Rb Cs Be Mg Ca Sr Ba Fe Co Ni Cu Zn O S F".split()
    compounds = {f"{e}O": (Counter({e: 1, "O": 1}), -1.0) for e in elements if e != "O"}
    found = Hull(compounds).decompose(dict.fromkeys(elements, 1))
    assert found.energy == pytest.approx(-2 / 18)  # one O, one oxide of two atoms
    assert found.n_competing == 17


def test_flagged_designs_are_not_stable() -> None:
    toy = designs(
        band_gap=[1.0] * 4,
        energy_above_hull=[0.05, -0.3, 0.2, NAN],
        hull_is_complete=[1, 0, 1, NAN],
        novel=[1, 1, 1, 0],
    )
    assert estimate(stability.stable_share, toy).value == pytest.approx(1 / 4)
    assert estimate(stability.hull_coverage, toy).value == pytest.approx(2 / 3)
    assert estimate(stability.mean_energy_above_hull, toy).value == pytest.approx(0.125)
    assert estimate(stability.stable_unique_novel, toy).value == pytest.approx(1 / 4)


def test_stable_unique_novel_counts_a_composition_once() -> None:
    """Five stable designs: three of one novel composition, one novel of another, one known."""
    toy = designs(
        band_gap=[1.0] * 6, energy_above_hull=[0.0] * 5 + [1.0], hull_is_complete=[1] * 6, novel=[1, 1, 1, 1, 0, 1],
        composition=[1, 1, 1, 2, 3, 4],
    )  # fmt: skip
    sun = estimate(stability.stable_unique_novel, toy)
    assert sun.value == pytest.approx(2 / 6)
    assert sun.n == 6
    nothing_known = designs(band_gap=[1.0], energy_above_hull=[0.0], hull_is_complete=[1])
    assert estimate(stability.stable_unique_novel, nothing_known).value is None


def test_table_of_a_run(tmp_path: Path) -> None:
    config = write_results(tmp_path, 80, (0,), targets_ev=[1.12], omegas=[5])
    rows = tables.read_rows(tmp_path / "evaluation/stability.parquet", tables.STABILITY)
    evaluation = tables.read_rows(tmp_path / "evaluation/evaluation.parquet", tables.EVALUATION)
    known = {
        r["request_id"]: r["formation_energy_per_atom"]
        for r in evaluation
        if r["formation_energy_per_atom"] is not None
    }
    assert {row["request_id"] for row in rows} == set(known)
    assert config.evaluation.stable_ev_per_atom == 0.1
    for row in rows:
        assert (NO_COMPOUND in row["flag"]) == (row["n_competing"] == 0)
        if row["n_competing"] == 0:
            assert row["energy_above_hull"] == pytest.approx(known[row["request_id"]])
        if {"Lu", "P", "Se"} & set(parse_formula(row["formula"])):
            assert ATOM_REFERENCE in row["flag"]


def test_a_data_crystal_is_never_below_the_hull(tmp_path: Path) -> None:
    """A design that equals a labelled crystal of the lowest energy lies on the hull or above it."""
    write_results(tmp_path, 80, (0,), targets_ev=[], omegas=[5], ucql=False, random=False)
    labels = {
        row["material_id"]: row["formation_energy_per_atom"]
        for row in tables.read_rows(tmp_path / "labels.parquet", tables.LABELS)
    }
    crystals = tables.read_rows(tmp_path / "structures/crystals.parquet", tables.CRYSTALS)
    compounds: dict[str, tuple[Counter[str], float]] = {}
    for row in crystals:
        energy = labels[row["material_id"]]
        if energy is not None and energy < compounds.get(row["formula"], (None, np.inf))[1]:
            compounds[row["formula"]] = (Counter(row["species"]), energy)
    hull = Hull(compounds)
    for row in crystals:
        if labels[row["material_id"]] is not None:
            assert labels[row["material_id"]] >= hull.decompose(Counter(row["species"])).energy - 1e-9
