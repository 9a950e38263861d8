"""Exports: what pymatgen and ASE read back is the design, with its values."""

from __future__ import annotations

import io
import json
import os
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import ase.db
import ase.io
import numpy as np
import pyarrow as pa
import pytest
from ase.io.cif import parse_cif
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure
from pymatgen.io.ase import AseAtomsAdaptor
from pymatgen.io.optimade import OptimadeStructureAdapter
from report_data import write_results
from test_dft_exchange import an_older_version_wrote, fill, record
from typer.testing import CliRunner

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.commands.cli import app
from xtalrl.commands.exports import (
    _WRITERS,
    FIELDS,
    Design,
    Selection,
    _cif_value,
    export_designs,
    export_scfs,
    read_cif_values,
    select_designs,
    to_cif,
)
from xtalrl.config import Config
from xtalrl.csv_files import read_csv
from xtalrl.dft.outcomes import Outcome
from xtalrl.errors import XtalrlError
from xtalrl.structures.external import read_designs as read_external

EVERYTHING = Selection()
Read = dict[str, tuple[Structure, dict[str, Any]]]
"""Crystal and values by the design's name."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return write_results(tmp_path_factory.mktemp("run"), 24, (0, 1), targets_ev=[2.0], omegas=[5], bc=False)


@pytest.fixture(scope="module")
def designs(run: Config) -> dict[str, Design]:
    return {design.name: design for design in select_designs(run, EVERYTHING)}


def read_cifs(folder: Path) -> Read:
    found: Read = {}
    for path in folder.glob("*.cif"):
        values = read_cif_values(path.read_text())
        found[f"{values['policy']}/seed{values['seed']}/{values['material_id']}"] = (Structure.from_file(path), values)
    return found


def read_zip(path: Path) -> Read:
    folder = path.with_suffix(".unpacked")
    zipfile.ZipFile(path).extractall(folder)
    return read_cifs(folder)


def read_extxyz(path: Path) -> Read:
    found: Read = {}
    for atoms in ase.io.read(path, ":"):
        values = atoms.info | ({"total_energy": atoms.get_potential_energy()} if atoms.calc else {})
        found[values.pop("name")] = (AseAtomsAdaptor.get_structure(atoms), values)
    return found


def read_database(path: Path) -> Read:
    found: Read = {}
    for row in ase.db.connect(path).select():
        values = dict(row.data["xtalrl"]) | ({"total_energy": row.energy} if "energy" in row else {})
        pairs = row.key_value_pairs
        assert all(values[name] == value for name, value in pairs.items())
        assert {"policy", "outcome", "valid"} <= set(pairs)
        found[values.pop("name")] = (AseAtomsAdaptor.get_structure(row.toatoms()), values)
    return found


def read_optimade(path: Path) -> Read:
    found: Read = {}
    for resource in json.loads(path.read_text())["data"]:
        attributes = resource["attributes"]
        values = {
            key.removeprefix("_xtalrl_"): value for key, value in attributes.items() if key.startswith("_xtalrl_")
        }
        found[resource["id"]] = (OptimadeStructureAdapter.get_structure(resource), values)
    return found


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("cifs", read_cifs),
        ("a.zip", read_zip),
        ("a.extxyz", read_extxyz),
        ("a.db", read_database),
        ("a.json", read_optimade),
    ],
    ids=["cif", "zip", "extxyz", "db", "optimade"],
)
def test_round_trip(
    name: str, read: Callable[[Path], Read], run: Config, designs: dict[str, Design], tmp_path: Path
) -> None:
    assert export_designs(run, tmp_path / name, EVERYTHING) == len(designs)
    found = read(tmp_path / name)
    assert set(found) == set(designs)
    for design_name, (structure, values) in found.items():
        design = designs[design_name]
        # A CIF has lengths and angles of a cell, but not its orientation.
        assert_same_crystal(structure, design, oriented=read not in (read_cifs, read_zip))
        assert set(values) == set(design.values)
        for key, value in design.values.items():
            assert values[key] == (pytest.approx(value, rel=1e-7) if isinstance(value, float) else value), key
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def assert_same_crystal(structure: Structure, design: Design, oriented: bool) -> None:
    found, expected = structure.lattice.matrix, design.cell.vectors
    assert np.allclose(found @ found.T, expected @ expected.T, atol=1e-6)
    assert np.allclose(found, expected, atol=1e-6) or not oriented
    assert len(structure) == len(design.cell.species)
    for species, coords in zip(design.cell.species, design.cell.positions, strict=True):
        near = min(structure, key=lambda site: site.distance_and_image_from_frac_coords(coords)[0])
        assert near.specie.symbol == species
        assert near.distance_and_image_from_frac_coords(coords)[0] < 1e-6


def test_values_are_those_of_the_tables(run: Config, designs: dict[str, Design]) -> None:
    rows = tables.read_rows(Path(run.results) / "evaluation/evaluation.parquet", tables.EVALUATION)
    scfs = tables.read_rows(Path(run.results) / "evaluation/outcomes.parquet", tables.SCF_OUTCOMES)
    energies = {row["request_id"]: row["total_energy"] for row in scfs}
    assert len(designs) == len(rows) == 3 * 2 * 6
    converged = [row for row in rows if row["outcome"] == "converged"]
    assert converged
    for row in converged:
        values = designs[f"{row['policy']}/seed{row['seed']}/{row['material_id']}"].values
        assert values["band_gap"] == row["band_gap"]
        assert values["formation_energy_per_atom"] == row["formation_energy_per_atom"]
        assert values["total_energy"] == energies[row["request_id"]]
        assert (values["protocol"], values["engine"]) == ("paper-fast", "embedded pw.x 7.2")
    invalid = next(row for row in rows if row["outcome"] == "invalid_composition")
    values = designs[f"{invalid['policy']}/seed{invalid['seed']}/{invalid['material_id']}"].values
    assert not {"band_gap", "total_energy", "protocol"} & set(values)


def test_a_selection_is_of_policy_outcome_and_gap(run: Config, tmp_path: Path) -> None:
    rows = tables.read_rows(Path(run.results) / "evaluation/evaluation.parquet", tables.EVALUATION)
    expected = sorted(
        f"{row['policy']}/seed{row['seed']}/{row['material_id']}"
        for row in rows
        if row["policy"] == "ccql-2ev-w5" and row["outcome"] == "converged" and 0.5 <= row["band_gap"] <= 3
    )
    arguments = ["--policy", "ccql-2ev-w5", "--outcome", "converged", "--gap-from", "0.5", "--gap-to", "3"]
    selection = Selection(["ccql-2ev-w5"], ["converged"], 0.5, 3)
    assert sorted(design.name for design in select_designs(run, selection)) == expected
    assert 0 < len(expected) < len(rows)
    config = tmp_path / "config.json"  # JSON is YAML
    config.write_text(json.dumps(run.model_dump(mode="json")))
    result = CliRunner().invoke(app, ["export", str(tmp_path / "a.json"), *arguments, "--configfile", str(config)])
    assert result.exit_code == 0, result.output
    assert f"{len(expected)} designs" in result.output
    assert sorted(read_optimade(tmp_path / "a.json")) == expected


def shortlist(run: Config, **wanted: Any) -> list[Design]:
    return select_designs(run, Selection(**wanted))


def test_a_shortlist(run: Config, designs: dict[str, Design]) -> None:
    """Valid, novel and near the hull; sorted; one per formula; the first so many."""
    hull = [d.values["energy_above_hull"] for d in designs.values() if "energy_above_hull" in d.values]
    assert hull
    limit = float(np.median(hull))
    near = shortlist(run, max_hull=limit, sort="energy_above_hull")
    values = [design.values["energy_above_hull"] for design in near]
    assert values == sorted(value for value in hull if value <= limit)
    everything = shortlist(run, sort="band_gap", descending=True)
    gaps = [design.values.get("band_gap") for design in everything]
    known = [gap for gap in gaps if gap is not None]
    assert len(gaps) == len(designs) and gaps[: len(known)] == sorted(known, reverse=True), "without a gap: last"
    once = shortlist(run, sort="band_gap", one_per_formula=True)
    formulas = [design.reduced_formula for design in once]
    assert len(set(formulas)) == len(formulas) == len({design.reduced_formula for design in everything})
    for design in once:
        of_formula = [
            d.values["band_gap"]
            for d in everything
            if d.reduced_formula == design.reduced_formula and "band_gap" in d.values
        ]
        assert not of_formula or design.values["band_gap"] == min(of_formula)
    assert [d.name for d in shortlist(run, sort="band_gap", one_per_formula=True, limit=2)] == [
        d.name for d in once[:2]
    ]
    assert {design.values["valid"] for design in shortlist(run, valid=True)} == {True}
    assert {design.values["novel"] for design in shortlist(run, novel=True)} == {True}
    assert len(shortlist(run, valid=True)) < len(designs)


def test_a_list_for_people(run: Config, designs: dict[str, Design], tmp_path: Path) -> None:
    export_designs(run, tmp_path / "a.csv", Selection(outcomes=["converged"]))
    rows = read_csv(
        tmp_path / "a.csv", ["name", "formula", "band_gap", "energy_above_hull", "protocol", "seed", "a"]
    ).rows
    assert rows
    for row in rows:
        design = designs[row["name"]]
        assert row["formula"] == design.reduced_formula
        assert float(row["band_gap"]) == pytest.approx(design.values["band_gap"], rel=1e-5)
        assert int(row["spacegroup_number"]) == design.values["spacegroup_number"] >= 1


def test_fields_are_described(run: Config, tmp_path: Path) -> None:
    export_designs(run, tmp_path / "a.json", EVERYTHING)
    fields = json.loads((tmp_path / "a.json").read_text())["meta"]["_xtalrl_fields"]
    assert fields["_xtalrl_band_gap"] == {"description": "Clipped at 0", "unit": "eV"}
    assert fields["_xtalrl_formation_energy_per_atom"]["unit"] == "eV/atom"


def test_optimade_accepts_it(run: Config, tmp_path: Path) -> None:
    """Oracle: the pydantic models of optimade-python-tools."""
    models = pytest.importorskip("optimade.models", reason="optimade is not installed")
    export_designs(run, tmp_path / "a.json", EVERYTHING)
    models.StructureResponseMany.model_validate(json.loads((tmp_path / "a.json").read_text()))


def test_optimade_accepts_each_line(run: Config, tmp_path: Path) -> None:
    models = pytest.importorskip("optimade.models", reason="optimade is not installed")
    export_designs(run, tmp_path / "a.json", EVERYTHING)
    export_designs(run, tmp_path / "a.jsonl", EVERYTHING)
    header, info, *resources = map(json.loads, (tmp_path / "a.jsonl").read_text().splitlines())
    assert header["x-optimade"]["meta"]["api_version"] == "1.2.0"
    assert info["type"] == "info" and "_xtalrl_band_gap" in info["properties"]
    assert resources == json.loads((tmp_path / "a.json").read_text())["data"]
    for resource in resources:
        models.StructureResource.model_validate(resource)


@pytest.mark.parametrize("name", ["scfs.json", "scfs.extxyz"])
def test_finished_scfs_go_along_as_structures(name: str, tmp_path: Path) -> None:
    """One per calculation, a failed one without the energy that it may have printed; OPTIMADE's models accept them."""
    cache = fill(tmp_path / "cache", record(), record(1.1, Outcome.NOT_CONVERGED), record(1.2))
    an_older_version_wrote(cache)
    assert export_scfs(cache, tmp_path / name) == 3
    found = (read_optimade if name.endswith("json") else read_extxyz)(tmp_path / name)
    by_key = {one.key: one for one in (record(), record(1.1, Outcome.NOT_CONVERGED), record(1.2))}
    assert found.keys() == by_key.keys()
    for key, (structure, values) in found.items():
        one = by_key[key]
        np.testing.assert_allclose(structure.lattice.matrix.ravel(), one.lattice, atol=1e-7)
        assert values["outcome"] == one.outcome and values["engine"] == "pw.x 7.2 (path)"
        if one.outcome == "converged":
            assert values["total_energy"] == pytest.approx(-20 * 13.605703976)
            assert values["band_gap_raw"] == 1.25
        else:
            assert not {"total_energy", "band_gap_raw"} & values.keys()
    if name.endswith("json"):
        models = pytest.importorskip("optimade.models", reason="optimade is not installed")
        models.StructureResponseMany.model_validate(json.loads((tmp_path / name).read_text()))
    with pytest.raises(XtalrlError, match=r"a \.hf is of a run: `xtalrl export"):
        export_scfs(cache, tmp_path / "scfs.hf")


