"""Every crystal of a folder, archive, extxyz file or database is an entry, whatever the names and beside whatever damage; nothing is written there."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import logging
import os
import random
import shutil
import sqlite3
import warnings
import zipfile
from pathlib import Path

import ase
import ase.db
import ase.io
import pytest
from ase.build import bulk
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Lattice, Structure

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.structures.external import import_designs, read_designs
from xtalrl.structures.external_entries import MAX_CIF_BYTES
from xtalrl.structures.external_files import fingerprint, printable

NACL = Structure.from_spacegroup(225, Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
CIF = NACL.get_primitive_structure().to(fmt="cif")
ODD_NAMES = [
    b"NaCl_{111}.cif", b"{x.cif", b"<b>rej<img src=x onerror=alert(1)>.cif", b"s\xfcd.cif", b"a\nb.cif", b"-rf.cif", b"a'b\"c`d$e.cif",
    b"[1-3]*?.cif", b"x" * 251 + b".cif", "Ünïcødé 晶体.cif".encode(), b"{wildcards.set}.cif", b"%s\\n.cif", b"a\x7f\x1b[31m.cif", b" .cif",
]  # fmt: skip


def ids(path: Path) -> tuple[list[str], dict[str, str]]:
    """The ids of the crystals that are read, and the reason of each entry that is not, by its source."""
    found, rejected = read_designs(path, 20)
    return [design.id for design in found], {row["source"]: f"{row['reason']} {row['detail']}" for row in rejected}


def test_the_cifs_of_a_folder_and_its_subfolders(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "set"
    for name in (
        "a.cif",
        "B.CIF",
        "sub/c.cif",
        "sub/deep/a.cif",
        "sub/deep/.hidden.cif",
        "__MACOSX/._a.cif",
        ".git/x.cif",
        "x.cif/y.cif",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(CIF)
    (folder / "d.cif.gz").write_bytes(gzip.compress(CIF.encode()))
    (folder / "cut.cif.gz").write_bytes(gzip.compress(CIF.encode())[:-30])
    (folder / "more.extxyz").write_text("")
    (folder / "readme.txt").write_text("")
    (folder / "sub/loop").symlink_to(folder)
    (folder / "gone.cif").symlink_to(folder / "nowhere")
    os.mkfifo(folder / "pipe.cif")
    with caplog.at_level(logging.INFO):
        found, rejected = ids(folder)
    assert sorted(found) == ["B", "a", "c", "d", "sub/deep/a", "y"]
    assert {source: why.split()[0] for source, why in rejected.items()} == dict.fromkeys(
        ("cut.cif.gz", "gone.cif", "pipe.cif"), "unreadable_entry"
    )
    assert "left out hidden files (3), such as .git/x.cif" in caplog.text
    assert "not its other files (2), such as more.extxyz" in caplog.text
    assert "share the name of another have one of their own (1), such as sub/deep/a" in caplog.text


def test_a_cif_alone_and_each_of_its_blocks(tmp_path: Path) -> None:
    (tmp_path / "one.cif").write_text(CIF)
    assert ids(tmp_path / "one.cif") == (["one"], {})
    ase.io.write(tmp_path / "three.cif", [bulk(name, "rocksalt", 4.5) for name in ("MgO", "CaO", "SrO")])
    assert ids(tmp_path / "three.cif") == (["three#image0", "three#image1", "three#image2"], {})
    with (tmp_path / "three.cif").open("a") as file:
        file.write("data_image0\n_cell_length_a 3\nloop_\n_atom_site_label\nNa1\n")
    found, rejected = read_designs(tmp_path / "three.cif", 20)
    assert (len(found), [row["material_id"] for row in rejected]) == (3, ["three#image0#2"])


POSCAR = "salt\n1.0\n0 2.82 2.82\n2.82 0 2.82\n2.82 2.82 0\nNa Cl\n1 1\nDirect\n0 0 0\n0.5 0.5 0.5\n"
VELOCITIES = "\n0.01 0 0\n-0.01 0 0\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (POSCAR, None),
        (POSCAR + VELOCITIES, None),
        (POSCAR + "Cartesian" + VELOCITIES, None),
        (POSCAR.replace("Direct", "Selective dynamics\nDirect").replace("0 0 0\n", "0 0 0 T T T\n").replace("0.5 0.5 0.5\n", "0.5 0.5 0.5 T T F\n"), None),
        (POSCAR.replace("Na Cl", "Na_pv Cl"), None),
        (POSCAR.replace("Na Cl", "D Cl"), None),
        (POSCAR + POSCAR.replace("Na", "K"), "line 11 is 'salt', and only velocities may follow the positions: one crystal per file"),
        (POSCAR.replace("1 1", "1 1 ! counts"), None),
        (POSCAR + "\n" + POSCAR.replace("salt", "").replace("Na Cl\n", ""), "is not a velocity for each: one crystal per file"),
        (POSCAR + "Direct configuration= 2\n0 0 0\n0.5 0.5 0.5\n", "line 11 is 'Direct configuration= 2', and only velocities"),
        (POSCAR + "\n0.25 0.25 0.25\n", "what follows the 2 atoms is not a velocity for each"),
        (POSCAR + "0.25 0.25 0.25\n", "its counts make 2 atoms, and line 11 is one more"),
        (POSCAR.replace("1 1", "1 2"), "its counts make 3 atoms, and line 11, the position of atom 3, is missing"),
        (POSCAR.replace("0.5 0.5 0.5", "0.5 0.5 half"), "line 10, the position of atom 2, is '0.5 0.5 half'"),
        (POSCAR + "Lattice velocities and vectors\n1\n" + "0 0 0\n" * 3 + "0 2.82 2.82\n2.82 0 2.82\n2.82 2.82 0\nDirect" + VELOCITIES, None),
        (POSCAR.replace("salt", "sa\x0clt \x85 \u2028 x"), None),
        (POSCAR.replace("0.5 0.5 0.5", "5.0D-01 0.5d0 0.5"), None),
        (POSCAR.replace("Direct", "Selective dynamics\nDirect").replace("0.5 0.5 0.5", "0.5 0.5 0.5 T T F"), None),
        (POSCAR.replace("0.5 0.5 0.5", "1e25 0.5 0.5"), "a fractional coordinate is 1e+25"),
        (POSCAR.replace("0 2.82 2.82", "0 2.82 2.82  a, in angstrom"), None),
        (POSCAR.replace("1 1", "9" * 5000 + " 1"), "which is not a count for each of 'Na Cl'"),
        (POSCAR.replace("0 2.82 2.82", "0 2.82"), "line 3 is '0 2.82', which is not a vector of the cell"),
        (POSCAR.replace("2.82 0 2.82", "2.82 b 2.82"), "line 4 is '2.82 b 2.82', which is not a vector of the cell"),
        (POSCAR.replace("salt\n1.0", "salt\none"), "line 2 is 'one', which is not a scale"),
        (POSCAR.replace("Na Cl\n", ""), "line 6 has counts and no elements, as in VASP 4"),
        (POSCAR.replace("1 1", "1"), "line 7 is '1', which is not a count for each of 'Na Cl'"),
        (POSCAR.replace("1 1", "-1 1"), "line 7 is '-1 1', which is not a count for each of 'Na Cl'"),
        (POSCAR.replace("Na Cl", "Na Qq"), "'Qq' is not an element"),
        (POSCAR[:40], "it breaks off after line"),
        ("", "it breaks off after line 0"),
        (POSCAR.replace("2.82", "x"), "line 3 is '0 x x', which is not a vector of the cell"),
    ],
)  # fmt: skip
def test_a_poscar_is_one_crystal_of_vasp_5(text: str, reason: str | None, tmp_path: Path) -> None:
    for name in ("POSCAR", "salt.vasp", "POSCAR.gz"):
        content = text.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        found, rejected = ids(tmp_path / name)
        if reason is None:
            assert (len(found), rejected) == (1, {})
        else:
            assert found == []
            assert reason in rejected[name]


@pytest.mark.parametrize("packed", [False, True])
def test_files_of_other_kinds_are_mentioned(packed: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "xtalrl")
    names = ["a.cif", "POSCAR", "b.vasp", "c.mcif", "d.xyz", "e.cif.bz2", "f.cif.txt", "inner.zip", "README"]
    path = tmp_path / ("set.zip" if packed else "set")
    if packed:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(f"folder/{name}", CIF)
    else:
        path.mkdir()
        for name in names:
            (path / name).write_text(CIF)
    found, rejected = ids(path)
    assert (len(found), rejected) == (1, {})
    assert "only its CIFs (*.cif, *.cif.gz) are read, and not its other files (8), such as" in caplog.text


def test_an_archive_without_a_cif_says_what_is_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr("POSCAR", POSCAR)
    with pytest.raises(XtalrlError, match=r"set.zip holds no crystals: of a folder or an archive the files \*.cif and"):
        ids(tmp_path / "set.zip")


def test_the_crystals_of_an_archive(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "set.ZIP"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in ("a.cif", "sub/B.CIF", "../up.cif", "__MACOSX/._a.cif", "notes.txt"):
            archive.writestr(name, CIF)
        archive.writestr("a.cif", CIF.replace("Na", "K"))
        archive.writestr("c.cif.gz", gzip.compress(CIF.encode()))
        archive.writestr("bomb.cif", b"#" * (MAX_CIF_BYTES + 1))
        archive.writestr("bomb.cif.gz", gzip.compress(b"#" * (MAX_CIF_BYTES + 1)))
    with caplog.at_level(logging.INFO):
        found, rejected = read_designs(path, 20)
    assert [(design.id, design.given.composition.reduced_formula) for design in found] == [
        ("up", "NaCl"), ("a", "NaCl"), ("a#2", "KCl"), ("c", "NaCl"), ("B", "NaCl"),
    ]  # fmt: skip
    assert [(row["source"], row["reason"]) for row in rejected] == [
        ("bomb.cif", "unreadable_entry"), ("bomb.cif.gz", "unreadable_entry"),
    ]  # fmt: skip
    assert all("larger than 20 MB" in row["detail"] for row in rejected)
    assert "left out hidden files (1)" in caplog.text


def test_no_name_of_a_file_stops_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    folder.mkdir()
    for number, name in enumerate(ODD_NAMES):
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_text(CIF if number % 2 else "no CIF")
    lattice = NACL.get_primitive_structure().lattice.matrix.ravel().tolist()
    crystal = {
        "material_id": "mp-1", "split": "val", "formula": "LiF", "n_sites": 2, "species": ["Li", "F"], "lattice": [2 * x for x in lattice],
        "frac_coords": [0, 0, 0, 0.5, 0.5, 0.5], "spacegroup_number": 225, "source": "x",
    }  # fmt: skip
    tables.write_rows([crystal], tables.CRYSTALS, tmp_path / "crystals.parquet")
    outputs = {key: tmp_path / f"{key}.parquet" for key in ("designs", "external_crystals", "rejected")}
    import_designs(folder, "set", tmp_path / "crystals.parquet", 20, **outputs)
    designs = tables.read_rows(outputs["designs"], tables.DESIGNS)
    rejected = tables.read_rows(outputs["rejected"], tables.REJECTED)
    assert len(designs) == len(ODD_NAMES)
    assert sum(not row["species"] for row in designs) == len(rejected)
    assert {row["material_id"] for row in designs} > {r"set/s\xfcd", "set/-rf"}
    assert all(text.isprintable() for row in rejected for text in (row["source"], row["detail"], row["material_id"]))
    assert printable("Ünïcødé 晶体") == "Ünïcødé 晶体"


def test_a_fingerprint_changes_with_any_file(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "gone").symlink_to("nowhere")
    seen = {fingerprint(tmp_path)}
    for change in (
        lambda: (tmp_path / "sub/a.cif").write_text("x"),
        lambda: (tmp_path / "sub/a.cif").write_text("xy"),
        lambda: os.utime(tmp_path / "sub/a.cif", (1, 1)),
        lambda: (tmp_path / "sub/a.cif").rename(tmp_path / "b.cif"),
        lambda: (tmp_path / "b.cif").unlink(),
    ):
        change()
        state = fingerprint(tmp_path)
        assert state == fingerprint(tmp_path)
        seen.add(state)
    assert len(seen) == 5  # the last is the first
    (tmp_path / "a.db").write_bytes(b"x")
    assert fingerprint(tmp_path / "a.db") != fingerprint(tmp_path)


DAMAGED = int(os.environ.get("XTALRL_CIFS", "60"))
"""Damaged files tried; `make harness` tries them at full size."""


def damage(text: str, rng: random.Random) -> str:
    """A bit, a character or a line changed, lost or doubled, or another count."""
    where, how, lines = rng.randrange(len(text)), rng.randrange(5), text.split("\n")
    if how == 0:
        return text[:where] + chr(ord(text[where]) ^ 1 << rng.randrange(7)) + text[where + 1 :]
    if how == 1:
        return text[:where] + text[where + 1 :]
    if how == 2:
        lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    elif how == 3:
        del lines[rng.randrange(len(lines))]
    else:
        lines[rng.choice([n for n, line in enumerate(lines) if line.strip().isdigit()])] = str(rng.randrange(-1, 11))
    return "\n".join(lines)


def test_of_many_damaged_extxyz_none_loses_an_atom_unseen(tmp_path: Path) -> None:
    rng = random.Random(6)
    frames = [bulk("NaCl", "rocksalt", 5.6), bulk("GaAs", "zincblende", 5.65, cubic=True), bulk("Si", "diamond", 5.4)]
    ase.io.write(tmp_path / "whole.extxyz", frames)
    whole = (tmp_path / "whole.extxyz").read_text()
    for _ in range(DAMAGED):
        damaged = damage(whole, rng)
        (tmp_path / "a.extxyz").write_text(damaged)
        found, rejected = read_designs(tmp_path / "a.extxyz", 20)
        assert len(found) + len(rejected) >= 2
        assert len(found) >= 1
        assert {len(design.given) for design in found} <= {2, 8}, damaged


def test_no_damaged_database_is_written_to_or_ends_in_a_traceback(tmp_path: Path) -> None:
    rng, content = random.Random(7), database(tmp_path / "a.db", 8).read_bytes()
    for _ in range(DAMAGED):
        flipped = bytearray(content)
        for _ in range(rng.choice((1, 4, 200))):
            flipped[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        (tmp_path / "a.db").write_bytes(flipped)
        with contextlib.suppress(XtalrlError):
            found, rejected = read_designs(tmp_path / "a.db", 20)
            assert len(found) + len(rejected) > 0
        assert state(tmp_path) == {"a.db": hashlib.sha256(flipped).hexdigest()}


def test_a_database_whose_rows_come_again_ends(tmp_path: Path) -> None:
    """The second cell of the page is made to be the first: SQLite would go on with whatever it is led to."""
    path = database(tmp_path / "a.db", 3)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        page = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
        size = connection.execute("PRAGMA page_size").fetchone()[0]
    content = bytearray(path.read_bytes())
    header = (page - 1) * size
    assert content[header] == 13, "a leaf of a table (SQLite's file format, section 1.6)"
    content[header + 10 : header + 12] = content[header + 8 : header + 10]
    path.write_bytes(content)
    found, rejected = read_designs(path, 20)
    assert len(found) == 1
    assert [row["detail"] for row in rejected] == ["nothing from there on can be read: after row 1 comes row 1 again"]


CELL = 'Lattice="0 2.82 2.82 2.82 0 2.82 2.82 2.82 0" Properties=species:S:1:pos:R:3 pbc="T T T"'
FRAME = f"2\n{CELL}\nNa 0 0 0\nCl 2.82 0 0\n"


@pytest.mark.parametrize(
    ("text", "read", "details"),
    [
        (FRAME * 2, 2, []),
        ("\n\n" + FRAME + "\n \n\n" + FRAME + "\n", 2, []),
        (FRAME.replace("\n", "\r\n") * 2, 2, []),
        (FRAME.replace("pbc", "note=a\u2028b\x85c\x0cd pbc") * 2, 2, []),
        ("99999999999999999999\n" + FRAME, 1, ["not a number of atoms"]),
        (FRAME.replace("2\n", "0\n", 1).partition("Na")[0] + FRAME, 1, ["line 1 announces no atoms"]),
        ("100000000\n" + FRAME, 1, ["announces 100,000,000 atoms, but the next begins at line 2"]),
        ("-2\n" + FRAME * 2, 2, ["'-2', which is not a number of atoms"]),
        (FRAME + FRAME[2:] + FRAME, 2, ["not a number of atoms"]),
        (FRAME.replace("2\n", "1\n", 1) + FRAME, 1, ["announces 1 atom, but line 4 is one more"]),
        (FRAME.replace("2\n", "3\n", 1) + FRAME, 1, ["announces 3 atoms, but the next begins at line 5"]),
        (FRAME + FRAME.replace("2\n", "3\n", 1), 1, ["announces 3 atoms, but the file has"]),
        (FRAME.replace("Cl 2.82", "Cl two") + FRAME, 1, ["could not convert"]),
        (FRAME.replace("Na", "Uue") + FRAME, 1, ["'Uue' is not an element"]),
        (FRAME.replace("Na", "D") + FRAME.replace("Na", "T"), 2, []),
        (FRAME.replace("Na", "D").replace("Cl", "Qq") + FRAME, 1, ["'Qq' is not an element"]),
        (FRAME + "# the end\n", 1, ["'# the end', which is not a number of atoms"]),
        (FRAME.replace("T T T", "T T F") + FRAME, 1, ["pbc is T T F"]),
        ("0\n" + CELL + "\n" + FRAME, 1, [""]),
        (FRAME.replace(' pbc="T T T"', ' occupancy="_JSON {\\"0\\": {\\"Na\\": 0.5, \\"K\\": 0.5}}"') + FRAME, 1, ["Na 0.5, K 0.5"]),
        (FRAME.replace(' pbc="T T T"', ' occupancy="_JSON {\\"0\\": {\\"Na\\": 1.0}}"'), 1, []),
        (FRAME.replace("pos:R:3", "pos:R:3:occupancy:R:1").replace("0 0\n", "0 0 0.5\n"), 0, ["occupancy is"]),
        (FRAME.replace("pos:R:3", "pos:R:3:occupancy:R:1").replace("0 0\n", "0 0 1\n"), 1, []),
        (FRAME.replace("pos:R:3", "pos:R:3:occ:R:1").replace("0 0\n", "0 0 0.5\n"), 0, ["occ is"]),
        (FRAME.replace("pos:R:3", "pos:R:3:site_occupancy:R:1").replace("0 0\n", "0 0 0.5\n"), 0, ["site_occupancy is"]),
        (FRAME.replace(' pbc="T T T"', ' data="_JSON {\\"occupancy\\": {\\"0\\": {\\"Na\\": 0.9}}}"') + FRAME, 1, ["Na 0.9"]),
    ],
)  # fmt: skip
def test_the_frames_of_an_extxyz(text: str, read: int, details: list[str], tmp_path: Path) -> None:
    path = tmp_path / "a.extxyz"
    path.write_bytes(text.encode())
    found, rejected = read_designs(path, 20)
    assert (len(found), len(rejected)) == (read, len(details)), rejected
    assert all(detail in row["detail"] for detail, row in zip(details, rejected, strict=True)), rejected


def database(path: Path, n: int = 3) -> Path:
    with ase.db.connect(path) as db:
        for number in range(n):
            db.write(bulk("NaCl", "rocksalt", 5.6 + number / 10), material_id=f"m{number}", data={"note": "x"})
    return path


def state(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


def change(path: Path, sql: str, *values: object) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute(sql, values)
    connection.close()


@pytest.mark.parametrize("kind", ["foreign", "empty", "text", "header", "no version", "newer", "other columns"])
def test_a_file_that_is_no_ase_database_is_never_written_to(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    if kind == "foreign":
        change(path, "create table notes (text)")
    elif kind in ("no version", "newer"):
        change(
            database(path),
            "delete from information"
            if kind == "no version"
            else "update information set value = '99' where name = 'version'",
        )
    elif kind == "other columns":
        change(path, "create table systems (name text)")
    else:
        path.write_bytes(
            {"empty": b"", "text": b"no database at all, only text", "header": b"SQLite format 3\0" + b"x" * 100}[kind]
        )
    before = state(tmp_path)
    with pytest.raises(XtalrlError, match=r"other\.db is (not a readable|not an) ASE database"):
        read_designs(path, 20)
    assert state(tmp_path) == before


def test_a_corrupt_row_costs_only_itself(tmp_path: Path) -> None:
    path = database(tmp_path / "a.db", 6)
    change(path, "update systems set numbers = x'0b' where id = 2")
    change(path, "update systems set key_value_pairs = '{' where id = 3")
    change(path, "update systems set data = '{' where id = 4")
    change(path, "update systems set positions = x'00' where id = 5")
    with ase.db.connect(path) as db:
        shared = bulk("NaCl", "rocksalt", 5.6)
        db.write(shared, data={"occupancy": {"0": {"Na": 0.5, "K": 0.5}, "1": {"Cl": 1.0}}})
        db.write(shared, data={"occupancy": {"0": {"Na": 1.0}, "1": {"Cl": 1.0}}})
    before = state(tmp_path)
    found, rejected = read_designs(path, 20)
    assert [design.id for design in found] == ["m0", "m5", "8"]
    assert [(row["row"], row["reason"]) for row in rejected] == [
        (2, "unreadable_entry"), (3, "unreadable_entry"), (4, "unreadable_entry"), (5, "unreadable_entry"), (7, "disordered"),
    ]  # fmt: skip
    assert state(tmp_path) == before


def test_a_truncated_database_gives_what_is_left_or_a_sentence(tmp_path: Path) -> None:
    content = database(tmp_path / "a.db", 40).read_bytes()
    for size in range(0, len(content), 4096 * 3):
        (tmp_path / "a.db").write_bytes(content[:size])
        before = state(tmp_path)
        try:
            found, rejected = read_designs(tmp_path / "a.db", 20)
        except XtalrlError as error:
            assert "ASE database" in str(error)  # noqa: PT017
        else:
            assert len(found) + len(rejected) > 0
        assert state(tmp_path) == before


def test_what_a_log_beside_a_database_holds_is_read(tmp_path: Path) -> None:
    """As another program leaves it that still writes: SQLite would write here to read it."""
    path = database(tmp_path / "a.db", 1)
    reader = sqlite3.connect(path)
    reader.execute("pragma journal_mode=wal")
    reader.execute("begin")
    reader.execute("select * from systems").fetchone()
    with ase.db.connect(path) as db:
        db.write(bulk("KCl", "rocksalt", 6.3), material_id="late")
    (tmp_path / "killed").mkdir()
    for name in ("a.db", "a.db-wal"):
        shutil.copy(tmp_path / name, tmp_path / "killed")
    before = state(tmp_path / "killed")
    assert ids(tmp_path / "killed/a.db") == (["m0", "late"], {})
    assert state(tmp_path / "killed") == before
    reader.close()


def test_a_large_cell_is_reduced_to_its_primitive_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Oracle: pymatgen's StructureMatcher."""
    spinel = Structure.from_spacegroup(
        "Fd-3m:2", Lattice.cubic(8.08), ["Mg", "Al", "O"], [[0.125] * 3, [0.5] * 3, [0.2624] * 3]
    )
    large = Structure(Lattice.orthorhombic(60, 4, 4), ["Na"] * 21, [[i**2 / 450, 0, 0] for i in range(21)])
    (tmp_path / "set").mkdir()
    for name, structure in {"spinel": spinel, "double": NACL * (2, 1, 3), "large": large}.items():
        structure.to(str(tmp_path / f"set/{name}.cif"))
    with caplog.at_level(logging.INFO):
        found, rejected = read_designs(tmp_path / "set", 20)
    assert [row["material_id"] for row in rejected] == ["large"], rejected
    assert [(design.id, len(design.given), design.note) for design in found] == [
        ("double", 2, "primitive cell of 48 sites"), ("spinel", 14, "primitive cell of 56 sites"),
    ]  # fmt: skip
    for design, original in zip(found, (NACL, spinel), strict=True):
        assert StructureMatcher(scale=False, stol=0.01, ltol=0.001, angle_tol=0.01).fit(design.reduced, original)
    assert [row["detail"] for row in rejected] == ["21 sites, 21 in the primitive cell, at most 20 are used"]
    assert "Cells of more than 20 sites are reduced to their primitive cell (2)" in caplog.text
