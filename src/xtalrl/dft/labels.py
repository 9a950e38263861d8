"""Labels: gap and formation energy of every crystal, from SCFs or from published tables."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xtalrl.dft.levels import clip_gap
from xtalrl.dft.outcomes import Outcome
from xtalrl.dft.pseudopotentials import load_family
from xtalrl.dft.references import IMPORTED, number_in, origin_in, origin_of, pick, read_table
from xtalrl.energies import MISSING_REFERENCE, RYDBERG_EV_PAPER, ReferenceTable
from xtalrl.errors import XtalrlError
from xtalrl.tables import (
    CRYSTALS,
    FORMATION_ENERGY_RANGE_EV,
    GAP_RANGE_EV,
    LABELS,
    METALS,
    REFERENCES,
    SCF_OUTCOMES,
    read_rows,
    write_rows,
)

logger = logging.getLogger(__name__)

NO_GAP = "no_gap"
"""Outcome of a crystal whose energy is known but not its gap: no empty band was computed."""
NOT_IN_TABLE = "not_in_table"
"""Outcome of a crystal that the imported tables do not hold."""
IMPLAUSIBLE = "implausible"
"""Outcome of a crystal whose gap or formation energy is out of all bounds (`tables.GAP_RANGE_EV`, `tables.FORMATION_ENERGY_RANGE_EV`): it has no
label, and `detail` tells the value."""
IN_SOURCE = "in_source"
"""Outcome of a crystal whose gap and formation energy are those of the source of the structures."""
UNFINISHED = "unfinished"
"""Source of a label whose SCF was ended by the machine: neither a gap nor a failure that anything could be learned from."""

# Column of a user's file → ours. The second names are those of the published labels of the paper.
_GAP = ("band_gap", "band_gap_ev", "qe_band_gap_eV")
_TOTAL_ENERGY_RY = ("total_energy_ry", "qe_total_energy_Ry")
_TOTAL_ENERGY_EV = ("total_energy",)
_TOTAL_ENERGY = _TOTAL_ENERGY_RY + _TOTAL_ENERGY_EV
_FORMATION_ENERGY = ("formation_energy_per_atom", "qe_formation_energy_eV_atom")

_BOUNDS = {
    "band_gap_raw": ("band gap", "eV", GAP_RANGE_EV),
    "formation_energy_per_atom": ("formation energy", "eV/atom", FORMATION_ENERGY_RANGE_EV),
}


def label_crystals(crystals: str, outcomes: str, references: str, labels: str) -> None:
    """Write the gap of every crystal and its formation energy by eq. 15; null if its SCF gave none.

    Raises:
        XtalrlError: crystals and references were computed with different protocols, or a crystal has no outcome.
    """
    ended = {row["request_id"]: row for row in read_rows(outcomes, SCF_OUTCOMES)}
    energies = ReferenceTable(read_rows(references, REFERENCES))
    rows = []
    for crystal in read_rows(crystals, CRYSTALS):
        if crystal["split"] == METALS:
            rows.append(_label_of_source(crystal))
            continue
        scf = ended.get(crystal["material_id"])
        if scf is None:
            raise XtalrlError(
                f"{outcomes} has no row for {crystal['material_id']} of {crystals}: it is older than the structures; run `snakemake scf`."
            )
        source = "scf" if Outcome(scf["outcome"]).is_kept else UNFINISHED
        rows.append(_label(crystal, scf, energies, source))
    _write(rows, labels)


def take_source_labels(crystals: str, labels: str) -> None:
    """Labels as the source of the structures has them: the Materials Project's gaps and formation energies, for MP-20."""
    _write([_label_of_source(crystal) for crystal in read_rows(crystals, CRYSTALS)], labels)


