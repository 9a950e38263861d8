"""Reference energies of the elements: assembled from SCFs, or imported from published ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.csv_files import read_csv
from xtalrl.dft.protocols import load_protocol
from xtalrl.dft.pseudopotentials import Family, describe_family, load_family
from xtalrl.dft.recovery import REFERENCE_STRATEGIES
from xtalrl.elements import ELEMENTS
from xtalrl.energies import RYDBERG_EV_PAPER, ReferenceTable
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

IMPORTED = "imported"
"""Outcome of a value that was not computed here."""

CHECK_TOLERANCE_EV = 0.05
"""Largest difference in eV/atom. Textbook cells differ from relaxed ones by less; another mesh, cutoff or pseudopotential makes more."""

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
        logger.info("No reference energy, and so no formation energy of any crystal with: %s", ", ".join(failed))


def reference_rows(outcomes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of `tables.REFERENCES` from the rows of `tables.SCF_OUTCOMES` whose kind is reference, by element."""
    rows = []
    for outcome in outcomes:
        if outcome["kind"] != "reference":
            continue
        n_sites, energy = len(outcome["species"]), outcome["total_energy_ry"]
        rows.append(
            {
                "element": outcome["species"][0],
                "form": _form(outcome["attempts"]),
                "n_sites": n_sites,
                "source": outcome["source"],
                "energy_per_atom": None if energy is None else energy / n_sites * RYDBERG_EV_PAPER,
                "energy_per_atom_ry": None if energy is None else energy / n_sites,
                **{name: outcome[name] for name in ("outcome", "detail", "protocol", "protocol_hash", "family")},
            }
        )
    return sorted(rows, key=lambda row: row["element"])


def _form(attempts: Sequence[Mapping[str, Any]]) -> str:
    """The form of an element's reference. The first attempt shows it, because an atom starts from another rung than a crystal."""
    if not attempts:
        return "none"
    return "atom" if attempts[0]["strategy"] == REFERENCE_STRATEGIES["atom"] else "crystal"


def import_references(
    energies: str, references: str, family: str | None = None, outcomes: str | None = None, protocol: str | None = None
) -> None:
    """Reference energies from a CSV with one row per element.

    Columns: `element` (or `symbol`); `energy_per_atom_ry` (Ry/atom; or `mu_Ry_per_atom`) or `energy_per_atom` (eV/atom; or
    `energy_per_atom_ev`, `mu_eV_per_atom`), converted with the Rydberg of eq. 15; optionally `protocol`, `protocol_hash` and
    `family`, which say what the energies may be compared with (see `xtalrl.dft.labels`).

    Args:
        energies: the CSV.
        references: `REFERENCES` table to write.
        family: `family.json` of the pseudopotentials, where `protocol` is given.
        outcomes: `SCF_OUTCOMES` of the `xtalrl.energies.CHECKED_ELEMENTS`, where `protocol` is given.
        protocol: protocol of the energies, if the CSV does not name it (`references.protocol`).

    Raises:
        XtalrlError: a column is missing, an element is unknown or occurs twice, an energy is not a number, or the energies are
            not those of the stated protocol.
    """
    stated = origin_of(protocol, load_family(family)[0]) if protocol and family else {}
    rows = _read_energies(energies, stated)
    if stated:
        _refuse_other_protocol(rows, stated, energies)
    if outcomes:
        _compare(rows, reference_rows(tables.read_rows(outcomes, tables.SCF_OUTCOMES)), energies, protocol)
    tables.write_rows([rows[element] for element in sorted(rows)], tables.REFERENCES, references)
    missing = ", ".join(sorted(set(ELEMENTS) - set(rows))) or "none"
    logger.info("%d reference energies from %s; missing: %s", len(rows), energies, missing)


def check_energies_fit(energies: str, protocol: str, family: str, stated: bool = False) -> None:
    """Refuse imported reference energies that do not fit crystals and designs computed here, before anything is computed.

    Args:
        energies: the CSV of `import_references`.
        protocol: name of the protocol of what is computed here.
        family: name of its pseudopotential family.
        stated: whether `references.protocol` says that energies without a stated origin are of this protocol and family.

    Raises:
        XtalrlError: the CSV does not say that its energies are of this protocol and family, or cannot be read.
    """
    wanted = origin_of(protocol, describe_family(family))
    _refuse_other_protocol(_read_energies(energies, wanted if stated else {}), wanted, energies)


