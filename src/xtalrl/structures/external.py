"""Crystals that others designed (CIFs, extxyz, an ASE database), as designs on our skeletons if they fill one, or else on their own cells."""

from __future__ import annotations

import logging
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import spglib
from numpy.typing import NDArray
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core.lattice import Lattice
from pymatgen.core.periodic_table import Element
from pymatgen.core.structure import Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.cif import MAX_SITES_READ, OCCUPANCY_TOLERANCE, read_block
from xtalrl.structures.crystals import reduce_cell
from xtalrl.structures.external_entries import Entry, read_entries
from xtalrl.structures.external_files import printable
from xtalrl.structures.rejections import Reason, Rejection

logger = logging.getLogger(__name__)

LENGTH_TOLERANCE = 0.002
"""Relative tolerance of the lengths of a cell. It allows for rounding and not for relaxation: the SCF is done in the cell of our skeleton."""
ANGLE_TOLERANCE = 0.1
"""Tolerance of the angles of a cell in degrees."""
SITE_TOLERANCE = 0.01
"""Root mean square tolerance of positions, in units of (volume per site)^(1/3): about 0.025 Å."""
PRIMITIVE_SYMPREC = 0.01
"""Tolerance in Å for the translations that make a cell smaller."""
_OCCUPANCY = re.compile(r"(site_?)?occ(upanc(y|ies))?", re.IGNORECASE)
_NAMED = 20
"""Number of unusable entries that the log names."""
SPLIT = "external"
"""Split of external crystals and rejected entries, which belong to no split of the data set."""
SYMPREC = 0.1
"""Tolerance in Å for the space group, as in the Materials Project."""


@dataclass(frozen=True)
class ExternalDesign:
    """One crystal of a set: its source, its cell as given, and its Niggli-reduced cell with the sites in the same order."""

    id: str
    source: str
    row: int
    given: Structure
    reduced: Structure
    note: str = ""

    @property
    def name(self) -> str:
        """The name of its file or `material_id`, which several may share."""
        return self.id.rpartition("/")[2].partition("#")[0]


def in_words(rejection: Mapping[str, Any]) -> str:
    """A row of `REJECTED` as one line: its source, the reason, and the sentence on it."""
    detail = f" ({rejection['detail']})" if rejection["detail"] else ""
    return f"{rejection['source']}: {rejection['reason']}{detail}"


def import_designs(
    path: str | Path,
    name: str,
    crystals: str | Path,
    max_sites: int,
    designs: str | Path,
    external_crystals: str | Path,
    rejected: str | Path,
) -> None:
    """Write a set of external crystals as designs. An unusable entry is listed in `rejected` with its reason and stays a design without elements,
    so that shares are of all entries and a set does not gain by entries that nobody can read.

    A crystal that fills one of our skeletons becomes a design on it, so that it can be compared with the true crystal and with the policies'
    designs of the same skeleton. Any other crystal becomes a design on its own Niggli cell, a row of `external_crystals` with the
    material_id `<name>/<entry>`, without a true crystal to compare with.

    If the set has the same number of samples of every skeleton and nothing else, the n-th sample has the seed n. Otherwise
    further samples of a skeleton become designs on their own cells, because seeds of unequal size would make the intervals meaningless.

    Args:
        path: folder of CIFs, extxyz file, or ASE database (see `read_designs`).
        name: name of the set, which stands in the tables as that of a policy.
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
            f"None of the {len(rejections):,} entries of {printable(path)} can be used. The first: {in_words(first)}. "
            f"Crystals must be ordered, of the 88 elements, with at most {max_sites} sites in the cell."
        )
    n_samples = Counter(match[0] for match in matches if match)
    samples_are_seeds = None not in matches and len(set(n_samples.values())) == 1
    design_rows, crystal_rows = [], []
    sample: Counter[str] = Counter()
    for design, match in zip(found, matches, strict=True):
        if match and (samples_are_seeds or not sample[match[0]]):
            material_id, species = match
        else:
            crystal_rows.append(crystal_row(design, f"{name}/{design.id}"))
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
    n_crystals = len(design_rows)
    for rejection in rejections[:_NAMED]:
        logger.info(in_words(rejection))
    for rejection in rejections:
        design_rows.append(
            {"material_id": f"{name}/{rejection['material_id']}", "policy": name, "seed": 0, "order": [], "species": []}
        )
    logger.info(
        "%s: %s designs on skeletons of %s, %s on their own cells",
        name,
        f"{n_crystals - len(crystal_rows):,}",
        crystals,
        f"{len(crystal_rows):,}",
    )
    tables.write_rows(design_rows, tables.DESIGNS, designs)
    tables.write_rows(crystal_rows, tables.CRYSTALS, external_crystals)
    tables.write_rows(rejections, tables.REJECTED, rejected)


def crystal_row(design: ExternalDesign, material_id: str) -> dict[str, Any]:
    """A row of `tables.CRYSTALS`: the Niggli cell of an external crystal."""
    reduced = design.reduced
    return {
        "material_id": material_id,
        "split": SPLIT,
        "formula": reduced.composition.reduced_formula,
        "n_sites": len(reduced),
        **Cell.from_structure(reduced).row,
        "spacegroup_number": space_group(reduced),
        "source": f"{design.source} row {design.row}" + (f", {design.note}" if design.note else ""),
    }


def space_group(structure: Structure) -> int:
    """Number of the space group of a crystal, at the Materials Project's tolerance."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            number: int = structure.get_space_group_info(symprec=SYMPREC)[1]
    except Exception:  # spglib finds none for some odd cells; every crystal is a P1 crystal.
        return 1
    return number


