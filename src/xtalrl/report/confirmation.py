"""The table of hits: how many were confirmed by finer SCFs, how many withdrawn, and how far their gaps moved."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from scipy import stats

from xtalrl import tables
from xtalrl.metrics.confirmation import CONFIRMED, UNANSWERED, WITHDRAWN
from xtalrl.report.contents import content
from xtalrl.report.layout import TextTable, write_table


def make_confirmation_table(
    confirmation: str | Path,
    csv: str | Path,
    markdown: str | Path,
    latex: str | Path,
    targets_ev: Mapping[str, float | None],
    confidence: float,
) -> None:
    """Count the hits of each policy by verdict; of several designs of a skeleton the first counts, as in ν.

    Args:
        confirmation: `CONFIRMATION` table.
        csv: one row per policy with a target: counts, share confirmed of those with an answer (Wilson interval, %), and the mean and
            largest absolute difference of the gaps in eV.
        markdown: the same for people.
        latex: the same for a manuscript.
        targets_ev: target gap of each policy in eV, in the order of the rows; policies without one have no row.
        confidence: level of the interval.

    Raises:
        XtalrlError: the table cannot be read.
    """
    found = [row for row in tables.read_rows(confirmation, tables.CONFIRMATION) if not row["sample"]]
    rows: list[dict[str, object]] = []
    lines = []
    for policy, target in targets_ev.items():
        if target is None:
            continue
        hits = [row for row in found if row["policy"] == policy]
        confirmed, withdrawn, unanswered = (
            sum(row["verdict"] == verdict for row in hits) for verdict in (CONFIRMED, WITHDRAWN, UNANSWERED)
        )
        answered = confirmed + withdrawn
        interval = stats.binomtest(confirmed, answered).proportion_ci(confidence, method="wilson") if answered else None
        shifts = [row["difference"] for row in hits if row["difference"] is not None]
        row = {
            "policy": policy,
            "target_ev": target,
            "hits": len(hits),
            "confirmed": confirmed,
            "withdrawn": withdrawn,
            "unanswered": unanswered,
            "confirmed_pct": 100 * confirmed / answered if answered else None,
            "low": 100 * interval.low if interval else None,
            "high": 100 * interval.high if interval else None,
            "mean_difference_ev": fmean(shifts) if shifts else None,
            "largest_difference_ev": max(map(abs, shifts)) if shifts else None,
            "seeds": len({hit["seed"] for hit in hits}),
            "confidence": confidence,
            "interval": "Wilson score",
        }
        rows.append(row)
        share = f"{row['confirmed_pct']:.1f} ({row['low']:.1f}, {row['high']:.1f})" if interval else "–"
        mean, largest = (
            (f"{row['mean_difference_ev']:+.2f}", f"{row['largest_difference_ev']:.2f}") if shifts else ("–", "–")
        )
        counts = [f"{n:,}" for n in (len(hits), confirmed, withdrawn, unanswered)]
        lines.append([policy, f"{target:g}", *counts, share, mean, largest])
    entry = content("confirmation")
    headings = [
        "Policy", "Target (eV)", "Hits", "Hit confirmed", "Hit withdrawn", "No answer", "Confirmed (%)", "Mean difference (eV)", "Largest (eV)",
    ]  # fmt: skip
    caption = f"{entry.caption} In brackets: {100 * confidence:g} % intervals (Wilson score)."
    write_table(TextTable(entry.title, caption, headings, lines, 2), entry.keys, rows, csv, markdown, latex)
