"""Crystals that others designed: read from CIFs, extxyz and ASE databases, and laid on our skeletons."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure
from pymatgen.io.ase import AseAtomsAdaptor

from xtalrl import tables
from xtalrl.elements import ELEMENTS
from xtalrl.errors import XtalrlError
from xtalrl.metrics.composition import assess_designs
from xtalrl.structures.crystals import build_crystals, reduce_cell
from xtalrl.structures.external import ExternalDesign, Skeletons, import_designs, read_designs


def crystal(material_id: str, structure: Structure) -> dict:
    """A row of `tables.CRYSTALS`."""
    reduced = reduce_cell(structure, 20)
    return {
        "material_id": material_id,
        "split": "val",
        "formula": reduced.composition.reduced_formula,
        "n_sites": len(reduced),
        "species": [site.specie.symbol for site in reduced],
        "lattice": reduced.lattice.matrix.ravel().tolist(),
        "frac_coords": reduced.frac_coords.ravel().tolist(),
        "spacegroup_number": 1,
        "source": "test",
    }


def structure_of(row: dict, species: list[str] | None = None) -> Structure:
    return Structure(
        np.reshape(row["lattice"], (3, 3)), species or row["species"], np.reshape(row["frac_coords"], (-1, 3))
    )


def cubic(group: str, length: float, species: list[str], sites: list[list[float]]) -> Structure:
    return Structure.from_spacegroup(group, Lattice.cubic(length), species, sites)


PEROVSKITE = cubic("Pm-3m", 3.9, ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]])
ROCK_SALT = cubic("Fm-3m", 5.64, ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).get_primitive_structure()
WURTZITE = Structure.from_spacegroup(
    "P6_3mc", Lattice.hexagonal(3.25, 5.2), ["Zn", "O"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.382]]
)
LOW = Structure(Lattice.from_parameters(4.1, 5.3, 6.7, 81, 95, 103), ["Li", "P", "O", "O"], [[0, 0, 0], [0.41, 0.13, 0.52], [0.8, 0.33, 0.27], [0.22, 0.71, 0.64]])  # fmt: skip
CRYSTALS = [crystal(f"mp-{n}", structure) for n, structure in enumerate([PEROVSKITE, ROCK_SALT, WURTZITE, LOW], 1)]


@pytest.fixture
def crystals(tmp_path: Path) -> Path:
    tables.write_rows(CRYSTALS, tables.CRYSTALS, tmp_path / "crystals.parquet")
    return tmp_path / "crystals.parquet"


def write_set(kind: str, structures: dict[str, Structure], folder: Path) -> Path:
    """The same set as CIFs, extxyz or ASE database."""
    if kind in ("cif", "zip"):
        path = folder / "set"
        path.mkdir()
        for name, structure in structures.items():
            structure.to(str(path / f"{name}.cif"), fmt="cif")
        return path if kind == "cif" else Path(shutil.make_archive(str(path), "zip", path))
    atoms = {name: AseAtomsAdaptor.get_atoms(structure, msonable=False) for name, structure in structures.items()}
    if kind == "extxyz":
        for name, frame in atoms.items():
            frame.info = {"material_id": name}
        ase.io.write(folder / "set.extxyz", list(atoms.values()))
        return folder / "set.extxyz"
    database = ase.db.connect(folder / "set.db")
    for name, frame in atoms.items():
        database.write(frame, material_id=name)
    return folder / "set.db"


FILLED = {
    "mp-1": structure_of(CRYSTALS[0], ["Ba", "Zr", "S", "S", "S"]),
    "mp-2": structure_of(CRYSTALS[1], ["F", "Li"]),
    "mp-3": structure_of(CRYSTALS[2], ["Ga", "N", "Al", "P"]),
    "mp-4": structure_of(CRYSTALS[3], ["K", "N", "S", "Se"]),
}


def import_set(path: Path, crystals: Path, folder: Path, name: str = "set") -> tuple[list[dict], list[dict]]:
    """The designs of a set, and the crystals among them that are on no skeleton."""
    outputs = {key: folder / f"{key}.parquet" for key in ("designs", "external_crystals", "rejected")}
    import_designs(path, name, crystals, 20, **outputs)
    return (
        tables.read_rows(outputs["designs"], tables.DESIGNS),
        tables.read_rows(outputs["external_crystals"], tables.CRYSTALS),
    )


@pytest.mark.parametrize("kind", ["cif", "zip", "extxyz", "db"])
def test_a_filled_skeleton_keeps_its_sites(kind: str, crystals: Path, tmp_path: Path) -> None:
    path = write_set(kind, FILLED, tmp_path)
    import_set(path, crystals, tmp_path, "diffusion")
    rows = {row["material_id"]: row for row in tables.read_rows(tmp_path / "designs.parquet", tables.DESIGNS)}
    assert {name: row["species"] for name, row in rows.items()} == {
        name: [site.specie.symbol for site in structure] for name, structure in FILLED.items()
    }
    assert {(row["policy"], row["seed"]) for row in rows.values()} == {("diffusion", 0)}
    assert tables.read_rows(tmp_path / "rejected.parquet", tables.REJECTED) == []


def test_designs_can_be_assessed(crystals: Path, tmp_path: Path) -> None:
    import_set(write_set("cif", FILLED, tmp_path), crystals, tmp_path)
    assess_designs([tmp_path / "designs.parquet"], crystals, None, tmp_path / "assessments.parquet")
    rows = tables.read_rows(tmp_path / "assessments.parquet", tables.ASSESSMENTS)
    assert {row["material_id"]: row["formula"] for row in rows} == {
        name: structure.composition.reduced_formula for name, structure in FILLED.items()
    }


@given(index=st.integers(0, 3), seed=st.integers(0, 10**6))
@settings(max_examples=25)
def test_the_designed_crystal_survives_another_basis_order_shift_and_orientation(index: int, seed: int) -> None:
    """Oracle: pymatgen's StructureMatcher, with the elements, finds the crystal on our skeleton to be the one designed."""
    draw = random.Random(seed)
    row = CRYSTALS[index]
    designed = structure_of(row, draw.choices(ELEMENTS[:10], k=row["n_sites"]))
    changed = designed.copy()
    changed.make_supercell([[1, draw.randint(-1, 1), 0], [0, 1, draw.randint(-1, 1)], [0, 0, 1]])
    changed.translate_sites(range(len(changed)), [draw.random() for _ in range(3)])
    sites = list(changed)
    draw.shuffle(sites)
    lattice = Lattice.from_parameters(*changed.lattice.parameters)  # another orientation
    changed = Structure(lattice, [site.specie for site in sites], [site.frac_coords for site in sites])
    (match,) = match_skeletons([design_of(changed)], CRYSTALS)
    assert match is not None
    assert match[0] == row["material_id"]
    assert StructureMatcher(primitive_cell=False, scale=False).fit(structure_of(row, match[1]), designed)


