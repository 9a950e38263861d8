"""`xtalrl relax`: do crystals stay what they are when a universal potential relaxes them, and how far above the hull are they by its energies?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.commands.predict import write_table
from xtalrl.errors import XtalrlError
from xtalrl.progress import Progress
from xtalrl.structures.external import in_words, read_designs
from xtalrl.structures.relaxation import KnownPhases, Potential, compare

MAX_SITES = 200


def relax_file(path: str | Path, known: str | Path | None = None) -> tuple[list[dict[str, Any]], list[str]]:
    """A row for each crystal, and a sentence for each entry left out.

    Args:
        path: CIF, folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db).
        known: `CRYSTALS` table of the phases of the hull; None leaves the hull out.

    Raises:
        XtalrlError: nothing there can be relaxed, the table cannot be read, or chgnet is not installed.
    """
    crystals = tables.read_rows(known, tables.CRYSTALS) if known else []
    potential = Potential()
    found, rejections = read_designs(path, MAX_SITES)
    problems = [in_words(row) for row in rejections]
    if not found:
        raise XtalrlError(f"No crystal in {path} can be relaxed. {problems[0]}")
    phases = KnownPhases(potential, crystals)
    progress = Progress("Relaxing", len(found), "crystals")
    rows = []
    for design in found:
        relaxed = potential.relax(design.reduced)
        row = {
            "material_id": design.id,
            "formula": design.reduced.composition.reduced_formula,
            "potential": potential.name,
            **compare(design.reduced, relaxed),
        }
        if known:
            row |= phases.above_hull(relaxed.structure, relaxed.energy_per_atom)
        rows.append(row)
        progress.advance()
    return rows, problems


def print_relaxed(path: Path, known: Path | None, output: Path | None) -> None:
    """Relax, write the table if a file is named, and print a line for each crystal.

    Raises:
        XtalrlError: see `relax_file`; the output exists or is not a CSV.
    """
    if output is not None and output.suffix != ".csv":
        raise XtalrlError(f"--output is {output}: the table is written as CSV, so its name must end in .csv.")
    if output is not None and output.exists():
        raise XtalrlError(f"{output} exists already: remove it, or name another file.")
    rows, problems = relax_file(path, known)
    print(f"{'crystal':<24}{'formula':<16}{'same crystal':<14}{'volume (%)':>11}{'above hull (eV/atom)':>22}")
    for row in rows:
        above = row.get("energy_above_hull")
        same = ("yes" if row["same_structure"] else "no") + ("" if row["converged"] else ", not relaxed")
        print(
            f"{row['material_id'][:23]:<24}{row['formula']:<16}{same:<14}{row['volume_change_pct']:>+11.1f}{'–' if above is None else f'{above:.3f}':>22}"
        )
    for problem in problems:
        print(f"left out: {problem}")
    print(f"By {rows[0]['potential']}: a model's word, no DFT.")
    if output is not None:
        write_table(output, rows, problems)
