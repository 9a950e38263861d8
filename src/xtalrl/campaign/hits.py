"""Gathering the rounds of a campaign, and finding which of their designs are hits."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.campaign.wishes import Wishes

logger = logging.getLogger(__name__)


def gather_rounds(
    evaluations: Sequence[str | Path], outcomes: Sequence[str | Path], evaluation: str | Path, all_outcomes: str | Path
) -> None:
    """Write the `EVALUATION` and the `SCF_OUTCOMES` of all rounds as one table each. An element that several rounds asked for appears once.

    Args:
        evaluations, outcomes: `EVALUATION` and `SCF_OUTCOMES` of each round.
        evaluation, all_outcomes: tables to write.
    """
    tables.write_rows(
        (row for path in evaluations for row in tables.read_rows(path, tables.EVALUATION)),
        tables.EVALUATION,
        evaluation,
    )
    by_request = {row["request_id"]: row for path in outcomes for row in tables.read_rows(path, tables.SCF_OUTCOMES)}
    tables.write_rows(by_request.values(), tables.SCF_OUTCOMES, all_outcomes)


def find_campaign_hits(
    evaluation: str | Path, stability: str | Path, hits: str | Path, wishes: Mapping[str, Any]
) -> None:
    """Write the `HITS` of a campaign: the designs that meet all wishes.

    Args:
        evaluation: `EVALUATION` of all rounds.
        stability: `STABILITY` of the same designs; an energy above the hull with a flag counts as unknown.
        hits: table to write.
        wishes: fields of `Wishes`.

    Raises:
        XtalrlError: a file cannot be read.
    """
    wanted = Wishes(**wishes)
    above = {
        row["request_id"]: row["energy_above_hull"]
        for row in tables.read_rows(stability, tables.STABILITY)
        if not row["flag"]
    }
    rows = []
    for row in tables.read_rows(evaluation, tables.EVALUATION):
        if wanted.are_met(row, above.get(row["request_id"])):
            shared = {name: row[name] for name in tables.HITS.names if name in row}
            rows.append(shared | {"target_ev": wanted.middle_ev, "window_ev": wanted.half_width_ev})
    tables.write_rows(rows, tables.HITS, hits)
    logger.info("%s hits: gaps of %s, and what else was wished for", f"{len(rows):,}", wanted.in_words)
