"""`xtalrl design`: the pretrained policy on skeletons of one's own."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
from pymatgen.core import Lattice, Structure
from typer.testing import CliRunner

from xtalrl.commands.cli import app
from xtalrl.commands.design import design_crystals
from xtalrl.elements import has_odd_electrons
from xtalrl.errors import XtalrlError
from xtalrl.rl.rollout_settings import RolloutSettings
from xtalrl.structures.external import read_designs

SETTINGS = RolloutSettings(designs=6, neutral=True, even_electrons=True)
PEROVSKITE = Structure.from_spacegroup(
    "Pm-3m", Lattice.cubic(4.0), ["Ca", "Ti", "O"], [[0.5] * 3, [0, 0, 0], [0.5, 0, 0]]
)


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    path = tmp_path / "perovskite.cif"
    PEROVSKITE.to(filename=str(path))
    return path


def test_designs_are_distinct_neutral_and_even(skeleton: Path) -> None:
    designs, problems = design_crystals(skeleton, 3.0, "mp20", SETTINGS)
    assert problems == []
    assert [design.values["sample"] for design in designs] == [0, 1, 2, 3, 4, 5]
    assert len({tuple(design.cell.species) for design in designs}) == 6
    assert all(design.values["valid"] and not has_odd_electrons(design.cell.species) for design in designs)
    assert [len(design.cell.positions) for design in designs] == [5] * 6


def test_the_gap_and_the_elements_allowed_matter(skeleton: Path) -> None:
    formulas = {
        gap: [design.formula for design in design_crystals(skeleton, gap, "mp20", SETTINGS)[0]] for gap in (0.5, 6.0)
    }
    assert formulas[0.5] != formulas[6.0]
    only = RolloutSettings(designs=3, allow=("Na", "K", "Cl", "F"), deny=("Cl",))
    designs, _ = design_crystals(skeleton, 3.0, "mp20", only)
    assert {element for design in designs for element in design.cell.species} <= {"Na", "K", "F"}


def test_the_numbering_of_the_sites_does_not_matter(skeleton: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned"
    turned.mkdir()
    path = turned / "perovskite.cif"
    Structure.from_sites(PEROVSKITE.sites[::-1]).to(filename=str(path))
    first, other = (design_crystals(each, 2.0, "mp20", SETTINGS)[0] for each in (skeleton, path))
    assert [design.formula for design in first] == [design.formula for design in other]


def test_an_entry_that_cannot_be_a_skeleton_is_named(skeleton: Path) -> None:
    (skeleton.parent / "broken.cif").write_text("data_broken\n")
    designs, problems = design_crystals(skeleton.parent, 2.0, "mp20", SETTINGS)
    assert len(designs) == 6
    assert len(problems) == 1
    assert "broken.cif" in problems[0]
    skeleton.unlink()
    with pytest.raises(XtalrlError, match="can be a skeleton"):
        design_crystals(skeleton.parent, 2.0, "mp20", SETTINGS)


def test_the_command_prints_and_writes(skeleton: Path, tmp_path: Path) -> None:
    output = tmp_path / "designs.extxyz"
    said = CliRunner().invoke(app, ["design", str(skeleton), "--gap", "2", "--best", "3", "--output", str(output)])
    assert said.exit_code == 0, said.output
    assert said.output.count("neutral") == 3
    assert f"xtalrl evaluate {output}" in said.output
    crystals = ase.io.read(output, ":")
    assert [crystal.info["sample"] for crystal in crystals] == [0, 1, 2]
    assert all(crystal.info["policy"] == "rvs-mp20-2ev" for crystal in crystals)
    assert all(crystal.cell.volume == pytest.approx(64) for crystal in crystals)
    found, rejected = read_designs(output, 20)
    assert [design.id for design in found] == ["perovskite", "perovskite#2", "perovskite#3"]
    assert rejected == []
    again = CliRunner().invoke(app, ["design", str(skeleton), "--gap", "2", "--output", str(output)])
    assert again.exit_code == 1
    assert "exists already" in again.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gap", "-1"], "--gap is -1: a gap is from 0 to 30 eV"),
        (["--gap", "1e39"], "--gap is 1e+39: a gap is from 0 to 30 eV"),
        (["--gap", "2", "--keep", "Pb"], "Pb is to stay where the skeletons have it"),
        (["--gap", "2", "--deny", "Xx"], "'Xx' is not one of the 88 elements"),
        (["--gap", "2", "--policy", "mine"], "There is no pretrained policy 'mine'"),
        (["--gap", "2", "--output", "designs.pdf"], "the ending '.pdf' is not known"),
        (["--gap", "2", "--allow", "O", "--deny", "O"], "no element to place"),
    ],
)
def test_mistakes_get_a_sentence(skeleton: Path, arguments: list[str], sentence: str) -> None:
    said = CliRunner().invoke(app, ["design", str(skeleton), *arguments])
    assert said.exit_code == 1
    assert sentence in " ".join(said.output.split())


def test_elements_that_are_kept_stay_on_their_sites(skeleton: Path) -> None:
    true = [site.specie.symbol for site in PEROVSKITE]
    designs, _ = design_crystals(skeleton, 3.0, "mp20", SETTINGS, keep=["O"])
    assert len({tuple(design.cell.species) for design in designs}) == 6
    for design in designs:
        assert design.cell.species.count("O") >= true.count("O")
        assert design.values["valid"]
    all_kept, _ = design_crystals(skeleton, 3.0, "mp20", SETTINGS, keep=["Ca", "Ti", "O"])
    assert [sorted(design.cell.species) for design in all_kept] == [sorted(true)]


def test_wishes_that_no_element_can_meet_leave_a_skeleton_without_designs(skeleton: Path) -> None:
    only = RolloutSettings(designs=3, neutral=True, allow=("Na",))
    assert design_crystals(skeleton, 3.0, "mp20", only, keep=["O"])[0] == []


def test_keep_is_an_option_and_an_unknown_element_gets_a_sentence(skeleton: Path) -> None:
    kept = CliRunner().invoke(app, ["design", str(skeleton), "--gap", "3", "--best", "1", "--keep", "O"])
    assert kept.exit_code == 0, kept.output
    assert "O O O" in kept.output or kept.output.count(" O") >= 3
    wrong = CliRunner().invoke(app, ["design", str(skeleton), "--gap", "3", "--keep", "Xx"])
    assert wrong.exit_code == 1
    assert "'Xx' is not one of the 88 elements" in wrong.output
