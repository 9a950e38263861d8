"""Which files make up a set of external crystals, as the configuration names it; light, for it is asked whenever a job starts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from xtalrl.errors import XtalrlError

EXTXYZ_SUFFIXES = (".xyz", ".extxyz")
KINDS = "a folder or .zip of CIFs, an .xyz or .extxyz file, or an ASE database (.db)"


def find_sets(external: Mapping[str, str], policies: Iterable[str]) -> dict[str, list[str]]:
    """The files of every set of `external`: the CIFs of a folder, else the one file.

    Raises:
        XtalrlError: a set has the name of a policy, does not exist, or is of no known kind.
    """
    if taken := set(external) & set(policies):
        raise XtalrlError(
            f"`external.{min(taken)}` has the name of a policy: give the set another name, it stands beside the policies in the tables."
        )
    return {name: [str(file) for file in find_files(path)] for name, path in external.items()}


def find_files(path: str | Path) -> list[Path]:
    """The files of one set; the CIFs of a folder in alphabetical order.

    Raises:
        XtalrlError: it does not exist, is of no known kind, or is a folder without a CIF.
    """
    path = Path(path)
    if path.is_dir():
        files = sorted(path.glob("*.cif"))
        if not files:
            raise XtalrlError(f"The folder {path} holds no crystals: it must hold files *.cif.")
        return files
    if not path.exists():
        raise XtalrlError(f"{path} does not exist: name {KINDS}.")
    if path.suffix not in (*EXTXYZ_SUFFIXES, ".db", ".zip"):
        raise XtalrlError(f"{path} is of no known kind: name {KINDS}.")
    return [path]