def _label_of_source(crystal: dict[str, Any]) -> dict[str, Any]:
    outcome = NO_GAP if crystal["band_gap"] is None else IN_SOURCE
    # A protocol of its own, so that these energies never meet those of an SCF (in a hull, say).
    return _unlabelled(crystal, outcome, "", "structures") | {
        "protocol": "source",
        "protocol_hash": "source",
        "band_gap_raw": crystal["band_gap"],
        "band_gap": crystal["band_gap"],
        "formation_energy_per_atom": crystal["formation_energy_per_atom"],
    }


def import_labels(
    crystals: str,
    tables: str,
    labels: str,
    references: str | None = None,
    family: str | None = None,
    protocol: str | None = None,
) -> None:
    """Labels from a CSV, or from every CSV of a folder, joined on `material_id`.

    Columns: `material_id`; `band_gap` (eV; or `band_gap_ev`, `qe_band_gap_eV`); `total_energy_ry` (Ry, of the cell; or
    `qe_total_energy_Ry`) or `total_energy` (eV, of the cell); `formation_energy_per_atom` (eV/atom; or
    `qe_formation_energy_eV_atom`); optionally `protocol`, `protocol_hash`, `family` and `source`. A file needs material_id and one
    of the first three quantities. Where the formation energy is empty, the total
    energy is known and `references` are given, it is computed by eq. 15; both must then come from the same protocol and family.
    `protocol` (`references.protocol`) and `family` (a `family.json`) apply to rows that do not name their own.

    Raises:
        XtalrlError: a file is unreadable or lacks the columns, a value is not a number or out of all bounds, two rows contradict each other, no row
            belongs to a crystal, or the protocols differ.
    """
    found = _read_tables(tables, origin_of(protocol, load_family(family)[0]) if protocol and family else {})
    energies = ReferenceTable(read_rows(references, REFERENCES) if references else [])
    if references and energies.origin == (None, None, None):
        logger.info("The reference energies name no protocol: they are taken to be of the protocol of the labels")
    rows = []
    for crystal in read_rows(crystals, CRYSTALS):
        entry = found.get(crystal["material_id"])
        if crystal["split"] == METALS:
            rows.append(_label_of_source(crystal))
        elif entry is None:
            rows.append(_unlabelled(crystal, NOT_IN_TABLE, "the imported tables do not hold it", "imported"))
        else:
            rows.append(_label(crystal, entry, energies, entry["source"]))
    if all(row["outcome"] in (NOT_IN_TABLE, IN_SOURCE) for row in rows):
        raise XtalrlError(
            f"No material_id of {tables} is among the {len(rows):,} crystals: check `labels.path` and its column material_id."
        )
    _write(rows, labels)


def check_tables(path: str) -> None:
    """Refuse published labels that cannot be read, before anything is computed.

    Raises:
        XtalrlError: as in `import_labels`, except for errors that only the crystals and the reference energies can show.
    """
    _read_tables(path, {})


def _label(crystal: dict[str, Any], entry: dict[str, Any], energies: ReferenceTable, source: str) -> dict[str, Any]:
    """A row of LABELS: the gap and energies of an entry, and what can be derived from them."""
    row = _unlabelled(crystal, entry["outcome"], entry["detail"], source) | {
        name: entry[name]
        for name in ("band_gap_raw", "band_gap", "total_energy_ry", "protocol", "protocol_hash", "family")
    }
    formation = entry.get("formation_energy_per_atom")
    if formation is None and entry["total_energy_ry"] is not None:
        formation, missing = energies.formation_energy(entry | {"species": crystal["species"]})
        if missing:
            row |= {"outcome": MISSING_REFERENCE, "detail": missing}
    row["formation_energy_per_atom"] = formation
    if entry["total_energy_ry"] is not None and entry["band_gap"] is None:
        row["outcome"] = NO_GAP
    return row


def _unlabelled(crystal: dict[str, Any], outcome: str, detail: str, source: str) -> dict[str, Any]:
    return {
        "material_id": crystal["material_id"],
        "split": crystal["split"],
        "outcome": outcome,
        "detail": detail,
        "source": source,
    }


