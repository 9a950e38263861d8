"""The embedded textbook crystals, written in MP-20's columns so that one reader serves both."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from xtalrl.csv_files import read_csv, write_csv
from xtalrl.errors import XtalrlError
from xtalrl.structures.mp20 import COLUMNS
from xtalrl.structures.prototypes import build_crystal, parse_parameters

logger = logging.getLogger(__name__)

TABLE_COLUMNS = (
    "material_id",
    "formula",
    "prototype",
    "elements",
    "parameters",
    "spacegroup_number",
    "band_gap",
    "gap_kind",
    "source",
    "split",
)
"""Columns of `resources/demo/crystals.csv`. `elements` follow the prototype's sites; `band_gap` in eV is that of `gap_kind`
(experiment, PBE, or metal: 0), and only separates metals from nonmetals."""


def write_csvs(table: str | Path, outputs: Mapping[str, str | Path]) -> None:
    """Build the crystals of a table and write one CSV per split in MP-20's columns; unknown values are left empty.

    Args:
        table: CSV in `TABLE_COLUMNS`.
        outputs: path of the CSV of each split.

    Raises:
        XtalrlError: a column is missing, or a row cannot be built; the row is named.
    """
    rows: dict[str, list[dict[str, object]]] = {split: [] for split in outputs}
    n_metals: Counter[str] = Counter()
    for number, row in enumerate(read_csv(table, TABLE_COLUMNS).rows, start=2):
        if row["split"] not in rows:
            raise XtalrlError(f"{table}, row {number}: the split {row['split']!r} is not one of {', '.join(rows)}.")
        try:
            crystal = build_crystal(row["prototype"], row["elements"].split(), parse_parameters(row["parameters"]))
            n_metals[row["split"]] += float(row["band_gap"]) == 0
        except XtalrlError as error:
            raise XtalrlError(f"{table}, row {number} ({row['material_id']}): {error}") from None
        except ValueError:
            raise XtalrlError(f"{table}, row {number}: band_gap is {row['band_gap']!r}, not a number.") from None
        rows[row["split"]].append(
            {
                "": len(rows[row["split"]]),
                "material_id": row["material_id"],
                "band_gap": row["band_gap"],
                "pretty_formula": crystal.composition.reduced_formula,
                "elements": str(sorted(element.symbol for element in crystal.composition.elements)),
                "cif": crystal.to(fmt="cif"),
                "spacegroup.number": row["spacegroup_number"],
            }
        )
    for split, path in outputs.items():
        write_csv(path, COLUMNS, rows[split])
        logger.info("%s: %d crystals, %d of them metals", path, len(rows[split]), n_metals[split])
