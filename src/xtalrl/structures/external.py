"""Crystals that others designed (a folder of CIFs, an extxyz file, an ASE database), laid on our skeletons as designs."""

from __future__ import annotations

import io
import logging
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
from numpy.typing import NDArray
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.crystals import Reason, Rejection, read_cif, reduce_cell

logger = logging.getLogger(__name__)

LENGTH_TOLERANCE = 0.002
"""Relative, of the cell's lengths. Differences of rounding are meant, not of relaxation: the SCF is done on our skeleton's cell."""
ANGLE_TOLERANCE = 0.1
"""Degrees."""
SITE_TOLERANCE = 0.01
"""Root mean square, in units of (volume per site)^(1/3), about 0.025 Å."""
SPLIT = "external"
"""Of rejected entries: they belong to no split."""


@dataclass(frozen=True)
class ExternalDesign:
    """One crystal of a set: where it comes from, its cell as it was given, and Niggli-reduced with the sites in the same order."""

    id: str
    source: str
    row: int
    given: Structure
    reduced: Structure


@dataclass(frozen=True)
class _Entry:
    """One crystal that is not read yet: a CIF, ASE's atoms, or why ASE could not read them."""

    id: str
    source: str
    row: int
    content: Path | ase.Atoms | Exception


def import_designs(
    path: str | Path, crystals: str | Path, designs: str | Path, rejected: str | Path, policy: str
) -> None:
    """Write external crystals that fill one of our skeletons as `tables.DESIGNS`, and all others as `tables.REJECTED`.

    The n-th design of one skeleton gets the seed n, counted from 0, so that several samples of one skeleton are told apart.

    Args:
        path: folder of CIFs, extxyz file, or ASE database (see `read_designs`).
        crystals: `tables.CRYSTALS`, whose cells are the skeletons.
        designs, rejected: the Parquet files to write.
        policy: name under which the set appears in the tables.

    Raises:
        XtalrlError: a file is missing or of no known kind, or nothing in it fills a skeleton.
    """
    skeletons = _Skeletons(tables.read_rows(crystals, tables.CRYSTALS))
    found, rejections = read_designs(path, skeletons.max_sites)
    filled: list[dict[str, Any]] = []
    samples: Counter[str] = Counter()
    progress = Progress("Matching designs to skeletons", len(found), "designs")
    for design in found:
        if match := skeletons.match(design):
            material_id, species = match
            filled.append(
                {
                    "material_id": material_id,
                    "policy": policy,
                    "seed": samples[material_id],
                    "order": list(range(len(species))),
                    "species": species,
                }
            )
            samples[material_id] += 1
        else:
            detail = f"no crystal of {crystals} has these {len(design.given)} positions in this cell"
            rejections.append(_rejected(design, Reason.NO_SKELETON, detail))
        progress.advance()
    for reason, count in Counter(row["reason"] for row in rejections).most_common():
        logger.info("%s of %s entries left out: %s", f"{count:,}", f"{len(found) + len(rejections):,}", reason)
    if not filled:
        first = (
            f" The first: {rejections[0]['source']}: {rejections[0]['reason']} {rejections[0]['detail']}."
            if rejections
            else ""
        )
        raise XtalrlError(
            f"None of the {len(rejections):,} entries of {path} is one of our skeletons, filled.{first} They must have the cell and "
            f"the positions of a crystal of {crystals}, unrelaxed; which element is where is free."
        )
    logger.info("%s designs on %s skeletons", f"{len(filled):,}", f"{len(samples):,}")
    tables.write_rows(filled, tables.DESIGNS, designs)
    tables.write_rows(rejections, tables.REJECTED, rejected)