def read_designs(path: str | Path, max_sites: int) -> tuple[list[ExternalDesign], list[dict[str, Any]]]:
    """The crystals of a set, and a row of `tables.REJECTED` for every entry that cannot be used.

    The id of a crystal is the name of its CIF, or the value `material_id` of its frame or database row, else its number. Of several
    with one id, the further ones have the path of their CIF, or a number after #.

    Args:
        path: a CIF, a folder or .zip of CIFs, a POSCAR, an .xyz or .extxyz file, or an ASE database (.db). Nothing is written there.
        max_sites: largest number of sites in a cell. A larger one is reduced to its primitive cell first.

    Raises:
        XtalrlError: it does not exist, is of no known kind, or holds nothing.
    """
    path = Path(path)
    found: list[ExternalDesign] = []
    rejections: list[dict[str, Any]] = []
    ids: set[str] = set()
    numbers: Counter[str] = Counter()
    renamed: list[str] = []
    primitive = 0
    for entry in read_entries(path):
        entry_id = _unused(entry, ids, numbers)
        if entry_id != entry.id:
            renamed.append(entry_id)
        try:
            given, reduced, note = _read_entry(entry, max_sites)
            found.append(ExternalDesign(entry_id, entry.source, entry.row, given, reduced, note))
            primitive += bool(note)
        except Rejection as rejection:
            rejections.append(_rejected(entry, entry_id, rejection))
    if not ids:
        raise XtalrlError(
            f"{printable(path)} holds no crystals: of a folder or an archive the files *.cif and *.cif.gz are read, of an .xyz its frames, of a .db its rows."
        )
    if renamed:
        logger.info(
            "Entries that share the name of another have one of their own (%s), such as %s", len(renamed), renamed[0]
        )
    if primitive:
        logger.info("Cells of more than %s sites are reduced to their primitive cell (%s)", max_sites, primitive)
    return found, rejections


def _unused(entry: Entry, ids: set[str], numbers: Counter[str]) -> str:
    """The id of the entry, or another one that is not among `ids`; it is added there.

    `numbers` holds the last number that was given to each name, so that many entries of one name take no longer than others.
    """
    chosen = entry.id if entry.id not in ids else entry.longer_id
    while chosen in ids:
        numbers[entry.longer_id] += 1
        chosen = f"{entry.longer_id}#{numbers[entry.longer_id] + 1}"
    ids.add(chosen)
    return chosen


class Skeletons:
    """Crystals without their elements."""

    def __init__(self, crystals: Sequence[dict[str, Any]]) -> None:
        """`crystals`: rows of `tables.CRYSTALS`."""
        self.ids = [row["material_id"] for row in crystals]
        self.species = [row["species"] for row in crystals]
        self.cells = [_bare(Cell.from_row(row)) for row in crystals]
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
        for index in sorted(near, key=lambda i: (self.ids[i] != design.name, deviations[i])):
            if (species := self._fill(design, int(index))) is not None:
                return self.ids[index], species
        return None

    def _fill(self, design: ExternalDesign, index: int) -> list[str] | None:
        """The element of the design on each site of the skeleton."""
        skeleton, true = self.cells[index], self.species[index]
        if (sites := _sites_by_position(design.given, skeleton)) is not None:
            return [design.given[site].specie.symbol for site in sites]
        bare = _bare(Cell.from_structure(design.reduced))
        transformation = self.matcher.get_transformation(skeleton, bare)
        if transformation is None:
            return None
        placed = [design.given[int(site)].specie.symbol for site in transformation[2]]
        equivalent = [[placed[site] for site in sites] for sites in _symmetry_permutations(skeleton)]
        return max(equivalent, key=lambda species: sum(a == b for a, b in zip(species, true, strict=True)))


