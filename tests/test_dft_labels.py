"""Labels and references: computed, imported from the published tables, and refused where they do not fit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from dft_data import SHARED, needs_shared

from xtalrl import tables
from xtalrl.dft.labels import import_labels, label_crystals
from xtalrl.dft.pseudopotentials import describe_family
from xtalrl.dft.references import assemble_references, check_energies_fit, import_references, origin_of
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError


def crystals(folder: Path, **species: list[str]) -> str:
    rows = [
        {
            "material_id": name.replace("_", "-"),
            "split": "train",
            "formula": "x",
            "n_sites": len(elements),
            "species": elements,
            "lattice": [3.0, 0, 0, 0, 3.0, 0, 0, 0, 3.0],
            "frac_coords": [0.0] * 3 * len(elements),
            "spacegroup_number": 1,
            "source": "test",
        }
        for name, elements in species.items()
    ]
    tables.write_rows(rows, tables.CRYSTALS, folder / "crystals.parquet")
    return str(folder / "crystals.parquet")


def outcome(
    request_id: str,
    energy: float | None,
    *species: str,
    gap: float | None = 1.0,
    protocol: str = "p",
    kind: str = "crystal",
) -> dict[str, Any]:
    return {
        "request_id": request_id,
        "kind": kind,
        "key": request_id,
        "species": species,
        "outcome": "converged" if energy is not None else "not_converged",
        "detail": "",
        "total_energy_ry": energy,
        "band_gap_raw": gap if energy is not None else None,
        "band_gap": None if energy is None or gap is None else max(gap, 0),
        "protocol": protocol,
        "protocol_hash": protocol,
        "family": "f",
        "wall_s": 1.0,
        "attempts": [],
    }


def outcomes(folder: Path, name: str, *rows: dict[str, Any]) -> str:
    tables.write_rows(rows, tables.SCF_OUTCOMES, folder / f"{name}.parquet")
    return str(folder / f"{name}.parquet")


def labels(path: Path) -> dict[str, dict[str, Any]]:
    return {row["material_id"]: row for row in tables.read_rows(path, tables.LABELS)}


def test_labels_from_scfs(tmp_path: Path) -> None:
    references = str(tmp_path / "references.parquet")
    scfs = [
        outcome(f"ref-{e}", energy, e, gap=None, kind="reference")
        for e, energy in (("Na", -95.0), ("Cl", -33.0), ("Ce", None))
    ]
    assemble_references(outcomes(tmp_path, "ref", *scfs), references)
    path = crystals(tmp_path, salt=["Na", "Cl"], metal=["Na"], failed=["Cl"], rare=["Ce", "Cl"], full=["Na", "Na"])
    ended = outcomes(
        tmp_path,
        "scf",
        outcome("salt", -129.0, "Na", "Cl", gap=5.0),
        outcome("metal", -95.0, "Na", gap=-0.3),
        outcome("failed", None, "Cl"),
        outcome("rare", -400.0, "Ce", "Cl"),
        outcome("full", -190.0, "Na", "Na", gap=None),
    )
    label_crystals(path, ended, references, str(tmp_path / "labels.parquet"))
    rows = labels(tmp_path / "labels.parquet")
    assert rows["salt"]["formation_energy_per_atom"] == pytest.approx(-0.5 * RYDBERG_EV_PAPER)
    assert (rows["metal"]["band_gap"], rows["metal"]["band_gap_raw"]) == (0.0, -0.3)
    assert (rows["failed"]["outcome"], rows["failed"]["band_gap"], rows["failed"]["formation_energy_per_atom"]) == (
        "not_converged",
        None,
        None,
    )
    assert rows["rare"]["outcome"] == "missing_reference"
    assert rows["rare"]["detail"] == "no reference energy of Ce (not_converged)"
    assert (rows["rare"]["band_gap"], rows["rare"]["formation_energy_per_atom"]) == (1.0, None)
    assert (rows["full"]["outcome"], rows["full"]["band_gap"]) == ("no_gap", None)
    assert rows["full"]["formation_energy_per_atom"] == 0

    # What was accepted although it was not saved keeps its own name; what was not accepted has no label.
    for name, energy in (("converged_not_saved", -129.0), ("not_saved", None)):
        salt = outcome("salt", energy, "Na", "Cl", gap=5.0) | {"outcome": name}
        others = [outcome(other, -95.0, "Na") for other in rows if other != "salt"]
        label_crystals(path, outcomes(tmp_path, name, salt, *others), references, str(tmp_path / "labels.parquet"))
        row = labels(tmp_path / "labels.parquet")["salt"]
        assert (row["outcome"], row["band_gap"]) == (name, None if energy is None else 5.0)
        # What the machine ended says nothing about the crystal: a predictor learns from what has the source scf.
        assert row["source"] == ("unfinished" if energy is None else "scf")

    mixed = outcomes(tmp_path, "mixed", *(outcome(name, -9.0, "Na", protocol="q") for name in rows))
    with pytest.raises(XtalrlError, match="never mix"):
        label_crystals(path, mixed, references, str(tmp_path / "labels.parquet"))
    with pytest.raises(XtalrlError, match="no row for salt"):
        label_crystals(path, outcomes(tmp_path, "few", outcome("metal", -95.0, "Na")), references, "never")


def test_an_scf_that_gives_what_cannot_be_true_is_a_row_without_a_label(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    references = str(tmp_path / "references.parquet")
    assemble_references(
        outcomes(tmp_path, "ref", outcome("ref-Na", -95.0, "Na", gap=None, kind="reference")), references
    )
    path = crystals(tmp_path, good=["Na"], wide=["Na"], deep=["Na"])
    ended = (outcome("good", -95.1, "Na"), outcome("wide", -95.1, "Na", gap=30.5), outcome("deep", -97.0, "Na"))
    label_crystals(path, outcomes(tmp_path, "scf", *ended), references, str(tmp_path / "labels.parquet"))
    rows = labels(tmp_path / "labels.parquet")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "good": "converged",
        "wide": "implausible",
        "deep": "implausible",
    }
    assert rows["wide"]["detail"] == "a band gap of 30.5 eV, outside -20 to 30"
    assert all(rows["deep"][name] is None for name in ("band_gap", "total_energy_ry", "formation_energy_per_atom"))
    assert "deep has no label" in caplog.text


@needs_shared
def test_the_published_labels(tmp_path: Path) -> None:
    path = crystals(tmp_path, mp_1221227=["Na"], mp_39712=["Na"], unknown=["Na"])
    references = str(tmp_path / "references.parquet")
    import_references(str(SHARED / "qe_labels" / "elemental_reference_energies.csv"), references)
    rows = {row["element"]: row for row in tables.read_rows(references, tables.REFERENCES)}
    assert len(rows) == 88
    assert rows["Cs"]["energy_per_atom"] == pytest.approx(-858.098759, abs=1e-6)
    import_labels(path, str(SHARED / "qe_labels"), str(tmp_path / "labels.parquet"), references)
    found = labels(tmp_path / "labels.parquet")
    assert found["mp-1221227"]["band_gap"] == pytest.approx(0.0226)
    assert found["mp-1221227"]["formation_energy_per_atom"] == pytest.approx(-2.353136157466584)
    assert found["mp-1221227"]["source"] == "train.csv"
    # The validation table has total energies only: eq. 15 gives the rest, which for the made-up composition Na cannot be true.
    expected = -1364.5491325 * RYDBERG_EV_PAPER - rows["Na"]["energy_per_atom"]
    assert found["mp-39712"]["outcome"] == "implausible"
    assert f"a formation energy of {expected:g} eV/atom" in found["mp-39712"]["detail"]
    assert found["unknown"]["outcome"] == "not_in_table"
    import_labels(path, str(SHARED / "qe_labels"), str(tmp_path / "labels.parquet"))
    assert labels(tmp_path / "labels.parquet")["mp-39712"]["outcome"] == "missing_reference"


def table(path: Path, *rows: dict[str, Any]) -> str:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def test_a_table_in_the_documented_columns(tmp_path: Path) -> None:
    path = crystals(tmp_path, a=["Na"], b=["Na"], c=["Na"])
    table(tmp_path / "r.csv", {"element": "Na", "energy_per_atom": -1300.0, "protocol": "p", "family": "f"})
    import_references(str(tmp_path / "r.csv"), str(tmp_path / "references.parquet"))
    common = dict.fromkeys(("band_gap", "total_energy", "formation_energy_per_atom", "source"), "") | {
        "protocol": "p",
        "family": "f",
    }
    tables_path = table(
        tmp_path / "l.csv",
        common | {"material_id": "a", "band_gap": -0.1, "total_energy": -1301.5, "source": "doi:10.1/x"},
        common | {"material_id": "b", "band_gap": 2, "formation_energy_per_atom": -0.25},
    )
    import_labels(path, tables_path, str(tmp_path / "labels.parquet"), str(tmp_path / "references.parquet"))
    found = labels(tmp_path / "labels.parquet")
    assert found["a"]["formation_energy_per_atom"] == pytest.approx(-1.5)
    assert (found["a"]["band_gap"], found["a"]["band_gap_raw"]) == (0, -0.1)
    assert found["a"]["total_energy_ry"] * RYDBERG_EV_PAPER == pytest.approx(-1301.5)
    assert (found["a"]["source"], found["b"]["source"], found["a"]["protocol"]) == ("doi:10.1/x", "l.csv", "p")
    assert (found["b"]["formation_energy_per_atom"], found["c"]["outcome"]) == (-0.25, "not_in_table")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"material_id": "a", "gap": 1}], "band_gap"),
        ([{"id": "a", "band_gap": 1}], "material_id"),
        ([{"material_id": "a", "band_gap": "wide"}], "'wide'.*not a number"),
        ([{"material_id": "a", "band_gap": "nan"}], "not a number"),
        ([{"material_id": "a", "band_gap": 31}], "row 2: a has a band gap of 31 eV, outside -20 to 30"),
        ([{"material_id": "a", "band_gap": -21}], "row 2: a has a band gap of -21 eV"),
        ([{"material_id": "a", "formation_energy_per_atom": 21}], "row 2: a has a formation energy of 21 eV/atom"),
        ([{"material_id": "a", "formation_energy_per_atom": -1e30}], "outside -20 to 20"),
        ([{"material_id": "", "band_gap": 1}], "row 2"),
        ([{"material_id": "a", "band_gap": 1}, {"material_id": "a", "band_gap": 2}], "other values"),
        ([{"material_id": "z", "band_gap": 1}], "among the 1 crystals"),
    ],
)
def test_wrong_label_tables_get_a_sentence(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    path = crystals(tmp_path, a=["Na"])
    with pytest.raises(XtalrlError, match=message):
        import_labels(path, table(tmp_path / "labels.csv", *rows), str(tmp_path / "labels.parquet"))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"element": "Xx", "energy_per_atom": -1}], "'Xx'.*88 elements"),
        ([{"element": "Na", "energy": -1}], "energy_per_atom_ry"),
        ([{"element": "Na", "energy_per_atom": "low"}], "'low'"),
        ([{"element": "Na", "energy_per_atom": -1}] * 2, "Na occurs twice"),
    ],
)
def test_wrong_reference_tables_get_a_sentence(tmp_path: Path, rows: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(XtalrlError, match=message):
        import_references(table(tmp_path / "r.csv", *rows), str(tmp_path / "references.parquet"))


def test_missing_tables_get_a_sentence(tmp_path: Path) -> None:
    path = crystals(tmp_path, a=["Na"])
    with pytest.raises(XtalrlError, match="does not exist"):
        import_labels(path, str(tmp_path / "nowhere"), "never")
    (tmp_path / "empty").mkdir()
    with pytest.raises(XtalrlError, match="no CSV"):
        import_labels(path, str(tmp_path / "empty"), "never")


def test_imported_protocols_never_mix(tmp_path: Path) -> None:
    path = crystals(tmp_path, a=["Na"])
    references = str(tmp_path / "references.parquet")
    import_references(
        table(tmp_path / "r.csv", {"element": "Na", "energy_per_atom_ry": -95.0, "protocol": "paper"}), references
    )
    tables_path = table(
        tmp_path / "l.csv", {"material_id": "a", "band_gap": 1, "total_energy_ry": -95.5, "protocol": "paper-fast"}
    )
    with pytest.raises(XtalrlError, match="never mix"):
        import_labels(path, tables_path, str(tmp_path / "labels.parquet"), references)


FAMILY = "sssp-1.3.0-efficiency"


def family_json(folder: Path) -> str:
    (folder / "family.json").write_text(describe_family(FAMILY).model_dump_json())
    return str(folder / "family.json")


def three_elements(folder: Path, **energies_ry: float | None) -> str:
    """Outcomes of the SCFs that imported energies are compared with; one without an energy failed."""
    rows = [outcome(f"ref-{element}", energy, element, kind="reference") for element, energy in energies_ry.items()]
    tables.write_rows(rows, tables.SCF_OUTCOMES, folder / "three.parquet")
    return str(folder / "three.parquet")


def test_the_stated_protocol_is_that_of_references_and_labels(tmp_path: Path) -> None:
    energies = table(tmp_path / "r.csv", {"element": "Al", "energy_per_atom_ry": -39.46})
    references = str(tmp_path / "references.parquet")
    family = family_json(tmp_path)
    import_references(energies, references, family, three_elements(tmp_path, Al=-39.459, Si=-11.4), "paper")
    expected = origin_of("paper", describe_family(FAMILY))
    (row,) = tables.read_rows(references, tables.REFERENCES)
    assert {name: row[name] for name in expected} == expected
    tables_path = table(tmp_path / "l.csv", {"material_id": "a", "band_gap": 1, "total_energy_ry": -39.56})
    path = crystals(tmp_path, a=["Al"])
    import_labels(path, tables_path, str(tmp_path / "labels.parquet"), references, family, "paper")
    label = labels(tmp_path / "labels.parquet")["a"]
    assert label["formation_energy_per_atom"] == pytest.approx(-0.1 * RYDBERG_EV_PAPER)
    assert {name: label[name] for name in expected} == expected


def test_a_wrong_statement_is_found_by_the_scfs(tmp_path: Path) -> None:
    energies = table(
        tmp_path / "r.csv",
        {"element": "Al", "energy_per_atom_ry": -39.46},
        {"element": "Si", "energy_per_atom_ry": -11.40},
    )
    outcomes = three_elements(tmp_path, Al=-39.46, Si=-11.42)  # 0.27 eV/atom: the k mesh of another protocol
    with pytest.raises(XtalrlError, match=r"references.protocol: paper`.*\(Si by \+0.272 eV"):
        import_references(energies, str(tmp_path / "x.parquet"), family_json(tmp_path), outcomes, "paper")
    assert not (tmp_path / "x.parquet").exists()
    import_references(
        energies,
        str(tmp_path / "x.parquet"),
        family_json(tmp_path),
        three_elements(tmp_path, Al=-39.46, Si=None),
        "paper",
    )  # a check that failed says nothing


def test_a_table_that_names_another_protocol_is_refused(tmp_path: Path) -> None:
    energies = table(tmp_path / "r.csv", {"element": "Al", "energy_per_atom_ry": -39.46, "protocol": "paper-fast"})
    with pytest.raises(XtalrlError, match=r"name the protocol paper-fast.*protocol paper, family"):
        import_references(energies, str(tmp_path / "x.parquet"), family_json(tmp_path), None, "paper")


def test_energies_that_do_not_fit_are_refused_before_anything_runs(tmp_path: Path) -> None:
    row = {"element": "Al", "energy_per_atom_ry": -39.46}
    with pytest.raises(XtalrlError, match=r"do not say.*references.protocol: paper`"):
        check_energies_fit(table(tmp_path / "r.csv", row), "paper", FAMILY)
    stated = {name: value for name, value in origin_of("paper", describe_family(FAMILY)).items() if value}
    check_energies_fit(table(tmp_path / "r.csv", row | stated), "paper", FAMILY)
    with pytest.raises(XtalrlError, match=r"name the protocol paper, .*protocol sssp"):
        check_energies_fit(table(tmp_path / "r.csv", row | stated), "sssp", FAMILY)