def read_designs(path: str | Path, max_sites: int) -> tuple[list[ExternalDesign], list[dict[str, Any]]]:
    """The crystals of a set, and a row of `tables.REJECTED` for every entry that cannot be used.

    The id of a crystal is the name of its CIF, or the value `material_id` of its frame or database row, else its number.

    Args:
        path: a folder with *.cif, an .xyz or .extxyz file, or an ASE database (.db).
        max_sites: largest number of sites in a cell.

    Raises:
        XtalrlError: it does not exist, is of no known kind, or holds nothing.
    """
    path = Path(path)
    if path.is_dir():
        entries = _cif_entries(path)
    elif not path.exists():
        raise XtalrlError(f"{path} does not exist: name a folder of CIFs, an extxyz file or an ASE database.")
    elif path.suffix in (".xyz", ".extxyz"):
        entries = _extxyz_entries(path)
    elif path.suffix == ".db":
        entries = _database_entries(path)
    else:
        raise XtalrlError(
            f"{path} is of no known kind: name a folder of CIFs, an .xyz or .extxyz file, or an ASE database (.db)."
        )
    found: list[ExternalDesign] = []
    rejections: list[dict[str, Any]] = []
    progress = Progress(f"Reading {path.name}", len(entries), "entries")
    for entry in entries:
        try:
            given, reduced = _read_entry(entry, max_sites)
            found.append(ExternalDesign(entry.id, entry.source, entry.row, given, reduced))
        except Rejection as rejection:
            rejections.append(_rejected(entry, rejection.reason, rejection.detail))
        progress.advance()
    if not entries:
        raise XtalrlError(f"{path} holds no crystals.")
    return found, rejections


def match_skeletons(
    designs: Sequence[ExternalDesign], crystals: Sequence[dict[str, Any]]
) -> list[tuple[str, list[str]] | None]:
    """The skeleton of each design and the element on each of its sites, or None for a design on none.

    A skeleton matches if it has the design's cell (any choice of basis and orientation) and positions (up to a common shift)
    within the tolerances above; the elements do not matter. Of several, the crystal that the design is named after, else the
    nearest. Where the design is given in the skeleton's own basis and origin, each site takes the element at its position.
    Otherwise the assignment is one of several that the symmetry of the bare skeleton makes equivalent: the designed crystal is
    the same for all of them, but the share of correct sites (accuracy) is not.

    Args:
        designs: as read by `read_designs`.
        crystals: rows of `tables.CRYSTALS`.
    """
    skeletons = _Skeletons(crystals)
    return [skeletons.match(design) for design in designs]


class _Skeletons:
    """Crystals without their elements."""

    def __init__(self, crystals: Sequence[dict[str, Any]]) -> None:
        self.ids = [row["material_id"] for row in crystals]
        self.cells = [_bare(row["lattice"], row["frac_coords"]) for row in crystals]
        self.n_sites = np.array([len(cell) for cell in self.cells])
        self.lengths = np.array([sorted(cell.lattice.abc) for cell in self.cells]).reshape(-1, 3)
        self.max_sites = int(self.n_sites.max(initial=0))
        self.matcher: Any = StructureMatcher(
            ltol=LENGTH_TOLERANCE, stol=SITE_TOLERANCE, angle_tol=ANGLE_TOLERANCE, primitive_cell=False, scale=False
        )

    def match(self, design: ExternalDesign) -> tuple[str, list[str]] | None:
        """See `match_skeletons`."""
        deviations = np.abs(self.lengths / sorted(design.reduced.lattice.abc) - 1).max(axis=1, initial=0)
        near = np.flatnonzero((self.n_sites == len(design.reduced)) & (deviations < LENGTH_TOLERANCE))
        for index in sorted(near, key=lambda i: (self.ids[i] != design.id, deviations[i])):
            if (sites := self._sites(design, self.cells[index])) is not None:
                return self.ids[index], [design.given[site].specie.symbol for site in sites]
        return None

    def _sites(self, design: ExternalDesign, skeleton: Structure) -> Sequence[int] | None:
        """The site of the design on each site of the skeleton."""
        if (sites := _sites_by_position(design.given, skeleton)) is not None:
            return sites
        bare = _bare(design.reduced.lattice.matrix, design.reduced.frac_coords)
        transformation = self.matcher.get_transformation(skeleton, bare)
        return None if transformation is None else [int(site) for site in transformation[2]]


def _bare(lattice: Any, frac_coords: Any) -> Structure:
    """A cell with the same placeholder on every site."""
    coords = np.reshape(frac_coords, (-1, 3))
    return Structure(Lattice(np.reshape(lattice, (3, 3))), ["H"] * len(coords), coords)


