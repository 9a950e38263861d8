"""Every crystal of a set, one by one, as the text of a CIF or as ASE's atoms. An entry that cannot be read comes with the reason."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import logging
import re
import shutil
import sqlite3
import stat
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import ase
import ase.io
from ase.db.sqlite import SQLite3Database
from pymatgen.core.periodic_table import Element

from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.cif import split_blocks
from xtalrl.structures.external_files import (
    CIF_SUFFIXES,
    EXTXYZ_SUFFIXES,
    POSCAR_SUFFIXES,
    check_path,
    is_cif,
    is_hidden,
    is_poscar,
    printable,
    walk,
)
from xtalrl.structures.rejections import Reason, Rejection

logger = logging.getLogger(__name__)

MAX_CIF_BYTES = 20_000_000
"""Largest size of an unpacked CIF in bytes. That of a usable crystal has some thousands."""
_COUNT = re.compile(r"\s*(\d{1,9})\s*", re.ASCII)
_COMMENT = re.compile(r"(Lattice|Properties)\s*=", re.IGNORECASE)
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eEdD][-+]?\d+)?")
_BEFORE_VELOCITIES = re.compile(r"\s*(cart\w*\s*$|direct\s*$)", re.IGNORECASE)
_LATTICE_VELOCITIES = re.compile(r"\s*lattice vel", re.IGNORECASE)
_HEAVY_HYDROGEN = re.compile(r"^(\s*)[DT](?=\s)", re.MULTILINE)


@dataclass(frozen=True)
class Entry:
    """One crystal of a set: its id, a second id that is unique, its source, and the block of a CIF
    (`xtalrl.structures.cif.read_block`), the atoms, or the reason why there are none.
    """

    id: str
    longer_id: str
    source: str
    row: int
    content: str | ase.Atoms | Exception


def read_entries(path: Path) -> Iterator[Entry]:
    """The crystals of a set.

    Raises:
        XtalrlError: the set is not there or of no known kind, or the file as a whole cannot be read.
    """
    check_path(path)
    suffix = path.suffix.lower()
    if path.is_dir():
        yield from _folder_entries(path)
    elif is_cif(path):
        yield from _cif_entries(path.name, partial(_file_content, path))
    elif suffix in EXTXYZ_SUFFIXES:
        yield from _extxyz_entries(path)
    elif is_poscar(path):
        yield _poscar_entry(path)
    elif suffix == ".zip":
        yield from _zip_entries(path)
    else:
        yield from _database_entries(path)


def _folder_entries(path: Path) -> Iterator[Entry]:
    files = sorted(walk(path))
    used = _usable(path, map(str, files))
    progress = Progress(f"Reading {printable(path.name)}", len(used), "files")
    for file in used:
        yield from _cif_entries(file, partial(_file_content, path / file))
        progress.advance()


def _usable(path: Path, names: Iterable[str]) -> list[str]:
    """The CIFs among the files of a folder or archive; hidden ones and files of other kinds are mentioned in the log."""
    files = [name for name in names if not name.endswith("/")]
    cifs = [name for name in files if is_cif(name)]
    if others := [name for name in files if not is_cif(name) and not is_hidden(name)]:
        logger.warning(
            "%s: only its CIFs (*.cif, *.cif.gz) are read, and not its other files (%s), such as %s: name a file of another kind as a set of its own",
            printable(path), f"{len(others):,}", printable(others[0]),
        )  # fmt: skip
    if hidden := [name for name in cifs if is_hidden(name)]:
        logger.info("%s: left out hidden files (%s), such as %s", printable(path), len(hidden), printable(hidden[0]))
    return [name for name in cifs if not is_hidden(name)]


def _file_content(path: Path) -> bytes:
    if not stat.S_ISREG(path.stat().st_mode):
        raise Rejection(Reason.UNREADABLE_ENTRY, "it is not a regular file")
    with path.open("rb") as file:
        return file.read(MAX_CIF_BYTES + 1)


def _cif_entries(name: str, load: Callable[[], bytes]) -> Iterator[Entry]:
    """The blocks with atoms of a CIF, of this name relative to the set."""
    source = printable(name)
    longer_id = next(source[: -len(suffix)] for suffix in reversed(CIF_SUFFIXES) if source.lower().endswith(suffix))
    stem = PurePosixPath(longer_id).name
    try:
        content = load()
        if name.lower().endswith(".gz"):
            with gzip.open(io.BytesIO(content)) as file:
                content = file.read(MAX_CIF_BYTES + 1)
        if len(content) > MAX_CIF_BYTES:
            raise Rejection(
                Reason.UNREADABLE_ENTRY, f"it is larger than {MAX_CIF_BYTES / 1e6:g} MB, which no crystal needs"
            )
        encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
        # What is not UTF-8 can be a name among the authors: the atoms are ASCII.
        blocks = split_blocks(content.decode(encoding, "replace"))
    except Exception as error:  # zipfile, gzip and the file system raise of many kinds.
        yield Entry(stem, longer_id, source, 0, error)
        return
    for row, (block, text) in enumerate(blocks):
        mark = f"#{printable(block)}" if len(blocks) > 1 else ""
        yield Entry(stem + mark, longer_id + mark, source, row, text)


def _poscar_entry(path: Path) -> Entry:
    """The crystal of a file of VASP's."""
    name = printable(path.name)
    content: Any
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else io.BytesIO(_file_content(path)) as file:
            text = file.read(MAX_CIF_BYTES + 1).decode("utf-8", "replace")
        content = ase.io.read(io.StringIO(_one_poscar(text)), format="vasp")
    except Rejection as error:
        content = error
    except Exception as error:  # gzip, the file system and ASE raise of many kinds on bad input.
        content = _unreadable(f"it is not a POSCAR that can be read ({type(error).__name__}: {error})")
    stem = name.removesuffix(path.suffix) if path.suffix.lower() in POSCAR_SUFFIXES else name
    return Entry(stem, stem, name, 0, content)


