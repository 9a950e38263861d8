"""Figures 3 to 5, 7 and 8, and the failures by element: their data, and that they can be drawn whatever is missing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from report_data import make, read, write_results

from xtalrl import tables
from xtalrl.config import Config
from xtalrl.report.crystal_pictures import (
    _rotation,
    _standard,
    _with_images,
    choose_examples,
    draw_crystal,
    formula_text,
)
from xtalrl.report.periodic_table import _place

SWEEP = {
    "reward": {"energy": "total", "alpha1": 1, "alpha2": 5, "beta2": 1},
    "sweep": {"settings": [[0, 5, 1], [1, 5, 1], [1, 10, 3]], "targets_ev": [1.12, 4]},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Config]:
    folder = tmp_path_factory.mktemp("results")
    return folder, write_results(folder, 120, (0,), sections=SWEEP, targets_ev=[1.12, 4.0], omegas=[1, 5])


def figure(name: str, run: tuple[Path, Config], **scoring: Any) -> list[dict[str, str]]:
    path = make(name, *run, **scoring)
    assert Path(f"{path}.png").read_bytes().startswith(b"\x89PNG")
    assert Path(f"{path}.pdf").read_bytes().startswith(b"%PDF")
    return read(path)


def test_figure8_has_every_setting_at_its_target(run: tuple[Path, Config]) -> None:
    rows = figure("figure8", run)
    policies = {row["policy"] for row in rows}
    assert {
        "random",
        "bc",
        "ucql-w1",
        "ucql-w5",
        "ccql-4ev-w1",
        "ccql-4ev-w5-a1-10-b3",
        "ccql-4ev-w1-a0-5-b1",
    } <= policies
    assert not any("1.12ev" in policy for policy in policies)
    assert {row["target_ev"] for row in rows} == {"", "4"}


def test_figure4_is_the_mean_of_the_gaps(run: tuple[Path, Config]) -> None:
    rows = figure("figure4", run)
    evaluation = tables.read_rows(run[0] / "evaluation/evaluation.parquet", tables.EVALUATION)
    for metric, name in (("mean_band_gap", "band_gap"), ("mean_band_gap_raw", "band_gap_raw")):
        gaps = [row[name] for row in evaluation if row["policy"] == "bc" and row[name] is not None]
        shown = next(row for row in rows if row["policy"] == "bc" and row["metric"] == metric)
        assert float(shown["value"]) == pytest.approx(np.mean(gaps), rel=1e-5)
        assert int(shown["n"]) == len(gaps)


def test_figure5_counts_every_label_once(run: tuple[Path, Config]) -> None:
    rows = figure("figure5", run)
    labels = tables.read_rows(run[0] / "labels.parquet", tables.LABELS)
    for name in ("band_gap", "total_energy_ry", "formation_energy_per_atom"):
        for split in ("train", "val"):
            known = sum(row["split"] == split and row[name] is not None for row in labels)
            bins = [row for row in rows if (row["quantity"], row["split"]) == (name, split)]
            assert sum(int(row["n"]) for row in bins) == known == int(bins[0]["n_crystals"])
            assert all(float(row["low"]) <= float(row["share_pct"]) + 1e-4 <= float(row["high"]) + 2e-4 for row in bins)


def test_figure3_shows_hits_whose_true_crystal_is_outside(run: tuple[Path, Config]) -> None:
    rows = figure("figure3", run, window_ev=0.6)
    assert rows
    for row in rows:
        target = float(row["target_ev"])
        assert abs(float(row["band_gap_ev"]) - target) < 0.6 < abs(float(row["true_band_gap_ev"]) - target) + 1e-6
        assert f"ccql-{target:g}ev" in row["policy"]
    assert max(Counter(row["target_ev"] for row in rows).values()) <= 2


def test_examples_are_those_that_moved_farthest_whatever_the_order() -> None:
    def design(number: int, formula: str, true: str, gap: float | None, true_gap: float | None) -> dict[str, Any]:
        return {
            "material_id": f"mp-{number}", "policy": "c", "seed": 0, "formula": formula, "true_formula": true,
            "band_gap": gap, "true_band_gap": true_gap,
        }  # fmt: skip

    rows = [
        design(1, "NaCl", "KCl", 2.0, 3.0),
        design(2, "CsCl", "RbCl", 2.0, 5.0),
        design(3, "CsCl", "LiCl", 2.1, 4.9),  # its formula is shown already
        design(4, "LiF", "LiBr", 2.0, 2.1),  # true gap in the range
        design(5, "NaF", "KF", 1.0, 6.0),  # designed gap outside
        design(6, "RbF", "CsF", None, 6.0),
        design(7, "KI", "NaI", 2.0, None),
        design(8, "MgO", "CaO", 1.9, 4.0),
    ]
    chosen = choose_examples(rows, {"c": 2.0}, 0.25)
    assert [example.design["material_id"] for example in chosen] == ["mp-2", "mp-8"]
    assert choose_examples(rows[::-1], {"c": 2.0}, 0.25) == chosen


def test_a_cell_is_drawn_undistorted_and_never_mirrored() -> None:
    rotation = _rotation()
    assert rotation @ rotation.T == pytest.approx(np.eye(3))
    assert np.linalg.det(rotation) == pytest.approx(1)
    generator = np.random.default_rng(3)
    for _ in range(20):
        cell = generator.normal(size=(3, 3)) * 4
        turned = _standard(cell)
        assert turned @ turned.T == pytest.approx(cell @ cell.T)
        assert np.linalg.det(turned) == pytest.approx(np.linalg.det(cell))


def test_atoms_on_a_corner_are_shown_eight_times() -> None:
    elements, points = _with_images(["Na", "Cl"], np.array([[0.0, 0, 1.0 - 1e-6], [0.5, 0.5, 0.5]]))
    assert Counter(elements) == {"Na": 8, "Cl": 1}
    assert points[:8].min() == 0
    assert points[:8].max() == 1


def test_rock_salt_has_a_sphere_for_every_atom_on_and_in_the_cell() -> None:
    canvas = Figure()
    FigureCanvasAgg(canvas)
    axis = canvas.add_subplot()
    fcc = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    points = [*fcc, *([x + 0.5, y, z] for x, y, z in fcc)]
    draw_crystal(axis, ["Na"] * 4 + ["Cl"] * 4, np.eye(3).ravel() * 5.64, np.ravel(points))
    assert len({round(patch.zorder) for patch in axis.patches}) == 27  # 3 x 3 x 3 sites


def test_subscripts() -> None:
    assert formula_text("Ca3(PO4)2") == "Ca$_{3}$(PO$_{4}$)$_{2}$"


def test_failures_by_element_by_hand(run: tuple[Path, Config]) -> None:
    evaluation = run[0] / "evaluation/evaluation.parquet"
    rows = {row["element"]: row for row in figure("outcomes_by_element", run)}
    assert len(rows) == 88
    designs = [
        row
        for row in tables.read_rows(evaluation, tables.EVALUATION)
        if "O" in row["species"] and row["valid"] and row["policy"] != "random"
    ]
    assert int(rows["O"]["n_designs"]) == len(designs)
    assert int(rows["O"]["n_failed"]) == sum(row["outcome"] != "converged" for row in designs)


def test_no_two_elements_share_a_place() -> None:
    from xtalrl.elements import ELEMENTS

    assert len({_place(element) for element in ELEMENTS}) == 88
    assert (_place("H"), _place("He"), _place("La"), _place("Hf")) == ((1, 1), (18, 1), (3, 8.3), (4, 6))


def test_nothing_converged(tmp_path: Path) -> None:
    config = write_results(tmp_path, 24, (0,), success=0.0, sections=SWEEP, targets_ev=[1.12], omegas=[5])
    run = tmp_path, config
    assert figure("figure3", run) == []
    assert {row["value"] for row in figure("figure4", run)} == {""}
    figure("figure7", run)