def _bare(cell: Cell) -> Structure:
    """A cell with the same placeholder on every site."""
    return replace(cell, species=("H",) * len(cell.species)).to_structure()


def _symmetry_permutations(skeleton: Structure) -> list[list[int]]:
    """The permutation of the sites by each symmetry operation of a bare skeleton; the identity comes first."""
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


def _read_entry(entry: Entry, max_sites: int) -> tuple[Structure, Structure, str]:
    """The cell as given, the Niggli-reduced cell, and a note if it is the primitive cell of the given one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            given = _structure(entry.content)
            note = ""
            if max_sites < len(given) <= MAX_SITES_READ and given.is_ordered:
                primitive = _primitive_cell(given)
                if len(primitive) > max_sites:
                    raise Rejection(
                        Reason.TOO_MANY_SITES,
                        f"{len(given)} sites, {len(primitive)} in the primitive cell, at most {max_sites} are used",
                    )
                note = f"primitive cell of {len(given)} sites"
                given = primitive
            return given, reduce_cell(given, max_sites), note
    except Rejection:
        raise
    except Exception as error:  # ASE and pymatgen raise nearly everything on bad input.
        said = printable(" ".join(f"{type(error).__name__}: {error}".split()))
        raise Rejection(Reason.UNREADABLE_ENTRY, said[:200]) from None


def _primitive_cell(structure: Structure) -> Structure:
    """The primitive cell in the orientation of the given one, with the positions as they are given."""
    cell: Any = (structure.lattice.matrix, structure.frac_coords, structure.atomic_numbers)
    found = spglib.standardize_cell(cell, to_primitive=True, no_idealize=True, symprec=PRIMITIVE_SYMPREC)
    if found is None or len(found[2]) >= len(structure):
        return structure
    lattice, coords, numbers = found
    return Structure(Lattice(lattice), [Element.from_Z(number) for number in numbers], coords)


def _rejected(entry: Entry, entry_id: str, rejection: Rejection) -> dict[str, Any]:
    return {
        "source": entry.source,
        "row": entry.row,
        "material_id": entry_id,
        "split": SPLIT,
        "reason": rejection.reason.value,
        "detail": rejection.detail,
    }


def _structure(content: Any) -> Structure:
    if isinstance(content, str):
        return read_block(content)
    if isinstance(content, Exception):
        raise content
    if not content.pbc.all():
        raise Rejection(Reason.NOT_PERIODIC, f"pbc is {' '.join('FT'[int(periodic)] for periodic in content.pbc)}")
    for kept in (content.info, content.arrays):
        if shared := _partial_occupancy(kept):
            raise Rejection(Reason.DISORDERED, shared)
    return Cell.from_atoms(content).to_structure()


def _partial_occupancy(kept: Any) -> str:
    """The statement that a site is partly or jointly occupied, in the information that ASE keeps beside the atoms.

    It is a value `occupancy`, or one of its other names, at any depth, as ASE's CIF reader and other programs write it: numbers, or the share of each
    element for each kind of site.
    """
    if not isinstance(kept, Mapping):
        return ""
    for name, value in kept.items():
        if _OCCUPANCY.fullmatch(str(name)):
            kinds = value if isinstance(value, Mapping) else {"site": value}
            for kind, shares in kinds.items():
                if isinstance(shares, Mapping):
                    amounts = [float(share) for share in shares.values() if float(share) > 0]
                    if len(amounts) != 1 or abs(amounts[0] - 1) > OCCUPANCY_TOLERANCE:
                        parts = ", ".join(f"{element} {share}" for element, share in shares.items())
                        return f"{name}: sites of the kind {kind} are occupied by {parts or 'nothing'}"
                elif (np.abs(np.asarray(shares, float) - 1) > OCCUPANCY_TOLERANCE).any():
                    return f"{name} is {shares}"[:200]
        elif shared := _partial_occupancy(value):
            return shared
    return ""