def origin_of(protocol: str, family: Family) -> dict[str, str | None]:
    """protocol, protocol_hash and family of energies computed with this protocol and family."""
    loaded = load_protocol(protocol)
    return {"protocol": loaded.name, "protocol_hash": loaded.digest(family), "family": family.name}


def _refuse_other_protocol(
    rows: Mapping[str, Mapping[str, Any]], wanted: Mapping[str, str | None], energies: str
) -> None:
    """Raise unless the energies are of the wanted origin."""
    origin = ReferenceTable(rows.values()).origin
    if origin == (wanted["protocol_hash"], wanted["family"], wanted["protocol"]):
        return
    digest, family, name = origin or (None, None, None)
    said = (
        f"name the protocol {name}, family {family}, hash {digest}"
        if any(origin or ())
        else "do not say with which protocol they were computed"
    )
    raise XtalrlError(
        f"The reference energies of {energies} {said}; this run computes with the protocol {wanted['protocol']}, family "
        f"{wanted['family']}, and energies of different protocols never mix. If the energies are of that protocol, say so with "
        f"`references.protocol: {wanted['protocol']}` (three elements are then computed to check it); if not, set "
        "`references.energies: null`, and the reference energies are computed."
    )


def _compare(
    rows: Mapping[str, Mapping[str, Any]], computed: Iterable[Mapping[str, Any]], energies: str, protocol: str | None
) -> None:
    """Raise if an imported energy differs from that of our own SCF; an SCF that failed is logged."""
    wrong = []
    for row in computed:
        element, ours = row["element"], row["energy_per_atom_ry"]
        if element not in rows:
            continue
        if ours is None:
            logger.warning("The energy of %s could not be checked: its SCF ended as %s", element, row["outcome"])
            continue
        difference = (rows[element]["energy_per_atom_ry"] - ours) * RYDBERG_EV_PAPER
        logger.info("%s: the imported energy is %+.4f eV/atom from our own", element, difference)
        if abs(difference) > CHECK_TOLERANCE_EV:
            wrong.append(f"{element} by {difference:+.3f}")
    if wrong:
        raise XtalrlError(
            f"The reference energies of {energies} are not those of `references.protocol: {protocol}`: they differ from SCFs of that "
            f"protocol ({', '.join(wrong)} eV/atom; at most {CHECK_TOLERANCE_EV:g} is allowed). Name the protocol they were computed "
            "with, or set `references.energies: null`, and the reference energies are computed."
        )


def _read_energies(energies: str, stated: Mapping[str, str | None]) -> dict[str, dict[str, Any]]:
    """Rows of `REFERENCES` by element; an origin that a row does not name is the stated one."""
    rows: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(read_table(energies, "references.energies"), start=2):
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
            raise XtalrlError(f"{where}: {element} occurs twice; keep one row per element.")
        rows[element] = {
            "element": element,
            "form": IMPORTED,
            "n_sites": None,
            "energy_per_atom": energy_ry * RYDBERG_EV_PAPER,
            "energy_per_atom_ry": energy_ry,
            "outcome": IMPORTED,
            "source": Path(energies).name,
            "detail": "",
            **origin_in(row, stated),
        }
    return rows


def origin_in(row: Mapping[str, str], stated: Mapping[str, str | None]) -> dict[str, str | None]:
    """protocol, protocol_hash and family of a row of a user's CSV; the stated ones, or None, if the row names none."""
    return {name: (row.get(name) or "").strip() or stated.get(name) for name in ("protocol", "protocol_hash", "family")}


def read_table(path: str | Path, setting: str) -> list[dict[str, str]]:
    """Rows of the CSV that a key of the configuration names.

    Raises:
        XtalrlError: it cannot be read (see `read_csv`) or has no rows.
    """
    rows = read_csv(path, setting=setting).rows
    if not rows:
        raise XtalrlError(f"{path} has no rows: the first line must name the columns, every further line is a row.")
    return rows


def pick(row: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The first of these columns that is there and not empty."""
    return next((row[name].strip() for name in names if (row.get(name) or "").strip()), None)


def number_in(row: Mapping[str, Any], names: tuple[str, ...], where: str) -> float | None:
    """The number in the first of these columns; None if all are missing or empty.

    Raises:
        XtalrlError: the value is not a finite number.
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
