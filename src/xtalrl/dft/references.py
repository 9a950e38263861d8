"""Reference energies of the elements: assembled from SCFs, or imported from published ones."""

from __future__ import annotations

import csv
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.elements import ELEMENTS
from xtalrl.energies import RYDBERG_EV_PAPER, reference_rows
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

IMPORTED = "imported"
"""Outcome of a value that was not computed here."""

# Column of a user's file → ours. The second names are those of the published energies of the paper.
_COLUMNS = {
    "element": ("element", "symbol"),
    "energy_per_atom": ("energy_per_atom", "energy_per_atom_ev", "mu_eV_per_atom"),
    "energy_per_atom_ry": ("energy_per_atom_ry", "mu_Ry_per_atom"),
}


def assemble_references(outcomes: str, references: str) -> None:
    """Reference energies from the SCFs of the elements."""
    rows = reference_rows(tables.read_rows(outcomes, tables.SCF_OUTCOMES))
    tables.write_rows(rows, tables.REFERENCES, references)
    failed = [f"{row['element']} ({row['outcome']})" for row in rows if row["energy_per_atom_ry"] is None]
    logger.info("%d reference energies", len(rows) - len(failed))
    if failed:
        logger.info("Without a reference energy, and so every formation energy with them: %s", ", ".join(failed))


def import_references(energies: str, references: str) -> None:
    """Reference energies from a CSV with one row an element.

    Columns: `element` (or `symbol`); `energy_per_atom_ry` (Ry/atom; or `mu_Ry_per_atom`) or `energy_per_atom` (eV/atom; or
    `energy_per_atom_ev`, `mu_eV_per_atom`), converted with the Rydberg of eq. 15; optionally `protocol`, `protocol_hash` and
    `family`, which say what the energies may be compared with (see `xtalrl.dft.labels`).

    Raises:
        XtalrlError: a column is missing, an element is unknown or occurs twice, or an energy is not a number.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(read_csv(energies), start=2):
        where = f"{energies}, row {number}"
        element = pick(row, _COLUMNS["element"])
        if element is None or element not in ELEMENTS:
            raise XtalrlError(f"{where}: {element!r} is not one of the 88 elements ({', '.join(sorted(ELEMENTS))}).")
        energy_ry = number_in(row, _COLUMNS["energy_per_atom_ry"], where)
        energy_ev = number_in(row, _COLUMNS["energy_per_atom"], where)
        if energy_ry is None:
            if energy_ev is None:
                raise XtalrlError(
                    f"{where}: {element} has neither `energy_per_atom_ry` (Ry) nor `energy_per_atom` (eV)."
                )
            energy_ry = energy_ev / RYDBERG_EV_PAPER
        if element in rows:
            raise XtalrlError(f"{where}: {element} occurs twice; one row an element.")
        rows[element] = {
            "element": element,
            "form": IMPORTED,
            "n_sites": None,
            "energy_per_atom": energy_ry * RYDBERG_EV_PAPER,
            "energy_per_atom_ry": energy_ry,
            "outcome": IMPORTED,
            "source": Path(energies).name,
            "detail": "",
            **origin_in(row),
        }
    tables.write_rows([rows[element] for element in sorted(rows)], tables.REFERENCES, references)
    missing = ", ".join(sorted(set(ELEMENTS) - set(rows))) or "none"
    logger.info("%d reference energies from %s; missing: %s", len(rows), energies, missing)


def origin_in(row: Mapping[str, str]) -> dict[str, str | None]:
    """protocol, protocol_hash and family of a row of a user's CSV; None where it does not say."""
    return {name: (row.get(name) or "").strip() or None for name in ("protocol", "protocol_hash", "family")}


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Rows of a user's CSV file.

    Raises:
        XtalrlError: it cannot be read or has no rows.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise XtalrlError(f"{path} cannot be read as CSV ({error}).") from None
    if not rows:
        raise XtalrlError(f"{path} has no rows: the first line must name the columns, every further line is a row.")
    return rows


def pick(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these columns that is there and not empty."""
    return next((row[name].strip() for name in names if (row.get(name) or "").strip()), None)


def number_in(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> float | None:
    """The number in the first of these columns, None where all are missing or empty.

    Raises:
        XtalrlError: it is not a finite number.
    """
    text = pick(row, names)
    if text is None:
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise XtalrlError(f"{where}: {text!r} in the column {next(n for n in names if row.get(n))} is not a number.")
    return value
