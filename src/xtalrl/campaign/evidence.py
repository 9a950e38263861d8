"""What a campaign hands over: its hits as a ranked table with their crystals, and a record of evidence for every computed design.

A record is JSON that follows `resources/schemas/evidence.schema.json`. It says where the design comes from, what was predicted for it, and, for
every run of pw.x, the settings, the key in the cache and the input that reproduces the run.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pymatgen.io.cif import CifWriter

from xtalrl import tables
from xtalrl.campaign.nearest import KnownCrystals, first_alike
from xtalrl.campaign.screening import COMPUTED
from xtalrl.campaign.wishes import Wishes
from xtalrl.cells import Cell
from xtalrl.csv_files import write_csv
from xtalrl.dft.cache import Cache, Record
from xtalrl.dft.exchange import finished_scfs
from xtalrl.dft.inputs import Settings, render
from xtalrl.dft.pseudopotentials import Family, load_family
from xtalrl.files import write_text
from xtalrl.metrics.confirmation import VERDICTS
from xtalrl.progress import Progress

logger = logging.getLogger(__name__)

FORMAT = "xtalrl-evidence-1"
HIT_COLUMNS = (
    "rank", "formula", "skeleton", "skeleton_formula", "band_gap", "verdict", "confirmed_band_gap", "formation_energy_per_atom", "energy_above_hull",
    "hull_flag", "same_as_rank", "novel", "nearest_crystal", "nearest_formula", "composition_distance", "same_structure", "outcome", "round", "screening", "p_hit", "predicted_band_gap", "cpu_s", "request_id", "cif", "evidence",
)  # fmt: skip
"""Columns of hits.csv. Energies are in eV/atom, gaps in eV; `same_as_rank` is the first hit that is the same crystal, empty for that one; `composition_distance` is that of `xtalrl.campaign.nearest`; `cpu_s` is the wall time in s of all
single-core SCFs of the design, including the finer one."""

Row = Mapping[str, Any]


def hand_over(
    screenings: Sequence[str | Path],
    predictions: Sequence[str | Path],
    evaluation: str | Path,
    outcomes: str | Path,
    stability: str | Path,
    confirmation: str | Path,
    finer_outcomes: str | Path,
    skeletons: str | Path,
    crystals: str | Path,
    family: str | Path,
    hits: str | Path,
    designs: str | Path,
    wishes: Mapping[str, Any],
    cache: str | Path,
    finished: str | None = None,
) -> None:
    """Write hits.csv, and a folder that holds the evidence for every computed design and the CIF of every hit.

    Args:
        screenings, predictions: `SCREENING` and `PREDICTIONS` of each round.
        evaluation, outcomes, stability: `EVALUATION`, `SCF_OUTCOMES` and `STABILITY` of all rounds.
        confirmation, finer_outcomes: `CONFIRMATION` of the hits and the `SCF_OUTCOMES` behind it.
        skeletons: `CRYSTALS` of the campaign's skeletons.
        crystals: `CRYSTALS` of the run, in which the nearest known crystal is looked up.
        family: family.json of the pseudopotentials.
        hits: CSV to write.
        designs: folder to make.
        wishes: fields of `Wishes`.
        cache: folder of finished runs; an attempt that is no longer there has no settings and no input in its record.
        finished: what `dft.finished` names; its runs count as those of the cache.

    Raises:
        XtalrlError: a table cannot be read, or what `finished` names cannot be taken.
    """
    evaluated = _by_request(evaluation, tables.EVALUATION)
    scfs, finer = (_by_request(path, tables.SCF_OUTCOMES) for path in (outcomes, finer_outcomes))
    hull, verdicts = _by_request(stability, tables.STABILITY), _by_request(confirmation, tables.CONFIRMATION)
    cells = {row["material_id"]: row for row in tables.read_rows(skeletons, tables.CRYSTALS)}
    said = {row["material_id"]: row for path in predictions for row in tables.read_rows(path, tables.PREDICTIONS)}
    screened = [
        row for path in screenings for row in tables.read_rows(path, tables.SCREENING) if row["verdict"] in COMPUTED
    ]
    runs = _Runs(load_family(str(family))[0], Cache(cache, finished_scfs(finished) if finished else ()))
    folder = Path(designs)
    folder.mkdir(parents=True, exist_ok=True)
    goal = Wishes(**wishes)
    known = KnownCrystals(tables.read_rows(crystals, tables.CRYSTALS))
    found: list[tuple[dict[str, Any], Cell]] = []
    progress = Progress("Evidence", len(screened), "designs")
    for screening in screened:
        request_id = screening["request_id"]
        skeleton = cells[screening["material_id"]]
        cell = Cell.from_row({**skeleton, "species": screening["species"]})
        record = _record(
            screening, skeleton, cell, said[request_id], evaluated[request_id], hull.get(request_id), goal, known.nearest(cell),
            runs.described(cell, scfs[request_id]),
        )  # fmt: skip
        name = re.sub(r"[^A-Za-z0-9.+-]+", "_", request_id)
        verdict = verdicts.get(request_id)
        if verdict is not None:
            scf = runs.described(cell, finer[request_id])
            record["confirmation"] = {"verdict": verdict["verdict"], "difference": verdict["difference"], "scf": scf}
            write_text(folder / f"{name}.cif", _cif(cell, screening["formula"]))
            found.append((_hit(record, f"{folder.name}/{name}"), cell))
        text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)
        write_text(folder / f"{name}.json", f"{text}\n")
        progress.advance()
    found.sort(key=lambda hit: _order(hit[0]))
    rows = [row for row, _ in found]
    for rank, (row, first) in enumerate(zip(rows, first_alike([cell for _, cell in found]), strict=True), 1):
        row.update(rank=rank, same_as_rank=None if first is None else first + 1)
    write_csv(hits, HIT_COLUMNS, rows)
    different = sum(row["same_as_rank"] is None for row in rows)
    logger.info(
        "%s hits, %s different crystals, in %s; the evidence of %s designs in %s",
        f"{len(rows):,}", f"{different:,}", hits, f"{len(screened):,}", folder,
    )  # fmt: skip


def _by_request(path: str | Path, schema: Any) -> dict[str, Row]:
    return {row["request_id"]: row for row in tables.read_rows(path, schema)}


class _Runs:
    """Finished runs of pw.x, described in full."""

    def __init__(self, family: Family, cache: Cache) -> None:
        self.family, self.cache = family, cache

    def described(self, cell: Cell, outcome: Row) -> dict[str, Any]:
        """The SCF in a row of `SCF_OUTCOMES`, with all of its attempts."""
        names = (
            "outcome",
            "detail",
            "band_gap",
            "band_gap_raw",
            "total_energy",
            "protocol",
            "protocol_hash",
            "family",
            "engine",
            "key",
        )
        return {name: outcome[name] for name in names} | {
            "cpu_s": outcome["wall_s"],
            "attempts": [self._attempt(cell, attempt) for attempt in outcome["attempts"]],
        }

    def _attempt(self, cell: Cell, attempt: Row) -> dict[str, Any]:
        names = ("number", "strategy", "outcome", "detail", "exit_code", "wall_s", "key")
        run: Record | None = self.cache.find(attempt["key"], 0.0, accept_not_saved=True)
        told: dict[str, Any] = {"settings": None, "pseudopotential_md5s": None, "pw_input": None}
        if run is not None and run.settings is not None:
            settings: dict[str, Any] = {
                name: tuple(x) if isinstance(x, list) else x for name, x in run.settings.items()
            }
            told = {
                "settings": run.settings,
                "pseudopotential_md5s": run.pseudopotential_md5s,
                "pw_input": render(cell, Settings(**settings), self.family),
            }
        return {name: attempt[name] for name in names} | told


def _record(
    screening: Row,
    skeleton: Row,
    cell: Cell,
    prediction: Row,
    evaluated: Row,
    hull: Row | None,
    goal: Wishes,
    nearest: dict[str, Any] | None,
    scf: dict[str, Any],
) -> dict[str, Any]:
    above = hull["energy_above_hull"] if hull is not None else None
    return {
        "format": FORMAT,
        "xtalrl": importlib.metadata.version("xtalrl"),
        "request_id": screening["request_id"],
        "formula": screening["formula"],
        "crystal": cell.row,
        "skeleton": {name: skeleton[name] for name in ("material_id", "formula", "spacegroup_number", "source")},
        "policy": {"name": screening["policy"], "seed": screening["seed"], "sample": screening["sample"]},
        "screening": {name: screening[name] for name in ("round", "verdict", "rank", "p_hit")},
        "prediction": {name: value for name, value in prediction.items() if name != "material_id"},
        "wanted": {
            "gap_from": goal.gap_from,
            "gap_to": goal.gap_to,
            "novel": goal.novel,
            "highest_formation_energy": goal.highest_formation_energy,
            "highest_above_hull": goal.highest_above_hull,
        },
        "result": {
            "is_hit": goal.are_met(evaluated, above if hull is not None and not hull["flag"] else None),
            "band_gap": evaluated["band_gap"],
            "formation_energy_per_atom": evaluated["formation_energy_per_atom"],
            "energy_above_hull": above,
            "hull_flag": hull["flag"] if hull is not None else None,
            "decomposition": hull["decomposition"] if hull is not None else None,
            "novel": evaluated["novel"],
        },
        "nearest": nearest,
        "scf": scf,
        "confirmation": None,
    }


def _hit(record: Mapping[str, Any], path: str) -> dict[str, Any]:
    """A row of hits.csv; its rank is known when all hits are."""
    result, confirmation, screening = record["result"], record["confirmation"], record["screening"]
    nearest = record["nearest"] or {}
    return {
        "rank": None,
        "formula": record["formula"],
        "skeleton": record["skeleton"]["material_id"],
        "skeleton_formula": record["skeleton"]["formula"],
        "band_gap": result["band_gap"],
        "verdict": confirmation["verdict"],
        "confirmed_band_gap": confirmation["scf"]["band_gap"],
        "formation_energy_per_atom": result["formation_energy_per_atom"],
        "energy_above_hull": result["energy_above_hull"],
        "hull_flag": result["hull_flag"],
        "same_as_rank": None,
        "novel": result["novel"],
        "nearest_crystal": nearest.get("material_id"),
        "nearest_formula": nearest.get("formula"),
        "composition_distance": nearest.get("composition_distance"),
        "same_structure": nearest.get("same_structure"),
        "outcome": record["scf"]["outcome"],
        "round": screening["round"],
        "screening": screening["verdict"],
        "p_hit": screening["p_hit"],
        "predicted_band_gap": record["prediction"]["band_gap"],
        "cpu_s": record["scf"]["cpu_s"] + confirmation["scf"]["cpu_s"],
        "request_id": record["request_id"],
        "cif": f"{path}.cif",
        "evidence": f"{path}.json",
    }


def _order(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Sort key: confirmed hits first, then by energy above the hull (where it is known and has no flag), then by formation energy, lowest first."""
    above, energy = row["energy_above_hull"], row["formation_energy_per_atom"]
    is_known = above is not None and not row["hull_flag"]
    return (
        VERDICTS.index(row["verdict"]) if row["verdict"] != VERDICTS[1] else len(VERDICTS),
        above if is_known else np.inf,
        energy if energy is not None else np.inf,
        row["request_id"],
    )


def _cif(cell: Cell, formula: str) -> str:
    """A CIF without symmetry that lists every site."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (block,) = CifWriter(cell.to_structure(), significant_figures=10).cif_file.data.values()
    block.header = formula
    return f"{block}\n"
