"""The designs that SCFs are spent on, where that is a sample: those on some skeletons, the same for every policy."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from pathlib import Path
from typing import Any

from xtalrl import tables

logger = logging.getLogger(__name__)


def sample_designs(assessments: str | Path, sample: str | Path, max_sites: int | None, limit: int | None) -> None:
    """Write the rows of `ASSESSMENTS` whose designs are computed, in their order.

    The lot of a skeleton depends on its identifier alone: all policies get the same skeletons, and a larger sample holds a smaller
    one. Crystals of an external set are drawn as skeletons are, each set by itself. An entry that is not a usable crystal has no size
    and stays in the lot, so that a set does not gain by it.

    Args:
        assessments: `ASSESSMENTS` of all designs.
        sample: `ASSESSMENTS` to write.
        max_sites: largest number of sites of a cell; None takes every size.
        limit: largest number of skeletons, and of crystals of each external set; None takes all.

    Raises:
        XtalrlError: the table cannot be read.
    """
    rows = [
        row
        for row in tables.read_rows(assessments, tables.ASSESSMENTS)
        if max_sites is None or row["n_sites"] <= max_sites
    ]
    cells: defaultdict[str | None, set[str]] = defaultdict(set)
    for row in rows:
        cells[_external_set(row)].add(row["material_id"])
    chosen = {of: set(sorted(ids, key=_lot)[:limit]) for of, ids in cells.items()}
    sampled = [row for row in rows if row["material_id"] in chosen[_external_set(row)]]
    tables.write_rows(sampled, tables.ASSESSMENTS, sample)
    for of, ids in chosen.items():
        logger.info("%s: %s of %s drawn", of or "Skeletons", f"{len(ids):,}", f"{len(cells[of]):,}")


def _external_set(row: dict[str, Any]) -> str | None:
    """The set of a crystal that others designed; None where a skeleton was filled."""
    return row["policy"] if row["true_formula"] is None else None


def _lot(material_id: str) -> str:
    return hashlib.sha256(material_id.encode()).hexdigest()
