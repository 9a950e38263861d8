"""From designs to assessments: counting, validity, novelty, identifiers, and mistakes in the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.metrics.composition import assess_designs, count_correct, count_similar, design_id

CRYSTALS = {"mp-1": ["Na", "Na", "Cl", "Cl"], "mp-2": ["Sr", "Ti", "O", "O", "O"]}


def write_crystals(path: Path) -> Path:
    rows = [
        {
            "material_id": material_id,
            "split": "val",
            "formula": "".join(species),
            "n_sites": len(species),
            "species": species,
            "lattice": [4.0, 0, 0, 0, 4.0, 0, 0, 0, 4.0],
            "frac_coords": [0.1 * i for i in range(3 * len(species))],
            "spacegroup_number": 1,
            "source": "toy.csv:0",
        }
        for material_id, species in CRYSTALS.items()
    ]
    tables.write_rows(rows, tables.CRYSTALS, path)
    return path


def write_designs(path: Path, policy: str, designs: dict[str, list[str]], seed: int = 0) -> Path:
    rows = [
        {"material_id": key, "policy": policy, "seed": seed, "order": list(range(len(species))), "species": species}
        for key, species in designs.items()
    ]
    tables.write_rows(rows, tables.DESIGNS, path)
    return path


def assess(folder: Path, *designs: Path, formulas: Path | None = None) -> list[dict[str, Any]]:
    output = folder / "assessments.parquet"
    assess_designs([*designs], write_crystals(folder / "crystals.parquet"), formulas, output)
    return tables.read_rows(output, tables.ASSESSMENTS)


def test_counting() -> None:
    assert count_correct(["Na", "K", "Cl"], ["Na", "Na", "Cl"]) == 2
    assert count_similar(["Na", "K", "F"], ["Li", "Ca", "Cl"]) == 2  # K is of group 1, Ca of group 2
    assert count_similar(["Al"], ["Ga"]) == 1  # the ninth class
    assert count_similar(["Al"], ["Fe"]) == 0


def test_a_design_is_judged(tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("KCl\n")
    bc = write_designs(
        tmp_path / "bc.parquet", "bc", {"mp-1": ["Na", "K", "Cl", "Cl"], "mp-2": ["Sr", "Sr", "O", "O", "O"]}
    )
    first, second = assess(tmp_path, bc, formulas=tmp_path / "known.txt")
    assert first == {
        "material_id": "mp-1", "policy": "bc", "seed": 0, "sample": None, "species": ["Na", "K", "Cl", "Cl"],
        "formula": "KNaCl2", "true_formula": "NaCl", "n_sites": 4, "n_correct": 3, "n_similar": 4,
        "valid": True, "validity_rule": "cdvae-smact14", "valid_smact14": True, "valid_icsd24": True, "odd_electrons": False, "novel": True, "request_id": design_id("mp-1", first["species"]),
    }  # fmt: skip
    assert second["formula"] == "Sr2O3"
    assert not second["odd_electrons"]  # 2 · 38 + 3 · 8
    assert (second["valid"], second["novel"], second["request_id"]) == (False, None, None)


def test_known_compositions_are_found_in_any_spelling(tmp_path: Path) -> None:
    (tmp_path / "known.txt").write_text("ClNa\nTiSrO3\n")
    bc = write_designs(tmp_path / "bc.parquet", "bc", CRYSTALS)
    assert [row["novel"] for row in assess(tmp_path, bc, formulas=tmp_path / "known.txt")] == [False, False]


def test_without_a_list_novelty_is_unknown(tmp_path: Path) -> None:
    bc = write_designs(tmp_path / "bc.parquet", "bc", CRYSTALS)
    assert [row["novel"] for row in assess(tmp_path, bc)] == [None, None]


def test_equal_designs_share_their_scf_and_different_sites_do_not(tmp_path: Path) -> None:
    swapped = {"mp-1": ["Cl", "Na", "Na", "Cl"]}
    files = [
        write_designs(tmp_path / "a.parquet", "bc", {"mp-1": CRYSTALS["mp-1"]}),
        write_designs(tmp_path / "b.parquet", "ucql-w5", {"mp-1": CRYSTALS["mp-1"]}, seed=3),
        write_designs(tmp_path / "c.parquet", "ucql-w1", swapped),
    ]
    a, b, c = assess(tmp_path, *files)
    assert a["request_id"] == b["request_id"] != c["request_id"]
    assert a["formula"] == c["formula"] == "NaCl"
    assert a["request_id"].startswith("mp-1/")


def test_designs_of_other_structures_are_refused(tmp_path: Path) -> None:
    unknown = write_designs(tmp_path / "u.parquet", "bc", {"mp-9": ["Na", "Cl"]})
    with pytest.raises(XtalrlError, match=r"u.parquet: the crystal mp-9 is not in .*crystals.parquet"):
        assess(tmp_path, unknown)
    short = write_designs(tmp_path / "s.parquet", "bc", {"mp-1": ["Na", "Cl"]})
    with pytest.raises(XtalrlError, match=r"mp-1 has 4 sites, the design 2,"):
        assess(tmp_path, short)


def test_a_design_twice_is_refused(tmp_path: Path) -> None:
    once = write_designs(tmp_path / "a.parquet", "bc", CRYSTALS)
    twice = write_designs(tmp_path / "b.parquet", "bc", CRYSTALS)
    with pytest.raises(XtalrlError, match=r"policy bc, seed 0 fills the skeleton mp-1 a second time"):
        assess(tmp_path, once, twice)
