"""What a campaign's predictor learns from: the run's labels, and every SCF of the rounds before."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.dft.outcomes import Outcome

logger = logging.getLogger(__name__)

NEAR_EV = 1.0
"""Labels whose gap is at most this far (eV) from the wanted range are informative about it."""


def label_designs(evaluation: str | Path, outcomes: str | Path, labels: str | Path) -> None:
    """Write the computed designs of a round as `LABELS`, including failures and metals, with their request_id as material_id.

    A design whose SCF was ended by the machine is left out: that says nothing about the crystal, and nothing is to be learned from it.

    Args:
        evaluation: `EVALUATION` of the round.
        outcomes: `SCF_OUTCOMES` of the same designs.
        labels: table to write.

    Raises:
        XtalrlError: a file cannot be read.
    """
    scfs = {row["request_id"]: row for row in tables.read_rows(outcomes, tables.SCF_OUTCOMES)}
    rows = []
    for design in tables.read_rows(evaluation, tables.EVALUATION):
        scf = scfs[design["request_id"]]
        if not Outcome(scf["outcome"]).is_kept:
            continue
        shared = ("band_gap", "band_gap_raw", "formation_energy_per_atom", "outcome", "detail")
        rows.append(
            {name: design[name] for name in shared}
            | {name: scf[name] for name in ("total_energy_ry", "protocol", "protocol_hash", "family")}
            | {"material_id": design["request_id"], "split": tables.DESIGN_SPLIT, "source": "scf"}
        )
    tables.write_rows(rows, tables.LABELS, labels)


def warn_where_labels_are_far(labels: str | Path, wanted_ev: Sequence[float | None]) -> None:
    """Log a warning where no label lies in or near the wanted range of gaps: then neither policy nor predictor can have learned about it.

    Args:
        labels: `LABELS` of the run.
        wanted_ev: lower and upper end in eV; None means no upper end.
    """
    counts = labels_near(tables.read_rows(labels, tables.LABELS), wanted_ev)
    low, high = wanted_ev
    told = f"{low:g} eV and more" if high is None else f"{low:g} to {high:g} eV"
    if not counts["near"]:
        gaps = f"from {counts['lowest']:.2f} to {counts['highest']:.2f} eV" if counts["known"] else "none"
        logger.warning(
            "No label has a gap within %g eV of the wanted %s: %s labels have a gap, %s. Predictions of such gaps are guesses.",
            NEAR_EV, told, f"{counts['known']:,}", gaps,
        )  # fmt: skip
    else:
        logger.info(
            "%s of %s labels have a gap of %s, %s within %g eV of it",
            f"{counts['inside']:,}", f"{counts['known']:,}", told, f"{counts['near']:,}", NEAR_EV,
        )  # fmt: skip


def labels_near(labels: Sequence[Mapping[str, Any]], wanted_ev: Sequence[float | None]) -> dict[str, Any]:
    """Count the labels in and near the wanted range.

    Returns:
        Number of rows of `LABELS` with a gap (`known`), with a gap in the wanted range (`inside`) and with one at most `NEAR_EV` from it (`near`); the
        `lowest` and `highest` gap in eV (NaN where there is none).
    """
    gaps = [row["band_gap"] for row in labels if row["band_gap"] is not None]
    low = wanted_ev[0] or 0.0
    high = float("inf") if wanted_ev[1] is None else wanted_ev[1]
    return {
        "known": len(gaps),
        "inside": sum(low < gap < high for gap in gaps),
        "near": sum(low - NEAR_EV <= gap <= high + NEAR_EV for gap in gaps),
        "lowest": min(gaps, default=float("nan")),
        "highest": max(gaps, default=float("nan")),
    }
