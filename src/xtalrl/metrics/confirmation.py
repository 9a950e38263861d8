"""Hits and their confirmation: a gap that meets its target is computed again with a finer protocol before it is claimed."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from xtalrl import tables
from xtalrl.errors import XtalrlError
from xtalrl.metrics.properties import in_window

logger = logging.getLogger(__name__)

CONFIRMED = "hit confirmed"
WITHDRAWN = "hit withdrawn"
UNANSWERED = "hit"
"""Verdict on a hit whose finer SCF gave no gap, so that it is neither confirmed nor withdrawn."""
VERDICTS = (CONFIRMED, WITHDRAWN, UNANSWERED)


def find_hits(
    evaluation: str | Path, hits: str | Path, targets_ev: Mapping[str, float | None], window_ev: float
) -> None:
    """Write the `HITS` table: the designs whose gap lies in the desired range of their own policy's target.

    Args:
        evaluation: `EVALUATION` table.
        hits: table to write.
        targets_ev: target gap of each policy in eV; policies without one have no hits.
        window_ev: half width of the desired range in eV.

    Raises:
        XtalrlError: the evaluation cannot be read.
    """
    rows = []
    for row in tables.read_rows(evaluation, tables.EVALUATION):
        target, gap = targets_ev.get(row["policy"]), row["band_gap"]
        if target is None or gap is None or not in_window(gap, target, window_ev):
            continue
        shared = {name: row[name] for name in tables.HITS.names if name in row}
        rows.append(shared | {"target_ev": target, "window_ev": window_ev})
    tables.write_rows(rows, tables.HITS, hits)
    logger.info("%s hits, %s distinct", f"{len(rows):,}", f"{len({row['request_id'] for row in rows}):,}")


def confirm_hits(hits: str | Path, outcomes: str | Path, confirmation: str | Path) -> None:
    """Write the `CONFIRMATION` table: every hit with the gap of the finer SCF and what follows from it.

    Args:
        hits: `HITS` table.
        outcomes: `SCF_OUTCOMES` of the finer SCFs.
        confirmation: table to write.

    Raises:
        XtalrlError: a table cannot be read, or a hit has no outcome.
    """
    ended = {row["request_id"]: row for row in tables.read_rows(outcomes, tables.SCF_OUTCOMES)}
    rows = []
    for hit in tables.read_rows(hits, tables.HITS):
        scf = ended.get(hit["request_id"])
        if scf is None:
            raise XtalrlError(
                f"{outcomes} has no outcome for the hit {hit['request_id']} of {hit['policy']}: the SCFs were planned for other hits. "
                "Run `snakemake confirm -R plan_confirmation_scf`."
            )
        gap = scf["band_gap"]
        verdict = (
            UNANSWERED
            if gap is None
            else CONFIRMED
            if in_window(gap, hit["target_ev"], hit["window_ev"])
            else WITHDRAWN
        )
        rows.append(
            hit
            | {
                "verdict": verdict,
                "confirmed_band_gap": gap,
                "difference": None if gap is None else gap - hit["band_gap"],
                **{name: scf[name] for name in ("outcome", "detail", "protocol", "protocol_hash", "family")},
            }
        )
    tables.write_rows(rows, tables.CONFIRMATION, confirmation)
    counts = Counter(row["verdict"] for row in rows)
    logger.info("%s", ", ".join(f"{counts[verdict]:,} {verdict}" for verdict in VERDICTS))
