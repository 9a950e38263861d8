"""Join every design with the DFT properties of its SCF and the true values of its crystal."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any

from xtalrl import tables
from xtalrl.dft.references import reference_rows
from xtalrl.energies import ReferenceTable
from xtalrl.errors import XtalrlError

logger = logging.getLogger(__name__)

INVALID_COMPOSITION = "invalid_composition"
"""Outcome of a design whose composition is invalid, so that no SCF was asked for."""
UNUSABLE_ENTRY = "unusable_entry"
"""Outcome of an entry of an external set that is not a usable crystal. It counts among the designs, so that a set does not gain from it."""
UNKNOWN = "unknown"
"""Outcome of a valid design of a snapshot that no finished policy makes too: no SCF is run for snapshots."""


def evaluate_designs(
    assessments: str | Path,
    outcomes: str | Path,
    references: str | Path | None,
    labels: str | Path | None,
    evaluation: str | Path,
    of_snapshot: bool = False,
) -> None:
    """Write the `EVALUATION` table: one row per row of `ASSESSMENTS`, in the same order.

    Args:
        assessments: `ASSESSMENTS` of all policies.
        outcomes: `SCF_OUTCOMES` of the designs, and of the elements they added to the references (kind `reference`).
        references: `REFERENCES` of the labels; None where `outcomes` holds all that the designs need.
        labels: `LABELS`, for the true gap and formation energy; None leaves them null.
        evaluation: `EVALUATION` table to write.
        of_snapshot: the designs are those of policies in training, for which no SCF was run: a valid design that no
            finished policy makes too is `UNKNOWN`.

    Raises:
        XtalrlError: a file cannot be read, a valid design has no outcome (unless `of_snapshot`), or the protocols of designs and references differ.
    """
    by_request = {row["request_id"]: row for row in tables.read_rows(outcomes, tables.SCF_OUTCOMES)}
    truth = {row["material_id"]: row for row in (tables.read_rows(labels, tables.LABELS) if labels else ())}
    known = tables.read_rows(references, tables.REFERENCES) if references else []
    reference_table = ReferenceTable([*known, *reference_rows(by_request.values())])
    rows = []
    for design in tables.read_rows(assessments, tables.ASSESSMENTS):
        row = design | _properties(design, by_request, reference_table, outcomes, of_snapshot)
        label = truth.get(design["material_id"], {})
        row["true_band_gap"] = label.get("band_gap")
        row["true_formation_energy_per_atom"] = label.get("formation_energy_per_atom")
        rows.append(row)
    tables.write_rows(rows, tables.EVALUATION, evaluation)
    counts = Counter(row["outcome"] for row in rows)
    logger.info(
        "%s designs: %s", f"{len(rows):,}", ", ".join(f"{n:,} {outcome}" for outcome, n in counts.most_common())
    )


def _properties(
    design: dict[str, Any],
    outcomes: dict[str, dict[str, Any]],
    references: ReferenceTable,
    path: str | Path,
    of_snapshot: bool,
) -> dict[str, Any]:
    if not design["species"]:
        return {"outcome": UNUSABLE_ENTRY, "detail": f"its reason is in external/{design['policy']}/rejected.parquet"}
    if design["request_id"] is None:
        return {"outcome": INVALID_COMPOSITION, "detail": f"not neutral by {design['validity_rule']}"}
    scf = outcomes.get(design["request_id"])
    if scf is None and of_snapshot:
        return {"outcome": UNKNOWN, "detail": "no SCF: not a design of a finished policy"}
    if scf is None:
        raise XtalrlError(
            f"{path} has no outcome for the design {design['request_id']} of {design['policy']}: the SCFs were planned "
            "for other designs. Run `snakemake evaluate -R plan_design_scf`."
        )
    energy, why_none = references.formation_energy(scf)
    return {
        "outcome": scf["outcome"],
        "detail": "; ".join(filter(None, (scf["detail"], why_none))),
        "band_gap": scf["band_gap"],
        "band_gap_raw": scf["band_gap_raw"],
        "formation_energy_per_atom": energy,
        "strategy": scf["strategy"],
        "recovered": scf["recovered"],
    }
