"""Rows of MP-20's CSVs become Niggli-reduced crystals; every other row is kept with the reason why it was left out."""

from __future__ import annotations

import logging
import math
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pymatgen.core.composition import Composition
from pymatgen.core.structure import Structure

from xtalrl import tables
from xtalrl.cells import Cell
from xtalrl.csv_files import read_csv
from xtalrl.elements import ACTION
from xtalrl.progress import Progress
from xtalrl.structures.cif import LARGEST_COORDINATE, read_cif
from xtalrl.structures.magnetizations import add_magnetizations
from xtalrl.structures.rejections import Reason, Rejection

logger = logging.getLogger(__name__)

REQUIRED_COLUMNS = ("material_id", "band_gap", "cif", "spacegroup.number")
OPTIONAL_COLUMNS = ("formation_energy_per_atom", "total_magnetization")
"""`total_magnetization`, in µB per cell of the CIF, is the Materials Project's name; MP-20 itself does not have it."""

MIN_DISTANCE = 0.5
"""Distance in Å below which atoms overlap (the default of pymatgen's `Structure.is_valid`)."""

MAX_VOLUME_PER_ATOM = 10_000.0
"""Å³ per atom beyond which a length is in another unit; the thinnest crystal of MP-20 has 200."""
MAX_EDGE = 1000.0
"""Longest edge of a cell in Å: pymatgen's reduction does not end for absurdly large cells."""
MAX_LATTICE_POINTS = 10_000
"""Largest number of lattice points in a sphere with the longest edge as radius: pymatgen's reduction enumerates them, which fills the memory for absurd cells.
MP-20 has at most 1,020."""

Metals = Literal["source", "dft", "train"]
"""How metals are recognized: `source` by a band gap of 0 in the source, `dft` by that of the label, so that none is left out here. `train` goes by
the source, but keeps those of the training split, as the split `tables.METALS`."""

PAPER_NONMETALS = {"train": 8832, "val": 2486}
MP20_ROWS = {"train": 27136, "val": 9047, "test": 9046}


@dataclass
class _Selected:
    crystals: list[dict[str, Any]] = field(default_factory=list)
    rejected: list[dict[str, Any]] = field(default_factory=list)


def build_crystals(
    csvs: Mapping[str, str | Path],
    crystals: str | Path,
    rejected: str | Path,
    max_sites: int,
    metals: Metals = "source",
    splits: Sequence[str] = ("train", "val"),
    limit: int | None = None,
    magnetizations: str | Path | None = None,
) -> None:
    """Read every row of every split, and write `tables.CRYSTALS` and `tables.REJECTED`: each row ends in exactly one of them.

    Args:
        csvs: CSV (or .csv.gz) in MP-20's columns of each split.
        crystals: the Parquet file to write.
        rejected: the Parquet file to write of rows that are not used, with the reason.
        max_sites: largest number of sites in a cell.
        metals: `source` leaves out crystals whose band gap in the CSV is 0, `dft` none, `train` those outside the training split. A crystal
            without a gap in the CSV is always kept: its label will show whether it is a metal.
        splits: splits whose crystals are used; the rows of other splits are read and left out.
        limit: at most this many crystals per split; None for all.
        magnetizations: table of total magnetizations (`xtalrl.structures.magnetizations`) for crystals without one in the CSVs.

    Raises:
        XtalrlError: a CSV or the table is missing, cannot be read, or lacks a column.
    """
    result = _Selected()
    seen: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's, e.g. that a noble gas has no electronegativity.
        for split, path in csvs.items():
            # All metals of the training split are kept, as those of no split are with `dft`.
            here: Metals = (
                "dft" if metals == "train" and split == "train" else "source" if metals == "train" else metals
            )
            _read_split(split, Path(path), max_sites, here, split in splits, limit, seen, result)
    if metals == "train":
        for crystal in result.crystals:
            if crystal["band_gap"] == 0:
                crystal["split"] = tables.METALS
    if magnetizations is not None:
        add_magnetizations(result.crystals, magnetizations)
    tables.write_rows(result.crystals, tables.CRYSTALS, crystals)
    tables.write_rows(result.rejected, tables.REJECTED, rejected)