def match_skeletons(designs, crystals):
    skeletons = Skeletons(crystals)
    return [skeletons.match(design) for design in designs]


def design_of(structure: Structure, name: str = "0"):
    return ExternalDesign(name, "test", 0, structure, reduce_cell(structure, 20))


@given(index=st.integers(0, 3), seed=st.integers(0, 10**6))
@settings(max_examples=15)
def test_the_true_crystal_elsewhere_is_all_correct(index: int, seed: int) -> None:
    """Of the assignments that symmetry makes equivalent, the one with the most correct sites."""
    draw = random.Random(seed)
    row = CRYSTALS[index]
    moved = structure_of(row)
    moved.translate_sites(range(len(moved)), [draw.random() for _ in range(3)])
    sites = draw.sample(list(moved), len(moved))
    lattice = Lattice.from_parameters(*moved.lattice.parameters)
    moved = Structure(lattice, [site.specie for site in sites], [site.frac_coords for site in sites])
    (match,) = match_skeletons([design_of(moved)], CRYSTALS)
    assert match == (row["material_id"], row["species"])


def test_a_relaxed_or_scaled_cell_is_another_skeleton() -> None:
    scaled = FILLED["mp-4"].copy()
    scaled.scale_lattice(scaled.volume * 1.02)
    moved = FILLED["mp-4"].copy()
    moved.translate_sites([1], [0.05, 0, 0])
    smaller = Structure(Lattice.cubic(3.9), ["Si"], [[0, 0, 0]])
    assert match_skeletons([design_of(s) for s in (scaled, moved, smaller)], CRYSTALS) == [None, None, None]


def test_of_several_skeletons_the_one_it_is_named_after_then_the_nearest() -> None:
    near = [crystal("mp-10", ROCK_SALT), crystal("mp-11", structure_of(CRYSTALS[1])), crystal("mp-12", ROCK_SALT)]
    near[0]["lattice"] = [1.001 * x for x in near[0]["lattice"]]
    first, second = match_skeletons([design_of(ROCK_SALT, "x"), design_of(ROCK_SALT, "mp-10")], near)
    assert first is not None and first[0] in ("mp-11", "mp-12")
    assert second is not None and second[0] == "mp-10"