def _read_tables(path: str, stated: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Entries by material_id, in the form of SCF outcomes with a formation energy and a source."""
    if not Path(path).exists():
        raise XtalrlError(
            f"`labels.path` is {path!r}, which does not exist: name a CSV or a folder of CSVs, or set it to null."
        )
    files = sorted(Path(path).glob("*.csv")) if Path(path).is_dir() else [Path(path)]
    entries: dict[str, dict[str, Any]] = {}
    read = 0
    for file in files:
        rows = read_table(file, "labels.path")
        columns = set(rows[0])
        if "material_id" not in columns or not columns.intersection(_GAP + _TOTAL_ENERGY + _FORMATION_ENERGY):
            if len(files) > 1:
                logger.info("%s holds no labels (columns: %s): skipped", file.name, ", ".join(sorted(columns)))
                continue
            raise XtalrlError(
                f"{file} must have the column `material_id` and one of {', '.join(_GAP + _TOTAL_ENERGY + _FORMATION_ENERGY)}; "
                f"it has: {', '.join(sorted(columns))}."
            )
        read += 1
        for number, row in enumerate(rows, start=2):
            where = f"{file}, row {number}"
            material_id = pick(row, ("material_id",))
            if material_id is None:
                raise XtalrlError(f"{where}: the material_id is empty.")
            gap = number_in(row, _GAP, where)
            entry = {
                "outcome": IMPORTED,
                "detail": "",
                "band_gap_raw": gap,
                "band_gap": clip_gap(gap),
                "total_energy_ry": _total_energy_ry(row, where),
                "formation_energy_per_atom": number_in(row, _FORMATION_ENERGY, where),
                "source": pick(row, ("source",)) or file.name,
                **origin_in(row, stated),
            }
            if absurd := _out_of_bounds(entry):
                raise XtalrlError(f"{where}: {material_id} has {absurd}: correct or remove that row; check the unit.")
            earlier = entries.setdefault(material_id, entry)
            if {k: v for k, v in earlier.items() if k != "source"} != {k: v for k, v in entry.items() if k != "source"}:
                raise XtalrlError(
                    f"{where}: {material_id} has other values than in {earlier['source']}: keep one of the two rows."
                )
    if not read:
        raise XtalrlError(f"The folder {path} holds no CSV with labels (material_id and a gap or an energy).")
    return entries


def _total_energy_ry(row: dict[str, Any], where: str) -> float | None:
    energy_ry = number_in(row, _TOTAL_ENERGY_RY, where)
    energy_ev = number_in(row, _TOTAL_ENERGY_EV, where)
    return energy_ev / RYDBERG_EV_PAPER if energy_ry is None and energy_ev is not None else energy_ry


def _out_of_bounds(row: Mapping[str, Any]) -> str | None:
    """A clause on a gap or formation energy that cannot be true; None if both can be."""
    for name, (what, unit, (low, high)) in _BOUNDS.items():
        value = row.get(name)
        if value is not None and not low <= value <= high:
            return f"a {what} of {value:g} {unit}, outside {low:g} to {high:g}"
    return None


def _plausible(row: dict[str, Any]) -> dict[str, Any]:
    """A row of LABELS; values that cannot be true are removed."""
    absurd = _out_of_bounds(row)
    if absurd is None:
        return row
    logger.warning("%s has no label: its SCF or its references give %s", row["material_id"], absurd)
    without = dict.fromkeys(("band_gap", "band_gap_raw", "total_energy_ry", "formation_energy_per_atom"))
    return row | without | {"outcome": IMPLAUSIBLE, "detail": absurd}


def _write(rows: list[dict[str, Any]], labels: str) -> None:
    rows = [_plausible(row) for row in rows]
    write_rows(rows, LABELS, labels)
    complete = sum(row.get("band_gap") is not None and row.get("formation_energy_per_atom") is not None for row in rows)
    counts = ", ".join(f"{n:,} {name}" for name, n in Counter(row["outcome"] for row in rows).most_common())
    logger.info("%s of %s crystals have a gap and a formation energy (%s)", f"{complete:,}", f"{len(rows):,}", counts)