def _read_split(
    split: str,
    path: Path,
    max_sites: int,
    metals: Metals,
    used: bool,
    limit: int | None,
    seen: dict[str, str],
    result: _Selected,
) -> None:
    rows = read_csv(path, REQUIRED_COLUMNS, "structures.path").rows
    n_before = len(result.crystals)
    reasons: Counter[Reason] = Counter()
    progress = Progress(f"Reading {path.name}", len(rows), "rows")
    for number, row in enumerate(rows):
        try:
            if None in row or None in row.values():
                raise Rejection(Reason.MALFORMED_ROW, "it does not have as many fields as the header")
            if not used:
                _band_gap(row, metals)
                raise Rejection(Reason.SPLIT_NOT_USED, f"`structures.splits` in the config leaves {split} out")
            if limit is not None and len(result.crystals) - n_before >= limit:
                _band_gap(row, metals)
                raise Rejection(Reason.BEYOND_LIMIT, f"{limit} crystals of this split are enough")
            crystal = parse_row(row, max_sites, metals)
            source = f"{path.name} row {number}"
            if crystal["material_id"] in seen:
                raise Rejection(Reason.DUPLICATE_ID, f"it is {seen[crystal['material_id']]}")
            seen[crystal["material_id"]] = source
            result.crystals.append(crystal | {"split": split, "source": source})
        except Rejection as rejection:
            reasons[rejection.reason] += 1
            result.rejected.append(
                {
                    "source": path.name,
                    "row": number,
                    "material_id": (row.get("material_id") or "").strip() or None,
                    "split": split,
                    "reason": rejection.reason.value,
                    "detail": rejection.detail,
                }
            )
        progress.advance()
    crystals = result.crystals[n_before:]
    unknown = sum(crystal["band_gap"] is None for crystal in crystals)
    logger.info(
        "%s: %s crystals to use of %s rows%s%s",
        split,
        f"{len(crystals):,}",
        f"{len(rows):,}",
        f", {unknown:,} of them without a gap there" if unknown else "",
        f" (the paper has labels for {PAPER_NONMETALS[split]:,})"
        if len(rows) == MP20_ROWS.get(split) and split in PAPER_NONMETALS
        else "",
    )
    for reason, count in reasons.most_common():
        logger.info("%s: %s rows left out: %s", split, f"{count:,}", reason.value)


def parse_row(row: Mapping[str, Any], max_sites: int, metals: Metals = "source") -> dict[str, Any]:
    """A row of the CSV as a row of `tables.CRYSTALS`, without `split` and `source`.

    Raises:
        Rejection: with the first reason that applies.
    """
    material_id = (row.get("material_id") or "").strip()
    if not material_id:
        raise Rejection(Reason.NO_MATERIAL_ID)
    gap = _band_gap(row, metals)
    formation_energy, magnetization = (_number(row, name) for name in OPTIONAL_COLUMNS)
    spacegroup = _number(row, "spacegroup.number")
    if spacegroup is None or spacegroup != int(spacegroup) or not 1 <= spacegroup <= 230:
        raise Rejection(
            Reason.BAD_NUMBER,
            f"spacegroup.number is {row.get('spacegroup.number')!r}, not a whole number from 1 to 230",
        )
    structure = parse_cif(row.get("cif") or "", max_sites)
    _check_formula(structure, (row.get("pretty_formula") or "").strip())
    return {
        "material_id": material_id,
        "formula": structure.composition.reduced_formula,
        "n_sites": len(structure),
        **Cell.from_structure(structure).row,
        "spacegroup_number": int(spacegroup),
        "band_gap": gap,
        "formation_energy_per_atom": formation_energy,
        "tot_magnetization": magnetization,
    }


