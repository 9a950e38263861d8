"""Crystals that others designed (CIFs, extxyz, an ASE database): designs on our skeletons where they fill one, else on their own cells."""

from __future__ import annotations

import io
import logging
import warnings
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.structure import Structure

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.cif import read_cif
from xtalrl.structures.crystals import reduce_cell
from xtalrl.structures.external_files import EXTXYZ_SUFFIXES, find_files
from xtalrl.structures.rejections import Reason, Rejection

logger = logging.getLogger(__name__)

LENGTH_TOLERANCE = 0.002
"""Relative, of the cell's lengths. Differences of rounding are meant, not of relaxation: the SCF is done on our skeleton's cell."""
ANGLE_TOLERANCE = 0.1
"""Degrees."""
SITE_TOLERANCE = 0.01
"""Root mean square, in units of (volume per site)^(1/3), about 0.025 Å."""
SPLIT = "external"
"""Of external crystals and rejected entries: they belong to no split of the data set."""
SYMPREC = 0.1
"""Å, for the space group: the tolerance of the Materials Project."""


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
    content: Path | zipfile.Path | ase.Atoms | Exception


def import_designs(
    path: str | Path,
    name: str,
    crystals: str | Path,
    max_sites: int,
    designs: str | Path,
    external_crystals: str | Path,
    rejected: str | Path,
) -> None:
    """Write a set of external crystals as designs: every entry ends in `designs` or, with its reason, in `rejected`.

    A crystal that fills one of our skeletons becomes a design on it, so that it is compared with the true crystal and with the policies'
    designs of the same skeleton. One that fills none becomes a design on its own Niggli cell, a row of `external_crystals` with the
    material_id `<name>/<entry>`; there is no true crystal to compare it with.

    Where the set has the same number of samples of every skeleton and nothing else, the n-th sample has the seed n. Otherwise the
    further samples of a skeleton stand on their own cells too: seeds of unequal size would make the intervals meaningless.

    Args:
        path: folder of CIFs, extxyz file, or ASE database (see `read_designs`).
        name: of the set in all tables, where it stands as a policy.
        crystals: `tables.CRYSTALS`, whose cells are the skeletons.
        max_sites: largest number of sites in a cell.
        designs, external_crystals, rejected: `tables.DESIGNS`, `tables.CRYSTALS` and `tables.REJECTED` to write.

    Raises:
        XtalrlError: a file is missing or of no known kind, or no entry can be used.
    """
    skeletons = Skeletons(tables.read_rows(crystals, tables.CRYSTALS))
    found, rejections = read_designs(path, max_sites)
    progress = Progress("Matching designs to skeletons", len(found), "designs")
    matches = []
    for design in found:
        matches.append(skeletons.match(design))
        progress.advance()
    for reason, count in Counter(row["reason"] for row in rejections).most_common():
        logger.info("%s of %s entries left out: %s", f"{count:,}", f"{len(found) + len(rejections):,}", reason)
    if not found:
        first = rejections[0]
        raise XtalrlError(
            f"None of the {len(rejections):,} entries of {path} can be used. The first: {first['source']}: {first['reason']} "
            f"{first['detail']}. Crystals must be ordered, of the 88 elements, with at most {max_sites} sites in the cell."
        )
    n_samples = Counter(match[0] for match in matches if match)
    samples_are_seeds = None not in matches and len(set(n_samples.values())) == 1
    design_rows, crystal_rows = [], []
    sample: Counter[str] = Counter()
    names: set[str] = set()
    for design, match in zip(found, matches, strict=True):
        if match and (samples_are_seeds or not sample[match[0]]):
            material_id, species = match
        else:
            crystal_rows.append(_crystal_row(design, _unused(f"{name}/{design.id}", names)))
            material_id, species = crystal_rows[-1]["material_id"], crystal_rows[-1]["species"]
        design_rows.append(
            {
                "material_id": material_id,
                "policy": name,
                "seed": sample[material_id],
                "order": list(range(len(species))),
                "species": species,
            }
        )
        sample[material_id] += 1
    logger.info(
        "%s: %s designs on skeletons of %s, %s on their own cells",
        name,
        f"{len(design_rows) - len(crystal_rows):,}",
        crystals,
        f"{len(crystal_rows):,}",
    )
    tables.write_rows(design_rows, tables.DESIGNS, designs)
    tables.write_rows(crystal_rows, tables.CRYSTALS, external_crystals)
    tables.write_rows(rejections, tables.REJECTED, rejected)


def _unused(name: str, names: set[str]) -> str:
    """The name, or with a number where it was given before: frames of an extxyz file may share one."""
    candidate, number = name, 1
    while candidate in names:
        number += 1
        candidate = f"{name}#{number}"
    names.add(candidate)
    return candidate


def _crystal_row(design: ExternalDesign, material_id: str) -> dict[str, Any]:
    reduced = design.reduced
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spacegroup = reduced.get_space_group_info(symprec=SYMPREC)[1]
    except Exception:  # spglib finds none for some odd cells; every crystal is a P1 crystal.
        spacegroup = 1
    return {
        "material_id": material_id,
        "split": SPLIT,
        "formula": reduced.composition.reduced_formula,
        "n_sites": len(reduced),
        "species": [site.specie.symbol for site in reduced],
        "lattice": reduced.lattice.matrix.ravel().tolist(),
        "frac_coords": reduced.frac_coords.ravel().tolist(),
        "spacegroup_number": spacegroup,
        "source": f"{design.source} row {design.row}",
    }