def _sites_by_position(design: Structure, skeleton: Structure) -> list[int] | None:
    """The site of the design at the position of each site of the skeleton, if both have the same lengths, angles and positions.

    The order of the sites cannot be relied on: pymatgen's CIF reader sorts them by electronegativity.
    """
    lengths: NDArray[np.float64] = np.abs(np.divide(design.lattice.abc, skeleton.lattice.abc) - 1)
    angles: NDArray[np.float64] = np.abs(np.subtract(design.lattice.angles, skeleton.lattice.angles))
    if lengths.max() > LENGTH_TOLERANCE or angles.max() > ANGLE_TOLERANCE:
        return None
    shifts = skeleton.frac_coords[:, None] - design.frac_coords[None, :]
    distances = np.linalg.norm((shifts - np.round(shifts)) @ skeleton.lattice.matrix, axis=2)
    if distances.min(axis=1).max() > SITE_TOLERANCE * (skeleton.volume / len(skeleton)) ** (1 / 3):
        return None
    sites: list[int] = distances.argmin(axis=1).tolist()
    return sites if len(set(sites)) == len(sites) else None


def _read_entry(entry: _Entry, max_sites: int) -> tuple[Structure, Structure]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = _structure(entry.content, max_sites)
            return given, reduce_cell(given, max_sites)
    except Rejection:
        raise
    except Exception as error:  # ASE and pymatgen raise nearly everything on bad input.
        raise Rejection(Reason.UNREADABLE_ENTRY, " ".join(f"{type(error).__name__}: {error}".split())[:200]) from None


def _rejected(entry: _Entry | ExternalDesign, reason: Reason, detail: str) -> dict[str, Any]:
    return {
        "source": entry.source,
        "row": entry.row,
        "material_id": entry.id,
        "split": SPLIT,
        "reason": reason.value,
        "detail": detail,
    }


def _structure(content: Any, max_sites: int) -> Structure:
    if isinstance(content, Path):
        return read_cif(content.read_text(encoding="utf-8"), max_sites)
    if isinstance(content, Exception):
        raise content
    if not content.pbc.all():
        raise Rejection(Reason.NOT_PERIODIC, f"pbc is {' '.join('FT'[int(periodic)] for periodic in content.pbc)}")
    return Structure(
        Lattice(content.cell.array), content.get_chemical_symbols(), content.get_scaled_positions(wrap=False)
    )


def _cif_entries(folder: Path) -> list[_Entry]:
    return [_Entry(path.stem, path.name, 0, path) for path in sorted(folder.glob("*.cif"))]


def _extxyz_entries(path: Path) -> list[_Entry]:
    # Frame by frame: ASE gives up a whole file for one frame that it cannot read.
    lines = path.read_text(encoding="utf-8", errors="replace").rstrip().splitlines()
    entries: list[_Entry] = []
    start = 0
    while start < len(lines):
        row, count = len(entries), lines[start].strip()
        if not count.isdecimal():
            failure = ValueError(
                f"line {start + 1} is {count[:40]!r}, no number of atoms: nothing from there on can be read"
            )
            return [*entries, _Entry(str(row), path.name, row, failure)]
        end = start + int(count) + 2
        try:
            atoms: Any = ase.io.read(io.StringIO("\n".join(lines[start:end]) + "\n"), format="extxyz")
            entries.append(_Entry(str(atoms.info.get("material_id", row)), path.name, row, atoms))
        except Exception as error:
            entries.append(_Entry(str(row), path.name, row, error))
        start = end
    return entries


def _database_entries(path: Path) -> list[_Entry]:
    entries: list[_Entry] = []
    try:
        connect: Any = ase.db.connect
        for row in connect(path).select():
            try:
                content = row.toatoms()
            except Exception as error:
                content = error
            entries.append(_Entry(str(row.get("material_id", row.id)), path.name, row.id, content))
    except Exception as error:  # sqlite3 and ASE raise of many kinds on a file that is no database.
        raise XtalrlError(f"{path} is not a readable ASE database ({type(error).__name__}: {error}).") from None
    return entries
