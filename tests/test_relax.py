"""Relaxation by the universal potential of the extra `relax`; the tests that need it are skipped without."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.commands.cli import app
from xtalrl.structures.relaxation import Relaxed, compare

HAS_CHGNET = importlib.util.find_spec("chgnet") is not None


def salt(first: str, second: str, a: float, group: str = "Fm-3m") -> Structure:
    coords = [[0, 0, 0], [0.5, 0.5, 0.5]]
    return Structure.from_spacegroup(group, Lattice.cubic(a), [first, second], coords).get_primitive_structure()


def test_a_relaxed_crystal_is_compared_with_the_one_before() -> None:
    before = salt("Na", "Cl", 5.6)
    larger = compare(before, Relaxed(salt("Na", "Cl", 5.6 * 1.02), -3.0, True))
    assert larger["same_structure"] and larger["volume_change_pct"] == pytest.approx(100 * (1.02**3 - 1))
    assert not compare(before, Relaxed(salt("Na", "Cl", 3.4, "Pm-3m"), -3.0, False))["same_structure"]


@pytest.mark.skipif(HAS_CHGNET, reason="the extra `relax` is installed")
def test_without_the_extra_a_sentence_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "salt.cif").write_text(salt("Na", "Cl", 5.6).to(fmt="cif"))
    said = CliRunner().invoke(app, ["relax", str(tmp_path / "salt.cif")])
    assert said.exit_code == 1
    assert "pip install chgnet==0.4.2" in said.output


@pytest.mark.skipif(not HAS_CHGNET, reason="needs the extra `relax` (chgnet)")
def test_a_stretched_salt_goes_back_and_lies_on_the_hull(tmp_path: Path) -> None:
    rows = [
        {
            "material_id": name, "split": "train", "formula": structure.composition.reduced_formula, "n_sites": len(structure),
            **Cell.from_structure(structure).row, "spacegroup_number": 225, "source": "test",
        }
        for name, structure in (("salt", salt("Na", "Cl", 5.65)), ("other", salt("K", "Cl", 6.35)))
    ]  # fmt: skip
    tables.write_rows(rows, tables.CRYSTALS, tmp_path / "known.parquet")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/stretched.cif").write_text(salt("Na", "Cl", 5.9).to(fmt="cif"))
    (tmp_path / "set/caesium_chloride.cif").write_text(salt("Na", "Cl", 3.5, "Pm-3m").to(fmt="cif"))
    arguments = ["relax", tmp_path / "set", "--known", tmp_path / "known.parquet", "--output", tmp_path / "r.csv"]
    said = CliRunner().invoke(app, list(map(str, arguments)))
    assert said.exit_code == 0, said.output
    assert "a model's word" in said.output
    with (tmp_path / "r.csv").open() as file:
        found = {row["material_id"]: row for row in csv.DictReader(file)}
    stretched, other = found["stretched"], found["caesium_chloride"]
    assert stretched["same_structure"] == "True" and float(stretched["volume_change_pct"]) < -5
    assert abs(float(stretched["energy_above_hull"])) < 0.03
    assert stretched["decomposition"] == "NaCl" and stretched["n_competing"] == "1"
    assert 0.02 < float(other["energy_above_hull"]) < 0.3, "PBE: about 0.1 eV/atom above rock salt"