def test_several_samples_of_a_skeleton_are_told_apart_by_seed(crystals: Path, tmp_path: Path) -> None:
    samples = {name: structure_of(CRYSTALS[3], species) for name, species in {"a": ["Li"] * 4, "b": ["K"] * 4}.items()}
    rows, _ = import_set(write_set("cif", samples, tmp_path), crystals, tmp_path)
    assert [(row["material_id"], row["seed"], row["species"][0]) for row in rows] == [
        ("mp-4", 0, "Li"),
        ("mp-4", 1, "K"),
    ]


def test_a_crystal_on_no_skeleton_is_a_design_on_its_own_cell(crystals: Path, tmp_path: Path) -> None:
    """Oracle: pymatgen's StructureMatcher finds the cell that was given."""
    relaxed = FILLED["mp-4"].copy()
    relaxed.scale_lattice(relaxed.volume * 1.05)
    designs, own = import_set(
        write_set("cif", {"relaxed": relaxed, "mp-2": FILLED["mp-2"]}, tmp_path), crystals, tmp_path
    )
    assert [(row["material_id"], row["policy"], row["seed"]) for row in designs] == [
        ("mp-2", "set", 0),
        ("set/relaxed", "set", 0),
    ]
    (row,) = own
    assert (row["split"], row["band_gap"], row["spacegroup_number"]) == ("external", None, 1)
    assert StructureMatcher(primitive_cell=False, scale=False).fit(structure_of(row), relaxed)
    assert designs[1]["species"] == row["species"]

    (tmp_path / "formulas.txt").write_text("LiF\n")
    paths = ([tmp_path / "designs.parquet"], crystals, tmp_path / "formulas.txt", tmp_path / "a.parquet")
    assess_designs(*paths, external_crystals=[tmp_path / "external_crystals.parquet"])
    on_skeleton, alone = tables.read_rows(tmp_path / "a.parquet", tables.ASSESSMENTS)
    assert (on_skeleton["true_formula"], on_skeleton["n_correct"], on_skeleton["novel"]) == ("NaCl", 0, False)
    assert (alone["true_formula"], alone["n_correct"], alone["n_similar"]) == (None, None, None)


def test_samples_of_unequal_number_are_crystals_of_their_own(crystals: Path, tmp_path: Path) -> None:
    samples = {"a": ["Li"] * 4, "b": ["K"] * 4}
    structures = {name: structure_of(CRYSTALS[3], species) for name, species in samples.items()}
    designs, own = import_set(write_set("cif", structures | {"c": FILLED["mp-1"]}, tmp_path), crystals, tmp_path)
    assert [(row["material_id"], row["seed"]) for row in designs] == [("mp-4", 0), ("set/b", 0), ("mp-1", 0)]
    assert own[0]["species"] == samples["b"]


def test_frames_of_one_name_are_told_apart(crystals: Path, tmp_path: Path) -> None:
    path = write_set("extxyz", {"x": cubic("Fm-3m", 7.0, ["K", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])}, tmp_path)
    path.write_text(path.read_text() * 3)
    designs, own = import_set(path, crystals, tmp_path)
    assert (
        [row["material_id"] for row in designs]
        == [row["material_id"] for row in own]
        == ["set/x", "set/x#2", "set/x#3"]
    )


def test_every_entry_ends_as_design_or_with_its_reason(crystals: Path, tmp_path: Path) -> None:
    folder = write_set(
        "cif",
        {
            "good": FILLED["mp-4"],
            "argon": structure_of(CRYSTALS[3], ["Ar"] * 4),
            "large": Structure(Lattice.orthorhombic(60, 4, 4), ["Na"] * 21, [[i**2 / 441, 0, 0] for i in range(21)]),
            "other": cubic("Fm-3m", 7.0, ["K", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]).get_primitive_structure(),
            "overlapping": Structure(Lattice.cubic(4), ["Li", "F"], [[0, 0, 0], [0.01, 0, 0]]),
            "disordered": Structure(Lattice.cubic(4), [{"Li": 0.5, "Na": 0.5}], [[0, 0, 0]]),
        },
        tmp_path,
    )
    (folder / "text.cif").write_text("no crystal")
    (folder / "binary.cif").write_bytes(bytes(range(256)))
    (folder / "empty.cif").write_text("")
    (folder / "notes.txt").write_text("not looked at")
    designs, own = import_set(folder, crystals, tmp_path)
    assert sorted(row["material_id"] for row in designs if row["species"]) == ["mp-4", "set/other"]
    assert [(row["material_id"], row["formula"], row["source"]) for row in own] == [
        ("set/other", "KCl", "other.cif row 0")
    ]
    rows = tables.read_rows(tmp_path / "rejected.parquet", tables.REJECTED)
    rejected = {row["source"]: row["reason"] for row in rows}
    assert rejected == {
        "argon.cif": "element_outside_88",
        "large.cif": "too_many_sites",
        "overlapping.cif": "overlapping_atoms",
        "disordered.cif": "disordered",
        "text.cif": "unreadable_cif",
        "binary.cif": "unreadable_cif",
        "empty.cif": "unreadable_cif",
    }
    # They stay in every denominator.
    assert {row["material_id"] for row in designs if not row["species"]} == {
        f"set/{row['material_id']}" for row in rows
    }


