"""The labels that the authors of the paper released, as CSVs that `labels.path` and `references.energies` take.

    git clone https://github.com/chandar-lab/crystal-design
    git -C crystal-design show 5c26a13f:crystal_design/offline/nm_dict_val.pkl > nm_dict_val.pkl
    python tools/released_labels.py crystal-design/crystal_design/files nm_dict_val.pkl MP20 released

MP20 is a folder with MP-20's train and val CSV, as `snakemake structures` downloads them. Written are train.csv and val.csv, and
elemental_reference_energies.csv: the reference energies that the released formation energies imply by eq. 15.
"""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from xtalrl.csv_files import read_csv, write_csv
from xtalrl.energies import RYDBERG_EV_PAPER
from xtalrl.errors import XtalrlError
from xtalrl.metrics.formulas import parse_formula
from xtalrl.structures.mp20 import find_csvs

SOURCE = "doi:10.1039/d4dd00024b"


class _Numbers(pickle.Unpickler):
    """A reader of pickles that hold only numbers: no code of a file is run."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise XtalrlError(f"The file asks for {module}.{name}, and should hold only numbers: it is another file.")


def read_numbers(path: Path) -> dict[int, Any]:
    """The numbers in a pickle, by the number of the row in MP-20's CSV: (gap in eV, total energy in Ry), or the formation energy in eV/atom."""
    with path.open("rb") as file:
        return dict(_Numbers(file).load())


def convert(files: Path, validation: Path, mp20: Path, output: Path) -> None:
    """Write the three CSVs.

    Args:
        files: folder with TE_bg_dict_nm.pkl and FE_dict_nm.pkl.
        validation: nm_dict_val.pkl.
        mp20: folder with train and val as .csv or .csv.gz.
        output: folder to write.
    """
    csvs = find_csvs(mp20)
    rows = {split: read_csv(csvs[split], ("material_id", "cif")).rows for split in ("train", "val")}
    formation = read_numbers(files / "FE_dict_nm.pkl")
    labels = {"train": read_numbers(files / "TE_bg_dict_nm.pkl"), "val": read_numbers(validation)}
    for split, results in labels.items():
        table = [
            {
                "material_id": rows[split][n]["material_id"],
                "band_gap": repr(gap),
                "total_energy_ry": repr(energy),
                "formation_energy_per_atom": repr(formation[n]) if split == "train" else None,
                "source": SOURCE,
            }
            for n, (gap, energy) in sorted(results.items())
        ]
        write_csv(output / f"{split}.csv", list(table[0]), table)
    cells = {n: _cell(rows["train"][n]["cif"]) for n in formation}
    energies = _references(cells, {n: energy for n, (_, energy) in labels["train"].items()}, formation)
    references = [{"element": element, "energy_per_atom_ry": repr(energy)} for element, energy in energies.items()]
    write_csv(output / "elemental_reference_energies.csv", list(references[0]), references)


def _cell(cif: str) -> dict[str, int]:
    """Number of atoms of each element in the cell of a CIF."""
    found = re.search(r"^_chemical_formula_sum\s+(.+)$", cif, re.MULTILINE)
    if found is None:
        raise XtalrlError("A CIF of MP-20 has no _chemical_formula_sum: MP20 is another data set.")
    return parse_formula(re.sub(r"['\"\s]", "", found[1]))


def _references(
    cells: Mapping[int, Mapping[str, int]], energies: Mapping[int, float], formation: Mapping[int, float]
) -> dict[str, float]:
    """Energy per atom (Ry) of each element, such that E_form = (E_tot - sum of the references) / atoms, by least squares."""
    elements = sorted({element for cell in cells.values() for element in cell})
    counts = np.array([[cell.get(element, 0) for element in elements] for cell in cells.values()], dtype=float)
    sums = [energies[n] - formation[n] * sum(cell.values()) / RYDBERG_EV_PAPER for n, cell in cells.items()]
    solution, _, rank, _ = np.linalg.lstsq(counts, np.array(sums), rcond=None)
    if rank < len(elements):
        raise XtalrlError(f"{len(cells)} crystals do not determine the references of {len(elements)} elements.")
    return dict(zip(elements, solution.tolist(), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("files", "validation", "mp20", "output"):
        parser.add_argument(name, type=Path)
    arguments = parser.parse_args()
    try:
        convert(**vars(arguments))
    except (XtalrlError, OSError) as error:
        raise SystemExit(f"ERROR: {error}") from None
    print(f"Wrote train.csv, val.csv and elemental_reference_energies.csv into {arguments.output}")


if __name__ == "__main__":
    main()