def _one_poscar(text: str) -> str:
    """The text of a POSCAR of VASP 5 in which nothing follows the positions but velocities. Deuterium and tritium are hydrogen.

    Raises:
        Rejection: it breaks off, names no elements, or holds more than one crystal.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n")
    lines = text.split("\n") if text else []  # and not at the other marks that splitlines knows: the first line is free
    if len(lines) < 8:
        raise _unreadable(f"it breaks off after line {len(lines)}: a POSCAR has a cell, elements, counts and positions")
    values = [re.split("[!#]", line)[0].split() for line in lines[:7]]  # what follows is a comment to VASP
    for at, count, what in ((1, 1, "a scale"), *((at, 3, "a vector of the cell") for at in (2, 3, 4))):
        numbers = values[at][:count]
        if len(numbers) < count or not all(map(_NUMBER.fullmatch, numbers)):
            raise _unreadable(f"line {at + 1} is {lines[at].strip()[:40]!r}, which is not {what}")
        lines[at] = " ".join(values[at] if count == 1 else numbers).upper().replace("D", "E")
    symbols, counts = values[5:]
    if symbols and all(symbol.isdigit() for symbol in symbols):
        raise _unreadable(
            "line 6 has counts and no elements, as in VASP 4: insert a line of elements before it, as in `Na Cl`"
        )
    if len(symbols) != len(counts) or not counts or not all(_COUNT.fullmatch(count) and int(count) for count in counts):
        raise _unreadable(
            f"line 7 is {lines[6].strip()[:40]!r}, which is not a count for each of {lines[5].strip()[:40]!r}"
        )
    for symbol in symbols:
        if not Element.is_valid_symbol(re.split(r"[_/]", symbol)[0]):
            raise Rejection(Reason.ELEMENT_OUTSIDE_88, f"{symbol!r} is not an element")
    first = 9 if lines[7].strip()[:1] in ("s", "S") else 8
    n_atoms = sum(map(int, counts))
    for at in range(first, first + n_atoms):
        words = lines[at].split()[:3] if at < len(lines) else []
        if len(words) < 3 or not all(map(_NUMBER.fullmatch, words)):
            what = f"is {lines[at].strip()[:40]!r}" if at < len(lines) else "is missing"
            raise _unreadable(
                f"its counts make {_counted(n_atoms)}, and line {at + 1}, the position of atom {at - first + 1:,}, {what}"
            )
        lines[at] = " ".join(words).upper().replace("D", "E")  # without the flags of selective dynamics
    rest = lines[first + n_atoms :]
    if rest and rest[0].strip() and _NUMBER.fullmatch(rest[0].split()[0]):
        raise _unreadable(f"its counts make {_counted(n_atoms)}, and line {first + n_atoms + 1} is one more")
    for at, line in enumerate(rest, first + n_atoms + 1):
        if re.match(r"\s*[A-Za-z]", line) and not (_BEFORE_VELOCITIES.match(line) or _LATTICE_VELOCITIES.match(line)):
            raise _unreadable(
                f"line {at} is {line.strip()[:40]!r}, and only velocities may follow the positions: one crystal per file"
            )
    if rest and _LATTICE_VELOCITIES.match(rest[0]):
        rest = rest[8:]  # the line itself, a flag, the velocities of three vectors and these vectors
    velocities = [line.split() for line in itertools.takewhile(str.strip, itertools.dropwhile(_is_no_velocity, rest))]
    if velocities and (
        len(velocities) != n_atoms or not all(map(_NUMBER.fullmatch, itertools.chain.from_iterable(velocities)))
    ):
        raise _unreadable(f"what follows the {_counted(n_atoms)} is not a velocity for each: one crystal per file")
    lines[6] = " ".join(counts)
    lines[5] = " ".join("H" if symbol in ("D", "T") else symbol for symbol in symbols)
    return "\n".join([*lines[:7], *lines[first - 1 : first + n_atoms]]) + "\n"


def _is_no_velocity(line: str) -> bool:
    return not line.strip() or bool(_BEFORE_VELOCITIES.match(line))


def _zip_entries(path: Path) -> Iterator[Entry]:
    try:
        archive = zipfile.ZipFile(path)
        names = [info.filename for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise XtalrlError(f"{printable(path)} is not a readable zip archive ({error}).") from None
    used = set(_usable(path, names))
    # By entry and not by name: two members may share one.
    members = sorted((info for info in archive.infolist() if info.filename in used), key=lambda info: info.filename)
    progress = Progress(f"Reading {printable(path.name)}", len(members), "files")
    with archive:
        for member in members:
            yield from _cif_entries(member.filename, partial(_member_content, archive, member))
            progress.advance()


def _member_content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    with archive.open(member) as file:
        return file.read(MAX_CIF_BYTES + 1)


def _extxyz_entries(path: Path) -> Iterator[Entry]:
    # Frame by frame: ASE gives up a whole file for one frame that it cannot read.
    text = path.read_bytes().decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    frames = list(_frames(text.rstrip().split("\n")))
    progress = Progress(f"Reading {printable(path.name)}", len(frames), "frames")
    for row, frame in enumerate(frames):
        content: Any = frame
        if isinstance(frame, str):
            try:
                content = _atoms(frame)
            except Exception as error:
                content = error
        info = content.info if isinstance(content, ase.Atoms) else {}
        name = printable(str(info.get("material_id", row)))
        yield Entry(name, name, printable(path.name), row, content)
        progress.advance()


def _frames(lines: list[str]) -> Iterator[str | Rejection]:
    """The text of each frame, or why it cannot be read. After a wrong line, reading continues at the next line that begins a frame."""
    counts = [bool(_COUNT.fullmatch(line)) for line in lines]
    begins = [n for n in range(len(lines) - 1) if counts[n] and _COMMENT.search(lines[n + 1])]
    begins.append(len(lines))
    upcoming = iter(begins)
    following = next(upcoming)
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        while following <= start < len(lines) and following < len(lines):
            following = next(upcoming)
        found = _COUNT.fullmatch(lines[start])
        if not found:
            yield _unreadable(f"line {start + 1} is {lines[start].strip()[:40]!r}, which is not a number of atoms")
            start = following
            continue
        if not int(found[1]):
            yield _unreadable(f"line {start + 1} announces no atoms")
            start = following
            continue
        end = start + int(found[1]) + 2
        if end > len(lines) or following < end:
            what = (
                f"the next begins at line {following + 1}"
                if following < len(lines)
                else f"the file has {len(lines)} lines"
            )
            yield _unreadable(f"line {start + 1} announces {_counted(int(found[1]))}, but {what}")
            start = following
            continue
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):  # vectors of the cell
            end += 1
        if end < len(lines) and len(lines[end].split()) == len(lines[end - 1].split()) >= 4:
            yield _unreadable(f"line {start + 1} announces {_counted(int(found[1]))}, but line {end + 1} is one more")
            start = following
            continue
        yield "\n".join(lines[start:end]) + "\n"
        start = end


def _counted(n_atoms: int) -> str:
    """A number of atoms in words."""
    return "1 atom" if n_atoms == 1 else f"{n_atoms:,} atoms"


def _unreadable(detail: str) -> Rejection:
    return Rejection(Reason.UNREADABLE_ENTRY, detail)


def _atoms(frame: str) -> Any:
    """The atoms of a frame. Deuterium and tritium, which ASE does not know, are hydrogen."""
    try:
        return ase.io.read(io.StringIO(frame), format="extxyz")
    except KeyError as error:
        count, comment, atoms = frame.split("\n", 2)
        plain = "\n".join([count, comment, _HEAVY_HYDROGEN.sub(r"\1H", atoms)])
        if error.args[0] in ("D", "T") and plain != frame:
            return _atoms(plain)
        raise Rejection(Reason.ELEMENT_OUTSIDE_88, f"{error.args[0]!r} is not an element") from None


def _database_entries(path: Path) -> Iterator[Entry]:
    with _reading(path) as connection:
        try:
            there = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'systems'").fetchone()[0]
            if not there:
                raise XtalrlError(f"{printable(path)} is not an ASE database: it has no table `systems`.")
            database: Any = SQLite3Database(str(path), use_lock_file=False)
            database.connection, database.change_count = connection, 0
            database._initialize(connection)  # reads the version of the format
            ids = _ids(connection)
            total = connection.execute("SELECT count(*) FROM systems").fetchone()[0]
        except XtalrlError:
            raise
        except Exception as error:  # sqlite3 and ASE raise of many kinds on a file that is not a database.
            raise XtalrlError(
                f"{printable(path)} is not a readable ASE database ({type(error).__name__}: {error})."
            ) from None
        progress = Progress(f"Reading {printable(path.name)}", total, "rows")
        for row, problem in ids:
            name, content = str(row), problem
            if content is None:
                try:
                    found = database.get(id=row)
                    content = found.toatoms()
                    content.info = {**found.key_value_pairs, **found.data}
                    name = printable(str(found.get("material_id", row)))
                except Exception as error:
                    content = error
            yield Entry(name, name, printable(path.name), row, content)
            progress.advance()


def _ids(connection: sqlite3.Connection) -> Iterator[tuple[int, Any]]:
    """The ids of the rows, followed by an error if the file is damaged and the rest cannot be found.

    SQLite takes the order from the file: in a damaged one the same rows may come again tens of thousands of times.
    """
    last: int | None = None
    try:
        for (row,) in connection.execute("SELECT id FROM systems ORDER BY id"):
            if last is not None and row <= last:
                yield (
                    last + 1,
                    _unreadable(f"nothing from there on can be read: after row {last} comes row {row} again"),
                )
                return
            yield row, None
            last = row
    except sqlite3.Error as error:
        yield (last or 0) + 1, _unreadable(f"nothing from there on can be read: {error}")


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[sqlite3.Connection]:
    """A connection that writes nothing, neither into the file nor beside it.

    SQLite writes when it opens a file with a log of changes beside it; such a file is opened as a copy.

    Raises:
        XtalrlError: the file is not a SQLite database.
    """
    with path.open("rb") as file:
        if file.read(16) != b"SQLite format 3\0":
            raise XtalrlError(f"{printable(path)} is not a readable ASE database: it is not a file of SQLite.")
    logs = [log for suffix in ("-wal", "-journal") if (log := path.with_name(path.name + suffix)).is_file()]
    with contextlib.ExitStack() as stack:
        options = "mode=ro&immutable=1"
        if logs:
            copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / path.name
            for source in (path, *logs):
                shutil.copyfile(source, copy.with_name(source.name))
            path, options = copy, "mode=rw"
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True)
        stack.enter_context(contextlib.closing(connection))
        yield connection
