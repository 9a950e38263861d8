"""The skeletons of a campaign: crystals of a split, or the user's own, with their graphs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.structures.external_graphs import read_with_graphs

logger = logging.getLogger(__name__)

OWN = "own"
"""Prefix of the material_id of the user's own skeletons: `own/my_crystal`. No crystal of a data set has it."""


def read_skeletons(
    path: str | Path, max_sites: int, prefix: str = ""
) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[str]]:
    """Read crystals that can serve as skeletons.

    Args:
        path: CIF, folder or .zip of CIFs, POSCAR, .xyz or .extxyz file, or ASE database (.db).
        max_sites: largest number of sites in a cell; a larger one is reduced to its primitive cell first.
        prefix: prefix of every material_id.

    Returns:
        Rows of `CRYSTALS`, rows of `GRAPHS` of the same crystals, and a sentence for each entry that cannot be a skeleton.

    Raises:
        XtalrlError: the path does not exist or is of an unknown kind, or nothing there can be a skeleton.
    """
    crystals, graphs, problems = read_with_graphs(path, max_sites, prefix)
    if not crystals:
        raise XtalrlError(f"No crystal in {path} can be a skeleton. {problems[0]}")
    return crystals, graphs, problems


def take_skeletons(
    wanted: str,
    max_sites: int,
    limit: int | None,
    seed: int,
    skeletons: str | Path,
    skeleton_graphs: str | Path,
    crystals: str | Path | None = None,
    graphs: str | Path | None = None,
) -> None:
    """Write the skeletons of a campaign as a `CRYSTALS` and a `GRAPHS` table.

    Args:
        wanted: a split of the crystals, or a path as `read_skeletons` takes it.
        max_sites: largest number of sites of a skeleton.
        limit: maximum number of skeletons, drawn by lot; None takes all.
        seed: seed of that draw.
        skeletons, skeleton_graphs: tables to write.
        crystals, graphs: `CRYSTALS` and `GRAPHS` of the run, for a split.

    Raises:
        XtalrlError: a file cannot be read, or there is no skeleton.
    """
    if crystals and graphs:
        graph_of = {row["material_id"]: row for row in _of_split(graphs, wanted, tables.GRAPHS)}
        rows = [
            row
            for row in _of_split(crystals, wanted, tables.CRYSTALS)
            if row["n_sites"] <= max_sites and row["material_id"] in graph_of
        ]
        graph_rows = [graph_of[row["material_id"]] for row in rows]
        if not rows:
            raise XtalrlError(
                f"No crystal of the split {wanted!r} in {crystals} has at most {max_sites} sites and a graph: raise `campaign.max_sites`, or "
                "name other skeletons in `campaign.skeletons`."
            )
    else:
        rows, graph_rows, problems = read_skeletons(wanted, max_sites, prefix=f"{OWN}/")
        for problem in problems:
            logger.warning("No skeleton: %s", problem)
    if limit is not None and limit < len(rows):
        places = sorted(np.random.default_rng(seed).choice(len(rows), limit, replace=False).tolist())
        rows, graph_rows = [rows[place] for place in places], [graph_rows[place] for place in places]
    tables.write_rows(rows, tables.CRYSTALS, skeletons)
    tables.write_rows(graph_rows, tables.GRAPHS, skeleton_graphs)
    logger.info("%s skeletons", f"{len(rows):,}")


def _of_split(path: str | Path, split: str, schema: Any) -> list[dict[str, Any]]:
    return [row for row in tables.read_rows(path, schema) if row["split"] == split]
