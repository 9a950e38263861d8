"""`xtalrl predict`: whether the user's own crystals are metals, and their gaps and formation energies, by a trained predictor; no run, no DFT, seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from xtalrl import tables
from xtalrl.csv_files import write_csv
from xtalrl.errors import XtalrlError
from xtalrl.rl.graphs import MAX_SITES, CrystalGraphs
from xtalrl.rl.predictor import Predictor, prediction_rows
from xtalrl.rl.pretrained import pretrained_predictor
from xtalrl.structures.external_graphs import read_with_graphs


@dataclass(frozen=True)
class Wanted:
    """The gaps that are wanted, in eV: those above `gap_from` and below `gap_to`, both excluded; None is no bound."""

    gap_from: float | None = None
    gap_to: float | None = None

    @classmethod
    def of_options(
        cls, gap: float | None, window: float | None, gap_from: float | None, gap_to: float | None
    ) -> Wanted:
        """The wanted gaps, from the options of the command: a gap with the half width of its window (0.25 eV if none is given), or bounds.

        Raises:
            XtalrlError: the options contradict each other, or leave no gap.
        """
        if gap is None and window is not None:
            raise XtalrlError("--window is the half width around a wanted gap: name that gap with --gap.")
        if gap is not None and (gap_from is not None or gap_to is not None):
            raise XtalrlError(
                "--gap with --window, or --gap-from and --gap-to, say what is wanted: give one or the other."
            )
        if gap is not None and gap < 0:
            raise XtalrlError(f"--gap is {gap:g}: a gap is at least 0 eV.")
        if window is not None and window <= 0:
            raise XtalrlError(f"--window is {window:g}: the half width of a window is above 0 eV.")
        if gap is not None:
            half = 0.25 if window is None else window
            return cls(gap - half, gap + half)
        if gap_to is not None and gap_to <= max(gap_from or 0.0, 0.0):
            raise XtalrlError(f"No gap lies above {gap_from or 0:g} and below {gap_to:g} eV: raise --gap-to.")
        return cls(gap_from, gap_to)

    @property
    def is_any(self) -> bool:
        """Whether any gap is wanted."""
        return self.gap_from is None and self.gap_to is None


def predict_file(
    path: str | Path, wanted: Wanted, predictor: str | Path | None = None, confidence: float = 0.9
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `tables.PREDICTIONS` with formula and number of sites, the likeliest hits first, and a sentence for each entry left out.

    Args:
        path: CIF, folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db).
        wanted: gaps that are a hit.
        predictor: file of a trained predictor; None takes the one that ships with xtalrl.
        confidence: share of crystals whose value the intervals are to cover.

    Raises:
        XtalrlError: no entry can be predicted, or the predictor cannot be used.
    """
    loaded = Predictor.load(predictor or pretrained_predictor())
    crystals, graphs, problems = read_with_graphs(path, MAX_SITES)
    if not crystals:
        raise XtalrlError(f"No crystal in {path} can be predicted. {problems[0]}")
    table = CrystalGraphs(pa.Table.from_pylist(graphs, tables.GRAPHS))
    said = prediction_rows(
        loaded, table.material_ids, loaded.predict(table), gap_from=wanted.gap_from, gap_to=wanted.gap_to, confidence=confidence
    )  # fmt: skip
    rows = [
        {"material_id": crystal["material_id"], "formula": crystal["formula"], "n_sites": crystal["n_sites"], **row}
        for crystal, row in zip(crystals, said.to_pylist(), strict=True)
    ]
    if not wanted.is_any:
        rows.sort(key=lambda row: -row["p_hit"])
    return rows, problems


def print_predictions(
    path: Path, wanted: Wanted, predictor: Path | None, confidence: float, output: Path | None
) -> None:
    """Predict, write the table if a file is named, and print a line for each crystal.

    Raises:
        XtalrlError: as in `predict_file`; or the output exists or is not a CSV.
    """
    if output is not None and output.suffix != ".csv":
        raise XtalrlError(f"--output is {output}: predictions are written as CSV, so its name must end in .csv.")
    if output is not None and output.exists():
        raise XtalrlError(f"{output} exists already: remove it, or name another file.")
    rows, problems = predict_file(path, wanted, predictor, confidence)
    hit = "" if wanted.is_any else f"{'P(hit)':>8}"
    percent = f"{100 * confidence:g} %"
    print(
        f"{'crystal':<24}{'formula':<16}{hit}{'P(metal)':>10}{'gap (eV)':>10}  {percent:<14}{'E_form (eV/atom)':>17}  {percent}"
    )
    for row in rows:
        name = row["material_id"] if len(row["material_id"]) < 24 else f"{row['material_id'][:22]}…"
        hit = "" if wanted.is_any else f"{row['p_hit']:>8.2f}"
        gap = f"{row['band_gap_low']:.2f} to {row['band_gap_high']:.2f}"
        energy = f"{row['formation_energy_low']:.2f} to {row['formation_energy_high']:.2f}"
        print(
            f"{name:<24}{row['formula']:<16}{hit}{row['p_metal']:>10.2f}{row['band_gap']:>10.2f}  {gap:<14}"
            f"{row['formation_energy_per_atom']:>17.2f}  {energy}"
        )
    for problem in problems:
        print(f"left out: {problem}")
    if output is None:
        print("To keep the table with all its columns, add `--output predictions.csv`.")
        return
    write_table(output, rows, problems)
    print(f"A prediction is a guess: `xtalrl evaluate {path}` computes.")


def write_table(output: Path, rows: Sequence[Mapping[str, Any]], problems: Sequence[str]) -> None:
    """Write the row of each crystal as CSV, and one with a `problem` alone for each entry that is not a usable crystal; say what was written."""
    write_csv(output, [*rows[0], "problem"], [*rows, *({"problem": problem} for problem in problems)])
    left_out = f", and {len(problems)} left out, as rows with a `problem`" if problems else ""
    print(f"{len(rows)} {'crystal is' if len(rows) == 1 else 'crystals are'} in {output}{left_out}.")
