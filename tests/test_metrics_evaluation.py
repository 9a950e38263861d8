"""Joining designs with their SCFs: every design ends in one row, and protocols never mix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xtalrl import tables
from xtalrl.dft.outcomes import Outcome
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.metrics.designs import SUCCESSFUL_OUTCOMES, read_policies
from xtalrl.metrics.evaluation import evaluate_designs

PROTOCOL = {"protocol": "paper", "protocol_hash": "aaaa", "family": "sssp"}


def assessment(material_id: str, request_id: str | None, species: list[str], policy: str = "bc") -> dict[str, Any]:
    return {
        "material_id": material_id, "policy": policy, "seed": 0, "species": species, "formula": "X", "true_formula": "Y",
        "n_sites": len(species), "n_correct": 1, "n_similar": 1, "valid": request_id is not None,
        "validity_rule": "cdvae-smact14", "valid_smact14": True, "valid_icsd24": True, "odd_electrons": False, "novel": None, "request_id": request_id,
    }  # fmt: skip


def outcome(request_id: str, species: list[str], **values: Any) -> dict[str, Any]:
    return {
        "request_id": request_id, "kind": "design", "key": request_id, "species": species, "outcome": "converged", "detail": "",
        "nspin": 1, "wall_s": 1.0, "attempts": [], **PROTOCOL, **values,
    }  # fmt: skip


def reference(element: str, energy_ry: float | None, **values: Any) -> dict[str, Any]:
    return {
        "element": element, "form": "crystal", "n_sites": 1, "energy_per_atom_ry": energy_ry,
        "energy_per_atom": None if energy_ry is None else energy_ry * RYDBERG_EV_PAPER,
        "outcome": "converged", "detail": "", **PROTOCOL, **values,
    }  # fmt: skip


def evaluate(
    folder: Path,
    assessments: list[dict[str, Any]],
    outcomes: list[dict[str, Any]],
    references: list[dict[str, Any]],
    labels: list[dict[str, Any]] | None = None,
) -> list[dict[str, Any]]:
    tables.write_rows(assessments, tables.ASSESSMENTS, folder / "assessments.parquet")
    tables.write_rows(outcomes, tables.SCF_OUTCOMES, folder / "outcomes.parquet")
    tables.write_rows(references, tables.REFERENCES, folder / "references.parquet")
    tables.write_rows(labels or [], tables.LABELS, folder / "labels.parquet")
    evaluate_designs(
        assessments=folder / "assessments.parquet",
        outcomes=folder / "outcomes.parquet",
        references=folder / "references.parquet",
        labels=folder / "labels.parquet",
        evaluation=folder / "evaluation.parquet",
    )
    return tables.read_rows(folder / "evaluation.parquet", tables.EVALUATION)


def test_formation_energy_by_hand(tmp_path: Path) -> None:
    """Eq. 15: (-10 - (-4) - (-5)) / 2 Ry = -0.5 Ry an atom."""
    rows = evaluate(
        tmp_path,
        [assessment("mp-1", "mp-1/a", ["Na", "Cl"])],
        [outcome("mp-1/a", ["Na", "Cl"], total_energy_ry=-10.0, band_gap=0.0, band_gap_raw=-0.2)],
        [reference("Na", -4.0), reference("Cl", -5.0)],
        [
            {
                "material_id": "mp-1", "split": "val", "band_gap": 5.0, "formation_energy_per_atom": -2.0,
                "outcome": "imported", "detail": "", "source": "toy",
            }
        ],
    )  # fmt: skip
    assert rows[0]["formation_energy_per_atom"] == pytest.approx(-0.5 * 13.6057039763)
    assert (rows[0]["band_gap"], rows[0]["band_gap_raw"]) == (0.0, -0.2)
    assert (rows[0]["true_band_gap"], rows[0]["true_formation_energy_per_atom"]) == (5.0, -2.0)
    assert rows[0]["outcome"] == "converged"


def test_every_design_ends_in_a_row_in_its_order(tmp_path: Path) -> None:
    rows = evaluate(
        tmp_path,
        [
            assessment("mp-2", None, ["Na", "Cl"]),
            assessment("mp-1", "mp-1/a", ["Na", "Cl"]),
            assessment("mp-1", "mp-1/a", ["Na", "Cl"], policy="ucql-w5"),
        ],
        [outcome("mp-1/a", ["Na", "Cl"], outcome="time_limit", detail="15 min")],
        [],
    )
    assert [(row["material_id"], row["policy"], row["outcome"]) for row in rows] == [
        ("mp-2", "bc", "invalid_composition"),
        ("mp-1", "bc", "time_limit"),
        ("mp-1", "ucql-w5", "time_limit"),
    ]
    assert all(row["band_gap"] is None and row["formation_energy_per_atom"] is None for row in rows)
    assert rows[0]["detail"] == "not neutral by cdvae-smact14"


def test_a_missing_reference_is_named_and_its_gap_kept(tmp_path: Path) -> None:
    rows = evaluate(
        tmp_path,
        [assessment("mp-1", "mp-1/a", ["Na", "Cl"])],
        [outcome("mp-1/a", ["Na", "Cl"], total_energy_ry=-10.0, band_gap=1.0, band_gap_raw=1.0)],
        [reference("Na", -4.0), reference("Cl", None, outcome="not_converged")],
    )
    assert rows[0]["outcome"] == "converged"
    assert rows[0]["band_gap"] == 1.0
    assert rows[0]["formation_energy_per_atom"] is None
    assert rows[0]["detail"] == "no reference energy of Cl (not_converged)"


def test_references_added_for_designs_are_used(tmp_path: Path) -> None:
    rows = evaluate(
        tmp_path,
        [assessment("mp-1", "mp-1/a", ["Na", "Cl"])],
        [
            outcome("mp-1/a", ["Na", "Cl"], total_energy_ry=-10.0, band_gap=1.0, band_gap_raw=1.0),
            outcome("ref-Cl", ["Cl", "Cl"], kind="reference", total_energy_ry=-10.0),
        ],
        [reference("Na", -4.0)],
    )
    assert rows[0]["formation_energy_per_atom"] == pytest.approx(-0.5 * 13.6057039763)


@pytest.mark.parametrize("other", [{"protocol_hash": "bbbb"}, {"family": "pseudo-dojo"}, {"protocol": "sssp"}])
def test_protocols_never_mix(tmp_path: Path, other: dict[str, str]) -> None:
    with pytest.raises(XtalrlError, match="never mix"):
        evaluate(
            tmp_path,
            [assessment("mp-1", "mp-1/a", ["Na", "Cl"])],
            [outcome("mp-1/a", ["Na", "Cl"], total_energy_ry=-10.0, band_gap=1.0, band_gap_raw=1.0, **other)],
            [reference("Na", -4.0), reference("Cl", -5.0)],
        )


def test_a_valid_design_without_scf_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        XtalrlError, match=r"no outcome for the design mp-1/a of bc.*snakemake evaluate -R plan_design_scf"
    ):
        evaluate(tmp_path, [assessment("mp-1", "mp-1/a", ["Na", "Cl"])], [], [])


def test_the_names_of_success_are_those_of_the_scf_stage() -> None:
    assert {*SUCCESSFUL_OUTCOMES} == {str(outcome) for outcome in Outcome if outcome.usable}


def test_designs_as_arrays(tmp_path: Path) -> None:
    evaluate(
        tmp_path,
        [
            assessment("mp-2", None, ["Na", "Cl"]),
            assessment("mp-1", "mp-1/a", ["Na", "Cl"]),
            assessment("mp-3", "mp-3/a", ["Na", "Cl"]) | {"seed": 4},
        ],
        [
            outcome("mp-1/a", ["Na", "Cl"], total_energy_ry=-10.0, band_gap=1.0, band_gap_raw=1.0),
            outcome("mp-3/a", ["Na", "Cl"], outcome="killed"),
        ],
        [reference("Na", -4.0), reference("Cl", -5.0)],
    )
    tables.write_rows(
        [{"request_id": "mp-1/a", "formula": "NaCl", "energy_above_hull": 0.1, "n_competing": 2, "decomposition": ["NaCl"], "flag": ""}],
        tables.STABILITY, tmp_path / "stability.parquet",
    )  # fmt: skip
    known = [
        {
            "material_id": f"mp-{n}",
            "split": split,
            "band_gap": gap,
            "outcome": "converged",
            "detail": "",
            "source": "scf",
        }
        for n, split, gap in ((1, "val", 2.0), (2, "val", None), (7, "val", 3.0), (8, "train", 4.0))
    ]
    tables.write_rows(known, tables.LABELS, tmp_path / "known.parquet")
    files = tmp_path / "evaluation.parquet", tmp_path / "known.parquet", tmp_path / "stability.parquet"
    (bc,) = read_policies(*files, ["bc"])
    assert bc.labels.band_gap == {"mp-1": 2.0, "mp-7": 3.0}
    assert bc.energy_above_hull[0, 0] == 0.1
    assert bc.hull_is_complete[0, 0] == 1
    assert np.isfinite(bc.energy_above_hull).sum() == 1
    (without_labels,) = read_policies(files[0], None, files[2], ["bc"])
    assert without_labels.labels.band_gap == {}
    assert bc.seeds == (0, 4)
    assert bc.material_ids == ("mp-1", "mp-2", "mp-3")
    assert bc.designed.tolist() == [[True, True, False], [False, False, True]]
    assert bc.succeeded.tolist() == [[True, False, False], [False, False, False]]
    with pytest.raises(XtalrlError, match=r"no design of the policy 'random' \(it has bc\)"):
        read_policies(*files, ["bc", "random"])
