"""The files of a set of external crystals that the configuration names. Imports nothing heavy, because every job reads the configuration."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from xtalrl.errors import XtalrlError

CIF_SUFFIXES = (".cif", ".cif.gz")
EXTXYZ_SUFFIXES = (".xyz", ".extxyz")
POSCAR_NAMES = ("poscar", "contcar")
POSCAR_SUFFIXES = (".vasp", ".poscar")
KINDS = "a CIF, a folder or .zip of CIFs, a POSCAR (POSCAR*, CONTCAR*, .vasp), an .xyz or .extxyz file, or an ASE database (.db)"


def check_sets(external: Mapping[str, str], policies: Iterable[str]) -> None:
    """Check that every set of `external` is there.

    Raises:
        XtalrlError: a set has the name of a policy, does not exist, is of no known kind, or is a folder without a CIF.
    """
    if taken := set(external) & set(policies):
        raise XtalrlError(
            f"`external.{min(taken)}` has the name of a policy: give the set another name, it stands beside the policies in the tables."
        )
    for path in external.values():
        check_path(path)


def check_path(path: str | Path) -> None:
    """Check that a set is there; a folder is searched only until the first CIF is found.

    Raises:
        XtalrlError: it does not exist, is of no known kind, or is a folder without a CIF.
    """
    path = Path(path)
    if path.is_dir():
        if not any(is_cif(file) and not is_hidden(file) for file in walk(path)):
            raise XtalrlError(
                f"The folder {printable(path)} holds no crystals: it must hold files *.cif or *.cif.gz, in subfolders or not. "
                "Name an .xyz, .extxyz, .db or .zip file itself."
            )
    elif not path.exists():
        raise XtalrlError(f"{printable(path)} does not exist: name {KINDS}.")
    elif not is_poscar(path) and not path.name.lower().endswith((*CIF_SUFFIXES, *EXTXYZ_SUFFIXES, ".db", ".zip")):
        raise XtalrlError(f"{printable(path)} is not of a known kind: name {KINDS}.")


def fingerprint(path: str | Path) -> str:
    """A checksum of names, sizes and times of the files of a set.

    When it changes, Snakemake reads the set again. The files are not inputs of the rule, because their names can contain anything, and Snakemake
    would interpret braces and angle brackets.
    """
    path = Path(path)
    checksum = hashlib.sha256()
    for file in sorted(walk(path)) if path.is_dir() else [Path()]:
        stat = os.stat(path / file) if (path / file).exists() else None
        said = (stat.st_size, stat.st_mtime_ns) if stat else None
        checksum.update(os.fsencode(file) + f"\0{said}\0".encode())
    return checksum.hexdigest()[:16]


def walk(folder: Path) -> Iterator[Path]:
    """The files of a folder and its subfolders, relative to it. A link is followed, into each folder once.

    Raises:
        XtalrlError: a folder cannot be read.
    """

    def refuse(error: OSError) -> None:
        raise XtalrlError(f"The folder {printable(error.filename)} cannot be read ({error.strerror}).")

    seen = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        real = os.path.realpath(root)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(root, name).relative_to(folder) for name in files)


def is_cif(path: str | Path) -> bool:
    """Whether it has the name of a CIF, in any case."""
    return str(path).lower().endswith(CIF_SUFFIXES)


def is_poscar(path: str | Path) -> bool:
    """Whether it has the name of a file of VASP's with a crystal, in any case."""
    name = Path(path).name.lower()
    return name.endswith(POSCAR_SUFFIXES) or (
        name.startswith(POSCAR_NAMES) and not name.endswith((*CIF_SUFFIXES, *EXTXYZ_SUFFIXES, ".db", ".zip"))
    )


def is_hidden(path: str | Path) -> bool:
    """Whether a file of a set (relative to it), or a folder above it, is hidden or one of the extra files that macOS adds."""
    return any((part.startswith(".") and part != "..") or part == "__MACOSX" for part in Path(path).parts)


def printable(path: str | Path) -> str:
    r"""A path as text that a table or log takes: bytes that are no UTF-8, line breaks and the like are written \xfc."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
