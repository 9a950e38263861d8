"""How far released gaps lie from the Materials Project's, and what that does to ν: docs/results/gaps.{csv,md}.

    python benchmarks/gaps.py MP20 LABELS [--compute FOLDER --sssp ARCHIVE [--minutes M]]

MP20 is a folder with `train` and `val` as .csv.gz, LABELS one with the released `train.csv` and `val.csv`. Only aggregates of the released
labels are written: no licence is stated for them. With `--compute`, small validation crystals with both gaps are first computed as hits
are confirmed (SSSP's recommended cutoffs, a mesh of 6x6x6) in a random order, for so many minutes: docs/results/gaps_own.csv keeps the
values, those in it are not computed again, and FOLDER holds what pw.x needs.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import random
import resource
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from xtalrl import tables
from xtalrl.config import EvaluationConfig, PoliciesConfig
from xtalrl.dft.protocols import CONFIRMING
from xtalrl.dft.pseudopotentials import fetch_family
from xtalrl.dft.requests import plan_crystal_scf
from xtalrl.dft.shards import run_shard
from xtalrl.metrics.properties import in_window
from xtalrl.structures.crystals import Rejection, parse_row

RESULTS = Path(__file__).parents[1] / "docs/results"
OWN = RESULTS / "gaps_own.csv"
FAMILY, PROTOCOL = "sssp-1.3.0-efficiency", CONFIRMING + "paper-fast"
LARGEST = {"sites": 4, "volume": 80.0}
"""Sites and Å³ of the crystals that are computed here."""


def compare(split: str, source: Path, labels: Path) -> list[dict[str, object]]:
    """Aggregates of the crystals of a split that have both gaps (eV, negative released gaps as 0), one row per quantity."""
    theirs = pd.read_csv(source / f"{split}.csv.gz").set_index("material_id")["band_gap"].dropna()
    released = pd.read_csv(labels / f"{split}.csv").set_index("material_id")["qe_band_gap_eV"].dropna().clip(lower=0)
    both = pd.concat({"released": released, "source": theirs}, axis=1, join="inner")
    difference = both["released"] - both["source"]
    window = EvaluationConfig().window_ev
    n = len(both)
    values = {
        "mean difference (eV)": difference.mean(),
        "median difference (eV)": difference.median(),
        "mean absolute difference (eV)": difference.abs().mean(),
        f"differ by more than {window:g} eV (%)": 100 * (difference.abs() > window).mean(),
        "differ by more than 1 eV (%)": 100 * (difference.abs() > 1).mean(),
        "released gap is 0, the Materials Project's is not (%)": 100
        * ((both["released"] == 0) & (both["source"] > 0)).mean(),
    }
    for target in PoliciesConfig().targets_ev:
        ours, other = (in_window(both[name].to_numpy(), target, window) for name in ("released", "source"))
        values |= {
            f"in the range of {target:g} eV by the released gap (%)": 100 * ours.mean(),
            f"in the range of {target:g} eV by the Materials Project's (%)": 100 * other.mean(),
            f"of those in the range of {target:g} eV by the released gap, also by the Materials Project's (%)": 100
            * np.logical_and(ours, other).sum()
            / ours.sum(),
        }
    return [
        {"split": split, "n": n, "quantity": name, "value": round(float(value), 3)} for name, value in values.items()
    ]


def small_crystals(source: Path, labels: Path) -> list[dict[str, Any]]:
    """Validation crystals with both gaps that are small enough, in a random order that is always the same."""
    released = pd.read_csv(labels / "val.csv").set_index("material_id")["qe_band_gap_eV"].dropna()
    crystals = []
    with gzip.open(source / "val.csv.gz", "rt") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for row in csv.DictReader(file):
            if row["material_id"] in released.index and row["band_gap"]:
                try:
                    crystal = parse_row(row, LARGEST["sites"])
                except Rejection:
                    continue
                if abs(np.linalg.det(np.reshape(crystal["lattice"], (3, 3)))) <= LARGEST["volume"]:
                    crystals.append(crystal | {"split": "val", "source": "mp20", "tot_magnetization": None})
    crystals.sort(key=lambda crystal: crystal["material_id"])
    random.Random(0).shuffle(crystals)
    return crystals


def compute(crystals: list[dict[str, Any]], folder: Path, archive: str, minutes: float) -> None:
    """Compute crystals that are not kept yet until the time is over."""
    end = time.time() + 60 * minutes
    folder.mkdir(parents=True, exist_ok=True)
    own = pd.read_csv(OWN)
    family = str(fetch_family(FAMILY, archive, str(folder / "cache")))
    limits = {kind: [20.0] for kind in ("crystal", "reference", "design")}
    for crystal in crystals:
        if crystal["material_id"] in set(own["material_id"]) or time.time() > end:
            continue
        names = [str(folder / f"{name}.parquet") for name in ("crystals", "requests", "outcomes")]
        tables.write_rows([crystal], tables.CRYSTALS, names[0])
        plan_crystal_scf(names[0], family, names[1], PROTOCOL, 1)
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        run_shard(names[1], family, 0, names[2], 1, PROTOCOL, "extended", limits, None, str(folder / "cache"))
        [outcome] = tables.read_rows(names[2], tables.SCF_OUTCOMES)
        cpu_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        own.loc[len(own)] = {
            **{name: crystal[name] for name in ("material_id", "formula")},
            **{name: outcome[name] for name in ("outcome", "engine")},
            "own_ev": outcome["band_gap"],
            "materials_project_ev": crystal["band_gap"],
            "cpu_s": cpu_s,
        }
        own.round(3).to_csv(OWN, index=False, lineterminator="\n")


def own_values(source: Path, labels: Path) -> list[str]:
    """Lines on the crystals computed here beside both gaps."""
    n_all = len(small_crystals(source, labels))
    own = pd.read_csv(OWN, index_col="material_id")
    released = pd.read_csv(labels / "val.csv").set_index("material_id")["qe_band_gap_eV"].clip(lower=0)
    own["released"] = released.reindex(own.index)
    known = own.dropna(subset=["own_ev"])
    timed = own["cpu_s"].dropna()
    window = EvaluationConfig().window_ev
    lines = [
        f"## {len(known)} small crystals, computed here",
        "",
        f"{len(own)} of the {n_all} validation crystals with both gaps, at most {LARGEST['sites']} sites and {LARGEST['volume']:g} Å³, in a random order, by "
        f"{' and '.join(known['engine'].unique())} as `snakemake confirm` computes hits: SSSP's recommended cutoffs, 6x6x6 k points, `recovery: extended`, no U. "
        f"{len(own) - len(known)} ended without a gap. {timed.mean():.0f} s of CPU each for the {len(timed)} whose time was kept. "
        "Crystals that were running when the computation was stopped are left out.",
        "",
        "| | released | own | Materials Project |",
        "|---|---:|---:|---:|",
        "| mean gap (eV) | "
        + " | ".join(f"{known[n].mean():.3f}" for n in ("released", "own_ev", "materials_project_ev"))
        + " |",
    ]
    for name, label in (("released", "The released gaps"), ("materials_project_ev", "The Materials Project's gaps")):
        difference = (known[name] - known["own_ev"]).abs()
        n_far = int((difference > window).sum())
        lines += [
            "",
            f"{label} differ from those computed here by {difference.mean():.3f} eV in the mean, {difference.median():.3f} eV in the median, and by "
            f"more than {window:g} eV for {n_far} of {len(known)}.",
        ]
    lines += [
        "",
        "| target (eV) | hits by the released gap | of these by the own gap | hits by the own gap |",
        "|---|---:|---:|---:|",
    ]
    for target in PoliciesConfig().targets_ev:
        theirs, ours = (in_window(known[name].to_numpy(), target, window) for name in ("released", "own_ev"))
        lines.append(f"| {target:g} | {theirs.sum()} | {np.logical_and(theirs, ours).sum()} | {ours.sum()} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder of MP-20")
    parser.add_argument("labels", type=Path, help="folder of the released labels")
    parser.add_argument(
        "--compute", type=Path, metavar="FOLDER", help="compute more small crystals; what pw.x needs is kept here"
    )
    parser.add_argument("--sssp", help="archive of the SSSP 1.3.0 efficiency pseudopotentials, for --compute")
    parser.add_argument("--minutes", type=float, default=60.0, help="start no further SCF after this long")
    options = parser.parse_args()
    if options.compute and not options.sssp:
        parser.error("--compute needs --sssp")
    if options.compute:
        compute(small_crystals(options.source, options.labels), options.compute, options.sssp, options.minutes)
    rows = [row for split in ("train", "val") for row in compare(split, options.source, options.labels)]
    with open(RESULTS / "gaps.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    counts = {row["split"]: row["n"] for row in rows}
    table = pd.DataFrame(rows).pivot_table("value", "quantity", "split", sort=False)
    lines = [
        "# Released gaps against the Materials Project's",
        "",
        "Made by `python benchmarks/gaps.py MP20 LABELS`. Crystals of MP-20 that have both gaps; negative released gaps count as 0. The cells are the",
        "same, nothing is relaxed; the Materials Project's values are PBE too, some with +U, on denser meshes. In the range: |gap - target| below the",
        "half width of ν. The last share of each target says how many hits by one gap are hits by the other: what ν can mean where a gap is not checked",
        "(`snakemake confirm`). In the copy of MP-20 used here, some training gaps are of",
        "another release of the Materials Project, those of the validation crystals are not. Only aggregates are given, since no licence is stated for the released labels.",
        "",
        f"| | train, {counts['train']:,} crystals | val, {counts['val']:,} crystals |",
        "|---|---:|---:|",
        *(f"| {name} | {row['train']:.3f} | {row['val']:.3f} |" for name, row in table.iterrows()),
        "",
        *own_values(options.source, options.labels),
        "",
    ]
    (RESULTS / "gaps.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
