"""The MP-20 data set: its source, and its files in CDVAE's columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xtalrl.errors import XtalrlError
from xtalrl.fetch.downloads import fetch

SPLITS = ("train", "val", "test")

COLUMNS = (
    "",
    "material_id",
    "formation_energy_per_atom",
    "band_gap",
    "pretty_formula",
    "e_above_hull",
    "elements",
    "cif",
    "spacegroup.number",
)
"""Columns of a CSV in CDVAE's layout; the first, unnamed, is a row number."""


def find_csvs(folder: str | Path) -> dict[str, str]:
    """The train, val and test CSV (`.csv` or `.csv.gz`) in a folder, by split.

    Raises:
        XtalrlError: there is no such folder, or a split is missing or there twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise XtalrlError(
            f"`structures.path` is {str(folder)!r}, which is not a folder: it must hold train, val and test as .csv or .csv.gz."
        )
    found = sorted(path.name for path in folder.iterdir() if path.name.endswith((".csv", ".csv.gz")))
    csvs = {}
    for split in SPLITS:
        names = [name for name in found if name in (f"{split}.csv", f"{split}.csv.gz")]
        if len(names) != 1:
            problem = (
                f"both {names[0]} and {names[1]}: remove one" if names else f"neither {split}.csv nor {split}.csv.gz"
            )
            raise XtalrlError(
                f"{folder} (`structures.path`) has {problem}. CSV files there: {', '.join(found) or 'none'}."
            )
        csvs[split] = str(folder / names[0])
    return csvs


def fetch_csvs(outputs: Mapping[str, str | Path]) -> None:
    """Download the CSV of each split (`mp20/*.csv` of `resources/downloads.yaml`).

    Raises:
        XtalrlError: as in `xtalrl.fetch.downloads.download`, with what to do without a network.
    """
    for split, path in outputs.items():
        try:
            fetch(f"mp20/{split}.csv", path)
        except XtalrlError as error:
            raise XtalrlError(
                f"{error} Without a network: put train.csv, val.csv and test.csv into a folder and name it in `structures.path`."
            ) from None