def test_frames_after_an_unreadable_one_and_molecules_are_named(tmp_path: Path) -> None:
    path = write_set("extxyz", FILLED, tmp_path)
    text = path.read_text()
    path.write_text(
        "1\nbroken\nH zero 0 0\n" + text + "2\nno cell here\nH 0 0 0\nH 0 0 0.7\n" + "3\nshort\nH 0 0 0\n" + text
    )
    found, rejected = read_designs(path, 20)
    assert [design.id for design in found] == [*FILLED, *(f"{name}#2" for name in FILLED)]
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (0, "unreadable_entry"), (5, "not_periodic"), (6, "unreadable_entry"),
    ]  # fmt: skip
    assert "announces 3 atoms, but the next begins at line" in rejected[-1]["detail"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("nothing", None, "does not exist"),
        ("set.txt", b"", "not of a known kind"),
        ("set.db", b"no database", "not a readable ASE database"),
        ("set.xyz", b"", "holds no crystals"),
    ],
)
def test_what_is_no_set_gets_a_sentence(name: str, content: bytes | None, expected: str, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(XtalrlError, match=expected):
        read_designs(tmp_path / name, 20)


def test_a_folder_without_cifs_and_a_set_without_a_usable_entry_get_a_sentence(crystals: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(XtalrlError, match="holds no crystals"):
        read_designs(tmp_path / "empty", 20)
    path = write_set("extxyz", {"x": Structure(Lattice.cubic(3), ["Po"], [[0, 0, 0]])}, tmp_path)
    with pytest.raises(XtalrlError, match=r"None of the 1 entries .* The first: set.extxyz: element_outside_88 \(Po\)"):
        import_set(path, crystals, tmp_path)


GOOD_CIF = FILLED["mp-4"].to(fmt="cif")


@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_never_crash(data: st.DataObject, tmp_path: Path) -> None:
    kind = data.draw(st.sampled_from(["cif", "xyz"]))
    text = GOOD_CIF if kind == "cif" else '1\nLattice="3 0 0 0 3 0 0 0 3" Properties=species:S:1:pos:R:3\nSi 0 0 0\n'
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        text = text[:start] + data.draw(st.text(max_size=4)) + text[start + data.draw(st.integers(0, 6)) :]
    folder = tmp_path / "set"
    folder.mkdir(exist_ok=True)
    path = folder / "a.cif" if kind == "cif" else tmp_path / "a.xyz"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        found, rejected = read_designs(folder if kind == "cif" else path, 20)
    except XtalrlError as error:
        assert "holds no crystals" in str(error)  # noqa: PT017 (either outcome is right, a traceback is not)
    else:
        assert len(found) + len(rejected) >= 1
        assert all(row["reason"] and row["source"] for row in rejected)


def test_crystals_of_mp20_are_found_among_themselves(shared: Path, tmp_path: Path) -> None:
    build_crystals({"val": shared / "mp20/val.csv.gz"}, tmp_path / "c.parquet", tmp_path / "r.parquet", 20, limit=60)
    rows = tables.read_rows(tmp_path / "c.parquet", tables.CRYSTALS)
    draw = random.Random(0)
    filled = {row["material_id"]: structure_of(row, draw.choices(ELEMENTS, k=row["n_sites"])) for row in rows}
    nameless = {str(number): structure for number, structure in enumerate(filled.values())}
    designs, own = import_set(write_set("cif", nameless, tmp_path), tmp_path / "c.parquet", tmp_path)
    found = {row["material_id"]: row["species"] for row in designs}
    assert own == []
    assert found == {name: [site.specie.symbol for site in structure] for name, structure in filled.items()}