def test_an_external_crystal_goes_along(run: Config, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(run.results, folder)
    cells = tables.read_rows(folder / "structures/crystals.parquet", tables.CRYSTALS)
    own = cells[1] | {"material_id": "other/a b", "split": "external"}
    tables.write_rows([own], tables.CRYSTALS, folder / "external/other/crystals.parquet")
    path = folder / "evaluation/evaluation.parquet"
    rows = tables.read_rows(path, tables.EVALUATION)
    design = rows[0] | {
        "policy": "other",
        "material_id": own["material_id"],
        "species": own["species"],
        "true_formula": None,
    }
    tables.write_rows([*rows, design], tables.EVALUATION, path)
    config = Config.model_validate(run.model_dump() | {"results": str(folder), "external": {"other": "somewhere"}})
    export_designs(config, tmp_path / "cifs", Selection(["other"]))
    (file,) = (tmp_path / "cifs").iterdir()
    assert file.name == "NaO4Sb2_other_seed0_other_a_b.cif", "what it is, then where it comes from"
    true = Structure(np.reshape(own["lattice"], (3, 3)), own["species"], np.reshape(own["frac_coords"], (-1, 3)))
    assert StructureMatcher(scale=False, primitive_cell=False).fit(Structure.from_file(file), true)
    gone = Config.model_validate(config.model_dump() | {"external": {}})
    with pytest.raises(XtalrlError, match="external set that the configuration does not name"):
        select_designs(gone, EVERYTHING)


def test_what_a_finer_scf_said_goes_along_and_what_is_no_crystal_does_not(run: Config, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(run.results, folder)
    path = folder / "evaluation/evaluation.parquet"
    rows = tables.read_rows(path, tables.EVALUATION)
    hit = next(row for row in rows if row["band_gap"] is not None and row["policy"] == "ccql-2ev-w5")
    unusable = rows[0] | {
        "policy": "others",
        "material_id": "others/x",
        "species": [],
        "formula": "",
        "request_id": None,
    }
    tables.write_rows([*rows, unusable | {"valid": False, "outcome": "unusable_entry"}], tables.EVALUATION, path)
    names = ("policy", "seed", "material_id", "sample", "species", "formula", "request_id", "band_gap")
    finer = {
        "target_ev": 2.0,
        "window_ev": 0.25,
        "verdict": "hit confirmed",
        "confirmed_band_gap": 1.9,
        "outcome": "converged",
        "detail": "",
    }
    confirmation = folder / "confirmation/confirmation.parquet"
    tables.write_rows([{name: hit[name] for name in names} | finer], tables.CONFIRMATION, confirmation)
    found = select_designs(Config.model_validate(run.model_dump() | {"results": str(folder)}), EVERYTHING)
    assert len(found) == len(rows)
    confirmed = [design.values for design in found if "verdict" in design.values]
    assert {values["policy"] for values in confirmed} == {"ccql-2ev-w5"}, (
        "a hit of this policy's target, and of no other's"
    )
    assert {(values["verdict"], values["confirmed_band_gap"]) for values in confirmed} == {("hit confirmed", 1.9)}


def test_samples_of_a_skeleton_have_names_of_their_own(run: Config, tmp_path: Path) -> None:
    folder = tmp_path / "results"
    shutil.copytree(run.results, folder)
    path = folder / "evaluation/evaluation.parquet"
    rows = tables.read_rows(path, tables.EVALUATION)
    tables.write_rows([row | {"sample": sample} for row in rows for sample in (0, 1)], tables.EVALUATION, path)
    designs = select_designs(Config.model_validate(run.model_dump() | {"results": str(folder)}), EVERYTHING)
    assert len({design.name for design in designs}) == len(designs) == 2 * len(rows)


@pytest.mark.parametrize(
    ("output", "selection", "expected"),
    [
        ("a.txt", EVERYTHING, "the ending '.txt' is not known"),
        ("there.json", EVERYTHING, "exists already"),
        ("a.json", Selection(["ccql"]), "has the policy 'ccql'; there are: ccql-2ev-w5, random, ucql-w5"),
        ("a.json", Selection(outcomes=["fine"]), "has the outcome 'fine'"),
        ("a.json", Selection(gap_from=99), "None of the 36 designs .* fits"),
        ("a.json", Selection(gap_from=2, gap_to=1), "--gap-from 2 is above --gap-to 1"),
        ("a.json", Selection(sort="gap"), "--sort 'gap' is not known; there are: band_gap"),
        ("a.json", Selection(max_hull=-99), "raise --max-hull"),
    ],
)
def test_a_mistake_gets_a_sentence(
    output: str, selection: Selection, expected: str, run: Config, tmp_path: Path
) -> None:
    (tmp_path / "there.json").write_text("")
    with pytest.raises(XtalrlError, match=expected):
        export_designs(run, tmp_path / output, selection)
    assert [path.name for path in tmp_path.iterdir()] == ["there.json"]


def test_a_failure_leaves_nothing_behind(run: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(design: Design) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xtalrl.commands.exports.to_cif", full)
    for name in ("cifs", "a.zip"):
        with pytest.raises(OSError, match="No space"):
            export_designs(run, tmp_path / name, EVERYTHING)
    assert list(tmp_path.iterdir()) == []


def test_a_database_can_be_queried(run: Config, tmp_path: Path) -> None:
    export_designs(run, tmp_path / "a.db", Selection(outcomes=["converged"]))
    assert sqlite3.connect(tmp_path / "a.db").execute("select count(*) from systems").fetchone()[0] > 0
    database = ase.db.connect(tmp_path / "a.db")
    assert all(row.band_gap > 1 for row in database.select("band_gap>1"))
    assert 0 < database.count("band_gap>1") < database.count()


ANY_TEXT = st.one_of(
    st.text(max_size=40),
    st.text(alphabet=" \"'\\\\{}[]=;#_,\n\r\tTFe15.-ab\u2028\x85\x00", max_size=12),
    st.sampled_from(["", "T", "F", "true", "5", "1e5", "nan", "-inf", "1 2 3", "T F", "_JSON [1]", "None", "null", "?", ".", "data_x",
                     "loop_", "_eof", "a\\", "\\", "\\\\", "x #y", "a 'b\" c", "it's", '"q"', "'q'", ";", "\n;", "a\nb", " a ", "Å 晶 🙂",
                     "$x_{2}$", "<sub>2</sub>"]),
)  # fmt: skip
STRINGS = [name for name, field in FIELDS.items() if pa.types.is_string(field.type)]
FLOATS = [name for name, field in FIELDS.items() if pa.types.is_floating(field.type)]


@given(
    texts=st.lists(st.dictionaries(st.sampled_from(STRINGS), ANY_TEXT), min_size=1, max_size=3),
    number=st.floats(allow_nan=False, allow_infinity=False, width=32),
)
@settings(
    max_examples=int(os.environ.get("XTALRL_EXPORTS", "20")),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_text_returns_from_every_format(texts: list[dict[str, str]], number: float, tmp_path: Path) -> None:
    """At full size: `XTALRL_EXPORTS=1000 pytest tests/test_exports.py`."""
    made = [
        Design(
            name=f"{n}/{'/'.join(values.values())}",
            cell=Cell(("Na", "Cl"), (3, 0, 0, 0, 4, 0, 0, 0, 5), (0, 0, 0, 0.5, 0.5, 0.5)),
            values=values | dict.fromkeys(FLOATS, number) | {"valid": True, "seed": 3},
        )
        for n, values in enumerate(texts)
    ]
    for name, read in (("a.extxyz", read_extxyz), ("a.db", read_whole_database), ("a.json", read_optimade)):
        path = tmp_path / name
        path.unlink(missing_ok=True)
        _WRITERS[path.suffix](made, path)
        assert {key: values for key, (_, values) in read(path).items()} == {
            design.name: design.values for design in made
        }
        if path.suffix != ".json":
            found, rejected = read_external(path, 20)
            assert (len(found), rejected) == (len(made), [])
            assert len({design.id for design in found}) == len(made)
    for design in made:
        cif = to_cif(design)
        assert read_cif_values(cif) == design.values
        assert Structure.from_str(cif, fmt="cif").composition.formula == "Na1 Cl1"
        (block,) = parse_cif(io.StringIO(cif), reader="ase")
        for key, value in design.values.items():
            of_ase = block[f"_xtalrl_{key}"]
            if isinstance(value, str):
                assert of_ase == value or unquote(of_ase[1:-1]) == value
            elif key != "valid":
                assert of_ase == value


def read_whole_database(path: Path) -> Read:
    return {
        row.data["xtalrl"]["name"]: (
            AseAtomsAdaptor.get_structure(row.toatoms()),
            {key: value for key, value in row.data["xtalrl"].items() if key != "name"} | {"total_energy": row.energy},
        )
        for row in ase.db.connect(path).select()
    }


def test_plain_texts_stand_in_a_cif_as_they_are() -> None:
    for text in (
        "ccql-2ev-w5",
        "not converged in 100 steps",
        "it's",
        'a "b" c',
        "a 'b' and \"c\" d",
        "5",
        "1e5",
        ";x",
        "?",
        "data_x",
    ):
        assert json.dumps(text)[1:-1] not in ("", "x") and text in _cif_value(text), text
    assert _cif_value("Å\n'\"#%") == """'"%C3%85%0A%27%22%23%25"'"""


def test_long_names_and_namesakes_are_files_of_their_own(tmp_path: Path) -> None:
    base = Design("", Cell(("Na",), (3, 0, 0, 0, 3, 0, 0, 0, 3), (0, 0, 0)), {})
    names = ["x" * 300, "X" * 300, "x" * 300 + "y", "a/b", "a b", "a_b__2", "A/b"]
    _WRITERS[""]([replace(base, name=name) for name in names], tmp_path / "cifs")
    assert len({file.name.lower() for file in (tmp_path / "cifs").iterdir()}) == len(names)