def read_designs(path: str | Path, max_sites: int) -> tuple[list[ExternalDesign], list[dict[str, Any]]]:
    """The crystals of a set, and a row of `tables.REJECTED` for every entry that cannot be used.

    The id of a crystal is the name of its CIF, or the value `material_id` of its frame or database row, else its number.

    Args:
        path: a folder or .zip with *.cif, an .xyz or .extxyz file, or an ASE database (.db).
        max_sites: largest number of sites in a cell.

    Raises:
        XtalrlError: it does not exist, is of no known kind, or holds nothing.
    """
    path = Path(path)
    files = find_files(path)
    if path.is_dir():
        entries = [_Entry(file.stem, file.name, 0, file) for file in files]
    elif path.suffix in EXTXYZ_SUFFIXES:
        entries = _extxyz_entries(path)
    elif path.suffix == ".zip":
        entries = _zip_entries(path)
    else:
        entries = _database_entries(path)
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


class Skeletons:
    """Crystals without their elements."""

    def __init__(self, crystals: Sequence[dict[str, Any]]) -> None:
        """`crystals`: rows of `tables.CRYSTALS`."""
        self.ids = [row["material_id"] for row in crystals]
        self.species = [row["species"] for row in crystals]
        self.cells = [_bare(row["lattice"], row["frac_coords"]) for row in crystals]
        self.n_sites = np.array([len(cell) for cell in self.cells])
        self.lengths = np.array([sorted(cell.lattice.abc) for cell in self.cells]).reshape(-1, 3)
        self.matcher: Any = StructureMatcher(
            ltol=LENGTH_TOLERANCE, stol=SITE_TOLERANCE, angle_tol=ANGLE_TOLERANCE, primitive_cell=False, scale=False
        )

    def match(self, design: ExternalDesign) -> tuple[str, list[str]] | None:
        """The skeleton of a design and the element on each of its sites, or None for a design on none.

        A skeleton matches if it has the design's cell (any choice of basis and orientation) and positions (up to a common shift)
        within the tolerances above; the elements do not matter. Of several, the crystal that the design is named after, else the
        nearest. Where the design is given in the skeleton's own basis and origin, each site takes the element at its position.
        Otherwise there are several assignments, which the symmetry of the bare skeleton makes equivalent: the designed crystal is
        the same for all of them, the share of correct sites (accuracy) is not. The one with the most correct sites is taken.
        """
        deviations = np.abs(self.lengths / sorted(design.reduced.lattice.abc) - 1).max(axis=1, initial=0)
        near = np.flatnonzero((self.n_sites == len(design.reduced)) & (deviations < LENGTH_TOLERANCE))
        for index in sorted(near, key=lambda i: (self.ids[i] != design.id, deviations[i])):
            if (species := self._fill(design, int(index))) is not None:
                return self.ids[index], species
        return None

    def _fill(self, design: ExternalDesign, index: int) -> list[str] | None:
        """The element of the design on each site of the skeleton."""
        skeleton, true = self.cells[index], self.species[index]
        if (sites := _sites_by_position(design.given, skeleton)) is not None:
            return [design.given[site].specie.symbol for site in sites]
        bare = _bare(design.reduced.lattice.matrix, design.reduced.frac_coords)
        transformation = self.matcher.get_transformation(skeleton, bare)
        if transformation is None:
            return None
        placed = [design.given[int(site)].specie.symbol for site in transformation[2]]
        equivalent = [[placed[site] for site in sites] for sites in _symmetry_permutations(skeleton)]
        return max(equivalent, key=lambda species: sum(a == b for a, b in zip(species, true, strict=True)))


def _bare(lattice: Any, frac_coords: Any) -> Structure:
    """A cell with the same placeholder on every site."""
    coords = np.reshape(frac_coords, (-1, 3))
    return Structure(Lattice(np.reshape(lattice, (3, 3))), ["H"] * len(coords), coords)


def _symmetry_permutations(skeleton: Structure) -> list[list[int]]:
    """Where each operation of a bare skeleton's symmetry takes its sites; the identity is first."""
    coords = skeleton.frac_coords
    tolerance = SITE_TOLERANCE * (skeleton.volume / len(skeleton)) ** (1 / 3)
    permutations = {tuple(range(len(coords))): None}
    cell: Any = (skeleton.lattice.matrix, coords, [1] * len(coords))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = spglib.get_symmetry(cell, symprec=tolerance)
    for rotation, translation in zip(found["rotations"], found["translations"], strict=True) if found else ():
        shifts = (coords @ rotation.T + translation)[:, None] - coords[None, :]
        distances = np.linalg.norm((shifts - np.round(shifts)) @ skeleton.lattice.matrix, axis=2)
        sites = tuple(distances.argmin(axis=1).tolist())
        if len(set(sites)) == len(sites):
            permutations[sites] = None
    return [list(sites) for sites in permutations]


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
    if isinstance(content, (Path, zipfile.Path)):
        return read_cif(content.read_text(encoding="utf-8"))
    if isinstance(content, Exception):
        raise content
    if not content.pbc.all():
        raise Rejection(Reason.NOT_PERIODIC, f"pbc is {' '.join('FT'[int(periodic)] for periodic in content.pbc)}")
    return Structure(
        Lattice(content.cell.array), content.get_chemical_symbols(), content.get_scaled_positions(wrap=False)
    )


def _zip_entries(path: Path) -> list[_Entry]:
    try:
        members = sorted(name for name in zipfile.ZipFile(path).namelist() if name.endswith(".cif"))
    except (zipfile.BadZipFile, OSError) as error:
        raise XtalrlError(f"{path} is not a readable zip archive ({error}).") from None
    return [_Entry(Path(name).stem, name, 0, zipfile.Path(path, name)) for name in members]


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
