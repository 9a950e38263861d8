"""Total magnetizations of known crystals, brought from the cell they were computed in to the cell at hand."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pymatgen.core.composition import Composition

from xtalrl.csv_files import read_csv
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

PER_FORMULA_UNIT = "total_magnetization_normalized_formula_units"
"""Column with µB per formula unit; the Materials Project's name."""
PER_CELL = "total_magnetization"
"""Column with µB per cell. If it is the only column, its values are those of the cell at hand; with `PER_FORMULA_UNIT` they are scaled."""


def read_magnetizations(path: str | Path) -> dict[str, dict[str, float | None]]:
    """The magnetizations of a table (CSV or Parquet), by material_id.

    Needed columns: `material_id`, and `total_magnetization_normalized_formula_units` or `total_magnetization` or both.
    A crystal that occurs twice must have the same numbers. Empty means unknown.

    Raises:
        XtalrlError: missing, unreadable, without a needed column, a value that is not a finite number, or two values for one crystal.
    """
    path = Path(path)
    try:
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            columns, rows = table.column_names, table.to_pylist()
        else:
            found = read_csv(path, setting="structures.magnetizations")
            columns, rows = list(found.columns), found.rows
    except FileNotFoundError:
        raise XtalrlError(
            f"The table of magnetizations {path} does not exist: correct `structures.magnetizations`, or set it to null."
        ) from None
    except (OSError, ValueError, MemoryError, pa.ArrowException) as error:
        raise XtalrlError(
            f"The table of magnetizations {path} cannot be read ({error}): it must be a CSV, or Parquet ending in .parquet."
        ) from None
    if "material_id" not in columns or not {PER_FORMULA_UNIT, PER_CELL} & set(columns):
        raise XtalrlError(
            f"{path} needs the columns `material_id` and `{PER_CELL}` (µB per cell) or `{PER_FORMULA_UNIT}` (µB per formula unit); "
            f"it has: {', '.join(columns) or 'nothing'}."
        )
    magnetizations: dict[str, dict[str, float | None]] = {}
    for number, row in enumerate(rows, start=2):  # as lines of a CSV
        material_id = str(row["material_id"] or "").strip()
        values = {
            name: _number(row.get(name), f"{path}, row {number}: {name}") for name in (PER_FORMULA_UNIT, PER_CELL)
        }
        if magnetizations.setdefault(material_id, values) != values:
            raise XtalrlError(
                f"{path}, row {number}: {material_id} has other values in an earlier row; keep one of them."
            )
    return magnetizations


def add_magnetizations(crystals: Sequence[dict[str, Any]], path: str | Path) -> None:
    """Set `tot_magnetization` of the rows of `tables.CRYSTALS` that have none, from a table (see `read_magnetizations`)."""
    known = read_magnetizations(path)
    for crystal in crystals:
        if crystal["tot_magnetization"] is None and (values := known.get(crystal["material_id"])):
            crystal["tot_magnetization"] = cell_magnetization(values, crystal["species"])
    n_known = sum(crystal["tot_magnetization"] is not None for crystal in crystals)
    logger.info("%s of %s crystals have a magnetization", f"{n_known:,}", f"{len(crystals):,}")


def cell_magnetization(values: Mapping[str, float | None], species: Sequence[str]) -> float | None:
    """Total magnetization in µB of a cell with these species, or None where it is not known.

    The value per formula unit is multiplied by the number of formula units as pymatgen counts them, with which the
    Materials Project divided (emmet-core, `MagnetismDoc.from_structure`): O8 is four O2, K2O2 one K2O2.
    """
    if (per_formula_unit := values[PER_FORMULA_UNIT]) is None:
        return values[PER_CELL]
    _, formula_units = Composition(dict(Counter(species))).get_reduced_composition_and_factor()
    return float(per_formula_unit * formula_units)


def _number(value: Any, where: str) -> float | None:
    if value is None or not str(value).strip():
        return None
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise XtalrlError(
            f"{where} is {str(value)[:40]!r}, which is not a number of µB; leave it empty where it is not known."
        )
    return number