def _check_formula(structure: Structure, stated: str) -> None:
    """Check the crystal against the formula of its row, if it has one."""
    if not stated:
        return
    try:
        expected = Composition(stated)
    except Exception:  # pymatgen raises of many kinds.
        raise Rejection(Reason.NOT_AS_STATED, f"pretty_formula is {stated[:40]!r}, which is not a formula") from None
    if expected.reduced_composition != structure.composition.reduced_composition:
        raise Rejection(
            Reason.NOT_AS_STATED,
            f"pretty_formula is {stated[:40]}, the CIF holds {structure.composition.reduced_formula}",
        )


def _band_gap(row: Mapping[str, Any], metals: Metals) -> float | None:
    """The band gap in eV, None where the source has none."""
    gap = _number(row, "band_gap")
    if gap is not None and gap < 0:
        raise Rejection(Reason.BAD_NUMBER, f"band_gap is {gap:g}, below 0")
    if gap == 0 and metals == "source":
        raise Rejection(Reason.METAL)
    return gap


def _number(row: Mapping[str, Any], name: str) -> float | None:
    """A finite number, or None where the field is empty."""
    text = (row.get(name) or "").strip()
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise Rejection(Reason.BAD_NUMBER, f"{name} is {text[:40]!r}, not a number")
    return value


def parse_cif(cif: str, max_sites: int) -> Structure:
    """The Niggli-reduced cell of a CIF, its sites checked.

    Raises:
        Rejection: with the first reason that applies.
    """
    return reduce_cell(read_cif(cif), max_sites)


def reduce_cell(structure: Structure, max_sites: int) -> Structure:
    """The Niggli-reduced cell of a crystal, its sites, in their order, checked.

    Raises:
        Rejection: with the first reason that applies.
    """
    if len(structure) > max_sites:
        raise Rejection(Reason.TOO_MANY_SITES, f"{len(structure)} sites, at most {max_sites} are used")
    if not structure.is_ordered:
        shared = next(site for site in structure if not site.is_ordered)
        raise Rejection(Reason.DISORDERED, f"a site is occupied by {shared.species_string}")
    if outside := sorted({site.specie.symbol for site in structure} - set(ACTION)):
        raise Rejection(Reason.ELEMENT_OUTSIDE_88, ", ".join(outside))
    if not (
        np.isfinite(structure.lattice.matrix).all()
        and np.isfinite(structure.frac_coords).all()
        and structure.volume > 0
    ):
        raise Rejection(Reason.BAD_NUMBER, "the cell has no volume, or a coordinate is not a number")
    if (far := float(np.abs(structure.frac_coords).max())) > LARGEST_COORDINATE:
        raise Rejection(
            Reason.BAD_NUMBER, f"a fractional coordinate is {far:.3g}, so large that it has lost its digits"
        )
    if structure.volume > MAX_VOLUME_PER_ATOM * len(structure):
        raise Rejection(
            Reason.BAD_NUMBER,
            f"a cell of {structure.volume:.3g} Å³ holds {len(structure)} atoms: lengths must be in Å (1 Å = 100 pm = 0.1 nm)",
        )
    edge = max(structure.lattice.abc)
    if edge > MAX_EDGE or 4 / 3 * math.pi * edge**3 > MAX_LATTICE_POINTS * structure.volume:
        raise Rejection(Reason.NO_REDUCED_CELL, f"a cell of {structure.volume:.3g} Å³ with an edge of {edge:.3g} Å")
    try:
        reduced = structure.get_reduced_structure("niggli")
    except Exception as error:
        raise Rejection(Reason.NO_REDUCED_CELL, f"{type(error).__name__}: {error}"[:200]) from None
    # The vectors of a reduced cell are its shortest: a site overlaps its own image if and only if one of them is too short.
    if min(reduced.lattice.abc) < MIN_DISTANCE or not reduced.is_valid(MIN_DISTANCE):
        raise Rejection(Reason.OVERLAPPING_ATOMS, f"two atoms are nearer than {MIN_DISTANCE} Å")
    return reduced
