"""`xtalrl predict`: the predictor that ships with xtalrl, on crystals of one's own."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from xtalrl.commands.cli import app
from xtalrl.commands.predict import Wanted, predict_file
from xtalrl.errors import XtalrlError
from xtalrl.rl import pretrained

SALT = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.69), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
COPPER = Structure.from_spacegroup("Fm-3m", Lattice.cubic(3.58), ["Cu"], [[0, 0, 0]])
SILICON = Structure.from_spacegroup("Fd-3m", Lattice.cubic(5.47), ["Si"], [[0, 0, 0]])


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    path = tmp_path / "crystals.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name, structure in (("salt", SALT), ("copper", COPPER), ("silicon", SILICON)):
            archive.writestr(f"{name}.cif", structure.to(fmt="cif"))
    return path


def run(*arguments: object) -> tuple[int, str]:
    said = CliRunner().invoke(app, ["predict", *map(str, arguments)])
    return said.exit_code, said.output


def test_a_salt_is_no_metal_and_copper_is_one(crystals: Path) -> None:
    rows, problems = predict_file(crystals, Wanted())
    assert problems == []
    by_name = {row["material_id"]: row for row in rows}
    assert by_name["copper"]["p_metal"] > 0.9
    assert by_name["copper"]["band_gap"] == 0
    assert by_name["salt"]["p_metal"] < 0.1
    assert by_name["salt"]["band_gap"] == pytest.approx(5, abs=1)  # PBE: 5.0 eV
    assert by_name["salt"]["formation_energy_per_atom"] == pytest.approx(-2.1, abs=0.4)
    assert all(row["band_gap_low"] <= row["band_gap"] <= row["band_gap_high"] for row in rows)


def test_the_likeliest_hits_come_first(crystals: Path) -> None:
    for wanted, first in ((Wanted(4.0, None), "salt"), (Wanted(None, 0.1), "copper")):
        rows, _ = predict_file(crystals, wanted)
        assert rows[0]["material_id"] == first
        assert [row["p_hit"] for row in rows] == sorted((row["p_hit"] for row in rows), reverse=True)


def test_the_command_prints_and_writes(crystals: Path, tmp_path: Path) -> None:
    output = tmp_path / "predictions.csv"
    code, said = run(crystals, "--gap", 5, "--window", 1, "--output", output)
    assert code == 0, said
    assert "P(hit)" in said
    assert "3 crystals are in" in said
    rows = list(csv.DictReader(output.open()))
    assert rows[0]["material_id"] == "salt"
    assert {(row["gap_from"], row["gap_to"]) for row in rows} == {("4", "6")}
    code, said = run(crystals, "--output", output)
    assert code == 1
    assert "exists already" in said
    code, said = run(crystals)
    assert code == 0
    assert "P(hit)" not in said


def test_wider_confidence_gives_wider_intervals(crystals: Path) -> None:
    narrow, wide = (
        {
            row["material_id"]: row["formation_energy_high"] - row["formation_energy_low"]
            for row in predict_file(crystals, Wanted(), confidence=c)[0]
        }
        for c in (0.5, 0.95)
    )
    assert all(narrow[name] < wide[name] for name in narrow)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gap", "-1"], "a gap is at least 0 eV"),
        (["--window", "0.2"], "name that gap with --gap"),
        (["--gap", "1", "--window", "0"], "the half width of a window is above 0 eV"),
        (["--gap", "1", "--gap-from", "1"], "give one or the other"),
        (["--gap-from", "2", "--gap-to", "1"], "No gap lies above 2 and below 1 eV"),
        (["--gap-to", "0"], "No gap lies above 0 and below 0 eV"),
        (["--output", "predictions.pdf"], "must end in .csv"),
        (["--predictor", "nowhere.safetensors"], "nowhere.safetensors does not exist"),
    ],
)
def test_mistakes_get_a_sentence(crystals: Path, arguments: list[str], sentence: str) -> None:
    code, said = run(crystals, *arguments)
    assert code == 1
    assert sentence in " ".join(said.split())


def test_what_cannot_be_predicted_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "crystals"
    folder.mkdir()
    code, said = run(folder)
    assert code == 1
    assert "holds no" in said
    (folder / "broken.cif").write_text("data_broken\n")
    large = Structure(
        Lattice.orthorhombic(50, 9, 8),
        ["Si"] * 25,
        [[i / 25 + 0.001 * i**1.5 % 0.01, 0.1 * (i % 3), 0.07 * (i % 5)] for i in range(25)],
    )
    large.to(filename=str(folder / "large.cif"))
    Structure(Lattice.cubic(4), ["Ar"], [[0, 0, 0]]).to(filename=str(folder / "argon.cif"))
    code, said = run(folder)
    assert code == 1
    assert "No crystal in" in said
    SALT.to(filename=str(folder / "salt.cif"))
    code, said = run(folder)
    assert code == 0
    for name, reason in (("broken", ""), ("large", "25 sites"), ("argon", "Ar")):
        [line] = [line for line in said.splitlines() if line.startswith("left out") and name in line]
        assert reason in line


def test_a_changed_predictor_is_refused(crystals: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = bytearray(pretrained.pretrained_predictor().read_bytes())
    content[-10] ^= 1
    path = tmp_path / "predictor.safetensors"
    path.write_bytes(content)
    code, said = run(crystals, "--predictor", path)
    assert code == 1
    assert "its checksum does not fit" in " ".join(said.split())
    with pytest.raises(XtalrlError, match="git checkout"):
        pretrained.pretrained_predictor(tmp_path)


def test_the_shipped_predictor_is_small() -> None:
    assert pretrained.pretrained_predictor().stat().st_size < 1_000_000


@pytest.mark.parametrize("name", ["POSCAR", "CONTCAR_relaxed", "salt.vasp"])
def test_a_poscar_is_read_as_the_cif_of_the_same_crystal(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(SALT.to(fmt="poscar"))
    (tmp_path / "salt.cif").write_text(SALT.to(fmt="cif"))
    (of_poscar,), (of_cif,) = (predict_file(tmp_path / file, Wanted())[0] for file in (name, "salt.cif"))
    assert of_poscar["material_id"] == name.removesuffix(".vasp")
    assert of_poscar["formula"] == of_cif["formula"] == "NaCl"
    assert of_poscar["band_gap"] == pytest.approx(of_cif["band_gap"], abs=0.01)


def test_what_is_no_poscar_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "POSCAR").write_text("salt\n1.0\n0 0\n")
    code, said = run(tmp_path / "POSCAR")
    assert code == 1
    assert "No crystal in" in said and "POSCAR: unreadable_entry" in said
