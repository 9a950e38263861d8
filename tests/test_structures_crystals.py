"""Reading MP-20's CSVs: what is kept, what is left out and why, and that nothing is lost or crashes whatever is in the file."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.csv_files import read_csv
from xtalrl.errors import XtalrlError
from xtalrl.structures.crystals import build_crystals, parse_cif, parse_row
from xtalrl.structures.mp20 import COLUMNS, find_csvs
from xtalrl.structures.rejections import Reason, Rejection

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")

ROCKSALT = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
CIF = ROCKSALT.get_primitive_structure().to(fmt="cif")


def row(**changes):
    good = {
        "": "0",
        "material_id": "mp-1",
        "formation_energy_per_atom": "-2.1",
        "band_gap": "5.0",
        "pretty_formula": "NaCl",
        "e_above_hull": "",
        "elements": "['Cl', 'Na']",
        "cif": CIF,
        "spacegroup.number": "225",
    }
    return good | {name.replace("__", "."): value for name, value in changes.items()}


def cif_of(species, coords, lattice=None):
    return Structure(lattice or Lattice.cubic(4.2), species, coords).to(fmt="cif")


def write_csv(path, rows, columns=COLUMNS):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def run(folder, rows, **options):
    write_csv(folder / "train.csv", rows)
    files = {"crystals": folder / "crystals.parquet", "rejected": folder / "rejected.parquet"}
    build_crystals({"train": folder / "train.csv"}, **files, **{"max_sites": 20, **options})
    return (
        tables.read_rows(folder / "crystals.parquet", tables.CRYSTALS),
        tables.read_rows(folder / "rejected.parquet", tables.REJECTED),
    )


def test_a_good_row(tmp_path):
    (crystal,), rejected = run(tmp_path, [row()])
    assert rejected == []
    assert crystal["formula"] == "NaCl"
    assert (crystal["n_sites"], sorted(crystal["species"])) == (2, ["Cl", "Na"])
    assert (crystal["band_gap"], crystal["formation_energy_per_atom"], crystal["tot_magnetization"]) == (
        5.0,
        -2.1,
        None,
    )
    assert (crystal["split"], crystal["spacegroup_number"], crystal["source"]) == ("train", 225, "train.csv row 0")
    cell = Structure(
        Lattice(np.reshape(crystal["lattice"], (3, 3))), crystal["species"], np.reshape(crystal["frac_coords"], (-1, 3))
    )
    assert StructureMatcher(scale=False).fit(cell, ROCKSALT)


LONG = Lattice.orthorhombic(2000, 2, 2)
SITES21 = cif_of(["Na"] * 21, [[i / 21, 0, 0] for i in range(21)], Lattice.orthorhombic(60, 4, 4))


@pytest.mark.parametrize(
    ("reason", "changes", "detail"),
    [
        (Reason.METAL, {"band_gap": "0.0"}, ""),
        (Reason.METAL, {"band_gap": "0", "cif": "never looked at"}, ""),
        (Reason.BAD_NUMBER, {"band_gap": "wide"}, "band_gap is 'wide'"),
        (Reason.BAD_NUMBER, {"band_gap": "nan"}, "band_gap is 'nan'"),
        (Reason.BAD_NUMBER, {"band_gap": "-1"}, "below 0"),
        (Reason.BAD_NUMBER, {"formation_energy_per_atom": "inf"}, "formation_energy_per_atom"),
        (Reason.BAD_NUMBER, {"spacegroup__number": "231"}, "from 1 to 230"),
        (Reason.BAD_NUMBER, {"spacegroup__number": ""}, "from 1 to 230"),
        (Reason.BAD_NUMBER, {"spacegroup__number": "2.5"}, "from 1 to 230"),
        (Reason.NO_MATERIAL_ID, {"material_id": " "}, ""),
        (Reason.UNREADABLE_CIF, {"cif": ""}, ""),
        (Reason.UNREADABLE_CIF, {"cif": "data_NaCl\nno cell"}, ""),
        (Reason.UNREADABLE_CIF, {"cif": CIF.replace("_cell_length_a", "_cell_length_q")}, ""),
        (Reason.TOO_MANY_SITES, {"cif": SITES21}, "21 sites, at most 20"),
        (Reason.DISORDERED, {"cif": cif_of([{"Na": 0.5, "K": 0.5}, "Cl"], [[0, 0, 0], [0.5] * 3])}, ""),
        (Reason.ELEMENT_OUTSIDE_88, {"cif": cif_of(["Ar", "Po"], [[0, 0, 0], [0.5] * 3])}, "Ar, Po"),
        (Reason.OVERLAPPING_ATOMS, {"cif": cif_of(["Na", "Cl"], [[0, 0, 0], [0.1, 0, 0]])}, "nearer than 0.5"),
        (Reason.NOT_AS_STATED, {"cif": CIF.replace("_cell_length_a   3", "_cell_length_a   4")}, "_cell_volume is 44."),
        (Reason.NO_REDUCED_CELL, {"cif": cif_of(["Na"], [[0, 0, 0]], LONG)}, "with an edge of 2e+03 Å"),
        (
            Reason.BAD_NUMBER,
            {"cif": cif_of(["Na"], [[0, 0, 0]], Lattice.cubic(420))},
            "holds 1 atoms: lengths must be in Å",
        ),
        (Reason.OVERLAPPING_ATOMS, {"cif": cif_of(["Na"], [[0, 0, 0]], Lattice.cubic(0.4))}, "nearer than 0.5"),
    ],
)
def test_reasons(tmp_path, reason, changes, detail):
    crystals, (rejected,) = run(tmp_path, [row(**changes)])
    assert crystals == []
    assert rejected["reason"] == reason
    assert detail in rejected["detail"]
    assert (rejected["source"], rejected["row"], rejected["split"]) == ("train.csv", 0, "train")


def test_a_second_crystal_of_the_same_id_is_a_duplicate_unless_the_first_was_bad(tmp_path):
    crystals, rejected = run(tmp_path, [row(cif="bad"), row(), row()])
    assert [crystal["source"] for crystal in crystals] == ["train.csv row 1"]
    assert [(r["row"], r["reason"]) for r in rejected] == [(0, "unreadable_cif"), (2, "duplicate_id")]
    assert rejected[1]["detail"] == "it is train.csv row 1"


def test_limit_counts_nonmetals_and_names_the_rest(tmp_path):
    rows = [row(material_id=f"mp-{i}", band_gap=str(i % 2)) for i in range(8)]
    crystals, rejected = run(tmp_path, rows, limit=2)
    assert [crystal["material_id"] for crystal in crystals] == ["mp-1", "mp-3"]
    assert Counter(r["reason"] for r in rejected) == {"metal": 4, "beyond_limit": 2}


def test_max_sites(tmp_path):
    _, (rejected,) = run(tmp_path, [row()], max_sites=1)
    assert rejected["reason"] == "too_many_sites"


def test_the_cell_is_reduced():
    sheared = ROCKSALT.get_primitive_structure()
    sheared.make_supercell([[1, 3, 0], [0, 1, 2], [0, 0, 1]])
    reduced = parse_cif(sheared.to(fmt="cif"), 20)
    assert reduced.lattice.abc == pytest.approx([5.64 / 2**0.5] * 3, abs=1e-4)
    assert StructureMatcher(scale=False).fit(reduced, ROCKSALT)


def test_optional_magnetization(tmp_path):
    write_csv(tmp_path / "train.csv", [row(total_magnetization="1.0")], (*COLUMNS, "total_magnetization"))
    build_crystals({"train": tmp_path / "train.csv"}, tmp_path / "c.parquet", tmp_path / "r.parquet", 20)
    assert tables.read_rows(tmp_path / "c.parquet", tables.CRYSTALS)[0]["tot_magnetization"] == 1.0


def test_a_row_with_fields_too_many_or_too_few(tmp_path):
    (tmp_path / "train.csv").write_text("material_id,band_gap,cif,spacegroup.number\nmp-1,1.0\nmp-2,1,x,225,more\n")
    build_crystals({"train": tmp_path / "train.csv"}, tmp_path / "c.parquet", tmp_path / "r.parquet", 20)
    rejected = tables.read_rows(tmp_path / "r.parquet", tables.REJECTED)
    assert [(r["material_id"], r["reason"]) for r in rejected] == [("mp-1", "malformed_row"), ("mp-2", "malformed_row")]


GOOD_BYTES = b"material_id,band_gap,cif,spacegroup.number\nmp-1,0,,1\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.csv", None, "does not exist"),
        ("empty.csv", b"", "is empty"),
        (
            "columns.csv",
            b"material_id,cif\n",
            r"lacks the column\(s\) band_gap, spacegroup.number; it has 'material_id', 'cif'",
        ),
        ("plain.csv.gz", GOOD_BYTES, "not a gzip file"),
        ("cut.csv.gz", gzip.compress(GOOD_BYTES * 1000, mtime=0)[:-20], "damaged gzip"),
        ("hurt.csv.gz", gzip.compress(GOOD_BYTES, mtime=0)[:-8] + b"12345678", "damaged gzip"),
        ("latin.csv", GOOD_BYTES + "Å".encode("latin-1"), "not UTF-8"),
        ("zipped.csv", gzip.compress(GOOD_BYTES, mtime=0), "not UTF-8"),
        ("quote.csv", GOOD_BYTES + b'"' + b"x" * 200_000, "not a readable CSV, line .*field larger"),
    ],
)
def test_an_unreadable_csv_gets_a_sentence(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(XtalrlError, match=f"{name}.*{message}"):
        build_crystals({"train": tmp_path / name}, tmp_path / "c.parquet", tmp_path / "r.parquet", 20)
    assert not (tmp_path / "c.parquet").exists()


MUTATION = st.tuples(st.sampled_from(["cut", "insert", "delete", "swap"]), st.integers(0, 10**6), st.text(max_size=6))


def mutate(text, mutations):
    for kind, where, piece in mutations:
        where %= len(text) + 1
        if kind == "cut":
            text = text[:where]
        elif kind == "insert":
            text = text[:where] + piece + text[where:]
        elif kind == "delete":
            text = text[:where] + text[where + len(piece) :]
        else:
            text = text[:where] + text[where:].replace("0", piece or "9", 3)
    return text


def crystal_or_reason(function, *arguments):
    try:
        return function(*arguments)
    except Rejection as rejection:
        return rejection.reason


@settings(max_examples=150)
@given(st.lists(MUTATION, min_size=1, max_size=4))
def test_a_mutated_cif_is_a_sound_cell_or_a_named_reason(mutations):
    structure = crystal_or_reason(parse_cif, mutate(CIF, mutations), 20)
    if isinstance(structure, Reason):
        return
    assert 1 <= len(structure) <= 20
    assert np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all()
    assert structure.volume > 0 and structure.is_valid(0.5)


@given(st.dictionaries(st.sampled_from(COLUMNS), st.text(max_size=12)))
def test_a_row_of_nonsense_is_a_crystal_or_a_named_reason(changes):
    crystal = crystal_or_reason(parse_row, row(**changes), 20)
    if not isinstance(crystal, Reason):
        tables.from_rows([crystal | {"split": "train", "source": "x"}], tables.CRYSTALS)


@settings(max_examples=100)
@given(st.lists(MUTATION, min_size=1, max_size=3))
def test_every_row_of_a_mutated_csv_has_one_place(tmp_path_factory, mutations):
    folder = tmp_path_factory.mktemp("csv")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows([row(material_id=f"mp-{i}", band_gap=str(i % 3)) for i in range(5)])
    path = folder / "train.csv"
    path.write_bytes(mutate(text.getvalue(), mutations).encode("utf-8", "surrogatepass"))
    with contextlib.suppress(XtalrlError):  # a sentence on the file as a whole is an answer too
        build_crystals({"train": path}, folder / "c.parquet", folder / "r.parquet", 20)
    if not (folder / "r.parquet").exists():
        return
    crystals = tables.read_rows(folder / "c.parquet", tables.CRYSTALS)
    rejected = tables.read_rows(folder / "r.parquet", tables.REJECTED)
    places = [int(c["source"].rpartition(" ")[2]) for c in crystals] + [r["row"] for r in rejected]
    assert sorted(places) == list(range(len(read_csv(path).rows)))


@pytest.mark.slow
def test_all_of_mp20(shared, tmp_path):
    csvs = find_csvs(shared / "mp20")
    build_crystals(csvs, tmp_path / "crystals.parquet", tmp_path / "rejected.parquet", 20, splits=tuple(csvs))
    crystals = tables.read(tmp_path / "crystals.parquet", tables.CRYSTALS)
    rejected = tables.read(tmp_path / "rejected.parquet", tables.REJECTED)
    assert crystals.num_rows + rejected.num_rows == 45_229
    assert Counter(crystals["split"].to_pylist()) == {"train": 10_379, "val": 3364, "test": 3433}
    assert crystals["band_gap"].null_count == 800  # of the copy at hand; MP-20 itself has all gaps
    assert Counter(rejected["reason"].to_pylist()) == {"metal": 28_051, "element_outside_88": 2}
    assert max(crystals["n_sites"].to_pylist()) == 20


@pytest.mark.parametrize(("metals", "kept"), [("source", ["wide", "unknown"]), ("dft", ["wide", "metal", "unknown"])])
def test_metals_by_the_configured_rule(tmp_path, caplog, metals, kept):
    rows = [row(material_id=name, band_gap=gap) for name, gap in (("wide", "2"), ("metal", "0"), ("unknown", ""))]
    write_csv(tmp_path / "train.csv", rows)
    with caplog.at_level("INFO"):
        build_crystals(
            {"train": tmp_path / "train.csv"}, tmp_path / "c.parquet", tmp_path / "r.parquet", 20, metals=metals
        )
    crystals = tables.read_rows(tmp_path / "c.parquet", tables.CRYSTALS)
    assert [crystal["material_id"] for crystal in crystals] == kept
    assert crystals[-1]["band_gap"] is None
    assert f"train: {len(kept)} crystals to use of 3 rows, 1 of them without a gap there" in caplog.text


def test_the_split_that_is_not_used_is_read_and_left_out(tmp_path):
    for split in ("train", "test"):
        write_csv(
            tmp_path / f"{split}.csv", [row(material_id=f"{split}-1"), row(material_id=f"{split}-2", band_gap="0")]
        )
    csvs = {split: tmp_path / f"{split}.csv" for split in ("train", "test")}
    build_crystals(csvs, tmp_path / "c.parquet", tmp_path / "r.parquet", 20)
    assert [entry["material_id"] for entry in tables.read_rows(tmp_path / "c.parquet", tables.CRYSTALS)] == ["train-1"]
    rejected = tables.read_rows(tmp_path / "r.parquet", tables.REJECTED)
    assert {entry["material_id"]: entry["reason"] for entry in rejected} == {
        "train-2": "metal",
        "test-1": "split_not_used",
        "test-2": "metal",
    }
